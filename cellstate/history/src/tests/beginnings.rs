//! What is there where a history begins, or goes on behind a leap, has a name as what came later has.
use super::inspection::{job_change, machine_change};
use super::*;
use crate::keys::{self, Shelf};
use crate::records::NumberRecord;
use crate::{Bearer, GroupBy, JobName, Lookup, Name, Named, Search, StartingPoint};
use v1::MachineState;
use v1::job_change::Change;

const M4: u64 = 1 << 32 | 4;
const M5: u64 = 3 << 32 | 5;

fn session(id: u64, scheduler: &str) -> Name {
    Name::Session(v1::SessionOpened { id, scheduler: scheduler.to_owned(), ..Default::default() })
}

fn job(id: u64, name: &str, is_newest: bool) -> Name {
    let groups = vec!["work".to_owned()];
    let submitted = if is_newest { u64::MAX } else { 0 };
    Name::Job { id, name: JobName { namespace: "ml".to_owned(), name: name.to_owned(), groups, submitted } }
}

fn machine(id: u64, name: &str) -> Name {
    Name::Machine { id, name: name.to_owned() }
}

/// Tells a history of these, and of nothing else.
fn settle(history: &History, names: &[Name]) {
    let is_there = |named: Named| {
        names.iter().any(|name| match name {
            Name::Job { id, .. } => named == Named::Job(*id),
            Name::Machine { id, .. } => named == Named::Machine(*id),
            Name::Session(opened) => named == Named::Session(opened.id),
        })
    };
    history.settle_names(names.iter().cloned(), is_there).unwrap();
}

/// Keys of all rows of names.
fn named(history: &History) -> Vec<Vec<u8>> {
    let ranges = [
        keys::session(0)..=keys::session(u64::MAX),
        keys::job(0)..=keys::job(u64::MAX),
        keys::machine(0, 0)..=keys::machine(u32::MAX, u64::MAX),
    ];
    let store = history.store().unwrap();
    ranges.into_iter().flat_map(|keys| store.rows(Shelf::Index, keys)).map(|row| row.unwrap().key).collect()
}

fn find_job(history: &History, name: &str) -> Search {
    history.find_job("ml", name, u64::MAX, 1 << 20).unwrap()
}

// Only what came after the beginning had a name: who lost to whom was unknown, and a job that ended later never was.
#[test]
fn what_is_there_at_the_beginning_has_a_name_until_its_end_is_retired() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    assert_eq!(history.wants_names_of().unwrap(), None);
    history.checkpoint(30, SECOND, &[], []).unwrap();
    assert_eq!(history.wants_names_of().unwrap(), Some(30));
    let there = [session(9, "batch"), job(900, "web", false), job(5, "web", true), machine(M4, "m4")];
    settle(&history, &there);
    assert_eq!(history.wants_names_of().unwrap(), None);
    settle(&history, &[]);
    assert_eq!(named(&history).len(), there.len(), "once is enough");

    let later = vec![
        lost(31, 9, 1, &[("service", 4, 1)]),
        machine_change(32, M4, "m4", MachineState::Cordoned),
        closing(33, 9),
        job_change(34, Change::Removed(5)),
        machine_change(35, M4, "", MachineState::Gone),
        machine_change(36, M5 - 1, "new", MachineState::Ready),
    ];
    history.append(&[batch(2 * SECOND, later)]).unwrap();
    for is_written in [false, true] {
        if is_written {
            history.persist().unwrap();
        }
        let losers = history.conflicts(0, u64::MAX, GroupBy::Pair, 9, None).unwrap().rows;
        assert_eq!(losers.iter().map(|row| row.group.loser.as_str()).collect::<Vec<_>>(), ["batch"]);
        assert_eq!(find_job(&history, "web"), Search::Found(Bearer { id: 5, revision: 30 }));
        assert_eq!(history.job_name(5).unwrap().unwrap().groups, ["work"]);
        let in_slot = |revision| history.machine_name(4, revision).unwrap().map(|found| found.name);
        assert_eq!([30, 35, 36].map(|at| in_slot(at).unwrap()), ["m4", "m4", "new"]);
    }
    history.append(&batches(37, 60, 0)).unwrap();
    history.checkpoint(60, 21 * SECOND, &[], []).unwrap();
    while !history.retire(60).unwrap().done {}
    assert_eq!(named(&history), [keys::job(900), keys::machine(4, 36)]);
}

