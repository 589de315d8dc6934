//! From the shim to the running command: forks, namespaces, the cgroup, and the exec. Everything after the fork happens
//! in a child of a process with one thread, so that it may allocate.

use std::{
    convert::Infallible,
    ffi::{CStr, CString, OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    sys::{
        prctl,
        signal::{SigHandler, SigSet, Signal, kill, killpg, signal},
        stat::{Mode, umask},
        time::TimeSpec,
    },
    unistd::{ForkResult, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, pipe2, setsid},
};
use rustix::{
    io::retry_on_intr,
    process::{WaitOptions, wait},
    thread::{CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities},
};
use serde::{Deserialize, Serialize};

use super::{
    ShimSpec,
    closing::{close_kernel_files, close_on_exec_all, make_read_only, show_only_group},
    setup, watched_signals,
};
use crate::{
    cgroup::TaskCgroup,
    directories::AllocationDirectory,
    driver::{Failure, FailureKind},
    isolation::{Isolation, hide},
    open_files,
};

/// Where programs are looked up when the task doesn't say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is read of a program to find out whether its disk fails. It may be a file of any length with nothing in it; what the kernel reads before
/// it runs one stands at its beginning as a rule.
const PROGRAM_READ_BYTES_MAX: u64 = 16 << 20;

/// How often, and how soon again, a program is tried that somebody has open for writing: for a second in all.
const WRITTEN_TRIES_MAX: u32 = 50;
const WRITTEN_TRIED_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What a root task keeps: files of others, other users for its own processes, low ports. Nothing that reaches the
/// kernel, its devices, its clock or its network.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// How a command ended, as `wait` tells it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Ending {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
}

/// A child that ended, and how; `None`: none ended since. Waits for nothing.
///
/// Not by `nix`, which says of an end by a real-time signal that the argument was wrong, when the kernel has forgotten that child already:
/// nobody would hear of its end again.
///
/// # Errors
/// When there is no child (any more).
pub(super) fn ended_child() -> rustix::io::Result<Option<(Pid, Ending)>> {
    Ok(retry_on_intr(|| wait(WaitOptions::NOHANG))?.map(|(pid, status)| {
        let ending = Ending { code: status.exit_status(), signal: status.terminating_signal() };
        (Pid::from_raw(pid.as_raw_nonzero().get()), ending)
    }))
}

/// Ends the calling process without running what its parent meant to run at its own end.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(code)
    }
}

/// What is executed, made ready before the fork.
pub(super) struct Command {
    arguments: Vec<CString>,
    environment: Vec<CString>,
    path: OsString,
    working_directory: PathBuf,
    job_directory: PathBuf,
    /// The agent's directory, where the task shall not see the rest of it.
    hidden_root: Option<PathBuf>,
    /// The group in which it runs, and where the hierarchy is mounted of which it shall see no other; `None` in version 1.
    group: Option<(PathBuf, PathBuf)>,
    open_files: Option<u64>,
}

impl Command {
    pub(super) fn of(spec: &ShimSpec, directory: &AllocationDirectory) -> Result<Self, Failure> {
        let mut variables = spec.task.env.clone();
        variables.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
        let path = variables.get("PATH").map(OsString::from).unwrap_or_default();
        let mut environment = Vec::with_capacity(variables.len() + 2);
        for (name, value) in &variables {
            if name.is_empty() || name.contains('=') {
                return Err(setup(format!("environment: {name:?} is no name of a variable")));
            }
            environment.push(c_string(format!("{name}={value}").into_bytes())?);
        }
        for (name, value) in [("PLENUM_TASK_DIR", &directory.task()), ("PLENUM_JOB_DIR", &spec.job_directory)] {
            let mut entry = format!("{name}=").into_bytes();
            entry.extend_from_slice(value.as_os_str().as_bytes());
            environment.push(c_string(entry)?);
        }
        let arguments =
            spec.task.command.iter().map(|one| c_string(one.clone().into_bytes())).collect::<Result<Vec<_>, _>>()?;
        if arguments.first().is_none_or(|program| program.is_empty()) {
            return Err(Failure::new(FailureKind::CommandNotFound, "the command is empty: expected a program"));
        }
        Ok(Self {
            arguments,
            environment,
            path,
            working_directory: directory.task(),
            job_directory: spec.job_directory.clone(),
            hidden_root: spec.isolation.hidden.then(|| directory.agent()).flatten(),
            group: spec.cgroup.as_ref().and_then(TaskCgroup::in_unified_hierarchy),
            open_files: spec.open_files,
        })
    }

