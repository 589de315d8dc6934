//! The examples, run for real with the release build, and judged by what stands beside them.
//!
//! | in `examples/` | is run as |
//! |---|---|
//! | `NAME.toml` | `plenum dev examples/NAME.toml --until-done` |
//! | `NAME.toml` with `NAME.run.sh` beside it | that script, where the plain command isn't enough |
//! | `NAME/run.sh` | that script; a `main.rs` beside it is an example of `plenum-sdk` and built before |
//!
//! Scripts run with `sh` in the project's folder, with the release build's folder first in `PATH`, the binary in
//! `$PLENUM`, and an empty folder of their own in `$PLENUM_EXAMPLE_DIR`. The exit code must be 0, and what is printed
//! on standard output must satisfy at least one of
//!
//! - `NAME.expected` (`NAME/expected`): its lines occur in the output, in this order; `*` stands for any text, and
//!   a part of a line is enough;
//! - `NAME.check.sh` (`NAME/check.sh`): a script that reads the output and ends with 0 when it is right.
//!
//! or both, if both are there. A line `# needs: PROGRAM PACKAGE` in the file that is run has the program installed, or asked for; a file that is no
//! program, such as a library's, is named by its whole path.
//! When an example has ended, no process of the release build and no control group may be left.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::leftovers::Traces;
use crate::programs::need_program;
use crate::watch::{Output, duration, watch};
use crate::workspace::{Workspace, forget_settings};

/// The longest example takes seconds; a loaded machine may take ten times as long.
const EXAMPLE_LIMIT: Duration = Duration::from_secs(180);
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
/// What is kept of an example's output for its check, in bytes.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// How `plenum dev` begins what it says where the kernel gives tasks less than there is.
const MISSING: &str = "tasks run without: ";

/// An example, and what says whether it went right.
#[derive(Debug, PartialEq, Eq)]
struct Example {
    name: String,
    /// A job file or a script.
    file: PathBuf,
    expected: Option<PathBuf>,
    check: Option<PathBuf>,
}

/// Runs those named, or all, one after the other; gives their number and, for the end of a line, what their tasks ran without here. Or an
/// error that names those that failed.
pub(crate) fn run(workspace: &Workspace, names: &[String]) -> Result<(usize, String)> {
    let mut examples = find(&workspace.root.join("examples"))?;
    if let Some(unknown) = names.iter().find(|name| examples.iter().all(|example| example.name != **name)) {
        let known: Vec<&str> = examples.iter().map(|example| example.name.as_str()).collect();
        bail!("there is no example {unknown}; there are: {}", known.join(", "));
    }
    examples.retain(|example| names.is_empty() || names.contains(&example.name));
    ensure!(!examples.is_empty(), "there are no examples in the folder `examples`");
    build(workspace, &examples)?;

    let (mut failed, mut missing) = (Vec::new(), BTreeSet::new());
    for example in &examples {
        eprintln!("example {}", example.name);
        let started = Instant::now();
        match run_one(workspace, example, &mut missing) {
            Ok(()) => eprintln!("example {}: passed in {}", example.name, duration(started.elapsed())),
            Err(error) => {
                eprintln!("example {}: FAILED: {error:#}", example.name);
                failed.push(example.name.as_str());
            }
        }
    }
    ensure!(
        failed.is_empty(),
        "{} of {} examples failed; to repeat: cargo xtask examples {}",
        failed.len(),
        examples.len(),
        failed.join(" ")
    );
    Ok((examples.len(), ran_without(&missing)))
}

/// What tasks ran without, for the end of a line; empty where they had everything.
fn ran_without(missing: &BTreeSet<String>) -> String {
    missing.iter().map(|what| format!("; tasks of examples ran without {what}")).collect()
}

/// Builds the binary, and the programs among `examples`, so that no script waits for a compiler within its time limit.
fn build(workspace: &Workspace, examples: &[Example]) -> Result<()> {
    // A matter of a second when the step before has built it.
    let command = || with_binary(workspace, examples).unwrap_or_else(|| workspace.cargo(["build", "--release"]));
    let status = watch(command(), "the release build", BUILD_LIMIT, |_, _| {})?;
    ensure!(status.success(), "the release build failed ({status})");
    workspace.check_place(command())
}

