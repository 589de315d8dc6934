//! The MapReduce scheduler's policies on generated jobs: speed-ups and how full the cell is (the paper's figures 15 and 16).

use std::fmt::Write;

use plenum_policies::ElasticPolicy;

use super::draw::{self, Picture};
use crate::cells::mapreduce::{Grown, run};
use crate::interrupt;
use crate::plot::{Axis, Chart, Point, Series};
use crate::progress::say;

/// The policies with the paper's settings; first what there is without any.
const POLICIES: [(&str, Option<ElasticPolicy>); 4] = [
    ("as-asked", None),
    ("max-parallelism", Some(ElasticPolicy::MaxParallelism)),
    ("global-cap", Some(ElasticPolicy::GlobalCap { used_millis: 600 })),
    ("relative-job-size", Some(ElasticPolicy::RelativeJobSize { times: 4 })),
];

/// How full the cell is before the first job: nearly idle as the paper's cluster D, as usual, and nearly full.
const FILLS: [f64; 3] = [0.2, 0.6, 0.85];

/// What all runs came to.
pub(super) struct Section {
    pub(super) csv: String,
    pub(super) text: String,
    pub(super) pictures: Vec<Picture>,
}

/// Runs all policies at all degrees, for a day each, or six hours.
pub(super) fn section(quick: bool, seed: u64) -> anyhow::Result<Section> {
    let hours = if quick { 6.0 } else { 24.0 };
    let mut section = Section {
        csv: "fill,policy,jobs,workers,accelerated,speedup_p50,speedup_p80,speedup_p95,cpu_util_mean,cpu_util_sd\n".to_owned(),
        text: "## MapReduce\n\nHow many times as fast jobs are as with the workers that they asked for, and what part of the CPU is used by the minute (mean and \
               standard deviation). Generated jobs: `docs/omega.md` says how.\n\n| filled | policy | jobs faster | median | p80 | p95 | CPU used |\n|---|---|---|---|---|---|---|\n"
            .to_owned(),
        pictures: Vec::new(),
    };
    let mut charts = Vec::new();
    for fill in FILLS {
        say(&format!("omega: e7_mapreduce: filled to {fill}"));
        let mut grown = Vec::new();
        for (name, policy) in POLICIES {
            if interrupt::asked() {
                return Ok(section);
            }
            let run = run(policy, fill, seed, hours * 3600.0, &|| !interrupt::asked())?;
            note(&mut section, fill, name, &run);
            grown.push((name, run));
        }
        charts.extend(pictures(fill, &grown));
    }
    draw::charts(&mut section.pictures, "e7", "MapReduce jobs that grow, by how full the cell was", &charts);
    for picture in &section.pictures {
        let _ = write!(section.text, "\n![{}]({})", picture.name.trim_end_matches(".svg"), picture.name);
    }
    section.text.push('\n');
    Ok(section)
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
    let speed = grown.iter().skip(1).map(|(name, run)| {
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
