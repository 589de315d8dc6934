//! The picture of the cell that readers share, and snapshots of it on demand.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use plenum_model::{Cell, LogTime, Revision};
use tokio::sync::watch;

use crate::commit::Published;
use crate::publish::{Folded, Mirror, MirrorError};

struct Cached {
    since: Instant,
    cell: Cell,
}

/// The mirror, with the snapshot that was taken last. Readers wait until it shows the revision that they need.
pub(crate) struct Picture {
    /// Held while a batch is folded, so that nobody sees half of one.
    mirror: Mutex<Mirror>,
    /// Ordering: taken after `mirror`, or alone.
    cached: Mutex<Option<Cached>>,
    folded: watch::Sender<Revision>,
    age: Duration,
}

impl Picture {
    pub(crate) fn new(mirror: Mirror, age: Duration) -> Self {
        let folded = watch::Sender::new(mirror.cell().revision());
        Self { mirror: Mutex::new(mirror), cached: Mutex::new(None), folded, age }
    }

    /// Takes the next batch.
    pub(crate) fn fold(&self, published: &Published) -> Result<Folded, MirrorError> {
        let mut mirror = self.mirror.lock();
        // While a snapshot is alive, every page that changes is copied.
        if self.cached.lock().as_ref().is_some_and(|cached| cached.since.elapsed() > self.age) {
            *self.cached.lock() = None;
        }
        let folded = mirror.fold(&published.batch, &published.deltas)?;
        drop(mirror);
        self.folded.send_replace(published.batch.last());
        Ok(folded)
    }

    /// A snapshot at this revision or later: one that is at hand, if it is fresh enough, otherwise a new one.
    pub(crate) async fn at_least(&self, revision: Revision) -> Cell {
        let mut folded = self.folded.subscribe();
        // The sender lives in `self`, so waiting ends only when the revision is there.
        drop(folded.wait_for(|folded| *folded >= revision).await);
        self.now(revision)
    }

    /// A snapshot at this revision or later, as far as the picture has got.
    pub(crate) fn now(&self, revision: Revision) -> Cell {
        if let Some(cached) = &*self.cached.lock() {
            let fresh = cached.since.elapsed() <= self.age || cached.cell.revision() == *self.folded.borrow();
            if fresh && cached.cell.revision() >= revision {
                return cached.cell.clone();
            }
        }
        let mirror = self.mirror.lock();
        let cell = mirror.cell().clone();
        *self.cached.lock() = Some(Cached { since: Instant::now(), cell: cell.clone() });
        cell
    }

    /// When a revision was decided, as far as is remembered.
    pub(crate) fn time_of(&self, revision: Revision) -> Option<LogTime> {
        self.mirror.lock().time_of(revision)
    }
}
