//! Stories of the commit path: what is answered when, and what survives.

mod edges;

use std::sync::Arc;

use plenum_core::{Core, CoreOptions};
use plenum_journal::{BatchLabel, CellId, Journal, Options, SimDisk};
use plenum_model::{
    AllocationRef, AllocationState, Cell, CellIdentity, Command, Decision, Delta, FoundMachine, LogTime, Placement,
    Rejection, Request, Resources, Revision, SessionId, Transaction, TransactionId, Transition,
};

use super::{Answer, Asked, Batch, CommitOptions, Committer, Input, Output, Published, room};
use crate::options::Settings;
use crate::publish::{LoggedBatch, Mirror};

fn ask(command: Command) -> Asked {
    Asked::new(Request { principal: "local".into(), namespace: "default".into(), command })
}

fn machine(name: &str) -> Asked {
    ask(Command::RegisterMachine(FoundMachine {
        name: name.into(),
        boot_id: "boot".into(),
        capacity: Resources { cpu_millis: 4000, memory_bytes: 1 << 30, ..Resources::default() },
        ..FoundMachine::default()
    }))
}

fn open_server() -> Asked {
    let identity = CellIdentity { cell_id: [7; 16], incarnation: 1, term: 1, custom_resources: Vec::new() };
    ask(Command::OpenServer(identity))
}

fn committer() -> Committer<u32> {
    Committer::new(Core::new(CoreOptions::default()), CommitOptions::default())
}

/// What came out, sorted by kind.
#[derive(Default)]
struct Heard {
    writes: Vec<Batch>,
    published: Vec<Published>,
    answers: Vec<(u32, Revision, Answer)>,
    snapshots: Vec<Cell>,
}

fn hear(committer: &mut Committer<u32>) -> Heard {
    let mut heard = Heard::default();
    while let Some(output) = committer.poll() {
        match output {
            Output::Write(batch) => heard.writes.push(batch),
            Output::Publish(published) => heard.published.push(published),
            Output::Answer { ticket, at, answer } => heard.answers.push((ticket, at, answer)),
            Output::Snapshot(cell) => {
                let durable =
                    heard.published.last().map_or_else(|| committer.durable(), |published| published.batch.last());
                assert!(cell.revision() <= durable, "what a snapshot shows has been published before");
                heard.snapshots.push(*cell);
            }
        }
    }
    heard
}

fn request(committer: &mut Committer<u32>, ticket: u32, asked: Asked) {
    committer.handle(LogTime::from_micros(i64::from(ticket)), Input::Request { ticket: Some(ticket), asked });
}

#[test]
fn nothing_is_answered_or_shown_before_it_is_durable() {
    let mut committer = committer();
    request(&mut committer, 1, open_server());
    let heard = hear(&mut committer);
    assert_eq!((heard.writes.len(), heard.answers.len(), heard.published.len()), (1, 0, 0));
    committer.handle(LogTime::default(), Input::Durable);
    let heard = hear(&mut committer);
    assert_eq!(heard.published[0].batch.last(), Revision(1));
    assert_eq!((heard.answers.len(), heard.answers[0].0, heard.answers[0].1), (1, 1, Revision(1)));
    assert!(!committer.is_writing());
}

#[test]
fn what_arrives_during_a_sync_is_decided_meanwhile_and_makes_the_next_batch() {
    let mut committer = committer();
    request(&mut committer, 1, open_server());
    assert_eq!(hear(&mut committer).writes.len(), 1);
    request(&mut committer, 2, machine("m1"));
    request(&mut committer, 3, machine("m2"));
    let heard = hear(&mut committer);
    assert!(heard.writes.is_empty() && heard.answers.is_empty(), "one batch is in flight");
    assert_eq!(committer.undurable_cell().machines().count(), 2, "and yet both are decided");
    committer.handle(LogTime::default(), Input::Durable);
    let heard = hear(&mut committer);
    assert_eq!((heard.writes[0].first, heard.writes[0].last), (Revision(2), Revision(3)));
    assert_eq!(heard.answers.len(), 1);
    committer.handle(LogTime::default(), Input::Durable);
    let answers: Vec<u32> = hear(&mut committer).answers.iter().map(|answer| answer.0).collect();
    assert_eq!(answers, [2, 3]);
}

