//! Stories of passes that take several decisions: whose is what comes free in the middle of one.

use plenum_sdk::{Decision, Plan, Scheduler, Settings, View};

use super::tests::{FirstFit, job};
use super::*;

/// So many tasks a decision, and a second from one to the next.
fn slow(tasks_max: usize) -> Settings {
    Settings { tasks_max, pause_micros: 1_000_000, ..Settings::default() }
}

/// Twenty tasks that run on all the room there is, one a job; and ten jobs of four more, behind one of eight that has a higher priority: all that
/// wait are six decisions of eight tasks.
fn crowded() -> (Stage, Vec<JobId>, JobId) {
    let mut stage = Stage::new();
    stage.machine("m1", 20_000, &[]);
    stage.seat_with(FirstFit("blue"), slow(8));
    let running: Vec<_> = (0..20).map(|number| stage.submit(&job(&format!("old-{number}"), "blue", 1))).collect();
    stage.advance(60_000_000);
    assert!(running.iter().all(|&job| stage.placed(job).len() == 1));
    (0..10).for_each(|number| {
        stage.submit(&job(&format!("low-{number}"), "blue", 4));
    });
    let high = stage.submit(&job("high", "blue", 8).priority(90));
    stage.advance(60_000_000);
    assert_eq!(stage.placed(high), []);
    (stage, running, high)
}

/// A machine that is too small for anybody: an occasion for a pass.
fn something_happens(stage: &mut Stage, number: usize) {
    stage.machine(&format!("tiny-{number}"), 10, &[]);
    stage.settle();
}

/// The pass went on, and the room was given to whoever's turn it was.
#[test]
fn room_that_comes_free_in_the_middle_of_a_pass_goes_to_who_is_first() {
    for (ended, after_micros) in [(1, 500_000), (4, 1_500_000), (4, 4_500_000), (12, 500_000)] {
        let (mut stage, running, high) = crowded();
        something_happens(&mut stage, 0);
        stage.advance(after_micros);
        running[..ended].iter().for_each(|&job| stage.finish(job, true));
        stage.advance(60_000_000);
        assert_eq!(stage.placed(high).len(), ended.min(8), "of {ended} cores after {after_micros} µs");
    }
}

#[test]
fn where_room_comes_free_all_the_time_the_first_in_the_queue_has_it_all() {
    for every_micros in [300_000, 700_000, 1_000_000, 1_500_000, 2_500_000] {
        let (mut stage, running, high) = crowded();
        for &job in &running[..8] {
            stage.finish(job, true);
            stage.advance(every_micros);
        }
        stage.advance(60_000_000);
        assert_eq!(stage.placed(high).len(), 8, "a core every {every_micros} µs");
    }
}

/// Neither at the head nor where the pass goes on.
#[test]
fn room_for_nobody_but_who_had_its_turn_before_is_given_in_another_pass() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let seat = stage.seat_with(FirstFit("blue"), slow(4));
    let old = stage.submit(&job("old", "blue", 4));
    stage.advance(5_000_000);
    stage.submit(&JobBuilder::new("wide-a", "blue").group("main", 4, 9000).priority(90));
    let small = stage.submit(&job("small", "blue", 4).priority(80));
    stage.submit(&JobBuilder::new("wide-b", "blue").group("main", 8, 9000));
    stage.advance(60_000_000);
    something_happens(&mut stage, 0);
    stage.advance(2_500_000);
    stage.finish(old, true);
    stage.advance(10_000_000);
    assert_eq!(stage.placed(small).len(), 4);
    let before = stage.runtime(seat).counters().decisions;
    stage.advance(60_000_000);
    assert_eq!(stage.runtime(seat).counters().decisions, before, "then there is rest");
}

/// A single task a decision leaves no room for anybody beside the first in the queue, nor do four for a gang.
#[test]
fn who_is_far_behind_has_its_turn_while_something_happens_all_the_time() {
    for (tasks_max, least) in [(1, 1), (4, 1), (4, 4)] {
        let mut stage = Stage::new();
        stage.machine("m1", 4000, &[]);
        stage.seat_with(FirstFit("blue"), slow(tasks_max));
        for name in ["wide-a", "wide-b", "wide-c"] {
            stage.submit(&JobBuilder::new(name, "blue").group("main", 8, 9000).priority(90));
        }
        let last = stage.submit(&JobBuilder::new("last", "blue").group("main", least, 1000).min(least));
        for number in 0..40 {
            something_happens(&mut stage, number);
            stage.advance(500_000);
        }
        assert_eq!(stage.placed(last).len(), least as usize, "{tasks_max} tasks a decision, {least} of them at once");
    }
}

/// Commits each job alone, if it fits as a whole.
struct Whole;

impl Scheduler for Whole {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut ledger) = (Decision::default(), view.ledger());
        for work in view.work() {
            let (mut plan, mut tried) = (Plan::all_or_nothing(), ledger.clone());
            if work.tasks.iter().all(|_| tried.take(work, 0)) {
                plan.claim(work, &work.tasks, &vec![0; work.tasks.len()]);
                decision.commit(plan);
                ledger = tried;
            }
        }
        decision
    }
}

/// What the window has no room for is planned again, and before others.
#[test]
fn the_first_in_the_queue_keep_their_turn_when_the_window_cuts_them_off() {
    let mut stage = Stage::new();
    let machine = stage.machine("m1", 3000, &[]);
    stage.seat_with(Whole, Settings { window: 1, ..slow(8) });
    let old = stage.submit(&job("old", "blue", 3));
    stage.advance(5_000_000);
    let first: Vec<_> =
        (0..3).map(|number| stage.submit(&job(&format!("first-{number}"), "blue", 1).priority(90))).collect();
    let low: Vec<_> = (0..30).map(|number| stage.submit(&job(&format!("low-{number}"), "blue", 1))).collect();
    stage.advance(60_000_000);
    something_happens(&mut stage, 0);
    stage.advance(500_000);
    assert_eq!(stage.placed(old).iter().filter(|placed| placed.2 == machine).count(), 3);
    stage.finish(old, true);
    stage.advance(60_000_000);
    assert!(first.iter().all(|&job| stage.placed(job).len() == 1), "and none of {low:?}");
}
