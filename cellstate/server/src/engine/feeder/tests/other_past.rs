//! A fallback that another past of the same cell has left.

use super::*;
use crate::api::past;
use crate::backup::fallback;

// Only the log itself was asked for its frame, and a fallback mostly shows what the log gave up: it counted as the log's own, and was written over, though it
// may have been the last copy of what it shows.
#[tokio::test]
async fn a_fallback_from_before_the_log_is_told_from_one_of_another_past_by_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = with_two_unfed_segments(dir.path(), false).await;
    // Of the third segment, so that it begins before the newest revision.
    shared.ask(submission("newest")).await.unwrap();
    drop(shared);
    server.kill().await.unwrap();

    // Beside a history, and without the thread that feeds it.
    let (_journal, shared) = without_threads(dir.path(), |_| None);
    let (keeper, history, newest) = (&shared.keeper, shared.feed.history(), shared.durable_revision().0);
    let mut feeder = Feeder::new(&shared, None);
    let revision = feed_what_is_durable(&mut feeder)[1].last;
    history.persist().unwrap();
    let (cell, own) = (past::fold(history, revision).unwrap(), keeper.hash_at(revision).unwrap().unwrap());
    assert!(feeder.checkpoint().unwrap());
    assert!(revision + 1 < keeper.oldest_revision() && keeper.oldest_kept_revision() == 1);
    let before = feeder.before.take();
    drop(feeder);

    let beside = |hash| {
        fallback::write(dir.path(), &cell, shared.identity.incarnation, hash).unwrap();
        Feeder::new(&shared, before.clone())
    };
    assert_eq!(beside(own).fallback.revision(), Some(revision));
    let mut feeder = beside(ChainHash([2; 32]));
    assert_eq!(feeder.fallback.revision(), None);
    let other = std::fs::read(dir.path().join(FALLBACK)).unwrap();
    assert_eq!(history.retire(newest).unwrap().oldest, newest);
    feeder.give_up_log();
    assert!(std::fs::read(dir.path().join(FALLBACK)).unwrap() == other, "it is neither replaced nor removed");
}
