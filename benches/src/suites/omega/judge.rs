//! Whether a row is what the reference has, by gates that depend on how much chance is in the row (docs/omega.md has them with their reasons).
//!
//! The reference is one draw of its random numbers, and so is each of our seeds. Where chance is involved, the mean over our seeds is compared,
//! and what the seeds differ by counts, too: three standard deviations are within the gate however narrow it is.

use super::reference::Cells;

/// The gates of one kind of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Gates {
    busy: f64,
    conflict: f64,
    wait: Option<f64>,
    /// Standard errors of a count of conflicts.
    errors: f64,
}

/// No randomness in what is compared.
const DIGITS: f64 = 5e-5;
const USUAL: Gates = Gates { busy: 0.03, conflict: 0.20, wait: Some(0.10), errors: 3.0 };
/// A mean wait below this, in seconds, is a handful of jobs that met another one.
const WAIT_LEAST: f64 = 1e-4;
/// The reference has faults there.
const DOUBLED: Gates = Gates { busy: 0.06, conflict: 0.40, wait: Some(0.20), errors: 6.0 };

/// What is said of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Equal to four significant digits, and counts of jobs but for one.
    Equal,
    /// Within the gates.
    Met,
    /// Judged by the order of modes alone.
    ByOrder,
    /// Outside, and where: column, what the reference has, what we have.
    Outside(Vec<(String, f64, f64)>),
    /// The reference has no such row.
    Alone,
}

impl Verdict {
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Met => "met",
            Self::ByOrder => "by order",
            Self::Outside(_) => "outside",
            Self::Alone => "",
        }
    }
}

/// Judges a row; `ours` has one for each seed, at least one.
pub(super) fn judge(reference: Option<&Cells>, ours: &[Cells]) -> Verdict {
    let Some(reference) = reference else { return Verdict::Alone };
    if is_exact(reference) {
        return verdict(exactly(reference, &ours[0]), Verdict::Equal);
    }
    let coarse = reference.text("conflict_mode").starts_with("sequence-numbers");
    if coarse && reference.text("txn_mode") == "all-or-nothing" {
        return Verdict::ByOrder;
    }
    let gates = if reference.text("conflict_mode") == "sequence-numbers" { DOUBLED } else { USUAL };
    // Waits of the larger cells hang on a handful of jobs that hardly fit anywhere.
    let gates = if reference.text("workload") == "R1" { gates } else { Gates { wait: None, ..gates } };
    let mut outside = Vec::new();
    for stream in ["batch", "service"] {
        outside.extend(by_gates(reference, ours, stream, gates));
    }
    verdict(outside, Verdict::Met)
}

fn verdict(outside: Vec<(String, f64, f64)>, otherwise: Verdict) -> Verdict {
    if outside.is_empty() { otherwise } else { Verdict::Outside(outside) }
}

/// Placement never fails there, so that nothing depends on what is drawn.
fn is_exact(row: &Cells) -> bool {
    let slow = row.text("arch") == "mesos" && row.number("tjob_service") > 30.0;
    row.text("workload") == "R1" && row.text("arch") != "omega" && !slow
}

fn exactly(reference: &Cells, ours: &Cells) -> Vec<(String, f64, f64)> {
    const NUMBERS: [&str; 6] =
        ["wait_mean_s", "wait_censored_mean_s", "busy", "busy_useful", "busy_noconflict", "conflict_frac"];
    const COUNTS: [&str; 4] = ["jobs", "attempted", "fully", "left_queue"];
    let mut outside = Vec::new();
    let mut compare = |column: String, agree: fn(f64, f64) -> bool| {
        let (theirs, own) = (reference.number(&column), ours.number(&column));
        if !agree(theirs, own) {
            outside.push((column, theirs, own));
        }
    };
    for stream in ["batch", "service"] {
        for column in NUMBERS {
            compare(format!("{stream}_{column}"), |theirs, own| {
                (theirs - own).abs() <= DIGITS * theirs.abs() || format!("{theirs:.3e}") == format!("{own:.3e}")
            });
        }
        for column in COUNTS {
            compare(format!("{stream}_{column}"), |theirs, own| (theirs - own).abs() <= 1.0);
        }
    }
    outside
}

