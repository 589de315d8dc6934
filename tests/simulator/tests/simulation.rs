//! Seeds of the simulated cell: a few in the gate, as many as one likes with `cargo xtask simulate --seeds 0..10000`.

use std::ops::Range;

use plenum_simulator::{Planted, Tally, run};

/// Seeds of the gate: about 20 s of one core in the development profile.
const SEEDS: Range<u64> = 0..200;
/// Seeds within which a planted bug is found.
const CANARY_SEEDS: Range<u64> = 0..60;

/// The seeds that were asked for; `None`: those of the gate.
fn asked() -> Option<Range<u64>> {
    let asked = std::env::var("PLENUM_SEEDS").ok()?;
    let (first, end) = asked.split_once("..").expect("PLENUM_SEEDS is FIRST..END");
    Some(first.parse().expect("a number")..end.parse().expect("a number"))
}

#[test]
fn a_cell_survives_every_mix_of_faults() {
    let mut tally = Tally::default();
    for seed in asked().unwrap_or(SEEDS) {
        match run(seed, Planted::Nothing) {
            Ok(counts) => tally.add(&counts),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{tally}");
    // A few seeds that somebody asks for need not see everything.
    if asked().is_none() {
        let never: Vec<&str> = tally.never_taken();
        assert!(never.is_empty(), "no seed took these paths: {}", never.join(", "));
    }
}

/// A green run means something only if a bug makes it red, and the right checker finds it.
fn is_found(planted: Planted, invariant: &str) {
    let mut failures = CANARY_SEEDS.filter_map(|seed| run(seed, planted).err());
    let found = failures.any(|failure| failure.what.contains(invariant));
    assert!(found, "{planted:?} was not found by {invariant} within {CANARY_SEEDS:?}");
}

#[test]
fn answers_before_the_sync_are_found() {
    is_found(Planted::AnswersBeforeSync, "invariant_acknowledged_survives_any_crash");
}

#[test]
fn a_disk_that_lies_about_syncs_is_found() {
    is_found(Planted::LyingDisk, "invariant_a_crash_is_no_damage");
}

#[test]
fn receipts_for_what_still_runs_are_found() {
    is_found(Planted::HastyReceipts, "invariant_what_runs_is_live");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..5 {
        let counts = || run(seed, Planted::Nothing).expect("it is a seed of the gate");
        assert_eq!(counts(), counts());
    }
}
