//! What a machine has for a task of a group.

use plenum_model::{AllocationId, Cell, Device, GroupCounts, Obstacle, Room};
use plenum_policies::{Columns, Request};
use plenum_sdk::{Specials, Work};

use super::lent::Lent;

/// Whether a machine shrank, or runs what nobody knew, and has less than it gave: who leaves makes up for that first.
pub(super) fn lacks_what_it_gave(cell: &Cell, slot: u32) -> bool {
    cell.room(slot).0.iter().any(|&free| free < 0)
}

/// What a machine has for a task, beside those who may be evicted.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) cell: &'a Cell,
    pub(super) columns: &'a Columns,
    pub(super) specials: Option<&'a Specials>,
    pub(super) work: &'a Work,
    pub(super) request: &'a Request<'a>,
}

impl Asked<'_> {
    /// What is free; `None` where no task of the group may go.
    pub(super) fn free(&self, slot: u32) -> Option<Room> {
        let mut room = *self.columns.room(slot)?;
        if lacks_what_it_gave(self.cell, slot) {
            return None;
        }
        if !self.could_have_devices(slot) {
            return None;
        }
        if let Some(specials) = self.specials.filter(|_| GroupCounts::are_needed_by(self.work.shape())) {
            let obstacle = specials.obstacle(self.cell, self.work, slot);
            if matches!(obstacle, Some(Obstacle::PerMachine | Obstacle::Spread(_))) {
                return None;
            }
        }
        if let Some(hold) = self.request.hold.filter(|hold| hold.machines.binary_search(&slot).is_ok()) {
            room.add(&hold.resources);
        }
        Some(room)
    }

    /// Whether it has such devices, whoever uses them: else it would be asked for those of each of its tenants.
    fn could_have_devices(&self, slot: u32) -> bool {
        let wanted = &self.work.shape().devices;
        let suits = |want: &Device, device: &Device| device.is_of(want) && device.millis >= want.millis;
        let has =
            |want| self.cell.machine_in(slot).is_some_and(|found| found.devices.iter().any(|one| suits(want, one)));
        wanted.iter().all(has)
    }

    /// Its devices, with those of who leaves and of who would, as [`Lent::new`] has them; `None` where none matter.
    pub(super) fn lent<'a>(
        &'a self,
        slot: u32,
        who: (impl Iterator<Item = &'a AllocationId>, &[AllocationId], impl Iterator<Item = &'a AllocationId>),
    ) -> Option<Lent<'a>> {
        Some(Lent::new((self.cell, self.specials?), self.work.shape(), slot, who))
    }
}
