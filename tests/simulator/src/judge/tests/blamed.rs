//! Culprits that took less than they are blamed for, or nothing of what was in the way.

use plenum_model::FoundMachine;

use super::*;

impl Stage {
    /// Asks, and lets a judge see what came of it: the revision.
    fn ask_before(&mut self, judge: &mut Judge, command: Command) -> Revision {
        let before = self.core.cell().clone();
        self.ask(command);
        let (request, decided) = self.last.as_ref().expect("something was asked");
        let Decided::Changed { delta, .. } = decided else { panic!("{decided:?}") };
        judge.note(&Step { before: &before, request, decided, after: self.core.cell(), delta });
        delta.revision
    }

    /// Whether all culprits of a refusal are taken to be true.
    fn is_true(&self, judge: &Judge, txn: &Transaction, refusal: &Refusal) -> bool {
        let cell = self.core.cell();
        let outcome = refused(txn, cell);
        let check = |step: &Step<'_>| judge.invariant_conflicts_name_true_culprits(step, txn, &outcome, refusal);
        self.judged(cell, cell, &next(cell), check).is_ok()
    }
}

// Each was held against all that is held, alone: one hold that was renewed could be blamed twice for the whole of it.
#[test]
fn a_hold_that_is_blamed_twice_for_the_same_room_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let shape = JobShape::clone(&stage.core.cell().job(stage.job).expect("it is there").shape);
    let shape = Arc::new(JobShape { name: "other".into(), ..shape });
    let other = stage.ask(Command::submit(shape));
    let (base, mut judge) = (stage.core.cell().revision(), Judge::default());
    let [taken, renewed] = [600, 1000].map(|millis| {
        let (resources, deadline) = (Resources::new(millis, 1), LogTime::from_micros(60_000_000));
        let (job, machines) = (JobId::from_bits(other).expect("an id"), vec![stage.machine.slot]);
        let session = SessionId::default();
        stage.ask_before(&mut judge, Command::TakeHold { session, job, machines, resources, deadline })
    });
    let txn = Transaction { base, ..Transaction::default() };
    let is_true = |newer: u64, older: u64| {
        let of = |at: Revision, amount: u64| Culprit { amount, ..event("hold", at.0) };
        let culprits = [of(renewed, newer), of(taken, older)];
        let plain = conflict(&stage, RefusalReason::NoRoom, &[&culprits[0], &culprits[1]]);
        stage.is_true(&judge, &txn, &Refusal { short: Some((Resource::CpuMillis, 1)), ..plain })
    };
    assert!(is_true(400, 600));
    assert!(!is_true(1000, 1000) && !is_true(401, 600), "it holds 1000");
}

// Any change of the machine was taken to have left it less room, by however much.
#[test]
fn a_machine_that_is_blamed_for_more_than_it_lost_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let (base, mut judge, machine) = (stage.core.cell().revision(), Judge::default(), stage.machine);
    let shrinks = Command::RegisterMachine(FoundMachine {
        name: "m1".into(),
        boot_id: "boot".into(),
        capacity: Resources::new(7000, 1 << 30),
        seen: base,
        ..FoundMachine::default()
    });
    let shrank = stage.ask_before(&mut judge, shrinks);
    let cordoned = stage.ask_before(&mut judge, Command::CordonMachine { machine, cordoned: true });
    let txn = Transaction { base, ..Transaction::default() };
    let is_true = |word: &str, at: Revision, resource: Resource, amount: u64| {
        let culprit = Culprit { amount, ..event(word, at.0) };
        let plain = conflict(&stage, RefusalReason::NoRoom, &[&culprit]);
        stage.is_true(&judge, &txn, &Refusal { short: Some((resource, 1)), ..plain })
    };
    let cpu = Resource::CpuMillis;
    assert!(is_true("capacity", shrank, cpu, 1000) && is_true("capacity", shrank, cpu, 1));
    assert!(!is_true("capacity", shrank, cpu, 1001) && !is_true("capacity", shrank, cpu, 0));
    assert!(!is_true("capacity", shrank, Resource::MemoryBytes, 1), "it lost none of that");
    assert!(!is_true("cordoned", cordoned, cpu, 1), "it lost nothing with that");
}

// For what is no room, device or port, any grant since the base was a true culprit, wherever it was.
#[test]
fn a_grant_that_is_blamed_for_what_others_did_elsewhere_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let (judge, granted, grant) = judge_of_a_grant(&mut stage);
    let base = Revision(granted.revision.0 - 1);
    let txn = |session: u64, check: ConflictCheck| Transaction {
        id: TransactionId { session: SessionId(session), number: 9 },
        base,
        check,
        ..Transaction::default()
    };
    let (own, others) = (grant.transaction.expect("a grant is of one").session.0, u64::MAX);
    let is_true = |txn: &Transaction, reason: RefusalReason, change: &dyn Fn(&mut Refusal)| {
        let mut refusal = conflict(&stage, reason, &[&grant]);
        change(&mut refusal);
        stage.is_true(&judge, txn, &refusal)
    };
    let elsewhere = |refusal: &mut Refusal| refusal.machine += 1;
    let of_another = |refusal: &mut Refusal| refusal.job.slot += 1;
    let sequence = txn(others, ConflictCheck::Sequence);
    assert!(is_true(&sequence, RefusalReason::MachineChanged, &|_| {}));
    assert!(!is_true(&sequence, RefusalReason::MachineChanged, &elsewhere));
    assert!(!is_true(&txn(own, ConflictCheck::Sequence), RefusalReason::MachineChanged, &|_| {}), "it is its own");
    let fit = txn(others, ConflictCheck::Fit);
    assert!(!is_true(&fit, RefusalReason::MachineChanged, &|_| {}), "it asked for no such check");
    assert!(is_true(&fit, RefusalReason::PerMachineLimit, &|_| {}));
    assert!(!is_true(&fit, RefusalReason::PerMachineLimit, &elsewhere));
    assert!(is_true(&fit, RefusalReason::SpreadLimit, &elsewhere), "others of its value may be anywhere");
    assert!(!is_true(&fit, RefusalReason::SpreadLimit, &of_another));
}

// Of a device of which nothing was short, as it was there and was of another model since, any amount was taken to be lost.
#[test]
fn a_machine_that_is_blamed_for_more_of_another_model_than_a_claim_wants_is_found() {
    let of = |model: &str, millis: u32| Device { kind: "gpu".into(), index: 0, millis, model: model.into() };
    let mut stage = Stage::new(GroupShape { devices: vec![of("large", 400)], ..GroupShape::default() });
    stage.register_with("m1", &[of("large", 1000)]);
    let (base, mut judge) = (stage.core.cell().revision(), Judge::default());
    let changes = Command::RegisterMachine(FoundMachine {
        name: "m1".into(),
        boot_id: "boot".into(),
        capacity: Resources::new(8000, 1 << 30),
        devices: vec![of("small", 1000)],
        seen: base,
        ..FoundMachine::default()
    });
    let changed = stage.ask_before(&mut judge, changes);
    let txn = Transaction { base, ..Transaction::default() };
    let is_true = |kind: &str, amount: u64| {
        let culprit = Culprit { amount, ..event("capacity", changed.0) };
        let plain = conflict(&stage, RefusalReason::DeviceTaken, &[&culprit]);
        stage.is_true(&judge, &txn, &Refusal { short_device: Some((kind.into(), 0)), ..plain })
    };
    assert!(is_true("gpu", 400));
    assert!(!is_true("gpu", 401) && !is_true("gpu", 1000), "it wants 400 of it");
    assert!(!is_true("fpga", 400), "it wants none of those");
}
