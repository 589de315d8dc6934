//! Transactions: what was acknowledged is there, once, as it was told, and whole where it had to be.

use std::collections::{BTreeMap, BTreeSet};

use plenum_proto::v1;

use super::{Decided, Evidence, HISTORY, Listed};
use crate::calls::{Asked, Call, Reply};
use crate::chronicle::{Chronicle, Visitor};
use crate::picture::{DONE, LIVE, Picture};
use crate::violation::Violation;

/// `min` and `atomic` hold: of each placement either nothing was granted at that revision or at least its minimum; where one missed
/// it and the transaction is atomic, nothing at all happened; and a refused transaction has no effect but its record.
#[must_use]
pub fn property_minimums_hold(chronicle: &Chronicle, decided: &[Decided<'_>]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let there = There::of(chronicle, decided);
    for one in decided.iter().filter(|one| chronicle.has_delta(one.outcome.revision)) {
        let revision = one.outcome.revision;
        let granted: BTreeSet<u64> = chronicle.granted.get(&revision).into_iter().flatten().copied().collect();
        let mut broken = |what: String| {
            let (session, number) = (one.asked.session, one.asked.number);
            violations.push(Violation::MinimumBroken { session, number, revision, what });
        };
        let mut missed = false;
        for (position, placement) in one.asked.placements.iter().enumerate() {
            // Two placements may claim the same task: only the answer says whose a grant is, and it is compared with the delta elsewhere.
            let answered = one.outcome.placements.get(position).map(|answer| answer.allocations.as_slice());
            let count = answered.unwrap_or_default().iter().filter(|id| granted.contains(id)).count();
            let min = least(chronicle, one, placement, earlier_mates(one, position, &granted), &there);
            missed |= count < min;
            if count > 0 && count < min {
                broken(format!("placement {position} has {count} grants, and its minimum is {min}"));
            }
        }
        let effect = chronicle.effects.contains(&revision);
        if missed && one.asked.atomic && effect {
            broken("it is atomic and a placement missed its minimum, but something changed".into());
        }
        if one.outcome.outcome() == v1::TransactionOutcome::Refused && effect {
            broken("it was refused, but something changed".into());
        }
    }
    violations
}

/// What placements before this one were granted of its group.
fn earlier_mates(one: &Decided<'_>, position: usize, granted: &BTreeSet<u64>) -> usize {
    let group_of = |placement: &v1::Placement| (placement.job, placement.group);
    let own = one.asked.placements.get(position).map(group_of);
    let earlier = one.asked.placements.iter().zip(&one.outcome.placements).take(position);
    let mates = earlier.filter(|(asked, _)| Some(group_of(asked)) == own);
    mates.flat_map(|(_, answer)| &answer.allocations).filter(|id| granted.contains(id)).count()
}

/// How many tasks groups have, and how many of them are there, before the revisions at which somebody places some of them. Found in one walk, as
/// folding the history for each placement takes hours where there are many.
#[derive(Default)]
struct There {
    /// Jobs and groups, by revision.
    wanted: BTreeMap<u64, BTreeSet<(u64, u32)>>,
    /// Tasks, and those that are there, by revision, job and group.
    found: BTreeMap<(u64, u64, u32), (u32, usize)>,
}

impl There {
    fn of(chronicle: &Chronicle, decided: &[Decided<'_>]) -> Self {
        let mut there = Self::default();
        for one in decided.iter().filter(|one| chronicle.has_delta(one.outcome.revision)) {
            let revision = one.outcome.revision;
            let gangs = one.asked.placements.iter().filter(|placement| declared(chronicle, placement, revision) > 0);
            let gangs: BTreeSet<_> = gangs.map(|placement| (placement.job, placement.group)).collect();
            if !gangs.is_empty() {
                there.wanted.entry(revision).or_default().extend(gangs);
            }
        }
        if !there.wanted.is_empty() {
            chronicle.walk(&mut there);
        }
        there
    }
}

impl Visitor for There {
    fn before(&mut self, picture: &Picture, delta: &v1::Delta) {
        for &(job, group) in self.wanted.get(&delta.revision).into_iter().flatten() {
            let Some(row) = picture.jobs.get(&job).map(|put| put.group_base + group) else { continue };
            let count = picture.groups.get(&row).map_or(0, |group| group.count);
            let there = (0..count).filter(|&task| matches!(picture.task(row, task).state, LIVE | DONE)).count();
            self.found.insert((delta.revision, job, group), (count, there));
        }
    }
}

/// The minimum that a placement's group declares when a revision is decided.
fn declared(chronicle: &Chronicle, placement: &v1::Placement, revision: u64) -> u32 {
    chronicle.group_at(placement.job, placement.group, revision - 1).map_or(0, |group| group.min)
}

/// What a placement asks for at least, and what its group declares as long as fewer of its tasks are there: without whom the transaction
/// stops, and with `mates`, whom it placed before. Whom it evicts for others counts as there: that may be for a later placement.
fn least(chronicle: &Chronicle, one: &Decided<'_>, placement: &v1::Placement, mates: usize, there: &There) -> usize {
    let (asked, revision) = (placement.min, one.outcome.revision);
    let known = there.found.get(&(revision, placement.job, placement.group));
    let Some(&(count, there)) = known else { return asked as usize };
    let stops: BTreeSet<u64> = one.asked.stops.iter().copied().collect();
    let stopped = stops.iter().filter_map(|id| chronicle.allocations.get(id)).filter(|facts| {
        (facts.granted.job, facts.granted.group) == (placement.job, placement.group) && facts.left == Some(revision)
    });
    let there = there.saturating_sub(stopped.count()) + mates;
    let declared = declared(chronicle, placement, revision);
    (asked as usize).max((declared.min(count) as usize).saturating_sub(there))
}

/// Every transaction that somebody was told of is in the history, at that revision.
#[must_use]
pub fn property_acknowledged_is_durable(chronicle: &Chronicle, decided: &[Decided<'_>]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for one in decided {
        let (session, number, revision) = (one.outcome.session, one.outcome.number, one.outcome.revision);
        let found = chronicle.numbers.get(&(session, number));
        let what = if revision > chronicle.newest() {
            format!("the cell ends at revision {}", chronicle.newest())
        } else if chronicle.has_delta(revision) && found.is_none_or(|revisions| !revisions.contains(&revision)) {
            format!("it was decided at {found:?}")
        } else {
            continue;
        };
        violations.push(Violation::Lost { client: one.told_by.to_owned(), session, number, revision, what });
    }
    violations
}

/// Where the delta of a revision is not known, the cell's list of transactions has those that somebody was told of, as far as it was read.
#[must_use]
pub fn property_acknowledged_is_listed(chronicle: &Chronicle, evidence: &Evidence) -> Vec<Violation> {
    let Some(listed) = listed_of(chronicle, evidence) else { return Vec::new() };
    let found = in_the_list(evidence);
    let missing = evidence.decided_in(chronicle.incarnation).filter(|one| {
        let revision = one.outcome.revision;
        !deltas_tell(chronicle, revision) && listed.covers(revision) && !found.contains(&name_of(one.outcome))
    });
    let lost = missing.map(|one| {
        let (session, number, revision) = name_of(one.outcome);
        let what = format!("the list of transactions from revision {} on has it not", listed.from);
        Violation::Lost { client: one.told_by.to_owned(), session, number, revision, what }
    });
    lost.collect()
}

/// How much of what somebody was told of can neither be there nor be missing: its delta is not known, and no list was read that would have it.
#[must_use]
pub fn count_of_unchecked(chronicle: &Chronicle, evidence: &Evidence) -> usize {
    let (listed, found) = (listed_of(chronicle, evidence), in_the_list(evidence));
    let unchecked = evidence.decided_in(chronicle.incarnation).filter(|one| {
        let revision = one.outcome.revision;
        let is_listed = listed.is_some_and(|listed| listed.covers(revision)) || found.contains(&name_of(one.outcome));
        !deltas_tell(chronicle, revision) && !is_listed
    });
    unchecked.count()
}

/// Whether what was heard says if a revision is there: its delta is known, or all of them end before it.
fn deltas_tell(chronicle: &Chronicle, revision: u64) -> bool {
    revision > chronicle.newest() || chronicle.has_delta(revision)
}

/// What was read of the list is that of one incarnation: another one may have lost, or never had, what this one has.
fn listed_of<'a>(chronicle: &Chronicle, evidence: &'a Evidence) -> Option<&'a Listed> {
    evidence.listed.as_ref().filter(|listed| listed.incarnation == chronicle.incarnation)
}

