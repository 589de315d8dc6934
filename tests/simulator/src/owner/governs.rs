//! What gangs and operators ask for now and then: holds, launches, the adoption of tasks that nobody knows, or their end; and what the owner does
//! when the cell was restored.

use plenum_model::{Cell, Command, JobId, JobKind, JobState, MachineState, Resources, SessionId, any_waits};

use super::{NAMESPACES, Owner, PARTITIONS, SCHEDULERS, TASK_BYTES, reserves, runs};
use crate::agent::MEMORY_BYTES;
use crate::describe;
use crate::random::Random;
use crate::world::{Event, Side, World};

/// How often somebody looks for unknown tasks after a restore.
const LOOKS: usize = 4;
/// Instants begin here.
const FIRST_INSTANT_MICROS: i64 = 1_700_000_000_000_000;

impl Owner {
    /// What is asked for beside the other second thoughts.
    pub(super) fn wants_more(&mut self, world: &mut World) -> Option<Command> {
        match world.random.below(4) {
            0 => launches(world),
            1 => self.adopts(world).or_else(|| holds(world, self.of_memory.as_mut())),
            _ => holds(world, self.of_memory.as_mut()),
        }
    }

    /// What is asked for beside all that where there are two namespaces: limits of both, partitions of two racks, and a little room that is held.
    pub(super) fn keeps_apart(&mut self, cell: &Cell) -> [Option<Command>; 2] {
        let Some(random) = &mut self.of_two else { return [None, None] };
        let held = holds_a_little(cell, random, |random| Resources::new(100 + random.below(300), 0));
        let (which, scheduler) = (random.index(NAMESPACES.len()), SCHEDULERS[random.index(SCHEDULERS.len())]);
        let (kind, lays_down, millis) = (random.below(10), random.chance(600), random.below(8_000));
        let rule = match kind {
            0..4 => {
                let limit = lays_down.then_some(self.limit(millis));
                Some(Command::SetQuota { namespace: NAMESPACES[which].into(), limit })
            }
            4..6 => Some(reserves(PARTITIONS[which], lays_down.then_some(scheduler))),
            _ => None,
        };
        [held, rule]
    }

    /// A task of a cell before goes on, if it comes to an end by itself.
    fn adopts(&mut self, world: &mut World) -> Option<Command> {
        let ends = |job: &str| self.plans.iter().any(|plan| plan.name == job && plan.ends) || runs::has(job);
        let unknown = world.books.cell().unknown_tasks().filter(|(_, task)| ends(&task.traces.job));
        let unknown: Vec<_> = unknown.map(|(id, task)| (task.machine, id.allocation)).collect();
        let (machine, allocation) = *unknown.get(world.random.index(unknown.len()))?;
        Some(Command::AdoptUnknown { machine, allocation })
    }

    /// Looks for what runs and nobody knows, after a restore.
    pub(crate) fn adopts_now(&mut self, world: &mut World) {
        let commands = [self.adopts(world), takes_away(world)];
        commands.into_iter().flatten().for_each(|command| self.wish(world, 0, command));
    }

    /// The cell has forgotten what it was asked since: jobs that are not there are submitted again.
    pub(crate) fn restored(&mut self, world: &mut World) {
        for _ in 0..LOOKS {
            let pause = world.random.between(100_000, 5_000_000);
            world.agenda.after(pause, Event::OwnerAdopts);
        }
        for (number, wish) in self.wishes.iter_mut().enumerate() {
            // What the old cell may still answer does not count.
            if let Some(connection) = wish.connection.take() {
                world.hang_up(connection, Side::Client);
            }
            let Command::SubmitJob { shape, .. } = &wish.command else { continue };
            let there = world.books.cell().job_named(&shape.namespace, &shape.name).is_some();
            let over = world.books.endings.of(&shape.name).is_some_and(JobState::is_final);
            if wish.answered && !there && !over {
                world
                    .story
                    .tell(world.agenda.now(), || format!("owner: asks again: {}", describe::command(&wish.command)));
                wish.answered = false;
                world.agenda.after(0, Event::OwnerAsks { wish: number });
            }
        }
    }
}

