//! Devices, ports and limits that own claims take: of transactions in flight, and of the decision in the making.

use std::collections::BTreeMap;

use plenum_model::{
    Cell, Device, DeviceRoom, GroupCounts, GroupShape, Job, JobId, Obstacle, Requirement, Special, Spoken,
    choose_devices, device_rooms,
};

use crate::view::{View, Work};

/// What of the machines is spoken for, beyond room, for groups that declare devices, ports, limits or spread.
///
/// Where a claim names no devices the cell chooses them at commit. Until then the same choice is assumed here, made with the same code, and
/// in the order in which the cell comes to the claims.
#[derive(Clone, Debug, Default)]
pub struct Specials {
    machines: BTreeMap<u32, (Vec<Device>, Vec<u16>)>,
    /// How groups are spread in the mirror, and how that changes.
    counts: BTreeMap<(JobId, u16), (GroupCounts, GroupCounts)>,
}

impl Specials {
    /// What transactions in flight take.
    #[must_use]
    pub fn of(view: &View<'_>) -> Self {
        let mut specials = Self::default();
        for ((id, group), machine, named) in view.in_flight.placed() {
            let job = view.cell.job(id);
            let special = job.and_then(|job| job.shape.groups.get(usize::from(group)));
            if let Some(job) = job.filter(|_| special.is_some_and(Special::is_needed_by)) {
                specials.take_named(view.cell, job, group, machine, named);
            }
        }
        specials
    }

    /// What stands between one more task of the group and a machine, apart from its room.
    #[must_use]
    pub fn obstacle(&self, cell: &Cell, work: &Work, slot: u32) -> Option<Obstacle> {
        let shape = work.shape();
        let counts = self.counts.get(&(work.job.id, work.group));
        let special = Special::of(shape, counts.map(|(base, _)| base));
        let none = (Vec::new(), Vec::new());
        let (devices, ports) = self.machines.get(&slot).unwrap_or(&none);
        let spoken = Spoken { devices, ports, counts: counts.map(|(_, change)| change) };
        let requirement =
            Requirement { resources: &shape.resources, classes: None, home: None, job: work.job.id, special };
        requirement.special_obstacle(cell, slot, &spoken)
    }

    /// Counts a group, so that its limits can be judged: a walk over its tasks, once.
    pub fn count(&mut self, cell: &Cell, job: &Job, group: u16) {
        let fresh = || (GroupCounts::of(cell, job, group), GroupCounts::default());
        self.counts.entry((job.id, group)).or_insert_with(fresh);
    }

    /// Devices of a machine that are spoken for, in thousandths of each; the same device may come more than once.
    #[must_use]
    pub fn devices(&self, slot: u32) -> &[Device] {
        self.machines.get(&slot).map(|(devices, _)| devices.as_slice()).unwrap_or_default()
    }

    /// Machines of which something is spoken for, or was before a [`Specials::give`].
    pub fn machines(&self) -> impl Iterator<Item = u32> {
        self.machines.keys().copied()
    }

    /// What is left of each device of a machine; empty when there is none in that slot.
    #[must_use]
    pub fn device_rooms(&self, cell: &Cell, slot: u32) -> Vec<DeviceRoom> {
        let Some(machine) = cell.machine_in(slot) else { return Vec::new() };
        let mut rooms = device_rooms(cell, machine);
        for device in self.devices(slot) {
            let room = rooms.iter_mut().find(|room| room.kind == device.kind && room.index == device.index);
            room.into_iter().for_each(|room| room.free_millis -= i64::from(device.millis));
        }
        rooms
    }

    /// Takes what one task of the group gets on a machine.
    pub fn take(&mut self, cell: &Cell, job: &Job, group: u16, slot: u32) {
        self.take_named(cell, job, group, slot, &[]);
    }

    /// As [`Specials::take`], of a task whose claim names its devices, as [`Plan::devices`](crate::Plan::devices) does.
    pub fn take_named(&mut self, cell: &Cell, job: &Job, group: u16, slot: u32, named: &[Device]) {
        let Some(shape) = job.shape.groups.get(usize::from(group)) else { return };
        if GroupCounts::are_needed_by(shape) {
            self.count(cell, job, group);
            let counts = self.counts.get_mut(&(job.id, group));
            counts.into_iter().for_each(|(_, change)| change.add(cell, shape, slot, 1));
        }
        if cell.machine_in(slot).is_none() {
            return;
        }
        let chosen = if named.is_empty() && !shape.devices.is_empty() {
            choose_devices(&mut self.device_rooms(cell, slot), &shape.devices).unwrap_or_default()
        } else {
            named.to_vec()
        };
        let (devices, ports) = self.machines.entry(slot).or_default();
        devices.extend(chosen);
        ports.extend(fixed_ports(shape));
    }

    /// A task of the group is stopped on a machine, in the transaction in the making: the group's limits count it no more. What it has of the
    /// machine is taken until its receipt.
    pub fn leave(&mut self, cell: &Cell, job: &Job, group: u16, slot: u32) {
        let Some(shape) = job.shape.groups.get(usize::from(group)) else { return };
        if GroupCounts::are_needed_by(shape) {
            self.count(cell, job, group);
            let counts = self.counts.get_mut(&(job.id, group));
            counts.into_iter().for_each(|(_, change)| change.add(cell, shape, slot, -1));
        }
    }

    /// Undoes a [`Specials::take`] after which nothing stood in the way: the last one on that machine that was not undone.
    pub fn give(&mut self, cell: &Cell, job: &Job, group: u16, slot: u32) {
        let Some(shape) = job.shape.groups.get(usize::from(group)) else { return };
        if let Some((_, change)) = self.counts.get_mut(&(job.id, group)) {
            change.add(cell, shape, slot, -1);
        }
        if let Some((devices, ports)) = self.machines.get_mut(&slot) {
            devices.truncate(devices.len().saturating_sub(shape.devices.len()));
            ports.truncate(ports.len().saturating_sub(fixed_ports(shape).count()));
        }
    }
}

/// The ports that a group asks for by number.
fn fixed_ports(shape: &GroupShape) -> impl Iterator<Item = u16> {
    shape.ports.iter().map(|port| port.number).filter(|&port| port > 0)
}
