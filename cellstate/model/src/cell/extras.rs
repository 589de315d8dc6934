//! What few allocations have: devices, ports, room of those who leave, restarts, reasons. And what that makes of their machines.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Cell;
use crate::delta::Subject;
use crate::{AllocationExtra, AllocationId, Device, FoldError, GrantExtra, Grants, Resources, UnknownId};

/// Devices and ports of one machine that are in use: capacity − live + taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Slots of live allocations there that have devices, ports or take-overs, rising.
    pub tenants: Vec<u32>,
    /// Thousandths, by position in the machine's devices; shorter where the last ones are free.
    pub devices: Vec<i64>,
    /// Ports, rising; one that was taken over stands twice until its first holder has ended.
    pub ports: Vec<u16>,
}

impl InUse {
    /// Whether the port is in use.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.binary_search(&port).is_ok()
    }

    /// Derives it from scratch: `tenants` are the slots of live allocations there that have something of it.
    fn of(cell: &Cell, machine: u32, tenants: Vec<u32>) -> Self {
        let mut used = Self { tenants, ..Self::default() };
        let known = cell.machine_in(machine).map_or(&[][..], |machine| &machine.devices);
        let extras = used.tenants.iter().filter_map(|&slot| cell.extra(slot));
        let mut devices = vec![0; known.len()];
        let mut add = |device: &Device, sign: i64| {
            let place = known.iter().position(|known| known.kind == device.kind && known.index == device.index);
            place.into_iter().for_each(|place| devices[place] += sign * i64::from(device.millis));
        };
        for extra in extras {
            extra.devices.iter().for_each(|device| add(device, 1));
            extra.takes_over.iter().flat_map(|entry| &entry.devices).for_each(|device| add(device, -1));
            used.ports.extend(extra.ports.iter().map(|port| port.number));
        }
        for (_, task) in cell.unknown_on(machine) {
            task.traces.devices.iter().for_each(|device| add(device, 1));
            used.ports.extend(task.traces.ports.iter().map(|port| port.number));
        }
        devices.truncate(devices.iter().rposition(|&millis| millis != 0).map_or(0, |last| last + 1));
        used.devices = devices;
        used.ports.sort_unstable();
        used
    }
}

/// Whether an extra matters to its machine, and not only to itself.
fn is_tenant(extra: &AllocationExtra) -> bool {
    !(extra.devices.is_empty() && extra.ports.is_empty() && extra.takes_over.is_empty())
}

impl Cell {
    /// What the allocation in a slot has that few have.
    #[must_use]
    #[inline]
    pub fn extra(&self, slot: u32) -> Option<&AllocationExtra> {
        self.extras.get(slot)?.as_deref()
    }

    /// Devices and ports of a machine that are in use; `None`: none are.
    #[must_use]
    #[inline]
    pub fn in_use(&self, machine: u32) -> Option<&InUse> {
        self.in_use.get(machine)?.as_deref()
    }

    pub(super) fn add_extras(&mut self, grants: &Grants) -> Result<(), FoldError> {
        let mut seated: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for GrantExtra { claim, devices, ports, takes_over } in &grants.extras {
            let place = *claim as usize;
            let (Some(&slot), Some(&machine)) = (grants.slots.get(place), grants.machines.get(place)) else {
                return self.fault(Subject::GroupRow(grants.group_row), "has extras for a claim that is not there");
            };
            let extra = AllocationExtra {
                devices: devices.clone(),
                ports: ports.clone(),
                takes_over: takes_over.clone(),
                ..AllocationExtra::default()
            };
            for entry in takes_over {
                let victim = self.allocation(entry.victim);
                if !victim.is_some_and(|victim| victim.row.machine == machine && victim.status.state.is_leaving()) {
                    return self
                        .fault(Subject::Allocation(entry.victim), "is taken over from, and is not leaving there");
                }
                self.give_amount(machine, &entry.amount);
            }
            if is_tenant(&extra) {
                seated.entry(machine).or_default().push(slot);
            }
            self.keep_extra(slot, extra);
        }
        for (machine, slots) in seated {
            let mut tenants = self.in_use(machine).map(|used| used.tenants.clone()).unwrap_or_default();
            tenants.extend(slots);
            tenants.sort_unstable();
            tenants.dedup();
            self.put_in_use(machine, tenants);
        }
        Ok(())
    }

