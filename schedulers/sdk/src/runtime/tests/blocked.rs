//! A gang that waits for its predecessors: nothing of it is offered.

use std::sync::Arc;

use plenum_model::{Delta, JobChange, LogTime, Revision, TaskChange, TaskState};

use super::refusing::{beginning, encoded_deltas};
use super::too_large::{given, welcome_of};
use super::*;

fn in_one_message(deltas: &[Delta]) -> Tell {
    let bytes = encoded_deltas(deltas).flat_map(|told| match told {
        Tell::Deltas(told) => told.deltas,
        other => panic!("expected deltas, found {other:?}"),
    });
    Tell::Deltas(v1::Deltas { deltas: bytes.collect() })
}

// Each message walked over the whole queue: nothing was decided, and so there was no pause.
#[test]
fn behind_a_look_that_finds_such_a_gang_a_burst_of_deltas_is_one_occasion() {
    let mut runtime = begun();
    greeting(&mut runtime);
    given(&mut runtime, 0, welcome_of(0, 0));
    let mut deltas = beginning();
    let JobChange::Put { job, .. } = &mut deltas[3].jobs[0] else { panic!("a job") };
    let job = Arc::get_mut(job).unwrap();
    Arc::get_mut(&mut job.shape).unwrap().groups[0].min = 2;
    let mut leaves = Delta::new(Revision(5), LogTime::from_micros(5));
    leaves.tasks.push(TaskChange { group_row: 0, task: 0, state: TaskState::Blocked, failures: 0 });
    deltas.push(leaves);
    given(&mut runtime, 0, in_one_message(&deltas));
    assert!(runtime.hungry && !runtime.due, "it has looked");

    let mut outputs = Vec::new();
    for (revision, now) in [(6, 10), (7, 20), (8, 30)] {
        let mut changes = Delta::new(Revision(revision), LogTime::from_micros(5));
        changes.machines.clone_from(&deltas[2].machines);
        outputs.extend(given(&mut runtime, now, in_one_message(&[changes])));
    }
    assert_eq!(outputs, [Output::WakeAt { micros: 1_000 }]);
    assert!(runtime.due);
    runtime.handle(1_000, Input::Tick);
    assert!(!runtime.due, "it has looked again");
}
