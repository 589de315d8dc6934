//! When machines are due for something: each at most once, found by time and by machine.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::LogTime;

/// Machines, by slot, with when each is due. Invariant: both say the same.
#[derive(Debug, Default)]
pub(crate) struct Due {
    times: BTreeSet<(LogTime, u32)>,
    of: BTreeMap<u32, LogTime>,
    changes: u64,
}

impl Due {
    /// The machine that is due first.
    pub(crate) fn first(&self) -> Option<(LogTime, u32)> {
        self.times.first().copied()
    }

    /// When machines are due, in order.
    pub(crate) fn times(&self) -> impl Iterator<Item = LogTime> {
        self.times.iter().map(|(time, _)| *time)
    }

    /// How often anything changed: as long as that stays, so do the times.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    /// From now on a machine is due then, or never.
    pub(crate) fn put(&mut self, slot: u32, time: Option<LogTime>) {
        let before = match time {
            Some(time) => self.of.insert(slot, time),
            None => self.of.remove(&slot),
        };
        if before != time {
            self.changes += 1;
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
        assert_eq!(due.times().map(|time| time.micros).collect::<Vec<_>>(), [5, 6]);
        due.put(1, None);
        due.put(1, None);
        assert_eq!(due.changes(), 4, "the last one changed nothing");
        assert_eq!(due.first(), Some((LogTime::from_micros(6), 2)));
        due.put(2, None);
        assert_eq!(due.first(), None);
    }
}
