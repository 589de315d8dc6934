//! What a command says when it did not work: a stable code, a sentence, a hint, and an exit code.

use std::{error::Error, fmt, io};

use plenum_proto::error::{code_of, innermost, is_unanswered, no_cell};
use tonic::{Code, Status};

use crate::job_file::JobFileError;

/// The exit code of a command that did not work.
pub(crate) const EXIT_FAILED: u8 = 1;
/// The exit code of wrong usage.
pub(crate) const EXIT_USAGE: u8 = 2;
/// The exit code of a wait that reached the time limit that it was given: what is waited for goes on.
pub(crate) const EXIT_UNFINISHED: u8 = 3;
/// What shells end with after Ctrl-C: the exit code of what was interrupted before it had an outcome.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;
/// The same after SIGTERM, as `timeout` sends it.
pub(crate) const EXIT_TERMINATED: u8 = 143;

/// Why a command did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// A stable code; most have a page for `plenum explain`.
    pub(crate) code: String,
    /// What was expected and what was found.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: Option<String>,
    /// What the process ends with.
    pub(crate) exit: u8,
}

impl Failure {
    /// A command that did not work.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), hint: None, exit: EXIT_FAILED }
    }

    /// A command that was given wrongly.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: EXIT_USAGE, ..Self::new("USAGE", message) }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// The same of what stands in `place`, such as a variable: whoever sees it has not typed it.
    pub(crate) fn found_in(self, place: impl fmt::Display) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }

    /// The same of a file of settings, or of a field of it: what was typed is right.
    pub(crate) fn found_in_file(self, place: impl fmt::Display) -> Self {
        let failure = self.found_in(place);
        if failure.code == "USAGE" {
            return Self { code: "CONFIG".to_owned(), exit: EXIT_FAILED, ..failure };
        }
        failure
    }

    /// A failure of the operating system, with what was being done.
    pub(crate) fn io(doing: impl fmt::Display, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "NO_SPACE",
            io::ErrorKind::AddrInUse => "ADDRESS_IN_USE",
            io::ErrorKind::PermissionDenied => "NOT_PERMITTED",
            _ => "IO",
        };
        Self::new(code, format!("{doing}: {error}")).with_hint(format!("`plenum explain {code}` tells more"))
    }

    /// No server at an address.
    pub(crate) fn unreachable(address: &str, why: &str) -> Self {
        Self::new("UNAVAILABLE", format!("no cell answers at {address}: {why}")).with_hint(
            "start one with `plenum dev` or `plenum server`, or name another address with --addr or PLENUM_ADDR",
        )
    }

    /// Something at an address that takes no connection in time: there is no need for another server.
    pub(crate) fn unanswered(address: &str, why: &str) -> Self {
        Self::new("UNAVAILABLE", format!("no cell answers at {address}: {why}")).with_hint(
            "a server that listens there may have no place for another connection, as its log says then, or stand still; or nothing of that name can \
             be reached from here. Try again, or name another address with --addr or PLENUM_ADDR",
        )
    }

    /// Whether a server that dies and is started again, has too much to do, or has not written all of the past yet, answers so: asked again later, it may
    /// answer.
    pub(crate) fn is_passing(&self) -> bool {
        self.is_waited_for() || matches!(self.code.as_str(), "UNKNOWN" | "CANCELLED" | "INTERNAL")
    }

    /// Whether a command that waits, watches or follows goes on after it, for two minutes: the cell may answer, tell of the past, or be there again in place of
    /// another one, by then.
    pub(crate) fn is_waited_for(&self) -> bool {
        matches!(self.code.as_str(), "UNAVAILABLE" | "SERVER_ENDING" | "QUEUE_FULL" | "HISTORY_BEHIND" | "OTHER_CELL")
    }

    /// The error as the interface promises it to programs.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"error": {"code": self.code, "message": self.message, "hint": self.hint}})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.message, self.code)
    }
}

