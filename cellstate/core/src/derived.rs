//! What is derived from the cell, to find things fast: free rows, the ring of changes, the last event of each job, what is due.
//!
//! Not part of the state: rebuilt when a server opens, in production as in replay, and from then on a function of the deltas.

mod due;
pub(crate) mod homes;
pub(crate) mod job_bytes;
pub(crate) mod names;
mod numbers;
pub(crate) mod slot_set;
pub(crate) mod slots;
pub(crate) mod spare;
pub(crate) mod sweeps;
mod tenants;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    Cell, Deadline, Delta, Device, GroupRow, Hold, Job, JobChange, JobId, Leaver, LogTime, Machine, MachineState,
    QuotaUse, Resources, Revision, Room, STEPS_AHEAD, TaskTraces, collect_leavers, coming,
};

use crate::CoreOptions;
use crate::blame::group_events::GroupEvents;
use crate::blame::job_events::JobEvents;
use crate::blame::newcomers::{Newcomers, Retagged};
use crate::blame::ring::{Holder, Kinds, MachineEvent, Ring, UNKNOWN_ENDED, UNKNOWN_TASK};
use crate::clock;
use crate::lifecycle::Marks;
use crate::partitions::Reserved;
use crate::resolve::promised::Promised;
use crate::resolve::rules::Rules;
use crate::unknown::UnknownDue;
use due::Due;
use homes::Homes;
use job_bytes::JobBytes;
use names::Names;
use numbers::Numbers;
use slot_set::SlotBits;
use slots::{AllocationSlots, RangeSlots, RowSlots};
use spare::Spare;
use sweeps::Sweeps;
use tenants::Tenants;

/// Everything derived.
#[derive(Debug)]
pub(crate) struct Derived {
    pub(crate) allocation_slots: AllocationSlots,
    pub(crate) machine_slots: RowSlots,
    pub(crate) job_slots: RowSlots,
    pub(crate) group_rows: RangeSlots,
    pub(crate) task_rows: RangeSlots,
    pub(crate) ring: Ring,
    pub(crate) rules: Rules,
    pub(crate) promised: Promised,
    pub(crate) newcomers: RefCell<Newcomers>,
    pub(crate) retagged: Retagged,
    pub(crate) marks: Marks,
    /// By job slot.
    pub(crate) job_events: JobEvents,
    pub(crate) group_events: GroupEvents,
    /// By machine slot: the revision at which its epoch began.
    pub(crate) epochs_began: Vec<u64>,
    /// The newest of these.
    pub(crate) newest_epoch: Revision,
    pub(crate) names: Names,
    /// Resources that groups have. What a live allocation has, its group has, too.
    pub(crate) shapes: Numbers<Resources>,
    /// Slots of jobs that are over.
    pub(crate) final_jobs: SlotBits,
    /// How many those are.
    pub(crate) final_job_count: usize,
    /// What all jobs come to in bytes, and those of them that are over.
    pub(crate) job_bytes: JobBytes,
    /// When finished jobs are retired. Invariant: each that has no allocations is here.
    pub(crate) retires: BTreeSet<(LogTime, JobId)>,
    /// When allocations of unreachable machines are lost that were not given up. Invariant: the earliest of each is here.
    pub(crate) losses: Due,
    /// The same of those that were given up: what else they ran takes no other machine's turn, and waits for none.
    pub(crate) further_losses: Due,
    /// When what is left on draining machines is stopped. Invariant: each that runs something is here.
    pub(crate) drains: Due,
    pub(crate) tenants: Tenants,
    pub(crate) homes: Homes,
    pub(crate) sweeps: Sweeps,
    /// When unknown tasks are told to stop.
    pub(crate) unknown_due: UnknownDue,
    /// Slots of machines that were given up since they are unreachable.
    pub(crate) given_up: BTreeSet<u32>,
    /// Times at which machines were given up, in the last minute.
    pub(crate) given_up_at: Vec<LogTime>,
    /// Tasks of all jobs.
    pub(crate) tasks: u64,
    /// What namespaces use of their quotas.
    pub(crate) quotas: QuotaUse,
    /// Memory for what comes next.
    pub(crate) spare: Spare,
    /// Who leaves with the delta that is taken in; scratch.
    leavers: Vec<Leaver>,
    /// Machines that partitions reserve.
    pub(crate) partitions: Reserved,
    /// When the ring began.
    pub(crate) opened: Revision,
    /// When the server opened that decides now. Before it, no agent could answer and nobody be asked for anything: for that time no machine is
    /// given up, and no unknown task told to stop.
    pub(crate) opened_at: LogTime,
}

