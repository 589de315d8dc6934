//! Jobs: submitted, scaled and stopped, also when their scheduler is dead.

pub(crate) mod expected;
mod launch;
mod undo;

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    AllocationId, AllocationState, AllocationStatus, Cell, Decision, Delta, GroupRow, GroupShape, Job, JobChange,
    JobId, JobKind, JobShape, JobState, LogTime, Move, Rejection, RejectionCode, TaskRow, TaskState, agreeing, counted,
};

use crate::derived::slots::{RangeSlots, place_size};
use crate::derived::sweeps::JOB_STOPPED;
use crate::derived::{Derived, rows};
use crate::{Core, Handled, ROWS_MAX, Verdict, accepted};
use expected::{came_of, expect_version};
use launch::check_recurring;
use undo::Mark;

impl Core {
    pub(crate) fn submit_job(
        &mut self,
        shape: &Arc<JobShape>,
        body: &Arc<[u8]>,
        body_digest: [u8; 32],
        expected: Option<u32>,
        now: LogTime,
    ) -> Handled {
        may_be_submitted(shape)?;
        check_recurring(shape)?;
        let known = self.cell.job_named(&shape.namespace, &shape.name).cloned();
        if let Some(expected) = expected {
            if let Some(job) = known.as_ref().filter(|job| came_of(job, expected, shape, body_digest)) {
                return Ok(Verdict::Answer(accepted(job.id.to_bits(), job.version)));
            }
            expect_version(&shape.name, known.as_deref(), expected)?;
        }
        if let Some(job) = known.filter(|job| !job.state.is_final()) {
            return self.resubmit(&job, shape, body_digest, now);
        }
        let (answer, delta) = self.put_job(shape, body, body_digest, now)?;
        Ok(Verdict::Change(answer, delta))
    }

    /// A new job, or a new version of one that is over.
    pub(crate) fn put_job(
        &mut self,
        shape: &Arc<JobShape>,
        body: &Arc<[u8]>,
        body_digest: [u8; 32],
        now: LogTime,
    ) -> Result<(Decision, Delta), Rejection> {
        let before = self.cell.job_named(&shape.namespace, &shape.name).cloned();
        let (id, version) = match &before {
            None => (self.new_job_id(now)?, 1),
            Some(job) => {
                self.nothing_leaves(job)?;
                // Agents may still have files of a version that a restored cell has forgotten.
                (job.id, self.generation_after(job.version))
            }
        };
        // A recurring job that is submitted again goes on where it stood, whatever its name was meanwhile: no instant twice.
        let last = before.as_ref().and_then(|job| job.last_instant_micros);
        // Also of one that is over: its rows are given back with the delta that takes others.
        self.check_tasks(None, shape.groups.iter().map(|group| group.count), now)?;
        self.check_bytes(before.as_deref(), shape.kept_bytes() + body.len(), now)?;
        let (mark, mut delta) = (self.mark(), self.draft(now));
        self.intern_shapes(shape, &mut delta)?;
        let job = Job {
            id,
            version,
            shape: shape.clone(),
            body: Some(body.clone()),
            body_digest,
            submitted: now,
            state: JobState::Waiting,
            state_since: now,
            reason: "".into(),
            group_base: self.derived.group_rows.take(rows(shape.groups.len())),
            home: None,
            last_instant_micros: last,
        };
        let task_bases = shape.groups.iter().map(|group| self.derived.task_rows.take(group.count)).collect();
        delta.jobs.push(JobChange::Put { job: Arc::new(job), task_bases });
        self.check_rows(mark, None, &delta)?;
        Ok((accepted(id.to_bits(), version), delta))
    }

    /// With so many tasks in its groups a job, or one that comes, must be within the bound, whatever rows they take; or have no more than before:
    /// of a cell that is above it, as one with another setting left it, each may become less.
    fn check_tasks(&self, job: Option<&Job>, counts: impl Iterator<Item = u32>, now: LogTime) -> Result<(), Rejection> {
        let (there, most) = (self.derived.tasks, self.options.tasks_max);
        let before = job.into_iter().flat_map(|job| groups_of(&self.cell, job));
        let before: u64 = before.map(|(_, group)| u64::from(group.count)).sum();
        let in_all: u64 = counts.map(u64::from).sum();
        let more = in_all.saturating_sub(before);
        if more == 0 || there + more <= u64::from(most) {
            return Ok(());
        }
        let (are, more) = (agreeing(there, "is", "are"), format!("{more} more {}", agreeing(more, "is", "are")));
        let message = format!(
            "at most {most} tasks in the cell: {there} {are} there, and {more} asked for; have fewer, or end jobs that are not needed"
        );
        Err(self.above_until_retired(message, in_all <= u64::from(most), now))
    }

