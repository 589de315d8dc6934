//! Released segments stay until they are given up, and what they hold is read by its place.

use super::crashes::seeds;
use super::*;
use crate::disk::SimOperation;
use crate::segment;
use std::collections::{BTreeMap, BTreeSet};

fn keeping() -> Options {
    Options { keep_released: true, ..options() }
}

fn open_keeping(disk: &SimDisk) -> (Journal, Recovered) {
    Journal::open(Arc::new(disk.clone()), keeping()).unwrap()
}

/// Where each batch stands, by its number.
type Places = BTreeMap<u64, FramePlace>;

fn append_placed(journal: &mut Journal, batch: u64, places: &mut Places) -> Result<(), AppendError> {
    append(journal, batch)?;
    let first = label(batch).first_revision;
    let place =
        journal.keeper().places_from(first, 1).first().filter(|(found, _)| *found == first).map(|(_, place)| *place);
    places.insert(batch, place.expect("it is the newest one"));
    Ok(())
}

fn range(batch: u64, place: FramePlace) -> FrameRange {
    let FramePlace { segment, offset, bytes } = place;
    let BatchLabel { first_revision, last_revision, .. } = label(batch);
    FrameRange { segment, offset, bytes, first_revision, last_revision }
}

fn assert_reads(archive: &Archive, batch: u64, place: FramePlace) {
    let read = archive.read(&range(batch, place)).unwrap_or_else(|error| panic!("batch {batch}: {error}"));
    let (first, last, at) = read.frames[0].clone();
    assert_eq!((read.frames.len(), first, last), (1, label(batch).first_revision, label(batch).last_revision));
    assert!(read.bytes[at] == payload(batch), "batch {batch} has its payload");
}

/// Of each segment's number there are files of how many names.
fn names_of_segments(disk: &SimDisk) -> BTreeMap<u64, usize> {
    let mut names = BTreeMap::new();
    for name in disk.names() {
        if let Some(number) = segment::number_in(&name).or_else(|| segment::kept_number_in(&name)) {
            *names.entry(number).or_default() += 1;
        }
    }
    names
}

/// Thirty batches of which the first are released, and the log tidied up.
fn log_that_keeps(released: u64) -> (SimDisk, Journal, Places) {
    let disk = SimDisk::new(1);
    let (mut journal, _) = open_keeping(&disk);
    let mut places = Places::new();
    for batch in 0..30 {
        append_placed(&mut journal, batch, &mut places).unwrap();
    }
    journal.keeper().release(released);
    journal.keeper().prepare().unwrap();
    (disk, journal, places)
}

#[test]
fn what_is_released_is_read_by_its_place_before_and_after_a_restart() {
    let (disk, journal, places) = log_that_keeps(60);
    let keeper = journal.keeper();
    assert!(keeper.oldest_revision() > 1 && keeper.oldest_revision() <= 61);
    assert_eq!(keeper.oldest_kept_revision(), 1);
    assert!(keeper.kept_bytes() > 0);
    places.iter().for_each(|(batch, place)| assert_reads(&keeper.archive(), *batch, *place));
    let (oldest, kept_bytes) = (keeper.oldest_revision(), keeper.kept_bytes());
    drop((journal, keeper));
    let (journal, recovered) = open_keeping(&disk);
    assert_eq!(recovered.oldest_revision, oldest, "what is kept is not walked");
    assert_eq!((journal.keeper().oldest_kept_revision(), journal.keeper().kept_bytes()), (1, kept_bytes));
    places.iter().for_each(|(batch, place)| assert_reads(&journal.keeper().archive(), *batch, *place));
}

#[test]
fn frames_that_follow_each_other_are_read_at_once() {
    let (_disk, journal, places) = log_that_keeps(60);
    let in_first: Vec<(u64, FramePlace)> = places.into_iter().filter(|(_, place)| place.segment == 1).collect();
    let ((first, from), (last, _)) = (in_first[0], in_first[in_first.len() - 1]);
    let bytes = in_first.iter().map(|(_, place)| place.bytes).sum();
    let last_revision = label(last).last_revision;
    let all = FrameRange { bytes, last_revision, ..range(first, from) };
    let read = journal.keeper().archive().read(&all).unwrap();
    assert_eq!(read.frames.len(), in_first.len());
    for ((_, _, at), (batch, _)) in read.frames.iter().zip(&in_first) {
        assert!(read.bytes[at.clone()] == payload(*batch));
    }
    let too_far = FrameRange { last_revision: last_revision + 1, ..all };
    assert!(matches!(journal.keeper().archive().read(&too_far), Err(ReadError::Damaged(_))));
}