impl Derived {
    /// Of a cell that a server opened then; at 0 nobody knows.
    pub(crate) fn rebuild(cell: &Cell, options: &CoreOptions, opened_at: LogTime) -> Self {
        let machine_end = cell.machine_slots().len();
        let job_end = cell.job_slots().len();
        let groups = cell.jobs().map(|job| (job.group_base, rows(job.shape.groups.len())));
        let rows_of = |job: &Arc<Job>| {
            let base = job.group_base;
            (base..base + rows(job.shape.groups.len())).filter_map(|row| cell.groups().get(row)).copied().collect()
        };
        let all: Vec<GroupRow> = cell.jobs().flat_map(|job| -> Vec<_> { rows_of(job) }).collect();
        let given_up = clock::GivenUp::of(cell);
        let mut derived = Self {
            allocation_slots: AllocationSlots::rebuild(cell),
            machine_slots: RowSlots::rebuild(machine_end, |slot| cell.machine_in(slot).is_some()),
            job_slots: RowSlots::rebuild(job_end, |slot| cell.job_in(slot).is_some()),
            group_rows: RangeSlots::rebuild(groups),
            task_rows: RangeSlots::rebuild(all.iter().map(|group| (group.task_base, group.count))),
            ring: Ring::new(options.ring_changes, cell.revision()),
            rules: Rules::default(),
            promised: Promised::default(),
            newcomers: RefCell::default(),
            retagged: Retagged::new(cell.revision()),
            marks: Marks::default(),
            job_events: JobEvents::rebuild(cell),
            group_events: GroupEvents::new(cell.revision()),
            final_jobs: SlotBits::default(),
            final_job_count: 0,
            job_bytes: JobBytes::recount(cell),
            epochs_began: vec![0; machine_end as usize],
            newest_epoch: Revision(0),
            names: Names::rebuild(cell),
            shapes: count_shapes(cell),
            retires: BTreeSet::new(),
            losses: Due::default(),
            further_losses: Due::default(),
            drains: Due::default(),
            tenants: Tenants::default(),
            homes: Homes::rebuild(cell),
            sweeps: Sweeps::rebuild(cell),
            unknown_due: UnknownDue::rebuild(cell, opened_at.plus_micros(options.unknown_micros)),
            given_up: given_up.slots,
            given_up_at: vec![cell.time(); given_up.at_most],
            tasks: all.iter().map(|group| u64::from(group.count)).sum(),
            quotas: QuotaUse::recount(cell),
            spare: Spare::default(),
            leavers: Vec::new(),
            partitions: Reserved::default(),
            opened: cell.revision(),
            opened_at,
        };
        for machine in cell.machines() {
            derived.epochs_began[machine.id.slot as usize] = machine.epoch_began.0;
            derived.newest_epoch = derived.newest_epoch.max(machine.epoch_began);
            derived.note_unreachable(machine, cell);
            derived.note_drain(machine);
        }
        for job in cell.jobs().filter(|job| job.state.is_final()) {
            derived.final_jobs.insert(job.id.slot);
            derived.final_job_count += 1;
            derived.retires.insert((job.state_since.plus_micros(options.retire_after_micros), job.id));
        }
        derived
    }

    /// Notes what a delta is about to change: rows are still as they were.
    pub(crate) fn before(&mut self, delta: &Delta, cell: &Cell, options: &CoreOptions) {
        self.note_ends(delta, cell, options);
        self.leavers.clear();
        if self.rules.any_counts() || self.quotas.any() {
            collect_leavers(delta, cell, &mut self.leavers);
        }
        self.rules.before(delta, &self.leavers, cell);
        self.rules.before_machines(delta, cell, |machine| self.tenants.active_on(cell, &self.ring, machine));
        self.note_holds(delta, cell);
        for machine in &delta.machines {
            self.note_machine(delta.revision, machine, cell);
        }
        self.names.before(delta, cell);
        for &(number, _) in &delta.reshaped {
            // Changes that the ring knows have the number for what it stood for.
            self.shapes.free_since(number).into_iter().for_each(|since| self.ring.forget_amounts(since));
        }
        for change in &delta.jobs {
            self.free_rows(delta.revision, change, cell, options);
        }
        self.job_events.note_delta(delta, cell, &mut self.group_events);
        self.quotas.before(delta, &self.leavers, cell);
        self.unknown_due.before(delta, cell);
    }

