//! What is due by log time: read from the rows of the cell, and from when a server opened it and machines were given up, without the core's queues.
//! What is due happens in time, and nothing before.
//!
//! Who leaves too soon is judged in [`super::leaving`]. Leases, and sessions that nobody uses, go by the server's own clock.

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_core::CoreOptions;
use plenum_model::{
    AllocationRef, AllocationState, Cell, Command, Job, JobChange, JobId, LogTime, Machine, MachineId, MachineState,
    TaskChange, TaskState, UnknownTask,
};

use super::Step;
use super::leaving::{GivenUp, Turns, is_drained};
use crate::books::{Checked, hold};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Dues {
    unknown_micros: i64,
    retire_after_micros: i64,
    finished_jobs_max: usize,
    /// When a server opened the cell last: before that no machine could be heard, and nobody be asked. `None`: none did, and nothing happens by time.
    opened_at: Option<LogTime>,
    /// Machines that were given up since they are unreachable, each with its epoch: another one begins when it is back.
    given_up: BTreeSet<(MachineId, u32)>,
    turns: Turns,
}

impl Dues {
    /// Of a core with these bounds.
    pub(crate) fn of(options: &CoreOptions) -> Self {
        let CoreOptions { unknown_micros, retire_after_micros, finished_jobs_max, .. } = *options;
        Self { unknown_micros, retire_after_micros, finished_jobs_max, turns: Turns::of(options), ..Self::default() }
    }

    /// A server opened this cell just now.
    pub(crate) fn opened(&mut self, cell: &Cell) {
        let GivenUp { machines, at_most } = GivenUp::of(cell);
        self.given_up = machines;
        self.turns.opened(cell.time(), at_most);
        self.opened_at = Some(cell.time());
    }

    /// What was due happened, or some of it. A machine is given up with the first that it loses since it is unreachable: an allocation, or its place as
    /// the machine that a job's tasks share.
    pub(crate) fn ticked(&mut self, before: &Cell, after: &Cell) {
        let lost = before.allocations().filter(|found| {
            let state = after.allocation(found.id).map(|now| now.status.state);
            found.status.state.is_active() && state == Some(AllocationState::Lost)
        });
        let has_left = |job: &&Arc<Job>| {
            !job.state.is_final() && after.job(job.id).is_some_and(|now| now.home.is_none() && job.home.is_some())
        };
        let homes = before.jobs().filter(has_left).filter_map(|job| job.home);
        let machines = lost.map(|found| found.row.machine).chain(homes).filter_map(|slot| before.machine_in(slot));
        for machine in machines.filter(|machine| machine.state == MachineState::Unreachable) {
            if self.given_up.insert((machine.id, machine.epoch)) {
                self.turns.taken(after.time(), 1);
            }
        }
    }

    /// What was due by then has happened: what unreachable machines ran is lost, as far as no more of them are given up within a minute than may be;
    /// what drained ones ran is told to stop, and so is what runs of jobs that are over and what nobody adopted; holds are given back; and jobs that are
    /// over are retired, at their time or as there are too many. For when a server could let all that happen: a tick was decided by then, and found
    /// nothing, or none was. One that did something may have left the rest to the next, as none does more than the log has room for.
    pub(crate) fn invariant_what_is_due_happens_in_time(&self, cell: &Cell, by: LogTime) -> Checked {
        let overdue = self.opened_at.and_then(|opened_at| self.overdue(cell, opened_at, by));
        hold(overdue.is_none(), "invariant_what_is_due_happens_in_time", || {
            format!("behind revision {}, at {} µs: {}", cell.revision(), by.micros, overdue.unwrap_or_default())
        })
    }

    fn overdue(&self, cell: &Cell, opened_at: LogTime, by: LogTime) -> Option<String> {
        let to_be_lost = self.to_be_lost(cell, opened_at, by);
        let to_be_drained = || left_by_a_drain(cell, by);
        let held = || {
            let over = cell.holds().find(|(_, held)| held.deadline <= by);
            over.map(|(job, held)| format!("{job} holds room until {} µs", held.deadline.micros))
        };
        let unknown = || {
            let is_due = |task: &UnknownTask| self.unknown_due(task, opened_at).is_some_and(|due| due <= by);
            let over = cell.unknown_tasks().find(|(_, task)| is_due(task));
            over.map(|(id, task)| format!("{id:?} was not told to stop: {task:?}"))
        };
        to_be_lost.or_else(to_be_drained).or_else(held).or_else(unknown).or_else(|| self.to_be_retired(cell, by))
    }

