//! Streams of watchers: the shell around [`SyncSession`].

#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use plenum_model::{Command, Decision, JobId, Revision, SessionId, TransactionId};
use plenum_proto::fields::{fields, number};
use plenum_proto::sections::Sections;
use plenum_proto::v1;
use prost::Message;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status, Streaming};

use super::hello;
use super::missed;
use super::session::{Ask, Request, Response};
use super::without_room;
use crate::api::cell::{leaves_nothing_out, no_such_session};
use crate::api::edge::budget::{Budget, SMALL_BYTES, Share};
use crate::api::edge::unread::Carried;
use crate::api::failure::Failure;
use crate::api::past::retired;
use crate::authorise::Principal;
use crate::commit::Asked;
use crate::ingress::{Reply, Told};
use crate::notes::Note;
use crate::sessions::{HighestQueued, Over};
use crate::shared::Shared;
use crate::sync::{self, Lent, OutcomeBounds, Resume, Step, SyncSession};
use crate::tasks::on_a_thread;

/// Handfuls of messages between a stream and its connection: with the largest message this bounds what a slow reader holds. Of what may be large and
/// is made for one stream alone, the parts of a picture and large outcomes, one is made at a time.
pub(in crate::api) const HANDFULS_MAX: usize = 4;
/// Outcomes in one of them: for more it is not worth having the first ones wait.
const HANDFUL_MAX: usize = 32;

/// How long a large outcome for which there was no room waits before it is looked for again: at first hardly longer than what is in the way takes to be
/// sent, and twice as long each time that there is none.
const ROOM_PAUSE_MICROS_MIN: i64 = 50_000;
const ROOM_PAUSE_MICROS_MAX: i64 = 1_000_000;

/// Requests of so many bytes are queued before others are looked at: from then on the queue's bounds hold for them.
const TAKEN_BYTES_MAX: usize = 64 << 10;

/// When who has seen more than there is asks again, as the SDK does: the copy that went on may be in its place by then.
const AHEAD_RETRY: Duration = Duration::from_secs(2);

/// Where messages go: several small ones at a time, or one that may be large.
pub(in crate::api) type Out = mpsc::Sender<Vec<Result<Response, Status>>>;

/// What a stream belongs to.
pub(in crate::api) struct Owner {
    pub(in crate::api) principal: Principal,
    pub(in crate::api) namespace: Arc<str>,
    pub(in crate::api) session: SessionId,
}

/// A stream being served.
pub(in crate::api) struct Watcher {
    shared: Arc<Shared>,
    owner: Owner,
    sync: SyncSession,
    /// What was queued of the session, by whatever stream.
    queued: Arc<HighestQueued>,
    /// Whether the session is over.
    over: Arc<Over>,
    /// Comes back with answers.
    answers: mpsc::UnboundedSender<(u64, Told)>,
    outstanding: usize,
    /// Not queued yet: those that came together are queued together.
    taken: Vec<(Asked, Reply)>,
    taken_bytes: usize,
    /// For the outcome that comes next, which is large.
    room: Option<Share>,
    /// How long it waits if there is none.
    room_pause_micros: i64,
    carried: Carried,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.let_go(true);
    }
}

impl Watcher {
    /// The sections that a stream is to tell, or why there can be none. To be asked before a session is looked for or opened for it, too:
    /// one that was opened for a stream that is refused is nobody's, and that one is missing here says nothing to who means another cell.
    pub(in crate::api) fn check(
        shared: &Shared,
        principal: &Principal,
        hello: &v1::Hello,
    ) -> Result<Sections, Failure> {
        hello::names_its_incarnations(hello)?;
        let sections = Sections::from_wire(&hello.sections)?;
        if sections.has(v1::Section::Bodies) && !principal.may_read_bodies() {
            let message = format!("{} may not read what jobs do; leave BODIES out", principal.text());
            return Err(Failure::new(Code::PermissionDenied, "NOT_PERMITTED", message));
        }
        let newest = shared.recent.read().newest();
        sync::check(hello, &shared.identity, shared.opened_at, newest).map_err(|unknown| match unknown {
            sync::Unknown::Cell => Failure::other_cell(&shared.identity.cell_id),
            sync::Unknown::Future { what, found, .. } => {
                // Who does not say which cell it means may mean another one.
                if !hello.cell_id.is_empty() {
                    shared.ahead.take(principal.text(), &what.told(found), shared.clock.monotonic_micros());
                }
                Failure::new(Code::OutOfRange, "NO_SUCH_REVISION", unknown.to_string()).retry(AHEAD_RETRY)
            }
        })?;
        Ok(sections)
    }

