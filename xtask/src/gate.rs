//! The gate: the list of steps, their order, and what is said about them at the end.
//!
//! A step that fails doesn't keep the others from running, so that one run shows all that is wrong. Cheap steps come
//! first. The development profile serves all checks and tests, the release profile the examples and the
//! harness: exactly two builds of each dependency and of what is ours, and clippy and rustdoc share the metadata of one check. Where there is no
//! nextest, what is ours is built once more for the simulator.

use std::num::NonZero;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::programs::{Runner, answers, need_component, need_program, test_runner};
use crate::skips::Skips;
use crate::tally::Tally;
use crate::watch::{duration, watch};
use crate::workspace::{Workspace, colours};
use crate::{examples, harness, simulation};

/// Longer than the whole gate takes from nothing on two slow cores, which may be 55 minutes: a step that reaches it hangs.
const STEP_LIMIT: Duration = Duration::from_secs(90 * 60);

/// One step of the gate.
struct Step {
    name: &'static str,
    /// What it makes sure of, for `--list`.
    about: &'static str,
    run: fn(&Workspace) -> Result<Report>,
}

/// What came of a step that could be carried out.
struct Report {
    verdict: Verdict,
    /// A few words for the table.
    detail: String,
    tests: Option<Tally>,
    /// What of it was skipped, as it is said at the end of a line; empty where nothing was. Of a step that was skipped as a whole it
    /// need not be said.
    skipped: String,
}

impl Report {
    /// Of a step that counts no tests and skips nothing.
    fn new(verdict: Verdict, detail: String) -> Self {
        Self { verdict, detail, tests: None, skipped: String::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// All steps, in the order in which they run.
const STEPS: &[Step] = &[
    Step { name: "format", about: "every file is as rustfmt writes it", run: format },
    Step { name: "tidy", about: "dependency rules, words and sizes: tests/tidy.rs", run: tidy },
    Step { name: "lint", about: "clippy finds nothing, tests and benches included", run: lint },
    Step { name: "tests", about: "every test of every crate", run: tests },
    Step { name: "simulator", about: "a thousand seeds with all faults, and a bug for each checker", run: simulator },
    Step { name: "doc-tests", about: "the examples in doc comments compile and hold", run: doc_tests },
    Step { name: "docs", about: "rustdoc has nothing to warn of", run: docs },
    Step { name: "licences", about: "cargo-deny: licences, bans, sources (only where it is installed)", run: licences },
    Step { name: "release", about: "the README's build, and what examples and harness need", run: release },
    Step { name: "examples", about: "each example runs for real and prints what it should", run: run_examples },
    Step {
        name: "harness",
        about: "the benchmarks do their work (core, commit, policy, recovery, omega, trace; --quick)",
        run: run_harness,
    },
];

/// The step of that name, for the command line.
pub(crate) fn step_name(text: &str) -> Result<&'static str, String> {
    let names: Vec<&'static str> = STEPS.iter().map(|step| step.name).collect();
    names
        .iter()
        .find(|name| **name == text)
        .copied()
        .ok_or_else(|| format!("there is no such step; there are: {}", names.join(", ")))
}

/// Prints the steps and what each is for.
pub(crate) fn list() {
    for step in STEPS {
        println!("{:<10} {}", step.name, step.about);
    }
}

/// Runs all steps, or only those named; true if none failed.
pub(crate) fn run(workspace: &Workspace, only: &[&str]) -> bool {
    let steps: Vec<&Step> = STEPS.iter().filter(|step| only.is_empty() || only.contains(&step.name)).collect();
    let started = Instant::now();
    let mut done = Vec::new();
    for (number, step) in (1..).zip(&steps) {
        eprintln!("\n[{number}/{}] {}: {}", steps.len(), step.name, step.about);
        let began = Instant::now();
        let report = (step.run)(workspace).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Report::new(Verdict::Failed, first_line(&error))
        });
        eprintln!("[{number}/{}] {}: {} in {}", steps.len(), step.name, report.verdict, duration(began.elapsed()));
        done.push((*step, report, began.elapsed()));
    }
    summarise(&done, started.elapsed(), only)
}

