//! What `plenum dev` is going to do, found out from its arguments and files before anything starts.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use plenum_proto::v1::{JobKind, JobShape};

use crate::{
    cli::{self, Context},
    failure::Failure,
    job_file::{JobFile, endless, guess},
};

/// Schedulers that this version can start by itself.
pub(super) const BUILT_IN: &[&str] = &["batch", "service"];

/// Files that were read, and the parts that they need.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) jobs: Vec<JobFile>,
    pub(super) schedulers: Vec<String>,
    pub(super) machines: u32,
    pub(super) until_done: bool,
    /// The server's, if somebody named one; 0 for any that is free.
    pub(super) port: Option<u16>,
    pub(super) no_isolation: bool,
}

impl Plan {
    /// Reads the files and refuses what could not go well.
    pub(super) fn read(context: &Context, options: &cli::Dev) -> Result<Self, Failure> {
        let jobs = read(&options.files, |path| context.job_file(path))?;
        check(&jobs, options.until_done)?;
        let mut schedulers: BTreeSet<String> = jobs.iter().map(|job| shape(job).scheduler.clone()).collect();
        if jobs.is_empty() {
            schedulers.extend(BUILT_IN.iter().map(|name| (*name).to_owned()));
        }
        Ok(Self {
            jobs,
            schedulers: schedulers.into_iter().collect(),
            machines: options.machines,
            until_done: options.until_done,
            port: options.port,
            no_isolation: options.no_isolation,
        })
    }

    /// The longest time that a task of the files is given to end, in microseconds.
    pub(super) fn kill_timeout_micros(&self) -> i64 {
        let bodies = self.jobs.iter().filter_map(|job| job.spec.body.as_ref());
        bodies.flat_map(|body| &body.groups).map(|group| group.kill_timeout_micros).max().unwrap_or(10_000_000)
    }
}

/// Reads all files. What is wrong is told of each of them, as it is within one.
fn read(files: &[PathBuf], of: impl Fn(&Path) -> Result<JobFile, Failure>) -> Result<Vec<JobFile>, Failure> {
    let mut jobs = Vec::with_capacity(files.len());
    let mut failures = Vec::new();
    for path in files {
        match of(path) {
            Ok(job) => jobs.push(job),
            Err(failure) => failures.push(failure),
        }
    }
    match &failures[..] {
        [] => Ok(jobs),
        [only] => Err(only.clone()),
        [first, ..] => {
            let told = failures.iter().map(|failure| match &failure.hint {
                Some(hint) => format!("{}\n   {hint}", failure.message),
                None => failure.message.clone(),
            });
            let hint = format!("{} files are wrong; nothing was started", failures.len());
            Err(Failure { message: told.collect::<Vec<_>>().join("\n"), hint: Some(hint), ..first.clone() })
        }
    }
}

/// The shape that every read file has.
pub(super) fn shape(job: &JobFile) -> &JobShape {
    job.spec.shape.as_ref().expect("a job file that was read has a shape")
}

fn check(jobs: &[JobFile], until_done: bool) -> Result<(), Failure> {
    let mut names = BTreeSet::new();
    for job in jobs {
        let shape = shape(job);
        if !names.insert((shape.namespace.clone(), shape.name.clone())) {
            return Err(Failure::usage(format!("two of the files describe a job {}", shape.name)));
        }
        if !BUILT_IN.contains(&shape.scheduler.as_str()) {
            return Err(no_such_scheduler(job));
        }
        if let Some(endless) = endless(shape).filter(|_| until_done) {
            let what = format!("{}: job {} {endless}, so --until-done would never end", job.name(), shape.name);
            let else_do = match shape.kind() {
                JobKind::Forever | JobKind::Recurring => "say runs = \"to-completion\"",
                JobKind::ToCompletion | JobKind::Unspecified => "give a group a task",
            };
            return Err(Failure::usage(what).with_hint(format!("leave --until-done out, or {else_do}")));
        }
    }
    Ok(())
}

