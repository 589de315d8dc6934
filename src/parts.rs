//! The parts of a cell, each started as the crates want it; nothing else of the binary knows their options.

use std::{ffi::OsString, path::Path, process::ExitCode};

use crate::{
    cli::{self, Context},
    failure::Failure,
    output::{self, Format},
    parent,
};

/// Runs the cell state's server until it is asked to end.
pub(crate) fn server(options: &cli::Server) -> Result<(), Failure> {
    parent::follow(options.with_parent.with_parent)?;
    Err(missing("the server"))
}

/// Runs built-in schedulers until they are asked to end.
pub(crate) fn scheduler(_context: &Context, options: &cli::Scheduler) -> Result<(), Failure> {
    parent::follow(options.with_parent.with_parent)?;
    Err(missing("a scheduler"))
}

/// Runs the agent of this machine until it is asked to end.
pub(crate) fn agent(_context: &Context, options: &cli::Agent) -> Result<(), Failure> {
    parent::follow(options.with_parent.with_parent)?;
    Err(missing("the agent"))
}

/// Keeps one task.
pub(crate) fn shim(_arguments: &[OsString]) -> ExitCode {
    output::tell_failure(Format::Table, &missing("the shim"));
    ExitCode::FAILURE
}

/// Checks the log of a stopped cell.
pub(crate) fn verify(_format: Format, _dir: &Path) -> Result<ExitCode, Failure> {
    Err(missing("the check of a log"))
}

fn missing(what: &str) -> Failure {
    Failure::new("UNIMPLEMENTED", format!("{what} is not wired into the binary yet"))
}
