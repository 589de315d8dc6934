//! Grants and refusals that say what is not so: runs of the core, changed on their way to the checker. Nothing in them contradicts itself;
//! only who looks at the rest of the history sees it.

use bytes::Bytes;
use plenum_checker::calls::{Asked, Reply};
use plenum_checker::chronicle::Segment;
use plenum_checker::picture::{Allocation, Picture, slot_of};
use plenum_checker::properties::{
    Decided, property_culprits_are_true, property_declared_rules_hold, property_minimums_hold,
    property_no_room_is_overcommitted, property_quotas_and_priorities_hold, property_used_is_the_sum,
};
use plenum_checker::stream::Event;
use plenum_checker::{Chronicle, Evidence, Violation};
use plenum_model::Resource;
use plenum_proto::v1;
use plenum_testkit::JobBuilder;
use prost::Message;

use crate::bench::{Bench, machine};
use crate::forged::{chronicle, run_of};
use crate::traffic::Traffic;

pub(crate) fn change_all(evidence: &mut Evidence, mut change: impl FnMut(&mut v1::Delta)) {
    evidence.recordings.truncate(1);
    for event in &mut evidence.recordings[0].events {
        let Event::Delta { bytes, delta } = event else { continue };
        change(delta);
        *bytes = Bytes::from(delta.encode_to_vec());
    }
}

/// The extras of the grant of an allocation, if it is in this delta.
fn extras_of(delta: &mut v1::Delta, allocation: u64) -> Option<&mut v1::GrantExtras> {
    let slot = slot_of(allocation);
    let generation = u32::try_from(allocation >> 32).unwrap();
    for grants in &mut delta.grants {
        let mut ids = grants.slots.iter().zip(&grants.generations);
        let Some(claim) = ids.position(|(&found, &of)| (found, of) == (slot, generation)) else { continue };
        let claim = u32::try_from(claim).unwrap();
        let at = grants.extras.partition_point(|extra| extra.claim < claim);
        if grants.extras.get(at).is_none_or(|extra| extra.claim != claim) {
            grants.extras.insert(at, v1::GrantExtras { claim, ..v1::GrantExtras::default() });
        }
        return grants.extras.get_mut(at);
    }
    None
}

/// A grant, and who leaves that machine and who stays there, all the while: with the revision.
fn grant_beside(chronicle: &Chronicle) -> (u64, Allocation, Allocation, Allocation) {
    let mut picture = chronicle.segments[0].start.clone();
    for delta in &chronicle.segments[0].deltas {
        let before = picture.clone();
        picture.fold(delta).unwrap();
        let granted = picture.allocations.values().filter(|found| found.created == delta.revision);
        for heir in granted.filter(|heir| heir.take_overs.is_empty()) {
            let others = || before.on_machine(heir.machine).filter(|found| picture.allocation(found.id).is_some());
            let (leaving, holder) = (others().find(|it| it.is_leaving()), others().find(|it| !it.is_leaving()));
            if let (Some(leaving), Some(holder)) = (leaving, holder) {
                return (delta.revision, heir.clone(), leaving.clone(), holder.clone());
            }
        }
    }
    panic!("nothing was granted beside somebody who leaves and somebody who stays");
}

#[test]
fn a_device_or_port_of_two_tasks_is_found_whatever_the_second_says_that_it_took_over() {
    let evidence = run_of(600);
    let (revision, heir, victim, holder) = grant_beside(&chronicle(&evidence));
    let fpga = || v1::Device { kind: "fpga".into(), index: 0, millis: 1000, model: String::new() };
    let port = || v1::Port { name: "http".into(), number: 81 };
    let shared = |devices: Vec<v1::Device>, ports: Vec<v1::Port>| {
        let mut evidence = evidence.clone();
        change_all(&mut evidence, |delta| {
            let here = delta.machines.iter_mut().filter(|row| slot_of(row.id) == heir.machine);
            here.for_each(|row| row.devices.push(fpga()));
            let numbers = ports.iter().map(|port| port.number).collect();
            let entry = v1::TakeOver { victim: victim.id, devices: devices.clone(), ports: numbers, amount: None };
            for allocation in [heir.id, holder.id] {
                let Some(extras) = extras_of(delta, allocation) else { continue };
                extras.devices.extend(devices.clone());
                extras.ports.extend(ports.clone());
                if allocation == heir.id {
                    extras.take_overs.push(entry.clone());
                }
            }
        });
        let mut found = property_no_room_is_overcommitted(&chronicle(&evidence));
        found.retain(|one| matches!(one, Violation::TakenOverOther { revision: at, .. } if *at == revision));
        found.len()
    };
    // The victim never had them.
    assert_eq!(shared(Vec::new(), Vec::new()), 0);
    assert_eq!(shared(vec![fpga()], Vec::new()), 1);
    assert_eq!(shared(Vec::new(), vec![port()]), 1);
}

