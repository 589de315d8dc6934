//! What callers expect of a job that they change. What was decided on one version of it takes effect on no other, however late it comes.

use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{Job, JobId, JobShape, Rejection, RejectionCode, floor_of, incarnation_of};

use crate::Core;

impl Core {
    /// A job that the cell knows, at this very version where one is expected.
    pub(crate) fn job_at(&self, id: JobId, expected: Option<u32>) -> Result<Arc<Job>, Rejection> {
        let job = self.cell.job(id).cloned();
        let job =
            job.ok_or_else(|| Rejection::new(RejectionCode::NoSuchJob, format!("{id} is retired or never was")))?;
        if let Some(expected) = expected {
            expect_version(&job.shape.name, Some(&job), expected)?;
        }
        Ok(job)
    }

    /// The same, of a job that is not over.
    pub(crate) fn live_job(&self, id: JobId, expected: Option<u32>) -> Result<Arc<Job>, Rejection> {
        let job = self.job_at(id, expected)?;
        if job.state.is_final() {
            let message = format!("{} is over ({}) and can't be changed", job.shape.name, job.state.word());
            return Err(Rejection::new(RejectionCode::JobOver, message));
        }
        Ok(job)
    }
}

/// Whether a job is just what a submission makes of the version that it expects: it was asked before, and the answer was lost, or by another one who
/// wants the same. Scaling and the end of the job change nothing of that.
pub(crate) fn came_of(job: &Job, expected: u32, shape: &JobShape, body_digest: [u8; 32]) -> bool {
    // What follows is one more or, where the cell was restored in between, the first that an incarnation gives. A new job begins with 1 in all of them.
    let is_first = job.version == floor_of(u64::from(incarnation_of(job.version)) + 1) + 1;
    let follows = expected < job.version && (job.version == expected + 1 || expected > 0 && is_first);
    follows && *job.shape == *shape && job.body_digest == body_digest
}

/// The job of that name has this very version; 0: there is none.
///
/// # Errors
/// When it has another one.
pub fn expect_version(name: &str, found: Option<&Job>, expected: u32) -> Result<(), Rejection> {
    if found.map_or(0, |job| job.version) == expected || planted::is(Bug::OverlooksExpectations) {
        return Ok(());
    }
    let of = |version: u32| if version == 0 { "no job of this name".to_owned() } else { format!("version {version}") };
    let found = found.map_or_else(|| of(0), |job| format!("{} ({})", of(job.version), job.state.word()));
    let message = format!("{name}: expected {}, found {found}; look at it and decide anew", of(expected));
    Err(Rejection::new(RejectionCode::JobVersion, message))
}
