//! What a crash leaves, and what damage does.
use super::*;
use crate::keys::Shelf;
use crate::{GroupBy, OpenError, Order, ReadError, StoreError, Subject, WriteError};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) fn journals(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder.join("store")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).collect()
}

/// Everything that a healthy history can do, after the log was fed again.
fn feed_again_and_check(history: &History, newest: u64) {
    let all = batches(1, newest, 200);
    history.append(&all).unwrap();
    assert_eq!(revisions(history, 1, newest), (1..=newest).collect::<Vec<_>>());
    let last_second = i64::try_from(newest / 3).unwrap();
    for second in [1, last_second / 2, last_second] {
        let expected = u64::try_from(second).unwrap() * 3;
        assert_eq!(history.revision_at_time(second * SECOND).unwrap(), expected);
    }
}

#[test]
fn a_history_that_was_only_dropped_goes_on_after_feeding_again() {
    let folder = tempfile::tempdir().unwrap();
    {
        let (history, _) = open(folder.path());
        history.append(&batches(1, 300, 200)).unwrap();
    }
    let (history, opened) = open(folder.path());
    assert!((1..=300).contains(&opened.newest_revision), "{}", opened.newest_revision);
    assert_eq!(revisions(&history, 1, opened.newest_revision).len() as u64, opened.newest_revision);
    assert_eq!(history.durable_revision(), opened.newest_revision);
    feed_again_and_check(&history, 600);
}

#[test]
fn a_history_that_was_persisted_lacks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    {
        let (history, _) = open(folder.path());
        history.append(&batches(1, 300, 200)).unwrap();
        history.persist().unwrap();
        assert_eq!(history.durable_revision(), 300);
    }
    let (history, opened) = open(folder.path());
    assert_eq!((opened.oldest_revision, opened.newest_revision), (1, 300));
    feed_again_and_check(&history, 300);
}

/// A server was killed while it made its cell; fjall then found a folder where it wanted to make one, and the cell could not be
/// started any more.
#[test]
fn a_store_whose_making_was_cut_off_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    // What the crash left: a store that lacks its last files, under the name of those that are being made.
    std::fs::rename(folder.path().join("store"), folder.path().join("store.new")).unwrap();
    std::fs::remove_file(folder.path().join("store.new/version")).unwrap();
    let (history, opened) = open(folder.path());
    assert_eq!(opened.newest_revision, 0);
    feed_again_and_check(&history, 300);
    assert!(!folder.path().join("store.new").exists());
}

/// A store of a format before 5, which lacks two shelves, as a crash leaves it while they are made.
#[test]
fn shelves_whose_making_was_cut_off_are_made_anew() {
    let without = |shelves: &[Shelf]| {
        let folder = tempfile::tempdir().unwrap();
        {
            let (history, _) = open(folder.path());
            history.append(&batches(1, 90, 200)).unwrap();
            history.persist().unwrap();
        }
        let database = fjall::Database::builder(folder.path().join("store")).open().unwrap();
        for shelf in shelves {
            let keyspace = database.keyspace(shelf.name(), fjall::KeyspaceCreateOptions::default).unwrap();
            database.delete_keyspace(keyspace).unwrap();
        }
        let identity = folder.path().join("identity");
        let text = std::fs::read_to_string(&identity).unwrap();
        assert!(text.contains("format 8"), "{text}");
        std::fs::write(identity, text.replace("format 8", "format 4")).unwrap();
        folder
    };
    let goes_on = |folder: &Path| {
        let (history, opened) = open(folder);
        assert_eq!((opened.newest_revision, opened.journal_set_aside.is_none()), (90, true));
        feed_again_and_check(&history, 300);
        history.checkpoint(300, 0, &[pages(1, 1)], [page(1, 0, "x")]).unwrap();
        drop(history);
        assert_eq!(images(&open(folder).0, 300), ["1/0=x"]);
    };
    for shelves in [&[Shelf::Filters, Shelf::Images][..], &[Shelf::Images]] {
        goes_on(without(shelves).path());
        // Its folder is there, and perhaps some of its files; nothing says which keyspace it is.
        for tables in ["", "tables"] {
            let folder = without(shelves);
            std::fs::create_dir_all(folder.path().join("store/keyspaces/6").join(tables)).unwrap();
            goes_on(folder.path());
        }
    }
    // It is said which one it is; but its folder is gone, or lacks what it begins with.
    for lost in [None, Some("current")] {
        let folder = without(&[]);
        let keyspaces = std::fs::read_dir(folder.path().join("store/keyspaces")).unwrap();
        let newest = keyspaces.map(|entry| entry.unwrap().path()).max().unwrap();
        match lost {
            None => std::fs::remove_dir_all(newest).unwrap(),
            Some(file) => std::fs::remove_file(newest.join(file)).unwrap(),
        }
        let (history, opened) = open(folder.path());
        assert!(opened.newest_checkpoint.is_none() && opened.newest_revision == 90);
        feed_again_and_check(&history, 300);
    }
}

