//! One run as a row of numbers: the columns that other implementations of the same experiments write.

use plenum_model::ConflictCheck;

use super::scheduler::{Job, Tally};
use super::settings::{Arch, Commit, Settings};
use super::simulation::Simulation;
use super::stage::seconds;
use super::workload::{Stream, float};

/// What became of one stream. Waits in seconds, the others as their names say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StreamRow {
    pub(crate) jobs: u64,
    /// Of which an attempt was made.
    pub(crate) attempted: u64,
    /// Of which every task was placed.
    pub(crate) fully: u64,
    pub(crate) wait_mean: f64,
    pub(crate) wait_p90: f64,
    /// Jobs without an attempt wait until the horizon.
    pub(crate) wait_censored_mean: f64,
    pub(crate) busy: f64,
    pub(crate) busy_useful: f64,
    pub(crate) busy_wasted: f64,
    /// What the first attempts took.
    pub(crate) busy_noconflict: f64,
    pub(crate) txn_ok: u64,
    pub(crate) txn_fail: u64,
    pub(crate) conflict_frac: f64,
    pub(crate) task_ok: u64,
    pub(crate) task_conflicted: u64,
    pub(crate) no_fit_attempts: u64,
    pub(crate) abandoned: u64,
    pub(crate) left_queue: u64,
}

impl StreamRow {
    /// Jobs that were not fully placed, in percent.
    pub(crate) fn pct_unsched(&self) -> f64 {
        if self.jobs == 0 { 0.0 } else { 100.0 * float(self.jobs - self.fully) / float(self.jobs) }
    }
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) settings: Settings,
    pub(crate) cpu_util: f64,
    pub(crate) mem_util: f64,
    pub(crate) cpu_locked: f64,
    pub(crate) batch: StreamRow,
    pub(crate) service: StreamRow,
    /// Claims that were granted.
    pub(crate) placements: u64,
}

/// The columns of [`Row::line`].
pub(crate) const COLUMNS: &str = "exp,workload,horizon_s,arch,conflict_mode,txn_mode,n_batch_scheds,tjob_batch,ttask_batch,\
tjob_service,ttask_service,lambda_mult,wl_seed,sched_seed,cpu_util,mem_util,cpu_locked,\
batch_jobs,batch_attempted,batch_fully,batch_pct_unsched,batch_wait_mean_s,batch_wait_p90_s,batch_wait_censored_mean_s,\
batch_busy,batch_busy_useful,batch_busy_wasted,batch_busy_noconflict,batch_txn_ok,batch_txn_fail,batch_conflict_frac,\
batch_task_ok,batch_task_conflicted,batch_no_fit_attempts,batch_abandoned,batch_left_queue,\
service_jobs,service_attempted,service_fully,service_pct_unsched,service_wait_mean_s,service_wait_p90_s,\
service_wait_censored_mean_s,service_busy,service_busy_useful,service_busy_wasted,service_busy_noconflict,service_txn_ok,\
service_txn_fail,service_conflict_frac,service_task_ok,service_task_conflicted,service_no_fit_attempts,service_abandoned,\
service_left_queue";

/// Where a number can't be told apart from another one: six digits, as in C's `%#.6g`.
pub(crate) fn six_digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value:.5}");
    }
    let exponent = format!("{value:.5e}");
    let power: i32 = exponent.rsplit_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    if (-4..6).contains(&power) {
        let places = usize::try_from(5 - power).unwrap_or(0);
        return format!("{value:.places$}");
    }
    let (digits, _) = exponent.split_once('e').unwrap_or((&exponent, ""));
    let sign = if power < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", power.abs())
}

/// A small value with the digits that count: `0.00123`, or `1.23e-5` below a ten-thousandth.
pub(crate) fn three_that_count(value: f64) -> String {
    if value.abs() < 1e-4 {
        return format!("{value:.2e}");
    }
    let places = (1..=7).find(|places| value.abs() * 10_f64.powi(*places) >= 1.0).unwrap_or(7);
    let places = usize::try_from(places + 2).unwrap_or(4);
    format!("{value:.places$}")
}

impl Row {
    /// What a run that has ended comes to.
    pub(crate) fn of(simulation: &Simulation) -> Self {
        let settings = simulation.settings.clone();
        let horizon = settings.horizon_micros;
        let (cpu_util, mem_util) = simulation.stage.utilisation(horizon);
        let cpu_locked = simulation.offers.as_ref().map_or(0.0, |offers| offers.locked(&simulation.stage, horizon));
        Self {
            cpu_util,
            mem_util,
            cpu_locked,
            batch: stream_row(simulation, Stream::Batch),
            service: stream_row(simulation, Stream::Service),
            placements: simulation.stage.granted,
            settings,
        }
    }

    /// The row of the experiment `exp`, as text.
    pub(crate) fn line(&self, exp: &str) -> String {
        let mut cells = vec![settings_as_cells(exp, &self.settings)];
        cells.extend([self.cpu_util, self.mem_util, self.cpu_locked].map(six_digits));
        for stream in [&self.batch, &self.service] {
            stream.cells(&mut cells);
        }
        cells.join(",")
    }
}

