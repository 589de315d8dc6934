//! The history goes on from a checkpoint, and leaves out what is before it: when the log that keeps this has grown to its bound, or has lost it.

use std::time::{Duration, Instant};

use plenum_history::WriteError;
use plenum_journal::ReadError;
use plenum_model::Cell;

use super::Feeder;
use super::failing::FeedError;
use crate::checkpoint;
use crate::engine::pace::is_far_behind;
use crate::error::ServerError;

/// How long batches are fed before a leap is tried again for which no picture came: that one was waited for, and nothing was fed.
const LEAP_PAUSE: Duration = Duration::from_secs(60);

impl Feeder<'_> {
    /// Leaps where the log, which begins with `oldest`, has not what comes next, and the newest checkpoint has.
    pub(super) fn leap_over_gap(&mut self, oldest: u64) -> Result<(), FeedError> {
        let history = self.shared.feed.history();
        let newest = history.newest_revision();
        match history.newest_checkpoint().filter(|info| info.revision > newest && info.revision + 1 >= oldest) {
            Some(_) => self.leap()?,
            None => return Err(ReadError::Retired { asked: newest + 1, oldest }.into()),
        }
        Ok(())
    }

    /// Gives up what the history has not got, when the log that keeps it has grown to its bound.
    pub(super) fn leap_when_due(&mut self) -> Result<(), FeedError> {
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

    /// Leaps once there is a picture of the present, which a disk that makes nothing durable just now may keep it from. False when the server ends
    /// before that.
    pub(super) fn leap_patiently(&mut self) -> Result<bool, FeedError> {
        loop {
            self.leap()?;
            let Some(due) = self.leap_due else { return Ok(true) };
            if !self.wait_until(due) {
                return Ok(false);
            }
        }
    }

    /// Goes on from a checkpoint of the present: what lies between is retired.
    pub(super) fn leap(&mut self) -> Result<(), FeedError> {
        let history = self.shared.feed.history();
        let before = history.newest_revision();
        let came = self.leave_out()?;
        // What was fed beside the checkpoint may have passed it: then nothing was left out, and more is there.
        if history.newest_checkpoint().is_some_and(|info| info.revision == history.newest_revision()) {
            self.count_left_out(before);
            if came {
                self.shared.feed.caught_up(self.checkpoint_bytes);
            }
        }
        // They may not be told on a full disk, and what was left out is gone by now all the same.
        self.settle_names()?;
        self.shared.feed.fed(0);
        self.give_up();
        self.fed_beside()
    }

    /// Counts, and tells of, what the history has left out since it had everything up to a revision. True where that is anything.
    fn count_left_out(&self, before: u64) -> bool {
        let now = self.shared.feed.history().newest_revision();
        if now <= before {
            return false;
        }
        let from = before + 1;
        tracing::warn!(
            from,
            to = now,
            "the history left out what it had not got: what is before can not be read any more"
        );
        self.shared.feed.gave_up(now - before);
        true
    }

    /// Counts a leap that failed after it had taken effect, where the store was opened again behind it: the history had everything up to this revision
    /// before.
    pub(super) fn count_failed_leap(&self, before: u64) {
        // What lies between is never fed, and would count as lacking. Without a picture it leapt to an older checkpoint, and lacks what came since.
        if self.count_left_out(before) && self.leap_due.is_none() {
            self.shared.feed.caught_up(self.checkpoint_bytes);
        }
    }

    /// Has the history go on from a checkpoint of the present, and gives up the log before that at once: its room is what is missing, and names, which
    /// come next, may take a while. False when no picture came.
    pub(super) fn leave_out(&mut self) -> Result<bool, FeedError> {
        let came = self.checkpoint()?;
        self.leap_due = (!came).then(|| Instant::now() + LEAP_PAUSE);
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
    pub(super) fn settle_names(&self) -> Result<(), FeedError> {
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
}
