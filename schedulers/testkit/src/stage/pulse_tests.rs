//! Stories of what schedulers say of how they do.

use super::tests::{FirstFit, job};
use super::*;

const SECOND: u64 = 1_000_000;

/// How many jobs wait, and the revision, in each pulse.
fn told(stage: &mut Stage) -> Vec<(u32, u64)> {
    stage.take_pulses().into_iter().map(|pulse| (pulse.waiting_jobs, pulse.revision)).collect()
}

#[test]
fn a_scheduler_tells_how_it_does_while_that_changes_and_then_no_more() {
    let mut stage = Stage::new();
    stage.ask_for_pulses(SECOND);
    stage.machine("m1", 2000, &[]);
    stage.seat(FirstFit("blue"));
    let welcomed = stage.cell().revision().0;
    assert_eq!(told(&mut stage), [(0, welcomed)], "the first one as soon as it has its mirror");
    stage.submit(&job("fits", "blue", 1));
    stage.submit(&job("wide", "blue", 2));
    stage.submit(&job("other", "green", 1));
    stage.settle();
    assert_eq!(told(&mut stage), [], "not before a pause has gone by");
    stage.advance(1_000_000);
    let revision = stage.cell().revision().0;
    assert_eq!(told(&mut stage), [(1, revision)], "one task of two is placed, and that of others is not its own");
    stage.advance(60_000_000);
    assert_eq!(told(&mut stage), []);
    let fits = stage.submit(&job("later", "blue", 1));
    stage.advance(1_000_000);
    stage.finish(fits, true);
    let later = told(&mut stage);
    assert!(later.iter().any(|pulse| pulse.0 == 2 && pulse.1 > revision), "{later:?}");
}

#[test]
fn nobody_tells_a_cell_how_it_does_that_does_not_ask() {
    let mut stage = Stage::new();
    stage.machine("m1", 2000, &[]);
    stage.seat(FirstFit("blue"));
    stage.submit(&job("fits", "blue", 1));
    stage.advance(60_000_000);
    assert_eq!(told(&mut stage), []);
}
