//! What earlier claims and stops of the same transaction were promised. Without it, two claims of one transaction could both be
//! granted the last core.
//!
//! What is promised stands in a table as large as the transaction, so that it stays in the nearest cache however large the cell is. A
//! stamp in each entry says of which transaction it is: starting one costs nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use plenum_model::{CUSTOM_RESOURCES, GivenBack, Resources};

use super::specials::Specials;
use crate::derived::slot_set::SlotSet;

#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    memory_bytes: u64,
    cpu_millis: u32,
    stamp: u32,
    machine: u32,
    /// Claims that were promised.
    claims: u32,
}

/// Room that is spoken for, and allocations that are being stopped, by the transaction that is being resolved.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    stamp: u32,
    /// By machine, with open addressing and linear probing; an entry of another stamp is free. Invariant: a power of two of them is in
    /// use, twice as many at least as the transaction has claims, each of which is promised at most one machine.
    machines: Vec<Promise>,
    /// How many are in use, less one.
    mask: usize,
    /// Disk and named resources, for the few that use them.
    rest: BTreeMap<u32, Resources>,
    /// Slots of allocations that are being stopped.
    stops: SlotSet,
    /// Rows of the groups that the transaction places tasks of.
    placed: SlotSet,
    /// Of those that declare a minimum, by row: how many tasks are there with what was decided so far.
    there: BTreeMap<u32, u32>,
    /// Jobs whose tasks share a machine, in the order in which they were promised one.
    homeless: Vec<u32>,
    /// By these jobs, that machine.
    homes: BTreeMap<u32, u32>,
    /// Slots of jobs whose first tasks are granted.
    started: SlotSet,
    /// Slots of jobs that were granted what they hold room for: their holds are over.
    ended_holds: SlotSet,
    pub(crate) specials: Specials,
    /// How often a hold that ends was looked up.
    #[cfg(test)]
    pub(crate) holds_looked_up: std::cell::Cell<u64>,
    /// How much less namespaces with a quota have than before; negative where they have more. By their places in `QuotaUse`.
    given_back: Vec<Given>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Given {
    stamp: u32,
    back: GivenBack,
}

impl Promised {
    /// Forgets everything, for a transaction with so many claims.
    pub(crate) fn begin(&mut self, claims: usize) {
        self.mask = (claims.max(8) * 2).next_power_of_two() - 1;
        if self.mask >= self.machines.len() {
            self.machines.resize(self.mask + 1, Promise::default());
        }
        if self.stamp == u32::MAX {
            self.machines.fill(Promise::default());
            self.given_back.clear();
            self.stamp = 0;
        }
        self.stamp += 1;
        self.stops.clear();
        self.placed.clear();
        self.there.clear();
        self.rest.clear();
        self.homeless.clear();
        self.homes.clear();
        self.started.clear();
        self.ended_holds.clear();
        self.specials.clear();
    }

    /// The place of a machine, or the free one that it would get.
    #[inline]
    fn place_of(&self, machine: u32) -> usize {
        // Fibonacci hashing: its high bits are mixed best.
        let hash = machine.wrapping_mul(0x9e37_79b9);
        let mut place = (hash >> 16 ^ hash) as usize & self.mask;
        while self.machines[place].stamp == self.stamp && self.machines[place].machine != machine {
            place = (place + 1) & self.mask;
        }
        place
    }

    /// What was promised on a machine, if anything was.
    #[inline]
    fn promise(&self, machine: u32) -> Option<&Promise> {
        Some(&self.machines[self.place_of(machine)]).filter(|promise| promise.stamp == self.stamp)
    }

