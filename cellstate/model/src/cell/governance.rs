//! Folding and reading quotas, holds, partitions, unknown tasks, paused schedulers and their rights.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::Cell;
use super::extras::Turnover;
use crate::delta::Subject;
use crate::planted::{self, Bug};
use crate::{
    AllocationId, DIMENSIONS, Delta, FoldError, GroupRow, Hold, Job, JobId, JobShape, MachineRow, MachineState,
    Partition, Quota, Resource, Resources, Revision, Rights, Room, Sum, TaskState, TaskTraces, UnknownId, UnknownTask,
    floor_of,
};

/// Who holds room on a machine, and how much all of them do: a claim looks at the sum, and not at a thousand holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Rising.
    jobs: Vec<JobId>,
    sum: Room,
}

impl Held {
    fn join(&mut self, job: JobId, resources: &Resources) {
        if let Err(place) = self.jobs.binary_search(&job) {
            self.jobs.insert(place, job);
            self.sum.add(resources);
        }
    }

    fn leave(&mut self, job: JobId, resources: &Resources) {
        if let Ok(place) = self.jobs.binary_search(&job) {
            self.jobs.remove(place);
            self.sum.take(resources);
        }
    }
}

/// Which task, by what an agent is told of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskName {
    namespace: Arc<str>,
    job: Arc<str>,
    group: Arc<str>,
    task: u32,
}

impl From<&TaskTraces> for TaskName {
    fn from(traces: &TaskTraces) -> Self {
        let TaskTraces { namespace, job, group, task, .. } = traces;
        Self { namespace: namespace.clone(), job: job.clone(), group: group.clone(), task: *task }
    }
}

impl Cell {
    /// Folds what a delta says of these.
    pub(super) fn change_governance(&mut self, delta: &Delta) -> Result<(), FoldError> {
        for (namespace, quota) in &delta.quotas {
            put(Arc::make_mut(&mut self.quotas), namespace.clone(), *quota);
        }
        let revision = self.revision;
        for (job, hold) in &delta.holds {
            for &machine in hold.iter().flat_map(|hold| &hold.machines) {
                self.check_row(self.machines.len(), machine, Subject::Job(*job))?;
            }
            self.put_hold(*job, hold.as_ref(), Some(revision));
        }
        for (name, partition) in &delta.partitions {
            put(Arc::make_mut(&mut self.partitions), name.clone(), partition.clone());
        }
        let mut turnover = Turnover::default();
        for (id, task) in &delta.unknown {
            self.check_row(self.machines.len(), id.machine, Subject::Unknown(*id))?;
            // One that was adopted or told to stop has what it had, and one that ends gives that back.
            let comes = task.is_some() && !self.unknown.contains_key(id);
            self.put_unknown(*id, task.as_ref(), &mut turnover)?;
            if comes {
                self.machines.get_mut(id.machine).last_change = revision;
            }
        }
        self.count_turnover(turnover);
        for (scheduler, paused) in &delta.paused {
            let all = Arc::make_mut(&mut self.paused);
            if *paused {
                all.insert(scheduler.clone())
            } else {
                all.remove(scheduler)
            };
        }
        for (scheduler, rights) in &delta.rights {
            let unusual = Some(*rights).filter(|rights| *rights != Rights::default());
            put(Arc::make_mut(&mut self.rights), scheduler.clone(), unusual);
        }
        Ok(())
    }

    /// `changes`: the revision that this is a change of; `None` where the rows of machines tell when they changed last.
    pub(super) fn put_hold(&mut self, job: JobId, hold: Option<&Hold>, changes: Option<Revision>) {
        // Mostly a hold loses one of its machines, or is renewed.
        for (machine, was, is) in Hold::differences(self.holds.get(&job).map(|hold| &**hold), hold) {
            let row = self.held.get_mut(machine);
            let held = Arc::make_mut(row.get_or_insert_default());
            held.leave(job, &was);
            if !is.is_nothing() {
                held.join(job, &is);
            }
            if held.jobs.is_empty() {
                *row = None;
            }
            // What is only given back leaves a machine as it was: a scheduler that was refused there before could have known.
            if let Some(revision) = changes.filter(|_| !is.without(&was).is_nothing()) {
                self.machines.get_mut(machine).last_change = revision;
            }
        }
        put(Arc::make_mut(&mut self.holds), job, hold.cloned().map(Arc::new));
    }

