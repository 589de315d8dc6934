//! What a ledger tells of a machine while claims are written down in it.

use plenum_model::Resource;

use super::too_large::with_work;
use super::*;
use crate::plan::Plan;

/// Claims the first machine for each task, and notes what of its CPU is free before each and after the last.
#[derive(Default)]
struct Noting {
    free: Vec<i64>,
}

impl Scheduler for Noting {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
        for work in view.work() {
            self.free.push(ledger.room(work, 0).get(Resource::CpuMillis));
            for task in &work.tasks {
                assert!(ledger.take(work, 0));
                plan.claim(work, &[*task], &[0]);
                self.free.push(ledger.room(work, 0).get(Resource::CpuMillis));
            }
        }
        decision.commit(plan);
        decision
    }
}

#[test]
fn what_own_claims_of_a_decision_take_is_free_in_its_ledger_no_more() {
    let (runtime, _) = with_work(Noting::default(), 0);
    assert_eq!(runtime.scheduler().free, [4000, 3900, 3800]);
}
