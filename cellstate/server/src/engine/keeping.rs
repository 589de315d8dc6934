//! Housekeeping of the log, off the commit path: the high-water mark, the next segment, and the room on the disk.
//!
//! The mark has a thread of its own: to make a segment takes as many syncs as it has half mebibytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use plenum_journal::{DiskError, Keeper, PrepareError, Space};
use tokio::sync::watch;

use crate::error::ServerError;
use crate::seldom::Seldom;
use crate::shared::Shared;

/// From a batch to the writing of its mark, and to a look at the next segment; the design allows 100 ms.
const DELAY: Duration = Duration::from_millis(50);
/// How long the mark is waited for while nothing is written: for ever.
const QUIET: Duration = Duration::from_secs(3600);
/// From a mark that could not be written to the next try, where nothing else is written.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the room on the disk is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two lines of the log about what fails again and again.
const TOLD_EVERY: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Signals {
    /// Batches so far.
    written: u64,
    stopping: bool,
}

/// Wakes the threads that keep the log.
#[derive(Default)]
pub(crate) struct Keeping {
    signals: Mutex<Signals>,
    changed: Condvar,
}

impl Keeping {
    /// Something was written.
    pub(crate) fn wake(&self) {
        self.signals.lock().written += 1;
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        self.signals.lock().stopping = true;
        self.changed.notify_all();
    }

    /// Waits for a batch that was not seen, and for those that come soon after it; or for the end, or a time. Whether there is something new, and
    /// whether it is the end.
    fn wait(&self, seen: &mut u64, until: Instant) -> (bool, bool) {
        let is_over = {
            let mut signals = self.signals.lock();
            while signals.written == *seen
                && !signals.stopping
                && !self.changed.wait_until(&mut signals, until).timed_out()
            {}
            signals.written == *seen || signals.stopping
        };
        if !is_over {
            std::thread::sleep(DELAY);
        }
        let signals = self.signals.lock();
        (std::mem::replace(seen, signals.written) != signals.written, signals.stopping)
    }
}

/// Why the cell takes no changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoSpace {
    /// The log's directory, from the root on: who reads it elsewhere looks for it there.
    pub(crate) path: String,
    pub(crate) free_bytes: u64,
    pub(crate) needed_bytes: u64,
    /// Why the log can't grow although there is room: a quota, a limit of the process.
    pub(crate) obstacle: Option<String>,
}

impl std::fmt::Display for NoSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, free_bytes, needed_bytes, obstacle } = self;
        if let Some(obstacle) = obstacle {
            return write!(
                f,
                "the cell is read-only: {path} can't grow: {obstacle}; when it can, the cell goes on by itself"
            );
        }
        let (free, needed) = (plenum_model::bytes(*free_bytes), plenum_model::bytes(*needed_bytes));
        write!(
            f,
            "the cell is read-only: {path} has {free} free, and needs {needed}; make room, and it goes on by itself"
        )
    }
}

/// Whether there is room for the log to grow.
pub(crate) struct SpaceWatch {
    path: String,
    /// Why there is none; one place for those who look and for those who wait for it to change.
    low: watch::Sender<Option<NoSpace>>,
    /// What was free when the disk was looked at last.
    free_bytes: AtomicU64,
    /// Why the next segment could not be made when that was tried last.
    obstacle: Mutex<Option<String>>,
    /// Why the log waits for its next segment now, which may be made and can't be opened.
    waits_for: Mutex<Option<String>>,
    /// One look at a time: what an earlier one found must not be shown over what a later one did.
    looking: Mutex<()>,
    unknown_told: Seldom,
}

impl SpaceWatch {
    /// Looks once at what is free, which may wait for the disk.
    pub(crate) fn new(path: String, keeper: &Keeper) -> Self {
        let free_bytes = AtomicU64::new(keeper.space().map_or(0, free_of));
        let path = std::path::absolute(&path).map_or(path, |whole| whole.display().to_string());
        Self {
            path,
            low: watch::Sender::new(None),
            free_bytes,
            obstacle: Mutex::default(),
            waits_for: Mutex::default(),
            looking: Mutex::default(),
            unknown_told: Seldom::every(TOLD_EVERY),
        }
    }

    /// A look found so much free.
    pub(crate) fn found(&self, free_bytes: u64) {
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
    }

