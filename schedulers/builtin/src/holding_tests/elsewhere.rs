//! Stories of what needs a machine for itself, or all that one has of something, beside machines on which that never comes free.

use super::*;

const SECOND_MICROS: i64 = 1_000_000;
const MINUTE_MICROS: i64 = 60 * SECOND_MICROS;

/// So many machines of four cores, of each of which something has three for ever.
fn stuck(machines: u32, holding: Holding) -> Stage {
    let mut stage = Stage::new();
    for number in 1..=machines {
        stage.machine(&format!("m{number}"), 4000, &[("kind", "stuck")]);
    }
    stage.seat_with(Batch::default(), settings(Some(holding)));
    let long = JobBuilder::new("long", "batch").group("main", machines, 3000).on("kind", "stuck");
    let long = stage.submit(&long.forever());
    stage.settle();
    assert_eq!(stage.placed(long).len(), machines as usize);
    stage
}

/// A job of one task that takes a whole machine.
fn whole(name: &str) -> JobBuilder {
    JobBuilder::new(name, "batch").group("main", 1, 4000).min(1)
}

/// Which machines are held in turn, as is looked at so often.
fn held_in_turn(stage: &mut Stage, job: JobId, looks: usize, pause_micros: i64) -> Vec<u32> {
    let (mut turns, mut before) = (Vec::new(), Vec::new());
    for _ in 0..looks {
        stage.advance(pause_micros);
        let now = held(stage, job);
        if now != before {
            turns.extend(&now);
        }
        before = now;
    }
    turns
}

/// It gathered its room on the first machine of those with most room, came back to that one after each rest, and waited without end: what filled the rest of that ran for ever, while another machine
/// was emptied within two seconds, time and again. That one has room when it is looked for, or only in the moments between two tasks.
#[test]
fn what_needs_a_whole_machine_is_next_held_one_on_which_tasks_come_and_go() {
    for cpu_millis in [1500, 2000] {
        let mut stage = stuck(3, Holding { patience_micros: MINUTE_MICROS, ..SOON });
        stage.machine("m4", 4000, &[("kind", "stream")]);
        let stream = JobBuilder::new("stream", "batch").group("main", 4000, cpu_millis).on("kind", "stream");
        let stream = stage.submit(&stream);
        stage.settle();
        let one = stage.submit(&whole("one"));
        let mut seconds = 0;
        while stage.placed(one).is_empty() && seconds < 5 * 60 {
            ends_one(&mut stage, stream);
            stage.advance(SECOND_MICROS - ROUND_MICROS);
            seconds += 1;
        }
        // A minute on a machine that is not emptied, and as long a rest.
        assert!(seconds < 140, "{seconds} s beside tasks of {cpu_millis}");
    }
}

/// The first machine had all of the turns.
#[test]
fn where_nothing_comes_free_the_machines_are_held_in_turn() {
    let mut stage = stuck(3, SOON);
    let one = stage.submit(&whole("one"));
    assert_eq!(held_in_turn(&mut stage, one, 60, MINUTE_MICROS), [0, 1, 2, 0], "in an hour");
}

/// A machine that got something new for ever after the hold on another one looks as if that came and went.
#[test]
fn a_machine_that_seems_about_to_come_free_is_waited_for_no_longer_than_a_hold_is_kept() {
    let mut stage = stuck(2, SOON);
    stage.machine("m3", 4000, &[("kind", "other")]);
    let early = stage.submit(&whole("early").on("kind", "other").forever());
    stage.settle();
    let one = stage.submit(&whole("one"));
    assert_eq!(held_in_turn(&mut stage, one, 6, MINUTE_MICROS), [0]);
    assert!(held(&stage, one).is_empty(), "it rests");
    let late = stage.submit(&whole("late").on("kind", "other").priority(55).forever());
    stage.finish(early, true);
    assert_eq!(stage.placed(late).len(), 1);
    assert_eq!(held_in_turn(&mut stage, one, 4, MINUTE_MICROS), [0; 0], "it waits for the third machine");
    assert_eq!(held_in_turn(&mut stage, one, 3, MINUTE_MICROS), [1], "and does so no longer");
}

/// It had the cores of the first machine, on which a GPU was in use for ever, each time once more.
#[test]
fn what_lacks_something_else_on_one_machine_is_next_held_another_one() {
    let mut stage = Stage::new();
    for name in ["m1", "m2"] {
        stage.machine_with_gpus(name, 2000, &[], 1);
    }
    stage.seat_with(Batch::default(), settings(Some(SOON)));
    stage.submit(&JobBuilder::new("small", "batch").group("main", 2, 100).gpu(1000).forever());
    stage.settle();
    let one = stage.submit(&gang("one", "batch", 1).gpu(1000));
    assert_eq!(held_in_turn(&mut stage, one, 12 * 6, 10 * SECOND_MICROS), [0, 1], "in twelve minutes");
}
