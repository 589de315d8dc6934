//! One allocation at its agent: from the wish, over starts and restarts, to the receipt.

use std::sync::Arc;

use plenum_model::AllocationState;
use plenum_model::planted::{self, Bug};

use super::{Assignment, REASON_BYTES_MAX, RestartPolicy, STARTING_REPORTED_AFTER_MS, Status, restarts::Restarts};
use crate::{
    driver::{Exit, FailureKind, SIGKILL, TaskSpec},
    traces::Traces,
};

/// On all that Linux runs on.
const SIGTERM: i32 = 15;

/// Why it shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The cell says so, or doesn't want it.
    Cell,
    /// The agent ends, and its tasks with it.
    Shutdown,
    /// This agent can't run what an earlier one wrote down.
    Unfit,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Nothing of it runs; where a start is recorded, an earlier one may have.
    Waiting {
        /// The driver has a record of a start that was never made.
        recorded: bool,
    },
    /// The driver was told to start it.
    Starting,
    /// Its command runs.
    Running,
    /// Its command ended.
    Exited {
        exit: Exit,
        /// Nothing of it is left. It stays in this phase as long as nobody can say what follows.
        gone: bool,
    },
    /// Nothing of it runs; it starts again then.
    Pausing {
        until_ms: u64,
        /// How its last start ended: where no other one follows, that is its end.
        exit: Exit,
    },
    /// Over: what follows is the cell's to decide.
    Ended(Status),
}

#[derive(Clone, Debug)]
pub(super) struct Held {
    /// `None`: a trace of earlier days, of which the cell has not spoken yet.
    pub(super) assignment: Option<Assignment>,
    pub(super) stop: Option<Stop>,
    stop_told: bool,
    pub(super) phase: Phase,
    /// When it came to where it is; of an end, when nothing of it was left.
    since_ms: u64,
    /// The driver has written a start of it down: the next agent finds it.
    pub(super) is_recorded: bool,
    /// Its command ran, in this start or in an earlier one.
    pub(super) has_run: bool,
    /// The number of its latest start.
    pub(super) restart: u32,
    pub(super) restarts: Restarts,
    /// Where it comes from, as far as anybody said.
    pub(super) traces: Option<Box<Traces>>,
    /// What was to follow its failures, where its latest start was before a boot: the cell does not say that any more.
    pub(super) policy_before_boot: Option<RestartPolicy>,
    /// What the cell answered for.
    pub(super) acknowledged: Option<Status>,
}

impl Held {
    pub(super) fn new(now_ms: u64, phase: Phase) -> Self {
        let (has_run, since_ms) = match &phase {
            Phase::Running => (true, now_ms),
            // Found by a later agent. The machine's clock may have been set back since.
            Phase::Exited { exit, .. } => (exit.started_unix_ms.is_some(), exit.ended_unix_ms.min(now_ms)),
            _ => (false, now_ms),
        };
        Self {
            assignment: None,
            stop: None,
            stop_told: false,
            phase,
            since_ms,
            is_recorded: false,
            has_run,
            restart: 0,
            restarts: Restarts::default(),
            traces: None,
            policy_before_boot: None,
            acknowledged: None,
        }
    }

    pub(super) fn enter(&mut self, now_ms: u64, phase: Phase) {
        self.has_run |= matches!(phase, Phase::Running);
        self.phase = phase;
        self.since_ms = now_ms;
    }

    /// It ended without anything having run, now or before.
    pub(super) fn ended(now_ms: u64, state: AllocationState, reason: &str) -> Self {
        Self::new(
            now_ms,
            Phase::Ended(Status { state, ready: false, exit_code: 0, reason: shortened(reason), restarts: 0 }),
        )
    }

