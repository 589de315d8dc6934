//! What `plenum dev --until-done` says at the end.

use std::time::Duration;

use plenum_proto::v1::{AllocationState, JobState, JobView, StatusRequest};

use super::{logs, progress::Progress};
use crate::{
    connect::Connection,
    failure::Failure,
    output::{self, Row, allocation_id, job_state, span},
};

/// Failed tasks of a job that are told one by one, and lines of each one's standard error.
const FAILED_SHOWN: usize = 3;
const STDERR_LINES: usize = 10;

/// When things happened, counted from the start of the command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) first_start: Option<Duration>,
    pub(super) whole: Duration,
}

/// Prints the jobs' last lines on standard output, and what it took on standard error.
pub(super) async fn print(
    connection: &Connection,
    jobs: &[JobView],
    times: Times,
    progress: &Progress,
) -> Result<(), Failure> {
    for job in jobs {
        let Some(shape) = &job.shape else { continue };
        let allocations = logs::allocations(connection, shape).await?;
        if job.state() == JobState::JobComplete {
            for group in logs::final_groups(shape) {
                let text = logs::last_lines(connection, group, &allocations).await?;
                output::print_bytes(&text)?;
            }
            continue;
        }
        let failed = allocations.iter().filter(|allocation| allocation.state() == AllocationState::Failed);
        for allocation in failed.take(FAILED_SHOWN) {
            let why = if allocation.reason.is_empty() { String::new() } else { format!(": {}", allocation.reason) };
            progress.say(&format!(
                "{}: task {}[{}] failed on {} with exit code {}{why} ({})",
                job.name(),
                allocation.group,
                allocation.task,
                allocation.machine,
                allocation.exit_code,
                allocation_id(allocation.id)
            ));
            // What it printed helps; that it cannot be read any more is no further failure.
            let printed = logs::tail(connection, allocation.id, true, STDERR_LINES).await.unwrap_or_default();
            for line in String::from_utf8_lossy(&printed).lines() {
                progress.say(&format!("    {line}"));
            }
        }
    }
    let status = connection.inspect().status(StatusRequest {}).await?.into_inner();
    progress.say(&text(jobs, times, status.transactions, status.conflicts));
    Ok(())
}

/// The summary in two lines.
fn text(jobs: &[JobView], times: Times, transactions: u64, conflicts: u64) -> String {
    let groups = || jobs.iter().flat_map(|job| &job.groups);
    let done: u64 = groups().map(|group| u64::from(group.done)).sum();
    let attempts: u64 = groups().map(|group| u64::from(group.attempts)).sum();
    let ended: Vec<String> = jobs.iter().map(|job| format!("{} {}", job.name(), job_state(job.state()))).collect();
    let took = |time: Duration| span(i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    let first = times.first_start.map_or_else(String::new, |time| format!(", the first started after {}", took(time)));
    format!(
        "{} in {}\n{done} tasks run in {attempts} allocations{first}; {transactions} transactions, {conflicts} with \
         conflicts",
        ended.join(", "),
        took(times.whole)
    )
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{GroupView, JobShape};

    use super::*;

    #[test]
    fn the_summary_says_what_was_run_and_what_it_took() {
        let job = JobView {
            shape: Some(JobShape { name: "words".to_owned(), ..JobShape::default() }),
            state: JobState::JobComplete.into(),
            groups: vec![GroupView { done: 10, attempts: 11, ..GroupView::default() }],
            ..JobView::default()
        };
        let times = Times { first_start: Some(Duration::from_millis(412)), whole: Duration::from_millis(3_250) };
        assert_eq!(
            text(&[job], times, 34, 2),
            "words complete in 3.2s\n10 tasks run in 11 allocations, the first started after 412.0ms; 34 transactions, 2 \
             with conflicts"
        );
    }
}
