//! Whatever stands in the files of a log, reading it takes no more memory at once than its largest file has bytes, and the size of one
//! read: no length on a disk is believed before the checksum that covers it. Counted by an allocator of this test's own, which is why it
//! is alone in its binary.
#![allow(clippy::unwrap_used)]

use plenum_journal::{BatchLabel, CellId, Journal, Options, RealDisk, verify};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, which remembers the largest piece.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator as it came.
#[allow(unsafe_code, reason = "an allocator can't be watched in another way")]
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: it was allocated above, by the system.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: it was allocated above, by the system.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

const SEGMENT_BYTES: u64 = 64 << 10;
/// What is read at once where a segment is walked, and some for names and messages.
const READ_BYTES: usize = 256 << 10;

fn options() -> Options {
    let create = Some(CellId([7; 16]));
    Options {
        create,
        segment_bytes: SEGMENT_BYTES,
        frame_bytes_max: 16 << 10,
        reserve_bytes: Some(0),
        ..Options::default()
    }
}

fn write_log(folder: &Path) -> Vec<std::path::PathBuf> {
    let disk = Arc::new(RealDisk::open(folder).unwrap());
    let (mut journal, _) = Journal::open(disk, options()).unwrap();
    for batch in 0..40 {
        let label = BatchLabel { term: 1, first_revision: batch + 1, last_revision: batch + 1 };
        journal.append_and_sync(label, &[&vec![0x5a; 4000]]).unwrap();
    }
    journal.high_water().flush().unwrap();
    drop(journal);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|kind| kind == "segment")).collect();
    segments.sort();
    segments
}

/// The largest piece of memory that was asked for meanwhile.
fn largest(work: impl FnOnce()) -> usize {
    LARGEST.store(0, Ordering::Relaxed);
    work();
    LARGEST.load(Ordering::Relaxed)
}

#[test]
fn no_length_on_the_disk_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let segments = write_log(folder.path());
    let sound = std::fs::read(&segments[0]).unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    let most = READ_BYTES.max(sound.len());
    assert!(largest(|| assert!(verify(&disk, None, &mut |_| {}).unwrap().is_sound())) <= most);

    // Each length that a frame's head could claim, with a checksum that makes the head a whole one.
    for claimed in [0, 1, 4001, 65_000, 1 << 20, 1 << 30, u32::MAX - 600, u32::MAX] {
        let mut forged = sound.clone();
        forged[512 + 4..512 + 8].copy_from_slice(&claimed.to_le_bytes());
        let crc = crc32fast::hash(&forged[512..512 + 72]);
        forged[512 + 72..512 + 76].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&segments[0], &forged).unwrap();
        let taken = largest(|| assert!(!verify(&disk, None, &mut |_| {}).unwrap().is_sound(), "{claimed}"));
        assert!(taken <= most, "{taken} bytes at once for a length of {claimed}");
    }
    // A header that claims any size of its file.
    for claimed in [0, 1, u64::MAX / 2, u64::MAX] {
        let mut forged = sound.clone();
        forged[64..72].copy_from_slice(&claimed.to_le_bytes());
        let crc = crc32fast::hash(&forged[..508]);
        forged[508..512].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&segments[0], &forged).unwrap();
        let taken = largest(|| assert!(!verify(&disk, None, &mut |_| {}).unwrap().is_sound(), "{claimed}"));
        assert!(taken <= most, "{taken} bytes at once for a size of {claimed}");
    }
    // Nothing that makes sense at all.
    let mut junk = sound;
    let mut state = 1_u64;
    for byte in &mut junk[512..] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = state.to_be_bytes()[0];
    }
    std::fs::write(&segments[0], &junk).unwrap();
    let taken = largest(|| assert!(!verify(&disk, None, &mut |_| {}).unwrap().is_sound()));
    assert!(taken <= most, "{taken} bytes at once for junk");
}