    /// When an unknown task is told to stop, if it is to be: after the whole time for it since a server opened.
    fn unknown_due(&self, task: &UnknownTask, opened_at: LogTime) -> Option<LogTime> {
        let until = task.until.filter(|_| !task.stopping);
        until.map(|until| until.max(opened_at.plus_micros(self.unknown_micros)))
    }

    /// What an unreachable machine ran that could have been heard for long enough, or a job that runs nothing and waits for that machine.
    fn to_be_lost(&self, cell: &Cell, opened_at: LogTime, by: LogTime) -> Option<String> {
        let may_give_up = self.turns.recent(by) < self.turns.most(cell);
        let has_its_turn = |machine: &Machine| may_give_up || self.given_up.contains(&(machine.id, machine.epoch));
        let away = cell.machines().filter(|machine| machine.state == MachineState::Unreachable);
        away.filter(|machine| has_its_turn(machine)).find_map(|machine| {
            let (slot, silent_since) = (machine.id.slot, machine.since.max(opened_at));
            let is_over = |job: &Job, group: u16| {
                job.shape.lost_after_micros(group).is_some_and(|after| silent_since.plus_micros(after) <= by)
            };
            let to_lose = |found: &AllocationRef<'_>| {
                let is_here = found.row.machine == slot && found.status.state.is_active();
                is_here && cell.job(found.row.job()).is_some_and(|job| is_over(job, found.row.group))
            };
            let task = cell.allocations().find(to_lose).map(|found| found.id.to_string());
            let waits = |job: &&Arc<Job>| is_at_home(job, slot) && !has_live_tasks(cell, job) && is_over(job, 0);
            let what = task.or_else(|| cell.jobs().find(waits).map(|job| job.id.to_string()));
            what.map(|what| {
                format!("{what} is not lost with {}, silent since {} µs", machine.name, silent_since.micros)
            })
        })
    }

    /// A job that is over and of which something runs, which nobody tells to stop; or one of which nothing is left, and its time is over, or there are
    /// too many of them. What is due at once is so at the time of the newest revision. No simulated job has so many bytes that it counts for these.
    fn to_be_retired(&self, cell: &Cell, by: LogTime) -> Option<String> {
        let are_over = || cell.jobs().filter(|job| job.state.is_final());
        let at_once = cell.time() <= by;
        let are_too_many = are_over().count() > self.finished_jobs_max;
        let time_is_over = |job: &Job| job.state_since.plus_micros(self.retire_after_micros) <= by;
        let is_due = |job: &Job| if are_too_many { at_once } else { time_is_over(job) };
        let running = are_over().find(|job| at_once && has_live_tasks(cell, job));
        let running = running.map(|job| format!("{} is over, and runs", job.id));
        let retired = || are_over().find(|job| is_due(job) && !has_allocations(cell, job.id));
        running.or_else(|| retired().map(|job| format!("{} is over since {} µs", job.id, job.state_since.micros)))
    }

    /// What a tick takes was due by then: a hold at its deadline; what nobody knows after the whole time for it since a server opened, or at the
    /// deadline of its machine's drain; and a job that is over, and of which nothing is left, after its time, or as one of those that are too many. And a
    /// group in which a task failed sleeps for as long as it is to.
    pub(super) fn invariant_nothing_happens_before_its_time(&self, step: &Step<'_>) -> Checked {
        let early = match step.request.command {
            Command::Tick => {
                let taken = given_back_too_soon(step).or_else(|| self.told_too_soon(step));
                taken.or_else(|| self.retired_too_soon(step))
            }
            _ => awake_too_soon(step),
        };
        hold(early.is_none(), "invariant_nothing_happens_before_its_time", || {
            let (revision, now) = (step.delta.revision, step.delta.time.micros);
            format!("revision {revision}, at {now} µs: {}", early.unwrap_or_default())
        })
    }

    fn told_too_soon(&self, step: &Step<'_>) -> Option<String> {
        let (now, opened_at) = (step.delta.time, self.opened_at.unwrap_or_default());
        let mut told = step.delta.unknown.iter().filter(|(_, task)| task.as_ref().is_some_and(|task| task.stopping));
        told.find_map(|(id, _)| {
            let task = step.before.unknown_task(*id).filter(|task| !task.stopping)?;
            let is_over = self.unknown_due(task, opened_at).is_some_and(|due| due <= now);
            let is_drained = step.before.machine_in(id.machine).is_some_and(|machine| is_drained(machine, now));
            (!is_over && !is_drained).then(|| format!("{id:?} is told to stop: {task:?}"))
        })
    }

    fn retired_too_soon(&self, step: &Step<'_>) -> Option<String> {
        let removed = step.delta.jobs.iter().filter_map(|change| match change {
            JobChange::Removed(id) => step.before.job(*id),
            _ => None,
        });
        let removed: Vec<_> = removed.collect();
        let over = step.before.jobs().filter(|job| job.state.is_final()).count();
        let are_too_many = removed.len() <= over.saturating_sub(self.finished_jobs_max);
        let is_due = |job: &Job| {
            let time_is_over = job.state_since.plus_micros(self.retire_after_micros) <= step.delta.time;
            job.state.is_final() && (time_is_over || are_too_many) && !has_allocations(step.before, job.id)
        };
        let early = removed.iter().find(|job| !is_due(job));
        early.map(|job| format!("{} is retired, {:?} since {} µs", job.id, job.state, job.state_since.micros))
    }

    pub(super) fn note(&mut self, step: &Step<'_>) {
        if step.delta.cell.is_some() {
            self.opened(step.after);
        }
    }
}

