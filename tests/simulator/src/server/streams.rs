//! Streams: those of schedulers, and those of agents that follow what they shall run.

use std::sync::Arc;

use plenum_model::{Decision, MachineId, RejectionCode, Revision, SessionId};
use plenum_proto::command;
use plenum_proto::sections::Sections;
use plenum_proto::v1::{self, session_request::Ask, session_response::Tell};
use plenum_server::agents::Follower;
use plenum_server::commit::Asked;
use plenum_server::sync::{self, Lent, Resume, Step, SyncOptions, SyncSession};
use prost::Message as _;

use super::{BEGIN_MICROS, Server, Ticket};
use crate::books::{Checked, hold};
use crate::seen::Seen;
use crate::world::{ConnectionId, Event, Message, Side, World};

/// Messages between a stream and its connection.
const MESSAGES_MAX: usize = 4;

/// Steps of a stream before it waits, at most: of few that it takes nothing is sent. One that goes in circles would be stuck within one event, and
/// its seed would never be told.
const STEPS_MAX: u32 = 10_000;

const UNAVAILABLE: i32 = 14;
/// What ends a session's streams with it.
const CLOSED: (i32, &str) = (5, "NO_SUCH_SESSION");
const INVALID_ARGUMENT: i32 = 3;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const ABORTED: i32 = 10;
const OUT_OF_RANGE: i32 = 11;
const INTERNAL: i32 = 13;

/// A scheduler's stream.
pub(super) struct Watching {
    session: SessionId,
    namespace: Arc<str>,
    sync: SyncSession,
    /// Its session was closed.
    is_over: bool,
    pumped_at_micros: i64,
    resyncs: u64,
}

/// An agent's stream.
pub(super) struct Following {
    follower: Follower,
    /// The wanted set may have changed, and was not told.
    due: bool,
}

impl Server {
    /// A message on a scheduler's stream.
    pub(super) fn session_message(
        &mut self,
        world: &mut World,
        id: ConnectionId,
        message: v1::SessionRequest,
    ) -> Checked {
        match message.ask {
            Some(Ask::Hello(hello)) => self.hello(world, id, hello),
            Some(Ask::Commit(wire)) => self.commit(world, id, wire),
            Some(Ask::PassedOver(message)) => {
                world.tell(|| format!("server: told by {id:?}: {message:?}"));
                Ok(())
            }
            // It changes nothing but what is shown.
            Some(Ask::Pulse(_)) | None => Ok(()),
        }
    }

    fn hello(&mut self, world: &mut World, id: ConnectionId, hello: v1::Hello) -> Checked {
        if let Err(unknown) = sync::check(&hello, &self.identity, self.opened_at, self.recent.newest()) {
            let is_other = matches!(unknown, sync::Unknown::Cell);
            let status = if is_other { (ABORTED, "OTHER_CELL") } else { (OUT_OF_RANGE, "NO_SUCH_REVISION") };
            self.refuse(world, id, status, &unknown.to_string());
            return Ok(());
        }
        if hello.session == 0 {
            match command::open_session(&Self::principal_of(world, id), &hello.namespace, &hello.scheduler) {
                Ok(request) => self.ask(Some(Ticket::Session { connection: id, hello }), Asked::new(request)),
                Err(invalid) => self.refuse(world, id, (INVALID_ARGUMENT, "INVALID_REQUEST"), &invalid.to_string()),
            }
            return self.turn(world);
        }
        let cell = self.snapshot(world)?;
        let session = SessionId(hello.session);
        match cell.session(session) {
            _ if hello.incarnation != self.identity.incarnation => {
                self.refuse(world, id, (ABORTED, "OTHER_INCARNATION"), "the session is of another incarnation");
            }
            None => self.refuse(world, id, CLOSED, "the session is closed"),
            Some(found) => {
                world.tally.saw(Seen::Resumed);
                let namespace = found.namespace.clone();
                self.serve(world, id, session, namespace, &hello);
            }
        }
        self.pump_all(world)
    }

    /// The answer to a session's opening.
    pub(super) fn session_opened(
        &mut self,
        world: &mut World,
        id: ConnectionId,
        hello: &v1::Hello,
        decision: &Decision,
    ) {
        match decision {
            Decision::Accepted { id: session, .. } => {
                self.alone.insert(SessionId(*session), world.now());
                if world.whose(id, Side::Server).is_some() {
                    let namespace = hello.namespace.as_str().into();
                    self.serve(world, id, SessionId(*session), namespace, hello);
                }
            }
            Decision::Rejected(rejection) if rejection.code == RejectionCode::LimitReached => {
                world.tally.saw(Seen::SessionWithoutPlace);
                self.refuse(world, id, (RESOURCE_EXHAUSTED, rejection.code.as_str()), &rejection.message);
            }
            other => self.refuse(world, id, (INVALID_ARGUMENT, ""), &format!("{other:?}")),
        }
    }

