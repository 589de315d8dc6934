//! Two runs side by side, figure by figure, with how sure the difference is.
//!
//! The interval of a ratio is a percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13): samples of both
//! runs are drawn again with replacement, two thousand times, and 95 of 100 ratios of their medians lie within it. It is seeded: the same two
//! runs always give the same answer. Of rates that are of all windows together means are drawn instead. A tail's value is that of all windows together, too, and
//! its interval that of the medians of its samples all the same: one that rose by one stall in one of many windows is worse, perhaps by chance.

use std::fmt::Write;

use anyhow::ensure;
use serde_json::Value;

use crate::build::Build;
use crate::figure::{Better, Figure, Results, median};
use crate::random::Random;
use crate::report::quantity;
use crate::{latency, rate};

/// Fewer samples tell nothing about how far they scatter.
const SAMPLES_MIN: usize = 3;
const RESAMPLES: usize = 2000;
/// Of a hundred ratios so many lie below the interval, and as many above.
const TAIL_PERCENT: f64 = 2.5;
/// What metrics of the machine by itself, and of clients of the harness, begin with.
const OF_THE_MACHINE: [&str; 3] = ["disk_sync_", "core_stall_", "commit_late_"];
/// Differences that a run leaves out where they are less than what was measured scatters by: better could hardly be.
const LEFT_OUT_WHEN_SMALL: [&str; 4] =
    ["bytes_per_allocation", "bytes_per_machine", "stalled_watcher_bytes", "commit_less_sync_seconds_p50"];
/// Between a metric and the peer that it is a part of.
const PART_OF: &str = "_ratio_to_";
/// Between that peer and which of its rates is meant.
const PEER_THAT: &str = "_with_";
/// Parameters that are chosen, or belong to what is measured on: figures that differ in one of them are of something else. All others are words, or what was
/// seen beside a figure.
const SETTINGS: [&str; 11] = [
    "file_system",
    "segments_used_again",
    "version",
    "seconds_per_sample",
    "seconds_of_warm_up",
    "turns",
    "disk_sync_bytes",
    "root",
    "nice_of_resolver",
    rate::PARAMETER,
    latency::PARAMETER,
];
/// What cases of the open loop begin with, and what stands before their rates: the highest is measured first, and a lower one only where the cell can't
/// keep up.
const OPEN_LOOP: &str = "claims=";
const RATE_OF_CASE: &str = " rate=";

/// What came of it.
pub(crate) struct Comparison {
    /// A table for people.
    pub(crate) text: String,
    /// Figures of ours that are worse by more than the threshold, and not by chance.
    pub(crate) regressions: usize,
    /// Suites that failed in B, of which A has figures; and figures of ours besides that B should have as A has them.
    pub(crate) lost: usize,
}

