//! Old segments are given up and used again; the room is watched.

use super::*;
use crate::segment;

fn segment_names(disk: &SimDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| segment::number_in(name).is_some()).collect()
}

#[test]
fn released_segments_are_used_again_and_the_log_stops_growing() {
    let (disk, mut journal) = log_of(1);
    let keeper = journal.keeper();
    for batch in 1..200 {
        keeper.prepare().unwrap();
        append(&mut journal, batch).unwrap();
        keeper.release(label(batch).last_revision);
        assert!(keeper.size_bytes() <= 4 * 4096, "one is written, one is ready, one is kept, one may go");
    }
    assert!(segment_names(&disk).len() <= 4);
    assert!(keeper.oldest_revision() > 570);
    read_all(&journal);
    drop((journal, keeper));
    let (journal, recovered) = open(&disk);
    assert_eq!(recovered.tail.revision, 600);
    assert_eq!(recovered.cut, None, "nothing of the earlier use is taken for a torn write");
    read_all(&journal);
}

// Whoever tidied up made a segment, too, and whoever needed that one waited for him.
#[test]
fn who_tidies_up_makes_no_segment() {
    let (disk, journal) = log_of(30);
    let keeper = journal.keeper();
    assert!(segment_names(&disk).len() > 3 && !keeper.is_ready());
    keeper.release(label(29).last_revision);
    keeper.tidy().unwrap();
    assert_eq!((segment_names(&disk).len(), keeper.is_ready()), (2, false), "the last one, and one to be used again");
    assert_eq!(keeper.tail().revision, label(29).last_revision);
}

#[test]
fn old_frames_of_a_recycled_segment_are_never_taken_for_new_ones() {
    // The zeros that a recycled file was filled with never reached the disk, though it said so.
    let (disk, mut journal) = log_of(12);
    journal.keeper().prepare().unwrap();
    append(&mut journal, 12).unwrap();
    let tail = journal.tail();
    drop(journal);
    let names = segment_names(&disk);
    let old = disk.image(&names[0]).unwrap();
    let mut last = disk.image(&names[names.len() - 2]).unwrap();
    let end = crate::scan::data_end(&last, 512, 4096).unwrap();
    assert!(end <= 4096 - 512, "there is room behind the last frame");
    let from = usize::try_from(end).unwrap();
    last[from..].copy_from_slice(&old[512..512 + 4096 - from]);
    disk.put(&names[names.len() - 2], last);
    let (journal, recovered) = open(&disk);
    assert_eq!(recovered.tail, tail);
    let cut = recovered.cut.expect("the old frames are cut, and the cut is reported");
    assert!(matches!(cut.damage.flaw, Flaw::OtherSegment { found: 1, .. }), "{}", cut.damage);
    assert_eq!(read_all(&journal), 13);
}

/// A log whose frames have that size, of eight segments of four frames; how many writes it took to make each segment but the first: the
/// second before anything was appended, the others when the one before was begun.
fn writes_for_segments(disk: &SimDisk, frame_bytes: u64) -> Vec<u64> {
    let options = Options { segment_bytes: 4 * frame_bytes + 512, frame_bytes_max: frame_bytes, ..options() };
    let (mut journal, _) = Journal::open(Arc::new(disk.clone()), options.clone()).unwrap();
    let payload = vec![7; usize::try_from(journal.payload_bytes_max()).unwrap()];
    let keeper = journal.keeper();
    let mut writes = Vec::new();
    for batch in 0..32 {
        if batch == 0 || (batch > 4 && batch % 4 == 1) {
            let before = disk.counts().writes;
            keeper.prepare().unwrap();
            writes.push(disk.counts().writes - before);
        }
        journal.append_and_sync(label(batch), &[&payload]).unwrap();
        keeper.release(label(batch).last_revision);
    }
    drop((journal, keeper));
    let (journal, recovered) = Journal::open(Arc::new(disk.clone()), options).unwrap();
    assert_eq!(recovered.tail.revision, 96);
    assert_eq!(recovered.cut, None, "nothing of the earlier use is taken for a torn write");
    let mut reader = journal.keeper().reader(recovered.oldest_revision).unwrap();
    while let Some(frame) = reader.next_frame().unwrap() {
        assert!(frame.payload == payload);
    }
    writes
}

const LARGE: u64 = 256 * 1024;

#[test]
fn segments_for_large_frames_are_not_filled_with_zeros_that_would_be_written_over() {
    let writes = writes_for_segments(&SimDisk::new(1), LARGE);
    assert!(writes[0] > 1, "what frames come is not known yet: {writes:?}");
    assert!(writes[1..].iter().all(|writes| *writes == 1), "{writes:?}");
}

