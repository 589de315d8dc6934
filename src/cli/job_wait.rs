//! Waiting for a job: looks at it until all its tasks run or it is over, also while its cell is away, and tells how it ended and where its words are.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use plenum_proto::error::OUTCOME_UNKNOWN;
use plenum_proto::v1::{
    AllocationView, JobState, JobView, ListAllocationsRequest, ListAllocationsResponse, ListRequest,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Context, JobName,
    accepted::Accepted,
    ended::{failed_filter, final_groups, has_failed, is_of},
    hints,
    interrupt::{if_not_interrupted, unless_interrupted},
    long_wait::{LongWait, waiting_line},
    retired::get_job_to_its_end,
    running::{Running, failed_words, stood_still},
    silence::{ANSWER_MAX, WAIT_PERIOD_MAX, found, given_up, in_time, silence_words},
};
use crate::{
    connect::Connection,
    failure::{EXIT_FAILED, EXIT_UNFINISHED, Failure},
    output::{self, Row},
};

/// How often the job's state is asked for at first; then ever more seldom, up to `WAIT_PERIOD_MAX`.
pub(super) const WAIT_PERIOD_MIN: Duration = Duration::from_millis(50);
/// Failed allocations among which the newest of the job is looked for: before it there can be only what had the name before, and ended late.
const FAILED_LISTED: u32 = 16;

/// What a job is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// The end of the job of this number, in this version where that is known.
    End { id: u64, version: Option<u32> },
    /// That all tasks of the job of this number, in this version, run at one revision, as far as they are not complete; or its end, if that comes first.
    Running { id: u64, version: u32 },
}

impl Goal {
    /// Whether that is the job that is waited for: one that was submitted by its name once it had ended is another one.
    fn is_of(self, view: &JobView) -> bool {
        match self {
            Self::End { id, version } => view.id == id && version.is_none_or(|version| view.version == version),
            Self::Running { id, version } => (view.id, view.version) == (id, version),
        }
    }

    /// Whether tasks that run are enough.
    const fn is_running(self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// What is told at the time limit of a job that is called so: how it was seen last, and why it had not come further.
    fn unreached(self, called: &str, last: Option<&Look>, failed: Option<&AllocationView>) -> String {
        let (state, why) = match (self, last) {
            (Self::End { .. }, None) => ("is not known to have ended".to_owned(), String::new()),
            (Self::End { .. }, Some(look)) => {
                (format!("is {}", output::job_state(look.view.state())), look.view.waiting_reason.clone())
            }
            (Self::Running { .. }, None) => ("is not known to run".to_owned(), String::new()),
            (Self::Running { .. }, Some(look)) => {
                (format!("has {}", look.running().words()), look.running().why_not(failed))
            }
        };
        let why = if why.is_empty() { why } else { format!(": {why}") };
        format!("job {called} {state} at the time limit{why}")
    }
}

/// A wait: what is waited for of which job, which was changed at revision `since`, and until when.
pub(super) struct Wait<'a> {
    pub(super) connection: &'a Connection,
    pub(super) job: &'a JobName,
    pub(super) goal: Goal,
    pub(super) since: u64,
    pub(super) deadline: Option<Instant>,
}

/// A job as it was found.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) view: JobView,
    /// Of its allocations those that are down until they are started again. Looked for only where all tasks seem to run.
    down: Vec<AllocationView>,
    /// At which revision all its tasks ran, where that is what was waited for.
    pub(super) running_revision: Option<u64>,
}

impl Look {
    fn running(&self) -> Running<'_> {
        Running { job: &self.view, down: &self.down }
    }

    fn is_over(&self) -> bool {
        matches!(self.view.state(), JobState::JobComplete | JobState::JobFailed | JobState::JobStopped)
    }
}

