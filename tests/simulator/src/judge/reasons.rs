//! Refusals of any kind: that what is said to refuse a claim is there, judged from the cell before and from the answer alone.

use std::collections::BTreeSet;

use plenum_model::{
    Cell, ClaimExtra, DYNAMIC_PORTS, GroupShape, JobId, Outcome, Placement, Port, Refusal, RefusalKind, RefusalReason,
    Resource, TaskState, Transaction, TransactionId, choose_devices, device_rooms, take_named_devices,
};

use super::{Step, asked, governing, standing, why_it_takes_none};
use crate::books::{Checked, hold};

/// A refusal by a quota needs one that is too small by no less than it says; by a permission, a partition that keeps its scheduler from that machine, or
/// a victim there and no right to evict; by a guard, one that fails; and as a mate, a placement that missed its minimum. Whoever came between, room is
/// lacking now, by no less than it says, or devices are, or a port; the machine is not there, or takes no claims; the task has an allocation; a constraint
/// fails; or it is as [`standing`] has it.
pub(super) fn invariant_what_refuses_a_claim_is_there(
    step: &Step<'_>,
    txn: &Transaction,
    outcome: &Outcome,
    refusal: &Refusal,
) -> Checked {
    hold(is_there(step.before, txn, outcome, refusal), "invariant_what_refuses_a_claim_is_there", || {
        format!("{} at {} on base {}: {refusal:?}", txn.id, outcome.revision, txn.base)
    })
}

fn is_there(cell: &Cell, txn: &Transaction, outcome: &Outcome, refusal: &Refusal) -> bool {
    let (job, placement) = (cell.job(refusal.job), placement_of(txn, refusal));
    // Without a rest: a reason that nobody judges does not compile.
    match refusal.reason {
        RefusalReason::QuotaExceeded => is_spent(cell, txn, outcome, refusal),
        RefusalReason::NotPermitted => is_closed(cell, txn.id, refusal.machine),
        RefusalReason::MayNotEvict => {
            let may = scheduler(cell, txn.id).is_none_or(|name| cell.rights_of(name).evicts);
            let mut victims = placement.into_iter().flat_map(|placement| &placement.preemptions);
            !may && victims.any(|victim| victim.machine == refusal.machine)
        }
        RefusalReason::GuardFailed => {
            let own = placement.into_iter().flat_map(|placement| &placement.guards);
            txn.guards.iter().chain(own).any(|guard| !asked::holds(cell, guard))
        }
        RefusalReason::MinimumMissed => {
            let own = refusal.claim.is_some_and(|(number, _)| may_miss(cell, txn, outcome, number));
            own || (txn.atomic && (0..).zip(&txn.placements).any(|(number, _)| may_miss(cell, txn, outcome, number)))
        }
        RefusalReason::NoRoom => is_lacking(cell, txn, outcome, refusal),
        RefusalReason::DeviceTaken => is_without_device(cell, txn, outcome, refusal),
        RefusalReason::PortTaken => is_without_port(cell, txn, outcome, refusal),
        RefusalReason::NoSuchMachine => cell.machine_in(refusal.machine).is_none(),
        RefusalReason::MachineNotReady => why_it_takes_none(cell, refusal.machine).is_some(),
        RefusalReason::TaskTaken => {
            let state = job.and_then(|job| cell.task_state(cell.group(job, refusal.group)?, refusal.task));
            !is_claimed_once(txn, refusal) || state == Some(TaskState::Live)
        }
        RefusalReason::Constraint => {
            let both = standing::declared(cell, refusal.job, refusal.group).zip(cell.machine_in(refusal.machine));
            both.is_some_and(|(group, machine)| group.constraints.iter().any(|one| !one.holds(&machine.attributes)))
        }
        RefusalReason::NoSuchJob => job.is_none(),
        RefusalReason::JobVersion => {
            job.zip(placement).is_some_and(|(job, placement)| job.version != placement.job_version)
        }
        RefusalReason::MachineChanged => {
            cell.machine_row(refusal.machine).is_some_and(|row| row.last_change > txn.base)
        }
        RefusalReason::OtherScheduler => standing::is_of_another_scheduler(cell, txn, refusal),
        RefusalReason::ResourcesDiffer => standing::differs_in_resources(cell, refusal, placement),
        RefusalReason::OtherMachine => standing::is_to_be_elsewhere(cell, refusal),
        RefusalReason::NotWanted => standing::is_not_wanted(cell, outcome, refusal),
        RefusalReason::Predecessor => standing::awaits_its_predecessor(cell, refusal),
        RefusalReason::PerMachineLimit => standing::has_enough_there(cell, txn, refusal),
        RefusalReason::SpreadLimit => standing::has_enough_of_a_value(cell, txn, refusal),
    }
}

