//! Steps that the core would never decide: what must always hold finds each of them.

use std::sync::Arc;

use plenum_model::{
    AllocationId, Cell, Command, Decision, Delta, Grants, GroupShape, Hold, LogTime, MachineId, Port, Quota, Resource,
    Resources, Rights, SessionChange, TaskChange, TaskState, TaskTraces, Transaction, TransactionOutcome, UnknownId,
    UnknownTask,
};

use super::costs::{Large, complete, placement};
use crate::invariants::{
    Violation, invariant_holds_are_of_live_jobs_on_machines_that_are_there, invariant_no_grant_or_hold_exceeds_a_quota,
    invariant_no_grant_takes_room_that_is_held_for_others, invariant_no_unknown_task_has_a_granted_port,
    invariant_ports_are_held_once, invariant_refused_has_no_effect, invariant_reports_undo_nothing,
    invariant_single_instances_wait_for_their_predecessors, invariant_unknown_tasks_are_unknown,
    invariant_what_was_expected_was_there,
};
use crate::{CoreOptions, Decided};

/// The delta that comes next, without any change yet.
fn next(cell: &Cell) -> Delta {
    Delta::new(cell.revision().next(), cell.time())
}

// Only where it got more machines was a hold held to the quota: on as many it could grow a hundredfold.
#[test]
fn a_hold_that_is_renewed_with_more_than_its_quota_allows_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let machines = ["m1", "m2"].map(|name| large.machine(name.to_owned()).slot);
    let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    let (resources, deadline) = (Resources::new(1000, 10), LogTime::from_micros(60_000_000));
    large.hold(job, &machines, resources, deadline);
    // Far below what is held already: that stays.
    let mut limits = Quota::default().limits;
    limits[Resource::CpuMillis.index()] = Some(500);
    large.ask(Command::SetQuota { namespace: "default".into(), limit: Some(Quota { limits }) });
    let before = large.core.cell().clone();
    let held = before.hold(job).expect("it holds room").clone();
    let found = |machines: &[u32], resources: Resources| {
        let hold = Hold { machines: machines.to_vec(), resources, ..held.clone() };
        let delta = Delta { holds: vec![(job, Some(hold))], ..next(&before) };
        let mut after = before.clone();
        after.apply(&delta).expect("it folds");
        invariant_no_grant_or_hold_exceeds_a_quota(&before, &after, &delta)
    };
    let exceeded = |used| {
        let (revision, namespace) = (before.revision().next(), "default".into());
        Err(Violation::QuotaExceeded { revision, namespace, resource: Resource::CpuMillis, used, limit: 500 })
    };
    assert_eq!(found(&machines, resources), Ok(()), "it is renewed");
    assert_eq!(found(&machines[..1], resources), Ok(()), "it lost a machine");
    assert_eq!(found(&machines, Resources::new(1000, 11)), Ok(()), "it has more of what has no limit");
    assert_eq!(found(&machines, Resources::new(1001, 10)), exceeded(2002));
    assert_eq!(found(&machines[..1], Resources::new(2001, 10)), exceeded(2001), "on fewer machines, and more in all");
}

