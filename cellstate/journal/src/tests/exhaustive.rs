//! Everything that can happen to a small log, one injury at a time and without leaving one out: each is found with its file, offset and
//! revision, or is behind the last whole frame and is cut, and the cut is reported. Never below the high-water mark.

use super::*;
use crate::segment::{self, FIRST_FRAME_AT};
use std::{cmp::Ordering, ops::Range};

const SEGMENT_BYTES: u64 = 2048;
const SECTOR: u64 = SECTOR_BYTES;
const BATCHES: u64 = 8;

/// Segments of three sectors of frames.
fn small_options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, frame_bytes_max: SEGMENT_BYTES - FIRST_FRAME_AT, ..options() }
}

/// One or two sectors each, so that segments end with room and without.
fn small_payload(batch: u64) -> Vec<u8> {
    let length = if batch % 3 == 1 { 700 } else { 200 };
    (0..length).map(|at: usize| u8::try_from((at * 11 + length + at / 7) % 251).unwrap() | 1).collect()
}

/// A frame: where it stands, and its first revision.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stand {
    name: String,
    offset: u64,
    bytes: u64,
    first_revision: u64,
}

/// A log whose oldest segments were given up and are in use again, with the places of its frames.
struct Small {
    disk: SimDisk,
    frames: Vec<Stand>,
    mark_at_the_end: bool,
}

/// What one injury must lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    name: String,
    offset: u64,
    revision: u64,
}

impl Small {
    fn new(mark_at_the_end: bool) -> Self {
        let disk = SimDisk::new(1);
        let (mut journal, _) = Journal::open(Arc::new(disk.clone()), small_options()).unwrap();
        let keeper = journal.keeper();
        for batch in 0..BATCHES {
            journal.append_and_sync(label(batch), &[&small_payload(batch)]).unwrap();
            if batch == 3 {
                // Both are behind the oldest frames that are still wanted, and will be used again.
                keeper.release(label(2).last_revision);
            }
            if mark_at_the_end || batch + 2 < BATCHES {
                journal.high_water().flush().unwrap();
            }
            keeper.prepare().unwrap();
        }
        drop((journal, keeper));
        let disk = disk.copy();
        let mut frames = Vec::new();
        let report = verify(&disk, None, &mut |frame| {
            frames.push(Stand {
                name: segment::name(frame.segment),
                offset: frame.offset,
                bytes: crate::frame::frame_bytes(frame.payload.len() as u64),
                first_revision: frame.first_revision,
            });
        });
        assert!(report.unwrap().is_sound());
        let small = Self { disk, frames, mark_at_the_end };
        assert!(small.begun().len() >= 3 && small.frames[0].first_revision > 1, "segments were recycled");
        small
    }

    fn segments(&self) -> Vec<String> {
        self.disk.names().into_iter().filter(|name| segment::number_in(name).is_some()).collect()
    }

    /// Segments that hold frames; one more is ready.
    fn begun(&self) -> Vec<String> {
        let mut names: Vec<String> = self.frames.iter().map(|frame| frame.name.clone()).collect();
        names.dedup();
        names
    }

    fn last(&self) -> &Stand {
        self.frames.last().unwrap()
    }

    fn next_revision(&self) -> u64 {
        label(BATCHES).first_revision
    }

    /// The end of the frames of a segment, and the revision that is expected there.
    fn end_of(&self, name: &str) -> (u64, u64) {
        let last = self.frames.iter().rposition(|frame| frame.name == name).unwrap();
        let next = self.frames.get(last + 1).map_or_else(|| self.next_revision(), |next| next.first_revision);
        (self.frames[last].offset + self.frames[last].bytes, next)
    }

    /// What is named when a byte is not what it was.
    fn place_of(&self, name: &str, byte: u64) -> Expected {
        let at = |offset, revision| Expected { name: name.to_owned(), offset, revision };
        let Some(first) = self.frames.iter().find(|frame| frame.name == name) else {
            return at(0, self.next_revision());
        };
        if byte < FIRST_FRAME_AT {
            return at(0, first.first_revision);
        }
        let hit = |frame: &&Stand| frame.name == name && (frame.offset..frame.offset + frame.bytes).contains(&byte);
        if let Some(frame) = self.frames.iter().find(hit) {
            return at(frame.offset, frame.first_revision);
        }
        let (end, next) = self.end_of(name);
        at(end, next)
    }