impl Wait<'_> {
    /// The job once it is as was waited for, or over, also where it is retired by then. Says why it waits where it does so for long: the cell may be gone by
    /// the time that somebody looks. Who leaves with Ctrl-C is told that the job goes on.
    ///
    /// # Errors
    ///
    /// `TIME_LIMIT` behind the deadline; `JOB_OVER` where another job has the name by now.
    pub(super) async fn reached(&self) -> Result<Look, Failure> {
        let JobName { namespace, name } = self.job;
        let goes_on = || {
            format!(
                "job {} goes on; `plenum job show {namespace}/{name}` tells how, and `plenum job stop {namespace}/{name}` stops it",
                self.job.called()
            )
        };
        let waiting = async {
            let accepted = Accepted::at(self.connection, self.since, hints::look_until(self.deadline)).await;
            self.reached_at_last(&accepted).await
        };
        unless_interrupted(waiting, goes_on).await
    }

    async fn reached_at_last(&self, accepted: &Accepted) -> Result<Look, Failure> {
        let (mut period, mut silence) = (WAIT_PERIOD_MIN, None);
        let (began, mut waits) = (Instant::now(), LongWait::default());
        let (mut last, mut failures) = (None, Failures::default());
        loop {
            let answer = in_time(self.deadline, self.look(accepted)).await;
            let is_at_the_limit = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            if let Err(failure) = &answer
                && is_at_the_limit
                && failure.code == "HISTORY_BEHIND"
            {
                return Err(self.accepted_all_the_same(failure.clone()));
            }
            let answer = found(answer, &mut silence).map_err(|failure| self.accepted_all_the_same(failure))?;
            if let Some(look) = answer {
                if let Some(reason) = waits.news(&look.view.waiting_reason, began.elapsed()) {
                    output::tell(&waiting_line(&format!("job {}", self.job.called()), &look.view, &reason));
                }
                if self.is_end(&look) {
                    return if self.goal.is_of(&look.view) { Ok(look) } else { Err(self.replaced()) };
                }
                if self.goal.is_running() {
                    failures.look(self, &look.view).await;
                }
                last = Some(look);
            }
            let what = self.goal.unreached(&self.job.called(), last.as_ref(), failures.newest.as_ref());
            let what = what + silence_words(silence);
            rest_or_give_up(self.job, (what, "it goes on"), &mut period, self.deadline).await?;
        }
    }

    /// Whether the wait ends with it.
    fn is_end(&self, look: &Look) -> bool {
        look.running_revision.is_some() || look.is_over() || !self.goal.is_of(&look.view)
    }

    /// The job as it is, or was at its end, and at which revision. Of a cell that has not got what was changed it is not told how a job of that name is there,
    /// nor that there is none, or none any more.
    async fn job_to_its_end(&self, accepted: &Accepted) -> Result<(u64, JobView), Failure> {
        let found = get_job_to_its_end(self.connection, self.job, self.since).await;
        match &found {
            Ok((revision, _)) => accepted.expect_shown_at(*revision)?,
            Err(failure) if matches!(failure.code.as_str(), "NO_SUCH_JOB" | "HISTORY_BEHIND") => {
                accepted.expect_known_to(self.connection).await?;
            }
            Err(_) => {}
        }
        found
    }

    /// The job as it is. It is taken from the cell that was asked alone: another one, or an older copy, may have a job of that name, too.
    async fn look(&self, accepted: &Accepted) -> Result<Look, Failure> {
        let look = self.look_at_tasks(accepted).await?;
        if self.is_end(&look) {
            accepted.expect_known_to(self.connection).await?;
        }
        Ok(look)
    }

    async fn look_at_tasks(&self, accepted: &Accepted) -> Result<Look, Failure> {
        let (revision, view) = self.job_to_its_end(accepted).await?;
        let mut look = Look { view, ..Look::default() };
        if !self.goal.is_running() || look.is_over() || !look.running().are_all_there() {
            return Ok(look);
        }
        let listed = list_allocations(self.connection, self.job, "state=running,ready=false", (false, 0)).await?;
        let (later, after) = self.job_to_its_end(accepted).await?;
        look.down = listed.allocations;
        // What is listed has a revision of its own, at which the job itself was not looked at.
        let is_between = (revision..=later).contains(&listed.revision);
        if is_between && stood_still(&look.view, &after) && look.running().are_all_there() {
            look.running_revision = Some(listed.revision);
        }
        Ok(look)
    }

    /// The failure with which the wait ends, the cell having been away for too long. It asks the history only once the job is retired.
    fn accepted_all_the_same(&self, failure: Failure) -> Failure {
        let JobName { namespace, name } = self.job;
        if failure.code == "HISTORY_BEHIND" {
            let (called, said) = (self.job.called(), &failure.message);
            let what = format!("job {called} is over and retired; how it ended can't be told: {said}");
            return Failure::new(OUTCOME_UNKNOWN, what).with_hint(format!(
                "it need not be asked for again; `plenum job history {namespace}/{name}` tells once the history has come so far"
            ));
        }
        let version = match self.goal {
            Goal::End { version, .. } => version,
            Goal::Running { version, .. } => Some(version),
        };
        let version = version.map_or_else(String::new, |version| format!("version {version}, "));
        let (called, since) = (self.job.called(), self.since);
        let what = format!("what was asked of job {called} ({version}revision {since}) was accepted, and goes on");
        given_up(failure, &what, &format!("`plenum job show {namespace}/{name}`"))
    }

    fn replaced(&self) -> Failure {
        let JobName { namespace, name } = self.job;
        let what = format!("job {} was submitted anew: the one that was waited for is over", self.job.called());
        Failure::new("JOB_OVER", what).with_hint(format!(
            "`plenum job history {namespace}/{name}` begins with that submission; with `--before` and its revision it tells how the one before ended"
        ))
    }

    /// Prints how the job was found, for programs as this object, and gives the exit code that goes with it.
    pub(super) async fn told(&self, context: &Context, look: &Look, mut object: Value) -> Result<ExitCode, Failure> {
        if self.goal.is_running() {
            object["running_revision"] = json!(look.running_revision);
        }
        let called = self.job.called();
        let text = || match look.running_revision {
            Some(revision) => format!("job {called} has {} (revision {revision})\n", look.running().words()),
            None => ended_text(&called, &look.view),
        };
        output::print_and_go_on(output::object(context.format, &object, &called, text).as_bytes())?;
        if look.running_revision.is_some() {
            return Ok(ExitCode::SUCCESS);
        }
        if_not_interrupted(point_to_logs(context, self.connection, self.job, &look.view)).await;
        let code = if look.view.state() == JobState::JobComplete { 0 } else { EXIT_FAILED };
        Ok(ExitCode::from(code))
    }
}

