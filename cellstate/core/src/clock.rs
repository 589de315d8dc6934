//! What happens by time alone: allocations of unreachable machines are lost, what is left on drained ones is stopped, holds
//! end, unknown tasks are told to stop, finished jobs are retired.

use std::sync::Arc;

use plenum_model::rare;
use plenum_model::{
    AllocationRow, AllocationState, AllocationStatus, Cell, Job, JobChange, JobId, LogTime, MachineState, TaskState,
};

use crate::derived::active_on;
use crate::jobs::groups_of;
use crate::lifecycle::Consequences;
use crate::{Core, Verdict, accepted};

/// Things that one tick does at most, so that none takes long; the next tick is due at once.
const TICK_MAX: usize = 256;

/// Over this time the giving up of machines is limited.
const MINUTE_MICROS: i64 = 60_000_000;

impl Core {
    /// The earliest time at which `Tick` would change something, if nothing else happens.
    #[must_use]
    pub fn next_due(&self) -> Option<LogTime> {
        let retired = self.derived.retires.first().map(|(time, _)| *time);
        let lost = self.derived.losses.first().map(|(time, _)| *time);
        let lost = lost.map(|time| match self.derived.given_up.first() {
            Some(first) if !self.may_give_up() => time.max(first.plus_micros(MINUTE_MICROS)),
            _ => time,
        });
        let drained = self.derived.drains.first().map(|(time, _)| *time);
        let held = self.cell.holds().map(|(_, hold)| hold.deadline).min();
        let unknown = self.derived.unknown_due.first();
        retired.into_iter().chain(lost).chain(drained).chain(held).chain(unknown).min()
    }

    /// Lets what is due at `now` happen.
    ///
    /// A tick that changes nothing is not logged. So it may only forget what it would find again: which entries are left must
    /// never decide what a later tick does.
    pub(crate) fn tick(&mut self, now: LogTime) -> Verdict {
        self.derived.given_up.retain(|time| time.plus_micros(MINUTE_MICROS) > now);
        let retired = self.take_retired(now);
        let losers = self.take_losers(now, TICK_MAX - retired.len());
        let drained = self.take_drained(now, TICK_MAX - retired.len() - losers.len());
        let mut delta = self.draft(now);
        let left = TICK_MAX - retired.len() - losers.len() - drained.len();
        delta.holds = self.expired_holds(now, left).into_iter().map(|job| (job, None)).collect();
        delta.unknown = self.overdue_unknown(now, left - delta.holds.len());
        delta.jobs.extend(retired.into_iter().map(JobChange::Removed));
        let mut consequences = Consequences::new(&self.cell, &mut self.derived.marks, delta, now);
        for &slot in &losers {
            lose(&self.cell, slot, now, &mut consequences);
        }
        drained.iter().for_each(|&slot| drain(&self.cell, slot, &mut consequences));
        let delta = consequences.conclude();
        if delta.moves.is_empty() && delta.jobs.is_empty() && delta.holds.is_empty() && delta.unknown.is_empty() {
            return Verdict::Answer(accepted(0, 0));
        }
        Verdict::Change(accepted(0, 0), delta)
    }

    /// Finished jobs whose time is over. One with allocations comes again when the last of them ends.
    fn take_retired(&mut self, now: LogTime) -> Vec<JobId> {
        let mut retired = Vec::new();
        while let Some(&(time, id)) = self.derived.retires.first().filter(|(time, _)| *time <= now)
            && retired.len() < TICK_MAX
        {
            self.derived.retires.remove(&(time, id));
            if !has_allocations(&self.cell, id) {
                rare!("a finished job is retired");
                retired.push(id);
            }
        }
        retired
    }

    /// Unreachable machines of which allocations are to be lost now, at most `max` of them, and as many as may be given up.
    fn take_losers(&mut self, now: LogTime, max: usize) -> Vec<u32> {
        let mut losers = Vec::new();
        while let Some(&(time, slot)) = self.derived.losses.first().filter(|(time, _)| *time <= now)
            && losers.len() < max
        {
            // A tick that gives nobody up is not logged: an entry that is out of date must not decide who is first, here or in a replay.
            let actual = loss_times(&self.cell, slot).min();
            if actual != Some(time) {
                self.derived.losses.remove(&(time, slot));
                self.derived.losses.extend(actual.map(|actual| (actual, slot)));
                continue;
            }
            if actual.is_some_and(|time| time <= now) {
                if !self.may_give_up() {
                    rare!("a machine waits to be given up");
                    break;
                }
                self.derived.given_up.push(now);
                losers.push(slot);
            }
            self.derived.losses.remove(&(time, slot));
            self.note_rest(slot, now);
        }
        losers
    }

