//! Folders for what is measured on a disk, gigabytes of it: they go when a run ends, however it does. What a run that was killed had to leave goes when the
//! next one begins, so that it measures no full disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use tempfile::TempDir;

use crate::processes;
use crate::progress::say;

/// What their names begin with; the number of their process follows.
const PREFIX: &str = "bench-scratch-";
/// Those of this process.
static MADE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A folder that is removed when this is dropped, and when the program ends by a signal that it listens to.
pub(crate) struct Scratch {
    folder: TempDir,
    /// Locked while somebody works in it: numbers of processes say nothing across containers.
    _lock: File,
}

impl Scratch {
    /// Makes one in this folder, and removes what is left there of runs that have ended.
    pub(crate) fn make(parent: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot make a folder in {}", parent.display());
        remove_left(parent);
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).with_context(cannot)?;
        let lock = File::open(folder.path()).with_context(cannot)?;
        // Where a file system has no locks, nobody takes one, and such folders stay.
        drop(lock.lock());
        MADE.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.path().to_owned());
        Ok(Self { folder, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Gigabytes take seconds to go, and a signal that ends the program meanwhile waits for them here.
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        drop(std::fs::remove_dir_all(self.path()));
        made.remove(self.path());
    }
}

/// Removes all of this process, before it ends without dropping them. What cannot be removed now is by the next run.
pub(crate) fn remove_all() {
    for folder in MADE.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        drop(std::fs::remove_dir_all(folder));
    }
}

/// Removes what is nobody's any more. What cannot be looked at or removed stays: a run does without.
fn remove_left(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for folder in entries.flatten().map(|entry| entry.path()).filter(|folder| is_left(folder)) {
        match std::fs::remove_dir_all(&folder) {
            Ok(()) => say(&format!("removed {}, which a run had to leave", folder.display())),
            Err(error) => say(&format!("{} is of a run that has ended, and stays: {error}", folder.display())),
        }
    }
}

/// Whether it is such a folder of a process that has ended.
fn is_left(folder: &Path) -> bool {
    let process = |name: &str| name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok();
    let Some(process) = folder.file_name().and_then(|name| name.to_str()).and_then(process) else { return false };
    !processes::runs(process) && File::open(folder).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than any process has.
    const NOBODY: u32 = u32::MAX;

    #[test]
    fn what_a_run_that_was_killed_has_left_goes_when_the_next_one_begins() {
        let parent = tempfile::tempdir().unwrap();
        let there = |name: &str| parent.path().join(name);
        let of = |process: u32, name: &str| there(&format!("{PREFIX}{process}-{name}"));
        let (left, locked, own) = (of(NOBODY, "left"), of(NOBODY, "locked"), of(std::process::id(), "own"));
        let others = there("bench-results");
        for folder in [&left, &own, &locked, &others] {
            std::fs::create_dir_all(folder.join("cell/log")).unwrap();
        }
        // One of another container, where numbers of processes are others.
        let lock = File::open(&locked).unwrap();
        lock.lock().unwrap();
        let made = Scratch::make(parent.path()).unwrap();
        assert!(!left.exists());
        assert!([&own, &locked, &others].iter().all(|folder| folder.join("cell/log").exists()));
        let path = made.path().to_owned();
        assert!(path.exists() && !is_left(&path));
        drop(made);
        assert!(!path.exists());
    }
}