    /// The cell wants it. One that does not know it any more wants it as it is, without saying what it is: that is kept.
    pub(super) fn assign(&mut self, assignment: Assignment) {
        let known = self.assignment.as_ref().is_some_and(|known| known.work.is_ok());
        if assignment.work.is_err() && known {
            return;
        }
        if let Ok(work) = &assignment.work {
            self.traces = work.task.traces.clone();
        }
        self.assignment = Some(assignment);
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Nothing of it runs, ran, or may start by itself.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.phase, Phase::Waiting { recorded: false })
    }

    /// It is to start, or could not and may again, and as far as is known no start of it was ever written down.
    pub(super) fn is_only_ordered(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Exited { .. } | Phase::Pausing { .. }) && !self.is_recorded
    }

    /// What the cell should know; `None`: nothing yet.
    pub(super) fn status(&self) -> Option<Status> {
        let live = |state, ready| Status { state, ready, exit_code: 0, reason: "".into(), restarts: self.restart };
        match &self.phase {
            // Its next start waits to be made, for as long as something else has to be gone first.
            Phase::Waiting { recorded: true } if self.has_run => Some(live(AllocationState::Running, false)),
            Phase::Waiting { .. } => None,
            Phase::Running => Some(live(AllocationState::Running, true)),
            // Until nothing is left of it, the cell must think that it is there. It hears of no step back, so that of what ran once it would go on
            // to think that it is ready.
            Phase::Starting | Phase::Pausing { .. } | Phase::Exited { .. } if self.has_run => {
                Some(live(AllocationState::Running, false))
            }
            Phase::Starting | Phase::Pausing { .. } | Phase::Exited { .. } => {
                Some(live(AllocationState::Starting, false))
            }
            Phase::Ended(status) => Some(status.clone()),
        }
    }

    /// What the cell should know and was not told, if it is worth a report of its own at this time.
    pub(super) fn news(&self, now_ms: u64) -> Option<Status> {
        if matches!(self.phase, Phase::Exited { .. }) {
            // In a moment more is known.
            return None;
        }
        let status = self.status().filter(|status| self.acknowledged.as_ref() != Some(status))?;
        // Told of a start that is not written down, the cell would not let the next agent make it: that one could not know whether it was made.
        let untold = now_ms < self.since_ms + STARTING_REPORTED_AFTER_MS || !self.is_recorded;
        (!matches!(self.phase, Phase::Starting | Phase::Pausing { .. }) || !untold).then_some(status)
    }

    /// When, after now, time alone changes what it does or tells.
    pub(super) fn wakes_at_ms(&self, now_ms: u64) -> Option<u64> {
        let told = Some(self.since_ms + STARTING_REPORTED_AFTER_MS);
        let times = match &self.phase {
            Phase::Pausing { until_ms, .. } => [told, Some(*until_ms)],
            Phase::Starting => [told, None],
            _ => [None, None],
        };
        times.into_iter().flatten().filter(|at_ms| *at_ms > now_ms).min()
    }

    /// Draws conclusions from what is known. True: the driver must be told to stop it. `leaving`: the agent ends, perhaps with its machine.
    pub(super) fn settle(&mut self, now_ms: u64, leaving: bool) -> bool {
        match (&self.phase, self.stop) {
            (Phase::Ended(_), _) => false,
            (Phase::Waiting { recorded: true }, Some(_)) => {
                // A shim of an earlier agent may still be on its way, so only the driver can promise that it won't run.
                self.enter(now_ms, Phase::Starting);
                self.stop_told = true;
                true
            }
            (Phase::Waiting { .. }, Some(stop)) => {
                // Nothing ran that could have ended by itself.
                self.end_stopped(now_ms, stop, &Exit { stop_requested: true, ..Exit::default() });
                false
            }
            (Phase::Pausing { exit, .. }, Some(stop)) => {
                // Whoever asked that start to end, it was not this stop.
                let exit = Exit { stop_requested: false, ..exit.clone() };
                self.end_stopped(now_ms, stop, &exit);
                false
            }
            (Phase::Starting | Phase::Running, Some(_)) => !std::mem::replace(&mut self.stop_told, true),
            // The next agent knows whether the machine booted, or was only rid of its tasks.
            (Phase::Exited { exit, gone: true }, None) if leaving && exit.stop_requested => false,
            (Phase::Exited { exit, gone: true }, stop) => {
                let exit = exit.clone();
                match stop {
                    // It ended before it was told to.
                    Some(stop) if exit.stop_requested || !self.is_done_with(&exit) => {
                        self.end_stopped(now_ms, stop, &exit)
                    }
                    _ => self.conclude(now_ms, &exit),
                }
                false
            }
            (Phase::Waiting { recorded }, None) => {
                let recorded = *recorded;
                self.reject_what_can_not_start(now_ms, recorded);
                self.stop.is_some() && self.settle(now_ms, leaving)
            }
            _ => false,
        }
    }

    fn reject_what_can_not_start(&mut self, now_ms: u64, recorded: bool) {
        let Some(assignment) = &self.assignment else { return };
        match &assignment.work {
            // A shim may still be on its way to it.
            Err(_) if recorded => self.stop = Some(Stop::Unfit),
            Err(why) => *self = Self::ended(now_ms, AllocationState::Failed, why),
            Ok(_) if !assignment.may_start && !recorded && !planted::is(Bug::StartsAgain) => {
                let why = "it was started here before, and there is no trace of it any more";
                *self = Self::ended(now_ms, AllocationState::Failed, why);
            }
            Ok(_) => {}
        }
    }

    /// What follows an end that nobody asked for.
    fn conclude(&mut self, now_ms: u64, exit: &Exit) {
        // What was asked to end may end well and not be done. Asked by others than the cell, as when its machine shuts down, it counts as
        // if it had not obeyed.
        if self.is_done_with(exit) && !exit.stop_requested {
            self.end_for_good(now_ms, exit);
        } else if exit.failure.as_ref().is_some_and(|failure| is_of_the_machine(failure.kind)) {
            // Nothing that it did: with its machine, or its record, it is lost, and its attempts are not counted.
            self.end(now_ms, AllocationState::EndedLost, exit, exit.to_string());
        } else if !is_worth_a_restart(exit) {
            self.end(now_ms, AllocationState::Failed, exit, exit.to_string());
        } else if let Some(assignment) = &self.assignment {
            let policy = assignment.work.as_ref().map(|work| work.restart).unwrap_or_default();
            if self.may_restart(now_ms, &policy) {
                let until_ms = self.since_ms.saturating_add(policy.delay_ms);
                self.enter(now_ms, Phase::Pausing { until_ms, exit: exit.clone() });
            } else {
                self.end_for_good(now_ms, exit);
            }
        } else if let Some(policy) = self.policy_before_boot.filter(|_| !is_perhaps_of_a_shutdown(exit)) {
            // With the registration it must be told: what that does not have as ended is lost.
            if self.may_restart(exit.ended_unix_ms, &policy) {
                let why = format!("the machine was booted before its next start ({exit})");
                self.end(now_ms, AllocationState::EndedLost, &Exit::default(), why);
            } else {
                self.end_for_good(now_ms, exit);
            }
        }
    }

    /// Whether the task has done what it was to do. One that is to run for ever never has: a restart follows also where it ended well.
    fn is_done_with(&self, exit: &Exit) -> bool {
        exit.succeeded() && !self.traces.as_ref().is_some_and(|traces| traces.every_end_fails)
    }

    /// An end that nobody asked for, and that no restart follows.
    fn end_for_good(&mut self, now_ms: u64, exit: &Exit) {
        if exit.succeeded() && !exit.stop_requested {
            // That it went on without them was its own choice, and what they were to do may be missing.
            let why = if exit.oom_kills > 0 { exit.to_string() } else { String::new() };
            self.end(now_ms, AllocationState::Complete, exit, why);
        } else {
            self.end(now_ms, AllocationState::Failed, exit, why_failed(exit));
        }
    }

    fn may_restart(&self, now_ms: u64, policy: &RestartPolicy) -> bool {
        if policy.within_ms == 0 {
            return self.restart < policy.attempts;
        }
        self.restarts.count(now_ms, policy.within_ms) < u64::from(policy.attempts)
    }

    fn end_stopped(&mut self, now_ms: u64, stop: Stop, exit: &Exit) {
        match stop {
            Stop::Cell => self.end(now_ms, AllocationState::Stopped, exit, how_it_stopped(exit)),
            Stop::Shutdown => {
                self.end(now_ms, AllocationState::Failed, exit, "its agent ended, and its tasks with it".to_owned());
            }
            Stop::Unfit => {
                let why = self.assignment.as_ref().and_then(|assignment| assignment.work.as_ref().err().cloned());
                self.end(now_ms, AllocationState::Failed, exit, why.unwrap_or_default());
            }
        }
    }

    fn end(&mut self, now_ms: u64, state: AllocationState, exit: &Exit, reason: String) {
        let status = Status {
            state,
            ready: false,
            exit_code: exit_code(exit),
            reason: shortened(&reason),
            restarts: self.restart,
        };
        self.enter(now_ms, Phase::Ended(status));
    }

    /// Its pause is over, and so nothing of its last start is left.
    fn is_due_again(&self, now_ms: u64, policy: &RestartPolicy) -> bool {
        match &self.phase {
            Phase::Pausing { until_ms, .. } => *until_ms <= now_ms,
            Phase::Exited { exit, gone: false } if planted::is(Bug::RestartsTooSoon) => {
                !exit.succeeded() && self.may_restart(now_ms, policy)
            }
            _ => false,
        }
    }

    /// What to start now, where there is something.
    pub(super) fn start(&mut self, now_ms: u64) -> Option<TaskSpec> {
        if self.stop.is_some() {
            return None;
        }
        let assignment = self.assignment.as_ref()?;
        let work = Arc::clone(assignment.work.as_ref().ok()?);
        match self.phase {
            Phase::Waiting { .. } if assignment.takes_over.is_empty() || planted::is(Bug::StartsTooSoon) => {}
            _ if self.is_due_again(now_ms, &work.restart) => {
                self.restart += 1;
                self.restarts.add(now_ms, work.restart.within_ms);
            }
            _ => return None,
        }
        self.enter(now_ms, Phase::Starting);
        let (restart, policy) = (self.restart, Some(work.restart));
        let recent_restarts_at = self.restarts.written();
        Some(TaskSpec { restart, policy, recent_restarts_at, ..work.task.clone() })
    }
}

