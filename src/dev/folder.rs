//! Where a development cell is kept: a named directory that stays, or a temporary one that leaves nothing behind.

use std::{
    cell::Cell,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{failure::Failure, output};

/// What is shown of the log of a part that does not stay up, or is not ready in time.
pub(super) const LOG_SHOWN_BYTES: u64 = 2000;

/// How the names of temporary directories begin; then come the process that made it, and a number.
pub(super) const TEMPORARY: &str = "plenum-dev-";

/// What a cell holds locked for as long as it lives.
pub(super) const LOCK: &str = "dev.lock";

/// What to do where a cell can't be kept in the place that was chosen for it.
const ELSEWHERE: &str = "name a directory with --dir, or one for temporary cells in TMPDIR";

/// How often, and for how long, it is tried whether another cell lives in a directory: one that was just killed lets go of it in
/// a moment, and one that was just asked to end says so.
const LOCK_PERIOD: Duration = Duration::from_millis(10);
const LOCKED_MAX: Duration = Duration::from_secs(1);
/// How long one that says that it ends is waited for: its tasks are given their time.
const ENDING_MAX: Duration = Duration::from_secs(30);
/// Who can open its lock file can lock it, and keep cells waiting.
const FOR_THE_OWNER: u32 = 0o600;
/// What stands in that file then.
const ENDS: &str = "ends\n";

/// A cell's directory.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    is_temporary: bool,
    /// The address in it is this cell's: a directory that another cell uses keeps that one's.
    has_published: Cell<bool>,
    /// Held as long as this cell lives, whichever way it ends; `None`: another one has it, or it can't be had.
    lock: Option<File>,
}

impl Folder {
    /// Opens the named directory, or makes a temporary one that only this user can enter.
    ///
    /// # Errors
    ///
    /// Also for a server's own directory, such as a restored one: beside what is there, a new and empty cell would begin.
    pub(super) fn open(named: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = named.filter(|path| path.join("log").is_dir() && !path.join("server").exists()) {
            let (path, dir) = (path.display(), output::word(&path.display().to_string()));
            let what =
                format!("{path} is the directory of a server, and that of `plenum dev` has one in {path}/server");
            let hint =
                format!("start it with `plenum server --dir {dir}`, or restore it to a DIR/server and name DIR here");
            return Err(Failure::new("BAD_DIRECTORY", what).with_hint(hint));
        }
        let mut folder = match named {
            Some(path) => {
                let absolute = std::path::absolute(path).map_err(|error| Failure::io(path.display(), &error))?;
                Self { path: absolute, is_temporary: false, has_published: Cell::new(false), lock: None }
            }
            None => Self {
                path: temporary(&temporary_root())?,
                is_temporary: true,
                has_published: Cell::new(false),
                lock: None,
            },
        };
        // Tasks that an agent of root starts for other users pass through its directory; what parts print is for nobody else.
        for (part, mode) in [("server", 0o777), ("agents", 0o777), ("logs", 0o700)] {
            let path = folder.path.join(part);
            let made = DirBuilder::new().recursive(true).mode(mode).create(&path);
            made.map_err(|error| with_room_elsewhere(Failure::io(format!("cannot make {}", path.display()), &error)))?;
        }
        folder.lock = locked(&folder.path.join(LOCK));
        Ok(folder)
    }

    /// Whether no other cell lives in the directory: what runs of one then was killed with it, and ends by itself.
    pub(super) const fn is_alone(&self) -> bool {
        self.lock.is_some()
    }

    /// Whether nothing of it is left at the end.
    pub(super) const fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The server's own directory.
    pub(super) fn server(&self) -> PathBuf {
        self.path.join("server")
    }

    /// The own directory of an agent.
    pub(super) fn agent(&self, machine: &str) -> PathBuf {
        self.path.join("agents").join(machine)
    }