/// Set in the process that is to be killed: the folder it writes to.
const VICTIM: &str = "PLENUM_HISTORY_TEST_VICTIM";

/// Writes until it is killed, and says what is durable.
fn write_until_killed(folder: &Path) -> ! {
    use std::io::Write;
    let options = Options { image_file_pages: 20, ..options() };
    let (history, opened) = History::open(folder, options).unwrap();
    history.append(&batches(1, opened.newest_revision / 3 * 3 + 3, 400)).unwrap();
    for round in 0_u64.. {
        let next = history.newest_revision() + 1;
        history.append(&batches(next, next + 29, 400)).unwrap();
        if round.is_multiple_of(2) {
            let revision = history.newest_revision();
            let changed = (0..20).map(|number| page(1, number, &revision.to_string()));
            // Every second one begins a set, with a file.
            if round.is_multiple_of(4) {
                history.checkpoint_of_all(revision, 0, &[pages(1, 20)], changed).unwrap();
            } else {
                history.checkpoint(revision, 0, &[pages(1, 20)], changed).unwrap();
            }
            history.retire(revision.saturating_sub(600)).unwrap();
        }
        let durable = history.durable_revision().min(history.newest_checkpoint().map_or(0, |info| info.revision));
        writeln!(std::io::stdout(), "durable {durable}").unwrap();
    }
    unreachable!("it is killed before")
}

#[test]
fn a_killed_process_leaves_all_that_was_durable() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    if let Some(folder) = std::env::var_os(VICTIM) {
        write_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut lines_before_kill = 5;
    for _ in 0..4 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::crashes::a_killed_process_leaves_all_that_was_durable", "--nocapture"])
            .env(VICTIM, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let said = lines.filter_map(|line| line.unwrap().strip_prefix("durable ").map(|text| text.parse().unwrap()));
        let durable: u64 = said.take(lines_before_kill).last().unwrap();
        victim.kill().unwrap();
        victim.wait().unwrap();
        lines_before_kill += 9;

        let (history, opened) = open(folder.path());
        assert!(opened.newest_revision >= durable, "{} is there, {durable} was durable", opened.newest_revision);
        assert_eq!(opened.newest_revision % 3, 0, "batches are there whole");
        let checkpoint = opened.newest_checkpoint.unwrap().revision;
        assert!(checkpoint >= durable);
        assert!(images(&history, checkpoint).iter().all(|image| image.ends_with(&format!("={checkpoint}"))));
        let there = revisions(&history, opened.oldest_revision, opened.newest_revision);
        assert_eq!(there, (opened.oldest_revision..=opened.newest_revision).collect::<Vec<_>>());
    }
}