    /// What is free on the disk, as of the last look; 0 where that was not known. Waits for no disk: who serves connections may ask.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.low.borrow().is_some()
    }

    pub(crate) fn low(&self) -> Option<NoSpace> {
        self.low.borrow().clone()
    }

    /// The same, and to wait until it changes.
    pub(crate) fn watch_low(&self) -> watch::Receiver<Option<NoSpace>> {
        self.low.subscribe()
    }

    /// Whether to try to make the next segment: not while there is no room for it, and now and then where something else is in its
    /// way.
    fn may_grow(&self, due: bool) -> bool {
        self.low.borrow().as_ref().is_none_or(|low| due && low.obstacle.is_some())
    }

    /// Makes the next segment where there is none yet.
    fn grow(&self, keeper: &Keeper, due: bool) {
        if !keeper.is_ready() {
            if !self.may_grow(due) {
                return;
            }
            if let Err(error) = keeper.prepare() {
                let obstacle = obstacle_in(&error);
                // What came after it was made, to tidy up, is in nobody's way.
                if !keeper.is_ready() {
                    self.meets(keeper, Some(obstacle));
                    return;
                }
                tracing::warn!(%obstacle, "segments of the log could not be given back");
            }
        }
        // Whoever made it: others do, too.
        self.meets(keeper, None);
    }

    /// Remembers what is in the way of the next segment, if anything is, and tells it once while it stays the same.
    fn meets(&self, keeper: &Keeper, obstacle: Option<String>) {
        let before = std::mem::replace(&mut *self.obstacle.lock(), obstacle.clone());
        if before != obstacle {
            self.check_now(keeper);
            if let Some(obstacle) = obstacle {
                tracing::warn!(%obstacle, "the next segment could not be made");
            }
        }
    }

    /// The log waits for its next segment, for this reason; or waits no more.
    pub(crate) fn waits(&self, keeper: &Keeper, why: Option<&PrepareError>) {
        *self.waits_for.lock() = why.map(obstacle_in);
        self.check_now(keeper);
    }

    /// Looks at the disk, which may be waited for, also where another thread looks just now: nobody who serves connections may.
    pub(crate) fn check_now(&self, keeper: &Keeper) {
        self.look(|| keeper.space());
    }

    /// Shows what a look finds. It is told under no lock: a standard error that nobody reads any more holds up who writes there.
    fn look(&self, space: impl FnOnce() -> Result<Space, DiskError>) {
        let looking = self.looking.lock();
        let space = space();
        self.found(space.as_ref().map_or(0, |space| free_of(*space)));
        let low = match space {
            Ok(Space::Ok { free_bytes }) => {
                let no_space = |obstacle| NoSpace {
                    path: self.path.clone(),
                    free_bytes,
                    needed_bytes: 0,
                    obstacle: Some(obstacle),
                };
                let waits_for = self.waits_for.lock().clone();
                waits_for.or_else(|| self.obstacle.lock().clone()).map(no_space)
            }
            Ok(Space::Low { free_bytes, needed_bytes }) => {
                Some(NoSpace { path: self.path.clone(), free_bytes, needed_bytes, obstacle: None })
            }
            Err(error) => {
                drop(looking);
                if self.unknown_told.is_due(Instant::now()) {
                    tracing::warn!(%error, "the room on the disk is not known");
                }
                return;
            }
        };
        let mut was = false;
        self.low.send_if_modified(|shown| {
            was = shown.is_some();
            std::mem::replace(shown, low.clone()) != low
        });
        drop(looking);
        match low {
            Some(low) if !was => tracing::error!("{low}"),
            None if was => tracing::info!("there is room again: the cell takes changes"),
            _ => {}
        }
    }
}

/// What is in the way of a segment, with its cause.
fn obstacle_in(error: &PrepareError) -> String {
    let source = std::error::Error::source(&error.source).map(|source| format!(": {source}"));
    format!("{}{}", error.source, source.unwrap_or_default())
}

fn free_of(space: Space) -> u64 {
    let (Space::Ok { free_bytes } | Space::Low { free_bytes, .. }) = space;
    free_bytes
}