/// The columns that say what a row is, as text: they are known before it runs.
pub(crate) fn settings_as_cells(exp: &str, settings: &Settings) -> String {
    let shared = settings.arch == Arch::Omega;
    let check = match settings.check {
        _ if !shared => "na",
        ConflictCheck::Fit => "resource-fit",
        ConflictCheck::Sequence => "sequence-numbers",
    };
    let commit = match settings.commit {
        _ if !shared => "na",
        Commit::Incremental => "incremental",
        Commit::AllOrNothing => "all-or-nothing",
    };
    let mut cells = vec![
        exp.to_owned(),
        settings.cell.name.to_owned(),
        plain(seconds(settings.horizon_micros)),
        settings.arch.name().to_owned(),
        check.to_owned(),
        commit.to_owned(),
        settings.batch_schedulers.to_string(),
    ];
    let costs = [settings.batch, settings.service];
    cells.extend(
        costs.iter().flat_map(|cost| [cost.job_micros, cost.task_micros]).map(|cost| six_digits(seconds(cost))),
    );
    cells.push(six_digits(settings.rate));
    cells.extend([settings.workload_seed.to_string(), settings.scheduler_seed.to_string()]);
    cells.join(",")
}

/// A number without digits that say nothing.
pub(crate) fn plain(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl StreamRow {
    fn cells(&self, cells: &mut Vec<String>) {
        cells.extend([self.jobs, self.attempted, self.fully].map(|count| count.to_string()));
        let numbers = [
            self.pct_unsched(),
            self.wait_mean,
            self.wait_p90,
            self.wait_censored_mean,
            self.busy,
            self.busy_useful,
            self.busy_wasted,
            self.busy_noconflict,
        ];
        cells.extend(numbers.map(six_digits));
        cells.extend([self.txn_ok, self.txn_fail].map(|count| count.to_string()));
        cells.push(six_digits(self.conflict_frac));
        let counts = [self.task_ok, self.task_conflicted, self.no_fit_attempts, self.abandoned, self.left_queue];
        cells.extend(counts.map(|count| count.to_string()));
    }
}

fn stream_row(simulation: &Simulation, stream: Stream) -> StreamRow {
    let settings = &simulation.settings;
    let horizon = settings.horizon_micros;
    // Of a run that was stopped some jobs have not arrived: nobody waits for them.
    let arrived = |job: &&Job| job.plan.stream == stream && job.plan.submitted_micros <= horizon;
    let jobs: Vec<&Job> = simulation.jobs.iter().filter(arrived).collect();
    let position = usize::from(stream == Stream::Service);
    let mono = matches!(settings.arch, Arch::MonoSingle | Arch::MonoMulti);
    // Of a monolithic scheduler the whole counts for both streams, but for the time that it was busy.
    let of_stream = |index: usize| {
        mono || match stream {
            Stream::Service => index + 1 == simulation.schedulers.len(),
            _ => index + 1 < simulation.schedulers.len(),
        }
    };
    let schedulers: Vec<_> =
        simulation.schedulers.iter().enumerate().filter(|(index, _)| of_stream(*index)).map(|(_, one)| one).collect();
    let count = float(schedulers.len() as u64).max(1.0);
    let own = schedulers.iter().fold(Tally::default(), |sum, scheduler| sum.plus(scheduler.tallies[position]));
    let all = if mono { schedulers[0].tallies[0].plus(schedulers[0].tallies[1]) } else { own };
    let part = |micros: i64| seconds(micros) / seconds(horizon).max(1e-9) / count;
    let fruitless = if settings.retrying.fruitless_is_busy { own.fruitless_micros } else { 0 };
    let conflicts = schedulers.iter().map(|scheduler| {
        let tally = scheduler.tallies[position];
        // Whoever never committed counts as if its next transaction did: at least so much.
        float(tally.conflicted) / float(tally.committed.max(1))
    });
    let first = jobs.iter().filter_map(|job| job.first_thought_micros).sum::<i64>();
    let shared = settings.arch == Arch::Omega;
    StreamRow {
        jobs: jobs.len() as u64,
        attempted: jobs.iter().filter(|job| job.attempts > 0).count() as u64,
        fully: jobs.iter().filter(|job| job.attempts > 0 && job.waiting.is_empty()).count() as u64,
        busy: part(own.useful_micros + own.wasted_micros + fruitless),
        busy_useful: part(own.useful_micros),
        busy_wasted: part(own.wasted_micros + fruitless),
        busy_noconflict: part(first),
        txn_ok: all.committed,
        txn_fail: all.conflicted,
        conflict_frac: conflicts.sum::<f64>() / count,
        task_ok: if shared { all.claims_granted } else { 0 },
        task_conflicted: if shared { all.claims_refused } else { 0 },
        no_fit_attempts: all.fruitless,
        abandoned: all.abandoned,
        left_queue: schedulers.iter().map(|scheduler| scheduler.queue.len() as u64).sum(),
        ..waits(&jobs, horizon)
    }
}

/// How long jobs waited for their first attempt.
fn waits(jobs: &[&Job], horizon: i64) -> StreamRow {
    let attempted: Vec<_> = jobs.iter().filter(|job| job.attempts > 0).collect();
    let mut waits: Vec<i64> =
        attempted.iter().filter_map(|job| Some(job.first_micros? - job.plan.submitted_micros)).collect();
    waits.sort_unstable();
    let sum = seconds(waits.iter().sum());
    let never = jobs.iter().filter(|job| job.attempts == 0);
    let rest = seconds(never.map(|job| horizon - job.plan.submitted_micros).sum());
    let mean = |sum: f64, count: usize| if count == 0 { 0.0 } else { sum / float(count as u64) };
    let ninth = waits.get((waits.len() * 9 / 10).saturating_sub(1)).copied().unwrap_or(0);
    StreamRow {
        wait_mean: mean(sum, waits.len()),
        wait_p90: seconds(ninth),
        wait_censored_mean: mean(sum + rest, jobs.len()),
        ..StreamRow::default()
    }
}
