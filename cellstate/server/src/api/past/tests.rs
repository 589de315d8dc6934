//! Moments and turns: what is kept for whom, and for how long.

use super::*;
use crate::publish::BatchEncoder;
use crate::tasks::runtime_without_threads;
use parking_lot::Mutex;
use plenum_history::{EncodedBatch, Frames, FramesError, LogPlace, LogRange};
use plenum_model::{Command, Decision, LogTime};
use plenum_proto::delta;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fails if what is waited for is there at once.
async fn still_waits<F: Future>(mut waited_for: std::pin::Pin<&mut F>, why: &str) {
    tokio::select! {
        biased;
        _ = waited_for.as_mut() => panic!("{why}"),
        () = std::future::ready(()) => {}
    }
}

/// Blocks that are read where they stand. While one of them is, all but the newest revision is retired.
#[derive(Default)]
struct Retiring {
    batches: Mutex<BTreeMap<u64, bytes::Bytes>>,
    /// When this one is read.
    at: u64,
    retires: Mutex<Option<(History, Cell)>>,
}

impl std::fmt::Debug for Retiring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Retiring")
    }
}

impl Frames for Retiring {
    fn read(&self, range: &LogRange) -> Result<Vec<bytes::Bytes>, FramesError> {
        let is_due = self.at == 0 || self.at == range.first;
        if let Some((history, cell)) = self.retires.lock().take_if(|_| is_due) {
            crate::checkpoint::write(&history, &cell, None).unwrap();
            assert_eq!(history.retire(cell.revision().0).unwrap().oldest, cell.revision().0);
        }
        let batches = self.batches.lock();
        Ok(batches.range(range.first..=range.last).map(|(_, batch)| batch.clone()).collect())
    }
}

/// A history of four revisions, each a block, and a transaction of session 1 under the revision's number. While the first one that is asked for is read, all but the newest is retired.
pub(in crate::api) fn retiring(dir: &std::path::Path) -> History {
    let deltas: Vec<_> = (1..=4).map(|revision| Delta::new(Revision(revision), LogTime::from_micros(1))).collect();
    retiring_at(dir, &deltas, 0).0
}

/// A history of these deltas, each a block, and a transaction of session 1 under the revision's number; and the cell that they make. While the
/// block of a revision is read (0: any), all but the newest is retired.
pub(in crate::api) fn retiring_at(dir: &std::path::Path, deltas: &[Delta], at: u64) -> (History, Cell) {
    let log = Arc::new(Retiring { at, ..Retiring::default() });
    let options = plenum_history::Options {
        frames: Some(log.clone()),
        block_batches: 1,
        ..plenum_history::Options::new(vec![1; 16])
    };
    let (history, _) = History::open(dir, options).unwrap();
    let mut cell = Cell::default();
    for delta in deltas {
        let revision = delta.revision.0;
        let mut encoded = Vec::new();
        delta::encode(delta, &mut encoded);
        let mut encoder = BatchEncoder::default();
        encoder.begin(delta.time);
        let outcome = v1::Outcome { session: 1, number: revision, revision, ..Default::default() };
        let decided = v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) };
        encoder.add(delta.revision, b"", &prost::Message::encode_to_vec(&decided), &encoded);
        let (bytes, place) = (encoder.finish(), LogPlace { segment: 1, offset: 512 * revision, bytes: 512 });
        log.batches.lock().insert(revision, bytes.clone());
        let (first, last, time_micros) = (revision, revision, delta.time.micros);
        history.append(&[EncodedBatch { first, last, time_micros, bytes, place: Some(place) }]).unwrap();
        cell.apply(delta).unwrap();
    }
    *log.retires.lock() = Some((history.clone(), cell.clone()));
    (history, cell)
}

