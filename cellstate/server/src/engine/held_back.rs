//! The alarm of a cell of which more machines vanish than it gives up: it is rather the network that failed, and somebody has to look.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use plenum_model::LogTime;

/// While the alarm is on, machines are counted so often at most: there may be very many.
const COUNTING_MICROS: i64 = 1_000_000;

/// Machines that wait to be given up, as far as the resolver has said.
#[derive(Debug, Default)]
pub(crate) struct HeldBack {
    machines: AtomicUsize,
    counted_micros: AtomicI64,
}

/// What is worth a line in the server's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// So many are held back, and none was.
    Begins(usize),
    /// None is any more.
    Ends,
}

impl HeldBack {
    /// So many machines wait.
    pub(crate) fn machines(&self) -> usize {
        self.machines.load(Ordering::Relaxed)
    }

    /// Takes how things stand at `now`: since when some wait, or will, and how many it is then.
    pub(super) fn look(&self, now: LogTime, since: Option<LogTime>, count: impl FnOnce() -> usize) -> Option<Change> {
        let (before, waits) = (self.machines(), since.is_some_and(|since| since <= now));
        let just_counted = now.micros - self.counted_micros.load(Ordering::Relaxed) < COUNTING_MICROS;
        if waits && before > 0 && just_counted {
            return None;
        }
        let machines = if waits { count() } else { 0 };
        if waits {
            self.counted_micros.store(now.micros, Ordering::Relaxed);
        }
        self.machines.store(machines, Ordering::Relaxed);
        match (before, machines) {
            (0, 1..) => Some(Change::Begins(machines)),
            (1.., 0) => Some(Change::Ends),
            _ => None,
        }
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

    #[test]
    fn an_alarm_begins_and_ends_once_and_counts_seldom_meanwhile() {
        let (alarm, at) = (HeldBack::default(), LogTime::from_micros);
        let uncounted = || unreachable!("nothing is counted");
        assert_eq!(alarm.look(at(5), None, uncounted), None);
        assert_eq!(alarm.look(at(5), Some(at(6)), uncounted), None, "it is yet to come");
        assert_eq!(alarm.look(at(6), Some(at(6)), || 3), Some(Change::Begins(3)));
        assert_eq!((alarm.look(at(7), Some(at(6)), uncounted), alarm.machines()), (None, 3));
        let later = at(6 + COUNTING_MICROS);
        assert_eq!((alarm.look(later, Some(at(6)), || 2), alarm.machines()), (None, 2));
        assert_eq!((alarm.look(later, None, uncounted), alarm.machines()), (Some(Change::Ends), 0));
        assert_eq!(alarm.look(later, None, uncounted), None);
    }
}
