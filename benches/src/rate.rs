//! Rates: what was counted in windows of time. One has the same shape in all suites that load a server.

use serde_json::json;

use crate::figure::{Better, Case, Figure, number};

/// The parameter that says of a figure that it is of all windows together; [`crate::compare`] looks for it.
pub(crate) const PARAMETER: &str = "rate";

/// What was counted in one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counted {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
}

impl Counted {
    /// The rate of this window alone.
    pub(crate) fn per_second(self) -> f64 {
        number(self.count) / self.seconds
    }
}

/// What was counted in all windows, and the time of all of them.
pub(crate) fn all(windows: impl IntoIterator<Item = Counted>) -> Counted {
    let (mut count, mut seconds) = (0, 0.0);
    for window in windows {
        count += window.count;
        seconds += window.seconds;
    }
    Counted { count, seconds }
}

/// What was counted in all windows, over the time of all of them; no number without any. The median of the windows would leave out what fewer than half
/// of them have, and a checkpoint is such a thing: a cell writes one every few seconds under load, and a window of two seconds has one or none.
pub(crate) fn of_all<'a>(windows: impl IntoIterator<Item = &'a Counted>) -> f64 {
    all(windows.into_iter().copied()).per_second()
}

/// A rate: its value is that of all windows together, and each sample that of one.
///
/// # Errors
/// When there is no window.
pub(crate) fn figure(case: &Case<'_>, metric: &str, windows: &[Counted]) -> anyhow::Result<Figure> {
    let samples = windows.iter().map(|window| window.per_second()).collect();
    Ok(together(case.figure(metric, "1/s", Better::Higher, samples)?, of_all(windows)))
}

/// How many times a peer's rate ours is, both over all turns that both have: each sample is of one turn.
///
/// # Errors
/// When there is no such turn.
pub(crate) fn ratio(case: &Case<'_>, metric: &str, ours: &[Vec<Counted>], peer: &[Counted]) -> anyhow::Result<Figure> {
    let turns = || ours.iter().zip(peer);
    let samples = turns().map(|(windows, peer)| of_all(windows) / peer.per_second()).collect();
    let value = of_all(turns().flat_map(|(windows, _)| windows)) / of_all(turns().map(|(_, peer)| peer));
    Ok(together(case.figure(metric, "1", Better::Higher, samples)?, value))
}

/// The same figure, with a value that is of all windows together.
pub(crate) fn together(mut figure: Figure, value: f64) -> Figure {
    figure.value = value;
    let told = "rates of a loaded server, and what is a part or a multiple of them: what was counted in all windows over the time of all of them, no median; each sample is of one window, or of one turn";
    figure.parameters.insert(PARAMETER.to_owned(), json!(told));
    figure
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Parameters;

    fn counted(count: u64, seconds: f64) -> Counted {
        Counted { count, seconds }
    }

    fn case() -> Case<'static> {
        Case { suite: "commit", case: "claims=100", parameters: Parameters::new() }
    }

    #[test]
    fn what_slowed_one_window_of_three_is_in_the_rate() {
        let windows = [counted(200, 2.0), counted(200, 2.0), counted(80, 2.0)];
        let figure = figure(&case(), "claims_per_second", &windows).unwrap();
        assert_eq!((figure.value, figure.samples), (80.0, vec![100.0, 100.0, 40.0]));
        assert!(figure.parameters.contains_key(PARAMETER));
        // A window counts by its length.
        assert_eq!(of_all(&[counted(100, 1.0), counted(100, 3.0)]), 50.0);
        assert!(super::figure(&case(), "claims_per_second", &[]).is_err());
    }

    #[test]
    fn a_ratio_is_over_all_turns_that_both_have() {
        let ours = [vec![counted(1000, 1.0), counted(3000, 1.0)], vec![counted(5000, 1.0)], vec![counted(1, 1.0)]];
        let figure = ratio(&case(), "transactions_ratio_to_etcd", &ours, &[counted(500, 1.0), counted(1000, 1.0)]);
        let figure = figure.unwrap();
        assert_eq!((figure.value, figure.samples), (4.0, vec![4.0, 5.0]));
        assert!(ratio(&case(), "transactions_ratio_to_etcd", &ours, &[]).is_err());
    }
}
