//! Fuzzing for as long as one likes. The gate runs the corpus and some thousand changes of it, as tests of `plenum-fuzz`.
//!
//! With a little optimisation, and with the assertions and overflow checks of the development profile: in a release build a sum that wraps
//! is no find.

use std::time::Duration;

use anyhow::Result;

use crate::watch::watch;
use crate::workspace::Workspace;

/// Building it, and a moment for the last input.
const AROUND: Duration = Duration::from_secs(40 * 60);

/// Feeds these targets, or all, for so long together; true if nothing was found.
pub(crate) fn run(workspace: &Workspace, seconds: u64, targets: &[String]) -> Result<bool> {
    let mut command = workspace.cargo(["run", "--package", "plenum-fuzz", "--config", "profile.dev.opt-level=1"]);
    command.args(["--", "run", "--seconds", &seconds.to_string()]).args(targets);
    let status = watch(command, "fuzzing", Duration::from_secs(seconds) + AROUND, |_, _| {})?;
    Ok(status.success())
}
