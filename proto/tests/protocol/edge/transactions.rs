//! What schedulers send.

use plenum_model::Command;
use plenum_proto::{command, transaction, v1};
use prost::Message;

use super::cpu;

const JOB: u64 = 1 << 32;

fn valid() -> v1::Transaction {
    let placement = v1::Placement {
        job: JOB,
        machines: vec![4, 4, 5],
        tasks: vec![7, 3, 4],
        min: 2,
        resources: cpu(500),
        ..v1::Placement::default()
    };
    v1::Transaction {
        session: 9,
        number: 1,
        check: v1::ConflictCheck::Fit.into(),
        placements: vec![placement],
        stops: vec![JOB, JOB + 1],
        ..v1::Transaction::default()
    }
}

#[track_caller]
fn check(change: impl FnOnce(&mut v1::Transaction), expected: &str) {
    let mut wire = valid();
    change(&mut wire);
    assert_eq!(transaction::commit_decoded(&wire).unwrap_err().to_string(), expected);
}

#[track_caller]
fn check_placement(change: impl FnOnce(&mut v1::Placement), expected: &str) {
    check(|wire| change(&mut wire.placements[0]), expected);
}

#[test]
fn a_valid_transaction_is_taken() {
    transaction::commit_decoded(&valid()).unwrap();
}

#[test]
fn a_session_and_a_number_are_needed() {
    check(|wire| wire.session = 0, "session: expected the id of an open session, above 0, found 0");
    check(|wire| wire.number = 0, "number: expected 1 to 4294967295, found 0");
    check(|wire| wire.number = 1 << 32, "number: expected 1 to 4294967295, found 4294967296");
}

#[test]
fn unknown_enum_values_are_refused() {
    check(|wire| wire.check = 9, "check: expected one of FIT, SEQUENCE, found 9");
    check(|wire| wire.check = 0, "check: expected one of FIT, SEQUENCE, found CONFLICT_CHECK_UNSPECIFIED");
}

#[test]
fn columns_are_of_equal_length() {
    check_placement(|placement| placement.tasks.push(9), "placements[0].tasks: expected 3, one for each row, found 4");
    check_placement(
        |placement| placement.extras = vec![v1::ClaimExtras::default()],
        "placements[0].extras: expected 3, one for each row, found 1",
    );
}

#[test]
fn a_task_is_claimed_once_in_a_placement() {
    check_placement(
        |placement| placement.tasks = vec![7, 3, 7],
        "placements[0].tasks: expected each task index once, found 7 twice",
    );
    check_placement(
        |placement| placement.tasks[2] = 1_000_000,
        "placements[0].tasks: expected task indexes below 1000000, found 1000000",
    );
}

#[test]
fn no_minimum_is_above_the_number_of_claims() {
    check_placement(
        |placement| placement.min = 4,
        "placements[0].min: expected at most 3, the number of claims, found 4",
    );
}

#[test]
fn ids_have_generations() {
    check_placement(
        |placement| placement.job = 7,
        "placements[0].job: expected the id of a job, with a generation above 0, found 7",
    );
    check(|wire| wire.stops[1] = 0, "stops[1]: expected the id of an allocation, with a generation above 0, found 0");
}

#[test]
fn quantities_are_neither_negative_nor_beyond_all_machines() {
    check_placement(
        |placement| placement.resources = cpu(-1),
        "placements[0].resources.cpu_millis: expected 0 to 1000000000, found -1",
    );
    check_placement(
        |placement| placement.resources = cpu(1_000_000_001),
        "placements[0].resources.cpu_millis: expected 0 to 1000000000, found 1000000001",
    );
    check_placement(
        |placement| placement.resources = Some(v1::Resources { memory_bytes: i64::MAX, ..v1::Resources::default() }),
        "placements[0].resources.memory_bytes: expected 0 to 1125899906842624, found 9223372036854775807",
    );
    check_placement(
        |placement| placement.resources = Some(v1::Resources { custom: vec![0, -3], ..v1::Resources::default() }),
        "placements[0].resources.custom[1]: expected 0 to 1125899906842624, found -3",
    );
    check_placement(
        |placement| placement.resources = Some(v1::Resources { custom: vec![0; 6], ..v1::Resources::default() }),
        "placements[0].resources.custom: expected at most 5 named resources, found 6",
    );
}

