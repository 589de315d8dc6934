//! Which classes of machines satisfy constraints: judged once for all groups whose constraints are equal.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{Attributes, Cell, ClassSet, Constraint};

/// Words of all bitmaps together: 64 MiB. Where 100,000 machines all differ, each has up to 3,126, and 2,700 of them are kept.
const WORDS_MAX: usize = 1 << 23;

/// Bitmaps of constraints, as long as groups have these. What they say is a pure function of the cell: of those that are forgotten, each
/// is made anew when it is asked for.
#[derive(Debug)]
pub(crate) struct ClassSets {
    numbers: BTreeMap<Arc<[Constraint]>, u32>,
    /// By number. Invariant: those with groups stand in `numbers`, the others in `free`.
    sets: Vec<Set>,
    free: Vec<u32>,
    /// Invariant: the words of all bitmaps.
    words: usize,
    /// Beyond so many, all are forgotten but the one that was asked for.
    pub(crate) words_max: usize,
}

impl Default for ClassSets {
    fn default() -> Self {
        let (numbers, sets, free) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { numbers, sets, free, words: 0, words_max: WORDS_MAX }
    }
}

#[derive(Debug, Default)]
struct Set {
    constraints: Arc<[Constraint]>,
    classes: Arc<ClassSet>,
    /// How many have these constraints.
    groups: u32,
}

impl ClassSets {
    /// A group has these constraints: the number of their set.
    pub(crate) fn join(&mut self, constraints: &[Constraint]) -> u32 {
        if let Some(&number) = self.numbers.get(constraints) {
            self.sets[number as usize].groups += 1;
            return number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.sets.push(Set::default());
            crate::derived::rows(self.sets.len() - 1)
        });
        let constraints: Arc<[Constraint]> = constraints.into();
        self.numbers.insert(constraints.clone(), number);
        self.sets[number as usize] = Set { constraints, classes: Arc::default(), groups: 1 };
        number
    }

    /// A group has them no more.
    pub(crate) fn leave(&mut self, number: u32) {
        let set = &mut self.sets[number as usize];
        set.groups -= 1;
        if set.groups == 0 {
            self.numbers.remove(&set.constraints);
            self.words -= set.classes.words();
            *set = Set::default();
            self.free.push(number);
        }
    }

    /// The classes that satisfy the constraints with this number: of those that these machines are of, and perhaps of others.
    pub(crate) fn of(&mut self, number: u32, cell: &Cell, machines: impl Iterator<Item = u32>) -> &Arc<ClassSet> {
        let Set { constraints, classes, .. } = &mut self.sets[number as usize];
        if !classes.is_complete(cell) {
            let before = classes.words();
            let holds = |attributes: &Attributes| constraints.iter().all(|constraint| constraint.holds(attributes));
            Arc::make_mut(classes).judge_by(cell, cell.classes_of(machines), holds);
            self.words = self.words - before + classes.words();
            if self.words > self.words_max {
                self.forget_others(number);
            }
        }
        &self.sets[number as usize].classes
    }

    /// Forgets all bitmaps but that with this number.
    fn forget_others(&mut self, number: u32) {
        let filled = (0..).zip(&mut self.sets).filter(|(other, set)| *other != number && set.classes.words() > 0);
        filled.for_each(|(_, set)| set.classes = Arc::default());
        self.words = self.sets[number as usize].classes.words();
    }

    /// The words of all bitmaps.
    #[cfg(test)]
    pub(crate) fn check_words(&self) -> usize {
        let words = self.sets.iter().map(|set| set.classes.words()).sum();
        assert_eq!(self.words, words);
        words
    }
}

#[cfg(test)]
mod tests {
    use plenum_model::Operator;

    use super::*;

    fn constraint(value: &str) -> Vec<Constraint> {
        vec![Constraint { attribute: "disk".into(), operator: Operator::Equal, values: vec![value.into()] }]
    }

    #[test]
    fn groups_with_equal_constraints_share_a_set_until_the_last_of_them_leaves() {
        let mut sets = ClassSets::default();
        let (ssd, disk) = (sets.join(&constraint("ssd")), sets.join(&constraint("disk")));
        assert_eq!((sets.join(&constraint("ssd")), ssd == disk), (ssd, false));
        sets.leave(ssd);
        assert_eq!(sets.join(&constraint("ssd")), ssd, "another group has it still");
        (0..2).for_each(|_| sets.leave(ssd));
        assert_eq!((sets.numbers.len(), &sets.free[..]), (1, &[ssd][..]));
        assert_eq!(sets.join(&constraint("tape")), ssd, "its number is given to others");
        assert_eq!(&*sets.sets[ssd as usize].constraints, constraint("tape"));
        assert_eq!(sets.check_words(), 0, "nobody asked for any");
    }
}
