//! The thin part: a connection, a clock, a timer. Decides nothing.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::{Pin, pin};
use std::time::Duration;

use plenum_proto::error::CODE_KEY;
use plenum_proto::v1;
use plenum_proto::v1::cell_client::CellClient;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::runtime::{Input, Notice, Output, SchedulerRuntime};
use crate::scheduler::Scheduler;
use crate::settings::{Settings, SettingsError};
use crate::wire::chain;

/// Largest message that is taken. A part of a snapshot or a bundle of deltas stays far below.
const MESSAGE_BYTES_MAX: usize = plenum_proto::bounds::PAGE_BYTES_MAX;

/// Messages that wait to be written. A window of transactions, and some notes.
const SENDS_QUEUED_MAX: usize = 512;

/// How long the cell is given to take the end of a session, when the scheduler ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take from then on to answer the call. One that hangs is left, and called again.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a silent connection is tried, and how long the other side may take to show that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where the cell is, and how to behave towards it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Such as `http://127.0.0.1:7070`.
    pub address: String,
    /// Who the scheduler is, for the cell; on loopback `local` if empty.
    pub principal: String,
    /// Of the runtime.
    pub settings: Settings,
}

impl Options {
    /// A cell at an address, and everything else as usual. The seed is drawn at random, so that a thousand schedulers do not come
    /// back to a restarted cell in the same instant; the one that decided stands in each transaction.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        let seed = RandomState::new().hash_one(std::process::id());
        let settings = Settings { seed, stopwatch: monotonic_micros, ..Settings::default() };
        Self { address: address.into(), principal: String::new(), settings }
    }
}

/// Why a scheduler could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A setting is out of its bounds.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No such address can be.
    #[error("address: expected one like http://127.0.0.1:7070, found {address:?}")]
    Address {
        /// What was there.
        address: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// An address at which no cell can ever be.
    #[error("address: expected one like http://127.0.0.1:7070, found {address:?}: {why}")]
    NoCell {
        /// What was there.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Metadata takes visible ASCII only.
    #[error("principal: expected visible ASCII characters, found {found:?}")]
    Principal {
        /// What was there.
        found: String,
    },
}

/// Runs a scheduler against a cell until `shutdown` is ready. Connects again by itself, for as long as it takes: a cell that
/// is not there yet, or restarts, is no error.
///
/// # Errors
/// Only before it begins: when something in the options can never work.
pub async fn run<S: Scheduler>(
    options: Options,
    scheduler: S,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let endpoint = endpoint(&options.address)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .tcp_nodelay(true);
    let principal = principal(&options.principal)?;
    let name = scheduler.name().to_owned();
    let mut shell = Shell {
        runtime: SchedulerRuntime::new(options.settings, scheduler)?,
        name,
        endpoint,
        principal,
        link: Link::Down { connect_at: Instant::now() },
        wake_at: None,
    };
    shell.handle(Input::Start);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            input = shell.next() => shell.handle(input),
        }
    }
    shell.close().await;
    Ok(())
}

/// An address that a connection can be tried at.
fn endpoint(address: &str) -> Result<Endpoint, RunError> {
    let wrong = |source| RunError::Address { address: address.to_owned(), source };
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(wrong)?;
    let (scheme, port) = (endpoint.uri().scheme_str(), endpoint.uri().port_u16());
    let authority = endpoint.uri().authority().map_or("", |authority| authority.as_str());
    let why = match scheme {
        None => "it has no scheme",
        Some("http") => {
            // What can't be read as a port counts as none, and the connection would go to port 80.
            let names_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
            if port.is_some() || !names_port {
                return Ok(endpoint);
            }
            "its port is not one of 0 to 65535"
        }
        Some(_) => "its scheme is not http",
    };
    Err(RunError::NoCell { address: address.to_owned(), why })
}

fn principal(text: &str) -> Result<Option<MetadataValue<Ascii>>, RunError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| RunError::Principal { found: text.chars().take(80).collect() })
}