#[test]
fn what_is_given_up_is_used_again_oldest_first_and_no_longer_read() {
    let (disk, mut journal, mut places) = log_that_keeps(60);
    let keeper = journal.keeper();
    keeper.give_up(30);
    keeper.give_up(3);
    let before = keeper.kept_bytes();
    for batch in 30..60 {
        keeper.prepare().unwrap();
        append_placed(&mut journal, batch, &mut places).unwrap();
    }
    assert!(keeper.oldest_kept_revision() > 1 && keeper.oldest_kept_revision() <= 30);
    assert!(keeper.kept_bytes() < before, "nothing more was released");
    for (batch, place) in &places {
        if label(*batch).first_revision >= keeper.oldest_kept_revision() {
            assert_reads(&keeper.archive(), *batch, *place);
        }
    }
    let error = keeper.archive().read(&range(0, places[&0])).unwrap_err();
    assert!(matches!(&error, ReadError::Damaged(damage) if damage.offset == places[&0].offset), "{error}");
    assert_eq!(read_all(&journal), 60);
    assert!(names_of_segments(&disk).values().all(|names| *names == 1));
}

// As soon as it was kept, nothing told of which past a fallback is that shows so old a revision.
#[test]
fn the_hash_of_a_frame_is_known_as_long_as_the_one_behind_it_is_kept() {
    let (disk, mut journal, _) = log_that_keeps(0);
    let keeper = journal.keeper();
    let hashes = hashes_of(&keeper);
    keeper.release(60);
    keeper.prepare().unwrap();
    assert!(keeper.oldest_revision() > 30 && keeper.oldest_kept_revision() == 1);
    assert_hashes(&keeper, &hashes, 0);
    // One whose header is lost tells nothing.
    disk.flip_bit(&segment::kept_name(1), 3, 1);
    assert_eq!(keeper.hash_at(0).unwrap(), None);
    keeper.give_up(30);
    for batch in 30..60 {
        keeper.prepare().unwrap();
        append(&mut journal, batch).unwrap();
    }
    let before_oldest = keeper.oldest_kept_revision() - 1;
    assert!(before_oldest > 0);
    assert_hashes(&keeper, &hashes, before_oldest);
}

#[test]
fn a_cell_that_gives_up_as_it_goes_does_not_grow() {
    let disk = SimDisk::new(1);
    let (mut journal, _) = open_keeping(&disk);
    let keeper = journal.keeper();
    for batch in 0..400 {
        append(&mut journal, batch).unwrap();
        keeper.release(label(batch).last_revision);
        keeper.give_up(label(batch).first_revision.saturating_sub(60));
        keeper.prepare().unwrap();
        let files = names_of_segments(&disk).len();
        assert!(files < 16 + 16, "{files} files of segments");
    }
    assert!(keeper.oldest_kept_revision() > 800);
}

#[test]
fn the_newest_frames_are_found_without_a_look_at_those_before_them() {
    let disk = SimDisk::new(1);
    let (mut journal, _) = open_keeping(&disk);
    for batch in 0..3 {
        append(&mut journal, batch).unwrap();
    }
    disk.overwrite(&segment::name(1), segment::FIRST_FRAME_AT, &[0xff; 8]);
    for revision in 4..=9 {
        let mut reader = journal.keeper().reader(revision).unwrap();
        let frame = reader.next_frame().unwrap().unwrap();
        assert!((frame.first_revision..=frame.last_revision).contains(&revision), "revision {revision}");
    }
}

