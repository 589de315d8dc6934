//! Building a cell from its rows, as pages of a snapshot or a checkpoint bring them, and deriving the rest from scratch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::extras::Turnover;
use super::{Cell, JobSlot, MachineSlot};
use crate::delta::Subject;
use crate::name_index::NameIndex;
use crate::{
    AllocationExtra, AllocationRow, AllocationState, AllocationStatus, Attributes, CellIdentity, GroupRow, Hold, Job,
    JobId, LogTime, Machine, MachineId, MachineRow, Partition, Quota, Resources, Revision, Rights, Session, TaskPast,
    TaskRow, TaskState, UnknownId, UnknownTask,
};

/// Rows that are brought into the cache at a time: so many that their loads overlap, so few that they are still there when needed.
const WARM_AHEAD: u32 = 64;

/// A cell in the making. Rows come in any order; `finish` checks them against each other.
#[derive(Debug)]
pub struct Restore {
    cell: Cell,
    governance: Governance,
}

/// The small tables.
#[derive(Clone, Debug, Default)]
pub struct Governance {
    /// By namespace.
    pub quotas: Vec<(Arc<str>, Quota)>,
    /// By job.
    pub holds: Vec<(JobId, Hold)>,
    /// By name.
    pub partitions: Vec<(Arc<str>, Partition)>,
    /// Tasks that agents found and the cell does not know.
    pub unknown: Vec<(UnknownId, Arc<UnknownTask>)>,
    /// Names of schedulers that are kept out.
    pub paused: Vec<Arc<str>>,
    /// Of schedulers, by name.
    pub rights: Vec<(Arc<str>, Rights)>,
}

/// One row of the table of allocations.
#[derive(Clone, Debug)]
pub struct RestoredAllocation {
    /// Its slot.
    pub slot: u32,
    /// What was granted; only the generation counts where it is free.
    pub row: AllocationRow,
    /// Where it stands.
    pub status: AllocationStatus,
    /// What few have.
    pub extra: Option<AllocationExtra>,
}

/// Rows that do not fit each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreError {
    /// What does not fit.
    pub subject: Subject,
    /// Why.
    pub fault: &'static str,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.subject, self.fault)
    }
}

impl std::error::Error for RestoreError {}

impl Restore {
    /// Begins with what the cell has once.
    #[must_use]
    pub fn new(
        revision: Revision,
        time: LogTime,
        identity: CellIdentity,
        scheduler_names: Vec<Arc<str>>,
        shapes: Vec<Resources>,
        filling: Option<u32>,
    ) -> Self {
        let numbers = (0..).zip(&shapes).map(|(number, &shape)| (shape, number)).collect();
        let cell = Cell {
            revision,
            time,
            machines_by_name: NameIndex::of_cell(identity.cell_id),
            identity: Arc::new(identity),
            scheduler_names: Arc::new(scheduler_names),
            shape_numbers: Arc::new(numbers),
            shapes: Arc::new(shapes),
            filling,
            ..Cell::default()
        };
        Self { cell, governance: Governance::default() }
    }

    /// The number of the class of machines with these attributes.
    pub fn class(&mut self, attributes: &Arc<Attributes>) -> u32 {
        self.cell.class_of(attributes)
    }

    /// A machine that is there, of a class that [`Restore::class`] gave for its attributes.
    pub fn machine(&mut self, machine: &Machine, class: u32, last_change: Revision) {
        self.cell.put_machine_of(machine, class);
        self.cell.machines.get_mut(machine.id.slot).last_change = last_change;
    }

    /// A slot whose machine is gone: its generation.
    pub fn gone(&mut self, id: MachineId, last_change: Revision) {
        *self.cell.machine_slots.get_mut(id.slot) = MachineSlot { generation: id.generation, machine: None };
        self.cell.machines.get_mut(id.slot).last_change = last_change;
    }

    /// A slot of the table of jobs: its generation, and the job if there is one.
    pub fn job(&mut self, slot: u32, generation: u32, job: Option<Arc<Job>>) {
        *self.cell.jobs.get_mut(slot) = JobSlot { generation, job };
    }

    /// A row of the table of groups. Its counters are derived.
    pub fn group(&mut self, row: u32, task_base: u32, count: u32, not_before: LogTime) {
        *self.cell.groups.get_mut(row) = GroupRow { task_base, count, not_before, ..GroupRow::default() };
    }

    /// A row of the table of tasks.
    pub fn task(&mut self, row: u32, task: TaskRow) {
        let TaskRow { allocation, attempts, state, failures } = task;
        self.cell.put_task(row, TaskPast { allocation, attempts, failures }, state);
    }

