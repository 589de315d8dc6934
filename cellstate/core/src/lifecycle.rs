//! The life of allocations after the grant: what agents report, and what it means for tasks and jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::rare;
use plenum_model::{
    AllocationRef, AllocationRow, AllocationState, AllocationStatus, Cell, Delta, End, Job, JobChange, JobId, JobKind,
    JobState, LogTime, Move, STEPS_AHEAD, TaskChange, TaskState, Transition, UnknownId, coming,
};

use crate::derived::Derived;
use crate::derived::slot_set::SlotSet;
use crate::derived::sweeps::MATE_FAILED;
use crate::jobs::{groups_of, stop_live_tasks, stop_move};
use crate::{Core, Verdict, accepted};

/// What a job that starts over costs, and each of its groups, where a done task of it costs one: a task comes to six bytes in the log.
const HOME_COST: usize = 8;
const GROUP_COST: usize = 8;

/// Which allocations end or leave with the delta in the making: a report of thousands searches nothing.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    left: SlotSet,
    ended: SlotSet,
}

impl Marks {
    /// Forgets everything.
    fn begin(&mut self) {
        self.left.clear();
        self.ended.clear();
    }

    /// Brings what tells whether these end into the cache.
    fn warm(&self, slots: impl Iterator<Item = u32>) {
        slots.for_each(|slot| self.ended.prefetch(slot));
    }

    fn has_left(&self, slot: u32) -> bool {
        self.left.contains(slot)
    }

    fn has_ended(&self, slot: u32) -> bool {
        self.ended.contains(slot)
    }

    fn leave(&mut self, slot: u32) {
        self.left.insert(slot);
    }

    /// Notes an end; false if it was noted before.
    fn end(&mut self, slot: u32) -> bool {
        self.ended.insert(slot)
    }
}

/// Collects what a number of ends and moves mean, and draws the consequences for jobs once, at the end.
pub(crate) struct Consequences<'a> {
    cell: &'a Cell,
    now: LogTime,
    stops_max: usize,
    pub(crate) delta: Delta,
    marks: &'a mut Marks,
    /// By group row, tasks that are done with this delta.
    done: BTreeMap<u32, u32>,
    /// Jobs of which a task succeeded, with repetitions.
    succeeded: Vec<JobId>,
    failed: BTreeMap<JobId, Arc<str>>,
    /// Jobs that lost the machine that their tasks share, or something of what they ran there.
    homeless: BTreeSet<JobId>,
    /// Of jobs whose tasks share a machine, how many of these end there or begin to leave with this delta.
    departed: BTreeMap<JobId, u32>,
    /// Of such jobs, how many allocations end with this delta, and whether the last one that was on that machine was told to; `None`:
    /// none was there.
    vacated: BTreeMap<JobId, (u32, Option<bool>)>,
    /// Their machine booted. Nobody knows which of the ends came last: then a failure among them does. And what is lost is lost with all that
    /// was left there; on a machine that is there an agent says so of a task whose record it can't read, and of that one alone.
    pub(crate) booted: bool,
    slept: BTreeSet<u32>,
    ended_unknown: BTreeSet<UnknownId>,
}

impl<'a> Consequences<'a> {
    /// `stops_max`: so many moves, and what else is to be stopped of a job that failed is left to later commands.
    pub(crate) fn new(cell: &'a Cell, marks: &'a mut Marks, delta: Delta, stops_max: usize) -> Self {
        marks.begin();
        let now = delta.time;
        Self {
            cell,
            stops_max,
            now,
            delta,
            marks,
            done: BTreeMap::new(),
            succeeded: Vec::new(),
            failed: BTreeMap::new(),
            homeless: BTreeSet::new(),
            departed: BTreeMap::new(),
            vacated: BTreeMap::new(),
            booted: false,
            slept: BTreeSet::new(),
            ended_unknown: BTreeSet::new(),
        }
    }

