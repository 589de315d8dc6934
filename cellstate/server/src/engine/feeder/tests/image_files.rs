//! Where the files that sets of images begin with can't be written.

use plenum_history::StoreError;

use super::super::failing::FeedError;
use super::*;

// Each checkpoint failed anew, before anything else was tried: nothing was fed, and the log kept all until the cell took nothing more.
#[tokio::test]
async fn a_history_whose_images_can_not_be_written_into_files_goes_on_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = unfed_of_small_segments(dir.path());
    options.settings.image_file_pages = 1;
    let server = Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    std::fs::write(dir.path().join("history/images"), "no folder").unwrap();
    let mut feeder = Feeder::new(&shared, None);
    feed_what_is_durable(&mut feeder);
    let refused = feeder.checkpoint().map_err(|error| error.told());
    assert!(refused.is_err_and(|told| told.contains("history/images")));
    drop(feeder);
    let last = shared.ask(submission("later")).await.unwrap().at.0;
    shared.feed.tell(last);
    let feeding = {
        let shared = shared.clone();
        std::thread::spawn(move || {
            let mut feeder = Feeder::new(&shared, None);
            feeder.checkpoint_again().and_then(|()| feeder.run_on()).map_err(|error| error.told())
        })
    };
    let history = shared.feed.history();
    let goes_on = async {
        while history.newest_revision() < last || history.newest_checkpoint().is_none() {
            assert!(!feeding.is_finished(), "it has given up");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), goes_on).await.expect("it goes on without files");
    shared.feed.close();
    assert_eq!(feeding.join().unwrap(), Ok(()));
    drop(shared);
    server.kill().await.unwrap();
}

// A checkpoint that needed more room than was kept free was tried each minute, and failed, beside a fallback that takes as much.
#[tokio::test]
async fn a_fallback_makes_room_for_images_that_have_none_in_a_cell_that_is_read_only() {
    use std::io::ErrorKind::{PermissionDenied, StorageFull};
    for (kind, reserve_bytes, is_left) in
        [(PermissionDenied, u64::MAX, true), (StorageFull, 0, true), (StorageFull, u64::MAX, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut options = of_small_segments(dir.path());
        Server::start(options.clone()).await.unwrap().kill().await.unwrap();
        options.settings.reserve_bytes = Some(reserve_bytes);
        let server = Server::start(options).await.unwrap();
        let shared = server.shared().clone();
        while shared.space.is_read_only() != (reserve_bytes > 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (mut feeder, _) = with_the_first_fallback(&shared).await;
        let failed = StoreError::ImageFile { path: dir.path().to_owned(), source: kind.into() };
        feeder.make_room(&FeedError::Write(failed.into()));
        assert_eq!(dir.path().join(FALLBACK).exists(), is_left, "{kind}, {reserve_bytes}");
        drop(feeder);
        drop(shared);
        server.kill().await.unwrap();
    }
}
