//! Whether a row is what the reference has, by gates that depend on how much chance is in the row (docs/omega.md has them with their reasons).
//!
//! The reference is one draw of its random numbers, and so is each of our seeds. Where chance is involved, the mean over our seeds is compared. A figure
//! that is further off than its gate is told apart: either the reference is no stranger draw than one of our own seeds would be, which is
//! *by chance*, or it is *outside*.

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
/// The reference has faults there.
const DOUBLED: Gates = Gates { busy: 0.06, conflict: 0.40, wait: Some(0.20), errors: 6.0 };

/// What chance does: so many standard deviations of one draw, or standard errors of a count.
const CHANCE: f64 = 3.0;

/// A figure that is off: column, what the reference has, what we have.
type Off = (String, f64, f64);

/// What is said of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Equal to four significant digits, and counts of jobs but for one.
    Equal,
    /// Within the gates.
    Met,
    /// Not within the gates, and no further off than a draw of ours may be.
    Chance(Vec<Off>),
    /// Judged by the order of the modes alone, which is as it should be.
    InOrder,
    /// Outside, and where.
    Outside(Vec<Off>),
    /// The reference has no such row.
    Alone,
}

impl Verdict {
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Met => "met",
            Self::Chance(_) => "by chance",
            Self::InOrder => "in order",
            Self::Outside(_) => "outside",
            Self::Alone => "",
        }
    }
}

/// Judges a row; `ours` has one for each seed, at least one, and `all` the rows of its experiment, seeds together.
pub(super) fn judge(reference: Option<&Cells>, ours: &[Cells], all: &[Vec<Cells>]) -> Verdict {
    let Some(reference) = reference else { return Verdict::Alone };
    if is_exact(reference) {
        let outside = exactly(reference, &ours[0]);
        return if outside.is_empty() { Verdict::Equal } else { Verdict::Outside(outside) };
    }
    let coarse = reference.text("conflict_mode").starts_with("sequence-numbers");
    if coarse && reference.text("txn_mode") == "all-or-nothing" {
        return by_order(ours, all);
    }
    let gates = if reference.text("conflict_mode") == "sequence-numbers" { DOUBLED } else { USUAL };
    // Waits of the larger cells hang on a handful of jobs that hardly fit anywhere.
    let gates = if reference.text("workload") == "R1" { gates } else { Gates { wait: None, ..gates } };
    let mut found = Found::default();
    for stream in ["batch", "service"] {
        by_gates(&mut found, reference, ours, stream, gates);
    }
    match (found.outside.is_empty(), found.chance.is_empty()) {
        (true, true) => Verdict::Met,
        (true, false) => Verdict::Chance(found.chance),
        _ => Verdict::Outside(found.outside),
    }
}

/// What was not within the gates.
#[derive(Default)]
struct Found {
    chance: Vec<Off>,
    outside: Vec<Off>,
}

/// Placement never fails there, so that nothing depends on what is drawn.
fn is_exact(row: &Cells) -> bool {
    let slow = row.text("arch") == "mesos" && row.number("tjob_service") > 30.0;
    row.text("workload") == "R1" && row.text("arch") != "omega" && !slow
}

