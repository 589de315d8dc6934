//! How far back the log is wanted, and when a new fallback is written: decided here from facts alone, apart from doing it.
//!
//! The history goes back to its oldest revision, and the fallback has to be gone on from. So that one is written anew, of the newest
//! checkpoint, before a whole segment of what leads on from it is given up. Where that can't be done the past goes all the same, as its room
//! may be what is missing; it is tried again when the next segment is to go, and as much log has come as was tried to be written. But where
//! something else than room keeps this from being written, fallback and log stay until it passes: as long as the log can't grow either, or has
//! not grown by much.

use std::time::Instant;

use plenum_journal::Space;
use plenum_model::Cell;

use super::failing::FeedError;
use super::{Feeder, GATHERING, RETIRING_FAILED_PAUSE, of_log};
use crate::backup::BackupError;
use crate::engine::NoSpace;

/// What a fallback leaves free, beside what must be.
const SPARED_BYTES: u64 = 32 << 20;

/// Whether the log can grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    /// Less is free than must be.
    Missing,
    /// There is room, and something else is in the way, such as a quota or a limit on open files.
    Obstructed,
}

impl Room {
    fn of(low: Option<&NoSpace>) -> Self {
        match low {
            None => Self::Enough,
            Some(low) if low.obstacle.is_none() => Self::Missing,
            Some(_) => Self::Obstructed,
        }
    }
}

/// All that decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// The oldest revision of the history.
    oldest: u64,
    /// That is durable. Of a store that took no writes when it was opened nobody knows whether a power cut brings back what is older, which is read from
    /// the log.
    is_sure: bool,
    /// The first one that is needed behind the fallback; without one, the first of all.
    next: u64,
    /// There is no fallback, and the log does not go back to the beginning.
    is_given_up: bool,
    /// The newest checkpoint's cell is at hand, and may take the fallback's place: what comes behind it is not given up.
    has_cell: bool,
    /// Of the whole segments that go with what is before `oldest`, and stay as long as the fallback stays as it is.
    taken_bytes: u64,
    room: Room,
    /// When it is tried again what could not be written, if that is still to come.
    due: Option<Instant>,
    /// Of log since the fallback.
    since_bytes: u64,
    /// Of the fallback.
    fallback_bytes: u64,
    /// So much log may wait for whoever is behind.
    log_bytes_max: u64,
}

/// What is done about the fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It stays as it is, and so does what leads on from it.
    Keep,
    /// The same, and it is looked again at this time.
    KeepUntil(Instant),
    /// It goes, and what leads on from it.
    Remove,
    /// Another one is written in its place.
    Write,
}

impl Facts {
    /// From which revision on the log is wanted as long as the fallback stays as it is.
    fn unchanged(&self) -> u64 {
        match (self.is_sure, self.is_given_up) {
            (false, _) => 0,
            (true, true) => self.oldest,
            (true, false) => self.oldest.min(self.next),
        }
    }

    fn next_step(&self) -> Step {
        // A cell that is not at hand comes with the next checkpoint.
        if !self.is_sure || self.oldest <= self.next || !self.has_cell || self.taken_bytes == 0 {
            return Step::Keep;
        }
        // Its room is what is missing. Where it is something else, there is room for another one.
        if self.room == Room::Missing {
            return if self.is_given_up { Step::Keep } else { Step::Remove };
        }
        // Without one nothing is kept by waiting, and the next try would be that of the next segment.
        if let Some(due) = self.due.filter(|_| !self.is_given_up) {
            return Step::KeepUntil(due);
        }
        // However little is retained, not more is written of fallbacks than of the log; nor again and again of one that meets what the log has met.
        if self.since_bytes < self.fallback_bytes { Step::Keep } else { Step::Write }
    }

    /// Whether the log keeps what it has where another fallback could not be written, for a reason that may pass and is not for want of room. A log that
    /// can grow would fill the disk if that never passes.
    fn waits_for_another(&self) -> bool {
        let most_bytes = self.fallback_bytes.saturating_add(self.log_bytes_max);
        !self.is_given_up && (self.room == Room::Obstructed || self.taken_bytes < most_bytes)
    }
}