/// The build of the programs of all examples, and the binary.
pub(crate) fn build_of_all(workspace: &Workspace) -> Result<Command> {
    let examples = find(&workspace.root.join("examples"))?;
    with_binary(workspace, &examples).context("no example is a program")
}

/// The build of those among `examples` that are programs, where there are any, and of the binary. Together, as the scripts do it: alone, they would need some
/// crates with other features. Where examples are named, Cargo builds binaries only when told to.
fn with_binary(workspace: &Workspace, examples: &[Example]) -> Option<Command> {
    let is_program = |example: &&Example| example.file.with_file_name("main.rs").exists();
    let programs: Vec<_> = examples.iter().filter(is_program).flat_map(|one| ["--example", &one.name]).collect();
    let mut command =
        workspace.cargo(["build", "--release", "--package", "plenum", "--package", "plenum-sdk", "--bins"]);
    command.args(&programs);
    (!programs.is_empty()).then_some(command)
}

/// Everything in `folder` that is an example, by name.
fn find(folder: &Path) -> Result<Vec<Example>> {
    let entries = fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
    let mut examples = Vec::new();
    for entry in entries {
        let path = entry.context("could not read a folder entry")?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let run = path.join("run.sh");
            ensure!(run.exists(), "{} has no run.sh: an example is something that runs", path.display());
            let (expected, check) = (existing(path.join("expected")), existing(path.join("check.sh")));
            examples.push(Example { name, file: run, expected, check });
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            let beside = |suffix: &str| existing(folder.join(format!("{name}.{suffix}")));
            let (file, expected, check) = (beside("run.sh"), beside("expected"), beside("check.sh"));
            examples.push(Example { file: file.unwrap_or(path), name, expected, check });
        }
    }
    for example in &examples {
        ensure!(
            example.expected.is_some() || example.check.is_some(),
            "the example {} checks nothing: put {}.expected or {}.check.sh beside it (in a folder: expected or check.sh)",
            example.name,
            example.name,
            example.name
        );
    }
    examples.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(examples)
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.exists().then_some(path)
}

/// Runs one example and checks what it printed and what it left. What it says that its tasks run without is added to `missing`.
fn run_one(workspace: &Workspace, example: &Example, missing: &mut BTreeSet<String>) -> Result<()> {
    for (program, package) in needs(&fs::read_to_string(&example.file)?) {
        need_program(workspace, &program, &package)?;
    }
    let folder = workspace.scratch(&format!("example-{}", example.name))?;
    let before = Traces::before(&workspace.release_folder(), &folder);
    let mut printed = String::new();
    let result = watch(command(workspace, example, &folder)?, &example.name, EXAMPLE_LIMIT, |output, line| {
        if output == Output::Standard && printed.len() + line.len() < OUTPUT_BYTES_MAX {
            printed.push_str(line);
            printed.push('\n');
        }
        if output == Output::Error {
            missing.extend(line.strip_prefix(MISSING).map(str::to_owned));
        }
    });
    let left = before.left();
    let status = result?;
    ensure!(status.success(), "it ended with {status} (expected: exit code 0)");
    ensure!(left.is_empty(), "it left behind: {}", left.join(", "));
    check_output(workspace, example, &folder, &printed)
}

/// The command that runs `example`.
fn command(workspace: &Workspace, example: &Example, folder: &Path) -> Result<Command> {
    let mut command = if example.file.extension().is_some_and(|extension| extension == "toml") {
        let mut dev = Command::new(workspace.release_folder().join("plenum"));
        dev.arg("dev").arg(example.file.strip_prefix(&workspace.root)?).arg("--until-done");
        dev
    } else {
        let mut script = Command::new("sh");
        script.arg(&example.file);
        script
    };
    set_surroundings(&mut command, workspace, folder);
    Ok(command)
}

