//! Names of schedulers: their numbers, which of them somebody goes by, and since when a number stands for its name.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{Cell, Delta, JobChange, Rejection, Revision, SessionChange};

use super::numbers::Numbers;
use crate::Core;

/// See the module.
#[derive(Debug)]
pub(crate) struct Names {
    /// Invariant: what the cell's names say.
    numbers: BTreeMap<Arc<str>, u16>,
    /// Sessions under a name, and jobs that are for it. Who placed a live allocation is who its job is for.
    uses: Numbers<Arc<str>>,
    /// Numbers that stood for others before, with the revision that gave them. What the ring of changes and the events of jobs know
    /// begins when a server opens, and so does this.
    given: BTreeMap<u16, Revision>,
}

impl Names {
    pub(crate) fn rebuild(cell: &Cell) -> Self {
        let names = || cell.scheduler_names().iter().cloned();
        let jobs = cell.jobs().map(|job| job.shape.scheduler.clone());
        let sessions = cell.sessions().map(|session| session.scheduler.clone());
        let uses = Numbers::rebuild(jobs.chain(sessions), (0..).zip(names()), cell.revision());
        Self { numbers: names().zip(0..).collect(), uses, given: BTreeMap::new() }
    }

    /// The number of a name, if it has one.
    pub(crate) fn number(&self, name: &Arc<str>) -> Option<u16> {
        self.numbers.get(name).copied()
    }

    /// Since when the number stands for its name: what was before is another's.
    pub(crate) fn since(&self, number: u16) -> Revision {
        self.given.get(&number).copied().unwrap_or_default()
    }

    /// The name that a number stood for at a revision; empty where nobody knows it any more.
    pub(crate) fn name_at<'a>(&self, cell: &'a Cell, number: u16, revision: Revision) -> &'a str {
        if revision < self.since(number) { "" } else { cell.scheduler_name(number) }
    }

    fn add(&mut self, name: &Arc<str>) {
        let number = self.number(name);
        self.uses.add(name, number.map(u32::from));
    }

    fn remove(&mut self, name: &Arc<str>, now: Revision) {
        let number = self.number(name);
        self.uses.remove(name, number.map(u32::from), now);
    }

    /// Notes what a delta is about to change: rows are still as they were.
    pub(crate) fn before(&mut self, delta: &Delta, cell: &Cell) {
        for change in &delta.sessions {
            if let SessionChange::Closed(id) = change
                && let Some(session) = cell.session(*id)
            {
                self.remove(&session.scheduler, delta.revision);
            }
        }
        for change in &delta.jobs {
            let replaced = match change {
                JobChange::Put { job, .. } => cell.job_in(job.id.slot),
                JobChange::Removed(id) => cell.job(*id),
                _ => None,
            };
            if let Some(job) = replaced {
                self.remove(&job.shape.scheduler, delta.revision);
            }
        }
        for (number, _) in &delta.renamed {
            self.numbers.remove(cell.scheduler_name(*number));
        }
    }

    /// Notes what a delta has changed. `cell` has taken it already.
    pub(crate) fn after(&mut self, delta: &Delta, cell: &Cell) {
        let first = cell.scheduler_names().len() - delta.scheduler_names.len();
        for (number, name) in (first..).zip(&delta.scheduler_names) {
            let number = u16::try_from(number).expect("bounded when a session opens");
            self.stands_for(number, name, delta.revision);
        }
        for (number, name) in &delta.renamed {
            self.given.insert(*number, delta.revision);
            self.stands_for(*number, name, delta.revision);
        }
        for change in &delta.sessions {
            if let SessionChange::Opened { scheduler, .. } = change {
                self.add(scheduler);
            }
        }
        for change in &delta.jobs {
            if let JobChange::Put { job, .. } = change {
                self.add(&job.shape.scheduler);
            }
        }
    }

    fn stands_for(&mut self, number: u16, name: &Arc<str>, now: Revision) {
        self.numbers.insert(name.clone(), number);
        self.uses.stands_for(number.into(), name, now);
    }

    /// Whether both count the same, and have the same numbers free.
    #[cfg(debug_assertions)]
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.numbers == other.numbers && self.uses.is_like(&other.uses)
    }
}

impl Core {
    /// Numbers a scheduler's name, so that grants need not carry it: with a new number, or that of a name that nobody goes by any more.
    pub(crate) fn name_scheduler(&self, name: &Arc<str>, delta: &mut Delta) -> Result<(), Rejection> {
        let uses = &self.derived.names.uses;
        if self.derived.names.number(name).is_some() {
            return Ok(());
        }
        let (most, spare) = (self.options.schedulers_max, self.options.schedulers_spare);
        let is_full = self.cell.scheduler_names().len() >= most.min(usize::from(u16::MAX));
        let mut free = uses.free().filter_map(|number| u16::try_from(number).ok());
        match free.next().filter(|_| is_full || uses.free_count() > spare) {
            Some(number) => delta.renamed.push((number, name.clone())),
            None if !is_full => delta.scheduler_names.push(name.clone()),
            None => {
                let message =
                    format!("at most {most} names of schedulers with sessions or jobs at once; use one again");
                return Err(self.above_until_retired(message, true, delta.time));
            }
        }
        Ok(())
    }
}
