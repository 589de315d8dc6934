//! Where holds of a job brought nothing, so that the next one begins elsewhere.
//!
//! What needs a single machine gathers its room there bit by bit, and may have begun beside what runs for ever. It came back to where most is free after each rest, and waited without end, though
//! another machine was emptied all the time. What comes and goes tells them apart: where all that is in the way was granted since the last of these holds stood still, the next one gets that by and by.

use std::collections::{BTreeSet, VecDeque};

use plenum_model::{Cell, MachineId, Revision};

use super::REST_LOOK_MICROS;
use super::aim::{Aim, Rooms};
use super::rests::Newcomers;
use crate::settings::Holding;

/// So many machines are remembered at most, the latest: with the longest rests between these holds that is two days.
const PLACES_MAX: usize = 64;

/// A machine on which a hold brought nothing.
#[derive(Clone, Copy, Debug)]
struct Place {
    machine: MachineId,
    /// It had all the room there that it takes, and lacked something else: that this comes free again says nothing.
    was_whole: bool,
}

/// See the module. Of one job, until something of it is granted or it is another one.
#[derive(Clone, Debug, Default)]
pub(super) struct Vain {
    /// Each machine once, the latest last.
    places: VecDeque<Place>,
    /// What the mirror showed when the last of these holds stood still.
    since: Revision,
    /// Slots of machines where only what was granted after that is in the way.
    likely: BTreeSet<u32>,
    /// When they were looked for.
    looked_micros: Option<i64>,
    /// Since when it could have begun the next hold.
    waits_since_micros: Option<i64>,
    /// That begins on one of `likely`, also where none of them has any room just now.
    only_likely: bool,
}

impl Vain {
    /// A hold on this machine brought nothing; it had stood still since this revision.
    pub(super) fn add(&mut self, machine: MachineId, was_whole: bool, since: Revision) {
        let mut places = std::mem::take(&mut self.places);
        places.retain(|place| place.machine.slot != machine.slot);
        places.push_back(Place { machine, was_whole });
        let more = places.len().saturating_sub(PLACES_MAX);
        places.drain(..more);
        *self = Self { places, since, ..Self::default() };
    }

    /// After which revision it asks what was granted.
    pub(super) fn since(&self) -> Option<Revision> {
        (!self.places.is_empty()).then_some(self.since)
    }

    /// It holds room, and waits for no machine.
    pub(super) const fn holds(&mut self) {
        (self.waits_since_micros, self.only_likely) = (None, false);
    }

    /// The next hold may begin. Looks for likely machines every ten seconds at most, as it takes a walk over all allocations; for as long as a hold would be kept that brings nothing it begins on these
    /// alone: of many machines that never come free each would have its turn before a full one that does.
    pub(super) fn look(
        &mut self,
        (rooms, newcomers): (&Rooms<'_>, &Newcomers<'_>),
        (aim, band): (&Aim, u8),
        (holding, now_micros): (&Holding, i64),
    ) {
        if self.places.is_empty() {
            return;
        }
        let since_micros = *self.waits_since_micros.get_or_insert(now_micros);
        if self.looked_micros.is_none_or(|looked| looked.saturating_add(REST_LOOK_MICROS) <= now_micros) {
            self.looked_micros = Some(now_micros);
            let cell = rooms.cell;
            let was_whole = |slot| self.place(cell, slot).is_some_and(|(_, place)| place.was_whole);
            let suited = (0..cell.machine_rows().len()).filter(|&slot| aim.suits(cell, slot) && !was_whole(slot));
            let likely = suited.filter(|&slot| newcomers.leave_room_on(slot, rooms, aim, (band, self.since)));
            self.likely = likely.collect();
        }
        let is_over = since_micros.saturating_add(holding.patience_micros) <= now_micros;
        self.only_likely = !is_over && !self.likely.is_empty();
    }

    /// When it waits for likely machines no longer, if it does so.
    pub(super) fn waits_until_micros(&self, holding: &Holding) -> Option<i64> {
        let since_micros = self.waits_since_micros.filter(|_| self.only_likely)?;
        Some(since_micros.saturating_add(holding.patience_micros))
    }

    /// Whether a hold may begin there now.
    pub(super) fn may_begin_on(&self, slot: u32) -> bool {
        !self.only_likely || self.likely.contains(&slot)
    }

    /// In which order machines are tried, the smallest first.
    pub(super) fn order(&self, cell: &Cell, slot: u32) -> (bool, usize) {
        (!self.likely.contains(&slot), self.tried(cell, slot))
    }

    /// How late a hold there brought nothing; 0 where none did.
    pub(super) fn tried(&self, cell: &Cell, slot: u32) -> usize {
        self.place(cell, slot).map_or(0, |(position, _)| position + 1)
    }

    fn place(&self, cell: &Cell, slot: u32) -> Option<(usize, &Place)> {
        let found = self.places.iter().enumerate().find(|(_, place)| place.machine.slot == slot)?;
        // Another machine may have come to the slot.
        cell.machine(found.1.machine).map(|_| found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_of_machines_is_remembered_each_once() {
        let mut vain = Vain::default();
        assert_eq!(vain.since(), None);
        for (revision, slot) in (0..200).chain([150]).enumerate() {
            vain.add(MachineId { slot, generation: 1 }, false, Revision(revision as u64));
        }
        let slots: Vec<u32> = vain.places.iter().map(|place| place.machine.slot).collect();
        let expected: Vec<u32> = (136..200).filter(|slot| *slot != 150).chain([150]).collect();
        assert_eq!((slots, vain.since()), (expected, Some(Revision(200))));
    }
}
