//! A cell that refuses everything: a scheduler must neither give up nor run hot.

use std::sync::Arc;

use plenum_model::{
    AllocationId, CellIdentity, Delta, GroupShape, Job, JobChange, JobId, JobShape, LogTime, Machine, MachineId,
    MachineState, Refusal, RefusalKind, RefusalReason, Resources, Revision, SessionChange, Transaction, TransactionId,
    TransactionOutcome,
};

use super::too_large::{commits, given, welcome_of, with_work};
use super::*;
use crate::plan::Plan;
use crate::view::Work;

const MINUTE_MICROS: i64 = 60_000_000;

/// Claims the first machine for all its work.
pub(super) struct Eager;

impl Scheduler for Eager {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        for work in view.work() {
            let mut plan = Plan::incremental();
            plan.claim(work, &work.tasks, &vec![0; work.tasks.len()]);
            decision.commit(plan);
        }
        decision
    }
}

/// Claims the first machine for one task only, and says nothing of the other.
struct Half;

impl Scheduler for Half {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        for work in view.work() {
            let mut plan = Plan::incremental();
            plan.claim(work, &work.tasks[..1], &[0]);
            decision.commit(plan);
        }
        decision
    }
}

/// The same as the eager one, and expects nothing to be promised to anybody.
struct Hopeful;

impl Scheduler for Hopeful {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        assert!(view.promised().is_empty(), "what was refused is promised no longer");
        Eager.decide(view)
    }
}

/// Stops more at once than the cell takes, once; then the same.
#[derive(Default)]
struct Sweeping {
    has_swept: bool,
}

impl Scheduler for Sweeping {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        if std::mem::replace(&mut self.has_swept, true) {
            return Eager.decide(view);
        }
        let (mut plan, mut decision) = (Plan::incremental(), Decision::default());
        for slot in 0..2000 {
            plan.stop(AllocationId { slot, generation: 1 });
        }
        decision.commit(plan);
        decision
    }
}

/// Server, session, a machine, and a job of two tasks: revisions 1 to 4.
pub(super) fn beginning() -> Vec<Delta> {
    let mut deltas: Vec<_> = (1..=4).map(|revision| Delta::new(Revision(revision), LogTime::from_micros(5))).collect();
    deltas[0].cell = Some(CellIdentity { cell_id: [1; 16], incarnation: 1, ..CellIdentity::default() });
    deltas[1].scheduler_names.push("idle".into());
    let (scheduler, principal, namespace) = ("idle".into(), "local".into(), "".into());
    deltas[1].sessions.push(SessionChange::Opened { scheduler, principal, namespace });
    deltas[2].machines.push(Arc::new(Machine {
        id: MachineId { slot: 0, generation: 1 },
        name: "m1".into(),
        state: MachineState::Ready,
        epoch: 1,
        capacity: Arc::new(Resources::new(4000, 1 << 30)),
        attributes: Arc::default(),
        devices: Arc::default(),
        boot_id: "boot".into(),
        since: LogTime::default(),
        drain_deadline: None,
        registered: LogTime::default(),
        cordoned: false,
        unfit: None,
        epoch_began: Revision(3),
    }));
    let group =
        GroupShape { name: "main".into(), count: 2, resources: Resources::new(100, 1), ..GroupShape::default() };
    let shape = JobShape {
        namespace: "default".into(),
        name: "words".into(),
        scheduler: "idle".into(),
        groups: vec![group],
        ..JobShape::default()
    };
    let job = Job {
        id: JobId { slot: 0, generation: 1 },
        version: 1,
        shape: Arc::new(shape),
        body: None,
        body_digest: [0; 32],
        submitted: LogTime::default(),
        state: plenum_model::JobState::Waiting,
        state_since: LogTime::default(),
        reason: "".into(),
        group_base: 0,
        home: None,
        last_instant_micros: None,
    };
    deltas[3].jobs.push(JobChange::Put { job: Arc::new(job), task_bases: vec![0] });
    deltas
}

