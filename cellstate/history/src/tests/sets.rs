//! Images come in sets, and go as such.
use super::*;
use crate::keys::{self, ImageKey, Shelf};
use crate::records::CheckpointRecord;
use crate::{ReadError, StartingPoint, WriteError};
use std::collections::BTreeSet;

fn retire_all(history: &History, keep_from: u64) {
    while !history.retire(keep_from).unwrap().done {}
}

/// Images that the store has of sets from one on to another.
fn images_of_sets(history: &History, sets: std::ops::RangeInclusive<u64>) -> usize {
    let keys = ImageKey::first_of(*sets.start()).encode()..=ImageKey::last_of(*sets.end()).encode();
    history.store().unwrap().rows(Shelf::Images, keys).count()
}

/// Images of formats up to 4.
fn old_images(history: &History) -> usize {
    let keys = ImageKey::first_of(0).encode()..=ImageKey::last_of(0).encode();
    history.store().unwrap().rows(Shelf::Pages, keys).count()
}

fn all(text: &str) -> impl Iterator<Item = PageImage> {
    (0..3).map(move |number| page(1, number, text))
}

#[test]
fn a_set_goes_when_the_floor_is_in_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 180, 200)).unwrap();
    let live = [pages(1, 3)];
    history.checkpoint_of_all(30, 0, &live, all("a")).unwrap();
    history.checkpoint(60, 0, &live, [page(1, 1, "b")]).unwrap();
    history.checkpoint_of_all(90, 0, &live, all("c")).unwrap();
    history.checkpoint(120, 0, &live, [page(1, 2, "d")]).unwrap();
    assert_eq!((images_of_sets(&history, 1..=89), images_of_sets(&history, 90..=180)), (4, 4));

    retire_all(&history, 70);
    assert_eq!(history.oldest_revision(), 60);
    assert_eq!(images_of_sets(&history, 1..=89), 4, "the checkpoint at 60 needs images of 30");
    assert_eq!(images(&history, 60), ["1/0=a", "1/1=b", "1/2=a"]);

    retire_all(&history, 130);
    assert_eq!(history.oldest_revision(), 120);
    assert_eq!((images_of_sets(&history, 1..=89), images_of_sets(&history, 90..=180)), (0, 4));
    assert_eq!(images(&history, 120), ["1/0=c", "1/1=c", "1/2=d"]);
    drop(history);
    assert_eq!(images(&open(folder.path()).0, 120), ["1/0=c", "1/1=c", "1/2=d"]);
}

// The mark of nothing, which has the worker merge tables where too many wait, lay behind all sets: a table that it came into did not go, and all later ones
// lay across it.
#[test]
fn a_set_goes_with_the_mark_of_nothing_that_came_into_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 90, 0)).unwrap();
    let live = [pages(1, 3)];
    let mut changes = history.store().unwrap().changes();
    changes.remove(Shelf::Images, keys::of_nothing(Shelf::Images));
    changes.commit().unwrap();
    history.checkpoint_of_all(10, 0, &live, all("a")).unwrap();
    history.checkpoint_of_all(60, 0, &live, all("b")).unwrap();
    retire_all(&history, 60);
    assert_eq!((images_of_sets(&history, 1..=59), images_of_sets(&history, 60..=90)), (0, 3));
}

#[test]
fn other_starts_are_of_other_sets_and_further_and_further_back() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 300, 0)).unwrap();
    let live = [pages(1, 3)];
    for set in 1..=10 {
        history.checkpoint_of_all(20 * set, 0, &live, all("a")).unwrap();
        history.checkpoint(20 * set + 10, 0, &live, [page(1, 1, "b")]).unwrap();
    }
    let before = |revision| {
        let checkpoint = history.checkpoint_at_or_before(revision).unwrap().unwrap();
        let starts = history.starts_before(&checkpoint).unwrap().into_iter().map(|start| match start {
            StartingPoint::Empty => 0,
            StartingPoint::Checkpoint(info) => info.revision,
        });
        starts.collect::<Vec<_>>()
    };
    assert_eq!(before(210), [200, 190, 170, 130, 50, 30, 0]);
    assert_eq!(before(200), [190, 170, 130, 50, 30, 0]);
    assert_eq!((before(40), before(30), before(20)), (vec![30, 0], vec![20, 0], vec![0]));
    retire_all(&history, 130);
    assert_eq!(before(210), [200, 190, 170, 130]);
    assert_eq!(before(130), []);
}