/// The thread that writes the high-water mark.
pub(crate) fn mark(shared: &Arc<Shared>) {
    let told = Seldom::every(TOLD_EVERY);
    let flush = || {
        let flushed = shared.keeper.high_water().flush();
        if let Err(error) = &flushed
            && told.is_due(Instant::now())
        {
            tracing::warn!(%error, "the high-water mark could not be written");
        }
        flushed.is_ok()
    };
    keep_marking(&shared.keeping, || shared.has_failed() || flush());
}

/// Flushes the mark after what is written, and at the end; and again where that failed: in a cell in which nothing more
/// happens, nothing else would. `flush` says whether it is done with.
fn keep_marking(keeping: &Keeping, mut flush: impl FnMut() -> bool) {
    let (mut seen, mut is_done) = (0, true);
    loop {
        let until = Instant::now() + if is_done { QUIET } else { AGAIN };
        let (written, stopping) = keeping.wait(&mut seen, until);
        if written || stopping || !is_done {
            is_done = flush();
        }
        if stopping {
            return;
        }
    }
}

/// The keeping thread.
pub(crate) fn run(shared: &Arc<Shared>) {
    let (mut space_due, mut seen) = (Instant::now(), 0);
    let told = Seldom::every(TOLD_EVERY);
    loop {
        if shared.keeping.wait(&mut seen, space_due).1 {
            return;
        }
        let due = Instant::now() >= space_due;
        shared.space.grow(&shared.keeper, due);
        if due {
            space_due = Instant::now() + SPACE_INTERVAL;
            if shared.keeper.is_removed() {
                shared.fail(ServerError::DirectoryGone { path: shared.space.path.clone() });
                return;
            }
            if shared.space.is_read_only()
                && let Err(error) = shared.keeper.give_back()
                && told.is_due(Instant::now())
            {
                tracing::warn!(%error, "segments that nobody needs could not be removed");
            }
            shared.space.check_now(&shared.keeper);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::warnings::Warnings;
    use plenum_journal::{CellId, Journal, Options, RealDisk};
    use plenum_model::Command;
    use std::path::Path;
    use tracing::{Event, Level};

    /// A log whose next segment is not made yet.
    fn log(dir: &Path) -> Journal {
        let options = Options {
            create: Some(CellId([7; 16])),
            expect: None,
            segment_bytes: 64 << 10,
            frame_bytes_max: 60 << 10,
            reserve_bytes: Some(0),
            keep_released: true,
            beside_new_bytes: None,
        };
        let disk = RealDisk::open(dir).unwrap();
        Journal::claim(Arc::new(disk), options).unwrap().open(&mut |_| {}).unwrap().0
    }

    /// Begins the next segment, with a frame as large as can be.
    fn fill(log: &mut Journal) {
        let revision = log.tail().revision + 1;
        let label = plenum_journal::BatchLabel { term: 1, first_revision: revision, last_revision: revision };
        log.append_and_sync(label, &[&[7; 50 << 10]]).unwrap();
    }

    // One thread did both: while it made a segment, of a gigabyte perhaps, no mark was written.
    #[test]
    fn whoever_is_busy_with_a_segment_keeps_the_mark_from_nothing() {
        let keeping = Keeping::default();
        let (mut busy, mut marks, soon) = (0, 0, || Instant::now() + Duration::from_millis(1));
        keeping.wake();
        assert_eq!(keeping.wait(&mut busy, soon()), (true, false));
        for _ in 0..2 {
            assert_eq!(keeping.wait(&mut marks, soon()), (true, false));
            assert_eq!(keeping.wait(&mut marks, soon()), (false, false));
            keeping.wake();
        }
        keeping.stop();
        assert_eq!(keeping.wait(&mut marks, soon()), (true, true), "the last one is marked, too");
        assert_eq!(keeping.wait(&mut busy, soon()), (true, true));
    }

    // It was tried again with the next batch only. In a cell that stood still from then on it stayed behind, and with
    // it the proof of what had been acknowledged: damage there would have been taken for a write that a crash tore.
    #[test]
    fn a_mark_that_could_not_be_written_is_written_later_though_nothing_else_is() {
        let (keeping, mut flushes) = (Keeping::default(), 0);
        keeping.wake();
        keep_marking(&keeping, || {
            flushes += 1;
            if flushes == 2 {
                keeping.stop();
            }
            flushes > 1
        });
        assert_eq!(flushes, 3, "one that failed, one again, and one at the end");
    }

    // Behind its mark damage of what was acknowledged can't be told from a write that a crash tore.
    #[tokio::test]
    async fn what_was_written_is_marked_though_nothing_else_comes() {
        let dir = tempfile::tempdir().unwrap();
        let server = crate::Server::start(crate::ServerOptions::new(dir.path())).await.unwrap();
        let shared = server.shared().clone();
        let open = Command::OpenSession { scheduler: "batch".into() };
        let opened = shared.ask(Shared::request(&"local".into(), "default".into(), open)).await.unwrap().at;
        let began = Instant::now();
        let is_marked = || shared.keeper.high_water().durable().is_some_and(|mark| mark.revision >= opened.0);
        while !is_marked() && began.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(is_marked());
        drop(shared);
        server.kill().await.unwrap();
    }

    // The feeding thread made the segment before this one tried again, which then saw nothing to do: the cell was read-only until it was
    // started again, and said that it would go on by itself.
    #[test]
    fn a_cell_takes_changes_again_whoever_made_the_segment_that_could_not_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        let (keeper, space) = (log.keeper(), SpaceWatch::new("log".to_owned(), &log.keeper()));
        let mut watched = space.watch_low();
        let obstacle = dir.path().join("spare.tmp");
        std::fs::create_dir(&obstacle).unwrap();
        space.grow(&keeper, true);
        assert!(space.low().is_some_and(|low| low.obstacle.is_some()));
        assert!(watched.has_changed().unwrap() && watched.borrow_and_update().is_some());
        std::fs::remove_dir(&obstacle).unwrap();
        keeper.prepare().unwrap();
        space.grow(&keeper, true);
        assert_eq!(space.low(), None);
        assert!(watched.has_changed().unwrap() && watched.borrow_and_update().is_none());
        space.check_now(&keeper);
        assert!(!watched.has_changed().unwrap(), "nobody is woken by each look");
    }

    // It was told once a second, for as long as it was in the way.
    #[test]
    fn what_is_in_the_way_of_the_next_segment_is_told_once_while_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        let (keeper, space) = (log.keeper(), SpaceWatch::new("log".to_owned(), &log.keeper()));
        let obstacle = dir.path().join("spare.tmp");
        let lines = Arc::new(Mutex::new(0_u32));
        let told = lines.clone();
        // That the cell is read-only is an error.
        let counts =
            Warnings(move |event: &Event<'_>| *told.lock() += u32::from(*event.metadata().level() == Level::WARN));
        tracing::subscriber::with_default(counts, || {
            for times in 1..=2 {
                std::fs::create_dir(&obstacle).unwrap();
                (0..3).for_each(|_| space.grow(&keeper, true));
                assert_eq!(*lines.lock(), times);
                std::fs::remove_dir(&obstacle).unwrap();
                // It was gone for a while, and comes again.
                space.meets(&keeper, None);
            }
        });
    }

    // Threads look whenever they like: what one of them had found before there was room stood over what another had found since, and the cell stayed
    // read-only until the next look.
    #[test]
    fn what_a_look_found_is_not_shown_over_what_a_later_one_did() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        let space = SpaceWatch::new("log".to_owned(), &log.keeper());
        let (begin, has_begun) = std::sync::mpsc::channel();
        let slow = || {
            begin.send(()).unwrap();
            // So long that a later one would have been shown by then.
            std::thread::sleep(DELAY);
            Ok(Space::Low { free_bytes: 1, needed_bytes: 2 })
        };
        std::thread::scope(|scope| {
            let earlier = scope.spawn(|| space.look(slow));
            has_begun.recv().unwrap();
            space.look(|| Ok(Space::Ok { free_bytes: 3 }));
            earlier.join().unwrap();
        });
        assert_eq!((space.low(), space.free_bytes()), (None, 3));
    }

    // The next segment had been made, and the cell was read-only for it, until it was started again.
    #[test]
    fn a_segment_that_can_not_be_kept_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path());
        let (keeper, space) = (log.keeper(), SpaceWatch::new("log".to_owned(), &log.keeper()));
        (0..3).for_each(|_| fill(&mut log));
        keeper.release(3);
        std::fs::create_dir_all(dir.path().join("00000000000000000001.kept/x")).unwrap();
        space.grow(&keeper, true);
        assert!(keeper.is_ready() && keeper.prepare().is_err());
        assert_eq!(space.low(), None);
    }
}