    pub(in crate::api) fn new(
        shared: Arc<Shared>,
        owner: Owner,
        hello: &v1::Hello,
        answers: mpsc::UnboundedSender<(u64, Told)>,
    ) -> Result<Self, Failure> {
        let sections = Self::check(&shared, &owner.principal, hello)?;
        let resume = Resume { incarnation: hello.incarnation, revision: Revision(hello.revision) };
        let now = shared.clock.monotonic_micros();
        let sync =
            SyncSession::new(shared.settings.sync, shared.identity.clone(), owner.session, sections, resume, now)
                .taking(shared.settings.message_bytes_max)
                .telling_time(shared.clock.start_micros());
        let sessions = shared.sessions.lock();
        let (queued, over) = (sessions.queued(owner.session), sessions.over(owner.session));
        drop(sessions);
        Ok(Self {
            shared,
            owner,
            sync,
            queued,
            over,
            answers,
            outstanding: 0,
            taken: Vec::new(),
            taken_bytes: 0,
            room: None,
            room_pause_micros: ROOM_PAUSE_MICROS_MIN,
            carried: Carried::default(),
        })
    }

    /// Has large outcomes keep their room in the body that has this, too.
    pub(in crate::api) fn carried_by(mut self, carried: Carried) -> Self {
        self.carried = carried;
        self
    }

    /// Serves until either side ends. `inbound` is missing for those who only watch.
    pub(in crate::api) async fn run(
        mut self,
        mut inbound: Option<Streaming<Request>>,
        mut answers: mpsc::UnboundedReceiver<(u64, Told)>,
        out: Out,
    ) {
        let mut durable = self.shared.durable.subscribe();
        let ending = self.shared.clone();
        let mut ended = std::pin::pin!(ending.ended());
        let (only_watches, follows) = (inbound.is_none(), self.sync.follows_the_cell());
        let mut wake = Wake { due: true, micros: i64::MAX, timer: Box::pin(tokio::time::sleep(Duration::MAX)) };
        loop {
            if self.send_due(&out, &mut wake).await.is_err() {
                return;
            }
            // Whoever asks no more and has all answers is done.
            if !only_watches && inbound.is_none() && self.unsent() == 0 {
                return;
            }
            // In a session that is over nothing is decided any more, and what is said of waiting jobs is heard by nobody.
            let is_over = !only_watches && self.over.is_so();
            if is_over && self.unsent() == 0 {
                drop(out.send(vec![Err(no_such_session(self.owner.session).into_status())]).await);
                return;
            }
            // Whoever asks and does not read the answers is not read from either.
            let reads = !is_over && self.unsent() < self.shared.settings.outstanding;
            tokio::select! {
                first = next(&mut inbound), if inbound.is_some() && reads => {
                    if self.take(first, &mut inbound, &out).await.is_err() {
                        return;
                    }
                    // What was refused at once; the others are not decided yet.
                    wake.due |= self.sync.answers_waiting() > 0;
                }
                Some((number, told)) = answers.recv() => {
                    self.answered(number, told);
                    // All that have come are sent before anything else is looked at.
                    while let Ok((number, told)) = answers.try_recv() {
                        self.answered(number, told);
                    }
                    wake.due = true;
                }
                // Room for what is due.
                permits = out.reserve_many(self.room_for_next(&out)), if wake.due => drop(permits),
                changed = durable.changed(), if follows => {
                    wake.due = true;
                    if changed.is_err() {
                        return;
                    }
                }
                () = wake.timer.as_mut(), if !wake.due => (wake.due, wake.micros) = (true, i64::MAX),
                () = ended.as_mut() => {
                    let ending = if only_watches { Failure::ending() } else { Failure::ending_with_a_session() };
                    drop(out.send(vec![Err(ending.into_status())]).await);
                    return;
                }
            }
        }
    }

