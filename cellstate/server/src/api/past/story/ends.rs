//! What became of a job's allocations: those that were told to stop, were lost or ended. Deltas speak of slots there; whose a slot was
//! is told by the grant before, or by the cell of then where the grant is older than the story.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::rc::Rc;

use plenum_history::{BlockSummary, Logged, Order, Subject};
use plenum_model::{AllocationId, AllocationState, Cell, Delta, End, Job, JobKind, Move};
use plenum_proto::v1;

use super::super::ended::delta_of;
use super::Teller;
use super::words::{tasks_of, why_it_ended, why_it_moved};
use crate::api::failure::Failure;
use crate::api::listing;

/// What became of an allocation, before it is known whose its slot was.
struct Change {
    revision: u64,
    state: AllocationState,
    words: String,
    /// What made it happen: that of all changes of a revision.
    cause: Rc<v1::HistoryEvent>,
}

/// A task's stay in a slot.
#[derive(Clone, Copy)]
struct Tenant {
    id: AllocationId,
    group: u16,
    task: u32,
    machine: u32,
}

/// What happened to some tasks at once.
struct Told {
    cause: Rc<v1::HistoryEvent>,
    tenants: Vec<Tenant>,
}

/// Events of a job's allocations in these revisions: the newest, at least `limit` of them. `then` is the cell before them, or at the oldest of them where what
/// is before can't be had. If not all of the revisions were looked at, because these are enough or all that is allowed was read: the revision above which
/// the events are.
pub(super) fn tell(
    teller: &Teller<'_>,
    job: &Job,
    mut then: Cell,
    revisions: RangeInclusive<u64>,
    limit: usize,
) -> Result<(Vec<v1::HistoryEvent>, Option<u64>), Failure> {
    let mut slots = teller.slots.clone();
    slots.extend(then.allocations().filter(|found| found.row.job() == job.id).map(|found| found.id.slot));
    let then_at = then.revision().0;
    let mut ends = Ends { teller, job, then_at, slots, pending: BTreeMap::new(), told: BTreeMap::new() };
    let mut walk = teller.history.walk(revisions, Order::NewestFirst);
    let mut left_before = None;
    loop {
        let is_enough = walk.read_bytes() > teller.read_bytes_max || ends.told.len() > limit;
        if is_enough && !walk.rest().is_empty() {
            left_before = Some(*walk.rest().end());
            break;
        }
        let about =
            |block: &BlockSummary| ends.slots.iter().any(|slot| block.may_tell_of(Subject::AllocationSlot(*slot)));
        let Some(entries) = walk.next(about).map_err(|error| Failure::history(&error))? else { break };
        for logged in &entries {
            ends.look_at(logged, &delta_of(&logged.entry)?)?;
        }
    }
    if let Some(revision) = left_before
        && !ends.pending.is_empty()
    {
        then = teller.then(revision)?;
    }
    ends.settle(&then);
    Ok((ends.events(), left_before))
}

/// Gathers what became of allocations, the newest first.
struct Ends<'a> {
    teller: &'a Teller<'a>,
    job: &'a Job,
    /// The revision of the cell that tells whose the slots were before. Who ended in it is not in that cell, and another one may be in his slot.
    then_at: u64,
    /// Where the job's allocations were.
    slots: BTreeSet<u32>,
    /// By slot: what happened there, not yet known to whom.
    pending: BTreeMap<u32, Vec<Change>>,
    /// What happened to tasks of one group in one revision in the same way is one event.
    told: BTreeMap<(u64, u16, &'static str, String), Told>,
}