    /// Replaces this process. Comes back only with why that could not be.
    fn execute(&self) -> Failure {
        let program = &self.arguments[0];
        let name = program.to_string_lossy();
        let candidates: Vec<CString> = if program.as_bytes().contains(&b'/') {
            vec![program.clone()]
        } else {
            let in_directory = |directory: PathBuf| {
                let file = directory.join(OsString::from_vec(program.as_bytes().to_vec()));
                CString::new(file.into_os_string().into_vec()).ok()
            };
            std::env::split_paths(&self.path).filter_map(in_directory).collect()
        };
        let execute = |candidate: &CStr| {
            let Err(error) = execve(candidate, &self.arguments, &self.environment);
            error
        };
        let found = match execute_first_of(candidates, execute) {
            Err((candidate, error)) => {
                return setup(format!("executing {}: {}", candidate.to_string_lossy(), error.desc()));
            }
            Ok(found) => found,
        };
        match found {
            None if program.as_bytes().contains(&b'/') => {
                Failure::new(FailureKind::CommandNotFound, format!("command not found: {name}"))
            }
            None => Failure::new(
                FailureKind::CommandNotFound,
                format!("command not found: {name} (looked in {})", self.path.to_string_lossy()),
            ),
            Some((file, error)) => Failure::new(
                FailureKind::NotExecutable,
                format!("can't execute {}: {}", file.to_string_lossy(), why_not_executed(error)),
            ),
        }
    }
}

/// Executes the first of these that can be. Comes back where none can: with the first that is there, and why it can't; or with the one that the
/// machine has to mend something for.
fn execute_first_of(
    candidates: Vec<CString>,
    mut execute: impl FnMut(&CStr) -> Errno,
) -> Result<Option<(CString, Errno)>, (CString, Errno)> {
    let mut found = None;
    for candidate in candidates {
        let error = unless_being_written(|| execute(&candidate));
        // What comes later in its path than one that could be executed but for that is another program.
        if is_of_machine(error, &candidate) {
            return Err((candidate, error));
        }
        if error == Errno::ETXTBSY {
            return Ok(Some((candidate, error)));
        }
        let exists = fs::symlink_metadata(OsStr::from_bytes(candidate.as_bytes())).is_ok();
        if exists && found.is_none() {
            found = Some((candidate, error));
        }
    }
    Ok(found)
}

/// Why `execute` came back, which is tried again while the program is open for writing: who copies a new one over an old one is done in a moment.
fn unless_being_written(mut execute: impl FnMut() -> Errno) -> Errno {
    let mut tries = 1;
    loop {
        let error = execute();
        if error != Errno::ETXTBSY || tries == WRITTEN_TRIES_MAX {
            return error;
        }
        tries += 1;
        thread::sleep(WRITTEN_TRIED_AGAIN_AFTER);
    }
}

/// What the machine, and not the task, has to mend before its program can be executed: the disk, memory, files, processes.
fn is_of_machine(error: Errno, program: &CStr) -> bool {
    match error {
        // Also what the kernel says of a program that names places in itself which it does not have.
        Errno::EIO => !can_be_read(Path::new(OsStr::from_bytes(program.to_bytes()))),
        other => matches!(other, Errno::ENOMEM | Errno::ENFILE | Errno::EMFILE | Errno::EAGAIN),
    }
}

