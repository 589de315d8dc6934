//! The run: events in order, faults while they last, then everything must come to an end.

mod ending;
mod strikes;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use plenum_journal::SimDisk;
use plenum_model::planted::{self, Bug};

use crate::agent::Machine;
use crate::books::{Checked, hold};
use crate::faults::{Fault, Mix};
use crate::mad::Mad;
use crate::owner::Owner;
use crate::random::Random;
use crate::report::Tally;
use crate::rival;
use crate::scheduler::Seat;
use crate::seen::Seen;
use crate::server::{self, NotStarted, Server};
use crate::stories;
use crate::world::{ConnectionId, Event, Message, Party, Purpose, Side, Sleeper, World};

/// Events after which a run is thought to go in circles.
const EVENTS_MAX: u64 = 2_000_000;
/// Lines of a failed run that are shown; all of them are in its story.
const LINES_SHOWN: usize = 120;
const UNAVAILABLE: i32 = 14;

/// What went wrong with a seed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The bug that was put in on purpose.
    pub planted: Option<Bug>,
    /// What does not hold, or the panic.
    pub what: String,
    /// All that happened, as a story: see [`crate::stories`].
    pub story: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, planted, what, story } = self;
        let bug = planted.map_or_else(String::new, |bug| format!(" --bug {bug:?}"));
        let end = seed + 1;
        let lines = story.lines().count();
        for line in story.lines().skip(lines.saturating_sub(LINES_SHOWN)) {
            writeln!(f, "{line}")?;
        }
        write!(f, "\nseed {seed} failed: {what}\nto see it again: cargo xtask simulate --seeds {seed}..{end}{bug}")
    }
}

impl std::error::Error for Failure {}

/// Plays one seed. Under the feature `planted-bugs` a bug may have been planted in this thread: [`run_with`].
///
/// # Errors
/// When a checker finds something, or a part panics: with the story, from a second run of the same seed.
pub fn run(seed: u64) -> Result<Tally, Box<Failure>> {
    match play(seed, false) {
        Ok(tally) => Ok(tally),
        Err(first) => Err(Box::new(told_with(*first, play(seed, true)))),
    }
}

/// A failure with the story of a second run of the same seed, and with what was not the same there.
fn told_with(first: Failure, again: Result<Tally, Box<Failure>>) -> Failure {
    match again {
        Ok(_) => Failure { what: format!("{} (and nothing in a second run, which passed)", first.what), ..first },
        Err(again) if again.what == first.what => *again,
        Err(again) => {
            let what = format!("{} (and not the same in a second run: {})", first.what, again.what);
            Failure { what, ..*again }
        }
    }
}

/// Plays one seed, and tells all that happened, whether anything went wrong or not.
#[must_use]
pub fn story(seed: u64) -> String {
    planted::count_anew();
    let mut simulation = Simulation::new(seed, true);
    // Whoever asks for it wants to know how far it came.
    drop(catch_unwind(AssertUnwindSafe(|| simulation.run())));
    simulation.world.story.text()
}

/// Plays one seed with a bug that was put in on purpose.
///
/// # Errors
/// As [`run`]: with what found the bug.
#[cfg(feature = "planted-bugs")]
pub fn run_with(bug: Bug, seed: u64) -> Result<Tally, Box<Failure>> {
    planted::plant(Some(bug));
    let played = run(seed);
    planted::plant(None);
    played.map_err(|mut failure| {
        failure.planted = Some(bug);
        failure
    })
}

/// What finds a bug that was put in on purpose, if this seed does: without a story, which would take a second run.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn finds(bug: Bug, seed: u64) -> Option<String> {
    planted::plant(Some(bug));
    let played = play(seed, false);
    planted::plant(None);
    played.err().map(|failure| failure.what)
}

