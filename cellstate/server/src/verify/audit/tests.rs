//! Logs that are sound, and logs that are not.

mod middle;
mod unsound;

use super::*;
use crate::commit::{Asked, CommitOptions, Committer, Input, Output};
use plenum_model::{CellIdentity, JobId, Machine, MachineId, MachineState, Restore};

fn open_server(term: u64) -> Asked {
    let identity = CellIdentity { cell_id: [7; 16], incarnation: 1, term, custom_resources: Vec::new() };
    Asked::by_server(Command::OpenServer(identity))
}

fn open_session(scheduler: &str) -> Asked {
    Asked::by_server(Command::OpenSession { scheduler: scheduler.into() })
}

/// The entries of a small log.
fn entries() -> Vec<v1::LogEntry> {
    let mut committer = Committer::<()>::new(Core::new(CoreOptions::default()), CommitOptions::default());
    for asked in [open_server(1), open_session("batch"), open_session("service")] {
        committer.handle(LogTime::from_micros(5), Input::Request { ticket: None, asked });
    }
    let Some(Output::Write(batch)) = committer.poll() else { panic!("there is something to write") };
    v1::LogBatch::decode(batch.bytes).unwrap().entries
}

fn origin(core_version: u32) -> Origin {
    Origin { core_version, core_options: None, time_micros: 5 }
}

fn audited(entries: &[v1::LogEntry]) -> Audit {
    let mut audit = Audit::default();
    entries.iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION), "here"));
    audit
}

#[test]
fn a_log_as_it_was_written_is_sound() {
    let audit = audited(&entries());
    assert_eq!((audit.violations.len(), audit.folded, audit.decided_again), (0, 3, 3));
}

#[test]
fn another_answer_than_the_rules_give_is_a_violation_and_so_is_another_change() {
    let mut answered = entries();
    answered[1].decided = answered[0].decided.clone();
    let audit = audited(&answered);
    assert_eq!((audit.violations[0].revision, audit.folded), (Revision(2), 3));
    assert!(audit.violations[0].what.starts_with("decided again, the answer is another one"));

    let mut asked = entries();
    asked[2].asked = asked[1].asked.clone();
    let audit = audited(&asked);
    assert_eq!(audit.violations[0].revision, Revision(3));
    assert!(audit.violations[0].what.contains("other things change"), "{}", audit.violations[0]);
}

fn submit(count: u32) -> Asked {
    submit_sized(count, 1)
}

fn submit_sized(count: u32, cpu_millis: i64) -> Asked {
    let group = v1::GroupShape {
        name: "work".to_owned(),
        count,
        resources: Some(v1::Resources { cpu_millis, memory_bytes: 1 << 20, ..v1::Resources::default() }),
        ..v1::GroupShape::default()
    };
    let body = v1::GroupBody {
        name: "work".to_owned(),
        driver: "exec".to_owned(),
        command: vec!["/bin/true".to_owned()],
        ..v1::GroupBody::default()
    };
    let shape = v1::JobShape {
        namespace: "default".to_owned(),
        name: format!("job-{count}"),
        scheduler: "batch".to_owned(),
        kind: v1::JobKind::ToCompletion.into(),
        groups: vec![group],
        ..v1::JobShape::default()
    };
    let spec = v1::JobSpec { shape: Some(shape), body: Some(v1::JobBody { groups: vec![body] }) };
    Asked::by_server(plenum_proto::jobs::submit(spec).unwrap())
}

