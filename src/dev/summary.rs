//! What `plenum dev --until-done` says at the end, and what is said of failed tasks before that.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use plenum_model::counted;
use plenum_proto::v1::{AllocationView, GroupView, JobState, JobView, StatusRequest, StatusResponse};
use tokio::time::sleep;

use super::{board::done_of, logs, progress::Progress};
use crate::{
    cli::{Colours, final_groups, has_failed},
    connect::Connection,
    failure::Failure,
    output::{self, Row, allocation_id, failure_words, job_state, span_of},
};

/// Failed tasks of a job that are told one by one, and lines of what each one printed, on standard output and on standard error.
const FAILED_SHOWN: usize = 3;
const PRINTED_LINES: usize = 10;
/// Of each of these so many characters, at most: some print a megabyte of JSON on one.
const PRINTED_CHARS_MAX: usize = 500;

/// How often what cannot be read at the moment is asked for again.
const PERIOD: Duration = Duration::from_millis(200);

/// When things happened, counted from the start of the command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) first_start: Option<Duration>,
    pub(super) whole: Duration,
}

/// Where the summary is read, also while the server is on its way back, and told.
pub(super) struct Summary<'run> {
    pub(super) connection: &'run Connection,
    pub(super) progress: &'run Progress,
    /// Until then a server that is away is waited for. What became of the jobs is known without it.
    pub(super) until: Instant,
}

/// Transactions that the server decided, those with conflicts, and whether these are only the ones since it was started again.
#[derive(Clone, Copy, Debug)]
struct Counts {
    transactions: u64,
    conflicts: u64,
    server_restarted: bool,
}

impl Summary<'_> {
    /// Prints the jobs' last lines on standard output, and what it took on standard error. What can't be read is told, and no failure.
    ///
    /// # Errors
    ///
    /// `IO` where standard output takes nothing more.
    pub(super) async fn print(
        &self,
        jobs: &[JobView],
        times: Times,
        server_restarted: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        for job in jobs {
            self.print_job(job).await?;
        }
        let status =
            self.ask(async || Ok(self.connection.inspect().status(StatusRequest {}).await?.into_inner())).await;
        let counts = status.map(|StatusResponse { transactions, conflicts, .. }| Counts {
            transactions,
            conflicts,
            server_restarted: server_restarted(),
        });
        self.progress.say(&text(jobs, times, counts));
        Ok(())
    }

    async fn print_job(&self, job: &JobView) -> Result<(), Failure> {
        let Some(shape) = &job.shape else { return Ok(()) };
        let tell_unread = |of: &str, why: &Failure| {
            self.progress.say(&format!("{}: not all that {of} printed can be read: {}", job.name(), why.message));
        };
        let allocations = match self.ask(async || logs::allocations(self.connection, job).await).await {
            Ok(allocations) => allocations,
            Err(why) => {
                tell_unread("its tasks", &why);
                return Ok(());
            }
        };
        let is_complete = job.state() == JobState::JobComplete;
        if !is_complete {
            for allocation in last_failed(job, &allocations) {
                self.tell_failed(job, allocation).await;
            }
        }
        for group in final_groups(shape) {
            let tail = async |allocation, lines| {
                self.ask(async || logs::tail(self.connection, allocation, false, lines).await).await
            };
            let (text, unread) = logs::last_lines(group, &allocations, tail).await;
            // Ctrl-C is listened for already.
            let (mut colours, _) = Colours::of_output();
            colours.see(&text);
            output::print_and_go_on(&text)?;
            colours.put_back();
            // Of a job that did not complete all is not there anyway.
            if let Some(why) = unread.filter(|_| is_complete) {
                tell_unread(group, &why);
            }
        }
        Ok(())
    }

    /// Tells how a task of a job that fails again and again failed last, or which one its agent restarts, with what it printed; nothing where that
    /// can't be read.
    pub(super) async fn tell_failing(&self, job: &JobView) {
        let allocations = self.ask(async || logs::allocations(self.connection, job).await).await.unwrap_or_default();
        if let Some(allocation) = failing(job, &allocations) {
            self.tell_failed(job, allocation).await;
        }
    }

    async fn tell_failed(&self, job: &JobView, allocation: &AllocationView) {
        self.progress.say(&format!(
            "{}: task {}[{}], attempt {} on {}: {} ({})",
            job.name(),
            allocation.group,
            allocation.task,
            allocation.attempt,
            allocation.machine,
            failure_words(allocation),
            allocation_id(allocation.id)
        ));
        // What it printed helps; that it cannot be read any more is no further failure. Many programs say on standard output why they end, and a
        // temporary cell keeps neither.
        for stderr in [false, true] {
            let tail = async || logs::tail(self.connection, allocation.id, stderr, PRINTED_LINES).await;
            let printed = self.ask(tail).await.unwrap_or_default();
            for line in String::from_utf8_lossy(&printed).lines() {
                self.progress.say(&format!("    {}", beginning(line)));
            }
        }
    }

    /// Asks again while the server is away, or an agent that comes back to it.
    async fn ask<T>(&self, mut ask: impl AsyncFnMut() -> Result<T, Failure>) -> Result<T, Failure> {
        loop {
            match ask().await {
                Err(failure)
                    if (failure.is_passing() || failure.code == "AGENT_GONE") && Instant::now() < self.until =>
                {
                    sleep(PERIOD).await;
                }
                answer => return answer,
            }
        }
    }
}

