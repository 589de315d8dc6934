//! What goes in comes out.

use bytes::Bytes;
use plenum_model::{Command, Decision, Delta, JobChange, Request, Transaction};
use plenum_proto::sections::Sections;
use plenum_proto::{ReadError, command, delta, outcome, transaction, v1};
use proptest::prelude::*;
use prost::Message;

use crate::strategies;

fn encoded(delta: &Delta) -> Bytes {
    let mut out = Vec::new();
    delta::encode(delta, &mut out);
    out.into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_request_survives_the_log(request in strategies::request()) {
        prop_assert_eq!(command::decode(command::encode(&request)).unwrap(), request);
    }

    #[test]
    fn a_decision_survives_the_log(decision in strategies::decision()) {
        let bytes = v1::Decision::from(&decision).encode_to_vec();
        let read = v1::Decision::decode(&*bytes).unwrap();
        prop_assert_eq!(Decision::try_from(read).unwrap(), decision);
    }

    #[test]
    fn a_delta_survives_the_wire(expected in strategies::delta()) {
        prop_assert_eq!(delta::decode(encoded(&expected)).unwrap(), expected);
    }

    #[test]
    fn a_delta_is_written_as_generated_code_would(any in strategies::delta()) {
        let bytes = encoded(&any);
        let read = v1::Delta::decode(bytes.clone()).unwrap();
        prop_assert_eq!(bytes, read.encode_to_vec());
    }

    #[test]
    fn what_only_a_later_version_knows_is_left_out_for_who_looks_and_refused_for_who_goes_on(
        any in strategies::delta(),
    ) {
        prop_assert_eq!(&delta::decode_whole(encoded(&any)).unwrap(), &any);
        // Field 1000: a number.
        let later = [&encoded(&any)[..], &[0xc0, 0x3e, 1]].concat();
        prop_assert_eq!(delta::decode(later.clone().into()).unwrap(), any);
        let newer = ReadError::Newer { what: "Delta", field: "field 1000".to_owned() };
        prop_assert_eq!(delta::decode_whole(later.into()).unwrap_err(), newer);
    }

    #[test]
    fn a_delta_is_appended_to_what_is_there(any in strategies::delta()) {
        let mut out = b"before".to_vec();
        delta::encode(&any, &mut out);
        prop_assert_eq!(&out[6..], encoded(&any));
    }

    #[test]
    fn a_watcher_gets_its_sections_and_no_others(all in strategies::delta(), which in any::<u8>()) {
        let wanted: Vec<i32> = (1..=6).filter(|section| which >> section & 1 == 1).collect();
        let sections = Sections::from_wire(&wanted).unwrap();
        let selected = delta::decode(delta::cut(sections, encoded(&all))).unwrap();
        prop_assert_eq!(selected, without(all, sections));
    }

    #[test]
    fn the_digest_of_a_transaction_is_of_its_claims_alone(any in strategies::transaction(), attempt in any::<u32>()) {
        let mut again = any.clone();
        again.decision.attempt = attempt;
        again.decision.queued_micros += 1;
        let digest = |of: &Transaction| transaction::digest(&transaction::encode(of));
        prop_assert_eq!(digest(&again), digest(&any));
        again.atomic = !again.atomic;
        prop_assert_ne!(digest(&again), digest(&any));
    }

    #[test]
    fn how_large_the_request_of_a_commit_is_can_be_told_before(any in strategies::transaction()) {
        let wire = v1::Transaction::from(&any);
        let bytes = transaction::commit_bytes(&wire);
        let request = v1::SessionRequest { ask: Some(v1::session_request::Ask::Commit(wire)) };
        prop_assert_eq!(bytes, request.encode_to_vec().len());
    }

    #[test]
    fn a_transaction_with_an_unknown_group_is_refused(any in strategies::transaction()) {
        // Fields 100, start and end of a group: whoever walks fields would stop there, and miss those behind.
        let mut bytes = b"\xa3\x06\xa4\x06".to_vec();
        bytes.extend_from_slice(&transaction::encode(&any));
        let refused = transaction::commit(bytes.into()).unwrap_err().to_string();
        prop_assert!(refused.contains("byte 0"), "{}", refused);
    }

    #[test]
    fn a_transaction_is_logged_in_the_bytes_in_which_it_came(any in strategies::transaction()) {
        // Not as this library would write it: a field that is not known, and the fields in another order.
        let mut bytes = b"\xfa\x3f\x03new".to_vec();
        bytes.extend_from_slice(&transaction::encode(&any));
        let bytes = Bytes::from(bytes);
        let logged = command::encode_commit("local", "default", &bytes);
        let wire = v1::Command::decode(logged.clone()).unwrap();
        prop_assert_eq!((wire.principal.as_str(), wire.namespace.as_str()), ("local", "default"));
        let read = command::decode(logged.clone()).unwrap();
        prop_assert_eq!(read.command, transaction::commit(bytes.clone()).unwrap());
        prop_assert!(logged.ends_with(&bytes));
    }

    #[test]
    fn a_decision_is_written_as_generated_code_would(any in strategies::decision()) {
        let mut out = Vec::new();
        outcome::encode(&any, &mut out);
        prop_assert_eq!(out, v1::Decision::from(&any).encode_to_vec());
    }

    #[test]
    fn a_request_is_written_as_generated_code_would(any in strategies::request()) {
        prop_assert_eq!(command::encode(&any), v1::Command::from(&any).encode_to_vec());
    }

    #[test]
    fn bytes_from_anywhere_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = delta::decode(bytes.clone());
        let _ = command::decode(bytes.clone());
        let _ = v1::Decision::decode(bytes).map(Decision::try_from);
    }

    #[test]
    fn a_damaged_delta_never_panics(any in strategies::delta(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encoded(&any).to_vec();
        prop_assume!(!bytes.is_empty());
        *at.get_mut(&mut bytes) = byte;
        let _ = delta::decode(bytes.into());
    }

    #[test]
    fn a_damaged_request_never_panics(any in strategies::request(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = command::encode(&any).to_vec();
        *at.get_mut(&mut bytes) = byte;
        let _ = command::decode(bytes.into());
    }
}

/// What is left of a delta.
fn without(delta: Delta, sections: Sections) -> Delta {
    let has = |section| sections.has(section);
    let mut left = Delta {
        cell: delta.cell,
        scheduler_names: delta.scheduler_names,
        shapes: delta.shapes,
        reshaped: delta.reshaped,
        renamed: delta.renamed,
        rights: delta.rights,
        ..Delta::new(delta.revision, delta.time)
    };
    if has(v1::Section::Machines) {
        left.machines = delta.machines;
    }
    if has(v1::Section::Jobs) {
        (left.jobs, left.tasks) = (delta.jobs, delta.tasks);
    }
    if has(v1::Section::Allocations) {
        (left.grants, left.moves, left.ends) = (delta.grants, delta.moves, delta.ends);
        (left.holds, left.partitions) = (delta.holds, delta.partitions);
        (left.unknown, left.paused) = (delta.unknown, delta.paused);
    }
    if has(v1::Section::Quotas) {
        left.quotas = delta.quotas;
    }
    if has(v1::Section::Sessions) {
        left.sessions = delta.sessions;
    }
    if !has(v1::Section::Bodies) {
        left.jobs.iter_mut().for_each(forget_body);
    }
    left
}

fn forget_body(change: &mut JobChange) {
    if let JobChange::Put { job, .. } = change {
        std::sync::Arc::make_mut(job).body = None;
    }
}

/// Columns of as many numbers as there are bytes, and messages of two bytes each: decoded, they would take a hundred times as much.
#[test]
fn what_asks_for_far_too_much_is_refused_before_it_is_decoded() {
    let refused = |transaction: &v1::Transaction, what: &str| {
        let refused = transaction::commit(transaction.encode_to_vec().into()).unwrap_err();
        assert!(refused.expected.contains(what), "{refused}");
    };
    let with = |placement: v1::Placement| v1::Transaction { placements: vec![placement], ..Default::default() };
    let million = vec![0; 1_000_000];
    refused(&with(v1::Placement { machines: million.clone(), ..Default::default() }), "16384 claims");
    refused(&with(v1::Placement { tasks: million.clone(), ..Default::default() }), "16384 tasks");
    refused(&with(v1::Placement { alternates: million, ..Default::default() }), "16384 alternates");
    let preemptions = vec![v1::Preemption::default(); 300_000];
    refused(&with(v1::Placement { preemptions, ..Default::default() }), "entries");
    let devices = vec![v1::Device::default(); 300_000];
    let extras = vec![v1::ClaimExtras { devices, ..Default::default() }];
    refused(&with(v1::Placement { extras, ..Default::default() }), "entries");
    let placements = vec![v1::Placement::default(); 20_000];
    refused(&v1::Transaction { placements, ..Default::default() }, "16384 placements");
    refused(&v1::Transaction { stops: vec![1; 20_000], ..Default::default() }, "16384 stops");
    refused(&v1::Transaction { guards: vec![v1::Guard::default(); 20_000], ..Default::default() }, "16384 guards");
    // Columns that are not packed count the same.
    let mut unpacked = vec![0x3a, 0xc0, 0xb8, 0x02];
    unpacked.extend([0x28, 0].repeat(20_000));
    assert!(transaction::commit(unpacked.into()).unwrap_err().expected.contains("16384 claims"));
}

#[test]
fn what_is_as_large_as_may_be_is_decoded() {
    let placement = v1::Placement {
        job: 1 << 32,
        machines: vec![u32::MAX; 16_384],
        tasks: (0..16_384).collect(),
        ..Default::default()
    };
    let transaction = v1::Transaction {
        session: 1,
        number: 1,
        check: v1::ConflictCheck::Fit.into(),
        placements: vec![placement],
        ..Default::default()
    };
    let command = transaction::commit(transaction.encode_to_vec().into()).unwrap();
    assert!(matches!(command, Command::Commit(transaction, _) if transaction.claims() == 16_384));
}

#[test]
fn a_request_of_an_unknown_kind_is_refused() {
    let bytes = v1::Command { principal: "local".into(), ..v1::Command::default() }.encode_to_vec();
    assert!(command::decode(bytes.into()).is_err());
    let read: Result<Request, _> = v1::Command::default().try_into();
    assert_eq!(read.unwrap_err().field, "principal");
}
