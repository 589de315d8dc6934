//! Declared rules, computed once: which classes of machines satisfy a group's constraints, and how its tasks are spread.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{Cell, ClassSet, Constraint, Delta, GroupCounts, Job, JobChange, JobId, Machine};

/// Bitmaps of the constraints of groups, and counts of those that limit machines or spread: at most one for each group that
/// declares some. A pure function of the cell: what is not there is derived when it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    groups: BTreeMap<(JobId, u16), Known>,
    /// By group row.
    counts: BTreeMap<u32, Counted>,
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

    /// Counts a group, if it was not counted yet: a walk over its tasks, once.
    pub(crate) fn count(&mut self, cell: &Cell, job: &Job, group: u16) {
        let Some(row) = job.group_row(group) else { return };
        let fresh = || Counted { job: job.id, group, counts: GroupCounts::of(cell, job, group) };
        self.counts.entry(row).or_insert_with(fresh);
    }

    /// How the tasks of a group are spread, if that was counted.
    pub(crate) fn counts(&self, group_row: u32) -> Option<&GroupCounts> {
        self.counts.get(&group_row).map(|counted| &counted.counts)
    }

    /// Whether any group's tasks are counted.
    pub(crate) fn counts_any(&self) -> bool {
        !self.counts.is_empty()
    }

    /// The job is gone.
    pub(crate) fn forget(&mut self, job: JobId) {
        self.groups.retain(|(known, _), _| *known != job);
        self.counts.retain(|_, counted| counted.job != job);
    }

    /// Notes who leaves with a delta: rows are still as they were.
    pub(crate) fn before(&mut self, delta: &Delta, cell: &Cell) {
        if self.counts.is_empty() {
            return;
        }
        let left = delta.moves.iter().filter(|change| change.status.state.is_leaving()).map(|change| change.slot);
        // One that leaves and ends in the same delta leaves once.
        let gone: BTreeSet<u32> = left.chain(delta.ends.iter().map(|end| end.slot)).collect();
        for slot in gone {
            let active = cell.allocation_in(slot).filter(|found| found.status.state.is_active());
            if let Some(found) = active {
                self.bump(cell, found.row.group_row, found.row.machine, -1);
            }
        }
        let replaced = |change: &JobChange| match change {
            JobChange::Put { job, .. } => Some(job.id),
            _ => None,
        };
        delta.jobs.iter().filter_map(replaced).for_each(|job| self.forget(job));
        if delta.machines.iter().any(|machine| values_change(cell, machine)) {
            self.counts.clear();
        }
    }

    /// Notes who comes with a delta.
    pub(crate) fn after(&mut self, delta: &Delta, cell: &Cell) {
        if self.counts.is_empty() {
            return;
        }
        for grants in &delta.grants {
            grants.machines.iter().for_each(|&machine| self.bump(cell, grants.group_row, machine, 1));
        }
    }

    fn bump(&mut self, cell: &Cell, group_row: u32, machine: u32, tasks: i64) {
        let Some(counted) = self.counts.get_mut(&group_row) else { return };
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
