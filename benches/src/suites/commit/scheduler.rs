//! A scheduler of the load: a session's stream, transactions of claims and stops at random, a bounded number of them under way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use plenum_model::Cell;
use plenum_proto::sections::Sections;
use plenum_proto::v1::session_request::Ask;
use plenum_proto::v1::session_response::Tell;
use plenum_proto::{delta, pages, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::agents::Stopped;
use super::cell::{client, connect, submit};
use crate::random::Random;

/// Live tasks of one job.
const JOB_TASKS: u32 = 1000;
/// Longest commit that is told apart, in microseconds.
const LATENCY_MICROS_MAX: u64 = 60_000_000;

/// What all schedulers of a load share.
pub(super) struct Load {
    claims: u32,
    in_flight: usize,
    /// Live allocations of one scheduler.
    live: u32,
    stop: AtomicBool,
    granted: AtomicU64,
    refused: AtomicU64,
    stopped: AtomicU64,
    transactions: AtomicU64,
    latency_micros: Mutex<Histogram<u64>>,
    failure: Mutex<Option<String>>,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    pub(super) granted: u64,
    pub(super) refused: u64,
    pub(super) stopped: u64,
    pub(super) transactions: u64,
}

impl Load {
    pub(super) fn new(claims: u32, in_flight: u32, live: u32) -> Self {
        Self {
            claims,
            in_flight: in_flight as usize,
            live,
            stop: AtomicBool::new(false),
            granted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            stopped: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            latency_micros: Mutex::new(histogram()),
            failure: Mutex::new(None),
        }
    }

    /// Lets schedulers end when what they have under way is answered.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(super) fn counters(&self) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            granted: of(&self.granted),
            refused: of(&self.refused),
            stopped: of(&self.stopped),
            transactions: of(&self.transactions),
        }
    }

    /// How long commits took since this was asked last, in microseconds.
    pub(super) fn take_latencies(&self) -> Histogram<u64> {
        std::mem::replace(&mut *self.latency_micros.lock().expect("nobody panics while holding it"), histogram())
    }

    /// Why a scheduler ended before its time.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().expect("nobody panics while holding it").clone()
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("the bounds are in order")
}

#[derive(Clone, Copy)]
struct Live {
    id: u64,
    machine: u32,
    job: usize,
    task: u32,
}

/// A transaction under way.
struct Sent {
    number: u64,
    at: Instant,
    /// By placement: the job's position, machines and tasks.
    placements: Vec<(usize, Vec<u32>, Vec<u32>)>,
    stops: Vec<Live>,
}

/// One scheduler.
pub(super) struct Scheduler {
    load: Arc<Load>,
    stopped: Arc<Stopped>,
    sends: mpsc::Sender<v1::SessionRequest>,
    receives: Streaming<v1::SessionResponse>,
    mirror: Option<Mirror>,
    random: Random,
    session: u64,
    incarnation: u64,
    /// The newest revision that was seen: the base of what is decided.
    revision: u64,
    number: u64,
    jobs: Vec<u64>,
    /// By job, tasks that wait.
    waiting: Vec<Vec<u32>>,
    next_job: usize,
    live: Vec<Live>,
    in_flight: VecDeque<Sent>,
    claims_in_flight: usize,
}

/// What a scheduler knows at its end.
pub(super) struct Ended {
    /// Ids of what was granted to it and not stopped.
    pub(super) live: Vec<u64>,
    /// The newest revision that was acknowledged.
    pub(super) revision: u64,
}

impl Scheduler {
    /// Submits its jobs and opens its session.
    pub(super) async fn open(
        address: &str,
        number: u32,
        mirror: bool,
        seed: u64,
        load: &Arc<Load>,
        stopped: Arc<Stopped>,
    ) -> anyhow::Result<Self> {
        let name = format!("load-{number}");
        let channel = connect(address).await?;
        // Tasks of transactions under way are neither live nor waiting; and each job has some to spare.
        let spare = 2 * load.claims * u32::try_from(load.in_flight)?;
        let count = load.live.div_ceil(JOB_TASKS);
        let tasks = JOB_TASKS + JOB_TASKS / 5 + spare.div_ceil(count);
        let mut jobs = Vec::new();
        for job in 0..count {
            jobs.push(submit(channel.clone(), format!("{name}-{job}"), name.clone(), tasks).await?);
        }
        let (sends, queued) = mpsc::channel(load.in_flight + 1);
        // Without a mirror only what is nearly empty: a delta then says its revision.
        let sections = if mirror { Vec::new() } else { vec![v1::Section::Quotas.into()] };
        let hello = v1::Hello { scheduler: name, namespace: "default".to_owned(), sections, ..v1::Hello::default() };
        sends.send(v1::SessionRequest { ask: Some(Ask::Hello(hello)) }).await?;
        let receives = client(channel).session(ReceiverStream::new(queued)).await?.into_inner();
        Ok(Self {
            load: load.clone(),
            stopped,
            sends,
            receives,
            mirror: mirror.then(Mirror::default),
            random: Random::new(seed),
            session: 0,
            incarnation: 0,
            revision: 0,
            number: 0,
            waiting: vec![(0..tasks).rev().collect(); jobs.len()],
            jobs,
            next_job: 0,
            live: Vec::new(),
            in_flight: VecDeque::new(),
            claims_in_flight: 0,
        })
    }

