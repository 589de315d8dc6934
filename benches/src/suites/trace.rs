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
mod replay;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use crate::Run;
use crate::kept::Kept;
use crate::progress::say;
use crate::replay::{Discipline, generator, placing::Placing, summary::Classes};
use crate::report::in_order;
use crate::traces::{backup, open, work::Trace};

/// The name of the suite.
pub(super) const NAME: &str = "trace";

/// By how much arrivals are moved, and how long jobs may wait, unless it is said.
const JITTER_SECONDS: u32 = 60;
const WAIT_LIMIT_SECONDS: f64 = 600.0;

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
    /// Runs: FIRST..LAST or numbers joined by ",". 0 is the trace as it was recorded; others move each arrival a little, and break ties at random
    #[arg(long, value_name = "SEEDS")]
    seeds: Option<String>,
    /// By how much seeds above 0 move arrivals, at most
    #[arg(long, value_name = "SECONDS", default_value_t = JITTER_SECONDS)]
    jitter: u32,
    /// How waits are told apart
    #[arg(long, value_enum, default_value = "size")]
    classes: ClassesFlag,
    /// Capacity: machines are enough when 99 of 100 jobs wait no longer
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_LIMIT_SECONDS)]
    wait_limit: f64,
    /// Drawn jobs: the part of the machines that they would use if none ever waited
    #[arg(long, default_value_t = 0.8)]
    load: f64,
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
    ensure!(
        flags.experiment.is_some() || !flags.inflation.says_anything(),
        "expected `--experiment inflation` beside --nodes and --pods: no other experiment reads lists of tasks"
    );
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
    if flags.jobs.is_none() && flags.backup.is_none() {
        flags.jobs = there(LOG);
    }
    let lists = LISTS.iter().take(if options.quick { 1 } else { LISTS.len() });
    let lists: Vec<PathBuf> = lists.filter_map(|list| there(&format!("fgd/openb_pod_list_{list}.csv"))).collect();
    if let (false, Some(nodes), false) = (flags.inflation.says_anything(), there(NODES), lists.is_empty()) {
        flags.inflation.take_lists(nodes, lists);
    }
    options
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
    ensure!(flags.load > 0.0 && flags.load <= 2.0, "--load: expected a number above 0, to 2, found {}", flags.load);
    let trace = match (&flags.jobs, &flags.backup) {
        (None, Some(path)) => backup::read(path)?,
        (Some(jobs), Some(path)) => backup::read(path)?.and(open::jobs(jobs)?),
        (Some(path), None) => open::jobs(path)?,
        (None, None) => {
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
    use crate::figure::Figure;

    /// The figures of a run.
    fn run(options: &Run) -> anyhow::Result<Vec<Figure>> {
        Kept::of(|kept| super::run(options, kept))
    }

    #[test]
    fn seeds_are_a_range_with_both_ends_or_a_list() {
        assert_eq!(seeds("42..45").unwrap(), [42, 43, 44, 45]);
        assert_eq!(seeds("7").unwrap(), [7]);
        assert_eq!(seeds("1, 3").unwrap(), [1, 3]);
        for wrong in ["", "a", "5..1", "1..", "0..5000"] {
            assert!(seeds(wrong).unwrap_err().to_string().starts_with("--seeds: expected FIRST..LAST"), "{wrong}");
        }
    }

    #[test]
    fn what_lies_below_data_is_taken_by_every_experiment_that_names_no_files() {
        let data = tempfile::tempdir().unwrap();
        for name in [LOG, NODES, "fgd/openb_pod_list_default.csv"] {
            let path = data.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let taken = |more: &[&str]| {
            let words = ["trace", "--data", data.path().to_str().unwrap()];
            let flags = with_known_data(&Run::of(&[&words[..], more].concat())).trace;
            (flags.jobs, flags.inflation.says_anything())
        };
        let log = Some(data.path().join(LOG));
        for experiment in ["inflation", "replay", "capacity"] {
            assert_eq!(taken(&["--experiment", experiment]), (log.clone(), true), "{experiment}");
        }
        assert_eq!(taken(&["--jobs", "own.csv"]).0, Some("own.csv".into()));
        assert_eq!(taken(&["--backup", "cell.backup"]).0, None);
    }

    // They were passed over without a word: jobs were replayed.
    #[test]
    fn lists_of_tasks_without_their_experiment_are_refused() {
        let refused = run(&Run::of(&["trace", "--nodes", "nodes.csv", "--pods", "pods.csv"])).unwrap_err().to_string();
        assert!(refused.contains("`--experiment inflation`"), "{refused}");
    }

    // It was read when the replay had run, and all figures of that were lost with the error.
    #[test]
    fn what_the_inflation_cannot_read_ends_a_run_before_its_replay() {
        let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let reference = "fgd/expected/summary.csv";
        // None of them is what it should be: the first that is read is told.
        for name in [LOG, NODES, "fgd/openb_pod_list_default.csv", reference] {
            let path = data.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let told = || {
            let error = run(&options(folder.path(), &["--data", data.path().to_str().unwrap()])).unwrap_err();
            format!("{error:#}")
        };
        assert!(told().contains(reference), "{}", told());
        std::fs::remove_file(data.path().join(reference)).unwrap();
        assert!(told().contains(NODES), "{}", told());
    }

    /// Flags of a run that leaves its files in `folder`.
    fn options(folder: &std::path::Path, more: &[&str]) -> Run {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            run: Run,
        }
        let out = folder.to_str().unwrap();
        let words = ["bench", "trace", "--quick", "--out", out].into_iter().chain(more.iter().copied());
        <Only as clap::Parser>::parse_from(words).run
    }

    const JOBS: &str = "job,submit_s,run_s,tasks,cpu_millis,memory_mib,user\n\
        a,0,100,2,1000,1,ann\nb,1,100,2,1000,1,bob\nc,2,100,2,1000,1,ann\nd,300,10,1,1000,1,bob\n";

    #[test]
    fn as_many_machines_are_enough_as_can_be_counted_on_paper() {
        let folder = tempfile::tempdir().unwrap();
        let jobs = folder.path().join("jobs.csv");
        std::fs::write(&jobs, JOBS).unwrap();
        let jobs = jobs.to_str().unwrap();
        // Three jobs of two cores at once, on machines of one core: nobody waits on six of them.
        let more = ["--experiment", "capacity", "--jobs", jobs, "--machines", "10x1", "--wait-limit", "0"];
        let figures = run(&options(folder.path(), &more)).unwrap();
        let enough = figures.iter().find(|figure| figure.metric == "machines_enough").unwrap();
        assert_eq!(enough.value, 6.0);
        let page = std::fs::read_to_string(folder.path().join("trace-capacity.md")).unwrap();
        assert!(page.contains("**6 machines (") && page.contains("| +0% | 10 | all |"), "{page}");
        // Nobody waits on ten machines, and still the lines go on there.
        let chart = std::fs::read_to_string(folder.path().join("trace-capacity.svg")).unwrap();
        assert!(chart.contains("99 of 100 wait at most: 1.00 at 10.0"), "{chart}");
        // Of far too many machines so few are found as well: one percent of these would be ten.
        let more = ["--experiment", "capacity", "--jobs", jobs, "--machines", "1000x1", "--wait-limit", "0"];
        let figures = run(&options(folder.path(), &more)).unwrap();
        let enough = figures.iter().find(|figure| figure.metric == "machines_enough").unwrap();
        assert_eq!(enough.value, 6.0);
        // Asked for by its name, one size is all that is tried.
        let more = ["--experiment", "capacity", "--jobs", jobs, "--machines", "10x1", "--case", "size=+20%"];
        let figures = run(&options(folder.path(), &more)).unwrap();
        assert!(figures.iter().all(|figure| figure.case.ends_with("size=+20%")) && figures.len() == 5, "{figures:?}");
    }

    // With `--machines +20%` sizes of one cell had the names of those of every other one, and were compared with them.
    #[test]
    fn sizes_are_told_by_the_cell_they_are_of_and_not_by_the_changes_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (jobs, cell) = (folder.path().join("jobs.csv"), folder.path().join("cell.csv"));
        std::fs::write(&jobs, JOBS).unwrap();
        std::fs::write(&cell, "class,count,cpu_millis,memory_mib\nnode,10,1000,1024\n").unwrap();
        let (jobs, cell) = (jobs.to_str().unwrap(), cell.to_str().unwrap());
        let same = ["--experiment", "capacity", "--jobs", jobs, "--cell", cell, "--case", "size=+0%"];
        let changes: [&[&str]; 2] = [&[], &["--machines", "+20%"]];
        for changes in changes {
            let figures = run(&options(folder.path(), &[&same[..], changes].concat())).unwrap();
            let case = format!("jobs=jobs.csv queue=easy policy=best-fit cell={cell} size=+0%");
            assert!(figures.iter().all(|figure| figure.case == case) && figures.len() == 5, "{figures:?}");
        }
    }

    #[test]
    fn a_run_of_no_case_leaves_the_pages_of_others_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let pages = ["trace-capacity.md", "trace-replay-used.svg", "trace-inflation.md", "inflation.csv"];
        for page in pages {
            std::fs::write(folder.path().join(page), "before").unwrap();
        }
        for experiment in ["capacity", "replay", "inflation"] {
            let more = ["--experiment", experiment, "--case", "no such case"];
            assert!(run(&options(folder.path(), &more)).unwrap().is_empty(), "{experiment}");
        }
        for page in pages {
            assert_eq!(std::fs::read_to_string(folder.path().join(page)).unwrap(), "before", "{page}");
        }
    }

    #[test]
    fn a_replay_leaves_figures_charts_and_the_list_of_jobs() {
        let folder = tempfile::tempdir().unwrap();
        let jobs = folder.path().join("jobs.csv");
        std::fs::write(&jobs, JOBS).unwrap();
        let more = [
            "--jobs",
            jobs.to_str().unwrap(),
            "--machines",
            "2x1",
            "--queue",
            "fifo",
            "--seeds",
            "0",
            "--policy",
            "best-fit",
        ];
        let figures = run(&options(folder.path(), &more)).unwrap();
        // On other machines it is another case.
        assert_eq!(figures[0].case, "jobs=jobs.csv queue=fifo policy=best-fit machines=2x1");
        let value = |metric: &str| figures.iter().find(|figure| figure.metric == metric).map(|figure| figure.value);
        // Waits 0, 99, 198 and 0.
        assert_eq!((value("wait_seconds_mean"), value("makespan_seconds")), (Some(74.25), Some(310.0)));
        let list = std::fs::read_to_string(folder.path().join("trace-replay-fifo-best-fit.csv")).unwrap();
        assert!(list.contains("\"b\",\"bob\",cores=002-008,2,1.000,100.000,200.000\n"), "{list}");
        assert!(folder.path().join("trace-replay-waits.svg").exists());
        let used = std::fs::read_to_string(folder.path().join("trace-replay-used.svg")).unwrap();
        assert!(used.contains(">minutes</text>") && used.contains(">5</text>"), "it takes five of them: {used}");
    }

    #[test]
    fn the_list_of_jobs_has_their_own_classes_and_survives_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let jobs = folder.path().join("jobs.csv");
        let text = "job,submit_s,run_s,tasks,cpu_millis,memory_mib,user,class\n\
            \"the \"\"big\"\" one\",0,10,1,1000,1,ann,\"night, long\"\n";
        std::fs::write(&jobs, text).unwrap();
        let jobs = jobs.to_str().unwrap();
        let more = ["--jobs", jobs, "--machines", "2x1", "--queue", "fifo", "--seeds", "0", "--classes", "own"];
        run(&options(folder.path(), &more)).unwrap();
        let list = std::fs::read_to_string(folder.path().join("trace-replay-fifo-best-fit.csv")).unwrap();
        let row = "\"the \"\"big\"\" one\",\"ann\",\"night, long\",1,0.000,0.000,10.000\n";
        assert!(list.ends_with(row), "{list}");
    }

    #[test]
    fn a_policy_named_twice_is_one_case() {
        assert_eq!(named(&["b", "a", "b"].map(str::to_owned), &["c"]), ["b", "a"]);
        assert_eq!(named(&[], &["c"]), ["c"]);
    }

    #[test]
    fn parameters_out_of_range_are_told_before_anything_runs() {
        let folder = tempfile::tempdir().unwrap();
        let told = |more: &[&str]| run(&options(folder.path(), more)).unwrap_err().to_string();
        assert!(told(&["--policy", "best"]).starts_with("--policy: expected some of "), "policy");
        assert!(told(&["--queue", "lifo"]).starts_with("--queue: expected some of fifo, easy, greedy"), "queue");
        assert!(told(&["--load", "7"]).starts_with("--load: expected a number above 0, to 2, found 7"), "load");
        assert!(told(&["--machines", "+x"]).starts_with("--machines: expected a change"), "machines");
        let capacity = told(&["--experiment", "capacity", "--wait-limit=-1"]);
        assert!(capacity.starts_with("--wait-limit: expected seconds from 0 on"), "{capacity}");
        let two = told(&["--experiment", "capacity", "--queue", "fifo,easy"]);
        assert!(two.starts_with("capacity asks about one way to place"), "{two}");
    }
}