    /// A job of so many bytes, in place of the one that it replaces, must be within the bound of all jobs.
    fn check_bytes(&self, replaced: Option<&Job>, own_bytes: usize, now: LogTime) -> Result<(), Rejection> {
        let (own, most) = (own_bytes as u64, self.options.job_bytes_max);
        let there = self.derived.job_bytes.all - replaced.map_or(0, |job| job.kept_bytes() as u64);
        if there + own <= most {
            return Ok(());
        }
        let message = format!(
            "at most {most} bytes of jobs in the cell: those that are there have {there}, and this one has {own}; make it smaller, or end some that are \
             not needed"
        );
        Err(self.above_until_retired(message, own <= most, now))
    }

    /// The rows that this delta takes, for a job that has some or for one that comes, must be within the bounds of their tables; or it
    /// has taken none.
    fn check_rows(&mut self, mark: Mark, job: Option<&Job>, delta: &Delta) -> Result<(), Rejection> {
        let grown = self.mark();
        let most = self.options.tasks_max;
        let (message, fits_alone) = if grown.task_rows > most.max(mark.task_rows) {
            let message = format!(
                "at most {most} rows of tasks in the cell, of which a group takes a power of two: {} are in use or free between others, \
                 and this would make {}; have fewer tasks, or end jobs that are not needed",
                mark.task_rows, grown.task_rows
            );
            (message, self.rows_alone(job, delta) <= most)
        } else if grown.group_rows > ROWS_MAX {
            let message = format!(
                "at most {ROWS_MAX} rows of groups in the cell, of which a job takes a power of two; end jobs that are not needed"
            );
            (message, true)
        } else {
            return Ok(());
        };
        self.take_back(mark, delta);
        Err(self.above_until_retired(message, fits_alone, delta.time))
    }

    /// How long the table of tasks would be, had it nothing but what this job has and what the delta takes.
    fn rows_alone(&self, job: Option<&Job>, delta: &Delta) -> u32 {
        let has = job.into_iter().flat_map(|job| groups_of(&self.cell, job));
        let mut alone = RangeSlots::rebuild(has.map(|(_, group)| (group.task_base, group.count)));
        for (_, count) in self.places_taken(delta) {
            alone.take(count);
        }
        alone.end()
    }

    fn new_job_id(&self, now: LogTime) -> Result<JobId, Rejection> {
        let slot = self.derived.job_slots.next();
        if slot >= self.options.jobs_max {
            let message = format!("at most {} jobs in the cell; end some that are not needed", self.options.jobs_max);
            return Err(self.above_until_retired(message, true, now));
        }
        let generation = self.generation_after(self.cell.job_slots().get(slot).map_or(0, |slot| slot.generation));
        Ok(JobId { slot, generation })
    }

    /// A finished job's rows are used again only when nothing of it is left.
    fn nothing_leaves(&self, job: &Job) -> Result<(), Rejection> {
        let left =
            groups_of(&self.cell, job).map(|(_, group)| group.leaving + group.tasks_in(TaskState::Live)).sum::<u32>();
        if left == 0 {
            return Ok(());
        }
        let (are, they_are) = (agreeing(left.into(), "is", "are"), agreeing(left.into(), "it is", "they are"));
        let left = counted(left.into(), "allocation");
        let message =
            format!("{left} of {} {are} still stopping; submit it again when {they_are} gone", job.shape.name);
        Err(Rejection::new(RejectionCode::JobLeaving, message))
    }

