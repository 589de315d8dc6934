//! What is fed can be read, and only what follows is taken.
use super::*;
use crate::{OpenError, ReadError, WriteError};

#[test]
fn an_empty_folder_becomes_an_empty_history() {
    let folder = tempfile::tempdir().unwrap();
    let (history, opened) = open(&folder.path().join("new/history"));
    assert_eq!((opened.newest_revision, opened.oldest_revision), (0, 0));
    assert!(opened.newest_checkpoint.is_none() && opened.journal_set_aside.is_none());
    assert!(matches!(history.entry(1), Err(ReadError::NotThere { asked: 1, newest: 0 })));
    assert!(matches!(history.revision_at_time(5), Err(ReadError::BeforeFirst)));
    assert_eq!(history.start_for(0).unwrap(), crate::StartingPoint::Empty);
}

#[test]
fn what_was_fed_is_read_back_across_blocks_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    for batch in batches(1, 300, 200) {
        history.append(&[batch]).unwrap();
    }
    assert_eq!(history.newest_revision(), 300);
    assert_eq!(revisions(&history, 1, 300), (1..=300).collect::<Vec<_>>());
    assert_eq!(revisions(&history, 17, 18), [17, 18]);
    assert!(revisions(&history, 5, 4).is_empty());
    for revision in [1, 2, 150, 299, 300] {
        let logged = history.entry(revision).unwrap();
        assert_eq!(logged.entry, entry(revision, 200));
        assert_eq!(
            (logged.core_version, logged.time_micros),
            (1, i64::try_from(revision.div_ceil(3)).unwrap() * SECOND)
        );
    }
    assert!(matches!(history.entry(0), Err(ReadError::NotThere { .. })));
    assert!(matches!(history.entry(301), Err(ReadError::NotThere { asked: 301, newest: 300 })));
    assert!(matches!(history.entries(1, 301), Err(ReadError::NotThere { .. })));
}

#[test]
fn feeding_again_changes_nothing_and_a_gap_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let all = batches(1, 90, 100);
    history.append(&all[..20]).unwrap();
    history.append(&all[5..25]).unwrap();
    history.append(&all).unwrap();
    assert_eq!(revisions(&history, 1, 90), (1..=90).collect::<Vec<_>>());

    let gap = history.append(&batches(94, 99, 0)).unwrap_err();
    assert!(matches!(gap, WriteError::Gap { expected: 91, found: 94 }), "{gap}");
    let overlap = history.append(&[batch(99 * SECOND, (89..=92).map(|revision| entry(revision, 0)).collect())]);
    assert!(matches!(overlap, Err(WriteError::Overlap { first: 89, last: 92, newest: 90 })));
    assert_eq!(history.newest_revision(), 90);
}

#[test]
fn batches_before_a_refused_one_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let mut some = batches(1, 9, 0);
    some.extend(batches(13, 15, 0));
    assert!(matches!(history.append(&some), Err(WriteError::Gap { expected: 10, found: 13 })));
    assert_eq!(revisions(&history, 1, 9), (1..=9).collect::<Vec<_>>());
    history.append(&batches(10, 15, 0)).unwrap();
    assert_eq!(history.newest_revision(), 15);
}

#[test]
fn a_batch_that_contradicts_itself_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 3, 0)).unwrap();
    let good = batches(4, 6, 0).remove(0);
    let wrong = [
        EncodedBatch { bytes: Bytes::from_static(b"\xff\xff\xff"), ..good.clone() },
        EncodedBatch { last: 7, ..good.clone() },
        EncodedBatch { last: 3, ..good.clone() },
        EncodedBatch { last: u64::MAX, ..good.clone() },
        EncodedBatch { time_micros: 0, ..good.clone() },
        EncodedBatch { bytes: batch(SECOND, vec![entry(4, 0), entry(6, 0), entry(5, 0)]).bytes, ..good.clone() },
    ];
    for batch in wrong {
        assert!(matches!(history.append(&[batch]), Err(WriteError::Malformed { revision: 4, .. })));
    }
    history.append(&[good]).unwrap();
    assert_eq!(history.newest_revision(), 6);
}

