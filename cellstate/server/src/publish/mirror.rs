//! What the log comes to: the same deltas as everybody's, folded, at the start of a server.

use std::fmt;

use plenum_model::{Cell, Delta, FoldError, LogTime, Revision, planted};

use super::{LoggedBatch, Times};

/// The cell at the durable revision.
#[derive(Debug)]
pub struct Mirror {
    cell: Cell,
    times: Times,
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

    /// When a revision was decided: of old ones too early by up to a thousandth of how long ago it was. `None` before what is remembered.
    #[must_use]
    pub fn time_of(&self, revision: Revision) -> Option<LogTime> {
        self.times.about(revision)
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
    pub fn fold(&mut self, batch: &LoggedBatch, deltas: &[Delta]) -> Result<(), MirrorError> {
        self.times.push(batch.first(), batch.time());
        deltas.iter().try_for_each(|delta| self.cell.apply(&planted::clouded(delta)).map_err(MirrorError::Fold))
    }
}
