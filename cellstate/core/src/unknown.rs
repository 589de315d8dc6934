//! Tasks that agents run and the cell does not know, as after a restore: they occupy their room until their agent's receipt, are told
//! to stop after a time, which begins anew when a server opens, and run on if somebody adopts them. At the deadline of a drain all of that
//! machine are told to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    AllocationId, CPU_MILLIS_MAX, Cell, Delta, Inventory, LogTime, Machine, MachineId, Rejection, RejectionCode,
    UnknownId, UnknownTask, floor_of,
};

use crate::{Core, Handled, Verdict, accepted};

/// Most unknown tasks of one machine: more than it can run in earnest, and few enough for one frame of the log.
const UNKNOWN_MAX: usize = 4096;

/// When unknown tasks are told to stop. Invariant: each that is neither adopted nor told is here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct UnknownDue {
    tasks: BTreeSet<(LogTime, UnknownId)>,
    /// None before: nobody could adopt one while no server was there, and each that opens gives the whole time for it.
    earliest: LogTime,
}

impl UnknownDue {
    pub(crate) fn rebuild(cell: &Cell, earliest: LogTime) -> Self {
        let tasks = cell.unknown_tasks().filter_map(|(id, task)| Some((due(task, earliest)?, id)));
        Self { tasks: tasks.collect(), earliest }
    }

    /// Notes what a delta is about to change.
    pub(crate) fn before(&mut self, delta: &Delta, cell: &Cell) {
        for (id, _) in &delta.unknown {
            if let Some(due) = cell.unknown_task(*id).and_then(|task| due(task, self.earliest)) {
                self.tasks.remove(&(due, *id));
            }
        }
    }

    /// Notes what a delta has changed.
    pub(crate) fn after(&mut self, delta: &Delta) {
        let earliest = self.earliest;
        let changed = delta.unknown.iter().filter_map(|(id, task)| Some((due(task.as_ref()?, earliest)?, *id)));
        self.tasks.extend(changed);
    }

    /// Whether it says the same as the cell.
    #[cfg(debug_assertions)]
    pub(crate) fn is_that_of(&self, cell: &Cell) -> bool {
        *self == Self::rebuild(cell, self.earliest)
    }

    pub(crate) fn first(&self) -> Option<LogTime> {
        self.tasks.first().map(|(time, _)| *time)
    }
}

fn due(task: &UnknownTask, earliest: LogTime) -> Option<LogTime> {
    task.until.filter(|_| !task.stopping).map(|until| until.max(earliest))
}

impl Core {
    /// What an agent's inventory says of tasks that the cell does not have on this machine. `fresh`: the agent has heard of the present
    /// epoch; only then may it tell that one of before is there no more, or else its next report does.
    pub(crate) fn sort_out_unknown(
        &self,
        machine: &Machine,
        inventory: &[Inventory],
        fresh: bool,
        delta: &mut Delta,
    ) -> Result<(), Rejection> {
        let slot = machine.id.slot;
        let known = |id: AllocationId| {
            let granted = self.cell.allocation(id).filter(|_| !planted::is(Bug::ForgetsWhatItGranted));
            granted.is_some_and(|found| found.row.machine == slot)
        };
        let live = inventory.iter().filter(|item| item.state.is_live() && !known(item.allocation));
        let found: BTreeMap<AllocationId, &Inventory> = live.map(|item| (item.allocation, item)).collect();
        let mut before: BTreeSet<AllocationId> = BTreeSet::new();
        let (mut kept, mut cpu_millis) = (0, 0_u64);
        for (id, task) in self.cell.unknown_on(slot) {
            before.insert(id.allocation);
            if fresh && !found.contains_key(&id.allocation) {
                delta.unknown.push((id, None));
            } else {
                // It has the room that was counted when it was found, whatever its agent says of it now.
                kept += 1;
                cpu_millis += task.traces.resources.cpu_millis;
            }
        }
        let new = found.into_iter().filter(|(allocation, _)| !before.contains(allocation));
        let new = self.with_a_place(kept, new.collect());
        kept += new.len();
        let traces = new.iter().filter_map(|(_, item, _)| item.task.as_ref());
        cpu_millis += traces.map(|task| task.resources.cpu_millis).sum::<u64>();
        if kept > UNKNOWN_MAX || cpu_millis > CPU_MILLIS_MAX {
            let message = format!(
                "{} would have {kept} tasks with {cpu_millis} cpu_millis that the cell does not know; at most {UNKNOWN_MAX} with {CPU_MILLIS_MAX} are kept; \
                 stop some there, or remove the machine: it comes back as another one",
                machine.name
            );
            return Err(Rejection::new(RejectionCode::LimitReached, message));
        }
        for (allocation, item, ended_here) in new.into_iter().filter(|_| !planted::is(Bug::ForgetsUnknownTasks)) {
            let until = if ended_here { delta.time } else { delta.time.plus_micros(self.options.unknown_micros) };
            let task = UnknownTask {
                machine: machine.id,
                traces: item.task.clone().unwrap_or_default(),
                since: delta.time,
                until: Some(until),
                stopping: ended_here,
            };
            delta.unknown.push((UnknownId { machine: slot, allocation }, Some(Arc::new(task))));
        }
        Ok(())
    }

