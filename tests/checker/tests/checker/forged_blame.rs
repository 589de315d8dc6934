//! Conflicts that blame some of those who came between, and not the right ones: told otherwise on their way to the checker.

use plenum_checker::calls::Reply;
use plenum_checker::picture::slot_of;
use plenum_checker::properties::property_culprits_are_true;
use plenum_proto::v1::{self, RefusalKind, RefusalReason};
use plenum_testkit::JobBuilder;

use crate::bench::{Bench, machine};
use crate::forged::chronicle;
use crate::kinds::Scene;

/// A machine, and a claim that loses it to those who came first, each with so much.
fn lost(cpu_millis: i64, rivals: &[i64], wanted: i64) -> (Bench, v1::Refusal) {
    let mut bench = Bench::new();
    let slot = slot_of(bench.machine(machine("m1", cpu_millis, &[])));
    let jobs = rivals.iter().chain([&wanted]).enumerate().map(|(number, &each)| {
        bench.submit(JobBuilder::new(&format!("job-{number}"), "batch").group("main", 1, each).spec())
    });
    let jobs: Vec<u64> = jobs.collect();
    let session = bench.session("batch");
    let base_revision = bench.revision();
    let mut refusals = Vec::new();
    for (number, job) in (1..).zip(jobs) {
        let (machines, tasks) = (vec![slot], vec![0]);
        let placement = v1::Placement { job, job_version: 1, machines, tasks, ..v1::Placement::default() };
        let placements = vec![placement];
        let asked = v1::Transaction { session, number, base_revision, placements, ..v1::Transaction::default() };
        refusals.extend(bench.commit("batch", asked).unwrap().refusals);
    }
    let [refusal] = &refusals[..] else { panic!("the last one is refused, and no other: {refusals:?}") };
    assert_eq!((refusal.kind(), refusal.reason()), (RefusalKind::Conflict, RefusalReason::NoRoom));
    let refusal = refusal.clone();
    (bench, refusal)
}

/// What is found when the refusal of the last transaction is told otherwise.
fn found(bench: &Bench, change: impl Fn(&mut v1::Refusal)) -> Vec<String> {
    let mut evidence = bench.evidence.clone();
    if let Some(Reply::Outcome(outcome)) = evidence.calls.last_mut().map(|call| &mut call.reply) {
        outcome.refusals.iter_mut().for_each(change);
    }
    let decided: Vec<_> = evidence.decided().collect();
    let found = property_culprits_are_true(&chronicle(&evidence), &decided);
    found.iter().map(ToString::to_string).collect()
}

// Each had to have taken what it is charged with, and all together enough: twice the same one was as good as two.
#[test]
fn a_culprit_that_is_named_twice_is_found() {
    let (bench, refusal) = lost(2000, &[1000, 1000], 2000);
    assert_eq!((refusal.culprits.len(), refusal.culprits_total), (2, 2000));
    assert_eq!(found(&bench, |_| ()), [""; 0]);
    let twice = found(&bench, |refusal| refusal.culprits[1] = refusal.culprits[0].clone());
    assert!(matches!(&twice[..], [one] if one.contains("is named twice")), "{twice:?}");
}

// Where older ones had enough as well, nobody missed the one who came last.
#[test]
fn the_newest_rival_that_is_left_out_is_found() {
    let (bench, refusal) = lost(3000, &[2000, 1000], 1000);
    assert_eq!((refusal.culprits.len(), refusal.culprits_total), (1, 1000));
    let older = bench.core.cell().allocations().min_by_key(|found| found.row.created).unwrap();
    let (allocation, revision, number) = (older.id.to_bits(), older.row.created.0, u64::from(older.row.number));
    let blamed = found(&bench, |refusal| {
        let culprit = &mut refusal.culprits[0];
        (culprit.allocation, culprit.revision, culprit.number, culprit.amount) = (allocation, revision, number, 2000);
        refusal.culprits_total = 2000;
    });
    assert!(matches!(&blamed[..], [one] if one.contains("is left out")), "{blamed:?}");
}

// Of more culprits than are listed the total was believed.
#[test]
fn a_total_beyond_all_that_anybody_has_is_found() {
    let (bench, refusal) = lost(500, &[100; 5], 500);
    assert_eq!((refusal.culprits.len(), refusal.culprits_total), (4, 500));
    assert_eq!(found(&bench, |_| ()), [""; 0]);
    let beyond = found(&bench, |refusal| refusal.culprits_total += 1);
    assert!(matches!(&beyond[..], [one] if one.contains("all who came since have 500")), "{beyond:?}");
}

