//! Watching over one task until nothing of it is left.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        signalfd::SignalFd,
    },
    unistd::Pid,
};
use rustix::process::{Resource, getrlimit};

use super::{
    ShimSpec,
    command::{Ending, LOOKED_AGAIN_AFTER, Started, ended_child, has_group, terminate},
    output::Output,
    unix_ms,
};
use crate::{
    cgroup::TaskCgroup,
    directories::AllocationDirectory,
    driver::{Exit, Failure, FailureKind},
    process::{descendants, kill_listed},
};

/// What was to die and didn't is killed again after this long, each time later: it may have forked in between.
const KILL_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// What hangs in the kernel may do so for days, and without a pid namespace each look for what is left of it is one at all processes of the machine.
/// Half of this is how late it is noticed, on average, that it is gone.
const KILL_AGAIN_AFTER_MAX: Duration = Duration::from_secs(2);
/// How soon it is tried again to mark that the command runs: the disk may be full for a while.
const MARKED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Longer than any report of a child.
const REPORT_BYTES_MAX: u64 = 64 << 10;

struct Supervisor<'a> {
    spec: &'a ShimSpec,
    directory: &'a AllocationDirectory,
    child: Pid,
    signals: SignalFd,
    report: Option<File>,
    ending: File,
    outputs: [Output; 2],
    /// How the child ended: of a pid namespace that is its first process, not the command.
    child_ending: Option<Ending>,
    /// Its first process has told how the command ended. It ends itself only when the kernel has emptied the namespace, which may take long.
    has_told_ending: bool,
    started_unix_ms: Option<u64>,
    /// That the command runs is still to be marked, for agents that did not start us.
    is_unmarked: bool,
    failure: Option<Failure>,
    stop_requested: bool,
    /// It was to end without its kill timeout.
    is_cut_short: bool,
    /// That time passed, and something of it was there.
    has_overstayed: bool,
    /// When to kill, or to kill again.
    kill_at: Option<Instant>,
    /// That time came.
    has_killed: bool,
    /// How long after the next time it is killed again.
    kill_again_after: Duration,
}

/// Comes back when the command ended and nothing that it left runs any more. It may run already: nothing that fails from
/// here on is a failure to set it up. `signals` are those that the shim blocks.
pub(super) fn supervise(started: Started, spec: &ShimSpec, directory: &AllocationDirectory, signals: SignalFd) -> Exit {
    let mut supervisor = Supervisor::new(started, spec, directory, signals);
    supervisor.watch();
    supervisor.kill_what_is_left();
    supervisor.finish()
}

impl<'a> Supervisor<'a> {
    fn new(started: Started, spec: &'a ShimSpec, directory: &'a AllocationDirectory, signals: SignalFd) -> Self {
        // What is longer than the kernel lets a file be would be lost; and files of no bytes would be made without end.
        let allowed = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
        let limit = spec.log_file_bytes_max.min(allowed).max(1);
        Self {
            spec,
            directory,
            child: started.child,
            signals,
            report: Some(started.report.into()),
            ending: started.ending.into(),
            outputs: [
                Output::new(started.stdout.into(), directory.root(), "stdout", limit),
                Output::new(started.stderr.into(), directory.root(), "stderr", limit),
            ],
            child_ending: None,
            has_told_ending: false,
            started_unix_ms: None,
            is_unmarked: false,
            failure: None,
            stop_requested: false,
            is_cut_short: false,
            has_overstayed: false,
            kill_at: None,
            has_killed: false,
            kill_again_after: KILL_AGAIN_AFTER,
        }
    }

