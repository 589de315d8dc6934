//! A store that takes no more writes since one failed is opened again, by the handles that are there.
//!
//! A write fails when there is something in the way of the tables that come next: files of their names. Who opens the store removes them.
use super::*;
use crate::block::newest_block;
use crate::history::{View, settle, writer_of};
use crate::keys::{self, Shelf};
use crate::records::NumberRecord;
use crate::store::Store;
use crate::{GroupBy, Lost, OpenError, StoreError, WriteError};
use std::fs::File;
use std::sync::Arc;

/// Puts something in the way of the next tables of each shelf.
fn put_in_the_way(folder: &Path) {
    let mut made = 0;
    for keyspace in std::fs::read_dir(folder.join("store/keyspaces")).unwrap() {
        let tables = keyspace.unwrap().path().join("tables");
        let Ok(there) = std::fs::read_dir(&tables) else { continue };
        let numbers = there.filter_map(|table| table.unwrap().file_name().to_str()?.parse::<u64>().ok());
        let newest = numbers.max().unwrap_or(0);
        made +=
            (newest + 1..newest + 30).filter(|table| File::create_new(tables.join(table.to_string())).is_ok()).count();
    }
    assert!(made > 100, "{made} tables are in the way");
}

/// Feeds it until it takes no more; gives why.
fn feed_until_it_fails(history: &History, from: u64) -> WriteError {
    for first in (from..from + 30_000).step_by(30) {
        if let Err(error) = history.append(&batches(first, first + 29, 3000)).and_then(|()| history.persist()) {
            return error;
        }
    }
    panic!("nothing was in the way")
}

#[test]
fn a_store_that_a_failed_write_has_closed_goes_on_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let other = history.clone();
    history.append(&batches(1, 90, 300)).unwrap();
    history.checkpoint(60, 20 * SECOND, &[pages(1, 1)], [page(1, 0, "old")]).unwrap();
    history.persist().unwrap();
    put_in_the_way(folder.path());
    let error = feed_until_it_fails(&history, 91);
    assert!(error.may_pass(), "{error:?}");
    assert!(history.append(&batches(history.newest_revision() + 1, 30_090, 300)).is_err(), "it stays closed");
    assert_eq!(revisions(&other, 1, 90).len(), 90, "reading goes on");

    // Nor is it opened again as long as the world is so.
    let (lock, aside) = (folder.path().join("store/lock"), folder.path().join("lock"));
    std::fs::rename(&lock, &aside).unwrap();
    std::fs::create_dir(&lock).unwrap();
    let error = history.reopen().unwrap_err();
    assert!(error.may_pass(), "{error:?}");
    let reading = other.entry(5).unwrap_err();
    assert!(matches!(reading, crate::ReadError::Store(StoreError::Reopening)), "{reading:?}");
    assert!(history.reopen().is_err(), "it is closed");
    std::fs::remove_dir(&lock).unwrap();
    std::fs::rename(&aside, &lock).unwrap();
    let opened = history.reopen().unwrap();
    assert!(opened.newest_revision >= 90 && history.durable_revision() == opened.newest_revision, "{opened:?}");
    assert_eq!(opened.newest_checkpoint.unwrap().revision, 60);
    assert_eq!(images(&other, 60), ["1/0=old"]);

    let last = opened.newest_revision;
    assert_eq!(revisions(&other, 1, last), (1..=last).collect::<Vec<_>>());
    history.append(&batches(last + 1, last + 300, 300)).unwrap();
    history.checkpoint(last + 300, i64::try_from(last).unwrap() * SECOND, &[pages(1, 1)], [page(1, 0, "new")]).unwrap();
    history.persist().unwrap();
    assert_eq!((images(&other, last + 300), other.durable_revision()), (vec!["1/0=new".to_owned()], last + 300));
    drop((history, other));
    let (history, opened) = open(folder.path());
    assert_eq!((opened.newest_revision, opened.journal_set_aside.is_none()), (last + 300, true));
    assert_eq!(revisions(&history, 1, last + 300).len() as u64, last + 300);
}

