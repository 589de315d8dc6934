//! Devices and ports of a machine, with those of tasks that leave it.

use std::collections::BTreeSet;

use plenum_model::{AllocationId, Cell, Device, DeviceChoice, GroupShape, Port, TakeOver, device_rooms, take_parts};
use plenum_sdk::Specials;

/// The devices that the cell chooses for a task of the group on a machine once these have left, of as few of whom as it takes; `None`: too few.
pub(super) fn devices<'a>(
    (cell, specials): (&Cell, &Specials),
    shape: &GroupShape,
    machine: u32,
    mut leaving: impl Iterator<Item = &'a AllocationId>,
) -> Option<Vec<Device>> {
    if shape.devices.is_empty() {
        return Some(Vec::new());
    }
    let mut rooms = device_rooms(cell, cell.machine_in(machine)?);
    // As the cell judges: of a device that has less than it lent, nothing is given.
    rooms.retain(|room| room.free_millis >= 0);
    take_parts(&mut rooms, specials.devices(machine));
    let mut choice = DeviceChoice::new(rooms, &shape.devices);
    loop {
        if let Some(chosen) = choice.choose_again() {
            return Some(chosen);
        }
        let Some(&id) = leaving.next() else { return choice.choose().ok() };
        let Some(extra) = cell.allocation(id).and_then(|found| found.extra) else { continue };
        let parts = extra.devices.iter().map(|device| (device, 1));
        let taken = taken_over(cell, machine, id).flat_map(|entry| &entry.devices).map(|device| (device, -1));
        for (device, times) in parts.chain(taken) {
            let room = choice.rooms().iter_mut().find(|room| room.is(device));
            room.into_iter().for_each(|room| room.free_millis += times * i64::from(device.millis));
        }
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
