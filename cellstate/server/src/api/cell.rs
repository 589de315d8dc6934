//! For schedulers: sessions, watching, and commits of simple clients.

mod hello;
mod missed;
pub(super) mod session;
mod simple;
pub(super) mod stream;
mod without_room;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use plenum_model::{Command, Decision, LogTime, Rejection, RejectionCode, SessionId, Transaction};
use plenum_proto::bounds::SPAN_MICROS_MAX;
use plenum_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};
use v1::command::Ask;

use super::edge::custom;
use super::edge::driven::Driven;
use super::edge::unread::{Carried, Effect};
use super::failure::{self, Failure};
use super::govern::{Holder, held_job};
use super::jobs::change;
use super::listing;
use super::past;
use super::past::retired::{self, Retired};
use super::principal;
use crate::authorise::{Principal, Role};
use crate::commit::{Answer, Asked};
use crate::ingress::Answered;
use crate::sessions::Owner as SessionOwner;
use crate::shared::{Refused, Shared};
use crate::tasks::sessions_interval;
use session::Ask as SessionAsk;
use stream::{HANDFULS_MAX, NOTES_MAX, Out, Owner, Watcher, apart, unreadable};

/// Messages down.
type Responses = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Status>> + Send>>;

/// `plenum.v1.Cell`.
pub(super) struct CellService {
    shared: Arc<Shared>,
}

impl CellService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// When a hold that is asked for now ends. The core's bound is counted from here, too, so that what it decides later is this very deadline and the answer
    /// can tell it: what the core keeps of a hold is not in its decision, and may be another one's by the time that somebody looks.
    fn hold_deadline(&self, within_micros: i64) -> LogTime {
        let most = self.shared.settings.core.hold_micros_max.min(SPAN_MICROS_MAX);
        self.shared.clock.now().plus_micros(within_micros.min(most))
    }

    /// Serves a session's stream.
    pub(super) fn serve(
        &self,
        request: Request<Streaming<session::Request>>,
    ) -> Result<Response<session::Responses>, Status> {
        let principal = principal(&request)?;
        let shared = self.shared.clone();
        let carried = Carried::default();
        let of_body = carried.clone();
        let messages = Driven::new(HANDFULS_MAX, |out: Out| async move {
            if let Err(failure) = serve_session(shared.clone(), principal, request.into_inner(), carried, &out).await {
                // Its headers are gone, and said nothing of it.
                if failure::is_denial(failure.code) {
                    shared.metrics.denied();
                }
                drop(out.send(vec![Err(failure.into_status())]).await);
            }
        });
        let mut response: Response<session::Responses> = Response::new(Box::pin(messages));
        response.extensions_mut().insert(of_body);
        Ok(response)
    }

    /// Whose a session of a simple client is, which is used now.
    async fn used(&self, principal: &Principal, session: u64, incarnation: u64) -> Result<SessionOwner, Failure> {
        of_this_incarnation(&self.shared, incarnation)?;
        let session = SessionId(session);
        let owner = usable(&self.shared, principal, session).await?;
        self.shared.sessions.lock().used(session, self.shared.clock.monotonic_micros());
        Ok(owner)
    }

    /// Decides a transaction that came as these bytes. They are judged before they are decoded: a few bytes may stand for a hundred in
    /// memory.
    pub(super) async fn commit_encoded(
        &self,
        request: Request<session::Encoded>,
    ) -> Result<Response<v1::Outcome>, Status> {
        let principal = principal(&request)?;
        let session::Encoded(encoded) = request.into_inner();
        let command = plenum_proto::transaction::commit(encoded.clone()).map_err(Failure::from)?;
        let Command::Commit(transaction, digest) = &command else {
            return Err(Failure::internal("a transaction became another request").into());
        };
        let (id, digest) = (transaction.id, *digest);
        leaves_nothing_out(transaction)?;
        let effect = if transaction.dry_run { Effect::Nothing } else { Effect::Decided };
        let namespace = self.used(&principal, transaction.id.session.0, transaction.incarnation).await?.namespace;
        let queued = self.shared.sessions.lock().queued(transaction.id.session);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let asked = Asked::committing(principal.text(), &namespace, command, &encoded);
        // As on a stream: one that was queued before may be decided.
        if !queued.covers(id.number) {
            self.shared.check_size(&asked)?;
        }
        let request = (asked, crate::ingress::Reply::Once(sender));
        let answered = match self.shared.submit_all(std::iter::once(request), Some((&*queued, 0))).pop() {
            None => receiver.await.map_err(|_| Failure::outcome_unknown())?,
            Some(Refused { failure, asked: None, .. }) => return Err(failure.into()),
            Some(Refused { failure, asked: Some(asked), .. }) => {
                let cell = without_room::cell_at_hand(&self.shared).await;
                let incarnation = self.shared.identity.incarnation;
                let at =
                    cell.and_then(|cell| without_room::decided_before(&cell, incarnation, &asked)).ok_or(failure)?;
                Answered { at, answer: Answer::Repeated(at) }
            }
        };
        let answered = match answered {
            Answered { at, answer: Answer::Unchanged(Decision::Rejected(rejection)) }
                if rejection.may_have_been_decided() =>
            {
                let retired = Retired { digest, at, rejection };
                let at = retired::decided_at(&self.shared, id, retired).await?;
                Answered { at, answer: Answer::Repeated(at) }
            }
            answered => answered,
        };
        match self.shared.decision(answered).await.map_err(Failure::of_what_was_decided)?.decision {
            Decision::Outcome(outcome) => {
                let mut response = Response::new(outcome.as_ref().into());
                response.extensions_mut().insert(effect);
                Ok(response)
            }
            Decision::Rejected(rejection) => Err(Failure::from(rejection).into()),
            Decision::Accepted { .. } => Err(Failure::internal("a transaction was accepted without an outcome").into()),
        }
    }
}

