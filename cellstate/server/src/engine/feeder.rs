//! The thread that writes history: batches, checkpoints, and what is given up. Nothing waits for it, ever.
//!
//! While it keeps up, batches come to it from memory, also while it writes a checkpoint; a queue that is full lets them go, and then they are read from
//! the log, which keeps them until they are in the history. Checkpoints are of the picture, however far behind the batches are, so that recovery
//! is quick in any case. When the log has grown to its bound all the same, the history leaps to the newest checkpoint: what lies
//! between is retired, and said so.
//!
//! A write that fails for the world's reasons, a full disk first of all, closes the store. Then this waits until there is room, opens the
//! store again, and goes on with what the log has: until that is released, which waits for the history, nothing is lost. Damage ends it.

mod wanted;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use plenum_history::{CheckpointInfo, EncodedBatch, LogPlace, OpenError, WriteError};
use plenum_journal::{CellId, FramePlace, Identity, ReadError, Reader};
use plenum_model::{Cell, Revision};

use super::feed::Stopped;
use super::pace::{Pace, is_far_behind};
use super::rest::Rest;
use super::turns::step_back;
use crate::backup::fallback::{Fallback, LogExtent};
use crate::checkpoint;
use crate::error::ServerError;
use crate::options::Settings;
use crate::publish::{LoggedBatch, NotABatch};
use crate::shared::Shared;

/// Most bytes of batches that are written at a time.
const ROUND_BYTES: usize = 4 << 20;

/// How long batches gather before they are fed: to be woken for each of them costs more than it does to write them.
const GATHERING: Duration = Duration::from_millis(5);

/// Places of frames that are asked for at a time. Whoever appends waits meanwhile, and would wait long if this thread, which gives way to all others,
/// were asked off its core then: once for each batch was too often.
const PLACES_AHEAD: usize = 64;

/// Between two pieces of clearing away.
const RETIRING_PAUSE: Duration = Duration::from_millis(100);
/// Before it is tried again what could not be cleared away, or what has to be written before that.
const RETIRING_FAILED_PAUSE: Duration = Duration::from_secs(60);
/// Before it is looked again whether some of the past has grown old, which it does also where nothing changes, and no checkpoint comes.
const AGE_POLL_SHORTEST: Duration = Duration::from_secs(60);
const AGE_POLL_LONGEST: Duration = Duration::from_secs(3600);
/// How long a server that ends goes on feeding. What is left is in the log, and fed after the next start.
const ENDING_PATIENCE: Duration = Duration::from_secs(2);

/// How long a history that failed is left alone before the store is opened again; twice as long each time, up to the longest, until it
/// has been written for some time. The shortest as well before the log is read once more.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A history that was written for so long after it was opened again has not failed before, as far as the next failure goes.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// How long batches are fed before a leap is tried again for which no picture came: that one was waited for, and nothing was fed.
const LEAP_PAUSE: Duration = Duration::from_secs(60);
/// How often is looked meanwhile whether the server ends, and whether there is room.
const PAUSE_POLL: Duration = Duration::from_millis(50);

/// Why the history takes nothing more.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Batch(#[from] NotABatch),
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What the history begins with could not be read.
    #[error(transparent)]
    Names(plenum_history::ReadError),
}

impl FeedError {
    /// Whether it may go by itself, or be made to go.
    fn may_pass(&self) -> bool {
        match self {
            Self::Write(error) => error.may_pass(),
            Self::Open(error) => error.may_pass(),
            Self::Read(ReadError::Disk(error)) => error.may_be_sound(),
            Self::Names(error) => error.may_be_sound(),
            Self::Read(_) | Self::Batch(_) => false,
        }
    }

    /// Whether it is what the log has lost: damaged, or such as the disk can't give back any more.
    fn is_lost_in_log(&self) -> bool {
        match self {
            Self::Read(ReadError::Damaged(_)) => true,
            Self::Read(ReadError::Disk(error)) => !error.may_be_sound(),
            _ => false,
        }
    }

    /// It, and what is behind it.
    fn told(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes.fold(self.to_string(), |told, cause| format!("{told}: {cause}"))
    }
}