// The simulator alone compared grants with what others hold, and only where all of a transaction's were of one job.
#[test]
fn a_grant_in_room_that_another_job_holds_is_found_in_each_resource_that_it_asks_for() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned()).slot;
    let holder = large.job(GroupShape { count: 1, ..GroupShape::default() });
    let granted_job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    let before = large.core.cell().clone();
    let placements = vec![placement(granted_job, 0..1, |_| machine, 0)];
    let txn = Transaction { base: before.revision(), placements, ..Transaction::default() };
    let Decided::Changed { delta: granted, .. } = large.decide_commit(txn) else { panic!("it is decided") };
    // As if the room had been held before the claim.
    let found = |job, resources| {
        let (deadline, first_wait) = (LogTime::from_micros(60_000_000), before.revision());
        let hold = Hold { machines: vec![machine], resources, deadline, first_wait };
        let mut cell = before.clone();
        let held = Delta { holds: vec![(job, Some(hold))], ..next(&cell) };
        cell.apply(&held).expect("it folds");
        let granted = Delta { revision: cell.revision().next(), ..granted.clone() };
        cell.apply(&granted).expect("it folds");
        invariant_no_grant_takes_room_that_is_held_for_others(&cell, &granted)
    };
    let taken = |resource| {
        let revision = before.revision().next().next();
        Err(Violation::HeldRoomTaken { revision, machine, resource, taken: 1 })
    };
    let (cpu, memory) = (1_000_000, 1 << 40);
    assert_eq!(found(holder, Resources::new(cpu - 1, memory - 1)), Ok(()), "all that was left");
    assert_eq!(found(holder, Resources::new(cpu, 0)), taken(Resource::CpuMillis));
    assert_eq!(found(holder, Resources::new(0, memory)), taken(Resource::MemoryBytes));
    let disk = Resources { disk_bytes: 1, ..Resources::default() };
    assert_eq!(found(holder, disk), Ok(()), "nothing of that was claimed");
    assert_eq!(found(granted_job, Resources::new(cpu, memory)), Ok(()), "it is its own");
}

// Only ports of allocations were compared.
#[test]
fn a_grant_of_a_port_that_an_unknown_task_has_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned());
    let ports = |number| vec![Port { name: "http".into(), number }];
    let job = large.job(GroupShape { count: 1, ports: ports(8080), ..GroupShape::default() });
    let before = large.core.cell().clone();
    let placements = vec![placement(job, 0..1, |_| machine.slot, 0)];
    let txn = Transaction { base: before.revision(), placements, ..Transaction::default() };
    let Decided::Changed { delta: granted, .. } = large.decide_commit(txn) else { panic!("it is decided") };
    let allocation = large.core.cell().allocations().next().expect("it was granted").id;
    // As if the cell had heard of the task before the claim.
    let found = |number| {
        let id = UnknownId { machine: machine.slot, allocation: AllocationId { slot: 7, generation: 1 } };
        let traces = Arc::new(TaskTraces { ports: ports(number), ..TaskTraces::default() });
        let task = UnknownTask { machine, traces, since: before.time(), until: None, stopping: false };
        let mut cell = before.clone();
        let heard = Delta { unknown: vec![(id, Some(Arc::new(task)))], ..next(&cell) };
        cell.apply(&heard).expect("it folds");
        let granted = Delta { revision: cell.revision().next(), ..granted.clone() };
        cell.apply(&granted).expect("it folds");
        invariant_no_unknown_task_has_a_granted_port(&cell, &granted)
    };
    assert_eq!(found(8081), Ok(()));
    let (revision, rule) = (before.revision().next().next(), "got a port that an unknown task has");
    assert_eq!(found(8080), Err(Violation::Special { revision, machine: machine.slot, allocation, rule }));
}

// That the task was to be placed was all that was looked at, and what leaves was taken to keep it from that.
#[test]
fn a_grant_beside_a_predecessor_that_leaves_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned());
    for single_instance in [false, true] {
        let job = large.job(GroupShape { count: 2, single_instance, ..GroupShape::default() });
        let granted = large.commit(vec![placement(job, 0..2, |_| machine.slot, 0)]).placements.concat();
        let allocation = granted[0].expect("it was granted");
        large.ask(Command::StopAllocation(allocation));
        let found = |cell: &Cell, task| {
            let grants = Grants { job, tasks: vec![task], ..Grants::default() };
            let delta = Delta { grants: vec![grants], ..next(cell) };
            invariant_single_instances_wait_for_their_predecessors(cell, &delta)
        };
        let cell = large.core.cell();
        let (revision, rule) = (cell.revision().next(), "still leaves, and its task was granted again");
        let broken = Err(Violation::Special { revision, machine: machine.slot, allocation, rule });
        assert_eq!(found(cell, 0), if single_instance { broken } else { Ok(()) });
        assert_eq!(found(cell, 1), Ok(()), "nothing of that one leaves");
        large.ask(Command::ReportStatus(vec![complete(machine, allocation)]));
        assert_eq!(found(large.core.cell(), 0), Ok(()), "it has ended");
    }
}

