//! The lock of an agent's directory: one agent at a time, and its successor waits for one that ends.

use std::{
    fs::{File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Seek},
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// How long an agent that says that it ends is waited for: what it takes to say farewell, or to stop tasks that obey.
const ENDING_MAX: Duration = Duration::from_secs(30);
/// How long any is: one that was asked to end a moment ago may not have heard of it yet.
const HEARING_MAX: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);
/// Who can open the file can lock it, and keep agents from their machine.
const FOR_THE_OWNER: u32 = 0o600;
/// What stands in the file while its agent ends.
const ENDS: &str = "ends\n";

/// Goes with the open file, also when the process is killed.
pub(super) struct Lock(File);

impl Lock {
    /// Locks the file, made when it is not there. Waits for nobody who goes on, and if told so for an agent that ends.
    pub(super) fn take(path: &Path, waits: bool) -> Result<Self, TryLockError> {
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(false).mode(FOR_THE_OWNER);
        let mut file = open.open(path).map_err(TryLockError::Error)?;
        // An earlier version let others open it. Where that can't be changed, the lock is as good as it was.
        let _ = file.set_permissions(Permissions::from_mode(FOR_THE_OWNER));
        let (begun, mut told) = (Instant::now(), false);
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(error) => return Err(error),
            }
            let patience = if waits && ends(&mut file) { ENDING_MAX } else { HEARING_MAX };
            if begun.elapsed() >= patience {
                return Err(TryLockError::WouldBlock);
            }
            if begun.elapsed() >= HEARING_MAX && !std::mem::replace(&mut told, true) {
                tracing::info!(path = %path.display(), "waits for the agent that is ending there");
            }
            sleep(PAUSE);
        }
        file.set_len(0).map_err(TryLockError::Error)?;
        Ok(Self(file))
    }

    /// Tells the next agent to wait; on a thread of its own, for which nobody waits. Who waited for a disk that takes nothing would neither say
    /// farewell nor stop its tasks, nor hear that it is to be quicker.
    pub(super) fn ends(&self) {
        // Where that can't be written, the next one is refused, as long as this one has not ended. The copy has the lock as well: nobody else's
        // file is written to.
        if let Ok(file) = self.0.try_clone() {
            // At its place and not where the file stands: several may write.
            drop(thread::Builder::new().spawn(move || drop(file.write_all_at(ENDS.as_bytes(), 0))));
        }
    }
}

fn ends(file: &mut File) -> bool {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| io::Read::take(file, 64).read_to_string(&mut text));
    read.is_ok() && text == ENDS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    // Whoever was on the machine could hold it, and once its agent had ended, the next one was told that another agent is there.
    #[test]
    fn nobody_but_the_owner_can_open_it() {
        let place = tempfile::tempdir().unwrap();
        let (new, earlier) = (place.path().join("new"), place.path().join("earlier"));
        File::create(&earlier).unwrap().set_permissions(Permissions::from_mode(0o644)).unwrap();
        for path in [new, earlier] {
            let _lock = Lock::take(&path, false).unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        }
    }

    // A script that started an agent again at once after it had asked it to end was told that another one has the directory.
    #[test]
    fn an_agent_that_ends_is_waited_for_and_no_other() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("lock");
        let first = Lock::take(&path, true).unwrap();
        let letting_go = std::thread::spawn(move || {
            sleep(HEARING_MAX / 10);
            // Asked twice, it says so twice.
            first.ends();
            first.ends();
            sleep(3 * HEARING_MAX);
            drop(first);
        });
        assert!(matches!(Lock::take(&path, false), Err(TryLockError::WouldBlock)));
        let _second = Lock::take(&path, true).unwrap();
        letting_go.join().unwrap();
        assert!(matches!(Lock::take(&path, true), Err(TryLockError::WouldBlock)));
    }
}
