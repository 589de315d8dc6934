//! What the suite `omega` is asked for on the command line.

use anyhow::{bail, ensure};
use clap::Args;
use plenum_model::ConflictCheck;

use crate::cells::settings::{Arch, Beyond, Choice, Commit, Cost, PAPER, REFERENCE, Settings};
use crate::cells::workload::{CellShape, cell_named, micros};

/// Jobs that a single run may have, so that it fits in memory: some 300 bytes each.
const JOBS_MOST: f64 = 5e6;

/// Seconds that anything may take: eleven days of thinking, or ten years of cell.
const THINK_MOST: f64 = 1e6;
const HORIZON_MOST: f64 = 3.2e8;

/// One run of the scheduling simulator, instead of the whole suite; the others need `--arch`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "One run of the suite omega")]
pub(crate) struct Flags {
    /// How schedulers share the cell
    #[arg(long, value_parser = ["mono-single", "mono-multi", "partitioned", "mesos", "omega"])]
    arch: Option<String>,
    /// Cell and jobs [default: R1]
    #[arg(long, value_parser = ["R1", "R2", "R3"])]
    workload: Option<String>,
    /// When a claim conflicts: only without room, or whenever somebody else changed the machine [default: fit]
    #[arg(long, value_parser = ["fit", "sequence"])]
    conflict: Option<String>,
    /// What becomes of the other claims then [default: incremental]
    #[arg(long, value_parser = ["incremental", "all_or_nothing"])]
    commit: Option<String>,
    /// Schedulers of batch jobs [default: 1]
    #[arg(long, value_name = "N")]
    batch_schedulers: Option<u32>,
    /// Decision time of a batch job [default: 0.1]
    #[arg(long, value_name = "SECONDS")]
    tjob_batch: Option<f64>,
    /// And of each of its tasks [default: 0.005]
    #[arg(long, value_name = "SECONDS")]
    ttask_batch: Option<f64>,
    /// Decision time of a service job [default: 0.1]
    #[arg(long, value_name = "SECONDS")]
    tjob_service: Option<f64>,
    /// And of each of its tasks [default: 0.005]
    #[arg(long, value_name = "SECONDS")]
    ttask_service: Option<f64>,
    /// So many times as many batch jobs [default: 1]
    #[arg(long, value_name = "TIMES")]
    lambda: Option<f64>,
    /// Simulated time [default: 86400]
    #[arg(long, value_name = "SECONDS")]
    horizon: Option<f64>,
    /// Of the jobs [default: 1]
    #[arg(long, value_name = "N")]
    workload_seed: Option<u64>,
    /// Of the schedulers' draws [default: 0]
    #[arg(long, value_name = "N")]
    scheduler_seed: Option<u64>,
    /// Retries and giving up: as the public simulator does it, or as the paper says [default: reference]
    #[arg(long, value_parser = ["reference", "paper"])]
    rules: Option<String>,
    /// Spare machines that a transaction names, in percent of its claims; of --arch omega [default: 0]
    #[arg(long, value_name = "PERCENT")]
    alternates: Option<u32>,
    /// Schedulers draw from machines of their own first
    #[arg(long)]
    own_first: bool,
    /// Jobs have constraints on machines
    #[arg(long)]
    constrained: bool,
    /// How machines are chosen [default: random-first-fit]
    #[arg(long, value_parser = ["random-first-fit", "best-fit", "best-fit-decorrelated"])]
    choice: Option<String>,
    /// Write the jobs, too: jobs.csv, without a head: stream, number, submission (s), tasks, duration (s), and cores and 10^9 bytes a task
    #[arg(long)]
    pub(crate) write_jobs: bool,
}

/// A number within bounds, or what was expected.
fn within(flag: &str, value: f64, least: f64, most: f64) -> anyhow::Result<f64> {
    ensure!(
        value.is_finite() && (least..=most).contains(&value),
        "--{flag}: expected a number from {least} to {most}, found {value}"
    );
    Ok(value)
}