#[test]
fn a_rejection_waits_for_the_state_that_it_was_judged_on() {
    let mut committer = committer();
    request(&mut committer, 1, open_server());
    request(
        &mut committer,
        2,
        ask(Command::StopJob { job: plenum_model::JobId { slot: 9, generation: 1 }, version: None }),
    );
    let heard = hear(&mut committer);
    assert!(heard.answers.is_empty());
    assert_eq!(heard.writes[0].last, Revision(1), "it takes no revision");
    committer.handle(LogTime::default(), Input::Durable);
    let heard = hear(&mut committer);
    assert!(matches!(&heard.answers[1], (2, Revision(1), Answer::Unchanged(Decision::Rejected(_)))));
    request(
        &mut committer,
        3,
        ask(Command::StopJob { job: plenum_model::JobId { slot: 9, generation: 1 }, version: None }),
    );
    assert_eq!(hear(&mut committer).answers.len(), 1, "on a durable state it is answered at once");
}

#[test]
fn after_a_failed_write_nobody_hears_anything_any_more() {
    let mut committer = committer();
    request(&mut committer, 1, open_server());
    assert_eq!(hear(&mut committer).writes.len(), 1);
    request(&mut committer, 2, machine("m1"));
    committer.handle(LogTime::default(), Input::Failed);
    request(&mut committer, 3, machine("m2"));
    committer.handle(LogTime::default(), Input::Durable);
    let heard = hear(&mut committer);
    assert_eq!((heard.writes.len(), heard.answers.len(), heard.published.len()), (0, 0, 0));
    assert!(!committer.has_room());
}

#[test]
fn a_full_batch_takes_no_more_until_it_is_in_flight() {
    let options = CommitOptions { batch_requests: 2, ..CommitOptions::default() };
    let mut committer = Committer::new(Core::new(CoreOptions::default()), options);
    request(&mut committer, 1, open_server());
    assert_eq!(hear(&mut committer).writes.len(), 1);
    request(&mut committer, 2, machine("m1"));
    request(&mut committer, 3, machine("m2"));
    assert!(!committer.has_room());
    committer.handle(LogTime::default(), Input::Durable);
    assert_eq!(hear(&mut committer).writes.len(), 1);
    assert!(committer.has_room());
}

// Dry runs go into no batch, and thousands of their outcomes waited for a write that did not come back.
#[test]
fn no_more_is_decided_while_the_outcomes_of_dry_runs_that_wait_come_to_as_much_as_a_batch() {
    let mut committer = committer();
    request(&mut committer, 1, open_server());
    request(&mut committer, 2, ask(Command::OpenSession { scheduler: "batch".into() }));
    hear(&mut committer);
    committer.handle(LogTime::default(), Input::Durable);
    let Answer::Changed(Decision::Accepted { id: session, .. }) = hear(&mut committer).answers.remove(1).2 else {
        panic!("no session")
    };
    let dry_run = |number| {
        let claims = 10_000;
        let placement = Placement { machines: vec![0; claims], tasks: vec![0; claims], ..Placement::default() };
        let transaction = Transaction {
            id: TransactionId { session: SessionId(session), number },
            incarnation: 1,
            placements: vec![placement],
            dry_run: true,
            ..Transaction::default()
        };
        ask(Command::Commit(Box::new(transaction), number))
    };
    request(&mut committer, 3, machine("m1"));
    assert_eq!(hear(&mut committer).writes.len(), 1);
    let before = (10..100).take_while(|ticket| {
        let room = committer.has_room();
        if room {
            request(&mut committer, *ticket, dry_run(u64::from(*ticket)));
        }
        room
    });
    assert_eq!(before.count(), 1, "ten thousand refusals are more than a batch");
    committer.handle(LogTime::default(), Input::Durable);
    assert!(committer.has_room());
    let answers = hear(&mut committer).answers;
    assert!(matches!(&answers[..], [(3, ..), (10, _, Answer::Unchanged(Decision::Outcome(_)))]), "{answers:?}");
}

