//! Steps that break what few allocations have: room that is taken over, devices, declared limits, victims. What must always hold finds each of them.

use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationState, AllocationStatus, Cell, Command, Decision, Delta, Device, FoundMachine, GrantExtra,
    GroupShape, JobId, MachineId, Move, Preemption, Resources, Revision, Rights, Spread, TakeOver, Transaction,
};

use super::costs::{Large, placement};
use crate::invariants::{
    Violation, invariant_declared_limits_hold, invariant_granted_devices_were_free,
    invariant_room_is_taken_over_from_those_who_leave, invariant_victims_make_room_for_their_betters,
};
use crate::{CoreOptions, Decided};

/// The cell as it is, and what changes when a job's task is granted on a machine with room for it.
fn before_grant(large: &mut Large, job: JobId, task: u32, machine: u32) -> (Cell, Delta) {
    let before = large.core.cell().clone();
    let placements = vec![placement(job, task..task + 1, |_| machine, 0)];
    let txn = Transaction { base: before.revision(), placements, ..Transaction::default() };
    let Decided::Changed { delta, .. } = large.decide_commit(txn) else { panic!("it is decided") };
    assert_eq!(delta.grants.len(), 1, "it is granted");
    (before, delta)
}

/// The allocation that this delta grants.
fn granted_by(delta: &Delta) -> AllocationId {
    AllocationId { slot: delta.grants[0].slots[0], generation: delta.grants[0].generations[0] }
}

/// The same grant on another machine.
fn on_machine(delta: &Delta, machine: u32) -> Delta {
    let mut delta = delta.clone();
    delta.grants[0].machines = vec![machine];
    delta
}

/// The same grant with these devices, in room of these who leave.
fn with_extra(delta: &Delta, devices: Vec<Device>, takes_over: Vec<TakeOver>) -> Delta {
    let mut delta = delta.clone();
    delta.grants[0].extras = vec![GrantExtra { claim: 0, devices, ports: Vec::new(), takes_over }];
    delta
}

fn folded(before: &Cell, delta: &Delta) -> Cell {
    let mut cell = before.clone();
    cell.apply(delta).expect("it folds");
    cell
}

fn broken(revision: Revision, machine: u32, allocation: AllocationId, rule: &'static str) -> Result<(), Violation> {
    Err(Violation::Special { revision, machine, allocation, rule })
}

fn gpu(index: u32, millis: u32) -> Device {
    Device { kind: "gpu".into(), index, millis, model: "m".into() }
}

fn of(victim: AllocationId, amount: Resources, devices: Vec<Device>) -> TakeOver {
    TakeOver { victim, amount, devices, ports: Vec::new() }
}

/// A machine where one task leaves, which has these resources and half of a device, and a second one that stays; and the grant of a third one there.
struct Leaving {
    before: Cell,
    granted: Delta,
    machine: u32,
    other: u32,
    leaves: AllocationId,
    stays: AllocationId,
}

fn leaving() -> Leaving {
    let mut large = Large::new(CoreOptions::default());
    let [machine, other] = ["m1", "m2"].map(|name| large.machine_with(name.to_owned(), vec![gpu(0, 1000)]).slot);
    let old = GroupShape { count: 2, resources: Resources::new(1000, 10), ..GroupShape::default() };
    let old = large.job_at(0, GroupShape { devices: vec![gpu(0, 500)], ..old });
    let ids = large.commit(vec![placement(old, 0..2, |_| machine, 0)]).placements.concat();
    let [leaves, stays] = [0, 1].map(|task: usize| ids[task].expect("it was granted"));
    large.ask(Command::StopAllocation(leaves));
    let new = GroupShape { count: 2, resources: Resources::new(2000, 20), ..GroupShape::default() };
    let new = large.job_at(0, new);
    let (before, granted) = before_grant(&mut large, new, 0, machine);
    Leaving { before, granted, machine, other, leaves, stays }
}

// A fold finds it in a grant, and not where the victim stays after that.
#[test]
fn room_that_is_taken_over_from_one_that_does_not_leave_there_is_found() {
    let Leaving { before, granted, machine, other, leaves, stays } = leaving();
    let successor = granted_by(&granted);
    let taken = |on: u32, victim| {
        let delta = with_extra(&on_machine(&granted, on), Vec::new(), vec![of(victim, Resources::new(1, 1), vec![])]);
        let mut cell = before.clone();
        cell.apply(&delta).is_ok().then_some(cell)
    };
    let later = AllocationId { generation: leaves.generation + 1, ..leaves };
    for (on, victim) in [(machine, stays), (other, leaves), (machine, later)] {
        assert!(taken(on, victim).is_none(), "{victim} does not leave machine {on}, and it folds");
    }
    let sound = taken(machine, leaves).expect("it folds");
    assert_eq!(invariant_room_is_taken_over_from_those_who_leave(&sound), Ok(()));
    let next = Delta::new(sound.revision().next(), sound.time());
    let status = AllocationStatus { state: AllocationState::Running, ready: false };
    let stay = Move { slot: leaves.slot, status, restarts: 0, reason: None };
    let revived = folded(&sound, &Delta { moves: vec![stay], ..next });
    let found = broken(revived.revision(), machine, successor, "takes over from one that is not leaving there");
    assert_eq!(invariant_room_is_taken_over_from_those_who_leave(&revived), found);
}

