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

// Of a log whose identity was lost it was told that a new one had too little room.
#[test]
fn too_little_room_for_a_new_cell_is_told_where_one_would_be_made() {
    let tight = Options { reserve_bytes: Some(1000), beside_new_bytes: Some(24), ..options() };
    let needed = 2 * 4096 + 1000 + 24;
    let disk = SimDisk::new(0);
    disk.set_capacity(Some(needed - 1));
    let error = Journal::open(Arc::new(disk.clone()), tight.clone()).err().unwrap();
    let named = matches!(error, OpenError::NoRoomForNew { needed_bytes, .. } if needed_bytes == needed);
    assert!(named, "{error}");
    assert!(!disk.names().iter().any(|name| name == crate::identity::NAME), "it is none yet");
    disk.set_capacity(None);
    drop(Journal::open(Arc::new(disk.clone()), tight.clone()).unwrap());
    disk.set_capacity(Some(1));
    drop(Journal::claim(Arc::new(disk.clone()), tight.clone()).expect("one that is there is not made"));
    disk.erase(crate::identity::NAME);
    let error = Journal::claim(Arc::new(disk), tight).err().unwrap();
    assert!(matches!(error, OpenError::Orphaned { .. }), "{error}");
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

/// Makes a record one of a later version, sealed as ours are.
fn make_newer(disk: &SimDisk, name: &str, offset: u64) {
    let from = usize::try_from(offset).unwrap();
    let mut sector = [0; 512];
    sector.copy_from_slice(&disk.image(name).unwrap()[from..from + 512]);
    sector[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    crate::format::seal_sector(&mut sector);
    disk.overwrite(name, offset, &sector);
}

#[test]
fn a_newer_format_version_is_refused_with_both_versions_by_identity_segment_and_mark() {
    for (name, offset) in [("CELL", 0), (crate::segment::name(1).as_str(), 0)] {
        let (disk, journal) = log_of(2);
        drop(journal);
        make_newer(&disk, name, offset);
        let error = try_open(&disk).err().unwrap();
        let found = FORMAT_VERSION + 1;
        assert!(
            matches!(&error, OpenError::OtherFormat { file, expected: FORMAT_VERSION, found: newer, .. }
            if file == name && *newer == found),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("version 2, expected 1; use the version of plenum that wrote it"), "{text}");
    }
    // The other slot is what counts, as long as it is whole; and when none is, it is told why.
    let (disk, journal) = log_of(2);
    journal.high_water().flush().unwrap();
    drop(journal);
    make_newer(&disk, "MARK", 0);
    make_newer(&disk, "MARK", 4096);
    let error = try_open(&disk).err().unwrap();
    assert!(matches!(&error, OpenError::OtherFormat { file, found: 2, .. } if file == "MARK"), "{error}");
    disk.flip_bit("MARK", 0, 0);
    let error = try_open(&disk).err().unwrap();
    assert!(matches!(&error, OpenError::OtherFormat { file, found: 2, .. } if file == "MARK"), "{error}");
}

#[test]
fn log_files_without_an_identity_are_never_overwritten() {
    let (disk, journal) = log_of(3);
    drop(journal);
    disk.erase("CELL");
    assert!(matches!(try_open(&disk).err().unwrap(), OpenError::Orphaned { .. }));
}

// A new cell was made over it, and its history refused the log from then on.
#[test]
fn a_mark_that_is_all_that_is_left_of_a_log_is_never_overwritten() {
    let (disk, journal) = log_of(3);
    journal.high_water().flush().unwrap();
    drop(journal);
    let files = disk.list().unwrap().into_iter().filter(|name| !matches!(&**name, "MARK" | "LOCK"));
    files.for_each(|name| disk.erase(&name));
    let before = disk.image("MARK");
    let refused = try_open(&disk).err().unwrap();
    assert!(matches!(&refused, OpenError::Orphaned { found, .. } if found == "MARK"), "{refused}");
    assert_eq!(disk.image("MARK"), before);
    make_newer(&disk, "MARK", 0);
    make_newer(&disk, "MARK", 4096);
    assert!(matches!(try_open(&disk).err().unwrap(), OpenError::Orphaned { .. }), "a newer version's is one, too");
    // What a crash leaves while a cell is made says nothing of a log.
    let disk = SimDisk::new(0);
    crate::mark::MarkFile::create(&disk, CELL, crate::mark::Mark::default()).unwrap();
    assert!(try_open(&disk).is_ok());
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
