//! The seam below the log: the few things it asks of a directory on a disk.
//!
//! Everything else in this crate goes through [`Disk`], so that recovery and the commit path run unchanged on
//! real files ([`RealDisk`]) and on a simulated disk that loses power on purpose ([`SimDisk`]).

mod real;
mod sim;

pub use real::RealDisk;
pub use sim::{SimCounts, SimDisk, SimOperation, SimStrikes};

use std::io;
use thiserror::Error;

/// An operation of the file system that failed. The cause is in `source()`.
#[derive(Debug, Error)]
#[error("{operation} of {path} failed{}", read_only(source))]
pub struct DiskError {
    /// What was asked for, as a word: `write`, `sync`, `rename` …
    pub operation: &'static str,
    /// The file or directory it was asked of.
    pub path: String,
    /// What the system answered.
    pub source: io::Error,
}

/// What to do where the disk can only be read. Whoever only looks locks the directory as well.
fn read_only(source: &io::Error) -> &'static str {
    let is_so = source.kind() == io::ErrorKind::ReadOnlyFilesystem;
    if is_so { " (its disk can only be read: copy the directory to one that can be written)" } else { "" }
}

impl DiskError {
    /// True when the cause is a full disk: nothing is damaged, and it works again when there is room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether what is there may be as it was written, and could only not be looked at now: for want of room, of open files, of a right.
    /// Files that are gone or too short, and what the medium has lost, are damage.
    #[must_use]
    pub fn may_be_sound(&self) -> bool {
        let is_gone = matches!(self.source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof);
        !is_gone && !crate::forgiving::is_lost(self)
    }
}

/// Why a directory could not be locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("{path} is locked by process {owner}; stop that one first, or use another directory")]
    Held {
        /// The lock file.
        path: String,
        /// Process id of the owner, as written in the lock file; `unknown` where it is unreadable.
        owner: String,
    },
    /// The lock file could not be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Held until dropped.
pub trait DiskLock: Send + Sync {
    /// Tells others that it is about to be dropped: they wait for it a while.
    fn ends(&self);

    /// Whether its file was removed, mostly with the directory, or is elsewhere and another one in its place: what is
    /// written is lost then, or gets into another's directory, and another may have the lock. False where the system
    /// can't tell.
    fn is_removed(&self) -> bool;
}

/// How a file is opened; always for reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must be there.
    Existing,
    /// It is made, empty, when it is not there.
    Create,
}

/// One directory on a disk. Names are plain names within it. Changes of names (a file made, renamed or removed)
/// are durable only after [`Disk::sync_dir`].
pub trait Disk: Send + Sync {
    /// The directory, for messages.
    fn place(&self) -> String;

    /// The names of the plain files, in any order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&self) -> Result<Vec<String>, DiskError>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// When it is not there, or may not be opened.
    fn open(&self, name: &str, mode: OpenMode) -> Result<Box<dyn DiskFile>, DiskError>;

    /// Gives a file another name, in one step; a file that had that name is gone.
    ///
    /// # Errors
    /// When the file is not there; which name it has after any other failure is unknown.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file.
    ///
    /// # Errors
    /// When it is not there or may not be removed; whether it is there after any other failure is unknown.
    fn remove(&self, name: &str) -> Result<(), DiskError>;

    /// Makes all earlier changes of names durable.
    ///
    /// # Errors
    /// When the disk refuses; which changes are durable is then unknown.
    fn sync_dir(&self) -> Result<(), DiskError>;

    /// Makes the directory's own name durable, and those of all folders that it is in: whoever made them may have been killed before that.
    ///
    /// # Errors
    /// When the disk refuses.
    fn sync_name(&self) -> Result<(), DiskError> {
        // For a disk that is nothing but the directory.
        Ok(())
    }

    /// The bytes that this process could still write to the file system.
    ///
    /// # Errors
    /// When the system cannot tell.
    fn free_bytes(&self) -> Result<u64, DiskError>;

    /// Takes the only lock of that name; freed when dropped or when the process ends. Only a holder that ends is waited for.
    ///
    /// # Errors
    /// [`LockError::Held`] names the owner.
    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError>;
}

/// One open file.
pub trait DiskFile: Send + Sync {
    /// The present size.
    ///
    /// # Errors
    /// When the system cannot tell.
    fn size_bytes(&self) -> Result<u64, DiskError>;

    /// Fills `into` from that offset; too short a file is an error.
    ///
    /// # Errors
    /// When the bytes are not there or cannot be read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;

    /// Writes all of `bytes` at that offset, as one call where the system allows; grows the file when needed.
    ///
    /// # Errors
    /// How much was written is then unknown.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes a range read as zeros and takes its room, without writing it; grows the file when needed. False where the file
    /// system knows no such thing: nothing was changed then.
    ///
    /// # Errors
    /// When there is no room, or the disk refuses; what the range holds is then unknown.
    fn zero(&self, offset: u64, bytes: u64) -> Result<bool, DiskError>;

    /// Makes everything written so far durable, as `fdatasync` does.
    ///
    /// # Errors
    /// What is durable is then unknown, and a second call must not be believed: systems mark the lost pages
    /// clean and answer the next one with success.
    fn sync(&self) -> Result<(), DiskError>;

    /// Writes out what is still held in memory and forgets the cached copy, so that the next read shows what is
    /// really on the disk, as far as the system lets one know.
    ///
    /// # Errors
    /// As [`DiskFile::sync`].
    fn settle(&self) -> Result<(), DiskError>;
}
