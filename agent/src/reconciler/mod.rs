//! What an agent does when: a state machine without I/O, clock or threads.
//!
//! It is level-triggered: it compares what the cell wants with what is here, again after each input, and says what to do
//! about the difference. So a lost message costs time, never correctness:
//!
//! - What runs and is not wanted is stopped; its receipt is reported when nothing of it is left.
//! - What is wanted is started once, when the list of those whose room it takes over is empty.
//! - Nothing is started unless the lease holds, the whole wanted set of this registration is known, and everything that
//!   this set doesn't want is gone.
//! - What happened is reported until the cell answers, one report at a time, and the newest standing only. Where that takes long, the lease is
//!   renewed beside it.

mod assign;
mod held;
mod restarts;
mod setups;
mod standing;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use plenum_model::planted::{self, Bug};
use plenum_model::{AllocationId, AllocationState, MachineId, Unfit};
use serde::{Deserialize, Serialize};

use self::{
    held::{Held, Phase},
    restarts::Restarts,
    setups::Setups,
    standing::{Report, Standing},
};
use crate::{
    driver::{DriverEvent, Exit, Found, Recovered, TaskSpec},
    traces::Item,
};

/// Ends that were acknowledged, kept to answer a wanted set that was made before.
const ENDS_REMEMBERED_MAX: usize = 4096;
/// A task that is still starting after this long is reported so; most run sooner, and one report does.
const STARTING_REPORTED_AFTER_MS: u64 = 500;
/// How long after a registration what is to end may keep others from starting before the machine takes no more of them: three times the usual
/// kill timeout. What is there still hangs, or has very much time to end.
const HELD_UP_AFTER_MS: u64 = 30_000;
/// The longest reason that the cell takes.
const REASON_BYTES_MAX: usize = 255;

/// What is told to the reconciler rather than found.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Transitions in one report; the rest comes with the next.
    pub transitions_per_report_max: usize,
    /// The first wait after a failed call; it doubles, with jitter.
    pub retry_ms_min: u64,
    /// The longest wait after a failed call.
    pub retry_ms_max: u64,
    /// Where jitter begins: another number for each agent, so that they don't all come back at once.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { transitions_per_report_max: 1024, retry_ms_min: 100, retry_ms_max: 5000, seed: 1 }
    }
}

/// Restarts within one allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// At most this many within the window.
    pub attempts: u32,
    /// From an end to the next start.
    pub delay_ms: u64,
    /// The window; 0: the allocation's whole life.
    pub within_ms: u64,
}

/// What the cell wants to run here, as one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Which.
    pub allocation: AllocationId,
    /// Leaving ones in whose room it stands: it starts when they are all gone.
    pub takes_over: Vec<AllocationId>,
    /// The cell knows of no start of it. Otherwise it is started only where there is a trace of it.
    pub may_start: bool,
    /// What to run; or why this agent can't.
    pub work: Result<Arc<Work>, String>,
}

/// What an allocation runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Its first start; each is told its policy besides.
    pub task: TaskSpec,
    /// What follows failures.
    pub restart: RestartPolicy,
}

