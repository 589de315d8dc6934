//! What agents send.

use plenum_model::{AllocationState, Command, FoundMachine, Unfit};
use plenum_proto::{machines, v1};

use super::cpu;

fn valid() -> v1::RegisterMachine {
    v1::RegisterMachine {
        name: "node-1.example".into(),
        boot_id: "b".into(),
        capacity: cpu(4000),
        attributes: [("kernel".to_owned(), "6.1".to_owned())].into(),
        ..v1::RegisterMachine::default()
    }
}

#[track_caller]
fn check(change: impl FnOnce(&mut v1::RegisterMachine), expected: &str) {
    let mut wire = valid();
    change(&mut wire);
    assert_eq!(machines::register(wire).unwrap_err().to_string(), expected);
}

#[track_caller]
fn check_transition(change: impl FnOnce(&mut v1::Transition), expected: &str) {
    let mut transition =
        v1::Transition { allocation: 1 << 32, state: v1::AllocationState::Running.into(), ..v1::Transition::default() };
    change(&mut transition);
    let report = v1::ReportRequest { machine: 1 << 32, epoch: 1, transitions: vec![transition], ..Default::default() };
    assert_eq!(machines::transitions(report).unwrap_err().to_string(), expected);
}

#[test]
fn a_machine_may_be_named_like_a_host() {
    let Command::RegisterMachine(FoundMachine { name, .. }) = machines::register(valid()).unwrap() else {
        panic!("no registration")
    };
    assert_eq!(&*name, "node-1.example");
    check(
        |wire| wire.name = "node/1".into(),
        r#"name: expected 1 to 63 bytes of a-z, 0-9, - and ., with a letter or a digit at both ends, found "node/1""#,
    );
}

#[test]
fn attributes_are_bounded() {
    check(
        |wire| wire.attributes = [("rack".to_owned(), "x".repeat(256))].into(),
        "attributes.rack: expected at most 255 bytes, found 256 bytes",
    );
    check(
        |wire| wire.attributes = (0..257).map(|number| (format!("a{number}"), String::new())).collect(),
        "attributes: expected at most 256 attributes, found 257",
    );
    check(
        |wire| wire.attributes = [("a/b".to_owned(), String::new())].into(),
        "attributes: expected 1 to 63 bytes of A-Z, a-z, 0-9, -, _ and ., beginning with a letter or a digit, \
         found \"a/b\"",
    );
}

#[test]
fn a_machine_says_what_it_has() {
    check(|wire| wire.capacity = None, "capacity: expected amounts of resources, found nothing");
    let gpu = v1::Device { kind: "gpu".into(), index: 3, millis: 1000, ..v1::Device::default() };
    check(
        |wire| wire.devices = vec![gpu.clone(), gpu],
        "devices: expected each kind and index once, found gpu 3 twice",
    );
}

#[test]
fn an_inventory_names_states() {
    check(
        |wire| wire.inventory = vec![v1::InventoryItem { allocation: 1 << 32, ..v1::InventoryItem::default() }],
        "inventory[0].state: expected one of GRANTED, STARTING, RUNNING, STOPPING, LOST, COMPLETE, FAILED, STOPPED, \
         EVICTED, ENDED_LOST, EVICTING, found ALLOCATION_STATE_UNSPECIFIED",
    );
}

#[test]
fn agents_report_what_is_theirs_to_say() {
    check_transition(
        |transition| transition.state = v1::AllocationState::Granted.into(),
        "transitions[0].state: expected starting, running, or an end: others are the cell's to decide, found Granted",
    );
    check_transition(
        |transition| transition.allocation = 3,
        "transitions[0].allocation: expected the id of an allocation, with a generation above 0, found 3",
    );
}

#[test]
fn a_report_is_of_a_machine_and_an_epoch() {
    let report = v1::ReportRequest { machine: 1 << 32, ..v1::ReportRequest::default() };
    let error = machines::transitions(report).unwrap_err().to_string();
    assert_eq!(error, "epoch: expected an epoch, from 1, found 0");
}

#[test]
fn the_numbers_of_states_are_those_of_the_wire() {
    for state in AllocationState::ALL {
        let wire = v1::AllocationState::from(state);
        assert_eq!(wire as i32, state as i32, "{state:?}");
    }
}

fn many() -> v1::ReportManyRequest {
    let stopped = v1::AllocationState::Stopped.into();
    v1::ReportManyRequest {
        machines: vec![1 << 32, 1 << 32 | 1],
        epochs: vec![4, 5],
        of: vec![1, 0, 1],
        allocations: vec![7 << 32 | 7, 7 << 32 | 8, 7 << 32 | 9],
        states: vec![stopped; 3],
        ..v1::ReportManyRequest::default()
    }
}

#[test]
fn a_report_of_many_machines_gives_each_transition_to_its_own() {
    let slots_of = |transitions: Vec<plenum_model::Transition>| {
        let slots = transitions.iter().map(|one| (one.machine.slot, one.epoch, one.allocation.slot));
        slots.collect::<Vec<_>>()
    };
    let all = machines::many(many(), |_| true).unwrap();
    assert!(all.refused.is_empty() && all.fitness.is_empty());
    assert!(all.transitions.iter().all(|one| one.reason.is_empty() && one.exit_code == 0));
    assert_eq!(slots_of(all.transitions), [(1, 5, 7), (0, 4, 8), (1, 5, 9)]);
    let one = machines::many(many(), |of| of.epoch == 4).unwrap();
    assert_eq!(one.refused.iter().map(|of| of.machine.slot).collect::<Vec<_>>(), [1]);
    assert_eq!(slots_of(one.transitions), [(0, 4, 8)]);
}