/// True when the disk gives the beginning of a file, or another reason than itself for not giving it.
fn can_be_read(program: &Path) -> bool {
    let read = File::open(program).and_then(|file| io::copy(&mut file.take(PROGRAM_READ_BYTES_MAX), &mut io::sink()));
    !matches!(read, Err(error) if error.raw_os_error() == Some(libc::EIO))
}

fn why_not_executed(error: Errno) -> String {
    match error {
        Errno::EACCES => "permission denied (is it a file with its x bit set, on a mount that allows it?)".to_owned(),
        Errno::ENOENT => "the interpreter or loader that it names was not found".to_owned(),
        Errno::ETXTBSY => "somebody has it open for writing".to_owned(),
        Errno::ENOEXEC => "not a program for this machine, and no #! line".to_owned(),
        Errno::EIO => "not a whole program: it names places in its file that are not there".to_owned(),
        other => other.desc().to_owned(),
    }
}

fn c_string(bytes: Vec<u8>) -> Result<CString, Failure> {
    CString::new(bytes).map_err(|_| setup("a zero byte in the command or the environment"))
}

/// A task on its way, as the shim sees it.
pub(super) struct Started {
    /// The shim's child: the command itself, or the first process of its pid namespace.
    pub(super) child: Pid,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// A [`Failure`] as JSON, or nothing when the command was executed.
    pub(super) report: OwnedFd,
    /// An [`Ending`] as JSON, where the child isn't the command itself.
    pub(super) ending: OwnedFd,
}

/// The ends of the pipes that the children need.
struct ChildEnds {
    stdout: OwnedFd,
    stderr: OwnedFd,
    report: OwnedFd,
    ending: OwnedFd,
    gate: OwnedFd,
}

/// Forks, and returns to the shim. The child goes on as soon as it knows that it will die with the shim.
pub(super) fn launch(command: &Command, isolation: Isolation, entries: Vec<File>) -> Result<Started, Failure> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|error| setup(format!("a pipe: {error}")));
    let ((stdout, child_stdout), (stderr, child_stderr)) = (pipe()?, pipe()?);
    let ((report, child_report), (ending, child_ending), (child_gate, gate)) = (pipe()?, pipe()?, pipe()?);
    let ends = ChildEnds {
        stdout: child_stdout,
        stderr: child_stderr,
        report: child_report,
        ending: child_ending,
        gate: child_gate,
    };
    // SAFETY: a shim has one thread, so that the child may do whatever its parent might.
    #[allow(unsafe_code)]
    match unsafe { fork() } {
        Err(error) => Err(setup(format!("starting a process: {error}"))),
        Ok(ForkResult::Child) => {
            drop(gate);
            first_process(command, isolation, entries, ends)
        }
        Ok(ForkResult::Parent { child }) => {
            drop(ends);
            // It fails only when the child is dead already, which the shim will see.
            let _ = File::from(gate).write_all(b"g");
            Ok(Started { child, stdout, stderr, report, ending })
        }
    }
}

fn first_process(command: &Command, isolation: Isolation, entries: Vec<File>, ends: ChildEnds) -> ! {
    let ChildEnds { stdout, stderr, report, ending, gate } = ends;
    // The signal is sent for a death after this call only; the gate, which closes with the shim, covers the time before.
    let bound = prctl::set_pdeathsig(Signal::SIGKILL);
    if bound.is_err() || !matches!(File::from(gate).read(&mut [0]), Ok(1)) {
        exit_now(1);
    }
    let separated = isolation.unshare_self(false).map_err(String::from).and_then(|()| match &command.hidden_root {
        Some(root) => hide(root, &[&command.working_directory, &command.job_directory]),
        None => Ok(()),
    });
    if let Err(message) = separated {
        fail(report, &setup(message));
    }
    if !isolation.pid {
        let Err(failure) = become_command(command, isolation, entries, &stdout, &stderr);
        fail(report, &failure);
    }
    // SAFETY: as above, one thread.
    #[allow(unsafe_code)]
    match unsafe { fork() } {
        Err(error) => fail(report, &setup(format!("starting a process: {error}"))),
        Ok(ForkResult::Child) => {
            let Err(failure) = become_command(command, isolation, entries, &stdout, &stderr);
            fail(report, &failure)
        }
        Ok(ForkResult::Parent { child }) => {
            // Otherwise the shim would wait for ever for their end.
            drop((report, stdout, stderr, entries));
            first_of_namespace(child, ending)
        }
    }
}

