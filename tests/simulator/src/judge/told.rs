//! Whether an outcome tells what was done: who was placed, where and with which ports, who went for it, who was stopped; and of each claim one thing.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{
    AllocationId, AllocationState, JobId, Outcome, Port, Refusal, RefusalReason, Transaction, TransactionOutcome,
};

use super::{Step, rules};
use crate::books::{Checked, hold};

/// What a scheduler is told is all that it learns of its transaction: it must be what the delta did.
pub(super) fn invariant_an_outcome_tells_what_was_done(
    step: &Step<'_>,
    txn: &Transaction,
    outcome: &Outcome,
) -> Checked {
    let wrong = grants(step, txn, outcome)
        .or_else(|| victims(step, outcome))
        .or_else(|| stops(step, txn, outcome))
        .or_else(|| claims(txn, outcome))
        .or_else(|| word(step, outcome));
    hold(wrong.is_none(), "invariant_an_outcome_tells_what_was_done", || {
        format!("{} at {}: {}: {outcome:?}", txn.id, outcome.revision, wrong.unwrap_or_default())
    })
}

/// What was granted, or is said to be: which allocation, of which job, group and task, on which machine.
type Granted = BTreeSet<(AllocationId, JobId, u16, u32, u32)>;
type Ports<'a> = BTreeMap<AllocationId, &'a [Port]>;

/// Each allocation is told at the claim that it was granted to, on its machine or the spare one that is named, with its ports.
fn grants(step: &Step<'_>, txn: &Transaction, outcome: &Outcome) -> Option<String> {
    let lengths = |told: usize, asked: usize| (told != asked).then(|| format!("it tells of {told} of {asked}"));
    let mut wrong = lengths(outcome.placements.len(), txn.placements.len());
    let (mut told, mut told_ports) = (Granted::new(), Ports::new());
    let mut elsewhere_count = 0;
    for ((number, asked), ids) in (0_u32..).zip(&txn.placements).zip(&outcome.placements) {
        wrong = wrong.or_else(|| lengths(ids.len(), asked.machines.len()));
        let claims = (0_u32..).zip(asked.machines.iter().zip(&asked.tasks)).zip(ids);
        for ((claim, (&own, &task)), id) in claims.filter_map(|(of, id)| Some((of, (*id)?))) {
            let is_it = |placement: u32, of: u32| (placement, of) == (number, claim);
            let elsewhere = outcome.elsewhere.iter().find(|one| is_it(one.placement, one.claim)).map(|one| one.machine);
            let is_spare = |machine: u32| machine != own && asked.alternates.contains(&machine);
            if elsewhere.is_some_and(|machine| !is_spare(machine)) {
                return Some(format!("claim {number}.{claim} went to {elsewhere:?}, which is no spare machine"));
            }
            elsewhere_count += usize::from(elsewhere.is_some());
            told.insert((id, asked.job, asked.group, task, elsewhere.unwrap_or(own)));
            let ports = outcome.ports.iter().find(|one| is_it(one.placement, one.claim));
            told_ports.extend(ports.map(|one| (id, one.ports.as_slice())));
        }
    }
    let (mut done, mut done_ports) = (Granted::new(), Ports::new());
    for grants in &step.delta.grants {
        let id = |claim: usize| AllocationId { slot: grants.slots[claim], generation: grants.generations[claim] };
        done.extend(
            (0..grants.slots.len())
                .map(|claim| (id(claim), grants.job, grants.group, grants.tasks[claim], grants.machines[claim])),
        );
        let with_ports = grants.extras.iter().filter(|extra| !extra.ports.is_empty());
        done_ports.extend(with_ports.map(|extra| (id(extra.claim as usize), extra.ports.as_slice())));
    }
    let all_told = (told_ports.len(), elsewhere_count) == (outcome.ports.len(), outcome.elsewhere.len());
    let is_done = told == done && told_ports == done_ports && all_told;
    wrong.or_else(|| (!is_done).then(|| format!("granted was {done:?}, with ports {done_ports:?}")))
}

