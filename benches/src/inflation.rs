//! The inflation experiment: tasks arrive until they ask for 130% of a cell's GPUs, none leaves, and what counts is how much of the GPUs is allocated.
//!
//! After Weng and others, *Beware of Fragmentation* (USENIX ATC 2023). Deciding is [`plenum_policies::gpu`], nothing of it is written again here; with
//! `through_core` each placement is a transaction that the production core decides, and the policy sees the cell that comes of it.
//!
//! | module | what it is |
//! |---|---|
//! | `orders` | who arrives when, and which machine is first: by seed |
//! | `through_core` | the cell in which placements are committed |
//! | `generated` | cells and lists for tests, and for whoever has no data |

pub(crate) mod generated;
pub(crate) mod orders;
#[cfg(test)]
mod tests;
mod through_core;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, bail};
use plenum_policies::gpu::{
    Counted, FragmentationGradient, GpuBestFit, GpuChoice, GpuClustering, GpuDotProduct, GpuMachine, GpuMachines,
    GpuPacking, GpuPlacer, GpuScoring, GpuTask, ModelSet, Prices, Target, WHOLE, Worth, random_fit,
};

use crate::figure::number;
use crate::random::Random;
use crate::traces::openb::{Node, Pod};
use through_core::Committed;

/// The policies, in the order of the published tables, ours last.
pub(crate) const POLICIES: [&str; 7] =
    ["random", "dot-product", "gpu-clustering", "gpu-packing", "best-fit", "fgd", "worth"];

/// Percent of the cell's GPUs that arrive in the end.
pub(crate) const ARRIVED_PERCENT: usize = 130;

/// Columns of the curves: 0 to 130, and what rounds to one more.
const COLUMNS: usize = ARRIVED_PERCENT + 2;

/// A cell, and a list of tasks to draw from.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) pods: Vec<Pod>,
}

impl Workload {
    /// Thousandths of all GPUs of the cell.
    pub(crate) fn capacity_millis(&self) -> u64 {
        self.nodes.iter().map(|node| u64::from(node.gpus) * u64::from(WHOLE)).sum()
    }

    /// The last column that so much reaches. Where one GPU of a task more may be too much, that is the end: so the tasks of a seed are drawn.
    fn last_column(&self, arrived_millis: u64) -> usize {
        let most = self.capacity_millis() * ARRIVED_PERCENT as u64 / 100;
        let largest = self.pods.iter().map(|pod| u64::from(pod.gpu_millis)).max().unwrap_or(0);
        if arrived_millis + largest > most {
            ARRIVED_PERCENT
        } else {
            column(100.0 * number(arrived_millis) / number(self.capacity_millis()))
        }
    }

    /// What the policies that want to know expect: the list as it is, not the order in which it comes.
    pub(crate) fn target(&self) -> Target {
        let mut models = self.numbers();
        let counted = |pod: &Pod| Counted { task: task(pod, &mut models), models: pod.models.clone(), count: 1 };
        Target::of(&self.pods.iter().map(counted).collect::<Vec<_>>())
    }

    /// Percent of the GPUs that would be allocated if the whole list, repeated for ever, were packed as well as it can be and nothing but GPUs ever ran out. Parts that
    /// are no whole hundredths of a GPU are packed rounded up: of a list with such parts more may be allocated.
    pub(crate) fn mix_limit_percent(&self) -> f64 {
        let prices = Prices::new(&self.target());
        let asked = number(self.pods.iter().map(Pod::all_gpu_millis).sum()) / f64::from(WHOLE);
        let whole = self.pods.iter().filter(|pod| pod.gpu_millis == WHOLE).map(|pod| u64::from(pod.gpus)).sum();
        let needed = number(whole) + prices.gpus_a_task() * number(self.pods.len() as u64);
        100.0 * asked / needed
    }

    /// Rows of the machines in an order, whose first is preferred where all else is equal.
    fn machines(&self, order: &[usize]) -> GpuMachines {
        let mut machines = self.numbers();
        for (slot, &position) in (0..).zip(order) {
            let node = &self.nodes[position];
            let model = machines.model_number(&node.model);
            machines.set(slot, GpuMachine::empty(node.cpu_millis, node.memory_mib, node.gpus, model));
        }
        machines
    }

