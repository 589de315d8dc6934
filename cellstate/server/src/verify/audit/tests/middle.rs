//! What is decided again from the middle of a server's life, where nobody knows what happened before.

use std::ops::Range;

use bytes::Bytes;
use plenum_model::{
    AllocationId, AllocationState, FoundMachine, Inventory, MachineId, Quota, Resources, SessionId, Transition,
};

use super::*;

fn register(name: &str) -> Asked {
    register_again(name, "boot", 0, Vec::new())
}

/// An agent that has heard of a revision.
fn register_again(name: &str, boot_id: &str, seen: u64, inventory: Vec<Inventory>) -> Asked {
    Asked::by_server(Command::RegisterMachine(FoundMachine {
        name: name.into(),
        boot_id: boot_id.into(),
        capacity: Resources::new(1000, 1 << 30),
        inventory,
        seen: Revision(seen),
        ..FoundMachine::default()
    }))
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
    let sessions = [open_server(1), open_session("batch"), open_session("batch")];
    let others = [register("m1"), register("m2"), submit(10), submit_sized(9, 5000)];
    entries_of(Core::new(CoreOptions::default()), sessions.into_iter().chain(others).chain(transactions))
}

/// The entries of what a core decides.
fn entries_of(core: Core, all: impl IntoIterator<Item = Asked>) -> Vec<v1::LogEntry> {
    let mut committer = Committer::<()>::new(core, CommitOptions::default());
    for asked in all {
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

// An earlier version counted each renewal of a hold as a change of its machines, and what a server that had begun with its checkpoint refused for that
// was said to come out otherwise.
#[test]
fn what_was_claimed_before_a_start_is_not_judged_where_another_version_may_have_counted_other_changes_until_then() {
    let before = entries_of(Core::new(CoreOptions::default()), [open_server(1), open_session("batch"), submit(10)]);
    for (base, reason, decided_again) in [(2, v1::RefusalReason::MachineChanged, 1), (3, v1::RefusalReason::NoRoom, 2)]
    {
        let core = Core::from_cell(cell_with_machine(3, &before), CoreOptions::default());
        let behind = entries_of(core, [open_server(2), in_sequence(2, 1, base)]);
        assert_eq!(outcome(&behind[1]).refusals[0].reason(), reason);
        let mut audit = Audit::default();
        audit.begin_with(cell_with_machine(0, &[]));
        before.iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION - 1), "here"));
        behind.iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION), "here"));
        assert_eq!((audit.violations.as_slice(), audit.folded), ([].as_slice(), 5));
        assert_eq!((audit.decided_again, audit.not_decided_again), (decided_again, 5 - decided_again));
    }
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

/// What the agent of the machine in a slot, in its first epoch, reports of the first allocation that had a row.
fn told(machine: u32, slot: u32, state: AllocationState) -> Transition {
    Transition {
        ready: state == AllocationState::Running,
        ..Transition::new(MachineId { slot: machine, generation: 1 }, 1, AllocationId { slot, generation: 1 }, state)
    }
}

fn report(transitions: impl IntoIterator<Item = Transition>) -> Asked {
    Asked::by_server(Command::ReportStatus(transitions.into_iter().collect()))
}

