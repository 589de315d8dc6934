//! The time that an agent goes by: never set back, and going on while the machine sleeps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since the machine was booted, by a clock that is never set, and doesn't stand still while the machine sleeps.
pub(crate) fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Milliseconds since 1970 as they were at the start, and monotonic from there. Time that the machine sleeps counts: leases
/// run out meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    base: Duration,
    pub(crate) base_unix_ms: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { base: since_boot(), base_unix_ms: u64::try_from(since.as_millis()).unwrap_or(0) }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        let elapsed = since_boot().saturating_sub(self.base);
        self.base_unix_ms + u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// How long it is until then.
    pub(crate) fn until(&self, at_ms: u64) -> Duration {
        Duration::from_millis(at_ms.saturating_sub(self.now_ms()))
    }

    /// That time by [`since_boot`], which others can ask, too.
    pub(crate) fn at(&self, at_ms: u64) -> Duration {
        self.base.saturating_add(Duration::from_millis(at_ms.saturating_sub(self.base_unix_ms)))
    }
}
