//! What threads and connections share, without any of them.

mod failing;

use std::io::ErrorKind;
use std::path::Path;

use plenum_journal::{DiskError, Journal, PrepareError};
use plenum_model::{Command, LogTime, Request};
use tokio::sync::oneshot;

use super::*;
use crate::commit::Asked;
use crate::ingress::Reply;
use crate::publish::{BatchEncoder, Mirror};
use crate::recovery::Opened;
use crate::tasks::runtime_without_threads;
use crate::{Handle, Server, ServerOptions};

/// What the threads of a server share, without any of them, and its log: over the cell of a directory, or over `other`, made for the server's identity.
pub(crate) fn without_threads(dir: &Path, other: impl FnOnce(&CellIdentity) -> Option<Cell>) -> (Journal, Arc<Shared>) {
    let options = ServerOptions::new(dir);
    let Opened { journal, history, mirror, identity, lag_bytes, cut_bytes, .. } = recovery::open(&options).unwrap();
    let mirror = other(&identity).map_or(mirror, Mirror::new);
    let (keeper, feed, dir) = (journal.keeper(), Feed::new(history, lag_bytes), options.dir);
    let parts = Parts { settings: options.settings, identity, keeper, feed, mirror, dir, cut_bytes };
    (journal, Arc::new(Shared::new(parts)))
}

// Its agent counts the lease from before it asked, and another clock may run slower: without the margin, a machine counted as unreachable whose
// agent still held its lease and started tasks.
#[test]
fn a_machine_is_unreachable_only_when_the_lease_and_its_margin_are_over() {
    let usual = Settings::default();
    let (lease, lease_margin) = (Duration::from_secs(15), Duration::from_secs(2));
    assert_eq!(lease_micros(&Settings { lease, lease_margin, ..usual }), 17_000_000);
}

#[test]
fn what_waits_to_be_published_has_the_bytes_that_are_set() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, shared) = without_threads(dir.path(), |_| None);
    assert_eq!(shared.published.most(), shared.settings.backlog_bytes);
}

// Without their bytes as many would wait as there are, for as long as who takes them is behind.
#[test]
fn what_waits_to_be_published_counts_with_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, shared) = without_threads(dir.path(), |_| None);
    let mut encoder = BatchEncoder::default();
    encoder.begin(LogTime::default());
    encoder.add(Revision(1), &[7; 1000], b"", b"");
    let batch = Arc::new(LoggedBatch::parse(encoder.finish()).unwrap());
    let bytes = batch.bytes().len();
    shared.publish(Published { batch, deltas: Vec::new(), transactions: Vec::new() });
    assert_eq!((shared.published.bytes(), bytes > 1000), (bytes, true));
}

/// Whoever is not answered within this waits for room, and not for a disk that is busy.
const LONGER_THAN_A_SYNC: Duration = Duration::from_secs(5);

/// Has a thread take something of the server's, and keep it until the sender is dropped: it is taken when this returns.
async fn hold(
    shared: &Arc<Shared>,
    take: fn(&Shared, &mut dyn FnMut()),
) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let (taken, is_taken) = oneshot::channel();
    let (shared, mut taken) = (shared.clone(), Some(taken));
    let holder = std::thread::spawn(move || {
        take(&shared, &mut || {
            taken.take().unwrap().send(()).unwrap();
            assert!(held.recv().is_err());
        });
    });
    is_taken.await.unwrap();
    (hold, holder)
}

/// The resolver can't show the next batch, as if its write did not come back.
async fn hold_back_what_is_decided(shared: &Arc<Shared>) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    hold(shared, |shared, wait| {
        let recent = shared.recent.read();
        wait();
        drop(recent);
    })
    .await
}

fn opening() -> Request {
    Shared::request(&"local".into(), "default".into(), Command::OpenSession { scheduler: "batch".into() })
}

/// A server that has opened a session, of which the history has all.
async fn with_a_session(dir: &Path) -> (Handle, Arc<Shared>) {
    let server = Server::start(ServerOptions::new(dir)).await.unwrap();
    let shared = server.shared().clone();
    shared.ask(opening()).await.unwrap();
    assert!(shared.feed.reaches(shared.durable_revision(), Duration::from_secs(60)).await);
    (server, shared)
}