    /// The place is not before the last frame: there, what is damaged may be a write that nobody was promised.
    fn is_last(&self, place: &Expected) -> bool {
        let last = self.last();
        place.name > last.name || (place.name == last.name && place.offset >= last.offset)
    }

    /// Judges an injured copy: what is wrong is named once, at its place; and whether it may be cut is right.
    fn judge(&self, disk: &SimDisk, place: &Expected, what: &str) {
        let report = verify(disk, None, &mut |_| {}).unwrap();
        let named: Vec<Expected> = report
            .damages
            .iter()
            .chain(report.torn.iter().map(|cut| &cut.damage))
            .map(|damage| Expected { name: damage.file.clone(), offset: damage.offset, revision: damage.revision })
            .collect();
        let is_last = self.is_last(place);
        // The last frame whole, and everything behind it: nothing that was acknowledged is there.
        let below_mark = self.mark_at_the_end && place.name == self.last().name && place.offset == self.last().offset;
        assert_eq!(named.as_slice(), std::slice::from_ref(place), "{what}: {report:#?}");
        assert_eq!(report.torn.is_some(), report.is_sound(), "{what}: unnoticed");
        assert!(!below_mark || !report.is_sound(), "{what}: what was acknowledged would be cut");
        if is_last && report.is_sound() {
            let least = if self.mark_at_the_end { BATCHES } else { BATCHES - 2 };
            assert!(batches_in(report.tail.revision) >= least.max(BATCHES - 1), "{what}: too much is cut");
        } else if !is_last {
            assert!(!report.is_sound(), "{what}: {named:?} would be cut, and frames behind it with it");
        }
        if let Some(refused) = &report.refused {
            assert_tells(refused, what);
        }
    }
}

/// A refusal says where, what was expected and found, and what to do.
fn assert_tells(refused: &OpenError, what: &str) {
    let text = refused.to_string();
    let place = text.contains(".segment") || text.contains("MARK") || text.contains("CELL");
    assert!(place, "{what}: no place in {text}");
    let facts = ["expected", "zeros where", "missing", "never begun"].iter().any(|word| text.contains(word));
    assert!(facts, "{what}: neither expected nor found in {text}");
    assert!(text.contains("restore") || text.contains("use the"), "{what}: no remedy in {text}");
}

fn both(check: impl Fn(&Small)) {
    check(&Small::new(true));
    check(&Small::new(false));
}

#[test]
fn every_single_bit_of_every_segment_counts() {
    both(|small| {
        let mut flips = 0;
        for name in small.segments() {
            for byte in 0..SEGMENT_BYTES {
                let place = small.place_of(&name, byte);
                for bit in 0..8 {
                    small.disk.flip_bit(&name, byte, bit);
                    small.judge(&small.disk, &place, &format!("bit {bit} of byte {byte} of {name}"));
                    small.disk.flip_bit(&name, byte, bit);
                    flips += 1;
                }
            }
        }
        assert_eq!(flips, small.segments().len() as u64 * SEGMENT_BYTES * 8);
    });
}

#[test]
fn every_length_that_a_segment_can_be_cut_to_is_found() {
    both(|small| {
        for name in small.begun() {
            for length in 0..SEGMENT_BYTES {
                let copy = small.disk.copy();
                copy.truncate(&name, length);
                let report = verify(&copy, None, &mut |_| {}).unwrap();
                let what = format!("{name} cut to {length} bytes");
                let first = report.damages.first().unwrap_or_else(|| panic!("{what}: {report:?}"));
                assert_eq!((first.file.as_str(), first.offset), (name.as_str(), 0), "{what}");
                assert!(matches!(first.flaw, Flaw::FileSize { .. }), "{what}: {first}");
                assert_tells(&report.refused.expect(&what), &what);
            }
        }
        // The file that is ready holds nothing: however long it is, all that was written is there.
        let ready = small.segments().pop().unwrap();
        for length in 0..SEGMENT_BYTES {
            let copy = small.disk.copy();
            copy.truncate(&ready, length);
            match Journal::open(Arc::new(copy), small_options()) {
                Ok((journal, _)) => assert_eq!(batches_in(journal.tail().revision), BATCHES),
                Err(error) => assert!(error.to_string().contains(&ready), "{error}"),
            }
        }
    });
}

