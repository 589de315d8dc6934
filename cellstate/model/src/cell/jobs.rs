//! Folding changes of jobs: their rows, those of their groups, and those of their tasks.

use std::sync::Arc;

use super::{Cell, FoldError, JobSlot};
use crate::delta::{JobChange, Subject};
use crate::{GroupRow, Job, LogTime, TaskPast, TaskState};

impl Cell {
    pub(super) fn change_job(&mut self, change: &JobChange) -> Result<(), FoldError> {
        match change {
            JobChange::Put { job, task_bases } => self.put_job(job, task_bases),
            JobChange::State { id, state, reason } => {
                let time = self.time;
                let job = self.job_mut(*id)?;
                job.state = *state;
                job.state_since = time;
                job.reason = reason.clone();
                Ok(())
            }
            JobChange::Group { row, count, not_before, task_base } => {
                self.change_group(*row, *count, *not_before, *task_base)
            }
            JobChange::Removed(id) => self.remove_job(*id),
            JobChange::Home { id, machine } => {
                self.job_mut(*id)?.home = *machine;
                Ok(())
            }
            JobChange::Launched { id, instant_micros } => {
                self.job_mut(*id)?.last_instant_micros = Some(*instant_micros);
                Ok(())
            }
        }
    }

    fn job_mut(&mut self, id: crate::JobId) -> Result<&mut Job, FoldError> {
        if self.job(id).is_none() {
            return self.fault(Subject::Job(id), "is not there");
        }
        let job = self.jobs.get_mut(id.slot).job.as_mut().expect("seen a line above");
        Ok(Arc::make_mut(job))
    }

    fn put_job(&mut self, job: &Arc<Job>, task_bases: &[u32]) -> Result<(), FoldError> {
        if task_bases.len() != job.shape.groups.len() {
            return self.fault(Subject::Job(job.id), "has another number of groups than of places for their tasks");
        }
        self.check_row(self.jobs.len(), job.id.slot, Subject::Job(job.id))?;
        self.check_row(self.groups.len(), job.group_base, Subject::GroupRow(job.group_base))?;
        let replaced = self.job_in(job.id.slot).map(|before| before.id);
        if replaced.is_some_and(|before| before != job.id) {
            return self.fault(Subject::Job(job.id), "is put where another one is");
        }
        if let Some(before) = replaced {
            self.clear_groups(before)?;
            self.forget_job_name(before.slot);
        }
        let groups = (job.group_base..).zip(job.group_positions()).zip(&job.shape.groups);
        for (((row, position), group), &task_base) in groups.zip(task_bases) {
            let tasks = [group.count, 0, 0, 0, 0, 0];
            if self.groups.get(row).is_some_and(|found| *found != GroupRow::default()) {
                return self.fault(Subject::GroupRow(row), "is another job's");
            }
            *self.groups.get_mut(row) = GroupRow {
                task_base,
                count: group.count,
                job_slot: job.id.slot,
                tasks,
                single_instance: group.single_instance,
                same_machine: job.shape.same_machine,
                position,
                ..GroupRow::default()
            };
            (task_base..task_base + group.count)
                .for_each(|task| self.put_task(task, TaskPast::default(), TaskState::default()));
        }
        *self.jobs.get_mut(job.id.slot) = JobSlot { generation: job.id.generation, job: Some(job.clone()) };
        self.jobs_by_name.insert(job.id.slot, super::name_of_job(job), |slot| super::job_name_in(&self.jobs, slot));
        Ok(())
    }

    /// While the job is still in its slot.
    fn forget_job_name(&mut self, slot: u32) {
        let name_of = |slot| super::job_name_in(&self.jobs, slot);
        self.jobs_by_name.remove(name_of(slot), name_of);
    }

    /// Gives the rows of a job's groups and tasks back.
    fn clear_groups(&mut self, id: crate::JobId) -> Result<(), FoldError> {
        let Some(job) = self.job(id).cloned() else { return self.fault(Subject::Job(id), "is not there") };
        for row in (job.group_base..).take(job.shape.groups.len()) {
            let group = *self.groups.get_mut(row);
            if group.tasks_in(TaskState::Live) + group.leaving > 0 {
                return self.fault(Subject::GroupRow(row), "still has live allocations");
            }
            (group.task_base..group.task_base + group.count)
                .for_each(|task| self.put_task(task, TaskPast::default(), TaskState::default()));
            *self.groups.get_mut(row) = GroupRow::default();
        }
        Ok(())
    }

    fn remove_job(&mut self, id: crate::JobId) -> Result<(), FoldError> {
        self.clear_groups(id)?;
        self.forget_job_name(id.slot);
        self.jobs.get_mut(id.slot).job = None;
        Ok(())
    }

    fn change_group(&mut self, row: u32, count: u32, not_before: LogTime, base: u32) -> Result<(), FoldError> {
        let Some(&before) = self.groups.get(row) else {
            return self.fault(Subject::GroupRow(row), "is not there");
        };
        let mut after = GroupRow { count, not_before, task_base: base, ..before };
        let kept = before.count.min(count);
        if base != before.task_base {
            for task in 0..kept {
                let (past, state) = self.take_task(before.task_base + task);
                self.put_task(base + task, past, state);
            }
        }
        for task in kept..before.count {
            let (_, state) = self.take_task(before.task_base + task);
            if state == TaskState::Live {
                return self.fault(Subject::Task(row, task), "is live and may not be dropped");
            }
            match after.tasks[state as usize].checked_sub(1) {
                Some(left) => after.tasks[state as usize] = left,
                None => return self.fault(Subject::GroupRow(row), "has fewer tasks in a state than leave it"),
            }
        }
        (kept..count).for_each(|task| self.put_task(base + task, TaskPast::default(), TaskState::default()));
        after.tasks[TaskState::Waiting as usize] += count - kept;
        *self.groups.get_mut(row) = after;
        Ok(())
    }

    /// Writes a task wholly: one that is new, or was moved.
    pub(super) fn put_task(&mut self, row: u32, past: TaskPast, state: TaskState) {
        *self.tasks.get_mut(row) = past;
        *self.task_states.get_mut(row) = state;
    }

    /// Leaves a row as if nobody had ever been there.
    fn take_task(&mut self, row: u32) -> (TaskPast, TaskState) {
        (std::mem::take(self.tasks.get_mut(row)), std::mem::take(self.task_states.get_mut(row)))
    }
}
