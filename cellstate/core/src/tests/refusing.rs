//! What refused claims cost: one small transaction must not keep all others waiting.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_model::{
    AllocationId, Command, ConflictCheck, Decision, Device, FoundMachine, GroupShape, JobId, MachineId, Outcome, Port,
    Preemption, RefusalKind, RefusalReason, Resource, Resources, Revision, Spread, Transaction,
};

use super::costs::{Large, placement};
use crate::CoreOptions;
use crate::blame::newcomers::{LOOKED_AT_MAX, RETAGGED_MAX};

/// As much as a machine has.
const ALL: Resources = Resources { cpu_millis: 1_000_000, memory_bytes: 1, ..Resources::new(0, 0) };

/// Tasks that are granted after the base, and claims that come too late for it.
const TASKS: u32 = 1000;

/// A core with one machine on which a thousand tasks were granted after the base.
struct Crowd {
    large: Large,
    machine: MachineId,
    base: Revision,
    granted: Outcome,
}

impl Crowd {
    fn new(group: GroupShape) -> Self {
        let mut large = Large::new(CoreOptions::default());
        let gpu = Device { kind: "gpu".into(), index: 0, millis: 1000, model: "".into() };
        let machine = large.machine_with("m1".to_owned(), vec![gpu]);
        let job = large.job_at(10, GroupShape { count: 2 * TASKS, resources: Resources::new(1, 1), ..group });
        let base = large.core.cell().revision();
        let granted = large.commit(vec![placement(job, 0..TASKS, |_| machine.slot, 0)]);
        assert_eq!(granted.granted(), TASKS as usize);
        large.core.derived.ring.walked.set(0);
        Self { large, machine, base, granted }
    }

    /// A thousand claims of this group on the old base.
    fn claim(&mut self, job: JobId) -> Outcome {
        let placements = vec![placement(job, 0..TASKS, |_| self.machine.slot, 0)];
        self.large.commit_on(Transaction { base: self.base, placements, ..Transaction::default() })
    }

    fn walked(&self) -> &Cell<usize> {
        &self.large.core.derived.ring.walked
    }
}

// Each refused claim went through all that had happened on its machine, and named everybody: a transaction of 100 KB kept all others
// waiting for 18 s.
#[test]
fn what_happened_on_a_machine_is_gone_through_once_for_all_claims_that_find_no_room() {
    let mut crowd = Crowd::new(GroupShape::default());
    let job = crowd.large.job_at(10, GroupShape { count: TASKS, resources: ALL, ..GroupShape::default() });
    let outcome = crowd.claim(job);
    assert_eq!(outcome.refusals.len(), TASKS as usize);
    for refusal in &outcome.refusals {
        assert_eq!((refusal.kind, refusal.reason), (RefusalKind::Conflict, RefusalReason::NoRoom));
        assert_eq!(refusal.short, Some((Resource::CpuMillis, TASKS.into())));
        assert_eq!((refusal.culprits.len(), refusal.culprits_total), (4, TASKS.into()));
        let slots = refusal.culprits.iter().map(|culprit| culprit.allocation);
        let newest = crowd.granted.placements[0].iter().rev().take(4).copied();
        assert!(slots.eq(newest), "newest first");
    }
    assert_eq!(crowd.walked().get(), TASKS as usize);
}

#[test]
fn what_happened_on_a_machine_is_gone_through_once_for_all_claims_that_find_no_device() {
    let gpu = |millis: u32| vec![Device { kind: "gpu".into(), index: 0, millis, model: "".into() }];
    let mut crowd = Crowd::new(GroupShape { devices: gpu(1), ..GroupShape::default() });
    let job = crowd.large.job(GroupShape { count: TASKS, devices: gpu(1000), ..GroupShape::default() });
    let outcome = crowd.claim(job);
    assert_eq!(outcome.refusals.len(), TASKS as usize);
    for refusal in &outcome.refusals {
        assert_eq!((refusal.kind, refusal.reason), (RefusalKind::Conflict, RefusalReason::DeviceTaken));
        assert_eq!(refusal.short_device, Some(("gpu".into(), 1000)));
        assert_eq!((refusal.culprits.len(), refusal.culprits_total), (4, 1000));
    }
    assert_eq!(crowd.walked().get(), TASKS as usize);
}

