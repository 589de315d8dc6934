//! How long a command waits for one answer: a server that is stopped, or stuck, still takes connections and says nothing.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use http_body::{Frame, SizeHint};
use plenum_proto::error::{OUTCOME_UNKNOWN, innermost, is_no_http2, with_code};
use tonic::{
    Code, ConnectError, Status,
    body::Body,
    client::GrpcService,
    codegen::{Bytes, StdError, http},
    transport::Channel,
};

use crate::output;

/// After so long without an answer people are told what is waited for.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// After so long no answer is expected any more. The largest listings take seconds.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(60);

/// Calls whose answers come for as long as somebody reads: they may begin as late as they like.
const STREAMS: [&str; 4] = ["/Logs", "/Backup", "/Session", "/Watch"];

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The answer to a question, which can be asked again.
    Answer,
    /// That of a change: who gives it up does not know whether it was made.
    Change,
    /// What comes next of a log, from its agent, by way of the server.
    Log,
    /// What comes next of a backup.
    Backup,
}

impl Awaited {
    /// Of a call of the protocol. One that is not known to ask only is taken for a change.
    fn of(path: &str) -> Self {
        let call = path.rsplit('/').next().unwrap_or_default();
        let only_asks = ["Get", "List"].iter().any(|begin| call.starts_with(begin))
            || call.ends_with("History")
            || matches!(call, "Status" | "Moment");
        if only_asks { Self::Answer } else { Self::Change }
    }
}

/// What a command expects of a server.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    pub(super) address: String,
    pub(super) told_after: Duration,
    pub(super) given_up_after: Duration,
    /// Which flag says so.
    pub(super) flag: &'static str,
    /// Once is enough, however often the command asks.
    pub(super) told: Arc<AtomicBool>,
}

impl Patience {
    /// An answer is given up after `request_timeout`, or after as long as usual; or as late as the whole command shall end, if that is sooner. Not before
    /// people are told for all that: an answer that takes seconds is an answer.
    pub(super) fn with(address: &str, request_timeout: Option<Duration>, timeout: Option<Duration>) -> Self {
        let one = request_timeout.unwrap_or(GIVEN_UP_AFTER);
        let all = timeout.map(|all| all.max(TOLD_AFTER)).filter(|all| *all < one);
        let (given_up_after, flag) = all.map_or((one, "--request-timeout"), |all| (all, "--timeout"));
        Self { address: address.to_owned(), told_after: TOLD_AFTER, given_up_after, flag, told: Arc::default() }
    }

    fn tell(&self, awaited: Awaited) {
        if self.told.swap(true, Ordering::Relaxed) {
            return;
        }
        let address = &self.address;
        output::tell(&match awaited {
            Awaited::Answer | Awaited::Change => {
                format!("the server at {address} accepts connections and does not answer; still waiting")
            }
            Awaited::Log => format!(
                "nothing of the log comes yet: the machine's agent, or the server at {address}, does not answer; still waiting"
            ),
            Awaited::Backup => format!("nothing of the backup comes from {address}; still waiting"),
        });
    }

    fn given_up(&self, awaited: Awaited) -> Status {
        let (address, limit, flag) = (&self.address, output::span_of(self.given_up_after), self.flag);
        let silent =
            format!("the server at {address} accepts connections and has not answered within {limit} ({flag})");
        match awaited {
            Awaited::Answer => Status::unavailable(silent),
            Awaited::Change => {
                let what = format!("{silent}; what was asked for may have been done, or be done yet");
                with_code(Code::DeadlineExceeded, OUTCOME_UNKNOWN, what)
            }
            Awaited::Log => Status::unavailable(format!(
                "nothing more of the log has come from the machine's agent by way of {address} within {limit} ({flag}); \
                 what came so far is not all"
            )),
            Awaited::Backup => Status::unavailable(format!(
                "nothing more of the backup has come from {address} within {limit} ({flag}); what came so far is removed"
            )),
        }
    }

    /// What was waited for, or that it is given up.
    pub(super) async fn wait<T>(&self, awaited: Awaited, answer: impl Future<Output = T>) -> Result<T, Status> {
        let mut answer = std::pin::pin!(answer);
        let untold = self.told_after.min(self.given_up_after);
        if let Ok(answer) = tokio::time::timeout(untold, &mut answer).await {
            return Ok(answer);
        }
        let told = self.given_up_after.saturating_sub(untold);
        if told.is_zero() {
            return Err(self.given_up(awaited));
        }
        self.tell(awaited);
        tokio::time::timeout(told, answer).await.map_err(|_| self.given_up(awaited))
    }
}

