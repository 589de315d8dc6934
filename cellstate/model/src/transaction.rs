//! Placement transactions, and what becomes of them.

use std::sync::Arc;

use crate::{
    AllocationId, Device, JobId, LogTime, MachineId, NotWanted, Port, Resource, Resources, Revision, TakeOver,
    TransactionId,
};

/// Most claims of one transaction, and most stops.
pub const CLAIMS_MAX: usize = 16_384;

/// Victims that a placement may name on one machine: each of its claims there may have to look at all of them, and take over from all of
/// them.
pub const VICTIMS_MAX: usize = 64;

/// When a claim conflicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ConflictCheck {
    /// Only if the resources are really no longer there.
    #[default]
    Fit,
    /// Also if anybody else granted, held or changed anything on that machine since the base.
    Sequence,
}

/// Claims, stops and guards that are decided together, on a base revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Session and number.
    pub id: TransactionId,
    /// The incarnation of the cell that the session was opened in.
    pub incarnation: u64,
    /// The revision of the snapshot on which this was decided.
    pub base: Revision,
    /// A placement that misses its `min` leaves the whole without effect.
    pub atomic: bool,
    /// When a claim conflicts.
    pub check: ConflictCheck,
    /// Decided in order.
    pub placements: Vec<Placement>,
    /// Allocations to stop.
    pub stops: Vec<AllocationId>,
    /// Facts for the whole.
    pub guards: Vec<Guard>,
    /// Decides and answers, and changes nothing.
    pub dry_run: bool,
    /// For inspection and replay; never judged.
    pub decision: DecisionMetadata,
}

impl Transaction {
    /// Claims of all placements.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.placements.iter().map(|placement| placement.machines.len()).sum()
    }
}

/// Claims for tasks of one group: `machines` and `tasks` are columns of equal length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Whose tasks.
    pub job: JobId,
    /// The group's position in the job.
    pub group: u16,
    /// The version on which this was decided.
    pub job_version: u32,
    /// What each task gets; `None`: what the job version declares.
    pub resources: Option<Resources>,
    /// Machine slots.
    pub machines: Vec<u32>,
    /// Task indexes, each once.
    pub tasks: Vec<u32>,
    /// Fewer granted: the placement is undone.
    pub min: u32,
    /// Facts for this placement.
    pub guards: Vec<Guard>,
    /// One a claim, or none at all.
    pub extras: Vec<ClaimExtra>,
    /// Victims, ranked.
    pub preemptions: Vec<Preemption>,
    /// Spare machine slots, ranked.
    pub alternates: Vec<u32>,
}

/// What a claim asks for beyond resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimExtra {
    /// Devices.
    pub devices: Vec<Device>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Room of those who leave.
    pub take_overs: Vec<TakeOver>,
}

impl Placement {
    /// Slots of the machines that its claims may be granted on; some perhaps more than once.
    pub fn all_machines(&self) -> impl Iterator<Item = u32> {
        self.machines.iter().chain(&self.alternates).copied()
    }
}

impl ClaimExtra {
    /// Whether it says nothing: as if it were not there.
    #[must_use]
    pub fn asks_for_nothing(&self) -> bool {
        self.devices.is_empty() && self.ports.is_empty() && self.take_overs.is_empty()
    }
}

/// An allocation that may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// Where: the machine's slot.
    pub machine: u32,
    /// Who.
    pub victim: AllocationId,
}

/// A fact that must still hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The job exists and is at this version.
    JobVersion {
        /// Which.
        job: JobId,
        /// Its version.
        version: u32,
    },
    /// The machine exists and its attribute has this value.
    Attribute {
        /// Which.
        machine: MachineId,
        /// The attribute's name.
        attribute: Arc<str>,
        /// Its value.
        value: Arc<str>,
    },
}

/// How a decision came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecisionMetadata {
    /// Which attempt at this work it is, from 1.
    pub attempt: u32,
    /// The policy's name.
    pub policy: Box<str>,
    /// A digest of the policy's configuration.
    pub configuration: Box<[u8]>,
    /// Of the policy's randomness.
    pub seed: u64,
    /// Own transactions in flight that it took as granted.
    pub assumed: Vec<u64>,
    /// Microseconds from when the work was there to when deciding began.
    pub queued_micros: i64,
    /// Microseconds of deciding.
    pub deciding_micros: i64,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionOutcome {
    /// All of it took effect.
    Committed,
    /// Some claims were refused, the rest took effect.
    Partial,
    /// No effect.
    Refused,
}

