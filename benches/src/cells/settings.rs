//! What an experiment sets: architecture, cell, costs of deciding, and the rules of retrying.

use plenum_model::ConflictCheck;

use super::workload::CellShape;

/// How schedulers share the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    /// One scheduler, with one decision time for all jobs.
    MonoSingle,
    /// One scheduler that decides faster on Batch.
    MonoMulti,
    /// Each stream has machines of its own, and a monolithic scheduler.
    Partitioned,
    /// Two levels: an allocator offers all that is free to one framework at a time (Mesos).
    Mesos,
    /// Everybody sees everything, and decisions meet at commit (Omega).
    Omega,
}

impl Arch {
    pub(crate) const ALL: [Self; 5] = [Self::MonoSingle, Self::MonoMulti, Self::Partitioned, Self::Mesos, Self::Omega];

    /// Its name in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::MonoSingle => "mono-single",
            Self::MonoMulti => "mono-multi",
            Self::Partitioned => "partitioned",
            Self::Mesos => "mesos",
            Self::Omega => "omega",
        }
    }
}

/// What a transaction does when some of its claims are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    /// The others are granted.
    Incremental,
    /// It has no effect.
    AllOrNothing,
}

/// Time that a decision takes: `job + task * tasks that have no machine yet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) job_micros: i64,
    pub(crate) task_micros: i64,
}

impl Cost {
    pub(crate) fn of(self, tasks: usize) -> i64 {
        self.job_micros + self.task_micros * i64::try_from(tasks).unwrap_or(i64::MAX / 1_000_000_000)
    }
}

/// When a scheduler tries again, and when it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retrying {
    /// A job with tasks left goes to the back of the queue after this time.
    pub(crate) after_micros: i64,
    /// More attempts than this without any task placed: abandoned.
    pub(crate) fruitless_most: u32,
    /// More attempts than this: abandoned.
    pub(crate) attempts_most: u32,
    /// Whether an attempt that found no machine at all counts as time that the scheduler was busy.
    pub(crate) fruitless_is_busy: bool,
    /// Whether the first event beyond the horizon still happens.
    pub(crate) one_event_late: bool,
}

/// The rules of the public simulator (google/cluster-scheduler-simulator), with what is odd in them.
pub(crate) const REFERENCE: Retrying = Retrying {
    after_micros: 1_000_000,
    fruitless_most: 100,
    attempts_most: 1000,
    fruitless_is_busy: false,
    one_event_late: false,
};

/// What the paper says: at most 1,000 attempts, and all decision time is time that a scheduler is busy. When a job comes again it
/// does not say; as above.
pub(crate) const PAPER: Retrying = Retrying {
    after_micros: 1_000_000,
    fruitless_most: 1000,
    attempts_most: 1000,
    fruitless_is_busy: true,
    one_event_late: false,
};

/// What the paper has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Beyond {
    /// Spare machines that a transaction names, in percent of its claims, and at least one if this is not 0.
    pub(crate) alternates_percent: u32,
    /// Schedulers draw from machines of their own first, and from those of others when none of these has room.
    pub(crate) own_first: bool,
    /// Jobs have constraints on machines' attributes.
    pub(crate) constraints: bool,
    /// How machines are chosen.
    pub(crate) choice: Choice,
}

/// How machines are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Choice {
    /// Randomised first fit, as in the paper.
    #[default]
    RandomFirstFit,
    /// Exactly the best-fitting of all machines, ties to the lowest: what everybody does who looks for the best.
    BestFit,
    /// The same, but equals are in an order of its own for each scheduler.
    BestFitDecorrelated,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) cell: &'static CellShape,
    pub(crate) horizon_micros: i64,
    pub(crate) arch: Arch,
    pub(crate) check: ConflictCheck,
    pub(crate) commit: Commit,
    pub(crate) batch_schedulers: u32,
    pub(crate) batch: Cost,
    pub(crate) service: Cost,
    /// Multiplies the arrivals of Batch.
    pub(crate) rate: f64,
    pub(crate) workload_seed: u64,
    pub(crate) scheduler_seed: u64,
    pub(crate) retrying: Retrying,
    pub(crate) beyond: Beyond,
}
