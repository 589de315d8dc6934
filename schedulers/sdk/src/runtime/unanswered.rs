//! Plans that get no answer: the cell rejects them, or can't say any more what became of them, their session ends, or they are not even sent. What
//! they were about is planned anew, and their scheduler hears that there will be none.

use std::collections::BTreeSet;

use plenum_model::session::Standing;
use plenum_model::{JobId, RejectionCode};

use super::events::AT_THE_COMMIT;
use super::{Notice, Output, SchedulerRuntime};
use crate::in_flight::Sent;
use crate::plan::{Plan, PlanError};
use crate::scheduler::{Scheduler, Unanswered};

/// What any server says of a message above its bound.
pub(super) const TOO_LARGE: &str = "MESSAGE_TOO_LARGE";

impl<S: Scheduler> SchedulerRuntime<S> {
    /// A transaction has no outcome, and never will. Where it was not executed, what it was about is planned anew, under another number. The server says so with
    /// a code; for people there is a message, too.
    pub(super) fn give_up(
        &mut self,
        now_micros: i64,
        number: u64,
        (code, reason): (&str, &str),
        least_micros: i64,
        outputs: &mut Vec<Output>,
    ) {
        let sent = self.in_flight.answered(number);
        if let Some(sent) = &sent
            && code != RejectionCode::NumberReused.as_str()
            && self.may_be_executed(number)
        {
            return self.leave_unread(now_micros, sent, reason, outputs);
        }
        outputs.push(Output::Notice(Notice::Rejected { number, reason: reason.to_owned() }));
        let Some(sent) = sent else { return };
        self.counters.rejected += 1;
        // What a cell of small segments says of a transaction of many claims.
        if code == TOO_LARGE || RejectionCode::parse(code) == Some(RejectionCode::LimitReached) {
            self.plan_less(now_micros, sent.claims());
        }
        let least_micros = least_micros.max(self.settings.reconnect.first_micros);
        self.plan_again(now_micros, sent.has_stops(), &sent.jobs, (least_micros, AT_THE_COMMIT, reason));
        self.scheduler.unanswered(sent.tag, &Unanswered::Rejected { code: code.to_owned() });
    }

    /// The server ended the stream at a message that it did not read, and can't say which one it was. Where any of those in flight is above its
    /// bound, the largest one is: that one was not executed, and sent again would end the next stream, too. False: there is none.
    pub(super) fn give_up_largest(&mut self, now_micros: i64, reason: &str, outputs: &mut Vec<Output>) -> bool {
        let largest = self.in_flight.largest();
        largest.into_iter().for_each(|number| self.give_up(now_micros, number, (TOO_LARGE, reason), 0, outputs));
        largest.is_some()
    }

    /// A plan gets no number, as no cell would look at it.
    pub(super) fn leave_unsent(&mut self, now_micros: i64, plan: &Plan, error: PlanError, outputs: &mut Vec<Output>) {
        self.counters.dropped += 1;
        if error.passes_with_fewer_claims() {
            self.plan_less(now_micros, plan.claims());
        }
        let jobs: BTreeSet<_> = plan.claims_by_group().map(|((job, _), _)| job).collect();
        self.plan_again(now_micros, plan.has_stops(), &jobs, (0, "not sent", &error.to_string()));
        outputs.push(Output::Notice(Notice::Plan(error)));
        self.scheduler.unanswered(plan.tag(), &Unanswered::NotSent(error));
    }

    /// This server takes smaller messages than the one before it, which a transaction may have reached: it is not sent again, and what is left to do
    /// is planned in smaller parts.
    pub(super) fn leave_too_large(&mut self, now_micros: i64, number: u64, reason: &str, outputs: &mut Vec<Output>) {
        if let Some(sent) = self.in_flight.answered(number) {
            self.plan_less(now_micros, sent.claims());
            self.leave_unread(now_micros, &sent, reason, outputs);
        }
    }

    /// A transaction was answered with something that this version can't read, as a later one of the server may say it. Sent again, or with another mirror, it
    /// would be answered alike: it is given up, and everything else goes on.
    pub(super) fn leave_unknown(&mut self, now_micros: i64, number: u64, reason: &str, outputs: &mut Vec<Output>) {
        if let Some(sent) = self.in_flight.answered(number) {
            self.leave_unread(now_micros, &sent, reason, outputs);
        }
    }

    /// The session is over: what became of its transactions is not told any more.
    pub(super) fn forget_unanswered(&mut self, now_micros: i64) {
        for sent in self.in_flight.clear() {
            self.forget(now_micros, &sent);
        }
    }

    /// Whether a number was decided by what the mirror shows, or is so old that nobody can tell.
    fn may_be_executed(&self, number: u64) -> bool {
        let session = self.mirror.cell().and_then(|cell| cell.session(self.session));
        session.is_some_and(|session| matches!(session.standing(number), Standing::Decided(_) | Standing::Retired))
    }

    /// What became of a transaction can't be read. That is no refusal of its jobs. But as it may have been refused, and the next ones may end alike, nothing is
    /// decided for a moment.
    fn leave_unread(&mut self, now_micros: i64, sent: &Sent, reason: &str, outputs: &mut Vec<Output>) {
        let (number, reason) = (sent.message.number, reason.to_owned());
        outputs.push(Output::Notice(Notice::Unread { number, reason }));
        self.forget(now_micros, sent);
        self.rest(now_micros, self.settings.reconnect.first_micros);
        self.due = true;
    }

    /// What a transaction did, if anything, the mirror shows, or will.
    fn forget(&mut self, now_micros: i64, sent: &Sent) {
        self.counters.unread += 1;
        self.ask_again(now_micros, sent.has_stops(), &sent.jobs);
        self.scheduler.unanswered(sent.tag, &Unanswered::Unread);
    }

    /// Nothing came of a plan with claims for these jobs: they wait a little, or all do. People are told what became of its claims, and why.
    fn plan_again(
        &mut self,
        now_micros: i64,
        has_stops: bool,
        jobs: &BTreeSet<JobId>,
        (least_micros, what, why): (i64, &str, &str),
    ) {
        // Before they rest: it is asked for what was dropped once they don't.
        self.ask_again(now_micros, has_stops, jobs);
        if !self.can_leave_any(jobs) {
            self.rest(now_micros, least_micros);
        }
        jobs.iter().for_each(|&job| self.refuse(now_micros, job, least_micros, what, why));
        self.due = true;
    }

    /// What a plan claimed that waits is offered again. What it stopped or moved is of no work, nor is what it claimed for jobs of others: for these the
    /// scheduler is asked as for what it planned beyond the window.
    fn ask_again(&mut self, now_micros: i64, has_stops: bool, jobs: &BTreeSet<JobId>) {
        if has_stops || !self.can_leave_any(jobs) {
            let soonest_micros = now_micros.saturating_add(self.settings.pause_micros);
            self.dropped_micros.get_or_insert(soonest_micros);
        }
    }

    /// So many claims were too large. Of one that hardly claims anything, it is what stands beside them: fewer tasks make it no smaller.
    fn plan_less(&mut self, now_micros: i64, claims: usize) {
        if claims > 1 {
            self.portion.was_too_large(claims, now_micros);
        }
    }
}
