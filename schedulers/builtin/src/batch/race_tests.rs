//! Stories of a job that lost a race to another scheduler, and of the room that comes free while it rests.

use plenum_model::JobId;
use plenum_sdk::Settings;
use plenum_testkit::{JobBuilder, Seat, Stage};

use super::{Batch, NAME};
use crate::Service;

/// A task that takes the one machine there is, for ever.
fn job(name: &str, priority: u32) -> JobBuilder {
    JobBuilder::new(name, NAME).group("main", 1, 1000).priority(priority).forever()
}

fn one_machine() -> (Stage, Seat) {
    let mut stage = Stage::new();
    stage.machine("m1", 1000, &[]);
    let seat = stage.seat_with(Batch::default(), Settings { seed: 7, holds: None, ..Settings::default() });
    (stage, seat)
}

/// A job that has lost the machine to a quicker scheduler so many times in a row, and rests: for longer the more often. The machine has just come free once more.
fn rests_after(losses: usize) -> (Stage, JobId) {
    let (mut stage, seat) = one_machine();
    stage.seat_with(Service::default(), Settings { holds: None, ..Settings::default() });
    stage.hold(seat);
    let high = stage.submit(&job("high", 65));
    for loss in 1..=losses {
        // It claims the machine as soon as it may after the loss before.
        stage.advance(5_000_000);
        let rival = JobBuilder::new(&format!("rival-{loss}"), "service").group("main", 1, 1000).priority(99);
        let rival = stage.submit(&rival);
        stage.settle();
        assert_eq!(stage.placed(rival).len(), 1);
        stage.release(seat);
        assert!(stage.placed(high).is_empty(), "it lost");
        if loss < losses {
            stage.hold(seat);
        }
        stage.finish(rival, true);
    }
    (stage, high)
}

/// A lower job of the same scheduler was given the machine in the milliseconds of the rest, and evicted; one of the same band kept it for as long as it ran.
#[test]
fn what_comes_free_while_a_job_rests_after_a_lost_race_goes_to_none_behind_it() {
    // It rests for ten milliseconds at least.
    for priority in [50, 60, 65] {
        let (mut stage, high) = rests_after(3);
        let other = stage.submit(&job("other", priority));
        stage.advance(3_000);
        assert_eq!((stage.placed(high).len(), stage.placed(other).len()), (0, 0), "beside priority {priority}");
        stage.advance(50_000);
        assert_eq!((stage.placed(high).len(), stage.placed(other).len()), (1, 0), "beside priority {priority}");
    }
}

#[test]
fn who_comes_before_a_job_that_rests_waits_for_nothing() {
    for priority in [69, 70] {
        let (mut stage, _) = rests_after(3);
        let other = stage.submit(&job("other", priority));
        stage.advance(3_000);
        assert_eq!(stage.placed(other).len(), 1, "of priority {priority}");
    }
}

/// After ten losses it rests for up to two seconds.
#[test]
fn room_is_left_for_a_second_at_most_to_a_job_that_rests() {
    let (mut stage, high) = rests_after(10);
    let other = stage.submit(&job("other", 50));
    let placed = |stage: &mut Stage, micros| {
        stage.advance(micros);
        [high, other].map(|job| stage.placed(job).len())
    };
    assert_eq!(placed(&mut stage, 900_000), [0, 0]);
    assert_eq!(placed(&mut stage, 200_000), [0, 1]);
}

/// That a queue was full says nothing of who has the room.
#[test]
fn a_job_that_rests_for_another_reason_is_left_nothing() {
    let (mut stage, seat) = one_machine();
    stage.reject_next(seat, "QUEUE_FULL");
    let high = stage.submit(&job("high", 65));
    stage.settle();
    let other = stage.submit(&job("other", 50));
    stage.advance(3_000);
    assert_eq!((stage.placed(high).len(), stage.placed(other).len()), (0, 1));
}
