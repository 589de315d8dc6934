//! What is fed while something else is written.

use std::path::Path;

use bytes::Bytes;
use plenum_journal::{BatchLabel, Journal};
use plenum_model::{Delta, LogTime};

use super::*;
use crate::backup::fallback::tests::a_large_cell;
use crate::publish::BatchEncoder;

/// A cell whose history has all that its log has, and its newest revision.
async fn with_all_fed(dir: &Path) -> (Journal, Arc<Shared>, u64) {
    let (server, shared) = without_feeder(dir).await;
    drop(shared);
    server.kill().await.unwrap();
    let (journal, shared) = without_threads(dir, |_| None);
    feed_what_is_durable(&mut Feeder::new(&shared, None));
    let newest = shared.durable_revision().0;
    (journal, shared, newest)
}

/// The feeder of such a cell, with a fallback to write that takes some pieces.
fn with_a_fallback_to_write(shared: &Arc<Shared>) -> Feeder<'_> {
    Feeder::new(shared, Some(a_large_cell()))
}

/// A batch of one transaction behind a revision, with this delta.
fn batch_of(behind: u64, delta: &[u8]) -> Bytes {
    let mut encoder = BatchEncoder::default();
    encoder.begin(LogTime { micros: i64::MAX });
    encoder.add(Revision(behind + 1), b"", b"", delta);
    encoder.finish()
}

/// One that changes nothing is in the log, and the feeding thread is told of this one in its place. The revision of both.
fn one_more(journal: &mut Journal, shared: &Shared, behind: u64, told: Bytes) -> u64 {
    let next = behind + 1;
    let label = BatchLabel { term: 1, first_revision: next, last_revision: next };
    journal.append_and_sync(label, &[&batch_of(behind, b"")]).unwrap();
    shared.feed.send(Arc::new(LoggedBatch::parse(told).unwrap()));
    next
}

// Nothing was fed as long as a checkpoint or a fallback was written. Under full load more came than waits in memory, and was read from the log again.
#[tokio::test]
async fn what_waits_in_memory_is_fed_beside_a_checkpoint_and_a_fallback() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, shared, newest) = with_all_fed(dir.path()).await;
    let next = one_more(&mut journal, &shared, newest, batch_of(newest, b""));
    assert!(Feeder::new(&shared, None).checkpoint().unwrap());
    let history = shared.feed.history();
    assert_eq!((history.newest_revision(), shared.feed.lag_bytes()), (next, 0));
    assert_eq!(history.newest_checkpoint().unwrap().revision, newest);

    let later = one_more(&mut journal, &shared, next, batch_of(next, b""));
    let mut feeder = with_a_fallback_to_write(&shared);
    let facts = feeder.facts(next);
    assert_eq!((feeder.write_fallback(&facts), feeder.fallback.revision()), (next, Some(1)));
    assert_eq!((history.newest_revision(), shared.feed.lag_bytes()), (later, 0));
}

#[tokio::test]
async fn behind_a_leap_nothing_is_fed_beside_a_fallback_before_names_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, shared, newest) = with_all_fed(dir.path()).await;
    let history = shared.feed.history();
    let mut feeder = with_a_fallback_to_write(&shared);
    // As of a cell with one transaction more, which the history lacks.
    let mut cell = shared.snapshot().await;
    cell.apply(&Delta::new(cell.revision().next(), cell.time())).unwrap();
    checkpoint::write_beside(history, &cell, None, || ()).unwrap();
    history.leap_to(newest + 1).unwrap();
    let next = one_more(&mut journal, &shared, newest, batch_of(newest, b""));
    let next = one_more(&mut journal, &shared, next, batch_of(next, b""));
    let facts = feeder.facts(newest);
    feeder.write_fallback(&facts);
    assert_eq!((feeder.fallback.revision(), history.newest_revision()), (Some(1), newest + 1));
    feeder.settle_names().unwrap();
    feeder.write_fallback(&facts);
    assert_eq!(history.newest_revision(), next);
}

// Writing the fallback goes on, and the store may be no good any more.
#[tokio::test]
async fn what_can_not_be_fed_beside_a_fallback_is_told_of_when_that_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, shared, newest) = with_all_fed(dir.path()).await;
    one_more(&mut journal, &shared, newest, batch_of(newest, b"no delta"));
    let mut feeder = with_a_fallback_to_write(&shared);
    let facts = feeder.facts(newest);
    feeder.write_fallback(&facts);
    assert_eq!((feeder.fallback.revision(), shared.feed.history().newest_revision()), (Some(1), newest));
    let told = feeder.checkpoint().unwrap_err().told();
    assert!(told.contains(&format!("revision {} can't be decoded", newest + 1)), "{told}");
}
