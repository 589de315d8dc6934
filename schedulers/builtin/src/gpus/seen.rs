//! Groups that were counted, so that none is counted each time that it is tried.

use std::collections::BTreeMap;

use plenum_model::JobId;

/// Groups that are remembered: some 24 bytes each. Many more than one decision tries, so that none that waits is forgotten between two tries unless others that wait
/// are as many.
const SEEN_MAX: usize = 1 << 14;

/// So many are forgotten at once, where none of them is over: to look for them costs the next new ones nothing.
const FORGOTTEN: usize = SEEN_MAX / 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By when they were tried last. Invariant: no two at once.
    groups: BTreeMap<(JobId, u16), u64>,
    /// Tries so far, which numbers them.
    tries: u64,
    /// Whether some were forgotten in this decision.
    has_forgotten: bool,
}

impl Seen {
    /// A decision begins.
    pub(super) fn begin(&mut self) {
        self.has_forgotten = false;
    }

    /// A group is tried: whether it is to be counted. Where there is no place for it, because so many were new in one decision, it is with its next try.
    pub(super) fn add(&mut self, group: (JobId, u16), is_over: impl Fn(JobId) -> bool) -> bool {
        self.tries += 1;
        if let Some(tried) = self.groups.get_mut(&group) {
            *tried = self.tries;
            return false;
        }
        // At most once a decision, as it goes through all of them.
        if self.groups.len() >= SEEN_MAX && !std::mem::replace(&mut self.has_forgotten, true) {
            self.forget(is_over);
        }
        if self.groups.len() >= SEEN_MAX {
            return false;
        }
        self.groups.insert(group, self.tries);
        true
    }

    /// Forgets those that are over; where none is, those that were tried longest ago. Of these most run: should one of them be tried again, it counts again.
    fn forget(&mut self, is_over: impl Fn(JobId) -> bool) {
        self.groups.retain(|(job, _), _| !is_over(*job));
        if self.groups.len() < SEEN_MAX {
            return;
        }
        let mut tries: Vec<u64> = self.groups.values().copied().collect();
        let (_, &mut newest, _) = tries.select_nth_unstable(FORGOTTEN - 1);
        self.groups.retain(|_, tried| *tried > newest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(slot: u32) -> (JobId, u16) {
        (JobId { slot, generation: 1 }, 0)
    }

    /// Adds groups of jobs that are not over, and says how many of them are to be counted.
    fn add(seen: &mut Seen, slots: std::ops::Range<u32>) -> usize {
        slots.filter(|slot| seen.add(group(*slot), |_| false)).count()
    }

    /// As many groups as are remembered, each tried once.
    fn full() -> Seen {
        let mut seen = Seen::default();
        assert_eq!(add(&mut seen, 0..16_384), 16_384);
        seen
    }

    #[test]
    fn a_group_is_to_be_counted_once() {
        let mut seen = Seen::default();
        assert_eq!(add(&mut seen, 0..2), 2);
        seen.begin();
        assert_eq!(add(&mut seen, 0..2), 0);
        let (job, _) = group(0);
        assert!(seen.add((job, 1), |_| false), "another group of the same job");
    }

    /// Nothing more was counted then, until some of them were over.
    #[test]
    fn where_none_is_over_those_that_were_tried_longest_ago_are_forgotten() {
        let mut seen = full();
        seen.begin();
        assert_eq!(add(&mut seen, 0..100), 0, "they wait, and are tried again");
        assert_eq!(add(&mut seen, 20_000..20_001), 1);
        assert_eq!(seen.groups.len(), 16_384 - 2048 + 1);
        assert_eq!(add(&mut seen, 0..100), 0);
        assert_eq!(add(&mut seen, 2148..16_384), 0);
        assert_eq!(add(&mut seen, 100..2148), 2047, "there is a place for all but one");
    }

    #[test]
    fn those_that_are_over_are_forgotten_before_others() {
        let mut seen = full();
        seen.begin();
        assert!(seen.add(group(20_000), |job| job.slot >= 16_374));
        assert_eq!(seen.groups.len(), 16_384 - 10 + 1);
        assert_eq!(add(&mut seen, 0..16_374), 0);
    }

    #[test]
    fn one_decision_forgets_once() {
        let mut seen = full();
        seen.begin();
        assert_eq!(add(&mut seen, 20_000..24_000), 2048);
        seen.begin();
        assert_eq!(add(&mut seen, 20_000..24_000), 1952);
        assert!(seen.groups.len() <= 16_384);
    }
}