#[test]
fn segments_for_small_frames_are_filled_with_zeros_so_that_syncs_are_short() {
    let writes = writes_for_segments(&SimDisk::new(1), LARGE - 512);
    assert!(writes.iter().all(|writes| *writes > 1), "{writes:?}");
}

#[test]
fn where_a_file_system_can_not_note_zeros_they_are_written() {
    let disk = SimDisk::new(1);
    disk.refuse_to_zero();
    let writes = writes_for_segments(&disk, LARGE);
    assert!(writes.iter().all(|writes| *writes > 1), "{writes:?}");
}

#[test]
fn only_whole_segments_below_the_released_revision_go() {
    for released in 0..60 {
        let (_disk, mut journal) = log_of(20);
        let keeper = journal.keeper();
        keeper.release(released);
        // Never backwards.
        keeper.release(released / 2);
        for batch in 20..30 {
            keeper.prepare().unwrap();
            append(&mut journal, batch).unwrap();
            assert!(keeper.oldest_revision() <= released + 1, "released up to {released}");
        }
        read_all(&journal);
    }
    let (_disk, mut journal) = log_of(20);
    let keeper = journal.keeper();
    keeper.release(u64::MAX);
    for batch in 20..30 {
        keeper.prepare().unwrap();
        append(&mut journal, batch).unwrap();
    }
    let oldest = keeper.oldest_revision();
    assert!(oldest > 30 && oldest <= 61, "what is not written yet cannot be released: the log begins at {oldest}");
    let error = keeper.reader(1).err().unwrap();
    assert!(matches!(error, ReadError::Retired { asked: 1, oldest: found } if found == oldest), "{error}");
}

#[test]
fn what_is_held_for_who_has_not_got_it_is_counted_in_whole_segments() {
    let (_disk, journal) = log_of(20);
    let keeper = journal.keeper();
    keeper.prepare().unwrap();
    let mut ends = std::collections::BTreeMap::new();
    let mut reader = keeper.reader(1).unwrap();
    while let Some(frame) = reader.next_frame().unwrap() {
        ends.insert(frame.segment, frame.last_revision);
    }
    ends.pop_last();
    assert!(ends.len() > 2, "{ends:?}");
    let segment_bytes = options().segment_bytes;
    assert_eq!(keeper.held_bytes(0), keeper.size_bytes() - 2 * segment_bytes, "one is written, one is ready");
    for released in 0..=60 {
        let held = ends.values().filter(|last| **last > released).count() as u64;
        assert_eq!(keeper.held_bytes(released), held * segment_bytes, "released up to {released}");
    }
    assert_eq!(keeper.held_bytes(u64::MAX), 0);
}

#[test]
fn the_hash_of_a_frame_is_known_as_long_as_the_one_behind_it_is_there() {
    let (_disk, mut journal) = log_of(20);
    let keeper = journal.keeper();
    let hashes = hashes_of(&keeper);
    assert_hashes(&keeper, &hashes, 0);
    assert_eq!(hashes.last().unwrap().1, journal.tail().hash);
    keeper.release(30);
    for batch in 20..30 {
        keeper.prepare().unwrap();
        append(&mut journal, batch).unwrap();
    }
    let before_oldest = keeper.oldest_revision() - 1;
    assert!(before_oldest > 0);
    assert_hashes(&keeper, &hashes, before_oldest);
}

// A segment whose file had been moved away, though that failed, was put back among those that are there: who read from the oldest revision on looked
// for a file that was gone.
#[test]
fn what_the_log_says_that_it_has_is_there_whichever_change_of_names_fails() {
    for (before, seed) in (0..20).flat_map(|before| (0..4).map(move |seed| (before, seed))) {
        let disk = SimDisk::new(seed);
        let (mut journal, _) = open(&disk);
        let keeper = journal.keeper();
        disk.fail(crate::disk::SimOperation::Name, before, std::io::ErrorKind::Other);
        for batch in 0..60 {
            let _later = keeper.prepare();
            // Nothing was written where there was no segment.
            append(&mut journal, batch).or_else(|_| append(&mut journal, batch)).unwrap();
            assert_eq!(read_all(&journal), batch + 1, "change of names {before}, seed {seed}");
            keeper.release(label(batch).last_revision);
        }
        assert_eq!(disk.strikes().failures, 1);
        keeper.prepare().unwrap();
        assert!(segment_names(&disk).len() <= 4, "change of names {before}, seed {seed}: {:?}", disk.names());
        drop((journal, keeper));
        let (journal, recovered) = open(&disk);
        assert_eq!((recovered.tail.revision, recovered.cut.is_none()), (180, true));
        read_all(&journal);
    }
}

