//! `plenum dev`: a whole cell on this machine, each part a process of its own.
//!
//! The parts are this very binary, started as `server`, `scheduler` and `agent`, exactly as an operator would start
//! them; this module only keeps them running, submits job files, and tells what becomes of them.

mod board;
mod cell;
mod changes;
mod folder;
mod keeper;
mod logs;
mod loops;
mod machines;
mod plan;
mod progress;
mod session;
mod summary;
mod sweep;

use std::{process::ExitCode, time::Instant};

use crate::{
    cli::{self, Context, block_on},
    failure::{EXIT_FAILED, EXIT_INTERRUPTED, Failure},
    output::{self, Format},
    signals::Signals,
};
use cell::DevCell;
use folder::Folder;
use plan::Plan;
use progress::Progress;
use session::{Ended, Session};

/// Runs a cell until it is interrupted, or until all jobs of the files have ended.
///
/// # Errors
///
/// Whatever is wrong with the files is told before anything starts. Later errors stop the cell first.
pub(crate) fn run(context: &Context, options: &cli::Dev) -> Result<ExitCode, Failure> {
    if matches!(context.format, Format::Json | Format::Yaml) {
        let what = "what tasks print is printed as they printed it, in no other format";
        return Err(
            Failure::usage(what).with_hint("leave -o out, and ask the cell with `plenum job show` while it is there")
        );
    }
    let started = Instant::now();
    let plan = Plan::read(context, options)?;
    let left = sweep::left(&folder::temporary_root());
    // What earlier cells that were killed left can be large; nobody shall wait for its end.
    std::thread::spawn(move || sweep::sweep(&left));
    let folder = Folder::open(options.dir.as_deref())?;
    let result = block_on(cell(started, &plan, &folder)).flatten();
    // What is told from here on is of another cell, which is yet to be started.
    output::name_no_cell();
    folder.close();
    result
}

/// Starts the cell, uses it, and stops it whatever happened.
async fn cell(started: Instant, plan: &Plan, folder: &Folder) -> Result<ExitCode, Failure> {
    let progress = Progress::new();
    let mut signals = Signals::listen()?;
    let mut cell = DevCell::new(plan, folder, progress.clone())?;
    let session = Session { started, plan, folder, progress: &progress };
    let result = tokio::select! {
        result = session.run(&mut cell) => result,
        () = signals.next() => Ok(Ended::Interrupted),
    };
    let is_interrupted = matches!(result, Ok(Ended::Interrupted));
    if is_interrupted {
        progress.interrupt();
    } else {
        progress.finish();
    }
    // People must see that the end takes time because tasks are given theirs.
    if cell.runs_agents() && is_interrupted {
        progress.say("stopping tasks, schedulers and server (again to kill them)");
    }
    folder.ends();
    cell.stop(&mut signals).await;
    match result? {
        Ended::Complete => Ok(ExitCode::SUCCESS),
        Ended::Failed => Ok(ExitCode::from(EXIT_FAILED)),
        // A cell without an end is ended like this; jobs that were to be waited for neither completed nor failed.
        Ended::Interrupted if plan.until_done => Ok(ExitCode::from(EXIT_INTERRUPTED)),
        Ended::Interrupted => Ok(ExitCode::SUCCESS),
    }
}
