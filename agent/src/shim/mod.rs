//! The shim: one small process per running task, a re-execution of our own binary.
//!
//! It is the only one who can learn how a task ended, so it must outlive the agent: it starts the task, pumps its
//! output into bounded files, stops it when asked to by SIGTERM (at once by SIGQUIT), kills what is left of it, and writes down how it ended.
//! The task dies with its shim. It knows no cell and no network; all it knows stands in `spec.json`.
//!
//! A task of a root agent stays root today, with a handful of capabilities and no way to gain more; a user of its own
//! for each task comes later.

mod closing;
mod command;
mod output;
mod probe;
mod supervise;

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::setsid,
};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::{Limits, TaskCgroup},
    directories::{AllocationDirectory, let_owner_in},
    driver::{Exit, Failure, FailureKind, TaskSpec},
    durable,
    isolation::Isolation,
    process::{ProcessIdentity, boot_id, hear_of_children, let_others_pass, outlive_limits_of_files},
};

use self::closing::close_inherited;
pub(crate) use self::{closing::not_in_kernel, supervise::is_readable};

/// The shim's exit code when another shim has the record of this start.
const RECORDED_BY_ANOTHER: u8 = 3;
/// How often, a second apart, the shim tries to write down how its task ended: the disk may be full for a while.
const EXIT_WRITES_MAX: u32 = 60;

/// What a shim is told, and what a later agent finds: the content of `spec.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShimSpec {
    pub(crate) task: TaskSpec,
    /// The boot in which it was written; in another one it is history.
    pub(crate) boot_id: String,
    pub(crate) job_directory: PathBuf,
    pub(crate) cgroup: Option<TaskCgroup>,
    pub(crate) isolation: Isolation,
    /// Output kept of each stream: two files of at most this size.
    pub(crate) log_file_bytes_max: u64,
    /// How many files each of its processes may open, unless it raises that itself; `None`: as many as the agent.
    #[serde(default)]
    pub(crate) open_files: Option<u64>,
}

/// Runs a shim: `main` of the hidden subcommand `shim`, called before the process has a second thread.
///
/// `arguments` are those after `shim`: the allocation's directory; or `--probe`, which writes to standard output, as JSON,
/// which [`Isolation`] works here ([`Probed`](crate::isolation::Probed)).
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    close_inherited();
    hear_of_children();
    outlive_limits_of_files();
    let_others_pass();
    let mut arguments = arguments.into_iter();
    match (arguments.next(), arguments.next()) {
        (Some(flag), None) if flag == "--probe" => probe::main(),
        (Some(directory), None) => run(&AllocationDirectory::new(directory.into())),
        _ => {
            let _ = writeln!(
                io::stderr(),
                "plenum shim: expected the directory of one allocation; agents call this, people don't"
            );
            ExitCode::from(2)
        }
    }
}

