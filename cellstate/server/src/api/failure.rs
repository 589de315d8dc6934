//! Errors as clients see them: a `google.rpc` code, a stable code in the metadata, what to do, and when to try again.

use std::time::Duration;

use bytes::Bytes;
use plenum_model::{Rejection, RejectionCode};
use prost::Message;
use tonic::metadata::{AsciiMetadataValue, MetadataValue};
use tonic::{Code, Status};

use crate::authorise::Denied;
use crate::calls::OWN_CALLS;
use crate::engine::NoSpace;
use crate::error::{ServerError, told};
use crate::ingress::Full;

/// Metadata with the stable code.
pub(crate) const CODE: &str = plenum_proto::error::CODE_KEY;
/// Metadata with the time after which it makes sense to try again, in microseconds.
pub(crate) const RETRY: &str = plenum_proto::error::RETRY_KEY;

/// Of a revision, or a time, that was there and can't be read any more.
pub(crate) const RETIRED: &str = "REVISION_RETIRED";

/// Of what the history has not got, or can't look at now.
pub(super) const HISTORY_BEHIND: &str = "HISTORY_BEHIND";

/// Whether this code is of calls that are refused for who makes them.
pub(super) fn is_denial(code: &str) -> bool {
    matches!(code, "NOT_PERMITTED" | "NO_SUCH_PRINCIPAL")
}

/// Bytes of a message: it may repeat what was asked for, which may be megabytes, and travels in headers, of which a client takes some 16 KiB.
const MESSAGE_BYTES_MAX: usize = 2 << 10;

/// When the history is asked again for what it has not got yet, or could not look at.
const HISTORY_RETRY: Duration = Duration::from_secs(1);

/// When a paused scheduler tries again: nobody tells it that it was resumed.
const PAUSED_RETRY: Duration = Duration::from_secs(1);

/// When a job is asked for again of which tasks still stop: most do in less, some in the ten seconds that they have by default, and nobody tells of the last.
const LEAVING_RETRY: Duration = Duration::from_millis(500);

/// When that which passes with the next tick is asked for again at the earliest: a tick is not long in coming, but not there yet.
const PASSES_RETRY_MIN: Duration = Duration::from_secs(1);

/// Why a call failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) status: Code,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// Zero: no sense in trying again.
    pub(crate) retry_after: Duration,
}

