//! The fragmentation gradient: where what is left becomes useless for the least part of the expected work.
//!
//! The fragmentation of a machine is the GPU room that a task drawn from the expected work cannot use: all that is idle when it needs no GPU or does
//! not fit, else the parts too small for it. The task goes where this rises least.
//!
//! **Truncation is part of the policy.** The change passes through a logistic function into whole numbers from 0 to 100, so that changes within
//! 0.04 GPU are alike, most machines tie, and the first of them wins, which fills machines one after another. Without truncation
//! a whole point more of the GPUs stays idle. The six sums are kept apart and added in the authors' order, because where nothing changes, the last
//! bit decides between 49 and 50.
//!
//! Source: Weng et al., *Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent* (USENIX ATC 2023), and
//! the simulator published with it.

use super::target::{Class, Target};
use super::{GpuMachine, GpuScoring, GpuTask, Scored};

/// See the module.
#[derive(Clone, Debug)]
pub struct FragmentationGradient {
    typical: Vec<Class>,
}

/// Thousandths of GPU to a unit of the logistic function's argument.
const MILLIS_TO_UNIT: f64 = 1000.0;

impl FragmentationGradient {
    /// For this work.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        Self { typical: target.typical().to_vec() }
    }

    /// Thousandths of GPU on a machine that the expected work cannot use, on average.
    #[must_use]
    pub fn fragmentation(&self, machine: &GpuMachine) -> f64 {
        let free = machine.free();
        let idle = f64::from(free.iter().map(|free| u32::from(*free)).sum::<u32>());
        let [mut lacks_both, mut lacks_gpu, mut lacks_cpu, mut no_gpu, mut no_gpu_nor_cpu, mut model] = [0.0; 6];
        for Class { task, weight } in &self.typical {
            let cpu = i64::from(task.cpu_millis) <= machine.cpu_millis;
            let whole = weight * idle;
            if task.devices == 0 {
                *(if cpu { &mut no_gpu } else { &mut no_gpu_nor_cpu }) += whole;
            } else if !task.models.suits(machine.model) {
                model += whole;
            } else if machine.holding(task.millis) < usize::from(task.devices) {
                *(if cpu { &mut lacks_gpu } else { &mut lacks_both }) += whole;
            } else if cpu {
                let useless = free.iter().filter(|free| **free < task.millis).map(|free| u32::from(*free)).sum::<u32>();
                lacks_gpu += weight * f64::from(useless);
            } else {
                lacks_cpu += whole;
            }
        }
        lacks_both + lacks_gpu + lacks_cpu + no_gpu + no_gpu_nor_cpu + model
    }

    fn score(&self, machine: &GpuMachine, before: f64, task: &GpuTask, devices: u16) -> f32 {
        let mut after = machine.clone();
        after.take(task, devices);
        let gain = (before - self.fragmentation(&after)) / MILLIS_TO_UNIT;
        whole_score(100.0 / (1.0 + (-gain).exp()))
    }
}

impl GpuScoring for FragmentationGradient {
    fn name(&self) -> &'static str {
        "fgd"
    }

    fn standing(&self, machine: &GpuMachine) -> f64 {
        self.fragmentation(machine)
    }

    fn place(&self, machine: &GpuMachine, standing: f64, task: &GpuTask) -> Scored {
        if !task.shares() {
            let devices = machine.tightest(task);
            return Scored { cost: -self.score(machine, standing, task, devices), devices };
        }
        let mut best = Scored { cost: f32::INFINITY, devices: 0 };
        for (position, free) in machine.free().iter().enumerate() {
            // GPUs with equally much left are equally good, and the first of them is taken.
            if *free < task.millis || machine.free()[..position].contains(free) {
                continue;
            }
            let cost = -self.score(machine, standing, task, 1 << position);
            if cost < best.cost {
                best = Scored { cost, devices: 1 << position };
            }
        }
        best
    }
}

/// A score as the authors have it: truncated to a whole number.
#[allow(clippy::cast_possible_truncation, reason = "scores are small whole numbers")]
pub(super) fn whole_score(score: f64) -> f32 {
    score.floor() as f32
}
