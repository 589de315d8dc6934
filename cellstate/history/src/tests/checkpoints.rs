//! Images of pages, and what makes them a checkpoint.
use super::*;
use crate::{ReadError, StartingPoint, WriteError};

#[test]
fn a_checkpoint_shows_the_newest_image_of_each_page() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 30, 0)).unwrap();
    let live = [pages(2, 2), pages(1, 1)];
    history.checkpoint(12, 4 * SECOND, &live, [page(2, 1, "b"), page(1, 0, "m"), page(2, 0, "a")]).unwrap();
    history.checkpoint(20, 7 * SECOND, &live, [page(2, 1, "B")]).unwrap();
    let live = [pages(1, 1), pages(2, 3)];
    let newest = history.checkpoint(30, 10 * SECOND, &live, [page(2, 2, "c"), page(1, 0, "M")]).unwrap();

    assert_eq!(images(&history, 12), ["1/0=m", "2/0=a", "2/1=b"]);
    assert_eq!(images(&history, 20), ["1/0=m", "2/0=a", "2/1=B"]);
    assert_eq!(images(&history, 30), ["1/0=M", "2/0=a", "2/1=B", "2/2=c"]);
    assert_eq!((newest.images, newest.image_bytes), (2, 2));
    assert_eq!(history.newest_checkpoint(), Some(newest.clone()));

    assert_eq!(history.checkpoint_at_or_before(29).unwrap().unwrap().revision, 20);
    assert_eq!(history.checkpoint_at_or_before(11).unwrap(), None);
    assert_eq!(history.start_for(11).unwrap(), StartingPoint::Empty);
    assert_eq!(history.start_for(30).unwrap(), StartingPoint::Checkpoint(newest));
    assert!(matches!(history.start_for(31), Err(ReadError::NotThere { .. })));
    assert!(matches!(history.pages_at(13), Err(ReadError::NotThere { asked: 13, .. })));
}

#[test]
fn a_page_with_many_images_hides_none_of_its_neighbours() {
    hides_no_neighbours(options());
}

// The store was asked for what the set began with, from behind its end on.
#[test]
fn nor_does_it_where_the_set_begins_with_a_file() {
    hides_no_neighbours(Options { image_file_pages: 1, ..options() });
}

fn hides_no_neighbours(options: Options) {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = History::open(folder.path(), options).unwrap();
    history.append(&batches(1, 90, 0)).unwrap();
    let live = [pages(2, 5)];
    // Pages 1 and 3 change with each of 40 checkpoints, page 2 with every ninth, pages 0 and 4 never.
    for number in 0..40 {
        let changed = (0..5).filter(|page| number == 0 || page % 2 == 1 || (*page == 2 && number % 9 == 0));
        let images: Vec<_> = changed.map(|at| page(2, at, &format!("{at}-{number}"))).collect();
        history.checkpoint(2 * (number + 1), 0, &live, images).unwrap();
    }
    for number in 0..40 {
        let rare = number / 9 * 9;
        let expected =
            [(0, 0), (1, number), (2, rare), (3, number), (4, 0)].map(|(at, of)| format!("2/{at}={at}-{of}"));
        assert_eq!(images(&history, 2 * (number + 1)), expected);
    }
}

// Nothing was taken as long as a checkpoint was written: of a large cell for nearly a second.
#[test]
fn batches_are_taken_while_the_pages_of_a_checkpoint_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let live = [pages(1, 40)];
    let image = |number| PageImage { bytes: vec![b'a'; 40 << 10].into(), ..page(1, number, "") };
    {
        let (history, _) = open(folder.path());
        history.append(&batches(1, 30, 0)).unwrap();
        let images = (0..40).map(|number| {
            let first = u64::from(31 + 3 * number);
            history.append(&batches(first, first, 4 << 10)).unwrap();
            assert_eq!(history.newest_revision(), first + 2);
            image(number)
        });
        history.checkpoint_of_all(30, 0, &live, images).unwrap();
        let later = |number| {
            history.checkpoint_of_all(90, 0, &live, (0..40).map(image)).unwrap();
            image(number)
        };
        let behind = history.checkpoint_of_all(60, 0, &live, (0..40).map(later)).unwrap_err();
        assert!(matches!(behind, WriteError::Behind { revision: 60, newest: 90 }), "{behind}");
        history.persist().unwrap();
    }
    let (history, opened) = open(folder.path());
    assert_eq!((opened.newest_revision, opened.newest_checkpoint.unwrap().revision), (150, 90));
    assert_eq!(revisions(&history, 1, 150), (1..=150).collect::<Vec<_>>());
    for checkpoint in [30, 90] {
        assert_eq!(images(&history, checkpoint).len(), 40);
    }
}

