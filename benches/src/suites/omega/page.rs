//! The page of a run: rows beside the reference with a verdict each, claims of the paper, and what the paper has not.

use std::fmt::Write;

use super::draw::Picture;
use super::judge::{Verdict, mean};
use super::plan::{CONTESTED, VARIANTS};
use super::reference::{Cells, Reference};
use super::shapes::Shape;

/// One experiment as it came out: by row, our seeds (the first is the row of the file), and what the judge says.
pub(super) struct Outcome {
    pub(super) file: &'static str,
    pub(super) about: &'static str,
    pub(super) rows: Vec<Vec<Cells>>,
    pub(super) verdicts: Vec<Verdict>,
    pub(super) reference: Reference,
}

impl Outcome {
    /// Rows with this verdict's word.
    pub(super) fn count(&self, word: &str) -> usize {
        self.verdicts.iter().filter(|verdict| verdict.word() == word).count()
    }

    /// Rows that the reference has, too.
    pub(super) fn judged(&self) -> usize {
        self.verdicts.iter().filter(|verdict| **verdict != Verdict::Alone).count()
    }

    fn has_reference(&self) -> bool {
        !self.reference.is_empty()
    }
}

/// All of it as Markdown.
pub(super) fn page(outcomes: &[Outcome], shapes: &[Shape], pictures: &[Picture], more: &[String]) -> String {
    let mut text = String::from("# The Omega paper's experiments, on the production core\n\n");
    text.push_str(
        "What the rows are, how they are judged and where they differ: `docs/omega.md`. Waits in seconds; busy is the part of the time that \
         schedulers of a kind decide; conflicts are failed transactions over committed ones.\n\n",
    );
    verdicts(&mut text, outcomes);
    claims(&mut text, shapes);
    beyond(&mut text, outcomes);
    for section in more {
        text.push_str(section);
    }
    for outcome in outcomes {
        let _ = write!(text, "\n## {}\n\n{} (`{}.csv`)\n\n", outcome.file, outcome.about, outcome.file);
        let prefix = outcome.file.split_once('_').map_or(outcome.file, |(prefix, _)| prefix);
        let of_it = |name: &str| {
            let own = name.strip_prefix(super::NAME).and_then(|name| name.strip_prefix('-'));
            own.and_then(|own| own.strip_prefix(prefix)).is_some_and(|rest| rest.starts_with(['-', '.']))
        };
        for picture in pictures.iter().filter(|picture| of_it(&picture.name)) {
            let _ = writeln!(text, "![{}]({})", picture.name.trim_end_matches(".svg"), picture.name);
        }
        text.push('\n');
        table(&mut text, outcome);
    }
    text
}

fn verdicts(text: &mut String, outcomes: &[Outcome]) {
    if !outcomes.iter().any(Outcome::has_reference) {
        text.push_str(
            "No reference results were there to compare with. They are three CSV files, `omega-reference/*.csv` with the columns of these \
             files: rows that the public simulator of the paper's authors (github.com/google/cluster-scheduler-simulator) gave for the job lists of \
             `docs/omega.md`. Say where they are with `--data DIR`.\n\n",
        );
        return;
    }
    text.push_str(
        "| file | rows with a reference | equal | met | in order | by chance | outside |\n|---|---|---|---|---|---|---|\n",
    );
    for outcome in outcomes.iter().filter(|outcome| outcome.has_reference()) {
        let counts = ["equal", "met", "in order", "by chance", "outside"].map(|word| outcome.count(word));
        let all: usize = counts.iter().sum();
        let [equal, met, order, chance, outside] = counts;
        let _ = writeln!(text, "| {} | {all} | {equal} | {met} | {order} | {chance} | {outside} |", outcome.file);
    }
    text.push_str(
        "\nBy chance: not within the gate, and no further off than a draw of ours is from the others, three standard deviations counted as chance.\n\n",
    );
    off_by_more(text, outcomes);
}

/// The rows that are not within their gates, in one place.
fn off_by_more(text: &mut String, outcomes: &[Outcome]) {
    let judged = outcomes.iter().flat_map(|outcome| outcome.rows.iter().zip(&outcome.verdicts));
    let off: Vec<_> =
        judged.filter(|(_, verdict)| matches!(verdict, Verdict::Chance(_) | Verdict::Outside(_))).collect();
    if off.is_empty() {
        return;
    }
    text.push_str("| row | not within its gate: ours for what the reference has |\n|---|---|\n");
    for (rows, verdict) in off {
        let _ = writeln!(text, "| {} {} | {} |", rows[0].text("exp"), settings(&rows[0]), said(verdict));
    }
    text.push('\n');
}

fn claims(text: &mut String, shapes: &[Shape]) {
    if shapes.is_empty() {
        return;
    }
    text.push_str("## What the paper's figures show\n\n| claim | holds | seen |\n|---|---|---|\n");
    for shape in shapes {
        let word = if shape.holds { "yes" } else { "**no**" };
        let _ = writeln!(text, "| {} | {word} | {} |", shape.claim, shape.seen);
    }
    text.push('\n');
}