#[test]
fn a_set_begins_when_most_pages_changed_or_what_was_added_weighs_as_much() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    assert!(history.wants_all_pages(0, &[pages(1, 100)]), "there is none to add to");
    history.append(&batches(1, 90, 0)).unwrap();
    let live = [pages(1, 3)];
    history.checkpoint_of_all(10, 0, &live, all("1234")).unwrap();
    assert!(!history.wants_all_pages(49, &[pages(1, 100)]));
    assert!(history.wants_all_pages(50, &[pages(1, 100)]));
    history.checkpoint(20, 0, &live, [page(1, 0, "12345678901")]).unwrap();
    assert!(!history.wants_all_pages(1, &[pages(1, 100)]));
    drop(history);
    let (history, _) = open(folder.path());
    assert!(!history.wants_all_pages(1, &[pages(1, 100)]));
    history.checkpoint(30, 0, &live, [page(1, 0, "1")]).unwrap();
    assert!(history.wants_all_pages(1, &[pages(1, 100)]));
    history.checkpoint_of_all(40, 0, &live, all("1")).unwrap();
    assert!(!history.wants_all_pages(1, &[pages(1, 100)]));
}

#[test]
fn a_set_that_lacks_a_page_is_refused_and_the_one_before_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 90, 0)).unwrap();
    let live = [pages(1, 3)];
    history.checkpoint_of_all(10, 0, &live, all("a")).unwrap();
    let missing = history.checkpoint_of_all(20, 0, &live, all("b").take(2)).unwrap_err();
    assert!(matches!(missing, WriteError::PageMissing { revision: 20, table: 1, page: 2 }), "{missing}");
    history.checkpoint(30, 0, &live, [page(1, 0, "c")]).unwrap();
    assert_eq!(images(&history, 30), ["1/0=c", "1/1=a", "1/2=a"]);
    history.checkpoint_of_all(40, 0, &live, all("d")).unwrap();
    assert_eq!(images(&history, 40), ["1/0=d", "1/1=d", "1/2=d"]);
    retire_all(&history, 90);
    assert_eq!(images_of_sets(&history, 1..=39), 0, "images of the refused set are gone, too");
}

#[test]
fn who_reads_a_checkpoint_while_it_is_retired_gets_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 90, 0)).unwrap();
    let live = [pages(1, 3)];
    history.checkpoint_of_all(10, 0, &live, all("a")).unwrap();
    let mut reader = history.pages_at(10).unwrap();
    for revision in [60, 70, 80] {
        history.checkpoint_of_all(revision, 0, &live, all("b")).unwrap();
        retire_all(&history, revision);
        history.persist().unwrap();
        assert!(matches!(history.pages_at(10), Err(ReadError::Retired { asked: 10, .. })));
        assert_eq!(&reader.next().unwrap().unwrap().bytes[..], b"a");
    }
    assert!(reader.next().is_none());
}

#[test]
fn images_of_older_formats_are_read_until_a_set_follows_and_go_then() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 90, 0)).unwrap();
    let live = [pages(1, 3)];
    let mut changes = history.store().unwrap().changes();
    for (number, revision, text) in [(0, 10, "a"), (1, 10, "b"), (2, 10, "c"), (1, 20, "B")] {
        let key = ImageKey { set: 0, table: 1, page: number, revision };
        changes.put(Shelf::Pages, key.encode(), text.as_bytes());
    }
    let record = CheckpointRecord { tables: vec![1], pages: vec![3], ..Default::default() };
    changes.put_message(Shelf::Pages, keys::checkpoint(10), &record);
    changes.put_message(Shelf::Pages, keys::checkpoint(20), &record);
    changes.commit().unwrap();
    drop(history);

    let (history, opened) = open(folder.path());
    assert_eq!(opened.newest_checkpoint.unwrap().revision, 20);
    history.append(&batches(1, 90, 0)).unwrap();
    assert_eq!(images(&history, 10), ["1/0=a", "1/1=b", "1/2=c"]);
    assert_eq!(images(&history, 20), ["1/0=a", "1/1=B", "1/2=c"]);
    assert!(history.wants_all_pages(0, &live));
    let missing = history.checkpoint(30, 0, &live, [page(1, 0, "A")]).unwrap_err();
    assert!(matches!(missing, WriteError::PageMissing { revision: 30, page: 1, .. }), "{missing}");
    retire_all(&history, 25);
    assert_eq!((history.oldest_revision(), old_images(&history)), (20, 4));
    history.checkpoint_of_all(30, 0, &live, all("new")).unwrap();
    assert_eq!(images(&history, 20), ["1/0=a", "1/1=B", "1/2=c"]);
    retire_all(&history, 40);
    assert_eq!((history.oldest_revision(), old_images(&history)), (30, 0));
    assert_eq!(images(&history, 30), ["1/0=new", "1/1=new", "1/2=new"]);
}

