//! Folding and reading quotas, holds, partitions, unknown tasks and paused schedulers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Cell;
use crate::delta::Subject;
use crate::planted::{self, Bug};
use crate::{Delta, FoldError, Hold, Job, JobId, Partition, Quota, Room, Sum, TaskState, UnknownId, UnknownTask};

impl Cell {
    /// Folds what a delta says of these.
    pub(super) fn change_governance(&mut self, delta: &Delta) -> Result<(), FoldError> {
        for (namespace, quota) in &delta.quotas {
            put(Arc::make_mut(&mut self.quotas), namespace.clone(), *quota);
        }
        let revision = self.revision;
        for (job, hold) in &delta.holds {
            self.put_hold(*job, hold.as_ref());
            let machines = hold.iter().flat_map(|hold| &hold.machines);
            machines.for_each(|&machine| self.machines.get_mut(machine).last_change = revision);
        }
        for (name, partition) in &delta.partitions {
            put(Arc::make_mut(&mut self.partitions), name.clone(), partition.clone());
        }
        for (id, task) in &delta.unknown {
            self.put_unknown(*id, task.as_ref())?;
            self.machines.get_mut(id.machine).last_change = revision;
        }
        for (scheduler, paused) in &delta.paused {
            let all = Arc::make_mut(&mut self.paused);
            if *paused {
                all.insert(scheduler.clone())
            } else {
                all.remove(scheduler)
            };
        }
        Ok(())
    }

    pub(super) fn put_hold(&mut self, job: JobId, hold: Option<&Hold>) {
        let before = self.holds.get(&job).map(|hold| hold.machines.clone()).unwrap_or_default();
        let held = Arc::make_mut(&mut self.held);
        for machine in before {
            if let Some(jobs) = held.get_mut(&machine) {
                jobs.retain(|other| *other != job);
                if jobs.is_empty() {
                    held.remove(&machine);
                }
            }
        }
        for &machine in hold.map(|hold| hold.machines.as_slice()).unwrap_or_default() {
            let jobs = held.entry(machine).or_default();
            if let Err(place) = jobs.binary_search(&job) {
                jobs.insert(place, job);
            }
        }
        put(Arc::make_mut(&mut self.holds), job, hold.cloned());
    }

    pub(super) fn put_unknown(&mut self, id: UnknownId, task: Option<&Arc<UnknownTask>>) -> Result<(), FoldError> {
        let before = self.unknown.get(&id).cloned();
        if self.machine_row(id.machine).is_none() && task.is_some() {
            return self.fault(Subject::Unknown(id), "is on a machine that is not there");
        }
        let there = self.machine_row(id.machine).is_some();
        if let Some(before) = before.filter(|_| there) {
            self.give_amount(id.machine, &before.traces.resources);
        }
        if let Some(task) = task {
            self.take_amount(id.machine, &task.traces.resources);
        }
        put(Arc::make_mut(&mut self.unknown), id, task.cloned());
        self.refresh_in_use(id.machine);
        Ok(())
    }

    /// What a namespace may have at most; `None` for no limit.
    #[must_use]
    pub fn quota(&self, namespace: &str) -> Option<&Quota> {
        self.quotas.get(namespace)
    }

    /// All quotas, by namespace.
    pub fn quotas(&self) -> impl Iterator<Item = (&Arc<str>, &Quota)> {
        self.quotas.iter()
    }

    /// Whether any namespace has a quota.
    #[must_use]
    #[inline]
    pub fn has_quotas(&self) -> bool {
        !self.quotas.is_empty()
    }

    /// What of its namespace's quota a job uses: its allocations that are neither leaving nor lost, and its hold. A walk over its tasks.
    #[must_use]
    pub fn use_of(&self, job: &Job) -> Sum {
        let mut sum = Sum::default();
        for group in (job.group_base..).take(job.shape.groups.len()).filter_map(|row| self.groups.get(row)) {
            let tasks = if group.tasks_in(TaskState::Live) > 0 { group.count } else { 0 };
            let live = (0..tasks).filter_map(|task| self.task(group, task)?.allocation.checked_sub(1));
            live.filter_map(|slot| self.allocations.get(slot)).for_each(|row| sum.add(&self.resources_of(row), 1));
        }
        if let Some(hold) = self.hold(job.id) {
            sum.add(&hold.resources, hold.machines.len());
        }
        sum
    }

    /// The hold of a job.
    #[must_use]
    pub fn hold(&self, job: JobId) -> Option<&Hold> {
        self.holds.get(&job)
    }

    /// All holds, by job.
    pub fn holds(&self) -> impl Iterator<Item = (JobId, &Hold)> {
        self.holds.iter().map(|(&job, hold)| (job, hold))
    }

    /// Whether any job holds room.
    #[must_use]
    #[inline]
    pub fn has_holds(&self) -> bool {
        !self.holds.is_empty()
    }

    /// The jobs that hold room on a machine.
    #[must_use]
    pub fn held_by(&self, machine: u32) -> &[JobId] {
        self.held.get(&machine).map_or(&[], Vec::as_slice)
    }

    /// What is free on a machine for a job: holds of others are taken room.
    #[must_use]
    pub fn room_for(&self, machine: u32, job: JobId) -> Room {
        let mut room = self.room(machine);
        if self.has_holds() && !planted::is(Bug::OverlooksHolds) {
            let others = self.held_by(machine).iter().filter(|&&other| other != job);
            others.filter_map(|other| self.holds.get(other)).for_each(|hold| room.take(&hold.resources));
        }
        room
    }

    /// A partition by its name.
    #[must_use]
    pub fn partition(&self, name: &str) -> Option<&Partition> {
        self.partitions.get(name)
    }

    /// All partitions, by name.
    pub fn partitions(&self) -> impl Iterator<Item = (&Arc<str>, &Partition)> {
        self.partitions.iter()
    }

    /// A task that agents found and the cell does not know.
    #[must_use]
    pub fn unknown_task(&self, id: UnknownId) -> Option<&Arc<UnknownTask>> {
        self.unknown.get(&id)
    }

    /// All of them, by machine.
    pub fn unknown_tasks(&self) -> impl Iterator<Item = (UnknownId, &Arc<UnknownTask>)> {
        self.unknown.iter().map(|(&id, task)| (id, task))
    }

    /// Whether an operator keeps this scheduler's transactions out.
    #[must_use]
    pub fn is_paused(&self, scheduler: &str) -> bool {
        self.paused.contains(scheduler)
    }

    /// All schedulers that are kept out, by name.
    pub fn paused(&self) -> impl Iterator<Item = &Arc<str>> {
        self.paused.iter()
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
