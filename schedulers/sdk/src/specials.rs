//! Devices, ports and limits that own claims take: of transactions in flight, and of the decision in the making.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use plenum_model::{
    Cell, Device, DeviceRoom, GroupCounts, GroupShape, Job, JobId, Machine, Obstacle, Port, Requirement, Special,
    Spoken, choose_devices, choosing_in_turn, device_rooms, names_what_is_declared, take_named_devices, take_parts,
};

use crate::leaving::HandOff;
use crate::view::{View, Work};

/// What of the machines is spoken for, beyond room, for groups that declare devices, ports, limits or spread.
///
/// Where a claim names no devices the cell chooses them at commit. Until then the same choice is assumed here, made with the same code, and
/// in the order in which the cell comes to the claims. Of what such a claim gets of its victims nothing is booked: they have it still, as the mirror shows.
/// Where a claim names its devices all of them are booked, those of its victims too: what is left of one is then below 0 until they are gone.
#[derive(Clone, Debug, Default)]
pub struct Specials {
    machines: BTreeMap<u32, Taken>,
    /// How groups are spread in the mirror, and how that changes.
    counts: BTreeMap<(JobId, u16), (GroupCounts, GroupCounts)>,
}

/// What of one machine is spoken for.
#[derive(Clone, Debug, Default)]
struct Taken {
    /// Each device of the machine once, in its order, with the sum: thousands of claims on one machine would each walk over what all those
    /// before them got.
    devices: Vec<Device>,
    /// What each of those that took something got of devices, one after the other: perhaps less than it declares, or nothing.
    parts: Vec<Vec<Device>>,
    /// Ports, rising; 0 for each that the cell is going to choose.
    ports: Vec<u16>,
    /// The same, one after the other as they were taken.
    ports_in_turn: Vec<u16>,
}

impl Taken {
    fn nothing_of(machine: &Machine) -> Self {
        let devices = machine.devices.iter().map(|device| Device { millis: 0, ..device.clone() });
        Self { devices: devices.collect(), ..Self::default() }
    }

    fn take(&mut self, parts: Vec<Device>, shape: &GroupShape, named: &[Port]) {
        for part in &parts {
            let sum = self.sum_of(part);
            sum.into_iter().for_each(|sum| *sum = sum.saturating_add(part.millis));
        }
        self.parts.push(parts);
        for port in &shape.ports {
            let chosen = named.iter().find(|named| port.number == 0 && named.name == port.name);
            let number = chosen.unwrap_or(port).number;
            let place = self.ports.partition_point(|&other| other < number);
            self.ports.insert(place, number);
            self.ports_in_turn.push(number);
        }
    }

    /// Takes the last one back.
    fn give(&mut self, shape: &GroupShape) {
        for part in self.parts.pop().unwrap_or_default() {
            let sum = self.sum_of(&part);
            sum.into_iter().for_each(|sum| *sum = sum.saturating_sub(part.millis));
        }
        for number in self.ports_in_turn.split_off(self.ports_in_turn.len().saturating_sub(shape.ports.len())) {
            self.ports.binary_search(&number).into_iter().for_each(|place| {
                self.ports.remove(place);
            });
        }
    }

    fn sum_of(&mut self, part: &Device) -> Option<&mut u32> {
        let is_meant = |device: &&mut Device| device.index == part.index && device.kind == part.kind;
        self.devices.iter_mut().find(is_meant).map(|device| &mut device.millis)
    }
}

impl Specials {
    /// What transactions in flight take.
    #[must_use]
    pub fn of(view: &View<'_>) -> Self {
        let mut specials = Self::default();
        for claim in view.in_flight.placed() {
            let job = view.cell.job(claim.job);
            let special = job.and_then(|job| job.shape.groups.get(usize::from(claim.group)));
            if let Some(job) = job.filter(|_| special.is_some_and(Special::is_needed_by)) {
                specials.take_named(view.cell, job, claim.group, claim.machine, (&claim.devices, &claim.ports));
            }
        }
        specials
    }

    /// What stands between one more task of the group and a machine, apart from its room.
    #[must_use]
    pub fn obstacle(&self, cell: &Cell, work: &Work, slot: u32) -> Option<Obstacle> {
        self.obstacle_to(cell, work, work.shape(), slot)
    }

