//! The figures of the paper, drawn from rows; the reference's rows are dashed.

use super::reference::{Cells, Reference};
use super::shapes::pick;
use crate::plot::{Axis, Chart, HeatMap, Point, Series};

/// A picture, with the name of its file.
pub(super) struct Picture {
    pub(super) name: String,
    pub(super) svg: String,
}

const ARCHITECTURES: [&str; 5] = ["mono-single", "mono-multi", "partitioned", "mesos", "omega"];

/// All pictures for which there are rows.
pub(super) fn pictures(rows: &[Cells], reference: &Reference) -> Vec<Picture> {
    let mut pictures = Vec::new();
    let theirs: Vec<Cells> = reference.values().cloned().collect();
    for cell in ["R1", "R2"] {
        for (column, name, axis) in [
            ("batch_busy", "busy-batch", Axis::linear("busyness of batch scheduling")),
            ("service_busy", "busy-service", Axis::linear("busyness of service scheduling")),
            ("batch_wait_censored_mean_s", "wait-batch", Axis::log("mean wait of batch jobs (s)")),
            ("service_wait_censored_mean_s", "wait-service", Axis::log("mean wait of service jobs (s)")),
        ] {
            let of = |rows: &[Cells], arch: &str| {
                let what = [("exp", "E1_tjob"), ("workload", cell), ("arch", arch), ("wl_seed", "1")];
                points(&pick(rows, &what), "tjob_service", column)
            };
            let series = with_reference(&ARCHITECTURES, |arch| of(rows, arch), |arch| of(&theirs, arch));
            let title = format!("{cell}: {} over the decision time of service jobs", axis.label);
            push(&mut pictures, format!("e1-{cell}-{name}"), title, Axis::log("t_job (s)"), axis, series);
        }
        load_and_schedulers(&mut pictures, cell, rows, &theirs);
    }
    for cell in ["R1", "R2", "R3"] {
        conflict_modes(&mut pictures, cell, rows, &theirs);
    }
    batch_schedulers(&mut pictures, rows);
    pictures.extend(surfaces(rows));
    pictures
}

