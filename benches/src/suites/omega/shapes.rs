//! What the paper's figures show, as checks on our own rows: these hold or do not, whether a reference is there or not.

use super::reference::Cells;
use crate::cells::workload::{CellShape, R1, R2, Stream, float};

/// A claim about a figure, and whether the rows bear it out.
pub(super) struct Shape {
    pub(super) claim: String,
    pub(super) holds: bool,
    pub(super) seen: String,
}

/// The first rows that agree in these columns, in their order.
pub(super) fn pick<'a>(rows: &'a [Cells], what: &[(&str, &str)]) -> Vec<&'a Cells> {
    let agrees = |row: &&Cells| what.iter().all(|(column, value)| row.text(column) == *value);
    rows.iter().filter(agrees).collect()
}

/// All claims for which there are rows.
pub(super) fn shapes(rows: &[Cells]) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for cell in [&R1, &R2] {
        let of = |exp: &str, arch: &str| {
            pick(
                rows,
                &[("exp", exp), ("workload", cell.name), ("arch", arch), ("wl_seed", "1"), ("horizon_s", "86400")],
            )
        };
        shapes.extend(no_head_of_line_blocking(cell.name, &of("E1_tjob", "omega")));
        shapes.extend(head_of_line_blocking(cell.name, &of("E1_tjob", "mono-multi")));
        shapes.extend(saturation(cell, &of("E1_tjob", "mono-single")));
        shapes.extend(load_and_schedulers(cell.name, rows));
        shapes.extend(modes(cell.name, rows));
    }
    shapes.extend(modes("R3", rows));
    shapes.extend(three_schedulers(rows));
    shapes
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(least, most), value| (least.min(value), f64::max(most, value)))
}

fn no_head_of_line_blocking(cell: &str, rows: &[&Cells]) -> Vec<Shape> {
    if rows.len() < 3 {
        return Vec::new();
    }
    let (least, most) = range(rows.iter().map(|row| row.number("batch_wait_mean_s")));
    let left = rows.iter().map(|row| row.number("batch_pct_unsched")).fold(0.0, f64::max);
    vec![
        Shape {
            claim: format!(
                "{cell}: with shared state, batch jobs wait alike however long service decisions take (to 1%)"
            ),
            holds: most <= least * 1.01,
            seen: format!("{least:.6} to {most:.6} s"),
        },
        Shape {
            claim: format!("{cell}: with shared state, every batch job is placed"),
            holds: left == 0.0,
            seen: format!("at most {left:.3}% are not"),
        },
    ]
}

fn head_of_line_blocking(cell: &str, rows: &[&Cells]) -> Option<Shape> {
    let rows: Vec<_> = rows.iter().filter(|row| row.number("tjob_service") >= 0.1).collect();
    let waits: Vec<f64> = rows.iter().map(|row| row.number("batch_wait_mean_s")).collect();
    let (first, last) = (waits.first()?, waits.last()?);
    Some(Shape {
        claim: format!("{cell}: monolithic multi-path, batch jobs wait the longer, the longer service decisions take"),
        holds: waits.len() > 2 && waits.is_sorted_by(|left, right| left < right),
        seen: format!("{first:.4} to {last:.1} s"),
    })
}

/// The decision time at which a single path has no idle time left: where `lambda * (t_job + n * t_task)` is 1.
fn saturating_tjob(cell: &CellShape) -> f64 {
    const DAY: f64 = 86_400.0;
    let jobs = cell.jobs(1, DAY, 1.0);
    let jobs: Vec<_> = jobs.iter().filter(|job| job.stream != Stream::Prefill).collect();
    let tasks: u64 = jobs.iter().map(|job| u64::from(job.tasks)).sum();
    (DAY - 0.005 * float(tasks)) / float(jobs.len() as u64)
}

fn saturation(cell: &CellShape, rows: &[&Cells]) -> Option<Shape> {
    if rows.len() < 3 {
        return None;
    }
    let at = saturating_tjob(cell);
    let wrong = rows.iter().find(|row| {
        let (job, left) = (row.number("tjob_batch"), row.number("batch_pct_unsched"));
        (job < 0.95 * at && left > 1.0) || (job > 1.05 * at && left < 1.0)
    });
    Some(Shape {
        claim: format!(
            "{}: monolithic single-path saturates where lambda (t_job + n t_task) is 1: at {at:.2} s",
            cell.name
        ),
        holds: wrong.is_none(),
        seen: wrong
            .map_or_else(|| "no row contradicts it".to_owned(), |row| format!("t_job {} does", row.text("tjob_batch"))),
    })
}

fn load_and_schedulers(cell: &str, rows: &[Cells]) -> Vec<Shape> {
    let of = |schedulers: &str, rate: &str| {
        let what =
            [("exp", "E3_lambda_x_nsched"), ("workload", cell), ("n_batch_scheds", schedulers), ("lambda_mult", rate)];
        pick(rows, &what).first().copied()
    };
    let mut shapes = Vec::new();
    if let (Some(slow), Some(middle), Some(fast)) = (of("8", "1.00000"), of("8", "8.00000"), of("8", "16.0000")) {
        let conflicts = [slow, middle, fast].map(|row| row.number("batch_conflict_frac"));
        shapes.push(Shape {
            claim: format!("{cell}: conflicts of 8 batch schedulers grow with the load"),
            holds: conflicts.is_sorted_by(|left, right| left < right),
            seen: format!("{:.4}, {:.4}, {:.4} at x1, x8, x16", conflicts[0], conflicts[1], conflicts[2]),
        });
    }
    if let (Some(one), Some(two), Some(half), Some(all)) =
        (of("1", "16.0000"), of("2", "16.0000"), of("16", "16.0000"), of("32", "16.0000"))
    {
        let conflicts = [one, two, half, all].map(|row| row.number("batch_conflict_frac"));
        shapes.push(Shape {
            claim: format!("{cell}: at x16, conflicts rise with the number of schedulers, and level out"),
            holds: conflicts[0] < conflicts[1]
                && conflicts[1] < conflicts[3]
                && (conflicts[3] - conflicts[2]).abs() < 0.3 * conflicts[2],
            seen: format!(
                "{:.4}, {:.4}, {:.4}, {:.4} for 1, 2, 16, 32",
                conflicts[0], conflicts[1], conflicts[2], conflicts[3]
            ),
        });
        let falls = half.number("batch_busy") / all.number("batch_busy");
        shapes.push(Shape {
            claim: format!("{cell}: at x16, twice as many schedulers are each about half as busy: a net win up to 32"),
            holds: (1.6..2.2).contains(&falls),
            seen: format!("16 are {falls:.2} times as busy as 32"),
        });
    }
    shapes
}