    /// A job of that name is not over: the same one again, or another number of tasks.
    fn resubmit(&mut self, job: &Arc<Job>, shape: &JobShape, body_digest: [u8; 32], now: LogTime) -> Handled {
        let mut alike = shape.clone();
        if alike.groups.len() == job.shape.groups.len() {
            for (group, known) in alike.groups.iter_mut().zip(&job.shape.groups) {
                group.count = known.count;
            }
        }
        if alike != *job.shape || body_digest != job.body_digest {
            let message = format!(
                "{} is not over, and only numbers of tasks can change while it lives; stop it first",
                shape.name
            );
            return Err(Rejection::new(RejectionCode::JobChanged, message));
        }
        let (mark, mut delta) = (self.mark(), self.draft(now));
        let counts = || shape.groups.iter().map(|group| group.count);
        let scaled = groups_of(&self.cell, job).zip(counts()).filter(|((_, group), count)| group.count != *count);
        let scaled: Vec<_> = scaled.map(|((row, _), count)| (row, count)).collect();
        // Judged first: a request that is refused must not have taken rows.
        self.check_tasks(Some(job), counts(), now)?;
        scaled.iter().try_for_each(|&(row, count)| self.no_instance_leaves(row, count))?;
        scaled.iter().for_each(|&(row, count)| self.scale_group(row, count, &mut delta));
        self.check_rows(mark, Some(job), &delta)?;
        if !delta.jobs.is_empty() {
            self.complete_if_done(job, &mut delta);
            self.give_up_home(job, &mut delta);
        }
        let answer = accepted(job.id.to_bits(), job.version);
        Ok(if delta.jobs.is_empty() { Verdict::Answer(answer) } else { Verdict::Change(answer, delta) })
    }

    /// Numbers the resources of a job's groups, so that grants need not carry them: with new numbers, or with those of resources that
    /// nobody has any more.
    fn intern_shapes(&self, shape: &JobShape, delta: &mut Delta) -> Result<(), Rejection> {
        let known = |group: &GroupShape| self.cell.shape_number(&group.resources);
        let own: BTreeSet<u32> = shape.groups.iter().filter_map(known).collect();
        let mut seen = BTreeSet::new();
        let new = shape.groups.iter().filter(|group| known(group).is_none() && seen.insert(group.resources));
        // What the job itself has again is not free.
        let mut free = self.derived.shapes.free().filter(|number| !own.contains(number));
        let (most, spare) = (self.options.shapes_max, self.options.shapes_spare);
        for resources in new.map(|group| group.resources) {
            if planted::is(Bug::GivesUsedNumbers) && !self.cell.shapes().is_empty() {
                delta.reshaped.push((0, resources));
                continue;
            }
            let numbers = self.cell.shapes().len() + delta.shapes.len();
            let waiting = self.derived.shapes.free_count() - delta.reshaped.len();
            let given = if numbers >= most || waiting > spare { free.next() } else { None };
            match given {
                Some(number) => {
                    plenum_model::rare!("a number of resources is given to others");
                    delta.reshaped.push((number, resources));
                }
                None if numbers < most => delta.shapes.push(resources),
                None => {
                    let message = format!(
                        "at most {most} different resources of groups at once; round them, or ask for some that are in use"
                    );
                    let different: BTreeSet<_> = shape.groups.iter().map(|group| group.resources).collect();
                    return Err(self.above_until_retired(message, different.len() <= most, delta.time));
                }
            }
        }
        Ok(())
    }

    /// Where a version is named, that one is stopped and no other; when it is over already, that was asked before or came about by itself.
    pub(crate) fn stop_job(&mut self, id: JobId, version: Option<u32>, now: LogTime) -> Handled {
        let job = if version.is_some() { self.job_at(id, version)? } else { self.live_job(id, None)? };
        if job.state.is_final() {
            return Ok(Verdict::Answer(accepted(id.to_bits(), job.version)));
        }
        let mut delta = self.draft(now);
        delta.jobs.push(JobChange::State { id, state: JobState::Stopped, reason: "stopped by a request".into() });
        stop_live_tasks(&self.cell, &job, JOB_STOPPED, |_| true, self.options.stops_max, &mut delta);
        Ok(Verdict::Change(accepted(id.to_bits(), job.version), delta))
    }

