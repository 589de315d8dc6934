//! Crashes at one exact call: before and after each sync of a run, and in the middle of writes.
//!
//! Each story crashes one cell again and again: the run that crashes at sync n began with what the crash at sync n-1 left.

use std::{
    collections::BTreeMap,
    path::Path,
    process::ExitStatus,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    budget, budget_or_all,
    cell::CrashCell,
    is_long,
    warden::{Call, Kind, Verdict},
};
use crate::stage::{Stage, eventually};

/// Transactions answered in a run at each of whose syncs a server is killed, with checkpoints and without: a start with an existing cell and the
/// work after it. Two clients have 32 in flight, and no sync settles more than these.
const ANSWERED_IN_THE_GATE: usize = 150;
/// The same of `cargo xtask crash --syncs all`.
const ANSWERED_IN_A_RUN: usize = 1_000;
/// A run of whatever length syncs more often.
const SYNCS_LEAST: u64 = 20;
/// Of the history's syncs and those of folders the first ones are of a start.
const BEHIND_THE_FIRST: u64 = 4;
/// Writes torn; `cargo xtask crash --tears N` does more.
const TEARS: u64 = 30;
/// Transactions answered at most in one run.
const ANSWERED: usize = 100_000;
/// Transactions that a server answers after a sync has failed that it lives on without.
const ANSWERED_AFTER: usize = 300;

/// Gives a verdict on the n-th call of those that are looked at, and lets all others pass.
pub(super) fn at(
    n: u64,
    looks: impl Fn(&Call) -> bool + Send,
    verdict: impl Fn(&Call) -> Verdict + Send,
) -> impl FnMut(&Call) -> Verdict + Send {
    let mut seen = 0;
    move |call| {
        if !looks(call) {
            return Verdict::Pass;
        }
        seen += 1;
        if seen == n { verdict(call) } else { Verdict::Pass }
    }
}

pub(super) fn is_sync(call: &Call) -> bool {
    call.kind == Kind::Sync
}

fn is_write_of_a_segment(call: &Call) -> bool {
    matches!(call.kind, Kind::Write { .. }) && call.is_of(".segment")
}

#[test]
fn a_cell_is_made_whatever_sync_of_its_making_it_dies_at() {
    let all = syncs_of_the_making();
    let most = if is_long("MAKINGS") { 2 * all } else { all };
    let makings = budget_or_all("MAKINGS").map_or(most, |makings| makings.min(2 * all));
    let hits = Arc::new(AtomicU64::new(0));
    // Spread evenly over all, before and after them in turn; with twice as many as there are syncs, each in both ways. A process that dies leaves
    // the same behind before a sync and after it, as only a power cut takes what is not synced: in the gate it is one or the other.
    for number in 0..makings {
        let (n, after) =
            if makings > all { (number / 2, number % 2 == 1) } else { (number * all / makings, number % 2 == 1) };
        let verdict = if after { Verdict::KillAfter } else { Verdict::Kill };
        let mut cell = CrashCell::within(Stage::in_memory(), "cell", n);
        let struck = hits.clone();
        let judge = at(n + 1, is_sync, move |_| {
            struck.fetch_add(1, Ordering::SeqCst);
            verdict
        });
        // Not each making syncs as often: what is short of it comes with the first work.
        run_until_it_dies(&mut cell, judge);
        let mut up = cell.start();
        cell.load.examine(&up.address).unwrap();
        let round = cell.work(&mut up, 1).expect("what is left of a making is a cell like others");
        cell.load.finish(round);
        cell.load.examine(&up.address).unwrap();
        up.process.kill();
    }
    let kills = hits.load(Ordering::SeqCst);
    eprintln!("{kills} cells killed at some of the {all} syncs of their making");
    assert!(all > 20, "a making syncs again and again: {all}");
    assert_eq!(kills, makings, "each died where it should");
}

/// How often a new cell syncs before it can be reached.
fn syncs_of_the_making() -> u64 {
    let (count, judge) = counting();
    CrashCell::within(Stage::in_memory(), "cell", 0).start_under(judge).unwrap().process.kill();
    count.load(Ordering::SeqCst)
}

