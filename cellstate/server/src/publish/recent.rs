//! The last batches, shared by all watchers: a watcher is a position in them, and keeps nothing of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use plenum_model::{LogTime, Revision};

use super::LoggedBatch;

/// The newest durable batches, bounded by bytes. Whoever is further behind needs a snapshot.
#[derive(Debug)]
pub struct Recent {
    batches: VecDeque<Arc<LoggedBatch>>,
    bytes: usize,
    bytes_max: usize,
    newest: Revision,
    time: LogTime,
}

impl Recent {
    /// Nothing yet, after a revision and its time. Holds at most `bytes_max`, but always the last batch.
    #[must_use]
    pub fn new(newest: Revision, time: LogTime, bytes_max: usize) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, bytes_max, newest, time }
    }

    /// Takes the next durable batch, and lets the oldest ones go that have no room any more.
    ///
    /// # Panics
    /// When the batch does not follow the newest one: a bug of the commit path.
    pub fn push(&mut self, batch: Arc<LoggedBatch>) {
        assert_eq!(batch.first(), self.newest.next(), "batches are published in the order of the log");
        self.newest = batch.last();
        self.time = batch.time();
        self.bytes += batch.bytes().len();
        self.batches.push_back(batch);
        while self.bytes > self.bytes_max && self.batches.len() > 1 {
            if let Some(oldest) = self.batches.pop_front() {
                self.bytes -= oldest.bytes().len();
            }
        }
    }

    /// The durable revision.
    #[must_use]
    pub fn newest(&self) -> Revision {
        self.newest
    }

    /// The log time of the durable revision.
    #[must_use]
    pub fn time(&self) -> LogTime {
        self.time
    }

    /// Whether the deltas after a revision are all here, none included.
    #[must_use]
    pub fn continues(&self, after: Revision) -> bool {
        let oldest = self.batches.front().map_or_else(|| self.newest.next(), |batch| batch.first());
        after.next() >= oldest && after <= self.newest
    }

    /// The batch of a revision.
    #[must_use]
    pub fn batch(&self, revision: Revision) -> Option<&Arc<LoggedBatch>> {
        let after = self.batches.partition_point(|batch| batch.first() <= revision);
        self.batches.get(after.checked_sub(1)?).filter(|batch| revision <= batch.last())
    }

    /// What was answered at a revision: an encoded `Decision`; `None` where it is not here (any more).
    #[must_use]
    pub fn decided(&self, revision: Revision) -> Option<Bytes> {
        self.batch(revision)?.decided(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::batch::BatchEncoder;

    fn batch(first: u64, last: u64) -> Arc<LoggedBatch> {
        let mut encoder = BatchEncoder::default();
        encoder.begin(LogTime::from_micros(1));
        (first..=last).for_each(|revision| encoder.add(Revision(revision), b"", &[0; 50], b"delta"));
        Arc::new(LoggedBatch::parse(encoder.finish()).unwrap())
    }

    #[test]
    fn old_batches_make_room_for_new_ones() {
        let mut recent = Recent::new(Revision(4), LogTime::default(), 300);
        assert!(recent.continues(Revision(4)) && !recent.continues(Revision(3)) && !recent.continues(Revision(5)));
        recent.push(batch(5, 6));
        recent.push(batch(7, 8));
        assert!(recent.continues(Revision(4)) && recent.continues(Revision(8)));
        recent.push(batch(9, 9));
        assert!(!recent.continues(Revision(5)) && recent.continues(Revision(6)));
        assert_eq!((recent.newest(), recent.batch(Revision(6)).is_some()), (Revision(9), false));
        assert_eq!(recent.decided(Revision(8)).unwrap(), [0; 50][..]);
    }

    #[test]
    fn the_last_batch_is_kept_however_large() {
        let mut recent = Recent::new(Revision(0), LogTime::default(), 10);
        recent.push(batch(1, 20));
        assert!(recent.continues(Revision(0)) && recent.batch(Revision(20)).is_some());
    }
}
