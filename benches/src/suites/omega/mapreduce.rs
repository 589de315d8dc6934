//! The MapReduce scheduler's policies on generated jobs: speed-ups and how full the cell is (the paper's figures 15 and 16).

use std::fmt::Write;

use plenum_policies::ElasticPolicy;
use serde_json::json;

use super::draw::{self, Picture};
use crate::cells::mapreduce::{Grown, run};
use crate::figure::{Better, Case, Figure, by_name};
use crate::plot::{Axis, Chart, Point, Series};
use crate::progress::say;

/// What there is without a policy.
const AS_ASKED: &str = "as-asked";

/// The policies with the paper's settings.
const POLICIES: [(&str, Option<ElasticPolicy>); 4] = [
    (AS_ASKED, None),
    ("max-parallelism", Some(ElasticPolicy::MaxParallelism)),
    ("global-cap", Some(ElasticPolicy::GlobalCap { used_millis: 600 })),
    ("relative-job-size", Some(ElasticPolicy::RelativeJobSize { times: 4 })),
];

/// How full the cell is before the first job: nearly idle as the paper's cluster D, as usual, and nearly full.
const FILLS: [f64; 3] = [0.2, 0.6, 0.85];

/// How long each run is.
pub(super) const HOURS: f64 = 24.0;
pub(super) const HOURS_QUICK: f64 = 6.0;

/// What all runs came to.
pub(super) struct Section {
    pub(super) csv: String,
    pub(super) text: String,
    pub(super) pictures: Vec<Picture>,
    pub(super) figures: Vec<Figure>,
}

/// The case of one run.
fn case_name(policy: &str, fill: f64) -> String {
    format!("e7_mapreduce policy={policy} fill={fill}")
}

/// Names by which it can be asked for, as for those of the other experiments.
fn names(policy: &str, fill: f64) -> [String; 2] {
    ["E7_mapreduce".to_owned(), case_name(policy, fill)]
}

/// Runs the policies at the degrees that are asked for, as long as they are. `None` where not one run came to its end.
pub(super) fn section(hours: f64, seed: u64, is_asked_for: &dyn Fn(&str) -> bool) -> anyhow::Result<Option<Section>> {
    let mut section = Section {
        csv: "fill,policy,jobs,workers,accelerated,speedup_p50,speedup_p80,speedup_p95,cpu_util_mean,cpu_util_sd\n".to_owned(),
        text: "## MapReduce\n\nHow many times as fast jobs are as with the workers that they asked for, and what part of the CPU is used by the minute (mean and \
               standard deviation). Generated jobs: `docs/omega.md` says how.\n\n| filled | policy | jobs faster | median | p80 | p95 | CPU used |\n|---|---|---|---|---|---|---|\n"
            .to_owned(),
        pictures: Vec::new(),
        figures: Vec::new(),
    };
    let mut charts = Vec::new();
    for fill in FILLS {
        let mut grown = Vec::new();
        for (name, policy) in POLICIES {
            let go_on = || names(name, fill).iter().any(|name| is_asked_for(name));
            if !go_on() {
                continue;
            }
            say(&format!("omega: {}", case_name(name, fill)));
            let Some(run) = run(policy, fill, seed, hours * 3600.0, &go_on)? else { continue };
            note(&mut section, fill, name, &run);
            section.figures.extend(figures(&case_name(name, fill), hours, seed, &run)?);
            grown.push((name, run));
        }
        charts.extend(pictures(fill, &grown));
    }
    if section.figures.is_empty() {
        return Ok(None);
    }
    draw::charts(&mut section.pictures, "e7", "MapReduce jobs that grow, by how full the cell was", &charts);
    for picture in &section.pictures {
        let _ = write!(section.text, "\n![{}]({})", picture.name.trim_end_matches(".svg"), picture.name);
    }
    section.text.push('\n');
    Ok(Some(section))
}

/// The figures of one run.
fn figures(name: &str, hours: f64, seed: u64, run: &Grown) -> anyhow::Result<Vec<Figure>> {
    let parameters = by_name([
        ("horizon_seconds", json!(hours * 3600.0)),
        ("workload_seed", json!(seed)),
        ("jobs", json!(run.speed_ups.len())),
        ("workers", json!(run.workers)),
    ]);
    let case = Case { suite: super::NAME, case: name, parameters };
    let told = [
        ("speedup_p50", run.percentile(50)),
        ("speedup_p80", run.percentile(80)),
        ("speedup_p95", run.percentile(95)),
        ("accelerated_ratio", run.accelerated()),
        ("cpu_used_ratio", run.utilisation().0),
    ];
    told.into_iter().map(|(metric, value)| case.figure(metric, "1", Better::Higher, vec![value])).collect()
}