/// A page that was changed, and changed back, was shown as it was in between: the image of the checkpoint that was cut off was the newest one.
#[test]
fn images_that_got_no_record_are_in_no_later_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let live = [pages(1, 4)];
    {
        let (history, _) = open(folder.path());
        history.append(&batches(1, 30, 0)).unwrap();
        history.checkpoint_of_all(10, 0, &live, (0..4).map(|number| page(1, number, "old"))).unwrap();
        let cut_off = history.checkpoint(20, 0, &[pages(1, 4), pages(2, 1)], [page(1, 0, "between")]);
        assert!(matches!(cut_off, Err(WriteError::PageMissing { table: 2, .. })));
        assert!(history.wants_all_pages(1, &live), "in the same process, too");
        history.persist().unwrap();
    }
    let (history, opened) = open(folder.path());
    assert_eq!(opened.newest_checkpoint.unwrap().revision, 10);
    history.append(&batches(1, 30, 0)).unwrap();
    // Page 0 is again as it was at 10.
    let missing = history.checkpoint(30, 0, &live, [page(1, 1, "new")]).unwrap_err();
    assert!(matches!(missing, WriteError::PageMissing { table: 1, page: 0, .. }), "{missing}");
    assert!(history.wants_all_pages(1, &live));
    let now = ["old", "new", "old", "old"];
    history.checkpoint_of_all(30, 0, &live, (0..).zip(now).map(|(number, text)| page(1, number, text))).unwrap();
    assert_eq!(images(&history, 30), ["1/0=old", "1/1=new", "1/2=old", "1/3=old"]);
    assert_eq!(images(&history, 10), ["1/0=old", "1/1=old", "1/2=old", "1/3=old"]);
    assert!(!history.wants_all_pages(1, &live), "to the new set is added");
}

/// A cell of a version that had no such table has none of its pages among those that changed: its history ended at the first checkpoint.
#[test]
fn a_table_that_the_checkpoint_before_knew_nothing_of_wants_all_pages() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 30, 0)).unwrap();
    history.checkpoint_of_all(10, 0, &[pages(1, 4), pages(3, 0)], (0..4).map(|number| page(1, number, "a"))).unwrap();
    assert!(!history.wants_all_pages(1, &[pages(1, 4), pages(3, 1)]), "a table that was empty has pages that changed");
    assert!(history.wants_all_pages(1, &[pages(1, 4), pages(2, 1)]));
}

#[test]
fn a_table_that_shrank_and_grew_again_needs_its_new_pages() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 30, 0)).unwrap();
    history.checkpoint(10, 0, &[pages(5, 2)], [page(5, 0, "a"), page(5, 1, "b")]).unwrap();
    history.checkpoint(20, 0, &[pages(5, 1)], []).unwrap();
    assert_eq!(images(&history, 20), ["5/0=a"]);
    let missing = history.checkpoint(30, 0, &[pages(5, 2)], []).unwrap_err();
    assert!(matches!(missing, WriteError::PageMissing { revision: 30, table: 5, page: 1 }), "{missing}");
    assert_eq!(history.newest_checkpoint().unwrap().revision, 20);
    history.checkpoint(30, 0, &[pages(5, 2)], [page(5, 1, "new")]).unwrap();
    assert_eq!(images(&history, 30), ["5/0=a", "5/1=new"]);
}

#[test]
fn a_checkpoint_out_of_order_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 30, 0)).unwrap();
    assert!(matches!(history.checkpoint(0, 0, &[], []), Err(WriteError::Malformed { .. })));
    history.checkpoint(20, 0, &[], []).unwrap();
    assert!(matches!(history.checkpoint(19, 0, &[], []), Err(WriteError::Behind { revision: 19, newest: 20 })));
    let twice = history.checkpoint(21, 0, &[pages(1, 0), pages(1, 0)], []);
    assert!(matches!(twice, Err(WriteError::Malformed { .. })));
    let stray = history.checkpoint(21, 0, &[pages(1, 1)], [page(1, 1, "x")]);
    assert!(matches!(stray, Err(WriteError::Malformed { .. })));
    assert_eq!(history.newest_checkpoint().unwrap().revision, 20);
}

