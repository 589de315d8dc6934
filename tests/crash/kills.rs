//! `kill -9` of the server at random moments of its life: starting, folding the log, under load, again and again.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::Command,
    time::Duration,
};

use super::{budget, cell::CrashCell};

/// Kills under load in the gate, of all stories together; `cargo xtask crash --kills N` does more.
const KILLS: u64 = 200;

/// How a server is killed.
struct Habit {
    seed: u64,
    /// Of a hundred kills, so many are of this habit.
    percent: u64,
    /// It answers up to so many transactions before.
    answered_max: u32,
    /// Before every so many of them, another server is killed while it starts.
    early_every: u64,
    /// The separate checker watches, and judges. So it does of one kind of kills: it keeps all that it was told, and takes long over many transactions.
    is_witnessed: bool,
    /// The cell retires what is older than its last segments, as one that has run for long.
    retains_little: bool,
}

/// A server that is killed while it starts lives so long at most.
const EARLY_MILLIS_MAX: u32 = 150;
/// After so many kills checkpoints are written all the time, after so many more hardly any again, and so on: a start has much log to fold, or
/// what a crash has left of a checkpoint, of segments that were being released, and of both together.
const STRETCH: u64 = 5;
/// Among so many transactions are some whose gang was not whole, and some in the room of others; and some of what they began has ended.
const DECIDED_OF_ALL_KINDS: usize = 1000;
/// So many transactions fill several segments.
const TRANSACTIONS_OF_SEGMENTS: u64 = 2000;

#[test]
fn what_was_acknowledged_is_there_once_after_kills_under_load() {
    kill_again_and_again(&Habit {
        seed: 101,
        percent: 35,
        answered_max: 60,
        early_every: 10,
        is_witnessed: false,
        retains_little: false,
    });
}

#[test]
fn what_was_acknowledged_is_there_once_after_kills_of_servers_that_only_start() {
    kill_again_and_again(&Habit {
        seed: 102,
        percent: 30,
        answered_max: 30,
        early_every: 2,
        is_witnessed: false,
        retains_little: true,
    });
}

#[test]
fn what_was_acknowledged_is_there_once_after_kills_in_quick_succession() {
    kill_again_and_again(&Habit {
        seed: 103,
        percent: 25,
        answered_max: 6,
        early_every: 10,
        is_witnessed: true,
        retains_little: false,
    });
}

#[test]
fn what_was_acknowledged_is_there_once_after_kills_of_servers_that_worked_for_long() {
    kill_again_and_again(&Habit {
        seed: 104,
        percent: 10,
        answered_max: 500,
        early_every: 10,
        is_witnessed: false,
        retains_little: true,
    });
}

#[track_caller]
fn kill_again_and_again(habit: &Habit) {
    let kills = (budget("KILLS", KILLS) * habit.percent).div_ceil(100);
    let mut cell = CrashCell::new(habit.seed);
    if habit.is_witnessed {
        cell = cell.with_a_witness();
    }
    if habit.retains_little {
        cell = cell.that_retains_little();
    }
    let (mut early, mut loaded) = (0, 0);
    for number in 1..=kills {
        cell.set_checkpoints(number / STRETCH % 2 == 1);
        if number % habit.early_every == 0 {
            let (mut process, _) = cell.launch(None);
            let millis = cell.load.dice().below(EARLY_MILLIS_MAX);
            std::thread::sleep(Duration::from_millis(millis.into()));
            assert_eq!(process.has_ended(), None, "it starts until it is killed: {}", cell.told());
            process.kill();
            early += 1;
        }
        let mut up = cell.start();
        cell.load.examine(&up.address).unwrap();
        // At least one is answered: the others are in flight.
        let transactions = 1 + cell.load.dice().below(habit.answered_max) as usize;
        let decided = cell.load.ticks.decided();
        let round = cell.work(&mut up, transactions);
        assert_eq!(up.process.has_ended(), None, "it works until it is killed: {}", cell.told());
        up.process.kill();
        cell.join(round);
        loaded += u64::from(cell.load.ticks.decided() >= decided + transactions);
    }
    let (starts, released) = (cell.starts as u64, cell.released_segments());
    let (oldest_segment, has_fallback) = (cell.oldest_segment(), cell.dir().join("fallback.backup").exists());
    let summary = cell.conclude();
    eprintln!(
        "{loaded} kills under load, and {early} before, {released} segments were released, the oldest is number {oldest_segment}: {summary:?}"
    );
    assert_eq!(
        (loaded, starts),
        (kills, kills + early),
        "each server was killed, and each that was reached had worked"
    );
    // On average a server answers half of what it does at most.
    let is_long = kills * u64::from(habit.answered_max) / 2 >= TRANSACTIONS_OF_SEGMENTS;
    // Those that were retired again were released before.
    assert!(released > 0 || oldest_segment > 1 || !is_long, "checkpoints were written, and segments released");
    let retires = habit.retains_little && is_long;
    let has_retired = summary.oldest > 1 && oldest_segment > 1 && has_fallback;
    assert!(has_retired || !retires, "the past was retired: {oldest_segment}, {has_fallback}, {summary:?}");
    assert!(summary.refusals > 0 && summary.repeated as u64 > kills / 4, "{summary:?}");
    assert!(summary.judged > 0 || !habit.is_witnessed, "the checker looked at it: {summary:?}");
    // Of a few transactions, none need be of a kind.
    let all_kinds = summary.mates > 0 && summary.took_over > 0 && summary.ended > 0;
    assert!(all_kinds || summary.decided < DECIDED_OF_ALL_KINDS, "{summary:?}");
}

/// The canary: whoever looks after crashes must see that something is missing.
#[test]
fn a_cell_that_forgot_is_noticed() {
    let mut cell = CrashCell::new(105);
    let mut up = cell.start();
    let round = cell.work(&mut up, 50);
    up.process.kill();
    cell.join(round);
    let early = cell.stage.path("early");
    copy(&cell.dir(), &early);
    let mut up = cell.start();
    cell.load.examine(&up.address).unwrap();
    let round = cell.work(&mut up, 50);
    up.process.kill();
    cell.join(round);
    std::fs::remove_dir_all(cell.dir()).unwrap();
    copy(&early, &cell.dir());
    let up = cell.start();
    let looked = catch_unwind(AssertUnwindSafe(|| cell.load.examine(&up.address)));
    assert!(looked.is_err(), "fifty transactions are gone, and nobody noticed");
}

/// Copies a folder with all that is in it.
pub(super) fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}