    /// True when nothing came of it.
    pub(crate) fn is_empty(&self) -> bool {
        self.delta.moves.is_empty() && self.delta.ends.is_empty() && self.delta.unknown.is_empty()
    }

    /// An allocation ended: reported so, or known to be gone.
    pub(crate) fn end(&mut self, slot: u32, reported: AllocationState, exit_code: i32, reason: Option<Arc<str>>) {
        if let Some(found) = self.cell.allocation_in(slot) {
            self.end_found(&found, reported, exit_code, reason);
        }
    }

    fn end_found(
        &mut self,
        found: &AllocationRef<'_>,
        reported: AllocationState,
        exit_code: i32,
        reason: Option<Arc<str>>,
    ) {
        let slot = found.id.slot;
        let left = self.marks.has_left(slot);
        if !self.marks.end(slot) {
            return;
        }
        let (row, before) = (found.row, found.status.state);
        let leaving = before.is_leaving() || left;
        let state = match before {
            AllocationState::Stopping => AllocationState::Stopped,
            AllocationState::Evicting => AllocationState::Evicted,
            AllocationState::Lost => AllocationState::EndedLost,
            _ => reported,
        };
        let known = found.extra.and_then(|extra| extra.reason.clone());
        let reason = reason.or(known);
        if !leaving {
            self.end_task(row, state, exit_code, reason.as_deref());
        }
        self.vacate(row, state);
        // Hardly any has a reason, and one that is passed on costs more than all the rest: it was written in halves, and is read as a whole.
        self.delta.ends.push(End { slot, state, exit_code, reason: None });
        if reason.is_some() {
            self.delta.ends.last_mut().expect("it was pushed").reason = reason;
        }
    }

    /// The receipt of a task that the cell does not know.
    fn end_unknown(&mut self, transition: &Transition) {
        let id = UnknownId { machine: transition.machine.slot, allocation: transition.allocation };
        let there = transition.state.is_end() && self.cell.unknown_task(id).is_some();
        if there && self.ended_unknown.insert(id) {
            self.delta.unknown.push((id, None));
        }
    }

    /// What an end means for a task whose allocation was not leaving.
    fn end_task(&mut self, row: &AllocationRow, state: AllocationState, exit_code: i32, reason: Option<&str>) {
        let Some(job) = self.cell.job(row.job()).filter(|job| !job.state.is_final()) else { return };
        if job.shape.same_machine {
            self.depart(job, row.machine, self.booted && state == AllocationState::EndedLost);
        }
        let succeeded = state == AllocationState::Complete && job.shape.kind == JobKind::ToCompletion;
        let is_failure = matches!(state, AllocationState::Failed | AllocationState::Complete);
        if succeeded {
            self.change_task(row, TaskState::Done, 0);
            *self.done.entry(row.group_row).or_default() += 1;
            self.succeeded.push(row.job());
        } else if is_failure {
            self.fail_task(job, row, exit_code, reason);
        }
    }

    /// An active task of a job whose tasks share a machine ends or leaves, and with it, if it is taken from the machine that they share,
    /// perhaps that machine.
    fn depart(&mut self, job: &Job, machine: u32, is_taken: bool) {
        if job.home != Some(machine) {
            return;
        }
        *self.departed.entry(job.id).or_default() += 1;
        if is_taken {
            self.homeless.insert(job.id);
        }
    }

    /// An allocation of a job whose tasks share a machine ends, and with it perhaps the last one that binds the job to that machine. A
    /// failure does not: what it left behind is there for the next attempt.
    fn vacate(&mut self, row: &AllocationRow, state: AllocationState) {
        // Asked of the group first: of a random allocation neither its job nor what that declares is in the cache.
        if !self.cell.groups().get(row.group_row).is_some_and(|group| group.same_machine) {
            return;
        }
        let job = self.cell.job(row.job()).filter(|job| job.home.is_some());
        let Some(job) = job.filter(|job| !job.state.is_final()) else { return };
        let (ended, was_told) = self.vacated.entry(job.id).or_default();
        *ended += 1;
        // A receipt of one that was lost elsewhere says nothing of what is left on the machine that they share now.
        if job.home == Some(row.machine) {
            let is_told = !matches!(state, AllocationState::Failed | AllocationState::Complete);
            let failed_before = self.booted && *was_told == Some(false);
            *was_told = Some(is_told && !failed_before);
        }
    }

