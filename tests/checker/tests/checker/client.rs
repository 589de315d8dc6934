//! A client of a served cell that logs each call before it is sent and each reply when it is there.

use std::time::Duration;

use plenum_checker::calls::{Asked, Log, Reply};
use plenum_proto::v1;
use plenum_proto::v1::cell_client::CellClient;
use plenum_proto::v1::inspect_client::InspectClient;
use plenum_proto::v1::jobs_client::JobsClient;
use plenum_testkit::JobBuilder;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::traffic::Random;

/// How often the same number is sent while nobody answers.
const ATTEMPTS: usize = 400;
const RETRY: Duration = Duration::from_millis(25);

/// A scheduler that claims at random, and commits until it is answered.
pub(crate) struct Client {
    channel: Channel,
    log: Log,
    name: String,
    session: v1::OpenResponse,
    number: u64,
    random: Random,
    jobs: Vec<u64>,
    machines: Vec<u32>,
    pub(crate) live: Vec<u64>,
    /// Revisions that it saw, to decide on old ones too.
    seen: Vec<u64>,
}

fn reply_of(answer: Result<u64, Status>) -> (Option<u64>, Reply) {
    match answer {
        Ok(revision) => (Some(revision), Reply::Revision(revision)),
        Err(status) => (None, failed(&status)),
    }
}

fn failed(status: &Status) -> Reply {
    let code = status.metadata().get("plenum-code").and_then(|code| code.to_str().ok()).unwrap_or("-");
    Reply::Failed { status: status.code().into(), code: code.to_owned(), message: status.message().to_owned() }
}

impl Client {
    /// Opens a session, and submits two jobs of ten tasks each.
    pub(crate) async fn open(address: &str, name: &str, log: Log, seed: u64) -> Self {
        let channel = Endpoint::from_shared(address.to_owned()).unwrap().connect_lazy();
        let mut cell = CellClient::new(channel.clone());
        let request = v1::OpenRequest { scheduler: name.into(), namespace: "default".into() };
        let session = cell.open(request).await.unwrap().into_inner();
        let random = Random(seed);
        let mut client = Self {
            channel,
            log,
            name: name.into(),
            session,
            number: 0,
            random,
            jobs: Vec::new(),
            machines: Vec::new(),
            live: Vec::new(),
            seen: Vec::new(),
        };
        for (job, cpu_millis) in [500, 1500].into_iter().enumerate() {
            let spec = JobBuilder::new(&format!("{name}-{job}"), name).group("main", 10, cpu_millis).forever().spec();
            client.submit(spec).await;
        }
        client.look().await;
        client
    }

    pub(crate) async fn submit(&mut self, spec: v1::JobSpec) {
        let call = self.log.called(&Asked::Write("submit".into())).unwrap();
        let answer = JobsClient::new(self.channel.clone())
            .submit(v1::SubmitRequest { spec: Some(spec), ..Default::default() })
            .await;
        let answer = answer.map(tonic::Response::into_inner);
        let (_, reply) = reply_of(answer.as_ref().map(|answer| answer.revision).map_err(Clone::clone));
        self.log.replied(&call, &reply).unwrap();
        self.jobs.extend(answer.ok().map(|answer| answer.job));
    }

    /// Learns which machines there are, and the revision.
    pub(crate) async fn look(&mut self) -> Reply {
        let call = self.log.called(&Asked::Read("machines".into())).unwrap();
        let answer = InspectClient::new(self.channel.clone()).list_machines(v1::ListRequest::default()).await;
        let answer = answer.map(tonic::Response::into_inner);
        if let Ok(listed) = &answer {
            let slots = listed.machines.iter().map(|machine| u32::try_from(machine.id & u64::from(u32::MAX)).unwrap());
            self.machines = slots.collect();
        }
        let (revision, reply) = reply_of(answer.map(|answer| answer.revision));
        self.seen.extend(revision);
        self.log.replied(&call, &reply).unwrap();
        reply
    }

    fn transaction(&mut self) -> v1::Transaction {
        let age = self.random.below(self.seen.len().min(6)) + 1;
        let mut placements = Vec::new();
        for _ in 0..1 + self.random.below(2) {
            let job = self.jobs[self.random.below(self.jobs.len())];
            let mut placement = v1::Placement { job, job_version: 1, ..v1::Placement::default() };
            let first = u32::try_from(self.random.below(10)).unwrap();
            for number in 0..1 + u32::try_from(self.random.below(3)).unwrap() {
                placement.machines.push(self.machines[self.random.below(self.machines.len())]);
                placement.tasks.push((first + number) % 10);
            }
            placement.min =
                if self.random.chance(30) { 2.min(u32::try_from(placement.tasks.len()).unwrap()) } else { 0 };
            placements.push(placement);
        }
        let stop = self.random.chance(50).then(|| self.live.pop()).flatten();
        v1::Transaction {
            session: self.session.session,
            number: self.number,
            incarnation: self.session.incarnation,
            base_revision: self.seen[self.seen.len() - age],
            atomic: self.random.chance(20),
            check: v1::ConflictCheck::Fit.into(),
            placements,
            stops: stop.into_iter().collect(),
            ..v1::Transaction::default()
        }
    }

    /// Commits something under the next number, until it is answered; now and then asks for the same once more.
    pub(crate) async fn commit(&mut self) -> Reply {
        self.number += 1;
        let asked = self.transaction();
        for _ in 0..ATTEMPTS {
            let reply = self.send(&asked).await;
            match &reply {
                Reply::Outcome(outcome) => {
                    self.seen.push(outcome.revision);
                    let ids = outcome.placements.iter().flat_map(|one| &one.allocations);
                    self.live.extend(ids.filter(|id| **id > 0));
                    if self.random.chance(10) {
                        self.send(&asked).await;
                    }
                    return reply;
                }
                Reply::Failed { code, .. } if code == "READ_ONLY" => {
                    self.number -= 1;
                    return reply;
                }
                // The server is away, or the outcome is not known: the same number again.
                _ => tokio::time::sleep(RETRY).await,
            }
        }
        panic!("{} was not answered", self.name);
    }

    async fn send(&mut self, asked: &v1::Transaction) -> Reply {
        let call = self.log.called(&Asked::Transaction(Box::new(asked.clone()))).unwrap();
        let reply = match CellClient::new(self.channel.clone()).commit(asked.clone()).await {
            Ok(outcome) => Reply::Outcome(Box::new(outcome.into_inner())),
            Err(status) => failed(&status),
        };
        self.log.replied(&call, &reply).unwrap();
        reply
    }

    /// The newest revision that it was told of.
    pub(crate) fn newest(&self) -> u64 {
        self.seen.iter().copied().max().unwrap_or(0)
    }
}
