//! A small table of counts by number, or of places: what is looked up for each claim of a group that limits its tasks.
//!
//! Open addressing with linear probing (Knuth, The Art of Computer Programming 3, 6.4, algorithms L and R): one or two neighbouring
//! words a look-up, where a tree walks down its levels. Nothing reads it in order, so that the order of its places is never seen.

/// Counts by number. What counts 0 has no place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// The number + 1, with its count; 0 in an empty place. Invariant: a power of two of them, or none, and at most half are taken.
    places: Vec<(u32, i32)>,
    taken: usize,
}

/// Places of the smallest table.
const PLACES_MIN: usize = 16;

impl Tally {
    /// The count of a number; 0 for one that was never counted.
    #[inline]
    pub(crate) fn get(&self, number: u32) -> i32 {
        if self.places.is_empty() {
            return 0;
        }
        let key = number.wrapping_add(1);
        let mut place = self.home(key);
        loop {
            match self.places[place] {
                (found, count) if found == key => return count,
                (0, _) => return 0,
                _ => place = self.after(place),
            }
        }
    }

    /// Brings the place of a number into the cache.
    #[inline]
    pub(crate) fn warm(&self, number: u32) {
        if !self.places.is_empty() {
            crate::prefetch::prefetch(&self.places[self.home(number.wrapping_add(1))]);
        }
    }

    /// Counts a number so many times more; fewer where negative. The number of no row, `u32::MAX`, is not counted.
    pub(crate) fn add(&mut self, number: u32, by: i32) {
        let key = number.wrapping_add(1);
        if by == 0 || key == 0 {
            return;
        }
        if (self.taken + 1) * 2 > self.places.len() {
            self.grow();
        }
        let mut place = self.home(key);
        loop {
            match &mut self.places[place] {
                (found, count) if *found == key => {
                    *count += by;
                    if *count == 0 {
                        self.remove(place);
                    }
                    return;
                }
                (found @ 0, count) => {
                    (*found, *count) = (key, by);
                    self.taken += 1;
                    return;
                }
                _ => place = self.after(place),
            }
        }
    }

    /// Numbers that have a place.
    #[cfg(test)]
    pub(crate) const fn len(&self) -> usize {
        self.taken
    }

    /// Where a key would stand if it were alone: Fibonacci hashing, whose high bits are mixed best.
    #[inline]
    fn home(&self, key: u32) -> usize {
        let bits = self.places.len().trailing_zeros();
        (key.wrapping_mul(0x9e37_79b9) >> (32 - bits)) as usize
    }

    #[inline]
    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }

    /// Empties a place, and moves those behind it up that could not be reached any more.
    fn remove(&mut self, mut hole: usize) {
        self.taken -= 1;
        let mut place = hole;
        loop {
            place = self.after(place);
            let (key, count) = self.places[place];
            if key == 0 {
                break;
            }
            let mask = self.places.len() - 1;
            let (way, gap) = (place.wrapping_sub(self.home(key)) & mask, place.wrapping_sub(hole) & mask);
            if way >= gap {
                self.places[hole] = (key, count);
                hole = place;
            }
        }
        self.places[hole] = (0, 0);
    }

    #[cold]
    fn grow(&mut self) {
        let larger = (self.places.len() * 2).max(PLACES_MIN);
        let before = std::mem::replace(&mut self.places, vec![(0, 0); larger]);
        self.taken = 0;
        for (key, count) in before.into_iter().filter(|(key, _)| *key > 0) {
            self.add(key - 1, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_tally_counts_as_a_tree_does(changes in proptest::collection::vec((0_u32..200, -2_i32..=2), 0..2000)) {
            let (mut tally, mut tree) = (Tally::default(), BTreeMap::<u32, i32>::new());
            for (number, by) in changes {
                tally.add(number, by);
                *tree.entry(number).or_default() += by;
                prop_assert_eq!(tally.get(number), tree[&number]);
            }
            tree.retain(|_, count| *count != 0);
            prop_assert_eq!(tally.taken, tree.len());
            for number in 0..250 {
                prop_assert_eq!(tally.get(number), tree.get(&number).copied().unwrap_or(0));
            }
        }
    }

    #[test]
    fn what_comes_and_goes_leaves_the_table_as_small_as_it_was() {
        let mut tally = Tally::default();
        for number in 0..100_000 {
            tally.add(number, 1);
            tally.add(number, -1);
        }
        assert_eq!((tally.places.len(), tally.taken), (PLACES_MIN, 0));
        tally.add(u32::MAX, 1);
        assert_eq!((tally.get(u32::MAX), tally.taken), (0, 0), "no row has that number");
    }
}