/// What every script of an example finds around it.
fn set_surroundings(command: &mut Command, workspace: &Workspace, folder: &Path) {
    forget_settings(command);
    let mut path = OsString::from(workspace.release_folder());
    if let Some(rest) = env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    command.env("PATH", path).env("PLENUM", workspace.release_folder().join("plenum"));
    command.env("PLENUM_EXAMPLE_DIR", folder).current_dir(&workspace.root);
}

/// Judges what an example printed.
fn check_output(workspace: &Workspace, example: &Example, folder: &Path, printed: &str) -> Result<()> {
    if let Some(expected) = &example.expected {
        let pattern = fs::read_to_string(expected)?;
        if let Some(line) = first_missing(&pattern, printed) {
            bail!("its output lacks the line `{line}` of {}, or has it in another place", expected.display());
        }
    }
    if let Some(check) = &example.check {
        let file = folder.join("standard-output");
        fs::write(&file, printed).with_context(|| format!("could not write {}", file.display()))?;
        let surround = |script: &mut Command| set_surroundings(script, workspace, folder);
        let status = judged(check, &file, EXAMPLE_LIMIT, surround)?;
        ensure!(
            status.success(),
            "{} does not accept its output ({status}), kept in {}",
            check.display(),
            file.display()
        );
    }
    Ok(())
}

/// How a script ends that reads what was printed from a file. The shell opens that: what is watched has no input of its own.
fn judged(check: &Path, printed: &Path, limit: Duration, surround: impl Fn(&mut Command)) -> Result<ExitStatus> {
    let mut script = Command::new("sh");
    script.args(["-c", "exec sh \"$1\" <\"$2\"", "sh"]).arg(check).arg(printed);
    surround(&mut script);
    let check = check.display();
    watch(script, &check.to_string(), limit, |_, _| {}).with_context(|| format!("{check} came to no verdict"))
}

/// The first line of `pattern` that `output` doesn't have after the ones before it.
fn first_missing<'a>(pattern: &'a str, output: &str) -> Option<&'a str> {
    let mut lines = output.lines();
    pattern
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .find(|wanted| !lines.any(|line| matches(wanted, line)))
}

