//! Stories of what the cell has no more: a job that is retired, a machine that was removed. They are found by name, among all names that
//! the history remembers.

use plenum_history::{Bearer, History, Logged, Order, ReadError, Search, Subject};
use plenum_model::{Cell, Job, JobChange, JobId, MachineId, RejectionCode, Revision, bytes};
use plenum_proto::v1;
use tonic::Code;

use super::super::ended::delta_of;
use super::{Hero, READ_BYTES_MAX, Teller, tell, tell_until};
use crate::api::failure::{Failure, RETIRED};
use crate::api::past;
use std::sync::Arc;

/// What is not there, as it was asked for.
struct Absent<'a> {
    history: &'a History,
    cell: &'a Cell,
    what: String,
    code: RejectionCode,
    /// Most bytes that are read to find it: of names, and of the log.
    read_bytes_max: u64,
}

impl<'a> Absent<'a> {
    fn job(history: &'a History, cell: &'a Cell, (namespace, name): (&str, &str)) -> Self {
        let what = format!("job {name:?} in namespace {namespace:?}");
        Self { history, cell, what, code: RejectionCode::NoSuchJob, read_bytes_max: READ_BYTES_MAX }
    }

    fn machine(history: &'a History, cell: &'a Cell, name: &str) -> Self {
        let what = format!("machine {name:?}");
        Self { history, cell, what, code: RejectionCode::NoSuchMachine, read_bytes_max: READ_BYTES_MAX }
    }

    /// Up to where it is looked for.
    fn until(&self) -> u64 {
        self.cell.revision().0
    }

    fn found(&self, search: Result<Search, ReadError>) -> Result<Bearer, Failure> {
        let (now, newest) = (self.cell.revision(), self.history.newest_revision());
        if newest < now.0 {
            // A newer one may have come and gone in what the history has not got yet, and so may the end of the one that it has.
            return Err(Failure::history(&ReadError::NotThere { asked: now.0, newest }));
        }
        match search.map_err(|error| Failure::history(&error))? {
            Search::Found(bearer) => Ok(bearer),
            Search::NotThere => Err(self.failure(false)),
            Search::TooMany => Err(self.too_much("names are remembered than are looked through at once", None)),
        }
    }

    /// Whether it `was` is known where a name is left.
    fn failure(&self, was: bool) -> Failure {
        let now = self.cell.revision();
        let oldest = self.history.oldest_revision();
        let past = match (was, oldest > 1) {
            (true, _) => format!("it is retired: revisions from {oldest} on are retained"),
            (false, true) => {
                format!("nor since revision {oldest}, the oldest that is retained: it is retired, or never was")
            }
            (false, false) => "and there never was one".to_owned(),
        };
        Failure::not_found(self.code, format!("there is no {} at revision {now}, {past}", self.what))
    }

    /// `until`: what is later was read.
    fn too_much(&self, than: &str, until: Option<u64>) -> Failure {
        let until =
            until.map_or_else(String::new, |revision| format!("; it was there at revision {revision} or before"));
        let message = format!(
            "to find {} more {than} ({}){until}; ask for it at a revision or a time at which it was there (--at)",
            self.what,
            bytes(self.read_bytes_max)
        );
        Failure::new(Code::ResourceExhausted, "TOO_MUCH_TO_READ", message)
    }
}

/// The story of the newest job of a name that was there up to the cell's revision, at which it is not; to its end, which is its last event.
pub(in crate::api) fn job(
    history: &History,
    cell: &Cell,
    (namespace, name): (&str, &str),
    limit: usize,
) -> Result<v1::HistoryResponse, Failure> {
    let absent = Absent::job(history, cell, (namespace, name));
    let until = absent.until();
    let bearer = absent.found(history.find_job(namespace, name, until, absent.read_bytes_max))?;
    let id = JobId::from_bits(bearer.id).ok_or_else(|| absent.failure(false))?;
    let retired = removal(&absent, id, bearer.revision, until)?.ok_or_else(|| absent.failure(true))?;
    let last = Revision(retired.entry.revision.saturating_sub(1));
    let job = job_at(history, last, id)?.ok_or_else(|| absent.failure(true))?;
    let mut story = tell_until(|| Teller::new(history, cell), &Hero::Job(&job), last, limit.saturating_sub(1))?;
    story.events.push(Teller::new(history, cell).event(&retired, "retired", String::new())?);
    story.revision = until;
    Ok(story)
}

/// Where a job was taken out of the cell.
fn removal(absent: &Absent<'_>, id: JobId, from: u64, until: u64) -> Result<Option<Logged>, Failure> {
    let mut walk = absent.history.walk(from..=until, Order::NewestFirst);
    loop {
        if walk.read_bytes() > absent.read_bytes_max && !walk.rest().is_empty() {
            return Err(
                absent.too_much("of the past would have to be read than is read at once", Some(*walk.rest().end()))
            );
        }
        let found = walk.next(|block| block.may_tell_of(Subject::Job(id.to_bits())));
        let Some(entries) = found.map_err(|error| Failure::history(&error))? else { return Ok(None) };
        for logged in entries {
            let is_removal = |change: &JobChange| matches!(change, JobChange::Removed(removed) if *removed == id);
            if delta_of(&logged.entry)?.jobs.iter().any(is_removal) {
                return Ok(Some(logged));
            }
        }
    }
}

