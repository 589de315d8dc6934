//! Where batches stand in the log, and how they are read from there.
//!
//! A batch is durable in the log before it comes here. Where the log keeps what it holds, a block is a place in it, and no copy.
use bytes::Bytes;
use std::fmt::Debug;

/// Where the frame of a batch stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// The number of its segment.
    pub segment: u64,
    /// Where it begins in it, in bytes.
    pub offset: u64,
    /// How long it is there, in bytes.
    pub bytes: u64,
}

/// Frames that follow each other in one segment of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// Where the first one begins, and how long all of them are together.
    pub place: LogPlace,
    /// The first revision of the first one.
    pub first: u64,
    /// The last revision of the last one.
    pub last: u64,
}

impl LogRange {
    /// With a frame that begins where this range ends; `None` if it begins elsewhere.
    pub(crate) fn joined(mut self, place: LogPlace, last: u64) -> Option<Self> {
        let joins = place.segment == self.place.segment && place.offset == self.place.offset + self.place.bytes;
        self.place.bytes += place.bytes;
        self.last = last;
        joins.then_some(self)
    }
}

/// Frames of the log that were not read. The text names file and place.
#[derive(Debug, thiserror::Error)]
pub enum FramesError {
    /// They are gone, or not what was logged.
    #[error("{0}")]
    Damaged(String),
    /// They could not be looked at now, and may be sound.
    #[error("{0}")]
    Unread(String),
}

/// The log, as far as it keeps what blocks are made of.
pub trait Frames: Debug + Send + Sync {
    /// The batches of a range, as they were logged, in order. What is given is what was logged; anything else is an error.
    ///
    /// # Errors
    ///
    /// When they are damaged, gone or can't be read; the error names file and place.
    fn read(&self, range: &LogRange) -> Result<Vec<Bytes>, FramesError>;
}
