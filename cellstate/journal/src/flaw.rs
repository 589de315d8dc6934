//! What can be wrong with bytes on disk, and where: the words in which damage is reported.
//!
//! Pure data. What to do about a flaw (refuse, cut, list) is decided by recovery and by `verify`.

use crate::format::{CellId, ChainHash};
use std::fmt;
use thiserror::Error;

/// What is wrong with a record, with what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Zeros where a record must be.
    #[error("zeros where a record is expected, with data after them at offset {data_at}")]
    Zeros {
        /// Offset of the first sector after the place that is not zero.
        data_at: u64,
    },
    /// A file that must be there is not.
    #[error("the file is missing")]
    Missing,
    /// Zeros where the log begins. Segments are made ahead, so this one may be whole: then the one that was written to is gone.
    #[error("expected the beginning of the log, found zeros: what it had is lost, or the segment before it is missing")]
    Blank,
    /// The disk can't read it, or not all of it.
    #[error("expected a file that can be read, found {error}")]
    Unreadable {
        /// What the system answered.
        error: String,
    },
    /// A file of zeros, with files of later numbers behind it.
    #[error("a segment that was never begun, with later ones behind it")]
    NotBegun,
    /// The record does not open with its magic number.
    #[error("magic number: expected {expected:02x?}, found {found:02x?}")]
    Magic {
        /// The right one.
        expected: Vec<u8>,
        /// What stands there.
        found: Vec<u8>,
    },
    /// The head of a frame, a segment header, the identity or a mark slot does not match its own checksum.
    #[error("header checksum: expected {expected:#010x} as written there, found {found:#010x}")]
    HeaderChecksum {
        /// The checksum written in the record.
        expected: u32,
        /// The checksum of the bytes that are there.
        found: u32,
    },
    /// The head of a frame is whole, but the frame is not.
    #[error("frame checksum: expected {expected:#010x} as written there, found {found:#010x}")]
    FrameChecksum {
        /// The checksum written in the frame.
        expected: u32,
        /// The checksum of the bytes that are there.
        found: u32,
    },
    /// A frame claims to be longer than its segment has room.
    #[error("length: expected at most {room_bytes} bytes, found {found_bytes}")]
    Length {
        /// What is left of the segment at that place.
        room_bytes: u64,
        /// What the frame says.
        found_bytes: u64,
    },
    /// The file is shorter or longer than its header says.
    #[error("file size: expected {expected_bytes} bytes, found {found_bytes}")]
    FileSize {
        /// As its header says.
        expected_bytes: u64,
        /// As the directory says.
        found_bytes: u64,
    },
    /// A whole record of another segment: left over from an earlier use of the file, or misplaced.
    #[error("segment number: expected {expected}, found {found}")]
    OtherSegment {
        /// The segment it stands in.
        expected: u64,
        /// The segment it was written for.
        found: u64,
    },
    /// A whole record of another cell.
    #[error("cell id: expected {expected}, found {found}")]
    OtherCell {
        /// The id of this directory.
        expected: CellId,
        /// The id in the record.
        found: CellId,
    },
    /// A record of another format version.
    #[error("format version: expected {expected}, found {found}")]
    OtherFormat {
        /// The version of this program.
        expected: u32,
        /// The version in the record.
        found: u32,
    },
    /// An incarnation that is older than the one before it, or newer than that of the directory.
    #[error("incarnation: expected {least} to {most}, found {found}")]
    Incarnation {
        /// That of the segment before.
        least: u64,
        /// That of the directory.
        most: u64,
        /// That in the record.
        found: u64,
    },
    /// A whole record that does not continue the revisions before it: swapped, repeated or left out.
    #[error("first revision: expected {expected}, found {found}")]
    FirstRevision {
        /// One after the last revision before this place.
        expected: u64,
        /// What the record says.
        found: u64,
    },
    /// A frame whose last revision is before its first.
    #[error("revisions: expected a last one of at least {first}, found {last}")]
    Revisions {
        /// First revision in the frame.
        first: u64,
        /// Last revision in the frame.
        last: u64,
    },
    /// A term below the one before it.
    #[error("term: expected at least {expected}, found {found}")]
    Term {
        /// The term of the record before.
        expected: u64,
        /// The term of the record.
        found: u64,
    },
    /// The record names another predecessor than the one that stands before it.
    #[error("hash of the frame before: expected {expected}, found {found}")]
    Chain {
        /// Hash of the frame that stands before.
        expected: ChainHash,
        /// The hash the record carries.
        found: ChainHash,
    },
}

impl Flaw {
    /// True for what a write that was cut short can leave behind. A whole record in the wrong place is none of
    /// these: no crash makes one.
    pub(crate) fn can_be_torn(&self) -> bool {
        matches!(
            self,
            Flaw::Zeros { .. }
                | Flaw::Magic { .. }
                | Flaw::HeaderChecksum { .. }
                | Flaw::FrameChecksum { .. }
                | Flaw::Length { .. }
                | Flaw::OtherSegment { .. }
        )
    }
}

/// What was found behind damaged bytes: proof that those bytes were once durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The file it is in.
    pub file: String,
    /// Where it starts.
    pub offset: u64,
    /// The first revision of the whole record there; none where there is something, and nothing tells what.
    pub first_revision: Option<u64>,
}

impl fmt::Display for Proof {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} offset {}", self.file, self.offset)?;
        self.first_revision.map_or(Ok(()), |revision| write!(to, " (revision {revision})"))
    }
}

/// A flaw with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Name of the file in the directory.
    pub file: String,
    /// Byte offset of the record in it.
    pub offset: u64,
    /// The first revision that is expected at that place; 0 where the record has none, or nobody knows it.
    pub revision: u64,
    /// What is wrong with it.
    pub flaw: Flaw,
    /// What follows, when there is something: then the damaged record was durable.
    pub followed_by: Option<Proof>,
}

impl fmt::Display for Damage {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} offset {} revision {}: {}", self.file, self.offset, self.revision, self.flaw)?;
        let Some(proof) = &self.followed_by else { return Ok(()) };
        // Without a revision it is something, and nobody knows what.
        let whole = if proof.first_revision.is_some() { "whole data" } else { "something" };
        write!(to, "; {whole} follows at {proof}")
    }
}