// What is rejected goes into no batch, and its answer waits: while a write did not come back, as many would as were asked.
#[test]
fn no_more_is_decided_while_as_many_answers_wait_as_two_batches_have() {
    let options = CommitOptions { batch_requests: 2, ..CommitOptions::default() };
    let mut committer = Committer::new(Core::new(CoreOptions::default()), options);
    request(&mut committer, 1, open_server());
    assert_eq!(hear(&mut committer).writes.len(), 1);
    let unknown = plenum_model::JobId { slot: 9, generation: 1 };
    let decided = (2..100).take_while(|ticket| {
        let room = committer.has_room();
        if room {
            request(&mut committer, *ticket, ask(Command::StopJob { job: unknown, version: None }));
        }
        room
    });
    assert_eq!(decided.count(), 3, "beside the answer to who opened the server");
    committer.handle(LogTime::default(), Input::Durable);
    assert!(committer.has_room());
    assert_eq!(hear(&mut committer).answers.len(), 4);
}

#[test]
fn log_time_never_goes_backwards_and_is_one_a_batch() {
    let mut committer = committer();
    request(&mut committer, 50, open_server());
    hear(&mut committer);
    request(&mut committer, 60, machine("m1"));
    request(&mut committer, 70, machine("m2"));
    committer.handle(LogTime::default(), Input::Durable);
    hear(&mut committer);
    committer.handle(LogTime::default(), Input::Durable);
    let published = hear(&mut committer).published;
    assert!(published[0].deltas.iter().all(|delta| delta.time == LogTime::from_micros(60)));
    request(&mut committer, 5, machine("m3"));
    committer.handle(LogTime::default(), Input::Durable);
    hear(&mut committer);
    committer.handle(LogTime::default(), Input::Durable);
    assert_eq!(hear(&mut committer).published[0].batch.time(), LogTime::from_micros(60));
}

#[test]
fn a_snapshot_is_of_a_whole_batch_and_is_shown_when_that_is_durable() {
    let mut committer = committer();
    committer.handle(LogTime::default(), Input::Snapshot);
    assert_eq!(hear(&mut committer).snapshots[0].revision(), Revision(0), "nothing waits: it is there at once");
    request(&mut committer, 1, open_server());
    assert_eq!(hear(&mut committer).writes.len(), 1);
    request(&mut committer, 2, machine("m1"));
    committer.handle(LogTime::default(), Input::Snapshot);
    request(&mut committer, 3, machine("m2"));
    committer.handle(LogTime::default(), Input::Durable);
    let heard = hear(&mut committer);
    assert_eq!((heard.writes[0].last, heard.snapshots.len()), (Revision(3), 0), "its batch is not durable");
    request(&mut committer, 4, machine("m3"));
    committer.handle(LogTime::default(), Input::Snapshot);
    committer.handle(LogTime::default(), Input::Durable);
    let heard = hear(&mut committer);
    assert_eq!(heard.snapshots.len(), 1);
    assert_eq!((heard.snapshots[0].revision(), heard.snapshots[0].machines().count()), (Revision(3), 2));
}

#[test]
fn a_snapshot_of_what_may_be_lost_is_never_shown() {
    let mut committer = committer();
    request(&mut committer, 1, open_server());
    hear(&mut committer);
    committer.handle(LogTime::default(), Input::Snapshot);
    committer.handle(LogTime::default(), Input::Failed);
    committer.handle(LogTime::default(), Input::Snapshot);
    committer.handle(LogTime::default(), Input::Durable);
    assert!(hear(&mut committer).snapshots.is_empty());
}

fn log_options() -> Options {
    Options { create: Some(CellId([7; 16])), segment_bytes: 65_536, frame_bytes_max: 16_384, ..Options::default() }
}