/// Images of format 4, in tables, and a set after them that the floor has come to.
fn with_old_images_behind_the_floor(history: &History) {
    history.append(&batches(1, 90, 0)).unwrap();
    let store = history.store().unwrap();
    let mut changes = store.changes();
    for (number, seed) in (0..3_000).zip(1_u32..) {
        let noise: Vec<u8> =
            (0..300_u32).map(|at| (at + 1).wrapping_mul(seed).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        changes.put(Shelf::Pages, ImageKey { set: 0, table: 1, page: number, revision: 10 }.encode(), &noise);
    }
    let record = CheckpointRecord { tables: vec![1], pages: vec![3_000], ..Default::default() };
    changes.put_message(Shelf::Pages, keys::checkpoint(10), &record);
    changes.commit().unwrap();
    history.persist().unwrap();
    assert!(store.bytes_in_tables(Shelf::Pages) > 500_000);
    history.checkpoint_of_all(30, 0, &[pages(1, 3)], all("new")).unwrap();
}

#[test]
fn the_room_of_images_of_older_formats_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    with_old_images_behind_the_floor(&history);
    retire_all(&history, 40);
    let rest = history.store().unwrap().bytes_in_tables(Shelf::Pages);
    assert!(rest < 50_000, "{rest} bytes are left");
}

#[test]
fn the_room_of_images_of_older_formats_is_given_back_after_an_end_between_removing_and_merging() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    with_old_images_behind_the_floor(&history);
    while old_images(&history) > 0 {
        assert!(!history.retire(40).unwrap().done);
    }
    history.persist().unwrap();
    drop(history);
    let (history, _) = open(folder.path());
    retire_all(&history, 40);
    let rest = history.store().unwrap().bytes_in_tables(Shelf::Pages);
    assert!(rest < 50_000, "{rest} bytes are left");
}

#[test]
fn the_key_of_an_image_says_set_page_and_revision() {
    for set in [0, 1, u64::MAX] {
        let key = ImageKey { set, table: 6, page: 70_000, revision: 9 };
        assert_eq!(ImageKey::decode(&key.encode()), Some(key));
        assert!(ImageKey::first_of(set).encode() < key.encode() && key.encode() < ImageKey::last_of(set).encode());
        let described = keys::describe(ImageKey::shelf(set), &key.encode());
        assert!(described.contains("page 70000 of table 6 at revision 9"), "{described}");
    }
    assert!(ImageKey::last_of(7).encode() < ImageKey::first_of(8).encode());
    assert_eq!([0, 13, 15, 20, 22].map(|length| ImageKey::decode(&vec![1; length])), [None; 5]);
}

/// Pages of ten numbers, as checkpoints are to show them: each of text that tells its number and when it changed.
type Picture = [u64; 10];

fn image_of(picture: &Picture, number: usize) -> PageImage {
    page(1, u32::try_from(number).unwrap(), &format!("{number} of {} {}", picture[number], "x".repeat(200)))
}