#[test]
fn a_reader_keeps_what_it_still_needs() {
    let (_disk, mut journal) = log_of(12);
    let keeper = journal.keeper();
    let mut reader = keeper.reader(1).unwrap();
    reader.next_frame().unwrap().unwrap();
    keeper.release(36);
    for batch in 12..30 {
        keeper.prepare().unwrap();
        append(&mut journal, batch).unwrap();
    }
    let mut batches = 1;
    while let Some(frame) = reader.next_frame().unwrap() {
        assert_is_batch(&frame);
        batches += 1;
    }
    assert_eq!(batches, 30);
    assert_eq!(keeper.oldest_revision(), 1);
    drop(reader);
    keeper.prepare().unwrap();
    keeper.prepare().unwrap();
    assert!(keeper.oldest_revision() > 1);
}

#[test]
fn space_is_low_before_the_disk_is_full_and_comes_back() {
    let (disk, journal) = log_of(1);
    let keeper = journal.keeper();
    assert!(matches!(keeper.space().unwrap(), Space::Ok { .. }));
    let used = 100 * 1024 * 1024;
    disk.set_capacity(Some(used));
    assert!(matches!(keeper.space().unwrap(), Space::Ok { .. }));
    disk.set_capacity(Some(64 * 1024 * 1024));
    let Space::Low { free_bytes, needed_bytes } = keeper.space().unwrap() else { panic!("it is low") };
    assert!(free_bytes < needed_bytes && needed_bytes == 64 * 1024 * 1024);
    disk.set_capacity(None);
    assert!(matches!(keeper.space().unwrap(), Space::Ok { .. }));
}

#[test]
fn a_full_disk_stops_the_log_without_doubt_about_any_batch_and_room_lets_it_go_on() {
    let (disk, mut journal) = log_of(1);
    journal.keeper().prepare().unwrap();
    // What is made beforehand can still be filled.
    disk.set_capacity(Some(0));
    let mut batch = 1;
    let error = loop {
        match append(&mut journal, batch) {
            Ok(_) => batch += 1,
            Err(error) => break error,
        }
    };
    assert!(batch > 5, "the ready segment was used: {batch} batches");
    assert!(matches!(error, AppendError::NoSegment(_)), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("the disk is full: make room"), "{source}");
    let used = disk.names().iter().map(|name| disk.image(name).unwrap().len() as u64).sum::<u64>();
    disk.set_capacity(Some(used + 4095));
    let failed = journal.keeper().prepare().unwrap_err();
    assert!(failed.source.is_full());
    assert!(!disk.names().contains(&segment::SPARE.to_owned()), "the file that did not fit is gone");
    assert_eq!(read_all(&journal), batch);
    disk.set_capacity(None);
    append(&mut journal, batch).unwrap();
    assert_eq!(read_all(&journal), batch + 1);
}

// It counted as there for as long as the server ran: nothing could be appended any more, on a disk with room.
#[test]
fn a_ready_segment_that_is_removed_is_made_anew() {
    let (disk, mut journal) = log_of(1);
    journal.keeper().prepare().unwrap();
    disk.erase(&segment::name(2));
    for batch in 1..30 {
        append(&mut journal, batch).unwrap();
    }
    assert_eq!(read_all(&journal), 30);
}

#[test]
fn a_change_of_the_segment_size_applies_to_new_segments() {
    let (disk, journal) = log_of(5);
    journal.keeper().prepare().unwrap();
    drop(journal);
    for segment_bytes in [8192, 2560] {
        let options = Options { segment_bytes, frame_bytes_max: segment_bytes - 512, ..options() };
        let (mut journal, recovered) = Journal::open(Arc::new(disk.clone()), options).unwrap();
        let start = batches_in(recovered.tail.revision);
        for batch in start..start + 12 {
            append(&mut journal, batch).unwrap();
            journal.keeper().prepare().unwrap();
        }
        let most = usize::try_from(journal.payload_bytes_max()).unwrap();
        let error = journal.append(label(0), &[&vec![1; most]]).unwrap_err();
        assert!(matches!(error, AppendError::OutOfOrder { .. }), "the size is accepted: {error}");
        assert_eq!(read_all(&journal), start + 12);
    }
    let (journal, _) = open(&disk);
    assert_eq!(read_all(&journal), 29);
}

#[test]
fn a_ready_segment_of_a_smaller_size_does_not_limit_the_next_batch() {
    let (disk, journal) = log_of(1);
    journal.keeper().prepare().unwrap();
    drop(journal);
    let options = Options { segment_bytes: 8192, frame_bytes_max: 7680, ..options() };
    let (mut journal, _) = Journal::open(Arc::new(disk), options).unwrap();
    journal.append_and_sync(label(1), &[&[7; 7000]]).unwrap();
    assert_eq!(journal.tail().revision, 6);
}