    /// Those of `found` that have a place beside as many others, each with whether it has ended here. Those that have get the places that are left; the
    /// rest are not in the books: what an agent is not told of it stops, before it starts anything.
    fn with_a_place<'a>(
        &self,
        others: usize,
        found: Vec<(AllocationId, &'a Inventory)>,
    ) -> Vec<(AllocationId, &'a Inventory, bool)> {
        let found = found.into_iter().map(|(allocation, item)| (allocation, item, self.has_ended_here(allocation)));
        let mut found: Vec<_> = found.collect();
        let rest = found.iter().filter(|(_, _, ended_here)| !ended_here).count();
        found.sort_by_key(|(_, _, ended_here)| *ended_here);
        found.truncate(rest.max(UNKNOWN_MAX.saturating_sub(others)));
        found
    }

    /// Whether the cell has known an allocation that it does not have: what was granted in this life of it has ended here, as with a machine that
    /// was removed, and so has what came with the backup that it was restored of, as far as its row still tells. Nobody can want to adopt that.
    fn has_ended_here(&self, allocation: AllocationId) -> bool {
        let floor = floor_of(self.cell.identity().incarnation);
        let tenant = self.cell.allocation_rows().get(allocation.slot).map_or(0, |row| row.generation);
        allocation.generation > floor || (allocation.generation..=floor).contains(&tenant)
    }

    /// None of them can run any more: the machine booted, or is taken out of the cell.
    pub(crate) fn forget_unknown(&self, slot: u32, delta: &mut Delta) {
        delta.unknown.extend(self.cell.unknown_on(slot).map(|(id, _)| (id, None)));
    }

    /// Unknown tasks whose time is over at `now`, as they are once they were told to stop, and those of machines whose drain is over, adopted or
    /// not; at most `max` of them.
    pub(crate) fn unknown_to_stop(
        &self,
        now: LogTime,
        drained: impl Iterator<Item = u32>,
        max: usize,
    ) -> Vec<(UnknownId, Option<Arc<UnknownTask>>)> {
        let UnknownDue { tasks, earliest } = &self.derived.unknown_due;
        let over = tasks.iter().take_while(|(due, _)| *due <= now);
        let over = over.filter_map(|&(_, id)| Some((id, self.cell.unknown_task(id)?)));
        let is_over = |task: &UnknownTask| due(task, *earliest).is_some_and(|due| due <= now);
        let drained = drained.flat_map(|slot| self.cell.unknown_on(slot));
        let drained = drained.filter(|(_, task)| !task.stopping && !is_over(task));
        let stopping = |task: &UnknownTask| {
            let until = due(task, *earliest).map_or(now, |due| due.min(now));
            Some(Arc::new(UnknownTask { until: Some(until), stopping: true, ..task.clone() }))
        };
        let told = over.chain(drained).take(max);
        told.map(|(id, task)| (id, stopping(task).filter(|_| !planted::is(Bug::FreesUnknownTasks)))).collect()
    }

    /// Tells an unknown task to stop, adopted or not, by what its agent calls it. It is not looked for by machine, as who asks knows of none;
    /// should it be on several, all of them are meant.
    pub(crate) fn stop_unknown(&mut self, allocation: AllocationId, now: LogTime) -> Handled {
        let answer = accepted(allocation.to_bits(), 0);
        let mut delta = self.draft(now);
        let mut is_there = false;
        for (id, task) in self.cell.unknown_tasks().filter(|(id, _)| id.allocation == allocation) {
            is_there = true;
            if !task.stopping {
                let stopping = UnknownTask { until: Some(delta.time), stopping: true, ..(**task).clone() };
                delta.unknown.push((id, Some(Arc::new(stopping))));
            }
        }
        if !is_there {
            let message = format!("{allocation} has ended, or never was");
            return Err(Rejection::new(RejectionCode::NoSuchAllocation, message));
        }
        Ok(if delta.unknown.is_empty() { Verdict::Answer(answer) } else { Verdict::Change(answer, delta) })
    }

    /// Lets an unknown task run on until it ends by itself, or its machine is drained.
    pub(crate) fn adopt_unknown(&mut self, machine: MachineId, allocation: AllocationId, now: LogTime) -> Handled {
        let machine = self.known(machine)?;
        let id = UnknownId { machine: machine.id.slot, allocation };
        let refuse = |what: &str| {
            let message =
                format!("{allocation} on {} {what}; `plenum machine show` lists those that run", machine.name);
            Err(Rejection::new(RejectionCode::NoSuchTask, message))
        };
        let answer = accepted(allocation.to_bits(), 0);
        let adopted = match self.cell.unknown_task(id) {
            None => return refuse("is no unknown task, or has ended"),
            Some(task) if task.stopping => return refuse("was told to stop, and can't be adopted any more"),
            Some(task) if task.until.is_none() => return Ok(Verdict::Answer(answer)),
            Some(task) => UnknownTask { until: None, ..(**task).clone() },
        };
        let mut delta = self.draft(now);
        delta.unknown.push((id, Some(Arc::new(adopted))));
        Ok(Verdict::Change(answer, delta))
    }
}