#[test]
fn a_kill_at_any_time_leaves_a_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(&folder.path().join("live"));
    let mut seen = 0;
    for (step, some) in batches(1, 1500, 400).chunks(50).enumerate() {
        history.append(some).unwrap();
        if step % 3 == 1 {
            let revision = history.newest_revision();
            let info = [page(1, 0, &revision.to_string())];
            history.checkpoint(revision, 0, &[pages(1, 1)], info).unwrap();
        }
        let durable = history.durable_revision();
        let checkpoint = history.newest_checkpoint().map(|info| info.revision);
        let copy = folder.path().join(format!("copy{step}"));
        copy_of(&history, &folder.path().join("live"), &copy);

        let (survivor, opened) = open(&copy);
        assert!(opened.newest_revision >= durable && opened.newest_revision <= history.newest_revision());
        assert_eq!(opened.newest_checkpoint.map(|info| info.revision), checkpoint);
        if let Some(revision) = checkpoint {
            assert_eq!(images(&survivor, revision), [format!("1/0={revision}")]);
        }
        survivor.append(&batches(1, 1500, 400)).unwrap();
        assert_eq!(revisions(&survivor, 1, 1500).len(), 1500);
        seen = seen.max(durable);
    }
    assert!(seen > 0, "something became durable on the way");
}

#[test]
fn a_crash_within_a_checkpoint_leaves_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let live = folder.path().join("live");
    {
        let (history, _) = open(&live);
        history.append(&batches(1, 30, 0)).unwrap();
        history.checkpoint(10, 0, &[pages(1, 300)], (0..300).map(|number| page(1, number, "old"))).unwrap();
        // The images are large enough to be committed in several pieces; the copy is taken before the last one.
        let large = "new".repeat(10_000);
        let crashing = (0..300).map(|number| {
            if number == 299 {
                copy_of(&history, &live, &copy);
            }
            page(1, number, &large)
        });
        history.checkpoint(20, 0, &[pages(1, 300)], crashing).unwrap();
    }
    let (history, opened) = open(&copy);
    assert_eq!(opened.newest_checkpoint.unwrap().revision, 10);
    assert!(images(&history, 10).iter().all(|image| image.ends_with("=old")));
    // After the restart every page that changed since the last checkpoint is written again.
    history.append(&batches(1, 30, 0)).unwrap();
    history.checkpoint(30, 0, &[pages(1, 300)], (0..300).map(|number| page(1, number, "newer"))).unwrap();
    assert!(images(&history, 30).iter().all(|image| image.ends_with("=newer")));
}