fn by_gates(reference: &Cells, ours: &[Cells], stream: &str, gates: Gates) -> Vec<(String, f64, f64)> {
    let mut outside = Vec::new();
    let column = |name: &str| format!("{stream}_{name}");
    let mut compare = |name: &str, allowed: &dyn Fn(f64) -> f64| {
        let name = column(name);
        let (theirs, (mean, deviation)) = (reference.number(&name), mean(ours, &name));
        if (mean - theirs).abs() > allowed(theirs).max(3.0 * deviation) {
            outside.push((name, theirs, mean));
        }
    };
    compare("busy", &|theirs| gates.busy * theirs);
    if reference.text("arch") == "omega" {
        let (fails, commits) = (reference.number(&column("txn_fail")), reference.number(&column("txn_ok")));
        let error = gates.errors * fails.max(1.0).sqrt() / commits.max(1.0);
        compare("conflict_frac", &|theirs| (gates.conflict * theirs).max(error));
    }
    let calm = is_calm(reference, stream) && ours.iter().all(|row| is_calm(row, stream));
    if let Some(wait) = gates.wait.filter(|_| calm) {
        compare("wait_mean_s", &|theirs| (wait * theirs).max(WAIT_LEAST));
    }
    // Where a stream saturates, so many jobs are left over.
    compare("pct_unsched", &|theirs| (0.1 * theirs).max(0.5));
    outside
}

/// Far from saturation: a wait there is not an accident of the last jobs.
fn is_calm(row: &Cells, stream: &str) -> bool {
    row.number(&format!("{stream}_pct_unsched")) < 0.02 && row.number(&format!("{stream}_busy")) < 0.9
}

/// Mean and standard deviation over rows.
pub(super) fn mean(rows: &[Cells], column: &str) -> (f64, f64) {
    let values: Vec<f64> = rows.iter().map(|row| row.number(column)).collect();
    let count = crate::figure::number(values.len() as u64);
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::super::reference::tests::row;
    use super::*;

    const MONO: [(&str, &str); 2] = [("arch", "mono-multi"), ("workload", "R1")];

    fn omega(more: &[(&'static str, &'static str)]) -> Cells {
        let usual =
            [("arch", "omega"), ("workload", "R1"), ("conflict_mode", "resource-fit"), ("txn_mode", "incremental")];
        let calm =
            [("batch_pct_unsched", "0"), ("service_pct_unsched", "0"), ("batch_busy", "0.1"), ("service_busy", "0.1")];
        row(&[more, &usual, &calm].concat())
    }

    #[test]
    fn rows_without_chance_agree_in_four_digits_or_not_at_all() {
        let with = |wait| row(&[&MONO[..], &[("batch_wait_mean_s", wait)]].concat());
        assert_eq!(judge(Some(&with("1.23400")), &[with("1.23404")]), Verdict::Equal);
        let off = judge(Some(&with("1.23400")), &[with("1.23550")]);
        assert_eq!(off, Verdict::Outside(vec![("batch_wait_mean_s".into(), 1.234, 1.2355)]));
        let counts = |jobs| row(&[&MONO[..], &[("batch_fully", jobs)]].concat());
        assert_eq!(judge(Some(&counts("100")), &[counts("101")]), Verdict::Equal);
        assert!(matches!(judge(Some(&counts("100")), &[counts("102")]), Verdict::Outside(_)));
    }

    #[test]
    fn rows_with_chance_have_room_for_it_and_no_more() {
        let with = |conflict| {
            omega(&[("service_conflict_frac", conflict), ("service_txn_fail", "100"), ("service_txn_ok", "1000")])
        };
        // Three standard errors of 100 are 30 in a thousand.
        assert_eq!(judge(Some(&with("0.1")), &[with("0.129")]), Verdict::Met);
        assert!(matches!(judge(Some(&with("0.1")), &[with("0.131")]), Verdict::Outside(_)));
        // What seeds differ by is within the gate.
        assert_eq!(judge(Some(&with("0.1")), &[with("0.10"), with("0.18")]), Verdict::Met);
    }

    #[test]
    fn faults_of_the_reference_widen_the_gate_or_leave_the_order_alone() {
        let with = |check, commit, busy| {
            let mut row = omega(&[]).line();
            row = row.replace("resource-fit,incremental", &format!("{check},{commit}"));
            let row = Cells::of(&row);
            assert_eq!(row.text("txn_mode"), commit);
            let line = row.line();
            Cells::of(&line.replace("0.1", busy))
        };
        let judge = |check, commit| judge(Some(&with(check, commit, "0.1")), &[with(check, commit, "0.105")]);
        assert!(matches!(judge("resource-fit", "incremental"), Verdict::Outside(_)));
        assert_eq!(judge("sequence-numbers", "incremental"), Verdict::Met);
        assert!(matches!(judge("sequence-numbers-fixed", "incremental"), Verdict::Outside(_)));
        assert_eq!(judge("sequence-numbers", "all-or-nothing"), Verdict::ByOrder);
        assert_eq!(super::judge(None, &[omega(&[])]), Verdict::Alone);
    }
}
