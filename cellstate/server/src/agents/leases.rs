//! Leases of agents: deadlines by a monotonic clock. Only that one ran out is ever logged.

use std::num::NonZeroU64;

use plenum_model::{Cell, Machine, MachineId, MachineState};

/// The lease of the machine in a slot: 40 bytes a machine.
#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    until_micros: i64,
    /// Of the machine's id; 0: there is no lease here.
    generation: u32,
    epoch: u32,
    /// The agent that holds it; `None`: none has spoken since the server started.
    holder: Option<Holder>,
}

const _: () = assert!(size_of::<Lease>() <= 40, "there is one for each machine");

/// An instance of an agent, and the registration that counts.
#[derive(Clone, Copy, Debug)]
struct Holder {
    /// 128 bits of the hash of the instance's name. Nobody finds another name with the same ones.
    name: [u8; 16],
    /// When it asked for that registration, in microseconds since its machine booted, and one more; 1: it didn't say, or only reports
    /// have come since the server started.
    asked: NonZeroU64,
}

impl Holder {
    fn of(instance: &str, asked_micros: u64) -> Self {
        let hash = blake3::hash(instance.as_bytes());
        let name = *hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        Self { name, asked: NonZeroU64::MIN.saturating_add(asked_micros) }
    }

    fn is(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Lease {
    const fn is_there(&self) -> bool {
        self.generation > 0
    }

    fn is_of(&self, machine: MachineId, epoch: u32) -> bool {
        self.generation == machine.generation && self.epoch == epoch
    }

    fn is_newer_than(&self, machine: MachineId, epoch: u32) -> bool {
        (self.generation, self.epoch) > (machine.generation, epoch)
    }

    fn is_of_another(&self, instance: &str) -> bool {
        self.holder.is_some_and(|holder| !holder.is(&Holder::of(instance, 0)))
    }
}

/// What became of the lease of a machine that was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// It begins anew.
    Held,
    /// It is another instance's, which has spoken for the machine meanwhile.
    Another,
    /// It ran out while the registration was decided, and so does the epoch, if that is not written down yet. A lease that began after that
    /// would be renewed for ever, for a machine that counts as unreachable.
    Over,
}

/// Leases of all reachable machines, in microseconds of the caller's monotonic clock.
///
/// By slot, and in no order of deadlines: a renewal writes one row. When the first one could have run out, all are looked at, which takes
/// a fraction of a millisecond for 100,000 machines, and that is not again before another one could have.
#[derive(Debug)]
pub struct Leases {
    term_micros: i64,
    by_slot: Vec<Lease>,
    /// No lease runs out before.
    earliest_micros: Option<i64>,
}

impl Leases {
    /// Leases of a cell whose server starts now: each gets a full fresh term, as nobody knows when it was renewed last.
    #[must_use]
    pub fn of_cell(cell: &Cell, term_micros: i64, now_micros: i64) -> Self {
        let mut leases = Self { term_micros, by_slot: Vec::new(), earliest_micros: None };
        leases.by_slot.reserve_exact(cell.machine_slots().len() as usize);
        cell.machines().for_each(|machine| leases.machine_changed(machine, now_micros));
        leases
    }

    /// A machine registered, expired, or was removed. One that is known in this epoch keeps its deadline.
    pub fn machine_changed(&mut self, machine: &Machine, now_micros: i64) {
        let runs = !matches!(machine.state, MachineState::Gone | MachineState::Unreachable);
        let known = self.known(machine.id.slot);
        // A lease is granted before the delta of its registration comes by: what came before that says nothing of it.
        if known.is_some_and(|lease| lease.is_newer_than(machine.id, machine.epoch)) {
            return;
        }
        let same = known.is_some_and(|lease| lease.is_of(machine.id, machine.epoch));
        if runs && !same {
            self.put(machine.id, machine.epoch, None, now_micros);
        } else if !runs && let Some(lease) = self.by_slot.get_mut(machine.id.slot as usize) {
            *lease = Lease::default();
        }
    }

    /// A machine was registered in this epoch just now, by this instance of an agent, which asked for it at that time since its machine
    /// booted (0: unsaid); ignored if a later epoch is known. `goes_on`: it was in this epoch before.
    pub fn grant(
        &mut self,
        machine: MachineId,
        epoch: u32,
        goes_on: bool,
        (instance, asked_micros): (&str, u64),
        now_micros: i64,
    ) -> Grant {
        let known = self.known(machine.slot);
        if goes_on && known.is_none() {
            return Grant::Over;
        }
        if known.is_some_and(|lease| goes_on && lease.is_of(machine, epoch) && lease.is_of_another(instance)) {
            return Grant::Another;
        }
        if !known.is_some_and(|lease| lease.is_newer_than(machine, epoch)) {
            self.put(machine, epoch, Some(Holder::of(instance, asked_micros)), now_micros);
        }
        Grant::Held
    }

