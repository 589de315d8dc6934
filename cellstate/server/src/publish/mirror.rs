//! The picture that readers get: the same deltas as everybody's, folded behind the commit path.
//!
//! The core's own cell is never shared, so that it never has to copy a page; this one is, and holds nothing that is not durable.
//! It costs the memory of a second cell and a few dozen nanoseconds a row on another thread.

use std::fmt;

use bytes::Bytes;
use plenum_history::{ConflictNote, EndedAllocation};
use plenum_model::{Cell, Delta, FoldError, LogTime, Revision, SessionId, planted};
use plenum_proto::v1;
use prost::Message;

use super::LoggedBatch;
use crate::view;

/// Batches whose time is remembered exactly. 16 bytes each: 1 MiB.
const TIMES_MAX: usize = 65_536;

/// The cell at the durable revision.
#[derive(Debug)]
pub struct Mirror {
    cell: Cell,
    times: Times,
}

/// What a batch meant to those who keep books about it.
#[derive(Debug, Default)]
pub struct Folded {
    /// The final rows of the allocations that ended.
    pub ended: Vec<EndedAllocation>,
    /// The transactions that lost claims to somebody.
    pub conflicts: Vec<ConflictNote>,
    /// All transactions that were decided, in order, with their schedulers' names.
    pub outcomes: Vec<(std::sync::Arc<str>, v1::Outcome)>,
}

/// A batch that cannot be folded: what is in the log is not what the core decided.
#[derive(Debug)]
pub enum MirrorError {
    /// A delta does not fit.
    Fold(FoldError),
    /// What was asked or answered cannot be read.
    Decode {
        /// Where.
        revision: Revision,
        /// What is wrong.
        source: prost::DecodeError,
    },
}

impl fmt::Display for MirrorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fold(_) => f.write_str("a delta does not fit the cell before it; run `plenum verify`"),
            Self::Decode { revision, .. } => {
                write!(f, "the request or the answer of revision {revision} cannot be read; run `plenum verify`")
            }
        }
    }
}

impl std::error::Error for MirrorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Fold(source) => Some(source),
            Self::Decode { source, .. } => Some(source),
        }
    }
}

impl Mirror {
    /// Begins with a durable picture.
    #[must_use]
    pub fn new(cell: Cell) -> Self {
        Self { cell, times: Times::default() }
    }

    /// The picture. A clone is a snapshot.
    #[must_use]
    pub fn cell(&self) -> &Cell {
        &self.cell
    }

    /// When a revision was decided; `None` before what is remembered.
    #[must_use]
    pub fn time_of(&self, revision: Revision) -> Option<LogTime> {
        self.times.of(revision)
    }

    /// Takes one delta that all books know of already.
    ///
    /// # Errors
    /// As [`Mirror::fold`].
    pub fn advance(&mut self, delta: &Delta) -> Result<(), MirrorError> {
        self.times.push(delta.revision, delta.time);
        self.cell.apply(delta).map_err(MirrorError::Fold)
    }

    /// Takes the next durable batch, with its deltas decoded.
    ///
    /// # Errors
    /// When the batch does not fit. The picture is then in between, and must not be shown any more.
    pub fn fold(&mut self, batch: &LoggedBatch, deltas: &[Delta]) -> Result<Folded, MirrorError> {
        let mut folded = Folded::default();
        self.times.push(batch.first(), batch.time());
        for delta in deltas {
            self.final_rows(delta, &mut folded);
            self.cell.apply(&planted::clouded(delta)).map_err(MirrorError::Fold)?;
            self.note_outcome(batch, delta.revision, &mut folded)?;
        }
        Ok(folded)
    }

    /// The rows of those who end are gone once the delta is applied.
    fn final_rows(&self, delta: &Delta, folded: &mut Folded) {
        for end in &delta.ends {
            let Some(allocation) = self.cell.allocation_in(end.slot) else { continue };
            let created = self.time_of(allocation.row.created);
            let mut row = view::allocation(&self.cell, &allocation, created);
            view::ended(&mut row, end, delta);
            let view = Bytes::from(row.encode_to_vec());
            folded.ended.push(EndedAllocation { id: row.id, revision: delta.revision.0, view });
        }
    }

    fn note_outcome(&self, batch: &LoggedBatch, revision: Revision, folded: &mut Folded) -> Result<(), MirrorError> {
        let unreadable = |source| MirrorError::Decode { revision, source };
        let decided = batch.decided(revision).unwrap_or_default();
        let decision = v1::Decision::decode(decided).map_err(unreadable)?;
        let Some(v1::decision::Answer::Outcome(outcome)) = decision.answer else { return Ok(()) };
        let session = self.cell.session(SessionId(outcome.session));
        let scheduler = session.map(|session| session.scheduler.clone()).unwrap_or_default();
        if !outcome.refusals.is_empty() {
            let asked = v1::Command::decode(batch.asked(revision).unwrap_or_default()).map_err(unreadable)?;
            if let Some(v1::command::Ask::Commit(asked)) = asked.ask {
                let deciding_micros = asked.decision.map_or(0, |decision| decision.deciding_micros);
                let note = ConflictNote::of_outcome(&outcome, &scheduler, asked.base_revision, deciding_micros);
                folded.conflicts.extend(note);
            }
        }
        folded.outcomes.push((scheduler, outcome));
        Ok(())
    }
}

/// When revisions were decided: one entry a batch, rising. Beyond its bound every other entry of the older half goes, so that old
/// times become coarser, never wrong by more than their neighbour.
#[derive(Debug, Default)]
struct Times {
    firsts: Vec<(Revision, LogTime)>,
}

impl Times {
    fn push(&mut self, first: Revision, time: LogTime) {
        if self.firsts.last().is_some_and(|(_, last)| *last == time) {
            return;
        }
        if self.firsts.len() >= TIMES_MAX {
            let half = self.firsts.len() / 2;
            let mut position = 0;
            self.firsts.retain(|_| {
                position += 1;
                position > half || position % 2 == 1
            });
        }
        self.firsts.push((first, time));
    }

    fn of(&self, revision: Revision) -> Option<LogTime> {
        let after = self.firsts.partition_point(|(first, _)| *first <= revision);
        self.firsts.get(after.checked_sub(1)?).map(|(_, time)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_until_there_are_too_many() {
        let mut times = Times::default();
        (0..10)
            .for_each(|batch| times.push(Revision(1 + 3 * batch), LogTime::from_micros(i64::try_from(batch).unwrap())));
        assert_eq!(times.of(Revision(0)), None);
        assert_eq!(times.of(Revision(6)), Some(LogTime::from_micros(1)));
        assert_eq!(times.of(Revision(1000)), Some(LogTime::from_micros(9)));
    }

    #[test]
    fn old_times_become_coarser_and_stay_in_order() {
        let mut times = Times::default();
        let batches = 3 * TIMES_MAX as u64;
        (1..=batches)
            .for_each(|batch| times.push(Revision(batch), LogTime::from_micros(i64::try_from(batch).unwrap())));
        assert!(times.firsts.len() <= TIMES_MAX && times.firsts.is_sorted());
        assert_eq!(times.of(Revision(batches)), Some(LogTime::from_micros(i64::try_from(batches).unwrap())));
        assert!(times.of(Revision(1)).is_some());
    }
}