/// Sometimes a machine that runs what nobody knows is to be taken away soon.
fn takes_away(world: &mut World) -> Option<Command> {
    let machines: Vec<_> = world.books.cell().unknown_tasks().map(|(_, task)| task.machine).collect();
    let machine = *machines.get(world.random.index(machines.len()))?;
    let micros = world.random.between(50_000, 800_000);
    let deadline = Some(world.books.cell().time().plus_micros(micros));
    world.random.chance(300).then_some(Command::DrainMachine { machine, deadline })
}

/// The child of a recurring job for its next instant; sometimes for one that is over.
fn launches(world: &mut World) -> Option<Command> {
    let parents = world.books.cell().jobs().filter(|job| job.shape.kind == JobKind::Recurring && !job.state.is_final());
    let parents: Vec<_> = parents.map(|job| (job.id, job.last_instant_micros)).collect();
    let (parent, last) = *parents.get(world.random.index(parents.len()))?;
    let later = [1_000_000, 60_000_000, 1_500_000, 0, -500_000][world.random.index(5)];
    let instant_micros = last.map_or(FIRST_INSTANT_MICROS, |last| last + later);
    Some(Command::Launch { parent, instant_micros })
}

/// That CPU, all memory of a machine but what a few tasks have, or both.
fn some_of_both(random: &mut Random, cpu_millis: u64) -> Resources {
    let memory_bytes = MEMORY_BYTES - random.below(4) * TASK_BYTES;
    match random.below(3) {
        0 => Resources::new(cpu_millis, 0),
        1 => Resources::new(0, memory_bytes),
        _ => Resources::new(cpu_millis, memory_bytes),
    }
}

/// A little room, of these `resources`, for some job of which something waits, on machines that take claims, for a short while: others have room beside it,
/// and those that check by `sequence` are refused.
pub(super) fn holds_a_little(
    cell: &Cell,
    random: &mut Random,
    resources: impl FnOnce(&mut Random) -> Resources,
) -> Option<Command> {
    let jobs = cell.jobs().filter(|job| !job.state.is_final() && job.shape.kind != JobKind::Recurring);
    let jobs: Vec<JobId> = jobs.filter(|job| any_waits(cell, job)).map(|job| job.id).collect();
    let job = *jobs.get(random.index(jobs.len()))?;
    let ready = cell.machines().filter(|machine| machine.state == MachineState::Ready);
    let machines = ready.map(|machine| machine.id.slot).filter(|_| random.chance(600)).collect();
    let resources = resources(random);
    let deadline = cell.time().plus_micros(random.between(200_000, 2_000_000));
    Some(Command::TakeHold { session: SessionId::default(), job, machines, resources, deadline })
}

/// Room for some job of which something waits, or now and then for any, on one machine or two, for as long as it may be and shorter; or it is given
/// back.
fn holds(world: &mut World, of_memory: Option<&mut Random>) -> Option<Command> {
    let held: Vec<JobId> = world.books.cell().holds().map(|(job, _)| job).collect();
    // Who finds nothing to renew asks for whichever. No draw of its own: seeds stay as they are as far as they can.
    let any = world.random.chance(400);
    let again = any && !held.is_empty();
    let cell = world.books.cell();
    let jobs = cell.jobs().filter(|job| !job.state.is_final() && job.shape.kind != JobKind::Recurring);
    let jobs = jobs.filter(|job| any || any_waits(cell, job));
    let jobs: Vec<JobId> = if again { held } else { jobs.map(|job| job.id).collect() };
    let job = *jobs.get(world.random.index(jobs.len()))?;
    let mut machines: Vec<u32> = world.books.cell().machines().map(|machine| machine.id.slot).collect();
    let first = world.random.index(machines.len());
    machines.rotate_left(first);
    machines.truncate(1 + world.random.index(2));
    if again && world.random.chance(400) {
        machines.clear();
    }
    let cpu_millis = world.random.between(500, 5_000).unsigned_abs();
    let resources = of_memory.map_or_else(|| Resources::new(cpu_millis, 0), |random| some_of_both(random, cpu_millis));
    let micros = world.random.between(100_000, 30_000_000);
    let deadline = world.books.cell().time().plus_micros(micros);
    Some(Command::TakeHold { session: SessionId::default(), job, machines, resources, deadline })
}