#[test]
fn grants_without_the_devices_or_ports_that_their_group_declares_are_found() {
    let found = |sign: &str, change: fn(&mut v1::GrantExtras)| {
        let mut evidence = run_of(300);
        change_all(&mut evidence, |delta| {
            delta.grants.iter_mut().flat_map(|grants| &mut grants.extras).for_each(change);
        });
        let found = property_declared_rules_hold(&chronicle(&evidence));
        found.iter().filter(|one| one.to_string().contains(sign)).count()
    };
    assert_eq!(found("declares", |_| ()), 0);
    assert!(found("declares devices", |extra| extra.devices.clear()) > 0);
    assert!(found("declares devices", |extra| extra.devices.iter_mut().for_each(|device| device.millis -= 1)) > 0);
    assert!(found("declares ports", |extra| extra.ports.clear()) > 0);
    assert!(found("declares ports", |extra| extra.ports.iter_mut().for_each(|port| port.number += 1)) > 0);
}

/// `docs/job-files.md`: a machine without the attribute takes none.
#[test]
fn a_task_that_is_spread_by_an_attribute_that_its_machine_has_not_is_found() {
    let mut evidence = run_of(600);
    let first = chronicle(&evidence);
    let spread =
        |it: &&Allocation| first.group_at(it.job, it.group, it.created).is_some_and(|group| !group.spread.is_empty());
    let placed = first.allocations.values().map(|facts| &facts.granted).find(spread).unwrap().clone();
    change_all(&mut evidence, |delta| {
        let here = delta.machines.iter_mut().filter(|row| slot_of(row.id) == placed.machine);
        here.for_each(|row| drop(row.attributes.remove("rack")));
    });
    let found = property_declared_rules_hold(&chronicle(&evidence));
    let is_it = |one: &Violation| matches!(one, Violation::RuleBroken { allocation, what, .. } if *allocation == placed.id && what.contains("spread by"));
    assert!(found.iter().any(is_it), "{found:?}");
}

#[test]
fn a_refused_transaction_that_sets_a_quota_or_gives_a_hold_away_is_found() {
    let evidence = run_of(300);
    let refused =
        evidence.decided().find(|one| one.outcome.outcome() == v1::TransactionOutcome::Refused).unwrap().outcome;
    let revision = refused.revision;
    let with = |change: &dyn Fn(&mut v1::Delta)| {
        let mut evidence = evidence.clone();
        change_all(&mut evidence, |delta| {
            if delta.revision == revision {
                change(delta);
            }
        });
        let decided: Vec<_> = evidence.decided().collect();
        property_minimums_hold(&chronicle(&evidence), &decided).len()
    };
    let limit = || Some(v1::Quota { cpu_millis: Some(1 << 40), ..v1::Quota::default() });
    let quota = || v1::QuotaChange { namespace: "elsewhere".into(), limit: limit() };
    let hold = || v1::HoldChange { job: 1 << 32, removed: true, ..v1::HoldChange::default() };
    assert_eq!(with(&|_| ()), 0);
    assert_eq!(with(&|delta| delta.quotas.push(quota())), 1);
    assert_eq!(with(&|delta| delta.holds.push(hold())), 1);
}

/// Others that were granted something on that machine with the same revision are no excuse.
#[test]
fn a_victim_whose_room_nobody_of_a_higher_band_took_over_is_found() {
    let mut evidence = run_of(900);
    assert_eq!(property_quotas_and_priorities_hold(&chronicle(&evidence)), []);
    change_all(&mut evidence, |delta| {
        for extra in delta.grants.iter_mut().flat_map(|grants| &mut grants.extras) {
            extra.take_overs.clear();
        }
    });
    let found = property_quotas_and_priorities_hold(&chronicle(&evidence));
    let nobody = |one: &Violation| matches!(one, Violation::WrongVictim { what, .. } if what.contains("nobody"));
    assert!(found.iter().any(nobody), "{found:?}");
}

