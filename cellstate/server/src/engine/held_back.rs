//! The alarm of a cell of which more machines vanish than it gives up: it is rather the network that failed, and somebody has to look.
//!
//! The resolver says from when on each machine waits, whenever that changes; how many wait is counted by who asks, at that moment: in a
//! quiet cell nobody else would look for a minute.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use plenum_model::LogTime;

/// Machines whose times are taken at every change. Of more, they are taken so often at most, as changes come in thousands then.
const FEW: usize = 1024;
const TAKING_MICROS: i64 = 1_000_000;

/// Machines that wait to be given up, or will, as far as the resolver has said.
#[derive(Debug, Default)]
pub(crate) struct HeldBack {
    known: Mutex<Known>,
    /// Some are known: so that nothing is locked in a cell where all is well.
    some: AtomicBool,
    /// The log was told that some wait.
    told: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// From when on each waits, in order.
    times: Vec<LogTime>,
    /// What they are of: a number that is another one when they may be others.
    changes: Option<u64>,
    taken: LogTime,
}

/// What is worth a line in the server's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// So many are held back, and none was.
    Begins(usize),
    /// None is any more.
    Ends,
}

/// What the resolver sees of them.
pub(super) struct Seen<T> {
    /// Since when some wait, or will.
    pub(super) since: Option<LogTime>,
    /// The number of changes of the times.
    pub(super) changes: u64,
    /// The times; not looked at where they are known.
    pub(super) times: T,
}

impl HeldBack {
    /// So many machines wait at `now`.
    pub(crate) fn machines(&self, now: LogTime) -> usize {
        self.known.lock().times.partition_point(|time| *time <= now)
    }

    /// When the resolver has to look again, though nothing changes: to tell that some begin to wait, or as it put off taking the times.
    pub(super) fn due(&self, since: Option<LogTime>, changes: u64) -> Option<LogTime> {
        let since = since?;
        let known = self.known.lock();
        if known.changes != Some(changes) {
            return Some(known.taken.plus_micros(TAKING_MICROS));
        }
        (!self.told.load(Ordering::Relaxed)).then_some(since)
    }

    /// Takes how things stand at `now`.
    pub(super) fn look(&self, now: LogTime, seen: Seen<impl Iterator<Item = LogTime>>) -> Option<Change> {
        let machines = match seen.since {
            None => {
                if self.some.load(Ordering::Relaxed) {
                    self.some.store(false, Ordering::Relaxed);
                    *self.known.lock() = Known::default();
                }
                0
            }
            Some(_) => {
                let mut known = self.known.lock();
                let many = known.times.len() > FEW;
                let just_taken = now.micros - known.taken.micros < TAKING_MICROS;
                if known.changes != Some(seen.changes) && !(many && just_taken) {
                    self.some.store(true, Ordering::Relaxed);
                    *known = Known { times: seen.times.collect(), changes: Some(seen.changes), taken: now };
                }
                known.times.partition_point(|time| *time <= now)
            }
        };
        let change = match (self.told.load(Ordering::Relaxed), machines) {
            (false, 1..) => Change::Begins(machines),
            (true, 0) => Change::Ends,
            _ => return None,
        };
        self.told.store(machines > 0, Ordering::Relaxed);
        Some(change)
    }
}

impl Change {
    pub(super) fn log(self) {
        match self {
            Self::Begins(machines) => tracing::warn!(
                machines,
                "more machines vanished than are given up within a minute: what the others ran is not placed elsewhere yet; is the \
                 network down?"
            ),
            Self::Ends => tracing::info!("no machine waits to be given up any more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> LogTime {
        LogTime::from_micros(micros)
    }

    fn seen(changes: u64, times: &[i64]) -> Seen<impl Iterator<Item = LogTime>> {
        let since = times.first().map(|micros| at(*micros));
        Seen { since, changes, times: times.iter().map(|micros| at(*micros)) }
    }

    fn known() -> Seen<impl Iterator<Item = LogTime>> {
        let times = std::iter::from_fn(|| unreachable!("these times are known"));
        Seen { since: Some(at(6)), changes: 1, times }
    }

    #[test]
    fn an_alarm_begins_and_ends_once_and_its_times_are_taken_once() {
        let alarm = HeldBack::default();
        assert_eq!(alarm.look(at(5), seen(0, &[])), None);
        assert_eq!(alarm.look(at(5), seen(1, &[6, 6, 9])), None, "it is yet to come");
        assert_eq!(alarm.due(Some(at(6)), 1), Some(at(6)));
        assert_eq!(alarm.look(at(6), known()), Some(Change::Begins(2)));
        assert_eq!((alarm.look(at(7), known()), alarm.due(Some(at(6)), 1)), (None, None));
        assert_eq!(alarm.look(at(8), seen(2, &[])), Some(Change::Ends));
        assert_eq!((alarm.look(at(8), seen(2, &[])), alarm.machines(at(9))), (None, 0));
    }

    /// The third one was not counted before somebody changed something, or the minute was over.
    #[test]
    fn who_asks_is_told_how_many_wait_at_that_moment() {
        let alarm = HeldBack::default();
        alarm.look(at(6), seen(1, &[6, 6, 9]));
        assert_eq!([5, 6, 8, 9, 100].map(|micros| alarm.machines(at(micros))), [0, 2, 2, 3, 3]);
        alarm.look(at(100), seen(2, &[9]));
        assert_eq!(alarm.machines(at(100)), 1);
    }

    #[test]
    fn of_very_many_the_times_are_taken_once_a_second_and_surely_then() {
        let (alarm, many) = (HeldBack::default(), vec![6; FEW + 1]);
        alarm.look(at(6), seen(1, &many));
        alarm.look(at(7), seen(2, &many[1..]));
        assert_eq!(alarm.machines(at(7)), FEW + 1);
        let later = at(6 + TAKING_MICROS);
        assert_eq!(alarm.due(Some(at(6)), 2), Some(later));
        alarm.look(later, seen(2, &many[1..]));
        assert_eq!((alarm.machines(later), alarm.due(Some(at(6)), 2)), (FEW, None));
    }
}
