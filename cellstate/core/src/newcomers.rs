//! Who came last to a machine, or to the machines with one value, of the groups that limit that: the culprits of claims that are
//! refused over such limits. Tasks come with a grant, or to a value with the machine that they are on.
//!
//! A group is walked once for each transaction that needs it, and not for each of its refused claims.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use plenum_model::{Cell, GroupShape, Machine, MachineId, MachineState, Revision};

/// Changes of attributes that are remembered: of as many machines as change one each within a few seconds, in the largest cells. Some
/// 60 bytes each where they are of a few attributes, and at most 370, with its name, where each is of another one: 24 MB.
pub(crate) const RETAGGED_MAX: usize = 1 << 16;

/// The newest tasks of groups, by what they are limited by. Good for one transaction: the cell stays as it is meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    groups: BTreeMap<(u32, Option<u16>), BTreeMap<Limited, Newest>>,
    /// What the transaction itself was promised on machines whose attribute changed after its base: the newest of these changes, after each
    /// promise.
    promised: BTreeMap<Counted, Vec<Revision>>,
    /// What these were for, in order, each with the number of attempts that there had been.
    promises: Vec<(usize, Counted)>,
    /// Tasks that were looked at.
    #[cfg(test)]
    pub(crate) walked: u64,
}

/// When attributes of machines changed last. Bounded: the oldest change is forgotten first. It begins empty when a server opens, as the ring
/// does. Invariant: it knows the last change of each attribute of each machine that came above `floor`.
#[derive(Debug)]
pub(crate) struct Retagged {
    /// By attribute and machine.
    last: BTreeMap<Arc<str>, BTreeMap<MachineId, Revision>>,
    /// The same, oldest first, with those after which the same attribute changed again.
    changes: VecDeque<(Revision, MachineId, Arc<str>)>,
    floor: Revision,
}

/// The row of a group, the position of a spread rule, and a value.
type Counted = (u32, u16, Arc<str>);

/// What a rule limits the tasks of.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Limited {
    Machine(u32),
    Value(Arc<str>),
}

/// What came last, above the base, to what a rule limits.
#[derive(Debug, Default)]
struct Newest {
    /// The task that was granted last, the first of those that were granted together: when, and the slot of its allocation.
    granted: Option<(Revision, u32)>,
    /// When the rule's attribute changed last of the machines that its tasks are on.
    retagged: Option<Revision>,
}

/// Who came between a base and a claim that is refused over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newcomer {
    /// The allocation in this slot.
    Granted(u32),
    /// A machine whose attribute of the rule changed then: one with tasks of the group, perhaps of this very transaction, or the claim's own.
    Retagged(Revision),
}

impl Retagged {
    pub(crate) const fn new(floor: Revision) -> Self {
        Self { last: BTreeMap::new(), changes: VecDeque::new(), floor }
    }

    /// Notes that a machine is about to change.
    pub(crate) fn before(&mut self, revision: Revision, machine: &Machine, before: Option<&Machine>) {
        let changes = machine.state != MachineState::Gone;
        let before = before.filter(|before| changes && before.attributes != machine.attributes);
        let Some(before) = before else { return };
        let names: BTreeSet<&Arc<str>> = before.attributes.keys().chain(machine.attributes.keys()).collect();
        for name in names.into_iter().filter(|name| before.attributes.get(*name) != machine.attributes.get(*name)) {
            self.last.entry(name.clone()).or_default().insert(machine.id, revision);
            self.changes.push_back((revision, machine.id, name.clone()));
        }
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        while self.changes.len() > RETAGGED_MAX
            && let Some((revision, machine, name)) = self.changes.pop_front()
        {
            let Some(machines) = self.last.get_mut(&name) else { continue };
            // What came after it tells those who ask as much.
            if machines.get(&machine) == Some(&revision) {
                machines.remove(&machine);
                self.floor = revision;
            }
            if machines.is_empty() {
                self.last.remove(&name);
            }
        }
    }

    /// Whether nothing was forgotten that came after `base`.
    pub(crate) fn is_complete(&self, base: Revision) -> bool {
        base >= self.floor
    }

    /// When an attribute of the machine in a slot changed last, if that is known, and was after `base`.
    pub(crate) fn since(&self, cell: &Cell, machine: u32, attribute: &str, base: Revision) -> Option<Revision> {
        // Mostly none has, and nothing is looked up.
        self.changes.back().filter(|(newest, ..)| *newest > base)?;
        let id = cell.machine_in(machine)?.id;
        self.last.get(attribute)?.get(&id).copied().filter(|&revision| revision > base)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.changes.len().max(self.last.values().map(BTreeMap::len).sum())
    }
}

