//! The bare path beside the cell: what this machine's cores and disk do at most, when nothing is asked of a cell but grants, stops and a log.

use std::time::Duration;

use serde_json::json;

use super::closed::{Shape, Times};
use super::resting::{self, Beside, Busy};
use super::{Place, SIZE};
use crate::Run;
use crate::bare::{self, BARE};
use crate::figure::{Better, Case, Figure, Parameters, by_name};
use crate::rate::{self, Counted};

/// Transactions that wait for the bare path at a time, by their claims: it is at its best with so many.
const IN_FLIGHT: [(u32, usize); 2] = [(100, 256), (1000, 32)];
const WARM_UP: Duration = Duration::from_secs(1);

/// None for a load that is not measured beside it.
fn in_flight(shape: Shape) -> Option<usize> {
    if shape.mirrors || shape.streams != 4 {
        return None;
    }
    let known = IN_FLIGHT.iter().find(|(claims, _)| *claims == shape.claims);
    known.map(|(_, in_flight)| *in_flight)
}

/// What it did once, for a window.
pub(super) struct Burst {
    claims: Counted,
    /// What the cell's server and others used meanwhile.
    busy: Busy,
}

/// Runs it for a window as long as the cell's, where that load is measured beside it. The cell's server is this process.
pub(super) fn bursts(
    place: &Place,
    shape: Shape,
    times: Times,
    options: &Run,
    server: u32,
) -> anyhow::Result<Vec<Burst>> {
    let Some(in_flight) = in_flight(shape) else { return Ok(Vec::new()) };
    let bare = bare::Shape {
        machines: SIZE.machines,
        claims: shape.claims,
        in_flight,
        warm_up: WARM_UP,
        window: times.window,
        windows: 1,
    };
    let beside = Beside::look(server, None)?;
    let windows = bare::run_path(bare, options.seed, &place.scratch)?;
    let busy = beside.busy()?;
    Ok(windows.into_iter().map(|claims| Burst { claims, busy }).collect())
}

/// Its rates, from before and after the cell's, and what part of them the cell's is.
pub(super) fn figures(case: &Case<'_>, bursts: &[Burst], cell: &[Counted]) -> anyhow::Result<Vec<Figure>> {
    let bare: Vec<Counted> = bursts.iter().map(|burst| burst.claims).collect();
    let busy: Vec<Busy> = bursts.iter().map(|burst| burst.busy).collect();
    let of_bare = rate::of_all(&bare);
    let ratios = cell.iter().map(|window| window.per_second() / of_bare).collect();
    let more = [(
        "bare",
        json!(
            "one client, a connection of TCP on loopback, grants and stops without rules or receipts, one sync a batch, no history: threads of one process, the same disk"
        ),
    )];
    let mut parameters: Parameters = case.parameters.clone();
    parameters.extend(by_name(more));
    let case = Case { suite: case.suite, case: case.case, parameters };
    Ok(vec![
        rate::together(case.figure("claims_ratio_to_bare", "1", Better::Higher, ratios)?, rate::of_all(cell) / of_bare),
        resting::beside(rate::figure(&case, "claims_per_second", &bare)?.of(BARE), &busy),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_each_burst_stands_what_the_cells_server_used_meanwhile() {
        let case = Case { suite: "commit", case: "claims=100", parameters: Parameters::new() };
        let counted = |count| Counted { count, seconds: 1.0 };
        let burst = |count, server| Burst { claims: counted(count), busy: Busy { server, others: 0.0 } };
        let figures = figures(&case, &[burst(200, 0.0), burst(400, 0.5)], &[counted(150)]).unwrap();
        let [ratio, bare] = &figures[..] else { panic!("a ratio, and the bare path's rates: {figures:?}") };
        assert_eq!((ratio.value, bare.value), (0.5, 300.0));
        assert_eq!(bare.parameters["cores_of_server"], json!([0.0, 0.5]));
        assert!(!ratio.parameters.contains_key("cores_of_server"), "that is the cell's under its load, if anybody's");
    }
}
