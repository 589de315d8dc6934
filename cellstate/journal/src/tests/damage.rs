//! Whatever happens to a byte of the log is found with its place, or cut and reported; nothing acknowledged is lost
//! in silence, and nothing is cut below the high-water mark.

use super::*;
use crate::segment::{self, SegmentHeader};

const BATCHES: u64 = 9;

/// A log of a few segments; its mark is at the end, or two batches before it.
fn damaged_log(mark_at_the_end: bool) -> SimDisk {
    let (disk, mut journal) = log_of(BATCHES - 2);
    journal.high_water().flush().unwrap();
    append(&mut journal, BATCHES - 2).unwrap();
    append(&mut journal, BATCHES - 1).unwrap();
    journal.keeper().prepare().unwrap();
    if mark_at_the_end {
        journal.high_water().flush().unwrap();
    }
    drop(journal);
    disk.copy()
}

fn segments_of(disk: &SimDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| segment::number_in(name).is_some()).collect()
}

/// Where the frames stand: file, offset, bytes.
fn frames_of(disk: &SimDisk) -> Vec<(String, u64, u64)> {
    let mut frames = Vec::new();
    verify(disk, None, &mut |frame| {
        let bytes = crate::frame::frame_bytes(frame.payload.len() as u64);
        frames.push((segment::name(frame.segment), frame.offset, bytes));
    })
    .unwrap();
    frames
}

#[test]
fn a_last_frame_that_stands_there_twice_is_found() {
    let (disk, journal) = log_of(10);
    drop(journal);
    let (name, offset, bytes) = frames_of(&disk).last().unwrap().clone();
    let from = usize::try_from(offset).unwrap();
    let frame = disk.image(&name).unwrap()[from..from + usize::try_from(bytes).unwrap()].to_vec();
    disk.overwrite(&name, offset + bytes, &frame);
    let error = try_open(&disk).err().unwrap();
    assert!(error.to_string().contains("first revision: expected 31, found 28"), "{error}");
}

#[test]
fn damage_below_a_whole_frame_is_named_with_both_places() {
    let disk = damaged_log(false);
    let frames = frames_of(&disk);
    let ((name, offset, _), (next, next_offset, _)) = (&frames[2], &frames[3]);
    assert_eq!(name, next, "both in one segment");
    disk.flip_bit(name, offset + 600, 0);
    let error = try_open(&disk).err().unwrap();
    let OpenError::Damaged { damage, others: 0, .. } = &error else { panic!("{error}") };
    assert_eq!((damage.file.as_str(), damage.offset, damage.revision), (name.as_str(), *offset, 7));
    assert!(matches!(damage.flaw, Flaw::FrameChecksum { .. }));
    let proof = Proof { file: next.clone(), offset: *next_offset, first_revision: Some(10) };
    assert_eq!(damage.followed_by, Some(proof));
    let text = error.to_string();
    assert!(text.contains("frame checksum: expected 0x") && text.contains("`plenum verify`"), "{text}");
}

#[test]
fn a_missing_segment_is_found_wherever_it_was() {
    for mark_at_the_end in [true, false] {
        let disk = damaged_log(mark_at_the_end);
        let names = segments_of(&disk);
        let begun = names.len() - 1;
        assert!(begun >= 3);
        // The oldest could have been retired; but then the others begin where the first revision is not.
        for name in &names[1..begun] {
            let copy = disk.copy();
            copy.erase(name);
            let error = try_open(&copy).err().unwrap();
            assert!(matches!(error, OpenError::Damaged { .. }), "{name}: {error}");
        }
    }
}

#[test]
fn a_segment_that_waits_to_be_used_is_not_blamed_for_what_became_of_the_one_before_it() {
    let (disk, journal) = log_of(1);
    journal.keeper().prepare().unwrap();
    drop(journal);
    let names = segments_of(&disk);
    assert_eq!(names.len(), 2);
    let found = |disk: &SimDisk| verify(disk, None, &mut |_| {}).unwrap().damages;
    let copy = disk.copy();
    copy.erase(&names[0]);
    let damages = found(&copy);
    assert_eq!((damages.len(), &damages[0].file, &damages[0].flaw), (1, &names[1], &Flaw::Blank));
    assert!(damages[0].to_string().contains("or the segment before it is missing"), "{}", damages[0]);
    let copy = disk.copy();
    copy.flip_bit(&names[0], 9, 1);
    let damages = found(&copy);
    assert!(!damages.is_empty() && damages.iter().all(|damage| damage.file == names[0]), "{damages:?}");
}

