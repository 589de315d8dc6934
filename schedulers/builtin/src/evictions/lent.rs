//! Devices and ports of a machine, with those of tasks that leave it.

use std::collections::BTreeSet;
use std::ops::Range;

use plenum_model::{
    AllocationId, Cell, Device, DeviceRoom, GroupShape, Port, TakeOver, choose_lent, device_rooms, is_enough_lent,
    take_parts,
};
use plenum_sdk::Specials;

/// The devices of a machine for tasks of a group, and who lends some of theirs, in the order in which they are asked.
pub(super) struct Lent<'a> {
    cell: &'a Cell,
    wanted: &'a [Device],
    machine: u32,
    free: Vec<DeviceRoom>,
    lenders: Vec<AllocationId>,
    /// Those of them who stay where they lend nothing: the others leave, whoever is chosen.
    stay: Range<usize>,
}

impl<'a> Lent<'a> {
    /// The victims come last: of those that are named the cell asks first who leaves by then, whoever is chosen.
    pub(super) fn new(
        (cell, specials): (&'a Cell, &Specials),
        shape: &'a GroupShape,
        machine: u32,
        (before, victims, behind): (
            impl Iterator<Item = &'a AllocationId>,
            &[AllocationId],
            impl Iterator<Item = &'a AllocationId>,
        ),
    ) -> Self {
        let (mut free, mut lenders, mut stay) = (Vec::new(), Vec::new(), 0..0);
        if let Some(found) = cell.machine_in(machine).filter(|_| !shape.devices.is_empty()) {
            free = device_rooms(cell, found);
            // As the cell judges: of a device that has less than it lent, nothing is given.
            free.retain(|room| room.free_millis >= 0);
            take_parts(&mut free, specials.devices(machine));
            lenders.extend(before.chain(behind));
            stay = lenders.len()..lenders.len() + victims.len();
            lenders.extend_from_slice(victims);
        }
        Self { cell, wanted: &shape.devices, machine, free, lenders, stay }
    }

    /// Whether there is enough.
    pub(super) fn is_enough(&self) -> bool {
        self.wanted.is_empty() || is_enough_lent(&self.free, self.wanted, |lender, rooms| self.lend(lender, rooms))
    }

    /// What the cell chooses, of as few of those who lend as it takes; `None`: too few.
    pub(super) fn choose(&self) -> Option<Vec<Device>> {
        let lend = |lender, rooms: &mut [DeviceRoom]| self.lend(lender, rooms);
        choose_lent(&self.free, self.wanted, lend, |lender| self.stay.contains(&lender)).ok().map(|(chosen, _)| chosen)
    }

    fn lend(&self, lender: usize, rooms: &mut [DeviceRoom]) -> bool {
        let Some(&id) = self.lenders.get(lender) else { return false };
        let devices =
            self.cell.allocation(id).and_then(|found| found.extra).into_iter().flat_map(|extra| &extra.devices);
        let parts = devices.map(|device| (device, 1));
        let taken = taken_over(self.cell, self.machine, id).flat_map(|entry| &entry.devices).map(|device| (device, -1));
        for (device, times) in parts.chain(taken) {
            let room = rooms.iter_mut().find(|room| room.is(device));
            room.into_iter().for_each(|room| room.free_millis += times * i64::from(device.millis));
        }
        true
    }
}

/// Whether a task of the group gets its ports on a machine once these have left. `taken`: ports of those who leave that others get, by machine.
pub(super) fn has_ports<'a>(
    (cell, specials): (&Cell, &Specials),
    shape: &GroupShape,
    machine: u32,
    leaving: impl Iterator<Item = &'a AllocationId> + Clone,
    taken: &BTreeSet<(u32, u16)>,
) -> bool {
    let users = |port: &Port| cell.in_use(machine).map_or(0, |used| used.users_of(port.number));
    let (used, free): (Vec<&Port>, Vec<&Port>) =
        shape.ports.iter().partition(|port| port.number > 0 && users(port) > 0);
    let comes_free = |port: &&Port| {
        let has = |id: &AllocationId| {
            let extra = cell.allocation(*id).and_then(|found| found.extra);
            extra.is_some_and(|extra| extra.ports.iter().any(|held| held.number == port.number))
        };
        // As the cell judges: besides who leaves, a successor may have it, or a task that the cell does not know.
        users(port) == 1 && !taken.contains(&(machine, port.number)) && leaving.clone().any(has)
    };
    let free: Vec<Port> = free.into_iter().cloned().collect();
    used.iter().all(comes_free) && (free.is_empty() || specials.has_ports(cell, machine, &free))
}

/// What others took over from one who leaves.
fn taken_over(cell: &Cell, machine: u32, victim: AllocationId) -> impl Iterator<Item = &TakeOver> {
    let heirs = cell.in_use(machine).into_iter().flat_map(|used| &used.heirs);
    let entries = heirs.filter_map(|&slot| cell.extra(slot)).flat_map(|extra| &extra.takes_over);
    entries.filter(move |entry| entry.victim == victim)
}
