//! Who came last to a machine, or to the machines with one value, of the groups that limit that: the culprits of claims that are
//! refused over such limits.
//!
//! A group is walked once for each transaction that needs it, and not for each of its refused claims.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{Cell, GroupShape, Revision};

/// The newest tasks of groups, by what they are limited by. Good for one transaction: the cell stays as it is meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    groups: BTreeMap<(u32, Option<u16>), BTreeMap<Limited, Newest>>,
    /// Tasks that were looked at.
    #[cfg(test)]
    pub(crate) walked: u64,
}

/// What a rule limits the tasks of.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Limited {
    Machine(u32),
    Value(Arc<str>),
}

/// The task that was granted last, the first of those that were granted together.
#[derive(Debug)]
struct Newest {
    created: Revision,
    slot: u32,
}

impl Newcomers {
    /// Forgets everything, for another transaction.
    pub(crate) fn clear(&mut self) {
        self.groups.clear();
    }

    /// The slot of the allocation of this group that was granted last, and above `base`, on a machine; or, for the spread rule at a
    /// position, on any machine with its value.
    pub(crate) fn newest(
        &mut self,
        cell: &Cell,
        base: Revision,
        (group_row, shape, rule): (u32, Option<&GroupShape>, Option<u16>),
        machine: u32,
    ) -> Option<u32> {
        let limited_by = |machine: u32| limited_by(cell, shape, rule, machine);
        let known = self.groups.entry((group_row, rule)).or_insert_with(|| {
            let mut newest: BTreeMap<Limited, Newest> = BTreeMap::new();
            let group = cell.groups().get(group_row).copied().unwrap_or_default();
            for task in (0..group.count).filter_map(|task| cell.task(&group, task)) {
                #[cfg(test)]
                {
                    self.walked += 1;
                }
                let found = task.allocation.checked_sub(1).and_then(|slot| cell.allocation_in(slot));
                let Some(found) = found.filter(|found| found.row.created > base) else { continue };
                let Some(limited) = limited_by(found.row.machine) else { continue };
                let (created, slot) = (found.row.created, found.id.slot);
                let known = newest.entry(limited).or_insert(Newest { created, slot });
                if created > known.created {
                    *known = Newest { created, slot };
                }
            }
            newest
        });
        known.get(&limited_by(machine)?).map(|newest| newest.slot)
    }
}

fn limited_by(cell: &Cell, shape: Option<&GroupShape>, rule: Option<u16>, machine: u32) -> Option<Limited> {
    let Some(rule) = rule else { return Some(Limited::Machine(machine)) };
    let attribute = &shape?.spread.get(usize::from(rule))?.attribute;
    cell.machine_in(machine)?.attributes.get(attribute).cloned().map(Limited::Value)
}
