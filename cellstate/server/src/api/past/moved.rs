//! Why an allocation was granted whose task had another one: that was moved off its machine. No row has that, only the log: the one that left has
//! its reason, and both are of one transaction.

use std::collections::BTreeSet;

use plenum_model::{AllocationState, Delta};

/// Why the task of the allocation that was granted this slot was moved there, if that is told for certain.
pub(in crate::api) fn reason(delta: &Delta, slot: u32) -> Option<&str> {
    let was_granted = delta.grants.iter().any(|grants| grants.slots.contains(&slot));
    reason_of_all(delta).filter(|_| was_granted)
}

/// Why the task of each allocation that this delta grants was moved, if that is told for certain: where as many tasks were placed as were moved,
/// each of them was, and all for the one reason.
pub(in crate::api) fn reason_of_all(delta: &Delta) -> Option<&str> {
    let granted: usize = delta.grants.iter().map(|grants| grants.slots.len()).sum();
    // Transactions give a reason to what they stop only where they place its task anew.
    let stopped = delta.moves.iter().filter(|moved| moved.status.state == AllocationState::Stopping);
    let reasons: Vec<&str> = stopped.filter_map(|moved| moved.reason.as_deref()).collect();
    let distinct: BTreeSet<&str> = reasons.iter().copied().collect();
    let is_certain = reasons.len() == granted && distinct.len() == 1;
    reasons.first().copied().filter(|_| is_certain)
}

#[cfg(test)]
mod tests {
    use plenum_model::{AllocationStatus, Grants, Move};

    use super::*;

    #[test]
    fn what_was_granted_is_told_to_be_moved_only_where_all_were_for_one_reason() {
        let told = |slots: &[u32], stopped: &[(AllocationState, Option<&str>)]| {
            let moved = |(slot, (state, reason)): (u32, &(AllocationState, Option<&str>))| Move {
                slot,
                status: AllocationStatus { state: *state, ready: false },
                restarts: 0,
                reason: reason.map(Into::into),
            };
            let delta = Delta {
                grants: slots.iter().map(|&slot| Grants { slots: vec![slot], ..Grants::default() }).collect(),
                moves: (100..).zip(stopped).map(moved).collect(),
                ..Delta::default()
            };
            reason(&delta, 7).map(str::to_owned)
        };
        use AllocationState::{Evicting, Stopping};
        let (one, other) = ((Stopping, Some("off m1")), (Stopping, Some("off m2")));
        assert_eq!(told(&[7], &[one]).as_deref(), Some("off m1"));
        assert_eq!(told(&[6, 7], &[one, one, (Stopping, None)]).as_deref(), Some("off m1"), "and one more was stopped");
        assert_eq!(told(&[6, 7], &[one]), None, "which of the two was it?");
        assert_eq!(told(&[6, 7], &[one, other]), None, "and from where?");
        assert_eq!(told(&[7], &[(Evicting, Some("evicted for a/b"))]), None, "it took the room of another one");
        assert_eq!((told(&[7], &[(Stopping, None)]), told(&[6], &[one])), (None, None));
    }
}
