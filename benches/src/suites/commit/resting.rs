//! A server that rests while something else is measured beside it: waits until it does, and says how busy it was nevertheless, and others were. When the history has
//! everything, a checkpoint and merges of its store may still go on, or begin.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::figure::{Figure, Parameters};
use crate::processes;
use crate::suites::{Others, in_hundredths};

/// The parameters that say it of each burst of a peer.
const CORES_OF_SERVER: &str = "cores_of_server";
const CORES_OF_OTHERS: &str = "cores_of_others";
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

/// A server, and all who are none of ours, beside a burst of a peer.
pub(super) struct Beside {
    process: u32,
    began: Instant,
    cpu_seconds: f64,
    others: Others,
}

/// Cores that were kept busy beside a burst of a peer, on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Busy {
    /// By the cell's server.
    pub(super) server: f64,
    /// By the work of other people.
    pub(super) others: f64,
}

impl Beside {
    /// Begins to look. A peer is in this process, or is one of these.
    pub(super) fn look(server: u32, peers: impl IntoIterator<Item = u32>) -> anyhow::Result<Self> {
        let others = Others::look([std::process::id(), server].into_iter().chain(peers).collect())?;
        Ok(Self { process: server, began: Instant::now(), cpu_seconds: processes::cpu_seconds(server)?, others })
    }

    /// Since then.
    pub(super) fn busy(&self) -> anyhow::Result<Busy> {
        let used = processes::cpu_seconds(self.process)? - self.cpu_seconds;
        let server = in_hundredths(used / self.began.elapsed().as_secs_f64());
        Ok(Busy { server, others: self.others.cores()? })
    }
}

/// A peer's figure, with how busy the server and others were in each of its bursts: what the case says of them is about the cell's own load.
pub(super) fn beside(mut figure: Figure, bursts: &[Busy]) -> Figure {
    figure.parameters.extend(parameters(bursts));
    figure
}

/// The same of a peer that has a case of its own.
pub(super) fn parameters(bursts: &[Busy]) -> Parameters {
    let of = |which: fn(&Busy) -> f64| json!(bursts.iter().map(which).collect::<Vec<_>>());
    Parameters::from([
        (CORES_OF_SERVER.to_owned(), of(|busy| busy.server)),
        (CORES_OF_OTHERS.to_owned(), of(|busy| busy.others)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Better, Case};

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
    fn a_peer_has_how_busy_others_and_the_server_were_beside_it_and_not_under_the_cells_load() {
        let parameters = Parameters::from([CORES_OF_SERVER, CORES_OF_OTHERS].map(|name| (name.to_owned(), json!(1.2))));
        let case = Case { suite: "commit", case: "claims=1", parameters };
        let figure = case.figure("messages_per_second", "1/s", Better::Higher, vec![1.0, 2.0]).unwrap();
        let busy = [Busy { server: 0.0, others: 0.5 }, Busy { server: 0.25, others: 0.0 }];
        let parameters = beside(figure, &busy).parameters;
        assert_eq!(parameters[CORES_OF_SERVER], json!([0.0, 0.25]));
        assert_eq!(parameters[CORES_OF_OTHERS], json!([0.5, 0.0]));
    }

    #[test]
    fn what_a_process_uses_beside_a_burst_is_counted() {
        let own = Beside::look(std::process::id(), None).unwrap();
        // Twenty steps of the kernel's accounting, however long they take.
        while processes::cpu_seconds(own.process).unwrap() - own.cpu_seconds < 0.2 {
            std::hint::black_box((0..10_000u64).fold(0, |sum, number| sum ^ number));
        }
        let seconds = own.began.elapsed().as_secs_f64();
        assert!(own.busy().unwrap().server >= 0.1 / seconds - 0.01, "{seconds} s");
    }
}
