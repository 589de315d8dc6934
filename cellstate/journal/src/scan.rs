//! Walks the frames of one segment: whole frames in order, precise damage, or the end. Pure: bytes come from a
//! [`Source`], one frame is in memory at a time, and no length is believed before its checksum is.

use crate::disk::{DiskError, DiskFile};
use crate::flaw::Flaw;
use crate::format::{CHUNK_BYTES, ChainHash, SECTOR_BYTES, count, index, is_zero};
use crate::frame::{FrameHead, hash};
use crate::segment::FIRST_FRAME_AT;
use std::io;

/// Where a segment's bytes come from.
pub(crate) trait Source {
    /// Fills `into` from that offset.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;
}

impl Source for dyn DiskFile + '_ {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        DiskFile::read_at(self, offset, into)
    }
}

impl Source for Vec<u8> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let end = index(offset).checked_add(into.len());
        let bytes = end.and_then(|end| self.get(index(offset)..end)).ok_or_else(|| DiskError {
            operation: "read",
            path: "memory".to_owned(),
            source: io::ErrorKind::UnexpectedEof.into(),
        })?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

/// The end of the chain so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The last revision; 0 before the first.
    pub revision: u64,
    /// The term of the last frame.
    pub term: u64,
    /// The hash of the last frame.
    pub hash: ChainHash,
}

/// A whole frame that was found. Its bytes are [`Scanner::frame`] until the next step.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) head: FrameHead,
    pub(crate) offset: u64,
    pub(crate) hash: ChainHash,
    /// Why it does not continue the frame before it, when it does not.
    pub(crate) breaks: Option<Flaw>,
}

/// What stands at the scanner's place.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Frame(Found),
    Damaged {
        flaw: Flaw,
        /// Offset and first revision of the next whole frame in this segment.
        next: Option<(u64, u64)>,
    },
    /// Nothing but zeros from here on.
    End,
}

/// Walks one segment. It stays where it is after damage; [`Scanner::resume_at`] goes on behind it.
pub(crate) struct Scanner {
    segment: u64,
    segment_bytes: u64,
    offset: u64,
    revision: u64,
    term: u64,
    /// Hash of the frame before; none when that frame was passed without being hashed.
    previous: Option<ChainHash>,
    /// The frame that was read last; kept, so that walking allocates once.
    frame: Vec<u8>,
}

impl Scanner {
    /// Starts before the first frame of a segment, which must continue `tail`.
    pub(crate) fn new(segment: u64, segment_bytes: u64, tail: Tail) -> Self {
        let Tail { revision, term, hash } = tail;
        Scanner {
            segment,
            segment_bytes,
            offset: FIRST_FRAME_AT,
            revision,
            term,
            previous: Some(hash),
            frame: Vec::new(),
        }
    }

    /// Goes to another segment and keeps the buffer.
    pub(crate) fn enter(&mut self, segment: u64, segment_bytes: u64, tail: Tail) {
        let frame = std::mem::take(&mut self.frame);
        *self = Scanner { frame, ..Scanner::new(segment, segment_bytes, tail) };
    }

    /// Where the next frame is expected.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The last revision that was passed.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The bytes of the frame that the last step found, whole sectors.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Looks at what stands here, and passes it when it is a whole frame.
    pub(crate) fn step(&mut self, source: &(impl Source + ?Sized)) -> Result<Step, DiskError> {
        let (offset, next_sector) = (self.offset, self.offset + SECTOR_BYTES);
        if self.room_at(offset) < SECTOR_BYTES {
            return Ok(Step::End);
        }
        self.read_sector(source, offset)?;
        if is_zero(&self.frame) {
            return Ok(match first_data(source, next_sector, self.segment_bytes)? {
                None => Step::End,
                Some(at) => self.damaged(source, Flaw::Zeros { data_at: at }, at)?,
            });
        }
        let head = match self.whole_head(offset) {
            Ok(head) => head,
            Err(flaw) => return self.damaged(source, flaw, next_sector),
        };
        self.read_rest(source, offset, &head)?;
        if let Err(flaw) = head.check(&self.frame) {
            // The head can be trusted, so the search begins behind the frame: its payload may hold anything, even
            // what looks like a frame.
            return self.damaged(source, flaw, offset + head.bytes());
        }
        let found = Found { breaks: self.breaks(&head), hash: hash(&self.frame), head, offset };
        self.offset += head.bytes();
        self.revision = head.last_revision;
        self.term = head.term;
        self.previous = Some(found.hash);
        Ok(Step::Frame(found))
    }

    /// Goes on at a whole frame, behind damage or behind what was passed without a look. What it should continue is unknown, and isn't checked.
    pub(crate) fn resume_at(&mut self, offset: u64, first_revision: u64) {
        self.offset = offset;
        self.revision = first_revision.saturating_sub(1);
        self.previous = None;
    }