#[test]
fn a_log_that_ends_before_its_mark_is_refused() {
    let disk = damaged_log(true);
    let names = segments_of(&disk);
    disk.erase(&names[names.len() - 1]);
    disk.erase(&names[names.len() - 2]);
    let error = try_open(&disk).err().unwrap();
    assert!(matches!(error, OpenError::EndsBeforeMark { mark_revision: 27, .. }), "{error}");
    names.iter().for_each(|name| disk.erase(name));
    let error = try_open(&disk).err().unwrap();
    assert!(matches!(error, OpenError::EndsBeforeMark { last_revision: 0, .. }), "{error}");
}

#[test]
fn a_damaged_last_frame_below_the_mark_is_refused() {
    let disk = damaged_log(true);
    let (name, offset, _) = frames_of(&disk).last().unwrap().clone();
    disk.flip_bit(&name, offset + 100, 3);
    let error = try_open(&disk).err().unwrap();
    assert!(matches!(error, OpenError::DamagedBelowMark { mark_revision: 27, .. }), "{error}");
}

// It was cut off before anybody could look elsewhere for what was there.
#[test]
fn a_log_that_is_read_and_not_opened_stays_as_it_is() {
    let disk = damaged_log(false);
    let (name, offset, _) = frames_of(&disk).last().unwrap().clone();
    disk.flip_bit(&name, offset + 100, 3);
    let images = |disk: &SimDisk| disk.names().iter().map(|name| disk.image(name)).collect::<Vec<_>>();
    let before = images(&disk);
    let claimed = || Journal::claim(Arc::new(disk.clone()), options()).unwrap();
    let mut frames = 0;
    let judged = claimed().read(&mut |_| frames += 1).unwrap();
    assert_eq!((frames, judged.oldest_revision()), (BATCHES - 1, 1));
    let tail = judged.tail();
    assert_eq!(batches_in(tail.revision), BATCHES - 1);
    drop(judged);
    assert!(images(&disk) == before, "nothing is changed");
    let (journal, recovered) = claimed().read(&mut |_| {}).unwrap().open().unwrap();
    assert_eq!((journal.tail(), recovered.tail), (tail, tail));
    assert!(recovered.cut.is_some() && images(&disk) != before);
}

#[test]
fn a_log_of_another_history_does_not_pass_under_the_same_mark() {
    let disk = damaged_log(true);
    let other = SimDisk::new(2);
    let (mut journal, _) = open(&other);
    for batch in 0..BATCHES {
        journal.append_and_sync(label(batch), &[b"another history"]).unwrap();
    }
    drop(journal);
    other.put("MARK", disk.image("MARK").unwrap());
    let error = try_open(&other).err().unwrap();
    assert!(matches!(error, OpenError::OtherHistory { revision: 27, .. }), "{error}");
    // Alone of all that a log is refused for it named no way on for who has no backup.
    assert!(error.to_string().contains("restore --from DIR --dir NEW --accept-loss"), "{error}");
}

#[test]
fn a_frame_of_another_history_breaks_the_chain_at_the_next_one() {
    let disk = damaged_log(false);
    let other = SimDisk::new(2);
    let (mut journal, _) = open(&other);
    for batch in 0..BATCHES {
        let other_payload: Vec<u8> = payload(batch).iter().map(|byte| !byte).collect();
        journal.append_and_sync(label(batch), &[&other_payload]).unwrap();
    }
    drop(journal);
    let frames = frames_of(&disk);
    assert_eq!(frames, frames_of(&other), "both have frames of the same sizes");
    // The very first one, whose predecessors are the same in both.
    let (name, offset, bytes) = &frames[0];
    let from = usize::try_from(*offset).unwrap();
    let frame = other.image(name).unwrap()[from..from + usize::try_from(*bytes).unwrap()].to_vec();
    let mixed = disk.copy();
    mixed.overwrite(name, *offset, &frame);
    let error = try_open(&mixed).err().unwrap();
    let named = matches!(&error, OpenError::Damaged { damage, .. }
        if matches!(damage.flaw, Flaw::Chain { .. }) && (damage.offset, damage.revision) == (frames[1].1, 4));
    assert!(named, "{error}");

    // The first segment as a whole.
    let mixed = disk.copy();
    mixed.put(name, other.image(name).unwrap());
    let error = try_open(&mixed).err().unwrap();
    let named = matches!(&error, OpenError::Damaged { damage, .. }
        if matches!(damage.flaw, Flaw::Chain { .. }) && damage.file == segment::name(2) && damage.offset == 0);
    assert!(named, "{error}");
}

