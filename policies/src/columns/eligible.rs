//! Which machines a group may run on, and which it would rather have: one bit and one weight a machine. Asked for a scheduler, machines that a partition
//! reserves for others are none of them: each claim on one would be refused.
//!
//! Constraints and affinities are judged once for each class of equal attributes, and spread over the machines once for each list of them.
//! From then on only machines whose class changed are looked at again. Cordoned machines are not ruled out here: their columns are closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{Affinity, Attributes, Cell, ClassSet, Constraint};

use super::{Columns, place};
use crate::kernel::BLOCK;

/// Different lists of constraints and affinities that are remembered. Far above what lives at once in a cell: past it, all are judged anew.
/// At 100,000 machines they take 6 MiB, and 200 MiB if each has affinities.
const LISTS_MAX: usize = 512;

/// The machines that satisfy a list of constraints, and what a list of affinities gives each.
#[derive(Clone, Debug, Default)]
pub struct Eligible {
    constraints: ClassSet,
    /// Sum of the weights of the affinities that hold, by class, in hundredths.
    class_weights: Vec<f32>,
    words: Vec<u64>,
    /// Empty when there are no affinities.
    weights: Vec<[f32; BLOCK]>,
    /// The last change of classes that it knows of.
    as_of: u64,
}

impl Eligible {
    /// The classes of machines that satisfy the constraints.
    #[must_use]
    pub const fn classes(&self) -> &ClassSet {
        &self.constraints
    }

    /// Whether the machine in a slot satisfies the constraints.
    #[must_use]
    pub fn contains(&self, slot: u32) -> bool {
        let (block, lane) = place(slot);
        self.words.get(block).is_some_and(|word| word >> lane & 1 == 1)
    }

    /// How much the machine in a slot is wished for: the sum of the weights of the affinities that hold there, in hundredths.
    #[must_use]
    pub fn weight(&self, slot: u32) -> f32 {
        let (block, lane) = place(slot);
        self.weights.get(block).map_or(0.0, |rows| rows[lane])
    }

    /// One bit a machine, a word a block.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(crate) fn weights(&self) -> Option<&[[f32; BLOCK]]> {
        (!self.weights.is_empty()).then_some(self.weights.as_slice())
    }

    fn judge(&mut self, lists: &Lists, cell: &Cell) {
        self.constraints.refresh_by(cell, |attributes| lists.admit(attributes));
        for attributes in cell.classes().iter().skip(self.class_weights.len()) {
            let holding = lists.affinities.iter().filter(|affinity| affinity.rule.holds(attributes));
            // Few affinities of at most 100 each: far below where sums are rounded.
            let sum: f32 = holding.map(|affinity| hundredths(affinity.weight)).sum();
            self.class_weights.push(sum);
        }
    }

    fn write(&mut self, slot: u32, class: u32) {
        let (block, lane) = place(slot);
        let bit = u64::from(self.constraints.contains(class)) << lane;
        self.words[block] = self.words[block] & !(1 << lane) | bit;
        if let Some(rows) = self.weights.get_mut(block) {
            rows[lane] = self.class_weights.get(class as usize).copied().unwrap_or(0.0);
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "-100 to 100")]
fn hundredths(weight: i32) -> f32 {
    weight as f32 / 100.0
}

/// What a group says of machines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lists {
    constraints: Vec<Constraint>,
    affinities: Vec<Affinity>,
    /// Rules of partitions that are reserved for others: a machine that keeps all of one's is closed.
    closed: Vec<Vec<Constraint>>,
}

impl Lists {
    fn admit(&self, attributes: &Attributes) -> bool {
        let all_hold = |rules: &Vec<Constraint>| rules.iter().all(|rule| rule.holds(attributes));
        all_hold(&self.constraints) && !self.closed.iter().any(all_hold)
    }
}

/// All that are remembered.
#[derive(Clone, Debug, Default)]
pub(super) struct EligibleSets {
    sets: BTreeMap<Lists, Arc<Eligible>>,
    /// Rises with each change of a machine's class.
    stamp: u64,
    /// For each block, the stamp of the last change of a class in it.
    changed: Vec<u64>,
}

impl EligibleSets {
    /// Another machine is in the slot now, or the same with other attributes.
    pub(super) fn class_changed(&mut self, slot: u32) {
        let (block, _) = place(slot);
        if block >= self.changed.len() {
            self.changed.resize(block + 1, self.stamp);
        }
        self.stamp += 1;
        self.changed[block] = self.stamp;
    }
}

impl Columns {
    /// The machines that satisfy all of `constraints`, with the weights of `affinities`; `None` when there are neither. `cell` is the one that the
    /// columns followed last. For whom is not asked: who is to claim there takes [`Columns::eligible_for`].
    ///
    /// Judged once for each list, and again only for classes and machines that are new. Good until the columns follow the cell again: ask for it in each
    /// decision, which is a look-up. By one that is kept for longer machines that are new are not eligible, and changed attributes don't show.
    pub fn eligible(
        &mut self,
        constraints: &[Constraint],
        affinities: &[Affinity],
        cell: &Cell,
    ) -> Option<Arc<Eligible>> {
        self.eligible_but(constraints, affinities, Vec::new(), cell)
    }

