//! Sets of slots: a bit each, so that a set over a million allocations stays in the cache.

/// A set of slots.
#[derive(Debug, Default)]
pub(crate) struct SlotBits(Vec<u64>);

/// Slots of a word.
const WORD: usize = 64;

impl SlotBits {
    /// Whether a slot is in it.
    #[inline]
    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.0.get(slot as usize / WORD).is_some_and(|word| word >> (slot as usize % WORD) & 1 == 1)
    }

    /// Puts a slot in; false if it was there.
    #[inline]
    pub(crate) fn insert(&mut self, slot: u32) -> bool {
        let place = slot as usize / WORD;
        if place >= self.0.len() {
            self.0.resize(place + 1, 0);
        }
        let bit = 1 << (slot as usize % WORD);
        let fresh = self.0[place] & bit == 0;
        self.0[place] |= bit;
        fresh
    }

    /// Brings a slot's bit into the cache, without waiting for it.
    #[inline]
    pub(crate) fn prefetch(&self, slot: u32) {
        if let Some(word) = self.0.get(slot as usize / WORD) {
            plenum_model::prefetch(word);
        }
    }

    /// Takes a slot out; false if it was not there.
    pub(crate) fn remove(&mut self, slot: u32) -> bool {
        let bit = 1 << (slot as usize % WORD);
        self.0.get_mut(slot as usize / WORD).is_some_and(|word| {
            let was_there = *word & bit != 0;
            *word &= !bit;
            was_there
        })
    }
}

/// A set of slots that lives for one request, with the list of those in it: emptying it costs what was put in.
#[derive(Debug, Default)]
pub(crate) struct SlotSet {
    bits: SlotBits,
    members: Vec<u32>,
}

impl SlotSet {
    /// Takes all out.
    pub(crate) fn clear(&mut self) {
        for slot in self.members.drain(..) {
            self.bits.0[slot as usize / WORD] = 0;
        }
    }

    /// Whether a slot is in it.
    #[inline]
    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.bits.contains(slot)
    }

    /// Brings a slot's bit into the cache, without waiting for it.
    #[inline]
    pub(crate) fn prefetch(&self, slot: u32) {
        self.bits.prefetch(slot);
    }

    /// Puts a slot in; false if it was there.
    #[inline]
    pub(crate) fn insert(&mut self, slot: u32) -> bool {
        let fresh = self.bits.insert(slot);
        if fresh {
            self.members.push(slot);
        }
        fresh
    }

    /// Takes out all but the first so many that came.
    pub(crate) fn keep(&mut self, count: usize) {
        let kept = self.members.len().min(count);
        for slot in self.members.drain(kept..) {
            self.bits.remove(slot);
        }
    }

    /// Those in it, in the order in which they came.
    pub(crate) fn members(&self) -> &[u32] {
        &self.members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_there_until_all_is_taken_out() {
        let mut set = SlotSet::default();
        assert!(set.insert(7) && set.insert(64) && set.insert(1000) && !set.insert(64));
        assert_eq!(set.members(), [7, 64, 1000]);
        assert!(set.contains(7) && !set.contains(8) && !set.contains(100_000));
        set.clear();
        assert!(!set.contains(7) && !set.contains(1000) && set.members().is_empty());
        assert!(set.insert(64));
    }

    #[test]
    fn those_who_came_last_are_taken_out_first() {
        let mut set = SlotSet::default();
        (0..4).for_each(|slot| assert!(set.insert(slot * 3)));
        set.keep(2);
        assert_eq!(set.members(), [0, 3]);
        assert!(set.contains(3) && !set.contains(6) && set.insert(9));
        set.keep(7);
        assert_eq!(set.members(), [0, 3, 9]);
    }

    #[test]
    fn a_slot_that_is_taken_out_leaves_its_neighbours() {
        let mut bits = SlotBits::default();
        assert!(bits.insert(3) && bits.insert(4) && !bits.insert(4));
        bits.remove(3);
        bits.remove(1000);
        assert!(!bits.contains(3) && bits.contains(4));
    }
}
