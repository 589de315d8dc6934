//! Tasks that run for ever, kept running.
//!
//! The core makes a task that failed or was lost wait again, with its backoff; so keeping n running is placing what waits.
//! What is special is where: apart from their siblings, on the emptiest machines, so that one machine's loss is no outage; and that they
//! leave machines that are drained.

mod moves;

use plenum_model::Outcome;
use plenum_policies::{Policy, Settings};
use plenum_sdk::{Decision, Scheduler, View};

use crate::placer::Placer;
use moves::Moves;

/// What jobs call it.
pub(crate) const NAME: &str = "service";

/// The service scheduler.
#[derive(Debug)]
pub struct Service {
    placer: Placer,
    moves: Moves,
}

impl Default for Service {
    fn default() -> Self {
        Self { placer: Placer::new(Policy::Spread), moves: Moves::default() }
    }
}

impl Scheduler for Service {
    fn name(&self) -> &str {
        NAME
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn takes_holds(&self) -> bool {
        true
    }

    fn evicts(&self) -> bool {
        true
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        if self.placer.begin(view, Settings::default()) {
            self.moves = Moves::default();
        }
        let mut decision = Decision::default();
        // One transaction a job: services are few and live long, and each is easier to follow alone. When more of them wait than
        // transactions may be sent, as after the loss of a rack, they share: what is planned beyond the window is thrown away.
        let jobs: Vec<_> = view.work().chunk_by(|one, other| one.job.id == other.job.id).collect();
        for jobs in jobs.chunks(jobs.len().div_ceil(view.window()).max(1)) {
            let mut plan = self.placer.plan().decided_by("spread", &[]);
            for works in jobs {
                if let Some(next) = works.first() {
                    self.placer.leave_room(view, next, &mut decision);
                }
                self.placer.place_job(view, works, &mut plan, &mut decision);
            }
            decision.commit(plan);
        }
        self.placer.goes_on_micros().into_iter().for_each(|micros| decision.again_after(micros));
        // What moves runs: nobody has to go for it.
        self.placer.evict_no_more();
        self.moves.plan(&mut self.placer, view, &mut decision);
        decision
    }

    fn answered(&mut self, tag: u64, outcome: &Outcome) {
        self.placer.answered(tag, outcome);
    }
}

#[cfg(test)]
mod tests;
