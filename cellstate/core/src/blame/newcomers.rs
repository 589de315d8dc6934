//! Who came last to a machine, or to the machines with one value, of the groups that limit that: the culprits of claims that are
//! refused over such limits. Tasks come with a grant, or to a value with the machine that they are on.
//!
//! What the ring of changes knows of grants is looked at first, and the tasks of a group only where that is not enough and they are few.
//! Either is gone through once for each transaction that needs it, and not for each of its refused claims: what they cost goes with what
//! happened since the base, and has a bound.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use plenum_model::{AllocationRef, Cell, GroupShape, Machine, MachineId, MachineState, Revision};

use super::ring::{ChangeKind, Ring};

/// Changes of attributes that are remembered: of as many machines as change one each within a few seconds, in the largest cells. Some
/// 60 bytes each where they are of a few attributes, and at most 370, with its name, where each is of another one: 24 MB.
pub(crate) const RETAGGED_MAX: usize = 1 << 16;

/// Changes of all machines, and tasks of groups, that are gone through for one transaction, each: as many as it may have claims. Beyond that
/// nobody can tell who came last.
pub(crate) const LOOKED_AT_MAX: usize = 1 << 14;

/// The newest tasks of groups, by what they are limited by. Good for one transaction: the cell stays as it is meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    /// By the row of a group, and the position of a spread rule or else a machine.
    known: BTreeMap<(u32, Option<u16>, Option<u32>), Known>,
    /// Who was granted after the base, on a machine or anywhere.
    granted: BTreeMap<Option<u32>, Granted>,
    /// What the transaction itself was promised on machines whose attribute changed after its base: the newest of these changes, after each
    /// promise.
    promised: BTreeMap<Counted, Vec<Revision>>,
    /// What these were for, in order, each with the number of attempts that there had been.
    promises: Vec<(usize, Counted)>,
    /// Tasks that were looked at, in groups that were walked.
    pub(crate) walked: usize,
}

/// When attributes of machines changed last. Bounded: the oldest change is forgotten first. It begins empty when a server opens, as the ring
/// does. Invariant: it knows the last change of each attribute of each machine that came above `floor`.
#[derive(Debug)]
pub(crate) struct Retagged {
    /// By attribute and machine.
    last: BTreeMap<Arc<str>, Retags>,
    /// The same, oldest first, with those after which the same attribute changed again.
    changes: VecDeque<(Revision, MachineId, Arc<str>)>,
    floor: Revision,
}

/// Machines of which an attribute changed, with the newest of all these changes.
#[derive(Debug, Default)]
struct Retags {
    machines: BTreeMap<MachineId, Revision>,
    newest: Revision,
}

/// The row of a group, the position of a spread rule, and a value.
type Counted = (u32, u16, Arc<str>);

/// What a rule limits the tasks of.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Limited {
    Machine(u32),
    Value(Arc<str>),
}

/// Live allocations that were granted above the base, oldest first, by the rows of their groups.
#[derive(Debug)]
struct Granted {
    by_group: BTreeMap<u32, Vec<u32>>,
    /// False: there may be others, that came before these.
    complete: bool,
}

/// Who came last, of one group.
#[derive(Debug)]
struct Known {
    newest: BTreeMap<Limited, Newest>,
    /// False: others may have come before these, or attributes changed.
    complete: bool,
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
    /// Perhaps somebody, perhaps nobody: it is too long ago to tell.
    Forgotten,
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
            let retags = self.last.entry(name.clone()).or_default();
            retags.machines.insert(machine.id, revision);
            retags.newest = revision;
            self.changes.push_back((revision, machine.id, name.clone()));
        }
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        while self.changes.len() > RETAGGED_MAX
            && let Some((revision, machine, name)) = self.changes.pop_front()
        {
            let Some(Retags { machines, .. }) = self.last.get_mut(&name) else { continue };
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

    /// Whether an attribute of any machine is known to have changed after `base`.
    fn any_since(&self, attribute: &str, base: Revision) -> bool {
        self.last.get(attribute).is_some_and(|retags| retags.newest > base)
    }

    /// When an attribute of the machine in a slot changed last, if that is known, and was after `base`.
    pub(crate) fn since(&self, cell: &Cell, machine: u32, attribute: &str, base: Revision) -> Option<Revision> {
        // Mostly none has, and nothing is looked up.
        self.changes.back().filter(|(newest, ..)| *newest > base)?;
        let id = cell.machine_in(machine)?.id;
        self.last.get(attribute)?.machines.get(&id).copied().filter(|&revision| revision > base)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.changes.len().max(self.last.values().map(|retags| retags.machines.len()).sum())
    }
}