/// Prints the table, how to repeat what failed, and the closing line; true if no step failed.
fn summarise(done: &[(&Step, Report, Duration)], total: Duration, only: &[&str]) -> bool {
    println!("\n{:<10} {:<8} {:>12}  ", "step", "result", "time");
    for (step, report, time) in done {
        println!("{:<10} {:<8} {:>12}  {}", step.name, report.verdict.to_string(), duration(*time), report.detail);
    }
    let failed: Vec<&str> =
        done.iter().filter(|(_, report, _)| report.verdict == Verdict::Failed).map(|(step, ..)| step.name).collect();
    println!("{:<10} {:<8} {:>12}", "all", if failed.is_empty() { "passed" } else { "FAILED" }, duration(total));
    println!();
    if !failed.is_empty() {
        println!("to repeat what failed: cargo xtask test --only {}", failed.join(" "));
    }
    let sum = |one: Tally, other: Tally| Tally { passed: one.passed + other.passed, failed: one.failed + other.failed };
    let tests = done.iter().filter_map(|(_, report, _)| report.tests).reduce(sum);
    let skipped: String = done.iter().map(|(step, report, _)| skipped_of(step, report)).collect();
    println!("{}{}", closing_line(&failed, tests, &skipped), only_these(only));
    failed.is_empty()
}

/// What the last line says was skipped of a step, after the counts.
fn skipped_of(step: &Step, report: &Report) -> String {
    match report.verdict {
        Verdict::Skipped => format!("; the step {} SKIPPED", step.name),
        _ => report.skipped.clone(),
    }
}

/// The last line: the tests' counts alone when all is well, and never only they when something failed, or was skipped.
fn closing_line(failed: &[&str], tests: Option<Tally>, skipped: &str) -> String {
    let counts = tests.map(|tally| tally.to_string());
    let line = match (failed, counts) {
        ([], Some(counts)) => counts,
        ([], None) => "all steps passed".to_owned(),
        (_, Some(counts)) => format!("the gate failed: {}; tests: {counts}", failed.join(", ")),
        (_, None) => format!("the gate failed: {}", failed.join(", ")),
    };
    line + skipped
}

/// What the last line says at its end where only some of the steps were asked for: it is that of no whole gate.
fn only_these(steps: &[&str]) -> String {
    if steps.is_empty() { String::new() } else { format!("; only: {}", steps.join(" ")) }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        })
    }
}

fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

/// Runs a command whose exit status is all that counts.
fn plain(command: Command, label: &str) -> Result<Report> {
    let status = watch(command, label, STEP_LIMIT, |_, _| {})?;
    let verdict = if status.success() { Verdict::Passed } else { Verdict::Failed };
    let detail = if status.success() { String::new() } else { status.to_string() };
    Ok(Report::new(verdict, detail))
}

/// Runs a command that runs tests, at least so many, and counts them.
fn counted(command: Command, label: &str, least: u64) -> Result<(Report, Tally)> {
    let mut tally = Tally::default();
    let status = watch(command, label, STEP_LIMIT, |_, line| tally.read(line))?;
    Ok((judged(status.success(), tally, least), tally))
}

/// What came of tests. A failure without a failed test is one of the build; a success with one would be the runner's lie. With too few of them nothing was looked
/// at, or the runner tells in other words what it did.
fn judged(is_success: bool, tally: Tally, least: u64) -> Report {
    let is_well = is_success && tally.failed == 0;
    if is_well && tally.passed < least {
        let detail = format!("{tally}: expected at least {least} to run, or to be told in words that are understood");
        return Report::new(Verdict::Failed, detail);
    }
    Report::new(if is_well { Verdict::Passed } else { Verdict::Failed }, tally.to_string())
}

fn format(workspace: &Workspace) -> Result<Report> {
    need_component(workspace, "fmt", "rustfmt")?;
    // rustfmt looks at the terminal's type, not at where its output goes.
    let colour = if colours() { "always" } else { "never" };
    plain(workspace.cargo(["fmt", "--all", "--check", "--", "--color", colour]), "format")
}

// Also part of `tests`, but here it answers within seconds and needs no other crate to compile.
fn tidy(workspace: &Workspace) -> Result<Report> {
    let mut command = workspace.cargo(["test", "--package", "xtask", "--test", "tidy", "--", "--quiet"]);
    // A finding is a sentence with its place; where tidy itself stood when it said it helps nobody.
    command.env("RUST_BACKTRACE", "0");
    Ok(counted(command, "tidy", 1)?.0)
}

