//! Whose directory it is, and that only one may have it.

use super::*;

#[test]
fn an_empty_directory_becomes_a_cell_only_when_asked() {
    let disk = SimDisk::new(0);
    let nothing = Options { create: None, ..options() };
    let error = Journal::open(Arc::new(disk.clone()), nothing.clone()).err().unwrap();
    assert!(matches!(error, OpenError::NoCell { .. }), "{error}");
    assert!(matches!(verify(&disk, None, &mut |_| {}).unwrap_err(), OpenError::NoCell { .. }));
    let (journal, recovered) = open(&disk);
    assert!(recovered.created);
    assert_eq!(recovered.identity, Identity { cell: CELL, incarnation: 1 });
    drop(journal);
    let (journal, recovered) = Journal::open(Arc::new(disk), nothing).unwrap();
    assert!(!recovered.created);
    assert_eq!(journal.identity().cell, CELL);
}

#[test]
fn the_directory_of_another_cell_is_refused() {
    let (disk, journal) = log_of(3);
    drop(journal);
    let other = CellId([1; 16]);
    let expecting = Options { expect: Some(other), ..options() };
    let error = Journal::open(Arc::new(disk.clone()), expecting).err().unwrap();
    let named = matches!(error, OpenError::OtherCell { expected, found: CELL, .. } if expected == other);
    assert!(named, "{error}");
    assert!(Journal::open(Arc::new(disk), Options { expect: Some(CELL), ..options() }).is_ok());
}

#[test]
fn a_segment_of_another_cell_is_refused() {
    let (disk, journal) = log_of(3);
    drop(journal);
    let other = SimDisk::new(0);
    let options = Options { create: Some(CellId([1; 16])), ..options() };
    drop(Journal::open(Arc::new(other.clone()), options).unwrap());
    let name = crate::segment::name(1);
    disk.put(&name, other.image(&name).unwrap());
    let error = try_open(&disk).err().unwrap();
    assert!(matches!(&error, OpenError::OtherCell { file, .. } if *file == name), "{error}");
}

#[test]
fn another_format_version_is_refused_by_identity_and_by_segment() {
    for name in ["CELL".to_owned(), crate::segment::name(1)] {
        let (disk, journal) = log_of(3);
        drop(journal);
        disk.overwrite(&name, 8, &2u32.to_le_bytes());
        let error = try_open(&disk).err().unwrap();
        let named = matches!(&error, OpenError::OtherFormat { file, expected: 1, found: 2, .. } if *file == name);
        assert!(named, "{error}");
        assert!(error.to_string().contains("use the version of plenum that wrote it"), "{error}");
    }
}

#[test]
fn log_files_without_an_identity_are_never_overwritten() {
    let (disk, journal) = log_of(3);
    drop(journal);
    disk.erase("CELL");
    assert!(matches!(try_open(&disk).err().unwrap(), OpenError::Orphaned { .. }));
}

#[test]
fn a_second_server_on_the_same_directory_is_refused_until_all_of_the_first_is_gone() {
    let (disk, journal) = log_of(1);
    assert!(matches!(try_open(&disk).err().unwrap(), OpenError::Locked(LockError::Held { .. })));
    assert!(matches!(verify(&disk, None, &mut |_| {}).unwrap_err(), OpenError::Locked(_)));
    let keeper = journal.keeper();
    drop(journal);
    assert!(try_open(&disk).is_err(), "a keeper could still recycle its files");
    drop(keeper);
    assert!(try_open(&disk).is_ok());
}
