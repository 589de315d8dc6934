//! Suite `omega`: the experiments of the Omega paper (EuroSys 2013) on the production core, beside reference results.
//!
//! | module | what it is |
//! |---|---|
//! | `flags` | one run, from the command line |
//! | `plan` | the experiments as lists of runs |
//! | `pool` | runs them, on all cores |
//! | `reference`, `judge` | reference results, and whether ours are within their gates |
//! | `shapes` | what the paper's figures show, as checks on our rows |
//! | `mapreduce` | the MapReduce scheduler's policies |
//! | `draw`, `page` | pictures and the page |

mod draw;
mod flags;
mod judge;
mod mapreduce;
mod page;
mod plan;
mod pool;
mod reference;
mod shapes;

use std::path::Path;

use anyhow::ensure;
use serde_json::json;

pub(crate) use flags::Flags;
use page::Outcome;
use plan::{Experiment, Task};
use pool::Done;
use reference::{Cells, Reference};

use crate::cells::bound::Packing;
use crate::cells::row::{COLUMNS, plain, settings_as_cells};
use crate::cells::settings::{Arch, Choice, PAPER, Settings};
use crate::cells::stage::seconds;
use crate::cells::workload;
use crate::figure::{Better, Case, Figure, Parameters, by_name, number};
use crate::folder::save;
use crate::kept::Kept;
use crate::plot::HeatMap;
use crate::progress::say;
use crate::{Run, interrupt};

pub(crate) const NAME: &str = "omega";

/// Further seeds of rows in which chance has a part: what differs between them is what chance does.
const FURTHER_SEEDS: u64 = 9;
const FURTHER_SEEDS_QUICK: u64 = 2;

/// Seeds of one row are so far apart: those of its schedulers must not overlap with those of other rows.
const SEED_STEP: u64 = 100;

/// What a single run is called in its row.
const SINGLE: &str = "single";

pub(crate) fn run(options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let folder = options.folder();
    let single = options.omega.single()?;
    match single {
        Some(settings) => {
            let name = case_name(&Cells::of(&settings_as_cells(SINGLE, &settings)), &settings);
            if !options.has_case(&name) {
                return Ok(());
            }
            if options.omega.write_jobs {
                let jobs = settings.cell.jobs(settings.workload_seed, seconds(settings.horizon_micros), settings.rate);
                save(&folder, "jobs.csv", &workload::rows(&jobs))?;
            }
            kept.add(run_single(settings, &folder)?);
            Ok(())
        }
        None => run_set(options, &folder, kept),
    }
}

/// One run: its row as a file and as figures, one a column.
fn run_single(settings: Settings, folder: &Path) -> anyhow::Result<Vec<Figure>> {
    let task = Task { exp: SINGLE.into(), check_name: None, settings, quick: true, map: true, variant: None };
    let done = pool::run_one(&task, true)?;
    if !done.whole {
        say(&format!(
            "stopped at {:.0} simulated seconds: the row is of what was simulated",
            seconds(done.row.settings.horizon_micros)
        ));
    }
    let line = done.row.line(&task.exp);
    save(folder, "single.csv", &format!("{COLUMNS}\n{line}\n"))?;
    if done.row.settings.arch == Arch::Omega {
        save(folder, "omega-conflicts.svg", &map_of("Refused claims by machine and time", &done).svg())?;
    }
    let cells = Cells::of(&line);
    let name = case_name(&cells, &done.row.settings);
    let case = Case { suite: NAME, case: &name, parameters: parameters(&done.row.settings) };
    let mut figures = Vec::new();
    for column in COLUMNS.split(',').skip(14) {
        figures.push(case.figure(column, unit(column), better(column), vec![cells.number(column)])?);
    }
    figures.extend(speed(&case, std::iter::once(&done))?);
    Ok(figures)
}

fn unit(column: &str) -> &'static str {
    if column.ends_with("_s") { "s" } else { "1" }
}

