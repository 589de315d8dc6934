//! Two runs side by side, figure by figure.

use std::fmt::Write;

use anyhow::ensure;

use crate::figure::{Better, Figure, Results};
use crate::report::quantity;

/// What came of it.
pub(crate) struct Comparison {
    /// A table for people.
    pub(crate) text: String,
    /// Figures that are worse by more than the threshold.
    pub(crate) regressions: usize,
}

/// Compares what both runs have. `threshold` is the part by which a figure may be worse: 0.1 lets 2.0 fall to 1.8, and rise to 2.2
/// where less is better.
///
/// # Errors
/// When they share no figure.
pub(crate) fn compare(a: &Results, b: &Results, threshold: f64) -> anyhow::Result<Comparison> {
    let mut rows = Vec::new();
    let mut regressions = 0;
    let mut missing = 0;
    for old in &a.figures {
        let Some(new) = b.figures.iter().find(|new| new.key() == old.key()) else {
            missing += 1;
            continue;
        };
        let verdict = verdict(old, new, threshold);
        regressions += usize::from(verdict == Verdict::Worse);
        rows.push(row(old, new, verdict));
    }
    ensure!(!rows.is_empty(), "expected figures of the same suites and cases in both runs, found none in common");
    let mut text = table(&rows);
    if missing > 0 {
        let _ = writeln!(text, "{missing} figures of A are not in B");
    }
    if a.machine.cpu_model != b.machine.cpu_model || a.machine.cores != b.machine.cores {
        let _ = writeln!(text, "the machines differ: {} and {}", a.machine.cpu_model, b.machine.cpu_model);
    }
    let _ =
        writeln!(text, "load average at the start: {} and {}", a.machine.load_average[0], b.machine.load_average[0]);
    Ok(Comparison { text, regressions })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Better,
    Same,
    Worse,
}

fn verdict(old: &Figure, new: &Figure, threshold: f64) -> Verdict {
    let (lower, upper) = (old.value * (1.0 - threshold), old.value * (1.0 + threshold));
    let (rose, fell) = (new.value > upper, new.value < lower);
    match (old.better, rose, fell) {
        (Better::Higher, true, _) | (Better::Lower, _, true) => Verdict::Better,
        (Better::Higher, _, true) | (Better::Lower, true, _) => Verdict::Worse,
        _ => Verdict::Same,
    }
}

fn row(old: &Figure, new: &Figure, verdict: Verdict) -> [String; 6] {
    let ratio = if old.value > 0.0 { format!("{:.3}", new.value / old.value) } else { "-".to_owned() };
    // Ranges that overlap may differ by chance.
    let overlap = old.min <= new.max && new.min <= old.max;
    let words = match (verdict, overlap) {
        (Verdict::Same, _) => "",
        (Verdict::Better, true) => "better, ranges overlap",
        (Verdict::Better, false) => "better",
        (Verdict::Worse, true) => "WORSE, ranges overlap",
        (Verdict::Worse, false) => "WORSE",
    };
    let case = format!("{} {}", old.suite, old.case);
    let values = [quantity(old.value, &old.unit), quantity(new.value, &new.unit)];
    let [old_value, new_value] = values;
    [case, old.metric.clone(), old_value, new_value, ratio, words.to_owned()]
}

fn table(rows: &[[String; 6]]) -> String {
    let heads = ["CASE", "METRIC", "A", "B", "B/A", ""].map(str::to_owned);
    let width = |column: usize| rows.iter().chain([&heads]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for row in [&heads].into_iter().chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Case, Parameters};
    use crate::machine::Machine;

    fn results(value: f64, better: Better) -> Results {
        let case = Case { suite: "core", case: "machines=1", parameters: Parameters::new() };
        let figure = case.figure("claims_per_second", "1/s", better, vec![value]).unwrap();
        let machine = Machine::this().unwrap();
        Results {
            plenum: "0".into(),
            machine,
            seed: 1,
            started: String::new(),
            quick: true,
            stopped: false,
            figures: vec![figure],
        }
    }

    fn regressions(old: f64, new: f64, better: Better) -> usize {
        compare(&results(old, better), &results(new, better), 0.1).unwrap().regressions
    }

    #[test]
    fn a_rate_that_falls_is_a_regression_and_a_time_that_falls_is_none() {
        assert_eq!(regressions(100.0, 80.0, Better::Higher), 1);
        assert_eq!(regressions(100.0, 80.0, Better::Lower), 0);
        assert_eq!(regressions(100.0, 120.0, Better::Lower), 1);
        assert_eq!(regressions(100.0, 120.0, Better::Higher), 0);
    }

    #[test]
    fn what_lies_within_the_threshold_is_no_regression() {
        assert_eq!(regressions(100.0, 91.0, Better::Higher), 0);
        assert_eq!(regressions(100.0, 109.0, Better::Lower), 0);
    }

    #[test]
    fn runs_without_a_common_figure_are_not_compared() {
        let mut other = results(1.0, Better::Higher);
        other.figures[0].case = "machines=2".into();
        assert!(compare(&results(1.0, Better::Higher), &other, 0.1).is_err());
    }
}