// What is kept free would be filled by what agents report of their tasks, which goes on for as long as these do.
#[test]
fn no_report_is_logged_by_a_cell_without_room() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, shared) = without_threads(dir.path(), |_| None);
    let report = || shared.queue_report(Asked::new(opening())).map_err(|failure| failure.code);
    let full = PrepareError {
        number: 2,
        advice: "",
        source: DiskError { operation: "create", path: "log".to_owned(), source: ErrorKind::QuotaExceeded.into() },
    };
    shared.space.waits(&shared.keeper, Some(&full));
    assert_eq!(report().err(), Some("READ_ONLY"));
    shared.space.waits(&shared.keeper, None);
    assert!(report().is_ok());
}

// Each of them folded a cell of its own, and all of these were kept until something was published again.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_while_nothing_is_written_shares_one_cell_that_was_folded() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = with_a_session(dir.path()).await;
    let durable = shared.durable_revision();
    let (hold, holder) = hold_back_what_is_decided(&shared).await;
    let (sender, receiver) = oneshot::channel();
    shared.submit(Asked::new(opening()), Reply::Once(sender)).unwrap();
    let readers = (0..16).map(|_| {
        let shared = shared.clone();
        tokio::spawn(async move { shared.snapshot().await })
    });
    let mut cells = Vec::new();
    for reader in readers.collect::<Vec<_>>() {
        cells.push(reader.await.unwrap());
    }
    drop(hold);
    holder.join().unwrap();
    receiver.await.unwrap();
    let sessions = |cell: &Cell| cell.sessions().cloned().collect::<Vec<_>>();
    let first = sessions(&cells[0]);
    assert!(!first.is_empty() && cells.iter().all(|cell| cell.revision() == durable));
    assert!(cells.iter().all(|cell| Arc::ptr_eq(&sessions(cell)[0], &first[0])));
    drop(shared);
    server.shutdown().await.unwrap();
}

// The fold that got no thread kept the lock until there was one: none of them tried again meanwhile.
#[test]
fn a_fold_that_gets_no_thread_keeps_nobody_from_trying_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, shared) = without_threads(dir.path(), |_| None);
    runtime_without_threads().block_on(shared.fold_for_readers(Revision(0)));
    assert!(shared.folding.try_lock().is_ok());
}

// Who asked would read, and not find what it was told of.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_answered_before_what_was_decided_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = with_a_session(dir.path()).await;
    let (hold, holder) = hold_back_what_is_decided(&shared).await;
    let (sender, mut receiver) = oneshot::channel();
    let before = shared.keeper.tail().revision;
    shared.submit(Asked::new(opening()), Reply::Once(sender)).unwrap();
    while shared.keeper.tail().revision == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It is durable, and would be answered by now.
    tokio::time::sleep(STALLED / 4).await;
    assert!(matches!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
    drop(hold);
    holder.join().unwrap();
    let answered = receiver.await.unwrap();
    assert!(shared.durable_revision() >= answered.at);
    drop(shared);
    server.shutdown().await.unwrap();
}

// A large cell takes long to fold, and for as long who read waited though the disk had answered at once.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_cell_to_be_folded_is_answered_by_a_picture_that_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let (server, shared) = with_a_session(dir.path()).await;
    let durable = shared.durable_revision();
    // As one that takes for ever.
    let folding = shared.folding.clone().lock_owned().await;
    let (hold, holder) = hold_back_what_is_decided(&shared).await;
    let (sender, receiver) = oneshot::channel();
    shared.submit(Asked::new(opening()), Reply::Once(sender)).unwrap();
    let reading = tokio::spawn({
        let shared = shared.clone();
        async move { shared.snapshot().await }
    });
    // By then it waits for the fold.
    tokio::time::sleep(STALLED * 2).await;
    assert!(!reading.is_finished());
    drop(hold);
    holder.join().unwrap();
    receiver.await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
    assert!(read.expect("it does not wait for the fold").unwrap().revision() >= durable);
    drop(folding);
    drop(shared);
    server.shutdown().await.unwrap();
}

