//! Whether tasks could be started here: tried by writing as much as that may take, where the agent keeps what it knows of them.
//!
//! It looks at no numbers of the file system: quotas, inodes, a disk that turned read-only or broke would all have their own.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use plenum_model::Unfit;
use tokio::sync::mpsc;

use super::calls::Arrival;
use crate::{directories::AgentDirectory, durable::FILE_BYTES_MAX, reconciler::Input};

/// How often it is tried.
const EVERY: Duration = Duration::from_secs(5);
/// What there must be room for: the largest file that a start writes.
const ROOM_BYTES: u64 = FILE_BYTES_MAX;
/// What there must be room for before tasks are wanted again: more than it takes to be without at once.
const ROOM_AGAIN_BYTES: u64 = 4 * FILE_BYTES_MAX;

/// Tries it for as long as somebody hears of it. Each time it is told, so that who forgot it hears it again.
pub(super) async fn watch(directory: AgentDirectory, arrivals: mpsc::Sender<Arrival>) {
    let mut unfit = None;
    loop {
        let bytes = if unfit.is_none() { ROOM_BYTES } else { ROOM_AGAIN_BYTES };
        let path = directory.probe();
        // A disk that does not answer keeps this thread waiting, and no other.
        let tried = tokio::task::spawn_blocking(move || probe(&path, bytes)).await;
        let found = match tried.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => None,
            Err(error) => {
                if unfit.is_none() {
                    let directory = directory.root().display();
                    tracing::error!(%error, %directory, bytes, "can't write what starting a task takes: this machine takes none until it can");
                }
                Some(Unfit::StateUnwritable)
            }
        };
        if unfit.is_some() && found.is_none() {
            tracing::info!("there is room again: this machine takes tasks");
        }
        unfit = found;
        if arrivals.send(Arrival::Input(Input::Fitness(unfit))).await.is_err() {
            return;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Writes so many bytes, and takes them away again: as a rule before they reach the disk.
fn probe(path: &PathBuf, bytes: u64) -> io::Result<()> {
    let written = File::create(path).and_then(|mut file| {
        let piece = [1; 1 << 16];
        for _ in 0..bytes.div_ceil(piece.len() as u64) {
            file.write_all(&piece)?;
        }
        Ok(())
    });
    let removed = fs::remove_file(path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_probe_leaves_nothing_behind_and_fails_where_nothing_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probe");
        probe(&path, ROOM_AGAIN_BYTES).unwrap();
        assert!(!path.exists());
        // What an agent that was killed in between left is no reason to fail.
        fs::write(&path, "old").unwrap();
        probe(&path, 1).unwrap();
        assert!(probe(&folder.path().join("missing/probe"), 1).is_err());
    }
}
