//! What waits to be used again, and is given back where there is no room.

use super::*;

/// Has a server that is gone leave two segments that were given up, and wait to be used again; one that is made comes behind the log already.
async fn leave_two_segments(dir: &std::path::Path) {
    let (server, shared) = with_two_unfed_segments(dir, false).await;
    // Of the third segment, so that it begins before the newest revision.
    shared.ask(submission("newest")).await.unwrap();
    while !shared.keeper.is_ready() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(shared);
    server.kill().await.unwrap();

    // Beside a history, and without the thread that feeds it.
    let (_journal, shared) = without_threads(dir, |_| None);
    let newest = shared.durable_revision().0;
    let mut feeder = Feeder::new(&shared, None);
    feed_what_is_durable(&mut feeder);
    shared.feed.history().persist().unwrap();
    assert!(feeder.checkpoint().unwrap());
    assert_eq!(shared.keeper.kept_bytes(), 2 * (64 << 10));
    assert_eq!(shared.feed.history().retire(newest).unwrap().oldest, newest);
    feeder.give_up_log();
    assert_eq!((feeder.fallback.revision(), shared.keeper.oldest_kept_revision()), (Some(newest), 1));
}

// The log learned with the first checkpoint what nobody needs: a cell that was started on a disk with little room was read-only for a minute, beside
// hundreds of megabytes that it could have given back.
#[tokio::test]
async fn what_a_server_before_gave_up_is_given_back_before_any_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    leave_two_segments(dir.path()).await;
    let (_journal, shared) = without_threads(dir.path(), |_| None);
    let keeper = &shared.keeper;
    // It ends before it does anything else.
    shared.abandon();
    Feeder::new(&shared, None).run().unwrap();
    assert_eq!(keeper.oldest_kept_revision(), 1, "they wait to be used again");
    // As the keeping thread does in a cell that is read-only.
    keeper.give_back().unwrap();
    assert!(keeper.oldest_kept_revision() > 1);
}

// It said that it goes on by itself, and stayed read-only beside segments that nobody needed.
#[tokio::test]
async fn a_cell_without_room_gives_back_by_itself_what_waits_to_be_used_again() {
    let dir = tempfile::tempdir().unwrap();
    leave_two_segments(dir.path()).await;
    let mut options = of_small_segments(dir.path());
    options.settings.reserve_bytes = Some(u64::MAX);
    let server = Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    let began = Instant::now();
    while shared.keeper.oldest_kept_revision() == 1 && began.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(shared.keeper.oldest_kept_revision() > 1);
    drop(shared);
    server.kill().await.unwrap();
}
