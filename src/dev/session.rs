//! One run of a development cell, from the server's start to the jobs' end.

use std::time::{Duration, Instant};

use plenum_model::{agreeing, counted};
use plenum_proto::v1::{JobShape, JobView, MachineView, SubmitRequest};
use tokio::time::{sleep, timeout};

use super::{
    board::{has_ended, has_started},
    cell::DevCell,
    changes::Changes,
    folder::{Folder, LOG_SHOWN_BYTES, not_ready, written},
    loops::{Loops, News},
    machines::{self, Machines},
    plan::{Plan, shape},
    progress::Progress,
    summary::{Summary, Times},
};
use crate::{
    address,
    cli::{JobName, asked_without_flag, get_job, get_job_to_its_end, number_resources},
    connect::Connection,
    failure::Failure,
    fit,
    output::{self, span, word},
    parts,
};

/// How long agents may take to register.
const MACHINES_TIMEOUT: Duration = Duration::from_secs(20);
/// How often they are looked for.
const MACHINES_PERIOD: Duration = Duration::from_millis(10);
/// How long the server may be away (it is started again when it dies) before the run is given up.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// How long it may take to find out how a task failed that fails again and again: how the jobs go is not told meanwhile.
const FAILING_TOLD_MAX: Duration = Duration::from_secs(5);

/// What is read of an agent's log once it has registered: it has said little by then.
const AGENT_LOG_BYTES_MAX: u64 = 1 << 20;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Complete,
    Failed,
    Interrupted,
}

/// A job that was submitted.
#[derive(Debug)]
struct Submitted {
    name: JobName,
    revision: u64,
    /// How it was when it had ended: the cell keeps a finished job for a while only, and this run may go on for longer.
    ended: Option<JobView>,
}

/// What a run needs to know.
pub(super) struct Session<'dev> {
    pub(super) started: Instant,
    pub(super) plan: &'dev Plan,
    pub(super) folder: &'dev Folder,
    pub(super) progress: &'dev Progress,
}

