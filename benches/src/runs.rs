//! One run: its suites one after the other. What was measured is written after each of their cases, and a suite that fails takes no figure of the others
//! with it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use crate::build::Build;
use crate::figure::{Failed, Results};
use crate::folder::Held;
use crate::kept::Kept;
use crate::machine::Machine;
use crate::progress::{print, say};
use crate::{Run, interrupt, report, suites};

/// Runs the suites that were asked for. Gives 0, or 130 when Ctrl-C ended it early, or 1 when a suite failed. Whatever came of it, the
/// folder tells of this run afterwards, and not of one before; but for a run that measured nothing, which leaves what was there.
///
/// # Errors
/// When another run writes into the folder, nothing was measured and no failure is to be written, or what was measured cannot be written.
pub(crate) fn run(options: &Run) -> anyhow::Result<ExitCode> {
    let names = options.suites.join(" ");
    ensure!(
        !cfg!(debug_assertions) || cfg!(test),
        "figures of a debug build say nothing: expected `cargo run --release -p plenum-bench -- run {names}`"
    );
    options.check_data()?;
    let folder = options.folder();
    let _held = Held::take(&folder)?;
    interrupt::listen()?;
    let began = Instant::now();
    let machine = Machine::this()?;
    let [one, five, _] = machine.load_average;
    say(&format!("{names} on {} cores of {}, load average {one} {five}", machine.cores, machine.cpu_model));
    let mut results = Results {
        plenum: env!("CARGO_PKG_VERSION").to_owned(),
        build: Some(Build::this()),
        machine,
        seed: options.seed,
        started: jiff::Timestamp::now().round(jiff::Unit::Second)?.to_string(),
        quick: options.quick,
        suites: options.suites.clone(),
        case: options.case.clone(),
        stopped: false,
        under_way: None,
        failed: Vec::new(),
        figures: Vec::new(),
    };
    let measured = each_or_none(&options.suites, &mut results, &folder, |name, kept| {
        let suite = suites::SUITES.iter().find(|suite| suite.name == name).context("a suite of the list")?;
        (suite.run)(options, kept)
    });
    let written = measured.and_then(|()| report::write(&results, &folder));
    // Also where there was no room for the file.
    for figure in &results.figures {
        print(&report::line(figure))?;
    }
    written?;
    say(&format!("{:.0} s; results in {}", began.elapsed().as_secs_f64(), folder.display()));
    for Failed { suite, error } in &results.failed {
        say(&format!("error: suite {suite}: {error}"));
    }
    Ok(if results.stopped {
        ExitCode::from(interrupt::EXIT_CODE)
    } else if results.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The same as [`each`]; but when nothing was measured although nobody stopped it, as when no case has such a name or a file is not there, what a
/// run before left is as it was. A failure is written only where there was nothing to keep.
fn each_or_none(
    names: &[String],
    results: &mut Results,
    folder: &Path,
    suite: impl FnMut(&str, &mut Kept<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let before = report::Before::of(names, folder)?;
    each(names, results, folder, suite)?;
    if results.figures.is_empty() && !results.stopped {
        before.put_back()?;
        let (names, folder) = (names.join(" "), folder.display());
        if results.failed.is_empty() {
            let text = results.case.as_deref().unwrap_or_default();
            bail!("no case of {names} has {text:?} in its name, or none of its figures can be told");
        }
        ensure!(before.is_empty(), "nothing of {names} was measured; {folder} is left as it was before");
    }
    Ok(())
}

/// Runs suites by their names until Ctrl-C, and writes the results so far before the first one, after each of their cases, and after each of them. Until all have
/// run they say that they are not whole: nobody may be there to say it when the harness is killed.
fn each(
    names: &[String],
    results: &mut Results,
    folder: &Path,
    mut suite: impl FnMut(&str, &mut Kept<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    results.stopped = true;
    report::remove(names, folder)?;
    results.write(folder)?;
    for name in names {
        if interrupt::asked() {
            return Ok(());
        }
        let mut kept = Kept::begin(name, results, folder);
        let ended = suite(name, &mut kept);
        kept.end(ended.is_err());
        if let Err(error) = ended {
            let error = format!("{error:#}");
            say(&format!("error: suite {name}: {error}"));
            results.failed.push(Failed { suite: name.clone(), error });
        }
        // What was measured is in memory, and the next suite, or the end, may find more room.
        if let Err(error) = results.write(folder) {
            say(&format!("error: after suite {name}: {error:#}"));
        }
    }
    results.stopped = interrupt::asked();
    results.write(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Better, Case, Parameters};

    #[test]
    fn a_suite_that_fails_takes_no_figure_of_others_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["core", "commit", "dev"].map(str::to_owned);
        let mut results = Results::of(Vec::new());
        each(&names, &mut results, folder.path(), |name, kept| {
            match name {
                "core" => {}
                // What was measured before is on the disk by now.
                _ => assert_eq!(Results::read(folder.path()).unwrap().figures.len(), 1),
            }
            ensure!(name != "commit", "no etcd");
            let suite = if name == "core" { "core" } else { "dev" };
            let case = Case { suite, case: "one", parameters: Parameters::new() };
            kept.add([case.figure("seconds", "s", Better::Lower, vec![1.0])?]);
            Ok(())
        })
        .unwrap();

        let written = Results::read(folder.path()).unwrap();
        let suites: Vec<&str> = written.figures.iter().map(|figure| figure.suite.as_str()).collect();
        assert_eq!(suites, ["core", "dev"]);
        assert_eq!(written.failed, [Failed { suite: "commit".into(), error: "no etcd".into() }]);
        assert!(!written.stopped);
    }

    // A run of half an hour that was killed in its last suite left nothing of that one, and nothing at all where it was the only one.
    #[test]
    fn what_a_suite_has_measured_is_kept_after_each_case_and_taken_back_where_it_fails() {
        let folder = tempfile::tempdir().unwrap();
        let written = || Results::read(folder.path()).unwrap();
        let cases = |written: &Results| written.figures.iter().map(|figure| figure.case.clone()).collect::<Vec<_>>();
        let mut results = Results::of(Vec::new());
        each(&["core", "commit"].map(str::to_owned), &mut results, folder.path(), |name, kept| {
            assert_eq!(written().under_way.as_deref(), Some(name));
            for number in 1..=2 {
                let (suite, case) = if name == "core" { ("core", "of core") } else { ("commit", "of commit") };
                let case = Case { suite, case, parameters: Parameters::new() };
                kept.add([case.figure(&format!("seconds_{number}"), "s", Better::Lower, vec![1.0])?]);
                assert_eq!(kept.figures().len(), number);
                let killed_now = written();
                assert!(killed_now.stopped && killed_now.under_way.as_deref() == Some(name));
                assert_eq!(killed_now.figures.len(), number + if name == "core" { 0 } else { 2 });
            }
            ensure!(name == "core", "the cell has lost what it acknowledged");
            Ok(())
        })
        .unwrap();
        let written = written();
        assert_eq!(cases(&written), ["of core", "of core"], "of one that fails nothing is believed");
        assert!(!written.stopped && written.under_way.is_none() && written.failed[0].suite == "commit");
    }

    // The second one removed what the first had measured, and at the end the folder had the results of the one and the plots of the other.
    #[test]
    fn a_run_is_refused_while_another_one_writes_into_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let options = Run::of(&["core", "--case", "no such case", "--out", folder.path().to_str().unwrap()]);
        let other = Held::take(folder.path()).unwrap();
        let case = Case { suite: "core", case: "of the other", parameters: Parameters::new() };
        let measured = Results::of(vec![case.figure("seconds", "s", Better::Lower, vec![1.0]).unwrap()]);
        measured.write(folder.path()).unwrap();
        let refused = run(&options).unwrap_err().to_string();
        assert!(refused.contains("another run writes into"), "{refused}");
        assert_eq!(Results::read(folder.path()).unwrap().figures[0].case, "of the other");
        drop(other);
        let told = run(&options).map_or_else(|error| error.to_string(), |_| String::new());
        assert!(!told.contains("another run"), "{told}");
    }

    #[test]
    fn suites_that_run_leave_nothing_of_the_run_before() {
        let folder = tempfile::tempdir().unwrap();
        let there = |name: &str| folder.path().join(name).exists();
        let case = Case { suite: "core", case: "yesterday", parameters: Parameters::new() };
        let figures = (1..=2).map(|_| case.figure("seconds", "s", Better::Lower, vec![1.0, 2.0, 3.0]).unwrap());
        let before = Results::of(figures.collect());
        before.write(folder.path()).unwrap();
        for name in ["core.md", "core-own.md", "core-own.svg", "core-notes.txt", "commit-own.svg"] {
            std::fs::write(folder.path().join(name), "yesterday").unwrap();
        }
        report::write(&before, folder.path()).unwrap();
        assert!(there("core-seconds.svg") && there("core-seconds-samples.svg") && there("report.html"));

        let mut results = Results::of(Vec::new());
        each(&["core".to_owned()], &mut results, folder.path(), |_, _| {
            // One that is killed meanwhile leaves a run that did not come to its end.
            let written = Results::read(folder.path()).unwrap();
            assert!(written.stopped && written.figures.is_empty());
            anyhow::bail!("no disk")
        })
        .unwrap();
        let written = Results::read(folder.path()).unwrap();
        assert!(written.figures.is_empty() && !written.stopped);
        assert_eq!(written.failed, [Failed { suite: "core".into(), error: "no disk".into() }]);
        for name in ["core.md", "core-own.md", "core-own.svg", "core-seconds.svg", "report.md", "report.html"] {
            assert!(!there(name), "{name}");
        }
        // What is not of a report, or of other suites, is nobody's to take away.
        assert!(there("core-notes.txt") && there("commit-own.svg"));
    }

    #[test]
    fn a_run_that_has_nothing_to_measure_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let case = Case { suite: "core", case: "yesterday", parameters: Parameters::new() };
        let before = Results::of(vec![case.figure("seconds", "s", Better::Lower, vec![1.0]).unwrap()]);
        before.write(folder.path()).unwrap();
        report::write(&before, folder.path()).unwrap();
        std::fs::write(folder.path().join("core-own.svg"), "yesterday").unwrap();

        let mut results = Results { case: Some("machnes".into()), ..Results::of(Vec::new()) };
        let error = each_or_none(&["core".to_owned()], &mut results, folder.path(), |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("no case of core has \"machnes\" in its name"), "{error}");
        assert_eq!(Results::read(folder.path()).unwrap().figures[0].case, "yesterday");
        let own = std::fs::read_to_string(folder.path().join("core-own.svg")).unwrap();
        assert!(own == "yesterday" && folder.path().join("report.html").exists());
    }

    #[test]
    fn a_run_that_fails_before_it_measures_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["core".to_owned()];
        let fails = |_: &str, _: &mut Kept<'_>| -> anyhow::Result<()> { bail!("no such policy") };
        // Where there is nothing to keep, the failure is kept.
        each_or_none(&names, &mut Results::of(Vec::new()), folder.path(), fails).unwrap();
        assert_eq!(Results::read(folder.path()).unwrap().failed[0].error, "no such policy");

        let case = Case { suite: "core", case: "yesterday", parameters: Parameters::new() };
        let before = Results::of(vec![case.figure("seconds", "s", Better::Lower, vec![1.0]).unwrap()]);
        before.write(folder.path()).unwrap();
        report::write(&before, folder.path()).unwrap();
        std::fs::write(folder.path().join("core-own.svg"), "yesterday").unwrap();
        let error = each_or_none(&names, &mut Results::of(Vec::new()), folder.path(), fails).unwrap_err();
        assert!(error.to_string().contains("nothing of core was measured"), "{error}");
        assert_eq!(Results::read(folder.path()).unwrap().figures[0].case, "yesterday");
        let own = std::fs::read_to_string(folder.path().join("core-own.svg")).unwrap();
        assert!(own == "yesterday" && folder.path().join("report.html").exists());
    }

    #[test]
    fn a_folder_in_which_no_run_left_results_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("core-plans.md"), "of somebody").unwrap();
        each(&["core".to_owned()], &mut Results::of(Vec::new()), folder.path(), |_, _| Ok(())).unwrap();
        assert!(folder.path().join("core-plans.md").exists());
    }
}