    /// The same, without the machines that partitions reserve for other schedulers than this one.
    pub fn eligible_for(
        &mut self,
        scheduler: &str,
        constraints: &[Constraint],
        affinities: &[Affinity],
        cell: &Cell,
    ) -> Option<Arc<Eligible>> {
        let reserved = cell.partitions().map(|(_, partition)| partition);
        let closed = reserved.filter(|partition| !partition.is_open_to(scheduler));
        self.eligible_but(constraints, affinities, closed.map(|partition| partition.machines.clone()).collect(), cell)
    }

    fn eligible_but(
        &mut self,
        constraints: &[Constraint],
        affinities: &[Affinity],
        closed: Vec<Vec<Constraint>>,
        cell: &Cell,
    ) -> Option<Arc<Eligible>> {
        if constraints.is_empty() && affinities.is_empty() && closed.is_empty() {
            return None;
        }
        let blocks = self.free[0].len();
        let EligibleSets { sets, stamp, changed } = &mut self.sets;
        let lists = Lists { constraints: constraints.to_vec(), affinities: affinities.to_vec(), closed };
        let (lists, mut set) = sets.remove_entry(&lists).unwrap_or_else(|| {
            if sets.len() >= LISTS_MAX {
                sets.clear();
            }
            (lists, Arc::default())
        });
        if set.as_of < *stamp || set.words.len() != blocks {
            let eligible = Arc::make_mut(&mut set);
            eligible.judge(&lists, cell);
            eligible.words.resize(blocks, 0);
            if !lists.affinities.is_empty() {
                eligible.weights.resize(blocks, [0.0; BLOCK]);
            }
            let stale = changed.iter().enumerate().filter(|(_, changed)| **changed > eligible.as_of);
            let stale: Vec<usize> = stale.map(|(block, _)| block).collect();
            for block in stale {
                let rows = self.classes.iter().enumerate().skip(block * BLOCK).take(BLOCK);
                for (row, &class) in rows {
                    eligible.write(u32::try_from(row).expect("machine slots have 32 bits"), class);
                }
            }
            eligible.as_of = *stamp;
        }
        sets.insert(lists, set.clone());
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use plenum_model::{Operator, Resources};

    use super::*;
    use crate::twin::{MIB, cell_of, followed, plain, rack_at_most};
    use crate::{Index, Policy, Request, Settings, choose};

    /// Room was made before anybody looked whether the list is known: with the last place taken a look at any of them forgot them all.
    #[test]
    fn as_many_lists_as_are_remembered_are_judged_once_each_and_one_more_drives_all_out() {
        let cell = cell_of(&[plain(1000, 64)]);
        let mut columns = followed(&cell, &BTreeMap::new());
        let mut sets = |racks: Range<u32>| -> Vec<Arc<Eligible>> {
            let on = |rack: u32| Constraint {
                attribute: "rack".into(),
                operator: Operator::Equal,
                values: vec![rack.to_string().into()],
            };
            racks.filter_map(|rack| columns.eligible(&[on(rack)], &[], &cell)).collect()
        };
        let (first, again) = (sets(0..512), sets(0..512));
        assert_eq!((first.len(), again.len()), (512, 512));
        assert!(first.iter().zip(&again).all(|(one, other)| Arc::ptr_eq(one, other)));
        assert_eq!(sets(512..513).len(), 1);
        assert!(!Arc::ptr_eq(&first[0], &sets(0..1)[0]));
    }

    // The scan went on behind the last of its bits, or of the columns.
    #[test]
    fn who_keeps_what_was_eligible_of_a_smaller_or_larger_cell_is_given_machines_that_both_have() {
        let (small, large) = (cell_of(&vec![plain(1000, 64); 64]), cell_of(&vec![plain(1000, 64); 130]));
        let resources = Resources::new(1000, MIB);
        let siblings = BTreeMap::from([(5, 1), (129, 1)]);
        let request = Request::new(&resources, Settings::default());
        for (before, now) in [(&small, &large), (&large, &small)] {
            let mut columns = followed(before, &BTreeMap::new());
            let kept = columns.eligible(&[rack_at_most(0)], &[], before);
            columns.follow(now, None, &BTreeMap::new());
            for siblings in [&BTreeMap::new(), &siblings] {
                let request = Request { eligible: kept.as_deref(), siblings, ..request };
                let chosen = choose(&columns, &request, Policy::FirstFit, 200);
                assert_eq!(chosen, (0..64).collect::<Vec<u32>>());
            }
            let mut index = Index::default();
            assert_eq!(index.choose(&columns, &request, kept.as_ref(), Policy::FirstFit, 1), [0]);
        }
    }
}