/// How often a server of an existing cell syncs until it has answered so many.
fn syncs_of_a_run(answered: usize, has_checkpoints: bool) -> u64 {
    let (count, judge) = counting();
    let mut cell = CrashCell::new(9);
    cell.start().process.kill();
    cell.set_checkpoints(has_checkpoints);
    let mut up = cell.start_under(judge).unwrap();
    let round = cell.work(&mut up, answered);
    up.process.kill();
    cell.join(round);
    count.load(Ordering::SeqCst)
}

/// The syncs of a run without checkpoints, and of one with them.
fn all_of_two_runs(answered: usize) -> Vec<(u64, bool)> {
    let all = [false, true].map(|has_checkpoints| (has_checkpoints, syncs_of_a_run(answered, has_checkpoints)));
    eprintln!("a run without checkpoints (false) and with them (true) has {all:?} syncs");
    assert!(all.iter().all(|&(_, syncs)| syncs > SYNCS_LEAST), "a run syncs again and again: {all:?}");
    all.into_iter().flat_map(|(has_checkpoints, syncs)| (1..=syncs).map(move |n| (n, has_checkpoints))).collect()
}

/// A judge that lets all calls pass, and how many of them were syncs.
fn counting() -> (Arc<AtomicU64>, impl FnMut(&Call) -> Verdict + Send + 'static) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let judge = move |call: &Call| {
        counted.fetch_add(u64::from(is_sync(call)), Ordering::SeqCst);
        Verdict::Pass
    };
    (count, judge)
}

/// What a server syncs once its cell is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Synced {
    Segment,
    Mark,
    History,
    Folder,
    Other,
}

impl Synced {
    /// Each run syncs all of these again and again.
    const ALWAYS: [Self; 4] = [Self::Segment, Self::Mark, Self::History, Self::Folder];

    pub(super) fn of(call: &Call) -> Self {
        if call.path.components().any(|part| part.as_os_str() == "history") {
            Self::History
        } else if call.path.is_dir() {
            Self::Folder
        } else if call.is_of(".segment") {
            Self::Segment
        } else if call.is_of("MARK") {
            Self::Mark
        } else {
            Self::Other
        }
    }
}

#[test]
fn what_was_acknowledged_is_there_whatever_sync_the_server_dies_at() {
    let each: Vec<(u64, bool)> = match budget_or_all("SYNCS") {
        Some(syncs) => (1..=syncs).map(|n| (n, n % 2 == 0)).collect(),
        None => all_of_two_runs(if is_long("SYNCS") { ANSWERED_IN_A_RUN } else { ANSWERED_IN_THE_GATE }),
    };
    let in_the_gate = std::env::var_os("PLENUM_CRASH_SYNCS").is_none();
    let mut cell = CrashCell::new(2);
    cell.start().process.kill();
    let hits = Arc::new(Mutex::new(BTreeMap::<_, u64>::new()));
    // All of two runs, or each of the first ones, every second of them of a server that writes checkpoints all the time; and then each kind of
    // file when it is first synced: which kinds are early depends on the run before. Behind the first ones of the history and of folders are
    // those of checkpoints and of segments that are released.
    let each = each.into_iter().map(|(n, has_checkpoints)| (n, None, has_checkpoints));
    let kinds = Synced::ALWAYS.map(|kind| (1, Some(kind), false));
    let behind = [Synced::History, Synced::Folder].map(|kind| (BEHIND_THE_FIRST, Some(kind), true));
    let kinds = kinds.into_iter().chain(behind);
    let mut planned = 0;
    for (n, kind, has_checkpoints) in each.chain(kinds) {
        cell.set_checkpoints(has_checkpoints);
        // As above.
        let is_one_enough = in_the_gate && kind.is_none();
        for (number, verdict) in [Verdict::Kill, Verdict::KillAfter].into_iter().enumerate() {
            if is_one_enough && n % 2 != number as u64 {
                continue;
            }
            planned += 1;
            let hits = hits.clone();
            let looks = move |call: &Call| is_sync(call) && kind.is_none_or(|kind| kind == Synced::of(call));
            let judge = at(n, looks, move |call| {
                *hits.lock().unwrap().entry((Synced::of(call), verdict == Verdict::KillAfter)).or_default() += 1;
                verdict
            });
            run_until_it_dies(&mut cell, judge);
        }
    }
    let released = cell.released_segments();
    let summary = cell.conclude();
    let hits = hits.lock().unwrap();
    let kills = hits.values().sum::<u64>();
    eprintln!(
        "{kills} kills at syncs, before (false) and after (true) those of {hits:?}, {released} segments were released: {summary:?}"
    );
    assert_eq!(kills, planned, "each died where it should");
    let both_ways = |kind: &Synced| [false, true].iter().all(|after| hits.contains_key(&(*kind, *after)));
    assert!(Synced::ALWAYS.iter().all(both_ways), "before and after a sync of each kind of file: {hits:?}");
    assert!(summary.decided as u64 > kills, "there was load: {summary:?}");
}

