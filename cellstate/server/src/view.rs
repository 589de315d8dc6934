//! Rows as people read them: with names in place of numbers.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{
    AllocationRef, AllocationState, Cell, Delta, End, GroupRow, Hold, Job, JobId, JobKind, LogTime, Machine,
    MachineState, Resources, Room, TaskRow, TaskState,
};
use plenum_proto::v1;

/// A live allocation. `created` is the time of its grant, where it is known. Why it was moved no row says, and neither does this.
#[must_use]
pub(crate) fn allocation(cell: &Cell, allocation: &AllocationRef<'_>, created: Option<LogTime>) -> v1::AllocationView {
    let row = allocation.row;
    let job = cell.job(row.job());
    let machine = cell.machine_in(row.machine);
    let group = job.and_then(|job| job.shape.groups.get(usize::from(row.group)));
    let extra = allocation.extra;
    let away = machine.filter(|machine| machine.state == MachineState::Unreachable);
    let lost_after =
        job.filter(|_| allocation.status.state.is_active()).and_then(|job| job.shape.lost_after_micros(row.group));
    let lost_at = away.zip(lost_after).map(|(machine, after)| machine.since.plus_micros(after));
    v1::AllocationView {
        id: allocation.id.to_bits(),
        namespace: job.map(|job| job.shape.namespace.to_string()).unwrap_or_default(),
        job: job.map(|job| job.shape.name.to_string()).unwrap_or_default(),
        job_id: row.job().to_bits(),
        job_version: row.job_version,
        group: group.map(|group| group.name.to_string()).unwrap_or_default(),
        task: row.task,
        attempt: row.attempt.into(),
        machine: machine.map(|machine| machine.name.to_string()).unwrap_or_default(),
        machine_id: machine.map_or(0, |machine| machine.id.to_bits()),
        epoch: row.epoch,
        scheduler: cell.scheduler_name(row.scheduler).to_owned(),
        state: v1::AllocationState::from(allocation.status.state).into(),
        ready: allocation.status.ready,
        restarts: extra.map_or(0, |extra| extra.restarts),
        resources: Some((&cell.resources_of(row)).into()),
        session: row.session,
        number: row.number.into(),
        created_revision: row.created.0,
        created_micros: created.map_or(0, |time| time.micros),
        exit_code: 0,
        reason: extra.and_then(|extra| extra.reason.as_deref()).unwrap_or_default().to_owned(),
        ended_revision: 0,
        ended_micros: 0,
        ports: extra.map(|extra| extra.ports.iter().map(Into::into).collect()).unwrap_or_default(),
        devices: extra.map(|extra| extra.devices.iter().map(Into::into).collect()).unwrap_or_default(),
        take_overs: extra.map(|extra| extra.takes_over.iter().map(Into::into).collect()).unwrap_or_default(),
        started_micros: 0,
        unreachable_micros: away.map_or(0, |machine| machine.since.micros),
        lost_at_micros: lost_at.map_or(0, |time| time.micros),
        move_reason: String::new(),
    }
}

/// Restarts that a delta tells of, by slot: also of those that it ends.
pub(crate) fn restarts(delta: &Delta) -> BTreeMap<u32, u32> {
    delta.moves.iter().map(|moved| (moved.slot, moved.restarts)).collect()
}

/// Makes the view of a live allocation that of an ended one. The same delta, whose `restarts` these are, may have moved it before.
pub(crate) fn ended(view: &mut v1::AllocationView, end: &End, delta: &Delta, restarts: &BTreeMap<u32, u32>) {
    if let Some(&told) = restarts.get(&end.slot) {
        view.restarts = told;
    }
    view.state = v1::AllocationState::from(end.state).into();
    view.ready = false;
    view.exit_code = end.exit_code;
    view.reason = reason_of(&view.reason, end);
    view.ended_revision = delta.revision.0;
    view.ended_micros = delta.time.micros;
    (view.unreachable_micros, view.lost_at_micros) = (0, 0);
}

/// Why it ended. Of what was to end, both why and, where its agent tells that, how it did: `known` is what the cell had said before.
fn reason_of(known: &str, end: &End) -> String {
    let told = end.reason.as_deref().unwrap_or(known);
    let was_to_end = matches!(end.state, AllocationState::Stopped | AllocationState::Evicted);
    if was_to_end && !known.is_empty() && told != known { format!("{known}; {told}") } else { told.to_owned() }
}