#[test]
fn of_the_newest_frames_a_bounded_number_of_places_is_remembered() {
    let disk = SimDisk::new(1);
    let options = Options { segment_bytes: 8 << 20, ..keeping() };
    let (mut journal, _) = Journal::open(Arc::new(disk), options).unwrap();
    for batch in 0..8200 {
        journal.append_and_sync(label(batch), &[]).unwrap();
    }
    let places = journal.keeper().places_from(1, 10_000);
    let firsts = [places.first(), places.last()].map(|place| place.map(|(first, _)| *first));
    assert_eq!((places.len(), firsts), (8192, [8, 8199].map(|batch| Some(label(batch).first_revision))));
}

#[test]
fn a_reader_keeps_what_it_needs_from_being_kept() {
    let (_disk, journal, _) = log_that_keeps(0);
    let keeper = journal.keeper();
    let mut reader = keeper.reader(1).unwrap();
    reader.next_frame().unwrap().unwrap();
    keeper.release(60);
    keeper.prepare().unwrap();
    assert_eq!(keeper.oldest_revision(), 1);
    let mut batches = 1;
    while let Some(frame) = reader.next_frame().unwrap() {
        assert_is_batch(&frame);
        batches += 1;
    }
    assert_eq!(batches, 30);
    drop(reader);
    keeper.prepare().unwrap();
    assert!(keeper.oldest_revision() > 1);
}

#[test]
fn every_flipped_bit_and_every_missing_file_is_named_with_its_place() {
    let (disk, journal, places) = log_that_keeps(60);
    let place = places[&1];
    let name = segment::kept_name(place.segment);
    for bit in 0..place.bytes * 8 {
        let damaged = disk.copy();
        damaged.flip_bit(&name, place.offset + bit / 8, u8::try_from(bit % 8).unwrap());
        let error = Archive::new(Arc::new(damaged)).read(&range(1, place)).unwrap_err();
        let ReadError::Damaged(damage) = error else { panic!("bit {bit}: {error}") };
        assert_eq!((&damage.file, damage.offset), (&name, place.offset), "bit {bit}");
    }
    disk.erase(&name);
    let error = journal.keeper().archive().read(&range(1, place)).unwrap_err();
    assert!(matches!(error, ReadError::Damaged(damage) if damage.file == name && damage.flaw == Flaw::Missing));
}

#[test]
fn all_that_is_wrong_with_kept_segments_is_listed_and_nothing_of_the_log() {
    let (disk, journal, places) = log_that_keeps(60);
    let keeper = journal.keeper();
    let log_from = names_of_segments(&disk).into_keys().find(|number| disk.names().contains(&segment::name(*number)));
    let log_from = log_from.unwrap();
    assert!(log_from >= 6, "there are enough kept ones");
    drop((journal, keeper));
    let found = |disk: &SimDisk| {
        let report = verify_kept(disk, Some(CELL), &mut |_| {}).unwrap();
        assert_eq!(report.damages_unlisted, 0);
        report.damages.into_iter().map(|damage| (damage.file, damage.offset)).collect::<Vec<_>>()
    };
    assert_eq!(found(&disk), []);
    let last_in = |number: u64| *places.values().rfind(|place| place.segment == number).unwrap();
    let damaged = disk.copy();
    // Of the first its header, of the second a frame, the third is gone, of the last one the last frame.
    damaged.flip_bit(&segment::kept_name(1), 20, 1);
    damaged.flip_bit(&segment::kept_name(2), 512 + 100, 1);
    damaged.erase(&segment::kept_name(3));
    damaged.flip_bit(&segment::kept_name(log_from - 1), last_in(log_from - 1).offset + 100, 1);
    // The log's own is in the other report.
    damaged.flip_bit(&segment::name(log_from), 512 + 100, 1);
    let expected = [(1, 0), (2, 512), (3, 0), (log_from - 1, last_in(log_from - 1).offset)]
        .map(|(n, at)| (segment::kept_name(n), at));
    assert_eq!(found(&damaged), expected);
    let of_log = verify(&damaged, None, &mut |_| {}).unwrap().damages;
    assert!(!of_log.is_empty() && of_log.iter().all(|damage| damage.file == segment::name(log_from)), "{of_log:?}");

    // What ends too early shows in what follows.
    let cut = disk.copy();
    let place = last_in(log_from - 1);
    cut.overwrite(&segment::kept_name(log_from - 1), place.offset, &vec![0; usize::try_from(place.bytes).unwrap()]);
    assert_eq!(found(&cut), [(segment::name(log_from), 0)]);
    let gone = disk.copy();
    gone.erase(&segment::kept_name(log_from - 1));
    assert_eq!(found(&gone), [(segment::kept_name(log_from - 1), 0)]);
}