/// What grows when more is placed is good, and so is time that was not in vain; waits, conflicts and what is left over are not, and with the same jobs
/// the less schedulers are busy the better.
fn better(column: &str) -> Better {
    const USED: [&str; 2] = ["cpu_util", "mem_util"];
    const DONE: [&str; 6] = ["_jobs", "_attempted", "_fully", "_ok", "_busy_useful", "_busy_noconflict"];
    let is_good = USED.contains(&column) || DONE.iter().any(|end| column.ends_with(end));
    if is_good { Better::Higher } else { Better::Lower }
}

/// The name of a single run. Whatever of its settings is not as usual is part of it: runs with others are not compared.
fn case_name(cells: &Cells, settings: &Settings) -> String {
    let text = |column: &str| cells.text(column);
    let mut name = format!("arch={} workload={}", text("arch"), text("workload"));
    if text("arch") == "omega" {
        name.push_str(&format!(" conflict={} commit={}", text("conflict_mode"), text("txn_mode")));
    }
    for ((what, value), (_, usual)) in told(settings).into_iter().zip(told(&plan::usual(settings.cell, 24.0))) {
        if value != usual {
            name.push_str(&format!(" {what}={value}"));
        }
    }
    name
}

/// Settings as they are told in names.
fn told(settings: &Settings) -> [(&'static str, String); 14] {
    let time = |micros: i64| plain(seconds(micros));
    let beyond = &settings.beyond;
    let choice = match beyond.choice {
        Choice::RandomFirstFit => "random-first-fit",
        Choice::BestFit => "best-fit",
        Choice::BestFitDecorrelated => "best-fit-decorrelated",
    };
    [
        ("batch_schedulers", settings.batch_schedulers.to_string()),
        ("tjob_batch", time(settings.batch.job_micros)),
        ("ttask_batch", time(settings.batch.task_micros)),
        ("tjob_service", time(settings.service.job_micros)),
        ("ttask_service", time(settings.service.task_micros)),
        ("lambda", plain(settings.rate)),
        ("horizon", time(settings.horizon_micros)),
        ("workload_seed", settings.workload_seed.to_string()),
        ("scheduler_seed", settings.scheduler_seed.to_string()),
        ("rules", if settings.retrying == PAPER { "paper" } else { "reference" }.to_owned()),
        ("alternates", beyond.alternates_percent.to_string()),
        ("own_first", beyond.own_first.to_string()),
        ("constrained", beyond.constraints.to_string()),
        ("choice", choice.to_owned()),
    ]
}

fn parameters(settings: &Settings) -> Parameters {
    let all = [
        ("horizon_seconds", json!(seconds(settings.horizon_micros))),
        ("batch_schedulers", json!(settings.batch_schedulers)),
        ("tjob_batch_seconds", json!(seconds(settings.batch.job_micros))),
        ("ttask_batch_seconds", json!(seconds(settings.batch.task_micros))),
        ("tjob_service_seconds", json!(seconds(settings.service.job_micros))),
        ("ttask_service_seconds", json!(seconds(settings.service.task_micros))),
        ("lambda", json!(settings.rate)),
        ("workload_seed", json!(settings.workload_seed)),
        ("scheduler_seed", json!(settings.scheduler_seed)),
        ("retrying", json!(format!("{:?}", settings.retrying))),
        ("beyond", json!(format!("{:?}", settings.beyond))),
    ];
    by_name(all)
}

/// How fast runs were, each on one thread: by the CPU time of that thread, which on a quiet machine is what the wall's clock tells.
fn speed<'a>(case: &Case<'_>, runs: impl Iterator<Item = &'a Done> + Clone) -> anyhow::Result<Vec<Figure>> {
    let rate = |run: &Done| number(run.row.placements) / run.cpu_seconds;
    let times = |run: &Done| seconds(run.row.settings.horizon_micros) / run.cpu_seconds;
    Ok(vec![
        case.figure("placements_per_second", "1/s", Better::Higher, runs.clone().map(rate).collect())?,
        case.figure("times_real_time", "1", Better::Higher, runs.map(times).collect())?,
    ])
}

fn map_of(title: &str, done: &Done) -> HeatMap {
    let settings = &done.row.settings;
    draw::conflict_map(title, &done.refusals, settings.cell.machines, settings.horizon_micros)
}

