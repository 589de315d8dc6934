//! `cargo xtask package`: the build that a cell runs for months, optimised for what a cell does.
//!
//! The programs are built three times over: as `dist`, counting how often each of their branches is taken; then the harness runs its suites with
//! that build; then as `dist` again, laid out and inlined by those counts (profile-guided optimisation: Pettis and Hansen, PLDI 1990).
//! `docs/decisions` tells what it gains.
//!
//! It knows Cargo, the compiler's own tool for merging counts, and which suites stand for a cell's work. A count of another source or compiler is
//! worth nothing, so none is kept from run to run.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::programs;
use crate::watch::{duration, watch};
use crate::workspace::{Workspace, forget_settings};

/// What a package has.
const PROGRAMS: [&str; 2] = ["plenum", BENCH];
/// The one that counts: a cell's server is part of it.
const BENCH: &str = "plenum-bench";

/// What is run to be counted, and how much it counts. A loop over all machines has more turns in a second than commits have in a minute: without
/// weights, what every commit passes through would look as if it were hardly used.
const SUITES: &[(&str, u32, &[&str])] = &[
    ("commit", 20, &["--etcd", "none"]),
    ("recovery", 5, &[]),
    ("core", 1, &[]),
    ("policy", 1, &[]),
    ("trace", 1, &[]),
    ("omega", 1, &["--case", "E8_alternates"]),
];

/// One build, on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);
/// One suite; counting makes it slower by some.
const SUITE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Builds, counts, and builds again. The programs are in `package/` of the target folder then.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let started = Instant::now();
    let compiler = Compiler::find(workspace)?;
    let counts = workspace.scratch("package-counts")?;

    let counting =
        build(workspace, &compiler, &[BENCH], "counting", &format!("-Cprofile-generate={}", text(&counts)?))?;
    let mut merge = Command::new(&compiler.profdata);
    let profile = counts.join("all.profdata");
    merge.args(["merge", "-o"]).arg(&profile);
    for (suite, weight, narrowed) in SUITES {
        let own = counts.join(suite);
        count(workspace, &counting, suite, narrowed, &own)?;
        for file in counted(&own)? {
            merge.arg(weighted(*weight, &file));
        }
    }
    let status = watch(merge, "the merging of counts", SUITE_LIMIT, |_, _| {})?;
    ensure!(status.success(), "{} could not merge the counts: {status}", compiler.profdata.display());

    let built = build(workspace, &compiler, &PROGRAMS, "optimised", &format!("-Cprofile-use={}", text(&profile)?))?;
    let package = workspace.target.join("package");
    for program in PROGRAMS {
        std::fs::copy(built.join(program), package.join(program))
            .with_context(|| format!("could not copy {program} to {}", package.display()))?;
        println!("{}", package.join(program).display());
    }
    println!("optimised for what was counted, in {}", duration(started.elapsed()));
    Ok(true)
}

/// What the compiler at hand calls this machine, and its tool for counts: one of another version does not understand them.
struct Compiler {
    host: String,
    profdata: PathBuf,
}

impl Compiler {
    fn find(workspace: &Workspace) -> Result<Self> {
        let about = rustc(workspace, &["-vV"])?;
        let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
        let profdata = profdata(&rustc(workspace, &["--print", "sysroot"])?, host);
        if !profdata.is_file() {
            programs::add_component(workspace, "llvm-tools")?;
        }
        ensure!(
            profdata.is_file(),
            "expected the compiler's tool for counts at {}, and there is none. With rustup: rustup component add llvm-tools",
            profdata.display()
        );
        Ok(Self { host: host.to_owned(), profdata })
    }
}

/// Where a toolchain keeps the tool, if it has it.
fn profdata(sysroot: &str, host: &str) -> PathBuf {
    Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin/llvm-profdata")
}

fn rustc(workspace: &Workspace, arguments: &[&str]) -> Result<String> {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(program).args(arguments).current_dir(&workspace.root).output();
    let output = output.context("could not start rustc")?;
    ensure!(output.status.success(), "`rustc {}` ended with {}", arguments.join(" "), output.status);
    String::from_utf8(output.stdout).context("rustc printed what is no text")
}

