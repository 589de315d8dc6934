//! Removes temporary cells whose `plenum dev` was killed before it could do so itself.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::kill,
    unistd::{Pid, getuid},
};

use plenum_agent::exec::Left;

use super::folder::{LOCK, TEMPORARY};

/// How deep below a cell's directory its parts lock files: `agents/NAME/lock`.
const LOCK_DEPTH: u32 = 2;
/// How long the end of tasks is waited for that were left by a killed agent.
const LEFT_MAX: Duration = Duration::from_secs(5);

/// Cells that are this user's and were made by a process that is gone. To be asked before this process makes one: what has its
/// number then was made by an earlier process of that number, as the first one of a container always has.
pub(super) fn left(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let left = entries.filter(|entry| {
        let Some(process) = entry.file_name().to_str().and_then(maker) else { return false };
        // Not through a link: it may lead anywhere.
        let is_own = entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == getuid().as_raw());
        is_own && (process == Pid::this() || is_gone(process))
    });
    left.map(|entry| entry.path()).collect()
}

/// Removes those of them that nobody uses. Says nothing: what cannot be removed now is tried again by the next cell.
pub(super) fn sweep(left: &[PathBuf]) {
    for cell in left {
        // Held to the end: of two that sweep at once, each would take the other's looking at an agent's lock for that agent.
        let Ok(_lock) = own_lock(cell) else { continue };
        if !is_in_use(cell, LOCK_DEPTH) && has_ended(cell) {
            let _ = plenum_agent::removal::remove_tree(cell);
        }
    }
}

/// The cell's own lock, so that nobody else uses or sweeps it; `None` where it has none yet, as one of an earlier version.
fn own_lock(cell: &Path) -> Result<Option<File>, TryLockError> {
    let Ok(lock) = File::open(cell.join(LOCK)) else { return Ok(None) };
    lock.try_lock()?;
    Ok(Some(lock))
}

/// The process in the name of a temporary directory.
fn maker(name: &str) -> Option<Pid> {
    let (process, attempt) = name.strip_prefix(TEMPORARY)?.split_once('-')?;
    attempt.parse::<u32>().ok()?;
    process.parse().ok().filter(|process: &i32| *process > 0).map(Pid::from_raw)
}

fn is_gone(process: Pid) -> bool {
    kill(process, None) == Err(Errno::ESRCH)
}

/// True while a server or an agent holds its lock: these outlive their parent by the time that tasks are given to end. Locks
/// also tell of a cell in another container, whose processes cannot be seen from here.
fn is_in_use(folder: &Path, depth: u32) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let Ok(kind) = entry.file_type() else { return true };
        if kind.is_dir() {
            return depth > 0 && is_in_use(&entry.path(), depth - 1);
        }
        let is_lock = kind.is_file() && entry.file_name().eq_ignore_ascii_case("lock");
        is_lock && File::open(entry.path()).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    })
}

/// Ends what runs of tasks whose agents were killed with their cell: without what is written down of them there, nobody could
/// any more. False where something may go on.
fn has_ended(cell: &Path) -> bool {
    let agents = fs::read_dir(cell.join("agents")).into_iter().flatten().flatten();
    let left = agents.map(|agent| plenum_agent::end_tasks_left(&agent.path(), LEFT_MAX));
    // Each is asked, whatever became of those before it.
    left.filter(|left| !matches!(left, Ok(Left { hanging: 0, unread: 0, .. }))).count() == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{os::unix::process::parent_id, process::Command};

    use super::*;

    /// A process that is gone, and was until now.
    fn gone() -> u32 {
        let mut child = Command::new("/bin/true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    fn cell(folder: &Path, process: u32) -> PathBuf {
        let path = folder.join(format!("{TEMPORARY}{process}-0"));
        fs::create_dir_all(path.join("agents/machine-1")).unwrap();
        fs::write(path.join("agents/machine-1/lock"), "").unwrap();
        path
    }

    // The first process of a container has the same number each time: what it left when it was killed was taken for its own, and filled the disk.
    #[test]
    fn what_a_killed_cell_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let all = [cell(folder.path(), gone()), cell(folder.path(), std::process::id())];
        let alive = cell(folder.path(), parent_id());
        let link = folder.path().join(format!("{TEMPORARY}{}-1", gone()));
        std::os::unix::fs::symlink(&alive, &link).unwrap();
        let other = folder.path().join("plenum-dev-notes");
        fs::create_dir(&other).unwrap();
        sweep(&left(folder.path()));
        assert!(all.iter().all(|cell| !cell.exists()));
        assert!(alive.exists() && link.exists() && other.exists());
    }

    // A cell that had just begun in another container, which shares the folder, had its own lock alone, and that was not looked at.
    #[test]
    fn a_cell_that_begins_or_whose_parts_are_still_ending_is_left_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let cell = cell(folder.path(), gone());
        fs::write(cell.join(LOCK), "").unwrap();
        for name in [LOCK, "agents/machine-1/lock"] {
            let lock = File::open(cell.join(name)).unwrap();
            lock.lock().unwrap();
            sweep(&left(folder.path()));
            assert!(cell.exists(), "{name}");
        }
        sweep(&left(folder.path()));
        assert!(!cell.exists());
    }
}
