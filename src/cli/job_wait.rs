//! Waiting for a job: looks at it until it is over, also while its cell is away, and tells how it ended and where its words are.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use plenum_proto::v1::{AllocationState, AllocationView, JobState, JobView, ListAllocationsRequest, ListRequest};
use tokio::time::Instant;

use super::{
    Context, JobName,
    long_wait::{LongWait, waiting_line},
    retired::get_job_to_its_end,
};
use crate::{
    connect::Connection,
    failure::{EXIT_FAILED, EXIT_UNFINISHED, Failure},
    output::{self, Format, Row},
};

/// How often the job's state is asked for while waiting for its end: first often, then seldom.
pub(super) const WAIT_PERIOD_MIN: Duration = Duration::from_millis(50);
const WAIT_PERIOD_MAX: Duration = Duration::from_secs(1);
/// How long one look may take before the cell counts as away.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a cell may be away before a wait is given up.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Waits for the end of the job that was submitted at revision `since`, and exits with its result, also where it is retired by then. Says why the job waits
/// where it does so for long: the cell may be gone by the time that somebody looks.
pub(super) async fn wait_for(
    context: &Context,
    connection: &Connection,
    job: &JobName,
    since: u64,
    deadline: Option<Instant>,
) -> Result<ExitCode, Failure> {
    let mut period = WAIT_PERIOD_MIN;
    let mut silent_since = None;
    let mut state = JobState::JobWaiting;
    let (began, mut waits) = (Instant::now(), LongWait::default());
    loop {
        let answer = in_time(deadline, get_job_to_its_end(connection, job, since)).await;
        let Some((revision, view)) = found(answer, &mut silent_since)? else {
            rest(job, (state, waits.reason()), &mut period, deadline).await?;
            continue;
        };
        state = view.state();
        if let Some(reason) = waits.news(&view.waiting_reason, began.elapsed()) {
            output::tell(&waiting_line(&format!("job {}", job.called()), &view, &reason));
        }
        let has_ended = matches!(state, JobState::JobComplete | JobState::JobFailed | JobState::JobStopped);
        // A picture from before the submission may show the end of an earlier run of the job.
        if has_ended && revision >= since {
            let called = job.called();
            let text = || ended_text(&called, &view);
            let printed = output::object(context.format, &view.to_json(), &called, text);
            output::print_and_go_on(printed.as_bytes())?;
            point_to_logs(context, connection, job, &view).await;
            let code = if state == JobState::JobComplete { 0 } else { EXIT_FAILED };
            return Ok(ExitCode::from(code));
        }
        rest(job, (state, waits.reason()), &mut period, deadline).await?;
    }
}

/// How a job ended, and why where it failed: its first failed task.
fn ended_text(name: &str, view: &JobView) -> String {
    let why = if view.reason.is_empty() { String::new() } else { format!(": {}", view.reason) };
    // Agents say it, of what job files say.
    output::lines(&format!("job {name} {}{why}\n", output::job_state(view.state())))
}

/// Sleeps until the job shall be looked at again, at the latest at the deadline: what happens just before it still counts.
/// Fails behind it, with how the job was seen last and why it waited.
async fn rest(
    job: &JobName,
    (state, reason): (JobState, &str),
    period: &mut Duration,
    deadline: Option<Instant>,
) -> Result<(), Failure> {
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let what = format!("job {} is {} at the time limit{why}", job.called(), output::job_state(state));
    rest_or_give_up(job, (what, "it goes on"), period, deadline).await
}

/// The same, with these words where it fails: what was not reached, and what becomes of the job.
pub(super) async fn rest_or_give_up(
    job: &JobName,
    (what, goes_on): (String, &str),
    period: &mut Duration,
    deadline: Option<Instant>,
) -> Result<(), Failure> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if left.is_some_and(|left| left.is_zero()) {
        return Err(Failure::new("TIME_LIMIT", what)
            .with_hint(format!("{goes_on}; see `plenum job show {}/{}`", job.namespace, job.name))
            .with_exit(EXIT_UNFINISHED));
    }
    tokio::time::sleep(left.map_or(*period, |left| left.min(*period))).await;
    *period = (*period * 2).min(WAIT_PERIOD_MAX);
    Ok(())
}

/// What one look finds. A server that is there and does not answer is as far away as one that is gone.
pub(super) async fn in_time<T>(
    deadline: Option<Instant>,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let left = deadline.map_or(ANSWER_MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
    let answer = tokio::time::timeout(left.clamp(WAIT_PERIOD_MAX, ANSWER_MAX), answer).await;
    answer.unwrap_or_else(|_| Err(Failure::new("UNAVAILABLE", "the cell does not answer")))
}

/// What was answered; nothing while the cell is away for less than [`SILENCE_MAX`], such as for a restart, or has too much to do to answer.
/// What is waited for has been accepted: that its cell does not answer says nothing about it.
pub(super) fn found<T>(answer: Result<T, Failure>, silent_since: &mut Option<Instant>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => {
            *silent_since = None;
            Ok(Some(found))
        }
        Err(failure) if matches!(failure.code.as_str(), "UNAVAILABLE" | "SERVER_ENDING" | "QUEUE_FULL") => {
            if silent_since.is_none() {
                output::tell("the cell does not answer at the moment; waiting for it");
            }
            let since = *silent_since.get_or_insert_with(Instant::now);
            if since.elapsed() < SILENCE_MAX { Ok(None) } else { Err(failure) }
        }
        Err(failure) => Err(failure),
    }
}

