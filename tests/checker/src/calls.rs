//! What clients asked and were answered, as they logged it: one line before each call, one after its reply.
//!
//! Times are nanoseconds of one clock that all logs of a run share and that never goes back. A client that is killed leaves calls
//! without a reply, and perhaps half a line, which counts as none.
//!
//! ```text
//! called 17 1200 transaction 0803…      the encoded Transaction, in hexadecimal
//! outcome 17 3400 0803…                 the encoded Outcome
//! called 18 3500 write submit job-4     anything else that changes the cell; its reply has a revision
//! revision 18 4100 231
//! called 19 4200 read status            what changes nothing; its reply is of a revision
//! failed 19 4300 14 SERVER_ENDING the server is ending
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use plenum_proto::v1;
use prost::Message;

/// What was asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// A transaction.
    Transaction(Box<v1::Transaction>),
    /// Anything else that changes the cell.
    Write(String),
    /// What changes nothing.
    Read(String),
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing (yet): it may have taken effect or not.
    None,
    /// To a transaction.
    Outcome(Box<v1::Outcome>),
    /// To anything else: the revision at which it was decided, or that was read.
    Revision(u64),
    /// It was not executed, or nobody knows.
    Failed {
        /// A `google.rpc` code.
        status: i32,
        /// The stable code; `-` where none came.
        code: String,
        /// With the reason.
        message: String,
    },
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Whose log it is from.
    pub client: String,
    /// When it was about to be sent.
    pub called_nanos: u64,
    /// When the reply was there.
    pub replied_nanos: Option<u64>,
    /// What was asked.
    pub asked: Asked,
    /// What was answered.
    pub reply: Reply,
}

impl Call {
    /// The transaction and its outcome, if it is one and has one.
    #[must_use]
    pub fn decided(&self) -> Option<(&v1::Transaction, &v1::Outcome)> {
        match (&self.asked, &self.reply) {
            (Asked::Transaction(asked), Reply::Outcome(outcome)) => Some((asked, outcome)),
            _ => None,
        }
    }

    /// The revision that the reply names.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        match &self.reply {
            Reply::Outcome(outcome) => Some(outcome.revision),
            Reply::Revision(revision) => Some(*revision),
            Reply::None | Reply::Failed { .. } => None,
        }
    }
}

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line that is not the last one.
    #[error("{}:{line}: expected {expected}", path.display())]
    Line {
        /// In which file.
        path: PathBuf,
        /// Which, from 1.
        line: usize,
        /// What a line is.
        expected: &'static str,
    },
}

/// Reads the log of one client; its name is the file's.
///
/// # Errors
/// When the file can't be read, or a line but the last one is none.
pub fn read(path: &Path) -> Result<Vec<Call>, LogError> {
    let file = |source| LogError::File { path: path.to_owned(), source };
    let client = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut calls: BTreeMap<u64, Call> = BTreeMap::new();
    let mut reader = BufReader::new(File::open(path).map_err(file)?);
    let (mut text, mut line) = (String::new(), 0);
    loop {
        text.clear();
        line += 1;
        // What is cut short was not written whole by a client that was killed.
        if reader.read_line(&mut text).map_err(file)? == 0 || !text.ends_with('\n') {
            return Ok(calls.into_values().collect());
        }
        if take_line(text.trim_end(), &client, &mut calls).is_none() {
            let expected = "`called ID NANOS …`, or `outcome`, `revision` or `failed` of a call before";
            return Err(LogError::Line { path: path.to_owned(), line, expected });
        }
    }
}

