//! What one watcher of the cell is sent, and when: a state machine without connections or clocks.
//!
//! # The order of things
//!
//! ```text
//! Welcome ─▶ (SnapshotPart … last) ─▶ Deltas ─▶ Deltas ─▶ …          Outcome(r) only after the deltas up to r
//!    ▲                                  │
//!    └──────── fell behind `Recent` ────┘
//! ```
//!
//! - The deltas after a `Welcome` continue at its revision, or at the snapshot's, without gaps, each revision once.
//! - An answer that was judged at revision r comes after the deltas up to r, or after a snapshot at r or later.
//! - A watcher holds a position and the numbers of the answers that wait for it, never deltas or outcomes: those are shared, in [`Recent`].
//!   When deltas are gone before it came to read them, it begins anew with a `Welcome` and a snapshot; outcomes are read back. So a slow one
//!   costs no memory.
//! - A snapshot may take longer to read than deltas are recent. What follows it is read from where it is kept for long, until the watcher
//!   has come to recent ones: otherwise a slow one would begin anew for ever. So is what a watcher missed that comes back, if that is not much: when a
//!   server starts nothing is recent, and nearly all that were there lack the little that its log has and nobody was shown.
//! - The pages of a snapshot are [`Lent`]: one that nothing more is wanted of is taken back, and its watcher begins anew.
//! - An outcome above the bound that its caller names goes when there is room for it ([`Step::NeedRoom`]). As long as there is none, what needs none
//!   goes before it: deltas, errors, and outcomes that were handed over, which are in memory already and may be what takes the room.
//! - Who asked for nothing of the cell gets its answers as soon as they are there, and is told of nothing else that is published.
//!
//! The caller asks [`SyncSession::poll`] for the next message whenever there is room for one to be sent, and again after anything
//! was handed over or published.

mod lent;
mod pages;
mod seen;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use plenum_model::planted::{self, Bug};
use plenum_model::{CellIdentity, Revision, SessionId};
use plenum_proto::delta::cut;
use plenum_proto::sections::Sections;
use plenum_proto::v1;
use v1::session_response::Tell;

use crate::planted_bugs;
use crate::publish::Recent;
pub use lent::{Lending, LendingBounds, Lent};
use pages::PageWalk;
pub use seen::{Seen, Unknown, check};

/// So many revisions behind the newest a watcher may come back, and be told what it missed though that is not recent. They take some hundred KiB under an
/// ordinary load, far less than the pages of a cell that has one; how many bytes they are, nobody knows before they are read.
const MISSED_MAX: u64 = 4096;

/// Settings of a watcher's stream.
#[derive(Clone, Copy, Debug)]
pub struct SyncOptions {
    /// A message of deltas or pages is closed when it has so many bytes.
    pub message_bytes: usize,
    /// Time between heartbeats, in microseconds. Watchers take what was heard more than three seconds ago for old: above that they are current only now and then.
    pub heartbeat_micros: i64,
    /// Time between the pulses that schedulers are asked for, in microseconds. 0: none.
    pub pulse_micros: i64,
}

impl Default for SyncOptions {
    /// 256 KiB, so that a message never holds up a connection's other streams for long; a heartbeat a second, and a pulse every five.
    fn default() -> Self {
        Self { message_bytes: 256 << 10, heartbeat_micros: 1_000_000, pulse_micros: 5_000_000 }
    }
}

/// How many bytes an outcome may have that goes now: of a larger one, [`Step::NeedRoom`] says how many it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutcomeBounds {
    /// One that stands in the log.
    pub logged: usize,
    /// One that was handed over.
    pub own: usize,
}

impl OutcomeBounds {
    /// Any may go.
    pub const NONE: Self = Self { logged: usize::MAX, own: usize::MAX };
}

/// Where a watcher wants to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The incarnation in which it saw that revision.
    pub incarnation: u64,
    /// The last revision that its mirror has; 0 for none.
    pub revision: Revision,
}

