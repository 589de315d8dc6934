//! Jobs that are run again and again, by several who each take themselves for the only one to do so: one looks and decides, and what comes of that may be
//! asked for when another has decided meanwhile. So each says which version of the job was looked at.

use plenum_model::{Cell, Command};
use plenum_proto::{jobs, v1};
use plenum_testkit::JobBuilder;

use super::{NAMESPACES, Owner, one};
use crate::faults::{Fault, Mix};
use crate::random::Random;
use crate::rival;
use crate::world::{Event, World};

/// Their names, and who places them.
const RUNS: [(&str, &str); 2] = [("run-0", "batch"), ("run-1", rival::NAME)];
/// How often there are any in a run, in thousandths; and where the cell is restored, whose agents then tell of versions that it has forgotten.
const RUNS_THOUSANDTHS: u64 = 250;
const RESTORED_THOUSANDTHS: u64 = 600;
/// Sets the numbers apart of which that is drawn. With this one, no seed that failed once is another run.
const RUNS_SEED: u64 = 547 << 40;
/// From one decision to the next, at most.
const PAUSE_MICROS_MAX: i64 = 700_000;
/// Who stands still behind a look asks so much later at most: for longer than most versions run.
const LATE_MICROS_MAX: i64 = 4_000_000;

/// What those who run them draw from; `None`: nobody does.
pub(super) fn draw(seed: u64, mix: &Mix) -> Option<Random> {
    let is_restored = mix.every_micros[Fault::Restore as usize] > 0;
    Random::drawn(seed, RUNS_SEED, if is_restored { RESTORED_THOUSANDTHS } else { RUNS_THOUSANDTHS })
}

/// Whether a job is one of them: all of its tasks come to an end by themselves.
pub(super) fn has(name: &str) -> bool {
    RUNS.iter().any(|(run, _)| *run == name)
}

/// Whether all of them are over: they fit wherever nobody keeps room from them, their tasks come to an end, and failures are forgiven.
pub(super) fn are_over(cell: &Cell) -> bool {
    RUNS.iter().all(|(name, _)| cell.job_named(NAMESPACES[0], name).is_none_or(|job| job.state.is_final()))
}

/// Few small tasks, each with a single instance, some of which run for long. One submission is not like another.
fn job(random: &mut Random, (name, scheduler): (&str, &str), lost_after_micros: i64) -> v1::JobSpec {
    let (tasks, each) = (one(random, 2), 100 * random.between(1, 2));
    let job = JobBuilder::new(name, scheduler).namespace(NAMESPACES[0]).group("work", tasks, each).single_instance();
    let mut spec = job.lost_after(lost_after_micros).forgiving().spec();
    let command = if random.chance(600) { "/bin/long" } else { "/bin/once" };
    for body in spec.body.iter_mut().flat_map(|body| &mut body.groups) {
        body.command = vec![command.to_owned()];
    }
    spec
}

impl Owner {
    /// Somebody looks at a job, and decides what is to become of it.
    pub(crate) fn runs_again(&mut self, world: &mut World) {
        let Some(random) = self.of_runs.as_mut().filter(|_| !world.quiet) else { return };
        world.agenda.after(random.between(50_000, PAUSE_MICROS_MAX), Event::OwnerRuns);
        let run = RUNS[random.index(RUNS.len())];
        let late_micros = if random.chance(500) { random.between(0, LATE_MICROS_MAX) } else { 0 };
        let found = world.books.cell().job_named(NAMESPACES[0], run.0);
        let seen = Some(found.map_or(0, |job| job.version));
        let live = found.filter(|job| !job.state.is_final()).map(|job| job.id);
        let command = match (random.below(6), live) {
            (0, Some(job)) => Command::StopJob { job, version: seen },
            (1, Some(job)) => Command::ScaleJob { job, version: seen, group: 0, count: one(random, 3) },
            _ => {
                let spec = job(random, run, world.mix.lost_after_micros);
                expecting(jobs::submit(spec).expect("it is a job"), seen)
            }
        };
        self.wish(world, late_micros, command);
    }
}

/// A submission that expects this version of its job.
fn expecting(mut command: Command, version: Option<u32>) -> Command {
    if let Command::SubmitJob { expected_version, .. } = &mut command {
        *expected_version = version;
    }
    command
}
