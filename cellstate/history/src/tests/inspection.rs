//! Transactions, sessions, conflicts, names, and finding what the log says about something.
use super::*;
use crate::keys::Shelf;
use crate::{ConflictGroup, GroupBy, JobName, Lookup, Lost, MachineName, Order, Subject};

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
        listed(&history, from..=to, order, limit, |found: &crate::LoggedTransaction| found.outcome.granted < 10)
    };
    assert_eq!(listed(0, u64::MAX, Order::NewestFirst, 3), (vec![100, 95, 90], Some(85)));
    assert_eq!(listed(0, 85, Order::NewestFirst, 3), (vec![85, 80, 75], Some(70)));
    assert_eq!(listed(91, 99, Order::NewestFirst, 9), (vec![95], None));
    assert_eq!(listed(7, u64::MAX, Order::OldestFirst, 2), (vec![10, 15], Some(20)));
    assert_eq!(listed(96, 200, Order::OldestFirst, 2), (vec![100], None));
    assert_eq!(listed(60, 50, Order::NewestFirst, 2), (vec![], None));
}

/// One listing held as many outcomes as 64 MiB of log have, with all their refusals, before the first of them was looked at.
#[test]
fn a_transaction_is_decoded_when_its_turn_comes() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let refusals = vec![v1::Refusal { device: "~".to_owned(), ..Default::default() }];
    let outcome = v1::Outcome { session: 1, number: 2, revision: 2, refusals, ..Default::default() };
    let decision = v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) };
    let mut decided = decision.encode_to_vec();
    // What is no text makes no decision: whoever decodes this one learns of it.
    let place = decided.iter().position(|byte| *byte == b'~').unwrap();
    decided[place] = 0xff;
    let unreadable = v1::LogEntry { decided: decided.into(), ..entry(2, 0) };
    history.append(&[batch(SECOND, vec![transaction(1, 1, 1, 0), unreadable])]).unwrap();
    let mut transactions = history.transactions(0..=u64::MAX, Order::OldestFirst);
    assert_eq!(transactions.next().unwrap().unwrap().revision, 1);
    assert!(transactions.next().unwrap().is_err());
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
    [false, true].into_iter().for_each(check_conflicts);
}

fn check_conflicts(is_written: bool) {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let all = [
        batch(SECOND, vec![opening(1, "batch"), opening(2, "service"), entry(3, 0)]),
        batch(
            2 * SECOND,
            vec![
                lost(4, 1, 3, &[("service", 1, 2), ("service", 2, 1)]),
                lost(5, 1, 5, &[("service", 1, 1)]),
                entry(6, 0),
            ],
        ),
        batch(10 * SECOND, vec![lost(7, 2, 4, &[("batch", 2, 5), ("(expired)", 3, 1)])]),
    ];
    history.append(&all).unwrap();
    if is_written {
        history.persist().unwrap();
    }

    let table = history.conflicts(0, u64::MAX, GroupBy::Pair, 10, None).unwrap();
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
    assert_eq!(table.rows[1].newest_micros, history.entry(5).unwrap().time_micros);

    let by_machine = history.conflicts(0, u64::MAX, GroupBy::Machine, 1, None).unwrap();
    assert_eq!(by_machine.rows[0].group, ConflictGroup { machine: Some(2), ..Default::default() });
    assert_eq!((by_machine.rows[0].transactions, by_machine.rows[0].claims, by_machine.truncated), (2, 6, true));
    assert_eq!(history.conflicts(0, u64::MAX, GroupBy::Job, 9, None).unwrap().rows[0].group.job, 7);
    assert_eq!(history.conflicts(0, u64::MAX, GroupBy::Resource, 9, None).unwrap().rows[0].claims, 10);

    // What they are grouped by is one thing, and which of them count another.
    let mut counts = |lost: &Lost| lost.group.machine == Some(1) && lost.group.loser == "batch" && lost.revision == 4;
    let rows = history.conflicts(0, u64::MAX, GroupBy::Job, 9, Some(&mut counts)).unwrap().rows;
    assert_eq!(rows.iter().map(|row| (row.transactions, row.claims)).collect::<Vec<_>>(), [(1, 2)]);

    let recent = history.conflicts(10 * SECOND, u64::MAX, GroupBy::Pair, 10, None).unwrap();
    assert_eq!(recent.rows.iter().map(|row| row.claims).sum::<u64>(), 6);
    assert_eq!(
        history.conflicts(0, 5, GroupBy::Pair, 10, None).unwrap().rows.iter().map(|row| row.claims).sum::<u64>(),
        4
    );
    assert!(history.conflicts(11 * SECOND, u64::MAX, GroupBy::Pair, 10, None).unwrap().rows.is_empty());
}