fn run(directory: &AllocationDirectory) -> ExitCode {
    // Before anything else: a stop that comes early waits until there is something to stop.
    let signals = watched_signals();
    let ready = signals.thread_block().is_ok() && prctl::set_child_subreaper(true).is_ok();
    // Fails where the shim leads its session already, which is as good.
    let _ = setsid();
    let Ok(Some(spec)) = durable::read::<ShimSpec>(&directory.spec()) else { return ExitCode::FAILURE };
    if !ready || spec.boot_id != boot_id() {
        return ExitCode::FAILURE;
    }
    let restart = spec.task.restart;
    let recorded = ProcessIdentity::of_this_process()
        .and_then(|identity| durable::write_once(&directory.record(restart), &identity));
    match recorded {
        Ok(true) => {}
        Ok(false) => return ExitCode::from(RECORDED_BY_ANOTHER),
        Err(_) => return ExitCode::FAILURE,
    }
    // Records of earlier starts are removed after the spec says another number: one that was late may have found none.
    if !matches!(durable::read::<ShimSpec>(&directory.spec()), Ok(Some(now)) if now.task.restart == restart) {
        return ExitCode::from(RECORDED_BY_ANOTHER);
    }
    // The task may fill the disk, or another one meanwhile. Without that room its end waits for some.
    let reserved = durable::Reserved::at(directory.exit_reserved());
    let mut exit = run_task(&spec, directory, &signals).unwrap_or_else(|failure| Exit::failed(failure, 0));
    if let Some(cgroup) = &spec.cgroup {
        // Always empty here. Should the removal fail, the agent tries again when this process is gone.
        let _ = cgroup.remove();
    }
    exit.ended_unix_ms = unix_ms();
    if write_exit(directory, restart, reserved.as_ref().ok(), &exit) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Writes down how a start ended. False: that could not be done for a minute.
fn write_exit(
    directory: &AllocationDirectory,
    restart: u32,
    reserved: Option<&durable::Reserved>,
    exit: &Exit,
) -> bool {
    let path = directory.exit(restart);
    for _ in 0..EXIT_WRITES_MAX {
        directory.let_owner_in();
        let written = reserved.is_some_and(|reserved| reserved.write_atomically(&path, exit).is_ok());
        if written || durable::write_atomically(&path, exit).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    false
}

fn run_task(spec: &ShimSpec, directory: &AllocationDirectory, signals: &SigSet) -> Result<Exit, Failure> {
    let task = &spec.task;
    for path in [&directory.task(), &spec.job_directory] {
        make_directory(path).map_err(|error| setup(format!("making {}: {error}", path.display())))?;
    }
    let_owner_in(&directory.task());
    let entries = match &spec.cgroup {
        None => Vec::new(),
        Some(cgroup) => {
            let limits = Limits { cpu_millis: task.cpu_millis, memory_bytes: task.memory_bytes, pids: task.pids_max };
            cgroup
                .create(&limits)
                .and_then(|()| cgroup.open_entries())
                .map_err(|error| setup(format!("making its cgroup: {error}")))?
        }
    };
    let command = command::Command::of(spec, directory)?;
    // Before anything runs: without it nothing could be watched.
    let signals = SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|error| setup(format!("a descriptor to watch the task by: {}", error.desc())))?;
    spec.isolation.unshare_for_child().map_err(setup)?;
    let started = command::launch(&command, spec.isolation, entries)?;
    Ok(supervise::supervise(started, spec, directory, signals))
}

/// Makes a directory of a task, or finds the one that is there. A task that no namespace keeps from it may have put something else in its place: it, and
/// those of its job, would fail here from then on, and the machine count as one that can't set tasks up.
fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path).or_else(|_| {
        let _ = fs::remove_file(path);
        fs::create_dir_all(path)
    })
}

fn setup(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Setup, message)
}

/// What shims and the first processes of namespaces wait for. Blocked, so that none of them ends us.
pub(crate) fn watched_signals() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect()
}

pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    // A task without namespaces did `chmod 0 ..`, or `../..`, and its shim, of an ordinary user, could not write down that it had ended: it never did,
    // and nothing else was started on its machine.
    #[test]
    fn what_a_task_did_to_the_directory_above_its_own_keeps_no_end_from_being_written_down() {
        let place = tempfile::tempdir().unwrap();
        let directory = AllocationDirectory::new(place.path().join("agent/allocs/alloc-1-1"));
        fs::create_dir_all(directory.root()).unwrap();
        let reserved = durable::Reserved::at(directory.exit_reserved()).unwrap();
        let own = || directory.root().ancestors().take(3);
        own().for_each(|one| fs::set_permissions(one, fs::Permissions::from_mode(0o005)).unwrap());
        assert!(write_exit(&directory, 0, Some(&reserved), &Exit::default()));
        assert_eq!(durable::read::<Exit>(&directory.exit(0)).unwrap(), Some(Exit::default()));
        // Who is root may write there whatever its mode is.
        assert!(own().all(|one| fs::metadata(one).unwrap().permissions().mode() & 0o777 == 0o705));
    }

    // A task without namespaces did `chmod 0 .` and failed, another one put a file where the directory of its job had been. Neither could be set up
    // again, for which the machine was held to be broken.
    #[test]
    fn what_a_task_did_to_its_directories_keeps_no_start_from_them() {
        let place = tempfile::tempdir().unwrap();
        let (task, job) = (place.path().join("task"), place.path().join("jobs/job"));
        make_directory(&task).unwrap();
        fs::set_permissions(&task, fs::Permissions::from_mode(0o005)).unwrap();
        make_directory(&task).unwrap();
        let_owner_in(&task);
        assert_eq!(fs::metadata(&task).unwrap().permissions().mode() & 0o777, 0o705);
        make_directory(&job).unwrap();
        fs::write(job.join("result"), "").unwrap();
        make_directory(&job).unwrap();
        assert!(job.join("result").exists());
        fs::remove_dir_all(&job).unwrap();
        fs::write(&job, "").unwrap();
        make_directory(&job).unwrap();
        assert!(job.is_dir());
    }
}