#[test]
fn a_second_instance_beside_an_unknown_task_is_found() {
    for single_instance in [true, false] {
        let mut large = Large::new(CoreOptions::default());
        let machine = large.machine("m1".to_owned());
        let job = large.job(GroupShape { count: 2, single_instance, ..GroupShape::default() });
        let before = large.core.cell().clone();
        let shape = before.job(job).expect("it is there").shape.clone();
        let placements = vec![placement(job, 0..1, |_| machine.slot, 0)];
        let txn = Transaction { base: before.revision(), placements, ..Transaction::default() };
        let Decided::Changed { delta: granted, .. } = large.decide_commit(txn) else { panic!("it is decided") };
        let allocation = large.core.cell().allocations().next().expect("it was granted").id;
        // As if the cell had heard of the task before the claim.
        let found = |task| {
            let id = UnknownId { machine: machine.slot, allocation: AllocationId { slot: 7, generation: 1 } };
            let (namespace, name, group) = (shape.namespace.clone(), shape.name.clone(), shape.groups[0].name.clone());
            let traces = Arc::new(TaskTraces { namespace, job: name, group, task, ..TaskTraces::default() });
            let unknown = UnknownTask { machine, traces, since: before.time(), until: None, stopping: false };
            let mut cell = before.clone();
            let heard = Delta { unknown: vec![(id, Some(Arc::new(unknown)))], ..next(&cell) };
            cell.apply(&heard).expect("it folds");
            let granted = Delta { revision: cell.revision().next(), ..granted.clone() };
            cell.apply(&granted).expect("it folds");
            invariant_single_instances_wait_for_their_predecessors(&cell, &granted)
        };
        let (revision, rule) =
            (before.revision().next().next(), "was granted while the same task runs unknown to the cell");
        let broken = Err(Violation::Special { revision, machine: machine.slot, allocation, rule });
        assert_eq!(found(0), if single_instance { broken } else { Ok(()) });
        assert_eq!(found(1), Ok(()), "it is another one");
    }
}

#[test]
fn a_port_that_two_allocations_of_a_machine_have_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let [first, second] = ["m1", "m2"].map(|name| large.machine(name.to_owned()).slot);
    let ports = vec![Port { name: "http".into(), number: 8080 }];
    let job = large.job(GroupShape { count: 2, ports, ..GroupShape::default() });
    large.commit(vec![placement(job, 0..1, |_| first, 0)]);
    let before = large.core.cell().clone();
    let placements = vec![placement(job, 1..2, |_| second, 0)];
    let txn = Transaction { base: before.revision(), placements, ..Transaction::default() };
    let Decided::Changed { delta: granted, .. } = large.decide_commit(txn) else { panic!("it is decided") };
    let (slots, generations) = (&granted.grants[0].slots, &granted.grants[0].generations);
    let allocation = AllocationId { slot: slots[0], generation: generations[0] };
    let found = |machine: u32| {
        let mut granted = granted.clone();
        granted.grants[0].machines = vec![machine];
        let mut cell = before.clone();
        cell.apply(&granted).expect("it folds");
        invariant_ports_are_held_once(&cell)
    };
    assert_eq!(found(second), Ok(()), "each has its own machine");
    let (revision, rule) = (granted.revision, "has a port that somebody else has");
    assert_eq!(found(first), Err(Violation::Special { revision, machine: first, allocation, rule }));
}

