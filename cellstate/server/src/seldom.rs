//! What is told when it is so, and not again and again while it stays so.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// When it was told last.
#[derive(Debug)]
pub(crate) struct Seldom {
    every: Duration,
    told_at: Mutex<Option<Instant>>,
}

impl Seldom {
    /// At most once in this time.
    pub(crate) const fn every(every: Duration) -> Self {
        Self { every, told_at: Mutex::new(None) }
    }

    /// Whether it is to be told now. That counts as told.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let mut told_at = self.told_at.lock();
        if told_at.is_some_and(|at| now.saturating_duration_since(at) < self.every) {
            return false;
        }
        *told_at = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_not_told_again_before_its_time() {
        let (seldom, now) = (Seldom::every(Duration::from_secs(60)), Instant::now());
        let due = [0, 1, 59, 60, 61, 120].map(|seconds| seldom.is_due(now + Duration::from_secs(seconds)));
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}