    /// Loads the cell until it is told to stop.
    pub(super) async fn run(mut self) -> anyhow::Result<Ended> {
        let result = self.follow().await;
        if let Err(error) = &result {
            let mut failure = self.load.failure.lock().expect("nobody panics while holding it");
            failure.get_or_insert_with(|| format!("{error:#}"));
        }
        result?;
        let live = self.live.iter().map(|live| live.id).collect();
        Ok(Ended { live, revision: self.revision })
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        loop {
            let stops = self.load.stop.load(Ordering::Acquire);
            let ready = self.session > 0 && self.mirror.as_ref().is_none_or(|mirror| mirror.cell.is_some());
            while ready && !stops && self.in_flight.len() < self.load.in_flight {
                let transaction = self.transaction();
                let request = v1::SessionRequest { ask: Some(Ask::Commit(transaction)) };
                self.sends.send(request).await.context("the stream takes nothing any more")?;
            }
            if stops && self.in_flight.is_empty() {
                return Ok(());
            }
            let message = self.receives.message().await?.context("the server ended the stream")?;
            match message.tell.context("a message that says nothing")? {
                Tell::Welcome(welcome) => self.welcome(&welcome)?,
                Tell::Outcome(outcome) => self.outcome(&outcome)?,
                Tell::Error(error) => bail!("transaction {}: {} {}", error.number, error.code, error.message),
                Tell::Snapshot(part) => self.mirror.as_mut().map_or(Ok(()), |mirror| mirror.fill(part))?,
                Tell::Deltas(deltas) => self.mirror.as_mut().map_or(Ok(()), |mirror| mirror.fold(deltas))?,
                Tell::Heartbeat(_) => {}
            }
        }
    }

    fn welcome(&mut self, welcome: &v1::Welcome) -> anyhow::Result<()> {
        ensure!(self.session == 0 || self.session == welcome.session, "the stream began another session");
        (self.session, self.incarnation) = (welcome.session, welcome.incarnation);
        self.revision = self.revision.max(welcome.revision);
        if let Some(mirror) = &mut self.mirror {
            *mirror = Mirror::default();
        }
        Ok(())
    }

    /// Claims for tasks that wait, and as many stops of live allocations picked at random as keep their number.
    fn transaction(&mut self) -> v1::Transaction {
        let claims = self.load.claims as usize;
        let aim = self.load.live as usize + claims * self.load.in_flight;
        let stops =
            (self.live.len() + self.claims_in_flight + claims).saturating_sub(aim).min(claims).min(self.live.len());
        let mut placements = Vec::new();
        let mut left = claims;
        while left > 0 {
            self.next_job = (self.next_job + 1) % self.jobs.len();
            let waiting = &mut self.waiting[self.next_job];
            let mut tasks = waiting.split_off(waiting.len() - left.min(waiting.len()));
            if tasks.is_empty() {
                continue;
            }
            tasks.sort_unstable();
            left -= tasks.len();
            let machines = tasks.iter().map(|_| self.random.below(self.stopped.machines()));
            let machines: Vec<u32> = machines.collect();
            placements.push((self.next_job, machines, tasks));
        }
        let victims = (0..stops).map(|_| {
            let victim = self.random.below(u32::try_from(self.live.len()).expect("rows have 32 bits"));
            self.live.swap_remove(victim as usize)
        });
        let victims: Vec<Live> = victims.collect();
        self.number += 1;
        let transaction = v1::Transaction {
            session: self.session,
            number: self.number,
            incarnation: self.incarnation,
            base_revision: self.revision,
            check: v1::ConflictCheck::Fit.into(),
            placements: placements.iter().map(|(job, machines, tasks)| self.placement(*job, machines, tasks)).collect(),
            stops: victims.iter().map(|victim| victim.id).collect(),
            decision: Some(v1::DecisionMetadata { attempt: 1, policy: "random".to_owned(), ..Default::default() }),
            ..v1::Transaction::default()
        };
        self.claims_in_flight += claims;
        self.in_flight.push_back(Sent { number: self.number, at: Instant::now(), placements, stops: victims });
        transaction
    }

