//! Rules that claims of others and operators lay down: declared limits, partitions, quotas, bands; and the exact hand-off of room.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{
    AllocationId, AllocationRef, AllocationState, Cell, Command, Decision, Grants, Hold, JobId, RefusalKind, Resource,
    Resources, TakeOver,
};

use super::{Step, governing};
use crate::books::{Checked, hold};

/// All of a step's grants together.
pub(super) fn check(step: &Step<'_>) -> Checked {
    invariant_only_lower_bands_are_evicted(step)?;
    invariant_only_who_may_evicts(step)?;
    invariant_nobody_goes_for_nothing(step)?;
    invariant_room_is_handed_over_once(step.after)?;
    invariant_no_device_or_port_is_given_twice(step)
}

/// Who is evicted with a step. Of one that leaves already, only its restarts are told.
pub(super) fn evicted<'a>(step: &Step<'a>) -> impl Iterator<Item = AllocationRef<'a>> {
    let evicted = step.delta.moves.iter().filter(|change| change.status.state == AllocationState::Evicting);
    let before = step.before;
    let victims = evicted.filter_map(|change| before.allocation_in(change.slot));
    victims.filter(|victim| victim.status.state != AllocationState::Evicting)
}

/// Victims are of a strictly lower band than somebody who was granted their room, in the same step.
fn invariant_only_lower_bands_are_evicted(step: &Step<'_>) -> Checked {
    for victim in evicted(step) {
        let band = |job| step.before.job(job).map(|job| job.shape.priority / 10);
        let takes = |grants: &&Grants| {
            let mut entries = grants.extras.iter().flat_map(|extra| &extra.takes_over);
            entries.any(|entry| entry.victim == victim.id) && band(grants.job) > band(victim.row.job())
        };
        let found = step.delta.grants.iter().find(takes);
        hold(found.is_some(), "invariant_only_lower_bands_are_evicted", || {
            format!("revision {}: {} of band {:?}", step.delta.revision, victim.id, band(victim.row.job()))
        })?;
    }
    Ok(())
}

/// Who is evicted makes room for a job of a scheduler that may evict.
fn invariant_only_who_may_evicts(step: &Step<'_>) -> Checked {
    for victim in evicted(step) {
        let mut heirs = step.delta.grants.iter().filter(|grants| {
            grants.extras.iter().flat_map(|extra| &extra.takes_over).any(|entry| entry.victim == victim.id)
        });
        let scheduler = |job| step.before.job(job).map(|job| &job.shape.scheduler);
        let may = heirs.any(|grants| scheduler(grants.job).is_some_and(|name| step.before.rights_of(name).evicts));
        hold(may, "invariant_only_who_may_evicts", || {
            format!("revision {}: {} is evicted by nobody who may", step.delta.revision, victim.id)
        })?;
    }
    Ok(())
}

/// Whoever is evicted gives something, or makes up for what the machine has less than it gave, or than others hold; and of room no more is taken over
/// than free room lacks. These are looked at where the transaction does nothing else there: nor frees what the job of another placement holds, which ends
/// when that is granted anything.
fn invariant_nobody_goes_for_nothing(step: &Step<'_>) -> Checked {
    let (name, revision) = ("invariant_nobody_goes_for_nothing", step.delta.revision);
    let entries = || step.delta.grants.iter().flat_map(|grants| &grants.extras).flat_map(|extra| &extra.takes_over);
    for victim in evicted(step) {
        let gives = |entry: &TakeOver| {
            let nothing = entry.amount.is_nothing() && entry.devices.is_empty() && entry.ports.is_empty();
            entry.victim == victim.id && !nothing
        };
        let makes_up = |grants: &Grants| {
            let mut entries = grants.extras.iter().flat_map(|extra| &extra.takes_over);
            let need = step.after.shapes().get(grants.shape as usize).copied().unwrap_or_default();
            let others = |other| other != grants.job;
            let lacks = |resource| governing::left(step.before, victim.row.machine, others, resource) < 0;
            entries.any(|entry| entry.victim == victim.id)
                && Resource::ALL.into_iter().any(|resource| need.get(resource) > 0 && lacks(resource))
        };
        hold(entries().any(gives) || step.delta.grants.iter().any(makes_up), name, || {
            format!("revision {revision}: {} is evicted, and gives nothing", victim.id)
        })?;
    }
    let (Command::Commit(txn, _), Some(Decision::Outcome(outcome))) = (&step.request.command, step.decision()) else {
        return Ok(());
    };
    // What was undone took something first.
    if outcome.refusals.iter().any(|refusal| refusal.kind == RefusalKind::Mate) {
        return Ok(());
    }
    for (grants, extra) in step.delta.grants.iter().flat_map(|all| all.extras.iter().map(move |extra| (all, extra))) {
        let machine = grants.machines[extra.claim as usize];
        let granted = step.delta.grants.iter().flat_map(|all| &all.machines).filter(|other| **other == machine);
        let is_freed = |holder: &JobId| *holder != grants.job && txn.placements.iter().any(|one| one.job == *holder);
        if granted.count() > 1 || step.before.held_by(machine).iter().any(is_freed) {
            continue;
        }
        let need = step.after.shapes().get(grants.shape as usize).copied().unwrap_or_default();
        for resource in Resource::ALL {
            let taken: i128 = extra.takes_over.iter().map(|entry| i128::from(entry.amount.get(resource))).sum();
            if taken == 0 {
                continue;
            }
            let left = governing::left(step.before, machine, |other| other != grants.job, resource);
            hold(taken <= i128::from(need.get(resource)) - left.max(0), name, || {
                format!(
                    "revision {revision}: {taken} of {resource:?} is taken over on {machine}, where {left} was left"
                )
            })?;
        }
    }
    Ok(())
}

