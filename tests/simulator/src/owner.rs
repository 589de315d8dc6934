//! The owner of the jobs: submits them, changes their mind, and asks again until there is an answer.

use plenum_model::{
    AllocationId, Command, Constraint, JobKind, JobState, MachineId, MachineState, Operator, Partition, Quota,
};
use plenum_proto::{jobs, v1};
use plenum_testkit::JobBuilder;

use crate::books::{Checked, hold};
use crate::describe;
use crate::faults::{Fault, Mix};
use crate::outfit;
use crate::random::Random;
use crate::rival;
use crate::seen::Seen;
use crate::world::{ConnectionId, Event, Message, Party, Purpose, Side, World};

mod governs;
mod mixed;
mod outfits;
mod runs;
mod scales;
#[cfg(test)]
mod tests;
mod users;

pub(crate) use scales::is_planned;

/// After this long a call is made again; after many tries twice as long each time. Of a cell whose disk is slow it would else ask for so much, again and
/// again, that nothing of it is answered in time.
const PATIENCE_MICROS: i64 = 1_000_000;
/// So many tries are as far apart as that.
const TRIES_ALIKE: u32 = 8;
/// So often it doubles at most.
const DOUBLED_MAX: u32 = 4;

/// Where jobs are: in the first one, or by chance in either.
pub(crate) const NAMESPACES: [&str; 2] = ["default", "other"];
/// Partitions that come and go, with the racks that they reserve: the first one, or both.
const PARTITIONS: [(&str, &str); 2] = [("apart", "r0"), ("beyond", "r1")];
/// Whom operators govern.
const SCHEDULERS: [&str; 3] = ["batch", "service", rival::NAME];
/// Memory of each task: see [`JobBuilder::group`].
pub(crate) const TASK_BYTES: u64 = 1 << 20;
/// For so long restarts count where clocks are set: agents reckon that by times that others wrote down. Elsewhere they count for ever.
const RESTARTS_WITHIN_MICROS: i64 = 4_000_000;
/// How often memory is limited and held in a run, in thousandths.
const OF_MEMORY_THOUSANDTHS: u64 = 300;
/// Sets the numbers apart of which that is drawn. With this one, no seed that failed once is another run.
const OF_MEMORY_SEED: u64 = 23 << 40;
/// How often there are two namespaces and two partitions in a run, in thousandths.
const OF_TWO_THOUSANDTHS: u64 = 400;
/// The same for these.
const OF_TWO_SEED: u64 = 175 << 40;

/// What few groups declare beyond resources. At least one task can always be placed somewhere.
fn declare(random: &mut Random, group: &mut v1::GroupShape) {
    if random.chance(150) {
        group.per_machine = one(random, 2);
    }
    if random.chance(150) {
        group.spread = vec![v1::Spread { attribute: "rack".into(), at_most: one(random, 2) }];
    }
    let anywhere = group.constraints.is_empty();
    if anywhere && random.chance(150) {
        let device = |millis| v1::Device { kind: "gpu".into(), index: 0, millis, model: String::new() };
        group.devices = match (random.chance(500), group.count % 2) {
            (true, _) => vec![device(1000)],
            (false, 0) => vec![device(400)],
            // Twice of one device.
            (false, _) => vec![device(300), device(300)],
        };
    }
    if random.chance(150) {
        let port = |name: &str, number| v1::Port { name: name.into(), number };
        group.ports = vec![port("http", 8080), port("other", 0)];
    }
    group.single_instance = random.chance(100);
    let free = group.per_machine == 0 && group.spread.is_empty() && group.ports.is_empty() && group.devices.is_empty();
    if anywhere && free && random.chance(100) {
        group.min = group.count.min(2);
    }
}

/// A job of which others are launched, for a built-in scheduler or the rival.
fn recurring(random: &mut Random, job: JobBuilder, cpu: i64, lost_after_micros: i64) -> v1::JobSpec {
    let each = random.between(cpu / 16, cpu / 4);
    let mut spec = job.group("work", one(random, 3), each).forgiving().spec();
    if let Some(shape) = &mut spec.shape {
        shape.kind = v1::JobKind::Recurring.into();
        let places = if random.chance(500) { "batch" } else { rival::NAME };
        // The job's own scheduler places what is launched, unless the option names another one. No draw of its own: seeds stay what they are.
        if each % 2 == 0 {
            shape.options.insert("launch.scheduler".into(), places.into());
        } else {
            shape.scheduler = places.into();
        }
        shape.groups.iter_mut().for_each(|group| group.lost_after_micros = lost_after_micros);
    }
    for body in spec.body.iter_mut().flat_map(|body| &mut body.groups) {
        body.command = vec!["/bin/once".to_owned()];
    }
    spec
}

