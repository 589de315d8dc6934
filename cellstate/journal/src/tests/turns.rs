//! Whoever needs the next segment while released ones are removed waits for one of these, and not for all.

use super::*;
use crate::segment;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};

/// A disk that notes what becomes of segments, and lets somebody come while the next one is removed.
struct Watched {
    disk: SimDisk,
    happened: Mutex<Vec<&'static str>>,
    comes: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Disk for Watched {
    fn place(&self) -> String {
        self.disk.place()
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.disk.list()
    }

    fn open(&self, name: &str, mode: OpenMode) -> Result<Box<dyn DiskFile>, DiskError> {
        self.disk.open(name, mode)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        if from == segment::SPARE {
            self.happened.lock().unwrap().push("made");
        }
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let comes = self.comes.lock().unwrap().take();
        if let Some(comes) = comes {
            comes();
        }
        self.happened.lock().unwrap().push("removed");
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        self.disk.sync_dir()
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.disk.free_bytes()
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError> {
        self.disk.lock(name)
    }
}

/// Comes back once a thread sleeps.
fn until_it_sleeps(thread: &Path) {
    let sleeps = || {
        let stat = std::fs::read_to_string(thread.join("stat")).unwrap();
        // Its name, in parentheses, comes before its state.
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'))
    };
    while !sleeps() {
        std::thread::yield_now();
    }
}

// The lock was let go of for each file, and taken again before whoever waited for it was awake: the commit path waited for all of them,
// for seconds where much of the past was given up at once.
#[test]
fn who_needs_the_next_segment_waits_for_one_that_is_removed_and_not_for_all() {
    let (happened, comes) = (Mutex::default(), Mutex::default());
    let disk = Arc::new(Watched { disk: SimDisk::new(1), happened, comes });
    let (mut journal, _) = Journal::open(disk.clone(), options()).unwrap();
    for batch in 0..30 {
        append(&mut journal, batch).unwrap();
    }
    let keeper = journal.keeper();
    keeper.release(label(29).last_revision);
    assert!(!keeper.is_ready());
    let (came, coming) = mpsc::channel();
    let preparing = keeper.clone();
    *disk.comes.lock().unwrap() = Some(Box::new(move || {
        let (begins, begun) = mpsc::channel::<PathBuf>();
        let thread = std::thread::spawn(move || {
            begins.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            preparing.prepare().unwrap();
        });
        // It has nothing to wait for but its turn.
        until_it_sleeps(&Path::new("/proc").join(begun.recv().unwrap()));
        came.send(thread).unwrap();
    }));
    disk.happened.lock().unwrap().clear();
    keeper.tidy().unwrap();
    coming.try_recv().unwrap().join().unwrap();
    let happened = disk.happened.lock().unwrap();
    assert!(happened.len() > 3, "{happened:?}");
    assert_eq!(happened[..2], ["removed", "made"], "{happened:?}");
}