/// What deciding on a job of this stream costs.
fn cost(stream: &str, job: Option<f64>, task: Option<f64>) -> anyhow::Result<Cost> {
    let job = within(&format!("tjob-{stream}"), job.unwrap_or(0.1), 0.0, THINK_MOST)?;
    let task = within(&format!("ttask-{stream}"), task.unwrap_or(0.005), 0.0, THINK_MOST)?;
    Ok(Cost { job_micros: micros(job), task_micros: micros(task) })
}

impl Flags {
    /// The single run that is asked for, if one is.
    ///
    /// # Errors
    /// When something is out of range, contradicts the architecture, or is said without one.
    pub(crate) fn single(&self) -> anyhow::Result<Option<Settings>> {
        let Some(arch) = &self.arch else {
            ensure!(
                !self.says_anything(),
                "a single run needs --arch, one of mono-single, mono-multi, partitioned, mesos, omega; without it the whole suite runs, with its own settings"
            );
            return Ok(None);
        };
        let Some(arch) = Arch::ALL.into_iter().find(|one| one.name() == arch) else { bail!("no architecture {arch}") };
        let name = self.workload.as_deref().unwrap_or("R1");
        let Some(cell) = cell_named(name) else { bail!("no cell {name}") };
        let shared = arch == Arch::Omega;
        ensure!(
            shared || (self.conflict.is_none() && self.commit.is_none()),
            "--conflict and --commit are of --arch omega: with {} nobody conflicts",
            arch.name()
        );
        ensure!(
            shared || self.alternates.is_none(),
            "--alternates is of --arch omega: with {} no claim is refused, so no spare machine is ever taken",
            arch.name()
        );
        let whole = !matches!(arch, Arch::Partitioned | Arch::Mesos);
        ensure!(
            whole || self.choice.is_none(),
            "--choice is of architectures whose schedulers see all machines: with {} each sees a part, and draws from that",
            arch.name()
        );
        let batch_schedulers = self.batch_schedulers.unwrap_or(1);
        ensure!(
            (1..=1024).contains(&batch_schedulers),
            "--batch-schedulers: expected 1 to 1024, found {batch_schedulers}"
        );
        ensure!(
            batch_schedulers == 1 || matches!(arch, Arch::Omega | Arch::Mesos),
            "--batch-schedulers {batch_schedulers}: {} has one",
            arch.name()
        );
        let (rate, horizon) = self.load(cell)?;
        let batch = cost("batch", self.tjob_batch, self.ttask_batch)?;
        let service = cost("service", self.tjob_service, self.ttask_service)?;
        ensure!(
            arch != Arch::MonoSingle || batch == service,
            "mono-single decides on all jobs alike: expected equal decision times for batch and service jobs"
        );
        Ok(Some(Settings {
            cell,
            horizon_micros: micros(horizon),
            arch,
            check: if self.conflict.as_deref() == Some("sequence") {
                ConflictCheck::Sequence
            } else {
                ConflictCheck::Fit
            },
            commit: if self.commit.as_deref() == Some("all_or_nothing") {
                Commit::AllOrNothing
            } else {
                Commit::Incremental
            },
            batch_schedulers,
            batch,
            service,
            rate,
            workload_seed: self.workload_seed.unwrap_or(1),
            scheduler_seed: self.scheduler_seed.unwrap_or(0),
            retrying: if self.rules.as_deref() == Some("paper") { PAPER } else { REFERENCE },
            beyond: self.beyond()?,
        }))
    }

