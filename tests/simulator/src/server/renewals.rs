//! When agents renewed their leases last, or the server gave out those that it found, and how long it stood still since: what shows that each lease
//! had its whole term, beside that time, and that nothing is taken by time before whoever could keep it was heard.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{AllocationRef, Cell, Machine, MachineId, UnknownId};

use crate::books::{Checked, hold};

/// Of one server process.
#[derive(Debug)]
pub(super) struct Renewals {
    lease_micros: i64,
    began_micros: i64,
    /// How long it stood still, in pauses that no server can fail to notice.
    slept_micros: i64,
    /// It began or woke then last, and the cell was this.
    woke_micros: i64,
    woke: Cell,
    /// By machine and epoch: when, and how long it had slept by then.
    last: BTreeMap<(MachineId, u32), (i64, i64)>,
}

impl Renewals {
    pub(super) fn new(lease_micros: i64, began_micros: i64, cell: &Cell) -> Self {
        Self {
            lease_micros,
            began_micros,
            slept_micros: 0,
            woke_micros: began_micros,
            woke: cell.clone(),
            last: BTreeMap::new(),
        }
    }

    /// An agent renewed its machine's lease, or began it.
    pub(super) fn renewed(&mut self, machine: MachineId, epoch: u32, now_micros: i64) {
        self.last.insert((machine, epoch), (now_micros, self.slept_micros));
    }

    /// The process stood still in this time. Its own share counts where it is another process than the one that fell asleep.
    pub(super) fn slept(&mut self, since_micros: i64, now_micros: i64, cell: &Cell) {
        let micros = now_micros - since_micros.max(self.began_micros);
        // What is shorter need not be noticed: see `Standstill::new`.
        if micros > self.lease_micros / 3 {
            self.slept_micros += micros;
            self.woke_micros = now_micros;
            self.woke = cell.clone();
        }
    }

    /// While the server stands still nobody can renew a lease: what ends has run for its term beside that. What nobody renewed since the start began
    /// with it: who renewed it before, and when, the server does not know.
    pub(super) fn invariant_no_lease_ends_by_its_server_s_sleep(
        &mut self,
        machine: MachineId,
        epoch: u32,
        now_micros: i64,
    ) -> Checked {
        let (renewed_micros, slept_micros) = self.last.remove(&(machine, epoch)).unwrap_or((self.began_micros, 0));
        let (slept, passed) = (self.slept_micros - slept_micros, now_micros - renewed_micros);
        hold(passed - slept >= self.lease_micros, "invariant_no_lease_ends_by_its_server_s_sleep", || {
            format!(
                "the lease of {machine} in epoch {epoch} was renewed, or given out with the start, {passed} µs ago, of which the server slept {slept} µs; it has {} µs",
                self.lease_micros
            )
        })
    }

    /// Before a server began, and while it stood still, nobody could say anything to it: for a term of a lease behind that, time alone takes nothing
    /// that was due then, or is since, and that a word could have kept.
    pub(super) fn invariant_nothing_is_taken_before_all_were_heard(
        &self,
        before: &Cell,
        after: &Cell,
        now_micros: i64,
    ) -> Checked {
        let passed = now_micros - self.woke_micros;
        let taken = if passed < self.lease_micros { taken(&self.woke, before, after) } else { None };
        hold(taken.is_none(), "invariant_nothing_is_taken_before_all_were_heard", || {
            format!(
                "{} in a tick {passed} µs after the server began or woke; all have {} µs to be heard",
                taken.unwrap_or_default(),
                self.lease_micros
            )
        })
    }
}

/// What a tick took of what somebody could have kept, and stood to be taken as it does now when the server woke: tasks that are wanted still, a hold, a
/// task that the cell does not know.
fn taken(woke: &Cell, before: &Cell, after: &Cell) -> Option<String> {
    let stood = |slot: u32| {
        let (then, now) = (woke.machine_in(slot), before.machine_in(slot));
        let same = |(then, now): (&Arc<Machine>, &Arc<Machine>)| {
            (then.id, then.state, then.drain_deadline) == (now.id, now.state, now.drain_deadline)
        };
        then.zip(now).is_some_and(same)
    };
    let is_wanted = |found: &AllocationRef<'_>| {
        let job = after.job(found.row.job()).filter(|job| !job.state.is_final());
        let row = job.and_then(|job| after.group(job, found.row.group));
        row.is_some_and(|row| found.row.task < row.count)
    };
    let stays = |found: &AllocationRef<'_>| after.allocation(found.id).is_some_and(|now| now.status.state.is_active());
    let due = |found: &AllocationRef<'_>| found.status.state.is_active() && stood(found.row.machine);
    let active = || before.allocations().filter(due);
    let stopped = active().find(|found| !stays(found) && is_wanted(found));
    let stopped = stopped.map(|found| format!("allocation {} was stopped or lost", found.id));
    let waits = |job| after.job(job).is_some_and(|job| !job.state.is_final());
    let held = || {
        let mut holds =
            before.holds().filter(|(job, hold)| woke.hold(*job).map(|it| it.deadline) == Some(hold.deadline));
        holds.find(|(job, _)| after.hold(*job).is_none() && waits(*job))
    };
    let told = || {
        let until = |cell: &Cell, id| cell.unknown_task(id).map(|task| (task.until, task.stopping));
        let is_due = |id: UnknownId| stood(id.machine) && until(woke, id) == until(before, id);
        let mut due = after.unknown_tasks().filter(|(id, _)| is_due(*id));
        due.find(|(id, task)| task.stopping && !is_stopping(before, *id))
    };
    stopped
        .or_else(|| held().map(|(job, _)| format!("the hold of job {job} ended")))
        .or_else(|| told().map(|(id, _)| format!("unknown task {id:?} was told to stop")))
}

fn is_stopping(cell: &Cell, id: UnknownId) -> bool {
    cell.unknown_task(id).is_some_and(|task| task.stopping)
}
