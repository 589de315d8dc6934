//! Two runs side by side: what counts as a regression, and what does not.

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

#[test]
fn a_run_that_was_killed_is_told_with_the_suite_that_was_under_way() {
    let whole = results(1.0, Better::Higher);
    let killed = Results { stopped: true, under_way: Some("commit".into()), ..results(1.0, Better::Higher) };
    let text = compare(&killed, &whole, 0.1).unwrap().text;
    assert!(text.contains("A was killed in suite commit: ") && !text.contains("B was"), "{text}");
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
    let to_one_rate = |figure: &mut Figure| figure.metric = "transactions_ratio_to_etcd_with_as_many_under_way".into();
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

// One sample of 0 was enough for no interval, and without one the medians alone decided.
#[test]
fn a_difference_that_may_be_chance_is_none_either_beside_a_sample_of_nothing() {
    let of = |samples: &[f64]| of_samples(samples.to_vec(), Better::Lower);
    let (old, new) = (of(&[0.0, 40.0, 60.0, 80.0, 100.0]), of(&[30.0, 60.0, 70.0, 80.0, 90.0]));
    let unsure = compare(&old, &new, 0.1).unwrap();
    assert_eq!(unsure.regressions, 0, "{}", unsure.text);
    assert!(unsure.text.contains("worse, perhaps by chance"), "{}", unsure.text);
    let worse = of(&[200.0, 210.0, 220.0, 230.0, 240.0]);
    assert_eq!(compare(&old, &worse, 0.1).unwrap().regressions, 1);
}

// Each seed waited 15% longer, and as seeds lie further apart than that, it passed for chance.
#[test]
fn what_is_worse_with_each_seed_is_a_regression_however_far_seeds_lie_apart() {
    let waits = [86.0, 72.0, 91.0, 80.0, 75.0];
    let of = |factor: f64, seeds: Option<&str>| {
        let mut results = of_samples(waits.iter().map(|wait| wait * factor).collect(), Better::Lower);
        results.figures[0].parameters.extend(seeds.map(|seeds| (SEEDS.to_owned(), seeds.into())));
        results
    };
    let paired = compare(&of(1.0, Some("0..4")), &of(1.15, Some("0..4")), 0.1).unwrap();
    assert_eq!(paired.regressions, 1, "{}", paired.text);
    assert!(paired.text.contains("1.150 to 1.150"), "{}", paired.text);
    for other in [None, Some("5..9")] {
        let unsure = compare(&of(1.0, other), &of(1.15, Some("0..4")), 0.1).unwrap();
        assert!(unsure.text.contains("worse, perhaps by chance"), "{}", unsure.text);
    }
}

// Pairs of them differ one way by chance in one of eight runs of three seeds: somebody else's work was a regression of Plenum.
#[test]
fn times_by_the_clock_are_not_drawn_in_pairs_as_no_seed_decides_them() {
    let of = |metric: &str, samples: [f64; 3]| {
        let mut results = of_samples(samples.to_vec(), Better::Higher);
        results.figures[0].metric = metric.to_owned();
        results.figures[0].parameters.insert(SEEDS.to_owned(), "0..2".into());
        results
    };
    let compared = |metric| {
        let [a, b] = [[40.0, 55.0, 70.0], [33.0, 48.0, 60.0]].map(|samples| of(metric, samples));
        compare(&a, &b, 0.1).unwrap()
    };
    assert_eq!(compared("gpus_used_percent").regressions, 1, "what seeds decide is");
    for metric in BY_THE_CLOCK {
        let compared = compared(metric);
        assert_eq!(compared.regressions, 0, "{}", compared.text);
        assert!(compared.text.contains("worse, perhaps by chance"), "{}", compared.text);
    }
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
    assert!(text.contains("only in A: core old claims_per_second\nonly in B: core new claims_per_second"), "{text}");
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
    // With fewer cases in turns there may be other work beside each.
    other.case = Some("machines=1".into());
    other.machine.kernel = "2.6".into();
    other.figures[0].parameters.insert("file_system".into(), "overlay".into());
    // Of runs before loads began in a cell's steady state nothing is told.
    other.figures[0].parameters.insert("segments_used_again".into(), true.into());
    // Samples of other seeds are of other arrivals, and were compared without a word.
    other.figures[0].parameters.insert("seeds".into(), "5..9".into());
    other.figures[0].parameters.insert("through_core".into(), true.into());
    // What was seen beside a figure is no setting.
    other.figures[0].parameters.insert("cores_of_others".into(), 1.into());
    let text = text(&other);
    let said: Vec<&str> = text.lines().filter(|line| line.contains("differ")).collect();
    assert_eq!(said.len(), 7, "{text}");
    assert_eq!(said[0], "the cases that were asked for differ: all of them and machines=1");
    assert!(said[1].starts_with("the builds differ: profile ") && said[1].ends_with(", and not told"), "{text}");
    assert!(said[2].ends_with(" and 2.6"), "{text}");
    assert_eq!(said[3], "the parameter seeds of 1 figures differs: first none and \"5..9\"");
    assert_eq!(said[4], "the parameter through_core of 1 figures differs: first none and true");
    assert_eq!(said[5], "the parameter file_system of 1 figures differs: first \"ext4\" and \"overlay\"");
    assert_eq!(said[6], "the parameter segments_used_again of 1 figures differs: first none and true");
}

// Of two folders with a file `m.csv` each, the one with a machine more was told as a regression of Plenum, and no line said that the machines were others.
#[test]
fn figures_of_other_files_of_the_same_names_are_told_and_no_regressions() {
    let of = |digest: Option<&str>, value: f64, classes: &[&str]| {
        let mut run = results(value, Better::Higher);
        for class in classes {
            run.figures.push(Figure { case: format!("machines=1 class:{class}"), ..run.figures[0].clone() });
        }
        for figure in &mut run.figures {
            figure.parameters.extend(digest.map(|digest| (MACHINES_DIGEST.to_owned(), digest.into())));
        }
        run
    };
    let old = of(Some("aaaa"), 100.0, &["small"]);
    let other = compare(&old, &of(Some("bbbb"), 50.0, &["large"]), 0.1).unwrap();
    // Other jobs may have other classes.
    assert_eq!((other.regressions, other.lost), (0, 0), "{}", other.text);
    assert!(other.text.contains("of other jobs or machines\n"), "{}", other.text);
    let line = "the parameter machines_digest of 1 figures differs: first \"aaaa\" and \"bbbb\"\n";
    assert!(other.text.contains(line), "{}", other.text);
    assert!(other.text.contains("\n1 figures differ by more, and are of other files of jobs or machines\n"));

    let same = compare(&old, &of(Some("aaaa"), 50.0, &["large"]), 0.1).unwrap();
    assert_eq!((same.regressions, same.lost), (1, 1), "{}", same.text);
    // Of a run before digests were told nobody knows.
    assert_eq!(compare(&of(None, 100.0, &[]), &of(Some("aaaa"), 50.0, &[]), 0.1).unwrap().regressions, 1);
}

// The line that tells a package from a release build stood below each comparison of two commits.
#[test]
fn commits_are_told_apart_from_how_they_were_built() {
    let run = |profile: &str, commit: &str| {
        let build = serde_json::json!({ "profile": profile, "by_counts": false, "commit": commit });
        Results { build: serde_json::from_value(build).unwrap(), ..results(100.0, Better::Higher) }
    };
    let text = |b: &Results| compare(&run("release", "0b492951aaaa"), b, 0.1).unwrap().text;
    let [same, commit, profile] = [("release", "0b492951aaaa"), ("release", "1c1c1c1c1c1c"), ("dist", "0b492951aaaa")]
        .map(|(profile, commit)| text(&run(profile, commit)));
    assert!(!same.contains("differ") && !same.contains("commits: "), "{same}");
    assert!(commit.contains("\ncommits: 0b492951aaaa and 1c1c1c1c1c1c\n"), "{commit}");
    assert!(!commit.contains("differ"), "{commit}");
    assert!(profile.contains("\nthe builds differ: profile release, and profile dist\n"), "{profile}");
    assert!(!profile.contains("commits: "), "{profile}");
}

// Half a percent was told to be 0%, and two and a half to be 2%.
#[test]
fn a_threshold_is_told_as_it_was_asked_for() {
    for (threshold, told) in [(0.1, "more than 10%\n"), (0.025, "more than 2.5%\n"), (0.005, "more than 0.5%\n")] {
        let results = || results(1.0, Better::Higher);
        let text = compare(&results(), &results(), threshold).unwrap().text;
        assert!(text.contains(told), "{text}");
    }
}

#[test]
fn a_threshold_that_is_none_is_refused() {
    let one = results(1.0, Better::Higher);
    assert!(compare(&one, &one, -0.1).is_err() && compare(&one, &one, f64::NAN).is_err());
}
