//! What can go wrong: one enum for each door, one for the store behind all of them.
use fjall::LsmError;
use std::io;
use std::path::PathBuf;

/// What to do about a history that is damaged.
macro_rules! remedy {
    () => {
        "keep a copy of the cell's directory, stop the server, move the folder `history` in it away, and start again: the cell goes on from its \
         fallback and its log, and loses nothing but the past. Where it has no fallback yet and its log does not go back to the beginning, restore a backup"
    };
}

/// The store behind a history failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("the history's store failed; {}", what_to_do(.0))]
    Failed(#[source] fjall::Error),
    /// A file of images can't be read or written.
    #[error("{} can't be read or written; {}", path.display(), what_to_do_about(.source))]
    ImageFile {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier write failed: nothing more is accepted, because nobody knows what is on the disk.
    #[error("the history's store takes no more writes since one failed; free disk space or mend the disk")]
    Poisoned,
    /// Bytes are not what was written.
    #[error("{key} in the history is damaged: {what}; {}", remedy!())]
    Damaged {
        /// Which row, table or file.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// What a block is made of can't be read from the log.
    #[error(
        "the block from revision {first} on can't be read from the log: {what}; mend the disk, or restore from a backup"
    )]
    Log {
        /// Its first revision.
        first: u64,
        /// What is wrong, and where.
        what: String,
    },
    /// What a block is made of could not be looked at in the log.
    #[error(
        "the block from revision {first} on can't be read from the log now: {what}; try again when that has passed"
    )]
    LogUnread {
        /// Its first revision.
        first: u64,
        /// What is in the way, and where.
        what: String,
    },
    /// It is being opened again after a failed write.
    #[error("the history's store is being opened again after a failed write; try again in a moment")]
    Reopening,
    /// It could not be opened again after a failed write, and waiting is of no use.
    #[error("the history is closed, as its store could not be opened again after a failed write: {what}")]
    Closed {
        /// Why.
        what: String,
    },
    /// The store's background work does not advance.
    #[error("the history's store did not catch up for {waited_seconds} s; check the disk's load and room")]
    Stalled {
        /// How long it was waited for.
        waited_seconds: u64,
    },
}

impl StoreError {
    /// Whether it is the world that failed, such as a full disk: then what was written before is sound, and the store is to be opened
    /// again, [`History::reopen`](crate::History::reopen), when the world is better.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Failed(fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error))) => {
                !makes_no_sense(error)
            }
            // One that is not there, or too short, is damaged.
            Self::ImageFile { .. } => true,
            Self::Poisoned | Self::Reopening | Self::Stalled { .. } | Self::LogUnread { .. } => true,
            Self::Failed(_) | Self::Damaged { .. } | Self::Log { .. } | Self::Closed { .. } => false,
        }
    }

    /// Whether it is a file of images for which there is no room, on the disk or of a quota.
    #[must_use]
    pub fn images_lack_room(&self) -> bool {
        matches!(self, Self::ImageFile { source, .. } if lacks_room(source))
    }

    /// Whether what is there may be as it was written, and could only not be looked at now: for want of room, of open files, of a right. A
    /// disk that can't give back what it was given may do so another time, and has damaged it all the same.
    #[must_use]
    pub fn may_be_sound(&self) -> bool {
        match self {
            Self::Failed(fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error))) if is_lost(error) => {
                false
            }
            Self::ImageFile { source, .. } => !is_lost(source),
            error => error.may_pass(),
        }
    }
}

/// What systems say where this process, or all of them, have as many files open as they may: `EMFILE` and `ENFILE`.
const OPEN_FILES_ERRORS: [i32; 2] = [24, 23];

fn what_to_do(error: &fjall::Error) -> &'static str {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => what_to_do_about(error),
        _ => "check the disk",
    }
}

fn what_to_do_about(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(code) if OPEN_FILES_ERRORS.contains(&code) => {
            "too many open files: raise LimitNOFILE= of the unit, or ulimit -n"
        }
        _ if error.kind() == io::ErrorKind::PermissionDenied => {
            "let the user that the server runs as read and write it"
        }
        _ if lacks_room(error) => "there is no room for it: free some on its disk, or in this user's quota",
        _ => "check the disk",
    }
}

fn what_to_do_about_folder(error: &io::Error) -> &'static str {
    if lacks_room(error) { what_to_do_about(error) } else { "check that it is a folder that this user may write" }
}

/// Whether the disk is full, or what this user may take of it is used up.
fn lacks_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), QuotaExceeded | StorageFull)
}

