//! The thread that writes history: batches, checkpoints, and what is given up. Nothing waits for it, ever.
//!
//! While it keeps up, batches come to it from memory, also while it writes a checkpoint; a queue that is full lets them go, and then they are read from
//! the log, which keeps them until they are in the history. Checkpoints are of the picture, however far behind the batches are, so that recovery
//! is quick in any case. When the log has grown to its bound all the same, the history leaps to the newest checkpoint: what lies
//! between is retired, and said so.
//!
//! What is done where that fails is told in [`failing`].

mod batches;
mod failing;
mod leap;
mod wanted;

use std::sync::Arc;
use std::time::{Duration, Instant};

use failing::{FIRST_PAUSE, FORGOTTEN_AFTER, FeedError};
use plenum_history::{CheckpointInfo, EncodedBatch};
use plenum_journal::{CellId, Identity, Reader};
use plenum_model::{Cell, Revision};

use super::feed::Stopped;
use super::pace::Pace;
use super::rest::Rest;
use super::turns::step_back;
use crate::backup::fallback::{Fallback, LogExtent};
use crate::checkpoint;
use crate::options::Settings;
use crate::publish::LoggedBatch;
use crate::shared::Shared;

/// How long batches gather before they are fed: to be woken for each of them costs more than it does to write them.
const GATHERING: Duration = Duration::from_millis(5);

/// Between two pieces of clearing away.
const RETIRING_PAUSE: Duration = Duration::from_millis(100);
/// Before it is tried again what could not be cleared away, or what has to be written before that.
const RETIRING_FAILED_PAUSE: Duration = Duration::from_secs(60);
/// Before it is looked again whether some of the past has grown old, which it does also where nothing changes, and no checkpoint comes.
const AGE_POLL_SHORTEST: Duration = Duration::from_secs(60);
const AGE_POLL_LONGEST: Duration = Duration::from_secs(3600);
/// How long a server that ends goes on feeding. What is left is in the log, and fed after the next start.
const ENDING_PATIENCE: Duration = Duration::from_secs(2);

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
    /// When the next leap may be tried, after one for which no picture came. Set before it takes effect.
    leap_due: Option<Instant>,
    fallback: Fallback,
    /// As `checkpoint_bytes`, when a fallback was last tried to be written.
    tried_at_bytes: u64,
    /// When it is tried again, where the log waits for it and can't grow either.
    fallback_due: Option<Instant>,
    /// What failed while the fallback was written, and has not been told of yet.
    failed_beside: Option<FeedError>,
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
            failed_beside: None,
            rest: Rest::new(shared.settings.rest),
            pause: FIRST_PAUSE,
            reopened: None,
        }
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
        let newest = self.shared.feed.history().newest_revision();
        let batches = self.next_batches(true)?;
        let idle = batches.is_empty();
        if idle {
            // Where it has leapt instead, that has counted what it has, and more was fed beside a fallback than had come by then.
            if self.shared.feed.history().newest_revision() == newest {
                self.shared.feed.caught_up(durable_bytes);
            }
        } else {
            self.feed(batches)?;
        }
        let closing = self.shared.feed.is_closing();
        if !closing {
            self.checkpoint_when_due()?;
            if self.retiring_due.is_some_and(|due| due <= Instant::now()) {
                self.give_up();
                self.fed_beside()?;
            }
        }
        Ok(Round { idle, closing })
    }

    /// Waits for a batch, or until something is due.
    fn wait(&mut self) {
        // What says so in the queue may have been taken out of it already, as while a checkpoint is written.
        if self.shared.feed.is_closing() {
            return;
        }
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
        // One that was folded has no page of the checkpoint before: images of all pages would be written because somebody reads.
        let folded_will_do = self.before.is_none();
        let Some(cell) = self.shared.picture.wait_for(self.shared.durable_revision(), folded_will_do, ask) else {
            self.give_up();
            self.fed_beside()?;
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
        self.fed_beside()?;
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
        // Before anything is fed, which is done beside a checkpoint.
        self.settle_names()?;
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

    /// Up to which revision the history needs nothing of the log.
    fn releasable(&self) -> u64 {
        let history = self.shared.feed.history();
        let checkpoint = history.newest_checkpoint().map_or(0, |checkpoint| checkpoint.revision);
        history.durable_revision().min(checkpoint)
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

#[cfg(test)]
mod tests;