fn no_such_scheduler(job: &JobFile) -> Failure {
    let scheduler = &shape(job).scheduler;
    let what = format!(
        "{}: the scheduler `{scheduler}` is not built into this version (built in: {}){}",
        job.name(),
        BUILT_IN.join(", "),
        guess(scheduler, BUILT_IN.iter().copied())
    );
    let hint = "start the cell with `plenum dev`, your scheduler beside it with PLENUM_ADDR set to the cell's address, \
                and then the job, with the same variable, with `plenum job run FILE`";
    Failure::new("NO_SUCH_SCHEDULER", what).with_hint(hint)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn job(head: &str) -> JobFile {
        let group = "[group.main]\ncommand = [\"/bin/true\"]\nresources = { cpu = 1, memory = \"1MiB\" }\n";
        JobFile::parse("job.toml", &format!("{head}{group}")).unwrap()
    }

    // Only what was wrong in the first one was told.
    #[test]
    fn of_several_files_each_is_told_what_is_wrong_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let right = "name = \"a\"\nscheduler = \"batch\"\n[group.main]\ncommand = [\"/bin/true\"]\n\
                     resources = { cpu = 1, memory = \"1MiB\" }\n";
        let files = [file("one.toml", "name = "), file("two.toml", right), folder.path().join("three.toml")];
        let read = |files: &[PathBuf]| read(files, |path| JobFile::read(path).map_err(Failure::from));
        let failure = read(&files).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.exit), ("JOB_FILE_SYNTAX", crate::failure::EXIT_FAILED));
        assert!(failure.message.contains("one.toml:1:"), "{failure}");
        assert!(failure.message.contains("three.toml: No such file"), "{failure}");
        assert!(!failure.message.contains("two.toml"), "{failure}");
        assert_eq!(failure.hint.as_deref(), Some("2 files are wrong; nothing was started"));
        assert_eq!(read(&files[1..2]).unwrap().len(), 1);
        let only = read(&files[1..]).unwrap_err();
        assert!(only.message.ends_with("three.toml: No such file or directory (os error 2)"), "{only}");
    }

    #[test]
    fn a_job_without_an_end_is_not_waited_for() {
        let jobs = [job("name = \"web\"\nscheduler = \"service\"\n")];
        assert!(check(&jobs, false).is_ok());
        let failure = check(&jobs, true).unwrap_err();
        assert_eq!(failure.exit, crate::failure::EXIT_USAGE);
        assert!(failure.message.contains("runs for ever"), "{failure}");
    }

    // It has no end either: the run waited until it was interrupted.
    #[test]
    fn a_job_that_is_only_launched_is_not_waited_for() {
        let jobs = [job("name = \"nightly\"\nscheduler = \"batch\"\nruns = \"recurring\"\n")];
        assert!(check(&jobs, false).is_ok());
        let failure = check(&jobs, true).unwrap_err();
        assert_eq!(failure.exit, crate::failure::EXIT_USAGE);
        assert!(failure.message.contains("nightly waits for ever to be launched"), "{failure}");
    }

    // It was told to say of itself what it said already.
    #[test]
    fn a_job_without_tasks_is_not_waited_for() {
        let text = "name = \"none\"\nscheduler = \"batch\"\n[group.main]\ncount = 0\ncommand = [\"/bin/true\"]\n\
                    resources = { cpu = 1, memory = \"1MiB\" }\n";
        let jobs = [JobFile::parse("job.toml", text).unwrap()];
        assert!(check(&jobs, false).is_ok());
        let failure = check(&jobs, true).unwrap_err();
        assert!(failure.message.contains("none has no task"), "{failure}");
        assert_eq!(failure.hint.as_deref(), Some("leave --until-done out, or give a group a task"));
    }

    #[test]
    fn a_teams_own_scheduler_is_told_how_to_start() {
        let failure = check(&[job("name = \"ml\"\nscheduler = \"gangs\"\n")], false).unwrap_err();
        assert_eq!(failure.code, "NO_SUCH_SCHEDULER");
        // Only the scheduler was told to have it: the job went to whichever cell is asked without it.
        let hint = failure.hint.unwrap();
        assert!(hint.contains("PLENUM_ADDR") && hint.contains("the job, with the same variable, with"), "{hint}");
        assert!(failure.message.ends_with("(built in: batch, service)"), "{}", failure.message);
        let slip = check(&[job("name = \"ml\"\nscheduler = \"bacth\"\n")], false).unwrap_err();
        assert!(slip.message.ends_with("; did you mean `batch`?"), "{slip}");
    }

    #[test]
    fn two_files_of_one_job_are_a_slip() {
        let jobs = [job("name = \"a\"\nscheduler = \"batch\"\n"), job("name = \"a\"\nscheduler = \"batch\"\n")];
        assert!(check(&jobs, true).unwrap_err().message.contains("describe a job a"));
    }
}