    /// So many tasks for a group. Where a version is named, the job has not been submitted with other groups since.
    pub(crate) fn scale_job(
        &mut self,
        id: JobId,
        version: Option<u32>,
        (group, count): (u16, u32),
        now: LogTime,
    ) -> Handled {
        let job = self.live_job(id, version)?;
        let Some(row) = job.group_row(group) else {
            let message = format!("{} has {} groups, and no number {group}", job.shape.name, job.shape.groups.len());
            return Err(Rejection::new(RejectionCode::NoSuchGroup, message));
        };
        let (mark, mut delta) = (self.mark(), self.draft(now));
        if self.cell.groups().get(row).is_some_and(|group| group.count == count) {
            return Ok(Verdict::Answer(accepted(id.to_bits(), job.version)));
        }
        let counts = groups_of(&self.cell, &job).map(|(other, group)| if other == row { count } else { group.count });
        self.check_tasks(Some(&job), counts, now)?;
        self.no_instance_leaves(row, count)?;
        self.scale_group(row, count, &mut delta);
        self.check_rows(mark, Some(&job), &delta)?;
        self.complete_if_done(&job, &mut delta);
        self.give_up_home(&job, &mut delta);
        Ok(Verdict::Change(accepted(id.to_bits(), job.version), delta))
    }

    /// Whether a group may have so many tasks now: a new one could get the index of one that was scaled away and still runs, and there
    /// would be two instances of it.
    fn no_instance_leaves(&self, row: u32, count: u32) -> Result<(), Rejection> {
        let grows = self.cell.groups().get(row).filter(|group| group.single_instance && count > group.count);
        let Some(leaving) = grows.map(|group| group.leaving).filter(|&leaving| leaving > 0) else { return Ok(()) };
        let (are, they_have) = (agreeing(leaving.into(), "is", "are"), agreeing(leaving.into(), "it has", "they have"));
        let leaving = counted(leaving.into(), "task");
        let message = format!(
            "{leaving} of this group {are} still leaving, and it has single instances; scale it up when {they_have} ended"
        );
        Err(Rejection::new(RejectionCode::JobLeaving, message))
    }

    /// Another number of tasks for a group. Those at its end go, the highest first; what runs of them is stopped, and keeps its room
    /// until its receipt though its task is no more.
    fn scale_group(&mut self, row: u32, count: u32, delta: &mut Delta) {
        let group = *self.cell.groups().get(row).expect("a group of a job");
        let gone = (count..group.count).rev().filter_map(|task| self.cell.task(&group, task));
        let live = gone.filter(|task| task.state == TaskState::Live).map(|task| task.allocation - 1);
        delta.moves.extend(live.map(|slot| stop_move(&self.cell, slot, "the job was scaled down")));
        let fits = place_size(count) <= place_size(group.count);
        if !fits {
            plenum_model::rare!("a group outgrows its rows");
        }
        let task_base = if fits { group.task_base } else { self.derived.task_rows.take(count) };
        delta.jobs.push(JobChange::Group { row, count, not_before: group.not_before, task_base });
    }

    /// A job is complete when the tasks that scaling took away were the last that were not done, and some are left: one that is left
    /// without any has not done what was asked, but waits to be scaled up, as one does that was submitted so.
    fn complete_if_done(&self, job: &Job, delta: &mut Delta) {
        let mut tasks = self.tasks_left(job, delta).peekable();
        let has_tasks = tasks.peek().is_some();
        let is_done = |task: Option<TaskRow>| task.is_some_and(|task| task.state == TaskState::Done);
        if job.shape.kind == JobKind::ToCompletion && has_tasks && tasks.all(is_done) {
            let state = JobState::Complete;
            delta.jobs.push(JobChange::State { id: job.id, state, reason: "".into() });
        }
    }

    /// A job of which scaling took away all that bound it to the machine that its tasks share may go elsewhere. Where something of it still runs or
    /// leaves there, its end may let it go; a task that failed tries again where it was.
    fn give_up_home(&mut self, job: &Job, delta: &mut Delta) {
        let is_over = delta.jobs.iter().any(|change| matches!(change, JobChange::State { .. }));
        if job.home.is_none() || is_over || !delta.moves.is_empty() {
            return;
        }
        let is_bound =
            |task: Option<TaskRow>| task.is_some_and(|task| task.state != TaskState::Waiting || task.failures > 0);
        let is_scaled_away = |(row, group): (u32, GroupRow)| {
            (count_left(row, &group, delta)..group.count).any(|task| is_bound(self.cell.task(&group, task)))
        };
        let was_bound = groups_of(&self.cell, job).any(is_scaled_away);
        let is_free = was_bound && !self.tasks_left(job, delta).any(is_bound);
        if is_free && !self.leaves_home(job) {
            delta.jobs.push(JobChange::Home { id: job.id, machine: None });
        }
    }

