//! The fallback: a second copy of the state, in a file of its own beside log and history.
//!
//! The newest checkpoint stands in the history's store, and nowhere else. Damage there that keeps the store from being opened would take the
//! cell with it, once the log does not go back to the beginning any more. So before the log gives up what leads on from the fallback,
//! the fallback is written anew, of the newest checkpoint: at any time it and what the log has behind it come to the present. It is a backup like
//! others, of the cell's own incarnation.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use plenum_core::invariants;
use plenum_journal::{ChainHash, Identity, Tail};
use plenum_model::Cell;
use plenum_proto::{pages, v1};

use super::file::Decoder;
use super::{BackupError, Encoder, manifest, restore};

/// Its file, in the cell's directory.
pub(crate) const FALLBACK: &str = "fallback.backup";
/// While it is written.
const DRAFT: &str = "fallback.tmp";

/// Written between two syncs: those of the log wait on the same disk behind what is not synced yet.
const SYNCED_BYTES: usize = 512 << 10;

/// What is known of an open cell's fallback.
#[derive(Debug)]
pub(crate) struct Fallback {
    dir: PathBuf,
    identity: Identity,
    /// What it shows, and its bytes; none if there is none that leads to the present.
    written: Option<(u64, u64)>,
}

impl Fallback {
    /// Looks for one of this cell that the log goes on from, which goes back to this revision. What stands behind its manifest is not read.
    pub(crate) fn find(dir: &Path, identity: Identity, oldest: u64) -> Self {
        let revision = revision_in(dir, identity).unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the fallback can't be used; it will be written anew");
            None
        });
        let bytes = fs::metadata(dir.join(FALLBACK)).map_or(0, |file| file.len());
        let written =
            revision.filter(|revision| revision.saturating_add(1) >= oldest).map(|revision| (revision, bytes));
        Self { dir: dir.to_owned(), identity, written }
    }

    /// The first revision that is needed behind it; without one, the first of all.
    pub(crate) fn next_revision(&self) -> u64 {
        self.written.map_or(1, |(revision, _)| revision.saturating_add(1))
    }

    /// Its bytes; 0 without one.
    pub(crate) fn bytes(&self) -> u64 {
        self.written.map_or(0, |(_, bytes)| bytes)
    }

    /// Writes it anew. Where that fails there is the one of before.
    pub(crate) fn renew(&mut self, cell: &Cell) -> Result<(), BackupError> {
        let bytes = write(&self.dir, cell, self.identity.incarnation)?;
        self.written = Some((cell.revision().0, bytes));
        Ok(())
    }

    /// Removes it: what leads on from it will be given up, and its room may be needed.
    pub(crate) fn remove(&mut self) {
        self.written = None;
        let path = self.dir.join(FALLBACK);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "a fallback that is of no use any more could not be removed");
            }
            _ => {}
        }
    }
}

/// Which revision the fallback of a cell shows, if there is one.
///
/// # Errors
/// When there is a file that is none, or of another cell or incarnation.
pub(crate) fn revision_in(dir: &Path, identity: Identity) -> Result<Option<u64>, BackupError> {
    let path = dir.join(FALLBACK);
    let file = match fs::File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|source| BackupError::Io { path: path.clone(), source })?,
    };
    let decoder = Decoder::begin(io::BufReader::new(file)).map_err(|fault| BackupError::of(&path, fault))?;
    expect_cell(&path, &decoder.manifest, identity)?;
    Ok(Some(decoder.manifest.revision))
}

/// The cell that the fallback shows, if there is one. All of it is read and checked.
///
/// # Errors
/// As [`revision_in`], and when it is damaged or its cell is not sound.
pub(crate) fn read(dir: &Path, identity: Identity) -> Result<Option<Cell>, BackupError> {
    let path = dir.join(FALLBACK);
    if !path.exists() {
        return Ok(None);
    }
    let (cell, manifest, _) = restore::from_file(&path)?;
    expect_cell(&path, &manifest, identity)?;
    invariants::check_cell(&cell)
        .map_err(|violation| BackupError::NotSound { revision: manifest.revision, what: violation.to_string() })?;
    Ok(Some(cell))
}

