//! The state machine between a cell and a scheduler: connection, mirror, turns, numbers, retries.
//!
//! Without I/O and without a clock: time comes in with each input, and what is to be done comes out. The shell does it, and a
//! simulator runs the very same code.

mod connection;
mod deciding;
mod events;
mod holding;
mod unanswered;

use std::fmt;

use plenum_model::{JobId, Outcome, Refusal, Revision, SessionId, TransactionId};
use plenum_proto::bounds::REQUEST_BYTES_MAX;
use plenum_proto::v1;

use crate::ahead::Ahead;
use crate::counters::Counters;
use crate::holds::{Holds, Strangers};
use crate::in_flight::InFlight;
use crate::mirror::Mirror;
use crate::notes::Notes;
use crate::plan::PlanError;
use crate::portion::Portion;
use crate::pulses::Pulses;
use crate::queue::{Place, Queue};
use crate::scheduler::{PassedOver, Scheduler};
use crate::seen::Seen;
use crate::settings::{Settings, SettingsError};
use crate::share::Share;
use crate::wire::Filling;

/// What happens to a runtime.
#[derive(Debug)]
pub enum Input {
    /// Also the first input: gets things going.
    Start,
    /// A connection that [`Output::ConnectAfter`] asked for is there.
    Connected,
    /// A message came in.
    Received(v1::SessionResponse),
    /// The connection broke, could not be made, or was refused.
    Disconnected {
        /// The gRPC code of the server's answer; 0 where there was none.
        status: i32,
        /// Its stable code, of the metadata `plenum-code`; empty where there was none.
        code: String,
        /// For people.
        reason: String,
        /// After how many microseconds the server said that it makes sense to try again, in the metadata `plenum-retry-after-micros`; 0 where it did not.
        retry_micros: i64,
    },
    /// What became of an [`Output::Hold`]. There is one answer each, unless the connection is gone: then none is missed.
    Held {
        /// Its number.
        number: u64,
        /// What was answered.
        answer: HoldAnswer,
    },
    /// The time of the last [`Output::WakeAt`] has come.
    Tick,
}

/// What was answered to a request to hold room, or to give it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldAnswer {
    /// It was executed, or was so already.
    Executed {
        /// At this revision.
        revision: u64,
    },
    /// The cell did not execute it.
    Refused {
        /// Its stable code; empty where there was none.
        code: String,
        /// After how many microseconds the server said that it makes sense to try again; 0 where it did not.
        retry_micros: i64,
    },
    /// Nobody said what became of it: what it did, if anything, the mirror shows.
    Unanswered,
}

/// What a runtime wants done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send this over the connection.
    Send(v1::SessionRequest),
    /// Connect when so much time has passed; there is no connection now.
    ConnectAfter {
        /// How long.
        micros: i64,
    },
    /// Close the connection. No [`Input::Disconnected`] shall follow.
    Disconnect,
    /// End this session over the connection that there is; nobody waits for the answer.
    Close(v1::CloseRequest),
    /// Ask this beside the stream of the session, over the same connection, and give what comes of it as [`Input::Held`].
    Hold {
        /// By which it is answered; never used twice.
        number: u64,
        /// Sets room aside, renews that, or gives it back.
        request: v1::TakeHoldRequest,
    },
    /// Give an [`Input::Tick`] then, and forget about earlier wishes.
    WakeAt {
        /// When, by the clock of the inputs.
        micros: i64,
    },
    /// Tell people.
    Notice(Notice),
}

/// What people may want to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The session stands.
    Session {
        /// Its id.
        session: SessionId,
        /// It went on, with its mirror and its numbers.
        resumed: bool,
    },
    /// The connection is gone.
    Lost {
        /// How.
        loss: Loss,
        /// Why.
        reason: String,
        /// Until the next attempt.
        retry_micros: i64,
    },
    /// The server has an older state of the cell than was seen before: it is not followed.
    Behind {
        /// Incarnation and revision that were seen.
        seen: (u64, u64),
        /// What it offered; `None` where it refused by itself.
        offered: Option<(u64, u64)>,
    },
    /// The mirror could not be kept, and is fetched anew.
    Mirror {
        /// Why.
        reason: String,
    },
    /// A plan was not even sent.
    Plan(PlanError),
    /// A plan claims a task that a transaction in flight claims already, as one of the same decision: only one of both can be granted, and the other one loses
    /// to the scheduler itself.
    Twice {
        /// Whose the task is.
        job: JobId,
        /// The group's position.
        group: u16,
        /// The first such task of the plan.
        task: u32,
    },
    /// A transaction was not executed.
    Rejected {
        /// Its number.
        number: u64,
        /// Code and message of the server.
        reason: String,
    },
    /// What became of a transaction can't be read. It may have been executed: what it did, the mirror shows.
    Unread {
        /// Its number.
        number: u64,
        /// Why: mostly code and message.
        reason: String,
    },
    /// A claim never fitted: planner and committer see different things, or the scheduler errs.
    Misfit {
        /// Which transaction had it.
        transaction: TransactionId,
        /// What stood in its way.
        refusal: Box<Refusal>,
    },
}

