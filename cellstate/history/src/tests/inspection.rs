//! Transactions, sessions, conflicts and ended allocations.
use super::*;
use crate::{ConflictGroup, GroupBy, Lookup, Order};

/// Sessions 1 (batch) and 2 (service), then transactions: odd numbers of 1, even ones of 2; every fifth lost claims.
fn with_transactions(history: &History, last: u64) {
    let mut all = vec![batch(SECOND, vec![opening(1, "batch"), opening(2, "service")])];
    all.extend((3..=last).map(|revision| {
        let (session, refused) = (2 - revision % 2, u32::from(revision % 5 == 0));
        batch(2 * SECOND, vec![transaction(revision, session, revision, refused)])
    }));
    history.append(&all).unwrap();
}

#[test]
fn transactions_and_sessions_are_found_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    with_transactions(&history, 100);
    assert_eq!(history.transaction(1, 77).unwrap(), Lookup::Found(77));
    assert_eq!(history.transaction(2, 78).unwrap(), Lookup::Found(78));
    assert_eq!(history.transaction(2, 77).unwrap(), Lookup::NeverWas);
    assert_eq!(history.session(2).unwrap().found().unwrap().scheduler, "service");
    assert_eq!(history.session(3).unwrap(), Lookup::NeverWas);
}

#[test]
fn transactions_are_listed_in_both_directions_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    with_transactions(&history, 100);
    let listed = |from, to, order, limit| {
        let page = history.transactions(from..=to, order, limit, |found| found.outcome.granted < 10).unwrap();
        let revisions: Vec<_> = page.transactions.iter().map(|found| found.revision).collect();
        (revisions, page.resume)
    };
    assert_eq!(listed(0, u64::MAX, Order::NewestFirst, 3), (vec![100, 95, 90], Some(85)));
    assert_eq!(listed(0, 85, Order::NewestFirst, 3), (vec![85, 80, 75], Some(70)));
    assert_eq!(listed(91, 99, Order::NewestFirst, 9), (vec![95], None));
    assert_eq!(listed(7, u64::MAX, Order::OldestFirst, 2), (vec![10, 15], Some(20)));
    assert_eq!(listed(96, 200, Order::OldestFirst, 2), (vec![100], None));
    assert_eq!(listed(60, 50, Order::NewestFirst, 2), (vec![], None));
}

#[test]
fn a_repeated_number_keeps_its_first_revision() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    with_transactions(&history, 10);
    // The entry at 11 repeats the outcome of 7; a dry run at 12 has no revision.
    let repeated = v1::LogEntry { revision: 11, ..transaction(7, 1, 7, 0) };
    let dry_run = v1::LogEntry { revision: 12, ..transaction(0, 1, 12, 0) };
    history.append(&[batch(3 * SECOND, vec![repeated, dry_run])]).unwrap();
    assert_eq!(history.transaction(1, 7).unwrap(), Lookup::Found(7));
    assert_eq!(history.transaction(1, 12).unwrap(), Lookup::NeverWas);
}

#[test]
fn conflicts_are_grouped_by_pair_machine_job_and_resource() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let mut all = batches(1, 30, 0);
    all[1].conflicts = vec![
        note(4, "batch", 3, vec![loss("service", 1, 2), loss("service", 2, 1)]),
        note(5, "batch", 9, vec![loss("service", 1, 1)]),
    ];
    all[9].conflicts = vec![note(28, "service", 20, vec![loss("batch", 2, 5), loss("(expired)", 3, 1)])];
    history.append(&all).unwrap();

    let table = history.conflicts(0, GroupBy::Pair, 10).unwrap();
    let rows: Vec<_> = table
        .rows
        .iter()
        .map(|row| {
            (row.group.loser.as_str(), row.group.winner.as_str(), row.transactions, row.claims, row.wasted_micros)
        })
        .collect();
    assert_eq!(
        rows,
        [("service", "batch", 1, 5, 500), ("batch", "service", 2, 4, 400), ("service", "(expired)", 1, 1, 100)]
    );
    assert_eq!(table.rows[1].median_staleness_revisions, 3);
    assert_eq!((table.rows[1].newest_revision, table.rows[1].session, table.rows[1].number), (5, 1, 5));

    let by_machine = history.conflicts(0, GroupBy::Machine, 1).unwrap();
    assert_eq!(by_machine.rows[0].group, ConflictGroup { machine: Some(2), ..Default::default() });
    assert_eq!((by_machine.rows[0].transactions, by_machine.rows[0].claims, by_machine.truncated), (2, 6, true));
    assert_eq!(history.conflicts(0, GroupBy::Job, 9).unwrap().rows[0].group.job, 7);
    assert_eq!(history.conflicts(0, GroupBy::Resource, 9).unwrap().rows[0].claims, 10);

    let recent = history.conflicts(10 * SECOND, GroupBy::Pair, 10).unwrap();
    assert_eq!(recent.rows.iter().map(|row| row.claims).sum::<u64>(), 6);
    assert!(history.conflicts(11 * SECOND, GroupBy::Pair, 10).unwrap().rows.is_empty());
}

#[test]
fn ended_allocations_are_found_by_id_and_listed_newest_first() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let mut all = batches(1, 6, 0);
    all[0].ended = vec![ended(900, 2, "early"), ended(901, 3, "late")];
    all[1].ended = (1000..1200).map(|id| ended(id, 5, "many")).collect();
    history.append(&all).unwrap();

    assert_eq!(history.ended(900).unwrap().found().unwrap().job, "early");
    assert_eq!(history.ended(1150).unwrap().found().unwrap().id, 1150);
    assert_eq!(history.ended(7).unwrap(), Lookup::NeverWas);

    let newest = history.ended_recent(3, |_| true).unwrap();
    assert_eq!(newest.allocations.iter().map(|view| view.id).collect::<Vec<_>>(), [1199, 1198, 1197]);
    assert!(newest.truncated);
    let rest = history.ended_recent(9, |view| view.job != "many").unwrap();
    assert_eq!(rest.allocations.iter().map(|view| view.id).collect::<Vec<_>>(), [901, 900]);
    assert!(!rest.truncated);
}

#[test]
fn rows_of_batches_that_a_crash_took_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let newest = {
        let (history, _) = open(folder.path());
        history.append(&batches(1, 6, 0)).unwrap();
        history.persist().unwrap();
        // One more batch: its rows are in the store, itself only in memory.
        let mut last = batch(9 * SECOND, vec![opening(7, "batch"), transaction(8, 7, 1, 1)]);
        last.ended = vec![ended(55, 8, "job")];
        last.conflicts = vec![note(8, "batch", 1, vec![loss("service", 1, 1)])];
        history.append(&[last]).unwrap();
        assert_eq!(history.transaction(7, 1).unwrap(), Lookup::Found(8));
        history.newest_revision()
    };
    assert_eq!(newest, 8);
    let (history, opened) = open(folder.path());
    assert_eq!(opened.newest_revision, 6);
    assert_eq!(history.transaction(7, 1).unwrap(), Lookup::NeverWas);
    assert_eq!(history.session(7).unwrap(), Lookup::NeverWas);
    assert_eq!(history.ended(55).unwrap(), Lookup::NeverWas);
    assert!(history.ended_recent(5, |_| true).unwrap().allocations.is_empty());
    assert!(history.conflicts(0, GroupBy::Pair, 5).unwrap().rows.is_empty());
    assert!(history.check_against_log(6).is_err(), "the log is known to have had more");
    history.check_against_log(8).unwrap();
}