/// Microseconds since this process first asked.
fn monotonic_micros() -> i64 {
    static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let elapsed = BEGAN.get_or_init(std::time::Instant::now).elapsed();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

struct Shell<S> {
    runtime: SchedulerRuntime<S>,
    name: String,
    endpoint: Endpoint,
    principal: Option<MetadataValue<Ascii>>,
    link: Link,
    wake_at: Option<Instant>,
}

enum Link {
    Down {
        connect_at: Instant,
    },
    /// The server answers the call only once it has read the greeting; so sending begins before there is anything to receive.
    Calling {
        sends: mpsc::Sender<v1::SessionRequest>,
        call: Call,
    },
    Up {
        sends: mpsc::Sender<v1::SessionRequest>,
        called: Box<Called>,
    },
}

type Call = Pin<Box<dyn Future<Output = Result<Box<Called>, Status>> + Send>>;

struct Called {
    client: CellClient<Channel>,
    receives: Streaming<v1::SessionResponse>,
}

impl<S: Scheduler> Shell<S> {
    /// Waits for what happens next.
    async fn next(&mut self) -> Input {
        let wake_at = self.wake_at;
        let tick = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        match &mut self.link {
            Link::Down { connect_at } => {
                tokio::time::sleep_until(*connect_at).await;
                self.call();
                Input::Connected
            }
            Link::Calling { call, sends } => match call.await {
                Ok(called) => {
                    self.link = Link::Up { sends: sends.clone(), called };
                    Input::Tick
                }
                Err(status) => disconnected(&status),
            },
            Link::Up { called, .. } => tokio::select! {
                message = called.receives.message() => match message {
                    Ok(Some(message)) => Input::Received(message),
                    Ok(None) => gone("the cell ended the stream"),
                    Err(status) => disconnected(&status),
                },
                () = tick => {
                    self.wake_at = None;
                    Input::Tick
                }
            },
        }
    }

    /// Begins to connect. What is sent meanwhile goes out as soon as there is a connection.
    fn call(&mut self) {
        let (sends, queued) = mpsc::channel(SENDS_QUEUED_MAX);
        let (endpoint, principal) = (self.endpoint.clone(), self.principal.clone());
        let call = async move {
            let refused = |error: tonic::transport::Error| Status::unavailable(chain(&error));
            let channel = endpoint.connect().await.map_err(refused)?;
            let mut client = CellClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let request = with_principal(Request::new(ReceiverStream::new(queued)), principal.as_ref());
            let answer = tokio::time::timeout(CALL_TIMEOUT, client.session(request)).await;
            let late = |_| Status::deadline_exceeded(format!("no answer within {} s", CALL_TIMEOUT.as_secs()));
            let receives = answer.map_err(late)??.into_inner();
            Ok(Box::new(Called { client, receives }))
        };
        self.link = Link::Calling { sends, call: Box::pin(call) };
    }

    fn handle(&mut self, input: Input) {
        let mut input = Some(input);
        while let Some(next) = input.take() {
            for output in self.runtime.handle(monotonic_micros(), next) {
                if !self.carry_out(output) {
                    input = Some(gone("too much waits to be sent"));
                }
            }
        }
    }

    /// False when the connection is of no use any more.
    fn carry_out(&mut self, output: Output) -> bool {
        match output {
            Output::Send(request) => {
                let sends = match &self.link {
                    Link::Calling { sends, .. } | Link::Up { sends, .. } => sends,
                    Link::Down { .. } => return true,
                };
                // A closed queue means a broken connection, which is heard of by receiving.
                return !matches!(sends.try_send(request), Err(TrySendError::Full(_)));
            }
            Output::ConnectAfter { micros } => {
                let wait = Duration::from_micros(micros.max(0).unsigned_abs());
                self.link = Link::Down { connect_at: Instant::now() + wait };
            }
            Output::Disconnect => self.link = Link::Down { connect_at: Instant::now() },
            Output::WakeAt { micros } => {
                let wait = micros.saturating_sub(monotonic_micros()).max(0).unsigned_abs();
                self.wake_at = Some(Instant::now() + Duration::from_micros(wait));
            }
            Output::Notice(notice) => self.log(&notice),
        }
        true
    }

    fn log(&self, notice: &Notice) {
        let scheduler = &*self.name;
        match notice {
            Notice::Session { .. } | Notice::Lost { .. } => tracing::info!(scheduler, "{notice}"),
            Notice::Behind { .. } => tracing::error!(scheduler, "{notice}"),
            _ => tracing::warn!(scheduler, "{notice}"),
        }
    }

    /// Ends the session, so that others take over its jobs at once.
    async fn close(self) {
        let close = self.runtime.close();
        let counters = self.runtime.counters();
        tracing::info!(scheduler = &*self.name, ?counters, "ends");
        if let Link::Up { called, .. } = self.link {
            let Called { mut client, receives } = *called;
            drop(receives);
            let request = with_principal(Request::new(close), self.principal.as_ref());
            // Whether it was heard makes no difference here: the cell ends silent sessions by itself.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, client.close(request)).await;
        }
    }
}

fn with_principal<T>(mut request: Request<T>, principal: Option<&MetadataValue<Ascii>>) -> Request<T> {
    if let Some(principal) = principal {
        request.metadata_mut().insert("plenum-principal", principal.clone());
    }
    request
}

fn disconnected(status: &Status) -> Input {
    let code = status.metadata().get(CODE_KEY).and_then(|code| code.to_str().ok()).unwrap_or("").to_owned();
    let reason = format!("{}: {}", status.code(), status.message());
    Input::Disconnected { status: i32::from(status.code()), code, reason }
}

/// A connection that ends without an answer.
fn gone(reason: &str) -> Input {
    Input::Disconnected { status: 0, code: String::new(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    // They were tried for ever, some at port 80.
    #[test]
    fn an_address_at_which_no_cell_can_be_is_told_before_the_scheduler_begins() {
        for good in ["http://127.0.0.1:7070", "http://cell", "http://[::1]", "http://[::1]:7070/"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for (address, why) in [
            ("127.0.0.1:7070", "no scheme"),
            ("https://cell:7070", "scheme is not http"),
            ("http://127.0.0.1:70700", "port is not"),
            ("http://cell:", "port is not"),
            ("a cell", "found \"a cell\""),
        ] {
            let error = endpoint(address).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("expected one like http://"), "{error}");
        }
    }
}