/// Holds of jobs that are over end with them.
fn given_back_too_soon(step: &Step<'_>) -> Option<String> {
    let mut ended = step.delta.holds.iter().filter(|(_, held)| held.is_none());
    ended.find_map(|(id, _)| {
        let held = step.before.hold(*id)?;
        let is_over = step.after.job(*id).is_none_or(|job| job.state.is_final());
        let early = held.deadline > step.delta.time && !is_over;
        early.then(|| format!("the hold of {id} ends, which has until {} µs", held.deadline.micros))
    })
}

/// Who fails once more may not be placed before its group has slept over that.
fn awake_too_soon(step: &Step<'_>) -> Option<String> {
    let has_failed = |change: &&TaskChange| {
        let group = step.before.groups().get(change.group_row);
        let known = group.and_then(|group| step.before.task(group, change.task)).map_or(0, |task| task.failures);
        change.state == TaskState::Waiting && change.failures > known
    };
    step.delta.tasks.iter().filter(has_failed).find_map(|change| {
        let known = step.before.groups().get(change.group_row)?;
        let job = step.before.job_in(known.job_slot)?;
        let shape = job.shape.groups.get(usize::from(known.position))?;
        let (awake, due) = (step.after.groups().get(change.group_row)?.not_before, shape.retry.delay_micros);
        let early = awake < step.delta.time.plus_micros(due);
        early.then(|| format!("{} of {} sleeps until {} µs, and has to for {due} µs", shape.name, job.id, awake.micros))
    })
}

/// What is still on a machine whose drain is over: what runs there, known or not, and was not told to stop, or a job whose tasks share it.
fn left_by_a_drain(cell: &Cell, by: LogTime) -> Option<String> {
    cell.machines().filter(|machine| is_drained(machine, by)).find_map(|machine| {
        let slot = machine.id.slot;
        let runs = |found: &AllocationRef<'_>| found.row.machine == slot && found.status.state.is_active();
        let task = cell.allocations().find(runs).map(|found| found.id.to_string());
        let unknown = || cell.unknown_on(slot).find(|(_, task)| !task.stopping).map(|(id, _)| format!("{id:?}"));
        let job = || cell.jobs().find(|job| is_at_home(job, slot)).map(|job| job.id.to_string());
        let left = task.or_else(unknown).or_else(job);
        left.map(|left| format!("{left} stays on {}, drained by {:?}", machine.name, machine.drain_deadline))
    })
}

/// Whether the tasks of a job that is not over share the machine in this slot.
fn is_at_home(job: &Job, slot: u32) -> bool {
    !job.state.is_final() && job.home == Some(slot)
}

fn has_live_tasks(cell: &Cell, job: &Job) -> bool {
    let mut groups = job.group_positions().filter_map(|group| cell.group(job, group));
    groups.any(|group| group.tasks_in(TaskState::Live) > 0)
}

fn has_allocations(cell: &Cell, id: JobId) -> bool {
    cell.allocations().any(|found| found.row.job() == id)
}
