//! Greeting, resuming, and building the mirror.

use bytes::Bytes;
use plenum_model::session::NUMBER_MAX;
use plenum_model::{LogTime, Outcome, RejectionCode, Revision, SessionId};
use plenum_proto::bounds::REQUEST_BYTES_MAX;
use plenum_proto::error::OUTCOME_UNKNOWN;
use plenum_proto::transaction::commit_bytes;
use plenum_proto::v1::{self, session_request::Ask, session_response::Tell};

use super::unanswered::TOO_LARGE;
use super::{Link, Loss, Notice, Output, SchedulerRuntime, send};
use crate::ahead::Ahead;
use crate::holds::Strangers;
use crate::notes::Notes;
use crate::portion::Portion;
use crate::pulses::PAUSE_MICROS_MIN;
use crate::queue::Queue;
use crate::scheduler::Scheduler;
use crate::seen::{OTHER_CELL, Seen};
use crate::share::Share;
use crate::wire::{Filling, decode_delta};

/// The codes of `google.rpc` after which a session cannot go on, for it is not there, or of another life of the cell: `NOT_FOUND`,
/// `FAILED_PRECONDITION`, `ABORTED`; or of another cell, where its number is somebody else's: `PERMISSION_DENIED`. Not `OUT_OF_RANGE`: a
/// cell that is behind what was seen shall not have a new session written into its log, which would let it catch up.
const SESSION_IS_OVER: [i32; 4] = [5, 7, 9, 10];

/// The codes of `google.rpc` with which who asks for a new session is turned away for what it says of itself: `INVALID_ARGUMENT`,
/// `PERMISSION_DENIED`, `UNAUTHENTICATED`.
const TURNED_AWAY: [i32; 3] = [3, 7, 16];

/// Refuses who is ahead of the server.
const OUT_OF_RANGE: i32 = 11;

/// The longest hint of a server when to try again that is followed, in microseconds. Longer ones are followed up to here: a scheduler shall not
/// fall silent for ever because a server errs.
pub(super) const HINT_MICROS_MAX: i64 = 60_000_000;

impl<S: Scheduler> SchedulerRuntime<S> {
    /// Says who it is, and what it has.
    pub(super) fn greet(&mut self, outputs: &mut Vec<Output>) {
        self.link = Link::Greeting;
        self.counters.connections += 1;
        outputs.push(send(Ask::Hello(v1::Hello {
            scheduler: self.scheduler.name().to_owned(),
            namespace: self.settings.namespace.to_string(),
            session: self.session.0,
            incarnation: if self.session.0 == 0 { 0 } else { self.seen.incarnation },
            pulse_micros: PAUSE_MICROS_MIN,
            ..self.seen.hello(self.mirror.revision())
        })));
    }

    /// The connection is gone. The session, its numbers and the mirror stay, unless the server said that they are over.
    pub(super) fn lose(
        &mut self,
        now_micros: i64,
        (status, code): (i32, &str),
        reason: String,
        retry_micros: i64,
        outputs: &mut Vec<Output>,
    ) {
        let refused = matches!(self.link, Link::Greeting);
        let is_new = self.session == SessionId::default() && code != OTHER_CELL;
        let turned_away = refused && is_new && TURNED_AWAY.contains(&status);
        let loss = match (turned_away, code.is_empty()) {
            (true, _) => Loss::TurnedAway,
            (false, true) => Loss::NoConnection,
            (false, false) => Loss::ByCell,
        };
        // That ends also a stream that had begun: somebody closed its session.
        let is_closed = code == RejectionCode::NoSuchSession.as_str();
        if is_closed || (refused && SESSION_IS_OVER.contains(&status)) {
            self.end_session(now_micros);
        }
        if refused && code == OTHER_CELL {
            // What was seen is nothing of that one.
            self.seen = Seen::default();
            self.forget_jobs();
        }
        let is_behind = refused && status == OUT_OF_RANGE;
        if is_behind {
            outputs.push(Output::Notice(Notice::Behind { seen: self.seen.standing(), offered: None }));
        }
        let is_too_large = !refused && code == TOO_LARGE;
        let given_up = is_too_large && self.give_up_largest(now_micros, &reason, outputs);
        let waits = is_behind || (is_too_large && !given_up);
        let most_micros = self.settings.reconnect.most_micros;
        let least_micros = if waits || turned_away { most_micros } else { self.hinted_micros(retry_micros) };
        self.reconnect(loss, reason, least_micros, outputs);
    }