fn in_the_list(evidence: &Evidence) -> BTreeSet<(u64, u64, u64)> {
    evidence.transactions.iter().filter_map(|view| view.outcome.as_ref()).map(name_of).collect()
}

/// Session, number and revision.
fn name_of(outcome: &v1::Outcome) -> (u64, u64, u64) {
    (outcome.session, outcome.number, outcome.revision)
}

/// The history reaches as far as all else that somebody was told of: what was written, such as jobs and machines, and what was read, since
/// nobody sees what could still be lost. Where clients or watchers knew several incarnations, nobody can say of which one a revision is.
#[must_use]
pub fn property_the_history_reaches_what_was_told(chronicles: &[Chronicle], calls: &[Call]) -> Vec<Violation> {
    let [chronicle] = chronicles else { return Vec::new() };
    let of_another = |call: &Call| match &call.asked {
        Asked::Transaction(asked) => asked.incarnation != chronicle.incarnation,
        Asked::Write(_) | Asked::Read(_) => false,
    };
    if calls.iter().any(of_another) {
        return Vec::new();
    }
    let newest = chronicle.newest();
    let lost = calls.iter().filter_map(|call| match (&call.asked, &call.reply) {
        (Asked::Write(asked) | Asked::Read(asked), &Reply::Revision(revision)) if revision > newest => {
            Some(Violation::LostRevision { client: call.client.clone(), asked: asked.clone(), revision, newest })
        }
        _ => None,
    });
    lost.collect()
}

