//! How good a machine is for a task: one number for each, and a page of this folder for each way to reckon it.
//!
//! A scoring knows nothing of columns, ties, samples or constraints: it says what it costs to put a task on a machine on which it fits. So a team's own scoring is a struct and one function, in a crate of its own:
//!
//! ```
//! use plenum_policies::{Amounts, Candidate, Scoring};
//!
//! /// Machines of even number first.
//! struct EvenFirst;
//!
//! impl Scoring for EvenFirst {
//!     fn name(&self) -> &str {
//!         "even-first"
//!     }
//!
//!     fn cost(&self, candidate: &Candidate, _task: &Amounts) -> f32 {
//!         if candidate.machine % 2 == 0 { 0.0 } else { 1.0 }
//!     }
//! }
//! ```

mod best_fit;
mod consolidation;
mod dot_product;
mod first_fit;
mod spread;
mod tetris;
mod worst_fit;

pub use best_fit::{BestFit, MEMORY_MIB_PER_CPU_MILLI};
pub use consolidation::Consolidation;
pub use dot_product::DotProduct;
pub use first_fit::FirstFit;
pub use spread::Spread;
pub use tetris::Tetris;
pub use worst_fit::WorstFit;

/// Amounts as scorings see them: rounded to whole units, and then to 24 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amounts {
    /// Thousandths of a core.
    pub cpu_millis: f32,
    /// Memory in units of 2^20 bytes; free room and capacity rounded down, what tasks ask for rounded up.
    pub memory_mib: f32,
    /// Disk in units of 2^20 bytes, rounded as memory is.
    pub disk_mib: f32,
}

/// A machine on which the task fits, before it is put there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its slot.
    pub machine: u32,
    /// What is free, less what is promised, and less what earlier tasks of the same decision took. Never negative.
    pub free: Amounts,
    /// All there is.
    pub capacity: Amounts,
    /// One over the capacity, 0 where there is none: a product with it is a share, without the price of a division.
    pub per_capacity: Amounts,
    /// Tasks of the same group on it, earlier ones of the same decision included. 0 where the request names no siblings.
    pub siblings: u32,
    /// Tasks of the same decision that were put there before this one. `free` has them subtracted; for columns of one's own a scoring has to
    /// do that itself.
    pub placed: u32,
}

impl Amounts {
    /// From amounts of CPU, memory and disk in whole units.
    #[inline]
    #[allow(clippy::cast_precision_loss, reason = "24 bits are what scorings see")]
    pub(crate) const fn of(units: [i32; 3]) -> Self {
        Self { cpu_millis: units[0] as f32, memory_mib: units[1] as f32, disk_mib: units[2] as f32 }
    }

    /// One over each, 0 where there is none.
    pub(crate) fn inverse(&self) -> Self {
        let over = |amount: f32| if amount > 0.0 { 1.0 / amount } else { 0.0 };
        Self { cpu_millis: over(self.cpu_millis), memory_mib: over(self.memory_mib), disk_mib: over(self.disk_mib) }
    }

    /// The larger of both, in each resource.
    pub(crate) const fn upper(&self, other: &Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.max(other.cpu_millis),
            memory_mib: self.memory_mib.max(other.memory_mib),
            disk_mib: self.disk_mib.max(other.disk_mib),
        }
    }
}

/// What it costs to put a task on a machine. The lowest cost wins; ties go by the request's rule, never by the scoring.
///
/// **A cost depends on its machine and the task alone**: not on other machines, and not on when it is asked for. Then the best of all machines for
/// k equal tasks is found exactly after one look at each, and what was found stays true until the machine's row changes. A scoring whose costs
/// depend on more is a [`Following`] one.
///
/// **Columns of one's own** (devices, topology, measured load) belong to the struct that implements this: a slice with an entry for each
/// slot, brought up to date by its owner from the same list of changed slots that the columns follow, borrowed for the decision, and looked up by
/// [`Candidate::machine`]. Machines that those columns rule out cost [`f32::INFINITY`]. The GPU scorings do this with the devices that a machine
/// has free; [`Candidate::placed`] tells them how many of the tasks before this one they have to reckon with.
pub trait Scoring {
    /// What inspection shows: at most 63 bytes.
    fn name(&self) -> &str;

    /// What it costs. The same arguments give the same bits, on every machine. [`f32::INFINITY`] rules the machine out, and so does what is no
    /// number. All else is a cost, [`f32::NEG_INFINITY`] too.
    ///
    /// Asked about whole blocks of 64 slots, though what it says counts only where there is a machine on which the task fits: any slot and any
    /// amounts may come, and it must not panic. Columns of one's own are looked up with `get`.
    ///
    /// Runs once for each machine of the cell at each full decision. Straight arithmetic on `candidate` and `task`, inlined and without
    /// branches, is compiled for eight machines at a time; a look into columns of one's own takes some nanoseconds a machine.
    fn cost(&self, candidate: &Candidate, task: &Amounts) -> f32;

    /// How far apart costs are for an empty machine and a full one, at most; `largest` is the largest capacity of any machine. An affinity's
    /// weight of 100 is worth as much, so that it outweighs whatever the scoring says.
    fn whole(&self, largest: &Amounts) -> f32 {
        let _ = largest;
        1.0
    }
}

impl<S: Scoring + ?Sized> Scoring for &S {
    fn name(&self) -> &str {
        (**self).name()
    }

    #[inline]
    fn cost(&self, candidate: &Candidate, task: &Amounts) -> f32 {
        (**self).cost(candidate, task)
    }

    fn whole(&self, largest: &Amounts) -> f32 {
        (**self).whole(largest)
    }
}

/// A scoring whose costs depend on where the tasks before went, beyond their own machine: on the rack, say.
pub trait Following: Scoring {
    /// A task was put on `machine`. Adds to `touched` the slots of all *other* machines whose cost is another one now.
    fn placed(&mut self, machine: u32, touched: &mut Vec<u32>);
}
