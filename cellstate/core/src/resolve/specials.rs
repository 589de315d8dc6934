//! What few transactions promise beyond room: devices, ports, room of those who leave; and whom they evict.
//!
//! A placement that misses its minimum is taken back step by step, so that what a minimum costs goes by what its own placement was
//! promised, and not by what all those before it were.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{Device, TakeOver};

use super::preempt::{self, nothing_of};
use crate::derived::slot_set::SlotSet;

/// What is promised beyond room, by the transaction that is being resolved.
#[derive(Debug, Default)]
pub(crate) struct Specials {
    /// Devices and ports by machine, without what is taken over. Each device stands there once, with the sum: thousands of claims on one
    /// machine would each look at what all those before them got.
    machines: BTreeMap<u32, (Vec<Device>, BTreeSet<u16>)>,
    /// What successors were promised of leaving allocations, by slot.
    taken_over: BTreeMap<u32, TakeOver>,
    /// Slots of victims.
    victims: SlotSet,
    /// How to take each step back, the last one first.
    steps: Vec<Step>,
    /// How often it was counted anew what somebody has left.
    #[cfg(test)]
    pub(crate) counted: std::cell::Cell<u64>,
}

/// What a promise added. Not what there was before it: a sum may have hundreds of devices, and thousands of promises be made of it.
#[derive(Debug)]
enum Step {
    /// These devices and ports of a machine.
    Machine { machine: u32, devices: Vec<Device>, ports: Vec<u16> },
    /// This was taken over.
    TakenOver(TakeOver),
}

/// How far promises had come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    steps: usize,
    victims: usize,
}

impl Specials {
    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        // Steps that were taken back are gone, and may have left machines with nothing behind.
        self.machines.clear();
        self.taken_over.clear();
        self.steps.clear();
        self.victims.clear();
    }

    /// Notes what a claim was promised on a machine.
    pub(crate) fn add(&mut self, machine: u32, devices: &[Device], ports: impl Iterator<Item = u16>) {
        let (all, numbers) = self.machines.entry(machine).or_default();
        devices.iter().for_each(|device| preempt::add_device(all, device));
        let ports = ports.filter(|&port| numbers.insert(port)).collect();
        self.steps.push(Step::Machine { machine, devices: devices.to_vec(), ports });
    }

    /// Notes what a claim was promised of leaving allocations.
    pub(crate) fn take_over(&mut self, entries: &[TakeOver]) {
        for entry in entries {
            self.steps.push(Step::TakenOver(entry.clone()));
            let sum = self.taken_over.entry(entry.victim.slot).or_insert_with(|| nothing_of(entry.victim));
            preempt::add(sum, entry);
        }
    }

    /// Notes that an allocation is evicted.
    pub(crate) fn evict(&mut self, slot: u32) {
        self.victims.insert(slot);
    }

    /// Devices that were promised on a machine, each once.
    pub(crate) fn devices(&self, machine: u32) -> &[Device] {
        self.machines.get(&machine).map_or(&[], |(devices, _)| devices)
    }

    /// Ports that were promised on a machine.
    pub(crate) fn ports(&self, machine: u32) -> Option<&BTreeSet<u16>> {
        self.machines.get(&machine).map(|(_, ports)| ports)
    }

    /// What was taken over from the allocation in a slot.
    pub(crate) fn taken_over(&self, slot: u32) -> Option<&TakeOver> {
        self.taken_over.get(&slot)
    }

    /// Whether an allocation is evicted.
    #[inline]
    pub(crate) fn evicts(&self, slot: u32) -> bool {
        self.victims.contains(slot)
    }

    /// How far it has come.
    pub(crate) fn mark(&self) -> Mark {
        Mark { steps: self.steps.len(), victims: self.victims.members().len() }
    }

    /// Slots of victims that were taken since a mark, in order.
    pub(crate) fn victims_since(&self, mark: Mark) -> &[u32] {
        &self.victims.members()[mark.victims..]
    }

    /// Slots of those who were promised to give something since a mark.
    pub(crate) fn givers_since(&self, mark: Mark) -> impl Iterator<Item = u32> {
        self.steps[mark.steps..].iter().filter_map(|step| match step {
            Step::TakenOver(entry) => Some(entry.victim.slot),
            Step::Machine { .. } => None,
        })
    }

    /// Takes back what came after a mark.
    pub(crate) fn go_back(&mut self, mark: Mark) {
        for step in self.steps.drain(mark.steps..).rev() {
            match step {
                Step::Machine { machine, devices, ports } => {
                    if let Some((all, numbers)) = self.machines.get_mut(&machine) {
                        preempt::subtract_devices(all, &devices);
                        for port in ports {
                            numbers.remove(&port);
                        }
                    }
                }
                Step::TakenOver(entry) => {
                    if let Entry::Occupied(mut sum) = self.taken_over.entry(entry.victim.slot) {
                        preempt::subtract(sum.get_mut(), &entry);
                        if preempt::is_nothing(sum.get()) {
                            sum.remove();
                        }
                    }
                }
            }
        }
        self.victims.keep(mark.victims);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{AllocationId, Resources};

    fn entry(slot: u32, cpu_millis: u64, port: u16) -> TakeOver {
        let victim = AllocationId { slot, generation: 1 };
        TakeOver { victim, amount: Resources::new(cpu_millis, 0), devices: vec![gpu(100)], ports: vec![port] }
    }

    fn gpu(millis: u32) -> Device {
        Device { kind: "gpu".into(), index: 0, millis, model: "".into() }
    }

    // Everything that was promised was copied before each placement with a minimum: thousands of them cost the square of their number.
    #[test]
    fn what_is_taken_back_is_what_came_after_the_mark() {
        let mut specials = Specials::default();
        specials.add(1, &[gpu(10)], [80].into_iter());
        specials.take_over(&[entry(5, 100, 443)]);
        specials.evict(5);
        let mark = specials.mark();
        specials.add(1, &[gpu(20)], [81, 82].into_iter());
        assert_eq!(specials.devices(1), [gpu(30)], "one device, however many claims have some of it");
        specials.add(2, &[], [90].into_iter());
        specials.take_over(&[entry(5, 50, 444), entry(6, 7, 1)]);
        specials.evict(6);
        assert_eq!(specials.steps.len() - mark.steps, 4, "a step for each promise, however many were there before");
        assert_eq!(specials.taken_over(5).expect("it was taken over from").amount.cpu_millis, 150);
        assert_eq!(specials.victims_since(mark), [6]);
        specials.go_back(mark);
        assert_eq!((specials.devices(1), specials.ports(1)), (&[gpu(10)][..], Some(&BTreeSet::from([80]))));
        assert!(specials.ports(2).is_none_or(BTreeSet::is_empty) && specials.taken_over(6).is_none());
        assert_eq!(specials.taken_over(5), Some(&entry(5, 100, 443)));
        assert!(specials.evicts(5) && !specials.evicts(6));
        specials.go_back(Mark { steps: 0, victims: 0 });
        specials.clear();
        assert!(
            specials.machines.is_empty() && specials.taken_over.is_empty(),
            "nothing is left of what was taken back"
        );
    }
}