    /// True while another instance of an agent holds the machine's lease.
    #[must_use]
    pub fn is_held_by_another(&self, machine: MachineId, instance: &str) -> bool {
        let known = self.known(machine.slot).filter(|lease| lease.generation == machine.generation);
        known.is_some_and(|lease| lease.is_of_another(instance))
    }

    /// True if an instance asked for a registration before it asked for the one that counts: since this boot of its machine, which is for the
    /// caller to know.
    #[must_use]
    pub fn is_late(&self, machine: MachineId, instance: &str, asked_micros: u64) -> bool {
        let known = self.known(machine.slot).filter(|lease| lease.generation == machine.generation);
        let asks = Holder::of(instance, asked_micros);
        let counts = known.and_then(|lease| lease.holder).filter(|holder| holder.is(&asks));
        asked_micros > 0 && counts.is_some_and(|holder| asks.asked < holder.asked)
    }

    /// True while the machine's lease runs and no agent has spoken since the server started.
    #[must_use]
    pub fn awaits_its_holder(&self, machine: MachineId) -> bool {
        let known = self.known(machine.slot).filter(|lease| lease.generation == machine.generation);
        known.is_some_and(|lease| lease.holder.is_none())
    }

    /// An instance speaks for a machine in this epoch: it holds the lease from now on, unless one does already.
    pub fn hold(&mut self, machine: MachineId, epoch: u32, instance: &str) {
        let known = self.by_slot.get_mut(machine.slot as usize);
        if let Some(lease) = known.filter(|lease| lease.is_there() && lease.is_of(machine, epoch)) {
            lease.holder.get_or_insert_with(|| Holder::of(instance, 0));
        }
    }

    /// Whether a machine has a lease, of whatever epoch.
    #[must_use]
    pub fn is_leased(&self, machine: MachineId) -> bool {
        self.known(machine.slot).is_some_and(|lease| lease.generation == machine.generation)
    }

    /// Whether a machine has a lease of this epoch.
    #[must_use]
    pub fn is_leased_in(&self, machine: MachineId, epoch: u32) -> bool {
        self.known(machine.slot).is_some_and(|lease| lease.is_of(machine, epoch))
    }

    /// An agent gave a sign of life; false if its epoch is over, or its lease, or if another instance holds that.
    pub fn renew(&mut self, machine: MachineId, epoch: u32, instance: &str, now_micros: i64) -> bool {
        self.hold(machine, epoch, instance);
        let known = self.known(machine.slot);
        let Some(lease) = known.filter(|lease| lease.is_of(machine, epoch) && !lease.is_of_another(instance)) else {
            return false;
        };
        self.put(machine, epoch, lease.holder, now_micros);
        true
    }

    /// Machines whose lease has run out, those first whose lease ran out first; each is told once.
    pub fn expire(&mut self, now_micros: i64) -> Vec<(MachineId, u32)> {
        if self.earliest_micros.is_none_or(|earliest| earliest > now_micros) {
            return Vec::new();
        }
        let mut expired = Vec::new();
        self.earliest_micros = None;
        for (slot, lease) in (0..).zip(&mut self.by_slot).filter(|(_, lease)| lease.is_there()) {
            if lease.until_micros <= now_micros {
                let machine = MachineId { slot, generation: lease.generation };
                expired.push((lease.until_micros, machine, lease.epoch));
                *lease = Lease::default();
            } else {
                let earliest = self.earliest_micros.get_or_insert(lease.until_micros);
                *earliest = lease.until_micros.min(*earliest);
            }
        }
        expired.sort_unstable();
        expired.into_iter().map(|(_, machine, epoch)| (machine, epoch)).collect()
    }

    /// For so long no agent could renew its lease, or register: this time counts for none of them.
    pub fn stood_still(&mut self, micros: i64) {
        let later = |until: &mut i64| *until = until.saturating_add(micros);
        self.by_slot.iter_mut().filter(|lease| lease.is_there()).for_each(|lease| later(&mut lease.until_micros));
        self.earliest_micros.iter_mut().for_each(later);
    }

