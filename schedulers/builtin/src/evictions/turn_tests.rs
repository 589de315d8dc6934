//! Stories of those who wait for an eviction together: each has its turn.

use plenum_sdk::Settings;
use plenum_testkit::{Seat, Stage};

use super::Bounds;
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
        stage.ask("operator", plenum_model::Command::StopJob { job: gone, version: None });
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

/// Small machines full of low tasks, each with port 80 in use: on all but so many of the last ones by a task of the highest band. The scheduler looks at two of the machines in a
/// decision.
fn full_of_ports(machines: u32, of_low_tasks: u32) -> Stage {
    let mut stage = Stage::new();
    for number in 0..machines {
        // What is left is as much as the least that a task asks for.
        stage.machine(&format!("m{number}"), 2001, &[]);
    }
    // To ask one machine for ports takes 16 looks for each of its tenants and steps.
    let bounds = Bounds { looks_max: 700 };
    stage.seat_with(Batch::evicting_within(bounds), Settings { pause_micros: 0, ..Settings::default() });
    submit(&mut stage, &job("keeps", machines - of_low_tasks, 100, 99).port("http", 80));
    submit(&mut stage, &job("low-web", 1, 100, 10).port("http", 80));
    submit(&mut stage, &job("low", machines * 20 - machines, 100, 10));
    stage
}

// It used up the looks of each decision, and the next one spent its own on it again, as that alone was not remembered: nobody behind it evicted anybody as long as it waited.
#[test]
fn who_is_behind_one_whose_search_takes_all_looks_has_its_turn() {
    let mut stage = full_of_ports(6, 0);
    let wants = stage.submit(&job("wants", 1, 100, 95).port("http", 80));
    let small = submit(&mut stage, &job("small", 1, 100, 80));
    assert_eq!((stands(&stage, wants), stands(&stage, small)), ((0, 0), (1, 0)));
    let told = stage.passed_over(wants, 0);
    assert!(told.starts_with("no lower band has enough"), "{told}");
}

// Each decision began with the machines that the one before it had looked at, and came no further.
#[test]
fn a_search_that_came_to_no_end_goes_on_later() {
    let mut stage = full_of_ports(6, 1);
    let wants = submit(&mut stage, &job("wants", 1, 1, 95).port("http", 80));
    assert_eq!((stands(&stage, wants), leaving(&stage).count()), ((1, 0), 1));
}

// It looked at all tenants of each machine that had none of the devices, at 16 times the cost of a look at one.
#[test]
fn machines_without_such_devices_are_not_looked_at() {
    let mut stage = Stage::new();
    for number in 0..20 {
        stage.machine(&format!("m{number}"), 2000, &[]);
    }
    stage.machine_with_gpus("with", 2001, &[], 1);
    let seat = stage.seat(Batch::evicting_within(Bounds { looks_max: 700 }));
    submit(&mut stage, &job("train", 1, 100, 10).gpu(1000));
    submit(&mut stage, &job("low", 21 * 19, 100, 10));
    let before = *stage.runtime(seat).counters();
    let wants = submit(&mut stage, &job("wants", 1, 1, 90).gpu(1000));
    let after = *stage.runtime(seat).counters();
    assert_eq!(stands(&stage, wants), (1, 0));
    assert!(after.decisions - before.decisions <= 2, "{} decisions", after.decisions - before.decisions);
}
