//! Replies that do not say what their transaction did, or say it of other claims.

use plenum_checker::Evidence;
use plenum_checker::calls::{Asked, Reply};
use plenum_checker::picture::slot_of;
use plenum_checker::properties::{
    property_a_number_takes_effect_once, property_dry_runs_change_nothing, property_replies_equal_the_fold,
};
use plenum_proto::v1;
use plenum_testkit::JobBuilder;

use crate::bench::{Bench, machine};
use crate::forged::{change_delta, chronicle};

fn found(evidence: &Evidence) -> Vec<String> {
    let decided: Vec<_> = evidence.decided().collect();
    property_replies_equal_the_fold(&chronicle(evidence), &decided).iter().map(ToString::to_string).collect()
}

/// Two machines, on the first of which two tasks run; the last transaction stops the first of them, and one that is gone, is granted a task with a
/// port, and is refused one that is there already.
fn stopped() -> (Evidence, v1::Outcome) {
    let mut bench = Bench::new();
    let machines = [machine("m1", 6000, &[]), machine("m2", 6000, &[])].map(|found| slot_of(bench.machine(found)));
    let session = bench.session("batch");
    let mut spec = JobBuilder::new("job", "batch").group("main", 4, 100).forever().spec();
    let group = &mut spec.shape.as_mut().unwrap().groups[0];
    group.ports.push(v1::Port { name: "http".into(), number: 0 });
    let job = bench.submit(spec);
    let placement = |tasks: Vec<u32>, on: u32| v1::Placement {
        job,
        job_version: 1,
        machines: vec![on; tasks.len()],
        tasks,
        ..v1::Placement::default()
    };
    let asked = |number: u64, base_revision: u64, placements: Vec<v1::Placement>| v1::Transaction {
        session,
        number,
        base_revision,
        placements,
        ..v1::Transaction::default()
    };
    let first = bench.commit("batch", asked(1, bench.revision(), vec![placement(vec![0, 1, 2], machines[0])])).unwrap();
    let there = &first.placements[0].allocations;
    bench.commit("batch", v1::Transaction { stops: vec![there[2]], ..asked(2, bench.revision(), Vec::new()) });
    let stops = vec![there[0], there[2]];
    let last = v1::Transaction { stops, ..asked(3, bench.revision(), vec![placement(vec![3, 1], machines[1])]) };
    let outcome = bench.commit("batch", last).unwrap();
    assert_eq!((outcome.granted, outcome.idle_stops.as_slice(), outcome.refusals.len()), (1, &[1][..], 1));
    assert_eq!(outcome.placements[0].ports.len(), 1);
    assert_eq!(found(&bench.evidence), [""; 0]);
    (bench.evidence, outcome)
}

/// What is found when the last reply is changed.
fn told(change: impl Fn(&mut v1::Outcome)) -> Vec<String> {
    let (mut evidence, _) = stopped();
    let Some(Reply::Outcome(outcome)) = evidence.calls.last_mut().map(|call| &mut call.reply) else {
        panic!("the last call was a transaction");
    };
    change(outcome);
    found(&evidence)
}

#[test]
fn a_stop_that_was_not_done_is_found() {
    let (mut evidence, outcome) = stopped();
    change_delta(&mut evidence.recordings[0], |delta| {
        let moves = delta.moves.as_mut().filter(|_| delta.revision == outcome.revision);
        moves.map(|moves| *moves = v1::Moves::default()).is_some()
    });
    evidence.recordings.truncate(1);
    let found = found(&evidence);
    assert!(matches!(&found[..], [one] if one.contains("took no effect")), "{found:?}");
}

#[test]
fn a_stop_that_is_said_to_be_idle_while_its_task_ran_is_found() {
    let found = told(|outcome| outcome.idle_stops = vec![0, 1]);
    assert!(matches!(&found[..], [one] if one.contains("is said to be idle")), "{found:?}");
    let found = told(|outcome| outcome.idle_stops.clear());
    assert!(matches!(&found[..], [one] if one.contains("took no effect")), "{found:?}");
}