/// A history that has leapt over all that came after revision 6.
fn leapt(folder: &Path) -> History {
    let (history, _) = open(folder);
    let put = |id| Change::Put(v1::JobPut { id, ..Default::default() });
    let entries = vec![
        opening(1, "batch"),
        opening(2, "service"),
        job_change(3, put(70)),
        job_change(4, put(71)),
        machine_change(5, M4, "m4", MachineState::Ready),
        machine_change(6, M5, "m5", MachineState::Ready),
    ];
    history.append(&[batch(SECOND, entries)]).unwrap();
    history.checkpoint(30, 10 * SECOND, &[], []).unwrap();
    history.leap_to(30).unwrap();
    history
}

const CAME: u64 = 2 << 32 | 4;

fn there_at_30() -> [Name; 6] {
    [
        session(1, "batch"),
        session(20, "new"),
        job(71, "old", true),
        job(72, "new", true),
        machine(CAME, "m6"),
        machine(M5, "m5"),
    ]
}

fn assert_is_named_as_at_30(history: &History) {
    assert_eq!(history.wants_names_of().unwrap(), None);
    let rows =
        [keys::session(1), keys::session(20), keys::job(71), keys::job(72), keys::machine(4, 30), keys::machine(5, 30)];
    assert_eq!(named(history), rows);
    assert_eq!(history.session(20).unwrap().found().unwrap().scheduler, "new");
    assert!(matches!(history.session(2).unwrap(), Lookup::Retired { .. }));
    let in_slot = |slot| history.machine_name(slot, 31).unwrap().map(|found| (found.id, found.name));
    assert_eq!([4, 5].map(in_slot), [Some((CAME, "m6".to_owned())), Some((M5, "m5".to_owned()))]);
}

// What ended in what a leap left out was never seen to end, so each leap left the names of all of that; and what came there had none.
#[test]
fn after_a_leap_all_that_is_there_has_a_name_and_nothing_else_has() {
    let folder = tempfile::tempdir().unwrap();
    let history = leapt(folder.path());
    settle(&history, &there_at_30());
    let gone = |revision, id| machine_change(revision, id, "", MachineState::Gone);
    history.append(&[batch(11 * SECOND, vec![entry(31, 0)])]).unwrap();
    assert_is_named_as_at_30(&history);
    let last = vec![gone(32, CAME), gone(33, M5), job_change(34, Change::Removed(71)), closing(35, 1), entry(36, 0)];
    history.append(&[batch(12 * SECOND, last)]).unwrap();
    history.persist().unwrap();
    history.append(&batches(37, 60, 0)).unwrap();
    history.checkpoint(60, 21 * SECOND, &[], []).unwrap();
    while !history.retire(60).unwrap().done {}
    assert_eq!(named(&history), [keys::session(20), keys::job(72)]);
}

// A crash in between left the names of what had gone, and another leap was to take them away.
#[test]
fn a_crash_between_a_leap_and_the_names_is_made_up_for() {
    let folder = tempfile::tempdir().unwrap();
    drop(leapt(folder.path()));
    let (history, opened) = open(folder.path());
    assert_eq!((opened.newest_revision, history.wants_names_of().unwrap()), (30, Some(30)));
    settle(&history, &there_at_30());
    drop(history);
    let (history, _) = open(folder.path());
    history.append(&[batch(11 * SECOND, vec![entry(31, 0)])]).unwrap();
    assert_is_named_as_at_30(&history);
}

// A write failed behind the leap, and the next checkpoint had more fed beside it before the names were settled: those of what had come with that were
// removed, and a job that was submitted again was told of as it had been.
#[test]
fn names_of_what_came_after_a_leap_stay_where_those_of_then_are_settled_late() {
    let folder = tempfile::tempdir().unwrap();
    let history = leapt(folder.path());
    let put = |id, name: &str| {
        let shape = v1::JobShape { namespace: "ml".to_owned(), name: name.to_owned(), ..Default::default() };
        Change::Put(v1::JobPut { id, shape: Some(shape), ..Default::default() })
    };
    let later = vec![
        opening(31, "later"),
        job_change(32, put(80, "later")),
        job_change(33, put(71, "again")),
        machine_change(34, (1 << 32) | 6, "later", MachineState::Ready),
    ];
    history.append(&[batch(11 * SECOND, later)]).unwrap();
    history.persist().unwrap();
    settle(&history, &[session(1, "batch"), job(71, "old", true), job(72, "new", true), machine(CAME, "m6")]);
    assert_eq!(history.wants_names_of().unwrap(), None);
    let rows = [
        keys::session(1),
        keys::session(31),
        keys::job(71),
        keys::job(72),
        keys::job(80),
        keys::machine(4, 30),
        keys::machine(6, 34),
    ];
    assert_eq!(named(&history), rows);
    assert_eq!(history.session(31).unwrap().found().unwrap().scheduler, "later");
    let jobs = [71, 72, 80].map(|id| history.job_name(id).unwrap().map(|known| (known.name, known.submitted)));
    assert_eq!(jobs, [("again", 33), ("new", 30), ("later", 32)].map(|(name, at)| Some((name.to_owned(), at))));
}

