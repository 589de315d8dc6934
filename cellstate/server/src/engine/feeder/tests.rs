//! The feeding thread, step by step: nobody feeds but the test.

mod beside;
mod folded;
mod giving_back;
mod image_files;
mod leaps;
mod other_past;

use super::failing::LONGEST_PAUSE;
use super::*;
use crate::backup::fallback::FALLBACK;
use crate::engine::pace::is_far_behind;
use crate::engine::warnings::Warnings;
use crate::shared::tests::without_threads;
use crate::{Handle, Server, ServerOptions};
use plenum_journal::ChainHash;
use plenum_proto::v1;
use tracing::Event;

/// A server whose history nobody feeds but the test.
async fn without_feeder(dir: &std::path::Path) -> (Handle, Arc<Shared>) {
    let mut options = ServerOptions::new(dir);
    options.settings.history = false;
    let server = Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    (server, shared)
}

/// Waits until something is durable that the history lacks.
async fn until_it_lags(shared: &Shared) {
    while shared.feed.lag_bytes() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The batches that it fed.
fn feed_what_is_durable(feeder: &mut Feeder<'_>) -> Vec<EncodedBatch> {
    feeder.shared.feed.tell(feeder.shared.durable_revision().0);
    let batches = feeder.next_batches(true).unwrap();
    feeder.feed(batches.clone()).unwrap();
    batches
}

// The disk was full, and the lag of a history that lacked as much as before read 0.
#[tokio::test]
async fn a_leap_for_which_no_picture_comes_makes_up_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    until_it_lags(&shared).await;
    shared.picture.close();
    let lag_bytes = shared.feed.lag_bytes();
    let mut feeder = Feeder::new(&shared, None);
    feeder.leap().unwrap();
    assert_eq!(shared.feed.lag_bytes(), lag_bytes);
    assert!(feeder.leap_due.is_some(), "what there is is fed before it is tried again");
    drop(shared);
    server.kill().await.unwrap();
}

// Batches that came before a gap in the log were counted once more after the leap over it, which had made up for them: the lag read too little.
#[tokio::test]
async fn what_the_history_has_already_makes_up_for_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    let mut feeder = Feeder::new(&shared, None);
    let batches = feed_what_is_durable(&mut feeder);
    shared.ask(submission("web")).await.unwrap();
    until_it_lags(&shared).await;
    let lag_bytes = shared.feed.lag_bytes();
    feeder.feed(batches).unwrap();
    assert_eq!(shared.feed.lag_bytes(), lag_bytes);
    drop(shared);
    server.kill().await.unwrap();
}

// The server took up to a minute to end: what said so was taken out of the queue while a checkpoint was written, and then waited for.
#[tokio::test]
async fn an_end_that_is_told_of_in_the_middle_of_a_checkpoint_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    shared.feed.close();
    assert!(comes_back(&shared, |feeder| {
        feeder.feed_from_memory().unwrap();
        feeder.wait();
    }));
    drop(shared);
    server.kill().await.unwrap();
}

/// Whether a feeder comes back from this before half a minute is over.
fn comes_back(shared: &Arc<Shared>, waits: impl FnOnce(&mut Feeder<'_>) + Send) -> bool {
    let (waited, has_waited) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            waits(&mut Feeder::new(shared, None));
            waited.send(()).unwrap();
        });
        let came = has_waited.recv_timeout(Duration::from_secs(30));
        // So that it ends in any case.
        shared.feed.close();
        came.is_ok()
    })
}

// Nothing else wakes it in a cell in which nothing more happens.
#[test]
fn who_waits_for_batches_is_woken_by_what_is_to_be_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, shared) = without_threads(dir.path(), |_| None);
    assert!(comes_back(&shared, |feeder| {
        feeder.rest = Rest::new(Duration::MAX);
        feeder.retiring_due = Some(Instant::now() + GATHERING);
        feeder.wait();
    }));
}

