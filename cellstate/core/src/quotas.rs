//! Quotas: what namespaces may have at most, and what those that have one use of it.
//!
//! Nothing is counted for a namespace without a quota.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{
    AllocationRow, Cell, Delta, GivenBack, Job, JobChange, LogTime, Quota, Rejection, RejectionCode, Resources,
    Shortage, Sum,
};

use crate::{Core, Handled, Verdict, accepted};

/// What the namespaces that have a quota use: allocations that are neither leaving nor lost, and holds.
///
/// Invariant: a pure function of the cell; `recount` makes it from scratch.
#[derive(Debug, Default)]
pub(crate) struct QuotaUse {
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

/// A limit, with what is used of it: the one rule for claims and holds.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// The place of the namespace.
    pub(crate) place: u32,
    quota: Quota,
    used: Sum,
}

impl Budget {
    /// What is short for `more`, once so much was given back.
    pub(crate) fn shortage(&self, given: &GivenBack, more: &Resources) -> Option<Shortage> {
        self.quota.shortage(&self.used.after_giving(given), more)
    }

    /// How many times `more` may be had, once so much was given back: not once exactly when something is short.
    pub(crate) fn headroom(&self, given: &GivenBack, more: &Resources) -> u64 {
        self.quota.headroom(&self.used.after_giving(given), more)
    }
}

impl QuotaUse {
    /// A walk over all jobs; over none when no namespace has a quota.
    pub(crate) fn recount(cell: &Cell) -> Self {
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
        if slot as usize >= self.of_jobs.len() {
            self.of_jobs.resize(slot as usize + 1, 0);
        }
        self.of_jobs[slot as usize] = place;
    }

    /// Whether any namespace has a quota.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        !self.places.is_empty()
    }

    /// The place of the namespace of a job; `None` for one without a quota.
    #[inline]
    pub(crate) fn place_of(&self, job_slot: u32) -> Option<u32> {
        self.of_jobs.get(job_slot as usize).and_then(|place| place.checked_sub(1))
    }

    /// What a namespace uses; nothing for one without a quota.
    #[cfg(test)]
    pub(crate) fn used(&self, namespace: &str) -> plenum_model::Resources {
        self.places.get(namespace).map(|&place| self.sums[place as usize].total()).unwrap_or_default()
    }

    /// What the namespace of a job may still have; `None` where that is not limited. The job's own hold is free room for it, and not
    /// counted, unless it was counted off already.
    pub(crate) fn budget(&self, cell: &Cell, job: &Job, hold_is_over: bool) -> Option<Budget> {
        let place = self.place_of(job.id.slot)?;
        let (quota, used) = (*cell.quota(&job.shape.namespace)?, self.sums[place as usize]);
        let used = if hold_is_over { used } else { cell.used_beside(job.id, used) };
        Some(Budget { place, quota, used })
    }

    /// Notes what a delta is about to take away: rows are still as they were.
    pub(crate) fn before(&mut self, delta: &Delta, leavers: &[Leaver], cell: &Cell) {
        if !self.any() {
            return;
        }
        let mut alike = Alike::default();
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

    fn take(&mut self, alike: Alike, cell: &Cell) {
        if let (Some(sum), Some(shape)) =
            (self.sums.get_mut(alike.place as usize), cell.shapes().get(alike.shape as usize))
        {
            sum.take(shape, usize::try_from(alike.times).expect("none was counted off"));
        }
    }

    /// Notes what a delta has brought.
    pub(crate) fn after(&mut self, delta: &Delta, cell: &Cell) {
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
pub(crate) struct Alike {
    /// Of the namespace, in `QuotaUse`.
    pub(crate) place: u32,
    pub(crate) shape: u32,
    pub(crate) times: i64,
}

impl Alike {
    /// Gathers one more. What is whole, because another one follows, is given back: to be summed.
    #[inline]
    pub(crate) fn add(&mut self, place: u32, shape: u32) -> Option<Self> {
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
pub(crate) struct Leaver {
    pub(crate) job_slot: u32,
    pub(crate) group_row: u32,
    pub(crate) machine: u32,
    pub(crate) shape: u32,
}

/// Collects the allocations that are active and leave or end with a delta, each once. The cell is still as it was.
pub(crate) fn collect_leavers(delta: &Delta, cell: &Cell, leavers: &mut Vec<Leaver>) {
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

impl Core {
    /// Sets or removes a limit. It counts for what is claimed from now on: what is above a lowered one stays.
    pub(crate) fn set_quota(&mut self, namespace: &Arc<str>, limit: Option<Quota>, now: LogTime) -> Handled {
        let before = self.cell.quota(namespace).copied();
        if limit.is_none() && before.is_none() {
            let message = format!("the namespace {namespace} has no quota; there is nothing to remove");
            return Err(Rejection::new(RejectionCode::NoSuchQuota, message));
        }
        if limit == before {
            return Ok(Verdict::Answer(accepted(0, 0)));
        }
        let most = self.options.quotas_max;
        if before.is_none() && self.cell.quotas().count() >= most {
            let message = format!("at most {most} namespaces with a quota; remove some");
            return Err(Rejection::new(RejectionCode::LimitReached, message));
        }
        let mut delta = self.draft(now);
        delta.quotas.push((namespace.clone(), limit));
        Ok(Verdict::Change(accepted(0, 0), delta))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gathered_is_all_that_was_given_whatever_its_order() {
        let given = [(0, 0), (0, 0), (1, 0), (1, 2), (1, 2), (0, 0)];
        let (mut alike, mut sums) = (Alike::default(), BTreeMap::<(u32, u32), i64>::new());
        let mut sum = |whole: Alike| *sums.entry((whole.place, whole.shape)).or_default() += whole.times;
        given.iter().filter_map(|&(place, shape)| alike.add(place, shape)).for_each(&mut sum);
        sum(alike);
        assert_eq!(sums, BTreeMap::from([((0, 0), 3), ((1, 0), 1), ((1, 2), 2)]));
    }
}