    fn watch(&mut self) {
        for output in &self.outputs {
            set_nonblocking(output.source());
        }
        while self.child_ending.is_none() || self.others_have_time() {
            self.wait();
            self.heed();
            self.reap();
            self.read_report();
            if self.is_unmarked {
                self.mark();
            }
            for output in &mut self.outputs {
                output.pump();
            }
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                let is_there = self.child_ending.is_none() || self.others_have_time();
                self.has_overstayed |= self.stop_requested && !self.is_cut_short && is_there;
                self.has_killed = true;
                self.kill_all();
                self.kill_at = Some(Instant::now() + self.kill_again_after);
                self.kill_again_after = longer(self.kill_again_after);
            }
        }
    }

    /// Whoever was asked to end with the command has its time for that also when the command needs less of it. A command that ends by itself takes all
    /// others with it. In a pid namespace its first process waits for them, which the child is.
    fn others_have_time(&self) -> bool {
        self.stop_requested && !self.has_killed && !self.spec.isolation.pid && has_group(self.child)
    }

    /// Until something happened, or it is time to kill.
    fn wait(&self) {
        let mut watched: Vec<BorrowedFd<'_>> = vec![self.signals.as_fd()];
        watched.extend(self.report.as_ref().map(AsFd::as_fd));
        watched.extend(self.tells_ending().then(|| self.ending.as_fd()));
        watched.extend(self.outputs.iter().filter(|output| output.is_open()).map(Output::source));
        let mut descriptors: Vec<PollFd<'_>> =
            watched.into_iter().map(|one| PollFd::new(one, PollFlags::POLLIN)).collect();
        let mark_at = self.is_unmarked.then(|| Instant::now() + MARKED_AGAIN_AFTER);
        let look_at = self.child_ending.is_some().then(|| Instant::now() + LOOKED_AGAIN_AFTER);
        let timeout = self.kill_at.into_iter().chain(mark_at).chain(look_at).min().map_or(PollTimeout::NONE, |at| {
            // Rounded up, so that the last millisecond isn't spent spinning.
            let left_ms = at.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX)
        });
        // An interruption or a failure only makes for one idle round.
        let _ = poll(&mut descriptors, timeout);
    }

    /// Takes in what was asked. What ended by itself does not end as it is asked to: but where both are seen at once, it may have obeyed.
    fn heed(&mut self) {
        // Looked at before the signals are read: what was asked before this look is among them.
        let has_told = self.tells_ending() && is_readable(self.ending.as_fd());
        self.read_signals();
        self.has_told_ending |= has_told;
    }

    /// Whether a first process is still to tell how the command ended. Elsewhere the child is the command.
    fn tells_ending(&self) -> bool {
        self.spec.isolation.pid && !self.has_told_ending
    }

    fn read_signals(&mut self) {
        while let Ok(Some(information)) = self.signals.read_signal() {
            let signal = i32::try_from(information.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            if signal == Some(Signal::SIGTERM) && self.kill_at.is_none() {
                self.stop_requested |= !self.has_told_ending;
                self.kill_at = Some(Instant::now() + Duration::from_millis(self.spec.task.kill_timeout_ms));
                if self.spec.isolation.pid {
                    // Its first process hands it on.
                    let _ = kill(self.child, Signal::SIGTERM);
                } else {
                    terminate(self.child);
                }
            }
            if signal == Some(Signal::SIGQUIT) {
                self.stop_requested |= !self.has_told_ending;
                self.is_cut_short = true;
                self.kill_at = Some(Instant::now());
            }
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, ending))) = ended_child() {
            // Others are orphans of the task, which became ours.
            if pid == self.child {
                self.child_ending = Some(ending);
            }
        }
    }

    /// A closed report without content: the command was executed.
    fn read_report(&mut self) {
        let Some(report) = &self.report else { return };
        if !is_readable(report.as_fd()) {
            return;
        }
        let mut text = Vec::new();
        let _ = report.take(REPORT_BYTES_MAX).read_to_end(&mut text);
        self.report = None;
        if text.is_empty() {
            self.started_unix_ms = Some(unix_ms());
            self.mark();
            // The agent that started us reads it; nobody does after that agent's end.
            let _ = io::stdout().write_all(b"r").and_then(|()| io::stdout().flush());
        } else {
            let unreadable = || Failure::new(FailureKind::Setup, "the task could not be started");
            self.failure = Some(serde_json::from_slice(&text).unwrap_or_else(|_| unreadable()));
        }
    }

    /// Marks that the command runs.
    fn mark(&mut self) {
        self.is_unmarked = File::create(self.directory.running(self.spec.task.restart)).is_err();
    }

    fn kill_all(&self) {
        // First the child, as long as its number is its own. A command that lives on while others of its task are killed, or while its group lets
        // nothing fork any more, fails by that and ends by itself: nobody would see that it was killed.
        if self.child_ending.is_none() {
            let _ = kill(self.child, Signal::SIGKILL);
        }
        if let Some(cgroup) = &self.spec.cgroup {
            cgroup.kill();
        }
        // Of a pid namespace the kernel kills all with the first process, which the child is.
        if !self.spec.isolation.pid {
            kill_listed(|| descendants(Pid::this().as_raw()));
        }
    }

    /// We are the subreaper: as long as anything of the task is left, it is or becomes a child of ours.
    fn kill_what_is_left(&mut self) {
        let mut pause = Duration::from_micros(100);
        loop {
            let no_child_left = loop {
                match ended_child() {
                    Ok(Some(_)) => {}
                    Ok(None) => break false,
                    Err(_) => break true,
                }
            };
            let is_empty = |cgroup: &crate::cgroup::TaskCgroup| matches!(cgroup.is_empty(), Ok(true));
            if no_child_left && self.spec.cgroup.as_ref().is_none_or(is_empty) {
                return;
            }
            self.kill_all();
            std::thread::sleep(pause);
            // A process that hangs in the kernel can't be killed. Until it is gone its room isn't free, so we wait.
            pause = longer(pause);
        }
    }

    fn finish(mut self) -> Exit {
        self.read_report();
        for output in &mut self.outputs {
            output.drain();
        }
        let told: Option<Ending> = self.spec.isolation.pid.then(|| self.read_ending()).flatten();
        let ending = told.or(self.child_ending).unwrap_or_default();
        let cgroup = self.spec.cgroup.as_ref();
        let oom_kills = cgroup.map_or(0, TaskCgroup::oom_kills);
        let mut exit = Exit {
            code: ending.code,
            signal: ending.signal,
            oom_kills,
            started_unix_ms: self.started_unix_ms,
            ended_unix_ms: 0,
            stop_requested: self.stop_requested,
            overstayed_ms: self.has_overstayed.then_some(self.spec.task.kill_timeout_ms),
            failure: self.failure.take(),
        };
        if exit.failure.is_some() {
            // The code of a child that never became the command means nothing.
            (exit.code, exit.signal) = (None, None);
        } else {
            let has_limit = |bytes: &u64| *bytes > 0 && cgroup.is_some_and(TaskCgroup::has_reached_memory_limit);
            let limit = Some(self.spec.task.memory_bytes).filter(has_limit);
            exit.failure = killed_for_memory(&exit, limit);
        }
        exit
    }

    fn read_ending(&mut self) -> Option<Ending> {
        let mut text = Vec::new();
        (&mut self.ending).take(REPORT_BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// The failure of a command that the kernel killed for want of memory; `None` where only others of its processes were, or it was killed as it took
/// too long to end. `limit`: its own, where it had come to that.
fn killed_for_memory(exit: &Exit, limit: Option<u64>) -> Option<Failure> {
    let is_kill = |signal: &i32| Signal::try_from(*signal) == Ok(Signal::SIGKILL);
    let signal = exit.signal.filter(is_kill).filter(|_| exit.oom_kills > 0 && exit.overstayed_ms.is_none())?;
    let message = match limit {
        Some(limit) => format!("out of memory: its limit is {} (signal {signal})", plenum_model::bytes(limit)),
        None => format!("killed as the machine was out of memory (signal {signal})"),
    };
    Some(Failure::new(FailureKind::OutOfMemory, message))
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(KILL_AGAIN_AFTER_MAX)
}

/// Whether a pipe has something, or a process has ended, asked of the kernel.
pub(crate) fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
    let mut descriptors = [PollFd::new(descriptor, PollFlags::POLLIN)];
    matches!(poll(&mut descriptors, PollTimeout::ZERO), Ok(1..))
}

fn set_nonblocking(descriptor: BorrowedFd<'_>) {
    if let Ok(flags) = fcntl(descriptor, FcntlArg::F_GETFL) {
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        let _ = fcntl(descriptor, FcntlArg::F_SETFL(flags));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use nix::{
        sys::{
            signal::{SigSet, raise},
            signalfd::SfdFlags,
        },
        unistd::pipe2,
    };
    use plenum_model::AllocationId;

    use super::*;
    use crate::{exec, isolation::Isolation};

    // It was complete, and as long as the kernel emptied its namespace, as of much memory, a stop made it one that had been stopped.
    #[test]
    fn a_command_that_has_ended_is_not_stopped_while_its_namespace_is_emptied() {
        let place = tempfile::tempdir().unwrap();
        let directory = AllocationDirectory::new(place.path().to_owned());
        let isolation = Isolation { pid: true, ..Isolation::default() };
        let spec = exec::shim_spec(AllocationId { slot: 1, generation: 1 }, place.path().join("job"));
        let spec = ShimSpec { isolation, ..spec };
        // Sent to this thread alone, and read by it.
        let mask: SigSet = [Signal::SIGTERM, Signal::SIGQUIT].into_iter().collect();
        mask.thread_block().unwrap();
        for (signal, is_late) in [Signal::SIGTERM, Signal::SIGQUIT].map(|one| [(one, false), (one, true)]).concat() {
            let pipes = [(); 4].map(|()| pipe2(OFlag::O_CLOEXEC).unwrap());
            let [(stdout, writes_out), (stderr, writes_err), (report, _reports), (ending, tells)] = pipes;
            // Of that number there never is a process.
            let started = Started { child: Pid::from_raw(i32::MAX), stdout, stderr, report, ending };
            let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).unwrap();
            let mut supervisor = Supervisor::new(started, &spec, &directory, signals);
            File::from(tells).write_all(br#"{"code":0,"signal":null}"#).unwrap();
            if is_late {
                supervisor.wait();
                supervisor.heed();
            }
            raise(signal).unwrap();
            supervisor.heed();
            // Whoever hangs there is killed all the same.
            assert_eq!((supervisor.stop_requested, supervisor.kill_at.is_some()), (!is_late, true), "{signal}");
            drop((writes_out, writes_err));
            let exit = supervisor.finish();
            assert_eq!((exit.code, exit.stop_requested), (Some(0), !is_late), "{signal}");
        }
    }

    // Whatever had been killed, and whichever memory was short, it was told that the task had come to its limit.
    #[test]
    fn only_who_was_killed_at_its_own_limit_is_told_to_have_come_to_it() {
        let ended = |code, signal, oom_kills| Exit { code, signal, oom_kills, ..Exit::default() };
        let told = |exit: &Exit, limit| killed_for_memory(exit, limit).map(|failure| failure.message);
        let killed = ended(None, Some(9), 2);
        let own = told(&killed, Some(128 << 20));
        assert_eq!(own.as_deref(), Some("out of memory: its limit is 128MiB (signal 9)"));
        let others = told(&killed, None);
        assert_eq!(others.as_deref(), Some("killed as the machine was out of memory (signal 9)"));
        let of_something_else =
            [ended(None, Some(9), 0), ended(None, Some(11), 1), ended(Some(137), None, 1), ended(Some(0), None, 1)];
        let overstayed = Exit { overstayed_ms: Some(1000), ..killed };
        for exit in of_something_else.into_iter().chain([overstayed]) {
            assert_eq!(told(&exit, Some(64)), None, "{exit:?}");
        }
    }

    // A task that hung in the kernel had its shim read of all processes of the machine ten times a second, for as long as it hung.
    #[test]
    fn what_does_not_die_is_killed_more_and_more_seldom() {
        let (mut pause, mut passed, mut kills) = (KILL_AGAIN_AFTER, Duration::ZERO, 0);
        while passed < Duration::from_secs(60) {
            (passed, pause, kills) = (passed + pause, longer(pause), kills + 1);
        }
        assert!((20..40).contains(&kills) && longer(pause) == KILL_AGAIN_AFTER_MAX, "{kills} in a minute");
    }
}
