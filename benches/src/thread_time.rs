//! Time that the calling thread spent on a core: on a noisy machine the only fair clock for work that never waits.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// CPU time of the calling thread so far.
fn thread_time() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Adds up what pieces of work take, on a core and by the wall's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stopwatch {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

impl Stopwatch {
    /// Does a piece of work, and counts it.
    pub(crate) fn time<T>(&mut self, work: impl FnOnce() -> T) -> anyhow::Result<T> {
        let (cpu, wall) = (thread_time()?, Instant::now());
        let done = work();
        self.wall += wall.elapsed();
        self.cpu += thread_time()? - cpu;
        Ok(done)
    }
}
