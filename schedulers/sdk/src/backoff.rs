//! Delays that double and are drawn at random, so that those who collided do not meet again.

use crate::share::mix;

/// Bounds of a delay, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first delay.
    pub first_micros: i64,
    /// The longest delay of all.
    pub most_micros: i64,
}

impl Backoff {
    /// The delay before attempt `attempt`, from 1: between half of the bound and the bound, which doubles with each attempt.
    /// Equal seeds draw equal delays.
    #[must_use]
    pub fn delay_micros(&self, attempt: u32, seed: u64) -> i64 {
        let doublings = attempt.saturating_sub(1).min(30);
        let bound = self.first_micros.saturating_mul(1 << doublings).clamp(1, self.most_micros.max(1));
        let half = bound / 2;
        let drawn = mix(seed ^ u64::from(attempt).rotate_left(32)) % (half.unsigned_abs() + 1);
        half + i64::try_from(drawn).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_never_pass_it() {
        let backoff = Backoff { first_micros: 1000, most_micros: 8000 };
        for (attempt, bound) in [(1, 1000), (2, 2000), (3, 4000), (4, 8000), (5, 8000), (99, 8000)] {
            for seed in 0..50 {
                let delay = backoff.delay_micros(attempt, seed);
                assert!((bound / 2..=bound).contains(&delay), "attempt {attempt}: {delay}");
            }
        }
    }

    #[test]
    fn seeds_draw_apart() {
        let backoff = Backoff { first_micros: 1_000_000, most_micros: 1_000_000 };
        assert_ne!(backoff.delay_micros(1, 1), backoff.delay_micros(1, 2));
        assert_eq!(backoff.delay_micros(1, 1), backoff.delay_micros(1, 1));
    }
}
