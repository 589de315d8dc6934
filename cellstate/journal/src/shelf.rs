//! The segment files of an open log, shared by the commit path, readers and the background: which are there,
//! which are still needed, and the next one, made before it is needed.

mod keeper;
mod making;

use crate::archive::FramePlace;
use crate::disk::{Disk, DiskError, DiskFile, DiskLock, OpenMode};
use crate::forgiving::tells_of_loss;
use crate::mark::HighWater;
use crate::options::Options;
use crate::scan::Tail;
use crate::segment;
use parking_lot::{FairMutex, FairMutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;

pub use keeper::{Keeper, Space};
pub(crate) use making::{Fill, make_segment};

/// How many segments that nobody needs stay until the next one is made of them: one, because one is made at a time …
const SPARED: usize = 1;
/// … but more where they are given up many at a time: of blocks that exist, one is made faster than of new ones.
const SPARED_OF_KEPT: usize = 16;
/// Of how many of the newest frames the place is remembered, where segments are kept: 256 KiB at most.
const PLACES_REMEMBERED: usize = 8192;
/// Of how many readers that ended the place is remembered: whoever reads a message's worth at a time goes on there. So many others may end between two
/// of its messages, watchers that catch up and who looks for one frame; 32 KiB, which are gone through once for each reader.
const READ_ENDS_REMEMBERED: usize = 1024;

/// Why the next segment could not be made. The log itself is not affected, and trying again is right.
#[derive(Debug, Error)]
#[error("segment {number} could not be made; {advice}")]
pub struct PrepareError {
    /// Its number.
    pub number: u64,
    /// What to do about it.
    pub advice: &'static str,
    /// What the disk answered.
    pub source: DiskError,
}

impl PrepareError {
    fn new(number: u64, source: DiskError) -> Self {
        let advice = if source.is_full() { "the disk is full: make room" } else { "see the cause" };
        PrepareError { number, advice, source }
    }
}

/// One segment that was begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) first_revision: u64,
    pub(crate) bytes: u64,
}

/// A segment that is in nobody's list while its file is moved.
#[derive(Clone, Copy)]
struct Taken {
    segment: Segment,
    was_kept: bool,
}

impl Taken {
    fn name(&self) -> String {
        let name = if self.was_kept { segment::kept_name } else { segment::name };
        name(self.segment.number)
    }
}

pub(crate) struct ShelfState {
    /// Segments that were begun, without gaps, oldest first. Never empty once the log is open.
    pub(crate) segments: VecDeque<Segment>,
    /// Number and size of the file that is made and not begun: always one after the last segment. It stays here
    /// until its header is durable; otherwise the background could make it a second time, over the first.
    pub(crate) ready: Option<(u64, u64)>,
    /// How the file after it is made.
    pub(crate) fill: Fill,
    pub(crate) tail: Tail,
    pub(crate) released_revision: u64,
    /// Released segments that stay, oldest first; all are older than the log's.
    pub(crate) kept: VecDeque<Segment>,
    /// What is before this revision need not stay.
    pub(crate) wanted_from: u64,
    /// First revisions and places of the newest frames, rising; none unless segments are kept.
    pub(crate) places: VecDeque<(u64, FramePlace)>,
    /// The same of the frames that readers who ended had read last, the newest ones last.
    pub(crate) read_ends: VecDeque<(u64, FramePlace)>,
    /// How many readers are in each segment.
    pub(crate) pins: BTreeMap<u64, usize>,
}

impl ShelfState {
    fn next_number(&self) -> u64 {
        self.segments.back().map_or(1, |last| last.number + 1)
    }

    /// The last frame of a segment, at or before a revision, whose place is known.
    fn known_before(&self, segment: u64, revision: u64) -> Option<(u64, FramePlace)> {
        let newest = self.places.partition_point(|(first, _)| *first <= revision);
        let newest = newest.checked_sub(1).and_then(|at| self.places.get(at));
        let known = self.read_ends.iter().chain(newest);
        let known = known.filter(|(first, place)| *first <= revision && place.segment == segment);
        known.max_by_key(|(first, _)| *first).copied()
    }

    /// How many of the oldest segments, kept ones first, are to be used again or removed.
    fn recyclable(&self, keep: bool) -> usize {
        self.recyclable_before(self.wanted_from, keep)
    }

