//! Time that the calling thread spent on a core: on a noisy machine the only fair clock for work that never waits.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CPU time of the calling thread so far.
pub(crate) fn thread_time() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
