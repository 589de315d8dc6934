//! Batches go in, come back, and are refused for good reasons.

use super::*;
use crate::disk::SimOperation;
use crate::segment;
use std::io;

#[test]
fn what_was_appended_is_read_back_after_a_restart() {
    let (disk, journal) = log_of(20);
    assert_eq!(read_all(&journal), 20);
    drop(journal);
    let (journal, recovered) = open(&disk);
    assert_eq!(recovered.tail, journal.tail());
    assert_eq!((recovered.tail.revision, recovered.frames, recovered.cut), (60, 20, None));
    assert!(!recovered.created);
    assert_eq!(read_all(&journal), 20);
}

#[test]
fn a_batch_is_one_write_and_one_sync() {
    let (disk, mut journal) = log_of(1);
    journal.keeper().prepare().unwrap();
    let before = disk.counts();
    append(&mut journal, 1).unwrap();
    let after = disk.counts();
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (1, 1));
}

#[test]
fn a_prepared_segment_costs_the_commit_path_only_its_header() {
    let (disk, mut journal) = log_of(1);
    let mut most = (0, 0);
    for batch in 1..30 {
        journal.keeper().prepare().unwrap();
        let before = disk.counts();
        append(&mut journal, batch).unwrap();
        let after = disk.counts();
        assert_eq!(after.names, before.names, "no name changes on the commit path");
        most = most.max((after.writes - before.writes, after.syncs - before.syncs));
    }
    assert_eq!(most, (2, 2), "segments changed, with one header each");
}

#[test]
fn a_payload_may_come_in_pieces_or_be_encoded_in_place() {
    let (_disk, mut journal) = log_of(0);
    let whole = payload(0);
    let (left, right) = whole.split_at(40);
    journal.append_and_sync(label(0), &[left, &[], right]).unwrap();
    journal.append_with(label(1), |buffer| buffer.extend_from_slice(&payload(1))).unwrap();
    journal.sync().unwrap();
    assert_eq!(read_all(&journal), 2);
}

#[test]
fn an_empty_payload_is_a_batch_too() {
    let (_disk, mut journal) = log_of(0);
    journal.append_and_sync(label(0), &[]).unwrap();
    let mut reader = journal.keeper().reader(1).unwrap();
    assert!(reader.next_frame().unwrap().unwrap().payload.is_empty());
}

#[test]
fn readers_see_a_batch_only_when_it_is_durable() {
    let (_disk, mut journal) = log_of(1);
    let mut reader = journal.keeper().reader(4).unwrap();
    journal.append(label(1), &[&payload(1)]).unwrap();
    assert!(reader.next_frame().unwrap().is_none());
    journal.sync().unwrap();
    assert_is_batch(&reader.next_frame().unwrap().unwrap());
    assert!(reader.next_frame().unwrap().is_none());
}

#[test]
fn a_reader_begins_with_the_frame_that_holds_its_revision() {
    let (_disk, journal) = log_of(20);
    let keeper = journal.keeper();
    for revision in 1..=60 {
        let mut reader = keeper.reader(revision).unwrap();
        let frame = reader.next_frame().unwrap().unwrap();
        assert!((frame.first_revision..=frame.last_revision).contains(&revision), "revision {revision}");
        assert_is_batch(&frame);
    }
    assert!(keeper.reader(61).unwrap().next_frame().unwrap().is_none());
    assert!(matches!(keeper.reader(62).err().unwrap(), ReadError::Ahead { asked: 62, last: 60 }));
}

/// A log of three batches of which a reader has read two; then so many others ended, far from there, and the first batch was damaged.
fn log_with_readers_that_ended(others: u32) -> Journal {
    let (disk, journal) = log_of(3);
    let keeper = journal.keeper();
    let mut reader = keeper.reader(1).unwrap();
    for _ in 0..2 {
        assert_is_batch(&reader.next_frame().unwrap().unwrap());
    }
    drop(reader);
    for _ in 0..others {
        assert!(keeper.reader(1).unwrap().next_frame().unwrap().is_some());
    }
    disk.overwrite(&segment::name(1), segment::FIRST_FRAME_AT, &[0xff; 8]);
    journal
}

// Each message of what a watcher had missed was looked for from the beginning of its segment: with large ones, a million reads for some thousand revisions.
#[test]
fn who_goes_on_where_a_reader_ended_looks_at_nothing_before_that() {
    let journal = log_with_readers_that_ended(1000);
    let keeper = journal.keeper();
    for revision in 4..=9 {
        let mut reader = keeper.reader(revision).unwrap();
        let frame = reader.next_frame().unwrap().unwrap();
        assert!((frame.first_revision..=frame.last_revision).contains(&revision), "revision {revision}");
        assert_is_batch(&frame);
    }
    let mut before = keeper.reader(3).unwrap();
    assert!(matches!(before.next_frame(), Err(ReadError::Damaged(_))), "who reads it finds it");
}

