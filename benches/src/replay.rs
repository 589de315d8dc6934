//! Replay of recorded jobs: discrete events around the production core and policies. Jobs arrive as the trace has them, a queue discipline says
//! who is next, a policy says where, the core grants, tasks end after their time.
//!
//! | module | what it is |
//! |---|---|
//! | `ground` | the cell: core, columns, and reports in the place of agents |
//! | `placing` | which policy |
//! | `queue` | who is next: in order, in order with backfilling, or whoever fits |
//! | `ledger` | what is summed up over time, and what came of each job |
//! | `summary` | figures of a replay: waits, slowdowns, fairness, utilisation |
//!
//! Deciding takes no time here: think times and conflicts are the matter of `cells`. One thread, integers for time, no hash order: the same
//! trace, cell, policy and seed give the same schedule.

pub(crate) mod generator;
pub(crate) mod ground;
mod ledger;
pub(crate) mod placing;
mod queue;
pub(crate) mod summary;

use std::collections::BTreeSet;

use anyhow::Context;
use plenum_model::JobId;

pub(crate) use ground::Ground;
pub(crate) use ledger::{Ledger, Moment, seconds};
pub(crate) use queue::Discipline;

use crate::cells::agenda::Agenda;
use crate::interrupt;
use crate::random::Random;
use crate::traces::work::TraceJob;
use ground::{Running, Sums};

/// Events between two looks at whether somebody wants to stop.
const EVENTS_BETWEEN_LOOKS: u64 = 1024;

/// A job on its way.
struct Waiting {
    id: JobId,
    /// Tasks that were started: those below this index.
    started: u32,
}

/// Tasks of one job that were started together.
struct Run {
    job: usize,
    running: Running,
    /// When they would end by what their user said.
    expected_micros: i64,
}

/// A replay that is under way.
pub(crate) struct Replay<'a> {
    jobs: &'a [TraceJob],
    ground: Ground,
    discipline: Discipline,
    now_micros: i64,
    arrived: usize,
    /// By job.
    waiting: Vec<Option<Waiting>>,
    /// Jobs with tasks that were not started, by arrival.
    queue: Vec<usize>,
    /// What all tasks ask for that were not started.
    asked: Sums,
    runs: Vec<Option<Run>>,
    /// When runs end.
    ends: Agenda<usize>,
    /// When they are expected to.
    expected: BTreeSet<(i64, usize)>,
    ledger: Ledger,
    /// Claims that were granted.
    placements: u64,
}

/// What came of it.
pub(crate) struct Replayed {
    pub(crate) ledger: Ledger,
    pub(crate) placements: u64,
}

impl<'a> Replay<'a> {
    /// Jobs, by submission, and the cell that they meet.
    pub(crate) fn new(jobs: &'a [TraceJob], ground: Ground, discipline: Discipline) -> Self {
        let ledger = Ledger::new(jobs, &ground);
        Self {
            jobs,
            ground,
            discipline,
            now_micros: jobs.first().map_or(0, |job| job.submit_micros),
            arrived: 0,
            waiting: jobs.iter().map(|_| None).collect(),
            queue: Vec::new(),
            asked: Sums::default(),
            runs: Vec::new(),
            ends: Agenda::new(),
            expected: BTreeSet::new(),
            ledger,
            placements: 0,
        }
    }

    /// Replays all jobs to their end; `None` when somebody stopped it.
    ///
    /// # Errors
    /// When core and policy disagree, or the cell is not sound at the end: bugs.
    pub(crate) fn run(mut self) -> anyhow::Result<Option<Replayed>> {
        let mut events = 0_u64;
        while let Some(at_micros) = self.next_event() {
            if events.is_multiple_of(EVENTS_BETWEEN_LOOKS) && interrupt::asked() {
                return Ok(None);
            }
            events += 1;
            self.ledger.pass(self.now_micros, at_micros, &self.ground, &self.asked, self.queue.len() as u64);
            self.now_micros = at_micros;
            self.end_runs()?;
            self.arrive()?;
            self.place_queue()?;
        }
        self.ledger.close(&self.ground, &self.asked, self.queue.len() as u64);
        self.ground.settle().context("after the replay")?;
        Ok(Some(Replayed { ledger: self.ledger, placements: self.placements }))
    }

    fn next_event(&self) -> Option<i64> {
        let arrival = self.jobs.get(self.arrived).map(|job| job.submit_micros);
        let end = self.ends.next_at();
        [arrival, end].into_iter().flatten().min()
    }

    /// Tasks that were not started.
    fn left(&self, job: usize) -> u32 {
        self.jobs[job].tasks - self.waiting[job].as_ref().map_or(0, |waiting| waiting.started)
    }