    /// How long to wait at least where a server that ended the stream said when to try again, which is heeded up to the longest pause there is anyway: what stands
    /// in the way may have passed. Who was told the same at the same time comes back a little apart.
    fn hinted_micros(&self, retry_micros: i64) -> i64 {
        let reconnect = &self.settings.reconnect;
        let apart_micros = reconnect.delay_micros(1, self.settings.seed);
        if retry_micros > 0 { retry_micros.min(reconnect.most_micros).saturating_add(apart_micros) } else { 0 }
    }

    /// Forgets the session, and with it all transactions in flight: none of them can be decided any more.
    fn end_session(&mut self, now_micros: i64) {
        self.session = SessionId::default();
        self.end_session_but_mirror(now_micros);
        self.mirror.forget();
    }

    /// In another cell, and in another life of this one, there may be other jobs and sessions of the same numbers: what was found out about those of before says nothing of
    /// them. After the session has ended, whose transactions are of the jobs of before.
    fn forget_jobs(&mut self) {
        self.holds.begin_anew();
        (self.strangers, self.queue, self.share) = (Strangers::default(), Queue::default(), Share::default());
        (self.ahead, self.notes) = (Ahead::default(), Notes::default());
        self.staying.clear();
        (self.fruitless, self.rests_until_micros, self.rested_micros) = (0, i64::MIN, None);
    }

    /// Goes on in another session once all numbers of this one are used up. Not before all have their answers: what became of a transaction is
    /// told in its own session only.
    pub(super) fn renew_session_if_used_up(&mut self, now_micros: i64, outputs: &mut Vec<Output>) {
        if self.number < NUMBER_MAX || self.in_flight.len() > 0 {
            return;
        }
        let reason = format!("all numbers of session {} are used up", self.session.0);
        outputs.push(Output::Close(self.close()));
        self.end_session(now_micros);
        self.leave(reason, 0, outputs);
    }

    /// Tries again after a while, `least_micros` at least.
    fn reconnect(&mut self, loss: Loss, reason: String, least_micros: i64, outputs: &mut Vec<Output>) {
        self.link = Link::Down;
        self.forget_holds();
        self.attempts = self.attempts.saturating_add(1);
        let micros = self.settings.reconnect.delay_micros(self.attempts, self.settings.seed).max(least_micros);
        outputs.push(Output::Notice(Notice::Lost { loss, reason, retry_micros: micros }));
        outputs.push(Output::ConnectAfter { micros });
    }

    /// Ends this connection from this side.
    fn leave(&mut self, reason: String, least_micros: i64, outputs: &mut Vec<Output>) {
        outputs.push(Output::Disconnect);
        self.reconnect(Loss::NoConnection, reason, least_micros, outputs);
    }

    /// The mirror is of no use: fetches another one, in the same session.
    fn renew_mirror(&mut self, reason: String, outputs: &mut Vec<Output>) {
        self.mirror.forget();
        outputs.push(Output::Notice(Notice::Mirror { reason: reason.clone() }));
        self.leave(reason, 0, outputs);
    }

    pub(super) fn receive(&mut self, now_micros: i64, message: v1::SessionResponse, outputs: &mut Vec<Output>) {
        if matches!(self.link, Link::Down) {
            return;
        }
        match message.tell {
            // A message of a kind that a later version may have.
            None => {}
            Some(Tell::Welcome(welcome)) => self.welcome(now_micros, &welcome, outputs),
            Some(Tell::Snapshot(part)) => self.fill(now_micros, part, outputs),
            Some(Tell::Deltas(deltas)) => {
                for bytes in deltas.deltas {
                    if !self.fold(now_micros, bytes, outputs) {
                        return;
                    }
                }
            }
            Some(Tell::Outcome(outcome)) => {
                let (session, number) = (SessionId(outcome.session), outcome.number);
                match Outcome::try_from(outcome) {
                    Ok(outcome) => self.conclude(now_micros, &outcome, outputs),
                    Err(error) if session == self.session => {
                        let reason = format!("this version does not know all that it says: {error}");
                        self.leave_unknown(now_micros, number, &reason, outputs);
                    }
                    Err(_) => {}
                }
            }
            Some(Tell::Heartbeat(beat)) => {
                self.seen.see(beat.revision);
                // The ends of backoffs were reckoned by the time before.
                self.due |= self.mirror.heard(LogTime::from_micros(beat.time_micros), now_micros);
                self.due |= self.mirror.heard_now(beat.now_micros, now_micros);
                self.mirror.heard_of_oldest(beat.oldest_revision);
            }
            Some(Tell::Error(error)) => self.reject(now_micros, error, outputs),
        }
    }