// A slot is given again: what was lost on both machines stood under the name of the later one.
#[test]
fn conflicts_on_machines_that_had_one_slot_after_the_other_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let (old, new) = (1 << 32 | 4, 2 << 32 | 4);
    let (ready, gone) = (v1::MachineState::Ready, v1::MachineState::Gone);
    let entries = vec![
        opening(1, "batch"),
        machine_change(2, old, "old", ready),
        lost(3, 1, 1, &[("service", 4, 2)]),
        machine_change(4, old, "old", v1::MachineState::Cordoned),
        lost(5, 1, 1, &[("service", 4, 1), ("service", 9, 1)]),
        machine_change(6, old, "", gone),
        lost(7, 1, 1, &[("(removed)", 4, 1)]),
        machine_change(8, new, "new", ready),
        lost(9, 1, 1, &[("service", 4, 5)]),
        lost(10, 1, 1, &[("service", 4, 6)]),
    ];
    history.append(&[batch(SECOND, entries)]).unwrap();
    for is_written in [false, true] {
        if is_written {
            history.persist().unwrap();
        }
        let rows = history.conflicts(0, u64::MAX, GroupBy::Machine, 9, None).unwrap().rows;
        let told = |row: &crate::ConflictRow| {
            let name = history.machine_name(row.group.machine.unwrap(), row.newest_revision).unwrap();
            (name.map(|found| found.name).unwrap_or_default(), row.transactions, row.claims, row.newest_revision)
        };
        let told: Vec<_> = rows.iter().map(told).collect();
        let expected = [("new", 2, 11, 10), ("old", 3, 4, 7), ("", 1, 1, 5)];
        assert_eq!(told, expected.map(|(name, transactions, claims, at)| (name.to_owned(), transactions, claims, at)));
        assert_eq!(history.conflicts(0, 9, GroupBy::Machine, 9, None).unwrap().rows[0].claims, 5);
    }
}

// Claims of groups that are not told apart were left out, and the listing seemed to be whole.
#[test]
fn conflicts_of_more_groups_than_are_told_apart_are_said_to_be_more() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&[batch(SECOND, vec![opening(1, "batch")])]).unwrap();
    for last in [10_001, 10_002] {
        let first = if last == 10_001 { 2 } else { last };
        let each = (first..=last)
            .map(|revision| lost(revision, 1, revision, &[("service", u32::try_from(revision).unwrap(), 1)]));
        history.append(&[batch(SECOND, each.collect())]).unwrap();
        let table = history.conflicts(0, u64::MAX, GroupBy::Machine, usize::MAX, None).unwrap();
        assert_eq!((table.rows.len(), table.truncated), (10_000, last > 10_001));
    }
}

/// A grant of one task in this slot, by revision; every tenth also ends the one in the slot before.
fn churn(revision: u64) -> v1::LogEntry {
    let slot = u32::try_from(revision % 500).unwrap();
    let grants = v1::Grants { job: 1 + revision % 7, slots: vec![slot], ..Default::default() };
    let ends = v1::Ends { slots: vec![slot + 1], ..Default::default() };
    let ends = revision.is_multiple_of(10).then_some(ends);
    changing(v1::Delta { revision, grants: vec![grants], ends, ..Default::default() })
}