/// What the feeding thread remembers.
struct Feeder<'a> {
    shared: &'a Arc<Shared>,
    settings: &'a Settings,
    /// Came from memory, and is not next.
    held: Option<Arc<LoggedBatch>>,
    reader: Option<Reader>,
    /// The newest revision of the history when the disk could not read what comes next in the log.
    unread_behind: Option<u64>,
    /// The cell of the newest checkpoint: pages that are not its very own have changed.
    before: Option<Cell>,
    /// The durable end of the log when the newest checkpoint was written, as [`Feed`] counts it.
    checkpoint_bytes: u64,
    /// Of the newest checkpoint.
    image_bytes: u64,
    /// When the first batch since the newest checkpoint was fed: after a while one is written of however little.
    changed_since: Option<Instant>,
    /// When more is to be cleared away, or may have grown old.
    retiring_due: Option<Instant>,
    /// When the next leap may be tried, after one for which no picture came.
    leap_due: Option<Instant>,
    fallback: Fallback,
    /// As `checkpoint_bytes`, when a fallback was last tried to be written.
    tried_at_bytes: u64,
    /// When it is tried again, where the log waits for it and can't grow either.
    fallback_due: Option<Instant>,
    rest: Rest,
    /// Before the store is opened again, should a write fail.
    pause: Duration,
    /// When it was opened again after the last failure, which is not forgotten yet.
    reopened: Option<Instant>,
}

/// What the feeding thread found when it went round.
struct Round {
    /// There was nothing to feed.
    idle: bool,
    /// The server ends.
    closing: bool,
}

/// Lets go of a log that no history is made of, as it grows, until the server ends.
fn forget(shared: &Shared) {
    while !shared.feed.is_closing() && !shared.has_failed() {
        shared.keeper.release(shared.keeper.tail().revision);
        if let Err(error) = shared.keeper.tidy() {
            let error = &error.source as &dyn std::error::Error;
            tracing::warn!(error, "segments of the log could not be given back");
        }
        std::thread::sleep(RETIRING_PAUSE);
    }
}

/// The feeding thread. `before` is the cell of the newest checkpoint, where it is known.
pub(crate) fn run(shared: &Arc<Shared>, before: Option<Cell>) {
    if !shared.settings.history {
        shared.feed.end();
        if shared.settings.forgets_log {
            forget(shared);
        }
        return;
    }
    step_back();
    let mut feeder = Feeder::new(shared, before);
    // What the log had at the start was told to nobody.
    shared.feed.tell(shared.keeper.tail().revision);
    if let Err(error) = feeder.run_on() {
        let error = error.told();
        tracing::error!(error, "the history takes nothing more until the next start; the log keeps it all");
        shared.feed.stops(Stopped::ForGood(error));
    }
    shared.feed.end();
}

impl<'a> Feeder<'a> {
    fn new(shared: &'a Arc<Shared>, before: Option<Cell>) -> Self {
        Self {
            shared,
            settings: &shared.settings,
            held: None,
            reader: None,
            unread_behind: None,
            before,
            checkpoint_bytes: 0,
            image_bytes: shared.feed.history().newest_checkpoint().map_or(0, |newest| newest.image_bytes),
            changed_since: None,
            retiring_due: None,
            leap_due: None,
            fallback: fallback_of(shared),
            tried_at_bytes: 0,
            fallback_due: None,
            rest: Rest::new(shared.settings.rest),
            pause: FIRST_PAUSE,
            reopened: None,
        }
    }

