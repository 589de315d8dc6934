//! The cell as the checker sees it: plain maps of what the stream said, with no derived counters that could agree with a bug.
//!
//! Rows are the messages of the protocol themselves. The one index (allocations by machine) is kept by the fold, and
//! compared with the one that is made of a snapshot's pages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use plenum_proto::v1;

use crate::amounts::Amounts;

/// Numbers of a session that the cell remembers.
pub const NUMBERS_REMEMBERED: usize = 256;

/// A row of the table of groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The row of its first task.
    pub task_base: u32,
    /// Tasks.
    pub count: u32,
    /// None of them may be placed before.
    pub not_before_micros: i64,
}

/// A row of the table of tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Slot + 1 of its allocation that is not leaving; 0: none.
    pub allocation: u32,
    /// Grants so far; stays at 65,535.
    pub attempts: u32,
    /// As in `TaskChanges.states`.
    pub state: u32,
    /// Failures so far.
    pub failures: u32,
}

/// A live allocation.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// Slot and generation.
    pub id: u64,
    /// Where it stands, a live state.
    pub state: v1::AllocationState,
    /// Its health check passed.
    pub ready: bool,
    /// Its job.
    pub job: u64,
    /// The group's position in the job.
    pub group: u32,
    /// The group's row.
    pub group_row: u32,
    /// The job's version at the grant.
    pub job_version: u32,
    /// The task's index.
    pub task: u32,
    /// Which grant of the task it is, from 1.
    pub attempt: u32,
    /// Slot of its machine.
    pub machine: u32,
    /// The machine's epoch at the grant.
    pub epoch: u32,
    /// Number of its resource shape.
    pub shape: u32,
    /// Number of its scheduler's name.
    pub scheduler: u32,
    /// The revision of its grant.
    pub created: u64,
    /// The transaction of its grant.
    pub session: u64,
    /// The transaction's number.
    pub number: u64,
    /// Restarts within it.
    pub restarts: u32,
    /// Why it leaves.
    pub reason: String,
    /// Its devices.
    pub devices: Vec<v1::Device>,
    /// Its ports.
    pub ports: Vec<v1::Port>,
    /// Room of leaving ones that it was granted on.
    pub take_overs: Vec<v1::TakeOver>,
}

impl Allocation {
    /// Whether its end was decided.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        is_leaving(self.state)
    }
}

/// A session, with the numbers that the cell remembers of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// Who opened it.
    pub opened: v1::SessionOpened,
    /// Number, revision and digest; oldest first.
    pub decided: VecDeque<(u64, u64, u64)>,
}

/// Everything that a watcher of all sections but BODIES can know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// The last revision that is in it.
    pub revision: u64,
    /// Its log time.
    pub time_micros: i64,
    /// Which cell it is, and what its resources are called, once that was told.
    pub cell: Option<v1::CellChange>,
    /// Names of schedulers, by number.
    pub scheduler_names: Vec<String>,
    /// Shapes of resources, by number.
    pub shapes: Vec<v1::Resources>,
    /// Machines that are there, by slot.
    pub machines: BTreeMap<u32, v1::MachineChange>,
    /// Jobs by id, as they are now.
    pub jobs: BTreeMap<u64, v1::JobPut>,
    /// Groups by row; rows that say nothing are left out.
    pub groups: BTreeMap<u32, Group>,
    /// Tasks by row; rows that say nothing are left out.
    pub tasks: BTreeMap<u32, Task>,
    /// Live allocations by slot.
    pub allocations: BTreeMap<u32, Allocation>,
    /// The last generation of each slot of allocations that was ever used.
    pub generations: BTreeMap<u32, u32>,
    /// Open sessions by id.
    pub sessions: BTreeMap<u64, Session>,
    /// Quotas by namespace.
    pub quotas: BTreeMap<String, v1::QuotaChange>,
    /// Holds by job.
    pub holds: BTreeMap<u64, v1::HoldChange>,
    /// Partitions by name.
    pub partitions: BTreeMap<String, v1::PartitionChange>,
    /// Tasks that nobody knows, by the machine's slot and the allocation.
    pub unknown_tasks: BTreeMap<(u32, u64), v1::UnknownTaskChange>,
    /// Names of schedulers that are paused.
    pub paused: BTreeSet<String>,
    /// Schedulers that are granted something unusual: whether they may evict, and their priority.
    pub rights: BTreeMap<String, (bool, u32)>,
    /// Slots of live allocations, by slot of the machine.
    pub by_machine: BTreeMap<u32, BTreeSet<u32>>,
}

/// Slot of an id.
///
/// # Panics
/// Never: the slot is the low half.
#[must_use]
pub fn slot_of(id: u64) -> u32 {
    u32::try_from(id & u64::from(u32::MAX)).expect("the low half of an id")
}

/// An id from its halves.
#[must_use]
pub fn id_of(slot: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(slot)
}

/// Whether an allocation in that state occupies room.
#[must_use]
pub fn is_live(state: v1::AllocationState) -> bool {
    use v1::AllocationState as State;
    matches!(state, State::Granted | State::Starting | State::Running) || is_leaving(state)
}

/// A task of this state is live.
pub(crate) const LIVE: u32 = 1;
/// And one of this state has succeeded.
pub(crate) const DONE: u32 = 2;

