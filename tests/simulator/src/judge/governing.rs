//! Holds, quotas that bind them, launches, and what nobody may take over from a cell that was restored.

use plenum_model::{
    Cell, Command, Decision, GroupRow, GroupShape, Hold, JobChange, JobId, Resource, Resources, TaskState,
};

use super::{Step, rules, why_it_takes_none};
use crate::books::{Checked, hold};

/// What may be wrong with a step of any kind.
pub(super) fn check(step: &Step<'_>) -> Checked {
    rules::invariant_no_grant_exceeds_a_quota(step)?;
    invariant_no_grant_takes_room_that_is_held_for_others(step)?;
    if let Command::TakeHold { job, .. } = &step.request.command {
        invariant_holds_take_room_from_later_ones_only(step, *job)?;
        invariant_holds_are_where_their_job_may_be(step, *job)?;
        invariant_holds_are_for_what_waits(step, *job)?;
    }
    invariant_each_instant_is_launched_once_and_in_order(step)?;
    invariant_nobody_goes_on_in_a_restored_cell(step)
}

/// What is left on a machine for a job: neither taken, nor held for others of whom `counts` says that they count. Below zero, too.
pub(super) fn left(cell: &Cell, machine: u32, counts: impl Fn(JobId) -> bool, resource: Resource) -> i128 {
    let capacity = cell.machine_in(machine).map_or(0, |row| i128::from(row.capacity.get(resource)));
    let amount = |amount: &Resources| i128::from(amount.get(resource));
    let here = cell.allocations().filter(|found| found.row.machine == machine);
    let taken: i128 = here
        .map(|found| {
            let over = found.extra.iter().flat_map(|extra| &extra.takes_over);
            amount(&cell.resources_of(found.row)) - over.map(|entry| amount(&entry.amount)).sum::<i128>()
        })
        .sum();
    let unknown = cell.unknown_tasks().filter(|(id, _)| id.machine == machine);
    let unknown: i128 = unknown.map(|(_, task)| amount(&task.traces.resources)).sum();
    let held = cell.holds().filter(|(job, hold)| counts(*job) && hold.machines.contains(&machine));
    capacity - taken - unknown - held.map(|(_, hold)| amount(&hold.resources)).sum::<i128>()
}

/// Holds of others are taken room, for each job that is granted anything: none of these holds anything any more. Where they have more than is free, a
/// claim takes over all that it needs.
fn invariant_no_grant_takes_room_that_is_held_for_others(step: &Step<'_>) -> Checked {
    if step.after.holds().next().is_none() {
        return Ok(());
    }
    for grants in &step.delta.grants {
        let job = grants.job;
        let asked = step.after.shapes().get(grants.shape as usize).copied().unwrap_or_default();
        for (claim, &machine) in (0..).zip(&grants.machines) {
            let own = grants.extras.iter().filter(|extra| extra.claim == claim).flat_map(|extra| &extra.takes_over);
            let own = own.fold(Resources::default(), |sum, entry| sum.with(&entry.amount));
            for resource in Resource::ALL.into_iter().filter(|&resource| asked.get(resource) > own.get(resource)) {
                let left = left(step.after, machine, |other| other != job, resource);
                hold(left >= 0, "invariant_no_grant_takes_room_that_is_held_for_others", || {
                    format!("revision {}: {job} on {machine}: {left} of {resource:?} left", step.delta.revision)
                })?;
            }
        }
    }
    Ok(())
}

fn rank(cell: &Cell, job: JobId, hold: &Hold) -> (u8, u64, JobId) {
    let band = cell.job(job).map_or(0, |job| job.shape.priority / 10);
    (u8::MAX - band, hold.first_wait.0, job)
}

/// By band, then by who waited first: who comes earlier loses nothing, and its room is not held twice.
fn invariant_holds_take_room_from_later_ones_only(step: &Step<'_>, taker: JobId) -> Checked {
    let name = "invariant_holds_take_room_from_later_ones_only";
    let Some(taken) = step.after.hold(taker) else { return Ok(()) };
    let mine = rank(step.after, taker, taken);
    for (job, before) in step.before.holds().filter(|(job, _)| *job != taker) {
        let after = step.after.hold(job).map(|after| &after.machines);
        let later = rank(step.before, job, before) > mine;
        hold(later || after == Some(&before.machines), name, || {
            format!("revision {}: {taker} came before {job}, which has {after:?} of {before:?}", step.delta.revision)
        })?;
    }
    let before_me =
        |job: JobId| job == taker || step.after.hold(job).is_some_and(|other| rank(step.after, job, other) < mine);
    for &machine in &taken.machines {
        for resource in Resource::ALL.into_iter().filter(|&resource| taken.resources.get(resource) > 0) {
            let left = left(step.after, machine, before_me, resource);
            hold(left >= 0, name, || {
                format!("revision {}: {taker} on {machine}: {left} of {resource:?} left", step.delta.revision)
            })?;
        }
    }
    later_ones_that_stay_have_room(step, name, taken, mine)
}

