//! Stories about whole logs on a simulated disk. Batch n holds revisions 3n+1 to 3n+3 unless a test says otherwise,
//! and its payload can be computed, so that whatever is read back can be judged without a record of it.

#![allow(clippy::unwrap_used)]

mod appending;
mod crashes;
mod damage;
mod exhaustive;
mod exhaustive_random;
mod identities;
mod kept;
mod planting;
mod real_files;
mod retention;
mod stand_in;
mod turns;
mod unreadable;

use crate::*;
use std::sync::Arc;

const CELL: CellId = CellId(*b"a cell for tests");
const REVISIONS_PER_BATCH: u64 = 3;

/// Segments of seven sectors of frames: a few batches each.
fn options() -> Options {
    Options { create: Some(CELL), segment_bytes: 4096, frame_bytes_max: 2048, ..Options::default() }
}

fn open(disk: &SimDisk) -> (Journal, Recovered) {
    try_open(disk).unwrap()
}

fn try_open(disk: &SimDisk) -> Result<(Journal, Recovered), OpenError> {
    Journal::open(Arc::new(disk.clone()), options())
}

fn label(batch: u64) -> BatchLabel {
    let first_revision = batch * REVISIONS_PER_BATCH + 1;
    BatchLabel { term: 1 + batch / 5, first_revision, last_revision: first_revision + REVISIONS_PER_BATCH - 1 }
}

/// One to three sectors' worth.
fn payload(batch: u64) -> Vec<u8> {
    let length = 100 + usize::try_from(batch * 389 % 1100).unwrap();
    (0..length).map(|at| u8::try_from((at * 7 + length) % 251).unwrap()).collect()
}

/// The hash of each frame from the first one on, and of what is before it, each by the last revision.
fn hashes_of(keeper: &Keeper) -> Vec<(u64, ChainHash)> {
    let mut hashes = vec![(0, ChainHash::default())];
    let mut reader = keeper.reader(1).unwrap();
    while let Some(frame) = reader.next_frame().unwrap() {
        hashes.push((frame.last_revision, frame.hash));
    }
    hashes
}

/// Each of these is known whose revision is that one or later, and none of a revision with which no frame ends.
fn assert_hashes(keeper: &Keeper, hashes: &[(u64, ChainHash)], known_from: u64) {
    for (revision, hash) in hashes {
        let known = Some(*hash).filter(|_| *revision >= known_from);
        assert_eq!(keeper.hash_at(*revision).unwrap(), known, "revision {revision}, known from {known_from} on");
        assert_eq!(keeper.hash_at(revision + 1).unwrap(), None, "no frame ends with revision {}", revision + 1);
    }
}

fn append(journal: &mut Journal, batch: u64) -> Result<Tail, AppendError> {
    journal.append_and_sync(label(batch), &[&payload(batch)])
}

fn batches_in(revision: u64) -> u64 {
    revision / REVISIONS_PER_BATCH
}

/// A log of that many batches whose mark is not flushed since it was opened.
fn log_of(batches: u64) -> (SimDisk, Journal) {
    let disk = SimDisk::new(1);
    let (mut journal, _) = open(&disk);
    for batch in 0..batches {
        append(&mut journal, batch).unwrap();
    }
    (disk, journal)
}

fn assert_is_batch(frame: &Frame<'_>) {
    let batch = batches_in(frame.first_revision);
    let expected = label(batch);
    assert_eq!(
        (frame.term, frame.first_revision, frame.last_revision),
        (expected.term, expected.first_revision, expected.last_revision)
    );
    assert!(frame.payload == payload(batch), "batch {batch} has its payload");
}

/// Reads everything from the oldest revision on, and checks that it is what was sent, without a gap.
fn read_all(journal: &Journal) -> u64 {
    let keeper = journal.keeper();
    let mut next = keeper.oldest_revision();
    let mut reader = keeper.reader(next).unwrap();
    while let Some(frame) = reader.next_frame().unwrap() {
        assert_eq!(frame.first_revision, next);
        assert_is_batch(&frame);
        next = frame.last_revision + 1;
    }
    assert_eq!(next, journal.tail().revision + 1, "the reader came to the end");
    batches_in(next)
}

/// What opening does with a copy of a disk is what `verify` says of it: it is refused; or what is torn is cut off and reported, does not
/// come back after a crash, and the log goes on there.
fn assert_open_agrees(disk: &SimDisk, options: fn() -> Options, payload: fn(u64) -> Vec<u8>, what: &str) {
    let told = verify(disk, None, &mut |_| {}).unwrap();
    let disk = disk.copy();
    let open = |disk: &SimDisk| Journal::open(Arc::new(disk.clone()), options());
    let (journal, recovered) = match open(&disk) {
        Ok(opened) => opened,
        Err(error) => return assert!(!told.is_sound(), "{what}: {error}"),
    };
    assert!(told.is_sound(), "{what}: {:?}", told.refused);
    assert_eq!((recovered.tail, recovered.cut), (told.tail, told.torn), "{what}");
    drop(journal);
    disk.crash(5);
    let (mut journal, again) = open(&disk.reboot()).unwrap();
    assert_eq!((again.tail, again.cut), (told.tail, None), "{what}: the cut came back");
    let batch = batches_in(told.tail.revision);
    journal.append_and_sync(label(batch), &[&payload(batch)]).unwrap();
    let keeper = journal.keeper();
    let mut next = keeper.oldest_revision();
    let mut reader = keeper.reader(next).unwrap();
    while let Some(frame) = reader.next_frame().unwrap() {
        let expected = payload(batches_in(next));
        assert!(frame.first_revision == next && frame.payload == expected, "{what}: what is read is what was sent");
        next = frame.last_revision + 1;
    }
    assert_eq!(next, label(batch).last_revision + 1, "{what}: it goes on where it was cut");
}