fn lint(workspace: &Workspace) -> Result<Report> {
    need_component(workspace, "clippy", "clippy")?;
    // With the tests that need the feature, which differs from the rest by a few lines.
    let targets = ["--workspace", "--all-targets", "--features", simulation::WITH_BUGS];
    let mut command = workspace.cargo(["clippy"]);
    command.args(targets).args(["--", "-D", "warnings"]);
    plain(command, "lint")
}

fn tests(workspace: &Workspace) -> Result<Report> {
    for (program, package) in [("mkfs.ext4", "e2fsprogs"), ("mkfs.xfs", "xfsprogs")] {
        if let Err(error) = need_program(workspace, program, package) {
            eprintln!("{error:#}; the stories that need it are skipped");
        }
    }
    let skips = Skips::gather();
    let at_once = tests_at_once(std::thread::available_parallelism()).to_string();
    let mut command = match test_runner(workspace) {
        Runner::Nextest => {
            // Built with what the next step needs, which builds nothing then.
            let mut command = workspace.cargo(["nextest", "run", "--workspace", "--tests"]);
            command.args(["--features", simulation::WITH_BUGS, "-E", simulation::ALL_OTHERS]);
            command.args(["--no-fail-fast", "--test-threads"]).arg(at_once);
            command
        }
        Runner::CargoTest => {
            // It can't leave a binary out: what is ours is built once more for the next step.
            let mut command = workspace.cargo(["test", "--workspace", "--tests", "--no-fail-fast"]);
            command.env("RUST_TEST_THREADS", at_once);
            command
        }
    };
    skips.told_by(&mut command);
    let (report, tally) = counted(command, "tests", 1)?;
    let skipped = skips.told();
    Ok(Report { tests: Some(tally), detail: report.detail + &skipped, skipped, ..report })
}

/// How many tests run beside each other. Many wait for a disk, a process or a deadline most of the time: two cores are idle for a third of it
/// where only two run, and are busy with four. Where there are many cores, memory is what counts.
fn tests_at_once(cores: std::io::Result<NonZero<usize>>) -> usize {
    let cores = cores.map_or(1, NonZero::get);
    cores.max((2 * cores).min(8))
}

fn simulator(workspace: &Workspace) -> Result<Report> {
    let mut command = simulation::tests_with_bugs(workspace);
    command.arg("--nocapture");
    let (report, tally) = counted(command, "simulator", 1)?;
    Ok(Report { tests: Some(tally), ..report })
}

fn doc_tests(workspace: &Workspace) -> Result<Report> {
    // Of the crates that the step before has built.
    let mut command = workspace.cargo(["test", "--doc", "--workspace", "--no-fail-fast"]);
    command.args(["--features", simulation::WITH_BUGS]);
    Ok(counted(command, "doc-tests", 0)?.0)
}

