//! What one decision may still have of quotas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{AllocationId, Job, Shortage, Sum};

use crate::view::{View, Work};

/// Books of quotas: what is used of them in the mirror, which keeps that as deltas come, by transactions in flight, and by the decision in the making.
///
/// The first question about a namespace with a quota is a walk over what is in flight; all others cost next to nothing.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    /// By namespace, of those that have a quota and were asked about or have something in flight. `None` before somebody asks.
    used: Option<BTreeMap<Arc<str>, Sum>>,
    /// What was counted as given back.
    given: BTreeSet<AllocationId>,
}

impl Quotas {
    /// What the quota of the job's namespace is short of for `tasks` more of the group, on whatever machines; `None` if it may have them.
    pub fn shortage(&mut self, view: &View<'_>, work: &Work, tasks: usize) -> Option<Shortage> {
        let quota = view.cell.quota(&work.job.shape.namespace)?;
        let used = view.cell.used_beside(work.job.id, *self.used_by(view, &work.job)?);
        let mut more = Sum::default();
        more.add(&work.shape().resources, tasks);
        quota.shortage(&used.total(), &more.total())
    }

    /// How many more tasks of the group the quota of the job's namespace has room for.
    pub fn headroom(&mut self, view: &View<'_>, work: &Work) -> usize {
        let Some(quota) = view.cell.quota(&work.job.shape.namespace) else { return usize::MAX };
        let Some(&mut used) = self.used_by(view, &work.job) else { return usize::MAX };
        let used = view.cell.used_beside(work.job.id, used);
        usize::try_from(quota.headroom(&used.total(), &work.shape().resources)).unwrap_or(usize::MAX)
    }

    /// Takes what so many tasks of the group use.
    pub fn take(&mut self, view: &View<'_>, work: &Work, tasks: usize) {
        if let Some(used) = self.used_by(view, &work.job) {
            used.add(&work.shape().resources, tasks);
        }
    }

    /// Takes a [`Quotas::take`] back, or a part of it.
    pub fn give(&mut self, view: &View<'_>, work: &Work, tasks: usize) {
        if let Some(used) = self.used_by(view, &work.job) {
            used.take(&work.shape().resources, tasks);
        }
    }

    /// Counts an allocation's quota as given back, once: for who stops or evicts it in the very plan that claims what comes instead. What is leaving
    /// was given back before.
    pub fn gives_back(&mut self, view: &View<'_>, allocation: AllocationId) {
        let Some(found) = view.cell.allocation(allocation).filter(|found| found.status.state.is_active()) else {
            return;
        };
        let Some(job) = view.cell.job(found.row.job()) else { return };
        let resources = view.cell.resources_of(found.row);
        if !self.given.insert(allocation) {
            return;
        }
        if let Some(used) = self.used_by(view, job) {
            used.take(&resources, 1);
        }
    }

    /// Takes a [`Quotas::gives_back`] back: no plan came of it.
    pub fn keeps(&mut self, view: &View<'_>, allocation: AllocationId) {
        if !self.given.remove(&allocation) {
            return;
        }
        let Some(found) = view.cell.allocation(allocation) else { return };
        let Some(job) = view.cell.job(found.row.job()) else { return };
        let resources = view.cell.resources_of(found.row);
        if let Some(used) = self.used_by(view, job) {
            used.add(&resources, 1);
        }
    }

    /// What is used of the quota of the job's namespace; `None` where it has none: who has no quota pays for nobody's.
    fn used_by(&mut self, view: &View<'_>, job: &Job) -> Option<&mut Sum> {
        let namespace = &job.shape.namespace;
        view.cell.quota(namespace)?;
        let used = self.used.get_or_insert_with(|| used_in_flight(view));
        Some(sum_of(used, view, namespace))
    }
}

/// What is used of the quotas of which transactions in flight may take something, with that.
fn used_in_flight(view: &View<'_>) -> BTreeMap<Arc<str>, Sum> {
    let mut used = BTreeMap::new();
    for claim in view.in_flight.placed() {
        let limited = |job: &&Arc<Job>| view.cell.quota(&job.shape.namespace).is_some();
        let Some(job) = view.cell.job(claim.job).filter(limited) else { continue };
        if let Some(shape) = job.shape.groups.get(usize::from(claim.group)) {
            sum_of(&mut used, view, &job.shape.namespace).add(&shape.resources, 1);
        }
    }
    used
}

/// What is used of a namespace's quota: at first what the mirror shows.
fn sum_of<'u>(used: &'u mut BTreeMap<Arc<str>, Sum>, view: &View<'_>, namespace: &Arc<str>) -> &'u mut Sum {
    used.entry(namespace.clone()).or_insert_with(|| view.quota_use.used(namespace))
}