#[test]
fn an_unknown_task_that_the_cell_granted_there_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let [machine, other] = ["m1", "m2"].map(|name| large.machine(name.to_owned()));
    let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    let granted = large.commit(vec![placement(job, 0..1, |_| machine.slot, 0)]).placements.concat();
    let allocation = granted[0].expect("it was granted");
    let before = large.core.cell();
    let found = |on: MachineId, allocation| {
        let id = UnknownId { machine: on.slot, allocation };
        let traces = Arc::new(TaskTraces::default());
        let task = UnknownTask { machine: on, traces, since: before.time(), until: None, stopping: false };
        let mut cell = before.clone();
        let heard = Delta { unknown: vec![(id, Some(Arc::new(task)))], ..next(&cell) };
        cell.apply(&heard).expect("it folds");
        invariant_unknown_tasks_are_unknown(&cell)
    };
    let strange = AllocationId { slot: 7, generation: 1 };
    assert_eq!(found(machine, strange), Ok(()));
    assert_eq!(found(other, allocation), Ok(()), "it was granted elsewhere");
    let known = |on: MachineId, allocation| {
        Err(Violation::UnknownIsKnown { unknown: UnknownId { machine: on.slot, allocation } })
    };
    assert_eq!(found(machine, allocation), known(machine, allocation));
    let earlier = MachineId { generation: machine.generation + 1, ..machine };
    assert_eq!(found(earlier, strange), known(machine, strange), "its machine is another one");
}

#[test]
fn a_hold_of_a_job_that_is_over_or_of_a_machine_that_is_gone_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let [machine, gone] = ["m1", "m2"].map(|name| large.machine(name.to_owned()));
    let [waits, over] = [(); 2].map(|()| large.job(GroupShape { count: 1, ..GroupShape::default() }));
    large.ask(Command::RemoveMachine { machine: gone, unless_alive: false });
    large.ask(Command::StopJob { job: over, version: None });
    let before = large.core.cell();
    assert!(before.job(over).is_some_and(|job| job.state.is_final()) && before.machine_in(gone.slot).is_none());
    let found = |job, machine: MachineId| {
        let (resources, deadline) = (Resources::new(1, 1), LogTime::from_micros(60_000_000));
        let hold = Hold { machines: vec![machine.slot], resources, deadline, first_wait: before.revision() };
        let mut cell = before.clone();
        cell.apply(&Delta { holds: vec![(job, Some(hold))], ..next(&cell) }).expect("it folds");
        invariant_holds_are_of_live_jobs_on_machines_that_are_there(&cell)
    };
    assert_eq!(found(waits, machine), Ok(()));
    assert_eq!(found(over, machine), Err(Violation::HoldAstray { job: over }));
    assert_eq!(found(waits, gone), Err(Violation::HoldAstray { job: waits }));
}

// Builds that people run asserted nothing: a grant beyond what is free would have been acknowledged, and found by whoever verified the log one day.
#[test]
#[should_panic(expected = "breaks an invariant, and was not taken")]
fn a_decision_that_grants_more_than_is_free_is_taken_by_no_build() {
    let begun = || {
        let mut large = Large::new(CoreOptions::default());
        let machine = large.machine("m1".to_owned());
        let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
        (large, machine, job)
    };
    let (mut large, machine, job) = begun();
    let placements = vec![placement(job, 0..1, |_| machine.slot, 0)];
    let txn = Transaction { base: large.core.cell().revision(), placements, ..Transaction::default() };
    let Decided::Changed { delta, .. } = large.decide_commit(txn) else { panic!("it is decided") };
    // The same grant, of what no machine has.
    let mut too_much = Delta::clone(&delta);
    too_much.grants[0].shape = u32::try_from(large.core.cell().shapes().len()).expect("there are few");
    too_much.shapes.push(Resources::new(1, 1 << 50));
    let (mut other, ..) = begun();
    other.core.take_effect(&too_much);
}