/// A session's number takes effect at most once, numbers rise, every grant is of a number that was decided with it, and whoever asked
/// again was told the same again, and whoever asked for something else was not.
#[must_use]
pub fn property_a_number_takes_effect_once(chronicle: &Chronicle, decided: &[Decided<'_>]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut newest: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (&(session, number), revisions) in &chronicle.numbers {
        if revisions.len() > 1 {
            let what = format!("it was decided at {revisions:?}");
            violations.push(Violation::NumberTwice { session, number, what });
        }
        let last = revisions.last().copied().unwrap_or(0);
        if let Some((before, at)) = newest.insert(session, (number, last)).filter(|(_, at)| *at > last) {
            let what = format!("it was decided at {last}, and number {before} at {at}");
            violations.push(Violation::NumberTwice { session, number, what });
        }
    }
    for facts in chronicle.allocations.values().filter(|facts| chronicle.has_delta(facts.granted.created)) {
        let (session, number) = (facts.granted.session, facts.granted.number);
        let at = chronicle.numbers.get(&(session, number));
        if at.is_none_or(|revisions| !revisions.contains(&facts.granted.created)) {
            let what = format!("allocation {:#x} is of revision {}", facts.granted.id, facts.granted.created);
            violations.push(Violation::NumberTwice { session, number, what });
        }
    }
    let mut first: BTreeMap<(u64, u64), &Decided<'_>> = BTreeMap::new();
    for one in decided {
        let (session, number) = (one.outcome.session, one.outcome.number);
        let before = first.entry((session, number)).or_insert(one);
        let what = if before.outcome != one.outcome {
            "were told different outcomes"
        } else if other_content(before, one) {
            "asked for different things, and were answered alike"
        } else {
            continue;
        };
        let what = format!("{} and {} {what}", before.told_by, one.told_by);
        violations.push(Violation::NumberTwice { session, number, what });
    }
    violations
}

