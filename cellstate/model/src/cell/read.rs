//! Reading the cell.

use std::ops::Range;
use std::sync::Arc;

use super::{Cell, JobSlot, MachineSlot, page_rows};
use crate::prefetch::{coming, prefetch};
use crate::{
    AllocationExtra, AllocationId, AllocationRow, AllocationState, AllocationStatus, CellIdentity, DIMENSIONS,
    GroupRow, Job, JobId, LogTime, Machine, MachineId, MachineRow, Paged, Resources, Revision, Room, Session,
    SessionId, StatusByte, TaskPast, TaskRow, TaskState,
};

/// A live allocation, with all that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct AllocationRef<'a> {
    /// Its id.
    pub id: AllocationId,
    /// What was granted.
    pub row: &'a AllocationRow,
    /// Where it stands.
    pub status: AllocationStatus,
    /// What few have.
    pub extra: Option<&'a AllocationExtra>,
}

impl Cell {
    /// The revision whose picture this is.
    #[must_use]
    #[inline]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The log time of that revision.
    #[must_use]
    pub const fn time(&self) -> LogTime {
        self.time
    }

    /// Which cell it is.
    #[must_use]
    pub fn identity(&self) -> &CellIdentity {
        &self.identity
    }

    /// Names of schedulers, by number. One that nobody goes by any more stands there until its number is given to another.
    #[must_use]
    pub fn scheduler_names(&self) -> &[Arc<str>] {
        &self.scheduler_names
    }

    /// The name with this number; empty for an unknown one.
    #[must_use]
    #[inline]
    pub fn scheduler_name(&self, number: u16) -> &str {
        self.scheduler_names.get(usize::from(number)).map_or("", |name| name)
    }

    /// Shapes of resources, by number. What no group has any more stands there until its number is given to others.
    #[must_use]
    #[inline]
    pub fn shapes(&self) -> &[Resources] {
        &self.shapes
    }

    /// The number of these resources, if some group has them, or one had and the number still stands for them.
    #[must_use]
    #[inline]
    pub fn shape_number(&self, resources: &Resources) -> Option<u32> {
        self.shape_numbers.get(resources).copied()
    }

    /// What an allocation got.
    #[must_use]
    #[inline]
    pub fn resources_of(&self, row: &AllocationRow) -> Resources {
        self.shapes.get(row.shape as usize).copied().unwrap_or_default()
    }

    /// The table of hot rows of machines.
    #[must_use]
    #[inline]
    pub const fn machine_rows(&self) -> &Paged<MachineRow, { page_rows::MACHINES }> {
        &self.machines
    }

    /// The table of what machines are.
    #[must_use]
    pub const fn machine_slots(&self) -> &Paged<MachineSlot, { page_rows::MACHINES }> {
        &self.machine_slots
    }

    /// The hot row of a machine; `None` where no machine is.
    #[must_use]
    #[inline]
    pub fn machine_row(&self, slot: u32) -> Option<&MachineRow> {
        self.machines.get(slot).filter(|row| row.epoch > 0)
    }

    /// The machine in a slot.
    #[must_use]
    #[inline]
    pub fn machine_in(&self, slot: u32) -> Option<&Arc<Machine>> {
        self.machine_slots.get(slot)?.machine.as_ref()
    }

    /// The machine with this id.
    #[must_use]
    #[inline]
    pub fn machine(&self, id: MachineId) -> Option<&Arc<Machine>> {
        self.machine_in(id.slot).filter(|machine| machine.id == id)
    }

    /// Whether this machine is in the cell and in that epoch.
    #[must_use]
    #[inline]
    pub fn is_current(&self, id: MachineId, epoch: u32) -> bool {
        let slot = self.machine_slots.get(id.slot).filter(|slot| slot.generation == id.generation);
        slot.is_some() && self.machine_row(id.slot).is_some_and(|row| row.epoch == epoch)
    }

    /// The machine with this name.
    #[must_use]
    pub fn machine_named(&self, name: &str) -> Option<&Arc<Machine>> {
        self.machine_in(self.machines_by_name.find(name, |slot| super::name_in(&self.machine_slots, slot))?)
    }

