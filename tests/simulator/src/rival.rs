//! A scheduler that wants what others want: always the first machine that fits, sometimes without looking.

use plenum_model::{ConflictCheck, Guard, JobId};
use plenum_sdk::{Decision, Plan, Scheduler, View};

use crate::random::Random;

/// What jobs call it.
pub(crate) const NAME: &str = "rival";

/// First fit in the order of slots, with all kinds of transactions.
pub(crate) struct Rival {
    random: Random,
}

impl Rival {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }
}

impl Scheduler for Rival {
    fn name(&self) -> &str {
        NAME
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        let mut ledger = view.ledger();
        let machines: Vec<u32> = view.cell().machines().map(|machine| machine.id.slot).collect();
        for work in view.work() {
            let careless = self.random.chance(60) && !machines.is_empty();
            let (mut tasks, mut chosen) = (Vec::new(), Vec::new());
            for &task in &work.tasks {
                let first = if careless {
                    Some(machines[self.random.index(machines.len())])
                } else {
                    machines.iter().copied().find(|&slot| ledger.take(work, slot))
                };
                if let Some(slot) = first {
                    tasks.push(task);
                    chosen.push(slot);
                }
            }
            let mut plan = match self.random.below(3) {
                0 => Plan::all_or_nothing(),
                1 => Plan::incremental().checked_by(ConflictCheck::Sequence),
                _ => Plan::incremental(),
            };
            let all = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
            if self.random.chance(300) {
                plan.gang(work, &tasks, &chosen, all);
            } else {
                plan.claim(work, &tasks, &chosen);
            }
            if self.random.chance(50) {
                plan.guard(Guard::JobVersion { job: JobId { slot: 9999, generation: 1 }, version: 1 });
            }
            decision.commit(plan);
        }
        decision
    }
}
