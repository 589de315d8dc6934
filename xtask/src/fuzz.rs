//! Fuzzing for as long as one likes. The gate runs the corpus and some thousand changes of it, as tests of `plenum-fuzz`.
//!
//! With a little optimisation, and with the assertions and overflow checks of the development profile: in a release build a sum that wraps
//! is no find.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::watch::watch;
use crate::workspace::Workspace;

/// As long as anybody waits for it: a year.
pub(crate) const SECONDS_MOST: u64 = 366 * 24 * 60 * 60;

/// Building it, and a moment for the last input.
const AROUND: Duration = Duration::from_secs(40 * 60);

/// What makes the compiler count the edges of the control flow that are taken; stable takes it.
const COUNTING: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters";

/// Feeds these targets, or all, for so long together; true if nothing was found. With `coverage`, in a build of its own that knows which
/// inputs lead somewhere new; those are kept below the build's folder, and taken up again the next time.
pub(crate) fn run(workspace: &Workspace, seconds: u64, targets: &[String], coverage: bool) -> Result<bool> {
    let mut command = workspace.cargo(["run", "--package", "plenum-fuzz", "--config", "profile.dev.opt-level=1"]);
    if coverage {
        // With a target named, what runs while building is not instrumented: it would miss whom to call.
        // Where Cargo finds the other variable, it does not look at this one.
        command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", COUNTING).args(["--target", &host()?]);
    }
    command.args(["--", "run", "--seconds", &seconds.to_string()]);
    if coverage {
        command.arg("--pool").arg(workspace.fuzz_pool());
    }
    command.args(targets);
    let status = watch(command, "fuzzing", Duration::from_secs(seconds) + AROUND, |_, _| {})?;
    Ok(status.success())
}

/// What this machine is, as the compiler calls it.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = Command::new(rustc).arg("-vV").output().context("cannot ask rustc for its version")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).with_context(|| format!("rustc does not say what this machine is: {told}"))
}