// On a slow disk a checkpoint was due before the first batch was fed. The history began with that, and lacked what is before it.
#[tokio::test]
async fn a_history_that_has_nothing_yet_takes_what_the_log_has_before_any_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path());
    options.settings.history = false;
    options.settings.checkpoint_bytes = 1;
    let server = Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    until_it_lags(&shared).await;
    let mut feeder = Feeder::new(&shared, None);
    let history = shared.feed.history();
    feeder.checkpoint_when_due().unwrap();
    assert_eq!(history.newest_checkpoint(), None);
    feed_what_is_durable(&mut feeder);
    feeder.checkpoint_when_due().unwrap();
    assert!(history.newest_checkpoint().is_some());
    assert_eq!(history.oldest_revision(), 1);
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();
}

/// Settings with which hardly anything but whole segments fits the log's bound.
fn tight(dir: &std::path::Path, log_bytes_max: u64) -> ServerOptions {
    let mut tight = ServerOptions::new(dir);
    tight.settings.segment_bytes = 1 << 20;
    tight.settings.log_bytes_max = log_bytes_max;
    tight
}

// The sizes of the log's files, which are made beforehand, counted as what a history lacked whose newest checkpoint was ahead of its
// batches, as it is after a crash of a quiet cell: with segments of a gibibyte all of the past was given up for a few kilobytes.
#[tokio::test]
async fn a_history_that_lacks_hardly_anything_does_not_leap_however_large_segments_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut unfed = tight(dir.path(), 1 << 20);
    unfed.settings.history = false;
    let server = Server::start(unfed).await.unwrap();
    let shared = server.shared().clone();
    while !shared.keeper.is_ready() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let durable = shared.durable_revision().0;
    let mut feeder = Feeder::new(&shared, None);
    feed_what_is_durable(&mut feeder);
    assert!(feeder.checkpoint().unwrap());
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();

    let opened = crate::recovery::open(&tight(dir.path(), 1 << 20)).unwrap();
    let checkpoint = opened.history.newest_checkpoint().map(|newest| newest.revision);
    assert_eq!((checkpoint, opened.history.newest_revision()), (Some(durable), 0), "its batches were in memory");
    let keeper = opened.journal.keeper();
    let mut reader = keeper.reader(1).unwrap();
    let mut unfed_bytes = 0;
    while let Some(frame) = reader.next_frame().unwrap() {
        unfed_bytes += frame.payload.len() as u64;
    }
    assert_eq!((opened.lag_bytes, keeper.size_bytes()), (unfed_bytes, 2 << 20));
    drop((reader, keeper, opened));

    let server = Server::start(tight(dir.path(), 1 << 20)).await.unwrap();
    let shared = server.shared().clone();
    let history = shared.feed.history();
    while history.newest_revision() < shared.durable_revision().0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((history.oldest_revision(), shared.feed.given_up()), (1, 0));
    drop(shared);
    server.kill().await.unwrap();
}

// As much was given up as soon as it was lacking, though it stood in the segment that was being written.
#[tokio::test]
async fn a_leap_that_would_let_go_of_no_segment_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut unfed = tight(dir.path(), 2);
    unfed.settings.history = false;
    let server = Server::start(unfed).await.unwrap();
    let shared = server.shared().clone();
    while !is_far_behind(&shared.settings, shared.feed.lag_bytes()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut feeder = Feeder::new(&shared, None);
    feeder.leap_when_due().unwrap();
    let history = shared.feed.history();
    assert_eq!((history.newest_checkpoint(), history.newest_revision(), shared.feed.given_up()), (None, 0, 0));
    drop(shared);
    server.kill().await.unwrap();
}

// While nothing was fed, it was tried again at once, without end and with a warning each time.
#[tokio::test]
async fn what_can_not_be_cleared_away_is_tried_again_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    // Its store can't be opened again.
    let lock = dir.path().join("history/store/lock");
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    assert!(shared.feed.history().reopen().is_err());
    let mut feeder = Feeder::new(&shared, None);
    feeder.retiring_due = Some(Instant::now());
    feeder.give_up();
    assert!(feeder.retiring_due.is_some_and(|due| due > Instant::now() + RETIRING_PAUSE));
    drop(shared);
    server.kill().await.unwrap();
}

// The next segment was made first, at the low priority of this thread, while whoever committed may have waited for it; and where it could not be
// made, nothing was given back.
#[tokio::test]
async fn segments_of_the_log_are_given_back_also_where_the_next_one_can_not_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = with_two_unfed_segments(dir.path(), true).await;
    shared.keeper.release(shared.durable_revision().0);
    Feeder::new(&shared, None).give_up();
    assert!(shared.keeper.oldest_revision() > 1);
    drop(shared);
    server.kill().await.unwrap();
}

