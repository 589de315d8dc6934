//! Whether a task may run on a machine: the one judgement that planners and the committer share.

use crate::{
    Cell, ClassSet, Device, GroupCounts, GroupShape, JobId, MachineRow, MachineState, Resource, Resources, Room,
    Shortage, choose_devices, device_rooms, ports::has_dynamic_ports, take_parts,
};

/// What a task needs of its machine.
#[derive(Clone, Copy, Debug)]
pub struct Requirement<'a> {
    /// Room.
    pub resources: &'a Resources,
    /// Classes of machines that satisfy its group's constraints; `None` when it has none.
    pub classes: Option<&'a ClassSet>,
    /// The machine that its job's tasks share, once one was chosen.
    pub home: Option<u32>,
    /// Its job: a hold of it is free room.
    pub job: JobId,
    /// What its group declares beyond resources and constraints; `None` when it declares nothing.
    pub special: Option<Special<'a>>,
}

/// What few groups declare: devices, ports, limits of machines, spread.
#[derive(Clone, Copy, Debug)]
pub struct Special<'a> {
    /// The group.
    pub shape: &'a GroupShape,
    /// How its tasks are spread, where it limits that.
    pub counts: Option<&'a GroupCounts>,
}

impl<'a> Special<'a> {
    /// Whether a group declares anything of that.
    #[must_use]
    pub fn is_needed_by(shape: &GroupShape) -> bool {
        !shape.devices.is_empty() || !shape.ports.is_empty() || GroupCounts::are_needed_by(shape)
    }

    /// What a group declares, if it declares anything; `counts` are its own.
    #[must_use]
    pub fn of(shape: &'a GroupShape, counts: Option<&'a GroupCounts>) -> Option<Self> {
        Self::is_needed_by(shape).then_some(Self { shape, counts })
    }
}

/// What of a machine is spoken for beyond its room: by earlier claims of the same transaction, or by own ones in flight.
#[derive(Clone, Debug, Default)]
pub struct Spoken<'a> {
    /// Devices, by kind and index; best in the machine's order.
    pub devices: &'a [crate::Device],
    /// Ports, rising; 0 for each dynamic one that the cell is going to choose.
    pub ports: &'a [u16],
    /// Tasks of the group that come and go.
    pub counts: Option<&'a GroupCounts>,
}

/// What stands between a task and a machine. Judged in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// There is none in that slot.
    NoSuchMachine,
    /// It takes no claims.
    NotReady(MachineState),
    /// A declared constraint fails.
    Constraint,
    /// The job's tasks share another machine.
    OtherMachine,
    /// It has as many allocations as a machine can have.
    Full,
    /// Not enough room.
    NoRoom(Shortage),
    /// As many tasks of the group as it wants on one machine.
    PerMachine,
    /// As many tasks of the group on machines with that value as it wants, by the spread rule at this position; or the machine
    /// has no such attribute.
    Spread(u16),
    /// No device for the one at this position in the group's list.
    Device(u16),
    /// The port is in use; 0: there are not as many dynamic ones as it wants.
    Port(u16),
}

