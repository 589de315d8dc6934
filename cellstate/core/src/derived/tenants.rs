//! Which allocations live on a machine: asked when one expires, drains, reboots or is removed.
//!
//! No list is kept for it: that would cost every grant and every end (two cache misses of each), for commands that are rare. Instead
//! one walk over all rows sorts them by machine, and serves until the ring of changes has forgotten what was granted since: so
//! thousands of machines that vanish at once cost one walk.

use plenum_model::{Cell, Revision};

use crate::blame::ring::Ring;

/// The live allocations of each machine, as they were at a revision. Only a way to find them faster: whatever it holds, what it gives
/// is what a walk over all rows would find.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    /// When the rows were walked last; `None`: never.
    at: Option<Revision>,
    /// By machine, where its slots begin; one more at the end.
    starts: Vec<u32>,
    /// Slots of allocations, rising for each machine.
    slots: Vec<u32>,
    /// How often all rows were walked.
    #[cfg(test)]
    pub(crate) walks: u64,
}

impl Tenants {
    /// Slots of the live allocations of a machine, rising.
    pub(crate) fn live_on(&mut self, cell: &Cell, ring: &Ring, machine: u32) -> Vec<u32> {
        let count = cell.machine_row(machine).map_or(0, |row| usize::from(row.allocations));
        if count == 0 {
            return Vec::new();
        }
        let newer = self.at.and_then(|at| ring.taken_since(machine, at));
        let newer = newer.unwrap_or_else(|| {
            self.walk(cell);
            Vec::new()
        });
        let mut slots: Vec<u32> = self.known_on(machine).iter().copied().chain(newer).collect();
        // Slots that others have by now, and those that were granted there again.
        slots.retain(|&slot| cell.allocation_in(slot).is_some_and(|found| found.row.machine == machine));
        slots.sort_unstable();
        slots.dedup();
        debug_assert_eq!(slots.len(), count, "a machine has other allocations than its row counts");
        slots
    }

    /// Slots of those that are not leaving.
    pub(crate) fn active_on(&mut self, cell: &Cell, ring: &Ring, machine: u32) -> Vec<u32> {
        let mut slots = self.live_on(cell, ring, machine);
        slots.retain(|&slot| cell.is_active(slot));
        slots
    }

    fn known_on(&self, machine: u32) -> &[u32] {
        let place = machine as usize;
        let (Some(&start), Some(&end)) = (self.starts.get(place), self.starts.get(place + 1)) else { return &[] };
        &self.slots[start as usize..end as usize]
    }

    /// Sorts the rows by machine: counts them, then puts each in its place.
    fn walk(&mut self, cell: &Cell) {
        let machines = cell.machine_slots().len() as usize;
        let live = || {
            let rows = cell.allocation_rows().iter().zip(cell.statuses().iter()).zip(0_u32..);
            let live = rows.filter(|((_, status), _)| status.is_live());
            live.map(|((row, _), slot)| (row.machine as usize, slot))
        };
        self.starts.clear();
        self.starts.resize(machines + 2, 0);
        live().for_each(|(machine, _)| self.starts[machine + 2] += 1);
        (2..machines + 2).for_each(|place| self.starts[place] += self.starts[place - 1]);
        self.slots.clear();
        self.slots.resize(self.starts[machines + 1] as usize, 0);
        for (machine, slot) in live() {
            // The end of what the machine has so far; when all are in their places, the start of the next one's.
            let place = &mut self.starts[machine + 1];
            self.slots[*place as usize] = slot;
            *place += 1;
        }
        self.at = Some(cell.revision());
        #[cfg(test)]
        {
            self.walks += 1;
        }
    }
}
