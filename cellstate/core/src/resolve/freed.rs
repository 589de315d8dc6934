//! Room of holds that end with the transaction in hand, because earlier placements of it were granted what their jobs waited for.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use plenum_model::{DIMENSIONS, JobId, Room};

use super::Resolver;
use crate::blame::hindsight::{Owners, Past};

/// The holds of one machine that end.
#[derive(Debug, Default)]
pub(crate) struct FreedRoom {
    /// Whose they are; sorted.
    holders: Vec<JobId>,
    /// What they set aside there.
    room: Room,
    /// Those of them that changed since the base.
    owners: OnceCell<Owners>,
}

impl FreedRoom {
    /// Those whose holds of the machine changed since the base. `past`: what happened there, which is the same for the whole transaction.
    pub(crate) fn owners(&self, past: &Past<'_>) -> &Owners {
        self.owners.get_or_init(|| {
            let mut owners = Owners::default();
            self.holders.iter().for_each(|&holder| past.note_owner(&mut owners, holder));
            owners
        })
    }
}

/// The holds that end, by machine, of machines that claims asked about: thousands of them may ask about one on which hundreds of jobs hold room.
#[derive(Debug, Default)]
pub(crate) struct Freed(RefCell<BTreeMap<u32, Rc<FreedRoom>>>);

impl Freed {
    /// Forgets all: one more hold ends.
    pub(crate) fn forget(&mut self) {
        self.0.get_mut().clear();
    }
}

impl Resolver<'_> {
    /// The holds of a machine that end with this transaction so far; `None`: none does anywhere.
    pub(crate) fn freed_on(&self, machine: u32) -> Option<Rc<FreedRoom>> {
        if !self.promised.ends_holds() {
            return None;
        }
        let find = || {
            let mut freed = FreedRoom::default();
            let ended = |holder: &&JobId| self.promised.ends_hold_of(holder.slot);
            for &holder in self.cell.held_by(machine).iter().filter(ended) {
                #[cfg(test)]
                self.promised.holds_looked_up.set(self.promised.holds_looked_up.get() + 1);
                if let Some(hold) = self.cell.hold(holder) {
                    freed.holders.push(holder);
                    freed.room.add(&hold.resources);
                }
            }
            Rc::new(freed)
        };
        Some(self.freed.0.borrow_mut().entry(machine).or_insert_with(find).clone())
    }

    /// What is free on a machine for a job, without what this transaction promised there.
    pub(crate) fn free_room(&self, job: JobId, machine: u32) -> Room {
        let mut room = self.cell.room_for(machine, job);
        let Some(freed) = self.freed_on(machine) else { return room };
        (0..DIMENSIONS).for_each(|dimension| room.0[dimension] += freed.room.0[dimension]);
        // Its own is free for it anyway, and counts once.
        if freed.holders.binary_search(&job).is_ok()
            && let Some(own) = self.cell.hold(job)
        {
            room.take(&own.resources);
        }
        room
    }
}
