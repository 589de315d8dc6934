//! The figures of the paper, drawn from rows; the reference's rows are dashed.

use super::reference::{Cells, Reference};
use super::shapes::pick;
use crate::plot::{self, Axis, Chart, HeatMap, Point, Series, TimeUnit};

/// A picture, with the name of its file.
pub(super) struct Picture {
    pub(super) name: String,
    pub(super) svg: String,
}

const ARCHITECTURES: [&str; 5] = ["mono-single", "mono-multi", "partitioned", "mesos", "omega"];

/// All pictures for which there are rows: one for each experiment and cell, with a panel for each thing that is shown.
pub(super) fn pictures(rows: &[Cells], reference: &Reference) -> Vec<Picture> {
    let mut pictures = Vec::new();
    let theirs: Vec<Cells> = reference.values().cloned().collect();
    for cell in ["R1", "R2"] {
        let title = format!("{cell}: busyness and waits over the decision time of service jobs");
        charts(&mut pictures, &format!("e1-{cell}"), &title, &decision_times(cell, rows, &theirs));
    }
    let loads: Vec<Chart> = ["R1", "R2"].iter().flat_map(|cell| load_and_schedulers(cell, rows, &theirs)).collect();
    charts(&mut pictures, "e3", "Conflicts and busyness over the batch load, by number of batch schedulers", &loads);
    let modes: Vec<Chart> = ["R1", "R2", "R3"].iter().flat_map(|cell| conflict_modes(cell, rows, &theirs)).collect();
    charts(&mut pictures, "e4", "Conflict modes over the decision time of service jobs", &modes);
    charts(
        &mut pictures,
        "e5",
        "One and three batch schedulers over their decision time (R2)",
        &batch_schedulers(rows),
    );
    maps(&mut pictures, "e6", SURFACES, &surfaces(rows));
    pictures
}

const SURFACES: &str = "Busyness of service scheduling; empty where more than 1% of the jobs are left over (R1)";

/// The file of a picture: by the name of the suite, the next run in the same folder knows what this one left.
fn file(name: &str) -> String {
    format!("{}-{name}.svg", super::NAME)
}

/// A picture of these charts, if there are any, two beside each other.
pub(super) fn charts(pictures: &mut Vec<Picture>, name: &str, title: &str, charts: &[Chart]) {
    let drawn: Vec<Chart> = charts.iter().filter(|chart| !chart.series.is_empty()).cloned().collect();
    if !drawn.is_empty() {
        pictures.push(Picture { name: file(name), svg: plot::charts(title, 2, &drawn) });
    }
}

/// The same of maps.
pub(super) fn maps(pictures: &mut Vec<Picture>, name: &str, title: &str, maps: &[HeatMap]) {
    if !maps.is_empty() {
        pictures.push(Picture { name: file(name), svg: plot::maps(title, 2, maps) });
    }
}

fn decision_times(cell: &str, rows: &[Cells], theirs: &[Cells]) -> Vec<Chart> {
    let shown = [
        ("batch_busy", Axis::linear("busyness of batch scheduling")),
        ("service_busy", Axis::linear("busyness of service scheduling")),
        ("batch_wait_censored_mean_s", Axis::log("mean wait of batch jobs (s)")),
        ("service_wait_censored_mean_s", Axis::log("mean wait of service jobs (s)")),
    ];
    let chart = |(column, y): (&str, Axis)| {
        let of = |rows: &[Cells], arch: &str| {
            let what = [("exp", "E1_tjob"), ("workload", cell), ("arch", arch), ("wl_seed", "1")];
            points(&pick(rows, &what), "tjob_service", column)
        };
        let series = with_reference(&ARCHITECTURES, |arch| of(rows, arch), |arch| of(theirs, arch));
        Chart { title: y.label.clone(), x: Axis::log("t_job (s)"), y, series }
    };
    shown.map(chart).into()
}

