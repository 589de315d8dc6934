//! The commit path without its I/O: decides requests, gathers what was decided into batches, and answers when they are durable.
//!
//! # The order of things
//!
//! ```text
//! Request ─ decide ─▶ building batch ─ poll ─▶ Write ─ (disk) ─▶ Durable ─▶ Publish, then Answer, Answer, …
//!                          ▲                                        │
//!                          └── requests go on being decided meanwhile ──┘   (one batch in flight at most)
//! ```
//!
//! - A request is decided as soon as it is handed over, on the newest state, durable or not; so batches are pipelined: the next
//!   one is resolved while the one before syncs.
//! - Nothing that was decided is shown before it is durable, and neither is anything that was concluded from it: the answer to a
//!   rejected or repeated request waits for the revision on which it was judged.
//! - A batch is published before the requests in it are answered. Answers come in the order of the requests.
//! - A snapshot is taken only when somebody wants one, at the end of a batch, and shown after that batch was published.
//! - After a failed write nothing is answered or published any more, ever. Whether the batch is durable is unknown; only the next
//!   start can tell.
//!
//! The caller hands over what arrived ([`Committer::handle`]), then carries out what [`Committer::poll`] gives until it gives
//! nothing more. While [`Committer::has_room`] is false it keeps requests in its own, bounded queues. What is due by time takes turns with
//! them ([`Committer::due_first`]), and happens, too, when none waits ([`Committer::next_due`]).

mod asked;
pub(crate) mod bounds;
mod building;
mod held;
mod room;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use plenum_core::{Core, Decided};
use plenum_model::planted::{self, Bug};
use plenum_model::{Cell, Command, Decision, Delta, JobChange, JobState, LogTime, Revision, TransactionOutcome};

use crate::planted_bugs;
use crate::publish::LoggedBatch;
pub use asked::{Asked, SERVER};
use building::Building;
use held::held_bytes;
pub(crate) use held::outcome_bytes;
pub(crate) use room::{first_within, reports_within, stops_within};

/// Bounds of a batch.
#[derive(Clone, Copy, Debug)]
pub struct CommitOptions {
    /// A batch of so many bytes takes no further request. One request may take it above: by at most what a message may have.
    pub batch_bytes: usize,
    /// A batch of so many requests takes no further one.
    pub batch_requests: usize,
    /// Most bytes that what one request sets off may come to, as far as that is known before it is decided.
    pub effect_bytes: usize,
    /// Most bytes in the log that one request may come to, with its answer and what it changes: measured once it is decided, and before
    /// it takes effect. With a batch that takes no further request it must fit a frame.
    pub entry_bytes: usize,
}

impl Default for CommitOptions {
    /// 1 MiB, because 64 KiB cost a sync only 10% more than 4 KiB and 1 MiB about twice; 4096 requests, so that one batch of single
    /// claims takes about as long as its sync. An effect of 8 MiB fits a frame of the log beside them. An entry may have
    /// what is left of the largest frame; smaller segments lower that (`Settings::commit_options`).
    fn default() -> Self {
        Self { batch_bytes: 1 << 20, batch_requests: 4096, effect_bytes: 8 << 20, entry_bytes: 62 << 20 }
    }
}

/// What happens to a committer. `T` is whatever the caller needs to find the asker again.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all of them are requests, and a box would cost each an allocation"
)]
pub enum Input<T> {
    /// Somebody asks; the server itself does without a ticket.
    Request {
        /// Comes back with the answer.
        ticket: Option<T>,
        /// What is asked.
        asked: Asked,
    },
    /// Time passed: see [`Committer::next_due`].
    Tick,
    /// Somebody wants a snapshot of the cell: one is taken when the batch that is being built is whole, and handed out when it is
    /// durable. Asked twice meanwhile, there is one; it may be older than the second wish, which is then to be repeated.
    Snapshot,
    /// The batch in flight is durable.
    Durable,
    /// The batch in flight could not be written, or nobody knows.
    Failed,
}