#[test]
fn what_happened_on_a_machine_is_gone_through_once_for_all_claims_that_find_their_ports_taken() {
    let port = |number: u16| vec![Port { name: "http".into(), number }];
    let mut crowd = Crowd::new(GroupShape { ports: port(0), ..GroupShape::default() });
    let taken: Vec<u16> = crowd.granted.ports.iter().map(|granted| granted.ports[0].number).collect();
    let jobs: Vec<JobId> = taken[..10]
        .iter()
        .map(|&number| crowd.large.job(GroupShape { count: 100, ports: port(number), ..GroupShape::default() }))
        .collect();
    let on = |_: u32| crowd.machine.slot;
    let placements = jobs.iter().map(|&job| placement(job, 0..100, on, 0)).collect();
    let outcome = crowd.large.commit_on(Transaction { base: crowd.base, placements, ..Transaction::default() });
    assert_eq!(outcome.refusals.len(), TASKS as usize);
    for refusal in &outcome.refusals {
        let (placement, _) = refusal.claim.expect("it is about a claim");
        assert_eq!((refusal.kind, refusal.port), (RefusalKind::Conflict, Some(taken[placement as usize])));
        let [culprit] = &refusal.culprits[..] else { panic!("one has the port") };
        assert_eq!(culprit.allocation, crowd.granted.placements[0][placement as usize]);
    }
    assert_eq!(crowd.walked().get(), TASKS as usize);
}

// Each claim that checks for any change went through all own ones.
#[test]
fn own_changes_of_a_machine_are_gone_through_once_for_all_claims_that_check_for_others() {
    let mut crowd = Crowd::new(GroupShape::default());
    let job = crowd.large.job(GroupShape { count: TASKS, ..GroupShape::default() });
    let placements = vec![placement(job, 0..TASKS, |_| crowd.machine.slot, 0)];
    let txn = Transaction { base: crowd.base, placements, check: ConflictCheck::Sequence, ..Transaction::default() };
    assert_eq!(crowd.large.commit_on(txn).granted(), TASKS as usize);
    assert_eq!(crowd.walked().get(), TASKS as usize);
}

// What is stopped with the transaction itself, and whom a claim names, differs from claim to claim: only what happened before is shared.
#[test]
fn claims_on_one_machine_share_what_happened_there_and_not_what_they_ask_for() {
    let mut crowd = Crowd::new(GroupShape::default());
    let half = Resources::new(500_000, 1);
    let large = crowd.large.job_at(10, GroupShape { count: 10, resources: ALL, ..GroupShape::default() });
    let halves = crowd.large.job_at(10, GroupShape { count: 10, resources: half, ..GroupShape::default() });
    let on = |_: u32| crowd.machine.slot;
    let placements = vec![placement(large, 0..1, on, 0), placement(halves, 0..3, on, 0), placement(large, 1..2, on, 0)];
    let outcome = crowd.large.commit_on(Transaction { base: crowd.base, placements, ..Transaction::default() });
    let facts =
        outcome.refusals.iter().map(|refusal| (refusal.claim, refusal.kind, refusal.short, refusal.culprits_total));
    let cpu = |by| Some((Resource::CpuMillis, by));
    assert_eq!(
        facts.collect::<Vec<_>>(),
        [
            (Some((0, 0)), RefusalKind::Conflict, cpu(1000), 1000),
            // The first of its halves was granted, the second one lost the race, and so did the third.
            (Some((1, 1)), RefusalKind::Conflict, cpu(1000), 1000),
            (Some((1, 2)), RefusalKind::Conflict, cpu(1000), 1000),
            (Some((2, 0)), RefusalKind::Misfit, cpu(501_000), 0),
        ]
    );
}

// For each victim of each claim, all tenants of its machine were looked at.
#[test]
fn victims_that_are_not_enough_are_as_short_for_each_claim() {
    let ports = vec![Port { name: "http".into(), number: 0 }];
    let mut crowd = Crowd::new(GroupShape { ports, ..GroupShape::default() });
    let resources = Resources::new(ALL.cpu_millis, 2);
    let job = crowd.large.job_at(50, GroupShape { count: TASKS, resources, ..GroupShape::default() });
    let victims = crowd.granted.placements[0].iter().flatten().take(64);
    let machine = crowd.machine.slot;
    let preemptions = victims.map(|&victim| Preemption { machine, victim }).collect();
    let claims = plenum_model::Placement { preemptions, ..placement(job, 0..TASKS, |_| machine, 0) };
    let outcome = crowd.large.commit(vec![claims]);
    assert_eq!(outcome.refusals.len(), TASKS as usize);
    // The victims have 64 of it.
    let short = u64::from(TASKS) - 64;
    assert!(outcome.refusals.iter().all(|refusal| refusal.short == Some((Resource::CpuMillis, short))));
}

