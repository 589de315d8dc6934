//! What a driver is: the seam between deciding what runs here and running it.
//!
//! A driver knows nothing of the cell, leases or restarts; it starts what it is told, once, and says what became of it.

use std::{collections::BTreeMap, fmt, io};

use plenum_model::{AllocationId, JobId};
use serde::{Deserialize, Serialize};

use crate::{directories::id_as_number, reconciler::RestartPolicy, traces::Traces};

/// One start of one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The allocation that it runs for.
    #[serde(with = "id_as_number")]
    pub allocation: AllocationId,
    /// Starts within the allocation before this one.
    pub restart: u32,
    /// The job whose shared directory it sees.
    #[serde(with = "id_as_number")]
    pub job: JobId,
    /// The version of the job: a finished job that is submitted again begins with an empty shared directory. 0: written by an agent
    /// that had one directory for all versions.
    #[serde(default)]
    pub job_version: u32,
    /// The program and its arguments; never empty. Without a `/` the program is looked up in the task's `PATH`.
    pub command: Vec<String>,
    /// The whole environment, but for the paths that the driver adds (`PLENUM_TASK_DIR`, `PLENUM_JOB_DIR`, a default `PATH`).
    pub env: BTreeMap<String, String>,
    /// Limit of processor time, in thousandths of a processor; 0: none.
    pub cpu_millis: u64,
    /// Limit of memory; 0: none.
    pub memory_bytes: u64,
    /// Limit of processes and threads; 0: none.
    pub pids_max: u32,
    /// From SIGTERM to SIGKILL.
    pub kill_timeout_ms: u64,
    /// Where it comes from; kept with it. `None`: written by an agent that kept none.
    #[serde(default)]
    pub traces: Option<Box<Traces>>,
    /// What follows its failures; nothing to the driver, which keeps it. `None`: written by an agent that kept none.
    #[serde(default)]
    pub policy: Option<RestartPolicy>,
    /// The restarts that policy counts within its time, as this start is made, itself included where it is one, the oldest first: a time in
    /// milliseconds since 1970, and how many of them count as made then. None is taken to have been before its time, or later by more than a
    /// 64th of the time within which they count. Nothing to the driver, which keeps it.
    #[serde(default)]
    pub recent_restarts_at: Vec<(u64, u32)>,
}

impl TaskSpec {
    /// [`recent_restarts_at`](Self::recent_restarts_at), with no more restarts than there were.
    pub fn restarts_at(&self) -> Vec<(u64, u32)> {
        let (mut all, mut left) = (self.recent_restarts_at.clone(), self.restart);
        for (_, count) in &mut all {
            *count = left.min(*count);
            left -= *count;
        }
        all.retain(|&(_, count)| count > 0);
        all
    }
}

/// On all that Linux runs on.
pub(crate) const SIGKILL: i32 = 9;

/// Why a task could not be run, or was ended by something else than itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// There is no such program.
    CommandNotFound,
    /// There is such a file, and it can't be executed.
    NotExecutable,
    /// The machine could not give what the task needs; another one may.
    Setup,
    /// The kernel killed it for want of memory: its own, or the machine's.
    OutOfMemory,
    /// Its shim vanished without leaving word; what was left of it has been killed.
    LostTrack,
    /// The machine booted while it ran, or crashed while that was written down.
    Booted,
    /// The disk does not give back what was written down of it: nobody knows how far it came. What was left of it has been stopped.
    Unreadable,
}

/// The longest message of a failure. It has names in it that a job gave, which may be as long as it liked, and whoever
/// reads it has no room without end: 1 KiB is four times what the cell takes of it.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// A [`FailureKind`] with the facts, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which it is.
    pub kind: FailureKind,
    /// What was expected, what was found.
    pub message: String,
}

impl Failure {
    /// A failure of `kind` because of `message`, of which it keeps the first KiB.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        Self { kind, message }
    }
}

/// How one start of a task ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The command's exit code, when it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it otherwise.
    pub signal: Option<i32>,
    /// How many of its processes the kernel killed for want of memory; more than zero is no failure by itself.
    pub oom_kills: u64,
    /// When the command was started, in milliseconds since 1970; `None`: it never was.
    pub started_unix_ms: Option<u64>,
    /// When nothing of it was left, in milliseconds since 1970.
    pub ended_unix_ms: u64,
    /// It was asked to stop before it ended.
    pub stop_requested: bool,
    /// Its kill timeout, of so many milliseconds, ran out before all of it had ended, and what was left was killed for that. `None` also of a shim of
    /// an earlier version.
    #[serde(default)]
    pub overstayed_ms: Option<u64>,
    /// Why it did not run or was ended, when not by itself.
    pub failure: Option<Failure>,
}

impl Exit {
    /// An end without a command having run.
    #[must_use]
    pub fn failed(failure: Failure, ended_unix_ms: u64) -> Self {
        Self { ended_unix_ms, failure: Some(failure), ..Self::default() }
    }

    /// True when the command ended by itself with exit code 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.code == Some(0) && self.failure.is_none()
    }
}

