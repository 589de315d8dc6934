//! Data-parallel jobs that can grow: what the paper's three policies make of idle room (its figures 15 and 16).
//!
//! The inputs were never published but for this: about a fifth of the jobs are MapReduce, and people ask for 5, 11, 200 or 1,000 workers. How often
//! each, and how much work the jobs have, is made up here and said in docs/omega.md. The cell is R2 with its batch and service jobs, filled to
//! different degrees; deciding takes no time, so that what differs is the policy alone. Every worker is a claim that the core decides.

use std::sync::Arc;

use anyhow::ensure;
use plenum_model::{AllocationId, Attributes, Placement, Resources, SessionId, Transaction, TransactionId};
use plenum_policies::{ElasticJob, ElasticPolicy, Idle};

use super::agenda::Agenda;
use super::mirror::Mirror;
use super::stage::{Asked, Free, Stage, seconds};
use super::workload::{CellShape, JobPlan, R2, Stream, float};
use crate::random::Random;

/// Workers that people ask for, with how many jobs of a hundred do.
const ASKED: [(u32, u32); 4] = [(5, 40), (11, 30), (200, 25), (1000, 5)];
/// A worker takes half a core and 10^9 bytes, in the cell's units.
const WORKER: Resources = Resources::new(5000, 10_000_000_000);
/// A job that found no room at all tries again.
const RETRY_MICROS: i64 = 1_000_000;
/// Between two looks at how full the cell is.
const SAMPLE_MICROS: i64 = 60_000_000;

/// What a run of one policy came to.
pub(crate) struct Grown {
    /// How many times as fast each job was as with the workers that it asked for, rising.
    pub(crate) speed_ups: Vec<f64>,
    /// By minute, the part of the CPU that was used.
    pub(crate) used: Vec<f64>,
    /// Workers that were placed.
    pub(crate) workers: u64,
}

impl Grown {
    /// The speed-up below which so many of a hundred jobs are.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let last = self.speed_ups.len().saturating_sub(1);
        self.speed_ups.get((self.speed_ups.len() * percent / 100).min(last)).copied().unwrap_or(1.0)
    }

    /// The part of the jobs that became faster.
    pub(crate) fn accelerated(&self) -> f64 {
        let faster = self.speed_ups.iter().filter(|&&times| times > 1.0).count();
        float(faster as u64) / float(self.speed_ups.len() as u64).max(1.0)
    }

    /// Mean and standard deviation of the part of the CPU that was used.
    pub(crate) fn utilisation(&self) -> (f64, f64) {
        let count = float(self.used.len() as u64).max(1.0);
        let mean = self.used.iter().sum::<f64>() / count;
        let squares: f64 = self.used.iter().map(|used| (used - mean).powi(2)).sum();
        (mean, (squares / count).sqrt())
    }
}

/// The jobs that can grow, a quarter as many as R2 has batch jobs: a fifth of all.
fn elastic_jobs(seed: u64, horizon_seconds: f64) -> Vec<(i64, ElasticJob)> {
    let mut random = Random::new(seed ^ 0x006d_6170_7265_6475);
    let mut uniform = move || (float(random.next() >> 11) + 0.5) / float(1 << 53);
    let mut jobs = Vec::new();
    let mut submitted = 0.0;
    loop {
        submitted -= 4.0 * R2.batch.gap_seconds * uniform().ln();
        if submitted >= horizon_seconds {
            return jobs;
        }
        let mut drawn = uniform() * 100.0;
        let asked = ASKED.iter().find(|(_, percent)| {
            drawn -= f64::from(*percent);
            drawn < 0.0
        });
        let asked = asked.map_or(5, |(asked, _)| *asked);
        // Maps for each worker that was asked for: half of the jobs have two or fewer, a tenth more than ten.
        let normal = (-2.0 * uniform().ln()).sqrt() * (2.0 * std::f64::consts::PI * uniform()).cos();
        let maps = (f64::from(asked) * 2.0 * (1.25 * normal).exp()).ceil().clamp(1.0, 20_000.0);
        let whole = |value: f64| u32::try_from(super::workload::micros(value / 1e6)).unwrap_or(u32::MAX);
        jobs.push((
            super::workload::micros(submitted),
            ElasticJob {
                asked,
                maps: whole(maps),
                reduces: whole((maps / 5.0).ceil()),
                map_micros: super::workload::micros(30.0 - 30.0 * uniform().ln()),
                reduce_micros: super::workload::micros(60.0 - 60.0 * uniform().ln()),
            },
        ));
    }
}

