//! What transactions were granted and refused, judged again from what was written down: without the core's tables, one claim at a time.
//!
//! It sees the cell before and after, the request and the answer, and what the books know of all earlier grants. It is slow and dumb on
//! purpose.

pub(crate) mod accepted;
mod asked;
mod bounded;
mod culprits;
pub(crate) mod dues;
mod governing;
mod happened;
mod leaving;
mod memory;
mod reasons;
mod rules;
mod standing;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use plenum_core::{CoreOptions, Decided, invariants};
use plenum_model::{
    AllocationId, AllocationRef, AllocationState, Cell, Command, Decision, Delta, Device, Grants, JobId, JobState,
    Machine, MachineState, Request, Resources, Revision, TaskState, TaskTraces, TransactionId, floor_of,
};

use self::bounded::Bounded;
use self::dues::Dues;
use self::happened::Happened;
use self::leaving::Leaving;
use self::memory::Memory;
use crate::books::{Checked, Violation, hold};

/// What is broken where anything was granted against what the cell had, or the transaction had asked.
const EVERY_GRANT_WAS_VALID: &str = "invariant_every_grant_was_valid_at_its_revision";

/// What was once granted.
#[derive(Clone, Debug)]
struct Granted {
    at: Revision,
    transaction: TransactionId,
    machine: u32,
    resources: Resources,
    devices: Vec<Device>,
    ports: Vec<u16>,
}

/// A step: what was asked, what came of it, and the cell before and after.
pub(crate) struct Step<'a> {
    pub(crate) before: &'a Cell,
    pub(crate) request: &'a Request,
    pub(crate) decided: &'a Decided,
    pub(crate) after: &'a Cell,
    pub(crate) delta: &'a Delta,
}

impl Step<'_> {
    /// The answer, where something changed.
    fn decision(&self) -> Option<&Decision> {
        let Decided::Changed { decision, .. } = self.decided else { return None };
        Some(decision)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    granted: BTreeMap<AllocationId, Granted>,
    /// Whose room was granted to whom.
    victims: BTreeMap<AllocationId, Vec<AllocationId>>,
    happened: Happened,
    memory: Memory,
    leaving: Leaving,
    dues: Dues,
    bounded: Bounded,
}

impl Judge {
    /// Of a core with these bounds.
    pub(crate) fn of(options: &CoreOptions) -> Self {
        let (memory, leaving, dues) = (Memory::of(options), Leaving::of(options), Dues::of(options));
        Self { memory, leaving, dues, bounded: Bounded::of(options), ..Self::default() }
    }

    /// All that can be said of one step.
    pub(crate) fn check(&mut self, step: &Step<'_>, snapshots: &VecDeque<Cell>) -> Checked {
        let revision = step.after.revision();
        if let Command::Commit(txn, _) = &step.request.command {
            hold(!txn.dry_run, "invariant_a_dry_run_changes_nothing", || format!("revision {revision}: {}", txn.id))?;
        }
        if let (Command::Commit(txn, _), Decided::Changed { decision: Decision::Outcome(outcome), .. }) =
            (&step.request.command, step.decided)
        {
            rules::check(step)?;
            asked::guards_hold(step, txn, outcome)?;
            told::invariant_an_outcome_tells_what_was_done(step, txn, outcome)?;
            for grants in &step.delta.grants {
                for claim in 0..grants.slots.len() {
                    invariant_every_grant_was_valid_at_its_revision(step, grants, claim)?;
                    self.sequence_is_kept(step, txn, grants, claim)?;
                    rules::invariant_no_decision_breaks_a_declared_rule(step, grants, claim)?;
                }
            }
            let base = snapshots.iter().rfind(|cell| cell.revision() == txn.base);
            for refusal in &outcome.refusals {
                self.invariant_conflicts_name_true_culprits(step, txn, outcome, refusal)?;
                self.invariant_culprits_took_what_was_short(step, txn, refusal)?;
                self.invariant_culprits_are_the_newest(step, txn, refusal)?;
                self.memory.invariant_stale_is_what_nobody_remembers(txn, refusal)?;
                reasons::invariant_what_refuses_a_claim_is_there(step, txn, outcome, refusal)?;
                if let Some(base) = base {
                    culprits::invariant_conflict_fitted_at_the_base_and_misfit_did_not(
                        base,
                        step.before,
                        txn,
                        refusal,
                    )?;
                }
            }
        }
        if let Some(Decision::Accepted { .. }) = step.decision() {
            accepted::invariant_what_is_accepted_is_done(step.before, &step.request.command, step.after)?;
        }
        governing::check(step)?;
        self.leaving.invariant_whoever_leaves_has_a_reason(step)?;
        self.dues.invariant_nothing_happens_before_its_time(step)?;
        self.bounded.invariant_nothing_comes_above_a_bound(step)?;
        // Last, so that a rule that is judged twice is judged here first.
        invariants::check_step(step.before, step.request, step.decided, step.after).map_err(|violation| Violation {
            invariant: name_of(&violation),
            facts: format!("revision {revision}, {:?}: {violation}", step.request.command),
        })?;
        self.note(step);
        Ok(())
    }

