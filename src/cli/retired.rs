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
    let absent = match get_job(connection, job, None).await {
        Err(absent) if absent.code == "NO_SUCH_JOB" => absent,
        found => return found,
    };
    match last(connection, job, since).await {
        Ok(Some(found)) => Ok(found),
        Err(failure) if failure.is_passing() => Err(failure),
        // Whatever else keeps it from being told: it is the job that is missing.
        Ok(None) | Err(_) => Err(absent.with_hint("the cell has retired it, and does not tell how it ended")),
    }
}

/// How the cell last had a job that it retired after `since`, and at which revision.
async fn last(connection: &Connection, job: &JobName, since: u64) -> Result<Option<(u64, JobView)>, Failure> {
    let JobName { namespace, name } = job.clone();
    // Events of what comes before its end are not looked at.
    let request = JobHistoryRequest { namespace, name, at: None, limit: 2 };
    let story = connection.jobs().job_history(request).await?.into_inner();
    let Some(retired) = story.events.last().filter(|event| event.event == "retired" && event.revision > since) else {
        return Ok(None);
    };
    let at = At { revision: retired.revision - 1, time_micros: 0 };
    get_job(connection, job, Some(at)).await.map(Some)
}