#[test]
fn devices_and_quotas_that_are_listed_with_other_sums_are_found() {
    let mut evidence = run_of(600);
    let chronicle = chronicle(&evidence);
    assert_eq!(property_used_is_the_sum(&chronicle, &evidence.listings), []);
    let all = evidence.listings.iter_mut().flat_map(|listing| &mut listing.machines);
    let used = all.flat_map(|machine| &mut machine.devices_used_millis).find(|used| **used > 0);
    *used.unwrap() -= 1;
    assert_eq!(property_used_is_the_sum(&chronicle, &evidence.listings).len(), 1);
    let all = evidence.listings.iter_mut().flat_map(|listing| &mut listing.quotas);
    let used = all.filter_map(|quota| quota.used.as_mut()).find(|used| used.cpu_millis > 0);
    used.unwrap().cpu_millis += 500;
    assert_eq!(property_used_is_the_sum(&chronicle, &evidence.listings).len(), 2);
}

/// Only those that were listed were looked at.
#[test]
fn a_quota_that_is_not_listed_is_found() {
    let mut evidence = run_of(600);
    let chronicle = chronicle(&evidence);
    let listing = evidence.listings.iter_mut().find(|listing| !listing.quotas.is_empty()).unwrap();
    listing.quotas.pop();
    listing.quotas_truncated = true;
    assert_eq!(property_used_is_the_sum(&chronicle, &evidence.listings), []);
    evidence.listings.iter_mut().for_each(|listing| listing.quotas_truncated = false);
    let found = property_used_is_the_sum(&chronicle, &evidence.listings);
    assert!(matches!(&found[..], [Violation::WrongSum { what, .. }] if what.contains("none is listed")), "{found:?}");
}

#[test]
fn a_machine_with_devices_that_is_listed_without_what_is_used_of_them_is_found() {
    let mut evidence = run_of(600);
    let chronicle = chronicle(&evidence);
    let mut all = evidence.listings.iter_mut().flat_map(|listing| &mut listing.machines);
    let machine = all.find(|machine| !machine.devices_used_millis.is_empty());
    machine.unwrap().devices_used_millis.clear();
    let found = property_used_is_the_sum(&chronicle, &evidence.listings);
    assert!(matches!(&found[..], [Violation::WrongSum { what, .. }] if what.contains("of its devices")), "{found:?}");
}

/// The first conflict that is wanted of a few runs, changed; and what is found then.
fn with_conflict(
    wanted: impl Fn(&Chronicle, &v1::Transaction, &v1::Outcome, &v1::Refusal) -> bool,
    change: impl Fn(&Chronicle, &v1::Transaction, u64, &mut v1::Refusal),
) -> Vec<String> {
    for seed in 0..12 {
        let mut traffic = Traffic::new(seed);
        traffic.run(900);
        let mut evidence = traffic.bench.evidence;
        let chronicle = chronicle(&evidence);
        for call in &mut evidence.calls {
            let (Asked::Transaction(asked), Reply::Outcome(outcome)) = (&call.asked, &mut call.reply) else { continue };
            let is_wanted = |refusal: &v1::Refusal| {
                let conflict = refusal.kind() == v1::RefusalKind::Conflict;
                conflict && asked.base_revision > 1 && !asked.dry_run && wanted(&chronicle, asked, outcome, refusal)
            };
            let Some(at) = outcome.refusals.iter().position(is_wanted) else { continue };
            let revision = outcome.revision;
            change(&chronicle, asked, revision, &mut outcome.refusals[at]);
            let decided: Vec<_> = evidence.decided().collect();
            return property_culprits_are_true(&chronicle, &decided).iter().map(ToString::to_string).collect();
        }
    }
    panic!("there is no such conflict");
}

fn is_about_room(refusal: &v1::Refusal) -> bool {
    refusal.reason() == v1::RefusalReason::NoRoom
}

