//! `plenum job`: submit, list, show, stop, launch and scale, and what happened.

use std::{collections::BTreeSet, path::Path, process::ExitCode, time::Duration};

use plenum_model::{LAUNCH_SCHEDULER_OPTION, counted};
use plenum_proto::error::{is_unanswered, no_cell};
use plenum_proto::v1::{
    AllocationView, At, ChangeResponse, GetJobRequest, JobHistoryRequest, JobKind, JobShape, JobState, JobView,
    LaunchRequest, ListAllocationsRequest, ListRequest, ScaleRequest, SessionView, SubmitRequest, SubmitResponse,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Status;

use super::{
    Context, alloc,
    args::{Job, Listing, Told, WaitFor},
    ended::Shown,
    fits, hints, history,
    job_wait::{Goal, Wait},
    stop,
    target::{self, JobName},
    watch::{self, Listed},
};
use crate::{
    connect::{Connection, is_unconnected},
    failure::Failure,
    job_file::{self, JobFile},
    output::{self, Row},
};

/// How often what two answers show is asked for again when they show different revisions.
const READS_AGAIN_MAX: usize = 4;

pub(super) async fn run(context: &Context, command: Job) -> Result<ExitCode, Failure> {
    match command {
        Job::Run { file, wait, timeout } => return submit(&context.within(timeout), &file, wait, timeout).await,
        Job::List(listing) => list(context, &listing).await?,
        Job::Show { job, at } => show(context, &target::job(context, &job)?, at).await?,
        Job::History { job, told: Told { at, before, limit } } => {
            let job = target::job(context, &job)?;
            let JobName { namespace, name } = job.clone();
            let shown = format!("job show {namespace}/{name}");
            let connection = context.connect_to_read(at).await?;
            let told = history::below(at, before, async |at| {
                let request = JobHistoryRequest { namespace: namespace.clone(), name: name.clone(), at, limit };
                Ok(connection.jobs().job_history(request).await?.into_inner())
            });
            let story = match told.await {
                Ok(story) => story,
                Err(failure) => return Err(hints::elsewhere(&connection, &job, at, failure).await),
            };
            history::print(context, &story)?;
            history::tell_how_it_was(context, &story, &shown);
        }
        Job::Stop { job, wait, timeout } => {
            let context = &context.within(timeout);
            return stop::stop(context, &target::job(context, &job)?, wait.then(|| deadline(timeout))).await;
        }
        Job::Launch { job, at, wait, timeout } => {
            let context = &context.within(timeout);
            return launch(context, &target::job(context, &job)?, at, wait.then(|| deadline(timeout))).await;
        }
        Job::Scale { job, count, group, wait, timeout } => {
            let (context, wait) = (&context.within(timeout), wait.then(|| deadline(timeout)));
            return scale(context, &target::job(context, &job)?, (count, group), wait).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Puts a file's custom resources in the order of the cell that it goes to.
pub(crate) async fn number_resources(connection: &Connection, file: JobFile) -> Result<JobFile, Failure> {
    if !file.has_custom_resources() {
        return Ok(file);
    }
    Ok(file.with_custom_resources(&super::custom_resources(connection).await?)?)
}

async fn submit(
    context: &Context,
    path: &Path,
    wait: Option<WaitFor>,
    timeout: Option<i64>,
) -> Result<ExitCode, Failure> {
    // As of all commands that wait: what is asked besides counts.
    let until = deadline(timeout);
    // A wrong file is told before a missing cell.
    let file = context.job_file(path)?;
    if let Some(shape) = file.spec.shape.as_ref().filter(|_| wait.is_some()) {
        refuse_recurring(&output::job_called(&shape.namespace, &shape.name), shape)?;
    }
    let connection = context.connect_to_read(None).await?;
    let file = number_resources(&connection, file).await?;
    let spec = file.spec;
    let shape = spec.shape.clone().unwrap_or_default();
    let job = JobName { namespace: shape.namespace.clone(), name: shape.name.clone() };
    // Asked before: what there was is gone from then on.
    let before = match get_job(&connection, &job, None).await {
        // The submission would only wait as long once more.
        Err(failure) if failure.code == "UNAVAILABLE" => return Err(failure),
        before => before.ok().map(|(_, view)| view),
    };
    let answer = match connection.jobs().submit(SubmitRequest { spec: Some(spec.clone()), ..Default::default() }).await
    {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(hints::of_changed(&connection, &spec, status.into()).await),
    };
    warn_unattended(&connection, &shape).await;
    fits::warn_of_misfit(&connection, &shape).await;
    hints::warn_of_older_copy(&connection).await;
    if let Some(wait) = wait {
        if let Some(endless) = job_file::endless(&shape).filter(|_| wait == WaitFor::End && timeout.is_none()) {
            output::tell(&format!(
                "job {} {endless}: waiting until it fails or is stopped; --wait=running waits until all its tasks run",
                job.called()
            ));
        }
        let goal = match wait {
            WaitFor::End => Goal::End { id: answer.job, version: Some(answer.version) },
            WaitFor::Running => Goal::Running { id: answer.job, version: answer.version },
        };
        let (connection, since) = (&connection.patient(), answer.revision);
        let wait = Wait { connection, job: &job, goal, since, deadline: until };
        let look = wait.reached().await?;
        return wait.told(context, &look, look.view.to_json()).await;
    }
    let object = json!({
        "name": job.name, "namespace": job.namespace, "version": answer.version, "revision": answer.revision,
        "changed": answer.changed,
    });
    let words = submitted_words(&answer, before.as_ref(), &shape);
    let called = job.called();
    let text = || format!("job {called} {words} (version {}, revision {})\n", answer.version, answer.revision);
    output::print(&output::object(context.format, &object, &called, text))?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses to wait for a job of which nothing runs itself.
fn refuse_recurring(called: &str, shape: &JobShape) -> Result<(), Failure> {
    if shape.kind() != JobKind::Recurring {
        return Ok(());
    }
    let what = format!("job {called} waits for ever to be launched, so that --wait would never end");
    let hint = format!("leave --wait out; `plenum job launch {called}` launches from it then");
    Err(Failure::usage(what).with_hint(hint))
}

/// What a submission did. The same version of a job that was there can have other numbers of tasks only; somebody else may have changed them meanwhile.
fn submitted_words(answer: &SubmitResponse, before: Option<&JobView>, shape: &JobShape) -> String {
    if !answer.changed {
        return "is there already, unchanged".to_owned();
    }
    let Some(before) = before.filter(|before| (before.id, before.version) == (answer.job, answer.version)) else {
        return "submitted".to_owned();
    };
    let scaled = before.groups.iter().filter_map(|old| {
        let new = shape.groups.iter().find(|new| new.name == old.name && new.count != old.count)?;
        Some(format!("group {} from {} to {}", new.name, old.count, counted(new.count.into(), "task")))
    });
    let scaled: Vec<String> = scaled.collect();
    if scaled.is_empty() { "changed".to_owned() } else { format!("changed: {}", scaled.join(", ")) }
}

/// When a wait of so many microseconds from now on is over.
pub(super) fn deadline(timeout: Option<i64>) -> Option<Instant> {
    timeout.map(|micros| Instant::now() + Duration::from_micros(micros.unsigned_abs()))
}

/// Says so when nobody is there to place a job's tasks: it would wait without a word. That this cannot be found out is no
/// reason to fail, as the job is submitted.
async fn warn_unattended(connection: &Connection, shape: &JobShape) {
    let scheduler = placed_by(shape);
    let filter = format!("scheduler={scheduler},connected=true");
    let request = ListRequest { namespace: String::new(), at: None, limit: 0, filter };
    // A server that stands still would keep an accepted job from being told for as long as a question may take.
    let answer = hints::besides(hints::look_until(None), connection.inspect().list_sessions(request)).await;
    // Where there are more than are told, one of them may be there for it.
    let connected = answer.filter(|answer| !answer.truncated).map(|answer| answer.sessions);
    if let Some(warning) = connected.and_then(|connected| unattended(shape, &connected)) {
        output::tell(&warning);
    }
}

/// Who is to place the job's tasks, or those of the jobs that are launched from it.
fn placed_by(shape: &JobShape) -> &str {
    let launched = shape.options.get(LAUNCH_SCHEDULER_OPTION).filter(|_| shape.kind() == JobKind::Recurring);
    launched.unwrap_or(&shape.scheduler)
}

/// The warning where none of its scheduler's sessions that are connected is there for the job.
fn unattended(shape: &JobShape, connected: &[SessionView]) -> Option<String> {
    let is_there = |session: &SessionView| session.namespace.is_empty() || session.namespace == shape.namespace;
    if connected.iter().any(is_there) {
        return None;
    }
    let of_which = match connected {
        [] => String::new(),
        [first, ..] => format!(" for the namespace {} (one is for {})", shape.namespace, first.namespace),
    };
    let scheduler = placed_by(shape);
    let what = if plenum_schedulers::NAMES.contains(&scheduler) {
        format!("start it with `plenum scheduler {scheduler}`")
    } else {
        let names = plenum_schedulers::NAMES;
        format!("built in: {}{}", names.join(", "), job_file::guess(scheduler, names.iter().copied()))
    };
    let waits = match shape.kind() {
        JobKind::Recurring => {
            "what is launched from the job waits until one is, unless its option `launch.scheduler` names another"
        }
        _ => "the job waits until one is",
    };
    Some(format!("warning: no scheduler named \"{scheduler}\" is connected{of_which}; {waits} ({what})"))
}

/// A job and the revision it was read at.
pub(crate) async fn get_job(connection: &Connection, job: &JobName, at: Option<At>) -> Result<(u64, JobView), Failure> {
    let request = GetJobRequest { namespace: job.namespace.clone(), name: job.name.clone(), at };
    let answer = connection.jobs().get(request).await?.into_inner();
    match answer.job {
        Some(view) => Ok((answer.revision, view)),
        None => {
            Err(Failure::new("NO_SUCH_JOB", format!("there is no job {} in namespace {}", job.name, job.namespace)))
        }
    }
}

/// What listings ask for.
pub(super) fn list_request(context: &Context, listing: &Listing) -> ListRequest {
    ListRequest {
        namespace: context.namespace.clone().unwrap_or_default(),
        at: listing.at,
        limit: listing.limit,
        filter: listing.filter.clone().unwrap_or_default(),
    }
}

async fn list(context: &Context, listing: &Listing) -> Result<(), Failure> {
    let connection = context.connect_to_read(listing.at).await?;
    watch::print(context.format, listing.watch, async || {
        let answer = connection.jobs().list(list_request(context, listing)).await?.into_inner();
        Ok(Listed::of(context.format, answer.revision, &answer.jobs, answer.truncated, listing.limit))
    })
    .await
}

/// Two answers that show the same revision, and that one: what changed between them is asked for again. In a cell that never stands still
/// they are as close as they come.
pub(super) async fn of_one_revision<A, B>(
    mut first: impl AsyncFnMut() -> Result<(u64, A), Failure>,
    mut second: impl AsyncFnMut() -> Result<(u64, B), Failure>,
) -> Result<(u64, A, B), Failure> {
    let (mut one, mut other) = (first().await?, second().await?);
    for _ in 0..READS_AGAIN_MAX {
        if one.0 < other.0 {
            one = first().await?;
        } else if other.0 < one.0 {
            other = second().await?;
        }
    }
    Ok((one.0, one.1, other.1))
}

async fn show(context: &Context, job: &JobName, at: Option<At>) -> Result<(), Failure> {
    let connection = context.connect_to_read(at).await?;
    let list = ListRequest { namespace: job.namespace.clone(), at, limit: 0, filter: String::new() };
    let request =
        ListAllocationsRequest { list: Some(list), job: job.name.clone(), machine: String::new(), ended: true };
    let allocations = async || {
        let listed = connection.jobs().list_allocations(request.clone()).await?.into_inner();
        Ok((listed.revision, listed))
    };
    let shown = of_one_revision(async || get_job(&connection, job, at).await, allocations).await;
    let (revision, view, listed) = match shown {
        Ok(shown) => shown,
        Err(failure) => return Err(hints::of_missing(&connection, job, at, failure).await),
    };
    let mut object = view.to_json();
    object["revision"] = json!(revision);
    object["allocations"] = listed.allocations.iter().map(Row::to_json).collect();
    if listed.truncated {
        object["truncated"] = json!(true);
    }
    if listed.looked_back_to > 0 {
        object["looked_back_to"] = json!(listed.looked_back_to);
    }
    let unknown = stop::unknown_of(&connection, job, at, hints::look_until(None)).await;
    stop::add_unknown(&mut object, "unknown", unknown.as_ref(), |tasks| tasks.iter().map(Row::to_json).collect());
    let shown = Shown::of(&view, &listed.allocations, listed.truncated);
    let text = || {
        let shape = view.shape.clone().unwrap_or_default();
        let launched = launches(&view, &shape);
        let mut pairs = vec![
            ("job", format!("{}/{}", shape.namespace, shape.name)),
            ("state", output::job_state_words(&view)),
            ("version", view.version.to_string()),
            ("scheduler", shape.scheduler),
            ("priority", shape.priority.to_string()),
            ("submitted", format!("{} ago", output::ago(view.submitted_micros))),
        ];
        pairs.extend(launched);
        pairs.extend(output::failing_words(&view).map(|words| ("failing", words)));
        if !view.reason.is_empty() {
            pairs.push(("reason", view.reason.clone()));
        }
        pairs.extend(output::waiting_reasons(&view).into_iter().map(|words| ("waits because", words.to_owned())));
        let run_on = unknown.as_ref().and_then(|unknown| output::unknown_words(&unknown.tasks, unknown.truncated));
        pairs.extend(run_on.map(|words| ("unknown", words)));
        pairs.extend(waits_to_start(&listed.allocations).map(|words| ("starts later", words)));
        let groups = output::listing(context.format, revision, &view.groups, false);
        let allocations = output::listing(context.format, revision, &shown.rows, false);
        format!("{}\n{groups}\n{}{allocations}", output::fields(&pairs), asked(&view))
    };
    output::print(&output::object(context.format, &object, &job.called(), text))?;
    let moment = at.map_or_else(String::new, |_| format!(" --at {revision}"));
    let all = format!("plenum alloc list --job {}/{} --all{moment}", job.namespace, job.name);
    let hint = shown.hint(&all);
    // It tells of a list that was cut, too, unless that is for how much of the past was looked at.
    let is_told = hint.is_some() && listed.looked_back_to == 0;
    // Programs have them all, or find `truncated`.
    if let Some(hint) = hint.filter(|_| context.format.is_for_people()) {
        output::tell(&hint);
    }
    if !is_told {
        alloc::tell_of_more(context, &listed);
    }
    Ok(())
}

/// What each group's tasks run, and under which rules: the file that says it is where the job was submitted from, which may be anywhere.
fn asked(view: &JobView) -> String {
    let shapes = view.shape.iter().flat_map(|shape| &shape.groups).enumerate();
    let body = |position: usize| view.body.as_ref().and_then(|body| body.groups.get(position));
    shapes.map(|(position, shape)| output::asked_text(shape, body(position)) + "\n").collect()
}

/// How many tasks wait for others to leave their room, where there are any.
fn waits_to_start(allocations: &[AllocationView]) -> Option<String> {
    let waiting: Vec<_> = allocations.iter().filter(|allocation| !allocation.take_overs.is_empty()).collect();
    let leaving: BTreeSet<String> = waiting.iter().copied().flat_map(output::waits_for).collect();
    let tasks = match waiting.len() {
        0 => return None,
        1 => "1 task".to_owned(),
        several => format!("{several} tasks"),
    };
    let others = if leaving.len() == 1 { "1 other has".to_owned() } else { format!("{} others have", leaving.len()) };
    Some(format!("{tasks}, whose room {others} to leave first (`plenum alloc show ID` names them)"))
}

/// What a job was launched from, what was launched from it last, and its options: where there is any of that.
fn launches(view: &JobView, shape: &JobShape) -> Vec<(&'static str, String)> {
    let time = |micros: i64| {
        jiff::Timestamp::from_microsecond(micros).map_or_else(|_| "-".to_owned(), |time| time.to_string())
    };
    let mut pairs = Vec::new();
    if !view.parent.is_empty() {
        pairs.push(("launched from", format!("{} for {}", view.parent, time(shape.instant_micros))));
    }
    pairs.extend(view.last_instant_micros.map(|last| ("last launched", format!("for {}", time(last)))));
    let options: Vec<String> = shape.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !options.is_empty() {
        pairs.push(("options", options.join(", ")));
    }
    pairs
}

/// Scales a group; with `wait`, until the deadline if there is one, waits until all tasks of the job run.
async fn scale(
    context: &Context,
    job: &JobName,
    (count, group): (u32, Option<String>),
    wait: Option<Option<Instant>>,
) -> Result<ExitCode, Failure> {
    let connection = context.connect().await?;
    // Without a wait a group that is named is taken by its word.
    let before = match (&group, wait) {
        (Some(_), None) => JobView::default(),
        _ => match get_job(&connection, job, None).await {
            Ok((_, view)) => view,
            Err(failure) => return Err(hints::of_missing(&connection, job, None, failure).await),
        },
    };
    // Of one that is over the cell says so.
    let may_wait = wait.is_some() && matches!(before.state(), JobState::JobWaiting | JobState::JobRunning);
    if let Some(shape) = before.shape.as_ref().filter(|_| may_wait) {
        refuse_recurring(&job.called(), shape)?;
    }
    let group = match group {
        Some(group) => group,
        None => only_group(job, &before)?,
    };
    let request = scale_request(job, &before, (&group, count));
    let answer = match connection.jobs().scale(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(hints::of_missing(&connection, job, None, status.into()).await),
    };
    let more = json!({"namespace": job.namespace, "group": group, "count": count});
    if let Some(deadline) = wait {
        hints::warn_of_older_copy(&connection).await;
        let goal = Goal::Running { id: before.id, version: before.version };
        let (connection, since) = (&connection.patient(), answer.revision);
        let wait = Wait { connection, job, goal, since, deadline };
        let look = wait.reached().await?;
        let mut object = change_json(&answer, &job.name, more);
        object["state"] = json!(output::job_state(look.view.state()));
        return wait.told(context, &look, object).await;
    }
    let done = format!("group {group} scaled to {count}");
    let idle = format!("group {group} has {} already", counted(count.into(), "task"));
    tell_job_change(context, &answer, job, (&done, &idle), more)?;
    hints::warn_of_older_copy(&connection).await;
    Ok(ExitCode::SUCCESS)
}

/// Asks for the job that was looked at before, where one was: another one of its name, or another version, may have another group of that name.
fn scale_request(job: &JobName, before: &JobView, (group, count): (&str, u32)) -> ScaleRequest {
    let seen = Some(before).filter(|before| before.id > 0);
    ScaleRequest {
        namespace: job.namespace.clone(),
        name: job.name.clone(),
        group: group.to_owned(),
        count,
        job: seen.map(|before| before.id),
        version: seen.map(|before| before.version),
    }
}

/// The group that is meant where none is named.
fn only_group(job: &JobName, view: &JobView) -> Result<String, Failure> {
    match view.groups.as_slice() {
        [only] => Ok(only.name.clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|group| group.name.as_str()).collect();
            let what = format!("job {} has the groups {}; name one", job.called(), names.join(", "));
            Err(Failure::usage(what).with_hint("for example --group NAME"))
        }
    }
}

/// Launches from a recurring job; with `wait`, until the deadline if there is one, waits for the end of what was launched.
async fn launch(
    context: &Context,
    job: &JobName,
    instant_micros: Option<i64>,
    wait: Option<Option<Instant>>,
) -> Result<ExitCode, Failure> {
    let connection = context.connect().await?;
    let request = LaunchRequest { namespace: job.namespace.clone(), name: job.name.clone(), instant_micros };
    let answer = match connection.jobs().launch(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            let failure = hints::of_passed(&connection, launch_failure(status, job, instant_micros)).await;
            return Err(hints::of_missing(&connection, job, None, failure).await);
        }
    };
    let child = JobName { namespace: job.namespace.clone(), name: answer.name };
    hints::warn_of_older_copy(&connection).await;
    if let Some(deadline) = wait {
        let (connection, since) = (&connection.patient(), answer.revision);
        let goal = Goal::End { id: answer.job, version: None };
        let wait = Wait { connection, job: &child, goal, since, deadline };
        let look = wait.reached().await?;
        return wait.told(context, &look, look.view.to_json()).await;
    }
    let object = json!({
        "name": child.name, "namespace": child.namespace, "parent": job.name,
        "instant": output::json_time(answer.instant_micros), "revision": answer.revision, "changed": answer.changed,
    });
    let words = if answer.changed { "launched" } else { "was launched before" };
    let called = child.called();
    let text = || format!("job {called} {words} from {} (revision {})\n", job.called(), answer.revision);
    output::print(&output::object(context.format, &object, &called, text))?;
    Ok(ExitCode::SUCCESS)
}

/// Why nothing is known to be launched. Asked again without an instant it would be another one, of another second, beside what may have been
/// launched already.
fn launch_failure(status: Status, job: &JobName, instant_micros: Option<i64>) -> Failure {
    let is_unknown = is_unanswered(&status) && !is_unconnected(&status) && no_cell(&status).is_none();
    let failure = Failure::from(status);
    // The field's name is the protocol's, and so is how it counts.
    if let Some(wrong) = failure.message.strip_prefix("instant_micros: ") {
        let message = format!("--at: {}", wrong.replacen("microseconds since 1970, from", "an instant from", 1));
        return Failure { message, ..failure.clone() };
    }
    if !is_unknown {
        return failure;
    }
    let called = job.called();
    let time = instant_micros.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    failure.with_hint(match time {
        Some(time) => format!("it may have been launched; `plenum job launch {called} --at {time}` asks for the same"),
        None => {
            format!("it may have been launched: `plenum job show {called}` tells; asked again it is another instant's")
        }
    })
}

/// Says what a change did.
pub(super) fn tell_change(
    context: &Context,
    answer: &ChangeResponse,
    name: &str,
    done: &str,
    idle: &str,
) -> Result<(), Failure> {
    tell_change_with(context, answer, (name, name), (done, idle), json!({}))
}

/// The same of a job. Programs read its name by itself, and its namespace.
pub(super) fn tell_job_change(
    context: &Context,
    answer: &ChangeResponse,
    job: &JobName,
    words: (&str, &str),
    mut more: Value,
) -> Result<(), Failure> {
    more["namespace"] = json!(job.namespace);
    tell_change_with(context, answer, (job.name.as_str(), job.called().as_str()), words, more)
}

/// Of what has a name, and is called something on the command line. `more` are the fields that programs read besides.
pub(super) fn tell_change_with(
    context: &Context,
    answer: &ChangeResponse,
    (name, called): (&str, &str),
    (done, idle): (&str, &str),
    more: Value,
) -> Result<(), Failure> {
    let object = change_json(answer, name, more);
    let words = if answer.changed { done } else { idle };
    let text = || format!("{called}: {words} (revision {})\n", answer.revision);
    output::print(&output::object(context.format, &object, called, text))
}

/// What programs read of a change, `more` besides.
pub(super) fn change_json(answer: &ChangeResponse, name: &str, mut more: Value) -> Value {
    more["name"] = json!(name);
    more["revision"] = json!(answer.revision);
    more["changed"] = json!(answer.changed);
    more
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{AllocationState, GroupView, TakeOver};

    use super::*;

    // A server that took a job and then stood still kept `job run` from saying so for a minute.
    #[tokio::test]
    async fn whether_somebody_places_a_job_is_asked_for_some_seconds_only() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = Connection::open(&silent.local_addr().unwrap().to_string()).await.unwrap();
        let shape = JobShape::default();
        let asked = tokio::time::timeout(Duration::from_secs(20), warn_unattended(&connection, &shape));
        assert!(asked.await.is_ok());
    }

    // Tasks were `granted` for as long as those whom they evicted took to end, and nothing said why they did not start.
    #[test]
    fn a_job_whose_tasks_wait_for_others_to_leave_says_so() {
        let granted = |victims: &[u64]| {
            let take_overs = victims.iter().map(|&victim| TakeOver { victim, ..TakeOver::default() }).collect();
            AllocationView { take_overs, state: AllocationState::Granted.into(), ..AllocationView::default() }
        };
        assert_eq!(waits_to_start(&[granted(&[])]), None);
        let one = waits_to_start(&[granted(&[]), granted(&[7 << 32 | 1])]);
        assert_eq!(one.unwrap(), "1 task, whose room 1 other has to leave first (`plenum alloc show ID` names them)");
        let two = waits_to_start(&[granted(&[1 << 32, 1 << 32 | 5]), granted(&[1 << 32, 1 << 32 | 9])]);
        assert_eq!(
            two.unwrap(),
            "2 tasks, whose room 3 others have to leave first (`plenum alloc show ID` names them)"
        );
    }

    // A file with another count was `submitted` as a new job is: that a service was scaled by it nobody saw.
    #[test]
    fn a_submission_that_changes_a_job_says_in_what() {
        use plenum_proto::v1::GroupShape;
        let answer = |version, changed| SubmitResponse { job: 7, version, revision: 9, changed };
        let group = |name: &str, count| GroupView { name: name.to_owned(), count, ..GroupView::default() };
        let groups = vec![group("web", 6), group("side", 1)];
        let before = JobView { id: 7, version: 1, groups, ..JobView::default() };
        let wanted = |name: &str, count| GroupShape { name: name.to_owned(), count, ..GroupShape::default() };
        let shape = JobShape { groups: vec![wanted("web", 8), wanted("side", 1)], ..JobShape::default() };
        let told = |answer: &SubmitResponse, before| submitted_words(answer, before, &shape);
        assert_eq!(told(&answer(1, true), None), "submitted");
        assert_eq!(told(&answer(2, true), Some(&before)), "submitted", "the one before was over");
        assert_eq!(told(&answer(1, true), Some(&before)), "changed: group web from 6 to 8 tasks");
        assert_eq!(told(&answer(1, false), Some(&before)), "is there already, unchanged");
    }

    // Where it was submitted anew between both calls, a group of another job was scaled.
    #[test]
    fn the_job_that_was_looked_at_is_scaled_and_no_other_one_of_its_name() {
        let job = JobName { namespace: "ml".to_owned(), name: "web".to_owned() };
        let before = JobView { id: 7, version: 2, ..JobView::default() };
        let request = scale_request(&job, &before, ("main", 3));
        assert_eq!((request.job, request.version, request.count), (Some(7), Some(2), 3));
        let by_its_word = scale_request(&job, &JobView::default(), ("main", 3));
        assert_eq!((by_its_word.job, by_its_word.version, by_its_word.group.as_str()), (None, None, "main"));
    }

    // The name of a field of the protocol, and microseconds, were the answer to `--at +2h`.
    #[test]
    fn an_instant_that_is_too_far_ahead_is_told_by_the_name_of_its_flag() {
        let mut status = Status::invalid_argument(
            "instant_micros: expected microseconds since 1970, from 1 µs to 3000000 µs, an hour from now; found 4000000 µs",
        );
        status.metadata_mut().insert(plenum_proto::error::CODE_KEY, "INVALID_REQUEST".parse().unwrap());
        let job = JobName { namespace: "default".to_owned(), name: "nightly".to_owned() };
        let failure = launch_failure(status, &job, Some(4_000_000));
        let told = "--at: expected an instant from 1970-01-01T00:00:00.000001Z to 1970-01-01T00:00:03Z, an hour from now; \
                    found 1970-01-01T00:00:04Z";
        assert_eq!(failure.message, told);
    }

    // Two jobs of one name looked alike, and of a group that was scaled neither its name nor its count was there.
    #[test]
    fn programs_read_of_what_a_change_was() {
        let answer = ChangeResponse { revision: 7, changed: true };
        let object = change_json(&answer, "web", json!({"namespace": "ml", "group": "main", "count": 3}));
        let expected =
            json!({"name": "web", "namespace": "ml", "group": "main", "count": 3, "revision": 7, "changed": true});
        assert_eq!(object, expected);
    }

    // A job's groups had two tasks starting, and below them three were running.
    #[test]
    fn what_is_shown_together_is_of_one_revision() {
        let read = |first: &[u64], second: &[u64]| {
            let (mut first, mut second) = (first.iter().copied(), second.iter().copied());
            let next = |answers: &mut dyn Iterator<Item = u64>| answers.next().map(|each| (each, each));
            let missing = || Failure::new("IO", "asked once too often");
            crate::cli::block_on(of_one_revision(
                async || next(&mut first).ok_or_else(missing),
                async || next(&mut second).ok_or_else(missing),
            ))
        };
        assert_eq!(read(&[7], &[7]), Ok(Ok((7, 7, 7))));
        assert_eq!(read(&[7, 9], &[9]), Ok(Ok((9, 9, 9))));
        assert_eq!(read(&[7, 10], &[9, 10]), Ok(Ok((10, 10, 10))));
        assert_eq!(read(&[1, 3, 5], &[2, 4, 6]), Ok(Ok((5, 5, 6))), "it is not asked for ever");
    }

    #[test]
    fn who_waits_for_a_scheduler_is_told_what_to_do() {
        let of = |scheduler: &str, kind: JobKind, option: &[(&str, &str)]| {
            let options = option.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let shape = JobShape { scheduler: scheduler.into(), kind: kind.into(), options, ..JobShape::default() };
            unattended(&shape, &[]).unwrap()
        };
        assert_eq!(
            of("gang", JobKind::ToCompletion, &[]),
            "warning: no scheduler named \"gang\" is connected; the job waits until one is (built in: batch, service)"
        );
        let slip = of("bacth", JobKind::ToCompletion, &[]);
        assert!(slip.ends_with("(built in: batch, service; did you mean `batch`?)"), "{slip}");
        assert!(of("batch", JobKind::Forever, &[]).ends_with("(start it with `plenum scheduler batch`)"));
        let launched = of("cron", JobKind::Recurring, &[]);
        assert!(
            launched.contains("\"cron\" is connected; what is launched from the job waits until one is"),
            "{launched}"
        );
        let named = of("cron", JobKind::Recurring, &[("launch.scheduler", "batch")]);
        assert!(named.contains("no scheduler named \"batch\""), "{named}");
    }

    // Any session of that name would do: a job of `b` waited without a word while there was one for `a` alone.
    #[test]
    fn who_waits_for_a_scheduler_of_another_namespace_is_told_so() {
        let of = |namespaces: &[&str]| {
            let session = |namespace: &&str| SessionView { namespace: (*namespace).into(), ..SessionView::default() };
            let connected: Vec<_> = namespaces.iter().map(session).collect();
            let shape = JobShape { scheduler: "gang".into(), namespace: "b".into(), ..JobShape::default() };
            unattended(&shape, &connected)
        };
        let told = of(&["a", "c"]).unwrap();
        let expected =
            "warning: no scheduler named \"gang\" is connected for the namespace b (one is for a); the job waits";
        assert!(told.starts_with(expected), "{told}");
        assert_eq!([of(&["a", "b"]), of(&["a", ""])], [None, None]);
    }
}
