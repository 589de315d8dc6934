//! The experiment `replay`: one trace on one cell, by policies and queue disciplines, over seeds.

use std::fmt::Write;
use std::time::Instant;

use anyhow::ensure;
use plenum_model::Resources;
use serde_json::json;

use super::{NAME, machines, made_of, words};
use crate::Run;
use crate::figure::{Better, Case, Figure, Parameters, SEEDS, by_name, number};
use crate::folder::save;
use crate::kept::Kept;
use crate::plot::{Axis, Chart, Point, Series, over_time};
use crate::progress::say;
use crate::replay::placing::Placing;
use crate::replay::summary::{Classes, Summary, Waits, class, summarise};
use crate::replay::{Discipline, Ground, Moment, Replay, Replayed, resampled, seconds};
use crate::report::three_digits;
use crate::traces::work::{GPUS, MachineClass, Trace, TraceJob, memory_is_told};

/// Points of a distribution's line.
const CURVE_POINTS: u64 = 120;

/// What is replayed.
pub(super) struct Setup<'a> {
    pub(super) trace: &'a Trace,
    pub(super) machines: &'a [MachineClass],
    pub(super) policy: &'a str,
    pub(super) queue: Discipline,
}

impl Setup<'_> {
    /// One run: seed 0 is the trace as it was recorded. `None` when somebody stopped it.
    pub(super) fn once(&self, seed: u64, jitter_micros: i64) -> anyhow::Result<Option<(Vec<TraceJob>, Replayed)>> {
        let (jobs, ties) = match seed {
            0 => (self.trace.jobs.clone(), None),
            _ => (resampled(&self.trace.jobs, jitter_micros, seed), Some(seed)),
        };
        let mut ground = Ground::new(self.machines, Placing::named(self.policy, ties)?)?;
        ground.lay_down(&self.trace.laws)?;
        let replayed = Replay::new(&jobs, ground, self.queue).run()?;
        Ok(replayed.map(|replayed| (jobs, replayed)))
    }

    /// What came of a run, without what nobody knows: a part of memory that nobody told is none.
    pub(super) fn summary(&self, jobs: &[TraceJob], replayed: &Replayed, classes: Classes) -> Summary {
        let summary = summarise(jobs, replayed, classes);
        let memory_used = summary.memory_used.filter(|_| memory_is_told(self.machines));
        Summary { memory_used, ..summary }
    }

    /// What is not as usual is part of the name: with other machines or arrivals it is another case.
    fn case(&self, options: &Run) -> String {
        let flags = &options.trace;
        let (machines, jitter) = (flags.machines_mark(), flags.jitter_mark());
        format!("jobs={} queue={} policy={}{machines}{jitter}", self.trace.name, self.queue.name(), self.policy)
    }
}

/// Runs the experiment.
pub(super) fn run(options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let flags = &options.trace;
    let (queues, policies): (&[&str], &[&str]) = if options.quick {
        (&["fifo", "easy"], &["best-fit"])
    } else {
        (&["fifo", "easy", "greedy"], &["first-fit", "best-fit", "worst-fit", "dot-product"])
    };
    let (queues, policies) = (flags.queues(queues)?, flags.policies(policies)?);
    let seeds = flags.seeds_of_replays(options.quick)?;
    let mut trace = super::trace(options)?;
    let asked = machines::asked(flags.machines.as_deref(), flags.cell.as_deref(), &trace.machines)?;
    let machines = machines::changed(&asked.machines, &asked.changes)?;
    super::note_untold(&mut trace, &machines);
    let made_of = made_of::replay(flags)?;
    say(&format!("{}: {} jobs on {}", trace.name, trace.jobs.len(), machines::words(&machines)));
    let mut drawn = Drawn::default();
    for queue in &queues {
        for policy in &policies {
            let setup = Setup { trace: &trace, machines: &machines, policy, queue: *queue };
            if !options.has_case(&setup.case(options)) {
                continue;
            }
            let Some((first, runs)) = run_case(&setup, &seeds, options)? else { break };
            kept.add(of_case(&setup, &runs, &made_of, options)?);
            drawn.add(&setup, &first, options.trace.classes());
        }
    }
    // Nothing of a run before is overwritten by one that measures nothing.
    if drawn.lists.is_empty() { Ok(()) } else { drawn.write(options) }
}

/// One seed's result.
struct OneRun {
    seed: u64,
    summary: Summary,
    wall_seconds: f64,
}

/// The first seed in full, for what is drawn and listed. Of the others only sums are kept: a thousand seeds of a long trace would not fit in memory.
struct InFull {
    jobs: Vec<TraceJob>,
    replayed: Replayed,
    has_gpus: bool,
}

