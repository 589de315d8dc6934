//! Stories of the cell: what it takes from a delta, and what not.

use std::sync::Arc;

use super::apply::ROWS_AHEAD_MAX;
use crate::delta::Subject;
use crate::{
    AllocationId, AllocationState, AllocationStatus, Attributes, BootId, CUSTOM_RESOURCES, Cell, CellIdentity, Delta,
    End, FoldError, Grants, GroupShape, Hold, Job, JobChange, JobId, JobShape, JobState, LogTime, Machine, MachineId,
    MachineState, Move, Resource, Resources, Restore, Revision, TaskChange, TaskState, TaskTraces, UnknownId,
    UnknownTask, floor_of,
};

fn machine(slot: u32) -> Arc<Machine> {
    Arc::new(Machine {
        id: MachineId { slot, generation: 1 },
        name: format!("m{slot}").into(),
        state: MachineState::Ready,
        cordoned: false,
        unfit: None,
        epoch: 1,
        capacity: Arc::default(),
        attributes: Arc::new(Attributes::new()),
        devices: Arc::default(),
        boot_id: BootId::from("boot"),
        since: LogTime::default(),
        drain_deadline: None,
        registered: LogTime::default(),
        epoch_began: Revision(1),
    })
}

/// A job of one group, in these rows.
fn job(slot: u32, group_base: u32) -> JobChange {
    job_of(slot, group_base, GroupShape::default().count)
}

/// The same, of so many tasks.
fn job_of(slot: u32, group_base: u32, count: u32) -> JobChange {
    let name = format!("job-{slot}").into();
    let shape = JobShape { name, groups: vec![GroupShape { count, ..GroupShape::default() }], ..JobShape::default() };
    let job = Job {
        id: JobId { slot, generation: 1 },
        version: 1,
        shape: Arc::new(shape),
        body: None,
        body_digest: [0; 32],
        submitted: LogTime::default(),
        state: JobState::Running,
        state_since: LogTime::default(),
        reason: Arc::default(),
        group_base,
        home: None,
        last_instant_micros: None,
    };
    JobChange::Put { job: Arc::new(job), task_bases: vec![0] }
}

/// What a cell of one machine makes of a delta.
fn fold(delta: impl Fn(Delta) -> Delta) -> Result<(), Subject> {
    let mut cell = Cell::default();
    let next = |cell: &Cell| Delta::new(cell.revision().next(), cell.time());
    assert_eq!(cell.apply(&Delta { machines: vec![machine(0)], ..next(&cell) }), Ok(()));
    cell.apply(&delta(next(&cell))).map_err(|error| match error {
        FoldError::Subject { subject, .. } => subject,
        other => panic!("{other}"),
    })
}

// A delta of some forty bytes made a mirror grow by six megabytes, and who keeps columns of machines by a thousand times that.
#[test]
fn a_row_far_behind_all_others_is_refused() {
    let machine_in = |slot| fold(|delta| Delta { machines: vec![machine(slot)], ..delta });
    assert_eq!(machine_in(ROWS_AHEAD_MAX + 1), Ok(()));
    assert!(matches!(machine_in(ROWS_AHEAD_MAX + 2), Err(Subject::Machine(_))));
    let job_in = |slot, row| fold(|delta| Delta { jobs: vec![job(slot, row)], ..delta });
    assert_eq!(job_in(ROWS_AHEAD_MAX, ROWS_AHEAD_MAX), Ok(()));
    assert!(matches!(job_in(1 << 25, 0), Err(Subject::Job(_))));
    assert!(matches!(job_in(0, 1 << 25), Err(Subject::GroupRow(_))));
}

#[test]
fn what_is_said_of_a_machine_far_behind_all_others_is_refused() {
    let hold = |machines: &[u32]| Hold {
        machines: machines.to_vec(),
        resources: Resources::new(1, 1),
        deadline: LogTime::default(),
        first_wait: Revision(1),
    };
    let held = |machines: &[u32]| {
        fold(|delta| Delta { holds: vec![(JobId { slot: 0, generation: 1 }, Some(hold(machines)))], ..delta })
    };
    assert_eq!(held(&[0]), Ok(()));
    assert!(matches!(held(&[0, 1 << 25]), Err(Subject::Job(_))));
    let gone = |machine| {
        let id = UnknownId { machine, allocation: crate::AllocationId { slot: 0, generation: 1 } };
        fold(|delta| Delta { unknown: vec![(id, None)], ..delta })
    };
    assert_eq!(gone(0), Ok(()));
    assert!(matches!(gone(1 << 25), Err(Subject::Unknown(_))));
}