    /// Promised room on a machine, and how many claims were promised it.
    #[allow(
        clippy::inline_always,
        reason = "what it gives stays in registers then, and takes a line of the cache otherwise"
    )]
    #[inline(always)]
    pub(crate) fn on(&self, machine: u32) -> (Resources, u32) {
        let Some(promise) = self.promise(machine) else { return (Resources::default(), 0) };
        let resources = Resources::new(promise.cpu_millis.into(), promise.memory_bytes);
        (if self.rest.is_empty() { resources } else { self.with_rest(machine, resources) }, promise.claims)
    }

    #[cold]
    fn with_rest(&self, machine: u32, resources: Resources) -> Resources {
        let Some(rest) = self.rest.get(&machine) else { return resources };
        Resources { disk_bytes: rest.disk_bytes, custom: rest.custom, ..resources }
    }

    /// Promises room on a machine. It was judged to fit, so the sums are bounded by its capacity.
    #[inline]
    pub(crate) fn add(&mut self, machine: u32, resources: &Resources) {
        let (stamp, place) = (self.stamp, self.place_of(machine));
        let promise = &mut self.machines[place];
        if promise.stamp != stamp {
            *promise = Promise { stamp, machine, ..Promise::default() };
        }
        promise.cpu_millis += u32::try_from(resources.cpu_millis).expect("bounded at the edge");
        promise.memory_bytes += resources.memory_bytes;
        promise.claims += 1;
        if !resources.is_plain() {
            let rest = self.rest.entry(machine).or_default();
            rest.disk_bytes += resources.disk_bytes;
            (0..CUSTOM_RESOURCES).for_each(|custom| rest.custom[custom] += resources.custom[custom]);
        }
    }

    /// Takes a promise back.
    pub(crate) fn remove(&mut self, machine: u32, resources: &Resources) {
        let place = self.place_of(machine);
        let promise = &mut self.machines[place];
        promise.cpu_millis -= u32::try_from(resources.cpu_millis).expect("bounded at the edge");
        promise.memory_bytes -= resources.memory_bytes;
        promise.claims -= 1;
        if !resources.is_plain() {
            let rest = self.rest.entry(machine).or_default();
            rest.disk_bytes -= resources.disk_bytes;
            (0..CUSTOM_RESOURCES).for_each(|custom| rest.custom[custom] -= resources.custom[custom]);
        }
    }

    /// Brings what tells whether these are being stopped into the cache.
    #[inline]
    pub(crate) fn warm_stops(&self, slots: impl Iterator<Item = u32>) {
        slots.for_each(|slot| self.stops.prefetch(slot));
    }

    /// Notes a stop; false if it was noted before.
    #[inline]
    pub(crate) fn stop(&mut self, slot: u32) -> bool {
        self.stops.insert(slot)
    }

    /// Notes that tasks of a group are placed.
    pub(crate) fn place(&mut self, group_row: u32) {
        self.placed.insert(group_row);
    }

    /// Notes that tasks of a group with a minimum are placed, of which so many are there before anything is decided.
    pub(crate) fn place_gang(&mut self, group_row: u32, there: u32) {
        self.there.entry(group_row).or_insert(there);
    }

    /// So many tasks of a group come with this transaction. Only for those with a minimum this is counted.
    pub(crate) fn come(&mut self, group_row: u32, tasks: u32) {
        self.there.entry(group_row).and_modify(|there| *there = there.saturating_add(tasks));
    }

    /// A task of a group leaves with this transaction.
    #[inline]
    pub(crate) fn leave(&mut self, group_row: u32) {
        if let Some(there) = self.there.get_mut(&group_row) {
            *there = there.saturating_sub(1);
        }
    }

    /// Whether tasks of a group with a minimum are placed.
    #[inline]
    pub(crate) fn places_gangs(&self) -> bool {
        !self.there.is_empty()
    }

    /// How many tasks of a group with a minimum are there with what was decided so far.
    pub(crate) fn there(&self, group_row: u32) -> u32 {
        self.there.get(&group_row).copied().unwrap_or(0)
    }

    /// Whether tasks of a group are placed.
    #[inline]
    pub(crate) fn places(&self, group_row: u32) -> bool {
        self.placed.contains(group_row)
    }

    /// Whether this allocation is being stopped.
    #[inline]
    pub(crate) fn stops(&self, slot: u32) -> bool {
        self.stops.contains(slot)
    }

    /// What the namespace with a quota in a place has less than before.
    #[inline]
    pub(crate) fn given_back(&mut self, place: u32) -> &mut GivenBack {
        let (stamp, place) = (self.stamp, place as usize);
        if place >= self.given_back.len() {
            self.given_back.resize(place + 1, Given::default());
        }
        let given = &mut self.given_back[place];
        if given.stamp != stamp {
            *given = Given { stamp, back: GivenBack::default() };
        }
        &mut given.back
    }

    /// The machine that the tasks of the job in `slot` were promised to share.
    pub(crate) fn home(&self, job_slot: u32) -> Option<u32> {
        self.homes.get(&job_slot).copied()
    }

    /// Promises a machine to a job whose tasks share one, and that was promised none.
    pub(crate) fn set_home(&mut self, job_slot: u32, home: u32) {
        if let Entry::Vacant(place) = self.homes.entry(job_slot) {
            place.insert(home);
            self.homeless.push(job_slot);
        }
    }

    /// How many jobs were promised a machine.
    pub(crate) fn homes_count(&self) -> usize {
        self.homeless.len()
    }

    /// Takes back all but the first promises of machines.
    pub(crate) fn keep_homes(&mut self, count: usize) {
        for job_slot in self.homeless.drain(count..) {
            self.homes.remove(&job_slot);
        }
    }

    /// Jobs that were promised a machine, with it.
    pub(crate) fn homes(&self) -> &BTreeMap<u32, u32> {
        &self.homes
    }

    /// Notes that the hold of the job in a slot ends; false if it was noted before.
    pub(crate) fn end_hold(&mut self, job_slot: u32) -> bool {
        self.ended_holds.insert(job_slot)
    }

    /// Whether any hold ends.
    #[inline]
    pub(crate) fn ends_holds(&self) -> bool {
        !self.ended_holds.members().is_empty()
    }

    /// Whether the hold of the job in a slot ends.
    #[inline]
    pub(crate) fn ends_hold_of(&self, job_slot: u32) -> bool {
        self.ended_holds.contains(job_slot)
    }

    /// Notes that tasks of the job in a slot are granted; false if it was noted before.
    pub(crate) fn start(&mut self, job_slot: u32) -> bool {
        self.started.insert(job_slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_promised_is_known_until_the_next_transaction_begins() {
        let mut promised = Promised::default();
        let one = Resources::new(10, 1000);
        promised.begin(300);
        for machine in 0..100 {
            // Multiples of a power of two would meet in one place, if the numbers themselves were the hash.
            (0..3).for_each(|_| promised.add(machine * 4096, &one));
        }
        promised.remove(7 * 4096, &one);
        assert_eq!(promised.on(7 * 4096), (Resources::new(20, 2000), 2));
        assert!((8..100).all(|machine| promised.on(machine * 4096) == (Resources::new(30, 3000), 3)));
        assert_eq!(promised.on(1), (Resources::default(), 0));
        promised.begin(1);
        assert_eq!(promised.on(4096), (Resources::default(), 0));
        promised.stamp = u32::MAX;
        promised.add(5, &one);
        promised.begin(1);
        assert_eq!(promised.on(5), (Resources::default(), 0), "stamps begin anew");
    }
}