    fn note_ends(&mut self, delta: &Delta, cell: &Cell, options: &CoreOptions) {
        // Slots that ended with this delta before, kept only where somebody's end could matter to another one's.
        let mut ended = BTreeSet::new();
        let mut known = 0;
        for (number, end) in delta.ends.iter().enumerate() {
            let next = coming(&delta.ends, number, 2 * STEPS_AHEAD).iter().map(|end| end.slot);
            cell.warm_rows(next.clone());
            self.allocation_slots.warm(next);
            let next = coming(&delta.ends, number, STEPS_AHEAD).iter().map(|end| end.slot);
            self.ring.warm(next.filter_map(|slot| cell.allocation_rows().get(slot)).map(|row| row.machine));
            let Some(row) = cell.allocation_rows().get(end.slot) else { continue };
            let in_use = cell.in_use(row.machine).is_some();
            if in_use {
                ended.extend(delta.ends[known..number].iter().map(|end| end.slot));
                known = number;
            }
            self.ring.note_end(delta.revision, cell, row, end.slot, in_use.then_some(&ended));
            self.allocation_slots.give_back(cell, end.slot, row.generation);
            if self.final_jobs.contains(row.job_slot)
                && let Some(job) = cell.job(row.job())
            {
                self.retires.insert((job.state_since.plus_micros(options.retire_after_micros), job.id));
            }
        }
    }

    /// Notes what a delta has changed.
    pub(crate) fn after(&mut self, delta: &Delta, cell: &Cell, options: &CoreOptions) {
        for grants in &delta.grants {
            self.ring.note_grants(delta.revision, grants);
        }
        self.rules.after(delta, cell);
        self.names.after(delta, cell);
        for shape in &delta.shapes {
            cell.shape_number(shape)
                .into_iter()
                .for_each(|number| self.shapes.stands_for(number, shape, delta.revision));
        }
        for (number, shape) in &delta.reshaped {
            self.shapes.stands_for(*number, shape, delta.revision);
        }
        self.homes.after(delta, cell);
        self.sweeps.after(delta, cell);
        for machine in &delta.machines {
            self.note_unreachable(machine, cell);
            self.note_drain(machine);
        }
        for change in &delta.jobs {
            self.note_job(delta, change, cell, options);
        }
        self.quotas.after(delta, cell);
        self.unknown_due.after(delta);
        for (id, _) in delta.unknown.iter().filter(|(_, task)| task.as_ref().is_some_and(|task| !task.stopping)) {
            cell.machine_in(id.machine).into_iter().for_each(|machine| self.note_drain(machine));
        }
        self.partitions.after(delta);
        if delta.cell.is_some() {
            *self = Self::rebuild(cell, options, delta.time);
        }
    }

    /// Room that is held, or occupied by a task that nobody knows, is not there for others.
    fn note_holds(&mut self, delta: &Delta, cell: &Cell) {
        for (id, hold) in &delta.holds {
            let (before, hold) = (cell.hold(*id), hold.as_ref());
            let scheduler = cell.job(*id).and_then(|job| self.names.number(&job.shape.scheduler));
            for (machine, was, is) in Hold::differences(before, hold) {
                let mut grown = Room::all_of(&was);
                grown.take(&is);
                let holder = Some(Holder { job: *id, scheduler });
                let event = MachineEvent { word: "hold", grown, holder, ..MachineEvent::default() };
                self.ring.note_machine(delta.revision, machine, event);
            }
        }
        for (id, task) in &delta.unknown {
            let before = cell.unknown_task(*id);
            let (word, traces, comes) = match (before, task) {
                (None, Some(found)) => (UNKNOWN_TASK, &found.traces, true),
                (Some(ended), None) => (UNKNOWN_ENDED, &ended.traces, false),
                // Adopted, or told to stop: it has what it had.
                (Some(_), Some(_)) | (None, None) => continue,
            };
            if occupies(traces) {
                let mut grown = Room::default();
                if comes {
                    grown.take(&traces.resources)
                } else {
                    grown.add(&traces.resources)
                }
                let event = MachineEvent { word, grown, ..MachineEvent::default() };
                self.ring.note_machine(delta.revision, id.machine, event);
            }
        }
    }