/// How tasks of a job fail that is waited for.
#[derive(Debug, Default)]
struct Failures {
    /// How often, of each group.
    seen: Vec<u32>,
    newest: Option<AllocationView>,
    is_told: bool,
}

impl Failures {
    /// Looks how a task failed last where one has failed once more, and says so the first time. That this can't be found out is no reason to fail.
    async fn look(&mut self, wait: &Wait<'_>, view: &JobView) {
        let failures: Vec<u32> = view.groups.iter().map(|group| group.failures).collect();
        if failures != self.seen && failures.iter().any(|&count| count > 0) {
            let filter = failed_filter(view);
            let listed = list_allocations(wait.connection, wait.job, filter, (true, FAILED_LISTED));
            let listed = tokio::time::timeout_at(hints::look_until(wait.deadline), listed).await;
            // Once for each count, found or not: the server folds the past for it, which takes seconds where that is long.
            self.seen = failures;
            if let Ok(Ok(listed)) = listed {
                // What failed before that, or had the name before, was not waited for.
                let is_new = |failed: &AllocationView| {
                    failed.ended_revision >= wait.since && is_of(view, failed) && has_failed(view, failed)
                };
                self.newest = listed.allocations.into_iter().find(is_new).or_else(|| self.newest.take());
            }
        }
        let words = match &self.newest {
            Some(failed) => Some(format!("{}; it is tried again", failed_words(failed))),
            None => output::failing_words(view).map(|words| format!("tasks fail again and again: {words}")),
        };
        if let Some(words) = words.filter(|_| !self.is_told) {
            output::tell(&format!("job {}: {words}", wait.job.called()));
            self.is_told = true;
        }
    }
}

/// Allocations of the job that pass; with `ended` also those that ended, the last ones first. No more than `limit`, unless that is 0.
async fn list_allocations(
    connection: &Connection,
    job: &JobName,
    filter: &str,
    (ended, limit): (bool, u32),
) -> Result<ListAllocationsResponse, Failure> {
    let list = ListRequest { namespace: job.namespace.clone(), at: None, limit, filter: filter.to_owned() };
    let request = ListAllocationsRequest { list: Some(list), job: job.name.clone(), machine: String::new(), ended };
    Ok(connection.jobs().list_allocations(request).await?.into_inner())
}

