//! What few allocations have: devices, ports, room of those who leave, restarts, reasons. And what that makes of their machines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Cell;
use crate::delta::Subject;
use crate::{AllocationExtra, AllocationId, Device, FoldError, GrantExtra, Grants, Resources, TaskTraces, UnknownId};

/// Devices and ports of one machine that are in use: capacity − live + taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Slots of live allocations there that have devices, ports or take-overs, rising.
    pub tenants: Vec<u32>,
    /// Those of them that have take-overs, rising.
    pub heirs: Vec<u32>,
    /// Slots of those who leave, each with one who takes over from it: thousands may end at once, each with an heir of its own, and each heir
    /// has many of them. Too many for a list: each that comes would move half of it.
    of_victims: BTreeSet<(u32, u32)>,
    /// Thousandths, by position in the machine's devices; shorter where the last ones are free.
    pub devices: Vec<i64>,
    /// Ports, rising; one that was taken over stands twice until its first holder has ended, and one that an unknown task has too.
    pub ports: Vec<u16>,
}

impl InUse {
    /// Whether the port is in use.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.binary_search(&port).is_ok()
    }

    /// How many have the port in use; of more than two, two: thousands of unknown tasks may have it.
    #[must_use]
    pub fn users_of(&self, port: u16) -> usize {
        let first = self.ports.partition_point(|&other| other < port);
        self.ports[first..].iter().take(2).take_while(|&&other| other == port).count()
    }

    /// The slots of those who take over from the allocation in a slot, rising.
    pub fn heirs_of(&self, victim: u32) -> impl Iterator<Item = u32> {
        self.of_victims.range((victim, 0)..=(victim, u32::MAX)).map(|&(_, heir)| heir)
    }

    /// Derives it from scratch: `tenants` are the slots of live allocations there that have something of it.
    fn of(cell: &Cell, machine: u32, tenants: Vec<u32>) -> Self {
        let mut used = Self::default();
        let known = cell.machine_in(machine).map_or(&[][..], |machine| &machine.devices);
        for (slot, extra) in tenants.iter().filter_map(|&slot| Some((slot, cell.extra(slot)?))) {
            if !extra.takes_over.is_empty() {
                used.heirs.push(slot);
                used.of_victims.extend(victims_of(slot, extra));
            }
            used.count_devices(known, devices_of(extra));
            used.ports.extend(extra.ports.iter().map(|port| port.number));
        }
        for (_, task) in cell.unknown_on(machine) {
            used.count_devices(known, task.traces.devices.iter().map(|device| (device, 1)));
            used.ports.extend(task.traces.ports.iter().map(|port| port.number));
        }
        used.tenants = tenants;
        used.trim();
        used.ports.sort_unstable();
        used
    }

    /// Counts devices, each so many times.
    fn count_devices<'a>(&mut self, known: &[Device], devices: impl Iterator<Item = (&'a Device, i64)>) {
        for (device, times) in devices {
            let place = known.iter().position(|known| known.kind == device.kind && known.index == device.index);
            let Some(place) = place else { continue };
            if place >= self.devices.len() {
                self.devices.resize(place + 1, 0);
            }
            self.devices[place] += times * i64::from(device.millis);
        }
    }

    /// Forgets the last devices, where they are free.
    fn trim(&mut self) {
        self.devices.truncate(self.devices.iter().rposition(|&millis| millis != 0).map_or(0, |last| last + 1));
    }

    /// Somebody who has this comes: as if it was derived again with it, at the cost of what comes alone.
    fn join(&mut self, known: &[Device], slot: u32, own: &AllocationExtra) {
        insert(&mut self.tenants, slot);
        if !own.takes_over.is_empty() {
            insert(&mut self.heirs, slot);
            self.of_victims.extend(victims_of(slot, own));
        }
        self.count_devices(known, devices_of(own));
        own.ports.iter().for_each(|port| insert(&mut self.ports, port.number));
    }

    /// Somebody who had this is there no more: as if it was derived again without, at the cost of what goes alone.
    fn leave(&mut self, known: &[Device], slot: u32, own: &AllocationExtra) {
        remove(&mut self.tenants, slot);
        remove(&mut self.heirs, slot);
        for pair in victims_of(slot, own) {
            self.of_victims.remove(&pair);
        }
        self.count_devices(known, devices_of(own).map(|(device, times)| (device, -times)));
        own.ports.iter().for_each(|port| remove(&mut self.ports, port.number));
        self.trim();
    }

    /// Unknown tasks come and go: as if it was derived again, at the cost of what they have and of one pass over the ports.
    fn turn_over(&mut self, known: &[Device], OfMachine { came, went }: &OfMachine) {
        let counted = came.iter().map(|traces| (traces, 1)).chain(went.iter().map(|traces| (traces, -1)));
        for (traces, times) in counted {
            self.count_devices(known, traces.devices.iter().map(|device| (device, times)));
        }
        let ports = |of: &[Arc<TaskTraces>]| -> Vec<u16> {
            of.iter().flat_map(|traces| &traces.ports).map(|port| port.number).collect()
        };
        self.ports.extend(ports(came));
        // Those that stand there rise already: a sort that finds runs only merges.
        self.ports.sort();
        let mut gone = ports(went);
        gone.sort_unstable();
        let mut gone = gone.into_iter().peekable();
        self.ports.retain(|port| gone.next_if_eq(port).is_none());
        self.trim();
    }
}

