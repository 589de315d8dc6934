//! What transactions asked to be held to: runs of the core that keep to it, told as if more had been asked.

use plenum_checker::calls::{Asked, Reply};
use plenum_checker::picture::{id_of, slot_of};
use plenum_checker::properties::{
    property_guards_and_sequence_hold, property_replies_equal_the_fold, property_spares_are_taken_in_order,
};
use plenum_model::Resource;
use plenum_proto::v1::{self, RefusalReason};
use plenum_testkit::JobBuilder;

use crate::bench::{Bench, machine};
use crate::forged::chronicle;
use crate::kinds::Scene;

/// What is found of guards, `sequence` and spare machines, when the last transaction is told otherwise.
fn found(bench: &Bench, change: impl Fn(&mut v1::Transaction)) -> Vec<String> {
    let mut evidence = bench.evidence.clone();
    let Some(Asked::Transaction(asked)) = evidence.calls.last_mut().map(|call| &mut call.asked) else {
        panic!("it was asked")
    };
    change(asked);
    let (chronicle, decided): (_, Vec<_>) = (chronicle(&evidence), evidence.decided().collect());
    let asked = property_guards_and_sequence_hold(&chronicle, &decided);
    let spares = property_spares_are_taken_in_order(&chronicle, &decided);
    asked.into_iter().chain(spares).map(|one| one.to_string()).collect()
}

/// Claims a task after something happened, as one who would take it anyway; and what is found if it had asked for `sequence`.
fn in_sequence(happens: impl Fn(&mut Scene)) -> Vec<String> {
    let mut scene = Scene::new(|_| ());
    happens(&mut scene);
    assert_eq!(scene.claim(2), None);
    assert_eq!(found(&scene.bench, |_| ()), [""; 0]);
    found(&scene.bench, |asked| asked.set_check(v1::ConflictCheck::Sequence))
}

fn job_of(scene: &mut Scene, scheduler: &str) -> u64 {
    let spec = JobBuilder::new(&format!("gang-{scheduler}"), scheduler).group("main", 1, 100).spec();
    scene.bench.submit(spec)
}

fn hold(scene: &mut Scene, job: u64, cpu_millis: i64) {
    let machines = if cpu_millis > 0 { vec![slot_of(scene.machine)] } else { Vec::new() };
    assert!(scene.bench.hold(job, machines, (Resource::CpuMillis, cpu_millis), 60_000_000));
}

/// Somebody else is granted something there.
fn grant_of_others(scene: &mut Scene) {
    let job = job_of(scene, "service");
    let session = scene.bench.session("service");
    let machines = vec![slot_of(scene.machine)];
    let placement = v1::Placement { job, job_version: 1, machines, tasks: vec![0], ..v1::Placement::default() };
    let placements = vec![placement];
    let base_revision = scene.bench.revision();
    let asked = v1::Transaction { session, number: 1, base_revision, placements, ..v1::Transaction::default() };
    assert_eq!(scene.bench.commit("service", asked).unwrap().granted, 1);
}

/// The machine's agent finds a task there that nobody knows.
fn find_stranger(scene: &mut Scene) {
    let resources = Some(v1::Resources { cpu_millis: 100, ..v1::Resources::default() });
    let item = v1::InventoryItem {
        allocation: id_of(1_000_000, 1),
        state: v1::AllocationState::Running.into(),
        task: Some(v1::TaskTraces {
            namespace: "default".to_owned(),
            job: "before".to_owned(),
            group: "main".to_owned(),
            resources,
            ..v1::TaskTraces::default()
        }),
        ..v1::InventoryItem::default()
    };
    let found = crate::kinds::found_in("r1");
    assert_eq!(scene.bench.machine(v1::RegisterMachine { inventory: vec![item], ..found }), scene.machine);
}

