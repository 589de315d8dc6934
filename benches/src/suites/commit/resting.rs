//! A server that rests while something else is measured beside it: waits until it does, and says how busy it was nevertheless. When the history has
//! everything, a checkpoint and merges of its store may still go on, or begin.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::figure::Figure;
use crate::processes;
use crate::suites::in_hundredths;

/// The parameter that says it of each burst of a peer.
pub(super) const CORES_OF_SERVER: &str = "cores_of_server";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Who rests uses less CPU time than this from one look to the next: a server has timers, and the kernel counts hundredths of a second.
const RESTS_BELOW_SECONDS: f64 = 0.015;
/// Looks until it is given up, after fifteen seconds: one that never rests must not hold up a run, and the bursts beside it say how busy it was.
const LOOKS_MAX: u32 = 75;

/// Waits until a process rests; not for ever. Whether it does.
pub(super) async fn comes_to_rest(process: u32) -> anyhow::Result<bool> {
    comes_to_rest_by(|| processes::cpu_seconds(process), LOOK).await
}

async fn comes_to_rest_by(
    mut cpu_seconds: impl FnMut() -> anyhow::Result<f64>,
    look: Duration,
) -> anyhow::Result<bool> {
    let mut before = cpu_seconds()?;
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(look).await;
        let now = cpu_seconds()?;
        if now - before < RESTS_BELOW_SECONDS {
            return Ok(true);
        }
        before = now;
    }
    Ok(false)
}

/// A server, beside a burst of somebody else.
pub(super) struct Beside {
    process: u32,
    began: Instant,
    cpu_seconds: f64,
}

impl Beside {
    /// Begins to look.
    pub(super) fn look(process: u32) -> anyhow::Result<Self> {
        Ok(Self { process, began: Instant::now(), cpu_seconds: processes::cpu_seconds(process)? })
    }

    /// Cores that it kept busy since, on average.
    pub(super) fn cores(&self) -> anyhow::Result<f64> {
        let used = processes::cpu_seconds(self.process)? - self.cpu_seconds;
        Ok(in_hundredths(used / self.began.elapsed().as_secs_f64()))
    }
}

/// A peer's figure, with how busy the server was in each of its bursts: what the case says of the server is about the cell's own load.
pub(super) fn beside(mut figure: Figure, cores_of_server: &[f64]) -> Figure {
    figure.parameters.insert(CORES_OF_SERVER.to_owned(), json!(cores_of_server));
    figure
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Better, Case, Parameters};

    /// Whether a process that has used so much at each look comes to rest, and how often it was looked at.
    async fn rests(mut used: impl FnMut(u32) -> f64) -> (bool, u32) {
        let mut looks = 0;
        let cpu_seconds = || {
            looks += 1;
            Ok(used(looks))
        };
        let rests = comes_to_rest_by(cpu_seconds, Duration::ZERO).await.unwrap();
        (rests, looks)
    }

    #[tokio::test]
    async fn a_server_rests_when_it_hardly_used_any_time_since_the_last_look() {
        // It is busy until the fourth look.
        let used = |look: u32| f64::from(look.min(4)) * 0.1;
        assert_eq!(rests(used).await, (true, 5));
        // One hundredth between two looks may be hardly anything.
        assert_eq!(rests(|look| f64::from(look) / 100.0).await, (true, 2));
    }

    #[tokio::test]
    async fn a_server_that_never_rests_is_not_waited_for_without_end() {
        assert_eq!(rests(|look| f64::from(look) * 0.02).await, (false, LOOKS_MAX + 1));
    }

    #[test]
    fn a_peer_has_how_busy_the_server_was_beside_it_and_not_what_it_did_under_its_load() {
        let parameters = Parameters::from([(CORES_OF_SERVER.to_owned(), json!(1.2))]);
        let case = Case { suite: "commit", case: "claims=1", parameters };
        let figure = case.figure("messages_per_second", "1/s", Better::Higher, vec![1.0, 2.0]).unwrap();
        assert_eq!(beside(figure, &[0.0, 0.25]).parameters[CORES_OF_SERVER], json!([0.0, 0.25]));
    }

    #[test]
    fn what_a_process_uses_beside_a_burst_is_counted() {
        let own = Beside::look(std::process::id()).unwrap();
        // Twenty steps of the kernel's accounting, however long they take.
        while processes::cpu_seconds(own.process).unwrap() - own.cpu_seconds < 0.2 {
            std::hint::black_box((0..10_000u64).fold(0, |sum, number| sum ^ number));
        }
        let seconds = own.began.elapsed().as_secs_f64();
        assert!(own.cores().unwrap() >= 0.1 / seconds - 0.01, "{seconds} s");
    }
}
