//! Stories of tasks that are stopped one by one and placed anew while their allocations still leave, against the real core.

use plenum_model::{Command, JobId};
use plenum_testkit::{JobBuilder, Seat, Stage};

use crate::batch::Batch;

fn stage(machines: &[u64]) -> (Stage, Seat) {
    let mut stage = Stage::new();
    for (number, cpu_millis) in machines.iter().enumerate() {
        stage.machine(&format!("m{number}"), *cpu_millis, &[]);
    }
    let batch = stage.seat(Batch::default());
    (stage, batch)
}

fn submit(stage: &mut Stage, name: &str, cpu_millis: i64, priority: u32) -> JobId {
    let id = stage.submit(&JobBuilder::new(name, "batch").group("main", 1, cpu_millis).priority(priority));
    stage.advance(1_000_000);
    id
}

/// What `plenum alloc stop` asks, for all that a job has.
fn stop(stage: &mut Stage, job: JobId) {
    let active = stage.cell().allocations().filter(|found| found.row.job() == job && found.status.state.is_active());
    let all: Vec<_> = active.map(|found| found.id).collect();
    for id in all {
        stage.ask("owner", Command::StopAllocation(id));
    }
}

/// Allocations of a job that leave.
fn leaving(stage: &Stage, job: JobId) -> usize {
    stage.cell().allocations().filter(|found| found.row.job() == job && found.status.state.is_leaving()).count()
}

// It counted on the room of its own allocation, named it among those who leave, and was refused with the whole transaction: again and again,
// until the receipt came.
#[test]
fn a_task_that_is_stopped_is_placed_in_its_own_room_and_nobody_goes_for_it() {
    let (mut stage, batch) = stage(&[2000, 2000]);
    let [high, low] = [("high", 90), ("low", 10)].map(|(name, priority)| submit(&mut stage, name, 2000, priority));
    stop(&mut stage, high);
    stage.advance(1_000_000);
    assert_eq!((stage.placed(high).len(), leaving(&stage, high)), (1, 1));
    assert_eq!((stage.placed(low).len(), leaving(&stage, low)), (1, 0));
    assert_eq!(stage.runtime(batch).counters().rejected, 0);
}

// Who leaves was named by one job while its task was claimed on another machine: one transaction, which was refused with all that it held.
#[test]
fn a_task_goes_elsewhere_while_another_one_takes_over_what_it_leaves() {
    let (mut stage, batch) = stage(&[2000]);
    let low = submit(&mut stage, "low", 1000, 10);
    // It sees all three at once.
    stage.cut_off(batch);
    stage.machine("m1", 1000, &[]);
    stop(&mut stage, low);
    let high = submit(&mut stage, "high", 2000, 90);
    stage.let_back(batch);
    stage.advance(10_000_000);
    assert_eq!(stage.placed(high), [(0, 0, 0)]);
    assert_eq!((stage.placed(low), leaving(&stage, low)), (vec![(0, 0, 1)], 1));
    assert_eq!(stage.runtime(batch).counters().rejected, 0);
}