#[test]
fn a_history_may_begin_with_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    {
        let (history, _) = open(folder.path());
        history.checkpoint(99, 33 * SECOND, &[pages(1, 1)], [page(1, 0, "all")]).unwrap();
        assert_eq!((history.newest_revision(), history.durable_revision()), (99, 99));
        assert!(matches!(history.append(&batches(1, 3, 0)), Ok(())));
        assert!(matches!(history.append(&batches(103, 105, 0)), Err(WriteError::Gap { expected: 100, .. })));
        history.append(&batches(100, 120, 0)).unwrap();
        assert_eq!(history.start_for(110).unwrap(), StartingPoint::Checkpoint(history.newest_checkpoint().unwrap()));
    }
    let (history, opened) = open(folder.path());
    assert_eq!(opened.newest_checkpoint.unwrap().revision, 99);
    history.append(&batches(100, 120, 0)).unwrap();
    assert_eq!(revisions(&history, 100, 120), (100..=120).collect::<Vec<_>>());
    assert!(matches!(history.start_for(98), Err(ReadError::Retired { .. })));
}

#[test]
fn a_checkpoint_may_be_ahead_of_the_batches() {
    let folder = tempfile::tempdir().unwrap();
    {
        let (history, _) = open(folder.path());
        history.append(&batches(1, 30, 0)).unwrap();
        history.checkpoint(60, 20 * SECOND, &[pages(1, 1)], [page(1, 0, "ahead")]).unwrap();
        assert_eq!((history.newest_revision(), history.newest_checkpoint().unwrap().revision), (30, 60));
        assert!(matches!(history.start_for(60), Err(ReadError::NotThere { asked: 60, newest: 30 })));
        assert_eq!(history.start_for(30).unwrap(), StartingPoint::Empty);
        history.persist().unwrap();
    }
    let (history, opened) = open(folder.path());
    assert_eq!((opened.newest_revision, opened.newest_checkpoint.unwrap().revision), (30, 60));
    history.append(&batches(31, 90, 0)).unwrap();
    assert!(matches!(history.start_for(61).unwrap(), StartingPoint::Checkpoint(info) if info.revision == 60));
    assert_eq!(images(&history, 60), ["1/0=ahead"]);
}

#[test]
fn a_leap_gives_up_what_was_never_fed_and_says_that_it_is_retired() {
    let folder = tempfile::tempdir().unwrap();
    {
        let (history, _) = open(folder.path());
        history.append(&batches(1, 30, 0)).unwrap();
        assert!(matches!(history.leap_to(60), Err(WriteError::Behind { .. })), "there is no checkpoint to leap to");
        history.checkpoint(60, 20 * SECOND, &[pages(1, 1)], [page(1, 0, "ahead")]).unwrap();
        history.leap_to(60).unwrap();
        assert!(matches!(history.leap_to(60), Err(WriteError::Behind { .. })), "it is there already");
        assert_eq!((history.oldest_revision(), history.newest_revision()), (61, 60));
        assert_eq!(history.durable_revision(), 60);
        for given_up in [1, 30, 45, 60] {
            assert!(matches!(history.entry(given_up), Err(ReadError::Retired { .. })), "{given_up}");
        }
        assert!(matches!(history.start_for(60).unwrap(), StartingPoint::Checkpoint(info) if info.revision == 60));
        assert!(matches!(history.append(&batches(64, 66, 0)), Err(WriteError::Gap { expected: 61, found: 64 })));
        history.append(&batches(61, 90, 0)).unwrap();
        assert_eq!(revisions(&history, 61, 90).len(), 30);
        assert_eq!(history.revision_at_time(25 * SECOND).unwrap(), 75);
        assert_eq!(history.revision_at_time(20 * SECOND + 1).unwrap(), 60);
        assert!(matches!(history.revision_at_time(20 * SECOND - 1), Err(ReadError::TimeRetired { oldest: 61 })));
        assert!(matches!(history.revision_at_time(5 * SECOND), Err(ReadError::TimeRetired { oldest: 61 })));
        while !history.retire(0).unwrap().done {}
    }
    let (history, opened) = open(folder.path());
    assert_eq!((opened.oldest_revision, history.newest_revision() >= 60), (61, true));
    assert!(matches!(history.entry(30), Err(ReadError::Retired { .. })));
    history.append(&batches(61, 120, 0)).unwrap();
    assert_eq!(images(&history, 60), ["1/0=ahead"]);
}

#[test]
fn a_large_checkpoint_goes_through_little_memory_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 3, 0)).unwrap();
    let text = |number: u32| format!("{number:0>9000}");
    let all = (0..500).map(|number| page(6, number, &text(number)));
    let info = history.checkpoint(3, SECOND, &[pages(6, 500)], all).unwrap();
    assert_eq!((info.images, info.image_bytes), (500, 4_500_000));
    let read = history.pages_at(3).unwrap().map(Result::unwrap);
    assert!(read.zip(0..).all(|(image, number)| image == page(6, number, &text(number))));
    assert_eq!(history.pages_at(3).unwrap().count(), 500);
}