/// A lost claim on one machine could be told with the facts of another, and was judged by those.
#[test]
fn a_refusal_of_another_claim_than_was_made_is_found() {
    let changes: [fn(&mut v1::Refusal); 5] = [
        |refusal| refusal.machine ^= 1,
        |refusal| refusal.task = 0,
        |refusal| refusal.group = 1,
        |refusal| refusal.job += 1,
        |refusal| refusal.claim = 2,
    ];
    for change in changes {
        let found = told(|outcome| change(&mut outcome.refusals[0]));
        assert!(matches!(&found[..], [one] if one.contains("and was ")), "{found:?}");
    }
    let found = told(|outcome| outcome.refusals.extend(outcome.refusals.clone()));
    assert!(matches!(&found[..], [one] if one.contains("is refused twice")), "{found:?}");
}

#[test]
fn a_claim_that_is_both_granted_and_refused_is_found() {
    let found = told(|outcome| {
        let also = v1::Refusal { claim: 0, task: 3, ..outcome.refusals[0].clone() };
        outcome.refusals.push(also);
    });
    assert!(matches!(&found[..], [one] if one.contains("both granted and refused")), "{found:?}");
}

#[test]
fn ports_that_nobody_got_are_found() {
    let found = told(|outcome| outcome.placements[0].ports[0].ports[0].number += 1);
    assert!(matches!(&found[..], [one] if one.contains("tells of ports")), "{found:?}");
    let found = told(|outcome| outcome.placements[0].ports.clear());
    assert!(matches!(&found[..], [one] if one.contains("tells of ports")), "{found:?}");
}

#[test]
fn a_word_for_the_whole_that_its_refusals_contradict_is_found() {
    let found = told(|outcome| outcome.set_outcome(v1::TransactionOutcome::Committed));
    assert!(matches!(&found[..], [one] if one.contains("it is Committed with 1 refusals")), "{found:?}");
    let found = told(|outcome| outcome.set_outcome(v1::TransactionOutcome::Unspecified));
    assert!(matches!(&found[..], [one] if one.contains("it is Unspecified")), "{found:?}");
}

/// The second one believed that it was granted what the first one had asked for.
#[test]
fn other_content_under_a_number_that_is_answered_as_the_first_is_found() {
    let (mut evidence, _) = stopped();
    let found = |evidence: &Evidence| {
        let decided: Vec<_> = evidence.decided().collect();
        property_a_number_takes_effect_once(&chronicle(evidence), &decided)
    };
    let mut again = evidence.calls.last().unwrap().clone();
    let Asked::Transaction(asked) = &mut again.asked else { panic!("the last call was a transaction") };
    asked.decision = Some(v1::DecisionMetadata::default());
    evidence.calls.push(again.clone());
    assert_eq!(found(&evidence), []);
    let Asked::Transaction(asked) = &mut again.asked else { panic!("the last call was a transaction") };
    asked.placements[0].machines.swap(0, 1);
    asked.stops.pop();
    evidence.calls.push(again);
    let found: Vec<_> = found(&evidence).iter().map(ToString::to_string).collect();
    assert!(matches!(&found[..], [one] if one.contains("asked for different things")), "{found:?}");
}

#[test]
fn a_dry_run_that_is_in_the_history_is_found() {
    let (mut evidence, outcome) = stopped();
    let Some(Asked::Transaction(asked)) = evidence.calls.last().map(|call| call.asked.clone()) else {
        panic!("the last call was a transaction");
    };
    let mut view = v1::TransactionView { transaction: Some(*asked), outcome: Some(outcome), ..Default::default() };
    evidence.transactions.push(view.clone());
    assert_eq!(property_dry_runs_change_nothing(&chronicle(&evidence), &evidence), []);
    view.transaction.as_mut().unwrap().dry_run = true;
    evidence.transactions.push(view);
    let found = property_dry_runs_change_nothing(&chronicle(&evidence), &evidence);
    assert!(matches!(&found[..], [one] if one.to_string().contains("is listed")), "{found:?}");
}
