//! Why an allocation begins to leave: somebody asked for it, nobody wants its task any more, or its machine was drained or is lost. A lowered
//! limit, another partition and other attributes are none: those count for what is claimed from then on.

use std::collections::BTreeSet;

use plenum_core::CoreOptions;
use plenum_model::{
    AllocationRef, AllocationState, Cell, Command, Deadline, JobChange, LogTime, Machine, MachineId, MachineState,
};

use super::Step;
use crate::books::{Checked, hold};

/// Over this time the giving up of machines is limited.
pub(super) const MINUTE_MICROS: i64 = 60_000_000;

/// When machines were given up since a server opened the cell, and how many may be within a minute.
#[derive(Debug, Default)]
pub(super) struct Turns {
    at: Vec<LogTime>,
    /// So many of a thousand machines may be given up within a minute, and one at least.
    lost_millis_a_minute: u32,
}

impl Turns {
    /// Of a core with these bounds.
    pub(super) fn of(options: &CoreOptions) -> Self {
        Self { lost_millis_a_minute: options.lost_millis_a_minute, ..Self::default() }
    }

    /// A server opened the cell then. It takes it that those that were given up before were just then.
    pub(super) fn opened(&mut self, at: LogTime, given_up: usize) {
        self.at = vec![at; given_up];
    }

    /// So many more were given up then.
    pub(super) fn taken(&mut self, at: LogTime, given_up: usize) {
        self.at.extend(std::iter::repeat_n(at, given_up));
    }

    /// How many were given up within the minute until then.
    pub(super) fn recent(&self, by: LogTime) -> u64 {
        self.at.iter().filter(|at| at.plus_micros(MINUTE_MICROS) > by).count() as u64
    }

    /// How many may be within a minute.
    pub(super) fn most(&self, cell: &Cell) -> u64 {
        (cell.machines().count() as u64 * u64::from(self.lost_millis_a_minute) / 1000).max(1)
    }
}

/// What is known besides the cell. See the module.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// When a server opened the cell last: before that no machine could be heard.
    opened_at: LogTime,
    /// Slots of the machines that were given up since they are unreachable.
    given_up: BTreeSet<u32>,
    turns: Turns,
}

impl Leaving {
    pub(super) fn of(options: &CoreOptions) -> Self {
        Self { turns: Turns::of(options), ..Self::default() }
    }

    /// Who was told to stop was asked to, or its job is over, or has no such task any more, or its machine should be empty by now. Who is evicted
    /// was named as a victim. What is lost ran on a machine that was silent for so long, and of these no more are given up than may be.
    pub(super) fn invariant_whoever_leaves_has_a_reason(&self, step: &Step<'_>) -> Checked {
        let name = "invariant_whoever_leaves_has_a_reason";
        for change in &step.delta.moves {
            let active = step.before.allocation_in(change.slot).filter(|found| found.status.state.is_active());
            let Some(found) = active else { continue };
            let has_one = match change.status.state {
                AllocationState::Stopping => is_to_stop(step, &found),
                AllocationState::Evicting => is_a_victim(step, &found),
                AllocationState::Lost => self.is_lost(step, &found),
                _ => true,
            };
            hold(has_one, name, || {
                let (revision, state) = (step.delta.revision, change.status.state);
                let machine = step.before.machine_in(found.row.machine).map(|machine| (&machine.name, machine.state));
                format!("revision {revision}: {} becomes {state:?} on {machine:?}", found.id)
            })?;
        }
        let turns = self.given_up_with(step).len() as u64;
        let (recent, most) = (self.turns.recent(step.delta.time), self.turns.most(step.before));
        hold(turns == 0 || recent + turns <= most, name, || {
            let (revision, machines) = (step.delta.revision, step.before.machines().count());
            format!(
                "revision {revision}: {turns} of {machines} machines are given up, and {recent} were within a minute"
            )
        })
    }

    /// It could have been heard for long enough, and was not.
    fn is_lost(&self, step: &Step<'_>, found: &AllocationRef<'_>) -> bool {
        let job = step.before.job(found.row.job());
        let after = job.and_then(|job| job.shape.lost_after_micros(found.row.group));
        let machine = step.before.machine_in(found.row.machine);
        machine.zip(after).is_some_and(|(machine, after)| {
            let silent_since = machine.since.max(self.opened_at);
            machine.state == MachineState::Unreachable && silent_since.plus_micros(after) <= step.delta.time
        })
    }