    /// Sends what is due, as far as there is room.
    async fn send_due(&mut self, out: &Out, wake: &mut Wake) -> Result<(), Gone> {
        while wake.due {
            let mut permits = match out.try_reserve_many(self.room_for_next(out)) {
                Ok(permits) => permits,
                Err(TrySendError::Full(())) => break,
                Err(TrySendError::Closed(())) => return Err(Gone),
            };
            let (handful, last) = self.handful();
            if !handful.is_empty()
                && let Some(permit) = permits.next()
            {
                permit.send(handful);
            }
            drop(permits);
            match last {
                Last::NeedsSnapshot => {
                    let lent = apart(lent(self.shared.clone())).await.ok_or(Gone)?;
                    self.sync.snapshot(lent, self.shared.clock.monotonic_micros());
                }
                Last::NeedsMissed(after) => {
                    let shared = self.shared.clone();
                    let missed = apart(async move { missed::after(&shared, after).await }).await;
                    self.sync.missed(missed.ok_or(Gone)?);
                }
                Last::NeedsAnswer(at, number) => {
                    let read = apart(read_back(self.shared.clone(), at, self.room.take())).await;
                    self.read_back(number, read.ok_or(Gone)?);
                }
                Last::NeedsRoom(bytes) => match room_of(&self.shared.unread, bytes) {
                    Some(room) => {
                        self.room_pause_micros = ROOM_PAUSE_MICROS_MIN;
                        self.room = Some(room);
                    }
                    None => self.wait_for_room(bytes),
                },
                Last::Waits(until_micros) => {
                    wake.due = false;
                    if wake.micros != until_micros {
                        wake.micros = until_micros;
                        wake.timer.as_mut().reset(self.instant_of(until_micros));
                    }
                }
                Last::HasMore => {}
            }
        }
        Ok(())
    }

    /// Takes a message, and those that came together with it: looking at everything else in between costs as much as a request.
    async fn take(
        &mut self,
        first: Result<Option<Request>, Status>,
        inbound: &mut Option<Streaming<Request>>,
        out: &Out,
    ) -> Result<(), Gone> {
        let (mut message, mut taken) = (Some(first), 0);
        while let Some(received) = message {
            match received {
                Ok(Some(Request { ask: Some(Ask::PassedOver(notes)) })) => {
                    self.submit();
                    self.passed_over(notes);
                }
                Ok(Some(message)) => self.asked(message),
                Ok(None) => {
                    *inbound = None;
                    break;
                }
                Err(status) => {
                    self.submit();
                    if let Some(failure) = unreadable(&self.shared, &status) {
                        // It comes after what waits already: a stream that ends without it looks like one that is done.
                        drop(out.send(vec![Err(failure.into_status())]).await);
                    }
                    return Err(Gone);
                }
            }
            taken += 1;
            let goes_on = taken < HANDFUL_MAX && self.unsent() < self.shared.settings.outstanding;
            message = if goes_on { at_hand(next(inbound)).await } else { None };
        }
        self.submit();
        Ok(())
    }

    /// Queues what was taken.
    fn submit(&mut self) {
        // Its room is not kept: there may be thousands of streams that have nothing to ask for now.
        let taken = std::mem::take(&mut self.taken);
        if taken.is_empty() {
            return;
        }
        self.taken_bytes = 0;
        self.outstanding += taken.len();
        let mut no_room = Vec::new();
        for refused in self.shared.submit_all(taken.into_iter(), Some((&*self.queued, 1))) {
            if refused.asked.is_some() {
                no_room.push(refused);
                continue;
            }
            self.outstanding -= 1;
            if let Reply::Session { number, .. } = refused.reply {
                self.sync.error(Revision(0), error(number, &refused.failure));
            }
        }
        if !no_room.is_empty() {
            let shared = self.shared.clone();
            tokio::spawn(async move {
                without_room::tell(no_room, shared.identity.incarnation, without_room::cell_at_hand(&shared)).await;
            });
        }
    }

    /// Handfuls that there has to be room for before the next one is made.
    fn room_for_next(&self, out: &Out) -> usize {
        if self.sync.sends_snapshot() || self.room.is_some() { out.max_capacity() } else { 1 }
    }

    /// A large outcome stays where it is, and its number here, until there is room for it. Nobody tells when there is: what gives it back may be
    /// in any connection.
    fn wait_for_room(&mut self, bytes: usize) {
        let until_micros = self.shared.clock.monotonic_micros().saturating_add(self.room_pause_micros);
        self.room_pause_micros = (self.room_pause_micros * 2).min(ROOM_PAUSE_MICROS_MAX);
        self.sync.no_room(bytes, until_micros);
    }

