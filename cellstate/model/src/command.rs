//! What can be asked of the cell, and how it answers. The log keeps both.

use std::fmt;
use std::sync::Arc;

use crate::{
    AllocationId, AllocationState, Attributes, CellIdentity, Device, JobId, JobShape, LogTime, MachineId, Outcome,
    Partition, Port, Quota, Resources, Revision, SessionId, Transaction, Unfit,
};

/// A command with who asks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks; `local` on loopback.
    pub principal: Arc<str>,
    /// Where; empty where no namespace is meant.
    pub namespace: Arc<str>,
    /// What is asked.
    pub command: Command,
}

/// What can be asked. All of it is validated: names, bounds and lengths hold, references may be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The first command of each start of a server. Forgets the ring of changes.
    OpenServer(CellIdentity),
    /// A scheduler begins.
    OpenSession {
        /// Its name.
        scheduler: Arc<str>,
    },
    /// A scheduler left.
    CloseSession(SessionId),
    /// A placement transaction, with a digest of its content.
    Commit(Box<Transaction>, u64),
    /// A new job, or a new version of one.
    SubmitJob {
        /// What it is.
        shape: Arc<JobShape>,
        /// What it does, encoded.
        body: Arc<[u8]>,
        /// BLAKE3 of `body`.
        body_digest: [u8; 32],
        /// The version that the job of this name has to have, 0 for none of this name at all; `None`: whichever.
        expected_version: Option<u32>,
    },
    /// Stops all its tasks, and ends it.
    StopJob {
        /// Which job.
        job: JobId,
        /// The version that it has to have; `None`: whichever.
        version: Option<u32>,
    },
    /// Another number of tasks.
    ScaleJob {
        /// Which job.
        job: JobId,
        /// The version that it has to have, in which the group has this position; `None`: whichever.
        version: Option<u32>,
        /// The group's position.
        group: u16,
        /// Tasks.
        count: u32,
    },
    /// Stops one allocation; its task waits again. Of what the cell does not know, the task that an agent calls so.
    StopAllocation(AllocationId),
    /// An agent reports for service.
    RegisterMachine(FoundMachine),
    /// A lease ran out.
    ExpireMachine {
        /// Whose.
        machine: MachineId,
        /// In which epoch.
        epoch: u32,
    },
    /// Whether a machine's agent wants new claims there.
    ReportFitness {
        /// Whose.
        machine: MachineId,
        /// In which epoch.
        epoch: u32,
        /// Why not; `None`: it does.
        unfit: Option<Unfit>,
    },
    /// What happened to allocations, on any number of machines. Those of an epoch that is over have no effect, and the answer counts them: their agents
    /// are to tell them again.
    ReportStatus(Vec<Transition>),
    /// Takes no new claims, or takes them again.
    CordonMachine {
        /// Which.
        machine: MachineId,
        /// Cordoned, or not.
        cordoned: bool,
    },
    /// Moves everything away by a deadline; `None` ends the drain.
    DrainMachine {
        /// Which.
        machine: MachineId,
        /// By when.
        deadline: Option<LogTime>,
    },
    /// Takes a machine out of the cell, with all that it ran.
    RemoveMachine {
        /// Which.
        machine: MachineId,
        /// Not while its agent is there and it runs something.
        unless_alive: bool,
    },
    /// Lets time pass: what is due happens.
    Tick,
    /// Creates the child of a recurring job for an instant.
    Launch {
        /// The recurring job.
        parent: JobId,
        /// The instant, in microseconds.
        instant_micros: i64,
    },
    /// Sets room aside for a starving gang, renews that, or gives it back.
    TakeHold {
        /// In which session it is asked, whose scheduler may not be paused then; 0: by an operator, or to give it back.
        session: SessionId,
        /// For which job.
        job: JobId,
        /// Slots of machines; none: the hold is given back.
        machines: Vec<u32>,
        /// On each.
        resources: Resources,
        /// Until when.
        deadline: LogTime,
    },
    /// A limit for a namespace; `None` removes it.
    SetQuota {
        /// Whose.
        namespace: Arc<str>,
        /// The limit.
        limit: Option<Quota>,
    },
    /// A named set of machines; `None` removes it.
    SetPartition {
        /// Its name.
        name: Arc<str>,
        /// Which machines, and for whom.
        partition: Option<Partition>,
    },
    /// Lets a task that the cell does not know run on until it ends by itself, or its machine is drained.
    AdoptUnknown {
        /// Where it runs.
        machine: MachineId,
        /// What its agent calls it.
        allocation: AllocationId,
    },
    /// Keeps a scheduler's transactions out.
    PauseScheduler {
        /// Whose.
        scheduler: Arc<str>,
        /// Paused, or not.
        paused: bool,
    },
    /// Sets what a scheduler is granted.
    SetRights {
        /// Whose.
        scheduler: Arc<str>,
        /// Whether it may evict; `None`: as it was.
        evicts: Option<bool>,
        /// Its priority; `None`: as it was.
        priority: Option<u8>,
    },
}