#[test]
fn a_history_may_begin_where_the_log_begins() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(100, 120, 0)).unwrap();
    assert_eq!(history.oldest_revision(), 100);
    assert!(matches!(history.entry(99), Err(ReadError::Retired { asked: 99, oldest: 100 })));
    assert!(matches!(history.start_for(110), Err(ReadError::Retired { .. })));
    assert!(matches!(history.revision_at_time(SECOND), Err(ReadError::TimeRetired { oldest: 100 })));
}

#[test]
fn a_time_gives_the_newest_revision_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 300, 100)).unwrap();
    for second in [1, 2, 50, 99, 100] {
        let expected = u64::try_from(second).unwrap() * 3;
        assert_eq!(history.revision_at_time(second * SECOND).unwrap(), expected);
        assert_eq!(history.revision_at_time(second * SECOND + 999_999).unwrap(), expected);
    }
    assert_eq!(history.revision_at_time(i64::MAX).unwrap(), 300);
    assert!(matches!(history.revision_at_time(SECOND - 1), Err(ReadError::BeforeFirst)));
    assert!(matches!(history.revision_at_time(i64::MIN), Err(ReadError::BeforeFirst)));
}

#[test]
fn a_batch_larger_than_a_block_is_kept_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 9, 300_000)).unwrap();
    history.persist().unwrap();
    assert_eq!(history.entry(8).unwrap().entry, entry(8, 300_000));
    assert_eq!(history.durable_revision(), 9);
}

#[test]
fn another_cells_or_formats_history_and_other_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    drop(open(&path));
    let other = History::open(&path, Options::new(*b"another cell"));
    assert!(matches!(other, Err(OpenError::OtherCell { .. })));
    let identity = std::fs::read_to_string(path.join("identity")).unwrap();
    std::fs::write(path.join("identity"), identity.replace("format 8", "format 9")).unwrap();
    assert!(matches!(History::open(&path, options()), Err(OpenError::OtherFormat { expected: 8, .. })));
    std::fs::write(path.join("identity"), b"\xff").unwrap();
    assert!(matches!(History::open(&path, options()), Err(OpenError::Damaged { .. })));
    assert!(matches!(History::open(folder.path(), options()), Err(OpenError::NotAHistory { .. })));
    assert!(matches!(History::open(folder.path(), Options::new(*b"")), Err(OpenError::Setting { .. })));
}

/// Makes a history's identity that of an earlier version's. Gives it, and what it was.
fn of_an_earlier_format(path: &Path) -> (String, String) {
    let newest = std::fs::read_to_string(path.join("identity")).unwrap();
    let earlier = newest.replace("format 8", "format 2");
    assert_ne!(earlier, newest);
    std::fs::write(path.join("identity"), &earlier).unwrap();
    (earlier, newest)
}

#[test]
fn a_history_of_an_earlier_format_is_read_and_raised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    drop(open(&path));
    let (_, newest) = of_an_earlier_format(&path);
    drop(open(&path));
    assert_eq!(std::fs::read_to_string(path.join("identity")).unwrap(), newest);
}

// A backup was asked of a running server's directory, and refused: the server, of an earlier version, could not open its history any more.
#[test]
fn the_format_of_a_history_that_can_not_be_opened_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let (running, _) = open(&path);
    running.append(&batches(1, 9, 0)).unwrap();
    running.persist().unwrap();
    let (earlier, newest) = of_an_earlier_format(&path);
    let identity = || std::fs::read_to_string(path.join("identity")).unwrap();
    assert!(matches!(History::open(&path, options()), Err(OpenError::Locked { .. })));
    assert_eq!(identity(), earlier, "another process has it");
    drop(running);
    let current = path.join("store/keyspaces/1/current");
    let whole = std::fs::read(&current).unwrap();
    std::fs::write(&current, &whole[1..]).unwrap();
    assert!(matches!(History::open(&path, options()), Err(OpenError::Damaged { .. })));
    assert_eq!(identity(), earlier, "it is damaged");
    std::fs::write(&current, whole).unwrap();
    let (_, opened) = open(&path);
    assert_eq!((opened.newest_revision, identity()), (9, newest));
}

#[test]
fn a_history_is_open_once_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _) = open(folder.path());
    assert!(matches!(History::open(folder.path(), options()), Err(OpenError::Locked { .. })));
    drop(first);
    open(folder.path());
}