#[derive(Clone, Copy)]
enum Event {
    Plain(usize),
    Elastic(usize),
    End(usize),
    Sample,
}

struct Running {
    allocations: Vec<(u32, AllocationId)>,
    each: Resources,
}

struct Farm {
    stage: Stage,
    mirror: Mirror,
    random: Random,
    agenda: Agenda<Event>,
    running: Vec<Option<Running>>,
    name: Arc<str>,
    session: SessionId,
    number: u64,
    workers: u64,
}

impl Farm {
    /// Places up to `count` tasks of a new job on what is free; how many went somewhere.
    fn place(&mut self, at: i64, count: u32, each: Resources) -> anyhow::Result<Vec<(u32, AllocationId)>> {
        self.mirror.follow(&self.stage);
        let mut machines = Vec::new();
        self.mirror.place(&mut self.random, Free::of(&each), count as usize, |_| true, &mut machines);
        if machines.is_empty() {
            return Ok(Vec::new());
        }
        let tasks = u32::try_from(machines.len())?;
        self.number += 1;
        let name = format!("job-{}", self.number);
        let asked = Asked { name, scheduler: self.name.clone(), tasks, resources: each, constraints: Vec::new() };
        let job = self.stage.submit(asked, at)?;
        let placement = Placement {
            job,
            job_version: 1,
            machines: machines.clone(),
            tasks: (0..tasks).collect(),
            ..Placement::default()
        };
        let id = TransactionId { session: self.session, number: self.number };
        let base = self.stage.revision();
        let txn = Transaction { id, incarnation: 1, base, placements: vec![placement], ..Transaction::default() };
        let outcome = self.stage.commit(txn, at)?;
        ensure!(outcome.refusals.is_empty(), "nobody else places anything: {:?}", outcome.refusals.first());
        Ok(machines.into_iter().zip(outcome.placements.into_iter().flatten().flatten()).collect())
    }

    fn run(&mut self, at: i64, allocations: Vec<(u32, AllocationId)>, each: Resources, micros: i64) {
        self.running.push(Some(Running { allocations, each }));
        self.agenda.plan(at.saturating_add(micros), Event::End(self.running.len() - 1));
    }

    /// What the policies see.
    fn idle(&self, need: u32) -> Idle {
        let each = Free::of(&WORKER);
        let mut workers = 0u32;
        for free in self.stage.free() {
            let fit = (free.cpu / each.cpu).min(free.memory / each.memory).max(0);
            workers = workers.saturating_add(u32::try_from(fit).unwrap_or(u32::MAX));
            if workers >= need {
                break;
            }
        }
        let (used, whole) = (self.stage.used(), self.stage.whole());
        let of = |amount: i64| amount.unsigned_abs();
        Idle { workers, used: of(used.cpu), capacity: of(whole.cpu), each: of(each.cpu) }
    }
}