/// What a committer wants done.
#[derive(Debug)]
pub enum Output<T> {
    /// Append this to the journal and sync it; then say [`Input::Durable`] or [`Input::Failed`]. There is no second one meanwhile.
    Write(Batch),
    /// This is durable: show it.
    Publish(Published),
    /// A snapshot that was asked for, of a durable revision that has been published.
    Snapshot(Box<Cell>),
    /// Answer this request. What it speaks of has been published.
    Answer {
        /// Whose.
        ticket: T,
        /// The durable revision that it was judged on; if it changed something, its own.
        at: Revision,
        /// How it was answered.
        answer: Answer,
    },
}

/// How a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Decided now, and something changed.
    Changed(Decision),
    /// Decided now, and nothing changed: it was rejected, a dry run, or there was nothing to do.
    Unchanged(Decision),
    /// Decided before, at this revision: the answer given then stands in the log.
    Repeated(Revision),
}

/// A batch to be written.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The term of this server.
    pub term: u64,
    /// Its first revision.
    pub first: Revision,
    /// Its last revision.
    pub last: Revision,
    /// An encoded `LogBatch`.
    pub bytes: Bytes,
}

/// A batch that became durable.
#[derive(Debug)]
pub struct Published {
    /// As logged.
    pub batch: Arc<LoggedBatch>,
    /// The same deltas, decoded: one for each revision.
    pub deltas: Vec<Delta>,
    /// The transactions among its revisions, rising.
    pub transactions: Vec<TransactionNote>,
}

/// What is counted of a transaction, noted while it is at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionNote {
    /// At which it was decided.
    pub revision: Revision,
    /// Whose it was.
    pub scheduler: Arc<str>,
    /// What became of it.
    pub outcome: TransactionOutcome,
    /// Claims that were granted.
    pub granted: u32,
    /// Whether something was refused: the answer says what.
    pub refused: bool,
    /// Jobs that were granted something for the first time.
    pub started: Vec<StartedJob>,
}

/// A job that is not waiting any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartedJob {
    /// From its submission to its first grant.
    pub waited_micros: i64,
    /// Some of its tasks had to be granted at once.
    pub is_gang: bool,
}

/// A snapshot on its way to readers.
#[derive(Debug, Default)]
enum Snapshot {
    #[default]
    NotWanted,
    /// To be taken when the batch that is being built is whole.
    Wanted,
    /// Waits to be durable.
    Taken(Box<Cell>),
}

/// Decides, gathers and answers. Exactly one batch is in flight at any time, or none.
#[derive(Debug)]
pub struct Committer<T> {
    core: Core,
    options: CommitOptions,
    building: Building,
    in_flight: Option<Published>,
    durable: Revision,
    /// Answers that wait for their revision to be durable. Invariant: revisions never fall.
    waiting: VecDeque<Waiting<T>>,
    /// What they hold that stands in no batch.
    waiting_bytes: usize,
    outputs: VecDeque<Output<T>>,
    /// The due time at which a tick changed nothing: no reason to tick again.
    idle_tick: Option<LogTime>,
    /// No request was decided since the last tick.
    ticked: bool,
    tick: Asked,
    /// This start of the server stands in the log. Nothing happens by itself before.
    opened: bool,
    snapshot: Snapshot,
    failed: bool,
}

#[derive(Debug)]
struct Waiting<T> {
    ticket: T,
    at: Revision,
    answer: Answer,
}

impl<T> Committer<T> {
    /// A committer whose core's state is durable.
    #[must_use]
    pub fn new(core: Core, options: CommitOptions) -> Self {
        let durable = core.cell().revision();
        Self {
            options,
            building: Building::new(bounds::to_wire(core.options())),
            core,
            in_flight: None,
            durable,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            outputs: VecDeque::new(),
            idle_tick: None,
            ticked: false,
            tick: Asked::by_server(Command::Tick),
            opened: false,
            snapshot: Snapshot::NotWanted,
            failed: false,
        }
    }

