//! What becomes of allocations after the grant, and what that means for tasks and jobs.

use std::collections::BTreeSet;

use plenum_core::Decided;
use plenum_model::{
    AllocationId, AllocationState, Delta, JobChange, JobId, JobKind, JobShape, JobState, LogTime, MachineState,
    TaskState, Transition,
};

use crate::picture::{Allocation, Job, Picture};
use crate::twin::{Expected, Twin, What};

/// Finished jobs stay for so long in these tests.
pub(crate) const RETIRE_AFTER_MICROS: i64 = 10_000_000;

/// Machines that may be given up within a minute, in thousandths of all.
pub(crate) const LOST_MILLIS_A_MINUTE: u32 = 400;

/// What the ends of one command lead to.
#[derive(Default)]
struct Aftermath {
    failed: BTreeSet<JobId>,
    succeeded: BTreeSet<JobId>,
    /// Jobs that lost the machine that their tasks share, or something of what they ran there.
    homeless: BTreeSet<JobId>,
    /// What is lost is lost with its machine, which booted or is removed, and not alone.
    with_machine: bool,
    /// Jobs of which the last that ended on the machine that their tasks share was told to, or was lost.
    vacated: BTreeSet<JobId>,
}

impl Twin {
    /// An active allocation begins to leave; its task waits again.
    pub(crate) fn leave(&mut self, id: AllocationId, state: AllocationState) {
        let found = self.live.allocations.get_mut(&id).unwrap();
        (found.state, found.ready) = (state, false);
        let (job, group, task) = (found.job, found.group, found.task);
        self.live.task_mut(job, group, task).unwrap().state = TaskState::Waiting;
    }

    /// All active allocations of a job are stopped.
    pub(crate) fn stop_all(&mut self, job: JobId) {
        let of = self.live.allocations.iter().filter(|(_, found)| found.job == job && found.state.is_active());
        let ids: Vec<_> = of.map(|(&id, _)| id).collect();
        ids.into_iter().for_each(|id| self.leave(id, AllocationState::Stopping));
    }

    /// Allocations end together, as their machine booted.
    pub(crate) fn end_all(&mut self, ends: Vec<(AllocationId, AllocationState)>) {
        self.end_all_and_remove(ends, None);
    }

    /// Allocations end together, with the machine that is removed, if one is: jobs whose tasks share it start over.
    pub(crate) fn end_all_and_remove(&mut self, ends: Vec<(AllocationId, AllocationState)>, removed: Option<u32>) {
        let before = self.live.clone();
        let mut aftermath = Aftermath { with_machine: true, ..Aftermath::default() };
        let shares = |job: &&Job| job.shape.same_machine && job.home.is_some() && job.home == removed;
        let homeless = before.jobs.iter().filter(|(_, job)| shares(job) && !job.state.is_final());
        aftermath.homeless.extend(homeless.map(|(&id, _)| id));
        ends.into_iter().for_each(|(id, reported)| self.end(id, reported, &mut aftermath));
        self.conclude(aftermath);
    }

    /// A receipt: nothing of it runs any more.
    fn end(&mut self, id: AllocationId, reported: AllocationState, aftermath: &mut Aftermath) {
        let found = self.live.allocations.remove(&id).unwrap();
        self.note(found.machine, What::End);
        let told = found.state.is_leaving() || !matches!(reported, AllocationState::Failed | AllocationState::Complete);
        if self.live.jobs[&found.job].home == Some(found.machine) {
            if told {
                aftermath.vacated.insert(found.job);
            } else {
                aftermath.vacated.remove(&found.job);
            }
        }
        if found.state.is_leaving() {
            return;
        }
        let (now, group) = (self.now, usize::from(found.group));
        let task = self.live.task_mut(found.job, found.group, found.task).unwrap();
        task.state = TaskState::Waiting;
        let job = self.live.jobs.get_mut(&found.job).unwrap();
        if job.state.is_final() {
            return;
        }
        let shape = job.shape.clone();
        let failed = match reported {
            AllocationState::Complete => shape.kind == JobKind::Forever,
            AllocationState::Failed => true,
            AllocationState::EndedLost if shape.same_machine => {
                if aftermath.with_machine && job.home == Some(found.machine) {
                    aftermath.homeless.insert(found.job);
                }
                return;
            }
            _ => return,
        };
        let task = &mut job.groups[group].tasks[found.task as usize];
        if !failed {
            task.state = TaskState::Done;
            aftermath.succeeded.insert(found.job);
            return;
        }
        task.failures = task.failures.saturating_add(1);
        let retry = shape.groups[group].retry;
        if retry.attempts.is_none_or(|attempts| u32::from(task.failures) <= attempts) {
            let until = now.plus_micros(retry.delay_micros);
            job.groups[group].not_before = job.groups[group].not_before.max(until);
        } else {
            task.state = TaskState::Failed;
            aftermath.failed.insert(found.job);
        }
    }

