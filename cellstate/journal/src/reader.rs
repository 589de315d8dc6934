//! Reads frames back, one at a time, from a revision on; also while the journal is being written.

use crate::archive::FramePlace;
use crate::disk::{DiskError, DiskFile, OpenMode};
use crate::flaw::{Damage, Flaw};
use crate::format::{ChainHash, SECTOR_BYTES, Sector, index};
use crate::frame::FrameHead;
use crate::scan::{Found, Scanner, Step, Tail};
use crate::segment::{self, SegmentHeader};
use crate::shelf::Shelf;
use std::sync::Arc;
use thiserror::Error;

/// One batch as it stands in the log. The payload lives until the next one is read.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The term it was written in.
    pub term: u64,
    /// Its first revision.
    pub first_revision: u64,
    /// Its last revision.
    pub last_revision: u64,
    /// The batch.
    pub payload: &'a [u8],
    /// The segment it stands in.
    pub segment: u64,
    /// Where in that segment, in bytes.
    pub offset: u64,
    /// How long it is there, in bytes.
    pub bytes: u64,
    /// Its hash.
    pub hash: ChainHash,
    /// The hash that it carries: that of the frame before it.
    pub previous: ChainHash,
}

impl<'a> Frame<'a> {
    pub(crate) fn new(head: &FrameHead, segment: u64, offset: u64, hash: ChainHash, bytes: &'a [u8]) -> Self {
        Frame {
            term: head.term,
            first_revision: head.first_revision,
            last_revision: head.last_revision,
            payload: head.payload(bytes),
            segment,
            offset,
            bytes: head.bytes(),
            hash,
            previous: head.previous,
        }
    }
}

/// Why frames could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The revision is no longer in the log.
    #[error("revision {asked} is retired: the log begins at revision {oldest}; read older ones from the history")]
    Retired {
        /// What was asked for.
        asked: u64,
        /// The oldest one that is there.
        oldest: u64,
    },
    /// The revision is not in the log yet.
    #[error("revision {asked} was never written: the log ends at revision {last}")]
    Ahead {
        /// What was asked for.
        asked: u64,
        /// The last durable one.
        last: u64,
    },
    /// Damage that arose after the log was opened.
    #[error("the log is damaged: {0}; end the server and run `plenum verify`")]
    Damaged(Box<Damage>),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Reads forward from a revision to the durable end, and goes on from there when there is more. Segments that
/// a reader still needs are not recycled, however far they are released: drop readers that are done.
pub struct Reader {
    shelf: Arc<Shelf>,
    scanner: Scanner,
    /// The revision that was asked for; frames that end before it are passed over.
    from: u64,
    segment: u64,
    file: Option<Box<dyn DiskFile>>,
    /// Hash of the frame that was read last.
    previous: Option<ChainHash>,
    /// A frame of the first segment at or before what was asked for, until that is entered: its first revision, and where it stands.
    known: Option<(u64, FramePlace)>,
    /// The same of the frame that was read last.
    last: Option<(u64, FramePlace)>,
    damaged: Option<Box<Damage>>,
}

impl Reader {
    /// The next frame; none at the durable end. The first may begin before the revision that was asked for, when
    /// that one is in its middle.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] names the place, and is the answer from then on.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ReadError> {
        if let Some(damage) = &self.damaged {
            return Err(ReadError::Damaged(damage.clone()));
        }
        let Some(found) = self.find()? else { return Ok(None) };
        self.previous = Some(found.hash);
        let place = FramePlace { segment: self.segment, offset: found.offset, bytes: found.head.bytes() };
        self.last = Some((found.head.first_revision, place));
        Ok(Some(Frame::new(&found.head, self.segment, found.offset, found.hash, self.scanner.frame())))
    }

    /// The next frame, if there is a durable one; then anything else in its place is damage.
    fn find(&mut self) -> Result<Option<Found>, ReadError> {
        loop {
            if self.scanner.revision() >= self.shelf.tail().revision {
                return Ok(None);
            }
            let Some(file) = self.file.as_deref() else {
                self.enter()?;
                continue;
            };
            let last = self.shelf.last_revision_of(self.segment);
            if last.is_some_and(|last| self.scanner.revision() >= last) {
                self.shelf.move_pin(self.segment, self.segment + 1);
                self.segment += 1;
                self.file = None;
                continue;
            }
            let (offset, revision) = (self.scanner.offset(), self.scanner.revision().saturating_add(1));
            let flaw = match self.scanner.step(file)? {
                Step::Frame(found) => match found.breaks {
                    None => return Ok(Some(found)),
                    Some(flaw) => flaw,
                },
                Step::Damaged { flaw, .. } => flaw,
                Step::End => Flaw::Missing,
            };
            return Err(self.damage(offset, revision, flaw));
        }
    }

    /// Opens the segment that comes next.
    fn enter(&mut self) -> Result<(), ReadError> {
        let file = self.shelf.disk().open(&segment::name(self.segment), OpenMode::Existing)?;
        let mut sector: Sector = [0; index(SECTOR_BYTES)];
        file.read_at(0, &mut sector)?;
        let revision = self.scanner.revision().saturating_add(1);
        let header = SegmentHeader::decode(&sector).map_err(|flaw| self.damage(0, revision, flaw))?;
        if let Some(expected) = self.previous.filter(|previous| *previous != header.previous) {
            return Err(self.damage(0, revision, Flaw::Chain { expected, found: header.previous }));
        }
        let tail = Tail { revision: header.first_revision.saturating_sub(1), term: header.term, hash: header.previous };
        self.scanner.enter(self.segment, header.segment_bytes.min(file.size_bytes()?), tail);
        if self.from > header.first_revision {
            // Mostly far behind the first frame: one that goes on where another ended passes none by.
            if let Some((first_revision, place)) = self.known.take() {
                self.scanner.resume_at(place.offset, first_revision);
            }
            self.scanner.skip_to(&*file, self.from)?;
        }
        self.file = Some(file);
        Ok(())
    }

    fn damage(&mut self, offset: u64, revision: u64, flaw: Flaw) -> ReadError {
        let file = segment::name(self.segment);
        let damage = Box::new(Damage { file, offset, revision, flaw, followed_by: None });
        self.damaged = Some(damage.clone());
        ReadError::Damaged(damage)
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let passed = self.scanner.revision();
        to.debug_struct("Reader").field("segment", &self.segment).field("passed", &passed).finish_non_exhaustive()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shelf.reader_ended(self.segment, self.last);
    }
}

/// A reader whose first frame holds revision `from` (or is the next one to be written).
pub(crate) fn reader(shelf: &Arc<Shelf>, from: u64) -> Result<Reader, ReadError> {
    let from = from.max(1);
    let last = shelf.tail().revision;
    if from > last.saturating_add(1) {
        return Err(ReadError::Ahead { asked: from, last });
    }
    let (segment, before) = shelf.pin_segment_of(from).map_err(|oldest| ReadError::Retired { asked: from, oldest })?;
    let start = Tail { revision: before, ..Tail::default() };
    let scanner = Scanner::new(segment, 0, start);
    let known = shelf.known_before(segment, from);
    let (file, previous, last, damaged) = (None, None, None, None);
    Ok(Reader { shelf: Arc::clone(shelf), scanner, from, segment, file, previous, known, last, damaged })
}