    /// The newest state, durable or not: never to be shown.
    #[must_use]
    pub fn undurable_cell(&self) -> &Cell {
        self.core.cell()
    }

    /// The last revision that is durable.
    #[must_use]
    pub fn durable(&self) -> Revision {
        self.durable
    }

    /// Whether a batch is in flight, or waits to be.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.in_flight.is_some() || self.building.requests() > 0
    }

    /// Requests that have changed something since the batch in flight.
    #[must_use]
    pub fn building_requests(&self) -> u64 {
        self.building.requests() as u64
    }

    /// How many bytes they come to.
    #[must_use]
    pub fn building_bytes(&self) -> usize {
        self.building.len_bytes()
    }

    /// Whether a request may be handed over now. False while a full batch waits for the one in flight, or as much as a batch waits for it
    /// that goes into none, and after a failure.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.failed
            && self.building.len_bytes() < self.options.batch_bytes
            && self.waiting_bytes < self.options.batch_bytes
            && self.waiting.len() < 2 * self.options.batch_requests
            && self.building.requests() < self.options.batch_requests
    }

    /// Brings what the next requests will touch into the cache. Nothing but speed depends on it.
    pub fn warm<'a>(&self, requests: impl Iterator<Item = &'a Asked> + Clone) {
        self.core.warm(requests.map(Asked::request));
    }

    /// Takes back deltas of a batch that nobody needs any more: their memory serves the next ones. Nothing but speed depends on it.
    pub fn reuse_deltas(&mut self, mut deltas: Vec<Delta>) {
        deltas.drain(..).for_each(|delta| self.core.reuse_delta(delta));
        self.building.reuse(deltas);
    }

    /// Takes back an answer that nobody needs any more, as [`Committer::reuse_deltas`] does.
    pub fn reuse_answer(&mut self, answer: Answer) {
        if let Answer::Changed(Decision::Outcome(outcome)) = answer {
            self.core.reuse_outcome(*outcome);
        }
    }

    /// When [`Input::Tick`] would change something; `None`: not before something else happens. The first is always `OpenServer`: what is
    /// overdue since the last start is decided in this one, with its options and under its term.
    #[must_use]
    pub fn next_due(&self) -> Option<LogTime> {
        if !self.opened {
            return None;
        }
        let due = self.core.next_due().filter(|due| self.idle_tick != Some(*due))?;
        // A batch has one time. While a later one is due, its tick belongs to the next batch.
        let in_this_batch = self.building.time().is_none_or(|time| due <= time);
        (in_this_batch && self.has_room()).then_some(due)
    }

    /// When [`Input::Tick`] is to come before the next request, which waits: behind one that fills a batch by itself there is no room, and each
    /// may be such a one. `None` until a request was decided since the last tick: a tick may fill a batch, too, and there may be many.
    #[must_use]
    pub fn due_first(&self) -> Option<LogTime> {
        if self.ticked { None } else { self.next_due() }
    }

    /// As [`Core::next_forfeit`] has it.
    #[must_use]
    pub fn next_forfeit(&self) -> Option<LogTime> {
        self.core.next_forfeit()
    }

    /// Whether [`Input::Tick`] at `now` would take something from who could have kept it with a word: see [`Core::next_forfeit`].
    #[must_use]
    pub fn forfeits_by(&self, now: LogTime) -> bool {
        self.core.next_forfeit().is_some_and(|due| due <= self.log_time(now))
    }

    /// As [`Core::held_back_since`] has it.
    #[must_use]
    pub fn held_back_since(&self) -> Option<LogTime> {
        self.core.held_back_since()
    }

    /// As [`Core::held_back`] has it.
    pub fn held_back(&self) -> impl Iterator<Item = LogTime> {
        self.core.held_back()
    }

    /// As [`Core::held_back_changes`] has it.
    #[must_use]
    pub fn held_back_changes(&self) -> u64 {
        self.core.held_back_changes()
    }

    /// Takes what happened. `now` may be any clock's: log time never goes backwards, whatever it says.
    pub fn handle(&mut self, now: LogTime, input: Input<T>) {
        if self.failed {
            return;
        }
        match input {
            Input::Request { ticket, asked } => self.decide(now, ticket, &asked),
            Input::Tick => self.tick(now),
            Input::Snapshot => self.want_snapshot(),
            Input::Durable => self.durable_now(),
            Input::Failed => self.fail(),
        }
    }

    /// What is to be done next; `None`: nothing before the next input. Gives the next batch to write only when everything else was
    /// taken, so that whoever hands over all that has arrived before polling gets the largest batches.
    pub fn poll(&mut self) -> Option<Output<T>> {
        self.poll_from(0)
    }

    /// The same; but a batch that has fewer bytes waits for more requests, or for a poll that takes smaller ones.
    pub fn poll_from(&mut self, least_bytes: usize) -> Option<Output<T>> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        self.next_batch(least_bytes).map(Output::Write)
    }

    /// The next batch to write, if none is in flight and it has so many bytes: what came of the one before may be told while the disk
    /// is at work. A caller that writes while everybody waits polls instead.
    pub fn next_batch(&mut self, least_bytes: usize) -> Option<Batch> {
        if self.in_flight.is_some() || self.failed || self.building.len_bytes() < least_bytes {
            return None;
        }
        let published = self.building.finish()?;
        if matches!(self.snapshot, Snapshot::Wanted) {
            // What is decided later belongs to a later batch: a page that it changes is copied then.
            self.snapshot = Snapshot::Taken(Box::new(self.core.cell().clone()));
        }
        if planted::strikes(Bug::LosesBatches, 7) {
            return None;
        }
        let (first, last) = (published.batch.first(), published.batch.last());
        let bytes = planted_bugs::logged(&published.batch);
        self.in_flight = Some(published);
        Some(Batch { term: self.core.cell().identity().term, first, last, bytes })
    }

    fn decide(&mut self, now: LogTime, ticket: Option<T>, asked: &Asked) {
        self.ticked = false;
        let answer = self.judge(now, asked);
        self.opened |=
            matches!(asked.request().command, Command::OpenServer(_)) && matches!(answer, Answer::Changed(_));
        if let Some(ticket) = ticket {
            let at = self.core.cell().revision();
            self.answer_when_durable(Waiting { ticket, at, answer });
        }
    }

    /// The time of what is decided at `now`: a batch has one.
    fn log_time(&self, now: LogTime) -> LogTime {
        self.building.time().unwrap_or_else(|| now.max(self.core.cell().time()))
    }

    fn judge(&mut self, now: LogTime, asked: &Asked) -> Answer {
        if let Some(rejection) = room::too_much(self.core.cell(), asked, self.options.effect_bytes) {
            return Answer::Unchanged(Decision::Rejected(rejection));
        }
        let time = self.log_time(now);
        // It has to be encoded all the same; once it has taken effect, it would be too late.
        let mut starts_over = None;
        let fits = |decision: &Decision, delta: &Delta| {
            room::has_rows(delta)?;
            let bytes = self.building.encode(&asked.encoded, decision, delta);
            let fits = room::fits(bytes, self.options.entry_bytes, delta);
            starts_over = fits.as_ref().err().and_then(|_| room::starts_over(delta));
            fits
        };
        match self.core.decide_if(asked.request(), time, fits) {
            Decided::Changed { decision, delta } => {
                self.idle_tick = None;
                let note = self.note(&decision, &delta);
                self.building.add(&asked.encoded, delta, note);
                Answer::Changed(decision)
            }
            Decided::Unchanged(mut decision) => {
                if let (Decision::Rejected(rejection), Some(group_row)) = (&mut decision, starts_over) {
                    room::name_job_to_stop(rejection, self.core.cell(), group_row);
                }
                Answer::Unchanged(decision)
            }
            Decided::Repeated(revision) => Answer::Repeated(revision),
        }
    }

    fn note(&self, decision: &Decision, delta: &Delta) -> Option<TransactionNote> {
        let Decision::Outcome(outcome) = decision else { return None };
        let session = self.core.cell().session(outcome.id.session)?;
        let started = |change: &JobChange| match change {
            JobChange::State { id, state: JobState::Running, .. } => self.core.cell().job(*id),
            _ => None,
        };
        let started = delta.jobs.iter().filter_map(started).map(|job| StartedJob {
            waited_micros: delta.time.micros.saturating_sub(job.submitted.micros),
            is_gang: job.shape.groups.iter().any(|group| group.min > 1),
        });
        Some(TransactionNote {
            revision: outcome.revision,
            scheduler: session.scheduler.clone(),
            outcome: outcome.outcome,
            granted: u32::try_from(outcome.granted()).unwrap_or(u32::MAX),
            refused: !outcome.refusals.is_empty(),
            started: started.collect(),
        })
    }

    /// A snapshot is of a whole batch, or it would show a part of one that may be lost. One that is taken already is shown first:
    /// whoever needs a later one asks again.
    fn want_snapshot(&mut self) {
        if matches!(self.snapshot, Snapshot::Taken(_)) {
            return;
        }
        if self.building.requests() > 0 {
            self.snapshot = Snapshot::Wanted;
            return;
        }
        let cell = Box::new(self.core.cell().clone());
        if cell.revision() <= self.durable || planted::is(Bug::ShowsTooSoon) {
            self.snapshot = Snapshot::NotWanted;
            self.outputs.push_back(Output::Snapshot(cell));
        } else {
            self.snapshot = Snapshot::Taken(cell);
        }
    }

    fn show_snapshot(&mut self) {
        match std::mem::take(&mut self.snapshot) {
            Snapshot::Taken(cell) if cell.revision() <= self.durable => self.outputs.push_back(Output::Snapshot(cell)),
            other => self.snapshot = other,
        }
    }

    fn tick(&mut self, now: LogTime) {
        self.ticked = true;
        let due = self.core.next_due().filter(|due| *due <= now && self.opened);
        if due.is_none() {
            return;
        }
        let before = self.core.cell().revision();
        let tick = self.tick.clone();
        self.judge(now, &tick);
        if self.core.cell().revision() == before {
            self.idle_tick = due;
        }
    }

    fn answer_when_durable(&mut self, waiting: Waiting<T>) {
        if waiting.at <= self.durable || planted::is(Bug::AnswersAtOnce) {
            self.outputs.push_back(waiting.into_output());
        } else {
            self.waiting_bytes += held_bytes(&waiting.answer);
            self.waiting.push_back(waiting);
        }
    }

    fn durable_now(&mut self) {
        let Some(published) = self.in_flight.take() else { return };
        if planted::strikes(Bug::ForgetsToPublish, 7) {
            return;
        }
        self.durable = published.batch.last();
        self.outputs.push_back(Output::Publish(published));
        self.show_snapshot();
        while self.waiting.front().is_some_and(|waiting| waiting.at <= self.durable)
            && let Some(waiting) = self.waiting.pop_front()
        {
            self.waiting_bytes -= held_bytes(&waiting.answer);
            self.outputs.push_back(waiting.into_output());
        }
    }

    fn fail(&mut self) {
        self.failed = true;
        self.in_flight = None;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.outputs.clear();
        self.snapshot = Snapshot::NotWanted;
    }
}

impl<T> Waiting<T> {
    fn into_output(self) -> Output<T> {
        Output::Answer { ticket: self.ticket, at: self.at, answer: self.answer }
    }
}