/// The store has memtables written by itself, too, when its journal has grown: in any order, so that a record could be in a table, and the
/// images of its checkpoint only in the journal, which a power cut tears.
#[test]
fn images_are_in_tables_before_a_record_says_that_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 30, 0)).unwrap();
    let watched = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while watched.load(Ordering::Relaxed) < 30 {
                let found = history.checkpoint_at_or_before(u64::MAX).unwrap().map_or(0, |info| info.revision);
                if found > watched.load(Ordering::Relaxed) {
                    assert!(
                        history.store().unwrap().is_all_in_tables(Shelf::Images),
                        "images of {found} are not in tables"
                    );
                    watched.store(found, Ordering::Relaxed);
                }
            }
        });
        for revision in 1..=30 {
            history.checkpoint(revision, 0, &[pages(1, 20)], (0..20).map(|number| page(1, number, "x"))).unwrap();
            while watched.load(Ordering::Relaxed) < revision && !watcher.is_finished() {
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn damage_anywhere_in_the_stores_journal_loses_nothing_that_was_durable() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    let (history, _) = open(&live);
    history.append(&batches(1, 150, 200)).unwrap();
    history.checkpoint(150, 0, &[pages(1, 1)], [page(1, 0, "kept")]).unwrap();
    history.persist().unwrap();
    let durable = history.durable_revision();
    assert_eq!(durable, 150);
    history.append(&batches(151, 300, 200)).unwrap();
    let mut set_aside = 0;
    history.store().unwrap().wait_until_idle();
    for (round, place_permille) in (0..6).map(|round| (round, round * 170 + 3)) {
        let copy = folder.path().join(format!("copy{round}"));
        copy_folder(&live, &copy);
        for journal in journals(&copy) {
            let mut bytes = std::fs::read(&journal).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let place = used * place_permille / 1000;
            let end = (place + if round % 2 == 0 { 1 } else { 4096 }).min(used);
            bytes[place..end].iter_mut().for_each(|byte| *byte = if round % 2 == 0 { *byte ^ 0x10 } else { 0 });
            std::fs::write(&journal, bytes).unwrap();
        }
        let (survivor, opened) = open(&copy);
        set_aside += usize::from(opened.journal_set_aside.is_some());
        assert!(opened.newest_revision >= durable, "round {round}: {} is there", opened.newest_revision);
        assert_eq!(images(&survivor, 150), ["1/0=kept"]);
        feed_again_and_check(&survivor, 450);
        survivor.persist().unwrap();
        drop(survivor);
        let (again, opened) = open(&copy);
        assert_eq!(opened.newest_revision, 450);
        assert!(opened.journal_set_aside.is_none());
        feed_again_and_check(&again, 450);
    }
    assert!(set_aside > 0, "some damage made the store refuse its journal");
}

/// What is about blocks goes to tables before they do. After a power cut in between it told of blocks that were not there: when the same batches
/// were cut otherwise the next time, conflicts were counted twice, and a walk passed over what stood in a block before an old filter began.
#[test]
fn what_was_written_of_blocks_that_a_power_cut_took_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = vec![batch(SECOND, vec![opening(1, "batch")])];
    all.extend((2..=200).map(|revision| batch(2 * SECOND, vec![lost(revision, 1, 1, &[("service", 1, 1)])])));
    {
        let (history, _) = open(folder.path());
        history.append(&all[..150]).unwrap();
        history.persist().unwrap();
        let store = history.store().unwrap();
        let mut changes = store.changes();
        for row in store.rows(Shelf::Blocks, crate::keys::block(60)..=crate::keys::block(u64::MAX)) {
            changes.remove(Shelf::Blocks, row.unwrap().key);
        }
        changes.commit().unwrap();
        drop(store);
        history.persist().unwrap();
    }
    let (history, opened) = open(folder.path());
    assert_eq!(opened.newest_revision, 64);
    for some in all.chunks(7) {
        history.append(some).unwrap();
        history.persist().unwrap();
    }
    let table = history.conflicts(0, u64::MAX, GroupBy::Pair, 10, None).unwrap();
    assert_eq!((table.rows[0].transactions, table.rows[0].claims), (199, 199));
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let mut walk = history.walk(1..=u64::MAX, order);
        let mut found = Vec::new();
        while let Some(entries) = walk.next(|summary| summary.may_tell_of(Subject::Session(1))).unwrap() {
            found.extend(entries.into_iter().map(|logged| logged.entry.revision));
        }
        found.sort_unstable();
        assert_eq!(found, (1..=200).collect::<Vec<_>>(), "{order:?}");
    }
}

#[test]
fn a_history_that_knows_more_than_the_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 30, 0)).unwrap();
    history.check_against_log(30).unwrap();
    let ahead = history.check_against_log(29).unwrap_err();
    assert!(matches!(ahead, WriteError::AheadOfLog { history: 30, log: 29 }), "{ahead}");
}

#[test]
fn a_damaged_row_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 300, 200)).unwrap();
    history.persist().unwrap();
    let (key, other) = {
        let rows =
            history.store().unwrap().rows(crate::keys::Shelf::Blocks, crate::keys::block(1)..=crate::keys::block(300));
        let keys: Vec<_> = rows.map(|row| row.unwrap().key).collect();
        (keys[1].clone(), keys[3].clone())
    };
    // As if the file system had mixed up two places: good bytes, of another row.
    let strange = history.store().unwrap().get(crate::keys::Shelf::Blocks, &other).unwrap().unwrap();
    let mut changes = history.store().unwrap().changes();
    changes.put(crate::keys::Shelf::Blocks, key.clone(), &strange);
    changes.commit().unwrap();

    let error = history.entries(1, 300).unwrap().find_map(Result::err).unwrap();
    let ReadError::Store(StoreError::Damaged { key: named, .. }) = &error else { panic!("{error}") };
    assert_eq!(named, &crate::keys::describe(crate::keys::Shelf::Blocks, &key));
    assert!(error.to_string().contains("move the folder `history` in it away"), "{error}");
}

