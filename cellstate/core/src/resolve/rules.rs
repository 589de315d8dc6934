//! Declared rules, computed once: which classes of machines satisfy a group's constraints, and how its tasks are spread.

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_model::{
    Cell, ClassSet, Constraint, Delta, GroupCounts, Job, JobChange, JobId, JobShape, Leaver, Machine, STEPS_AHEAD,
    coming,
};

use super::class_sets::ClassSets;

/// Bitmaps of the constraints of groups, and counts of those that limit machines or spread: at most one for each group that
/// declares some. A pure function of the cell: what is not there is derived when it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// By group row, whose set its job's version has.
    known: Vec<Option<Known>>,
    pub(crate) sets: ClassSets,
    /// By group row, where its tasks are counted.
    counts: Vec<Option<Box<Counted>>>,
    /// How many are.
    counted: usize,
    /// What the transaction that is being resolved would change, to be taken back: group row, machine, tasks.
    tried: Vec<(u32, u32, i64)>,
    /// Tasks on machines that get other attributes with the delta that is being taken in: group row, machine.
    moving: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    job: JobId,
    version: u32,
    /// The number of the set of its constraints.
    set: u32,
}

#[derive(Debug)]
struct Counted {
    shape: Arc<JobShape>,
    group: u16,
    counts: GroupCounts,
}

impl Rules {
    /// The classes of machines that satisfy the constraints of this group, as the job's version has them: of those that these machines
    /// are of, and perhaps of others.
    pub(crate) fn classes(
        &mut self,
        cell: &Cell,
        job: &Job,
        (group, constraints): (u16, &[Constraint]),
        machines: impl Iterator<Item = u32>,
    ) -> &Arc<ClassSet> {
        let place = job.group_row(group).map_or(0, |row| row as usize);
        if place >= self.known.len() {
            self.known.resize(place + 1, None);
        }
        let known = self.known[place].filter(|known| (known.job, known.version) == (job.id, job.version));
        let known = known.unwrap_or_else(|| {
            self.let_go(place);
            let known = Known { job: job.id, version: job.version, set: self.sets.join(constraints) };
            *self.known[place].insert(known)
        });
        self.sets.of(known.set, cell, machines)
    }

    /// What was known of a group's constraints is of a job or a version that is gone.
    fn let_go(&mut self, place: usize) {
        if let Some(known) = self.known.get_mut(place).and_then(Option::take) {
            self.sets.leave(known.set);
        }
    }

    /// Counts a group, if it was not counted yet: a walk over its tasks, once. One whose job is over is granted nothing any more.
    pub(crate) fn count(&mut self, cell: &Cell, job: &Job, group: u16) {
        let Some(row) = job.group_row(group).filter(|_| !job.state.is_final()) else { return };
        let place = row as usize;
        if self.counts.get(place).is_some_and(Option::is_some) {
            return;
        }
        if place >= self.counts.len() {
            self.counts.resize_with(place + 1, || None);
        }
        let (shape, counts) = (job.shape.clone(), GroupCounts::of(cell, job, group));
        self.counts[place] = Some(Box::new(Counted { shape, group, counts }));
        self.counted += 1;
    }

    /// How the tasks of a group are spread, if that was counted, with what is being tried.
    pub(crate) fn counts(&self, group_row: u32) -> Option<&GroupCounts> {
        self.counts.get(group_row as usize)?.as_deref().map(|counted| &counted.counts)
    }

    /// Brings what is counted for a group on these machines into the cache, but the tasks beside them: `warm_beside` does that once this is
    /// there. Tables of all groups are larger than the cache.
    pub(crate) fn warm(&self, cell: &Cell, group_row: u32, machines: impl Iterator<Item = u32>) {
        if let Some(counts) = self.counts(group_row) {
            machines.for_each(|machine| counts.warm(cell, machine));
        }
    }

