//! When machines are due for something: each at most once, found by time and by machine.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::LogTime;

/// Machines, by slot, with when each is due. Invariant: both say the same.
#[derive(Debug, Default)]
pub(crate) struct Due {
    times: BTreeSet<(LogTime, u32)>,
    of: BTreeMap<u32, LogTime>,
}

impl Due {
    /// The machine that is due first.
    pub(crate) fn first(&self) -> Option<(LogTime, u32)> {
        self.times.first().copied()
    }

    /// So many machines are due by then.
    pub(crate) fn count_until(&self, time: LogTime) -> usize {
        self.times.range(..=(time, u32::MAX)).count()
    }

    /// From now on a machine is due then, or never.
    pub(crate) fn put(&mut self, slot: u32, time: Option<LogTime>) {
        let before = match time {
            Some(time) => self.of.insert(slot, time),
            None => self.of.remove(&slot),
        };
        if before != time {
            if let Some(before) = before {
                self.times.remove(&(before, slot));
            }
            self.times.extend(time.map(|time| (time, slot)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_due_once() {
        let mut due = Due::default();
        due.put(1, Some(LogTime::from_micros(5)));
        due.put(2, Some(LogTime::from_micros(4)));
        due.put(2, Some(LogTime::from_micros(6)));
        assert_eq!(due.first(), Some((LogTime::from_micros(5), 1)));
        assert_eq!([4, 5, 6].map(|micros| due.count_until(LogTime::from_micros(micros))), [0, 1, 2]);
        due.put(1, None);
        due.put(1, None);
        assert_eq!(due.first(), Some((LogTime::from_micros(6), 2)));
        due.put(2, None);
        assert_eq!(due.first(), None);
    }
}