fn points(rows: &[&Cells], x: &str, y: &str) -> Vec<Point> {
    let mut points: Vec<Point> = rows.iter().map(|row| Point::at(row.number(x), row.number(y))).collect();
    points.sort_by(|left, right| left.x.total_cmp(&right.x));
    points
}

fn with_reference(
    names: &[&str],
    ours: impl Fn(&str) -> Vec<Point>,
    theirs: impl Fn(&str) -> Vec<Point>,
) -> Vec<Series> {
    let mut series = Vec::new();
    for (colour, name) in names.iter().enumerate() {
        let (ours, theirs) = (ours(name), theirs(name));
        if ours.is_empty() {
            continue;
        }
        let own = Series::new(name, ours);
        series.push(Series { colour: Some(colour), ..own });
        if !theirs.is_empty() {
            series.push(Series::new(&format!("{name}, reference"), theirs).reference_of(colour));
        }
    }
    series
}

fn load_and_schedulers(cell: &str, rows: &[Cells], theirs: &[Cells]) -> Vec<Chart> {
    let shown = [("batch_conflict_frac", "conflict fraction"), ("batch_busy", "busyness of a batch scheduler")];
    let chart = |(column, label): (&str, &str)| {
        let of = |rows: &[Cells], count: &str| {
            let what = [("exp", "E3_lambda_x_nsched"), ("workload", cell), ("n_batch_scheds", count)];
            points(&pick(rows, &what), "lambda_mult", column)
        };
        let counts = ["1", "2", "4", "8", "16", "32"];
        let series = with_reference(&counts, |count| of(rows, count), |count| of(theirs, count));
        let (x, y) = (Axis::log("times the arrivals"), Axis::linear(label));
        Chart { title: format!("{cell}: {label}"), x, y, series }
    };
    shown.map(chart).into()
}

fn conflict_modes(cell: &str, rows: &[Cells], theirs: &[Cells]) -> Vec<Chart> {
    let modes = [
        "resource-fit incremental",
        "resource-fit all-or-nothing",
        "sequence-numbers incremental",
        "sequence-numbers all-or-nothing",
    ];
    let shown = [
        ("service_conflict_frac", "conflict fraction of service jobs"),
        ("service_busy", "busyness of service scheduling"),
    ];
    let chart = |(column, label): (&str, &str)| {
        let of = |rows: &[Cells], mode: &str| {
            let (check, commit) = mode.split_once(' ').unwrap_or((mode, ""));
            let what = [
                ("exp", "E4_conflict_modes"),
                ("workload", cell),
                ("conflict_mode", check),
                ("txn_mode", commit),
                ("wl_seed", "1"),
            ];
            points(&pick(rows, &what), "tjob_service", column)
        };
        let series = with_reference(&modes, |mode| of(rows, mode), |mode| of(theirs, mode));
        let (x, y) = (Axis::log("t_job of service jobs (s)"), Axis::linear(label));
        Chart { title: format!("{cell}: {label}"), x, y, series }
    };
    shown.map(chart).into()
}

fn batch_schedulers(rows: &[Cells]) -> Vec<Chart> {
    let shown = [
        ("batch_busy", Axis::linear("busyness of a batch scheduler")),
        ("batch_wait_censored_mean_s", Axis::log("mean wait of batch jobs (s)")),
        ("batch_conflict_frac", Axis::linear("conflict fraction")),
    ];
    let chart = |(column, y): (&str, Axis)| {
        let of = |count: &str| {
            points(&pick(rows, &[("exp", "E5_batch_schedulers"), ("n_batch_scheds", count)]), "tjob_batch", column)
        };
        let series = [("1", "one batch scheduler"), ("3", "three batch schedulers")]
            .into_iter()
            .map(|(count, name)| Series::new(name, of(count)))
            .filter(|series| !series.points.is_empty())
            .collect();
        Chart { title: y.label.clone(), x: Axis::linear("t_job of batch jobs (s)"), y, series }
    };
    shown.map(chart).into()
}