// A million tasks that waited were walked at each revision: the cell counted as small, as nothing was live in it.
#[test]
fn a_cell_of_many_waiting_tasks_is_checked_whole_as_often_as_its_entries_pay_for_it() {
    let mut committer = Committer::<()>::new(Core::new(CoreOptions::default()), CommitOptions::default());
    let sessions = (0..1000).map(|_| open_session("batch"));
    for asked in [open_server(1), submit(10), submit(5000)].into_iter().chain(sessions) {
        committer.handle(LogTime::from_micros(5), Input::Request { ticket: None, asked });
    }
    let Some(Output::Write(batch)) = committer.poll() else { panic!("there is something to write") };
    let mut audit = Audit::default();
    let entries = v1::LogBatch::decode(batch.bytes).unwrap().entries;
    assert_eq!(entries.len(), 1003);
    let checked = entries.iter().filter(|entry| {
        audit.entry(entry, &origin(plenum_core::CORE_VERSION), "here");
        audit.checks_whole
    });
    let checked: Vec<_> = checked.map(|entry| entry.revision).collect();
    let between = rows(&audit.cell) / (ROWS_AN_ENTRY + 1);
    assert_eq!(checked[..3], [1, 2, 3], "so far the cell is small");
    assert!((3 + between..=3 + 2 * between).contains(&checked[3]), "{checked:?}, {between} entries pay for a check");
    assert_eq!(checked.len(), 4);
    assert_eq!((audit.violations.len(), audit.folded), (0, 1003));
}

#[test]
fn each_violation_is_told_and_not_only_the_first() {
    let mut entries = entries();
    for place in [1, 2] {
        entries[place].decided = Default::default();
    }
    let audit = audited(&entries);
    let places: Vec<_> = audit.violations.iter().map(|violation| violation.revision.0).collect();
    assert_eq!((places.as_slice(), audit.decided_again), ([2, 3].as_slice(), 3));
}

#[test]
fn what_was_decided_with_other_bounds_is_decided_again_with_those() {
    let tight = CoreOptions { sessions_max: 1, ..CoreOptions::default() };
    let logged = Origin { core_options: Some(bounds::to_wire(&tight)), ..origin(plenum_core::CORE_VERSION) };
    let mut audit = Audit::default();
    entries().iter().for_each(|entry| audit.entry(entry, &logged, "here"));
    assert_eq!((audit.violations.len(), audit.violations[0].revision), (1, Revision(3)));
    assert!(audit.violations[0].what.contains("at most 1 sessions"), "{}", audit.violations[0]);
}

#[test]
fn from_a_checkpoint_on_what_was_granted_is_compared_and_not_where() {
    let entries = entries();
    let mut cell = Cell::default();
    cell.apply(&delta::decode(entries[0].delta.clone()).unwrap()).unwrap();
    let mut audit = Audit::default();
    audit.begin_with(cell.clone());
    entries.iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION), "here"));
    assert_eq!((audit.violations.len(), audit.folded, audit.decided_again, audit.compared_loosely), (0, 2, 2, 2));

    // Another session than was asked for is another change, also there.
    let mut wrong = entries;
    wrong[1].decided = Default::default();
    let mut audit = Audit::default();
    audit.begin_with(cell);
    wrong.iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION), "here"));
    assert_eq!(audit.violations[0].revision, Revision(2));
}

/// The entries of a log of requests that came at these times, in microseconds.
fn log_at(requests: impl IntoIterator<Item = (Asked, i64)>) -> Vec<v1::LogEntry> {
    let mut committer = Committer::<()>::new(Core::new(CoreOptions::default()), CommitOptions::default());
    let mut entries = Vec::new();
    for (asked, micros) in requests {
        committer.handle(LogTime::from_micros(micros), Input::Request { ticket: None, asked });
        while let Some(output) = committer.poll() {
            let Output::Write(batch) = output else { continue };
            entries.extend(v1::LogBatch::decode(batch.bytes).unwrap().entries);
            committer.handle(LogTime::from_micros(micros), Input::Durable);
        }
    }
    entries
}

#[test]
fn a_log_that_says_nothing_of_bytes_of_jobs_is_decided_again_without_that_bound() {
    let entries = log_at([(open_server(1), 5), (submit(1), 5)]);
    let narrow = bounds::to_wire(&CoreOptions { job_bytes_max: 1, ..CoreOptions::default() });
    for (job_bytes_max, violations) in [(None, 0), (Some(1), 1)] {
        let core_options = Some(v1::CoreOptions { job_bytes_max, ..narrow });
        let logged = Origin { core_options, ..origin(plenum_core::CORE_VERSION) };
        let mut audit = Audit::default();
        entries.iter().for_each(|entry| audit.entry(entry, &logged, "here"));
        let found: Vec<_> = audit.violations.iter().map(|violation| violation.revision).collect();
        assert_eq!((found, audit.folded), (vec![Revision(2); violations], 2), "{job_bytes_max:?}");
    }
}