/// Starts the server, works with it until it dies as the judge wants it, and looks what is left when it is next started.
#[track_caller]
fn run_until_it_dies(cell: &mut CrashCell, judge: impl FnMut(&Call) -> Verdict + Send + 'static) {
    if let Some(status) = run_until_it_ends(cell, judge) {
        assert_eq!(status.code(), None, "it was killed, and did not end by itself: {status} {}", cell.told());
    }
}

/// The same, however it ends; how, if it could be reached before.
#[track_caller]
pub(super) fn run_until_it_ends(
    cell: &mut CrashCell,
    judge: impl FnMut(&Call) -> Verdict + Send + 'static,
) -> Option<ExitStatus> {
    let mut up = cell.start_under(judge).ok()?;
    if cell.load.examine(&up.address).is_ok() {
        let round = cell.work(&mut up, ANSWERED);
        cell.join(round);
    }
    Some(up.process.ended())
}

#[test]
fn a_write_that_is_torn_is_cut_and_takes_nothing_else_with_it() {
    let tears = budget("TEARS", TEARS);
    let mut cell = CrashCell::new(3);
    cell.start().process.kill();
    let mut cuts = 0;
    for n in 1..=tears {
        // In turns, with each way to tear.
        cell.set_checkpoints(n / 6 % 2 == 1);
        let judge = at(n, is_write_of_a_segment, move |call| {
            let Kind::Write { bytes } = call.kind else { return Verdict::Pass };
            match n % 6 {
                0 => Verdict::TearHead(bytes / 2),
                1 => Verdict::TearHead(bytes - 1),
                2 => Verdict::TearHead(512.min(bytes - 1)),
                3 => Verdict::TearTail(bytes / 2),
                4 => Verdict::TearTail(512.min(bytes - 1)),
                _ => Verdict::TearHead(bytes.div_ceil(1024) * 512 - 1),
            }
        });
        run_until_it_dies(&mut cell, judge);
        let mut up = cell.start();
        cell.load.examine(&up.address).unwrap();
        cuts += u64::from(cell.told().contains("cut"));
        up.process.kill();
    }
    let summary = cell.conclude();
    eprintln!("{tears} torn writes, {cuts} cut and told: {summary:?}");
    // The first writes are of single sectors, whose beginnings may be whole frames.
    assert!(cuts * 4 > tears || tears < TEARS, "many of them left something to cut: {cuts}");
}

#[test]
fn a_failed_sync_of_the_log_ends_the_server_and_the_next_one_knows_what_is_durable() {
    for (n, has_checkpoints) in [(1, false), (2, true), (5, false), (9, true)] {
        let mut cell = CrashCell::new(4);
        cell.set_checkpoints(has_checkpoints);
        cell.start().process.kill();
        let judge = at(n, |call| is_sync(call) && call.is_of(".segment"), |_| Verdict::Fail(nix::libc::EIO));
        if let Ok(mut up) = cell.start_under(judge) {
            cell.load.examine(&up.address).unwrap();
            let round = cell.work(&mut up, ANSWERED);
            cell.join(round);
            assert_eq!(up.process.ended().code(), Some(1));
        }
        let told = cell.told();
        for words in ["error[", ".segment", "Input/output error"] {
            assert!(told.contains(words), "sync {n}: expected {words:?} in: {told}");
        }
        cell.conclude();
    }
}

