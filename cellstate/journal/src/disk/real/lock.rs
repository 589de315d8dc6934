//! The lock of a directory: a file that one process at a time has locked, with its id in it.

use super::{DiskLock, LockError, failed, options};
use crate::format::count;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest text that is read from a lock file: a process id is far shorter.
const OWNER_BYTES_MAX: usize = 32;

/// How long whoever was killed is waited for: it keeps its files until its last write to the disk is over.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// Its place in the sets of pending signals.
const SIGKILL: u64 = 1 << 8;
/// How often it is looked at meanwhile.
const ENDING_PAUSE: Duration = Duration::from_millis(10);

/// The lock goes with the open file, also when the process is killed.
pub(super) struct RealLock(#[allow(dead_code, reason = "held for its lock")] File);

impl DiskLock for RealLock {}

/// Locks a file, made when it is not there. Waits for nobody who goes on; a process that was killed has the lock for a moment longer.
pub(super) fn take(path: &Path) -> Result<RealLock, LockError> {
    let file = options().create(true).open(path).map_err(failed("opening", path))?;
    let patience = Instant::now() + ENDING_MAX;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) => {}
            Err(other) => return Err(failed("locking", path)(other.into()).into()),
        }
        let owner = owner_in(&file);
        if !owner.as_deref().is_some_and(is_ending) || Instant::now() >= patience {
            let owner = owner.unwrap_or_else(|| "unknown".to_owned());
            return Err(LockError::Held { path: path.display().to_string(), owner });
        }
        std::thread::sleep(ENDING_PAUSE);
    }
    let owner = format!("{}\n", std::process::id());
    let write = || {
        file.write_all_at(owner.as_bytes(), 0)?;
        file.set_len(count(owner.len()))
    };
    write().map_err(failed("write", path))?;
    Ok(RealLock(file))
}

/// Who holds a lock, as far as its file tells.
fn owner_in(file: &File) -> Option<String> {
    let mut text = [0; OWNER_BYTES_MAX];
    let read = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..read)?).ok()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether a process has ended but for what the kernel still does for it. One that cannot be seen has ended since, or runs elsewhere.
fn is_ending(process: &str) -> bool {
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
    fn only_who_was_killed_or_cannot_be_seen_is_ending() {
        assert!(!is_ending(&std::process::id().to_string()));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = child.id().to_string();
        assert!(!is_ending(&process));
        child.kill().unwrap();
        // Killed, and then a zombie until it is waited for.
        assert!(is_ending(&process));
        child.wait().unwrap();
        assert!(is_ending(&process));
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
}