/// How a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// There is none, it broke, or this side left it.
    NoConnection,
    /// The cell ended or refused the stream, with a code: nothing is wrong with the connection.
    ByCell,
    /// The cell does not let this scheduler in: it or its options have to change.
    TurnedAway,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session { session, resumed: true } => write!(f, "session {} goes on", session.0),
            Self::Session { session, resumed: false } => write!(f, "session {} begins", session.0),
            Self::Lost { loss, reason, retry_micros } => {
                let what = match loss {
                    Loss::NoConnection => "no connection to the cell",
                    Loss::ByCell => "the cell ended the stream",
                    Loss::TurnedAway => "the cell does not let this scheduler in",
                };
                write!(f, "{what}: {reason}; next attempt in {} ms", retry_micros / 1000)
            }
            Self::Behind { seen, offered } => {
                match offered {
                    Some(offered) => {
                        write!(f, "this server offers incarnation {}, revision {}, and ", offered.0, offered.1)?;
                    }
                    None => f.write_str("this server has not all that was seen: ")?,
                }
                write!(
                    f,
                    "incarnation {}, revision {} was seen before: it lost data, or is another one; start the right one, \
                     or, to go on with less, restore the cell or start this scheduler anew",
                    seen.0, seen.1
                )
            }
            Self::Mirror { reason } => write!(f, "the mirror is fetched anew: {reason}"),
            Self::Plan(error) => error.fmt(f),
            Self::Twice { job, group, task } => write!(
                f,
                "task {task} of group {group} of the job in slot {} is claimed again before the transaction that claims it is answered: one of both will be \
                 refused; claim each task once, in one plan",
                job.slot
            ),
            Self::Rejected { number, reason } => write!(f, "transaction {number} was not executed: {reason}"),
            Self::Unread { number, reason } => {
                write!(f, "the outcome of transaction {number} can't be read; what it did, the cell shows: {reason}")
            }
            Self::Misfit { transaction, refusal } => {
                let reason = v1::RefusalReason::from(refusal.reason).as_str_name();
                write!(
                    f,
                    "a claim that could never be granted: {reason} for task {} of group {} of the job in slot {}, on the machine in slot {}; \
                     `plenum txn show {transaction}` says more, and `plenum explain {reason}` what it means",
                    refusal.task, refusal.group, refusal.job.slot, refusal.machine
                )
            }
        }
    }
}

/// Where the connection stands.
#[derive(Debug, Default)]
enum Link {
    /// None, and one was asked for.
    #[default]
    Down,
    /// There is one; the server has not answered yet.
    Greeting,
    /// Welcome; the pages of a snapshot are coming in.
    Filling(Filling),
    /// The mirror is kept.
    Live,
}

