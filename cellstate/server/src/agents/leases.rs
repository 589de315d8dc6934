//! Leases of agents: deadlines by a monotonic clock. Only that one ran out is ever logged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{Cell, Machine, MachineId, MachineState};

#[derive(Clone, Debug)]
struct Lease {
    machine: MachineId,
    epoch: u32,
    until_micros: i64,
    /// The agent that holds it; `None`: none has spoken since the server started.
    instance: Option<Arc<str>>,
}

impl Lease {
    fn is_of(&self, machine: MachineId, epoch: u32) -> bool {
        self.machine == machine && self.epoch == epoch
    }

    fn is_of_another(&self, instance: &str) -> bool {
        self.instance.as_deref().is_some_and(|holder| holder != instance)
    }
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
        let same = known.is_some_and(|lease| lease.is_of(machine.id, machine.epoch));
        if runs && same {
            return;
        }
        self.forget(machine.id.slot);
        if runs {
            self.put(machine.id, machine.epoch, None, now_micros);
        }
    }

    /// A machine was registered in this epoch just now, by this instance of an agent; ignored if a later epoch is known.
    pub fn grant(&mut self, machine: MachineId, epoch: u32, instance: &str, now_micros: i64) {
        let newer = |lease: &Lease| (lease.machine.generation, lease.epoch) > (machine.generation, epoch);
        if !self.by_slot.get(&machine.slot).is_some_and(newer) {
            self.forget(machine.slot);
            self.put(machine, epoch, Some(instance.into()), now_micros);
        }
    }

    /// True while another instance of an agent holds the machine's lease.
    #[must_use]
    pub fn is_held_by_another(&self, machine: MachineId, instance: &str) -> bool {
        let known = self.by_slot.get(&machine.slot).filter(|lease| lease.machine == machine);
        known.is_some_and(|lease| lease.is_of_another(instance))
    }

    /// An instance speaks for a machine in this epoch: it holds the lease from now on, unless one does already.
    pub fn hold(&mut self, machine: MachineId, epoch: u32, instance: &str) {
        if let Some(lease) = self.by_slot.get_mut(&machine.slot).filter(|lease| lease.is_of(machine, epoch)) {
            lease.instance.get_or_insert_with(|| instance.into());
        }
    }

    /// An agent gave a sign of life; false if its epoch is over, or its lease, or if another instance holds that.
    pub fn renew(&mut self, machine: MachineId, epoch: u32, instance: &str, now_micros: i64) -> bool {
        self.hold(machine, epoch, instance);
        let known = self.by_slot.get(&machine.slot);
        let Some(lease) = known.filter(|lease| lease.is_of(machine, epoch) && !lease.is_of_another(instance)) else {
            return false;
        };
        let holder = lease.instance.clone();
        self.forget(machine.slot);
        self.put(machine, epoch, holder, now_micros);
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

    fn put(&mut self, machine: MachineId, epoch: u32, instance: Option<Arc<str>>, now_micros: i64) {
        let until_micros = now_micros.saturating_add(self.term_micros);
        self.by_slot.insert(machine.slot, Lease { machine, epoch, until_micros, instance });
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
            cordoned: false,
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
        assert!(leases.renew(id, 1, "a", 9));
        assert_eq!(leases.expire(10), []);
        assert_eq!(leases.next_due_micros(), Some(19));
        assert_eq!(leases.expire(19), [(id, 1)]);
        assert_eq!((leases.expire(100).len(), leases.next_due_micros()), (0, None));
        assert!(!leases.renew(id, 1, "a", 100), "it has to register again");
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
        assert!(!leases.renew(MachineId { slot: 3, generation: 1 }, 1, "a", 6));
        assert_eq!(leases.next_due_micros(), Some(15));
        leases.machine_changed(&machine(3, 2, MachineState::Gone), 7);
        assert_eq!(leases.next_due_micros(), None);
    }

    #[test]
    fn a_lease_is_one_instances_until_it_runs_out() {
        let (mut leases, id) = (leases(10), MachineId { slot: 3, generation: 1 });
        leases.grant(id, 1, "a", 0);
        // The delta of the registration comes by later, and changes nothing.
        leases.machine_changed(&machine(3, 1, MachineState::Ready), 1);
        assert!(leases.is_held_by_another(id, "b") && !leases.is_held_by_another(id, "a"));
        assert!(!leases.renew(id, 1, "b", 5), "and did not renew it");
        assert_eq!(leases.next_due_micros(), Some(10));
        assert!(leases.renew(id, 1, "a", 5));
        assert!(leases.is_held_by_another(id, "b"), "a renewed one is no less its holder's");
        assert_eq!(leases.expire(15).len(), 1);
        assert!(!leases.is_held_by_another(id, "b"));
    }

    #[test]
    fn after_a_start_of_the_server_the_first_to_speak_holds_the_lease() {
        let (mut leases, id) = (leases(10), MachineId { slot: 3, generation: 1 });
        leases.machine_changed(&machine(3, 1, MachineState::Ready), 0);
        assert!(!leases.is_held_by_another(id, "a"));
        leases.hold(id, 1, "b");
        assert!(leases.is_held_by_another(id, "a") && !leases.renew(id, 1, "a", 1) && leases.renew(id, 1, "b", 1));
    }
}
