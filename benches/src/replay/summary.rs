//! Figures of a replay.

use std::collections::BTreeMap;

use plenum_model::Resource;

use super::Replayed;
use super::ledger::{Record, seconds};
use crate::figure::{median, number};
use crate::traces::work::{GPUS, TraceJob};

/// A job that runs shorter counts as one of so many seconds when its slowdown is told: otherwise jobs of no length decide everything
/// (Feitelson, "Metrics for Parallel Job Scheduling and Their Convergence", JSSPP 2001).
const SLOWDOWN_BOUND_SECONDS: f64 = 10.0;

/// How jobs are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Classes {
    /// By the cores, or else the GPUs, that all of their tasks ask for.
    Size,
    /// By what the trace calls them.
    Own,
}

/// Waits and slowdowns of some jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Waits {
    pub(crate) jobs: u64,
    /// Seconds from submission until the last task was started.
    pub(crate) mean: f64,
    pub(crate) median: f64,
    pub(crate) p99: f64,
    /// Time from submission to end over the time that it ran, at least 1, with short jobs counted as longer ones; its mean.
    pub(crate) slowdown_mean: f64,
    pub(crate) slowdown_median: f64,
}

/// What one replay says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    pub(crate) all: Waits,
    pub(crate) by_class: BTreeMap<String, Waits>,
    pub(crate) cpu_used: f64,
    pub(crate) memory_used: Option<f64>,
    pub(crate) gpus_used: Option<f64>,
    /// Idle while as much was asked for: of GPUs where there are some, of CPU otherwise.
    pub(crate) lost: f64,
    /// See [`super::Moment::fragmented`]; its mean.
    pub(crate) fragmented: f64,
    /// Jain's index over users: 1 when the jobs of all have the same part of their time in the system for running, 1/n when one of n has all.
    /// `None` with fewer than two users.
    pub(crate) fairness: Option<f64>,
    /// From the first submission to the last end.
    pub(crate) makespan_seconds: f64,
    pub(crate) placements: u64,
    /// Jobs that would not even fit an empty cell.
    pub(crate) too_large: u64,
    /// Jobs that fit an empty cell and still wait at the end: behind something that never ends.
    pub(crate) never_started: u64,
}

impl Summary {
    /// Jobs of which not every task was started: they have no wait, and count in no other figure of jobs.
    pub(crate) fn not_started(&self) -> u64 {
        self.too_large + self.never_started
    }
}

/// Sums up a replay of these jobs.
pub(crate) fn summarise(jobs: &[TraceJob], replayed: &Replayed, classes: Classes) -> Summary {
    let ledger = &replayed.ledger;
    let finished: Vec<(&TraceJob, Waited)> =
        jobs.iter().zip(&ledger.records).filter_map(|(job, record)| Some((job, waited(job, record)?))).collect();
    let mut by_class: BTreeMap<String, Vec<Waited>> = BTreeMap::new();
    for (job, waited) in &finished {
        by_class.entry(class(job, classes)).or_default().push(*waited);
    }
    let last = ledger.records.iter().filter_map(|record| record.end).max().unwrap_or(ledger.to_micros);
    let moments = &ledger.moments;
    let count = |of: &dyn Fn(&Record) -> bool| ledger.records.iter().filter(|record| of(record)).count() as u64;
    Summary {
        all: waits(&mut finished.iter().map(|(_, waited)| *waited).collect::<Vec<_>>()),
        by_class: by_class.into_iter().map(|(class, mut jobs)| (class, waits(&mut jobs))).collect(),
        cpu_used: ledger.utilisation(Resource::CpuMillis).unwrap_or(0.0),
        memory_used: ledger.utilisation(Resource::MemoryBytes).filter(|used| *used > 1e-6),
        gpus_used: ledger.utilisation(Resource::ALL[3 + GPUS]),
        lost: ledger.lost(ledger.scarce()).unwrap_or(0.0),
        fragmented: moments.iter().map(|moment| moment.fragmented).sum::<f64>() / number(moments.len() as u64).max(1.0),
        fairness: fairness(&finished),
        makespan_seconds: seconds(last - ledger.from_micros),
        placements: replayed.placements,
        too_large: count(&|record| record.too_large),
        never_started: count(&|record| !record.too_large && record.all_started.is_none()),
    }
}

/// How one job fared, in seconds.
#[derive(Clone, Copy, Debug)]
struct Waited {
    wait: f64,
    slowdown: f64,
    /// The part of its time in the system in which it ran.
    ran: f64,
}

/// A job that runs for ever has a wait, and a slowdown of 1 more than... nothing: it counts as if it ran for the bound.
fn waited(job: &TraceJob, record: &Record) -> Option<Waited> {
    let wait = seconds(record.all_started? - job.submit_micros);
    let ran = job.run_micros.map_or(SLOWDOWN_BOUND_SECONDS, seconds);
    let bounded = ran.max(SLOWDOWN_BOUND_SECONDS);
    Some(Waited { wait, slowdown: ((wait + ran) / bounded).max(1.0), ran: bounded / (wait + bounded) })
}

fn waits(jobs: &mut [Waited]) -> Waits {
    if jobs.is_empty() {
        return Waits::default();
    }
    let sorted = |of: fn(&Waited) -> f64| {
        let mut values: Vec<f64> = jobs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (waits, slowdowns) = (sorted(|job| job.wait), sorted(|job| job.slowdown));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / number(values.len() as u64);
    let p99 = waits[(waits.len() * 99).div_ceil(100) - 1];
    Waits {
        jobs: waits.len() as u64,
        mean: mean(&waits),
        median: median(&waits),
        p99,
        slowdown_mean: mean(&slowdowns),
        slowdown_median: median(&slowdowns),
    }
}

/// Jain's index (Jain, Chiu and Hawe, DEC-TR-301, 1984) of the users' means.
fn fairness(jobs: &[(&TraceJob, Waited)]) -> Option<f64> {
    let mut users: BTreeMap<&str, (f64, u64)> = BTreeMap::new();
    for (job, waited) in jobs.iter().filter(|(job, _)| !job.user.is_empty()) {
        let (sum, count) = users.entry(&job.user).or_default();
        *sum += waited.ran;
        *count += 1;
    }
    let means: Vec<f64> = users.values().map(|(sum, count)| sum / number(*count)).collect();
    let (sum, squares) = (means.iter().sum::<f64>(), means.iter().map(|mean| mean * mean).sum::<f64>());
    (means.len() > 1).then(|| sum * sum / (number(means.len() as u64) * squares))
}

/// The class of a job: names sort as the sizes do.
pub(crate) fn class(job: &TraceJob, classes: Classes) -> String {
    if classes == Classes::Own {
        return if job.class.is_empty() { "none".to_owned() } else { job.class.clone() };
    }
    let gpus = job.each.custom[GPUS] * u64::from(job.tasks);
    let (amount, unit) =
        if gpus > 0 { (gpus, "gpus") } else { ((job.each.cpu_millis * u64::from(job.tasks)).div_ceil(1000), "cores") };
    let size = match amount {
        0..=1 => "001",
        2..=8 => "002-008",
        9..=64 => "009-064",
        _ => "065-",
    };
    format!("{unit}={size}")
}
