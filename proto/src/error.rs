//! What is wrong with a message: said once, in one sentence, with the path of the field.

use std::error::Error;
use std::fmt;

use tonic::metadata::MetadataValue;

/// The key of the metadata that carries the stable code of a refused request.
pub const CODE_KEY: &str = "plenum-code";

/// The key of the metadata that says after how many microseconds it makes sense to try again.
pub const RETRY_KEY: &str = "plenum-retry-after-micros";

/// Longest piece of somebody else's text that an error repeats, in characters.
const QUOTED_MAX: usize = 80;

/// A message that breaks a rule of the protocol. Nothing of it took effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}{}expected {expected}, found {found}", if field.is_empty() { "" } else { ": " })]
pub struct Invalid {
    /// The path of the field, such as `placements[2].tasks`; empty for the whole message.
    pub field: String,
    /// What would have been right.
    pub expected: String,
    /// What was there.
    pub found: String,
}

impl Invalid {
    /// `expected` and `found` are parts of a sentence.
    pub fn new(field: impl Into<String>, expected: impl Into<String>, found: impl fmt::Display) -> Self {
        Self { field: field.into(), expected: expected.into(), found: found.to_string() }
    }

    /// A message that must be there, and is not.
    pub(crate) fn missing(field: &str, what: &str) -> Self {
        Self::new(field, what, "nothing")
    }

    fn prefixed(mut self, outer: fmt::Arguments<'_>) -> Self {
        let joint = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{outer}{joint}{}", self.field);
        self
    }
}

impl From<Invalid> for tonic::Status {
    fn from(invalid: Invalid) -> Self {
        with_code(tonic::Code::InvalidArgument, "INVALID_REQUEST", invalid.to_string())
    }
}

/// A request for something that the protocol has a place for, and this version does not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what} is not implemented yet; {instead}")]
pub struct Unsupported {
    /// The path of the field.
    pub field: String,
    /// What was asked for.
    pub what: String,
    /// What can be asked for.
    pub instead: String,
}

impl From<Unsupported> for tonic::Status {
    fn from(unsupported: Unsupported) -> Self {
        with_code(tonic::Code::Unimplemented, "UNIMPLEMENTED", unsupported.to_string())
    }
}

/// Why a job was not taken at the edge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It asks for something that is not there yet.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

impl From<SubmitError> for tonic::Status {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invalid(invalid) => invalid.into(),
            SubmitError::Unsupported(unsupported) => unsupported.into(),
        }
    }
}

/// Why bytes of the log, of a sync or of the history could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No message of that kind.
    #[error("the bytes are no encoded {what}")]
    Encoding {
        /// The message's name.
        what: &'static str,
        /// Where the decoder gave up.
        source: prost::DecodeError,
    },
    /// A message that breaks a rule.
    #[error("the {what} breaks a rule of the protocol")]
    Content {
        /// The message's name.
        what: &'static str,
        /// Which rule.
        source: Invalid,
    },
    /// A message with something that this version does not know.
    #[error("the {what} has `{field}`, which this version does not know: a later one wrote it, and is needed to go on")]
    Newer {
        /// The message's name.
        what: &'static str,
        /// The path of the field, and the value after ` = ` where it is that which is not known.
        field: String,
    },
}

/// Decodes one message, without judging its content.
pub(crate) fn decode<M: prost::Message + Default>(what: &'static str, bytes: bytes::Bytes) -> Result<M, ReadError> {
    M::decode(bytes).map_err(|source| ReadError::Encoding { what, source })
}

/// A status with a stable code in its metadata.
#[must_use]
pub fn with_code(status: tonic::Code, code: &'static str, message: String) -> tonic::Status {
    let mut status = tonic::Status::new(status, message);
    status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static(code));
    status
}

/// The stable code of a refused request, such as `NO_SUCH_JOB`; empty where no server said one, as where the connection failed.
#[must_use]
pub fn code_of(status: &tonic::Status) -> &str {
    status.metadata().get(CODE_KEY).and_then(|code| code.to_str().ok()).unwrap_or("")
}

/// After how many microseconds it makes sense to try again, by the word of who refused a request; 0 where none was said.
#[must_use]
pub fn retry_micros_of(status: &tonic::Status) -> i64 {
    let told = status.metadata().get(RETRY_KEY).and_then(|micros| micros.to_str().ok());
    told.and_then(|micros| micros.parse::<i64>().ok()).map_or(0, |micros| micros.max(0))
}

/// The code of a call that may have taken effect: who answered can't tell.
pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";

/// Whether nobody has said what became of a call: there was no connection, it broke, this side waited long enough, or the cell does not know either
/// (`OUTCOME_UNKNOWN`, as where the server ended meanwhile). The call may have taken effect, or may yet. An answer that this side does not take for its
/// size is one.
#[must_use]
pub fn is_unanswered(status: &tonic::Status) -> bool {
    use tonic::Code::{Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown};
    match code_of(status) {
        OUTCOME_UNKNOWN => true,
        // Exhausted, without a code of the cell's, is what a connection says that is broken off as it asked too much.
        "" => {
            matches!(status.code(), Unavailable | DeadlineExceeded | Cancelled | Unknown | Internal | ResourceExhausted)
        }
        _ => false,
    }
}

