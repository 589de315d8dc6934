//! What happens by time alone: allocations of unreachable machines are lost, what is left on drained ones is stopped, known or not, holds
//! end, unknown tasks are told to stop, finished jobs are retired.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::rare;
use plenum_model::{
    AllocationRow, AllocationState, AllocationStatus, Cell, Job, JobChange, JobId, LogTime, Machine, MachineState,
    TaskState, TaskTraces, UnknownId, UnknownTask,
};

use crate::derived::Derived;
use crate::derived::homes::Homes;
use crate::jobs::groups_of;
use crate::lifecycle::Consequences;
use crate::{Core, Verdict, accepted};

/// Things that one tick does at most, so that none takes long; the next tick is due at once.
const TICK_MAX: usize = 256;

/// Done tasks that one tick lets wait again, and bytes of unknown tasks that it tells to stop, for each task that it may stop: each of
/// these may come to three times what stops may. See `CoreOptions::stops_max`.
const RESETS_PER_STOP: usize = 64;
const UNKNOWN_BYTES_PER_STOP: usize = 384;

/// Over this time the giving up of machines is limited.
const MINUTE_MICROS: i64 = 60_000_000;

/// What one tick stops.
struct Stops {
    max: usize,
    taken: usize,
}

impl Stops {
    /// How many of so many more may be stopped with this tick: all of them or none, or the first ones of more than any tick may stop.
    /// `None`: this tick stops enough without them.
    fn take(&mut self, count: usize) -> Option<usize> {
        if self.taken > 0 && self.taken + count > self.max {
            return None;
        }
        let taken = count.min(self.left());
        self.taken += taken;
        Some(taken)
    }

    fn left(&self) -> usize {
        self.max.saturating_sub(self.taken)
    }
}

impl Core {
    /// The earliest time at which `Tick` would change something, if nothing else happens.
    #[must_use]
    pub fn next_due(&self) -> Option<LogTime> {
        let swept = self.derived.sweeps.any().then(|| self.cell.time());
        self.next_retirement().into_iter().chain(swept).chain(self.next_forfeit()).min()
    }

    /// The earliest time at which `Tick` would take something that somebody could have kept with a word by then: what an unreachable machine ran or a
    /// drained one still runs, a hold, a task that the cell does not know. What else is due was decided before, or is over.
    #[must_use]
    pub fn next_forfeit(&self) -> Option<LogTime> {
        let lost = self.derived.losses.first().map(|(time, _)| time);
        let lost = lost.map(|time| match self.derived.given_up_at.first() {
            Some(first) if !self.may_give_up() => time.max(first.plus_micros(MINUTE_MICROS)),
            _ => time,
        });
        let further = self.derived.further_losses.first().map(|(time, _)| time);
        let drained = self.derived.drains.first().map(|(time, _)| time);
        let held = self.cell.holds().map(|(_, hold)| hold.deadline).min();
        let unknown = self.derived.unknown_due.first();
        lost.into_iter().chain(further).chain(drained).chain(held).chain(unknown).min()
    }

    /// Since when, or from when on, machines wait to be given up because as many as may be were within a minute; `None`: none does.
    #[must_use]
    pub fn held_back_since(&self) -> Option<LogTime> {
        let ((first, _), oldest) = (self.derived.losses.first()?, self.derived.given_up_at.first()?);
        // What was given up longer ago stays in the list until the next tick, and holds nobody back.
        let counts = oldest.plus_micros(MINUTE_MICROS) > first;
        (counts && !self.may_give_up()).then_some(first)
    }

    /// From when on each machine waits so, in order: an operator has to look, as it is rather the network that failed.
    pub fn held_back(&self) -> impl Iterator<Item = LogTime> {
        self.held_back_since().into_iter().flat_map(|_| self.derived.losses.times())
    }

    /// A number that is another one whenever those times may be others, while some machine waits.
    #[must_use]
    pub const fn held_back_changes(&self) -> u64 {
        self.derived.losses.changes()
    }

