//! Pictures of the cell that are on their way to watchers.
//!
//! As long as one is there, each page that changes is copied for it. A connection that takes nothing more asks nobody for the next
//! part, so that its session would never learn that nobody wants the picture any more: whoever keeps the books takes it back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use plenum_model::{Cell, Revision};

/// A picture that a watcher is being sent, until it is taken back.
#[derive(Debug)]
pub struct Lent {
    revision: Revision,
    since_micros: i64,
    /// When a part of it was wanted last.
    asked_micros: AtomicI64,
    cell: Mutex<Option<Cell>>,
}

impl Lent {
    /// A picture that is lent from now on, in microseconds of the caller's clock.
    #[must_use]
    pub fn new(cell: Cell, now_micros: i64) -> Arc<Self> {
        Arc::new(Self {
            revision: cell.revision(),
            since_micros: now_micros,
            asked_micros: AtomicI64::new(now_micros),
            cell: Mutex::new(Some(cell)),
        })
    }

    /// The revision that it shows.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Makes something of it; `None` if it was taken back.
    pub(super) fn with<T>(&self, now_micros: i64, make: impl FnOnce(&Cell) -> T) -> Option<T> {
        self.asked_micros.store(now_micros, Ordering::Relaxed);
        self.cell.lock().as_ref().map(make)
    }
}

/// How long a picture may be lent, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct LendingBounds {
    /// Without anything of it being wanted.
    pub idle_micros: i64,
    /// Altogether.
    pub age_micros: i64,
}

/// The pictures that are lent.
#[derive(Debug, Default)]
pub struct Lending {
    lent: Mutex<Vec<Weak<Lent>>>,
}

impl Lending {
    /// Takes a picture into the books. It leaves them by itself when its watcher is done with it.
    pub fn lend(&self, lent: &Arc<Lent>) {
        let mut known = self.lent.lock();
        known.retain(|lent| lent.strong_count() > 0);
        known.push(Arc::downgrade(lent));
    }

    /// Pictures on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lent.lock().iter().filter(|lent| lent.strong_count() > 0).count()
    }

    /// True when none is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes those back that were lent too long, of a revision from which nothing is near that continues it: others cost hardly
    /// anything yet. Gives how many. Not for a thread that others wait for: the last one to hold a picture frees its pages.
    pub fn take_back(&self, bounds: LendingBounds, now_micros: i64, continues: impl Fn(Revision) -> bool) -> usize {
        let mut taken = Vec::new();
        // Each is held until the books are closed: it may have become the last one that holds its picture.
        let mut held = Vec::new();
        self.lent.lock().retain(|known| {
            let Some(lent) = known.upgrade() else { return false };
            let idle_micros = now_micros.saturating_sub(lent.asked_micros.load(Ordering::Relaxed));
            let age_micros = now_micros.saturating_sub(lent.since_micros);
            let overdue = idle_micros >= bounds.idle_micros || age_micros >= bounds.age_micros;
            if !overdue || continues(lent.revision) {
                held.push(lent);
                return true;
            }
            // One that is being read right now comes next time.
            let cell = lent.cell.try_lock().and_then(|mut cell| cell.take());
            let is_taken = cell.is_some();
            taken.extend(cell);
            held.push(lent);
            !is_taken
        });
        taken.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: LendingBounds = LendingBounds { idle_micros: 100, age_micros: 1000 };

    #[test]
    fn a_picture_is_taken_back_when_nobody_asks_for_more_of_it_or_it_is_old() {
        let lending = Lending::default();
        let lent = Lent::new(Cell::default(), 0);
        lending.lend(&lent);
        let take_back = |now| lending.take_back(BOUNDS, now, |_| false);
        assert_eq!(take_back(99), 0);
        assert_eq!(lent.with(90, |_| ()), Some(()));
        assert_eq!((take_back(189), lending.len()), (0, 1), "something of it was wanted");
        assert_eq!((take_back(190), lending.len()), (1, 0));
        assert_eq!(lent.with(191, |_| ()), None);

        let lent = Lent::new(Cell::default(), 0);
        lending.lend(&lent);
        assert_eq!(lent.with(999, |_| ()), Some(()));
        assert_eq!((take_back(999), take_back(1000)), (0, 1), "however often it is asked for");
    }

    #[test]
    fn a_picture_that_is_still_near_is_left_to_its_watcher() {
        let lending = Lending::default();
        let lent = Lent::new(Cell::default(), 0);
        lending.lend(&lent);
        assert_eq!(lending.take_back(BOUNDS, 5000, |revision| revision == Revision(0)), 0);
        assert_eq!(lent.with(5000, Cell::revision), Some(Revision(0)));
        drop(lent);
        assert!(lending.is_empty());
        assert_eq!(lending.take_back(BOUNDS, 10_000, |_| false), 0, "its watcher is done");
    }
}