    /// Numbers of models, the same for all orders.
    fn numbers(&self) -> GpuMachines {
        let mut machines = GpuMachines::default();
        for node in &self.nodes {
            machines.model_number(&node.model);
        }
        machines
    }
}

fn task(pod: &Pod, machines: &mut GpuMachines) -> GpuTask {
    let models = pod.models.split('|').filter(|model| !model.is_empty());
    let models = models.fold(ModelSet::ANY, |set, model| set.and(machines.model_number(model)));
    let Pod { cpu_millis, memory_mib, gpus: devices, gpu_millis: millis, .. } = *pod;
    GpuTask { cpu_millis, memory_mib, devices, millis, models }
}

/// One run's conditions.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    /// Positions of pods, as they arrive.
    pub(crate) arrivals: Vec<usize>,
    /// Positions of nodes: the first wins a tie.
    pub(crate) order: Vec<usize>,
    /// Of the policy that draws.
    pub(crate) seed: u64,
    /// Each placement is decided by the core, too.
    pub(crate) through_core: bool,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inflated {
    pub(crate) placed: u64,
    pub(crate) failed: u64,
    pub(crate) arrived_millis: u64,
    pub(crate) used_millis: u64,
    /// GPUs that the expected work cannot use in the end.
    pub(crate) fragmented: f64,
    /// Means over the arrivals that round to a percent, after each.
    pub(crate) allocated: Vec<Option<f64>>,
    /// Fragmentation in percent of all GPUs, likewise.
    pub(crate) fragmentation: Vec<Option<f64>>,
    /// Seconds of deciding, for each arrival.
    pub(crate) decision_seconds: f64,
    /// Seconds of committing, for each placement; 0 without the core.
    pub(crate) commit_seconds: f64,
    /// Node by arrival, where one was found.
    pub(crate) placements: Vec<Option<usize>>,
}

impl Inflated {
    /// Percent of the GPUs that are allocated when so many percent have arrived.
    pub(crate) fn allocated_at(&self, percent: usize) -> Option<f64> {
        self.allocated.get(percent).copied().flatten()
    }
}

/// Whoever decides.
enum Decider {
    Random(Random),
    By(Box<dyn Choose>),
}

trait Choose {
    fn choose(&mut self, machines: &GpuMachines, task: &GpuTask) -> Option<GpuChoice>;
}

impl<S: GpuScoring> Choose for GpuPlacer<S> {
    fn choose(&mut self, machines: &GpuMachines, task: &GpuTask) -> Option<GpuChoice> {
        Self::choose(self, machines, task)
    }
}

impl Decider {
    fn named(policy: &str, target: &Target, seed: u64) -> anyhow::Result<Self> {
        fn by(scoring: impl GpuScoring + 'static) -> Decider {
            Decider::By(Box::new(GpuPlacer::new(scoring)))
        }
        Ok(match policy {
            "random" => Self::Random(Random::new(seed)),
            "dot-product" => by(GpuDotProduct),
            "best-fit" => by(GpuBestFit),
            "gpu-clustering" => by(GpuClustering),
            "gpu-packing" => by(GpuPacking),
            "fgd" => by(FragmentationGradient::new(target)),
            "worth" => by(Worth::new(target)),
            other => bail!("--policy: expected {}, found {other:?}", POLICIES.join(", ")),
        })
    }

    fn choose(&mut self, machines: &GpuMachines, task: &GpuTask) -> Option<GpuChoice> {
        match self {
            Self::Random(random) => random_fit(machines, task, |bound| random.below(bound)),
            Self::By(placer) => placer.choose(machines, task),
        }
    }
}

/// Whether there is such a policy.
///
/// # Errors
/// With all their names, when there is none.
pub(crate) fn check_policy(policy: &str) -> anyhow::Result<()> {
    Decider::named(policy, &Target::default(), 0).map(drop)
}

/// Means by whole percent.
struct Columns(Vec<(f64, u32)>);

