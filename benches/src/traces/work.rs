//! What all traces become: jobs of equal tasks, and classes of machines, in the units of the cell.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{Attributes, GroupShape, Partition, Quota, Resources, Special};

/// The custom resource of a cell that counts whole GPUs. Shares of GPUs are another experiment's matter.
pub(crate) const GPUS: usize = 0;

/// Memory, disk and the like of machines of which nobody told it, or more: beyond what any job asks for, so that it never decides. How much of it is used says
/// nothing.
pub(crate) const UNTOLD: u64 = 1 << 44;

/// What a run says of machines whose memory nobody told.
pub(crate) const MEMORY_UNTOLD: &str = "the memory of the machines is not told: it is enough for every job";

/// Whether somebody told the memory of these machines.
pub(crate) fn memory_is_told(machines: &[MachineClass]) -> bool {
    machines.iter().all(|class| class.capacity.memory_bytes < UNTOLD)
}

/// Microseconds of a second.
pub(crate) const SECOND: i64 = 1_000_000;

/// A job: equal tasks that are submitted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceJob {
    /// Unique in its trace.
    pub(crate) name: String,
    /// Whose it is; empty where the trace does not tell.
    pub(crate) user: String,
    /// What the trace itself calls its kind, such as a queue or a role; empty where it has none.
    pub(crate) class: String,
    /// From the trace's own beginning; never negative.
    pub(crate) submit_micros: i64,
    /// How long each task runs; `None`: to the end of the trace.
    pub(crate) run_micros: Option<i64>,
    /// How long its user said it would; what backfilling relies on. `None`: unknown.
    pub(crate) estimate_micros: Option<i64>,
    /// At least one.
    pub(crate) tasks: u32,
    /// What each task asks for.
    pub(crate) each: Resources,
    /// All tasks start together, as those of a parallel program do. Otherwise each starts when it has a machine.
    pub(crate) gang: bool,
    /// What each task asks for besides room, where the job comes from a cell.
    pub(crate) asks: Option<Arc<Declared>>,
}

/// What a job of a live cell is held to besides room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declared {
    /// Whose quota it counts against.
    pub(crate) namespace: Arc<str>,
    /// Partitions may reserve machines for it.
    pub(crate) scheduler: Arc<str>,
    /// Constraints, affinities, spread, limits of machines, ports. The other fields say nothing.
    pub(crate) shape: GroupShape,
}

/// What operators laid down in a live cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Laws {
    pub(crate) partitions: Vec<(Arc<str>, Partition)>,
    /// By namespace, in the resources of the trace.
    pub(crate) quotas: Vec<(Arc<str>, Quota)>,
}

impl TraceJob {
    /// Whether where one task runs matters to where others may.
    pub(crate) fn is_special(&self) -> bool {
        self.asks.as_ref().is_some_and(|asks| Special::is_needed_by(&asks.shape))
    }
}

/// Machines that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MachineClass {
    pub(crate) name: String,
    pub(crate) count: u32,
    pub(crate) capacity: Resources,
    /// What its machines have, alike ones together: of fewer or more machines each kind has its share; empty: none has any.
    pub(crate) attributes: Vec<Arc<Attributes>>,
}

/// A trace that can be replayed.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    /// The file's name.
    pub(crate) name: String,
    /// By submission; those of the same moment as they stand in the file.
    pub(crate) jobs: Vec<TraceJob>,
    /// Rows that are no job that could run, by the reason.
    pub(crate) left_out: BTreeMap<&'static str, u64>,
    /// The machines that the trace itself names, if it does.
    pub(crate) machines: Vec<MachineClass>,
    /// What else holds on these machines; nothing where the trace is no cell.
    pub(crate) laws: Laws,
    /// What was assumed where the trace is silent: stands in every report.
    pub(crate) assumed: Vec<String>,
}

impl Trace {
    /// A trace whose jobs are put in order.
    pub(crate) fn new(name: &str, mut jobs: Vec<TraceJob>) -> Self {
        jobs.sort_by_key(|job| job.submit_micros);
        let (left_out, machines, assumed) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { name: name.to_owned(), jobs, left_out, machines, laws: Laws::default(), assumed }
    }

    /// The jobs of both on the machines of this one, those of the same moment first from here.
    pub(crate) fn and(self, other: Self) -> Self {
        let mut both = Self::new(&format!("{}+{}", self.name, other.name), [self.jobs, other.jobs].concat());
        (both.machines, both.laws) = (self.machines, self.laws);
        both.assumed = [self.assumed, other.assumed].concat();
        both.left_out = self.left_out;
        for (reason, count) in other.left_out {
            *both.left_out.entry(reason).or_default() += count;
        }
        both
    }
}

/// CPU, memory and whole GPUs.
pub(crate) fn resources(cpu_millis: u64, memory_bytes: u64, gpus: u64) -> Resources {
    let mut resources = Resources::new(cpu_millis, memory_bytes);
    resources.custom[GPUS] = gpus;
    resources
}

/// A number of units as whole thousandths of them, rounded. For numbers that were read with a bound far below 2^50.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "read as 0 to a bound far below 2^50")]
pub(crate) fn thousandths(value: f64) -> u64 {
    (value * 1000.0).round() as u64
}

/// Seconds as microseconds. For times that were read with a bound far below 2^50 microseconds.
#[allow(clippy::cast_possible_truncation, reason = "read with a bound far below 2^50 microseconds")]
pub(crate) fn micros(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}

/// Whole seconds as microseconds. For times that were read with a bound.
pub(crate) fn whole_micros(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX / SECOND).saturating_mul(SECOND)
}

/// A part of the largest machine's memory in bytes, where a trace tells parts only: 2^38 is all of it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part from 0 to 1 of 2^38")]
pub(crate) fn memory_of_part(part: f64) -> u64 {
    (part * PARTS_MEMORY_BYTES).round() as u64
}

/// All of the memory of the largest machine of a trace that tells parts only.
const PARTS_MEMORY_BYTES: f64 = 274_877_906_944.0;