// For each claim, each port from a hint on was looked for among all that the claims before it had got: 16,384 claims on one machine, of
// which 12,000 get a port, took a minute.
#[test]
fn claims_of_ports_on_one_machine_cost_as_much_for_the_last_as_for_the_first() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned()).slot;
    let ports = vec![Port { name: "http".into(), number: 0 }];
    let job = large.job(GroupShape { count: 16_384, ports, ..GroupShape::default() });
    let outcome = large.commit(vec![placement(job, 0..16_384, |_| machine, 0)]);
    assert_eq!((outcome.granted(), outcome.refusals.len()), (12_000, 4384));
    assert!(
        outcome.refusals.iter().all(|refusal| refusal.reason == RefusalReason::PortTaken && refusal.port == Some(0))
    );
    let numbers: BTreeSet<u16> = outcome.ports.iter().map(|granted| granted.ports[0].number).collect();
    assert_eq!(numbers.len(), 12_000, "each its own");
}

// For each claim of a part of a device, the parts of all claims before it were gone through.
#[test]
fn claims_of_parts_of_devices_share_them_until_they_are_used_up() {
    let gpu = |index: u32, millis: u32| Device { kind: "gpu".into(), index, millis, model: "".into() };
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine_with("m1".to_owned(), vec![gpu(0, 1000), gpu(1, 1000)]).slot;
    let job = large.job(GroupShape { count: 3000, devices: vec![gpu(0, 1)], ..GroupShape::default() });
    let outcome = large.commit(vec![placement(job, 0..3000, |_| machine, 0)]);
    assert_eq!((outcome.granted(), outcome.refusals.len()), (2000, 1000));
    // What a minimum takes back can be promised again.
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine_with("m1".to_owned(), vec![gpu(0, 1000)]).slot;
    let [one, other] =
        [(); 2].map(|()| large.job(GroupShape { count: 3000, devices: vec![gpu(0, 1)], ..GroupShape::default() }));
    let on = |_: u32| machine;
    let placements =
        vec![placement(one, 0..300, on, 0), placement(other, 0..800, on, 800), placement(one, 300..1001, on, 0)];
    let outcome = large.commit(placements);
    let granted = outcome.placements.iter().map(|ids| ids.iter().flatten().count());
    assert_eq!(granted.collect::<Vec<_>>(), [300, 0, 700]);
}

// What victims could give of devices was tried one victim after the other for each claim: 4,000 claims of 64 devices with 64 victims took
// half a minute.
#[test]
fn what_stood_in_the_way_of_one_claim_is_not_looked_for_again_until_something_is_granted_there() {
    let gpu = |millis: u32| Device { kind: "gpu".into(), index: 0, millis, model: "".into() };
    let mut large = Large::new(CoreOptions::default());
    let machine =
        large.machine_with("m1".to_owned(), (0..64).map(|index| Device { index, ..gpu(1000) }).collect()).slot;
    let one = Resources::new(1, 1);
    let job = |large: &mut Large, priority: u8, count: u32, devices: Vec<Device>| {
        large.job_at(priority, GroupShape { count, resources: one, devices, ..GroupShape::default() })
    };
    let low = job(&mut large, 10, 64, vec![gpu(500)]);
    let high = job(&mut large, 50, 1600, vec![gpu(1000); 64]);
    let part = job(&mut large, 50, 100, vec![gpu(1)]);
    let on = |_: u32| machine;
    let granted = large.commit(vec![placement(low, 0..64, on, 0), placement(part, 0..1, on, 0)]);
    let victims: Vec<_> =
        granted.placements[0].iter().flatten().map(|&victim| Preemption { machine, victim }).collect();
    // A thousandth is in the way, of somebody who is not to be evicted; whoever asks for less gets it in between.
    let claims = |job, tasks, preemptions: &[Preemption]| {
        let preemptions = preemptions.to_vec();
        plenum_model::Placement { preemptions, ..placement(job, tasks, on, 0) }
    };
    let placements = vec![claims(high, 0..800, &victims), claims(part, 1..3, &[]), claims(high, 800..1600, &victims)];
    let outcome = large.commit(placements);
    assert_eq!((outcome.granted(), outcome.refusals.len()), (2, 1600));
    assert!(outcome.refusals.iter().all(|refusal| refusal.reason == RefusalReason::DeviceTaken));
}

