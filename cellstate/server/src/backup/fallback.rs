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
    /// There is none, and what would lead on from the beginning is given up.
    is_given_up: bool,
    /// There is one of another cell, which may be the last copy of that one's state: it is neither replaced nor removed.
    is_foreign: bool,
    /// Bytes of the last one that could not be written to its end.
    tried_bytes: u64,
}

/// Whether the disk has room for more than the log needs.
pub(crate) type HasRoom<'a> = &'a dyn Fn() -> bool;

impl Fallback {
    /// Looks for one of this cell that the log goes on from, which goes back to this revision. What stands behind its manifest is not read.
    pub(crate) fn find(dir: &Path, identity: Identity, oldest: u64) -> Self {
        // Of a server that was killed while it wrote. Nobody else has the directory.
        remove_file(&dir.join(DRAFT));
        let mut is_foreign = false;
        let revision = revision_in(dir, identity).unwrap_or_else(|error| {
            is_foreign = matches!(error, BackupError::OtherCell { .. });
            let what = if is_foreign { "it stays, and none is written" } else { "it will be written anew" };
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the fallback can't be used; {what}");
            None
        });
        let bytes = fs::metadata(dir.join(FALLBACK)).map_or(0, |file| file.len());
        let written =
            revision.filter(|revision| revision.saturating_add(1) >= oldest).map(|revision| (revision, bytes));
        let is_given_up = written.is_none() && oldest > 1;
        Self { dir: dir.to_owned(), identity, written, is_given_up, is_foreign, tried_bytes: 0 }
    }

    /// The revision that it shows, if there is one.
    pub(crate) fn revision(&self) -> Option<u64> {
        self.written.map(|(revision, _)| revision)
    }

    /// Whether there is none any more, and the log does not go back to the beginning.
    pub(crate) fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    /// The first revision that is needed behind it; without one, the first of all.
    pub(crate) fn next_revision(&self) -> u64 {
        self.written.map_or(1, |(revision, _)| revision.saturating_add(1))
    }

    /// Its bytes; without one those of the last try, and 0 if there was none.
    pub(crate) fn bytes(&self) -> u64 {
        self.written.map_or(self.tried_bytes, |(_, bytes)| bytes)
    }

    /// Writes it anew, as long as there is room. Where that fails there is the one of before.
    pub(crate) fn renew(&mut self, cell: &Cell, has_room: HasRoom<'_>) -> Result<(), BackupError> {
        if self.is_foreign {
            return Err(BackupError::OtherCell { path: self.dir.join(FALLBACK) });
        }
        let written = write_while(&self.dir, cell, self.identity.incarnation, has_room);
        let bytes = written.map_err(|(tried_bytes, source)| {
            self.tried_bytes = tried_bytes;
            BackupError::Io { path: self.dir.join(DRAFT), source }
        })?;
        self.written = Some((cell.revision().0, bytes));
        self.is_given_up = false;
        Ok(())
    }

    /// Removes it: what leads on from it will be given up, and its room may be needed.
    pub(crate) fn remove(&mut self) {
        (self.written, self.is_given_up) = (None, true);
        if !self.is_foreign {
            remove_file(&self.dir.join(FALLBACK));
        }
        remove_file(&self.dir.join(DRAFT));
    }
}

fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "a fallback that is of no use any more could not be removed");
        }
        _ => {}
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
    let (cell, manifest, _) = match restore::from_file(&path) {
        Err(BackupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    expect_cell(&path, &manifest, identity)?;
    invariants::check_cell(&cell)
        .map_err(|violation| BackupError::NotSound { revision: manifest.revision, what: violation.to_string() })?;
    Ok(Some(cell))
}

fn expect_cell(path: &Path, manifest: &v1::BackupManifest, identity: Identity) -> Result<(), BackupError> {
    let (path, expected, found) = (path.to_owned(), identity.incarnation, manifest.incarnation);
    if manifest.cell_id[..] != identity.cell.0 {
        return Err(BackupError::OtherCell { path });
    }
    if found == expected { Ok(()) } else { Err(BackupError::OtherIncarnation { path, expected, found }) }
}

/// Writes a fallback into a directory, in place of one that is there; its bytes.
pub(crate) fn write(dir: &Path, cell: &Cell, incarnation: u64) -> Result<u64, BackupError> {
    let written = write_while(dir, cell, incarnation, &|| true);
    written.map_err(|(_, source)| BackupError::Io { path: dir.join(DRAFT), source })
}

/// The same, as long as there is room. Where it fails, how many bytes were written by then.
fn write_while(dir: &Path, cell: &Cell, incarnation: u64, has_room: HasRoom<'_>) -> Result<u64, (u64, io::Error)> {
    let draft = dir.join(DRAFT);
    let put_in_place = |bytes| {
        fs::rename(&draft, dir.join(FALLBACK))?;
        fs::File::open(dir)?.sync_all().map(|()| bytes)
    };
    write_draft(&draft, cell, incarnation, has_room).and_then(put_in_place).map_err(|source| {
        let tried_bytes = fs::metadata(&draft).map_or(0, |file| file.len());
        // Where it has its name already there is no draft.
        let _ = fs::remove_file(&draft);
        (tried_bytes, source)
    })
}

fn write_draft(draft: &Path, cell: &Cell, incarnation: u64, has_room: HasRoom<'_>) -> io::Result<u64> {
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    // Of which frame the chain goes on is not asked by who begins with it: the log behind it is there.
    let tail = Tail { revision: cell.revision().0, term: cell.identity().term, hash: ChainHash::default() };
    let mut encoder = Encoder::begin(&manifest(cell, incarnation, tail));
    for (table, number) in pages::every(cell) {
        encoder.page(&pages::encode_page(cell, table, number));
        if encoder.pending_bytes() >= SYNCED_BYTES {
            if !has_room() {
                let what = "the rest of the disk is kept for the log";
                return Err(io::Error::new(io::ErrorKind::StorageFull, what));
            }
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
    use std::sync::Arc;

    use super::*;
    use plenum_journal::CellId;
    use plenum_model::{BootId, Delta, LogTime, Machine, MachineId, MachineState, Revision};

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
        // Of a server that was killed while it wrote: its room stayed taken until the next one was written.
        fs::write(dir.path().join(DRAFT), [7; 100_000]).unwrap();
        let mut fallback = Fallback::find(dir.path(), identity(1), 1);
        assert_eq!((fallback.next_revision(), dir.path().join(DRAFT).exists()), (1, false));
        for _ in 0..2 {
            fallback.renew(&Cell::default(), &|| true).unwrap();
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
        assert!(matches!(
            read(dir.path(), identity(2)),
            Err(BackupError::OtherIncarnation { expected: 2, found: 1, .. })
        ));
        let bytes = |incarnation, oldest| Fallback::find(dir.path(), identity(incarnation), oldest).bytes();
        let written = fs::metadata(dir.path().join(FALLBACK)).unwrap().len();
        assert_eq!([bytes(2, 1), bytes(1, 2), bytes(1, 1)], [0, 0, written]);
    }

    // It was the last copy of that cell's state.
    #[test]
    fn a_fallback_of_another_cell_is_neither_replaced_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &Cell::default(), 1).unwrap();
        let before = fs::read(dir.path().join(FALLBACK)).unwrap();
        let mut fallback = Fallback::find(dir.path(), Identity { cell: CellId([7; 16]), incarnation: 1 }, 1);
        assert!(matches!(fallback.renew(&Cell::default(), &|| true), Err(BackupError::OtherCell { .. })));
        fallback.remove();
        assert_eq!(fs::read(dir.path().join(FALLBACK)).unwrap(), before);
    }

    // A disk that is full, for example.
    #[test]
    fn a_fallback_that_can_not_be_written_leaves_the_one_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut fallback = Fallback::find(dir.path(), identity(1), 1);
        fallback.renew(&Cell::default(), &|| true).unwrap();
        fs::create_dir(dir.path().join(DRAFT)).unwrap();
        assert!(matches!(fallback.renew(&Cell::default(), &|| true), Err(BackupError::Io { .. })));
        assert!(read(dir.path(), identity(1)).unwrap().is_some());
    }

    // It was written into what is kept free for the log, until the disk was full: the cell turned read-only for a copy of itself.
    #[test]
    fn no_more_is_written_of_a_fallback_than_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut fallback = Fallback::find(dir.path(), identity(1), 1);
        let cell = a_large_cell();
        let pieces = std::cell::Cell::new(0);
        let has_room = || {
            pieces.set(pieces.get() + 1);
            pieces.get() < 3
        };
        let refused = fallback.renew(&cell, &has_room).unwrap_err();
        assert!(crate::error::told(&refused).contains("kept for the log"), "{refused}");
        assert_eq!((fallback.revision(), dir.path().join(DRAFT).exists()), (None, false));
        let tried = fallback.bytes();
        assert!((2 * SYNCED_BYTES as u64..4 * SYNCED_BYTES as u64).contains(&tried), "{tried} bytes");
        fallback.renew(&cell, &|| true).unwrap();
        assert!(fallback.bytes() > tried);
    }

    /// One that takes some pieces to write.
    fn a_large_cell() -> Cell {
        let mut cell = Cell::default();
        let machine = |slot: u32| {
            let name = format!("{slot}-{}", "x".repeat(200)).into();
            Arc::new(Machine {
                id: MachineId { slot, generation: 1 },
                name,
                state: MachineState::Ready,
                cordoned: false,
                unfit: None,
                epoch: 1,
                capacity: Arc::default(),
                attributes: Arc::default(),
                devices: Arc::default(),
                boot_id: BootId::from("boot"),
                since: LogTime::from_micros(0),
                drain_deadline: None,
                registered: LogTime::from_micros(0),
                epoch_began: Revision(1),
            })
        };
        let machines = (0..10_000).map(machine).collect();
        let delta = Delta::new(cell.revision().next(), cell.time());
        cell.apply(&Delta { machines, ..delta }).unwrap();
        cell
    }
}
