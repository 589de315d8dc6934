//! What a transaction asked to be held to beyond room: its guards, and the check `sequence`; and in which order its spare machines are taken.

use plenum_proto::v1::{self, RefusalKind};

use super::Decided;
use super::rules::{closing_partition, holds, why_it_takes_none};
use crate::amounts::Amounts;
use crate::chronicle::{Chronicle, Facts};
use crate::picture::slot_of;
use crate::violation::Violation;

/// So many allocations that ever were on a machine are surely fewer than one can have at a time.
pub(super) const ALLOCATIONS_FEW: usize = 30_000;

/// Nothing is granted while a guard of its placement fails, and nothing at all changes while one of the whole transaction does. Nothing is refused for a
/// guard while all of them hold; and with `sequence` nothing is granted on a machine where after the base another session was granted anything, anything
/// else changed, or jobs of another scheduler held more. What only gives room back does not count.
#[must_use]
pub fn property_guards_and_sequence_hold(chronicle: &Chronicle, decided: &[Decided<'_>]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for one in decided {
        let (base, at) = (one.asked.base_revision, one.outcome.revision);
        if at == 0 || !chronicle.has_delta(at) {
            continue;
        }
        let fails = |guards: &[v1::Guard]| guards.iter().any(|guard| !is_so(chronicle, guard, at - 1));
        let all_fails = fails(&one.asked.guards);
        if all_fails && chronicle.effects.contains(&at) {
            violations.push(not_as_asked(one, "something changed while a guard on all of it fails".to_owned()));
        }
        for (placement, facts) in grants(chronicle, one) {
            if !all_fails && fails(&placement.guards) {
                violations.push(not_as_asked(one, format!("{:#x} is granted while a guard fails", facts.granted.id)));
            }
            let sequence = one.asked.check() == v1::ConflictCheck::Sequence && chronicle.has_all(base, at);
            let broken = sequence.then(|| changed_by_others(chronicle, one, facts)).flatten();
            violations.extend(broken.map(|what| not_as_asked(one, what)));
        }
        for refusal in one.outcome.refusals.iter().filter(|refusal| refusal.kind() == RefusalKind::Guard) {
            let placement = one.asked.placements.get(refusal.placement as usize);
            let own = placement.map(|placement| placement.guards.as_slice()).unwrap_or_default();
            if !all_fails && !fails(own) {
                let what = format!("claim {}.{} is refused while all guards hold", refusal.placement, refusal.claim);
                violations.push(not_as_asked(one, what));
            }
        }
    }
    violations
}

fn not_as_asked(one: &Decided<'_>, what: String) -> Violation {
    let (session, number, revision) = (one.outcome.session, one.outcome.number, one.outcome.revision);
    Violation::NotAsAsked { session, number, revision, what }
}

/// What was granted, with the placement that it was asked in.
fn grants<'a>(chronicle: &'a Chronicle, one: &'a Decided<'_>) -> impl Iterator<Item = (&'a v1::Placement, &'a Facts)> {
    let all = one.asked.placements.iter().zip(&one.outcome.placements);
    all.flat_map(move |(placement, answer)| {
        let granted = answer.allocations.iter().filter_map(move |id| chronicle.allocations.get(id));
        granted.filter(move |facts| facts.granted.created == one.outcome.revision).map(move |facts| (placement, facts))
    })
}

/// Whether the fact of a guard is one at a revision.
fn is_so(chronicle: &Chronicle, guard: &v1::Guard, revision: u64) -> bool {
    match &guard.fact {
        Some(v1::guard::Fact::JobVersion(guard)) => chronicle.version_at(guard.job, revision) == Some(guard.version),
        Some(v1::guard::Fact::Attribute(guard)) => {
            let machine = chronicle.machine_at(slot_of(guard.machine), revision);
            let machine = machine.filter(|machine| machine.id == guard.machine);
            machine.is_some_and(|machine| machine.attributes.get(&guard.attribute) == Some(&guard.value))
        }
        None => true,
    }
}