impl Command {
    /// A new job that does nothing: it has no body, and no digest of one.
    #[must_use]
    pub fn submit(shape: impl Into<Arc<JobShape>>) -> Self {
        Self::SubmitJob { shape: shape.into(), body: Arc::new([]), body_digest: [0; 32], expected_version: None }
    }
}

/// A machine as its agent found it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FoundMachine {
    /// The machine's name.
    pub name: Arc<str>,
    /// Changes when it boots.
    pub boot_id: Arc<str>,
    /// All there is.
    pub capacity: Resources,
    /// What constraints look at.
    pub attributes: Arc<Attributes>,
    /// Its devices.
    pub devices: Vec<Device>,
    /// What the agent has traces of.
    pub inventory: Vec<Inventory>,
    /// The newest revision of this life of the cell that the agent has heard of: a registration from before the present epoch is too
    /// late. 0: none.
    pub seen: Revision,
}

/// An allocation that an agent has traces of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Which.
    pub allocation: AllocationId,
    /// As the agent sees it.
    pub state: AllocationState,
    /// 0 without one.
    pub exit_code: i32,
    /// Why it ended; may be empty.
    pub reason: Arc<str>,
    /// Restarts within it, as far as they are told.
    pub restarts: u32,
    /// What it is, as its agent was told: for a cell that does not know it.
    pub task: Option<Arc<TaskTraces>>,
}

/// What an agent was told of an allocation when it started it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TaskTraces {
    /// Its job's namespace.
    pub namespace: Arc<str>,
    /// Its job's name.
    pub job: Arc<str>,
    /// Its group's name.
    pub group: Arc<str>,
    /// Its index.
    pub task: u32,
    /// Its room.
    pub resources: Resources,
    /// Its devices.
    pub devices: Vec<Device>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// What happened to one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The machine that reports.
    pub machine: MachineId,
    /// The epoch in which it does.
    pub epoch: u32,
    /// Which allocation.
    pub allocation: AllocationId,
    /// Where it stands: starting, running, or an end. An end is a receipt: nothing of it runs any more.
    pub state: AllocationState,
    /// It runs.
    pub ready: bool,
    /// 0 without one.
    pub exit_code: i32,
    /// Restarts within it.
    pub restarts: u32,
    /// Why; may be empty.
    pub reason: Arc<str>,
}

impl Transition {
    /// That an allocation came to this state: not ready, without an exit code, a restart or a reason.
    #[must_use]
    pub fn new(machine: MachineId, epoch: u32, allocation: AllocationId, state: AllocationState) -> Self {
        Self { machine, epoch, allocation, state, ready: false, exit_code: 0, restarts: 0, reason: Arc::default() }
    }
}

/// How the cell answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Done.
    Accepted {
        /// What was made or changed; 0 if nothing was.
        id: u64,
        /// Its version or epoch. Of a report: how many of its transitions were passed over, as their epoch is over.
        version: u32,
    },
    /// A transaction's answer.
    Outcome(Box<Outcome>),
    /// Not done; nothing changed.
    Rejected(Rejection),
}

