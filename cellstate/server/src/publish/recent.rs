//! The last batches, shared by all watchers: a watcher is a position in them, and keeps nothing of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use plenum_model::planted::{self, Bug};
use plenum_model::{LogTime, Revision};

use super::LoggedBatch;
use super::batch::packed;

/// Batches are packed so many bytes at a time, which takes less than a millisecond.
const PACKED_BYTES: usize = 1 << 20;

/// The newest durable batches, bounded by bytes. Whoever is further behind needs what is kept for long, or a snapshot.
#[derive(Debug)]
pub struct Recent {
    batches: VecDeque<Arc<LoggedBatch>>,
    /// So many of the oldest ones are packed already.
    packed: usize,
    bytes: usize,
    bytes_max: usize,
    newest: Revision,
    time: LogTime,
    /// The oldest revision that can be read of the history; 0 where that is not known.
    oldest_readable: Revision,
}

impl Recent {
    /// Nothing yet, after a revision and its time. Holds at most `bytes_max`, but always the last batch.
    #[must_use]
    pub fn new(newest: Revision, time: LogTime, bytes_max: usize) -> Self {
        Self { batches: VecDeque::new(), packed: 0, bytes: 0, bytes_max, newest, time, oldest_readable: Revision(0) }
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
        while self.bytes > self.bytes_max && self.batches.len() > 1 && !planted::is(Bug::KeepsAllForWatchers) {
            if let Some(oldest) = self.batches.pop_front() {
                self.bytes -= oldest.bytes().len();
                self.packed = self.packed.saturating_sub(1);
            }
        }
    }