#[test]
fn every_run_of_zeroed_sectors_is_found_or_was_nothing() {
    both(|small| {
        for name in small.segments() {
            for from in (0..SEGMENT_BYTES).step_by(512) {
                for to in (from + SECTOR..=SEGMENT_BYTES).step_by(512) {
                    let copy = small.disk.copy();
                    copy.overwrite(&name, from, &vec![0; usize::try_from(to - from).unwrap()]);
                    if copy.image(&name) == small.disk.image(&name) {
                        continue;
                    }
                    let what = format!("zeros from {from} to {to} of {name}");
                    let place = small.place_of(&name, from);
                    let frame = small.frames.iter().find(|frame| frame.name == name && frame.offset == place.offset);
                    let to_the_end = to >= small.end_of(&name).0;
                    // Nothing but zeros from a frame's beginning on looks as if the log ended there.
                    let gone = frame.is_some_and(|frame| frame.offset >= from) && to_the_end;
                    let whole_file = from == 0 && to_the_end;
                    if gone || whole_file {
                        assert_gone(small, &copy, &name, from, &what);
                    } else {
                        assert_hole_is_found(small, &copy, &place, to, &what);
                    }
                    assert_open_agrees(&copy, small_options, small_payload, &what);
                }
            }
        }
    });
}

/// A hole over several records: named where it begins, and once more where another record is lost. What comes before the oldest segment
/// is known from its header alone. It is cut only if no whole frame stands behind it, and what was marked as durable before it; in a last frame
/// that nobody was promised it has to be.
fn assert_hole_is_found(small: &Small, copy: &SimDisk, place: &Expected, end: u64, what: &str) {
    let report = verify(copy, None, &mut |_| {}).unwrap();
    let damages: Vec<&Damage> = report.damages.iter().chain(report.torn.iter().map(|cut| &cut.damage)).collect();
    let first = damages.first().unwrap_or_else(|| panic!("{what}: unnoticed"));
    assert_eq!((first.file.as_str(), first.offset), (place.name.as_str(), place.offset), "{what}: {first}");
    let oldest_header = place.offset == 0 && small.frames[0].name == place.name;
    assert!(oldest_header || first.revision == place.revision, "{what}: {first}");
    assert!(damages.iter().all(|damage| damage.file == place.name), "{what}: {damages:?}");
    assert_eq!(report.is_sound(), report.torn.is_some(), "{what}");
    assert_no_whole_frame_is_cut(small, &report, &place.name, place.offset..end, what);
    let least = if small.mark_at_the_end { BATCHES } else { BATCHES - 2 };
    assert!(!report.is_sound() || batches_in(report.tail.revision) >= least, "{what}: cut below the mark");
    if (&place.name, place.offset) == (&small.last().name, small.last().offset) {
        assert_eq!(report.is_sound(), !small.mark_at_the_end, "{what}: a torn last frame");
    }
}

/// Where something is cut for what became of a place, no whole frame goes with it: not one in front of it, and not one behind it.
fn assert_no_whole_frame_is_cut(small: &Small, report: &Report, name: &str, place: Range<u64>, what: &str) {
    if !report.is_sound() {
        return;
    }
    let stands_in = |frame: &Stand| frame.name.as_str().cmp(name);
    let is_behind = |frame: &Stand| (stands_in(frame), frame.offset) >= (Ordering::Equal, place.end);
    assert!(!small.frames.iter().any(is_behind), "{what}: cut in front of whole frames");
    let is_before = |frame: &&Stand| (stands_in(frame), frame.offset + frame.bytes) <= (Ordering::Equal, place.start);
    let before = small.frames.iter().rfind(is_before).map_or(0, |frame| batches_in(frame.first_revision) + 1);
    assert!(batches_in(report.tail.revision) >= before, "{what}: whole frames are cut");
}