/// Where an allocation stands, as the cell is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Starting, running, or an end. An end is a receipt: nothing of it runs any more.
    pub state: AllocationState,
    /// It runs. (Health checks are not there yet.)
    pub ready: bool,
    /// 0 without one; 128 and the signal's number after a signal.
    pub exit_code: i32,
    /// Why it ended; empty where there is nothing to say; at most 255 bytes.
    pub reason: Arc<str>,
    /// Starts after the first.
    pub restarts: u32,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// What the driver found of earlier agents. Comes first, and once.
    Recovered(Vec<Recovered>),
    /// The cell took this machine.
    Registered(Registration),
    /// It did not, or didn't answer.
    RegisterFailed,
    /// The machine began an epoch of which this agent had not heard when it asked: it asks again, knowing this.
    RegisterAgain {
        /// The cell's incarnation.
        incarnation: u64,
        /// The server's revision.
        revision: u64,
    },
    /// What the cell wants here.
    Assignments {
        /// For whom.
        machine: MachineId,
        /// Valid in this epoch only.
        epoch: u32,
        /// As of which revision.
        revision: u64,
        /// It is the whole set: anything else shall not run.
        full: bool,
        /// Shall run: new, or changed.
        wanted: Vec<Assignment>,
        /// Shall end.
        stop: Vec<AllocationId>,
        /// What the cell does not know, and lets run on where it has begun.
        keep: Vec<AllocationId>,
    },
    /// The stream of assignments ended.
    FollowEnded,
    /// It ended, or did not begin, as the epoch is over, or the machine was removed, or is another agent's, or the server has less than was seen.
    FollowRefused {
        /// Whose stream it was.
        machine: MachineId,
        /// In which epoch.
        epoch: u32,
    },
    /// A report was answered.
    ReportAnswered {
        /// Which.
        number: u64,
        /// As of which revision.
        revision: u64,
        /// It had no effect: the epoch is over.
        register: bool,
    },
    /// A report was not answered in time, or failed.
    ReportFailed {
        /// Which.
        number: u64,
    },
    /// From the driver.
    Driver(DriverEvent),
    /// Time passed.
    Tick,
    /// Whether tasks can be started here, and why not.
    Fitness(Option<Unfit>),
    /// The agent shall end, and its tasks go on: nothing is started any more, and the cell is told.
    Leave,
    /// The agent shall end, and its tasks with it: nothing is started any more, and the cell is told, of their ends as well.
    Shutdown,
}

/// How the cell took this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The machine's id.
    pub machine: MachineId,
    /// Its epoch.
    pub epoch: u32,
    /// The lease's term, from the sending of what renewed it.
    pub lease_ms: u64,
    /// How often to renew it.
    pub renew_ms: u64,
    /// The server's revision.
    pub revision: u64,
    /// The cell's incarnation.
    pub incarnation: u64,
    /// What the cell has heard of this machine's fitness.
    pub unfit: Option<Unfit>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Start a task.
    Start(TaskSpec),
    /// Stop one.
    Stop(AllocationId),
    /// The cell knows of its end.
    Forget(AllocationId),
    /// Report for service, with what is here.
    Register {
        /// What is here.
        inventory: Vec<Item>,
        /// The newest revision seen.
        revision: u64,
        /// Of which incarnation.
        incarnation: u64,
    },
    /// Follow the assignments of this epoch. Replaces an earlier stream.
    Follow {
        /// For whom.
        machine: MachineId,
        /// In which epoch.
        epoch: u32,
        /// The newest revision seen: a server that has less would have stopped what it does not know.
        revision: u64,
        /// Of which incarnation.
        incarnation: u64,
    },
    /// Report transitions, and renew the lease.
    Report {
        /// To be given back with the answer.
        number: u64,
        /// For whom.
        machine: MachineId,
        /// In which epoch.
        epoch: u32,
        /// What changed; may be empty.
        transitions: Vec<(AllocationId, Status)>,
        /// How many tasks run.
        running: u32,
        /// Why the machine shall get no new tasks, if so.
        unfit: Option<Unfit>,
        /// The newest revision seen: what a server that has less is told, the cell that went on does not hear.
        revision: u64,
        /// Of which incarnation.
        incarnation: u64,
    },
    /// The server's state is older than what this agent has seen: it is not used.
    Refuse {
        /// What it offered: an incarnation of the cell, and a revision.
        offered: (u64, u64),
        /// What had been seen.
        seen: (u64, u64),
    },
    /// Everything stopped, after [`Input::Shutdown`].
    Finished,
}

