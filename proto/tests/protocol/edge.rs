//! Each rule of the edge, with the sentence that says what was wrong.

mod agents;
mod jobs;
mod transactions;

use plenum_model::Command;
use plenum_proto::{Invalid, SubmitError, error, v1};

#[test]
fn a_broken_rule_becomes_a_status_with_a_stable_code() {
    let status = tonic::Status::from(Invalid::new("placements[2].tasks", "each task index once", "7 twice"));
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(status.message(), "placements[2].tasks: expected each task index once, found 7 twice");
    assert_eq!(status.metadata().get(error::CODE_KEY).unwrap(), "INVALID_REQUEST");
}

#[test]
fn what_is_not_done_yet_has_another_code() {
    let mut spec = jobs::valid();
    spec.body.as_mut().unwrap().groups[0].driver = "oci".into();
    let error = plenum_proto::jobs::submit(spec).unwrap_err();
    assert!(matches!(error, SubmitError::Unsupported(_)));
    let status = tonic::Status::from(error);
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    assert_eq!(status.metadata().get(error::CODE_KEY).unwrap(), "UNIMPLEMENTED");
    let expected = r#"spec.body.groups[0].driver: the driver "oci" is not implemented yet; use "exec""#;
    assert_eq!(status.message(), expected);
}

#[test]
fn long_and_strange_text_is_cut_and_escaped_in_messages() {
    let mut spec = jobs::valid();
    spec.shape.as_mut().unwrap().name = format!("\x1b[2J{}", "x".repeat(5000));
    let message = plenum_proto::jobs::submit(spec).unwrap_err().to_string();
    assert!(message.len() < 300 && !message.contains('\x1b') && message.ends_with("…"), "{message}");
}

/// An amount of CPU.
fn cpu(cpu_millis: i64) -> Option<v1::Resources> {
    Some(v1::Resources { cpu_millis, ..v1::Resources::default() })
}

// A quota had the bound of one machine: of a cell of 100,000 with 128 GiB each no namespace could be held to half.
#[test]
fn a_quota_may_be_far_above_what_one_machine_has() {
    type Change = fn(&mut v1::Quota, i64);
    let set = |change: Change, amount: i64| {
        let mut limit = v1::Quota::default();
        change(&mut limit, amount);
        let wire = v1::SetQuota { namespace: "ml".into(), limit: Some(limit) };
        plenum_proto::command::command(v1::command::Ask::SetQuota(wire))
    };
    let fields: [(Change, &str); 4] = [
        (|limit, amount| limit.cpu_millis = Some(amount), "cpu_millis"),
        (|limit, amount| limit.memory_bytes = Some(amount), "memory_bytes"),
        (|limit, amount| limit.disk_bytes = Some(amount), "disk_bytes"),
        (|limit, amount| limit.custom = vec![-1, amount], "custom[1]"),
    ];
    for (change, field) in fields {
        let Ok(Command::SetQuota { limit: Some(limit), .. }) = set(change, 1 << 62) else { panic!("{field}") };
        assert!(limit.limits.contains(&Some(plenum_model::QUOTA_MAX)), "{field}");
        let refused = set(change, (1 << 62) + 1).unwrap_err().to_string();
        let expected = format!("limit.{field}: expected 0 to 4611686018427387904, found 4611686018427387905");
        assert!(refused.ends_with(&expected), "{refused}");
    }
}

// Who named schedulers and forgot the machines removed the partition, and was told that it was set.
#[test]
fn a_partition_is_removed_by_saying_neither_machines_nor_schedulers() {
    let set = |schedulers: &[&str]| {
        let schedulers = schedulers.iter().map(ToString::to_string).collect();
        let wire = v1::SetPartition { name: "gpus".into(), machines: Vec::new(), schedulers };
        plenum_proto::command::command(v1::command::Ask::SetPartition(wire))
    };
    assert!(matches!(set(&[]), Ok(Command::SetPartition { partition: None, .. })));
    assert_eq!(
        set(&["ml"]).unwrap_err().to_string(),
        "set_partition.machines: expected at least one rule about machines for these schedulers (neither removes the partition), found none"
    );
}
