//! What always holds of what few allocations have: devices, ports, room that was taken over, declared limits, single instances, victims.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{
    AllocationId, AllocationRef, AllocationState, Cell, Delta, Device, Grants, GroupCounts, Resources, Revision,
    TakeOver, device_rooms,
};

use super::Violation;

fn broken(revision: Revision, found: &AllocationRef<'_>, rule: &'static str) -> Violation {
    Violation::Special { revision, machine: found.row.machine, allocation: found.id, rule }
}

/// Each entry of `takes_over` names an allocation that is leaving on the same machine, and all that name it take no more than
/// it has.
///
/// # Errors
/// The first allocation whose entries do not.
pub fn invariant_room_is_taken_over_from_those_who_leave(cell: &Cell) -> Result<(), Violation> {
    let revision = cell.revision();
    let mut taken: BTreeMap<AllocationId, Vec<&TakeOver>> = BTreeMap::new();
    for (slot, extra) in cell.extras() {
        let Some(successor) = cell.allocation_in(slot) else { continue };
        for entry in &extra.takes_over {
            let victim = cell.allocation(entry.victim);
            let leaves = victim
                .is_some_and(|victim| victim.status.state.is_leaving() && victim.row.machine == successor.row.machine);
            if !leaves {
                return Err(broken(revision, &successor, "takes over from one that is not leaving there"));
            }
            taken.entry(entry.victim).or_default().push(entry);
        }
    }
    for (victim, entries) in taken {
        let Some(found) = cell.allocation(victim) else { continue };
        // What it waits for itself is not its to give yet.
        let own = found.extra.into_iter().flat_map(|extra| &extra.takes_over);
        let amount = |entries: &mut dyn Iterator<Item = &TakeOver>| {
            entries.fold(Resources::default(), |sum, entry| sum.with(&entry.amount))
        };
        let has = cell.resources_of(found.row).without(&amount(&mut own.clone()));
        if !amount(&mut entries.iter().copied()).fits_in(&has) {
            return Err(broken(revision, &found, "more room is taken over from it than it has"));
        }
        let devices = found.extra.map(|extra| extra.devices.as_slice()).unwrap_or_default();
        // Those that are named, and not those that it has: one that it has nothing of would count as free once more.
        for device in entries.iter().flat_map(|entry| &entry.devices) {
            // It may have one device twice.
            let sum = |devices: &mut dyn Iterator<Item = &Device>| {
                devices.filter(|one| same(one, device)).map(|one| u64::from(one.millis)).sum::<u64>()
            };
            let given = sum(&mut entries.iter().flat_map(|entry| &entry.devices));
            let waits_for = sum(&mut own.clone().flat_map(|entry| &entry.devices));
            if given > sum(&mut devices.iter()).saturating_sub(waits_for) {
                return Err(broken(revision, &found, "more of a device is taken over from it than it has"));
            }
        }
    }
    Ok(())
}

fn same(left: &Device, right: &Device) -> bool {
    left.kind == right.kind && left.index == right.index
}

/// Two allocations of a machine have the same port only where one took it over from the other, which is leaving.
///
/// # Errors
/// The first allocation whose port somebody else has.
pub fn invariant_ports_are_held_once(cell: &Cell) -> Result<(), Violation> {
    let mut holders: BTreeMap<(u32, u16), Vec<AllocationRef<'_>>> = BTreeMap::new();
    for (slot, extra) in cell.extras() {
        let Some(found) = cell.allocation_in(slot) else { continue };
        for port in &extra.ports {
            holders.entry((found.row.machine, port.number)).or_default().push(found);
        }
    }
    for ((_, port), holders) in holders {
        let handed = |found: &&AllocationRef<'_>| {
            holders
                .iter()
                .filter_map(|other| other.extra)
                .flat_map(|extra| &extra.takes_over)
                .any(|entry| entry.victim == found.id && entry.ports.contains(&port))
        };
        let first_hand: Vec<_> = holders.iter().filter(|found| !handed(found)).collect();
        if let [_, second, ..] = first_hand[..] {
            return Err(broken(cell.revision(), second, "has a port that somebody else has"));
        }
    }
    Ok(())
}

/// No grant takes more of a device than was free.
///
/// # Errors
/// The first grant that does.
pub fn invariant_granted_devices_were_free(after: &Cell, delta: &Delta) -> Result<(), Violation> {
    for grants in &delta.grants {
        for extra in grants.extras.iter().filter(|extra| !extra.devices.is_empty()) {
            let place = extra.claim as usize;
            let found = grants.slots.get(place).and_then(|&slot| after.allocation_in(slot));
            let machine = grants.machines.get(place).and_then(|&machine| after.machine_in(machine));
            let (Some(found), Some(machine)) = (found, machine) else { continue };
            for device in &extra.devices {
                let room = device_rooms(after, machine)
                    .into_iter()
                    .find(|room| room.kind == device.kind && room.index == device.index);
                if room.is_none_or(|room| room.free_millis < 0) {
                    return Err(broken(delta.revision, &found, "got more of a device than was free"));
                }
            }
        }
    }
    Ok(())
}

