//! Clustering: tasks of one kind together, those that share a GPU with those that do, those of n GPUs with those of n.
//!
//! A base of `⌊25 × used GPU of 8⌋`, and 75 on it where only the task's kind is on the machine, 50 where its kind is among others, 25 where no
//! GPU task is. Tasks without GPUs score 0 everywhere, so they take the first machine.
//!
//! Source: Xiao et al., *Gandiva: Introspective Cluster Scheduling for Deep Learning* (OSDI 2018), as in the experiments of Weng et al. (USENIX ATC 2023).

use super::{DEVICES_MAX, GpuMachine, GpuScoring, GpuTask, Scored};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct GpuClustering;

/// Thousandths of GPU of the largest machine.
const LARGEST_MILLIS: u64 = 8000;

impl GpuScoring for GpuClustering {
    fn name(&self) -> &'static str {
        "gpu-clustering"
    }

    fn place(&self, machine: &GpuMachine, _standing: f64, task: &GpuTask) -> Scored {
        if task.devices == 0 {
            return Scored { cost: 0.0, devices: 0 };
        }
        let kind = 1_u32 << if task.shares() { 0 } else { usize::from(task.devices).min(DEVICES_MAX) };
        let kinds = machine.kinds();
        let company = match kinds {
            0 => 25,
            only if only == kind => 75,
            some if some & kind > 0 => 50,
            _ => 0,
        };
        // A machine with more than eight GPUs counts as one that uses none, as long as eight are free.
        let base = 25 * LARGEST_MILLIS.saturating_sub(machine.idle_millis()) / LARGEST_MILLIS;
        let score = u16::try_from(base + company).expect("at most 100");
        Scored { cost: -f32::from(score), devices: machine.tightest(task) }
    }
}