/// True when the parts of `pattern` between its stars occur in `line`, in order.
fn matches(pattern: &str, line: &str) -> bool {
    let mut rest = line;
    pattern.split('*').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// The programs, each with its package, that a file asks for.
fn needs(text: &str) -> Vec<(String, String)> {
    let asked = text.lines().filter_map(|line| line.trim().strip_prefix("# needs:"));
    let pairs = asked.map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let program = words.next().unwrap_or_default();
        let package = words.next().unwrap_or_else(|| program.clone());
        (program, package)
    });
    pairs.filter(|(program, _)| !program.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_lines_must_occur_in_their_order() {
        let output = "splitting\n   1234 the\n   1100 of\ndone in 3 s\n";
        assert_eq!(first_missing("the\nof\ndone in * s", output), None);
        assert_eq!(first_missing("of\nthe", output), Some("the"));
        assert_eq!(first_missing("# a remark\n\nnowhere", output), Some("nowhere"));
    }

    #[test]
    fn a_star_stands_for_any_text() {
        assert!(matches("refused: conflict, * short by *", "batch refused: conflict, cpu short by 500"));
        assert!(!matches("short by * conflict", "conflict, short by 5"));
    }

    #[test]
    fn programs_that_an_example_needs_are_read_from_its_file() {
        let text =
            "#!/bin/sh\n# needs: curl\n# needs: python3 python3-minimal\n# needs: /usr/lib/x.so libx\nplenum dev\n";
        let expected = [("curl", "curl"), ("python3", "python3-minimal"), ("/usr/lib/x.so", "libx")];
        assert_eq!(needs(text), expected.map(|(program, package)| (program.to_owned(), package.to_owned())));
    }

    /// A project of its own with these files in its `examples`, gone with the value.
    struct Project(Workspace);

    impl Project {
        fn with(name: &str, files: &[(&str, &str)]) -> Self {
            let root = env::temp_dir().join(format!("plenum-xtask-{}-{name}", std::process::id()));
            for (path, text) in files {
                let file = root.join("examples").join(path);
                fs::create_dir_all(file.parent().expect("it is in a folder")).expect("temporary folders are writable");
                fs::write(file, text).expect("temporary folders are writable");
            }
            Self(Workspace { target: root.join("target"), root, is_first_build: false })
        }

        /// What becomes of its only example, and what is said that its tasks ran without.
        fn run(&self) -> Result<String> {
            let examples = find(&self.0.root.join("examples"))?;
            assert_eq!(examples.len(), 1, "{examples:?}");
            let mut missing = BTreeSet::new();
            run_one(&self.0, &examples[0], &mut missing)?;
            Ok(ran_without(&missing))
        }
    }

    impl Drop for Project {
        fn drop(&mut self) {
            // A leftover in a temporary folder is no reason to fail a test.
            let _ = fs::remove_dir_all(&self.0.root);
        }
    }

    #[test]
    fn an_example_that_checks_nothing_is_refused() {
        let error = Project::with("alone", &[("alone.toml", "")]).run().expect_err("nothing says what it should print");
        assert!(error.to_string().contains("alone checks nothing"), "{error}");
    }

    #[test]
    fn a_folder_without_something_to_run_is_refused() {
        let error = Project::with("idle", &[("idle/expected", "a")]).run().expect_err("nothing runs");
        assert!(error.to_string().contains("has no run.sh"), "{error}");
    }

    #[test]
    fn an_example_passes_when_its_output_satisfies_both_checks() {
        let files = [
            ("both/run.sh", "echo one; echo two >\"$PLENUM_EXAMPLE_DIR/note\"; echo three"),
            ("both/expected", "one\nthree\n"),
            ("both/check.sh", "grep -q three && grep -q two \"$PLENUM_EXAMPLE_DIR/note\""),
        ];
        Project::with("both", &files).run().expect("all is as it should be");
    }

    // Examples pass where tasks have neither limits nor a `/proc` of their own, and that was said in the midst of all that they print.
    #[test]
    fn what_tasks_ran_without_is_said_of_an_example_that_passes() {
        let whole = [("whole/run.sh", "echo 'tasks run without: what a task says'"), ("whole/expected", "tasks")];
        assert_eq!(Project::with("whole", &whole).run().expect("it passes"), "");
        let run = "for machine in 1 2; do echo 'tasks run without: limits of cpu, own /proc' >&2; done; echo done";
        let without = [("less/run.sh", run), ("less/expected", "done")];
        let said = Project::with("less", &without).run().expect("it passes");
        assert_eq!(said, "; tasks of examples ran without limits of cpu, own /proc");
    }

    // One that waited for ever held the gate up as long.
    #[test]
    fn a_check_that_is_not_done_in_time_is_stopped_and_named() {
        let files = [("slow/run.sh", "true"), ("slow/check.sh", "cat; exec sleep 600"), ("slow/printed", "three\n")];
        let project = Project::with("slow", &files);
        let folder = project.0.root.join("examples/slow");
        let (check, printed) = (folder.join("check.sh"), folder.join("printed"));
        let error = judged(&check, &printed, Duration::from_secs(1), |_| {}).expect_err("it sleeps longer");
        let told = format!("{error:#}");
        assert!(told.contains("check.sh came to no verdict: sh was not done after 1.0 s"), "{told}");
    }

    #[test]
    fn a_script_beside_a_job_file_runs_instead_of_it() {
        let files = [("web.toml", ""), ("web.run.sh", "echo ran"), ("web.expected", "ran")];
        Project::with("web", &files).run().expect("the script prints what is expected");
    }

    #[test]
    fn an_example_fails_by_its_exit_code_its_output_or_its_check() {
        let fails = |name: &str, run: &str, expected: &str, check: &str| {
            let files = [("it/run.sh", run), ("it/expected", expected), ("it/check.sh", check)];
            Project::with(name, &files).run().expect_err("it should not pass").to_string()
        };
        assert!(fails("code", "exit 3", "", "true").contains("exit status: 3"));
        assert!(fails("lines", "echo one", "two", "true").contains("lacks the line `two`"));
        assert!(fails("check", "echo one", "one", "false").contains("check.sh does not accept its output"));
    }
}
