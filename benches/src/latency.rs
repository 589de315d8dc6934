//! How long things took: one shape of histogram for all suites, in microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::figure::number;

/// Longest time that is told apart.
const MICROS_MAX: u64 = 120_000_000;

/// An empty one, with three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("the bounds are in order")
}

/// A time as such a histogram takes it: what is longer than it tells apart counts as the longest.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(MICROS_MAX).clamp(1, MICROS_MAX)
}

/// Seconds below which such a part of the times were.
pub(crate) fn seconds(histogram: &Histogram<u64>, part: f64) -> f64 {
    number(histogram.value_at_quantile(part)) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_times() {
        let mut times = histogram();
        for millis in 1..=1000 {
            times.record(micros(Duration::from_millis(millis))).unwrap();
        }
        let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 0.002;
        assert!(
            near(seconds(&times, 0.5), 0.5) && near(seconds(&times, 0.999), 0.999) && near(seconds(&times, 1.0), 1.0)
        );
    }

    #[test]
    fn what_is_too_long_to_tell_apart_is_not_dropped() {
        let mut times = histogram();
        times.record(micros(Duration::from_secs(86_400))).unwrap();
        times.record(micros(Duration::ZERO)).unwrap();
        assert_eq!(times.len(), 2);
        assert!(seconds(&times, 1.0) >= 119.0);
    }
}