impl Failure {
    pub(crate) fn new(status: Code, code: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push('…');
        }
        Self { status, code, message, retry_after: Duration::ZERO }
    }

    pub(crate) fn retry(self, retry_after: Duration) -> Self {
        Self { retry_after, ..self }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, "INVALID_REQUEST", message)
    }

    pub(crate) fn not_found(code: RejectionCode, message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, code.as_str(), message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, "INTERNAL", message)
    }

    /// The disk is nearly full.
    pub(crate) fn read_only(low: &NoSpace) -> Self {
        Self::new(Code::ResourceExhausted, "READ_ONLY", low.to_string()).retry(Duration::from_secs(1))
    }

    /// It was meant for another cell than this one.
    pub(super) fn other_cell(own: &[u8]) -> Self {
        let own = hexadecimal(own);
        let message = format!("this is cell {own}, and the call is meant for another one; name that one's address");
        Self::new(Code::Aborted, "OTHER_CELL", message)
    }

    /// What to say of a message that the transport or the codec did not take, by the status that they gave it; `None` for any other status.
    pub(super) fn unreadable(expected: impl std::fmt::Display, most: usize, status: &Status) -> Option<Self> {
        match status.code() {
            Code::OutOfRange => Some(Self::message_too_large(most, status.message())),
            Code::Internal => {
                let found = status.message();
                Some(Self::invalid(format!("expected {expected}, found what can't be read as it: {found}")))
            }
            // Of all that is arriving.
            Code::ResourceExhausted => Some(
                Self::new(Code::ResourceExhausted, "QUEUE_FULL", status.message()).retry(Duration::from_millis(100)),
            ),
            // There is too much of something in it: said where it was counted.
            Code::InvalidArgument => Some(Self::invalid(status.message())),
            // It is compressed, and no method takes such.
            Code::Unimplemented => Some(Self::new(Code::Unimplemented, "UNIMPLEMENTED", status.message())),
            _ => None,
        }
    }

    /// A message is above the bound of the transport, which says how many bytes it found, and no more.
    fn message_too_large(most: usize, told: &str) -> Self {
        let digits = told.split_once("found ").map_or("", |(_, after)| after.split(' ').next().unwrap_or(""));
        let found = digits.parse::<u64>().map_or_else(|_| "more".to_owned(), |bytes| format!("one of {bytes}"));
        let message = format!("expected a message of at most {most} bytes, found {found}; send less at once");
        Self::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
    }

    /// Too many read much of the cell or the disk already.
    pub(super) fn too_many_reads(most: usize) -> Self {
        let message = format!("{most} listings and other reads are under way or wait already; try again later");
        Self::new(Code::ResourceExhausted, "QUEUE_FULL", message).retry(Duration::from_secs(1))
    }

    /// Too many ask what services there are.
    pub(super) fn too_many_questions(most: usize) -> Self {
        let message = format!("{most} calls of reflection are open, which is all that may be; try again later");
        Self::new(Code::ResourceExhausted, "QUEUE_FULL", message).retry(Duration::from_secs(1))
    }

    /// There is no place for a call more of that connection.
    pub(super) fn too_many_calls(most: usize) -> Self {
        let message = format!(
            "{most} calls are open beyond the first {OWN_CALLS} of each connection, which is all that may be; end some of this connection's, or \
             try again later"
        );
        Self::new(Code::ResourceExhausted, "QUEUE_FULL", message).retry(Duration::from_secs(1))
    }

    /// The same of a call that asks for a transaction, and was not read: who asks again under a number must not take it for one that was not executed.
    pub(super) fn of_a_transaction_not_read(self) -> Self {
        let message = format!(
            "{}; what became of the transaction, if it came before, is not known: ask again under the same number",
            self.message
        );
        Self::new(self.status, "OUTCOME_UNKNOWN", message).retry(self.retry_after)
    }

    /// Others have not read their answers.
    pub(crate) fn too_much_unread(most: usize) -> Self {
        let message = format!(
            "there is room for {most} bytes of answers that nobody has read yet; try again later, or ask for less"
        );
        Self::new(Code::ResourceExhausted, "QUEUE_FULL", message).retry(Duration::from_secs(1))
    }

    /// The same of the outcome of a transaction, which was decided.
    pub(super) fn no_room_for_what_was_decided(most: usize) -> Self {
        let message = format!(
            "the transaction was decided, and there is no room for its outcome among the {most} bytes of answers that nobody has read yet: ask again under the same number"
        );
        Self::new(Code::ResourceExhausted, "OUTCOME_UNKNOWN", message).retry(Duration::from_secs(1))
    }

    /// Too much waits already.
    pub(crate) fn queue_full(full: Full) -> Self {
        let message = match full {
            Full::Requests(most) => format!("{most} requests wait already; try again later"),
            Full::Bytes(most) => format!("{most} bytes of requests wait already; try again later"),
            Full::Principal(most) => format!("{most} requests of this principal wait already; send fewer at once"),
            Full::PrincipalBytes(most) => {
                format!("{most} bytes of requests of this principal wait already; send less at once")
            }
        };
        Self::new(Code::ResourceExhausted, "QUEUE_FULL", message).retry(Duration::from_millis(100))
    }

    pub(crate) fn ending() -> Self {
        Self::new(Code::Unavailable, "SERVER_ENDING", "the server ends; connect again").retry(Duration::from_secs(1))
    }

    /// The same of a session's stream, over which something may have been sent that is decided yet.
    pub(super) fn ending_with_a_session() -> Self {
        let message = "the server ends; connect again, and send what was not answered again under the same numbers: it may have been decided";
        Self { message: message.to_owned(), ..Self::ending() }
    }

    /// The request may have taken effect, or may yet.
    pub(crate) fn outcome_unknown() -> Self {
        let message =
            "the server ends, and what became of the request is not known; a transaction is sent again as it was";
        Self::new(Code::Unavailable, "OUTCOME_UNKNOWN", message).retry(Duration::from_secs(1))
    }

    /// Of what else than transactions a paused scheduler asks for: those are the core's to refuse.
    pub(crate) fn paused(scheduler: &str) -> Self {
        let message = format!("the scheduler {scheduler} is paused by an operator");
        Rejection::new(RejectionCode::SchedulerPaused, message).into()
    }

    /// The same of a transaction whose number came before, perhaps over a connection that broke: it may have been decided then.
    pub(crate) fn of_a_number_that_came_before(self) -> Self {
        let message = format!(
            "{}; a transaction under this number or a higher one came before, or still may over another connection, and what became of it is not looked up now: ask again under the same number",
            self.message
        );
        Self::new(self.status, "OUTCOME_UNKNOWN", message).retry(self.retry_after)
    }

    /// The same of a transaction that was decided, where only what is in the way of reading its outcome may pass. Who was told anything else
    /// would take it for one that was not executed.
    pub(crate) fn of_what_was_decided(self) -> Self {
        if self.status != Code::Unavailable {
            return self;
        }
        // A client that is told of no delay asks again at once, over a new connection.
        let after = self.retry_after.max(Duration::from_secs(1));
        self.of_a_number_that_came_before().retry(after)
    }

    /// The history has not got it, or can't be looked at, and will be asked again.
    pub(super) fn history_behind(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, HISTORY_BEHIND, message).retry(HISTORY_RETRY)
    }

    /// The system gives no thread to read on now.
    pub(super) fn no_thread() -> Self {
        Self::history_behind("the system gives no thread to read on now; try again in a moment")
    }

    pub(crate) fn history(error: &plenum_history::ReadError) -> Self {
        use plenum_history::ReadError as Read;
        let (status, code) = match error {
            Read::Retired { .. } | Read::TimeRetired { .. } => (Code::OutOfRange, RETIRED),
            // What nobody can have seen was refused before: it has it not yet, or, after it was opened again, not any more.
            Read::NotThere { asked, .. } if *asked > 0 => return Self::history_behind(told(error)),
            Read::NotThere { .. } | Read::BeforeFirst => (Code::OutOfRange, "NO_SUCH_REVISION"),
            // It may be as it was written, and is to be had when what is in the way has passed.
            Read::Store(store) if store.may_be_sound() => return Self::history_behind(told(error)),
            Read::Store(_) => (Code::Internal, "DAMAGED_HISTORY"),
        };
        Self::new(status, code, told(error))
    }

    /// Something of the past can't be read. What a later version wrote is as sound as it was: that version can be asked for it.
    pub(super) fn of_the_past(error: &ServerError) -> Self {
        match error {
            ServerError::Newer { .. } => Self::new(Code::FailedPrecondition, error.code(), error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }

    /// A `google.rpc.Status` with the delay, for clients that know that of all services.
    fn retry_info(&self) -> Bytes {
        let delay = RetryInfo {
            retry_delay: Some(Delay {
                seconds: i64::try_from(self.retry_after.as_secs()).unwrap_or(i64::MAX),
                nanos: self.retry_after.subsec_nanos().cast_signed(),
            }),
        };
        let detail = Detail {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: delay.encode_to_vec().into(),
        };
        let status = RpcStatus { code: self.status.into(), message: self.message.clone(), details: vec![detail] };
        status.encode_to_vec().into()
    }

    pub(crate) fn into_status(self) -> Status {
        let details = if self.retry_after.is_zero() { Bytes::new() } else { self.retry_info() };
        let mut status = Status::with_details(self.status, self.message, details);
        status.metadata_mut().insert(CODE, MetadataValue::from_static(self.code));
        if !self.retry_after.is_zero() {
            let micros = self.retry_after.as_micros().to_string();
            if let Ok(value) = AsciiMetadataValue::try_from(micros) {
                status.metadata_mut().insert(RETRY, value);
            }
        }
        status
    }
}

/// The id of a cell, as people see it.
pub(super) fn hexadecimal(cell_id: &[u8]) -> String {
    cell_id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The few messages of `google.rpc` and `google.protobuf` that say when to try again.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.into_status()
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let (status, code) = match denied {
            Denied::NoSuchPrincipal { .. } => (Code::Unauthenticated, "NO_SUCH_PRINCIPAL"),
            Denied::NoMethod { .. } => (Code::Unimplemented, "UNIMPLEMENTED"),
            Denied::Method { .. } | Denied::Object { .. } => (Code::PermissionDenied, "NOT_PERMITTED"),
        };
        Self::new(status, code, denied.to_string())
    }
}

