//! Moving what runs on machines that are drained, before their deadline stops it.
//!
//! The task's successor is claimed elsewhere and the task is stopped in one transaction, all or nothing: where there is no room, it
//! stays, and whoever crashes meanwhile leaves one of both and never none or two. Of a group one task moves at a time, and the next one
//! when all of the group run again, so that a service of several is never short of more than one.
//! What can't be told from outside to be replaced that way is left to the deadline: tasks that share a machine, gangs, groups whose
//! tasks may run only once, and work that ends by itself, which would begin anew. Of what stays it is said why.

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;

use plenum_model::{
    AllocationRef, AllocationState, Cell, GroupShape, Job, JobId, JobKind, LogTime, MachineState, TaskState,
    group_is_wanted,
};
use plenum_sdk::{Decision, PassedOver, Plan, View, Work};

use crate::placer::Placer;

/// Between two walks over the groups of all jobs.
const WALK_MICROS: i64 = 1_000_000;

/// A peer that is there begins to move its own within so long after a machine began to be drained.
const OVERDUE_MICROS: i64 = 5_000_000;

/// Groups of which it is said why they stay: so many as are looked into by hand, and few enough to be said in each decision.
const STAYING_MAX: usize = 1000;

/// Behind a task that has not run for less than this nobody is said to stay: each move keeps the others of its group for a moment.
const PASSING_MICROS: i64 = 5_000_000;

/// A group: the slot of its job, and its position there.
type Place = (u32, u16);

/// Why tasks of a group stay where they are.
enum Stays {
    For(String),
    /// Only until this one of the group, on that machine, is known to run.
    Behind {
        task: u32,
        machine: u32,
    },
}

/// What a walk found of groups of which some tasks stay on drained machines. Each list is of `STAYING_MAX` at most.
#[derive(Debug, Default)]
struct Found {
    /// How many stay, and why.
    staying: BTreeMap<(JobId, u16), (u32, String)>,
    /// Which other task of the group they are behind, and since which walk.
    behind: BTreeMap<(JobId, u16), (u32, LogTime)>,
}

impl Found {
    /// Tasks of a group stay, if any are on drained machines. What the walk before this one found says for how long they have been behind another one.
    fn add(&mut self, view: &View<'_>, (job, group): (&Job, u16), stays: Stays, before: &Self) {
        if self.staying.len() >= STAYING_MAX {
            return;
        }
        let (tasks, place) = (left(view, job, group), (job.id, group));
        if tasks == 0 {
            return;
        }
        let why = match stays {
            Stays::For(why) => why,
            Stays::Behind { task, machine } => {
                let now = view.now();
                // It may have been later than now (`View::now`).
                let known = before.behind.get(&place).filter(|(other, since)| *other == task && *since <= now);
                let since = known.map_or(now, |&(_, since)| since);
                if self.behind.len() < STAYING_MAX {
                    self.behind.insert(place, (task, since));
                }
                if now.micros.saturating_sub(since.micros) < PASSING_MICROS {
                    return;
                }
                let name = view.cell().machine_in(machine).map_or("?", |found| &*found.name);
                format!("task {task} on {name} is not known to run, and only one of a group is away at a time")
            }
        };
        self.staying.insert(place, (tasks, why));
    }

    /// Notes why tasks of a group on drained machines stay while its job waits out a refusal. No move is tried then: whether there is room elsewhere is
    /// told as the walk before this one found it.
    fn note_resting(&mut self, view: &View<'_>, (job, group): (&Job, u16), before: &Self) {
        let place = (job.id, group);
        let stays = match next_task(view, job, group) {
            Err(stays) => Some(stays),
            // Whom it was behind runs by now.
            Ok(Some(_)) if before.behind.contains_key(&place) => None,
            Ok(Some(_)) => before.staying.get(&place).map(|(_, why)| Stays::For(why.clone())),
            Ok(None) => None,
        };
        if let Some(stays) = stays {
            self.add(view, (job, group), stays, before);
        }
    }
}