#[test]
fn more_room_than_a_victim_has_is_found_of_one_successor_and_of_several() {
    let Leaving { before, granted, machine, leaves, .. } = leaving();
    let found = |entries: &[(u64, u64)]| {
        let takes_over = entries.iter().map(|&(cpu, memory)| of(leaves, Resources::new(cpu, memory), vec![]));
        let delta = with_extra(&granted, Vec::new(), takes_over.collect());
        invariant_room_is_taken_over_from_those_who_leave(&folded(&before, &delta))
    };
    let too_much = broken(granted.revision, machine, leaves, "more room is taken over from it than it has");
    assert_eq!(found(&[(1000, 10)]), Ok(()), "all that it has");
    assert_eq!(found(&[(1001, 10)]), too_much);
    assert_eq!(found(&[(1000, 11)]), too_much);
    assert_eq!(found(&[(500, 5), (500, 5)]), Ok(()));
    assert_eq!(found(&[(500, 5), (501, 5)]), too_much, "together they take more");
}

// The devices that the victim had were gone over: one that was taken over from somebody who had none of it was found by nobody, and counted as free.
#[test]
fn a_device_that_a_victim_has_nothing_of_is_found() {
    let Leaving { before, granted, machine, leaves, .. } = leaving();
    let found = |devices: Vec<Device>| {
        let takes_over = vec![of(leaves, Resources::default(), devices)];
        invariant_room_is_taken_over_from_those_who_leave(&folded(&before, &with_extra(&granted, vec![], takes_over)))
    };
    let too_much = broken(granted.revision, machine, leaves, "more of a device is taken over from it than it has");
    assert_eq!(found(vec![gpu(1, 1)]), too_much);
    assert_eq!(found(vec![Device { kind: "tpu".into(), ..gpu(0, 1) }]), too_much);
    assert_eq!(found(vec![gpu(0, 500), gpu(1, 1)]), too_much, "beside one that it has");
}

#[test]
fn more_of_a_device_than_a_victim_has_is_found_of_one_successor_and_of_several() {
    let Leaving { before, granted, machine, leaves, .. } = leaving();
    let found = |parts: &[u32]| {
        let takes_over = parts.iter().map(|&millis| of(leaves, Resources::default(), vec![gpu(0, millis)]));
        let delta = with_extra(&granted, vec![gpu(0, parts.iter().sum())], takes_over.collect());
        invariant_room_is_taken_over_from_those_who_leave(&folded(&before, &delta))
    };
    let too_much = broken(granted.revision, machine, leaves, "more of a device is taken over from it than it has");
    assert_eq!(found(&[500]), Ok(()), "all that it has");
    assert_eq!(found(&[501]), too_much);
    assert_eq!(found(&[250, 250]), Ok(()));
    assert_eq!(found(&[250, 251]), too_much, "together they take more");
}

// What a successor that has to leave itself still waits for is the first victim's to give.
#[test]
fn what_a_victim_waits_for_itself_is_not_its_to_give() {
    let Leaving { before, granted, machine, leaves, .. } = leaving();
    let (middle, all) = (granted_by(&granted), Resources::new(2000, 20));
    let waits = with_extra(&granted, vec![gpu(0, 500)], vec![of(leaves, Resources::new(1000, 10), vec![gpu(0, 500)])]);
    let status = AllocationStatus { state: AllocationState::Stopping, ready: false };
    let mut before = folded(&before, &waits);
    let next = Delta::new(before.revision().next(), before.time());
    let leave = Move { slot: middle.slot, status, restarts: 0, reason: None };
    before.apply(&Delta { moves: vec![leave], ..next }).expect("it folds");
    let found = |amount: Resources, devices: Vec<Device>| {
        let mut last = with_extra(&granted, devices.clone(), vec![of(middle, amount, devices)]);
        last.revision = before.revision().next();
        let grants = &mut last.grants[0];
        (grants.tasks, grants.slots) = (vec![1], vec![middle.slot + 1]);
        invariant_room_is_taken_over_from_those_who_leave(&folded(&before, &last))
    };
    let revision = before.revision().next();
    assert_eq!(found(Resources::new(1000, 10), vec![]), Ok(()), "what it did not wait for");
    assert_eq!(found(all, vec![]), broken(revision, machine, middle, "more room is taken over from it than it has"));
    let too_much = broken(revision, machine, middle, "more of a device is taken over from it than it has");
    assert_eq!(found(Resources::default(), vec![gpu(0, 1)]), too_much, "it waits for all that it has of it");
}

