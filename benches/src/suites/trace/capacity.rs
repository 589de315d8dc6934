//! The experiment `capacity`: the same jobs on more and on fewer machines. Would they fit, who would wait, what would be used; and how many
//! machines are enough.

use std::fmt::Write;

use anyhow::ensure;
use serde_json::json;

use super::replay::Setup;
use super::{NAME, WAIT_LIMIT_SECONDS, machines};
use crate::figure::{Better, Case, Figure, Parameters, number};
use crate::folder::save;
use crate::kept::Kept;
use crate::plot::{Axis, Chart, Point, Series};
use crate::progress::say;
use crate::replay::summary::{Summary, summarise};
use crate::traces::work::{MachineClass, Trace};
use crate::{Run, interrupt};
use machines::{By, Change};

/// Sizes that are tried besides the one that was asked for, in percent of the machines there are.
const STEPS: [f64; 7] = [-40.0, -20.0, -10.0, 0.0, 10.0, 20.0, 40.0];
const QUICK_STEPS: [f64; 3] = [-20.0, 0.0, 20.0];

/// The search for how many are enough ends at this part of the cell that was found, in percent, or at one machine; and begins at these bounds. At the
/// lower one no machine is left, which is never enough.
const SEARCH_STEP_PERCENT: f64 = 1.0;
const SEARCH_FROM_PERCENT: f64 = -100.0;
const SEARCH_TO_PERCENT: f64 = 400.0;

/// What one size of the cell comes to.
struct Tried {
    /// In words: `+20%`, or the changes that were asked for.
    name: String,
    /// Percent of the machines there are; `None` for changes by class.
    percent: Option<f64>,
    machines: u64,
    summary: Summary,
    /// Jobs of which not every task was started, the first of them.
    left: Vec<String>,
}

/// What the search for how many are enough came to.
enum Search {
    /// Other cases were asked for.
    NotAsked,
    /// Somebody stopped it, or what came before it.
    Stopped,
    /// Nothing within its bounds.
    Nothing,
    Found(Box<Tried>),
}

impl Search {
    fn words(&self) -> String {
        match self {
            Self::NotAsked => String::new(),
            Self::Stopped => "The search for how many are enough was stopped before its end. ".to_owned(),
            Self::Nothing => format!("No size up to {SEARCH_TO_PERCENT:+.0}% was found to be enough. "),
            Self::Found(one) => format!("**{} machines ({}) are enough**. ", one.machines, one.name),
        }
    }
}

/// So many jobs that do not fit are named.
const NAMED_MAX: usize = 10;

/// What is asked.
struct Question<'a> {
    trace: &'a Trace,
    base: &'a [MachineClass],
    policy: &'a str,
    queue: crate::replay::Discipline,
    options: &'a Run,
    /// What was said of the machines that sizes are told of.
    mark: String,
}

/// Runs the experiment.
pub(super) fn run(options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let flags = &options.trace;
    let limit = flags.wait_limit;
    ensure!(limit >= 0.0 && limit.is_finite(), "--wait-limit: expected seconds from 0 on, found {limit}");
    // All that a live cell has is placed at once, and a job that fits nowhere is no reason for others to wait.
    let usual = if flags.backup.is_some() { "greedy" } else { "easy" };
    let (queues, policies) = (flags.queues(&[usual])?, flags.policies(&["best-fit"])?);
    let ([queue], [policy]) = (queues.as_slice(), policies.as_slice()) else {
        anyhow::bail!(
            "capacity asks about one way to place: expected one --queue and one --policy, found {} and {}",
            queues.len(),
            policies.len()
        );
    };
    let trace = super::trace(options)?;
    let asked = machines::asked(flags.machines.as_deref(), flags.cell.as_deref(), &trace.machines)?;
    // Said before anything runs.
    machines::changed(&asked.machines, &asked.changes)?;
    say(&format!("{}: {} jobs on {}", trace.name, trace.jobs.len(), machines::words(&asked.machines)));
    // Changes are a size of their own, and leave the others as they are: these are of the cell all the same.
    let mark = if asked.changes.is_empty() { flags.machines_mark() } else { flags.cell_mark() };
    let question = Question { trace: &trace, base: &asked.machines, policy, queue: *queue, options, mark };
    let mut tried = Vec::new();
    let mut sizes = Vec::new();
    if !asked.changes.is_empty() {
        sizes.push((format!("as asked ({})", flags.machines.as_deref().unwrap_or_default()), None, asked.changes));
    }
    let steps = if options.quick { &QUICK_STEPS[..] } else { &STEPS };
    sizes.extend(steps.iter().map(|percent| (size(*percent), Some(*percent), vec![of_all(*percent)])));
    for (name, percent, changes) in sizes {
        let Some(one) = question.if_asked_for(name, percent, &changes)? else { continue };
        kept.add(question.figures(&one)?);
        tried.push(one);
    }
    let search = if options.has_case(&question.case_of_enough()) {
        question.search()?
    } else if interrupt::asked() {
        Search::Stopped
    } else {
        Search::NotAsked
    };
    // Nothing of a run before is overwritten by one that measures nothing.
    if tried.is_empty() && matches!(search, Search::NotAsked | Search::Stopped) {
        return Ok(());
    }
    if let Search::Found(enough) = &search {
        let name = question.case_of_enough();
        let case = Case { suite: NAME, case: &name, parameters: question.parameters() };
        kept.add([case.figure("machines_enough", "machines", Better::Lower, vec![number(enough.machines)])?]);
    }
    question.write(&tried, &search)
}