/// The frames from an offset of a segment on are gone without a trace: found by what follows, by the mark, or not at all where nobody
/// was promised anything.
fn assert_gone(small: &Small, copy: &SimDisk, name: &str, from: u64, what: &str) {
    let report = verify(copy, None, &mut |_| {}).unwrap();
    let lost = small.frames.iter().find(|frame| frame.name == name && frame.offset >= from).unwrap();
    let follows = small.last().name != name;
    match &report.refused {
        Some(OpenError::Damaged { damage, .. }) => {
            assert!(follows || from == 0, "{what}: {damage}");
            // Where the oldest segment begins, only its header says.
            let known = from > 0 || small.frames[0].name != name;
            assert!(!known || damage.revision == lost.first_revision, "{what}: {damage}");
            // The header of the next segment is what does not fit: it says where the one before had ended.
            assert!(damage.file.as_str() >= name && damage.offset == 0, "{what}: {damage}");
        }
        Some(OpenError::EndsBeforeMark { last_revision, .. }) => {
            assert!(small.mark_at_the_end && !follows, "{what}");
            assert_eq!(*last_revision + 1, lost.first_revision, "{what}");
        }
        Some(other) => panic!("{what}: {other}"),
        None => {
            assert!(!small.mark_at_the_end && !follows, "{what}: unnoticed");
            assert!(batches_in(report.tail.revision) >= BATCHES - 2, "{what}: below the mark");
            assert_eq!(report.tail.revision + 1, lost.first_revision, "{what}: more is gone than was there");
        }
    }
}

/// Every sector of every segment: name, offset, bytes.
fn sectors(small: &Small) -> Vec<(String, u64, Vec<u8>)> {
    let sectors_of = |name: String| {
        let image = small.disk.image(&name).unwrap();
        let cut: Vec<_> = image.chunks(512).map(<[u8]>::to_vec).collect();
        (0..).step_by(512).zip(cut).map(move |(offset, bytes)| (name.clone(), offset, bytes))
    };
    small.segments().into_iter().flat_map(sectors_of).collect()
}

#[test]
fn every_sector_that_stands_where_another_should_is_found() {
    both(|small| {
        let sectors = sectors(small);
        let mut injuries = 0;
        for (left_name, left_at, left) in &sectors {
            for (right_name, right_at, right) in &sectors {
                if left == right {
                    continue;
                }
                injuries += 1;
                // A write went astray: the sector stands at both places.
                let copy = small.disk.copy();
                copy.overwrite(right_name, *right_at, left);
                assert_nothing_wrong_is_taken(
                    small,
                    &copy,
                    &format!("{left_name}:{left_at} over {right_name}:{right_at}"),
                );
                if (left_name, left_at) < (right_name, right_at) {
                    copy.overwrite(left_name, *left_at, right);
                    let what = format!("{left_name}:{left_at} swapped with {right_name}:{right_at}");
                    assert_nothing_wrong_is_taken(small, &copy, &what);
                }
            }
        }
        assert!(injuries > 100);
    });
}

/// Refused; or what is taken is a prefix of what was sent, the promised part at least, and a cut was reported unless nothing is there
/// that could be.
fn assert_nothing_wrong_is_taken(small: &Small, copy: &SimDisk, what: &str) {
    let mut next = small.frames[0].first_revision;
    let report = verify(copy, None, &mut |frame| {
        if frame.first_revision == next && frame.payload == small_payload(batches_in(next)) {
            next = frame.last_revision + 1;
        }
    });
    let report = report.unwrap();
    if let Some(refused) = &report.refused {
        return assert_tells(refused, what);
    }
    assert_eq!(report.tail.revision + 1, next, "{what}: something else than was written is taken");
    let least = if small.mark_at_the_end { BATCHES } else { BATCHES - 2 };
    assert!(batches_in(report.tail.revision) >= least, "{what}: cut below the mark");
    let all = batches_in(report.tail.revision) == BATCHES;
    assert!(report.torn.is_some() || !all || is_whole(small, copy), "{what}: unnoticed");
}

/// All frames stand as they did, and nothing behind them.
fn is_whole(small: &Small, copy: &SimDisk) -> bool {
    small.begun().iter().all(|name| copy.image(name) == small.disk.image(name))
}

/// The bytes of a frame.
fn bytes_of(small: &Small, frame: &Stand) -> Vec<u8> {
    let (from, length) = (usize::try_from(frame.offset).unwrap(), usize::try_from(frame.bytes).unwrap());
    small.disk.image(&frame.name).unwrap()[from..from + length].to_vec()
}