/// Compares what both runs have, and lists what only one has. `threshold` is the part by which a figure may be worse: 0.1 lets 2.0 fall to
/// 1.8, and rise to 2.2 where less is better. One that is worse by more is a regression, unless its interval has 1 in it. What is no work of
/// Plenum, peers and the disk, is compared and is none. A figure of ours that B has not, although the same was to be measured, is lost.
///
/// # Errors
/// When they share no figure, or the threshold is negative or no number.
pub(crate) fn compare(a: &Results, b: &Results, threshold: f64) -> anyhow::Result<Comparison> {
    ensure!(
        threshold >= 0.0 && threshold.is_finite(),
        "--threshold: expected a percentage from 0 on, found {}",
        threshold * 100.0
    );
    let mut rows = Vec::new();
    let mut regressions = 0;
    let (mut only_in_a, mut missing) = (Vec::new(), 0);
    for old in &a.figures {
        let Some(new) = b.figures.iter().find(|new| new.key() == old.key()) else {
            only_in_a.push(name(old));
            missing += usize::from(is_missed(old, a, b));
            continue;
        };
        let interval = interval(old, new);
        let verdict = verdict(old, new, interval, threshold);
        regressions += usize::from(verdict == Verdict::Worse);
        rows.push(row(old, new, interval, verdict));
    }
    let failed = b.failed.iter().filter(|failed| a.figures.iter().any(|old| old.suite == failed.suite)).count();
    ensure!(
        !rows.is_empty() || failed > 0,
        "expected figures of the same suites and cases in both runs, found none in common"
    );
    let only_in_b: Vec<String> =
        b.figures.iter().filter(|new| !a.figures.iter().any(|old| old.key() == new.key())).map(name).collect();
    let mut text = table(&rows);
    for (run, names) in [("A", &only_in_a), ("B", &only_in_b)] {
        for name in names {
            let _ = writeln!(text, "only in {run}: {name}");
        }
    }
    let _ = writeln!(text, "{regressions} of {} figures are worse by more than {:.0}%", rows.len(), threshold * 100.0);
    if missing > 0 {
        let _ = writeln!(text, "{missing} figures that only A has are missing in B, which was to measure the same");
    }
    for (run, results) in [("A", a), ("B", b)] {
        if results.stopped {
            let _ = writeln!(text, "{run} was stopped before its end");
        }
        for failed in &results.failed {
            let _ = writeln!(text, "{run} has no figures of suite {}, which failed: {}", failed.suite, failed.error);
        }
    }
    text.push_str(&otherwise(a, b));
    // Commits are what is compared mostly: that they are others is no warning.
    let [of_a, of_b] = [a, b].map(|run| run.build.as_ref().and_then(Build::commit).unwrap_or("not known"));
    if of_a != of_b {
        let _ = writeln!(text, "commits: {of_a} and {of_b}");
    }
    let _ =
        writeln!(text, "load average at the start: {} and {}", a.machine.load_average[0], b.machine.load_average[0]);
    Ok(Comparison { text, regressions, lost: failed + missing })
}

/// What was not the same in both runs, a line for each: then a difference need not be Plenum's.
fn otherwise(a: &Results, b: &Results) -> String {
    let mut text = String::new();
    if a.seed != b.seed {
        let _ = writeln!(text, "the seeds differ: {} and {}", a.seed, b.seed);
    }
    if a.quick != b.quick {
        let _ = writeln!(text, "one run is of the quick form, the other of the long one");
    }
    let [of_a, of_b] = [a, b].map(|run| run.build.as_ref().map_or_else(|| "not told".to_owned(), Build::manner));
    if of_a != of_b {
        let _ = writeln!(text, "the builds differ: {of_a}, and {of_b}");
    }
    if a.machine.cpu_model != b.machine.cpu_model || a.machine.cores != b.machine.cores {
        let [of_a, of_b] = [a, b].map(|run| format!("{} cores of {}", run.machine.cores, run.machine.cpu_model));
        let _ = writeln!(text, "the machines differ: {of_a}, and {of_b}");
    }
    if a.machine.kernel != b.machine.kernel {
        let _ = writeln!(text, "the kernels differ: {} and {}", a.machine.kernel, b.machine.kernel);
    }
    let pairs = a.figures.iter().filter_map(|old| Some((old, b.figures.iter().find(|new| new.key() == old.key())?)));
    let pairs: Vec<(&Figure, &Figure)> = pairs.collect();
    for name in SETTINGS {
        let both = pairs.iter().map(|(old, new)| (old.parameters.get(name), new.parameters.get(name)));
        let differing: Vec<_> = both.filter(|(old, new)| old != new).collect();
        if let Some((old, new)) = differing.first() {
            let [of_a, of_b] = [old, new].map(|value| value.map_or_else(|| "none".to_owned(), Value::to_string));
            let count = differing.len();
            let _ = writeln!(text, "the parameter {name} of {count} figures differs: first {of_a} and {of_b}");
        }
    }
    text
}

