//! What a job asks for that could have room which jobs of lower bands hold.

use std::cell::{Cell as Flag, OnceCell};
use std::collections::BTreeMap;

use plenum_model::{Cell, Resources, Room};

use super::Sight;
use super::aim::{Aim, Rooms};
use super::contenders::Search;
use super::need::Need;
use super::wish::{Wish, wish};

/// By slot, what tasks there have by the band of their jobs, but for those that wait for others to leave.
#[derive(Debug)]
struct Victims(Vec<Vec<(u8, Resources)>>);

/// What evictions could free: for all jobs that are looked at in one go, and no more often than once a second, as it takes a walk over all allocations.
#[derive(Debug)]
pub(super) struct Evictable<'a> {
    cell: &'a Cell,
    /// The scheduler evicts, and may.
    is_allowed: bool,
    is_due: bool,
    victims: OnceCell<Victims>,
    /// Somebody asked before it was due.
    is_put_off: Flag<bool>,
}

impl<'a> Evictable<'a> {
    /// Not looked at before it is due.
    pub(super) const fn of(sight: &Sight<'a>, due_micros: i64) -> Self {
        Self {
            cell: sight.cell,
            is_allowed: sight.evicts,
            is_due: due_micros <= sight.now_micros,
            victims: OnceCell::new(),
            is_put_off: Flag::new(false),
        }
    }

    pub(super) fn were_looked_at(&self) -> bool {
        self.victims.get().is_some()
    }

    pub(super) const fn are_put_off(&self) -> bool {
        self.is_put_off.get()
    }

    /// Whether there is something to find out: somebody may be evicted, and of machines that suit some are held by those that the job comes before.
    pub(super) fn are_evicted_beside(&self, rooms: &Rooms<'_>, aim: &Aim) -> bool {
        let comes_before = |slot: u32| rooms.room_to_hold(slot) != rooms.room_to_claim(slot);
        let is_held = |slot: u32| rooms.is_held(slot) && comes_before(slot) && aim.suits(self.cell, slot);
        self.is_allowed && self.cell.has_holds() && (0..self.cell.machine_rows().len()).any(is_held)
    }

    fn victims(&self) -> Option<&Victims> {
        if !self.is_due {
            self.is_put_off.set(true);
            return None;
        }
        Some(self.victims.get_or_init(|| Victims::of(self.cell)))
    }
}

impl Victims {
    fn of(cell: &Cell) -> Self {
        let machines = usize::try_from(cell.machine_rows().len()).unwrap_or(usize::MAX);
        let mut victims: Vec<Vec<(u8, Resources)>> = vec![Vec::new(); machines];
        for found in cell.allocations().filter(|found| found.status.state.is_active()) {
            let waits = found.extra.is_some_and(|extra| !extra.takes_over.is_empty());
            let job = cell.job(found.row.job()).filter(|_| !waits);
            let (Some(job), Some(bands)) = (job, victims.get_mut(found.row.machine as usize)) else { continue };
            let (band, resources) = (job.shape.priority / 10, cell.resources_of(found.row));
            match bands.iter_mut().find(|(other, _)| *other == band) {
                Some((_, sum)) => *sum = sum.with(&resources),
                None => bands.push((band, resources)),
            }
        }
        Self(victims)
    }

    /// What a job of this band may evict on a machine.
    fn below(&self, band: u8, slot: u32) -> Resources {
        let bands = self.0.get(slot as usize).into_iter().flatten().filter(|(other, _)| *other < band);
        bands.fold(Resources::default(), |sum, (_, more)| sum.with(more))
    }
}

/// Machines that a job can have once holds of lower bands lose them: all of a gang, some for other tasks. `None` where what it needs is free beside these, as it claims
/// that by itself, or where these have too little. Where devices are in use nothing is gained by the rest.
pub(super) fn displacing(search: &mut Search<'_>, aim: &Aim, slots: &[u32], need: Need) -> Option<Wish> {
    let rooms = search.rooms;
    let of_use: Vec<u32> = slots.iter().copied().filter(|&slot| aim.finds_devices(rooms.cell, slot)).collect();
    let machines = aim.choose(rooms, &[], (&of_use, |_| 0), |slot| search.leaves(slot));
    let displaces = machines.iter().any(|slot| !rooms.may_claim(*slot, &aim.each));
    let is_enough = machines.len() >= if need.is_gang { aim.machines } else { 1 };
    (displaces && is_enough).then(|| wish(rooms.job, None, machines, aim.each))
}

/// The same with what tasks of lower bands have there, which go when the job claims it: held is what lower bands hold of the rest. As a hold has the same amount on all
/// its machines, it is of those alone that have as much of it. `None` where evictions do without it, and where nobody may be evicted or that is not known yet.
pub(super) fn beside_victims(
    (rooms, evictable): (&Rooms<'_>, &Evictable<'_>),
    aim: &Aim,
    band: u8,
    need: Need,
) -> Option<Wish> {
    if !evictable.are_evicted_beside(rooms, aim) {
        return None;
    }
    let victims = evictable.victims()?;
    let cell = rooms.cell;
    let has_it = |mut room: Room, slot: u32| {
        room.add(&victims.below(band, slot));
        room.shortage(&aim.each).is_none()
    };
    let suited = (0..cell.machine_rows().len()).filter(|&slot| aim.suits(cell, slot));
    let of_interest = suited.filter(|&slot| need.is_gang || rooms.is_held(slot));
    let usable = of_interest.filter(|&slot| has_it(rooms.room_to_hold(slot), slot));
    let (by_evictions, kept_out): (Vec<u32>, Vec<u32>) =
        usable.partition(|&slot| has_it(rooms.room_to_claim(slot), slot));
    let mut alike: BTreeMap<Resources, Vec<u32>> = BTreeMap::new();
    for slot in kept_out {
        alike.entry(rooms.room_to_hold(slot).positive().at_most(&aim.each)).or_default().push(slot);
    }
    // What is overcommitted may have nothing to hold.
    let alike = alike.into_iter().filter(|(part, _)| !part.is_nothing());
    let (part, slots) = alike.max_by_key(|(_, slots)| slots.len())?;
    let machines = aim.together(cell, &slots);
    let is_enough = if need.is_gang {
        by_evictions.len() < aim.machines && machines.len() + by_evictions.len() >= aim.machines
    } else {
        by_evictions.is_empty() && !machines.is_empty()
    };
    is_enough.then(|| wish(rooms.job, None, machines, part))
}