    /// See `warm`.
    pub(crate) fn warm_beside(&self, cell: &Cell, group_row: u32, machines: impl Iterator<Item = u32>) {
        if let Some(counts) = self.counts(group_row) {
            machines.for_each(|machine| counts.warm_beside(cell, machine));
        }
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

    /// The job is gone, or is over and is never granted anything again.
    pub(crate) fn forget(&mut self, job: &Job) {
        for row in (job.group_base as usize..).take(job.shape.groups.len()) {
            self.let_go(row);
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
            for (step, leaver) in leavers.iter().enumerate() {
                for next in coming(leavers, step, 2 * STEPS_AHEAD) {
                    self.warm(cell, next.group_row, std::iter::once(next.machine));
                }
                for next in coming(leavers, step, STEPS_AHEAD) {
                    self.warm_beside(cell, next.group_row, std::iter::once(next.machine));
                }
                self.bump(cell, leaver.group_row, leaver.machine, -1);
            }
        }
        for change in &delta.jobs {
            let ended = match change {
                JobChange::Put { job, .. } => cell.job_in(job.id.slot),
                JobChange::State { id, state, .. } if state.is_final() => cell.job(*id),
                _ => None,
            };
            ended.into_iter().for_each(|job| self.forget(job));
        }
    }

    /// Notes the machines that get other attributes with a delta: what runs on them, given by `active_on`, counts for other values from
    /// then on. Who leaves with the same delta has been noted.
    pub(crate) fn before_machines(&mut self, delta: &Delta, cell: &Cell, mut active_on: impl FnMut(u32) -> Vec<u32>) {
        self.moving.clear();
        if self.counted == 0 || !delta.machines.iter().any(|machine| values_change(cell, machine)) {
            return;
        }
        let ends = delta.ends.iter().map(|end| end.slot);
        let moves = delta.moves.iter().filter(|change| change.status.state.is_leaving()).map(|change| change.slot);
        let leaving: BTreeSet<u32> = ends.chain(moves).collect();
        for machine in delta.machines.iter().filter(|machine| values_change(cell, machine)) {
            let slot = machine.id.slot;
            let staying = active_on(slot).into_iter().filter(|allocation| !leaving.contains(allocation));
            let rows = staying.filter_map(|allocation| cell.allocation_rows().get(allocation));
            let counted = rows.map(|row| row.group_row).filter(|&group_row| self.counts(group_row).is_some());
            let counted: Vec<_> = counted.map(|group_row| (group_row, slot)).collect();
            self.moving.extend(counted);
        }
        self.bump_moving(cell, -1);
    }

    fn bump_moving(&mut self, cell: &Cell, tasks: i64) {
        let moving = std::mem::take(&mut self.moving);
        moving.iter().for_each(|&(group_row, machine)| self.bump(cell, group_row, machine, tasks));
        self.moving = moving;
    }

    /// Notes who comes with a delta.
    pub(crate) fn after(&mut self, delta: &Delta, cell: &Cell) {
        if self.counted == 0 {
            return;
        }
        self.bump_moving(cell, 1);
        self.moving.clear();
        for grants in &delta.grants {
            if self.counts(grants.group_row).is_some() {
                for (step, &machine) in grants.machines.iter().enumerate() {
                    let coming = |distance| coming(&grants.machines, step, distance).iter().copied();
                    self.warm(cell, grants.group_row, coming(2 * STEPS_AHEAD));
                    self.warm_beside(cell, grants.group_row, coming(STEPS_AHEAD));
                    self.bump(cell, grants.group_row, machine, 1);
                }
            }
        }
    }

    /// How many groups are counted, each of which must be counted as a walk over its tasks counts it.
    #[cfg(test)]
    pub(crate) fn check_counts(&self, cell: &Cell) -> usize {
        let rows = (0..).zip(&self.counts);
        let counted = rows.filter_map(|(row, counted)| Some((row, counted.as_deref()?)));
        for (row, Counted { shape, group, counts }) in counted {
            let job = cell.groups().get(row).and_then(|group| cell.job_in(group.job_slot)).expect("its job is there");
            let recounted = GroupCounts::of(cell, job, *group);
            let shape = &shape.groups[usize::from(*group)];
            for machine in cell.machines().map(|machine| machine.id.slot) {
                assert_eq!(counts.on_machine(machine), recounted.on_machine(machine), "tasks on machine {machine}");
                for rule in 0..shape.spread.len() {
                    let beside = |counts: &GroupCounts| counts.beside(cell, shape, machine, rule);
                    assert_eq!(beside(counts), beside(&recounted), "tasks beside machine {machine}");
                }
            }
        }
        self.counted
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
