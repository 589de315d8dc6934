//! Numbers from a seed, for courses that are the same each time.

/// Xorshift with 64 bits of state.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides.max(1)
    }

    pub(crate) fn small(&mut self, sides: u32) -> u32 {
        u32::try_from(self.roll(sides.into())).unwrap()
    }

    pub(crate) fn once_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { from.get(usize::try_from(self.roll(from.len() as u64)).unwrap()).cloned() }
    }
}