#[tonic::async_trait]
impl v1::cell_server::Cell for CellService {
    type SessionStream = Responses;
    type WatchStream = Responses;

    /// Never called: [`self::session::CellServer`] takes these calls, and serves them by [`CellService::serve`].
    async fn session(&self, _: Request<Streaming<v1::SessionRequest>>) -> Result<Response<Responses>, Status> {
        Err(Failure::internal("sessions are served elsewhere").into())
    }

    async fn watch(&self, request: Request<v1::Hello>) -> Result<Response<Responses>, Status> {
        let principal = principal(&request)?;
        let hello = request.into_inner();
        hello::has_no_session(&hello)?;
        let owner = Owner { principal, namespace: Arc::from(""), session: SessionId(0) };
        let (answers, answered) = mpsc::unbounded_channel();
        let watcher = Watcher::new(self.shared.clone(), owner, &hello, answers)?;
        let messages = Driven::new(HANDFULS_MAX, |out| watcher.run(None, answered, out));
        let messages = messages.map(|message| message.and_then(session::Response::decoded));
        Ok(Response::new(Box::pin(messages)))
    }

    async fn open(&self, request: Request<v1::OpenRequest>) -> Result<Response<v1::OpenResponse>, Status> {
        let principal = principal(&request)?;
        let wire = request.into_inner();
        let session = open_session(&self.shared, &principal, &wire.namespace, &wire.scheduler).await?;
        self.shared.sessions.lock().used(session, self.shared.clock.monotonic_micros());
        let revision = self.shared.durable_revision().0;
        let incarnation = self.shared.identity.incarnation;
        let cell_id = bytes::Bytes::copy_from_slice(&self.shared.identity.cell_id);
        Ok(Response::new(v1::OpenResponse { session: session.0, incarnation, revision, cell_id }))
    }

    async fn wanted(&self, request: Request<v1::WantedRequest>) -> Result<Response<v1::WantedResponse>, Status> {
        let principal = principal(&request)?;
        let wire = request.into_inner();
        let owner = self.used(&principal, wire.session, wire.incarnation).await?;
        let limit = listing::limit(wire.limit, self.shared.settings.listing_rows);
        let (cell, now) = (past::to_place(&self.shared).await?, self.shared.clock.now());
        let start = (wire.start_job, wire.start_group);
        let listed = cell.read(move |cell| Ok(simple::wanted_of(cell, &owner, now, limit, start)));
        Ok(Response::new(listed.await?))
    }

