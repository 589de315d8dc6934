//! Random numbers from a seed: splitmix64, the same in each run.

/// A source of random numbers.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 up to, and without, `bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let number = self.next() % u64::from(bound.max(1));
        u32::try_from(number).expect("below a bound of 32 bits")
    }
}
