//! Cells that were folded for readers, while the resolver showed none.

use super::*;
use crate::api::past;

/// Has something decided, and shows readers a cell that was folded up to there.
async fn show_folded(feeder: &mut Feeder<'_>) {
    let (shared, history, mut jobs) = (feeder.shared, feeder.shared.feed.history(), 0);
    let revision = loop {
        jobs += 1;
        let revision = shared.ask(submission(&format!("later-{jobs}"))).await.unwrap().at;
        // A picture that was wanted twice may have come yet.
        if !shared.picture.shows(revision) {
            break revision;
        }
    };
    while history.newest_revision() < revision.0 {
        feed_what_is_durable(feeder);
    }
    shared.picture.show_folded(past::fold(history, revision.0).unwrap());
    assert!(shared.picture.shows(revision), "readers have it");
}

// It has no page of the resolver's: images of the whole cell were written, on a disk that was full already; and once more with the next checkpoint,
// which had no page of this one.
#[tokio::test]
async fn a_cell_that_was_folded_for_readers_is_no_checkpoint_beside_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    for number in 0..600 {
        shared.ask(submission(&format!("job-{number}"))).await.unwrap();
    }
    let mut feeder = Feeder::new(&shared, None);
    let images = |feeder: &mut Feeder<'_>| {
        assert!(feeder.checkpoint().unwrap());
        shared.feed.history().newest_checkpoint().unwrap().images
    };
    let whole = images(&mut feeder);
    show_folded(&mut feeder).await;
    let changed = images(&mut feeder);
    shared.ask(submission("last")).await.unwrap();
    let again = images(&mut feeder);
    assert!(changed.max(again) * 4 <= whole, "{whole} images, {changed}, and {again}");
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();
}

// A log that can't grow may wait for a checkpoint that lets go of some of it, and no other picture comes before that.
#[tokio::test]
async fn where_all_images_are_written_in_any_case_a_cell_that_was_folded_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    let mut feeder = Feeder::new(&shared, None);
    show_folded(&mut feeder).await;
    // Nobody is waited for.
    shared.picture.close();
    assert!(feeder.checkpoint().unwrap());
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();
}
