//! What each revision did to machines and jobs, by the words in which a refusal may name it.
//!
//! One change may be called by several of them: which of these a cell prefers is not known here.

use std::collections::{BTreeMap, BTreeSet};

use plenum_proto::v1::{self, MachineState, job_change::Change};

use crate::amounts::Amounts;
use crate::picture::{DONE, Group, Picture, is_over, slot_of};

/// Words of events by which a machine only gives something back.
const GIVES_BACK: &str = "unknown task ended";

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// By the machine's slot and the revision.
    machines: BTreeMap<(u32, u64), BTreeSet<&'static str>>,
    /// The same of all machines together, by revision.
    any_machine: BTreeMap<u64, BTreeSet<&'static str>>,
    /// By job and revision.
    jobs: BTreeMap<(u64, u64), BTreeSet<&'static str>>,
    /// By the machine's slot and the revision: of which schedulers jobs held more there than before.
    held_more: BTreeMap<(u32, u64), BTreeSet<String>>,
}

impl Words {
    /// What happened to a machine at a revision.
    pub fn of_machine(&self, slot: u32, revision: u64) -> impl Iterator<Item = &'static str> {
        self.machines.get(&(slot, revision)).into_iter().flatten().copied()
    }

    /// What happened to any machine at a revision.
    pub fn of_any_machine(&self, revision: u64) -> impl Iterator<Item = &'static str> {
        self.any_machine.get(&revision).into_iter().flatten().copied()
    }

    /// What happened to a job at a revision.
    pub fn of_job(&self, job: u64, revision: u64) -> impl Iterator<Item = &'static str> {
        self.jobs.get(&(job, revision)).into_iter().flatten().copied()
    }

    /// The first thing that was changed of a machine or held there after one revision and before another, but for what jobs of this scheduler hold. What
    /// only gives room back does not count.
    pub(crate) fn changed(&self, slot: u32, after: u64, before: u64, scheduler: &str) -> Option<(u64, &'static str)> {
        let since = (slot, after + 1)..(slot, before);
        if since.is_empty() {
            return None;
        }
        let of_others =
            |at: u64| self.held_more.get(&(slot, at)).is_some_and(|held| held.iter().any(|it| it != scheduler));
        let counts = |at: u64, word: &str| word != GIVES_BACK && (word != "hold" || of_others(at));
        let all = self.machines.range(since).flat_map(|((_, at), words)| words.iter().map(move |word| (*at, *word)));
        all.into_iter().find(|(at, word)| counts(*at, word))
    }

    /// Notes what a delta does to the picture before it.
    pub(crate) fn note(&mut self, before: &Picture, delta: &v1::Delta) {
        let at = delta.revision;
        for row in &delta.machines {
            for word in words_of_row(before.machines.get(&slot_of(row.id)), row) {
                self.note_machine(slot_of(row.id), at, word);
            }
        }
        for row in &delta.holds {
            self.note_hold(before, row, at);
        }
        for row in &delta.unknown_tasks {
            let known = before.unknown_tasks.get(&(slot_of(row.machine), row.allocation));
            let (word, traces) = match (known, row.removed) {
                (None, false) => ("unknown task", row.task.as_ref()),
                (Some(ended), true) => (GIVES_BACK, ended.task.as_ref()),
                // Adopted, or told to stop: it has what it had.
                (Some(_), false) | (None, true) => continue,
            };
            if traces.is_some_and(occupies) {
                self.note_machine(slot_of(row.machine), at, word);
            }
        }
        self.note_jobs(before, delta);
    }

    fn note_machine(&mut self, slot: u32, at: u64, word: &'static str) {
        self.machines.entry((slot, at)).or_default().insert(word);
        self.any_machine.entry(at).or_default().insert(word);
    }

    fn note_hold(&mut self, before: &Picture, row: &v1::HoldChange, at: u64) {
        let had = before.holds.get(&row.job);
        let on = |hold: Option<&v1::HoldChange>, slot: u32| {
            let hold = hold.filter(|hold| hold.machines.contains(&slot));
            Amounts::of_optional(hold.and_then(|hold| hold.resources.as_ref()))
        };
        let has = Some(row).filter(|row| !row.removed);
        let slots: BTreeSet<u32> =
            [had, has].into_iter().flatten().flat_map(|hold| hold.machines.iter().copied()).collect();
        let shape = before.jobs.get(&row.job).and_then(|job| job.shape.as_ref());
        let scheduler = shape.map(|shape| shape.scheduler.clone()).unwrap_or_default();
        for slot in slots {
            let (was, is) = (on(had, slot), on(has, slot));
            if was != is {
                self.note_machine(slot, at, "hold");
            }
            if !is.fits_in(&was) {
                self.held_more.entry((slot, at)).or_default().insert(scheduler.clone());
            }
        }
    }

    fn note_jobs(&mut self, before: &Picture, delta: &v1::Delta) {
        let at = delta.revision;
        let mut note = |job: u64, word: &'static str| {
            self.jobs.entry((job, at)).or_default().insert(word);
        };
        for change in &delta.jobs {
            match &change.change {
                Some(Change::Put(put)) => note(put.id, "submitted"),
                Some(Change::State(change)) if is_over(change.state()) => note(change.id, "over"),
                Some(Change::Removed(job)) => note(*job, "retired"),
                Some(Change::Home(home)) => note(home.id, "home"),
                Some(Change::Group(change)) => {
                    let Some(job) = before.job_of_row(change.group) else { continue };
                    let group = before.groups.get(&change.group).cloned().unwrap_or_default();
                    if change.count != group.count {
                        note(job, "group");
                    }
                    if change.not_before_micros != group.not_before_micros {
                        note(job, "backoff");
                    }
                    if change.count > group.count && is_done(before, &group) {
                        note(job, "undone");
                    }
                }
                Some(Change::State(_) | Change::Launched(_)) | None => {}
            }
        }
        for changes in &delta.tasks {
            let Some(job) = before.job_of_row(changes.group_row) else { continue };
            note(job, "task");
            let group = before.groups.get(&changes.group_row).cloned().unwrap_or_default();
            if changes.states.iter().any(|state| *state != DONE) && is_done(before, &group) {
                note(job, "undone");
            }
        }
        for row in delta.unknown_tasks.iter().filter(|row| !row.removed) {
            let is_known = before.unknown_tasks.contains_key(&(slot_of(row.machine), row.allocation));
            if let Some(job) = row.task.as_ref().filter(|_| !is_known).and_then(|task| before.job_of_traces(task)) {
                note(job, "unknown task");
            }
        }
        let moves = delta.moves.iter().flat_map(|moves| moves.slots.iter().zip(&moves.states));
        for (slot, &state) in moves {
            let leaves = crate::fold::state(state).is_ok_and(crate::picture::is_leaving);
            if let Some(found) = before.allocations.get(slot).filter(|found| leaves && !found.is_leaving()) {
                note(found.job, "leaving");
            }
        }
    }
}

