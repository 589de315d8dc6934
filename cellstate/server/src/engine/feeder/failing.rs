//! What can't be written or read now, and how it goes on.
//!
//! A write that fails for the world's reasons, a full disk first of all, closes the store. Then this waits until there is room, opens the
//! store again, and goes on with what the log has: until that is released, which waits for the history, nothing is lost. Damage ends it.

use std::time::{Duration, Instant};

use plenum_history::{OpenError, StoreError, WriteError};
use plenum_journal::ReadError;

use super::Feeder;
use crate::engine::feed::Stopped;
use crate::publish::NotABatch;

/// How long a history that failed is left alone before the store is opened again; twice as long each time, up to the longest, until it
/// has been written for some time. The shortest as well before the log is read once more.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A history that was written for so long after it was opened again has not failed before, as far as the next failure goes.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// How often is looked meanwhile whether the server ends, and whether there is room.
const PAUSE_POLL: Duration = Duration::from_millis(50);

/// Why the history takes nothing more.
#[derive(Debug, thiserror::Error)]
pub(super) enum FeedError {
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

    /// Whether it is of a file of images: the store beside that is as good as it was.
    fn is_of_image_file(&self) -> bool {
        matches!(self, Self::Write(WriteError::Store(StoreError::ImageFile { .. })))
    }

    /// It, and what is behind it.
    pub(super) fn told(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes.fold(self.to_string(), |told, cause| format!("{told}: {cause}"))
    }
}

impl Feeder<'_> {
    /// Goes on to the end, or until it fails for good.
    pub(super) fn run_on(&mut self) -> Result<(), FeedError> {
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
    pub(super) fn wait_until(&self, due: Instant) -> bool {
        while Instant::now() < due {
            if self.shared.feed.is_closing() || self.shared.has_failed() {
                return false;
            }
            std::thread::sleep(PAUSE_POLL);
        }
        true
    }

    /// Waits until there is room, and opens the store again. False when the server ends meanwhile: the next start does that.
    pub(super) fn go_on_after(&mut self, failed: &FeedError) -> Result<bool, FeedError> {
        let error = failed.told();
        tracing::error!(
            error,
            "the history can't be written now; it goes on by itself, and the log keeps it all meanwhile"
        );
        self.shared.feed.stops(Stopped::ForNow(error));
        let history = self.shared.feed.history();
        let (before, begins_with_log) = (history.newest_revision(), self.begins_with_log());
        loop {
            if !self.wait_to_open_again() {
                return Ok(false);
            }
            match self.shared.feed.reopen().map_err(FeedError::from) {
                Ok(()) => break,
                Err(error) if error.may_pass() => {
                    let error = error.told();
                    tracing::warn!(error, "the history can't be opened again yet");
                    self.shared.feed.stops(Stopped::ForNow(error));
                }
                Err(error) => return Err(error),
            }
        }
        // A store whose tables are damaged fails again and again, and does not say why; and each time all pages would be written.
        if self.reopened.replace(Instant::now()).is_some() && !failed.is_of_image_file() {
            let read = history.read_store(|| !self.shared.feed.is_closing());
            read.or_else(|error| if error.may_pass() { Ok(()) } else { Err(WriteError::from(error)) })?;
        }
        // What was not durable may be gone, and comes from the log again; and nobody knows of which cell images were written.
        self.reader = None;
        self.before = None;
        self.image_bytes = history.newest_checkpoint().map_or(0, |newest| newest.image_bytes);
        (self.retiring_due, self.failed_beside) = (None, None);
        self.shared.feed.goes_on(self.shared.keeper.size_bytes());
        // One that had nothing, and no log to begin with, begins with its checkpoint, and leaves nothing out.
        if before > 0 || begins_with_log {
            self.count_failed_leap(before);
        }
        tracing::info!(from = history.newest_revision() + 1, "the history goes on");
        self.make_room(failed);
        Ok(true)
    }

    /// What may go goes before images of all pages are written: room may be what was missing. Where it is known to be, the fallback takes about as much
    /// as they do; it comes anew when the log, which keeps all until there is a checkpoint, can be let go of.
    pub(super) fn make_room(&mut self, failed: &FeedError) {
        self.give_up();
        let lacked_room = matches!(failed, FeedError::Write(WriteError::Store(error)) if error.images_lack_room());
        if lacked_room && self.shared.space.is_read_only() && self.fallback.revision().is_some() {
            tracing::warn!("the fallback is removed: a checkpoint needs its room");
            self.fallback.remove();
        }
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
    pub(super) fn may_open_again(&self, waited: Duration) -> bool {
        self.shared.space.check_now(&self.shared.keeper);
        let has_own_room = || self.shared.keeper.held_bytes(self.releasable()) > 0;
        !self.shared.space.is_read_only() || (waited >= LONGEST_PAUSE && has_own_room())
    }
}
