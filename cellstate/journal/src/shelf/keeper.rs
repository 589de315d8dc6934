//! What readers and the background may ask of an open log, beside the commit path.

use super::{PrepareError, Shelf};
use crate::archive::{Archive, FramePlace};
use crate::disk::DiskError;
use crate::format::ChainHash;
use crate::kept;
use crate::mark::HighWater;
use crate::reader::{ReadError, Reader, reader};
use crate::scan::Tail;
use std::sync::Arc;

/// Whether there is room for the log to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// At least the reserve is free.
    Ok {
        /// Free bytes.
        free_bytes: u64,
    },
    /// Less than the reserve is free: become read-only, before the disk is full.
    Low {
        /// Free bytes.
        free_bytes: u64,
        /// What must be free: the reserve.
        needed_bytes: u64,
    },
}

/// The side of an open log that is not the commit path: for background threads and readers. Clones share it.
/// The directory stays locked until the journal and all keepers and readers are dropped.
#[derive(Clone)]
pub struct Keeper(pub(crate) Arc<Shelf>);

impl Keeper {
    /// Makes the next segment when it is not made yet (a write of a whole segment: keep it off the commit path),
    /// and recycles or removes what is released. Call it after each commit that changed [`Keeper::is_ready`], or
    /// every few milliseconds; it is cheap when there is nothing to do.
    ///
    /// # Errors
    /// The log goes on; try again later. A full disk shows here long before the commit path sees it.
    pub fn prepare(&self) -> Result<(), PrepareError> {
        self.0.housekeep()
    }

    /// Keeps or removes what is released, as [`Keeper::prepare`] does, and makes no segment: whoever needs the next one meanwhile waits for one
    /// file to be renamed or removed, at most.
    ///
    /// # Errors
    /// As [`Keeper::prepare`].
    pub fn tidy(&self) -> Result<(), PrepareError> {
        self.0.tidy()
    }

    /// Removes segments that are spared to be used again: for a disk with hardly any room left.
    ///
    /// # Errors
    /// As [`Keeper::prepare`].
    pub fn give_back(&self) -> Result<(), PrepareError> {
        self.0.give_back()
    }

