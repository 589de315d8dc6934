//! Folding deltas into the cell. Decides nothing, and derives only what the delta leaves out: rooms, counters, attempts.

use std::fmt;
use std::sync::Arc;

use super::{Cell, MachineSlot};
use crate::delta::Subject;
use crate::planted::{self, Bug};
use crate::session::{DecidedNumber, NUMBERS_KEPT};
use crate::{
    AllocationRow, AllocationState, AllocationStatus, CellIdentity, Delta, End, Grants, LogTime, Machine, MachineState,
    Move, Resources, Revision, Room, STEPS_AHEAD, Session, SessionChange, SessionId, StatusByte, TaskChange, TaskState,
    coming, floor_of,
};

/// How far behind the last row of machines, jobs, groups or allocations a delta may name one. Whoever gives rows out takes the next
/// one, and only the grants of one transaction come in an order of their own. A table grows up to what it is asked for, and whoever
/// follows has columns of it: nobody who is told of a row shall need memory for millions of others. Tasks may be far behind: a group
/// without tasks has a place, and writes nothing there.
pub(super) const ROWS_AHEAD_MAX: u32 = 1 << 14;
const _: () = assert!(ROWS_AHEAD_MAX as usize >= crate::CLAIMS_MAX, "all grants of a transaction may be new rows");

/// So many rows that were looked at a moment ago are in the cache still: some lines of it each.
const AT_HAND_MAX: usize = 1024;

/// A delta that does not fit the cell it is applied to. The cell is then in between, and must be thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldError {
    /// Its revision is not the next one.
    Revision {
        /// The one after the cell's.
        expected: Revision,
        /// The delta's.
        found: Revision,
    },
    /// Log time went backwards.
    Time {
        /// The cell's.
        cell: LogTime,
        /// The delta's.
        delta: LogTime,
    },
    /// Something that the delta refers to is not there, or is already.
    Subject {
        /// The delta's.
        revision: Revision,
        /// What.
        subject: Subject,
        /// What is wrong with it.
        fault: &'static str,
    },
}

impl fmt::Display for FoldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision { expected, found } => write!(f, "expected revision {expected}, found {found}"),
            Self::Time { cell, delta } => {
                write!(f, "log time goes backwards, from {} to {} µs", cell.micros, delta.micros)
            }
            Self::Subject { revision, subject, fault } => write!(f, "revision {revision}: {subject:?} {fault}"),
        }
    }
}

impl std::error::Error for FoldError {}