#[test]
fn a_header_that_does_not_continue_the_segment_before_is_found() {
    let disk = damaged_log(true);
    let name = segment::name(2);
    let mut sector = [0; 512];
    sector.copy_from_slice(&disk.image(&name).unwrap()[..512]);
    let header = SegmentHeader::decode(&sector).unwrap();
    let found = |header: SegmentHeader| {
        let copy = disk.copy();
        copy.overwrite(&name, 0, &header.encode());
        match try_open(&copy).err().unwrap() {
            OpenError::Damaged { damage, .. } if damage.file == name && damage.offset == 0 => damage.flaw,
            other => panic!("{other}"),
        }
    };
    let number = found(SegmentHeader { number: 3, ..header });
    assert_eq!(number, Flaw::OtherSegment { expected: 2, found: 3 });
    let incarnation = found(SegmentHeader { incarnation: 2, ..header });
    assert_eq!(incarnation, Flaw::Incarnation { least: 1, most: 1, found: 2 });
    let older = found(SegmentHeader { incarnation: 0, ..header });
    assert_eq!(older, Flaw::Incarnation { least: 1, most: 1, found: 0 });
    let term = found(SegmentHeader { term: header.term + 1, ..header });
    assert_eq!(term, Flaw::Term { expected: header.term, found: header.term + 1 });
    let revision = found(SegmentHeader { first_revision: 1, ..header });
    assert_eq!(revision, Flaw::FirstRevision { expected: header.first_revision, found: 1 });
    let chain = found(SegmentHeader { previous: ChainHash([1; 32]), ..header });
    assert_eq!(chain, Flaw::Chain { expected: header.previous, found: ChainHash([1; 32]) });
}

// Cut off right behind its magic, it seemed to be of format version 0, and the log could not be opened any more.
#[test]
fn a_header_of_which_any_part_was_written_is_cut_as_other_torn_writes_are() {
    let disk = damaged_log(true);
    let name = segments_of(&disk).pop().unwrap();
    assert_eq!(disk.image(&name).unwrap()[..512], [0; 512], "it was made, and is not begun");
    let header = SegmentHeader {
        cell: CELL,
        incarnation: 1,
        number: segment::number_in(&name).unwrap(),
        first_revision: BATCHES * REVISIONS_PER_BATCH + 1,
        term: 2,
        segment_bytes: 4096,
        previous: ChainHash([0xab; 32]),
    };
    for written in 1..512 {
        let copy = disk.copy();
        copy.overwrite(&name, 0, &header.encode()[..written]);
        let what = format!("{written} bytes of a header");
        let report = verify(&copy, None, &mut |_| {}).unwrap();
        assert!(report.is_sound() && report.torn.is_some(), "{what}: {report:#?}");
        assert_eq!(batches_in(report.tail.revision), BATCHES, "{what}: acknowledged batches were cut");
        assert_open_agrees(&copy, options, payload, &what);
    }
}

#[test]
fn opening_moves_the_mark_to_the_end_before_anything_is_served() {
    let (disk, journal) = log_of(BATCHES);
    drop(journal);
    let (journal, recovered) = open(&disk);
    assert_eq!(recovered.mark.revision, 0, "it was never flushed");
    assert_eq!(journal.high_water().durable().unwrap().revision, 27);
    drop(journal);
    let (name, offset, _) = frames_of(&disk).last().unwrap().clone();
    disk.flip_bit(&name, offset + 100, 3);
    assert!(matches!(try_open(&disk).err().unwrap(), OpenError::DamagedBelowMark { .. }));
}

// Zeros always counted as not written yet: the mark went back by one flush, and nobody was told.
#[test]
fn a_mark_slot_that_was_written_and_is_nothing_but_zeros_is_found() {
    let disk = damaged_log(true);
    let marked = verify(&disk, None, &mut |_| {}).unwrap().mark;
    for (slot, is_newest) in [(0, true), (4096, false)] {
        let zeroed = disk.copy();
        zeroed.overwrite("MARK", slot, &[0; 512]);
        let report = verify(&zeroed, None, &mut |_| {}).unwrap();
        let found: Vec<_> = report.mark_damages.iter().map(|damage| (damage.file.as_str(), damage.offset)).collect();
        assert_eq!(found, [("MARK", slot)]);
        assert_eq!(report.mark == marked, !is_newest);
        assert!(report.is_sound(), "the other slot is whole");
        open(&zeroed);
    }
    // The second one of a log that has just begun.
    let (disk, journal) = log_of(1);
    drop(journal);
    assert!(verify(&disk, None, &mut |_| {}).unwrap().mark_damages.is_empty());
}

// It was called missing, and whoever looked found it.
#[test]
fn a_mark_that_is_nothing_but_zeros_is_there_and_damaged() {
    let disk = damaged_log(false);
    disk.erase("MARK");
    disk.open("MARK", OpenMode::Create).unwrap().write_at(0, &[0; 4608]).unwrap();
    let refused = try_open(&disk).err().unwrap();
    assert!(
        matches!(&refused, OpenError::NoMark { damage, .. } if matches!(damage.flaw, Flaw::Magic { .. })),
        "{refused}"
    );
}