    fn change_task(&mut self, row: &AllocationRow, state: TaskState, more_failures: u8) {
        let group = self.cell.groups().get(row.group_row).copied().unwrap_or_default();
        let failures = self.cell.task(&group, row.task).map_or(0, |task| task.failures).saturating_add(more_failures);
        self.delta.tasks.push(TaskChange { group_row: row.group_row, task: row.task, state, failures });
    }

    /// A failure: the task waits for its next attempt, or the job fails.
    fn fail_task(&mut self, job: &Arc<Job>, row: &AllocationRow, exit_code: i32, reason: Option<&str>) {
        let shape = &job.shape.groups[usize::from(row.group)];
        let group = self.cell.groups().get(row.group_row).copied().unwrap_or_default();
        let failures = u32::from(self.cell.task(&group, row.task).map_or(0, |task| task.failures)) + 1;
        if shape.retry.attempts.is_none_or(|attempts| failures <= attempts) && !planted::is(Bug::GivesUpAtOnce) {
            self.change_task(row, TaskState::Waiting, 1);
            let not_before = self.now.plus_micros(shape.retry.delay_micros);
            if not_before > group.not_before && self.slept.insert(row.group_row) {
                let (count, task_base) = (group.count, group.task_base);
                self.delta.jobs.push(JobChange::Group { row: row.group_row, count, not_before, task_base });
            }
            return;
        }
        self.change_task(row, TaskState::Failed, 1);
        let how =
            reason.filter(|reason| !reason.is_empty()).map_or_else(|| format!("exit code {exit_code}"), Into::into);
        let mut why = format!("task {}[{}] failed: {how}", shape.name, row.task);
        why.truncate(why.floor_char_boundary(255));
        self.failed.entry(job.id).or_insert_with(|| why.into());
    }

    /// A live allocation stands elsewhere.
    pub(crate) fn go(&mut self, slot: u32, status: AllocationStatus, restarts: u32, reason: Option<Arc<str>>) {
        let Some(found) = self.cell.allocation_in(slot) else { return };
        if self.marks.has_ended(slot) || self.marks.has_left(slot) {
            return;
        }
        if status.state.is_leaving() {
            self.marks.leave(slot);
            let shares = |job: &&Arc<Job>| job.shape.same_machine && !job.state.is_final();
            if let Some(job) = self.cell.job(found.row.job()).filter(shares) {
                self.depart(job, found.row.machine, true);
            }
        }
        self.delta.moves.push(Move { slot, status, restarts, reason });
    }

    /// Restarts that come with the end: in the same delta it first stands where it stood, with their number. Those that were told before,
    /// `known`, are told again where it went somewhere with this very delta: whoever reads that takes the last step for one that only counts.
    pub(crate) fn count_restarts(
        &mut self,
        slot: u32,
        (status, known): (AllocationStatus, u32),
        told: u32,
        goes: bool,
    ) {
        let untold = told > known;
        if (untold || goes && known > 0) && !self.marks.has_ended(slot) {
            if untold {
                rare!("restarts are told with the end only");
            }
            self.delta.moves.push(Move { slot, status, restarts: told.max(known), reason: None });
        }
    }

    /// A live allocation is told to stop.
    pub(crate) fn stop(&mut self, slot: u32, reason: &str) {
        let stop = stop_move(self.cell, slot, reason);
        self.go(slot, stop.status, stop.restarts, stop.reason);
    }