#[test]
fn what_is_about_something_is_found_in_both_directions_without_reading_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    for first in (1..=3000).step_by(10) {
        history.append(&[batch(SECOND, (first..first + 10).map(churn).collect())]).unwrap();
    }
    let about = |slot, order| {
        let mut walk = history.walk(1..=u64::MAX, order);
        let mut revisions = Vec::new();
        while let Some(entries) = walk.next(|summary| summary.may_tell_of(Subject::AllocationSlot(slot))).unwrap() {
            let found = entries.iter().map(|logged| logged.entry.revision);
            revisions.extend(found.filter(|revision| revision % 500 == u64::from(slot)));
        }
        (revisions, walk.read_bytes())
    };
    let (found, read) = about(33, Order::OldestFirst);
    assert_eq!(found, [33, 533, 1033, 1533, 2033, 2533]);
    assert_eq!(about(33, Order::NewestFirst).0, [2533, 2033, 1533, 1033, 533, 33]);
    let (found, none) = about(400_000, Order::OldestFirst);
    assert!(found.is_empty());
    let all = {
        let mut walk = history.walk(1..=u64::MAX, Order::OldestFirst);
        while walk.next(|_| true).unwrap().is_some() {}
        walk.read_bytes()
    };
    assert!(none < all / 5 && read < all / 2, "{none} and {read} of {all} bytes were read");
}

#[test]
fn a_walk_gives_each_revision_of_its_range_once() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    for first in (1..=1000).step_by(10) {
        history.append(&[batch(SECOND, (first..first + 10).map(churn).collect())]).unwrap();
    }
    for (from, to) in [(1, 1000), (7, 993), (500, 500), (995, 2000), (0, 3), (20, 10)] {
        let expected: Vec<u64> = (from.max(1)..=to.min(1000)).collect();
        for order in [Order::OldestFirst, Order::NewestFirst] {
            let mut walk = history.walk(from..=to, order);
            let mut found = Vec::new();
            while let Some(entries) = walk.next(|_| true).unwrap() {
                found.extend(entries.iter().map(|logged| logged.entry.revision));
            }
            if order == Order::NewestFirst {
                found.reverse();
            }
            assert_eq!(found, expected, "{from} to {to}");
            assert!(walk.rest().is_empty());
        }
    }
}

pub(super) fn machine_change(revision: u64, id: u64, name: &str, state: v1::MachineState) -> v1::LogEntry {
    let machine = v1::MachineChange { id, name: name.to_owned(), state: state.into(), ..Default::default() };
    changing(v1::Delta { revision, machines: vec![machine], ..Default::default() })
}

pub(super) fn job_change(revision: u64, change: v1::job_change::Change) -> v1::LogEntry {
    let jobs = vec![v1::JobChange { change: Some(change) }];
    changing(v1::Delta { revision, jobs, ..Default::default() })
}

#[test]
fn names_outlive_their_bearers_for_as_long_as_anything_speaks_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let (old, new) = (1 << 32 | 4, 2 << 32 | 4);
    let shape = v1::JobShape {
        namespace: "default".to_owned(),
        name: "crunch".to_owned(),
        groups: vec![v1::GroupShape { name: "work".to_owned(), ..Default::default() }],
        ..Default::default()
    };
    let put = v1::JobPut { id: 70, shape: Some(shape), ..Default::default() };
    let entries = vec![
        machine_change(1, old, "old", v1::MachineState::Ready),
        machine_change(2, old, "old", v1::MachineState::Cordoned),
        job_change(3, v1::job_change::Change::Put(put)),
        machine_change(4, old, "", v1::MachineState::Gone),
        machine_change(5, new, "new", v1::MachineState::Ready),
        job_change(6, v1::job_change::Change::Removed(70)),
    ];
    history.append(&[batch(SECOND, entries)]).unwrap();
    let machine = |slot, revision| history.machine_name(slot, revision).unwrap();
    let named = |id, name: &str| Some(MachineName { id, name: name.to_owned() });
    let (namespace, name) = ("default".to_owned(), "crunch".to_owned());
    let crunch = JobName { namespace, name, groups: vec!["work".to_owned()], submitted: 3 };
    for round in 0..2 {
        assert_eq!(
            (machine(4, 1), machine(4, 4), machine(4, 5)),
            (named(old, "old"), named(old, "old"), named(new, "new"))
        );
        assert_eq!((machine(4, 0), machine(5, 9)), (None, None));
        let around = |slot, revision| history.machine_name_around(slot, revision).unwrap();
        let expected = [(0, None, 0..=0), (1, named(old, "old"), 1..=4), (3, named(old, "old"), 1..=4)];
        for (revision, name, revisions) in expected {
            assert_eq!(around(4, revision), (name, revisions), "at {revision}");
        }
        assert_eq!((around(4, 5), around(5, 2)), ((named(new, "new"), 5..=6), (None, 1..=6)));
        assert_eq!(history.job_name(70).unwrap(), Some(crunch.clone()));
        assert_eq!(history.job_name(71).unwrap(), None);
        if round == 0 {
            history.persist().unwrap();
        }
    }
    history.append(&batches(7, 30, 0)).unwrap();
    history.checkpoint(30, 0, &[], []).unwrap();
    while !history.retire(30).unwrap().done {}
    assert_eq!(machine(4, 30), named(new, "new"), "it is still there");
    assert_eq!((machine(4, 4), history.job_name(70).unwrap()), (None, None));
}