/// A machine, with what is taken of it. Its lease is of so many microseconds.
#[must_use]
pub(crate) fn machine(cell: &Cell, machine: &Machine, lease_micros: i64) -> v1::MachineView {
    let row = cell.machine_row(machine.id.slot);
    v1::MachineView {
        id: machine.id.to_bits(),
        name: machine.name.to_string(),
        state: v1::MachineState::from(machine.state).into(),
        epoch: machine.epoch,
        attributes: machine.attributes.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        capacity: Some(machine.capacity.as_ref().into()),
        allocated: Some(taken(&machine.capacity, &cell.room(machine.id.slot))),
        allocations: row.map_or(0, |row| row.allocations.into()),
        devices: machine.devices.iter().map(Into::into).collect(),
        since_micros: machine.since.micros,
        registered_micros: machine.registered.micros,
        last_change: row.map_or(0, |row| row.last_change.0),
        cordoned: machine.cordoned,
        unfit: plenum_proto::machines::unfit_to_wire(machine.unfit),
        drain_deadline_micros: machine.drain_deadline.map_or(0, |deadline| deadline.time().micros),
        unknown_tasks: u32::try_from(cell.unknown_on(machine.id.slot).count()).unwrap_or(u32::MAX),
        devices_used_millis: devices_used(cell, machine),
        silent_since_micros: silent_since(machine, lease_micros),
        partitions: Vec::new(),
        holds: Vec::new(),
    }
}

/// The names of the partitions that a machine is in.
pub(crate) fn partitions_of(cell: &Cell, machine: &Machine) -> Vec<String> {
    let of_it = cell.partitions().filter(|(_, partition)| partition.has(&machine.attributes));
    of_it.map(|(name, _)| name.to_string()).collect()
}

/// What is held on a machine, and for whom: of each hold this machine alone.
pub(crate) fn holds_on(cell: &Cell, machine: &Machine) -> Vec<v1::HoldView> {
    let slot = machine.id.slot;
    cell.held_by(slot).iter().filter_map(|&job| hold(cell, job, cell.hold(job)?, &[slot])).collect()
}

/// A hold, of whose machines these are named, where its job is there.
pub(crate) fn hold(cell: &Cell, job: JobId, hold: &Hold, machines: &[u32]) -> Option<v1::HoldView> {
    let job = cell.job(job)?;
    let machines = machines.iter().filter_map(|&slot| cell.machine_in(slot));
    Some(v1::HoldView {
        namespace: job.shape.namespace.to_string(),
        job: job.shape.name.to_string(),
        priority: job.shape.priority.into(),
        machines: machines.map(|machine| machine.name.to_string()).collect(),
        resources: Some((&hold.resources).into()),
        deadline_micros: hold.deadline.micros,
        first_wait_revision: hold.first_wait.0,
        scheduler: job.shape.scheduler.to_string(),
    })
}

/// When an unreachable machine was heard last: it counts as unreachable once its lease has run out since then. Later than that by what counts for
/// no lease, as the server started, stood still or was read-only: when leases were renewed is known nowhere but in memory, of those that run.
fn silent_since(machine: &Machine, lease_micros: i64) -> i64 {
    match machine.state {
        MachineState::Unreachable => machine.since.micros.saturating_sub(lease_micros),
        _ => 0,
    }
}

/// Thousandths in use of each of a machine's devices, in their order.
fn devices_used(cell: &Cell, machine: &Machine) -> Vec<i64> {
    let mut used = cell.in_use(machine.id.slot).map(|used| used.devices.clone()).unwrap_or_default();
    used.resize(machine.devices.len(), 0);
    used
}

/// Capacity less free room.
pub(crate) fn taken(capacity: &Resources, free: &Room) -> v1::Resources {
    let mut room = Room::default();
    room.add(capacity);
    let amounts: Vec<i64> = room.0.iter().zip(&free.0).map(|(all, free)| all.saturating_sub(*free)).collect();
    let used = amounts[3..].iter().rposition(|&amount| amount != 0).map_or(0, |last| last + 1);
    v1::Resources {
        cpu_millis: amounts[0],
        memory_bytes: amounts[1],
        disk_bytes: amounts[2],
        custom: amounts[3..3 + used].to_vec(),
    }
}

