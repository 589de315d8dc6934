//! The paged picture of the cell: the state of the core and the mirror of every scheduler alike.
//!
//! A clone is a snapshot: it costs some reference counts, and neither side sees what the other changes later.

mod apply;
mod classes;
mod compare;
mod extras;
mod governance;
mod jobs;
mod read;
mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use apply::FoldError;
pub use extras::InUse;
pub use read::AllocationRef;
pub use restore::{Governance, Restore, RestoreError, RestoredAllocation};

use crate::alike::Alike;
use crate::name_index::NameIndex;
use crate::{
    AllocationExtra, AllocationRow, Attributes, CellIdentity, GroupRow, Hold, Job, JobId, LogTime, Machine, MachineRow,
    Paged, Partition, Quota, Resources, Revision, Rights, Session, SessionId, StatusByte, TaskPast, TaskState,
    UnknownId, UnknownTask,
};

/// Rows a page of each table. What a grant or a stop writes is small and dense, so that a copy costs little.
pub mod page_rows {
    /// 32 bytes each: 8 KiB.
    pub const MACHINES: usize = 256;
    /// Free amounts besides CPU and memory, 48 bytes each.
    pub const REST: usize = 64;
    /// Pointers.
    pub const JOBS: usize = 64;
    /// 48 bytes each.
    pub const GROUPS: usize = 64;
    /// 8 bytes each: 2 KiB.
    pub const TASKS: usize = 256;
    /// 1 byte each: 4 KiB.
    pub const TASK_STATES: usize = 4096;
    /// 64 bytes each: 4 KiB.
    pub const ALLOCATIONS: usize = 64;
    /// 1 byte each: 4 KiB.
    pub const STATUS: usize = 4096;

    const _: () = assert!(
        TASK_STATES.is_multiple_of(TASKS) && STATUS.is_multiple_of(ALLOCATIONS),
        "what is read beside a page stands in one"
    );
}

/// Free disk and named resources of a machine.
pub type RestRow = [i64; crate::DIMENSIONS - 2];

/// A slot of the table of jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobSlot {
    /// Stays when the job is retired.
    pub generation: u32,
    /// The tenant.
    pub job: Option<Arc<Job>>,
}

/// A slot of the table of machines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineSlot {
    /// Stays when the machine is removed.
    pub generation: u32,
    /// The tenant.
    pub machine: Option<Arc<Machine>>,
}

/// The cell at one revision.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub(crate) revision: Revision,
    pub(crate) time: LogTime,
    pub(crate) identity: Arc<CellIdentity>,
    pub(crate) scheduler_names: Arc<Vec<Arc<str>>>,
    pub(crate) shapes: Arc<Vec<Resources>>,
    pub(crate) shape_numbers: Arc<BTreeMap<Resources, u32>>,
    pub(crate) classes: Arc<Vec<Arc<Attributes>>>,
    pub(crate) class_numbers: Arc<BTreeMap<Arc<Attributes>, u32>>,
    /// Invariant: what `machines` say.
    pub(crate) class_machines: classes::ClassMachines,
    /// Invariant: those of `class_machines` above 0.
    pub(crate) classes_in_use: usize,
    pub(crate) class_numbering: u64,
    pub(crate) machines: Paged<MachineRow, { page_rows::MACHINES }>,
    pub(crate) rest: Paged<RestRow, { page_rows::REST }>,
    /// Machines whose agents have not been heard since the cell was restored. Invariant: what `machines` and `identity` say, as
    /// `unheard_machines_derived` counts it.
    pub(crate) unheard: u32,
    pub(crate) machine_slots: Paged<MachineSlot, { page_rows::MACHINES }>,
    pub(crate) machines_by_name: NameIndex,
    /// Not of the state: what machines had lately, so that others share it.
    pub(crate) alike: Arc<Alike>,
    pub(crate) jobs: Paged<JobSlot, { page_rows::JOBS }>,
    pub(crate) jobs_by_name: NameIndex,
    pub(crate) groups: Paged<GroupRow, { page_rows::GROUPS }>,
    /// Written by grants and failures, as `task_states` is by everything that becomes of a task. Invariant: as long as that.
    pub(crate) tasks: Paged<TaskPast, { page_rows::TASKS }>,
    pub(crate) task_states: Paged<TaskState, { page_rows::TASK_STATES }>,
    /// Written once, at the grant. A free row has its last tenant's generation, and nothing else of it counts.
    pub(crate) allocations: Paged<AllocationRow, { page_rows::ALLOCATIONS }>,
    pub(crate) statuses: Paged<StatusByte, { page_rows::STATUS }>,
    /// As long as the last allocation that has one: most cells have few.
    pub(crate) extras: Paged<Option<Arc<AllocationExtra>>, { page_rows::ALLOCATIONS }>,
    /// By machine, what `extras` and `unknown` have there. Invariant: what `InUse::of` gives.
    pub(crate) in_use: Paged<Option<Arc<InUse>>, { page_rows::REST }>,
    /// The page of allocations that grants fill: that of the last one granted.
    pub(crate) filling: Option<u32>,
    pub(crate) live: u32,
    pub(crate) sessions: Arc<BTreeMap<SessionId, Arc<Session>>>,
    pub(crate) quotas: Arc<BTreeMap<Arc<str>, Quota>>,
    pub(crate) holds: Arc<BTreeMap<JobId, Arc<Hold>>>,
    /// By machine, the jobs that hold room there. Invariant: what `holds` say.
    pub(crate) held: Paged<Option<Arc<governance::Held>>, { page_rows::REST }>,
    pub(crate) partitions: Arc<BTreeMap<Arc<str>, Partition>>,
    pub(crate) unknown: Arc<BTreeMap<UnknownId, Arc<UnknownTask>>>,
    /// The same by what they are. Invariant: what `unknown` says, so that there is no `misnamed_unknown`.
    pub(crate) unknown_by_name: Arc<BTreeSet<(governance::TaskName, UnknownId)>>,
    pub(crate) paused: Arc<BTreeSet<Arc<str>>>,
    /// Of schedulers that are granted something else than usual.
    pub(crate) rights: Arc<BTreeMap<Arc<str>, Rights>>,
}

/// The name of the machine in a slot; empty where none is.
fn name_in(slots: &Paged<MachineSlot, { page_rows::MACHINES }>, slot: u32) -> &str {
    slots.get(slot).and_then(|slot| slot.machine.as_deref()).map_or("", |machine| &machine.name)
}

/// The namespace and the name of the job in a slot; empty where none is.
fn job_name_in(jobs: &Paged<JobSlot, { page_rows::JOBS }>, slot: u32) -> (&str, &str) {
    jobs.get(slot).and_then(|slot| slot.job.as_deref()).map_or(("", ""), name_of_job)
}

fn name_of_job(job: &Job) -> (&str, &str) {
    (&job.shape.namespace, &job.shape.name)
}

#[cfg(test)]
mod tests;