/// What a call that failed says, for one line: the other side's own words, or why none came from there.
#[must_use]
pub fn words(status: &tonic::Status) -> String {
    match (no_cell(status), status.source()) {
        (Some(what), _) => what,
        (None, Some(cause)) => format!("no answer: {}", innermost(cause)),
        (None, None) => status.message().to_owned(),
    }
}

/// What a connection says of an answer that is no HTTP/2, such as that of an older web server: its text, read as a frame, begins with a length that
/// none has.
const NO_FRAME: &str = "frame with invalid size";
/// What is made of the answer of a web server that knows nothing of gRPC.
const NO_GRPC: &str = "grpc-status header missing";

/// What to say where a call was answered by a program that is no cell; nothing where there may be one.
#[must_use]
pub fn no_cell(status: &tonic::Status) -> Option<String> {
    // What stands before a cell that is away says that it is not available.
    let is_web = status.code() != tonic::Code::Unavailable && status.message().starts_with(NO_GRPC);
    let why = match status.source() {
        Some(cause) if is_no_http2(cause) => innermost(cause),
        None if is_web && code_of(status).is_empty() => status.message().to_owned(),
        _ => return None,
    };
    Some(format!("what answers at the address is no Plenum cell: {why}"))
}

/// Whether a connection failed as the other side does not speak HTTP/2, so that it has understood nothing of what was asked.
#[must_use]
pub fn is_no_http2(error: &dyn Error) -> bool {
    innermost(error).contains(NO_FRAME)
}

/// What the innermost cause says: those of a connection around it only repeat that it failed.
#[must_use]
pub fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Somebody else's text, cut and escaped, so that a message stays short and on its line.
pub(crate) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(QUOTED_MAX).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

/// Says where in the message a fault is. Costs nothing where there is none.
pub(crate) trait Within<T> {
    /// In that field.
    fn within(self, field: &str) -> Result<T, Invalid>;
    /// In one element of that field.
    fn within_at(self, field: &str, position: usize) -> Result<T, Invalid>;
}

impl<T> Within<T> for Result<T, Invalid> {
    #[inline]
    fn within(self, field: &str) -> Self {
        self.map_err(|invalid| invalid.prefixed(format_args!("{field}")))
    }

    // Where it is not made part of the caller, what is right is copied in and out, as large as a fault, for each row of a column.
    #[inline]
    fn within_at(self, field: &str, position: usize) -> Self {
        self.map_err(|invalid| invalid.prefixed(format_args!("{field}[{position}]")))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    // It read "transport error: tcp connect error: tcp connect error: Connection refused", or only "tcp connect error".
    #[test]
    fn a_connection_that_failed_says_why_and_says_it_once() {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "Connection refused (os error 111)");
        let mut status = tonic::Status::unavailable("tcp connect error");
        status.set_source(Arc::new(io::Error::other(io::Error::other(refused))));
        assert_eq!((code_of(&status), words(&status).as_str()), ("", "no answer: Connection refused (os error 111)"));
        let told = with_code(tonic::Code::NotFound, "NO_SUCH_JOB", "there is no job".into());
        assert_eq!((code_of(&told), words(&told).as_str()), ("NO_SUCH_JOB", "there is no job"));
    }

    // An agent with a wrong address said for ever that there was no answer, though there was one.
    #[test]
    fn what_a_web_server_answers_is_told_from_what_a_cell_does() {
        let not_found = "grpc-status header missing, mapped from HTTP status code 404";
        let told = words(&tonic::Status::unimplemented(not_found));
        assert_eq!(told, format!("what answers at the address is no Plenum cell: {not_found}"));
        let away = "grpc-status header missing, mapped from HTTP status code 503";
        assert_eq!(words(&tonic::Status::unavailable(away)), away, "a cell may be behind it");
        let cell = with_code(tonic::Code::Unimplemented, "UNIMPLEMENTED", not_found.into());
        assert_eq!((no_cell(&cell), no_cell(&tonic::Status::unimplemented("no such method"))), (None, None));
    }

    // Who went by UNAVAILABLE and DEADLINE_EXCEEDED gave up what had perhaps taken effect: a minute without an answer is CANCELLED.
    #[test]
    fn what_the_transport_says_of_a_call_is_no_answer_and_what_the_cell_says_is_one() {
        let unanswered = ["Timeout expired", "transport error", "h2 protocol error", "tcp connect error", "late"];
        let codes = [
            tonic::Code::Cancelled,
            tonic::Code::Unknown,
            tonic::Code::Internal,
            tonic::Code::Unavailable,
            tonic::Code::DeadlineExceeded,
        ];
        for (code, message) in codes.into_iter().zip(unanswered) {
            assert!(is_unanswered(&tonic::Status::new(code, message)), "{message}");
            assert!(!is_unanswered(&with_code(code, "SERVER_ENDING", message.into())), "{message}");
        }
        assert!(!is_unanswered(&tonic::Status::out_of_range("decoded message length too large")));
        assert!(!is_unanswered(&tonic::Status::unimplemented("")));
    }

    // A framework took a job for refused that was submitted just before the server ended, and that runs.
    #[test]
    fn a_cell_that_does_not_know_what_became_of_a_call_has_not_answered_it() {
        for status in [tonic::Code::Unavailable, tonic::Code::ResourceExhausted, tonic::Code::Aborted] {
            assert!(is_unanswered(&with_code(status, "OUTCOME_UNKNOWN", "the server ends".into())), "{status:?}");
        }
    }
}
