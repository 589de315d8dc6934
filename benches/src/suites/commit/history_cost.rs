//! What the history costs: two cells that differ in nothing else, one with a history and one without, under the same load in turns.

use std::time::Duration;

use serde_json::json;

use super::cell::Serving;
use super::closed::{self, Shape, Times, Window};
use super::ground::Ground;
use super::{Place, SIZE};
use crate::Run;
use crate::figure::{Better, Case, Figure, median};
use crate::progress::say;

const LOAD: Shape = Shape { claims: 100, streams: 4, in_flight: 16, mirrors: false };
const CASE: &str = "history=on,off claims=100 streams=4 in_flight=16";
/// Short enough that the agents of the other cell may rest meanwhile: their leases run on.
const TIMES: Times = Times { warm_up: Duration::from_secs(2), window: Duration::from_secs(2), windows: 2 };
const TURNS: u32 = 6;

/// Whether it was asked for; not by the quick form, which would have to fill a second cell.
pub(super) fn is_wanted(options: &Run) -> bool {
    !options.quick && options.has_case(CASE)
}

/// Measures both in turns. While one cell is loaded the other one rests.
pub(super) async fn run(place: &Place, options: &Run) -> anyhow::Result<Vec<Figure>> {
    let mut with = Ground::prepare(&place.scratch.join("with"), SIZE, Serving::usual(), options.seed).await?;
    let without = Serving::without_history();
    let mut without = Ground::prepare(&place.scratch.join("without"), SIZE, without, options.seed).await?;
    let (mut rates_with, mut rates_without) = (Vec::new(), Vec::new());
    let mut seen_in_turns = Vec::new();
    for turn in 1..=TURNS {
        say(&format!("{CASE}: turn {turn} of {TURNS}"));
        let seen = closed::run(&mut with, LOAD, TIMES).await?;
        rates_with.push(rate(&seen.windows));
        seen_in_turns.push(seen.parameters);
        rates_without.push(rate(&closed::run(&mut without, LOAD, TIMES).await?.windows));
    }
    with.kill_and_check().await?;
    without.kill_and_check().await?;
    let mut parameters = closed::parameters_of_turns(seen_in_turns);
    parameters.extend(closed::parameters(SIZE, TIMES, &place.file_system));
    let more = [
        ("turns", json!(TURNS)),
        (
            "history_cost_ratio",
            json!("the part of the rate without a history that is lost with one, turn by turn: 0.1 is a tenth"),
        ),
    ];
    parameters.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let case = Case { suite: super::NAME, case: CASE, parameters };
    Ok(vec![
        case.figure("history_cost_ratio", "1", Better::Lower, costs(&rates_with, &rates_without))?,
        case.figure("claims_per_second", "1/s", Better::Higher, rates_with)?,
        case.figure("claims_per_second_without_history", "1/s", Better::Higher, rates_without)?,
    ])
}

fn rate(windows: &[Window]) -> f64 {
    let mut rates: Vec<f64> = windows.iter().map(Window::claims_per_second).collect();
    rates.sort_by(f64::total_cmp);
    median(&rates)
}

fn costs(with: &[f64], without: &[f64]) -> Vec<f64> {
    with.iter().zip(without).map(|(with, without)| 1.0 - with / without).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_a_part_of_the_rate_without_a_history() {
        assert_eq!(costs(&[90.0, 50.0, 100.0], &[100.0, 100.0, 80.0]), [1.0 - 0.9, 0.5, -0.25]);
    }
}
