//! The thin part: a connection, a clock, a timer. Decides nothing. It knows no scheduler, so that all which serves a connection is compiled once, and not
//! for each of them.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use plenum_proto::error::{code_of, innermost, is_unanswered, no_cell, retry_micros_of, words};
use plenum_proto::v1;
use plenum_proto::v1::cell_client::CellClient;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::address::{self, CALL_TIMEOUT, CELL_KEY, with_principal};
use crate::repeats::Repeats;
use crate::runtime::{HoldAnswer, Input, Output};

/// Largest message that is taken. A part of a snapshot or a bundle of deltas stays far below.
const MESSAGE_BYTES_MAX: usize = plenum_proto::bounds::PAGE_BYTES_MAX;

/// Messages that wait to be written. A window of transactions, and some notes.
const SENDS_QUEUED_MAX: usize = 512;

/// How long it may take until a request to hold room is answered. Then nobody knows what became of it, and it is made again.
const HOLD_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers to such requests that wait to be read. Far more than are under way at once.
const ANSWERS_QUEUED_MAX: usize = 64;

/// How long the cell is given to take the end of a session, when the scheduler ends; and for being reached, where there is no connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Microseconds since this process first asked.
pub(crate) fn monotonic_micros() -> i64 {
    static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let elapsed = BEGAN.get_or_init(std::time::Instant::now).elapsed();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

/// What is waited for, with its type left out: an `async fn` would be compiled once more in each crate that waits for it.
type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// To the cell.
pub(crate) struct Line {
    /// The scheduler's.
    name: String,
    endpoint: Endpoint,
    principal: Option<MetadataValue<Ascii>>,
    link: Link,
    /// What comes of requests to hold room, which are made beside the stream.
    held: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    wake_at: Option<Instant>,
    repeats: Repeats,
}

enum Link {
    Down {
        connect_at: Instant,
    },
    /// What is sent meanwhile goes out with the call: the greeting need not wait for its answer.
    Calling {
        sends: mpsc::Sender<v1::SessionRequest>,
        call: Call,
    },
    Up {
        sends: mpsc::Sender<v1::SessionRequest>,
        called: Box<Called>,
    },
}

type Call = Waiting<'static, Result<Box<Called>, Status>>;

struct Called {
    client: CellClient<Channel>,
    receives: Streaming<v1::SessionResponse>,
}

impl Line {
    pub(crate) fn new(name: String, endpoint: Endpoint, principal: Option<MetadataValue<Ascii>>) -> Self {
        Self {
            name,
            endpoint,
            principal,
            link: Link::Down { connect_at: Instant::now() },
            held: mpsc::channel(ANSWERS_QUEUED_MAX),
            wake_at: None,
            repeats: Repeats::default(),
        }
    }

    /// The scheduler's.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    #[cfg(test)]
    pub(crate) fn calls(&self) -> bool {
        matches!(self.link, Link::Calling { .. })
    }

    /// Waits for what happens next.
    pub(crate) fn next(&mut self) -> Waiting<'_, Input> {
        Box::pin(self.wait())
    }

    async fn wait(&mut self) -> Input {
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
                    Ok(None) => gone("its stream ended without a word"),
                    Err(status) => disconnected(&status),
                },
                // This end has a sender, too: there is always another one to wait for.
                Some(held) = self.held.1.recv() => held,
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
            let address = endpoint.uri().to_string();
            let refused = |error: tonic::transport::Error| {
                Status::unavailable(format!("nobody answers at {address}: {}", innermost(&error)))
            };
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

    /// False when the connection is of no use any more, and ended: nothing goes out over it from then on. There could be room again for what is
    /// next, and once that is decided the transaction before it, which was left out, is never executed. The runtime sends all of them again, in their
    /// order, over the next connection.
    /// `cell_id` is of the cell that the runtime means.
    pub(crate) fn carry_out(&mut self, output: Output, cell_id: &[u8]) -> bool {
        match output {
            Output::Send(request) => {
                let sends = match &self.link {
                    Link::Calling { sends, .. } | Link::Up { sends, .. } => sends,
                    Link::Down { .. } => return true,
                };
                // A closed queue means a broken connection, which is heard of by receiving.
                if matches!(sends.try_send(request), Err(TrySendError::Full(_))) {
                    self.link = Link::Down { connect_at: Instant::now() };
                    return false;
                }
            }
            Output::ConnectAfter { micros } => {
                let wait = Duration::from_micros(micros.max(0).unsigned_abs());
                self.link = Link::Down { connect_at: Instant::now() + wait };
            }
            Output::Disconnect => self.link = Link::Down { connect_at: Instant::now() },
            Output::Close(request) => self.end_session(request, cell_id),
            Output::Hold { number, request } => self.ask_for_hold(number, request, cell_id),
            Output::WakeAt { micros } => {
                let wait = micros.saturating_sub(monotonic_micros()).max(0).unsigned_abs();
                self.wake_at = Some(Instant::now() + Duration::from_micros(wait));
            }
            Output::Notice(notice) => self.repeats.tell(Some(&self.name), &notice),
        }
        true
    }

    /// Ends a session from which the runtime goes on to another one. Unheard, it would be a silent one that the cell ends by itself.
    fn end_session(&self, request: v1::CloseRequest, cell_id: &[u8]) {
        let Link::Up { called, .. } = &self.link else { return };
        let mut client = called.client.clone();
        let request = self.to_this_cell(request, cell_id);
        tokio::spawn(async move { drop(tokio::time::timeout(CLOSE_TIMEOUT, client.close(request)).await) });
    }

    /// Asks for a hold beside the stream, and has what comes of it read in its turn. Of a request over a connection that is gone nobody waits for the answer.
    fn ask_for_hold(&self, number: u64, request: v1::TakeHoldRequest, cell_id: &[u8]) {
        let Link::Up { called, .. } = &self.link else { return };
        let (mut client, answers) = (called.client.clone(), self.held.0.clone());
        let request = self.to_this_cell(request, cell_id);
        tokio::spawn(async move {
            let answer = match tokio::time::timeout(HOLD_TIMEOUT, client.take_hold(request)).await {
                Ok(answer) => hold_answer(answer),
                Err(_) => HoldAnswer::Unanswered,
            };
            drop(answers.send(Input::Held { number, answer }).await);
        });
    }

    /// A request that no other cell executes, be it the one that answers at the address by now: there, a session of this number is somebody else's.
    fn to_this_cell<T>(&self, request: T, cell_id: &[u8]) -> Request<T> {
        let mut request = with_principal(Request::new(request), self.principal.as_ref());
        // Before it has seen a cell, any is meant.
        if let Some(cell) = address::cell(cell_id) {
            request.metadata_mut().insert(CELL_KEY, cell);
        }
        request
    }

    /// Ends the session, so that others take over its jobs at once. Also one whose connection broke: a server that is started anew with its schedulers is there
    /// again by now, or not.
    pub(crate) fn close(self, request: v1::CloseRequest, cell_id: &[u8]) -> Waiting<'static, ()> {
        let request = self.to_this_cell(request, cell_id);
        Box::pin(self.close_with(request))
    }

    async fn close_with(self, request: Request<v1::CloseRequest>) {
        if request.get_ref().session == 0 {
            return;
        }
        let Self { link, endpoint, .. } = self;
        let client = match link {
            // Its stream ends here.
            Link::Up { called, .. } => Some(called.client),
            _ => None,
        };
        let closing = async {
            let mut client = match client {
                Some(client) => client,
                None => CellClient::new(endpoint.connect().await.ok()?),
            };
            client.close(request).await.ok()
        };
        // Whether it was heard makes no difference here: the cell ends silent sessions by itself.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }
}

