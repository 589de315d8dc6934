//! What is too old leaves, and what is needed stays.
use super::*;
use crate::block::time_row;
use crate::keys::{self, Shelf};
use crate::records::TimeRecord;
use crate::retire::first_beyond;
use crate::store::decode;
use crate::{GroupBy, Lookup, Order, ReadError, StartingPoint};

pub(super) fn retire_all(history: &History, keep_from: u64) -> u64 {
    for _ in 0..1_000 {
        let retirement = history.retire(keep_from).unwrap();
        if retirement.done {
            return retirement.oldest;
        }
    }
    panic!("retiring never ends");
}

/// Damages the row of the block that holds a revision.
fn damage_block(history: &History, revision: u64) {
    let store = history.store().unwrap();
    let block = store.last(Shelf::Blocks, keys::block(0)..=keys::block(revision)).unwrap().unwrap();
    let mut changes = store.changes();
    changes.put(Shelf::Blocks, block.key, b"something else");
    changes.commit().unwrap();
}

/// 3000 revisions with a checkpoint every 300; each revision is a transaction of session 1, which loses a claim.
pub(super) fn long_history(history: &History) {
    history.append(&[batch(SECOND, vec![opening(1, "batch"), opening(2, "service"), closing(3, 2)])]).unwrap();
    for first in (4..=3000).step_by(9) {
        let entries = (first..first + 9).map(|revision| lost(revision, 1, 1, &[("service", 1, 1)])).collect();
        let batch = batch(i64::try_from(first).unwrap() * SECOND, entries);
        let last = batch.last;
        history.append(&[batch]).unwrap();
        if (last - 3).is_multiple_of(297) {
            let changed = [page(1, 0, &last.to_string()), page(2, u32::try_from(last / 300).unwrap() % 3, "x")];
            let all = (0..3).map(|number| page(2, number, "start"));
            let live = [pages(1, 1), pages(2, 3)];
            if history.newest_checkpoint().is_none() {
                history.checkpoint(last, 0, &live, all.chain([page(1, 0, "first")])).unwrap();
            } else {
                history.checkpoint(last, 0, &live, changed).unwrap();
            }
        }
    }
}

#[test]
fn retiring_moves_to_a_checkpoint_and_keeps_what_follows() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    long_history(&history);
    assert_eq!(history.newest_revision(), 3000);
    let before = images(&history, 1488);
    let later = images(&history, 2973);

    assert_eq!(retire_all(&history, 1600), 1488);
    assert_eq!(history.oldest_revision(), 1488);
    assert_eq!(images(&history, 1488), before);
    assert_eq!(images(&history, 2973), later);
    assert_eq!(revisions(&history, 1488, 3000), (1488..=3000).collect::<Vec<_>>());
    assert!(matches!(history.start_for(1500).unwrap(), StartingPoint::Checkpoint(info) if info.revision == 1488));

    assert!(matches!(history.entry(1487), Err(ReadError::Retired { asked: 1487, oldest: 1488 })));
    assert!(matches!(history.start_for(1487), Err(ReadError::Retired { .. })));
    assert!(matches!(history.pages_at(1191), Err(ReadError::Retired { .. })));
    assert!(matches!(history.revision_at_time(900 * SECOND), Err(ReadError::TimeRetired { oldest: 1488 })));
    assert_eq!(history.transaction(1, 900).unwrap(), Lookup::Retired { oldest: 1488 });
    assert_eq!(history.transaction(1, 2000).unwrap(), Lookup::Found(2000));
    assert_eq!(history.transaction(1, 5000).unwrap(), Lookup::NeverWas);
    assert_eq!(history.session(1).unwrap().found().unwrap().scheduler, "batch");
    assert_eq!(history.session(2).unwrap(), Lookup::Retired { oldest: 1488 });
    assert_eq!(listed(&history, 0..=u64::MAX, Order::OldestFirst, 1, |_| true).0, [1488]);
    assert_eq!(history.conflicts(0, u64::MAX, GroupBy::Pair, 1, None).unwrap().rows[0].transactions, 3000 - 1488 + 1);
}

