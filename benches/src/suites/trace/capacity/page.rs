//! What the experiment leaves to read: a table of sizes, how many machines are enough, and a chart.

use std::fmt::Write;

use super::{Question, Search, Tried, machines, words};
use crate::figure::number;
use crate::folder::save;
use crate::plot::{Axis, Chart, Point, Series};
use crate::replay::summary::Summary;
use crate::report::quantity;

impl Question<'_> {
    /// A table, and a chart of waits over sizes.
    pub(super) fn write(&self, tried: &[Tried], search: &Search) -> anyhow::Result<()> {
        let folder = self.options.folder();
        save(&folder, "trace-capacity.md", &self.page(tried, search))?;
        save(&folder, "trace-capacity.svg", &chart(tried))
    }

    fn page(&self, tried: &[Tried], search: &Search) -> String {
        let limit = self.options.trace.wait_limit;
        let (name, base, seeds) = (&self.trace.name, machines::words(self.base), words::seeds(&self.seeds));
        let mut text = format!("### How many machines are enough for {name}\n\nFrom {base}.\n\n");
        if !self.trace.assumed.is_empty() {
            let _ = writeln!(text, "Assumed: {}.\n", self.trace.assumed.join("; "));
        }
        let enough = if let Search::Found(one) = search { Some(one.as_ref()) } else { None };
        let rows: Vec<&Tried> = tried.iter().chain(enough).collect();
        text.push_str(&self.table(&rows));
        let (first, each) = match self.seeds.as_slice() {
            [one] => (format!("One run of each size, with seed {one}."), String::new()),
            several => (
                format!(
                    "Each size was run {} times, with seeds {seeds}: medians, and in brackets the range.",
                    several.len()
                ),
                " with each seed".to_owned(),
            ),
        };
        let words = search.words();
        let _ = writeln!(
            text,
            "\n{first}\n\n{words}Enough: every job is started, and 99 of 100 wait at most {limit} s{each}."
        );
        // Those that do not even start on the largest cell that was tried wait for something else than machines.
        if let Some(largest) = tried.iter().max_by_key(|one| one.count()).filter(|one| !one.left.is_empty()) {
            let names = largest.left.join(", ");
            let _ = writeln!(text, "\nNot wholly started on {} machines: {names}.", largest.count());
        }
        text
    }

    fn table(&self, rows: &[&Tried]) -> String {
        // Of GPUs and memory there may be none, or nobody told how much.
        let told = |used: &&words::Used| rows.iter().any(|one| !used.percents(&one.runs).is_empty());
        let used: Vec<&words::Used> = words::USED.iter().filter(told).collect();
        let heads: String = used.iter().map(|used| format!(" {} used |", used.name)).collect();
        let mut text =
            format!("| size | machines | fits |{heads} mean wait | 99 of 100 wait at most | enough |\n|---|---|---|");
        text.push_str(&"---|".repeat(used.len() + 3));
        text.push('\n');
        for one in rows {
            let parts: String = used
                .iter()
                .map(|used| format!(" {} |", words::over_seeds(&used.percents(&one.runs), words::percent)))
                .collect();
            let waits = |of: fn(&Summary) -> f64| words::over_seeds(&one.samples(of), |wait| quantity(wait, "s"));
            let (mean, p99) = (waits(|run| run.all.mean), waits(|run| run.all.p99));
            let (fits, verdict) = (fits(one), self.verdict(one));
            let (name, count) = (&one.name, one.count());
            let _ = writeln!(text, "| {name} | {count} | {fits} |{parts} {mean} | {p99} | {verdict} |");
        }
        text
    }

    fn verdict(&self, one: &Tried) -> String {
        let good = one.runs.iter().filter(|run| self.suffices(run)).count();
        match (good, one.runs.len()) {
            (good, all) if good == all => "yes".to_owned(),
            (0, _) => "no".to_owned(),
            (good, all) => format!("no: with {good} of {all} seeds"),
        }
    }
}

/// Which jobs were wholly started.
fn fits(one: &Tried) -> String {
    let left = one.samples(|run| number(run.not_started()));
    if left.iter().all(|left| *left == 0.0) {
        return "all".to_owned();
    }
    format!("all but {} jobs", words::over_seeds(&left, |left| format!("{left:.0}")))
}

fn chart(tried: &[Tried]) -> String {
    let mut sizes: Vec<&Tried> = tried.iter().filter(|one| one.percent.is_some()).collect();
    sizes.sort_by_key(|one| one.count());
    let line = |of: fn(&Summary) -> f64| {
        let point = |one: &&Tried| {
            // Who waits not at all has a place, too.
            let mut waits = one.samples(|run| of(run).max(1.0));
            waits.sort_by(f64::total_cmp);
            let (low, high) = (*waits.first()?, *waits.last()?);
            Some(Point::at(number(one.count()), crate::figure::median(&waits)).between(low, high))
        };
        sizes.iter().filter_map(point).collect()
    };
    let series = vec![
        Series::new("mean wait", line(|summary| summary.all.mean)),
        Series::new("99 of 100 wait at most", line(|summary| summary.all.p99)),
    ];
    let (x, y) = (Axis::linear("machines"), Axis::log("wait (s), at least 1"));
    Chart { title: "Waits by the size of the cell".to_owned(), x, y, series }.svg()
}