fn placement_of<'a>(txn: &'a Transaction, refusal: &Refusal) -> Option<&'a Placement> {
    refusal.claim.and_then(|(number, _)| txn.placements.get(number as usize))
}

fn scheduler(cell: &Cell, id: TransactionId) -> Option<&str> {
    cell.session(id.session).map(|session| &*session.scheduler)
}

/// Whether a partition keeps the scheduler of a transaction from a machine.
fn is_closed(cell: &Cell, id: TransactionId, slot: u32) -> bool {
    let (Some(machine), Some(name)) = (cell.machine_in(slot), scheduler(cell, id)) else { return false };
    cell.partitions().any(|(_, partition)| {
        let open = partition.schedulers.is_empty() || partition.schedulers.iter().any(|other| **other == *name);
        !open && partition.machines.iter().all(|constraint| constraint.holds(&machine.attributes))
    })
}

/// Whether the namespace of a claim has at most as much left as it says. What the transaction stops and evicts, and what holds it ends, only makes
/// that more; what it granted before makes it less, also where that was undone later.
fn is_spent(cell: &Cell, txn: &Transaction, outcome: &Outcome, refusal: &Refusal) -> bool {
    let (Some(job), Some((resource, short_by))) = (cell.job(refusal.job), refusal.short) else { return false };
    let namespace = &job.shape.namespace;
    let limit = cell.quota(namespace).and_then(|quota| quota.limits[resource.index()]);
    let (Some(limit), Some(claim)) = (limit, refusal.claim) else { return false };
    let of_it = |job: JobId| cell.job(job).is_some_and(|job| job.shape.namespace == *namespace);
    let active = cell.allocations().filter(|found| found.status.state.is_active() && of_it(found.row.job()));
    let live: u128 = active.map(|found| u128::from(cell.resources_of(found.row).get(resource))).sum();
    let others = cell.holds().filter(|(holder, _)| *holder != refusal.job && of_it(*holder));
    let held: u128 =
        others.map(|(_, hold)| hold.machines.len() as u128 * u128::from(hold.resources.get(resource))).sum();
    let granted: u128 = (0..)
        .zip(&txn.placements)
        .filter(|(number, placement)| *number <= claim.0 && of_it(placement.job))
        .map(|(number, placement)| {
            let claims = (0..).zip(&placement.machines).map(|(position, _)| (number, position));
            let granted = claims.filter(|&other| other < claim && was_granted(outcome, other)).count();
            granted as u128 * u128::from(need(cell, placement, resource))
        })
        .sum();
    let own = placement_of(txn, refusal).map_or(0, |placement| need(cell, placement, resource));
    own > 0 && short_by > 0 && live + held + granted + u128::from(own) >= u128::from(limit) + u128::from(short_by)
}

/// Whether a machine lacks as much as is said, by all that is there. What the transaction takes over, or ends of holds, makes that less; what it was
/// granted there before, or may have been, makes it more, also where that was undone later.
fn is_lacking(cell: &Cell, txn: &Transaction, outcome: &Outcome, refusal: &Refusal) -> bool {
    let Some((resource, short_by)) = refusal.short else { return false };
    let own = placement_of(txn, refusal).map_or(0, |placement| need(cell, placement, resource));
    let earlier = earlier_there(cell, txn, outcome, refusal);
    let earlier: i128 = earlier.map(|group| i128::from(group.resources.get(resource))).sum();
    let left = governing::left(cell, refusal.machine, |holder| holder != refusal.job, resource) - earlier;
    own > 0 && short_by > 0 && left + i128::from(short_by) <= i128::from(own)
}

/// Whether a machine has not the devices that a claim asks for, or those that it names. What those lend who leave, or are to, only makes that more. Which
/// ones an earlier claim of the transaction got there nobody knows: then it may be so.
fn is_without_device(cell: &Cell, txn: &Transaction, outcome: &Outcome, refusal: &Refusal) -> bool {
    let group = standing::declared(cell, refusal.job, refusal.group);
    let (Some(group), Some(machine)) = (group, cell.machine_in(refusal.machine)) else { return false };
    let declares = |kind: &str| group.devices.iter().any(|device| *device.kind == *kind);
    let is_declared = refusal.short_device.as_ref().is_some_and(|(kind, _)| declares(kind));
    if !is_declared {
        return false;
    }
    if earlier_there(cell, txn, outcome, refusal).any(|earlier| !earlier.devices.is_empty()) {
        return true;
    }
    let mut rooms = device_rooms(cell, machine);
    match extra_of(txn, refusal).filter(|extra| !extra.devices.is_empty()) {
        Some(extra) => !take_named_devices(&mut rooms, &extra.devices, &group.devices),
        None => choose_devices(&mut rooms, &group.devices).is_err(),
    }
}

