//! Tetris' alignment: the machine on which the task's share of each resource meets the largest free share.
//!
//! As the dot product, but need and room are shares of the machine itself: in a cell of unlike machines, a task is as large on a small machine
//! as a large task on a large one.
//!
//! Source: Grandl, Ananthanarayanan, Kandula, Rao and Akella, *Multi-resource packing for cluster schedulers* (SIGCOMM 2014), §3.2, the alignment
//! score without its term for short jobs.

use super::{Amounts, Candidate, Scoring};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tetris;

impl Scoring for Tetris {
    fn name(&self) -> &str {
        "tetris"
    }

    #[inline]
    fn cost(&self, candidate: &Candidate, task: &Amounts) -> f32 {
        let Candidate { free, per_capacity, .. } = candidate;
        let shares = |need: f32, free: f32, one: f32| (need * one) * (free * one);
        let cpu = shares(task.cpu_millis, free.cpu_millis, per_capacity.cpu_millis);
        let memory = shares(task.memory_mib, free.memory_mib, per_capacity.memory_mib);
        let disk = shares(task.disk_mib, free.disk_mib, per_capacity.disk_mib);
        -(cpu + memory + disk)
    }

    /// One for each resource.
    fn whole(&self, _largest: &Amounts) -> f32 {
        3.0
    }
}
