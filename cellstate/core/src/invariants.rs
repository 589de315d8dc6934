//! What always holds, as one list of checks with typed violations. Those that cost nothing are asserted in the core after each command, of every
//! build; all are used by the simulator, by `plenum verify`, by restores and by the checkers of the tests.

mod culprits;
mod governing;
mod special;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationRef, AllocationState, Cell, Command, Decision, Delta, Grants, JobId, MachineId, MachineRow,
    Outcome, Request, Resource, Revision, Room, SessionChange, TaskChange, TaskState, Transaction, TransactionOutcome,
    UnknownId,
};

pub use culprits::invariant_conflicts_name_their_culprits;
pub use governing::{
    invariant_holds_are_of_live_jobs_on_machines_that_are_there, invariant_no_grant_or_hold_exceeds_a_quota,
    invariant_no_grant_takes_room_that_is_held_for_others, invariant_unknown_tasks_are_unknown,
};
pub use special::{
    invariant_declared_limits_hold, invariant_granted_devices_were_free, invariant_no_unknown_task_has_a_granted_port,
    invariant_ports_are_held_once, invariant_room_is_taken_over_from_those_who_leave,
    invariant_single_instances_wait_for_their_predecessors, invariant_victims_make_room_for_their_betters,
};

use crate::Decided;