#[test]
fn a_kept_segment_that_cannot_be_read_is_listed_beside_what_is_wrong_with_others() {
    let (disk, journal, _) = log_that_keeps(60);
    drop(journal);
    let numbers = names_of_segments(&disk);
    let kept: Vec<String> = numbers.keys().map(|number| segment::kept_name(*number)).collect();
    let damaged = kept.iter().rfind(|name| disk.names().contains(name)).unwrap();
    disk.flip_bit(damaged, 512 + 100, 1);
    let mut unreadable = BTreeSet::new();
    for failing in 0.. {
        let disk = disk.fork();
        disk.fail(SimOperation::Read, failing, std::io::ErrorKind::Other);
        // Without what says which cell it is, or the log's own segment, nothing can be said.
        let Ok(report) = verify_kept(&disk, Some(CELL), &mut |_| {}) else { continue };
        let is_unreadable = |damage: &&Damage| matches!(damage.flaw, Flaw::Unreadable { .. });
        let Some(found) = report.damages.iter().find(is_unreadable) else { break };
        assert!(kept.contains(&found.file), "{found}");
        assert!(report.damages.iter().any(|damage| damage.file == *damaged), "{failing}: {:?}", report.damages);
        assert!(report.damages.len() <= 2, "{failing}: {:?}", report.damages);
        unreadable.insert(found.file.clone());
    }
    let there: BTreeSet<String> = kept.into_iter().filter(|name| disk.names().contains(name)).collect();
    assert_eq!(unreadable, there);
}

// It was named with revision 1, which had been given up long before.
#[test]
fn with_which_revision_the_oldest_segment_begins_is_not_told_when_it_cannot_be_read() {
    let (disk, mut journal, mut places) = log_that_keeps(60);
    let keeper = journal.keeper();
    keeper.give_up(30);
    for batch in 30..60 {
        keeper.prepare().unwrap();
        append_placed(&mut journal, batch, &mut places).unwrap();
    }
    drop((journal, keeper));
    let oldest = disk.names().into_iter().filter_map(|name| segment::kept_number_in(&name)).min().unwrap();
    assert!(oldest > 1);
    let mut told = BTreeMap::new();
    for failing in 0.. {
        let disk = disk.fork();
        disk.fail(SimOperation::Read, failing, std::io::ErrorKind::Other);
        let Ok(report) = verify_kept(&disk, Some(CELL), &mut |_| {}) else { continue };
        let Some(found) = report.damages.first() else { break };
        let revision = told.entry(found.file.clone()).or_insert(found.revision);
        *revision = found.revision.min(*revision);
    }
    assert!(told.len() > 1);
    for (file, revision) in told {
        assert_eq!(revision == 0, file == segment::kept_name(oldest), "{file} revision {revision}");
    }
}

// All beyond the first thousand was counted here, and in the report of the log.
#[test]
fn of_a_log_with_more_damage_than_is_listed_nothing_is_counted_with_what_is_kept() {
    let (disk, journal, mut places) = log_that_keeps(60);
    drop(journal);
    let large = Options { segment_bytes: 4 << 20, ..keeping() };
    let (mut journal, _) = Journal::open(Arc::new(disk.clone()), large).unwrap();
    for batch in 30..2600 {
        append_placed(&mut journal, batch, &mut places).unwrap();
    }
    let log_from = places[&2599].segment;
    journal.keeper().release(label(2599).first_revision - 1);
    journal.keeper().prepare().unwrap();
    drop(journal);
    assert!(!disk.names().contains(&segment::name(log_from - 1)), "the log begins with the large one");
    let in_log: Vec<_> = places.values().filter(|place| place.segment == log_from).collect();
    in_log.iter().step_by(2).for_each(|place| disk.flip_bit(&segment::name(log_from), place.offset + 100, 1));
    assert!(verify(&disk, None, &mut |_| {}).unwrap().damages_unlisted > 100);
    let kept = verify_kept(&disk, Some(CELL), &mut |_| {}).unwrap();
    assert_eq!((kept.damages.len(), kept.damages_unlisted), (0, 0));
}

