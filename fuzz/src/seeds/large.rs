//! Messages that are long enough to be counted before they are decoded, and those that are too much.

use plenum_proto::v1;
use prost::Message;

/// The choice of the target, and the message.
fn of(choice: u8, message: &impl Message) -> Vec<u8> {
    [&[choice][..], &message.encode_to_vec()].concat()
}

fn submit(groups: usize, name: usize) -> v1::SubmitRequest {
    let group = v1::GroupShape { name: "a".repeat(name), after: vec!["b".to_owned(); 3], ..v1::GroupShape::default() };
    let shape = v1::JobShape { groups: vec![group; groups], ..v1::JobShape::default() };
    v1::SubmitRequest {
        spec: Some(v1::JobSpec { shape: Some(shape), body: Some(v1::JobBody::default()) }),
        ..Default::default()
    }
}

fn registration(devices: usize, inventory: u64) -> v1::RegisterRequest {
    let item = |slot| v1::InventoryItem { allocation: 1 << 32 | slot, reason: "why".into(), ..Default::default() };
    let attribute = |number: usize| (format!("attribute-{number}"), "v".repeat(100));
    let machine = v1::RegisterMachine {
        name: "m1".into(),
        boot_id: "b1".into(),
        attributes: (0..20).map(attribute).collect(),
        devices: vec![v1::Device { kind: "gpu".into(), model: "a100".into(), ..v1::Device::default() }; devices],
        inventory: (0..inventory).map(item).collect(),
        ..v1::RegisterMachine::default()
    };
    v1::RegisterRequest { machine: Some(machine), revision: 9, instance: "i1".into(), ..Default::default() }
}

fn many(machines: u64, transitions: u32) -> v1::ReportManyRequest {
    let places = 0..transitions;
    v1::ReportManyRequest {
        machines: (0..machines).map(|slot| 1 << 32 | slot).collect(),
        epochs: (0..machines).map(|epoch| u32::try_from(epoch).unwrap_or(0)).collect(),
        of: places.clone().collect(),
        allocations: places.clone().map(|slot| 1 << 32 | u64::from(slot)).collect(),
        states: places.map(|_| v1::AllocationState::Stopped.into()).collect(),
        ..v1::ReportManyRequest::default()
    }
}

/// A transaction of a thousand claims of three jobs, with guards, and three times as many stops.
pub(super) fn transaction() -> Vec<u8> {
    let placement = |job: u64| v1::Placement {
        job: 1 << 32 | job,
        job_version: 1,
        machines: (0..334).collect(),
        tasks: (1000..1334).collect(),
        alternates: (0..50).collect(),
        ..v1::Placement::default()
    };
    let guard = |job: u64| v1::Guard {
        fact: Some(v1::guard::Fact::JobVersion(v1::JobVersionGuard { job: 1 << 32 | job, version: 1 })),
    };
    let transaction = v1::Transaction {
        session: 2,
        number: 9,
        base_revision: 1,
        check: v1::ConflictCheck::Fit.into(),
        placements: (0..3).map(placement).collect(),
        guards: (0..60).map(guard).collect(),
        stops: (0..3000).map(|slot| 1 << 32 | slot).collect(),
        ..v1::Transaction::default()
    };
    transaction.encode_to_vec()
}

/// A delta with which thousands of allocations end.
pub(super) fn delta() -> Vec<u8> {
    let end =
        |slot| plenum_model::End { slot, state: plenum_model::AllocationState::Failed, exit_code: 3, reason: None };
    let delta = plenum_model::Delta {
        revision: plenum_model::Revision(1),
        ends: (0..5000).map(end).collect(),
        ..plenum_model::Delta::default()
    };
    super::encoded(&delta).to_vec()
}

pub(super) fn messages() -> Vec<Vec<u8>> {
    let note =
        v1::PassedOverNote { job: 1 << 32, tasks: 3, reason: "no room".into(), revision: 7, ..Default::default() };
    let notes = |count| v1::PassedOver { notes: vec![note.clone(); count] };
    let ask = |count| v1::SessionRequest { ask: Some(v1::session_request::Ask::PassedOver(notes(count))) };
    let pass_over = v1::PassOverRequest { session: 4, incarnation: 1, passed_over: Some(notes(900)) };
    let partition = v1::SetPartition {
        name: "p".into(),
        schedulers: (0..600).map(|number| format!("scheduler-with-a-long-name-{number}")).collect(),
        ..v1::SetPartition::default()
    };
    let transition =
        |slot: u64| v1::Transition { allocation: 1 << 32 | slot, reason: "why".into(), ..Default::default() };
    let report = v1::ReportRequest {
        machine: 1 << 32,
        epoch: 4,
        transitions: (0..900).map(transition).collect(),
        ..Default::default()
    };
    let wanted = v1::Assignment { allocation: 1 << 32 | 7, takes_over: vec![1; 30], ..v1::Assignment::default() };
    let assignments = v1::Assignments { revision: 5, full: true, wanted: vec![wanted; 400], ..Default::default() };
    let mut all = vec![
        of(0, &ask(900)),
        of(1, &pass_over),
        of(2, &submit(60, 300)),
        of(2, &submit(70, 250)),
        of(3, &partition),
        of(4, &registration(200, 700)),
        of(4, &registration(600, 10)),
        of(5, &report),
        of(6, &many(1000, 2000)),
        of(7, &assignments),
    ];
    // In pieces, which decoding joins.
    let piece = submit(7, 300).encode_to_vec();
    all.push([&[2][..], &piece.repeat(8)].concat());
    all
}
