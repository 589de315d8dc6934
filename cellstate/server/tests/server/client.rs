//! A client as simple as can be: it keeps a mirror, and asks.

use std::time::Duration;

use plenum_model::Cell;
use plenum_proto::sections::Sections;
use plenum_proto::{delta, pages, v1};
use plenum_server::{Handle, Server, ServerOptions};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use v1::session_request::Ask;
use v1::session_response::Tell;

pub(crate) async fn start(dir: &std::path::Path) -> Handle {
    Server::start(options(dir)).await.unwrap()
}

pub(crate) fn options(dir: &std::path::Path) -> ServerOptions {
    let mut options = ServerOptions::new(dir);
    options.settings.segment_bytes = 1 << 20;
    options.settings.reserve_bytes = Some(0);
    // Nobody renews for most machines here, and none of them is to be lost while a busy computer takes its time.
    options.settings.lease = Duration::from_secs(600);
    options
}

/// A server whose leases are short. What is to be done within one is done before, with [`options`]: whoever holds one has it anew from here.
pub(crate) async fn start_with_leases_of(dir: &std::path::Path, lease: Duration) -> Handle {
    let mut quick = options(dir);
    quick.settings.lease = lease;
    quick.settings.lease_margin = Duration::from_millis(50);
    Server::start(quick).await.unwrap()
}

pub(crate) async fn connect(server: &Handle) -> Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    endpoint.connect().await.unwrap()
}

/// Waits until it is so, which is asked for again and again; `what` is what a test that waits in vain fails with.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let comes = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), comes).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// A session, with the mirror that it keeps.
pub(crate) struct Session {
    pub(crate) asks: mpsc::Sender<v1::SessionRequest>,
    pub(crate) tells: Streaming<v1::SessionResponse>,
    pub(crate) welcome: v1::Welcome,
    pub(crate) cell: Cell,
    decoder: Option<pages::Decoder>,
}

impl Session {
    pub(crate) async fn open(channel: &Channel, scheduler: &str) -> Result<Self, Status> {
        let hello =
            v1::Hello { scheduler: scheduler.to_owned(), namespace: "default".to_owned(), ..Default::default() };
        Self::hello(channel, hello, Cell::default()).await
    }

    pub(crate) async fn hello(channel: &Channel, hello: v1::Hello, cell: Cell) -> Result<Self, Status> {
        let mut session = Self::greeted(channel, hello, cell).await?;
        while session.welcome.snapshot && session.cell.revision().0 < session.welcome.revision {
            session.next().await?;
        }
        Ok(session)
    }

    /// One of the scheduler that the principal `scheduler/NAME` is.
    pub(crate) async fn open_own(channel: &Channel, scheduler: &str) -> Result<Self, Status> {
        let hello =
            v1::Hello { scheduler: scheduler.to_owned(), namespace: "default".to_owned(), ..Default::default() };
        Self::greeted_as(&format!("scheduler/{scheduler}"), channel, hello, Cell::default()).await
    }

    /// One that has read the welcome, and nothing else.
    pub(crate) async fn greeted(channel: &Channel, hello: v1::Hello, cell: Cell) -> Result<Self, Status> {
        Self::greeted_as("local", channel, hello, cell).await
    }

    pub(crate) async fn greeted_as(
        principal: &str,
        channel: &Channel,
        hello: v1::Hello,
        cell: Cell,
    ) -> Result<Self, Status> {
        let mut client = v1::cell_client::CellClient::new(channel.clone());
        let (asks, asked) = mpsc::channel(64);
        asks.send(v1::SessionRequest { ask: Some(Ask::Hello(hello)) }).await.unwrap();
        let mut tells = client.session(as_principal(principal, ReceiverStream::new(asked))).await?.into_inner();
        let Some(v1::SessionResponse { tell: Some(Tell::Welcome(welcome)) }) = tells.message().await? else {
            panic!("a welcome comes first");
        };
        Ok(Self { asks, tells, welcome, cell, decoder: None })
    }