#[test]
fn what_was_retired_stays_so_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let (history, _) = open(folder.path());
        long_history(&history);
        history.retire(2000).unwrap();
        history.persist().unwrap();
    }
    let (history, opened) = open(folder.path());
    assert_eq!((opened.oldest_revision, opened.newest_revision), (1785, 3000));
    assert_eq!(retire_all(&history, 2000), 1785);
    assert_eq!(retire_all(&history, 0), 1785, "nothing comes back");
    assert_eq!(revisions(&history, 1785, 3000).len(), 3000 - 1785 + 1);
    history.append(&[batch(3001 * SECOND, vec![entry(3001, 0)])]).unwrap();
}

#[test]
fn without_a_checkpoint_nothing_is_retired() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 300, 100)).unwrap();
    assert_eq!(retire_all(&history, 300), 1);
    assert_eq!(revisions(&history, 1, 300).len(), 300);
}

// Whether the first checkpoint came so early was a matter of chance. Then the empty cell was given up, of which all deltas are there: a cell
// whose images were damaged could not be started from its log any more.
#[test]
fn a_checkpoint_of_the_first_revision_leaves_the_empty_cell_to_start_from() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&[batch(SECOND, vec![entry(1, 0)])]).unwrap();
    history.checkpoint(1, 0, &[pages(1, 1)], [page(1, 0, "first")]).unwrap();
    history.append(&[batch(SECOND, (2..=9).map(|revision| entry(revision, 0)).collect())]).unwrap();
    let newest = history.checkpoint(9, 0, &[pages(1, 1)], [page(1, 0, "newest")]).unwrap();
    assert_eq!(retire_all(&history, history.retention_floor(0).unwrap()), 1);
    assert_eq!(history.start_for(0).unwrap(), StartingPoint::Empty);
    assert_eq!(history.starts_before(&newest).unwrap().last(), Some(&StartingPoint::Empty));
    assert_eq!(revisions(&history, 1, 9), (1..=9).collect::<Vec<_>>());
    drop(history);
    let (history, _) = open(folder.path());
    assert_eq!(history.start_for(0).unwrap(), StartingPoint::Empty);
}

#[test]
fn room_is_given_back() {
    room_is_given_back_of_what_is_retired(None);
}

/// Nothing of what was retired later than a block whose row was damaged was cleared away any more.
#[test]
fn room_is_given_back_behind_a_damaged_block() {
    room_is_given_back_of_what_is_retired(Some(3_000));
}

/// Batches of three revisions, each of which has so many names of 64 letters that can hardly be compressed.
fn of_random_names(from: u64, to: u64, names: usize) -> Vec<EncodedBatch> {
    let mut state = from;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{state:016x}")
    };
    let mut made = Vec::new();
    for first in (from..=to).step_by(3) {
        let entries = (first..first + 3).map(|revision| {
            let scheduler_names = (0..names).map(|_| [word(), word(), word(), word()].concat()).collect();
            changing(v1::Delta { revision, scheduler_names, ..Default::default() })
        });
        made.push(batch(i64::try_from(first).unwrap() * SECOND, entries.collect()));
    }
    made
}

// How much had been let go of, and was still in tables, was forgotten at each start: of a server that is started often nothing ever left the disk.
#[test]
fn what_is_retired_leaves_the_disk_also_where_no_life_retires_much() {
    let folder = tempfile::tempdir().unwrap();
    let mut oldest = Vec::new();
    for life in 0..3 {
        let (history, _) = open(folder.path());
        let (first, last) = (1 + 60 * life, 60 * (life + 1));
        history.append(&of_random_names(first, last, 47)).unwrap();
        history.checkpoint(last, 0, &[pages(1, 1)], [page(1, 0, "x")]).unwrap();
        assert_eq!(retire_all(&history, last), last);
        history.persist().unwrap();
        let all = keys::block(0)..=keys::block(u64::MAX);
        let row = history.store().unwrap().first(Shelf::Blocks, all).unwrap().unwrap();
        oldest.push(crate::block::first_of(Shelf::Blocks, &row.key).unwrap());
    }
    assert!(
        oldest[0] == 1 && oldest[2] > 60,
        "what one life retires is too little, and that of two is not: {oldest:?}"
    );
}

