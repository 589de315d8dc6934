//! The same log on real files.

use super::*;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

fn real(directory: &std::path::Path) -> Arc<RealDisk> {
    Arc::new(RealDisk::open(directory).unwrap())
}

#[test]
fn a_log_on_real_files_survives_a_restart_and_is_recycled() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("cell").join("log");
    let (mut journal, recovered) = Journal::open(real(&directory), options()).unwrap();
    assert!(recovered.created);
    let keeper = journal.keeper();
    for batch in 0..40 {
        append(&mut journal, batch).unwrap();
        keeper.prepare().unwrap();
        keeper.release(label(batch).first_revision);
    }
    assert!(keeper.high_water().flush().unwrap());
    assert!(!keeper.high_water().flush().unwrap(), "nothing new to write");
    assert!(matches!(keeper.space().unwrap(), Space::Ok { .. } | Space::Low { .. }));
    drop((journal, keeper));

    let (journal, recovered) = Journal::open(real(&directory), options()).unwrap();
    assert_eq!(recovered.tail.revision, 120);
    assert_eq!(recovered.mark.revision, 120);
    assert!(recovered.oldest_revision > 90);
    read_all(&journal);
    drop(journal);
    assert!(verify(&RealDisk::existing(&directory).unwrap(), Some(CELL), &mut |_| {}).unwrap().is_sound());
}

#[test]
fn a_range_of_a_real_file_is_made_zeros_and_keeps_its_room() {
    let home = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let file = real(home.path()).open("file", OpenMode::Create).unwrap();
    file.write_at(0, &[7; 10_000]).unwrap();
    file.sync().unwrap();
    let mut bytes = [1; 20_000];
    if file.zero(512, 19_488).unwrap() {
        file.read_at(0, &mut bytes).unwrap();
        assert_eq!((&bytes[..512], &bytes[512..]), (&[7; 512][..], &[0; 19_488][..]));
        assert_eq!(file.size_bytes().unwrap(), 20_000);
    } else {
        assert_eq!(file.size_bytes().unwrap(), 10_000, "a file system that knows no such thing changes nothing");
    }
}

#[test]
fn looking_at_a_directory_that_is_not_there_makes_none() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("mistyped");
    let error = RealDisk::existing(&directory).unwrap_err();
    assert!(error.to_string().contains("mistyped"), "{error}");
    assert!(!directory.exists());
}

#[test]
fn only_the_owner_can_read_the_files() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("log");
    let _open = Journal::open(real(&directory), options()).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for entry in std::fs::read_dir(&directory).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

/// Links were overlooked: the directory counted as empty, and the mark of the cell that was to be made was written over that of the cell
/// that was there.
#[test]
fn a_log_of_links_to_files_elsewhere_is_the_log_that_they_lead_to() {
    let home = tempfile::tempdir().unwrap();
    let (elsewhere, linked) = (home.path().join("elsewhere"), home.path().join("linked"));
    let (mut journal, _) = Journal::open(real(&elsewhere), options()).unwrap();
    for batch in 0..4 {
        append(&mut journal, batch).unwrap();
    }
    drop(journal);
    std::fs::create_dir(&linked).unwrap();
    for entry in std::fs::read_dir(&elsewhere).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), linked.join(entry.file_name())).unwrap();
    }
    let (journal, recovered) = Journal::open(real(&linked), options()).unwrap();
    assert_eq!((recovered.created, recovered.tail.revision), (false, 12));
    assert_eq!(read_all(&journal), 4);
    drop(journal);
    std::fs::remove_file(elsewhere.join("MARK")).unwrap();
    let error = Journal::open(real(&linked), options()).err().unwrap().to_string();
    assert!(error.contains("MARK"), "{error}");
    assert!(!elsewhere.join("MARK").exists(), "nothing is made in its place");
}

#[test]
fn a_second_server_is_told_who_has_the_directory() {
    let home = tempfile::tempdir().unwrap();
    let (first, _) = Journal::open(real(home.path()), options()).unwrap();
    let error = Journal::open(real(home.path()), options()).err().unwrap();
    let text = error.to_string();
    assert!(text.contains(&format!("locked by process {}", std::process::id())), "{text}");
    assert!(text.contains("LOCK"), "{text}");
    drop(first);
    Journal::open(real(home.path()), options()).unwrap();
}

#[test]
fn a_torn_end_on_real_files_is_cut_and_reported() {
    let home = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(real(home.path()), options()).unwrap();
    for batch in 0..4 {
        append(&mut journal, batch).unwrap();
    }
    drop(journal);
    let mut last = None;
    verify(&*real(home.path()), None, &mut |frame| last = Some((frame.segment, frame.offset))).unwrap();
    let (number, offset) = last.unwrap();
    let path = home.path().join(crate::segment::name(number));
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0; 90], offset).unwrap();
    let (journal, recovered) = Journal::open(real(home.path()), options()).unwrap();
    assert_eq!(recovered.tail.revision, 9);
    assert_eq!(recovered.cut.unwrap().damage.offset, offset);
    assert_eq!(read_all(&journal), 3);
}

// "Read-only file system" was all that it said to who wanted to look at a log whose disk the system had made so.
#[test]
fn of_a_disk_that_can_only_be_read_it_is_told_what_to_do() {
    let told = |kind: std::io::ErrorKind| {
        let (operation, path) = ("opening", "/cell/log/LOCK".to_owned());
        LockError::from(DiskError { operation, path, source: kind.into() }).to_string()
    };
    let read_only = told(std::io::ErrorKind::ReadOnlyFilesystem);
    assert!(read_only.contains("copy the directory to one that can be written"), "{read_only}");
    assert_eq!(told(std::io::ErrorKind::PermissionDenied), "opening of /cell/log/LOCK failed");
}