/// What could not be removed counted as removed: where a write failed only because the store did not catch up in time, and it went on, those names stayed for
/// good.
#[test]
fn names_that_could_not_be_removed_do_not_count_as_removed() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing goes to tables by itself.
    let settings = Options { block_batches: 1, memtable_bytes: 4 << 20, ..options() };
    let (history, _) = History::open(folder.path(), settings).unwrap();
    // As many blocks as are added up in one call, which does nothing else then.
    for revision in (1..=128).step_by(2) {
        history.append(&[batch(SECOND, vec![opening(revision, "batch")])]).unwrap();
        history.append(&[batch(SECOND, vec![closing(revision + 1, revision)])]).unwrap();
    }
    history.append(&[batch(SECOND, vec![entry(129, 0)])]).unwrap();
    history.checkpoint(129, 0, &[pages(1, 1)], [page(1, 0, "x")]).unwrap();
    let first = history.retire(129).unwrap();
    assert_eq!((first.oldest, first.done), (129, false));
    put_in_the_way(folder.path());
    let store = history.store().unwrap();
    assert!(store.rotate(&[Shelf::Index]).and_then(|()| store.catch_up()).is_err() && store.is_poisoned());
    let sessions = || store.rows(Shelf::Index, keys::session(0)..=keys::session(u64::MAX)).count();
    assert!(history.retire(129).is_err());
    let removed = {
        let writer = history.writer();
        (writer.cleaning.leavers_from, writer.cleaning.removed_index_rows)
    };
    assert_eq!((sessions(), removed), (64, (0, 0)));
    drop(store);
    history.reopen().unwrap();
    assert_eq!(retention::retire_all(&history, 129), 129);
    assert!(matches!(history.session(1).unwrap(), crate::Lookup::Retired { oldest: 129 }));
}

/// A full disk at a start kept the cell from being read, though its log had room left.
#[test]
fn a_history_that_can_not_be_written_when_it_is_opened_is_read_and_goes_on_when_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let (live, copy) = (folder.path().join("live"), folder.path().join("copy"));
    let (history, _) = open(&live);
    history.append(&batches(1, 90, 300)).unwrap();
    history.persist().unwrap();
    // In the store's journal alone: to be brought to tables by who opens it.
    history.append(&batches(91, 180, 300)).unwrap();
    copy_of(&history, &live, &copy);
    let store = Arc::new(Store::open(&copy, true, &options()).unwrap().0);
    put_in_the_way(&copy);
    let view = settle(&store).unwrap();
    assert!(view.newest >= 90 && view.durable == 0, "{} to {}", view.durable, view.newest);
    assert!(store.is_poisoned() && matches!(settle(&store), Ok(View { durable: 0, .. })));
    drop(store);
    let (history, opened) = open(&copy);
    assert_eq!(opened.newest_revision, history.durable_revision());
    assert_eq!(revisions(&history, 1, view.newest).len() as u64, view.newest);
}

/// The time of what is to be fed again was taken for that of what had been fed before. The first of it was older then, and refused for good.
#[test]
fn a_history_that_can_not_be_settled_is_written_on_from_what_it_is_seen_to_have() {
    let folder = tempfile::tempdir().unwrap();
    let (live, copy) = (folder.path().join("live"), folder.path().join("copy"));
    let (history, _) = open(&live);
    history.append(&batches(1, 90, 0)).unwrap();
    history.persist().unwrap();
    let before = {
        let writer = history.writer();
        (writer.time_micros, writer.bytes_so_far)
    };
    history.append(&batches(91, 180, 0)).unwrap();
    history.persist().unwrap();
    let head_at_90 = |store: &Arc<Store>| {
        let mut changes = store.changes();
        changes.put_message(Shelf::Index, keys::HEAD, &NumberRecord { number: 90 });
        changes.commit().unwrap();
    };
    // As if a crash had left of the last rows none but those of blocks and times.
    head_at_90(&history.store().unwrap());
    history.persist().unwrap();
    copy_of(&history, &live, &copy);
    let store = Arc::new(Store::open(&copy, true, &options()).unwrap().0);
    put_in_the_way(&copy);
    head_at_90(&store);
    assert!(store.rotate(&[Shelf::Index]).and_then(|()| store.catch_up()).is_err() && store.is_poisoned());
    let view = settle(&store).unwrap();
    assert_eq!((view.newest, newest_block(&store).unwrap().unwrap().last), (90, 180));
    let writer = writer_of(&store, &view).unwrap();
    assert_eq!((writer.time_micros, writer.bytes_so_far), before);
}

/// What a reader sees keeps the store from being opened: it goes on reading, and who opens tries again later. Others were let in meanwhile, so
/// that there was no end of it where reads overlap; and it was said to be open in another process.
#[test]
fn a_store_is_not_opened_again_under_who_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 90, 0)).unwrap();
    let reading = history.store().unwrap();
    let error = history.reopen().unwrap_err();
    assert!(matches!(error, OpenError::BeingRead { .. }) && error.may_pass(), "{error:?}");
    assert!(reading.last(Shelf::Index, vec![0]..=vec![255]).is_ok());
    let other = history.entry(5).unwrap_err();
    assert!(matches!(other, crate::ReadError::Store(StoreError::Reopening)), "{other:?}");
    assert_eq!(Arc::strong_count(&reading), 2);
    drop(reading);
    let newest = history.reopen().unwrap().newest_revision;
    assert_eq!((newest, revisions(&history, 1, newest).len() as u64), (90 - 90 % 48, newest));
}