    /// A job whose tasks share a machine lost it.
    pub(crate) fn lose_home_of(&mut self, job: JobId) {
        self.homeless.insert(job);
    }

    /// Draws the consequences for jobs. `tenants`: slots of the live allocations of a machine, before this delta.
    pub(crate) fn conclude(self, tenants: impl FnMut(u32) -> Vec<u32>) -> Delta {
        self.conclude_within(usize::MAX, tenants).0
    }

    /// The same, with so much at most for jobs that start over: one for each of their done tasks, and what they cost besides. Gives
    /// the machines that jobs still share of which something is left.
    pub(crate) fn conclude_within(
        mut self,
        most: usize,
        tenants: impl FnMut(u32) -> Vec<u32>,
    ) -> (Delta, BTreeSet<u32>) {
        let (cell, mut delta) = (self.cell, std::mem::take(&mut self.delta));
        self.keep_homes_in_use();
        let reported = delta.moves.len();
        for (&id, reason) in &self.failed {
            let Some(job) = cell.job(id) else { continue };
            delta.jobs.push(JobChange::State { id, state: JobState::Failed, reason: reason.clone() });
            let here = |slot: u32| !self.marks.has_ended(slot) && !self.marks.has_left(slot);
            let max = self.stops_max.saturating_sub(delta.moves.len());
            stop_live_tasks(cell, job, MATE_FAILED, here, max, &mut delta);
        }
        keep_restarts(&mut delta.moves, reported);
        let unfinished = self.start_over(most, &mut delta);
        self.give_up_empty_homes(tenants, &mut delta);
        self.succeeded.sort_unstable();
        self.succeeded.dedup();
        for &id in &self.succeeded {
            let over = self.failed.contains_key(&id) || self.homeless.contains(&id);
            let Some(job) = cell.job(id).filter(|job| !over && !job.state.is_final()) else { continue };
            let done = |(row, group): (u32, plenum_model::GroupRow)| {
                group.tasks_in(TaskState::Done) + self.done.get(&row).copied().unwrap_or(0) == group.count
            };
            if job.shape.kind == JobKind::ToCompletion && groups_of(cell, job).all(done) {
                delta.jobs.push(JobChange::State { id, state: JobState::Complete, reason: "".into() });
            }
        }
        (delta, unfinished)
    }

    /// A job of which something still runs keeps its machine: what is lost of a crowded one is lost in steps, and one that comes back
    /// between two of them keeps the rest. Given up with the first of them, its job would run on two machines.
    fn keep_homes_in_use(&mut self) {
        let (cell, departed) = (self.cell, &self.departed);
        self.homeless.retain(|id| {
            let Some(job) = cell.job(*id) else { return false };
            let is_in_use =
                active_at_home(cell, job) > departed.get(id).copied().unwrap_or(0) && !planted::is(Bug::TearsApart);
            if is_in_use {
                rare!("a job keeps the machine that its tasks share, as some of them still run there");
            }
            !is_in_use
        });
    }

    /// Jobs that left the machine that their tasks share, the last of them as they were told to, and have nothing done there, may go
    /// elsewhere: they would wait for ever for room that others took over. What was lost on another machine before may leave there yet.
    fn give_up_empty_homes(&self, mut tenants: impl FnMut(u32) -> Vec<u32>, delta: &mut Delta) {
        let over = |id: &JobId| self.failed.contains_key(id) || self.homeless.contains(id);
        let mut staying: BTreeMap<u32, BTreeSet<JobId>> = BTreeMap::new();
        for (&id, &(ended, was_told)) in self.vacated.iter().filter(|(id, _)| !over(id)) {
            let Some(job) = self.cell.job(id).filter(|_| was_told == Some(true)) else { continue };
            let (mut live, mut leaving, mut has_done) = (0, 0, false);
            for (row, group) in groups_of(self.cell, job) {
                (live, leaving) = (live + group.tasks_in(TaskState::Live), leaving + group.leaving);
                has_done |= group.tasks_in(TaskState::Done) > 0 || self.done.contains_key(&row);
            }
            if has_done || live > self.departed.get(&id).copied().unwrap_or(0) {
                continue;
            }
            let is_empty = live + leaving == ended
                || job.home.is_some_and(|home| {
                    // Once for all jobs that share one.
                    let there = staying.entry(home).or_insert_with(|| self.jobs_of_the_rest(&tenants(home)));
                    !there.contains(&id)
                });
            if is_empty {
                rare!("a job gives up the machine that its tasks shared");
                delta.jobs.push(JobChange::Home { id, machine: None });
            }
        }
    }