    /// Whether nothing of that stands in the way of a task whose claim names its devices, as [`Plan::devices`](crate::Plan::devices) does, and ports, as
    /// [`Plan::ports`](crate::Plan::ports): nothing where the cell chooses. It does where they are not what the group declares, and where two ports have
    /// one number.
    #[must_use]
    pub fn has_named(&self, cell: &Cell, work: &Work, slot: u32, (devices, ports): (&[Device], &[Port])) -> bool {
        if devices.is_empty() && ports.is_empty() {
            return self.obstacle(cell, work, slot).is_none();
        }
        if !names_what_is_declared(work.shape(), devices, ports) {
            return false;
        }
        let mut shape = work.shape().clone();
        for port in shape.ports.iter_mut().filter(|port| port.number == 0) {
            let named = ports.iter().find(|named| named.name == port.name);
            port.number = named.map_or(0, |named| named.number);
        }
        let mut once = BTreeSet::new();
        if shape.ports.iter().any(|port| port.number > 0 && !once.insert(port.number)) {
            return false;
        }
        let declared = if devices.is_empty() { Vec::new() } else { std::mem::take(&mut shape.devices) };
        self.obstacle_to(cell, work, &shape, slot).is_none()
            && take_named_devices(&mut self.device_rooms(cell, slot), devices, &declared)
    }

    /// What stands between one more task of the group and a machine, if it asks for this.
    fn obstacle_to(&self, cell: &Cell, work: &Work, shape: &GroupShape, slot: u32) -> Option<Obstacle> {
        let counts = self.counts.get(&(work.job.id, work.group));
        let special = Special::of(shape, counts.map(|(base, _)| base));
        let taken = self.machines.get(&slot);
        let ports = taken.map(|taken| taken.ports.as_slice()).unwrap_or_default();
        let spoken = Spoken { devices: self.devices(slot), ports, counts: counts.map(|(_, change)| change) };
        let requirement =
            Requirement { resources: &shape.resources, classes: None, home: None, job: work.job.id, special };
        requirement.special_obstacle(cell, slot, &spoken)
    }

    /// Whether these ports can be had on a machine, besides those that are spoken for.
    #[must_use]
    pub fn has_ports(&self, cell: &Cell, slot: u32, ports: &[Port]) -> bool {
        let shape = GroupShape { ports: ports.to_vec(), ..GroupShape::default() };
        let special = Special::of(&shape, None);
        let ports = self.machines.get(&slot).map(|taken| taken.ports.as_slice()).unwrap_or_default();
        let spoken = Spoken { ports, ..Spoken::default() };
        let requirement =
            Requirement { resources: &shape.resources, classes: None, home: None, job: JobId::default(), special };
        requirement.device_obstacle(cell, slot, &spoken).is_none()
    }

    /// Counts a group, so that its limits can be judged: a walk over its tasks, once.
    pub fn count(&mut self, cell: &Cell, job: &Job, group: u16) {
        let fresh = || (GroupCounts::of(cell, job, group), GroupCounts::default());
        self.counts.entry((job.id, group)).or_insert_with(fresh);
    }

    /// How much of each device of a machine is spoken for, in thousandths and in the machine's order; empty where nothing of it is.
    #[must_use]
    pub fn devices(&self, slot: u32) -> &[Device] {
        self.machines.get(&slot).map(|taken| taken.devices.as_slice()).unwrap_or_default()
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
        take_parts(&mut rooms, self.devices(slot));
        rooms
    }

    /// Takes what one task of the group gets on a machine.
    pub fn take(&mut self, cell: &Cell, job: &Job, group: u16, slot: u32) {
        self.take_named(cell, job, group, slot, (&[], &[]));
    }

    /// As [`Specials::take`], of a task whose claim names its devices, as [`Plan::devices`](crate::Plan::devices) does, and ports, as
    /// [`Plan::ports`](crate::Plan::ports): nothing where the cell chooses.
    pub fn take_named(
        &mut self,
        cell: &Cell,
        job: &Job,
        group: u16,
        slot: u32,
        (devices, ports): (&[Device], &[Port]),
    ) {
        let Some(shape) = job.shape.groups.get(usize::from(group)) else { return };
        let chosen = if devices.is_empty() && !shape.devices.is_empty() {
            let chosen = choose_devices(&mut self.device_rooms(cell, slot), &shape.devices);
            chosen.unwrap_or_else(|_| free_parts(self.device_rooms(cell, slot), &shape.devices))
        } else {
            devices.to_vec()
        };
        self.take_parts(cell, job, group, slot, (chosen, ports));
    }

