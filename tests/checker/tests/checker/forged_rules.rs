//! Rules that a cell may break where nobody looks: who leaves, who is granted something, and who holds room. Runs of the core that keep to them, changed
//! on their way to the checker.

use plenum_checker::calls::Asked;
use plenum_checker::picture::slot_of;
use plenum_checker::properties::{
    property_declared_rules_hold, property_holds_keep_their_order, property_whoever_leaves_has_a_reason,
};
use plenum_checker::{Evidence, Violation};
use plenum_model::Resource;
use plenum_proto::v1;
use plenum_testkit::JobBuilder;

use crate::bench::{Bench, machine};
use crate::forged::{chronicle, run_of};
use crate::kinds::Scene;
use crate::untrue::change_all;

/// The allocations that are live in the cell as it is now.
fn live(bench: &Bench) -> Vec<u64> {
    bench.core.cell().allocations().map(|found| found.id.to_bits()).collect()
}

/// Tells the last delta otherwise.
fn change_last(bench: &Bench, change: impl Fn(&mut v1::Delta)) -> Evidence {
    let (mut evidence, last) = (bench.evidence.clone(), bench.revision());
    change_all(&mut evidence, |delta| {
        if delta.revision == last {
            change(delta);
        }
    });
    evidence
}

/// An allocation goes to another state, beside whatever else the delta moves.
fn move_to(delta: &mut v1::Delta, allocation: u64, state: v1::AllocationState) {
    let moves = delta.moves.get_or_insert_default();
    moves.slots.push(slot_of(allocation));
    moves.states.push(state as u32);
    moves.ready.push(0);
}

/// Those who leave, or come back, without a reason: each with its state then.
fn leaving(evidence: &Evidence) -> Vec<(u64, v1::AllocationState)> {
    let decided: Vec<_> = evidence.decided().collect();
    let found = property_whoever_leaves_has_a_reason(&chronicle(evidence), &decided);
    let of = |one: Violation| match one {
        Violation::LeavesWithoutReason { allocation, state, .. } => (allocation, state),
        other => panic!("{other:?}"),
    };
    found.into_iter().map(of).collect()
}

/// What rules grants break.
fn broken(evidence: &Evidence) -> Vec<String> {
    property_declared_rules_hold(&chronicle(evidence)).iter().map(ToString::to_string).collect()
}

// Of victims the band was looked at, and not who had named them: a transaction could evict anybody below it.
#[test]
fn a_victim_that_its_transaction_did_not_name_is_found() {
    let mut evidence = run_of(900);
    assert_eq!(leaving(&evidence), []);
    for call in &mut evidence.calls {
        let Asked::Transaction(asked) = &mut call.asked else { continue };
        asked.placements.iter_mut().for_each(|placement| placement.preemptions.clear());
    }
    let found = leaving(&evidence);
    assert!(!found.is_empty());
    assert!(found.iter().all(|(_, state)| *state == v1::AllocationState::Evicting), "{found:?}");
}

// Who was named by the transaction had a reason, whosever task it was.
#[test]
fn a_task_that_a_session_of_another_scheduler_stopped_is_found() {
    let mut scene = Scene::new(|_| ());
    assert_eq!(scene.claim(0), None);
    let [allocation] = live(&scene.bench)[..] else { panic!("one was granted") };
    let session = scene.bench.session("service");
    let base_revision = scene.bench.revision();
    let asked =
        v1::Transaction { session, number: 1, base_revision, stops: vec![allocation], ..v1::Transaction::default() };
    let refused = scene.bench.commit("service", asked).unwrap();
    assert_eq!(refused.refusals[0].reason(), v1::RefusalReason::OtherScheduler, "{refused:?}");
    assert_eq!(leaving(&scene.bench.evidence), []);
    let told = change_last(&scene.bench, |delta| move_to(delta, allocation, v1::AllocationState::Stopping));
    assert_eq!(leaving(&told), [(allocation, v1::AllocationState::Stopping)]);
}

#[test]
fn a_grant_to_a_session_of_another_scheduler_is_found() {
    let mut scene = Scene::new(|_| ());
    let other = scene.bench.session("service");
    assert_eq!(scene.claim(0), None);
    assert_eq!(broken(&scene.bench.evidence), [""; 0]);
    let told = change_last(&scene.bench, |delta| delta.grants[0].session = other);
    let found = broken(&told);
    assert!(matches!(&found[..], [one] if one.contains("a session of Some(\"service\") placed it")), "{found:?}");
}

