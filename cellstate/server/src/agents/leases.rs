//! Leases of agents: deadlines by a monotonic clock. Only that one ran out is ever logged.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{Cell, Machine, MachineId, MachineState};

#[derive(Clone, Copy, Debug)]
struct Lease {
    machine: MachineId,
    epoch: u32,
    until_micros: i64,
}

/// Leases of all reachable machines, in microseconds of the caller's monotonic clock.
#[derive(Debug)]
pub struct Leases {
    term_micros: i64,
    by_slot: BTreeMap<u32, Lease>,
    due: BTreeSet<(i64, u32)>,
}

impl Leases {
    /// Leases of a cell whose server starts now: each gets a full fresh term, as nobody knows when it was renewed last.
    #[must_use]
    pub fn of_cell(cell: &Cell, term_micros: i64, now_micros: i64) -> Self {
        let mut leases = Self { term_micros, by_slot: BTreeMap::new(), due: BTreeSet::new() };
        cell.machines().for_each(|machine| leases.machine_changed(machine, now_micros));
        leases
    }

    /// A machine registered, expired, or was removed. One that is known in this epoch keeps its deadline.
    pub fn machine_changed(&mut self, machine: &Machine, now_micros: i64) {
        let runs = !matches!(machine.state, MachineState::Gone | MachineState::Unreachable);
        let known = self.by_slot.get(&machine.id.slot);
        let same = known.is_some_and(|lease| lease.machine == machine.id && lease.epoch == machine.epoch);
        if runs && same {
            return;
        }
        self.forget(machine.id.slot);
        if runs {
            self.put(machine.id, machine.epoch, now_micros);
        }
    }

    /// A machine was registered in this epoch just now; ignored if a later one is known.
    pub fn grant(&mut self, machine: MachineId, epoch: u32, now_micros: i64) {
        let newer = |lease: &Lease| (lease.machine.generation, lease.epoch) > (machine.generation, epoch);
        if !self.by_slot.get(&machine.slot).is_some_and(newer) {
            self.forget(machine.slot);
            self.put(machine, epoch, now_micros);
        }
    }

    /// An agent gave a sign of life; false if its epoch is over, or its lease.
    pub fn renew(&mut self, machine: MachineId, epoch: u32, now_micros: i64) -> bool {
        let known = self.by_slot.get(&machine.slot);
        if !known.is_some_and(|lease| lease.machine == machine && lease.epoch == epoch) {
            return false;
        }
        self.forget(machine.slot);
        self.put(machine, epoch, now_micros);
        true
    }

    /// Machines whose lease has run out; each is told once.
    pub fn expire(&mut self, now_micros: i64) -> Vec<(MachineId, u32)> {
        let mut expired = Vec::new();
        while let Some(&(until, slot)) = self.due.first() {
            if until > now_micros {
                break;
            }
            if let Some(lease) = self.by_slot.get(&slot) {
                expired.push((lease.machine, lease.epoch));
            }
            self.forget(slot);
        }
        expired
    }

    /// When the next lease runs out, if it is not renewed.
    #[must_use]
    pub fn next_due_micros(&self) -> Option<i64> {
        self.due.first().map(|(until, _)| *until)
    }

    fn put(&mut self, machine: MachineId, epoch: u32, now_micros: i64) {
        let until_micros = now_micros.saturating_add(self.term_micros);
        self.by_slot.insert(machine.slot, Lease { machine, epoch, until_micros });
        self.due.insert((until_micros, machine.slot));
    }

    fn forget(&mut self, slot: u32) {
        if let Some(lease) = self.by_slot.remove(&slot) {
            self.due.remove(&(lease.until_micros, slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{LogTime, Resources};
    use std::sync::Arc;

    fn machine(slot: u32, epoch: u32, state: MachineState) -> Machine {
        Machine {
            id: MachineId { slot, generation: 1 },
            name: format!("m{slot}").into(),
            state,
            epoch,
            capacity: Resources::default(),
            attributes: Arc::default(),
            devices: Vec::new(),
            boot_id: "boot".into(),
            since: LogTime::default(),
            drain_deadline: None,
            registered: LogTime::default(),
            epoch_began: plenum_model::Revision(1),
        }
    }

    fn leases(term: i64) -> Leases {
        Leases::of_cell(&Cell::default(), term, 0)
    }

    #[test]
    fn a_lease_that_is_renewed_does_not_run_out() {
        let mut leases = leases(10);
        leases.machine_changed(&machine(3, 1, MachineState::Ready), 0);
        let id = MachineId { slot: 3, generation: 1 };
        assert!(leases.renew(id, 1, 9));
        assert_eq!(leases.expire(10), []);
        assert_eq!(leases.next_due_micros(), Some(19));
        assert_eq!(leases.expire(19), [(id, 1)]);
        assert_eq!((leases.expire(100).len(), leases.next_due_micros()), (0, None));
        assert!(!leases.renew(id, 1, 100), "it has to register again");
    }

    #[test]
    fn another_change_of_the_machine_does_not_renew() {
        let mut leases = leases(10);
        leases.machine_changed(&machine(3, 1, MachineState::Ready), 0);
        leases.machine_changed(&machine(3, 1, MachineState::Cordoned), 8);
        assert_eq!(leases.expire(10).len(), 1);
    }

    #[test]
    fn an_old_epoch_renews_nothing_and_a_removed_machine_has_no_lease() {
        let mut leases = leases(10);
        leases.machine_changed(&machine(3, 1, MachineState::Ready), 0);
        leases.machine_changed(&machine(3, 2, MachineState::Ready), 5);
        assert!(!leases.renew(MachineId { slot: 3, generation: 1 }, 1, 6));
        assert_eq!(leases.next_due_micros(), Some(15));
        leases.machine_changed(&machine(3, 2, MachineState::Gone), 7);
        assert_eq!(leases.next_due_micros(), None);
    }
}