#[test]
fn every_frame_at_every_wrong_place_is_found() {
    both(|small| {
        for frame in &small.frames {
            let bytes = bytes_of(small, frame);
            for name in small.segments() {
                for at in (FIRST_FRAME_AT..=SEGMENT_BYTES - frame.bytes).step_by(512) {
                    if name == frame.name && at == frame.offset {
                        continue;
                    }
                    let copy = small.disk.copy();
                    copy.overwrite(&name, at, &bytes);
                    let what = format!("{frame:?} again at {at} of {name}");
                    assert_nothing_wrong_is_taken(small, &copy, &what);
                    let same = copy.image(&name) == small.disk.image(&name);
                    let report = verify(&copy, None, &mut |_| {}).unwrap();
                    assert!(same || !report.damages.is_empty() || report.torn.is_some(), "{what}: unnoticed");
                    if !same {
                        assert_no_whole_frame_is_cut(small, &report, &name, at..at + frame.bytes, &what);
                    }
                }
            }
        }
    });
}

#[test]
fn every_two_frames_that_change_places_and_every_one_that_is_left_out_are_found() {
    both(|small| {
        for name in small.begun() {
            let here: Vec<&Stand> = small.frames.iter().filter(|frame| frame.name == name).collect();
            for left in 0..here.len() {
                // Left out: those behind it move up.
                let mut order: Vec<usize> = (0..here.len()).collect();
                order.remove(left);
                assert_order_is_found(small, &name, &here, &order);
                // Twice in a row, over the one behind it.
                let mut order: Vec<usize> = (0..here.len()).collect();
                order.insert(left, left);
                order.truncate(here.len());
                assert_order_is_found(small, &name, &here, &order);
                for right in left + 1..here.len() {
                    let mut order: Vec<usize> = (0..here.len()).collect();
                    order.swap(left, right);
                    assert_order_is_found(small, &name, &here, &order);
                }
            }
        }
    });
}

#[test]
fn every_two_frames_of_different_segments_that_change_places_are_found() {
    both(|small| {
        for left in &small.frames {
            for right in small.frames.iter().filter(|right| right.name > left.name && right.bytes == left.bytes) {
                let copy = small.disk.copy();
                copy.overwrite(&left.name, left.offset, &bytes_of(small, right));
                copy.overwrite(&right.name, right.offset, &bytes_of(small, left));
                let what = format!("{left:?} swapped with {right:?}");
                let report = verify(&copy, None, &mut |_| {}).unwrap();
                assert_tells(&report.refused.expect(&what), &what);
            }
        }
        let is_long = |frame: &&Stand| frame.bytes > SECTOR;
        assert!(small.frames.iter().filter(is_long).count() > 1, "also frames of two sectors");
    });
}

fn assert_order_is_found(small: &Small, name: &str, here: &[&Stand], order: &[usize]) {
    let mut image = small.disk.image(name).unwrap()[..512].to_vec();
    order.iter().for_each(|&frame| image.extend(bytes_of(small, here[frame])));
    image.resize(usize::try_from(SEGMENT_BYTES).unwrap(), 0);
    let what = format!("{name} with its frames in the order {order:?}");
    if image == small.disk.image(name).unwrap() || image.len() as u64 > SEGMENT_BYTES {
        return;
    }
    let copy = small.disk.copy();
    copy.put(name, image);
    let report = verify(&copy, None, &mut |_| {}).unwrap();
    let only_the_last_is_missing =
        order.len() + 1 == here.len() && order.iter().enumerate().all(|(at, &frame)| at == frame);
    if only_the_last_is_missing && small.last().name == name {
        assert_eq!(report.is_sound(), !small.mark_at_the_end, "{what}");
        return;
    }
    assert!(!report.is_sound(), "{what}: unnoticed");
    assert_tells(&report.refused.unwrap(), &what);
}

