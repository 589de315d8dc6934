//! Refusals for what a claim is about and for how many tasks of its group are there: that the cell before says so, too.
//!
//! The core's own functions are not asked. What they count more exactly is bounded from below here: whoever leaves is still there, and each earlier
//! claim of the transaction may have been granted.

use plenum_model::{Cell, GroupShape, JobId, JobKind, NotWanted, Outcome, Placement, Refusal, TaskState, Transaction};

/// Most allocations that a machine can have.
const ON_A_MACHINE: usize = 65_535;

/// What a job says of one of its groups.
pub(super) fn declared(cell: &Cell, job: JobId, group: u16) -> Option<&GroupShape> {
    cell.job(job).and_then(|job| job.shape.groups.get(usize::from(group)))
}

/// Whether the job of a claim is for another scheduler than the one that asks.
pub(super) fn is_of_another_scheduler(cell: &Cell, txn: &Transaction, refusal: &Refusal) -> bool {
    let asks = cell.session(txn.id.session).map(|session| &session.scheduler);
    cell.job(refusal.job).zip(asks).is_some_and(|(job, asks)| job.shape.scheduler != *asks)
}

/// Whether a claim names other resources than its group declares, or more than resources: that may differ, too.
pub(super) fn differs_in_resources(cell: &Cell, refusal: &Refusal, placement: Option<&Placement>) -> bool {
    let names_more = refusal.claim.zip(placement).is_some_and(|((_, claim), placement)| {
        placement.extras.get(claim as usize).is_some_and(|extra| !extra.asks_for_nothing())
    });
    let named = placement.and_then(|placement| placement.resources);
    let shape = declared(cell, refusal.job, refusal.group);
    names_more || shape.zip(named).is_some_and(|(shape, named)| shape.resources != named)
}

/// Whether the tasks of a claim's job share another machine, or one that is not known yet.
pub(super) fn is_to_be_elsewhere(cell: &Cell, refusal: &Refusal) -> bool {
    let job = cell.job(refusal.job).filter(|job| job.shape.same_machine);
    job.is_some_and(|job| job.home.is_none_or(|home| home != refusal.machine))
}

/// Whether only one of a task may run, and one may be there.
pub(super) fn awaits_its_predecessor(cell: &Cell, refusal: &Refusal) -> bool {
    let job = cell.job(refusal.job);
    let state = job.and_then(|job| cell.task_state(cell.group(job, refusal.group)?, refusal.task));
    let unheard = || cell.unheard_machines() > 0 || cell.unknown_tasks().next().is_some();
    let one_only = declared(cell, refusal.job, refusal.group).is_some_and(|shape| shape.single_instance);
    state == Some(TaskState::Blocked) || (one_only && (state == Some(TaskState::Live) || unheard()))
}

/// Whether as many of a claim's group may be on the machine as it allows, or as many of all as a machine can have.
pub(super) fn has_enough_there(cell: &Cell, txn: &Transaction, refusal: &Refusal) -> bool {
    let here = |slot: u32| slot == refusal.machine;
    let of_group = count(cell, txn, refusal, true, here);
    let reached = |shape: &GroupShape| shape.per_machine > 0 && of_group >= shape.per_machine as usize;
    let shape = declared(cell, refusal.job, refusal.group);
    shape.is_some_and(reached) || count(cell, txn, refusal, false, here) >= ON_A_MACHINE
}

/// Whether a claim's group spreads its tasks over values of an attribute, and as many may be on machines with that of this one; or this one has none.
pub(super) fn has_enough_of_a_value(cell: &Cell, txn: &Transaction, refusal: &Refusal) -> bool {
    let value = |slot: u32, name: &str| cell.machine_in(slot).and_then(|one| one.attributes.get(name).cloned());
    let mut rules = declared(cell, refusal.job, refusal.group).into_iter().flat_map(|shape| &shape.spread);
    rules.any(|rule| {
        let Some(own) = value(refusal.machine, &rule.attribute) else { return true };
        let alike = |slot: u32| value(slot, &rule.attribute).as_ref() == Some(&own);
        count(cell, txn, refusal, true, alike) >= rule.at_most as usize
    })
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

/// Whether a task may not be placed for the cause that is told.
pub(super) fn is_not_wanted(cell: &Cell, outcome: &Outcome, refusal: &Refusal) -> bool {
    let (Some(job), Some(why)) = (cell.job(refusal.job), refusal.not_wanted) else { return false };
    let row = cell.group(job, refusal.group);
    match why {
        NotWanted::JobOver(state) => job.state == state && state.is_final(),
        NotWanted::Recurring => job.shape.kind == JobKind::Recurring,
        NotWanted::NoSuchGroup => usize::from(refusal.group) >= job.shape.groups.len(),
        NotWanted::NoSuchTask => row.is_some_and(|row| refusal.task >= row.count),
        NotWanted::Task(state) => row.and_then(|row| cell.task_state(row, refusal.task)) == Some(state),
        NotWanted::Backoff(until) => row.is_some_and(|row| row.not_before == until && until > outcome.time),
        NotWanted::After(before) => {
            let shape = declared(cell, refusal.job, refusal.group);
            let waits = shape.is_some_and(|shape| shape.after.contains(&before));
            waits && cell.group(job, before).is_some_and(|row| row.tasks_in(TaskState::Done) < row.count)
        }
    }
}
