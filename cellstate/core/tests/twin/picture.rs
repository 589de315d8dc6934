//! The cell as the twin sees it: maps, and nothing that is derived.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationState, CellIdentity, Command, Constraint, GroupShape, JobId, JobKind, JobShape, JobState,
    LogTime, Machine, MachineState, NotWanted, Resource, Resources, Room, SessionId, TaskState,
};

/// One task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) state: TaskState,
    pub(crate) failures: u8,
    pub(crate) attempts: u16,
}

pub(crate) const NEW_TASK: Task = Task { state: TaskState::Waiting, failures: 0, attempts: 0 };

/// One group: its tasks, and when they may be placed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) not_before: LogTime,
    pub(crate) tasks: Vec<Task>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) version: u32,
    pub(crate) shape: Arc<JobShape>,
    pub(crate) digest: [u8; 32],
    pub(crate) state: JobState,
    pub(crate) since: LogTime,
    pub(crate) home: Option<u32>,
    pub(crate) groups: Vec<Group>,
}

impl Job {
    /// Whether it has tasks that may need what is on the machine that they share.
    pub(crate) fn is_bound(&self) -> bool {
        let mut tasks = self.groups.iter().flat_map(|group| &group.tasks);
        tasks.any(|task| task.state != TaskState::Waiting || task.failures > 0)
    }

    /// Whether what comes after a group may be placed.
    pub(crate) fn is_done(&self, group: u16) -> bool {
        self.groups[usize::from(group)].tasks.iter().all(|task| task.state == TaskState::Done)
    }

    /// Why tasks of a group may not be placed: the job is over, or else a group before it is not done, or else its backoff is not over.
    fn group_not_wanted(&self, group: u16, now: LogTime) -> Option<NotWanted> {
        let Some(shape) = self.shape.groups.get(usize::from(group)) else { return Some(NotWanted::NoSuchGroup) };
        if self.state.is_final() {
            return Some(NotWanted::JobOver(self.state));
        }
        if let Some(&before) = shape.after.iter().find(|&&before| !self.is_done(before)) {
            return Some(NotWanted::After(before));
        }
        let until = self.groups[usize::from(group)].not_before;
        (until > now).then_some(NotWanted::Backoff(until))
    }

    /// Why a task may not be placed, if it does not run.
    pub(crate) fn not_wanted(&self, group: u16, task: u32, now: LogTime) -> Option<NotWanted> {
        let of_group = self.group_not_wanted(group, now);
        of_group.or_else(|| match self.groups[usize::from(group)].tasks.get(task as usize).map(|task| task.state) {
            None => Some(NotWanted::NoSuchTask),
            Some(TaskState::Waiting | TaskState::Live) => None,
            Some(state) => Some(NotWanted::Task(state)),
        })
    }

    /// Whether this very cause keeps a task of the same version from being placed.
    pub(crate) fn is_kept(&self, group: u16, task: u32, why: NotWanted, now: LogTime) -> bool {
        let found = &self.groups[usize::from(group)];
        match why {
            NotWanted::JobOver(_) => self.state.is_final(),
            NotWanted::After(before) => !self.is_done(before),
            NotWanted::Backoff(_) => found.not_before > now,
            NotWanted::NoSuchTask => task as usize >= found.tasks.len(),
            NotWanted::Task(state) => found.tasks.get(task as usize).is_some_and(|task| task.state == state),
            NotWanted::NoSuchGroup | NotWanted::Recurring => panic!("a version of a job is so for ever"),
        }
    }

    /// All of it that may stand in the way of claims: not that a task is granted, or leaves.
    pub(crate) fn standing(&self) -> Standing {
        let settled = |task: &Task| {
            let state = if task.state == TaskState::Live { TaskState::Waiting } else { task.state };
            (state, task.failures)
        };
        let group = |group: &Group| (group.not_before, group.tasks.iter().map(settled).collect());
        (self.version, self.state.is_final(), self.home, self.groups.iter().map(group).collect())
    }
}

/// The version of a job, whether it is over, its home, and of each group until when it sleeps and where its tasks stand.
pub(crate) type Standing = (u32, bool, Option<u32>, Vec<(LogTime, Vec<(TaskState, u8)>)>);

/// One live allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Allocation {
    pub(crate) job: JobId,
    pub(crate) group: u16,
    pub(crate) task: u32,
    pub(crate) machine: u32,
    pub(crate) epoch: u32,
    pub(crate) state: AllocationState,
    pub(crate) ready: bool,
    pub(crate) restarts: u32,
    pub(crate) attempt: u16,
    pub(crate) created: u64,
    pub(crate) session: SessionId,
    pub(crate) number: u64,
    pub(crate) resources: Resources,
    /// Higher than that of each grant before it.
    pub(crate) order: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) scheduler: Arc<str>,
    /// Decided numbers, with revision and digest.
    pub(crate) decided: Vec<(u64, u64, u64)>,
}

/// The cell at one revision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    pub(crate) revision: u64,
    pub(crate) time: LogTime,
    pub(crate) identity: CellIdentity,
    pub(crate) machines: BTreeMap<u32, Arc<Machine>>,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    pub(crate) allocations: BTreeMap<AllocationId, Allocation>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
}