impl From<plenum_proto::Invalid> for Failure {
    fn from(invalid: plenum_proto::Invalid) -> Self {
        Self::invalid(invalid.to_string())
    }
}

impl From<plenum_proto::SubmitError> for Failure {
    fn from(error: plenum_proto::SubmitError) -> Self {
        match error {
            plenum_proto::SubmitError::Invalid(invalid) => invalid.into(),
            plenum_proto::SubmitError::Unsupported(what) => {
                Self::new(Code::Unimplemented, "UNIMPLEMENTED", what.to_string())
            }
        }
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let status = match rejection.code {
            RejectionCode::Unimplemented => Code::Unimplemented,
            RejectionCode::NoSuchSession
            | RejectionCode::NoSuchJob
            | RejectionCode::NoSuchGroup
            | RejectionCode::NoSuchAllocation
            | RejectionCode::NoSuchPartition
            | RejectionCode::NoSuchQuota
            | RejectionCode::NoSuchTask
            | RejectionCode::NoSuchMachine => Code::NotFound,
            // As gRPC has it of what was decided on something else: read anew, and decide anew.
            RejectionCode::OtherIncarnation | RejectionCode::JobVersion => Code::Aborted,
            RejectionCode::NumberRetired
            | RejectionCode::JobOver
            | RejectionCode::JobChanged
            | RejectionCode::JobLeaving
            | RejectionCode::MachineAlive
            | RejectionCode::InstantPassed
            | RejectionCode::NoRoomToHold
            | RejectionCode::NotWanted
            | RejectionCode::StaleEpoch => Code::FailedPrecondition,
            RejectionCode::LimitReached => Code::ResourceExhausted,
            RejectionCode::SchedulerPaused => Code::Unavailable,
            RejectionCode::NotPermitted => Code::PermissionDenied,
            RejectionCode::NumberReused | RejectionCode::FutureBase | RejectionCode::InvalidRequest => {
                Code::InvalidArgument
            }
        };
        let failure = Self::new(status, rejection.code.as_str(), rejection.message);
        match rejection.passes_in_micros {
            Some(micros) => failure.retry(Duration::from_micros(micros).max(PASSES_RETRY_MIN)),
            None => match rejection.code {
                RejectionCode::SchedulerPaused => failure.retry(PAUSED_RETRY),
                RejectionCode::JobLeaving => failure.retry(LEAVING_RETRY),
                _ => failure,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What was asked while there were too many open files was called damaged.
    #[test]
    fn what_of_the_past_can_not_be_looked_at_now_is_to_be_asked_for_again() {
        use plenum_history::{ReadError, StoreError};
        let of = |error: StoreError| Failure::history(&ReadError::Store(error));
        let what = || "too many open files".to_owned();
        let unread = of(StoreError::LogUnread { first: 1, what: what() });
        assert_eq!((unread.status, unread.code), (Code::Unavailable, "HISTORY_BEHIND"));
        assert_eq!(unread.retry_after, Duration::from_secs(1));
        assert!(unread.message.contains("open files"), "{}", unread.message);
        assert_eq!(of(StoreError::Log { first: 1, what: what() }).code, "DAMAGED_HISTORY");
        // Of a revision that it had before its store was opened again there was none, for good.
        let behind = Failure::history(&ReadError::NotThere { asked: 9, newest: 8 });
        assert_eq!((behind.status, behind.code), (Code::Unavailable, "HISTORY_BEHIND"));
        assert_eq!(behind.retry_after, Duration::from_secs(1));
    }

    // Its scheduler gave it up, as one that was not executed and never will be.
    #[test]
    fn the_outcome_of_what_was_decided_is_unknown_while_it_can_not_be_read() {
        use plenum_history::ReadError;
        let of = |error: ReadError| Failure::history(&error).of_what_was_decided();
        let unknown = of(ReadError::NotThere { asked: 9, newest: 8 });
        // Who was told of no delay asked again 20 times a second, over a new connection each time.
        assert_eq!((unknown.code, unknown.retry_after), ("OUTCOME_UNKNOWN", Duration::from_secs(1)));
        assert_eq!(of(ReadError::BeforeFirst).code, "NO_SUCH_REVISION");
    }

    // Above a bound it said to try again when a job is retired, and to clients that go by the delay that there is no sense in that.
    #[test]
    fn what_passes_by_itself_is_to_be_asked_for_again_then_and_not_at_once() {
        use plenum_model::LogTime;
        let delay = |passes: Option<i64>| {
            let (passes, now) = (passes.map(LogTime::from_micros), LogTime::from_micros(5_000_000));
            let rejection = Rejection::new(RejectionCode::LimitReached, "full").passing_at(passes, now);
            Failure::from(rejection).retry_after
        };
        assert_eq!(delay(None), Duration::ZERO, "nobody knows when");
        assert_eq!(delay(Some(65_000_000)), Duration::from_secs(60));
        assert_eq!(delay(Some(5_000_000)), PASSES_RETRY_MIN, "it may be asked for again, though it is due now");
        assert_eq!(delay(Some(1)), PASSES_RETRY_MIN);
    }

    #[test]
    fn a_delay_is_told_as_all_services_tell_it_and_in_our_own_words() {
        let status = Failure::queue_full(Full::Requests(9)).into_status();
        assert_eq!(status.metadata().get(RETRY).unwrap(), "100000");
        let details = RpcStatus::decode(status.details()).unwrap();
        assert_eq!((details.code, details.message.as_str()), (8, status.message()));
        assert!(details.details[0].type_url.ends_with("google.rpc.RetryInfo"));
        let delay = RetryInfo::decode(details.details[0].value.clone()).unwrap().retry_delay.unwrap();
        assert_eq!((delay.seconds, delay.nanos), (0, 100_000_000));
        assert!(Failure::invalid("x").into_status().details().is_empty());
    }
}