    /// Hands over what was read of an outcome that is not recent any more.
    fn read_back(&mut self, number: u64, read: ReadBack) {
        let answer = match read {
            ReadBack::Small(encoded) => Ok(encoded),
            ReadBack::Large(encoded, room) => {
                self.room_pause_micros = ROOM_PAUSE_MICROS_MIN;
                Ok(self.carried.message(encoded, room))
            }
            ReadBack::NoRoom(bytes) => return self.wait_for_room(bytes),
            ReadBack::Failed(failure) => Err(error(number, &failure)),
        };
        self.sync.read_back(answer);
    }

    /// Outcomes, as many as there are and as go into a message's bytes, or one that has more; or one other message; and what comes after them.
    fn handful(&mut self) -> (Vec<Result<Response, Status>>, Last) {
        let (mut handful, mut left) = (Vec::new(), self.shared.settings.sync.message_bytes);
        let mut room = self.room.take();
        let logged = if room.is_some() { usize::MAX } else { SMALL_BYTES };
        let mut bounds = OutcomeBounds { logged, ..OutcomeBounds::NONE };
        while handful.len() < HANDFUL_MAX && left > 0 {
            self.sync.bound_outcomes(bounds);
            match self.step() {
                Step::Send(message) => {
                    handful.push(Ok(message.into()));
                    break;
                }
                Step::SendOutcome(encoded) => {
                    left = left.saturating_sub(encoded.len());
                    let most = left.min(SMALL_BYTES);
                    bounds = OutcomeBounds { logged: most, own: most };
                    let encoded = match room.take() {
                        Some(room) => self.carried.message(encoded, room),
                        None => encoded,
                    };
                    handful.push(Ok(Response::outcome(encoded)));
                }
                Step::NeedRoom { .. } if !handful.is_empty() => break,
                Step::NeedRoom { bytes } => return (handful, Last::NeedsRoom(bytes)),
                Step::NeedSnapshot => return (handful, Last::NeedsSnapshot),
                Step::NeedMissed(after) => return (handful, Last::NeedsMissed(after)),
                Step::NeedAnswer { at, number } => {
                    // It has left what is recent since its room was taken.
                    self.room = room;
                    return (handful, Last::NeedsAnswer(at, number));
                }
                Step::Wait { until_micros } => return (handful, Last::Waits(until_micros)),
            }
        }
        (handful, Last::HasMore)
    }

    /// Requests whose answers have not gone out: not decided yet, or decided or refused and not taken by the connection.
    fn unsent(&self) -> usize {
        self.taken.len() + self.outstanding + self.sync.answers_waiting()
    }

    fn step(&mut self) -> Step {
        let before = self.sync.resyncs();
        let now = self.shared.clock.monotonic_micros();
        let part = self.sync.poll_snapshot(now);
        if part.is_some() {
            // While it takes a snapshot it can send no pulse, and is heard of all the same.
            self.shared.pulses.lock().took(self.owner.session, now);
        }
        let step = part.unwrap_or_else(|| self.sync.poll(now, &self.shared.recent.read()));
        if self.sync.resyncs() > before {
            self.shared.metrics.resynced();
        }
        self.let_go(false);
        step
    }