#[test]
fn damaged_tables_are_errors_and_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    {
        let (history, _) = open(&live);
        history.append(&batches(1, 300, 200)).unwrap();
        history.persist().unwrap();
    }
    let mut damaged = 0;
    for round in 0..6 {
        let copy = folder.path().join(format!("copy{round}"));
        copy_folder(&live, &copy);
        damage_tables(&copy.join("store/keyspaces"), round);
        match History::open(&copy, options()) {
            Err(OpenError::Damaged { .. } | OpenError::Store(_)) => damaged += 1,
            Err(error) => panic!("{error}"),
            Ok((history, opened)) => {
                if let Ok(entries) = history.entries(1, opened.newest_revision) {
                    damaged += usize::from(entries.filter(Result::is_err).count() > 0);
                }
            }
        }
    }
    assert!(damaged > 0, "some damage was seen");
}

// The process was gone: an assertion of the store failed, and another one while it was unwound. Neither `verify` nor `restore` could tell of it.
#[test]
fn a_damaged_list_of_tables_is_an_error_wherever_it_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    {
        let (history, _) = open(&live);
        history.append(&batches(1, 300, 200)).unwrap();
        history.persist().unwrap();
    }
    let mut lists = Vec::new();
    for_each_file(&live.join("store/keyspaces"), &mut |path| {
        let is_list = path.file_name().unwrap().to_str().is_some_and(|name| name == "current" || name.starts_with('v'));
        if is_list {
            lists.push(path.to_owned());
        }
    });
    let currents = lists.iter().filter(|path| path.ends_with("current")).count();
    assert!(currents >= 5 && lists.len() >= 2 * currents, "{lists:?}");
    for list in lists {
        let whole = std::fs::read(&list).unwrap();
        // Fjall leaves lists that do not count any more for later.
        let counts = list.ends_with("current") || {
            let current = std::fs::read(list.with_file_name("current")).unwrap();
            list.ends_with(format!("v{}", u64::from_le_bytes(*current.first_chunk().unwrap())))
        };
        for place in (0..whole.len()).step_by(5).filter(|_| counts) {
            let mut damaged = whole.clone();
            damaged[place] ^= 1 << (place % 8);
            std::fs::write(&list, damaged).unwrap();
            let error = History::open(&live, options()).err();
            assert!(matches!(error, Some(OpenError::Damaged { .. })), "{} {place}: {error:?}", list.display());
        }
        std::fs::write(&list, whole).unwrap();
    }
    let (history, _) = open(&live);
    assert_eq!(revisions(&history, 1, 300).len(), 300);
}

/// The history could not be opened at all when the record of its newest checkpoint was damaged, and with it the cell.
#[test]
fn a_checkpoint_whose_record_is_damaged_is_passed_over_for_an_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    let (history, _) = open(&live);
    history.append(&batches(1, 90, 0)).unwrap();
    let newest_table = || {
        let tables =
            std::fs::read_dir(live.join("store/keyspaces/5/tables")).unwrap().map(|table| table.unwrap().path());
        tables.max_by_key(|path| path.file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap()).unwrap()
    };
    let mut tables = Vec::new();
    for revision in [30, 60, 90] {
        history.checkpoint(revision, 0, &[pages(1, 1)], [page(1, 0, &revision.to_string())]).unwrap();
        history.store().unwrap().wait_until_idle();
        tables.push(newest_table());
    }
    history.persist().unwrap();
    drop(history);
    let damage = |table: &Path| {
        let mut bytes = std::fs::read(table).unwrap();
        bytes[40] ^= 1;
        std::fs::write(table, bytes).unwrap();
    };
    for (table, left) in [(&tables[2], 60), (&tables[1], 30)] {
        damage(table);
        let (history, opened) = open(&live);
        assert_eq!(opened.newest_checkpoint.unwrap().revision, left);
        assert_eq!(images(&history, left), [format!("1/0={left}")]);
        assert_eq!(revisions(&history, left + 1, 90).len() as u64, 90 - left);
    }
    damage(&tables[0]);
    let (history, opened) = open(&live);
    assert!(opened.newest_checkpoint.is_none(), "the log goes back to the beginning");
    assert_eq!(revisions(&history, 1, 90).len(), 90);
}