#[test]
fn a_header_that_rots_gives_nothing_up_too_early() {
    let (disk, journal, places) = log_that_keeps(60);
    drop(journal);
    disk.flip_bit(&segment::kept_name(2), 3, 1);
    let (journal, _) = open_keeping(&disk);
    let keeper = journal.keeper();
    let second = places.iter().find(|(_, place)| place.segment == 2).map(|(batch, _)| label(*batch).first_revision);
    keeper.give_up(second.unwrap());
    keeper.prepare().unwrap();
    places.iter().filter(|(_, place)| place.segment >= 2).for_each(|(batch, place)| {
        assert_reads(&keeper.archive(), *batch, *place);
    });
}

/// Where the past could not be read, the present could not be served.
#[test]
fn a_disk_that_cannot_read_a_kept_segment_stops_no_start() {
    let (disk, journal, _) = log_that_keeps(60);
    drop(journal);
    let kept =
        names_of_segments(&disk).keys().filter(|number| disk.names().contains(&segment::kept_name(**number))).count();
    assert!(kept > 2);
    let opens = |failing: u64| {
        let disk = disk.fork();
        disk.fail(SimOperation::Read, failing, std::io::ErrorKind::Other);
        Journal::open(Arc::new(disk), keeping()).is_ok()
    };
    // The reads of the log itself come first; what is behind the last read of all fails nothing.
    let all = (0..10_000).rev().find(|failing| !opens(*failing)).map_or(0, |last| last + 1);
    assert!(all > 0 && (all..all + kept as u64).all(opens));
}

#[test]
fn what_is_spared_is_given_back_when_there_is_hardly_any_room() {
    let (disk, journal, _) = log_that_keeps(60);
    let keeper = journal.keeper();
    keeper.give_up(u64::MAX);
    keeper.prepare().unwrap();
    let before = names_of_segments(&disk).len();
    keeper.give_back().unwrap();
    let after = names_of_segments(&disk).len();
    assert!(after < before, "{before} segments before, {after} after");
    drop((journal, keeper));
    let (journal, _) = open_keeping(&disk);
    assert_eq!(journal.tail().revision, label(29).last_revision);
}

#[test]
fn kept_segments_join_the_log_again_and_it_is_whole() {
    let (disk, journal, _) = log_that_keeps(60);
    drop(journal);
    let claimed = Journal::claim(Arc::new(disk.clone()), keeping()).unwrap();
    assert!(claimed.rejoin_kept(1).unwrap() > 0);
    assert_eq!(claimed.rejoin_kept(1).unwrap(), 0);
    let (journal, recovered) = claimed.open(&mut |_| {}).unwrap();
    assert_eq!(recovered.oldest_revision, 1);
    assert_eq!((read_all(&journal), journal.keeper().kept_bytes()), (30, 0));
}

#[test]
fn as_many_kept_segments_join_the_log_as_lead_on_from_a_revision() {
    let (base, journal, _) = log_that_keeps(60);
    let oldest = journal.keeper().oldest_revision();
    drop(journal);
    let joined = |from_revision: u64, gap: Option<u64>| {
        let disk = base.copy();
        gap.into_iter().for_each(|number| disk.erase(&segment::kept_name(number)));
        let claimed = Journal::claim(Arc::new(disk.clone()), keeping()).unwrap();
        let segments = claimed.rejoin_kept(from_revision).unwrap();
        (segments, claimed.open(&mut |_| {}).unwrap().1.oldest_revision)
    };
    assert_eq!(joined(oldest, None), (0, oldest), "the log does so by itself");
    let (one, from) = joined(oldest - 1, None);
    assert!(one == 1 && from < oldest, "{one} {from}");
    let (more, from) = joined(from - 1, None);
    assert!(more == 2 && from > 1, "{more} {from}");
    // What comes before is missing, and is not asked for.
    assert_eq!(joined(from, Some(1)), (2, from));
    assert_eq!(joined(1, Some(1)), (0, oldest));
}