    /// The same, if what is before this revision need not stay.
    fn recyclable_before(&self, wanted_from: u64, keep: bool) -> usize {
        let begin = self.segments.front().map(|segment| segment.first_revision);
        let ends = self.kept.iter().skip(1).map(|after| after.first_revision).chain(begin);
        let ends = self.kept.iter().zip(ends);
        let given_up = ends.take_while(|(_, after)| *after <= wanted_from).count();
        if given_up < self.kept.len() {
            return given_up;
        }
        let ends = self.segments.iter().skip(1).take(self.releasable());
        given_up + ends.take_while(|after| !keep || after.first_revision <= wanted_from).count()
    }

    /// How many of the oldest segments nobody needs.
    fn releasable(&self) -> usize {
        let pinned = self.pins.keys().next().copied().unwrap_or(u64::MAX);
        let ends = self.segments.iter().zip(self.segments.iter().skip(1));
        ends.take_while(|(segment, after)| {
            after.first_revision <= self.released_revision.saturating_add(1) && segment.number < pinned
        })
        .count()
    }
}

/// The files of one log.
pub(crate) struct Shelf {
    disk: Arc<dyn Disk>,
    options: Options,
    state: Mutex<ShelfState>,
    /// Held while files are made, recycled or removed, so that one does it at a time. Taken before `state`, which
    /// is never held while the disk is waited for. Fair: who takes it for one file after the other would have it again each time before
    /// anybody who waits for it is awake.
    housekeeping: FairMutex<()>,
    pub(crate) high_water: HighWater,
    pub(crate) lock: Box<dyn DiskLock>,
}