    fn placement(&self, job: usize, machines: &[u32], tasks: &[u32]) -> v1::Placement {
        v1::Placement {
            job: self.jobs[job],
            job_version: 1,
            machines: machines.to_vec(),
            tasks: tasks.to_vec(),
            ..v1::Placement::default()
        }
    }

    fn outcome(&mut self, outcome: &v1::Outcome) -> anyhow::Result<()> {
        let sent = self.in_flight.pop_front().context("an outcome that nobody asked for")?;
        ensure!(
            sent.number == outcome.number,
            "expected the outcome of {}, found that of {}",
            sent.number,
            outcome.number
        );
        ensure!(outcome.idle_stops.is_empty(), "stops of live allocations found none: {:?}", outcome.idle_stops);
        ensure!(outcome.outcome() != v1::TransactionOutcome::Refused, "refused: {:?}", outcome.refusals.first());
        if let Some(mirror) = &self.mirror {
            // What an outcome speaks of is in the mirror when it comes.
            ensure!(mirror.revision() >= outcome.revision, "an outcome came before the deltas up to its revision");
        }
        self.revision = self.revision.max(outcome.revision);
        self.claims_in_flight -= self.load.claims as usize;
        let (mut granted, mut refused) = (0, 0);
        ensure!(outcome.placements.len() == sent.placements.len(), "a placement was not answered");
        for ((job, machines, tasks), answer) in sent.placements.into_iter().zip(&outcome.placements) {
            ensure!(answer.allocations.len() == tasks.len(), "a claim was not answered");
            for ((machine, task), id) in machines.into_iter().zip(tasks).zip(&answer.allocations) {
                if *id > 0 {
                    granted += 1;
                    self.live.push(Live { id: *id, machine, job, task });
                } else {
                    refused += 1;
                    self.waiting[job].push(task);
                }
            }
        }
        // A task may be placed again as soon as its allocation is leaving; its room comes back with the receipt.
        self.stopped.add(sent.stops.iter().map(|stopped| (stopped.id, stopped.machine)));
        for stopped in &sent.stops {
            self.waiting[stopped.job].push(stopped.task);
        }
        let micros = u64::try_from(sent.at.elapsed().as_micros())?.clamp(1, LATENCY_MICROS_MAX);
        self.load.granted.fetch_add(granted, Ordering::Relaxed);
        self.load.refused.fetch_add(refused, Ordering::Relaxed);
        self.load.stopped.fetch_add(sent.stops.len() as u64, Ordering::Relaxed);
        self.load.transactions.fetch_add(1, Ordering::Relaxed);
        self.load.latency_micros.lock().expect("nobody panics while holding it").record(micros)?;
        Ok(())
    }
}

/// A scheduler's copy of the cell state.
struct Mirror {
    filling: Option<pages::Decoder>,
    cell: Option<Cell>,
}

impl Default for Mirror {
    fn default() -> Self {
        Self { filling: Some(pages::Decoder::new(Sections::MIRROR)), cell: None }
    }
}

impl Mirror {
    fn revision(&self) -> u64 {
        self.cell.as_ref().map_or(0, |cell| cell.revision().0)
    }

    fn fill(&mut self, part: v1::SnapshotPart) -> anyhow::Result<()> {
        let filling = self.filling.as_mut().context("a page of a snapshot that was not announced")?;
        for page in part.pages {
            filling.add(page)?;
        }
        if part.last {
            self.cell = self.filling.take().map(pages::Decoder::finish).transpose()?;
        }
        Ok(())
    }

    fn fold(&mut self, deltas: v1::Deltas) -> anyhow::Result<()> {
        let cell = self.cell.as_mut().context("deltas before the snapshot")?;
        for bytes in deltas.deltas {
            let delta = delta::decode(bytes).context("a delta")?;
            cell.apply(&delta).map_err(|error| anyhow::anyhow!("a delta does not fit the mirror: {error}"))?;
        }
        Ok(())
    }
}
