//! Steps that the core would never decide: the judge finds them by its own rules.

use std::sync::Arc;

use plenum_core::{Core, CoreOptions, Decided};
use plenum_model::{
    AllocationId, Cell, CellIdentity, Command, ConflictCheck, Culprit, Decision, Delta, Device, FoundMachine,
    GroupShape, Guard, Hold, JobChange, JobId, JobShape, LogTime, MachineId, NotWanted, Outcome, Placement, Port,
    Quota, Refusal, RefusalKind, RefusalReason, Request, Resource, Resources, Revision, SessionId, TaskTraces,
    Transaction, TransactionId, TransactionOutcome, UnknownId, UnknownTask,
};

use super::{Judge, Step, culprits, reasons, rules};
use crate::books::Checked;

mod accepted;
mod blamed;
mod bounded;
mod devices;
mod dues;
mod refused;
mod told;

const NOW: LogTime = LogTime::from_micros(1);

/// A core with a machine and a job of one task, the first of each.
struct Stage {
    core: Core,
    machine: MachineId,
    job: JobId,
    /// What was asked last, and what came of it.
    last: Option<(Request, Decided)>,
}

impl Stage {
    fn new(group: GroupShape) -> Self {
        let core = Core::new(CoreOptions::default());
        let mut stage = Self { core, machine: MachineId::default(), job: JobId::default(), last: None };
        stage.ask(Command::OpenServer(CellIdentity { incarnation: 1, term: 1, ..CellIdentity::default() }));
        let machine = stage.register("m1");
        let group = GroupShape { name: "main".into(), count: 1, resources: Resources::new(1, 1), ..group };
        let shape = JobShape {
            namespace: "default".into(),
            name: "job".into(),
            scheduler: "batch".into(),
            groups: vec![group],
            ..JobShape::default()
        };
        stage.submit(shape);
        stage.machine = MachineId::from_bits(machine).expect("an id");
        stage
    }

    /// The job that is placed from here on.
    fn submit(&mut self, shape: JobShape) {
        let job = self.ask(Command::submit(shape));
        self.job = JobId::from_bits(job).expect("an id");
    }

    fn register(&mut self, name: &str) -> u64 {
        self.register_with(name, &[])
    }

    /// A machine that comes, or comes back, with these devices.
    fn register_with(&mut self, name: &str, devices: &[Device]) -> u64 {
        let seen = self.core.cell().revision();
        self.ask(Command::RegisterMachine(FoundMachine {
            name: name.into(),
            boot_id: "boot".into(),
            capacity: Resources::new(8000, 1 << 30),
            devices: devices.to_vec(),
            seen,
            ..FoundMachine::default()
        }))
    }

    /// What was made, or nothing.
    fn ask(&mut self, command: Command) -> u64 {
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        let decided = self.core.decide(&request, NOW);
        let Decided::Changed { decision, .. } = &decided else { panic!("{decided:?}") };
        let id = if let Decision::Accepted { id, .. } = decision { *id } else { 0 };
        self.last = Some((request, decided));
        id
    }

    /// Places the task: the cell before, and what was granted.
    fn place(&mut self) -> (Cell, Delta) {
        let session = SessionId(self.ask(Command::OpenSession { scheduler: "batch".into() }));
        let (before, machines) = (self.core.cell().clone(), vec![self.machine.slot]);
        let claim = Placement { job: self.job, job_version: 1, machines, tasks: vec![0], ..Placement::default() };
        let txn = Transaction {
            id: TransactionId { session, number: 1 },
            incarnation: 1,
            base: before.revision(),
            placements: vec![claim],
            ..Transaction::default()
        };
        self.ask(Command::Commit(Box::new(txn), 1));
        match &self.last {
            Some((_, Decided::Changed { delta, .. })) if !delta.grants.is_empty() => (before, delta.clone()),
            other => panic!("{other:?}"),
        }
    }