    fn note_machine(&mut self, revision: Revision, machine: &Arc<Machine>, cell: &Cell) {
        let slot = machine.id.slot;
        let before = cell.machine_in(slot);
        let mut grown = Room::all_of(&machine.capacity);
        if let Some(before) = before {
            grown.take(&before.capacity);
        }
        let began = machine.epoch_began.0;
        if slot as usize >= self.epochs_began.len() {
            self.epochs_began.resize(slot as usize + 1, 0);
        }
        self.epochs_began[slot as usize] = began;
        self.newest_epoch = self.newest_epoch.max(machine.epoch_began);
        let word = match before {
            None => "registered",
            Some(_) if machine.state == MachineState::Gone => "removed",
            Some(before) if before.epoch != machine.epoch => "epoch",
            Some(before) if before.state != machine.state => match machine.state {
                MachineState::Cordoned => "cordoned",
                MachineState::Draining => "draining",
                MachineState::Unreachable => "expired",
                MachineState::Ready | MachineState::Gone => "ready",
            },
            Some(before) if before.attributes != machine.attributes => "attributes",
            Some(_) => "capacity",
        };
        let lost_devices = before.map(|before| lost_kinds(&machine.devices, &before.devices)).unwrap_or_default();
        let took_claims = before.is_some_and(|before| before.state == MachineState::Ready);
        self.ring.note_machine(revision, slot, MachineEvent { word, grown, holder: None, lost_devices, took_claims });
        self.retagged.before(revision, machine, before.map(Arc::as_ref));
        if machine.state == MachineState::Gone {
            self.machine_slots.give(slot);
        } else {
            self.machine_slots.take(slot);
        }
    }

    /// When the allocations of an unreachable machine are lost: the earliest of them.
    fn note_unreachable(&mut self, machine: &Machine, cell: &Cell) {
        let slot = machine.id.slot;
        let time = if machine.state == MachineState::Unreachable {
            let active = self.tenants.active_on(cell, &self.ring, slot);
            clock::loss_times(cell, &self.homes, slot, &active, self.opened_at).min()
        } else {
            self.given_up.remove(&slot);
            None
        };
        self.put_loss(slot, time);
    }

    /// From now on something of a machine is lost then, or never.
    pub(crate) fn put_loss(&mut self, slot: u32, time: Option<LogTime>) {
        let further = self.given_up.contains(&slot);
        self.losses.put(slot, time.filter(|_| !further));
        self.further_losses.put(slot, time.filter(|_| further));
    }

    /// When what is left on a draining machine is stopped. It takes no claims: what is there when the drain begins is all there is, but for what
    /// its agent finds there that the cell does not know.
    pub(crate) fn note_drain(&mut self, machine: &Machine) {
        let deadline = machine.drain_deadline.filter(|_| machine.state == MachineState::Draining);
        let due = |deadline: Deadline| match deadline.time() {
            _ if planted::is(Bug::DrainsTooSoon) => machine.since,
            time if planted::is(Bug::DrainsTooLate) => time.plus_micros(10_000_000),
            time => time,
        };
        self.drains.put(machine.id.slot, deadline.map(due));
    }

