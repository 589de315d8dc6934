//! Jobs: what is to run, and how far it got.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::planted::{self, Bug};
use crate::{Constraint, JobId, LogTime, Resources};

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum JobKind {
    /// Each task runs until it succeeds; then the job is complete.
    #[default]
    ToCompletion,
    /// Never completes; each exit of a task is a failure.
    Forever,
    /// Runs nothing itself: it is what jobs are launched from, at given instants.
    Recurring,
}

impl JobKind {
    /// As job files say it: how the job ends.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ToCompletion => "to-completion",
            Self::Forever => "forever",
            Self::Recurring => "recurring",
        }
    }
}

/// Most bytes of a recurring job's name, so that the names of what is launched from it fit: a dash, and the digits of an instant, come behind it.
pub const RECURRING_NAME_BYTES_MAX: usize = 63 - (1 + 19);

/// The option of a recurring job that says who places what is launched from it; the job's own scheduler, if it does not say.
pub const LAUNCH_SCHEDULER_OPTION: &str = "launch.scheduler";

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum JobState {
    /// No task of it was placed yet.
    #[default]
    Waiting,
    /// Some task was placed, and not all are done.
    Running,
    /// Every task succeeded.
    Complete,
    /// A task failed more often than its policy forgives.
    Failed,
    /// Somebody stopped it.
    Stopped,
}

impl JobState {
    /// What people call it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// True once nothing more of the job will be placed.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Stopped)
    }
}

/// How failures of a task are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RetryPolicy {
    /// Further allocations after failures; `None` for no limit.
    pub attempts: Option<u32>,
    /// Microseconds before the next one.
    pub delay_micros: i64,
}

/// A wish for machines of some kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Affinity {
    /// What is wished for.
    pub rule: Constraint,
    /// -100 to 100, not 0.
    pub weight: i32,
}

/// At most so many tasks of a group on machines with equal values of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Whose values are counted.
    pub attribute: Arc<str>,
    /// Tasks a value.
    pub at_most: u32,
}

/// A device of a machine or of a claim, in thousandths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Such as `gpu`.
    pub kind: Arc<str>,
    /// Position among the machine's devices of its kind.
    pub index: u32,
    /// 0 to 1000.
    pub millis: u32,
    /// The maker's model; may be empty.
    pub model: Arc<str>,
}

impl Device {
    /// Whether it is of the wanted kind, and of the wanted model, if one is wanted.
    #[must_use]
    pub fn is_of(&self, want: &Self) -> bool {
        self.kind == want.kind && (want.model.is_empty() || self.model == want.model)
    }
}

/// A port by name; 0 is chosen at commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// What the task calls it.
    pub name: Arc<str>,
    /// 0 to 65535.
    pub number: u16,
}

/// A group of equal tasks, as schedulers see it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GroupShape {
    /// Unique within the job.
    pub name: Arc<str>,
    /// Tasks when it was submitted; `GroupRow::count` is what counts now.
    pub count: u32,
    /// Positions of the groups whose tasks must all be done first.
    pub after: Vec<u16>,
    /// What each task gets.
    pub resources: Resources,
    /// All must hold on a task's machine.
    pub constraints: Vec<Constraint>,
    /// Weighed by policies.
    pub affinities: Vec<Affinity>,
    /// Kept by the core.
    pub spread: Vec<Spread>,
    /// Most tasks on one machine; 0 for no limit.
    pub per_machine: u32,
    /// What each task gets of devices.
    pub devices: Vec<Device>,
    /// What each task gets of ports.
    pub ports: Vec<Port>,
    /// A successor waits for its predecessor's receipt.
    pub single_instance: bool,
    /// How failures are answered.
    pub retry: RetryPolicy,
    /// Microseconds from the expiry of a machine to the loss of what it ran; `None` for never by itself. What counts is
    /// [`JobShape::lost_after_micros`].
    pub lost_after_micros: Option<i64>,
    /// Fewest that a gang starts with; 0 for any.
    pub min: u32,
}

/// What a job is, apart from what it does.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct JobShape {
    /// Whose it is.
    pub namespace: Arc<str>,
    /// Unique within the namespace.
    pub name: Arc<str>,
    /// The scheduler that places it.
    pub scheduler: Arc<str>,
    /// 0 to 99, higher first; bands of ten.
    pub priority: u8,
    /// How it ends.
    pub kind: JobKind,
    /// All tasks run on one machine.
    pub same_machine: bool,
    /// At least one.
    pub groups: Vec<GroupShape>,
    /// The job that launched it.
    pub parent: Option<JobId>,
    /// The instant that it was launched for, in microseconds; 0 without a parent.
    pub instant_micros: i64,
    /// What its scheduler wants to know.
    pub options: BTreeMap<String, String>,
}

impl JobShape {
    /// Whether a session is there for the job: one of its scheduler, and of its namespace or, where that is empty, of all.
    #[must_use]
    pub fn is_served_by(&self, scheduler: &str, namespace: &str) -> bool {
        *self.scheduler == *scheduler && (namespace.is_empty() || *self.namespace == *namespace)
    }

    /// Its namespace, unless that is the usual one.
    #[must_use]
    pub fn own_namespace(&self) -> Option<&str> {
        Some(&*self.namespace).filter(|namespace| !["", "default"].contains(namespace))
    }

    /// The job as commands take it.
    #[must_use]
    pub fn called(&self) -> String {
        self.own_namespace().map_or_else(|| self.name.to_string(), |namespace| format!("{namespace}/{}", self.name))
    }

