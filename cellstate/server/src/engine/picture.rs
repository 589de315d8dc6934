//! The picture of the cell that readers share: a snapshot of the resolver's own state, taken when one is wanted.
//!
//! There is no second cell that would have to be folded along. While a snapshot is alive, pages that change are copied; so there is
//! at most one in [`Picture::pause`] where more than a little was logged since the one before, none while nobody reads, and one that has
//! become old is let go of.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use plenum_model::{Cell, LogTime, Revision};
use tokio::sync::watch;

use crate::publish::Times;

/// How long a thread waits for a snapshot: thousands of times what one takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Log of some hundred claims: they change so few pages that copying them is not worth waiting.
const LITTLE_BYTES: usize = 32 << 10;

#[derive(Default)]
struct State {
    shown: Option<Cell>,
    /// What is shown was folded for readers: none of its pages is the resolver's.
    is_folded: bool,
    /// Shown before, to be let go of by [`Picture::tidy`]. One for each snapshot that was taken since: there are batches in between.
    replaced: Vec<Cell>,
    /// When the resolver took the newest one.
    taken: Option<Instant>,
    wanted: bool,
    /// Who waits; a snapshot is not let go of before they saw it.
    waiting: usize,
    /// There will not be another one.
    closed: bool,
}

impl State {
    fn replace(&mut self, cell: Cell, is_folded: bool) {
        self.replaced.extend(self.shown.replace(cell));
        self.is_folded = is_folded;
    }
}

/// The newest snapshot, and who waits for a newer one.
pub(crate) struct Picture {
    state: Mutex<State>,
    changed: Condvar,
    /// Counts what changed, for those who wait without a thread.
    shows: watch::Sender<u64>,
    /// When revisions were decided.
    times: Mutex<Times>,
    pause: Duration,
}

