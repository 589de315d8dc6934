//! Seeded randomness: the same seed gives the same workload on every machine.

/// SplitMix64 (Steele, Lea and Flood, 2014): small, fast, and good enough for drawing machines.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Below `bound`, which is above 0: the high half of a product, whose bias is below 2^-32.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(((self.next() >> 32) * u64::from(bound)) >> 32).expect("below a u32")
    }
}

/// The seed of one of several things that are drawn by one seed, by its number from 0 on. The first has the seed itself, so that what is drawn once is drawn by
/// what was said; of the others none is that of another seed, or of one of its things. Their sum would be: seed 1 would have all but the first of what seed 0 has.
pub(crate) fn seed_of(seed: u64, number: u64) -> u64 {
    match number {
        0 => seed,
        _ => Random::new(Random::new(seed).next() ^ number).next(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    // They were summed: two runs with neighbouring seeds, which were to be two samples, had fifteen of sixteen snapshots in common.
    #[test]
    fn neighbouring_seeds_share_nothing_of_what_is_drawn_by_number() {
        let seeds = [0, 1, 2, 3, 42, 43, u64::MAX];
        let all = seeds.iter().flat_map(|&seed| (0..100).map(move |number| seed_of(seed, number)));
        assert_eq!(all.collect::<BTreeSet<_>>().len(), seeds.len() * 100);
        assert_eq!(seed_of(1000, 0), 1000, "what is drawn once is drawn by what was said");
    }
}
