//! The lock of an agent's directory: one agent at a time, and its successor waits for one that ends.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek},
    os::unix::fs::FileExt,
    path::Path,
    thread::{self, sleep},
    time::{Duration, Instant},
};

/// How long an agent that says that it ends is waited for: what it takes to say farewell, or to stop tasks that obey.
const ENDING_MAX: Duration = Duration::from_secs(30);
/// How long any is: one that was asked to end a moment ago may not have heard of it yet.
const HEARING_MAX: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);
/// What stands in the file while its agent ends.
const ENDS: &str = "ends\n";

/// Goes with the open file, also when the process is killed.
pub(super) struct Lock(File);

impl Lock {
    /// Locks the file, made when it is not there. Waits for nobody who goes on, and if told so for an agent that ends.
    pub(super) fn take(path: &Path, waits: bool) -> Result<Self, TryLockError> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(TryLockError::Error)?;
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