/// Busyness over both decision times; nothing is drawn where jobs were left over, which is red in the paper.
fn surfaces(rows: &[Cells]) -> Vec<HeatMap> {
    let of = |arch: &&str| {
        let found = pick(rows, &[("exp", "E6_tjob_x_ttask"), ("arch", arch)]);
        let values_of = |column: &str| {
            let mut texts: Vec<&str> = found.iter().map(|row| row.text(column)).collect();
            let number = |text: &str| text.parse().unwrap_or(0.0);
            texts.sort_by(|left, right| f64::total_cmp(&number(left), &number(right)));
            texts.dedup();
            texts
        };
        let (jobs, mut tasks) = (values_of("tjob_service"), values_of("ttask_service"));
        tasks.reverse();
        let value = |task: &str, job: &str| {
            let row = found.iter().find(|row| row.text("ttask_service") == task && row.text("tjob_service") == job)?;
            let left = row.number("batch_pct_unsched").max(row.number("service_pct_unsched"));
            (left < 1.0).then(|| row.number("service_busy"))
        };
        (!jobs.is_empty()).then(|| HeatMap {
            title: (*arch).to_owned(),
            x_label: "t_job (s)".into(),
            y_label: "t_task (s)".into(),
            columns: jobs.iter().map(|&text| short(text)).collect(),
            rows: tasks.iter().map(|&text| short(text)).collect(),
            values: tasks.iter().map(|task| jobs.iter().map(|job| value(task, job)).collect()).collect(),
            colour: Axis::linear("busyness").over(0.0, 1.0),
        })
    };
    ARCHITECTURES.iter().filter_map(of).collect()
}

fn short(text: &str) -> String {
    text.parse::<f64>().map_or_else(|_| text.to_owned(), crate::cells::row::plain)
}

/// Where and when claims were refused: machines in blocks, time in pieces.
pub(super) fn conflict_map(title: &str, refusals: &[(i64, u32)], machines: u32, horizon_micros: i64) -> HeatMap {
    const BLOCKS: u32 = 20;
    const PIECES: i64 = 48;
    let mut counts = vec![vec![0u32; 48]; 20];
    for &(at, machine) in refusals {
        let piece = usize::try_from((at * PIECES / horizon_micros.max(1)).clamp(0, PIECES - 1)).unwrap_or(0);
        let block = u64::from(machine) * u64::from(BLOCKS) / u64::from(machines.max(1));
        counts[usize::try_from(block).unwrap_or(0).min(19)][piece] += 1;
    }
    let horizon = crate::cells::stage::seconds(horizon_micros);
    let unit = TimeUnit::of(horizon);
    let column = |piece: u32| crate::report::three_digits(horizon / unit.seconds * f64::from(piece) / 48.0);
    HeatMap {
        title: title.to_owned(),
        x_label: format!("time ({})", unit.name),
        y_label: "machines".into(),
        columns: (0..48).map(column).collect(),
        rows: (0..BLOCKS)
            .map(|block| format!("{} …", u64::from(block) * u64::from(machines) / u64::from(BLOCKS)))
            .collect(),
        values: counts.iter().map(|row| row.iter().map(|&count| Some(f64::from(count))).collect()).collect(),
        colour: Axis::linear("refused claims"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_named_after_their_suite() {
        let series = vec![Series::new("one", vec![Point::at(0.0, 1.0)])];
        let chart = Chart { title: "t".into(), x: Axis::linear("x"), y: Axis::linear("y"), series };
        let mut pictures = Vec::new();
        charts(&mut pictures, "e1-R1", "title", &[chart]);
        maps(&mut pictures, "e8", "title", &[conflict_map("map", &[(0, 0)], 10, 1_000_000)]);
        let names: Vec<&str> = pictures.iter().map(|picture| picture.name.as_str()).collect();
        assert_eq!(names, ["omega-e1-R1.svg", "omega-e8.svg"]);
    }

    #[test]
    fn a_short_run_has_a_map_over_minutes() {
        let map = conflict_map("map", &[(0, 0)], 10, 480_000_000);
        assert_eq!((&*map.x_label, &*map.columns[6]), ("time (minutes)", "1.00"));
    }
}