    /// One that says nothing is not kept: a cell that is read back from its pages has none.
    pub(super) fn keep_extra(&mut self, slot: u32, extra: AllocationExtra) {
        if !extra.is_empty() {
            *self.extras.get_mut(slot) = Some(Arc::new(extra));
        } else if self.extra(slot).is_some() {
            *self.extras.get_mut(slot) = None;
        }
    }

    /// Notes that an allocation has something that matters to its machine.
    pub(super) fn seat(&mut self, machine: u32, slot: u32) {
        if !self.extra(slot).is_some_and(is_tenant) {
            return;
        }
        let mut tenants = self.in_use(machine).map(|used| used.tenants.clone()).unwrap_or_default();
        if let Err(place) = tenants.binary_search(&slot) {
            tenants.insert(place, slot);
        }
        self.put_in_use(machine, tenants);
    }

    fn put_in_use(&mut self, machine: u32, tenants: Vec<u32>) {
        let used = InUse::of(self, machine, tenants);
        let nothing = used == InUse::default();
        if !nothing || self.in_use(machine).is_some() {
            *self.in_use.get_mut(machine) = (!nothing).then(|| Arc::new(used));
        }
    }

    /// The machine itself changed, or an unknown task on it: what is in use is derived again.
    pub(super) fn refresh_in_use(&mut self, machine: u32) {
        let tenants = self.in_use(machine).map(|used| used.tenants.clone()).unwrap_or_default();
        self.put_in_use(machine, tenants);
    }

    /// An allocation has ended: what it had beyond room goes, and so does every entry that names it, at once.
    #[inline]
    pub(super) fn drop_extra(&mut self, machine: u32, id: AllocationId) {
        let own = if self.extra(id.slot).is_some() { self.extras.get_mut(id.slot).take() } else { None };
        if let Some(own) = &own {
            own.takes_over.iter().for_each(|entry| self.take_amount(machine, &entry.amount));
        }
        if self.in_use(machine).is_some() {
            self.leave_tenants(machine, id);
        }
    }

    fn leave_tenants(&mut self, machine: u32, id: AllocationId) {
        let Some(used) = self.in_use(machine) else { return };
        let mut tenants = used.tenants.clone();
        tenants.retain(|&slot| slot != id.slot);
        for &slot in &tenants {
            let Some(extra) = self.extra(slot).filter(|extra| extra.takes_over.iter().any(|entry| entry.victim == id))
            else {
                continue;
            };
            let mut extra = extra.clone();
            let gone: Vec<_> = extra.takes_over.extract_if(.., |entry| entry.victim == id).collect();
            gone.iter().for_each(|entry| self.take_amount(machine, &entry.amount));
            self.keep_extra(slot, extra);
        }
        tenants.retain(|&slot| self.extra(slot).is_some_and(is_tenant));
        self.put_in_use(machine, tenants);
    }

    /// Room on a machine that is free for another reason than an end.
    pub(super) fn give_amount(&mut self, machine: u32, amount: &Resources) {
        let allocations = self.machines.get_mut(machine).allocations;
        self.give_room(machine, amount);
        self.machines.get_mut(machine).allocations = allocations;
    }

    /// Room on a machine that is taken for another reason than a grant.
    pub(super) fn take_amount(&mut self, machine: u32, amount: &Resources) {
        let allocations = self.machines.get_mut(machine).allocations;
        let last_change = self.machines.get_mut(machine).last_change;
        if self.take_room(machine, amount, amount.is_plain()).is_some() {
            let row = self.machines.get_mut(machine);
            (row.allocations, row.last_change) = (allocations, last_change);
        }
    }

    /// All unknown tasks of a machine.
    pub fn unknown_on(&self, machine: u32) -> impl Iterator<Item = (UnknownId, &Arc<crate::UnknownTask>)> {
        let first = UnknownId { machine, allocation: AllocationId { slot: 0, generation: 0 } };
        let last = UnknownId { machine, allocation: AllocationId { slot: u32::MAX, generation: u32::MAX } };
        self.unknown.range(first..=last).map(|(&id, task)| (id, task))
    }
}
