//! Best fit: the fullest machine that has room, so that big holes stay whole for big tasks.
//!
//! What is left after placing is counted in thousandths of a core, memory at a fixed rate. A fixed one, and not the cell's own mix, so
//! that a cost depends on one machine alone and a decision can be replayed. Absolute room, and not a share of the machine: a hole is as useful
//! on a large machine as on a small one.
//!
//! Source: Garey, Graham and Ullman, *Worst-case analysis of memory allocation algorithms* (STOC 1972), there for one resource.

use super::{Amounts, Candidate, Scoring};

/// How much memory weighs as much as a thousandth of a core: 4 GiB a core, which is what most machines are built with.
pub const MEMORY_MIB_PER_CPU_MILLI: f32 = 4.096;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct BestFit;

impl Scoring for BestFit {
    fn name(&self) -> &str {
        "best-fit"
    }

    #[inline]
    fn cost(&self, candidate: &Candidate, task: &Amounts) -> f32 {
        leftover(candidate, task)
    }

    fn whole(&self, largest: &Amounts) -> f32 {
        room(largest)
    }
}

/// Room after placing, in thousandths of a core.
#[inline]
pub(super) fn leftover(candidate: &Candidate, task: &Amounts) -> f32 {
    let cpu = candidate.free.cpu_millis - task.cpu_millis;
    let memory = candidate.free.memory_mib - task.memory_mib;
    cpu + memory * (1.0 / MEMORY_MIB_PER_CPU_MILLI)
}

/// Room in thousandths of a core.
pub(super) fn room(amounts: &Amounts) -> f32 {
    amounts.cpu_millis + amounts.memory_mib * (1.0 / MEMORY_MIB_PER_CPU_MILLI)
}
