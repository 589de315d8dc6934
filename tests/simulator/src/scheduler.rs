//! A scheduler's process: the production runtime, its connection and its timers.

use std::collections::BTreeMap;

use plenum_model::{JobId, Outcome, QuotaUse, RejectionCode};
use plenum_proto::v1::{self, session_request::Ask, session_response::Tell};
use plenum_schedulers::{Batch, Service};
use plenum_sdk::{
    Backoff, HoldAnswer, Holding, Input, Notice, Output, PlanError, Scheduler, SchedulerRuntime, Settings,
};

use crate::books::{Checked, Violation};
use crate::faults::Fault;
use crate::owner::NAMESPACES;
use crate::rival::{self, Rival};
use crate::seen::Seen;
use crate::server::BEGIN_MICROS;
use crate::world::{ConnectionId, Event, Message, Party, Purpose, Side, World};

const UNAVAILABLE: i32 = 14;
/// The name of which there are two.
const SHARED: &str = "batch";

/// As a run is short, who starves does so soon.
const HOLDING: Holding = Holding {
    jobs_max: 2,
    after_losses: 4,
    after_wait_micros: 500_000,
    within_micros: 3_000_000,
    patience_micros: 5_000_000,
};

/// A place for a scheduler; its processes come and go.
pub(crate) struct Seat {
    number: usize,
    name: &'static str,
    life: u64,
    runtime: Option<SchedulerRuntime<Box<dyn Scheduler>>>,
    connection: Option<ConnectionId>,
    /// Requests to hold room that are not answered, by their connections: each has one of its own.
    holds: BTreeMap<ConnectionId, u64>,
    /// The newest wish to be woken; older ones are void.
    wish: u64,
}

impl Seat {
    pub(crate) fn new(number: usize, name: &'static str) -> Self {
        Self { number, name, life: 0, runtime: None, connection: None, holds: BTreeMap::new(), wish: 0 }
    }

    fn party(&self) -> Party {
        Party::Scheduler(self.number)
    }

    pub(crate) fn runs(&self) -> bool {
        self.runtime.is_some()
    }