    /// A check's word on a step from one cell to another, whatever was asked.
    fn judged(&self, before: &Cell, after: &Cell, delta: &Delta, check: impl Fn(&Step<'_>) -> Checked) -> Checked {
        let (request, decided) = self.last.as_ref().expect("something was asked");
        check(&Step { before, request, decided, after, delta })
    }
}

/// The delta that comes next, without any change yet.
fn next(cell: &Cell) -> Delta {
    Delta::new(cell.revision().next(), cell.time())
}

// Only where it got more machines was a hold held to the quota: on as many it could grow a hundredfold.
#[test]
fn a_hold_that_is_renewed_with_more_than_its_quota_allows_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let (job, machines) = (stage.job, [stage.machine.slot]);
    let (resources, deadline) = (Resources::new(1000, 10), LogTime::from_micros(60_000_000));
    stage.ask(Command::TakeHold {
        session: SessionId::default(),
        job,
        machines: machines.to_vec(),
        resources,
        deadline,
    });
    // Far below what is held already: that stays.
    let mut limits = Quota::default().limits;
    limits[0] = Some(500);
    stage.ask(Command::SetQuota { namespace: "default".into(), limit: Some(Quota { limits }) });
    let before = stage.core.cell().clone();
    let held = before.hold(job).expect("it holds room").clone();
    let found = |machines: &[u32], resources: Resources| {
        let hold = Hold { machines: machines.to_vec(), resources, ..held.clone() };
        let delta = Delta { holds: vec![(job, Some(hold))], ..next(&before) };
        let mut after = before.clone();
        after.apply(&delta).expect("it folds");
        stage.judged(&before, &after, &delta, rules::invariant_no_grant_exceeds_a_quota).is_err()
    };
    assert!(!found(&machines, resources), "it is renewed");
    assert!(!found(&[], resources), "it lost its machine");
    assert!(!found(&machines, Resources::new(1000, 11)), "it has more of what has no limit");
    assert!(found(&machines, Resources::new(1001, 10)));
}

// Only ports of allocations were counted.
#[test]
fn a_grant_of_a_port_that_an_unknown_task_has_is_found() {
    let ports = |number| vec![Port { name: "http".into(), number }];
    let mut stage = Stage::new(GroupShape { ports: ports(8080), ..GroupShape::default() });
    let (before, granted) = stage.place();
    // As if the cell had heard of the task before the claim.
    let judged = |number| {
        let machine = stage.machine;
        let id = UnknownId { machine: machine.slot, allocation: AllocationId { slot: 7, generation: 1 } };
        let traces = Arc::new(TaskTraces { ports: ports(number), ..TaskTraces::default() });
        let task = UnknownTask { machine, traces, since: NOW, until: None, stopping: false };
        let mut before = before.clone();
        let heard = Delta { unknown: vec![(id, Some(Arc::new(task)))], ..next(&before) };
        before.apply(&heard).expect("it folds");
        let granted = Delta { revision: before.revision().next(), ..granted.clone() };
        let mut after = before.clone();
        after.apply(&granted).expect("it folds");
        stage.judged(&before, &after, &granted, rules::check)
    };
    assert_eq!(judged(8081), Ok(()));
    let violation = judged(8080).expect_err("both listen on it");
    assert!(violation.facts.ends_with("has port Some(8080)"), "{violation}");
}

/// A judge that saw the task being placed, and the grant as a culprit.
fn judge_of_a_grant(stage: &mut Stage) -> (Judge, Delta, Culprit) {
    let (before, granted) = stage.place();
    let (request, decided) = stage.last.as_ref().expect("something was asked");
    let (after, mut judge) = (stage.core.cell(), Judge::default());
    judge.note(&Step { before: &before, request, decided, after, delta: &granted });
    let found = after.allocations().next().expect("it was placed");
    let transaction = TransactionId { session: SessionId(found.row.session), number: found.row.number.into() };
    let grant = Culprit { transaction: Some(transaction), allocation: Some(found.id), ..event("", granted.revision.0) };
    (judge, granted, grant)
}

