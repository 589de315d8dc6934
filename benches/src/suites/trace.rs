//! Real traces, and workloads drawn after published ones: how well policies place.
//!
//! | experiment | asks |
//! |---|---|
//! | `replay` | how long jobs wait, how much of the machines is used, who is treated how |
//!
//! Without `--experiment` the replay runs.

mod machines;
mod replay;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use crate::figure::Figure;
use crate::progress::say;
use crate::replay::{Discipline, generator, placing::Placing, summary::Classes};
use crate::traces::{open, work::Trace};
use crate::{Run, interrupt};

/// The name of the suite.
pub(super) const NAME: &str = "trace";

/// What the suite `trace` does.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Suite trace")]
#[group(skip)]
pub(crate) struct Flags {
    /// Only this experiment
    #[arg(long, value_enum)]
    experiment: Option<Experiment>,
    /// Jobs to replay: a log in the Standard Workload Format, CSV of one's own or a published trace (docs/traces.md) [default: drawn after a
    /// published distribution]
    #[arg(long, value_name = "FILE")]
    jobs: Option<PathBuf>,
    /// The machines: a number, NxCORES[xGIB[xGPUS]], a CSV file, or changes of those there are: +20%, -3, CLASS=+20%, several joined by ","
    #[arg(long, value_name = "MACHINES", allow_hyphen_values = true)]
    machines: Option<String>,
    /// The machines that changes are about: a CSV file [default: those of the trace]
    #[arg(long, value_name = "FILE")]
    cell: Option<PathBuf>,
    /// Where tasks go: names of policies, joined by ","
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    policy: Vec<String>,
    /// Who is next: fifo, easy (in order, with backfilling), greedy (whoever fits); joined by ","
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    queue: Vec<String>,
    /// Runs: FIRST..LAST or numbers joined by ",". 0 is the trace as it was recorded; others move each arrival a little, and break ties at random
    #[arg(long, value_name = "SEEDS")]
    seeds: Option<String>,
    /// By how much seeds above 0 move arrivals, at most
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    jitter: u32,
    /// How waits are told apart
    #[arg(long, value_enum, default_value = "size")]
    classes: ClassesFlag,
    /// Drawn jobs: the part of the machines that they would use if none ever waited
    #[arg(long, default_value_t = 0.8)]
    load: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Experiment {
    Replay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClassesFlag {
    /// By cores or GPUs of the whole job
    Size,
    /// As the trace calls them
    Own,
}

/// Runs the suite.
pub(super) fn run(options: &Run) -> anyhow::Result<Vec<Figure>> {
    interrupt::listen()?;
    match options.trace.experiment {
        None | Some(Experiment::Replay) => replay::run(options),
    }
}

impl Flags {
    fn classes(&self) -> Classes {
        match self.classes {
            ClassesFlag::Size => Classes::Size,
            ClassesFlag::Own => Classes::Own,
        }
    }

    fn queues(&self, default: &[&str]) -> anyhow::Result<Vec<Discipline>> {
        named(&self.queue, default).iter().map(|name| Discipline::named(name)).collect()
    }

    /// Names of policies, each of which there is.
    fn policies(&self, default: &[&str]) -> anyhow::Result<Vec<String>> {
        let names = named(&self.policy, default);
        names.iter().try_for_each(|name| Placing::named(name, None).map(drop))?;
        Ok(names)
    }

    fn jitter_micros(&self) -> i64 {
        i64::from(self.jitter) * crate::traces::work::SECOND
    }
}

fn named(given: &[String], default: &[&str]) -> Vec<String> {
    if given.is_empty() { default.iter().map(|name| (*name).to_owned()).collect() } else { given.to_vec() }
}

/// The jobs that were asked for, or some that are drawn.
fn trace(options: &Run) -> anyhow::Result<Trace> {
    let flags = &options.trace;
    ensure!(flags.load > 0.0 && flags.load <= 2.0, "--load: expected a number above 0, to 2, found {}", flags.load);
    let trace = match &flags.jobs {
        Some(path) => open::jobs(path)?,
        None => {
            let count = if options.quick { 2000 } else { 10_000 };
            generator::jobs(count, flags.load, options.seed)
        }
    };
    for assumed in &trace.assumed {
        say(&format!("{}: {assumed}", trace.name));
    }
    for (reason, count) in &trace.left_out {
        say(&format!("{}: {count} jobs left out: {reason}", trace.name));
    }
    Ok(trace)
}

/// Seeds from `FIRST..LAST`, both counted in, or from numbers joined by commas.
fn seeds(text: &str) -> anyhow::Result<Vec<u64>> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let seeds = match text.split_once("..") {
        Some((first, last)) => match (number(first), number(last.trim_start_matches('='))) {
            (Some(first), Some(last)) if first <= last && last - first < 1000 => Some((first..=last).collect()),
            _ => None,
        },
        None => text.split(',').map(number).collect::<Option<Vec<u64>>>(),
    };
    seeds.with_context(|| {
        format!("--seeds: expected FIRST..LAST (at most 1,000) or numbers joined by \",\", found {text:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_with_both_ends_or_a_list() {
        assert_eq!(seeds("42..45").unwrap(), [42, 43, 44, 45]);
        assert_eq!(seeds("7").unwrap(), [7]);
        assert_eq!(seeds("1, 3").unwrap(), [1, 3]);
        for wrong in ["", "a", "5..1", "1..", "0..5000"] {
            assert!(seeds(wrong).unwrap_err().to_string().starts_with("--seeds: expected FIRST..LAST"), "{wrong}");
        }
    }
}