/// Maps of where runs conflicted, of those of which it is asked.
fn maps_of(measured: &[Measured]) -> Vec<HeatMap> {
    let runs = measured
        .iter()
        .flat_map(|one| one.runs.iter().map(move |(task, runs)| (&one.experiment.tasks[*task], &runs[0])));
    let map = |(task, done): (&Task, &Done)| {
        let settings = &done.row.settings;
        let name = task.exp.trim_start_matches("E8_");
        map_of(&format!("{name} on {} x{}", settings.cell.name, settings.rate), done)
    };
    runs.filter(|(task, _)| task.map).map(map).collect()
}

/// The rows of one experiment that were reached.
struct Measured {
    experiment: Experiment,
    reference: Reference,
    /// By task that was reached, all its seeds.
    runs: Vec<(usize, Vec<Done>)>,
}

/// The experiments that were asked for, with what they are compared with: all of it is read before the first of them runs, which takes long.
///
/// # Errors
/// When a reference cannot be read, or has none of an experiment's rows: then nothing would be judged, and nothing be outside.
fn planned(options: &Run) -> anyhow::Result<Vec<(Experiment, Reference)>> {
    let mut planned = Vec::new();
    for mut experiment in plan::experiments() {
        experiment.tasks.retain(|task| task.quick || !options.quick);
        experiment.keep(|name| options.has_case(name));
        if !experiment.tasks.is_empty() {
            let read = |data: &Path| reference::read(data, experiment.file);
            let reference = options.data.as_deref().map_or_else(|| Ok(Reference::new()), read)?;
            check_has_rows(&experiment, &reference)?;
            planned.push((experiment, reference));
        }
    }
    Ok(planned)
}

/// A reference that is there has some of the rows.
fn check_has_rows(experiment: &Experiment, reference: &Reference) -> anyhow::Result<()> {
    let (Some(theirs), Some(ours)) = (reference.keys().next(), experiment.tasks.first().map(Task::key)) else {
        return Ok(());
    };
    ensure!(
        experiment.tasks.iter().any(|task| reference.contains_key(&task.key())),
        "omega-reference/{}.csv: expected rows of this experiment, such as {ours}, found none of them; its first row is {theirs}. Take it away to run without a \
         reference",
        experiment.file
    );
    Ok(())
}

fn run_set(options: &Run, folder: &Path, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let (mut measured, mut outcomes) = (Vec::new(), Vec::new());
    for (experiment, reference) in planned(options)?.into_iter().take_while(|_| !interrupt::asked()) {
        let one = measure(experiment, reference, options.quick)?;
        let outcome = conclude(&one, folder)?;
        kept.add(of_experiment(&one, &outcome)?);
        measured.push(one);
        outcomes.push(outcome);
    }
    let hours = if options.quick { mapreduce::HOURS_QUICK } else { mapreduce::HOURS };
    let section = mapreduce::section(hours, options.seed, &|name| options.has_case(name))?;
    // Nothing of a run before is overwritten by one that measures nothing.
    if measured.is_empty() && section.is_none() {
        return Ok(());
    }
    let rows: Vec<Cells> =
        outcomes.iter().flat_map(|outcome| outcome.rows.iter().map(|seeds| seeds[0].clone())).collect();
    let shapes = shapes::shapes(&rows);
    let reference = outcomes.iter().flat_map(|outcome| outcome.reference.clone()).collect();
    let mut pictures = draw::pictures(&rows, &reference);
    draw::maps(&mut pictures, "e8", "Refused claims by machine and time", &maps_of(&measured));
    let mut sections = Vec::new();
    if let Some(section) = section {
        save(folder, "e7_mapreduce.csv", &section.csv)?;
        kept.add(section.figures);
        pictures.extend(section.pictures);
        sections.push(section.text);
    }
    sections.extend(packing_section(&measured));
    for picture in &pictures {
        save(folder, &picture.name, &picture.svg)?;
    }
    save(folder, "omega.md", &page::page(&outcomes, &shapes, &pictures, &sections))?;
    say(&format!("omega: rows, verdicts and pictures in {}", folder.join("omega.md").display()));
    kept.add(of_all(&measured, &outcomes, &shapes)?);
    Ok(())
}

