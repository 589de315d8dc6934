//! Packing: GPUs in use first, then free GPUs of machines in use, then machines that are idle.
//!
//! With all n GPUs of the machine free `max(33 − n, n)`. Else, choosing the GPUs with least left first: `max(50 − f, 33)` where f > 0 of them are wholly free,
//! otherwise `max(100 − ⌊Σ ⌊left/10⌋/10⌋, 50)` with what is left on the chosen ones in thousandths. Tasks without GPUs score 0 everywhere.
//!
//! Source: Weng et al., *MLaaS in the Wild* (NSDI 2022), as in the experiments of *Beware of Fragmentation* (USENIX ATC 2023).

use super::{GpuMachine, GpuScoring, GpuTask, Scored, WHOLE};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct GpuPacking;

impl GpuScoring for GpuPacking {
    fn name(&self) -> &'static str {
        "gpu-packing"
    }

    fn place(&self, machine: &GpuMachine, _standing: f64, task: &GpuTask) -> Scored {
        if task.devices == 0 {
            return Scored { cost: 0.0, devices: 0 };
        }
        let devices = machine.tightest(task);
        let all = machine.free().len();
        let chosen =
            || (0..).zip(machine.free()).filter(|(position, _)| devices >> *position & 1 == 1).map(|(_, left)| *left);
        let wholly = chosen().filter(|left| *left == WHOLE).count();
        let score = if machine.whole() == all {
            33_usize.saturating_sub(all).max(all)
        } else if wholly > 0 {
            50_usize.saturating_sub(wholly).max(33)
        } else {
            let left = chosen().map(|left| usize::from(left / 10)).sum::<usize>() / 10;
            100_usize.saturating_sub(left).max(50)
        };
        Scored { cost: -f32::from(u8::try_from(score).expect("at most 100")), devices }
    }
}