/// No grant takes a port that an unknown task has. One that an agent tells of later may have it all the same.
///
/// # Errors
/// The first grant that does.
pub fn invariant_no_unknown_task_has_a_granted_port(after: &Cell, delta: &Delta) -> Result<(), Violation> {
    for grants in &delta.grants {
        for extra in grants.extras.iter().filter(|extra| !extra.ports.is_empty()) {
            let slot = grants.slots.get(extra.claim as usize);
            let Some(found) = slot.and_then(|&slot| after.allocation_in(slot)) else { continue };
            let unknown = after.unknown_on(found.row.machine);
            let taken: BTreeSet<u16> =
                unknown.flat_map(|(_, task)| task.traces.ports.iter().map(|port| port.number)).collect();
            if extra.ports.iter().any(|port| taken.contains(&port.number)) {
                return Err(broken(delta.revision, &found, "got a port that an unknown task has"));
            }
        }
    }
    Ok(())
}

/// Limits of machines and of spread, as the group declares them, hold for each machine that a grant went to.
///
/// # Errors
/// The first grant beyond a limit.
pub fn invariant_declared_limits_hold(after: &Cell, delta: &Delta) -> Result<(), Violation> {
    for grants in &delta.grants {
        let Some(job) = after.job(grants.job) else { continue };
        let Some(shape) = job.shape.groups.get(usize::from(grants.group)) else { continue };
        if !GroupCounts::are_needed_by(shape) {
            continue;
        }
        let counts = GroupCounts::of(after, job, grants.group);
        for (&machine, &slot) in grants.machines.iter().zip(&grants.slots) {
            let Some(found) = after.allocation_in(slot) else { continue };
            if shape.per_machine > 0 && counts.on_machine(machine) > shape.per_machine.into() {
                return Err(broken(delta.revision, &found, "is one more on its machine than its group wants"));
            }
            for (position, rule) in shape.spread.iter().enumerate() {
                let beside = counts.beside(after, shape, machine, position);
                if beside.is_none_or(|beside| beside > rule.at_most.into()) {
                    return Err(broken(delta.revision, &found, "is one more with that value than its group wants"));
                }
            }
        }
    }
    Ok(())
}

/// A task of a group with single instances is granted only when no allocation of it is left: what leaves may still run. Nor is it while an unknown task
/// runs that is the same by its names; one that an agent tells of later may be all the same.
///
/// # Errors
/// The first allocation that leaves, and whose task was granted again, or the first that was granted beside an unknown task.
pub fn invariant_single_instances_wait_for_their_predecessors(after: &Cell, delta: &Delta) -> Result<(), Violation> {
    for grants in &delta.grants {
        let shape = after.job(grants.job).and_then(|job| job.shape.groups.get(usize::from(grants.group)));
        if shape.is_none_or(|shape| !shape.single_instance) {
            continue;
        }
        let tasks: BTreeSet<u32> = grants.tasks.iter().copied().collect();
        let is_of = |found: &AllocationRef<'_>| {
            (found.row.job(), found.row.group) == (grants.job, grants.group) && tasks.contains(&found.row.task)
        };
        let mut leaving = after.allocations().filter(|found| found.status.state.is_leaving());
        if let Some(found) = leaving.find(is_of) {
            return Err(broken(delta.revision, &found, "still leaves, and its task was granted again"));
        }
        let Some(group) = after.groups().get(grants.group_row) else { continue };
        let mut granted = grants.tasks.iter().zip(&grants.slots);
        let beside = granted.find(|(task, _)| after.unknown_predecessor(group, **task).is_some());
        if let Some(found) = beside.and_then(|(_, &slot)| after.allocation_in(slot)) {
            return Err(broken(delta.revision, &found, "was granted while the same task runs unknown to the cell"));
        }
    }
    Ok(())
}

/// Who is evicted makes room for somebody of a strictly higher band, who was granted with the same command.
///
/// # Errors
/// The first victim that does not.
pub fn invariant_victims_make_room_for_their_betters(
    before: &Cell,
    after: &Cell,
    delta: &Delta,
) -> Result<(), Violation> {
    for change in delta.moves.iter().filter(|change| change.status.state == AllocationState::Evicting) {
        // Of one that leaves already, only its restarts are told.
        let victim = before.allocation_in(change.slot).filter(|found| found.status.state != AllocationState::Evicting);
        let Some(victim) = victim else { continue };
        let band = |id| before.job(id).map_or(0, |job| job.shape.priority / 10);
        let successors = delta.grants.iter().filter(|grants| {
            grants.extras.iter().flat_map(|extra| &extra.takes_over).any(|entry| entry.victim == victim.id)
        });
        let mut bands = successors.clone().map(|grants| band(grants.job)).peekable();
        if bands.peek().is_none() {
            return Err(broken(delta.revision, &victim, "is evicted for nobody"));
        }
        let evicts = |grants: &&Grants| {
            let job = before.job(grants.job);
            job.is_none_or(|job| before.rights_of(&job.shape.scheduler).evicts)
        };
        if !successors.clone().any(|grants| evicts(&grants)) {
            return Err(broken(delta.revision, &victim, "is evicted by a scheduler that may not evict"));
        }
        if bands.all(|successor| successor <= band(victim.row.job())) {
            return Err(broken(delta.revision, &victim, "is evicted for one that is not of a higher band"));
        }
        if victim.extra.is_some_and(|extra| !extra.takes_over.is_empty()) {
            return Err(broken(after.revision(), &victim, "is evicted while it waits for a victim itself"));
        }
    }
    Ok(())
}