/// Whether B should have this figure of A. A run that did not come to its end should have whatever its suites have, and one that came to it what one
/// of the same form has, with the same cases asked for and the same seed: cases are called by what was drawn, too.
fn is_missed(old: &Figure, a: &Results, b: &Results) -> bool {
    let suite = old.suite.as_str();
    let has = |results: &Results| results.figures.iter().any(|figure| figure.suite == suite);
    // Without its list, the suites of a run are those of which it has figures.
    let was_asked_for = if b.suites.is_empty() { has(b) } else { b.suites.iter().any(|name| name == suite) };
    let has_failed = b.failed.iter().any(|failed| failed.suite == suite);
    let same = a.quick == b.quick && a.case == b.case && a.seed == b.seed;
    is_ours(old) && was_asked_for && !has_failed && (b.stopped || same) && !may_be_missing(old, b)
}

/// Whether a run may lack a figure and nothing be wrong with Plenum.
fn may_be_missing(old: &Figure, b: &Results) -> bool {
    // No etcd could be had, or it was not wanted.
    let without_its_peer = old.metric.split_once(PART_OF).is_some_and(|(_, peer)| {
        let is_of_it = |system: &String| {
            let rest = peer.strip_prefix(&system.replace('-', "_"));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(PEER_THAT))
        };
        !b.figures.iter().any(|figure| figure.suite == old.suite && figure.system.as_ref().is_some_and(is_of_it))
    });
    LEFT_OUT_WHEN_SMALL.contains(&old.metric.as_str()) || without_its_peer || keeps_up_with_more(old, b)
}

/// Whether a run that came to its end measured a higher rate of the same open loop: it had no need of this one then.
fn keeps_up_with_more(old: &Figure, b: &Results) -> bool {
    let Some((load, rate)) = open_loop(old) else { return false };
    let has_more = |(same, higher): (&str, u32)| same == load && higher > rate;
    !b.stopped && b.figures.iter().filter(|figure| figure.suite == old.suite).filter_map(open_loop).any(has_more)
}

/// The load and the rate of an open loop.
fn open_loop(figure: &Figure) -> Option<(&str, u32)> {
    let (load, rate) = figure.case.rsplit_once(RATE_OF_CASE)?;
    if load.starts_with(OPEN_LOOP) { Some((load, rate.parse().ok()?)) } else { None }
}

fn name(figure: &Figure) -> String {
    let of = figure.system.as_ref().map_or_else(String::new, |system| format!(" ({system})"));
    format!("{} {} {}{of}", figure.suite, figure.case, figure.metric)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Better,
    Same,
    /// Worse by more than the threshold, and perhaps by chance.
    Unsure,
    /// Worse by more than the threshold, and none of our doing.
    NotOurs,
    Worse,
}

/// Within which the ratio of the medians lies, B over A; `None` where there are too few samples, or A has a zero.
fn interval(old: &Figure, new: &Figure) -> Option<(f64, f64)> {
    if old.samples.len().min(new.samples.len()) < SAMPLES_MIN || old.samples.iter().any(|sample| *sample <= 0.0) {
        return None;
    }
    let mut random = Random::new(1);
    let mut drawn = |figure: &Figure| {
        let samples = &figure.samples;
        let count = u32::try_from(samples.len()).unwrap_or(u32::MAX);
        let again: Vec<f64> = samples.iter().map(|_| samples[random.below(count) as usize]).collect();
        middle(figure, again)
    };
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(|_| drawn(new) / drawn(old)).collect();
    ratios.sort_by(f64::total_cmp);
    Some((percentile(&ratios, TAIL_PERCENT), percentile(&ratios, 100.0 - TAIL_PERCENT)))
}

/// What the value of such a figure would be with these samples: windows of one figure are about as long as each other.
fn middle(figure: &Figure, mut samples: Vec<f64>) -> f64 {
    if figure.parameters.contains_key(rate::PARAMETER) {
        return samples.iter().sum::<f64>() / crate::figure::number(samples.len() as u64);
    }
    samples.sort_by(f64::total_cmp);
    median(&samples)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place within a list")]
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let last = crate::figure::number(sorted.len() as u64 - 1);
    sorted[(last * percent / 100.0).round() as usize]
}