#[test]
fn every_segment_that_stands_under_the_name_of_another_is_found() {
    both(|small| {
        let names = small.segments();
        for left in &names {
            for right in &names {
                let (one, other) = (small.disk.image(left).unwrap(), small.disk.image(right).unwrap());
                if left >= right || one == other {
                    continue;
                }
                let copy = small.disk.copy();
                copy.put(left, other.clone());
                copy.put(right, one);
                let report = verify(&copy, None, &mut |_| {}).unwrap();
                assert_tells(&report.refused.expect("swapped"), &format!("{left} swapped with {right}"));
                let copy = small.disk.copy();
                copy.put(right, small.disk.image(left).unwrap());
                let report = verify(&copy, None, &mut |_| {}).unwrap();
                assert_tells(&report.refused.expect("repeated"), &format!("{left} also as {right}"));
            }
        }
    });
}

#[test]
fn frames_of_a_former_life_behind_the_end_are_never_taken_for_new_ones() {
    // Each segment of a log that goes on, in turn, kept its old frames behind its new ones: as if any part of the zeros that it was
    // filled with had never reached the disk.
    let first = Small::new(true);
    let former: Vec<Vec<u8>> = first.begun().iter().map(|name| first.disk.image(name).unwrap()).collect();
    both(|small| {
        let name = small.last().name.clone();
        let (end, next) = small.end_of(&name);
        for old in former.iter().chain([&older_life()]) {
            for from in (end..SEGMENT_BYTES).step_by(512) {
                for to in (from + SECTOR..=SEGMENT_BYTES).step_by(512) {
                    let range = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
                    let copy = small.disk.copy();
                    copy.overwrite(&name, from, &old[range]);
                    if copy.image(&name) == small.disk.image(&name) {
                        continue;
                    }
                    let what = format!("old bytes from {from} to {to}");
                    // Also those that are whole, and whose revisions would go on: the number of the segment tells.
                    let (journal, recovered) = Journal::open(Arc::new(copy), small_options()).unwrap();
                    assert_eq!(batches_in(journal.tail().revision), BATCHES, "{what}");
                    let cut = recovered.cut.unwrap_or_else(|| panic!("{what}: not reported"));
                    assert_eq!((cut.damage.file.as_str(), cut.damage.revision), (name.as_str(), next), "{what}");
                }
            }
        }
    });
}

/// A segment of the same cell whose frames have the very revisions that come next.
fn older_life() -> Vec<u8> {
    let disk = SimDisk::new(3);
    let options = Options { segment_bytes: SEGMENT_BYTES, ..small_options() };
    let (mut journal, _) = Journal::open(Arc::new(disk.clone()), options).unwrap();
    for batch in 0..BATCHES + 2 {
        journal.append_and_sync(label(batch), &[&small_payload(batch)]).unwrap();
    }
    drop(journal);
    disk.image(&segment::name(1)).unwrap()
}

/// Whether a directory whose log is whole is seen to lack something.
fn finds_damage(disk: &SimDisk) -> bool {
    verify(disk, None, &mut |_| {}).map_or(true, |report| !report.mark_damages.is_empty() || !report.is_sound())
}

#[test]
fn every_bit_and_every_length_of_mark_and_identity_counts() {
    both(|small| {
        for name in ["CELL", "MARK"] {
            let image = small.disk.image(name).unwrap();
            for byte in 0..image.len() as u64 {
                let behind_a_slot = name == "MARK" && byte % 4096 >= SECTOR;
                for bit in 0..8 {
                    small.disk.flip_bit(name, byte, bit);
                    let what = format!("bit {bit} of byte {byte} of {name}");
                    assert_eq!(finds_damage(&small.disk), !behind_a_slot, "{what}");
                    if name == "MARK" {
                        let report = verify(&small.disk, None, &mut |_| {}).unwrap();
                        assert_eq!(report.mark_damages.len(), usize::from(!behind_a_slot), "{what}");
                        assert!(report.is_sound(), "{what}: the other slot is whole");
                    } else {
                        let opened = Journal::open(Arc::new(small.disk.clone()), small_options());
                        assert!(opened.is_err(), "{what}: it is opened all the same");
                    }
                    small.disk.flip_bit(name, byte, bit);
                    if behind_a_slot {
                        break;
                    }
                }
            }
            let needed = if name == "MARK" { 4096 + SECTOR } else { image.len() as u64 };
            for length in 0..needed {
                let copy = small.disk.copy();
                copy.truncate(name, length);
                assert!(finds_damage(&copy), "{name} cut to {length} bytes");
            }
        }
    });
}