/// Whatever of the store fails to sync, nothing that was acknowledged is lost, and nobody has to repair anything.
#[test]
fn a_failed_sync_of_anything_else_loses_nothing() {
    let failures = budget("FAILURES", 12);
    let mut ended = 0;
    let mut cell = CrashCell::new(5);
    cell.start().process.kill();
    let hits = Arc::new(Mutex::new(BTreeMap::<Synced, u64>::new()));
    let struck = || hits.lock().unwrap().values().sum::<u64>();
    for n in 1..=failures {
        cell.set_checkpoints(n % 2 == 0);
        let failed = hits.clone();
        let judge = at(
            n,
            |call| is_sync(call) && !call.is_of(".segment"),
            move |call| {
                *failed.lock().unwrap().entry(Synced::of(call)).or_default() += 1;
                Verdict::Fail(nix::libc::EIO)
            },
        );
        let status = match cell.start_under(judge) {
            Err(status) => Some(status),
            Ok(mut up) => {
                // A history that could not be synced is opened again by itself, and can't be read until then.
                eventually("all can be read, or the server has ended", || {
                    let is_over = cell.load.examine(&up.address).is_ok() || up.process.has_ended().is_some();
                    is_over.then_some(())
                });
                let round = cell.work(&mut up, 0);
                eventually("the sync that fails comes, or one before it has ended the server", || {
                    (struck() >= n || up.process.has_ended().is_some()).then_some(())
                });
                let enough = cell.load.ticks.decided() + ANSWERED_AFTER;
                eventually("the server goes on, or ends", || {
                    let goes_on = cell.load.ticks.decided() >= enough;
                    (goes_on || up.process.has_ended().is_some()).then_some(())
                });
                let status = up.process.has_ended();
                up.process.kill();
                cell.join(round);
                status
            }
        };
        if let Some(status) = status {
            ended += 1;
            assert_eq!(status.code(), Some(1), "it ends in order: {}", cell.told());
            assert!(cell.told().contains("error["), "it says why: {}", cell.told());
        }
    }
    let released = cell.released_segments();
    let summary = cell.conclude();
    eprintln!(
        "{ended} of the failures, which were of {:?}, ended the server, {released} segments were released: {summary:?}",
        hits.lock().unwrap()
    );
    assert_eq!(struck(), failures, "each failed that should");
}

// A start that was killed before it had synced them left folders, and the next one took them for durable: what it acknowledged was in a folder whose
// name a power cut could take.
#[test]
fn a_cell_is_made_in_folders_whose_names_are_durable_whoever_made_them() {
    let mut cell = CrashCell::within(Stage::new(), "outermost/outer/cell", 6);
    std::fs::create_dir_all(cell.dir().join("log")).unwrap();
    let paths = Arc::new(Mutex::new(Vec::new()));
    let seen = paths.clone();
    let judge = move |call: &Call| {
        if is_sync(call) {
            seen.lock().unwrap().push(call.path.clone());
        }
        Verdict::Pass
    };
    let mut up = cell.start_under(judge).unwrap();
    up.process.kill();
    let paths = paths.lock().unwrap();
    let (dir, first_of) = (cell.dir(), |wanted: &Path| paths.iter().position(|path| path == wanted));
    let made = first_of(&dir.join("log/CELL.tmp")).unwrap();
    // To the one that has the outermost name.
    for folder in dir.ancestors().take(4) {
        assert!(first_of(folder).is_some_and(|synced| synced < made), "{} in {paths:?}", folder.display());
    }
}

#[test]
fn the_warden_sees_what_happens_and_can_stop_it() {
    let stage = Stage::new();
    let mut cell = CrashCell::within(stage, "cell", 6);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let judge = move |call: &Call| {
        seen.lock().unwrap().push(call.clone());
        Verdict::Pass
    };
    let mut up = cell.start_under(judge).unwrap();
    up.process.kill();
    let calls = calls.lock().unwrap();
    assert!(calls.iter().any(|call| call.is_of("CELL.tmp") && call.kind == Kind::Sync), "{calls:?}");
    assert!(calls.iter().any(is_write_of_a_segment), "{calls:?}");
}
