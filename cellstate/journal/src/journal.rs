//! The commit path: one frame a batch, one write, one sync, and no way on after a failure.

use crate::archive::FramePlace;
use crate::disk::{DiskError, DiskFile};
use crate::format::{ChainHash, count, index};
use crate::frame::{self, FRAME_HEAD_BYTES, FrameLabel, frame_bytes};
use crate::identity::Identity;
use crate::mark::HighWater;
use crate::scan::Tail;
use crate::segment::{FIRST_FRAME_AT, SegmentHeader};
use crate::shelf::{Keeper, PrepareError, Segment, Shelf};
use std::sync::Arc;
use std::thread::JoinHandle;
use thiserror::Error;

/// What a batch is called in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLabel {
    /// The leader's term; never below that of the batch before.
    pub term: u64,
    /// One after the last revision in the log.
    pub first_revision: u64,
    /// At least the first.
    pub last_revision: u64,
}

/// Why a batch was not taken.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Too large; nothing was written.
    #[error("the batch makes a frame of {found_bytes} bytes, at most {most_bytes} are accepted; send smaller batches")]
    TooLarge {
        /// The frame it would make.
        found_bytes: u64,
        /// The setting.
        most_bytes: u64,
    },
    /// It does not continue the log; nothing was written.
    #[error("the batch begins with revision {found}, expected {expected}")]
    OutOfOrder {
        /// One after the last in the log.
        expected: u64,
        /// What the label says.
        found: u64,
    },
    /// It ends before it begins; nothing was written.
    #[error("the batch has revisions {first} to {last}, expected at least one")]
    Empty {
        /// First revision of the label.
        first: u64,
        /// Last revision of the label.
        last: u64,
    },
    /// Its term is older than that of the log; nothing was written.
    #[error("the batch is of term {found}, the log is at term {expected}; somebody else leads")]
    OldTerm {
        /// The term of the last frame.
        expected: u64,
        /// What the label says.
        found: u64,
    },
    /// The batch before it was not synced yet; nothing was written.
    #[error("a batch up to revision {last_revision} is in flight; sync it first")]
    InFlight {
        /// Its last revision.
        last_revision: u64,
    },
    /// The next segment could not be made; nothing was written, and it may work later.
    #[error("there is no segment to write to; nothing was written")]
    NoSegment(#[source] Arc<PrepareError>),
    /// A write or sync failed, now or earlier. Whether batches up to that revision are durable is unknown until
    /// the log is opened again. Acknowledge nothing, and end.
    #[error(
        "a failed write leaves the outcome of revisions up to {last_revision} unknown; end the server, the next start finds out what is durable"
    )]
    OutcomeUnknown {
        /// The last revision that was being written.
        last_revision: u64,
        /// What the disk answered.
        source: Arc<DiskError>,
    },
}

/// A frame that is written and not synced.
struct InFlight {
    term: u64,
    first_revision: u64,
    last_revision: u64,
    bytes: u64,
    hash: Hashing,
}

/// The hash of a frame, by which the next one names it: needed when it is durable, and not before it is written.
enum Hashing {
    /// It is small, and hashed in less time than a thread takes to start.
    Later,
    /// It is hashed while the disk writes it.
    Beside(JoinHandle<ChainHash>),
}

impl Hashing {
    const BESIDE_FROM_BYTES: usize = 512 * 1024;

    fn begin(frame: &Arc<Vec<u8>>) -> Self {
        if frame.len() < Hashing::BESIDE_FROM_BYTES {
            return Hashing::Later;
        }
        let frame = Arc::clone(frame);
        let started = std::thread::Builder::new().name("hash".to_owned()).spawn(move || frame::hash(&frame));
        started.map_or(Hashing::Later, Hashing::Beside)
    }

    fn end(self, frame: &[u8]) -> ChainHash {
        match self {
            Hashing::Later => frame::hash(frame),
            Hashing::Beside(thread) => thread.join().unwrap_or_else(|_| frame::hash(frame)),
        }
    }
}

/// The log, open for appending. There is one per directory; readers and the background use [`Keeper`].
pub struct Journal {
    shelf: Arc<Shelf>,
    identity: Identity,
    file: Box<dyn DiskFile>,
    segment: u64,
    segment_bytes: u64,
    /// Where the next frame goes.
    offset: u64,
    /// How many frames this process synced in the segment.
    frames: u64,
    /// How many bytes they have.
    frames_bytes: u64,
    /// The durable end.
    tail: Tail,
    in_flight: Option<InFlight>,
    /// Set by the first failure, and never cleared.
    failed: Option<(u64, Arc<DiskError>)>,
    /// The frame that was built last; its room is used again.
    buffer: Arc<Vec<u8>>,
}