/// The receipts of sixteen tasks, which had the first rows of a page: then it has enough holes to be filled again.
fn receipts(page: u32) -> Asked {
    report((64 * page..64 * page + 16).map(|slot| told(0, slot, AllocationState::Complete)))
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

fn set_quota(cpu_millis: u64) -> Asked {
    let mut limit = Quota::default();
    limit.limits[0] = Some(cpu_millis);
    Asked::by_server(Command::SetQuota { namespace: "default".into(), limit: Some(limit) })
}

fn revisions(audit: &Audit) -> Vec<Revision> {
    audit.violations.iter().map(|violation| violation.revision).collect()
}

// From the middle, changes of machines, jobs and sessions were counted, and others not even that: any limit passed for the one that was asked for.
#[test]
fn another_change_than_was_asked_for_is_found_from_the_middle_too() {
    let (mut wrong, other) = (log_of([set_quota(5)]), log_of([set_quota(7)]));
    wrong[7].asked = other[7].asked.clone();
    assert_eq!(revisions(&audited(&wrong)), [Revision(8)]);
    assert_eq!(revisions(&audited_from(7, &wrong)), [Revision(8)]);
}

/// The same entries, where a refusal of one of them is told otherwise.
fn with_refusal(entries: &[v1::LogEntry], at: usize, change: impl FnOnce(&mut v1::Refusal)) -> Vec<v1::LogEntry> {
    let (mut entries, mut outcome) = (entries.to_vec(), outcome(&entries[at]));
    change(&mut outcome.refusals[0]);
    let answer = Some(v1::decision::Answer::Outcome(outcome));
    entries[at].decided = v1::Decision { answer }.encode_to_vec().into();
    entries
}

#[test]
fn a_refusal_of_another_kind_is_found_from_the_middle_unless_history_decides_between_both() {
    use v1::RefusalKind::{Conflict, Guard, Mate, Misfit, Permission, Quota, Stale};
    let entries = log_of([in_sequence(2, 1, 7), in_sequence(3, 5, 8), in_sequence(2, 2, 8)]);
    assert_eq!(outcome(&entries[9]).refusals[0].kind(), Conflict);
    let told_as = |kind: v1::RefusalKind| {
        let entries = with_refusal(&entries, 9, |refusal| refusal.kind = kind.into());
        revisions(&audited_from(8, &entries))
    };
    [Conflict, Misfit, Stale].into_iter().for_each(|kind| assert_eq!(told_as(kind), [], "{kind:?}"));
    [Mate, Guard, Quota, Permission].into_iter().for_each(|kind| assert_eq!(told_as(kind), [Revision(10)], "{kind:?}"));
}

#[test]
fn another_reason_of_a_refusal_is_found_from_the_middle_where_history_does_not_decide_it() {
    let of_another = claim(v1::ConflictCheck::Fit, (8, 1), 8, (0, 0));
    let entries = log_of([open_session("service"), of_another]);
    let refusal = outcome(&entries[8]).refusals[0].clone();
    let found = (refusal.kind(), refusal.reason());
    assert_eq!(found, (v1::RefusalKind::Permission, v1::RefusalReason::OtherScheduler));
    assert_eq!(revisions(&audited_from(8, &entries)), []);
    let wrong = with_refusal(&entries, 8, |refusal| refusal.reason = v1::RefusalReason::MayNotEvict.into());
    assert_eq!(revisions(&audited_from(8, &wrong)), [Revision(9)]);
}

/// Requests of most kinds, each of which changes something. They have revisions from 8 on.
fn all_kinds() -> Vec<Asked> {
    let ask = Asked::by_server;
    let job = |slot| JobId { slot, generation: 1 };
    let second = MachineId { slot: 1, generation: 1 };
    let fit = |number, base| claim(v1::ConflictCheck::Fit, (2, number), base, (0, 0));
    let scale = |count| ask(Command::ScaleJob { job: job(0), version: None, group: 0, count });
    let (resources, deadline) = (Resources::new(100, 0), LogTime::from_micros(1_000_000));
    let hold =
        |machines| ask(Command::TakeHold { session: SessionId::default(), job: job(1), machines, resources, deadline });
    let unknown = Inventory {
        allocation: AllocationId { slot: 9, generation: 1 },
        state: AllocationState::Running,
        exit_code: 0,
        reason: "".into(),
        restarts: 0,
        task: None,
    };
    vec![
        open_session("service"),
        set_quota(500),
        ask(Command::PauseScheduler { scheduler: "idle".into(), paused: true }),
        ask(Command::SetRights { scheduler: "batch".into(), evicts: None, priority: Some(5) }),
        fit(1, 11),
        fit(2, 12),
        fit(3, 13),
        // Of another scheduler.
        claim(v1::ConflictCheck::Fit, (8, 1), 14, (0, 0)),
        hold(vec![1]),
        // It outgrows its rows, and one that runs goes.
        scale(40),
        scale(3),
        ask(Command::StopAllocation(AllocationId { slot: 0, generation: 1 })),
        report([
            told(0, 0, AllocationState::Stopped),
            told(0, 1, AllocationState::Running),
            told(0, 2, AllocationState::Stopped),
        ]),
        set_quota(1),
        claim_tasks(v1::ConflictCheck::Fit, (2, 4), 21, (0, 0), 0..1),
        hold(Vec::new()),
        ask(Command::DrainMachine { machine: second, deadline: Some(deadline) }),
        register_again("m2", "boot", 24, vec![unknown]),
        report([told(1, 9, AllocationState::Complete)]),
        register_again("m2", "again", 26, Vec::new()),
        ask(Command::ExpireMachine { machine: second, epoch: 2 }),
        ask(Command::RemoveMachine { machine: second, unless_alive: false }),
        // Over, and again; and one with resources that nobody had.
        ask(Command::StopJob { job: job(1), version: None }),
        submit_sized(9, 5000),
        submit_sized(77, 3),
        ask(Command::CloseSession(SessionId(8))),
        report([told(0, 1, AllocationState::Failed)]),
    ]
}

// What is compared from the middle must not depend on what only the server knew.
#[test]
fn a_sound_log_is_sound_from_wherever_one_begins() {
    let requests = all_kinds();
    let count = requests.len();
    let entries = log_of(requests);
    assert_eq!(entries.len(), 7 + count, "each changes something");
    assert_eq!(audited(&entries).violations, []);
    let refusals = |at: usize| outcome(&entries[at]).refusals.iter().map(|refusal| refusal.kind()).collect::<Vec<_>>();
    assert_eq!((refusals(14), refusals(21)), (vec![v1::RefusalKind::Permission], vec![v1::RefusalKind::Quota]));
    for entry in &entries {
        let audit = audited_from(entry.revision, &entries);
        assert_eq!(audit.violations, [], "from {}", entry.revision);
        assert_eq!(audit.decided_again + audit.not_decided_again, audit.folded);
    }
}