fn expect_cell(path: &Path, manifest: &v1::BackupManifest, identity: Identity) -> Result<(), BackupError> {
    if manifest.cell_id[..] == identity.cell.0 && manifest.incarnation == identity.incarnation {
        return Ok(());
    }
    Err(BackupError::OtherCell { path: path.to_owned(), expected: identity.incarnation, found: manifest.incarnation })
}

/// Writes a fallback into a directory, in place of one that is there; its bytes.
pub(crate) fn write(dir: &Path, cell: &Cell, incarnation: u64) -> Result<u64, BackupError> {
    let draft = dir.join(DRAFT);
    let put_in_place = |bytes| {
        fs::rename(&draft, dir.join(FALLBACK))?;
        fs::File::open(dir)?.sync_all().map(|()| bytes)
    };
    write_draft(&draft, cell, incarnation).and_then(put_in_place).map_err(|source| {
        // Where it has its name already there is no draft.
        let _ = fs::remove_file(&draft);
        BackupError::Io { path: draft.clone(), source }
    })
}

fn write_draft(draft: &Path, cell: &Cell, incarnation: u64) -> io::Result<u64> {
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    // Of which frame the chain goes on is not asked by who begins with it: the log behind it is there.
    let tail = Tail { revision: cell.revision().0, term: cell.identity().term, hash: ChainHash::default() };
    let mut encoder = Encoder::begin(&manifest(cell, incarnation, tail));
    for (table, number) in pages::every(cell) {
        encoder.page(&pages::encode_page(cell, table, number));
        if encoder.pending_bytes() >= SYNCED_BYTES {
            file.write_all(&encoder.take())?;
            file.sync_data()?;
        }
    }
    encoder.end();
    file.write_all(&encoder.take())?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_journal::CellId;

    fn identity(incarnation: u64) -> Identity {
        Identity { cell: CellId(Cell::default().identity().cell_id), incarnation }
    }

    #[test]
    fn what_is_written_is_read_back_and_replaces_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            (revision_in(dir.path(), identity(1)).unwrap(), read(dir.path(), identity(1)).unwrap().is_none()),
            (None, true)
        );
        // Of a server that was killed while it wrote.
        fs::write(dir.path().join(DRAFT), [7; 100_000]).unwrap();
        let mut fallback = Fallback::find(dir.path(), identity(1), 1);
        assert_eq!(fallback.next_revision(), 1);
        for _ in 0..2 {
            fallback.renew(&Cell::default()).unwrap();
            assert_eq!(revision_in(dir.path(), identity(1)).unwrap(), Some(0));
            assert_eq!(read(dir.path(), identity(1)).unwrap().unwrap().first_difference(&Cell::default()), None);
        }
        assert!(!dir.path().join(DRAFT).exists());
        fallback.remove();
        assert_eq!(revision_in(dir.path(), identity(1)).unwrap(), None);
    }

    #[test]
    fn a_fallback_of_another_incarnation_or_one_that_the_log_does_not_go_on_from_is_none() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &Cell::default(), 1).unwrap();
        assert!(matches!(read(dir.path(), identity(2)), Err(BackupError::OtherCell { expected: 2, found: 1, .. })));
        let bytes = |incarnation, oldest| Fallback::find(dir.path(), identity(incarnation), oldest).bytes();
        let written = fs::metadata(dir.path().join(FALLBACK)).unwrap().len();
        assert_eq!([bytes(2, 1), bytes(1, 2), bytes(1, 1)], [0, 0, written]);
    }

    // A disk that is full, for example.
    #[test]
    fn a_fallback_that_can_not_be_written_leaves_the_one_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut fallback = Fallback::find(dir.path(), identity(1), 1);
        fallback.renew(&Cell::default()).unwrap();
        fs::create_dir(dir.path().join(DRAFT)).unwrap();
        assert!(matches!(fallback.renew(&Cell::default()), Err(BackupError::Io { .. })));
        assert!(read(dir.path(), identity(1)).unwrap().is_some());
    }
}
