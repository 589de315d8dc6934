//! Two runs side by side, figure by figure, with how sure the difference is.
//!
//! The interval of a ratio is a percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13): samples of both
//! runs are drawn again with replacement, two thousand times, and 95 of 100 ratios of their medians lie within it. It is seeded: the same two
//! runs always give the same answer. Of rates that are of all windows together means are drawn instead. A tail's value is that of all windows together, too, and
//! its interval that of the medians of its samples all the same: one that rose by one stall in one of many windows is worse, perhaps by chance.
//! Samples of the same seeds are pairs, and pairs are drawn, unless they are times that the wall's clock took.

use std::fmt::Write;

use anyhow::ensure;
use serde_json::Value;

use crate::build::Build;
use crate::figure::{Better, Figure, JOBS_DIGEST, MACHINES_DIGEST, Results, SEEDS, median};
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
const SETTINGS: [&str; 15] = [
    JOBS_DIGEST,
    MACHINES_DIGEST,
    SEEDS,
    "through_core",
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
/// Those of them that tell which files of others a figure is made of. Cases are called by the names of files: figures of other files of these names are not of
/// the same work, and say nothing about Plenum.
const MADE_OF: [&str; 2] = [JOBS_DIGEST, MACHINES_DIGEST];
/// Of the harness or of a commit by the wall's clock: no seed decides them.
const BY_THE_CLOCK: [&str; 4] =
    ["placements_per_second", "times_real_time", "mean_decision_seconds", "mean_commit_seconds"];
/// What ends the part of a case's name that says which files it is of.
const PARTS_OF_A_CASE: [&str; 2] = [" class:", " size="];
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
/// Plenum, peers and the disk, is compared and is none, nor is what is made of other jobs or machines. A figure of ours that B has not, although the same was
/// to be measured, is lost.
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
    let (mut regressions, mut of_others) = (0, 0);
    let (mut only_in_a, mut missing) = (Vec::new(), 0);
    for old in &a.figures {
        let Some(new) = b.figures.iter().find(|new| new.key() == old.key()) else {
            only_in_a.push(name(old));
            missing += usize::from(is_missed(old, a, b));
            continue;
        };
        let drawn = drawn_again(old, new);
        let verdict = verdict(old, new, drawn.as_deref(), threshold);
        of_others += usize::from(verdict == Verdict::OtherFiles);
        regressions += usize::from(verdict == Verdict::Worse);
        rows.push(row(old, new, drawn.as_deref().and_then(interval), verdict));
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
    let percent = (threshold * 10_000.0).round() / 100.0;
    let _ = writeln!(text, "{regressions} of {} figures are worse by more than {percent}%", rows.len());
    if of_others > 0 {
        let _ = writeln!(text, "{of_others} figures differ by more, and are of other files of jobs or machines");
    }
    if missing > 0 {
        let _ = writeln!(text, "{missing} figures that only A has are missing in B, which was to measure the same");
    }
    for (run, results) in [("A", a), ("B", b)] {
        if results.stopped {
            let _ = writeln!(text, "{run} was stopped before its end");
        }
        if let Some(suite) = &results.under_way {
            let _ =
                writeln!(text, "{run} was killed in suite {suite}: what that looks for at its end was not looked for");
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
    if a.case != b.case {
        let [of_a, of_b] = [a, b].map(|run| run.case.as_deref().unwrap_or("all of them"));
        let _ = writeln!(text, "the cases that were asked for differ: {of_a} and {of_b}");
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
    LEFT_OUT_WHEN_SMALL.contains(&old.metric.as_str())
        || without_its_peer
        || keeps_up_with_more(old, b)
        || has_other_files(old, b)
}

/// Whether two figures are of other files of the same names. Of results that have no digests nobody knows.
fn are_of_other_files(old: &Figure, new: &Figure) -> bool {
    let both = |name: &str| old.parameters.get(name).zip(new.parameters.get(name));
    MADE_OF.into_iter().filter_map(both).any(|(old, new)| old != new)
}

/// Whether a run has figures of other files in the place of one: of other jobs there may be other classes.
fn has_other_files(old: &Figure, b: &Results) -> bool {
    let files = |figure: &Figure| {
        let ends = PARTS_OF_A_CASE.iter().filter_map(|part| figure.case.find(part)).min();
        figure.case[..ends.unwrap_or(figure.case.len())].to_owned()
    };
    let of_these = files(old);
    let same_names = |new: &&Figure| new.suite == old.suite && files(new) == of_these;
    b.figures.iter().filter(same_names).any(|new| are_of_other_files(old, new))
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
    /// Other by more than the threshold, and so are the jobs or machines.
    OtherFiles,
    Worse,
}

/// What the medians of both runs could have been, A's and B's, were their samples drawn again; `None` where there are too few samples. Samples of the same
/// seeds are drawn together: what is worse with each seed is not so by chance, however far the seeds lie apart.
fn drawn_again(old: &Figure, new: &Figure) -> Option<Vec<(f64, f64)>> {
    if old.samples.len().min(new.samples.len()) < SAMPLES_MIN {
        return None;
    }
    let together = are_of_the_same_seeds(old, new);
    let mut random = Random::new(1);
    let mut places = |figure: &Figure| -> Vec<usize> {
        let count = u32::try_from(figure.samples.len()).unwrap_or(u32::MAX);
        figure.samples.iter().map(|_| random.below(count) as usize).collect()
    };
    let at =
        |figure: &Figure, places: &[usize]| middle(figure, places.iter().map(|&place| figure.samples[place]).collect());
    let draw = |_| {
        let of_new = places(new);
        let of_old = if together { of_new.clone() } else { places(old) };
        (at(old, &of_old), at(new, &of_new))
    };
    Some((0..RESAMPLES).map(draw).collect())
}

/// Whether each sample has one of the same seed, and so of the same jobs, in the same place, and follows from that. Three pairs of times of one build all
/// differ one way in one of eight runs, and would be a regression.
fn are_of_the_same_seeds(old: &Figure, new: &Figure) -> bool {
    let seeds = old.parameters.get(SEEDS).filter(|_| !BY_THE_CLOCK.contains(&old.metric.as_str()));
    seeds.is_some() && seeds == new.parameters.get(SEEDS) && old.samples.len() == new.samples.len()
}

/// Of these the lower end and the upper one, without so many of a hundred beyond each.
fn ends(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (percentile(&values, TAIL_PERCENT), percentile(&values, 100.0 - TAIL_PERCENT))
}

/// Within which the ratio of the medians lies, B over A; `None` where A's may as well be 0.
fn interval(drawn: &[(f64, f64)]) -> Option<(f64, f64)> {
    let ratios = drawn.iter().map(|(old, new)| (*old > 0.0).then(|| new / old));
    ratios.collect::<Option<Vec<f64>>>().map(ends)
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

fn verdict(old: &Figure, new: &Figure, drawn: Option<&[(f64, f64)]>, threshold: f64) -> Verdict {
    let step = if is_difference(old) || is_difference(new) { threshold } else { old.value.abs() * threshold };
    let (lower, upper) = (old.value - step, old.value + step);
    let (rose, fell) = (new.value > upper, new.value < lower);
    // With few samples, ranges that overlap may differ by chance, but one sample may as well be all there is: it counts. A tail that rose by one stall
    // may have an interval of medians that fell.
    let sure = drawn.is_none_or(|drawn| {
        // The ratio is on one side of 1 where the difference is on that of 0, which there is also beside medians of 0.
        let (low, high) = ends(drawn.iter().map(|(old, new)| new - old).collect());
        if rose { low > 0.0 } else { high < 0.0 }
    });
    match (old.better, rose, fell) {
        (_, true, _) | (_, _, true) if are_of_other_files(old, new) => Verdict::OtherFiles,
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
        Verdict::OtherFiles => "of other jobs or machines",
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
mod tests;
