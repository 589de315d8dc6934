//! Real traces, and workloads drawn after published ones: how well policies place.
//!
//! | experiment | asks |
//! |---|---|
//! | `replay` | how long jobs wait, how much of the machines is used, who is treated how |
//! | `capacity` | what would fit on more or fewer machines, and how many are enough |
//! | `inflation` | how much of a cell's GPUs is allocated when more is asked for than there is |
//!
//! Without `--experiment` the replay runs; and if nothing is said of jobs and machines either, the inflation as well. For what no file is named, the known ones below `--data`
//! are taken, or some are generated.

mod capacity;
mod inflation;
mod machines;
mod made_of;
mod replay;
mod unread;
mod words;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use crate::Run;
use crate::kept::Kept;
use crate::progress::say;
use crate::replay::{Discipline, generator, placing::Placing, summary::Classes};
use crate::report::in_order;
use crate::traces::work::{MEMORY_UNTOLD, MachineClass, Trace, memory_is_told};
use crate::traces::{backup, open};

pub(crate) use unread::unread_flag;

/// The name of the suite.
pub(super) const NAME: &str = "trace";

/// By how much arrivals are moved, how long jobs may wait, and how much drawn jobs would use, unless it is said.
const JITTER_SECONDS: u32 = 60;
const WAIT_LIMIT_SECONDS: f64 = 600.0;
const LOAD: f64 = 0.8;

/// Seeds of replays, unless it is said.
const SEEDS: &str = "0..4";
const SEEDS_QUICK: &str = "0..2";

/// What the suite `trace` does.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Suite trace")]
#[group(skip)]
pub(crate) struct Flags {
    /// Only this experiment
    #[arg(long, value_enum)]
    experiment: Option<Experiment>,
    /// Jobs to replay: a log in the Standard Workload Format, CSV of one's own or a published trace (docs/traces.md) [default: the known log below
    /// --data, or drawn after a published distribution]
    #[arg(long, value_name = "FILE")]
    jobs: Option<PathBuf>,
    /// The machines: a number, NxCORES, NxCORESxGIB or NxCORESxGIBxGPUS, a CSV file, or changes of those there are: +20%, -3, CLASS=+20%, several joined by ","
    #[arg(long, value_name = "MACHINES", allow_hyphen_values = true)]
    machines: Option<String>,
    /// The machines that changes are about: a CSV file [default: those of the trace or the backup]
    #[arg(long, value_name = "FILE")]
    cell: Option<PathBuf>,
    /// A live cell's machines, and what runs and waits there: a file that `plenum backup` wrote. With --jobs, these come besides
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
    /// Where tasks go: names of policies, joined by ","
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    policy: Vec<String>,
    /// Who is next: fifo, easy (in order, with backfilling), greedy (whoever fits); joined by ","
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    queue: Vec<String>,
    /// Runs: FIRST..LAST or numbers joined by ",". 0 is the trace as it was recorded; others move each arrival a little, and break ties at random. Where all
    /// jobs are there at once, these come in another order
    #[arg(long, value_name = "SEEDS")]
    seeds: Option<String>,
    /// By how much seeds above 0 move arrivals, at most
    #[arg(long, value_name = "SECONDS", default_value_t = JITTER_SECONDS)]
    jitter: u32,
    /// How waits are told apart in a replay
    #[arg(long, value_enum, default_value = "size")]
    classes: ClassesFlag,
    /// Capacity: machines are enough when 99 of 100 jobs wait no longer, with each seed
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_LIMIT_SECONDS)]
    wait_limit: f64,
    /// Jobs are drawn, and none taken from --data: the part of the machines that they would use if none ever waited [default: 0.8]
    #[arg(long, value_name = "PART")]
    load: Option<f64>,
    #[command(flatten)]
    inflation: inflation::InflationFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Experiment {
    /// Policies and queue disciplines on one cell
    Replay,
    /// The same on more and fewer machines, and how many are enough
    Capacity,
    /// Tasks arrive until they ask for 130% of the GPUs
    Inflation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClassesFlag {
    /// By cores or GPUs of the whole job
    Size,
    /// As the trace calls them
    Own,
}

/// Runs the suite.
pub(super) fn run(options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let flags = &options.trace;
    let is_plain = !flags.says_anything();
    let options = &with_known_data(options);
    match flags.experiment {
        None if is_plain => {
            // First: what cannot be read ends the run before the replay, and not after it.
            let inflation = inflation::prepare(options)?;
            replay::run(options, kept)?;
            inflation.run(options, kept)
        }
        None | Some(Experiment::Replay) => replay::run(options, kept),
        Some(Experiment::Capacity) => capacity::run(options, kept),
        Some(Experiment::Inflation) => inflation::prepare(options)?.run(options, kept),
    }
}

/// Where the known files are below `--data`: a log, machines with GPUs, and lists of tasks for them.
const LOG: &str = "hpc/NASA-iPSC-1993-3.1-cln.swf.gz";
const NODES: &str = "fgd/openb_node_list_gpu_node.csv";
const LISTS: [&str; 13] = [
    "default",
    "cpu050",
    "cpu100",
    "cpu200",
    "gpushare100",
    "gpushare40",
    "gpushare80",
    "gpuspec10",
    "gpuspec20",
    "gpuspec33",
    "multigpu20",
    "multigpu30",
    "multigpu50",
];

/// The same with what is known of the data that is there, for all that no file is named.
fn with_known_data(options: &Run) -> Run {
    let mut options = options.clone();
    let Some(data) = options.data.clone() else { return options };
    let there = |name: &str| Some(data.join(name)).filter(|path| path.exists());
    let flags = &mut options.trace;
    if flags.jobs.is_none() && flags.backup.is_none() && flags.load.is_none() {
        flags.jobs = there(LOG);
    }
    let lists = LISTS.iter().take(if options.quick { 1 } else { LISTS.len() });
    let lists: Vec<PathBuf> = lists.filter_map(|list| there(&format!("fgd/openb_pod_list_{list}.csv"))).collect();
    if let (false, Some(nodes), false) = (flags.inflation.says_anything(), there(NODES), lists.is_empty()) {
        flags.inflation.take_lists(nodes, lists);
    }
    options
}

impl Experiment {
    fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Capacity => "capacity",
            Self::Inflation => "inflation",
        }
    }
}