    /// Microseconds from the expiry of a machine to the loss of what it ran of a group; `None` for never by itself, and beyond the
    /// last group. Where all tasks share a machine it is the longest of all groups: the job is lost there as a whole, or some of its
    /// tasks would run on elsewhere while others are still taken to run there.
    #[must_use]
    pub fn lost_after_micros(&self, group: u16) -> Option<i64> {
        let own = self.groups.get(usize::from(group))?.lost_after_micros?;
        if !self.same_machine || planted::is(Bug::TearsApart) {
            return Some(own);
        }
        self.groups.iter().try_fold(own, |longest, group| Some(longest.max(group.lost_after_micros?)))
    }
}

/// A job in the cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Raised each time that it is submitted again after it was over, changed or not.
    pub version: u32,
    /// What it is.
    pub shape: Arc<JobShape>,
    /// What it does, encoded; absent in mirrors that may not read it.
    pub body: Option<Arc<[u8]>>,
    /// BLAKE3 of the encoded body.
    pub body_digest: [u8; 32],
    /// When it was submitted.
    pub submitted: LogTime,
    /// Where it stands.
    pub state: JobState,
    /// Since when it stands there.
    pub state_since: LogTime,
    /// Why it stands there, where there is something to say.
    pub reason: Arc<str>,
    /// The row of its first group in the table of groups; the others follow.
    pub group_base: u32,
    /// Slot of the machine that its tasks share, once one was chosen.
    pub home: Option<u32>,
    /// The last instant that a job was launched from it for, in microseconds; `None` before the first.
    pub last_instant_micros: Option<i64>,
}

impl Job {
    /// The row of a group in the table of groups; `None` beyond the last group.
    #[must_use]
    #[inline]
    pub fn group_row(&self, group: u16) -> Option<u32> {
        (usize::from(group) < self.shape.groups.len()).then(|| self.group_base + u32::from(group))
    }

    /// The positions of its groups.
    #[must_use]
    pub fn group_positions(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.shape.groups.len()).unwrap_or(u16::MAX)
    }
}

impl GroupShape {
    /// The fewest tasks of this group that may be granted at once: its minimum, as long as fewer are there. A group that was
    /// scaled below its minimum starts with all that it has.
    #[must_use]
    pub fn least_at_once(&self, row: &GroupRow) -> u32 {
        self.least_beside(row, row.tasks_there())
    }

    /// The same, where other tasks are there than the row says: some leave or come with what is being decided.
    #[must_use]
    pub fn least_beside(&self, row: &GroupRow, there: u32) -> u32 {
        self.min.min(row.count).saturating_sub(there)
    }
}

/// What changes of a group, in 56 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GroupRow {
    /// The row of its first task in the table of tasks; the others follow.
    pub task_base: u32,
    /// Tasks.
    pub count: u32,
    /// None of its tasks may be placed before.
    pub not_before: LogTime,
    /// Slot of its job.
    pub job_slot: u32,
    /// Tasks by state, in the order of `TaskState`. Invariant: their sum is `count`.
    pub tasks: [u32; TaskState::ALL.len()],
    /// Allocations of its tasks that are leaving.
    pub leaving: u32,
    /// A task whose allocation leaves is blocked until it has ended; as the job's shape has it.
    pub single_instance: bool,
    /// All tasks of its job share one machine; as the job's shape has it.
    pub same_machine: bool,
    /// Its position in its job.
    pub position: u16,
}

impl GroupRow {
    /// Tasks in that state.
    #[must_use]
    #[inline]
    pub const fn tasks_in(&self, state: TaskState) -> u32 {
        self.tasks[state as usize]
    }

    /// Tasks that are there for the others of the group: they have an allocation that is not leaving, or are done.
    #[must_use]
    pub const fn tasks_there(&self) -> u32 {
        self.tasks_in(TaskState::Live) + self.tasks_in(TaskState::Done)
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum TaskState {
    /// To be placed.
    #[default]
    Waiting = 0,
    /// It has an allocation that is not leaving.
    Live = 1,
    /// It succeeded.
    Done = 2,
    /// It failed for good.
    Failed = 3,
    /// Nobody wants it any more.
    Cancelled = 4,
    /// To be placed once its last allocation, which is leaving, has ended: its group has a single instance. One that waits for an unknown task is not
    /// said to be so here: [`task_is_wanted`](crate::task_is_wanted) tells.
    Blocked = 5,
}

impl TaskState {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Waiting, Self::Live, Self::Done, Self::Failed, Self::Cancelled, Self::Blocked];

    /// The state with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// What grants and failures write of a task, in 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TaskPast {
    /// Slot + 1 of the last allocation that it was granted; counts only while the task is live.
    pub allocation: u32,
    /// Allocations that it has had; stays at 65535.
    pub attempts: u16,
    /// Allocations of it that failed; stays at 255.
    pub failures: u8,
}

impl TaskPast {
    /// The task that has this past and stands there now.
    #[must_use]
    #[inline]
    pub const fn now(self, state: TaskState) -> TaskRow {
        let Self { allocation, attempts, failures } = self;
        let allocation = if matches!(state, TaskState::Live) { allocation } else { 0 };
        TaskRow { allocation, attempts, state, failures }
    }
}

/// One task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TaskRow {
    /// Slot + 1 of its allocation that is not leaving; 0 for none. Invariant: not 0 exactly when `state` is `Live`.
    pub allocation: u32,
    /// Allocations that it has had; stays at 65535.
    pub attempts: u16,
    /// Where it stands.
    pub state: TaskState,
    /// Allocations of it that failed; stays at 255.
    pub failures: u8,
}