/// A revision between the base and the decision at which something happened, and nothing to that machine.
fn elsewhere(chronicle: &Chronicle, base: u64, at: u64, machine: u32) -> Option<u64> {
    let has = |changes: Option<&std::collections::BTreeSet<u64>>, revision| {
        changes.is_some_and(|changes| changes.contains(&revision))
    };
    (base + 1..at).find(|revision| {
        let changed = has(chronicle.machine_changes.get(&machine), *revision);
        chronicle.effects.contains(revision) && !changed && !has(chronicle.held_changes.get(&machine), *revision)
    })
}

#[test]
fn an_event_elsewhere_that_is_blamed_for_room_that_somebody_took_is_found() {
    let wanted = |chronicle: &Chronicle, asked: &v1::Transaction, outcome: &v1::Outcome, refusal: &v1::Refusal| {
        let plain = asked.placements[refusal.placement as usize].alternates.is_empty();
        let revision = elsewhere(chronicle, asked.base_revision, outcome.revision, refusal.machine);
        is_about_room(refusal) && plain && revision.is_some()
    };
    let found = with_conflict(wanted, |chronicle, asked, at, refusal| {
        let revision = elsewhere(chronicle, asked.base_revision, at, refusal.machine).unwrap();
        let amount = refusal.short_by;
        refusal.culprits = vec![v1::Culprit { revision, event: "moon".into(), amount, ..v1::Culprit::default() }];
        refusal.culprits_total = amount;
    });
    // Who took it is left out, too.
    assert!(found.iter().any(|one| one.contains("called moon")), "{found:?}");
}

#[test]
fn somebody_without_a_device_or_port_who_is_blamed_for_it_is_found() {
    let has_none = |chronicle: &Chronicle, culprit: &v1::Culprit| {
        let facts = chronicle.allocations.get(&culprit.allocation);
        facts.is_some_and(|facts| facts.granted.ports.is_empty() && facts.granted.devices.is_empty())
    };
    let wanted = |chronicle: &Chronicle, _: &v1::Transaction, _: &v1::Outcome, refusal: &v1::Refusal| {
        is_about_room(refusal) && has_none(chronicle, &refusal.culprits[0])
    };
    for (reason, short_by) in [(v1::RefusalReason::PortTaken, 1), (v1::RefusalReason::DeviceTaken, 300)] {
        let found = with_conflict(wanted, |_, _, _, refusal| {
            refusal.culprits.truncate(1);
            refusal.set_reason(reason);
            (refusal.port, refusal.device, refusal.device_short_by_millis) = (80, "gpu".into(), 300);
            (refusal.culprits[0].amount, refusal.culprits_total) = (short_by, short_by);
        });
        assert!(matches!(&found[..], [one] if one.contains("of the 0 that it got")), "{reason:?}: {found:?}");
    }
}

#[test]
fn culprits_who_took_less_of_a_device_than_was_short_are_found() {
    let of_gpus = |chronicle: &Chronicle, culprit: &v1::Culprit| {
        let devices = chronicle.allocations.get(&culprit.allocation).map(|facts| &facts.granted.devices);
        devices.into_iter().flatten().map(|device| i64::from(device.millis)).sum::<i64>()
    };
    let wanted = |chronicle: &Chronicle, _: &v1::Transaction, _: &v1::Outcome, refusal: &v1::Refusal| {
        is_about_room(refusal) && of_gpus(chronicle, &refusal.culprits[0]) > 0
    };
    let found = |more: i64| {
        with_conflict(wanted, |chronicle, _, _, refusal| {
            refusal.culprits.truncate(1);
            refusal.set_reason(v1::RefusalReason::DeviceTaken);
            let took = of_gpus(chronicle, &refusal.culprits[0]);
            (refusal.device, refusal.device_short_by_millis) = ("gpu".into(), took + more);
            (refusal.culprits[0].amount, refusal.culprits_total) = (took, took);
        })
    };
    assert_eq!(found(0), [""; 0]);
    let found = found(1);
    assert!(matches!(&found[..], [one] if one.contains("its culprits took")), "{found:?}");
}