    /// Passes frames that end before `revision`, reading only their heads. Stops in front of anything doubtful,
    /// for the next step to judge.
    pub(crate) fn skip_to(&mut self, source: &(impl Source + ?Sized), revision: u64) -> Result<(), DiskError> {
        while self.room_at(self.offset) >= SECTOR_BYTES {
            self.read_sector(source, self.offset)?;
            match self.whole_head(self.offset) {
                Ok(head) if head.last_revision < revision && head.first_revision == self.revision.saturating_add(1) => {
                    self.offset += head.bytes();
                    self.revision = head.last_revision;
                    self.term = head.term;
                    self.previous = None;
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn room_at(&self, offset: u64) -> u64 {
        self.segment_bytes.saturating_sub(offset)
    }

    fn read_sector(&mut self, source: &(impl Source + ?Sized), offset: u64) -> Result<(), DiskError> {
        self.frame.resize(index(SECTOR_BYTES), 0);
        source.read_at(offset, &mut self.frame)
    }

    /// Reads what follows the first sector of a frame. Only for a head that fits into the segment, so that memory
    /// is bounded by what the file has.
    fn read_rest(&mut self, source: &(impl Source + ?Sized), offset: u64, head: &FrameHead) -> Result<(), DiskError> {
        self.frame.resize(index(head.bytes()), 0);
        source.read_at(offset + SECTOR_BYTES, &mut self.frame[index(SECTOR_BYTES)..])
    }

    /// The head in the sector that was read last, if it is one of this segment and its frame fits in.
    fn whole_head(&self, offset: u64) -> Result<FrameHead, Flaw> {
        let head = FrameHead::decode(&self.frame)?;
        if head.segment != self.segment {
            return Err(Flaw::OtherSegment { expected: self.segment, found: head.segment });
        }
        let (room_bytes, found_bytes) = (self.room_at(offset), head.bytes());
        if found_bytes > room_bytes { Err(Flaw::Length { room_bytes, found_bytes }) } else { Ok(head) }
    }

    /// Why a whole frame does not continue what was passed before it.
    fn breaks(&self, head: &FrameHead) -> Option<Flaw> {
        let expected = self.revision.saturating_add(1);
        if head.first_revision != expected {
            return Some(Flaw::FirstRevision { expected, found: head.first_revision });
        }
        if head.last_revision < head.first_revision {
            return Some(Flaw::Revisions { first: head.first_revision, last: head.last_revision });
        }
        if head.term < self.term {
            return Some(Flaw::Term { expected: self.term, found: head.term });
        }
        let expected = self.previous.filter(|previous| *previous != head.previous)?;
        Some(Flaw::Chain { expected, found: head.previous })
    }

    fn damaged(&mut self, source: &(impl Source + ?Sized), flaw: Flaw, search_from: u64) -> Result<Step, DiskError> {
        Ok(Step::Damaged { flaw, next: self.next_whole(source, search_from)? })
    }

    /// The first whole frame of this segment at or behind an offset. When the head of a frame is lost, this looks
    /// into its payload, too: an image of a frame in there, on a sector, passes for one. Then a torn write is taken
    /// for damage and refused; nothing is lost by that.
    pub(crate) fn next_whole(
        &mut self,
        source: &(impl Source + ?Sized),
        from: u64,
    ) -> Result<Option<(u64, u64)>, DiskError> {
        let mut chunk = Vec::new();
        let mut start = from;
        while self.room_at(start) >= SECTOR_BYTES {
            let length = self.room_at(start).min(CHUNK_BYTES) / SECTOR_BYTES * SECTOR_BYTES;
            chunk.resize(index(length), 0);
            source.read_at(start, &mut chunk)?;
            for (offset, sector) in (start..).step_by(index(SECTOR_BYTES)).zip(chunk.chunks(index(SECTOR_BYTES))) {
                self.frame.clear();
                self.frame.extend_from_slice(sector);
                if let Ok(head) = self.whole_head(offset) {
                    self.read_rest(source, offset, &head)?;
                    if head.check(&self.frame).is_ok() {
                        return Ok(Some((offset, head.first_revision)));
                    }
                }
            }
            start += length;
        }
        Ok(None)
    }
}

/// The first sector that is not zero, from an offset (on a sector) to the end.
pub(crate) fn first_data(source: &(impl Source + ?Sized), from: u64, end: u64) -> Result<Option<u64>, DiskError> {
    let mut found = None;
    each_chunk(source, from, end, |start, chunk| {
        if !is_zero(chunk) {
            let sector = chunk.chunks(index(SECTOR_BYTES)).position(|sector| !is_zero(sector));
            found = sector.map(|sector| start + count(sector) * SECTOR_BYTES);
        }
        found.is_none()
    })?;
    Ok(found)
}

/// The end of the last sector that is not zero, from an offset to the end; `from` when there is none.
pub(crate) fn data_end(source: &(impl Source + ?Sized), from: u64, end: u64) -> Result<u64, DiskError> {
    let mut last = from;
    each_chunk(source, from, end, |start, chunk| {
        let sector = chunk.chunks(index(SECTOR_BYTES)).rposition(|sector| !is_zero(sector));
        if let Some(sector) = sector {
            last = (start + (count(sector) + 1) * SECTOR_BYTES).min(end);
        }
        true
    })?;
    Ok(last)
}

fn each_chunk(
    source: &(impl Source + ?Sized),
    from: u64,
    end: u64,
    mut visit: impl FnMut(u64, &[u8]) -> bool,
) -> Result<(), DiskError> {
    let mut chunk = Vec::new();
    let mut start = from;
    while start < end {
        chunk.resize(index((end - start).min(CHUNK_BYTES)), 0);
        source.read_at(start, &mut chunk)?;
        if !visit(start, &chunk) {
            break;
        }
        start += count(chunk.len());
    }
    Ok(())
}

#[cfg(test)]
#[path = "scan/tests.rs"]
mod tests;