fn write(journal: &mut Journal, batch: &Batch) -> bool {
    let label = BatchLabel { term: batch.term, first_revision: batch.first.0, last_revision: batch.last.0 };
    journal.append_and_sync(label, &[&batch.bytes]).is_ok()
}

/// Folds what is on the disk.
fn recover(disk: &SimDisk) -> Cell {
    let (journal, _) = Journal::open(Arc::new(disk.clone()), log_options()).unwrap();
    let mut mirror = Mirror::new(Cell::default());
    let mut reader = journal.keeper().reader(1).unwrap();
    while let Some(frame) = reader.next_frame().unwrap() {
        let batch = LoggedBatch::parse(bytes::Bytes::copy_from_slice(frame.payload)).unwrap();
        let deltas: Vec<_> =
            batch.revisions().map(|revision| crate::recovery::delta_of(&batch, revision).unwrap()).collect();
        mirror.fold(&batch, &deltas).unwrap();
    }
    mirror.cell().clone()
}

/// Commits machines until the power goes within a step of the disk, or all are there: what was acknowledged, and what was decided.
fn commit_until_crash(disk: &SimDisk, steps_before: u64) -> (u64, Cell) {
    let (mut journal, _) = Journal::open(Arc::new(disk.clone()), log_options()).unwrap();
    disk.crash_at_step(steps_before, steps_before);
    let mut committer = committer();
    let mut acknowledged = 0;
    for ticket in 0..13 {
        let asked = if ticket == 0 { open_server() } else { machine(&format!("m{ticket}")) };
        request(&mut committer, ticket, asked);
        if ticket % 3 == 2 {
            continue;
        }
        while let Some(output) = committer.poll() {
            match output {
                Output::Write(batch) => {
                    let durable = write(&mut journal, &batch);
                    committer.handle(LogTime::default(), if durable { Input::Durable } else { Input::Failed });
                }
                Output::Answer { at, .. } => acknowledged = at.0,
                Output::Publish(_) | Output::Snapshot(_) => {}
            }
        }
    }
    (acknowledged, committer.undurable_cell().clone())
}

#[test]
fn what_was_acknowledged_survives_a_crash_at_every_step_and_what_survives_is_a_prefix() {
    let mut crashed = 0;
    for steps_before in 0..40 {
        let disk = SimDisk::new(steps_before);
        let (acknowledged, decided) = commit_until_crash(&disk, steps_before);
        let complete = acknowledged == decided.revision().0;
        let recovered = recover(&disk.fork());
        let revision = recovered.revision().0;
        assert!(acknowledged <= revision && revision <= decided.revision().0, "crash {steps_before}: {revision}");
        // The n-th machine is of revision n + 1, so the count tells that it is a prefix.
        assert_eq!(recovered.machines().count() as u64, revision.saturating_sub(1), "crash {steps_before}");
        if complete {
            assert_eq!(recovered.first_difference(&decided), None);
        } else {
            crashed += 1;
        }
    }
    assert!(crashed > 5, "the disk did fail on the way: {crashed}");
}

#[test]
fn a_process_that_is_killed_loses_nothing_at_all() {
    let disk = SimDisk::new(1);
    let (acknowledged, decided) = commit_until_crash(&disk, u64::MAX);
    assert_eq!(acknowledged, decided.revision().0);
    disk.kill();
    assert_eq!(recover(&disk.reboot()).first_difference(&decided), None);
}

/// A core with a job that was stopped at the first microsecond, and that nothing was placed of.
fn with_a_stopped_job(options: CoreOptions) -> Core {
    let mut core = Core::new(options);
    let group = plenum_model::GroupShape { name: "work".into(), count: 1, ..Default::default() };
    let shape = plenum_model::JobShape {
        namespace: "default".into(),
        name: "over".into(),
        scheduler: "batch".into(),
        groups: vec![group],
        ..Default::default()
    };
    let submit = Command::submit(shape);
    let stop = Command::StopJob { job: plenum_model::JobId { slot: 0, generation: 1 }, version: None };
    for asked in [open_server(), ask(submit), ask(stop)] {
        take(&mut core, &asked);
    }
    core
}

