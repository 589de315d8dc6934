//! What all parties share: time, chance, the network, the books of the checkers, and the story.
//!
//! A connection keeps order in each direction, and may break in either: what was on its way there is lost then, and each side
//! notices in its own time. Who is cut off hears of no end either, so that the other side of a connection may be gone for long. Nothing here knows
//! what the messages mean.

use std::collections::BTreeMap;

use plenum_model::{Cell, Command, Decision};
use plenum_proto::{delta, v1};
use plenum_server::publish::LoggedBatch;
use prost::Message as _;

use crate::agenda::Agenda;
use crate::books::Books;
use crate::checkpoint::{Backup, Checkpoint};
use crate::describe;
use crate::faults::{Fault, Mix};
use crate::random::Random;
use crate::report::Tally;
use crate::seen::Seen;
use crate::story::Story;
use crate::text;

/// The longest time that a message takes.
pub(crate) const STUCK_MICROS_MAX: i64 = 3_000_000;

/// After a cut that loses what is sent it takes at most so long until a side notices a connection that has ended meanwhile: longer than most leases.
const UNNOTICED_MICROS_MAX: i64 = 5_000_000;

/// A connection's number; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(u64);

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client = 0,
    Server = 1,
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Party {
    Scheduler(usize),
    Agent(usize),
    Mad(usize),
    Owner,
}

/// A process that can stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sleeper {
    Server,
    Scheduler(usize),
    Agent(usize),
}

impl Sleeper {
    /// The process at the client's end; `None` for those who never stand still.
    pub(crate) const fn of(party: Party) -> Option<Self> {
        match party {
            Party::Scheduler(seat) => Some(Self::Scheduler(seat)),
            Party::Agent(agent) => Some(Self::Agent(agent)),
            Party::Mad(_) | Party::Owner => None,
        }
    }
}

/// What a connection is for. One call each, but for the streams of schedulers and followers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Session,
    Follow,
    Register,
    Report {
        number: u64,
    },
    Ask {
        wish: usize,
    },
    /// A scheduler's request to hold room, beside its stream.
    Hold,
}

/// What travels. Messages of the protocol are encoded and decoded on their way.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Session(v1::SessionRequest),
    Told(v1::SessionResponse),
    Register(v1::RegisterRequest),
    Registered(v1::RegisterResponse),
    Follow(v1::FollowRequest),
    Assignments(v1::Assignments),
    Report(v1::ReportRequest),
    Reported(v1::ReportResponse),
    Ask {
        principal: &'static str,
        command: Box<Command>,
    },
    Answered {
        done: bool,
        /// It is above a bound, of the core or of a request.
        is_above: bool,
    },
    TakeHold(v1::TakeHoldRequest),
    HoldTaken(v1::TakeHoldResponse),
    /// The call or the stream ends with this code of `google.rpc`.
    Refused {
        status: i32,
        /// The `plenum-code`, where a runtime looks at it.
        code: &'static str,
        reason: String,
    },
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    Deliver { connection: ConnectionId, to: Side, message: Box<Message> },
    Closed { connection: ConnectionId, side: Side },
    ServerStarts,
    ServerSynced { life: u64 },
    ServerWrites { life: u64 },
    ServerFolds { life: u64 },
    ServerTicks { life: u64 },
    ServerKeeps { life: u64 },
    Pump { life: u64, connection: ConnectionId },
    SchedulerStarts { seat: usize },
    SchedulerConnects { seat: usize, life: u64 },
    SchedulerWakes { seat: usize, life: u64, wish: u64 },
    AgentStarts { agent: usize },
    AgentWakes { agent: usize, life: u64, wish: u64 },
    AgentLeaves { agent: usize, away_micros: i64 },
    AgentGivesUp { agent: usize, life: u64 },
    AgentProbes { agent: usize },
    AgentDiesRegistering { agent: usize, late_micros: i64 },
    AgentDies { agent: usize, life: u64 },
    MovesHome { agent: usize },
    OwnerAsks { wish: usize },
    OwnerMeddles,
    OwnerAdopts,
    OwnerRuns,
    OwnerMixes,
    OwnerScales,
    MadActs { mad: usize },
    Strikes(Fault),
    DiskHasRoom,
    GoesOn(Sleeper),
    FaultsEnd,
    Looks,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    until_micros: i64,
    /// What is sent arrives afterwards, as what a transport sends again; otherwise the connection breaks.
    holds: bool,
    /// Which fault it is.
    fault: Fault,
    /// Something was sent that it kept from arriving.
    met: bool,
}

