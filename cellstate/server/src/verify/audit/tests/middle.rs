//! What is decided again from the middle of a server's life, where nobody knows what happened before.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use plenum_model::{AllocationId, AllocationState, MachineId, Resources, Transition};

use super::*;

fn register(name: &str) -> Asked {
    Asked::by_server(Command::RegisterMachine {
        name: name.into(),
        boot_id: "boot".into(),
        capacity: Resources::new(1000, 1 << 30),
        attributes: Arc::default(),
        devices: Vec::new(),
        inventory: Vec::new(),
        seen: Revision(0),
    })
}

/// A transaction of a session, with a number: for the task of the job in this slot that has the number, on this machine.
fn claim(check: v1::ConflictCheck, id: (u64, u64), base: u64, place: (u32, u32)) -> Asked {
    let task = u32::try_from(id.1).unwrap();
    claim_tasks(check, id, base, place, task..task + 1)
}

/// The same for these tasks.
fn claim_tasks(
    check: v1::ConflictCheck,
    (session, number): (u64, u64),
    base: u64,
    (job, machine): (u32, u32),
    tasks: Range<u32>,
) -> Asked {
    let placement = v1::Placement {
        job: JobId { slot: job, generation: 1 }.to_bits(),
        job_version: 1,
        machines: vec![machine; tasks.len()],
        tasks: tasks.collect(),
        ..Default::default()
    };
    let transaction = v1::Transaction {
        session,
        number,
        incarnation: 1,
        base_revision: base,
        check: check.into(),
        placements: vec![placement],
        ..Default::default()
    };
    let bytes = Bytes::from(transaction.encode_to_vec());
    Asked::commit(&"local".into(), &"default".into(), &bytes).unwrap()
}

/// One that is refused where others changed the machine in slot 0 since its base.
fn in_sequence(session: u64, number: u64, base: u64) -> Asked {
    claim(v1::ConflictCheck::Sequence, (session, number), base, (0, 0))
}

/// The entries of a log that begins with sessions 2 and 3 of one scheduler, two machines, a job of small tasks in slot 0, and one in slot 1
/// whose tasks are too large for any machine. What follows has revisions from 8 on.
fn log_of(transactions: impl IntoIterator<Item = Asked>) -> Vec<v1::LogEntry> {
    let mut committer = Committer::<()>::new(Core::new(CoreOptions::default()), CommitOptions::default());
    let sessions = [open_server(1), open_session("batch"), open_session("batch")];
    let others = [register("m1"), register("m2"), submit(10), submit_sized(9, 5000)];
    for asked in sessions.into_iter().chain(others).chain(transactions) {
        committer.handle(LogTime::from_micros(5), Input::Request { ticket: None, asked });
    }
    let Some(Output::Write(batch)) = committer.poll() else { panic!("there is something to write") };
    v1::LogBatch::decode(batch.bytes).unwrap().entries
}

/// Looks at all that is behind a revision, beginning with the cell as it was then.
fn audited_from(revision: u64, entries: &[v1::LogEntry]) -> Audit {
    gone_on_with(Audit::default(), revision, entries)
}

/// The same with an audit that has begun cores before.
fn gone_on_with(mut audit: Audit, revision: u64, entries: &[v1::LogEntry]) -> Audit {
    let mut cell = Cell::default();
    for entry in entries.iter().filter(|entry| entry.revision <= revision) {
        cell.apply(&delta::decode(entry.delta.clone()).unwrap()).unwrap();
    }
    audit.begin_with(cell);
    entries.iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION), "here"));
    audit
}

