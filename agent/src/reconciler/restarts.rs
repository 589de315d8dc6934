//! When a task was restarted, as far as that counts: in a few numbers, however many restarts there are. It knows neither the task nor its policy.

use std::collections::BTreeMap;

/// In how many parts of the policy's time restarts are told apart at the least: where there are more of them, none counts for longer than it should by
/// more than one part. A file of a start gets no longer by them than by some 3 KiB.
const RESTART_SPANS: u64 = 64;

/// The restarts of one task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Restarts {
    /// A time, and how many count as made then; the oldest first.
    made: Vec<(u64, u32)>,
}

impl Restarts {
    /// Those that an earlier agent has [`written`](Self::written).
    pub(super) fn of(written: Vec<(u64, u32)>) -> Self {
        Self { made: written }
    }

    /// As they are written down with a start.
    pub(super) fn written(&self) -> Vec<(u64, u32)> {
        self.made.clone()
    }

    /// How many there were within this time.
    pub(super) fn count(&self, now_ms: u64, within_ms: u64) -> u64 {
        self.made
            .iter()
            .filter(|&&(at_ms, _)| counts(now_ms, at_ms, within_ms))
            .map(|&(_, count)| u64::from(count))
            .sum()
    }

    /// One more. Those that are not within this time are of no use any more.
    pub(super) fn add(&mut self, now_ms: u64, within_ms: u64) {
        self.made.push((now_ms, 1));
        self.made.retain(|&(at_ms, _)| counts(now_ms, at_ms, within_ms));
        let are_many = self.made.len() as u64 > RESTART_SPANS;
        self.gather(if are_many { (within_ms / RESTART_SPANS).max(1) } else { 1 });
    }

    /// Counts those of one span of time together, at the latest time among them. Where a span begins depends on nothing but its length: what is gathered
    /// again and again stays within its span.
    fn gather(&mut self, span_ms: u64) {
        let mut spans = BTreeMap::<u64, (u64, u32)>::new();
        for &(at_ms, count) in &self.made {
            let (latest_ms, all) = spans.entry(at_ms / span_ms).or_default();
            *latest_ms = at_ms.max(*latest_ms);
            *all = all.saturating_add(count);
        }
        self.made = spans.into_values().collect();
    }
}

/// Those of an earlier agent were written down with a start, by a clock that may have been set since.
fn counts(now_ms: u64, at_ms: u64, within_ms: u64) -> bool {
    now_ms.abs_diff(at_ms) < within_ms
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    // Each agent dated what it knew no better with the oldest end that was still kept. A task that was restarted often, under an agent that was
    // started anew every few minutes, had restarts of hours ago counted for ever.
    #[test]
    fn restarts_that_are_read_and_written_again_and_again_get_no_later() {
        let within_ms = 3_600_000;
        let span_ms = within_ms / RESTART_SPANS;
        let made: Vec<u64> = (1..=600).map(|number| 1_800_000_000_000 + number * 5000).collect();
        let mut restarts = Restarts::default();
        for &at_ms in &made {
            restarts.add(at_ms, within_ms);
            restarts = Restarts::of(restarts.written());
        }
        let read = restarts.written().into_iter().flat_map(|(at_ms, count)| iter::repeat_n(at_ms, count as usize));
        let read: Vec<u64> = read.collect();
        assert_eq!(read.len(), made.len());
        for (&at_ms, &made_ms) in read.iter().zip(&made) {
            assert!((made_ms..made_ms + span_ms).contains(&at_ms), "made at {made_ms}, read as {at_ms}");
        }
    }

    // A command that failed at once, with a million restarts, had 16 MiB of them after some hours, which were walked at each further one by the thread
    // that keeps the lease.
    #[test]
    fn many_restarts_take_no_more_room_than_a_few() {
        let within_ms = 366 * 24 * 3_600_000;
        let (mut restarts, many) = (Restarts::default(), 20_000);
        for number in 1..=many {
            restarts.add(1_800_000_000_000 + number * 10_000, within_ms);
            assert!(restarts.made.len() as u64 <= RESTART_SPANS + 1, "{}", restarts.made.len());
        }
        assert_eq!(restarts.count(1_800_000_000_000 + many * 10_000, within_ms), many);
    }

    #[test]
    fn each_of_few_restarts_counts_for_exactly_its_time() {
        let within_ms = 1000 * RESTART_SPANS;
        let mut restarts = Restarts::default();
        restarts.add(10, within_ms);
        restarts.add(20, within_ms);
        let counted = [within_ms + 9, within_ms + 10, within_ms + 20].map(|now_ms| restarts.count(now_ms, within_ms));
        assert_eq!(counted, [2, 1, 0]);
    }
}