    /// Copies some of the oldest batches together, if there is enough of them; true when nothing more is to be packed now. For a time when
    /// nobody asks.
    ///
    /// Each was encoded into memory of about its size. What lay between them has gone since, but batches of a size lie on pages of their own,
    /// of which a few hold nearly all: after a load of requests of all sizes, 16 MiB of batches
    /// stood in 27 of buffers, and the resolver's pages had 14 to 20 MB in which nothing stood.
    pub(crate) fn pack(&mut self) -> bool {
        let mut bytes = 0;
        let rest = self.batches.range(self.packed..);
        let Some(position) = rest.map(|batch| batch.bytes().len()).position(|length| {
            bytes += length;
            bytes >= PACKED_BYTES
        }) else {
            return true;
        };
        let range = self.packed..=self.packed + position;
        let copies = packed(self.batches.range(range.clone()).map(|batch| &**batch));
        self.batches.range_mut(range).zip(copies).for_each(|(batch, copy)| *batch = Arc::new(copy));
        self.packed += position + 1;
        false
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

    /// The oldest revision that can be read of the history, for watchers to be told; 0 where nobody has said. Right after a leap of the
    /// history, whose next batch is yet to come, that is the newest one.
    #[must_use]
    pub fn oldest_readable(&self) -> Revision {
        self.oldest_readable.min(self.newest)
    }

    /// The history was compacted: nothing before this revision can be read any more.
    pub fn compacted(&mut self, oldest_readable: Revision) {
        self.oldest_readable = self.oldest_readable.max(oldest_readable);
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
        // Most ask for what was published just now.
        if let Some(newest) = self.batches.back().filter(|newest| newest.first() <= revision) {
            return Some(newest).filter(|newest| revision <= newest.last());
        }
        let after = self.batches.partition_point(|batch| batch.first() <= revision);
        self.batches.get(after.checked_sub(1)?).filter(|batch| revision <= batch.last())
    }

    /// The batches that have what comes after a revision, in order; `None` where not all of it is here (any more).
    pub(crate) fn after(&self, revision: Revision) -> Option<Vec<Arc<LoggedBatch>>> {
        let first = self.batches.partition_point(|batch| batch.last() <= revision);
        self.continues(revision).then(|| self.batches.range(first..).cloned().collect())
    }

    /// The outcome that was answered at a revision: an encoded `Outcome`, apart from its batch, which goes when it is recent no more, whoever
    /// has yet to read this; of one above `bytes_max`, how many bytes it has. `None` where it was another answer, or is not here (any more).
    pub(crate) fn outcome(&self, revision: Revision, bytes_max: usize) -> Option<Result<Bytes, usize>> {
        let outcome = self.batch(revision)?.outcome(revision)?;
        let is_within = outcome.len() <= bytes_max;
        Some(if is_within { Ok(Bytes::copy_from_slice(&outcome)) } else { Err(outcome.len()) })
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
    use plenum_proto::sections::Sections;

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
        let after = |revision| {
            let batches = recent.after(Revision(revision))?;
            Some(batches.iter().map(|batch| batch.first().0).collect::<Vec<u64>>())
        };
        let expected = [None, Some(vec![7, 9]), Some(vec![7, 9]), Some(vec![9]), Some(vec![]), None];
        assert_eq!([5, 6, 7, 8, 9, 10].map(after), expected);
        assert_eq!((recent.newest(), recent.batch(Revision(6)).is_some()), (Revision(9), false));
        assert_eq!(recent.decided(Revision(8)).unwrap(), [0; 50][..]);
    }

    #[test]
    fn packed_batches_are_the_same_and_make_room_as_before() {
        let large = |revision| {
            let mut encoder = BatchEncoder::default();
            encoder.begin(LogTime::from_micros(1));
            encoder.add(Revision(revision), &vec![7; PACKED_BYTES / 4], b"decided", b"delta");
            Arc::new(LoggedBatch::parse(encoder.finish()).unwrap())
        };
        let mut recent = Recent::new(Revision(0), LogTime::default(), 10 * PACKED_BYTES / 4 + 1000);
        let batches: Vec<_> = (1..=10).map(large).collect();
        batches.iter().for_each(|batch| recent.push(batch.clone()));
        assert!(!recent.pack() && !recent.pack());
        assert!(recent.pack(), "what is left is too little");
        let packed = |recent: &Recent, revision| {
            let kept = recent.batch(Revision(revision)).unwrap();
            let was = batches.iter().find(|batch| batch.first() == Revision(revision));
            was.is_some_and(|was| !Arc::ptr_eq(kept, was))
        };
        assert_eq!(
            (1..=10).filter(|revision| packed(&recent, *revision)).collect::<Vec<_>>(),
            (1..=8).collect::<Vec<_>>()
        );
        for was in &batches {
            let kept = recent.batch(was.first()).unwrap();
            assert_eq!(
                (kept.bytes(), kept.first(), kept.last(), kept.time()),
                (was.bytes(), was.first(), was.last(), was.time())
            );
            assert_eq!(kept.decided(was.first()).unwrap(), "decided");
        }
        recent.push(large(11));
        recent.push(large(12));
        assert_eq!((recent.continues(Revision(2)), recent.continues(Revision(1))), (true, false));
        assert!(!recent.pack() && recent.pack());
        assert!(
            packed(&recent, 9)
                && packed(&recent, 10)
                && recent.batch(Revision(12)).unwrap().bytes().len() > PACKED_BYTES / 4
        );
    }

    // A piece of a packed batch would hold all that was packed with it.
    #[test]
    fn deltas_do_not_hold_what_their_batch_was_packed_with() {
        let batches = [batch(1, 1), batch(2, 40)];
        let packed = packed(batches.iter().map(|batch| &**batch));
        let deltas = packed[0].deltas(Sections::ALL);
        assert_eq!(*deltas, [&b"delta"[..]]);
        let memory = packed[0].bytes().as_ptr_range();
        assert!(!memory.contains(&deltas[0].as_ptr()));
    }

    #[test]
    fn the_last_batch_is_kept_however_large() {
        let mut recent = Recent::new(Revision(0), LogTime::default(), 10);
        recent.push(batch(1, 20));
        assert!(recent.continues(Revision(0)) && recent.batch(Revision(20)).is_some());
    }
}