/// That only this scheduler may claim in a rack; `None`: that all may again.
fn reserves((name, rack): (&str, &str), scheduler: Option<&str>) -> Command {
    let rack = Constraint { attribute: "rack".into(), operator: Operator::Equal, values: vec![rack.into()] };
    let partition = scheduler.map(|name| Partition { machines: vec![rack], schedulers: vec![name.into()] });
    Command::SetPartition { name: name.into(), partition }
}

fn one(random: &mut Random, most: u64) -> u32 {
    u32::try_from(1 + random.below(most)).unwrap_or(1)
}

/// Something that is asked until it is answered.
#[derive(Debug)]
struct Wish {
    command: Command,
    principal: &'static str,
    answered: bool,
    connection: Option<ConnectionId>,
    /// How often it was asked.
    tries: u32,
}

/// A job as its owner knows it.
#[derive(Debug)]
struct Plan {
    namespace: &'static str,
    name: String,
    /// It fits, and its tasks succeed in the end: it must complete.
    completes: bool,
    fits: bool,
    /// Each of its tasks ends by itself.
    ends: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    wishes: Vec<Wish>,
    plans: Vec<Plan>,
    /// Limits and holds are of memory, too, or of nothing else. Drawn from numbers of its own: a run without is the same as if there were none.
    of_memory: Option<Random>,
    /// There are two namespaces and two partitions, and a little room is held here and there. Drawn alike.
    of_two: Option<Random>,
    /// Jobs are run again and again. Drawn alike.
    of_runs: Option<Random>,
    /// There are jobs in which options meet. Drawn alike.
    of_mixed: Option<Random>,
    /// Groups of planned jobs are scaled, and not the first alone. Drawn alike.
    of_scales: Option<Random>,
    /// Jobs ask for what the run's outfit has. Drawn alike.
    of_outfit: Option<Random>,
    /// Several users ask. Drawn alike.
    of_users: Option<Random>,
}

impl Owner {
    pub(crate) fn new(seed: u64, mix: &Mix) -> Self {
        let of_memory = Random::drawn(seed, OF_MEMORY_SEED, OF_MEMORY_THOUSANDTHS);
        let of_two = Random::drawn(seed, OF_TWO_SEED, OF_TWO_THOUSANDTHS);
        let (of_runs, of_mixed, of_scales) = (runs::draw(seed, mix), mixed::draw(seed), scales::draw(seed));
        let of_outfit = outfit::numbers(seed).map(|mut random| Random::new(random.number()));
        let of_users = mix.has_users.then(|| users::numbers(seed));
        Self { of_memory, of_two, of_runs, of_mixed, of_scales, of_outfit, of_users, ..Self::default() }
    }

    /// Thinks up jobs, to be submitted in the course of time. `cpu_millis` is what the smallest machine has.
    pub(crate) fn plan(&mut self, world: &mut World, cpu_millis: i64) {
        let count = world.mix.jobs;
        for number in 0..count {
            let namespace = self.some_namespace();
            let lost_after_micros = world.mix.lost_after_micros;
            let mut spec = self.think_up(&mut world.random, number, namespace, cpu_millis, lost_after_micros);
            if world.mix.every_micros[Fault::ClockSet as usize] > 0 {
                let groups = spec.body.iter_mut().flat_map(|body| &mut body.groups);
                let policies = groups.filter_map(|group| group.restart.as_mut());
                policies.for_each(|policy| policy.within_micros = RESTARTS_WITHIN_MICROS);
            }
            self.dresses(&world.mix.outfit, &mut spec);
            let command = jobs::submit(spec).expect("the owner thinks of nothing that is no job");
            let at = world.random.between(0, world.mix.quiet_at_micros * 3 / 4);
            self.wish(world, at, command);
        }
        if world.mix.meddles_micros > 0 {
            world.agenda.after(world.mix.meddles_micros, Event::OwnerMeddles);
        }
        if self.of_runs.is_some() {
            world.agenda.after(0, Event::OwnerRuns);
        }
        if self.of_mixed.is_some() {
            world.agenda.after(0, Event::OwnerMixes);
        }
        if self.of_scales.is_some() {
            world.agenda.after(0, Event::OwnerScales);
        }
    }

