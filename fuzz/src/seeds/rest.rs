//! What inputs at random do not happen to show: further ones, until each field that strategies fill in is seen, and some by hand.

use bytes::Bytes;
use plenum_model::AllocationId;
use plenum_proto::{command, v1};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use prost::Message;

use super::{encoded, strategies};
use crate::shown::{Messages, Shown};

/// Values that are looked at.
const LOOKED_AT: usize = 4000;
/// The largest that are kept, in bytes: a job with all that it may have does not fit into less.
const BYTES_MAX: usize = 2500;

/// The same inputs, and those values that show something of the message `root` that none before them shows.
pub(super) fn with_the_rest<S: Strategy>(
    mut inputs: Vec<Vec<u8>>,
    root: &str,
    strategy: S,
    encode: impl Fn(S::Value) -> Bytes,
) -> Vec<Vec<u8>> {
    let messages = Messages::of_the_protocol();
    let mut shown: Shown = inputs.iter().flat_map(|input| messages.shown_by(root, input)).collect();
    let mut runner = TestRunner::deterministic();
    for _ in 0..LOOKED_AT {
        let tree = strategy.new_tree(&mut runner).expect("strategies of tests have values");
        let input = encode(tree.current());
        let found = messages.shown_by(root, &input);
        if input.len() <= BYTES_MAX && !found.is_subset(&shown) {
            shown.extend(found);
            inputs.push(input.to_vec());
        }
    }
    inputs
}

/// Also with what a claim that is not the first one has beside its room.
pub(super) fn of_deltas(inputs: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut inputs = with_the_rest(inputs, "Delta", strategies::delta(), |delta| encoded(&delta));
    let moved = inputs.iter().find_map(|input| {
        let mut delta = v1::Delta::decode(&**input).expect("deltas are messages");
        let grants = delta.grants.iter_mut().find(|grants| grants.slots.len() > 1 && grants.extras.len() == 1)?;
        grants.extras[0].claim = 1;
        Some(delta.encode_to_vec())
    });
    inputs.extend(moved);
    inputs
}

pub(super) fn of_commands(inputs: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    with_the_rest(inputs, "Command", strategies::request(), |request| command::encode(&request))
}

/// Also with a second claim that has ports and went to another machine than it asked for.
pub(super) fn of_decisions(inputs: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let encode = |decision| v1::Decision::from(&decision).encode_to_vec().into();
    let mut inputs = with_the_rest(inputs, "Decision", strategies::decision(), encode);
    let granted = |slot| AllocationId { slot, generation: 1 }.to_bits();
    let port = v1::Port { name: "http".into(), number: 20_000 };
    let placement = v1::PlacementOutcome {
        allocations: vec![granted(7), granted(8)],
        ports: vec![v1::GrantedPorts { claim: 1, ports: vec![port] }],
        elsewhere: vec![v1::GrantedElsewhere { claim: 1, machine: 9 }],
    };
    let outcome = v1::Outcome {
        session: 2,
        number: 9,
        revision: 3,
        outcome: v1::TransactionOutcome::Committed.into(),
        placements: vec![placement],
        ..v1::Outcome::default()
    };
    let decision = v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) };
    inputs.push(decision.encode_to_vec());
    inputs
}

/// A job with all that one may have, made of a job file that has it; and with what none can say: a device, a resource of the cell's own by its
/// place, and that it was launched.
pub(super) fn job(mut whole: v1::JobSpec) -> Vec<u8> {
    let shape = whole.shape.as_mut().expect("a job file gives a shape");
    (shape.parent, shape.instant_micros) = (1 << 32 | 7, 1_000_000);
    let group = shape.groups.last_mut().expect("a job file gives groups");
    group.devices = vec![v1::Device { kind: "gpu".into(), index: 1, millis: 500, model: "a100".into() }];
    group.resources.get_or_insert_default().custom = vec![0, 3];
    whole.encode_to_vec()
}

/// A row of each kind that a history has, behind the length of its key.
pub(super) fn rows() -> Vec<Vec<u8>> {
    let rows = plenum_history::probe::rows();
    rows.into_iter()
        .map(|row| [&[u8::try_from(row.key.len()).unwrap_or(0)][..], &row.key, &row.value].concat())
        .collect()
}
