//! Room: what is granted is there, and what is reported as used is what is live.

use std::collections::{BTreeMap, BTreeSet};

use plenum_proto::v1;

use super::rules;
use crate::amounts::{Amounts, NAMES};
use crate::chronicle::{Chronicle, Visitor};
use crate::picture::{Allocation, Picture, id_of, slot_of};
use crate::room;
use crate::violation::Violation;

/// Machines and quotas as the cell listed them at a revision.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Which incarnation.
    pub incarnation: u64,
    /// At which revision.
    pub revision: u64,
    /// All of them, or the first ones.
    pub machines: Vec<v1::MachineView>,
    /// There are more.
    pub truncated: bool,
    /// Quotas with what is used of them, as far as they were listed.
    pub quotas: Vec<v1::QuotaView>,
    /// There are more of these.
    pub quotas_truncated: bool,
}

/// No grant makes free room negative, counted as capacity − live + taken over, less what others hold, in any resource, device or port: where it was
/// so before, who is granted takes over all that it needs. And nothing is taken over but from those who leave, not more than they leave, and not more
/// than whoever takes it over needs: what is beyond that would count as free while it is still used.
#[must_use]
pub fn property_no_room_is_overcommitted(chronicle: &Chronicle) -> Vec<Violation> {
    let mut check = Overcommit(Vec::new());
    chronicle.walk(&mut check);
    check.0
}

struct Overcommit(Vec<Violation>);

impl Visitor for Overcommit {
    fn after(&mut self, picture: &Picture, delta: &v1::Delta) {
        let mut asked: BTreeMap<(u32, u64), Amounts> = BTreeMap::new();
        for grants in &delta.grants {
            let amounts = picture.amounts_of(grants.shape);
            let places = grants.machines.iter().map(|&machine| (machine, grants.job));
            places.for_each(|place| asked.entry(place).or_default().add(&amounts));
            for extra in &grants.extras {
                let Some(&machine) = grants.machines.get(extra.claim as usize) else { continue };
                let sum = asked.entry((machine, grants.job)).or_default();
                extra.take_overs.iter().for_each(|entry| sum.take(&Amounts::of_optional(entry.amount.as_ref())));
            }
        }
        for ((machine, job), asked) in asked {
            // Only a machine that shrank, or a task that nobody knows, may have less than nothing; but no claim gets more of it.
            let free = room::free_for(picture, machine, job);
            let negative = NAMES.into_iter().find(|&name| asked.get(name) > 0 && free.get(name) < 0);
            if let Some(resource) = negative {
                let (revision, free) = (delta.revision, free.get(resource));
                self.0.push(Violation::Overcommitted { revision, machine, resource, free });
            }
            self.devices_and_ports(picture, delta.revision, machine);
        }
        for grants in delta.grants.iter().filter(|grants| !grants.extras.is_empty()) {
            let victims: BTreeSet<u64> =
                grants.extras.iter().flat_map(|extra| &extra.take_overs).map(|entry| entry.victim).collect();
            victims.into_iter().for_each(|victim| self.taken_over(picture, delta.revision, victim));
            self.takes_over(picture, delta.revision, grants);
        }
    }
}

