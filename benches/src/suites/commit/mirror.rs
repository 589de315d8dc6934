//! A scheduler's copy of the cell state, filled and folded as those of the SDK are.

use anyhow::Context;
use plenum_model::Cell;
use plenum_proto::sections::Sections;
use plenum_proto::{delta, pages, v1};

/// The copy, or what has come of it so far.
pub(super) struct Mirror {
    filling: Option<pages::Decoder>,
    cell: Option<Cell>,
}

impl Default for Mirror {
    fn default() -> Self {
        Self { filling: Some(pages::Decoder::new(Sections::MIRROR)), cell: None }
    }
}

impl Mirror {
    /// Whether the snapshot is whole.
    pub(super) fn is_filled(&self) -> bool {
        self.cell.is_some()
    }

    /// Up to where it has come; 0 before the snapshot is whole.
    pub(super) fn revision(&self) -> u64 {
        self.cell.as_ref().map_or(0, |cell| cell.revision().0)
    }

    /// Takes a part of the snapshot.
    pub(super) fn fill(&mut self, part: v1::SnapshotPart) -> anyhow::Result<()> {
        let filling = self.filling.as_mut().context("a page of a snapshot that was not announced")?;
        for page in part.pages {
            filling.add(page)?;
        }
        if part.last {
            self.cell = self.filling.take().map(pages::Decoder::finish).transpose()?;
        }
        Ok(())
    }

    /// Folds what came after it.
    pub(super) fn fold(&mut self, deltas: v1::Deltas) -> anyhow::Result<()> {
        let cell = self.cell.as_mut().context("deltas before the snapshot")?;
        for bytes in deltas.deltas {
            let delta = delta::decode(bytes).context("a delta")?;
            cell.apply(&delta).map_err(|error| anyhow::anyhow!("a delta does not fit the mirror: {error}"))?;
        }
        Ok(())
    }
}
