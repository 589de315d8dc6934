//! Backups, and cells that begin from one.
//!
//! A backup is the state of a cell at one revision, in one file: enough to go on from there, not the history before it. A restored cell
//! is the same cell in a new incarnation: everybody who knew the old one notices, and asks for everything anew.
//!
//! | module | what it is |
//! |---|---|
//! | `file` | the bytes of a backup: sealed records. Pure: it reads and writes streams |
//! | `folder` | the directory of a stopped cell, also a damaged one: how far it can be followed, and what is lost |
//! | `restore` | a new directory from a backup or from a folder |
//! | `fallback` | a backup in the cell's own directory: the way to the present without its history |

pub(crate) mod fallback;
mod file;
mod folder;
pub(crate) mod restore;

use std::path::{Path, PathBuf};

use plenum_journal::{ChainHash, Tail};
use plenum_model::Cell;
use plenum_proto::{pages, v1};
use thiserror::Error;

use crate::error::{ServerError, lacks_room};
pub(crate) use file::{Encoder, Fault};
pub use file::{FILE_VERSION, check};
pub use folder::{Loss, LostRevision};
pub use restore::{RestoreOptions, Restored, read_backup, restore};

/// Why a backup was not taken, or a cell not restored. Where it is about a new file or directory, that one is not there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file could not be read or written.
    #[error("{} can't be used", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no backup.
    #[error("{} is no backup: expected it to open with PLENUMBK, found {}; name a file that `plenum backup` wrote", path.display(), found.escape_ascii())]
    NotABackup {
        /// Which.
        path: PathBuf,
        /// How it opens.
        found: Vec<u8>,
    },
    /// Another version wrote it.
    #[error("{} has backup format version {found}, expected {expected}; use the version of plenum that wrote it, or a newer one", path.display())]
    OtherFormat {
        /// Which.
        path: PathBuf,
        /// The version of this program.
        expected: u32,
        /// The version found.
        found: u32,
    },
    /// The file is not as it was written.
    #[error("{} is damaged: record {record} at offset {offset}: {what}; use another backup", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// The record's number, from 0.
        record: u64,
        /// Where it begins.
        offset: u64,
        /// What was expected and what was found.
        what: String,
    },
    /// A backup of another cell, where its own is expected.
    #[error("{} is of another cell; move it away, as it may be the last copy of that one's state", path.display())]
    OtherCell {
        /// Which.
        path: PathBuf,
    },
    /// A backup of this cell before or after a restore, where its own is expected.
    #[error("{} is of another incarnation: expected {expected}, found {found}; move it away, and keep it: it may be the last copy of what it shows", path.display())]
    OtherIncarnation {
        /// Which.
        path: PathBuf,
        /// The cell's incarnation.
        expected: u64,
        /// That of the file.
        found: u64,
    },
    /// A fallback that a log does not go on from.
    #[error("{} does not go with this log: {what}; move it away, and keep it: it may be the last copy of what it shows", path.display())]
    NotOfThisLog {
        /// Which.
        path: PathBuf,
        /// Why it doesn't.
        what: String,
    },
    /// There is something already.
    #[error("{} is there already; nothing was overwritten: name a place where nothing is, or remove it", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The new incarnation must be one that nobody has seen.
    #[error("incarnation: expected {least} to {most}, found {found}; the backup is of incarnation {}", least - 1)]
    Incarnation {
        /// One more than that of the backup.
        least: u64,
        /// As many as ids tell apart.
        most: u64,
        /// What was asked for.
        found: u64,
    },
    /// The directory is damaged, and its cell could go on only without what is lost.
    #[error(
        "{refused}; {} stays as it is: `plenum restore --from DIR --dir NEW --accept-loss` makes a new directory of what is whole, and names what is not; {}",
        dir.display(), loss.forecast()
    )]
    LossNotAccepted {
        /// Which.
        dir: PathBuf,
        /// Why it can't be opened.
        refused: String,
        /// What it would go on without.
        loss: Box<Loss>,
    },
    /// Nothing in the directory tells how the cell began.
    #[error("{}: {what}; restore from a backup", dir.display())]
    NothingToFollow {
        /// Which.
        dir: PathBuf,
        /// What is missing.
        what: String,
    },
    /// Nothing was ever decided in the directory's cell.
    #[error("{} holds a cell in which nothing was decided yet: there is nothing to keep; start a server in it", dir.display())]
    Empty {
        /// Which.
        dir: PathBuf,
    },
    /// The state that was read contradicts itself.
    #[error("the state at revision {revision} is not sound: {what}; use another backup")]
    NotSound {
        /// At which revision.
        revision: u64,
        /// What does not hold.
        what: String,
    },
    /// Log or history of the directory.
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl BackupError {
    /// A stable code, with a page of its own.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "IO",
            Self::NotABackup { .. } | Self::Damaged { .. } | Self::NotSound { .. } => "DAMAGED_BACKUP",
            Self::OtherFormat { .. } => "OTHER_FORMAT",
            Self::OtherCell { .. } | Self::OtherIncarnation { .. } | Self::NotOfThisLog { .. } => "OTHER_CELL",
            Self::Exists { .. } => "ALREADY_THERE",
            Self::Incarnation { .. } => "BAD_SETTING",
            Self::LossNotAccepted { .. } | Self::NothingToFollow { .. } => "DAMAGED_LOG",
            Self::Empty { .. } => "NO_CELL",
            Self::Server(error) => error.code(),
        }
    }

    /// Whether what was to be written has no room, on the disk or within a quota.
    pub(crate) fn is_for_want_of_room(&self) -> bool {
        matches!(self, Self::Io { source, .. } if lacks_room(source))
    }

    /// What keeps a fallback from being looked at, which may be sound; otherwise what is wrong with it.
    pub(crate) fn obstacle(self) -> Result<ServerError, Self> {
        let (path, source) = match self {
            Self::Io { path, source } => (path, source),
            Self::Server(error) if error.may_be_sound() => return Ok(error),
            wrong => return Err(wrong),
        };
        let failed = plenum_journal::DiskError { operation: "read", path: path.display().to_string(), source };
        if failed.may_be_sound() {
            return Ok(ServerError::ReadFallback(failed));
        }
        Err(Self::Io { path, source: failed.source })
    }

    fn of(path: &Path, fault: Fault) -> Self {
        let path = path.to_owned();
        match fault {
            Fault::Read(source) => Self::Io { path, source },
            Fault::NotABackup(found) => Self::NotABackup { path, found },
            Fault::OtherFormat(found) => Self::OtherFormat { path, expected: FILE_VERSION, found },
            Fault::Damaged { record, offset, what } => Self::Damaged { path, record, offset, what },
        }
    }
}

