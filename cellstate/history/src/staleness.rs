//! A median in little memory: counts of values in buckets that are exact up to 63, and within 1/32 above.
use std::collections::BTreeMap;

const EXACT_BITS: u32 = 6;
const STEP_BITS: u32 = EXACT_BITS - 1;

/// How often values occurred. At most about 2,000 buckets, however many values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread {
    counts: BTreeMap<u64, u64>,
    total: u64,
}

impl Spread {
    pub(crate) fn add(&mut self, value: u64) {
        *self.counts.entry(bucket_start(value)).or_default() += 1;
        self.total += 1;
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

fn bucket_start(value: u64) -> u64 {
    let bits = u64::BITS - value.leading_zeros();
    if bits <= EXACT_BITS {
        return value;
    }
    let dropped = bits - 1 - STEP_BITS;
    value >> dropped << dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn median(values: impl IntoIterator<Item = u64>) -> u64 {
        let mut spread = Spread::default();
        values.into_iter().for_each(|value| spread.add(value));
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
        (0..200_000_u64).for_each(|value| spread.add(value * value));
        assert!(spread.counts.len() <= 2_000);
    }
}
