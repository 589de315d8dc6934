//! Dot product: where little is free of what the task asks for.
//!
//! `⌊100 (1 − ½ (c/128 cores · cₚ/128 cores + g/8 GPUs · gₚ/8 GPUs))⌋`, where c and g are free before placing. The lowest product wins: the
//! other way round than in vector packing, and as it was measured there.
//!
//! Source: as in the experiments of Weng et al., *Beware of Fragmentation* (USENIX ATC 2023).

use super::best_fit::{LARGEST, need, room};
use super::fragmentation::whole_score;
use super::{GpuMachine, GpuScoring, GpuTask, Scored};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct GpuDotProduct;

impl GpuScoring for GpuDotProduct {
    fn name(&self) -> &'static str {
        "dot-product"
    }

    fn place(&self, machine: &GpuMachine, _standing: f64, task: &GpuTask) -> Scored {
        let (cpu, gpu) = room(machine);
        let (needs_cpu, needs_gpu) = need(task);
        let product = cpu / LARGEST.0 * (needs_cpu / LARGEST.0) + gpu / LARGEST.1 * (needs_gpu / LARGEST.1);
        Scored { cost: -whole_score(100.0 * (1.0 - 0.5 * product)), devices: machine.tightest(task) }
    }
}