    /// Lets what is due at `now` happen.
    ///
    /// A tick that changes nothing is not logged. So it may only forget what it would find again: which entries are left must
    /// never decide what a later tick does.
    pub(crate) fn tick(&mut self, now: LogTime) -> Verdict {
        self.derived.given_up_at.retain(|time| time.plus_micros(MINUTE_MICROS) > now);
        let retired = self.take_retired(now);
        let mut stops = Stops { max: self.options.stops_max, taken: 0 };
        let losers = self.take_losers(now, TICK_MAX - retired.len(), &mut stops);
        let drained = self.take_drained(now, TICK_MAX - retired.len() - losers.len(), &mut stops);
        let mut delta = self.draft(now);
        let left = TICK_MAX - retired.len() - losers.len() - drained.len();
        delta.holds = self.expired_holds(now, left).into_iter().map(|job| (job, None)).collect();
        // Of machines that are drained at least one each: they were counted, and some have nothing else.
        let most = (left - delta.holds.len()).max(drained.len());
        delta.unknown = self.unknown_to_stop(now, drained.iter().map(|&(slot, _)| slot), most);
        let few = within_bytes(&delta.unknown, self.options.stops_max.saturating_mul(UNKNOWN_BYTES_PER_STOP));
        delta.unknown.truncate(few);
        self.drain_the_rest_later(&drained, &delta.unknown);
        delta.jobs.extend(retired.into_iter().map(JobChange::Removed));
        let Derived { marks, tenants, ring, homes, sweeps, opened_at, .. } = &mut self.derived;
        let mut consequences = Consequences::new(&self.cell, marks, delta, self.options.stops_max);
        for &(slot, max) in &losers {
            let active = tenants.active_on(&self.cell, ring, slot);
            lose(&self.cell, homes, slot, &active, (now, *opened_at), max, &mut consequences);
        }
        for &(slot, max) in &drained {
            drain(&tenants.active_on(&self.cell, ring, slot), homes, slot, max, &mut consequences);
        }
        sweeps.stop_some(&self.cell, stops.left(), &mut consequences);
        let resets_max = self.options.stops_max.saturating_mul(RESETS_PER_STOP);
        let (delta, unfinished) =
            consequences.conclude_within(resets_max, |machine| tenants.live_on(&self.cell, ring, machine));
        for &slot in &unfinished {
            if losers.iter().any(|&(loser, _)| loser == slot) {
                self.derived.put_loss(slot, Some(now));
            }
            if drained.iter().any(|&(draining, _)| draining == slot) {
                // By its deadline, as it is for a core that begins with this cell.
                self.cell.machine_in(slot).into_iter().for_each(|machine| self.derived.note_drain(machine));
            }
        }
        let is_same = delta.moves.is_empty() && delta.jobs.is_empty() && delta.tasks.is_empty();
        if is_same && delta.holds.is_empty() && delta.unknown.is_empty() {
            return Verdict::Answer(accepted(0, 0));
        }
        Verdict::Change(accepted(0, 0), delta)
    }

    /// Finished jobs whose time is over, and the first of those that are too many, or have too many bytes. One with allocations comes
    /// again when the last of them ends.
    fn take_retired(&mut self, now: LogTime) -> Vec<JobId> {
        let mut retired = Vec::new();
        let (crowd, excess_bytes) = self.too_much_over();
        let mut freed_bytes = 0;
        while let Some(&(time, id)) = self.derived.retires.first()
            && (time <= now || retired.len() < crowd || freed_bytes < excess_bytes)
            && retired.len() < TICK_MAX
        {
            self.derived.retires.remove(&(time, id));
            if has_allocations(&self.cell, id) {
                continue;
            }
            rare!("a finished job is retired");
            if time > now {
                rare!("a finished job is retired before its time, because there are many");
            }
            freed_bytes += self.cell.job(id).map_or(0, |job| job.kept_bytes() as u64);
            retired.push(id);
        }
        retired
    }

    /// Unreachable machines of which something is to be lost now, at most `max` of them, and as many as may be given up; each with how
    /// many allocations and homes it loses with this tick.
    fn take_losers(&mut self, now: LogTime, max: usize, stops: &mut Stops) -> Vec<(u32, usize)> {
        let mut losers = Vec::new();
        // First those that were given up: they wait for no turn, not even behind others that do.
        for were_given_up in [true, false] {
            while losers.len() < max
                && let Some((slot, times)) = self.first_loser(were_given_up, now)
            {
                if !were_given_up && !self.may_give_up() {
                    rare!("a machine waits to be given up");
                    break;
                }
                let due = times.iter().filter(|&&time| time <= now).count();
                let Some(taken) = stops.take(due) else { return losers };
                if were_given_up {
                    rare!("more of a machine is lost that was given up");
                } else {
                    self.derived.given_up.insert(slot);
                    self.derived.given_up_at.push(now);
                }
                losers.push((slot, taken));
                if taken < due {
                    rare!("a crowded machine is lost in steps");
                    self.derived.put_loss(slot, Some(now));
                    return losers;
                }
                // What is not lost yet will be.
                self.derived.put_loss(slot, times.into_iter().filter(|&time| time > now).min());
            }
        }
        losers
    }