/// Where appending begins.
pub(crate) struct Place {
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) segment: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) offset: u64,
    pub(crate) tail: Tail,
}

impl Journal {
    pub(crate) fn new(shelf: Arc<Shelf>, identity: Identity, place: Place) -> Self {
        let Place { file, segment, segment_bytes, offset, tail } = place;
        let (in_flight, failed, buffer) = (None, None, Arc::default());
        let (frames, frames_bytes) = (0, 0);
        Journal {
            shelf,
            identity,
            file,
            segment,
            segment_bytes,
            offset,
            frames,
            frames_bytes,
            tail,
            in_flight,
            failed,
            buffer,
        }
    }

    /// Appends a batch, given in pieces that are copied once, and makes it durable. Readers see it then.
    ///
    /// # Errors
    /// After [`AppendError::OutcomeUnknown`] every later call answers the same; after any other error nothing
    /// was written, and the log can be used.
    pub fn append_and_sync(&mut self, label: BatchLabel, payload: &[&[u8]]) -> Result<Tail, AppendError> {
        self.append(label, payload)?;
        self.sync()
    }

    /// Writes a batch without waiting for the disk; [`Journal::sync`] must follow before the next one.
    ///
    /// # Errors
    /// As [`Journal::append_and_sync`].
    pub fn append(&mut self, label: BatchLabel, payload: &[&[u8]]) -> Result<(), AppendError> {
        self.check_alive()?;
        // Known before anything is copied, so that an oversized batch allocates nothing.
        self.check_size(payload.iter().map(|piece| count(piece.len())).fold(0, u64::saturating_add))?;
        self.append_with(label, |buffer| payload.iter().for_each(|piece| buffer.extend_from_slice(piece)))
    }

    /// Like [`Journal::append`], for a payload that is encoded straight into the frame. `fill` only appends to
    /// the buffer, which already holds the frame's head.
    ///
    /// # Errors
    /// As [`Journal::append_and_sync`]. A payload that is too large is refused after it was encoded: bound it
    /// before.
    ///
    /// # Panics
    /// When `fill` takes something out of the buffer: a bug of the caller.
    pub fn append_with(&mut self, label: BatchLabel, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), AppendError> {
        self.check_alive()?;
        self.check_label(&label)?;
        // Nobody else has it: the frame before is synced.
        let mut buffer = Arc::try_unwrap(std::mem::take(&mut self.buffer)).unwrap_or_default();
        frame::begin(&mut buffer);
        fill(&mut buffer);
        self.write(&label, buffer)
    }

    /// Makes the batch in flight durable, shows it to readers and notes it for the high-water mark. Without one,
    /// it only tells where the log ends.
    ///
    /// # Errors
    /// [`AppendError::OutcomeUnknown`], from now on.
    pub fn sync(&mut self) -> Result<Tail, AppendError> {
        self.check_alive()?;
        if let Some(InFlight { term, first_revision, last_revision, bytes, hash }) = self.in_flight.take() {
            self.file.sync().map_err(|failed| self.fail(last_revision, failed))?;
            let tail = Tail { revision: last_revision, term, hash: hash.end(&self.buffer) };
            self.tail = tail;
            let place = FramePlace { segment: self.segment, offset: self.offset, bytes };
            self.offset += bytes;
            self.frames += 1;
            self.frames_bytes += bytes;
            self.shelf.set_tail(tail, first_revision, place);
        }
        Ok(self.tail)
    }

    /// The durable end of the log.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// Whose log it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The largest payload that one batch may have, in bytes.
    #[must_use]
    pub fn payload_bytes_max(&self) -> u64 {
        self.shelf.options().frame_bytes_max.saturating_sub(FRAME_HEAD_BYTES)
    }

    /// The side for readers and the background.
    #[must_use]
    pub fn keeper(&self) -> Keeper {
        Keeper(Arc::clone(&self.shelf))
    }

    /// The writer of the high-water mark.
    #[must_use]
    pub fn high_water(&self) -> HighWater {
        self.shelf.high_water.clone()
    }