/// What is taken over from one who leaves is no more than it has, without what it waits for itself; and nobody takes over more than he needs: the rest
/// would count as free beside the one who still has it.
fn invariant_room_is_handed_over_once(after: &Cell) -> Checked {
    let mut taken: BTreeMap<AllocationId, Resources> = BTreeMap::new();
    for found in after.allocations() {
        let mut own = Resources::default();
        for entry in found.extra.iter().flat_map(|extra| &extra.takes_over) {
            own = own.with(&entry.amount);
            let sum = taken.entry(entry.victim).or_default();
            *sum = sum.with(&entry.amount);
        }
        let needs = after.resources_of(found.row);
        hold(own.without(&needs).is_nothing(), "invariant_room_is_handed_over_once", || {
            format!("revision {}: {} takes {own:?} over, and needs {needs:?}", after.revision(), found.id)
        })?;
    }
    for (victim, taken) in taken {
        let found = after.allocation(victim).filter(|found| found.status.state.is_leaving());
        let awaited = found.iter().filter_map(|found| found.extra).flat_map(|extra| &extra.takes_over);
        let all = found.map(|found| after.resources_of(found.row)).unwrap_or_default();
        let has = awaited.fold(all, |has, entry| has.without(&entry.amount));
        let more = Resource::ALL.into_iter().find(|&resource| taken.get(resource) > has.get(resource));
        hold(more.is_none(), "invariant_room_is_handed_over_once", || {
            format!("revision {}: of {victim} {taken:?} is taken over, and it has {has:?}", after.revision())
        })?;
    }
    Ok(())
}

/// On machines where something was granted: of devices that were, all thousandths are given once, and ports have one holder, taken over ones apart;
/// and no task that nobody knows has a port that was granted just now. Of one that is found later, nobody could know; nor who has a device that the
/// machine lost.
fn invariant_no_device_or_port_is_given_twice(step: &Step<'_>) -> Checked {
    let name = "invariant_no_device_or_port_is_given_twice";
    let special = step.delta.grants.iter().filter(|grants| !grants.extras.is_empty());
    for &slot in special.flat_map(|grants| &grants.machines) {
        let Some(machine) = step.after.machine_in(slot) else { continue };
        let (mut millis, mut ports) = (BTreeMap::<(&str, u32), i64>::new(), BTreeMap::<u16, i64>::new());
        let (mut granted, mut granted_devices) = (BTreeSet::<u16>::new(), BTreeSet::<(&str, u32)>::new());
        for found in step.after.allocations().filter(|found| found.row.machine == slot) {
            let Some(extra) = found.extra else { continue };
            for device in &extra.devices {
                *millis.entry((&device.kind, device.index)).or_default() += i64::from(device.millis);
            }
            for device in extra.takes_over.iter().flat_map(|entry| &entry.devices) {
                *millis.entry((&device.kind, device.index)).or_default() -= i64::from(device.millis);
            }
            extra.ports.iter().for_each(|port| *ports.entry(port.number).or_default() += 1);
            if found.row.created == step.delta.revision {
                granted.extend(extra.ports.iter().map(|port| port.number));
                granted_devices.extend(extra.devices.iter().map(|device| (&*device.kind, device.index)));
            }
            let over = extra.takes_over.iter().flat_map(|entry| &entry.ports);
            over.for_each(|&port| *ports.entry(port).or_default() -= 1);
        }
        let facts = |what: String| format!("revision {}, {}: {what}", step.delta.revision, machine.name);
        for (kind, index) in granted_devices {
            let known = machine.devices.iter().find(|known| *known.kind == *kind && known.index == index);
            let there = known.map_or(0, |known| i64::from(known.millis));
            let used = millis[&(kind, index)];
            hold(used <= there, name, || facts(format!("{used} of {there} of {kind} {index}")))?;
        }
        let twice = ports.into_iter().find(|(_, holders)| *holders > 1);
        hold(twice.is_none(), name, || facts(format!("port and holders: {twice:?}")))?;
        let unknown = step.after.unknown_tasks().filter(|(id, _)| id.machine == slot);
        let mut taken = unknown.flat_map(|(_, task)| task.traces.ports.iter().map(|port| port.number));
        let heard = taken.find(|port| granted.contains(port));
        hold(heard.is_none(), name, || facts(format!("a task that nobody knows has port {heard:?}")))?;
    }
    Ok(())
}