#[test]
fn claims_and_stops_are_bounded_over_the_whole() {
    let half = |first: u32| v1::Placement {
        job: JOB,
        machines: vec![0; 8193],
        tasks: (first..first + 8193).collect(),
        ..v1::Placement::default()
    };
    check(
        |wire| wire.placements = vec![half(0), half(10_000)],
        "placements: expected at most 16384 claims in a transaction, found 16386",
    );
    check(|wire| wire.stops = vec![JOB; 16_385], "stops: expected at most 16384 stops in a transaction, found 16385");
    check_placement(
        |placement| placement.alternates = vec![0; 16_385],
        "placements: expected at most 16384 alternates in a transaction, found 16385",
    );
}

#[test]
fn guards_say_a_fact() {
    check(
        |wire| wire.guards = vec![v1::Guard::default()],
        "guards[0].fact: expected a fact that this version knows, found nothing",
    );
}

#[test]
fn devices_and_ports_of_a_claim_are_checked_too() {
    let device = |kind: &str, millis| v1::Device { kind: kind.into(), millis, ..v1::Device::default() };
    let port = |name: &str, number| v1::Port { name: name.into(), number };
    let with = |extra: v1::ClaimExtras| {
        move |placement: &mut v1::Placement| {
            placement.extras = vec![v1::ClaimExtras::default(), extra, v1::ClaimExtras::default()]
        }
    };
    check_placement(
        with(v1::ClaimExtras { devices: vec![device("gpu", 1001)], ..v1::ClaimExtras::default() }),
        "placements[0].extras[1].devices[0].millis: expected 0 to 1000, found 1001",
    );
    check_placement(
        with(v1::ClaimExtras { ports: vec![port("http", 70_000)], ..v1::ClaimExtras::default() }),
        "placements[0].extras[1].ports[0].number: expected 0 to 65535, found 70000",
    );
    check_placement(
        with(v1::ClaimExtras { ports: vec![port("a", 1), port("a", 2)], ..v1::ClaimExtras::default() }),
        r#"placements[0].extras[1].ports: expected each name once, found "a" twice"#,
    );
}

#[test]
fn metadata_is_short() {
    let decision = |decision: v1::DecisionMetadata| move |wire: &mut v1::Transaction| wire.decision = Some(decision);
    check(
        decision(v1::DecisionMetadata { policy: "p".repeat(64), ..v1::DecisionMetadata::default() }),
        "decision.policy: expected at most 63 bytes, found 64 bytes",
    );
}

// Of a scheduler whose clock had gone back each transaction was refused, whatever it claimed.
#[test]
fn times_of_a_decision_are_read_within_their_bounds_also_from_the_log_and_are_no_content() {
    let with = |micros| {
        let decision = v1::DecisionMetadata { queued_micros: micros, deciding_micros: micros, ..Default::default() };
        v1::Transaction { decision: Some(decision), ..valid() }.encode_to_vec()
    };
    let commit = |bytes: &[u8]| match transaction::commit(bytes.to_vec().into()).unwrap() {
        Command::Commit(read, digest) => (read, digest),
        other => panic!("no transaction: {other:?}"),
    };
    let (_, plain) = commit(&with(0));
    for (said, expected) in [(-1, 0), (7, 7), (i64::MAX, 316_224_000_000_000)] {
        let bytes = with(said);
        let (read, digest) = commit(&bytes);
        assert_eq!((read.decision.queued_micros, read.decision.deciding_micros), (expected, expected));
        assert_eq!(digest, plain, "{said}");
        let logged = command::encode_commit("local", "default", &bytes);
        assert_eq!(command::decode(logged).unwrap().command, Command::Commit(read, digest));
    }
}

#[test]
fn what_the_core_does_not_decide_yet_passes_through() {
    let mut wire = valid();
    wire.dry_run = true;
    wire.placements[0].alternates = vec![1, 2];
    wire.placements[0].preemptions = vec![v1::Preemption { machine: 1, victim: JOB }];
    transaction::commit_decoded(&wire).unwrap();
}

/// The words of the protocol said that it was at most nothing.
#[test]
fn to_take_over_an_amount_of_0_is_to_name_none() {
    let read = |amount: Option<v1::Resources>| {
        let take_overs = vec![v1::TakeOver { victim: JOB, amount, ..v1::TakeOver::default() }];
        let mut wire = valid();
        wire.placements[0].extras = vec![v1::ClaimExtras { take_overs, ..v1::ClaimExtras::default() }; 3];
        let Ok(Command::Commit(transaction, _)) = transaction::commit_decoded(&wire) else { panic!("no transaction") };
        transaction
    };
    assert_eq!(read(cpu(0)), read(None));
    assert_ne!(read(cpu(1)), read(None));
}