/// Makes what runs equal to what is wanted.
#[derive(Debug)]
pub struct AgentReconciler {
    settings: Settings,
    random: u64,
    held: BTreeMap<AllocationId, Held>,
    /// Acknowledged ends, and the order in which they came. Also of an earlier life of the cell: a restored one may believe that they run, and what it gives
    /// anew has other ids.
    ends: BTreeMap<AllocationId, Status>,
    ends_order: VecDeque<AllocationId>,
    standing: Standing,
    /// The cell's last word was to register again.
    asked_again: bool,
    report: Report,
    /// What must be gone before anything starts in this registration.
    fence: BTreeSet<AllocationId>,
    fenced_at_ms: u64,
    /// The newest revision seen, and of which incarnation.
    seen: (u64, u64),
    leases_lost: u64,
    /// The time of the last input.
    now_ms: u64,
    /// Why nothing could be started here.
    unfit: Option<Unfit>,
    setups: Setups,
    leaving: bool,
    shutdown: bool,
    finished: bool,
}

impl AgentReconciler {
    /// An agent that has seen `revision` of `incarnation` before (zeros: nothing).
    #[must_use]
    pub fn new(settings: Settings, incarnation: u64, revision: u64) -> Self {
        Self {
            settings,
            random: settings.seed.max(1),
            held: BTreeMap::new(),
            ends: BTreeMap::new(),
            ends_order: VecDeque::new(),
            standing: Standing::Away { register_at_ms: 0, failures: 0 },
            asked_again: false,
            report: Report::default(),
            fence: BTreeSet::new(),
            fenced_at_ms: 0,
            seen: (incarnation, revision),
            leases_lost: 0,
            now_ms: 0,
            unfit: None,
            setups: Setups::default(),
            leaving: false,
            shutdown: false,
            finished: false,
        }
    }

    /// Takes in what happened and says what to do, in this order. `now_millis` never goes backwards, and is close to
    /// milliseconds since 1970.
    pub fn handle(&mut self, now_millis: u64, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.now_ms = now_millis;
        match input {
            Input::Recovered(found) => found.into_iter().for_each(|one| self.recover(now_millis, one)),
            Input::Registered(registration) => self.registered(now_millis, &registration, &mut outputs),
            Input::RegisterFailed => self.register_failed(now_millis),
            Input::RegisterAgain { incarnation, revision } => {
                self.register_again(now_millis, incarnation, revision, &mut outputs);
            }
            Input::Assignments { machine, epoch, revision, full, wanted, stop, keep } => {
                if self.is_in(machine, epoch) {
                    self.see(revision);
                    self.assign(now_millis, full, wanted, &stop, &keep);
                }
            }
            Input::FollowEnded => self.follow_ended(now_millis),
            Input::FollowRefused { machine, epoch } => self.follow_refused(now_millis, machine, epoch),
            Input::ReportAnswered { number, revision, register } => {
                self.report_answered(now_millis, number, revision, register, &mut outputs);
            }
            Input::ReportFailed { number } => self.report_failed(now_millis, number),
            Input::Driver(event) => self.driver_event(now_millis, event),
            Input::Tick => {}
            Input::Fitness(unfit) => self.heed(unfit),
            Input::Leave => self.leave(now_millis),
            Input::Shutdown => {
                self.leave(now_millis);
                self.shut_down();
            }
        }
        self.advance(now_millis, &mut outputs);
        outputs
    }

    /// When [`Input::Tick`] is next of use; `None`: not before something else happens.
    #[must_use]
    pub fn next_wake_millis(&self) -> Option<u64> {
        // What was due already waits for something else than time.
        let standing = self.standing_wakes_at_ms().into_iter().flatten().filter(|at_ms| *at_ms > self.now_ms);
        let held_up = (!self.fence.is_empty()).then(|| self.fenced_at_ms.saturating_add(HELD_UP_AFTER_MS));
        let rested = self.setups.wakes_at_ms().into_iter().chain(held_up).filter(|at_ms| *at_ms > self.now_ms);
        self.held.values().filter_map(|held| held.wakes_at_ms(self.now_ms)).chain(standing).chain(rested).min()
    }

