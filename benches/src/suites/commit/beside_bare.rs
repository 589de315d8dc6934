//! The bare path beside the cell: what this machine's cores and disk do at most, when nothing is asked of a cell but grants, stops and a log.

use std::time::Duration;

use serde_json::json;

use super::closed::{Shape, Times};
use super::{Place, SIZE};
use crate::Run;
use crate::bare::{self, BARE};
use crate::figure::{Better, Case, Figure, Parameters, median};

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

/// Runs it for a window as long as the cell's, where that load is measured beside it.
pub(super) fn rates(place: &Place, shape: Shape, times: Times, options: &Run) -> anyhow::Result<Vec<f64>> {
    let Some(in_flight) = in_flight(shape) else { return Ok(Vec::new()) };
    let bare = bare::Shape {
        machines: SIZE.machines,
        claims: shape.claims,
        in_flight,
        warm_up: WARM_UP,
        window: times.window,
        windows: 1,
    };
    bare::run_path(bare, options.seed, &place.scratch)
}

/// Its rates, from before and after the cell's, and what part of them the cell's is.
pub(super) fn figures(case: &Case<'_>, bare: Vec<f64>, cell: &[f64]) -> anyhow::Result<Vec<Figure>> {
    let mut sorted = bare.clone();
    sorted.sort_by(f64::total_cmp);
    let most = median(&sorted);
    let ratios = cell.iter().map(|rate| rate / most).collect();
    let more = [(
        "bare",
        json!(
            "one client, a connection of TCP on loopback, grants and stops without rules or receipts, one sync a batch, no history: threads of one process, the same disk"
        ),
    )];
    let mut parameters: Parameters = case.parameters.clone();
    parameters.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let case = Case { suite: case.suite, case: case.case, parameters };
    Ok(vec![
        case.figure("claims_ratio_to_bare", "1", Better::Higher, ratios)?,
        case.figure("claims_per_second", "1/s", Better::Higher, bare)?.of(BARE),
    ])
}
