//! Sets that begin with a file of images.
use super::*;
use crate::keys::{ImageKey, Shelf};
use crate::{OpenError, ReadError, StoreError, WriteError};
use std::path::PathBuf;

/// Sets of three pages and more begin with a file.
fn open_large(folder: &Path) -> (History, Opened) {
    History::open(folder, large()).unwrap()
}

fn large() -> Options {
    Options { image_file_pages: 3, ..options() }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder.join("images")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Images that the store has, of any set.
fn stored(history: &History) -> usize {
    let keys = ImageKey::first_of(1).encode()..=ImageKey::last_of(u64::MAX).encode();
    history.store().unwrap().rows(Shelf::Images, keys).count()
}

fn all(text: &str) -> impl Iterator<Item = PageImage> {
    (0..3).map(move |number| page(1, number, text))
}

fn with_batches(folder: &Path) -> History {
    let (history, _) = open_large(folder);
    history.append(&batches(1, 180, 200)).unwrap();
    history
}

/// A history whose first checkpoint, at 30, is a file of `a` on each of its pages.
fn with_a_file(folder: &Path) -> (History, [TablePages; 1]) {
    let (history, live) = (with_batches(folder), [pages(1, 3)]);
    history.checkpoint_of_all(30, 0, &live, all("a")).unwrap();
    (history, live)
}

fn retire_all(history: &History, keep_from: u64) {
    while !history.retire(keep_from).unwrap().done {}
}

#[test]
fn a_large_set_begins_with_a_file_and_what_is_added_to_it_stands_in_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let (history, live) = with_a_file(folder.path());
    assert_eq!((files(folder.path()).len(), stored(&history)), (1, 0));
    history.checkpoint(60, 0, &live, [page(1, 1, "b")]).unwrap();
    history.checkpoint(90, 0, &[pages(1, 4)], [page(1, 3, "c")]).unwrap();
    assert_eq!((files(folder.path()).len(), stored(&history)), (1, 2));
    let check = |history: &History| {
        assert_eq!(images(history, 30), ["1/0=a", "1/1=a", "1/2=a"]);
        assert_eq!(images(history, 60), ["1/0=a", "1/1=b", "1/2=a"]);
        assert_eq!(images(history, 90), ["1/0=a", "1/1=b", "1/2=a", "1/3=c"]);
        history.read_all().unwrap();
    };
    check(&history);
    assert!(history.disk_bytes() > std::fs::metadata(&files(folder.path())[0]).unwrap().len());
    drop(history);
    // Whoever opens it with other settings reads the same, and so does who reads after a failed write.
    let (history, opened) = open(folder.path());
    assert_eq!(opened.newest_checkpoint.unwrap().revision, 90);
    check(&history);
    history.reopen().unwrap();
    check(&history);
    history.checkpoint_of_all(120, 0, &live, all("small")).unwrap();
    assert_eq!((files(folder.path()).len(), stored(&history)), (1, 5));
}

#[test]
fn images_in_any_order_and_of_any_size_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let history = with_batches(folder.path());
    // Larger than what is read, or written, at a time; none that is compressed well.
    let text = |number: u32| {
        let bytes = [0, 1, 100_000, 700_000][number as usize % 4];
        let noise = (0..bytes).map(|at: u32| char::from(b'a' + (at.wrapping_mul(2_654_435_761 + number) >> 27) as u8));
        noise.collect::<String>()
    };
    let live = [pages(1, 20), pages(2, 20)];
    let order = (0..20).map(|number| number * 7 % 20);
    let given = order.flat_map(|number| [(2, number), (1, number)]);
    history.checkpoint_of_all(30, 0, &live, given.map(|(table, number)| page(table, number, &text(number)))).unwrap();
    let expected = [1, 2].into_iter().flat_map(|table| (0..20).map(move |number| page(table, number, &text(number))));
    assert!(history.pages_at(30).unwrap().map(Result::unwrap).eq(expected));
    history.read_all().unwrap();
}

#[test]
fn a_file_goes_with_its_set_and_who_reads_it_meanwhile_gets_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let history = with_batches(folder.path());
    let live = [pages(1, 3)];
    for revision in (3..=90).step_by(3) {
        history.checkpoint_of_all(revision, 0, &live, all("a")).unwrap();
    }
    let reader = history.pages_at(3).unwrap();
    history.checkpoint_of_all(120, 0, &live, all("b")).unwrap();
    assert_eq!(files(folder.path()).len(), 31);
    assert!(!history.retire(150).unwrap().done, "they go one after the other");
    retire_all(&history, 150);
    assert_eq!(files(folder.path()).len(), 1);
    assert!(matches!(history.pages_at(3), Err(ReadError::Retired { asked: 3, .. })));
    assert!(reader.map(Result::unwrap).eq(all("a")));
    assert_eq!(images(&history, 120), ["1/0=b", "1/1=b", "1/2=b"]);
    assert_eq!(history.disk_bytes(), {
        let store = history.store().unwrap();
        let tables: u64 = Shelf::ALL.iter().map(|shelf| store.bytes_in_tables(*shelf)).sum();
        tables + std::fs::metadata(&files(folder.path())[0]).unwrap().len()
    });
}

