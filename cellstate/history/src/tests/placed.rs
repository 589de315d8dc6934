//! Batches that stand in the log are read from there, and not copied.
use super::*;
use crate::{Frames, FramesError, GroupBy, LogPlace, LogRange, Lookup, Order, ReadError, StoreError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Batches of a segment.
const BATCHES_PER_SEGMENT: usize = 20;

/// A log in memory: frames by segment and offset.
#[derive(Debug, Default)]
struct Log(Mutex<BTreeMap<(u64, u64), (u64, EncodedBatch)>>);

impl Log {
    /// Gives batches their places.
    fn logged(&self, batches: Vec<EncodedBatch>) -> Vec<EncodedBatch> {
        let mut frames = self.0.lock().unwrap();
        let place = |batch: EncodedBatch| {
            let last = frames.iter().next_back().map(|(at, (bytes, _))| (*at, *bytes));
            let bytes = 80 + batch.bytes.len() as u64;
            let count = last.map_or(0, |((segment, _), _)| frames.range((segment, 0)..).count());
            let (segment, offset) = match last {
                None => (1, 512),
                Some(((segment, _), _)) if count == BATCHES_PER_SEGMENT => (segment + 1, 512),
                Some(((segment, offset), bytes)) => (segment, offset + bytes),
            };
            let batch = EncodedBatch { place: Some(LogPlace { segment, offset, bytes }), ..batch };
            frames.insert((segment, offset), (bytes, batch.clone()));
            batch
        };
        batches.into_iter().map(place).collect()
    }

    /// Gives up segments before this one.
    fn give_up(&self, before: u64) {
        self.0.lock().unwrap().retain(|(segment, _), _| *segment >= before);
    }
}

impl Frames for Log {
    fn read(&self, range: &LogRange) -> Result<Vec<Bytes>, FramesError> {
        let LogPlace { segment, offset, bytes } = range.place;
        let frames = self.0.lock().unwrap();
        let found: Vec<_> =
            frames.range((segment, offset)..(segment, offset + bytes)).map(|(_, frame)| frame).collect();
        if found.iter().map(|(bytes, _)| *bytes).sum::<u64>() != bytes {
            return Err(FramesError::Damaged(format!("segment {segment} offset {offset}: it is gone")));
        }
        Ok(found.into_iter().map(|(_, batch)| batch.bytes.clone()).collect())
    }
}

fn open_beside(log: &Arc<Log>, folder: &Path) -> (History, Opened) {
    let frames: Arc<dyn Frames> = log.clone();
    History::open(folder, Options { frames: Some(frames), ..options() }).unwrap()
}

fn assert_reads_all(history: &History, from: u64, to: u64) {
    assert_eq!(revisions(history, from, to), (from..=to).collect::<Vec<_>>());
    for revision in [from, (from + to) / 2, to] {
        assert_eq!(history.entry(revision).unwrap().entry, entry(revision, 200));
        let second = i64::try_from(revision.div_ceil(3)).unwrap();
        assert_eq!(history.revision_at_time(second * SECOND).unwrap(), revision.div_ceil(3) * 3);
    }
}

#[test]
fn what_stands_in_the_log_is_read_from_there_across_segments_and_restarts() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Arc::new(Log::default()));
    {
        let (history, _) = open_beside(&log, folder.path());
        for batch in log.logged(batches(1, 900, 200)) {
            history.append(&[batch]).unwrap();
        }
        assert_reads_all(&history, 1, 900);
        history.persist().unwrap();
        assert!(history.disk_bytes() < 64 << 10, "{} bytes in tables", history.disk_bytes());
    }
    let (history, opened) = open_beside(&log, folder.path());
    assert_eq!((opened.oldest_revision, opened.newest_revision), (1, 900));
    assert_reads_all(&history, 1, 900);
    history.append(&log.logged(batches(901, 990, 200))).unwrap();
    assert_reads_all(&history, 1, 990);
}

#[test]
fn blocks_that_are_copies_and_places_in_the_log_are_read_alike() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Arc::new(Log::default()));
    let (history, _) = open_beside(&log, folder.path());
    for (round, some) in batches(1, 900, 200).chunks(7).enumerate() {
        let some = if round % 3 == 1 { some.to_vec() } else { log.logged(some.to_vec()) };
        history.append(&some).unwrap();
    }
    assert_reads_all(&history, 1, 900);
    history.persist().unwrap();
    drop(history);
    let (history, _) = open_beside(&log, folder.path());
    assert_reads_all(&history, 1, 900);
}

