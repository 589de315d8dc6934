//! `plenum job stop`: asks for it, waits for the end of what runs where that is wanted, and tells of tasks that run on, as the cell does not know them.

use std::process::ExitCode;

use plenum_proto::error::code_of;
use plenum_proto::v1::{
    At, ChangeResponse, GroupView, JobState, JobView, ListRequest, ListUnknownTasksResponse, MomentRequest,
    StopRequest, UnknownTaskView,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Context, JobName,
    accepted::Accepted,
    get_job, hints,
    interrupt::unless_interrupted,
    job::tell_job_change,
    job_wait::{WAIT_PERIOD_MIN, rest_or_give_up},
    silence::{found, given_up, in_time, silence_words},
};
use crate::{connect::Connection, failure::Failure, output};

/// Stops a job; with `wait`, until the deadline if there is one, waits until nothing of it runs any more.
pub(super) async fn stop(context: &Context, job: &JobName, wait: Option<Option<Instant>>) -> Result<ExitCode, Failure> {
    let request = StopRequest { namespace: job.namespace.clone(), name: job.name.clone(), ..Default::default() };
    let connection = context.connect().await?;
    let answer = match connection.jobs().stop(request).await {
        Ok(answer) => Some(answer.into_inner()),
        // What was asked for is so.
        Err(status) if code_of(&status) == "JOB_OVER" => None,
        Err(status) => return Err(hints::of_missing(&connection, job, None, status.into()).await),
    };
    // It has taken effect, and is told soon whatever becomes of the server.
    let until = hints::look_until(wait.flatten());
    let unknown = unknown_of(&connection, job, None, until).await;
    if let Some(unknown) = unknown.as_ref().filter(|unknown| !unknown.tasks.is_empty()) {
        warn_of_unknown(&connection, job, unknown, until).await;
    }
    if answer.is_some() {
        let _ = tokio::time::timeout_at(until, hints::warn_of_older_copy(&connection)).await;
    }
    let object = stopped_json(job, answer.as_ref(), unknown.as_ref());
    if let Some(deadline) = wait {
        let since = answer.map_or(0, |answer| answer.revision);
        // A job that was over already changed at no revision, and the cell has shown this one.
        let shown = since.max(unknown.as_ref().map_or(0, |unknown| unknown.revision));
        let connection = connection.patient();
        let waiting = async {
            let accepted = Accepted::at(&connection, shown, until).await;
            wait_for(context, &connection, job, (since, deadline), &accepted, object).await
        };
        unless_interrupted(waiting, || {
            let (called, JobName { namespace, name }) = (job.called(), job);
            format!("job {called} goes on stopping; `plenum job show {namespace}/{name}` tells what is left")
        })
        .await?;
    } else if let Some(answer) = answer {
        tell_job_change(context, &answer, job, ("stopping", "has ended already"), object)?;
    } else {
        let called = job.called();
        let text = || format!("{called}: has ended already\n");
        output::print(&output::object(context.format, &object, &called, text))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Tasks of a job that run and that the cell does not know: it neither counts them as the job's nor stops them with it. Nothing where that can't be told,
/// or not until then, which is no failure of what was asked.
pub(super) async fn unknown_of(
    connection: &Connection,
    job: &JobName,
    at: Option<At>,
    until: Instant,
) -> Option<ListUnknownTasksResponse> {
    let filter = format!("job={}", job.name);
    let request = ListRequest { namespace: job.namespace.clone(), at, limit: 0, filter };
    hints::besides(until, connection.govern().list_unknown_tasks(request)).await
}

/// Warns of tasks that run on though their job is stopped. When they are stopped goes by the cell's clock, which may show another time than this machine's.
async fn warn_of_unknown(connection: &Connection, job: &JobName, unknown: &ListUnknownTasksResponse, until: Instant) {
    let moment = hints::besides(until, connection.inspect().moment(MomentRequest { at: None })).await;
    if let Some(moment) = moment.filter(|moment| moment.time_micros > 0) {
        output::go_by_clock(moment.time_micros);
    }
    if let Some(words) = output::unknown_words(&unknown.tasks, unknown.truncated) {
        output::tell(&format!("warning: of {} {words}", job.called()));
    }
}

/// Adds what programs read of such tasks: null where it is not known whether there are any, and whether these are not all.
pub(super) fn add_unknown(
    object: &mut Value,
    name: &str,
    unknown: Option<&ListUnknownTasksResponse>,
    of: fn(&[UnknownTaskView]) -> Value,
) {
    object[name] = json!(unknown.map(|unknown| of(&unknown.tasks)));
    if unknown.is_some_and(|unknown| unknown.truncated) {
        object["unknown_truncated"] = json!(true);
    }
}

/// What programs read of the stop itself, waited for or not. At which revision a job was stopped that was over before is not known.
fn stopped_json(job: &JobName, answer: Option<&ChangeResponse>, unknown: Option<&ListUnknownTasksResponse>) -> Value {
    let mut object = json!({
        "name": job.name,
        "namespace": job.namespace,
        "revision": answer.map(|answer| answer.revision),
        "changed": answer.is_some_and(|answer| answer.changed),
    });
    add_unknown(&mut object, "unknown_tasks", unknown, |tasks| json!(tasks.len()));
    object
}

/// A job that was stopped, as it was found.
#[derive(Debug)]
struct Look {
    /// With the revision; `None` where it is retired.
    seen: Option<(u64, JobView)>,
    /// What still runs of it; with nothing the wait ends.
    left: Option<String>,
}

/// One look at a job that was stopped. It is taken from the cell that was asked alone: another one, or an older copy, may have no such job, or one that looks
/// as if it had been submitted anew.
async fn look(connection: &Connection, job: &JobName, accepted: &Accepted) -> Result<Look, Failure> {
    let seen = match get_job(connection, job, None).await {
        Err(failure) if failure.code == "NO_SUCH_JOB" => None,
        found => Some(found?),
    };
    if let Some((revision, _)) = &seen {
        accepted.expect_shown_at(*revision)?;
    }
    let left = seen.as_ref().and_then(|(_, view)| left(view));
    if left.is_none() {
        accepted.expect_known_to(connection).await?;
    }
    Ok(Look { seen, left })
}

/// Waits until nothing runs of the job that was stopped at revision `since`, and says what is left each time that it changed.
async fn wait_for(
    context: &Context,
    connection: &Connection,
    job: &JobName,
    (since, deadline): (u64, Option<Instant>),
    accepted: &Accepted,
    object: Value,
) -> Result<(), Failure> {
    let (mut period, mut silence) = (WAIT_PERIOD_MIN, None);
    let mut told = String::new();
    loop {
        let looked = in_time(deadline, look(connection, job, accepted)).await;
        let found = found(looked, &mut silence).map_err(|failure| accepted_all_the_same(failure, job, since))?;
        if let Some(Look { seen, left }) = found {
            let Some(left) = left else { return done(context, job, seen.as_ref(), object) };
            if left != told {
                output::tell(&format!("{}: {left}", job.called()));
                told = left;
            }
        }
        let left = if told.is_empty() { "not known to have ended" } else { told.as_str() };
        let what = format!("{}: {left} at the time limit{}", job.called(), silence_words(silence));
        rest_or_give_up(job, (what, "it goes on stopping"), &mut period, deadline).await?;
    }
}

/// The failure with which the wait ends, the cell having been away for too long. Of a job that was over before no stop was accepted.
fn accepted_all_the_same(failure: Failure, job: &JobName, since: u64) -> Failure {
    let JobName { namespace, name } = job;
    let called = job.called();
    let what = match since {
        0 => format!("job {called} was over already, and what is left of it goes on stopping"),
        since => format!("the stop of job {called} (revision {since}) was accepted, and goes on"),
    };
    given_up(failure, &what, &format!("`plenum job show {namespace}/{name}`"))
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

/// Says that nothing of it runs any more. `seen`: how the cell has the job then, where it still does, and at which revision.
fn done(context: &Context, job: &JobName, seen: Option<&(u64, JobView)>, object: Value) -> Result<(), Failure> {
    let called = job.called();
    let seen = seen.map(|(revision, view)| (*revision, view));
    let object = ended_json(object, seen);
    let at = seen.map(|(revision, _)| format!(" (revision {revision})")).unwrap_or_default();
    output::print(&output::object(context.format, &object, &called, || {
        format!("{called}: all its tasks have ended{at}\n")
    }))
}

/// What programs read of a stop that was waited for: all that they read of one that was not, and its end.
fn ended_json(mut object: Value, seen: Option<(u64, &JobView)>) -> Value {
    object["ended_revision"] = json!(seen.map(|(revision, _)| revision));
    object["state"] = json!(seen.map(|(_, view)| output::job_state(view.state())));
    object
}

#[cfg(test)]
mod tests {
    use super::super::{changed, job_wait::submitted, served, silence::OTHER_CELL};
    use super::*;

    // Where the server came back on an empty directory all tasks of the job were said to have ended.
    #[tokio::test]
    async fn a_job_that_another_cell_does_not_know_is_not_told_as_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let (server, connection, context) = served(folder.path()).await;
        let job = JobName { namespace: "ml".to_owned(), name: "web".to_owned() };
        let waited = async |accepted: Accepted, deadline: Option<Instant>| {
            wait_for(&context, &connection, &job, (1, deadline), &accepted, json!({})).await
        };
        let ended = waited(Accepted::numbered(1 << 40), Some(Instant::now())).await;
        let failure = ended.expect_err("it is another cell's");
        assert_eq!(failure.code, "TIME_LIMIT", "{failure}");
        let told = "ml/web: not known to have ended at the time limit; how it is now the cell has not told";
        assert_eq!(failure.message, told);
        let begun = changed(&connection).await;
        let accepted = Accepted::at(&connection, begun.revision, hints::look_until(None)).await;
        assert_eq!(waited(accepted, None).await, Ok(()), "it is retired");
        server.shutdown().await.expect("a server that ends");
    }

    // Where the server came back on a copy from before the stop, the job that ran there was taken for one that had been submitted anew: all its tasks were
    // said to have ended, and ran on.
    #[tokio::test]
    async fn a_job_that_another_cell_has_under_that_name_is_not_told_as_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let (server, connection, context) = served(folder.path()).await;
        let (job, submitted) = submitted(&connection).await;
        let waited = async |accepted: &Accepted, deadline: Option<Instant>| {
            let until = (accepted.revision, deadline);
            wait_for(&context, &connection, &job, until, accepted, json!({})).await
        };
        // It has the job at a lower revision: that was never looked into, and the wait went on without a word.
        for elsewhere in [Accepted::elsewhere(submitted.revision), Accepted::numbered(1 << 40)] {
            let failure = waited(&elsewhere, Some(Instant::now())).await.expect_err("it is another cell's");
            assert_eq!(failure.code, "TIME_LIMIT", "{failure}");
            let failure = look(&connection, &job, &elsewhere).await.expect_err("it is another cell's");
            assert_eq!(failure.code, OTHER_CELL, "{failure}");
        }
        let accepted = Accepted::at(&connection, submitted.revision, hints::look_until(None)).await;
        assert_eq!(waited(&accepted, None).await, Ok(()), "it was submitted anew");
        server.shutdown().await.expect("a server that ends");
    }

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

    // The code said that nothing had been changed.
    #[test]
    fn a_stop_whose_cell_does_not_answer_any_more_was_accepted_all_the_same() {
        let job = JobName { namespace: "ml".to_owned(), name: "web".to_owned() };
        let told = |since| accepted_all_the_same(Failure::new("UNAVAILABLE", "no cell answers"), &job, since);
        assert_eq!(told(9).code, "OUTCOME_UNKNOWN");
        assert!(told(9).message.starts_with("the stop of job ml/web (revision 9) was accepted, and goes on; "));
        // The cell had refused it, and it was said to be accepted.
        let over = told(0);
        assert_eq!(over.code, "OUTCOME_UNKNOWN");
        let expected = "job ml/web was over already, and what is left of it goes on stopping; for ";
        assert!(over.message.starts_with(expected), "{over}");
    }

    // With `--wait` there was no `changed`, and `revision` was another one.
    #[test]
    fn programs_read_the_same_of_a_stop_that_is_waited_for_and_its_end() {
        let job = JobName { namespace: "ml".to_owned(), name: "web".to_owned() };
        let none = ListUnknownTasksResponse::default();
        let answer = ChangeResponse { revision: 5, changed: true };
        let stopped = stopped_json(&job, Some(&answer), Some(&none));
        let expected = json!({"name": "web", "namespace": "ml", "revision": 5, "changed": true, "unknown_tasks": 0});
        assert_eq!(stopped, expected);
        let view = JobView { state: JobState::JobStopped.into(), ..JobView::default() };
        let ended = ended_json(stopped, Some((9, &view)));
        assert_eq!((&ended["revision"], &ended["changed"]), (&json!(5), &json!(true)));
        assert_eq!((&ended["ended_revision"], &ended["state"]), (&json!(9), &json!("stopped")));
        let over = stopped_json(&job, None, Some(&none));
        assert_eq!((&over["revision"], &over["changed"]), (&Value::Null, &json!(false)));
    }

    // Who could not be asked, or not for all, read as if nothing of the job ran on.
    #[test]
    fn tasks_that_may_run_on_are_not_told_to_programs_as_none() {
        let job = JobName { namespace: "ml".to_owned(), name: "web".to_owned() };
        let not_asked = stopped_json(&job, None, None);
        assert_eq!(not_asked.get("unknown_tasks"), Some(&Value::Null));
        let tasks = vec![UnknownTaskView::default(); 2];
        let part = ListUnknownTasksResponse { tasks, truncated: true, ..ListUnknownTasksResponse::default() };
        let told = stopped_json(&job, None, Some(&part));
        assert_eq!((&told["unknown_tasks"], &told["unknown_truncated"]), (&json!(2), &json!(true)));
        let all = ListUnknownTasksResponse { truncated: false, ..part };
        assert_eq!(stopped_json(&job, None, Some(&all)).get("unknown_truncated"), None);
    }
}