// A task was evicted, and ran again in a cell that was restored to before. Who had had its room there still ran, unknown to that cell, and was told to begin beside its
// victim when its own process was started anew.
#[test]
fn a_victim_that_runs_again_in_a_restored_cell_is_in_the_way_of_nobody_who_came_later() {
    let mut stage = Stage::new(GroupShape::default());
    let (mut judge, ..) = judge_of_a_grant(&mut stage);
    let (&live, granted) = judge.granted.first_key_value().expect("it was placed");
    let granted = granted.clone();
    let [ended, known, later] = [90, 91, 92].map(|slot| AllocationId { slot, generation: 1 });
    judge.granted.insert(known, granted);
    judge.victims = [known, later].map(|id| (id, vec![live, ended])).into();
    judge.restored(stage.core.cell());
    assert_eq!(judge.victims_of(later), [ended], "it was evicted for whom nobody knows any more");
    assert_eq!(judge.victims_of(known), [live, ended]);
}

fn event(event: &str, revision: u64) -> Culprit {
    let (revision, scheduler, event) = (Revision(revision), "".into(), event.into());
    Culprit { revision, transaction: None, scheduler, event, amount: 1, allocation: None }
}

fn conflict(stage: &Stage, reason: RefusalReason, culprits: &[&Culprit]) -> Refusal {
    Refusal {
        kind: RefusalKind::Conflict,
        reason,
        claim: Some((0, 0)),
        job: stage.job,
        group: 0,
        task: 0,
        machine: stage.machine.slot,
        short: None,
        short_device: None,
        port: None,
        not_wanted: None,
        culprits: culprits.iter().copied().cloned().collect(),
        culprits_total: culprits.len() as u64,
    }
}

/// The outcome of a transaction that comes next, and is granted nothing.
fn refused(txn: &Transaction, before: &Cell) -> Outcome {
    Outcome {
        id: txn.id,
        revision: before.revision().next(),
        time: NOW,
        outcome: TransactionOutcome::Refused,
        placements: Vec::new(),
        refusals: Vec::new(),
        idle_stops: Vec::new(),
        ports: Vec::new(),
        elsewhere: Vec::new(),
        evicted: Vec::new(),
        divergences: Vec::new(),
    }
}

// What a transaction's first placement frees was taken to be held against its second one.
#[test]
fn what_the_job_of_another_placement_holds_says_nothing_of_the_base() {
    let mut stage = Stage::new(GroupShape::default());
    let (holder, slot) = (stage.job, stage.machine.slot);
    let shape = JobShape::clone(&stage.core.cell().job(holder).expect("it is there").shape);
    let shape = Arc::new(JobShape { name: "other".into(), ..shape });
    let other = stage.ask(Command::submit(shape));
    let other = JobId::from_bits(other).expect("an id");
    let (resources, deadline) = (Resources::new(8000, 1), LogTime::from_micros(60_000_000));
    stage.ask(Command::TakeHold {
        session: SessionId::default(),
        job: holder,
        machines: vec![slot],
        resources,
        deadline,
    });
    let cell = stage.core.cell();
    let claim = |job, machine| Placement {
        job,
        job_version: 1,
        machines: vec![machine],
        tasks: vec![0],
        ..Placement::default()
    };
    let judged = |placements: Vec<Placement>, claimed: u32| {
        let txn = Transaction { base: cell.revision(), placements, ..Transaction::default() };
        let plain = conflict(&stage, RefusalReason::NoRoom, &[]);
        let short = Some((Resource::CpuMillis, 1));
        let refusal = Refusal { claim: Some((claimed, 0)), job: other, short, ..plain };
        culprits::invariant_conflict_fitted_at_the_base_and_misfit_did_not(cell, cell, &txn, &refusal)
    };
    assert!(judged(vec![claim(other, slot)], 0).is_err(), "all was held");
    assert_eq!(judged(vec![claim(holder, slot + 1), claim(other, slot)], 1), Ok(()));
}