/// What is found of the culprits when the first one of the last outcome is told otherwise.
fn found_with_culprit(bench: &Bench, change: impl Fn(&mut v1::Culprit)) -> Vec<String> {
    let mut evidence = bench.evidence.clone();
    let Some(Reply::Outcome(outcome)) = evidence.calls.last_mut().map(|call| &mut call.reply) else {
        panic!("it was decided")
    };
    change(&mut outcome.refusals[0].culprits[0]);
    let decided: Vec<_> = evidence.decided().collect();
    let found = property_culprits_are_true(&chronicle(&evidence), &decided);
    found.iter().map(ToString::to_string).collect()
}

/// That somebody had held room there since the base was enough, also where nobody does any more.
#[test]
fn a_hold_that_is_over_and_is_blamed_for_room_is_found() {
    let mut bench = Bench::new();
    let machine = slot_of(bench.machine(machine("m1", 3000, &[])));
    let session = bench.session("batch");
    let job = bench.submit(JobBuilder::new("job", "batch").group("main", 2, 2000).spec());
    let gang = bench.submit(JobBuilder::new("gang", "batch").group("main", 1, 1000).spec());
    let base_revision = bench.revision();
    assert!(bench.hold(gang, vec![machine], (Resource::CpuMillis, 1000), 60_000_000));
    let held = bench.revision();
    assert!(bench.hold(gang, Vec::new(), (Resource::CpuMillis, 0), 60_000_000));
    for number in [1, 2] {
        let tasks = vec![u32::try_from(number - 1).unwrap()];
        let placement = v1::Placement { job, job_version: 1, machines: vec![machine], tasks, ..Default::default() };
        let placements = vec![placement];
        bench.commit("batch", v1::Transaction { session, number, base_revision, placements, ..Default::default() });
    }
    let found = |change: &dyn Fn(&mut v1::Culprit)| found_with_culprit(&bench, change);
    assert_eq!(found(&|_| ()), [""; 0]);
    let blamed = found(&|culprit| {
        let amount = culprit.amount;
        *culprit = v1::Culprit { revision: held, event: "hold".into(), amount, ..v1::Culprit::default() };
    });
    assert!(blamed.iter().any(|one| one.contains("any more that is called hold")), "{blamed:?}");
}

/// A guard that named what had made it fail was said to be no conflict, and to blame nobody.
#[test]
fn a_failed_guard_may_name_what_came_between_and_nothing_else() {
    let mut bench = Bench::new();
    let guarded = bench.machine(machine("m1", 3000, &[("rack", "r1")]));
    let session = bench.session("batch");
    let job = bench.submit(JobBuilder::new("job", "batch").group("main", 1, 1000).spec());
    let base_revision = bench.revision();
    bench.machine(machine("m1", 3000, &[("rack", "r2")]));
    let (attribute, value) = ("rack".to_owned(), "r1".to_owned());
    let fact = v1::guard::Fact::Attribute(v1::AttributeGuard { machine: guarded, attribute, value });
    let guards = vec![v1::Guard { fact: Some(fact) }];
    let machines = vec![slot_of(guarded)];
    let placements = vec![v1::Placement { job, job_version: 1, machines, tasks: vec![0], ..Default::default() }];
    let asked = v1::Transaction { session, number: 1, base_revision, guards, placements, ..Default::default() };
    let outcome = bench.commit("batch", asked).unwrap();
    let culprits: Vec<_> = outcome.refusals.iter().flat_map(|refusal| &refusal.culprits).collect();
    assert!(matches!(&culprits[..], [one] if one.event == "attributes"), "{culprits:?}");
    let found = |change: &dyn Fn(&mut v1::Culprit)| found_with_culprit(&bench, change);
    assert_eq!(found(&|_| ()), [""; 0]);
    let earlier = found(&|culprit| culprit.revision = base_revision);
    assert!(matches!(&earlier[..], [one] if one.contains("lies not between")), "{earlier:?}");
    let otherwise = found(&|culprit| culprit.event = "removed".into());
    assert!(matches!(&otherwise[..], [one] if one.contains("called removed")), "{otherwise:?}");
}