/// Where the walks over all groups stand.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// When the last one began.
    began: Option<LogTime>,
    /// Where it goes on, if it met more moves than transactions could be sent. Else the same first few would be tried each time,
    /// whatever becomes of them.
    rest: Option<Place>,
    /// What the last whole one found, which is said until the next one is over.
    last: Found,
    /// What the one found that is under way.
    found: Found,
}

impl Moves {
    /// Plans the next move of each group that can make one, if it is time for that, and asks to be called for the next ones.
    pub(super) fn plan(&mut self, placer: &mut Placer, view: &View<'_>, decision: &mut Decision) {
        let from = self.rest.take().or_else(|| {
            let begins = self.next_walk_micros(view.now()) == 0;
            begins.then(|| {
                self.began = Some(view.now());
                self.found = Found::default();
                (0, 0)
            })
        });
        if let Some(from) = from {
            self.rest = walk(placer, view, (decision, &self.last, &mut self.found), from);
            if self.rest.is_none() {
                self.last = std::mem::take(&mut self.found);
            }
        }
        let note = |(&(job, group), (tasks, reason)): (&(JobId, u16), &(u32, String))| PassedOver {
            job,
            group,
            tasks: *tasks,
            reason: reason.clone(),
        };
        decision.staying.extend(self.last.staying.iter().map(note));
        decision.again_after(if self.rest.is_some() { 0 } else { self.next_walk_micros(view.now()) });
    }

    /// How long it is until the next walk begins, in microseconds; 0 if that is now. What waits is placed more often than that, and does
    /// not wait for a walk over all machines.
    fn next_walk_micros(&self, now: LogTime) -> i64 {
        let since = self.began.map_or(WALK_MICROS, |began| now.micros.saturating_sub(began.micros));
        // It may have been later than now (`View::now`).
        if (0..WALK_MICROS).contains(&since) { WALK_MICROS - since } else { 0 }
    }
}

/// Plans moves of the groups from a place on, except of jobs that wait out a refusal, finds those that stay, and gives where it had to end.
fn walk(
    placer: &mut Placer,
    view: &View<'_>,
    (decision, last, found): (&mut Decision, &Found, &mut Found),
    from: Place,
) -> Option<Place> {
    let cell = view.cell();
    if !(0..cell.machine_rows().len()).any(|slot| state(cell, slot) == Some(MachineState::Draining)) {
        // Where it goes on, that was found of drains that have ended since.
        *found = Found::default();
        return None;
    }
    let jobs = cell.jobs().filter(|job| job.id.slot >= from.0);
    for job in jobs.filter(|job| view.looks_after(job)) {
        let is_own = view.is_own(job);
        for group in job.group_positions() {
            let place = (job.id.slot, group);
            if place < from {
                continue;
            }
            if view.rests(job) {
                if is_own {
                    found.note_resting(view, (&**job, group), last);
                }
                continue;
            }
            if decision.plans.len() >= view.window() {
                return Some(place);
            }
            match next_move(placer, view, job, group) {
                Ok(plan) => plan.into_iter().for_each(|plan| decision.commit(plan)),
                // Of a peer's own it says so itself.
                Err(stays) if is_own => found.add(view, (&**job, group), stays, last),
                Err(_) => {}
            }
        }
    }
    None
}

fn state(cell: &Cell, slot: u32) -> Option<MachineState> {
    cell.machine_row(slot).map(|row| row.state)
}

/// Why tasks of a group are never moved, where they are not.
fn never_moved(job: &Job, shape: &GroupShape) -> Option<&'static str> {
    if job.shape.kind != JobKind::Forever {
        Some("what ends by itself is not moved, as it would begin anew")
    } else if job.shape.same_machine {
        Some("tasks that share a machine are not moved")
    } else if shape.single_instance {
        Some("a task of which only one may run (single_instance) is not moved")
    } else if shape.min > 0 {
        Some("tasks of a group with min are not moved")
    } else {
        None
    }
}