    /// True when the cell was told everything that happened, and answered.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.held.values().all(|held| held.is_untouched() || held.acknowledged == held.status())
    }

    /// The cell's incarnation, and the newest revision seen of it. Within one incarnation it only rises.
    #[must_use]
    pub fn seen(&self) -> (u64, u64) {
        self.seen
    }

    /// How often a lease ran out before its renewal was answered.
    #[must_use]
    pub fn leases_lost(&self) -> u64 {
        self.leases_lost
    }

    /// Whether an allocation is here, and the cell does not yet know of its end.
    #[must_use]
    pub fn holds(&self, allocation: AllocationId) -> bool {
        self.held.contains_key(&allocation)
    }

    /// True while something runs here, may start by itself, or has ended without the cell having said that it knows.
    #[must_use]
    pub fn holds_any(&self) -> bool {
        self.held.values().any(|held| !held.is_untouched())
    }

    /// How many that are to end have to be gone before anything starts in this registration; `None`: what is wanted is not known.
    #[must_use]
    pub fn fenced(&self) -> Option<usize> {
        self.standing.is_synced().then_some(self.fence.len())
    }

    /// Everything that is here or was wanted here, and where it stands; `None` before its first start.
    pub fn standings(&self) -> impl Iterator<Item = (AllocationId, Option<Status>)> {
        self.held.iter().map(|(&allocation, held)| (allocation, held.status()))
    }

    /// Until when starts may be made, should nothing be heard before; `None`: not now. Also for those that were ordered
    /// before and wait at the driver: meanwhile their tasks may have been placed elsewhere.
    #[must_use]
    pub fn starts_until_ms(&self) -> Option<u64> {
        let is_alone = self.fence.is_empty() || planted::is(Bug::StartsBesideTheFenced);
        let without_lease = planted::is(Bug::StartsWithoutLease).then_some(u64::MAX);
        without_lease.or_else(|| self.standing.current_until_ms()).filter(|_| is_alone && !self.leaving)
    }

    fn recover(&mut self, now_millis: u64, recovered: Recovered) {
        let Recovered { allocation, restart, restarts_at, ran_before, found, traces, policy, booted } = recovered;
        let ran = matches!(found, Found::Leaving { ran: true });
        let phase = match found {
            Found::NotStarted => Phase::Waiting { recorded: true },
            // What leaves is there, and not ready, until its end is told.
            Found::Alive { running: false } | Found::Leaving { .. } => Phase::Starting,
            Found::Alive { running: true } => Phase::Running,
            Found::Ended(_) if planted::is(Bug::ForgetsExits) => Phase::Exited { exit: Exit::default(), gone: true },
            Found::Ended(exit) => Phase::Exited { exit, gone: true },
        };
        let mut held = Held::new(now_millis, phase);
        held.is_recorded = true;
        held.has_run |= ran || ran_before;
        held.restart = restart;
        held.restarts = Restarts::of(restarts_at);
        held.traces = traces;
        held.policy_before_boot = policy.filter(|_| booted);
        self.held.insert(allocation, held);
    }

    fn driver_event(&mut self, now_millis: u64, event: DriverEvent) {
        let (DriverEvent::Recorded { allocation, restart }
        | DriverEvent::Started { allocation, restart }
        | DriverEvent::Exited { allocation, restart, .. }
        | DriverEvent::Gone { allocation, restart }) = event;
        // An event of an earlier start is news of yesterday.
        let Some(held) = self.held.get_mut(&allocation).filter(|held| held.restart == restart) else { return };
        match &event {
            DriverEvent::Started { .. } => self.setups.done(),
            // On a disk without room nothing else can be told apart.
            DriverEvent::Exited { exit, .. } if self.unfit.is_none() => {
                self.setups.ended(now_millis, (allocation, restart), held.traces.as_deref(), exit);
            }
            _ => {}
        }
        held.is_recorded |= matches!(event, DriverEvent::Recorded { .. } | DriverEvent::Started { .. });
        match (event, &mut held.phase) {
            (DriverEvent::Started { .. }, Phase::Starting) => held.enter(now_millis, Phase::Running),
            (DriverEvent::Exited { exit, .. }, Phase::Starting | Phase::Running) => {
                held.enter(now_millis, Phase::Exited { exit, gone: false });
            }
            (DriverEvent::Gone { .. }, Phase::Exited { exit, .. }) => {
                let exit = std::mem::take(exit);
                held.enter(now_millis, Phase::Exited { exit, gone: true });
            }
            _ => {}
        }
    }

    fn shut_down(&mut self) {
        self.shutdown = true;
        // What never began is left to the cell.
        for held in self.held.values_mut().filter(|held| !held.is_untouched()) {
            held.stop.get_or_insert(held::Stop::Shutdown);
        }
    }

    /// Does what can be done now.
    fn advance(&mut self, now_millis: u64, outputs: &mut Vec<Output>) {
        // What ends or is stopped first, so that it opens the way for the others in the same step, and a registration has it: after a boot,
        // what it does not have as ended is lost.
        for (&allocation, held) in &mut self.held {
            if held.settle(now_millis, self.leaving) {
                outputs.push(Output::Stop(allocation));
            }
        }
        self.advance_standing(now_millis, outputs);
        let held = &self.held;
        self.fence.retain(|allocation| held.get(allocation).is_some_and(|held| !held.is_ended()));
        if self.may_start(now_millis) {
            for held in self.held.values_mut() {
                outputs.extend(held.start(now_millis).map(Output::Start));
            }
        }
        if self.shutdown && !self.finished && self.held.values().all(|held| held.is_ended() || held.is_untouched()) {
            self.finished = true;
            // What failed while they were on their way out keeps their ends from nobody either.
            self.leave(now_millis);
            outputs.push(Output::Finished);
        }
        self.send_report(now_millis, outputs);
    }

    fn may_start(&self, now_millis: u64) -> bool {
        self.starts_until_ms().is_some_and(|until_ms| now_millis < until_ms)
    }

    /// Why the machine shall get no new tasks.
    fn fitness(&self) -> Option<Unfit> {
        let fails = || (self.setups.fail(self.now_ms) || self.is_held_up()).then_some(Unfit::SetupFails);
        if self.leaving { Some(Unfit::AgentLeaves) } else { self.unfit.or_else(fails) }
    }

    /// True while this machine takes no tasks because it could not set several of them up.
    #[must_use]
    pub fn fails_setups(&self) -> bool {
        self.setups.fail(self.now_ms)
    }

    /// True while this machine takes no tasks because something that is to end has kept it from starting any for long.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        !self.fence.is_empty() && self.now_ms >= self.fenced_at_ms.saturating_add(HELD_UP_AFTER_MS)
    }

    /// Hears whether there is room for tasks.
    fn heed(&mut self, unfit: Option<Unfit>) {
        if self.unfit.is_some() && unfit.is_none() {
            // What failed for want of room may be done now.
            self.setups.done();
        }
        self.unfit = unfit;
    }

    fn see(&mut self, revision: u64) {
        self.seen.1 = self.seen.1.max(revision);
    }

    /// A number below `bound`, which is at least 1; the same ones for the same seed.
    fn jitter(&mut self, bound: u64) -> u64 {
        // Marsaglia's xorshift with 64 bits of state: good enough to keep agents apart.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound.max(1)
    }

    fn remember_end(&mut self, allocation: AllocationId, status: Status) {
        if self.ends.insert(allocation, status).is_none() {
            self.ends_order.push_back(allocation);
        }
        while self.ends_order.len() > ENDS_REMEMBERED_MAX {
            if let Some(oldest) = self.ends_order.pop_front() {
                self.ends.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod chaos;
#[cfg(test)]
mod tests;