/// Whether two clients asked for different things, beside what they note of their decision. The cell's history has what it made of a transaction, which
/// nobody may have sent so.
fn other_content(left: &Decided<'_>, right: &Decided<'_>) -> bool {
    let content = |one: &Decided<'_>| v1::Transaction { decision: None, ..one.asked.clone() };
    let by_clients = left.told_by != HISTORY && right.told_by != HISTORY;
    by_clients && !std::ptr::eq(left.asked, right.asked) && content(left) != content(right)
}

/// What was told of a transaction is what its delta did: the same allocations, of the tasks and on the machines that were asked for.
#[must_use]
pub fn property_replies_equal_the_fold(chronicle: &Chronicle, decided: &[Decided<'_>]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for one in decided.iter().filter(|one| chronicle.has_delta(one.outcome.revision)) {
        if let Some(what) = other_reply(chronicle, one) {
            violations.push(Violation::OtherReply {
                client: one.told_by.to_owned(),
                session: one.outcome.session,
                number: one.outcome.number,
                revision: one.outcome.revision,
                what,
            });
        }
    }
    violations
}

fn other_reply(chronicle: &Chronicle, one: &Decided<'_>) -> Option<String> {
    let (asked, outcome) = (one.asked, one.outcome);
    if (asked.session, asked.number) != (outcome.session, outcome.number) {
        return Some(format!("asked was {}/{}", asked.session, asked.number));
    }
    if asked.placements.len() != outcome.placements.len() {
        return Some(format!(
            "{} placements were asked for, {} answered",
            asked.placements.len(),
            outcome.placements.len()
        ));
    }
    let told = outcome.placements.iter().flat_map(|placement| &placement.allocations).copied().filter(|&id| id > 0);
    let told: BTreeSet<u64> = told.collect();
    let granted: BTreeSet<u64> = chronicle.granted.get(&outcome.revision).into_iter().flatten().copied().collect();
    if told != granted {
        return Some(format!("it says that {told:x?} were granted, and {granted:x?} were"));
    }
    let told: BTreeSet<u64> = outcome.evicted.iter().copied().collect();
    let evicted: BTreeSet<u64> = chronicle.evicted.get(&outcome.revision).into_iter().flatten().copied().collect();
    if told != evicted {
        return Some(format!("it says that {told:x?} were evicted, and {evicted:x?} were"));
    }
    let refused = match refused_claims(one) {
        Ok(refused) => refused,
        Err(what) => return Some(what),
    };
    if let Some(what) = other_stops(chronicle, one).or_else(|| other_word(outcome)) {
        return Some(what);
    }
    for (position, (placement, answered)) in (0..).zip(asked.placements.iter().zip(&outcome.placements)) {
        let mut elsewhere = Vec::new();
        for (claim, (&machine, &task)) in (0_u32..).zip(placement.machines.iter().zip(&placement.tasks)) {
            let id = answered.allocations.get(claim as usize).copied().unwrap_or(0);
            let place = format!("claim {position}.{claim}");
            let Some(facts) = chronicle.allocations.get(&id).filter(|_| id > 0) else {
                if !refused.contains(&(position, claim)) {
                    return Some(format!("{place} is neither granted nor refused"));
                }
                continue;
            };
            if refused.contains(&(position, claim)) {
                return Some(format!("{place} is both granted and refused"));
            }
            let got = (facts.granted.job, facts.granted.group, facts.granted.task);
            let here = facts.granted.machine == machine || placement.alternates.contains(&facts.granted.machine);
            if got != (placement.job, placement.group, task) || !here {
                return Some(format!("{place} was granted {:?}", facts.granted));
            }
            if facts.granted.machine != machine {
                elsewhere.push(v1::GrantedElsewhere { claim, machine: facts.granted.machine });
            }
        }
        if answered.elsewhere != elsewhere {
            let told = &answered.elsewhere;
            return Some(format!("placement {position} tells {told:?} of spare machines, and they are {elsewhere:?}"));
        }
        let ports = ports_of(chronicle, answered);
        if answered.ports != ports {
            return Some(format!("placement {position} tells of ports {:?}, and they are {ports:?}", answered.ports));
        }
    }
    let counted = (u64::from(outcome.claims), u64::from(outcome.granted));
    let claims: usize = asked.placements.iter().map(|placement| placement.machines.len()).sum();
    let found = (claims as u64, granted.len() as u64);
    (counted != found).then(|| format!("it counts {counted:?} claims and grants, and there are {found:?}"))
}