/// Whoever goes for its claims is told, and nobody else.
fn victims(step: &Step<'_>, outcome: &Outcome) -> Option<String> {
    let told: BTreeSet<AllocationId> = outcome.evicted.iter().copied().collect();
    let evicted: BTreeSet<AllocationId> = rules::evicted(step).map(|victim| victim.id).collect();
    (told != evicted || told.len() != outcome.evicted.len()).then(|| format!("evicted was {evicted:?}"))
}

/// Who was to stop begins to, unless nothing of it runs, it was named before, or it is another scheduler's, of which a refusal is told.
fn stops(step: &Step<'_>, txn: &Transaction, outcome: &Outcome) -> Option<String> {
    let of_none = |refusal: &&Refusal| refusal.claim.is_none();
    let is_refused = outcome.outcome == TransactionOutcome::Refused;
    if outcome.refusals.iter().filter(of_none).any(|refusal| refusal.reason == RefusalReason::GuardFailed) {
        // It was not looked at further.
        let is_empty = outcome.idle_stops.is_empty() && outcome.refusals.iter().filter(of_none).count() == 1;
        return (!is_refused || !is_empty).then(|| "a guard of all of it failed, and it went on".to_owned());
    }
    let own = step.before.session(txn.id.session).map(|session| &session.scheduler);
    let (mut idle, mut denied) = (Vec::new(), Vec::new());
    for (position, &id) in (0_u32..).zip(&txn.stops) {
        let Some(found) = step.before.allocation(id).filter(|found| found.status.state.is_active()) else {
            idle.push(position);
            continue;
        };
        let job = step.before.job(found.row.job());
        if job.map(|job| &job.shape.scheduler) != own {
            denied.push((found.row.job(), found.row.group, found.row.task, found.row.machine));
            continue;
        }
        if txn.stops[..position as usize].contains(&id) {
            idle.push(position);
        }
        let moves_to = |slot: u32, state: AllocationState| {
            step.delta.moves.iter().any(|change| change.slot == slot && change.status.state == state)
        };
        let stops = moves_to(id.slot, AllocationState::Stopping);
        if stops == is_refused {
            return Some(format!("{id} stops: {stops}"));
        }
    }
    let of = |refusal: &Refusal| (refusal.job, refusal.group, refusal.task, refusal.machine);
    let told: Vec<_> = outcome.refusals.iter().filter(of_none).map(of).collect();
    let is_told = outcome.idle_stops == idle && told == denied;
    (!is_told).then(|| format!("there was nothing to stop at {idle:?}, and others' were {denied:?}"))
}

/// Each claim is granted, or refused once, by its own task and machine.
fn claims(txn: &Transaction, outcome: &Outcome) -> Option<String> {
    let mut refused = BTreeSet::new();
    for refusal in &outcome.refusals {
        let Some((number, claim)) = refusal.claim else { continue };
        let asked = txn.placements.get(number as usize).and_then(|asked| {
            let (task, machine) = (asked.tasks.get(claim as usize)?, asked.machines.get(claim as usize)?);
            Some((asked.job, asked.group, *task, *machine))
        });
        let told = (refusal.job, refusal.group, refusal.task, refusal.machine);
        if asked != Some(told) || !refused.insert((number, claim)) {
            return Some(format!("{number}.{claim} is refused as {told:?}, and was {asked:?}, or it is refused twice"));
        }
    }
    let all = (0_u32..)
        .zip(&outcome.placements)
        .flat_map(|(number, ids)| (0_u32..).zip(ids).map(move |(claim, id)| ((number, claim), id.is_some())));
    let mut both = all.filter(|(claim, is_granted)| *is_granted == refused.contains(claim));
    both.next().map(|(claim, _)| format!("claim {claim:?} is neither granted nor refused, or both"))
}

/// The word for all of it says whether anything was refused, and whether anything was done all the same. That nothing was done of what is refused
/// as a whole has a checker of its own.
fn word(step: &Step<'_>, outcome: &Outcome) -> Option<String> {
    let any = !step.delta.grants.is_empty() || !step.delta.moves.is_empty();
    let is_right = match outcome.outcome {
        TransactionOutcome::Committed => outcome.refusals.is_empty(),
        TransactionOutcome::Partial => !outcome.refusals.is_empty() && any,
        TransactionOutcome::Refused => !outcome.refusals.is_empty(),
    };
    (!is_right).then(|| "it is another word for it".to_owned())
}
