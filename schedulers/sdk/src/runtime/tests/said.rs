//! What a transaction says of how it was decided, for who reads it later.

use super::refusing::{beginning, encoded_deltas};
use super::too_large::{commits, given, welcome_of};
use super::*;
use crate::plan::Plan;
use crate::share::mix;

/// Looks at its work for 5 ms; then it places each task by itself.
#[derive(Default)]
struct Slow {
    has_looked: bool,
}

impl Scheduler for Slow {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        if !std::mem::replace(&mut self.has_looked, true) {
            decision.again_after(5_000);
            return decision;
        }
        for work in view.work() {
            for task in &work.tasks {
                let mut plan = Plan::incremental();
                plan.claim(work, &[*task], &[0]);
                decision.commit(plan);
            }
        }
        decision
    }
}

/// Design §4.1: what inspection and replay need of a decision. Nothing but the attempt and the time was looked at.
#[test]
fn a_transaction_says_what_it_took_as_granted_what_it_was_drawn_from_and_how_long_it_waited() {
    let settings = Settings { seed: 9, ..Settings::default() };
    let mut runtime = SchedulerRuntime::new(settings, Slow::default()).unwrap();
    runtime.handle(0, Input::Start);
    runtime.handle(0, Input::Connected);
    given(&mut runtime, 0, welcome_of(0, 0));
    for deltas in encoded_deltas(&beginning()) {
        assert_eq!(commits(&given(&mut runtime, 0, deltas)).count(), 0, "it looks");
    }
    let outputs = runtime.handle(5_000, Input::Tick);
    let said: Vec<_> = commits(&outputs).map(|sent| sent.decision.clone().unwrap()).collect();
    let assumed: Vec<&[u64]> = said.iter().map(|decision| &decision.assumed[..]).collect();
    assert_eq!(assumed, [&[][..], &[1]], "the first one is under way when the second is sent");
    for decision in &said {
        assert_eq!((&*decision.policy, decision.queued_micros), ("idle", 5_000), "by its own name, where it has none");
        // The session is the second revision.
        assert_eq!(decision.seed, mix(9 ^ 2));
    }
}
