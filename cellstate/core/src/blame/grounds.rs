//! What a transaction is judged by, beside the cell. Nothing of it changes while one is resolved.

use std::sync::Arc;

use plenum_model::{ClassSet, LogTime, QuotaUse, Revision, Session};

use super::group_events::GroupEvents;
use super::job_events::JobEvents;
use super::newcomers::Retagged;
use super::ring::Ring;
use crate::derived::names::Names;

/// Who asks and when, what bounds it, and what is remembered of what came before.
pub(crate) struct Grounds<'a> {
    pub(crate) now: LogTime,
    pub(crate) session: &'a Arc<Session>,
    /// The number of its scheduler's name.
    pub(crate) scheduler: u16,
    /// Classes of machines that are reserved for other schedulers, where some are.
    pub(crate) reserved: Option<&'a ClassSet>,
    pub(crate) quotas: &'a QuotaUse,
    /// By machine, the revision at which its epoch began.
    pub(crate) epochs_began: &'a [u64],
    /// The newest of these.
    pub(crate) newest_epoch: Revision,
    pub(crate) ring: &'a Ring,
    /// When the ring began: what happened before is only known from rows.
    pub(crate) opened: Revision,
    pub(crate) job_events: &'a JobEvents,
    pub(crate) group_events: &'a GroupEvents,
    pub(crate) retagged: &'a Retagged,
    pub(crate) names: &'a Names,
}