/// How a job ended, and why where it failed: its first failed task.
fn ended_text(name: &str, view: &JobView) -> String {
    let why = if view.reason.is_empty() { String::new() } else { format!(": {}", view.reason) };
    // Agents say it, of what job files say.
    output::lines(&format!("job {name} {}{why}\n", output::job_state(view.state())))
}

/// Sleeps until the job shall be looked at again, at the latest at the deadline: what happens just before it still counts. Fails behind it with these
/// words: what was not reached, and what becomes of the job.
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

/// Tells people, not programs, where to read what the job printed. Of one that failed also where its result goes to a file or another program.
async fn point_to_logs(context: &Context, connection: &Connection, job: &JobName, view: &JobView) {
    let is_failed = view.state() == JobState::JobFailed;
    if !context.format.is_for_people() || !(is_failed || io::stdout().is_terminal()) {
        return;
    }
    let filter = if is_failed { failed_filter(view) } else { "" };
    // How the job ended has been told.
    let listed = tokio::time::timeout(ANSWER_MAX, list_allocations(connection, job, filter, (true, 0))).await;
    let Ok(Ok(listed)) = listed else { return };
    if let Some(command) = logs_of(view, &listed.allocations) {
        output::tell(&format!("see what it printed: `plenum {command}`"));
    }
}

/// The command that prints what tells most of a job's end: the standard error of the task that failed it, or the output of what it was run for.
fn logs_of(view: &JobView, allocations: &[AllocationView]) -> Option<String> {
    // What its name did before is listed, too.
    let own = allocations.iter().filter(|one| is_of(view, one));
    if view.state() == JobState::JobFailed {
        let is_named =
            |failed: &AllocationView| view.reason.starts_with(&format!("task {}[{}] ", failed.group, failed.task));
        let failed = own.filter(|one| has_failed(view, one));
        // Others may have failed meanwhile.
        let last = failed.max_by_key(|failed| (is_named(failed), failed.created_revision))?;
        // What was never started printed nothing.
        if last.reason.starts_with("command not found") {
            return None;
        }
        return Some(format!("alloc logs {} --stderr", last.name()));
    }
    let groups = view.shape.as_ref().map(final_groups).unwrap_or_default();
    // One that was stopped may not have come to them.
    let last = own.max_by_key(|one| (groups.contains(&one.group.as_str()), one.created_revision));
    last.map(|last| format!("alloc logs {}", last.name()))
}