// They were joined by what their headers said, and a log that begins with damage is not opened any more: for good, though nobody needed what
// was damaged.
#[test]
fn kept_segments_join_the_log_only_where_all_that_they_hold_is_whole() {
    let (base, journal, places) = log_that_keeps(60);
    let oldest = journal.keeper().oldest_revision();
    drop(journal);
    let begins = |number| *places.iter().find(|(_, place)| place.segment == number).unwrap().0;
    let is_kept = |place: &&FramePlace| base.names().contains(&segment::kept_name(place.segment));
    let last_kept = *places.values().rfind(is_kept).unwrap();
    let joined = |damage: &dyn Fn(&SimDisk), from_revisions: &[u64]| {
        let disk = base.copy();
        damage(&disk);
        let before = disk.names();
        let claimed = Journal::claim(Arc::new(disk.clone()), keeping()).unwrap();
        for from in from_revisions {
            if claimed.rejoin_kept(*from).unwrap() > 0 {
                break;
            }
            assert_eq!(disk.names(), before, "nothing is changed");
        }
        claimed.open(&mut |_| {}).unwrap().1.oldest_revision
    };
    let second = label(begins(2)).first_revision;
    assert_eq!(joined(&|_| {}, &[1, second]), 1);
    for place in places.values().filter(|place| place.segment == 1) {
        let name = segment::kept_name(place.segment);
        assert_eq!(joined(&|disk| disk.flip_bit(&name, place.offset + 70, 3), &[1, second]), second);
    }
    // A whole segment, but for its last frame: that of the log does not go on from there.
    let zeros = vec![0; usize::try_from(last_kept.bytes).unwrap()];
    let cut = |disk: &SimDisk| disk.overwrite(&segment::kept_name(last_kept.segment), last_kept.offset, &zeros);
    assert_eq!(joined(&cut, &[1, second, oldest - 1]), oldest);
}

#[test]
fn kept_segments_that_could_only_not_be_read_now_are_not_done_without() {
    let (base, journal, _) = log_that_keeps(60);
    drop(journal);
    let (mut failed, mut joined) = (0, 0);
    for reads in 0..200 {
        let disk = base.copy();
        let claimed = Journal::claim(Arc::new(disk.clone()), keeping()).unwrap();
        disk.fail(SimOperation::Read, reads, std::io::ErrorKind::Other);
        match claimed.rejoin_kept(1) {
            Err(_) => failed += 1,
            Ok(segments) => {
                assert!(segments > 0, "after {reads} reads");
                joined += 1;
            }
        }
    }
    assert!(failed > 10 && joined > 10, "{failed} {joined}");
}

#[test]
fn it_is_known_what_giving_up_would_let_go_of() {
    let (_disk, journal, places) = log_that_keeps(60);
    let keeper = journal.keeper();
    let (begins, ends) = (keeper.oldest_kept_revision(), keeper.oldest_revision());
    let third = places.iter().find(|(_, place)| place.segment == 3).map(|(batch, _)| label(*batch).first_revision);
    let third = third.unwrap();
    let (all, two) = (keeper.kept_bytes(), 2 * keeping().segment_bytes);
    assert!(begins < third && third < ends && two < all);
    assert_eq!([keeper.bytes_let_go(begins, 0), keeper.bytes_let_go(ends, 0)], [0, all]);
    assert_eq!(keeper.bytes_let_go(third, 0), two);
    assert_eq!(keeper.bytes_let_go(third - 1, 0), two / 2, "whole segments only");
    assert_eq!([keeper.bytes_let_go(ends, third), keeper.bytes_let_go(ends, third - 1)], [all - two, all - two / 2]);
    assert_eq!(keeper.bytes_let_go(third, ends), 0, "all of it goes anyway");
    keeper.give_up(third);
    // They may wait to be used again.
    assert_eq!([keeper.bytes_let_go(third, 0), keeper.bytes_let_go(ends, 0)], [0, all - two]);
    assert_eq!(keeper.bytes_let_go(ends, begins), all - two);
}

