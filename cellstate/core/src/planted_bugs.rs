//! Bugs that are put into what was decided, all in one place: see `plenum_model::planted`. Without that feature, nothing.

use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    AllocationRef, Cell, Decision, Delta, DeviceRoom, JobChange, LogTime, Machine, MachineState, Obstacle, Outcome,
    Quota, RefusalKind, RefusalReason, Resource, Resources, TransactionOutcome,
};

use crate::blame::Trouble;
use crate::jobs::stop_move;
use crate::{Handled, Verdict};

/// Bugs that give another reason for what never fitted.
const OTHER_REASONS: [(Bug, RefusalKind, RefusalReason); 8] = [
    (Bug::RefusesByQuota, RefusalKind::Quota, RefusalReason::QuotaExceeded),
    (Bug::RefusesByPartition, RefusalKind::Permission, RefusalReason::NotPermitted),
    (Bug::RefusesByRight, RefusalKind::Permission, RefusalReason::MayNotEvict),
    (Bug::RefusesByGuard, RefusalKind::Guard, RefusalReason::GuardFailed),
    (Bug::RefusesAsMate, RefusalKind::Mate, RefusalReason::MinimumMissed),
    (Bug::RefusesByLimit, RefusalKind::Misfit, RefusalReason::PerMachineLimit),
    (Bug::RefusesByPredecessor, RefusalKind::Misfit, RefusalReason::Predecessor),
    (Bug::RefusesByVersion, RefusalKind::Misfit, RefusalReason::JobVersion),
];

/// Whether a bug lets pass what stands in a claim's way.
#[inline(always)]
pub(crate) fn is_overlooked(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Machine(Obstacle::NoRoom(_)) => planted::is(Bug::GrantsWithoutRoom),
        Trouble::Machine(Obstacle::NotReady(_)) => planted::is(Bug::GrantsOnAnyMachine),
        Trouble::Machine(Obstacle::Constraint) => planted::is(Bug::OverlooksConstraints),
        Trouble::Machine(Obstacle::PerMachine | Obstacle::Spread(_)) => planted::is(Bug::OverlooksLimits),
        Trouble::Quota(_) => planted::is(Bug::OverlooksQuotas),
        Trouble::Never(_, RefusalReason::NotPermitted) => planted::is(Bug::OverlooksPartitions),
        _ => false,
    }
}

/// Makes devices look as if nobody had anything of them.
#[inline(always)]
pub(crate) fn overlook_tenants(rooms: &mut [DeviceRoom], machine: &Machine) {
    if planted::is(Bug::OverlooksDevices) {
        rooms.iter_mut().zip(&*machine.devices).for_each(|(room, device)| room.free_millis = device.millis.into());
    }
}

/// Stops the newest task of a namespace that has more than it may have from now on.
#[inline(always)]
pub(crate) fn evict_what_is_beyond(cell: &Cell, namespace: &str, limit: Option<&Quota>, delta: &mut Delta) {
    let Some(limit) = limit.filter(|_| planted::is(Bug::EvictsByLoweredQuota)) else { return };
    let of_it = |found: &AllocationRef<'_>| {
        let job = cell.job(found.row.job());
        found.status.state.is_active() && job.is_some_and(|job| *job.shape.namespace == *namespace)
    };
    let used = cell.allocations().filter(of_it);
    let used = used.fold(Resources::default(), |sum, found| sum.with(&cell.resources_of(found.row)));
    let mut limits = Resource::ALL.into_iter().zip(limit.limits);
    let is_beyond = limits.any(|(resource, limit)| limit.is_some_and(|limit| used.get(resource) > limit));
    let newest = cell.allocations().filter(of_it).max_by_key(|found| found.row.created);
    let evicted = newest.filter(|_| is_beyond).map(|found| found.id.slot);
    delta.moves.extend(evicted.map(|slot| stop_move(cell, slot, "its namespace has too much")));
}

/// Puts a bug into a verdict.
#[inline(always)]
pub(crate) fn spoil(mut handled: Handled) -> Handled {
    if planted::any()
        && let Ok(Verdict::Change(decision, delta)) = &mut handled
    {
        if planted::is(Bug::BlamesNobody)
            && let Decision::Outcome(outcome) = decision
        {
            let conflicts = outcome.refusals.iter_mut().filter(|refusal| refusal.kind == RefusalKind::Conflict);
            conflicts.for_each(|refusal| refusal.culprits.clear());
        }
        if planted::is(Bug::BlamesEvents)
            && let Decision::Outcome(outcome) = decision
        {
            for culprit in outcome.refusals.iter_mut().flat_map(|refusal| &mut refusal.culprits) {
                (culprit.transaction, culprit.allocation, culprit.event) = (None, None, "cordoned".into());
            }
        }
        if planted::is(Bug::HalvesBlame)
            && let Decision::Outcome(outcome) = decision
        {
            outcome.refusals.iter_mut().for_each(|refusal| refusal.culprits_total /= 2);
        }
        if planted::is(Bug::BlamesOlder)
            && let Decision::Outcome(outcome) = decision
        {
            for refusal in outcome.refusals.iter_mut().filter(|refusal| refusal.culprits.len() > 1) {
                refusal.culprits_total -= refusal.culprits.remove(0).amount;
            }
        }
        if (planted::is(Bug::DeniesConflicts) || planted::is(Bug::CallsStale))
            && let Decision::Outcome(outcome) = decision
        {
            let conflicts = outcome.refusals.iter_mut().filter(|refusal| refusal.kind == RefusalKind::Conflict);
            let kind = if planted::is(Bug::CallsStale) { RefusalKind::Stale } else { RefusalKind::Misfit };
            conflicts.for_each(|refusal| {
                refusal.kind = kind;
                refusal.culprits.clear();
                refusal.culprits_total = 0;
            });
        }
        if let Decision::Outcome(outcome) = decision {
            give_other_reasons(outcome);
            if planted::is(Bug::HidesVictims) {
                outcome.evicted.clear();
            }
        }
        if planted::is(Bug::CallsPartsRefused)
            && let Decision::Outcome(outcome) = decision
            && outcome.outcome == TransactionOutcome::Partial
        {
            outcome.outcome = TransactionOutcome::Refused;
        }
        if planted::is(Bug::OverlooksFitness) {
            let cordoned = |machine: &&mut Arc<Machine>| machine.state == MachineState::Cordoned && !machine.cordoned;
            let unfit = delta.machines.iter_mut().filter(cordoned);
            unfit.for_each(|machine| Arc::make_mut(machine).state = MachineState::Ready);
        }
        if planted::strikes(Bug::DecidesByHiddenState, 7) {
            delta.moves.iter_mut().for_each(|change| change.restarts += 1);
        }
        if planted::is(Bug::NeverTriesAgain) {
            for change in &mut delta.jobs {
                let JobChange::Group { not_before, .. } = change else { continue };
                *not_before = LogTime::from_micros(i64::MAX / 2);
            }
        }
    }
    handled
}

/// Gives what never fitted another reason.
fn give_other_reasons(outcome: &mut Outcome) {
    let Some((_, kind, reason)) = OTHER_REASONS.into_iter().find(|(bug, ..)| planted::is(*bug)) else { return };
    let misfits = outcome.refusals.iter_mut().filter(|refusal| refusal.kind == RefusalKind::Misfit);
    for refusal in misfits.filter(|refusal| refusal.reason == RefusalReason::NoRoom) {
        (refusal.kind, refusal.reason) = (kind, reason);
    }
}
