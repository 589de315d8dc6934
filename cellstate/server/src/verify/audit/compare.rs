//! How what is decided again compares with what stands in the log: byte by byte, or by what it means.

use std::sync::Arc;

use plenum_model::{Decision, Delta, JobChange};
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
    let mut changed = Vec::new();
    delta::encode(delta, &mut changed);
    changed == entry.delta
}

/// True if two decisions differ in nothing but rows and numbers that were given out, and in what history says of refusals.
pub(super) fn is_alike(decision: &Decision, delta: &Delta, entry: &v1::LogEntry, logged: &Delta) -> bool {
    let logged_decision = v1::Decision::decode(entry.decided.clone()).unwrap_or_default();
    without_history(v1::Decision::from(decision)) == without_history(logged_decision)
        && (is_same_change(delta, entry) || is_alike_change(delta, logged))
}

/// True if two changes differ in nothing but rows and numbers that were given out.
fn is_alike_change(delta: &Delta, logged: &Delta) -> bool {
    let mut changed = Vec::new();
    delta::encode(delta, &mut changed);
    // As the other one was read: both as the bytes say it.
    delta::decode(changed.into()).is_ok_and(|delta| without_rows(delta) == without_rows(logged.clone()))
}

/// A decision without ids of allocations, and without what depends on what happened since a claim's base: of a refusal for that reason only that
/// it is one.
fn without_history(mut decision: v1::Decision) -> v1::Decision {
    if let Some(v1::decision::Answer::Outcome(outcome)) = &mut decision.answer {
        for placement in &mut outcome.placements {
            placement.allocations.iter_mut().for_each(|id| *id = u64::from(*id > 0));
        }
        for refusal in &mut outcome.refusals {
            let (kind, reason) = match refusal.kind() {
                v1::RefusalKind::Conflict | v1::RefusalKind::Misfit | v1::RefusalKind::Stale => {
                    (v1::RefusalKind::Conflict, 0)
                }
                kind => (kind, refusal.reason),
            };
            let (kind, placement, claim) = (kind.into(), refusal.placement, refusal.claim);
            *refusal = v1::Refusal { kind, reason, placement, claim, ..v1::Refusal::default() };
        }
    }
    decision
}

/// A change without the rows that it gives out, and without which numbers are given to others. Rows and numbers of what was there before
/// stay: these are those of the cell that both begin with. So do ids of machines and jobs: the lowest slot that is free is the next one's.
fn without_rows(mut delta: Delta) -> Delta {
    for grants in &mut delta.grants {
        grants.slots.fill(0);
        grants.generations.fill(0);
    }
    for change in &mut delta.jobs {
        match change {
            JobChange::Put { job, task_bases } => {
                Arc::make_mut(job).group_base = 0;
                task_bases.fill(0);
            }
            JobChange::Group { task_base, .. } => *task_base = 0,
            JobChange::State { .. } | JobChange::Removed(_) | JobChange::Home { .. } | JobChange::Launched { .. } => {}
        }
    }
    delta.renamed.iter_mut().for_each(|(number, _)| *number = 0);
    delta.reshaped.iter_mut().for_each(|(number, _)| *number = 0);
    delta
}