/// How many tasks of a group are on drained machines.
fn left(view: &View<'_>, job: &Job, group: u16) -> u32 {
    let count = view.cell().group(job, group).map_or(0, |row| row.count);
    let found = (0..count).filter_map(|task| view.allocation_of(job, group, task));
    let left = found.filter(|found| state(view.cell(), found.row.machine) == Some(MachineState::Draining));
    u32::try_from(left.count()).unwrap_or(u32::MAX)
}

/// One task of a group that stands on a drained machine, claimed elsewhere and stopped there; nothing where none does, or none can move just now.
///
/// # Errors
/// Why those that stand there stay, if any do.
fn next_move(placer: &mut Placer, view: &View<'_>, job: &Arc<Job>, group: u16) -> Result<Option<Plan>, Stays> {
    let Some(leaving) = next_task(view, job, group)? else { return Ok(None) };
    if !view.is_own(job) {
        // Its peer may be alive: both would move one of the group, each another one.
        let Some(machine) = view.cell().machine_in(leaving.row.machine) else { return Ok(None) };
        if view.now().micros.saturating_sub(machine.since.micros) < OVERDUE_MICROS {
            return Ok(None);
        }
    }
    let Some(work) = Work::to_move(job, group, vec![leaving.row.task]) else { return Ok(None) };
    let mut plan = Plan::all_or_nothing().decided_by("spread", &[]);
    placer.leave(view, &work, leaving);
    // Nothing waits: what is said of it is no reason why a task would, but why this one stays.
    let mut said = Decision::default();
    let placed = placer.place(view, slice::from_ref(&work), &mut plan, &mut said);
    if placed == 0 {
        placer.stay(view, &work, leaving);
        let why = said.passed_over.pop().map(|note| note.reason).unwrap_or_default();
        return Err(Stays::For(format!("no other machine takes one: {why}")));
    }
    plan.stop(leaving.id);
    plenum_model::rare!("a task moves off a drained machine");
    Ok(Some(plan))
}

/// The task of a group that moves next: one that does not run anyway, or the first one. None while one waits, or is in flight.
///
/// # Errors
/// Why they stay, however much room there is: they are never moved, or one is down elsewhere, or on its way there, and the group would be short of two.
fn next_task<'a>(view: &View<'a>, job: &Job, group: u16) -> Result<Option<AllocationRef<'a>>, Stays> {
    let cell = view.cell();
    let Some(shape) = job.shape.groups.get(usize::from(group)) else { return Ok(None) };
    if let Some(never) = never_moved(job, shape) {
        return Err(Stays::For(never.to_owned()));
    }
    let Some(row) = cell.group(job, group) else { return Ok(None) };
    // After a failure even a successor has to wait.
    if row.tasks_in(TaskState::Live) < row.count || group_is_wanted(cell, job, group, view.now()).is_err() {
        return Ok(None);
    }
    let mut next = None;
    let mut is_down = false;
    for task in 0..row.count {
        let Some(found) = view.allocation_of(job, group, task) else { return Ok(None) };
        let machine = state(cell, found.row.machine);
        let runs = found.status.state == AllocationState::Running && found.status.ready;
        if runs && machine != Some(MachineState::Unreachable) {
            next = next.or_else(|| (machine == Some(MachineState::Draining)).then_some(found));
        } else if machine != Some(MachineState::Draining) {
            return Err(Stays::Behind { task, machine: found.row.machine });
        } else if !is_down {
            (next, is_down) = (Some(found), true);
        }
    }
    // What is in flight counts there, too; and a move is, until its outcome is heard: that says when it may be tried again, if it was refused.
    let is_alone = || view.siblings(job, group).values().sum::<u32>() == row.count;
    Ok(next.filter(|leaving| !view.may_be_stopped(leaving.id) && is_alone()))
}

#[cfg(test)]
mod tests;
