//! Spread: the machine with the fewest tasks of the same group, and among these the one with the largest free share.
//!
//! Losing one machine should not lose a service. Each sibling costs 1, and the free share is below 1, so no machine gets a second sibling while
//! another one has none. The share is that of the scarcer resource after placing: a machine without memory is full, whatever cores it has.
//!
//! Source: Verma et al., *Large-scale cluster management at Google with Borg* (EuroSys 2015), §3.2 and §4, where failure domains are one of the terms of the
//! score; here they come first.

use super::{Amounts, Candidate, Scoring};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread;

impl Scoring for Spread {
    fn name(&self) -> &str {
        "spread"
    }

    #[inline]
    #[allow(clippy::cast_precision_loss, reason = "a machine has at most 65,535 tasks")]
    fn cost(&self, candidate: &Candidate, task: &Amounts) -> f32 {
        let Candidate { free, per_capacity, .. } = candidate;
        let cpu = (free.cpu_millis - task.cpu_millis) * per_capacity.cpu_millis;
        let memory = (free.memory_mib - task.memory_mib) * per_capacity.memory_mib;
        // A half keeps a full share below the price of a sibling, whatever is rounded.
        candidate.siblings as f32 - cpu.min(memory) * 0.5
    }
}