fn play(seed: u64, told: bool) -> Result<Tally, Box<Failure>> {
    drop(take_marks());
    planted::count_anew();
    let mut simulation = Simulation::new(seed, told);
    let what = match catch_unwind(AssertUnwindSafe(|| simulation.run())) {
        Ok(Ok(())) => {
            simulation.world.tally.rare = take_marks();
            return Ok(simulation.world.tally);
        }
        Ok(Err(violation)) => violation.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("panic: {}", text.unwrap_or_default())
        }
    };
    Err(Box::new(Failure { seed, planted: None, what, story: simulation.world.story.text() }))
}

/// Rare paths that this thread took: known only where they are marked.
fn take_marks() -> BTreeMap<String, u64> {
    #[cfg(feature = "planted-bugs")]
    return plenum_model::rare::taken().into_iter().map(|(path, count)| (path.to_owned(), count)).collect();
    #[cfg(not(feature = "planted-bugs"))]
    BTreeMap::new()
}

/// How far the run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Faults strike.
    Stormy,
    /// Everything must come to its end.
    Calm,
    /// All jobs are stopped.
    Stopping,
    Over,
}

struct Simulation {
    world: World,
    disk: SimDisk,
    lives: u64,
    /// The cell's: raised by each restore.
    incarnation: u64,
    server: Option<Server>,
    seats: Vec<Seat>,
    machines: Vec<Machine>,
    mad: Vec<Mad>,
    owner: Owner,
    phase: Phase,
    deadline_micros: i64,
    calm_since_micros: i64,
    /// Machines that go when faults end, and come back only when all jobs are where they should be without them.
    gone: Vec<usize>,
    /// Processes that stand still: since when, and what they have missed.
    asleep: BTreeMap<Sleeper, (i64, Vec<Event>)>,
}

impl Simulation {
    fn new(seed: u64, told: bool) -> Self {
        let mut random = Random::new(seed);
        let mix = Mix::draw(&mut random, seed);
        let disk = SimDisk::new(random.number());
        if planted::is(Bug::LyingDisk) {
            disk.lie_about_syncs();
        }
        let mut world = World::new(random, mix, told);
        if told {
            world.story.step(format!("Seed {seed}: WHAT HAPPENS HERE, AND WHAT MUST COME OF IT.\n{}", stories::RULE));
            stories::settings(&world.mix.core_options()).into_iter().for_each(|line| world.story.step(line));
            let mix = format!("{:?}", world.mix);
            world.tell(|| mix);
        }
        let machines = (0..world.mix.machines)
            .map(|number| {
                let cpu_millis = 4000 + 1000 * world.random.between(0, 2);
                Machine::new(number, cpu_millis, &mut world)
            })
            .collect();
        let names = ["batch", "service", rival::NAME, "batch"];
        let seats = names.iter().enumerate().map(|(number, name)| Seat::new(number, name)).collect();
        let (phase, owner, mad) = (Phase::Stormy, Owner::new(seed, &world.mix), vec![Mad::new(0), Mad::new(1)]);
        let (deadline_micros, asleep) = (i64::MAX, BTreeMap::new());
        let gone = ending::who_goes(seed, world.mix.machines);
        Self {
            world,
            disk,
            lives: 0,
            incarnation: 1,
            server: None,
            seats,
            machines,
            mad,
            owner,
            phase,
            deadline_micros,
            calm_since_micros: 0,
            gone,
            asleep,
        }
    }

    fn run(&mut self) -> Checked {
        self.world.tally.saw(Seen::Run);
        self.owner.plan(&mut self.world, 4000);
        self.world.agenda.at(0, Event::ServerStarts);
        for seat in 0..self.seats.len() {
            self.world.agenda.at(1_000, Event::SchedulerStarts { seat });
        }
        for agent in 0..self.machines.len() {
            self.world.agenda.at(2_000, Event::AgentStarts { agent });
        }
        let mad = if self.world.mix.mad_every_micros > 0 { self.mad.len() } else { 0 };
        for mad in 0..mad {
            self.world.agenda.at(1_500, Event::MadActs { mad });
        }
        for &fault in Fault::ALL {
            self.plan_strike(fault);
        }
        self.world.agenda.at(self.world.mix.quiet_at_micros, Event::FaultsEnd);
        for _ in 0..EVENTS_MAX {
            let Some(event) = self.world.agenda.take() else { break };
            self.comes(event)?;
            if self.phase == Phase::Over {
                self.count_disk_faults();
                return Ok(());
            }
            hold(
                self.world.now() < self.deadline_micros,
                "invariant_everything_that_fits_runs_once_faults_stop",
                || self.unfinished(),
            )?;
        }
        hold(false, "invariant_everything_that_fits_runs_once_faults_stop", || {
            format!("too many events; {}", self.unfinished())
        })
    }

