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

use super::{LoggedBatch, Times};
use crate::view;

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

    /// When revisions were decided, as far as is remembered.
    #[must_use]
    pub(crate) fn times(&self) -> &Times {
        &self.times
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
