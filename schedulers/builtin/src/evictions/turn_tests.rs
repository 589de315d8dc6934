//! Stories of those who wait for an eviction together: each has its turn.

use plenum_sdk::Settings;
use plenum_testkit::{Seat, Stage};

use super::tests::{job, leaving, stands, submit};
use crate::batch::Batch;

/// Machines of four cores, each of which has a task of the highest band, and so many of the lowest.
fn stage(machines: u32, settings: Settings) -> (Stage, Seat) {
    let mut stage = Stage::new();
    for number in 0..machines {
        stage.machine(&format!("m{number}"), 4000, &[]);
    }
    let seat = stage.seat_with(Batch::default(), settings);
    for number in 0..machines {
        submit(&mut stage, &job(&format!("keeps-{number}"), 1, 2100, 99));
    }
    submit(&mut stage, &job("low", machines, 1900, 10));
    (stage, seat)
}

// It was asked for again from the top in each decision: who was behind more tasks than go into one was put off for ever.
#[test]
fn who_is_behind_many_that_find_nobody_has_its_turn() {
    let settings = Settings { tasks_max: 2, pause_micros: 0, ..Settings::default() };
    let (mut stage, _) = stage(1, settings);
    let wide = stage.submit(&job("wide", 7, 4000, 90));
    let small = submit(&mut stage, &job("small", 1, 1000, 80));
    assert_eq!((stands(&stage, wide), stands(&stage, small), leaving(&stage).count()), ((0, 0), (1, 0), 1));
    assert!(stage.passed_over(wide, 0).starts_with("no lower band has enough"), "{}", stage.passed_over(wide, 0));
}

// The first 64 kinds of tasks took all places of each decision.
#[test]
fn however_many_kinds_find_nobody_those_behind_them_have_their_turn() {
    let (mut stage, _) = stage(1, Settings::default());
    for number in 0..200 {
        stage.submit(&job(&format!("wide-{number}"), 1, 3000 + number, 90));
    }
    let small = submit(&mut stage, &job("small", 1, 1000, 80));
    assert_eq!((stands(&stage, small), leaving(&stage).count()), ((1, 0), 1));
}

// Each walk over the cell found the same again, as often as there may be one.
#[test]
fn who_finds_nobody_does_not_ask_for_ever_in_a_cell_that_stands_still() {
    let (mut stage, seat) = stage(1, Settings::default());
    submit(&mut stage, &job("wide", 1, 4000, 90));
    let before = *stage.runtime(seat).counters();
    stage.advance(60_000_000);
    let after = *stage.runtime(seat).counters();
    assert!(after.decisions - before.decisions < 20, "{} decisions", after.decisions - before.decisions);
}

// Of those who leave the first 32 by their rows were counted on, however little they had.
#[test]
fn of_many_who_leave_those_who_have_most_are_counted_on() {
    let mut stage = Stage::new();
    stage.machine("m0", 2000, &[]);
    stage.seat(Batch::default());
    let tiny = submit(&mut stage, &job("tiny", 38, 10, 10));
    let large = submit(&mut stage, &job("large", 2, 800, 10));
    stage.machine("m1", 1700, &[]);
    let other = submit(&mut stage, &job("other", 1, 1700, 10));
    for gone in [tiny, large] {
        stage.ask("operator", plenum_model::Command::StopJob(gone));
    }
    stage.advance(1_000_000);
    let high = submit(&mut stage, &job("high", 1, 1600, 90));
    assert_eq!((stands(&stage, high), stands(&stage, other)), ((1, 0), (1, 0)));
}

// What they need was looked for anew with each walk, and those behind them never had one.
#[test]
fn who_is_behind_jobs_that_share_a_machine_and_find_none_has_its_turn() {
    let settings = Settings { tasks_max: 2, pause_micros: 0, ..Settings::default() };
    let (mut stage, _) = stage(1, settings);
    for number in 0..5 {
        stage.submit(&job(&format!("wide-{number}"), 1, 4000, 90).same_machine());
    }
    let small = submit(&mut stage, &job("small", 1, 1000, 80));
    assert_eq!((stands(&stage, small), leaving(&stage).count()), ((1, 0), 1));
}