// Only a grant above a quota was looked for, and no refusal below one.
#[test]
fn a_quota_that_refuses_what_it_has_room_for_or_by_too_much_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let (machine, job) = (stage.machine.slot, stage.job);
    let placement =
        Placement { job, job_version: 1, machines: vec![machine, machine], tasks: vec![0, 1], ..Placement::default() };
    let txn = Transaction { placements: vec![placement], ..Transaction::default() };
    let mut judged = |limit: u64, claim: u32, short_by: u64| {
        let mut limits = Quota::default().limits;
        limits[0] = Some(limit);
        if stage.core.cell().quota("default") != Some(&Quota { limits }) {
            stage.ask(Command::SetQuota { namespace: "default".into(), limit: Some(Quota { limits }) });
        }
        let cell = stage.core.cell();
        let short = Some((Resource::CpuMillis, short_by));
        let plain = conflict(&stage, RefusalReason::QuotaExceeded, &[]);
        let refusal = Refusal { kind: RefusalKind::Quota, claim: Some((0, claim)), short, ..plain };
        let outcome = Outcome { refusals: vec![refusal.clone()], ..refused(&txn, cell) };
        let check = |step: &Step<'_>| reasons::invariant_what_refuses_a_claim_is_there(step, &txn, &outcome, &refusal);
        stage.judged(cell, cell, &next(cell), check).is_ok()
    };
    // Each task needs one.
    assert!(judged(0, 0, 1));
    assert!(!judged(0, 0, 2), "it is short by one");
    assert!(!judged(1, 0, 1), "there is room for it");
    assert!(judged(1, 1, 1), "the one before it has taken that");
    assert!(!judged(2, 1, 1), "there is room for both");
}

// Nobody looked whether culprits were told twice, or newer ones left out.
#[test]
fn culprits_that_are_named_twice_or_left_out_are_found() {
    let mut stage = Stage::new(GroupShape::default());
    let (judge, granted, grant) = judge_of_a_grant(&mut stage);
    let (after, txn) = (stage.core.cell(), Transaction::default());
    let found = |short: Resource, culprits: &[&Culprit]| {
        let refusal = Refusal { short: Some((short, 1)), ..conflict(&stage, RefusalReason::NoRoom, culprits) };
        let check = |step: &Step<'_>| judge.invariant_culprits_are_the_newest(step, &txn, &refusal);
        stage.judged(after, after, &granted, check).is_err()
    };
    let (cpu, older) = (Resource::CpuMillis, event("capacity", 2));
    assert!(!found(cpu, &[&grant]) && !found(cpu, &[&grant, &older]));
    assert!(found(cpu, &[&grant, &grant]) && found(cpu, &[&grant, &older, &older]), "named twice");
    assert!(found(cpu, &[&older]), "left out");
    assert!(!found(Resource::DiskBytes, &[&older]), "it took none of that");
    let holds = event("hold", granted.revision.0);
    assert!(!found(cpu, &[&grant, &holds, &holds]), "two jobs may have got their holds together");
}

// Any grant was taken for that of a task that had one already.
#[test]
fn a_culprit_that_took_another_task_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let (judge, granted, grant) = judge_of_a_grant(&mut stage);
    let after = stage.core.cell();
    let txn = Transaction { base: Revision(granted.revision.0 - 1), ..Transaction::default() };
    let outcome = refused(&txn, after);
    let judged = |task: u32| {
        let refusal = Refusal { task, ..conflict(&stage, RefusalReason::TaskTaken, &[&grant]) };
        let check = |step: &Step<'_>| judge.invariant_conflicts_name_true_culprits(step, &txn, &outcome, &refusal);
        stage.judged(after, after, &granted, check)
    };
    assert_eq!(judged(0), Ok(()));
    assert!(judged(1).is_err(), "it is of task 0");
}

