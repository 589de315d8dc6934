//! Quotas: what namespaces may have at most. What they use is kept by [`QuotaUse`].

use std::sync::Arc;

use plenum_model::{
    Cell, GivenBack, Job, LogTime, Quota, QuotaUse, Rejection, RejectionCode, Resources, Shortage, Sum,
};

use crate::{Core, Handled, Verdict, accepted, planted_bugs};

/// A limit, with what is used of it: the one rule for claims and holds.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// The place of the namespace.
    pub(crate) place: u32,
    quota: Quota,
    used: Sum,
}

impl Budget {
    /// What the namespace of a job may still have; `None` where that is not limited. The job's own hold is free room for it, and not
    /// counted, unless it was counted off already.
    pub(crate) fn of(used: &QuotaUse, cell: &Cell, job: &Job, hold_is_over: bool) -> Option<Self> {
        let place = used.place_of(job.id.slot)?;
        let (quota, used) = (*cell.quota(&job.shape.namespace)?, used.sum_at(place));
        let used = if hold_is_over { used } else { cell.used_beside(job.id, used) };
        Some(Self { place, quota, used })
    }

    /// What is short for `more`, once so much was given back.
    pub(crate) fn shortage(&self, given: &GivenBack, more: &Resources) -> Option<Shortage> {
        self.quota.shortage(&self.used.after_giving(given), more)
    }

    /// How many times `more` may be had, once so much was given back: not once exactly when something is short.
    pub(crate) fn headroom(&self, given: &GivenBack, more: &Resources) -> u64 {
        self.quota.headroom(&self.used.after_giving(given), more)
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
        planted_bugs::evict_what_is_beyond(&self.cell, namespace, limit.as_ref(), &mut delta);
        Ok(Verdict::Change(accepted(0, 0), delta))
    }
}
