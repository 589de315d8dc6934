//! What is free on a machine: its capacity, less what is live there and what nobody knows, plus what was taken over from those who leave.

use std::collections::BTreeMap;

use plenum_proto::v1;

use crate::amounts::Amounts;
use crate::picture::{Picture, slot_of};

/// What is free on a machine, in every resource. Of a machine that is not there, less than nothing.
#[must_use]
pub fn free(picture: &Picture, slot: u32) -> Amounts {
    let mut free = Amounts::of_optional(picture.machines.get(&slot).and_then(|machine| machine.capacity.as_ref()));
    for allocation in picture.on_machine(slot) {
        free.take(&picture.amounts_of(allocation.shape));
        for entry in &allocation.take_overs {
            free.add(&Amounts::of_optional(entry.amount.as_ref()));
        }
    }
    for task in unknown(picture, slot) {
        free.take(&Amounts::of_optional(task.resources.as_ref()));
    }
    free
}

/// What is free for the tasks of a job: what others hold is taken room.
#[must_use]
pub fn free_for(picture: &Picture, slot: u32, job: u64) -> Amounts {
    let mut free = free(picture, slot);
    for hold in picture.holds.values().filter(|hold| hold.job != job && hold.machines.contains(&slot)) {
        free.take(&Amounts::of_optional(hold.resources.as_ref()));
    }
    free
}

/// Thousandths of each device of a machine that are free, by kind and index; counted as room is.
#[must_use]
pub fn free_devices(picture: &Picture, slot: u32) -> BTreeMap<(String, u32), i64> {
    let mut free = BTreeMap::new();
    let mut add = |device: &v1::Device, sign: i64| {
        *free.entry((device.kind.clone(), device.index)).or_insert(0) += sign * i64::from(device.millis);
    };
    picture.machines.get(&slot).iter().flat_map(|machine| &machine.devices).for_each(|device| add(device, 1));
    for allocation in picture.on_machine(slot) {
        allocation.devices.iter().for_each(|device| add(device, -1));
        allocation.take_overs.iter().flat_map(|entry| &entry.devices).for_each(|device| add(device, 1));
    }
    for task in unknown(picture, slot) {
        task.devices.iter().for_each(|device| add(device, -1));
    }
    free
}

/// How many hold each port of a machine, less those who took it over.
#[must_use]
pub fn port_holders(picture: &Picture, slot: u32) -> BTreeMap<u32, i64> {
    let mut holders = BTreeMap::new();
    for allocation in picture.on_machine(slot) {
        allocation.ports.iter().for_each(|port| *holders.entry(port.number).or_insert(0) += 1);
        allocation
            .take_overs
            .iter()
            .flat_map(|entry| &entry.ports)
            .for_each(|port| *holders.entry(*port).or_insert(0) -= 1);
    }
    for task in unknown(picture, slot) {
        task.ports.iter().for_each(|port| *holders.entry(port.number).or_insert(0) += 1);
    }
    holders
}

/// Tasks on a machine that nobody knows.
fn unknown(picture: &Picture, slot: u32) -> impl Iterator<Item = &v1::TaskTraces> {
    let here = picture.unknown_tasks.values().filter(move |row| slot_of(row.machine) == slot);
    here.filter_map(|row| row.task.as_ref())
}
