//! What one command changed. Folding all deltas in order gives the cell; nothing is decided while folding.

use std::sync::Arc;

use crate::{
    AllocationId, AllocationState, AllocationStatus, Device, Hold, Job, JobId, JobState, LogTime, Machine, MachineId,
    Partition, Port, Quota, Resources, Revision, Rights, SessionId, TakeOver, TaskState, UnknownId, UnknownTask,
};

/// What one command changed, in the order in which it is applied.
///
/// Rooms, counters and attempts are not in it: folding derives them from grants and ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The command's.
    pub revision: Revision,
    /// The batch's.
    pub time: LogTime,
    /// A server started.
    pub cell: Option<CellIdentity>,
    /// Names of schedulers that were used for the first time; they get the next numbers.
    pub scheduler_names: Vec<Arc<str>>,
    /// Numbers of names that nobody goes by any more, with those that they stand for from now on.
    pub renamed: Vec<(u16, Arc<str>)>,
    /// Resources that were used for the first time; they get the next numbers.
    pub shapes: Vec<Resources>,
    /// Numbers of resources that nobody has any more, with those that they stand for from now on.
    pub reshaped: Vec<(u32, Resources)>,
    /// Machines as they are now.
    pub machines: Vec<Arc<Machine>>,
    /// Allocations that stay live.
    pub moves: Vec<Move>,
    /// Allocations that ended; their room is free.
    pub ends: Vec<End>,
    /// Tasks whose state changed other than by a grant.
    pub tasks: Vec<TaskChange>,
    /// Changes of jobs.
    pub jobs: Vec<JobChange>,
    /// New allocations.
    pub grants: Vec<Grants>,
    /// Changes of sessions.
    pub sessions: Vec<SessionChange>,
    /// Quotas as they are now; `None`: removed.
    pub quotas: Vec<(Arc<str>, Option<Quota>)>,
    /// Holds as they are now; `None`: gone.
    pub holds: Vec<(JobId, Option<Hold>)>,
    /// Partitions as they are now; `None`: removed.
    pub partitions: Vec<(Arc<str>, Option<Partition>)>,
    /// Tasks that agents found and the cell does not know, as they are now; `None`: gone.
    pub unknown: Vec<(UnknownId, Option<Arc<UnknownTask>>)>,
    /// Schedulers that are kept out, or no more.
    pub paused: Vec<(Arc<str>, bool)>,
    /// What schedulers are granted now.
    pub rights: Vec<(Arc<str>, Rights)>,
}

impl Delta {
    /// A delta of this revision without any change.
    #[must_use]
    pub fn new(revision: Revision, time: LogTime) -> Self {
        Self { revision, time, ..Self::default() }
    }
}

/// Which cell it is, and which life of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellIdentity {
    /// Random, given at the very first start.
    pub cell_id: [u8; 16],
    /// Raised by a restore and by an accepted loss.
    pub incarnation: u64,
    /// Raised by each start of a server.
    pub term: u64,
    /// Names of `Resources::custom`.
    pub custom_resources: Vec<Arc<str>>,
}

/// A change of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobChange {
    /// Submitted, or its shape replaced. `task_bases` has the first task row of each group.
    Put {
        /// The job as it is now.
        job: Arc<Job>,
        /// One for each group.
        task_bases: Vec<u32>,
    },
    /// It stands elsewhere.
    State {
        /// Which.
        id: JobId,
        /// Where it stands.
        state: JobState,
        /// Why.
        reason: Arc<str>,
    },
    /// A group was scaled, or has to wait.
    Group {
        /// Its row in the table of groups.
        row: u32,
        /// Tasks now. New ones wait.
        count: u32,
        /// None of them may be placed before.
        not_before: LogTime,
        /// The first row of its tasks: another one when they outgrew their place.
        task_base: u32,
    },
    /// Retired.
    Removed(JobId),
    /// The machine that all its tasks run on.
    Home {
        /// Which.
        id: JobId,
        /// Slot of the machine.
        machine: Option<u32>,
    },
    /// A job was launched from it.
    Launched {
        /// Which.
        id: JobId,
        /// For which instant, in microseconds.
        instant_micros: i64,
    },
}

/// New allocations of tasks of one group: columns of equal length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Of which job.
    pub job: JobId,
    /// The group's position in the job.
    pub group: u16,
    /// The group's row.
    pub group_row: u32,
    /// The job's version.
    pub job_version: u32,
    /// What each got.
    pub shape: u32,
    /// Who placed them.
    pub scheduler: u16,
    /// The transaction's session.
    pub session: SessionId,
    /// The transaction's number.
    pub number: u32,
    /// Slots of machines.
    pub machines: Vec<u32>,
    /// Task indexes.
    pub tasks: Vec<u32>,
    /// Slots of the allocations.
    pub slots: Vec<u32>,
    /// Generations of the allocations.
    pub generations: Vec<u32>,
    /// By position, where there are some.
    pub extras: Vec<GrantExtra>,
}

/// What one grant has beyond resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantExtra {
    /// Position in the columns.
    pub claim: u32,
    /// Devices.
    pub devices: Vec<Device>,
    /// Ports, dynamic ones chosen.
    pub ports: Vec<Port>,
    /// Room of those who leave.
    pub takes_over: Vec<TakeOver>,
}

/// A live allocation stands elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its slot.
    pub slot: u32,
    /// Where it stands; live.
    pub status: AllocationStatus,
    /// Restarts within it.
    pub restarts: u32,
    /// Why it leaves.
    pub reason: Option<Arc<str>>,
}

/// An allocation ended, and its room is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its slot.
    pub slot: u32,
    /// How; an end.
    pub state: AllocationState,
    /// The exit code; 0 without one.
    pub exit_code: i32,
    /// Why.
    pub reason: Option<Arc<str>>,
}

/// A task's state, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskChange {
    /// The group's row.
    pub group_row: u32,
    /// The task's index.
    pub task: u32,
    /// Never `Live`: only a grant makes it so.
    pub state: TaskState,
    /// Failures so far.
    pub failures: u8,
}

/// A change of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// A new one; its id is the delta's revision.
    Opened {
        /// The scheduler's name.
        scheduler: Arc<str>,
        /// Who it is.
        principal: Arc<str>,
        /// Where it works.
        namespace: Arc<str>,
    },
    /// Gone.
    Closed(SessionId),
    /// A number was decided, at the delta's revision.
    Number {
        /// Of which.
        session: SessionId,
        /// Which.
        number: u64,
        /// Of the request's content.
        digest: u64,
    },
}

/// Names what a delta is about, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A machine.
    Machine(MachineId),
    /// A job.
    Job(JobId),
    /// A row of the table of groups.
    GroupRow(u32),
    /// A task: the group's row, and the index.
    Task(u32, u32),
    /// An allocation.
    Allocation(AllocationId),
    /// A slot of the table of allocations.
    AllocationSlot(u32),
    /// A session.
    Session(SessionId),
    /// The number of a resource shape.
    Shape(u32),
    /// The number of a scheduler's name.
    Scheduler(u16),
    /// A task that the cell does not know.
    Unknown(UnknownId),
}