fn settings(row: &Cells) -> String {
    let modes = format!("{}, {}", row.text("conflict_mode"), row.text("txn_mode"));
    format!(
        "{} {} {} N={} t_job {}/{} x{} seeds {}/{}",
        row.text("workload"),
        row.text("arch"),
        if row.text("arch") == "omega" { modes } else { String::new() },
        row.text("n_batch_scheds"),
        row.text("tjob_batch"),
        row.text("tjob_service"),
        row.text("lambda_mult"),
        row.text("wl_seed"),
        row.text("sched_seed"),
    )
}

fn table(text: &mut String, outcome: &Outcome) {
    let with = outcome.has_reference();
    text.push_str("| row | wait batch / service | busy batch / service | conflicts batch / service | not placed % |");
    text.push_str(if with { " verdict |\n|---|---|---|---|---|---|\n" } else { "\n|---|---|---|---|---|\n" });
    for (rows, verdict) in outcome.rows.iter().zip(&outcome.verdicts) {
        let theirs = outcome.reference.get(&rows[0].key());
        let pair = |column: &str| {
            let one = |stream: &str| {
                let name = format!("{stream}_{column}");
                let (own, _) = mean(rows, &name);
                theirs
                    .map_or_else(|| digits(own), |theirs| format!("{} ({})", digits(own), digits(theirs.number(&name))))
            };
            format!("{} / {}", one("batch"), one("service"))
        };
        let name = if outcome.file.starts_with("e8") { format!("{} ", rows[0].text("exp")) } else { String::new() };
        let _ = write!(
            text,
            "| {name}{} | {} | {} | {} | {} |",
            settings(&rows[0]),
            pair("wait_mean_s"),
            pair("busy"),
            pair("conflict_frac"),
            pair("pct_unsched")
        );
        if with {
            let _ = write!(text, " {} |", said(verdict));
        }
        text.push('\n');
    }
    if with {
        text.push_str("\nMeans over our seeds; in brackets what the reference has.\n");
    }
}

fn said(verdict: &Verdict) -> String {
    let (word, columns) = match verdict {
        Verdict::Outside(columns) => ("**outside**", columns),
        Verdict::Chance(columns) => ("by chance", columns),
        _ => return verdict.word().to_owned(),
    };
    let named = columns.iter().map(|(name, theirs, own)| format!("{name}: {} for {}", digits(*own), digits(*theirs)));
    format!("{word}: {}", named.collect::<Vec<_>>().join(", "))
}

/// Three digits, as people read them; of small values three that count.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 0.1 => crate::cells::row::three_that_count(value),
        _ => crate::report::three_digits(value),
    }
}

/// How much of the reference's conflicts each variant has, by place.
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) place: usize,
    /// Transactions that failed, over those that committed, of the stream that is contested.
    pub(super) conflicts: f64,
    /// Over those of the same place as the paper has it.
    pub(super) ratio: f64,
    pub(super) busy: f64,
}

/// The variants, from the rows of their experiment in the order in which they were planned.
pub(super) fn variants(outcomes: &[Outcome]) -> Vec<Variant> {
    let Some(outcome) = outcomes.iter().find(|outcome| outcome.file.starts_with("e8")) else { return Vec::new() };
    let mut variants = Vec::new();
    for place in 0..CONTESTED.len() {
        let (stream, at) = if place < 3 { ("service", "30.0000") } else { ("batch", "0.100000") };
        let cell = ["R1", "R2", "R3", "R1", "R2"][place];
        let find = |name: &str| {
            let exp = format!("E8_{name}");
            outcome.rows.iter().find(|rows| {
                let row = &rows[0];
                row.text("exp") == exp && row.text("workload") == cell && row.text("tjob_service") == at
            })
        };
        let conflicts = |rows: &[Cells]| mean(rows, &format!("{stream}_conflict_frac")).0;
        let usual = find(VARIANTS[0].0).map(|rows| conflicts(rows));
        for (name, _) in VARIANTS {
            let (Some(rows), Some(usual)) = (find(name), usual) else { continue };
            let own = conflicts(rows);
            variants.push(Variant {
                name,
                place,
                conflicts: own,
                ratio: if usual > 0.0 { own / usual } else { 1.0 },
                busy: mean(rows, &format!("{stream}_busy")).0,
            });
        }
    }
    variants
}

fn beyond(text: &mut String, outcomes: &[Outcome]) {
    let variants = variants(outcomes);
    if variants.is_empty() {
        return;
    }
    text.push_str("## What the paper has not\n\nConflict fraction of the contested stream, in brackets as a part of what it is as in the paper.\n\n| variant |");
    for place in CONTESTED {
        let _ = write!(text, " {place} |");
    }
    text.push_str("\n|---|---|---|---|---|---|\n");
    for (name, _) in VARIANTS {
        let _ = write!(text, "| {name} |");
        for place in 0..CONTESTED.len() {
            match variants.iter().find(|one| one.name == name && one.place == place) {
                Some(one) => {
                    let _ = write!(text, " {} ({:.0}%) |", digits(one.conflicts), one.ratio * 100.0);
                }
                None => text.push_str(" |"),
            }
        }
        text.push('\n');
    }
    text.push('\n');
}