/// Settings with which a few jobs fill a segment, and nothing is kept free.
fn of_small_segments(dir: &std::path::Path) -> ServerOptions {
    let mut options = tight(dir, 1 << 30);
    options.settings.segment_bytes = 64 << 10;
    options.settings.reserve_bytes = Some(0);
    options
}

/// A server that has filled two small segments of its log; where that is to be `blocked`, it can't make another one.
async fn with_two_full_segments(options: &ServerOptions, blocked: bool) -> (Handle, Arc<Shared>) {
    let server = Server::start(options.clone()).await.unwrap();
    let shared = server.shared().clone();
    let mut jobs = 0;
    for full in [1, 2] {
        while !shared.keeper.is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if blocked && full == 2 {
            std::fs::create_dir(options.dir.join("log/spare.tmp")).unwrap();
        }
        while shared.keeper.held_bytes(0) < full * (64 << 10) {
            shared.ask(submission(&format!("job-{jobs}"))).await.unwrap();
            jobs += 1;
        }
    }
    (server, shared)
}

/// Those of a server whose history nobody feeds.
fn unfed_of_small_segments(dir: &std::path::Path) -> ServerOptions {
    let mut unfed = of_small_segments(dir);
    unfed.settings.history = false;
    unfed
}

async fn with_two_unfed_segments(dir: &std::path::Path, blocked: bool) -> (Handle, Arc<Shared>) {
    with_two_full_segments(&unfed_of_small_segments(dir), blocked).await
}

// Beside a history what is released is kept until it is given up, which came after the names: a cell that was read-only for want of room stayed so for
// as long as these took. And what the thread itself was reading stayed in any case.
#[tokio::test]
async fn a_leap_gives_the_room_of_the_log_back_before_it_tells_the_history_names() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = with_two_unfed_segments(dir.path(), false).await;
    drop(shared);
    server.kill().await.unwrap();

    // Beside a history, and without the thread that feeds it.
    let (_journal, shared) = without_threads(dir.path(), |_| None);
    let (present, keeper) = (shared.durable_revision().0, &shared.keeper);
    shared.feed.tell(present);
    let mut feeder = Feeder::new(&shared, None);
    let mut batches = feeder.next_batches(true).unwrap();
    batches.truncate(1);
    feeder.feed(batches).unwrap();
    let history = shared.feed.history();
    assert!(history.newest_revision() < present && keeper.oldest_kept_revision() == 1);
    feeder.reader = Some(keeper.reader(1).unwrap());
    assert!(feeder.leave_out().unwrap());
    // As the keeping thread does in a cell that is read-only.
    keeper.give_back().unwrap();
    assert!(keeper.oldest_kept_revision() > 1);
    assert_eq!(history.wants_names_of().unwrap(), Some(present), "these are still to come");
}

/// A feeder with a fallback from before all of the log; and the cell's revision.
async fn with_the_first_fallback(shared: &Arc<Shared>) -> (Feeder<'_>, u64) {
    let cell = shared.snapshot().await;
    let newest = cell.revision().0;
    // What its own thread still reads of the log stays for it.
    while shared.feed.history().newest_revision() < newest {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut feeder = Feeder::new(shared, Some(cell));
    feeder.fallback.renew(&Cell::default(), ChainHash::default(), &mut || true).unwrap();
    (feeder, newest)
}

/// The same of a cell that is read-only.
async fn with_an_old_fallback(shared: &Arc<Shared>) -> (Feeder<'_>, u64) {
    while !shared.space.is_read_only() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    with_the_first_fallback(shared).await
}

// As soon as a cell was read-only its fallback went, though all of the log stayed: a minute without room cost a quiet cell the second copy of its
// state, for weeks.
#[tokio::test]
async fn a_cell_without_room_keeps_its_fallback_until_a_whole_segment_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = of_small_segments(dir.path());
    let (server, shared) = with_two_full_segments(&options, false).await;
    drop(shared);
    server.kill().await.unwrap();
    options.settings.reserve_bytes = Some(u64::MAX);
    let server = Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    let (mut feeder, newest) = with_an_old_fallback(&shared).await;
    let is_there = || dir.path().join(FALLBACK).exists();
    assert_eq!(shared.keeper.bytes_let_go(newest, 0), 0);
    assert_eq!((feeder.wanted_from(newest), is_there()), (1, true));
    shared.keeper.release(newest);
    assert_eq!((feeder.wanted_from(newest), is_there()), (newest, false));
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();
}

