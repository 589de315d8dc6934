//! What is decided again from the middle of a server's life, where nobody knows what happened before.

use std::sync::Arc;

use bytes::Bytes;
use plenum_model::Resources;

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
fn claim(check: v1::ConflictCheck, (session, number): (u64, u64), base: u64, (job, machine): (u32, u32)) -> Asked {
    let placement = v1::Placement {
        job: JobId { slot: job, generation: 1 }.to_bits(),
        job_version: 1,
        machines: vec![machine],
        tasks: vec![u32::try_from(number).unwrap()],
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
    let mut cell = Cell::default();
    for entry in entries.iter().filter(|entry| entry.revision <= revision) {
        cell.apply(&delta::decode(entry.delta.clone()).unwrap()).unwrap();
    }
    let mut audit = Audit::default();
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
    assert_eq!((audit.decided_again, audit.compared_loosely), (0, 0));
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
