//! Leaps that fail on the way.

use std::fs::File;

use super::super::failing::FeedError;
use super::*;

/// Puts something in the way of the next tables of the history's store.
fn put_in_the_way(dir: &std::path::Path) {
    for keyspace in std::fs::read_dir(dir.join("history/store/keyspaces")).unwrap() {
        let tables = keyspace.unwrap().path().join("tables");
        let Ok(there) = std::fs::read_dir(&tables) else { continue };
        let numbers = there.filter_map(|table| table.unwrap().file_name().to_str()?.parse::<u64>().ok());
        let newest = numbers.max().unwrap_or(0);
        for number in newest + 1..newest + 30 {
            // The store may be making tables at this moment.
            drop(File::create_new(tables.join(number.to_string())));
        }
    }
}

/// A feeder of a history that has everything but a job that was submitted last, and a checkpoint ahead of that; and the newest revisions of both.
async fn with_a_checkpoint_ahead(shared: &Arc<Shared>) -> (Feeder<'_>, u64, u64) {
    let open = plenum_proto::command::open_session("local", "default", "batch").unwrap();
    shared.ask(open).await.unwrap();
    let mut feeder = Feeder::new(shared, None);
    let history = shared.feed.history();
    feed_what_is_durable(&mut feeder);
    history.persist().unwrap();
    let before = history.newest_revision();
    // Nothing comes from memory: it would be fed beside the checkpoint.
    shared.feed.end();
    let last = shared.ask(submission("web")).await.unwrap().at.0;
    // Its bytes are counted by then.
    while shared.feed.told() < last {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(feeder.checkpoint().unwrap());
    let ahead = history.newest_checkpoint().unwrap().revision;
    assert!((1..ahead).contains(&before) && history.newest_revision() == before);
    (feeder, before, ahead)
}

// What it had left out was gone for readers, and was neither counted nor told; it counted as what the history lacked, though it was never to come.
#[tokio::test]
async fn a_leap_that_fails_after_it_has_taken_effect_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    let (mut feeder, before, ahead) = with_a_checkpoint_ahead(&shared).await;
    let history = shared.feed.history();
    put_in_the_way(dir.path());
    let failed = FeedError::from(history.leap_to(ahead).unwrap_err());
    assert_eq!((history.newest_revision(), shared.feed.lag_bytes() > 0), (before, true));
    feeder.pause = Duration::ZERO;
    assert!(feeder.go_on_after(&failed).unwrap());
    assert_eq!((history.newest_revision(), history.oldest_revision()), (ahead, ahead + 1));
    assert_eq!((shared.feed.given_up(), shared.feed.lag_bytes()), (ahead - before, 0));
    // And once.
    assert!(feeder.go_on_after(&failed).unwrap());
    assert_eq!(shared.feed.given_up(), ahead - before);
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();
}

// The next checkpoint came first, and what was fed beside it lost its names when those of then were settled.
#[tokio::test]
async fn names_that_a_leap_has_left_unsettled_are_settled_before_anything_is_fed_beside_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    let (mut feeder, _, ahead) = with_a_checkpoint_ahead(&shared).await;
    shared.feed.history().leap_to(ahead).unwrap();
    let cell = shared.snapshot().await;
    assert!(!knows_names(&shared, &cell));
    // As after the store was opened again.
    feeder.before = None;
    feeder.checkpoint_again().unwrap();
    assert!(knows_names(&shared, &cell));
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();
}
