//! For whoever started an agent that was to stop its tasks, and had to kill it.

use std::{
    fs::{self, TryLockError},
    io,
    path::Path,
    time::Duration,
};

use super::lock::Lock;
use crate::{
    directories::{AgentDirectory, let_owner_in},
    exec::{Left, end_left},
};

/// Kills whatever runs of the tasks of this agent's directory, and waits for their end, for at most `within` and a moment. Nothing is done
/// where an agent uses it.
///
/// # Errors
/// When it can't be found out what runs.
pub fn end_tasks_left(directory: &Path, within: Duration) -> io::Result<Left> {
    let Ok(path) = fs::canonicalize(directory) else { return Ok(Left::default()) };
    let directory = AgentDirectory::new(path);
    let_owner_in(directory.root());
    if !directory.allocations().exists() {
        return Ok(Left::default());
    }
    let _lock = match Lock::take(&directory.lock(), false) {
        Ok(lock) => lock,
        Err(TryLockError::WouldBlock) => return Ok(Left::default()),
        Err(TryLockError::Error(error)) => return Err(error),
    };
    end_left(&directory, within)
}