/// How far the last placements of runs are from any optimum, where a bound is known.
fn packings(measured: &[Measured]) -> impl Iterator<Item = (&Task, Packing)> {
    let runs =
        measured.iter().flat_map(|one| one.runs.iter().map(move |(task, runs)| (&one.experiment.tasks[*task], runs)));
    runs.filter_map(|(task, runs)| Some((task, runs[0].packing.filter(|packing| packing.bound > 0)?)))
}

/// The same as a table, by variant and place.
fn packing_section(measured: &[Measured]) -> Option<String> {
    let mut text = String::new();
    for (task, packing) in packings(measured) {
        let (settings, over) = (&task.settings, number(packing.in_use) / number(packing.bound));
        text.push_str(&format!(
            "| {} | {} x{}, {} schedulers | {} | {} | {over:.2} |\n",
            task.exp.trim_start_matches("E8_"),
            settings.cell.name,
            settings.rate,
            settings.batch_schedulers,
            packing.in_use,
            packing.bound
        ));
    }
    let head = "## Distance to a bound of the optimum\n\nMachines that run something at the end, and the fewest that could run all of it, each resource by \
                itself (bound L2 of Martello and Toth): no placement uses fewer.\n\n| variant | at | in use | at least | times |\n|---|---|---|---|---|\n";
    (!text.is_empty()).then(|| format!("{head}{text}\n"))
}

/// Whether a row has chance in it: then other seeds are worth a run.
fn has_chance(task: &Task) -> bool {
    let settings = &task.settings;
    // Offers that are locked for long leave no room at times.
    let slow = settings.arch == Arch::Mesos && settings.service.job_micros > 30_000_000;
    let placed_always = settings.cell.name == "R1" && settings.arch != Arch::Omega && !slow;
    !placed_always && !task.exp.starts_with("E6")
}

fn measure(experiment: Experiment, reference: Reference, quick: bool) -> anyhow::Result<Measured> {
    say(&format!("omega: {}: {}", experiment.file, experiment.about));
    let further = if quick { FURTHER_SEEDS_QUICK } else { FURTHER_SEEDS };
    let mut tasks = Vec::new();
    let mut of = Vec::new();
    for (number, task) in experiment.tasks.iter().enumerate() {
        for seed in 0..=if has_chance(task) { further } else { 0 } {
            let scheduler_seed = task.settings.scheduler_seed + seed * SEED_STEP;
            let settings = Settings { scheduler_seed, ..task.settings.clone() };
            tasks.push(Task { settings, map: task.map && seed == 0, ..task.clone() });
            of.push(number);
        }
    }
    let mut runs: Vec<(usize, Vec<Done>)> = Vec::new();
    for (done, number) in pool::run_all(&tasks)?.into_iter().zip(of) {
        let Some(done) = done else { continue };
        match runs.last_mut().filter(|(last, _)| *last == number) {
            Some((_, seeds)) => seeds.push(done),
            None => runs.push((number, vec![done])),
        }
    }
    Ok(Measured { experiment, reference, runs })
}

/// Writes the rows of an experiment, and judges them.
fn conclude(measured: &Measured, folder: &Path) -> anyhow::Result<Outcome> {
    let experiment = &measured.experiment;
    let reference = measured.reference.clone();
    let mut rows: Vec<Vec<Cells>> = Vec::new();
    for (number, runs) in &measured.runs {
        let task = &experiment.tasks[*number];
        let named = |done: &Done| {
            let cells = Cells::of(&done.row.line(&task.exp));
            task.check_name.map_or_else(|| cells.clone(), |name| cells.clone().with("conflict_mode", name))
        };
        rows.push(runs.iter().map(named).collect());
    }
    let verdicts = rows.iter().map(|seeds| judge::judge(reference.get(&seeds[0].key()), seeds, &rows)).collect();
    let text = |rows: &mut dyn Iterator<Item = &Cells>| {
        let lines: String = rows.map(|row| row.line() + "\n").collect();
        format!("{COLUMNS}\n{lines}")
    };
    save(folder, &format!("{}.csv", experiment.file), &text(&mut rows.iter().map(|seeds| &seeds[0])))?;
    save(folder, &format!("{}_seeds.csv", experiment.file), &text(&mut rows.iter().flatten()))?;
    Ok(Outcome { file: experiment.file, about: experiment.about, rows, verdicts, reference })
}