impl Columns {
    fn add(&mut self, column: usize, value: f64) {
        if let Some((sum, count)) = self.0.get_mut(column) {
            *sum += value;
            *count += 1;
        }
    }

    /// Of each column to this one. A column in which nobody arrived has the value of the one before: nothing changed since. Where a task asks for more
    /// than a percent of the cell there are such.
    fn means(self, last: usize) -> Vec<Option<f64>> {
        let mut before = None;
        let mean = |(column, (sum, count)): (usize, (f64, u32))| {
            if count > 0 {
                before = Some(sum / f64::from(count));
            }
            before.filter(|_| count > 0 || column <= last)
        };
        self.0.into_iter().enumerate().map(mean).take(ARRIVED_PERCENT + 1).collect()
    }
}

/// Runs one policy.
///
/// # Errors
/// When there is no such policy, or the core refuses what the policy took for granted.
pub(crate) fn inflate(workload: &Workload, policy: &str, conditions: &Conditions) -> anyhow::Result<Inflated> {
    let target = workload.target();
    let capacity = number(workload.capacity_millis());
    let mut machines = workload.machines(&conditions.order);
    let mut cell = match conditions.through_core {
        true => Some(Committed::new(workload, conditions)?),
        false => None,
    };
    let tasks = workload.pods.iter().map(|pod| task(pod, &mut machines)).collect::<Vec<_>>();
    let mut decider = Decider::named(policy, &target, conditions.seed)?;
    // The fragmentation of each machine is kept up to date, and only that of the machine that changed is reckoned again.
    let mut fragments = GpuPlacer::new(FragmentationGradient::new(&target));
    let (mut allocated, mut fragmentation) = (Columns(vec![(0.0, 0); COLUMNS]), Columns(vec![(0.0, 0); COLUMNS]));
    let mut inflated = Inflated::default();
    for &pod in &conditions.arrivals {
        let task = &tasks[pod];
        let began = Instant::now();
        let chosen = decider.choose(&machines, task);
        if let Some(choice) = chosen {
            machines.take(choice.machine, task, choice.devices);
        }
        inflated.decision_seconds += began.elapsed().as_secs_f64();
        inflated.arrived_millis += task.gpu_millis();
        if let Some(choice) = chosen {
            inflated.placed += 1;
            inflated.used_millis += task.gpu_millis();
            if let Some(cell) = &mut cell {
                let began = Instant::now();
                cell.commit(pod, choice).with_context(|| format!("{policy}, {}", workload.pods[pod].name))?;
                machines.follow(cell.cell(), Some(&[choice.machine]), through_core::KIND);
                inflated.commit_seconds += began.elapsed().as_secs_f64();
            }
        } else {
            inflated.failed += 1;
        }
        inflated.placements.push(chosen.map(|choice| conditions.order[choice.machine as usize]));
        let column = column(100.0 * number(inflated.arrived_millis) / capacity);
        let percent = 100.0 * number(inflated.used_millis) / capacity;
        allocated.add(column, (percent * 100.0).round() / 100.0);
        inflated.fragmented = fragments.standing(&machines).sum::<f64>() / f64::from(WHOLE);
        fragmentation.add(column, 100.0 * inflated.fragmented * f64::from(WHOLE) / capacity);
    }
    inflated.decision_seconds /= number(conditions.arrivals.len().max(1) as u64);
    inflated.commit_seconds /= number(inflated.placed.max(1));
    let last = workload.last_column(inflated.arrived_millis);
    (inflated.allocated, inflated.fragmentation) = (allocated.means(last), fragmentation.means(last));
    Ok(inflated)
}

/// The column of a percentage: half to even, as the published curves.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a few hundred")]
fn column(percent: f64) -> usize {
    percent.round_ties_even() as usize
}

/// Pods by name, for orders.
pub(crate) fn names(pods: &[Pod]) -> impl Iterator<Item = &str> {
    pods.iter().map(|pod| pod.name.as_str())
}

/// How many tasks of each pod arrive.
fn counts(arrivals: &[usize]) -> BTreeMap<usize, u32> {
    let mut counts = BTreeMap::new();
    for pod in arrivals {
        *counts.entry(*pod).or_default() += 1;
    }
    counts
}