/// Looks at all that is behind the first `known` entries, each of which came at its time, with the bound on how long finished jobs are kept.
fn audited_behind(known: usize, entries: &[v1::LogEntry], times: &[i64], retire_after_micros: i64) -> Audit {
    let options = CoreOptions { retire_after_micros, ..CoreOptions::default() };
    let logged = |time_micros| Origin {
        core_options: Some(bounds::to_wire(&options)),
        time_micros,
        ..origin(plenum_core::CORE_VERSION)
    };
    let mut cell = Cell::default();
    entries[..known].iter().for_each(|entry| cell.apply(&delta::decode(entry.delta.clone()).unwrap()).unwrap());
    let mut audit = Audit::default();
    audit.begin_with(cell);
    entries.iter().zip(times).for_each(|(entry, &micros)| audit.entry(entry, &logged(micros), "here"));
    audit
}

fn stop(slot: u32) -> Asked {
    Asked::by_server(Command::StopJob { job: JobId { slot, generation: 1 }, version: None })
}

// What is due goes by when the server opened: a log that begins behind that was said to be wrong.
#[test]
fn from_a_checkpoint_on_nobody_knows_what_was_due() {
    let asked = [open_server(1), submit(1), stop(0), Asked::by_server(Command::Tick)];
    let times = [1, 1, 1, 4000].map(|seconds| seconds * 1_000_000);
    let entries = log_at(asked.into_iter().zip(times));
    for (known, violations) in [(0, 1), (3, 0)] {
        let audit = audited_behind(known, &entries, &times, 5_000_000_000);
        let found: Vec<_> = audit.violations.iter().map(|violation| violation.revision).collect();
        assert_eq!(found, vec![Revision(4); violations]);
    }
}

// It counted as decided again, and nobody was told that what came out was something else.
#[test]
fn a_tick_that_comes_out_otherwise_from_a_checkpoint_on_is_not_decided_again() {
    let asked = [open_server(1), submit(1), submit(2), stop(0), stop(1), Asked::by_server(Command::Tick)];
    let times = [1, 1, 1, 1, 1000, 3700].map(|seconds| seconds * 1_000_000);
    let entries = log_at(asked.into_iter().zip(times));
    assert_eq!(entries.len(), 6, "each changes something");
    let counts = |audit: &Audit| (audit.violations.len(), audit.decided_again, audit.not_decided_again);
    let early = audited_behind(5, &entries, &times, 2_000_000_000);
    assert_eq!(counts(&early), (0, 0, 1), "the other job was due, too");
    assert_eq!(early.compared_loosely, 0);
    let same = audited_behind(5, &entries, &times, 3_600_000_000);
    assert_eq!(counts(&same), (0, 1, 0));
    assert_eq!(counts(&audited_behind(0, &entries, &times, 2_000_000_000)), (1, 6, 0), "a server that opened knew");
}

#[test]
fn what_another_version_decided_is_folded_and_not_decided_again() {
    let mut audit = Audit::default();
    entries().iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION + 1), "here"));
    assert_eq!((audit.violations.len(), audit.folded), (0, 3));
    assert_eq!((audit.decided_again, audit.not_decided_again), (0, 3));
}

// After an upgrade it was told how many were not decided again, and not which plenum would do it.
#[test]
fn what_other_versions_decided_is_counted_by_version() {
    let (ours, entries) = (plenum_core::CORE_VERSION, entries());
    let mut audit = Audit::default();
    let versions = [ours - 2, ours - 1, ours - 1];
    versions.iter().zip(&entries).for_each(|(version, entry)| audit.entry(entry, &origin(*version), "here"));
    assert_eq!(audit.by_other_versions, BTreeMap::from([(ours - 2, 1), (ours - 1, 2)]));
    assert!(audited(&entries).by_other_versions.is_empty());
}