impl Requirement<'_> {
    /// What stands in the way of running on the machine in `slot`, when `promised` of its room is spoken for: by earlier claims of
    /// the same transaction, or by a scheduler's own transactions in flight.
    #[must_use]
    #[inline]
    pub fn obstacle(&self, cell: &Cell, slot: u32, promised: &Resources) -> Option<Obstacle> {
        self.obstacle_on(cell, slot, cell.machine_row(slot), promised)
    }

    /// The same, where the machine's row is at hand.
    #[must_use]
    #[inline]
    pub fn obstacle_on(
        &self,
        cell: &Cell,
        slot: u32,
        row: Option<&MachineRow>,
        promised: &Resources,
    ) -> Option<Obstacle> {
        let Some(row) = row else { return Some(Obstacle::NoSuchMachine) };
        if row.state != MachineState::Ready {
            return Some(Obstacle::NotReady(row.state));
        }
        if self.classes.is_some_and(|classes| !classes.contains(row.class)) {
            return Some(Obstacle::Constraint);
        }
        if self.home.is_some_and(|home| home != slot) {
            return Some(Obstacle::OtherMachine);
        }
        if row.allocations == u16::MAX {
            return Some(Obstacle::Full);
        }
        // The hot row alone decides when nothing else is asked for. All sums stay far from overflow: amounts are bounded at the edge.
        let cpu = (self.resources.cpu_millis + promised.cpu_millis).cast_signed();
        let memory = (self.resources.memory_bytes + promised.memory_bytes).cast_signed();
        let fits = cpu <= row.free_cpu_millis.into() && memory <= row.free_memory_bytes;
        if fits && self.resources.is_plain() && !cell.has_holds() {
            return None;
        }
        self.shortage_on(cell, slot, *promised)
    }

    /// Which room is short, of all that there is. By value: what is promised needs no place in memory while the hot row decides.
    #[inline(never)]
    fn shortage_on(&self, cell: &Cell, slot: u32, promised: Resources) -> Option<Obstacle> {
        let mut room = cell.room_for(slot, self.job);
        room.take(&promised);
        room.shortage(self.resources).map(Obstacle::NoRoom)
    }

    /// What else stands in the way, once the machine has room: limits, devices, ports. Nothing for most groups.
    #[must_use]
    pub fn special_obstacle(&self, cell: &Cell, slot: u32, spoken: &Spoken<'_>) -> Option<Obstacle> {
        self.limit_obstacle(cell, slot, spoken).or_else(|| self.device_obstacle(cell, slot, spoken))
    }

    /// Whether limits of the group stand in the way.
    #[must_use]
    pub fn limit_obstacle(&self, cell: &Cell, slot: u32, spoken: &Spoken<'_>) -> Option<Obstacle> {
        let Special { shape, counts } = self.special?;
        let both = || counts.into_iter().chain(spoken.counts);
        if shape.per_machine > 0
            && both().map(|counts| counts.on_machine(slot)).sum::<i64>() >= shape.per_machine.into()
        {
            return Some(Obstacle::PerMachine);
        }
        for (position, rule) in shape.spread.iter().enumerate() {
            let none = GroupCounts::default();
            let beside = |counts: &GroupCounts| counts.beside(cell, shape, slot, position);
            let reached = match beside(counts.unwrap_or(&none)) {
                Some(count) => count + spoken.counts.and_then(beside).unwrap_or(0) >= rule.at_most.into(),
                None => true,
            };
            if reached {
                return Some(Obstacle::Spread(u16::try_from(position).expect("at most 4")));
            }
        }
        None
    }

    /// Whether devices or ports stand in the way.
    #[must_use]
    pub fn device_obstacle(&self, cell: &Cell, slot: u32, spoken: &Spoken<'_>) -> Option<Obstacle> {
        let shape = self.special?.shape;
        let machine = cell.machine_in(slot)?;
        if !shape.devices.is_empty() {
            let mut rooms = device_rooms(cell, machine);
            take_parts(&mut rooms, spoken.devices);
            if let Err(position) = choose_devices(&mut rooms, &shape.devices) {
                return Some(Obstacle::Device(u16::try_from(position).unwrap_or(u16::MAX)));
            }
        }
        let used = cell.in_use(slot);
        let taken =
            |port: u16| used.is_some_and(|used| used.has_port(port)) || spoken.ports.binary_search(&port).is_ok();
        let mut fixed = shape.ports.iter().map(|port| port.number).filter(|&port| port > 0);
        let taken = fixed.find(|&port| taken(port));
        taken.or_else(|| (!has_dynamic_ports(used, spoken.ports, &shape.ports)).then_some(0)).map(Obstacle::Port)
    }
}

