//! What all jobs come to in bytes, as [`Job::kept_bytes`] reckons each: there may be so many of them, and of jobs that are over half as many.

use plenum_model::{Cell, Job};

/// Sums over jobs.
///
/// Invariant: a pure function of the cell; `recount` makes it from scratch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct JobBytes {
    /// Of all jobs.
    pub(crate) all: u64,
    /// Of those that are over, and not retired yet.
    pub(crate) over: u64,
}

impl JobBytes {
    /// The sums of a cell.
    pub(crate) fn recount(cell: &Cell) -> Self {
        let mut bytes = Self::default();
        cell.jobs().for_each(|job| bytes.add(job));
        bytes
    }

    /// A job comes.
    pub(crate) fn add(&mut self, job: &Job) {
        self.all += kept(job);
        if job.state.is_final() {
            self.end(job);
        }
    }

    /// A job that has come is over now.
    pub(crate) fn end(&mut self, job: &Job) {
        self.over += kept(job);
    }

    /// A job goes, which stands as it does.
    pub(crate) fn remove(&mut self, job: &Job) {
        self.all -= kept(job);
        if job.state.is_final() {
            self.over -= kept(job);
        }
    }
}

fn kept(job: &Job) -> u64 {
    job.kept_bytes() as u64
}