// Each reader goes through all that is remembered, and who appends waits for that.
#[test]
fn where_a_reader_ended_is_forgotten_when_very_many_others_have_since() {
    let journal = log_with_readers_that_ended(1100);
    let mut reader = journal.keeper().reader(4).unwrap();
    assert!(matches!(reader.next_frame(), Err(ReadError::Damaged(_))), "it is looked for from the beginning");
}

#[test]
fn labels_that_do_not_continue_the_log_are_refused_without_effect() {
    let (_disk, mut journal) = log_of(6);
    let right = label(6);
    let gap = BatchLabel { first_revision: 20, ..right };
    assert!(matches!(journal.append(gap, &[]).unwrap_err(), AppendError::OutOfOrder { expected: 19, found: 20 }));
    let empty = BatchLabel { last_revision: 18, ..right };
    assert!(matches!(journal.append(empty, &[]).unwrap_err(), AppendError::Empty { first: 19, last: 18 }));
    let old = BatchLabel { term: 1, ..right };
    assert!(matches!(journal.append(old, &[]).unwrap_err(), AppendError::OldTerm { expected: 2, found: 1 }));
    append(&mut journal, 6).unwrap();
    assert_eq!(read_all(&journal), 7);
}

#[test]
fn a_second_batch_in_flight_is_refused() {
    let (_disk, mut journal) = log_of(0);
    journal.append(label(0), &[&payload(0)]).unwrap();
    assert!(matches!(journal.append(label(1), &[]).unwrap_err(), AppendError::InFlight { last_revision: 3 }));
    journal.sync().unwrap();
    append(&mut journal, 1).unwrap();
}

#[test]
fn the_largest_batch_fits_and_one_byte_more_is_refused() {
    let (_disk, mut journal) = log_of(0);
    let most = usize::try_from(journal.payload_bytes_max()).unwrap();
    let error = journal.append(label(0), &[&vec![1; most], &[1]]).unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { found_bytes: 2049, most_bytes: 2048 }), "{error}");
    let error = journal.append_with(label(0), |buffer| buffer.resize(buffer.len() + most + 1, 1)).unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { .. }), "{error}");
    journal.append_and_sync(label(0), &[&vec![1; most]]).unwrap();
}

#[test]
fn after_a_failed_sync_everything_answers_outcome_unknown() {
    let (disk, mut journal) = log_of(3);
    disk.fail(SimOperation::Sync, 0, io::ErrorKind::Other);
    for _ in 0..3 {
        let error = append(&mut journal, 3).unwrap_err();
        assert!(matches!(error, AppendError::OutcomeUnknown { last_revision: 12, .. }), "{error}");
    }
    assert!(matches!(journal.sync().unwrap_err(), AppendError::OutcomeUnknown { .. }));
    let source = std::error::Error::source(&journal.sync().unwrap_err()).unwrap().to_string();
    assert!(source.contains("sync of 00000000000000000001.segment failed"), "{source}");
    let oversized = journal.append(label(3), &[&[0; 5000]]).unwrap_err();
    assert!(matches!(oversized, AppendError::OutcomeUnknown { .. }), "{oversized}");
    assert_eq!(journal.tail().revision, 9, "what was durable before is still readable");
    assert_eq!(read_all(&journal), 3);
}

#[test]
fn after_a_failed_write_everything_answers_outcome_unknown() {
    let (disk, mut journal) = log_of(3);
    disk.fail(SimOperation::Write, 0, io::ErrorKind::Other);
    assert!(matches!(append(&mut journal, 3).unwrap_err(), AppendError::OutcomeUnknown { .. }));
    assert!(matches!(append(&mut journal, 3).unwrap_err(), AppendError::OutcomeUnknown { .. }));
}

#[test]
fn settings_out_of_bounds_are_refused_with_their_bounds() {
    let refused = |options| {
        let disk = Arc::new(SimDisk::new(0));
        Journal::open(disk, options).err().unwrap().to_string()
    };
    let odd = refused(Options { segment_bytes: 5000, ..options() });
    assert!(odd.contains("segment_bytes: expected a multiple of 512"), "{odd}");
    let large = refused(Options { frame_bytes_max: 4000, ..options() });
    assert!(large.contains("frame_bytes_max: expected 81 to 3584"), "{large}");
    refused(Options { segment_bytes: 0, ..options() });
    refused(Options { frame_bytes_max: 0, ..options() });
}