/// Whether the port that a claim asks for is in use at its machine, also by one who leaves or by a task that nobody knows; or an earlier claim of the
/// transaction may have got it, or the claim asks for it twice. Port 0: none may be left of those that the cell chooses from.
fn is_without_port(cell: &Cell, txn: &Transaction, outcome: &Outcome, refusal: &Refusal) -> bool {
    let Some(port) = refusal.port else { return false };
    let own = ports_of(cell, txn, refusal);
    let asks = own.iter().filter(|&&other| other == port).count();
    let known = cell.allocations().filter(|found| found.row.machine == refusal.machine);
    let known = known.filter_map(|found| found.extra).flat_map(|extra| &extra.ports);
    let unknown = cell.unknown_on(refusal.machine).flat_map(|(_, task)| &task.traces.ports);
    let taken: BTreeSet<u16> = known.chain(unknown).map(|one| one.number).collect();
    let mut earlier = earlier_there(cell, txn, outcome, refusal).flat_map(|group| &group.ports);
    if port > 0 {
        let is_taken = taken.contains(&port) || asks > 1;
        return asks > 0 && (is_taken || earlier.any(|other| other.number == 0 || other.number == port));
    }
    let taken = taken.iter().filter(|number| DYNAMIC_PORTS.contains(*number)).count();
    asks > 0 && taken + earlier.count() + own.len() > DYNAMIC_PORTS.len()
}

/// The ports that a claim asks for: those that its group declares, or that it names for them, and 0 for each that the cell is to choose.
fn ports_of(cell: &Cell, txn: &Transaction, refusal: &Refusal) -> Vec<u16> {
    let named = |declared: &Port| {
        let mut named = extra_of(txn, refusal).into_iter().flat_map(|extra| &extra.ports);
        named.find(|port| port.name == declared.name).map_or(0, |port| port.number)
    };
    let declared = standing::declared(cell, refusal.job, refusal.group).into_iter().flat_map(|group| &group.ports);
    declared.map(|declared| if declared.number > 0 { declared.number } else { named(declared) }).collect()
}

/// What a claim names beyond a machine and a task.
fn extra_of<'a>(txn: &'a Transaction, refusal: &Refusal) -> Option<&'a ClaimExtra> {
    placement_of(txn, refusal)?.extras.get(refusal.claim?.1 as usize)
}

/// The groups of earlier claims of the transaction that were granted, also where that was undone later, and may have got the machine of this one: once
/// for each of them.
fn earlier_there<'a>(
    cell: &'a Cell,
    txn: &'a Transaction,
    outcome: &'a Outcome,
    refusal: &'a Refusal,
) -> impl Iterator<Item = &'a GroupShape> {
    (0..).zip(&txn.placements).flat_map(move |(number, placement)| {
        let has_spare = placement.alternates.contains(&refusal.machine);
        let there =
            (0..).zip(&placement.machines).filter(move |(_, machine)| has_spare || **machine == refusal.machine);
        let claims = there.map(move |(position, _)| (number, position));
        let before = claims.filter(move |claim| refusal.claim.is_some_and(|own| *claim < own));
        let granted = before.filter(move |claim| was_granted(outcome, *claim));
        granted.filter_map(move |_| standing::declared(cell, placement.job, placement.group))
    })
}

/// Whether no other claim is for the same task: an earlier one may have got it.
fn is_claimed_once(txn: &Transaction, refusal: &Refusal) -> bool {
    let of_group = txn.placements.iter().filter(|one| (one.job, one.group) == (refusal.job, refusal.group));
    of_group.flat_map(|one| &one.tasks).filter(|task| **task == refusal.task).count() == 1
}

/// Whether a claim was granted, at least until its placement was undone.
fn was_granted(outcome: &Outcome, claim: (u32, u32)) -> bool {
    let mut refusals = outcome.refusals.iter();
    !refusals.any(|refusal| refusal.claim == Some(claim) && refusal.kind != RefusalKind::Mate)
}

fn need(cell: &Cell, placement: &Placement, resource: Resource) -> u64 {
    standing::declared(cell, placement.job, placement.group).map_or(0, |group| group.resources.get(resource))
}

/// Whether a placement was granted fewer claims than it asks for at least, or its group declares: of a group that is there already fewer are enough.
fn may_miss(cell: &Cell, txn: &Transaction, outcome: &Outcome, number: u32) -> bool {
    let Some(placement) = txn.placements.get(number as usize) else { return false };
    let group = standing::declared(cell, placement.job, placement.group);
    let least = placement.min.max(group.map_or(0, |group| group.min));
    let lost = outcome
        .refusals
        .iter()
        .filter(|refusal| refusal.claim.is_some_and(|(other, _)| other == number) && refusal.kind != RefusalKind::Mate);
    placement.machines.len() - lost.count() < least as usize
}
