//! Why a server does not start, or ends.

use std::net::SocketAddr;
use std::path::PathBuf;

use plenum_history::StoreError;
use plenum_model::Revision;
use plenum_proto::ReadError;
use plenum_proto::pages::PageError;
use thiserror::Error;

use crate::publish::{MirrorError, NotABatch};

/// Why a server did not start, or ended other than asked to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A setting makes no sense.
    #[error("{name}: expected {expected}, found {found}")]
    Setting {
        /// Which.
        name: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Settings with which nobody is served: each in the words of [`Setting`](Self::Setting).
    #[error("{}", .0.join("; "))]
    OutOfBounds(Vec<String>),
    /// Beyond loopback, anybody could be anybody.
    #[error(
        "listening on {address} is refused: beyond loopback a server needs mutual TLS, which is not there yet; listen on 127.0.0.1 or [::1]"
    )]
    NotLoopback {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Somebody else listens there.
    #[error("{address} is in use by another process; stop that one, or listen elsewhere (port 0 takes a free one)")]
    AddressInUse {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Listening failed otherwise.
    #[error("listening on {address} failed")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or folder of the cell's directory.
    #[error("{} can't be used; check that it is there and that this user may write to it", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another user's cell: what is made in its directory would be this user's, and the server that runs as the other one could not use it.
    #[error(
        "{} belongs to user {owner}, and this is user {user}: run it as that user. Nothing was changed; what this user makes there the server could \
         not use any more",
        path.display()
    )]
    OtherUser {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who looked.
        user: u32,
    },
    /// A restore into the directory did not come to its end: what is there is no cell, and must not become an empty one.
    #[error("a restore into {} did not come to its end; remove that directory, and restore again", path.display())]
    HalfRestored {
        /// The directory.
        path: PathBuf,
    },
    /// A restore into the directory is at work.
    #[error("a restore is being made in {}; wait for its end", path.display())]
    BeingRestored {
        /// The directory.
        path: PathBuf,
    },
    /// There is a history or a fallback without a log: the log is what a cell is, and a new one beside it would be another cell.
    #[error(
        "{} has a history or a fallback, and no log; put the folder `log` back, or restore a backup into another directory",
        path.display()
    )]
    NoLog {
        /// The directory.
        path: PathBuf,
    },
    /// The log could not be opened: locked by another server, of another cell or version, or damaged.
    #[error(transparent)]
    OpenJournal(#[from] plenum_journal::OpenError),
    /// The history could not be opened.
    #[error(transparent)]
    OpenHistory(#[from] plenum_history::OpenError),
    /// The log could not be read.
    #[error("the log could not be read while recovering")]
    ReadJournal(#[source] plenum_journal::ReadError),
    /// The history could not be read.
    #[error("the history could not be read while recovering")]
    ReadHistory(#[source] plenum_history::ReadError),
    /// The history could not be written.
    #[error("the history could not be written")]
    WriteHistory(#[source] plenum_history::WriteError),
    /// The log has lost its end, of which the history knows.
    #[error(transparent)]
    AheadOfLog(plenum_history::WriteError),
    /// The log has lost its end, of which the fallback knows.
    #[error(
        "the fallback shows revision {shown}, and the log ends at {log}: the log has lost its end, or an older one was put in its place. Put the log \
         back that was with this fallback; or keep both: `plenum restore --from DIR --dir NEW --accept-loss` goes on from what the fallback shows, \
         and says what is lost. Where the cell is to go on from revision {log}, move `fallback.backup` away"
    )]
    FallbackAheadOfLog {
        /// The fallback's revision.
        shown: u64,
        /// The newest revision of the log.
        log: u64,
    },
    /// The log does not go back to where the history ends.
    #[error(
        "the log in {} begins at revision {oldest}, and the history ends at {known}: what is between is missing; put back the history that was with \
         this log. Where that is lost, keep a copy, and move the folder `history` away: the cell goes on from its fallback, if that joins the log",
        dir.display()
    )]
    MissingLog {
        /// The cell's directory.
        dir: PathBuf,
        /// The oldest revision of the log.
        oldest: u64,
        /// The newest revision of the history.
        known: u64,
    },
    /// Log and history are of the same cell before and after a restore: folded together they would be neither.
    #[error(
        "in {} the history is of incarnation {found}, and the log of {expected}: they don't belong together; put back the history that was \
         with this log. The past from before a restore can be read in the directory from before it",
        dir.display()
    )]
    OtherIncarnation {
        /// The cell's directory.
        dir: PathBuf,
        /// That of the log.
        expected: u64,
        /// That of the history's newest checkpoint.
        found: u64,
    },
    /// What is in the log is not what was decided.
    #[error("revision {revision} in the log can't be folded: {what}; run `plenum verify`, and restore from a copy")]
    Unfoldable {
        /// Where.
        revision: Revision,
        /// What is wrong.
        what: String,
    },
    /// A later version has written there what this one would leave out, and so lose.
    #[error("revision {revision} can't be read whole: {what}. Run that version, or a later one; nothing was changed")]
    Newer {
        /// Where, in the log or in a checkpoint.
        revision: Revision,
        /// What it is.
        what: String,
    },
    /// A page of a checkpoint makes no sense.
    #[error(
        "the checkpoint at revision {revision} can't be read: {what}; keep a copy of the directory, move the folder `history` in it away, and start again: the cell goes on from its fallback, or from a log that goes back to the beginning"
    )]
    Checkpoint {
        /// Its revision.
        revision: u64,
        /// What is wrong.
        what: String,
    },
    /// There is no history, the log does not go back to the beginning, and the fallback is not to be had either.
    #[error(
        "{} has no history, the log in it begins at revision {oldest}, and the fallback can't be used instead: {what}; put the folder `history` \
         back, or restore a backup into another directory",
        dir.display()
    )]
    NoFallback {
        /// The cell's directory.
        dir: PathBuf,
        /// The oldest revision of the log.
        oldest: u64,
        /// What is wrong with the fallback.
        what: String,
    },
    /// The fallback is needed, and could not be looked at: it may be sound.
    #[error(
        "the fallback can't be read; nothing is said of it, and nothing was changed: give this user the right to read it, or what it lacks, and try again"
    )]
    ReadFallback(#[source] plenum_journal::DiskError),
    /// Another set of named resources than the cell was made with.
    #[error("the cell's named resources are {expected:?}, found {found:?} in the settings; give the same, or none")]
    CustomResources {
        /// The cell's.
        expected: Vec<String>,
        /// The settings'.
        found: Vec<String>,
    },
    /// The log's directory was taken away under the server.
    #[error(
        "{path} was removed under the server, or its file LOCK was, or another directory is in its place: what is \
         decided now would be lost, or be written beside another server; start again where the rest of it is there, \
         and restore a backup where it is not"
    )]
    DirectoryGone {
        /// The log's directory.
        path: String,
    },
    /// A write to the log failed.
    #[error("the log could not be written; what became of the last requests shows at the next start")]
    Append(#[source] plenum_journal::AppendError),
    /// The picture of the cell does not follow any more.
    #[error("the published state contradicts itself; run `plenum verify`")]
    Mirror(#[source] MirrorError),
    /// The core refused to begin.
    #[error("the cell could not be opened: {0}")]
    Opening(plenum_model::Rejection),
    /// A thread could not be started; or it, or a task that goes on for as long as the server does, ended by itself.
    #[error("the thread {name} failed: {what}")]
    Thread {
        /// Which.
        name: &'static str,
        /// Why.
        what: String,
    },
    /// Serving ended by itself; why, where that is known.
    #[error("connections are not served any more, though nobody asked the server to end; start it again")]
    Serve(#[source] Option<tonic::transport::Error>),
}

impl ServerError {
    /// A stable code, with a page of its own.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Setting { .. } | Self::OutOfBounds(_) | Self::CustomResources { .. } => "BAD_SETTING",
            Self::NotLoopback { .. } => "NOT_LOOPBACK",
            Self::AddressInUse { .. } => "ADDRESS_IN_USE",
            Self::Listen { .. } => "LISTEN_FAILED",
            Self::Directory { .. }
            | Self::OtherUser { .. }
            | Self::HalfRestored { .. }
            | Self::DirectoryGone { .. } => "BAD_DIRECTORY",
            Self::BeingRestored { .. } => "DIRECTORY_LOCKED",
            Self::OpenJournal(open) => match open {
                plenum_journal::OpenError::Locked(_) => "DIRECTORY_LOCKED",
                plenum_journal::OpenError::OtherCell { .. } => "OTHER_CELL",
                plenum_journal::OpenError::OtherFormat { .. } => "OTHER_FORMAT",
                plenum_journal::OpenError::NoCell { .. } => "NO_CELL",
                plenum_journal::OpenError::NoRoomForNew { .. } => "NO_SPACE",
                plenum_journal::OpenError::Disk(failed) if failed.is_full() => "NO_SPACE",
                plenum_journal::OpenError::Disk(_) => "BAD_DIRECTORY",
                _ => "DAMAGED_LOG",
            },
            Self::OpenHistory(plenum_history::OpenError::OtherCell { .. }) | Self::OtherIncarnation { .. } => {
                "OTHER_CELL"
            }
            Self::OpenHistory(plenum_history::OpenError::OtherFormat { .. }) | Self::Newer { .. } => "OTHER_FORMAT",
            Self::OpenHistory(plenum_history::OpenError::Folder { source, .. }) if lacks_room(source) => "NO_SPACE",
            Self::OpenHistory(plenum_history::OpenError::Folder { .. }) => "BAD_DIRECTORY",
            Self::OpenHistory(plenum_history::OpenError::Locked { .. }) => "DIRECTORY_LOCKED",
            // A start writes, too: on a full disk what is there is as sound as it was. What the disk can't read is not.
            Self::OpenHistory(open) if open.may_be_sound() => "HISTORY_WRITE_FAILED",
            Self::WriteHistory(plenum_history::WriteError::Store(
                StoreError::Failed(_) | StoreError::ImageFile { .. } | StoreError::Poisoned,
            )) => "HISTORY_WRITE_FAILED",
            Self::AheadOfLog(_) | Self::FallbackAheadOfLog { .. } | Self::NoLog { .. } => "DAMAGED_LOG",
            // It belongs to another user, or too many files are open.
            Self::ReadHistory(read) if read.may_be_sound() => "BAD_DIRECTORY",
            Self::ReadJournal(plenum_journal::ReadError::Disk(failed)) if failed.may_be_sound() => "BAD_DIRECTORY",
            Self::ReadFallback(_) => "BAD_DIRECTORY",
            Self::OpenHistory(_)
            | Self::ReadHistory(_)
            | Self::WriteHistory(_)
            | Self::Checkpoint { .. }
            | Self::NoFallback { .. } => "DAMAGED_HISTORY",
            Self::ReadJournal(_) | Self::MissingLog { .. } | Self::Unfoldable { .. } | Self::Mirror(_) => "DAMAGED_LOG",
            Self::Append(_) => "LOG_WRITE_FAILED",
            Self::Opening(_) | Self::Thread { .. } | Self::Serve(_) => "INTERNAL",
        }
    }

    /// Why a history does not go with its log.
    pub(crate) fn against_log(error: plenum_history::WriteError) -> Self {
        match error {
            ahead @ plenum_history::WriteError::AheadOfLog { .. } => Self::AheadOfLog(ahead),
            failed => Self::WriteHistory(failed),
        }
    }

    /// Whether what could not be read may be sound, and could only not be looked at now: on a full disk, for want of open files or of a right,
    /// because somebody else has it, or it takes a later version. Nothing is said of it then, and nothing given up.
    pub(crate) fn may_be_sound(&self) -> bool {
        use plenum_journal::OpenError;
        match self {
            Self::OpenHistory(error) => error.may_be_sound(),
            Self::ReadHistory(error) => error.may_be_sound(),
            Self::WriteHistory(error) => error.may_be_sound(),
            Self::BeingRestored { .. } | Self::OpenJournal(OpenError::Locked(_)) => true,
            Self::ReadFallback(_) | Self::Newer { .. } => true,
            Self::OpenJournal(OpenError::Disk(failed)) => failed.may_be_sound(),
            Self::ReadJournal(plenum_journal::ReadError::Disk(failed)) => failed.may_be_sound(),
            _ => false,
        }
    }

    /// A thread or a task panicked.
    pub(crate) fn panicked(name: &'static str, panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Self::Thread { name, what: text.unwrap_or_default().to_owned() }
    }

    /// Why a delta that was to be read whole was not.
    pub(crate) fn unread(revision: Revision, error: &ReadError) -> Self {
        match error {
            ReadError::Newer { .. } => Self::Newer { revision, what: error.to_string() },
            _ => Self::unfoldable(revision, error),
        }
    }

    /// Why pages of a revision are no cell, where a later version wrote them; `None`: it is something else.
    pub(crate) fn newer_in(revision: Revision, error: &PageError) -> Option<Self> {
        match error {
            PageError::Read(newer @ ReadError::Newer { .. }) => Some(Self::unread(revision, newer)),
            _ => None,
        }
    }

    pub(crate) fn unfoldable(revision: Revision, error: &dyn std::error::Error) -> Self {
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        Self::Unfoldable { revision, what: format!("{error}{cause}") }
    }
}

