//! Outcomes that tell something else than what was done.

use plenum_model::{GrantedElsewhere, RefusalKind};

use super::*;
use crate::judge::told;

/// The transaction that was asked last, and its outcome.
fn last(stage: &Stage) -> (Transaction, Outcome, Delta) {
    match &stage.last {
        Some((
            Request { command: Command::Commit(txn, _), .. },
            Decided::Changed { decision: Decision::Outcome(outcome), delta },
        )) => (Transaction::clone(txn), Outcome::clone(outcome), delta.clone()),
        other => panic!("{other:?}"),
    }
}

/// Whether an outcome is found to be another one than that of what was asked last.
fn is_found(stage: &Stage, before: &Cell, txn: &Transaction, outcome: &Outcome, delta: &Delta) -> bool {
    let check = |step: &Step<'_>| told::invariant_an_outcome_tells_what_was_done(step, txn, outcome);
    stage.judged(before, stage.core.cell(), delta, check).is_err()
}

// An outcome was compared with what the same core said of it when it was asked again, and never with what it did.
#[test]
fn a_grant_that_is_told_otherwise_than_it_was_done_is_found() {
    let port = Port { name: "http".into(), number: 8080 };
    let mut stage = Stage::new(GroupShape { ports: vec![port], ..GroupShape::default() });
    let (before, _) = stage.place();
    let (txn, outcome, delta) = last(&stage);
    let found = |change: &dyn Fn(&mut Outcome, &mut Delta)| {
        let (mut outcome, mut delta) = (outcome.clone(), delta.clone());
        change(&mut outcome, &mut delta);
        is_found(&stage, &before, &txn, &outcome, &delta)
    };
    let another = AllocationId { slot: 77, generation: 1 };
    assert!(!found(&|_, _| {}));
    assert!(found(&|outcome, _| outcome.placements[0][0] = None), "it was granted");
    assert!(found(&|outcome, _| outcome.placements[0][0] = Some(another)), "another one was");
    assert!(found(&|outcome, _| outcome.placements.clear()), "there is no claim");
    assert!(found(&|_, delta| delta.grants.clear()), "nothing was granted");
    assert!(found(&|_, delta| delta.grants[0].machines[0] += 1), "it was on another machine");
    assert!(found(&|_, delta| delta.grants[0].tasks[0] += 1), "it was another task");
    assert!(found(&|outcome, _| outcome.ports.clear()), "it has a port");
    assert!(found(&|outcome, _| outcome.ports[0].ports[0].number += 1), "it has another port");
    assert!(found(&|outcome, _| outcome.evicted.push(another)), "nobody was evicted");
    assert!(found(&|outcome, _| outcome.idle_stops.push(0)), "nobody was to stop");
    assert!(found(&|outcome, _| outcome.outcome = TransactionOutcome::Partial), "nothing was refused");
    let elsewhere = |machine| GrantedElsewhere { placement: 0, claim: 0, machine };
    assert!(found(&|outcome, _| outcome.elsewhere.push(elsewhere(5))), "no spare machine was named");
    let both = conflict(&stage, RefusalReason::NoRoom, &[]);
    let refuse = |outcome: &mut Outcome| {
        (outcome.outcome, outcome.refusals) = (TransactionOutcome::Partial, vec![both.clone()]);
    };
    assert!(found(&|outcome, _| refuse(outcome)), "it is granted");
}

// All that is judged of a refusal is looked up by the task and the machine that it says of itself.
#[test]
fn a_refusal_of_another_claim_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    stage.place();
    let before = stage.core.cell().clone();
    // The task is placed already.
    let (mut again, ..) = last(&stage);
    again.id.number = 2;
    again.placements[0].tasks.push(1);
    again.placements[0].machines.push(stage.machine.slot);
    stage.ask(Command::Commit(Box::new(again), 2));
    let (txn, outcome, delta) = last(&stage);
    let found = |change: &dyn Fn(&mut Vec<Refusal>)| {
        let mut outcome = outcome.clone();
        change(&mut outcome.refusals);
        is_found(&stage, &before, &txn, &outcome, &delta)
    };
    assert!(!found(&|_| {}));
    assert!(found(&|refusals| refusals[0].task = 1), "it asked for task 0");
    assert!(found(&|refusals| refusals[0].machine += 1), "it asked for another machine");
    assert!(found(&|refusals| refusals[0].job.slot += 1), "it asked for another job");
    assert!(found(&|refusals| refusals[0].claim = Some((0, 2))), "there are two claims");
    assert!(found(&|refusals| drop(refusals.remove(0))), "it was not granted");
    assert!(found(&|refusals| refusals.push(refusals[0].clone())), "it is refused twice");
    let of_no_claim = |refusals: &mut Vec<Refusal>| {
        let guard = Refusal { kind: RefusalKind::Guard, reason: RefusalReason::GuardFailed, ..refusals[0].clone() };
        refusals.push(Refusal { claim: None, ..guard });
    };
    assert!(!found(&of_no_claim), "all of it is refused, and whether a guard fails is judged elsewhere");
}

// Nobody looked whether a stop that was acknowledged was done.
#[test]
fn a_stop_that_is_told_otherwise_than_it_was_done_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    stage.place();
    let (placed, ..) = last(&stage);
    let live = stage.core.cell().allocations().next().expect("it was placed").id;
    let gone = AllocationId { slot: 77, generation: 1 };
    let stopped_by = |stage: &mut Stage, session: SessionId, number: u64| {
        let id = TransactionId { session, number };
        let stops = vec![live, live, gone];
        let txn = Transaction { id, stops, placements: Vec::new(), ..placed.clone() };
        let before = stage.core.cell().clone();
        stage.ask(Command::Commit(Box::new(txn), number));
        before
    };
    let other = SessionId(stage.ask(Command::OpenSession { scheduler: "ml".into() }));
    let before = stopped_by(&mut stage, other, 1);
    let (txn, outcome, delta) = last(&stage);
    assert!(!is_found(&stage, &before, &txn, &outcome, &delta));
    let untold = Outcome { refusals: Vec::new(), outcome: TransactionOutcome::Committed, ..outcome.clone() };
    assert!(is_found(&stage, &before, &txn, &untold, &delta), "it is not for others to stop");
    let before = stopped_by(&mut stage, placed.id.session, 2);
    let (txn, outcome, delta) = last(&stage);
    assert!(!is_found(&stage, &before, &txn, &outcome, &delta));
    let runs_on = Delta { moves: Vec::new(), ..delta.clone() };
    assert!(is_found(&stage, &before, &txn, &outcome, &runs_on), "it was to stop");
    let idle = |stops: Vec<u32>| Outcome { idle_stops: stops, ..outcome.clone() };
    assert!(!is_found(&stage, &before, &txn, &idle(vec![1, 2]), &delta));
    assert!(is_found(&stage, &before, &txn, &idle(vec![0, 1, 2]), &delta), "it ran");
    assert!(is_found(&stage, &before, &txn, &idle(vec![2]), &delta), "it was named twice");
}
