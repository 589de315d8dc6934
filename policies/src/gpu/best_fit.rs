//! Best fit: where the least CPU and GPU is left.
//!
//! `⌊100 (1 − ½ ((c − cₚ)/128 cores + (g − gₚ)/8 GPUs))⌋`, where c and g are free before placing. Memory is not looked at. The divisors are
//! the largest machine of the published cell; truncation makes machines alike that are within a hundredth, and the first of them wins.
//!
//! Source: as in the experiments of Weng et al., *Beware of Fragmentation* (USENIX ATC 2023).

use super::fragmentation::whole_score;
use super::{GpuMachine, GpuScoring, GpuTask, Scored};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct GpuBestFit;

/// Thousandths of a core, and of GPU, that count as one.
pub(super) const LARGEST: (f64, f64) = (128_000.0, 8000.0);

impl GpuScoring for GpuBestFit {
    fn name(&self) -> &'static str {
        "best-fit"
    }

    fn place(&self, machine: &GpuMachine, _standing: f64, task: &GpuTask) -> Scored {
        let (cpu, gpu) = room(machine);
        let (needs_cpu, needs_gpu) = need(task);
        let score = 100.0 * (1.0 - 0.5 * ((cpu - needs_cpu) / LARGEST.0 + (gpu - needs_gpu) / LARGEST.1));
        Scored { cost: -whole_score(score), devices: machine.tightest(task) }
    }
}

/// Free thousandths of cores and of GPU.
#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
pub(super) fn room(machine: &GpuMachine) -> (f64, f64) {
    (machine.cpu_millis as f64, machine.idle_millis() as f64)
}

/// What a task asks for, in the same units.
#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
pub(super) fn need(task: &GpuTask) -> (f64, f64) {
    (f64::from(task.cpu_millis), task.gpu_millis() as f64)
}