#[test]
fn what_others_did_on_a_machine_since_the_base_breaks_a_sequence() {
    let sign = "is granted in sequence with base";
    let broken = |found: Vec<String>| matches!(&found[..], [one] if one.contains(sign));
    assert!(broken(in_sequence(grant_of_others)));
    assert!(broken(in_sequence(find_stranger)));
    assert!(broken(in_sequence(|scene| {
        scene.bench.cordon(scene.machine, true);
        scene.bench.cordon(scene.machine, false);
    })));
    assert!(broken(in_sequence(|scene| {
        let job = job_of(scene, "service");
        hold(scene, job, 200);
    })));
}

#[test]
fn what_it_did_itself_and_what_only_gives_room_back_breaks_no_sequence() {
    assert_eq!(in_sequence(|_| ()), [""; 0]);
    assert_eq!(in_sequence(|scene| assert_eq!(scene.claim(0), None)), [""; 0]);
    assert_eq!(
        in_sequence(|scene| {
            let job = job_of(scene, "batch");
            hold(scene, job, 200);
        }),
        [""; 0]
    );
    assert_eq!(
        in_sequence(|scene| {
            let job = job_of(scene, "service");
            hold(scene, job, 200);
            scene.base = scene.bench.revision();
            hold(scene, job, 100);
            hold(scene, job, 0);
        }),
        [""; 0]
    );
}

#[test]
fn a_sequence_that_is_said_to_be_broken_by_itself_is_found() {
    let mut scene = Scene::new(|_| ());
    assert_eq!(scene.claim(0), None);
    let own = scene.bench.core.cell().allocations().next().unwrap();
    let (allocation, revision, number) = (own.id.to_bits(), own.row.created.0, u64::from(own.row.number));
    grant_of_others(&mut scene);
    let outcome = scene.claim_with(1, |asked| asked.set_check(v1::ConflictCheck::Sequence));
    assert_eq!(outcome.refusals[0].reason(), RefusalReason::MachineChanged, "{outcome:?}");
    assert_eq!(scene.checked(|_| ()), [""; 0]);
    let session = scene.session;
    let told = scene.checked(|refusal| {
        refusal.culprits = vec![v1::Culprit { revision, session, number, allocation, ..v1::Culprit::default() }];
    });
    assert!(matches!(&told[..], [one] if one.contains("is its own")), "{told:?}");
}

#[test]
fn a_grant_while_a_guard_fails_is_found_and_so_is_a_refusal_while_none_does() {
    let mut scene = Scene::new(|_| ());
    let guard = |machine: u64, value: &str| {
        let (attribute, value) = ("rack".to_owned(), value.to_owned());
        let fact = v1::guard::Fact::Attribute(v1::AttributeGuard { machine, attribute, value });
        v1::Guard { fact: Some(fact) }
    };
    let version = |job: u64, version: u32| v1::Guard {
        fact: Some(v1::guard::Fact::JobVersion(v1::JobVersionGuard { job, version })),
    };
    let (machine, job) = (scene.machine, scene.job);
    let outcome = scene.claim_with(0, |asked| asked.guards = vec![guard(machine, "r1"), version(job, 1)]);
    assert_eq!(outcome.granted, 1, "{outcome:?}");
    assert_eq!(found(&scene.bench, |_| ()), [""; 0]);
    for failing in [guard(machine, "r2"), guard(machine + (1 << 32), "r1"), version(job, 2), version(job + 1, 1)] {
        let of_all = found(&scene.bench, |asked| asked.guards = vec![failing.clone()]);
        let of_one = found(&scene.bench, |asked| asked.placements[0].guards = vec![failing.clone()]);
        let (one, all) = ("while a guard fails", "while a guard on all of it fails");
        for (found, sign) in [(of_all, all), (of_one, one)] {
            assert!(matches!(&found[..], [one] if one.contains(sign)), "{failing:?}: {found:?}");
        }
    }
    let outcome = scene.claim_with(1, |asked| asked.placements[0].guards = vec![guard(machine, "r2")]);
    assert_eq!(outcome.refusals[0].reason(), RefusalReason::GuardFailed, "{outcome:?}");
    assert_eq!(found(&scene.bench, |_| ()), [""; 0]);
    let made_up = found(&scene.bench, |asked| asked.placements[0].guards.clear());
    assert!(matches!(&made_up[..], [one] if one.contains("while all guards hold")), "{made_up:?}");
}