/// A job that was submitted where no scheduler is that would place it, and the answer.
#[cfg(test)]
pub(super) async fn submitted(connection: &Connection) -> (JobName, plenum_proto::v1::SubmitResponse) {
    let text = "name = \"web\"\nscheduler = \"batch\"\n[group.main]\ncommand = [\"/bin/true\"]\n\
                resources = { cpu = \"10m\", memory = \"16MiB\" }\n";
    let file = crate::job_file::JobFile::parse("web.toml", text).expect("a job file");
    let spec = file.in_namespace(Some("ml"), None).expect("a job").spec;
    let request = plenum_proto::v1::SubmitRequest { spec: Some(spec), ..Default::default() };
    let answer = connection.jobs().submit(request).await.expect("it is submitted").into_inner();
    (JobName { namespace: "ml".to_owned(), name: "web".to_owned() }, answer)
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{AllocationState, GroupShape, GroupView, JobKind, JobShape, StopRequest};

    use super::super::{
        served,
        silence::{OTHER_CELL, SILENCE_MAX, Silence},
    };
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

    // Nothing waited for tasks to run, and so nothing told why they did not.
    #[test]
    fn at_the_time_limit_it_is_told_how_far_the_job_is_and_why_no_further() {
        let (goal, end) = (Goal::Running { id: 7, version: 2 }, Goal::End { id: 7, version: Some(2) });
        let group =
            |waiting, running| GroupView { name: "web".to_owned(), count: 3, waiting, running, ..GroupView::default() };
        let look = |group: GroupView, waiting_reason: &str, down: Vec<AllocationView>| {
            let (state, waiting_reason) = (JobState::JobRunning.into(), waiting_reason.to_owned());
            let view = JobView { id: 7, version: 2, state, waiting_reason, groups: vec![group], ..JobView::default() };
            Look { view, down, ..Look::default() }
        };
        let waiting = look(group(1, 2), "web: 1 waiting: no room", Vec::new());
        let told = |goal: Goal, last: Option<&Look>| goal.unreached("ml/web", last, None);
        let why = "at the time limit: web: 1 waiting: no room";
        assert_eq!(told(goal, Some(&waiting)), format!("job ml/web has 2 of 3 tasks running {why}"));
        assert_eq!(told(end, Some(&waiting)), format!("job ml/web is running {why}"));
        let (job_id, job_version, group_name) = (7, 2, "web".to_owned());
        let down = AllocationView { job_id, job_version, group: group_name, ..AllocationView::default() };
        let why = "at the time limit: web: 1 down until started again";
        let last = look(group(0, 3), "", vec![down]);
        assert_eq!(told(goal, Some(&last)), format!("job ml/web has 2 of 3 tasks running {why}"));
        assert_eq!(told(goal, None), "job ml/web is not known to run at the time limit");
        // Nobody had seen it: it was said to wait.
        assert_eq!(told(end, None), "job ml/web is not known to have ended at the time limit");
        assert_eq!(silence_words(None), "");
        assert_eq!(silence_words(Some(Silence::since(Instant::now()))), "; how it is now the cell has not told");
    }

    // Of two that ran the same file, one ended with what became of the other's submission, and its own failure was told to nobody.
    #[test]
    fn another_job_of_the_name_is_not_the_one_that_was_waited_for() {
        let view = |id, version| JobView { id, version, ..JobView::default() };
        for goal in [Goal::Running { id: 7, version: 2 }, Goal::End { id: 7, version: Some(2) }] {
            assert!(goal.is_of(&view(7, 2)) && !goal.is_of(&view(7, 3)) && !goal.is_of(&view(8, 2)), "{goal:?}");
        }
        let launched = Goal::End { id: 7, version: None };
        assert!(launched.is_of(&view(7, 1)) && !launched.is_of(&view(8, 1)), "a launch tells no version");
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
        view.state = JobState::JobStopped.into();
        assert_eq!(logs_of(&view, &allocations), None, "that version never ran");
        view.version = 0;
        view.shape = Some(JobShape { kind: JobKind::Forever.into(), ..JobShape::default() });
        view.state = JobState::JobFailed.into();
        view.reason = "task reduce[0] failed: exit code 0".to_owned();
        assert_eq!(logs_of(&view, &allocations), Some(format!("alloc logs {} --stderr", name(3))));
    }

    // It was those of the group that stands last in the file, which others may wait for.
    #[test]
    fn a_job_that_is_over_points_to_what_it_was_run_for() {
        let group = |name: &str, after: &[&str]| GroupShape {
            name: name.to_owned(),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            ..GroupShape::default()
        };
        let shape =
            Some(JobShape { groups: vec![group("sum", &["split"]), group("split", &[])], ..JobShape::default() });
        let view = JobView { state: JobState::JobComplete.into(), shape, ..JobView::default() };
        let allocation = |group: &str, created_revision: u64| AllocationView {
            id: created_revision << 32 | 1,
            group: group.to_owned(),
            created_revision,
            ..AllocationView::default()
        };
        let (sum, split) = (allocation("sum", 4), allocation("split", 5));
        let told = |one: &AllocationView| Some(format!("alloc logs {}", one.name()));
        assert_eq!(logs_of(&view, &[sum.clone(), split.clone()]), told(&sum));
        assert_eq!(logs_of(&view, std::slice::from_ref(&split)), told(&split), "it was stopped before");
    }

    // Where the server came back on an empty directory the wait ended, and the job was said to be retired.
    #[tokio::test]
    async fn a_job_that_another_cell_does_not_know_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let (server, connection, _) = served(folder.path()).await;
        let connection = &connection;
        let job = &JobName { namespace: "ml".to_owned(), name: "web".to_owned() };
        let goal = Goal::End { id: 7, version: Some(2) };
        let accepted = &Accepted::numbered(1 << 40);
        let wait = Wait { connection, job, goal, since: accepted.revision, deadline: Some(Instant::now()) };
        assert_eq!(wait.reached_at_last(accepted).await.expect_err("it is not known").code, "TIME_LIMIT");
        assert_eq!(wait.look(accepted).await.expect_err("it is another cell's").code, OTHER_CELL);
        // Where no revision is known, the cell is believed.
        let (wait, accepted) = (Wait { since: 0, ..wait }, &Accepted::numbered(0));
        assert_eq!(wait.look(accepted).await.expect_err("there is none").code, "NO_SUCH_JOB");
        server.shutdown().await.expect("a server that ends");
    }

    // Any cell of more revisions was believed, and what had become of its own job of that name.
    #[tokio::test]
    async fn a_job_that_another_cell_has_under_that_name_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let (server, connection, _) = served(folder.path()).await;
        let connection = &connection;
        let (job, submitted) = &submitted(connection).await;
        let end = |id| Goal::End { id, version: Some(submitted.version) };
        // It has the job at a lower revision, and not at its end: that was never looked into, and the wait went on without a word.
        let wait = Wait { connection, job, goal: end(submitted.job), since: submitted.revision, deadline: None };
        let failure = wait.look(&Accepted::numbered(1 << 40)).await.expect_err("it is another cell's");
        assert_eq!(failure.code, OTHER_CELL, "{failure}");
        let request =
            StopRequest { namespace: job.namespace.clone(), name: job.name.clone(), ..StopRequest::default() };
        connection.jobs().stop(request).await.expect("it is stopped");
        let accepted = &Accepted::at(connection, submitted.revision, hints::look_until(None)).await;
        let elsewhere = &Accepted::elsewhere(submitted.revision);
        for goal in [end(submitted.job), end(submitted.job + 1)] {
            let wait = Wait { connection, job, goal, since: submitted.revision, deadline: Some(Instant::now()) };
            let failure = wait.reached_at_last(elsewhere).await.expect_err("it is another cell's");
            assert_eq!(failure.code, "TIME_LIMIT", "{goal:?}: {failure}");
            let failure = wait.look(elsewhere).await.expect_err("it is another cell's");
            assert_eq!(failure.code, OTHER_CELL, "{goal:?}: {failure}");
            let wait = Wait { deadline: None, ..wait };
            let found = wait.reached_at_last(accepted).await;
            let found = found.map(|look| look.view.state()).map_err(|failure| failure.code);
            let is_there = goal == end(submitted.job);
            assert_eq!(found, if is_there { Ok(JobState::JobStopped) } else { Err("JOB_OVER".to_owned()) });
        }
        server.shutdown().await.expect("a server that ends");
    }

    // The code was `UNAVAILABLE`, which says of a change that it was not made: a script that tried again had the job run twice.
    #[tokio::test]
    async fn a_wait_that_is_given_up_does_not_read_as_if_nothing_had_been_accepted() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("an address").to_string();
        let connection = &Connection::open(&address).await.expect("a connection");
        let job = &JobName { namespace: "ml".to_owned(), name: "web".to_owned() };
        let goal = Goal::End { id: 7, version: Some(2) };
        let wait = Wait { connection, job, goal, since: 9, deadline: None };
        let mut silence = Instant::now().checked_sub(SILENCE_MAX).map(Silence::since);
        let away = found::<()>(Err(Failure::new("UNAVAILABLE", "no cell answers")), &mut silence);
        let failure = wait.accepted_all_the_same(away.expect_err("it is away for too long"));
        assert_eq!((failure.code.as_str(), failure.exit), (OUTCOME_UNKNOWN, EXIT_FAILED));
        let told = "what was asked of job ml/web (version 2, revision 9) was accepted, and goes on; for 2m0s the cell has not told how: no cell answers";
        assert_eq!(failure.message, told);
        assert!(failure.hint.is_some_and(|hint| hint.contains("`plenum job show ml/web` tells")));
        let absent = wait.accepted_all_the_same(Failure::new("NO_SUCH_JOB", "no"));
        assert_eq!(absent.code, "NO_SUCH_JOB", "it is there, and says so");
        // The cell had answered that there is no such job any more, and it was said to go on.
        let retired = wait.accepted_all_the_same(Failure::new("HISTORY_BEHIND", "revision 9 is not written yet"));
        let told = "job ml/web is over and retired; how it ended can't be told: revision 9 is not written yet";
        assert_eq!((retired.code.as_str(), retired.message.as_str()), (OUTCOME_UNKNOWN, told));
        assert!(retired.hint.is_some_and(|hint| hint.contains("`plenum job history ml/web` tells")));
        let hint = wait.replaced().hint.unwrap_or_default();
        assert!(hint.starts_with("`plenum job history ml/web` begins with that submission; with `--before`"), "{hint}");
    }
}