    /// What that makes of what is in use on its machine is only noted: a machine may get thousands at once.
    pub(super) fn put_unknown(
        &mut self,
        id: UnknownId,
        task: Option<&Arc<UnknownTask>>,
        turnover: &mut Turnover,
    ) -> Result<(), FoldError> {
        let before = self.unknown.get(&id).cloned();
        if self.machine_row(id.machine).is_none() && task.is_some() {
            return self.fault(Subject::Unknown(id), "is on a machine that is not there");
        }
        let there = self.machine_row(id.machine).is_some();
        if let Some(before) = before.as_ref().filter(|_| there) {
            self.give_amount(id.machine, &before.traces.resources);
        }
        if let Some(task) = task {
            self.take_amount(id.machine, &task.traces.resources);
        }
        put(Arc::make_mut(&mut self.unknown), id, task.cloned());
        let names = Arc::make_mut(&mut self.unknown_by_name);
        if let Some(before) = before.as_ref().filter(|_| !planted::is(Bug::NamesTheEnded)) {
            names.remove(&(TaskName::from(&*before.traces), id));
        }
        names.extend(task.map(|task| (TaskName::from(&*task.traces), id)));
        let of_machine = turnover.entry(id.machine).or_default();
        of_machine.came.extend(task.map(|task| task.traces.clone()));
        of_machine.went.extend(before.map(|before| before.traces.clone()));
        Ok(())
    }

    /// What a namespace may have at most; `None` for no limit.
    #[must_use]
    pub fn quota(&self, namespace: &str) -> Option<&Quota> {
        self.quotas.get(namespace)
    }