/// Figures of one experiment; none where no run of it has ended.
fn of_experiment(measured: &Measured, outcome: &Outcome) -> anyhow::Result<Vec<Figure>> {
    let runs = measured.runs.iter().flat_map(|(_, runs)| runs);
    let cpu_seconds: f64 = runs.clone().map(|run| run.cpu_seconds).sum();
    if cpu_seconds <= 0.0 {
        return Ok(Vec::new());
    }
    let counted = [("runs", json!(runs.clone().count())), ("cpu_seconds_of_all_runs", json!(cpu_seconds))];
    let parameters = by_name(counted);
    let case = Case { suite: NAME, case: outcome.file, parameters };
    let mut figures = speed(&case, runs)?;
    if !outcome.reference.is_empty() {
        let judged = number(outcome.judged() as u64);
        figures.push(case.figure("rows_judged", "rows", Better::Higher, vec![judged])?);
        for (metric, word, better) in [
            ("rows_equal", "equal", Better::Higher),
            ("rows_met", "met", Better::Higher),
            ("rows_in_order", "in order", Better::Higher),
            ("rows_by_chance", "by chance", Better::Lower),
            ("rows_outside", "outside", Better::Lower),
        ] {
            figures.push(case.figure(metric, "rows", better, vec![number(outcome.count(word) as u64)])?);
        }
    }
    Ok(figures)
}