    /// Goes on to the end, or until it fails for good.
    fn run_on(&mut self) -> Result<(), FeedError> {
        let mut ended = self.run();
        loop {
            match ended {
                // It may pass within a second, and the log keeps all until the history goes on behind it.
                Err(unread) if self.may_read_again(&unread) && !self.shared.feed.is_closing() => {
                    let error = unread.told();
                    tracing::warn!(error, "the history can't read the log; it is tried once more");
                    self.unread_behind = Some(self.shared.feed.history().newest_revision());
                    self.reader = None;
                    if !self.wait_until(Instant::now() + FIRST_PAUSE) {
                        return Ok(());
                    }
                    ended = self.run();
                }
                // The cell has what stood there, and the past goes on behind it: then the log lets go of what it has lost. As long as it stands
                // there no start would open the log.
                Err(lost) if lost.is_lost_in_log() && !self.shared.feed.is_closing() => {
                    let error = lost.told();
                    tracing::error!(
                        error,
                        "the history goes on behind damage of the log; run `plenum verify` when the server has ended"
                    );
                    let before = self.shared.feed.history().newest_revision();
                    ended = match self.leap_patiently() {
                        Ok(false) => return Ok(()),
                        Ok(true) if self.shared.feed.history().newest_revision() == before => return Err(lost),
                        leapt => leapt.and_then(|_| self.run()),
                    };
                }
                Err(error) if error.may_pass() && !self.shared.feed.is_closing() => {
                    if !self.go_on_after(&error)? {
                        return Ok(());
                    }
                    ended = self.checkpoint_again().and_then(|()| self.run());
                }
                ended => return ended,
            }
        }
    }

    /// Whether the disk says that it has lost what comes next in the log, and says so for the first time.
    fn may_read_again(&self, error: &FeedError) -> bool {
        let is_of_disk = matches!(error, FeedError::Read(ReadError::Disk(_))) && error.is_lost_in_log();
        is_of_disk && self.unread_behind != Some(self.shared.feed.history().newest_revision())
    }

    /// Waits; false when the server ends before that.
    fn wait_until(&self, due: Instant) -> bool {
        while Instant::now() < due {
            if self.shared.feed.is_closing() || self.shared.has_failed() {
                return false;
            }
            std::thread::sleep(PAUSE_POLL);
        }
        true
    }

    /// Waits until there is room, and opens the store again. False when the server ends meanwhile: the next start does that.
    fn go_on_after(&mut self, error: &FeedError) -> Result<bool, FeedError> {
        let error = error.told();
        tracing::error!(
            error,
            "the history can't be written now; it goes on by itself, and the log keeps it all meanwhile"
        );
        self.shared.feed.stops(Stopped::ForNow(error));
        let history = self.shared.feed.history();
        loop {
            if !self.wait_to_open_again() {
                return Ok(false);
            }
            match history.reopen().map_err(FeedError::from) {
                Ok(_) => break,
                Err(error) if error.may_pass() => {
                    let error = error.told();
                    tracing::warn!(error, "the history can't be opened again yet");
                    self.shared.feed.stops(Stopped::ForNow(error));
                }
                Err(error) => return Err(error),
            }
        }
        // A store whose tables are damaged fails again and again, and does not say why; and each time all pages would be written.
        if self.reopened.replace(Instant::now()).is_some() {
            let read = history.read_all(|| !self.shared.feed.is_closing());
            read.or_else(|error| if error.may_pass() { Ok(()) } else { Err(WriteError::from(error)) })?;
        }
        // What was not durable may be gone, and comes from the log again; and nobody knows of which cell images were written.
        self.reader = None;
        self.before = None;
        self.image_bytes = history.newest_checkpoint().map_or(0, |newest| newest.image_bytes);
        self.retiring_due = None;
        self.shared.feed.goes_on(self.shared.keeper.size_bytes());
        tracing::info!(from = history.newest_revision() + 1, "the history goes on");
        Ok(true)
    }