    fn unfinished(&self) -> String {
        let cell = self.world.books.cell();
        let jobs: Vec<String> = cell
            .jobs()
            .filter(|job| !job.state.is_final())
            .map(|job| format!("{} ({}) {:?}", job.shape.name, job.shape.scheduler, job.state))
            .collect();
        let live: Vec<String> = cell.allocations().map(|found| format!("{} {:?}", found.id, found.status)).collect();
        let machines: Vec<String> = cell.machines().map(|one| format!("{} {:?}", one.name, one.state)).collect();
        format!("jobs {jobs:?}, live {live:?}, machines {machines:?}, answered {}", self.owner.is_answered())
    }

    /// Whose process an event happens to.
    fn sleeper(&self, event: &Event) -> Option<Sleeper> {
        match *event {
            Event::Deliver { connection, to: side, .. } | Event::Closed { connection, side } => {
                self.world.sleeper(connection, side)
            }
            Event::ServerSynced { .. }
            | Event::ServerWrites { .. }
            | Event::ServerFolds { .. }
            | Event::ServerTicks { .. }
            | Event::ServerKeeps { .. }
            | Event::Pump { .. } => Some(Sleeper::Server),
            Event::SchedulerConnects { seat, .. } | Event::SchedulerWakes { seat, .. } => {
                Some(Sleeper::Scheduler(seat))
            }
            Event::AgentWakes { agent, .. }
            | Event::AgentLeaves { agent, .. }
            | Event::AgentGivesUp { agent, .. }
            | Event::AgentProbes { agent } => Some(Sleeper::Agent(agent)),
            _ => None,
        }
    }

    /// Lets an event happen, unless it is for a process that stands still.
    fn comes(&mut self, event: Event) -> Checked {
        if let Event::GoesOn(sleeper) = event {
            self.world.tell(|| format!("{sleeper:?} goes on"));
            let (since, missed) = self.asleep.remove(&sleeper).unwrap_or_default();
            if let Some(server) = self.server.as_mut().filter(|_| sleeper == Sleeper::Server) {
                server.goes_on(since, self.world.now());
            }
            if !missed.is_empty() {
                self.world.struck(match sleeper {
                    Sleeper::Server => Fault::ServerPause,
                    Sleeper::Scheduler(_) => Fault::SchedulerPause,
                    Sleeper::Agent(_) => Fault::AgentPause,
                });
            }
            return missed.into_iter().try_for_each(|event| {
                self.happens(event)?;
                self.bury_the_server();
                Ok(())
            });
        }
        let sleeper = self.sleeper(&event);
        if let Some((_, missed)) = sleeper.and_then(|sleeper| self.asleep.get_mut(&sleeper)) {
            missed.push(event);
            return Ok(());
        }
        self.happens(event)?;
        self.bury_the_server();
        Ok(())
    }

    /// A process stands still for a while; what happens to it meanwhile, it learns afterwards, in the same order.
    fn pause(&mut self, sleeper: Sleeper, micros: i64) {
        if !self.asleep.contains_key(&sleeper) {
            self.world.tell(|| format!("{sleeper:?} stands still for {} ms", micros / 1000));
            self.asleep.insert(sleeper, (self.world.now(), Vec::new()));
            self.world.agenda.after(micros, Event::GoesOn(sleeper));
        }
    }