impl Session<'_> {
    /// Starts everything, submits the files, and follows the jobs.
    pub(super) async fn run(&self, cell: &mut DevCell<'_>) -> Result<Ended, Failure> {
        let address = cell.start_server().await?;
        if has_to_be_named(&address, asked_without_flag().as_deref()) {
            output::name_cell(&address);
        }
        let machines = Machines::before_agents(self.folder, self.plan.machines);
        cell.start_others(&address);
        let work = async {
            let connection = Connection::open(&address).await?;
            self.tell_address(&address);
            self.remove_earlier(&machines, &connection).await;
            let ready = self.ready(&machines, &connection).await?;
            let unused = ready.iter().filter_map(machines::unused_words);
            unused.for_each(|line| self.progress.say(&line));
            self.tell_missing_isolation(&machines.printed("machine-1", AGENT_LOG_BYTES_MAX));
            if self.plan.jobs.is_empty() {
                return std::future::pending().await;
            }
            let submitted = self.submit(&connection, &ready).await?;
            self.follow(&connection, submitted, AWAY_MAX).await
        };
        tokio::select! {
            result = work => result,
            failure = cell.given_up() => Err(failure),
        }
    }

    fn tell_address(&self, address: &str) {
        let took = span(i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX));
        let schedulers = self.plan.schedulers.join(" and ");
        let scheduler = agreeing(self.plan.schedulers.len() as u64, "scheduler", "schedulers");
        self.progress.say(&format!(
            "cell at {address} after {took}: {scheduler} {schedulers}, {}, in {}",
            counted(self.plan.machines.into(), "machine"),
            self.folder.path().display()
        ));
        if self.plan.jobs.is_empty() {
            self.progress.say("submit jobs with `plenum job run FILE`; Ctrl-C stops the cell");
        }
    }

    /// Names what the kernel does not give to tasks here, in one line. All agents of one machine find the same.
    fn tell_missing_isolation(&self, printed: &str) {
        if let Some(missing) = parts::missing_isolation(printed) {
            self.progress.say(&format!("tasks run without: {missing}"));
        }
    }

    /// Machines that only an earlier run had are no reason to end this one.
    async fn remove_earlier(&self, machines: &Machines, connection: &Connection) {
        match machines.remove_earlier(self.folder, connection).await {
            Err(failure) => self.progress.say(&format!("machines of earlier runs stay: {}", failure.message)),
            Ok(stay) => stay.iter().for_each(|name| self.progress.say(&machines::stays_words(name))),
        }
    }

    /// The machines of this cell's agents, once all have registered.
    async fn ready(&self, machines: &Machines, connection: &Connection) -> Result<Vec<MachineView>, Failure> {
        let deadline = Instant::now() + MACHINES_TIMEOUT;
        loop {
            let wait = match machines.ready(connection).await {
                Ok(ready) => return Ok(ready),
                Err(wait) => wait,
            };
            if Instant::now() > deadline {
                let said = machines.printed_by(&wait, LOG_SHOWN_BYTES);
                return Err(not_ready(self.folder, &wait.told(self.plan.machines), &said));
            }
            sleep(MACHINES_PERIOD).await;
        }
    }

    /// Submits all files, or none if one fits no machine. Jobs that live here first: of those, an earlier run's, one may be refused because its file
    /// describes others now, and then nothing new is begun in a cell that ends.
    async fn submit(&self, connection: &Connection, machines: &[MachineView]) -> Result<Vec<Submitted>, Failure> {
        let mut specs = Vec::with_capacity(self.plan.jobs.len());
        for job in &self.plan.jobs {
            let numbered = number_resources(connection, job.clone()).await?;
            let shape = shape(&numbered);
            let misfit = fit::misfit(shape, machines).map(|misfit| {
                let hint = misfit.hint(self.plan.machines);
                (misfit.what, hint)
            });
            let too_few =
                || fit::too_few(shape, machines).map(|what| (what, "make `min` smaller, or the limit greater"));
            if let Some((what, hint)) = misfit.or_else(too_few) {
                let failure = Failure::new("NO_MACHINE_FITS", format!("{}: {what}", job.name()));
                return Err(failure.with_hint(hint));
            }
            let JobShape { namespace, name, .. } = shape.clone();
            let known = get_job(connection, &JobName { namespace, name }, None).await;
            let lives = known.is_ok_and(|(_, view)| !has_ended(&view));
            specs.push((!lives, numbered.spec));
        }
        specs.sort_by_key(|(is_new, _)| *is_new);
        let mut submitted = Vec::with_capacity(specs.len());
        for (_, spec) in specs {
            let shape = spec.shape.clone().unwrap_or_default();
            let name = JobName { namespace: shape.namespace, name: shape.name };
            let answer = connection.jobs().submit(SubmitRequest { spec: Some(spec), ..Default::default() }).await;
            let answer = answer.map_err(|status| self.of_earlier(status.into(), &name))?;
            submitted.push(Submitted { name, revision: answer.into_inner().revision, ended: None });
        }
        Ok(submitted)
    }

    /// A job that an earlier run left in a named directory can be stopped in its cell only, which ends with this failure. Where the next one in that
    /// directory listens is not known yet.
    fn of_earlier(&self, failure: Failure, job: &JobName) -> Failure {
        if failure.code != "JOB_CHANGED" || self.folder.is_temporary() {
            return failure;
        }
        let dir = word(&self.folder.path().display().to_string());
        failure.with_hint(format!(
            "an earlier run left it in {dir}: `plenum dev --dir {dir}` without files starts that cell; stop {}/{} there",
            job.namespace, job.name
        ))
    }

    /// Tells how the jobs go. Comes back when all have ended, if that is waited for, and fails then after `away_max` without an answer. Where nobody waits
    /// for an end it says once that nothing is known for now, and asks on.
    async fn follow(
        &self,
        connection: &Connection,
        mut submitted: Vec<Submitted>,
        away_max: Duration,
    ) -> Result<Ended, Failure> {
        // A server writes it anew with each start.
        let address_file = parts::address_file(&self.folder.server());
        let begun = written(&address_file);
        let mut changes = Changes::new(connection.clone());
        let mut loops = Loops::default();
        let mut first_start = None;
        let (mut last_answer, mut is_untold) = (Instant::now(), false);
        loop {
            let views = match look(connection, &mut submitted).await {
                Ok(views) => views,
                // The server may be on its way back; the jobs are in its log.
                Err(failure) if failure.is_passing() && last_answer.elapsed() < away_max => {
                    changes.next().await;
                    continue;
                }
                // That the cell tells no more of a job is no reason to end what else runs there.
                Err(failure) if !self.plan.until_done && !failure.is_passing() => {
                    self.progress.say(&untold_words(&failure));
                    return std::future::pending().await;
                }
                // Nor is that it does not answer, such as while its process is stopped.
                Err(failure) if !self.plan.until_done => {
                    if !std::mem::replace(&mut is_untold, true) {
                        self.progress.say(&untold_words(&failure));
                    }
                    changes.next().await;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            last_answer = Instant::now();
            if std::mem::take(&mut is_untold) {
                self.progress.say("how jobs go is told again");
            }
            if first_start.is_none() && views.iter().any(has_started) {
                first_start = Some(self.started.elapsed());
            }
            views.iter().for_each(|view| self.progress.show(view));
            for view in &views {
                match loops.news(view, self.started.elapsed()) {
                    Some(News::Fails(line)) => self.tell_failing(connection, view, &line).await,
                    Some(News::IsSound(line)) => self.progress.say(&line),
                    None => {}
                }
            }
            if self.plan.until_done && !views.is_empty() && views.iter().all(has_ended) {
                self.progress.finish();
                let times = Times { first_start, whole: self.started.elapsed() };
                let summary = Summary { connection, progress: self.progress, until: Instant::now() + AWAY_MAX };
                summary.print(&views, times, || written(&address_file) != begun).await?;
                return Ok(ended(&views));
            }
            changes.next().await;
        }
    }

    /// Tells that tasks of a job fail again and again, and how the last one did, as far as that is found out soon.
    async fn tell_failing(&self, connection: &Connection, job: &JobView, line: &str) {
        self.progress.say(line);
        let summary = Summary { connection, progress: self.progress, until: Instant::now() };
        let _ = timeout(FAILING_TOLD_MAX, summary.tell_failing(job)).await;
    }
}

/// Whether commands that are told have to name the cell: without a flag they ask the one at `asked`.
fn has_to_be_named(address: &str, asked: Option<&str>) -> bool {
    let url = |address: &str| address::url(address).ok();
    asked.and_then(url) != url(address)
}

/// What is told where it can't be read how jobs go, of a cell that goes on.
fn untold_words(failure: &Failure) -> String {
    let why = &failure.message;
    if failure.is_passing() {
        format!("how jobs go is not told for now: {why}")
    } else {
        format!("{why}: how jobs go is not told any more")
    }
}

/// The jobs as they are now, or as they were when they had ended; none of them while the picture is older than the submission of one.
async fn look(connection: &Connection, submitted: &mut [Submitted]) -> Result<Vec<JobView>, Failure> {
    let mut views = Vec::with_capacity(submitted.len());
    for job in submitted {
        let Some(view) = job.look(connection).await? else { return Ok(Vec::new()) };
        views.push(view);
    }
    Ok(views)
}

impl Submitted {
    /// Nothing while the picture is older than the submission.
    async fn look(&mut self, connection: &Connection) -> Result<Option<JobView>, Failure> {
        let found = match &self.ended {
            // Somebody may have submitted it again.
            Some(_) => get_job(connection, &self.name, None).await,
            None => get_job_to_its_end(connection, &self.name, self.revision).await,
        };
        match found {
            Ok((revision, _)) if revision < self.revision => Ok(None),
            Ok((_, view)) => {
                self.ended = Some(view.clone()).filter(has_ended);
                Ok(Some(view))
            }
            Err(failure) if failure.code == "NO_SUCH_JOB" && self.ended.is_some() => Ok(self.ended.clone()),
            Err(failure) => Err(failure),
        }
    }
}

fn ended(jobs: &[JobView]) -> Ended {
    let is_complete = |job: &JobView| job.state() == plenum_proto::v1::JobState::JobComplete;
    if jobs.iter().all(is_complete) { Ended::Complete } else { Ended::Failed }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use plenum_proto::v1::{JobState, StopRequest};
    use plenum_server::{Server, ServerOptions};

    use super::*;
    use crate::job_file::JobFile;

    // Of a directory with a space in its name the command was of two words, and began a cell elsewhere.
    #[test]
    fn the_cell_of_an_earlier_job_is_started_by_a_command_that_a_shell_takes() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("my cell");
        let folder = Folder::open(Some(&path)).unwrap();
        let (jobs, schedulers, progress) = (Vec::new(), Vec::new(), Progress::quiet());
        let plan = Plan { jobs, schedulers, machines: 1, until_done: false, port: None, no_isolation: true };
        let session = Session { started: Instant::now(), plan: &plan, folder: &folder, progress: &progress };
        let job = JobName { namespace: "default".to_owned(), name: "web".to_owned() };
        let hint = session.of_earlier(Failure::new("JOB_CHANGED", "it lives"), &job).hint.unwrap();
        assert!(hint.contains(&format!("`plenum dev --dir '{}'` without files", path.display())), "{hint}");
    }

    // At the usual port no address was told: where a variable or a file of the user's named another cell, whoever did as told changed that one.
    #[test]
    fn commands_name_the_cell_unless_they_ask_it_without_a_flag() {
        let usual = "http://127.0.0.1:7070";
        assert!(!has_to_be_named(usual, Some(address::ADDRESS_DEFAULT)));
        assert!(!has_to_be_named(usual, Some("127.0.0.1:7070")), "it is spelled otherwise");
        assert!(has_to_be_named(usual, Some("http://127.0.0.1:1")));
        assert!(has_to_be_named("http://127.0.0.1:7071", Some(address::ADDRESS_DEFAULT)));
        assert!(has_to_be_named(usual, None), "what is named there is no address");
    }

    // Its server stood still for a minute: the cell was ended, with all that ran there, though nobody waited for the jobs' end.
    #[tokio::test]
    async fn a_cell_without_an_end_goes_on_where_it_cannot_be_read_how_jobs_go() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(&parent.path().join("cell"))).unwrap();
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = Connection::open(&nobody.local_addr().unwrap().to_string()).await.unwrap();
        drop(nobody);
        let progress = Progress::quiet();
        for (until_done, within_secs) in [(true, 20), (false, 1)] {
            let (jobs, schedulers) = (Vec::new(), Vec::new());
            let plan = Plan { jobs, schedulers, machines: 1, until_done, port: None, no_isolation: true };
            let session = Session { started: Instant::now(), plan: &plan, folder: &folder, progress: &progress };
            let name = JobName { namespace: "default".to_owned(), name: "web".to_owned() };
            let submitted = vec![Submitted { name, revision: 1, ended: None }];
            let followed = session.follow(&connection, submitted, Duration::ZERO);
            let followed = timeout(Duration::from_secs(within_secs), followed).await;
            assert_eq!(followed.is_ok(), until_done, "{followed:?}");
        }
    }

    // Each but that a job is missing was told as one for now, and asked for again for as long as the cell ran.
    #[test]
    fn a_failure_that_never_passes_is_not_told_as_one_for_now() {
        let told = |code| untold_words(&Failure::new(code, "so it is"));
        for code in ["UNAVAILABLE", "HISTORY_BEHIND"] {
            assert_eq!(told(code), "how jobs go is not told for now: so it is", "{code}");
        }
        for code in ["NO_SUCH_JOB", "NOT_PERMITTED", "UNIMPLEMENTED"] {
            assert_eq!(told(code), "so it is: how jobs go is not told any more", "{code}");
        }
    }

    // An hour after the first of its jobs had ended the whole cell was stopped, with all that still ran there: there was no such job.
    #[tokio::test]
    async fn a_job_that_has_ended_and_left_the_cell_is_as_it_was_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = ServerOptions::new(folder.path());
        options.settings.core.retire_after_micros = 300_000;
        let server = Server::start(options).await.unwrap();
        let connection = Connection::open(&server.address().to_string()).await.unwrap();
        let mut submitted = Vec::new();
        for name in ["seen", "unseen", "goes-on"] {
            let text = format!(
                "name = \"{name}\"\nscheduler = \"batch\"\n[group.main]\ncommand = [\"/bin/true\"]\n\
                 resources = {{ cpu = \"1\", memory = \"16MiB\" }}\n"
            );
            let spec = Some(JobFile::parse("job.toml", &text).unwrap().spec);
            let revision = connection
                .jobs()
                .submit(SubmitRequest { spec, ..Default::default() })
                .await
                .unwrap()
                .into_inner()
                .revision;
            let name = JobName { namespace: "default".to_owned(), name: name.to_owned() };
            submitted.push(Submitted { name, revision, ended: None });
        }
        for Submitted { name: JobName { namespace, name }, .. } in &submitted[..2] {
            let stop = StopRequest { namespace: namespace.clone(), name: name.clone(), ..Default::default() };
            connection.jobs().stop(stop).await.unwrap();
        }
        let states = [JobState::JobStopped, JobState::JobStopped, JobState::JobWaiting];
        let seen = look(&connection, &mut submitted).await.unwrap();
        assert!(seen.iter().map(JobView::state).eq(states), "{seen:?}");
        // One whose end was not seen while it was there is gone, too.
        submitted[1].ended = None;
        while get_job(&connection, &submitted[1].name, None).await.is_ok() {
            sleep(MACHINES_PERIOD).await;
        }
        let told = look(&connection, &mut submitted).await.unwrap();
        assert!(told.iter().map(JobView::state).eq(states), "{told:?}");
        server.shutdown().await.unwrap();
    }
}
