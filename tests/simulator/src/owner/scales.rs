//! Planned jobs whose groups get other numbers of tasks while they run, and not the first one alone: more, fewer than a group starts with, none at all,
//! and some again. Whatever is left of such a job in the end must complete.

use std::sync::Arc;

use plenum_model::{Cell, Command, GroupShape, Job, JobKind};

use super::{Owner, one};
use crate::random::Random;
use crate::world::{Event, World};

/// How often that happens in a run, in thousandths.
const SCALES_THOUSANDTHS: u64 = 250;
/// Sets the numbers apart of which that is drawn. With this one, no seed that failed once is another run.
const SCALES_SEED: u64 = 1022 << 40;
/// From one decision to the next, at most.
const PAUSE_MICROS_MAX: i64 = 900_000;
/// After a group was scaled to none it gets some tasks again within this time, if it does at all.
const BACK_MICROS_MAX: i64 = 1_500_000;
/// What the names of planned jobs begin with, and those of what is launched from them.
const PLANNED: &str = "job-";

/// What these decisions are drawn from; `None`: there are none.
pub(super) fn draw(seed: u64) -> Option<Random> {
    Random::drawn(seed, SCALES_SEED, SCALES_THOUSANDTHS)
}

/// Whether a job is planned, or launched from one that is.
pub(crate) fn is_planned(job: &Job) -> bool {
    job.shape.name.starts_with(PLANNED)
}

/// Those whose groups are scaled.
fn scaled(cell: &Cell) -> impl Iterator<Item = &Arc<Job>> {
    let jobs = cell.jobs().filter(|job| is_planned(job) && job.shape.kind == JobKind::ToCompletion);
    jobs.filter(|job| !job.state.is_final())
}

/// A job without any tasks waits for some for ever, and is to have one.
pub(super) fn to_go_on(cell: &Cell) -> impl Iterator<Item = Command> {
    let has_none = move |job: &&Arc<Job>| {
        job.group_positions().all(|group| cell.group(job, group).is_none_or(|row| row.count == 0))
    };
    let jobs = scaled(cell).filter(has_none);
    jobs.map(|job| Command::ScaleJob { job: job.id, version: None, group: 0, count: 1 })
}

/// How many tasks a group gets.
fn count(random: &mut Random, shape: &GroupShape) -> u32 {
    match random.below(8) {
        0 | 1 => 0,
        2 => shape.count,
        3 | 4 if shape.min > 1 => shape.min - 1,
        _ => one(random, 6),
    }
}

impl Owner {
    /// A group of a planned job gets another number of tasks; one that gets none often has some again soon.
    pub(crate) fn scales(&mut self, world: &mut World) {
        let Some(random) = self.of_scales.as_mut().filter(|_| !world.quiet) else { return };
        world.agenda.after(random.between(50_000, PAUSE_MICROS_MAX), Event::OwnerScales);
        let (several, single): (Vec<_>, Vec<_>) =
            scaled(world.books.cell()).partition(|job| job.shape.groups.len() > 1);
        let jobs = if several.is_empty() || random.chance(300) { single } else { several };
        let Some(job) = jobs.get(random.index(jobs.len())) else { return };
        let groups = &job.shape.groups;
        let later = groups.len() > 1 && random.chance(800);
        let position = if later { 1 + random.index(groups.len() - 1) } else { random.index(groups.len()) };
        let Some(shape) = groups.get(position) else { return };
        let (count, again) = (count(random, shape), shape.count.max(1));
        let comes_back = count == 0 && random.chance(700);
        let back_micros = random.between(0, BACK_MICROS_MAX);
        let (job, version) = (job.id, random.chance(500).then_some(job.version));
        let group = u16::try_from(position).unwrap_or(0);
        self.wish(world, 0, Command::ScaleJob { job, version, group, count });
        if comes_back {
            self.wish(world, back_micros, Command::ScaleJob { job, version: None, group, count: again });
        }
    }
}
