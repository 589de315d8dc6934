//! Who of a scheduler is there, and who of these says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::Cell;

use crate::shared::Shared;

/// The sessions of a scheduler, those that nobody has closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// How many there are, connected or not.
    pub(super) sessions: u32,
    /// How many are connected.
    pub(super) connected: u32,
    /// How many of these have fallen silent, while the cell goes on.
    pub(super) silent: u32,
    /// Whose jobs those are there for that are connected; the empty one stands for all namespaces.
    namespaces: BTreeSet<Arc<str>>,
    /// Whether a job that is not over is of a namespace that none of these is there for. Of [`with_awaited`] only.
    lacks_a_namespace: bool,
}

impl Members {
    /// Whether a job may have nobody who places it.
    pub(super) fn are_away(&self) -> bool {
        self.connected == 0 || self.lacks_a_namespace
    }

    /// As `JobShape::is_served_by` has it of one session. There may be very many of both, jobs and sessions.
    pub(super) fn serve(&self, namespace: &str) -> bool {
        self.namespaces.contains("") || self.namespaces.contains(namespace)
    }
}

/// By the scheduler's name.
pub(super) type ByScheduler = BTreeMap<Arc<str>, Members>;

/// Those of each scheduler that has sessions in this cell, which is one of the present.
pub(super) fn by_scheduler(shared: &Shared, cell: &Cell) -> ByScheduler {
    let mut members = ByScheduler::new();
    let silent = shared.silent_sessions();
    let (known, now_micros) = (shared.sessions.lock(), shared.clock.monotonic_micros());
    for session in cell.sessions() {
        let of_name = members.entry(session.scheduler.clone()).or_default();
        of_name.sessions += 1;
        if known.is_connected(session.id, now_micros) {
            of_name.connected += 1;
            of_name.silent += u32::from(silent.contains(&session.id));
            of_name.namespaces.insert(session.namespace.clone());
        }
    }
    members
}

/// The same, with schedulers of which only jobs tell that are not over: these wait for it long after the last session was closed. Walks over all jobs.
pub(super) fn with_awaited(shared: &Shared, cell: &Cell) -> ByScheduler {
    let mut members = by_scheduler(shared, cell);
    for job in cell.jobs().filter(|job| !job.state.is_final()) {
        let of_name = members.entry(job.shape.scheduler.clone()).or_default();
        of_name.lacks_a_namespace |= !of_name.serve(&job.shape.namespace);
    }
    members
}