#[test]
fn a_grant_of_more_of_a_device_than_was_free_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine_with("m1".to_owned(), vec![gpu(0, 1000), gpu(1, 1000)]).slot;
    let job = large.job(GroupShape { count: 2, devices: vec![gpu(0, 600)], ..GroupShape::default() });
    let first = large.commit(vec![placement(job, 0..1, |_| machine, 0)]);
    assert_eq!(first.granted(), 1);
    let (before, granted) = before_grant(&mut large, job, 1, machine);
    let found = |devices: Vec<Device>| {
        let delta = with_extra(&granted, devices, Vec::new());
        invariant_granted_devices_were_free(&folded(&before, &delta), &delta)
    };
    let too_much = broken(granted.revision, machine, granted_by(&granted), "got more of a device than was free");
    assert_eq!(found(vec![gpu(0, 400), gpu(1, 1000)]), Ok(()), "all that is free");
    assert_eq!(found(vec![gpu(0, 401)]), too_much);
    assert_eq!(found(vec![gpu(1, 1000), gpu(0, 401)]), too_much, "it is not the first of its devices");
    assert_eq!(found(vec![gpu(1, 600), gpu(1, 401)]), too_much, "it has one device twice");
    assert_eq!(found(vec![gpu(2, 1)]), too_much, "the machine has no such device");
    let fpga = Device { kind: "fpga".into(), ..gpu(0, 1) };
    assert_eq!(found(vec![fpga]), too_much, "the machine has none of that kind");
}

#[test]
fn a_grant_beyond_what_a_group_wants_on_a_machine_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let [first, second] = ["m1", "m2"].map(|name| large.machine(name.to_owned()).slot);
    for (per_machine, fits) in [(0, true), (1, false), (2, true)] {
        let job = large.job(GroupShape { count: 2, per_machine, ..GroupShape::default() });
        large.commit(vec![placement(job, 0..1, |_| first, 0)]);
        let (before, granted) = before_grant(&mut large, job, 1, second);
        let found = |machine| {
            let delta = on_machine(&granted, machine);
            invariant_declared_limits_hold(&folded(&before, &delta), &delta)
        };
        assert_eq!(found(second), Ok(()));
        let rule = "is one more on its machine than its group wants";
        let too_many = broken(granted.revision, first, granted_by(&granted), rule);
        assert_eq!(found(first), if fits { Ok(()) } else { too_many }, "at most {per_machine}");
    }
}

/// A machine in this rack, or in none.
fn machine_in(large: &mut Large, name: &str, rack: Option<&str>) -> MachineId {
    let command = Command::RegisterMachine(FoundMachine {
        name: name.into(),
        boot_id: "boot".into(),
        capacity: Resources::new(1000, 1000),
        attributes: Arc::new(rack.into_iter().map(|rack| ("rack".into(), rack.into())).collect()),
        seen: large.core.cell().revision(),
        ..FoundMachine::default()
    });
    let Decision::Accepted { id, .. } = large.ask(command) else { panic!("registering is accepted") };
    MachineId::from_bits(id).expect("an id")
}

#[test]
fn a_grant_beyond_what_a_group_wants_with_one_value_of_an_attribute_is_found() {
    let mut large = Large::new(CoreOptions::default());
    let racks = [("m1", Some("r1")), ("m2", Some("r1")), ("m3", Some("r2")), ("m4", None)];
    let [first, beside, elsewhere, nowhere] = racks.map(|(name, rack)| machine_in(&mut large, name, rack).slot);
    let spread = vec![Spread { attribute: "rack".into(), at_most: 1 }];
    let job = large.job(GroupShape { count: 2, spread, ..GroupShape::default() });
    large.commit(vec![placement(job, 0..1, |_| first, 0)]);
    let (before, granted) = before_grant(&mut large, job, 1, elsewhere);
    let found = |machine| {
        let delta = on_machine(&granted, machine);
        invariant_declared_limits_hold(&folded(&before, &delta), &delta)
    };
    let rule = "is one more with that value than its group wants";
    let too_many = |machine| broken(granted.revision, machine, granted_by(&granted), rule);
    assert_eq!(found(elsewhere), Ok(()));
    assert_eq!(found(first), too_many(first));
    assert_eq!(found(beside), too_many(beside), "another machine of that rack");
    assert_eq!(found(nowhere), too_many(nowhere), "a machine that has no rack");
}