/// As a server tells them.
pub(super) fn encoded_deltas(deltas: &[Delta]) -> impl Iterator<Item = Tell> {
    deltas.iter().map(|delta| {
        let mut bytes = Vec::new();
        delta::encode(delta, &mut bytes);
        Tell::Deltas(v1::Deltas { deltas: vec![bytes.into()] })
    })
}

/// Refuses each transaction of these, at the revision behind the one before, and gathers the reasons that they tell.
pub(super) fn refusals_of(outputs: Vec<Output>, revision: &mut u64, reasons: &mut Vec<String>) -> Vec<Tell> {
    let mut refusals = Vec::new();
    for output in outputs {
        match output {
            Output::Send(v1::SessionRequest { ask: Some(Ask::Commit(transaction)) }) => {
                *revision += 1;
                refusals.extend(refused(transaction, *revision));
            }
            Output::Send(v1::SessionRequest { ask: Some(Ask::PassedOver(told)) }) => {
                reasons.extend(told.notes.into_iter().map(|note| note.reason));
            }
            _ => {}
        }
    }
    refusals
}

/// What such a cell answers: the transaction is decided at `revision`, and each claim lost its race.
pub(super) fn refused(transaction: v1::Transaction, revision: u64) -> [Tell; 2] {
    let transaction = Transaction::try_from(transaction).unwrap();
    let id: TransactionId = transaction.id;
    let mut delta = Delta::new(Revision(revision), LogTime::from_micros(5));
    delta.sessions.push(SessionChange::Number { session: id.session, number: id.number, digest: 0 });
    let mut bytes = Vec::new();
    delta::encode(&delta, &mut bytes);
    let claims = &transaction.placements[0].tasks;
    let refusal = |(claim, &task): (u32, &u32)| Refusal {
        kind: RefusalKind::Conflict,
        reason: RefusalReason::NoRoom,
        claim: Some((0, claim)),
        job: transaction.placements[0].job,
        group: 0,
        task,
        machine: 0,
        short: None,
        culprits: Vec::new(),
        culprits_total: 0,
        short_device: None,
        port: None,
        not_wanted: None,
    };
    let outcome = Outcome {
        id,
        revision: Revision(revision),
        time: LogTime::from_micros(5),
        outcome: TransactionOutcome::Refused,
        placements: vec![vec![None; claims.len()]],
        refusals: (0..).zip(claims).map(refusal).collect(),
        idle_stops: Vec::new(),
        ports: Vec::new(),
        elsewhere: Vec::new(),
        evicted: Vec::new(),
        divergences: Vec::new(),
    };
    [Tell::Deltas(v1::Deltas { deltas: vec![bytes.into()] }), Tell::Outcome((&outcome).into())]
}

#[test]
fn a_scheduler_that_always_loses_tries_on_ever_more_slowly_and_never_hot() {
    let mut runtime = SchedulerRuntime::new(Settings::default(), Hopeful).unwrap();
    let (mut now, mut revision) = (0, 4);
    let mut attempts: Vec<(i64, u32)> = Vec::new();
    let mut outputs = runtime.handle(now, Input::Start);
    outputs.extend(runtime.handle(now, Input::Connected));
    let mut inbox = vec![welcome(2, 1, 0)];
    inbox.extend(encoded_deltas(&beginning()));
    let mut wake = None;
    while now < MINUTE_MICROS {
        for message in std::mem::take(&mut inbox) {
            outputs.extend(runtime.handle(now, Input::Received(v1::SessionResponse { tell: Some(message) })));
        }
        for output in std::mem::take(&mut outputs) {
            match output {
                Output::Send(v1::SessionRequest { ask: Some(Ask::Commit(transaction)) }) => {
                    let decision = transaction.decision.clone().unwrap();
                    assert_eq!(transaction.number, attempts.len() as u64 + 1, "each attempt has a number of its own");
                    attempts.push((now, decision.attempt));
                    revision += 1;
                    inbox.extend(refused(transaction, revision));
                }
                Output::WakeAt { micros } => wake = Some(micros),
                _ => {}
            }
        }
        if inbox.is_empty() {
            now = wake.take().expect("there is always another attempt to wait for").max(now + 1);
            outputs = runtime.handle(now, Input::Tick);
        }
    }
    let counted: Vec<u32> = attempts.iter().map(|(_, attempt)| *attempt).collect();
    assert_eq!(counted, (1..).take(attempts.len()).collect::<Vec<_>>());
    assert!((30..120).contains(&attempts.len()), "{} attempts in a minute", attempts.len());
    let last = attempts.windows(2).next_back().map(|pair| pair[1].0 - pair[0].0).unwrap();
    assert!((1_000_000..=2_000_000).contains(&last), "{last} µs between the last attempts");
    assert_eq!(runtime.counters().claims_conflict, 2 * attempts.len() as u64);
    assert_eq!(runtime.jobs(), 1, "it is still wanted");
}