// What the server before had let go of, and nobody had used again yet, counted as what was to go: after a start on a disk with little room the fallback
// was removed, and nothing was gained by it.
#[tokio::test]
async fn a_cell_without_room_keeps_its_fallback_though_segments_from_before_it_wait_to_be_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = of_small_segments(dir.path());
    let (server, shared) = with_two_full_segments(&options, false).await;
    // Of the third segment, which is not full.
    let earlier = shared.snapshot().await;
    assert_eq!(shared.keeper.held_bytes(earlier.revision().0), 0);
    for job in 0..3 {
        shared.ask(submission(&format!("late-{job}"))).await.unwrap();
    }
    drop(shared);
    server.kill().await.unwrap();
    options.settings.reserve_bytes = Some(u64::MAX);
    let server = Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    let (mut feeder, newest) = with_an_old_fallback(&shared).await;
    feeder.fallback.renew(&earlier, ChainHash::default(), &mut || true).unwrap();
    shared.keeper.release(newest);
    assert_eq!(shared.keeper.bytes_let_go(newest, 0), 2 * (64 << 10), "all of it from before the fallback");
    let next = earlier.revision().0 + 1;
    assert_eq!((feeder.wanted_from(newest), dir.path().join(FALLBACK).exists()), (next, true));
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();
}

// Too many open files, say, keep the log from growing: room was not what was missing, and was made all the same.
#[tokio::test]
async fn a_fallback_is_not_removed_for_room_where_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let options = of_small_segments(dir.path());
    let (server, shared) = with_two_full_segments(&options, true).await;
    let (mut feeder, newest) = with_an_old_fallback(&shared).await;
    shared.keeper.release(newest);
    // What is in the way of the log may be in the way of this as well.
    let draft = dir.path().join("fallback.tmp");
    std::fs::create_dir(&draft).unwrap();
    assert_eq!((feeder.wanted_from(newest), feeder.fallback.revision()), (1, Some(0)));
    assert!(dir.path().join(FALLBACK).exists());
    std::fs::remove_dir(&draft).unwrap();
    // It was written anew each time more was retired, up to where it failed.
    assert!(feeder.retiring_due.is_some());
    feeder.fallback_due = feeder.fallback_due.map(|due| due + LONGEST_PAUSE * 60);
    // As after the last step of a retirement: then nothing would have called for the next try, or what grows old would have, later.
    for retiring_due in [None, feeder.fallback_due.map(|due| due + AGE_POLL_LONGEST)] {
        feeder.retiring_due = retiring_due;
        assert_eq!((feeder.wanted_from(newest), feeder.fallback.revision()), (1, Some(0)), "it is tried again later");
        assert_eq!(feeder.retiring_due, feeder.fallback_due);
    }
    feeder.fallback_due = None;
    assert_eq!((feeder.wanted_from(newest), feeder.fallback.revision()), (newest, Some(newest)));
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();
}

// The next segment had been made before, so that nothing was in the log's way: one error of the disk, or too many open files, cost the fallback, and all
// that led on from it, though there was room.
#[tokio::test]
async fn a_fallback_stays_where_the_next_one_fails_for_something_else_than_room_and_the_log_can_grow() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = with_two_full_segments(&of_small_segments(dir.path()), false).await;
    let (mut feeder, newest) = with_the_first_fallback(&shared).await;
    shared.keeper.release(newest);
    let draft = dir.path().join("fallback.tmp");
    std::fs::create_dir(&draft).unwrap();
    assert!(shared.space.low().is_none());
    for tried in ["tried", "tried again later"] {
        assert_eq!((feeder.wanted_from(newest), feeder.fallback.revision()), (1, Some(0)), "it is {tried}");
        assert!(feeder.fallback_due.is_some() && feeder.retiring_due == feeder.fallback_due);
    }
    std::fs::remove_dir(&draft).unwrap();
    feeder.fallback_due = None;
    assert_eq!((feeder.wanted_from(newest), feeder.fallback.revision()), (newest, Some(newest)));
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();
}

