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
        let half = self.bound_micros(attempt) / 2;
        let drawn = mix(seed ^ u64::from(attempt).rotate_left(32)) % (half.unsigned_abs() + 1);
        half + i64::try_from(drawn).unwrap_or(0)
    }

    const fn bound_micros(&self, attempt: u32) -> i64 {
        let doublings = if attempt > 31 { 30 } else { attempt.saturating_sub(1) };
        let bound = self.first_micros.saturating_mul(1 << doublings);
        let most = if self.most_micros > 1 { self.most_micros } else { 1 };
        if bound > most { most } else { bound }
    }

    /// When attempt `attempt` may be made, at least `least_micros` from now: the delay, and on from there to the next of the instants at
    /// which all those of about as many attempts are made, an eighth of the bound apart. So a thousand that wait are a few attempts, and not a
    /// thousand. The instants follow from `phase`.
    pub(crate) fn next_micros(&self, now_micros: i64, least_micros: i64, attempt: u32, seed: u64, phase: u64) -> i64 {
        let bound = self.bound_micros(attempt);
        let step = (bound / 8).max(1);
        let phase = i64::try_from(mix(phase) % step.unsigned_abs()).unwrap_or(0);
        let delay = self.delay_micros(attempt, seed).max(least_micros);
        let first = now_micros.saturating_add(delay);
        let behind = first.saturating_sub(phase).rem_euclid(step);
        let next = if behind == 0 { first } else { first.saturating_add(step - behind) };
        // Rather a little early than later than the bound.
        if next - now_micros > bound.max(least_micros) && next - now_micros - step >= least_micros {
            next - step
        } else {
            next
        }
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
    fn attempts_of_many_meet_at_few_instants_within_the_bound() {
        let backoff = Backoff { first_micros: 5_000, most_micros: 2_000_000 };
        for (attempt, bound) in [(1, 5_000), (4, 40_000), (20, 2_000_000)] {
            for least in [0, bound / 2, 3 * bound] {
                let next = |seed| backoff.next_micros(1_234_567, least, attempt, seed, 99);
                let instants: std::collections::BTreeSet<i64> = (0..1000).map(next).collect();
                assert!(instants.len() <= 6, "{instants:?}");
                let (early, late) = (bound / 2 - bound / 8, bound.max(least + bound / 8));
                let waits = || instants.iter().map(|at| at - 1_234_567);
                assert!(waits().all(|wait| wait >= early.max(least) && wait <= late), "{bound} {least}: {instants:?}");
            }
        }
        assert_eq!(backoff.next_micros(i64::MAX - 5, 0, 9, 1, 1), i64::MAX);
    }

    #[test]
    fn seeds_draw_apart() {
        let backoff = Backoff { first_micros: 1_000_000, most_micros: 1_000_000 };
        assert_ne!(backoff.delay_micros(1, 1), backoff.delay_micros(1, 2));
        assert_eq!(backoff.delay_micros(1, 1), backoff.delay_micros(1, 1));
    }
}
