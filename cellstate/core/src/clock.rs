//! What happens by time alone: allocations of unreachable machines are lost, finished jobs are retired.

use plenum_model::{AllocationState, AllocationStatus, Cell, JobChange, LogTime, MachineState, TaskState};

use crate::derived::{Due, active_on};
use crate::jobs::groups_of;
use crate::lifecycle::Consequences;
use crate::{Core, Verdict, accepted};

/// Things that one tick does at most, so that none takes long; the next tick is due at once.
const TICK_MAX: usize = 256;

/// Over this time the giving up of machines is limited.
const MINUTE_MICROS: i64 = 60_000_000;

impl Core {
    /// Lets what is due at `now` happen.
    pub(crate) fn tick(&mut self, now: LogTime) -> Verdict {
        let due: Vec<_> =
            self.derived.due.iter().take_while(|(time, _)| *time <= now).take(TICK_MAX).copied().collect();
        self.derived.given_up.retain(|time| time.plus_micros(MINUTE_MICROS) > now);
        let mut retired = Vec::new();
        let mut losers = Vec::new();
        for entry in due {
            self.derived.due.remove(&entry);
            match entry.1 {
                Due::Retire(id) if has_allocations(&self.cell, id) => {
                    self.derived.due.insert((now.plus_micros(MINUTE_MICROS), entry.1));
                }
                Due::Retire(id) => retired.push(id),
                Due::Lost(slot) if self.may_give_up() => {
                    self.derived.given_up.push(now);
                    losers.push(slot);
                }
                Due::Lost(_) => {
                    let first = self.derived.given_up.first().copied().unwrap_or(now);
                    self.derived.due.insert((first.plus_micros(MINUTE_MICROS), entry.1));
                }
            }
        }
        let mut delta = self.draft(now);
        delta.jobs.extend(retired.into_iter().map(JobChange::Removed));
        let mut consequences = Consequences::new(&self.cell, &mut self.derived.marks, delta, now);
        for &slot in &losers {
            lose(&self.cell, slot, now, &mut consequences);
        }
        let delta = consequences.conclude();
        for &slot in &losers {
            self.note_rest(slot, now);
        }
        if delta.moves.is_empty() && delta.jobs.is_empty() {
            return Verdict::Answer(accepted(0, 0));
        }
        Verdict::Change(accepted(0, 0), delta)
    }

    /// Whether one more machine may be given up within this minute: when many vanish at once, the network is to blame.
    fn may_give_up(&self) -> bool {
        let machines = self.cell.machines().count() as u64;
        let allowed = (machines * u64::from(self.options.lost_millis_a_minute) / 1000).max(1);
        (self.derived.given_up.len() as u64) < allowed
    }

    /// Notes when the allocations that were not lost yet will be.
    fn note_rest(&mut self, slot: u32, now: LogTime) {
        let Some(machine) = self.cell.machine_in(slot) else { return };
        let later = active_on(&self.cell, slot).filter_map(|(_, row)| {
            let after = lost_after(&self.cell, row)?;
            Some(machine.since.plus_micros(after)).filter(|&time| time > now)
        });
        if let Some(time) = later.min() {
            self.derived.due.insert((time, Due::Lost(slot)));
        }
    }
}

fn lost_after(cell: &Cell, row: &plenum_model::AllocationRow) -> Option<i64> {
    cell.job(row.job())?.shape.groups.get(usize::from(row.group))?.lost_after_micros
}

/// The allocations of an unreachable machine whose time is over leave as lost.
fn lose(cell: &Cell, slot: u32, now: LogTime, consequences: &mut Consequences<'_>) {
    let Some(machine) = cell.machine_in(slot).filter(|machine| machine.state == MachineState::Unreachable) else {
        return;
    };
    for (allocation, row) in active_on(cell, slot) {
        let over = lost_after(cell, row).is_some_and(|after| machine.since.plus_micros(after) <= now);
        if over {
            let status = AllocationStatus { state: AllocationState::Lost, ready: false };
            let restarts =
                cell.allocation_in(allocation).and_then(|found| found.extra).map_or(0, |extra| extra.restarts);
            let reason = format!("{} is unreachable", machine.name);
            consequences.go(allocation, status, restarts, Some(reason.into()));
        }
    }
}

fn has_allocations(cell: &Cell, id: plenum_model::JobId) -> bool {
    let Some(job) = cell.job(id) else { return false };
    groups_of(cell, job).any(|(_, group)| group.leaving + group.tasks_in(TaskState::Live) > 0)
}
