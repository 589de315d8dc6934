//! A median in little memory: counts of values in buckets, which are coarser the more of them many spreads have together.
use std::collections::BTreeMap;

/// How well a spread tells values apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fineness {
    /// From one power of two to the next there are so many bits of buckets.
    step_bits: u32,
}

impl Fineness {
    /// Exact up to 63, and up to 1/32 too small above.
    pub(crate) const FINEST: Self = Self { step_bits: 5 };

    /// Half as many buckets. `None` where there is but one from one power of two to the next.
    pub(crate) fn coarser(self) -> Option<Self> {
        self.step_bits.checked_sub(1).map(|step_bits| Self { step_bits })
    }

    /// A bucket of a coarser one begins where one of a finer one does.
    fn bucket_start(self, value: u64) -> u64 {
        let bits = u64::BITS - value.leading_zeros();
        let dropped = bits.saturating_sub(1 + self.step_bits);
        value >> dropped << dropped
    }
}

/// How often values occurred. Of the finest buckets it has at most about 2,000, however many values; of the coarsest 65.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    counts: BTreeMap<u64, u64>,
    total: u64,
}

impl Spread {
    /// Adds a value, to buckets that are not finer than those there are. True if it has one more by that.
    pub(crate) fn add(&mut self, value: u64, fineness: Fineness) -> bool {
        let count = self.counts.entry(fineness.bucket_start(value)).or_default();
        *count += 1;
        self.total += 1;
        *count == 1
    }

    /// Puts together what is in one bucket of the coarser ones. Gives how many there are.
    pub(crate) fn coarsen(&mut self, fineness: Fineness) -> usize {
        let mut counts = BTreeMap::<u64, u64>::new();
        for (value, count) in std::mem::take(&mut self.counts) {
            *counts.entry(fineness.bucket_start(value)).or_default() += count;
        }
        self.counts = counts;
        self.counts.len()
    }

    /// The lower median, rounded down to its bucket's start; 0 of nothing.
    pub(crate) fn median(&self) -> u64 {
        let mut before = 0;
        for (value, count) in &self.counts {
            before += count;
            if 2 * before >= self.total {
                return *value;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn median(values: impl IntoIterator<Item = u64>) -> u64 {
        let mut spread = Spread::default();
        for value in values {
            spread.add(value, Fineness::FINEST);
        }
        spread.median()
    }

    #[test]
    fn the_median_is_exact_for_small_values_and_close_for_large_ones() {
        assert_eq!(median([]), 0);
        assert_eq!(median([7]), 7);
        assert_eq!(median([1, 2, 3]), 2);
        assert_eq!(median([1, 2, 3, 4]), 2);
        assert_eq!(median([63, 63, 0]), 63);
        for value in [64, 1000, 123_456_789, u64::MAX] {
            let found = median([value]);
            assert!(found <= value && value - found <= value / 32, "{found} for {value}");
        }
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_values() {
        let mut spread = Spread::default();
        let buckets = (0..200_000_u64).filter(|value| spread.add(value * value, Fineness::FINEST)).count();
        assert_eq!(spread.counts.len(), buckets);
        assert!(buckets <= 2_000);
    }

    #[test]
    fn a_spread_that_is_made_coarser_is_as_one_that_was_so_from_the_beginning() {
        let values = || (0..2_000_u64).map(|value| value * value * value);
        let spread_of = |fineness| {
            let mut spread = Spread::default();
            for value in values() {
                spread.add(value, fineness);
            }
            spread
        };
        let (mut spread, mut fineness) = (spread_of(Fineness::FINEST), Fineness::FINEST);
        let mut steps = 0;
        while let Some(coarser) = fineness.coarser() {
            (fineness, steps) = (coarser, steps + 1);
            assert_eq!(spread.coarsen(fineness), spread.counts.len());
            assert_eq!(spread, spread_of(fineness));
            // 999 cubed.
            let (median, found) = (997_002_999, spread.median());
            assert!(found <= median && median - found < median >> (5 - steps), "{found} after {steps} steps");
        }
        assert_eq!(steps, 5);
        assert!(spread.counts.len() <= 65, "{} buckets", spread.counts.len());
    }
}