// Such deltas were folded, and counted below nothing later: a mirror of a server gone wrong ended, or believed that millions of tasks wait.
#[test]
fn rows_of_groups_and_tasks_that_are_others_are_refused() {
    let mut cell = Cell::default();
    let next = |cell: &Cell| Delta::new(cell.revision().next(), cell.time());
    let begin = Delta {
        machines: vec![machine(0)],
        shapes: vec![Resources::new(1, 1)],
        scheduler_names: vec!["batch".into()],
        jobs: vec![job_of(0, 0, 1), job_of(1, 1, 1)],
        ..next(&cell)
    };
    assert_eq!(cell.apply(&begin), Ok(()));
    let told = |delta: Delta| cell.clone().apply(&delta).map_err(|error| error.to_string());
    let granted = |slot, group_row, group| Grants {
        job: JobId { slot, generation: 1 },
        group,
        group_row,
        machines: vec![0],
        tasks: vec![0],
        slots: vec![0],
        generations: vec![1],
        ..Grants::default()
    };
    let other_row = "revision 2: GroupRow(1) is not that of the group that is granted".to_owned();
    assert_eq!(told(Delta { grants: vec![granted(1, 1, 0)], ..next(&cell) }), Ok(()));
    assert_eq!(told(Delta { grants: vec![granted(0, 1, 0)], ..next(&cell) }), Err(other_row.clone()));
    assert_eq!(told(Delta { grants: vec![granted(1, 1, 1)], ..next(&cell) }), Err(other_row));
    let taken = "revision 2: GroupRow(1) is another job's".to_owned();
    assert_eq!(told(Delta { jobs: vec![job_of(2, 1, 1)], ..next(&cell) }), Err(taken));
    // Both jobs have the same task: one says that it is done, and the other one then that a task of its own is not.
    let change = |group_row, state| TaskChange { group_row, task: 0, state, failures: 0 };
    let tasks = vec![change(0, TaskState::Done), change(1, TaskState::Waiting)];
    let fewer = "revision 2: GroupRow(1) has fewer tasks in a state than leave it".to_owned();
    assert_eq!(told(Delta { tasks, ..next(&cell) }), Err(fewer.clone()));
    let tasks = vec![change(0, TaskState::Done)];
    let row = JobChange::Group { row: 1, count: 0, not_before: LogTime::default(), task_base: 0 };
    let mut done = cell.clone();
    assert_eq!(done.apply(&Delta { tasks, ..next(&cell) }), Ok(()));
    // Who leaves has given its task up: if it is moved back, its end is not that of a task that is live.
    let moved = |state| Move { slot: 0, status: AllocationStatus { state, ready: false }, restarts: 0, reason: None };
    let mut left = cell.clone();
    assert_eq!(left.apply(&Delta { grants: vec![granted(1, 1, 0)], ..next(&cell) }), Ok(()));
    assert_eq!(left.apply(&Delta { moves: vec![moved(AllocationState::Stopping)], ..next(&left) }), Ok(()));
    assert_eq!(left.apply(&Delta { moves: vec![moved(AllocationState::Running)], ..next(&left) }), Ok(()));
    let end = End { slot: 0, state: AllocationState::Complete, exit_code: 0, reason: None };
    let ended = left.apply(&Delta { ends: vec![end], ..next(&left) }).map_err(|error| error.to_string());
    assert_eq!(ended, Err(fewer.replace("revision 2", "revision 5")));
    let shrunk = done.apply(&Delta { jobs: vec![row], ..next(&done) }).map_err(|error| error.to_string());
    assert_eq!(shrunk, Err(fewer.replace("revision 2", "revision 3")));
}

