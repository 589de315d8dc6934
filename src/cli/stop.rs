//! `plenum job stop`: asks for it, waits for the end of what runs where that is wanted, and tells of tasks that run on, as the cell does not know them.

use std::process::ExitCode;

use plenum_proto::error::code_of;
use plenum_proto::v1::{At, GroupView, JobState, JobView, ListRequest, ListUnknownTasksResponse, StopRequest};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Context, JobName, get_job, hints,
    job::{ANSWER_MAX, WAIT_PERIOD_MAX, WAIT_PERIOD_MIN, found, tell_job_change},
};
use crate::{
    connect::Connection,
    failure::{EXIT_UNFINISHED, Failure},
    output,
};

/// Stops a job; with `wait`, until the deadline if there is one, waits until nothing of it runs any more.
pub(super) async fn stop(context: &Context, job: &JobName, wait: Option<Option<Instant>>) -> Result<ExitCode, Failure> {
    let request = StopRequest { namespace: job.namespace.clone(), name: job.name.clone() };
    let connection = context.connect().await?;
    let answer = match connection.jobs().stop(request).await {
        Ok(answer) => Some(answer.into_inner()),
        // What was asked for is so.
        Err(status) if code_of(&status) == "JOB_OVER" => None,
        Err(status) => return Err(hints::of_missing(&connection, job, None, status.into()).await),
    };
    let unknown = unknown_of(&connection, job, None).await;
    if let Some(words) = output::unknown_words(&unknown.tasks, unknown.truncated) {
        output::tell(&format!("warning: of {} {words}", job.called()));
    }
    let unknown = json!({"unknown_tasks": unknown.tasks.len()});
    if answer.is_some() {
        hints::warn_of_older_copy(&connection).await;
    }
    if let Some(deadline) = wait {
        let since = answer.map_or(0, |answer| answer.revision);
        wait_for(context, &connection.patient(), job, (since, deadline), unknown).await?;
    } else if let Some(answer) = answer {
        tell_job_change(context, &answer, job, ("stopping", "has ended already"), unknown)?;
    } else {
        let mut object = ended_json(job, None, unknown);
        object["changed"] = json!(false);
        let called = job.called();
        let text = || format!("{called}: has ended already\n");
        output::print(&output::object(context.format, &object, &called, text))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Tasks of a job that run and that the cell does not know: it neither counts them as the job's nor stops them with it. None where that can't be told,
/// which is no failure of what was asked.
pub(super) async fn unknown_of(connection: &Connection, job: &JobName, at: Option<At>) -> ListUnknownTasksResponse {
    let filter = format!("job={}", job.name);
    let request = ListRequest { namespace: job.namespace.clone(), at, limit: 0, filter };
    let answer = connection.govern().list_unknown_tasks(request).await;
    answer.map_or_else(|_| ListUnknownTasksResponse::default(), tonic::Response::into_inner)
}

/// Waits until nothing runs of the job that was stopped at revision `since`, and says what is left each time that it changed.
async fn wait_for(
    context: &Context,
    connection: &Connection,
    job: &JobName,
    (since, deadline): (u64, Option<Instant>),
    more: Value,
) -> Result<(), Failure> {
    let (mut period, mut silent_since) = (WAIT_PERIOD_MIN, None);
    let mut told = String::new();
    loop {
        let answer = tokio::time::timeout(ANSWER_MAX, get_job(connection, job, None)).await;
        let answer = answer.unwrap_or_else(|_| Err(Failure::new("UNAVAILABLE", "the cell does not answer")));
        match answer {
            // Retired: there is nothing left of it.
            Err(failure) if failure.code == "NO_SUCH_JOB" => return done(context, job, None, more),
            answer => {
                if let Some((revision, view)) =
                    found(answer, &mut silent_since)?.filter(|(revision, _)| *revision >= since)
                {
                    let Some(left) = left(&view) else { return done(context, job, Some((revision, &view)), more) };
                    if left != told {
                        output::tell(&format!("{}: {left}", job.called()));
                        told = left;
                    }
                }
            }
        }
        let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if rest.is_some_and(|rest| rest.is_zero()) {
            let left = if told.is_empty() { "not known to have ended" } else { told.as_str() };
            return Err(Failure::new("TIME_LIMIT", format!("{}: {left} at the time limit", job.called()))
                .with_hint(format!("it goes on stopping; see `plenum job show {}/{}`", job.namespace, job.name))
                .with_exit(EXIT_UNFINISHED));
        }
        tokio::time::sleep(rest.map_or(period, |rest| rest.min(period))).await;
        period = (period * 2).min(WAIT_PERIOD_MAX);
    }
}

/// What still runs of a job that was stopped; nothing where it is all gone. A job that is not over was submitted anew, which can't be before that.
fn left(view: &JobView) -> Option<String> {
    if matches!(view.state(), JobState::JobWaiting | JobState::JobRunning) {
        return None;
    }
    let sum = |of: fn(&GroupView) -> u32| view.groups.iter().map(|group| u64::from(of(group))).sum::<u64>();
    let stopping = sum(|group| group.granted + group.starting + group.running + group.stopping);
    let lost = sum(|group| group.lost);
    match (stopping, lost) {
        (0, 0) => None,
        (stopping, 0) => Some(format!("{} left", plenum_model::counted(stopping, "task"))),
        (stopping, lost) => Some(format!(
            "{} left, {lost} of them on machines that were given up and may come back",
            plenum_model::counted(stopping.saturating_add(lost), "task")
        )),
    }
}

/// Says that nothing of it runs any more; how the cell has the job then, where it still does.
fn done(context: &Context, job: &JobName, seen: Option<(u64, &JobView)>, more: Value) -> Result<(), Failure> {
    let called = job.called();
    let mut object = ended_json(job, seen.map(|(revision, _)| revision), more);
    object["state"] = json!(seen.map(|(_, view)| output::job_state(view.state())));
    let at = seen.map(|(revision, _)| format!(" (revision {revision})")).unwrap_or_default();
    output::print(&output::object(context.format, &object, &called, || {
        format!("{called}: all its tasks have ended{at}\n")
    }))
}

fn ended_json(job: &JobName, revision: Option<u64>, mut more: Value) -> Value {
    more["name"] = json!(job.name);
    more["namespace"] = json!(job.namespace);
    more["revision"] = json!(revision);
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_job_is_waited_for_until_none_of_its_tasks_is_left() {
        let job = |state: JobState, group: GroupView| JobView {
            state: state.into(),
            groups: vec![GroupView::default(), group],
            ..JobView::default()
        };
        let none = GroupView { done: 2, failed: 1, ..GroupView::default() };
        assert_eq!(left(&job(JobState::JobStopped, none)), None);
        let stopping = GroupView { running: 1, stopping: 2, ..GroupView::default() };
        assert_eq!(left(&job(JobState::JobStopped, stopping.clone())).as_deref(), Some("3 tasks left"));
        assert_eq!(left(&job(JobState::JobRunning, stopping)), None, "it was submitted anew");
        let lost = GroupView { lost: 1, ..GroupView::default() };
        let told = left(&job(JobState::JobStopped, lost)).unwrap_or_default();
        assert!(told.starts_with("1 task left, 1 of them on machines that were given up"), "{told}");
    }
}