fn verdict(old: &Figure, new: &Figure, interval: Option<(f64, f64)>, threshold: f64) -> Verdict {
    let step = if is_difference(old) || is_difference(new) { threshold } else { old.value.abs() * threshold };
    let (lower, upper) = (old.value - step, old.value + step);
    let (rose, fell) = (new.value > upper, new.value < lower);
    // Without an interval, ranges that overlap may differ by chance, but one sample may as well be all there is: it counts. A tail that rose by one stall
    // may have an interval of medians that fell.
    let sure = interval.is_none_or(|(low, high)| if rose { low > 1.0 } else { high < 1.0 });
    match (old.better, rose, fell) {
        (Better::Higher, true, _) | (Better::Lower, _, true) => Verdict::Better,
        (Better::Higher, _, true) | (Better::Lower, true, _) if !is_ours(old) => Verdict::NotOurs,
        (Better::Higher, _, true) | (Better::Lower, true, _) if sure => Verdict::Worse,
        (Better::Higher, _, true) | (Better::Lower, true, _) => Verdict::Unsure,
        _ => Verdict::Same,
    }
}

/// Whether it says anything about Plenum: a peer is measured beside it, and so is the machine.
fn is_ours(figure: &Figure) -> bool {
    figure.system.is_none() && !OF_THE_MACHINE.iter().any(|start| figure.metric.starts_with(start))
}

/// Whether it is a part of something else that may as well be below 0, as what a history costs: parts of such a figure say nothing, and it may be
/// worse by so much of the whole.
fn is_difference(figure: &Figure) -> bool {
    figure.unit == "1" && figure.min < 0.0
}

fn row(old: &Figure, new: &Figure, interval: Option<(f64, f64)>, verdict: Verdict) -> [String; 7] {
    let ratio = if old.value > 0.0 { format!("{:.3}", new.value / old.value) } else { "-".to_owned() };
    let interval = interval.map_or_else(|| "-".to_owned(), |(low, high)| format!("{low:.3} to {high:.3}"));
    let words = match verdict {
        Verdict::Same => "",
        Verdict::Better => "better",
        Verdict::Unsure => "worse, perhaps by chance",
        Verdict::NotOurs => "worse, not ours",
        Verdict::Worse => "WORSE",
    };
    let of = old.system.as_ref().map_or_else(String::new, |system| format!(" ({system})"));
    let case = format!("{} {}", old.suite, old.case);
    let [old_value, new_value] = [quantity(old.value, &old.unit), quantity(new.value, &new.unit)];
    [case, format!("{}{of}", old.metric), old_value, new_value, ratio, interval, words.to_owned()]
}