/// Runs a [`Scheduler`] against a cell.
#[derive(Debug)]
pub struct SchedulerRuntime<S> {
    scheduler: S,
    settings: Settings,
    link: Link,
    /// Attempts to connect since a connection was of use: it has lasted, or brought an outcome.
    attempts: u32,
    /// Since when the mirror is kept over the connection that there is, or was last.
    live_since_micros: i64,
    /// What the cell had come to when this connection began: before its mirror has come to there, nothing is decided on it.
    decides_from: Revision,
    seen: Seen,
    session: SessionId,
    /// The number of the last transaction of this session.
    number: u64,
    mirror: Mirror,
    in_flight: InFlight,
    /// Room that is held for jobs that starve.
    holds: Holds,
    /// Whose work may come before a hold.
    strangers: Strangers,
    queue: Queue,
    share: Share,
    ahead: Ahead,
    notes: Notes,
    notes_not_before_micros: i64,
    /// What the last decision said of tasks that stay where they are.
    staying: Vec<PassedOver>,
    pulses: Pulses,
    /// Most tasks of one decision: fewer than the settings say for a while, once the cell found a transaction too large.
    portion: Portion,
    /// What the server takes as one message.
    message_bytes_max: usize,
    /// Something happened since the last decision that may make another one useful.
    due: bool,
    /// Where the next decision goes on, when one could not be offered all there is to do.
    pass: Option<Place>,
    /// The next decision of the pass is without the first in the queue: the last one had no room for anybody else.
    firsts_wait: bool,
    /// Something happened in the middle of the pass: another one follows it.
    another_pass: bool,
    /// In this pass overdue jobs of peers are tried, too.
    trial: bool,
    /// When a pass may be such a one again.
    trial_not_before_micros: i64,
    /// Some work stayed unplaced: room that comes free is an occasion.
    hungry: bool,
    /// Something was not offered because of what is in flight, or as if more of a gang were needed at once than are: an answer is an occasion.
    held_back: bool,
    decide_not_before_micros: i64,
    /// What was sent or was to be sent came to nothing so often in a row, and claimed for no job that could be left for later, or nobody can tell what came of it.
    fruitless: u32,
    /// Nothing is decided before, for that.
    rests_until_micros: i64,
    /// The next time at which a decision is due by itself.
    wake_micros: Option<i64>,
    /// What the shell was last told.
    told_wake_micros: Option<i64>,
    /// When the scheduler asked to be called, also with nothing to place.
    again_micros: Option<i64>,
    /// When it is to be called because of plans that were not decided, and that nothing else would have it make again: those beyond the window, and what stops
    /// or moves.
    dropped_micros: Option<i64>,
    /// When no job rests any more that was refused after something was dropped: who leaves alone what rests plans its part only then.
    rested_micros: Option<i64>,
    /// Something was granted since the last decision: what was dropped may be, too.
    progressed: bool,
    counters: Counters,
}

impl<S: Scheduler> SchedulerRuntime<S> {
    /// A runtime that has not begun: give it [`Input::Start`].
    ///
    /// # Errors
    /// When a setting is out of its bounds, or the scheduler's name is none.
    pub fn new(settings: Settings, scheduler: S) -> Result<Self, SettingsError> {
        settings.check(scheduler.name())?;
        let portion = Portion::new(settings.tasks_max);
        Ok(Self {
            scheduler,
            settings,
            link: Link::Down,
            attempts: 0,
            live_since_micros: i64::MIN,
            decides_from: Revision(0),
            seen: Seen::default(),
            session: SessionId::default(),
            number: 0,
            mirror: Mirror::default(),
            in_flight: InFlight::default(),
            holds: Holds::default(),
            strangers: Strangers::default(),
            queue: Queue::default(),
            share: Share::default(),
            ahead: Ahead::default(),
            notes: Notes::default(),
            notes_not_before_micros: i64::MIN,
            staying: Vec::new(),
            pulses: Pulses::default(),
            portion,
            message_bytes_max: REQUEST_BYTES_MAX,
            due: false,
            pass: None,
            firsts_wait: false,
            another_pass: false,
            trial: false,
            trial_not_before_micros: i64::MIN,
            hungry: false,
            held_back: false,
            decide_not_before_micros: i64::MIN,
            fruitless: 0,
            rests_until_micros: i64::MIN,
            wake_micros: None,
            told_wake_micros: None,
            again_micros: None,
            dropped_micros: None,
            rested_micros: None,
            progressed: false,
            counters: Counters::default(),
        })
    }