/// A listing of conflicts, which may take long, did not keep the store that it reads.
#[test]
fn a_store_is_not_opened_again_under_a_listing_of_conflicts() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&[batch(SECOND, vec![opening(1, "batch"), lost(2, 1, 1, &[("service", 1, 1)])])]).unwrap();
    history.persist().unwrap();
    let mut reopened = None;
    let mut counts = |_: &Lost| {
        reopened = Some(history.reopen());
        true
    };
    let listed = history.conflicts(0, u64::MAX, GroupBy::Pair, 1, Some(&mut counts));
    assert!(matches!(reopened, Some(Err(OpenError::BeingRead { .. }))), "{reopened:?}, {listed:?}");
}

/// What was made in its place had no identity, and the next start refused it.
#[test]
fn a_history_whose_folder_was_moved_away_is_begun_anew_as_this_cell_s() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    let (history, _) = open(&live);
    history.append(&batches(1, 90, 0)).unwrap();
    std::fs::rename(&live, folder.path().join("away")).unwrap();
    assert_eq!(history.reopen().unwrap().newest_revision, 0);
    history.append(&batches(1, 90, 0)).unwrap();
    history.persist().unwrap();
    drop(history);
    assert_eq!(open(&live).1.newest_revision, 90);
    let stranger = History::open(&live, Options { cell_id: b"another".to_vec(), ..options() }).err().unwrap();
    assert!(stranger.to_string().contains("move the folder `history` in it away"), "{stranger}");
}

/// Who read was told for good to try again in a moment.
#[test]
fn who_reads_a_history_that_damage_has_closed_is_told_of_the_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 90, 0)).unwrap();
    let current = folder.path().join("store/keyspaces/1/current");
    let whole = std::fs::read(&current).unwrap();
    std::fs::write(&current, &whole[1..]).unwrap();
    let error = history.reopen().unwrap_err();
    assert!(!error.may_pass(), "{error:?}");
    let reading = history.entry(5).unwrap_err();
    assert!(matches!(&reading, crate::ReadError::Store(closed) if !closed.may_pass()), "{reading:?}");
    assert!(reading.to_string().contains(&current.display().to_string()), "{reading}");
    std::fs::write(&current, whole).unwrap();
    let newest = history.reopen().unwrap().newest_revision;
    assert_eq!(revisions(&history, 1, newest).len() as u64, newest);
}

#[test]
fn damage_is_no_failure_that_passes() {
    let damaged = StoreError::Damaged { key: "a row".to_owned(), what: "its checksum is wrong".to_owned() };
    let io = |kind| StoreError::from(fjall::Error::Io(std::io::Error::from(kind)));
    use std::io::ErrorKind::{NotFound, StorageFull, UnexpectedEof};
    let errors = [damaged, io(NotFound), io(UnexpectedEof), io(StorageFull), StoreError::Poisoned];
    assert_eq!(errors.map(|error| error.may_pass()), [false, false, false, true, true]);
}

/// Sessions in batches of three, from a revision on.
fn sessions(from: u64, to: u64) -> Vec<EncodedBatch> {
    let batches = (from..=to).step_by(3);
    batches
        .map(|first| batch(SECOND, (first..first + 3).map(|revision| opening(revision, "batch")).collect()))
        .collect()
}

/// Where tables are damaged, merging them fails and closes the store, which does not say why: as if a disk was full.
#[test]
fn a_store_that_takes_no_writes_because_tables_are_damaged_names_the_damage_when_all_of_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (live, copy) = (folder.path().join("live"), folder.path().join("copy"));
    let (history, _) = open(&live);
    for round in 0..7 {
        history.append(&sessions(1 + 600 * round, 600 * (round + 1))).unwrap();
        history.persist().unwrap();
    }
    // In the store's journal alone: to be brought to tables by who opens it.
    history.append(&sessions(4201, 4800)).unwrap();
    copy_of(&history, &live, &copy);
    let mut damaged = 0;
    for table in std::fs::read_dir(copy.join("store/keyspaces/1/tables")).unwrap() {
        let path = table.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
        damaged += 1;
    }
    assert_eq!(damaged, 7, "the next table has them merged");
    let (history, opened) = open(&copy);
    assert!(opened.newest_revision > 4200, "{opened:?}");
    assert_eq!(revisions(&history, 1, opened.newest_revision).len() as u64, opened.newest_revision);
    let newest = opened.newest_revision;
    let mut wrote = Ok(());
    for round in 0..100 {
        wrote = wrote.and_then(|()| history.append(&sessions(newest + 1 + 600 * round, newest + 600 * (round + 1))));
        wrote = wrote.and_then(|()| history.persist());
    }
    let error = wrote.unwrap_err();
    assert!(error.may_pass(), "it does not say why: {error:?}");
    let damage = match history.reopen() {
        Ok(_) => history.read_all().unwrap_err(),
        Err(OpenError::Store(error)) => error,
        Err(other) => panic!("{other}"),
    };
    assert!(!damage.may_pass(), "{damage:?}");
}