fn outcome(entry: &v1::LogEntry) -> v1::Outcome {
    match v1::Decision::decode(entry.decided.clone()).unwrap().answer {
        Some(v1::decision::Answer::Outcome(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

// A scheduler that claims in sequence does not wait for its answers: whoever began after the first grant took it for a stranger's.
#[test]
fn what_was_claimed_before_the_beginning_is_not_judged_without_what_happened_until_then() {
    let entries = log_of((1..=6).map(|number| in_sequence(2, number, 7)));
    assert!(entries[7..].iter().all(|entry| outcome(entry).granted == 1), "the changes are all its own");
    assert_eq!(audited(&entries).violations, []);
    let audit = audited_from(8, &entries);
    assert_eq!((audit.violations.as_slice(), audit.folded), ([].as_slice(), 5));
    assert_eq!((audit.decided_again, audit.compared_loosely, audit.not_decided_again), (0, 0, 5));
    assert_eq!(audit.begun, 1, "it goes on with what stands in the log, and knows the more the longer it does");
}

#[test]
fn a_misfit_is_told_from_a_conflict_only_by_who_knows_what_happened_since_its_base() {
    let fit = |number, base| claim(v1::ConflictCheck::Fit, (2, number), base, (1, 1));
    let entries = log_of([in_sequence(2, 1, 7), fit(2, 7), fit(3, 8)]);
    let divergences = |entry: &v1::LogEntry| outcome(entry).divergences.len();
    assert_eq!(entries[8..].iter().map(divergences).collect::<Vec<_>>(), [1, 1]);
    let audit = audited_from(8, &entries);
    assert_eq!((audit.violations.as_slice(), audit.folded), ([].as_slice(), 2));
    assert_eq!((audit.decided_again, audit.compared_loosely), (1, 1), "the second one was claimed after the beginning");
}

#[test]
fn a_wrong_grant_that_was_claimed_after_the_beginning_is_found() {
    let with_base = |base| log_of([in_sequence(2, 1, 7), in_sequence(3, 5, 8), in_sequence(2, 2, base)]);
    let (mut wrong, stale) = (with_base(9), with_base(8));
    assert_eq!((outcome(&wrong[9]).granted, outcome(&stale[9]).granted), (1, 0));
    wrong[9].asked = stale[9].asked.clone();
    for (beginning, expected) in [(7, vec![Revision(10)]), (8, vec![Revision(10)]), (9, vec![])] {
        let found = audited_from(beginning, &wrong).violations;
        assert_eq!(found.iter().map(|violation| violation.revision).collect::<Vec<_>>(), expected, "from {beginning}");
    }
}

// Once a core had been begun a thousand times nothing was decided again any more, and the log was called sound as a whole.
#[test]
fn what_no_core_is_begun_for_any_more_is_counted() {
    let with_base = |base| log_of([in_sequence(2, 1, 7), in_sequence(3, 5, 8), in_sequence(2, 2, base)]);
    let (mut wrong, stale) = (with_base(9), with_base(8));
    wrong[9].asked = stale[9].asked.clone();
    let audit = gone_on_with(Audit { begun: BEGUN_MAX, ..Audit::default() }, 8, &wrong);
    assert_eq!((audit.violations.as_slice(), audit.folded), ([].as_slice(), 2));
    assert_eq!((audit.decided_again, audit.not_decided_again), (0, 2));
}

/// The receipts of sixteen tasks, which had the first rows of a page: then it has enough holes to be filled again.
fn receipts(page: u32) -> Asked {
    let ended = |slot| Transition {
        machine: MachineId { slot: 0, generation: 1 },
        epoch: 1,
        allocation: AllocationId { slot, generation: 1 },
        state: AllocationState::Complete,
        ready: false,
        exit_code: 0,
        restarts: 0,
        reason: "".into(),
    };
    Asked::by_server(Command::ReportStatus((64 * page..64 * page + 16).map(ended).collect()))
}

// Pages are filled again in the order in which they got their holes, which only the server knew: each that was begun needed another core, and of
// those there are a thousand.
#[test]
fn a_page_of_rows_that_is_filled_again_needs_no_other_core() {
    let fit = |number, base, tasks| claim_tasks(v1::ConflictCheck::Fit, (2, number), base, (2, 0), tasks);
    let placed = [submit(200), fit(1, 8, 0..190), receipts(1), receipts(0)];
    let entries = log_of(placed.into_iter().chain([fit(2, 11, 190..195), fit(3, 12, 195..197)]));
    let slots = |entry: &v1::LogEntry| delta::decode(entry.delta.clone()).unwrap().grants[0].slots.clone();
    assert_eq!((slots(&entries[11]), slots(&entries[12])), (vec![190, 191, 64, 65, 66], vec![67, 68]));
    assert_eq!(audited(&entries).violations, []);
    let audit = audited_from(11, &entries);
    assert_eq!((audit.violations.as_slice(), audit.folded, audit.begun), ([].as_slice(), 2, 1));
    assert_eq!((audit.decided_again, audit.compared_loosely, audit.not_decided_again), (2, 2, 0));
}
