//! Why a directory is not opened.

use crate::disk::{DiskError, LockError};
use crate::flaw::Damage;
use crate::format::{CellId, ChainHash};
use crate::options::OptionsError;
use thiserror::Error;

/// Why a directory could not be opened. Nothing in it was changed, but by [`OpenError::Disk`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting is out of bounds.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Another server has it.
    #[error(transparent)]
    Locked(LockError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is no cell here, and none was to be made.
    #[error("{directory} holds no cell: expected the file {file}; name the right directory, or make a cell")]
    NoCell {
        /// The directory.
        directory: String,
        /// The identity file.
        file: &'static str,
    },
    /// Log files without an identity: making a cell here could destroy one.
    #[error(
        "{directory} holds log files such as {found}, but no file {file} that says whose; restore that file, or, where its segments agree on that, go on in a new directory with `plenum restore --from DIR --dir NEW`, or use an empty directory"
    )]
    Orphaned {
        /// The directory.
        directory: String,
        /// One of the log files.
        found: String,
        /// The identity file.
        file: &'static str,
    },
    /// A cell was to be made, and there is too little room for it.
    #[error(
        "{directory} has {free_bytes} bytes free, and a new cell needs {needed_bytes}: two segments of its log (segment_bytes), and what is to stay \
         free (reserve_bytes); make room"
    )]
    NoRoomForNew {
        /// The directory.
        directory: String,
        /// What is free on its disk.
        free_bytes: u64,
        /// What should be.
        needed_bytes: u64,
    },
    /// A log was to begin here, and something is here already.
    #[error("{directory} holds {found}, expected an empty directory; name another one")]
    NotEmpty {
        /// The directory.
        directory: String,
        /// One of the files.
        found: String,
    },
    /// It belongs to another cell.
    #[error("{directory}: {file} belongs to cell {found}, expected {expected}; use the directory of that cell")]
    OtherCell {
        /// The directory.
        directory: String,
        /// The file that says so.
        file: String,
        /// The cell that was asked for, or that the directory belongs to.
        expected: CellId,
        /// The cell that was found.
        found: CellId,
    },
    /// It was written by another version.
    #[error(
        "{directory}: {file} has format version {found}, expected {expected}; use the version of plenum that wrote it"
    )]
    OtherFormat {
        /// The directory.
        directory: String,
        /// The file that says so.
        file: String,
        /// The version of this program.
        expected: u32,
        /// The version found.
        found: u32,
    },
    /// The log is damaged in a way that no crash leaves behind.
    #[error(
        "{directory}: the log is damaged: {damage}{}; nothing was changed; see all with `plenum verify`, and restore from a backup, or give up what is lost with `plenum restore --from DIR --dir NEW --accept-loss`",
        beside(*others)
    )]
    Damaged {
        /// The directory.
        directory: String,
        /// The first damage.
        damage: Box<Damage>,
        /// How many more there are.
        others: u64,
    },
    /// The end of the log is damaged at or below the high-water mark: it was acknowledged.
    #[error(
        "{directory}: the log is damaged below its high-water mark of revision {mark_revision}: {damage}; what was lost there was acknowledged; restore from a backup, or give up what is lost with `plenum restore --from DIR --dir NEW --accept-loss`"
    )]
    DamagedBelowMark {
        /// The directory.
        directory: String,
        /// The place.
        damage: Box<Damage>,
        /// What was once durable.
        mark_revision: u64,
    },
    /// The log ends before the high-water mark: files are missing or were replaced.
    #[error(
        "{directory}: the log ends with revision {last_revision} ({file} offset {offset}), expected at least {mark_revision}, its high-water mark; put the missing files back, or restore from a backup, or give up what is lost with `plenum restore --from DIR --dir NEW --accept-loss`"
    )]
    EndsBeforeMark {
        /// The directory.
        directory: String,
        /// The last file.
        file: String,
        /// Where it ends in that file.
        offset: u64,
        /// The last revision in the log.
        last_revision: u64,
        /// What was once durable.
        mark_revision: u64,
    },
    /// The log has something else at the high-water mark's revision.
    #[error(
        "{directory}: at revision {revision} the high-water mark expects a frame of hash {expected}, found {found:?}; log and mark are not of the same history; restore from a backup, or give up what is lost with `plenum restore --from DIR --dir NEW --accept-loss`"
    )]
    OtherHistory {
        /// The directory.
        directory: String,
        /// The mark's revision.
        revision: u64,
        /// The mark's hash.
        expected: ChainHash,
        /// The hash of the frame that ends there; none when no frame does.
        found: Option<ChainHash>,
    },
    /// The high-water mark is gone or unreadable.
    #[error(
        "{directory}: the high-water mark is unreadable: {damage}; without it nobody can tell whether the log is complete; restore from a backup, or give up what is lost with `plenum restore --from DIR --dir NEW --accept-loss`"
    )]
    NoMark {
        /// The directory.
        directory: String,
        /// What is wrong with it.
        damage: Box<Damage>,
    },
    /// The identity is unreadable.
    #[error(
        "{directory}: the identity is unreadable: {damage}; restore that file from a copy, or the cell from a backup, or, where its segments agree on whose it is, go on in a new directory with `plenum restore --from DIR --dir NEW`"
    )]
    IdentityDamaged {
        /// The directory.
        directory: String,
        /// What is wrong with it.
        damage: Box<Damage>,
    },
}

impl From<LockError> for OpenError {
    fn from(failed: LockError) -> Self {
        match failed {
            LockError::Disk(failed) => OpenError::Disk(failed),
            held @ LockError::Held { .. } => OpenError::Locked(held),
        }
    }
}

/// That there is more damage than was named.
fn beside(others: u64) -> String {
    if others == 0 { String::new() } else { format!(" ({others} more)") }
}
