//! What always holds of quotas, holds and unknown tasks.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{Cell, Delta, Hold, Resource, Resources, Sum};

use super::{Violation, taken_of_free_room};

/// Each hold is of a job that is not over, on machines that are there, each once.
///
/// # Errors
/// The first hold that is not.
pub fn invariant_holds_are_of_live_jobs_on_machines_that_are_there(cell: &Cell) -> Result<(), Violation> {
    for (job, hold) in cell.holds() {
        let live = cell.job(job).is_some_and(|job| !job.state.is_final());
        let rises = hold.machines.is_sorted_by(|left, right| left < right);
        let there = hold.machines.iter().all(|&machine| cell.machine_in(machine).is_some());
        let found = hold.machines.iter().all(|&machine| cell.held_by(machine).contains(&job));
        if !(live && rises && there && found) {
            return Err(Violation::HoldAstray { job });
        }
    }
    Ok(())
}

/// What an agent runs there is either an allocation or an unknown task, never both; and its machine is there. It is found by its names, and those who
/// may yet tell of some are counted as their rows say: single instances wait for both.
///
/// # Errors
/// The first unknown task that is known, or has other names; or how many machines were not heard.
pub fn invariant_unknown_tasks_are_unknown(cell: &Cell) -> Result<(), Violation> {
    for (id, task) in cell.unknown_tasks() {
        let known = cell.allocation(id.allocation).is_some_and(|found| found.row.machine == id.machine);
        let there = cell.machine(task.machine).is_some_and(|machine| machine.id.slot == id.machine);
        if known || !there {
            return Err(Violation::UnknownIsKnown { unknown: id });
        }
    }
    if let Some(unknown) = cell.misnamed_unknown() {
        return Err(Violation::UnknownMisnamed { unknown });
    }
    let (recorded, derived) = (cell.unheard_machines(), cell.unheard_machines_derived());
    if recorded == derived { Ok(()) } else { Err(Violation::UnheardMiscounted { recorded, derived }) }
}

/// No grant and no hold takes a namespace above its quota, in a resource that it asks for. What was above it before stays.
///
/// # Errors
/// The first namespace that is.
pub fn invariant_no_grant_or_hold_exceeds_a_quota(before: &Cell, after: &Cell, delta: &Delta) -> Result<(), Violation> {
    if !before.has_quotas() {
        return Ok(());
    }
    let mut asked: BTreeMap<Arc<str>, Sum> = BTreeMap::new();
    let mut ask = |job, resources: &Resources, times| {
        if let Some(job) = after.job(job) {
            asked.entry(job.shape.namespace.clone()).or_default().add(resources, times);
        }
    };
    for grants in &delta.grants {
        let shape = after.shapes().get(grants.shape as usize).copied().unwrap_or_default();
        ask(grants.job, &shape, grants.slots.len());
    }
    for (job, hold) in &delta.holds {
        let Some(hold) = hold else { continue };
        // One that is renewed asks for what it has more than before; one that lost machines for nothing.
        let known = before.hold(*job).map(held).unwrap_or_default();
        ask(*job, &held(hold).without(&known), 1);
    }
    for (namespace, asked) in asked {
        let Some(quota) = before.quota(&namespace) else { continue };
        let mut used = Sum::default();
        let jobs = after.jobs().filter(|job| job.shape.namespace == namespace);
        jobs.for_each(|job| used.join(&after.use_of(job)));
        let (used, asked) = (used.total(), asked.total());
        let above = Resource::ALL.into_iter().zip(quota.limits).find(|&(resource, limit)| {
            asked.get(resource) > 0 && limit.is_some_and(|limit| used.get(resource) > limit)
        });
        if let Some((resource, limit)) = above {
            let (used, limit) = (used.get(resource), limit.unwrap_or(0));
            return Err(Violation::QuotaExceeded { revision: after.revision(), namespace, resource, used, limit });
        }
    }
    Ok(())
}

/// No grant takes room that others hold, in a resource that it asks for: it may take over all that it needs where they hold more than is free. A job
/// that is granted anything holds nothing any more.
///
/// # Errors
/// The first machine on which one does.
pub fn invariant_no_grant_takes_room_that_is_held_for_others(after: &Cell, delta: &Delta) -> Result<(), Violation> {
    if !after.has_holds() {
        return Ok(());
    }
    for grants in &delta.grants {
        let Some(shape) = after.shapes().get(grants.shape as usize) else { continue };
        for &machine in &grants.machines {
            let mut left = after.room(machine);
            let others = after.held_by(machine).iter().filter(|&&holder| holder != grants.job);
            others.filter_map(|&holder| after.hold(holder)).for_each(|hold| left.take(&hold.resources));
            let negative = |&resource: &Resource| shape.get(resource) > 0 && left.get(resource) < 0;
            let made_so = |resource: &Resource| taken_of_free_room(after, delta, machine, *resource) > 0;
            if let Some(resource) = Resource::ALL.into_iter().filter(negative).find(made_so) {
                let taken = left.get(resource).unsigned_abs();
                return Err(Violation::HeldRoomTaken { revision: after.revision(), machine, resource, taken });
            }
        }
    }
    Ok(())
}

/// What a hold sets aside, on all its machines.
fn held(hold: &Hold) -> Resources {
    let mut sum = Sum::default();
    sum.add(&hold.resources, hold.machines.len());
    sum.total()
}