    /// All machines, by slot.
    pub fn machines(&self) -> impl Iterator<Item = &Arc<Machine>> {
        self.machine_slots.iter().filter_map(|slot| slot.machine.as_ref())
    }

    /// What is free on the machine in a slot; nothing where no machine is.
    #[must_use]
    #[inline]
    pub fn room(&self, slot: u32) -> Room {
        let mut room = Room::default();
        if let Some(row) = self.machine_row(slot) {
            room.0[0] = row.free_cpu_millis.into();
            room.0[1] = row.free_memory_bytes;
            if row.has_rest {
                room.0[2..DIMENSIONS].copy_from_slice(self.rest.get(slot).unwrap_or(&[0; DIMENSIONS - 2]));
            }
        }
        room
    }

    /// The table of jobs.
    #[must_use]
    pub const fn job_slots(&self) -> &Paged<JobSlot, { page_rows::JOBS }> {
        &self.jobs
    }

    /// The job in a slot.
    #[must_use]
    #[inline]
    pub fn job_in(&self, slot: u32) -> Option<&Arc<Job>> {
        self.jobs.get(slot)?.job.as_ref()
    }

    /// The job with this id.
    #[must_use]
    #[inline]
    pub fn job(&self, id: JobId) -> Option<&Arc<Job>> {
        self.job_in(id.slot).filter(|job| job.id == id)
    }

    /// The job with this name.
    #[must_use]
    pub fn job_named(&self, namespace: &str, name: &str) -> Option<&Arc<Job>> {
        self.job_in(self.jobs_by_name.find((namespace, name), |slot| super::job_name_in(&self.jobs, slot))?)
    }

