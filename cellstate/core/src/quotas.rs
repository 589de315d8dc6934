//! Quotas: what namespaces may have at most, and what those that have one use of it.
//!
//! Nothing is counted for a namespace without a quota: then a delta costs one look at an empty map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{AllocationRow, Cell, Delta, Job, JobId, LogTime, Quota, Rejection, RejectionCode, Resources, Sum};

use crate::{Core, Handled, Verdict, accepted};

/// What the namespaces that have a quota use: allocations that are neither leaving nor lost, and holds.
///
/// Invariant: a pure function of the cell; `recount` makes it from scratch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuotaUse(BTreeMap<Arc<str>, Sum>);

impl QuotaUse {
    /// A walk over all jobs; over none when no namespace has a quota.
    pub(crate) fn recount(cell: &Cell) -> Self {
        let namespaces: BTreeSet<_> = cell.quotas().map(|(namespace, _)| namespace.clone()).collect();
        Self::count(cell, namespaces)
    }

    fn count(cell: &Cell, namespaces: BTreeSet<Arc<str>>) -> Self {
        let mut used = Self(namespaces.into_iter().map(|namespace| (namespace, Sum::default())).collect());
        let jobs = if used.0.is_empty() { None } else { Some(cell.jobs()) };
        for job in jobs.into_iter().flatten() {
            if let Some(sum) = used.0.get_mut(&job.shape.namespace) {
                sum.join(&cell.use_of(job));
            }
        }
        used
    }

    /// What a namespace uses; nothing for one without a quota.
    pub(crate) fn used(&self, namespace: &str) -> Resources {
        self.0.get(namespace).map(Sum::total).unwrap_or_default()
    }

    /// What the namespace of a job uses besides the job's own hold: that is free room for it.
    pub(crate) fn used_without_hold(&self, cell: &Cell, job: &Job) -> Resources {
        let mut sum = self.0.get(&job.shape.namespace).copied().unwrap_or_default();
        if let Some(hold) = cell.hold(job.id) {
            sum.take(&hold.resources, hold.machines.len());
        }
        sum.total()
    }

    /// Notes what a delta is about to take away: rows are still as they were.
    pub(crate) fn before(&mut self, delta: &Delta, cell: &Cell) {
        if self.0.is_empty() {
            return;
        }
        // One that leaves may end with the same delta, and counts once.
        for slot in leavers(delta, cell) {
            let Some(row) = cell.allocation_rows().get(slot) else { continue };
            let row: &AllocationRow = row;
            self.change(cell, row.job(), |sum| sum.take(&cell.resources_of(row), 1));
        }
        for (job, _) in &delta.holds {
            if let Some(hold) = cell.hold(*job) {
                self.change(cell, *job, |sum| sum.take(&hold.resources, hold.machines.len()));
            }
        }
    }

    /// Notes what a delta has brought.
    pub(crate) fn after(&mut self, delta: &Delta, cell: &Cell) {
        if !self.0.is_empty() {
            for grants in &delta.grants {
                let shape = cell.shapes().get(grants.shape as usize).copied().unwrap_or_default();
                self.change(cell, grants.job, |sum| sum.add(&shape, grants.slots.len()));
            }
            for (job, hold) in &delta.holds {
                let Some(hold) = hold else { continue };
                self.change(cell, *job, |sum| sum.add(&hold.resources, hold.machines.len()));
            }
        }
        let mut new = BTreeSet::new();
        for (namespace, quota) in &delta.quotas {
            if quota.is_none() {
                self.0.remove(namespace);
            } else if !self.0.contains_key(namespace) {
                new.insert(namespace.clone());
            }
        }
        if !new.is_empty() {
            self.0.append(&mut Self::count(cell, new).0);
        }
    }

    fn change(&mut self, cell: &Cell, job: JobId, change: impl FnOnce(&mut Sum)) {
        let job = cell.job(job);
        if let Some(sum) = job.and_then(|job| self.0.get_mut(&job.shape.namespace)) {
            change(sum);
        }
    }
}

/// Slots of allocations that are active and leave or end with a delta, each once. The cell is still as it was.
pub(crate) fn leavers<'a>(delta: &'a Delta, cell: &'a Cell) -> impl Iterator<Item = u32> + 'a {
    let active = |slot: &u32| cell.status(*slot).state.is_active();
    let moves = delta.moves.iter().filter(|change| change.status.state.is_leaving()).map(|change| change.slot);
    // Hardly ever does one delta make somebody leave and end, or end without having left.
    let ends = delta.ends.iter().map(|end| end.slot).filter(active).collect::<Vec<_>>();
    let both: BTreeSet<u32> = if ends.is_empty() { BTreeSet::new() } else { moves.clone().collect() };
    moves.filter(active).chain(ends.into_iter().filter(move |slot| !both.contains(slot)))
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