/// Says how it ended in a line for people: `exit code 3`, `signal 9`, or the failure's message. Without a failure it
/// says as well that it took longer than its kill timeout, and how many of its processes were killed for want of memory, which may be why.
impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.failure, self.code, self.signal) {
            (Some(failure), _, _) => return formatter.write_str(&failure.message),
            (None, Some(code), _) => write!(formatter, "exit code {code}"),
            (None, None, Some(signal)) => write!(formatter, "signal {signal}"),
            (None, None, None) => formatter.write_str("ended without a status"),
        }?;
        if let Some(overstayed_ms) = self.overstayed_ms {
            let kill_timeout = span(overstayed_ms);
            if self.signal == Some(SIGKILL) {
                write!(formatter, ": did not end within its kill_timeout ({kill_timeout})")?;
            } else {
                write!(formatter, " (others of its processes did not end within its kill_timeout, {kill_timeout})")?;
            }
        }
        match self.oom_kills {
            0 => Ok(()),
            kills => write!(formatter, " ({kills} of its processes had been killed for want of memory)"),
        }
    }
}

fn span(millis: u64) -> String {
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

/// What a driver says. For one start, in this order: `Recorded` and `Started` at most once each, `Exited` once, `Gone` once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverEvent {
    /// It is written down: whichever agent comes next finds it.
    Recorded {
        /// The allocation.
        #[serde(with = "id_as_number")]
        allocation: AllocationId,
        /// Which start of it.
        restart: u32,
    },
    /// The command runs.
    Started {
        /// The allocation.
        #[serde(with = "id_as_number")]
        allocation: AllocationId,
        /// Which start of it.
        restart: u32,
    },
    /// The command ended, or could not be run.
    Exited {
        /// The allocation.
        #[serde(with = "id_as_number")]
        allocation: AllocationId,
        /// Which start of it.
        restart: u32,
        /// How.
        exit: Exit,
    },
    /// Nothing of this start runs any more: no process, no cgroup.
    Gone {
        /// The allocation.
        #[serde(with = "id_as_number")]
        allocation: AllocationId,
        /// Which start of it.
        restart: u32,
    },
}

/// Where a start stands that an earlier agent made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// It was recorded, and nothing of it ever ran: it may be started.
    NotStarted,
    /// It is about to run, or runs; its events follow.
    Alive {
        /// Its command was started.
        running: bool,
    },
    /// Whoever watched it is gone, and something of it is left that is being killed; its end follows.
    Leaving {
        /// Its command was started.
        ran: bool,
    },
    /// It ended meanwhile; nothing of it is left.
    Ended(Exit),
}

/// What a driver found of earlier days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The allocation.
    #[serde(with = "id_as_number")]
    pub allocation: AllocationId,
    /// Its latest start.
    pub restart: u32,
    /// When it was restarted, in milliseconds since 1970, oldest first, and how often, as far as that counts for its policy:
    /// [`TaskSpec::restarts_at`].
    pub restarts_at: Vec<(u64, u32)>,
    /// One of these earlier starts ran.
    #[serde(default)]
    pub ran_before: bool,
    /// Where the latest start stands.
    pub found: Found,
    /// Where it comes from, as it was kept.
    #[serde(default)]
    pub traces: Option<Box<Traces>>,
    /// What follows its failures, as it was kept.
    #[serde(default)]
    pub policy: Option<RestartPolicy>,
    /// The machine was booted since the latest start was written down.
    #[serde(default)]
    pub booted: bool,
}

/// Something that runs tasks. Nothing here waits: what comes of a call comes as events, to the place that the driver was
/// made with.
pub trait Driver {
    /// Finds what earlier agents left; called once, before anything else.
    ///
    /// # Errors
    /// When it can't be found out what runs. Then nothing was touched, and nothing may be started.
    fn recover(&mut self) -> io::Result<Vec<Recovered>>;

    /// Runs a task. A start of (allocation, restart) that was made before, by whichever agent, is not made again; its
    /// events come instead.
    fn start(&mut self, task: TaskSpec);

    /// Asks a running task to end, and ends it after its kill timeout. One that does not run is left alone.
    fn stop(&mut self, allocation: AllocationId);

    /// The cell knows of the allocation's end: what is kept of it is for readers of its logs only.
    fn forget(&mut self, allocation: AllocationId);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_how_many_processes_were_killed_for_want_of_memory() {
        let exit = Exit { code: Some(137), ..Exit::default() };
        assert_eq!(exit.to_string(), "exit code 137");
        let exit = Exit { oom_kills: 1, ..exit };
        assert_eq!(exit.to_string(), "exit code 137 (1 of its processes had been killed for want of memory)");
        let failure = Some(Failure::new(FailureKind::OutOfMemory, "out of memory"));
        assert_eq!(Exit { failure, ..exit }.to_string(), "out of memory", "that says it");
    }

    // A stop that took all of its kill timeout read like any other: one had to know what exit code 137 means.
    #[test]
    fn an_end_says_that_it_took_longer_than_its_kill_timeout() {
        let killed = Exit { signal: Some(SIGKILL), overstayed_ms: Some(30_000), ..Exit::default() };
        assert_eq!(killed.to_string(), "signal 9: did not end within its kill_timeout (30s)");
        let others = Exit { signal: Some(15), overstayed_ms: Some(1500), ..Exit::default() };
        assert_eq!(
            others.to_string(),
            "signal 15 (others of its processes did not end within its kill_timeout, 1500ms)"
        );
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        let of = |message: &str| Failure::new(FailureKind::Setup, message).message;
        assert_eq!(of("no cgroup"), "no cgroup");
        assert_eq!(of(&"\"".repeat(40_000)), "\"".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(of(&format!("a{}", "é".repeat(MESSAGE_BYTES_MAX))), format!("a{}", "é".repeat(511)));
    }
}