    /// All quotas, by namespace.
    pub fn quotas(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Quota)> {
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

    /// What is used of each quota, by namespace. A walk over all jobs, and over the tasks of those whose namespaces have a quota; over none where
    /// there is no quota.
    #[must_use]
    pub fn used_of_quotas(&self) -> BTreeMap<Arc<str>, Sum> {
        let mut used: BTreeMap<_, _> = self.quotas.keys().map(|name| (name.clone(), Sum::default())).collect();
        if used.is_empty() {
            return used;
        }
        for job in self.jobs() {
            if let Some(sum) = used.get_mut(&job.shape.namespace) {
                sum.join(&self.use_of(job));
            }
        }
        used
    }

    /// What of its namespace's use stands in the way of a job: its own hold, which was counted, is free room for it.
    #[must_use]
    pub fn used_beside(&self, job: JobId, mut used: Sum) -> Sum {
        if let Some(hold) = self.hold(job) {
            used.take(&hold.resources, hold.machines.len());
        }
        used
    }

    /// The hold of a job.
    #[must_use]
    pub fn hold(&self, job: JobId) -> Option<&Hold> {
        self.holds.get(&job).map(|hold| &**hold)
    }

    /// All holds, by job.
    pub fn holds(&self) -> impl ExactSizeIterator<Item = (JobId, &Hold)> {
        self.holds.iter().map(|(&job, hold)| (job, &**hold))
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
        self.held_on(machine).map_or(&[], |held| &held.jobs)
    }

    /// The other jobs that hold some of a resource on a machine, and how much each; who holds most comes first.
    #[must_use]
    pub fn held_beside(&self, machine: u32, job: JobId, resource: Resource) -> Vec<(u64, JobId)> {
        let others = self.held_by(machine).iter().filter(|&&holder| holder != job);
        let amounts = others.filter_map(|&holder| Some((self.hold(holder)?.resources.get(resource), holder)));
        let mut held: Vec<(u64, JobId)> = amounts.filter(|&(amount, _)| amount > 0).collect();
        held.sort_unstable_by_key(|&(amount, holder)| (Reverse(amount), holder));
        held
    }

    fn held_on(&self, machine: u32) -> Option<&Held> {
        self.held.get(machine)?.as_deref()
    }

    /// What is free on a machine for a job: holds of others are taken room.
    #[must_use]
    pub fn room_for(&self, machine: u32, job: JobId) -> Room {
        let mut room = self.room(machine);
        if self.has_holds()
            && !planted::is(Bug::OverlooksHolds)
            && let Some(held) = self.held_on(machine)
        {
            (0..DIMENSIONS).for_each(|dimension| room.0[dimension] -= held.sum.0[dimension]);
            if held.jobs.binary_search(&job).is_ok()
                && let Some(own) = self.holds.get(&job)
            {
                room.add(&own.resources);
            }
        }
        room
    }

    /// What a hold of a job may have on a machine: what is free beside the holds that come first, its own room among it. What later ones have there
    /// the cell takes from them. A job that has no hold yet comes last of its band; one that the cell does not have, last of all.
    #[must_use]
    pub fn room_to_hold(&self, machine: u32, job: JobId) -> Room {
        let priority_of = |of: JobId| self.job(of).map(|found| found.shape.priority);
        let first_wait = self.hold(job).map_or(Revision(u64::MAX), |hold| hold.first_wait);
        let rank = priority_of(job).map(|priority| Hold::rank_since(first_wait, priority, job));
        let mut room = self.room(machine);
        for &holder in self.held_by(machine).iter().filter(|&&holder| holder != job) {
            let (Some(hold), Some(priority)) = (self.hold(holder), priority_of(holder)) else { continue };
            if rank.is_none_or(|rank| hold.rank(priority, holder) < rank) {
                room.take(&hold.resources);
            }
        }
        room
    }

    /// A partition by its name.
    #[must_use]
    pub fn partition(&self, name: &str) -> Option<&Partition> {
        self.partitions.get(name)
    }

    /// All partitions, by name.
    pub fn partitions(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Partition)> {
        self.partitions.iter()
    }

    /// A task that agents found and the cell does not know.
    #[must_use]
    pub fn unknown_task(&self, id: UnknownId) -> Option<&Arc<UnknownTask>> {
        self.unknown.get(&id)
    }

    /// All of them, by machine.
    pub fn unknown_tasks(&self) -> impl ExactSizeIterator<Item = (UnknownId, &Arc<UnknownTask>)> {
        self.unknown.iter().map(|(&id, task)| (id, task))
    }

    /// Machines that were there when the cell was restored, and whose agents have neither registered since nor lost their leases: what they run of
    /// which the cell does not know, they are yet to tell. None in a cell that was never restored.
    #[must_use]
    #[inline]
    pub const fn unheard_machines(&self) -> u32 {
        self.unheard
    }

    /// The same, counted anew from the rows of all machines.
    #[must_use]
    pub fn unheard_machines_derived(&self) -> u32 {
        let unheard = self.machines.iter().filter(|row| self.is_unheard(row)).count();
        u32::try_from(unheard).expect("slots have 32-bit numbers")
    }

    /// Whether a machine is one of these: an epoch that began since is above the floor.
    #[inline]
    pub(super) fn is_unheard(&self, row: &MachineRow) -> bool {
        let floor = floor_of(self.identity.incarnation);
        (1..=floor).contains(&row.epoch) && row.state != MachineState::Unreachable
    }

    /// Whether tasks of a group may run unknown to the cell, where only one of each may run: by what all agents told, and mostly none does.
    #[must_use]
    #[inline]
    pub fn may_run_any_unknown(&self, group: &GroupRow) -> bool {
        group.single_instance && (self.unheard > 0 || !self.unknown_by_name.is_empty())
    }

    /// Whether an agent runs this very task unknown to the cell, or may turn out to, where only one of it may run.
    #[must_use]
    #[inline]
    pub fn may_run_unknown(&self, group: &GroupRow, task: u32) -> bool {
        let is_unheard = self.unheard > 0 && !planted::is(Bug::OverlooksTheUnheard);
        let runs = || self.unknown_predecessor(group, task).is_some() && !planted::is(Bug::OverlooksUnknownTasks);
        group.single_instance && (is_unheard || runs())
    }

    /// An unknown task that is this very task, of a group with single instances: whatever is placed for it waits until that one has ended. By their
    /// names alone, as no agent was told more: also one of an earlier job that had the name of this one.
    #[must_use]
    #[inline]
    pub fn unknown_predecessor(&self, group: &GroupRow, task: u32) -> Option<UnknownId> {
        if group.single_instance && !self.unknown_by_name.is_empty() { self.unknown_named(group, task) } else { None }
    }

    /// The first unknown task that is not found by its names, or that is found by some that it does not have; `None`: the names are those of the tasks. A
    /// pass over all unknown tasks.
    #[must_use]
    pub fn misnamed_unknown(&self) -> Option<UnknownId> {
        let names = self.unknown.iter().map(|(&id, task)| (TaskName::from(&*task.traces), id)).collect();
        self.unknown_by_name.symmetric_difference(&names).next().map(|&(_, id)| id)
    }

    #[inline(never)]
    fn unknown_named(&self, group: &GroupRow, task: u32) -> Option<UnknownId> {
        let JobShape { namespace, name, groups, .. } = &*self.job_in(group.job_slot)?.shape;
        let shape = groups.get(usize::from(group.position))?;
        let name = TaskName { namespace: namespace.clone(), job: name.clone(), group: shape.name.clone(), task };
        let first = UnknownId { machine: 0, allocation: AllocationId { slot: 0, generation: 0 } };
        let (found, id) = self.unknown_by_name.range((name.clone(), first)..).next()?;
        (*found == name).then_some(*id)
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

    /// What a scheduler is granted.
    #[must_use]
    pub fn rights_of(&self, scheduler: &str) -> Rights {
        self.rights.get(scheduler).copied().unwrap_or_default()
    }

    /// All schedulers that are granted something else than usual, by name.
    pub fn rights(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Rights)> {
        self.rights.iter()
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