    /// True when the next segment is made, so that the commit path will not have to wait for it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.state().ready.is_some()
    }

    /// Tells whoever wants the directory that it will be free soon: who asks for it from now on waits, for up to half a minute.
    pub fn ends(&self) {
        self.0.lock.ends();
    }

    /// Gives up all revisions up to this one: they are in the history, durably. Whole segments are recycled at
    /// the next [`Keeper::prepare`], or removed at the next [`Keeper::tidy`]; the last one released stays until
    /// the next segment is needed. Never goes backwards.
    pub fn release(&self, up_to_revision: u64) {
        let mut state = self.0.state();
        state.released_revision = state.released_revision.max(up_to_revision).min(state.tail.revision);
    }

    /// What is before this revision need not stay where released segments are kept ([`crate::Options::keep_released`]). Whole segments are used
    /// again at the next [`Keeper::prepare`], or removed at the next [`Keeper::tidy`], once they are released, too. Never goes backwards.
    pub fn give_up(&self, before_revision: u64) {
        let mut state = self.0.state();
        state.wanted_from = state.wanted_from.max(before_revision);
    }

    /// The size of all whole segments that [`Keeper::give_up`] with this revision would let go of, and that stay without it: where what is before
    /// another revision goes `anyway`, as what was given up already does.
    #[must_use]
    pub fn bytes_let_go(&self, before_revision: u64, anyway: u64) -> u64 {
        let state = self.0.state();
        let keep = self.0.options().keep_released;
        let gone = state.recyclable_before(state.wanted_from.max(anyway), keep);
        let all = state.recyclable_before(before_revision, keep);
        let going = state.kept.iter().chain(&state.segments).take(all).skip(gone);
        going.map(|segment| segment.bytes).fold(0, u64::saturating_add)
    }

    /// Where the newest frames stand, and with which revision each begins: those that begin with this one or a later one, oldest first, at most so
    /// many. None where released segments are not kept. Of others a [`Frame`](crate::Frame) tells.
    ///
    /// Whoever appends waits while this looks, so who wants several asks once.
    #[must_use]
    pub fn places_from(&self, first_revision: u64, most: usize) -> Vec<(u64, FramePlace)> {
        let mut found = Vec::with_capacity(most);
        let state = self.0.state();
        let at = state.places.partition_point(|(first, _)| *first < first_revision);
        found.extend(state.places.range(at..).take(most));
        found
    }

    /// The first revision of the oldest kept segment, or that of the log where none is kept.
    #[must_use]
    pub fn oldest_kept_revision(&self) -> u64 {
        let state = self.0.state();
        state.kept.front().or_else(|| state.segments.front()).map_or(1, |segment| segment.first_revision)
    }

    /// The size of all kept segments together. [`Keeper::size_bytes`] leaves them out.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.0.state().kept.iter().map(|segment| segment.bytes).fold(0, u64::saturating_add)
    }

    /// The size of all segments, kept ones too, that begin behind a revision, without the one that is being written: what there is of log since, to a
    /// segment.
    #[must_use]
    pub fn bytes_behind(&self, revision: u64) -> u64 {
        let state = self.0.state();
        let whole = state.segments.len().saturating_sub(1);
        let all = state.kept.iter().chain(state.segments.iter().take(whole));
        all.filter(|segment| segment.first_revision > revision)
            .map(|segment| segment.bytes)
            .fold(0, u64::saturating_add)
    }

    /// The size of all segments of the log, without the one that is being written, that [`Keeper::release`] up to a revision does not let go of: what
    /// is there for those who have not got further.
    #[must_use]
    pub fn held_bytes(&self, released_revision: u64) -> u64 {
        let state = self.0.state();
        let whole = state.segments.iter().zip(state.segments.iter().skip(1));
        whole
            .filter(|(_, after)| after.first_revision > released_revision.saturating_add(1))
            .map(|(segment, _)| segment.bytes)
            .fold(0, u64::saturating_add)
    }

    /// Reads frames of live and of kept segments by their place.
    #[must_use]
    pub fn archive(&self) -> Archive {
        Archive::new(Arc::clone(&self.0.disk))
    }

    /// Reads from a revision on.
    ///
    /// # Errors
    /// [`ReadError::Retired`] before the oldest, [`ReadError::Ahead`] behind the next one.
    pub fn reader(&self, from_revision: u64) -> Result<Reader, ReadError> {
        reader(&self.0, from_revision)
    }

    /// The hash of the frame that ends with a revision: none where no frame ends there, or nothing tells any more, as what comes behind it was given up.
    /// Where that is kept, the heads of all frames before it in its segment are read.
    ///
    /// # Errors
    /// When what comes behind it can't be read. A kept segment that is damaged tells nothing.
    pub fn hash_at(&self, revision: u64) -> Result<Option<ChainHash>, ReadError> {
        let tail = self.tail();
        if revision >= tail.revision {
            return Ok((revision == tail.revision).then_some(tail.hash));
        }
        let next = revision.saturating_add(1);
        // The frame itself may be given up: the one behind it carries its hash.
        let mut reader = match self.reader(next) {
            Err(ReadError::Retired { .. }) => return self.kept_hash_before(next),
            reader => reader?,
        };
        let behind = reader.next_frame()?.filter(|frame| frame.first_revision == next);
        Ok(behind.map(|frame| frame.previous))
    }

    /// The hash of the frame before the one that begins with a revision, where that one is kept.
    fn kept_hash_before(&self, first_revision: u64) -> Result<Option<ChainHash>, ReadError> {
        let state = self.0.state();
        let at = state.kept.partition_point(|segment| segment.first_revision <= first_revision);
        let number = at.checked_sub(1).and_then(|at| state.kept.get(at)).map(|segment| segment.number);
        drop(state);
        let Some(number) = number else { return Ok(None) };
        kept::hash_before(self.0.disk(), number, first_revision).map_err(ReadError::Disk)
    }

    /// Whether the lock of the directory was removed, mostly with all of it, or another directory is in its place. To
    /// be asked about once a second: what is written then is lost, and another server may have the directory.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.0.lock.is_removed()
    }

    /// Whether the disk has room. To be asked about once a second.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn space(&self) -> Result<Space, DiskError> {
        let free_bytes = self.0.disk.free_bytes()?;
        let needed_bytes = self.0.options.reserve_bytes();
        Ok(if free_bytes < needed_bytes { Space::Low { free_bytes, needed_bytes } } else { Space::Ok { free_bytes } })
    }

    /// What must be free on the disk: below it, [`Keeper::space`] is low.
    #[must_use]
    pub fn needed_bytes(&self) -> u64 {
        self.0.options.reserve_bytes()
    }

    /// The size of all segment files together, the ready one included.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    /// The oldest revision that can be read; one after the last when there is none.
    #[must_use]
    pub fn oldest_revision(&self) -> u64 {
        self.0.state().segments.front().map_or(1, |segment| segment.first_revision)
    }

    /// The durable end of the log.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.0.tail()
    }

    /// The writer of the high-water mark.
    #[must_use]
    pub fn high_water(&self) -> HighWater {
        self.0.high_water.clone()
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Keeper").field("tail", &self.tail()).finish_non_exhaustive()
    }
}