impl Newcomers {
    /// Forgets everything, for another transaction.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.granted.clear();
        self.walked = 0;
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
        sources: (&Cell, &Ring, &Retagged),
        base: Revision,
        limit: (u32, Option<&GroupShape>, Option<u16>),
        machine: u32,
    ) -> Option<Newcomer> {
        let ((cell, _, retagged), (group_row, shape, rule)) = (sources, limit);
        let moved = attribute_of(shape, rule).and_then(|attribute| retagged.since(cell, machine, attribute, base));
        let forgotten = (rule.is_some() && !retagged.is_complete(base)).then_some(Newcomer::Forgotten);
        // A machine without the attribute takes no task, whoever came.
        let Some(limited) = limited_by(cell, shape, rule, machine) else {
            return moved.map(Newcomer::Retagged).or(forgotten);
        };
        let known = self.known(sources, base, limit, machine);
        let forgotten = if known.complete { forgotten } else { Some(Newcomer::Forgotten) };
        let newest = known.newest.get(&limited);
        if let Some((_, slot)) = newest.and_then(|newest| newest.granted) {
            return Some(Newcomer::Granted(slot));
        }
        let retagged = newest.and_then(|newest| newest.retagged);
        let promised = match (rule, limited) {
            (Some(rule), Limited::Value(value)) => self.promised.get(&(group_row, rule, value)),
            _ => None,
        };
        let promised = promised.and_then(|promised| promised.last().copied());
        retagged.max(moved).max(promised).map(Newcomer::Retagged).or(forgotten)
    }

    /// What is known of a group: of its tasks on one machine, or of all where a spread rule limits them.
    fn known(
        &mut self,
        sources: (&Cell, &Ring, &Retagged),
        base: Revision,
        limit: (u32, Option<&GroupShape>, Option<u16>),
        machine: u32,
    ) -> &Known {
        let place = if limit.2.is_none() { Some(machine) } else { None };
        let key = (limit.0, limit.2, place);
        if !self.known.contains_key(&key) {
            let known = self.look(sources, base, limit, place);
            self.known.insert(key, known);
        }
        &self.known[&key]
    }

    fn look(
        &mut self,
        (cell, ring, retagged): (&Cell, &Ring, &Retagged),
        base: Revision,
        (group_row, shape, rule): (u32, Option<&GroupShape>, Option<u16>),
        place: Option<u32>,
    ) -> Known {
        let granted = self.granted.entry(place).or_insert_with(|| Granted::since(cell, ring, base, place));
        // How many are on a machine does not depend on its attributes.
        let attribute = attribute_of(shape, rule);
        let retags = attribute.is_some_and(|attribute| retagged.any_since(attribute, base));
        let mut known = Known { newest: BTreeMap::new(), complete: granted.complete && !retags };
        let group = cell.groups().get(group_row).copied().unwrap_or_default();
        let walked = self.walked + group.count as usize;
        let slots = if known.complete || rule.is_none() || walked > LOOKED_AT_MAX {
            granted.by_group.get(&group_row).cloned().unwrap_or_default()
        } else {
            (self.walked, known.complete) = (walked, true);
            let tasks = (0..group.count).filter_map(|task| cell.task(&group, task));
            tasks.filter_map(|task| task.allocation.checked_sub(1)).collect()
        };
        for found in slots.into_iter().filter_map(|slot| cell.allocation_in(slot)) {
            let machine = found.row.machine;
            let moved = attribute.and_then(|attribute| retagged.since(cell, machine, attribute, base));
            known.note(&found, base, limited_by(cell, shape, rule, machine), moved);
        }
        known
    }
}

impl Granted {
    /// Those who were granted on a machine, or anywhere.
    fn since(cell: &Cell, ring: &Ring, base: Revision, machine: Option<u32>) -> Self {
        let (changes, complete) = match machine {
            Some(machine) => {
                let since = ring.since(machine, base);
                (since.changes, since.complete)
            }
            None => ring.all_since(base, LOOKED_AT_MAX),
        };
        let takes = changes.into_iter().rev().filter(|change| change.kind == ChangeKind::Take);
        let live = takes.filter_map(|change| cell.allocation(change.allocation()));
        let mut by_group = BTreeMap::<u32, Vec<u32>>::new();
        for found in live.filter(|found| found.status.state.is_active()) {
            by_group.entry(found.row.group_row).or_default().push(found.id.slot);
        }
        Self { by_group, complete }
    }
}

impl Known {
    /// Notes a task of the group, whose machine came to its value then, if that was above the base.
    fn note(
        &mut self,
        found: &AllocationRef<'_>,
        base: Revision,
        limited: Option<Limited>,
        retagged: Option<Revision>,
    ) {
        let created = Some(found.row.created).filter(|&created| created > base);
        let Some(limited) = limited.filter(|_| created.is_some() || retagged.is_some()) else { return };
        let newest = self.newest.entry(limited).or_default();
        newest.retagged = newest.retagged.max(retagged);
        if let Some(created) = created
            && newest.granted.is_none_or(|(before, _)| created > before)
        {
            newest.granted = Some((created, found.id.slot));
        }
    }
}

/// The attribute whose values the spread rule at a position counts by.
fn attribute_of(shape: Option<&GroupShape>, rule: Option<u16>) -> Option<&Arc<str>> {
    Some(&shape?.spread.get(usize::from(rule?))?.attribute)
}

fn limited_by(cell: &Cell, shape: Option<&GroupShape>, rule: Option<u16>, machine: u32) -> Option<Limited> {
    if rule.is_none() {
        return Some(Limited::Machine(machine));
    }
    let attribute = attribute_of(shape, rule)?;
    cell.machine_in(machine)?.attributes.get(attribute).cloned().map(Limited::Value)
}