    /// When to look for leases that have run out: none does before.
    #[must_use]
    pub fn next_due_micros(&self) -> Option<i64> {
        self.earliest_micros
    }

    fn known(&self, slot: u32) -> Option<&Lease> {
        self.by_slot.get(slot as usize).filter(|lease| lease.is_there())
    }

    fn put(&mut self, machine: MachineId, epoch: u32, holder: Option<Holder>, now_micros: i64) {
        let until_micros = now_micros.saturating_add(self.term_micros);
        let slot = machine.slot as usize;
        if slot >= self.by_slot.len() {
            if slot >= self.by_slot.capacity() {
                // Room for an eighth more, and not for as many again: half of it would be for nobody.
                self.by_slot.reserve_exact(slot + 1 - self.by_slot.len() + slot / 8);
            }
            self.by_slot.resize(slot + 1, Lease::default());
        }
        self.by_slot[slot] = Lease { until_micros, generation: machine.generation, epoch, holder };
        let earliest = self.earliest_micros.get_or_insert(until_micros);
        *earliest = until_micros.min(*earliest);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use plenum_model::{Delta, LogTime, Revision};

    /// One as it may come by in a delta.
    pub(crate) fn machine(slot: u32, epoch: u32, state: MachineState) -> Machine {
        Machine {
            id: MachineId { slot, generation: 1 },
            name: format!("m{slot}").into(),
            state,
            epoch,
            capacity: Arc::default(),
            attributes: Arc::default(),
            devices: Arc::default(),
            boot_id: "boot".into(),
            since: LogTime::default(),
            drain_deadline: None,
            registered: LogTime::default(),
            cordoned: false,
            unfit: None,
            epoch_began: Revision(1),
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
    fn each_machine_of_a_cell_whose_server_starts_has_a_whole_term() {
        let (mut cell, id) = (Cell::default(), MachineId { slot: 0, generation: 1 });
        let machines = vec![Arc::new(machine(0, 2, MachineState::Ready))];
        let known = Delta { machines, ..Delta::new(Revision(1), LogTime::default()) };
        assert_eq!(cell.apply(&known), Ok(()));
        let mut leases = Leases::of_cell(&cell, 10, 1_000);
        assert_eq!((leases.next_due_micros(), leases.expire(1_009)), (Some(1_010), vec![]));
        assert_eq!(leases.expire(1_010), [(id, 2)]);
    }

    #[test]
    fn time_in_which_the_server_stood_still_counts_for_no_lease() {
        let mut leases = leases(10);
        leases.machine_changed(&machine(3, 1, MachineState::Ready), 0);
        leases.machine_changed(&machine(5, 1, MachineState::Ready), 4);
        leases.stood_still(100);
        assert_eq!((leases.expire(109), leases.next_due_micros()), (vec![], Some(110)));
        assert_eq!(leases.expire(114).len(), 2);
        leases.stood_still(100);
        assert_eq!(leases.next_due_micros(), None);
    }

    #[test]
    fn leases_that_ran_out_together_are_told_in_the_order_in_which_they_did() {
        let mut leases = leases(10);
        for (slot, now) in [(7, 0), (2, 3), (5, 1), (9, 4)] {
            leases.machine_changed(&machine(slot, 1, MachineState::Ready), now);
        }
        let slots =
            |expired: Vec<(MachineId, u32)>| expired.iter().map(|(machine, _)| machine.slot).collect::<Vec<_>>();
        assert_eq!(slots(leases.expire(9)), [0_u32; 0]);
        assert_eq!(slots(leases.expire(13)), [7, 5, 2]);
        assert_eq!(leases.next_due_micros(), Some(14));
        assert_eq!(slots(leases.expire(14)), [9]);
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
        assert_eq!((leases.expire(10).len(), leases.next_due_micros()), (0, Some(15)));
        leases.machine_changed(&machine(3, 2, MachineState::Gone), 7);
        assert_eq!((leases.expire(15).len(), leases.next_due_micros()), (0, None));
    }

    #[test]
    fn a_lease_is_one_instances_until_it_runs_out() {
        let (mut leases, id) = (leases(10), MachineId { slot: 3, generation: 1 });
        assert_eq!(leases.grant(id, 1, false, ("a", 0), 0), Grant::Held);
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

    // The end of the epoch before came by between the registration's answer and its delta. The lease was nobody's then, and another agent
    // that registered was told that the machine is its own.
    #[test]
    fn what_came_before_a_registration_does_not_end_its_lease() {
        for earlier in [machine(3, 1, MachineState::Unreachable), machine(3, 1, MachineState::Cordoned)] {
            let (mut leases, id) = (leases(10), MachineId { slot: 3, generation: 1 });
            leases.machine_changed(&machine(3, 1, MachineState::Ready), 0);
            assert_eq!(leases.grant(id, 2, false, ("a", 0), 5), Grant::Held);
            leases.machine_changed(&earlier, 6);
            leases.machine_changed(&machine(3, 2, MachineState::Ready), 7);
            assert!(leases.is_held_by_another(id, "b") && leases.renew(id, 2, "a", 8));
            assert_eq!(leases.next_due_micros(), Some(10), "no lease runs out before");
        }
    }

    // Its agent was back when the lease ran out, and the end of the epoch came by before the lease was to begin again. The machine was unreachable from
    // then on, what it ran was lost, and its agent, whose reports renewed the lease, heard of nothing.
    #[test]
    fn a_lease_that_ran_out_while_its_machine_registered_does_not_begin_again() {
        for heard_of in [true, false] {
            let (mut leases, id) = (leases(10), MachineId { slot: 3, generation: 1 });
            leases.machine_changed(&machine(3, 1, MachineState::Ready), 0);
            assert_eq!(leases.expire(10), [(id, 1)]);
            if heard_of {
                leases.machine_changed(&machine(3, 1, MachineState::Unreachable), 11);
            }
            assert_eq!(leases.grant(id, 1, true, ("a", 0), 12), Grant::Over);
            assert!(!leases.renew(id, 1, "a", 13));
            assert_eq!(leases.grant(id, 2, false, ("a", 0), 14), Grant::Held);
        }
    }

    // What an agent had sent before it was killed arrived behind what its successor had registered.
    #[test]
    fn what_was_asked_before_the_registration_that_counts_is_late() {
        let (mut leases, id) = (leases(10), MachineId { slot: 3, generation: 1 });
        assert!(!leases.is_late(id, "a", 5), "nobody has registered it");
        assert_eq!(leases.grant(id, 1, false, ("a", 20), 0), Grant::Held);
        assert!(leases.renew(id, 1, "a", 1));
        assert_eq!([19, 20, 21].map(|asked| leases.is_late(id, "a", asked)), [true, false, false]);
        assert!(!leases.is_late(id, "a", 0), "it does not say when it asked");
        assert!(!leases.is_late(id, "b", 19), "another one's time is none of its own");
        assert_eq!(leases.expire(11), [(id, 1)]);
        assert!(!leases.is_late(id, "a", 19), "nobody holds it");
    }

    #[test]
    fn after_a_start_of_the_server_the_first_to_speak_holds_the_lease() {
        let (mut leases, id) = (leases(10), MachineId { slot: 3, generation: 1 });
        leases.machine_changed(&machine(3, 1, MachineState::Ready), 0);
        assert!(!leases.is_held_by_another(id, "a"));
        leases.hold(id, 1, "b");
        assert!(leases.is_held_by_another(id, "a") && !leases.renew(id, 1, "a", 1) && leases.renew(id, 1, "b", 1));
    }

    /// After a start of the server, a relay reported of a machine in the moment in which another agent registered it: both were told
    /// that it is theirs.
    #[test]
    fn who_speaks_for_a_machine_while_another_registers_it_in_the_same_epoch_holds_the_lease() {
        let (mut leases, id) = (leases(10), MachineId { slot: 3, generation: 1 });
        leases.machine_changed(&machine(3, 1, MachineState::Ready), 0);
        assert!(leases.renew(id, 1, "relayed", 1), "nobody has spoken for it yet");
        assert_eq!(leases.grant(id, 1, true, ("registers", 0), 2), Grant::Another, "now somebody has");
        assert!(leases.renew(id, 1, "relayed", 3) && !leases.renew(id, 1, "registers", 3));
        // A new epoch is of the one who began it.
        assert_eq!(leases.grant(id, 2, false, ("registers", 0), 4), Grant::Held);
        assert!(!leases.renew(id, 1, "relayed", 5) && !leases.renew(id, 2, "relayed", 5));
        // Its delta may come by first, and somebody may guess the epoch before it is told.
        leases.machine_changed(&machine(3, 3, MachineState::Ready), 6);
        assert!(leases.renew(id, 3, "relayed", 6));
        assert_eq!(leases.grant(id, 3, false, ("registers", 0), 7), Grant::Held);
        assert!(!leases.renew(id, 3, "relayed", 8) && leases.renew(id, 3, "registers", 8));
    }
}
