//! The best of all machines for a task, exactly, with costs reckoned again only for machines that changed.
//!
//! Tasks of one shape come again and again, and between two of them few machines change. So the costs of a shape are a column, kept with the
//! stamp of each machine's row at which they were reckoned, and a decision is one look at each machine.

use std::collections::BTreeMap;

use super::{GpuMachines, GpuScoring, GpuTask};
use crate::scoring::{Amounts, Candidate, Scoring};

/// Costs that are remembered: 10 bytes each. Past it all are forgotten, and reckoned again as they are needed.
const REMEMBERED_MAX: usize = 1 << 22;

/// A machine for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuChoice {
    /// The slot.
    pub machine: u32,
    /// The GPUs to take: bit by position.
    pub devices: u16,
}

#[derive(Clone, Debug, Default)]
struct Costs {
    /// Infinite where the task does not fit.
    costs: Vec<f32>,
    devices: Vec<u16>,
    /// The row's stamp when its cost was reckoned.
    stamps: Vec<u32>,
}

/// Places tasks by one scoring, on the rows of one [`GpuMachines`].
#[derive(Clone, Debug)]
pub struct GpuPlacer<S> {
    scoring: S,
    /// With the row's stamp when it was reckoned.
    standing: Vec<(u32, f64)>,
    shapes: BTreeMap<GpuTask, Costs>,
}

impl<S: GpuScoring> GpuPlacer<S> {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(scoring: S) -> Self {
        Self { scoring, standing: Vec::new(), shapes: BTreeMap::new() }
    }

    /// What it ranks by.
    #[must_use]
    pub fn scoring(&self) -> &S {
        &self.scoring
    }

    /// The machine of the lowest cost among all on which the task fits, the lowest slot among equals. `None` when it fits nowhere.
    ///
    /// `machines` must be the same at each call, brought up to date in between by its own functions.
    pub fn choose(&mut self, machines: &GpuMachines, task: &GpuTask) -> Option<GpuChoice> {
        let costs = self.costs(machines, task);
        let mut best = (f32::INFINITY, None);
        for (slot, cost) in (0..).zip(&costs.costs) {
            if *cost < best.0 {
                best = (*cost, Some(slot));
            }
        }
        let machine: u32 = best.1?;
        Some(GpuChoice { machine, devices: costs.devices[machine as usize] })
    }

    /// The costs of all machines for a task, for the general placement: constraints, ties and alternates are then its matter.
    pub fn costs_for(&mut self, machines: &GpuMachines, task: &GpuTask) -> GpuCosts<'_> {
        let (name, whole) = (self.scoring.name(), self.scoring.whole());
        let costs = self.costs(machines, task);
        GpuCosts { name, whole, costs: &costs.costs, devices: &costs.devices }
    }

    /// What the scoring says of each machine as it stands, in slot order.
    pub fn standing(&mut self, machines: &GpuMachines) -> impl Iterator<Item = f64> + '_ {
        for slot in 0..machines.rows().len() {
            self.stand(machines, slot);
        }
        self.standing.iter().map(|(_, standing)| *standing)
    }

    fn stand(&mut self, machines: &GpuMachines, slot: usize) -> f64 {
        let stamp = machines.stamps()[slot];
        let known = self.standing.len();
        if known <= slot {
            self.standing.extend(machines.stamps()[known..=slot].iter().map(|stamp| (unlike(*stamp), 0.0)));
        }
        if self.standing[slot].0 != stamp {
            self.standing[slot] = (stamp, self.scoring.standing(&machines.rows()[slot]));
        }
        self.standing[slot].1
    }

    fn costs(&mut self, machines: &GpuMachines, task: &GpuTask) -> &Costs {
        let rows = machines.rows().len();
        if !self.shapes.contains_key(task) && (self.shapes.len() + 1).saturating_mul(rows) > REMEMBERED_MAX {
            self.shapes.clear();
        }
        let mut costs = self.shapes.remove(task).unwrap_or_default();
        let known = costs.stamps.len();
        costs.costs.resize(rows, f32::INFINITY);
        costs.devices.resize(rows, 0);
        costs.stamps.extend(machines.stamps()[known.min(rows)..].iter().map(|stamp| unlike(*stamp)));
        for slot in 0..rows {
            let stamp = machines.stamps()[slot];
            if costs.stamps[slot] == stamp {
                continue;
            }
            costs.stamps[slot] = stamp;
            let row = &machines.rows()[slot];
            if row.fits(task) {
                let standing = self.stand(machines, slot);
                let scored = self.scoring.place(row, standing, task);
                (costs.costs[slot], costs.devices[slot]) = (scored.cost, scored.devices);
            } else {
                costs.costs[slot] = f32::INFINITY;
            }
        }
        self.shapes.entry(*task).or_insert(costs)
    }
}

/// Stands beside a row of this stamp as long as nothing was reckoned of it. Each row needs its own: what is unlike one may be the stamp of another.
const fn unlike(stamp: u32) -> u32 {
    stamp.wrapping_sub(1)
}

/// Costs by machine for one task, as a [`Scoring`]. Machines on which the task does not fit are ruled out. Says nothing about a second task on the same
/// machine: ask for one at a time.
#[derive(Clone, Copy, Debug)]
pub struct GpuCosts<'a> {
    name: &'static str,
    whole: f32,
    costs: &'a [f32],
    devices: &'a [u16],
}

impl GpuCosts<'_> {
    /// The GPUs that the task takes on a machine that was not ruled out.
    #[must_use]
    pub fn devices(&self, machine: u32) -> u16 {
        self.devices.get(machine as usize).copied().unwrap_or(0)
    }
}

impl Scoring for GpuCosts<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn cost(&self, candidate: &Candidate, _task: &Amounts) -> f32 {
        let first = candidate.placed == 0;
        self.costs.get(candidate.machine as usize).copied().filter(|_| first).unwrap_or(f32::INFINITY)
    }

    fn whole(&self, _largest: &Amounts) -> f32 {
        self.whole
    }
}
