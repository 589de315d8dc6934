//! A scheduler, and a process that only watches, are stopped, while far more happens than the system, the connections and the server hold
//! for them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use plenum_model::Cell;
use plenum_proto::{pages, v1};
use tokio::runtime::Runtime;

use super::{LONG_LEASES, agent, server_with};
use crate::{
    crash::{
        load::{snapshot, watched},
        picture::Picture,
    },
    rivals::{Machine, Rival, Rivals},
    stage::{Process, Served, Stage, eventually},
};

/// Allocations whose state changes again and again, and how often: far more than the connection's windows and the system's
/// buffers hold, and the server's memory for watchers.
const CHANGING: u32 = 16_000;
const ROUNDS: u64 = 320;
/// As many before it is measured: buffers, and the tables of the history, have their sizes then.
const ROUNDS_BEFORE: u64 = 80;
/// What a server may grow by while these two are stopped: less than what is logged meanwhile, 19 bytes for each change, which the story makes sure of.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// For so long at least a connection is kept whose other side stands still, which a slow machine may take longer than: that is asked every 20 s, perhaps a moment before
/// it stands still, and waited for for as long.
const KEPT: Duration = Duration::from_secs(19);
/// What the log was given, counted from somewhere.
const WRITTEN_BYTES: &str = "plenum_journal_written_bytes";
/// Watchers that fell behind.
const RESYNCS: &str = "plenum_watcher_resyncs_total";

/// What comes while the scheduler is stopped.
const LATE: &str = "name = \"late\"\nscheduler = \"batch\"\n[group.main]\ncount = 3\ncommand = [\"/bin/true\"]\n\
                    resources = { cpu = \"50m\", memory = \"16MiB\" }\n";

/// The test below, by its name.
const SELF: &str =
    "pauses::watcher::a_scheduler_and_a_watcher_that_slept_cost_no_memory_hold_nobody_up_and_end_with_the_true_picture";
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
fn a_scheduler_and_a_watcher_that_slept_cost_no_memory_hold_nobody_up_and_end_with_the_true_picture() {
    if let Ok(address) = std::env::var(ADDRESS) {
        // This is the process that the test below has started, and does not outlive it.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
        Runtime::new().unwrap().block_on(watch_for_ever(address));
    }
    let mut stage = Stage::new();
    let server = server_with(&stage, LONG_LEASES);
    let address = &server.address;
    let scheduler = stage.scheduler(address, "batch");
    eventually("it watches", || (sessions(&stage, address) == 1).then_some(()));
    let crowd = Crowd::new(address);
    let watching = watcher(&mut stage, address);
    let before = eventually("it has a picture", || picture(&stage)).revision();
    (0..ROUNDS_BEFORE).for_each(|round| crowd.changes(round));
    eventually("and follows", || picture(&stage).filter(|cell| cell.revision() > before));
    let resident = settled_bytes(&stage, &server);
    let [resyncs, written] = [RESYNCS, WRITTEN_BYTES].map(|name| metric(address, name));

    let asleep = [&scheduler, &watching];
    asleep.iter().for_each(|process| process.signal(Signal::SIGSTOP));
    let stopped = Instant::now();
    eventually("they are stopped", || asleep.iter().all(|process| is_stopped(process.id())).then_some(()));
    let asleep_at = picture(&stage).unwrap().revision();
    let slowest = crowd.goes_on();
    assert!(slowest < HELD_UP, "a commit took {slowest:?}");
    let grown = grown_bytes(&server, resident);
    let logged = metric(address, WRITTEN_BYTES) - written;
    assert!(logged > GROWTH_BYTES_MAX, "{logged} bytes were logged: to keep them all would have been allowed");
    assert_eq!(picture(&stage).unwrap().revision(), asleep_at, "it slept");
    stage.submit(address, "late.toml", LATE);

    // One after the other, so that nothing more happens until the true picture is there.
    watching.signal(Signal::SIGCONT);
    let runtime = Runtime::new().unwrap();
    let (shown, truth) = eventually("it catches up", || {
        let truth = runtime.block_on(snapshot(address)).unwrap();
        picture(&stage).filter(|shown| shown.revision() == truth.revision()).map(|shown| (shown, truth))
    });
    assert!(truth.revision().0 >= asleep_at.0 + 2 * ROUNDS, "commits went on");
    assert_eq!(shown.first_difference(&truth), None, "what it shows is not what is");
    // Where all of this takes so long that its connection is given up meanwhile, it comes back on another one.
    let came_back = stage.path(CAME_BACK).exists();
    let began_anew = || metric(address, RESYNCS) - resyncs;
    assert!(began_anew() >= 1 || came_back, "it fell behind, and began anew");

    let is_cut_off = stopped.elapsed() > KEPT;
    scheduler.signal(Signal::SIGCONT);
    let _agent = agent(&stage, address, "m2");
    eventually("it places what came meanwhile", || {
        let job = stage.ask(address, &["job", "show", "late"]);
        (job["state"] == "complete").then_some(())
    });
    // One that was cut off has connected once more, with what it had; a thread of its own writes that it says so.
    let goes_on = || is_cut_off && stage.text("scheduler-batch.err").contains("goes on");
    let both_did = || began_anew() + u64::from(came_back) + u64::from(goes_on()) >= 2;
    eventually("it fell behind, and began anew", || both_did().then_some(()));
    let listed = stage.ask(address, &["alloc", "list", "--all", "--filter", "job=late"]);
    assert_eq!(listed["items"].as_array().unwrap().len(), 3, "each task was placed once: {listed:#}");
    eprintln!(
        "grown by {grown} bytes in {ROUNDS} rounds, with {logged} bytes logged, and a commit took {slowest:?} at most"
    );
}

/// A machine with tasks that are ready and not ready by turns, and a scheduler of its own, whose tasks fill the rest of it.
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
        let machine = rivals.machine("m1", i64::from(CHANGING) + i64::try_from(ROUNDS).unwrap()).unwrap();
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

    /// All rounds, and what the slowest of the commits between them took.
    fn goes_on(&self) -> Duration {
        let mut slowest = Duration::ZERO;
        for round in ROUNDS_BEFORE..ROUNDS_BEFORE + ROUNDS {
            self.changes(round);
            let began = Instant::now();
            self.commits_one(round);
            slowest = slowest.max(began.elapsed());
        }
        slowest
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

fn running(allocation: u64, ready: bool) -> v1::Transition {
    let state = v1::AllocationState::Running.into();
    v1::Transition { allocation, state, ready, ..v1::Transition::default() }
}

fn sessions(stage: &Stage, address: &str) -> u64 {
    stage.ask(address, &["status"])["sessions"].as_u64().unwrap()
}

/// The memory that a server has once its history has caught up: what waits for that is bounded apart.
fn settled_bytes(stage: &Stage, server: &Served) -> u64 {
    eventually("the history has caught up", || {
        let status = stage.ask(&server.address, &["status"]);
        (status["history_revision"] == status["revision"]).then_some(())
    });
    resident_bytes(server.process.id())
}

/// What a server has more in memory than before. It is given the time to let go of what is no watcher's, as a checkpoint that is just written or a
/// history that lags.
fn grown_bytes(server: &Served, before: u64) -> u64 {
    eventually("the server has grown by less than it may", || {
        let grown = resident_bytes(server.process.id()).saturating_sub(before);
        (grown < GROWTH_BYTES_MAX).then_some(grown)
    })
}

/// What a process has in memory.
fn resident_bytes(process: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

/// A metric of the server.
fn metric(address: &str, name: &str) -> u64 {
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().unwrap()
}
