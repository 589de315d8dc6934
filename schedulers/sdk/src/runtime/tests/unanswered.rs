//! Plans that are never decided, of a scheduler that has nothing to place.

use plenum_model::AllocationId;

use super::refusing::rejected;
use super::too_large::{commits, given, welcome_of};
use super::*;
use crate::plan::Plan;
use crate::scheduler::Unanswered;

/// Stops so many at once, until it is heard; half as many where that is too much.
struct Halving(u32);

impl Scheduler for Halving {
    fn name(&self) -> &str {
        "idle"
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn decide(&mut self, _: &View<'_>) -> Decision {
        let (mut plan, mut decision) = (Plan::incremental(), Decision::default());
        for slot in 0..self.0 {
            plan.stop(AllocationId { slot, generation: 1 });
        }
        decision.commit(plan);
        decision
    }

    fn unanswered(&mut self, _: u64, why: &Unanswered) {
        let is_too_much = match why {
            Unanswered::NotSent(error) => matches!(error, PlanError::TooLarge { what: "stops", .. }),
            Unanswered::Rejected { code } => code == "LIMIT_REACHED",
            Unanswered::BeyondWindow | Unanswered::Unread => false,
        };
        assert!(is_too_much, "{why:?}");
        self.0 /= 2;
    }
}

// Nothing waited, so that nobody asked it again: what was to be stopped ran on, and its scheduler could not know that it had planned too much.
#[test]
fn who_stops_more_at_once_than_may_be_is_told_so_and_asked_again() {
    let mut runtime = SchedulerRuntime::new(Settings::default(), Halving(20_000)).unwrap();
    runtime.handle(0, Input::Start);
    runtime.handle(0, Input::Connected);
    let mut outputs = given(&mut runtime, 0, welcome_of(0, 0));
    let mut stops = Vec::new();
    for now in (0..1_000_000).step_by(1_000) {
        let sent: Vec<_> = commits(&outputs).cloned().collect();
        outputs = runtime.handle(now, Input::Tick);
        for transaction in sent {
            stops.push(transaction.stops.len());
            if stops.len() < 3 {
                outputs.extend(given(&mut runtime, now, rejected(transaction.number, "LIMIT_REACHED")));
            }
        }
    }
    assert_eq!(stops, [10_000, 5_000, 2_500]);
    let counters = runtime.counters();
    assert_eq!((counters.decisions, counters.dropped, counters.rejected), (4, 1, 2), "and then there is rest");
}