    fn end_runs(&mut self) -> anyhow::Result<()> {
        while self.ends.next_at().is_some_and(|at| at <= self.now_micros) {
            let Some((_, number)) = self.ends.next() else { break };
            let run = self.runs[number].take().expect("a run ends once");
            self.expected.remove(&(run.expected_micros, number));
            self.ground.end(&run.running, &self.jobs[run.job].each, self.now_micros)?;
            self.ledger.ended(run.job, self.now_micros, u32::try_from(run.running.len())?);
        }
        Ok(())
    }

    fn arrive(&mut self) -> anyhow::Result<()> {
        while let Some(job) = self.jobs.get(self.arrived)
            && job.submit_micros <= self.now_micros
        {
            let number = self.arrived;
            self.arrived += 1;
            if !self.ledger.fits_when_empty(number) {
                continue;
            }
            let id = self.ground.submit(job, self.now_micros)?;
            self.waiting[number] = Some(Waiting { id, started: 0 });
            self.queue.push(number);
            ground::add(&mut self.asked, &job.each, f64::from(job.tasks));
        }
        Ok(())
    }

    /// Starts tasks of a job on these machines.
    fn start(&mut self, job: usize, machines: &[u32]) -> anyhow::Result<()> {
        let trace_job = &self.jobs[job];
        for machines in machines.chunks(ground::CLAIMS_MAX as usize) {
            let waiting = self.waiting[job].as_mut().expect("a job of the queue waits");
            let running = self.ground.claim(waiting.id, waiting.started, &trace_job.each, machines, self.now_micros)?;
            waiting.started += u32::try_from(machines.len())?;
            self.placements += machines.len() as u64;
            ground::add(&mut self.asked, &trace_job.each, -number_of(machines));
            let run = self.runs.len();
            let expected = self.expected_end(trace_job);
            if let Some(run_micros) = trace_job.run_micros {
                self.ends.plan(self.now_micros.saturating_add(run_micros), run);
            }
            self.expected.insert((expected, run));
            self.runs.push(Some(Run { job, running, expected_micros: expected }));
        }
        self.ledger.started(job, self.now_micros, self.left(job) == 0);
        Ok(())
    }

    /// When tasks of the job that start now end, as far as its user told.
    fn expected_end(&self, job: &TraceJob) -> i64 {
        let expected = job.estimate_micros.or(job.run_micros);
        expected.map_or(i64::MAX, |micros| self.now_micros.saturating_add(micros))
    }
}

fn number_of(machines: &[u32]) -> f64 {
    crate::figure::number(machines.len() as u64)
}

/// The same jobs with arrivals that are each up to `jitter_micros` later, in their new order: what might as well have been recorded. Where all of them are
/// there at once, as in a live cell, nobody recorded arrivals: then they come in that order, and still at once. A cell that fills for a minute would count as
/// half used. So come jobs of a live cell that others come besides: as they were there before these, they stay so.
pub(crate) fn resampled(recorded: &[TraceJob], jitter_micros: i64, seed: u64) -> Vec<TraceJob> {
    let mut random = Random::new(seed);
    let bound = jitter_micros.max(0).unsigned_abs() + 1;
    let moved = |job: &TraceJob| {
        // Below 72 minutes half of a word is enough; above, the whole of it.
        let later = match u32::try_from(bound) {
            Ok(bound) => i64::from(random.below(bound)),
            Err(_) => i64::try_from((u128::from(random.next()) * u128::from(bound)) >> 64).expect("below an i64"),
        };
        TraceJob { submit_micros: job.submit_micros.saturating_add(later), ..job.clone() }
    };
    let mut jobs: Vec<TraceJob> = recorded.iter().map(moved).collect();
    jobs.sort_by_key(|job| job.submit_micros);
    let all_at = all_at(recorded);
    // Jobs of a live cell are all submitted at 0.
    let there_at = |job: &TraceJob| all_at.or_else(|| is_of_a_live_cell(job).then_some(0));
    jobs.iter_mut().for_each(|job| job.submit_micros = there_at(job).unwrap_or(job.submit_micros));
    jobs.sort_by_key(|job| (job.submit_micros, !is_of_a_live_cell(job)));
    jobs
}

/// Only there more is known of a job than its room.
fn is_of_a_live_cell(job: &TraceJob) -> bool {
    job.asks.is_some()
}

/// The one moment at which all jobs are submitted, if they are; they stand in the order of submission.
fn all_at(jobs: &[TraceJob]) -> Option<i64> {
    let (first, last) = (jobs.first()?.submit_micros, jobs.last()?.submit_micros);
    (first == last).then_some(first)
}

#[cfg(test)]
mod tests;
