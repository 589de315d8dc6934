//! What namespaces use of their quotas, kept as deltas come: for the core, which grants within them, and for mirrors, which plan within them.
//!
//! Nothing is counted for a namespace without a quota.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::{AllocationRow, Cell, Delta, JobChange, Sum};

/// What the namespaces that have a quota use: allocations that are neither leaving nor lost, and holds.
///
/// Invariant: a pure function of the cell; `recount` makes it from scratch.
#[derive(Clone, Debug, Default)]
pub struct QuotaUse {
    /// Namespaces with a quota, by name: their places in `sums`.
    places: BTreeMap<Arc<str>, u32>,
    sums: Vec<Sum>,
    /// Places whose namespaces have no quota any more.
    free: Vec<u32>,
    /// By slot of the job, the place of its namespace + 1; 0: it has no quota. So what leaves is counted without looking for a name.
    of_jobs: Vec<u32>,
}

impl PartialEq for QuotaUse {
    fn eq(&self, other: &Self) -> bool {
        let used = |of: &Self| -> Vec<(Arc<str>, Sum)> {
            of.places.iter().map(|(name, &place)| (name.clone(), of.sums[place as usize])).collect()
        };
        let has_quota = |of: &Self| -> Vec<u32> {
            (0..).zip(&of.of_jobs).filter(|(_, place)| **place > 0).map(|(slot, _)| slot).collect()
        };
        used(self) == used(other) && has_quota(self) == has_quota(other)
    }
}

impl QuotaUse {
    /// From scratch: a walk over all jobs, and the tasks of those whose namespaces have a quota; over none when no namespace has one.
    #[must_use]
    pub fn recount(cell: &Cell) -> Self {
        let mut used = Self::default();
        used.count(cell, cell.quotas().map(|(namespace, _)| namespace.clone()));
        used
    }

    /// Begins to count namespaces.
    fn count(&mut self, cell: &Cell, namespaces: impl Iterator<Item = Arc<str>>) {
        let mut new = BTreeSet::new();
        for namespace in namespaces {
            let place = self.free.pop().unwrap_or_else(|| {
                self.sums.push(Sum::default());
                u32::try_from(self.sums.len() - 1).expect("bounded by quotas_max")
            });
            self.places.insert(namespace, place);
            new.insert(place);
        }
        if new.is_empty() {
            return;
        }
        for job in cell.jobs() {
            let Some(&place) = self.places.get(&job.shape.namespace) else { continue };
            if new.contains(&place) {
                self.put_job(job.id.slot, place + 1);
                self.sums[place as usize].join(&cell.use_of(job));
            }
        }
    }

    /// Ends to count a namespace.
    fn forget(&mut self, namespace: &str) {
        let Some(place) = self.places.remove(namespace) else { return };
        self.sums[place as usize] = Sum::default();
        self.free.push(place);
        self.of_jobs.iter_mut().filter(|of_job| **of_job == place + 1).for_each(|of_job| *of_job = 0);
    }

    fn put_job(&mut self, slot: u32, place: u32) {
        if place > 0 && slot as usize >= self.of_jobs.len() {
            self.of_jobs.resize(slot as usize + 1, 0);
        }
        self.of_jobs.get_mut(slot as usize).into_iter().for_each(|of_job| *of_job = place);
    }

    /// Whether any namespace has a quota.
    #[must_use]
    #[inline]
    pub fn any(&self) -> bool {
        !self.places.is_empty()
    }

    /// The place of the namespace of a job; `None` for one without a quota.
    #[must_use]
    #[inline]
    pub fn place_of(&self, job_slot: u32) -> Option<u32> {
        self.of_jobs.get(job_slot as usize).and_then(|place| place.checked_sub(1))
    }

    /// What the namespace at a place uses; nothing where there is none.
    #[must_use]
    #[inline]
    pub fn sum_at(&self, place: u32) -> Sum {
        self.sums.get(place as usize).copied().unwrap_or_default()
    }

    /// What a namespace uses; nothing for one without a quota.
    #[must_use]
    pub fn used(&self, namespace: &str) -> Sum {
        self.places.get(namespace).map(|&place| self.sum_at(place)).unwrap_or_default()
    }

    /// Notes what a delta is about to take away: rows are still as they were. `leavers` are those of [`collect_leavers`]; none are needed while no
    /// namespace has a quota.
    pub fn before(&mut self, delta: &Delta, leavers: &[Leaver], cell: &Cell) {
        if !self.any() {
            return;
        }
        let mut alike = AlikeAmounts::default();
        for leaver in leavers {
            if let Some(place) = self.place_of(leaver.job_slot)
                && let Some(whole) = alike.add(place, leaver.shape)
            {
                self.take(whole, cell);
            }
        }
        self.take(alike, cell);
        for (job, _) in &delta.holds {
            if let (Some(hold), Some(place)) = (cell.hold(*job), self.place_of(job.slot)) {
                self.sums[place as usize].take(&hold.resources, hold.machines.len());
            }
        }
    }