#[derive(Debug)]
struct Connection {
    party: Party,
    purpose: Purpose,
    /// Whether what travels to that side arrives.
    open: [bool; 2],
    /// When the last message to that side arrives.
    last_micros: [i64; 2],
    /// Whether that side knows that it is over.
    gone: [bool; 2],
    /// Messages on their way to the client.
    in_flight: usize,
}

/// See the module.
pub(crate) struct World {
    pub(crate) agenda: Agenda<Event>,
    pub(crate) random: Random,
    pub(crate) mix: Mix,
    pub(crate) books: Books,
    pub(crate) story: Story,
    pub(crate) tally: Tally,
    /// Faults strike no more.
    pub(crate) quiet: bool,
    connections: BTreeMap<ConnectionId, Connection>,
    connections_made: u64,
    /// Who is cut off, by the side that does not get what is sent.
    cut: BTreeMap<(Party, Side), Cut>,
    /// What the history has.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// The newest backup.
    pub(crate) backup: Option<Backup>,
    /// Until when syncs take seconds.
    pub(crate) slow_until_micros: i64,
    /// From the simulation's time to what the server that began last took for log time then.
    pub(crate) log_skew_micros: i64,
}

impl World {
    pub(crate) fn new(mut random: Random, mix: Mix, told: bool) -> Self {
        let random = Random::new(random.number());
        Self {
            agenda: Agenda::new(),
            random,
            books: Books::new(mix.core_options()),
            mix,
            story: Story::new(told),
            tally: Tally::default(),
            quiet: false,
            connections: BTreeMap::new(),
            connections_made: 0,
            cut: BTreeMap::new(),
            checkpoint: None,
            backup: None,
            slow_until_micros: 0,
            log_skew_micros: 0,
        }
    }

