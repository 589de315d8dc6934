//! A store whose tables are damaged: who reads all of it names that.

use super::*;
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