    /// How many jobs: the factor of batch jobs, and the horizon in seconds.
    fn load(&self, cell: &CellShape) -> anyhow::Result<(f64, f64)> {
        let rate = within("lambda", self.lambda.unwrap_or(1.0), 0.001, 10_000.0)?;
        let horizon = within("horizon", self.horizon.unwrap_or(86_400.0), 1.0, HORIZON_MOST)?;
        let jobs = horizon * (rate / cell.batch.gap_seconds + 1.0 / cell.service.gap_seconds);
        ensure!(
            jobs <= JOBS_MOST,
            "--lambda {rate} over --horizon {horizon} are about {jobs:.0} jobs, and a run has at most {JOBS_MOST}: take less of either"
        );
        Ok((rate, horizon))
    }

    fn beyond(&self) -> anyhow::Result<Beyond> {
        let alternates_percent = self.alternates.unwrap_or(0);
        ensure!(alternates_percent <= 1000, "--alternates: expected at most 1000 percent, found {alternates_percent}");
        Ok(Beyond {
            alternates_percent,
            own_first: self.own_first,
            constraints: self.constrained,
            choice: match self.choice.as_deref() {
                Some("best-fit") => Choice::BestFit,
                Some("best-fit-decorrelated") => Choice::BestFitDecorrelated,
                _ => Choice::RandomFirstFit,
            },
        })
    }

    /// Whether anything of a single run is said.
    fn says_anything(&self) -> bool {
        let words = [&self.workload, &self.conflict, &self.commit, &self.rules, &self.choice];
        let numbers =
            [self.tjob_batch, self.ttask_batch, self.tjob_service, self.ttask_service, self.lambda, self.horizon];
        let counts = [self.batch_schedulers, self.alternates];
        let seeds = [self.workload_seed, self.scheduler_seed];
        words.iter().any(|word| word.is_some())
            || numbers.iter().any(Option::is_some)
            || counts.iter().any(Option::is_some)
            || seeds.iter().any(Option::is_some)
            || self.own_first
            || self.constrained
            || self.write_jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn omega() -> Flags {
        Flags { arch: Some("omega".into()), ..Flags::default() }
    }

    #[test]
    fn a_run_without_more_words_has_the_papers_settings() {
        let settings = omega().single().unwrap().unwrap();
        assert_eq!((settings.cell.name, settings.batch_schedulers), ("R1", 1));
        assert_eq!(settings.batch, Cost { job_micros: 100_000, task_micros: 5000 });
        assert!(Flags::default().single().unwrap().is_none());
    }

    #[test]
    fn what_is_out_of_range_or_contradicts_itself_is_said_before_the_run() {
        let wrong = [
            (Flags { batch_schedulers: Some(0), ..omega() }, "--batch-schedulers"),
            (Flags { tjob_batch: Some(-1.0), ..omega() }, "--tjob-batch"),
            (Flags { ttask_service: Some(f64::NAN), ..omega() }, "--ttask-service"),
            (Flags { lambda: Some(0.0), ..omega() }, "--lambda"),
            (Flags { lambda: Some(10_000.0), horizon: Some(1e8), ..omega() }, "at most"),
            (Flags { horizon: Some(f64::INFINITY), ..omega() }, "--horizon"),
            (Flags { arch: Some("mesos".into()), conflict: Some("fit".into()), ..Flags::default() }, "--conflict"),
            (Flags { arch: Some("mono-single".into()), tjob_batch: Some(2.0), ..Flags::default() }, "alike"),
            (Flags { arch: Some("partitioned".into()), batch_schedulers: Some(3), ..Flags::default() }, "has one"),
            (Flags { arch: Some("mono-multi".into()), alternates: Some(50), ..Flags::default() }, "--alternates"),
            (Flags { arch: Some("partitioned".into()), alternates: Some(50), ..Flags::default() }, "--alternates"),
            (Flags { lambda: Some(2.0), ..Flags::default() }, "--arch"),
            (Flags { arch: Some("mesos".into()), choice: Some("best-fit".into()), ..Flags::default() }, "--choice"),
            (
                Flags { arch: Some("partitioned".into()), choice: Some("best-fit".into()), ..Flags::default() },
                "--choice",
            ),
        ];
        for (flags, word) in wrong {
            let error = flags.single().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