fn room_is_given_back_of_what_is_retired(damaged: Option<u64>) {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    for first in (1..6_000).step_by(600) {
        history.append(&batches(first, first + 599, 2_000)).unwrap();
        history.checkpoint(first + 599, 0, &[pages(1, 1)], [page(1, 0, "x")]).unwrap();
    }
    history.persist().unwrap();
    if let Some(revision) = damaged {
        damage_block(&history, revision);
    }
    let full = history.disk_bytes();
    assert_eq!(retire_all(&history, 5_700), 5_400);
    let rest = history.disk_bytes();
    assert!(rest < full / 4, "{rest} of {full} bytes are left");
    let filters = history.store().unwrap().rows(Shelf::Filters, keys::block(0)..=keys::block(u64::MAX));
    let oldest = filters.map(|row| crate::block::first_of(Shelf::Filters, &row.unwrap().key).unwrap()).min();
    assert!(oldest > Some(5_000), "filters go with their blocks: {oldest:?}");
    let all = keys::time(i64::MIN, 0)..=keys::time(i64::MAX, u64::MAX);
    let oldest = history.store().unwrap().first(Shelf::Index, all).unwrap().unwrap();
    assert!(time_row(&oldest).unwrap().1 > 5_000, "and what the index has about them");
    drop(history);
    let (history, opened) = open(folder.path());
    assert_eq!((opened.oldest_revision, opened.newest_revision), (5_400, 6_000));
    assert_eq!(revisions(&history, 5_400, 6_000).len(), 601);
    history.append(&batches(6_001, 6_300, 0)).unwrap();
}

#[test]
fn an_iterator_over_retired_entries_ends_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    long_history(&history);
    let mut entries = history.entries(100, 3000).unwrap();
    assert_eq!(entries.next().unwrap().unwrap().entry.revision, 100);
    retire_all(&history, 2500);
    let error = entries.find_map(Result::err).unwrap();
    assert!(matches!(error, ReadError::Retired { .. }), "{error}");
    assert!(entries.next().is_none());
}

// Who looked through all of the past was refused, with a revision that he had not asked for, when some of it went meanwhile.
#[test]
fn what_is_retired_on_the_way_is_passed_over_in_both_directions() {
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let expected = |oldest: u64, first: &[u64]| -> Vec<u64> {
            let rest = (oldest..=3000).filter(|revision| !first.contains(revision));
            if order == Order::OldestFirst {
                first.iter().copied().chain(rest).collect()
            } else {
                first.iter().copied().chain(rest.rev()).collect()
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let (history, _) = open(folder.path());
        long_history(&history);
        let mut walk = history.walk(4..=u64::MAX, order);
        let told = |entries: Vec<crate::Logged>| entries.into_iter().map(|logged| logged.entry.revision);
        let first: Vec<u64> = told(walk.next(|_| true).unwrap().unwrap()).collect();
        let oldest = retire_all(&history, 1600);
        let mut found = first.clone();
        while let Some(entries) = walk.next(|_| true).unwrap() {
            found.extend(told(entries));
        }
        // What stands in a block with the oldest revision may be told, too.
        found.retain(|revision| first.contains(revision) || *revision >= oldest);
        assert_eq!(found, expected(oldest, &first));

        let mut retires = true;
        let (found, _) = listed(&history, 0..=u64::MAX, order, usize::MAX, |_| {
            if std::mem::take(&mut retires) {
                retire_all(&history, 2600);
            }
            true
        });
        assert!(found.contains(&history.oldest_revision()) && found.contains(&3000), "{found:?}");
        assert!(found.len() < 1000, "{}", found.len());
    }
}

#[test]
fn the_settings_say_what_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Options { retain_micros: 20 * SECOND, ..options() };
    let (history, _) = History::open(folder.path().join("age"), settings).unwrap();
    history.append(&batches(1, 300, 100)).unwrap();
    // To the block: none is opened to find it out.
    let floor = history.retention_floor(100 * SECOND).unwrap();
    assert!((180..=240).contains(&floor), "{floor}");
    assert_eq!(history.retention_floor(10 * SECOND).unwrap(), 1);

    let settings = Options { retain_bytes: 50_000, ..options() };
    let (history, _) = History::open(folder.path().join("bytes"), settings).unwrap();
    let all = batches(1, 600, 1000);
    history.append(&all).unwrap();
    let floor = history.retention_floor(0).unwrap();
    let kept: usize = all.iter().filter(|batch| batch.last >= floor).map(|batch| batch.bytes.len()).sum();
    assert!((40_000..=60_000).contains(&kept), "{kept} bytes are kept");
}