// Without its mark a log could not even be looked at: `restore --accept-loss` ended with the advice to use it.
#[test]
fn a_log_without_its_mark_is_read_and_not_opened() {
    let disk = damaged_log(false);
    let whole = verify(&disk, None, &mut |_| {}).unwrap();
    assert!(whole.is_sound());
    disk.flip_bit("MARK", 50, 0);
    disk.flip_bit("MARK", 4096 + 50, 0);
    for erased in [false, true] {
        if erased {
            disk.erase("MARK");
        }
        let mut frames = 0;
        let report = verify(&disk, None, &mut |_| frames += 1).unwrap();
        assert!(matches!(report.refused, Some(OpenError::NoMark { .. })), "{:?}", report.refused);
        assert!(matches!(try_open(&disk).err().unwrap(), OpenError::NoMark { .. }));
        assert_eq!((frames, report.tail, report.mark), (whole.frames, whole.tail, Mark::default()));
        assert_eq!((report.damages.len(), report.damages[0].file.as_str()), (1, "MARK"));
        assert!(verify_kept(&disk, None, &mut |_| {}).unwrap().damages.is_empty());
        assert_eq!(identity(&disk).unwrap(), whole.identity);
    }
}

#[test]
fn verify_lists_all_damage_and_shows_all_whole_frames() {
    let disk = damaged_log(true);
    let frames = frames_of(&disk);
    for place in [1, 4, 6] {
        disk.flip_bit(&frames[place].0, frames[place].1 + 90, 1);
    }
    let mut seen = Vec::new();
    let report = verify(&disk, Some(CELL), &mut |frame| {
        assert_is_batch(frame);
        seen.push(batches_in(frame.first_revision));
    })
    .unwrap();
    assert_eq!(seen, [0, 2, 3, 5, 7, 8]);
    assert_eq!(report.frames, 6);
    let places: Vec<_> =
        report.damages.iter().filter(|damage| damage.offset > 0).map(|damage| damage.revision).collect();
    assert_eq!(places, [4, 13, 19], "{:#?}", report.damages);
    assert!(!report.is_sound());
}

// The segment behind it was called wrong, too, for not going on where what was lost began.
#[test]
fn a_segment_of_which_nothing_can_be_read_is_the_only_one_that_is_called_damaged() {
    let disk = damaged_log(true);
    let segments = segments_of(&disk);
    for file in &segments[..segments.len() - 1] {
        let garbled = disk.copy();
        garbled.overwrite(file, 0, &[0xa5; 4096]);
        let report = verify(&garbled, Some(CELL), &mut |_| {}).unwrap();
        let named: Vec<_> = report.damages.iter().map(|damage| &damage.file).collect();
        assert!(named.iter().all(|named| *named == file), "{:#?}", report.damages);
        assert!(!report.is_sound() && !named.is_empty(), "{:#?}", report.refused);
        let told = report.damages[0].to_string();
        assert!(
            told.ends_with(&format!("; something follows at {file} offset 512")),
            "garbage is no whole data: {told}"
        );
    }
}

// The header of the third one was trusted as if what comes before it had been lost with the first.
#[test]
fn a_second_damage_behind_a_segment_of_which_nothing_can_be_read_is_listed_too() {
    let disk = damaged_log(true);
    let segments = segments_of(&disk);
    let frames = frames_of(&disk);
    let (name, offset, bytes) = frames.iter().rfind(|(name, ..)| *name == segments[1]).unwrap();
    disk.overwrite(&segments[0], 0, &[0xa5; 4096]);
    disk.overwrite(name, *offset, &vec![0; usize::try_from(*bytes).unwrap()]);
    let report = verify(&disk, Some(CELL), &mut |_| {}).unwrap();
    let named: Vec<_> = report.damages.iter().map(|damage| (&damage.file, damage.offset)).collect();
    assert_eq!(named, [(&segments[0], 0), (&segments[2], 0)], "{:#?}", report.damages);
    assert!(matches!(report.damages[1].flaw, Flaw::FirstRevision { .. }), "{}", report.damages[1]);
}

#[test]
fn verify_of_a_sound_log_changes_nothing_and_says_so() {
    let disk = damaged_log(true);
    let images: Vec<_> = disk.names().iter().map(|name| disk.image(name)).collect();
    let report = verify(&disk, Some(CELL), &mut |_| {}).unwrap();
    assert!(report.is_sound() && report.damages.is_empty() && report.torn.is_none());
    assert_eq!((report.frames, report.oldest_revision, report.tail.revision), (9, 1, 27));
    assert_eq!(report.mark, Mark { revision: 27, hash: report.tail.hash });
    assert_eq!(images, disk.names().iter().map(|name| disk.image(name)).collect::<Vec<_>>());
}