// Guards were looked at for each grant, and there is none: the stops took effect all the same, as those do of a transaction that is refused in part.
#[test]
fn a_stop_that_takes_effect_while_a_guard_on_all_fails_is_found() {
    let mut scene = Scene::new(|_| ());
    assert_eq!(scene.claim(0), None);
    let allocation = scene.bench.core.cell().allocations().next().unwrap().id.to_bits();
    let fact = v1::guard::Fact::JobVersion(v1::JobVersionGuard { job: scene.job, version: 2 });
    let failing = v1::Guard { fact: Some(fact) };
    let refused = scene.claim_with(1, |asked| {
        asked.guards = vec![failing.clone()];
        asked.stops = vec![allocation];
    });
    assert_eq!(refused.outcome(), v1::TransactionOutcome::Refused, "{refused:?}");
    assert_eq!(found(&scene.bench, |_| ()), [""; 0]);
    let stopped = scene.claim_with(1, |asked| {
        asked.placements.clear();
        asked.stops = vec![allocation];
    });
    assert_eq!(stopped.outcome(), v1::TransactionOutcome::Committed, "{stopped:?}");
    assert_eq!(found(&scene.bench, |_| ()), [""; 0]);
    let found = found(&scene.bench, |asked| asked.guards = vec![failing.clone()]);
    assert!(matches!(&found[..], [one] if one.contains("while a guard on all of it fails")), "{found:?}");
}

/// A claim whose own machine is full, with two spare ones that have room.
#[test]
fn a_spare_machine_before_whose_turn_another_one_had_room_is_found() {
    let mut bench = Bench::new();
    let [full, first, second] = [1000, 6000, 6000].map(|cpu_millis| {
        let name = format!("m{}", bench.revision());
        slot_of(bench.machine(machine(&name, cpu_millis, &[])))
    });
    let session = bench.session("batch");
    let job = bench.submit(JobBuilder::new("job", "batch").group("main", 2, 2000).spec());
    let placement = v1::Placement {
        job,
        job_version: 1,
        machines: vec![full],
        tasks: vec![0],
        alternates: vec![first, second],
        ..v1::Placement::default()
    };
    let (base_revision, placements) = (bench.revision(), vec![placement]);
    let asked = v1::Transaction { session, number: 1, base_revision, placements, ..v1::Transaction::default() };
    assert_eq!(bench.commit("batch", asked).unwrap().granted, 1);
    assert_eq!(found(&bench, |_| ()), [""; 0]);
    let sign = format!("is granted on slot {first}, and slot {second} before it lacked nothing");
    let ranked = found(&bench, |asked| asked.placements[0].alternates.reverse());
    assert!(matches!(&ranked[..], [one] if one.contains(&sign)), "{ranked:?}");
    let own = found(&bench, |asked| asked.placements[0].machines = vec![second]);
    assert!(matches!(&own[..], [one] if one.contains(&sign)), "{own:?}");
    let mut evidence = bench.evidence.clone();
    let Some(Reply::Outcome(outcome)) = evidence.calls.last_mut().map(|call| &mut call.reply) else {
        panic!("it was answered")
    };
    assert_eq!(outcome.placements[0].elsewhere, [v1::GrantedElsewhere { claim: 0, machine: first }]);
    outcome.placements[0].elsewhere.clear();
    let decided: Vec<_> = evidence.decided().collect();
    let untold = property_replies_equal_the_fold(&chronicle(&evidence), &decided);
    let untold: Vec<_> = untold.into_iter().map(|one| one.to_string()).collect();
    assert!(matches!(&untold[..], [one] if one.contains("placement 0 tells [] of spare machines")), "{untold:?}");
}
