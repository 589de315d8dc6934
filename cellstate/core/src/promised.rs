//! What earlier claims and stops of the same transaction were promised. Without it, two claims of one transaction could both be
//! granted the last core.
//!
//! Columns as long as the tables, with a stamp in each entry: starting a transaction costs nothing, and no entry is searched.

use std::collections::BTreeMap;

use plenum_model::{CUSTOM_RESOURCES, Device, Resources, Room, TakeOver};

use crate::slot_set::SlotSet;

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
    /// Slots of allocations that are being stopped.
    stops: SlotSet,
    /// Jobs whose tasks share a machine, with the one that they were promised.
    homes: Vec<(u32, u32)>,
    pub(crate) specials: Specials,
    /// How much less namespaces with a quota have than before; negative where they have more. By their places in `QuotaUse`.
    given_back: Vec<GivenBack>,
}

#[derive(Clone, Copy, Debug, Default)]
struct GivenBack {
    stamp: u32,
    room: Room,
}

/// What few transactions promise. Cloned before a placement that has a minimum, so that undoing it is putting the clone back.
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
            self.given_back.clear();
            self.stamp = 0;
        }
        self.stamp += 1;
        self.stops.clear();
        self.rest.clear();
        self.homes.clear();
        self.specials.clear();
    }

    /// Promised room on a machine.
    #[inline]
    pub(crate) fn on(&self, machine: u32) -> Resources {
        let Some(promise) = self.machines.get(machine as usize).filter(|promise| promise.stamp == self.stamp) else {
            return Resources::default();
        };
        let mut resources = Resources::new(promise.cpu_millis.into(), promise.memory_bytes);
        if !self.rest.is_empty()
            && let Some(rest) = self.rest.get(&machine)
        {
            resources.disk_bytes = rest.disk_bytes;
            resources.custom = rest.custom;
        }
        resources
    }

    /// How many claims were promised a machine.
    #[inline]
    pub(crate) fn claims_on(&self, machine: u32) -> u32 {
        let promise = self.machines.get(machine as usize).filter(|promise| promise.stamp == self.stamp);
        promise.map_or(0, |promise| promise.claims)
    }

    /// Promises room on a machine. It was judged to fit, so the sums are bounded by its capacity.
    #[inline]
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

    /// Notes a stop; false if it was noted before.
    #[inline]
    pub(crate) fn stop(&mut self, slot: u32) -> bool {
        self.stops.insert(slot)
    }

    /// Whether this allocation is being stopped.
    #[inline]
    pub(crate) fn stops(&self, slot: u32) -> bool {
        self.stops.contains(slot)
    }

    /// All that are, in the order of the stops.
    pub(crate) fn stopped(&self) -> &[u32] {
        self.stops.members()
    }

    /// What the namespace with a quota in a place has less than before.
    #[inline]
    pub(crate) fn given_back(&mut self, place: u32) -> &mut Room {
        let (stamp, place) = (self.stamp, place as usize);
        if place >= self.given_back.len() {
            self.given_back.resize(place + 1, GivenBack::default());
        }
        let given = &mut self.given_back[place];
        if given.stamp != stamp {
            *given = GivenBack { stamp, room: Room::default() };
        }
        &mut given.room
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