/// Only so many blocks behind the oldest revision were looked at. Where the next checkpoint lay beyond them, nothing was retired by bytes any more.
#[test]
fn however_many_blocks_lie_between_two_checkpoints_the_bytes_are_kept_to() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Options { block_batches: 1, retain_bytes: 1_000, ..options() };
    let (history, _) = History::open(folder.path(), settings).unwrap();
    let newest = 3 + 3 * 4_500;
    let mut from = 1;
    for last in [3, newest] {
        history.append(&batches(from, last, 0)).unwrap();
        history.checkpoint(last, 0, &[pages(1, 1)], [page(1, 0, "x")]).unwrap();
        assert_eq!(retire_all(&history, 3), 3);
        from = last + 1;
    }
    history.append(&batches(from, from + 299, 0)).unwrap();
    assert_eq!(retire_all(&history, history.retention_floor(0).unwrap()), newest);
    let removed = history.writer().cleaning.removed_index_rows;
    assert!(removed >= 3 * 4_500, "whichever call removed them, {removed} rows wait to be merged away");
}

#[test]
fn the_oldest_block_to_keep_is_the_one_that_reading_all_of_them_finds() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = History::open(folder.path(), Options { block_batches: 1, ..options() }).unwrap();
    // Some were decided at the same time, and others long after.
    for (time_micros, blocks) in [(0, 5), (1, 1), (SECOND, 9), (1 << 50, 4)] {
        for _ in 0..blocks {
            let next = history.newest_revision() + 1;
            history
                .append(&[batch(time_micros, vec![entry(next, 64 * (usize::try_from(next).unwrap() % 3))])])
                .unwrap();
        }
    }
    let store = history.store().unwrap();
    let all = keys::time(i64::MIN, 0)..=keys::time(i64::MAX, u64::MAX);
    let blocks = store.rows(Shelf::Index, all.clone()).map(|row| {
        let row = row.unwrap();
        let (_, first) = time_row(&row).unwrap();
        (first, decode::<TimeRecord>(Shelf::Index, &row.key, row.value).unwrap().bytes_so_far)
    });
    let blocks: Vec<_> = blocks.collect();
    let newest = *blocks.last().unwrap();
    assert_eq!(blocks.len(), 19);
    for bytes in blocks.iter().flat_map(|(_, sum)| [sum - 1, *sum]) {
        let expected = blocks.iter().copied().find(|(_, sum)| *sum > bytes).unwrap_or(newest).0;
        assert_eq!(first_beyond(&store, bytes, all.start().clone()).unwrap(), Some(expected), "beyond {bytes} bytes");
    }
    assert_eq!(first_beyond(&store, 0, keys::time((1 << 50) + 1, 0)).unwrap(), None, "there is no block from there on");
}