    /// A row of the table of allocations.
    pub fn allocation(&mut self, allocation: RestoredAllocation) {
        let RestoredAllocation { slot, row, status, extra } = allocation;
        *self.cell.allocations.get_mut(slot) = row;
        *self.cell.statuses.get_mut(slot) = status.into();
        if let Some(extra) = extra {
            self.cell.keep_extra(slot, extra);
        }
    }

    /// Quotas, holds, partitions, unknown tasks, paused schedulers and rights.
    pub fn governance(&mut self, governance: Governance) {
        self.governance = governance;
    }

    /// A session.
    pub fn session(&mut self, session: Session) {
        Arc::make_mut(&mut self.cell.sessions).insert(session.id, Arc::new(session));
    }

    /// Derives rooms and counters, and checks that the rows fit each other.
    ///
    /// # Errors
    /// Names the first row that refers to something that is not there.
    pub fn finish(self) -> Result<Cell, RestoreError> {
        let mut cell = self.cell;
        derive_names(&mut cell)?;
        derive_groups(&mut cell)?;
        derive_rooms(&mut cell)?;
        check_live(&cell)?;
        check_blocked(&cell)?;
        derive_uses(&mut cell)?;
        let governance = self.governance;
        cell.quotas = Arc::new(governance.quotas.into_iter().collect());
        cell.partitions = Arc::new(governance.partitions.into_iter().collect());
        cell.paused = Arc::new(governance.paused.into_iter().collect());
        cell.rights = Arc::new(governance.rights.into_iter().collect());
        governance.holds.iter().for_each(|(job, hold)| cell.put_hold(*job, Some(hold), None));
        let mut turnover = Turnover::default();
        for (id, task) in governance.unknown {
            let there = cell.put_unknown(id, Some(&task), &mut turnover).is_ok();
            if !there {
                return fault(Subject::Unknown(id), "is on a machine that is not there");
            }
        }
        cell.count_turnover(turnover);
        Ok(cell)
    }
}

fn fault<T>(subject: Subject, fault: &'static str) -> Result<T, RestoreError> {
    Err(RestoreError { subject, fault })
}

/// Finds jobs by name. Of jobs and of machines each has one of its own.
fn derive_names(cell: &mut Cell) -> Result<(), RestoreError> {
    let twice = "has the name of another one";
    let mut names = NameIndex::of_cell(cell.identity.cell_id);
    let name_of = |slot| super::job_name_in(&cell.jobs, slot);
    for job in cell.jobs() {
        let name = super::name_of_job(job);
        if names.find(name, name_of).is_some() {
            return fault(Subject::Job(job.id), twice);
        }
        names.insert(job.id.slot, name, name_of);
    }
    let is_another =
        |machine: &&Arc<Machine>| cell.machine_named(&machine.name).map(|found| found.id) != Some(machine.id);
    if let Some(machine) = cell.machines().find(is_another) {
        return fault(Subject::Machine(machine.id), twice);
    }
    cell.jobs_by_name = names;
    Ok(())
}

/// Counts tasks by state, and ties groups to their jobs.
fn derive_groups(cell: &mut Cell) -> Result<(), RestoreError> {
    let jobs: Vec<_> = cell.jobs().cloned().collect();
    let mut owners = BTreeMap::new();
    for job in &jobs {
        for (row, position) in (job.group_base..).zip(job.group_positions()) {
            if owners.insert(row, job.id).is_some() {
                return fault(Subject::GroupRow(row), "belongs to two jobs");
            }
            let Some(&group) = cell.groups.get(row) else {
                return fault(Subject::GroupRow(row), "of a job is missing");
            };
            let mut tasks = [0; TaskState::ALL.len()];
            for task in 0..group.count {
                let Some(&state) = group.task_base.checked_add(task).and_then(|row| cell.task_states.get(row)) else {
                    return fault(Subject::Task(row, task), "of a group is missing");
                };
                tasks[state as usize] += 1;
            }
            let shape = &job.shape.groups[usize::from(position)];
            let row = cell.groups.get_mut(row);
            row.job_slot = job.id.slot;
            row.tasks = tasks;
            row.single_instance = shape.single_instance;
            row.same_machine = job.shape.same_machine;
            row.position = position;
        }
    }
    Ok(())
}

/// Takes the room of all live allocations, and counts those that leave.
fn derive_rooms(cell: &mut Cell) -> Result<(), RestoreError> {
    let end = cell.statuses.len();
    for first in (0..end).step_by(WARM_AHEAD as usize) {
        let slots = first..end.min(first.saturating_add(WARM_AHEAD));
        cell.warm_ends(slots.clone());
        for slot in slots {
            let found = cell.allocation_in(slot).map(|found| (*found.row, found.status.state));
            if let Some((row, state)) = found {
                derive_room(cell, slot, &row, state)?;
            }
        }
    }
    Ok(())
}