// It was refused as retired, with the number of another one, as what it had begun with went while it was being read.
#[test]
fn a_revision_that_is_retained_is_read_whatever_is_retired_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let history = retiring(dir.path());
    assert_eq!(fold(&history, 4).unwrap().revision(), Revision(4));
    let retired = fold(&history, 3).unwrap_err();
    assert_eq!((retired.code, retired.message.contains("revision 3 is")), (RETIRED, true), "{}", retired.message);
}

// It was told as a fault of this server, and of a checkpoint as what takes a later version.
#[test]
fn what_of_the_past_only_a_later_version_knows_is_told_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let history = super::story::gone::tests::history_of(dir.path(), &[]);
    let machine = v1::MachineChange { id: 1 << 32, name: "m1".to_owned(), state: 300, ..Default::default() };
    let later = v1::Delta { revision: 1, time_micros: 1, machines: vec![machine], ..Default::default() };
    let mut encoder = BatchEncoder::default();
    encoder.begin(LogTime::from_micros(1));
    encoder.add(Revision(1), b"", b"", &prost::Message::encode_to_vec(&later));
    let (bytes, place) = (encoder.finish(), None);
    history.append(&[EncodedBatch { first: 1, last: 1, time_micros: 1, bytes, place }]).unwrap();
    let entry = history.entry(1).unwrap().entry;
    for failure in [fold(&history, 1).unwrap_err(), ended::delta_of(&entry).unwrap_err()] {
        assert_eq!((failure.status, failure.code), (Code::FailedPrecondition, "OTHER_FORMAT"));
        assert!(failure.message.contains("`machines.state = 300`"), "{}", failure.message);
    }
}

#[test]
fn what_the_history_lacks_matters_only_to_times_since_the_newest_that_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let deltas: Vec<_> = (1..=4_u64)
        .map(|revision| Delta::new(Revision(revision), LogTime::from_micros(10 * revision.cast_signed())))
        .collect();
    // Of a revision that there is not: nothing is retired.
    let (history, _) = retiring_at(dir.path(), &deltas, 9);
    let settled = [9, 10, 19, 20, 39, 40, 41].map(|micros| settled_at(&history, micros).unwrap());
    assert_eq!(settled, [None, Some(1), Some(1), Some(2), Some(3), None, None]);
    // What is retired is so whatever it lacks.
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = retiring_at(dir.path(), &deltas, 3);
    let _ = history.entry(3);
    assert_eq!(settled_at(&history, 10).unwrap_err().code, RETIRED);
    assert_eq!(settled_at(&history, 40).unwrap(), None);
}

/// What the threads of a server share, without any of them, over a cell of some revisions. Its history had all of them, as whoever waits for that is told,
/// and nothing is left of it.
pub(in crate::api) async fn with_a_history_that_has_lost_all(
    dir: &std::path::Path,
) -> (plenum_journal::Journal, Arc<Shared>) {
    let server = crate::Server::start(crate::ServerOptions::new(dir)).await.unwrap();
    let open = Command::OpenSession { scheduler: "batch".into() };
    let opened = server.shared().ask(Shared::request(&"local".into(), "default".into(), open)).await.unwrap().at;
    assert!(server.shared().feed.reaches(opened, Duration::from_secs(60)).await);
    server.shutdown().await.unwrap();
    let (journal, shared) = crate::shared::tests::without_threads(dir, |_| None);
    std::fs::rename(dir.join("history"), dir.join("away")).unwrap();
    shared.feed.history().reopen().unwrap();
    let now = shared.durable_revision();
    reach(&shared, now).await.unwrap();
    assert!(now > Revision(1) && !has(&shared, now));
    (journal, shared)
}

// The store was opened again, and had lost what had been there when it was waited for: an earlier revision was told as that of the time, or none.
#[tokio::test]
async fn a_time_is_not_looked_for_in_a_history_that_has_lost_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, shared) = with_a_history_that_has_lost_all(dir.path()).await;
    let at = v1::At { revision: 0, time_micros: shared.recent.read().time().micros - 1 };
    assert_eq!(revision_of(&shared, at).await.unwrap_err().code, HISTORY_BEHIND);
}