/// A step in which a task of a high band evicts one of a low band: the cell before, what changes, who goes, and a job of the victim's own band.
fn eviction() -> (Large, Cell, Delta, AllocationId, JobId) {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned()).slot;
    let (most, count) = (Resources::new(600_000, 1), 1);
    let [low, peer, high] = [10, 19, 20]
        .map(|priority| large.job_at(priority, GroupShape { count, resources: most, ..GroupShape::default() }));
    let ids = large.commit(vec![placement(low, 0..1, |_| machine, 0)]).placements.concat();
    let victim = ids[0].expect("it was granted");
    let before = large.core.cell().clone();
    let mut claim = placement(high, 0..1, |_| machine, 0);
    claim.preemptions = vec![Preemption { machine, victim }];
    let txn = Transaction { base: before.revision(), placements: vec![claim], ..Transaction::default() };
    let Decided::Changed { delta, .. } = large.decide_commit(txn) else { panic!("it is decided") };
    assert_eq!((delta.grants.len(), delta.moves.len()), (1, 1), "it is granted, and evicts");
    (large, before, delta, victim, peer)
}

fn judged(before: &Cell, delta: &Delta) -> Result<(), Violation> {
    invariant_victims_make_room_for_their_betters(before, &folded(before, delta), delta)
}

#[test]
fn a_victim_that_makes_room_for_nobody_or_for_one_of_its_own_band_is_found() {
    let (_, before, evicted, victim, peer) = eviction();
    let machine = evicted.grants[0].machines[0];
    let found = |rule| broken(evicted.revision, machine, victim, rule);
    assert_eq!(judged(&before, &evicted), Ok(()));
    let mut alone = evicted.clone();
    alone.grants.clear();
    assert_eq!(judged(&before, &alone), found("is evicted for nobody"));
    // Somebody is granted, in other room.
    let elsewhere = with_extra(&evicted, Vec::new(), Vec::new());
    assert_eq!(judged(&before, &elsewhere), found("is evicted for nobody"));
    let mut for_a_peer = evicted.clone();
    let group_base = before.job(peer).expect("it was submitted").group_base;
    (for_a_peer.grants[0].job, for_a_peer.grants[0].group_row) = (peer, group_base);
    assert_eq!(judged(&before, &for_a_peer), found("is evicted for one that is not of a higher band"));
    // One that stops makes room for whomever.
    let mut stopped = for_a_peer;
    stopped.moves[0].status.state = AllocationState::Stopping;
    assert_eq!(judged(&before, &stopped), Ok(()));
}

#[test]
fn a_victim_of_a_scheduler_that_may_not_evict_is_found() {
    let (_, mut before, evicted, victim, _) = eviction();
    let rights = vec![("batch".into(), Rights { evicts: false, ..Rights::default() })];
    let next = Delta::new(before.revision().next(), before.time());
    before.apply(&Delta { rights, ..next }).expect("it folds");
    let evicted = Delta { revision: before.revision().next(), ..evicted };
    let machine = evicted.grants[0].machines[0];
    let found = broken(evicted.revision, machine, victim, "is evicted by a scheduler that may not evict");
    assert_eq!(judged(&before, &evicted), found);
}

#[test]
fn a_victim_that_waits_for_a_victim_itself_is_found() {
    let (mut large, _, evicted, ..) = eviction();
    let (machine, middle) = (evicted.grants[0].machines[0], granted_by(&evicted));
    let highest = large.job_at(90, GroupShape { count: 1, ..GroupShape::default() });
    let (before, granted) = before_grant(&mut large, highest, 0, machine);
    let mut chained = with_extra(&granted, Vec::new(), vec![of(middle, Resources::default(), Vec::new())]);
    let status = AllocationStatus { state: AllocationState::Evicting, ready: false };
    chained.moves = vec![Move { slot: middle.slot, status, restarts: 0, reason: None }];
    let found = broken(chained.revision, machine, middle, "is evicted while it waits for a victim itself");
    assert_eq!(judged(&before, &chained), found);
}

// Of one that leaves already a report may tell its restarts, and that is no eviction.
#[test]
fn a_victim_that_leaves_already_is_judged_once() {
    let (large, _, evicted, ..) = eviction();
    let before = large.core.cell().clone();
    let next = Delta::new(before.revision().next(), before.time());
    let again = Move { restarts: 1, ..evicted.moves[0].clone() };
    assert_eq!(judged(&before, &Delta { moves: vec![again], ..next }), Ok(()));
}