impl Feeder<'_> {
    /// From which revision on the log is wanted, where the history goes back to `oldest`. Sees to the fallback before it says so.
    pub(super) fn wanted_from(&mut self, oldest: u64) -> u64 {
        let facts = self.facts(oldest);
        match facts.next_step() {
            Step::Keep => {}
            // Nothing else may be due by then, where nothing is written.
            Step::KeepUntil(due) => self.retire_by(due),
            Step::Remove => {
                tracing::warn!("there is no room for a fallback: the cell has its state in the history alone");
                self.fallback.remove();
                return oldest;
            }
            Step::Write => return self.write_fallback(&facts),
        }
        facts.unchanged()
    }

    /// Tells the log once more what servers before this one gave up, which it does not know any more after a start: it may be the room that is missing, and
    /// the first checkpoint is a minute away. Nothing is released by this: of what is kept, what neither the history nor the fallback leads to may be used
    /// again.
    pub(super) fn give_up_again(&self) {
        let history = self.shared.feed.history();
        let oldest = history.oldest_revision();
        // One that has just begun takes the place of another one, which may be put back, and leads to what is kept.
        let is_new = oldest > history.newest_revision();
        // Without a fallback what waits to be used again has one tried with the first checkpoint.
        if !self.is_sure() || is_new || self.fallback.is_given_up() {
            return;
        }
        if let Err(error) = self.fallback.make_durable() {
            tracing::warn!(%error, "what was given up before the start stays until the next checkpoint");
            return;
        }
        self.shared.keeper.give_up(oldest.min(self.fallback.next_revision()));
    }

    /// Whether it is known to be durable how far back the history goes: of one that has retired nothing yet there is nothing to know.
    fn is_sure(&self) -> bool {
        let history = self.shared.feed.history();
        history.durable_revision() > 0 || history.oldest_revision() <= 1
    }

    pub(super) fn facts(&self, oldest: u64) -> Facts {
        let may_replace = |cell: &Cell| cell.revision().0.saturating_add(1) >= oldest;
        let (next, is_given_up) = (self.fallback.next_revision(), self.fallback.is_given_up());
        // What is before it goes in any case, whether or not the log was told so yet. Without a fallback the next one is tried when the log lets go of more
        // than before.
        let anyway = if is_given_up { 0 } else { next };
        Facts {
            oldest,
            is_sure: self.is_sure(),
            next,
            is_given_up,
            has_cell: self.before.as_ref().is_some_and(may_replace),
            taken_bytes: self.shared.keeper.bytes_let_go(oldest, anyway),
            room: Room::of(self.shared.space.low().as_ref()),
            due: self.fallback_due.filter(|due| Instant::now() < *due),
            since_bytes: self.log_since_fallback(),
            fallback_bytes: self.fallback.bytes(),
            log_bytes_max: self.settings.log_bytes_max,
        }
    }

    /// Writes a fallback of the newest checkpoint's cell, and feeds between two of its pieces what has come. From which revision on the log is wanted then.
    pub(super) fn write_fallback(&mut self, facts: &Facts) -> u64 {
        let Some(cell) = self.before.take() else { return facts.unchanged() };
        self.tried_at_bytes = self.checkpoint_bytes;
        // Who reads it can do without, as long as nothing is mixed up.
        let hash = self.shared.keeper.hash_at(cell.revision().0).ok().flatten().unwrap_or_default();
        of_log(self.shared, |log| self.fallback.look_again(log));
        // Nobody asks for it meanwhile.
        let mut fallback = self.fallback.clone();
        let mut due = Instant::now();
        let renewed = fallback.renew(&cell, hash, &mut || {
            if Instant::now() >= due {
                self.feed_beside_fallback();
                due = Instant::now() + GATHERING;
            }
            self.has_room_for_fallback()
        });
        self.fallback = fallback;
        let revision = cell.revision().0;
        self.before = Some(cell);
        let Err(error) = renewed else {
            tracing::info!(revision, "the fallback was written anew");
            return facts.oldest;
        };
        // Of a quota it is not known beforehand that it is one. And one that is not to be replaced would be waited for in vain.
        let is_for_good = matches!(error, BackupError::NotOfThisLog { .. } | BackupError::Exists { .. });
        let may_pass = !error.is_for_want_of_room() && !is_for_good;
        let error = &error as &dyn std::error::Error;
        if may_pass && facts.waits_for_another() {
            tracing::warn!(error, "no fallback could be written: what the log has stays until one is");
            let due = Instant::now() + RETIRING_FAILED_PAUSE;
            self.fallback_due = Some(due);
            self.retire_by(due);
            return facts.unchanged();
        }
        tracing::warn!(error, "no fallback could be written: the cell has its state in the history alone");
        self.fallback.remove();
        facts.oldest
    }

    /// Whether there is more room than the log needs, which grows meanwhile.
    fn has_room_for_fallback(&self) -> bool {
        let keeper = &self.shared.keeper;
        let needed_bytes = keeper.needed_bytes().saturating_add(SPARED_BYTES);
        matches!(keeper.space(), Ok(Space::Ok { free_bytes }) if free_bytes > needed_bytes)
    }

    /// Feeds what waits in memory: under full load more would come than does. Where that fails [`Self::fed_beside`] tells.
    fn feed_beside_fallback(&mut self) {
        // Behind a leap names come first.
        let may_feed = self.failed_beside.is_none() && matches!(self.shared.feed.history().wants_names_of(), Ok(None));
        if may_feed && let Err(error) = self.feed_from_memory() {
            self.failed_beside = Some(error);
        }
    }

    /// Whether all could be fed beside the fallback that was written last: asked where its writer has gone on to the end, before anything else is done with
    /// the store.
    pub(super) fn fed_beside(&mut self) -> Result<(), FeedError> {
        self.failed_beside.take().map_or(Ok(()), Err)
    }

    /// Bytes of log since the fallback that there is: counted in the log, as servers come and go. Without one, since it was last tried.
    fn log_since_fallback(&self) -> u64 {
        match self.fallback.revision() {
            Some(revision) => self.shared.keeper.bytes_behind(revision),
            None => self.checkpoint_bytes.saturating_sub(self.tried_at_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fallback of revision 500, a history that goes back to 800, and a whole segment in between.
    const USUAL: Facts = Facts {
        oldest: 800,
        is_sure: true,
        next: 501,
        is_given_up: false,
        has_cell: true,
        taken_bytes: 16,
        room: Room::Enough,
        due: None,
        since_bytes: 30,
        fallback_bytes: 30,
        log_bytes_max: 100,
    };

    #[test]
    fn a_fallback_is_written_anew_or_removed_only_where_a_whole_segment_behind_it_goes() {
        let now = Instant::now();
        let (due, later) = (Some(now), Step::KeepUntil(now));
        let given_up = Facts { is_given_up: true, next: 1, ..USUAL };
        let missing = Facts { room: Room::Missing, ..USUAL };
        let obstructed = Facts { room: Room::Obstructed, ..USUAL };
        // What is done, and from which revision on the log is wanted as long as the fallback stays as it is.
        let cases = [
            ("a whole segment is to go", USUAL, Step::Write, 501),
            ("the history leads to all that the fallback does", Facts { next: 800, ..USUAL }, Step::Keep, 800),
            ("the fallback is newer than the history's oldest", Facts { next: 900, ..USUAL }, Step::Keep, 800),
            ("no checkpoint was written since the start", Facts { has_cell: false, ..USUAL }, Step::Keep, 501),
            ("a power cut may bring back what is older", Facts { is_sure: false, ..USUAL }, Step::Keep, 0),
            ("the same without room", Facts { is_sure: false, ..missing }, Step::Keep, 0),
            ("no whole segment is to go", Facts { taken_bytes: 0, ..USUAL }, Step::Keep, 501),
            ("less log has come than a fallback takes", Facts { since_bytes: 29, ..USUAL }, Step::Keep, 501),
            ("there is no room", missing, Step::Remove, 501),
            ("there is none, and nothing would be gained", Facts { taken_bytes: 0, ..missing }, Step::Keep, 501),
            ("something else is in the log's way", obstructed, Step::Write, 501),
            ("it was in the fallback's way, too", Facts { due, ..obstructed }, later, 501),
            ("nothing was in the log's way, and something in the fallback's", Facts { due, ..USUAL }, later, 501),
            ("there is no fallback", given_up, Step::Write, 800),
            ("there is none, and something was in its way", Facts { due, ..given_up }, Step::Write, 800),
            ("there is none, and no room", Facts { room: Room::Missing, ..given_up }, Step::Keep, 800),
            ("there is none, and no segment to go", Facts { taken_bytes: 0, ..given_up }, Step::Keep, 800),
        ];
        for (case, facts, step, wanted_from) in cases {
            assert_eq!((facts.next_step(), facts.unchanged()), (step, wanted_from), "{case}");
        }
    }

    #[test]
    fn a_fallback_that_can_not_be_written_is_waited_for_while_the_log_can_not_grow_or_has_not_grown_by_much() {
        let waits = |room, taken_bytes| {
            let facts = Facts { room, taken_bytes, ..USUAL };
            assert!(!Facts { is_given_up: true, ..facts }.waits_for_another(), "there is none to be kept");
            facts.waits_for_another()
        };
        assert!(waits(Room::Obstructed, u64::MAX));
        assert_eq!([129, 130].map(|bytes| waits(Room::Enough, bytes)), [true, false]);
    }
}