impl Picture {
    /// Begins with a durable cell. Snapshots are taken `pause` apart.
    pub(crate) fn new(cell: Cell, times: Times, pause: Duration) -> Self {
        let state = State { shown: Some(cell), ..State::default() };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            shows: watch::Sender::new(0),
            times: Mutex::new(times),
            pause,
        }
    }

    /// A snapshot of this revision or a later one, if there is one at hand: the resolver's own, or, where that will do, one that was folded.
    /// Otherwise one is wanted from here on, and the resolver is to be told so.
    fn look(&self, revision: Revision, folded_will_do: bool) -> Result<Cell, Closed> {
        let mut state = self.state.lock();
        let fits = |cell: &&Cell| cell.revision() >= revision && (folded_will_do || !state.is_folded);
        if let Some(cell) = state.shown.as_ref().filter(fits) {
            return Ok(cell.clone());
        }
        state.wanted = true;
        Err(Closed(state.closed))
    }

    /// Whether a snapshot of this revision or a later one is at hand.
    pub(crate) fn shows(&self, revision: Revision) -> bool {
        self.state.lock().shown.as_ref().is_some_and(|cell| cell.revision() >= revision)
    }

    /// As long as somebody has this, what is shown is not let go of.
    pub(crate) fn keep(&self) -> Waiting<'_> {
        Waiting::new(self)
    }

    /// A snapshot of this durable revision or a later one. `ask` tells the resolver that one is wanted.
    pub(crate) async fn at_least(&self, revision: Revision, ask: impl Fn()) -> Cell {
        let _waiting = Waiting::new(self);
        let mut shows = self.shows.subscribe();
        loop {
            shows.borrow_and_update();
            match self.look(revision, true) {
                Ok(cell) => return cell,
                Err(Closed(false)) => ask(),
                // The server ends, and with it whoever waits here.
                Err(Closed(true)) => std::future::pending().await,
            }
            // The sender lives in `self`.
            drop(shows.changed().await);
        }
    }

    /// As [`Picture::at_least`], for a thread; where one that was folded will not do, the resolver's own. `None` when there will not be one
    /// any more, or none came for so long that the disk must be full: then nothing becomes durable, and whoever waits here may be who could
    /// make room.
    pub(crate) fn wait_for(&self, revision: Revision, folded_will_do: bool, ask: impl Fn()) -> Option<Cell> {
        let _waiting = Waiting::new(self);
        let until = Instant::now() + PATIENCE;
        loop {
            match self.look(revision, folded_will_do) {
                Ok(cell) => return Some(cell),
                Err(Closed(true)) => return None,
                Err(Closed(false)) => ask(),
            }
            let mut state = self.state.lock();
            // Shown between the look and the lock.
            if state.wanted && !state.closed && self.changed.wait_until(&mut state, until).timed_out() {
                return None;
            }
        }
    }

    /// When the resolver shall take a snapshot: not sooner after the one before than [`Picture::pause`], unless only so many bytes
    /// of log were written meanwhile that hardly any page was copied for that one.
    pub(crate) fn due(&self, bytes_since: usize) -> Option<Instant> {
        let state = self.state.lock();
        let after = state.taken.filter(|_| bytes_since > LITTLE_BYTES).map(|taken| taken + self.pause);
        state.wanted.then(|| after.unwrap_or_else(Instant::now))
    }

    /// The resolver takes one: who wants one from here on, wants another.
    pub(crate) fn taking(&self) {
        let mut state = self.state.lock();
        state.wanted = false;
        state.taken = Some(Instant::now());
    }

    /// Shows a snapshot of the resolver's to everybody who waits, unless there is a later one already.
    pub(crate) fn show(&self, cell: Cell) {
        let mut state = self.state.lock();
        if state.shown.as_ref().is_some_and(|shown| shown.revision() > cell.revision()) {
            return;
        }
        state.replace(cell, false);
        drop(state);
        self.tell();
    }

    /// Shows a cell that was folded to readers who wait, unless there is something as late already.
    pub(crate) fn show_folded(&self, cell: Cell) {
        let mut state = self.state.lock();
        if state.shown.as_ref().is_some_and(|shown| shown.revision() >= cell.revision()) {
            return;
        }
        state.replace(cell, true);
        drop(state);
        self.tell();
    }

    /// Lets a snapshot go that only keeps pages from being changed in place. Not for the resolver's thread: it may be the last one
    /// that holds a million rows.
    pub(crate) fn tidy(&self) {
        let mut state = self.state.lock();
        // The last one stays: the last checkpoint is made of it.
        let old = !state.closed && state.waiting == 0 && state.taken.is_none_or(|taken| taken.elapsed() > self.pause);
        let before = (std::mem::take(&mut state.replaced), if old { state.shown.take() } else { None });
        drop(state);
        drop(before);
    }

    /// Shows the last snapshot: the resolver ends. From here on it stays, as the last checkpoint is made of it.
    pub(crate) fn end(&self, last: Cell) {
        let mut state = self.state.lock();
        state.replace(last, false);
        state.closed = true;
        drop(state);
        self.tell();
    }

    /// There will be no other snapshot.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.tell();
    }

    fn tell(&self) {
        self.changed.notify_all();
        self.shows.send_modify(|count| *count += 1);
    }

    /// A batch is durable, and begins with this revision.
    pub(crate) fn note_time(&self, first: Revision, time: LogTime) {
        self.times.lock().push(first, time);
    }

    /// When a revision was decided, as [`Times::about`] says.
    pub(crate) fn about_when(&self, revision: Revision) -> Option<LogTime> {
        self.times.lock().about(revision)
    }

    /// When a revision was decided, where that is remembered exactly.
    pub(crate) fn exactly_when(&self, revision: Revision) -> Option<LogTime> {
        self.times.lock().exactly(revision)
    }
}

/// Somebody who waits for a snapshot, until dropped.
pub(crate) struct Waiting<'a>(&'a Picture);