/// Tells people, not programs, where to read what the job printed. Of one that failed also where its result goes to a file or another program.
async fn point_to_logs(context: &Context, connection: &Connection, job: &JobName, view: &JobView) {
    let has_failed = view.state() == JobState::JobFailed;
    let is_for_people = matches!(context.format, Format::Table | Format::Wide);
    if !is_for_people || !(has_failed || io::stdout().is_terminal()) {
        return;
    }
    let filter = if has_failed { "state=failed".to_owned() } else { String::new() };
    let list = ListRequest { namespace: job.namespace.clone(), filter, ..ListRequest::default() };
    let request =
        ListAllocationsRequest { list: Some(list), job: job.name.clone(), machine: String::new(), ended: true };
    let mut jobs = connection.jobs();
    // How the job ended has been told.
    let answer = tokio::time::timeout(ANSWER_MAX, jobs.list_allocations(request)).await;
    let Ok(Ok(answer)) = answer else { return };
    if let Some(command) = logs_of(view, &answer.into_inner().allocations) {
        output::tell(&format!("see what it printed: `plenum {command}`"));
    }
}

/// The command that prints what tells most of a job's end: the standard error of the task that failed it, or the output of its last group.
fn logs_of(view: &JobView, allocations: &[AllocationView]) -> Option<String> {
    if view.state() == JobState::JobFailed {
        let is_named =
            |failed: &AllocationView| view.reason.starts_with(&format!("task {}[{}] ", failed.group, failed.task));
        // What its name did before is listed, too.
        let is_of_it = |failed: &AllocationView| (failed.job_id, failed.job_version) == (view.id, view.version);
        let failed = allocations.iter().filter(|one| one.state() == AllocationState::Failed && is_of_it(one));
        // Others may have failed meanwhile.
        let last = failed.max_by_key(|failed| (is_named(failed), failed.created_revision))?;
        // What was never started printed nothing.
        if last.reason.starts_with("command not found") {
            return None;
        }
        return Some(format!("alloc logs {} --stderr", last.name()));
    }
    let group = view.groups.last()?;
    let of_group = allocations.iter().filter(|allocation| allocation.group == group.name);
    of_group.max_by_key(|last| last.created_revision).map(|last| format!("alloc logs {}", last.name()))
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::GroupView;

    use super::*;

    #[test]
    fn a_job_that_failed_says_why() {
        let mut view = JobView { state: JobState::JobFailed.into(), ..JobView::default() };
        assert_eq!(ended_text("p1", &view), "job p1 failed\n");
        view.reason = "task work[0] failed: exit code 3".to_owned();
        assert_eq!(ended_text("p1", &view), "job p1 failed: task work[0] failed: exit code 3\n");
        view.reason = "command not found: /\u{1b}]0;x\u{7}".to_owned();
        assert_eq!(ended_text("p1", &view), "job p1 failed: command not found: / ]0;x \n");
    }

    // Who waited for a job that failed was told an exit code, and had to find the task, and where its words are.
    #[test]
    fn a_job_that_failed_points_to_the_words_of_the_task_that_failed_it() {
        let allocation = |group: &str, task, state: AllocationState, created_revision: u64| AllocationView {
            id: created_revision << 32 | 1,
            group: group.to_owned(),
            task,
            state: state.into(),
            created_revision,
            ..AllocationView::default()
        };
        let (failed, complete) = (AllocationState::Failed, AllocationState::Complete);
        let allocations =
            [("map", 1, failed, 4), ("map", 1, failed, 5), ("map", 2, failed, 6), ("reduce", 0, complete, 7)]
                .map(|(group, task, state, revision)| allocation(group, task, state, revision));
        let groups = vec![GroupView { name: "map".to_owned(), ..GroupView::default() }];
        let reason = "task map[1] failed: exit code 3".to_owned();
        let mut view = JobView { state: JobState::JobFailed.into(), reason, groups, ..JobView::default() };
        let name = |position: usize| allocations[position].name();
        assert_eq!(logs_of(&view, &allocations), Some(format!("alloc logs {} --stderr", name(1))));
        view.reason = "what an earlier version says".to_owned();
        assert_eq!(logs_of(&view, &allocations), Some(format!("alloc logs {} --stderr", name(2))));
        assert_eq!(logs_of(&view, &allocations[3..]), None, "no task of it failed");
        let reason = "command not found: nginx (looked in /bin)".to_owned();
        let unstarted = AllocationView { reason, ..allocations[2].clone() };
        assert_eq!(logs_of(&view, &[unstarted]), None, "it printed nothing");
        view.version = 2;
        assert_eq!(logs_of(&view, &allocations), None, "these were of an earlier version");
        view.state = JobState::JobComplete.into();
        assert_eq!(logs_of(&view, &allocations), Some(format!("alloc logs {}", name(2))));
    }

    // A wait for a job ended as failed while many others listed.
    #[test]
    fn a_cell_that_has_too_much_to_do_is_waited_for_as_one_that_is_away() {
        let mut silent_since = None;
        for code in ["QUEUE_FULL", "UNAVAILABLE"] {
            assert_eq!(found::<()>(Err(Failure::new(code, "later")), &mut silent_since), Ok(None));
        }
        assert_eq!(found(Ok(7), &mut silent_since), Ok(Some(7)));
        assert!(
            silent_since.is_none() && found::<()>(Err(Failure::new("NO_SUCH_JOB", "no")), &mut silent_since).is_err()
        );
    }
}