// A server that was started again decided what was overdue before its start stood in the log: under the term of the one before, where
// `verify` judged it by the options of the one before.
#[test]
fn nothing_happens_by_itself_before_the_start_stands_in_the_log() {
    let core = with_a_stopped_job(CoreOptions::default());
    assert!(core.next_due().is_some(), "it is to be forgotten one day");
    let core = Core::from_cell(core.cell().clone(), CoreOptions::default());
    let mut committer: Committer<u32> = Committer::new(core, CommitOptions::default());
    let much_later = LogTime::from_micros(i64::MAX / 2);
    assert_eq!(committer.next_due(), None);
    committer.handle(much_later, Input::Tick);
    assert_eq!(hear(&mut committer).writes.len(), 0);
    committer.handle(much_later, Input::Request { ticket: Some(1), asked: open_server() });
    assert_eq!(hear(&mut committer).writes.len(), 1);
    assert!(committer.next_due().is_some_and(|due| due < much_later));
}

// With the earlier time of that batch a tick would change nothing, and would not be tried again before something else happens.
#[test]
fn what_is_due_later_than_the_batch_that_is_built_belongs_to_the_next_one() {
    let options = CoreOptions { retire_after_micros: 100, ..CoreOptions::default() };
    let mut committer: Committer<u32> = Committer::new(with_a_stopped_job(options), CommitOptions::default());
    let due = LogTime::from_micros(101);
    request(&mut committer, 90, open_server());
    assert_eq!(hear(&mut committer).writes.len(), 1);
    assert_eq!(committer.next_due(), Some(due), "no batch is being built");
    request(&mut committer, 95, machine("m1"));
    assert_eq!(committer.next_due(), None);
    for _ in 0..2 {
        committer.handle(LogTime::default(), Input::Durable);
        hear(&mut committer);
    }
    assert_eq!(committer.next_due(), Some(due));
    committer.handle(LogTime::from_micros(105), Input::Tick);
    assert_eq!(committer.undurable_cell().jobs().count(), 0, "it is retired");
}

const PAIR: plenum_model::JobId = plenum_model::JobId { slot: 0, generation: 1 };

/// A cell in which so many tasks of the job `default/pair`, which share a machine, were placed on the machine `m1`.
fn placed(tasks: u32) -> Core {
    let mut core = Core::new(CoreOptions::default());
    let claims = claims_of_all(&mut core, tasks);
    take(&mut core, &claims);
    core
}

/// Has the machine and the job come to an empty cell: what places all of its tasks.
fn claims_of_all(core: &mut Core, tasks: u32) -> Asked {
    let group = plenum_model::GroupShape { name: "work".into(), count: tasks, ..Default::default() };
    let shape = plenum_model::JobShape {
        namespace: "default".into(),
        name: "pair".into(),
        scheduler: "batch".into(),
        kind: plenum_model::JobKind::ToCompletion,
        same_machine: true,
        groups: vec![group],
        ..Default::default()
    };
    take(core, &open_server());
    take(core, &ask(Command::OpenSession { scheduler: "batch".into() }));
    take(core, &machine("m1"));
    take(core, &ask(Command::submit(shape)));
    let placement = Placement {
        job: PAIR,
        job_version: 1,
        machines: vec![0; tasks as usize],
        tasks: (0..tasks).collect(),
        ..Placement::default()
    };
    let transaction = Transaction {
        id: TransactionId { session: SessionId(2), number: 1 },
        incarnation: 1,
        base: core.cell().revision(),
        placements: vec![placement],
        ..Transaction::default()
    };
    ask(Command::Commit(Box::new(transaction), 1))
}

fn take(core: &mut Core, asked: &Asked) {
    let decided = core.decide(asked.request(), LogTime::from_micros(1));
    assert!(matches!(decided, plenum_core::Decided::Changed { .. }), "{decided:?}");
}

