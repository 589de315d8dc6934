//! Worth: the task goes where it costs least of what the machine could have done for the work to come.
//!
//! Three questions, the first decides, the next where it leaves a tie:
//!
//! 1. **Is the GPU cut well?** A part of a GPU has a price ([`Prices`]): what it costs, in GPUs, when all expected parts are cut from as few
//!    GPUs as possible. Cutting a part from a hole loses what the hole was worth, less what the rest is worth, less the part's price. Nothing is lost
//!    by a cut that belongs to some best packing; the least loss wins, in hundredths of a GPU.
//! 2. **Can the rest still be used?** The rest of a machine is worth, to an expected task, the worth of all its holes, but no more than as
//!    many tasks of that kind as CPU and memory still let in, at their price. Averaged over the expected work, this falls where CPU runs out before the GPUs do,
//!    where blocks of GPUs are broken that some tasks need whole, and where few models suit. Less is lost where the task's mix is the machine's.
//! 3. **Else the first machine**, so that machines fill up one after another and whole ones stay for those who need them. Losses are alike
//!    when they round to the same fifth of a GPU: the average over the expected work is no better known than that, because a fifth is about the
//!    least part that is asked for and worth anything.
//!
//! The fragmentation gradient asks only whether *one* more task of each kind fits. It cannot see that a machine with eight free GPUs has CPU for five, nor that a
//! hole of 0.53 is worth half a GPU to one kind and nothing to most. `docs/gpu-placement.md` has the measurements.
//!
//! Source: dual prices as the worth of resources are those of bid-price control (Talluri and van Ryzin, *An Analysis of Bid-Price Controls for Network
//! Revenue Management*, Management Science 44, 1998) and of interior-point online packing (Gupta and Radovanović, Operations Research 68, 2020); how they
//! are put together here is ours.

use super::prices::Prices;
use super::target::Target;
use super::{GpuMachine, GpuScoring, GpuTask, ModelSet, Scored};

/// Losses by cutting are told apart by hundredths of a GPU: so finely are sizes.
const CUT_STEPS: f64 = 100.0;

/// Losses of use are told apart by fifths of a GPU; see the module.
const USE_STEPS: f64 = 5.0;

/// A step of the first question outweighs all of the second, which has at most 16 GPUs of five steps.
const CUT_WEIGHT: f64 = 1024.0;

/// A class of expected tasks as this scoring sees it.
#[derive(Clone, Copy, Debug)]
struct Use {
    cpu_millis: i64,
    memory_mib: i64,
    devices: usize,
    models: ModelSet,
    /// In GPUs.
    price: f64,
    weight: f64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Worth {
    prices: Prices,
    uses: Vec<Use>,
}

impl Worth {
    /// For this work.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let prices = Prices::new(target);
        let mut uses = Vec::new();
        for class in target.classes().iter().filter(|class| class.task.devices > 0) {
            let GpuTask { cpu_millis, memory_mib, devices, millis, models } = class.task;
            let price = f64::from(devices) * prices.piece(millis);
            // What always fits into what is lost anyway needs no room to be kept.
            if price > 0.0 {
                let (cpu_millis, memory_mib, devices) = (cpu_millis.into(), memory_mib.into(), devices.into());
                uses.push(Use { cpu_millis, memory_mib, devices, models, price, weight: class.weight });
            }
        }
        let all = uses.iter().map(|expected| expected.weight).sum::<f64>();
        uses.iter_mut().for_each(|expected| expected.weight /= all);
        Self { prices, uses }
    }

    /// The prices that it reckons with.
    #[must_use]
    pub fn prices(&self) -> &Prices {
        &self.prices
    }

    /// What the room of a machine is worth to a task of the expected work, on average, in GPUs.
    #[must_use]
    pub fn worth(&self, machine: &GpuMachine) -> f64 {
        let holes = machine.free().iter().map(|free| self.prices.hole(*free)).sum::<f64>();
        let whole = machine.whole();
        let mut worth = 0.0;
        for expected in &self.uses {
            if !expected.models.suits(machine.model) {
                continue;
            }
            let usable = match expected.devices {
                1 => holes,
                block => f64::from(u8::try_from(whole / block * block).expect("at most 16 GPUs")),
            };
            let tasks =
                times(machine.cpu_millis, expected.cpu_millis).min(times(machine.memory_mib, expected.memory_mib));
            worth += expected.weight * usable.min(f64::from(tasks) * expected.price);
        }
        worth
    }

    fn cost(&self, machine: &GpuMachine, before: f64, task: &GpuTask, devices: u16) -> f32 {
        let mut after = machine.clone();
        after.take(task, devices);
        let lost_by_use = before - self.worth(&after);
        let lost_by_cutting = if task.shares() {
            let left = |machine: &GpuMachine| self.prices.hole(machine.free()[devices.trailing_zeros() as usize]);
            left(machine) - left(&after) - self.prices.piece(task.millis)
        } else {
            0.0
        };
        steps((lost_by_cutting * CUT_STEPS).round() * CUT_WEIGHT + (lost_by_use * USE_STEPS).round())
    }
}

impl GpuScoring for Worth {
    fn name(&self) -> &'static str {
        "worth"
    }

    fn standing(&self, machine: &GpuMachine) -> f64 {
        self.worth(machine)
    }

    /// A whole GPU that is lost by cutting.
    fn whole(&self) -> f32 {
        steps(CUT_STEPS * CUT_WEIGHT)
    }

    fn place(&self, machine: &GpuMachine, standing: f64, task: &GpuTask) -> Scored {
        if !task.shares() {
            let devices = machine.tightest(task);
            return Scored { cost: self.cost(machine, standing, task, devices), devices };
        }
        let mut best = (u16::MAX, Scored { cost: f32::INFINITY, devices: 0 });
        for (position, free) in machine.free().iter().enumerate() {
            if *free < task.millis || machine.free()[..position].contains(free) {
                continue;
            }
            let cost = self.cost(machine, standing, task, 1 << position);
            // Of a machine's GPUs that are equally good, the one with the least left.
            if cost < best.1.cost || (cost == best.1.cost && *free < best.0) {
                best = (*free, Scored { cost, devices: 1 << position });
            }
        }
        best.1
    }
}

/// How often an amount goes into what is free; at most 2^16 times, which is more than any machine runs.
fn times(free: i64, amount: i64) -> u32 {
    let times = if amount == 0 { i64::MAX } else { free / amount };
    u32::try_from(times.clamp(0, 1 << 16)).expect("clamped")
}

/// A whole number below 2^24.
#[allow(clippy::cast_possible_truncation, reason = "at most 100 steps of 1024, and 80")]
fn steps(number: f64) -> f32 {
    number as f32
}