/// People were told in turns that it was refused and that the scheduler gave no reason, for as long as that claimed only a part of what waited.
#[test]
fn what_a_part_of_a_group_is_refused_for_is_not_hidden_by_the_part_that_nobody_claims() {
    let (mut runtime, mut outputs) = with_work(Half, 0);
    let (mut revision, mut reasons) = (4, Vec::new());
    for now in (0..MINUTE_MICROS).step_by(100_000) {
        let inbox = refusals_of(std::mem::take(&mut outputs), &mut revision, &mut reasons);
        for message in inbox {
            outputs.extend(given(&mut runtime, now, message));
        }
        outputs.extend(runtime.handle(now, Input::Tick));
    }
    reasons.dedup();
    let told = [
        "the scheduler idle left them for later, and gave no reason",
        "refused at the commit, and tried again in a moment: NO_ROOM",
    ];
    assert_eq!(reasons, told, "once for good, and not in turns");
}

/// A cell of small segments takes no transaction of more than one claim, and says so: as soon as it comes, or once it is decided and found
/// to bring too much with it.
#[test]
fn what_is_too_large_for_the_cell_is_tried_in_smaller_parts() {
    for code in ["MESSAGE_TOO_LARGE", "LIMIT_REACHED"] {
        let claims = claims_while_refused(Eager, code, |transaction| claims_of(transaction) > 1);
        assert_eq!(claims, [2, 1, 1], "both tasks, and then one after the other");
    }
}

/// One that was too large for what its tasks had with them made all later decisions of the session smaller, for ever.
#[test]
fn what_was_too_large_once_is_offered_again_after_a_while() {
    let mut runtime = SchedulerRuntime::new(Settings { window: 1, ..Settings::default() }, Eager).unwrap();
    let mut outputs = runtime.handle(0, Input::Start);
    outputs.extend(runtime.handle(0, Input::Connected));
    let mut inbox = vec![welcome(2, 1, 0)];
    inbox.extend(encoded_deltas(&beginning()));
    let (mut revision, mut claims) = (4, Vec::new());
    for now in (0..2 * MINUTE_MICROS).step_by(100_000) {
        for message in std::mem::take(&mut inbox) {
            outputs.extend(runtime.handle(now, Input::Received(v1::SessionResponse { tell: Some(message) })));
        }
        outputs.extend(runtime.handle(now, Input::Tick));
        for output in std::mem::take(&mut outputs) {
            let Output::Send(v1::SessionRequest { ask: Some(Ask::Commit(transaction)) }) = output else { continue };
            claims.push((now, claims_of(&transaction)));
            if claims.len() == 1 {
                inbox.push(rejected(transaction.number, "MESSAGE_TOO_LARGE"));
            } else {
                revision += 1;
                inbox.extend(refused(transaction, revision));
            }
        }
    }
    assert_eq!(claims[0].1, 2);
    let (before, after): (Vec<_>, Vec<_>) = claims[1..].iter().partition(|(now, _)| *now <= MINUTE_MICROS);
    assert!(before.len() > 10 && before.iter().all(|(_, claims)| *claims == 1), "{before:?}");
    assert!(after.len() > 10 && after.iter().all(|(_, claims)| *claims == 2), "{after:?}");
}