#[test]
fn frames_that_are_gone_are_an_error_that_says_where() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Arc::new(Log::default()));
    let (history, _) = open_beside(&log, folder.path());
    history.append(&log.logged(batches(1, 900, 200))).unwrap();
    history.persist().unwrap();
    log.give_up(5);
    let error = history.entry(1).unwrap_err();
    assert!(matches!(error, ReadError::Store(StoreError::Log { first: 1, .. })), "{error}");
    assert!(error.to_string().contains("segment 1 offset 512"), "{error}");
    assert_eq!(revisions(&history, 300, 900).len(), 601);
    drop(history);
    // Without the log nothing is made up either.
    let (history, opened) = open(folder.path());
    assert_eq!(opened.newest_revision, 900);
    assert!(matches!(history.entry(900), Err(ReadError::Store(StoreError::Log { .. }))));
}

#[test]
fn a_log_that_has_something_else_there_is_not_believed() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Arc::new(Log::default()));
    let (history, _) = open_beside(&log, folder.path());
    history.append(&log.logged(batches(1, 900, 200))).unwrap();
    history.persist().unwrap();
    let other = batches(4, 6, 200).remove(0);
    log.0.lock().unwrap().values_mut().next().unwrap().1.bytes = other.bytes;
    let error = history.entry(1).unwrap_err();
    assert!(matches!(error, ReadError::Store(StoreError::Log { first: 1, .. })), "{error}");
}

#[test]
fn what_retires_may_be_given_up_in_the_log_as_soon_as_it_is_seen() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Arc::new(Log::default()));
    let after = folder.path().join("after");
    {
        let before = folder.path().join("before");
        let (history, _) = open_beside(&log, &before);
        for some in batches(1, 900, 200).chunks(50) {
            history.append(&log.logged(some.to_vec())).unwrap();
            let revision = history.newest_revision();
            history.checkpoint(revision, 0, &[pages(1, 1)], [page(1, 0, "x")]).unwrap();
        }
        history.persist().unwrap();
        let oldest = history.retire(700).unwrap().oldest;
        assert_eq!(oldest, 600);
        // The power goes: nothing that was not in tables is there.
        copy_of(&history, &before, &after);
    }
    // All that is before revision 600: 200 batches, 20 in a segment.
    log.give_up(10);
    for journal in std::fs::read_dir(after.join("store")).unwrap().map(|entry| entry.unwrap().path()) {
        if journal.extension().is_some_and(|extension| extension == "jnl") {
            std::fs::write(journal, b"").unwrap();
        }
    }
    let (history, opened) = open_beside(&log, &after);
    assert_eq!(opened.oldest_revision, 600);
    assert!(matches!(history.entry(599), Err(ReadError::Retired { oldest: 600, .. })));
    assert_eq!(revisions(&history, 600, opened.newest_revision).len() as u64, opened.newest_revision - 599);
    while !history.retire(700).unwrap().done {}
}

/// Damage of the block that the oldest revision stands in was told as if the time that was asked for was no longer retained.
#[test]
fn damage_of_what_is_retained_is_told_to_who_asks_for_a_time() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Arc::new(Log::default()));
    let (history, _) = open_beside(&log, folder.path());
    history.append(&log.logged(batches(1, 90, 0))).unwrap();
    history.persist().unwrap();
    history.checkpoint(24, 0, &[pages(1, 1)], [page(1, 0, "x")]).unwrap();
    while !history.retire(24).unwrap().done {}
    assert_eq!((history.oldest_revision(), history.revision_at_time(12 * SECOND).unwrap()), (24, 36));
    log.give_up(2);
    let error = history.revision_at_time(12 * SECOND).unwrap_err();
    assert!(matches!(error, ReadError::Store(StoreError::Log { first: 1, .. })), "{error}");
}

#[test]
fn what_is_looked_for_is_found_in_the_log() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Arc::new(Log::default()));
    let (history, _) = open_beside(&log, folder.path());
    history.append(&log.logged(vec![batch(SECOND, vec![opening(1, "batch")])])).unwrap();
    for revision in 2..=600 {
        let entries = vec![lost(revision, 1, 1, &[("service", 1, 1)])];
        history.append(&log.logged(vec![batch(2 * SECOND, entries)])).unwrap();
    }
    assert_eq!(history.transaction(1, 17).unwrap(), Lookup::Found(17));
    assert_eq!(history.transaction(1, 601).unwrap(), Lookup::NeverWas);
    assert_eq!(listed(&history, 0..=u64::MAX, Order::NewestFirst, 3, |_| true).0, [600, 599, 598]);
    assert_eq!(history.conflicts(0, u64::MAX, GroupBy::Pair, 1, None).unwrap().rows[0].transactions, 599);
}