    /// Jobs fail, start over elsewhere, or are complete.
    fn conclude(&mut self, mut aftermath: Aftermath) {
        let now = self.now;
        aftermath.homeless.retain(|&job| !self.live.runs(job));
        for &id in &aftermath.failed {
            let job = self.live.jobs.get_mut(&id).unwrap();
            (job.state, job.since) = (JobState::Failed, now);
            self.stop_all(id);
        }
        for id in aftermath.homeless.difference(&aftermath.failed) {
            let job = self.live.jobs.get_mut(id).unwrap();
            job.home = None;
            let tasks = job.groups.iter_mut().flat_map(|group| &mut group.tasks);
            tasks.filter(|task| task.state == TaskState::Done).for_each(|task| task.state = TaskState::Waiting);
        }
        for id in aftermath.vacated.difference(&aftermath.homeless) {
            let home = self.live.jobs[id].home;
            let is_there = |found: &Allocation| found.job == *id && Some(found.machine) == home;
            if self.live.allocations.values().any(is_there) {
                continue;
            }
            let job = self.live.jobs.get_mut(id).unwrap();
            let mut tasks = job.groups.iter().flat_map(|group| &group.tasks);
            if !job.state.is_final() && tasks.all(|task| task.state != TaskState::Done) {
                job.home = None;
            }
        }
        for id in &aftermath.succeeded {
            let job = self.live.jobs.get_mut(id).unwrap();
            let mut tasks = job.groups.iter().flat_map(|group| &group.tasks);
            let over = aftermath.homeless.contains(id) || aftermath.failed.contains(id);
            if !over && tasks.all(|task| task.state == TaskState::Done) {
                (job.state, job.since) = (JobState::Complete, now);
            }
        }
    }

    /// Agents report. What is of an old epoch, unknown or said before has no effect.
    pub(crate) fn report(&mut self, transitions: &[Transition], decided: &Decided) -> Expected {
        let before = self.live.clone();
        let mut aftermath = Aftermath::default();
        let mut ended = Vec::new();
        let mut changed = false;
        for transition in transitions {
            let machine = self.live.machines.get(&transition.machine.slot);
            let current =
                machine.is_some_and(|machine| (machine.id, machine.epoch) == (transition.machine, transition.epoch));
            let found = self.live.allocations.get_mut(&transition.allocation);
            let Some(found) = found.filter(|found| current && found.machine == transition.machine.slot) else {
                continue;
            };
            let seen = (found.state, found.ready, found.restarts);
            if transition.state.is_end() {
                ended.push((transition.allocation, found.restarts.max(transition.restarts)));
                self.end(transition.allocation, transition.state, &mut aftermath);
                changed = true;
            } else if found.state.is_active() && transition.state >= found.state {
                found.state = transition.state;
                found.ready = transition.ready;
                found.restarts = found.restarts.max(transition.restarts);
                // There and back again within one report is a change, too.
                changed |= seen != (found.state, found.ready, found.restarts);
            }
        }
        if let Decided::Changed { delta, .. } = decided {
            for (id, restarts) in ended {
                let last = delta.moves.iter().rev().find(|change| change.slot == id.slot);
                let told = last.map_or(before.allocations[&id].restarts, |change| change.restarts);
                assert_eq!(told, restarts, "restarts of {id}, which ended");
            }
        }
        self.conclude(aftermath);
        if changed { Expected::Changed } else { Expected::Unchanged }
    }

    /// Time passes. Which of the things that are due come first is the core's choice; each must be due, and none may be left.
    pub(crate) fn tick(&mut self, decided: &Decided) -> Expected {
        self.given_up_at.retain(|time| time.plus_micros(60_000_000) > self.now);
        let changed = match decided {
            Decided::Changed { delta, .. } => {
                self.retire(delta);
                self.lose(delta);
                Expected::Changed
            }
            _ => Expected::Unchanged,
        };
        let left = self.live.jobs.iter().find(|(id, job)| self.is_retirable(**id, job));
        assert_eq!(left, None, "is due, and stays");
        for (left, slot) in overdue(&self.live, self.now, self.opened_at) {
            let waits = !self.given_up.contains(&slot) && self.given_up_at.len() >= self.may_be_given_up();
            assert!(waits, "{left} of machine {slot} is due, and stays");
        }
        changed
    }

