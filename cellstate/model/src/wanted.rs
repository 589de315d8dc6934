//! What may be placed now: schedulers loop over it, and the core refuses claims outside of it.

use std::fmt;

use crate::{Cell, GroupRow, Job, JobKind, JobState, LogTime, TaskState};

/// Why a group's tasks may not be placed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotWanted {
    /// The job is complete, failed or stopped.
    JobOver(JobState),
    /// The group at this position must be done first.
    After(u16),
    /// A failure is to be slept over until then.
    Backoff(LogTime),
    /// The task does not wait: it is live, done, failed or cancelled.
    Task(TaskState),
    /// The group has no such task.
    NoSuchTask,
    /// The job has no such group.
    NoSuchGroup,
    /// Nothing of a recurring job is placed, only of what is launched from it.
    Recurring,
}

impl fmt::Display for NotWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JobOver(state) => write!(f, "the job is over ({})", state.word()),
            Self::After(group) => write!(f, "group {group} is not done"),
            Self::Backoff(until) => write!(f, "waits after a failure until {}", until.whole_second()),
            Self::Task(state) => write!(f, "the task does not wait ({state:?})"),
            Self::NoSuchTask => f.write_str("no such task"),
            Self::NoSuchGroup => f.write_str("no such group"),
            Self::Recurring => f.write_str("nothing of a recurring job itself is placed"),
        }
    }
}

/// Whether tasks of a group may be placed now.
///
/// # Errors
/// Why not: the first of job over, predecessors, backoff.
#[inline]
pub fn group_is_wanted(cell: &Cell, job: &Job, group: u16, now: LogTime) -> Result<(), NotWanted> {
    if job.state.is_final() {
        return Err(NotWanted::JobOver(job.state));
    }
    if job.shape.kind == JobKind::Recurring {
        return Err(NotWanted::Recurring);
    }
    let shape = job.shape.groups.get(usize::from(group)).ok_or(NotWanted::NoSuchGroup)?;
    for &before in &shape.after {
        let done = cell.group(job, before).is_some_and(|row| row.tasks_in(TaskState::Done) == row.count);
        if !done {
            return Err(NotWanted::After(before));
        }
    }
    let row = cell.group(job, group).ok_or(NotWanted::NoSuchGroup)?;
    if row.not_before > now { Err(NotWanted::Backoff(row.not_before)) } else { Ok(()) }
}

/// Whether this task may be placed, given that its group may. One of which only one may run is blocked while an unknown
/// task is the same, or while agents of a restored cell are yet to tell of what they run.
///
/// # Errors
/// Why not.
#[inline]
pub fn task_is_wanted(cell: &Cell, group: &GroupRow, task: u32) -> Result<(), NotWanted> {
    let state = cell.task_state(group, task).ok_or(NotWanted::NoSuchTask)?;
    match state {
        TaskState::Waiting if cell.may_run_unknown(group, task) => Err(NotWanted::Task(TaskState::Blocked)),
        TaskState::Waiting => Ok(()),
        state => Err(NotWanted::Task(state)),
    }
}

/// A group with tasks that may be placed now.
#[derive(Clone, Copy, Debug)]
pub struct WantedGroup<'a> {
    /// Its position in the job.
    pub group: u16,
    /// Its row.
    pub row: &'a GroupRow,
    cell: &'a Cell,
}

impl<'a> WantedGroup<'a> {
    /// Indexes of the tasks, rising.
    pub fn tasks(&self) -> impl Iterator<Item = u32> + use<'a> {
        let (cell, row) = (self.cell, self.row);
        (0..row.count).filter(move |&task| task_is_wanted(cell, row, task).is_ok())
    }

    /// How many of them at once, or none, as [`GroupShape::least_at_once`](crate::GroupShape::least_at_once) has it; there may be fewer. `job`: whose group it is.
    #[must_use]
    pub fn least(&self, job: &Job) -> u32 {
        job.shape.groups.get(usize::from(self.group)).map_or(0, |shape| shape.least_at_once(self.row))
    }
}

/// Whether any task of a job waits to be placed, also one that sleeps over a failure, or whose last allocation has not left yet: room may be held for such
/// a job. By the counters of its groups alone.
#[must_use]
pub fn any_waits(cell: &Cell, job: &Job) -> bool {
    // By then all failures are slept over.
    let awake = LogTime::from_micros(i64::MAX);
    let is_to_be_placed = |row: &GroupRow| row.tasks_in(TaskState::Waiting) + row.tasks_in(TaskState::Blocked) > 0;
    job.group_positions().any(|group| {
        cell.group(job, group).is_some_and(is_to_be_placed) && group_is_wanted(cell, job, group, awake).is_ok()
    })
}

/// The groups of a job that have tasks to be placed now, in the job's order.
pub fn wanted<'a>(cell: &'a Cell, job: &'a Job, now: LogTime) -> impl Iterator<Item = WantedGroup<'a>> {
    job.group_positions().filter_map(move |group| {
        let row = cell.group(job, group)?;
        let wanted = WantedGroup { group, row, cell };
        let waits = row.tasks_in(TaskState::Waiting) > 0 && group_is_wanted(cell, job, group, now).is_ok();
        // Unknown tasks may be in the way of all that wait.
        let any = || !cell.may_run_any_unknown(row) || wanted.tasks().next().is_some();
        (waits && any()).then_some(wanted)
    })
}