impl From<NotABatch> for ServerError {
    fn from(error: NotABatch) -> Self {
        Self::Unfoldable { revision: Revision(0), what: error.to_string() }
    }
}

/// What to do where this process, or all of them, have as many files open as they may; `None`: it is something else.
pub(crate) fn too_many_files(error: &std::io::Error) -> Option<&'static str> {
    use rustix::io::Errno;
    let codes = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    let is_it = error.raw_os_error().is_some_and(|code| codes.contains(&code));
    is_it.then_some("too many open files: raise LimitNOFILE= of the unit, or ulimit -n")
}

/// Whether the disk is full, or what this user may take of it is used up.
pub(crate) fn lacks_room(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), QuotaExceeded | StorageFull)
}

/// An error with its causes: the last one names the place.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_history::WriteError;

    #[test]
    fn a_disk_that_fails_under_the_history_is_told_from_damage() {
        let failed = ServerError::WriteHistory(WriteError::Store(StoreError::Poisoned));
        assert_eq!(failed.code(), "HISTORY_WRITE_FAILED");
        let source = std::io::ErrorKind::StorageFull.into();
        let images = StoreError::ImageFile { path: "history/images/1".into(), source };
        assert_eq!(ServerError::WriteHistory(WriteError::Store(images)).code(), "HISTORY_WRITE_FAILED");
        let ahead = ServerError::against_log(WriteError::AheadOfLog { history: 9, log: 8 });
        assert_eq!(ahead.code(), "DAMAGED_LOG", "it is the log that lost something");
        // Nothing was to be written.
        let told = told(&ahead);
        assert!(told.starts_with("the history has revisions up to 9"), "{told}");
        assert!(told.contains("Keep the history") && told.contains("--accept-loss"), "{told}");
        // An operator of a full disk was told to move the history away.
        let open = |error| ServerError::OpenHistory(error).code();
        assert_eq!(open(StoreError::Poisoned.into()), "HISTORY_WRITE_FAILED");
        assert_eq!(open(StoreError::Stalled { waited_seconds: 60 }.into()), "HISTORY_WRITE_FAILED");
        let path = std::path::PathBuf::from("history");
        assert_eq!(open(plenum_history::OpenError::Locked { path: path.clone() }), "DIRECTORY_LOCKED");
        let damaged = plenum_history::OpenError::Damaged { path: path.clone(), what: "a table".to_owned() };
        assert_eq!(open(damaged), "DAMAGED_HISTORY");
        let unread = plenum_history::StoreError::LogUnread { first: 1, what: "no right to it".to_owned() };
        assert_eq!(ServerError::ReadHistory(unread.into()).code(), "BAD_DIRECTORY");
        let folder = |kind: std::io::ErrorKind| {
            ServerError::OpenHistory(plenum_history::OpenError::Folder { path: path.clone(), source: kind.into() })
                .code()
        };
        assert_eq!(folder(std::io::ErrorKind::PermissionDenied), "BAD_DIRECTORY");
        assert_eq!(folder(std::io::ErrorKind::StorageFull), "NO_SPACE");
        assert_eq!(folder(std::io::ErrorKind::QuotaExceeded), "NO_SPACE");
    }

    // It was told apart from damage, as on a full disk: an operator was to make room, at each start again, and not told
    // that the cell can do without its history.
    #[test]
    fn a_history_that_the_disk_can_not_read_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let open = || plenum_history::History::open(dir.path(), plenum_history::Options::new(vec![7])).map(drop);
        open().unwrap();
        let list = dir.path().join("store/keyspaces/1/current");
        std::fs::remove_file(&list).unwrap();
        // Where there is no memory the system answers as for a sector that can't be read.
        std::os::unix::fs::symlink("/proc/self/mem", &list).unwrap();
        let error = ServerError::OpenHistory(open().unwrap_err());
        assert!(told(&error).contains("os error 5"), "{}", told(&error));
        assert_eq!(error.code(), "DAMAGED_HISTORY");
    }
}