    /// Puts the cell's address where scripts look for it: `DIR/address`, whole or not at all.
    pub(super) fn publish_address(&self, address: &str) -> Result<(), Failure> {
        let (draft, path) = (self.path.join("address.new"), self.path.join("address"));
        self.has_published.set(true);
        let written = fs::write(&draft, address).and_then(|()| fs::rename(&draft, &path));
        written.map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))
    }

    /// What a part prints.
    pub(super) fn log(&self, part: &str) -> PathBuf {
        self.path.join("logs").join(format!("{part}.log"))
    }

    /// How much parts of earlier cells in a named directory, and this one up to now, have printed.
    pub(super) fn log_bytes(path: &Path) -> u64 {
        fs::metadata(path).map_or(0, |found| found.len())
    }

    /// What was printed from a place on, at most its last `most` bytes.
    pub(super) fn printed_since(path: &Path, from: u64, most: u64) -> String {
        let read = || {
            let mut file = fs::File::open(path)?;
            let from = from.max(file.metadata()?.len().saturating_sub(most));
            file.seek(io::SeekFrom::Start(from))?;
            let mut printed = Vec::new();
            file.take(most).read_to_end(&mut printed).map(|_| printed)
        };
        read().map_or_else(|_: io::Error| String::new(), |printed| String::from_utf8_lossy(&printed).into_owned())
    }

    /// Lets who starts another cell here wait for the end of this one.
    pub(super) fn ends(&self) {
        if let Some(mut lock) = self.lock.as_ref() {
            // Where that can't be written, the other one is refused.
            drop(lock.rewind().and_then(|()| lock.write_all(ENDS.as_bytes())));
        }
    }

    /// Removes the directory if it was temporary. What cannot be removed is not worth an error at the very end.
    pub(super) fn close(self) {
        if self.is_temporary {
            let _ = plenum_agent::removal::remove_tree(&self.path);
        } else if self.has_published.get() {
            let _ = fs::remove_file(self.path.join("address"));
        }
    }
}

/// A part that runs and was not ready in time, as `what` says, with what it `said`: of a temporary cell, its log is gone before this is read.
pub(super) fn not_ready(folder: &Folder, what: &str, said: &str) -> Failure {
    let said = match said.trim_end() {
        "" => "its log says nothing".to_owned(),
        said => format!("its log says:\n{said}"),
    };
    let hint = match folder.is_temporary {
        true => "`--dir DIR` keeps the logs".to_owned(),
        false => format!("see the logs in {}", folder.path.join("logs").display()),
    };
    Failure::new("PART_FAILED", format!("{what}; {said}")).with_hint(hint)
}

fn locked(path: &Path) -> Option<File> {
    let mut open = OpenOptions::new();
    open.read(true).write(true).create(true).truncate(false).mode(FOR_THE_OWNER);
    let mut file = open.open(path).ok()?;
    // An earlier version let others open it. Where that can't be changed, the lock is as good as it was.
    let _ = file.set_permissions(Permissions::from_mode(FOR_THE_OWNER));
    let (begun, mut told) = (Instant::now(), false);
    while file.try_lock().is_err() {
        let ends = is_ending(&mut file);
        if begun.elapsed() >= if ends { ENDING_MAX } else { LOCKED_MAX } {
            return None;
        }
        if ends && begun.elapsed() >= LOCKED_MAX && !std::mem::replace(&mut told, true) {
            output::tell("another cell is ending in this directory; waiting for it");
        }
        sleep(LOCK_PERIOD);
    }
    file.set_len(0).ok()?;
    Some(file)
}

fn is_ending(lock: &mut File) -> bool {
    let mut text = String::new();
    let read = lock.rewind().and_then(|()| Read::take(lock, 64).read_to_string(&mut text));
    read.is_ok() && text == ENDS
}

