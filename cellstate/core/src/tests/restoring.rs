//! Tasks that do not stand where it is said of them: neither a cell that is built from rows nor what always holds takes that on trust.

use plenum_model::delta::Subject;
use plenum_model::{
    Cell, Command, Delta, GroupShape, JobChange, LogTime, Restore, RestoreError, RestoredAllocation, TaskChange,
    TaskRow, TaskState, Transaction,
};

use super::costs::{Large, placement};
use crate::invariants::{Violation, invariant_counters_count_their_tasks};
use crate::{CoreOptions, Decided};

/// The delta that comes next, without any change yet.
fn next(cell: &Cell) -> Delta {
    Delta::new(cell.revision().next(), cell.time())
}

/// A cell from the rows of another one, of which that of one task is changed.
fn restored(cell: &Cell, changed: Option<(u32, TaskRow)>) -> Result<Cell, RestoreError> {
    let (names, shapes) = (cell.scheduler_names().to_vec(), cell.shapes().to_vec());
    let identity = cell.identity().clone();
    let mut restore = Restore::new(cell.revision(), cell.time(), identity, names, shapes, cell.filling());
    for machine in cell.machines() {
        let class = restore.class(&machine.attributes);
        let last_change = cell.machine_row(machine.id.slot).expect("it is there").last_change;
        restore.machine(machine, class, last_change);
    }
    for job in cell.jobs() {
        restore.job(job.id.slot, job.id.generation, Some(job.clone()));
    }
    for (row, group) in (0..).zip(cell.groups().iter()) {
        restore.group(row, group.task_base, group.count, group.not_before);
    }
    for row in 0..cell.task_states().len() {
        let another = changed.filter(|(of, _)| *of == row).map(|(_, task)| task);
        restore.task(row, another.unwrap_or_else(|| cell.task_row(row).expect("it is below the end")));
    }
    for found in cell.allocations() {
        let (slot, row, status, extra) = (found.id.slot, *found.row, found.status, found.extra.cloned());
        restore.allocation(RestoredAllocation { slot, row, status, extra });
    }
    restore.finish()
}

// They were counted as they said. Such a task was never placed again, and nobody told of it.
#[test]
fn rows_of_tasks_that_are_live_or_blocked_without_an_allocation_are_no_cell() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned()).slot;
    let group = |single_instance| GroupShape { count: 2, single_instance, ..GroupShape::default() };
    let [single, plain] = [true, false].map(|single_instance| large.job(group(single_instance)));
    let leaves = large.commit(vec![placement(single, 0..1, |_| machine, 0)]).placements.concat();
    large.ask(Command::StopAllocation(leaves[0].expect("it was granted")));
    large.commit(vec![placement(plain, 0..1, |_| machine, 0)]);
    let cell = large.core.cell();
    assert_eq!(restored(cell, None).err(), None);
    let [single, plain] = [single, plain].map(|job| cell.job(job).expect("it was submitted").group_base);
    assert_eq!(cell.task_state(cell.groups().get(single).expect("it is there"), 0), Some(TaskState::Blocked));
    let fault = |group_row: u32, state, allocation| {
        let row = cell.groups().get(group_row).expect("it is there").task_base + 1;
        let error = restored(cell, Some((row, TaskRow { allocation, attempts: 1, state, failures: 0 }))).err();
        error.map(|error| (error.subject, error.fault))
    };
    let told = |group_row, why| Some((Subject::Task(group_row, 1), why));
    let beyond = cell.statuses().len() + 1;
    let of_another = cell.active_allocation(plain, 0).expect("it is live").id.slot + 1;
    let no_allocation = told(plain, "is live, and has no allocation");
    assert_eq!(fault(plain, TaskState::Live, beyond), no_allocation);
    assert_eq!(fault(plain, TaskState::Live, of_another), no_allocation);
    let nothing_leaves = "is blocked, and waits for no allocation that leaves";
    assert_eq!(fault(plain, TaskState::Blocked, 0), told(plain, nothing_leaves));
    assert_eq!(fault(single, TaskState::Blocked, 0), told(single, nothing_leaves));
}

#[test]
fn a_live_task_that_names_an_allocation_of_another_one_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned()).slot;
    let [first, second] = [(); 2].map(|()| large.job(GroupShape { count: 1, ..GroupShape::default() }));
    large.commit(vec![placement(first, 0..1, |_| machine, 0)]);
    let mut cell = large.core.cell().clone();
    let [group_row, other_row] = [first, second].map(|job| cell.job(job).expect("it was submitted").group_base);
    let task_base = cell.groups().get(group_row).expect("it is there").task_base;
    let (base, placements) = (cell.revision(), vec![placement(second, 0..1, |_| machine, 0)]);
    let Decided::Changed { delta: granted, .. } =
        large.decide_commit(Transaction { base, placements, ..Transaction::default() })
    else {
        panic!("it is decided")
    };
    // As if the other group had the same rows of tasks.
    let moved = JobChange::Group { row: other_row, count: 1, not_before: LogTime::default(), task_base };
    cell.apply(&Delta { jobs: vec![moved], ..next(&cell) }).expect("it folds");
    cell.apply(&Delta { revision: cell.revision().next(), ..granted }).expect("it folds");
    let found = invariant_counters_count_their_tasks(&cell);
    assert_eq!(found, Err(Violation::CountersWrong { job: first, group_row }));
}

#[test]
fn a_blocked_task_of_which_nothing_leaves_is_found() {
    for single_instance in [false, true] {
        let mut large = Large::new(CoreOptions::default());
        let machine = large.machine("m1".to_owned()).slot;
        let job = large.job(GroupShape { count: 2, single_instance, ..GroupShape::default() });
        let granted = large.commit(vec![placement(job, 0..1, |_| machine, 0)]).placements.concat();
        large.ask(Command::StopAllocation(granted[0].expect("it was granted")));
        let before = large.core.cell();
        assert_eq!(invariant_counters_count_their_tasks(before), Ok(()));
        let group_row = before.job(job).expect("it was submitted").group_base;
        let found = |task| {
            let change = TaskChange { group_row, task, state: TaskState::Blocked, failures: 0 };
            let mut cell = before.clone();
            cell.apply(&Delta { tasks: vec![change], ..next(&cell) }).expect("it folds");
            invariant_counters_count_their_tasks(&cell)
        };
        let wrong = || Err(Violation::CountersWrong { job, group_row });
        assert_eq!(found(0), if single_instance { Ok(()) } else { wrong() });
        assert_eq!(found(1), wrong());
    }
}
