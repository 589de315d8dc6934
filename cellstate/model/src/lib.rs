//! The nouns of a cell, its resources, feasibility, and the paged picture that everybody shares.
//!
//! Pure: no clock, thread, disk, network or randomness, and free of wire formats. The core decides on a [`Cell`] and emits
//! [`Delta`]s; mirrors, replay and simulators fold the same deltas into the same cells.

pub mod cell;
pub mod command;
pub mod delta;
pub mod planted;
pub mod rare;
pub mod session;

mod alike;
mod allocation;
mod constraint;
mod counts;
mod devices;
mod feasibility;
mod governance;
mod id;
mod job;
mod job_bytes;
mod machine;
mod moment;
mod name_index;
mod paged;
mod plural;
mod ports;
mod prefetch;
mod quota_use;
mod resources;
mod tally;
mod transaction;
mod wanted;

pub use allocation::{AllocationExtra, AllocationRow, AllocationState, AllocationStatus, StatusByte, TakeOver};
pub use cell::{AllocationRef, Cell, FoldError, Governance, InUse, Restore, RestoreError, RestoredAllocation};
pub use command::{
    Command, Decision, FoundMachine, Inventory, Rejection, RejectionCode, Request, TaskTraces, Transition,
};
pub use constraint::{Attributes, ClassSet, Constraint, Operator, compare_values};
pub use counts::GroupCounts;
pub use delta::{CellIdentity, Delta, End, GrantExtra, Grants, JobChange, Move, SessionChange, TaskChange};
pub use devices::{
    DeviceChoice, DeviceRoom, DeviceShortage, choose_devices, choose_lent, choosing_before, choosing_in_turn,
    device_rooms, device_shortage, is_enough_lent, names_what_is_declared, take_named_devices, take_parts,
};
pub use feasibility::{Obstacle, Requirement, Special, Spoken, most_when_empty, shortages};
pub use governance::{GivenBack, Hold, Partition, QUOTA_MAX, Quota, Rights, Sum, UnknownId, UnknownTask};
pub use id::{
    AllocationId, INCARNATIONS_MAX, JobId, LogTime, MachineId, Revision, SessionId, TransactionId, floor_of,
    incarnation_of, is_name, last_of,
};
pub use job::{
    Affinity, Device, GroupRow, GroupShape, Job, JobKind, JobShape, JobState, LAUNCH_SCHEDULER_OPTION, Port,
    RECURRING_NAME_BYTES_MAX, RetryPolicy, Spread, TaskPast, TaskRow, TaskState,
};
pub use machine::{BootId, Deadline, Machine, MachineRow, MachineState, Unfit};
pub use paged::Paged;
pub use plural::{agreeing, counted};
pub use ports::{DYNAMIC_PORTS, PortChoice};
pub use prefetch::{STEPS_AHEAD, coming, prefetch};
pub use quota_use::{AlikeAmounts, Leaver, QuotaUse, collect_leavers};
pub use resources::{
    AMOUNT_MAX, CPU_MILLIS_MAX, CUSTOM_RESOURCES, DIMENSIONS, Resource, Resources, Room, Shortage, bytes, cpu,
};
pub use session::Session;
pub use transaction::{
    CLAIMS_MAX, ClaimExtra, ConflictCheck, Culprit, DecisionMetadata, GrantedElsewhere, GrantedPorts, Guard, Outcome,
    Placement, Preemption, Refusal, RefusalKind, RefusalReason, Transaction, TransactionOutcome, VICTIMS_MAX,
};
pub use wanted::{NotWanted, WantedGroup, any_waits, group_is_wanted, task_is_wanted, wanted};