/// All checkpoints from the floor on show what they were given, and the newest one that was durable is there; and so does the next one,
/// for which all but one page is as at the newest, whatever had changed in between.
fn check_after_power_cut(from: &Path, given: &[(u64, Picture)], durable: u64, floor: u64) {
    let (history, opened) = open(from);
    let newest = opened.newest_checkpoint.map_or(0, |info| info.revision);
    assert!(newest >= durable, "the newest checkpoint is {newest}, and {durable} was durable");
    let oldest = history.oldest_revision();
    assert!(oldest >= floor && (oldest <= newest || oldest == 1), "from {oldest}, {floor}, to {newest}");
    let left = given.iter().filter(|(revision, _)| (floor..=newest).contains(revision) && *revision >= oldest);
    for (revision, picture) in left {
        let expected: Vec<PageImage> = (0..10).map(|number| image_of(picture, number)).collect();
        let found: Vec<PageImage> = history.pages_at(*revision).unwrap().map(Result::unwrap).collect();
        assert_eq!(found, expected, "at {revision}");
    }
    let mut next =
        given.iter().find(|(revision, _)| *revision == newest).map_or_else(Picture::default, |found| found.1);
    next[7] = 1_000;
    let live = [pages(1, 10)];
    let all = (0..10).map(|number| image_of(&next, number));
    if history.wants_all_pages(1, &live) {
        history.checkpoint_of_all(1_000, 0, &live, all.clone()).unwrap();
    } else {
        history.checkpoint(1_000, 0, &live, [image_of(&next, 7)]).unwrap();
    }
    assert!(history.pages_at(1_000).unwrap().map(Result::unwrap).eq(all), "after what was at {newest}");
    while !history.retire(newest).unwrap().done {}
}

#[test]
fn a_power_cut_at_any_time_leaves_all_checkpoints_from_the_floor_on() {
    cut_at_any_time(&options());
}

#[test]
fn so_it_does_where_sets_begin_with_files() {
    cut_at_any_time(&Options { image_file_pages: 1, ..options() });
}

fn cut_at_any_time(options: &Options) {
    let folder = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let open = || History::open(&path, options.clone()).unwrap().0;
    let mut history = open();
    history.append(&batches(1, 600, 0)).unwrap();
    history.persist().unwrap();
    let (mut picture, mut changed, mut given, mut durable) = (Picture::default(), BTreeSet::new(), vec![], 0);
    let mut random = 7_u64;
    let mut below = |end: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    let mut cuts = 0;
    for revision in (3..=180).step_by(3) {
        for number in (0..10).filter(|_| below(4) == 0) {
            picture[number] = revision;
            changed.insert(number);
        }
        given.push((revision, picture));
        let whole = history.wants_all_pages(changed.len(), &[pages(1, 10)]);
        let (fails, cut) = (below(8) == 0, below(12));
        let numbers = if whole { (0..10).collect() } else { changed.clone() };
        let floor = history.oldest_revision();
        let power_cut = |history: &History, cuts: &mut u32, given: &[(u64, Picture)], durable, floor| {
            let copy = copies.path().join(cuts.to_string());
            *cuts += 1;
            copy_of(history, &path, &copy);
            for entry in std::fs::read_dir(copy.join("store")).unwrap() {
                let file = entry.unwrap().path();
                if file.extension().is_some_and(|extension| extension == "jnl") && cuts.is_multiple_of(2) {
                    std::fs::write(&file, [9; 100]).unwrap();
                }
            }
            check_after_power_cut(&copy, given, durable, floor);
        };
        let images = numbers.into_iter().zip(0..).map(|(number, position)| {
            if position == cut {
                power_cut(&history, &mut cuts, &given, durable, floor);
            }
            image_of(&picture, number)
        });
        // What fails lacks a page, or has one too many.
        let live = [pages(1, if fails && whole { 11 } else { 10 })];
        let written = if whole {
            history.checkpoint_of_all(revision, 0, &live, images)
        } else if fails {
            history.checkpoint(revision, 0, &live, images.chain([page(1, 99, "")]))
        } else {
            history.checkpoint(revision, 0, &live, images)
        };
        if written.is_ok() {
            durable = revision;
            changed.clear();
        } else {
            given.pop();
        }
        if below(3) == 0 {
            history.retire(revision.saturating_sub(30)).unwrap();
            power_cut(&history, &mut cuts, &given, durable, history.oldest_revision());
        }
        if below(15) == 0 {
            drop(history);
            history = open();
        }
    }
    assert!(cuts > 20, "{cuts}");
}