#[test]
fn a_report_of_many_machines_says_what_each_agent_has_seen() {
    let wire = v1::ReportManyRequest { revisions: vec![70, 80], incarnations: vec![1, 2], ..many() };
    let mut asked = Vec::new();
    machines::many(wire, |of| {
        asked.push((of.machine.slot, of.incarnation, of.revision));
        true
    })
    .unwrap();
    assert_eq!(asked, [(0, 1, 70), (1, 2, 80)]);
}

#[test]
fn a_report_of_many_machines_says_of_all_whether_they_are_fit_or_of_none() {
    let said = |unfit: &[v1::Unfit], takes: fn(&machines::ReportedMachine) -> bool| {
        let wire = v1::ReportManyRequest { unfit: unfit.iter().map(|&of| of.into()).collect(), ..many() };
        let fitness = machines::many(wire, takes).unwrap().fitness;
        fitness.iter().map(|of| (of.machine.slot, of.epoch, of.unfit)).collect::<Vec<_>>()
    };
    let (fit, leaves) = (v1::Unfit::Unspecified, v1::Unfit::AgentLeaves);
    assert_eq!(said(&[], |_| true), []);
    assert_eq!(said(&[leaves, fit], |_| true), [(0, 4, Some(Unfit::AgentLeaves)), (1, 5, None)]);
    assert_eq!(said(&[leaves, fit], |of| of.epoch == 5), [(1, 5, None)]);
}

#[test]
fn a_report_of_many_machines_that_breaks_a_rule_renews_none() {
    let check = |change: fn(&mut v1::ReportManyRequest), expected: &str| {
        let mut wire = many();
        change(&mut wire);
        let error = machines::many(wire, |_| panic!("nothing is asked of a machine")).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(|wire| wire.epochs.truncate(1), "epochs: expected 2, one for each row, found 1");
    check(|wire| wire.machines[1] = 1 << 32, "machines: expected each machine once, found machine-0-1 twice");
    check(|wire| wire.of[2] = 2, "of: expected the position of one of 2 machines, found 2");
    check(|wire| wire.unfit = vec![0], "unfit: expected 2, one for each row, found 1");
    check(|wire| wire.revisions = vec![9], "revisions: expected 2, one for each row, found 1");
    check(|wire| wire.incarnations = vec![1; 3], "incarnations: expected 2, one for each row, found 3");
    check(|wire| wire.revisions = vec![9, 9], "incarnations: expected one for each of revisions, found 0 for 2");
    check(
        |wire| wire.unfit = vec![0, 4],
        "unfit[1]: expected one of AGENT_LEAVES, STATE_UNWRITABLE, SETUP_FAILS, found 4",
    );
    check(|wire| wire.ready = vec![true], "ready: expected 3, one for each row, found 1");
    check(
        |wire| wire.states[1] = v1::AllocationState::Granted.into(),
        "states[1]: expected starting, running, or an end: others are the cell's to decide, found Granted",
    );
    check(|wire| wire.machines = vec![1 << 32; 4097], "machines: expected at most 4096 machines, found 4097");
}

// All else that the report said was lost with it, at each attempt anew: the lease was not renewed, and no end of a task was heard.
#[test]
fn a_reason_that_is_too_long_is_cut_where_a_letter_ends() {
    let long = "ö".repeat(150);
    let transition = |reason: &str| v1::Transition {
        allocation: 1 << 32,
        state: v1::AllocationState::Failed.into(),
        reason: reason.into(),
        ..Default::default()
    };
    let whole = "x".repeat(255);
    let transitions = vec![transition(&long), transition(&whole)];
    let report = v1::ReportRequest { machine: 1 << 32, epoch: 1, transitions, ..Default::default() };
    let of_one = machines::transitions(report).unwrap();
    assert_eq!((&*of_one[0].reason, &*of_one[1].reason), (&long[..254], &*whole));

    let wire = v1::ReportManyRequest { reasons: vec![String::new(), long.clone(), whole.clone()], ..many() };
    let of_many = machines::many(wire, |_| true).unwrap().transitions;
    let reasons: Vec<&str> = of_many.iter().map(|one| &*one.reason).collect();
    assert_eq!(reasons, ["", &long[..254], &*whole]);

    let state = v1::AllocationState::Failed.into();
    let item = v1::InventoryItem { allocation: 1 << 32, state, reason: long.clone(), ..Default::default() };
    let wire = v1::RegisterMachine { inventory: vec![item], ..valid() };
    let Command::RegisterMachine(FoundMachine { inventory, .. }) = machines::register(wire).unwrap() else {
        panic!("no registration")
    };
    assert_eq!(&*inventory[0].reason, &long[..254]);
}

// A name of any length and with any bytes stood in the error when its value was too long.
#[test]
fn an_attribute_of_a_strange_name_is_told_cut_and_escaped() {
    let mut wire = valid();
    wire.attributes = [(format!("\x1b[2J{}", "x".repeat(5000)), "v".repeat(256))].into();
    let message = machines::register(wire).unwrap_err().to_string();
    assert!(message.starts_with("attributes: expected 1 to 63 bytes"), "{message}");
    assert!(message.len() < 300 && !message.contains('\x1b'), "{message}");
}