    /// Whether something of a job leaves the machine that its tasks share. What was lost on another one may leave there yet, and binds it to neither.
    fn leaves_home(&mut self, job: &Job) -> bool {
        if groups_of(&self.cell, job).all(|(_, group)| group.leaving == 0) {
            return false;
        }
        let Derived { tenants, ring, .. } = &mut self.derived;
        let there = job.home.map(|home| tenants.live_on(&self.cell, ring, home)).unwrap_or_default();
        let mut there = there.into_iter().filter_map(|slot| self.cell.allocation_in(slot));
        there.any(|found| found.row.job() == job.id)
    }

    /// The tasks of a job, with this delta; `None` of those that come with it.
    fn tasks_left<'a>(&'a self, job: &Job, delta: &Delta) -> impl Iterator<Item = Option<TaskRow>> + use<'a> {
        let left = groups_of(&self.cell, job).map(|(row, group)| (count_left(row, &group, delta), group));
        let left: Vec<_> = left.collect();
        let cell = &self.cell;
        left.into_iter().flat_map(move |(count, group)| (0..count).map(move |task| cell.task(&group, task)))
    }

    pub(crate) fn stop_allocation(&mut self, id: AllocationId, now: LogTime) -> Handled {
        let Some(found) = self.cell.allocation(id) else {
            return self.stop_unknown(id, now);
        };
        if found.status.state.is_leaving() {
            return Ok(Verdict::Answer(accepted(id.to_bits(), 0)));
        }
        let mut delta = self.draft(now);
        if !planted::is(Bug::LetsRunOn) {
            delta.moves.push(stop_move(&self.cell, id.slot, "stopped by a request"));
        }
        Ok(Verdict::Change(accepted(id.to_bits(), 0), delta))
    }
}

/// Whether somebody may submit it: what only a launch gives is refused, never ignored.
fn may_be_submitted(shape: &JobShape) -> Result<(), Rejection> {
    if shape.parent.is_none() && shape.instant_micros == 0 {
        return Ok(());
    }
    let message = format!("{} names a parent or an instant; only a launch creates such jobs", shape.name);
    Err(Rejection::new(RejectionCode::InvalidRequest, message))
}

/// Groups of a job, with their rows.
pub(crate) fn groups_of<'a>(cell: &'a Cell, job: &Job) -> impl Iterator<Item = (u32, GroupRow)> + use<'a> {
    let rows = job.group_base..job.group_base + rows(job.shape.groups.len());
    rows.filter_map(|row| cell.groups().get(row).map(|group| (row, *group)))
}

/// How many tasks a group has with this delta.
fn count_left(row: u32, group: &GroupRow, delta: &Delta) -> u32 {
    let scaled = delta.jobs.iter().find_map(|change| match change {
        JobChange::Group { row: found, count, .. } if *found == row => Some(*count),
        _ => None,
    });
    scaled.unwrap_or(group.count)
}

/// A live allocation is told to stop.
pub(crate) fn stop_move(cell: &Cell, slot: u32, reason: &str) -> Move {
    let restarts = cell.allocation_in(slot).and_then(|found| found.extra).map_or(0, |extra| extra.restarts);
    let status = AllocationStatus { state: AllocationState::Stopping, ready: false };
    Move { slot, status, restarts, reason: Some(reason.into()) }
}

/// Stops the first `max` live tasks of a job that ends with this delta, but those that the filter leaves out. Ticks stop the rest.
pub(crate) fn stop_live_tasks(
    cell: &Cell,
    job: &Job,
    reason: &str,
    stops: impl Fn(u32) -> bool,
    max: usize,
    delta: &mut Delta,
) {
    let most = delta.moves.len() + max;
    for (_, group) in groups_of(cell, job).filter(|(_, group)| group.tasks_in(TaskState::Live) > 0) {
        let tasks = (0..group.count).filter_map(|task| cell.task(&group, task));
        let live = tasks.filter(|task| task.state == TaskState::Live).map(|task| task.allocation - 1);
        let left = most - delta.moves.len();
        delta.moves.extend(live.filter(|&slot| stops(slot)).map(|slot| stop_move(cell, slot, reason)).take(left));
    }
}