fn run_case(setup: &Setup<'_>, seeds: &[u64], options: &Run) -> anyhow::Result<Option<(InFull, Vec<OneRun>)>> {
    let mut runs = Vec::new();
    let mut in_full = None;
    for seed in seeds {
        let began = Instant::now();
        let Some((jobs, replayed)) = setup.once(*seed, options.trace.jitter_micros())? else { break };
        let wall_seconds = began.elapsed().as_secs_f64();
        let summary = setup.summary(&jobs, &replayed, options.trace.classes());
        let has_gpus = summary.gpus_used.is_some();
        in_full.get_or_insert(InFull { jobs, replayed, has_gpus });
        runs.push(OneRun { seed: *seed, summary, wall_seconds });
    }
    let (Some(in_full), Some(first)) = (in_full, runs.first()) else { return Ok(None) };
    ensure!(
        first.summary.all.jobs > 0,
        "no job of {} fits {}, not even alone: the first one asks for {}",
        setup.trace.name,
        machines::words(setup.machines),
        in_full.jobs.first().map_or_else(String::new, |job| words_of(&job.each))
    );
    say(&format!(
        "{}: {} seeds, {}, {:.1} s of wall time each",
        setup.case(options),
        runs.len(),
        outcome(runs.iter().map(|run| &run.summary)),
        runs.iter().map(|run| run.wall_seconds).sum::<f64>() / number(runs.len() as u64)
    ));
    Ok(Some((in_full, runs)))
}

/// What is used, and how long jobs wait, of all seeds together: what the report has, too.
pub(super) fn outcome<'a>(runs: impl Iterator<Item = &'a Summary> + Clone) -> String {
    let waits: Vec<f64> = runs.clone().map(|summary| summary.all.mean).collect();
    let waits = words::over_seeds(&waits, |wait| crate::report::quantity(wait, "s"));
    let left: Vec<f64> = runs.clone().map(|summary| number(summary.not_started())).collect();
    let left = words::over_seeds(&left, |left| format!("{left:.0}"));
    format!("used: {}; mean wait {waits}, {left} jobs not started", words::used(runs))
}

/// What a task asks for, for people.
fn words_of(each: &Resources) -> String {
    let cores = three_digits(number(each.cpu_millis) / 1000.0);
    let memory = three_digits(number(each.memory_bytes) / 1_048_576.0);
    let gpus = if each.custom[GPUS] > 0 { format!(", {} GPUs", each.custom[GPUS]) } else { String::new() };
    format!("{cores} cores, {memory} MiB{gpus}")
}

fn of_case(setup: &Setup<'_>, runs: &[OneRun], made_of: &Parameters, options: &Run) -> anyhow::Result<Vec<Figure>> {
    let name = setup.case(options);
    let mut parameters = parameters(setup, options);
    parameters.extend(made_of.clone());
    parameters.extend(seeds_of(runs, |_| true));
    let case = Case { suite: NAME, case: &name, parameters };
    let mut figures = Vec::new();
    for used in &words::USED {
        let percents = used.percents(runs.iter().map(|run| &run.summary));
        if !percents.is_empty() {
            figures.push(case.figure(used.metric, "%", Better::Higher, percents)?);
        }
    }
    let mut figure = |metric: &str, unit: &str, better: Better, of: &dyn Fn(&OneRun) -> Option<f64>| {
        let samples: Vec<f64> = runs.iter().filter_map(of).collect();
        if !samples.is_empty() {
            let mut figure = case.figure(metric, unit, better, samples)?;
            figure.parameters.extend(seeds_of(runs, |run| of(run).is_some()));
            figures.push(figure);
        }
        anyhow::Ok(())
    };
    let percent = |part: f64| Some(part * 100.0);
    figure("lost_capacity_percent", "%", Better::Lower, &|run| percent(run.summary.lost))?;
    figure("fragmented_percent", "%", Better::Lower, &|run| percent(run.summary.fragmented))?;
    figure("wait_seconds_mean", "s", Better::Lower, &|run| Some(run.summary.all.mean))?;
    figure("wait_seconds_p50", "s", Better::Lower, &|run| Some(run.summary.all.median))?;
    figure("wait_seconds_p99", "s", Better::Lower, &|run| Some(run.summary.all.p99))?;
    // They have none of these, nor what follows: a run that starts fewer would be called better.
    figure("jobs_not_started", "jobs", Better::Lower, &|run| Some(number(run.summary.not_started())))?;
    figure("bounded_slowdown_mean", "1", Better::Lower, &|run| Some(run.summary.all.slowdown_mean))?;
    figure("bounded_slowdown_p50", "1", Better::Lower, &|run| Some(run.summary.all.slowdown_median))?;
    figure("fairness_jain", "1", Better::Higher, &|run| run.summary.fairness)?;
    figure("makespan_seconds", "s", Better::Lower, &|run| Some(run.summary.makespan_seconds))?;
    figure("placements_per_second", "1/s", Better::Higher, &|run| {
        Some(number(run.summary.placements) / run.wall_seconds.max(1e-6))
    })?;
    figure("times_real_time", "1", Better::Higher, &|run| {
        Some(run.summary.makespan_seconds / run.wall_seconds.max(1e-6))
    })?;
    let classes = runs.iter().flat_map(|run| run.summary.by_class.keys()).collect::<std::collections::BTreeSet<_>>();
    for class in classes {
        figures.extend(of_class(&name, class, runs, made_of)?);
    }
    Ok(figures)
}