// As many listings as callers, up to 512, ran at once, and those whose callers had left ran on.
#[tokio::test]
async fn so_many_read_at_once_and_more_than_wait_for_that_are_refused() {
    let (reads, most, now) = (Arc::new(Reads::default()), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let gate = Arc::new(std::sync::Barrier::new(READS_MAX + 1));
    let mut all = tokio::task::JoinSet::new();
    for number in 0..ADMITTED_MAX {
        let (most, now, gate) = (most.clone(), now.clone(), gate.clone());
        let work = move || {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            if number < READS_MAX {
                gate.wait();
            }
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        let reads = reads.clone();
        all.spawn(async move { blocking(&reads, work).await });
    }
    while reads.admitted.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let refused = blocking(&reads, || Ok(())).await.unwrap_err();
    assert_eq!(refused.code, "QUEUE_FULL");
    assert!(!refused.retry_after.is_zero());
    tokio::task::spawn_blocking(move || gate.wait()).await.unwrap();
    while let Some(done) = all.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), READS_MAX);
    blocking(&reads, || Ok(())).await.unwrap();
}

// A cell of the past was folded in one turn, then waited for another one to be read, and was in memory meanwhile: with many such
// readers there were far more cells than turns.
#[tokio::test]
async fn a_cell_of_the_past_keeps_its_turn_until_it_was_read() {
    let reads = Reads::default();
    let mut moments = Vec::new();
    for _ in 0..READS_MAX {
        let ((), turn) = reads.turn().await.unwrap().take(|| Ok(())).await.unwrap();
        moments.push(Moment { cell: Cell::default(), turn });
    }
    let another = tokio::time::timeout(Duration::from_millis(50), reads.turn()).await;
    assert!(another.is_err(), "another one would be folded");
    // Nobody waits for a second turn.
    for moment in moments {
        assert_eq!(moment.read(|cell| Ok(cell.revision())).await.unwrap(), Revision(0));
    }
    assert_eq!(reads.running.available_permits(), READS_MAX);
    assert_eq!(reads.admitted.available_permits(), ADMITTED_MAX);
}

// `plenum status`, and with it the metrics, waited behind reads of the past, each of which takes seconds in a large cell.
#[tokio::test]
async fn the_present_is_counted_while_all_turns_are_taken_by_the_past() {
    let reads = Reads::default();
    let mut turns = Vec::new();
    for _ in 0..READS_MAX {
        turns.push(reads.turn().await.unwrap());
    }
    let counting = async { reads.turn_to_count().await.unwrap().take(|| Ok(7)).await.unwrap().0 };
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), counting).await.unwrap(), 7);
}

// A scheduler without a mirror was refused, or waited for seconds, while somebody asked for one moment of the past after another.
#[tokio::test]
async fn what_waits_to_be_placed_is_told_while_all_turns_and_places_are_taken_by_the_past() {
    let reads = Reads::default();
    let waiting = u32::try_from(ADMITTED_MAX - READS_MAX).unwrap();
    let _waiting = reads.admitted.clone().try_acquire_many_owned(waiting).unwrap();
    let mut turns = Vec::new();
    for _ in 0..READS_MAX {
        turns.push(reads.turn().await.unwrap());
    }
    assert_eq!(reads.turn().await.err().unwrap().code, "QUEUE_FULL");
    let placing = async { reads.turn_to_place().await.unwrap().take(|| Ok(7)).await.unwrap().0 };
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), placing).await.unwrap(), 7);
}