    /// Lets go of a snapshot that is needed no more, on a thread for which nobody waits: it may be the last one that holds many pages.
    fn let_go(&mut self, all: bool) {
        if let Some(read) = self.sync.take_read(all)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(on_a_thread(&runtime, move || drop(read)));
        }
    }

    fn instant_of(&self, micros: i64) -> tokio::time::Instant {
        let left = micros.saturating_sub(self.shared.clock.monotonic_micros());
        tokio::time::Instant::now() + Duration::from_micros(u64::try_from(left).unwrap_or(0))
    }

    fn asked(&mut self, message: Request) {
        match message.ask {
            Some(Ask::Commit(transaction)) => {
                if let Err(failure) = self.commit(&transaction) {
                    // Those before it are refused first, if they are.
                    self.submit();
                    self.refuse(number_of(&transaction), &failure);
                }
            }
            Some(Ask::Hello(_)) => {
                self.refuse(0, &Failure::invalid("hello comes first, and once: another one needs another stream"))
            }
            Some(Ask::Pulse(pulse)) => self.shared.take_pulse(self.owner.session, pulse),
            // Notes have been taken before.
            Some(Ask::PassedOver(_)) => {}
            None => {
                self.refuse(0, &Failure::invalid("ask: expected hello, commit, passed_over or pulse, found nothing"))
            }
        }
    }

    fn commit(&mut self, transaction: &Bytes) -> Result<(), Failure> {
        let asked = Asked::commit(self.owner.principal.text(), &self.owner.namespace, transaction)?;
        let Command::Commit(content, digest) = &asked.request().command else {
            return Err(Failure::internal("a transaction became another request"));
        };
        let (expected, found) = (self.owner.session, content.id.session);
        if expected != found {
            let message = format!("session: expected {}, this stream's own, found {}", expected.0, found.0);
            return Err(Failure::invalid(message));
        }
        leaves_nothing_out(content)?;
        let (number, digest) = (content.id.number, *digest);
        // One that was queued before may be decided, by a server with larger bounds, too: the core looks that up, and measures what is new.
        if !self.queued.covers(number) {
            self.shared.check_size(&asked)?;
        }
        self.taken_bytes += asked.encoded_bytes();
        self.taken.push((asked, Reply::Session { number, digest, to: self.answers.clone() }));
        if self.taken_bytes >= TAKEN_BYTES_MAX {
            self.submit();
        }
        Ok(())
    }

    fn passed_over(&self, notes: v1::PassedOver) {
        pass_over(&self.shared, self.owner.session, notes);
    }

    fn answered(&mut self, number: u64, told: Told) {
        self.outstanding -= 1;
        match told {
            Told::Decided(at) => self.sync.decided(at, number),
            Told::Retired(rejected) => {
                // It is answered once more.
                self.outstanding += 1;
                let id = TransactionId { session: self.owner.session, number };
                tokio::spawn(retired::answer(self.shared.clone(), id, *rejected, self.answers.clone()));
            }
            Told::Refused(failure) => self.refuse(number, &failure),
            Told::DryRun(at, outcome, mut room) => {
                let encoded = v1::Outcome::from(&*outcome).encode_to_vec();
                room.keep(encoded.len());
                self.sync.outcome(at, self.carried.message(encoded.into(), room));
            }
            Told::Other(at, decision) => match outcome_of(decision) {
                Ok(encoded) => self.sync.outcome(at, encoded),
                Err(failure) => self.sync.error(at, error(number, &failure)),
            },
        }
    }

    fn refuse(&mut self, number: u64, failure: &Failure) {
        self.sync.error(Revision(0), error(number, failure));
    }
}

/// Waits for what is done on a task of its own; none when that ended without it. A stream is polled only while its connection has room: one whose
/// watcher does not read must have no turn meanwhile that others wait for.
pub(in crate::api) async fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let (mut done, told) = oneshot::channel();
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = done.closed() => return,
        };
        drop(done.send(outcome));
    });
    told.await.ok()
}

/// What was read of an outcome that is not recent any more.
enum ReadBack {
    Small(Bytes),
    /// It has its room.
    Large(Bytes, Share),
    /// There is none for so many bytes: nothing of it is kept.
    NoRoom(usize),
    Failed(Failure),
}

/// Reads what was decided then, with the room that it was given before, if it was. How large it is may be known only now; what has no room is given up
/// here, as what is told to a stream may wait for as long as its connection takes nothing.
async fn read_back(shared: Arc<Shared>, at: Revision, room: Option<Share>) -> ReadBack {
    match shared.read_back(at).await.map_err(Failure::of_what_was_decided).and_then(outcome_of) {
        Ok(encoded) if encoded.len() > SMALL_BYTES => match room.or_else(|| room_of(&shared.unread, encoded.len())) {
            Some(room) => ReadBack::Large(encoded, room),
            None => ReadBack::NoRoom(encoded.len()),
        },
        Ok(encoded) => ReadBack::Small(encoded),
        Err(failure) => ReadBack::Failed(failure),
    }
}

/// Room for a large outcome. One that has more than a quarter of all the room there is takes that: it would never go otherwise.
fn room_of(unread: &Arc<Budget>, bytes: usize) -> Option<Share> {
    Share::of_message(unread, bytes.min(unread.most() / 4), bytes)
}

/// A snapshot that is taken back from who reads it too slowly.
async fn lent(shared: Arc<Shared>) -> Arc<Lent> {
    let cell = shared.snapshot().await;
    let lent = Lent::new(cell, shared.clock.monotonic_micros());
    shared.lending.lend(&lent);
    lent
}

/// When a stream looks whether there is something to send. That comes before anything is waited for: to wait for six things costs more
/// than a small message does, and so does to set a timer anew for each.
struct Wake {
    /// There may be something.
    due: bool,
    /// When the timer goes off.
    micros: i64,
    timer: Pin<Box<tokio::time::Sleep>>,
}