/// A job as it was, where that is retained. The cell of then is let go of: more of them are folded for the story.
fn job_at(history: &History, revision: Revision, id: JobId) -> Result<Option<Arc<Job>>, Failure> {
    match past::fold(history, revision.0) {
        Ok(then) => Ok(then.job(id).cloned()),
        Err(failure) if failure.code == RETIRED => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The story of the newest machine of a name that was there up to the cell's revision, at which it is not.
pub(in crate::api) fn machine(
    history: &History,
    cell: &Cell,
    name: &str,
    limit: usize,
) -> Result<v1::HistoryResponse, Failure> {
    let absent = Absent::machine(history, cell, name);
    let bearer = absent.found(history.find_machine(name, absent.until(), absent.read_bytes_max))?;
    let id = MachineId::from_bits(bearer.id).ok_or_else(|| absent.failure(false))?;
    let story = tell(history, cell, &Hero::Machine(id), limit)?;
    let is_told = !story.events.is_empty() || story.truncated;
    if is_told { Ok(story) } else { Err(absent.failure(true)) }
}

#[cfg(test)]
pub(in crate::api) mod tests {
    use super::*;
    use crate::publish::BatchEncoder;
    use plenum_history::{EncodedBatch, Options};
    use plenum_model::{Delta, JobState, LogTime, MachineState};
    use plenum_proto::delta;

    /// A history of these deltas, each in a block of its own.
    pub(in crate::api) fn history_of(dir: &std::path::Path, deltas: &[Delta]) -> History {
        let options = Options { block_batches: 1, ..Options::new(vec![1; 16]) };
        let (history, _) = History::open(dir, options).unwrap();
        append(&history, deltas);
        history
    }

    /// Goes on with these deltas, each a batch of its own.
    pub(in crate::api) fn append(history: &History, deltas: &[Delta]) {
        deltas.iter().for_each(|change| append_asked(history, change, b""));
    }

    /// The same with one, and what asked for it.
    pub(in crate::api) fn append_asked(history: &History, change: &Delta, asked: &[u8]) {
        let mut encoded = Vec::new();
        delta::encode(change, &mut encoded);
        let mut encoder = BatchEncoder::default();
        encoder.begin(change.time);
        encoder.add(change.revision, asked, b"", &encoded);
        let (first, last) = (change.revision.0, change.revision.0);
        let batch = EncodedBatch { first, last, time_micros: 1, bytes: encoder.finish(), place: None };
        history.append(&[batch]).unwrap();
    }

    pub(in crate::api) fn at(revision: u64) -> Delta {
        Delta::new(Revision(revision), LogTime::from_micros(1))
    }

    #[test]
    fn more_names_than_are_looked_through_is_said_and_not_that_there_never_was_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut came = at(1);
        came.machines.push(Arc::new(crate::agents::machine(0, 7, MachineState::Ready)));
        let (history, mut cell) = (history_of(dir.path(), &[came.clone()]), Cell::default());
        cell.apply(&at(1)).unwrap();
        let find = |read_bytes_max| {
            let absent = Absent { read_bytes_max, ..Absent::machine(&history, &cell, "m0") };
            absent.found(history.find_machine("m0", absent.until(), read_bytes_max))
        };
        assert_eq!(find(READ_BYTES_MAX).unwrap().id, came.machines[0].id.to_bits());
        let failure = find(8).unwrap_err();
        assert_eq!((failure.status, failure.code), (Code::ResourceExhausted, "TOO_MUCH_TO_READ"));
        assert!(failure.message.contains("(8B)") && failure.message.contains("--at"), "{}", failure.message);
    }

    #[test]
    fn where_more_of_the_log_would_have_to_be_read_for_a_retirement_is_said_with_what_to_ask_for() {
        let dir = tempfile::tempdir().unwrap();
        let id = JobId { slot: 3, generation: 1 };
        let deltas = [1, 2, 3].map(|revision| {
            let mut delta = at(revision);
            let change = match revision {
                1 => JobChange::Removed(id),
                _ => JobChange::State { id, state: JobState::Running, reason: "".into() },
            };
            delta.jobs.push(change);
            delta
        });
        let (history, cell) = (history_of(dir.path(), &deltas), Cell::default());
        let find = |read_bytes_max| {
            let absent = Absent { read_bytes_max, ..Absent::job(&history, &cell, ("default", "crunch")) };
            removal(&absent, id, 1, 3)
        };
        assert_eq!(find(READ_BYTES_MAX).unwrap().map(|found| found.entry.revision), Some(1));
        let failure = find(0).unwrap_err();
        assert_eq!(failure.code, "TOO_MUCH_TO_READ");
        assert!(failure.message.contains("at revision 2 or before"), "{}", failure.message);
    }

    // It may be that it came and went in what the history has not got yet.
    #[test]
    fn of_what_a_history_that_is_behind_does_not_know_it_is_not_said_that_it_never_was() {
        let dir = tempfile::tempdir().unwrap();
        let (history, mut cell) = (history_of(dir.path(), &[at(1)]), Cell::default());
        cell.apply(&at(1)).unwrap();
        let ask = |cell: &Cell| job(&history, cell, ("default", "crunch"), 10).unwrap_err();
        assert!(ask(&cell).message.ends_with("at revision 1, and there never was one"), "{}", ask(&cell).message);
        cell.apply(&at(2)).unwrap();
        assert_eq!(ask(&cell).code, "HISTORY_BEHIND");
    }

    // A machine that had just been removed had a story without that, and an earlier job was told as the newest of its name.
    #[test]
    fn a_history_that_is_behind_tells_no_story_that_may_lack_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut came = at(1);
        came.machines.push(Arc::new(crate::agents::machine(0, 7, MachineState::Ready)));
        let (history, mut cell) = (history_of(dir.path(), &[came]), Cell::default());
        cell.apply(&at(1)).unwrap();
        assert_eq!(machine(&history, &cell, "m0", 10).unwrap().events.len(), 1);
        cell.apply(&at(2)).unwrap();
        assert_eq!(machine(&history, &cell, "m0", 10).unwrap_err().code, "HISTORY_BEHIND");
    }
}