    fn take(&mut self, alike: AlikeAmounts, cell: &Cell) {
        if let (Some(sum), Some(shape)) =
            (self.sums.get_mut(alike.place as usize), cell.shapes().get(alike.shape as usize))
        {
            sum.take(shape, usize::try_from(alike.times).expect("none was counted off"));
        }
    }

    /// Notes what a delta has brought, once it is folded. A namespace that is given a quota costs a walk over all jobs, and over its own jobs' tasks.
    pub fn after(&mut self, delta: &Delta, cell: &Cell) {
        if self.any() {
            self.note_jobs(delta);
            for grants in &delta.grants {
                let shape = cell.shapes().get(grants.shape as usize).copied().unwrap_or_default();
                if let Some(place) = self.place_of(grants.job.slot) {
                    self.sums[place as usize].add(&shape, grants.slots.len());
                }
            }
            for (job, hold) in &delta.holds {
                if let (Some(hold), Some(place)) = (hold, self.place_of(job.slot)) {
                    self.sums[place as usize].add(&hold.resources, hold.machines.len());
                }
            }
        }
        let mut new = BTreeSet::new();
        for (namespace, quota) in &delta.quotas {
            if quota.is_none() {
                self.forget(namespace);
            } else if !self.places.contains_key(namespace) {
                new.insert(namespace.clone());
            }
        }
        self.count(cell, new.into_iter());
    }

    fn note_jobs(&mut self, delta: &Delta) {
        for change in &delta.jobs {
            match change {
                JobChange::Put { job, .. } => {
                    let place = self.places.get(&job.shape.namespace).map_or(0, |place| place + 1);
                    self.put_job(job.id.slot, place);
                }
                JobChange::Removed(id) => self.put_job(id.slot, 0),
                _ => {}
            }
        }
    }
}

/// Amounts of one namespace and shape, gathered while one after the other is: most cells have few of both, and a sum in 128 bits is dear.
#[derive(Clone, Copy, Debug, Default)]
pub struct AlikeAmounts {
    /// Of the namespace, in [`QuotaUse`].
    pub place: u32,
    /// The number of the resources.
    pub shape: u32,
    /// How many times.
    pub times: i64,
}

impl AlikeAmounts {
    /// Gathers one more. What is whole, because another one follows, is given back: to be summed.
    #[inline]
    pub fn add(&mut self, place: u32, shape: u32) -> Option<Self> {
        if (self.place, self.shape) == (place, shape) {
            self.times += 1;
            return None;
        }
        let whole = std::mem::replace(self, Self { place, shape, times: 1 });
        (whole.times != 0).then_some(whole)
    }
}

/// An allocation that is active, and leaves or ends with a delta: what is counted of it.
#[derive(Clone, Copy, Debug)]
pub struct Leaver {
    /// The slot of its job.
    pub job_slot: u32,
    /// The row of its group.
    pub group_row: u32,
    /// The slot of its machine.
    pub machine: u32,
    /// The number of its resources.
    pub shape: u32,
}

/// Collects the allocations that are active and leave or end with a delta, each once. The cell is still as it was.
pub fn collect_leavers(delta: &Delta, cell: &Cell, leavers: &mut Vec<Leaver>) {
    let mut add = |slot: u32| {
        if let Some(row) = cell.allocation_rows().get(slot) {
            let AllocationRow { job_slot, group_row, machine, shape, .. } = *row;
            leavers.push(Leaver { job_slot, group_row, machine, shape });
        }
    };
    let active = |slot: &u32| cell.is_active(*slot);
    let moves = delta.moves.iter().filter(|change| change.status.state.is_leaving()).map(|change| change.slot);
    moves.clone().filter(active).for_each(&mut add);
    // Hardly ever does one delta make somebody leave and end, or end without having left.
    let mut ends = delta.ends.iter().map(|end| end.slot).filter(active).peekable();
    if ends.peek().is_some() {
        let both: BTreeSet<u32> = moves.collect();
        ends.filter(|slot| !both.contains(slot)).for_each(add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gathered_is_all_that_was_given_whatever_its_order() {
        let given = [(0, 0), (0, 0), (1, 0), (1, 2), (1, 2), (0, 0)];
        let (mut alike, mut sums) = (AlikeAmounts::default(), BTreeMap::<(u32, u32), i64>::new());
        let mut sum = |whole: AlikeAmounts| *sums.entry((whole.place, whole.shape)).or_default() += whole.times;
        given.iter().filter_map(|&(place, shape)| alike.add(place, shape)).for_each(&mut sum);
        sum(alike);
        assert_eq!(sums, BTreeMap::from([((0, 0), 3), ((1, 0), 1), ((1, 2), 2)]));
    }
}