/// A cell of one machine that changed last at this revision, and then what these entries say.
fn cell_with_machine(last_change: u64, entries: &[v1::LogEntry]) -> Cell {
    let machine = Machine {
        id: MachineId { slot: 0, generation: 1 },
        name: "m1".into(),
        state: MachineState::Ready,
        cordoned: false,
        unfit: None,
        epoch: 1,
        capacity: Default::default(),
        attributes: Default::default(),
        devices: Default::default(),
        boot_id: "boot".into(),
        since: LogTime::default(),
        drain_deadline: None,
        registered: LogTime::default(),
        epoch_began: Revision(0),
    };
    let identity = CellIdentity::default();
    let mut restore = Restore::new(Revision(0), LogTime::default(), identity, Vec::new(), Vec::new(), None);
    let class = restore.class(&machine.attributes);
    restore.machine(&machine, class, Revision(last_change));
    let mut cell = restore.finish().unwrap();
    entries.iter().for_each(|entry| cell.apply(&delta::decode(entry.delta.clone()).unwrap()).unwrap());
    cell
}

// An earlier version counted the renewal of a hold as a change of its machines, and each checkpoint of then would count as damaged.
#[test]
fn when_machines_changed_last_is_not_compared_behind_what_another_version_decided() {
    let entries = entries();
    let violations = |core_version| {
        let mut audit = Audit::default();
        audit.begin_with(cell_with_machine(0, &[]));
        entries.iter().for_each(|entry| audit.entry(entry, &origin(core_version), "here"));
        audit.compare(&cell_with_machine(0, &entries), "here");
        assert_eq!(audit.violations.len(), 0);
        audit.compare(&cell_with_machine(1, &entries), "here");
        audit.violations.len()
    };
    let versions = [plenum_core::CORE_VERSION, plenum_core::CORE_VERSION - 1];
    assert_eq!(versions.map(violations), [1, 0]);
}

// Once another version had decided anything, no checkpoint behind it was compared whole any more.
#[test]
fn behind_a_checkpoint_of_another_version_machines_must_have_changed_last_as_it_says() {
    let entries = entries();
    let mut audit = Audit::default();
    audit.begin_with(cell_with_machine(0, &[]));
    entries.iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION - 1), "here"));
    audit.compare_checkpoint(cell_with_machine(1, &entries), "here");
    assert!(audit.compare(&cell_with_machine(1, &entries), "here"));
    assert!(!audit.compare(&cell_with_machine(0, &entries), "here"));
    assert_eq!(audit.violations.len(), 1);
}

#[test]
fn a_delta_that_is_missing_ends_the_folding_with_its_place() {
    let mut entries = entries();
    entries.remove(1);
    let audit = audited(&entries);
    // The one behind it was decided again on a state from before the gap, and told as decided otherwise, too.
    assert_eq!((audit.folded, audit.violations.len(), audit.broken), (1, 1, true));
    assert!(audit.violations[0].what.contains("expected revision 2, found 3"), "{}", audit.violations[0]);
}

// A log in which a later version had been asked for something was told to be damaged.
#[test]
fn what_only_a_later_version_can_be_asked_for_is_not_decided_again() {
    let mut log = entries();
    let asked = v1::Command { principal: "local".to_owned(), ..v1::Command::default() };
    // Field 1000, where what is asked for would be.
    log[2].asked = [asked.encode_to_vec(), vec![0xc0, 0x3e, 1]].concat().into();
    let audit = audited(&log);
    assert_eq!((audit.violations.len(), audit.folded, audit.not_decided_again), (0, 3, 1));
    log[2].asked = asked.encode_to_vec().into();
    assert_eq!(audited(&log).violations.len(), 1, "it asks for nothing");
}
