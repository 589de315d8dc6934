//! The cell's side of the connections: it welcomes schedulers, decides what they commit, and tells them what became of it.

use std::fmt::Write as _;

use bytes::Bytes;
use plenum_core::{Core, CoreOptions};
use plenum_model::{
    Cell, CellIdentity, Command, Decision, JobId, Outcome, RejectionCode, Request, Revision, SessionId,
};
use plenum_proto::v1::{self, command::Ask as Asked, session_request::Ask, session_response::Tell};
use plenum_proto::{command, transaction};
use plenum_sdk::{HoldAnswer, Input};

use super::{Player, Seat, Stage};

/// The code of `google.rpc` of every rejection here: runtimes go by the cell's own code.
const INVALID_ARGUMENT: i32 = 3;
/// Those with which a server refuses a session that is not there, and one of before the cell was restored.
const NOT_FOUND: i32 = 5;
const ABORTED: i32 = 10;

impl Stage {
    /// Of a scheduler's next transaction the cell says this code, such as `QUEUE_FULL` or `READ_ONLY`, and does not execute it. Called again, it is for
    /// the one after that, too.
    pub fn reject_next(&mut self, seat: Seat, code: &str) {
        self.seats[seat.0].rejections.push_back(code.to_owned());
    }

    /// From now on a scheduler's requests for holds are refused with this code, such as `QUEUE_FULL` or `READ_ONLY`, and not executed; with an empty one no more.
    pub fn refuse_holds(&mut self, seat: Seat, code: &str) {
        code.clone_into(&mut self.seats[seat.0].hold_refusal);
    }

    /// Whether a scheduler's requests for holds are executed, and it never hears of that.
    pub fn lose_hold_answers(&mut self, seat: Seat, are_lost: bool) {
        self.seats[seat.0].loses_hold_answers = are_lost;
    }

    /// The next change is told to a scheduler by a snapshot in the middle of its stream, as by a server whose memory of changes it fell behind.
    pub fn fall_behind(&mut self, seat: Seat) {
        self.seats[seat.0].is_behind = true;
    }

    /// Puts the cell back to a clone of what [`Stage::cell`] was, as from a backup: in another incarnation, and without all that was decided since. All
    /// connections break, and schedulers come back by themselves as time passes.
    pub fn restore(&mut self, cell: Cell) {
        (0..self.seats.len()).for_each(|seat| self.cut(Seat(seat)));
        let before = self.cell().identity().clone();
        let term = cell.identity().term + 1;
        let identity = CellIdentity { incarnation: before.incarnation + 1, term, ..before };
        self.deltas.retain(|revision, _| *revision <= cell.revision());
        self.outcomes.clear();
        self.passed_over.clear();
        self.core = Core::from_cell(cell, CoreOptions::default());
        self.ask("local", Command::OpenServer(identity));
    }

    /// Deltas since what the scheduler was told last.
    pub(super) fn publish(&mut self, seat: Seat) {
        let Player { link: Some(link), is_behind, .. } = &mut self.seats[seat.0] else { return };
        let Some(session) = link.session else { return };
        if *is_behind && self.deltas.range(link.told.next()..).next().is_some() {
            *is_behind = false;
            return self.begin(seat, session, None);
        }
        let news: Vec<Bytes> = self.deltas.range(link.told.next()..).map(|(_, bytes)| bytes.clone()).collect();
        if !news.is_empty() {
            link.to_scheduler.push_back(tell(Tell::Deltas(v1::Deltas { deltas: news })));
            link.told = self.core.cell().revision();
        }
    }

    pub(super) fn serve(&mut self, seat: Seat, request: v1::SessionRequest) {
        match request.ask.expect("a runtime asks for something") {
            Ask::Hello(hello) => self.welcome(seat, &hello),
            Ask::Commit(wire) => self.commit(seat, &wire),
            Ask::PassedOver(notes) => {
                for note in notes.notes {
                    let job = JobId::from_bits(note.job).expect("notes are about jobs");
                    self.passed_over.insert((job, note.group), note.reason);
                }
            }
            Ask::Pulse(pulse) => self.pulses.push(pulse),
        }
    }

    fn welcome(&mut self, seat: Seat, hello: &v1::Hello) {
        let incarnation = self.cell().identity().incarnation;
        let session = if hello.session == 0 {
            let command = Command::OpenSession { scheduler: hello.scheduler.as_str().into() };
            let namespace = hello.namespace.as_str().into();
            let opened = self.decide(&Request { principal: "local".into(), namespace, command });
            let Decision::Accepted { id, .. } = opened else { panic!("no session: {opened:?}") };
            SessionId(id)
        } else if hello.incarnation != incarnation {
            return self.refuse(seat, ABORTED, RejectionCode::OtherIncarnation);
        } else if self.cell().session(SessionId(hello.session)).is_none() {
            return self.refuse(seat, NOT_FOUND, RejectionCode::NoSuchSession);
        } else {
            SessionId(hello.session)
        };
        let snapshot = hello.incarnation != incarnation || hello.revision == 0;
        self.begin(seat, session, (!snapshot).then_some(Revision(hello.revision)));
    }