    /// All jobs, by slot.
    pub fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.iter().filter_map(|slot| slot.job.as_ref())
    }

    /// The table of groups.
    #[must_use]
    #[inline]
    pub const fn groups(&self) -> &Paged<GroupRow, { page_rows::GROUPS }> {
        &self.groups
    }

    /// A group by the position in its job.
    #[must_use]
    #[inline]
    pub fn group(&self, job: &Job, group: u16) -> Option<&GroupRow> {
        self.groups.get(job.group_row(group)?)
    }

    /// The column of what grants and failures wrote of tasks.
    #[must_use]
    #[inline]
    pub const fn task_pasts(&self) -> &Paged<TaskPast, { page_rows::TASKS }> {
        &self.tasks
    }

    /// The column of where tasks stand; as long as that of their pasts.
    #[must_use]
    #[inline]
    pub const fn task_states(&self) -> &Paged<TaskState, { page_rows::TASK_STATES }> {
        &self.task_states
    }

    /// The task in a row of the table of tasks.
    #[must_use]
    #[inline]
    pub fn task_row(&self, row: u32) -> Option<TaskRow> {
        let state = *self.task_states.get(row)?;
        Some(self.tasks.get(row)?.now(state))
    }

    /// The tasks in these rows, which stand in one page.
    pub fn task_rows(&self, rows: Range<u32>) -> impl Iterator<Item = TaskRow> {
        let states = self.task_states.rows_from(rows.start).iter();
        self.tasks.rows_from(rows.start).iter().zip(states).take(rows.len()).map(|(past, state)| past.now(*state))
    }

    /// A task of a group; `None` beyond its last one.
    #[must_use]
    #[inline]
    pub fn task(&self, group: &GroupRow, task: u32) -> Option<TaskRow> {
        if task < group.count { self.task_row(group.task_base + task) } else { None }
    }

    /// Where a task of a group stands; `None` beyond its last one. Reads a byte.
    #[must_use]
    #[inline]
    pub fn task_state(&self, group: &GroupRow, task: u32) -> Option<TaskState> {
        if task < group.count { self.task_states.get(group.task_base + task).copied() } else { None }
    }

    /// The table of what was granted. A row whose status is free has its last tenant's generation; all else in it means nothing.
    #[must_use]
    #[inline]
    pub const fn allocation_rows(&self) -> &Paged<AllocationRow, { page_rows::ALLOCATIONS }> {
        &self.allocations
    }

    /// The column of where allocations stand.
    #[must_use]
    #[inline]
    pub const fn statuses(&self) -> &Paged<StatusByte, { page_rows::STATUS }> {
        &self.statuses
    }

    /// Where the allocation in a slot stands; free beyond the last one.
    #[must_use]
    #[inline]
    pub fn status(&self, slot: u32) -> AllocationStatus {
        status_of(self.statuses.get(slot))
    }

    /// Whether the allocation in a slot is active; none is beyond the last one.
    #[must_use]
    #[inline]
    pub fn is_active(&self, slot: u32) -> bool {
        self.statuses.get(slot).is_some_and(|byte| byte.is_active())
    }

    /// What counts of the row in a slot: of a free one the generation alone.
    #[must_use]
    pub fn allocation_image(&self, slot: u32) -> Option<(AllocationRow, AllocationStatus)> {
        Some(image(self.allocations.get(slot)?, self.status(slot)))
    }

    /// The same of all these rows, which stand in one page. Asks for what comes behind them meanwhile: who reads one page reads the next.
    pub fn allocation_images(&self, rows: Range<u32>) -> impl Iterator<Item = (AllocationRow, AllocationStatus)> {
        let (next, statuses) = (self.allocations.rows_from(rows.end), self.statuses.rows_from(rows.start));
        let those = self.allocations.rows_from(rows.start).iter().take(rows.len());
        those.enumerate().map(move |(at, row)| {
            coming(next, at, 0).iter().for_each(prefetch);
            image(row, status_of(statuses.get(at)))
        })
    }

    /// What few allocations have, by slot.
    pub fn extras(&self) -> impl Iterator<Item = (u32, &AllocationExtra)> {
        (0..).zip(self.extras.iter()).filter_map(|(slot, extra)| Some((slot, extra.as_deref()?)))
    }

    /// The column of what few allocations have; shorter than the table of allocations.
    #[must_use]
    pub const fn extra_rows(&self) -> &Paged<Option<Arc<AllocationExtra>>, { page_rows::ALLOCATIONS }> {
        &self.extras
    }

    /// The page of allocations that grants fill.
    #[must_use]
    pub const fn filling(&self) -> Option<u32> {
        self.filling
    }

    /// Live allocations.
    #[must_use]
    pub const fn live(&self) -> u32 {
        self.live
    }

    /// The live allocation in a slot.
    #[must_use]
    #[inline]
    pub fn allocation_in(&self, slot: u32) -> Option<AllocationRef<'_>> {
        let status = self.statuses.get(slot)?.status();
        if !status.state.is_live() {
            return None;
        }
        let row = self.allocations.get(slot)?;
        Some(AllocationRef { id: row.id(slot), row, status, extra: self.extra(slot) })
    }

    /// The allocation that a task names, by the row of its group: one of this very task, and not leaving.
    #[must_use]
    pub fn active_allocation(&self, group_row: u32, task: u32) -> Option<AllocationRef<'_>> {
        let slot = self.task(self.groups.get(group_row)?, task)?.allocation.checked_sub(1)?;
        let is_it = |found: &AllocationRef<'_>| (found.row.group_row, found.row.task) == (group_row, task);
        self.allocation_in(slot).filter(|found| found.status.state.is_active() && is_it(found))
    }

    /// The live allocation with this id.
    #[must_use]
    #[inline]
    pub fn allocation(&self, id: AllocationId) -> Option<AllocationRef<'_>> {
        self.allocation_in(id.slot).filter(|allocation| allocation.id == id)
    }

    /// Brings what these allocations were granted, and where they stand, into the cache. Rows of random allocations are not there; here
    /// their loads overlap, while in the decisions that follow each waits for the one before. A loop over many asks for what is
    /// [`coming`].
    #[inline]
    pub fn warm(&self, slots: impl Iterator<Item = u32>) {
        for slot in slots {
            self.allocations.prefetch(slot);
            self.statuses.prefetch(slot);
        }
    }

    /// Brings what a stop of these allocations will touch into the cache, as `warm` does.
    #[inline]
    pub fn warm_stops(&self, slots: impl Iterator<Item = u32> + Clone) {
        self.warm(slots.clone());
        self.warm_tasks(slots);
    }

    /// The second half of `warm_stops`, which reads what `warm` asked for.
    #[inline]
    pub fn warm_tasks(&self, slots: impl Iterator<Item = u32>) {
        slots.filter_map(|slot| self.allocations.get(slot)).for_each(|row| self.warm_task(row));
    }

    /// Brings what an end of these allocations will touch into the cache, as `warm` does.
    #[inline]
    pub fn warm_ends(&self, slots: impl Iterator<Item = u32> + Clone) {
        self.warm(slots.clone());
        self.warm_leaving(slots);
    }

    /// The second half of `warm_ends`, which reads what `warm` asked for.
    #[inline]
    pub fn warm_leaving(&self, slots: impl Iterator<Item = u32>) {
        for slot in slots {
            let Some(row) = self.allocations.get(slot) else { continue };
            self.machines.prefetch(row.machine);
            // The task of one that is leaving has another one already, or waits for it.
            if self.is_active(slot) {
                self.warm_task(row);
            }
        }
    }

    /// Brings the groups of these allocations into the cache: reads what `warm` asked for.
    #[inline]
    pub fn warm_groups(&self, slots: impl Iterator<Item = u32>) {
        slots.filter_map(|slot| self.allocations.get(slot)).for_each(|row| self.groups.prefetch(row.group_row));
    }

    #[inline]
    fn warm_task(&self, row: &AllocationRow) {
        if let Some(group) = self.groups.get(row.group_row) {
            self.task_states.prefetch(group.task_base.wrapping_add(row.task));
        }
    }

    /// Brings what was granted into the cache, as `warm` does, and nothing else: for rows that are written soon, or read once more.
    #[inline]
    pub fn warm_rows(&self, slots: impl Iterator<Item = u32>) {
        slots.for_each(|slot| self.allocations.prefetch(slot));
    }

    /// Brings what tells whether a machine is there, and in which epoch, into the cache.
    #[inline]
    pub fn warm_machines(&self, machines: impl Iterator<Item = u32>) {
        machines.for_each(|machine| {
            self.machine_slots.prefetch(machine);
            self.machines.prefetch(machine);
        });
    }

    /// Brings what a placement is judged by into the cache: what its job's group declares, and who places it.
    #[inline]
    pub fn warm_shape(&self, job: &Job, group: u16) {
        if let Some(shape) = job.shape.groups.get(usize::from(group)) {
            prefetch(&shape.resources);
            prefetch(&shape.constraints);
            prefetch(&shape.spread);
            prefetch(&shape.devices);
            prefetch(&shape.min);
        }
        if let Some(first) = job.shape.scheduler.as_bytes().first() {
            prefetch(first);
        }
    }

    /// Brings what a grant will touch into the cache: machines, and tasks of a group.
    #[inline]
    pub fn warm_claims(&self, group: &GroupRow, machines: &[u32], tasks: &[u32]) {
        machines.iter().for_each(|&machine| self.machines.prefetch(machine));
        for &task in tasks {
            self.task_states.prefetch(group.task_base.wrapping_add(task));
            self.tasks.prefetch(group.task_base.wrapping_add(task));
        }
    }

    /// All live allocations, by slot.
    pub fn allocations(&self) -> impl Iterator<Item = AllocationRef<'_>> {
        (0..self.statuses.len()).filter_map(|slot| self.allocation_in(slot))
    }

    /// A session by its id.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(&id)
    }

    /// All sessions, by id.
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.values()
    }
}

/// Free where the column does not go so far.
fn status_of(byte: Option<&StatusByte>) -> AllocationStatus {
    byte.map_or_else(AllocationStatus::default, |byte| byte.status())
}

/// What counts of a row of that status.
fn image(row: &AllocationRow, status: AllocationStatus) -> (AllocationRow, AllocationStatus) {
    let free = AllocationRow { generation: row.generation, ..AllocationRow::default() };
    (if status.state == AllocationState::Free { free } else { *row }, status)
}