/// What does not hold, with the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A machine's free room is not its capacity less its live allocations.
    RoomLeaks {
        /// Which.
        machine: MachineId,
        /// In which resource.
        resource: Resource,
        /// What its row says is free.
        recorded: i64,
        /// What is free by its allocations.
        derived: i64,
    },
    /// A grant made free room negative.
    Overcommitted {
        /// At which revision.
        revision: Revision,
        /// The machine's slot.
        machine: u32,
        /// In which resource.
        resource: Resource,
        /// What is free now.
        free: i64,
    },
    /// Two allocations of one task are not leaving.
    TwoAllocations {
        /// One.
        first: AllocationId,
        /// The other.
        second: AllocationId,
    },
    /// A task names another allocation than the one that names it.
    TaskDisagrees {
        /// The allocation.
        allocation: AllocationId,
    },
    /// A live allocation has other resources than its group declares.
    OtherResources {
        /// The allocation.
        allocation: AllocationId,
    },
    /// A task of a job whose tasks share a machine is elsewhere.
    Apart {
        /// Its allocation.
        allocation: AllocationId,
        /// Where that is, by slot.
        machine: u32,
        /// Where its job's tasks are, by slot.
        home: Option<u32>,
    },
    /// A group's counters are not the counts of its tasks, or one of these does not stand where it is said to.
    CountersWrong {
        /// Its job.
        job: JobId,
        /// Its row.
        group_row: u32,
    },
    /// A conflict over room, a device or a port names culprits that took less than what was short.
    CulpritsTooSmall {
        /// At which revision.
        revision: Revision,
        /// What was short.
        short_by: u64,
        /// What they took.
        total: u64,
    },
    /// A conflict over room, a device or a port names an allocation that is not there, or has nothing of it.
    CulpritTookNothing {
        /// At which revision.
        revision: Revision,
        /// Whom.
        allocation: AllocationId,
    },
    /// A conflict without a culprit, or with one that is not later than the base.
    CulpritNotLater {
        /// At which revision.
        revision: Revision,
        /// The base.
        base: Revision,
    },
    /// A placement was granted fewer claims than its minimum, and more than none.
    MinimumBroken {
        /// At which revision.
        revision: Revision,
        /// The placement's position.
        placement: usize,
    },
    /// A refused transaction changed something.
    RefusedHadEffect {
        /// At which revision.
        revision: Revision,
    },
    /// What few allocations have breaks a rule: devices, ports, room that was taken over, declared limits, single instances.
    Special {
        /// At which revision.
        revision: Revision,
        /// Which machine, by slot.
        machine: u32,
        /// About which allocation.
        allocation: AllocationId,
        /// Which rule.
        rule: &'static str,
    },
    /// A hold of a job that is over, or of machines that are not there.
    HoldAstray {
        /// Whose.
        job: JobId,
    },
    /// A grant took room that others hold.
    HeldRoomTaken {
        /// At which revision.
        revision: Revision,
        /// The machine's slot.
        machine: u32,
        /// In which resource.
        resource: Resource,
        /// How much of it.
        taken: u64,
    },
    /// A task counts as unknown, and is known; or its machine is not there.
    UnknownIsKnown {
        /// Which.
        unknown: UnknownId,
    },
    /// An unknown task is not found by its names, or by some that it does not have, or it is there no more.
    UnknownMisnamed {
        /// Which.
        unknown: UnknownId,
    },
    /// Machines of a restored cell that are yet to tell of unknown tasks are not as many as was counted.
    UnheardMiscounted {
        /// What was counted.
        recorded: u32,
        /// How many there are by their rows.
        derived: u32,
    },
    /// A grant or a hold took a namespace above its quota.
    QuotaExceeded {
        /// At which revision.
        revision: Revision,
        /// Whose.
        namespace: Arc<str>,
        /// In which resource.
        resource: Resource,
        /// What it uses now.
        used: u64,
        /// What it may.
        limit: u64,
    },
    /// A job was changed that had another version than was expected; 0: there was none of this name.
    Unexpected {
        /// At which revision.
        revision: Revision,
        /// What was expected.
        expected: u32,
        /// What it had.
        found: u32,
    },
    /// A report of agents let a task run again that is done.
    DoneUndone {
        /// At which revision.
        revision: Revision,
        /// Its group.
        group_row: u32,
        /// Its index.
        task: u32,
    },
    /// A revision does not follow the one before.
    RevisionGap {
        /// The one before.
        before: Revision,
        /// This one.
        after: Revision,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Violation {}

/// A check of a cell by itself.
pub type CellCheck = fn(&Cell) -> Result<(), Violation>;

/// All checks of a cell by itself.
pub const OF_A_CELL: &[CellCheck] = &[
    // First: where resources are not what they were, no sum of them is.
    invariant_allocations_have_what_their_groups_declare,
    invariant_used_equals_the_sum_of_live_allocations,
    invariant_one_allocation_per_task_is_not_leaving,
    invariant_counters_count_their_tasks,
    invariant_room_is_taken_over_from_those_who_leave,
    invariant_ports_are_held_once,
    invariant_holds_are_of_live_jobs_on_machines_that_are_there,
    invariant_unknown_tasks_are_unknown,
];

/// Runs all checks of a cell by itself.
///
/// # Errors
/// The first violation.
pub fn check_cell(cell: &Cell) -> Result<(), Violation> {
    OF_A_CELL.iter().try_for_each(|check| check(cell))
}

/// All checks of one step.
///
/// # Errors
/// The first violation.
pub fn check_step(before: &Cell, request: &Request, decided: &Decided, after: &Cell) -> Result<(), Violation> {
    let Decided::Changed { decision, delta } = decided else {
        let same = before.revision() == after.revision();
        let gap = Violation::RevisionGap { before: before.revision(), after: after.revision() };
        return if same { Ok(()) } else { Err(gap) };
    };
    invariant_revisions_have_no_gaps(before, after)?;
    invariant_what_was_expected_was_there(before, &request.command, after.revision())?;
    invariant_reports_undo_nothing(before, &request.command, delta)?;
    invariant_no_grant_makes_room_negative(after, delta)?;
    invariant_granted_devices_were_free(after, delta)?;
    invariant_no_unknown_task_has_a_granted_port(after, delta)?;
    invariant_declared_limits_hold(after, delta)?;
    invariant_single_instances_wait_for_their_predecessors(after, delta)?;
    invariant_tasks_that_share_a_machine_stay_together(before, after)?;
    invariant_victims_make_room_for_their_betters(before, after, delta)?;
    invariant_no_grant_or_hold_exceeds_a_quota(before, after, delta)?;
    invariant_no_grant_takes_room_that_is_held_for_others(after, delta)?;
    if let (Command::Commit(txn, _), Decision::Outcome(outcome)) = (&request.command, decision) {
        invariant_conflicts_name_their_culprits(before, txn, outcome)?;
        invariant_minimums_hold(before, txn, outcome, delta)?;
        invariant_refused_has_no_effect(outcome, delta)?;
    }
    check_cell(after)
}

/// What was decided on one version of a job changed no other.
///
/// # Errors
/// When the job had another version.
pub fn invariant_what_was_expected_was_there(
    before: &Cell,
    command: &Command,
    revision: Revision,
) -> Result<(), Violation> {
    let (expected, job) = match command {
        Command::SubmitJob { shape, expected_version, .. } => {
            (*expected_version, before.job_named(&shape.namespace, &shape.name))
        }
        Command::StopJob { job, version } | Command::ScaleJob { job, version, .. } => (*version, before.job(*job)),
        _ => return Ok(()),
    };
    let found = job.map_or(0, |job| job.version);
    match expected {
        Some(expected) if expected != found => Err(Violation::Unexpected { revision, expected, found }),
        _ => Ok(()),
    }
}

/// What is done stays done, whatever agents report: it is undone with the machine where it was done, and of a machine that is there nothing
/// that happened to a task says that it is gone.
///
/// # Errors
/// The first task that is to run again.
pub fn invariant_reports_undo_nothing(before: &Cell, command: &Command, delta: &Delta) -> Result<(), Violation> {
    if !matches!(command, Command::ReportStatus(_)) {
        return Ok(());
    }
    let was_done = |change: &&TaskChange| {
        let group = before.groups().get(change.group_row);
        group.and_then(|group| before.task(group, change.task)).is_some_and(|task| task.state == TaskState::Done)
    };
    let undone = delta.tasks.iter().filter(|change| change.state != TaskState::Done).find(was_done);
    undone.map_or(Ok(()), |change| {
        let (group_row, task) = (change.group_row, change.task);
        Err(Violation::DoneUndone { revision: delta.revision, group_row, task })
    })
}

/// Used equals the sum over live allocations: nothing leaks.
///
/// # Errors
/// The first machine where it does not.
pub fn invariant_used_equals_the_sum_of_live_allocations(cell: &Cell) -> Result<(), Violation> {
    let mut rooms: BTreeMap<u32, Room> = BTreeMap::new();
    for machine in cell.machines() {
        rooms.insert(machine.id.slot, Room::all_of(&machine.capacity));
    }
    for allocation in cell.allocations() {
        let resources = cell.resources_of(allocation.row);
        let room = rooms.entry(allocation.row.machine).or_default();
        room.take(&resources);
        allocation.extra.into_iter().flat_map(|extra| &extra.takes_over).for_each(|entry| room.add(&entry.amount));
    }
    for (id, task) in cell.unknown_tasks() {
        rooms.entry(id.machine).or_default().take(&task.traces.resources);
    }
    for machine in cell.machines() {
        let (derived, recorded) = (rooms[&machine.id.slot], cell.room(machine.id.slot));
        for resource in Resource::ALL {
            let (recorded, derived) = (recorded.get(resource), derived.get(resource));
            if recorded != derived {
                return Err(Violation::RoomLeaks { machine: machine.id, resource, recorded, derived });
            }
        }
    }
    Ok(())
}

/// No grant makes free room negative, in any resource that it takes. Where it was so before, who is granted takes over all that it needs.
///
/// # Errors
/// The first machine where one did.
pub fn invariant_no_grant_makes_room_negative(after: &Cell, delta: &Delta) -> Result<(), Violation> {
    for grants in &delta.grants {
        let Some(shape) = after.shapes().get(grants.shape as usize) else { continue };
        // Of nearly all this is to be asked and no more: after each command of a server, too.
        let plain = shape.is_plain();
        let has_room = |row: &MachineRow| plain && row.free_cpu_millis >= 0 && row.free_memory_bytes >= 0;
        for &machine in &grants.machines {
            if after.machine_row(machine).is_some_and(has_room) {
                continue;
            }
            let room = after.room(machine);
            let negative = |&resource: &Resource| shape.get(resource) > 0 && room.get(resource) < 0;
            let made_so = |resource: &Resource| taken_of_free_room(after, delta, machine, *resource) > 0;
            if let Some(resource) = Resource::ALL.into_iter().filter(negative).find(made_so) {
                let free = room.get(resource);
                return Err(Violation::Overcommitted { revision: after.revision(), machine, resource, free });
            }
        }
    }
    Ok(())
}

/// What the grants of a step take on a machine, without what they take over there. Below 0 where they take over more.
pub(super) fn taken_of_free_room(after: &Cell, delta: &Delta, machine: u32, resource: Resource) -> i64 {
    let of_grants = |grants: &Grants| {
        let need = after.shapes().get(grants.shape as usize).map_or(0, |shape| shape.get(resource)).cast_signed();
        let here = |claim: usize| grants.machines.get(claim) == Some(&machine);
        let count = grants.machines.iter().filter(|of| **of == machine).count();
        let extras = grants.extras.iter().filter(|extra| here(extra.claim as usize));
        let taken_over =
            extras.flat_map(|extra| &extra.takes_over).map(|entry| entry.amount.get(resource).cast_signed());
        need.saturating_mul(i64::try_from(count).unwrap_or(i64::MAX)) - taken_over.sum::<i64>()
    };
    delta.grants.iter().map(of_grants).sum()
}

/// At most one allocation per task is not leaving, and the task names it.
///
/// # Errors
/// The first task with two.
pub fn invariant_one_allocation_per_task_is_not_leaving(cell: &Cell) -> Result<(), Violation> {
    let mut active: BTreeMap<(u32, u32), AllocationId> = BTreeMap::new();
    for allocation in cell.allocations().filter(|allocation| allocation.status.state.is_active()) {
        let key = (allocation.row.group_row, allocation.row.task);
        if let Some(first) = active.insert(key, allocation.id) {
            return Err(Violation::TwoAllocations { first, second: allocation.id });
        }
        let group = cell.groups().get(allocation.row.group_row).copied().unwrap_or_default();
        let named = cell.task(&group, allocation.row.task).map(|task| task.allocation);
        if named != Some(allocation.id.slot + 1) {
            return Err(Violation::TaskDisagrees { allocation: allocation.id });
        }
    }
    Ok(())
}

/// What a live allocation has is what its group declares: nobody else got the number that stands for it.
///
/// # Errors
/// The first allocation that has something else.
pub fn invariant_allocations_have_what_their_groups_declare(cell: &Cell) -> Result<(), Violation> {
    for allocation in cell.allocations() {
        let job = cell.job(allocation.row.job());
        let group = job.and_then(|job| job.shape.groups.get(usize::from(allocation.row.group)));
        if group.map(|group| group.resources) != Some(cell.resources_of(allocation.row)) {
            return Err(Violation::OtherResources { allocation: allocation.id });
        }
    }
    Ok(())
}

/// Counters of groups are the counts of their tasks and allocations, and of each task it is so where it stands: who is live has an allocation that
/// is not leaving, and who is blocked waits for one that is, as its group has single instances.
///
/// # Errors
/// The first group where they are not.
pub fn invariant_counters_count_their_tasks(cell: &Cell) -> Result<(), Violation> {
    let mut leaving: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    for allocation in cell.allocations().filter(|allocation| allocation.status.state.is_leaving()) {
        *leaving.entry((allocation.row.group_row, allocation.row.task)).or_default() += 1;
    }
    for job in cell.jobs() {
        for (group_row, group) in crate::jobs::groups_of(cell, job) {
            let is_so = |task: u32, state: TaskState| match state {
                TaskState::Live => cell.active_allocation(group_row, task).is_some(),
                TaskState::Blocked => group.single_instance && leaving.contains_key(&(group_row, task)),
                TaskState::Waiting | TaskState::Done | TaskState::Failed | TaskState::Cancelled => true,
            };
            let mut tasks = [0; TaskState::ALL.len()];
            for task in 0..group.count {
                if let Some(state) = cell.task_state(&group, task).filter(|&state| is_so(task, state)) {
                    tasks[state as usize] += 1;
                }
            }
            let leaves: u32 = leaving.range((group_row, 0)..=(group_row, u32::MAX)).map(|(_, leaves)| leaves).sum();
            if tasks != group.tasks || tasks.iter().sum::<u32>() != group.count || leaves != group.leaving {
                return Err(Violation::CountersWrong { job: job.id, group_row });
            }
        }
    }
    Ok(())
}

/// Revisions have no gaps.
///
/// # Errors
/// When one has.
pub fn invariant_revisions_have_no_gaps(before: &Cell, after: &Cell) -> Result<(), Violation> {
    let (before, after) = (before.revision(), after.revision());
    if after == before.next() { Ok(()) } else { Err(Violation::RevisionGap { before, after }) }
}

/// What is not leaving of a job whose tasks share a machine is there: no step puts it elsewhere, or makes elsewhere of where it is. Not
/// a check of a cell by itself: what an earlier version has put apart must not keep anybody from a backup.
///
/// # Errors
/// The first allocation that was put apart.
pub fn invariant_tasks_that_share_a_machine_stay_together(before: &Cell, after: &Cell) -> Result<(), Violation> {
    let is_apart = |cell: &Cell, allocation: &AllocationRef<'_>| {
        let job = cell.job(allocation.row.job()).filter(|job| job.shape.same_machine);
        allocation.status.state.is_active() && job.is_some_and(|job| job.home != Some(allocation.row.machine))
    };
    for allocation in after.allocations().filter(|allocation| is_apart(after, allocation)) {
        let known = before.allocation(allocation.id).is_some_and(|known| is_apart(before, &known));
        if !known {
            let home = after.job(allocation.row.job()).and_then(|job| job.home);
            return Err(Violation::Apart { allocation: allocation.id, machine: allocation.row.machine, home });
        }
    }
    Ok(())
}