/// A transaction of nothing but stops was too large. From then on its scheduler was offered one task at a time, for as long as its session
/// lasted.
#[test]
fn who_stops_too_much_at_once_is_offered_no_fewer_tasks() {
    let claims =
        claims_while_refused(Sweeping::default(), "LIMIT_REACHED", |transaction| !transaction.stops.is_empty());
    assert_eq!(claims[..2], [0, 2]);
}

pub(super) fn claims_of(transaction: &v1::Transaction) -> usize {
    transaction.placements.iter().map(|placement| placement.machines.len()).sum()
}

/// A hint of centuries was followed: the job was never tried again, and a refused session never opened.
#[test]
fn no_hint_when_to_try_again_is_followed_for_longer_than_a_minute() {
    let (mut runtime, outputs) = with_work(Eager, 0);
    let told = |tell| Input::Received(v1::SessionResponse { tell: Some(tell) });
    let is_commit = |output: &Output| matches!(output, Output::Send(v1::SessionRequest { ask: Some(Ask::Commit(_)) }));
    assert!(outputs.iter().any(is_commit));
    let refused = |number| {
        let Tell::Error(error) = rejected(number, "QUEUE_FULL") else { panic!("an error") };
        told(Tell::Error(v1::RequestError { retry_after_micros: i64::MAX, ..error }))
    };
    let outputs = runtime.handle(1000, refused(1));
    assert!(!outputs.iter().any(is_commit));
    assert!(matches!(outputs.last(), Some(Output::WakeAt { micros: 60_000_000..=70_000_000 })), "{outputs:?}");
    assert!(runtime.handle(70_000_000, Input::Tick).iter().any(is_commit));
    let outputs = runtime.handle(70_000_000, refused(0));
    assert!(matches!(outputs.last(), Some(Output::ConnectAfter { micros: MINUTE_MICROS })), "{outputs:?}");
}

// It was given up, as if it had not been executed, and its tasks were asked for again under another number.
#[test]
fn a_transaction_of_which_nobody_knows_what_became_is_sent_again_under_its_number() {
    let (mut runtime, outputs) = with_work(Eager, 0);
    let sent = |outputs: &[Output]| -> Vec<u64> { commits(outputs).map(|commit| commit.number).collect() };
    assert_eq!(sent(&outputs), [1]);
    let Tell::Error(error) = rejected(1, "OUTCOME_UNKNOWN") else { panic!("an error") };
    let outputs = given(&mut runtime, 1000, Tell::Error(v1::RequestError { retry_after_micros: 700_000, ..error }));
    assert!(outputs.contains(&Output::Disconnect), "{outputs:?}");
    assert!(matches!(outputs.last(), Some(Output::ConnectAfter { micros: 700_000.. })), "{outputs:?}");
    assert!(!outputs.iter().any(|output| matches!(output, Output::Notice(Notice::Rejected { .. }))), "{outputs:?}");
    runtime.handle(800_000, Input::Connected);
    let outputs = given(&mut runtime, 800_000, welcome_of(4, 0));
    assert_eq!((sent(&outputs), runtime.counters().sent_again, runtime.counters().rejected), (vec![1], 1, 0));
}

pub(super) fn rejected(number: u64, code: &str) -> Tell {
    let message = "a transaction of this cell has at most 1 claims".into();
    Tell::Error(v1::RequestError { number, status: 8, code: code.into(), message, retry_after_micros: 0 })
}