/// How what the cell stops ended, where that was not just as it was asked to. Why it was to stop the cell knows.
fn how_it_stopped(exit: &Exit) -> String {
    if !exit.stop_requested {
        return exit.to_string();
    }
    if exit.failure.is_some() || exit.oom_kills > 0 {
        format!("{exit}, while it was being stopped")
    } else if exit.overstayed_ms.is_some() {
        exit.to_string()
    } else {
        String::new()
    }
}

fn why_failed(exit: &Exit) -> String {
    if exit.succeeded() { format!("it was told to end by others than its cell ({exit})") } else { exit.to_string() }
}

/// A machine that shuts down asks all processes to end, and then ends them, in no order: a task may be gone before its
/// shim hears of it.
fn is_perhaps_of_a_shutdown(exit: &Exit) -> bool {
    exit.stop_requested || (exit.failure.is_none() && matches!(exit.signal, Some(SIGKILL | SIGTERM)))
}

/// Its machine booted, or lost what was written down of it.
const fn is_of_the_machine(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Booted | FailureKind::Unreadable)
}

/// Doing the same again here can't find a command, and can't find a lost shim.
fn is_worth_a_restart(exit: &Exit) -> bool {
    exit.failure.as_ref().is_none_or(|failure| match failure.kind {
        FailureKind::OutOfMemory | FailureKind::Setup => true,
        FailureKind::CommandNotFound
        | FailureKind::NotExecutable
        | FailureKind::LostTrack
        | FailureKind::Booted
        | FailureKind::Unreadable => false,
    })
}

/// As shells count: a signal is 128 and its number, a command that can't be found 127, or executed 126.
fn exit_code(exit: &Exit) -> i32 {
    match (exit.code, exit.signal, exit.failure.as_ref().map(|failure| failure.kind)) {
        (Some(code), _, _) => code,
        (None, Some(signal), _) => 128 + signal,
        (None, None, Some(FailureKind::CommandNotFound)) => 127,
        (None, None, Some(FailureKind::NotExecutable)) => 126,
        (None, None, _) => 0,
    }
}

fn shortened(reason: &str) -> Arc<str> {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].into()
}