#[test]
fn how_much_log_there_is_behind_a_revision_is_counted_in_whole_segments() {
    let (disk, journal, _) = log_that_keeps(60);
    let keeper = journal.keeper();
    let segment_bytes = keeping().segment_bytes;
    let (all, live) = (keeper.bytes_behind(0), keeper.bytes_behind(keeper.oldest_revision() - 1));
    assert_eq!(all, keeper.kept_bytes() + live, "all but the one that is being written");
    assert!(live > 0 && keeper.kept_bytes() > 0);
    assert_eq!(keeper.bytes_behind(1), all - segment_bytes, "the first one begins there");
    assert_eq!(keeper.bytes_behind(journal.tail().revision), 0);
    drop((journal, keeper));
    let (journal, _) = open_keeping(&disk);
    assert_eq!(journal.keeper().bytes_behind(0), all, "it is the log's, and not of who writes it");
}

#[test]
fn kept_segments_behind_a_gap_do_not_join() {
    let (disk, journal, _) = log_that_keeps(60);
    drop(journal);
    disk.erase(&segment::kept_name(2));
    let before = disk.names();
    let claimed = Journal::claim(Arc::new(disk.clone()), keeping()).unwrap();
    assert_eq!(claimed.rejoin_kept(1).unwrap(), 0, "a log that begins in the middle is of no use to anybody");
    assert_eq!(disk.names(), before);
    let (journal, _) = claimed.open(&mut |_| {}).unwrap();
    assert!(journal.keeper().kept_bytes() > 0);
}

#[test]
fn kept_segments_without_an_identity_are_not_made_a_new_cell() {
    let (disk, journal, _) = log_that_keeps(60);
    drop(journal);
    for name in disk.names().into_iter().filter(|name| segment::kept_number_in(name).is_none()) {
        disk.erase(&name);
    }
    let refused = Journal::open(Arc::new(disk), keeping()).err().unwrap();
    assert!(matches!(refused, OpenError::Orphaned { .. }), "{refused}");
}

/// A life of a server that keeps and gives up as it goes. What it may not lose by that: from which revision on it wants everything.
fn live(disk: &SimDisk, batches: u64, places: &mut Places, wanted_from: &mut u64) -> u64 {
    let Ok(claimed) = Journal::claim(Arc::new(disk.clone()), keeping()) else { return 0 };
    let Ok((mut journal, recovered)) = claimed.open(&mut |_| {}) else { return 0 };
    let start = batches_in(recovered.tail.revision);
    let keeper = journal.keeper();
    keeper.give_up(*wanted_from);
    for batch in start..start + batches {
        if append_placed(&mut journal, batch, places).is_err() {
            return batch;
        }
        if batch % 3 == 2 {
            keeper.release(label(batch).first_revision.saturating_sub(6));
            *wanted_from = label(batch).first_revision.saturating_sub(24).max(*wanted_from);
            keeper.give_up(*wanted_from);
            let _later = keeper.prepare();
        }
    }
    start + batches
}

#[test]
fn a_power_cut_at_every_step_of_keeping_leaves_every_segment_one_name() {
    let disk = SimDisk::new(0);
    live(&disk, 24, &mut Places::new(), &mut 0);
    let mut kept_after_cuts = 0;
    for step in 0..disk.steps() {
        for seed in seeds() {
            let disk = SimDisk::new(seed);
            disk.crash_at_step(step, seed);
            let (mut places, mut wanted_from) = (Places::new(), 0);
            let acknowledged = live(&disk, 24, &mut places, &mut wanted_from);
            for life in 0..2 {
                let what = format!("power cut at step {step}, seed {seed}, life {life}");
                let disk = disk.reboot();
                // Closed at once, and nothing is synced by that.
                let (journal, recovered) = open_keeping(&disk);
                assert!(batches_in(recovered.tail.revision) >= acknowledged, "{what}");
                let names = names_of_segments(&disk);
                assert!(names.values().all(|names| *names == 1), "{what}: {:?}", disk.names());
                let (first, last) = (names.keys().min().unwrap(), names.keys().max().unwrap());
                assert_eq!(last - first + 1, names.len() as u64, "{what}: {:?}", disk.names());
                let keeper = journal.keeper();
                let oldest = keeper.oldest_kept_revision();
                assert!(
                    oldest <= wanted_from.max(1),
                    "{what}: {oldest}, wanted from {wanted_from}: {:?}",
                    disk.names()
                );
                let wanted = places.iter().filter(|(batch, _)| label(**batch).last_revision >= wanted_from);
                for (batch, place) in wanted.filter(|(batch, _)| **batch < acknowledged) {
                    assert_reads(&keeper.archive(), *batch, *place);
                }
                kept_after_cuts += u64::from(keeper.kept_bytes() > 0);
                drop((journal, keeper));
                disk.kill();
                let again = disk.reboot();
                again.crash_at_step(seed * 5 % 31, seed + 1);
                live(&again, 6, &mut places, &mut wanted_from);
                again.crash(seed + 2);
            }
        }
    }
    assert!(kept_after_cuts > 100);
}