/// Claims of each transaction, of which some are refused with this code.
fn claims_while_refused(
    scheduler: impl Scheduler,
    code: &str,
    is_refused: impl Fn(&v1::Transaction) -> bool,
) -> Vec<usize> {
    let mut runtime = SchedulerRuntime::new(Settings::default(), scheduler).unwrap();
    let mut outputs = runtime.handle(0, Input::Start);
    outputs.extend(runtime.handle(0, Input::Connected));
    let mut inbox = vec![welcome(2, 1, 0)];
    inbox.extend(encoded_deltas(&beginning()));
    let mut claims = Vec::new();
    for now in 0..100 {
        for message in std::mem::take(&mut inbox) {
            outputs.extend(runtime.handle(now * 1000, Input::Received(v1::SessionResponse { tell: Some(message) })));
        }
        outputs.extend(runtime.handle(now * 1000, Input::Tick));
        for output in std::mem::take(&mut outputs) {
            if let Output::Send(v1::SessionRequest { ask: Some(Ask::Commit(transaction)) }) = output {
                claims.push(claims_of(&transaction));
                if is_refused(&transaction) {
                    inbox.push(rejected(transaction.number, code));
                }
            }
        }
    }
    claims
}

/// Stops what runs, to make room for what waits, and claims nothing.
struct Clearing;

impl Scheduler for Clearing {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, _: &View<'_>) -> Decision {
        let (mut plan, mut decision) = (Plan::incremental(), Decision::default());
        plan.stop(AllocationId { slot: 0, generation: 1 });
        decision.commit(plan);
        decision
    }
}

/// Claims for a job of somebody else as many tasks as wait of its own one, and for that one nothing.
struct Helpful;

impl Scheduler for Helpful {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut plan, mut decision) = (Plan::incremental(), Decision::default());
        for work in view.work() {
            let job = Job { id: JobId { slot: 9, generation: 1 }, ..(*work.job).clone() };
            let other = Work { job: Arc::new(job), ..work.clone() };
            plan.claim(&other, &other.tasks, &vec![0; other.tasks.len()]);
        }
        decision.commit(plan);
        decision
    }
}

/// How many transactions it sends in a second, of which each is answered so.
pub(super) fn sent_in_a_second(
    scheduler: impl Scheduler,
    mut answers: impl FnMut(v1::Transaction) -> Vec<Tell>,
) -> usize {
    let (mut runtime, mut outputs) = with_work(scheduler, 0);
    let mut sent = 0;
    for now in (0..1_000_000).step_by(1_000) {
        let transactions: Vec<v1::Transaction> = commits(&outputs).cloned().collect();
        outputs = runtime.handle(now, Input::Tick);
        for transaction in transactions {
            sent += 1;
            for answer in answers(transaction) {
                outputs.extend(given(&mut runtime, now, answer));
            }
        }
    }
    sent
}

/// What a cell says for a second to a scheduler that is paused.
pub(super) fn paused(number: u64) -> Tell {
    let Tell::Error(error) = rejected(number, "SCHEDULER_PAUSED") else { panic!("an error") };
    Tell::Error(v1::RequestError { retry_after_micros: 1_000_000, ..error })
}

// Only jobs were left for later: a plan without claims was decided and sent anew a thousand times a second, by who was paused as well.
#[test]
fn who_only_stops_waits_as_long_as_the_cell_says() {
    assert_eq!(sent_in_a_second(Clearing, |sent| vec![paused(sent.number)]), 1);
}

#[test]
fn who_only_stops_and_has_no_success_tries_less_and_less_often() {
    let sent = sent_in_a_second(Clearing, |sent| vec![rejected(sent.number, "LIMIT_REACHED")]);
    assert!((4..30).contains(&sent), "{sent}");
}

// Jobs of others are in no queue, so that they could not be left for later: the same was claimed and refused hundreds of times a second.
#[test]
fn who_claims_for_jobs_of_others_and_has_no_success_tries_less_and_less_often() {
    let sent = sent_in_a_second(Helpful, |sent| vec![rejected(sent.number, "LIMIT_REACHED")]);
    assert!((4..30).contains(&sent), "{sent} that were not executed");
    let mut revision = 4;
    let sent = sent_in_a_second(Helpful, |sent| {
        revision += 1;
        refused(sent, revision).into()
    });
    assert!((4..30).contains(&sent), "{sent} that were refused");
}