// However many asked for a status while it was counted, all of them waited.
#[tokio::test]
async fn so_many_wait_to_count_and_more_are_refused() {
    let reads = Arc::new(Reads::default());
    let mut turns = Vec::new();
    for _ in 0..COUNTS_MAX {
        turns.push(reads.turn_to_count().await.unwrap());
    }
    let mut waiting = tokio::task::JoinSet::new();
    for _ in COUNTS_MAX..COUNTS_ADMITTED_MAX {
        let reads = reads.clone();
        waiting.spawn(async move { reads.turn_to_count().await.map(drop) });
    }
    while reads.admitted_to_count.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let refused = reads.turn_to_count().await.err().unwrap();
    assert_eq!((refused.code, refused.retry_after.is_zero()), ("QUEUE_FULL", false));
    drop(turns);
    while let Some(done) = waiting.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(reads.counting.available_permits(), COUNTS_MAX);
    assert_eq!(reads.admitted_to_count.available_permits(), COUNTS_ADMITTED_MAX);
}

// After a start no agent was told anything until all had their status who had asked for one before.
#[tokio::test]
async fn an_index_is_made_while_all_turns_to_count_are_taken_and_by_one_at_a_time() {
    let reads = Reads::default();
    let mut turns = Vec::new();
    for _ in 0..COUNTS_MAX {
        turns.push(reads.turn_to_count().await.unwrap());
    }
    let first = tokio::time::timeout(Duration::from_secs(60), reads.turn_to_index()).await.unwrap().unwrap();
    let mut second = std::pin::pin!(reads.turn_to_index());
    still_waits(second.as_mut(), "another one makes it").await;
    drop(first);
    drop(second.await.unwrap());
    drop(turns);
}

// Each kept the picture of the moment at which it was asked for: as many as waited, and pages were copied for all of them.
#[tokio::test]
async fn a_status_that_waits_keeps_no_picture_and_shows_what_is_there_when_its_turn_comes() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = crate::ServerOptions::new(dir.path());
    options.settings.segment_bytes = 1 << 20;
    let server = crate::Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    let mut turns = Vec::new();
    for _ in 0..COUNTS_MAX {
        turns.push(shared.reads.turn_to_count().await.unwrap());
    }
    // It is at hand from here on.
    let before = shared.snapshot().await.revision();
    let mut status = std::pin::pin!(crate::api::inspect::status(&shared));
    still_waits(status.as_mut(), "all turns are taken").await;
    let open = Command::OpenSession { scheduler: "batch".into() };
    let opened = shared.ask(Shared::request(&"local".into(), "default".into(), open)).await.unwrap().at;
    drop(turns);
    let shown = status.await.unwrap().revision;
    assert!(shown >= opened.0 && opened > before, "{shown} is from before {opened}");
    server.shutdown().await.unwrap();
}

// Each kept the picture of the moment at which it was asked for, as a status did.
#[tokio::test]
async fn a_listing_that_waits_keeps_no_picture_and_shows_what_is_there_when_its_turn_comes() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = crate::ServerOptions::new(dir.path());
    options.settings.segment_bytes = 1 << 20;
    let server = crate::Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    let mut turns = Vec::new();
    for _ in 0..READS_MAX {
        turns.push(shared.reads.turn().await.unwrap());
    }
    // It is at hand from here on.
    shared.snapshot().await;
    let mut listing = std::pin::pin!(cell(&shared, None));
    still_waits(listing.as_mut(), "all turns are taken").await;
    let open = Command::OpenSession { scheduler: "batch".into() };
    let opened = shared.ask(Shared::request(&"local".into(), "default".into(), open)).await.unwrap().at;
    drop(turns);
    let shown = listing.await.unwrap().revision();
    assert!(shown >= opened, "{shown} is from before {opened}");
    server.shutdown().await.unwrap();
}

// While the history was behind, all who asked for a story waited with a picture, and so many were not even counted; and who named the newest
// revision waited with a turn besides. Without a turn there is no picture.
#[tokio::test]
async fn who_waits_for_a_history_that_is_behind_keeps_no_turn_and_with_it_no_picture() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = crate::ServerOptions::new(dir.path());
    options.settings.segment_bytes = 1 << 20;
    options.settings.history = false;
    let server = crate::Server::start(options).await.unwrap();
    {
        let shared = server.shared();
        // It is at hand from here on.
        shared.snapshot().await;
        let newest = Some(v1::At { revision: shared.durable_revision().0, time_micros: 0 });
        for at in [None, newest] {
            let mut reading = std::pin::pin!(cell_in_history(shared, at));
            still_waits(reading.as_mut(), "the history has nothing").await;
            assert_eq!(shared.reads.running.available_permits(), READS_MAX);
            let glance = glance(shared, at).await.unwrap();
            let mut reading = std::pin::pin!(glance.with_history(shared, at));
            still_waits(reading.as_mut(), "the history has nothing").await;
            assert_eq!(shared.reads.running.available_permits(), READS_MAX);
        }
    }
    server.shutdown().await.unwrap();
}

