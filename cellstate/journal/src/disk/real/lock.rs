//! The lock of a directory: a file that one process at a time has locked, with its id in it.

use super::{DiskLock, LockError, failed, options};
use crate::format::count;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest text that is read from a lock file: a process id is far shorter.
const OWNER_BYTES_MAX: usize = 32;

/// How long whoever was killed is waited for: it keeps its files until its last write to the disk is over.
const KILLED_MAX: Duration = Duration::from_secs(5);
/// How long whoever says that it ends is waited for: a last checkpoint of a large cell takes seconds.
const ENDING_MAX: Duration = Duration::from_secs(30);
/// How long anybody is: one that was asked to end a moment ago may not have heard of it yet.
const HEARING_MAX: Duration = Duration::from_secs(1);
/// What follows the id of a process that ends.
const ENDS: &str = " ends";
/// Its place in the sets of pending signals.
const SIGKILL: u64 = 1 << 8;
/// How often it is looked at meanwhile.
const PAUSE: Duration = Duration::from_millis(10);

/// The lock goes with the open file, also when the process is killed.
pub(super) struct RealLock {
    file: File,
    /// Where it was taken.
    path: PathBuf,
}

impl RealLock {
    fn tell(&self, more: &str) -> std::io::Result<()> {
        let text = format!("{}{more}\n", std::process::id());
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(count(text.len()))
    }
}

impl DiskLock for RealLock {
    fn ends(&self) {
        // Where that can't be written, the next one is refused, as long as this one has not ended.
        drop(self.tell(ENDS));
    }

    fn is_removed(&self) -> bool {
        let Ok(held) = self.file.metadata() else { return false };
        // Files are opened by their names: where another directory has this one's, they would be that one's. Where none
        // has it they are not opened at all.
        let is_another = |there: Metadata| (there.dev(), there.ino()) != (held.dev(), held.ino());
        held.nlink() == 0 || std::fs::metadata(&self.path).is_ok_and(is_another)
    }
}

/// Locks a file, made when it is not there. Waits for nobody who goes on, but for whoever ends.
pub(super) fn take(path: &Path) -> Result<RealLock, LockError> {
    let file = options().create(true).open(path).map_err(failed("opening", path))?;
    let (begun, mut told) = (Instant::now(), false);
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) => {}
            Err(other) => return Err(failed("locking", path)(other.into()).into()),
        }
        let text = owner_in(&file).unwrap_or_else(|| "unknown".to_owned());
        let owner = text.strip_suffix(ENDS);
        let patience = match owner {
            Some(_) => ENDING_MAX,
            None if is_killed(&text) => KILLED_MAX,
            None => HEARING_MAX,
        };
        let waited = begun.elapsed();
        if waited >= patience {
            let owner = owner.map_or_else(|| text.clone(), |owner| format!("{owner}, which is still ending"));
            return Err(LockError::Held { path: path.display().to_string(), owner });
        }
        if waited >= HEARING_MAX && !std::mem::replace(&mut told, true) {
            tracing::info!(path = %path.display(), owner = text, "waits for whoever is ending there");
        }
        std::thread::sleep(PAUSE);
    }
    let lock = RealLock { file, path: path.to_owned() };
    lock.tell("").map_err(failed("write", path))?;
    Ok(lock)
}

/// Who holds a lock, as far as its file tells.
fn owner_in(file: &File) -> Option<String> {
    let mut text = [0; OWNER_BYTES_MAX];
    let read = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..read)?).ok()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether a process has ended but for what the kernel still does for it. One that cannot be seen has ended since, or runs elsewhere.
fn is_killed(process: &str) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{process}/status")) else { return true };
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let killed = |set: &str| u64::from_str_radix(set, 16).is_ok_and(|signals| signals & SIGKILL != 0);
    field("State:").is_some_and(|state| state.starts_with(['Z', 'X']))
        || ["SigPnd:", "ShdPnd:"].into_iter().any(|name| field(name).is_some_and(killed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_lock_knows_when_its_file_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("LOCK");
        let lock = take(&path).unwrap();
        std::fs::rename(&path, home.path().join("moved")).unwrap();
        assert!(!lock.is_removed(), "it is only elsewhere");
        std::fs::remove_file(home.path().join("moved")).unwrap();
        assert!(lock.is_removed());
    }

    // Its next segments were written into the cell that had been made in its directory's old place, beside those of
    // that one's server.
    #[test]
    fn a_lock_that_was_moved_is_as_good_as_removed_once_another_is_in_its_place() {
        let home = tempfile::tempdir().unwrap();
        let (log, moved) = (home.path().join("log"), home.path().join("moved"));
        std::fs::create_dir(&log).unwrap();
        let lock = take(&log.join("LOCK")).unwrap();
        assert!(!lock.is_removed());
        std::fs::rename(&log, &moved).unwrap();
        std::fs::create_dir(&log).unwrap();
        assert!(!lock.is_removed(), "nobody else is there yet");
        let other = take(&log.join("LOCK")).unwrap();
        assert_eq!((lock.is_removed(), other.is_removed()), (true, false));
        std::fs::remove_dir_all(&log).unwrap();
        std::fs::rename(&moved, &log).unwrap();
        assert_eq!((lock.is_removed(), other.is_removed()), (false, true), "it is back in its place");
    }

    #[test]
    fn only_who_was_killed_or_cannot_be_seen_counts_as_killed() {
        assert!(!is_killed(&std::process::id().to_string()));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = child.id().to_string();
        assert!(!is_killed(&process));
        child.kill().unwrap();
        // Killed, and then a zombie until it is waited for.
        assert!(is_killed(&process));
        child.wait().unwrap();
        assert!(is_killed(&process));
    }

    #[test]
    fn what_a_killed_process_still_has_locked_is_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("LOCK");
        let first = take(&path).unwrap();
        let refused = take(&path).err().unwrap().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        let mut child = Command::new("true").spawn().unwrap();
        std::fs::write(&path, format!("{}\n", child.id())).unwrap();
        // Not waited for: it cannot be told from one whose last write still goes on.
        let letting_go = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(first);
        });
        child.kill().unwrap();
        take(&path).unwrap();
        letting_go.join().unwrap();
        child.wait().unwrap();
    }

    // A script that started a server again at once after it had asked it to end was told to stop it first.
    #[test]
    fn who_says_that_it_ends_is_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("LOCK");
        let first = take(&path).unwrap();
        let letting_go = std::thread::spawn(move || {
            // It hears of it a moment later.
            std::thread::sleep(HEARING_MAX / 3);
            first.ends();
            std::thread::sleep(2 * HEARING_MAX);
            drop(first);
        });
        let second = take(&path).unwrap();
        letting_go.join().unwrap();
        let refused = take(&path).err().unwrap().to_string();
        assert!(refused.contains(&format!("process {};", std::process::id())), "{refused}");
        drop(second);
    }
}
