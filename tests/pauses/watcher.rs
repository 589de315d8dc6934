//! A process that only watches is stopped, while far more happens than the system, the connection and the server hold for it.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use plenum_model::Cell;
use plenum_proto::{pages, v1};
use tokio::runtime::Runtime;

use super::{
    CHANGING, GROWTH_BYTES_MAX, LONG_LEASES, ROUNDS, ROUNDS_BEFORE, WRITTEN_BYTES, grown_bytes, metric, running,
    server_with, settled_bytes,
};
use crate::{
    crash::{
        load::{snapshot, watched},
        picture::Picture,
    },
    rivals::{Machine, Rival, Rivals},
    stage::{Process, Stage, eventually},
};

/// The test below, by its name.
const SELF: &str =
    "pauses::watcher::a_watcher_that_slept_costs_no_memory_holds_nobody_up_and_ends_with_the_true_picture";
/// Where the watching process finds its cell.
const ADDRESS: &str = "PLENUM_TEST_WATCHES";
/// The file that it writes its picture to, again and again.
const PICTURE: &str = "picture";
/// A file that is there once it has lost its connection.
const CAME_BACK: &str = "came-back";
const PICTURE_PERIOD: Duration = Duration::from_millis(100);
/// A commit that takes as long was held up: nothing that goes on besides takes a tenth of it.
const HELD_UP: Duration = Duration::from_secs(20);

#[test]
fn a_watcher_that_slept_costs_no_memory_holds_nobody_up_and_ends_with_the_true_picture() {
    if let Ok(address) = std::env::var(ADDRESS) {
        // This is the process that the test below has started, and does not outlive it.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
        Runtime::new().unwrap().block_on(watch_for_ever(address));
    }
    let mut stage = Stage::new();
    let server = server_with(&stage, LONG_LEASES);
    let address = &server.address;
    let crowd = Crowd::new(address);
    let watching = watcher(&mut stage, address);
    let before = eventually("it has a picture", || picture(&stage)).revision();
    (0..ROUNDS_BEFORE).for_each(|round| crowd.changes(round));
    eventually("and follows", || picture(&stage).filter(|cell| cell.revision() > before));
    let resident = settled_bytes(&stage, &server);
    let [resyncs, written] = ["plenum_watcher_resyncs_total", WRITTEN_BYTES].map(|name| metric(address, name));

    watching.signal(Signal::SIGSTOP);
    eventually("it is stopped", || is_stopped(watching.id()).then_some(()));
    let asleep_at = picture(&stage).unwrap().revision();
    let mut slowest = Duration::ZERO;
    for round in ROUNDS_BEFORE..ROUNDS_BEFORE + ROUNDS {
        crowd.changes(round);
        let began = Instant::now();
        crowd.commits_one(round);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < HELD_UP, "a commit took {slowest:?}");
    let grown = grown_bytes(&server, resident);
    let logged = metric(address, WRITTEN_BYTES) - written;
    assert!(logged > GROWTH_BYTES_MAX, "{logged} bytes were logged: to keep them all would have been allowed");
    assert_eq!(picture(&stage).unwrap().revision(), asleep_at, "it slept");

    watching.signal(Signal::SIGCONT);
    let truth = Runtime::new().unwrap().block_on(snapshot(address)).unwrap();
    assert!(truth.revision().0 >= asleep_at.0 + 2 * ROUNDS, "commits went on");
    let shown = eventually("it catches up", || picture(&stage).filter(|cell| cell.revision() >= truth.revision()));
    assert_eq!(shown.first_difference(&truth), None, "what it shows is not what is");
    // Where all of this takes so long that its connection is given up meanwhile, it comes back on another one.
    let began_anew = metric(address, "plenum_watcher_resyncs_total") > resyncs;
    assert!(began_anew || stage.path(CAME_BACK).exists(), "it fell behind, and began anew");
    eprintln!(
        "grown by {grown} bytes in {ROUNDS} rounds, with {logged} bytes logged, and a commit took {slowest:?} at most"
    );
}