/// Whether something had been free at the base was looked at for room alone.
#[test]
fn a_port_that_was_free_at_the_base_and_is_called_a_misfit_is_found_and_so_is_the_other_way_round() {
    let mut bench = Bench::new();
    let machine = slot_of(bench.machine(machine("m1", 6000, &[])));
    let session = bench.session("batch");
    let mut spec = JobBuilder::new("ports", "batch").group("main", 3, 100).spec();
    spec.shape.as_mut().unwrap().groups[0].ports.push(v1::Port { name: "http".into(), number: 8080 });
    let job = bench.submit(spec);
    let early = bench.revision();
    let mut commit = |number: u64, base_revision: u64| {
        let tasks = vec![u32::try_from(number - 1).unwrap()];
        let placement = v1::Placement { job, job_version: 1, machines: vec![machine], tasks, ..Default::default() };
        let placements = vec![placement];
        let asked = v1::Transaction { session, number, base_revision, placements, ..Default::default() };
        bench.commit("batch", asked).unwrap()
    };
    assert_eq!(commit(1, early).granted, 1);
    let conflict = commit(2, early);
    let misfit = commit(3, conflict.revision);
    let told = |outcome: &v1::Outcome| (outcome.refusals[0].kind(), outcome.refusals[0].reason());
    assert_eq!(told(&conflict), (v1::RefusalKind::Conflict, v1::RefusalReason::PortTaken));
    assert_eq!(told(&misfit), (v1::RefusalKind::Misfit, v1::RefusalReason::PortTaken));
    let found = |number: u64, change: fn(&mut v1::Refusal)| {
        let mut evidence = bench.evidence.clone();
        for call in &mut evidence.calls {
            let Reply::Outcome(outcome) = &mut call.reply else { continue };
            if outcome.number == number {
                outcome.refusals.iter_mut().for_each(change);
            }
        }
        let decided: Vec<_> = evidence.decided().collect();
        let found = property_culprits_are_true(&chronicle(&evidence), &decided);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!([found(2, |_| ()), found(3, |_| ())].concat(), [""; 0]);
    let denied = found(2, |refusal| {
        refusal.set_kind(v1::RefusalKind::Misfit);
        (refusal.culprits, refusal.culprits_total) = (Vec::new(), 0);
    });
    assert!(matches!(&denied[..], [one] if one.contains("nobody had port 8080")), "{denied:?}");
    let made_up = found(3, |refusal| refusal.set_kind(v1::RefusalKind::Conflict));
    assert!(made_up.iter().any(|one| one.contains("had port 8080 at its base")), "{made_up:?}");
}

/// A transaction with so many claims on one machine that has no room, one a placement; each is short of all that the claims before it
/// asked for, too, so that none of them could be granted.
fn crowd(claims: u32) -> (Chronicle, v1::Transaction, v1::Outcome) {
    let resources = v1::Resources { cpu_millis: 1, ..v1::Resources::default() };
    let group = v1::GroupShape { resources: Some(resources), ..v1::GroupShape::default() };
    let shape = v1::JobShape { groups: vec![group], ..v1::JobShape::default() };
    let start = Picture { revision: 1, ..Picture::default() };
    let segment = Segment { start, deltas: vec![v1::Delta { revision: 2, ..v1::Delta::default() }] };
    let shapes = [(7, vec![(1, shape)])].into();
    let chronicle = Chronicle { segments: vec![segment], shapes, ..Chronicle::default() };
    let placement = v1::Placement { job: 7, machines: vec![3], ..v1::Placement::default() };
    let refusal = |number: u32| v1::Refusal {
        placement: number,
        machine: 3,
        job: 7,
        kind: v1::RefusalKind::Misfit.into(),
        reason: v1::RefusalReason::NoRoom.into(),
        resource: v1::ResourceName::CpuMillis.into(),
        short_by: i64::from(number) + 1,
        ..v1::Refusal::default()
    };
    let placements = (0..claims).map(|_| placement.clone()).collect();
    let asked = v1::Transaction { base_revision: 1, placements, ..v1::Transaction::default() };
    let refusals = (0..claims).rev().map(refusal).collect();
    (chronicle, asked, v1::Outcome { revision: 2, refusals, ..v1::Outcome::default() })
}

#[test]
fn each_of_a_crowd_of_refusals_is_judged_by_the_claims_before_it() {
    let (chronicle, asked, mut outcome) = crowd(20_000);
    let found = |outcome: &v1::Outcome| {
        property_culprits_are_true(&chronicle, &[Decided { asked: &asked, outcome, told_by: "a client" }])
    };
    assert_eq!(found(&outcome), []);
    outcome.refusals[5_000].short_by += 1;
    assert_eq!(found(&outcome).len(), 1);
}