    /// Takes the next message into the mirror; gives back what is not for it.
    pub(crate) async fn next(&mut self) -> Result<Option<Tell>, Status> {
        let message = self.tells.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))?;
        match message.tell.unwrap() {
            Tell::Snapshot(part) => {
                let decoder = self.decoder.get_or_insert_with(|| pages::Decoder::new(Sections::MIRROR));
                for page in part.pages {
                    decoder.add(page).unwrap();
                }
                if part.last {
                    self.cell = self.decoder.take().unwrap().finish().unwrap();
                    assert_eq!(self.cell.revision().0, part.revision);
                }
                Ok(None)
            }
            Tell::Deltas(deltas) => {
                for encoded in deltas.deltas {
                    self.cell.apply(&delta::decode(encoded).unwrap()).unwrap();
                }
                Ok(None)
            }
            Tell::Welcome(welcome) => {
                // It was behind, and begins anew.
                (self.welcome, self.decoder) = (welcome, None);
                Ok(None)
            }
            other => Ok(Some(other)),
        }
    }

    pub(crate) fn transaction(&self, number: u64, placements: Vec<v1::Placement>) -> v1::Transaction {
        v1::Transaction {
            session: self.welcome.session,
            number,
            incarnation: self.welcome.incarnation,
            base_revision: self.cell.revision().0,
            check: v1::ConflictCheck::Fit.into(),
            placements,
            ..Default::default()
        }
    }

    pub(crate) async fn commit(&mut self, transaction: v1::Transaction) -> Result<v1::Outcome, v1::RequestError> {
        self.asks.send(v1::SessionRequest { ask: Some(Ask::Commit(transaction)) }).await.unwrap();
        loop {
            match self.next().await.unwrap() {
                Some(Tell::Outcome(outcome)) => {
                    assert!(self.cell.revision().0 >= outcome.revision, "the deltas up to an outcome precede it");
                    return Ok(outcome);
                }
                Some(Tell::Error(error)) => return Err(error),
                _ => {}
            }
        }
    }

    /// Folds until the mirror has a revision.
    pub(crate) async fn reach(&mut self, revision: u64) {
        while self.cell.revision().0 < revision {
            self.next().await.unwrap();
        }
    }
}

pub(crate) async fn register(channel: &Channel, name: &str, cpu_millis: i64) -> v1::RegisterResponse {
    let machine = v1::RegisterMachine {
        name: name.to_owned(),
        boot_id: "boot-1".to_owned(),
        capacity: Some(v1::Resources { cpu_millis, memory_bytes: 1 << 40, ..Default::default() }),
        ..Default::default()
    };
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let request = v1::RegisterRequest { machine: Some(machine), ..Default::default() };
    agents.register(request).await.unwrap().into_inner()
}

pub(crate) fn job(name: &str, count: u32) -> v1::JobSpec {
    let group = v1::GroupShape {
        name: "work".to_owned(),
        count,
        resources: Some(v1::Resources { cpu_millis: 1000, memory_bytes: 1 << 20, ..Default::default() }),
        lost_after_micros: 60_000_000,
        retry: Some(v1::RetryPolicy { attempts: 3, delay_micros: 0 }),
        ..Default::default()
    };
    let body = v1::GroupBody {
        name: "work".to_owned(),
        driver: "exec".to_owned(),
        command: vec!["/bin/true".to_owned()],
        kill_timeout_micros: 1_000_000,
        ..Default::default()
    };
    let shape = v1::JobShape {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        scheduler: "batch".to_owned(),
        priority: 50,
        kind: v1::JobKind::ToCompletion.into(),
        groups: vec![group],
        ..Default::default()
    };
    v1::JobSpec { shape: Some(shape), body: Some(v1::JobBody { groups: vec![body] }) }
}

pub(crate) async fn submit(channel: &Channel, spec: v1::JobSpec) -> v1::SubmitResponse {
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    jobs.submit(v1::SubmitRequest { spec: Some(spec), ..Default::default() }).await.unwrap().into_inner()
}

pub(crate) fn placement(job: u64, machines: Vec<u32>, tasks: Vec<u32>) -> v1::Placement {
    v1::Placement { job, group: 0, job_version: 1, machines, tasks, ..Default::default() }
}

/// A request as the operator `op` would send it, or whoever is named.
pub(crate) fn as_principal<T>(principal: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("plenum-principal", principal.parse().unwrap());
    request
}

/// The stable code of a failed call.
pub(crate) fn code(status: &Status) -> String {
    status.metadata().get("plenum-code").map(|code| code.to_str().unwrap().to_owned()).unwrap_or_default()
}