    /// The jobs of those allocations that do not end with this delta.
    fn jobs_of_the_rest(&self, slots: &[u32]) -> BTreeSet<JobId> {
        let rest = slots.iter().copied().filter(|&slot| !self.marks.has_ended(slot));
        rest.filter_map(|slot| self.cell.allocation_in(slot)).map(|found| found.row.job()).collect()
    }

    /// The machines that jobs' tasks shared are lost, and what their done tasks left there too: all of them run again, elsewhere. What
    /// failed with it counts as a failure all the same.
    fn start_over(&self, most: usize, delta: &mut Delta) -> BTreeSet<u32> {
        let jobs = self.homeless.iter().filter(|id| !self.failed.contains_key(id));
        let jobs: Vec<_> = jobs.filter_map(|&id| self.cell.job(id)).collect();
        if !delta.tasks.is_empty() {
            let again: BTreeSet<u32> =
                jobs.iter().flat_map(|job| groups_of(self.cell, job)).map(|(row, _)| row).collect();
            delta.tasks.retain(|change| change.state != TaskState::Done || !again.contains(&change.group_row));
        }
        let (mut left, mut unfinished) = (most, BTreeSet::new());
        for job in jobs {
            if start_job_over(self.cell, job, &mut left, delta) {
                rare!("a job that lost its machine starts over");
                delta.jobs.push(JobChange::Home { id: job.id, machine: None });
            } else {
                unfinished.extend(job.home);
            }
        }
        unfinished
    }
}

/// Lets the first `left` done tasks of a job wait again. Whether that were all: until then the job keeps its machine, so that nothing
/// runs elsewhere that needs what the others left.
fn start_job_over(cell: &Cell, job: &Job, left: &mut usize, delta: &mut Delta) -> bool {
    if *left < HOME_COST {
        return false;
    }
    *left -= HOME_COST;
    for (group_row, group) in groups_of(cell, job).filter(|(_, group)| group.tasks_in(TaskState::Done) > 0) {
        let done = (0..group.count).filter_map(|task| Some((task, cell.task(&group, task)?)));
        let done = done.filter(|(_, row)| row.state == TaskState::Done);
        let again =
            done.map(|(task, row)| TaskChange { group_row, task, state: TaskState::Waiting, failures: row.failures });
        *left = left.saturating_sub(GROUP_COST);
        let before = delta.tasks.len();
        delta.tasks.extend(again.take(*left));
        let taken = delta.tasks.len() - before;
        *left -= taken;
        if taken < group.tasks_in(TaskState::Done) as usize {
            return false;
        }
    }
    true
}

/// Moves from `first` on were made of what the cell knows: restarts that came with this very delta count, too.
fn keep_restarts(moves: &mut [Move], first: usize) {
    let (before, after) = moves.split_at_mut(first);
    if after.is_empty() {
        return;
    }
    let restarted = before.iter().filter(|change| change.restarts > 0);
    let newest: BTreeMap<u32, u32> = restarted.map(|change| (change.slot, change.restarts)).collect();
    for change in after {
        change.restarts = newest.get(&change.slot).copied().unwrap_or(change.restarts);
    }
}

