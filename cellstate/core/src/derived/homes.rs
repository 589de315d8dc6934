//! Jobs whose tasks share a machine, by that machine: so that one that is lost does not look for them among all jobs.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{Cell, Delta, Job, JobChange, JobId};

/// Jobs that are not over and have a home. Invariant: a pure function of the cell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Homes {
    by_machine: BTreeSet<(u32, JobId)>,
    /// By slot of the job.
    of: BTreeMap<u32, (u32, JobId)>,
}

impl Homes {
    pub(crate) fn rebuild(cell: &Cell) -> Self {
        let mut homes = Self::default();
        cell.jobs().for_each(|job| homes.put(job.id.slot, home_of(job)));
        homes
    }

    fn put(&mut self, slot: u32, home: Option<(u32, JobId)>) {
        let before = match home {
            Some(home) => self.of.insert(slot, home),
            None => self.of.remove(&slot),
        };
        if let Some(before) = before {
            self.by_machine.remove(&before);
        }
        self.by_machine.extend(home);
    }

    /// Notes what a delta has changed.
    pub(crate) fn after(&mut self, delta: &Delta, cell: &Cell) {
        for change in &delta.jobs {
            let slot = match change {
                JobChange::Put { job, .. } => job.id.slot,
                JobChange::State { id, .. } | JobChange::Removed(id) | JobChange::Home { id, .. } => id.slot,
                JobChange::Group { .. } | JobChange::Launched { .. } => continue,
            };
            self.put(slot, cell.job_in(slot).and_then(|job| home_of(job)));
        }
    }

    /// The jobs whose tasks share a machine, and that are not over.
    pub(crate) fn on(&self, machine: u32) -> impl Iterator<Item = JobId> + '_ {
        let first = (machine, JobId { slot: 0, generation: 0 });
        self.by_machine.range(first..).take_while(move |(home, _)| *home == machine).map(|(_, job)| *job)
    }
}

fn home_of(job: &Job) -> Option<(u32, JobId)> {
    job.home.filter(|_| !job.state.is_final()).map(|home| (home, job.id))
}