    /// Slots of the machines that are given up with a step: those of which something is lost for the first time since they are unreachable, an
    /// allocation or the machine that a job's tasks share.
    fn given_up_with(&self, step: &Step<'_>) -> BTreeSet<u32> {
        if !matches!(step.request.command, Command::Tick) {
            return BTreeSet::new();
        }
        let lost = step.delta.moves.iter().filter(|change| change.status.state == AllocationState::Lost);
        let found = lost.filter_map(|change| step.before.allocation_in(change.slot));
        let lost = found.filter(|found| found.status.state.is_active()).map(|found| found.row.machine);
        let homes = step.delta.jobs.iter().filter_map(|change| match change {
            JobChange::Home { id, machine: None } => step.before.job(*id)?.home,
            _ => None,
        });
        let away = |slot: &u32| {
            step.before.machine_in(*slot).is_some_and(|machine| machine.state == MachineState::Unreachable)
        };
        lost.chain(homes).filter(away).filter(|slot| !self.given_up.contains(slot)).collect()
    }

    pub(super) fn note(&mut self, step: &Step<'_>) {
        let (delta, given_up) = (step.delta, self.given_up_with(step));
        self.turns.taken(delta.time, given_up.len());
        self.given_up.extend(given_up);
        for machine in delta.machines.iter().filter(|machine| machine.state != MachineState::Unreachable) {
            self.given_up.remove(&machine.id.slot);
        }
        if delta.cell.is_some() {
            self.opened_at = delta.time;
            let GivenUp { machines, at_most } = GivenUp::of(step.after);
            self.given_up = machines.into_iter().map(|(id, _)| id.slot).collect();
            self.turns.opened(delta.time, at_most);
        }
    }
}

/// Machines that a cell tells to have been given up since they are unreachable, each with its epoch; and how many may have been.
pub(super) struct GivenUp {
    pub(super) machines: BTreeSet<(MachineId, u32)>,
    pub(super) at_most: usize,
}

impl GivenUp {
    /// Something of theirs is lost. What was granted in an earlier epoch may have been lost in an earlier absence.
    pub(super) fn of(cell: &Cell) -> Self {
        let lost = cell.allocations().filter(|found| found.status.state == AllocationState::Lost);
        let on = lost.filter_map(|found| Some((cell.machine_in(found.row.machine)?, found.row.epoch)));
        let away = on.filter(|(machine, _)| machine.state == MachineState::Unreachable);
        let all: BTreeSet<_> =
            away.map(|(machine, epoch)| (machine.id, machine.epoch, epoch == machine.epoch)).collect();
        let at_most = all.iter().map(|(id, ..)| id).collect::<BTreeSet<_>>().len();
        let machines = all.into_iter().filter(|(.., is_sure)| *is_sure).map(|(id, epoch, _)| (id, epoch)).collect();
        Self { machines, at_most }
    }
}

fn is_to_stop(step: &Step<'_>, found: &AllocationRef<'_>) -> bool {
    let row = found.row;
    let is_asked = match &step.request.command {
        Command::StopAllocation(id) => *id == found.id,
        Command::Commit(txn, _) => txn.stops.contains(&found.id),
        _ => false,
    };
    let is_over = step.after.job(row.job()).is_none_or(|job| job.state.is_final());
    let is_no_more = step.after.groups().get(row.group_row).is_none_or(|group| row.task >= group.count);
    let machine = step.before.machine_in(row.machine);
    let is_due = matches!(step.request.command, Command::Tick)
        && machine.is_some_and(|machine| is_drained(machine, step.delta.time));
    is_asked || is_over || is_no_more || is_due
}

/// Whether the drain of a machine is over by then.
pub(super) fn is_drained(machine: &Machine, by: LogTime) -> bool {
    let deadline = machine.drain_deadline.map(Deadline::time);
    machine.state == MachineState::Draining && deadline.is_some_and(|deadline| deadline <= by)
}

/// Who takes its room over, and whether he may, is judged with the grants.
fn is_a_victim(step: &Step<'_>, found: &AllocationRef<'_>) -> bool {
    let Command::Commit(txn, _) = &step.request.command else { return false };
    txn.placements.iter().flat_map(|placement| &placement.preemptions).any(|one| one.victim == found.id)
}