    async fn pass_over(&self, request: Request<v1::PassOverRequest>) -> Result<Response<v1::PassOverResponse>, Status> {
        let principal = principal(&request)?;
        let wire = request.into_inner();
        self.used(&principal, wire.session, wire.incarnation).await?;
        let notes = wire.passed_over.unwrap_or_default();
        if notes.notes.len() > NOTES_MAX {
            let message =
                format!("passed_over.notes: expected at most {NOTES_MAX} at once, found {}", notes.notes.len());
            return Err(Failure::invalid(message).into());
        }
        stream::pass_over(&self.shared, SessionId(wire.session), notes);
        Ok(Response::new(v1::PassOverResponse {}))
    }

    /// Never called: [`self::session::CellServer`] takes these calls, too, and serves them by [`CellService::commit_encoded`].
    async fn commit(&self, _: Request<v1::Transaction>) -> Result<Response<v1::Outcome>, Status> {
        Err(Failure::internal("transactions are served elsewhere").into())
    }

    async fn take_hold(&self, request: Request<v1::TakeHoldRequest>) -> Result<Response<v1::TakeHoldResponse>, Status> {
        let principal = principal(&request)?;
        let wire = request.into_inner();
        of_this_incarnation_if_said(&self.shared, wire.incarnation)?;
        let session = SessionId(wire.session);
        let is_operator = matches!(principal.role(), Role::Local | Role::Operator);
        let by_operator = wire.session == 0 && is_operator;
        let (namespace, holder, cell) = if by_operator {
            (Arc::from(""), Holder::Operator, self.shared.snapshot().await)
        } else if wire.session == 0 {
            let message =
                "session: expected the id of an open session, above 0, found 0: operators alone hold room without one";
            return Err(Failure::invalid(message).into());
        } else {
            let owner = usable(&self.shared, &principal, session).await?;
            let cell = self.shared.snapshot().await;
            // What is known of sessions may be older than the cell.
            if cell.session(session).is_none() {
                return Err(no_such_session(session).into());
            }
            self.shared.sessions.lock().used(session, self.shared.clock.monotonic_micros());
            (owner.namespace, Holder::Scheduler(owner.scheduler), cell)
        };
        let job = held_job(&cell, &holder, wire.job)?;
        // What it holds it may give back.
        if let Holder::Scheduler(name) = &holder
            && !wire.machines.is_empty()
            && cell.is_paused(name)
        {
            return Err(Failure::paused(name).into());
        }
        drop(cell);
        // Who gives back needs no time.
        let least = i64::from(!wire.machines.is_empty());
        if wire.within_micros < least {
            let message = format!("within_micros: expected at least {least} µs from now, found {}", wire.within_micros);
            return Err(Failure::invalid(message).into());
        }
        let deadline = self.hold_deadline(wire.within_micros);
        let gives_back = wire.machines.is_empty();
        let take = v1::TakeHold {
            job: job.to_bits(),
            machines: wire.machines,
            resources: Some(wire.resources.unwrap_or_default()),
            deadline_micros: deadline.micros,
            session: wire.session,
        };
        let command = plenum_proto::command::command(Ask::TakeHold(take)).map_err(Failure::from)?;
        custom::check(&command, &self.shared.identity.custom_resources)?;
        let decided = self.shared.ask(Shared::request(principal.text(), namespace, command)).await?;
        let v1::ChangeResponse { revision, changed } = change(decided)?;
        let deadline_micros = if gives_back { 0 } else { deadline.micros };
        Ok(Response::new(v1::TakeHoldResponse { revision, changed, deadline_micros }))
    }

    async fn close(&self, request: Request<v1::CloseRequest>) -> Result<Response<v1::CloseResponse>, Status> {
        let principal = principal(&request)?;
        let wire = request.into_inner();
        of_this_incarnation_if_said(&self.shared, wire.incarnation)?;
        let session = SessionId(wire.session);
        let namespace = usable(&self.shared, &principal, session).await?.namespace;
        let command = Command::CloseSession(session);
        match self.shared.ask(Shared::request(principal.text(), namespace, command)).await?.decision {
            Decision::Rejected(rejection) => Err(Failure::from(rejection).into()),
            _ => {
                self.shared.sessions.lock().closed(session);
                Ok(Response::new(v1::CloseResponse {}))
            }
        }
    }
}

