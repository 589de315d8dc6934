//! What a job asks for that could have room which jobs of lower bands hold.

use std::collections::BTreeMap;

use plenum_model::{Cell, Resources, Room};

use super::aim::{Aim, Rooms};
use super::contenders::Search;
use super::held::Need;
use super::wish::{Wish, wish};

/// Machines that a job can have once holds of lower bands lose them: all of a gang, some for other tasks. `None` where what it needs is free beside these, as it claims
/// that by itself, or where these have too little.
pub(super) fn displacing(search: &mut Search<'_>, aim: &Aim, slots: &[u32], need: Need) -> Option<Wish> {
    let rooms = search.rooms;
    let machines = aim.choose(rooms, &[], slots, |slot| search.leaves(slot));
    let displaces = machines.iter().any(|slot| !rooms.may_claim(*slot, &aim.each));
    let is_enough = machines.len() >= if need.is_gang { aim.machines } else { 1 };
    (displaces && is_enough).then(|| wish(rooms.job, None, machines, aim.each))
}

/// The same with what tasks of lower bands have there, which go when the job claims it: held is what lower bands hold of the rest. As a hold has the same amount on all
/// its machines, it is of those alone that have as much of it. `None` where evictions do without it. Walks over all allocations.
pub(super) fn beside_victims(rooms: &Rooms<'_>, aim: &Aim, band: u8, need: Need) -> Option<Wish> {
    let cell = rooms.cell;
    let suited = (0..cell.machine_rows().len()).filter(|&slot| aim.suits(cell, slot));
    let of_interest = suited.filter(|&slot| need.is_gang || rooms.is_held(slot));
    let victims = victims(cell, band, of_interest);
    let has_it = |mut room: Room, victims: &Resources| {
        room.add(victims);
        room.shortage(&aim.each).is_none()
    };
    let usable = victims.iter().filter(|(slot, victims)| has_it(rooms.room_to_hold(**slot), victims));
    let (by_evictions, kept_out): (Vec<_>, Vec<_>) =
        usable.partition(|(slot, victims)| has_it(rooms.room_to_claim(**slot), victims));
    let mut alike: Vec<(Resources, Vec<u32>)> = Vec::new();
    for (&slot, _) in kept_out {
        let part = rooms.room_to_hold(slot).positive().at_most(&aim.each);
        match alike.iter_mut().find(|(other, _)| *other == part) {
            Some((_, slots)) => slots.push(slot),
            None => alike.push((part, vec![slot])),
        }
    }
    // What is overcommitted may have nothing to hold.
    let alike = alike.into_iter().filter(|(part, _)| !part.is_nothing());
    let (part, slots) = alike.max_by_key(|(_, slots)| slots.len())?;
    let machines = aim.together(cell, &slots);
    let is_enough = if need.is_gang {
        machines.len() + by_evictions.len() >= aim.machines
    } else {
        by_evictions.is_empty() && !machines.is_empty()
    };
    is_enough.then(|| wish(rooms.job, None, machines, part))
}

/// By machine, what tasks on it have that a job of this band may evict.
fn victims(cell: &Cell, band: u8, machines: impl Iterator<Item = u32>) -> BTreeMap<u32, Resources> {
    let mut victims: BTreeMap<u32, Resources> = machines.map(|slot| (slot, Resources::default())).collect();
    for found in cell.allocations().filter(|found| found.status.state.is_active()) {
        let Some(sum) = victims.get_mut(&found.row.machine) else { continue };
        let is_lower = cell.job(found.row.job()).is_some_and(|job| job.shape.priority / 10 < band);
        let waits = found.extra.is_some_and(|extra| !extra.takes_over.is_empty());
        if is_lower && !waits {
            *sum = sum.with(&cell.resources_of(found.row));
        }
    }
    victims
}