impl Overcommit {
    fn devices_and_ports(&mut self, picture: &Picture, revision: u64, machine: u32) {
        let granted = picture.on_machine(machine).filter(|allocation| allocation.created == revision);
        let (mut devices, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for allocation in granted {
            devices.extend(allocation.devices.iter().map(|device| (device.kind.clone(), device.index)));
            ports.extend(allocation.ports.iter().map(|port| port.number));
        }
        let free = if devices.is_empty() { BTreeMap::new() } else { room::free_devices(picture, machine) };
        for (kind, index) in devices {
            let free = free.get(&(kind.clone(), index)).copied().unwrap_or(0);
            if free < 0 {
                self.0.push(Violation::DeviceOvercommitted { revision, machine, kind, index, free });
            }
        }
        let holders = if ports.is_empty() { BTreeMap::new() } else { room::port_holders(picture, machine) };
        for port in ports {
            let holders = holders.get(&port).copied().unwrap_or(0);
            if holders > 1 {
                self.0.push(Violation::PortTwice { revision, machine, port, holders });
            }
        }
    }

    fn takes_over(&mut self, picture: &Picture, revision: u64, grants: &v1::Grants) {
        let granted = picture.amounts_of(grants.shape);
        for extra in &grants.extras {
            let mut taken = Amounts::default();
            extra.take_overs.iter().for_each(|entry| taken.add(&Amounts::of_optional(entry.amount.as_ref())));
            if !taken.fits_in(&granted) {
                let place = extra.claim as usize;
                let id = |slot: &u32| grants.generations.get(place).map_or(0, |&generation| id_of(*slot, generation));
                let allocation = grants.slots.get(place).map_or(0, id);
                self.0.push(Violation::TakesOverTooMuch { revision, allocation, taken, granted });
            }
        }
    }

    fn taken_over(&mut self, picture: &Picture, revision: u64, victim: u64) {
        let leaving = picture.allocation(victim).filter(|found| found.is_leaving());
        let mut leaves = leaving.map(|found| picture.amounts_of(found.shape)).unwrap_or_default();
        // What it waits for itself is not its to give yet.
        let awaited = leaving.into_iter().flat_map(|found| &found.take_overs);
        awaited.for_each(|entry| leaves.take(&Amounts::of_optional(entry.amount.as_ref())));
        let machine = leaving.map(|found| found.machine);
        let mut taken = Amounts::default();
        let mut elsewhere = leaving.is_none();
        for heir in picture.allocations.values() {
            for entry in heir.take_overs.iter().filter(|entry| entry.victim == victim) {
                taken.add(&Amounts::of_optional(entry.amount.as_ref()));
                elsewhere |= Some(heir.machine) != machine;
            }
        }
        if elsewhere || !taken.fits_in(&leaves) {
            self.0.push(Violation::TakenOverTooMuch { revision, victim, taken, leaves });
        }
        if let Some(what) = leaving.and_then(|leaving| other_devices_or_ports(picture, leaving)) {
            self.0.push(Violation::TakenOverOther { revision, victim, what });
        }
    }
}

/// What all heirs of somebody together take over of devices and ports that it has not.
fn other_devices_or_ports(picture: &Picture, victim: &Allocation) -> Option<String> {
    let mut devices: BTreeMap<(&str, u32), i64> = BTreeMap::new();
    for device in &victim.devices {
        *devices.entry((&device.kind, device.index)).or_default() += i64::from(device.millis);
    }
    let mut ports: BTreeSet<u32> = victim.ports.iter().map(|port| port.number).collect();
    for entry in &victim.take_overs {
        for device in &entry.devices {
            *devices.entry((&device.kind, device.index)).or_default() -= i64::from(device.millis);
        }
        ports.retain(|port| !entry.ports.contains(port));
    }
    for entry in picture.on_machine(victim.machine).flat_map(|heir| &heir.take_overs) {
        if entry.victim != victim.id {
            continue;
        }
        for device in &entry.devices {
            let left = devices.entry((&device.kind, device.index)).or_default();
            *left -= i64::from(device.millis);
            if *left < 0 {
                return Some(format!("{} millis of {} {} too much", -*left, device.kind, device.index));
            }
        }
        if let Some(port) = entry.ports.iter().find(|port| !ports.remove(port)) {
            return Some(format!("port {port}, which it has not, or others took over"));
        }
    }
    None
}

/// Used equals the sum over live allocations: in what the cell lists, where no machine and no quota is missing, and in the rows of tasks.
#[must_use]
pub fn property_used_is_the_sum(chronicle: &Chronicle, listings: &[Listing]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for listing in listings.iter().filter(|listing| listing.incarnation == chronicle.incarnation) {
        let Some(picture) = chronicle.picture_at(listing.revision) else { continue };
        for machine in &listing.machines {
            if let Some(what) = wrong_machine(&picture, machine) {
                violations.push(Violation::WrongSum { revision: listing.revision, what });
            }
        }
        for quota in &listing.quotas {
            let used = rules::used_by(&picture, &quota.namespace);
            let listed = Amounts::of_optional(quota.used.as_ref());
            if listed != used {
                let what = format!("namespace {}: {listed} is listed, and {used} is used", quota.namespace);
                violations.push(Violation::WrongSum { revision: listing.revision, what });
            }
            let limit = picture.quotas.get(&quota.namespace).and_then(|row| row.limit.as_ref());
            if quota.limit.as_ref() != limit {
                let listed = &quota.limit;
                let what =
                    format!("namespace {}: {listed:?} is listed as its limit, and {limit:?} is", quota.namespace);
                violations.push(Violation::WrongSum { revision: listing.revision, what });
            }
        }
        let missing =
            picture.quotas.keys().find(|&namespace| listing.quotas.iter().all(|it| it.namespace != *namespace));
        if let Some(namespace) = missing.filter(|_| !listing.quotas_truncated) {
            let what = format!("namespace {namespace} has a quota, and none is listed");
            violations.push(Violation::WrongSum { revision: listing.revision, what });
        }
        let listed: BTreeSet<u64> = listing.machines.iter().map(|machine| machine.id).collect();
        let is_short = !listing.truncated && listed.len() != picture.machines.len();
        if is_short || listed.len() != listing.machines.len() {
            let (named, listed, there) = (listing.machines.len(), listed.len(), picture.machines.len());
            let what = format!("{named} machines are listed, {listed} different ones, and there are {there}");
            violations.push(Violation::WrongSum { revision: listing.revision, what });
        }
    }
    for segment in &chronicle.segments {
        let end = chronicle.picture_at(segment.newest());
        for picture in [Some(segment.start.clone()), end].into_iter().flatten() {
            let what = wrong_task(&picture);
            violations.extend(what.map(|what| Violation::WrongSum { revision: picture.revision, what }));
        }
    }
    violations
}

fn wrong_machine(picture: &Picture, view: &v1::MachineView) -> Option<String> {
    let slot = slot_of(view.id);
    let name = &view.name;
    let Some(machine) = picture.machines.get(&slot).filter(|machine| machine.id == view.id) else {
        return Some(format!("machine {name} is listed, and is not there"));
    };
    let capacity = Amounts::of_optional(machine.capacity.as_ref());
    let mut used = capacity;
    used.take(&room::free(picture, slot));
    let listed = Amounts::of_optional(view.allocated.as_ref());
    let count = picture.on_machine(slot).count();
    if listed != used || view.allocations as usize != count {
        let (of, found) = (view.allocations, count);
        return Some(format!("machine {name}: {listed} by {of} allocations is listed, and {used} by {found} is used"));
    }
    if let Some(what) = wrong_devices(picture, machine, view) {
        return Some(format!("machine {name}: {what}"));
    }
    let listed = Amounts::of_optional(view.capacity.as_ref());
    (listed != capacity).then(|| format!("machine {name}: capacity {listed} is listed, and {capacity} is there"))
}

/// What is used of a machine's devices is told in their order, of each of them. Cells that do not tell are older than this checker.
fn wrong_devices(picture: &Picture, machine: &v1::MachineChange, view: &v1::MachineView) -> Option<String> {
    let free = room::free_devices(picture, slot_of(machine.id));
    let used = machine.devices.iter().map(|device| {
        let free = free.get(&(device.kind.clone(), device.index)).copied().unwrap_or(0);
        i64::from(device.millis) - free
    });
    let used: Vec<i64> = used.collect();
    let listed = &view.devices_used_millis;
    (*listed != used).then(|| format!("{listed:?} millis of its devices are listed, and {used:?} are used"))
}

/// Every task that is live names the allocation that names it, and no other one does; and it is on a machine.
fn wrong_task(picture: &Picture) -> Option<String> {
    let homeless = picture.allocations.values().find(|found| !picture.machines.contains_key(&found.machine));
    if let Some(found) = homeless {
        return Some(format!("{:#x} is there on machine slot {}, where no machine is", found.id, found.machine));
    }
    let mut named = BTreeSet::new();
    for allocation in picture.allocations.values().filter(|allocation| !allocation.is_leaving()) {
        let slot = slot_of(allocation.id);
        let task = picture.task(allocation.group_row, allocation.task);
        if task.allocation != slot + 1 {
            return Some(format!(
                "task {} of group row {} names another allocation than {:#x}",
                allocation.task, allocation.group_row, allocation.id
            ));
        }
        named.insert(slot + 1);
    }
    let idle = picture.tasks.iter().find(|(_, task)| task.allocation > 0 && !named.contains(&task.allocation));
    idle.map(|(row, task)| format!("task row {row} names slot {}, which is not its own", task.allocation - 1))
}
