//! What `plenum dev --until-done` says at the end.

use std::time::Duration;

use plenum_proto::v1::{AllocationState, AllocationView, JobState, JobView, StatusRequest};

use super::{logs, progress::Progress};
use crate::{
    connect::Connection,
    failure::Failure,
    output::{self, Row, allocation_id, job_state, span_of},
};

/// Failed tasks of a job that are told one by one, and lines of each one's standard error.
const FAILED_SHOWN: usize = 3;
const STDERR_LINES: usize = 10;

/// When things happened, counted from the start of the command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) first_start: Option<Duration>,
    pub(super) whole: Duration,
    /// The server died and was started again: it counts what it decided since then.
    pub(super) server_restarted: bool,
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
        let allocations = logs::allocations(connection, job).await?;
        if job.state() == JobState::JobComplete {
            for group in logs::final_groups(shape) {
                let tail = async |allocation, lines| logs::tail(connection, allocation, false, lines).await;
                let (text, unread) = logs::last_lines(group, &allocations, tail).await;
                output::print_and_go_on(&text)?;
                if let Some(why) = unread {
                    progress.say(&format!("{}: not all that {group} printed can be read: {}", job.name(), why.message));
                }
            }
            continue;
        }
        for allocation in last_failed(&allocations) {
            progress.say(&format!(
                "{}: task {}[{}], attempt {} on {}: {} ({})",
                job.name(),
                allocation.group,
                allocation.task,
                allocation.attempt,
                allocation.machine,
                failure_words(allocation),
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

/// The last failed allocations, in the order of their grants.
fn last_failed(allocations: &[AllocationView]) -> Vec<&AllocationView> {
    let mut failed: Vec<&AllocationView> =
        allocations.iter().filter(|allocation| allocation.state() == AllocationState::Failed).collect();
    failed.sort_by_key(|allocation| (allocation.created_revision, allocation.id));
    failed.split_off(failed.len().saturating_sub(FAILED_SHOWN))
}

/// Why it failed, in the agent's words.
fn failure_words(allocation: &AllocationView) -> String {
    let reason = match allocation.reason.as_str() {
        "" => format!("exit code {}", allocation.exit_code),
        reason => reason.to_owned(),
    };
    if reason.starts_with("command not found") {
        return format!("{reason}; `plenum explain COMMAND_NOT_FOUND` tells more");
    }
    reason
}

/// A count with its noun.
fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// The summary in two lines.
fn text(jobs: &[JobView], times: Times, transactions: u64, conflicts: u64) -> String {
    let groups = || jobs.iter().flat_map(|job| &job.groups);
    let done: u64 = groups().map(|group| u64::from(group.done)).sum();
    let attempts: u64 = groups().map(|group| u64::from(group.attempts)).sum();
    let ended: Vec<String> = jobs.iter().map(|job| format!("{} {}", job.name(), job_state(job.state()))).collect();
    let first =
        times.first_start.map_or_else(String::new, |time| format!(", the first started after {}", span_of(time)));
    let since = if times.server_restarted { ", since the server was last started" } else { "" };
    format!(
        "{} in {}\n{} run in {}{first}; {}, {conflicts} with conflicts{since}",
        ended.join(", "),
        span_of(times.whole),
        counted(done, "task"),
        counted(attempts, "allocation"),
        counted(transactions, "transaction"),
    )
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{GroupView, JobShape};

    use super::*;

    #[test]
    fn the_last_failures_are_told_in_the_agents_words() {
        let failed = |created_revision, reason: &str| AllocationView {
            state: AllocationState::Failed.into(),
            created_revision,
            reason: reason.to_owned(),
            exit_code: 7,
            ..AllocationView::default()
        };
        let allocations = [failed(9, ""), failed(5, "b"), failed(7, "command not found: x"), failed(1, "a")];
        let words: Vec<String> = last_failed(&allocations).into_iter().map(failure_words).collect();
        assert_eq!(words[0], "b");
        assert!(words[1].ends_with("COMMAND_NOT_FOUND` tells more"));
        assert_eq!(words[2], "exit code 7");
    }

    #[test]
    fn the_summary_says_what_was_run_and_what_it_took() {
        let job = JobView {
            shape: Some(JobShape { name: "words".to_owned(), ..JobShape::default() }),
            state: JobState::JobComplete.into(),
            groups: vec![GroupView { done: 10, attempts: 11, ..GroupView::default() }],
            ..JobView::default()
        };
        let (first_start, whole) = (Some(Duration::from_millis(412)), Duration::from_millis(3_250));
        let times = Times { first_start, whole, server_restarted: false };
        let words = "words complete in 3.2s\n10 tasks run in 11 allocations, the first started after 412.0ms; 34 transactions, 2 \
                     with conflicts";
        assert_eq!(text(std::slice::from_ref(&job), times, 34, 2), words);
        let restarted = Times { server_restarted: true, ..times };
        assert_eq!(text(&[job], restarted, 34, 2), format!("{words}, since the server was last started"));
    }
}