    /// The cell goes on from what it was then: what was granted later was never granted. Victims of that which still ran then run again, and whoever had their
    /// room runs beside them, unknown to the cell.
    pub(crate) fn restored(&mut self, cell: &Cell) {
        self.granted.retain(|_, granted| granted.at <= cell.revision());
        for (_, victims) in self.victims.iter_mut().filter(|(id, _)| !self.granted.contains_key(*id)) {
            victims.retain(|victim| cell.allocation(*victim).is_none());
        }
        self.happened.restored(cell.revision());
    }

    /// Those in whose room this one was granted.
    pub(crate) fn victims_of(&self, id: AllocationId) -> &[AllocationId] {
        self.victims.get(&id).map(Vec::as_slice).unwrap_or_default()
    }

    fn note(&mut self, step: &Step<'_>) {
        self.happened.note(step);
        self.memory.note(step);
        self.leaving.note(step);
        self.dues.note(step);
        for grants in &step.delta.grants {
            let resources = step.after.shapes().get(grants.shape as usize).copied().unwrap_or_default();
            let transaction = TransactionId { session: grants.session, number: grants.number.into() };
            for (claim, &machine) in grants.machines.iter().enumerate() {
                let id = AllocationId { slot: grants.slots[claim], generation: grants.generations[claim] };
                let (at, devices, ports) = (step.delta.revision, Vec::new(), Vec::new());
                self.granted.insert(id, Granted { at, transaction, machine, resources, devices, ports });
            }
            for extra in &grants.extras {
                let claim = extra.claim as usize;
                let id = AllocationId { slot: grants.slots[claim], generation: grants.generations[claim] };
                if let Some(granted) = self.granted.get_mut(&id) {
                    granted.devices.clone_from(&extra.devices);
                    granted.ports.extend(extra.ports.iter().map(|port| port.number));
                }
                if extra.takes_over.is_empty() {
                    continue;
                }
                self.victims.insert(id, extra.takes_over.iter().map(|entry| entry.victim).collect());
            }
        }
    }
}

/// Why a machine takes no claims: by its state, and by what the state is to say.
fn why_it_takes_none(cell: &Cell, slot: u32) -> Option<String> {
    let Some(machine) = cell.machine_in(slot) else { return Some("is not there".to_owned()) };
    match (machine.state, machine.cordoned, machine.drain_deadline, machine.unfit) {
        (MachineState::Ready, false, None, None) => None,
        found => Some(format!("is (state, cordoned, drained, unfit) {found:?}")),
    }
}

/// The machine took claims, the job was there in that version and belonged to that scheduler, which was not paused, the task was to be placed, nothing was left of
/// it where only one may run, nor did it run unknown to the cell, and the allocation is a new one.
fn invariant_every_grant_was_valid_at_its_revision(step: &Step<'_>, grants: &Grants, claim: usize) -> Checked {
    let name = EVERY_GRANT_WAS_VALID;
    let (before, revision) = (step.before, step.delta.revision);
    let (machine, task, slot) = (grants.machines[claim], grants.tasks[claim], grants.slots[claim]);
    let facts = |what: &str| format!("revision {revision}: task {task} of {} on {machine}: {what}", grants.job);
    let refuses = why_it_takes_none(before, machine);
    hold(refuses.is_none(), name, || facts(&format!("the machine {}", refuses.unwrap_or_default())))?;
    let Some(job) = before.job(grants.job) else { return hold(false, name, || facts("the job is not there")) };
    hold(!job.state.is_final(), name, || facts("the job is over"))?;
    hold(job.version == grants.job_version, name, || facts("the job has another version"))?;
    let owner = before.session(grants.session).map(|session| session.scheduler.clone());
    hold(owner.as_ref() == Some(&job.shape.scheduler), name, || facts(&format!("granted to {owner:?}")))?;
    hold(!before.is_paused(&job.shape.scheduler), name, || facts("its scheduler is paused"))?;
    let (Some(shape), Some(row)) = (job.shape.groups.get(usize::from(grants.group)), before.group(job, grants.group))
    else {
        return hold(false, name, || facts("the group is not there"));
    };
    hold(before.shapes().get(grants.shape as usize) == Some(&shape.resources), name, || facts("other resources"))?;
    hold(row.not_before <= step.delta.time, name, || facts("its group waits after a failure"))?;
    let done =
        |group: &u16| before.group(job, *group).is_some_and(|row| row.tasks[TaskState::Done as usize] == row.count);
    hold(shape.after.iter().all(done), name, || facts("what must be done first is not"))?;
    let standing = before.task(row, task).unwrap_or_default();
    let stopped = || {
        let slot = standing.allocation.wrapping_sub(1);
        let leaves = |state: AllocationState| state.is_leaving() || state.is_end();
        step.delta.moves.iter().any(|change| change.slot == slot && leaves(change.status.state))
    };
    let waits = task < row.count && (standing.state == TaskState::Waiting || stopped());
    hold(waits, name, || facts(&format!("the task is {standing:?} of {}", row.count)))?;
    let of_it = |found: &AllocationRef<'_>| {
        let of = (found.row.job(), found.row.group, found.row.task);
        of == (grants.job, grants.group, task) && found.id.slot != slot
    };
    let left = if shape.single_instance { step.after.allocations().find(of_it) } else { None };
    hold(left.is_none(), name, || facts(&format!("only one may run, and {:?} is left", left.map(|left| left.id))))?;
    let names = (&job.shape.namespace, &job.shape.name, &shape.name, task);
    let is_it = |traces: &TaskTraces| (&traces.namespace, &traces.job, &traces.group, traces.task) == names;
    let unknown = before.unknown_tasks().find(|(_, unknown)| shape.single_instance && is_it(&unknown.traces));
    hold(unknown.is_none(), name, || facts(&format!("only one may run, and {:?} does", unknown.map(|(id, _)| id))))?;
    let floor = floor_of(before.identity().incarnation);
    let is_unheard = |machine: &&Arc<Machine>| machine.epoch <= floor && machine.state != MachineState::Unreachable;
    let unheard = before.machines().find(|machine| shape.single_instance && is_unheard(machine));
    hold(unheard.is_none(), name, || facts(&format!("only one may run, and {unheard:?} was not heard yet")))?;
    let used = before.allocation_rows().get(slot).map_or(0, |row| row.generation);
    let fresh = before.allocation_in(slot).is_none() && grants.generations[claim] > used;
    hold(fresh, name, || facts("its allocation was there before"))?;
    let home = step.after.job(grants.job).and_then(|job| job.home);
    hold(!job.shape.same_machine || home == Some(machine), name, || facts(&format!("its job's home is {home:?}")))
}