/// The answer to a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which.
    pub id: TransactionId,
    /// When it was decided; the current one for a dry run.
    pub revision: Revision,
    /// The batch's time.
    pub time: LogTime,
    /// What became of it.
    pub outcome: TransactionOutcome,
    /// For each placement, for each claim: what was granted, `None` where refused.
    pub placements: Vec<Vec<Option<AllocationId>>>,
    /// One for each refused claim and for each refused stop, and one for the first guard on the whole that failed.
    pub refusals: Vec<Refusal>,
    /// Positions in `stops` of allocations that were leaving, ended or never there.
    pub idle_stops: Vec<u32>,
    /// Ports of granted claims that asked for some, dynamic ones chosen; in the order of the placements.
    pub ports: Vec<GrantedPorts>,
    /// Granted claims that are on one of their spare machines; in the order of the placements and their claims. Empty, whatever happened, where a core of up to
    /// version 32 decided it, or a server with such a core tells it: what changed says it then.
    pub elsewhere: Vec<GrantedElsewhere>,
    /// Who is evicted for its claims. Empty, whatever happened, where `elsewhere` is so.
    pub evicted: Vec<AllocationId>,
    /// Positions in `refusals` of misfits that the scheduler could have seen at its base: a bug, because planner and committer judge
    /// with the same code. Which of them may follow from something else, and are none, `Outcome.divergences` of the protocol says.
    pub divergences: Vec<u32>,
}

/// Ports of one granted claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedPorts {
    /// The placement's position.
    pub placement: u32,
    /// The claim's position in it.
    pub claim: u32,
    /// By name.
    pub ports: Vec<Port>,
}

/// Where a granted claim is that is not on its own machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantedElsewhere {
    /// The placement's position.
    pub placement: u32,
    /// The claim's position in it.
    pub claim: u32,
    /// The spare machine, by its slot.
    pub machine: u32,
}

impl Outcome {
    /// Claims that were granted.
    #[must_use]
    pub fn granted(&self) -> usize {
        self.placements.iter().flatten().flatten().count()
    }

    /// Claims of all placements.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.placements.iter().map(Vec::len).sum()
    }
}

/// The kinds of reasons why a claim is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalKind {
    /// It fitted at the base; something came between.
    Conflict,
    /// It never fitted.
    Misfit,
    /// The base is too old to tell.
    Stale,
    /// It would fit, but its group's minimum was missed.
    Mate,
    /// A guard failed.
    Guard,
    /// Its namespace has too much already.
    Quota,
    /// Its principal may not.
    Permission,
}

/// What stood in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalReason {
    /// Not enough of a resource.
    NoRoom,
    /// The task has an allocation that is not leaving.
    TaskTaken,
    /// The task may not be placed now.
    NotWanted,
    /// No machine in that slot.
    NoSuchMachine,
    /// Cordoned, draining or unreachable.
    MachineNotReady,
    /// A declared constraint fails there.
    Constraint,
    /// The job's tasks share another machine.
    OtherMachine,
    /// No such job.
    NoSuchJob,
    /// The job has another version.
    JobVersion,
    /// The resources differ from what the job version declares.
    ResourcesDiffer,
    /// Somebody else changed the machine since the base.
    MachineChanged,
    /// The placement missed its minimum, or, in an atomic transaction, another one did.
    MinimumMissed,
    /// A guard failed.
    GuardFailed,
    /// The device is taken.
    DeviceTaken,
    /// The port is taken.
    PortTaken,
    /// Too many tasks of the group on machines with that value.
    SpreadLimit,
    /// Too many allocations on that machine.
    PerMachineLimit,
    /// The namespace's quota.
    QuotaExceeded,
    /// A partition reserves the machine for other schedulers.
    NotPermitted,
    /// Its predecessor's receipt is awaited.
    Predecessor,
    /// The job belongs to another scheduler.
    OtherScheduler,
    /// Somebody would have to be evicted, and the scheduler may not do that.
    MayNotEvict,
}

/// A refused claim, with the facts that a scheduler needs to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of which kind.
    pub kind: RefusalKind,
    /// What stood in the way.
    pub reason: RefusalReason,
    /// Positions of placement and claim; `None` for a guard on the whole.
    pub claim: Option<(u32, u32)>,
    /// The claim's job.
    pub job: JobId,
    /// The claim's group.
    pub group: u16,
    /// The claim's task.
    pub task: u32,
    /// Slot of the claim's machine.
    pub machine: u32,
    /// What was short, and by how much.
    pub short: Option<(Resource, u64)>,
    /// The kind of device that was short, and by how many thousandths.
    pub short_device: Option<(Arc<str>, u64)>,
    /// The port that was in use.
    pub port: Option<u16>,
    /// Which of its causes `RefusalReason::NotWanted` had.
    pub not_wanted: Option<NotWanted>,
    /// Who came between, newest first; at most 4.
    pub culprits: Vec<Culprit>,
    /// What all culprits took, unlisted ones too, in the unit of what was short; ports and tasks count as 1.
    pub culprits_total: u64,
}

/// What came between a base and a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// When.
    pub revision: Revision,
    /// Which transaction, where it was one.
    pub transaction: Option<TransactionId>,
    /// Whose, where it was a transaction.
    pub scheduler: Arc<str>,
    /// What happened, where it was none: a word such as "registered" or "cordoned".
    pub event: Arc<str>,
    /// What it took, in the short resource's unit.
    pub amount: u64,
    /// Which allocation took the room.
    pub allocation: Option<AllocationId>,
}