/// How far a machine's whole capacity is from what a task needs, for telling people which machine came nearest.
#[must_use]
pub fn shortages(capacity: &Resources, need: &Resources) -> Vec<Shortage> {
    let room = Room::all_of(capacity);
    let short = |&resource: &Resource| {
        let by = need.get(resource).cast_signed().saturating_sub(room.get(resource));
        (by > 0).then(|| Shortage { resource, short_by: by.cast_unsigned() })
    };
    Resource::ALL.iter().filter_map(short).collect()
}

/// How many tasks of a group a machine of this capacity and with these devices has room for when nobody uses it, by their resources, devices and ports. At most: devices
/// are counted, not chosen, which tells them apart only where some suit one entry of the group and not another one. `per_machine` and `spread` are left
/// out. `u64::MAX` for a group that asks for nothing.
#[must_use]
pub fn most_when_empty(capacity: &Resources, devices: &[Device], shape: &GroupShape) -> u64 {
    let times = |&resource: &Resource| capacity.get(resource).checked_div(shape.resources.get(resource));
    let fixed_port = shape.ports.iter().any(|port| port.number > 0).then_some(1);
    let by_devices = shape.devices.iter().flat_map(|want| {
        let there = || devices.iter().filter(|device| device.is_of(want)).map(|device| u64::from(device.millis));
        // Whoever asks for a model takes from what those get who ask for any.
        let beside = shape.devices.iter().filter(|other| other.is_of(want)).map(|other| u64::from(other.millis));
        let by_amount = there().sum::<u64>().checked_div(beside.sum());
        // What is left of a device is of no use to who wants more of one.
        let parts = there().filter_map(|millis| millis.checked_div(want.millis.into())).sum::<u64>();
        let is_alike = |other: &&Device| other.millis == want.millis && other.is_of(want) && want.is_of(other);
        let alike = shape.devices.iter().filter(is_alike).count();
        by_amount.into_iter().chain(parts.checked_div(u64::try_from(alike).unwrap_or(u64::MAX)))
    });
    Resource::ALL.iter().filter_map(times).chain(fixed_port).chain(by_devices).min().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Port;

    // Thousandths were counted together: two GPUs were room for three tasks of 600, and one A100 for a task that asks for it and for another one.
    #[test]
    fn devices_of_an_empty_machine_are_not_shared_by_more_than_fit_on_each() {
        let gpu = |millis, model: &str| Device { kind: "gpu".into(), index: 0, millis, model: model.into() };
        let most = |there: &[Device], asked: &[Device]| {
            let shape =
                GroupShape { resources: Resources::new(1000, 0), devices: asked.to_vec(), ..GroupShape::default() };
            most_when_empty(&Resources::new(8000, 1 << 30), there, &shape)
        };
        let [a100, t4] = ["a100", "t4"].map(|model| gpu(1000, model));
        let two = [a100.clone(), t4.clone()];
        assert_eq!(most(&two, &[]), 8);
        assert_eq!(most(&two, &[gpu(600, "")]), 2);
        assert_eq!(most(&two, &[gpu(600, ""), gpu(600, "")]), 1);
        assert_eq!(most(&two, &[gpu(500, "")]), 4);
        assert_eq!(most(&two, &[gpu(500, "t4")]), 2);
        assert_eq!(most(std::slice::from_ref(&a100), &[a100.clone(), gpu(1000, "")]), 0);
        assert_eq!(most(&two, &[a100, gpu(1000, "")]), 1);
        assert_eq!(most(&[t4], &[gpu(1000, "a100")]), 0);
    }

    #[test]
    fn an_empty_machine_has_each_port_once() {
        let with = |number| {
            let ports = vec![Port { name: "http".into(), number }];
            let shape = GroupShape { resources: Resources::new(1000, 0), ports, ..GroupShape::default() };
            most_when_empty(&Resources::new(8000, 1 << 30), &[], &shape)
        };
        assert_eq!([with(0), with(80)], [8, 1]);
        assert_eq!(most_when_empty(&Resources::default(), &[], &GroupShape::default()), u64::MAX);
    }
}