// That something of the kind had become of the job was enough.
#[test]
fn a_culprit_that_took_no_such_task_away_and_sent_nobody_to_sleep_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let (job, base, mut judge) = (stage.job, stage.core.cell().revision(), Judge::default());
    let [up, down] = [6, 3].map(|count| {
        let before = stage.core.cell().clone();
        stage.ask(Command::ScaleJob { job, version: None, group: 0, count });
        let (request, decided) = stage.last.as_ref().expect("something was asked");
        let Decided::Changed { delta, .. } = decided else { panic!("{decided:?}") };
        judge.note(&Step { before: &before, request, decided, after: stage.core.cell(), delta });
        delta.revision
    });
    let (request, decided) = stage.last.as_ref().expect("something was asked");
    let mut cell = stage.core.cell().clone();
    let row = cell.job(job).expect("it is there").group_base;
    let [asleep, longer] = [20, 30].map(|micros| {
        let before = cell.clone();
        let group = *before.groups().get(row).expect("its group");
        let not_before = LogTime::from_micros(micros);
        let change = JobChange::Group { row, count: group.count, not_before, task_base: group.task_base };
        let delta = Delta { jobs: vec![change], ..next(&before) };
        cell.apply(&delta).expect("it folds");
        judge.note(&Step { before: &before, request, decided, after: &cell, delta: &delta });
        delta.revision
    });
    let txn = Transaction { base, ..Transaction::default() };
    let outcome = refused(&txn, &cell);
    let is_true = |why: NotWanted, (task, now): (u32, i64), word: &str, at: Revision| {
        let plain = conflict(&stage, RefusalReason::NotWanted, &[&event(word, at.0)]);
        let refusal = Refusal { task, not_wanted: Some(why), ..plain };
        let delta = Delta::new(cell.revision().next(), LogTime::from_micros(now));
        let check = |step: &Step<'_>| judge.invariant_conflicts_name_true_culprits(step, &txn, &outcome, &refusal);
        stage.judged(&cell, &cell, &delta, check).is_ok()
    };
    let gone = |task, at| is_true(NotWanted::NoSuchTask, (task, 1), "group", at);
    assert!(gone(3, down) && gone(5, down));
    assert!(!gone(2, down) && !gone(6, down), "it is still there, or never was");
    assert!(!gone(5, up), "that took none away");
    let sleeps = |now, at| is_true(NotWanted::Backoff(LogTime::from_micros(30)), (0, now), "backoff", at);
    assert!(sleeps(10, asleep) && sleeps(20, longer));
    assert!(!sleeps(10, longer), "it was asleep until later");
    assert!(!sleeps(20, asleep), "it would be awake");
    assert!(!is_true(NotWanted::NoSuchTask, (5, 1), "backoff", asleep));
}

// Any hold that somebody had taken there counted, also one that is over.
#[test]
fn a_hold_that_is_blamed_for_more_room_than_is_held_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let shape = JobShape::clone(&stage.core.cell().job(stage.job).expect("it is there").shape);
    let shape = Arc::new(JobShape { name: "other".into(), ..shape });
    let holder = stage.ask(Command::submit(shape));
    let job = JobId::from_bits(holder).expect("an id");
    let (slot, base, mut judge) = (stage.machine.slot, stage.core.cell().revision(), Judge::default());
    let [held, over] = [vec![slot], Vec::new()].map(|machines| {
        let before = stage.core.cell().clone();
        let (resources, deadline) = (Resources::new(1000, 1), LogTime::from_micros(60_000_000));
        stage.ask(Command::TakeHold { session: SessionId::default(), job, machines, resources, deadline });
        let (request, decided) = stage.last.as_ref().expect("something was asked");
        let Decided::Changed { delta, .. } = decided else { panic!("{decided:?}") };
        judge.note(&Step { before: &before, request, decided, after: stage.core.cell(), delta });
        stage.core.cell().clone()
    });
    let txn = Transaction { base, ..Transaction::default() };
    let is_true = |cell: &Cell, amount: u64| {
        let culprit = Culprit { amount, ..event("hold", held.revision().0) };
        let short = Some((Resource::CpuMillis, 1));
        let refusal = Refusal { short, ..conflict(&stage, RefusalReason::NoRoom, &[&culprit]) };
        let outcome = refused(&txn, cell);
        let check = |step: &Step<'_>| judge.invariant_conflicts_name_true_culprits(step, &txn, &outcome, &refusal);
        stage.judged(cell, cell, &next(cell), check).is_ok()
    };
    assert!(is_true(&held, 1000));
    assert!(!is_true(&held, 1001), "it never held so much");
    assert!(!is_true(&over, 1000), "nobody holds anything");
}