/// A machine full of tasks that are ready and not ready by turns, and a scheduler.
struct Crowd {
    rivals: Rivals,
    machine: Machine,
    blue: Rival,
    /// The job of the scheduler's own tasks.
    job: u64,
    allocations: Vec<u64>,
}

impl Crowd {
    fn new(address: &str) -> Self {
        let rivals = Rivals::new(address);
        let machine = rivals.machine("m1", i64::from(CHANGING) + 1000).unwrap();
        let blue = rivals.open("blue").unwrap();
        let changing = rivals.job("changing", "blue", CHANGING).unwrap();
        let job = rivals.job("one-by-one", "blue", 1000).unwrap();
        let tasks: Vec<u32> = (0..CHANGING).collect();
        let base = rivals.revision().unwrap();
        let outcome = rivals.commit(blue.claims(1, base, changing, &machine, &tasks)).unwrap();
        assert_eq!(outcome.granted, CHANGING);
        let allocations = outcome.placements[0].allocations.clone();
        Self { rivals, machine, blue, job, allocations }
    }

    /// Each of the allocations changes.
    fn changes(&self, round: u64) {
        let transitions = self.allocations.iter().map(|id| running(*id, round.is_multiple_of(2))).collect();
        let (machine, epoch) = (self.machine.id, self.machine.epoch);
        let report = v1::ReportRequest { machine, epoch, transitions, ..Default::default() };
        assert!(!self.rivals.report(report).unwrap().register, "it counts");
    }

    fn commits_one(&self, round: u64) {
        let task = u32::try_from(round).unwrap();
        let base = self.rivals.revision().unwrap();
        let claims = self.blue.claims(1 + round, base, self.job, &self.machine, &[task]);
        assert_eq!(self.rivals.commit(claims).unwrap().granted, 1);
    }
}

/// This very program, as a process that only watches: what is built has none.
fn watcher(stage: &mut Stage, address: &str) -> Process {
    let built = std::mem::replace(&mut stage.binary, std::env::current_exe().unwrap());
    let spawn = |command: &mut Command| (command.env(ADDRESS, address).spawn().unwrap(), ());
    let (process, ()) = stage.start_by("watcher", &["--exact", SELF, "--nocapture"], spawn);
    stage.binary = built;
    process
}

/// Whether the system has stopped each thread of a process, and what it was doing is done: one that waits for the disk does it to its end.
fn is_stopped(process: i32) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.all(|thread| {
        // One that has just ended has none: it is looked again.
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    })
}

/// Follows the cell and writes down what it sees. The test ends it.
async fn watch_for_ever(address: String) -> ! {
    let mut picture = Picture::default();
    let mut written = (Instant::now(), 0);
    let mut looks = tokio::time::interval(PICTURE_PERIOD);
    loop {
        let Ok(mut stream) = watched(&address, picture.hello()).await else {
            tokio::time::sleep(PICTURE_PERIOD).await;
            continue;
        };
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(message)) => drop(picture.hear(message)),
                    _ => break,
                },
                _ = looks.tick() => {}
            }
            if picture.is_whole() && picture.revision() > written.1 && written.0.elapsed() > PICTURE_PERIOD {
                write(picture.cell());
                written = (Instant::now(), picture.revision());
            }
        }
        picture.disconnected();
        std::fs::write(CAME_BACK, "").unwrap();
    }
}

/// All pages of the cell, each behind its length; the file is there whole or not at all.
fn write(cell: &Cell) {
    let mut bytes = Vec::new();
    for (table, number) in pages::every(cell) {
        let page = pages::encode_page(cell, table, number);
        bytes.extend_from_slice(&(page.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&page);
    }
    std::fs::write("picture.new", bytes).unwrap();
    std::fs::rename("picture.new", PICTURE).unwrap();
}

/// What the watching process wrote last.
fn picture(stage: &Stage) -> Option<Cell> {
    let bytes = std::fs::read(stage.path(PICTURE)).ok()?;
    let (mut rest, mut all) = (&bytes[..], Vec::new());
    while let Some((length, tail)) = rest.split_first_chunk() {
        let (page, tail) = tail.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
        all.push(page.to_vec().into());
        rest = tail;
    }
    Some(pages::restore(all).unwrap())
}