fn fail(report: OwnedFd, failure: &Failure) -> ! {
    let text = serde_json::to_vec(failure).unwrap_or_default();
    let _ = File::from(report).write_all(&text);
    exit_now(127)
}

/// The first process of a pid namespace: hands SIGTERM on, buries orphans, and tells how the command ended. When it
/// leaves, the kernel kills whatever is left. It leaves with a command that ends by itself; after one that the shim asked to end it waits for those
/// who were asked with it, until the shim kills it.
///
/// The command isn't it, because signals without a handler don't reach a first process: no plain program would stop.
fn first_of_namespace(command: Pid, ending: OwnedFd) -> ! {
    let signals = watched_signals();
    // The former until the command ended: then its number may become another's.
    let (mut ending, mut is_asked) = (Some(File::from(ending)), false);
    loop {
        while let Ok(Some((pid, how))) = ended_child() {
            if pid == command
                && let Some(mut ending) = ending.take()
            {
                let text = serde_json::to_vec(&how).unwrap_or_default();
                let _ = ending.write_all(&text);
                if !is_asked {
                    exit_now(0);
                }
            }
        }
        if ending.is_none() && !has_group(command) {
            exit_now(0);
        }
        let (signal, is_from_outside) = next_signal(&signals, ending.is_none());
        if signal == libc::SIGTERM && ending.is_some() {
            is_asked |= is_from_outside;
            terminate(command);
        }
    }
}

/// How soon it is looked again whether anybody is left of a command's group, where no signal tells.
pub(super) const LOOKED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Waits for a signal, and says which one came, and whether from outside of this pid namespace: whoever sent it has no number in here then. A task
/// may send some, too; of those the shim does not know, and gives nobody a time to end in. Where a task has sent the same one just before, that is
/// all that comes. For so long only, where it `looks_again`: that one of the command's group ends is told to nobody here while its parent lives.
fn next_signal(signals: &SigSet, looks_again: bool) -> (libc::c_int, bool) {
    let signals: &libc::sigset_t = signals.as_ref();
    // SAFETY: it is made of numbers, which may all be zero.
    #[allow(unsafe_code)]
    let mut information: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let within = TimeSpec::from_duration(LOOKED_AGAIN_AFTER);
    let timeout: *const libc::timespec = if looks_again { within.as_ref() } else { std::ptr::null() };
    // SAFETY: all live during the call.
    #[allow(unsafe_code)]
    let signal = unsafe { libc::sigtimedwait(signals, &raw mut information, timeout) };
    // SAFETY: the kernel writes there who sent a signal that somebody sent; of others it is some number that is not used.
    #[allow(unsafe_code)]
    let sender = unsafe { information.si_pid() };
    (signal, sender == 0)
}

/// Asks a command to end: its whole process group, or itself as long as it has none.
pub(super) fn terminate(command: Pid) {
    if killpg(command, Signal::SIGTERM).is_err() {
        let _ = kill(command, Signal::SIGTERM);
    }
}

/// Whether anybody is left of the process group of a command, which it leads, and whose number is given to nobody else before that. Those who left
/// the group were not asked to end by [`terminate`] either.
pub(super) fn has_group(command: Pid) -> bool {
    killpg(command, None::<Signal>).is_ok()
}