    fn serve(
        &mut self,
        world: &mut World,
        id: ConnectionId,
        session: SessionId,
        namespace: Arc<str>,
        hello: &v1::Hello,
    ) {
        let sections = Sections::from_wire(&hello.sections).unwrap_or(Sections::MIRROR);
        let resume = Resume { incarnation: hello.incarnation, revision: Revision(hello.revision) };
        let options = SyncOptions { message_bytes: world.mix.message_bytes, ..SyncOptions::default() };
        let sync = SyncSession::new(options, self.identity.clone(), session, sections, resume, world.now())
            .telling_time(BEGIN_MICROS + self.clock_skew_micros);
        self.alone.remove(&session);
        let pumped_at_micros = i64::MAX;
        self.watching.insert(id, Watching { session, namespace, sync, is_over: false, pumped_at_micros, resyncs: 0 });
    }

    /// A session was closed: its streams end once they have nothing more to say.
    pub(super) fn session_closed(&mut self, session: SessionId) {
        let streams = self.watching.values_mut().filter(|watching| watching.session == session);
        streams.for_each(|watching| watching.is_over = true);
    }

    fn commit(&mut self, world: &mut World, id: ConnectionId, wire: v1::Transaction) -> Checked {
        let principal = Self::principal_of(world, id);
        let Some(watching) = self.watching.get_mut(&id) else { return Ok(()) };
        let (number, session) = (wire.number, watching.session);
        let refused = |code: &str, message: String| v1::RequestError {
            number,
            status: INVALID_ARGUMENT,
            code: code.into(),
            message,
            retry_after_micros: 0,
        };
        if wire.session != session.0 {
            let message = format!("expected session {}, found {}", session.0, wire.session);
            watching.sync.error(Revision(0), refused("INVALID_REQUEST", message));
        } else {
            match Asked::commit(&principal, &watching.namespace, &wire.encode_to_vec().into()) {
                Ok(asked) => self.ask(Some(Ticket::Commit { connection: id, number }), asked),
                Err(invalid) => watching.sync.error(Revision(0), refused("INVALID_REQUEST", invalid.to_string())),
            }
        }
        self.turn(world)
    }

    /// The answer to a transaction: with the decision where that stands nowhere.
    pub(super) fn committed(&mut self, id: ConnectionId, number: u64, at: Revision, decision: Option<Decision>) {
        let Some(watching) = self.watching.get_mut(&id) else { return };
        match decision.map(|decision| answer_of(number, decision)) {
            None => watching.sync.decided(at, number),
            Some(Ok(outcome)) => watching.sync.outcome(at, outcome),
            Some(Err(error)) => watching.sync.error(at, error),
        }
    }

