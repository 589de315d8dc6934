//! Telling that another cell answers at the address: once, and again from time to time, as the agent asks again for as long as it does.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// So long after it was told it is told again: it may last for days, and the beginning of a log may be gone by then.
const TOLD_EVERY: Duration = Duration::from_secs(3600);

/// When it was told last; `None`: the agent's own cell has answered since.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    told_at: Option<Instant>,
}

/// What keeps an agent from joining the cell that answers.
pub(super) enum Keeps {
    /// Tasks run, or ended without their cell having heard of it.
    Tasks,
    /// These have what is kept of tasks that ended, or files of their jobs.
    Files(Vec<PathBuf>),
}

impl Elsewhere {
    /// Cell `found` answers, and not `expected`, of which there is something in the agent's `directory`.
    pub(super) fn tell(&mut self, directory: &Path, (expected, found): (&str, &str), keeps: &Keeps) {
        if self.told_at.is_some_and(|at| at.elapsed() < TOLD_EVERY) {
            return;
        }
        self.told_at = Some(Instant::now());
        tracing::warn!(code = "OTHER_CELL", "{}", words(directory, (expected, found), keeps));
    }

    /// The agent's cell answers.
    pub(super) fn is_over(&mut self) {
        self.told_at = None;
    }
}

fn words(directory: &Path, (expected, found): (&str, &str), keeps: &Keeps) -> String {
    let directory = directory.display();
    match keeps {
        Keeps::Tasks => format!(
            "agent directory {directory}: its tasks belong to cell {expected}, and the server is of cell {found}: they go on, none is started, and \
             the server is asked again until it is of their cell; or end this agent, and name another directory, or the other server, or remove what \
             is in its folders allocs and jobs once no task runs"
        ),
        Keeps::Files(paths) => {
            let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            format!(
                "agent directory {directory}: what it keeps of ended tasks belongs to cell {expected}, and the server is of cell {found}: nothing is \
                 started, and the server is asked again until it is of that cell. To give that up and join this one, remove what is in {}; or name \
                 another directory, or the other server",
                paths.join(" and in ")
            )
        }
    }
}