/// What others did to the machine of a grant after the base.
fn changed_by_others(chronicle: &Chronicle, one: &Decided<'_>, facts: &Facts) -> Option<String> {
    let (base, at) = (one.asked.base_revision, one.outcome.revision);
    let (id, slot) = (facts.granted.id, facts.granted.machine);
    let mut since = chronicle.granted_on(slot, base + 1, at).map(|other| &other.granted);
    if let Some(other) = since.find(|other| other.session != one.asked.session) {
        let (other, then) = (other.id, other.created);
        return Some(format!("{id:#x} is granted in sequence with base {base}, and {other:#x} was there at {then}"));
    }
    let scheduler = chronicle.shape_at(facts.granted.job, at - 1).map(|shape| shape.scheduler.as_str())?;
    let (then, word) = chronicle.words.changed(slot, base, at, scheduler)?;
    Some(format!("{id:#x} is granted in sequence with base {base}, and slot {slot} had at {then}: {word}"))
}

/// A claim gets a spare machine only where its own and all spare ones before it lacked something. Judged is what the history leaves no doubt
/// about: tasks that ask for room alone, on machines that had it after the whole transaction still, and that nobody held room of.
#[must_use]
pub fn property_spares_are_taken_in_order(chronicle: &Chronicle, decided: &[Decided<'_>]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for one in decided {
        let (base, at) = (one.asked.base_revision, one.outcome.revision);
        if base >= at || !chronicle.has_all(base, at) || !is_plain(one) {
            continue;
        }
        for (placement, answer) in one.asked.placements.iter().zip(&one.outcome.placements) {
            for (&own, id) in placement.machines.iter().zip(&answer.allocations) {
                let Some(facts) = chronicle.allocations.get(id).filter(|facts| facts.granted.created == at) else {
                    continue;
                };
                let got = facts.granted.machine;
                let Some(rank) = placement.alternates.iter().position(|&spare| spare == got) else { continue };
                let mut before = placement.alternates[..rank].iter().copied().chain([own]).filter(|_| got != own);
                let few = |slot: u32| chronicle.count_on(slot) < ALLOCATIONS_FEW;
                if let Some(slot) = before.find(|&slot| few(slot) && had_all(chronicle, one, placement, slot)) {
                    let what = format!("{id:#x} is granted on slot {got}, and slot {slot} before it lacked nothing");
                    violations.push(not_as_asked(one, what));
                }
            }
        }
    }
    violations
}

/// Whether room on a machine only shrinks while a transaction is decided: nothing is taken back, and no room of others is asked for.
fn is_plain(one: &Decided<'_>) -> bool {
    let asks_for_more = |placement: &v1::Placement| !placement.preemptions.is_empty() || !placement.extras.is_empty();
    let fits = one.asked.check() != v1::ConflictCheck::Sequence;
    let undone = one.outcome.refusals.iter().any(|refusal| refusal.kind() == RefusalKind::Mate);
    fits && !undone && one.asked.stops.is_empty() && !one.asked.placements.iter().any(asks_for_more)
}

/// Whether a machine surely had all that a claim asked for.
fn had_all(chronicle: &Chronicle, one: &Decided<'_>, placement: &v1::Placement, slot: u32) -> bool {
    let (base, at) = (one.asked.base_revision, one.outcome.revision);
    let group = chronicle.group_at(placement.job, placement.group, at - 1);
    let shape = chronicle.shape_at(placement.job, at - 1);
    let machine = chronicle.machine_at(slot, at - 1);
    let (Some(group), Some(shape), Some(machine)) = (group, shape, machine) else { return false };
    let of_room_alone = group.devices.is_empty() && group.ports.is_empty() && group.spread.is_empty();
    if !of_room_alone || group.per_machine > 0 || shape.same_machine || why_it_takes_none(machine).is_some() {
        return false;
    }
    let changed = chronicle.has_changed(slot, base, at);
    let suits = group.constraints.iter().all(|constraint| holds(constraint, &machine.attributes));
    let need = Amounts::of_optional(group.resources.as_ref());
    let has_room = need.fits_in(&chronicle.free_at(slot, at)) && !chronicle.was_held(slot, base, at);
    let is_open = closing_partition(chronicle.partitions_at(at - 1), machine, &shape.scheduler).is_none();
    !changed && suits && has_room && is_open
}