    /// Whose jobs it is there for: of those that share a scheduler's name, where there are several users, each for those of one namespace. Else for all.
    fn namespace(&self, world: &World) -> &'static str {
        let is_shared = self.name == SHARED && world.mix.has_users;
        if is_shared { NAMESPACES[usize::from(self.number > 0)] } else { "" }
    }

    /// Its mirror, once there is one.
    pub(crate) fn mirror(&self) -> Option<&plenum_model::Cell> {
        self.runtime.as_ref()?.mirror()
    }

    /// A process begins, with a session of its own.
    pub(crate) fn start(&mut self, world: &mut World) -> Checked {
        self.life += 1;
        let seed = world.random.number();
        let scheduler: Box<dyn Scheduler> = match self.name {
            "service" => Box::new(Service::default()),
            rival::NAME => Box::new(Rival::new(seed)),
            _ => Box::new(Batch::default()),
        };
        let tasks_max = if world.random.chance(300) { 2 } else { 4096 };
        let reconnect = Backoff { first_micros: 50_000, most_micros: 1_000_000 };
        let namespace = self.namespace(world).into();
        let settings = Settings { namespace, seed, tasks_max, reconnect, holds: Some(HOLDING), ..Settings::default() };
        let runtime = SchedulerRuntime::new(settings, scheduler).expect("the settings are within their bounds");
        self.runtime = Some(runtime);
        world.tell(|| format!("{}: begins", self.name));
        self.give(world, Input::Start)
    }

    /// Its process is killed, if there is one.
    pub(crate) fn kill(&mut self, world: &mut World) -> bool {
        if self.runtime.take().is_none() {
            return false;
        }
        world.tell(|| format!("{}: killed", self.name));
        self.connection = None;
        self.holds.clear();
        let party = self.party();
        world.drop_connections(Side::Client, |of| of == party);
        true
    }

    pub(crate) fn connects(&mut self, world: &mut World, life: u64) -> Checked {
        if self.life != life || self.runtime.is_none() {
            return Ok(());
        }
        self.connection = Some(world.connect(self.party(), Purpose::Session));
        self.give(world, Input::Connected)
    }

    pub(crate) fn wakes(&mut self, world: &mut World, life: u64, wish: u64) -> Checked {
        if (self.life, self.wish) != (life, wish) {
            return Ok(());
        }
        self.give(world, Input::Tick)
    }

    /// A message arrives.
    pub(crate) fn receive(&mut self, world: &mut World, id: ConnectionId, message: Message) -> Checked {
        if let Some(number) = self.holds.remove(&id) {
            world.hang_up(id, Side::Client);
            return self.give(world, Input::Held { number, answer: hold_answer(message) });
        }
        if self.connection != Some(id) {
            return Ok(());
        }
        match message {
            Message::Told(message) => {
                let outcome = match &message.tell {
                    Some(Tell::Outcome(outcome)) => Some(outcome.clone()),
                    _ => None,
                };
                let compare = outcome.is_some() || world.random.chance(100);
                self.give(world, Input::Received(message))?;
                if let Some(outcome) = outcome {
                    self.check_outcome(world, outcome)?;
                }
                if compare { self.check_mirror(world) } else { Ok(()) }
            }
            Message::Refused { status, code, reason } => {
                world.hang_up(id, Side::Client);
                self.connection = None;
                self.give(world, Input::Disconnected { status, code: code.to_owned(), reason, retry_micros: 0 })
            }
            _ => Ok(()),
        }
    }

    fn check_outcome(&self, world: &mut World, wire: v1::Outcome) -> Checked {
        world.tally.saw(Seen::Outcome);
        let outcome = Outcome::try_from(wire).map_err(|error| Violation {
            invariant: "invariant_an_outcome_is_what_the_log_says",
            facts: error.to_string(),
        })?;
        world.books.invariant_an_outcome_is_what_the_log_says(&outcome)?;
        let behind = self.mirror().is_some_and(|mirror| mirror.revision() < outcome.revision);
        crate::books::hold(!behind, "invariant_deltas_precede_their_outcome", || {
            format!("{}: {} is told, and the mirror is behind", self.name, outcome.revision)
        })
    }

    /// Schedulers know what time it is in the log, and are never ahead of it, as long as no other server goes by another clock, and none jumps: on the mirror
    /// that a transaction was decided on, nothing that it claims waits.
    fn invariant_nothing_is_claimed_before_its_backoff_ends(&self, world: &World, txn: &v1::Transaction) -> Checked {
        let mirror = self.mirror().filter(|mirror| mirror.revision().0 == txn.base_revision);
        let is_told = self.name != rival::NAME
            && world.tally.times(Seen::Recovery) == 0
            && !world.tally.has_seen(Fault::ClockJump);
        let Some(mirror) = mirror.filter(|_| is_told) else { return Ok(()) };
        let log_now_micros = BEGIN_MICROS + world.log_skew_micros + world.now();
        let early = txn.placements.iter().filter_map(|placement| {
            let job = mirror.job(JobId::from_bits(placement.job)?)?;
            let row = mirror.group(job, u16::try_from(placement.group).ok()?)?;
            Some(row.not_before.micros - log_now_micros)
        });
        let early = early.max().unwrap_or(0);
        crate::books::hold(early <= 0, "invariant_nothing_is_claimed_before_its_backoff_ends", || {
            format!("{}: transaction {} claims {early} µs before the end of a backoff", self.name, txn.number)
        })
    }

    /// Compares the mirror with what was published.
    pub(crate) fn check_mirror(&self, world: &mut World) -> Checked {
        let Some(mirror) = self.mirror() else { return Ok(()) };
        world.tally.saw(Seen::MirrorCompared);
        world.books.invariant_a_mirror_is_the_cell_at_its_revision(self.name, mirror)?;
        let kept = self.runtime.as_ref().is_none_or(|runtime| *runtime.quota_use() == QuotaUse::recount(mirror));
        crate::books::hold(kept, "invariant_a_mirror_is_the_cell_at_its_revision", || {
            format!(
                "{}: at {} it has other sums of what quotas are used for than its mirror",
                self.name,
                mirror.revision()
            )
        })
    }

    /// The connection is over.
    pub(crate) fn closed(&mut self, world: &mut World, id: ConnectionId) -> Checked {
        if let Some(number) = self.holds.remove(&id) {
            return self.give(world, Input::Held { number, answer: HoldAnswer::Unanswered });
        }
        if self.connection != Some(id) {
            return Ok(());
        }
        self.connection = None;
        let (code, reason) = (String::new(), "the connection broke".into());
        self.give(world, Input::Disconnected { status: UNAVAILABLE, code, reason, retry_micros: 0 })
    }

    fn give(&mut self, world: &mut World, input: Input) -> Checked {
        let Some(runtime) = &mut self.runtime else { return Ok(()) };
        let (now, seat, life) = (world.now(), self.number, self.life);
        for output in runtime.handle(now, input) {
            match output {
                Output::Send(request) => {
                    if let Some(Ask::Commit(txn)) = &request.ask {
                        self.invariant_nothing_is_claimed_before_its_backoff_ends(world, txn)?;
                    }
                    if let Some(id) = self.connection {
                        world.send(id, Side::Server, Message::Session(request));
                    }
                }
                Output::ConnectAfter { micros } => {
                    world.agenda.after(micros, Event::SchedulerConnects { seat, life });
                }
                Output::Disconnect => {
                    if let Some(id) = self.connection.take() {
                        world.hang_up(id, Side::Client);
                    }
                }
                // Unheard: the session lingers until the cell ends it by itself.
                Output::Close(_) => {}
                Output::Hold { number, request } => {
                    let id = world.connect(Party::Scheduler(seat), Purpose::Hold);
                    self.holds.insert(id, number);
                    world.send(id, Side::Server, Message::TakeHold(request));
                }
                Output::WakeAt { micros } => {
                    self.wish += 1;
                    world.agenda.at(micros, Event::SchedulerWakes { seat, life, wish: self.wish });
                }
                Output::Notice(notice) => invariant_no_notice_is_a_bug(world, self.name, &notice)?,
            }
        }
        Ok(())
    }
}