impl Cell {
    /// Makes this the picture of the delta's revision.
    ///
    /// # Errors
    /// When the delta does not fit: the cell must then be thrown away. Deltas of a core whose state equals this one always fit.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), FoldError> {
        self.fold(delta, false)
    }

    /// The same, of a delta that was decided on this very picture a moment ago: what it touches is in the cache still.
    ///
    /// # Errors
    /// As `apply`.
    pub fn apply_decided(&mut self, delta: &Delta) -> Result<(), FoldError> {
        self.fold(delta, true)
    }

    /// `decided`: a moment ago, so that what it touches is in the cache still, unless that is too much.
    fn fold(&mut self, delta: &Delta, decided: bool) -> Result<(), FoldError> {
        let at_hand = decided && delta.moves.len() + delta.ends.len() <= AT_HAND_MAX;
        if delta.revision != self.revision.next() {
            return Err(FoldError::Revision { expected: self.revision.next(), found: delta.revision });
        }
        if delta.time < self.time {
            return Err(FoldError::Time { cell: self.time, delta: delta.time });
        }
        self.revision = delta.revision;
        self.time = delta.time;
        if let Some(identity) = &delta.cell {
            self.identify(identity);
        }
        if !delta.scheduler_names.is_empty() {
            Arc::make_mut(&mut self.scheduler_names).extend(delta.scheduler_names.iter().cloned());
        }
        delta.renamed.iter().try_for_each(|(number, name)| self.rename(*number, name))?;
        for shape in &delta.shapes {
            self.add_shape(*shape);
        }
        delta.reshaped.iter().try_for_each(|&(number, shape)| self.replace_shape(number, shape))?;
        for machine in &delta.machines {
            self.check_row(self.machines.len(), machine.id.slot, Subject::Machine(machine.id))?;
            self.put_machine(machine);
        }
        for (step, change) in delta.moves.iter().enumerate() {
            if !at_hand {
                self.warm(coming(&delta.moves, step, 2 * STEPS_AHEAD).iter().map(|change| change.slot));
                self.warm_tasks(coming(&delta.moves, step, STEPS_AHEAD).iter().map(|change| change.slot));
            }
            self.move_allocation(change)?;
        }
        for (step, end) in delta.ends.iter().enumerate() {
            if !at_hand {
                self.warm(coming(&delta.ends, step, 2 * STEPS_AHEAD).iter().map(|end| end.slot));
                self.warm_leaving(coming(&delta.ends, step, STEPS_AHEAD).iter().map(|end| end.slot));
            }
            self.end_allocation(end)?;
        }
        for change in &delta.tasks {
            self.change_task(change)?;
        }
        for change in &delta.jobs {
            self.change_job(change)?;
        }
        for grants in &delta.grants {
            self.grant(grants, decided)?;
        }
        delta.sessions.iter().try_for_each(|change| self.change_session(change))?;
        self.change_governance(delta)
    }

    pub(super) fn fault<T>(&self, subject: Subject, fault: &'static str) -> Result<T, FoldError> {
        Err(FoldError::Subject { revision: self.revision, subject, fault })
    }

    /// A row that is there, or one of the next.
    #[inline]
    pub(super) fn check_row(&self, rows: u32, row: u32, subject: Subject) -> Result<(), FoldError> {
        if row.saturating_sub(rows) > ROWS_AHEAD_MAX { self.fault(subject, "is far behind all others") } else { Ok(()) }
    }

    fn identify(&mut self, identity: &CellIdentity) {
        let restored = floor_of(identity.incarnation) != floor_of(self.identity.incarnation);
        self.identity = Arc::new(identity.clone());
        if restored {
            self.unheard = self.unheard_machines_derived();
        }
        self.machines_by_name.set_key(identity.cell_id, |slot| super::name_in(&self.machine_slots, slot));
        self.jobs_by_name.set_key(identity.cell_id, |slot| super::job_name_in(&self.jobs, slot));
    }

    fn rename(&mut self, number: u16, name: &Arc<str>) -> Result<(), FoldError> {
        let Some(found) = Arc::make_mut(&mut self.scheduler_names).get_mut(usize::from(number)) else {
            return self.fault(Subject::Scheduler(number), "gets another name, and has none yet");
        };
        found.clone_from(name);
        Ok(())
    }

    fn add_shape(&mut self, shape: Resources) {
        let number = u32::try_from(self.shapes.len()).expect("each shape took a command");
        Arc::make_mut(&mut self.shapes).push(shape);
        Arc::make_mut(&mut self.shape_numbers).insert(shape, number);
    }

    fn replace_shape(&mut self, number: u32, shape: Resources) -> Result<(), FoldError> {
        let Some(found) = Arc::make_mut(&mut self.shapes).get_mut(number as usize) else {
            return self.fault(Subject::Shape(number), "gets another meaning, and has none yet");
        };
        let before = std::mem::replace(found, shape);
        let numbers = Arc::make_mut(&mut self.shape_numbers);
        numbers.remove(&before);
        numbers.insert(shape, number);
        Ok(())
    }

    pub(super) fn put_machine(&mut self, machine: &Machine) {
        self.forget_old_classes();
        // One that goes is of no class.
        let gone = machine.state == MachineState::Gone;
        let class = if gone { 0 } else { self.class_of(&machine.attributes) };
        self.put_machine_of(machine, class);
    }

    /// Puts a machine whose attributes are those of a class.
    pub(super) fn put_machine_of(&mut self, machine: &Machine, class: u32) {
        let slot = machine.id.slot;
        let before = self.machine_in(slot).cloned();
        let mut room = self.room(slot);
        if let Some(before) = &before {
            room.take(&before.capacity);
            if before.name != machine.name || machine.state == MachineState::Gone {
                self.machines_by_name.remove(&*before.name, |slot| super::name_in(&self.machine_slots, slot));
            }
        }
        let gone = machine.state == MachineState::Gone;
        room.add(&machine.capacity);
        let class_before = self.machine_row(slot).map(|row| row.class);
        self.change_class(class_before, (!gone).then_some(class));
        let was_unheard = self.machine_row(slot).is_some_and(|row| self.is_unheard(row));
        let revision = self.revision;
        let has_rest = room.0[2..] != [0; crate::DIMENSIONS - 2] || !machine.capacity.is_plain();
        let row = self.machines.get_mut(slot);
        row.last_change = revision;
        row.state = machine.state;
        row.epoch = if gone { 0 } else { machine.epoch };
        row.class = class;
        row.has_rest = has_rest;
        row.free_cpu_millis = i32::try_from(room.0[0]).unwrap_or(if room.0[0] < 0 { i32::MIN } else { i32::MAX });
        row.free_memory_bytes = room.0[1];
        let is_unheard = self.machine_row(slot).is_some_and(|row| self.is_unheard(row));
        let is_counted = was_unheard && !planted::is(Bug::MiscountsTheUnheard);
        self.unheard = self.unheard - u32::from(is_counted) + u32::from(is_unheard);
        // What another machine in this slot left there must not count once something is taken here.
        if has_rest || slot < self.rest.len() {
            self.rest.get_mut(slot).copy_from_slice(&room.0[2..]);
        }
        let tenant = (!gone).then(|| self.sharing(machine, class));
        *self.machine_slots.get_mut(slot) = MachineSlot { generation: machine.id.generation, machine: tenant };
        if !gone && before.is_none_or(|before| before.name != machine.name) {
            self.machines_by_name.insert(slot, &*machine.name, |slot| super::name_in(&self.machine_slots, slot));
        }
        // A device that comes back may be in the hands of an unknown task alone, and then nothing was counted meanwhile.
        if self.in_use(slot).is_some() || self.unknown_on(slot).next().is_some() {
            self.refresh_in_use(slot);
        }
    }

    /// The machine, sharing with others what it has alike with them.
    fn sharing(&mut self, machine: &Machine, class: u32) -> Arc<Machine> {
        let mut shared = Machine::clone(machine);
        shared.attributes.clone_from(&self.classes[class as usize]);
        Arc::make_mut(&mut self.alike).share(&mut shared);
        Arc::new(shared)
    }

    fn grant(&mut self, grants: &Grants, at_hand: bool) -> Result<(), FoldError> {
        let Some(&shape) = self.shapes.get(grants.shape as usize) else {
            return self.fault(Subject::Shape(grants.shape), "is not known");
        };
        if usize::from(grants.scheduler) >= self.scheduler_names.len() {
            return self.fault(Subject::Scheduler(grants.scheduler), "is not known");
        }
        if self.job(grants.job).is_none() {
            return self.fault(Subject::Job(grants.job), "is not there");
        }
        let Some(&group) = self.groups.get(grants.group_row) else {
            return self.fault(Subject::GroupRow(grants.group_row), "is not there");
        };
        if (group.job_slot, group.position) != (grants.job.slot, grants.group) {
            return self.fault(Subject::GroupRow(grants.group_row), "is not that of the group that is granted");
        }
        let count = grants.slots.len();
        if [grants.machines.len(), grants.tasks.len(), grants.generations.len()] != [count; 3] {
            return self.fault(Subject::GroupRow(grants.group_row), "is granted columns of unequal length");
        }
        let plain = shape.is_plain();
        for claim in 0..count {
            if !at_hand {
                self.warm_rows(coming(&grants.slots, claim, 2 * STEPS_AHEAD).iter().copied());
                let machines = coming(&grants.machines, claim, 2 * STEPS_AHEAD);
                self.warm_claims(&group, machines, coming(&grants.tasks, claim, 2 * STEPS_AHEAD));
            }
            let (slot, machine, task) = (grants.slots[claim], grants.machines[claim], grants.tasks[claim]);
            self.check_row(self.statuses.len(), slot, Subject::AllocationSlot(slot))?;
            let status = self.statuses.get_mut(slot);
            if status.state() != AllocationState::Free {
                return self.fault(Subject::AllocationSlot(slot), "is granted, and is not free");
            }
            *status = AllocationStatus { state: AllocationState::Granted, ready: false }.into();
            let Some(epoch) = self.take_room(machine, &shape, plain) else {
                return self.fault(Subject::AllocationSlot(slot), "is granted on a machine that is not there");
            };
            if task >= group.count {
                return self.fault(Subject::Task(grants.group_row, task), "is beyond its group");
            }
            let state = self.task_states.get_mut(group.task_base + task);
            if *state != TaskState::Waiting {
                return self.fault(Subject::Task(grants.group_row, task), "is granted, and does not wait");
            }
            *state = TaskState::Live;
            let past = self.tasks.get_mut(group.task_base + task);
            past.allocation = slot + 1;
            past.attempts = past.attempts.saturating_add(1);
            let attempt = past.attempts;
            *self.allocations.get_mut(slot) = granted_row(grants, claim, self.revision, epoch, attempt);
        }
        let granted = u32::try_from(count).expect("slots have 32-bit numbers");
        self.leave_state(grants.group_row, TaskState::Waiting, granted)?;
        self.groups.get_mut(grants.group_row).tasks[TaskState::Live as usize] += granted;
        self.live += granted;
        if let Some(last) = grants.slots.last() {
            self.filling = Some(last / 64);
        }
        self.add_extras(grants)
    }

    /// Takes room on a machine, and gives its epoch; `None` where no machine is.
    #[inline]
    pub(super) fn take_room(&mut self, slot: u32, shape: &Resources, plain: bool) -> Option<u32> {
        let revision = self.revision;
        if slot >= self.machines.len() {
            return None;
        }
        let row = self.machines.get_mut(slot);
        if row.epoch == 0 {
            return None;
        }
        row.free_cpu_millis = row.free_cpu_millis.saturating_sub(i32::try_from(shape.cpu_millis).ok()?);
        row.free_memory_bytes = row.free_memory_bytes.saturating_sub(shape.memory_bytes.cast_signed());
        row.allocations = row.allocations.saturating_add(1);
        row.last_change = revision;
        let epoch = row.epoch;
        if !plain {
            // A machine that shrank may run what it has no capacity for any more.
            row.has_rest = true;
            let mut room = Room::default();
            room.take(shape);
            let rest = self.rest.get_mut(slot);
            rest.iter_mut().zip(&room.0[2..]).for_each(|(free, taken)| *free = free.saturating_add(*taken));
        }
        Some(epoch)
    }

    #[inline]
    pub(super) fn give_room(&mut self, slot: u32, shape: &Resources) {
        let row = self.machines.get_mut(slot);
        row.free_cpu_millis = row.free_cpu_millis.saturating_add(i32::try_from(shape.cpu_millis).unwrap_or(0));
        row.free_memory_bytes = row.free_memory_bytes.saturating_add(shape.memory_bytes.cast_signed());
        row.allocations = row.allocations.saturating_sub(1);
        if !shape.is_plain() {
            let mut room = Room::default();
            room.add(shape);
            let rest = self.rest.get_mut(slot);
            rest.iter_mut().zip(&room.0[2..]).for_each(|(free, given)| *free = free.saturating_add(*given));
        }
    }

    /// Puts another status in the place of a live one, which it gives.
    #[inline]
    fn change_status(&mut self, slot: u32, status: AllocationStatus) -> Result<StatusByte, FoldError> {
        let found = self.statuses.there_mut(slot).filter(|found| found.is_live());
        match found.map(|found| std::mem::replace(found, status.into())) {
            Some(before) => Ok(before),
            None => self.fault(Subject::AllocationSlot(slot), "changes, and is not live"),
        }
    }

    fn move_allocation(&mut self, change: &Move) -> Result<(), FoldError> {
        if !change.status.state.is_live() {
            return self.fault(Subject::AllocationSlot(change.slot), "moves to a state that is not live");
        }
        let before = self.change_status(change.slot, change.status)?;
        if before.is_active() && change.status.state.is_leaving() {
            let Some(&AllocationRow { group_row, task, .. }) = self.allocations.get(change.slot) else {
                return self.fault(Subject::AllocationSlot(change.slot), "is not there");
            };
            self.leave_task(group_row, task, true)?;
        }
        let known = self.extra(change.slot);
        let (restarts, reason) = known.map_or((0, None), |extra| (extra.restarts, extra.reason.as_ref()));
        if restarts != change.restarts || reason != change.reason.as_ref() {
            let mut extra = known.cloned().unwrap_or_default();
            extra.restarts = change.restarts;
            extra.reason.clone_from(&change.reason);
            self.keep_extra(change.slot, extra);
        }
        Ok(())
    }

    /// Its task has no allocation any more, which is leaving or has ended. What becomes of the task stands in the delta, if it is not to wait.
    #[inline]
    fn leave_task(&mut self, group_row: u32, task: u32, leaving: bool) -> Result<(), FoldError> {
        self.leave_state(group_row, TaskState::Live, 1)?;
        let group = self.groups.get_mut(group_row);
        let waits_for_it = leaving && group.single_instance && !planted::is(Bug::OverlooksPredecessors);
        let state = if waits_for_it { TaskState::Blocked } else { TaskState::Waiting };
        group.tasks[state as usize] += 1;
        group.leaving += u32::from(leaving);
        *self.task_states.get_mut(group.task_base + task) = state;
        Ok(())
    }

    fn end_allocation(&mut self, end: &End) -> Result<(), FoldError> {
        // The row stays as it was: writing it would copy a page for each end that is in a snapshot's way.
        let before = self.change_status(end.slot, AllocationStatus::default())?;
        let Some(row) = self.allocations.get(end.slot) else {
            return self.fault(Subject::AllocationSlot(end.slot), "is not there");
        };
        let &AllocationRow { group_row, task, machine, shape, .. } = row;
        let id = row.id(end.slot);
        if before.is_active() {
            self.leave_task(group_row, task, false)?;
        } else {
            self.end_leaving(group_row, task)?;
        }
        if !planted::strikes(Bug::LeaksRoom, 5) {
            let shape = self.shapes.get(shape as usize).copied().unwrap_or_default();
            self.give_room(machine, &shape);
        }
        self.live -= 1;
        self.drop_extra(machine, id);
        Ok(())
    }

    /// The end of an allocation that was leaving: a task that waits for it may go on.
    #[inline]
    fn end_leaving(&mut self, group_row: u32, task: u32) -> Result<(), FoldError> {
        let group = self.groups.get_mut(group_row);
        group.leaving -= u32::from(!planted::is(Bug::MiscountsTheLeaving));
        if !group.single_instance {
            return Ok(());
        }
        let (place, job_slot) = (group.task_base + task, group.job_slot);
        let blocked =
            task < group.count && self.task_states.get(place).is_some_and(|&state| state == TaskState::Blocked);
        let is_later = || self.job_in(job_slot).is_some_and(|job| job.version > 1);
        if blocked && !(planted::is(Bug::KeepsSuccessorsWaiting) && is_later()) {
            self.leave_state(group_row, TaskState::Blocked, 1)?;
            self.groups.get_mut(group_row).tasks[TaskState::Waiting as usize] += 1;
            *self.task_states.get_mut(place) = TaskState::Waiting;
        }
        Ok(())
    }

    fn change_task(&mut self, change: &TaskChange) -> Result<(), FoldError> {
        let subject = Subject::Task(change.group_row, change.task);
        let Some(&group) = self.groups.get(change.group_row) else { return self.fault(subject, "is not there") };
        if self.task(&group, change.task).is_none() {
            return self.fault(subject, "is not there");
        }
        let state = self.task_states.get_mut(group.task_base + change.task);
        if *state == TaskState::Live || change.state == TaskState::Live {
            return self.fault(subject, "is live, or is to be, without a grant");
        }
        let before = std::mem::replace(state, change.state);
        self.tasks.get_mut(group.task_base + change.task).failures = change.failures;
        self.leave_state(change.group_row, before, 1)?;
        self.groups.get_mut(change.group_row).tasks[change.state as usize] += 1;
        Ok(())
    }

    /// So many tasks of a group are in a state no more. Two groups that were given the same tasks may say so more often than they have any.
    #[inline]
    fn leave_state(&mut self, row: u32, state: TaskState, tasks: u32) -> Result<(), FoldError> {
        let count = &mut self.groups.get_mut(row).tasks[state as usize];
        match count.checked_sub(tasks) {
            Some(left) => *count = left,
            None => return self.fault(Subject::GroupRow(row), "has fewer tasks in a state than leave it"),
        }
        Ok(())
    }

    fn change_session(&mut self, change: &SessionChange) -> Result<(), FoldError> {
        match change {
            SessionChange::Opened { scheduler, principal, namespace } => {
                let session = Session {
                    id: SessionId(self.revision.0),
                    scheduler: scheduler.clone(),
                    principal: principal.clone(),
                    namespace: namespace.clone(),
                    decided: std::collections::VecDeque::new(),
                };
                Arc::make_mut(&mut self.sessions).insert(session.id, Arc::new(session));
            }
            SessionChange::Closed(id) => {
                if Arc::make_mut(&mut self.sessions).remove(id).is_none() {
                    return self.fault(Subject::Session(*id), "is not there");
                }
            }
            SessionChange::Number { session, number, digest } => {
                let Some(found) = Arc::make_mut(&mut self.sessions).get_mut(session) else {
                    return self.fault(Subject::Session(*session), "is not there");
                };
                let decided = &mut Arc::make_mut(found).decided;
                if decided.len() == NUMBERS_KEPT {
                    decided.pop_front();
                }
                decided.push_back(DecidedNumber { number: *number, revision: self.revision, digest: *digest });
            }
        }
        Ok(())
    }
}

/// The row of one claim of these grants.
#[inline]
fn granted_row(grants: &Grants, claim: usize, created: Revision, epoch: u32, attempt: u16) -> AllocationRow {
    AllocationRow {
        created,
        session: grants.session.0,
        number: grants.number,
        generation: grants.generations[claim],
        job_slot: grants.job.slot,
        job_generation: grants.job.generation,
        job_version: grants.job_version,
        group_row: grants.group_row,
        task: grants.tasks[claim],
        machine: grants.machines[claim],
        epoch,
        shape: grants.shape,
        group: grants.group,
        attempt,
        scheduler: grants.scheduler,
    }
}
