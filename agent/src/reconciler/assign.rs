//! Taking in what the cell wants here.

use std::collections::BTreeSet;

use plenum_model::planted::{self, Bug};
use plenum_model::{AllocationId, AllocationState};

use super::{
    AgentReconciler, Assignment,
    held::{Held, Phase, Stop},
};

impl AgentReconciler {
    pub(super) fn assign(
        &mut self,
        now_ms: u64,
        full: bool,
        wanted: Vec<Assignment>,
        stop: &[AllocationId],
        keep: &[AllocationId],
    ) {
        if full {
            self.stop_what_is_not_in(&wanted, keep);
        } else if !self.standing.is_synced() {
            // A change to a set that we don't have: the whole set follows.
            return;
        }
        for &allocation in stop {
            self.stop_one(now_ms, allocation);
        }
        for assignment in wanted {
            self.want(now_ms, assignment);
        }
        for &allocation in keep {
            if self.held.get(&allocation).is_some_and(Held::is_only_ordered) {
                // An earlier life of the cell ordered it. This one may have placed the task anew, and counts on it here until its receipt.
                self.stop_one(now_ms, allocation);
                continue;
            }
            // It goes on as it is. One that is not here any more is reported so, and never started.
            let work = Err("the cell does not know it, and there is no trace of it here".to_owned());
            self.want(now_ms, Assignment { allocation, takes_over: Vec::new(), may_start: false, work });
        }
        if full && self.standing.sync() {
            // The first set of this registration. What may have been placed elsewhere meanwhile goes first.
            let leaving = self.held.iter().filter(|(_, held)| held.stop.is_some() && !held.is_ended());
            self.fence = leaving.map(|(&allocation, _)| allocation).collect();
            self.fenced_at_ms = now_ms;
            if !self.fence.is_empty() {
                plenum_model::rare!("an agent stops what leaves before it starts anything");
            }
        }
        if self.shutdown {
            self.shut_down();
        }
    }

    fn stop_what_is_not_in(&mut self, wanted: &[Assignment], keep: &[AllocationId]) {
        let wanted = wanted.iter().map(|assignment| assignment.allocation);
        let stays: BTreeSet<AllocationId> = wanted.chain(keep.iter().copied()).collect();
        for (allocation, held) in &mut self.held {
            if !stays.contains(allocation) {
                held.stop.get_or_insert(Stop::Cell);
            }
        }
    }

    fn stop_one(&mut self, now_ms: u64, allocation: AllocationId) {
        if let Some(held) = self.held.get_mut(&allocation) {
            held.stop.get_or_insert(Stop::Cell);
        } else if !self.repeat_end(now_ms, allocation) {
            // Nothing of it is here, which is all that a receipt says.
            self.held.insert(allocation, Held::ended(now_ms, AllocationState::Stopped, ""));
        }
    }

    fn want(&mut self, now_ms: u64, assignment: Assignment) {
        if let Some(held) = self.held.get_mut(&assignment.allocation) {
            // What was told to end never comes back: it is on its way out already.
            if held.stop.is_none() && !held.is_ended() {
                held.assign(assignment);
            }
        } else if planted::is(Bug::StartsAgain) || !self.repeat_end(now_ms, assignment.allocation) {
            let mut held = Held::new(now_ms, Phase::Waiting { recorded: false });
            let allocation = assignment.allocation;
            held.assign(assignment);
            self.held.insert(allocation, held);
        }
    }

    /// The cell asks about something whose end it was told: its question was older than its answer. True: it is told again.
    fn repeat_end(&mut self, now_ms: u64, allocation: AllocationId) -> bool {
        let Some(status) = self.ends.get(&allocation) else { return false };
        self.held.insert(allocation, Held::new(now_ms, Phase::Ended(status.clone())));
        true
    }
}
