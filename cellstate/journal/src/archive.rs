//! Reads frames by their place, whichever name their segment has meanwhile.
//!
//! It needs no open log, and holds nothing back: a segment that is used again while it is read shows as damage, and who asked must have
//! known that it was given up.

use crate::disk::{Disk, DiskError, DiskFile, OpenMode};
use crate::flaw::{Damage, Flaw};
use crate::format::{SECTOR_BYTES, index};
use crate::reader::ReadError;
use crate::scan::{Scanner, Source, Step, Tail};
use crate::segment::{self, FIRST_FRAME_AT};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Where a frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePlace {
    /// The number of its segment.
    pub segment: u64,
    /// Where it begins in that file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes, head and padding included.
    pub bytes: u64,
}

/// Frames that follow each other in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRange {
    /// The number of their segment.
    pub segment: u64,
    /// Where the first one begins in that file, in bytes.
    pub offset: u64,
    /// How long they are together, in bytes.
    pub bytes: u64,
    /// The first revision of the first one.
    pub first_revision: u64,
    /// The last revision of the last one.
    pub last_revision: u64,
}

/// Frames that were read: their revisions, and where the payload of each stands in `bytes`.
#[derive(Clone, Debug, Default)]
pub struct FramesRead {
    /// The frames, as they stand in the file.
    pub bytes: Vec<u8>,
    /// First revision, last revision, payload; in order.
    pub frames: Vec<(u64, u64, Range<usize>)>,
}

/// The segments of a directory, live and kept, as a place to look frames up. Clones share it.
#[derive(Clone)]
pub struct Archive {
    disk: Arc<dyn Disk>,
}

impl Archive {
    /// Of a directory, which need not be open as a log.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk }
    }

    /// Reads frames, and checks all that the log checks: checksums, segment, revisions, and the hash by which each names the one before.
    /// Holds as many bytes as the range has.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] names file and place, also where the file is gone; [`ReadError::Disk`].
    pub fn read(&self, range: &FrameRange) -> Result<FramesRead, ReadError> {
        let (name, file) = self.open(range)?;
        let damaged = |offset, revision, flaw| {
            ReadError::Damaged(Box::new(Damage { file: name.clone(), offset, revision, flaw, followed_by: None }))
        };
        let size = file.size_bytes()?;
        let end = range.offset.checked_add(range.bytes).filter(|end| *end <= size);
        let Some(end) = end.filter(|_| range.offset >= FIRST_FRAME_AT && range.offset.is_multiple_of(SECTOR_BYTES))
        else {
            let flaw = Flaw::FileSize { expected_bytes: range.offset.saturating_add(range.bytes), found_bytes: size };
            return Err(damaged(range.offset, range.first_revision, flaw));
        };
        let mut window = Window { start: range.offset, bytes: vec![0; index(range.bytes)] };
        file.read_at(range.offset, &mut window.bytes)?;
        let mut scanner = Scanner::new(range.segment, end, Tail::default());
        scanner.resume_at(range.offset, range.first_revision);
        let mut frames = Vec::new();
        while scanner.offset() < end {
            let (offset, revision) = (scanner.offset(), scanner.revision().saturating_add(1));
            let flaw = match scanner.step(&window)? {
                Step::Frame(found) => match found.breaks {
                    None => {
                        let payload = found.head.payload_range();
                        let start = index(offset - range.offset);
                        let payload = start + payload.start..start + payload.end;
                        frames.push((found.head.first_revision, found.head.last_revision, payload));
                        continue;
                    }
                    Some(flaw) => flaw,
                },
                Step::Damaged { flaw, .. } => flaw,
                Step::End => Flaw::Missing,
            };
            return Err(damaged(offset, revision, flaw));
        }
        if scanner.revision() != range.last_revision {
            let (expected, found) = (range.last_revision.saturating_add(1), scanner.revision().saturating_add(1));
            return Err(damaged(end, range.last_revision, Flaw::FirstRevision { expected, found }));
        }
        Ok(FramesRead { bytes: window.bytes, frames })
    }

    /// The file of a segment. It may get its other name between two looks, and then has that one.
    fn open(&self, range: &FrameRange) -> Result<(String, Box<dyn DiskFile>), ReadError> {
        for name in [segment::name(range.segment), segment::kept_name(range.segment)] {
            match self.disk.open(&name, OpenMode::Existing) {
                Ok(file) => return Ok((name, file)),
                Err(failed) if failed.source.kind() == io::ErrorKind::NotFound => {}
                Err(failed) => return Err(failed.into()),
            }
        }
        let (file, offset, revision) = (segment::kept_name(range.segment), range.offset, range.first_revision);
        Err(ReadError::Damaged(Box::new(Damage { file, offset, revision, flaw: Flaw::Missing, followed_by: None })))
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Archive").field("place", &self.disk.place()).finish()
    }
}

/// A part of a file, in memory.
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Source for Window {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let start = offset.checked_sub(self.start).map(index);
        let bytes = start.and_then(|start| self.bytes.get(start..start.checked_add(into.len())?));
        let bytes = bytes.ok_or_else(|| DiskError {
            operation: "read",
            path: "a part of a segment".to_owned(),
            source: io::ErrorKind::UnexpectedEof.into(),
        })?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}
