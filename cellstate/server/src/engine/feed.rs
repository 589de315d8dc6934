//! The history, and the way of batches into it: nobody waits there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::{Mutex, RwLock};
use plenum_history::{History, OpenError};
use plenum_model::Revision;
use tokio::sync::watch;

use crate::publish::LoggedBatch;

/// Batches that wait in memory, and their bytes. What does not fit is read from the log, which costs more than to keep it here: finding
/// where to go on may mean to read a segment from its beginning. So a thread that got no time for a second shall not have to.
const BATCHES_WAITING_MAX: usize = 8192;
const WAITING_BYTES_MAX: u64 = 64 << 20;

/// The history, and the way into it.
pub(crate) struct Feed {
    history: History,
    /// Never waited for: so a feeding thread that got no time for a while stops nobody.
    batches: Sender<Option<Arc<LoggedBatch>>>,
    received: Receiver<Option<Arc<LoggedBatch>>>,
    closing: AtomicBool,
    /// Nobody takes batches any more, or nobody ever did: none are put into the queue, where they would stay.
    over: AtomicBool,
    newest: watch::Sender<Revision>,
    /// The last revision that was told: its batch is in the queue, or is to be read from the log. What is durable and not told yet is on
    /// its way here, and would be read in vain.
    told: AtomicU64,
    /// Bytes of the log, counted from somewhere: up to its durable end, and up to what the history has got.
    durable_bytes: AtomicU64,
    fed_bytes: AtomicU64,
    /// What the history has had: its newest revision, and `fed_bytes` then. The first one stays whatever happens, those behind it are not
    /// durable yet.
    had: Mutex<VecDeque<(u64, u64)>>,
    /// Revisions that were given up because the log had grown to its bound.
    given_up: AtomicU64,
    /// Why nothing is written, if so. The log then keeps everything.
    stopped: RwLock<Option<Stopped>>,
}

/// Why nothing is written into the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Until the next start, which feeds it again.
    ForGood(String),
    /// Until there is room, or whatever it is has passed.
    ForNow(String),
}

impl Stopped {
    /// What the history does then, for how long, and why: what follows its name.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::ForGood(why) => format!("takes nothing more until the server starts again: {why}"),
            Self::ForNow(why) => format!("can't be written now, and goes on by itself: {why}"),
        }
    }
}

