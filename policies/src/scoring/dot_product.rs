//! Dot product: the machine whose free room points the way the task's need does.
//!
//! A task that wants mostly memory goes where mostly memory is free, so that the resources of a machine run out together. Needs and rooms are
//! measured by the largest machine of the cell, so that cores and bytes count alike, and the largest product wins.
//!
//! Source: Panigrahy, Talwar, Uyeda and Wieder, *Heuristics for vector bin packing* (Microsoft Research, 2011), the dot-product heuristic.

use super::{Amounts, Candidate, Scoring};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct DotProduct {
    /// Per unit of each resource squared: one over the square of the largest machine's.
    weights: Amounts,
}

impl DotProduct {
    /// Measures by the largest capacity of any machine of the cell, in each resource.
    #[must_use]
    pub fn measured_by(largest: &Amounts) -> Self {
        let weight = |most: f32| 1.0 / (most.max(1.0) * most.max(1.0));
        Self {
            weights: Amounts {
                cpu_millis: weight(largest.cpu_millis),
                memory_mib: weight(largest.memory_mib),
                disk_mib: weight(largest.disk_mib),
            },
        }
    }
}

impl Scoring for DotProduct {
    fn name(&self) -> &str {
        "dot-product"
    }

    #[inline]
    fn cost(&self, candidate: &Candidate, task: &Amounts) -> f32 {
        let (free, weights) = (&candidate.free, &self.weights);
        let cpu = free.cpu_millis * (task.cpu_millis * weights.cpu_millis);
        let memory = free.memory_mib * (task.memory_mib * weights.memory_mib);
        let disk = free.disk_mib * (task.disk_mib * weights.disk_mib);
        -(cpu + memory + disk)
    }

    /// One for each resource: the largest task on the largest machine.
    fn whole(&self, _largest: &Amounts) -> f32 {
        3.0
    }
}