/// The seeds of the runs that have a sample.
fn seeds_of(runs: &[OneRun], has_sample: impl Fn(&OneRun) -> bool) -> Parameters {
    let seeds: Vec<u64> = runs.iter().filter(|run| has_sample(run)).map(|run| run.seed).collect();
    by_name([(SEEDS, json!(words::seeds(&seeds)))])
}

fn of_class(case: &str, class: &str, runs: &[OneRun], made_of: &Parameters) -> anyhow::Result<[Figure; 2]> {
    let waits = || runs.iter().filter_map(|run| run.summary.by_class.get(class));
    let jobs = waits().map(|waits| waits.jobs).max().unwrap_or(0);
    let name = format!("{case} class:{class}");
    let mut parameters = made_of.clone();
    parameters.insert("jobs".to_owned(), json!(jobs));
    parameters.extend(seeds_of(runs, |run| run.summary.by_class.contains_key(class)));
    let case = Case { suite: NAME, case: &name, parameters };
    let samples = |of: fn(&Waits) -> f64| waits().map(of).collect::<Vec<f64>>();
    Ok([
        case.figure("wait_seconds_mean_of_class", "s", Better::Lower, samples(|waits| waits.mean))?,
        case.figure("bounded_slowdown_mean_of_class", "1", Better::Lower, samples(|waits| waits.slowdown_mean))?,
    ])
}

fn parameters(setup: &Setup<'_>, options: &Run) -> Parameters {
    let mut parameters = of_trace(setup.trace);
    parameters.extend(by_name([
        ("machines", json!(machines::words(setup.machines))),
        ("jitter_seconds", json!(options.trace.jitter)),
    ]));
    parameters
}

/// What is told of the trace beside each figure that is made of it.
pub(super) fn of_trace(trace: &Trace) -> Parameters {
    let mut parameters = by_name([("jobs", json!(trace.jobs.len()))]);
    for (reason, count) in &trace.left_out {
        parameters.insert(format!("jobs left out: {reason}"), json!(count));
    }
    if !trace.assumed.is_empty() {
        parameters.insert("assumed".to_owned(), json!(trace.assumed.join("; ")));
    }
    parameters
}

/// Plots and lists, of the first seed of each case.
#[derive(Default)]
struct Drawn {
    /// Over seconds, as the next.
    used: Vec<Series>,
    waiting: Vec<Series>,
    waits: Vec<Series>,
    lists: Vec<(String, String)>,
}

impl Drawn {
    fn add(&mut self, setup: &Setup<'_>, run: &InFull, classes: Classes) {
        let name = format!("{} {}", setup.queue.name(), setup.policy);
        let ledger = &run.replayed.ledger;
        let over_time = |of: &dyn Fn(&Moment) -> f64| {
            let point = |moment: &Moment| Point::at(seconds(moment.at_micros - ledger.from_micros), of(moment));
            Series::new(&name, ledger.moments.iter().map(point).collect()).in_steps()
        };
        let used = |moment: &Moment| 100.0 * if run.has_gpus { moment.gpus_used } else { moment.cpu_used };
        self.used.push(over_time(&used));
        self.waiting.push(over_time(&|moment| number(moment.jobs_waiting)));
        self.waits.push(Series::new(&name, distribution(run)).in_steps());
        let mut list = "job,user,class,tasks,submit_s,start_s,end_s\n".to_owned();
        for (job, record) in run.jobs.iter().zip(&ledger.records) {
            let time = |at: Option<i64>| at.map_or_else(String::new, |at| format!("{:.3}", seconds(at)));
            let class = class(job, classes);
            // Ours need no quotes; those of a trace may be anything.
            let class = if classes == Classes::Own { quoted(&class) } else { class };
            let (submit, start, end) = (seconds(job.submit_micros), time(record.all_started), time(record.end));
            let (name, user) = (quoted(&job.name), quoted(&job.user));
            let _ = writeln!(list, "{name},{user},{class},{},{submit:.3},{start},{end}", job.tasks);
        }
        self.lists.push((format!("trace-replay-{}-{}.csv", setup.queue.name(), setup.policy), list));
    }