fn derive_room(cell: &mut Cell, slot: u32, row: &AllocationRow, state: AllocationState) -> Result<(), RestoreError> {
    let subject = Subject::Allocation(row.id(slot));
    let Some(&shape) = cell.shapes.get(row.shape as usize) else {
        return fault(subject, "has a shape that is not known");
    };
    if usize::from(row.scheduler) >= cell.scheduler_names.len() {
        return fault(subject, "is of a scheduler that is not known");
    }
    let Some(&MachineRow { last_change, .. }) = cell.machine_row(row.machine) else {
        return fault(subject, "is on a machine that is not there");
    };
    let group = cell.job(row.job()).and_then(|job| job.group_row(row.group));
    if group != Some(row.group_row) {
        return fault(subject, "is of a group that is not there");
    }
    cell.take_room(row.machine, &shape, shape.is_plain());
    cell.machines.get_mut(row.machine).last_change = last_change;
    cell.live += 1;
    check_task(cell, slot, row, state)
}

/// Gives the room that was taken over, and notes what is in use beyond room.
fn derive_uses(cell: &mut Cell) -> Result<(), RestoreError> {
    let extras: Vec<_> = cell.extras().map(|(slot, extra)| (slot, extra.takes_over.clone())).collect();
    for (slot, takes_over) in extras {
        let Some(machine) = cell.allocation_in(slot).map(|found| found.row.machine) else {
            return fault(Subject::AllocationSlot(slot), "has devices, ports or a reason, and is not live");
        };
        for entry in takes_over {
            let victim = cell.allocation(entry.victim);
            if !victim.is_some_and(|victim| victim.row.machine == machine && victim.status.state.is_leaving()) {
                return fault(Subject::Allocation(entry.victim), "is taken over from, and is not leaving there");
            }
            cell.give_amount(machine, &entry.amount);
        }
        cell.seat(machine, slot);
    }
    Ok(())
}

/// Each task that is live has an allocation. Each of these is named by its task, as was seen before: where both are as many, no task need be asked.
fn check_live(cell: &Cell) -> Result<(), RestoreError> {
    let allocations = |group: &GroupRow| u64::from(group.tasks_in(TaskState::Live)) + u64::from(group.leaving);
    if cell.groups.iter().map(allocations).sum::<u64>() == u64::from(cell.live) {
        return Ok(());
    }
    for (row, group) in (0..).zip(cell.groups.iter()).filter(|(_, group)| group.tasks_in(TaskState::Live) > 0) {
        let is_live = |&task: &u32| cell.task_state(group, task) == Some(TaskState::Live);
        let mut live = (0..group.count).filter(is_live);
        if let Some(task) = live.find(|&task| cell.active_allocation(row, task).is_none()) {
            return fault(Subject::Task(row, task), "is live, and has no allocation");
        }
    }
    Ok(())
}

/// Each task that is blocked waits for an allocation of it that leaves, as its group has single instances.
fn check_blocked(cell: &Cell) -> Result<(), RestoreError> {
    let has_blocked = |group: &GroupRow| group.tasks_in(TaskState::Blocked) > 0;
    // Nearly always none has.
    if !cell.groups.iter().any(has_blocked) {
        return Ok(());
    }
    let leaving = cell.allocations().filter(|found| found.status.state.is_leaving());
    let mut leaving: Vec<_> = leaving.map(|found| (found.row.group_row, found.row.task)).collect();
    leaving.sort_unstable();
    for (row, group) in (0..).zip(cell.groups.iter()).filter(|&(_, group)| has_blocked(group)) {
        let is_blocked = |&task: &u32| cell.task_state(group, task) == Some(TaskState::Blocked);
        let waits = |task: u32| group.single_instance && leaving.binary_search(&(row, task)).is_ok();
        let mut blocked = (0..group.count).filter(is_blocked);
        if let Some(task) = blocked.find(|&task| !waits(task)) {
            return fault(Subject::Task(row, task), "is blocked, and waits for no allocation that leaves");
        }
    }
    Ok(())
}

fn check_task(cell: &mut Cell, slot: u32, row: &AllocationRow, state: AllocationState) -> Result<(), RestoreError> {
    if state.is_leaving() {
        cell.groups.get_mut(row.group_row).leaving += 1;
        return Ok(());
    }
    let task = cell.groups.get(row.group_row).and_then(|group| cell.task(group, row.task));
    let named = task.is_some_and(|task| task.allocation == slot + 1 && task.state == TaskState::Live);
    if named { Ok(()) } else { fault(Subject::Allocation(row.id(slot)), "is not named by its task") }
}