    /// Takes one input at `now_micros`, of a clock that never goes backwards, and says what is to be done.
    pub fn handle(&mut self, now_micros: i64, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        let live_micros = now_micros.saturating_sub(self.live_since_micros);
        if matches!(self.link, Link::Live) && live_micros >= self.settings.reconnect.most_micros {
            self.attempts = 0;
        }
        match input {
            Input::Start => outputs.push(Output::ConnectAfter { micros: 0 }),
            Input::Connected => self.greet(&mut outputs),
            Input::Received(message) => self.receive(now_micros, message, &mut outputs),
            Input::Disconnected { status, code, reason, retry_micros } => {
                self.lose(now_micros, (status, &code), reason, retry_micros, &mut outputs);
            }
            Input::Held { number, answer } => self.held(now_micros, number, &answer),
            Input::Tick => {
                self.told_wake_micros = None;
                if self.wake_micros.is_some_and(|wake| wake <= now_micros) {
                    self.wake_micros = None;
                    self.due = true;
                }
            }
        }
        if matches!(self.link, Link::Live) {
            self.renew_session_if_used_up(now_micros, &mut outputs);
        }
        if matches!(self.link, Link::Live) {
            if self.pulses.is_first() {
                // Before anything is decided: it is told of a time in which nothing was.
                self.tell_pulse(now_micros, &mut outputs);
            }
            if self.mirror.revision() >= self.decides_from {
                self.decide_if_due(now_micros, &mut outputs);
            }
            self.tell_notes(now_micros, &mut outputs);
            self.tell_pulse(now_micros, &mut outputs);
            self.tell_wake(&mut outputs);
        }
        outputs
    }

    /// What ends its session.
    #[must_use]
    pub const fn close(&self) -> v1::CloseRequest {
        v1::CloseRequest { session: self.session.0, incarnation: self.seen.incarnation }
    }

    /// Whose session that is: the cell's id; empty before the first one.
    pub(crate) fn cell_id(&self) -> &[u8] {
        &self.seen.cell_id
    }

    /// The session that it works in; 0 before the first one.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// What it did.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many jobs it knows of that are not over.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.queue.len()
    }

    /// Its mirror, once there is one.
    #[must_use]
    pub const fn mirror(&self) -> Option<&plenum_model::Cell> {
        self.mirror.cell()
    }

    /// What namespaces use of their quotas in its mirror, kept as deltas come: [`plenum_model::QuotaUse::recount`] gives the same.
    #[must_use]
    pub const fn quota_use(&self) -> &plenum_model::QuotaUse {
        self.mirror.quota_use()
    }

    /// The oldest revision of the cell that can still be read, as [`View::oldest_readable`](crate::View::oldest_readable) has it.
    #[must_use]
    pub const fn oldest_readable(&self) -> Option<plenum_model::Revision> {
        self.mirror.oldest_readable()
    }

    /// The scheduler.
    #[must_use]
    pub const fn scheduler(&self) -> &S {
        &self.scheduler
    }

    /// Something is due by then at the latest.
    fn wake_by(&mut self, micros: i64) {
        self.wake_micros = Some(self.wake_micros.map_or(micros, |wake| wake.min(micros)));
    }

    fn tell_wake(&mut self, outputs: &mut Vec<Output>) {
        let notes = self.notes.has_news().then_some(self.notes_not_before_micros);
        let pulse = self.pulses.due_micros(self.mirror.revision().0);
        let wishes = self.wake_micros.into_iter().chain(notes).chain(pulse).chain(self.goes_on_micros());
        if let Some(micros) = wishes.min()
            && self.told_wake_micros != Some(micros)
        {
            self.told_wake_micros = Some(micros);
            outputs.push(Output::WakeAt { micros });
        }
    }

    fn tell_notes(&mut self, now_micros: i64, outputs: &mut Vec<Output>) {
        if !self.notes.has_news() || now_micros < self.notes_not_before_micros {
            return;
        }
        // What a peer says of its own jobs is not ours to take back.
        let news = self.notes.news(self.message_bytes_max, |job| self.share.is_own(job));
        if !news.notes.is_empty() {
            self.notes_not_before_micros = now_micros.saturating_add(self.settings.notes_pause_micros);
            outputs.push(send(v1::session_request::Ask::PassedOver(news)));
        }
    }

    fn tell_pulse(&mut self, now_micros: i64, outputs: &mut Vec<Output>) {
        let revision = self.mirror.revision().0;
        if self.pulses.due_micros(revision).is_some_and(|due| due <= now_micros) {
            let waiting = self.waiting_jobs(now_micros);
            let pulse = self.pulses.take(now_micros, revision, waiting);
            outputs.push(send(v1::session_request::Ask::Pulse(pulse)));
        }
    }

    fn tell_outcome(&mut self, tag: u64, outcome: &Outcome) {
        self.counters.count(outcome);
        self.scheduler.answered(tag, outcome);
    }
}

fn send(ask: v1::session_request::Ask) -> Output {
    Output::Send(v1::SessionRequest { ask: Some(ask) })
}

#[cfg(test)]
mod tests;