impl Newcomers {
    /// Forgets everything, for another transaction.
    pub(crate) fn clear(&mut self) {
        self.groups.clear();
        self.promised.clear();
        self.promises.clear();
    }

    /// Notes a task that the transaction is promised on a machine, after so many attempts: if the machine came to a value after the base, whoever
    /// is refused there could not know that this one counts.
    pub(crate) fn promise(
        &mut self,
        cell: &Cell,
        retagged: &Retagged,
        base: Revision,
        (group_row, shape): (u32, &GroupShape),
        (machine, attempts): (u32, usize),
    ) {
        for (rule, spread) in (0..).zip(&shape.spread) {
            let Some(moved) = retagged.since(cell, machine, &spread.attribute, base) else { continue };
            let Some(Limited::Value(value)) = limited_by(cell, Some(shape), Some(rule), machine) else { continue };
            let counted = (group_row, rule, value);
            let promised = self.promised.entry(counted.clone()).or_default();
            promised.push(promised.last().map_or(moved, |&newest| newest.max(moved)));
            self.promises.push((attempts, counted));
        }
    }

    /// Forgets what was promised after so many attempts.
    pub(crate) fn take_back(&mut self, keep: usize) {
        while let Some((_, counted)) = self.promises.pop_if(|(attempts, _)| *attempts > keep) {
            self.promised.get_mut(&counted).and_then(Vec::pop);
        }
    }

    /// Who came last, and above `base`, to a machine, or for the spread rule at a position to the machines with its value. Without
    /// anybody of this group who was granted, whose attributes changed: tasks count for a value as soon as their machine has it, also those
    /// that the transaction itself was promised.
    pub(crate) fn newest(
        &mut self,
        cell: &Cell,
        retagged: &Retagged,
        base: Revision,
        (group_row, shape, rule): (u32, Option<&GroupShape>, Option<u16>),
        machine: u32,
    ) -> Option<Newcomer> {
        let limited_by = |machine: u32| limited_by(cell, shape, rule, machine);
        // How many are on a machine does not depend on its attributes.
        let attribute = rule.and_then(|rule| Some(&*shape?.spread.get(usize::from(rule))?.attribute));
        let moved = |machine: u32| retagged.since(cell, machine, attribute?, base);
        let known = self.groups.entry((group_row, rule)).or_insert_with(|| {
            let mut newest: BTreeMap<Limited, Newest> = BTreeMap::new();
            let group = cell.groups().get(group_row).copied().unwrap_or_default();
            for task in (0..group.count).filter_map(|task| cell.task(&group, task)) {
                #[cfg(test)]
                {
                    self.walked += 1;
                }
                let found = task.allocation.checked_sub(1).and_then(|slot| cell.allocation_in(slot));
                let Some(found) = found else { continue };
                let created = Some(found.row.created).filter(|&created| created > base);
                let moved = moved(found.row.machine);
                if created.is_none() && moved.is_none() {
                    continue;
                }
                let Some(limited) = limited_by(found.row.machine) else { continue };
                let known = newest.entry(limited).or_default();
                known.retagged = known.retagged.max(moved);
                if let Some(created) = created
                    && known.granted.is_none_or(|(before, _)| created > before)
                {
                    known.granted = Some((created, found.id.slot));
                }
            }
            newest
        });
        let limited = limited_by(machine);
        let newest = limited.as_ref().and_then(|limited| known.get(limited));
        if let Some((_, slot)) = newest.and_then(|newest| newest.granted) {
            return Some(Newcomer::Granted(slot));
        }
        let promised = match (rule, limited) {
            (Some(rule), Some(Limited::Value(value))) => self.promised.get(&(group_row, rule, value)),
            _ => None,
        };
        let promised = promised.and_then(|promised| promised.last().copied());
        newest.and_then(|newest| newest.retagged).max(moved(machine)).max(promised).map(Newcomer::Retagged)
    }
}

fn limited_by(cell: &Cell, shape: Option<&GroupShape>, rule: Option<u16>, machine: u32) -> Option<Limited> {
    let Some(rule) = rule else { return Some(Limited::Machine(machine)) };
    let attribute = &shape?.spread.get(usize::from(rule))?.attribute;
    cell.machine_in(machine)?.attributes.get(attribute).cloned().map(Limited::Value)
}