/// Where a namespace has a limit, it has no more than that after a grant or a larger hold of that resource.
pub(super) fn invariant_no_grant_exceeds_a_quota(step: &Step<'_>) -> Checked {
    for (namespace, quota) in step.before.quotas() {
        let of_it = |job| step.after.job(job).is_some_and(|job| job.shape.namespace == *namespace);
        let granted = step.delta.grants.iter().filter(|grants| of_it(grants.job));
        let shapes = granted.filter_map(|grants| step.after.shapes().get(grants.shape as usize));
        let asked = shapes.fold(Resources::default(), |sum, shape| sum.with(shape));
        // On all its machines. Of a hold that was there before, what it has more now.
        let all = |hold: Option<&Hold>| {
            let each = hold.into_iter().flat_map(|hold| hold.machines.iter().map(|_| hold.resources));
            each.fold(Resources::default(), |sum, held| sum.with(&held))
        };
        let held = step.delta.holds.iter().filter(|(job, _)| of_it(*job));
        let asked =
            held.fold(asked, |sum, (job, hold)| sum.with(&all(hold.as_ref()).without(&all(step.before.hold(*job)))));
        let active = step.after.allocations().filter(|found| found.status.state.is_active() && of_it(found.row.job()));
        let used = active.fold(Resources::default(), |sum, found| sum.with(&step.after.resources_of(found.row)));
        let holds = step.after.holds().filter(|(job, _)| of_it(*job));
        let held = holds.flat_map(|(_, hold)| hold.machines.iter().map(|_| hold.resources));
        let used = held.fold(used, |sum, held| sum.with(&held));
        for (resource, limit) in Resource::ALL.into_iter().zip(quota.limits) {
            let fits = asked.get(resource) == 0 || limit.is_none_or(|limit| used.get(resource) <= limit);
            hold(fits, "invariant_no_grant_exceeds_a_quota", || {
                let (revision, used) = (step.delta.revision, used.get(resource));
                format!("revision {revision}: {namespace} has {used} of {resource:?}, at most {limit:?}")
            })?;
        }
    }
    Ok(())
}

/// Declared rules as they stand at that revision: constraints on the machine's attributes, tasks of the group on one machine, and on
/// machines with equal values of an attribute.
pub(super) fn invariant_no_decision_breaks_a_declared_rule(step: &Step<'_>, grants: &Grants, claim: usize) -> Checked {
    let name = "invariant_no_decision_breaks_a_declared_rule";
    let (Some(job), Some(machine)) = (step.after.job(grants.job), step.before.machine_in(grants.machines[claim]))
    else {
        return Ok(());
    };
    let Some(shape) = job.shape.groups.get(usize::from(grants.group)) else { return Ok(()) };
    let facts = |what: String| {
        format!(
            "revision {}: task {} of {} on {}: {what}",
            step.delta.revision, grants.tasks[claim], job.id, machine.name
        )
    };
    let closed = step.before.partitions().find(|(_, partition)| {
        let open = partition.schedulers.is_empty() || partition.schedulers.contains(&job.shape.scheduler);
        !open && partition.machines.iter().all(|constraint| constraint.holds(&machine.attributes))
    });
    hold(closed.is_none(), name, || facts(format!("{closed:?} is not for {}", job.shape.scheduler)))?;
    let failed = shape.constraints.iter().find(|constraint| !constraint.holds(&machine.attributes));
    hold(failed.is_none(), name, || facts(format!("{failed:?}")))?;
    let mates = || {
        let active = step.after.allocations().filter(|found| found.status.state.is_active());
        active.filter(|found| found.row.group_row == grants.group_row && found.row.job() == grants.job)
    };
    if shape.per_machine > 0 {
        let here = mates().filter(|found| found.row.machine == machine.id.slot).count();
        hold(here <= shape.per_machine as usize, name, || facts(format!("{here} of the group are on the machine")))?;
    }
    for spread in &shape.spread {
        let value = machine.attributes.get(&spread.attribute);
        let same = |slot: u32| step.after.machine_in(slot).and_then(|other| other.attributes.get(&spread.attribute));
        let there = mates().filter(|found| same(found.row.machine) == value).count();
        // A machine without the attribute is nowhere that could be counted, and takes none.
        let fits = value.is_some() && there <= spread.at_most as usize;
        hold(fits, name, || facts(format!("{there} of the group are where {} is {value:?}", spread.attribute)))?;
    }
    Ok(())
}
