//! What can be set about a log, with its bounds.

use crate::format::{CellId, SECTOR_BYTES};
use crate::frame::FRAME_HEAD_BYTES;
use crate::segment::FIRST_FRAME_AT;
use thiserror::Error;

const MIB: u64 = 1024 * 1024;

/// A frame's length is 32 bits on disk; this is far below, and far above what a batch should have.
const FRAME_BYTES_LIMIT: u64 = 1024 * MIB;

/// Settings of a log.
#[derive(Clone, Debug)]
pub struct Options {
    /// The id of the cell to be made when the directory is empty; none refuses an empty directory.
    pub create: Option<CellId>,
    /// The cell whose directory it must be; none takes any.
    pub expect: Option<CellId>,
    /// Size of a new segment file, a multiple of 512; default 64 MiB. Existing ones keep theirs.
    pub segment_bytes: u64,
    /// The largest frame that is accepted, head and padding included; default 16 MiB. It must fit in a segment.
    pub frame_bytes_max: u64,
    /// Free room below which [`Space::Low`](crate::Space::Low) is reported; none is two segments, at least 64 MiB.
    pub reserve_bytes: Option<u64>,
    /// Whether released segments stay under another name until they are given up, see [`Keeper::give_up`](crate::Keeper::give_up);
    /// default false: they are used again.
    pub keep_released: bool,
    /// What other files of a new cell take of its disk: none is made where there is too little room for these, two segments and the reserve. None
    /// (default): the room is not looked at.
    pub beside_new_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            create: None,
            expect: None,
            segment_bytes: 64 * MIB,
            frame_bytes_max: 16 * MIB,
            reserve_bytes: None,
            keep_released: false,
            beside_new_bytes: None,
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{setting}: expected {expected}, found {found}; change the setting")]
pub struct OptionsError {
    /// Its name.
    pub setting: &'static str,
    /// What it may be.
    pub expected: String,
    /// What it is.
    pub found: u64,
}

impl Options {
    /// The free room below which the cell should become read-only. Two segments: the next one, and one more that
    /// others may take while it is being made.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes.unwrap_or_else(|| self.segment_bytes.saturating_mul(2).max(64 * MIB))
    }

    /// What has to be free on the disk of a new log: two segments, as the next one is made beforehand, what is to stay free beside them, and what
    /// other files take. None: that is not looked at.
    pub(crate) fn new_log_bytes(&self) -> Option<u64> {
        let log_bytes = self.segment_bytes.saturating_mul(2).saturating_add(self.reserve_bytes());
        Some(log_bytes.saturating_add(self.beside_new_bytes?))
    }

    pub(crate) fn check(&self) -> Result<(), OptionsError> {
        let least = FIRST_FRAME_AT + SECTOR_BYTES;
        if self.segment_bytes < least || !self.segment_bytes.is_multiple_of(SECTOR_BYTES) {
            let expected = format!("a multiple of {SECTOR_BYTES}, at least {least}");
            return Err(OptionsError { setting: "segment_bytes", expected, found: self.segment_bytes });
        }
        let most = FRAME_BYTES_LIMIT.min(self.segment_bytes - FIRST_FRAME_AT);
        if self.frame_bytes_max <= FRAME_HEAD_BYTES || self.frame_bytes_max > most {
            let expected = format!("{} to {most}, what a segment holds", FRAME_HEAD_BYTES + 1);
            return Err(OptionsError { setting: "frame_bytes_max", expected, found: self.frame_bytes_max });
        }
        Ok(())
    }
}