// A quota is nothing that a disk tells of: it kept the log from growing and the fallback from being written, and each waited for what only the other one
// would have given.
#[tokio::test]
async fn a_log_that_can_not_grow_waits_for_no_fallback_that_has_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = with_two_full_segments(&of_small_segments(dir.path()), true).await;
    let (mut feeder, newest) = with_an_old_fallback(&shared).await;
    shared.keeper.release(newest);
    assert!(shared.space.low().is_some_and(|low| low.obstacle.is_some()));
    std::os::unix::fs::symlink("/dev/full", dir.path().join("fallback.tmp")).unwrap();
    assert_eq!((feeder.wanted_from(newest), feeder.fallback.revision()), (newest, None));
    assert!(!dir.path().join(FALLBACK).exists());
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();
}

// It would never have been written: the cell was read-only until the file was moved away.
#[tokio::test]
async fn a_log_that_can_not_grow_waits_for_no_fallback_that_is_not_to_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = with_two_full_segments(&of_small_segments(dir.path()), true).await;
    let (mut feeder, newest) = with_an_old_fallback(&shared).await;
    shared.keeper.release(newest);
    assert!(shared.space.low().is_some_and(|low| low.obstacle.is_some()));
    // Found as what it is: of a cell without an id.
    feeder.fallback = fallback_of(&shared);
    assert!(!feeder.fallback.is_given_up());
    assert_eq!(feeder.wanted_from(newest), newest);
    assert!(dir.path().join(FALLBACK).exists());
    drop(feeder);
    drop(shared);
    server.kill().await.unwrap();
}

// A disk that was moved said once that it can't read, and all that the history lacked was given up.
#[tokio::test]
async fn what_the_disk_can_not_read_once_is_read_again_and_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = with_two_unfed_segments(dir.path(), false).await;
    let last = shared.durable_revision().0;
    let (file, place) = (dir.path().join("aside"), dir.path().join(format!("log/{:020}.segment", 1)));
    std::fs::rename(&place, &file).unwrap();
    // Where there is no memory the system answers as for a sector that can't be read.
    std::os::unix::fs::symlink("/proc/self/mem", &place).unwrap();
    shared.feed.tell(last);
    let feeding = {
        let shared = shared.clone();
        std::thread::spawn(move || {
            let mut feeder = Feeder::new(&shared, None);
            // The disk is itself again as soon as something is warned of. When more is, the file is there already.
            let mended = Warnings(move |_: &Event<'_>| drop(std::fs::rename(&file, &place)));
            let ended = tracing::subscriber::with_default(mended, || feeder.run_on());
            (ended.map_err(|error| error.told()), feeder.unread_behind)
        })
    };
    let history = shared.feed.history();
    let goes_on = async {
        while history.newest_revision() < last {
            assert!(!feeding.is_finished(), "it has given up");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), goes_on).await.expect("it is read again");
    shared.feed.close();
    assert_eq!(feeding.join().unwrap(), (Ok(()), Some(0)), "it could not be read when the history had nothing");
    assert_eq!((history.oldest_revision(), shared.feed.given_up()), (1, 0));
    drop(shared);
    server.kill().await.unwrap();
}

// It was taken for a failure that passes: the store was opened again each minute, for ever; and the segment stayed in the log, so that no start
// opened it any more.
#[tokio::test]
async fn what_the_disk_has_lost_of_the_log_is_gone_over_and_let_go_of() {
    let dir = tempfile::tempdir().unwrap();
    let unfed = unfed_of_small_segments(dir.path());
    let server = Server::start(unfed.clone()).await.unwrap();
    let shared = server.shared().clone();
    let mut feeder = Feeder::new(&shared, None);
    feed_what_is_durable(&mut feeder);
    drop(feeder);
    let mut last = 0;
    while shared.keeper.held_bytes(0) < 2 * (64 << 10) {
        last = shared.ask(submission(&format!("job-{last}"))).await.unwrap().at.0;
    }
    // Where there is no memory the system answers as for a sector that can't be read.
    let first = dir.path().join(format!("log/{:020}.segment", 1));
    std::fs::remove_file(&first).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &first).unwrap();
    shared.feed.tell(last);
    let feeding = {
        let shared = shared.clone();
        std::thread::spawn(move || Feeder::new(&shared, None).run_on().map_err(|error| error.told()))
    };
    let goes_on = async {
        while shared.feed.history().newest_revision() < last || shared.keeper.oldest_revision() == 1 {
            assert!(!feeding.is_finished(), "it has given up");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), goes_on).await.expect("it goes on behind what is lost");
    shared.feed.close();
    assert_eq!(feeding.join().unwrap(), Ok(()));
    assert!(!first.exists());
    drop(shared);
    server.kill().await.unwrap();
    Server::start(unfed).await.unwrap().kill().await.unwrap();
}

