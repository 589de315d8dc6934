//! Numbers that stand for what the cell remembers once, and which of them nobody refers to any more: those are given to others.
//!
//! A number goes on standing for what it stood for until another thing needs it: nothing is logged when the last one who referred to it
//! goes, and whoever comes with the same thing meanwhile finds it. Which number is given stands in the delta, so that nobody who folds
//! needs to know what is counted here.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::Revision;

/// Who refers to what, and numbers that are free.
#[derive(Debug)]
pub(crate) struct Numbers<K> {
    /// How often something is referred to; what nobody refers to is not there.
    counts: BTreeMap<K, u32>,
    /// Numbers of what nobody refers to, with when that began.
    free: BTreeMap<u32, Revision>,
    /// The same, the longest free first.
    oldest: BTreeSet<(Revision, u32)>,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), free: BTreeMap::new(), oldest: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Numbers<K> {
    /// Counts from scratch: all that is referred to, each as often as it is, and all numbers with what they stand for. What is free
    /// counts as free since `now`.
    pub(crate) fn rebuild(
        referred: impl Iterator<Item = K>,
        known: impl Iterator<Item = (u32, K)>,
        now: Revision,
    ) -> Self {
        let mut numbers = Self::default();
        referred.for_each(|key| *numbers.counts.entry(key).or_default() += 1);
        known.for_each(|(number, key)| numbers.stands_for(number, &key, now));
        numbers
    }

    /// One more refers to something, of which this is the number if it has one.
    pub(crate) fn add(&mut self, key: &K, number: Option<u32>) {
        match self.counts.get_mut(key) {
            Some(count) => *count += 1,
            None => {
                self.counts.insert(key.clone(), 1);
                number.into_iter().for_each(|number| self.take(number));
            }
        }
    }

    /// One less does.
    pub(crate) fn remove(&mut self, key: &K, number: Option<u32>, now: Revision) {
        let Some(count) = self.counts.get_mut(key) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(key);
            number.into_iter().for_each(|number| self.give(number, now));
        }
    }

    /// A number stands for something from now on.
    pub(crate) fn stands_for(&mut self, number: u32, key: &K, now: Revision) {
        self.take(number);
        if !self.counts.contains_key(key) {
            self.give(number, now);
        }
    }

    fn give(&mut self, number: u32, now: Revision) {
        self.free.insert(number, now);
        self.oldest.insert((now, number));
    }

    fn take(&mut self, number: u32) {
        if let Some(since) = self.free.remove(&number) {
            self.oldest.remove(&(since, number));
        }
    }

    /// Numbers that are free, the longest free first.
    pub(crate) fn free(&self) -> impl Iterator<Item = u32> + '_ {
        self.oldest.iter().map(|&(_, number)| number)
    }

    /// How many of them there are.
    pub(crate) fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Since when nobody refers to what this number stands for; `None`: somebody does.
    pub(crate) fn free_since(&self, number: u32) -> Option<Revision> {
        self.free.get(&number).copied()
    }

    /// Whether both count the same and have the same numbers free, since whenever.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.counts == other.counts && self.free.keys().eq(other.free.keys()) && self.free.len() == self.oldest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_that_was_left_first_is_given_first_and_one_that_is_wanted_again_is_not() {
        let known = [(0, 'a'), (1, 'b'), (2, 'c')];
        let mut numbers = Numbers::rebuild(['a', 'a', 'b', 'c'].into_iter(), known.into_iter(), Revision(1));
        let free = |numbers: &Numbers<char>| numbers.free().collect::<Vec<_>>();
        numbers.remove(&'c', Some(2), Revision(2));
        numbers.remove(&'b', Some(1), Revision(3));
        numbers.remove(&'a', Some(0), Revision(4));
        assert_eq!((free(&numbers), numbers.free_since(2)), (vec![2, 1], Some(Revision(2))));
        numbers.add(&'c', Some(2));
        assert_eq!((free(&numbers), numbers.free_since(2)), (vec![1], None));
        numbers.stands_for(1, &'d', Revision(5));
        assert_eq!((free(&numbers), numbers.free_since(1)), (vec![1], Some(Revision(5))));
        numbers.add(&'d', Some(1));
        assert_eq!((free(&numbers), numbers.free_count()), (vec![], 0));
        let again = Numbers::rebuild("acd".chars(), [(0, 'a'), (1, 'd'), (2, 'c')].into_iter(), Revision(9));
        assert!(numbers.is_like(&again));
        assert!(!numbers.is_like(&Numbers::rebuild("ac".chars(), [(0, 'a')].into_iter(), Revision(9))));
    }
}