/// Adds amounts of resources up, for totals.
pub(crate) fn add(total: &mut v1::Resources, more: &v1::Resources) {
    total.cpu_millis = total.cpu_millis.saturating_add(more.cpu_millis);
    total.memory_bytes = total.memory_bytes.saturating_add(more.memory_bytes);
    total.disk_bytes = total.disk_bytes.saturating_add(more.disk_bytes);
    if total.custom.len() < more.custom.len() {
        total.custom.resize(more.custom.len(), 0);
    }
    total.custom.iter_mut().zip(&more.custom).for_each(|(total, more)| *total = total.saturating_add(*more));
}

/// From so many on, a task does not just fail, or is not just restarted: it does so again and again.
const AGAIN_AND_AGAIN: u32 = 2;
/// How long after a failure, and the rest that follows it, a task that runs again may still be about to fail again: ten minutes. Most that fail for
/// ever do so within seconds.
const DOUBTED_MICROS: i64 = 600 * 1_000_000;

/// The tasks of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct GroupCounts {
    granted: u32,
    starting: u32,
    running: u32,
    stopping: u32,
    lost: u32,
    attempts: u32,
    failing: u32,
    /// Active, on machines that are unreachable.
    unreachable: u32,
    /// Of the task that failed most often.
    failures: u32,
}

impl GroupCounts {
    /// A million tasks of a job that crashes for days have more than the field holds.
    fn tried(&mut self, attempts: u16) {
        self.attempts = self.attempts.saturating_add(attempts.into());
    }

    fn add(&mut self, state: AllocationState) {
        match state {
            AllocationState::Granted => self.granted += 1,
            AllocationState::Starting => self.starting += 1,
            AllocationState::Running => self.running += 1,
            AllocationState::Stopping | AllocationState::Evicting => self.stopping += 1,
            AllocationState::Lost => self.lost += 1,
            // Not live.
            _ => {}
        }
    }
}

/// Counts tasks and allocations of groups, each by its tasks. Those that are leaving no task knows: as soon as some group has such, all of the
/// cell's are looked at, once.
pub(crate) struct Counts<'a> {
    cell: &'a Cell,
    now: LogTime,
    /// By group row.
    leaving: OnceCell<BTreeMap<u32, GroupCounts>>,
    /// Whether any machine is unreachable.
    any_away: OnceCell<bool>,
}

impl<'a> Counts<'a> {
    /// What fails goes by `now`.
    pub(crate) fn new(cell: &'a Cell, now: LogTime) -> Self {
        Self { cell, now, leaving: OnceCell::new(), any_away: OnceCell::new() }
    }

    /// How many tasks of a job fail again and again.
    pub(crate) fn failing(&self, job: &Job) -> u64 {
        self.sum(job, |counts| counts.failing)
    }

    /// How many tasks of a job are on machines that are unreachable.
    pub(crate) fn unreachable(&self, job: &Job) -> u64 {
        self.sum(job, |counts| counts.unreachable)
    }

    fn sum(&self, job: &Job, of: impl Fn(GroupCounts) -> u32) -> u64 {
        let groups = (0_u16..).zip(&job.shape.groups);
        let counts = groups.filter_map(|(position, _)| {
            Some(self.of(job.group_row(position)?, self.cell.group(job, position)?, job.state.is_final()))
        });
        counts.map(|counts| u64::from(of(counts))).sum()
    }

    fn of(&self, number: u32, group: &GroupRow, is_over: bool) -> GroupCounts {
        let leaving = || self.leaving.get_or_init(|| self.leaving()).get(&number).copied().unwrap_or_default();
        let mut counts = if group.leaving == 0 { GroupCounts::default() } else { leaving() };
        for task in (0..group.count).filter_map(|task| self.cell.task(group, task)) {
            counts.tried(task.attempts);
            counts.failures = counts.failures.max(task.failures.into());
            if let Some(slot) = task.allocation.checked_sub(1) {
                let state = self.cell.status(slot).state;
                counts.add(state);
                counts.unreachable += u32::from(state.is_active() && self.is_away(slot));
            }
            counts.failing += u32::from(!is_over && (fails(&task, group, self.now) || self.is_restarted(&task)));
        }
        counts
    }

