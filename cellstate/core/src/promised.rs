//! What earlier claims and stops of the same transaction were promised. Without it, two claims of one transaction could both be
//! granted the last core.
//!
//! Columns as long as the tables, with a stamp in each entry: starting a transaction costs nothing, and no entry is searched.

use std::collections::BTreeMap;

use std::sync::Arc;

use plenum_model::{CUSTOM_RESOURCES, Device, Resources, Room, TakeOver};

#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    memory_bytes: u64,
    cpu_millis: u32,
    stamp: u32,
    /// Claims that were promised.
    claims: u32,
}

/// Room that is spoken for, and allocations that are being stopped, by the transaction that is being resolved.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    stamp: u32,
    machines: Vec<Promise>,
    /// Disk and named resources, for the few that use them.
    rest: BTreeMap<u32, Resources>,
    stops: Vec<u32>,
    /// The same, as a list.
    pub(crate) stopped: Vec<u32>,
    /// Jobs whose tasks share a machine, with the one that they were promised.
    homes: Vec<(u32, u32)>,
    pub(crate) specials: Specials,
    /// How much less namespaces with a quota have than before; negative where they have more.
    pub(crate) given_back: Vec<(Arc<str>, Room)>,
}

/// What few transactions promise. Cloned before a placement that has some, so that undoing it is putting the clone back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Specials {
    /// Devices and ports by machine, without what is taken over.
    pub(crate) machines: BTreeMap<u32, (Vec<Device>, Vec<u16>)>,
    /// What successors were promised of leaving allocations, by slot.
    pub(crate) taken_over: BTreeMap<u32, TakeOver>,
    /// Slots of victims, in the order in which they were taken.
    pub(crate) victims: Vec<u32>,
}

impl Specials {
    fn clear(&mut self) {
        self.machines.clear();
        self.taken_over.clear();
        self.victims.clear();
    }

    /// Notes what a claim was promised on a machine.
    pub(crate) fn add(&mut self, machine: u32, devices: &[Device], ports: impl Iterator<Item = u16>) {
        let (all, numbers) = self.machines.entry(machine).or_default();
        all.extend_from_slice(devices);
        numbers.extend(ports);
    }
}

impl Promised {
    /// Forgets everything.
    pub(crate) fn begin(&mut self) {
        if self.stamp == u32::MAX {
            self.machines.clear();
            self.stops.clear();
            self.stamp = 0;
        }
        self.stamp += 1;
        self.stopped.clear();
        self.rest.clear();
        self.homes.clear();
        self.specials.clear();
        self.given_back.clear();
    }

    /// Promised room on a machine.
    pub(crate) fn on(&self, machine: u32) -> Resources {
        let Some(promise) = self.machines.get(machine as usize).filter(|promise| promise.stamp == self.stamp) else {
            return Resources::default();
        };
        let mut resources = Resources::new(promise.cpu_millis.into(), promise.memory_bytes);
        if let Some(rest) = self.rest.get(&machine) {
            resources.disk_bytes = rest.disk_bytes;
            resources.custom = rest.custom;
        }
        resources
    }

    /// How many claims were promised a machine.
    pub(crate) fn claims_on(&self, machine: u32) -> u32 {
        let promise = self.machines.get(machine as usize).filter(|promise| promise.stamp == self.stamp);
        promise.map_or(0, |promise| promise.claims)
    }

    /// Promises room on a machine. It was judged to fit, so the sums are bounded by its capacity.
    pub(crate) fn add(&mut self, machine: u32, resources: &Resources) {
        let stamp = self.stamp;
        let place = machine as usize;
        if place >= self.machines.len() {
            self.machines.resize(place + 1, Promise::default());
        }
        let promise = &mut self.machines[place];
        if promise.stamp != stamp {
            *promise = Promise { stamp, ..Promise::default() };
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
        let promise = &mut self.machines[machine as usize];
        promise.cpu_millis -= u32::try_from(resources.cpu_millis).expect("bounded at the edge");
        promise.memory_bytes -= resources.memory_bytes;
        promise.claims -= 1;
        if !resources.is_plain() {
            let rest = self.rest.entry(machine).or_default();
            rest.disk_bytes -= resources.disk_bytes;
            (0..CUSTOM_RESOURCES).for_each(|custom| rest.custom[custom] -= resources.custom[custom]);
        }
    }

    /// Brings entries into the cache: see `Cell::warm`.
    pub(crate) fn warm(&self, slots: impl Iterator<Item = u32>) {
        std::hint::black_box(
            slots.fold(0, |loaded, slot| loaded ^ self.stops.get(slot as usize).copied().unwrap_or(0)),
        );
    }

    /// Notes a stop; false if it was noted before.
    pub(crate) fn stop(&mut self, slot: u32) -> bool {
        let place = slot as usize;
        if place >= self.stops.len() {
            self.stops.resize(place + 1, 0);
        }
        let fresh = self.stops[place] != self.stamp;
        self.stops[place] = self.stamp;
        if fresh {
            self.stopped.push(slot);
        }
        fresh
    }

    /// Whether this allocation is being stopped.
    pub(crate) fn stops(&self, slot: u32) -> bool {
        self.stops.get(slot as usize).is_some_and(|&stamp| stamp == self.stamp)
    }

    /// The place of a namespace with a quota in what is given back.
    pub(crate) fn namespace(&mut self, namespace: &Arc<str>) -> usize {
        let known = self.given_back.iter().position(|(known, _)| known == namespace);
        known.unwrap_or_else(|| {
            self.given_back.push((namespace.clone(), Room::default()));
            self.given_back.len() - 1
        })
    }

    /// What the namespace in a place has less than before.
    pub(crate) fn given_back_in(&mut self, place: usize) -> &mut Room {
        &mut self.given_back[place].1
    }

    /// The machine that the tasks of the job in `slot` were promised to share.
    pub(crate) fn home(&self, job_slot: u32) -> Option<u32> {
        self.homes.iter().find(|(slot, _)| *slot == job_slot).map(|(_, home)| *home)
    }

    /// Promises a machine to a job whose tasks share one, and that was promised none.
    pub(crate) fn set_home(&mut self, job_slot: u32, home: u32) {
        if self.home(job_slot).is_none() {
            self.homes.push((job_slot, home));
        }
    }

    /// How many jobs were promised a machine.
    pub(crate) fn homes_count(&self) -> usize {
        self.homes.len()
    }

    /// Takes back all but the first promises of machines.
    pub(crate) fn keep_homes(&mut self, count: usize) {
        self.homes.truncate(count);
    }

    /// Jobs that were promised a machine, with it.
    pub(crate) fn homes(&self) -> BTreeMap<u32, u32> {
        self.homes.iter().copied().collect()
    }
}