    fn check_alive(&self) -> Result<(), AppendError> {
        match &self.failed {
            None => Ok(()),
            Some((last_revision, source)) => {
                Err(AppendError::OutcomeUnknown { last_revision: *last_revision, source: Arc::clone(source) })
            }
        }
    }

    fn check_size(&self, payload_bytes: u64) -> Result<(), AppendError> {
        let most_bytes = self.shelf.options().frame_bytes_max;
        // Before rounding up, which could overflow.
        let found_bytes = payload_bytes.saturating_add(FRAME_HEAD_BYTES);
        if found_bytes > most_bytes { Err(AppendError::TooLarge { found_bytes, most_bytes }) } else { Ok(()) }
    }

    fn check_label(&self, label: &BatchLabel) -> Result<(), AppendError> {
        if let Some(in_flight) = &self.in_flight {
            return Err(AppendError::InFlight { last_revision: in_flight.last_revision });
        }
        let expected = self.tail.revision.saturating_add(1);
        if label.first_revision != expected {
            return Err(AppendError::OutOfOrder { expected, found: label.first_revision });
        }
        if label.last_revision < label.first_revision {
            return Err(AppendError::Empty { first: label.first_revision, last: label.last_revision });
        }
        if label.term < self.tail.term {
            return Err(AppendError::OldTerm { expected: self.tail.term, found: label.term });
        }
        Ok(())
    }

    fn write(&mut self, label: &BatchLabel, mut buffer: Vec<u8>) -> Result<(), AppendError> {
        let filled = count(buffer.len());
        let payload_bytes = filled.checked_sub(FRAME_HEAD_BYTES).expect("fill only appends to the buffer");
        self.check_size(payload_bytes)?;
        let bytes = frame_bytes(payload_bytes);
        if self.offset + bytes > self.segment_bytes {
            self.begin_segment(bytes, label.last_revision)?;
        }
        let &BatchLabel { term, first_revision, last_revision } = label;
        let label = FrameLabel { segment: self.segment, term, first_revision, last_revision, previous: self.tail.hash };
        frame::seal(&mut buffer, &label);
        debug_assert_eq!(buffer.len(), index(bytes), "a frame has the size it was given room for");
        self.buffer = Arc::new(buffer);
        let hash = Hashing::begin(&self.buffer);
        self.file.write_at(self.offset, &self.buffer).map_err(|failed| self.fail(last_revision, failed))?;
        self.in_flight = Some(InFlight { term, first_revision, last_revision, bytes, hash });
        Ok(())
    }

    /// Goes on in the next segment. Its header is made durable by itself, once in 64 MiB: then a header that is
    /// damaged in front of any frame is never a torn write.
    fn begin_segment(&mut self, frame_bytes: u64, last_revision: u64) -> Result<(), AppendError> {
        let (number, bytes, file) =
            self.shelf.next_segment().map_err(|failed| AppendError::NoSegment(Arc::new(failed)))?;
        debug_assert!(FIRST_FRAME_AT + frame_bytes <= bytes, "a ready file has the size of the present setting");
        let segment = Segment { number, first_revision: self.tail.revision.saturating_add(1), bytes };
        let begun = begin(&*file, &self.identity, &segment, self.tail);
        begun.map_err(|failed| self.fail(last_revision, failed))?;
        self.shelf.begun(segment, self.frames_bytes.checked_div(self.frames).unwrap_or(0));
        self.file = file;
        self.segment = number;
        self.segment_bytes = bytes;
        self.offset = FIRST_FRAME_AT;
        self.frames = 0;
        self.frames_bytes = 0;
        Ok(())
    }

    fn fail(&mut self, last_revision: u64, failed: DiskError) -> AppendError {
        let source = Arc::new(failed);
        self.failed = Some((last_revision, Arc::clone(&source)));
        AppendError::OutcomeUnknown { last_revision, source }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Journal")
            .field("tail", &self.tail)
            .field("segment", &self.segment)
            .field("offset", &self.offset)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Writes a segment's header and makes it durable.
pub(crate) fn begin(file: &dyn DiskFile, identity: &Identity, segment: &Segment, tail: Tail) -> Result<(), DiskError> {
    let header = SegmentHeader {
        cell: identity.cell,
        incarnation: identity.incarnation,
        number: segment.number,
        first_revision: segment.first_revision,
        term: tail.term,
        segment_bytes: segment.bytes,
        previous: tail.hash,
    };
    file.write_at(0, &header.encode())?;
    file.sync()
}