/// What a change failed with that got no answer.
fn of_change(error: StdError) -> StdError {
    if is_unconnected(&*error) || is_no_http2(&*error) { error } else { broken_in_change(&*error).into() }
}

/// Once there was a connection to a cell the request of a change may have gone out over it, and been carried out: however it broke, nobody here
/// knows.
fn broken_in_change(error: &(dyn Error + 'static)) -> Status {
    let why = innermost(error);
    let what =
        format!("the connection to the cell broke: {why}; what was asked for may have been done, or be done yet");
    with_code(Code::Unknown, OUTCOME_UNKNOWN, what)
}

/// What follows on the head of the answer to a change: without its end nobody knows what the answer was.
struct AnswerToChange(Body);

impl http_body::Body for AnswerToChange {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.0).poll_frame(context).map_err(|broke| broken_in_change(&broke))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// Whether there was no connection to send anything over.
pub(crate) fn is_unconnected(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A channel to a server that is given up when it does not answer. What breaks in the middle of a change has the code `OUTCOME_UNKNOWN`.
#[derive(Clone, Debug)]
pub(crate) struct PatientChannel {
    pub(super) channel: Channel,
    /// Without: whoever asks has a time limit of its own.
    pub(super) patience: Option<Patience>,
}

type Answer = Result<http::Response<Body>, StdError>;

impl GrpcService<Body> for PatientChannel {
    type ResponseBody = Body;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), StdError>> {
        GrpcService::poll_ready(&mut self.channel, context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let is_stream = STREAMS.iter().any(|stream| request.uri().path().ends_with(stream));
        let patience = self.patience.clone().filter(|_| !is_stream);
        let awaited = Awaited::of(request.uri().path());
        let changes = awaited == Awaited::Change && !is_stream;
        let answer = GrpcService::call(&mut self.channel, request);
        Box::pin(async move {
            let answer = async {
                let answer = answer.await.map_err(StdError::from);
                if !changes {
                    return answer;
                }
                answer.map(|answer| answer.map(|rest| Body::new(AnswerToChange(rest)))).map_err(of_change)
            };
            match patience {
                Some(patience) => patience.wait(awaited, answer).await.unwrap_or_else(|given_up| Err(given_up.into())),
                None => answer.await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Who gave up the answer to a change was told to try again, as if nothing could have come of it.
    #[test]
    fn what_is_not_known_to_ask_only_may_have_been_done() {
        for call in ["Jobs/Get", "Jobs/ListAllocations", "Jobs/JobHistory", "Inspect/Status", "Inspect/Moment"] {
            assert_eq!(Awaited::of(&format!("/plenum.v1.{call}")), Awaited::Answer, "{call}");
        }
        for call in ["Jobs/Submit", "Jobs/StopAllocation", "Jobs/Launch", "Govern/SetQuota", "Inspect/RemoveMachine"] {
            assert_eq!(Awaited::of(&format!("/plenum.v1.{call}")), Awaited::Change, "{call}");
        }
    }

    #[tokio::test]
    async fn a_limit_before_which_nothing_would_be_told_is_kept() {
        let patience = Patience::with("a:1", Some(Duration::from_millis(1)), None);
        let given_up = patience.wait(Awaited::Answer, std::future::pending::<()>()).await;
        assert!(given_up.is_err_and(|given_up| given_up.message().contains("within 1.0ms (--request-timeout)")));
        assert!(!patience.told.load(Ordering::Relaxed), "nobody waits any longer");
    }

    // Who asked for an end after five seconds waited for a minute where the server was silent before there was anything to wait for.
    #[test]
    fn no_answer_is_waited_for_longer_than_the_command_shall_take() {
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let limits = |request_timeout, timeout| {
            let patience = Patience::with("a:1", seconds(request_timeout), seconds(timeout));
            (patience.given_up_after.as_secs(), patience.flag)
        };
        assert_eq!(limits(None, None), (60, "--request-timeout"));
        assert_eq!(limits(None, Some(12)), (12, "--timeout"));
        assert_eq!(limits(None, Some(0)), (5, "--timeout"), "a look at how it is may take that long");
        assert_eq!(limits(Some(2), Some(12)), (2, "--request-timeout"));
        assert_eq!(limits(None, Some(3600)), (60, "--request-timeout"));
    }
}