// All names of jobs were copied by the first change after each snapshot: this took minutes.
#[test]
fn jobs_that_come_and_go_between_snapshots_are_found_by_name_at_little_cost() {
    const JOBS: u32 = 30_000;
    let mut cell = Cell::default();
    let mut snapshot = cell.clone();
    let mut fold = |cell: &mut Cell, change: JobChange| {
        snapshot = cell.clone();
        let delta = Delta::new(cell.revision().next(), cell.time());
        assert_eq!(cell.apply(&Delta { jobs: vec![change], ..delta }), Ok(()));
        snapshot.revision()
    };
    for slot in 0..JOBS {
        fold(&mut cell, job(slot, slot));
    }
    let id = |slot| JobId { slot, generation: 1 };
    for slot in (0..JOBS).step_by(2) {
        fold(&mut cell, JobChange::Removed(id(slot)));
    }
    // One that is put again keeps its name.
    fold(&mut cell, job(1, 1));
    for slot in 0..JOBS {
        let found = cell.job_named("", &format!("job-{slot}")).map(|job| job.id);
        assert_eq!(found, (slot % 2 == 1).then(|| id(slot)));
    }
    assert_eq!(cell.first_difference(&cell), None);
}

#[test]
fn names_are_looked_up_by_the_id_of_the_cell_whether_it_is_folded_or_restored() {
    let identity = |id| CellIdentity { cell_id: [id; 16], ..CellIdentity::default() };
    let keys = |cell: &Cell| [cell.machines_by_name.key(), cell.jobs_by_name.key()];
    let mut cell = Cell::default();
    let first = Delta { machines: vec![machine(0)], jobs: vec![job(0, 0)], ..Delta::new(Revision(1), cell.time()) };
    assert_eq!(cell.apply(&first), Ok(()));
    assert_eq!(cell.apply(&Delta { cell: Some(identity(7)), ..Delta::new(Revision(2), cell.time()) }), Ok(()));
    assert_eq!(keys(&cell), [[7; 16]; 2]);
    let found =
        (cell.machine_named("m0").map(|found| found.id.slot), cell.job_named("", "job-0").map(|job| job.id.slot));
    assert_eq!(found, (Some(0), Some(0)));
    let restore = Restore::new(Revision(1), LogTime::default(), identity(9), Vec::new(), Vec::new(), None);
    assert_eq!(keys(&restore.finish().expect("it is empty")), [[9; 16]; 2]);
}

// Each renewal of a hold of thousands of machines counted as a change of all of them.
#[test]
fn a_hold_that_is_renewed_changes_those_machines_only_on_which_it_takes_something_else() {
    let mut cell = Cell::default();
    let machines = [0, 1, 2].map(machine).to_vec();
    assert_eq!(cell.apply(&Delta { machines, ..Delta::new(Revision(1), cell.time()) }), Ok(()));
    let mut hold = |machines: &[u32], cpu_millis, seconds| {
        let hold = Hold {
            machines: machines.to_vec(),
            resources: Resources::new(cpu_millis, 1),
            deadline: LogTime::from_micros(seconds),
            first_wait: Revision(2),
        };
        let delta = Delta::new(cell.revision().next(), cell.time());
        let holds = vec![(JobId { slot: 0, generation: 1 }, Some(hold))];
        assert_eq!(cell.apply(&Delta { holds, ..delta }), Ok(()));
        [0, 1, 2].map(|slot| cell.machine_row(slot).expect("it is there").last_change.0)
    };
    assert_eq!(hold(&[0, 1], 5, 60), [2, 2, 1]);
    assert_eq!(hold(&[0, 1], 5, 120), [2, 2, 1], "it is renewed");
    assert_eq!(hold(&[1, 2], 5, 120), [2, 2, 4], "what is given back is in nobody's way");
    assert_eq!(hold(&[1, 2], 6, 120), [2, 5, 5]);
    assert_eq!(hold(&[0, 1, 2], 4, 120), [6, 5, 5], "it takes less where it was");
}