// The publishing thread noted it: until then, what was granted in a batch had the time of the batch before, by as much too early as the cell had
// stood still.
#[tokio::test(flavor = "multi_thread")]
async fn when_a_batch_was_decided_is_known_as_soon_as_it_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(ServerOptions::new(dir.path())).await.unwrap();
    let shared = server.shared().clone();
    let when = async || {
        let open = Command::OpenSession { scheduler: "batch".into() };
        let decided = shared.ask(Shared::request(&"local".into(), "default".into(), open)).await.unwrap();
        shared.picture.exactly_when(decided.at).unwrap()
    };
    // The publishing thread comes as far as the first one, and waits.
    let (hold, holder) = hold(&shared, |shared, wait| {
        let sessions = shared.sessions.lock();
        wait();
        drop(sessions);
    })
    .await;
    when().await;
    let before = shared.clock.now();
    assert!(when().await >= before);
    drop(hold);
    holder.join().unwrap();
    drop(shared);
    server.shutdown().await.unwrap();
}

// It was let go of before its reader looked, who then waited for as long as the disk was full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_that_is_folded_for_a_reader_is_not_let_go_of_before_he_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = crate::ServerOptions::new(dir.path());
    options.settings.segment_bytes = 64 << 10;
    options.settings.reserve_bytes = Some(0);
    let server = crate::Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    while !dir.path().join("log/00000000000000000002.segment").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Nor can it be made again. Whoever notices is the one that needs it: he waits, and nothing is refused before that.
    std::fs::create_dir(dir.path().join("log/spare.tmp")).unwrap();
    std::fs::remove_file(dir.path().join("log/00000000000000000002.segment")).unwrap();
    // Until the log takes nothing more, and the resolver is ahead of it.
    let open = |number: u64| Command::OpenSession { scheduler: format!("s{number}").into() };
    let mut waits = false;
    for number in 0..400 {
        let request = Shared::request(&"x".repeat(255).into(), "default".into(), open(number));
        let asking = shared.ask(request);
        waits = tokio::time::timeout(LONGER_THAN_A_SYNC, asking).await.is_err();
        if waits {
            break;
        }
    }
    assert!(waits, "the log takes nothing more");
    let tidying = shared.clone();
    let (stop, stopped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (until, done) = (stop.clone(), stopped.clone());
    std::thread::spawn(move || {
        while !until.load(Ordering::Relaxed) {
            tidying.picture.tidy();
        }
        done.store(true, Ordering::Release);
    });
    for _ in 0..3 {
        let read = tokio::time::timeout(Duration::from_secs(30), shared.snapshot()).await;
        assert_eq!(read.expect("reads go on").revision(), shared.durable_revision());
    }
    stop.store(true, Ordering::Relaxed);
    while !stopped.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(shared);
    server.kill().await.unwrap();
}

// Who read waited for the history, which can't be written on a disk that is full either, and so for as long as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_is_behind_keeps_nobody_from_reading_while_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = crate::ServerOptions::new(dir.path());
    options.settings.segment_bytes = 64 << 10;
    options.settings.reserve_bytes = Some(0);
    options.settings.history = false;
    let server = crate::Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    while !dir.path().join("log/00000000000000000002.segment").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // No third segment can be made.
    std::fs::create_dir(dir.path().join("log/spare.tmp")).unwrap();
    let mut unanswered = Vec::new();
    for number in 0..400 {
        let open = Command::OpenSession { scheduler: format!("s{number}").into() };
        let (sender, receiver) = oneshot::channel();
        let request = Shared::request(&"x".repeat(255).into(), "default".into(), open);
        if shared.submit(Asked::new(request), Reply::Once(sender)).is_ok() {
            unanswered.push(receiver);
        }
    }
    let mut answered = 0;
    for receiver in &mut unanswered {
        match tokio::time::timeout(LONGER_THAN_A_SYNC, receiver).await {
            Ok(_) => answered += 1,
            Err(_) => break,
        }
    }
    assert!(answered < unanswered.len(), "the log takes nothing more");
    let read = tokio::time::timeout(Duration::from_secs(30), shared.snapshot()).await;
    let cell = read.expect("reads go on");
    assert_eq!((cell.revision(), cell.sessions().count()), (shared.durable_revision(), answered));
    drop(shared);
    server.kill().await.unwrap();
}
