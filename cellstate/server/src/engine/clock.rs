//! The server's clocks: the only place of this crate that reads one for log time and terms.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plenum_model::LogTime;
use rustix::time::{ClockId, clock_gettime};

/// A wait for log time lasts so long at most: the machine may sleep meanwhile, and then it is over sooner.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// From here on it is told at a start that log time and the system's clock are apart: the cell was down, or a clock is or was wrong.
const TOLD_BEHIND_MICROS: i64 = 60_000_000;
const TOLD_AHEAD_MICROS: i64 = 30 * 24 * 3_600_000_000;

/// How far the system's clock is from the time of the last batch, at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockGap {
    /// So many seconds behind it: log time goes on where it was.
    Behind(i64),
    /// So many seconds ahead of it: log time goes there, and never back.
    Ahead(i64),
}

impl ClockGap {
    /// As far as it is worth a line in the server's log.
    pub(crate) fn of_start(log: LogTime) -> Option<Self> {
        Self::of(log, system_micros())
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

/// What is less than that between two clocks is no sleep: they are read one after the other.
const SLEEP_LEAST_MICROS: i64 = 100_000;

/// The clocks of a server: log time, and the monotonic one. Both go on while the machine sleeps, once somebody has noticed.
pub(crate) struct Clock {
    start: Instant,
    start_micros: i64,
    /// The time since the machine booted, at the start: of a clock that goes on while it sleeps, as that of [`Instant`] does not.
    booted: Duration,
    /// For how long the machine slept since the start, as far as it was noticed.
    slept_micros: AtomicI64,
}

impl Clock {
    /// A clock that shows the system's time now, and goes on by the monotonic clock: a system clock that is set back does not stop
    /// log time, and one that is set forward does not make everything due at once. It begins at `log` at the earliest, the time of
    /// the last batch: log time would stand still until a clock that was set back before the start had caught up, and with it
    /// everything that waits for its time.
    pub(crate) fn new(log: LogTime) -> Self {
        Self::starting_at(system_micros().max(log.micros))
    }

    fn starting_at(start_micros: i64) -> Self {
        Self { start: Instant::now(), start_micros, booted: since_boot(), slept_micros: AtomicI64::new(0) }
    }

    /// When the server started.
    pub(crate) fn start_micros(&self) -> i64 {
        self.start_micros
    }

    /// The later of log time and the system's: behind that nothing is yet to come. A system clock may have been set forward since the start.
    pub(crate) fn latest_micros(&self) -> i64 {
        self.now().micros.max(system_micros())
    }

    pub(crate) fn now(&self) -> LogTime {
        self.at(Instant::now())
    }

    /// Log time at an instant.
    pub(crate) fn at(&self, instant: Instant) -> LogTime {
        LogTime::from_micros(self.start_micros.saturating_add(self.since_start(instant)))
    }

    /// Microseconds of the monotonic clock, for terms and heartbeats.
    pub(crate) fn monotonic_micros(&self) -> i64 {
        self.since_start(Instant::now())
    }

    /// By how many seconds log time is ahead of the system's clock, to the nearest; below 0 it is behind. Both go alike, so that it is near 0 unless one of them was
    /// wrong: log time never goes back to a system clock that was ahead once, and does not follow one that is set forward before the next start.
    pub(crate) fn ahead_seconds(&self) -> i64 {
        self.now().micros.saturating_sub(system_micros()).saturating_add(500_000).div_euclid(1_000_000)
    }

    /// When that log time will be, or when to look again; a past one is now.
    pub(crate) fn instant_of(&self, time: LogTime) -> Instant {
        let now = Instant::now();
        let left = u64::try_from(time.micros.saturating_sub(self.at(now).micros)).unwrap_or(0);
        now + Duration::from_micros(left).min(WAIT_MAX)
    }

    /// For how long the machine slept, beyond what counts already.
    pub(crate) fn unnoticed_sleep_micros(&self) -> i64 {
        let slept = since_boot().saturating_sub(self.booted).saturating_sub(self.start.elapsed());
        let unnoticed = micros(slept).saturating_sub(self.slept_micros.load(Ordering::Relaxed));
        if unnoticed < SLEEP_LEAST_MICROS { 0 } else { unnoticed }
    }

    /// From now on that sleep counts: log time leaps by it.
    pub(crate) fn slept(&self, micros: i64) {
        self.slept_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn since_start(&self, instant: Instant) -> i64 {
        let awake = micros(instant.saturating_duration_since(self.start));
        awake.saturating_add(self.slept_micros.load(Ordering::Relaxed))
    }
}

fn system_micros() -> i64 {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_the_system_has_had_is_not_yet_to_come() {
        let behind = Clock::starting_at(1_000_000);
        let system = system_micros();
        assert!(behind.now().micros < system && behind.latest_micros() >= system);
        let ahead = Clock::starting_at(system + 3_600_000_000);
        assert!(ahead.latest_micros() >= system + 3_600_000_000);
    }

    #[test]
    fn a_machine_that_slept_comes_back_to_a_log_time_that_went_on() {
        const HOUR: i64 = 3_600_000_000;
        let mut clock = Clock::new(LogTime::default());
        assert_eq!(clock.unnoticed_sleep_micros(), 0);
        // As if the machine had been up for an hour less when the server started.
        clock.booted = clock.booted.saturating_sub(Duration::from_secs(3600));
        let slept = clock.unnoticed_sleep_micros();
        assert!((1_000_000..2 * HOUR).contains(&slept), "{slept} µs");
        let (log, monotonic) = (clock.now().micros, clock.monotonic_micros());
        clock.slept(slept);
        assert!(clock.now().micros >= log + slept && clock.monotonic_micros() >= monotonic + slept);
        assert_eq!(clock.unnoticed_sleep_micros(), 0, "it counts once");
    }

    /// A wait was bounded by a year from the server's start: after a year it was over as it began, and the resolver did not rest.
    #[test]
    fn a_server_that_is_up_for_years_waits_for_what_is_due_later() {
        let mut clock = Clock::starting_at(1_000_000);
        clock.start -= Duration::from_secs(2 * 366 * 24 * 3600);
        let now = Instant::now();
        assert!(clock.instant_of(clock.now().plus_micros(10_000_000)) > now + Duration::from_secs(5));
        assert!(clock.instant_of(LogTime::from_micros(i64::MAX)) <= Instant::now() + WAIT_MAX);
        assert!(clock.instant_of(LogTime::from_micros(5)) <= Instant::now());
    }

    #[test]
    fn a_clock_that_is_far_from_the_last_entry_is_told_of() {
        const DAY: i64 = 24 * 3_600_000_000;
        let now = 1000 * DAY;
        let gap = |log| ClockGap::of(LogTime::from_micros(log), now);
        assert_eq!([now, now + 50_000_000, now - 29 * DAY, 0].map(gap), [None; 4]);
        assert_eq!(gap(now + 26_000 * DAY), Some(ClockGap::Behind(26_000 * 86_400)));
        assert_eq!(gap(now - 31 * DAY), Some(ClockGap::Ahead(31 * 86_400)));
        assert_eq!(ClockGap::of_start(Clock::new(LogTime::default()).now()), None);
    }

    // A server was started once with a clock that was a year ahead: the warning in the log of its next start was all that told of it.
    #[test]
    fn how_far_log_time_is_from_the_systems_clock_is_known_while_the_server_runs() {
        let hours_from_now = |hours: i64| Clock::starting_at(system_micros() + hours * 3_600_000_000).ahead_seconds();
        assert_eq!([400 * 24, 1, 0, -1].map(hours_from_now), [34_560_000, 3600, 0, -3600]);
        assert_eq!(Clock::new(LogTime::default()).ahead_seconds(), 0);
        assert_eq!(Clock::new(LogTime::from_micros(system_micros() + 86_400_000_000)).ahead_seconds(), 86_400);
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