/// What systems say of bytes that the medium has lost: `EIO`, `EBADMSG` and `EUCLEAN`.
const LOST_ERRORS: [i32; 3] = [5, 74, 117];

fn is_lost(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| LOST_ERRORS.contains(&code))
}

/// Files that are gone, too short, or tell of places before their beginning: damage rather than a failure.
pub(crate) fn makes_no_sense(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | UnexpectedEof | InvalidData | InvalidInput)
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Poisoned => Self::Poisoned,
            other => Self::Failed(other),
        }
    }
}

/// Why a history could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The settings make no sense.
    #[error("the history's setting {name} is {found}; expected {expected}")]
    Setting {
        /// Which setting.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The folder can't be read or made.
    #[error("{} can't be used for the history; {}", path.display(), what_to_do_about_folder(.source))]
    Folder {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is something in the folder, but no history.
    #[error("{} holds no history of a cell and is not empty; {}", path.display(), remedy!())]
    NotAHistory {
        /// The folder.
        path: PathBuf,
    },
    /// The history is of another cell.
    #[error(
        "{} is the history of cell {found}, not of {expected}; put back the one that was with this log, or {}",
        path.display(), remedy!()
    )]
    OtherCell {
        /// The folder.
        path: PathBuf,
        /// This cell's id, in hex.
        expected: String,
        /// The folder's cell id, in hex.
        found: String,
    },
    /// The history was written in another format.
    #[error(
        "{} is a history of format {found}, and this version reads {expected}; use the version that wrote it, or {}",
        path.display(), remedy!()
    )]
    OtherFormat {
        /// The folder.
        path: PathBuf,
        /// The format that this version reads and writes.
        expected: u32,
        /// The folder's format.
        found: String,
    },
    /// Somebody else has it open.
    #[error("the history in {} is open in another process; stop that server first", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// It is to be opened again, and somebody has been reading it for too long.
    #[error("the history in {} is opened again when those who still read it have ended; wait a moment", path.display())]
    BeingRead {
        /// The folder.
        path: PathBuf,
    },
    /// It is there, and unreadable.
    #[error("the history in {} is damaged ({what}); {}", path.display(), remedy!())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    /// As [`StoreError::may_pass`].
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Folder { source, .. } => !makes_no_sense(source),
            Self::Store(error) => error.may_pass(),
            Self::Locked { .. } | Self::BeingRead { .. } => true,
            _ => false,
        }
    }

    /// As [`StoreError::may_be_sound`].
    #[must_use]
    pub fn may_be_sound(&self) -> bool {
        match self {
            Self::Folder { source, .. } if is_lost(source) => false,
            Self::Store(error) => error.may_be_sound(),
            error => error.may_pass(),
        }
    }
}

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A batch is missing between what is there and what was given.
    #[error("the history needs revision {expected} next, and was given {found}: feed it the log from {expected} on")]
    Gap {
        /// The revision that comes next.
        expected: u64,
        /// The first revision that was given.
        found: u64,
    },
    /// A batch begins before and ends after what is there: batches were not cut like this before.
    #[error("batch {first} to {last} overlaps the history, which ends at {newest}; {}", remedy!())]
    Overlap {
        /// The batch's first revision.
        first: u64,
        /// The batch's last revision.
        last: u64,
        /// The newest revision that is there.
        newest: u64,
    },
    /// What was given contradicts itself.
    #[error("batch or checkpoint at revision {revision} is malformed: {what}")]
    Malformed {
        /// Where.
        revision: u64,
        /// What was expected, and what was found.
        what: String,
    },
    /// There is a newer checkpoint already.
    #[error(
        "a checkpoint at revision {revision} is older than the newest one, at {newest}: take one of the present state"
    )]
    Behind {
        /// The checkpoint's revision.
        revision: u64,
        /// The newest checkpoint's revision.
        newest: u64,
    },
    /// A page has no image at all; the checkpoint was not recorded, the one before stays valid.
    #[error(
        "the checkpoint at revision {revision} lacks page {page} of table {table}, which is new since the last one"
    )]
    PageMissing {
        /// The checkpoint's revision.
        revision: u64,
        /// The table's number.
        table: u8,
        /// The page's number.
        page: u32,
    },
    /// The history has revisions that the log doesn't have.
    #[error(
        "the history has revisions up to {history}, and the log ends at {log}: the log has lost its end. Keep the \
         history: `plenum restore --from DIR --dir NEW --accept-loss` goes on from what it shows by itself, its newest \
         checkpoint, and says what is lost"
    )]
    AheadOfLog {
        /// The newest revision of which the history has a trace.
        history: u64,
        /// The newest revision of the log.
        log: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl WriteError {
    /// As [`StoreError::may_pass`].
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Store(error) if error.may_pass())
    }

    /// As [`StoreError::may_be_sound`].
    #[must_use]
    pub fn may_be_sound(&self) -> bool {
        matches!(self, Self::Store(error) if error.may_be_sound())
    }
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It was there, and is not retained any more.
    #[error("revision {asked} is no longer retained; the oldest that can be read is {oldest}")]
    Retired {
        /// What was asked for.
        asked: u64,
        /// The oldest revision that can be read.
        oldest: u64,
    },
    /// The time asked for is before everything that is retained.
    #[error("nothing is retained from that time; the oldest revision that can be read is {oldest}")]
    TimeRetired {
        /// The oldest revision that can be read.
        oldest: u64,
    },
    /// It was never there, or has not come here yet.
    #[error("there is no revision {asked} in the history; the newest is {newest}")]
    NotThere {
        /// What was asked for.
        asked: u64,
        /// The newest revision that can be read.
        newest: u64,
    },
    /// The cell was not there yet at that time.
    #[error("the cell has no revision at that time: it is before its first one")]
    BeforeFirst,
    /// The store failed, or holds damaged bytes.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReadError {
    /// As [`StoreError::may_be_sound`].
    #[must_use]
    pub fn may_be_sound(&self) -> bool {
        matches!(self, Self::Store(error) if error.may_be_sound())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // With few open files allowed it sent people to a disk that was sound.
    #[test]
    fn a_store_that_may_open_no_more_files_says_which_limit_to_raise() {
        let told = |code| StoreError::Failed(fjall::Error::Io(io::Error::from_raw_os_error(code))).to_string();
        for code in OPEN_FILES_ERRORS {
            assert!(told(code).contains("LimitNOFILE=") && !told(code).contains("disk"), "{}", told(code));
        }
        let within = fjall::Error::Storage(LsmError::Io(io::Error::from_raw_os_error(24)));
        assert!(StoreError::Failed(within).to_string().contains("ulimit -n"));
        assert!(told(5).ends_with("check the disk"), "{}", told(5));
    }

    // A start of a new version on a full disk sent people to rights that were as they should be.
    #[test]
    fn a_folder_that_can_not_be_written_for_want_of_room_says_to_free_some() {
        let told = |code| {
            let source = io::Error::from_raw_os_error(code);
            OpenError::Folder { path: PathBuf::from("history"), source }.to_string()
        };
        for code in [28, 122] {
            assert!(told(code).ends_with("free some on its disk, or in this user's quota"), "{}", told(code));
        }
        assert!(told(13).ends_with("check that it is a folder that this user may write"), "{}", told(13));
    }

    // With a full disk, or a quota that was used up, it sent people to a disk that was sound.
    #[test]
    fn a_store_or_a_file_of_images_without_room_says_to_free_some() {
        for code in [28, 122] {
            let error = || io::Error::from_raw_os_error(code);
            let told = [
                StoreError::Failed(fjall::Error::Io(error())),
                StoreError::Failed(fjall::Error::Storage(LsmError::Io(error()))),
                StoreError::ImageFile { path: PathBuf::from("images/1"), source: error() },
            ];
            for told in told.map(|error| error.to_string()) {
                assert!(told.ends_with("free some on its disk, or in this user's quota"), "{told}");
            }
        }
    }

    #[test]
    fn what_the_medium_has_lost_is_damage_though_it_may_be_read_another_time() {
        let failed = |code| StoreError::Failed(fjall::Error::Io(io::Error::from_raw_os_error(code)));
        // A failed read, a damaged file system; too many open files, a full disk, no right to it.
        for (code, may_be_sound) in [(5, false), (117, false), (24, true), (28, true), (13, true)] {
            assert_eq!((failed(code).may_pass(), failed(code).may_be_sound()), (true, may_be_sound), "{code}");
            let opening = OpenError::from(failed(code));
            assert_eq!((opening.may_pass(), opening.may_be_sound()), (true, may_be_sound), "{code}, while opening");
            let of_images =
                StoreError::ImageFile { path: PathBuf::from("images/1"), source: io::Error::from_raw_os_error(code) };
            assert_eq!((of_images.may_pass(), of_images.may_be_sound()), (true, may_be_sound), "{of_images}");
        }
        assert!(!failed(2).may_be_sound(), "a file that is gone");
        assert!(
            StoreError::Poisoned.may_be_sound() && !StoreError::Log { first: 1, what: String::new() }.may_be_sound()
        );
    }
}