#[test]
fn a_set_that_is_refused_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (history, live) = with_a_file(folder.path());
    let missing = history.checkpoint_of_all(60, 0, &live, all("b").take(2)).unwrap_err();
    assert!(matches!(missing, WriteError::PageMissing { revision: 60, table: 1, page: 2 }), "{missing}");
    let beyond = history.checkpoint_of_all(60, 0, &live, all("b").chain([page(1, 9, "b")])).unwrap_err();
    assert!(matches!(beyond, WriteError::Malformed { revision: 60, .. }), "{beyond}");
    // Of the same revision, where the file of the one before has that name: it stays as it is.
    let again = history.checkpoint_of_all(30, 0, &live, all("c").take(1)).unwrap_err();
    assert!(matches!(again, WriteError::PageMissing { revision: 30, .. }), "{again}");
    assert_eq!(files(folder.path()).len(), 1);
    assert_eq!(images(&history, 30), ["1/0=a", "1/1=a", "1/2=a"]);
}

// It got its name before it was known whether there could be a record, and each try left one more.
#[test]
fn a_checkpoint_that_fails_behind_its_images_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (history, live) = with_a_file(folder.path());
    let bytes = history.disk_bytes();
    let overtaken = all("b").inspect(|page| {
        if page.number == 2 {
            history.checkpoint(90, 0, &live, [page.clone()]).unwrap();
        }
    });
    let behind = history.checkpoint_of_all(60, 0, &live, overtaken).unwrap_err();
    assert!(matches!(behind, WriteError::Behind { revision: 60, newest: 90 }), "{behind}");
    assert_eq!(files(folder.path()).len(), 1);
    assert!(history.disk_bytes() < bytes + 10_000, "{} of {bytes}", history.disk_bytes());
}

#[test]
fn a_file_that_no_record_tells_of_goes_with_the_next_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = {
        let (history, live) = with_a_file(folder.path());
        history.checkpoint(60, 0, &live, [page(1, 1, "b")]).unwrap();
        files(folder.path()).remove(0)
    };
    for set in ["0000000000000032", "000000000000005a"] {
        std::fs::copy(&path, path.with_file_name(set)).unwrap();
    }
    let (history, _) = open_large(folder.path());
    assert_eq!(files(folder.path()), std::slice::from_ref(&path));
    assert_eq!(images(&history, 60), ["1/0=a", "1/1=b", "1/2=a"]);
    history.checkpoint_of_all(90, 0, &[pages(1, 3)], all("c")).unwrap();
    history.reopen().unwrap();
    assert_eq!(files(folder.path()).len(), 2);
}

#[test]
fn of_images_of_one_page_the_last_one_counts() {
    let folder = tempfile::tempdir().unwrap();
    let history = with_batches(folder.path());
    let given = all("a").chain([page(1, 1, "b"), page(1, 1, "c")]);
    history.checkpoint_of_all(30, 0, &[pages(1, 3)], given).unwrap();
    assert_eq!(images(&history, 30), ["1/0=a", "1/1=c", "1/2=a"]);
}

#[test]
fn a_file_that_can_not_be_removed_keeps_no_other_one() {
    let folder = tempfile::tempdir().unwrap();
    let history = with_batches(folder.path());
    let live = [pages(1, 3)];
    for revision in [30, 60, 90, 120] {
        history.checkpoint_of_all(revision, 0, &live, all("a")).unwrap();
    }
    let first = files(folder.path()).remove(0);
    std::fs::remove_file(&first).unwrap();
    std::fs::create_dir(&first).unwrap();
    let failed = history.retire(150).unwrap_err().to_string();
    assert!(failed.contains("000000000000001e"), "{failed}");
    assert_eq!(files(folder.path()).len(), 2);
    std::fs::remove_dir(&first).unwrap();
    retire_all(&history, 150);
    assert_eq!(files(folder.path()).len(), 1);
}

#[test]
fn what_a_crash_left_of_a_file_is_removed_and_the_checkpoint_before_is_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let (live_path, copy) = (folder.path().join("live"), folder.path().join("copy"));
    let (history, live) = with_a_file(&live_path);
    let large = "noise ".repeat(200_000);
    let crashing = (0..3).map(|number| {
        if number == 2 {
            copy_of(&history, &live_path, &copy);
        }
        page(1, number, &large)
    });
    history.checkpoint_of_all(60, 0, &live, crashing).unwrap();
    let draft = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "draft");
    assert!(files(&copy).iter().any(draft));
    let (survivor, opened) = open_large(&copy);
    assert_eq!(opened.newest_checkpoint.unwrap().revision, 30);
    assert!(!files(&copy).iter().any(draft));
    assert_eq!(images(&survivor, 30), ["1/0=a", "1/1=a", "1/2=a"]);
    survivor.append(&batches(1, 180, 200)).unwrap();
    survivor.checkpoint_of_all(60, 0, &live, all("again")).unwrap();
    assert_eq!(images(&survivor, 60), ["1/0=again", "1/1=again", "1/2=again"]);
}