/// Builds these programs with one flag more, in a folder of its own; gives the folder that they are in.
fn build(workspace: &Workspace, compiler: &Compiler, programs: &[&str], folder: &str, flag: &str) -> Result<PathBuf> {
    let target = workspace.target.join("package").join(folder);
    // Cargo sees that a flag has changed, and not that the counts have which it names.
    if flag.starts_with("-Cprofile-use") && target.exists() {
        std::fs::remove_dir_all(&target).with_context(|| format!("could not empty {}", target.display()))?;
    }
    // With a target that is named, what runs during the build (macros, build scripts) is built without the flag.
    let mut command = workspace.cargo(["build", "--profile", "dist", "--target", &compiler.host]);
    // All packages are named whatever is built of them: with other features, what they share would be other code.
    command.args(PROGRAMS.iter().flat_map(|package| ["--package", package]));
    command.args(programs.iter().flat_map(|program| ["--bin", program]));
    command.env("CARGO_TARGET_DIR", &target).env("CARGO_INCREMENTAL", "0");
    let given = |name: &str| std::env::var(name).ok();
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(given("CARGO_ENCODED_RUSTFLAGS"), given("RUSTFLAGS"), flag));
    let status = watch(command, &format!("the {folder} build"), BUILD_LIMIT, |_, _| {})?;
    ensure!(status.success(), "the {folder} build ended with {status}");
    Ok(target.join(&compiler.host).join("dist"))
}

/// The caller's flags, which Cargo takes from either variable and would take from none beside ours, and one more.
fn flags(encoded: Option<String>, plain: Option<String>, flag: &str) -> String {
    let own =
        encoded.unwrap_or_else(|| plain.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join("\u{1f}"));
    if own.is_empty() { flag.to_owned() } else { format!("{own}\u{1f}{flag}") }
}

/// Runs a suite; each process leaves a file of its counts in `into`.
fn count(workspace: &Workspace, built: &Path, suite: &str, narrowed: &[&str], into: &Path) -> Result<()> {
    std::fs::create_dir_all(into).with_context(|| format!("could not make {}", into.display()))?;
    let mut command = Command::new(built.join("plenum-bench"));
    command.args(["run", suite, "--quick"]).args(narrowed).current_dir(&workspace.root);
    command.arg("--out").arg(workspace.scratch(&format!("package-{suite}"))?);
    forget_settings(&mut command);
    command.env("LLVM_PROFILE_FILE", into.join("%p.profraw"));
    let status = watch(command, &format!("the suite {suite}"), SUITE_LIMIT, |_, _| {})?;
    ensure!(status.success(), "the suite {suite} ended with {status} in the build that counts");
    Ok(())
}

/// The files of counts that were written to their end. A process that was killed while it wrote left none that can be read.
fn counted(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("profraw")) {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("no process left counts in {}: is it the build that counts?", folder.display());
    }
    Ok(files)
}

/// As `llvm-profdata merge` takes it.
fn weighted(weight: u32, file: &Path) -> OsString {
    let mut argument = OsString::from(format!("--weighted-input={weight},"));
    argument.push(file);
    argument
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text, and the compiler's flags must be", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_caller_are_kept_wherever_they_stand() {
        let ours = "-Cprofile-use=/a b";
        assert_eq!(flags(None, None, ours), ours);
        assert_eq!(flags(None, Some(" -Ca  -Cb ".into()), ours), format!("-Ca\u{1f}-Cb\u{1f}{ours}"));
        assert_eq!(flags(Some("-C\u{1f}c d".into()), Some("-Ca".into()), ours), format!("-C\u{1f}c d\u{1f}{ours}"));
    }

    #[test]
    fn the_tool_is_that_of_the_compiler_and_no_other() {
        let path = profdata("/opt/rust\n", "x86_64-unknown-linux-gnu");
        assert_eq!(path, Path::new("/opt/rust/lib/rustlib/x86_64-unknown-linux-gnu/bin/llvm-profdata"));
    }

    #[test]
    fn a_suite_that_left_no_counts_is_an_error() {
        let folder = std::env::temp_dir().join(format!("plenum-no-counts-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let error = counted(&folder).expect_err("the folder is empty");
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(error.to_string().contains("no process left counts"), "{error}");
    }
}
