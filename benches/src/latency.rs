//! How long things took: one shape of histogram for all suites, in microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

use crate::figure::{Better, Case, Figure, number};

/// The parameter that says of a figure that it is a tail of all windows together; [`crate::compare`] looks for it.
pub(crate) const PARAMETER: &str = "tail";

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

/// A tail of the times that were seen in windows: such a part of them is shorter. Its value is that of all windows together, and each sample that of one:
/// the median of the samples would not know of a stall that fewer than half of the windows saw, and tails are there for such stalls.
///
/// # Errors
/// When no window has any time.
pub(crate) fn tail<'a>(
    case: &Case<'_>,
    metric: &str,
    part: f64,
    windows: impl Iterator<Item = &'a Histogram<u64>>,
) -> anyhow::Result<Figure> {
    let (mut all, mut samples) = (histogram(), Vec::new());
    for times in windows.filter(|times| !times.is_empty()) {
        all.add(times)?;
        samples.push(seconds(times, part));
    }
    let mut figure = case.figure(metric, "s", Better::Lower, samples)?;
    figure.value = seconds(&all, part);
    let told = "p99, p999 and max of commit_seconds, commit_late_seconds and staleness_seconds: of all windows together, no median of them; each sample is of one window";
    figure.parameters.insert(PARAMETER.to_owned(), json!(told));
    Ok(figure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Parameters;

    /// Of one window, times of so many milliseconds.
    fn window(millis: &[u64]) -> Histogram<u64> {
        let mut times = histogram();
        for millis in millis {
            times.record(micros(Duration::from_millis(*millis))).unwrap();
        }
        times
    }

    #[test]
    fn a_stall_that_one_window_saw_is_in_the_tail_of_all() {
        let case = Case { suite: "commit", case: "claims=1", parameters: Parameters::new() };
        let tail = |part: f64, windows: &[Histogram<u64>]| tail(&case, "commit_seconds", part, windows.iter()).unwrap();
        let stalled = [window(&[5]), window(&[5]), window(&[1000]), window(&[])];
        let longest = tail(1.0, &stalled);
        assert!(longest.value > 0.9, "{longest:?}");
        assert_eq!((longest.samples.len(), longest.value), (3, longest.max));
        assert!(longest.samples[0] < 0.01 && longest.samples[2] > 0.9, "each sample is of one window: {longest:?}");
        assert!(longest.parameters.contains_key(PARAMETER));
        // A window counts by what was seen in it: one time of 301 is none of one in a hundred.
        let rare = [window(&[5; 150]), window(&[5; 150]), window(&[1000])];
        assert!(tail(0.99, &rare).value < 0.01 && tail(0.999, &rare).value > 0.9);
    }

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