/// The manifest of a cell's backup. `tail` is the end of the log at the cell's revision.
pub(crate) fn manifest(cell: &Cell, incarnation: u64, tail: Tail) -> v1::BackupManifest {
    let hash = if tail.hash == ChainHash::default() { &[][..] } else { &tail.hash.0 };
    v1::BackupManifest {
        plenum_version: env!("CARGO_PKG_VERSION").to_owned(),
        core_version: plenum_core::CORE_VERSION,
        cell_id: bytes::Bytes::copy_from_slice(&cell.identity().cell_id),
        incarnation,
        term: tail.term,
        revision: cell.revision().0,
        time_micros: cell.time().micros,
        frame_hash: bytes::Bytes::copy_from_slice(hash),
        pages: pages::every(cell).count() as u64,
    }
}

/// Writes the backup of a stopped cell's directory; what it shows. The log is not changed; the history's store tidies itself up when it is
/// opened, as it would for a server.
///
/// # Errors
/// [`BackupError`]: a running server, another user's directory, a damaged log, a disk that fails.
pub fn back_up_folder(
    dir: &Path,
    out: &mut dyn std::io::Write,
    path: &Path,
) -> Result<v1::BackupManifest, BackupError> {
    let followed = folder::follow(dir, false)?;
    let manifest = manifest(&followed.cell, followed.incarnation, followed.tail);
    let failed = |source| BackupError::Io { path: path.to_owned(), source };
    let mut encoder = Encoder::begin(&manifest);
    for (table, number) in pages::every(&followed.cell) {
        encoder.page(&pages::encode_page(&followed.cell, table, number));
        out.write_all(&encoder.take()).map_err(failed)?;
    }
    encoder.end();
    out.write_all(&encoder.take()).map_err(failed)?;
    Ok(manifest)
}
