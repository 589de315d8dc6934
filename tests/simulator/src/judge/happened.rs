//! What happened to machines and jobs at each revision, by the words in which refusals name it: taken from deltas alone, without the
//! core's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{
    AllocationState, Cell, Command, Culprit, Decision, Device, GroupRow, Guard, Hold, JobChange, JobId, Machine,
    MachineId, MachineState, NotWanted, Refusal, RefusalReason, Resource, Resources, Revision, TaskState, Transaction,
    TransactionId,
};

use super::Step;

/// Changes of groups and tasks that a core knows one by one: of what is older it tells what became of the job last.
const CHANGES_MAX: usize = 1 << 14;

/// See the module. Of a cell that was restored, what was before the backup.
#[derive(Debug, Default)]
pub(super) struct Happened {
    steps: BTreeMap<Revision, What>,
    /// When a server opened the cell last: it remembers nothing from before.
    opened: Revision,
}

/// What any change of a machine's row may be called, whatever else it is called.
const CHANGED: &str = "capacity";

/// What one step did, machines and jobs by slot.
#[derive(Debug, Default)]
struct What {
    transaction: Option<TransactionId>,
    machines: BTreeSet<(u32, &'static str)>,
    /// Machines on which more is held than before, each with the scheduler of the job; or on which a task was found that nobody knew.
    occupied: BTreeSet<(u32, Option<Arc<str>>)>,
    /// Machines that have less of some device than before, or another model of it.
    lose_devices: BTreeSet<u32>,
    /// What machines have less than before, by slot.
    shrank: BTreeMap<u32, Resources>,
    /// Machines that were removed, and jobs that were retired.
    removed: BTreeSet<MachineId>,
    retired: BTreeSet<JobId>,
    /// Attributes that changed of machines that were there.
    retagged: BTreeSet<(u32, Arc<str>)>,
    jobs: BTreeSet<(u32, &'static str)>,
    /// Groups that changed, by row: what they were, and what they became.
    groups: BTreeMap<u32, (GroupRow, GroupRow)>,
    /// Changes of groups and tasks, at most.
    changes: usize,
}

impl Happened {
    pub(super) fn note(&mut self, step: &Step<'_>) {
        if step.delta.cell.is_some() {
            self.opened = step.delta.revision;
        }
        self.steps.insert(step.delta.revision, What::of(step));
    }

    pub(super) fn restored(&mut self, revision: Revision) {
        self.steps.retain(|at, _| *at <= revision);
    }

    /// Whether what a culprit without an allocation did is in the way of that claim: it happened at its revision, to a machine that the
    /// claim could have had, or to its job, and it made that task unwanted where it is. What others spread may be anywhere, and what is
    /// guarded where the guards say.
    pub(super) fn is_true(&self, step: &Step<'_>, txn: &Transaction, refusal: &Refusal, culprit: &Culprit) -> bool {
        let Some(what) = self.steps.get(&culprit.revision) else { return false };
        let word = &*culprit.event;
        let of_job = |slot: u32| slot == refusal.job.slot;
        if culprit.transaction.is_some() {
            return culprit.transaction == what.transaction && what.jobs.iter().any(|&(slot, _)| of_job(slot));
        }
        if let Some(why) = refusal.not_wanted
            && self.knows_each_change(txn.base)
            && !what.made_unwanted(step, refusal, why, word)
        {
            return false;
        }
        let placement = refusal.claim.and_then(|(placement, _)| txn.placements.get(placement as usize));
        if refusal.reason == RefusalReason::GuardFailed {
            let guards = placement.map_or(&txn.guards, |placement| &placement.guards);
            return guards.iter().any(|guard| what.broke(guard, word));
        }
        let alternates = placement.map(|placement| placement.alternates.as_slice()).unwrap_or_default();
        let anywhere = refusal.reason == RefusalReason::SpreadLimit;
        let on_it = |slot: u32| slot == refusal.machine || alternates.contains(&slot) || anywhere;
        let is_word = |told: &str| told == word;
        what.machines.iter().any(|&(slot, told)| is_word(told) && on_it(slot))
            || what.jobs.iter().any(|&(slot, told)| is_word(told) && of_job(slot))
    }

    /// Whether a core surely knows all that changed after this base of each group and task.
    fn knows_each_change(&self, base: Revision) -> bool {
        let since = self.steps.range(base.next()..).map(|(_, what)| what.changes);
        base >= self.opened && since.sum::<usize>() < CHANGES_MAX
    }

    /// When the row of a machine changed first after a base, if it did.
    pub(super) fn machine_changed(&self, base: Revision, slot: u32) -> Option<Revision> {
        let mut since = self.steps.range(base.next()..);
        since.find(|(_, what)| what.machines.contains(&(slot, CHANGED))).map(|(at, _)| *at)
    }

    /// When room of a machine was first held for others than this scheduler after a base, or had by a task that nobody knew, if it was.
    pub(super) fn occupied_by_others(&self, base: Revision, slot: u32, scheduler: &str) -> Option<Revision> {
        let by_others = |(of, by): &(u32, Option<Arc<str>>)| *of == slot && by.as_deref() != Some(scheduler);
        let mut since = self.steps.range(base.next()..);
        since.find(|(_, what)| what.occupied.iter().any(by_others)).map(|(at, _)| *at)
    }

    /// Whether what a culprit is said to have done was done to that very machine.
    pub(super) fn was_to_machine(&self, culprit: &Culprit, slot: u32) -> bool {
        let what = self.steps.get(&culprit.revision);
        what.is_some_and(|what| what.machines.iter().any(|&(of, word)| of == slot && *word == *culprit.event))
    }

    /// How much less of a resource a machine had after that revision than before.
    pub(super) fn shrank(&self, at: Revision, slot: u32, resource: Resource) -> u64 {
        let less = self.steps.get(&at).and_then(|what| what.shrank.get(&slot));
        less.map_or(0, |less| less.get(resource))
    }

    /// Whether a machine had less of some device after that revision than before.
    pub(super) fn took_devices_off(&self, at: Revision, slot: u32) -> bool {
        self.steps.get(&at).is_some_and(|what| what.lose_devices.contains(&slot))
    }
}

impl What {
    fn of(step: &Step<'_>) -> Self {
        let transaction = match (&step.request.command, step.decision()) {
            (Command::Commit(txn, _), Some(Decision::Outcome(_))) => Some(txn.id),
            _ => None,
        };
        let mut what = Self { transaction, ..Self::default() };
        for machine in &step.delta.machines {
            let slot = machine.id.slot;
            let before = step.before.machine_in(slot);
            what.machines.extend(words(before, machine).map(|word| (slot, word)));
            if before.is_some_and(|before| before.devices.iter().any(|device| !has(machine, device))) {
                what.lose_devices.insert(slot);
            }
            if let Some(before) = before {
                what.shrank.insert(slot, before.capacity.without(&machine.capacity));
            }
            what.removed.extend((machine.state == MachineState::Gone).then_some(machine.id));
            if let Some(before) = before {
                let names = before.attributes.keys().chain(machine.attributes.keys());
                let changed = names.filter(|name| before.attributes.get(*name) != machine.attributes.get(*name));
                what.retagged.extend(changed.map(|name| (slot, name.clone())));
            }
        }
        for (job, hold) in &step.delta.holds {
            let scheduler = step.before.job(*job).map(|job| job.shape.scheduler.clone());
            let differences = Hold::differences(step.before.hold(*job), hold.as_ref());
            let grown = differences.filter(|(_, was, is)| !is.without(was).is_nothing());
            what.occupied.extend(grown.map(|(slot, ..)| (slot, scheduler.clone())));
            let holds = step.before.hold(*job).into_iter().chain(hold);
            what.machines.extend(holds.flat_map(|hold| &hold.machines).map(|&slot| (slot, "hold")));
        }
        for (id, task) in &step.delta.unknown {
            let word = if task.is_some() { "unknown task" } else { "unknown task ended" };
            what.machines.insert((id.machine, word));
            let found = task.as_ref().filter(|_| step.before.unknown_task(*id).is_none());
            let occupies = found.is_some_and(|task| !task.traces.resources.is_nothing());
            what.occupied.extend(occupies.then_some((id.machine, None)));
        }
        what.jobs = of_jobs(step);
        let delta = step.delta;
        what.retired.extend(delta.jobs.iter().filter_map(|change| match change {
            JobChange::Removed(id) => Some(*id),
            _ => None,
        }));
        let groups = delta.jobs.iter().filter_map(|change| match change {
            JobChange::Group { row, .. } => Some(*row),
            _ => None,
        });
        for row in groups.chain(delta.tasks.iter().map(|change| change.group_row)) {
            if let (Some(before), Some(after)) = (step.before.groups().get(row), step.after.groups().get(row)) {
                what.groups.insert(row, (*before, *after));
            }
        }
        what.changes = 3 * delta.jobs.len() + 2 * delta.tasks.len() + delta.moves.len();
        what
    }

    /// Whether it can have made a guard fail: that very attribute changed, the machine came or went, or the job. Who has the slot of one that is gone did
    /// nothing to it.
    fn broke(&self, guard: &Guard, word: &str) -> bool {
        match (guard, word) {
            (Guard::JobVersion { job, .. }, "submitted") => self.jobs.contains(&(job.slot, "submitted")),
            (Guard::JobVersion { job, .. }, "retired") => self.retired.contains(job),
            (Guard::Attribute { machine, attribute, .. }, "attributes") => {
                self.retagged.contains(&(machine.slot, attribute.clone()))
            }
            (Guard::Attribute { machine, .. }, "registered") => self.machines.contains(&(machine.slot, "registered")),
            (Guard::Attribute { machine, .. }, "removed") => self.removed.contains(machine),
            _ => false,
        }
    }

    /// Whether it took the task of a refusal away, sent its group to sleep that would be awake now, or undid what comes before it, whichever
    /// the refusal says; or the whole job is younger. Other causes are told by their words alone.
    fn made_unwanted(&self, step: &Step<'_>, refusal: &Refusal, why: NotWanted, word: &str) -> bool {
        let (job, now, task) = (step.before.job(refusal.job), step.delta.time, refusal.task);
        let became = |group: u16, holds: &dyn Fn(&GroupRow, &GroupRow) -> bool| {
            let changed = job.and_then(|job| self.groups.get(&job.group_row(group)?));
            changed.is_some_and(|(before, after)| holds(before, after))
        };
        match (why, word) {
            (NotWanted::NoSuchTask, "group") => {
                became(refusal.group, &|before, after| before.count > task && task >= after.count)
            }
            (NotWanted::Backoff(_), "backoff") => {
                became(refusal.group, &|before, after| before.not_before <= now && now < after.not_before)
            }
            (NotWanted::After(group), "undone") => became(group, &|before, after| is_done(before) && !is_done(after)),
            (NotWanted::NoSuchTask | NotWanted::Backoff(_) | NotWanted::After(_), word) => word == "submitted",
            _ => true,
        }
    }
}

/// Whether a machine has as much of a device as this, of the same model.
fn has(machine: &Machine, device: &Device) -> bool {
    let mut same = machine.devices.iter().filter(|other| (&other.kind, other.index) == (&device.kind, device.index));
    same.any(|found| found.model == device.model && found.millis >= device.millis)
}

/// All that a change of a machine may be called.
fn words(before: Option<&Arc<Machine>>, machine: &Machine) -> impl Iterator<Item = &'static str> {
    let differs = |differs: fn(&Machine, &Machine) -> bool| before.is_none_or(|before| differs(before, machine));
    let begins = differs(|before, machine| before.epoch != machine.epoch);
    let turns = differs(|before, machine| before.state != machine.state);
    let is = |state: MachineState| turns && machine.state == state;
    let all = [
        ("registered", begins),
        ("epoch", begins),
        (CHANGED, true),
        ("attributes", differs(|before, machine| before.attributes != machine.attributes)),
        ("ready", is(MachineState::Ready)),
        ("cordoned", is(MachineState::Cordoned)),
        ("draining", is(MachineState::Draining)),
        ("expired", is(MachineState::Unreachable)),
        ("removed", is(MachineState::Gone)),
    ];
    all.into_iter().filter_map(|(word, holds)| holds.then_some(word))
}

fn of_jobs(step: &Step<'_>) -> BTreeSet<(u32, &'static str)> {
    let mut jobs = BTreeSet::new();
    let slots = |row: u32| {
        let of = |cell: &Cell| cell.groups().get(row).map(|group| group.job_slot);
        [of(step.before), of(step.after)].into_iter().flatten()
    };
    for change in &step.delta.jobs {
        match change {
            JobChange::Put { job, .. } => jobs.extend([(job.id.slot, "submitted")]),
            JobChange::State { id, state, .. } if state.is_final() => jobs.extend([(id.slot, "over")]),
            JobChange::State { .. } | JobChange::Launched { .. } => {}
            JobChange::Group { row, .. } => jobs.extend(of_group(step, *row)),
            JobChange::Removed(id) => jobs.extend([(id.slot, "retired")]),
            JobChange::Home { id, .. } => jobs.extend([(id.slot, "home")]),
        }
    }
    for change in &step.delta.tasks {
        jobs.extend(slots(change.group_row).map(|slot| (slot, "task")));
        jobs.extend(of_group(step, change.group_row));
    }
    for traces in step.delta.unknown.iter().filter_map(|(_, task)| Some(&task.as_ref()?.traces)) {
        let job = step.before.job_named(&traces.namespace, &traces.job);
        jobs.extend(job.map(|job| (job.id.slot, "unknown task")));
    }
    let leaves = |state: AllocationState| state.is_leaving();
    for change in step.delta.moves.iter().filter(|change| leaves(change.status.state)) {
        jobs.extend(step.before.allocation_in(change.slot).map(|found| (found.row.job_slot, "leaving")));
    }
    jobs
}

/// All that a change of a group may be called.
fn of_group(step: &Step<'_>, row: u32) -> Vec<(u32, &'static str)> {
    let (before, after) = (step.before.groups().get(row), step.after.groups().get(row));
    let (Some(before), Some(after)) = (before, after) else { return Vec::new() };
    let all = [
        ("group", before.count != after.count),
        ("backoff", before.not_before != after.not_before),
        ("undone", is_done(before) && !is_done(after)),
    ];
    all.into_iter().filter(|(_, holds)| *holds).map(|(word, _)| (after.job_slot, word)).collect()
}

const fn is_done(group: &GroupRow) -> bool {
    group.tasks_in(TaskState::Done) == group.count
}
