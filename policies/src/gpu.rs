//! Machines for tasks that need graphics processors, whole ones or thousandths of one.
//!
//! | module | what it is |
//! |---|---|
//! | `machines` | what each machine has free, GPU by GPU, and the tasks that ask for it |
//! | `target` | the work that is expected: tasks and how often each comes |
//! | `placer` | the best of all machines; costs are kept and reckoned again only for machines that changed |
//! | `best_fit`, `dot_product`, `packing`, `clustering`, `random` | what others do, as in the experiments of the fragmentation gradient's authors |
//! | `fragmentation` | their fragmentation gradient |
//! | `worth` | our own: what a machine's room is worth for the work to come |
//! | `prices` | what a part of a GPU is worth, from the best packing of the expected work |
//!
//! A scoring looks at one machine and one task, and says what placing costs and which GPUs it takes. Knows no cell state besides what
//! [`GpuMachines::follow`] reads; what it chose is named in the claim, and the core judges it as any other.

mod best_fit;
mod clustering;
mod dot_product;
mod fragmentation;
mod machines;
mod packing;
mod placer;
mod prices;
mod random;
mod target;
mod worth;

pub use best_fit::GpuBestFit;
pub use clustering::GpuClustering;
pub use dot_product::GpuDotProduct;
pub use fragmentation::FragmentationGradient;
pub use machines::{DEVICES_MAX, GpuMachine, GpuMachines, GpuTask, ModelSet, WHOLE};
pub use packing::GpuPacking;
pub use placer::{GpuChoice, GpuCosts, GpuPlacer};
pub use prices::{Prices, SIZES};
pub use random::random_fit;
pub use target::{Counted, Target};
pub use worth::Worth;

/// What it costs to put a task on a machine, and on which of its GPUs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The lowest wins; ties go by the placer's rule. Whole numbers up to 2^24 are exact.
    pub cost: f32,
    /// The GPUs to take: bit by position.
    pub devices: u16,
}

/// A way to rank machines for tasks with GPUs.
///
/// Both functions depend on their arguments alone, so that what they said stays true until the machine changes.
pub trait GpuScoring {
    /// What inspection shows: at most 63 bytes.
    fn name(&self) -> &'static str;

    /// The part of a cost that depends on the machine alone, before anything is placed. The placer keeps it for as long as the machine does
    /// not change.
    fn standing(&self, machine: &GpuMachine) -> f64 {
        let _ = machine;
        0.0
    }

    /// How far costs are apart, from one that hardly matters to one that decides: by it wishes for machines are weighed.
    fn whole(&self) -> f32 {
        100.0
    }

    /// What it costs to put the task there. Asked only about machines on which it fits.
    fn place(&self, machine: &GpuMachine, standing: f64, task: &GpuTask) -> Scored;
}

#[cfg(test)]
mod tests;
