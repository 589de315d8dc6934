//! What grants says whether what a refusal tells of its base is true: a claim that lacks room, a device or a port is asked again on the cell of
//! its base. It is a conflict exactly if it would have been granted there.

use plenum_core::{Core, Decided};
use plenum_model::{
    AllocationId, AllocationRef, Cell, Command, Decision, Delta, Job, Outcome, Placement, Refusal, RefusalKind,
    RefusalReason, Request, TakeOver, Transaction, device_rooms,
};

use super::{Chaos, options};

/// A claim that was refused, by itself: what its transaction promised before is of other machines.
struct Alone<'a> {
    txn: &'a Transaction,
    /// Of this claim and nothing else.
    placement: Placement,
    job: &'a Job,
    machine: u32,
}

impl Chaos {
    /// Compares the kinds of refusals over room, devices and ports with what those would be told now that asked on the base. `now` is the cell on
    /// which they were decided.
    pub(super) fn check_kinds(&mut self, now: &Cell, txn: &Transaction, outcome: &Outcome) {
        for refusal in &outcome.refusals {
            let Some(alone) = Alone::of(now, txn, refusal) else { continue };
            let Some(fitted) = self.fitted(now, &alone, refusal) else { continue };
            let expected = if fitted { RefusalKind::Conflict } else { RefusalKind::Misfit };
            assert_eq!(
                refusal.kind,
                expected,
                "{refusal:#?}\nof {:#?}\nbased on {}, at {}",
                alone.placement,
                txn.base,
                now.revision()
            );
            let over = if alone.wanted().next().is_some() { " beside others" } else { "" };
            *self.seen.entry(format!("asked {:?} {:?}{over}", refusal.kind, refusal.reason)).or_default() += 1;
        }
    }

    /// Whether a claim would have got at its base what it lacks now; `None`: that is not to be told so.
    fn fitted(&self, now: &Cell, alone: &Alone<'_>, refusal: &Refusal) -> Option<bool> {
        let base = self.history.get(&alone.txn.base)?;
        let lacks_room = refusal.reason == RefusalReason::NoRoom;
        let is_unsettled = self.unsettled.get(&alone.machine).is_some_and(|&since| since > alone.txn.base);
        if !alone.wanted().all(|id| alone.is_the_same_since(base, now, id)) || (is_unsettled && !lacks_room) {
            return None;
        }
        if refusal.reason == RefusalReason::DeviceTaken {
            // What devices somebody had that has ended since nobody remembers. And of a device that has less than it lent, nothing is given.
            let has_ended = |id| base.allocation(id).is_some() && now.allocation(id).is_none();
            let rooms = base.machine_in(alone.machine).map(|machine| device_rooms(base, machine));
            let is_short = rooms.into_iter().flatten().any(|room| room.free_millis < 0);
            if is_short || alone.wanted().any(has_ended) {
                return None;
            }
        }
        let request = Request {
            principal: "local".into(),
            namespace: "default".into(),
            command: Command::Commit(Box::new(alone.transaction()), 0),
        };
        let decided = Core::from_cell(base.clone(), options()).decide(&request, self.now);
        let Decided::Unchanged(Decision::Outcome(outcome)) = decided else { return None };
        let Some(there) = outcome.refusals.iter().find(|refusal| refusal.claim.is_some()) else { return Some(true) };
        match (refusal.reason, there.reason) {
            (lacks, lacked) if lacks == lacked && refusal.port == there.port => Some(false),
            // Room is judged first, and ports last: that much it would have got.
            (RefusalReason::NoRoom, RefusalReason::DeviceTaken | RefusalReason::PortTaken)
            | (RefusalReason::DeviceTaken, RefusalReason::PortTaken) => Some(true),
            _ => None,
        }
    }

    /// Notes where devices or ports changed and nobody remembers how. What devices a machine had before is not known, nor what an unknown task had
    /// that has ended; and one that came is told from those that were there only where it came later.
    pub(super) fn note_unsettled(&mut self, before: &Cell, delta: &Delta) {
        for machine in &delta.machines {
            if before.machine(machine.id).is_some_and(|known| known.devices != machine.devices) {
                self.unsettled.insert(machine.id.slot, delta.revision);
            }
        }
        for (id, task) in &delta.unknown {
            let is_settled = match (before.unknown_task(*id), task) {
                (None, Some(_)) => before.time() < delta.time,
                (before, now) => before.is_some() == now.is_some(),
            };
            if !is_settled {
                self.unsettled.insert(id.machine, delta.revision);
            }
        }
    }
}