/// Whether a job in that state is over.
pub(crate) fn is_over(state: v1::JobState) -> bool {
    use v1::JobState as State;
    matches!(state, State::JobComplete | State::JobFailed | State::JobStopped)
}

/// Whether an allocation in that state is on its way out.
#[must_use]
pub fn is_leaving(state: v1::AllocationState) -> bool {
    use v1::AllocationState as State;
    matches!(state, State::Stopping | State::Lost | State::Evicting)
}

impl Picture {
    /// What a number of a shape stands for; nothing, if nobody said.
    #[must_use]
    pub fn amounts_of(&self, shape: u32) -> Amounts {
        self.shapes.get(shape as usize).map(Amounts::of).unwrap_or_default()
    }

    /// A live allocation by its whole id.
    #[must_use]
    pub fn allocation(&self, id: u64) -> Option<&Allocation> {
        self.allocations.get(&slot_of(id)).filter(|found| found.id == id)
    }

    /// Live allocations on a machine.
    pub fn on_machine(&self, slot: u32) -> impl Iterator<Item = &Allocation> {
        self.by_machine.get(&slot).into_iter().flatten().filter_map(|slot| self.allocations.get(slot))
    }

    /// A job's group as it was declared.
    #[must_use]
    pub fn group_of(&self, job: u64, group: u32) -> Option<&v1::GroupShape> {
        self.jobs.get(&job)?.shape.as_ref()?.groups.get(group as usize)
    }

    /// The task of a row of the table of groups.
    #[must_use]
    pub fn task(&self, group_row: u32, task: u32) -> Task {
        let base = self.groups.get(&group_row).map_or(0, |group| group.task_base);
        self.tasks.get(&(base + task)).copied().unwrap_or_default()
    }

    /// The job that a row of the table of groups is of.
    #[must_use]
    pub fn job_of_row(&self, row: u32) -> Option<u64> {
        let has = |put: &&v1::JobPut| {
            let count = put.shape.as_ref().map_or(0, |shape| shape.groups.len());
            (put.group_base..).take(count).any(|own| own == row)
        };
        self.jobs.values().find(has).map(|put| put.id)
    }

    /// The job that has the name which an agent was told of a task.
    #[must_use]
    pub fn job_of_traces(&self, task: &v1::TaskTraces) -> Option<u64> {
        let has_name = |shape: &v1::JobShape| (&shape.namespace, &shape.name) == (&task.namespace, &task.job);
        self.jobs.values().find(|put| put.shape.as_ref().is_some_and(has_name)).map(|put| put.id)
    }

    /// What a scheduler is granted from now on.
    pub(crate) fn give_rights(&mut self, row: &v1::RightsChange) {
        match (row.evicts, row.priority) {
            (true, 1) => drop(self.rights.remove(&row.scheduler)),
            unusual => drop(self.rights.insert(row.scheduler.clone(), unusual)),
        }
    }

    /// That another picture is of another cell, or of one with other names. Whoever begins behind the first start of a server is told nothing of that
    /// before the next one.
    fn other_cell(&self, other: &Self) -> Option<String> {
        let (own, other) = self.cell.as_ref().zip(other.cell.as_ref())?;
        (own != other).then(|| format!("cell: {own:?} and {other:?}"))
    }

    /// Where two pictures first differ, in words; `None` if they are equal.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<String> {
        let scalars = [
            ("revision", format!("{}", self.revision), format!("{}", other.revision)),
            ("time", format!("{}", self.time_micros), format!("{}", other.time_micros)),
            ("names of schedulers", format!("{:?}", self.scheduler_names), format!("{:?}", other.scheduler_names)),
            ("shapes", format!("{:?}", self.shapes), format!("{:?}", other.shapes)),
            ("paused schedulers", format!("{:?}", self.paused), format!("{:?}", other.paused)),
            ("rights of schedulers", format!("{:?}", self.rights), format!("{:?}", other.rights)),
        ];
        let scalar = scalars.into_iter().find(|(_, left, right)| left != right);
        scalar
            .map(|(what, left, right)| format!("{what}: {left} and {right}"))
            .or_else(|| self.other_cell(other))
            .or_else(|| first("machine", &self.machines, &other.machines))
            .or_else(|| first("job", &self.jobs, &other.jobs))
            .or_else(|| first("row of groups", &self.groups, &other.groups))
            .or_else(|| first("row of tasks", &self.tasks, &other.tasks))
            .or_else(|| first("allocation in slot", &self.allocations, &other.allocations))
            .or_else(|| first("generation of slot", &self.generations, &other.generations))
            .or_else(|| first("session", &self.sessions, &other.sessions))
            .or_else(|| first("quota", &self.quotas, &other.quotas))
            .or_else(|| first("hold of job", &self.holds, &other.holds))
            .or_else(|| first("partition", &self.partitions, &other.partitions))
            .or_else(|| first("unknown task", &self.unknown_tasks, &other.unknown_tasks))
            .or_else(|| first("machine's allocations", &self.by_machine, &other.by_machine))
    }
}

fn first<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    left: &BTreeMap<K, V>,
    right: &BTreeMap<K, V>,
) -> Option<String> {
    let keys: BTreeSet<&K> = left.keys().chain(right.keys()).collect();
    let key = keys.into_iter().find(|key| left.get(key) != right.get(key))?;
    Some(format!("{what} {key:?}: {:?} and {:?}", left.get(key), right.get(key)))
}
