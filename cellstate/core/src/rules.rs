//! Declared rules, computed once: which classes of machines satisfy a group's constraints, and how its tasks are spread.

use std::sync::Arc;

use plenum_model::{Cell, ClassSet, Constraint, Delta, GroupCounts, Job, JobChange, JobId, JobShape, Machine};

use crate::quotas::Leaver;

/// Bitmaps of the constraints of groups, and counts of those that limit machines or spread: at most one for each group that
/// declares some. A pure function of the cell: what is not there is derived when it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// By group row: what its job's version has of constraints.
    known: Vec<Option<Box<Known>>>,
    /// By group row, where its tasks are counted.
    counts: Vec<Option<Box<Counted>>>,
    /// How many are.
    counted: usize,
    /// What the transaction that is being resolved would change, to be taken back: group row, machine, tasks.
    tried: Vec<(u32, u32, i64)>,
}

#[derive(Debug, Default)]
struct Known {
    job: JobId,
    version: u32,
    classes: Arc<ClassSet>,
}

#[derive(Debug)]
struct Counted {
    shape: Arc<JobShape>,
    group: u16,
    counts: GroupCounts,
}

impl Rules {
    /// The classes of machines that satisfy the constraints of this group, as the job's version has them.
    pub(crate) fn classes(&mut self, cell: &Cell, job: &Job, group: u16, constraints: &[Constraint]) -> &Arc<ClassSet> {
        let place = job.group_row(group).map_or(0, |row| row as usize);
        if place >= self.known.len() {
            self.known.resize_with(place + 1, || None);
        }
        let known = self.known[place].get_or_insert_default();
        if (known.job, known.version) != (job.id, job.version) {
            **known = Known { job: job.id, version: job.version, classes: Arc::default() };
        }
        if !known.classes.is_complete(cell) {
            Arc::make_mut(&mut known.classes).refresh(constraints, cell);
        }
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
        let (shape, counts) = (job.shape.clone(), GroupCounts::of(cell, job, group));
        self.counts[place] = Some(Box::new(Counted { shape, group, counts }));
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
    pub(crate) fn forget(&mut self, job: &Job) {
        for row in (job.group_base as usize..).take(job.shape.groups.len()) {
            self.known.get_mut(row).into_iter().for_each(|known| *known = None);
            let counted = self.counts.get_mut(row).and_then(Option::take);
            self.counted -= usize::from(counted.is_some());
        }
    }

    /// Whether any group is counted.
    pub(crate) fn any_counts(&self) -> bool {
        self.counted > 0
    }

    /// Notes who leaves with a delta: rows are still as they were.
    pub(crate) fn before(&mut self, delta: &Delta, leavers: &[Leaver], cell: &Cell) {
        if self.counted > 0 {
            leavers.iter().for_each(|leaver| self.bump(cell, leaver.group_row, leaver.machine, -1));
        }
        for change in &delta.jobs {
            if let JobChange::Put { job, .. } = change
                && let Some(replaced) = cell.job_in(job.id.slot)
            {
                self.forget(replaced);
            }
        }
        if self.counted > 0 && delta.machines.iter().any(|machine| values_change(cell, machine)) {
            self.counts.clear();
            self.counted = 0;
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
        if let Some(shape) = counted.shape.groups.get(usize::from(counted.group)) {
            counted.counts.add(cell, shape, machine, tasks);
        }
    }
}

/// Whether tasks on a machine count for other values from now on.
fn values_change(cell: &Cell, machine: &Machine) -> bool {
    cell.machine_in(machine.id.slot).is_some_and(|before| before.attributes != machine.attributes)
}
