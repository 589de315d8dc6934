//! Whose allocations were that only their ids are known of: their rows tell it until others come into their slots, and then the grants in the log.

use std::collections::{BTreeMap, BTreeSet};

use plenum_history::{BlockSummary, History, Order, Subject};
use plenum_model::{AllocationId, Cell, JobId};

use super::ended::delta_of;
use crate::api::failure::Failure;

/// Most bytes of log that are read for all who are asked for of one `Tenants`. Whoever is not found by then stays a number.
const READ_BYTES_MAX: u64 = 32 << 20;

/// A task's stay in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) struct Tenant {
    pub(in crate::api) job: JobId,
    pub(in crate::api) group: u16,
    pub(in crate::api) task: u32,
    /// Slot of the machine.
    pub(in crate::api) machine: u32,
}

/// Looks allocations up.
pub(in crate::api) struct Tenants<'a> {
    history: &'a History,
    cell: &'a Cell,
    bytes_left: u64,
}

impl<'a> Tenants<'a> {
    /// `cell`: as it is, or at any time after the allocations that are asked for were granted.
    pub(in crate::api) const fn new(history: &'a History, cell: &'a Cell) -> Self {
        Self { history, cell, bytes_left: READ_BYTES_MAX }
    }

    /// Whose these were, who were all granted up to a revision. Those that are not retained are left out.
    pub(in crate::api) fn find(
        &mut self,
        mut ids: BTreeSet<AllocationId>,
        until: u64,
    ) -> Result<BTreeMap<AllocationId, Tenant>, Failure> {
        let mut found: BTreeMap<AllocationId, Tenant> = BTreeMap::new();
        found.extend(ids.iter().filter_map(|&id| Some((id, self.by_row(id)?))));
        ids.retain(|id| !found.contains_key(id));
        let mut walk = self.history.walk(1..=until.min(self.history.newest_revision()), Order::NewestFirst);
        while !ids.is_empty() && walk.read_bytes() < self.bytes_left {
            let about = |block: &BlockSummary| ids.iter().any(|id| block.may_tell_of(Subject::AllocationSlot(id.slot)));
            let Some(entries) = walk.next(about).map_err(|error| Failure::history(&error))? else { break };
            for logged in &entries {
                for grants in &delta_of(&logged.entry)?.grants {
                    let granted = grants.slots.iter().zip(&grants.generations).enumerate();
                    for (position, (&slot, &generation)) in granted {
                        let id = AllocationId { slot, generation };
                        if ids.remove(&id) {
                            let column = |values: &[u32]| values.get(position).copied().unwrap_or_default();
                            let (task, machine) = (column(&grants.tasks), column(&grants.machines));
                            found.insert(id, Tenant { job: grants.job, group: grants.group, task, machine });
                        }
                    }
                }
            }
        }
        self.bytes_left = self.bytes_left.saturating_sub(walk.read_bytes());
        Ok(found)
    }

    /// A row stays when its allocation ends, until the slot is given away again: but of a free one images have the generation alone.
    fn by_row(&self, id: AllocationId) -> Option<Tenant> {
        let row = self.cell.allocation_rows().get(id.slot).filter(|row| row.generation == id.generation)?;
        if row.job() == JobId::default() {
            return None;
        }
        Some(Tenant { job: row.job(), group: row.group, task: row.task, machine: row.machine })
    }
}