    fn refuse(&mut self, world: &mut World, id: ConnectionId, (status, code): (i32, &'static str), reason: &str) {
        world.send(id, Side::Client, Message::Refused { status, code, reason: reason.to_owned() });
        world.hang_up(id, Side::Server);
    }

    /// Sends what there is to send on all streams.
    pub(crate) fn pump_all(&mut self, world: &mut World) -> Checked {
        let ids: Vec<ConnectionId> = self.watching.keys().copied().collect();
        ids.into_iter().try_for_each(|id| self.pump(world, id))
    }

    /// Sends what there is to send on a stream, as far as its connection takes it.
    pub(crate) fn pump(&mut self, world: &mut World, id: ConnectionId) -> Checked {
        for step in 0.. {
            if world.in_flight(id) >= MESSAGES_MAX {
                break;
            }
            hold(step < STEPS_MAX, "invariant_everything_that_fits_runs_once_faults_stop", || {
                format!("a stream asks for ever, at {}", self.mirror.cell().revision())
            })?;
            let Some(watching) = self.watching.get_mut(&id) else { return Ok(()) };
            drop(watching.sync.take_read(false));
            match watching.sync.poll(world.now(), &self.recent) {
                Step::Send(message) => world.send(id, Side::Client, Message::Told(message)),
                Step::SendOutcome(encoded) => {
                    let outcome = v1::Outcome::decode(encoded).expect("it was encoded by this server");
                    let message = v1::SessionResponse { tell: Some(Tell::Outcome(outcome)) };
                    world.send(id, Side::Client, Message::Told(message));
                }
                // The picture is behind: folding pumps again.
                Step::NeedSnapshot if !self.unfolded.is_empty() => break,
                Step::NeedSnapshot => {
                    watching.sync.snapshot(Lent::new(self.mirror.cell().clone(), world.now()), world.now());
                }
                Step::NeedMissed(after) => {
                    if self.is_dead() {
                        break;
                    }
                    let missed = self.missed(after);
                    self.watching.get_mut(&id).into_iter().for_each(|watching| watching.sync.missed(missed.clone()));
                }
                Step::NeedAnswer { at, number } => {
                    if self.is_dead() {
                        // There is no disk to read it from, and in a moment no server.
                        break;
                    }
                    let decision = self.read_back(world, at)?;
                    let answer = decision.map_or_else(|| Err(unknown(number)), |decision| answer_of(number, decision));
                    self.watching.get_mut(&id).into_iter().for_each(|watching| watching.sync.read_back(answer.clone()));
                }
                Step::NeedRoom { bytes } => unreachable!("outcomes have no bound here: one of {bytes} bytes goes"),
                Step::Wait { until_micros } => {
                    if watching.is_over {
                        self.watching.remove(&id);
                        self.refuse(world, id, CLOSED, "the session is closed");
                        return Ok(());
                    }
                    if watching.pumped_at_micros != until_micros {
                        watching.pumped_at_micros = until_micros;
                        world.agenda.at(until_micros, Event::Pump { life: self.life, connection: id });
                    }
                    break;
                }
            }
        }
        if let Some(watching) = self.watching.get_mut(&id) {
            world.tally.saw_times(Seen::Resynced, watching.sync.resyncs() - watching.resyncs);
            watching.resyncs = watching.sync.resyncs();
        }
        Ok(())
    }

    /// Something that was sent has arrived: there is room for more.
    pub(crate) fn room_on(&mut self, world: &mut World, id: ConnectionId) -> Checked {
        self.pump(world, id)?;
        self.follow(world, id);
        Ok(())
    }

    /// A stream ended.
    pub(crate) fn closed(&mut self, world: &mut World, id: ConnectionId) {
        if let Some(watching) = self.watching.remove(&id) {
            let others = self.watching.values().any(|other| other.session == watching.session);
            if !others {
                self.alone.insert(watching.session, world.now());
            }
        }
        self.following.remove(&id);
    }

    /// Where it has less, as after a crash that lost what was told, an agent would stop what runs rightly, and forget how tasks ended.
    pub(super) fn invariant_a_server_never_offers_less(&self, machine: u64, seen: (u64, u64)) -> Checked {
        let here = (self.identity.incarnation, self.committer.durable().0);
        hold(seen <= here, "invariant_a_server_never_offers_less", || {
            format!("machine {machine}: speaks to a server at {here:?}, seen {seen:?}")
        })
    }

    /// An agent begins to follow.
    pub(super) fn begin_following(&mut self, world: &mut World, id: ConnectionId, wire: &v1::FollowRequest) -> Checked {
        self.invariant_a_server_never_offers_less(wire.machine, (wire.incarnation, wire.revision))?;
        let cell = self.snapshot(world)?;
        let current = |machine: &MachineId| cell.is_current(*machine, wire.epoch) && !self.is_of_the_past(wire.epoch);
        let machine = MachineId::from_bits(wire.machine).filter(current);
        match machine {
            None => {
                self.refuse(world, id, (FAILED_PRECONDITION, ""), "another epoch, or no such machine; register again")
            }
            Some(machine) => {
                let follower = Follower::new(machine, wire.epoch);
                self.following.insert(id, Following { follower, due: true });
                self.follow(world, id);
            }
        }
        Ok(())
    }

    /// The wanted sets of these machines changed.
    pub(super) fn follow_touched(&mut self, world: &mut World, machines: &[u32]) {
        for following in self.following.values_mut() {
            following.due |= machines.contains(&following.follower.machine().slot);
        }
        let ids: Vec<ConnectionId> = self.following.keys().copied().collect();
        ids.into_iter().for_each(|id| self.follow(world, id));
    }

    fn follow(&mut self, world: &mut World, id: ConnectionId) {
        let Some(following) = self.following.get_mut(&id) else { return };
        if !following.due || world.in_flight(id) >= MESSAGES_MAX {
            return;
        }
        following.due = false;
        let slots = self.index.on(following.follower.machine().slot);
        match following.follower.next(self.mirror.cell(), slots) {
            Ok(Some(assignments)) => {
                assert!(!assignments.more, "simulated machines run little");
                world.send(id, Side::Client, Message::Assignments(assignments));
            }
            Ok(None) => {}
            Err(_) => {
                self.following.remove(&id);
                self.refuse(world, id, (FAILED_PRECONDITION, ""), "the machine's epoch is over; register again");
            }
        }
    }
}

/// What became of a transaction can't be read back now: as if the connection had broken, its scheduler asks again under the same number.
fn unknown(number: u64) -> v1::RequestError {
    v1::RequestError {
        number,
        status: UNAVAILABLE,
        code: "OUTCOME_UNKNOWN".to_owned(),
        message: "the log can't be read; ask again under the same number".to_owned(),
        retry_after_micros: 1_000_000,
    }
}

/// What a transaction's stream is told: an encoded outcome, or why there is none.
fn answer_of(number: u64, decision: Decision) -> Result<bytes::Bytes, v1::RequestError> {
    let error = |status, code: &str, message| v1::RequestError {
        number,
        status,
        code: code.to_owned(),
        message,
        retry_after_micros: 0,
    };
    match decision {
        Decision::Outcome(outcome) => Ok(v1::Outcome::from(outcome.as_ref()).encode_to_vec().into()),
        Decision::Rejected(rejection) => {
            let status = match rejection.code.as_str() {
                "NO_SUCH_SESSION" => CLOSED.0,
                "OTHER_INCARNATION" => ABORTED,
                "SCHEDULER_PAUSED" => UNAVAILABLE,
                _ => INVALID_ARGUMENT,
            };
            Err(error(status, rejection.code.as_str(), rejection.message))
        }
        Decision::Accepted { .. } => Err(error(INTERNAL, "INTERNAL", "accepted without an outcome".to_owned())),
    }
}