/// Of unknown tasks that come to a machine and go, what they have.
#[derive(Debug, Default)]
pub(super) struct OfMachine {
    pub(super) came: Vec<Arc<TaskTraces>>,
    pub(super) went: Vec<Arc<TaskTraces>>,
}

/// By machine, the unknown tasks that come and go with one delta.
pub(super) type Turnover = BTreeMap<u32, OfMachine>;

/// The slots of those that somebody takes over from, each with the slot of who does.
fn victims_of(slot: u32, own: &AllocationExtra) -> impl Iterator<Item = (u32, u32)> {
    own.takes_over.iter().map(move |entry| (entry.victim.slot, slot))
}

/// The devices that an extra counts for, and how often: those that it takes over are its victim's still.
fn devices_of(extra: &AllocationExtra) -> impl Iterator<Item = (&Device, i64)> {
    let taken = extra.takes_over.iter().flat_map(|entry| &entry.devices).map(|device| (device, -1));
    extra.devices.iter().map(|device| (device, 1)).chain(taken)
}

/// Puts one among those that rise.
fn insert<T: Ord>(rising: &mut Vec<T>, one: T) {
    let place = rising.partition_point(|other| *other < one);
    rising.insert(place, one);
}

/// Takes one out of those that rise.
fn remove<T: Ord>(rising: &mut Vec<T>, one: T) {
    if let Ok(place) = rising.binary_search(&one) {
        rising.remove(place);
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
            self.join_tenants(machine, &slots);
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
        self.join_tenants(machine, &[slot]);
    }

    fn join_tenants(&mut self, machine: u32, slots: &[u32]) {
        let devices = self.machine_in(machine).map(|machine| machine.devices.clone()).unwrap_or_default();
        let mut used = self.in_use.get_mut(machine).take().unwrap_or_default();
        // Changed in place, unless a snapshot has it.
        let changed = Arc::make_mut(&mut used);
        for (&slot, extra) in slots.iter().filter_map(|slot| Some((slot, self.extra(*slot)?))) {
            changed.join(&devices, slot, extra);
        }
        changed.trim();
        if *used != InUse::default() {
            *self.in_use.get_mut(machine) = Some(used);
        }
    }

    fn put_in_use(&mut self, machine: u32, tenants: Vec<u32>) {
        let used = InUse::of(self, machine, tenants);
        let nothing = used == InUse::default();
        if !nothing || self.in_use(machine).is_some() {
            *self.in_use.get_mut(machine) = (!nothing).then(|| Arc::new(used));
        }
    }

    /// Counts unknown tasks that came and went.
    pub(super) fn count_turnover(&mut self, turnover: Turnover) {
        let has_some = |traces: &Arc<TaskTraces>| !(traces.devices.is_empty() && traces.ports.is_empty());
        for (machine, of_machine) in turnover {
            if !of_machine.came.iter().chain(&of_machine.went).any(has_some) {
                continue;
            }
            let devices = self.machine_in(machine).map(|machine| machine.devices.clone()).unwrap_or_default();
            let mut used = self.in_use.get_mut(machine).take().unwrap_or_default();
            // Changed in place, unless a snapshot has it.
            Arc::make_mut(&mut used).turn_over(&devices, &of_machine);
            if *used != InUse::default() {
                *self.in_use.get_mut(machine) = Some(used);
            }
        }
    }

    /// The machine itself changed: what is in use is derived again.
    pub(super) fn refresh_in_use(&mut self, machine: u32) {
        let tenants = self.in_use(machine).map(|used| used.tenants.clone()).unwrap_or_default();
        self.put_in_use(machine, tenants);
    }

    /// An allocation has ended: what it had beyond room goes, and so does every entry that names it, at once.
    #[inline]
    pub(super) fn drop_extra(&mut self, machine: u32, id: AllocationId) {
        let own = self.take_extra(id.slot);
        if let Some(own) = &own {
            own.takes_over.iter().for_each(|entry| self.take_amount(machine, &entry.amount));
        }
        if self.in_use(machine).is_some() {
            self.leave_tenants(machine, id, own.as_deref());
        }
    }

    /// Looked at before it is changed: a page that a snapshot has is copied for a change, and hardly any slot has one.
    #[inline]
    fn take_extra(&mut self, slot: u32) -> Option<Arc<AllocationExtra>> {
        if self.extra(slot).is_some() { self.extras.get_mut(slot).take() } else { None }
    }

    fn leave_tenants(&mut self, machine: u32, id: AllocationId, own: Option<&AllocationExtra>) {
        let heirs: Vec<u32> = self.in_use(machine).into_iter().flat_map(|used| used.heirs_of(id.slot)).collect();
        let own = own.filter(|own| is_tenant(own));
        if own.is_none() && heirs.is_empty() {
            return;
        }
        let devices = self.machine_in(machine).map(|machine| machine.devices.clone()).unwrap_or_default();
        let Some(mut used) = self.in_use.get_mut(machine).take() else { return };
        // Changed in place, unless a snapshot has it.
        let changed = Arc::make_mut(&mut used);
        own.into_iter().for_each(|own| changed.leave(&devices, id.slot, own));
        for slot in heirs {
            changed.of_victims.remove(&(id.slot, slot));
            let Some(mut shared) = self.take_extra(slot) else { continue };
            let extra = Arc::make_mut(&mut shared);
            let gone: Vec<_> = extra.takes_over.extract_if(.., |entry| entry.victim == id).collect();
            gone.iter().for_each(|entry| self.take_amount(machine, &entry.amount));
            changed.count_devices(&devices, gone.iter().flat_map(|entry| &entry.devices).map(|device| (device, 1)));
            if extra.takes_over.is_empty() {
                remove(&mut changed.heirs, slot);
            }
            if !is_tenant(extra) {
                remove(&mut changed.tenants, slot);
            }
            // One that says nothing any more is not kept.
            if !shared.is_empty() {
                *self.extras.get_mut(slot) = Some(shared);
            }
        }
        changed.trim();
        if *used != InUse::default() {
            *self.in_use.get_mut(machine) = Some(used);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    // Thousands of unknown tasks may have one port, and all of them were counted for each claim that asks for it.
    #[test]
    fn of_many_users_of_a_port_two_are_counted() {
        let used = InUse { ports: [vec![79, 80], vec![81; 4096]].concat(), ..InUse::default() };
        assert_eq!([78, 79, 80, 81, 82].map(|port| used.users_of(port)), [0, 1, 1, 2, 0]);
    }
}