/// What [`SyncSession::poll`] finds to do.
#[derive(Debug)]
pub enum Step {
    /// Send this.
    Send(v1::SessionResponse),
    /// Send this encoded `Outcome`, as the outcome of a `SessionResponse`: the very bytes that the log has.
    SendOutcome(Bytes),
    /// Hand over a snapshot, [`SyncSession::snapshot`], at any durable revision. Not needed twice.
    NeedSnapshot,
    /// Hand over the deltas after this revision, [`SyncSession::missed`], which [`Recent`] has not got any more.
    NeedMissed(Revision),
    /// Hand over what was answered to a transaction, [`SyncSession::read_back`], which [`Recent`] has not got any more.
    NeedAnswer {
        /// When it was decided.
        at: Revision,
        /// Its number in the session.
        number: u64,
    },
    /// Make room for the next outcome and bound it no more, [`SyncSession::bound_outcomes`], or say that there is none, [`SyncSession::no_room`].
    NeedRoom {
        /// So many it has.
        bytes: usize,
    },
    /// Nothing, before something is published or answered, or this time has come, in microseconds of the caller's clock.
    Wait {
        /// When the next heartbeat is due, or room is to be asked for again.
        until_micros: i64,
    },
}

/// One watcher's stream.
#[derive(Debug)]
pub struct SyncSession {
    options: SyncOptions,
    identity: CellIdentity,
    session: SessionId,
    sections: Sections,
    phase: Phase,
    /// What waits for the deltas up to its revision, or for a reader. Bounded by the caller, who counts it among what is unanswered.
    answers: VecDeque<(Revision, Answer)>,
    outcome_bounds: OutcomeBounds,
    /// Before this time room for the first of them is not asked for again.
    no_room_until_micros: i64,
    heartbeat_due_micros: i64,
    /// It has read its snapshot, or come back with a mirror, and no recent delta yet.
    joins: bool,
    /// What was handed over of the deltas that are not recent any more: it is sent next. None of them: they are nowhere.
    missed: Option<Vec<Bytes>>,
    /// A snapshot that was read to its end, to be let go of by the caller.
    read: Option<Box<PageWalk>>,
    resyncs: u64,
    /// What its welcome says of the messages that are taken from it; 0: nothing.
    message_bytes_max: u64,
    /// Log time when the caller's clock was at 0; none: it is not told.
    log_start_micros: Option<i64>,
}

#[derive(Debug)]
enum Answer {
    /// Of the transaction of this number: its outcome stands where all that was decided at the revision does, and has so many bytes; 0 where that
    /// is not known.
    Decided(u64, usize),
    Outcome(Bytes),
    Error(Box<v1::RequestError>),
}

#[derive(Debug)]
enum Phase {
    /// The welcome is to be sent.
    Greeting(Resume),
    /// A snapshot is to be handed over.
    Awaiting,
    Snapshot(Box<PageWalk>),
    /// Everything up to this revision was sent.
    Following(Revision),
}

impl SyncSession {
    /// A stream that begins now, in microseconds of the caller's clock. A watcher without a session has session 0.
    #[must_use]
    pub fn new(
        options: SyncOptions,
        identity: CellIdentity,
        session: SessionId,
        sections: Sections,
        resume: Resume,
        now_micros: i64,
    ) -> Self {
        let heartbeat_due_micros = now_micros.saturating_add(options.heartbeat_micros);
        let phase = Phase::Greeting(resume);
        Self {
            options,
            identity,
            session,
            sections,
            phase,
            answers: VecDeque::new(),
            outcome_bounds: OutcomeBounds::NONE,
            no_room_until_micros: i64::MIN,
            heartbeat_due_micros,
            joins: false,
            missed: None,
            read: None,
            resyncs: 0,
            message_bytes_max: 0,
            log_start_micros: None,
        }
    }

    /// Has its welcome say that messages of at most so many bytes are taken from it.
    #[must_use]
    pub fn taking(mut self, message_bytes_max: usize) -> Self {
        self.message_bytes_max = message_bytes_max as u64;
        self
    }

    /// Has its heartbeats say what time it is in the log: that was `log_start_micros` when the caller's clock was at 0.
    #[must_use]
    pub fn telling_time(mut self, log_start_micros: i64) -> Self {
        self.log_start_micros = Some(log_start_micros);
        self
    }