    /// A scheduler is told everything, or what comes after a revision.
    fn begin(&mut self, seat: Seat, session: SessionId, after: Option<Revision>) {
        let (incarnation, term) = (self.cell().identity().incarnation, self.cell().identity().term);
        let (snapshot, revision) = (after.is_none(), after.unwrap_or_else(|| self.cell().revision()));
        let mut messages = vec![Tell::Welcome(v1::Welcome {
            session: session.0,
            incarnation,
            term,
            revision: revision.0,
            snapshot,
            cell_id: vec![7; 16].into(),
            pulse_micros: self.pulse_micros,
            message_bytes_max: 0,
            newest: self.cell().revision().0,
        })];
        if snapshot {
            let pages = self.pages();
            messages.push(Tell::Snapshot(v1::SnapshotPart { revision: revision.0, pages, last: true }));
        }
        let link = self.seats[seat.0].link.as_mut().expect("it has said hello");
        link.session = Some(session);
        link.told = revision;
        link.to_scheduler.extend(messages.into_iter().map(tell));
    }

    /// Ends a scheduler's call instead of welcoming it.
    fn refuse(&mut self, seat: Seat, status: i32, code: RejectionCode) {
        self.seats[seat.0].link = None;
        let code = code.as_str().to_owned();
        self.give(seat, Input::Disconnected { status, reason: code.clone(), code, retry_micros: 0 });
    }

    fn commit(&mut self, seat: Seat, wire: &v1::Transaction) {
        let answer = match self.seats[seat.0].rejections.pop_front() {
            Some(code) => rejected(wire.number, code, "the test has it so".into()),
            None => self.decide_transaction(seat, wire),
        };
        // Deltas up to an outcome's revision precede it.
        self.publish(seat);
        if let Some(link) = &mut self.seats[seat.0].link {
            link.to_scheduler.push_back(tell(answer));
        }
    }

    fn decide_transaction(&mut self, seat: Seat, wire: &v1::Transaction) -> Tell {
        let command = transaction::commit_decoded(wire).expect("a runtime sends valid transactions");
        match self.decide(&Request { principal: "local".into(), namespace: "default".into(), command }) {
            Decision::Outcome(outcome) => {
                let first = self.outcomes.insert((outcome.id.session, wire.number), (*outcome).clone()).is_none();
                self.note(seat, &outcome, first);
                Tell::Outcome((&*outcome).into())
            }
            Decision::Rejected(rejection) => rejected(wire.number, rejection.code.as_str().into(), rejection.message),
            Decision::Accepted { .. } => panic!("a transaction has an outcome"),
        }
    }

    /// What a scheduler hears of its request to hold room.
    pub(super) fn answer_hold(&mut self, seat: Seat, request: v1::TakeHoldRequest) -> HoldAnswer {
        let Player { hold_refusal, loses_hold_answers, .. } = &self.seats[seat.0];
        let (code, is_lost) = (hold_refusal.clone(), *loses_hold_answers);
        if !code.is_empty() {
            return HoldAnswer::Refused { code, retry_micros: 0 };
        }
        let answer = self.decide_hold(request);
        if is_lost { HoldAnswer::Unanswered } else { answer }
    }

    /// Room is held for a job, or given back. As with a server, the answer may come before the delta.
    pub(super) fn decide_hold(&mut self, wire: v1::TakeHoldRequest) -> HoldAnswer {
        let refused = |code: RejectionCode| HoldAnswer::Refused { code: code.as_str().to_owned(), retry_micros: 0 };
        if wire.incarnation != self.cell().identity().incarnation {
            return refused(RejectionCode::OtherIncarnation);
        }
        let take = v1::TakeHold {
            job: wire.job,
            machines: wire.machines,
            resources: Some(wire.resources.unwrap_or_default()),
            deadline_micros: self.log_time().plus_micros(wire.within_micros).micros,
            session: wire.session,
        };
        let command = command::command(Asked::TakeHold(take)).expect("a runtime sends valid requests");
        match self.decide(&Request { principal: "local".into(), namespace: "".into(), command }) {
            Decision::Rejected(rejection) => refused(rejection.code),
            _ => HoldAnswer::Executed { revision: self.cell().revision().0 },
        }
    }

    fn note(&mut self, seat: Seat, outcome: &Outcome, first: bool) {
        let name = &self.seats[seat.0].name;
        let (granted, claims) = (outcome.granted(), outcome.claims());
        let again = if first { "" } else { " (again)" };
        let _ = writeln!(self.transcript, "{name}: {granted} of {claims} granted{again}");
        for refusal in &outcome.refusals {
            let task = refusal.task;
            let machine = self.core.cell().machine_in(refusal.machine).map_or("?", |machine| &machine.name);
            let kind = format!("{:?}", refusal.kind).to_lowercase();
            let culprit = refusal.culprits.first().map_or(String::new(), |culprit| {
                let who = if culprit.scheduler.is_empty() { &culprit.event } else { &culprit.scheduler };
                format!(", culprit {who}")
            });
            let _ = writeln!(self.transcript, "  task {task} on {machine}: {kind} {:?}{culprit}", refusal.reason);
        }
    }
}

fn rejected(number: u64, code: String, message: String) -> Tell {
    Tell::Error(v1::RequestError { number, status: INVALID_ARGUMENT, code, message, retry_after_micros: 0 })
}

pub(super) fn tell(tell: Tell) -> v1::SessionResponse {
    v1::SessionResponse { tell: Some(tell) }
}