/// Figures of all experiments together: what the paper claims, and what it has not.
fn of_all(measured: &[Measured], outcomes: &[Outcome], shapes: &[shapes::Shape]) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if !shapes.is_empty() {
        let case = Case { suite: NAME, case: "claims of the paper", parameters: Parameters::new() };
        let failed = shapes.iter().filter(|shape| !shape.holds).count();
        figures.push(case.figure("claims_that_fail", "1", Better::Lower, vec![number(failed as u64)])?);
    }
    for variant in page::variants(outcomes) {
        let name = plan::variant_case(variant.name, variant.place);
        let case = Case { suite: NAME, case: &name, parameters: Parameters::new() };
        figures.push(case.figure("conflict_fraction", "1", Better::Lower, vec![variant.conflicts])?);
        figures.push(case.figure("conflicts_as_part_of_the_papers", "1", Better::Lower, vec![variant.ratio])?);
        figures.push(case.figure("busy", "1", Better::Lower, vec![variant.busy])?);
    }
    for (task, packing) in packings(measured) {
        let name = task.packing_case();
        let case = Case { suite: NAME, case: &name, parameters: Parameters::new() };
        let over = number(packing.in_use) / number(packing.bound);
        figures.push(case.figure("machines_over_bound", "1", Better::Lower, vec![over])?);
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::reference::tests::row;
    use super::*;
    use crate::cells::settings::{Beyond, Cost};
    use crate::cells::workload::R1;

    #[test]
    fn more_work_done_is_better_and_more_waiting_is_not() {
        let good: Vec<&str> = COLUMNS.split(',').skip(14).filter(|column| better(column) == Better::Higher).collect();
        let of_a_stream = ["jobs", "attempted", "fully", "busy_useful", "busy_noconflict", "txn_ok", "task_ok"];
        let streams = ["batch", "service"];
        let of_streams = streams.iter().flat_map(|stream| of_a_stream.map(|column| format!("{stream}_{column}")));
        let expected: Vec<String> = ["cpu_util", "mem_util"].map(str::to_owned).into_iter().chain(of_streams).collect();
        assert_eq!(good, expected);
    }

    #[test]
    fn a_reference_that_cannot_be_read_is_told_before_anything_runs() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("omega-reference")).unwrap();
        std::fs::write(data.path().join("omega-reference/e4_conflict_modes.csv"), "exp,arch\n").unwrap();
        let count = |case: &str| {
            let options = Run::of(&["omega", "--case", case, "--data", data.path().to_str().unwrap()]);
            planned(&options).map(|planned| planned.len())
        };
        let error = format!("{:#}", count("E4_conflict_modes").unwrap_err());
        assert!(error.contains("e4_conflict_modes.csv") && error.contains("line 1"), "{error}");
        assert_eq!(count("E5_batch_schedulers").unwrap(), 1);
    }

    // No row was judged then, so none was outside, and that was all that the results said.
    #[test]
    fn a_reference_that_has_none_of_an_experiments_rows_is_told_before_anything_runs() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("omega-reference")).unwrap();
        let file = data.path().join("omega-reference/e4_conflict_modes.csv");
        let folder = data.path().to_str().unwrap();
        let options = Run::of(&["omega", "--quick", "--case", "E4_conflict_modes", "--data", folder]);
        let key = planned(&options).map(|planned| planned[0].0.tasks[3].key()).unwrap();
        let numbers = ",1".repeat(COLUMNS.split(',').count() - key.split(',').count());
        let rows_with = |key: &str| {
            std::fs::write(&file, format!("{COLUMNS}\n{key}{numbers}\n")).unwrap();
            planned(&options).map(|planned| planned[0].1.len())
        };
        assert_eq!(rows_with(&key).unwrap(), 1);
        let error = rows_with(&key.replacen("E4_conflict_modes", "E4", 1)).unwrap_err().to_string();
        assert!(error.contains("e4_conflict_modes.csv") && error.contains("its first row is E4,"), "{error}");
    }

    #[test]
    fn what_a_row_is_is_known_before_it_runs() {
        for experiment in plan::experiments() {
            for task in &experiment.tasks {
                let key = task.key();
                assert!(key.starts_with(&format!("{},", task.exp)), "{key}");
                assert_eq!(key.contains(",sequence-numbers-fixed,"), task.check_name.is_some(), "{key}");
            }
        }
    }

    #[test]
    fn rows_that_are_judged_are_those_that_the_reference_has() {
        let verdicts = vec![judge::Verdict::Met, judge::Verdict::Alone, judge::Verdict::InOrder];
        let reference = Reference::new();
        let outcome = Outcome { file: "e4_conflict_modes", about: "", rows: Vec::new(), verdicts, reference };
        assert_eq!(outcome.judged(), 2);
    }

    // `--case` was taken, and changed nothing.
    #[test]
    fn a_single_run_is_a_case_that_is_asked_for_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let measured = |case: &str| {
            let short = ["omega", "--arch", "omega", "--horizon", "60", "--out", folder.path().to_str().unwrap()];
            let options = Run::of(&[&short[..], &["--case", case]].concat());
            Kept::of(|kept| run(&options, kept)).unwrap().into_iter().map(|figure| figure.case).next()
        };
        assert_eq!(measured("workload=R2"), None);
        assert!(measured("horizon=60").unwrap().ends_with(" horizon=60"));
    }

    #[test]
    fn a_single_run_is_named_by_what_is_not_as_usual() {
        let cells = row(&[
            ("arch", "omega"),
            ("workload", "R1"),
            ("conflict_mode", "resource-fit"),
            ("txn_mode", "incremental"),
        ]);
        let usual = plan::usual(&R1, 24.0);
        let name = "arch=omega workload=R1 conflict=resource-fit commit=incremental";
        assert_eq!(case_name(&cells, &usual), name);
        let slow = Settings { service: Cost { job_micros: 10_000_000, ..usual.service }, rate: 2.0, ..usual.clone() };
        assert_eq!(case_name(&cells, &slow), format!("{name} tjob_service=10 lambda=2"));
        let beyond = Beyond { alternates_percent: 50, own_first: true, ..usual.beyond };
        let short = Settings { horizon_micros: 3_600_000_000, workload_seed: 7, retrying: PAPER, beyond, ..usual };
        let more = "horizon=3600 workload_seed=7 rules=paper alternates=50 own_first=true";
        assert_eq!(case_name(&cells, &short), format!("{name} {more}"));
    }
}