/// Which file it is and when it was written; none if there is none.
pub(super) fn written(path: &Path) -> Option<(u64, i64, i64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

/// Where temporary cells are made, and those looked for that were killed.
pub(super) fn temporary_root() -> PathBuf {
    root_named(std::env::temp_dir())
}

/// An empty `TMPDIR`, as shells unset a variable for one command, or a relative one is another place in each working directory: what a killed cell left
/// there would stay.
fn root_named(path: PathBuf) -> PathBuf {
    if path.is_absolute() { path } else { PathBuf::from("/tmp") }
}

fn temporary(root: &Path) -> Result<PathBuf, Failure> {
    let process = std::process::id();
    let mut made = Err(io::Error::from(io::ErrorKind::AlreadyExists));
    for attempt in 0..1000 {
        let path = root.join(format!("{TEMPORARY}{process}-{attempt}"));
        made = DirBuilder::new().mode(0o700).create(&path).map(|()| path);
        if !matches!(&made, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
            break;
        }
    }
    made.map_err(|error| {
        let doing = format!("cannot make a temporary directory in {}", root.display());
        with_room_elsewhere(Failure::io(doing, &error).with_hint(ELSEWHERE))
    })
}

/// The failure of a part. Where there is no room for it, its own advice is of settings that are not to be had here.
pub(super) fn with_room_elsewhere(failure: Failure) -> Failure {
    if failure.code != "NO_SPACE" {
        return failure;
    }
    failure.with_hint(format!("make room there, or have the cell on another file system: {ELSEWHERE}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_temporary_folder_leaves_nothing_behind() {
        let folder = Folder::open(None).unwrap();
        let path = folder.path().to_owned();
        assert!(path.join("server").is_dir());
        folder.close();
        assert!(!path.exists());
    }

    // It began in the working directory, and nobody looked there for what it left when it was killed.
    #[test]
    fn an_empty_or_relative_place_for_temporary_cells_is_none() {
        let root = |named: &str| root_named(PathBuf::from(named));
        assert_eq!(
            [root(""), root("here/tmp"), root("/var/tmp")].map(|path| path.display().to_string()),
            ["/tmp", "/tmp", "/var/tmp"]
        );
        assert!(temporary_root().is_absolute());
    }

    // It was told neither which place that was, nor how to name another one; and for a small disk, settings that `plenum dev` does not take.
    #[test]
    fn where_there_is_no_room_for_a_cell_another_place_can_be_named() {
        let named = tempfile::tempdir().unwrap();
        let missing = named.path().join("missing");
        let failure = temporary(&missing).unwrap_err();
        let doing = format!("cannot make a temporary directory in {}: ", missing.display());
        assert!(failure.message.starts_with(&doing), "{failure}");
        assert_eq!(failure.hint.as_deref(), Some(ELSEWHERE));
        let full = with_room_elsewhere(Failure::new("NO_SPACE", "full").with_hint("set segment_bytes lower"));
        let hint = full.hint.unwrap();
        assert!(hint.contains("--dir") && hint.contains("TMPDIR") && !hint.contains("segment_bytes"), "{hint}");
        let other = with_room_elsewhere(Failure::new("DAMAGED_LOG", "damaged").with_hint("explained"));
        assert_eq!(other.hint.as_deref(), Some("explained"));
    }

    // The log that it named had been removed with the cell.
    #[test]
    fn a_part_that_is_not_ready_in_time_is_told_with_what_it_said() {
        let named = tempfile::tempdir().unwrap();
        let (kept, temporary) = (Folder::open(Some(named.path())).unwrap(), Folder::open(None).unwrap());
        let failure = not_ready(&kept, "the server cannot be reached", "recovering\nno space left\n");
        let told = "the server cannot be reached; its log says:\nrecovering\nno space left";
        assert_eq!((failure.code.as_str(), failure.message.as_str()), ("PART_FAILED", told));
        assert_eq!(failure.hint, Some(format!("see the logs in {}", named.path().join("logs").display())));
        let failure = not_ready(&temporary, "the server cannot be reached", "\n");
        assert_eq!(failure.message, "the server cannot be reached; its log says nothing");
        assert_eq!(failure.hint.as_deref(), Some("`--dir DIR` keeps the logs"));
        temporary.close();
    }

    #[test]
    fn one_cell_at_a_time_is_alone_in_its_directory() {
        let named = tempfile::tempdir().unwrap();
        let first = Folder::open(Some(named.path())).unwrap();
        let second = Folder::open(Some(named.path())).unwrap();
        assert!(first.is_alone() && !second.is_alone());
        first.close();
        assert!(!second.is_alone() && Folder::open(Some(named.path())).unwrap().is_alone());
    }

    // Any user who could pass the directory above held the lock, and each start of a cell waited for as long as for one that ends.
    #[test]
    fn nobody_but_its_user_can_lock_a_cell_or_read_what_its_parts_print() {
        let [new, earlier] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let lock = File::create(earlier.path().join(LOCK)).unwrap();
        lock.set_permissions(Permissions::from_mode(0o644)).unwrap();
        for named in [new, earlier] {
            let folder = Folder::open(Some(named.path())).unwrap();
            let rights = [LOCK, "logs"].map(|part| named.path().join(part).metadata().unwrap().mode() & 0o777);
            assert_eq!((rights, folder.is_alone()), ([0o600, 0o700], true));
        }
    }

    #[test]
    fn the_address_of_another_cell_is_left_alone() {
        let named = tempfile::tempdir().unwrap();
        let first = Folder::open(Some(named.path())).unwrap();
        first.publish_address("127.0.0.1:1").unwrap();
        Folder::open(Some(named.path())).unwrap().close();
        assert!(named.path().join("address").exists());
        first.close();
        assert!(!named.path().join("address").exists());
    }

    // After a restore to the directory that was named, an empty cell was there, and the restored one seemed lost.
    #[test]
    fn a_servers_own_directory_is_not_begun_anew() {
        let named = tempfile::tempdir().unwrap();
        fs::create_dir(named.path().join("log")).unwrap();
        let failure = Folder::open(Some(named.path())).err().unwrap();
        assert_eq!(failure.code, "BAD_DIRECTORY");
        assert!(failure.hint.unwrap().contains("plenum server --dir"));
        assert_eq!(fs::read_dir(named.path()).unwrap().count(), 1, "nothing was made in it");
    }

    #[test]
    fn a_named_folder_stays() {
        let named = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(&named.path().join("cell"))).unwrap();
        let path = folder.path().to_owned();
        folder.close();
        assert!(path.join("logs").is_dir());
    }
}