fn take_line(line: &str, client: &str, calls: &mut BTreeMap<u64, Call>) -> Option<()> {
    let mut words = line.splitn(4, ' ');
    let (word, id, nanos) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let rest = words.next().unwrap_or_default();
    if word == "called" {
        let (kind, rest) = rest.split_once(' ')?;
        let asked = match kind {
            "transaction" => Asked::Transaction(Box::new(v1::Transaction::decode(from_hex(rest)?.as_slice()).ok()?)),
            "write" => Asked::Write(rest.to_owned()),
            "read" => Asked::Read(rest.to_owned()),
            _ => return None,
        };
        let client = client.to_owned();
        let call = Call { client, called_nanos: nanos, replied_nanos: None, asked, reply: Reply::None };
        return calls.insert(id, call).is_none().then_some(());
    }
    let call = calls.get_mut(&id)?;
    call.replied_nanos = Some(nanos);
    call.reply = match word {
        "outcome" => Reply::Outcome(Box::new(v1::Outcome::decode(from_hex(rest)?.as_slice()).ok()?)),
        "revision" => Reply::Revision(rest.parse().ok()?),
        "failed" => {
            let mut words = rest.splitn(3, ' ');
            let (status, code) = (words.next()?.parse().ok()?, words.next()?.to_owned());
            Reply::Failed { status, code, message: words.next().unwrap_or_default().to_owned() }
        }
        _ => return None,
    };
    Some(())
}

/// The clock that all logs of a run share.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since it began.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Writes a client's log. Clones write the same one.
#[derive(Clone, Debug)]
pub struct Log {
    clock: Clock,
    file: Arc<Mutex<(File, u64)>>,
}

/// A call whose reply is awaited.
#[derive(Debug)]
#[must_use = "its reply is to be logged"]
pub struct Awaited(u64);

impl Log {
    /// A new log.
    ///
    /// # Errors
    /// When it is there already, or cannot be made.
    pub fn create(path: &Path, clock: Clock) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(Self { clock, file: Arc::new(Mutex::new((file, 0))) })
    }

    /// To be logged before the call is sent.
    ///
    /// # Errors
    /// When the line cannot be written; then the call must not be sent.
    pub fn called(&self, asked: &Asked) -> io::Result<Awaited> {
        let nanos = self.clock.nanos();
        let rest = match asked {
            Asked::Transaction(transaction) => format!("transaction {}", to_hex(&transaction.encode_to_vec())),
            Asked::Write(what) => format!("write {}", one_line(what)),
            Asked::Read(what) => format!("read {}", one_line(what)),
        };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.1 += 1;
        let id = file.1;
        file.0.write_all(format!("called {id} {nanos} {rest}\n").as_bytes())?;
        Ok(Awaited(id))
    }

    /// To be logged once the reply is there.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn replied(&self, call: &Awaited, reply: &Reply) -> io::Result<()> {
        let nanos = self.clock.nanos();
        let (word, rest) = match reply {
            Reply::None => return Ok(()),
            Reply::Outcome(outcome) => ("outcome", to_hex(&outcome.encode_to_vec())),
            Reply::Revision(revision) => ("revision", revision.to_string()),
            Reply::Failed { status, code, message } => ("failed", format!("{status} {code} {}", one_line(message))),
        };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.0.write_all(format!("{word} {} {nanos} {rest}\n", call.0).as_bytes())
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes what is written");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_log_is_read_as_it_was_written_and_half_a_line_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("anna.calls");
        let log = Log::create(&path, Clock::start()).unwrap();
        let transaction = v1::Transaction { session: 3, number: 1, ..v1::Transaction::default() };
        let outcome = v1::Outcome { session: 3, number: 1, revision: 9, ..v1::Outcome::default() };
        let asked = [
            Asked::Transaction(Box::new(transaction)),
            Asked::Write("submit a job".into()),
            Asked::Read("status".into()),
            Asked::Read("nothing came".into()),
        ];
        let failed = |message: &str| Reply::Failed { status: 14, code: "ENDING".into(), message: message.into() };
        let replies = [Reply::Outcome(Box::new(outcome)), Reply::Revision(10), failed("at\nonce"), Reply::None];
        for (asked, reply) in asked.iter().zip(&replies) {
            let call = log.called(asked).unwrap();
            log.replied(&call, reply).unwrap();
        }
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"called 5 99 tra").unwrap();
        let calls = read(&path).unwrap();
        assert_eq!(calls.iter().map(|call| call.asked.clone()).collect::<Vec<_>>(), asked);
        assert_eq!(calls[2].reply, failed("at once"));
        assert_eq!((calls[0].revision(), calls[3].replied_nanos), (Some(9), None));
        assert!(calls.iter().all(|call| call.client == "anna"));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bob.calls");
        std::fs::write(&path, "called 1 5 read x\nrevision 2 6 7\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("bob.calls:2"));
    }
}