fn become_command(
    command: &Command,
    isolation: Isolation,
    entries: Vec<File>,
    stdout: &OwnedFd,
    stderr: &OwnedFd,
) -> Result<Infallible, Failure> {
    give_up_protection(Path::new("/proc/self/oom_score_adj"));
    // First the cgroup, so that everything from here on is counted.
    for mut entry in entries {
        entry.write_all(b"0").map_err(|error| setup(format!("entering its cgroup: {error}")))?;
    }
    let step = |what: &str, outcome: nix::Result<()>| outcome.map_err(|error| setup(format!("{what}: {error}")));
    if isolation.mount {
        if let Some((group, mounted_at)) = &command.group {
            step(&format!("showing {} in place of all groups", group.display()), show_only_group(group, mounted_at))?;
        }
        make_read_only("/sys");
        if Uid::effective().is_root() {
            close_kernel_files();
        }
    }
    step("a session", setsid().map(drop))?;
    reset_signals().map_err(|error| setup(format!("signals: {error}")))?;
    let null = File::open("/dev/null").map_err(|error| setup(format!("/dev/null: {error}")))?;
    step("standard input", dup2_stdin(null))?;
    step("standard output", dup2_stdout(stdout))?;
    step("standard error", dup2_stderr(stderr))?;
    step(&format!("entering {}", command.working_directory.display()), chdir(&command.working_directory))?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    leave_keys_of_others();
    bequeath_no_capabilities()?;
    if Uid::effective().is_root() {
        drop_capabilities()?;
    }
    step("no new privileges", prctl::set_no_new_privs())?;
    if let Some(most) = command.open_files {
        open_files::lower_to(most);
    }
    close_on_exec_all();
    Err(command.execute())
}

/// An agent that the kernel shall spare when memory is short, as node agents are told to be, would have it spare all tasks before anything else on
/// the machine; and a task of one that is never to be killed would stand still at its limit. Who is killed sooner than others stays so.
fn give_up_protection(adjustment: &Path) {
    let is_spared = |text: String| text.trim().parse::<i32>().is_ok_and(|adjustment| adjustment < 0);
    if fs::read_to_string(adjustment).is_ok_and(is_spared) {
        // To be spared less is allowed to everybody.
        let _ = fs::write(adjustment, "0");
    }
}

/// Our own runtime ignores SIGPIPE, the shim ignores SIGXFSZ and blocks what it waits for: a command would inherit all that.
fn reset_signals() -> nix::Result<()> {
    for one in Signal::iterator().filter(|one| !matches!(one, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs no code of ours.
        #[allow(unsafe_code)]
        unsafe { signal(one, SigHandler::SigDfl) }?;
    }
    SigSet::all().thread_unblock()
}

/// Gives the command keys of its own, as none are yet: those of whoever started the agent, and of all tasks of its user, were the same ones. A kernel or
/// a container without them refuses, which keeps no task from running.
fn leave_keys_of_others() {
    let nameless: *const libc::c_char = std::ptr::null();
    // SAFETY: without a name, the kernel reads nothing of ours.
    #[allow(unsafe_code)]
    let _ = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, nameless) };
}

/// What whoever started the agent meant for it to hand on, as units and containers can say, is not bounded at an exec by what
/// [`drop_capabilities`] leaves. Without these there are no ambient ones either.
fn bequeath_no_capabilities() -> Result<(), Failure> {
    let failed = |error| setup(format!("capabilities that are inherited: {error}"));
    let own = capabilities(None).map_err(failed)?;
    if own.inheritable.is_empty() {
        return Ok(());
    }
    set_capabilities(None, CapabilitySets { inheritable: CapabilitySet::empty(), ..own }).map_err(failed)
}

fn drop_capabilities() -> Result<(), Failure> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if KEPT.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The kernel's last capability is behind us.
            Err(rustix::io::Errno::INVAL) => break,
            Err(rustix::io::Errno::PERM) => return give_capabilities_up(),
            Err(error) => return Err(setup(format!("dropping capability {bit}: {error}"))),
        }
    }
    Ok(())
}