fn hold_answer(message: Message) -> HoldAnswer {
    match message {
        Message::HoldTaken(taken) => HoldAnswer::Executed { revision: taken.revision },
        Message::Refused { status: UNAVAILABLE, .. } => HoldAnswer::Unanswered,
        Message::Refused { reason: code, .. } => HoldAnswer::Refused { code, retry_micros: 0 },
        _ => HoldAnswer::Unanswered,
    }
}

/// Planner and committer judge with the same code; a server never offers less than was seen; a mirror always folds; and nobody sends what makes
/// no sense: all that a transaction holds would be refused with it, and planned alike the next time.
fn invariant_no_notice_is_a_bug(world: &mut World, name: &str, notice: &Notice) -> Checked {
    world.tell(|| format!("{name}: {notice}"));
    let bug = match notice {
        Notice::Misfit { .. } | Notice::Twice { .. } => name != rival::NAME,
        Notice::Behind { .. } | Notice::Mirror { .. } => true,
        Notice::Plan(error) => name != rival::NAME || !matches!(error, PlanError::TooLarge { .. }),
        Notice::Rejected { reason, .. } => name != rival::NAME && makes_no_sense(reason),
        Notice::Session { .. } | Notice::Lost { .. } | Notice::Unread { .. } => false,
    };
    crate::books::hold(!bug, "invariant_no_notice_is_a_bug", || format!("{name}: {notice}"))
}

fn makes_no_sense(reason: &str) -> bool {
    reason.split(':').next() == Some(RejectionCode::InvalidRequest.as_str())
}