/// Serves a session's stream, from its hello on.
async fn serve_session(
    shared: Arc<Shared>,
    principal: Principal,
    mut inbound: Streaming<session::Request>,
    carried: Carried,
    out: &Out,
) -> Result<(), Failure> {
    let patience = shared.settings.greeting;
    let first = tokio::time::timeout(patience, inbound.message()).await;
    let late = |_| Failure::new(Code::DeadlineExceeded, "NO_HELLO", format!("no hello came within {patience:?}"));
    let not_hello = |found: &str| Failure::invalid(format!("ask: expected hello first, found {found}"));
    let hello = match first.map_err(late)? {
        Ok(Some(session::Request { ask: Some(SessionAsk::Hello(hello)) })) => hello,
        Ok(Some(session::Request { ask: Some(SessionAsk::Commit(_)) })) => return Err(not_hello("commit")),
        Ok(Some(session::Request { ask: Some(SessionAsk::PassedOver(_)) })) => return Err(not_hello("passed_over")),
        Ok(Some(session::Request { ask: Some(SessionAsk::Pulse(_)) })) => return Err(not_hello("pulse")),
        Ok(Some(session::Request { ask: None })) => return Err(not_hello("a message that asks for nothing known")),
        Ok(None) => return Err(not_hello("the end of the stream")),
        Err(status) => return Err(unreadable(&shared, &status).unwrap_or_else(|| not_hello("nothing"))),
    };
    hello::promises_what_it_can_keep(&hello)?;
    Watcher::check(&shared, &principal, &hello)?;
    let (session, namespace) = if hello.session == 0 {
        let session = open_session(&shared, &principal, &hello.namespace, &hello.scheduler).await?;
        (session, plenum_proto::names::optional_name("namespace", &hello.namespace)?)
    } else {
        let session = SessionId(hello.session);
        of_this_incarnation(&shared, hello.incarnation)?;
        let owner = usable(&shared, &principal, session).await?;
        same("scheduler", &owner.scheduler, &hello.scheduler)?;
        same("namespace", &owner.namespace, &hello.namespace)?;
        (session, owner.namespace)
    };
    let (answers, answered) = mpsc::unbounded_channel();
    let owner = Owner { principal, namespace, session };
    let watcher = Watcher::new(shared.clone(), owner, &hello, answers)?.carried_by(carried);
    let pulse_micros = hello.pulse_micros;
    // It may be large, and the stream goes on for days.
    drop(hello);
    let connection = Connection::new(shared, session);
    if pulse_micros > 0 {
        connection.shared.promised_pulses(session, pulse_micros);
    }
    watcher.run(Some(inbound), answered, out.clone()).await;
    drop(connection);
    Ok(())
}

/// Who goes on with a session must not take it for another scheduler's: it would place that one's jobs in vain.
fn same(field: &str, expected: &str, found: &str) -> Result<(), Failure> {
    if found.is_empty() || found == expected {
        return Ok(());
    }
    let message =
        format!("{field}: expected {expected:?}, the session's own, or nothing, found {found:?}; open a new session");
    Err(Failure::new(Code::FailedPrecondition, "OTHER_SESSION", message))
}

/// Sessions of the cell before it was restored are over, whatever their ids.
fn of_this_incarnation(shared: &Shared, found: u64) -> Result<(), Failure> {
    incarnation_is_said(found)?;
    let expected = shared.identity.incarnation;
    if found == expected {
        return Ok(());
    }
    let message = format!("the session is of incarnation {found}, the cell of {expected}; open a new session");
    Err(Failure::new(Code::Aborted, "OTHER_INCARNATION", message))
}

/// The same, for who may leave out of which incarnation the session is.
fn of_this_incarnation_if_said(shared: &Shared, found: u64) -> Result<(), Failure> {
    if found == 0 { Ok(()) } else { of_this_incarnation(shared, found) }
}