#[test]
fn missing_or_cut_files_of_the_store_are_named_as_damage() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    {
        let (history, _) = open(&live);
        history.append(&batches(1, 300, 200)).unwrap();
        history.persist().unwrap();
    }
    let spoil = |name: &str, folder_name: &str, spoil: fn(&Path)| {
        let copy = folder.path().join(name);
        copy_folder(&live, &copy);
        for_each_file(&copy.join("store/keyspaces"), &mut |path| {
            if path.parent().unwrap().ends_with(folder_name) {
                spoil(path);
            }
        });
        History::open(&copy, options()).err().unwrap_or_else(|| panic!("{name} was not noticed"))
    };
    let gone = spoil("gone", "tables", |path| std::fs::remove_file(path).unwrap());
    assert!(matches!(gone, OpenError::Damaged { .. }), "{gone:?}");
    let cut = spoil("cut", "tables", |path| std::fs::write(path, b"PLENUM").unwrap());
    assert!(matches!(cut, OpenError::Damaged { .. }), "{cut:?}");
    assert!(cut.to_string().contains("move the folder `history` in it away"), "{cut}");
}

fn for_each_file(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { for_each_file(&path, visit) } else { visit(&path) }
    }
}

/// Flips a bit in the data of every table, at a place that depends on the round.
fn damage_tables(folder: &Path, round: usize) {
    for_each_file(folder, &mut |path| {
        if path.parent().unwrap().ends_with("tables") {
            let mut bytes = std::fs::read(path).unwrap();
            let place = bytes.len() * (3 + 13 * round) / 100;
            bytes[place] ^= 0x10;
            std::fs::write(path, bytes).unwrap();
        }
    });
}

/// Who sets a journal aside was killed before an empty one was in its place. The store then numbered its changes anew, so that rows from
/// before hid all that was written later.
#[test]
fn a_store_whose_journal_is_gone_goes_on_with_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    {
        let (history, _) = open(folder.path());
        history.append(&batches(1, 3000, 200)).unwrap();
        history.persist().unwrap();
    }
    journals(folder.path()).into_iter().for_each(|journal| std::fs::remove_file(journal).unwrap());
    {
        let (history, opened) = open(folder.path());
        assert_eq!(opened.newest_revision, 3000);
        history.append(&batches(3001, 3090, 200)).unwrap();
        history.persist().unwrap();
        history.store().unwrap().compact(Shelf::Index).unwrap();
    }
    let (history, opened) = open(folder.path());
    assert_eq!(opened.newest_revision, 3090);
    feed_again_and_check(&history, 3090);
}

/// Whether it could be opened was a matter of who was faster: who opens it, or the store's worker, which merges tables from the beginning on,
/// meets the damage, and takes no more writes.
#[test]
fn a_history_whose_tables_are_damaged_is_opened_also_when_they_are_merged_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 30, 300)).unwrap();
    let both = |text: &str| [page(1, 0, text), page(1, 1, text)];
    let write = |history: &History, revision: u64| history.checkpoint(revision, 0, &[pages(1, 2)], both("old"));
    // Not enough tables yet to be merged: of each of both pages all have images.
    for revision in 1..=7 {
        write(&history, revision).unwrap();
    }
    history.persist().unwrap();
    drop(history);
    for table in std::fs::read_dir(folder.path().join("store/keyspaces/4/tables")).unwrap() {
        let path = table.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    // The next one is enough, and the merge fails: from now on one is tried whenever the store is opened, before what is in memory by then can go
    // to tables.
    let (history, _) = open(folder.path());
    history.append(&batches(31, 300, 300)).unwrap();
    let mut later = 8..=300;
    assert!(later.any(|revision| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        write(&history, revision).is_err()
    }));
    drop(history);
    for _ in 0..3 {
        let (history, opened) = open(folder.path());
        assert_eq!((opened.newest_revision, revisions(&history, 1, 300).len()), (300, 300));
        assert!(history.durable_revision() < 300, "the log is still needed");
        assert!(history.pages_at(7).unwrap().next().unwrap().is_err());
        assert!(write(&history, 300).is_err());
    }
}
