//! Jobs in which options meet that other jobs have one by one, and which come back as other jobs than they were: with another scheduler, other groups,
//! another kind. Nobody promises that one of them fits. So none has to come to an end by itself, and those that are there when faults end are stopped.

use plenum_model::{Cell, Command};
use plenum_proto::{jobs, v1};
use plenum_testkit::JobBuilder;

use super::{NAMESPACES, Owner, SCHEDULERS, one, outfits};
use crate::random::Random;
use crate::world::{Event, World};

const NAMES: [&str; 3] = ["mixed-0", "mixed-1", "mixed-2"];
const GROUPS: [&str; 3] = ["first", "second", "third"];
/// How often there are any in a run, in thousandths.
const MIXED_THOUSANDTHS: u64 = 300;
/// Sets the numbers apart of which that is drawn. With this one, no seed that failed once is another run.
const MIXED_SEED: u64 = 811 << 40;
/// From one decision to the next, at most.
const PAUSE_MICROS_MAX: i64 = 900_000;
/// A group whose tasks are never given up for the silence of their machine.
const NEVER: i64 = -1;

/// What these jobs are drawn from; `None`: there are none.
pub(super) fn draw(seed: u64) -> Option<Random> {
    Random::drawn(seed, MIXED_SEED, MIXED_THOUSANDTHS)
}

/// Whether a job is one of them.
pub(super) fn has(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Those that are not over.
pub(super) fn to_stop(cell: &Cell) -> impl Iterator<Item = Command> {
    let jobs = cell.jobs().filter(|job| !job.state.is_final() && has(&job.shape.name));
    jobs.map(|job| Command::StopJob { job: job.id, version: None })
}

/// A job of up to three groups, which may contradict itself.
fn spec(random: &mut Random, name: &str, lost_after_micros: i64) -> v1::JobSpec {
    let scheduler = SCHEDULERS[random.index(SCHEDULERS.len())];
    let mut job = JobBuilder::new(name, scheduler).namespace(NAMESPACES[0]);
    let forever = random.chance(250);
    let together = random.chance(300);
    for (number, group) in GROUPS.iter().enumerate().take(1 + random.index(GROUPS.len())) {
        job = job.group(group, one(random, 4), random.between(100, 600));
        job = if number > 0 && !forever && random.chance(250) { job.after(GROUPS[number - 1]) } else { job };
        job = if random.chance(300) { job.single_instance() } else { job };
        job = if random.chance(250) { job.per_machine(one(random, 2)) } else { job };
        job = if !together && random.chance(250) { job.spread("rack", one(random, 2)) } else { job };
        job = if random.chance(200) { job.gpu([300, 400, 1000][random.index(3)]) } else { job };
        job = if random.chance(250) { job.port("http", [8080, 8081, 0][random.index(3)]) } else { job };
        job = if random.chance(400) { job.min(one(random, 4)) } else { job };
        job = if random.chance(200) { job.on("rack", ["r0", "r1"][random.index(2)]) } else { job };
        job = job.lost_after(if random.chance(200) { NEVER } else { lost_after_micros });
    }
    job = if together { job.same_machine() } else { job };
    job = if forever { job.forever() } else { job };
    let mut spec = job.priority(u32::try_from(random.below(90)).unwrap_or(0)).spec();
    let command = if forever { "/bin/forever" } else { ["/bin/once", "/bin/long"][random.index(2)] };
    for body in spec.body.iter_mut().flat_map(|body| &mut body.groups) {
        body.command = vec![command.to_owned()];
        if random.chance(300) {
            body.restart = Some(v1::RestartPolicy { attempts: 2, delay_micros: 200_000, within_micros: 0 });
        }
    }
    spec
}

impl Owner {
    /// One of these jobs is submitted, or has other counts, or is stopped.
    pub(crate) fn mixes(&mut self, world: &mut World) {
        let Some(random) = self.of_mixed.as_mut().filter(|_| !world.quiet) else { return };
        world.agenda.after(random.between(50_000, PAUSE_MICROS_MAX), Event::OwnerMixes);
        let name = NAMES[random.index(NAMES.len())];
        let found = world.books.cell().job_named(NAMESPACES[0], name).filter(|job| !job.state.is_final());
        let command = match (random.below(8), found) {
            (0, Some(job)) => Some(Command::StopJob { job: job.id, version: None }),
            (1..=4, Some(job)) => {
                let group = random.index(job.shape.groups.len());
                let count = u32::try_from(random.below(6)).unwrap_or(0);
                let group = u16::try_from(group).unwrap_or(0);
                Some(Command::ScaleJob { job: job.id, version: None, group, count })
            }
            // What contradicts itself is refused before it is asked for.
            _ => {
                let mut spec = spec(random, name, world.mix.lost_after_micros);
                if let Some(random) = &mut self.of_outfit {
                    outfits::dress_anyhow(random, &world.mix.outfit, &mut spec);
                }
                jobs::submit(spec).ok()
            }
        };
        command.into_iter().for_each(|command| self.wish(world, 0, command));
    }
}