/// Who leaves it out is told so: that it is another one would have him open sessions without end.
fn incarnation_is_said(found: u64) -> Result<(), Failure> {
    if found > 0 {
        return Ok(());
    }
    let message = "incarnation: expected the one that the session was opened in, above 0, found 0";
    Err(Failure::invalid(message))
}

/// A transaction says what it was decided on. Checked here alone: logs may hold some of earlier versions that did not.
pub(super) fn leaves_nothing_out(transaction: &Transaction) -> Result<(), Failure> {
    incarnation_is_said(transaction.incarnation)?;
    let Some(position) = transaction.placements.iter().position(|placement| placement.job_version == 0) else {
        return Ok(());
    };
    let message =
        format!("placements[{position}].job_version: expected the version that this was decided on, above 0, found 0");
    Err(Failure::invalid(message))
}

/// Opens a session, durably.
async fn open_session(
    shared: &Shared,
    principal: &Principal,
    namespace: &str,
    scheduler: &str,
) -> Result<SessionId, Failure> {
    let request = plenum_proto::command::open_session(principal.text(), namespace, scheduler)?;
    // Only then: what is no name is nobody's.
    principal.may_schedule_as(scheduler)?;
    let (principal, namespace) = (request.principal.clone(), request.namespace.clone());
    let owner = SessionOwner { scheduler: scheduler.into(), principal, namespace };
    match shared.ask(request).await?.decision {
        Decision::Accepted { id, .. } => {
            shared.sessions.lock().opened(SessionId(id), owner);
            Ok(SessionId(id))
        }
        Decision::Rejected(rejection) => Err(not_opened(shared, &owner, rejection)),
        Decision::Outcome(_) => Err(Failure::internal("opening a session gave an outcome")),
    }
}

/// Why no session was opened. A session that was left behind by the same scheduler and principal counts for each bound on sessions: whichever is
/// reached, it passes when that one is closed, and until then only if somebody closes another.
fn not_opened(shared: &Shared, owner: &SessionOwner, rejection: Rejection) -> Failure {
    let is_above = rejection.code == RejectionCode::LimitReached;
    let failure = Failure::from(rejection);
    if !is_above {
        return failure;
    }
    let (now, linger) = (shared.clock.monotonic_micros(), shared.settings.session_linger);
    let linger_micros = i64::try_from(linger.as_micros()).unwrap_or(i64::MAX);
    let Some(overdue) = shared.sessions.lock().next_overdue(owner, now, linger_micros) else { return failure };
    let alone = Duration::from_micros(overdue.saturating_sub(now).max(0).unsigned_abs());
    failure.retry(alone.saturating_add(sessions_interval(linger)))
}

/// Whose a session is that the principal may use. A snapshot, which makes pages be copied, is taken only for what is not known, and apart: a
/// stream is polled only while its connection has room.
async fn usable(shared: &Arc<Shared>, principal: &Principal, session: SessionId) -> Result<SessionOwner, Failure> {
    let known = shared.sessions.lock().owner(session).cloned();
    let owner = match known {
        Some(known) => Some(known),
        None => {
            let shared = shared.clone();
            let of_cell =
                async move { shared.snapshot().await.session(session).map(|found| SessionOwner::from(&**found)) };
            apart(of_cell).await.ok_or_else(Failure::ending)?
        }
    };
    let Some(owner) = owner else {
        return Err(no_such_session(session));
    };
    principal.may_use_session_of(&owner.principal)?;
    Ok(owner)
}

pub(super) fn no_such_session(session: SessionId) -> Failure {
    let message = format!("session {} is closed, or was never opened; open a new one", session.0);
    Failure::not_found(RejectionCode::NoSuchSession, message)
}

/// A session's stream, for as long as it is there.
struct Connection {
    shared: Arc<Shared>,
    session: SessionId,
}

impl Connection {
    fn new(shared: Arc<Shared>, session: SessionId) -> Self {
        shared.sessions.lock().connected(session);
        Self { shared, session }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let now_micros = self.shared.clock.monotonic_micros();
        // One that is gone on with may have its next stream before this one is missed: that one's promise must not be taken away between the two.
        let mut sessions = self.shared.sessions.lock();
        if sessions.disconnected(self.session, now_micros) {
            self.shared.pulses.lock().remove(self.session);
        }
    }
}