fn docs(workspace: &Workspace) -> Result<Report> {
    let mut command = workspace.cargo(["doc", "--no-deps", "--workspace", "--features", simulation::WITH_BUGS]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    plain(command, "docs")
}

fn licences(workspace: &Workspace) -> Result<Report> {
    if !answers(workspace, &["deny", "--version"]) {
        let detail = "cargo-deny is not installed; tidy has checked the licences".to_owned();
        return Ok(Report::new(Verdict::Skipped, detail));
    }
    // Advisories are left out: their database is fetched from the network, and the gate must work without.
    plain(workspace.cargo(["deny", "--offline", "check", "bans", "licenses", "sources"]), "licences")
}

fn release(workspace: &Workspace) -> Result<Report> {
    // What the later steps need is built with it: one after the other, each would end with a crate that is compiled alone.
    let mut all = examples::build_of_all(workspace)?;
    all.args(["--package", "plenum-bench"]).args(harness::IN_A_HURRY);
    let report = plain(all, "the build of all programs")?;
    if report.verdict == Verdict::Failed {
        return Ok(report);
    }
    plain(workspace.cargo(["build", "--release"]), "release")
}

fn run_examples(workspace: &Workspace) -> Result<Report> {
    let (count, skipped) = examples::run(workspace, &[])?;
    Ok(Report { skipped: skipped.clone(), ..Report::new(Verdict::Passed, format!("{count} examples{skipped}")) })
}

fn run_harness(workspace: &Workspace) -> Result<Report> {
    let (detail, skipped) = harness::run(workspace)?;
    Ok(Report { skipped, ..Report::new(Verdict::Passed, detail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_counts_the_tests() {
        assert_eq!(closing_line(&[], Some(Tally { passed: 12, failed: 0 }), ""), "12 passed, 0 failed");
    }

    #[test]
    fn a_failed_step_stands_before_the_counts_of_tests_that_passed() {
        let line = closing_line(&["lint", "docs"], Some(Tally { passed: 12, failed: 0 }), "");
        assert_eq!(line, "the gate failed: lint, docs; tests: 12 passed, 0 failed");
    }

    // Whoever read only that took a run without them for a whole one.
    #[test]
    fn the_closing_line_says_what_was_skipped() {
        let of = |name: &str| STEPS.iter().find(|step| step.name == name).expect("there is such a step");
        let tests = Report { skipped: "; 3 stories SKIPPED".to_owned(), ..Report::new(Verdict::Passed, String::new()) };
        assert_eq!(skipped_of(of("tests"), &tests), "; 3 stories SKIPPED");
        let licences = Report::new(Verdict::Skipped, "cargo-deny is not installed".to_owned());
        assert_eq!(skipped_of(of("licences"), &licences), "; the step licences SKIPPED");
        assert_eq!(skipped_of(of("docs"), &Report::new(Verdict::Passed, "all of it".to_owned())), "");
        let skipped = skipped_of(of("tests"), &tests) + &skipped_of(of("licences"), &licences);
        let line = closing_line(&[], Some(Tally { passed: 12, failed: 0 }), &skipped);
        assert_eq!(line, "12 passed, 0 failed; 3 stories SKIPPED; the step licences SKIPPED");
    }

    // A gate of one step ended with the line of a whole one.
    #[test]
    fn the_closing_line_says_that_only_some_steps_were_asked_for() {
        let line = |only: &[&str]| closing_line(&[], None, "") + &only_these(only);
        assert_eq!(line(&[]), "all steps passed");
        assert_eq!(line(&["lint"]), "all steps passed; only: lint");
        assert_eq!(line(&["lint", "docs"]), "all steps passed; only: lint docs");
    }

    // A filter that matches nothing is a success to Cargo.
    #[test]
    fn a_step_that_counted_no_test_has_failed_but_where_none_need_be_there() {
        let verdict = |is_success, passed, failed, least| judged(is_success, Tally { passed, failed }, least).verdict;
        assert_eq!((verdict(true, 12, 0, 1), verdict(true, 0, 0, 0)), (Verdict::Passed, Verdict::Passed));
        assert_eq!((verdict(true, 12, 1, 1), verdict(false, 12, 0, 1)), (Verdict::Failed, Verdict::Failed));
        let none = judged(true, Tally::default(), 1);
        assert_eq!(none.verdict, Verdict::Failed);
        assert!(none.detail.starts_with("0 passed, 0 failed: expected at least 1 to run"), "{}", none.detail);
    }

    #[test]
    fn a_small_machine_runs_two_tests_for_each_core_and_a_large_one_a_test_for_each() {
        let at_once = |cores| tests_at_once(Ok(NonZero::new(cores).expect("there is a core")));
        assert_eq!([1, 2, 4, 6, 8, 64].map(at_once), [2, 4, 8, 8, 8, 64]);
    }

    #[test]
    fn an_unknown_step_is_answered_with_those_there_are() {
        let error = step_name("linting").expect_err("there is no such step");
        assert!(error.contains("format, tidy, lint"), "{error}");
    }

    #[test]
    fn one_failed_step_fails_the_gate_and_a_skipped_one_does_not() {
        let report = |verdict| Report::new(verdict, String::new());
        let outcome = |verdicts: [Verdict; 2]| {
            let done: Vec<_> = STEPS.iter().zip(verdicts).map(|(s, v)| (s, report(v), Duration::ZERO)).collect();
            summarise(&done, Duration::ZERO, &[])
        };
        assert!(outcome([Verdict::Passed, Verdict::Skipped]));
        assert!(!outcome([Verdict::Failed, Verdict::Passed]));
    }
}
