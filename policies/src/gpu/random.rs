//! Random: any machine on which the task fits, and any of its GPUs that have enough left.
//!
//! The floor under all other policies. Randomness comes in as a function, so that a run can be repeated.

use super::{GpuChoice, GpuMachines, GpuTask};

/// A machine at random and, for a task that shares a GPU, a GPU at random; whole GPUs lowest position first. `None` when the task fits nowhere.
///
/// `below(n)` draws from 0 to n − 1; n is never 0.
pub fn random_fit(machines: &GpuMachines, task: &GpuTask, mut below: impl FnMut(u32) -> u32) -> Option<GpuChoice> {
    let fitting = (0..).zip(machines.rows()).filter(|(_, row)| row.fits(task)).map(|(slot, _): (u32, _)| slot);
    let fitting = fitting.collect::<Vec<_>>();
    let mut draw = |count: usize| below(u32::try_from(count).expect("slots have 32 bits")) as usize;
    let machine = *fitting.get(if fitting.is_empty() { 0 } else { draw(fitting.len()) })?;
    let row = &machines.rows()[machine as usize];
    let devices = if task.shares() {
        let enough = (0..row.free().len()).filter(|position| row.free()[*position] >= task.millis).collect::<Vec<_>>();
        1 << enough[draw(enough.len())]
    } else {
        row.tightest(task)
    };
    Some(GpuChoice { machine, devices })
}
