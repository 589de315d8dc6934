//! The agent without the rest of Plenum, for tests that kill it and for measuring. It is also its own shim.
//!
//! `plenum-agent-alone run SERVER DIRECTORY NAME [--stop-tasks-on-exit]` is an agent.
//!
//! `plenum-agent-alone drive DIRECTORY [MACHINE]` is the exec driver alone. It reads commands from a pipe as lines of JSON
//! (`{"start": TASK}`, `{"stop": ID}`, `{"forget": ID}`) and writes what it recovered, then events, in the same way. With
//! MACHINE, tasks get cgroups and what namespaces the kernel gives; without, neither.
//!
//! `plenum-agent-alone into GROUP` starts a process in the control group of version 2 at this path, which tells the group that it then is in.
//!
//! `plenum-agent-alone late PROGRAM ARGUMENT…` becomes that program, as on a machine that has much else to do: after a while.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use nix::{errno::Errno, libc, sys::wait::wait};
use plenum_agent::{
    Options,
    cgroup::{AgentCgroup, Mounts},
    directories::AgentDirectory,
    driver::{Driver, TaskSpec},
    exec::{ExecDriver, ExecOptions, ShimProgram},
    isolation::Isolation,
    process::hear_of_children,
    shim,
};
use plenum_model::AllocationId;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe,
    sync::mpsc,
};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Asked {
    Start(TaskSpec),
    Stop(u64),
    Forget(u64),
}

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == "shim" => shim::main(arguments),
        Some(first) if first == "into" => finish(into_group(arguments)),
        Some(first) if first == "late" => finish(late(arguments)),
        Some(first) if first == "run" => {
            finish(run(texts(arguments)).and_then(|options| plenum_agent::run(&options).map_err(io::Error::other)))
        }
        Some(first) if first == "drive" => finish(drive(texts(arguments))),
        _ => finish(Err(io::Error::other("expected run, drive or shim"))),
    }
}

fn texts(arguments: impl Iterator<Item = OsString>) -> Vec<String> {
    arguments.filter_map(|one| one.into_string().ok()).collect()
}

fn finish(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "plenum-agent-alone: {error}");
            ExitCode::FAILURE
        }
    }
}

fn into_group(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    /// The flag of `clone3` for it, since Linux 5.7.
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    let group = File::open(arguments.next().ok_or_else(|| io::Error::other("expected a control group"))?)?;
    let descriptor = u64::try_from(group.as_raw_fd()).map_err(io::Error::other)?;
    let exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    // The first is its flags, the fifth its signal, the last the group.
    let words = [CLONE_INTO_CGROUP, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, descriptor];
    // SAFETY: this process has one thread, so that the child may do whatever its parent might; the words live during the call.
    #[allow(unsafe_code)]
    let child = unsafe { libc::syscall(libc::SYS_clone3, words.as_ptr(), size_of_val(&words)) };
    if Errno::result(child)? == 0 {
        return say(fs::read_to_string("/proc/self/cgroup")?.trim_end());
    }
    wait()?;
    Ok(())
}

fn late(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let program = arguments.next().ok_or_else(|| io::Error::other("expected a program"))?;
    thread::sleep(Duration::from_millis(300));
    Err(Command::new(program).args(arguments).exec())
}

fn run(arguments: Vec<String>) -> io::Result<Options> {
    let [server, directory, name, flags @ ..] = arguments.as_slice() else {
        return Err(io::Error::other("expected a server, a directory and a name"));
    };
    let stop_tasks_on_exit = flags.iter().any(|flag| flag == "--stop-tasks-on-exit");
    Ok(Options { name: Some(name.clone()), stop_tasks_on_exit, ..Options::new(server, directory) })
}

#[tokio::main(flavor = "current_thread")]
async fn drive(arguments: Vec<String>) -> io::Result<()> {
    let [directory, machine @ ..] = arguments.as_slice() else { return Err(io::Error::other("expected a directory")) };
    hear_of_children();
    let shim = ShimProgram::own_binary();
    let (cgroup, isolation) = match (machine.first(), Mounts::detect()) {
        (Some(machine), Some(mounts)) => (AgentCgroup::prepare(&mounts, machine).0, shim.probe().isolation),
        (Some(_), None) => (None, shim.probe().isolation),
        (None, _) => (None, Isolation::default()),
    };
    let options = ExecOptions {
        directory: AgentDirectory::new(directory.into()),
        shim,
        cgroup,
        isolation,
        log_file_bytes_max: 1 << 20,
        ended_kept_max: 64,
        ended_bytes_max: 1 << 20,
    };
    let (sender, mut events) = mpsc::channel(64);
    let mut driver = ExecDriver::new(options, sender)?;
    for recovered in driver.recover()? {
        say(&serde_json::to_string(&recovered)?)?;
    }
    say("\"recovered\"")?;
    let stdin = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut commands = BufReader::new(stdin).lines();
    loop {
        tokio::select! {
            Some(event) = events.recv() => say(&serde_json::to_string(&event)?)?,
            line = commands.next_line() => match line? {
                None => return Ok(()),
                Some(line) => match serde_json::from_str(&line)? {
                    Asked::Start(task) => driver.start(task),
                    Asked::Stop(id) => driver.stop(allocation(id)?),
                    Asked::Forget(id) => driver.forget(allocation(id)?),
                },
            },
        }
    }
}

fn allocation(id: u64) -> io::Result<AllocationId> {
    AllocationId::from_bits(id).ok_or_else(|| io::Error::other("expected an allocation's id"))
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