    /// The first machine of which something is to be lost now, with when all is that it may lose: of those that were given up, or of the
    /// others.
    fn first_loser(&mut self, was_given_up: bool, now: LogTime) -> Option<(u32, Vec<LogTime>)> {
        loop {
            let losses = if was_given_up { &self.derived.further_losses } else { &self.derived.losses };
            let (time, slot) = losses.first().filter(|(time, _)| *time <= now)?;
            // A tick that gives nobody up is not logged: an entry that is out of date must not decide who is first, here or in a replay.
            let times = self.loss_times_of(slot);
            let actual = times.iter().copied().min();
            if actual == Some(time) {
                return Some((slot, times));
            }
            self.derived.put_loss(slot, actual);
        }
    }

    fn loss_times_of(&mut self, slot: u32) -> Vec<LogTime> {
        let active = self.derived.tenants.active_on(&self.cell, &self.derived.ring, slot);
        loss_times(&self.cell, &self.derived.homes, slot, &active, self.derived.opened_at).collect()
    }

    /// Draining machines whose deadline is over, at most `max` of them; each with how many allocations it stops with this tick.
    fn take_drained(&mut self, now: LogTime, max: usize, stops: &mut Stops) -> Vec<(u32, usize)> {
        let mut drained = Vec::new();
        while let Some((_, slot)) = self.derived.drains.first().filter(|(time, _)| *time <= now)
            && drained.len() < max
        {
            let active = self.derived.tenants.active_on(&self.cell, &self.derived.ring, slot);
            let Some(taken) = stops.take(active.len()) else { break };
            let is_home = self.derived.homes.on(slot).next().is_some();
            if !active.is_empty() || is_home || self.cell.unknown_on(slot).any(|(_, task)| !task.stopping) {
                drained.push((slot, taken));
            }
            if taken < active.len() {
                rare!("a crowded machine is drained in steps");
                break;
            }
            self.derived.drains.put(slot, None);
        }
        drained
    }

    /// Machines that are drained with this tick are due again if more unknown tasks run there than it tells to stop.
    fn drain_the_rest_later(&mut self, drained: &[(u32, usize)], told: &[(UnknownId, Option<Arc<UnknownTask>>)]) {
        let told: BTreeSet<UnknownId> = told.iter().map(|(id, _)| *id).collect();
        for &(slot, _) in drained {
            let mut rest = self.cell.unknown_on(slot).filter(|(id, task)| !task.stopping && !told.contains(id));
            if rest.next().is_some()
                && let Some(machine) = self.cell.machine_in(slot)
            {
                self.derived.note_drain(machine);
            }
        }
    }

    /// Whether one more machine may be given up within this minute: when many vanish at once, the network is to blame.
    fn may_give_up(&self) -> bool {
        let machines = u64::from(self.derived.machine_slots.taken());
        let allowed = (machines * u64::from(self.options.lost_millis_a_minute) / 1000).max(1);
        (self.derived.given_up_at.len() as u64) < allowed || planted::is(Bug::GivesUpTooMany)
    }
}

/// Machines of a cell that somebody begins with, as far as it tells who of them was given up.
pub(crate) struct GivenUp {
    /// Slots of those that were given up since they are unreachable. Something is lost of them that was granted since they were last away: what was lost
    /// then stays so until its receipt, and they may have come back since. One that lost only what was granted before that waits for a turn once more.
    pub(crate) slots: BTreeSet<u32>,
    /// Those that may have been. When that was stands nowhere: it is taken that it was just now, or a server that starts over and over would give up a
    /// whole cell whose network has failed.
    pub(crate) at_most: usize,
}

impl GivenUp {
    pub(crate) fn of(cell: &Cell) -> Self {
        let unreachable = |machine: &&Arc<Machine>| machine.state == MachineState::Unreachable;
        let epochs: BTreeMap<u32, u32> =
            cell.machines().filter(unreachable).map(|machine| (machine.id.slot, machine.epoch)).collect();
        let (mut slots, mut all) = (BTreeSet::new(), BTreeSet::new());
        if epochs.is_empty() {
            return Self { slots, at_most: 0 };
        }
        for lost in cell.allocations().filter(|found| found.status.state == AllocationState::Lost) {
            let Some(epoch) = epochs.get(&lost.row.machine) else { continue };
            all.insert(lost.row.machine);
            if *epoch == lost.row.epoch {
                slots.insert(lost.row.machine);
            }
        }
        Self { slots, at_most: all.len() }
    }
}

/// How many of these unknown tasks, the first ones, are surely within so many bytes in the log; the first one always is among them.
fn within_bytes(unknown: &[(UnknownId, Option<Arc<UnknownTask>>)], bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fit = unknown.iter().take_while(|(_, task)| {
        let first = bytes == 0;
        bytes += task.as_ref().map_or(64, |task| bytes_of(&task.traces));
        first || bytes <= bytes_max
    });
    fit.count()
}