    fn happens(&mut self, event: Event) -> Checked {
        if self.is_of_who_is_gone(&event) {
            return Ok(());
        }
        let Self { world, server, seats, machines, mad, owner, .. } = self;
        let of_life = |life: u64, server: &Option<Server>| server.as_ref().is_some_and(|server| server.life == life);
        match event {
            Event::Deliver { connection, to, message } => return self.deliver(connection, to, *message),
            Event::Closed { connection, side } => return self.closed(connection, side),
            Event::ServerStarts => return self.start_server(),
            Event::ServerSynced { life } if of_life(life, server) => {
                if let Some(server) = server {
                    server.synced(world)?;
                }
                return self.check_machines();
            }
            Event::ServerWrites { life } if of_life(life, server) => {
                server.iter_mut().for_each(|server| server.append(world));
            }
            Event::ServerFolds { life } if of_life(life, server) => {
                server.iter_mut().try_for_each(|server| server.fold(world))?;
            }
            Event::ServerTicks { life } if of_life(life, server) => {
                server.iter_mut().try_for_each(|server| server.tick(world))?;
            }
            Event::ServerKeeps { life } if of_life(life, server) => {
                server.iter_mut().for_each(|server| server.keep(world));
            }
            Event::Pump { life, connection } if of_life(life, server) => {
                server.iter_mut().try_for_each(|server| server.pump(world, connection))?;
            }
            Event::SchedulerStarts { seat } if !seats[seat].runs() => seats[seat].start(world)?,
            Event::SchedulerConnects { seat, life } => seats[seat].connects(world, life)?,
            Event::SchedulerWakes { seat, life, wish } => seats[seat].wakes(world, life, wish)?,
            Event::AgentStarts { agent } if !machines[agent].runs() => machines[agent].start(world)?,
            Event::AgentWakes { agent, life, wish } => {
                machines[agent].wakes(world, life, wish)?;
                machines[agent].check_running(world)?;
            }
            Event::AgentLeaves { agent, away_micros } => machines[agent].leaves(world, away_micros)?,
            Event::AgentGivesUp { agent, life } => machines[agent].gives_up(world, life),
            Event::AgentDiesRegistering { agent, late_micros } => {
                machines[agent].dies_registering(world, late_micros)?;
            }
            Event::AgentDies { agent, life } => machines[agent].dies(world, life),
            Event::AgentProbes { agent } => machines[agent].probes(world)?,
            Event::MovesHome { agent } => machines[agent].moves_home(world),
            Event::OwnerAsks { wish } => owner.asks(world, wish),
            Event::OwnerMeddles => owner.meddles(world),
            Event::OwnerAdopts => owner.adopts_now(world),
            Event::OwnerRuns => owner.runs_again(world),
            Event::OwnerMixes => owner.mixes(world),
            Event::OwnerScales => owner.scales(world),
            Event::MadActs { mad: number } => mad[number].acts(world),
            Event::Strikes(Fault::BitFlip) => return self.rots(),
            Event::Strikes(Fault::Restore) => return self.restores(),
            Event::Strikes(fault) => self.strikes(fault),
            Event::DiskHasRoom => self.disk.set_capacity(None),
            Event::FaultsEnd => self.faults_end(),
            Event::Looks => return self.looks(),
            // Of a server or a process that is no more.
            _ => {}
        }
        Ok(())
    }

