//! How long the machine keeps threads off its cores that do nothing but run: a hypervisor that gives the core to another guest, another process
//! that is in line for it, interrupts. Whatever is timed on this machine waits so long besides, however good it is.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::figure::{Better, Case, Figure, number};

/// How long it is looked before a case and after it: a tenth of a second shows no stalls that are rare.
const USUAL: Duration = Duration::from_millis(300);
/// Looks at the clock take less than a tenth of that from each other.
const SHORTEST: Duration = Duration::from_micros(20);

/// What threads that wanted to run all the time, one on each core, were kept from.
#[derive(Clone, Debug)]
pub(crate) struct Stalls {
    /// Seconds for which they looked, of all of them.
    looked: f64,
    /// Seconds of each stall, longest first.
    stalls: Vec<f64>,
}

impl Stalls {
    /// Keeps all cores busy for a moment.
    pub(crate) fn look() -> anyhow::Result<Self> {
        Self::look_for(USUAL)
    }

    fn look_for(time: Duration) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().context("how many cores are there?")?;
        let seen: Vec<(Duration, Vec<Duration>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..cores.get()).map(|_| scope.spawn(|| spin(time))).collect();
            let ended = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked")));
            ended.collect::<anyhow::Result<_>>()
        })?;
        let stalls = seen.iter().flat_map(|(_, stalls)| stalls).map(Duration::as_secs_f64);
        Ok(Self::of(seen.iter().map(|(looked, _)| looked.as_secs_f64()).sum(), stalls.collect()))
    }

    fn of(looked: f64, mut stalls: Vec<f64>) -> Self {
        stalls.sort_by(|one, other| other.total_cmp(one));
        Self { looked, stalls }
    }

    /// What was seen each time, beside a case.
    pub(crate) fn figures(case: &Case<'_>, seen: &[Self]) -> anyhow::Result<[Figure; 2]> {
        let waits = seen.iter().map(|stalls| stalls.wait(0.99)).collect();
        Ok([
            case.figure("core_stall_ratio", "1", Better::Lower, seen.iter().map(Self::ratio).collect())?,
            case.figure("core_stall_seconds_p99", "s", Better::Lower, waits)?,
        ])
    }

    /// The part of the time that stalls took.
    fn ratio(&self) -> f64 {
        self.stalls.iter().sum::<f64>() / self.looked
    }

    /// Seconds below which such a part of those wait who want to run from a moment on that is picked at random. A stall of g seconds keeps
    /// those for longer than w that come in its first g − w seconds.
    fn wait(&self, part: f64) -> f64 {
        let late = (1.0 - part) * self.looked;
        let mut longer = 0.0;
        for (count, stall) in self.stalls.iter().enumerate() {
            longer += stall;
            // With w at the next shorter stall, these keep so many seconds' worth for longer than w.
            let next = self.stalls.get(count + 1).copied().unwrap_or(0.0);
            let longest = number(count as u64 + 1);
            if longer - longest * next >= late {
                return (longer - late) / longest;
            }
        }
        0.0
    }
}

/// Looks at the clock for so long: how long that was, and the stalls among it.
fn spin(time: Duration) -> (Duration, Vec<Duration>) {
    let began = Instant::now();
    let (mut last, mut stalls) = (began, Vec::new());
    while last - began < time {
        let now = Instant::now();
        if now - last >= SHORTEST {
            stalls.push(now - last);
        }
        last = now;
    }
    (last - began, stalls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_at_a_random_moment_waits_for_what_is_left_of_a_stall() {
        // A tenth of the time in one stall, and as much in a hundred short ones.
        let stalls = Stalls::of(10.0, [vec![0.01; 100], vec![1.0]].concat());
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        near(stalls.ratio(), 0.2);
        // One of a hundred comes in the first tenth of the long one.
        near(stalls.wait(0.99), 0.9);
        near(stalls.wait(0.95), 0.5);
        // And one of ten in the long one, or early in a short one.
        near(stalls.wait(0.9), 1.0 / 101.0);
        near(stalls.wait(0.85), (2.0 - 1.5) / 101.0);
        near(stalls.wait(0.8), 0.0);
        near(stalls.wait(0.5), 0.0);
        near(Stalls::of(1.0, Vec::new()).wait(0.999), 0.0);
    }

    #[test]
    fn all_cores_are_looked_at_for_as_long_as_was_asked() {
        let time = Duration::from_millis(5);
        let cores = std::thread::available_parallelism().unwrap().get();
        let seen = Stalls::look_for(time).unwrap();
        assert!(seen.looked >= time.as_secs_f64() * number(cores as u64), "{seen:?}");
        assert!((0.0..=1.0).contains(&seen.ratio()), "{seen:?}");
    }
}
