//! The server's clocks: the only place of this crate that reads one for log time and terms.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plenum_model::LogTime;

/// From here on it is told at a start that log time and the system's clock are apart: the cell was down, or a clock is or was wrong.
const TOLD_BEHIND_MICROS: i64 = 60_000_000;
const TOLD_AHEAD_MICROS: i64 = 30 * 24 * 3_600_000_000;

/// How far the system's clock is from the time of the last batch, at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Apart {
    /// So many seconds behind it: log time goes on where it was.
    Behind(i64),
    /// So many seconds ahead of it: log time goes there, and never back.
    Ahead(i64),
}

impl Apart {
    /// As far as it is worth a line in the server's log.
    pub(crate) fn of_start(log: LogTime) -> Option<Self> {
        Self::of(log, Clock::new(LogTime::default()).start_micros)
    }

    fn of(log: LogTime, system_micros: i64) -> Option<Self> {
        let micros = system_micros.saturating_sub(log.micros);
        // A cell that is made now has no last batch.
        match micros / 1_000_000 {
            _ if log == LogTime::default() => None,
            seconds if micros < -TOLD_BEHIND_MICROS => Some(Self::Behind(-seconds)),
            seconds if micros > TOLD_AHEAD_MICROS => Some(Self::Ahead(seconds)),
            _ => None,
        }
    }

    /// Tells of it.
    pub(crate) fn log(self) {
        match self {
            Self::Behind(seconds) => tracing::warn!(
                seconds,
                "the system's clock is behind the cell's, which never goes back: times that the cell tells are so far ahead until the \
                 system's clock has caught up and the server is started again"
            ),
            Self::Ahead(seconds) => tracing::warn!(
                seconds,
                "the system's clock is far ahead of the cell's last entry: if the server was not down for so long, a clock is wrong, and \
                 what the cell does by its time comes too early"
            ),
        }
    }
}

/// The clocks of a server: log time, and the monotonic one.
pub(crate) struct Clock {
    start: Instant,
    start_micros: i64,
}

impl Clock {
    /// A clock that shows the system's time now, and goes on by the monotonic clock: a system clock that is set back does not stop
    /// log time, and one that is set forward does not make everything due at once. It begins at `log` at the earliest, the time of
    /// the last batch: log time would stand still until a clock that was set back before the start had caught up, and with it
    /// everything that waits for its time.
    pub(crate) fn new(log: LogTime) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let system_micros = i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX);
        Self { start: Instant::now(), start_micros: system_micros.max(log.micros) }
    }

    /// When the server started.
    pub(crate) fn start_micros(&self) -> i64 {
        self.start_micros
    }

    /// The later of log time and the system's: behind that nothing is yet to come. A system that slept has a clock that went on.
    pub(crate) fn latest_micros(&self) -> i64 {
        self.now().micros.max(Self::new(LogTime::default()).start_micros)
    }

    pub(crate) fn now(&self) -> LogTime {
        self.at(Instant::now())
    }

    /// Log time at an instant.
    pub(crate) fn at(&self, instant: Instant) -> LogTime {
        let elapsed = i64::try_from(instant.saturating_duration_since(self.start).as_micros()).unwrap_or(i64::MAX);
        LogTime::from_micros(self.start_micros.saturating_add(elapsed))
    }

    /// Microseconds of the monotonic clock, for terms and heartbeats.
    pub(crate) fn monotonic_micros(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    /// When that log time will be; a past one is now.
    pub(crate) fn instant_of(&self, time: LogTime) -> Instant {
        let after_start = u64::try_from(time.micros.saturating_sub(self.start_micros)).unwrap_or(0);
        // A year is as good as never, and does not overflow the clock.
        let bounded = after_start.min(366 * 24 * 3_600_000_000);
        self.start + Duration::from_micros(bounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_the_system_has_had_is_not_yet_to_come() {
        let slept = Clock { start: Instant::now(), start_micros: 1_000_000 };
        let system = Clock::new(LogTime::default()).now().micros;
        assert!(slept.now().micros < system && slept.latest_micros() >= system);
        let ahead = Clock { start: Instant::now(), start_micros: system + 3_600_000_000 };
        assert!(ahead.latest_micros() >= system + 3_600_000_000);
    }

    #[test]
    fn a_clock_that_is_far_from_the_last_entry_is_told_of() {
        const DAY: i64 = 24 * 3_600_000_000;
        let now = 1000 * DAY;
        let apart = |log| Apart::of(LogTime::from_micros(log), now);
        assert_eq!([now, now + 50_000_000, now - 29 * DAY, 0].map(apart), [None; 4]);
        assert_eq!(apart(now + 26_000 * DAY), Some(Apart::Behind(26_000 * 86_400)));
        assert_eq!(apart(now - 31 * DAY), Some(Apart::Ahead(31 * 86_400)));
        assert_eq!(Apart::of_start(Clock::new(LogTime::default()).now()), None);
    }

    #[test]
    fn log_time_goes_on_where_it_was_after_a_clock_was_set_back() {
        let tomorrow = Clock::new(LogTime::default()).now().plus_micros(86_400_000_000);
        let clock = Clock::new(tomorrow);
        let first = clock.now();
        std::thread::sleep(Duration::from_millis(1));
        assert!(first >= tomorrow && clock.now() > first);
    }
}