// It was written and acknowledged, and neither a mirror nor the next start would have read it.
#[test]
fn a_grant_in_a_row_beyond_all_that_is_read_is_refused_and_leaves_no_trace() {
    let (time, identity) = (LogTime::default(), CellIdentity::default());
    // The page that it fills next is the first one beyond the bound.
    let filling = Some(plenum_core::ROWS_MAX / 64);
    let cell = plenum_model::Restore::new(Revision(0), time, identity, Vec::new(), Vec::new(), filling);
    let mut core = Core::from_cell(cell.finish().unwrap(), CoreOptions::default());
    let claims = claims_of_all(&mut core, 1);
    let before = core.cell().clone();
    let mut committer: Committer<u32> = Committer::new(core, CommitOptions::default());
    request(&mut committer, 1, claims);
    let heard = hear(&mut committer);
    let [(1, _, Answer::Unchanged(Decision::Rejected(rejection)))] = &heard.answers[..] else {
        panic!("it is refused: {:?}", heard.answers)
    };
    assert_eq!(rejection.code, plenum_model::RejectionCode::LimitReached);
    assert!(rejection.message.starts_with("at most 67108864 rows of allocations"), "{rejection}");
    assert_eq!((heard.writes.len(), committer.undurable_cell().first_difference(&before)), (0, None));
}

// The answer told to ask for less, or to set larger segments: the machine could neither be removed nor come back after a boot.
#[test]
fn who_removes_a_machine_with_too_much_done_on_it_is_told_which_job_to_stop() {
    let mut core = placed(6000);
    let machine = plenum_model::MachineId { slot: 0, generation: 1 };
    // All but one.
    let ended = |found: AllocationRef<'_>| Transition::new(machine, 1, found.id, AllocationState::Complete);
    let done = core.cell().allocations().skip(1).map(ended);
    let done = ask(Command::ReportStatus(done.collect()));
    take(&mut core, &done);
    let options = CommitOptions { entry_bytes: 8 << 10, ..CommitOptions::default() };
    let mut committer: Committer<u32> = Committer::new(core, options);
    let remove = || ask(Command::RemoveMachine { machine, unless_alive: false });
    request(&mut committer, 1, remove());
    let heard = hear(&mut committer);
    let [(1, _, Answer::Unchanged(Decision::Rejected(rejection)))] = &heard.answers[..] else {
        panic!("it is refused: {:?}", heard.answers)
    };
    assert!(rejection.message.contains("it helps to stop the job default/pair"), "{rejection}");
    request(&mut committer, 2, ask(Command::StopJob { job: PAIR, version: None }));
    request(&mut committer, 3, remove());
    assert_eq!(committer.undurable_cell().machines().count(), 0, "and so it does");
}

// With the usual segments it told to set larger ones, which changed nothing: a machine that had booted seemed to be gone for good.
#[test]
fn larger_segments_are_advised_only_where_they_raise_the_bound() {
    let core = placed(1);
    let failed = plenum_model::Inventory {
        allocation: core.cell().allocations().next().expect("it was placed").id,
        state: AllocationState::Failed,
        exit_code: 1,
        reason: "".into(),
        restarts: 0,
        task: None,
    };
    let mut booted = machine("m1").request().command.clone();
    let Command::RegisterMachine(FoundMachine { boot_id, inventory, .. }) = &mut booted else { panic!("it registers") };
    *boot_id = "another boot".into();
    *inventory = vec![failed; 30_000];
    let booted = ask(booted);
    let delta = Delta::new(Revision(1), LogTime::default());
    for (segment_bytes, raises_effect, raises_entry) in
        [(1 << 20, true, true), (16 << 20, false, true), (64 << 20, false, false)]
    {
        let options = Settings { segment_bytes, ..Settings::default() }.commit_options();
        let effect = room::too_much(core.cell(), &booted, options.effect_bytes).expect("it is refused");
        let entry = room::fits(options.entry_bytes + 1, options.entry_bytes, &delta).expect_err("it is refused");
        let advised = |rejection: &Rejection| rejection.message.contains("set larger segment_bytes");
        assert_eq!((advised(&effect), advised(&entry)), (raises_effect, raises_entry), "{effect}; {entry}");
        assert!(effect.message.contains("remove it"), "{effect}");
    }
}
