//! The parts of a cell, each started as its crate wants it. Nothing else in the binary knows their options.

mod agent;
mod backup;
mod config;
mod scheduler;
mod server;
mod trace;
mod verify;

pub(crate) use agent::{agent, missing_isolation, shim, tasks_killed};
pub(crate) use backup::{backup, restore};
pub(crate) use scheduler::scheduler;
pub(crate) use server::{address_file, server};
pub(crate) use verify::verify;

use std::{error::Error, path::PathBuf};

use crate::{failure::Failure, preferences};

/// Where a part keeps what must survive: a folder of the user's own, unless somebody names another.
fn state_folder(name: &str) -> Result<PathBuf, Failure> {
    let (named, home) = (std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"));
    preferences::users_folder(named, home, ".local/state").map(|folder| folder.join(name)).ok_or_else(|| {
        Failure::usage("neither XDG_STATE_HOME nor HOME has an absolute path").with_hint("name a directory with --dir")
    })
}

/// The server's own directory: that of a development cell has it in it.
fn server_folder(mut dir: PathBuf) -> PathBuf {
    if !dir.join("log").is_dir() && dir.join("server").is_dir() {
        dir.push("server");
    }
    dir
}

/// An error and all its causes in one sentence.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Some errors repeat their cause already.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