    /// Draining machines whose deadline is over, at most `max` of them.
    fn take_drained(&mut self, now: LogTime, max: usize) -> Vec<u32> {
        let mut drained = Vec::new();
        while let Some(&(time, slot)) = self.derived.drains.first().filter(|(time, _)| *time <= now)
            && drained.len() < max
        {
            self.derived.drains.remove(&(time, slot));
            if active_on(&self.cell, slot).next().is_some() || self.cell.jobs().any(|job| lives_on(job, slot)) {
                drained.push(slot);
            }
        }
        drained
    }

    /// Whether one more machine may be given up within this minute: when many vanish at once, the network is to blame.
    fn may_give_up(&self) -> bool {
        let machines = self.cell.machines().count() as u64;
        let allowed = (machines * u64::from(self.options.lost_millis_a_minute) / 1000).max(1);
        (self.derived.given_up.len() as u64) < allowed
    }

    /// Notes when what was not lost yet will be.
    fn note_rest(&mut self, slot: u32, now: LogTime) {
        if let Some(time) = loss_times(&self.cell, slot).filter(|&time| time > now).min() {
            self.derived.losses.insert((time, slot));
        }
    }
}

fn lost_after(cell: &Cell, row: &AllocationRow) -> Option<i64> {
    cell.job(row.job())?.shape.groups.get(usize::from(row.group))?.lost_after_micros
}

/// Jobs whose tasks share a machine and that run nothing just now, with the microseconds after which they give it up: the longest
/// of their groups. Not those that never do.
fn homes_on(cell: &Cell, slot: u32) -> impl Iterator<Item = (&Arc<Job>, i64)> {
    let here = move |job: &&Arc<Job>| lives_on(job, slot);
    let runs = |job: &Job| groups_of(cell, job).any(|(_, group)| group.tasks_in(TaskState::Live) > 0);
    cell.jobs().filter(here).filter(move |job| !runs(job)).filter_map(|job| {
        let longest = job.shape.groups.iter().map(|group| group.lost_after_micros.unwrap_or(i64::MAX)).max();
        longest.filter(|&longest| longest < i64::MAX).map(|longest| (job, longest))
    })
}

/// When allocations of an unreachable machine, and jobs that have it for their home, are lost.
pub(crate) fn loss_times(cell: &Cell, slot: u32) -> impl Iterator<Item = LogTime> {
    let machine = cell.machine_in(slot).filter(|machine| machine.state == MachineState::Unreachable);
    machine.into_iter().flat_map(move |machine| {
        let allocations = active_on(cell, slot).filter_map(move |(_, row)| lost_after(cell, row));
        let homes = homes_on(cell, slot).map(|(_, after)| after);
        allocations.chain(homes).map(move |after| machine.since.plus_micros(after))
    })
}

/// The allocations of an unreachable machine whose time is over.
fn overdue(cell: &Cell, slot: u32, now: LogTime) -> impl Iterator<Item = u32> {
    let machine = cell.machine_in(slot).filter(|machine| machine.state == MachineState::Unreachable);
    let over = move |row: &AllocationRow| {
        let after = lost_after(cell, row)?;
        Some(machine?.since.plus_micros(after) <= now)
    };
    active_on(cell, slot).filter(move |(_, row)| over(row).unwrap_or(false)).map(|(allocation, _)| allocation)
}

/// What an unreachable machine ran is lost, as far as its time is over, and jobs lose it as their home.
fn lose(cell: &Cell, slot: u32, now: LogTime, consequences: &mut Consequences<'_>) {
    let Some(machine) = cell.machine_in(slot) else { return };
    let reason: Arc<str> = format!("{} is unreachable", machine.name).into();
    for allocation in overdue(cell, slot, now) {
        let status = AllocationStatus { state: AllocationState::Lost, ready: false };
        let restarts = cell.allocation_in(allocation).and_then(|found| found.extra).map_or(0, |extra| extra.restarts);
        consequences.go(allocation, status, restarts, Some(reason.clone()));
    }
    for (job, _) in homes_on(cell, slot).filter(|(_, after)| machine.since.plus_micros(*after) <= now) {
        consequences.lose_home_of(job.id);
    }
}

/// Whether a job's tasks share this machine.
fn lives_on(job: &Job, slot: u32) -> bool {
    job.home == Some(slot) && !job.state.is_final()
}

/// What is left on a machine at the deadline of its drain is stopped; jobs whose tasks share it start over elsewhere.
fn drain(cell: &Cell, slot: u32, consequences: &mut Consequences<'_>) {
    for (allocation, _) in active_on(cell, slot) {
        consequences.stop(allocation, "drained");
    }
    consequences.lose_home(slot);
}

fn has_allocations(cell: &Cell, id: JobId) -> bool {
    let Some(job) = cell.job(id) else { return false };
    groups_of(cell, job).any(|(_, group)| group.leaving + group.tasks_in(TaskState::Live) > 0)
}