/// The other side is gone, or was told why it has to go.
pub(in crate::api) struct Gone;

/// What a stream does after a handful of messages.
enum Last {
    /// Perhaps it has another one.
    HasMore,
    NeedsSnapshot,
    /// The deltas after this revision, which are not recent any more.
    NeedsMissed(Revision),
    /// It needs what was decided then, of the transaction of this number, which is not recent any more.
    NeedsAnswer(Revision, u64),
    /// It needs room for an outcome of so many bytes.
    NeedsRoom(usize),
    /// It has nothing to say before this time, or before something happens.
    Waits(i64),
}

/// Notes of one message that are taken.
pub(in crate::api) const NOTES_MAX: usize = 4096;

/// Takes what a scheduler says of its own jobs. What it says has to wait for a picture of the cell, and its answers must not.
pub(in crate::api) fn pass_over(shared: &Arc<Shared>, session: SessionId, notes: v1::PassedOver) {
    let addressed = |note: v1::PassedOverNote| {
        let v1::PassedOverNote { job, group, tasks, reason, revision, job_version: version, staying } = note;
        (job, group, Note { tasks, reason, revision, version, staying })
    };
    let notes = notes.notes.into_iter().take(NOTES_MAX).map(addressed);
    if shared.arrived.lock().add(session, notes) {
        tokio::spawn(take_notes(shared.clone()));
    }
}

/// Takes the notes that wait, of all sessions, until there are none. Of jobs of others a scheduler has nothing to say, and jobs that there are not
/// would push out those that there are.
async fn take_notes(shared: Arc<Shared>) {
    loop {
        let arrived = shared.arrived.lock().take();
        let Some(arrived) = arrived else { return };
        let cell = tokio::select! {
            cell = shared.picture_with(shared.durable_revision()) => cell,
            () = shared.ended() => return,
        };
        let mut known = shared.notes.lock();
        if known.is_full() {
            // Of those that are over nobody takes anything back whose scheduler is gone.
            known.retain(|id| cell.job(id).is_some_and(|job| !job.state.is_final()));
        }
        for (session, notes) in arrived {
            let Some(session) = cell.session(session) else { continue };
            for (job, group, note) in notes {
                let Some(job) = JobId::from_bits(job).and_then(|id| cell.job(id)) else { continue };
                let version = if note.version == 0 { job.version } else { note.version };
                let is_of_it = version == job.version && (group as usize) < job.shape.groups.len();
                if is_of_it && job.shape.scheduler == session.scheduler {
                    known.put(job.id, group, Note { version, ..note });
                }
            }
        }
    }
}

/// The number of an encoded transaction, the last one as decoding has it, for an answer that says what is wrong with it; 0 where there is none.
fn number_of(transaction: &[u8]) -> u64 {
    const NUMBER: u64 = 2;
    let field = fields(transaction).flatten().filter(|field| field.number == NUMBER).last();
    field.and_then(|field| number(&transaction[field.content])).unwrap_or(0)
}

/// What to say of a message that could not be taken; nothing where the other side is gone.
pub(in crate::api) fn unreadable(shared: &Shared, status: &Status) -> Option<Failure> {
    Failure::unreadable("a SessionRequest", shared.settings.message_bytes_max, status)
}

/// What is there without waiting.
async fn at_hand<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn next(inbound: &mut Option<Streaming<Request>>) -> Result<Option<Request>, Status> {
    match inbound {
        Some(inbound) => inbound.message().await,
        None => Ok(None),
    }
}

/// An encoded `Outcome`, or why a transaction has none.
fn outcome_of(decision: Decision) -> Result<Bytes, Failure> {
    match decision {
        Decision::Outcome(outcome) => Ok(v1::Outcome::from(outcome.as_ref()).encode_to_vec().into()),
        Decision::Rejected(rejection) => Err(rejection.into()),
        Decision::Accepted { .. } => Err(Failure::internal("a transaction was accepted without an outcome")),
    }
}

fn error(number: u64, failure: &Failure) -> v1::RequestError {
    v1::RequestError {
        number,
        status: match failure.status {
            Code::Ok => Code::Unknown.into(),
            status => status.into(),
        },
        code: failure.code.to_owned(),
        message: failure.message.clone(),
        retry_after_micros: i64::try_from(failure.retry_after.as_micros()).unwrap_or(i64::MAX),
    }
}