    fn deliver(&mut self, id: ConnectionId, to: Side, message: Message) -> Checked {
        let Some((party, purpose)) = self.world.arrive(id, to) else { return Ok(()) };
        if to == Side::Server {
            return match &mut self.server {
                Some(server) => server.receive(&mut self.world, id, message),
                None => {
                    let reason = "nobody listens".to_owned();
                    self.world.send(id, Side::Client, Message::Refused { status: UNAVAILABLE, code: "", reason });
                    self.world.hang_up(id, Side::Server);
                    Ok(())
                }
            };
        }
        match (party, purpose) {
            (Party::Scheduler(seat), _) => self.seats[seat].receive(&mut self.world, id, message)?,
            (Party::Agent(agent), _) => {
                self.machines[agent].receive(&mut self.world, id, message)?;
                self.machines[agent].check_running(&self.world)?;
            }
            (Party::Mad(mad), _) => self.mad[mad].receive(&mut self.world, id, message)?,
            (Party::Owner, Purpose::Ask { wish }) => self.owner.receive(&mut self.world, id, wish, &message),
            (Party::Owner, _) => {}
        }
        match &mut self.server {
            Some(server) => server.room_on(&mut self.world, id),
            None => Ok(()),
        }
    }

    fn closed(&mut self, id: ConnectionId, side: Side) -> Checked {
        let Some((party, purpose)) = self.world.close(id, side) else { return Ok(()) };
        if side == Side::Server {
            if let Some(server) = &mut self.server {
                server.closed(&mut self.world, id);
            }
            return Ok(());
        }
        match (party, purpose) {
            (Party::Scheduler(seat), _) => self.seats[seat].closed(&mut self.world, id),
            (Party::Agent(agent), _) => self.machines[agent].failed(&mut self.world, id, UNAVAILABLE),
            (Party::Mad(mad), _) => {
                self.mad[mad].closed(id);
                Ok(())
            }
            (Party::Owner, Purpose::Ask { wish }) => {
                let broken = Message::Refused { status: UNAVAILABLE, code: "", reason: String::new() };
                self.owner.receive(&mut self.world, id, wish, &broken);
                Ok(())
            }
            (Party::Owner, _) => Ok(()),
        }
    }

    fn check_machines(&self) -> Checked {
        self.machines.iter().try_for_each(|machine| machine.check_running(&self.world))
    }

    fn start_server(&mut self) -> Checked {
        if self.server.is_some() {
            return Ok(());
        }
        self.lives += 1;
        self.world.tally.saw_times(Seen::Recovery, u64::from(self.lives > 1));
        match server::start(&self.disk, self.lives, &mut self.world) {
            Ok(server) => {
                self.server = Some(server);
                self.check_machines()
            }
            Err(NotStarted::Wrong(violation)) => Err(violation),
            Err(NotStarted::Disk(why)) => {
                self.world.tell(|| format!("server: could not begin: {why}"));
                self.world.tally.saw(Seen::RecoveryInterrupted);
                self.disk.kill();
                self.world.agenda.after(100_000, Event::ServerStarts);
                Ok(())
            }
        }
    }

    /// A server that failed, or whose machine or process died, is gone with all its connections.
    fn bury_the_server(&mut self) {
        if !self.server.as_ref().is_some_and(Server::is_dead) {
            return;
        }
        let why = self.server.take().and_then(|server| server.failed).unwrap_or_else(|| "killed".to_owned());
        self.world.tell(|| format!("server: ends: {why}"));
        // Its locks and files go with the process.
        self.disk.kill();
        self.world.drop_connections(Side::Server, |_| true);
        let pause = self.world.random.between(10_000, 2_500_000);
        self.world.agenda.after(pause, Event::ServerStarts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A seed that passed when it was played again was shown without a story, and without a word about that.
    #[test]
    fn a_failure_says_what_a_second_run_came_to() {
        let failed = |what: &str, story: &str| {
            Box::new(Failure { seed: 7, planted: None, what: what.to_owned(), story: story.to_owned() })
        };
        let told = |again| {
            let Failure { what, story, .. } = told_with(*failed("first", ""), again);
            (what, story)
        };
        let of = |what: &str, story: &str| (what.to_owned(), story.to_owned());
        assert_eq!(told(Err(failed("first", "told"))), of("first", "told"));
        assert_eq!(told(Err(failed("other", "told"))), of("first (and not the same in a second run: other)", "told"));
        assert_eq!(told(Ok(Tally::default())), of("first (and nothing in a second run, which passed)", ""));
    }
}