fn hold_answer(answer: Result<tonic::Response<v1::TakeHoldResponse>, Status>) -> HoldAnswer {
    match answer {
        Ok(response) => HoldAnswer::Executed { revision: response.into_inner().revision },
        Err(status) if is_unanswered(&status) => HoldAnswer::Unanswered,
        Err(status) => {
            HoldAnswer::Refused { code: code_of(&status).to_owned(), retry_micros: retry_micros_of(&status) }
        }
    }
}

fn disconnected(status: &Status) -> Input {
    // What another program answers is no word of the cell's about the session.
    if let Some(reason) = no_cell(status) {
        return Input::Disconnected {
            status: i32::from(Code::Unavailable),
            code: String::new(),
            reason,
            retry_micros: 0,
        };
    }
    let code = code_of(status).to_owned();
    let reason = match status.code() {
        // What the transport makes of a connection that broke, and the word for one that there is not, say no more.
        _ if status.source().is_some() => words(status),
        Code::Unavailable => words(status),
        _ if !code.is_empty() => format!("{code}: {}", status.message()),
        unnamed => format!("{unnamed}: {}", status.message()),
    };
    Input::Disconnected { status: i32::from(status.code()), code, reason, retry_micros: retry_micros_of(status) }
}

/// A connection that ends without an answer.
pub(crate) fn gone(reason: &str) -> Input {
    Input::Disconnected { status: 0, code: String::new(), reason: reason.to_owned(), retry_micros: 0 }
}

