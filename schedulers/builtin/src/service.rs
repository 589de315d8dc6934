//! Tasks that run for ever, kept running.
//!
//! The core makes a task that failed or was lost wait again, with its backoff; so keeping n running is placing what waits.
//! What is special is where: apart from their siblings, on the emptiest machines, so that one machine's loss is no outage.

use plenum_policies::Policy;
use plenum_sdk::{Decision, Plan, Scheduler, View};

use crate::placer::Placer;

/// What jobs call it.
pub(crate) const NAME: &str = "service";

/// The service scheduler.
#[derive(Debug)]
pub struct Service {
    placer: Placer,
}

impl Default for Service {
    fn default() -> Self {
        Self { placer: Placer::new(Policy::Spread) }
    }
}

impl Scheduler for Service {
    fn name(&self) -> &str {
        NAME
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        self.placer.begin(view, None);
        let mut decision = Decision::default();
        // One transaction a job: services are few and live long, and each is easier to follow alone.
        let mut works = view.work().iter().peekable();
        while let Some(first) = works.next() {
            let mut plan = Plan::incremental().decided_by("spread", &[]);
            self.placer.place(view, first, &mut plan, &mut decision);
            while let Some(next) = works.next_if(|next| next.job.id == first.job.id) {
                self.placer.place(view, next, &mut plan, &mut decision);
            }
            decision.commit(plan);
        }
        decision
    }
}

#[cfg(test)]
mod tests;
