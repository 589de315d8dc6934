//! How allocations ended, counted from what is published.

use std::collections::BTreeSet;

use plenum_model::{AllocationState, Delta, Move};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Ends, with the words that listings have for them.
const ENDS: [(AllocationState, &str); 5] = [
    (AllocationState::Complete, "complete"),
    (AllocationState::Failed, "failed"),
    (AllocationState::Stopped, "stopped"),
    (AllocationState::Evicted, "evicted"),
    (AllocationState::EndedLost, "lost"),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    state: &'static str,
}

/// Counters since the start.
#[derive(Debug)]
pub(super) struct Ends {
    /// In the order of [`ENDS`].
    by_state: [Counter; ENDS.len()],
    given_up: Counter,
}

impl Ends {
    /// All are there from the beginning: what shows up later than a scrape has no increase for whoever asks how it grew.
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let family: Family<EndLabels, Counter> = Family::default();
        let ends = Self {
            by_state: ENDS.map(|(_, state)| family.get_or_create(&EndLabels { state }).clone()),
            given_up: Counter::default(),
        };
        registry.register("allocations_ended", "Allocations by how they ended, and nothing of them is left", family);
        registry.register(
            "allocations_given_up",
            "Allocations whose machine was unreachable for too long: their tasks are placed elsewhere",
            ends.given_up.clone(),
        );
        ends
    }

    pub(super) fn count(&self, deltas: &[Delta]) {
        // Added up first: a batch may have thousands.
        let (mut ended, mut given_up) = ([0_u64; AllocationState::ALL.len()], 0_u64);
        for delta in deltas {
            delta.ends.iter().for_each(|end| ended[end.state as usize] += 1);
            let is_lost = |moved: &&Move| moved.status.state == AllocationState::Lost;
            if delta.moves.iter().any(|moved| is_lost(&moved)) {
                // One that was given up before moves once more where its end tells of restarts.
                let gone: BTreeSet<u32> = delta.ends.iter().map(|end| end.slot).collect();
                let lost = delta.moves.iter().filter(is_lost);
                given_up += lost.filter(|moved| !gone.contains(&moved.slot)).count() as u64;
            }
        }
        for ((state, _), counter) in ENDS.iter().zip(&self.by_state) {
            counter.inc_by(ended[*state as usize]);
        }
        self.given_up.inc_by(given_up);
    }
}

#[cfg(test)]
mod tests {
    use plenum_model::{AllocationStatus, End, LogTime, Revision};

    use super::*;

    // Twenty tasks that failed 56 times each left no trace in any metric.
    #[test]
    fn what_ended_is_counted_by_how_and_what_was_given_up_when_it_was() {
        let mut registry = Registry::with_prefix("plenum");
        let ends = Ends::registered(&mut registry);
        let end = |slot, state| End { slot, state, exit_code: 0, reason: None };
        let moved = |slot, state| {
            let status = AllocationStatus { state, ready: false };
            Move { slot, status, restarts: 0, reason: None }
        };
        let mut first = Delta::new(Revision(1), LogTime::default());
        first.ends = vec![end(1, AllocationState::Failed), end(2, AllocationState::Complete)];
        first.moves = vec![moved(3, AllocationState::Running), moved(4, AllocationState::Lost)];
        let mut second = Delta::new(Revision(2), LogTime::default());
        second.ends = vec![end(3, AllocationState::Failed), end(4, AllocationState::EndedLost)];
        // It was counted again where its end told of restarts.
        second.moves = vec![Move { restarts: 3, ..moved(4, AllocationState::Lost) }];
        ends.count(&[first, second]);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("writing to a string can't fail");
        let counts = [("complete", 1), ("failed", 2), ("stopped", 0), ("evicted", 0), ("lost", 1)];
        for (state, count) in counts {
            let line = format!("plenum_allocations_ended_total{{state=\"{state}\"}} {count}\n");
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert!(text.contains("plenum_allocations_given_up_total 1\n"), "{text}");
    }
}
