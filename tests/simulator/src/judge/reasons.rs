//! Refusals of any kind: that what is said to refuse a claim is there, judged from the cell before and from the answer alone.

use plenum_model::{
    Cell, JobId, Outcome, Placement, Refusal, RefusalKind, RefusalReason, Resource, TaskState, Transaction,
    TransactionId,
};

use super::{Step, asked, governing, standing, why_it_takes_none};
use crate::books::{Checked, hold};

/// A refusal by a quota needs one that is too small by no less than it says; by a permission, a partition that keeps its scheduler from that machine, or
/// a victim there and no right to evict; by a guard, one that fails; and as a mate, a placement that missed its minimum. Whoever came between, room is
/// lacking now, by no less than it says; the machine is not there, or takes no claims; the task has an allocation; a constraint fails; or it is as
/// [`standing`] has it.
pub(super) fn invariant_what_refuses_a_claim_is_there(
    step: &Step<'_>,
    txn: &Transaction,
    outcome: &Outcome,
    refusal: &Refusal,
) -> Checked {
    let (cell, placement) = (step.before, placement_of(txn, refusal));
    let is_there = match refusal.reason {
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
        RefusalReason::NoSuchMachine => cell.machine_in(refusal.machine).is_none(),
        RefusalReason::MachineNotReady => why_it_takes_none(cell, refusal.machine).is_some(),
        RefusalReason::TaskTaken => {
            let row = cell.job(refusal.job).and_then(|job| cell.group(job, refusal.group));
            let state = row.and_then(|row| cell.task_state(row, refusal.task));
            !is_claimed_once(txn, refusal) || state == Some(TaskState::Live)
        }
        RefusalReason::Constraint => {
            let group = cell.job(refusal.job).and_then(|job| job.shape.groups.get(usize::from(refusal.group)));
            let both = group.zip(cell.machine_in(refusal.machine));
            both.is_some_and(|(group, machine)| group.constraints.iter().any(|one| !one.holds(&machine.attributes)))
        }
        _ => standing::is_so(cell, txn, outcome, refusal, placement),
    };
    hold(is_there, "invariant_what_refuses_a_claim_is_there", || {
        format!("{} at {} on base {}: {refusal:?}", txn.id, outcome.revision, txn.base)
    })
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
    let (Some((resource, short_by)), Some(claim)) = (refusal.short, refusal.claim) else { return false };
    let own = placement_of(txn, refusal).map_or(0, |placement| need(cell, placement, resource));
    let earlier: i128 = (0..)
        .zip(&txn.placements)
        .take_while(|(number, _)| *number <= claim.0)
        .map(|(number, placement)| {
            let has_spare = placement.alternates.contains(&refusal.machine);
            let claims =
                (0..).zip(&placement.machines).filter(|(_, machine)| has_spare || **machine == refusal.machine);
            let before = claims.map(|(position, _)| (number, position)).filter(|other| *other < claim);
            let granted = before.filter(|other| was_granted(outcome, *other));
            granted.map(|_| i128::from(need(cell, placement, resource))).sum::<i128>()
        })
        .sum();
    let left = governing::left(cell, refusal.machine, |holder| holder != refusal.job, resource) - earlier;
    own > 0 && short_by > 0 && left + i128::from(short_by) <= i128::from(own)
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
    let group = cell.job(placement.job).and_then(|job| job.shape.groups.get(usize::from(placement.group)));
    group.map_or(0, |group| group.resources.get(resource))
}

/// Whether a placement was granted fewer claims than it asks for at least, or its group declares: of a group that is there already fewer are enough.
fn may_miss(cell: &Cell, txn: &Transaction, outcome: &Outcome, number: u32) -> bool {
    let Some(placement) = txn.placements.get(number as usize) else { return false };
    let group = cell.job(placement.job).and_then(|job| job.shape.groups.get(usize::from(placement.group)));
    let least = placement.min.max(group.map_or(0, |group| group.min));
    let lost = outcome
        .refusals
        .iter()
        .filter(|refusal| refusal.claim.is_some_and(|(other, _)| other == number) && refusal.kind != RefusalKind::Mate);
    placement.machines.len() - lost.count() < least as usize
}
