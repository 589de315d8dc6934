//! Jobs that are over while tasks of them still run: a job of a million tasks that fails or is stopped is over at once, and its tasks
//! are stopped in steps, each of which the log has room for.

use std::collections::BTreeMap;

use plenum_model::{Cell, Delta, Job, JobChange, JobId, JobState, TaskState};

use crate::jobs::groups_of;
use crate::lifecycle::Consequences;

/// Why tasks of a job that failed are stopped.
pub(crate) const MATE_FAILED: &str = "another task of the job failed";
/// Why tasks of a job that was stopped are.
pub(crate) const JOB_STOPPED: &str = "the job was stopped";

/// Jobs that are over and have live tasks: each with a group and a task before which none is live.
///
/// Invariant: the jobs are a pure function of the cell. How far each has come only saves looking again: nothing is granted to a job
/// that is over.
#[derive(Debug, Default)]
pub(crate) struct Sweeps(BTreeMap<JobId, (u16, u32)>);

impl Sweeps {
    pub(crate) fn rebuild(cell: &Cell) -> Self {
        let jobs = cell.jobs().filter(|job| job.state.is_final() && is_live(cell, job));
        Self(jobs.map(|job| (job.id, (0, 0))).collect())
    }

    /// Whether both have the same jobs, however far each has come.
    #[cfg(debug_assertions)]
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.0.keys().eq(other.0.keys())
    }

    /// Whether something is left to be stopped.
    pub(crate) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Notes what a delta has changed.
    pub(crate) fn after(&mut self, delta: &Delta, cell: &Cell) {
        for change in &delta.jobs {
            if let JobChange::State { id, state, .. } = change
                && state.is_final()
                && cell.job(*id).is_some_and(|job| is_live(cell, job))
            {
                self.0.insert(*id, (0, 0));
            }
        }
        if !self.0.is_empty() {
            self.0.retain(|&id, _| cell.job(id).is_some_and(|job| job.state.is_final() && is_live(cell, job)));
        }
    }

    /// Stops at most so many tasks.
    pub(crate) fn stop_some(&mut self, cell: &Cell, max: usize, consequences: &mut Consequences<'_>) {
        let mut left = max;
        for (&id, (group, task)) in &mut self.0 {
            let Some(job) = cell.job(id) else { continue };
            let reason = if job.state == JobState::Failed { MATE_FAILED } else { JOB_STOPPED };
            while let Some(row) = cell.group(job, *group) {
                for found in (*task..row.count).map_while(|task| cell.task(row, task)) {
                    if left == 0 {
                        return;
                    }
                    *task += 1;
                    if found.state == TaskState::Live {
                        consequences.stop(found.allocation - 1, reason);
                        left -= 1;
                    }
                }
                (*group, *task) = (*group + 1, 0);
            }
        }
    }
}

fn is_live(cell: &Cell, job: &Job) -> bool {
    groups_of(cell, job).any(|(_, group)| group.tasks_in(TaskState::Live) > 0)
}