/// Claims that were refused, by placement and position: each once, as it was asked. All that is looked up of a refusal is what it says of its claim.
fn refused_claims(one: &Decided<'_>) -> Result<BTreeSet<(u32, u32)>, String> {
    let mut refused = BTreeSet::new();
    for refusal in one.outcome.refusals.iter().filter(|refusal| !is_of_a_stop(refusal)) {
        let place = format!("claim {}.{}", refusal.placement, refusal.claim);
        if !refused.insert((refusal.placement, refusal.claim)) {
            return Err(format!("{place} is refused twice"));
        }
        let claim = refusal.claim as usize;
        let placement = one.asked.placements.get(refusal.placement as usize);
        let asked = placement.and_then(|it| Some((it.job, it.group, *it.tasks.get(claim)?, *it.machines.get(claim)?)));
        let told = (refusal.job, refusal.group, refusal.task, refusal.machine);
        if asked != Some(told) {
            return Err(format!("{place} is refused as {told:?}, and was {asked:?}"));
        }
    }
    Ok(refused)
}

/// Of no claim: a stop, or a guard on the whole transaction.
fn is_of_a_stop(refusal: &v1::Refusal) -> bool {
    refusal.placement == u32::MAX
}

/// The ports that the claims of a placement got, by the history.
fn ports_of(chronicle: &Chronicle, answered: &v1::PlacementOutcome) -> Vec<v1::GrantedPorts> {
    let granted = (0_u32..).zip(&answered.allocations).filter(|(_, id)| **id > 0);
    let granted = granted.filter_map(|(claim, id)| Some((claim, &chronicle.allocations.get(id)?.granted.ports)));
    let with_ports = granted.filter(|(_, ports)| !ports.is_empty());
    with_ports.map(|(claim, ports)| v1::GrantedPorts { ports: ports.clone(), claim }).collect()
}

/// Whoever is to be stopped leaves from then on, unless nothing took effect, it is another scheduler's, or there was nothing to do.
fn other_stops(chronicle: &Chronicle, one: &Decided<'_>) -> Option<String> {
    let (outcome, at) = (one.outcome, one.outcome.revision);
    if outcome.outcome() == v1::TransactionOutcome::Refused {
        return None;
    }
    let idle: BTreeSet<u32> = outcome.idle_stops.iter().copied().collect();
    let denied = outcome.refusals.iter().filter(|refusal| is_of_a_stop(refusal));
    let denied: BTreeSet<_> = denied.map(|it| (it.job, it.group, it.task, it.machine)).collect();
    let mut seen = BTreeSet::new();
    for (position, id) in (0_u32..).zip(&one.asked.stops) {
        let is_first = seen.insert(*id);
        // What was granted later had nobody's number yet.
        let Some(facts) = chronicle.allocations.get(id).filter(|facts| facts.granted.created < at) else { continue };
        let it = &facts.granted;
        let leaves = [facts.left, facts.ended].into_iter().flatten().min();
        let is_denied = denied.contains(&(it.job, it.group, it.task, it.machine));
        if idle.contains(&position) {
            if is_first && leaves.is_none_or(|then| then >= at) {
                return Some(format!("the stop of {id:#x} is said to be idle, and it was there"));
            }
        } else if !is_denied && leaves != Some(at) {
            return Some(format!("the stop of {id:#x} took no effect"));
        }
    }
    None
}

/// The word for all of it says whether anything was refused.
fn other_word(outcome: &v1::Outcome) -> Option<String> {
    use v1::TransactionOutcome as Word;
    let is_right = match outcome.outcome() {
        Word::Committed => outcome.refusals.is_empty(),
        Word::Partial => !outcome.refusals.is_empty(),
        Word::Refused => true,
        Word::Unspecified => false,
    };
    (!is_right).then(|| format!("it is {:?} with {} refusals", outcome.outcome(), outcome.refusals.len()))
}