impl Ends<'_> {
    fn look_at(&mut self, logged: &Logged, delta: &Delta) -> Result<(), Failure> {
        // Backwards, a delta's grants come first: it ends before it grants.
        for grants in &delta.grants {
            for (position, slot) in grants.slots.iter().enumerate() {
                let Some(changes) = self.pending.remove(slot).filter(|_| grants.job == self.job.id) else { continue };
                let column = |values: &[u32]| values.get(position).copied().unwrap_or_default();
                let id = AllocationId { slot: *slot, generation: column(&grants.generations) };
                let (task, machine) = (column(&grants.tasks), column(&grants.machines));
                self.attribute(changes, Tenant { id, group: grants.group, task, machine });
            }
        }
        // One that left before, and of which restarts are told with the end, does not leave again.
        let ended: BTreeSet<u32> = if delta.moves.is_empty() { BTreeSet::new() } else { slots_of(&delta.ends) };
        let mut made_by: Option<Rc<v1::HistoryEvent>> = None;
        let moves = delta.moves.iter().filter(|change| !ended.contains(&change.slot)).map(of_move);
        let revision = logged.entry.revision;
        let ends: &[End] = if revision > self.then_at { &delta.ends } else { &[] };
        for (slot, state, words) in moves.chain(ends.iter().map(of_end)) {
            if !self.slots.contains(&slot) || !self.is_told(state) {
                continue;
            }
            let cause = match &made_by {
                Some(cause) => Rc::clone(cause),
                None => Rc::clone(made_by.insert(Rc::new(self.teller.event(logged, "", String::new())?))),
            };
            self.pending.entry(slot).or_default().push(Change { revision, state, words, cause });
        }
        Ok(())
    }

    /// That a task is done is told among what became of the job's tasks.
    fn is_told(&self, state: AllocationState) -> bool {
        let is_done = state == AllocationState::Complete && self.job.shape.kind == JobKind::ToCompletion;
        (state.is_leaving() || state.is_end()) && !is_done
    }

    fn attribute(&mut self, changes: Vec<Change>, tenant: Tenant) {
        for Change { revision, state, words, cause } in changes {
            let word = listing::allocation_word(v1::AllocationState::from(state).into());
            let told = self.told.entry((revision, tenant.group, word, words));
            told.or_insert_with(|| Told { cause, tenants: Vec::new() }).tenants.push(tenant);
        }
    }

    /// What is still pending happened to those who were there before.
    fn settle(&mut self, then: &Cell) {
        for (slot, changes) in std::mem::take(&mut self.pending) {
            let Some(found) = then.allocation_in(slot).filter(|found| found.row.job() == self.job.id) else { continue };
            let (group, task, machine) = (found.row.group, found.row.task, found.row.machine);
            self.attribute(changes, Tenant { id: found.id, group, task, machine });
        }
    }

    fn events(self) -> Vec<v1::HistoryEvent> {
        let Self { teller, job, told, .. } = self;
        let mut events = Vec::with_capacity(told.len());
        for ((revision, group, word, words), Told { cause, tenants }) in told {
            let mut event = v1::HistoryEvent::clone(&cause);
            let group = job.shape.groups.get(usize::from(group)).map_or("", |group| &group.name);
            let machines = tenants.iter().map(|tenant| tenant.machine);
            let on = teller.on_machines(machines, revision, event.time_micros);
            let tasks: Vec<u32> = tenants.iter().map(|tenant| tenant.task).collect();
            let (which, colon) = (only_id(&tenants), if words.is_empty() { "" } else { ": " });
            word.clone_into(&mut event.event);
            event.detail = format!("{group}: {}{which} on {on}{colon}{words}", tasks_of(&tasks));
            events.push(event);
        }
        events
    }
}

/// The one allocation that it is about: more of it is told by its own story.
fn only_id(tenants: &[Tenant]) -> String {
    match tenants {
        [only] => format!(" ({})", only.id),
        _ => String::new(),
    }
}

fn of_end(end: &End) -> (u32, AllocationState, String) {
    (end.slot, end.state, told_of(end, None))
}

/// An exit code is told where there may have been one, and once; behind it how often the allocation was started again, where that is first told
/// with its end.
pub(super) fn told_of(end: &End, restarts: Option<u32>) -> String {
    let has_none = matches!(end.state, AllocationState::Failed | AllocationState::EndedLost) && end.exit_code == 0;
    let code = format!("exit code {}", end.exit_code);
    let reason = why_it_ended(end).filter(|reason| *reason != code && !reason.is_empty());
    // What an agent says may begin with the code, as of one whose processes were killed for memory.
    let is_said = reason.is_some_and(|reason| reason.starts_with(&format!("{code} (")));
    let restarts = restarts.map(|restarts| format!("restarts {restarts}"));
    let counts: Vec<String> = (!has_none && !is_said).then_some(code).into_iter().chain(restarts).collect();
    let counts = Some(counts.join(", ")).filter(|counts| !counts.is_empty());
    let facts: Vec<&str> = counts.as_deref().into_iter().chain(reason).collect();
    facts.join(": ")
}

fn slots_of(ends: &[End]) -> BTreeSet<u32> {
    ends.iter().map(|end| end.slot).collect()
}

fn of_move(change: &Move) -> (u32, AllocationState, String) {
    (change.slot, change.status.state, why_it_moved(change).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    // That of an allocation that was killed and first said to have been started again with its end was `exit code 0, restarts 1: …`.
    #[test]
    fn an_exit_code_is_told_once_and_only_where_there_was_one() {
        use AllocationState::{Complete, EndedLost, Failed};
        let told = |state, exit_code, restarts: Option<u32>, reason: Option<&str>| {
            told_of(&End { slot: 1, state, exit_code, reason: reason.map(Into::into) }, restarts)
        };
        assert_eq!(told(Failed, 3, None, Some("exit code 3")), "exit code 3");
        assert_eq!(told(Failed, 0, None, Some("nobody saw its end")), "nobody saw its end");
        assert_eq!(told(Failed, 137, None, Some("out of memory")), "exit code 137: out of memory");
        let killed = "exit code 3 (1 of its processes had been killed for want of memory)";
        assert_eq!(
            (told(Failed, 3, None, Some(killed)), told(Failed, 3, Some(1), Some(killed))),
            (killed.into(), format!("restarts 1: {killed}"))
        );
        assert_eq!((told(Complete, 0, None, None), told(EndedLost, 0, None, None)), ("exit code 0".into(), "".into()));
        assert_eq!(told(Failed, 0, Some(1), Some("nobody saw its end")), "restarts 1: nobody saw its end");
        assert_eq!(told(Failed, 3, Some(1), Some("exit code 3")), "exit code 3, restarts 1");
        assert_eq!(told(Complete, 0, Some(2), None), "exit code 0, restarts 2");
    }
}