// Two gangs that held what was free blocked each other for ever: neither saw what it might take from the other one.
#[test]
fn a_hold_may_have_what_later_ones_have_and_nothing_of_those_that_come_first() {
    let mut cell = Cell::default();
    let of_band = |slot, band: u8| match job(slot, slot) {
        JobChange::Put { job, task_bases } => {
            let shape = JobShape { priority: 10 * band, ..(*job.shape).clone() };
            JobChange::Put { job: Arc::new(Job { shape: Arc::new(shape), ..(*job).clone() }), task_bases }
        }
        other => other,
    };
    let jobs = vec![of_band(0, 5), of_band(1, 5), of_band(2, 7), of_band(3, 5)];
    let rows = Delta { machines: vec![machine(0)], jobs, ..Delta::new(Revision(1), cell.time()) };
    assert_eq!(cell.apply(&rows), Ok(()));
    let id = |slot| JobId { slot, generation: 1 };
    let hold = |first_wait, cpu_millis| Hold {
        machines: vec![0],
        resources: Resources::new(cpu_millis, 0),
        deadline: LogTime::default(),
        first_wait: Revision(first_wait),
    };
    let holds = vec![(id(0), Some(hold(2, 1))), (id(1), Some(hold(3, 10))), (id(2), Some(hold(4, 100)))];
    assert_eq!(cell.apply(&Delta { holds, ..Delta::new(Revision(2), cell.time()) }), Ok(()));
    let free = cell.room(0).0[0];
    let others = |slot| free - cell.room_to_hold(0, id(slot)).0[0];
    assert_eq!([0, 1, 2].map(others), [100, 101, 0], "by band, then by first wait");
    assert_eq!(others(3), 111, "it has none yet, and comes last of its band");
    assert_eq!(others(9), 111, "the cell does not have it");
}

#[test]
fn a_task_that_the_cell_does_not_know_changes_its_machine_when_it_comes_and_not_when_it_goes() {
    let mut cell = Cell::default();
    assert_eq!(cell.apply(&Delta { machines: vec![machine(0)], ..Delta::new(Revision(1), cell.time()) }), Ok(()));
    let found = UnknownTask {
        machine: machine(0).id,
        traces: Arc::default(),
        since: LogTime::default(),
        until: Some(LogTime::from_micros(1)),
        stopping: false,
    };
    let told = UnknownTask { stopping: true, ..found.clone() };
    let last_change = |task: Option<UnknownTask>| {
        let id = UnknownId { machine: 0, allocation: AllocationId { slot: 0, generation: 1 } };
        let delta = Delta::new(cell.revision().next(), cell.time());
        assert_eq!(cell.apply(&Delta { unknown: vec![(id, task.map(Arc::new))], ..delta }), Ok(()));
        cell.machine_row(0).expect("it is there").last_change.0
    };
    assert_eq!([Some(found), Some(told), None].map(last_change), [2, 2, 2]);
}

// What single instances wait for was compared with checkpoints alone: a wrong count would have kept them waiting, or not, until somebody verified.
#[test]
fn machines_that_were_not_heard_since_a_restore_are_counted_as_their_rows_say() {
    let mut cell = Cell::default();
    let next = |cell: &Cell| Delta::new(cell.revision().next(), cell.time());
    let counted = |cell: &Cell| (cell.unheard_machines(), cell.unheard_machines_derived());
    assert_eq!(cell.apply(&Delta { machines: (0..4).map(machine).collect(), ..next(&cell) }), Ok(()));
    assert_eq!(counted(&cell), (0, 0), "it was never restored");
    let identity = CellIdentity { incarnation: 2, ..CellIdentity::default() };
    assert_eq!(cell.apply(&Delta { cell: Some(identity), ..next(&cell) }), Ok(()));
    assert_eq!(counted(&cell), (4, 4));
    let changed = [
        Machine { epoch: floor_of(2) + 1, ..Machine::clone(&machine(0)) },
        Machine { state: MachineState::Unreachable, ..Machine::clone(&machine(1)) },
        Machine { state: MachineState::Gone, ..Machine::clone(&machine(2)) },
    ];
    for (left, machine) in [3, 2, 1].into_iter().zip(changed) {
        assert_eq!(cell.apply(&Delta { machines: vec![Arc::new(machine)], ..next(&cell) }), Ok(()));
        assert_eq!(counted(&cell), (left, left));
    }
    cell.unheard = 0;
    assert_eq!(counted(&cell), (0, 1), "it was counted wrongly");
}