impl Flags {
    /// Whether it is said what runs where.
    fn says_anything(&self) -> bool {
        let files = [&self.jobs, &self.cell, &self.backup];
        files.iter().any(|file| file.is_some())
            || self.machines.is_some()
            || !self.policy.is_empty()
            || !self.queue.is_empty()
            || self.inflation.says_anything()
    }

    /// What was said of machines, for names of cases: on others the same jobs are another case.
    fn machines_mark(&self) -> String {
        let machines = self.machines.as_ref().map(|machines| format!(" machines={machines}"));
        machines.into_iter().chain([self.cell_mark()]).collect()
    }

    /// The same of the machines that changes are about.
    fn cell_mark(&self) -> String {
        self.cell.as_ref().map_or_else(String::new, |cell| format!(" cell={}", cell.display()))
    }

    /// The same of arrivals.
    fn jitter_mark(&self) -> String {
        if self.jitter == JITTER_SECONDS { String::new() } else { format!(" jitter={}", self.jitter) }
    }

    /// The runs of a case.
    fn seeds_of_replays(&self, quick: bool) -> anyhow::Result<Vec<u64>> {
        seeds(self.seeds.as_deref().unwrap_or(if quick { SEEDS_QUICK } else { SEEDS }))
    }

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

/// What was named, each once: a case has one figure of a metric.
fn named(given: &[String], default: &[&str]) -> Vec<String> {
    let names: Vec<&str> = if given.is_empty() { default.to_vec() } else { given.iter().map(String::as_str).collect() };
    in_order(names.into_iter()).into_iter().map(str::to_owned).collect()
}

/// The jobs that were asked for, or some that are drawn.
fn trace(options: &Run) -> anyhow::Result<Trace> {
    let flags = &options.trace;
    let load = flags.load.unwrap_or(LOAD);
    ensure!(load > 0.0 && load <= 2.0, "--load: expected a number above 0, to 2, found {load}");
    let trace = match (&flags.jobs, &flags.backup) {
        (None, Some(path)) => backup::read(path)?,
        (Some(jobs), Some(path)) => backup::read(path)?.and(open::jobs(jobs)?),
        (Some(path), None) => open::jobs(path)?,
        (None, None) => {
            let count = if options.quick { 2000 } else { 10_000 };
            generator::jobs(count, load, options.seed)
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

/// Notes what nobody told of the machines, for whoever reads of what is used.
fn note_untold(trace: &mut Trace, machines: &[MachineClass]) {
    if !memory_is_told(machines) {
        say(&format!("{}: {MEMORY_UNTOLD}", trace.name));
        trace.assumed.push(MEMORY_UNTOLD.to_owned());
    }
}

/// Seeds from `FIRST..LAST`, both counted in, or from numbers joined by commas; each once, as a second run of one says nothing more.
fn seeds(text: &str) -> anyhow::Result<Vec<u64>> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let seeds = match text.split_once("..") {
        Some((first, last)) => match (number(first), number(last.trim_start_matches('='))) {
            (Some(first), Some(last)) if first <= last && last - first < 1000 => Some((first..=last).collect()),
            _ => None,
        },
        None => text.split(',').map(number).collect::<Option<Vec<u64>>>(),
    };
    let once = |mut seeds: Vec<u64>| {
        let mut seen = BTreeSet::new();
        seeds.retain(|seed| seen.insert(*seed));
        seeds
    };
    seeds.map(once).with_context(|| {
        format!("--seeds: expected FIRST..LAST (at most 1,000) or numbers joined by \",\", found {text:?}")
    })
}

#[cfg(test)]
mod tests;