/// As much of a line as is shown.
fn beginning(line: &str) -> Cow<'_, str> {
    match line.char_indices().nth(PRINTED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]).into(),
        None => line.into(),
    }
}

/// The last failed allocations of a job, in the order of their grants.
fn last_failed<'a>(
    job: &JobView,
    allocations: impl IntoIterator<Item = &'a AllocationView>,
) -> Vec<&'a AllocationView> {
    let mut failed: Vec<&AllocationView> =
        allocations.into_iter().filter(|allocation| has_failed(job, allocation)).collect();
    failed.sort_by_key(|allocation| (allocation.created_revision, allocation.id));
    failed.split_off(failed.len().saturating_sub(FAILED_SHOWN))
}

/// Of the groups of which tasks fail again and again: the allocation that failed last; else, of those that are live, the one that its agent restarted
/// most often. A group of which none failed more than once has one that is restarted: what failed there is long over.
fn failing<'a>(job: &JobView, allocations: &'a [AllocationView]) -> Option<&'a AllocationView> {
    let of_groups = |is_one: fn(&GroupView) -> bool| {
        let is_of = move |allocation: &&AllocationView| {
            job.groups.iter().any(|group| group.failing > 0 && is_one(group) && group.name == allocation.group)
        };
        allocations.iter().filter(is_of)
    };
    let failed = last_failed(job, of_groups(|group| group.failures > 1)).pop();
    let restarted = of_groups(|_| true).filter(|allocation| allocation.ended_revision == 0 && allocation.restarts > 0);
    failed.or_else(|| restarted.max_by_key(|allocation| allocation.restarts))
}

/// The summary in two lines.
fn text(jobs: &[JobView], times: Times, counts: Result<Counts, Failure>) -> String {
    let attempts: u64 = jobs.iter().flat_map(|job| &job.groups).map(|group| u64::from(group.attempts)).sum();
    let ended: Vec<String> = jobs.iter().map(|job| format!("{} {}", job.name(), job_state(job.state()))).collect();
    let first =
        times.first_start.map_or_else(String::new, |time| format!(", the first started after {}", span_of(time)));
    let decided = match counts {
        Ok(Counts { transactions, conflicts, server_restarted }) => {
            let since = if server_restarted { ", since the server was last started" } else { "" };
            format!("{}, {conflicts} with conflicts{since}", counted(transactions, "transaction"))
        }
        Err(why) => format!("its transactions can't be read: {}", why.message),
    };
    format!(
        "{} in {}\n{} in {}{first}; {decided}",
        ended.join(", "),
        span_of(times.whole),
        done_words(jobs),
        counted(attempts, "allocation"),
    )
}