    /// Whether the machine of an allocation is unreachable. Mostly none is, and no row of allocations is looked at.
    fn is_away(&self, slot: u32) -> bool {
        let is_away = |slot: u32| self.cell.machine_row(slot).is_some_and(|row| row.state == MachineState::Unreachable);
        let any = || (0..self.cell.machine_rows().len()).any(is_away);
        *self.any_away.get_or_init(any) && self.cell.allocation_rows().get(slot).is_some_and(|row| is_away(row.machine))
    }

    /// Whether its agent restarts it again and again, and it is down at the moment: when it was restarted last, nobody but its agent knows.
    fn is_restarted(&self, task: &TaskRow) -> bool {
        let Some(slot) = task.allocation.checked_sub(1) else { return false };
        let status = self.cell.status(slot);
        let is_down = status.state == AllocationState::Running && !status.ready;
        is_down && self.cell.extra(slot).is_some_and(|extra| extra.restarts >= AGAIN_AND_AGAIN)
    }

    fn leaving(&self) -> BTreeMap<u32, GroupCounts> {
        let mut counts: BTreeMap<u32, GroupCounts> = BTreeMap::new();
        for (slot, byte) in (0_u32..).zip(self.cell.statuses().iter()) {
            let state = byte.status().state;
            if state.is_leaving()
                && let Some(row) = self.cell.allocation_rows().get(slot)
            {
                counts.entry(row.group_row).or_default().add(state);
            }
        }
        counts
    }
}

/// Whether a task fails again and again: the last time, of those of its group, not long ago. It may run at the moment.
fn fails(task: &TaskRow, group: &GroupRow, now: LogTime) -> bool {
    let may_fail = matches!(task.state, TaskState::Waiting | TaskState::Blocked | TaskState::Live);
    may_fail && doubted(group, now) && u32::from(task.failures) >= AGAIN_AND_AGAIN
}

/// Whether a task of the group failed not long ago: when one did last is told of the group as a whole.
fn doubted(group: &GroupRow, now: LogTime) -> bool {
    group.not_before.plus_micros(DOUBTED_MICROS) > now
}

/// How many jobs have tasks that fail again and again: those of which [`Counts::failing`] is not 0. Looks only at the tasks of groups of which one failed
/// not long ago, and at what few allocations have: of a large cell hardly anything.
pub(crate) fn failing_jobs(cell: &Cell, now: LogTime) -> usize {
    let counts = Counts::new(cell, now);
    let again = cell.extras().filter(|(_, extra)| extra.restarts >= AGAIN_AND_AGAIN);
    let restarted: BTreeSet<JobId> =
        again.filter_map(|(slot, _)| Some(cell.allocation_rows().get(slot)?.job())).collect();
    let one_fails = |job: &Job| {
        group_rows(cell, job).filter(|group| doubted(group, now)).any(|group| {
            (0..group.count).filter_map(|task| cell.task(group, task)).any(|task| fails(&task, group, now))
        })
    };
    let open = cell.jobs().filter(|job| !job.state.is_final());
    open.filter(|job| one_fails(job) || (restarted.contains(&job.id) && counts.failing(job) > 0)).count()
}

/// A job, with counts of its tasks. The body is left out: only some may read it.
#[must_use]
pub(crate) fn job(cell: &Cell, job: &Job, counts: &Counts<'_>) -> v1::JobView {
    let groups = (0_u16..).zip(&job.shape.groups).map(|(position, shape)| {
        let row = cell.group(job, position).copied().unwrap_or_default();
        let live =
            job.group_row(position).map(|number| counts.of(number, &row, job.state.is_final())).unwrap_or_default();
        v1::GroupView {
            name: shape.name.to_string(),
            count: row.count,
            waiting: waiting_tasks(job, &row),
            granted: live.granted,
            starting: live.starting,
            running: live.running,
            stopping: live.stopping,
            lost: live.lost,
            done: row.tasks_in(TaskState::Done),
            failed: row.tasks_in(TaskState::Failed),
            attempts: live.attempts,
            not_before_micros: row.not_before.micros,
            failing: live.failing,
            failures: live.failures,
            staying: String::new(),
            unreachable: live.unreachable,
        }
    });
    v1::JobView {
        id: job.id.to_bits(),
        version: job.version,
        shape: Some(job.shape.as_ref().into()),
        state: v1::JobState::from(job.state).into(),
        reason: job.reason.to_string(),
        submitted_micros: job.submitted.micros,
        groups: groups.collect(),
        waiting_reason: String::new(),
        body: None,
        last_instant_micros: job.last_instant_micros.filter(|_| job.shape.kind == JobKind::Recurring),
        parent: parent_of(cell, job).map(|parent| parent.shape.name.to_string()).unwrap_or_default(),
        state_since_micros: job.state_since.micros,
    }
}