/// A command that could not be carried out: an ordinary answer, with a stable code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Has a page of its own.
    pub code: RejectionCode,
    /// What was expected, what was found, what to do.
    pub message: String,
    /// Microseconds of log time from the decision on, at the end of which what is in the way may pass by itself, and not before; 0: with the next
    /// tick. `None`: nobody knows of such a time. What was rejected is not logged, and neither is this.
    pub passes_in_micros: Option<u64>,
    /// It is certain that nothing was ever executed under its number: there is nothing to look for. Not logged, either.
    pub never_was: bool,
}

macro_rules! rejection_codes {
    ($($variant:ident = $text:literal, $doc:literal;)*) => {
        /// Stable codes of rejections.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum RejectionCode {
            $(#[doc = $doc] $variant,)*
        }

        impl RejectionCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as it is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The code from its text.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == text)
            }
        }
    };
}

rejection_codes! {
    Unimplemented = "UNIMPLEMENTED", "The cell has a place for it and does not decide it yet.";
    NoSuchSession = "NO_SUCH_SESSION", "Closed, or of another incarnation.";
    OtherIncarnation = "OTHER_INCARNATION", "The request is from another life of the cell.";
    NumberRetired = "NUMBER_RETIRED", "Too old to be remembered: not executed now. Whether it was before, the history tells.";
    NumberReused = "NUMBER_REUSED", "A known number with other content.";
    FutureBase = "FUTURE_BASE", "Based on a revision that does not exist yet.";
    NoSuchJob = "NO_SUCH_JOB", "Never submitted, or retired.";
    NoSuchGroup = "NO_SUCH_GROUP", "The job has no such group.";
    JobOver = "JOB_OVER", "It is complete, failed or stopped.";
    JobChanged = "JOB_CHANGED", "A live job's shape cannot be replaced yet.";
    JobLeaving = "JOB_LEAVING", "Tasks of it are still stopping; it passes with their receipts.";
    JobVersion = "JOB_VERSION", "It has another version than was expected.";
    NoSuchAllocation = "NO_SUCH_ALLOCATION", "Ended, or never was.";
    NoSuchMachine = "NO_SUCH_MACHINE", "Removed, or never registered.";
    MachineAlive = "MACHINE_ALIVE", "Its agent is there, and it runs something.";
    StaleEpoch = "STALE_EPOCH", "The machine has begun another epoch.";
    LimitReached = "LIMIT_REACHED", "A bound of the cell.";
    InvalidRequest = "INVALID_REQUEST", "It contradicts itself.";
    SchedulerPaused = "SCHEDULER_PAUSED", "An operator keeps its transactions out.";
    InstantPassed = "INSTANT_PASSED", "A job was launched for a later instant.";
    NoSuchPartition = "NO_SUCH_PARTITION", "Removed, or never set.";
    NoSuchQuota = "NO_SUCH_QUOTA", "Removed, or never set.";
    NoRoomToHold = "NO_ROOM_TO_HOLD", "The machines lack the room, or earlier holds have it.";
    NotWanted = "NOT_WANTED", "Nothing of the job waits to be placed, so no room is held for it.";
    NoSuchTask = "NO_SUCH_TASK", "No agent reported such a task, or it has ended.";
    NotPermitted = "NOT_PERMITTED", "The job belongs to another scheduler.";
}

impl fmt::Display for RejectionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Rejection {
    /// A rejection with its message.
    #[must_use]
    pub fn new(code: RejectionCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), passes_in_micros: None, never_was: false }
    }

    /// Whether what was rejected may have been decided before, which the session does not remember: the history has to be asked.
    #[must_use]
    pub fn may_have_been_decided(&self) -> bool {
        self.code == RejectionCode::NumberRetired && !self.never_was
    }

    /// The same of what was decided at `now`, and may pass by itself at the time `passes`.
    #[must_use]
    pub fn passing_at(self, passes: Option<LogTime>, now: LogTime) -> Self {
        let left = |passes: LogTime| u64::try_from(passes.micros.saturating_sub(now.micros)).unwrap_or(0);
        Self { passes_in_micros: passes.map(left), ..self }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Rejection {}
