//! Why an allocation begins to leave: by the cell as it is then, by what else a revision changes, and by the transaction, where that is known.

use std::collections::{BTreeMap, BTreeSet};

use plenum_proto::v1;

use super::Decided;
use crate::chronicle::{Chronicle, Visitor};
use crate::picture::{Allocation, Picture, is_over};
use crate::violation::Violation;

/// What the cell says of an allocation that somebody stopped by its id.
const BY_ITS_ID: &str = "stopped by a request";

/// Who is told to stop was named by the transaction or by a request, or its job is over, or has no such task any more, or its machine should be
/// empty by now. A transaction names only tasks of its own scheduler for that. What is lost ran on a machine that was silent for as long as its group
/// allows, and who is evicted was named as a victim there. A limit, a partition or an attribute that changes is no reason. Who leaves does not come back.
/// Of transactions that are not known nothing is said, and of the bands of victims elsewhere.
#[must_use]
pub fn property_whoever_leaves_has_a_reason(chronicle: &Chronicle, decided: &[Decided<'_>]) -> Vec<Violation> {
    let mut check = Leaving::default();
    for one in decided {
        let named = check.named.entry(one.outcome.revision).or_default();
        named.session = one.asked.session;
        named.stops.extend(&one.asked.stops);
        let victims = one.asked.placements.iter().flat_map(|placement| &placement.preemptions);
        named.victims.extend(victims.map(|it| (it.machine, it.victim)));
    }
    chronicle.walk(&mut check);
    check.violations
}

/// Whom a transaction asked to go.
#[derive(Default)]
struct Named {
    session: u64,
    stops: BTreeSet<u64>,
    /// With the slots of their machines.
    victims: BTreeSet<(u32, u64)>,
}

#[derive(Default)]
struct Leaving {
    violations: Vec<Violation>,
    /// By the revision at which the transaction was decided.
    named: BTreeMap<u64, Named>,
    /// When a server opened the cell last, as far as is known: before that no machine could be heard.
    opened_micros: i64,
    /// Slots that a delta moves, and whether who is there was leaving before it.
    moved: BTreeMap<u32, bool>,
}

impl Visitor for Leaving {
    fn before(&mut self, picture: &Picture, delta: &v1::Delta) {
        let moved = delta.moves.iter().flat_map(|moves| &moves.slots).copied();
        self.moved = moved.filter_map(|slot| Some((slot, picture.allocations.get(&slot)?.is_leaving()))).collect();
    }

    fn after(&mut self, picture: &Picture, delta: &v1::Delta) {
        if delta.cell.is_some() {
            self.opened_micros = delta.time_micros;
        }
        let moved = self.moved.iter().filter_map(|(slot, left)| Some((*left, picture.allocations.get(slot)?)));
        let without = moved.filter(|(left, found)| match (left, found.state) {
            (true, _) => !found.is_leaving(),
            (false, v1::AllocationState::Stopping) => !self.is_to_stop(picture, delta, found),
            (false, v1::AllocationState::Lost) => !self.is_lost(picture, found),
            (false, v1::AllocationState::Evicting) => {
                let named = self.named.get(&delta.revision);
                named.is_some_and(|named| !named.victims.contains(&(found.machine, found.id)))
            }
            _ => false,
        });
        let violations: Vec<_> = without
            .map(|(_, found)| Violation::LeavesWithoutReason {
                revision: delta.revision,
                allocation: found.id,
                state: found.state,
                told: found.reason.clone(),
            })
            .collect();
        self.violations.extend(violations);
    }
}

impl Leaving {
    fn is_to_stop(&self, picture: &Picture, delta: &v1::Delta, found: &Allocation) -> bool {
        let is_named = match self.named.get(&delta.revision) {
            Some(named) => named.stops.contains(&found.id) && is_own(picture, named.session, found),
            None => is_of_a_transaction(delta) || is_by_its_id(delta, found),
        };
        let job = picture.jobs.get(&found.job);
        let is_over = job.is_none_or(|job| is_over(job.state()));
        let is_no_more = picture.groups.get(&found.group_row).is_none_or(|group| found.task >= group.count);
        let machine = picture.machines.get(&found.machine);
        let draining = machine.filter(|machine| machine.state() == v1::MachineState::Draining);
        let is_due = draining.is_some_and(|machine| machine.drain_deadline_micros <= picture.time_micros);
        is_named || is_over || is_no_more || is_due
    }

    fn is_lost(&self, picture: &Picture, found: &Allocation) -> bool {
        let machine = picture.machines.get(&found.machine);
        let away = machine.filter(|machine| machine.state() == v1::MachineState::Unreachable);
        away.zip(lost_after_micros(picture, found)).is_some_and(|(machine, after)| {
            let silent_since = machine.since_micros.max(self.opened_micros);
            silent_since.saturating_add(after) <= picture.time_micros
        })
    }
}

/// Whether an allocation is of the scheduler that a session is of.
fn is_own(picture: &Picture, session: u64, found: &Allocation) -> bool {
    let scheduler = picture.sessions.get(&session).map(|session| &session.opened.scheduler);
    scheduler.is_some() && scheduler == picture.scheduler_names.get(found.scheduler as usize)
}

fn is_of_a_transaction(delta: &v1::Delta) -> bool {
    let is_number = |change: &v1::SessionChange| matches!(change.change, Some(v1::session_change::Change::Number(_)));
    delta.sessions.iter().any(is_number)
}

/// Who stops one allocation by its id changes nothing else.
fn is_by_its_id(delta: &v1::Delta, found: &Allocation) -> bool {
    let v1::Delta { revision, time_micros, ref moves, .. } = *delta;
    let alone = v1::Delta { revision, time_micros, moves: moves.clone(), ..v1::Delta::default() };
    let is_one = moves.as_ref().is_some_and(|moves| moves.slots.len() == 1);
    is_one && *delta == alone && found.reason == BY_ITS_ID
}

/// For how long its machine may be silent before it is lost; `None`: for ever. Tasks that share a machine are lost together, after the longest time
/// that one of their groups has.
fn lost_after_micros(picture: &Picture, found: &Allocation) -> Option<i64> {
    let shape = picture.jobs.get(&found.job)?.shape.as_ref()?;
    let after = |group: &v1::GroupShape| Some(group.lost_after_micros).filter(|micros| *micros >= 0);
    if shape.same_machine {
        return shape.groups.iter().try_fold(0, |longest: i64, group| Some(longest.max(after(group)?)));
    }
    after(shape.groups.get(found.group as usize)?)
}