    pub(crate) fn now(&self) -> i64 {
        self.agenda.now()
    }

    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        self.story.tell(self.agenda.now(), line);
    }

    /// A line for each revision of a batch.
    pub(crate) fn tell_batch(&mut self, batch: &LoggedBatch, before: &mut Cell) {
        if !self.story.is_told() {
            return;
        }
        for revision in batch.revisions() {
            let Ok(asked) = text::print(&batch.asked(revision).unwrap_or_default()) else { continue };
            let decided = v1::Decision::decode(batch.decided(revision).unwrap_or_default()).ok();
            let decided = decided.and_then(|wire| Decision::try_from(wire).ok());
            let delta = delta::decode(batch.delta(revision).unwrap_or_default()).ok();
            self.story.step(describe::asked(batch.time(), &asked));
            if let (Some(decided), Some(delta)) = (decided, delta) {
                let lines = describe::decided(&decided, Some(&delta), before);
                lines.into_iter().for_each(|line| self.story.step(line));
                // A checker is about to say so.
                if before.apply(&delta).is_err() {
                    return;
                }
            }
        }
    }

    /// A fault did something: what is planned or armed does not count before.
    pub(crate) fn struck(&mut self, fault: Fault) {
        Tally::count(&mut self.tally.faults, fault);
    }

    fn delay(&mut self) -> i64 {
        let most = if self.quiet { 2_000 } else { self.mix.delay_micros_max };
        if !self.quiet && self.random.chance(self.mix.stuck_thousandths) {
            self.tally.saw(Seen::MessageStuck);
            return self.random.between(most, STUCK_MICROS_MAX);
        }
        self.random.between(20, most.max(20))
    }

    /// A new connection of this party to the server.
    pub(crate) fn connect(&mut self, party: Party, purpose: Purpose) -> ConnectionId {
        self.connections_made += 1;
        let id = ConnectionId(self.connections_made);
        let (open, gone) = ([true; 2], [false; 2]);
        let now = self.now();
        self.connections.insert(id, Connection { party, purpose, open, last_micros: [now; 2], gone, in_flight: 0 });
        id
    }

    /// Whose connection it is, as long as this side does not know of its end.
    pub(crate) fn whose(&self, id: ConnectionId, side: Side) -> Option<(Party, Purpose)> {
        let connection = self.connections.get(&id)?;
        (!connection.gone[side as usize]).then_some((connection.party, connection.purpose))
    }

    /// Whose process this side is; `None` for the owner of jobs, and for a connection that is over.
    pub(crate) fn sleeper(&self, id: ConnectionId, side: Side) -> Option<Sleeper> {
        let connection = self.connections.get(&id)?;
        if side == Side::Server { Some(Sleeper::Server) } else { Sleeper::of(connection.party) }
    }

    /// Messages that the client has not received yet.
    pub(crate) fn in_flight(&self, id: ConnectionId) -> usize {
        self.connections.get(&id).map_or(0, |connection| connection.in_flight)
    }

    /// Sends to that side. Lost without a sound when the way is broken.
    pub(crate) fn send(&mut self, id: ConnectionId, to: Side, message: Message) {
        self.send_slowly(id, to, message, 0);
    }

    /// The same, by a way that takes so much longer.
    pub(crate) fn send_slowly(&mut self, id: ConnectionId, to: Side, message: Message, micros: i64) {
        let Some(party) = self.connections.get(&id).map(|connection| connection.party) else { return };
        let now = self.now();
        let cut = self.cut.get_mut(&(party, to)).filter(|cut| cut.until_micros > now);
        let cut = cut.map(|cut| Cut { met: std::mem::replace(&mut cut.met, true), ..*cut });
        if let Some(cut) = cut.filter(|cut| !cut.met) {
            self.struck(cut.fault);
        }
        if cut.is_some_and(|cut| !cut.holds) {
            self.tally.saw(Seen::MessageLost);
            // A stream has no holes: once something is lost, nothing after it arrives.
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.open[to as usize] = false;
            }
            return self.sever(id);
        }
        self.tally.saw_times(Seen::MessageHeld, u64::from(cut.is_some()));
        let at = cut.map_or(now, |cut| cut.until_micros) + self.delay() + micros;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !connection.open[to as usize] {
            // Who has hung up misses nothing.
            self.tally.saw_times(Seen::MessageLost, u64::from(!connection.gone[to as usize]));
            return;
        }
        let at = at.max(connection.last_micros[to as usize]);
        connection.last_micros[to as usize] = at;
        if to == Side::Client {
            connection.in_flight += 1;
        }
        self.agenda.at(at, Event::Deliver { connection: id, to, message: Box::new(message.over_the_wire()) });
    }

    /// A message reaches the end of its way: whether it is still open, and whose it is.
    pub(crate) fn arrive(&mut self, id: ConnectionId, to: Side) -> Option<(Party, Purpose)> {
        let connection = self.connections.get_mut(&id)?;
        if to == Side::Client {
            connection.in_flight = connection.in_flight.saturating_sub(1);
        }
        let (open, gone) = (connection.open[to as usize], connection.gone[to as usize]);
        self.tally.saw_times(Seen::MessageLost, u64::from(!open && !gone));
        (open && !gone).then_some((connection.party, connection.purpose))
    }

    /// When a side hears of an end of which it would hear then, if it were not cut off.
    fn hears_at(&mut self, party: Party, side: Side, micros: i64) -> i64 {
        let now = self.now();
        let Some(cut) = self.cut.get(&(party, side)).filter(|cut| cut.until_micros > now).copied() else {
            return micros;
        };
        let more = if cut.holds { self.delay() } else { self.random.between(0, UNNOTICED_MICROS_MAX) };
        micros.max(cut.until_micros + more)
    }

    /// One side ends it. What it sent before still arrives, then the other side learns it.
    pub(crate) fn hang_up(&mut self, id: ConnectionId, by: Side) {
        let delay = self.delay();
        let now = self.now();
        let other = by.other();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.open[by as usize] = false;
        connection.gone[by as usize] = true;
        if connection.gone[other as usize] {
            self.connections.remove(&id);
            return;
        }
        let (party, at) = (connection.party, (now + delay).max(connection.last_micros[other as usize]));
        let at = self.hears_at(party, other, at);
        self.agenda.at(at, Event::Closed { connection: id, side: other });
    }

    /// It breaks, in one direction or both. Each side notices in its own time.
    pub(crate) fn sever(&mut self, id: ConnectionId) {
        let which = self.random.below(3);
        let waits = [self.random.between(0, 1_500_000), self.random.between(0, 1_500_000)];
        let Some(connection) = self.connections.get_mut(&id) else { return };
        self.tally.saw(Seen::Broken);
        connection.open[0] &= which == 1;
        connection.open[1] &= which == 2;
        let (party, now) = (connection.party, self.now());
        for side in [Side::Client, Side::Server] {
            let at = self.hears_at(party, side, now + waits[side as usize]);
            self.agenda.at(at, Event::Closed { connection: id, side });
        }
    }

    /// A side notices the end: whose it was; `None` if it knew.
    pub(crate) fn close(&mut self, id: ConnectionId, side: Side) -> Option<(Party, Purpose)> {
        let connection = self.connections.get_mut(&id)?;
        if connection.gone[side as usize] {
            return None;
        }
        connection.open = [false; 2];
        connection.gone[side as usize] = true;
        let whose = (connection.party, connection.purpose);
        if connection.gone == [true; 2] {
            self.connections.remove(&id);
        }
        Some(whose)
    }

    /// Every connection of a process that dies. What it had sent may arrive or not.
    pub(crate) fn drop_connections(&mut self, side: Side, of: impl Fn(Party) -> bool) {
        let mine = self.connections.iter().filter(|(_, connection)| of(connection.party));
        let mine: Vec<ConnectionId> = mine.map(|(id, _)| *id).collect();
        for id in mine {
            if self.random.chance(500) {
                self.sever(id);
            }
            self.hang_up(id, side);
        }
    }

    /// Breaks some connection.
    pub(crate) fn sever_any(&mut self) {
        let count = self.connections.len();
        let chosen = self.random.index(count);
        if let Some(id) = self.connections.keys().nth(chosen).copied() {
            let line = self.connections.get(&id).map(|connection| (connection.party, connection.purpose));
            self.tell(|| format!("network: {line:?} breaks"));
            self.struck(Fault::Break);
            self.sever(id);
        }
    }

    /// Cuts a party off for a while, or one way only: `to` does not get what is sent.
    pub(crate) fn cut_off(&mut self, party: Party, micros: i64, to: Option<Side>) {
        let until_micros = self.now() + micros;
        let fault = if to.is_some() { Fault::CutOneWay } else { Fault::Cut };
        let cut = Cut { until_micros, holds: self.random.chance(400), fault, met: false };
        self.tell(|| format!("network: {party:?} is cut off ({to:?}) for {} ms, {cut:?}", micros / 1000));
        for side in [Side::Client, Side::Server] {
            if to.is_none_or(|to| to == side) {
                self.cut.insert((party, side), cut);
            }
        }
    }

    /// Most bytes that a request may come to in the log. Once faults are over, requests of any size are taken.
    pub(crate) fn entry_bytes(&self) -> usize {
        if self.quiet { usize::MAX } else { self.mix.entry_bytes }
    }

    /// Everybody can reach everybody again.
    pub(crate) fn heal(&mut self) {
        self.quiet = true;
        self.slow_until_micros = 0;
        self.cut.clear();
    }
}