impl<'a> Alone<'a> {
    /// The claim of a refusal that tells whether something was there at the base; if its transaction named its machine for no other claim, and ends
    /// no hold of it for another job.
    fn of(now: &'a Cell, txn: &'a Transaction, refusal: &Refusal) -> Option<Self> {
        let lacks = [RefusalReason::NoRoom, RefusalReason::DeviceTaken, RefusalReason::PortTaken];
        let tells = matches!(refusal.kind, RefusalKind::Conflict | RefusalKind::Misfit);
        let (number, claim) = refusal.claim.filter(|_| tells && lacks.contains(&refusal.reason))?;
        let (whole, claim) = (&txn.placements[number as usize], claim as usize);
        let machine = whole.machines[claim];
        let mut named = txn.placements.iter().flat_map(Placement::all_machines).filter(|&other| other == machine);
        let is_named_twice = named.nth(1).is_some();
        let mut holders = now.held_by(machine).iter().filter(|&&holder| holder != whole.job);
        if is_named_twice || holders.any(|holder| txn.placements.iter().any(|placed| placed.job == *holder)) {
            return None;
        }
        let placement = Placement {
            machines: vec![machine],
            tasks: vec![whole.tasks[claim]],
            extras: whole.extras.get(claim).cloned().into_iter().collect(),
            preemptions: whole.preemptions.iter().copied().filter(|victim| victim.machine == machine).collect(),
            alternates: Vec::new(),
            guards: Vec::new(),
            min: 0,
            ..whole.clone()
        };
        Some(Self { txn, placement, job: now.job(whole.job)?, machine })
    }

    /// The claim, with the stops of its transaction: who is stopped may be taken over from.
    fn transaction(&self) -> Transaction {
        let placements = vec![self.placement.clone()];
        Transaction { placements, guards: Vec::new(), atomic: false, dry_run: true, ..self.txn.clone() }
    }

    fn named(&self) -> impl Iterator<Item = AllocationId> {
        self.placement.extras.iter().flat_map(|extra| &extra.take_overs).map(|entry| entry.victim)
    }

    fn victims(&self) -> impl Iterator<Item = AllocationId> {
        self.placement.preemptions.iter().map(|preemption| preemption.victim)
    }

    /// Whose room, devices or ports it wants, perhaps more than once.
    fn wanted(&self) -> impl Iterator<Item = AllocationId> {
        self.named().chain(self.victims())
    }

    /// Whether somebody who was there at the base could give then what it can give now, beside what was granted to others since. What the core
    /// knows of it is how it stands now: who began to leave since, or got what it waited for itself, counts as if that had been so at the base; and
    /// of who has ended it knows neither whom it would have left for, nor who had taken over from it.
    fn is_the_same_since(&self, base: &Cell, now: &Cell, id: AllocationId) -> bool {
        let Some(then) = base.allocation(id).filter(|found| found.row.machine == self.machine) else { return true };
        let found = now.allocation(id);
        let gives = found.is_none_or(|found| self.gives(now, &found));
        let leaves = found.is_none_or(|found| self.leaves(&found));
        let is_both = self.named().any(|other| other == id) && self.victims().any(|other| other == id);
        if gives != self.gives(base, &then) || (is_both && leaves != self.leaves(&then)) {
            return false;
        }
        let waits = |found: &AllocationRef<'_>| found.extra.map(|extra| extra.takes_over.clone()).unwrap_or_default();
        let heirs = |cell: &Cell| -> Vec<(AllocationId, TakeOver)> {
            let entries = |heir: AllocationRef<'_>| waits(&heir).into_iter().map(move |entry| (heir.id, entry));
            cell.allocations().flat_map(entries).filter(|(_, entry)| entry.victim == id).collect()
        };
        let inherited = heirs(now);
        found.map_or_else(Vec::new, |found| waits(&found)) == waits(&then)
            && heirs(base).iter().all(|entry| inherited.contains(entry))
    }

    fn leaves(&self, found: &AllocationRef<'_>) -> bool {
        found.status.state.is_leaving() || self.txn.stops.contains(&found.id)
    }

    /// Whether it can be taken over from: it leaves, or is a victim that may be evicted.
    fn gives(&self, cell: &Cell, found: &AllocationRef<'_>) -> bool {
        let band = |job: &Job| job.shape.priority / 10;
        let waits = found.extra.is_some_and(|extra| !extra.takes_over.is_empty());
        let is_lower = cell.job(found.row.job()).is_none_or(|victim| band(victim) < band(self.job));
        let may_evict = is_lower && !waits && cell.rights_of(&self.job.shape.scheduler).evicts;
        self.leaves(found) || (may_evict && self.victims().any(|victim| victim == found.id))
    }
}