    fn is_retirable(&self, id: JobId, job: &Job) -> bool {
        let over = job.since.plus_micros(RETIRE_AFTER_MICROS) <= self.now;
        job.state.is_final() && over && !self.live.has_allocations(id)
    }

    fn retire(&mut self, delta: &Delta) {
        for change in &delta.jobs {
            if let JobChange::Removed(id) = change {
                assert!(self.is_retirable(*id, &self.live.jobs[id]), "{id} is retired too early");
                self.live.jobs.remove(id);
            }
        }
    }

    /// Machines that may be given up within a minute.
    fn may_be_given_up(&self) -> usize {
        (self.live.machines.len() * LOST_MILLIS_A_MINUTE as usize / 1000).max(1)
    }

    fn lose(&mut self, delta: &Delta) {
        let before = self.live.clone();
        let mut aftermath = Aftermath::default();
        let overdue = overdue(&before, self.now, self.opened_at);
        let moved: BTreeSet<u32> = delta.moves.iter().map(|change| change.slot).collect();
        let homeless: BTreeSet<JobId> = delta.jobs.iter().filter_map(left_home).collect();
        let homes = overdue_homes(&before, self.now, self.opened_at);
        let by_move = overdue.iter().filter(|(id, _)| moved.contains(&id.slot)).map(|&(_, slot)| slot);
        let by_home = homes.iter().filter(|(id, _)| homeless.contains(id)).map(|&(_, slot)| slot);
        let lost: BTreeSet<u32> = by_move.chain(by_home).collect();
        let turns = lost.difference(&self.given_up).count();
        self.given_up_at.extend(std::iter::repeat_n(self.now, turns));
        let few = turns == 0 || self.given_up_at.len() <= self.may_be_given_up();
        assert!(few, "too many machines are given up in a minute");
        self.given_up.extend(&lost);
        for (id, slot) in overdue {
            assert_eq!(moved.contains(&id.slot), lost.contains(&slot), "{id} has the fate of its machine's others");
            if lost.contains(&slot) {
                let job = before.allocations[&id].job;
                if before.jobs[&job].shape.same_machine && before.jobs[&job].home == Some(slot) {
                    aftermath.homeless.insert(job);
                }
                self.leave(id, AllocationState::Lost);
            }
        }
        for (id, slot) in homes.into_iter().filter(|(_, slot)| lost.contains(slot)) {
            assert!(homeless.contains(&id), "{id} keeps machine {slot}, which is given up");
            aftermath.homeless.insert(id);
        }
        assert_eq!(
            moved.len(),
            self.live.allocations.iter().filter(|(id, found)| before.allocations[id] != **found).count()
        );
        self.conclude(aftermath);
    }
}

/// Allocations of unreachable machines whose time is over, with their machines.
pub(crate) fn overdue(picture: &Picture, now: LogTime, opened_at: LogTime) -> Vec<(AllocationId, u32)> {
    let mut overdue = Vec::new();
    for (&id, found) in picture.allocations.iter().filter(|(_, found)| found.state.is_active()) {
        let machine = &picture.machines[&found.machine];
        let shape = &picture.jobs[&found.job].shape;
        let own = shape.groups[usize::from(found.group)].lost_after_micros;
        let after = if shape.same_machine { longest(shape) } else { own };
        let over = after.is_some_and(|after| machine.since.max(opened_at).plus_micros(after) <= now);
        if machine.state == MachineState::Unreachable && over {
            overdue.push((id, found.machine));
        }
    }
    overdue
}

/// After how long all is lost of a job whose tasks share a machine.
fn longest(shape: &JobShape) -> Option<i64> {
    let longest = shape.groups.iter().map(|group| group.lost_after_micros.unwrap_or(i64::MAX)).max();
    longest.filter(|longest| *longest < i64::MAX)
}

/// The job that has no machine for its tasks to share any more.
fn left_home(change: &JobChange) -> Option<JobId> {
    match change {
        JobChange::Home { id, machine: None } => Some(*id),
        _ => None,
    }
}

/// Jobs that run nothing and whose shared machine was unreachable too long, with it.
fn overdue_homes(picture: &Picture, now: LogTime, opened_at: LogTime) -> Vec<(JobId, u32)> {
    let mut overdue = Vec::new();
    for (&id, job) in picture.jobs.iter().filter(|(_, job)| !job.state.is_final()) {
        let Some(slot) = job.home else { continue };
        let machine = &picture.machines[&slot];
        let over = longest(&job.shape).is_some_and(|after| machine.since.max(opened_at).plus_micros(after) <= now);
        if machine.state == MachineState::Unreachable && !picture.runs(id) && over {
            overdue.push((id, slot));
        }
    }
    overdue
}
