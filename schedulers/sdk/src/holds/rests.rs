//! Whether a gang could be held all that it takes, for all that was in the way of a hold which brought nothing: its own, or that of another one.

use std::cell::OnceCell;

use plenum_model::{Cell, JobId, Resources, Revision};

use super::aim::{Aim, Rooms};

/// An allocation.
#[derive(Debug)]
struct Newcomer {
    created: Revision,
    band: u8,
    resources: Resources,
}

/// By slot, what was granted after a revision: for all jobs that are looked at in one go, as it takes a walk over all allocations.
#[derive(Debug)]
pub(super) struct Newcomers<'a> {
    cell: &'a Cell,
    since: Revision,
    found: OnceCell<Vec<Vec<Newcomer>>>,
}

impl<'a> Newcomers<'a> {
    /// Nothing is looked at before somebody asks.
    pub(super) const fn since(cell: &'a Cell, since: Revision) -> Self {
        Self { cell, since, found: OnceCell::new() }
    }

    /// Whether a gang of this band could be held all that it takes, but for what was granted to its own and lower bands after that revision, which is none before that of `self`: what
    /// comes and goes would have come to its hold by and by. What is older stays, and so does what others hold that come before it.
    pub(super) fn leave_room(&self, rooms: &Rooms<'_>, aim: &Aim, (band, since): (u8, Revision)) -> bool {
        let suited = (0..self.cell.machine_rows().len()).filter(|slot| aim.suits(self.cell, *slot));
        let slots: Vec<u32> = suited.filter(|&slot| self.leave_room_on(slot, rooms, aim, (band, since))).collect();
        aim.together(self.cell, &slots).len() >= aim.machines
    }

    /// The same of what it takes on one machine.
    pub(super) fn leave_room_on(&self, slot: u32, rooms: &Rooms<'_>, aim: &Aim, (band, since): (u8, Revision)) -> bool {
        let found = self.found.get_or_init(|| self.find());
        let mut room = rooms.room_to_hold(slot);
        let there = found.get(slot as usize).into_iter().flatten();
        let leave = there.filter(|newcomer| newcomer.created > since && newcomer.band <= band);
        leave.for_each(|newcomer| room.add(&newcomer.resources));
        room.shortage(&aim.each).is_none()
    }

    fn find(&self) -> Vec<Vec<Newcomer>> {
        let machines = usize::try_from(self.cell.machine_rows().len()).unwrap_or(usize::MAX);
        let mut found: Vec<Vec<Newcomer>> = std::iter::repeat_with(Vec::new).take(machines).collect();
        for allocation in self.cell.allocations().filter(|allocation| allocation.row.created > self.since) {
            let there = found.get_mut(allocation.row.machine as usize);
            let (Some(there), Some(job)) = (there, self.cell.job(allocation.row.job())) else { continue };
            let (created, band) = (allocation.row.created, job.shape.priority / 10);
            there.push(Newcomer { created, band, resources: self.cell.resources_of(allocation.row) });
        }
        found
    }
}

/// For a while after a hold that brought nothing, so that the room is not held by turns for those who can't start: who comes no further beside what was in its way begins
/// no hold on its machines.
#[derive(Debug)]
pub(super) struct Pause {
    pub(super) until_micros: i64,
    /// Whose hold it was.
    pub(super) after: JobId,
    /// Higher ones need not wait.
    pub(super) band: u8,
    /// What was granted by then was in the way.
    pub(super) since: Revision,
    pub(super) machines: Vec<u32>,
}

impl Pause {
    /// Whether a gang of this band has to wait, if it has no hold.
    pub(super) fn keeps_back(&self, newcomers: &Newcomers<'_>, rooms: &Rooms<'_>, aim: &Aim, band: u8) -> bool {
        self.band >= band
            && self.machines.iter().any(|slot| aim.suits(rooms.cell, *slot))
            && !newcomers.leave_room(rooms, aim, (band, self.since))
    }
}