// Grants, moves, ends and jobs were all that was looked at: a gang that was refused could lose the hold that it waited with.
#[test]
fn whatever_a_refused_transaction_changes_beside_its_record_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned());
    let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    large.hold(job, &[machine.slot], Resources::new(1, 1), LogTime::from_micros(60_000_000));
    // There is no such machine.
    let placements = vec![placement(job, 0..1, |_| machine.slot + 1, 0)];
    let txn = Transaction { base: large.core.cell().revision(), placements, ..Transaction::default() };
    let Decided::Changed { decision: Decision::Outcome(outcome), delta } = large.decide_commit(txn) else {
        panic!("it is decided")
    };
    assert_eq!(outcome.outcome, TransactionOutcome::Refused);
    let refused = || delta.clone();
    let session = large.core.cell().sessions().next().expect("it is open").id;
    let task = TaskChange { group_row: 0, task: 0, state: TaskState::Done, failures: 0 };
    let unknown = UnknownId { machine: machine.slot, allocation: AllocationId { slot: 7, generation: 1 } };
    let changed = [
        Delta { cell: Some(large.core.cell().identity().clone()), ..refused() },
        Delta { scheduler_names: vec!["another".into()], ..refused() },
        Delta { renamed: vec![(0, "another".into())], ..refused() },
        Delta { shapes: vec![Resources::new(2, 2)], ..refused() },
        Delta { reshaped: vec![(0, Resources::new(2, 2))], ..refused() },
        Delta { machines: large.core.cell().machines().cloned().collect(), ..refused() },
        Delta { tasks: vec![task], ..refused() },
        Delta { sessions: vec![SessionChange::Closed(session)], ..refused() },
        Delta { quotas: vec![("default".into(), None)], ..refused() },
        Delta { holds: vec![(job, None)], ..refused() },
        Delta { partitions: vec![("lab".into(), None)], ..refused() },
        Delta { unknown: vec![(unknown, None)], ..refused() },
        Delta { paused: vec![("batch".into(), true)], ..refused() },
        Delta { rights: vec![("batch".into(), Rights::default())], ..refused() },
    ];
    let found = |delta: &Delta| invariant_refused_has_no_effect(&outcome, delta);
    assert_eq!(found(&delta), Ok(()));
    for changed in &changed {
        assert_eq!(found(changed), Err(Violation::RefusedHadEffect { revision: outcome.revision }), "{changed:?}");
    }
}

#[test]
fn a_report_that_lets_a_task_run_again_that_is_done_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned());
    let job = large.job(GroupShape { count: 2, ..GroupShape::default() });
    let ids = large.commit(vec![placement(job, 0..2, |_| machine.slot, 0)]).placements.concat();
    large.ask(Command::ReportStatus(vec![complete(machine, ids[0].expect("it was granted"))]));
    let before = large.core.cell().clone();
    let group_row = before.job(job).expect("it was submitted").group_base;
    let again = |task| {
        let change = TaskChange { group_row, task, state: TaskState::Waiting, failures: 0 };
        Delta { tasks: vec![change], ..next(&before) }
    };
    let (report, revision) = (Command::ReportStatus(Vec::new()), before.revision().next());
    let found = |command: &Command, task| invariant_reports_undo_nothing(&before, command, &again(task));
    assert_eq!(found(&report, 0), Err(Violation::DoneUndone { revision, group_row, task: 0 }));
    assert_eq!(found(&report, 1), Ok(()), "it was not done");
    assert_eq!(found(&Command::Tick, 0), Ok(()), "its machine is lost");
}

#[test]
fn a_job_that_is_changed_though_another_version_was_expected_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    let cell = large.core.cell();
    let (shape, revision) = (cell.job(job).expect("it was submitted").shape.clone(), cell.revision().next());
    let asked = |expected| {
        let (shape, body) = (shape.clone(), Arc::new([]));
        [
            Command::SubmitJob { shape, body, body_digest: [0; 32], expected_version: expected },
            Command::StopJob { job, version: expected },
            Command::ScaleJob { job, version: expected, group: 0, count: 2 },
        ]
    };
    for (expected, is_there) in [(None, true), (Some(1), true), (Some(0), false), (Some(2), false)] {
        for command in asked(expected) {
            let found = invariant_what_was_expected_was_there(cell, &command, revision);
            let violation = Violation::Unexpected { revision, expected: expected.unwrap_or(0), found: 1 };
            assert_eq!(found, if is_there { Ok(()) } else { Err(violation) }, "{command:?}");
        }
    }
}