/// For a root that may not lower its bounds, as in a container: what it has itself goes, and an exec without new privileges brings
/// nothing back.
fn give_capabilities_up() -> Result<(), Failure> {
    let failed = |error| setup(format!("giving capabilities up: {error}"));
    let own = capabilities(None).map_err(failed)?;
    let kept = CapabilitySets {
        effective: own.effective & KEPT,
        permitted: own.permitted & KEPT,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept).map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    // A program that can't be executed is the task's own fault: a machine with a broken disk failed one task after the other, and got the next ones.
    // And one that names places behind its end gets the same answer of the kernel, on any machine.
    #[test]
    fn only_a_program_that_the_disk_does_not_give_is_the_machines_fault() {
        let place = tempfile::tempdir().unwrap();
        let sound = CString::new(place.path().join("program").into_os_string().into_vec()).unwrap();
        fs::write(place.path().join("program"), "x").unwrap();
        assert!(!is_of_machine(Errno::EIO, &sound) && !is_of_machine(Errno::EIO, c"/no/such/program"));
        // The kernel has nothing to give at the beginning of that, and says so as a disk does.
        assert!(is_of_machine(Errno::EIO, c"/proc/self/mem"));
        assert!(is_of_machine(Errno::EMFILE, &sound) && !is_of_machine(Errno::ENOEXEC, &sound));
    }

    // A new program was copied over the old one just when its task was to be started. The task failed for good, however often it may be restarted.
    #[test]
    fn a_program_that_is_being_written_is_tried_again_for_a_while() {
        let tried = |last: usize, then: Errno| {
            let mut tries = 0;
            let error = unless_being_written(|| {
                tries += 1;
                if tries < last { Errno::ETXTBSY } else { then }
            });
            (tries, error)
        };
        assert_eq!(tried(3, Errno::ENOENT), (3, Errno::ENOENT));
        let most = WRITTEN_TRIES_MAX as usize;
        assert_eq!(tried(2 * most, Errno::ENOENT), (most, Errno::ETXTBSY), "not for ever");
    }

    // It ran an older program of the same name from further along its path.
    #[test]
    fn a_program_that_is_written_for_long_is_not_passed_over_for_one_behind_it() {
        let places = ["/none", "/busy", "/behind"].map(|place| CString::new(place).unwrap());
        let tried = |error: Errno| {
            let mut tried = Vec::new();
            let found = execute_first_of(places.to_vec(), |place| {
                tried.push(place.to_owned());
                if place == c"/busy" { error } else { Errno::ENOENT }
            });
            tried.dedup();
            (tried, found)
        };
        assert_eq!(tried(Errno::ETXTBSY), (places[..2].to_vec(), Ok(Some((places[1].clone(), Errno::ETXTBSY)))));
        assert_eq!(tried(Errno::ENOMEM), (places[..2].to_vec(), Err((places[1].clone(), Errno::ENOMEM))));
        assert_eq!(tried(Errno::ENOENT), (places.to_vec(), Ok(None)));
    }

    /// The number of the caller's keyring; negative: there are none here.
    fn session_keyring() -> libc::c_long {
        // SAFETY: numbers only.
        #[allow(unsafe_code)]
        unsafe {
            libc::syscall(libc::SYS_keyctl, libc::KEYCTL_GET_KEYRING_ID, libc::KEY_SPEC_SESSION_KEYRING, 0)
        }
    }

    // What one task put among its keys, tasks of other jobs read, also after its end.
    #[test]
    fn a_command_has_none_of_the_keys_of_who_started_it() {
        let before = session_keyring();
        // Each thread has its own.
        let own = thread::spawn(|| {
            leave_keys_of_others();
            session_keyring()
        });
        let own = own.join().unwrap();
        assert!(own != before || own < 0, "{own}");
        assert_eq!(session_keyring(), before);
    }

    #[test]
    fn only_what_spares_a_task_is_given_up() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("oom_score_adj");
        for (before, after) in [("-1000\n", "0"), ("-1\n", "0"), ("0\n", "0\n"), ("300\n", "300\n"), ("?", "?")] {
            fs::write(&file, before).unwrap();
            give_up_protection(&file);
            assert_eq!(fs::read_to_string(&file).unwrap(), after);
        }
        give_up_protection(&place.path().join("absent"));
        assert!(!place.path().join("absent").exists());
    }
}