/// So many percent more of every class.
fn of_all(percent: f64) -> Change {
    Change { class: None, by: By::Percent(percent) }
}

/// The name of that size: with parts of a percent where it was looked that closely.
fn size(percent: f64) -> String {
    let digits = if percent.fract() == 0.0 { 0 } else { 2 };
    format!("{percent:+.digits$}%")
}

fn count(machines: &[MachineClass]) -> u64 {
    machines.iter().map(|class| u64::from(class.count)).sum()
}

impl Question<'_> {
    fn case(&self, size: &str) -> String {
        let (queue, mark) = (self.queue.name(), &self.mark);
        format!("jobs={} queue={queue} policy={}{mark} size={size}", self.trace.name, self.policy)
    }

    /// Of another limit, something else is enough.
    fn case_of_enough(&self) -> String {
        let limit = self.options.trace.wait_limit;
        let usual = limit.to_bits() == WAIT_LIMIT_SECONDS.to_bits();
        self.case(&if usual { "enough".to_owned() } else { format!("enough wait_limit={limit}") })
    }

    /// What comes of a cell of so many percent more machines; `None` when somebody stopped it, or no machine is left.
    fn at(&self, percent: f64) -> anyhow::Result<Option<Tried>> {
        self.of(size(percent), Some(percent), &[of_all(percent)])
    }

    /// What comes of a size that is a case of its own; `None` also when others were asked for.
    fn if_asked_for(&self, name: String, percent: Option<f64>, changes: &[Change]) -> anyhow::Result<Option<Tried>> {
        if self.options.has_case(&self.case(&name)) { self.of(name, percent, changes) } else { Ok(None) }
    }

    /// How many machines that are; 0 where none is left.
    fn machines_at(&self, percent: f64) -> u64 {
        machines::changed(self.base, &[of_all(percent)]).map_or(0, |machines| count(&machines))
    }

    fn of(&self, name: String, percent: Option<f64>, changes: &[Change]) -> anyhow::Result<Option<Tried>> {
        let Ok(machines) = machines::changed(self.base, changes) else { return Ok(None) };
        let setup = Setup { trace: self.trace, machines: &machines, policy: self.policy, queue: self.queue };
        if interrupt::asked() {
            return Ok(None);
        }
        let Some((jobs, replayed)) = setup.once(0, 0)? else { return Ok(None) };
        let summary = summarise(&jobs, &replayed, self.options.trace.classes());
        let machines = count(&machines);
        let records = jobs.iter().zip(&replayed.ledger.records);
        let left = records.filter(|(_, record)| record.all_started.is_none());
        let left = left.map(|(job, _)| job.name.clone()).take(NAMED_MAX).collect();
        let tried = Tried { name, percent, machines, summary, left };
        say(&format!(
            "{}: {machines} machines, {:.1}% used, {} jobs too large, 99 of 100 wait at most {:.0} s",
            tried.name,
            tried.summary.cpu_used * 100.0,
            tried.summary.too_large,
            tried.summary.all.p99
        ));
        Ok(Some(tried))
    }

    fn is_enough(&self, tried: &Tried) -> bool {
        let summary = &tried.summary;
        summary.too_large == 0 && summary.never_started == 0 && summary.all.p99 <= self.options.trace.wait_limit
    }

    /// The smallest cell that is enough, to [`SEARCH_STEP_PERCENT`] of it or one machine: by halving, so where more machines make somebody wait longer (backfilling has
    /// such cases) a smaller one may be enough, too.
    fn search(&self) -> anyhow::Result<Search> {
        let (mut low, mut high) = (SEARCH_FROM_PERCENT, SEARCH_TO_PERCENT);
        let mut best = match self.at(high)? {
            Some(tried) if self.is_enough(&tried) => tried,
            _ if interrupt::asked() => return Ok(Search::Stopped),
            _ => {
                say(&format!("not even {high:+.0}% of the machines are enough"));
                return Ok(Search::Nothing);
            }
        };
        while high - low > SEARCH_STEP_PERCENT * (100.0 + high) / 100.0
            && self.machines_at(high) > self.machines_at(low) + 1
        {
            let middle = f64::midpoint(low, high);
            // Whole percents as long as there are some between.
            let whole = middle.round();
            let middle = if whole > low && whole < high { whole } else { middle };
            match self.at(middle)? {
                Some(tried) if self.is_enough(&tried) => (best, high) = (tried, middle),
                _ if interrupt::asked() => return Ok(Search::Stopped),
                _ => low = middle,
            }
        }
        Ok(Search::Found(Box::new(best)))
    }

    fn parameters(&self) -> Parameters {
        Parameters::from([
            ("jobs".to_owned(), json!(self.trace.jobs.len())),
            ("machines".to_owned(), json!(machines::words(self.base))),
            ("wait_limit_seconds".to_owned(), json!(self.options.trace.wait_limit)),
        ])
    }

    fn figures(&self, tried: &Tried) -> anyhow::Result<Vec<Figure>> {
        let name = self.case(&tried.name);
        let case = Case { suite: NAME, case: &name, parameters: self.parameters() };
        let summary = &tried.summary;
        Ok(vec![
            case.figure("machines", "machines", Better::Lower, vec![number(tried.machines)])?,
            case.figure("cpu_used_percent", "%", Better::Higher, vec![summary.cpu_used * 100.0])?,
            case.figure("wait_seconds_mean", "s", Better::Lower, vec![summary.all.mean])?,
            case.figure("wait_seconds_p99", "s", Better::Lower, vec![summary.all.p99])?,
            case.figure(
                "jobs_not_started",
                "jobs",
                Better::Lower,
                vec![number(summary.too_large + summary.never_started)],
            )?,
        ])
    }

    /// A table, and a chart of waits and use over sizes.
    fn write(&self, tried: &[Tried], search: &Search) -> anyhow::Result<()> {
        let limit = self.options.trace.wait_limit;
        let mut text = format!(
            "### How many machines are enough for {}\n\nFrom {}.\n\n",
            self.trace.name,
            machines::words(self.base)
        );
        text.push_str("| size | machines | fits | CPU used | mean wait | 99 of 100 wait at most | enough |\n|---|---|---|---|---|---|---|\n");
        let enough = if let Search::Found(one) = search { Some(one.as_ref()) } else { None };
        for one in tried.iter().chain(enough) {
            let summary = &one.summary;
            let fits = match summary.too_large + summary.never_started {
                0 => "all".to_owned(),
                left => format!("all but {left} jobs"),
            };
            let seconds = |value: f64| crate::report::quantity(value, "s");
            let (used, mean, p99) = (summary.cpu_used * 100.0, seconds(summary.all.mean), seconds(summary.all.p99));
            let verdict = if self.is_enough(one) { "yes" } else { "no" };
            let _ = writeln!(
                text,
                "| {} | {} | {fits} | {used:.1}% | {mean} | {p99} | {verdict} |",
                one.name, one.machines
            );
        }
        let words = search.words();
        let _ = writeln!(text, "\n{words}Enough: every job is started, and 99 of 100 wait at most {limit} s.");
        // Those that do not even start on the largest cell that was tried wait for something else than machines.
        if let Some(largest) = tried.iter().max_by_key(|one| one.machines).filter(|one| !one.left.is_empty()) {
            let names = largest.left.join(", ");
            let _ = writeln!(text, "\nNot wholly started on {} machines: {names}.", largest.machines);
        }
        let mut sizes: Vec<&Tried> = tried.iter().filter(|one| one.percent.is_some()).collect();
        sizes.sort_by_key(|one| one.machines);
        let line = |of: fn(&Summary) -> f64| {
            // Who waits not at all has a place, too.
            sizes.iter().map(|one| Point::at(number(one.machines), of(&one.summary).max(1.0))).collect()
        };
        let series = vec![
            Series::new("mean wait", line(|summary| summary.all.mean)),
            Series::new("99 of 100 wait at most", line(|summary| summary.all.p99)),
        ];
        let (x, y) = (Axis::linear("machines"), Axis::log("wait (s), at least 1"));
        let chart = Chart { title: "Waits by the size of the cell".to_owned(), x, y, series }.svg();
        let folder = self.options.folder();
        save(&folder, "trace-capacity.md", &text)?;
        save(&folder, "trace-capacity.svg", &chart)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_that_was_stopped_does_not_say_that_nothing_is_enough() {
        let nothing = Search::Nothing.words();
        assert!(nothing.contains("No size up to +400% was found to be enough"), "{nothing}");
        let stopped = Search::Stopped.words();
        assert!(stopped.contains("was stopped before its end") && !stopped.contains("No size"), "{stopped}");
        assert_eq!(Search::NotAsked.words(), "");
    }
}
