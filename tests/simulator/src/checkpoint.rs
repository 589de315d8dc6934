//! What the simulated history has: the newest checkpoint, and old answers. The real one stands on a store of its own, with crash tests
//! of its own; here it never fails, so that the log can be given up behind it, and recovery begins in the middle.

use bytes::Bytes;
use plenum_journal::Tail;
use plenum_model::{Cell, Revision};
use plenum_proto::pages;

use crate::judge::Endings;

/// A cell as the pages that the history keeps.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    pub(crate) revision: Revision,
    pages: Vec<Bytes>,
}

impl Checkpoint {
    /// Of a cell that is durable.
    pub(crate) fn of(cell: &Cell) -> Self {
        let pages = pages::every(cell).map(|(table, number)| pages::encode_page(cell, table, number));
        Self { revision: cell.revision(), pages: pages.collect() }
    }

    /// Puts every other page of an earlier one in place of its own: see `Bug::TearsBackups`.
    pub(crate) fn tear(&mut self, earlier: &Self) {
        self.pages.iter_mut().zip(&earlier.pages).step_by(2).for_each(|(page, other)| page.clone_from(other));
    }

    /// The cell again.
    ///
    /// # Errors
    /// When the pages are none.
    pub(crate) fn cell(&self) -> Result<Cell, String> {
        pages::restore(self.pages.iter().cloned()).map_err(|error| error.to_string())
    }
}

/// What a cell can be restored from: the state at a revision, and the end of the log there.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) tail: Tail,
    /// What had become of jobs by then, for the books.
    pub(crate) endings: Endings,
}