fn exactly(reference: &Cells, ours: &Cells) -> Vec<Off> {
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

fn by_gates(found: &mut Found, reference: &Cells, ours: &[Cells], stream: &str, gates: Gates) {
    let column = |name: &str| format!("{stream}_{name}");
    let mut compare = |name: &str, allowed: f64, by_chance: f64| {
        let name = column(name);
        let (theirs, (mean, deviation)) = (reference.number(&name), mean(ours, &name));
        let off = (mean - theirs).abs();
        // The reference is one more draw, and the mean of ours is not exact either.
        let draw = CHANCE * deviation * (1.0 + 1.0 / crate::figure::number(ours.len() as u64)).sqrt();
        if off > allowed.max(1e-12) {
            let list = if off <= draw.max(by_chance) { &mut found.chance } else { &mut found.outside };
            list.push((name, theirs, mean));
        }
    };
    let number = |name: &str| reference.number(&column(name));
    let busy = number("busy");
    compare("busy", gates.busy * busy, CHANCE * error_of_repeated(reference, stream));
    if reference.text("arch") == "omega" {
        let (fails, commits) = (number("txn_fail"), number("txn_ok"));
        let error = gates.errors * fails.max(1.0).sqrt() / commits.max(1.0);
        compare("conflict_frac", (gates.conflict * number("conflict_frac")).max(error), 0.0);
    }
    let calm = is_calm(reference, stream) && ours.iter().all(|row| is_calm(row, stream));
    if let Some(wait) = gates.wait.filter(|_| calm) {
        compare("wait_mean_s", wait * number("wait_mean_s"), 0.0);
    }
    // Where a stream saturates, so many jobs are left over: a count, as conflicts are.
    let (jobs, left) = (number("jobs").max(1.0), number("jobs") - number("fully"));
    let error = 100.0 * gates.errors * left.max(1.0).sqrt() / jobs;
    compare("pct_unsched", (0.1 * number("pct_unsched")).max(0.5).max(error), 0.0);
}

/// What the count of repeated transactions is off by, as a part of the time: each job that was placed needed one, the others are there because something
/// did not fit or was lost to somebody else. One transaction costs what they cost on average.
fn error_of_repeated(row: &Cells, stream: &str) -> f64 {
    if !matches!(row.text("arch"), "omega" | "mesos") {
        // Of a monolithic scheduler the transactions of both streams are told together.
        return 0.0;
    }
    let number = |name: &str| row.number(&format!("{stream}_{name}"));
    let all = number("txn_ok") + number("txn_fail");
    let schedulers = if stream == "batch" { row.number("n_batch_scheds") } else { 1.0 };
    let each = number("busy") * schedulers / all.max(1.0);
    (all - number("fully")).max(1.0).sqrt() * each / schedulers
}

/// Conflicts of a row's service transactions, with the standard error of the mean over its seeds.
fn conflicts(rows: &[Cells]) -> (f64, f64) {
    let sum = |column: &str| rows.iter().map(|row| row.number(column)).sum::<f64>();
    let (mean, deviation) = mean(rows, "service_conflict_frac");
    let counted = sum("service_txn_fail").max(1.0).sqrt() / sum("service_txn_ok").max(1.0);
    (mean, counted.max(deviation / crate::figure::number(rows.len() as u64).sqrt()))
}

/// All or nothing on sequence numbers conflicts at least as much as each of the other modes on the same jobs, but for three standard errors.
fn by_order(ours: &[Cells], all: &[Vec<Cells>]) -> Verdict {
    const OTHERS: [(&str, &str); 3] =
        [("resource-fit", "incremental"), ("resource-fit", "all-or-nothing"), ("sequence-numbers", "incremental")];
    let (own, error) = conflicts(ours);
    let mut outside = Vec::new();
    for (check, commit) in OTHERS {
        let key = ours[0].clone().with("conflict_mode", check).with("txn_mode", commit).key();
        let Some(other) = all.iter().find(|rows| rows[0].key() == key) else { return Verdict::Alone };
        let (least, their_error) = conflicts(other);
        if own + CHANCE * error.hypot(their_error) < least {
            outside.push((format!("service_conflict_frac above that of {check} {commit}"), least, own));
        }
    }
    if outside.is_empty() { Verdict::InOrder } else { Verdict::Outside(outside) }
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

    fn judged(reference: &Cells, ours: &[Cells]) -> Verdict {
        judge(Some(reference), ours, &[])
    }

    #[test]
    fn rows_without_chance_agree_in_four_digits_or_not_at_all() {
        let with = |wait| row(&[&MONO[..], &[("batch_wait_mean_s", wait)]].concat());
        assert_eq!(judged(&with("1.23400"), &[with("1.23404")]), Verdict::Equal);
        let off = judged(&with("1.23400"), &[with("1.23550")]);
        assert_eq!(off, Verdict::Outside(vec![("batch_wait_mean_s".into(), 1.234, 1.2355)]));
        let counts = |jobs| row(&[&MONO[..], &[("batch_fully", jobs)]].concat());
        assert_eq!(judged(&counts("100"), &[counts("101")]), Verdict::Equal);
        assert!(matches!(judged(&counts("100"), &[counts("102")]), Verdict::Outside(_)));
    }

    #[test]
    fn rows_with_chance_have_room_for_it_and_no_more() {
        let with = |conflict| {
            omega(&[("service_conflict_frac", conflict), ("service_txn_fail", "100"), ("service_txn_ok", "1000")])
        };
        // Three standard errors of 100 are 30 in a thousand.
        assert_eq!(judged(&with("0.1"), &[with("0.129")]), Verdict::Met);
        assert!(matches!(judged(&with("0.1"), &[with("0.131")]), Verdict::Outside(_)));
        // What seeds differ by is told apart: these are 0.14 on average, and one more draw may be off by 3 × 0.057 × 1.22.
        assert!(matches!(judged(&with("0.1"), &[with("0.10"), with("0.18")]), Verdict::Chance(_)));
        assert!(matches!(judged(&with("0.1"), &[with("0.15"), with("0.16")]), Verdict::Outside(_)));
    }

    #[test]
    fn a_few_transactions_that_were_repeated_are_chance_and_many_are_not() {
        // 49 transactions for 45 jobs: twice as many repetitions or half as many are chance, and six are three standard errors.
        let with = |busy| {
            let counts = [("service_txn_ok", "49"), ("service_txn_fail", "0"), ("service_fully", "45")];
            let row = omega(&[&counts[..], &[("service_conflict_frac", "0")]].concat());
            Cells::of(&row.line()).with("service_busy", busy)
        };
        assert_eq!(judged(&with("0.0049"), &[with("0.0050")]), Verdict::Met);
        assert!(matches!(judged(&with("0.0049"), &[with("0.0054")]), Verdict::Chance(_)));
        assert!(matches!(judged(&with("0.0049"), &[with("0.0056")]), Verdict::Outside(_)));
    }

    #[test]
    fn faults_of_the_reference_widen_the_gate() {
        let with =
            |check, busy| omega(&[]).with("conflict_mode", check).with("batch_busy", busy).with("batch_fully", "2");
        let judge = |check| judged(&with(check, "0.1"), &[with(check, "0.105")]);
        let narrow = |verdict: &Verdict| matches!(verdict, Verdict::Chance(_) | Verdict::Outside(_));
        assert!(narrow(&judge("resource-fit")) && narrow(&judge("sequence-numbers-fixed")));
        assert_eq!(judge("sequence-numbers"), Verdict::Met);
        assert_eq!(super::judge(None, &[omega(&[])], &[]), Verdict::Alone);
    }

    #[test]
    fn all_or_nothing_on_sequence_numbers_is_judged_by_the_order_of_the_modes() {
        let mode = |check: &str, commit: &str, conflict: &str| {
            let counts = [("service_txn_fail", "100"), ("service_txn_ok", "1000")];
            let row = omega(&counts).with("conflict_mode", check).with("txn_mode", commit);
            vec![row.with("service_conflict_frac", conflict)]
        };
        let others = |coarse: &str| {
            vec![
                mode("resource-fit", "incremental", "0.1"),
                mode("resource-fit", "all-or-nothing", "0.12"),
                mode("sequence-numbers", "incremental", coarse),
            ]
        };
        let own = mode("sequence-numbers", "all-or-nothing", "0.3");
        let judge = |all: &[Vec<Cells>]| judge(Some(&own[0]), &own, all);
        assert_eq!(judge(&others("0.2")), Verdict::InOrder);
        // Within three standard errors of both counts, which are 0.01 each.
        assert_eq!(judge(&others("0.34")), Verdict::InOrder);
        assert!(matches!(judge(&others("0.35")), Verdict::Outside(_)));
        assert_eq!(judge(&[]), Verdict::Alone, "nothing to compare with");
    }
}