// The history had failed for another reason, and the log that waited for it filled the disk: nobody let go of any of it, and the cell stayed
// read-only until somebody started it again.
#[tokio::test]
async fn a_history_is_opened_again_where_the_room_that_is_missing_is_that_of_its_own_log() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = with_two_unfed_segments(dir.path(), true).await;
    while !shared.space.is_read_only() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let feeder = Feeder::new(&shared, None);
    assert!(!feeder.may_open_again(LONGEST_PAUSE / 2), "whoever made the room full may make some");
    assert!(feeder.may_open_again(LONGEST_PAUSE), "the disk may be full long before the log has as much as it may");
    drop(shared);
    server.kill().await.unwrap();
}

// A full disk tore the store's journal before anything of a young cell was in tables: opened again, its history began with the present.
#[tokio::test]
async fn a_history_that_has_lost_all_it_had_begins_where_the_log_does() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    let durable = shared.durable_revision().0;
    let mut feeder = Feeder::new(&shared, None);
    shared.feed.tell(durable);
    feeder.checkpoint_again().unwrap();
    let batches = feeder.next_batches(true).unwrap();
    feeder.feed(batches).unwrap();
    let history = shared.feed.history();
    assert_eq!((history.oldest_revision(), history.newest_revision()), (1, durable));
    feeder.checkpoint_again().unwrap();
    assert_eq!(
        (history.oldest_revision(), history.newest_checkpoint().map(|newest| newest.revision)),
        (1, Some(durable))
    );
    drop(shared);
    server.kill().await.unwrap();
}

fn submission(name: &str) -> plenum_model::Request {
    let name = name.to_owned();
    let group = v1::GroupShape {
        name: name.clone(),
        count: 1,
        resources: Some(v1::Resources { cpu_millis: 1, memory_bytes: 1 << 20, ..Default::default() }),
        ..Default::default()
    };
    let command = vec!["/bin/true".to_owned()];
    let body = v1::GroupBody { name: name.clone(), driver: "exec".to_owned(), command, ..Default::default() };
    let shape = v1::JobShape {
        namespace: "default".to_owned(),
        name,
        scheduler: "batch".to_owned(),
        kind: v1::JobKind::ToCompletion.into(),
        groups: vec![group],
        ..Default::default()
    };
    let spec = v1::JobSpec { shape: Some(shape), body: Some(v1::JobBody { groups: vec![body] }) };
    Shared::request(&"local".into(), "default".into(), plenum_proto::jobs::submit(spec).unwrap())
}

// Under load something comes in each round, and a minute or more goes by from one checkpoint to the next.
#[tokio::test]
async fn old_history_is_cleared_away_between_checkpoints_while_more_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    let mut feeder = Feeder::new(&shared, None);
    for (number, due) in [(0, Duration::ZERO), (1, RETIRING_FAILED_PAUSE)] {
        let decided = shared.ask(submission(&format!("job-{number}"))).await.unwrap();
        shared.feed.tell(decided.at.0);
        feeder.retiring_due = Some(Instant::now() + due);
        let round = feeder.round().unwrap();
        assert!(!round.idle && shared.feed.history().newest_revision() >= decided.at.0);
        assert_eq!(feeder.retiring_due.is_some(), number == 1, "nothing else is left to do, once it was due");
    }
    assert_eq!(shared.feed.history().newest_checkpoint(), None);
    drop(shared);
    server.kill().await.unwrap();
}

