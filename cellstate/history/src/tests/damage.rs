//! A store whose tables are damaged: who reads all of it names that.

use super::*;
use crate::OpenError;
use crate::keys::Shelf;
use std::path::PathBuf;

const SESSIONS: u64 = 4000;
/// Each table is damaged in one place after the other, so far apart: less than its filter takes.
const APART: usize = 512;
/// So many places from its end on, where its filter is.
const PLACES: usize = 32;

/// The tables of the index.
pub(super) fn tables(folder: &Path) -> Vec<PathBuf> {
    let tables = std::fs::read_dir(folder.join("store/keyspaces/1/tables")).unwrap();
    tables.map(|table| table.unwrap().path()).collect()
}

/// A history of many sessions, whose index is merged.
fn of_sessions(folder: &Path) {
    let (history, _) = open(folder);
    let openings = |first: u64| (first..first + 100).map(|id| opening(id, &format!("scheduler-{id}"))).collect();
    for first in (1..=SESSIONS).step_by(100) {
        history.append(&[batch(SECOND, openings(first))]).unwrap();
    }
    history.persist().unwrap();
    history.store().unwrap().compact(Shelf::Index).unwrap();
    history.store().unwrap().wait_until_idle();
}

// Fjall made a new store over the old one, or removed the tables of the keyspaces that it did not know any more: whoever looked, lost the history.
#[test]
fn a_store_that_lacks_what_it_is_known_by_is_damaged_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    of_sessions(folder.path());
    let store = folder.path().join("store");
    let journal = std::fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path());
    // As after its journal was begun anew: without that fjall finds its file in the way.
    let journal = journal.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "jnl")).unwrap();
    std::fs::rename(&journal, store.join("5.jnl")).unwrap();
    for lost in
        ["version", "keyspaces/0/current", "keyspaces/1/current", "keyspaces/5/current", "keyspaces/3", "keyspaces"]
    {
        let (there, away) = (store.join(lost), folder.path().join("away"));
        std::fs::rename(&there, &away).unwrap();
        let error = History::open(folder.path(), options()).map(drop).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{lost}: {error}");
        assert!(!there.exists(), "{lost} was made anew");
        std::fs::rename(&away, &there).unwrap();
    }
    let (history, opened) = open(folder.path());
    assert_eq!((opened.newest_revision, opened.journal_set_aside.is_none()), (SESSIONS, true));
    history.read_all().unwrap();
}

// Rows were read one after the other, which goes by no filter of a table. Who looked for one met the damage that nobody had named.
#[test]
fn wherever_a_table_is_damaged_who_reads_all_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let (live, copy) = (folder.path().join("live"), folder.path().join("copy"));
    of_sessions(&live);
    open(&live).0.read_all().unwrap();
    let mut unreadable = 0;
    for table in tables(&live) {
        let bytes = std::fs::read(&table).unwrap();
        for place in (0..bytes.len()).rev().step_by(APART).take(PLACES) {
            copy_folder(&live, &copy);
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x10;
            std::fs::write(copy.join(table.strip_prefix(&live).unwrap()), damaged).unwrap();
            if let Ok((history, _)) = History::open(&copy, options()) {
                assert!(history.read_all().is_err(), "{table:?}, byte {place} of {}", bytes.len());
                unreadable += 1;
            }
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert!(unreadable > 0);
}