/// Order of the conflict modes, with what chance may turn around: three standard errors of the counts.
fn modes(cell: &str, rows: &[Cells]) -> Option<Shape> {
    let of = |job: &str, check: &str, commit: &str| {
        let what = [
            ("exp", "E4_conflict_modes"),
            ("workload", cell),
            ("tjob_service", job),
            ("conflict_mode", check),
            ("txn_mode", commit),
            ("wl_seed", "1"),
        ];
        pick(rows, &what).first().copied()
    };
    let mut seen = Vec::new();
    let mut holds = true;
    for job in ["30.0000", "100.000"] {
        let found = [
            of(job, "resource-fit", "incremental"),
            of(job, "resource-fit", "all-or-nothing"),
            of(job, "sequence-numbers", "incremental"),
            of(job, "sequence-numbers", "all-or-nothing"),
        ];
        let [Some(fine), Some(fine_gang), Some(coarse), Some(coarse_gang)] = found else { continue };
        let conflicts = |row: &Cells| row.number("service_conflict_frac");
        let at_most = |less: &Cells, more: &Cells| {
            let error =
                |row: &Cells| row.number("service_txn_fail").max(1.0).sqrt() / row.number("service_txn_ok").max(1.0);
            conflicts(less) <= conflicts(more) + 3.0 * error(less).hypot(error(more))
        };
        let order = [(fine, fine_gang), (fine_gang, coarse_gang), (fine, coarse), (coarse, coarse_gang)];
        holds &= order.iter().all(|(less, more)| at_most(less, more)) && conflicts(fine) < conflicts(coarse);
        seen.push(format!(
            "t_job {job}: {:.3}, {:.3}, {:.3}, {:.3}",
            conflicts(fine),
            conflicts(fine_gang),
            conflicts(coarse),
            conflicts(coarse_gang)
        ));
    }
    (!seen.is_empty()).then(|| Shape {
        claim: format!(
            "{cell}: conflicts rise from fine to fine and all-or-nothing, to coarse, to coarse and all-or-nothing"
        ),
        holds,
        seen: seen.join("; "),
    })
}

fn three_schedulers(rows: &[Cells]) -> Option<Shape> {
    let of = |count: &str| pick(rows, &[("exp", "E5_batch_schedulers"), ("n_batch_scheds", count)]);
    let times = |rows: &[&Cells]| rows.iter().map(|row| row.text("tjob_batch").to_owned()).collect::<Vec<_>>();
    let (one, three) = (of("1"), of("3"));
    // Only where both were simulated at the same times, or somebody stopped it.
    if one.is_empty() || times(&one) != times(&three) {
        return None;
    }
    let saturates = |rows: &[&Cells]| {
        rows.iter().find(|row| row.number("batch_pct_unsched") > 1.0).map(|row| row.number("tjob_batch"))
    };
    let (one, three) = (saturates(&one), saturates(&three));
    // Whoever never saturates does not do so at three times anything.
    let holds = one.zip(three).is_some_and(|(one, three)| (2.0..=4.5).contains(&(three / one)));
    let first = |at: Option<f64>| at.map_or_else(|| "none".to_owned(), |at| format!("{at} s"));
    Some(Shape {
        claim: "R2: three batch schedulers saturate at about three times the decision time of one".to_owned(),
        holds,
        seen: format!("the first that saturate: {} of one, {} of three", first(one), first(three)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::reference::tests::row;
    use super::*;

    #[test]
    fn schedulers_that_never_saturate_bear_no_claim_out_and_are_told() {
        let rows = |count: &str, left: [&str; 3]| {
            let at = ["1.00000", "3.00000", "10.0000"].into_iter().zip(left);
            let row = |(time, left): (&str, &str)| {
                row(&[
                    ("exp", "E5_batch_schedulers"),
                    ("n_batch_scheds", count),
                    ("tjob_batch", time),
                    ("batch_pct_unsched", left),
                ])
            };
            at.map(row).collect::<Vec<Cells>>()
        };
        let (one, three, never) = (rows("1", ["0", "9", "9"]), rows("3", ["0", "0", "9"]), rows("3", ["0", "0", "0"]));
        let shape = |three: &[Cells]| three_schedulers(&[&one[..], three].concat());
        assert!(shape(&three).unwrap().holds);
        let fails = shape(&never).unwrap();
        assert!(!fails.holds && fails.seen.ends_with("3 s of one, none of three"), "{}", fails.seen);
        // Of a run that was stopped nobody knows.
        assert!(shape(&never[..2]).is_none() && shape(&[]).is_none());
    }

    #[test]
    fn a_single_path_saturates_where_the_closed_form_says() {
        assert!((saturating_tjob(&R1) - 3.80).abs() < 0.01);
        assert!((saturating_tjob(&R2) - 3.29).abs() < 0.02);
    }
}