    fn welcome(&mut self, now_micros: i64, welcome: &v1::Welcome, outputs: &mut Vec<Output>) {
        let offered = Seen::offered(welcome);
        let same_cell = self.seen.cell_id == offered.cell_id;
        if same_cell && self.seen.is_beyond(welcome, self.mirror.revision()) {
            let (seen, offered) = (self.seen.standing(), Some(offered.standing()));
            outputs.push(Output::Notice(Notice::Behind { seen, offered }));
            let wait = self.settings.reconnect.most_micros;
            return self.leave("the server is behind".into(), wait, outputs);
        }
        // A restored cell goes on from the term of its backup.
        let same_server = same_cell && (offered.incarnation, offered.term) == (self.seen.incarnation, self.seen.term);
        self.seen.term = offered.term;
        let resumes = self.session.0 != 0;
        if !same_cell || offered.incarnation != self.seen.incarnation {
            self.end_session(now_micros);
            self.forget_jobs();
            self.seen = offered;
        }
        // Even if this connection is of no use: with the next one it is the same server.
        if !same_server {
            self.mirror.estimate_anew(now_micros);
        }
        if resumes && !same_cell {
            // The session of this number is somebody else's there.
            return self.leave("it is another cell now".into(), 0, outputs);
        }
        self.seen.see(welcome.revision.max(welcome.newest));
        // What it missed is coming: on a mirror of before, healthy tasks were moved off a machine that was not drained any more, and others evicted beside free room.
        self.decides_from = Revision(welcome.newest);
        self.message_bytes_max = match usize::try_from(welcome.message_bytes_max) {
            Ok(0) => REQUEST_BYTES_MAX,
            told => told.unwrap_or(usize::MAX),
        };
        // A server also welcomes anew, in the middle of a stream, whoever fell behind its memory: then nothing was lost.
        let begins = matches!(self.link, Link::Greeting);
        if begins {
            self.pulses.begin(welcome.pulse_micros, now_micros);
        }
        let resumed = self.session.0 == welcome.session;
        if !resumed {
            self.end_session_but_mirror(now_micros);
            self.portion = Portion::new(self.settings.tasks_max);
            self.session = SessionId(welcome.session);
        }
        if begins {
            outputs.push(Output::Notice(Notice::Session { session: self.session, resumed }));
        }
        if begins {
            self.send_again(now_micros, outputs);
        }
        self.notes.tell_again();
        if welcome.snapshot {
            self.link = Link::Filling(Filling::new());
            return;
        }
        if welcome.revision == 0 {
            // Before its first revision a cell is empty, and needs no pages to say so.
            self.mirror.replace(plenum_model::Cell::default(), now_micros);
        }
        if self.mirror.cell().is_some() && self.mirror.revision().0 == welcome.revision {
            self.live(now_micros);
        } else {
            let have = self.mirror.revision();
            self.renew_mirror(format!("at revision {have}, and offered to go on after {}", welcome.revision), outputs);
        }
    }

    /// Sends what was not answered before anything new: a number below one that was decided is never executed.
    fn send_again(&mut self, now_micros: i64, outputs: &mut Vec<Output>) {
        let most = self.message_bytes_max;
        let (again, too_large): (Vec<_>, Vec<_>) =
            self.in_flight.messages().cloned().partition(|message| commit_bytes(message) <= most);
        // Only a server that was started anew, with a lower bound. What it executed before, the mirror shows.
        for message in too_large {
            let reason = format!("{TOO_LARGE}: this server takes messages of at most {most} bytes by now");
            self.leave_too_large(now_micros, message.number, &reason, outputs);
        }
        self.counters.sent_again += again.len() as u64;
        outputs.extend(again.into_iter().map(|message| send(Ask::Commit(message))));
    }

    fn end_session_but_mirror(&mut self, now_micros: i64) {
        self.number = 0;
        self.forget_unanswered(now_micros);
    }

    /// A part of a snapshot.
    fn fill(&mut self, now_micros: i64, part: v1::SnapshotPart, outputs: &mut Vec<Output>) {
        let Link::Filling(filling) = &mut self.link else {
            return self.renew_mirror("a page of a snapshot that was not announced".into(), outputs);
        };
        match filling.add(part) {
            Ok(None) => {}
            Ok(Some(cell)) => {
                self.seen.see(cell.revision().0);
                self.counters.snapshots += 1;
                self.mirror.replace(cell, now_micros);
                if !self.leave_if_closed(now_micros, outputs) {
                    self.settle();
                    self.live(now_micros);
                }
            }
            Err(reason) => self.renew_mirror(reason, outputs),
        }
    }