    fn write(self, options: &Run) -> anyhow::Result<()> {
        let chart = |title: &str, (x, series): (Axis, Vec<Series>), y: Axis| {
            Chart { title: title.to_owned(), x, y, series }.svg()
        };
        let mut files = vec![
            (
                "trace-replay-used.svg".to_owned(),
                chart("What is used, over time", over_time(self.used), Axis::linear("used (%)").over(0.0, 100.0)),
            ),
            (
                "trace-replay-waiting.svg".to_owned(),
                chart("Jobs that wait, over time", over_time(self.waiting), Axis::linear("jobs that wait")),
            ),
            (
                "trace-replay-waits.svg".to_owned(),
                chart(
                    "How long jobs wait",
                    (Axis::log("wait (s), at least 1"), self.waits),
                    Axis::linear("jobs that wait no longer (%)").over(0.0, 100.0),
                ),
            ),
        ];
        files.extend(self.lists);
        let folder = options.folder();
        files.iter().try_for_each(|(name, text)| save(&folder, name, text))
    }
}

/// A field of CSV, whatever stands in it (RFC 4180).
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// For waits of some lengths, how many of a hundred jobs wait no longer.
fn distribution(run: &InFull) -> Vec<Point> {
    let waited = run.jobs.iter().zip(&run.replayed.ledger.records);
    let mut waits: Vec<f64> =
        waited.filter_map(|(job, record)| Some(seconds(record.all_started? - job.submit_micros))).collect();
    waits.sort_by(f64::total_cmp);
    let count = waits.len() as u64;
    let step = count.div_ceil(CURVE_POINTS).max(1);
    let places = (step..=count).step_by(usize::try_from(step).unwrap_or(1)).chain([count]);
    places
        .filter_map(|place| {
            let wait = waits.get(usize::try_from(place).ok()?.checked_sub(1)?)?;
            Some(Point::at(wait.max(1.0), 100.0 * number(place) / number(count)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::work::resources;

    // It was told of the first seed alone, beside the number of all of them, and was not what the report has.
    #[test]
    fn what_is_said_of_a_replay_is_of_all_its_seeds() {
        let run = |cpu_used: f64, mean: f64| {
            let all = Waits { mean, ..Waits::default() };
            Summary { cpu_used, gpus_used: Some(0.5), all, ..Summary::default() }
        };
        let runs = [run(0.1, 8.0), run(0.3, 9.0), run(0.2, 10.0)];
        let said =
            "used: CPU 20.0% (10.0% to 30.0%), GPUs 50.0%; mean wait 9.00 s (8.00 s to 10.0 s), 0 jobs not started";
        assert_eq!(outcome(runs.iter()), said);
    }

    // A policy that left jobs lying with some seeds had no longer waits, and was called no worse: only the first seed's were told, and as no figure.
    #[test]
    fn jobs_that_never_start_are_a_figure_of_all_seeds() {
        let trace = crate::replay::generator::jobs(5, 0.5, 1);
        let setup = Setup { trace: &trace, machines: &trace.machines, policy: "best-fit", queue: Discipline::Easy };
        let run = |never_started: u64| {
            let summary = Summary { too_large: 1, never_started, ..Summary::default() };
            OneRun { seed: never_started, summary, wall_seconds: 1.0 }
        };
        let runs = [run(0), run(4)];
        let figures = of_case(&setup, &runs, &Parameters::new(), &Run::of(&["trace"])).unwrap();
        let left = figures.iter().find(|figure| figure.metric == "jobs_not_started").unwrap();
        assert_eq!(left.samples, [1.0, 5.0]);
        assert_eq!(left.parameters[SEEDS], "0,4", "compare tells when they are others");
        assert!(outcome(runs.iter().map(|run| &run.summary)).ends_with("3 (1 to 5) jobs not started"));
    }

    #[test]
    fn what_fits_nowhere_is_told_in_cores_and_bytes() {
        assert_eq!(words_of(&resources(1000, 100 << 20, 0)), "1.00 cores, 100 MiB");
        assert_eq!(words_of(&resources(2500, 1 << 30, 2)), "2.50 cores, 1024 MiB, 2 GPUs");
    }
}
