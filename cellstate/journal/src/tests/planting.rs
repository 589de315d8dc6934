//! A log that begins in the middle goes on from there, and is guarded like any other.

use super::*;
use crate::disk::SimOperation;
use std::io;
use std::sync::Mutex;

const TAIL: Tail = Tail { revision: 30, term: 4, hash: ChainHash([7; 32]) };

fn identity() -> Identity {
    Identity { cell: CELL, incarnation: 2 }
}

fn planted() -> SimDisk {
    let disk = SimDisk::new(1);
    plant(&disk, identity(), TAIL, &options()).unwrap();
    disk
}

#[test]
fn a_planted_log_goes_on_after_its_tail_through_restarts_and_recycling() {
    let disk = planted();
    for start in [10, 25] {
        let (mut journal, recovered) = open(&disk);
        assert_eq!((recovered.created, recovered.identity), (false, identity()));
        if start == 10 {
            assert_eq!((recovered.tail, recovered.oldest_revision, recovered.frames), (TAIL, 31, 0));
            let error = journal.keeper().reader(30).err().unwrap();
            assert!(matches!(error, ReadError::Retired { asked: 30, oldest: 31 }), "{error}");
        }
        for batch in start..start + 15 {
            let label = BatchLabel { term: 5, ..label(batch) };
            journal.append_and_sync(label, &[&payload(batch)]).unwrap();
            journal.keeper().release(label.first_revision.saturating_sub(7));
            journal.keeper().prepare().unwrap();
        }
    }
    let report = verify(&disk, Some(CELL), &mut |_| {}).unwrap();
    assert!(report.is_sound() && report.tail.revision == 120, "{report:?}");
}

/// A disk that notes which names there were in the directory when its own was made durable.
struct Watched {
    disk: SimDisk,
    names: Mutex<Option<Vec<String>>>,
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
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        self.disk.sync_dir()
    }

    fn sync_name(&self) -> Result<(), DiskError> {
        self.names.lock().unwrap().get_or_insert_with(|| self.disk.names());
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.disk.free_bytes()
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError> {
        self.disk.lock(name)
    }
}

// A new cell saw to it, and a restore did not where somebody had made the directory a moment before: all that was acknowledged in it could have gone
// with the name of that.
#[test]
fn the_name_of_a_directory_is_durable_before_it_is_a_log() {
    for is_planted in [false, true] {
        let disk = Arc::new(Watched { disk: SimDisk::new(1), names: Mutex::default() });
        if is_planted {
            plant(&*disk, identity(), TAIL, &options()).unwrap();
        } else {
            drop(Journal::open(disk.clone(), options()).unwrap());
        }
        let names = disk.names.lock().unwrap().take().expect("it is made durable");
        assert!(!names.iter().any(|name| name == IDENTITY_FILE), "{names:?}");
        assert!(disk.disk.names().iter().any(|name| name == IDENTITY_FILE));
    }
}

#[test]
fn a_planted_log_that_lost_its_segment_is_not_taken_for_a_new_one() {
    let disk = planted();
    disk.erase(&crate::segment::name(2));
    let error = try_open(&disk).err().unwrap();
    assert!(matches!(error, OpenError::EndsBeforeMark { last_revision: 0, mark_revision: 30, .. }), "{error}");
    let disk = planted();
    disk.flip_bit(&crate::segment::name(2), 72, 0);
    assert!(try_open(&disk).is_err());
}

// It counted as one that begins at revision 1, and lacks all up to its first frame.
#[test]
fn a_log_whose_only_header_is_lost_begins_with_its_first_frame() {
    let disk = planted();
    let (mut journal, _) = open(&disk);
    for batch in 10..12 {
        journal.append_and_sync(BatchLabel { term: 5, ..label(batch) }, &[&payload(batch)]).unwrap();
    }
    drop(journal);
    disk.flip_bit(&crate::segment::name(2), 72, 0);
    let report = verify(&disk, Some(CELL), &mut |_| {}).unwrap();
    assert_eq!((report.segments, report.oldest_revision, report.tail.revision), (0, 31, 36));
    assert_eq!(report.damages.len(), 1, "{:?}", report.damages);
}

#[test]
fn nothing_is_planted_where_something_is() {
    let (disk, journal) = log_of(1);
    drop(journal);
    let before: Vec<_> = disk.names().iter().map(|name| disk.image(name)).collect();
    let error = plant(&disk, identity(), TAIL, &options()).unwrap_err();
    assert!(matches!(error, OpenError::NotEmpty { .. }), "{error}");
    assert_eq!(before, disk.names().iter().map(|name| disk.image(name)).collect::<Vec<_>>());
}

#[test]
fn a_power_cut_or_a_failure_while_planting_leaves_a_whole_log_or_none() {
    let (mut none, mut whole) = (0, 0);
    let disk = SimDisk::new(0);
    plant(&disk, identity(), TAIL, &options()).unwrap();
    for step in 0..disk.steps() {
        for seed in 0..4 {
            let disk = SimDisk::new(seed);
            disk.crash_at_step(step, seed);
            let planted = plant(&disk, identity(), TAIL, &options()).is_ok();
            let disk = disk.reboot();
            let refuse_new = Options { create: None, ..options() };
            match Journal::open(Arc::new(disk), refuse_new) {
                Ok((_, recovered)) => {
                    assert_eq!(recovered.tail, TAIL);
                    whole += 1;
                }
                Err(OpenError::NoCell { .. } | OpenError::Orphaned { .. }) => {
                    assert!(!planted, "step {step}, seed {seed}: it was there");
                    none += 1;
                }
                Err(error) => panic!("step {step}, seed {seed}: {error}"),
            }
        }
    }
    assert!(none > 0 && whole > 0, "{none} and {whole}");
    for operation in [SimOperation::Write, SimOperation::Sync, SimOperation::SyncDir, SimOperation::Name] {
        let disk = SimDisk::new(1);
        disk.fail(operation, 0, io::ErrorKind::StorageFull);
        assert!(plant(&disk, identity(), TAIL, &options()).is_err());
    }
}
