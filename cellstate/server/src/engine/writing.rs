//! For how long the write in flight takes already: while one does not come back, nothing is decided.

use std::sync::atomic::{AtomicI64, Ordering};

/// In microseconds of the server's monotonic clock. One batch is written at a time.
#[derive(Debug)]
pub(crate) struct Writing {
    /// [`i64::MAX`]: nothing is being written.
    since_micros: AtomicI64,
}

impl Default for Writing {
    fn default() -> Self {
        Self { since_micros: AtomicI64::new(i64::MAX) }
    }
}

impl Writing {
    pub(crate) fn begins(&self, now_micros: i64) {
        self.since_micros.store(now_micros, Ordering::Relaxed);
    }

    pub(crate) fn ends(&self) {
        self.since_micros.store(i64::MAX, Ordering::Relaxed);
    }

    /// For how long, with all waiting for room; 0 where nothing is being written.
    pub(crate) fn micros(&self, now_micros: i64) -> i64 {
        now_micros.saturating_sub(self.since_micros.load(Ordering::Relaxed)).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_takes_time_from_its_begin_to_its_end_and_none_in_between() {
        let writing = Writing::default();
        assert_eq!(writing.micros(7), 0);
        writing.begins(7);
        assert_eq!([6, 7, 19].map(|now| writing.micros(now)), [0, 0, 12]);
        writing.ends();
        assert_eq!(writing.micros(i64::MAX - 1), 0);
    }
}
