//! Watchers that do not read, and those that read slowly: over real connections, whose windows fill.

use std::time::Duration;

use plenum_model::Cell;
use plenum_proto::v1;
use plenum_server::{Handle, Server};
use tonic::transport::{Channel, Endpoint};

use crate::client::{Session, connect, job, options, submit};
use crate::inspection::page;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a stalled connection takes at most: its window, which is the smallest that HTTP/2 lets everybody begin with.
const WINDOW_BYTES: u32 = 65_535;

/// Machines whose page is some times the window.
const MACHINES: u32 = 30;
/// Jobs of several pages.
const JOBS: u32 = 448;

/// A server that remembers hardly anything of what was published, and soon takes snapshots back.
async fn forgetful(dir: &std::path::Path, snapshot_idle: Duration, snapshot_patience: Duration) -> Handle {
    let mut options = options(dir);
    options.settings.recent_bytes = 1;
    options.settings.sync.message_bytes = 4096;
    (options.settings.snapshot_idle, options.settings.snapshot_patience) = (snapshot_idle, snapshot_patience);
    Server::start(options).await.unwrap()
}

/// A machine that takes about 8 KiB of a snapshot.
pub(crate) async fn large_machine(channel: &Channel, number: u32) {
    let attributes = (0..40).map(|attribute| (format!("a{attribute}-{number}"), "x".repeat(200))).collect();
    let machine = v1::RegisterMachine {
        name: format!("m{number}"),
        boot_id: "boot".to_owned(),
        capacity: Some(v1::Resources { cpu_millis: 1000, memory_bytes: 1 << 30, ..Default::default() }),
        attributes,
        ..Default::default()
    };
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    agents.register(v1::RegisterRequest { machine: Some(machine), ..Default::default() }).await.unwrap();
}

/// A watcher whose connection is full in the middle of its snapshot.
async fn stalled(server: &Handle, channel: &Channel) -> Session {
    // A page of machines fills the connection; the pages of jobs come after it, and more of them than may wait for it.
    for number in 0..MACHINES {
        large_machine(channel, number).await;
    }
    for number in 0..JOBS {
        submit(channel, job(&format!("j{number}"), 1)).await;
    }
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    let narrow = endpoint.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    let hello = v1::Hello { scheduler: "slow".to_owned(), namespace: "default".to_owned(), ..Default::default() };
    let session = Session::greeted(&narrow.connect().await.unwrap(), hello, Cell::default()).await.unwrap();
    shows(server, "plenum_queue_depth{queue=\"snapshots\"} 1").await;
    session
}

/// Waits until the server's metrics have this line.
pub(crate) async fn shows(server: &Handle, line: &str) {
    let shown = async {
        while !page(server.address(), "/metrics").await.lines().any(|found| found == line) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.unwrap_or_else(|_| panic!("{line} is never shown"));
}

/// Reads all there is, and compares it with what another watcher has.
async fn reads_on(mut slow: Session, channel: &Channel) {
    let other = Session::open(channel, "quick").await.unwrap();
    let read = slow.reach(other.cell.revision().0);
    tokio::time::timeout(PATIENCE, read).await.expect("it gets to the end");
    // One of them may be ahead: the session that was opened is a revision.
    assert_eq!(slow.cell.machines().count(), other.cell.machines().count());
}

/// Has a watcher stall until its snapshot is taken back, whichever time is over first.
async fn is_taken_back(snapshot_idle: Duration, snapshot_patience: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let server = forgetful(dir.path(), snapshot_idle, snapshot_patience).await;
    let channel = connect(&server).await;
    let slow = stalled(&server, &channel).await;
    // The cell goes on, beyond what is recent: so the snapshot costs something, and nothing near continues it.
    large_machine(&channel, MACHINES).await;
    large_machine(&channel, MACHINES + 1).await;
    shows(&server, "plenum_queue_depth{queue=\"snapshots\"} 0").await;
    reads_on(slow, &channel).await;
    server.shutdown().await.unwrap();
}

/// Its pages were kept until its connection ended: nothing on the server's side is asked while its window is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_snapshot_of_a_watcher_that_stopped_reading_is_taken_back() {
    is_taken_back(Duration::from_millis(50), 2 * PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_on_its_way_for_too_long_is_taken_back() {
    is_taken_back(2 * PATIENCE, Duration::from_millis(50)).await;
}

/// It began anew each time, and never got to the end while the cell went on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_reads_its_snapshot_slowly_is_told_what_it_missed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let server = forgetful(dir.path(), PATIENCE, PATIENCE).await;
    let channel = connect(&server).await;
    let slow = stalled(&server, &channel).await;
    for number in MACHINES..MACHINES + 20 {
        large_machine(&channel, number).await;
    }
    reads_on(slow, &channel).await;
    shows(&server, "plenum_watcher_resyncs_total 0").await;
    server.shutdown().await.unwrap();
}