    /// Hands over what was asked for by [`Step::NeedSnapshot`]; ignored otherwise.
    pub fn snapshot(&mut self, lent: Arc<Lent>, now_micros: i64) {
        if matches!(self.phase, Phase::Awaiting)
            && let Some(walk) = PageWalk::new(lent, self.sections, now_micros)
        {
            self.phase = Phase::Snapshot(Box::new(walk));
        }
    }

    /// Hands over what was asked for by [`Step::NeedMissed`]: whole deltas from the next revision on, without gaps; as many as go into
    /// a message, or none if they are not to be had any more. Those that [`Recent`] has not got yet are left out.
    pub fn missed(&mut self, deltas: Vec<Bytes>) {
        if !planted::is(Bug::AsksForEver) {
            self.missed = Some(deltas);
        }
    }

    /// Sends the outcome of the transaction of this number, which was decided at `at`, once the deltas up to that were sent.
    pub fn decided(&mut self, at: Revision, number: u64) {
        self.answers.push_back((at, Answer::Decided(number, 0)));
    }

    /// Gives outcomes within these bounds from now on. A new stream has none.
    pub fn bound_outcomes(&mut self, bounds: OutcomeBounds) {
        self.outcome_bounds = bounds;
    }

    /// There is no room for the outcome of so many bytes that is next, by [`Step::NeedRoom`] or as it was read for [`Step::NeedAnswer`]. Room for it is
    /// asked for at this time, and then what it is, if that is still to be read.
    pub fn no_room(&mut self, bytes: usize, until_micros: i64) {
        if let Some((_, Answer::Decided(_, known))) = self.answers.front_mut() {
            *known = bytes;
        }
        self.no_room_until_micros = until_micros;
    }

    /// Hands over what was asked for by [`Step::NeedAnswer`]: an encoded `Outcome`, or why there is none.
    pub fn read_back(&mut self, answer: Result<Bytes, v1::RequestError>) {
        if let Some((_, waiting @ Answer::Decided(..))) = self.answers.front_mut() {
            *waiting = answer.map_or_else(|error| Answer::Error(Box::new(error)), Answer::Outcome);
        }
    }

    /// Sends this encoded `Outcome` once the deltas up to `at` were sent.
    pub fn outcome(&mut self, at: Revision, encoded: Bytes) {
        self.answers.push_back((at, Answer::Outcome(encoded)));
    }

    /// Sends this error once the deltas up to `at` were sent; revision 0 for an error that speaks of no state.
    pub fn error(&mut self, at: Revision, error: v1::RequestError) {
        self.answers.push_back((at, Answer::Error(Box::new(error))));
    }

    /// Answers that wait to be sent. The caller admits no further request while these and the unanswered ones are too many.
    #[must_use]
    pub fn answers_waiting(&self) -> usize {
        self.answers.len()
    }

    /// A snapshot that is needed no more: read to its end or, with `all`, given up in the middle. Whoever drops it may be the last one
    /// that holds the pages of an old picture: not while others wait.
    pub fn take_read(&mut self, all: bool) -> Option<impl Send + use<>> {
        if all
            && let Phase::Snapshot(_) = self.phase
            && let Phase::Snapshot(walk) = std::mem::replace(&mut self.phase, Phase::Awaiting)
        {
            return Some(walk);
        }
        self.read.take()
    }

    /// How often the watcher fell behind and was begun anew.
    #[must_use]
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    /// Whether anything that is published is for this watcher, whatever it asks.
    #[must_use]
    pub fn follows_the_cell(&self) -> bool {
        !self.sections.is_of_answers_alone()
    }

    /// Whether a snapshot is being sent, of which more is to come.
    #[must_use]
    pub fn sends_snapshot(&self) -> bool {
        matches!(self.phase, Phase::Snapshot(_))
    }

    /// The revision up to which everything was sent; `None` before the first snapshot or delta.
    #[must_use]
    pub fn position(&self) -> Option<Revision> {
        if let Phase::Following(position) = self.phase { Some(position) } else { None }
    }