/// Who comes after this hold, and still has a machine of it, finds room there beside all who come before, of each resource that both ask for.
fn later_ones_that_stay_have_room(
    step: &Step<'_>,
    name: &'static str,
    taken: &Hold,
    mine: (u8, u64, JobId),
) -> Checked {
    for (job, other) in step.after.holds() {
        let theirs = rank(step.after, job, other);
        if theirs <= mine {
            continue;
        }
        let up_to_them = |job: JobId| step.after.hold(job).is_some_and(|hold| rank(step.after, job, hold) <= theirs);
        for &machine in taken.machines.iter().filter(|machine| other.machines.contains(machine)) {
            let asked_by_both =
                |resource: &Resource| [taken, other].iter().all(|hold| hold.resources.get(*resource) > 0);
            for resource in Resource::ALL.into_iter().filter(asked_by_both) {
                let left = left(step.after, machine, up_to_them, resource);
                hold(left >= 0, name, || {
                    format!("revision {}: {job} stays on {machine}: {left} of {resource:?} left", step.delta.revision)
                })?;
            }
        }
    }
    Ok(())
}

/// On machines that take claims, that are not for other schedulers, and on which tasks of some group may run.
fn invariant_holds_are_where_their_job_may_be(step: &Step<'_>, taker: JobId) -> Checked {
    let name = "invariant_holds_are_where_their_job_may_be";
    let (Some(taken), Some(job)) = (step.after.hold(taker), step.after.job(taker)) else { return Ok(()) };
    for &slot in &taken.machines {
        let facts = |what: &str| format!("revision {}: {taker} on {slot}: {what}", step.delta.revision);
        let refuses = why_it_takes_none(step.before, slot);
        hold(refuses.is_none(), name, || facts(&format!("the machine {}", refuses.unwrap_or_default())))?;
        let Some(machine) = step.before.machine_in(slot) else { continue };
        let closed = step.before.partitions().find(|(_, partition)| {
            let open = partition.schedulers.is_empty() || partition.schedulers.contains(&job.shape.scheduler);
            !open && partition.machines.iter().all(|constraint| constraint.holds(&machine.attributes))
        });
        hold(closed.is_none(), name, || facts(&format!("{closed:?} is not for {}", job.shape.scheduler)))?;
        let suits = |group: &GroupShape| group.constraints.iter().all(|rule| rule.holds(&machine.attributes));
        hold(job.shape.groups.iter().any(suits), name, || facts("it breaks a constraint of each group"))?;
    }
    Ok(())
}

/// Something of the job is to be placed, at once or when a failure has been slept over or what it had has left: nothing has to be done first.
fn invariant_holds_are_for_what_waits(step: &Step<'_>, taker: JobId) -> Checked {
    let (Some(taken), Some(job)) = (step.after.hold(taker), step.before.job(taker)) else { return Ok(()) };
    let is_done = |row: &GroupRow| row.tasks[TaskState::Done as usize] == row.count;
    let waits = (0..).zip(&job.shape.groups).any(|(group, shape)| {
        let row = step.before.group(job, group);
        let may_go = shape.after.iter().all(|&before| step.before.group(job, before).is_some_and(is_done));
        let is_open = |state: TaskState| row.is_some_and(|row| row.tasks[state as usize] > 0);
        may_go && (is_open(TaskState::Waiting) || is_open(TaskState::Blocked))
    });
    hold(waits, "invariant_holds_are_for_what_waits", || {
        format!("revision {}: {taker} holds {:?}, and nothing of it waits", step.delta.revision, taken.machines)
    })
}

/// The instants of a recurring job rise; one job comes of each, and none that was launched for nothing.
fn invariant_each_instant_is_launched_once_and_in_order(step: &Step<'_>) -> Checked {
    let name = "invariant_each_instant_is_launched_once_and_in_order";
    let mut children = Vec::new();
    for change in &step.delta.jobs {
        let JobChange::Launched { id, instant_micros } = change else { continue };
        let last = step.before.job(*id).and_then(|job| job.last_instant_micros);
        hold(last.is_none_or(|last| *instant_micros > last), name, || {
            format!("revision {}: {id} is launched for {instant_micros} µs after {last:?}", step.delta.revision)
        })?;
        children.push((Some(*id), *instant_micros));
    }
    let come = step.delta.jobs.iter().filter_map(|change| match change {
        JobChange::Put { job, .. } => Some((job.shape.parent, job.shape.instant_micros)),
        _ => None,
    });
    let come: Vec<_> = come.filter(|(parent, _)| parent.is_some()).collect();
    hold(come == children, name, || {
        format!("revision {}: launched were {children:?}, and what came was {come:?}", step.delta.revision)
    })
}

/// Sessions know of decisions that are not there any more: a cell that was restored has none.
fn invariant_nobody_goes_on_in_a_restored_cell(step: &Step<'_>) -> Checked {
    let (Command::OpenServer(identity), Some(Decision::Accepted { .. })) = (&step.request.command, step.decision())
    else {
        return Ok(());
    };
    let restored = identity.incarnation != step.before.identity().incarnation && step.before.revision().0 > 0;
    let open: Vec<_> = step.after.sessions().map(|session| session.id).collect();
    hold(!restored || open.is_empty(), "invariant_nobody_goes_on_in_a_restored_cell", || {
        format!("revision {}: of the cell before there are still {open:?}", step.delta.revision)
    })
}