    /// Waits for a while, longer each time, and then until a try may help. False when the server ends.
    fn wait_to_open_again(&mut self) -> bool {
        let (began, pause) = (Instant::now(), self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        loop {
            if self.shared.feed.is_closing() {
                return false;
            }
            let waited = began.elapsed();
            if waited >= pause && self.may_open_again(waited) {
                return true;
            }
            std::thread::sleep(PAUSE_POLL);
        }
    }

    /// Whether it is worth a try to open the store again, after so long. While the cell is read-only it would only be closed by the next write. But
    /// where log is kept for this thread, that may be the room that is missing, and nobody else lets go of it: the reserve may do for that.
    fn may_open_again(&self, waited: Duration) -> bool {
        self.shared.space.check_now(&self.shared.keeper);
        let has_own_room = || self.shared.keeper.held_bytes(self.releasable()) > 0;
        !self.shared.space.is_read_only() || (waited >= LONGEST_PAUSE && has_own_room())
    }

    fn run(&mut self) -> Result<(), FeedError> {
        let mut ending = None;
        self.give_up_again();
        self.settle_names()?;
        loop {
            if self.shared.has_failed() {
                return Ok(());
            }
            let Round { idle, closing } = self.round()?;
            if closing {
                let end = *ending.get_or_insert_with(|| Instant::now() + ENDING_PATIENCE);
                if idle || Instant::now() >= end {
                    return self.end();
                }
            } else if idle {
                self.wait();
            }
        }
    }

    /// Feeds what comes next, and does what is due, unless the server ends: also where more comes all the time.
    fn round(&mut self) -> Result<Round, FeedError> {
        self.leap_when_due()?;
        let durable_bytes = self.shared.feed.durable_bytes();
        let batches = self.next_batches(true)?;
        let idle = batches.is_empty();
        if idle {
            self.shared.feed.caught_up(durable_bytes);
        } else {
            self.feed(batches)?;
        }
        let closing = self.shared.feed.is_closing();
        if !closing {
            self.checkpoint_when_due()?;
            if self.retiring_due.is_some_and(|due| due <= Instant::now()) {
                self.give_up();
            }
        }
        Ok(Round { idle, closing })
    }

    /// Feeds what comes next, if it waits in memory.
    fn feed_from_memory(&mut self) -> Result<(), FeedError> {
        let batches = self.next_batches(false)?;
        if batches.is_empty() { Ok(()) } else { self.feed(batches) }
    }

    /// The batches that come next, as many as go in one round, from the log only if it `may_read` that; none if there are none.
    fn next_batches(&mut self, may_read: bool) -> Result<Vec<EncodedBatch>, FeedError> {
        let mut next = self.shared.feed.history().newest_revision() + 1;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let mut places = Vec::new();
        while bytes < ROUND_BYTES {
            // Before the queue is looked at: what was told by now is in it, or did not fit.
            let told = self.shared.feed.told();
            let held = self.held.take().or_else(|| self.shared.feed.take());
            // What was read from the log, and came from memory, too.
            if held.as_ref().is_some_and(|held| held.last().0 < next) {
                continue;
            }
            let is_next = held.as_ref().is_some_and(|held| held.first().0 == next);
            let place = if is_next { self.place_of(next, &mut places) } else { None };
            let (batch, place) = match (held, place) {
                (Some(held), Some(place)) => {
                    self.reader = None;
                    (held, place)
                }
                (held, _) => {
                    self.held = held;
                    if !may_read {
                        break;
                    }
                    match self.read(next, told)? {
                        Some(read) => read,
                        None => break,
                    }
                }
            };
            next = batch.last().0 + 1;
            bytes += batch.bytes().len();
            batches.push(encoded(&batch, place));
        }
        Ok(batches)
    }

    /// Where the frame that begins with a revision stands, if it is one of the newest: of those that were asked for, or are asked for now.
    fn place_of(&self, next: u64, asked: &mut Vec<(u64, FramePlace)>) -> Option<FramePlace> {
        if asked.last().is_none_or(|(newest, _)| *newest < next) {
            *asked = self.shared.keeper.places_from(next, PLACES_AHEAD);
        }
        let found = asked.binary_search_by_key(&next, |(first, _)| *first).ok()?;
        Some(asked[found].1)
    }

    /// The batch of a revision, from the log, and its place; `None` if it was not told of yet, or is not there any more.
    fn read(&mut self, next: u64, told: u64) -> Result<Option<(Arc<LoggedBatch>, FramePlace)>, FeedError> {
        if told < next {
            return Ok(None);
        }
        if self.reader.is_none() {
            match self.shared.keeper.reader(next) {
                Ok(reader) => self.reader = Some(reader),
                // As after a restore: the history goes on from its newest checkpoint.
                Err(ReadError::Retired { oldest, .. }) => {
                    self.leap_over_gap(oldest)?;
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        while let Some(frame) = reader.next_frame()? {
            if frame.last_revision >= next {
                let place = FramePlace { segment: frame.segment, offset: frame.offset, bytes: frame.bytes };
                let batch = LoggedBatch::parse(Bytes::copy_from_slice(frame.payload))?;
                return Ok(Some((Arc::new(batch), place)));
            }
        }
        self.reader = None;
        Ok(None)
    }

    fn leap_over_gap(&mut self, oldest: u64) -> Result<(), FeedError> {
        let history = self.shared.feed.history();
        let newest = history.newest_revision();
        match history.newest_checkpoint().filter(|info| info.revision > newest && info.revision + 1 >= oldest) {
            Some(_) => self.leap()?,
            None => return Err(ReadError::Retired { asked: newest + 1, oldest }.into()),
        }
        Ok(())
    }

    /// Waits for a batch, or until something is due.
    fn wait(&mut self) {
        if self.held.is_some() {
            // It is to be read from the log, which was not told of yet.
            std::thread::sleep(GATHERING);
            return;
        }
        let checkpoint_due = self.changed_since.map(|since| since + self.pace().interval);
        let due = [checkpoint_due, self.retiring_due, self.rest.due()].into_iter().flatten().min();
        let received = self.shared.feed.wait(due);
        if let Ok(batch) = received {
            self.rest.works();
            self.held = batch;
            if !self.shared.feed.is_closing() {
                std::thread::sleep(GATHERING);
            }
        }
        self.rest.give_back_when_due();
    }

    fn feed(&mut self, batches: Vec<EncodedBatch>) -> Result<(), FeedError> {
        let history = self.shared.feed.history();
        // A leap over a gap behind some of them has taken these.
        let newest = history.newest_revision();
        let new = batches.iter().filter(|batch| batch.last > newest);
        let bytes = new.map(|batch| batch.bytes.len() as u64).sum();
        history.append(&batches)?;
        self.shared.feed.fed(bytes);
        self.changed_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Writes a checkpoint when the log since the last one, fed or not, is worth it; or when the last one is old.
    fn checkpoint_when_due(&mut self) -> Result<(), FeedError> {
        let since_bytes = self.shared.feed.durable_bytes().saturating_sub(self.checkpoint_bytes);
        if !self.begins_with_log() && self.pace().is_due(since_bytes, self.changed_since.map(|since| since.elapsed())) {
            self.checkpoint()?;
        }
        Ok(())
    }

    fn pace(&self) -> Pace {
        Pace::new(self.settings, self.image_bytes, self.shared.feed.lag_bytes())
    }

    /// Writes images of the pages that changed, of the picture as it is. False when no picture came.
    fn checkpoint(&mut self) -> Result<bool, FeedError> {
        self.rest.works();
        let history = self.shared.feed.history();
        self.checkpoint_bytes = self.shared.feed.durable_bytes();
        self.changed_since = None;
        let ask = || self.shared.ingress.want_snapshot();
        let Some(cell) = self.shared.picture.wait_for(self.shared.durable_revision(), ask) else {
            self.give_up();
            return Ok(false);
        };
        if cell.revision().0 > history.newest_checkpoint().map_or(0, |newest| newest.revision) {
            self.shared.metrics.checkpoint_began();
            self.image_bytes = self.write_checkpoint(&cell)?.image_bytes;
            self.before = Some(cell);
            if self.reopened.is_none_or(|reopened| reopened.elapsed() >= FORGOTTEN_AFTER) {
                (self.pause, self.reopened) = (FIRST_PAUSE, None);
            }
        } else {
            history.persist_when_due()?;
        }
        self.give_up();
        Ok(true)
    }

    /// Writes a checkpoint of this cell, and feeds beside it what comes meanwhile: of a large cell under full load that would be more than waits in memory.
    fn write_checkpoint(&mut self, cell: &Cell) -> Result<CheckpointInfo, FeedError> {
        let (history, before) = (self.shared.feed.history(), self.before.take());
        let (mut fed, mut due) = (Ok(()), Instant::now());
        let feed = || {
            if fed.is_ok() && Instant::now() >= due {
                fed = self.feed_from_memory();
                due = Instant::now() + GATHERING;
            }
        };
        let written = checkpoint::write_beside(history, cell, before.as_ref(), feed);
        fed?;
        Ok(written?)
    }

    /// After the store was opened again: so that the log, which waited for it, is released; and it shows whether writing works.
    fn checkpoint_again(&mut self) -> Result<(), FeedError> {
        if !self.begins_with_log() {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Whether the history has nothing yet, and the log has all of it: then that is fed first. A history that began with a checkpoint would lack what
    /// is before it.
    fn begins_with_log(&self) -> bool {
        self.shared.feed.history().newest_revision() == 0 && self.shared.keeper.oldest_revision() == 1
    }

    /// Gives up what the history has not got, when the log that keeps it has grown to its bound.
    fn leap_when_due(&mut self) -> Result<(), FeedError> {
        if self.leap_due.is_some_and(|due| Instant::now() < due) {
            return Ok(());
        }
        // The segment that is written and the one that is ready are there in any case: a leap would let go of neither, however large they are.
        let held_bytes = self.shared.keeper.held_bytes(self.releasable());
        if held_bytes < self.settings.log_bytes_max || !is_far_behind(self.settings, self.shared.feed.lag_bytes()) {
            return Ok(());
        }
        self.leap()
    }

    /// Up to which revision the history needs nothing of the log.
    fn releasable(&self) -> u64 {
        let history = self.shared.feed.history();
        let checkpoint = history.newest_checkpoint().map_or(0, |checkpoint| checkpoint.revision);
        history.durable_revision().min(checkpoint)
    }

    /// Leaps once there is a picture of the present, which a disk that makes nothing durable just now may keep it from. False when the server ends
    /// before that.
    fn leap_patiently(&mut self) -> Result<bool, FeedError> {
        loop {
            self.leap()?;
            let Some(due) = self.leap_due else { return Ok(true) };
            if !self.wait_until(due) {
                return Ok(false);
            }
        }
    }

    /// Goes on from a checkpoint of the present: what lies between is retired.
    fn leap(&mut self) -> Result<(), FeedError> {
        let before = self.shared.feed.history().newest_revision();
        let came = self.leave_out()?;
        let now = self.shared.feed.history().newest_revision();
        if now > before {
            let from = before + 1;
            tracing::warn!(
                from,
                to = now,
                "the history left out what it had not got: what is before can not be read any more"
            );
            self.shared.feed.gave_up(now - before);
        }
        if came {
            self.shared.feed.caught_up(self.checkpoint_bytes);
        }
        self.leap_due = (!came).then(|| Instant::now() + LEAP_PAUSE);
        // They may not be told on a full disk, and what was left out is gone by now all the same.
        self.settle_names()?;
        self.shared.feed.fed(0);
        self.give_up();
        Ok(())
    }

    /// Has the history go on from a checkpoint of the present, and gives up the log before that at once: its room is what is missing, and names, which
    /// come next, may take a while. False when no picture came.
    fn leave_out(&mut self) -> Result<bool, FeedError> {
        let came = self.checkpoint()?;
        // What it reads of the log would stay.
        self.reader = None;
        let history = self.shared.feed.history();
        // A history that had nothing at all has begun with that checkpoint.
        if let Some(info) = history.newest_checkpoint().filter(|info| info.revision > history.newest_revision()) {
            history.leap_to(info.revision)?;
            self.give_up_log();
        }
        Ok(came)
    }

    /// Where the history has begun, or leapt, it is told what is called how in the cell of then, before it goes on: after a crash in
    /// between, too.
    fn settle_names(&self) -> Result<(), FeedError> {
        let history = self.shared.feed.history();
        let Some(revision) = history.wants_names_of().map_err(WriteError::from)? else { return Ok(()) };
        if let Some(cell) = self.before.as_ref().filter(|cell| cell.revision().0 == revision) {
            return Ok(checkpoint::settle_names(history, cell)?);
        }
        match checkpoint::read(history, revision) {
            Ok(cell) => Ok(checkpoint::settle_names(history, &cell)?),
            Err(ServerError::ReadHistory(error)) if error.may_be_sound() => Err(FeedError::Names(error)),
            Err(error) => {
                // A number is better than a name that was another one's. Where the history has nothing, names come with the log.
                let error = &error as &dyn std::error::Error;
                if history.newest_revision() > 0 {
                    tracing::warn!(
                        error,
                        revision,
                        "what was there when the history began has no names in it: its checkpoint can't be read"
                    );
                }
                Ok(checkpoint::settle_names(history, &Cell::default())?)
            }
        }
    }

    /// The last round: what is there becomes durable, and the next start has little to do.
    fn end(&mut self) -> Result<(), FeedError> {
        self.checkpoint()?;
        Ok(self.shared.feed.history().persist()?)
    }

    /// Lets go of what is not needed any more: segments of the log, and old history.
    fn give_up(&mut self) {
        let history = self.shared.feed.history();
        let oldest = history.oldest_revision();
        let retired = history
            .retention_floor(self.shared.clock.now().micros)
            .map_err(|error| error.to_string())
            .and_then(|floor| history.retire(floor).map_err(|error| error.to_string()));
        match retired {
            Ok(retirement) => {
                let is_left = history.newest_checkpoint().is_some_and(|newest| retirement.oldest < newest.revision);
                let older_in = is_left.then(|| age_poll(self.settings.retain));
                let pause = if retirement.done { older_in } else { Some(RETIRING_PAUSE) };
                self.retiring_due = pause.map(|pause| Instant::now() + pause);
                if retirement.oldest > oldest {
                    tracing::info!(oldest = retirement.oldest, before = oldest, "old history is retired");
                }
            }
            Err(error) => {
                tracing::warn!(error, "old history could not be cleared away");
                self.retiring_due = Some(Instant::now() + RETIRING_FAILED_PAUSE);
            }
        }
        self.give_up_log();
    }

    /// Lets go of what the history has of the log, as far as neither it nor the fallback leads to that any more.
    fn give_up_log(&mut self) {
        self.shared.keeper.release(self.releasable());
        let oldest = self.shared.feed.history().oldest_revision();
        let wanted_from = self.wanted_from(oldest);
        self.shared.keeper.give_up(wanted_from);
        if Revision(oldest) > self.shared.recent.read().oldest_readable() {
            self.shared.recent.write().compacted(Revision(oldest));
        }
        // The next one is made by others: whoever commits may have to wait for it.
        if let Err(error) = self.shared.keeper.tidy() {
            let error = &error.source as &dyn std::error::Error;
            tracing::warn!(error, "segments of the log could not be given back");
        }
    }

    /// Has it looked then at the latest what can be let go of.
    fn retire_by(&mut self, due: Instant) {
        self.retiring_due = Some(self.retiring_due.map_or(due, |sooner| sooner.min(due)));
    }
}

/// An eighth of the time for which the past is retained, as far as these bounds allow. Of a time in which nothing happens a day counts at most: what is
/// younger then stays for as long as that lasts.
fn age_poll(retain: Duration) -> Duration {
    (retain / 8).clamp(AGE_POLL_SHORTEST, AGE_POLL_LONGEST)
}

/// What there is of a fallback at the start.
fn fallback_of(shared: &Shared) -> Fallback {
    let identity = &shared.identity;
    let identity = Identity { cell: CellId(identity.cell_id), incarnation: identity.incarnation };
    of_log(shared, |log| Fallback::find(&shared.dir, identity, log))
}

/// What the log is now, for who looks whether it goes on from something.
fn of_log<T>(shared: &Shared, look: impl FnOnce(&LogExtent<'_>) -> T) -> T {
    let keeper = &shared.keeper;
    let hash_at = |revision| keeper.hash_at(revision).ok().flatten();
    look(&LogExtent { oldest: keeper.oldest_kept_revision(), last: keeper.tail().revision, hash_at: &hash_at })
}

fn encoded(batch: &LoggedBatch, place: FramePlace) -> EncodedBatch {
    let FramePlace { segment, offset, bytes } = place;
    EncodedBatch {
        first: batch.first().0,
        last: batch.last().0,
        time_micros: batch.time().micros,
        bytes: batch.bytes().clone(),
        place: Some(LogPlace { segment, offset, bytes }),
    }
}

#[cfg(test)]
mod tests;
