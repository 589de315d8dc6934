//! Refusals for what a claim is about and for how many tasks of its group are there: that the cell before says so, too.
//!
//! The core's own functions are not asked. What they count more exactly is bounded from below here: whoever leaves is still there, and each earlier
//! claim of the transaction may have been granted.

use plenum_model::{
    Cell, GroupShape, JobKind, NotWanted, Outcome, Placement, Refusal, RefusalReason, TaskState, Transaction,
};

/// Most allocations that a machine can have.
const ON_A_MACHINE: usize = 65_535;

/// Whether a claim is refused for what is so: of the reasons that say what its job, its group or its task is, or that a limit of its group is reached.
/// Of any other reason nothing is known here.
pub(super) fn is_so(
    cell: &Cell,
    txn: &Transaction,
    outcome: &Outcome,
    refusal: &Refusal,
    placement: Option<&Placement>,
) -> bool {
    let job = cell.job(refusal.job);
    let shape = job.and_then(|job| job.shape.groups.get(usize::from(refusal.group)));
    match refusal.reason {
        RefusalReason::NoSuchJob => job.is_none(),
        RefusalReason::JobVersion => {
            job.zip(placement).is_some_and(|(job, placement)| job.version != placement.job_version)
        }
        RefusalReason::OtherScheduler => {
            let asks = cell.session(txn.id.session).map(|session| &session.scheduler);
            job.zip(asks).is_some_and(|(job, asks)| job.shape.scheduler != *asks)
        }
        RefusalReason::ResourcesDiffer => {
            let names_more = refusal.claim.zip(placement).is_some_and(|((_, claim), placement)| {
                placement.extras.get(claim as usize).is_some_and(|extra| !extra.asks_for_nothing())
            });
            let named = placement.and_then(|placement| placement.resources);
            names_more || shape.zip(named).is_some_and(|(shape, named)| shape.resources != named)
        }
        RefusalReason::OtherMachine => {
            let home = job.and_then(|job| job.home);
            let shares = job.is_some_and(|job| job.shape.same_machine);
            shares && home.is_none_or(|home| home != refusal.machine)
        }
        RefusalReason::MachineChanged => {
            let row = cell.machine_row(refusal.machine);
            row.is_some_and(|row| row.last_change > txn.base)
        }
        RefusalReason::NotWanted => refusal.not_wanted.is_some_and(|why| is_unwanted(cell, outcome, refusal, why)),
        RefusalReason::Predecessor => {
            let state = job.and_then(|job| cell.task_state(cell.group(job, refusal.group)?, refusal.task));
            let unheard = || cell.unheard_machines() > 0 || cell.unknown_tasks().next().is_some();
            let one_only = shape.is_some_and(|shape| shape.single_instance);
            state == Some(TaskState::Blocked) || (one_only && (state == Some(TaskState::Live) || unheard()))
        }
        RefusalReason::PerMachineLimit => {
            let here = |slot: u32| slot == refusal.machine;
            let of_group = count(cell, txn, refusal, true, here);
            let reached = |shape: &GroupShape| shape.per_machine > 0 && of_group >= shape.per_machine as usize;
            shape.is_some_and(reached) || count(cell, txn, refusal, false, here) >= ON_A_MACHINE
        }
        RefusalReason::SpreadLimit => shape.is_some_and(|shape| {
            let value = |slot: u32, name: &str| cell.machine_in(slot).and_then(|one| one.attributes.get(name).cloned());
            shape.spread.iter().any(|rule| {
                let Some(own) = value(refusal.machine, &rule.attribute) else { return true };
                let alike = |slot: u32| value(slot, &rule.attribute).as_ref() == Some(&own);
                count(cell, txn, refusal, true, alike) >= rule.at_most as usize
            })
        }),
        // Judged by who was granted them, or elsewhere.
        RefusalReason::DeviceTaken
        | RefusalReason::PortTaken
        | RefusalReason::NoRoom
        | RefusalReason::TaskTaken
        | RefusalReason::NoSuchMachine
        | RefusalReason::MachineNotReady
        | RefusalReason::Constraint
        | RefusalReason::MinimumMissed
        | RefusalReason::GuardFailed
        | RefusalReason::QuotaExceeded
        | RefusalReason::NotPermitted
        | RefusalReason::MayNotEvict => true,
    }
}

/// Allocations on these machines, of the claim's group or of all, with as many as earlier claims of the transaction may have got there.
fn count(cell: &Cell, txn: &Transaction, refusal: &Refusal, of_group: bool, here: impl Fn(u32) -> bool) -> usize {
    let there = cell.allocations().filter(|found| {
        let is_of_it = (found.row.job(), found.row.group) == (refusal.job, refusal.group);
        here(found.row.machine) && (is_of_it || !of_group)
    });
    let Some(claim) = refusal.claim else { return there.count() };
    let placements = (0..).zip(&txn.placements).take_while(|(number, _)| *number <= claim.0);
    let placements = placements
        .filter(|(_, placement)| !of_group || (placement.job, placement.group) == (refusal.job, refusal.group));
    let earlier = placements.map(|(number, placement)| {
        let has_spare = placement.alternates.iter().any(|&spare| here(spare));
        let named = (0..).zip(&placement.machines).filter(|(_, machine)| has_spare || here(**machine));
        named.filter(|(position, _)| (number, *position) < claim).count()
    });
    earlier.sum::<usize>() + there.count()
}

/// Whether a task may not be placed for that cause.
fn is_unwanted(cell: &Cell, outcome: &Outcome, refusal: &Refusal, why: NotWanted) -> bool {
    let Some(job) = cell.job(refusal.job) else { return false };
    let row = cell.group(job, refusal.group);
    match why {
        NotWanted::JobOver(state) => job.state == state && state.is_final(),
        NotWanted::Recurring => job.shape.kind == JobKind::Recurring,
        NotWanted::NoSuchGroup => usize::from(refusal.group) >= job.shape.groups.len(),
        NotWanted::NoSuchTask => row.is_some_and(|row| refusal.task >= row.count),
        NotWanted::Task(state) => row.and_then(|row| cell.task_state(row, refusal.task)) == Some(state),
        NotWanted::Backoff(until) => row.is_some_and(|row| row.not_before == until && until > outcome.time),
        NotWanted::After(before) => {
            let shape = job.shape.groups.get(usize::from(refusal.group));
            let waits = shape.is_some_and(|shape| shape.after.contains(&before));
            waits && cell.group(job, before).is_some_and(|row| row.tasks_in(TaskState::Done) < row.count)
        }
    }
}