    /// Everything may have changed since the mirror was current last.
    fn live(&mut self, now_micros: i64) {
        self.link = Link::Live;
        // By itself no success: where each stream ends at what is sent over it next, all of that would be sent again as fast as one follows the other.
        self.live_since_micros = now_micros;
        self.due = true;
        if self.asked_micros().is_none() && self.scheduler.decides_unasked() {
            self.again_micros = Some(now_micros);
        }
        (self.pass, self.firsts_wait, self.another_pass) = (None, false, false);
        self.wake_micros = None;
        self.told_wake_micros = None;
        self.decide_not_before_micros = self.decide_not_before_micros.min(now_micros);
        self.read_queue();
        self.read_share(now_micros);
        self.share.hears_again(now_micros);
        self.see_holds();
        self.ahead = Ahead::default();
    }

    /// Transactions whose numbers the snapshot shows as decided promise nothing any more.
    fn settle(&mut self) {
        let Some(cell) = self.mirror.cell() else { return };
        let Some(session) = cell.session(self.session) else { return };
        for number in session.decided.iter().map(|decided| decided.number) {
            plenum_model::rare!("a snapshot shows what became of a transaction");
            self.in_flight.decided(number);
        }
    }

    fn fold(&mut self, now_micros: i64, bytes: Bytes, outputs: &mut Vec<Output>) -> bool {
        if !matches!(self.link, Link::Live) {
            self.renew_mirror("a delta before the mirror was complete".into(), outputs);
            return false;
        }
        let delta = match decode_delta(bytes) {
            Ok(delta) => delta,
            Err(reason) => {
                self.renew_mirror(reason, outputs);
                return false;
            }
        };
        self.notice_before(&delta);
        let ends = self.ends_in(&delta);
        match self.mirror.fold(&delta, now_micros) {
            Ok(leapt) => self.due |= leapt,
            Err(error) => {
                self.renew_mirror(format!("a delta that does not fit: {error}"), outputs);
                return false;
            }
        }
        self.seen.see(delta.revision.0);
        self.counters.deltas += 1;
        self.notice_after(now_micros, &delta);
        self.see_holds();
        for ended in &ends {
            self.scheduler.ended(ended);
            if self.scheduler.decides_after(ended) {
                self.due = true;
                self.again_micros = Some(now_micros);
            }
        }
        delta.sessions.is_empty() || !self.leave_if_closed(now_micros, outputs)
    }

    /// Goes on in another session where the mirror shows that this one was closed, be it by its principal beside the stream. The stream stays, and with nothing to
    /// commit nobody would say so; meanwhile peers look after its jobs, and what it says of them is heard by nobody.
    fn leave_if_closed(&mut self, now_micros: i64, outputs: &mut Vec<Output>) -> bool {
        let session = self.session;
        // Its number is the revision that opened it.
        let is_closed = |cell: &plenum_model::Cell| cell.revision().0 >= session.0 && cell.session(session).is_none();
        if !self.mirror.cell().is_some_and(is_closed) {
            return false;
        }
        self.end_session(now_micros);
        self.leave(format!("session {} was closed", session.0), 0, outputs);
        true
    }

    /// A request was not executed, or nobody knows whether it was, or the session as a whole was refused.
    fn reject(&mut self, now_micros: i64, error: v1::RequestError, outputs: &mut Vec<Output>) {
        let reason = format!("{}: {}", error.code, error.message);
        let hint_micros = error.retry_after_micros.min(HINT_MICROS_MAX);
        let over = matches!(
            RejectionCode::parse(&error.code),
            Some(RejectionCode::NoSuchSession | RejectionCode::OtherIncarnation)
        );
        if over || (error.number == 0 && SESSION_IS_OVER.contains(&error.status)) {
            self.end_session(now_micros);
        }
        // What became of a transaction that was sent again was not looked up, as there was no room to: it is sent once more, with all others, in their
        // order.
        if over || error.number == 0 || error.code == OUTCOME_UNKNOWN {
            return self.leave(reason, hint_micros, outputs);
        }
        self.give_up(now_micros, error.number, (&error.code, &reason), hint_micros, outputs);
    }
}
