//! A run's folder: one run at a time writes into it, and what suites leave there beside their figures.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context, bail};

/// A folder that a run has for itself, until this is dropped or the process ends, however it does.
pub(crate) struct Held {
    /// Of the folder itself: no file that a run which was killed would leave.
    _lock: File,
}

impl Held {
    /// Takes a folder, which is made if it is not there.
    ///
    /// # Errors
    /// When another run has it: each would remove what the other one measured.
    pub(crate) fn take(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let lock = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            bail!("another run writes into {}: name another folder with --out, or wait for its end", folder.display());
        }
        // Where a file system has no locks, nobody takes one, and runs go on as they did.
        Ok(Self { _lock: lock })
    }
}

/// Writes a file that a suite leaves in its run's folder.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn save(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_free_again_when_its_run_has_ended() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new/results");
        let held = Held::take(&folder).unwrap();
        let refused = Held::take(&folder).map(drop).unwrap_err().to_string();
        assert!(refused.starts_with("another run writes into ") && refused.contains("--out"), "{refused}");
        drop(held);
        Held::take(&folder).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing is left there");
    }
}