// Only grants of others were looked for, and changes of the machine itself.
#[test]
fn a_grant_by_sequence_where_others_hold_room_or_somebody_was_found_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let mut shape = JobShape::clone(&stage.core.cell().job(stage.job).expect("it is there").shape);
    (shape.name, shape.scheduler) = ("gang".into(), "ml".into());
    let gang = Command::submit(shape);
    let gang = JobId::from_bits(stage.ask(gang)).expect("an id");
    let (own, slot, base, mut judge) = (stage.job, stage.machine.slot, stage.core.cell().revision(), Judge::default());
    let [held_by_others, held_by_own] = [gang, own].map(|job| {
        let before = stage.core.cell().clone();
        let (machines, resources, deadline) = (vec![slot], Resources::new(1000, 1), LogTime::from_micros(60_000_000));
        stage.ask(Command::TakeHold { session: SessionId::default(), job, machines, resources, deadline });
        let (request, decided) = stage.last.as_ref().expect("something was asked");
        let Decided::Changed { delta, .. } = decided else { panic!("{decided:?}") };
        judge.note(&Step { before: &before, request, decided, after: stage.core.cell(), delta });
        delta.revision
    });
    let (before, granted) = stage.place();
    let after = stage.core.cell();
    let id = UnknownId { machine: slot, allocation: AllocationId { slot: 7, generation: 1 } };
    let traces = Arc::new(TaskTraces { resources: Resources::new(1, 1), ..TaskTraces::default() });
    let task = UnknownTask { machine: stage.machine, traces, since: NOW, until: None, stopping: false };
    let heard = Delta { unknown: vec![(id, Some(Arc::new(task)))], ..next(after) };
    let mut with_it = after.clone();
    with_it.apply(&heard).expect("it folds");
    let (request, decided) = stage.last.as_ref().expect("something was asked");
    let grants = &granted.grants[0];
    let is_kept = |judge: &Judge, base: Revision| {
        let id = TransactionId { session: grants.session, number: 1 };
        let txn = Transaction { id, base, check: ConflictCheck::Sequence, ..Transaction::default() };
        let check = |step: &Step<'_>| judge.sequence_is_kept(step, &txn, grants, 0);
        stage.judged(&before, after, &granted, check).is_ok()
    };
    assert!(!is_kept(&judge, base), "others hold room there since");
    assert!(is_kept(&judge, held_by_others), "only a job of its own scheduler does");
    judge.note(&Step { before: after, request, decided, after: &with_it, delta: &heard });
    assert!(!is_kept(&judge, held_by_own), "a task was found");
    assert!(is_kept(&judge, heard.revision));
}

// That somebody had left the slot was enough, also one who came after the machine of the guard.
#[test]
fn an_end_that_is_blamed_for_a_guard_on_the_tenant_before_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let (first, base, mut judge) = (stage.machine, stage.core.cell().revision(), Judge::default());
    let mut remove = |stage: &mut Stage, machine: MachineId| {
        let before = stage.core.cell().clone();
        stage.ask(Command::RemoveMachine { machine, unless_alive: false });
        let (request, decided) = stage.last.as_ref().expect("something was asked");
        let Decided::Changed { delta, .. } = decided else { panic!("{decided:?}") };
        judge.note(&Step { before: &before, request, decided, after: stage.core.cell(), delta });
        delta.revision
    };
    let removed = remove(&mut stage, first);
    let second = MachineId::from_bits(stage.register("m2")).expect("an id");
    let later = remove(&mut stage, second);
    assert_eq!(first.slot, second.slot);
    let cell = stage.core.cell();
    let is_true = |machine: MachineId, at: Revision| {
        let guards = vec![Guard::Attribute { machine, attribute: "rack".into(), value: "r1".into() }];
        let txn = Transaction { base, guards, ..Transaction::default() };
        let plain = conflict(&stage, RefusalReason::GuardFailed, &[&event("removed", at.0)]);
        let refusal = Refusal { kind: RefusalKind::Guard, claim: None, ..plain };
        let outcome = refused(&txn, cell);
        let check = |step: &Step<'_>| judge.invariant_conflicts_name_true_culprits(step, &txn, &outcome, &refusal);
        stage.judged(cell, cell, &next(cell), check).is_ok()
    };
    assert!(is_true(first, removed) && is_true(second, later));
    assert!(!is_true(first, later), "it was gone already");
}