#[cfg(test)]
mod tests {
    use plenum_proto::error::{CODE_KEY, RETRY_KEY};
    use plenum_proto::v1::session_request::Ask;

    use super::*;

    fn commit(number: u64) -> Output {
        let transaction = v1::Transaction { number, ..v1::Transaction::default() };
        Output::Send(v1::SessionRequest { ask: Some(Ask::Commit(transaction)) })
    }

    /// The writer took some of the queue meanwhile, and the next transaction went out without the one before it, which the cell then never executed.
    #[test]
    fn nothing_goes_out_behind_what_there_was_no_room_for() {
        let (sends, mut queued) = mpsc::channel(1);
        let endpoint = address::endpoint("http://127.0.0.1:7070").unwrap();
        let link = Link::Calling { sends, call: Box::pin(std::future::pending()) };
        let mut line = Line { link, ..Line::new("idle".into(), endpoint, None) };
        assert!(line.carry_out(commit(1), &[]));
        assert!(!line.carry_out(commit(2), &[]), "the queue is full");
        assert!(queued.try_recv().is_ok(), "and then it is not");
        line.carry_out(commit(3), &[]);
        assert!(queued.try_recv().is_err());
    }

    /// Read as the cell's, a web server's 403 ended the session and all that was in flight.
    #[test]
    fn what_is_no_cell_does_not_end_a_session() {
        let web = Status::permission_denied("grpc-status header missing, mapped from HTTP status code 403");
        let Input::Disconnected { status, reason, .. } = disconnected(&web) else { panic!("it is no connection") };
        assert_eq!(status, i32::from(Code::Unavailable), "{reason}");
        assert!(reason.starts_with("what answers at the address is no Plenum cell: "), "{reason}");
    }

    /// Of a stream that the server ended it was not read: who came too soon was told so twenty times a second.
    #[test]
    fn when_to_try_again_is_heard_of_a_stream_that_the_server_ended() {
        let mut full = Status::resource_exhausted("all that is arriving takes too much room");
        full.metadata_mut().insert(CODE_KEY, "QUEUE_FULL".parse().unwrap());
        full.metadata_mut().insert(RETRY_KEY, "100000".parse().unwrap());
        let Input::Disconnected { code, retry_micros, .. } = disconnected(&full) else { panic!("it is no connection") };
        assert_eq!((code.as_str(), retry_micros), ("QUEUE_FULL", 100_000));
    }
}