/// All that a change of a machine may be called.
fn words_of_row(before: Option<&v1::MachineChange>, row: &v1::MachineChange) -> BTreeSet<&'static str> {
    let Some(before) = before else { return ["registered", "epoch"].into() };
    if row.state() == MachineState::Gone {
        return ["removed"].into();
    }
    let turns = match row.state() {
        MachineState::Cordoned => "cordoned",
        MachineState::Draining => "draining",
        MachineState::Unreachable => "expired",
        MachineState::Ready | MachineState::Gone | MachineState::Unspecified => "ready",
    };
    let all = [
        ("epoch", before.epoch != row.epoch),
        (turns, before.state != row.state),
        ("attributes", before.attributes != row.attributes),
    ];
    let words: BTreeSet<_> = all.into_iter().filter(|(_, is_so)| *is_so).map(|(word, _)| word).collect();
    // What has no word of its own.
    if words.is_empty() { ["capacity"].into() } else { words }
}

/// Whether a task that nobody knows takes anything.
fn occupies(traces: &v1::TaskTraces) -> bool {
    let room = Amounts::of_optional(traces.resources.as_ref());
    room != Amounts::default() || !traces.devices.is_empty() || !traces.ports.is_empty()
}

fn is_done(picture: &Picture, group: &Group) -> bool {
    let state = |task: u32| picture.tasks.get(&(group.task_base + task)).map_or(0, |task| task.state);
    (0..group.count).all(|task| state(task) == DONE)
}