impl Feed {
    /// `lag_bytes` are those of batches that the log has, and the history has not.
    pub(crate) fn new(history: History, lag_bytes: u64) -> Self {
        let had = history.newest_revision();
        let newest = watch::Sender::new(Revision(had));
        let (batches, received) = crossbeam_channel::bounded(BATCHES_WAITING_MAX);
        Self {
            history,
            batches,
            received,
            closing: AtomicBool::new(false),
            over: AtomicBool::new(false),
            newest,
            told: AtomicU64::new(0),
            durable_bytes: AtomicU64::new(lag_bytes),
            fed_bytes: AtomicU64::new(0),
            had: Mutex::new(VecDeque::from([(had, 0)])),
            given_up: AtomicU64::new(0),
            stopped: RwLock::new(None),
        }
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Why nothing is written.
    pub(crate) fn stopped(&self) -> Option<Stopped> {
        self.stopped.read().clone()
    }

    /// Bytes of durable batches that the history has not got yet.
    pub(crate) fn lag_bytes(&self) -> u64 {
        self.durable_bytes().saturating_sub(self.fed_bytes.load(Ordering::Relaxed))
    }

    /// Bytes of the log up to its durable end, counted from somewhere.
    pub(crate) fn durable_bytes(&self) -> u64 {
        self.durable_bytes.load(Ordering::Relaxed)
    }

    /// Revisions that were given up since the start, because the history was too far behind.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Tells of a durable batch, the next one. Never waits.
    pub(crate) fn send(&self, batch: Arc<LoggedBatch>) {
        let last = batch.last().0;
        self.durable_bytes.fetch_add(batch.bytes().len() as u64, Ordering::Relaxed);
        // Otherwise, as with a full queue: it will be read from the log.
        if self.lag_bytes() <= WAITING_BYTES_MAX && !self.over.load(Ordering::Acquire) {
            drop(self.batches.try_send(Some(batch)));
        }
        self.tell(last);
    }

    /// What is up to this revision is in the queue, or in the log.
    pub(super) fn tell(&self, revision: u64) {
        self.told.fetch_max(revision, Ordering::Release);
    }

    /// The last revision that was told.
    pub(super) fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// The next batch in the queue, if there is one.
    pub(super) fn take(&self) -> Option<Arc<LoggedBatch>> {
        self.received.try_iter().flatten().next()
    }

    /// The same, but waits for one, at most until then; `None` when nothing more will come.
    pub(super) fn wait(&self, until: Option<Instant>) -> Result<Option<Arc<LoggedBatch>>, RecvTimeoutError> {
        match until {
            Some(until) => self.received.recv_deadline(until),
            None => self.received.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Nothing more is taken; what waits is let go of.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
        // One that is on its way into the queue meanwhile may stay.
        while self.received.try_recv().is_ok() {}
    }

    /// Nothing more will come. Whoever waits for the history is not waited for.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        // If the queue is full, the feeding thread is awake.
        drop(self.batches.try_send(None));
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The history has got so many bytes more.
    pub(super) fn fed(&self, bytes: u64) {
        let before = self.fed_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.has(before + bytes);
        self.newest.send_replace(Revision(self.history.newest_revision()));
    }

    /// Remembers that the history has so many bytes, as far as it may come back to that.
    fn has(&self, fed_bytes: u64) {
        let (newest, durable) = (self.history.newest_revision(), self.history.durable_revision());
        let mut had = self.had.lock();
        if had.back().is_some_and(|(revision, _)| *revision == newest) {
            had.pop_back();
        }
        had.push_back((newest, fed_bytes));
        while had.get(1).is_some_and(|(revision, _)| *revision <= durable) {
            had.pop_front();
        }
    }

    /// So many revisions were given up.
    pub(super) fn gave_up(&self, revisions: u64) {
        self.given_up.fetch_add(revisions, Ordering::Relaxed);
    }

    /// Nothing is written, because of this.
    pub(super) fn stops(&self, why: Stopped) {
        *self.stopped.write() = Some(why);
    }

    /// Opens the store again. What it has lost, those who want it wait for from now on, however long it takes until it is written again.
    pub(super) fn reopen(&self) -> Result<(), OpenError> {
        self.history.reopen()?;
        self.newest.send_replace(Revision(self.history.newest_revision()));
        Ok(())
    }

    /// It is written again, after what it has now. Where it has lost even what was durable, that may be nothing of the log, which has at most
    /// so many bytes.
    pub(super) fn goes_on(&self, log_bytes: u64) {
        *self.stopped.write() = None;
        let newest = self.history.newest_revision();
        let mut had = self.had.lock();
        had.retain(|(revision, _)| *revision <= newest);
        let fed_bytes = had.back().map_or(0, |(_, fed_bytes)| *fed_bytes);
        drop(had);
        let before_log = self.durable_bytes().saturating_sub(log_bytes);
        self.fed_bytes.store(fed_bytes.max(before_log), Ordering::Relaxed);
        self.fed(0);
    }

    /// The history had everything when the log's end was counted so.
    pub(super) fn caught_up(&self, durable_bytes: u64) {
        self.fed_bytes.store(durable_bytes, Ordering::Relaxed);
        self.has(durable_bytes);
    }

    /// Waits until the history has a revision; false when it did not come in time.
    pub(crate) async fn reaches(&self, revision: Revision, patience: Duration) -> bool {
        let mut newest = self.newest.subscribe();
        let reached = newest.wait_for(|newest| *newest >= revision);
        tokio::time::timeout(patience, reached).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::BatchEncoder;
    use plenum_history::EncodedBatch;
    use plenum_model::LogTime;
    use std::ops::RangeInclusive;
    use std::path::Path;

    /// The way into a history that begins in a folder.
    fn begun(folder: &Path) -> Feed {
        let (history, _) = History::open(folder, plenum_history::Options::new(vec![1; 16])).unwrap();
        Feed::new(history, 0)
    }

    /// A batch of one revision, of a kilobyte.
    fn batch(revision: u64) -> Arc<LoggedBatch> {
        batch_of(revision, 1000)
    }

    /// The same, in which so many bytes were asked.
    fn batch_of(revision: u64, asked_bytes: usize) -> Arc<LoggedBatch> {
        let mut encoder = BatchEncoder::default();
        encoder.begin(LogTime::default());
        encoder.add(Revision(revision), &vec![7; asked_bytes], b"", b"");
        Arc::new(LoggedBatch::parse(encoder.finish()).unwrap())
    }

    fn write(feed: &Feed, revisions: RangeInclusive<u64>) {
        for revision in revisions {
            let bytes = batch(revision).bytes().clone();
            let length = bytes.len() as u64;
            let encoded = EncodedBatch { first: revision, last: revision, time_micros: 0, bytes, place: None };
            feed.history().append(&[encoded]).unwrap();
            feed.fed(length);
        }
    }

    // What was fed again was counted twice, and the history counted as one that has everything while it was far behind. Then all files of
    // the log counted as not fed, however little was lacking: of large ones so much that all of the past was given up.
    #[test]
    fn what_a_store_that_was_opened_again_lacks_counts_as_not_fed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let feed = begun(dir.path());
        let bytes = batch(1).bytes().len() as u64;
        (1..=4).for_each(|revision| feed.send(batch(revision)));
        assert_eq!(feed.lag_bytes(), 4 * bytes);
        write(&feed, 1..=2);
        feed.history().persist().unwrap();
        write(&feed, 3..=4);
        assert_eq!(feed.lag_bytes(), 0);
        // The last two were in memory alone.
        assert_eq!(feed.history().reopen().unwrap().newest_revision, 2);
        feed.goes_on(1 << 40);
        assert_eq!(feed.lag_bytes(), 2 * bytes);
        write(&feed, 3..=4);
        feed.send(batch(5));
        assert_eq!(feed.lag_bytes(), bytes);
        feed.caught_up(5 * bytes);
        assert_eq!(feed.history().reopen().unwrap().newest_revision, 2);
        feed.goes_on(1 << 40);
        assert_eq!(feed.lag_bytes(), 3 * bytes, "how often it is opened again makes no difference");
    }

    // Whoever tells of a batch stands behind the commit path. With a queue that is waited for, this would never end.
    #[test]
    fn who_tells_of_batches_waits_for_nobody_also_where_none_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let feed = begun(dir.path());
        let sent = BATCHES_WAITING_MAX as u64 + 100;
        let bytes: u64 = (1..=sent).map(|revision| batch(revision).bytes().len() as u64).sum();
        (1..=sent).for_each(|revision| feed.send(batch(revision)));
        assert_eq!((feed.told(), feed.lag_bytes()), (sent, bytes), "what has no room in the queue is in the log");
        feed.close();
        let waiting: Vec<u64> = std::iter::from_fn(|| feed.take()).map(|batch| batch.last().0).collect();
        assert_eq!((waiting.len(), waiting.last()), (BATCHES_WAITING_MAX, Some(&(BATCHES_WAITING_MAX as u64))));
    }

    // Their number alone would let many gigabytes wait for a history that is behind.
    #[test]
    fn no_more_bytes_of_batches_wait_in_memory_than_may() {
        let dir = tempfile::tempdir().unwrap();
        let feed = begun(dir.path());
        let bytes = batch_of(1, 1 << 20).bytes().len() as u64;
        (1..=80).for_each(|revision| feed.send(batch_of(revision, 1 << 20)));
        assert_eq!((feed.told(), feed.lag_bytes()), (80, 80 * bytes), "the others are in the log");
        let waiting = std::iter::from_fn(|| feed.take()).count() as u64;
        assert_eq!(waiting, WAITING_BYTES_MAX / bytes);
    }

    // It was told only when it was written again: until then, for minutes where all of it was read before, nobody waited for what it had lost, and who asked
    // for an allocation of that was told that there never was one.
    #[tokio::test]
    async fn what_a_store_that_is_opened_again_has_lost_is_waited_for_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let feed = begun(dir.path());
        write(&feed, 1..=2);
        feed.history().persist().unwrap();
        write(&feed, 3..=4);
        assert!(feed.reaches(Revision(4), Duration::ZERO).await);
        feed.reopen().unwrap();
        assert!(feed.reaches(Revision(2), Duration::ZERO).await);
        assert!(!feed.reaches(Revision(3), Duration::ZERO).await);
    }

    #[test]
    fn a_history_that_has_lost_what_was_durable_lacks_what_the_log_has_and_not_more() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let feed = begun(&live);
        let bytes = batch(1).bytes().len() as u64;
        (1..=4).for_each(|revision| feed.send(batch(revision)));
        write(&feed, 1..=2);
        feed.history().persist().unwrap();
        write(&feed, 3..=4);
        std::fs::rename(&live, dir.path().join("away")).unwrap();
        assert_eq!(feed.history().reopen().unwrap().newest_revision, 0);
        feed.goes_on(1 << 40);
        assert_eq!(feed.lag_bytes(), 4 * bytes);
        feed.goes_on(3 * bytes);
        assert_eq!(feed.lag_bytes(), 3 * bytes);
    }
}