    fn some_namespace(&mut self) -> &'static str {
        self.of_two.as_mut().map_or(NAMESPACES[0], |random| NAMESPACES[random.index(NAMESPACES.len())])
    }

    fn think_up(
        &mut self,
        random: &mut Random,
        number: usize,
        namespace: &'static str,
        cpu: i64,
        lost_after_micros: i64,
    ) -> v1::JobSpec {
        let name = format!("job-{number}");
        if number == 1 && random.chance(800) {
            let job = JobBuilder::new(&name, "cron").namespace(namespace);
            let spec = recurring(random, job, cpu, lost_after_micros);
            self.plans.push(Plan { namespace, name, completes: false, fits: true, ends: true });
            return spec;
        }
        // At most an eighth of the smallest machine for ever, so that something is always left.
        let forever = number == 0 || random.chance(150);
        let scheduler = match random.below(3) {
            _ if forever => "service",
            0 | 1 => "batch",
            _ => rival::NAME,
        };
        let fits = forever || !random.chance(80);
        let limited = !forever && random.chance(200);
        let each = if forever { cpu / 16 } else { random.between(cpu / 8, cpu / 2) };
        let each = if fits { each } else { cpu * 100 };
        let tasks = if forever { 1 + random.below(2) } else { 1 + random.below(8) };
        let tasks = u32::try_from(tasks).unwrap_or(1);
        let mut job = JobBuilder::new(&name, scheduler).group("work", tasks, each);
        let together = fits && !forever && random.chance(200);
        if together {
            job = JobBuilder::new(&name, scheduler).group("work", tasks.min(2), cpu / 4).same_machine();
            // Beside them, with a time of its own to be lost after: they must stay together all the same.
            job = job.group("beside", 1, cpu / 8);
        } else if fits && random.chance(150) {
            job = job.on("rack", if random.chance(500) { "r0" } else { "r1" });
        }
        if fits && !forever && random.chance(300) {
            job = job.group("then", 2, cpu / 8).after("work");
        }
        job = job.namespace(namespace).priority(u32::try_from(random.below(90)).unwrap_or(0));
        job = if forever { job.forever() } else { job };
        job = if limited { job } else { job.forgiving() };
        let mut spec = job.spec();
        for group in spec.shape.iter_mut().flat_map(|shape| &mut shape.groups) {
            group.lost_after_micros = if group.name == "beside" { 2 * lost_after_micros } else { lost_after_micros };
            // What runs for ever would keep devices, ports and places from the others for ever.
            if fits && !together && !forever {
                declare(random, group);
            }
        }
        for body in spec.body.iter_mut().flat_map(|body| &mut body.groups) {
            body.command = vec![if forever { "/bin/forever" } else { "/bin/once" }.to_owned()];
            if random.chance(400) {
                body.restart = Some(v1::RestartPolicy { attempts: 2, delay_micros: 200_000, within_micros: 0 });
            }
        }
        self.plans.push(Plan { namespace, name, completes: fits && !forever && !limited, fits, ends: !forever });
        spec
    }

    fn wish(&mut self, world: &mut World, after_micros: i64, command: Command) {
        let principal = self.of_users.as_mut().map_or(users::OWNER, |random| users::asks(random, &command));
        self.wishes.push(Wish { command, principal, answered: false, connection: None, tries: 0 });
        world.agenda.after(after_micros, Event::OwnerAsks { wish: self.wishes.len() - 1 });
    }

    /// Asks, and asks again later if there was no answer.
    pub(crate) fn asks(&mut self, world: &mut World, wish: usize) {
        let Some(asked) = self.wishes.get_mut(wish).filter(|asked| !asked.answered) else { return };
        if let Some(earlier) = asked.connection.take() {
            world.hang_up(earlier, Side::Client);
        }
        let id = world.connect(Party::Owner, Purpose::Ask { wish });
        asked.connection = Some(id);
        asked.tries += 1;
        let doubled = asked.tries.saturating_sub(TRIES_ALIKE).min(DOUBLED_MAX);
        let (principal, command) = (asked.principal, Box::new(asked.command.clone()));
        world.send(id, Side::Server, Message::Ask { principal, command });
        world.agenda.after(PATIENCE_MICROS << doubled, Event::OwnerAsks { wish });
    }

    /// An answer arrives, or a refusal to give one.
    pub(crate) fn receive(&mut self, world: &mut World, id: ConnectionId, wish: usize, message: &Message) {
        world.hang_up(id, Side::Client);
        let Some(asked) = self.wishes.get_mut(wish).filter(|asked| asked.connection == Some(id)) else { return };
        asked.connection = None;
        if let Message::Answered { done, is_above } = message {
            asked.answered = true;
            world.tally.saw(Seen::OwnerAnswered);
            let verdict = if *done { "done" } else { "rejected" };
            world.tell(|| format!("owner: answered: {}: {verdict}", describe::command(&asked.command)));
            // What comes to too much in the log, or is above a bound, need not be there.
            if let Command::SubmitJob { shape, .. } = &asked.command
                && *is_above
            {
                let is_there = world.books.endings.of(&shape.name).is_some();
                self.plans.retain(|plan| is_there || plan.name != *shape.name);
            }
            if let Command::SubmitJob { shape, .. } = &asked.command {
                world.tally.saw_times(Seen::Mixed, u64::from(*done && mixed::has(&shape.name)));
            }
        }
    }

    /// Has second thoughts.
    pub(crate) fn meddles(&mut self, world: &mut World) {
        if world.quiet {
            return;
        }
        let pause = world.random.between(1, 2 * world.mix.meddles_micros);
        world.agenda.after(pause, Event::OwnerMeddles);
        let thoughts = [self.second_thought(world), self.wants_more(world), self.wants_more(world)];
        let apart = self.keeps_apart(world.books.cell());
        let more = self.keeps_more(&world.mix.outfit, world.books.cell());
        let thoughts = thoughts.into_iter().chain(apart).chain(more).flatten();
        thoughts.for_each(|command| self.wish(world, 0, command));
    }

    fn second_thought(&mut self, world: &mut World) -> Option<Command> {
        let kind = world.random.below(16);
        let (jobs, machines) = (world.books.cell().jobs().count(), world.books.cell().machines().count());
        let (job, machine) = (world.random.index(jobs), world.random.index(machines));
        let live: Vec<AllocationId> = world.books.cell().allocations().map(|found| found.id).collect();
        let allocation = world.random.index(live.len());
        let count = u32::try_from(1 + world.random.below(5)).unwrap_or(1);
        if kind >= 10 {
            return self.governs(world, kind, machine);
        }
        let cell = world.books.cell();
        let job = cell.jobs().nth(job).cloned();
        let machine = cell.machines().nth(machine).cloned();
        match kind {
            0 => {
                let job = job?;
                self.forgive(&job.shape.name);
                // Decided on what it sees now, or not: drawn from what was drawn, so that all that follows stays as it was.
                let version = (count > 2).then_some(job.version);
                Some(Command::StopJob { job: job.id, version })
            }
            1..=3 => {
                let job = job.filter(|job| job.shape.kind != JobKind::Forever)?;
                let version = (count > 2).then_some(job.version);
                Some(Command::ScaleJob { job: job.id, version, group: 0, count })
            }
            4..=6 => live.get(allocation).copied().map(Command::StopAllocation),
            7 | 8 => {
                let machine = machine?;
                let cordoned = machine.state == MachineState::Ready;
                Some(Command::CordonMachine { machine: machine.id, cordoned })
            }
            _ => Some(Command::RemoveMachine { machine: machine?.id, unless_alive: count % 2 == 1 }),
        }
    }

    /// What operators do to the whole cell.
    fn governs(&mut self, world: &mut World, kind: u64, machine: usize) -> Option<Command> {
        let micros = world.random.between(100_000, 8_000_000);
        let name = SCHEDULERS[world.random.index(SCHEDULERS.len())];
        let millis = world.random.below(16_000);
        let lays_down = world.random.chance(700);
        let cell = world.books.cell();
        Some(match kind {
            10 | 11 => {
                let machine = cell.machines().nth(machine)?.id;
                let deadline = lays_down.then(|| cell.time().plus_micros(micros));
                Command::DrainMachine { machine, deadline }
            }
            12 if millis.is_multiple_of(2) => Command::PauseScheduler { scheduler: name.into(), paused: lays_down },
            12 => {
                let priority = Some(if lays_down { 7 } else { 1 });
                Command::SetRights { scheduler: name.into(), evicts: Some(!lays_down), priority }
            }
            13 | 14 => {
                let limit = lays_down.then_some(self.limit(millis));
                Command::SetQuota { namespace: NAMESPACES[0].into(), limit }
            }
            _ => reserves(PARTITIONS[0], lays_down.then_some(name)),
        })
    }

    /// So much CPU, memory for as many tasks, or both.
    fn limit(&mut self, millis: u64) -> Quota {
        let drawn = self.of_memory.as_mut().map_or(0, |random| random.below(3));
        let mut quota = Quota::default();
        quota.limits[0] = (drawn != 1).then_some(millis);
        quota.limits[1] = (drawn != 0).then_some(millis / 1000 * TASK_BYTES);
        quota
    }

    fn forgive(&mut self, name: &str) {
        for plan in self.plans.iter_mut().filter(|plan| plan.name == name) {
            plan.completes = false;
        }
    }

    /// Takes away what would keep something from running: machines out of service, pauses, limits, reservations, jobs of which nobody knows whether they
    /// come to an end, and that a job has no tasks at all.
    pub(crate) fn clears_the_way(&mut self, world: &mut World) {
        let cell = world.books.cell();
        let mut commands = Vec::new();
        for machine in cell.machines() {
            if machine.cordoned {
                commands.push(Command::CordonMachine { machine: machine.id, cordoned: false });
            }
            if machine.drain_deadline.is_some() {
                commands.push(Command::DrainMachine { machine: machine.id, deadline: None });
            }
        }
        let pauses = cell.paused().map(|scheduler| (scheduler.clone(), false));
        commands.extend(pauses.map(|(scheduler, paused)| Command::PauseScheduler { scheduler, paused }));
        commands.extend(cell.rights().map(|(scheduler, _)| Command::SetRights {
            scheduler: scheduler.clone(),
            evicts: Some(true),
            priority: Some(1),
        }));
        let quotas = cell.quotas().map(|(namespace, _)| namespace.clone());
        commands.extend(quotas.map(|namespace| Command::SetQuota { namespace, limit: None }));
        let partitions = cell.partitions().map(|(name, _)| name.clone());
        commands.extend(partitions.map(|name| Command::SetPartition { name, partition: None }));
        commands.extend(mixed::to_stop(cell));
        commands.extend(scales::to_go_on(cell));
        commands.into_iter().for_each(|command| self.wish(world, 0, command));
    }

    /// Removes a machine that is gone.
    pub(crate) fn removes(&mut self, world: &mut World, machine: MachineId) {
        let command = Command::RemoveMachine { machine, unless_alive: true };
        if !self.wishes.iter().any(|wish| !wish.answered && wish.command == command) {
            self.wish(world, 0, command);
        }
    }

    /// Everything that was asked is answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.wishes.iter().all(|wish| wish.answered)
    }

    /// All jobs that fit have come to their end, and those for ever run all their tasks.
    pub(crate) fn is_content(&self, world: &World) -> bool {
        let cell = world.books.cell();
        self.is_answered()
            && self.plans.iter().filter(|plan| plan.fits).all(|plan| {
                let Some(job) = cell.job_named(plan.namespace, &plan.name) else {
                    // Retired, or not submitted yet.
                    return world.books.endings.of(&plan.name).is_some_and(JobState::is_final);
                };
                let runs = |group: u16| {
                    let Some(row) = cell.group(job, group) else { return false };
                    let tasks = (0..row.count).filter_map(|task| cell.task(row, task)?.allocation.checked_sub(1));
                    let running = tasks.filter_map(|slot| cell.allocation_in(slot)).filter(|found| found.status.ready);
                    running.count() == row.count as usize
                };
                job.state.is_final()
                    || (job.shape.kind == JobKind::Forever && runs(0))
                    // It runs nothing itself; what was launched from it must come to its end.
                    || job.shape.kind == JobKind::Recurring
            })
            && cell.jobs().filter(|job| job.shape.parent.is_some()).all(|job| job.state.is_final())
            && runs::are_over(cell)
    }

    /// Stops everything that is left.
    pub(crate) fn stops_all(&mut self, world: &mut World) {
        let left = world.books.cell().jobs().filter(|job| !job.state.is_final());
        let left: Vec<_> = left.map(|job| job.id).collect();
        for job in left {
            self.wish(world, 0, Command::StopJob { job, version: None });
        }
    }

    /// Jobs that must complete did, and not before everything stopped. So did those that were launched from a recurring one, which fit and are as
    /// forgiving as that one, unless somebody stopped them.
    pub(crate) fn check_ends(&self, world: &mut World) -> Checked {
        for plan in &self.plans {
            let state = world.books.endings.of(&plan.name);
            world.tally.saw_times(Seen::JobComplete, u64::from(state == Some(JobState::Complete)));
            world.tally.saw_times(Seen::JobFailed, u64::from(state == Some(JobState::Failed)));
            hold(!plan.completes || state == Some(JobState::Complete), "invariant_jobs_that_fit_complete", || {
                format!("{} is {state:?}", plan.name)
            })?;
        }
        for (name, job, state) in world.books.endings.launched() {
            let stops_it =
                |wish: &Wish| matches!(wish.command, Command::StopJob { job: stopped, .. } if stopped == job);
            let completes = !self.wishes.iter().any(stops_it);
            hold(!completes || state == JobState::Complete, "invariant_jobs_that_fit_complete", || {
                format!("{name}, which was launched, is {state:?}")
            })?;
        }
        Ok(())
    }
}