impl Error for Failure {}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if let Some(what) = no_cell(&status) {
            return Self::new("UNAVAILABLE", what).with_hint("name the cell's address with --addr or PLENUM_ADDR");
        }
        // A connection that broke in the middle of a call is an error of this end's transport, which has no code of the cell's.
        let told = code_of(&status);
        let broke = told.is_empty() && is_unanswered(&status) && status.source().is_some();
        let grpc_code = if broke { Code::Unavailable } else { status.code() };
        let code = if told.is_empty() { code_name(grpc_code) } else { told.to_owned() };
        let mut message = status.message().to_owned();
        if broke {
            message = format!("the connection to the cell broke: {}", innermost(&status));
        } else if message.is_empty() {
            message = format!("the cell answered {}", status.code().description().to_lowercase());
        }
        if let Some(method) = method_of_later(&code, &message) {
            let (version, core) = (env!("CARGO_PKG_VERSION"), plenum_proto::log::CORE_VERSION);
            let hint = format!(
                "the server is older than this plenum ({version}, core {core}): upgrade the server, which goes first, or use a plenum of its version; \
                 `plenum explain UNIMPLEMENTED` tells more"
            );
            let told = format!("this server, of an earlier version, has no method {method}");
            return Self::new("UNIMPLEMENTED", if code == "UNIMPLEMENTED" { message } else { told }).with_hint(hint);
        }
        if matches!(code.as_str(), "INSTANT_PASSED" | "INVALID_REQUEST") {
            message = with_times(&message);
        }
        let failure = Self::new(&code, message);
        // A cell that says what else is not to be had just now is there.
        let is_away = matches!(code.as_str(), "UNAVAILABLE" | "SERVER_ENDING");
        match grpc_code {
            // What people typed, read by the cell.
            Code::InvalidArgument if failure.message.starts_with("filter: ") => failure.with_exit(EXIT_USAGE),
            Code::Unavailable if is_away => failure.with_hint("the cell may be starting or gone; try again"),
            _ if crate::cli::has_page(&code) => failure.with_hint(format!("`plenum explain {code}` tells more")),
            _ => failure,
        }
    }
}

impl From<JobFileError> for Failure {
    fn from(error: JobFileError) -> Self {
        Self { code: error.code.to_owned(), message: error.message, hint: error.hint, exit: EXIT_FAILED }
    }
}

/// The method that was called, where a server refused it that does not have it. One of before its table of methods knew of others said that nobody may call it.
fn method_of_later<'message>(code: &str, message: &'message str) -> Option<&'message str> {
    match code {
        "UNIMPLEMENTED" => message.split_once(" has no method ").map(|(_, method)| method),
        "NOT_PERMITTED" => {
            let nobody = message.trim_end().strip_suffix("; expected one of:")?;
            nobody.split_once(" may not call ").map(|(_, method)| method)
        }
        _ => None,
    }
}

/// The message with each "N µs", as the cell counts instants, written as a time.
fn with_times(message: &str) -> String {
    let mut parts = message.split(" µs");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = text.len() - text.bytes().rev().take_while(u8::is_ascii_digit).count();
        let time = text[digits..].parse().ok().and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
        match time {
            Some(time) => text.replace_range(digits.., &time.to_string()),
            None => text.push_str(" µs"),
        }
        text.push_str(part);
    }
    text
}