/// `min`, `atomic` and what groups declare as their minimums hold: of a transaction that is atomic and missed one, nothing is left, stops
/// neither.
///
/// # Errors
/// The first placement where they do not.
pub fn invariant_minimums_hold(
    before: &Cell,
    txn: &Transaction,
    outcome: &Outcome,
    delta: &Delta,
) -> Result<(), Violation> {
    let granted = |claims: &Vec<Option<AllocationId>>| claims.iter().flatten().count();
    let effect = outcome.placements.iter().any(|claims| granted(claims) > 0) || has_effect(delta);
    for (placement, (asked, claims)) in txn.placements.iter().zip(&outcome.placements).enumerate() {
        let missed = granted(claims) < asked.min as usize;
        if missed && (granted(claims) > 0 || (txn.atomic && effect)) {
            return Err(Violation::MinimumBroken { revision: outcome.revision, placement });
        }
    }
    let below = |(job, group)| txn.placements.iter().position(|asked| (asked.job, asked.group) == (job, group));
    match group_below_its_minimum(before, delta).and_then(below) {
        Some(placement) => Err(Violation::MinimumBroken { revision: outcome.revision, placement }),
        None => Ok(()),
    }
}

/// A group that was granted tasks and has fewer now than it declares. Who is evicted counts as there: it may go for a later placement.
fn group_below_its_minimum(before: &Cell, delta: &Delta) -> Option<(JobId, u16)> {
    let mut changes: BTreeMap<(JobId, u16), (u32, u32)> = BTreeMap::new();
    for grants in &delta.grants {
        changes.entry((grants.job, grants.group)).or_default().0 += crate::derived::rows(grants.slots.len());
    }
    let stopped = delta.moves.iter().filter(|change| change.status.state == AllocationState::Stopping);
    for found in stopped.filter_map(|change| before.allocation_in(change.slot)) {
        changes.entry((found.row.job(), found.row.group)).and_modify(|(_, stopped)| *stopped += 1);
    }
    let is_below = |&(&(id, group), &(come, stopped)): &(&(JobId, u16), &(u32, u32))| {
        let Some(job) = before.job(id) else { return false };
        let shape = job.shape.groups.get(usize::from(group)).zip(before.group(job, group));
        shape.is_some_and(|(shape, row)| come < shape.least_beside(row, row.tasks_there().saturating_sub(stopped)))
    };
    changes.iter().find(is_below).map(|(&group, _)| group)
}

