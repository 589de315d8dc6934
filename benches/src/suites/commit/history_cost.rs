//! What the history costs: two cells that differ in nothing else, one with a history and one without, under the same load in turns, each once segments of
//! its log are used again.

use std::time::Duration;

use serde_json::json;

use super::cell::Serving;
use super::closed::{self, Shape, Times, Window};
use super::ground::Ground;
use super::{Place, SIZE, steady};
use crate::figure::{Better, Case, Figure, by_name};
use crate::progress::say;
use crate::rate::{self, Counted};
use crate::{Run, interrupt};

const LOAD: Shape = Shape { claims: 100, streams: 4, in_flight: 16, mirrors: false };
const CASE: &str = "history=on,off claims=100 streams=4 in_flight=16";
/// Long enough for two checkpoints or so: a turn of one period has one within it or none, as it happens. Short enough that the agents of the other
/// cell may rest meanwhile: their leases run on.
const TIMES: Times = Times { warm_up: Duration::from_secs(2), window: Duration::from_secs(2), windows: 5 };
const TURNS: u32 = 6;

/// Whether it was asked for; not by the quick form, which would have to fill a second cell.
pub(super) fn is_wanted(options: &Run) -> bool {
    !options.quick && options.has_case(CASE)
}

/// Measures both in turns. While one cell is loaded the other one rests.
pub(super) async fn run(place: &Place, options: &Run) -> anyhow::Result<Vec<Figure>> {
    let mut with = Ground::prepare(&place.scratch.join("with"), SIZE, Serving::usual(), options.seed).await?;
    steady::reach(&mut with).await?;
    // The second cell would be filled for nothing.
    if interrupt::asked() {
        with.kill_and_check().await?;
        return Ok(Vec::new());
    }
    let without = Serving::without_history();
    let mut without = Ground::prepare(&place.scratch.join("without"), SIZE, without, options.seed).await?;
    // A log whose segments are new files costs more, which would make the history look cheap.
    steady::reach(&mut without).await?;
    let (mut claims_with, mut claims_without) = (Vec::new(), Vec::new());
    let (mut seen_with, mut seen_without) = (Vec::new(), Vec::new());
    for turn in 1..=TURNS {
        say(&format!("{CASE}: turn {turn} of {TURNS}"));
        let seen = closed::run(&mut with, LOAD, TIMES).await?;
        claims_with.push(rate::all(seen.windows.iter().map(Window::claims)));
        seen_with.push(seen.parameters);
        let seen = closed::run(&mut without, LOAD, TIMES).await?;
        claims_without.push(rate::all(seen.windows.iter().map(Window::claims)));
        seen_without.push(seen.parameters);
        if interrupt::asked() {
            break;
        }
    }
    let mut parameters = closed::parameters_of_turns(&seen_with);
    parameters.extend(closed::parameters(&with, TIMES, &place.file_system));
    with.kill_and_check().await?;
    let again = without.segments_used_again;
    // Its log is gone.
    without.kill().await?;
    let without_history = closed::parameters_of_turns(&seen_without);
    for name in ["cores_of_others", "cores_of_server_by_thread"] {
        parameters.insert(format!("{name}_without_history"), json!(without_history.get(name)));
    }
    let more = [
        ("turns", json!(claims_with.len())),
        ("segments_used_again_without_history", json!(again)),
        (
            "history_cost_ratio",
            json!("the part of the rate without a history that is lost with one, turn by turn: 0.1 is a tenth"),
        ),
    ];
    parameters.extend(by_name(more));
    let case = Case { suite: super::NAME, case: CASE, parameters };
    Ok(vec![
        cost(&case, &claims_with, &claims_without)?,
        rate::figure(&case, "claims_per_second", &claims_with)?,
        rate::figure(&case, "claims_per_second_without_history", &claims_without)?,
    ])
}

/// The part of the rate that is lost: of all turns together, and of each.
fn cost(case: &Case<'_>, with: &[Counted], without: &[Counted]) -> anyhow::Result<Figure> {
    let lost = |with: f64, without: f64| 1.0 - with / without;
    let costs = with.iter().zip(without).map(|(with, without)| lost(with.per_second(), without.per_second())).collect();
    let figure = case.figure("history_cost_ratio", "1", Better::Lower, costs)?;
    Ok(rate::together(figure, lost(rate::of_all(with), rate::of_all(without))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Parameters;

    #[test]
    fn what_is_lost_is_a_part_of_the_rate_without_a_history() {
        let case = Case { suite: "commit", case: CASE, parameters: Parameters::new() };
        let turns = |claims: [u64; 3]| claims.map(|count| Counted { count, seconds: 1.0 });
        let cost = cost(&case, &turns([90, 50, 100]), &turns([100, 100, 100])).unwrap();
        assert_eq!(cost.samples, [1.0 - 0.9, 0.5, 0.0]);
        assert_eq!(cost.value, 1.0 - 240.0 / 300.0, "of all turns together, and not that in the middle");
    }
}
