//! Declared rules, computed once: which classes of machines satisfy a group's constraints, and how its tasks are spread.

use std::collections::BTreeMap;

use plenum_model::{Cell, ClassSet, Constraint, Delta, GroupCounts, Job, JobChange, JobId, Machine};

use crate::quotas::leavers;

/// Bitmaps of the constraints of groups, and counts of those that limit machines or spread: at most one for each group that
/// declares some. A pure function of the cell: what is not there is derived when it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    groups: BTreeMap<(JobId, u16), Known>,
    /// By group row, where its tasks are counted.
    counts: Vec<Option<Box<Counted>>>,
    /// How many are.
    counted: usize,
    /// What the transaction that is being resolved would change, to be taken back: group row, machine, tasks.
    tried: Vec<(u32, u32, i64)>,
}

#[derive(Debug, Default)]
struct Known {
    version: u32,
    classes: ClassSet,
}

#[derive(Debug)]
struct Counted {
    job: JobId,
    group: u16,
    counts: GroupCounts,
}

impl Rules {
    /// The classes of machines that satisfy the constraints of this group, as the job's version has them.
    pub(crate) fn classes(&mut self, cell: &Cell, job: &Job, group: u16, constraints: &[Constraint]) -> &ClassSet {
        let known = self.groups.entry((job.id, group)).or_default();
        if known.version != job.version {
            *known = Known { version: job.version, classes: ClassSet::default() };
        }
        known.classes.refresh(constraints, cell);
        &known.classes
    }

    /// Counts a group, if it was not counted yet: a walk over its tasks, once. True: it was not.
    pub(crate) fn count(&mut self, cell: &Cell, job: &Job, group: u16) -> bool {
        let Some(row) = job.group_row(group) else { return false };
        let place = row as usize;
        if self.counts.get(place).is_some_and(Option::is_some) {
            return false;
        }
        if place >= self.counts.len() {
            self.counts.resize_with(place + 1, || None);
        }
        self.counts[place] = Some(Box::new(Counted { job: job.id, group, counts: GroupCounts::of(cell, job, group) }));
        self.counted += 1;
        true
    }

    /// How the tasks of a group are spread, if that was counted, with what is being tried.
    pub(crate) fn counts(&self, group_row: u32) -> Option<&GroupCounts> {
        self.counts.get(group_row as usize)?.as_deref().map(|counted| &counted.counts)
    }

    /// Tries so many tasks more on a machine, for the transaction that is being resolved.
    pub(crate) fn attempt(&mut self, cell: &Cell, group_row: u32, machine: u32, tasks: i64) {
        self.bump(cell, group_row, machine, tasks);
        self.tried.push((group_row, machine, tasks));
    }

    /// How much was tried so far.
    pub(crate) fn attempts(&self) -> usize {
        self.tried.len()
    }

    /// Takes back all but the first attempts.
    pub(crate) fn take_back(&mut self, cell: &Cell, keep: usize) {
        while self.tried.len() > keep {
            let Some((group_row, machine, tasks)) = self.tried.pop() else { return };
            self.bump(cell, group_row, machine, -tasks);
        }
    }

    /// The job is gone.
    pub(crate) fn forget(&mut self, job: JobId) {
        self.groups.retain(|(known, _), _| *known != job);
        self.clear_counts(|counted| counted.job == job);
    }

    fn clear_counts(&mut self, gone: impl Fn(&Counted) -> bool) {
        if self.counted == 0 {
            return;
        }
        for place in self.counts.iter_mut().filter(|place| place.as_ref().is_some_and(|counted| gone(counted))) {
            *place = None;
            self.counted -= 1;
        }
    }

    /// Notes who leaves with a delta: rows are still as they were.
    pub(crate) fn before(&mut self, delta: &Delta, cell: &Cell) {
        if self.counted == 0 {
            return;
        }
        for slot in leavers(delta, cell) {
            if let Some(row) = cell.allocation_rows().get(slot) {
                self.bump(cell, row.group_row, row.machine, -1);
            }
        }
        let replaced = |change: &JobChange| match change {
            JobChange::Put { job, .. } => Some(job.id),
            _ => None,
        };
        delta.jobs.iter().filter_map(replaced).for_each(|job| self.forget(job));
        if delta.machines.iter().any(|machine| values_change(cell, machine)) {
            self.clear_counts(|_| true);
        }
    }

    /// Notes who comes with a delta.
    pub(crate) fn after(&mut self, delta: &Delta, cell: &Cell) {
        if self.counted == 0 {
            return;
        }
        for grants in &delta.grants {
            if self.counts(grants.group_row).is_some() {
                grants.machines.iter().for_each(|&machine| self.bump(cell, grants.group_row, machine, 1));
            }
        }
    }

    fn bump(&mut self, cell: &Cell, group_row: u32, machine: u32, tasks: i64) {
        let Some(Some(counted)) = self.counts.get_mut(group_row as usize) else { return };
        let Some(shape) = cell.job(counted.job).and_then(|job| job.shape.groups.get(usize::from(counted.group))) else {
            return;
        };
        counted.counts.add(cell, shape, machine, tasks);
    }
}

/// Whether tasks on a machine count for other values from now on.
fn values_change(cell: &Cell, machine: &Machine) -> bool {
    cell.machine_in(machine.id.slot).is_some_and(|before| before.attributes != machine.attributes)
}