impl<'a> Waiting<'a> {
    fn new(picture: &'a Picture) -> Self {
        picture.state.lock().waiting += 1;
        Self(picture)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

/// There is no snapshot at hand; if true, there will not be one.
struct Closed(bool);

#[cfg(test)]
mod tests {
    use plenum_model::{Command, Delta};

    use super::*;
    use crate::shared::Shared;

    // The publishing thread is often behind when the resolver ends. It let the last snapshot go between its being shown and the end being
    // told, and no last checkpoint was written.
    #[test]
    fn the_last_snapshot_is_let_go_of_by_nobody() {
        let picture = Picture::new(Cell::default(), Times::default(), Duration::ZERO);
        picture.show(Cell::default());
        picture.tidy();
        assert!(!picture.shows(Revision(0)), "others are");
        picture.end(Cell::default());
        picture.tidy();
        assert!(picture.wait_for(Revision(0), false, || ()).is_some());
    }

    /// A cell of this revision.
    fn cell(revision: u64) -> Cell {
        let mut cell = Cell::default();
        for revision in 1..=revision {
            cell.apply(&Delta::new(Revision(revision), LogTime::default())).unwrap();
        }
        cell
    }

    // A checkpoint was made of one that was folded: of all pages, as it shares none with the one before.
    #[test]
    fn a_cell_that_was_folded_is_for_readers_alone_and_replaces_nothing_as_late() {
        let picture = Picture::new(cell(1), Times::default(), Duration::ZERO);
        let is_given = |revision| [false, true].map(|folded| picture.look(Revision(revision), folded).is_ok());
        picture.show_folded(cell(2));
        assert_eq!((is_given(1), is_given(2)), ([false, true], [false, true]));
        picture.show(cell(2));
        assert_eq!((is_given(2), is_given(3)), ([true, true], [false, false]));
        picture.show_folded(cell(2));
        assert_eq!(is_given(2), [true, true], "what came meanwhile stays");
        picture.show_folded(cell(3));
        picture.close();
        let waited = [false, true].map(|folded| picture.wait_for(Revision(3), folded, || ()).is_some());
        assert_eq!(waited, [false, true]);
        picture.end(cell(3));
        assert_eq!(is_given(3), [true, true], "the last checkpoint is made of it");
    }

    // While one is alive, pages that change are copied: without the pause the whole cell was, again and again.
    #[test]
    fn a_snapshot_is_taken_when_one_is_wanted_and_a_pause_after_the_one_before() {
        let pause = Duration::from_secs(3600);
        let picture = Picture::new(Cell::default(), Times::default(), pause);
        assert_eq!(picture.due(usize::MAX), None, "nobody wants one");
        let want = || assert!(picture.look(Revision(1), true).is_err());
        want();
        assert!(picture.due(usize::MAX).is_some_and(|due| due <= Instant::now()), "the first at once");
        let before = Instant::now();
        picture.taking();
        let after = Instant::now();
        assert_eq!(picture.due(usize::MAX), None, "nobody wants another");
        want();
        let due = picture.due(LITTLE_BYTES + 1).expect("it is wanted");
        assert!((before + pause..=after + pause).contains(&due));
        want();
        assert_eq!(picture.due(usize::MAX), Some(due), "who wants it, too, makes it neither sooner nor later");
        let little = picture.due(LITTLE_BYTES).expect("it is wanted");
        assert!(little <= Instant::now(), "hardly any page was copied");
    }

    // Each of them would keep the pages that have changed since, for as long as the cell is read.
    #[tokio::test]
    async fn pictures_that_were_shown_before_are_let_go_of_as_the_cell_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let server = crate::Server::start(crate::ServerOptions::new(dir.path())).await.unwrap();
        let shared = server.shared().clone();
        let open = async || {
            let open = Command::OpenSession { scheduler: "batch".into() };
            drop(shared.ask(Shared::request(&"local".into(), "default".into(), open)).await.unwrap());
        };
        for _ in 0..5 {
            open().await;
            drop(shared.snapshot().await);
        }
        let began = Instant::now();
        while !shared.picture.state.lock().replaced.is_empty() {
            assert!(began.elapsed() < Duration::from_secs(30), "they stay");
            open().await;
            // A scheduler has no more than some thousands of them.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(shared);
        server.kill().await.unwrap();
    }

    #[tokio::test]
    async fn the_pictures_of_a_server_that_is_told_nothing_are_five_milliseconds_apart() {
        let dir = tempfile::tempdir().unwrap();
        let server = crate::Server::start(crate::ServerOptions::new(dir.path())).await.unwrap();
        assert_eq!(server.shared().picture.pause, Duration::from_millis(5));
        server.kill().await.unwrap();
    }
}
