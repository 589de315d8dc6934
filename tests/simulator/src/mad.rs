//! A mad scheduler: it opens sessions as others do, and sends whatever must not do any harm.
//!
//! It knows the cell better than a real one could, so that its garbage is near the truth: other people's jobs, the same task twice,
//! bases from the future, numbers with other content. What of it is right by chance is granted as to anybody.

use std::collections::BTreeMap;

use plenum_model::{AllocationId, Cell, Device, JobId, MachineId, Outcome};
use plenum_proto::v1::{self, session_request::Ask, session_response::Tell};

use crate::books::{Checked, Violation};
use crate::outfit::MODELS;
use crate::random::Random;
use crate::seen::Seen;
use crate::world::{ConnectionId, Event, Message, Party, Purpose, Side, World};

/// As many numbers as a session keeps, and some.
const BURST: u64 = 260;
/// Behind so many newer numbers it remembers another old one; a session still keeps what has become of it.
const OLD_NUMBERS: u64 = 200;

/// See the module.
#[derive(Debug)]
pub(crate) struct Mad {
    number: usize,
    connection: Option<ConnectionId>,
    /// Session and incarnation, of this connection or an earlier one.
    session: Option<(u64, u64)>,
    /// The last transaction that it sent, with a new number.
    last: Option<v1::Transaction>,
    /// One that was answered long before.
    old: Option<v1::Transaction>,
    /// By number, all that were sent.
    dry_runs: BTreeMap<u64, Vec<v1::Transaction>>,
}

impl Mad {
    pub(crate) fn new(number: usize) -> Self {
        Self { number, connection: None, session: None, last: None, old: None, dry_runs: BTreeMap::new() }
    }

    /// Does something, and comes again, until faults end.
    pub(crate) fn acts(&mut self, world: &mut World) {
        if world.quiet {
            if let Some(id) = self.connection.take() {
                world.hang_up(id, Side::Client);
            }
            return;
        }
        world.tally.saw(Seen::MadAct);
        let pause = world.random.between(1, 2 * world.mix.mad_every_micros);
        world.agenda.after(pause, Event::MadActs { mad: self.number });
        match (self.connection, self.session) {
            (Some(id), Some((session, incarnation))) => self.sends(world, id, session, incarnation),
            (Some(_), None) => {}
            (None, _) => self.connects(world),
        }
    }

    fn connects(&mut self, world: &mut World) {
        let id = world.connect(Party::Mad(self.number), Purpose::Session);
        self.connection = Some(id);
        let names = ["mad", "rival", "batch", "service", "", "no such\nname"];
        let known = self.session.filter(|_| world.random.chance(600));
        if known.is_none() {
            (self.session, self.last) = (None, None);
            self.old = None;
            self.dry_runs.clear();
        }
        let (session, incarnation) = known.unwrap_or((0, 0));
        let from_the_future = world.random.chance(100);
        let hello = v1::Hello {
            scheduler: names[world.random.index(names.len())].into(),
            namespace: "default".into(),
            session: if world.random.chance(100) { world.random.below(1000) } else { session },
            incarnation: if world.random.chance(50) { 99 } else { incarnation },
            revision: if from_the_future { u64::MAX / 2 } else { 0 },
            ..v1::Hello::default()
        };
        world.send(id, Side::Server, Message::Session(v1::SessionRequest { ask: Some(Ask::Hello(hello)) }));
    }

    fn sends(&mut self, world: &mut World, id: ConnectionId, session: u64, incarnation: u64) {
        if world.random.chance(5) {
            for _ in 0..BURST {
                let empty = self.fresh(session, incarnation, world);
                self.say(world, id, empty);
            }
        }
        let mut wire = match (world.random.below(4), self.last.clone()) {
            // Again, with the same content, with other content, or long after.
            (0, Some(mut last)) => {
                match world.random.below(6) {
                    0 => {}
                    // What it got to hear then may stand in the history alone by now.
                    1..=3 => last = self.old.clone().unwrap_or(last),
                    4 => last.stops.push(AllocationId { slot: 12345, generation: 6 }.to_bits()),
                    _ => last.number = last.number.saturating_sub(BURST).max(1),
                }
                return self.say(world, id, last);
            }
            _ => self.fresh(session, incarnation, world),
        };
        garble(&mut world.random, world.books.cell(), &mut wire);
        if world.mix.outfit.has_models {
            names_devices(&mut world.random, world.books.cell(), &mut wire);
        }
        self.last = Some(wire.clone());
        self.say(world, id, wire);
    }