// Only those who had been active were looked at: who came back passed, unless its task was granted anew meanwhile.
#[test]
fn an_allocation_that_leaves_and_comes_back_is_found() {
    for state in [v1::AllocationState::Running, v1::AllocationState::Starting] {
        let mut scene = Scene::new(|_| ());
        assert_eq!(scene.claim(0), None);
        let [allocation] = live(&scene.bench)[..] else { panic!("one was granted") };
        let stopped = scene.claim_with(1, |asked| asked.stops = vec![allocation]);
        assert_eq!((stopped.granted, stopped.idle_stops.len()), (1, 0), "{stopped:?}");
        scene.bench.session("service");
        assert_eq!(leaving(&scene.bench.evidence), []);
        let told = change_last(&scene.bench, |delta| move_to(delta, allocation, state));
        assert_eq!(leaving(&told), [(allocation, state)]);
        let still = change_last(&scene.bench, |delta| move_to(delta, allocation, v1::AllocationState::Lost));
        assert_eq!(leaving(&still), [], "it leaves for another reason");
    }
}

/// A job whose tasks share a machine, of which the first one is done; the second one is granted last.
fn shared() -> (Bench, [u32; 2]) {
    let mut bench = Bench::new();
    let machines = ["m1", "m2"].map(|name| slot_of(bench.machine(machine(name, 3000, &[]))));
    let job = bench.submit(JobBuilder::new("pair", "batch").group("main", 2, 1000).same_machine().spec());
    let session = bench.session("batch");
    for number in [1, 2] {
        let tasks = vec![u32::try_from(number - 1).unwrap()];
        let machines = vec![machines[0]];
        let placement = v1::Placement { job, job_version: 1, machines, tasks, ..v1::Placement::default() };
        let (base_revision, placements) = (bench.revision(), vec![placement]);
        let asked = v1::Transaction { session, number, base_revision, placements, ..v1::Transaction::default() };
        assert_eq!(bench.commit("batch", asked).unwrap().granted, 1);
        if number == 1 {
            let first = live(&bench)[0];
            bench.report(first, v1::AllocationState::Complete);
        }
    }
    (bench, machines)
}

// Only who still was elsewhere was looked at: what the first task had left on its machine was out of reach, and the second one passed.
#[test]
fn a_task_elsewhere_than_what_its_job_has_done_is_found() {
    let (bench, [first, second]) = shared();
    assert_eq!(broken(&bench.evidence), [""; 0]);
    let told = change_last(&bench, |delta| delta.grants[0].machines = vec![second]);
    let found = broken(&told);
    let sign = format!("share machine slot Some({first})");
    assert!(matches!(&found[..], [one] if one.contains(&sign)), "{found:?}");
}

#[test]
fn a_task_of_a_recurring_job_is_found() {
    let mut scene = Scene::new(|_| ());
    assert_eq!(scene.claim(0), None);
    let mut evidence = scene.bench.evidence.clone();
    change_all(&mut evidence, |delta| {
        for change in &mut delta.jobs {
            let Some(v1::job_change::Change::Put(put)) = &mut change.change else { continue };
            put.shape.as_mut().unwrap().kind = v1::JobKind::Recurring.into();
        }
    });
    let found = broken(&evidence);
    assert!(matches!(&found[..], [one] if one.contains("its job is recurring")), "{found:?}");
}

/// What is wrong with holds.
fn held(evidence: &Evidence) -> Vec<String> {
    property_holds_keep_their_order(&chronicle(evidence)).iter().map(ToString::to_string).collect()
}

/// Two jobs hold room on a machine of 6000 where 1000 are taken: one of a higher band first, and 2000 of 4000 last.
fn two_holds() -> Bench {
    let mut scene = Scene::new(|group| group.resources.as_mut().unwrap().cpu_millis = 1000);
    assert_eq!(scene.claim(0), None);
    let (machines, minute) = (vec![slot_of(scene.machine)], 60_000_000);
    for (name, priority, cpu_millis) in [("first", 50, 3000), ("last", 20, 2000)] {
        let job = JobBuilder::new(name, "gang").group("main", 2, 500).priority(priority).spec();
        let job = scene.bench.submit(job);
        assert!(scene.bench.hold(job, machines.clone(), (Resource::CpuMillis, cpu_millis), minute));
    }
    scene.bench
}

// Whether there was room to be held nobody asked, and what others were refused for it counted as taken.
#[test]
fn room_that_is_held_and_is_not_there_is_found() {
    let bench = two_holds();
    assert_eq!(held(&bench.evidence), [""; 0]);
    let with = |cpu_millis: i64| {
        held(&change_last(&bench, |delta| {
            delta.holds[0].resources.as_mut().unwrap().cpu_millis = cpu_millis;
        }))
    };
    assert_eq!(with(1000), [""; 0]);
    let (beside_the_first, beside_what_runs) = (with(2001), with(5001));
    for found in [beside_the_first, beside_what_runs] {
        assert!(matches!(&found[..], [one] if one.contains("m1 is short of CpuMillis")), "{found:?}");
    }
}

#[test]
fn room_that_comes_first_is_not_in_the_way_of_itself_nor_what_comes_later() {
    let mut bench = two_holds();
    let first = bench.core.cell().job_named("default", "first").unwrap().id.to_bits();
    assert!(bench.hold(first, vec![0], (Resource::CpuMillis, 5000), 60_000_000), "it takes from the last one");
    assert_eq!(held(&bench.evidence), [""; 0]);
}