    /// The next thing to do.
    pub fn poll(&mut self, now_micros: i64, recent: &Recent) -> Step {
        match &mut self.phase {
            Phase::Greeting(resume) => {
                let resume = *resume;
                Step::Send(response(self.greet(resume, recent)))
            }
            Phase::Awaiting => Step::NeedSnapshot,
            Phase::Snapshot(_) => self.poll_snapshot(now_micros).unwrap_or_else(|| self.begin_anew(recent)),
            Phase::Following(position) => {
                if self.sections.is_of_answers_alone() {
                    // It has no picture that could be behind.
                    *position = recent.newest();
                }
                let position = *position;
                self.follow(position, now_micros, recent)
            }
        }
    }

    /// The next part of a snapshot that is being sent; `None`: [`SyncSession::poll`] has the next thing to do. Pages are large, and to
    /// encode them needs nothing of [`Recent`], for which who publishes would wait meanwhile.
    pub fn poll_snapshot(&mut self, now_micros: i64) -> Option<Step> {
        let Phase::Snapshot(walk) = &mut self.phase else { return None };
        let part = walk.part(self.options.message_bytes, now_micros)?;
        if part.last {
            let done = std::mem::replace(&mut self.phase, Phase::Following(Revision(part.revision)));
            self.read = if let Phase::Snapshot(walk) = done { Some(walk) } else { None };
            self.joins = true;
        }
        Some(Step::Send(response(Tell::Snapshot(part))))
    }

    fn greet(&mut self, resume: Resume, recent: &Recent) -> Tell {
        let known = resume.incarnation == self.identity.incarnation && resume.revision > Revision(0);
        let behind = recent.newest().0.checked_sub(resume.revision.0);
        // Of another incarnation any number may be said: it is not looked for in this one.
        let goes_on = known && (recent.continues(resume.revision) || behind.is_some_and(|behind| behind <= MISSED_MAX));
        let resumes = self.follows_the_cell() && goes_on;
        self.joins = resumes;
        let revision = if resumes { resume.revision } else { recent.newest() };
        let resumes = resumes || !self.follows_the_cell();
        self.phase = if resumes { Phase::Following(revision) } else { Phase::Awaiting };
        Tell::Welcome(v1::Welcome {
            session: self.session.0,
            incarnation: self.identity.incarnation,
            term: self.identity.term,
            revision: revision.0,
            snapshot: !resumes,
            cell_id: Bytes::copy_from_slice(&self.identity.cell_id),
            pulse_micros: self.options.pulse_micros.unsigned_abs(),
            message_bytes_max: self.message_bytes_max,
            newest: recent.newest().0,
        })
    }

    fn follow(&mut self, position: Revision, now_micros: i64, recent: &Recent) -> Step {
        if let Some(step) = self.answer(position, now_micros, recent) {
            return step;
        }
        let missed = self.missed.take();
        // Also between deltas: a busy watcher behind a slow line needs to know how old its mirror is.
        if now_micros >= self.heartbeat_due_micros {
            self.heartbeat_due_micros = now_micros.saturating_add(self.options.heartbeat_micros);
            let heartbeat = v1::Heartbeat {
                revision: recent.newest().0,
                time_micros: recent.time().micros,
                oldest_revision: recent.oldest_readable().0,
                now_micros: self.log_micros(now_micros, recent),
            };
            self.missed = missed;
            return Step::Send(response(Tell::Heartbeat(heartbeat)));
        }
        if !recent.continues(position) {
            return self.catch_up(position, missed, recent);
        }
        self.joins = false;
        if position == recent.newest() {
            let asks_for_room = Some(self.no_room_until_micros).filter(|until| *until > now_micros);
            let until_micros =
                asks_for_room.map_or(self.heartbeat_due_micros, |until| until.min(self.heartbeat_due_micros));
            return Step::Wait { until_micros };
        }
        let (deltas, reached) = self.deltas_after(position, recent);
        self.phase = Phase::Following(reached);
        Step::Send(response(Tell::Deltas(v1::Deltas { deltas })))
    }

    /// Log time; 0 where that is not told. Something may have been logged since the caller read its clock.
    fn log_micros(&self, now_micros: i64, recent: &Recent) -> i64 {
        let now = |start: i64| start.saturating_add(now_micros).max(recent.time().micros);
        self.log_start_micros.map_or(0, now)
    }