#[test]
fn who_is_granted_something_on_a_machine_stands_in_the_way_of_the_next_claim_there() {
    let gpu = Device { kind: "gpu".into(), index: 0, millis: 600, model: "".into() };
    let mut large = Large::new(CoreOptions::default());
    let [full, empty] =
        ["m1", "m2"].map(|name| large.machine_with(name.to_owned(), vec![Device { millis: 1000, ..gpu.clone() }]).slot);
    let job = large.job(GroupShape { count: 10, devices: vec![gpu], ..GroupShape::default() });
    large.commit(vec![placement(job, 0..1, |_| full, 0)]);
    let on = |task: u32| if task.is_multiple_of(2) { empty } else { full };
    let outcome = large.commit(vec![placement(job, 1..6, on, 0)]);
    let granted = outcome.placements[0].iter().map(Option::is_some);
    assert_eq!(granted.collect::<Vec<_>>(), [false, true, false, false, false]);
    let reasons = outcome.refusals.iter().map(|refusal| (refusal.machine, refusal.reason));
    let taken = RefusalReason::DeviceTaken;
    assert_eq!(reasons.collect::<Vec<_>>(), [(full, taken), (full, taken), (empty, taken), (full, taken)]);
}

/// A machine that registers, perhaps again, with these attributes, which all have one value.
fn tagged(large: &mut Large, name: &str, attributes: impl Iterator<Item = String>) -> u32 {
    let command = Command::RegisterMachine(FoundMachine {
        name: name.into(),
        boot_id: "boot".into(),
        capacity: Resources::new(1_000_000, 1 << 40),
        attributes: Arc::new(attributes.map(|name| (name.into(), "x".into())).collect()),
        seen: large.core.cell().revision(),
        ..FoundMachine::default()
    });
    let Decision::Accepted { id, .. } = large.ask(command) else { panic!("registering is accepted") };
    MachineId::from_bits(id).expect("an id").slot
}

// Each attribute that a machine ever had was remembered until the machine was removed.
#[test]
fn changes_of_attributes_are_forgotten_beyond_a_bound_and_who_asks_about_them_is_stale() {
    const NAMES: usize = 256;
    let mut large = Large::new(CoreOptions::default());
    let machine = tagged(&mut large, "m1", std::iter::once("rack".to_owned()));
    let spread = vec![Spread { attribute: "rack".into(), at_most: 1 }];
    let job = large.job(GroupShape { count: 2, spread, ..GroupShape::default() });
    large.commit(vec![placement(job, 0..1, |_| machine, 0)]);
    let base = large.core.cell().revision();
    let kind = |large: &mut Large, base: Revision| {
        let placements = vec![placement(job, 1..2, |_| machine, 0)];
        let outcome = large.commit_on(Transaction { base, placements, ..Transaction::default() });
        assert_eq!(outcome.refusals[0].reason, RefusalReason::SpreadLimit);
        outcome.refusals[0].kind
    };
    assert_eq!(kind(&mut large, base), RefusalKind::Misfit);
    for round in 0..RETAGGED_MAX / NAMES {
        tagged(&mut large, "m2", (0..NAMES).map(|name| format!("{name} of {round}")));
    }
    assert_eq!(large.core.derived.retagged.len(), RETAGGED_MAX);
    assert_eq!(kind(&mut large, base), RefusalKind::Stale);
    let now = large.core.cell().revision();
    assert_eq!(kind(&mut large, now), RefusalKind::Misfit);
}

/// More tasks than are looked at for one transaction.
const MANY: u32 = 16_385;
const _: () = assert!(MANY as usize == LOOKED_AT_MAX + 1);

/// A claim for the second task of a group on a machine, and what it is told: it is refused over a limit.
fn told(large: &mut Large, job: JobId, machine: u32, base: Revision) -> (RefusalKind, Option<AllocationId>) {
    let placements = vec![placement(job, 1..2, |_| machine, 0)];
    let mut outcome = large.commit_on(Transaction { base, placements, ..Transaction::default() });
    let refusal = outcome.refusals.pop().expect("it is refused");
    assert!(matches!(refusal.reason, RefusalReason::SpreadLimit | RefusalReason::PerMachineLimit));
    assert!(large.core.derived.newcomers.borrow().walked <= LOOKED_AT_MAX);
    (refusal.kind, refusal.culprits.first().and_then(|culprit| culprit.allocation))
}

