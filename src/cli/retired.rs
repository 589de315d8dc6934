//! A job that somebody waits for, also where it has ended and left the cell meanwhile: a cell keeps finished jobs for a while only.

use plenum_proto::v1::{At, JobHistoryRequest, JobView};

use super::{JobName, get_job};
use crate::{connect::Connection, failure::Failure};

/// The job that was submitted at revision `since` as it is; where the cell has retired it since then, as it was when it had ended.
/// With the revision that it was read at.
///
/// # Errors
///
/// `NO_SUCH_JOB` where the cell has none and cannot tell of one that was retired after `since`.
pub(crate) async fn get_job_to_its_end(
    connection: &Connection,
    job: &JobName,
    since: u64,
) -> Result<(u64, JobView), Failure> {
    match get_job(connection, job, None).await {
        Err(absent) if absent.code == "NO_SUCH_JOB" => {
            let Some(last) = last_revision(connection, job, since).await? else {
                return Err(absent.with_hint("the cell has retired it, and does not tell how it ended"));
            };
            get_job(connection, job, Some(At { revision: last, time_micros: 0 })).await
        }
        found => found,
    }
}

/// The last revision at which the cell had a job that it retired after `since`.
async fn last_revision(connection: &Connection, job: &JobName, since: u64) -> Result<Option<u64>, Failure> {
    let JobName { namespace, name } = job.clone();
    // Events of what comes before its end are not looked at.
    let request = JobHistoryRequest { namespace, name, at: None, limit: 2 };
    match connection.jobs().job_history(request).await.map_err(Failure::from) {
        Ok(story) => {
            let retired = story.into_inner().events.pop().filter(|event| event.event == "retired");
            Ok(retired.map(|event| event.revision).filter(|revision| *revision > since).map(|revision| revision - 1))
        }
        Err(failure) if matches!(failure.code.as_str(), "NO_SUCH_JOB" | "TOO_MUCH_TO_READ") => Ok(None),
        Err(failure) => Err(failure),
    }
}
