//! How what is decided again compares with what stands in the log: byte by byte, or by what it means.

use plenum_model::{Decision, Delta};
use plenum_proto::{delta, v1};
use prost::Message;

/// How what was decided again differs from what stands in the log.
pub(super) fn difference(decision: &Decision, delta: &Delta, entry: &v1::LogEntry) -> Option<String> {
    let decided = v1::Decision::from(decision).encode_to_vec();
    if delta.revision.0 != entry.revision {
        return Some(format!("decided again, it is revision {}", delta.revision));
    }
    if decided != entry.decided {
        return Some(format!("decided again, the answer is another one: {decision:?}"));
    }
    (!is_same_change(delta, entry)).then(|| "decided again, other things change".to_owned())
}

/// True if the same changes, byte by byte, whatever the answer is.
pub(super) fn is_same_change(delta: &Delta, entry: &v1::LogEntry) -> bool {
    let mut changed = bytes::BytesMut::new();
    delta::encode(delta, &mut changed);
    changed == entry.delta
}

/// True if two decisions differ in nothing but rows that were given out, and in what is said about who took the room.
pub(super) fn is_alike(decision: &Decision, delta: &Delta, entry: &v1::LogEntry, logged: &Delta) -> bool {
    let logged_decision = v1::Decision::decode(entry.decided.clone()).unwrap_or_default();
    without_names(v1::Decision::from(decision)) == without_names(logged_decision)
        && without_rows(delta) == without_rows(logged)
}

/// A decision without ids that were given out, and without reasons of refusals.
fn without_names(mut decision: v1::Decision) -> v1::Decision {
    match &mut decision.answer {
        Some(v1::decision::Answer::Outcome(outcome)) => {
            for placement in &mut outcome.placements {
                placement.allocations.iter_mut().for_each(|id| *id = u64::from(*id > 0));
            }
            for refusal in &mut outcome.refusals {
                let same = (refusal.placement, refusal.claim);
                *refusal = v1::Refusal { placement: same.0, claim: same.1, ..v1::Refusal::default() };
            }
        }
        Some(v1::decision::Answer::Accepted(accepted)) => accepted.id = u64::from(accepted.id > 0),
        _ => {}
    }
    decision
}

/// What is left of a delta's grants when rows are not looked at; of other changes, how many there are.
type WithoutRows = (Vec<(u64, u16, Vec<u32>, Vec<u32>)>, [usize; 5]);

fn without_rows(delta: &Delta) -> WithoutRows {
    let grants = delta.grants.iter();
    let grants =
        grants.map(|grants| (grants.job.to_bits(), grants.group, grants.machines.clone(), grants.tasks.clone()));
    let counts = [delta.machines.len(), delta.jobs.len(), delta.moves.len(), delta.ends.len(), delta.sessions.len()];
    (grants.collect(), counts)
}