// Each transaction with such a refusal walked all tasks of its group: 23 ms where they are a million.
#[test]
fn who_came_last_of_a_large_group_is_found_among_what_happened_since_the_base() {
    for limits in ["machine", "rack"] {
        let mut large = Large::new(CoreOptions::default());
        let [machine, other] = ["m1", "m2"].map(|name| tagged(&mut large, name, std::iter::once("rack".to_owned())));
        let spread = vec![Spread { attribute: "rack".into(), at_most: 1 }];
        let group = match limits {
            "machine" => GroupShape { per_machine: 1, ..GroupShape::default() },
            _ => GroupShape { spread, ..GroupShape::default() },
        };
        let job = large.job(GroupShape { count: MANY, ..group });
        let base = large.core.cell().revision();
        let first = large.commit(vec![placement(job, 0..1, |_| machine, 0)]).placements[0][0];
        let granted = large.core.cell().revision();
        assert_eq!(told(&mut large, job, machine, base), (RefusalKind::Conflict, first));
        assert_eq!(told(&mut large, job, machine, granted), (RefusalKind::Misfit, None));
        // What another group was granted since is nobody's fault.
        let beside = large.job(GroupShape { count: MANY, ..GroupShape::default() });
        large.commit(vec![placement(beside, 0..1, |_| machine, 0)]);
        assert_eq!(told(&mut large, job, machine, granted), (RefusalKind::Misfit, None));
        // Whether the machine that came to the rack brought some of so many tasks takes too long to find out.
        tagged(&mut large, "m2", ["zone"].map(str::to_owned).into_iter());
        tagged(&mut large, "m2", ["zone", "rack"].map(str::to_owned).into_iter());
        let (kind, _) = told(&mut large, job, machine, granted);
        assert_eq!(kind, if limits == "rack" { RefusalKind::Stale } else { RefusalKind::Misfit });
        if limits == "rack" {
            assert_eq!(told(&mut large, job, other, granted), (RefusalKind::Conflict, None));
        }
        let now = large.core.cell().revision();
        assert_eq!(told(&mut large, job, machine, now), (RefusalKind::Misfit, None));
        assert_eq!(large.core.derived.newcomers.borrow().walked, 0);
    }
}

#[test]
fn who_came_behind_more_changes_than_are_looked_at_is_found_only_in_a_small_group() {
    let mut large = Large::new(CoreOptions::default());
    let [machine, other] = ["m1", "m2"].map(|name| large.machine(name.to_owned()).slot);
    let spread = vec![Spread { attribute: "rack".into(), at_most: 1 }];
    let [few, many] =
        [2, MANY].map(|count| large.job(GroupShape { count, spread: spread.clone(), ..GroupShape::default() }));
    let base = large.core.cell().revision();
    let first = large.commit(vec![placement(few, 0..1, |_| machine, 0)]).placements[0][0];
    large.commit(vec![placement(many, 0..1, |_| machine, 0)]);
    let crowd = large.job(GroupShape { count: MANY, ..GroupShape::default() });
    large.commit(vec![placement(crowd, 0..MANY - 1, |_| other, 0)]);
    large.core.derived.ring.walked.set(0);
    assert_eq!(told(&mut large, few, machine, base), (RefusalKind::Conflict, first));
    assert_eq!(large.core.derived.newcomers.borrow().walked, 2);
    assert_eq!(told(&mut large, many, machine, base), (RefusalKind::Stale, None));
    assert_eq!(large.core.derived.newcomers.borrow().walked, 0);
    assert_eq!(large.core.derived.ring.walked.get(), 2 * LOOKED_AT_MAX);
}

// The tasks of as many groups as one transaction names were walked.
#[test]
fn one_transaction_walks_no_more_tasks_than_it_may_have_claims_however_many_groups_it_names() {
    let mut large = Large::new(CoreOptions::default());
    let machine = tagged(&mut large, "m1", std::iter::once("rack".to_owned()));
    let spread = vec![Spread { attribute: "rack".into(), at_most: 1 }];
    let count = MANY / 4;
    let jobs = [(); 6].map(|()| large.job(GroupShape { count, spread: spread.clone(), ..GroupShape::default() }));
    large.commit(jobs.map(|job| placement(job, 0..1, |_| machine, 0)).into());
    let base = large.core.cell().revision();
    tagged(&mut large, "m2", ["zone"].map(str::to_owned).into_iter());
    tagged(&mut large, "m2", ["zone", "rack"].map(str::to_owned).into_iter());
    let placements = jobs.map(|job| placement(job, 1..2, |_| machine, 0)).into();
    let outcome = large.commit_on(Transaction { base, placements, ..Transaction::default() });
    let kinds = outcome.refusals.iter().map(|refusal| refusal.kind);
    let (misfit, stale) = (RefusalKind::Misfit, RefusalKind::Stale);
    assert_eq!(kinds.collect::<Vec<_>>(), [misfit, misfit, misfit, misfit, stale, stale]);
    assert_eq!(large.core.derived.newcomers.borrow().walked, 4 * count as usize);
}