// Nothing of it was looked at, though it is all that is left.
#[test]
fn what_is_kept_is_looked_at_also_without_any_segment_of_the_log() {
    let (disk, journal, _) = log_that_keeps(60);
    let oldest = journal.keeper().oldest_revision();
    drop(journal);
    disk.names().iter().filter(|name| segment::number_in(name).is_some()).for_each(|name| disk.erase(name));
    let mut last = 0;
    let kept = verify_kept(&disk, Some(CELL), &mut |frame| last = frame.last_revision).unwrap();
    assert_eq!((last + 1, kept.damages.len()), (oldest, 0));
}

#[test]
fn a_change_of_names_that_fails_leaves_every_segment_one_name_done_or_not() {
    for (before, seed) in (0..20).flat_map(|before| (0..4).map(move |seed| (before, seed))) {
        let what = format!("change of names {before}, seed {seed}");
        let disk = SimDisk::new(seed);
        let (mut journal, _) = open_keeping(&disk);
        let keeper = journal.keeper();
        disk.fail(SimOperation::Name, before, std::io::ErrorKind::Other);
        let mut places = Places::new();
        for batch in 0..40 {
            let _later = keeper.prepare();
            // Nothing was written where there was no segment.
            append_placed(&mut journal, batch, &mut places)
                .or_else(|_| append_placed(&mut journal, batch, &mut places))
                .unwrap();
            let first_revision = label(batch).first_revision;
            keeper.release(first_revision.saturating_sub(6));
            keeper.give_up(first_revision.saturating_sub(24));
            let wanted = places.iter().filter(|(batch, _)| label(**batch).last_revision + 24 >= first_revision);
            wanted.for_each(|(batch, place)| assert_reads(&keeper.archive(), *batch, *place));
        }
        assert_eq!(disk.strikes().failures, 1, "{what}");
        keeper.prepare().unwrap();
        let names = names_of_segments(&disk);
        assert!(names.values().all(|names| *names == 1), "{what}: {:?}", disk.names());
        let (first, last) = (names.keys().min().unwrap(), names.keys().max().unwrap());
        assert_eq!(last - first + 1, names.len() as u64, "{what}: {:?}", disk.names());
    }
}

#[test]
fn a_power_cut_at_every_step_of_joining_leaves_a_log_without_a_gap() {
    let (base, journal, places) = log_that_keeps(80);
    drop(journal);
    let claimed = |disk: &SimDisk| Journal::claim(Arc::new(disk.clone()), keeping());
    for step in 0..24 {
        for seed in seeds() {
            let disk = base.copy();
            disk.crash_at_step(step, seed);
            let joined = claimed(&disk).map(|claimed| claimed.rejoin_kept(1));
            drop(joined);
            // The cut may have been meant for a step that there was not.
            let disk = disk.fork();
            let (journal, _) = open_keeping(&disk);
            places.iter().for_each(|(batch, place)| assert_reads(&journal.keeper().archive(), *batch, *place));
            read_all(&journal);
            drop(journal);
            let claimed = claimed(&disk).unwrap();
            claimed.rejoin_kept(1).unwrap();
            let (journal, recovered) = claimed.open(&mut |_| {}).unwrap();
            assert_eq!((recovered.oldest_revision, read_all(&journal)), (1, 30), "step {step}, seed {seed}");
        }
    }
}