impl Core {
    /// What happened to allocations on any number of machines. Old epochs, which the answer counts, unknown allocations and repetitions have no effect.
    pub(crate) fn report_status(&mut self, transitions: &[Transition], now: LogTime) -> Verdict {
        let mut draft = self.draft(now);
        let ends = transitions.iter().filter(|transition| transition.state.is_end()).count();
        draft.ends = self.derived.spare.ends.take(ends);
        let Derived { marks, tenants, ring, .. } = &mut self.derived;
        let mut consequences = Consequences::new(&self.cell, marks, draft, self.options.stops_max);
        let mut newest: BTreeMap<u32, (AllocationStatus, u32)> = BTreeMap::new();
        let mut passed_over = 0;
        for (number, transition) in transitions.iter().enumerate() {
            let next = coming(transitions, number, 2 * STEPS_AHEAD);
            self.cell.warm(next.iter().map(|transition| transition.allocation.slot));
            consequences.marks.warm(next.iter().map(|transition| transition.allocation.slot));
            self.cell.warm_machines(next.iter().map(|transition| transition.machine.slot));
            let next = coming(transitions, number, STEPS_AHEAD);
            self.cell.warm_groups(next.iter().map(|transition| transition.allocation.slot));
            if !self.cell.is_current(transition.machine, transition.epoch) {
                rare!("a report of an old epoch is ignored");
                passed_over += 1;
                continue;
            }
            let found = self.cell.allocation(transition.allocation);
            let Some(found) = found.filter(|found| found.row.machine == transition.machine.slot) else {
                consequences.end_unknown(transition);
                continue;
            };
            let slot = transition.allocation.slot;
            let reason = (!transition.reason.is_empty()).then(|| transition.reason.clone());
            let moved_before = newest.get(&slot).copied();
            if transition.state.is_end() {
                if transition.state == AllocationState::EndedLost {
                    rare!("a task is lost on a machine that is there");
                }
                // Hardly any was started again, or told of itself in the same report.
                if transition.restarts > 0 || moved_before.is_some() {
                    let known = moved_before.unwrap_or_else(|| unreported(&found));
                    consequences.count_restarts(slot, known, transition.restarts, moved_before.is_some());
                }
                consequences.end_found(&found, transition.state, transition.exit_code, reason);
                continue;
            }
            let (before, known) = moved_before.unwrap_or_else(|| unreported(&found));
            let forward = transition.state >= before.state && transition.state.is_active() && before.state.is_active();
            let restarts = known.max(transition.restarts);
            let status = AllocationStatus { state: transition.state, ready: transition.ready };
            let forward = forward || (transition.state.is_active() && planted::is(Bug::RevivesTheLeaving));
            if forward && (status != before || restarts != known) {
                newest.insert(slot, (status, restarts));
                consequences.go(slot, status, restarts, None);
            }
        }
        if consequences.is_empty() {
            return Verdict::Answer(accepted(0, passed_over));
        }
        let changes = consequences.conclude(|machine| tenants.live_on(&self.cell, ring, machine));
        Verdict::Change(accepted(0, passed_over), changes)
    }
}

/// Where an allocation stands and how often it was started again, as far as reports before this one told.
pub(crate) fn unreported(found: &AllocationRef<'_>) -> (AllocationStatus, u32) {
    (found.status, found.extra.map_or(0, |extra| extra.restarts))
}

/// How many tasks of a job run on the machine that they share, or are to. A walk over its tasks.
fn active_at_home(cell: &Cell, job: &Job) -> u32 {
    let groups = groups_of(cell, job).filter(|(_, group)| group.tasks_in(TaskState::Live) > 0);
    let tasks = groups.flat_map(|(_, group)| (0..group.count).filter_map(move |task| cell.task(&group, task)));
    let active = tasks.filter_map(|task| cell.allocation_in(task.allocation.checked_sub(1)?));
    let here = active.filter(|found| job.home == Some(found.row.machine)).count();
    u32::try_from(here).unwrap_or(u32::MAX)
}