/// Bytes of an unknown task in the log, at most: numbers have ten, and lengths and keys as many for each of its parts.
fn bytes_of(traces: &TaskTraces) -> usize {
    let names = traces.namespace.len() + traces.job.len() + traces.group.len();
    let devices: usize = traces.devices.iter().map(|device| device.kind.len() + device.model.len() + 32).sum();
    let ports: usize = traces.ports.iter().map(|port| port.name.len() + 16).sum();
    256 + names + devices + ports
}

fn lost_after(cell: &Cell, row: &AllocationRow) -> Option<i64> {
    let micros = cell.job(row.job())?.shape.lost_after_micros(row.group)?;
    Some(if planted::is(Bug::LosesTooSoon) { micros / 2 } else { micros })
}

/// Jobs whose tasks share a machine and that run nothing just now, with the microseconds after which they give it up, as if they
/// ran something. Not those that never do.
fn homes_on<'a>(cell: &'a Cell, homes: &'a Homes, slot: u32) -> impl Iterator<Item = (&'a Arc<Job>, i64)> {
    let runs = |job: &Job| groups_of(cell, job).any(|(_, group)| group.tasks_in(TaskState::Live) > 0);
    let idle = homes.on(slot).filter_map(|id| cell.job(id)).filter(move |job| !runs(job));
    // Whichever group: where tasks share a machine, all have the same.
    idle.filter_map(|job| Some((job, job.shape.lost_after_micros(0)?)))
}

/// Since when an unreachable machine could have been heard of. Its agent had nobody to answer while no server was there, and a new one gives
/// it as long as it had at first: as with leases, of which each gets a full term.
fn silent_since(machine: &Machine, opened_at: LogTime) -> LogTime {
    machine.since.max(opened_at)
}

/// When allocations of an unreachable machine, of which these are active, and jobs that have it for their home, are lost. The server opened
/// at `opened_at`.
pub(crate) fn loss_times<'a>(
    cell: &'a Cell,
    homes: &'a Homes,
    slot: u32,
    active: &'a [u32],
    opened_at: LogTime,
) -> impl Iterator<Item = LogTime> {
    let machine = cell.machine_in(slot).filter(|machine| machine.state == MachineState::Unreachable);
    machine.into_iter().flat_map(move |machine| {
        let rows = active.iter().filter_map(|&allocation| cell.allocation_rows().get(allocation));
        let allocations = rows.filter_map(|row| lost_after(cell, row));
        let homes = homes_on(cell, homes, slot).map(|(_, after)| after);
        allocations.chain(homes).map(move |after| silent_since(machine, opened_at).plus_micros(after))
    })
}

/// What an unreachable machine ran, of which this is active, is lost, as far as its time is over; and jobs lose it as their home. The
/// first `max` of all these.
fn lose(
    cell: &Cell,
    homes: &Homes,
    slot: u32,
    active: &[u32],
    (now, opened_at): (LogTime, LogTime),
    max: usize,
    consequences: &mut Consequences<'_>,
) {
    let unreachable = |machine: &&Arc<Machine>| machine.state == MachineState::Unreachable;
    let Some(machine) = cell.machine_in(slot).filter(unreachable) else { return };
    let reason: Arc<str> = format!("{} is unreachable", machine.name).into();
    let over = |after: i64| silent_since(machine, opened_at).plus_micros(after) <= now;
    let found = active.iter().filter_map(|&allocation| cell.allocation_in(allocation));
    let mut left = max;
    for found in found.filter(|found| lost_after(cell, found.row).is_some_and(over)).take(max) {
        let status = AllocationStatus { state: AllocationState::Lost, ready: false };
        let restarts = found.extra.map_or(0, |extra| extra.restarts);
        consequences.go(found.id.slot, status, restarts, Some(reason.clone()));
        left -= 1;
    }
    for (job, _) in homes_on(cell, homes, slot).filter(|(_, after)| over(*after)).take(left) {
        consequences.lose_home_of(job.id);
    }
}

/// What is left on a machine at the deadline of its drain is stopped, the first `max` of it; jobs whose tasks share it start over
/// elsewhere once that was all.
fn drain(active: &[u32], homes: &Homes, slot: u32, max: usize, consequences: &mut Consequences<'_>) {
    for &allocation in active.iter().take(max) {
        consequences.stop(allocation, "drained");
    }
    if active.len() <= max {
        homes.on(slot).for_each(|job| consequences.lose_home_of(job));
    }
}

pub(crate) fn has_allocations(cell: &Cell, id: JobId) -> bool {
    let Some(job) = cell.job(id) else { return false };
    groups_of(cell, job).any(|(_, group)| group.leaving + group.tasks_in(TaskState::Live) > 0)
}