// A cell that had gone quiet kept its past for as long as it stayed so, however short a time it was to be retained: only a checkpoint had any of it
// cleared away.
#[tokio::test]
async fn what_grows_old_in_a_quiet_cell_is_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut unfed = ServerOptions::new(dir.path());
    unfed.settings.history = false;
    unfed.settings.retain = Duration::from_secs(3600);
    let server = Server::start(unfed).await.unwrap();
    let shared = server.shared().clone();
    shared.ask(submission("web")).await.unwrap();
    let mut feeder = Feeder::new(&shared, None);
    feed_what_is_durable(&mut feeder);
    assert!(feeder.checkpoint().unwrap());
    let history = shared.feed.history();
    let checkpoint = history.newest_checkpoint().unwrap().revision;
    assert_eq!((history.oldest_revision(), checkpoint > 1), (1, true));
    assert!(feeder.retiring_due.is_some_and(|due| due > Instant::now() + RETIRING_PAUSE), "it is looked at again");

    shared.clock.slept(2 * 3600 * 1_000_000);
    // As often as it is due, and a piece at a time.
    for _ in 0..100 {
        if feeder.retiring_due.is_some() {
            feeder.give_up();
        }
    }
    assert_eq!((history.oldest_revision(), feeder.retiring_due), (checkpoint, None), "nothing is left to grow old");
    drop(shared);
    server.kill().await.unwrap();
}

#[test]
fn an_eighth_of_the_time_goes_by_until_it_is_looked_for_what_has_grown_old() {
    let seconds = |retain| age_poll(Duration::from_secs(retain)).as_secs();
    assert_eq!([0, 240, 3600, 7 * 24 * 3600].map(seconds), [60, 60, 450, 3600]);
}

// It would be as right with images of the whole cell each time, and write twenty times as much.
#[tokio::test]
async fn a_checkpoint_has_images_of_what_changed_since_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    let submit = async |number: u32| drop(shared.ask(submission(&format!("job-{number}"))).await.unwrap());
    for number in 0..600 {
        submit(number).await;
    }
    let mut feeder = Feeder::new(&shared, None);
    let images = |feeder: &mut Feeder<'_>| {
        assert!(feeder.checkpoint().unwrap());
        shared.feed.history().newest_checkpoint().unwrap().images
    };
    let whole = images(&mut feeder);
    submit(600).await;
    let changed = images(&mut feeder);
    submit(601).await;
    let again = images(&mut feeder);
    assert!(changed.max(again) * 4 <= whole, "{whole} images, {changed}, and {again}");
    let metrics = shared.metrics.render(&[], &[]);
    assert!(metrics.contains("\nplenum_history_checkpoints_total 3\n"), "{metrics}");
    drop(shared);
    server.kill().await.unwrap();
}

/// Whether the history knows the names of what is in the cell.
fn knows_names(shared: &Shared, cell: &Cell) -> bool {
    let history = shared.feed.history();
    let sessions = cell.sessions().all(|session| {
        let found = history.session(session.id.0).unwrap().found();
        found.is_some_and(|opened| *opened.scheduler == *session.scheduler)
    });
    let jobs = cell.jobs().all(|job| history.job_name(job.id.to_bits()).unwrap().is_some());
    assert!(cell.sessions().next().is_some() && cell.jobs().next().is_some());
    history.wants_names_of().unwrap().is_none() && sessions && jobs
}

// A leap went over a session's opening: who lost was unknown though it was connected, and a crash left the names of what had gone.
#[tokio::test]
async fn what_a_leap_went_over_has_its_name_also_where_a_crash_came_between() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = without_feeder(dir.path()).await;
    let ask = async |asked| drop(shared.ask(asked).await.unwrap());
    let open = |name| plenum_proto::command::open_session("local", "default", name).unwrap();
    ask(open("batch")).await;
    ask(submission("web")).await;
    let mut feeder = Feeder::new(&shared, None);
    feeder.leap().unwrap();
    assert!(knows_names(&shared, &shared.snapshot().await));

    // The next one is not finished.
    ask(open("service")).await;
    ask(submission("shop")).await;
    feeder.checkpoint().unwrap();
    let (cell, history) = (shared.snapshot().await, shared.feed.history());
    history.leap_to(history.newest_checkpoint().unwrap().revision).unwrap();
    assert!(!knows_names(&shared, &cell));
    Feeder::new(&shared, None).settle_names().unwrap();
    assert!(knows_names(&shared, &cell));
    drop(shared);
    server.kill().await.unwrap();
}