/// The checkers that the core shares, by the names that they have there.
fn name_of(violation: &invariants::Violation) -> &'static str {
    use invariants::Violation as V;
    match violation {
        V::RoomLeaks { .. } => "invariant_used_equals_the_sum_of_live_allocations",
        V::Overcommitted { .. } => "invariant_no_grant_makes_room_negative",
        V::HeldRoomTaken { .. } => "invariant_no_grant_takes_room_that_is_held_for_others",
        V::TwoAllocations { .. } | V::TaskDisagrees { .. } => "invariant_one_allocation_per_task_is_not_leaving",
        V::Apart { .. } => "invariant_tasks_that_share_a_machine_stay_together",
        V::OtherResources { .. } => "invariant_allocations_have_what_their_groups_declare",
        V::CountersWrong { .. } => "invariant_counters_count_their_tasks",
        V::MinimumBroken { .. } => "invariant_minimums_hold",
        V::RefusedHadEffect { .. } => "invariant_refused_has_no_effect",
        V::RevisionGap { .. } => "invariant_revisions_have_no_gaps",
        V::HoldAstray { .. } => "invariant_holds_are_of_live_jobs_on_machines_that_are_there",
        V::UnknownIsKnown { .. } | V::UnknownMisnamed { .. } | V::UnheardMiscounted { .. } => {
            "invariant_unknown_tasks_are_unknown"
        }
        V::Unexpected { .. } => "invariant_what_was_expected_was_there",
        // It takes a record that can't be read, of the last task that runs of a job on its machine: too few of these for a bug to be found by them.
        V::DoneUndone { .. } => "plenum_core::invariants::invariant_reports_undo_nothing",
        // By the names of those who judge the same here, and first.
        V::QuotaExceeded { .. } => "invariant_no_grant_exceeds_a_quota",
        V::CulpritNotLater { .. } => "invariant_conflicts_name_true_culprits",
        V::CulpritsTooSmall { .. } | V::CulpritTookNothing { .. } => "invariant_culprits_took_what_was_short",
        // Rules about what few have, most of which are judged here first, each by a checker of its own: no bug can be asked for by one name.
        V::Special { .. } => "plenum_core::invariants::check_step",
    }
}

/// Jobs by the name that their owner gave them, with where they stand, also after they were retired.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endings {
    known: BTreeMap<String, Ending>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug)]
struct Ending {
    job: JobId,
    state: JobState,
    launched: bool,
}

impl Endings {
    /// Takes what a delta says of jobs.
    pub(crate) fn note(&mut self, delta: &Delta, after: &Cell) {
        for change in &delta.jobs {
            let id = match change {
                plenum_model::JobChange::Put { job, .. } => job.id,
                plenum_model::JobChange::State { id, .. } => *id,
                _ => continue,
            };
            if let Some(job) = after.job(id) {
                let ending = Ending { job: job.id, state: job.state, launched: job.shape.parent.is_some() };
                self.known.insert(job.shape.name.to_string(), ending);
            }
        }
    }

    /// Where the job of that name stands, or stood when it was retired.
    pub(crate) fn of(&self, name: &str) -> Option<JobState> {
        self.known.get(name).map(|ending| ending.state)
    }

    /// The children of recurring jobs: their names, who they are, and where they stand or stood.
    pub(crate) fn launched(&self) -> impl Iterator<Item = (&str, JobId, JobState)> {
        let launched = self.known.iter().filter(|(_, ending)| ending.launched);
        launched.map(|(name, ending)| (name.as_str(), ending.job, ending.state))
    }
}