/// A power cut took the block in which a machine went and another one came, and not what had been written of it: fed again, the end of the
/// first one was noted as that of the second, whose name went with it.
#[test]
fn a_machine_that_goes_takes_no_name_with_it_that_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (1 << 32 | 4, 2 << 32 | 4);
    let first = batch(SECOND, (1..=3).map(|at| machine_change(at, old, "old", v1::MachineState::Ready)).collect());
    let gone = machine_change(4, old, "", v1::MachineState::Gone);
    let second = batch(SECOND, vec![gone, machine_change(5, new, "new", v1::MachineState::Ready), entry(6, 0)]);
    {
        let (history, _) = open(folder.path());
        for batch in [&first, &second] {
            history.append(std::slice::from_ref(batch)).unwrap();
            history.persist().unwrap();
        }
        let store = history.store().unwrap();
        let mut changes = store.changes();
        changes.remove(Shelf::Blocks, crate::keys::block(4));
        changes.commit().unwrap();
        drop(store);
        history.persist().unwrap();
    }
    let (history, opened) = open(folder.path());
    assert_eq!(opened.newest_revision, 3);
    history.append(&[second]).unwrap();
    history.append(&batches(7, 30, 0)).unwrap();
    history.persist().unwrap();
    history.checkpoint(30, 0, &[], []).unwrap();
    while !history.retire(30).unwrap().done {}
    let machine = |revision| history.machine_name(4, revision).unwrap();
    assert_eq!((machine(4), machine(30)), (None, Some(MachineName { id: new, name: "new".to_owned() })));
}

/// What was left out is not known: a machine that came meanwhile was told of under the name of the one that was in its slot before.
#[test]
fn who_was_in_a_slot_before_a_leap_is_not_who_is_there_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    let (old, new, same) = (1 << 32 | 4, 2 << 32 | 4, 1 << 32 | 5);
    let ready = v1::MachineState::Ready;
    let both = vec![machine_change(1, old, "old", ready), machine_change(2, same, "same", ready), entry(3, 0)];
    history.append(&[batch(SECOND, both)]).unwrap();
    let machine = |slot, revision| history.machine_name(slot, revision).unwrap().map(|found| found.name);
    assert_eq!((machine(4, 3).as_deref(), machine(5, 3).as_deref()), (Some("old"), Some("same")));
    history.checkpoint(30, 10 * SECOND, &[], []).unwrap();
    history.leap_to(30).unwrap();
    assert_eq!((machine(4, 31), machine(5, 31)), (None, None));
    let around = |slot, revision| {
        let (found, revisions) = history.machine_name_around(slot, revision).unwrap();
        (found.map(|found| found.name), revisions)
    };
    assert_eq!((around(4, 3), around(4, 31)), ((Some("old".to_owned()), 1..=30), (None, 31..=31)));
    let later = vec![
        entry(31, 0),
        machine_change(32, new, "new", ready),
        machine_change(33, same, "same", v1::MachineState::Cordoned),
        machine_change(34, new, "", v1::MachineState::Gone),
    ];
    history.append(&[batch(11 * SECOND, later)]).unwrap();
    history.append(&[batch(12 * SECOND, (35..=60).map(|revision| entry(revision, 0)).collect())]).unwrap();
    history.persist().unwrap();
    assert_eq!(
        (machine(4, 31), machine(4, 33).as_deref(), machine(5, 33).as_deref()),
        (None, Some("new"), Some("same"))
    );
    assert_eq!(
        (around(4, 31).1, around(4, 33).1, around(5, 32).1, around(5, 34).1),
        (31..=31, 32..=60, 31..=32, 33..=60)
    );
    history.checkpoint(60, 12 * SECOND, &[], []).unwrap();
    while !history.retire(60).unwrap().done {}
    assert_eq!((machine(4, 60), machine(5, 60).as_deref()), (None, Some("same")));
    let rows =
        history.store().unwrap().rows(Shelf::Index, crate::keys::machine(0, 0)..=crate::keys::machine(9, u64::MAX));
    assert_eq!(rows.count(), 1, "nothing of what was before stays for ever");
}