// The log was read on a thread that serves connections: who repeated old numbers kept all others waiting.
#[tokio::test]
async fn the_answer_to_a_repeated_number_is_read_back_beside_what_serves_connections() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = crate::ServerOptions::new(dir.path());
    options.settings.segment_bytes = 1 << 20;
    options.settings.recent_bytes = 1;
    let server = crate::Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    let open =
        || Shared::request(&"local".into(), "default".into(), Command::OpenSession { scheduler: "batch".into() });
    let Decision::Accepted { id, .. } = shared.ask(open()).await.unwrap().decision else { panic!("no session") };
    let (session, incarnation) = (id, shared.identity.incarnation);
    let check = v1::ConflictCheck::Fit.into();
    let transaction =
        v1::Transaction { session, number: 1, incarnation, base_revision: session, check, ..Default::default() };
    let bytes = bytes::Bytes::from(prost::Message::encode_to_vec(&transaction));
    let commit = async || {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let asked = crate::commit::Asked::commit(&"local".into(), &"default".into(), &bytes).unwrap();
        shared.submit(asked, crate::ingress::Reply::Once(sender)).unwrap();
        receiver.await.unwrap()
    };
    let first = shared.decision(commit().await).await.unwrap();
    shared.ask(open()).await.unwrap();
    let answers = u32::try_from(ANSWERS_MAX).unwrap();
    let turns = shared.reads.answering.clone().acquire_many_owned(answers).await.unwrap();
    let repeated = commit().await;
    let mut reading = std::pin::pin!(shared.decision(repeated));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut reading).await.is_err(), "it takes no turn");
    drop(turns);
    let again = reading.await.unwrap();
    assert_eq!((again.at, again.decision, again.changed), (first.at, first.decision, false));
    server.shutdown().await.unwrap();
}

// Who said that he asks for no moment was refused where the history is behind, and who said nothing was not.
#[tokio::test]
async fn a_moment_that_is_none_is_the_present_however_it_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = crate::ServerOptions::new(dir.path());
    options.settings.segment_bytes = 1 << 20;
    options.settings.history = false;
    let server = crate::Server::start(options).await.unwrap();
    let shared = server.shared();
    let now = Some(v1::At { revision: shared.durable_revision().0, time_micros: 0 });
    for (at, expected) in [(None, true), (Some(v1::At::default()), true), (now, false)] {
        assert_eq!(cell_and_history(shared, at).await.is_ok(), expected, "{at:?}");
    }
    server.shutdown().await.unwrap();
}

// It was a panic, and whoever waited for the answer never heard anything.
#[test]
fn a_read_that_finds_no_thread_fails_and_gives_its_turn_back() {
    let reads = Reads::default();
    let failed = runtime_without_threads().block_on(looking_up(&reads, || Ok(()))).unwrap_err();
    assert!(failed.status == Code::Unavailable && !failed.retry_after.is_zero(), "{failed:?}");
    assert_eq!(reads.looking_up.available_permits(), LOOK_UPS_MAX);
}

// Each read of the past took two seconds to be refused.
#[test]
fn a_history_that_takes_nothing_more_is_not_waited_for() {
    assert_eq!(patience(Some(&Stopped::ForGood(String::new()))), Duration::ZERO);
    assert_eq!([patience(Some(&Stopped::ForNow(String::new()))), patience(None)], [PATIENCE; 2]);
}