    /// Goes on where deltas are not recent any more.
    fn catch_up(&mut self, position: Revision, mut missed: Option<Vec<Bytes>>, recent: &Recent) -> Step {
        if let Some(deltas) = &mut missed {
            // The log has what is durable a moment before it is shown. A watcher that was told of it would be ahead of what is recent,
            // where nothing continues.
            let shown = recent.newest().0.saturating_sub(position.0);
            deltas.truncate(usize::try_from(shown).unwrap_or(usize::MAX));
        }
        match missed {
            None if self.joins => Step::NeedMissed(position),
            None => {
                plenum_model::rare!("a watcher that fell behind begins anew");
                self.begin_anew(recent)
            }
            Some(deltas) if deltas.is_empty() => self.begin_anew(recent),
            Some(deltas) => {
                self.phase = Phase::Following(Revision(position.0 + deltas.len() as u64));
                let deltas = deltas.into_iter().map(|delta| cut(self.sections, delta)).collect();
                Step::Send(response(Tell::Deltas(v1::Deltas { deltas })))
            }
        }
    }

    fn begin_anew(&mut self, recent: &Recent) -> Step {
        self.resyncs += 1;
        let tell = self.greet(Resume::default(), recent);
        Step::Send(response(tell))
    }

    /// The first answer, if it need not wait for deltas; while there is no room for it, the first one that needs none.
    fn answer(&mut self, position: Revision, now_micros: i64, recent: &Recent) -> Option<Step> {
        let may_go = |at: Revision| at <= position || planted::is(Bug::TellsOutcomesFirst);
        self.answers.front().filter(|(at, _)| may_go(*at))?;
        let (at, answer) = self.answers.pop_front()?;
        let (waits, step) = self.told(at, answer, recent);
        let Some(waits) = waits else { return Some(step) };
        self.answers.push_front((at, waits));
        if now_micros >= self.no_room_until_micros {
            return Some(step);
        }
        let needs_none = |(at, answer): &(Revision, Answer)| may_go(*at) && !matches!(answer, Answer::Decided(..));
        let place = self.answers.iter().position(needs_none)?;
        let (at, answer) = self.answers.remove(place)?;
        let (waits, step) = self.told(at, answer, recent);
        if let Some(waits) = waits {
            self.answers.insert(place, (at, waits));
        }
        Some(step)
    }

    /// An answer as it is sent; or itself again, and what it needs first.
    fn told(&self, at: Revision, answer: Answer, recent: &Recent) -> (Option<Answer>, Step) {
        let needs = match answer {
            Answer::Decided(number, known) => match recent.outcome(at, self.outcome_bounds.logged) {
                Some(Ok(outcome)) => return (None, Step::SendOutcome(planted_bugs::outcome(outcome))),
                Some(Err(bytes)) => Step::NeedRoom { bytes },
                None if known > self.outcome_bounds.logged => Step::NeedRoom { bytes: known },
                None => Step::NeedAnswer { at, number },
            },
            Answer::Outcome(ref encoded) if encoded.len() > self.outcome_bounds.own => {
                Step::NeedRoom { bytes: encoded.len() }
            }
            Answer::Outcome(encoded) => return (None, Step::SendOutcome(encoded)),
            Answer::Error(error) => return (None, Step::Send(response(Tell::Error(*error)))),
        };
        (Some(answer), needs)
    }

    /// Whole deltas from the next revision on, until there are no more or the message is full.
    fn deltas_after(&self, position: Revision, recent: &Recent) -> (Vec<Bytes>, Revision) {
        let (mut deltas, mut reached, mut bytes) = (Vec::new(), position, 0);
        while let Some(batch) = recent.batch(reached.next()) {
            let cut = batch.deltas(self.sections);
            let skipped = usize::try_from(reached.next().0 - batch.first().0).unwrap_or(usize::MAX);
            for delta in cut.iter().skip(skipped) {
                if planted::strikes(Bug::LeavesOutDeltas, 7) {
                    reached = reached.next();
                    continue;
                }
                if bytes > 0 && bytes + delta.len() > self.options.message_bytes {
                    return (deltas, reached);
                }
                bytes += delta.len();
                deltas.push(delta.clone());
                reached = reached.next();
            }
        }
        (deltas, reached)
    }
}

fn response(tell: Tell) -> v1::SessionResponse {
    v1::SessionResponse { tell: Some(tell) }
}