// Who asks a running server's directory for a backup opens it, too, and is told that it is in use.
#[test]
fn a_file_that_another_process_writes_stays() {
    let folder = tempfile::tempdir().unwrap();
    let history = with_batches(folder.path());
    let given = (0..3).map(|number| {
        assert!(matches!(History::open(folder.path(), large()), Err(OpenError::Locked { .. })));
        page(1, number, "a")
    });
    history.checkpoint_of_all(30, 0, &[pages(1, 3)], given).unwrap();
    assert_eq!(images(&history, 30), ["1/0=a", "1/1=a", "1/2=a"]);
}

#[test]
fn wherever_a_file_is_damaged_that_is_named_and_nothing_else_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let history = with_batches(folder.path());
    let live = [pages(1, 3)];
    history.checkpoint_of_all(30, 0, &live, all("some text")).unwrap();
    let path = files(folder.path()).remove(0);
    let whole = std::fs::read(&path).unwrap();
    let expected = images(&history, 30);
    let mut damages: Vec<Vec<u8>> = (0..whole.len())
        .map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        })
        .collect();
    damages.extend((0..whole.len()).map(|length| whole[..length].to_vec()));
    damages.push([&whole[..], b"x"].concat());
    let named = |error: &StoreError| matches!(error, StoreError::Damaged { .. }) && !error.may_be_sound();
    for damaged in damages {
        std::fs::write(&path, &damaged).unwrap();
        assert!(history.read_all().is_err_and(|error| named(&error)), "{damaged:?}");
        let pages = history.pages_at(30).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        assert!(matches!(&pages, Err(ReadError::Store(error)) if named(error)), "{pages:?} of {damaged:?}");
    }
    // A long file with a tail of zeros, of which an index as long as all of it could be read.
    std::fs::write(&path, &whole).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 42).unwrap();
    assert!(matches!(history.pages_at(30), Err(ReadError::Store(StoreError::Damaged { .. }))));
    std::fs::remove_file(&path).unwrap();
    let gone = history.pages_at(30).err().unwrap().to_string();
    std::fs::create_dir(&path).unwrap();
    let folder_there = history.pages_at(30).err().unwrap();
    assert!(matches!(&folder_there, ReadError::Store(error) if named(error)), "{folder_there}");
    std::fs::remove_dir(&path).unwrap();
    assert!(gone.contains("000000000000001e") && gone.contains("it is not there"), "{gone}");
    assert!(history.read_all().is_err());
    // It is opened all the same, and goes on from what was before.
    drop(history);
    drop(open_large(folder.path()));
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(images(&open_large(folder.path()).0, 30), expected);
}

#[test]
fn a_folder_of_images_that_can_not_be_used_is_named_and_keeps_no_history_from_being_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    drop(open_large(&path));
    std::fs::write(path.join("images"), b"no folder").unwrap();
    let (history, _) = open_large(&path);
    history.append(&batches(1, 30, 0)).unwrap();
    let error = history.checkpoint_of_all(30, 0, &[pages(1, 3)], all("a")).unwrap_err();
    assert!(error.may_pass() && error.to_string().contains("images/000000000000001e.draft"), "{error}");
    assert!(history.newest_checkpoint().is_none());
    // No checkpoint was written as long as that was so, and the log grew until the cell took nothing more.
    history.reopen().unwrap();
    history.append(&batches(history.newest_revision() + 1, 30, 0)).unwrap();
    history.checkpoint_of_all(30, 0, &[pages(1, 3)], all("a")).unwrap();
    assert_eq!((stored(&history), images(&history, 30)), (3, vec!["1/0=a".into(), "1/1=a".into(), "1/2=a".into()]));
    drop(history);
    std::fs::remove_file(path.join("images")).unwrap();
    let (history, _) = open_large(&path);
    history.append(&batches(history.newest_revision() + 1, 60, 0)).unwrap();
    history.checkpoint_of_all(60, 0, &[pages(1, 3)], all("b")).unwrap();
    assert_eq!((files(&path).len(), images(&history, 30)[0].as_str()), (1, "1/0=a"));
}

// To write the same into the store would take twice the room.
#[test]
fn a_disk_without_room_is_no_reason_to_write_images_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open_large(folder.path());
    let failed = |kind: std::io::ErrorKind| {
        WriteError::Store(StoreError::ImageFile { path: folder.path().to_owned(), source: kind.into() })
    };
    history.note_failure(&failed(std::io::ErrorKind::StorageFull));
    history.note_failure(&failed(std::io::ErrorKind::QuotaExceeded));
    assert!(history.begins_with_file(3));
    history.note_failure(&failed(std::io::ErrorKind::PermissionDenied));
    assert!(!history.begins_with_file(3));
}