#[test]
fn reading_goes_on_while_others_write_and_retire() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 300, 500)).unwrap();
    let reader = {
        let history = history.clone();
        std::thread::spawn(move || {
            let mut read = 0;
            while history.newest_revision() < 6_000 {
                let (oldest, newest) = (history.oldest_revision(), history.newest_revision());
                let entries = history.entries(oldest, newest).into_iter().flatten();
                for (expected, logged) in (oldest..).zip(entries) {
                    match logged {
                        Ok(logged) => assert_eq!(logged.entry.revision, expected),
                        Err(ReadError::Retired { .. }) => break,
                        Err(error) => panic!("{error}"),
                    }
                    read += 1;
                }
                assert_eq!(history.entry(newest).unwrap().entry.revision, newest);
            }
            read
        })
    };
    for first in (301..=6_000).step_by(30) {
        history.append(&batches(first, first + 29, 500)).unwrap();
        if first % 300 == 1 {
            history.checkpoint(first, 0, &[pages(1, 1)], [page(1, 0, "x")]).unwrap();
            history.retire(first.saturating_sub(900)).unwrap();
        }
    }
    assert!(reader.join().unwrap() > 0);
}

/// Nothing was retired any more, by age or by bytes, once the row of the block at the floor was damaged: all that was kept stayed.
#[test]
fn a_damaged_block_at_the_floor_is_retired_as_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = History::open(folder.path(), Options { retain_bytes: 20_000, ..options() }).unwrap();
    long_history(&history);
    assert_eq!(retire_all(&history, 600), 597);
    history.persist().unwrap();
    damage_block(&history, 597);
    let keep_from = history.retention_floor(3000 * SECOND).unwrap();
    assert!(keep_from > 1000, "{keep_from}");
    let oldest = retire_all(&history, keep_from);
    assert!(oldest > 800);
    assert_eq!(history.checkpoint_at_or_before(oldest - 1).unwrap(), None, "and what takes most of the room goes");
}

/// A server was started while its clock was in 2099, or after a fortnight without power: all of the past was gone, and with it what had led to
/// that.
#[test]
fn of_a_time_in_which_nothing_was_decided_a_day_counts() {
    const DAY: i64 = 24 * 3600 * SECOND;
    let folder = tempfile::tempdir().unwrap();
    let settings = || Options { retain_micros: 7 * DAY, ..options() };
    let mut history = History::open(folder.path(), settings()).unwrap().0;
    let feed = |history: &History, from: u64, micros: i64| {
        let all = batches(from, from + 29, 100);
        let shifted = |batch: EncodedBatch| EncodedBatch { time_micros: micros + batch.time_micros, ..batch };
        history.append(&all.into_iter().map(shifted).collect::<Vec<_>>()).unwrap();
        history.retention_floor(micros + DAY / 2).unwrap()
    };
    for day in 0..5 {
        assert_eq!(feed(&history, 1 + 30 * day, i64::try_from(day).unwrap() * DAY), 1);
    }
    for year in [1, 74] {
        let begins = if year == 1 { 151 } else { 181 };
        assert_eq!(
            history.retention_floor(year * 365 * DAY).unwrap(),
            1,
            "however long it was down, before anything is decided"
        );
        assert_eq!(feed(&history, begins, year * 365 * DAY), 1);
        // What waits in memory does not know of it any more.
        history.persist().unwrap();
        drop(history);
        history = History::open(folder.path(), settings()).unwrap().0;
    }
    // The past goes a day at a time from here on.
    let later: Vec<u64> =
        (1..8_u32).map(|day| feed(&history, 181 + 30 * u64::from(day), (74 * 365 + i64::from(day)) * DAY)).collect();
    assert_eq!(later, [1, 31, 61, 91, 121, 151, 181]);
    assert_eq!(history.retention_floor(i64::MAX).unwrap(), 211, "a day more");
}