#[test]
fn an_unknown_task_that_is_not_found_by_its_names_is_told_and_so_is_one_that_is_no_more() {
    let id = |slot| UnknownId { machine: 0, allocation: AllocationId { slot, generation: 1 } };
    let task = |number| {
        let traces = Arc::new(TaskTraces { task: number, ..TaskTraces::default() });
        let (since, until) = (LogTime::default(), None);
        Arc::new(UnknownTask { machine: machine(0).id, traces, since, until, stopping: false })
    };
    let mut cell = Cell::default();
    let found = (0..3).map(|slot| (id(slot), Some(task(slot)))).collect();
    let first = Delta { machines: vec![machine(0)], unknown: found, ..Delta::new(Revision(1), cell.time()) };
    assert_eq!(cell.apply(&first), Ok(()));
    assert_eq!(cell.misnamed_unknown(), None);
    let misnamed = |wrong: &dyn Fn(&mut Cell)| {
        let mut cell = cell.clone();
        wrong(&mut cell);
        cell.misnamed_unknown()
    };
    assert_eq!(misnamed(&|cell| drop(Arc::make_mut(&mut cell.unknown).remove(&id(1)))), Some(id(1)), "it is gone");
    let other = |cell: &mut Cell| drop(Arc::make_mut(&mut cell.unknown).insert(id(2), task(7)));
    assert_eq!(misnamed(&other), Some(id(2)), "it is another task");
    let nowhere = |cell: &mut Cell| drop(Arc::make_mut(&mut cell.unknown_by_name).pop_first());
    assert_eq!(misnamed(&nowhere), Some(id(0)), "it has no name");
}

#[test]
fn when_a_machine_changed_last_is_compared_unless_another_version_counted_it() {
    let cell_of = |last_change| {
        let mut restore =
            Restore::new(Revision(5), LogTime::default(), CellIdentity::default(), Vec::new(), Vec::new(), None);
        let class = restore.class(&machine(0).attributes);
        restore.machine(&machine(0), class, Revision(last_change));
        restore.finish().expect("its rows fit each other")
    };
    let (cell, other) = (cell_of(3), cell_of(4));
    assert!(cell.first_difference(&other).is_some());
    assert_eq!(cell.first_difference_but_last_changes(&other), None);
}

#[test]
fn what_a_job_holds_is_taken_from_others_in_whichever_resource_it_is() {
    let capacity = Resources { disk_bytes: 8, custom: [8; CUSTOM_RESOURCES], ..Resources::new(8, 8) };
    let roomy = Machine { capacity: Arc::new(capacity), ..Machine::clone(&machine(0)) };
    let id = |slot| JobId { slot, generation: 1 };
    for resource in Resource::ALL {
        let mut all_of_it = Resources::default();
        match resource {
            Resource::CpuMillis => all_of_it.cpu_millis = 8,
            Resource::MemoryBytes => all_of_it.memory_bytes = 8,
            Resource::DiskBytes => all_of_it.disk_bytes = 8,
            Resource::Custom(place) => all_of_it.custom[usize::from(place)] = 8,
        }
        let hold =
            Hold { machines: vec![0], resources: all_of_it, deadline: LogTime::default(), first_wait: Revision(1) };
        let mut cell = Cell::default();
        let first = Delta { machines: vec![Arc::new(roomy.clone())], ..Delta::new(Revision(1), cell.time()) };
        assert_eq!(cell.apply(&first), Ok(()));
        let second = Delta { holds: vec![(id(0), Some(hold))], ..Delta::new(Revision(2), cell.time()) };
        assert_eq!(cell.apply(&second), Ok(()));
        for each in Resource::ALL {
            let left = if each == resource { 0 } else { 8 };
            assert_eq!(cell.room_for(0, id(1)).get(each), left, "{each} beside a hold of {resource}");
            assert_eq!(cell.room_for(0, id(0)).get(each), 8, "{each} for the holder of {resource}");
        }
    }
}