    /// Takes these parts of devices for one task of the group, be they all that it gets or what its victims don't lend; its ports; and its place in the limits.
    pub(crate) fn take_parts(
        &mut self,
        cell: &Cell,
        job: &Job,
        group: u16,
        slot: u32,
        (devices, ports): (Vec<Device>, &[Port]),
    ) {
        let Some(shape) = job.shape.groups.get(usize::from(group)) else { return };
        if GroupCounts::are_needed_by(shape) {
            self.count(cell, job, group);
            let counts = self.counts.get_mut(&(job.id, group));
            counts.into_iter().for_each(|(_, change)| change.add(cell, shape, slot, 1));
        }
        let Some(machine) = cell.machine_in(slot) else { return };
        self.machines.entry(slot).or_insert_with(|| Taken::nothing_of(machine)).take(devices, shape, ports);
    }

    /// Takes over from those who leave what one more task of the group lacks on a machine, of devices and of ports that have a number, and gives what it gets of
    /// devices that are free. `None`: that is not enough, or a limit stands in the way.
    pub(crate) fn have_with(&self, cell: &Cell, work: &Work, slot: u32, hand_off: &mut HandOff) -> Option<Vec<Device>> {
        let shape = work.shape();
        let users = |port: &Port| cell.in_use(slot).map_or(0, |used| used.users_of(port.number));
        let (used, free): (Vec<Port>, Vec<Port>) =
            shape.ports.iter().cloned().partition(|port| port.number > 0 && users(port) > 0);
        let rest = GroupShape { devices: Vec::new(), ports: free, ..shape.clone() };
        if self.obstacle_to(cell, work, &rest, slot).is_some() {
            return None;
        }
        // As the cell judges: besides who leaves, a successor may have it, or a task that the cell does not know.
        let comes_free = |port: &Port, hand_off: &mut HandOff| {
            users(port) == 1 && !self.speaks_for(slot, port.number) && hand_off.take_port(port.number)
        };
        if !used.iter().all(|port| comes_free(port, hand_off)) {
            return None;
        }
        let Some(machine) = cell.machine_in(slot).filter(|_| !shape.devices.is_empty()) else {
            return Some(Vec::new());
        };
        let mut rooms = device_rooms(cell, machine);
        // As the cell judges: of a device that has less than it lent, nothing is given.
        rooms.retain(|room| room.free_millis >= 0);
        take_parts(&mut rooms, self.devices(slot));
        hand_off.take_devices(&rooms, &shape.devices)
    }

    /// Whether a port of a machine is spoken for.
    fn speaks_for(&self, slot: u32, port: u16) -> bool {
        self.machines.get(&slot).is_some_and(|taken| taken.ports.binary_search(&port).is_ok())
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

    /// Undoes a [`Specials::leave`].
    pub fn stay(&mut self, cell: &Cell, job: &Job, group: u16, slot: u32) {
        let Some(shape) = job.shape.groups.get(usize::from(group)) else { return };
        if let Some((_, change)) = self.counts.get_mut(&(job.id, group)) {
            change.add(cell, shape, slot, 1);
        }
    }

    /// Undoes a [`Specials::take`]: the last one on that machine that was not undone.
    pub fn give(&mut self, cell: &Cell, job: &Job, group: u16, slot: u32) {
        let Some(shape) = job.shape.groups.get(usize::from(group)) else { return };
        if let Some((_, change)) = self.counts.get_mut(&(job.id, group)) {
            change.add(cell, shape, slot, -1);
        }
        self.machines.get_mut(&slot).into_iter().for_each(|taken| taken.give(shape));
    }
}

/// What a claim takes of devices that are free, where these are not enough for it: of each entry by itself, in the order in which they choose. The rest is
/// its victims'.
fn free_parts(mut rooms: Vec<DeviceRoom>, wanted: &[Device]) -> Vec<Device> {
    let free = |want: &Device| choose_devices(&mut rooms, slice::from_ref(want)).unwrap_or_default();
    choosing_in_turn(wanted).flat_map(free).collect()
}