impl Picture {
    /// Capacity less what live allocations have.
    pub(crate) fn room(&self, slot: u32) -> Room {
        let mut room = self.machines.get(&slot).map_or_else(Room::default, |machine| Room::all_of(&machine.capacity));
        for allocation in self.allocations.values().filter(|allocation| allocation.machine == slot) {
            room.take(&allocation.resources);
        }
        room
    }

    /// Unreachable machines that were given up in this absence: something is lost that they were given since the one before.
    pub(crate) fn given_up(&self) -> BTreeSet<u32> {
        self.unreachable_with_lost(|machine, lost| lost.epoch == machine.epoch)
    }

    /// Those that may have been: something that they ran is lost.
    pub(crate) fn perhaps_given_up(&self) -> BTreeSet<u32> {
        self.unreachable_with_lost(|_, _| true)
    }

    fn unreachable_with_lost(&self, counts: impl Fn(&Machine, &Allocation) -> bool) -> BTreeSet<u32> {
        let lost = |slot: u32, machine: &Machine| {
            let mut of_it = self.allocations.values().filter(|found| found.machine == slot);
            of_it.any(|found| found.state == AllocationState::Lost && counts(machine, found))
        };
        let unreachable = self.machines.iter().filter(|(_, machine)| machine.state == MachineState::Unreachable);
        unreachable.filter(|(slot, machine)| lost(**slot, machine)).map(|(slot, _)| *slot).collect()
    }

    pub(crate) fn job_named(&self, shape: &JobShape) -> Option<JobId> {
        let same = |job: &Job| (&job.shape.namespace, &job.shape.name) == (&shape.namespace, &shape.name);
        self.jobs.iter().find(|(_, job)| same(job)).map(|(&id, _)| id)
    }

    pub(crate) fn machine_named(&self, name: &str) -> Option<u32> {
        self.machines.iter().find(|(_, machine)| &*machine.name == name).map(|(&slot, _)| slot)
    }

    /// The task's allocation that is not leaving.
    pub(crate) fn active(&self, job: JobId, group: u16, task: u32) -> Option<(AllocationId, &Allocation)> {
        let is_its = |found: &Allocation| (found.job, found.group, found.task) == (job, group, task);
        let found = self.allocations.iter().find(|(_, found)| is_its(found) && found.state.is_active());
        found.map(|(&id, found)| (id, found))
    }

    /// Whether something of a job is live and not leaving.
    pub(crate) fn runs(&self, job: JobId) -> bool {
        self.allocations.values().any(|allocation| allocation.job == job && allocation.state.is_active())
    }

    pub(crate) fn has_allocations(&self, job: JobId) -> bool {
        self.allocations.values().any(|allocation| allocation.job == job)
    }

    /// Whether tasks of this group may be placed: the job is not over, all groups before it are done, its backoff is over.
    pub(crate) fn wants(&self, id: JobId, group: u16, now: LogTime) -> bool {
        self.jobs.get(&id).is_some_and(|job| job.group_not_wanted(group, now).is_none())
    }

    pub(crate) fn task(&self, id: JobId, group: u16, task: u32) -> Option<Task> {
        self.jobs.get(&id)?.groups.get(usize::from(group))?.tasks.get(task as usize).copied()
    }

    pub(crate) fn task_mut(&mut self, id: JobId, group: u16, task: u32) -> Option<&mut Task> {
        self.jobs.get_mut(&id)?.groups.get_mut(usize::from(group))?.tasks.get_mut(task as usize)
    }
}

/// The first resource of which there is not enough, and how much is missing.
pub(crate) fn short(room: &Room, need: &Resources) -> Option<(Resource, u64)> {
    let missing = |resource: Resource| need.get(resource).cast_signed() - room.get(resource);
    let short = Resource::ALL.into_iter().find(|&resource| need.get(resource) > 0 && missing(resource) > 0);
    short.map(|resource| (resource, missing(resource).cast_unsigned()))
}

/// A group of the stories that random commands tell.
pub(crate) fn group(count: u32, cpu_millis: u64) -> GroupShape {
    GroupShape { count, resources: Resources::new(cpu_millis, 1), ..GroupShape::default() }
}

/// A rule about the rack.
pub(crate) fn rack_is(rack: &str) -> Constraint {
    Constraint { attribute: "rack".into(), operator: plenum_model::Operator::Equal, values: vec![rack.into()] }
}

/// A job of these groups, as a command.
pub(crate) fn submission(
    name: u32,
    scheduler: &str,
    kind: JobKind,
    same_machine: bool,
    mut groups: Vec<GroupShape>,
) -> Command {
    for (number, group) in groups.iter_mut().enumerate() {
        group.name = format!("g{number}").into();
    }
    let shape = JobShape {
        namespace: "default".into(),
        name: format!("j{name}").into(),
        scheduler: scheduler.into(),
        kind,
        same_machine,
        groups,
        ..JobShape::default()
    };
    Command::SubmitJob { shape: Arc::new(shape), body: vec![1].into(), body_digest: [1; 32], expected_version: None }
}