/// Runs the cell, filled to `fill`, for so long. Without a policy every job gets what it asks for. `None` where it was told not to go on: what a part of that
/// time came to is not what the whole comes to.
pub(crate) fn run(
    policy: Option<ElasticPolicy>,
    fill: f64,
    seed: u64,
    horizon_seconds: f64,
    go_on: &dyn Fn() -> bool,
) -> anyhow::Result<Option<Grown>> {
    let cell = CellShape { fill, ..R2 };
    let mut stage = Stage::new(cell.machines, cell.capacity(), |_| Attributes::new())?;
    let name: Arc<str> = "mapreduce".into();
    let session = stage.open(&name)?;
    let mut farm = Farm {
        stage,
        mirror: Mirror::new(0..cell.machines),
        random: Random::new(seed),
        agenda: Agenda::new(),
        running: Vec::new(),
        name,
        session,
        number: 0,
        workers: 0,
    };
    let plans: Vec<JobPlan> = cell.jobs(seed, horizon_seconds, 1.0);
    for plan in plans.iter().filter(|plan| plan.stream == Stream::Prefill) {
        farm.place(0, plan.tasks, plan.resources())?;
    }
    let elastic = elastic_jobs(seed, horizon_seconds);
    for (number, plan) in plans.iter().enumerate().filter(|(_, plan)| plan.stream != Stream::Prefill) {
        farm.agenda.plan(plan.submitted_micros, Event::Plain(number));
    }
    for (number, (submitted, _)) in elastic.iter().enumerate() {
        farm.agenda.plan(*submitted, Event::Elastic(number));
    }
    farm.agenda.plan(SAMPLE_MICROS, Event::Sample);
    let mut grown = Grown { speed_ups: Vec::new(), used: Vec::new(), workers: 0 };
    while let Some((at, event)) = farm.agenda.next().filter(|(at, _)| seconds(*at) < horizon_seconds) {
        match event {
            // What has no room at all is left out: it is there to make the cell's use vary, and is not what is measured.
            Event::Plain(number) => {
                let plan = &plans[number];
                let placed = farm.place(at, plan.tasks, plan.resources())?;
                if !placed.is_empty() {
                    farm.run(at, placed, plan.resources(), plan.duration_micros);
                }
            }
            Event::Elastic(number) => start(&mut farm, policy, &elastic[number].1, (at, number), &mut grown)?,
            Event::End(number) => {
                if let Some(ended) = farm.running[number].take() {
                    farm.stage.end(&ended.allocations, &ended.each, at)?;
                }
            }
            Event::Sample => {
                if !go_on() {
                    return Ok(None);
                }
                let (used, whole) = (farm.stage.used(), farm.stage.whole());
                grown.used.push(float(used.cpu.unsigned_abs()) / float(whole.cpu.unsigned_abs()));
                farm.agenda.plan(at + SAMPLE_MICROS, Event::Sample);
            }
        }
    }
    farm.stage.settle()?;
    grown.speed_ups.sort_by(f64::total_cmp);
    grown.workers = farm.workers;
    Ok(Some(grown))
}

/// A job that can grow starts with what its policy gives it and has room; later, if nothing has.
fn start(
    farm: &mut Farm,
    policy: Option<ElasticPolicy>,
    job: &ElasticJob,
    (at, number): (i64, usize),
    grown: &mut Grown,
) -> anyhow::Result<()> {
    let wanted = policy.map_or(job.asked, |policy| policy.workers(job, &farm.idle(job.useful())));
    let placed = farm.place(at, wanted, WORKER)?;
    let workers = u32::try_from(placed.len())?;
    if workers == 0 {
        farm.agenda.plan(at + RETRY_MICROS, Event::Elastic(number));
        return Ok(());
    }
    farm.workers += u64::from(workers);
    grown.speed_ups.push(job.speed_up(workers));
    farm.run(at, placed, WORKER, job.duration_micros(workers));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(policy: Option<ElasticPolicy>, fill: f64) -> Grown {
        run(policy, fill, 1, 600.0, &|| true).unwrap().unwrap()
    }

    // What it had come to by then was told as what the whole day comes to.
    #[test]
    fn a_run_that_is_stopped_comes_to_nothing() {
        let looks = std::cell::Cell::new(0);
        let five_minutes = || looks.replace(looks.get() + 1) < 5;
        assert!(run(None, 0.2, 1, 600.0, &five_minutes).unwrap().is_none());
        assert_eq!(looks.get(), 6);
    }

    #[test]
    fn jobs_that_get_what_they_ask_for_are_as_fast_as_they_asked() {
        let usual = minutes(None, 0.2);
        assert!(usual.speed_ups.len() > 20);
        assert_eq!((usual.speed_ups[0], usual.accelerated()), (1.0, 0.0));
    }

    #[test]
    fn an_idle_cell_makes_most_jobs_faster_and_a_cap_that_is_reached_none() {
        let all = minutes(Some(ElasticPolicy::MaxParallelism), 0.2);
        assert!(all.accelerated() > 0.4 && all.percentile(80) > 1.5, "{} {}", all.accelerated(), all.percentile(80));
        let relative = minutes(Some(ElasticPolicy::RelativeJobSize { times: 4 }), 0.2);
        assert!(relative.speed_ups.last() <= Some(&8.0) && relative.percentile(80) <= all.percentile(80));
        let capped = minutes(Some(ElasticPolicy::GlobalCap { used_millis: 100 }), 0.2);
        assert_eq!(capped.accelerated(), 0.0);
    }

    #[test]
    fn the_same_seed_gives_the_same_speed_ups() {
        let once = minutes(Some(ElasticPolicy::MaxParallelism), 0.2);
        let twice = minutes(Some(ElasticPolicy::MaxParallelism), 0.2);
        assert_eq!((once.speed_ups, once.used, once.workers), (twice.speed_ups, twice.used, twice.workers));
    }
}