fn push(pictures: &mut Vec<Picture>, name: String, title: String, x: Axis, y: Axis, series: Vec<Series>) {
    if !series.is_empty() {
        pictures.push(Picture { name: format!("{name}.svg"), svg: Chart { title, x, y, series }.svg() });
    }
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

fn load_and_schedulers(pictures: &mut Vec<Picture>, cell: &str, rows: &[Cells], theirs: &[Cells]) {
    for (column, name, label) in [
        ("batch_conflict_frac", "conflicts", "conflict fraction"),
        ("batch_busy", "busy", "busyness of a batch scheduler"),
    ] {
        let of = |rows: &[Cells], count: &str| {
            let what = [("exp", "E3_lambda_x_nsched"), ("workload", cell), ("n_batch_scheds", count)];
            points(&pick(rows, &what), "lambda_mult", column)
        };
        let counts = ["1", "2", "4", "8", "16", "32"];
        let series = with_reference(&counts, |count| of(rows, count), |count| of(theirs, count));
        let title = format!("{cell}: {label} over the batch load, by number of batch schedulers");
        push(
            pictures,
            format!("e3-{cell}-{name}"),
            title,
            Axis::log("times the arrivals"),
            Axis::linear(label),
            series,
        );
    }
}

fn conflict_modes(pictures: &mut Vec<Picture>, cell: &str, rows: &[Cells], theirs: &[Cells]) {
    let modes = [
        "resource-fit incremental",
        "resource-fit all-or-nothing",
        "sequence-numbers incremental",
        "sequence-numbers all-or-nothing",
    ];
    for (column, name, label) in [
        ("service_conflict_frac", "conflicts", "conflict fraction of service jobs"),
        ("service_busy", "busy", "busyness of service scheduling"),
    ] {
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
        let title = format!("{cell}: {label}, by mode");
        push(
            pictures,
            format!("e4-{cell}-{name}"),
            title,
            Axis::log("t_job of service jobs (s)"),
            Axis::linear(label),
            series,
        );
    }
}

fn batch_schedulers(pictures: &mut Vec<Picture>, rows: &[Cells]) {
    for (column, name, axis) in [
        ("batch_busy", "busy", Axis::linear("busyness of a batch scheduler")),
        ("batch_wait_censored_mean_s", "wait", Axis::log("mean wait of batch jobs (s)")),
        ("batch_conflict_frac", "conflicts", Axis::linear("conflict fraction")),
    ] {
        let of = |count: &str| {
            points(&pick(rows, &[("exp", "E5_batch_schedulers"), ("n_batch_scheds", count)]), "tjob_batch", column)
        };
        let series: Vec<Series> = [("1", "one batch scheduler"), ("3", "three batch schedulers")]
            .into_iter()
            .map(|(count, name)| Series::new(name, of(count)))
            .filter(|series| !series.points.is_empty())
            .collect();
        let title = format!("R2: {} over the decision time of batch jobs", axis.label);
        push(pictures, format!("e5-{name}"), title, Axis::linear("t_job of batch jobs (s)"), axis, series);
    }
}

/// Busyness over both decision times; nothing is drawn where jobs were left over, which is red in the paper.
fn surfaces(rows: &[Cells]) -> Vec<Picture> {
    let of = |arch: &&str| {
        let found = pick(rows, &[("exp", "E6_tjob_x_ttask"), ("arch", arch)]);
        let mut columns: Vec<&str> = found.iter().map(|row| row.text("tjob_service")).collect();
        let mut tasks: Vec<&str> = found.iter().map(|row| row.text("ttask_service")).collect();
        let by_number = |left: &&str, right: &&str| {
            let number = |text: &str| text.parse().unwrap_or(0.0);
            f64::total_cmp(&number(left), &number(right))
        };
        columns.sort_by(by_number);
        columns.dedup();
        tasks.sort_by(by_number);
        tasks.dedup();
        tasks.reverse();
        let value = |task: &str, job: &str| {
            let row = found.iter().find(|row| row.text("ttask_service") == task && row.text("tjob_service") == job)?;
            let left = row.number("batch_pct_unsched").max(row.number("service_pct_unsched"));
            (left < 1.0).then(|| row.number("service_busy"))
        };
        if columns.is_empty() {
            return None;
        }
        let map = HeatMap {
            title: format!(
                "{arch}: busyness of service scheduling; empty where more than 1% of the jobs are left over"
            ),
            x_label: "t_job (s)".into(),
            y_label: "t_task (s)".into(),
            columns: columns.iter().map(|&text| short(text)).collect(),
            rows: tasks.iter().map(|&text| short(text)).collect(),
            values: tasks.iter().map(|task| columns.iter().map(|job| value(task, job)).collect()).collect(),
            colour: Axis::linear("busyness").over(0.0, 1.0),
        };
        Some(Picture { name: format!("e6-{arch}.svg"), svg: map.svg() })
    };
    ARCHITECTURES.iter().filter_map(of).collect()
}

fn short(text: &str) -> String {
    text.parse::<f64>().map_or_else(|_| text.to_owned(), crate::cells::row::plain)
}

/// Where and when claims were refused: machines in blocks, time in pieces.
pub(super) fn conflict_map(
    name: &str,
    title: &str,
    refusals: &[(i64, u32)],
    machines: u32,
    horizon_micros: i64,
) -> Picture {
    const BLOCKS: u32 = 20;
    const PIECES: i64 = 48;
    let mut counts = vec![vec![0u32; 48]; 20];
    for &(at, machine) in refusals {
        let piece = usize::try_from((at * PIECES / horizon_micros.max(1)).clamp(0, PIECES - 1)).unwrap_or(0);
        let block = u64::from(machine) * u64::from(BLOCKS) / u64::from(machines.max(1));
        counts[usize::try_from(block).unwrap_or(0).min(19)][piece] += 1;
    }
    let hours = crate::cells::stage::seconds(horizon_micros) / 3600.0;
    let map = HeatMap {
        title: title.to_owned(),
        x_label: "time (h)".into(),
        y_label: "machines".into(),
        columns: (0..48).map(|piece| crate::report::three_digits(hours * f64::from(piece) / 48.0)).collect(),
        rows: (0..BLOCKS)
            .map(|block| format!("{} …", u64::from(block) * u64::from(machines) / u64::from(BLOCKS)))
            .collect(),
        values: counts.iter().map(|row| row.iter().map(|&count| Some(f64::from(count))).collect()).collect(),
        colour: Axis::linear("refused claims"),
    };
    Picture { name: format!("{name}.svg"), svg: map.svg() }
}
