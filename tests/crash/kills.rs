//! `kill -9` of the server at random moments of its life: starting, folding the log, under load.

use std::time::Duration;

use super::{budget, cell::CrashCell};

/// Kills in the gate; `cargo xtask crash --kills N` does more.
const KILLS: u64 = 200;
/// A server answers up to so many transactions before it is killed.
const ANSWERED_MAX: u32 = 50;
/// Every so many servers are killed before they can be reached, this long after their start at most.
const EARLY: u64 = 8;
const EARLY_MILLIS_MAX: u32 = 120;

#[test]
fn what_was_acknowledged_is_there_exactly_once_after_each_of_many_kills() {
    let kills = budget("KILLS", KILLS);
    let mut cell = CrashCell::new(1);
    for number in 1..=kills {
        if number % EARLY == 0 {
            let (mut process, _) = cell.launch(None);
            let millis = cell.load.dice().below(EARLY_MILLIS_MAX);
            std::thread::sleep(Duration::from_millis(millis.into()));
            process.kill();
            continue;
        }
        let mut up = cell.start();
        cell.load.examine(&up.address).unwrap();
        let transactions = cell.load.dice().below(ANSWERED_MAX) as usize;
        let round = cell.work(&mut up, transactions);
        up.process.kill();
        cell.join(round);
    }
    let summary = cell.conclude();
    eprintln!("{kills} kills: {summary:?}");
    assert!(summary.decided as u64 > 10 * kills, "the kills were under load: {summary:?}");
    assert!(summary.refusals as u64 > kills && summary.repeated as u64 > kills && summary.ended as u64 > kills);
}
