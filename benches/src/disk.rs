//! The disk under a folder: what it is, and what a write and a sync of it take by themselves.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use nix::sys::statfs::{self, FsType};

/// Places that are written in turn.
const PLACES: u64 = 128;

/// File systems by their magic numbers; those that keep nothing are refused.
const KNOWN: [(FsType, &str); 5] = [
    (statfs::EXT4_SUPER_MAGIC, "ext4"),
    (statfs::XFS_SUPER_MAGIC, "xfs"),
    (statfs::BTRFS_SUPER_MAGIC, "btrfs"),
    (statfs::OVERLAYFS_SUPER_MAGIC, "overlay"),
    (statfs::NFS_SUPER_MAGIC, "nfs"),
];

/// The file system of a folder.
///
/// # Errors
/// When it is in memory: a sync there costs nothing, and figures would say nothing.
pub(crate) fn file_system(folder: &Path) -> anyhow::Result<String> {
    let kind =
        statfs::statfs(folder).with_context(|| format!("cannot look at {}", folder.display()))?.filesystem_type();
    if kind == statfs::TMPFS_MAGIC {
        bail!(
            "{}: expected a folder on a disk, found one in memory (tmpfs); name another with --dir",
            folder.display()
        );
    }
    let known = KNOWN.iter().find(|(magic, _)| *magic == kind);
    Ok(known.map_or_else(|| format!("{:#x}", kind.0), |(_, name)| (*name).to_owned()))
}

/// A new file of so many pieces of zeros, durable: overwriting blocks that exist is all that is asked of the disk then.
pub(crate) fn file_of_zeros(path: &Path, piece_bytes: usize, pieces: u64) -> anyhow::Result<std::fs::File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = file.with_context(|| format!("cannot make {}", path.display()))?;
    let zeros = vec![0; piece_bytes];
    for piece in 0..pieces {
        file.write_all_at(&zeros, piece * piece_bytes as u64)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// A file of zeros, written before and overwritten in turn: what a log of recycled segments asks of the disk.
pub(crate) struct SyncProbe {
    file: std::fs::File,
    block: Vec<u8>,
    next: u64,
}

impl SyncProbe {
    /// Makes the file in this folder, and removes its name at once. Each write will have so many bytes.
    pub(crate) fn new(folder: &Path, write_bytes: usize) -> anyhow::Result<Self> {
        let path = folder.join("sync-probe");
        let file = file_of_zeros(&path, write_bytes, PLACES)?;
        std::fs::remove_file(&path)?;
        Ok(Self { file, block: vec![0x5a; write_bytes], next: 0 })
    }

    /// Seconds of so many writes, each with its sync, in order of their length.
    pub(crate) fn seconds(&mut self, writes: usize) -> anyhow::Result<Vec<f64>> {
        let mut seconds = Vec::with_capacity(writes);
        for _ in 0..writes {
            let place = self.next % PLACES;
            self.next += 1;
            let began = Instant::now();
            self.file.write_all_at(&self.block, place * self.block.len() as u64)?;
            self.file.sync_data()?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds)
    }
}

/// The value below which so many percent of sorted ones are.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len());
    sorted[at - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&sorted, 50), percentile(&sorted, 99), percentile(&sorted, 100)), (50.0, 99.0, 100.0));
        assert_eq!(percentile(&[7.0], 99), 7.0);
    }

    #[test]
    fn a_sync_takes_time_and_leaves_no_file() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let seconds = SyncProbe::new(folder.path(), 4096).unwrap().seconds(3).unwrap();
        assert!(seconds.len() == 3 && seconds[0] > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(!file_system(folder.path()).unwrap().is_empty());
    }
}