fn note(section: &mut Section, fill: f64, name: &str, run: &Grown) {
    let [half, most, nearly] = [50, 80, 95].map(|percent| run.percentile(percent));
    let (mean, deviation) = run.utilisation();
    let (jobs, faster) = (run.speed_ups.len(), run.accelerated());
    let _ = writeln!(
        section.csv,
        "{fill},{name},{jobs},{},{faster:.4},{half:.3},{most:.3},{nearly:.3},{mean:.4},{deviation:.4}",
        run.workers
    );
    let _ = writeln!(
        section.text,
        "| {:.0}% | {name} | {:.0}% | {half:.2} | {most:.2} | {nearly:.2} | {:.1}% ± {:.1} |",
        fill * 100.0,
        faster * 100.0,
        mean * 100.0,
        deviation * 100.0
    );
}

fn pictures(fill: f64, grown: &[(&str, Grown)]) -> [Chart; 2] {
    let number = |count: usize| crate::figure::number(count as u64);
    let steps = |values: &[f64], of: &dyn Fn(usize, f64) -> (f64, f64)| -> Vec<Point> {
        let every = (values.len() / 200).max(1);
        values
            .iter()
            .enumerate()
            .step_by(every)
            .map(|(position, &value)| of(position, value))
            .map(|(x, y)| Point::at(x, y))
            .collect()
    };
    let speed = grown.iter().filter(|(name, _)| *name != AS_ASKED).map(|(name, run)| {
        let all = number(run.speed_ups.len());
        Series::new(name, steps(&run.speed_ups, &|position, times| (times, number(position + 1) / all))).in_steps()
    });
    let used = grown.iter().map(|(name, run)| {
        Series::new(name, steps(&run.used, &|minute, used| (number(minute) / 60.0, used))).in_steps()
    });
    let percent = fill * 100.0;
    let [speed_ups, cpu] = [
        (format!("filled to {percent:.0}%: speed-up"), Axis::log("times as fast"), Axis::linear("part of the jobs")),
        (
            format!("filled to {percent:.0}%: CPU in use"),
            Axis::linear("time (h)"),
            Axis::linear("part of the CPU").over(0.0, 1.0),
        ),
    ];
    let chart = |(title, x, y): (String, Axis, Axis), series: Vec<Series>| Chart { title, x, y, series };
    [chart(speed_ups, speed.collect()), chart(cpu, used.collect())]
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const AS_ASKED_CASE: &str = "e7_mapreduce policy=as-asked fill=0.2";
    const GROWING_CASE: &str = "e7_mapreduce policy=max-parallelism fill=0.2";
    const TEN_MINUTES: f64 = 1.0 / 6.0;

    fn cases(section: &Section) -> Vec<(&str, &str)> {
        section.figures.iter().map(|figure| (figure.case.as_str(), figure.metric.as_str())).collect()
    }

    // What it came to stood in a CSV file and on the page alone: a run of nothing else ended as one that measured nothing.
    #[test]
    fn each_policy_at_each_degree_is_a_case_with_figures() {
        let section = section(TEN_MINUTES, 1, &|name| name == GROWING_CASE).unwrap().unwrap();
        let metrics = ["speedup_p50", "speedup_p80", "speedup_p95", "accelerated_ratio", "cpu_used_ratio"];
        assert_eq!(cases(&section), metrics.map(|metric| (GROWING_CASE, metric)));
        assert!(section.figures.iter().all(|figure| figure.value > 0.0), "{:?}", section.figures);
        assert_eq!(section.csv.lines().count(), 2);
    }

    #[test]
    fn all_of_it_has_the_name_of_its_file() {
        let asked = Cell::new(0);
        let is_asked_for = |name: &str| {
            asked.set(asked.get() + u32::from(name.contains("e7_mapreduce")));
            false
        };
        assert!(section(TEN_MINUTES, 1, &is_asked_for).unwrap().is_none());
        assert_eq!(asked.get(), 12);
    }

    // The part of a day that it had come to stood there as the day.
    #[test]
    fn a_run_that_is_stopped_is_not_noted() {
        let looks = Cell::new(0);
        let is_asked_for =
            |name: &str| name == AS_ASKED_CASE || (name == GROWING_CASE && looks.replace(looks.get() + 1) < 5);
        let section = section(TEN_MINUTES, 1, &is_asked_for).unwrap().unwrap();
        assert_eq!(looks.get(), 6, "it was begun");
        assert!(cases(&section).iter().all(|(case, _)| *case == AS_ASKED_CASE), "{:?}", section.figures);
        assert_eq!(section.csv.lines().count(), 2);
    }
}