// A machine that has a little less by now could be charged with any amount.
#[test]
fn a_machine_that_is_charged_with_more_than_it_lost_is_found() {
    let mut bench = Bench::new();
    let slot = slot_of(bench.machine(machine("m1", 3000, &[])));
    let job = bench.submit(JobBuilder::new("job", "batch").group("main", 1, 3000).spec());
    let session = bench.session("batch");
    let base_revision = bench.revision();
    bench.machine(machine("m1", 2900, &[]));
    let (machines, tasks) = (vec![slot], vec![0]);
    let placements = vec![v1::Placement { job, job_version: 1, machines, tasks, ..v1::Placement::default() }];
    let asked = v1::Transaction { session, number: 1, base_revision, placements, ..v1::Transaction::default() };
    let outcome = bench.commit("batch", asked).unwrap();
    assert_eq!((&*outcome.refusals[0].culprits[0].event, outcome.refusals[0].culprits_total), ("capacity", 100));
    assert_eq!(found(&bench, |_| ()), [""; 0]);
    let overcharged = found(&bench, |refusal| {
        refusal.culprits[0].amount += 1;
        refusal.culprits_total += 1;
    });
    assert!(matches!(&overcharged[..], [one] if one.contains("the machine lost 100")), "{overcharged:?}");
}

/// Blames the allocation of another grant.
fn blame(refusal: &mut v1::Refusal, culprit: &v1::Culprit) {
    refusal.culprits = vec![culprit.clone()];
}

// Whoever had had the task since the base passed, also where it was free again when the claim was refused.
#[test]
fn the_last_holder_but_one_of_a_task_who_is_blamed_is_found() {
    let mut scene = Scene::new(|_| ());
    let base = scene.base;
    assert_eq!(scene.claim(0), None);
    let first = scene.claim(0).unwrap().culprits[0].clone();
    let now = scene.bench.revision();
    let again = scene.claim_with(0, |asked| {
        (asked.base_revision, asked.stops) = (now, vec![first.allocation]);
    });
    assert_eq!(again.granted, 1, "{again:?}");
    scene.base = base;
    let taken = scene.claim(0).expect("it has the task");
    assert_eq!((taken.kind(), taken.reason()), (RefusalKind::Conflict, RefusalReason::TaskTaken), "{taken:?}");
    assert_eq!(found(&scene.bench, |_| ()), [""; 0]);
    let blamed = found(&scene.bench, |refusal| blame(refusal, &first));
    assert!(matches!(&blamed[..], [one] if one.contains("was leaving by then")), "{blamed:?}");
}

// Any grant of the group passed, wherever it was.
#[test]
fn a_task_in_another_rack_that_is_blamed_for_a_spread_limit_is_found() {
    let mut bench = Bench::new();
    let slots = ["r1", "r2", "r1"].map(|rack| {
        let name = format!("m{}", bench.revision());
        slot_of(bench.machine(machine(&name, 3000, &[("rack", rack)])))
    });
    let job = bench.submit(JobBuilder::new("job", "batch").group("main", 3, 100).spread("rack", 1).spec());
    let session = bench.session("batch");
    let base_revision = bench.revision();
    let mut claim = |number: u64, slot: u32| {
        let (machines, tasks) = (vec![slot], vec![u32::try_from(number - 1).unwrap()]);
        let placements = vec![v1::Placement { job, job_version: 1, machines, tasks, ..v1::Placement::default() }];
        let asked = v1::Transaction { session, number, base_revision, placements, ..v1::Transaction::default() };
        bench.commit("batch", asked).unwrap()
    };
    let own = claim(1, slots[0]);
    let other = claim(2, slots[1]);
    let refused = claim(3, slots[2]);
    let refusal = refused.refusals[0].clone();
    assert_eq!((refusal.kind(), refusal.reason()), (RefusalKind::Conflict, RefusalReason::SpreadLimit), "{refusal:?}");
    assert_eq!(refusal.culprits[0].allocation, own.placements[0].allocations[0]);
    assert_eq!(found(&bench, |_| ()), [""; 0]);
    let culprit = v1::Culprit {
        revision: other.revision,
        number: other.number,
        allocation: other.placements[0].allocations[0],
        ..refusal.culprits[0].clone()
    };
    let blamed = found(&bench, |refusal| blame(refusal, &culprit));
    assert!(matches!(&blamed[..], [one] if one.contains("is where no rule counts it")), "{blamed:?}");
}