#[test]
fn a_batch_that_a_crash_took_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let newest = {
        let (history, _) = open(folder.path());
        history.append(&batches(1, 6, 0)).unwrap();
        history.persist().unwrap();
        // One more batch, which is only in memory yet.
        let last = batch(9 * SECOND, vec![opening(7, "batch"), lost(8, 7, 1, &[("service", 1, 1)])]);
        history.append(&[last]).unwrap();
        assert_eq!(history.transaction(7, 8).unwrap(), Lookup::Found(8));
        assert_eq!(history.conflicts(0, u64::MAX, GroupBy::Pair, 5, None).unwrap().rows[0].group.loser, "batch");
        history.newest_revision()
    };
    assert_eq!(newest, 8);
    let (history, opened) = open(folder.path());
    assert_eq!(opened.newest_revision, 6);
    assert_eq!(history.transaction(7, 8).unwrap(), Lookup::NeverWas);
    assert_eq!(history.session(7).unwrap(), Lookup::NeverWas);
    assert!(history.conflicts(0, u64::MAX, GroupBy::Pair, 5, None).unwrap().rows.is_empty());
    history.check_against_log(6).unwrap();
}

/// How many blocks there are, and how many of them may tell of a job.
fn blocks_about(history: &History, job: u64) -> (usize, usize) {
    let (blocks, telling) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let mut walk = history.walk(0..=u64::MAX, Order::OldestFirst);
    let wanted = |summary: &crate::BlockSummary| {
        blocks.set(blocks.get() + 1);
        telling.set(telling.get() + usize::from(summary.may_tell_of(crate::Subject::Job(job))));
        false
    };
    assert!(walk.next(wanted).unwrap().is_none());
    (blocks.get(), telling.get())
}

#[test]
fn filters_of_older_formats_are_looked_for_in_the_index() {
    use crate::keys::{block, summary};
    use crate::records::SummaryRecord;
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history.append(&batches(1, 300, 300)).unwrap();
    history.persist().unwrap();
    let (blocks, telling) = blocks_about(&history, 7);
    assert!(blocks > 5 && telling == 0, "{telling} of {blocks} blocks may tell of a job that never was");

    let store = history.store().unwrap();
    let filters: Vec<_> = store.rows(Shelf::Filters, block(0)..=block(u64::MAX)).map(Result::unwrap).collect();
    assert_eq!(filters.len(), blocks);
    let mut changes = store.changes();
    for row in filters {
        let first = u64::from_be_bytes(row.key.as_slice().try_into().unwrap());
        let record: SummaryRecord = crate::store::decode(Shelf::Filters, &row.key, row.value).unwrap();
        changes.put_message(Shelf::Index, summary(first), &record);
        changes.remove(Shelf::Filters, row.key);
    }
    changes.commit().unwrap();
    assert_eq!(blocks_about(&history, 7), (blocks, 0));
    // Newer ones are among the filters again.
    history.append(&batches(301, 600, 300)).unwrap();
    history.persist().unwrap();
    let (all, telling) = blocks_about(&history, 7);
    assert!(all > blocks + 5 && telling == 0, "{telling} of {all} blocks");
}