#[test]
fn more_names_than_go_in_one_step_are_all_there() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&[batch(SECOND, (1..=9000).map(|revision| opening(revision, &"b".repeat(90))).collect())]).unwrap();
    history.checkpoint(20_000, 10 * SECOND, &[], []).unwrap();
    history.leap_to(20_000).unwrap();
    let there: Vec<_> = (10_000..19_000).map(|id| session(id, &"b".repeat(90))).collect();
    history.settle_names(there.iter().cloned(), |named| matches!(named, Named::Session(id) if id >= 10_000)).unwrap();
    let ids: Vec<_> = (10_000..19_000).map(keys::session).collect();
    assert_eq!(named(&history), ids);
}

/// A history that was to begin with a checkpoint at revision 30: power went when only one of its two tables was durable.
fn with_half_a_beginning_at_30(folder: &Path) -> History {
    let (history, _) = open(folder);
    assert!(!history.has_anything());
    let mut changes = history.store().unwrap().changes();
    for key in [keys::BASE, keys::HEAD, keys::UNNAMED] {
        changes.put_message(Shelf::Index, key, &NumberRecord { number: 30 });
    }
    changes.commit().unwrap();
    drop(history);
    let (history, opened) = open(folder);
    assert_eq!((opened.newest_revision, history.newest_checkpoint(), history.has_anything()), (0, None, false));
    history
}

// It passed for a history that has something, and no start could make anything of it.
#[test]
fn a_history_that_only_knows_where_it_was_to_begin_has_nothing_and_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    let history = with_half_a_beginning_at_30(folder.path());
    history.checkpoint_of_all(30, 0, &[pages(1, 1)], [page(1, 0, "a")]).unwrap();
    assert!(history.has_anything());
    assert_eq!(history.wants_names_of().unwrap(), Some(30));
    settle(&history, &[session(7, "batch")]);
    history.append(&batches(31, 33, 0)).unwrap();
    assert_eq!((history.oldest_revision(), history.newest_revision()), (31, 33));
}

// It kept where the first try was to begin, with nothing there: all that came was said to be retired, and names were not even looked for.
#[test]
fn a_history_that_begins_again_may_do_so_before_where_it_was_to_begin() {
    let folder = tempfile::tempdir().unwrap();
    let history = with_half_a_beginning_at_30(folder.path());
    history.checkpoint_of_all(21, 0, &[pages(1, 1)], [page(1, 0, "a")]).unwrap();
    assert_eq!(history.wants_names_of().unwrap(), Some(21));
    settle(&history, &[session(7, "batch")]);
    history.append(&batches(22, 33, 0)).unwrap();
    history.persist().unwrap();
    drop(history);
    let (history, opened) = open(folder.path());
    assert_eq!((opened.oldest_revision, opened.newest_revision), (22, 33));
    assert_eq!(revisions(&history, 22, 33).len(), 12);
    let starts = [22, 33].map(|revision| history.start_for(revision).unwrap());
    assert!(starts.iter().all(|start| matches!(start, StartingPoint::Checkpoint(info) if info.revision == 21)));
    assert!(history.session(7).unwrap().found().is_some());
}

// It went on behind where it was to begin: what the log had from before that was never fed, and nothing could be read.
#[test]
fn a_history_that_only_knows_where_it_was_to_begin_takes_the_log_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let history = with_half_a_beginning_at_30(folder.path());
    // As of any that wants names.
    settle(&history, &[]);
    history.append(&batches(1, 33, 0)).unwrap();
    history.checkpoint_of_all(33, 0, &[pages(1, 1)], [page(1, 0, "a")]).unwrap();
    assert_eq!(history.wants_names_of().unwrap(), None, "it has not begun with that");
    history.persist().unwrap();
    drop(history);
    let (history, opened) = open(folder.path());
    assert_eq!((opened.oldest_revision, opened.newest_revision), (1, 33));
    assert_eq!(revisions(&history, 1, 33).len(), 33);
    assert_eq!(history.start_for(32).unwrap(), StartingPoint::Empty);
}