fn table(rows: &[[String; 7]]) -> String {
    let heads = ["CASE", "METRIC", "A", "B", "B/A", "95% INTERVAL", ""].map(str::to_owned);
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
    use crate::figure::{Case, Failed, Parameters};

    fn results(value: f64, better: Better) -> Results {
        of_samples(vec![value], better)
    }

    fn of_samples(samples: Vec<f64>, better: Better) -> Results {
        let case = Case { suite: "core", case: "machines=1", parameters: Parameters::new() };
        let figure = case.figure("claims_per_second", "1/s", better, samples).unwrap();
        Results::of(vec![figure])
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
    fn what_peers_and_the_machine_do_is_no_regression_of_ours() {
        let pair = |change: fn(&mut Figure)| {
            let (mut a, mut b) = (results(100.0, Better::Higher), results(50.0, Better::Higher));
            a.figures.iter_mut().chain(&mut b.figures).for_each(change);
            compare(&a, &b, 0.1).unwrap()
        };
        let peer = pair(|figure| figure.system = Some("etcd".to_owned()));
        assert_eq!(peer.regressions, 0, "{}", peer.text);
        assert!(peer.text.contains("worse, not ours"), "{}", peer.text);
        assert_eq!(pair(|figure| figure.metric = "disk_sync_seconds_p99".to_owned()).regressions, 0);
        assert_eq!(pair(|figure| figure.metric = "core_stall_ratio".to_owned()).regressions, 0);
        assert_eq!(pair(|figure| figure.metric = "commit_late_seconds_p99".to_owned()).regressions, 0);
        assert_eq!(pair(|_| {}).regressions, 1);
    }

    #[test]
    fn around_zero_a_part_is_worse_by_so_much_of_the_whole() {
        let verdict = |old: f64, new: f64| {
            let mut both = [results(old, Better::Lower), results(new, Better::Lower)];
            both.iter_mut().for_each(|results| results.figures[0].unit = "1".to_owned());
            let compared = compare(&both[0], &both[1], 0.1).unwrap();
            (compared.regressions, compared.text.contains("better"))
        };
        assert_eq!(verdict(-0.02, -0.02), (0, false));
        assert_eq!(verdict(-0.02, -0.0175), (0, false));
        assert_eq!(verdict(-0.02, 0.05), (0, false));
        assert_eq!(verdict(-0.02, 0.09), (1, false));
        assert_eq!(verdict(0.05, -0.06), (0, true));
        // Of a count of which there is none, one is worse.
        assert_eq!(verdict(0.0, 1.0), (1, false));
    }

    #[test]
    fn a_suite_that_fails_in_the_run_to_judge_is_lost() {
        let (a, mut b) = (results(1.0, Better::Higher), results(1.0, Better::Higher));
        let failed = |suite: &str| Failed { suite: suite.to_owned(), error: "no disk".to_owned() };
        b.failed = vec![failed("commit")];
        assert_eq!(compare(&a, &b, 0.1).unwrap().lost, 0, "A has nothing of it either");
        b.figures[0].suite = "policy".to_owned();
        b.failed.push(failed("core"));
        // Nothing else is there to be compared.
        assert_eq!(compare(&a, &b, 0.1).unwrap().lost, 1);
    }

    // A cell that kept up with a million claims a second lacked the figures of half a million, and was worse for it.
    #[test]
    fn lower_rates_that_a_faster_cell_need_not_try_are_not_lost() {
        let of = |cases: &[&str]| {
            let one = results(1.0, Better::Higher).figures.remove(0);
            Results::of(cases.iter().map(|case| Figure { case: (*case).to_owned(), ..one.clone() }).collect())
        };
        let lost = |a: &[&str], b: &Results| compare(&of(a), b, 0.1).unwrap().lost;
        let [million, half] = ["claims=100 streams=4 rate=1000000", "claims=100 streams=4 rate=500000"];
        assert_eq!(lost(&[million, half], &of(&[million])), 0);
        assert_eq!(lost(&[million, half], &of(&[half])), 1, "the highest is always measured");
        assert_eq!(lost(&[million, "claims=1 streams=4 rate=500000"], &of(&[million])), 1, "another load");
        // One that was stopped may have been about to measure it.
        assert_eq!(lost(&[million, half], &Results { stopped: true, ..of(&[million]) }), 1);
        // Of other cases with a rate none is measured in place of another one.
        let [fast, slow] = ["mirrors=50 rate=200000", "mirrors=50 rate=100000"];
        assert_eq!(lost(&[fast, slow], &of(&[fast])), 1);
    }

    /// A has two figures of the suite `core`, of which B has the first.
    fn with_one_gone() -> (Results, Results) {
        let (mut a, b) = (results(1.0, Better::Higher), results(1.0, Better::Higher));
        a.figures.push(Figure { metric: "commit_seconds_p50".into(), ..a.figures[0].clone() });
        (a, b)
    }

    #[test]
    fn a_figure_that_is_gone_is_lost_where_the_same_was_to_be_measured() {
        let (a, b) = with_one_gone();
        let compared = compare(&a, &b, 0.1).unwrap();
        assert_eq!((compared.regressions, compared.lost), (0, 1), "{}", compared.text);
        assert!(compared.text.contains("1 figures that only A has are missing in B"), "{}", compared.text);
        let lost = |b: &Results| compare(&a, b, 0.1).unwrap().lost;
        let (long, one_case) = (Results { quick: false, ..b.clone() }, Results { case: Some("x".into()), ..b.clone() });
        assert_eq!((lost(&long), lost(&one_case)), (0, 0), "other cases were asked for");
        // Lists that are generated have the seed in their names.
        assert_eq!(lost(&Results { seed: 2, ..b.clone() }), 0, "others were drawn");
        // A run that somebody stopped has not shown that nothing is worse, whatever it was asked for.
        assert_eq!(lost(&Results { stopped: true, ..long }), 1);
        let suites = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        assert_eq!(lost(&Results { suites: suites(&["dev", "core"]), ..b.clone() }), 1);
        assert_eq!(lost(&Results { suites: suites(&["dev"]), stopped: true, ..b }), 0, "nobody asked for `core`");
    }

    #[test]
    fn a_figure_that_is_not_ours_or_cannot_be_told_is_not_lost() {
        let lost = |change: fn(&mut Figure), peers: &[&str]| {
            let (mut a, mut b) = with_one_gone();
            change(&mut a.figures[1]);
            let one = b.figures[0].clone();
            b.figures.extend(peers.iter().map(|peer| Figure { metric: "rate".into(), ..one.clone() }.of(peer)));
            compare(&a, &b, 0.1).unwrap().lost
        };
        assert_eq!(lost(|figure| figure.system = Some("etcd".into()), &[]), 0);
        assert_eq!(lost(|figure| figure.metric = "core_stall_ratio".into(), &[]), 0);
        assert_eq!(lost(|figure| figure.metric = "bytes_per_machine".into(), &[]), 0);
        let to_a_peer = |figure: &mut Figure| figure.metric = "transactions_ratio_to_synced_echo".into();
        assert_eq!(lost(to_a_peer, &["etcd"]), 0, "nothing to compare with");
        assert_eq!(lost(to_a_peer, &["synced-echo"]), 1);
        let to_one_rate =
            |figure: &mut Figure| figure.metric = "transactions_ratio_to_etcd_with_as_many_under_way".into();
        assert_eq!(lost(to_one_rate, &["echo"]), 0, "nothing to compare with");
        assert_eq!(lost(to_one_rate, &["etcd"]), 1);
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

    #[test]
    fn a_difference_that_may_be_chance_is_no_regression() {
        let scattered = |samples: &[f64]| of_samples(samples.to_vec(), Better::Higher);
        let old = scattered(&[80.0, 100.0, 120.0, 60.0, 140.0]);
        let unsure = compare(&old, &scattered(&[85.0, 60.0, 140.0, 80.0, 90.0]), 0.1).unwrap();
        assert_eq!(unsure.regressions, 0, "{}", unsure.text);
        assert!(unsure.text.contains("worse, perhaps by chance"), "{}", unsure.text);
        let steady = compare(&scattered(&[100.0, 101.0, 99.0]), &scattered(&[85.0, 86.0, 84.0]), 0.1).unwrap();
        assert_eq!(steady.regressions, 1, "{}", steady.text);
        assert!(steady.text.contains("0.832 to 0.869"), "{}", steady.text);
    }

    #[test]
    fn a_rate_that_every_other_window_has_lost_is_a_regression() {
        let of = |samples: [f64; 12]| {
            let mut results = of_samples(samples.to_vec(), Better::Higher);
            let figure = results.figures.remove(0);
            let mean = samples.iter().sum::<f64>() / 12.0;
            results.figures.push(crate::rate::together(figure, mean));
            results
        };
        let mut slower = [100.0; 12];
        slower[..5].fill(20.0);
        let compared = compare(&of([100.0; 12]), &of(slower), 0.1).unwrap();
        // The median of the windows is what it was.
        assert_eq!(compared.regressions, 1, "{}", compared.text);
    }

    #[test]
    fn a_tail_that_one_stall_has_made_longer_is_shown_and_no_regression() {
        let old = of_samples(vec![0.005; 8], Better::Lower);
        let mut new = of_samples([vec![0.004; 7], vec![1.0]].concat(), Better::Lower);
        new.figures[0].value = 1.0;
        let stalled = compare(&old, &new, 0.1).unwrap();
        assert!(stalled.text.contains("worse, perhaps by chance"), "{}", stalled.text);
        assert_eq!(stalled.regressions, 0, "{}", stalled.text);
        let always = of_samples(vec![1.0; 8], Better::Lower);
        assert_eq!(compare(&old, &always, 0.1).unwrap().regressions, 1);
    }

    #[test]
    fn figures_of_one_run_only_are_listed() {
        let (mut a, mut b) = (results(1.0, Better::Higher), results(1.0, Better::Higher));
        a.figures.push(Figure { case: "old".into(), ..a.figures[0].clone() });
        b.figures.push(Figure { case: "new".into(), ..b.figures[0].clone() });
        let text = compare(&a, &b, 0.1).unwrap().text;
        assert!(
            text.contains("only in A: core old claims_per_second\nonly in B: core new claims_per_second"),
            "{text}"
        );
    }

    #[test]
    fn what_was_not_the_same_in_both_runs_is_said() {
        let run = || {
            let mut run = results(100.0, Better::Higher);
            run.figures[0].parameters.insert("file_system".into(), "ext4".into());
            run
        };
        let text = |b: &Results| compare(&run(), b, 0.1).unwrap().text;
        assert!(!text(&run()).contains("differ"), "{}", text(&run()));
        let mut other = run();
        other.build = None;
        other.machine.kernel = "2.6".into();
        other.figures[0].parameters.insert("file_system".into(), "overlay".into());
        // Of runs before loads began in a cell's steady state nothing is told.
        other.figures[0].parameters.insert("segments_used_again".into(), true.into());
        // What was seen beside a figure is no setting.
        other.figures[0].parameters.insert("cores_of_others".into(), 1.into());
        let text = text(&other);
        let said: Vec<&str> = text.lines().filter(|line| line.contains("differ")).collect();
        assert_eq!(said.len(), 4, "{text}");
        assert!(said[0].starts_with("the builds differ: profile ") && said[0].ends_with(", and not told"), "{text}");
        assert!(said[1].ends_with(" and 2.6"), "{text}");
        assert_eq!(said[2], "the parameter file_system of 1 figures differs: first \"ext4\" and \"overlay\"");
        assert_eq!(said[3], "the parameter segments_used_again of 1 figures differs: first none and true");
    }

    // The line that tells a package from a release build stood below each comparison of two commits.
    #[test]
    fn commits_are_told_apart_from_how_they_were_built() {
        let run = |profile: &str, commit: &str| {
            let build = serde_json::json!({ "profile": profile, "by_counts": false, "commit": commit });
            Results { build: serde_json::from_value(build).unwrap(), ..results(100.0, Better::Higher) }
        };
        let text = |b: &Results| compare(&run("release", "0b492951aaaa"), b, 0.1).unwrap().text;
        let [same, commit, profile] =
            [("release", "0b492951aaaa"), ("release", "1c1c1c1c1c1c"), ("dist", "0b492951aaaa")]
                .map(|(profile, commit)| text(&run(profile, commit)));
        assert!(!same.contains("differ") && !same.contains("commits: "), "{same}");
        assert!(commit.contains("\ncommits: 0b492951aaaa and 1c1c1c1c1c1c\n"), "{commit}");
        assert!(!commit.contains("differ"), "{commit}");
        assert!(profile.contains("\nthe builds differ: profile release, and profile dist\n"), "{profile}");
        assert!(!profile.contains("commits: "), "{profile}");
    }

    #[test]
    fn a_threshold_that_is_none_is_refused() {
        let one = results(1.0, Better::Higher);
        assert!(compare(&one, &one, -0.1).is_err() && compare(&one, &one, f64::NAN).is_err());
    }
}
