//! Stories of a cell that has no answer for a scheduler, or is not the one that it was.

use super::tests::{FirstFit, job};
use super::*;

#[test]
fn a_transaction_that_the_test_has_rejected_is_not_executed_and_its_tasks_are_placed_by_another_one() {
    for code in ["QUEUE_FULL", "READ_ONLY"] {
        let mut stage = Stage::new();
        stage.machine("m1", 4000, &[]);
        let blue = stage.seat(FirstFit("blue"));
        (0..2).for_each(|_| stage.reject_next(blue, code));
        let words = stage.submit(&job("words", "blue", 2));
        stage.settle();
        assert!(stage.placed(words).is_empty() && stage.transcript().is_empty(), "{code}");
        stage.advance(5_000_000);
        let counters = stage.runtime(blue).counters();
        assert_eq!((stage.placed(words).len(), counters.rejected, counters.transactions), (2, 2, 3), "{code}");
    }
}

#[test]
fn one_of_which_the_cell_can_not_say_what_became_is_sent_again_under_its_number() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let blue = stage.seat(FirstFit("blue"));
    stage.reject_next(blue, "OUTCOME_UNKNOWN");
    let words = stage.submit(&job("words", "blue", 2));
    stage.advance(5_000_000);
    let counters = stage.runtime(blue).counters();
    assert_eq!((counters.rejected, counters.transactions, counters.sent_again), (0, 1, 1));
    assert_eq!((stage.placed(words).len(), &*stage.transcript()), (2, "blue: 2 of 2 granted\n"));
}

#[test]
fn a_cell_that_was_restored_is_followed_from_what_it_was_put_back_to() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let blue = stage.seat(FirstFit("blue"));
    let kept = stage.submit(&job("kept", "blue", 1));
    stage.settle();
    let backup = stage.cell().clone();
    stage.submit(&job("lost", "blue", 2));
    stage.advance(1_000_000);
    stage.restore(backup);
    stage.advance(1_000_000);
    let later = stage.submit(&job("later", "blue", 3));
    stage.advance(1_000_000);
    assert!(stage.cell().job_named("default", "lost").is_none());
    assert_eq!((stage.placed(kept).len(), stage.placed(later).len()), (1, 3));
    let mirror = stage.runtime(blue).mirror().expect("it is back");
    assert_eq!((mirror.identity().incarnation, mirror.first_difference(&stage.mirrored())), (2, None));
}