impl Shelf {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        options: Options,
        state: ShelfState,
        high_water: HighWater,
        lock: Box<dyn DiskLock>,
    ) -> Self {
        Shelf { disk, options, state: Mutex::new(state), housekeeping: FairMutex::new(()), high_water, lock }
    }

    fn state(&self) -> MutexGuard<'_, ShelfState> {
        // Nothing panics while it is held; and if it did, each field is whole by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn tail(&self) -> Tail {
        self.state().tail
    }

    /// Shows a batch to readers; only when it is durable.
    pub(crate) fn set_tail(&self, tail: Tail, first_revision: u64, place: FramePlace) {
        let mut state = self.state();
        state.tail = tail;
        if self.options.keep_released {
            if state.places.len() >= PLACES_REMEMBERED {
                state.places.pop_front();
            }
            state.places.push_back((first_revision, place));
        }
        drop(state);
        self.high_water.note(tail.revision, tail.hash);
    }

    /// The last revision of a segment that is complete; none for the one being written.
    pub(crate) fn last_revision_of(&self, number: u64) -> Option<u64> {
        let state = self.state();
        let after = state.segments.iter().find(|segment| segment.number == number.saturating_add(1))?;
        Some(after.first_revision.saturating_sub(1))
    }

    /// Pins the segment that holds a revision (or will): its number and the last revision before it. Otherwise
    /// the oldest revision there is.
    pub(crate) fn pin_segment_of(&self, revision: u64) -> Result<(u64, u64), u64> {
        let mut state = self.state();
        let oldest = state.segments.front().map_or(1, |segment| segment.first_revision);
        let at = state.segments.partition_point(|segment| segment.first_revision <= revision);
        let segment = at.checked_sub(1).and_then(|at| state.segments.get(at)).copied().ok_or(oldest)?;
        *state.pins.entry(segment.number).or_default() += 1;
        Ok((segment.number, segment.first_revision.saturating_sub(1)))
    }

    pub(crate) fn unpin(&self, number: u64) {
        let mut state = self.state();
        if let Some(readers) = state.pins.get_mut(&number) {
            *readers -= 1;
            if *readers == 0 {
                state.pins.remove(&number);
            }
        }
    }

    /// Where to begin to look for a revision in the segment that holds it: the first revision of a frame at or before it, and its place. `None`: at the
    /// beginning of the segment.
    pub(crate) fn known_before(&self, segment: u64, revision: u64) -> Option<(u64, FramePlace)> {
        self.state().known_before(segment, revision)
    }

    /// A reader has ended in a segment; its last frame, if it read one.
    pub(crate) fn reader_ended(&self, number: u64, last: Option<(u64, FramePlace)>) {
        if let Some(last) = last {
            let mut state = self.state();
            if state.read_ends.len() >= READ_ENDS_REMEMBERED {
                state.read_ends.pop_front();
            }
            state.read_ends.push_back(last);
        }
        self.unpin(number);
    }

    pub(crate) fn move_pin(&self, from: u64, to: u64) {
        // The new one first: in between, the older one would be free for the taking.
        *self.state().pins.entry(to).or_default() += 1;
        self.unpin(from);
    }

    /// The file of the next segment, made now if it was not made before; anew where it alone was removed under the server.
    pub(crate) fn next_segment(&self) -> Result<(u64, u64, Box<dyn DiskFile>), PrepareError> {
        self.make_ready()?;
        match self.open_ready() {
            // Where the directory is another one by now, nothing is made in that.
            Err(failed) if failed.source.source.kind() == io::ErrorKind::NotFound && !self.lock.is_removed() => {
                self.state().ready = None;
                self.make_ready()?;
                self.open_ready()
            }
            opened => opened,
        }
    }

    fn open_ready(&self) -> Result<(u64, u64, Box<dyn DiskFile>), PrepareError> {
        let state = self.state();
        let ready = state.ready;
        drop(state);
        let (number, bytes) = ready.expect("made ready before, and only the commit path begins it");
        let file = self.disk.open(&segment::name(number), OpenMode::Existing);
        Ok((number, bytes, file.map_err(|source| PrepareError::new(number, source))?))
    }

    /// The next segment is begun: its header is durable. `frame_bytes` is the mean frame of the one before.
    pub(crate) fn begun(&self, segment: Segment, frame_bytes: u64) {
        let mut state = self.state();
        state.fill = Fill::for_frames(frame_bytes);
        state.ready = None;
        state.segments.push_back(segment);
    }

    /// Makes the next segment, and tidies up.
    pub(crate) fn housekeep(&self) -> Result<(), PrepareError> {
        self.make_ready()?;
        self.tidy()
    }

    /// Keeps released segments that are wanted, and removes those that nobody will need.
    pub(crate) fn tidy(&self) -> Result<(), PrepareError> {
        let spared = if self.options.keep_released { SPARED_OF_KEPT } else { SPARED };
        while self.remove_one(spared)? || self.keep_one()? {}
        Ok(())
    }

    /// Removes all that is to be used again but one segment: for a disk that has hardly any room left.
    pub(crate) fn give_back(&self) -> Result<(), PrepareError> {
        while self.remove_one(SPARED)? {}
        Ok(())
    }

    /// Whoever needs the next segment waits for one of these steps, and not for all of them.
    fn turn(&self) -> FairMutexGuard<'_, ()> {
        self.housekeeping.lock()
    }

    /// Removes the oldest segment when more than `spared` are to be used again; whether it did. One at a time and in order, so that a
    /// power cut cannot leave a gap.
    fn remove_one(&self, spared: usize) -> Result<bool, PrepareError> {
        let _turn = self.turn();
        let Some(oldest) = self.take_recyclable(spared) else { return Ok(false) };
        let removed = self.unless_gone(oldest, self.disk.remove(&oldest.name()));
        let removed = removed.and_then(|()| self.disk.sync_dir());
        removed.map_err(|source| PrepareError::new(oldest.segment.number, source))?;
        Ok(true)
    }

    /// Keeps the oldest segment of the log that was released and is wanted; whether there was one. It has one of both names for good
    /// before the next one changes.
    fn keep_one(&self) -> Result<bool, PrepareError> {
        let _turn = self.turn();
        let Some(oldest) = self.take_wanted() else { return Ok(false) };
        let number = oldest.segment.number;
        let renamed = self.unless_gone(oldest, self.disk.rename(&segment::name(number), &segment::kept_name(number)));
        renamed.map_err(|source| PrepareError::new(number, source))?;
        self.state().kept.push_back(oldest.segment);
        self.disk.sync_dir().map_err(|source| PrepareError::new(number, source))?;
        Ok(true)
    }

    /// Takes the oldest segment that is to be used again or removed, when there are more than `spared` of them.
    fn take_recyclable(&self, spared: usize) -> Option<Taken> {
        let mut state = self.state();
        if state.recyclable(self.options.keep_released) <= spared {
            return None;
        }
        match state.kept.pop_front() {
            Some(segment) => Some(Taken { segment, was_kept: true }),
            None => state.segments.pop_front().map(|segment| Taken { segment, was_kept: false }),
        }
    }

    /// Takes the oldest segment out of the log that nobody needs there, and that is to stay.
    fn take_wanted(&self) -> Option<Taken> {
        let mut state = self.state();
        let wanted = self.options.keep_released && state.releasable() > 0 && {
            let end = state.segments.get(1).map(|after| after.first_revision);
            end.is_some_and(|end| end > state.wanted_from)
        };
        let segment = if wanted { state.segments.pop_front() } else { None };
        segment.map(|segment| Taken { segment, was_kept: false })
    }

    /// Puts a segment back whose file could not be moved away, unless it was all the same, now or by an earlier try: whoever was to read it would look
    /// for a file that is not there.
    fn unless_gone(&self, taken: Taken, moved: Result<(), DiskError>) -> Result<(), DiskError> {
        let Err(failed) = moved else { return Ok(()) };
        let is_gone = || self.disk.list().is_ok_and(|names| !names.contains(&taken.name()));
        if failed.source.kind() == io::ErrorKind::NotFound || is_gone() {
            return Ok(());
        }
        let mut state = self.state();
        let place = if taken.was_kept { &mut state.kept } else { &mut state.segments };
        place.push_front(taken.segment);
        Err(failed)
    }

    fn make_ready(&self) -> Result<(), PrepareError> {
        // It is made by then, mostly: whoever commits does not wait for what goes on besides.
        if self.state().ready.is_some() {
            return Ok(());
        }
        let _turn = self.turn();
        let (number, is_ready, fill) = {
            let state = self.state();
            (state.next_number(), state.ready.is_some(), state.fill)
        };
        if is_ready {
            return Ok(());
        }
        let made = self.make(number, fill).map_err(|source| PrepareError::new(number, source))?;
        self.state().ready = Some((number, made));
        Ok(())
    }

    /// Makes a file of zeros under the name of a segment; its size. Durable when it has the name.
    fn make(&self, number: u64, fill: Fill) -> Result<u64, DiskError> {
        let mut stuck = None;
        if let Some(released) = self.take_recyclable(0) {
            match self.unless_gone(released, self.disk.rename(&released.name(), segment::SPARE)) {
                Ok(()) => tracing::debug!(from = released.segment.number, to = number, "segment recycled"),
                // There may be room for another one all the same. One of the log itself has to go before those behind it, or there would be a gap.
                Err(failed) if released.was_kept => stuck = Some((released, failed)),
                Err(failed) => return Err(failed),
            }
        }
        // Durable before its content goes: the log must not be seen to begin with zeros. Also where nothing was
        // renamed now, because an earlier try may have ended here.
        self.disk.sync_dir()?;
        let made = make_segment(&*self.disk, number, self.options.segment_bytes, fill)?;
        if let Some((released, failed)) = stuck {
            self.leave_aside(&released, &failed);
        }
        Ok(made)
    }

    /// Lets a kept segment be whose own file can't be moved, until the log is opened again: taken first at each try, it would keep all behind it from
    /// being used again. Only once another file could be made: where none can, it is the disk that fails.
    fn leave_aside(&self, stuck: &Taken, failed: &DiskError) {
        let is_its_own = tells_of_loss(&failed.source) || failed.source.kind() == io::ErrorKind::PermissionDenied;
        let file = stuck.name();
        tracing::warn!(file, error = %failed.source, "a segment can't be used again; a new one was made in its place");
        let mut state = self.state();
        let is_oldest = state.kept.front().is_some_and(|oldest| oldest.number == stuck.segment.number);
        if is_its_own && is_oldest {
            state.kept.pop_front();
        }
    }

    fn size_bytes(&self) -> u64 {
        let state = self.state();
        let ready = state.ready.map_or(0, |(_, bytes)| bytes);
        state.segments.iter().map(|segment| segment.bytes).fold(ready, u64::saturating_add)
    }
}
