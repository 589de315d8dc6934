//! How a decision goes about it, beside the scoring: ties, nearness, samples and parts. Each is explicit, and part of the request, so that a
//! decision can be made again.

/// Who wins among machines of equal cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ties {
    /// The lowest slot. For a scheduler that decides alone, and for comparing with others' results.
    #[default]
    LowestSlot,
    /// The first in an order of the seed's own: machines by `slot × odd + offset` modulo 2^32, both numbers drawn from the seed. Schedulers of
    /// different seeds go through equal machines in different orders.
    Seeded,
}

/// One scheduler's part of the machines, to be looked at before the others.
///
/// From Feng and others, *Scaling large production clusters with partitioned synchronization* (ATC 2021): each scheduler prefers the part that it
/// knows best, so that neighbours rarely want the same machine. There the freshest part is the one that was synchronised last; whose mirror follows
/// all machines alike gives each of its neighbours another `first`, and whoever reads the cell in parts names the one that was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// How many parts there are, 1 to [`PARTS_MAX`]. A machine's part is its slot modulo this, so that parts are alike.
    pub count: u32,
    /// The part to begin with; the next ones follow, each only when the ones before have no machine left that fits.
    pub first: u32,
}

/// Most parts: each one costs a look at its machines when those before are full.
pub const PARTS_MAX: u32 = 64;

/// See the module. The default is the best of all machines, ties to the lowest slot.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// Who wins among machines of equal cost.
    pub ties: Ties,
    /// What all randomness is drawn from: the order of ties, samples, and the random policies. A scheduler's own, the same in a replay. The order
    /// of ties may stay the same for a scheduler's life, and an [`Index`](crate::Index) remembers more when it does.
    pub seed: u64,
    /// Which decision of this seed it is. Samples and the random policies draw anew for each: with one number for all decisions they would try the
    /// same machines in the same order each time, which is a first fit. Ties do not depend on it.
    pub turn: u64,
    /// How far costs may be apart while they still count as equal, in the scoring's own unit; 0: only equal costs are. Costs are rounded down to a
    /// multiple of it.
    pub nearness: f32,
    /// Looks at so many machines only, drawn from those that fit, and takes the best of these: the power of few choices (Mitzenmacher, 2001). Never more draws than there are machines. `None` looks
    /// at all of them, which is the default because it takes microseconds.
    pub sample: Option<u32>,
    /// Which machines come first, whatever they cost and however much they are wished for. Samples and
    /// [`Policy::Random`](crate::Policy::Random) draw from all machines, and know of no parts.
    pub parts: Option<Parts>,
}

/// The order of equal machines. A bijection between slots and ties: a tie tells its slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) multiplier: i32,
    pub(crate) offset: i32,
    inverse: i32,
}

impl Order {
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of a word")]
    pub(crate) fn of(settings: &Settings) -> Self {
        let (multiplier, offset) = match settings.ties {
            Ties::LowestSlot => (1, 0),
            Ties::Seeded => {
                let word = mix(settings.seed);
                ((word as i32) | 1, (word >> 32) as i32)
            }
        };
        // Newton's iteration doubles the bits that are right; an odd number is its own inverse in the lowest three.
        let mut inverse = multiplier;
        for _ in 0..4 {
            inverse = inverse.wrapping_mul(2_i32.wrapping_sub(multiplier.wrapping_mul(inverse)));
        }
        Self { multiplier, offset, inverse }
    }

    /// Where a slot stands; the smallest comes first.
    #[inline]
    pub(crate) const fn tie(&self, slot: u32) -> i32 {
        slot.cast_signed().wrapping_mul(self.multiplier).wrapping_add(self.offset)
    }

    /// Which slot stands there.
    #[inline]
    pub(crate) const fn slot(&self, tie: i32) -> u32 {
        tie.wrapping_sub(self.offset).wrapping_mul(self.inverse).cast_unsigned()
    }
}

/// The finaliser of `SplitMix64` (Steele, Lea and Flood, 2014).
pub(crate) const fn mix(word: u64) -> u64 {
    let mut mixed = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Draws numbers from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) const fn of(settings: &Settings) -> Self {
        Self(mix(mix(settings.seed) ^ settings.turn))
    }

    /// Below `bound`, which is above 0: the high half of a product, whose bias is below 2^-32.
    #[allow(clippy::cast_possible_truncation, reason = "below a bound of 32 bits")]
    pub(crate) const fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        (((mix(self.0) >> 32) * bound as u64) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tie_tells_its_slot() {
        for seed in 0..200 {
            let order = Order::of(&Settings { ties: Ties::Seeded, seed, ..Settings::default() });
            let slots = (0..1000).chain([99_999, 1 << 20, i32::MAX.cast_unsigned()]);
            slots.for_each(|slot| assert_eq!(order.slot(order.tie(slot)), slot));
        }
    }

    #[test]
    fn without_a_seed_the_lowest_slot_comes_first() {
        let order = Order::of(&Settings::default());
        assert!((0..1000).is_sorted_by_key(|slot| order.tie(slot)));
    }

    #[test]
    fn draws_stay_below_their_bound_and_reach_everything() {
        let mut draws = Draws::of(&Settings { seed: 7, ..Settings::default() });
        let mut seen = [0; 5];
        (0..1000).for_each(|_| seen[draws.below(5) as usize] += 1);
        assert!(seen.iter().all(|&times| times > 120), "{seen:?}");
    }
}
