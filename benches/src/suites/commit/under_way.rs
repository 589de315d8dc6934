//! What a scheduler has under way, a bounded number in the order of the answers, and which part of a delay is none of the cell's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Transactions that are not answered yet.
pub(crate) struct UnderWay<T> {
    most: usize,
    sent: VecDeque<T>,
    /// When there was room for another one again, and at the beginning. What is due while there is none waits for an answer of the cell.
    room_since: Instant,
}

impl<T> UnderWay<T> {
    /// Has room for so many from now on.
    pub(crate) fn new(most: usize, now: Instant) -> Self {
        Self { most, sent: VecDeque::new(), room_since: now }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.sent.len() < self.most
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Another one is sent.
    pub(crate) fn begin(&mut self, transaction: T) {
        self.sent.push_back(transaction);
    }

    /// The oldest one is answered; none, where there is none.
    pub(crate) fn end(&mut self, now: Instant) -> Option<T> {
        if !self.has_room() {
            self.room_since = now;
        }
        self.sent.pop_front()
    }

    /// How long what was due at that time could have been sent already: it was due, and there was room.
    pub(crate) fn late(&self, due: Instant, now: Instant) -> Duration {
        now.saturating_duration_since(due.max(self.room_since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A cell that could not keep up, or stalled, made the harness look late.
    #[test]
    fn what_waits_for_an_answer_of_the_cell_is_not_late() {
        let began = Instant::now();
        let at = |millis: u64| began + Duration::from_millis(millis);
        let late = |under_way: &UnderWay<u32>, due: u64, now: u64| under_way.late(at(due), at(now)).as_millis();
        let mut under_way = UnderWay::new(2, began);
        assert_eq!(late(&under_way, 3, 5), 2, "there was room all the time");
        under_way.begin(1);
        under_way.begin(2);
        assert!(!under_way.has_room());
        assert_eq!(under_way.end(at(1000)), Some(1));
        assert_eq!(late(&under_way, 10, 1000), 0, "the cell held it up for a second");
        assert_eq!(late(&under_way, 10, 1004), 4, "and then nobody but the harness");
        // There is room already: this answer is not what anything waited for.
        assert_eq!(under_way.end(at(1002)), Some(2));
        assert_eq!(late(&under_way, 10, 1004), 4);
        assert_eq!(late(&under_way, 1003, 1004), 1);
        assert!(under_way.is_empty() && under_way.end(at(1005)).is_none());
    }
}
