//! What jobs ask of the outfit of a run: disk, named resources, devices of a model, and of any beside them. Of planned jobs those that fit are known, and
//! must complete as others do; what they ask for that no machine has, keeps them from running. And limits and holds of the same.

use plenum_model::{Cell, Command, Quota, Resources};
use plenum_proto::v1;

use super::governs::holds_a_little;
use super::{NAMESPACES, Owner};
use crate::outfit::{DISK_BYTES, MODELS, Outfit, SEATS};
use crate::random::Random;

/// Most that a planned task asks for: what every other machine has, twice.
const DISK_BYTES_EACH: u64 = DISK_BYTES / 2;
const SEATS_EACH: u64 = SEATS / 2;
/// How often a job asks for what no machine has, in thousandths.
const OF_NONE_THOUSANDTHS: u64 = 60;

/// Of what a task wants devices: a model or any, and thousandths. Each fits on a machine that has a whole one of both models.
const DEVICES: [&[(&str, i32)]; 7] = [
    &[(MODELS[0], 1000)],
    &[(MODELS[1], 400)],
    // Twice of one device.
    &[(MODELS[0], 500), (MODELS[0], 500)],
    // Who may have any chooses last.
    &[("", 1000), (MODELS[0], 1000)],
    &[("", 600), (MODELS[1], 700)],
    &[("", 300), ("", 700), (MODELS[0], 300)],
    &[("", 400)],
];
/// The same, of which nothing is promised.
const DEVICES_ANYHOW: [&[(&str, i32)]; 4] = [
    &[(MODELS[0], 1000), (MODELS[0], 1000)],
    &[("", 1000), ("", 1000), (MODELS[1], 500)],
    &[("unknown", 1)],
    &[(MODELS[1], 1), ("", 999)],
];

fn devices(of: &[(&str, i32)]) -> Vec<v1::Device> {
    let device = |&(model, millis): &(&str, i32)| {
        let (kind, model) = ("gpu".to_owned(), model.to_owned());
        v1::Device { kind, index: 0, millis, model }
    };
    of.iter().map(device).collect()
}

/// Has a group ask for more of what there is in this run.
fn dress(random: &mut Random, outfit: &Outfit, group: &mut v1::GroupShape, (disk_bytes, seats): (u64, u64)) {
    if let Some(resources) = &mut group.resources {
        if outfit.has_disks && random.chance(400) {
            resources.disk_bytes = (1 + random.below(disk_bytes)).cast_signed();
        }
        if outfit.has_seats && random.chance(400) {
            resources.custom = vec![(1 + random.below(seats)).cast_signed()];
        }
    }
    if outfit.has_models && random.chance(400) {
        group.devices = devices(DEVICES[random.index(DEVICES.len())]);
    }
}

/// Has a group ask for the second named resource, of which no machine has any.
fn asks_for_none(group: &mut v1::GroupShape) {
    if let Some(resources) = &mut group.resources {
        resources.custom.resize(1, 0);
        resources.custom.push(1);
    }
}

/// Whether a group can be given what every other machine has, wherever its rules let it be: not in the rack of the others, nor all at once.
fn may_ask(group: &v1::GroupShape) -> bool {
    let in_other_rack = group.constraints.iter().any(|rule| rule.values.iter().any(|value| value == "r1"));
    group.min == 0 && !in_other_rack
}

/// Has a job of which nothing is promised ask for anything.
pub(super) fn dress_anyhow(random: &mut Random, outfit: &Outfit, spec: &mut v1::JobSpec) {
    for group in spec.shape.iter_mut().flat_map(|shape| &mut shape.groups) {
        dress(random, outfit, group, (DISK_BYTES, 2 * SEATS));
        if outfit.has_models && random.chance(150) {
            group.devices = devices(DEVICES_ANYHOW[random.index(DEVICES_ANYHOW.len())]);
        }
    }
}

impl Owner {
    /// Has the job that was thought up last ask for more. Not one that runs for ever, as it would keep that from others; nor one whose tasks share a
    /// machine, which may be one that has none of it by the time they ask.
    pub(super) fn dresses(&mut self, outfit: &Outfit, spec: &mut v1::JobSpec) {
        let (Some(random), Some(plan)) = (self.of_outfit.as_mut(), self.plans.last_mut()) else { return };
        let Some(shape) = spec.shape.as_mut().filter(|shape| plan.fits && !shape.same_machine) else { return };
        if shape.kind != i32::from(v1::JobKind::ToCompletion) {
            return;
        }
        for group in shape.groups.iter_mut().filter(|group| may_ask(group)) {
            dress(random, outfit, group, (DISK_BYTES_EACH, SEATS_EACH));
        }
        if outfit.has_seats && random.chance(OF_NONE_THOUSANDTHS) {
            shape.groups.first_mut().into_iter().for_each(asks_for_none);
            (plan.fits, plan.completes) = (false, false);
        }
    }

    /// What is asked for beside the other second thoughts: limits of disk and of named resources, and that they are held.
    pub(super) fn keeps_more(&mut self, outfit: &Outfit, cell: &Cell) -> [Option<Command>; 2] {
        let Some(random) = self.of_outfit.as_mut().filter(|_| outfit.has_disks || outfit.has_seats) else {
            return [None, None];
        };
        let held = holds_a_little(cell, random, disk_or_seats);
        let (which, lays_down) = (random.index(NAMESPACES.len()), random.chance(600));
        let (disk_bytes, seats) = (random.below(2 * DISK_BYTES), random.below(2 * SEATS));
        let mut quota = Quota::default();
        (quota.limits[2], quota.limits[3]) = (Some(disk_bytes), Some(seats));
        let of_both = random.index(3);
        if of_both < 2 {
            quota.limits[2 + of_both] = None;
        }
        let limit = lays_down.then_some(quota);
        let limits = random.chance(400).then(|| Command::SetQuota { namespace: NAMESPACES[which].into(), limit });
        [held, limits]
    }
}

/// Disk or seats, and little else.
fn disk_or_seats(random: &mut Random) -> Resources {
    let mut resources = Resources::new(1 + random.below(200), 0);
    if random.chance(600) {
        resources.disk_bytes = random.below(DISK_BYTES);
    }
    if random.chance(600) {
        resources.custom[random.index(2)] = random.below(SEATS);
    }
    resources
}

#[cfg(test)]
mod tests {
    use plenum_model::{Device, DeviceRoom, choose_devices};

    use super::*;

    #[test]
    fn what_planned_tasks_ask_for_fits_on_a_machine_with_a_device_of_each_model() {
        let mut models = MODELS;
        for _ in 0..2 {
            models.reverse();
            for asked in DEVICES {
                let device =
                    |index, millis, model: &str| Device { kind: "gpu".into(), index, millis, model: model.into() };
                let all = (0..).zip(models).map(|(index, model)| DeviceRoom::all_of(&device(index, 1000, model)));
                let mut rooms: Vec<DeviceRoom> = all.collect();
                let wanted = devices(asked).into_iter().map(|wire| device(0, wire.millis.unsigned_abs(), &wire.model));
                let wanted: Vec<Device> = wanted.collect();
                assert!(choose_devices(&mut rooms, &wanted).is_ok(), "{asked:?} of {models:?}");
            }
        }
    }
}
