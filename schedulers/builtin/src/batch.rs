//! Throughput: many short tasks, packed tightly.
//!
//! Takes jobs by priority, then by age; within a decision a job that does not fit lets smaller ones behind it pass, for idle
//! room is lost and a short task gives it back soon. Batch schedulers that share the jobs each begin with a part of the machines
//! of their own, where a task wishes for none in particular, and take machines that fit about equally well in an order of their own,
//! so that they do not all claim the same one.
//!
//! Tasks that ask for GPUs go where these lose least of their worth to the work that is expected ([`GpuPolicy`]).

use plenum_model::Outcome;
use plenum_policies::{Parts, Policy, Settings, Ties};
use plenum_sdk::{Decision, Scheduler, View};

use crate::gpus::GpuPolicy;
use crate::placer::Placer;

/// What jobs call it.
pub(crate) const NAME: &str = "batch";

/// How much better a machine must fit, in thousandths of a core, before it is preferred over one that a neighbour is less
/// likely to take.
const NEARNESS_CPU_MILLIS: u16 = 250;

/// The batch scheduler.
#[derive(Debug)]
pub struct Batch {
    placer: Placer,
    nearness_cpu_millis: u16,
    gpus: GpuPolicy,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new(NEARNESS_CPU_MILLIS)
    }
}

impl Batch {
    /// With another nearness, in thousandths of a core; 0 packs as tightly as can be, and conflicts most.
    #[must_use]
    pub fn new(nearness_cpu_millis: u16) -> Self {
        let gpus = GpuPolicy::default();
        Self { placer: Placer::with_gpus(Policy::BestFit, gpus), nearness_cpu_millis, gpus }
    }

    /// With another policy for tasks that ask for GPUs.
    #[must_use]
    pub fn gpus_by(mut self, policy: GpuPolicy) -> Self {
        (self.placer, self.gpus) = (Placer::with_gpus(Policy::BestFit, policy), policy);
        self
    }
}

#[cfg(test)]
impl Batch {
    pub(crate) fn evicting_within(bounds: crate::evictions::Bounds) -> Self {
        let batch = Self::default();
        Self { placer: batch.placer.evicting_within(bounds), ..batch }
    }
}

impl Scheduler for Batch {
    fn name(&self) -> &str {
        NAME
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let nearness_cpu_millis = self.nearness_cpu_millis;
        let (first, count) = view.place_among_peers();
        self.placer.begin(
            view,
            Settings {
                ties: Ties::Seeded,
                seed: view.seed(),
                nearness: nearness_cpu_millis.into(),
                parts: (count > 1).then_some(Parts { count, first }),
                ..Settings::default()
            },
        );
        let mut decision = Decision::default();
        let [low, high] = nearness_cpu_millis.to_le_bytes();
        let mut plan = self.placer.plan().decided_by("best-fit", &[low, high, self.gpus as u8]);
        self.placer.place_all(view, view.work(), &mut plan, &mut decision);
        decision.commit(plan);
        self.placer.goes_on_micros().into_iter().for_each(|micros| decision.again_after(micros));
        decision
    }

    fn takes_holds(&self) -> bool {
        true
    }

    fn evicts(&self) -> bool {
        true
    }

    fn answered(&mut self, tag: u64, outcome: &Outcome) {
        self.placer.answered(tag, outcome);
    }
}

#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;