/// The recurring job that a job was launched from, while the cell has it. Both are of the same namespace.
pub(crate) fn parent_of<'a>(cell: &'a Cell, job: &Job) -> Option<&'a Job> {
    cell.job(job.shape.parent?).map(|parent| &**parent)
}

/// The rows of a job's groups, in their order.
pub(crate) fn group_rows<'a>(cell: &'a Cell, job: &'a Job) -> impl Iterator<Item = &'a GroupRow> {
    (0_u16..).zip(&job.shape.groups).filter_map(move |(position, _)| cell.group(job, position))
}

/// How many tasks of a group wait, for a machine or for their predecessors.
pub(crate) fn waiting_tasks(job: &Job, row: &GroupRow) -> u32 {
    if places_tasks(job) { row.tasks_in(TaskState::Waiting) + row.tasks_in(TaskState::Blocked) } else { 0 }
}

/// The same of all of a job's.
pub(crate) fn waiting_in(cell: &Cell, job: &Job) -> u64 {
    group_rows(cell, job).map(|group| u64::from(waiting_tasks(job, group))).sum()
}

/// Whether tasks of a job wait for anything: what waits when it is over never runs, and of a recurring one nothing does.
#[must_use]
pub(crate) fn places_tasks(job: &Job) -> bool {
    !job.state.is_final() && job.shape.kind != JobKind::Recurring
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_of_very_many_tasks_stay_at_the_most_that_can_be_told() {
        let mut counts = GroupCounts::default();
        (0..70_000).for_each(|_| counts.tried(u16::MAX));
        assert_eq!(counts.attempts, u32::MAX);
    }

    // A task that ran out of memory as it was stopped for a drain said that alone: why it had been stopped stood in its story only.
    #[test]
    fn what_was_to_end_says_why_and_how_it_ended() {
        use AllocationState::{EndedLost, Evicted, Failed, Stopped};
        let told = |known: &str, state, reason: Option<&str>| {
            reason_of(known, &End { slot: 1, state, exit_code: 137, reason: reason.map(Into::into) })
        };
        assert_eq!(told("the job was stopped", Stopped, Some("out of memory")), "the job was stopped; out of memory");
        assert_eq!(told("evicted for a/b", Evicted, Some("signal 9")), "evicted for a/b; signal 9");
        assert_eq!(told("the job was stopped", Stopped, Some("the job was stopped")), "the job was stopped", "once");
        assert_eq!(told("the job was stopped", Stopped, None), "the job was stopped");
        assert_eq!(told("", Stopped, Some("exit code 7")), "exit code 7");
        assert_eq!(told("m1 is unreachable", EndedLost, Some("exit code 7")), "exit code 7", "that was not asked for");
        assert_eq!(told("", Failed, Some("exit code 7")), "exit code 7");
    }

    // A job in a loop of crashes was listed as one that runs.
    #[test]
    fn a_task_fails_again_and_again_while_its_last_failure_is_not_long_ago() {
        let group = GroupRow { not_before: LogTime::from_micros(1_000), ..GroupRow::default() };
        let fails_at = |state, failures, micros| {
            fails(&TaskRow { state, failures, ..TaskRow::default() }, &group, LogTime::from_micros(micros))
        };
        use TaskState::{Blocked, Cancelled, Done, Failed, Live, Waiting};
        for state in [Waiting, Live, Blocked] {
            assert!(fails_at(state, 2, 0), "while it waits for its next attempt");
            assert!(fails_at(state, u8::MAX, 1_000 + DOUBTED_MICROS - 1), "and while it may fail again");
            assert!(!fails_at(state, u8::MAX, 1_000 + DOUBTED_MICROS), "what has run for long does not");
            assert!(!fails_at(state, 1, 0), "once is not again and again");
        }
        assert!([Done, Failed, Cancelled].iter().all(|&state| !fails_at(state, 9, 0)), "these are over");
    }
}
