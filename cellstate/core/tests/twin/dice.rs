//! Choices out of one number, so that a shrunk number still means something.

/// Gives as many choices as are asked for; the same number gives the same ones.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// 0 to `sides` - 1.
    pub(crate) fn roll(&mut self, sides: u32) -> u32 {
        u32::try_from(self.number() % u64::from(sides.max(1))).unwrap()
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u64 {
        // SplitMix64: consecutive states give unrelated numbers.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// True once in so many times.
    pub(crate) fn once_in(&mut self, times: u32) -> bool {
        self.roll(times) == 0
    }

    /// One of them; `None` where there is none.
    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.roll(u32::try_from(all.len()).unwrap()) as usize)
    }
}