/// A refused transaction has no effect but its record.
///
/// # Errors
/// When one has.
pub fn invariant_refused_has_no_effect(outcome: &Outcome, delta: &Delta) -> Result<(), Violation> {
    let refused = outcome.outcome == TransactionOutcome::Refused;
    if refused && has_effect(delta) { Err(Violation::RefusedHadEffect { revision: outcome.revision }) } else { Ok(()) }
}

/// Whether a transaction changed more than what its session remembers of it. Each field is named, so that what a delta can do later is asked for, too.
fn has_effect(delta: &Delta) -> bool {
    let Delta {
        revision: _,
        time: _,
        cell,
        scheduler_names,
        renamed,
        shapes,
        reshaped,
        machines,
        moves,
        ends,
        tasks,
        jobs,
        grants,
        sessions,
        quotas,
        holds,
        partitions,
        unknown,
        paused,
        rights,
    } = delta;
    let is_record = |change: &SessionChange| matches!(change, SessionChange::Number { .. });
    let as_before = [
        cell.is_none(),
        scheduler_names.is_empty(),
        renamed.is_empty(),
        shapes.is_empty(),
        reshaped.is_empty(),
        machines.is_empty(),
        moves.is_empty(),
        ends.is_empty(),
        tasks.is_empty(),
        jobs.is_empty(),
        grants.is_empty(),
        sessions.iter().all(is_record),
        quotas.is_empty(),
        holds.is_empty(),
        partitions.is_empty(),
        unknown.is_empty(),
        paused.is_empty(),
        rights.is_empty(),
    ];
    as_before.contains(&false)
}

/// What a fold does not find by itself, after each command of every build. It finds a gap, a slot that is granted and not free, a task that
/// is granted and does not wait, and whatever changes and is not there.
///
/// # Panics
/// Where it does not hold: nobody may be told of such a decision.
pub(crate) fn assert_cheap(after: &Cell, delta: &Delta) {
    if let Err(violation) = invariant_no_grant_makes_room_negative(after, delta) {
        panic!("the decision at revision {} breaks an invariant, and was not taken: {violation}", delta.revision.0);
    }
}