impl Message {
    /// What arrives is what the protocol can carry.
    fn over_the_wire(self) -> Self {
        match self {
            Self::Session(message) => Self::Session(carried(&message)),
            Self::Told(message) => Self::Told(carried(&message)),
            Self::Register(message) => Self::Register(carried(&message)),
            Self::Registered(message) => Self::Registered(carried(&message)),
            Self::Follow(message) => Self::Follow(carried(&message)),
            Self::Assignments(message) => Self::Assignments(carried(&message)),
            Self::Report(message) => Self::Report(carried(&message)),
            Self::Reported(message) => Self::Reported(carried(&message)),
            Self::TakeHold(message) => Self::TakeHold(carried(&message)),
            Self::HoldTaken(message) => Self::HoldTaken(carried(&message)),
            other => other,
        }
    }
}

fn carried<M: prost::Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).expect("what was encoded here can be decoded")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(seed: u64) -> World {
        let mix = Mix::draw(&mut Random::new(1), 2);
        World::new(Random::new(seed), mix, false)
    }

    // Of an agent that was killed while it was cut off its server heard within the time of a message, and of what broke within two seconds: no stream
    // of somebody who was gone lived for as long as a lease.
    #[test]
    fn the_end_of_a_connection_does_not_pass_through_a_cut() {
        let party = Party::Agent(0);
        let ways: [fn(&mut World, ConnectionId); 2] = [World::sever, |world, id| world.hang_up(id, Side::Client)];
        for seed in 0..20 {
            for ends in ways {
                let mut world = world(seed);
                let id = world.connect(party, Purpose::Follow);
                world.cut_off(party, 5_000_000, None);
                ends(&mut world, id);
                let mut heard = Vec::new();
                while let Some(event) = world.agenda.take() {
                    assert!(matches!(event, Event::Closed { .. }), "{event:?}");
                    heard.push(world.now());
                }
                assert!(!heard.is_empty() && heard.iter().all(|at| *at >= 5_000_000), "seed {seed}: {heard:?}");
            }
        }
    }

    // What came to a side that had hung up counted as lost: so many messages were lost in each run that the count was no evidence of any fault.
    #[test]
    fn a_message_is_lost_where_a_connection_broke_and_not_where_its_reader_hung_up() {
        let mut world = world(3);
        let mut lost = |ends: fn(&mut World, ConnectionId)| {
            let before = world.tally.times(Seen::MessageLost);
            for _ in 0..20 {
                let id = world.connect(Party::Owner, Purpose::Ask { wish: 0 });
                world.send(id, Side::Client, Message::Answered { done: true, is_above: false });
                ends(&mut world, id);
                world.send(id, Side::Client, Message::Answered { done: true, is_above: false });
                world.arrive(id, Side::Client);
            }
            world.tally.times(Seen::MessageLost) - before
        };
        assert_eq!(lost(|world, id| world.hang_up(id, Side::Client)), 0);
        assert!(lost(World::sever) > 0);
    }
}
