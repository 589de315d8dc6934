//! What a run leaves to read: one row a run, the curves, two charts for each list, and a page with a verdict for each row.

use std::fmt::Write;
use std::path::Path;

use super::reference::{Expected, Reference};
use super::{ARRIVED_PERCENT, Inflated, Runs, deviation, mean};
use crate::folder::save;
use crate::plot::{self, Axis, Chart, Point, Series};

pub(super) fn write(all: &[Runs], reference: &Reference, folder: &Path) -> anyhow::Result<()> {
    save(folder, "inflation.csv", &rows(all))?;
    save(folder, "inflation-curves.csv", &curves(all))?;
    let mut lists = all.iter().map(|runs| runs.list.as_str()).collect::<Vec<_>>();
    lists.dedup();
    let mut page = table(all, reference);
    for (what, from, of) in PICTURES {
        let of_list = |list: &&str| {
            let runs = all.iter().filter(|runs| runs.list == *list).collect::<Vec<_>>();
            chart(list, from, &runs, of)
        };
        let charts = lists.iter().map(of_list).collect::<Vec<_>>();
        let name = format!("trace-inflation-{what}.svg");
        save(folder, &name, &plot::charts(&format!("{what}, % of all GPUs, by list"), 2, &charts))?;
        let _ = write!(page, "\n![{what} by list]({name})\n");
    }
    save(folder, "trace-inflation.md", &page)
}

/// So many standard errors of the difference of two means are chance.
const ERRORS: f64 = 3.0;

type Curve = fn(&Inflated) -> &[Option<f64>];

/// Their names, the percent from which they are interesting, and what they show.
const PICTURES: [(&str, usize, Curve); 2] =
    [("allocation", 80, |run| &run.allocated), ("fragmentation", 0, |run| &run.fragmentation)];

fn rows(all: &[Runs]) -> String {
    let mut text = "workload,policy,seed,arrivals,placed,failed,arrived_gpu_milli,used_gpu_milli,alloc_pct_at_100,alloc_pct_at_130,\
        final_frag_gpus,decision_seconds,commit_seconds\n"
        .to_owned();
    for runs in all {
        for (seed, run) in &runs.by_seed {
            let Inflated { placed, failed, arrived_millis, used_millis, .. } = run;
            let at = |percent| run.allocated_at(percent).unwrap_or(f64::NAN);
            let _ = writeln!(
                text,
                "{},{},{seed},{},{placed},{failed},{arrived_millis},{used_millis},{:.2},{:.2},{:.3},{:.9},{:.9}",
                runs.list,
                runs.policy,
                placed + failed,
                at(100),
                at(ARRIVED_PERCENT),
                run.fragmented,
                run.decision_seconds,
                run.commit_seconds,
            );
        }
    }
    text
}

/// A value of all seeds at a percentage.
fn across(runs: &Runs, of: Curve, percent: usize) -> Vec<f64> {
    runs.by_seed.iter().filter_map(|(_, run)| of(run).get(percent).copied().flatten()).collect()
}

fn curves(all: &[Runs]) -> String {
    let mut text = "workload,policy,arrived_pct,alloc_pct,alloc_sd,frag_pct_of_total,frag_sd\n".to_owned();
    for runs in all {
        for percent in 0..=ARRIVED_PERCENT {
            let (allocated, fragmented) = (across(runs, PICTURES[0].2, percent), across(runs, PICTURES[1].2, percent));
            let (Some(allocation), Some(fragmentation)) = (mean(&allocated), mean(&fragmented)) else { continue };
            let (sd, fragmentation_sd) = (deviation(&allocated), deviation(&fragmented));
            let Runs { list, policy, .. } = runs;
            let _ = writeln!(
                text,
                "{list},{policy},{percent},{allocation:.4},{sd:.4},{fragmentation:.4},{fragmentation_sd:.4}"
            );
        }
    }
    text
}

fn chart(title: &str, from: usize, of_list: &[&Runs], of: Curve) -> Chart {
    let series = of_list.iter().map(|runs| {
        let points = (from..=ARRIVED_PERCENT).filter_map(|percent| {
            let samples = across(runs, of, percent);
            let (middle, off) = (mean(&samples)?, deviation(&samples));
            let point = Point::at(f64::from(u32::try_from(percent).ok()?), middle);
            Some(if percent % 10 == 0 { point.between(middle - off, middle + off) } else { point })
        });
        Series::new(&runs.policy, points.collect()).in_steps()
    });
    let (x, y) = (Axis::linear("arrived, % of all GPUs"), Axis::linear("% of all GPUs"));
    Chart { title: title.to_owned(), x, y, series: series.collect() }
}

fn table(all: &[Runs], reference: &Reference) -> String {
    let mut text = "### Inflation: GPUs allocated when 130% are asked for\n\n\
        Allocated percent when 100 and 130 percent have arrived, mean of the seeds; `limit` is what packing the mix of the list as well as it can be would \
        allocate if nothing but GPUs ever ran out, parts rounded up to hundredths of a GPU. Differences are in points; by chance: beyond 0.3, and within three \
        standard errors of both means.\n\n\
        | list | policy | seeds | at 100 | at 130 | deviation | unallocated at 130 | limit | published | difference | verdict |\n\
        |---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for runs in all {
        let seeds = runs.by_seed.iter().map(|(seed, _)| *seed).collect::<Vec<_>>();
        let (at_100, at_130) = (runs.at(100), runs.at(ARRIVED_PERCENT));
        let (Some(first), Some(end)) = (mean(&at_100), mean(&at_130)) else { continue };
        let judged = reference.of(&runs.list, &runs.policy, &seeds).map(|Expected { at, off_max, error }| {
            let off = [first - at[0], end - at[1]];
            // Before the end one arrival more or less moves the curve of a list with constraints by a point: other orders are judged at 130 only.
            let met = off[1].abs() <= off_max && (off[0].abs() <= off_max || off_max > 0.2);
            let own_error = deviation(&at_130) / crate::figure::number(seeds.len() as u64).sqrt();
            let verdict = match (met, error > 0.0 && off[1].abs() <= ERRORS * error.hypot(own_error)) {
                (true, _) => "met",
                (false, true) => "by chance",
                (false, false) => "**missed**",
            };
            format!("{:.2} / {:.2} | {:+.2} / {:+.2} | {verdict}", at[0], at[1], off[0], off[1])
        });
        let judged = judged.unwrap_or_else(|| "– | – | –".to_owned());
        let (list, policy, limit) = (&runs.list, &runs.policy, runs.limit_percent);
        let (count, off, left) = (seeds.len(), deviation(&at_130), 100.0 - end);
        let _ = writeln!(
            text,
            "| {list} | {policy} | {count} | {first:.2} | {end:.2} | {off:.2} | {left:.2} | {limit:.2} | {judged} |"
        );
    }
    text
}