/// How many tasks were run to their end. Where a job failed or was stopped, of how many: allocations may have run, and none of its tasks is done.
fn done_words(jobs: &[JobView]) -> String {
    let (done, all) = jobs.iter().map(done_of).fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
    if jobs.iter().all(|job| job.state() == JobState::JobComplete) {
        format!("{} run", counted(done, "task"))
    } else {
        format!("{done} of {} done", counted(all, "task"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use plenum_proto::v1::{AllocationState, JobKind, JobShape};

    use super::*;

    // A megabyte of JSON on one line went to the terminal, again with each failure.
    #[test]
    fn of_a_long_line_that_a_failed_task_printed_the_beginning_is_shown() {
        let line = "é".repeat(PRINTED_CHARS_MAX);
        assert_eq!(beginning(&line), line);
        assert_eq!(beginning(&format!("{line}x")), format!("{line}…"));
    }

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
        let words: Vec<String> =
            last_failed(&JobView::default(), &allocations).into_iter().map(failure_words).collect();
        assert_eq!(words[0], "b");
        assert!(words[1].ends_with("COMMAND_NOT_FOUND` tells more"));
        assert_eq!(words[2], "exit code 7");
    }

    // Who looked on read that it runs, again and again, and not what it ended with.
    #[test]
    fn of_a_loop_of_crashes_the_last_failure_is_told_or_else_how_often_it_was_restarted() {
        let of = |state: AllocationState, restarts| AllocationView {
            state: state.into(),
            restarts,
            exit_code: 1,
            created_revision: 7,
            ..AllocationView::default()
        };
        let job = |failures| {
            let group = GroupView { failing: 1, failures, ..GroupView::default() };
            JobView { groups: vec![group], ..JobView::default() }
        };
        let told = |allocations: &[AllocationView]| failing(&job(2), allocations).map(failure_words);
        let (runs, restarted) = (of(AllocationState::Running, 0), of(AllocationState::Running, 3));
        let once = of(AllocationState::Running, 1);
        assert_eq!(told(std::slice::from_ref(&runs)), None);
        assert_eq!(told(&[once.clone(), restarted.clone(), runs]).as_deref(), Some("restarted 3 times"));
        assert_eq!(told(&[once]).as_deref(), Some("restarted 1 time"));
        let failed = [of(AllocationState::Failed, 3), restarted.clone()];
        assert_eq!(told(&failed).as_deref(), Some("exit code 1"));
        // What is restarted now had failed once, long ago; and so had a task of a group that runs well.
        assert_eq!(failing(&job(1), &failed).map(failure_words).as_deref(), Some("restarted 3 times"));
        let elsewhere = AllocationView { group: "other".to_owned(), ..failed[0].clone() };
        assert_eq!(told(&[elsewhere, restarted.clone()]).as_deref(), Some("restarted 3 times"));
        // What ended with 0 was passed over.
        let shape = Some(JobShape { kind: JobKind::Forever.into(), ..JobShape::default() });
        let complete = [AllocationView { exit_code: 0, ..of(AllocationState::Complete, 3) }, restarted];
        let for_ever = JobView { shape, ..job(2) };
        assert_eq!(failing(&for_ever, &complete).map(failure_words).as_deref(), Some("exit code 0"));
    }

    fn complete() -> JobView {
        JobView {
            shape: Some(JobShape { name: "words".to_owned(), ..JobShape::default() }),
            state: JobState::JobComplete.into(),
            groups: vec![GroupView { done: 10, attempts: 11, ..GroupView::default() }],
            ..JobView::default()
        }
    }

    #[test]
    fn the_summary_says_what_was_run_and_what_it_took() {
        let (first_start, whole) = (Some(Duration::from_millis(412)), Duration::from_millis(3_250));
        let times = Times { first_start, whole };
        let said = |counts| text(&[complete()], times, counts);
        let run = "words complete in 3.2s\n10 tasks run in 11 allocations, the first started after 412.0ms; ";
        let counts = Counts { transactions: 34, conflicts: 2, server_restarted: false };
        assert_eq!(said(Ok(counts)), format!("{run}34 transactions, 2 with conflicts"));
        let since = Counts { server_restarted: true, ..counts };
        assert_eq!(
            said(Ok(since)),
            format!("{run}34 transactions, 2 with conflicts, since the server was last started")
        );
        let unread = Failure::new("UNAVAILABLE", "no cell answers");
        assert_eq!(said(Err(unread)), format!("{run}its transactions can't be read: no cell answers"));
    }

    // "0 tasks run in 3 allocations" was said of a task that had been run three times, and failed each time.
    #[test]
    fn of_jobs_that_did_not_complete_it_says_how_many_tasks_are_done() {
        let failed = JobView {
            state: JobState::JobFailed.into(),
            groups: vec![GroupView { count: 2, attempts: 3, ..GroupView::default() }],
            ..JobView::default()
        };
        assert_eq!(done_words(std::slice::from_ref(&failed)), "0 of 2 tasks done");
        let mut one = complete();
        one.groups[0].count = 10;
        assert_eq!(done_words(&[one.clone(), failed]), "10 of 12 tasks done");
        assert_eq!(done_words(&[one]), "10 tasks run");
    }

    // All jobs had completed, and the run ended with 1 and said nothing of them, where the server died in the moment in which it was asked
    // what they had printed.
    #[tokio::test]
    async fn what_cannot_be_read_at_the_end_is_asked_for_again_and_missing_in_the_end() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = Connection::open(&nobody.local_addr().unwrap().to_string()).await.unwrap();
        drop(nobody);
        let progress = Progress::quiet();
        let until = Instant::now() + 2 * PERIOD;
        let summary = Summary { connection: &connection, progress: &progress, until };
        let mut asked = 0;
        let read = summary.ask(async || {
            asked += 1;
            if asked < 2 { Err(Failure::new("UNAVAILABLE", "it is started again")) } else { Ok(asked) }
        });
        assert_eq!(read.await, Ok(2));
        let times = Times { first_start: None, whole: Duration::from_secs(1) };
        summary.print(&[complete()], times, || true).await.unwrap();
        assert!(Instant::now() >= until, "it was not waited for");
    }
}