/// The name of a status in `google.rpc.Code`.
fn code_name(code: Code) -> String {
    let debug = format!("{code:?}");
    let mut name = String::with_capacity(debug.len() + 2);
    for (position, letter) in debug.char_indices() {
        if letter.is_ascii_uppercase() && position > 0 {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_servers_own_code_wins_over_the_status() {
        let mut status = Status::failed_precondition("the cell is read-only");
        status.metadata_mut().insert(plenum_proto::error::CODE_KEY, "READ_ONLY".parse().unwrap());
        let failure = Failure::from(status);
        assert_eq!(failure.code, "READ_ONLY");
        assert_eq!(failure.hint.as_deref(), Some("`plenum explain READ_ONLY` tells more"));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_no_wrong_usage() {
        let failure = Failure::usage("`x` is no address").found_in_file("config.toml");
        assert_eq!((failure.code.as_str(), failure.exit), ("CONFIG", EXIT_FAILED));
        assert_eq!(failure.message, "config.toml: `x` is no address");
        assert_eq!(Failure::new("UNIMPLEMENTED", "no TLS").found_in_file("config.toml").code, "UNIMPLEMENTED");
    }

    // `plenum backup --out /proc` ended with the system's words alone.
    #[test]
    fn what_the_system_refused_has_a_page_as_all_else() {
        use io::ErrorKind::{AddrInUse, NotFound, PermissionDenied, QuotaExceeded, StorageFull};
        for kind in [NotFound, PermissionDenied, StorageFull, QuotaExceeded, AddrInUse] {
            let failure = Failure::io("cannot read x", &io::Error::from(kind));
            assert!(crate::cli::has_page(&failure.code), "{}", failure.code);
            assert_eq!(failure.hint, Some(format!("`plenum explain {}` tells more", failure.code)));
        }
    }

    #[test]
    fn a_status_without_a_code_has_the_name_of_google_rpc() {
        assert_eq!(Failure::from(Status::resource_exhausted("full")).code, "RESOURCE_EXHAUSTED");
        assert_eq!(
            Failure::from(Status::not_found("")).message,
            "the cell answered some requested entity was not found"
        );
    }

    // A run of `plenum dev` ended, and its jobs with it, where the server was asked to end and would have been started again, and while many others
    // listed.
    #[test]
    fn a_server_that_ends_or_has_too_much_to_do_is_waited_for_as_one_that_is_away() {
        for code in ["UNAVAILABLE", "SERVER_ENDING", "QUEUE_FULL"] {
            assert!(Failure::new(code, "later").is_passing(), "{code}");
        }
        assert!(!Failure::new("NO_SUCH_JOB", "no").is_passing());
    }

    // The wait for a job that completed, and was retired before anybody looked, ended with `NO_SUCH_JOB` where the history lacked the last few revisions.
    #[test]
    fn a_history_that_is_behind_is_waited_for() {
        let failure = Failure::new("HISTORY_BEHIND", "revision 9 is not written yet");
        assert!(failure.is_passing() && failure.is_waited_for());
    }

    // A backup that nobody read fast enough ended with 3, as if it had been accepted and were under way.
    #[test]
    fn a_time_limit_of_the_cells_own_is_no_wait_that_reached_its_limit() {
        let mut status = Status::deadline_exceeded("the backup was not read in time");
        status.metadata_mut().insert(plenum_proto::error::CODE_KEY, "TIME_LIMIT".parse().unwrap());
        assert_eq!(Failure::from(status).exit, EXIT_FAILED);
    }

    // Whoever asked for a past that the history had not got yet, or launched for a scheduler that is paused, read that the cell may be gone.
    #[test]
    fn a_cell_that_says_what_is_not_to_be_had_is_there() {
        let of = |code: &'static str| {
            let mut status = Status::unavailable("no");
            status.metadata_mut().insert(plenum_proto::error::CODE_KEY, code.parse().unwrap());
            Failure::from(status).hint.unwrap()
        };
        for code in ["AGENT_GONE", "NO_LOGS", "HISTORY_BEHIND", "SCHEDULER_PAUSED", "OUTCOME_UNKNOWN"] {
            assert_eq!(of(code), format!("`plenum explain {code}` tells more"));
        }
        assert!(of("SERVER_ENDING").contains("the cell may be"));
        assert!(Failure::from(Status::unavailable("no")).hint.unwrap().contains("the cell may be"));
    }

    // What an earlier server did not have yet was told as forbidden, with nobody behind "expected one of:" and a page on rights.
    #[test]
    fn a_method_that_an_earlier_server_does_not_have_is_told_as_that() {
        let of =
            |grpc, code, message: &str| Failure::from(plenum_proto::error::with_code(grpc, code, message.to_owned()));
        let forbidden = |roles| format!("local may not call plenum.v1.Inspect/CellHistory; expected one of: {roles}");
        let unknown = "this server, of version 0.1.0 (core 35), has no method plenum.v1.Inspect/CellHistory";
        let earlier = "this server, of an earlier version, has no method plenum.v1.Inspect/CellHistory";
        for (failure, message) in [
            (of(Code::PermissionDenied, "NOT_PERMITTED", &forbidden("")), earlier),
            (of(Code::Unimplemented, "UNIMPLEMENTED", unknown), unknown),
        ] {
            assert_eq!((failure.code.as_str(), failure.message.as_str()), ("UNIMPLEMENTED", message));
            let hint = failure.hint.unwrap();
            assert!(hint.starts_with("the server is older than this plenum (") && hint.contains("upgrade"), "{hint}");
        }
        let forbidden = of(Code::PermissionDenied, "NOT_PERMITTED", &forbidden("operator"));
        assert_eq!(forbidden.code, "NOT_PERMITTED", "it is there, and others may");
        let other = of(Code::Unimplemented, "UNIMPLEMENTED", "no compression");
        assert_eq!(other.hint.as_deref(), Some("`plenum explain UNIMPLEMENTED` tells more"));
    }

    #[test]
    fn instants_are_told_as_times() {
        assert_eq!(
            with_times("nightly was launched for 3000000 µs; expected a later instant, found 2500000 µs"),
            "nightly was launched for 1970-01-01T00:00:03Z; expected a later instant, found 1970-01-01T00:00:02.5Z"
        );
        assert_eq!(with_times("it took some µs"), "it took some µs");
    }

    #[test]
    fn programs_read_code_message_and_hint() {
        let failure = Failure::new("IO", "no").with_hint("yes");
        assert_eq!(failure.to_json().to_string(), r#"{"error":{"code":"IO","hint":"yes","message":"no"}}"#);
    }
}