    /// Gives back the rows of what a change of a job takes away, and takes those of what it brings.
    fn free_rows(&mut self, now: Revision, change: &JobChange, cell: &Cell, options: &CoreOptions) {
        match change {
            JobChange::Put { job, .. } => {
                match cell.job_in(job.id.slot) {
                    Some(replaced) => {
                        self.give_groups(now, replaced, cell);
                        self.forget_retirement(replaced, options);
                        self.job_bytes.remove(replaced);
                    }
                    None => self.job_slots.take(job.id.slot),
                }
                self.job_bytes.add(job);
                self.tasks += job.shape.groups.iter().map(|group| u64::from(group.count)).sum::<u64>();
            }
            JobChange::Group { row, count, task_base, .. } => {
                if let Some(group) = cell.groups().get(*row) {
                    // Nobody writes a task's row after the delta that scales it away: what still leaves of it only counts for its group.
                    if group.task_base != *task_base {
                        self.task_rows.give(group.task_base, group.count);
                    } else if *count < group.count {
                        self.task_rows.shrink(group.task_base, group.count, *count);
                    }
                    self.tasks = self.tasks - u64::from(group.count) + u64::from(*count);
                }
            }
            JobChange::Removed(id) => {
                if let Some(job) = cell.job(*id) {
                    self.give_groups(now, job, cell);
                    self.job_slots.give(id.slot);
                    self.rules.forget(job);
                    self.forget_retirement(job, options);
                    self.job_bytes.remove(job);
                }
            }
            JobChange::State { .. } | JobChange::Home { .. } | JobChange::Launched { .. } => {}
        }
    }

    /// A job that is over goes, or begins again: when it would have been retired is known from its row.
    fn forget_retirement(&mut self, job: &Job, options: &CoreOptions) {
        if job.state.is_final() {
            self.retires.remove(&(job.state_since.plus_micros(options.retire_after_micros), job.id));
        }
    }

    fn give_groups(&mut self, now: Revision, job: &Job, cell: &Cell) {
        for group in &job.shape.groups {
            self.shapes.remove(&group.resources, cell.shape_number(&group.resources), now);
        }
        let groups = rows(job.shape.groups.len());
        self.group_rows.give(job.group_base, groups);
        for group in (job.group_base..job.group_base + groups).filter_map(|row| cell.groups().get(row)) {
            self.task_rows.give(group.task_base, group.count);
            self.tasks -= u64::from(group.count);
        }
    }

    fn note_job(&mut self, delta: &Delta, change: &JobChange, cell: &Cell, options: &CoreOptions) {
        match change {
            JobChange::State { id, state, .. } if state.is_final() => {
                if self.final_jobs.insert(id.slot) {
                    self.final_job_count += 1;
                    cell.job(*id).into_iter().for_each(|job| self.job_bytes.end(job));
                }
                self.retires.insert((delta.time.plus_micros(options.retire_after_micros), *id));
            }
            JobChange::Put { job, .. } => {
                self.final_job_count -= usize::from(self.final_jobs.remove(job.id.slot));
                for group in &job.shape.groups {
                    self.shapes.add(&group.resources, cell.shape_number(&group.resources));
                }
            }
            JobChange::Removed(id) => {
                self.final_job_count -= usize::from(self.final_jobs.remove(id.slot));
            }
            _ => {}
        }
    }
}

/// Who has which resources, and which numbers of resources are free, from scratch.
pub(crate) fn count_shapes(cell: &Cell) -> Numbers<Resources> {
    let groups = cell.jobs().flat_map(|job| job.shape.groups.iter().map(|group| group.resources));
    Numbers::rebuild(groups, (0..).zip(cell.shapes().iter().copied()), cell.revision())
}

/// Rows for so many tenants.
pub(crate) fn rows(count: usize) -> u32 {
    u32::try_from(count).expect("bounded at the edge")
}

/// Whether a task that the cell does not know is in anybody's way.
pub(crate) fn occupies(traces: &TaskTraces) -> bool {
    !(traces.resources.is_nothing() && traces.devices.is_empty() && traces.ports.is_empty())
}

/// The kinds of devices that were there before and of which there is less now, or another model.
fn lost_kinds(now: &[Device], before: &[Device]) -> Kinds {
    let mut kinds = Kinds::default();
    if now == before {
        return kinds;
    }
    let is_there = |device: &&Device| {
        let same = |other: &&Device| other.index == device.index && other.kind == device.kind;
        now.iter().find(same).is_some_and(|found| found.model == device.model && found.millis >= device.millis)
    };
    before.iter().filter(|device| !is_there(device)).for_each(|device| kinds.insert(&device.kind));
    kinds
}