    fn say(&mut self, world: &mut World, id: ConnectionId, wire: v1::Transaction) {
        if wire.dry_run {
            self.dry_runs.entry(wire.number).or_default().push(wire.clone());
        }
        world.send(id, Side::Server, Message::Session(v1::SessionRequest { ask: Some(Ask::Commit(wire)) }));
    }

    /// An empty transaction with the next number.
    fn fresh(&mut self, session: u64, incarnation: u64, world: &World) -> v1::Transaction {
        let number = self.last.as_ref().map_or(0, |last| last.number) + 1;
        let base_revision = world.books.cell().revision().0;
        let wire = v1::Transaction {
            session,
            number,
            incarnation,
            base_revision,
            check: v1::ConflictCheck::Fit.into(),
            ..v1::Transaction::default()
        };
        self.last = Some(wire.clone());
        wire
    }

    /// A message arrives. What was answered is in the log, also for the mad.
    pub(crate) fn receive(&mut self, world: &mut World, id: ConnectionId, message: Message) -> Checked {
        if self.connection != Some(id) {
            return Ok(());
        }
        match message {
            Message::Told(v1::SessionResponse { tell: Some(Tell::Welcome(welcome)) }) => {
                self.session = Some((welcome.session, welcome.incarnation));
            }
            Message::Told(v1::SessionResponse { tell: Some(Tell::Outcome(outcome)) }) => {
                if let Some(sent) = self.dry_runs.get(&outcome.number) {
                    return world.books.dry_run_was_told(&outcome, sent, &mut world.tally);
                }
                let is_old = |old: &v1::Transaction| outcome.number.saturating_sub(old.number) < OLD_NUMBERS;
                if let Some(answered) = self.last.as_ref().filter(|last| last.number == outcome.number)
                    && !self.old.as_ref().is_some_and(is_old)
                {
                    self.old = Some(answered.clone());
                }
                let outcome = Outcome::try_from(outcome).map_err(|error| Violation {
                    invariant: "invariant_an_outcome_is_what_the_log_says",
                    facts: error.to_string(),
                })?;
                world.books.invariant_an_outcome_is_what_the_log_says(&outcome)?;
            }
            Message::Told(v1::SessionResponse { tell: Some(Tell::Error(error)) }) => {
                *world.tally.rejections.entry(error.code).or_default() += 1;
            }
            Message::Refused { status, .. } => {
                *world.tally.rejections.entry(format!("status {status}")).or_default() += 1;
                world.hang_up(id, Side::Client);
                self.connection = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// The connection is over.
    pub(crate) fn closed(&mut self, id: ConnectionId) {
        self.connection.take_if(|of| *of == id);
    }
}

/// Puts something in that makes no sense, or claims that might.
fn garble(random: &mut Random, cell: &Cell, wire: &mut v1::Transaction) {
    let count = 1 + random.index(3);
    wire.placements = (0..count).map(|_| placement(random, cell)).collect();
    wire.atomic = random.chance(200);
    wire.dry_run = random.chance(100);
    if random.chance(300) {
        wire.check = v1::ConflictCheck::Sequence.into();
    }
    if random.chance(200) {
        wire.stops = (0..3).map(|_| some_allocation(random, cell)).collect();
    }
    match random.below(12) {
        0 => wire.session = random.below(500),
        1 => wire.base_revision += 1 + random.below(1 << 40),
        2 => wire.base_revision = random.below(wire.base_revision + 1),
        3 => wire.incarnation += 1,
        4 => {
            // The same tasks in two placements.
            let again = wire.placements[0].clone();
            wire.placements.push(again);
        }
        5 => wire.placements[0].machines = vec![0; 20_000],
        6 => wire.placements[0].tasks.push(u32::MAX),
        7 => wire.number = 0,
        8 => wire.guards.push(v1::Guard { fact: None }),
        9 => wire.guards.push(guard(random, cell)),
        10 => wire.check = 77,
        _ => {}
    }
}

fn placement(random: &mut Random, cell: &Cell) -> v1::Placement {
    let jobs = cell.jobs().count();
    let job = cell.jobs().nth(random.index(jobs)).cloned();
    let (id, version) = job.as_ref().map_or((JobId { slot: 7, generation: 9 }, 1), |job| (job.id, job.version));
    let groups = job.as_ref().map_or(1, |job| job.shape.groups.len());
    let claims = 1 + random.index(5);
    let machines = cell.machines().count().max(1) as u64;
    let mut tasks: Vec<u32> = (0..claims).map(|_| number(random, 6)).collect();
    if random.chance(900) {
        tasks.sort_unstable();
        tasks.dedup();
    }
    let mut placement = v1::Placement {
        job: if random.chance(50) { random.number() } else { id.to_bits() },
        group: if random.chance(950) { number(random, groups as u64) } else { number(random, 1 << 20) },
        job_version: if random.chance(50) { version + 1 } else { version },
        machines: tasks.iter().map(|_| number(random, machines + 1)).collect(),
        ..v1::Placement::default()
    };
    placement.min = if random.chance(200) { number(random, claims as u64 + 2) } else { 0 };
    if random.chance(30) {
        placement.resources = Some(v1::Resources { cpu_millis: -5, ..v1::Resources::default() });
    } else if random.chance(50) {
        placement.resources = Some(v1::Resources { cpu_millis: 77, ..v1::Resources::default() });
    }
    if random.chance(150) {
        placement.alternates = (0..3).map(|_| number(random, machines + 1)).collect();
    }
    if random.chance(150) {
        let victim = |random: &mut Random| v1::Preemption {
            machine: number(random, machines + 1),
            victim: some_allocation(random, cell),
        };
        placement.preemptions = (0..3).map(|_| victim(random)).collect();
    }
    if random.chance(150) {
        placement.extras = tasks.iter().map(|_| extras(random, cell)).collect();
    }
    if random.chance(100) {
        placement.guards.push(guard(random, cell));
    }
    placement.tasks = tasks;
    placement
}

fn extras(random: &mut Random, cell: &Cell) -> v1::ClaimExtras {
    let amount = v1::Resources { cpu_millis: random.between(0, 5000), ..v1::Resources::default() };
    let take_over = v1::TakeOver { victim: some_allocation(random, cell), amount: Some(amount), ..Default::default() };
    let port = v1::Port { name: "http".into(), number: number(random, 3) * 8080 };
    v1::ClaimExtras {
        take_overs: if random.chance(700) { vec![take_over] } else { Vec::new() },
        ports: if random.chance(300) { vec![port] } else { Vec::new() },
        ..v1::ClaimExtras::default()
    }
}

/// Has claims name the very devices that they want, which may be of another model than their group declares, or not be there.
fn names_devices(random: &mut Random, cell: &Cell, wire: &mut v1::Transaction) {
    for placement in &mut wire.placements {
        let job = JobId::from_bits(placement.job).and_then(|job| cell.job(job));
        let group = job.and_then(|job| job.shape.groups.get(usize::try_from(placement.group).ok()?));
        let declared = group.map(|group| group.devices.as_slice()).unwrap_or_default();
        if declared.is_empty() || random.chance(400) {
            continue;
        }
        placement.extras.resize(placement.tasks.len(), v1::ClaimExtras::default());
        for extra in &mut placement.extras {
            extra.devices = declared.iter().map(|device| named(random, device)).collect();
        }
    }
}

/// A device for one that a group declares.
fn named(random: &mut Random, declared: &Device) -> v1::Device {
    let model = if random.chance(800) { "" } else { MODELS[random.index(MODELS.len())] };
    v1::Device {
        kind: declared.kind.to_string(),
        index: number(random, 3),
        millis: declared.millis.cast_signed(),
        model: model.to_owned(),
    }
}

fn guard(random: &mut Random, cell: &Cell) -> v1::Guard {
    use v1::guard::Fact;
    let machine = cell.machines().nth(random.index(4)).map_or(MachineId { slot: 3, generation: 3 }, |found| found.id);
    let value = if random.chance(500) { "r0" } else { "r1" };
    let (machine, attribute) = (machine.to_bits(), "rack".to_owned());
    let attribute = v1::AttributeGuard { machine, attribute, value: value.into() };
    v1::Guard { fact: Some(Fact::Attribute(attribute)) }
}

fn some_allocation(random: &mut Random, cell: &Cell) -> u64 {
    let live: Vec<AllocationId> = cell.allocations().map(|found| found.id).collect();
    let chosen = live.get(random.index(live.len())).copied().filter(|_| random.chance(800));
    chosen.unwrap_or(AllocationId { slot: 40, generation: 2 }).to_bits()
}

fn number(random: &mut Random, bound: u64) -> u32 {
    u32::try_from(random.below(bound)).unwrap_or(u32::MAX)
}
