//! The experiment `capacity`: the same jobs on more and on fewer machines. Would they fit, who would wait, what would be used; and how many
//! machines are enough. One run says little near a limit: the 99th of a hundred waits differs by a fifth when arrivals differ by seconds. So each size is run
//! with several seeds, and is enough when it is with each of them.

mod page;

use anyhow::ensure;
use serde_json::json;

use super::replay::{Setup, of_trace, outcome};
use super::{NAME, WAIT_LIMIT_SECONDS, machines, made_of, words};
use crate::figure::{Better, Case, Figure, Parameters, SEEDS, by_name, number};
use crate::kept::Kept;
use crate::progress::say;
use crate::replay::summary::Summary;
use crate::traces::work::{MachineClass, Trace};
use crate::{Run, interrupt};
use machines::{By, Change};

/// Sizes that are tried besides the one that was asked for, in percent of the machines there are. They rise.
const STEPS: [f64; 7] = [-40.0, -20.0, -10.0, 0.0, 10.0, 20.0, 40.0];
const QUICK_STEPS: [f64; 3] = [-20.0, 0.0, 20.0];

/// The search for how many are enough ends at this part of the cell that was found, in percent, or at one machine; and never leaves these bounds. At the
/// lower one no machine is left, which is never enough.
const SEARCH_STEP_PERCENT: f64 = 1.0;
const SEARCH_FROM_PERCENT: f64 = -100.0;
const SEARCH_TO_PERCENT: f64 = 400.0;

/// What one size of the cell comes to.
#[derive(Clone)]
struct Tried {
    /// In words: `+20%`, or the changes that were asked for.
    name: String,
    /// Percent of the machines there are; `None` for changes by class.
    percent: Option<f64>,
    /// What it consists of.
    machines: Vec<MachineClass>,
    /// What came of it, by seed.
    runs: Vec<Summary>,
    /// Jobs of which not every task was started with the first seed that left some, the first of them.
    left: Vec<String>,
}

impl Tried {
    fn count(&self) -> u64 {
        count(&self.machines)
    }

    /// What each seed came to.
    fn samples(&self, of: impl Fn(&Summary) -> f64) -> Vec<f64> {
        self.runs.iter().map(of).collect()
    }
}

/// How much is looked at of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Each seed, for whoever reads of that size.
    Last,
    /// The first seed with which it is not enough: the search asks no more.
    Failure,
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
            Self::Found(one) => {
                format!("**{} machines ({}) are enough**: {}. ", one.count(), one.name, machines::words(&one.machines))
            }
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
    seeds: Vec<u64>,
    options: &'a Run,
    /// What was said of the machines that sizes are told of, and of arrivals.
    mark: String,
    made_of: Parameters,
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
    let seeds = flags.seeds_of_replays(options.quick)?;
    let mut trace = super::trace(options)?;
    let asked = machines::asked(flags.machines.as_deref(), flags.cell.as_deref(), &trace.machines)?;
    // Said before anything runs.
    machines::changed(&asked.machines, &asked.changes)?;
    super::note_untold(&mut trace, &asked.machines);
    say(&format!("{}: {} jobs on {}", trace.name, trace.jobs.len(), machines::words(&asked.machines)));
    // Changes are a size of their own, and leave the others as they are: these are of the cell all the same.
    let mark = if asked.changes.is_empty() { flags.machines_mark() } else { flags.cell_mark() };
    let question = Question {
        trace: &trace,
        base: &asked.machines,
        policy,
        queue: *queue,
        seeds,
        options,
        mark: mark + &flags.jitter_mark(),
        made_of: made_of::replay(flags)?,
    };
    question.answer(&asked.changes, kept)
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
    /// Tries sizes, looks for the smallest that is enough, and writes of both.
    fn answer(&self, asked: &[Change], kept: &mut Kept<'_>) -> anyhow::Result<()> {
        let mut tried: Vec<Tried> = Vec::new();
        for (name, percent, changes) in self.sizes(asked) {
            if !self.options.has_case(&self.case(&name)) {
                continue;
            }
            let Some(one) = self.of(name, percent, &changes, &tried, Until::Last)? else { continue };
            kept.add(self.figures(&one)?);
            tried.push(one);
        }
        let search = if self.options.has_case(&self.case_of_enough()) {
            self.search(&tried)?
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
            let name = self.case_of_enough();
            let case = Case { suite: NAME, case: &name, parameters: self.parameters(&enough.machines) };
            kept.add([case.figure("machines_enough", "machines", Better::Lower, vec![number(enough.count())])?]);
        }
        self.write(&tried, &search)
    }

    /// The sizes that are told of: their names, percent and changes. What was asked for comes first.
    fn sizes(&self, asked: &[Change]) -> Vec<(String, Option<f64>, Vec<Change>)> {
        let mut sizes = Vec::new();
        if !asked.is_empty() {
            let words = self.options.trace.machines.as_deref().unwrap_or_default();
            sizes.push((format!("as asked ({words})"), None, asked.to_vec()));
        }
        sizes.extend(self.steps().iter().map(|percent| (size(*percent), Some(*percent), vec![of_all(*percent)])));
        sizes
    }

    fn steps(&self) -> &'static [f64] {
        if self.options.quick { &QUICK_STEPS } else { &STEPS }
    }

    fn case(&self, size: &str) -> String {
        let (queue, mark) = (self.queue.name(), &self.mark);
        format!("jobs={} queue={queue} policy={}{mark} size={size}", self.trace.name, self.policy)
    }

    /// Of another limit, or of other seeds, something else is enough.
    fn case_of_enough(&self) -> String {
        let flags = &self.options.trace;
        let seeds = flags.seeds.as_ref().map_or_else(String::new, |_| format!(" seeds={}", words::seeds(&self.seeds)));
        let usual = flags.wait_limit.to_bits() == WAIT_LIMIT_SECONDS.to_bits();
        let limit = if usual { String::new() } else { format!(" wait_limit={}", flags.wait_limit) };
        self.case(&format!("enough{seeds}{limit}"))
    }

    /// How many machines so many percent more are; 0 where none is left.
    fn machines_at(&self, percent: f64) -> u64 {
        machines::changed(self.base, &[of_all(percent)]).map_or(0, |machines| count(&machines))
    }

    /// What comes of the cell after some changes; `None` when somebody stopped it, or no machine is left. A cell that is one of the `known` ones is not tried
    /// again.
    fn of(
        &self,
        name: String,
        percent: Option<f64>,
        changes: &[Change],
        known: &[Tried],
        until: Until,
    ) -> anyhow::Result<Option<Tried>> {
        let Ok(machines) = machines::changed(self.base, changes) else { return Ok(None) };
        if let Some(same) = known.iter().find(|one| one.machines == machines) {
            return Ok(Some(Tried { name, percent, ..same.clone() }));
        }
        let flags = &self.options.trace;
        let setup = Setup { trace: self.trace, machines: &machines, policy: self.policy, queue: self.queue };
        let (mut runs, mut left) = (Vec::new(), Vec::new());
        for seed in &self.seeds {
            if interrupt::asked() {
                return Ok(None);
            }
            let Some((jobs, replayed)) = setup.once(*seed, flags.jitter_micros())? else { return Ok(None) };
            if left.is_empty() {
                let records = jobs.iter().zip(&replayed.ledger.records);
                let waiting = records.filter(|(_, record)| record.all_started.is_none());
                left = waiting.map(|(job, _)| job.name.clone()).take(NAMED_MAX).collect();
            }
            runs.push(setup.summary(&jobs, &replayed, flags.classes()));
            if until == Until::Failure && runs.last().is_some_and(|run| !self.suffices(run)) {
                break;
            }
        }
        let p99 = runs.iter().map(|run| run.all.p99).fold(0.0, f64::max);
        let (count, outcome) = (count(&machines), outcome(runs.iter()));
        say(&format!("{name}: {count} machines, {} seeds, {outcome}, 99 of 100 wait at most {p99:.0} s", runs.len()));
        Ok(Some(Tried { name, percent, machines, runs, left }))
    }

    /// Whether the machines were enough in one run.
    fn suffices(&self, run: &Summary) -> bool {
        run.not_started() == 0 && run.all.p99 <= self.options.trace.wait_limit
    }

    /// With each seed.
    fn is_enough(&self, tried: &Tried) -> bool {
        tried.runs.iter().all(|run| self.suffices(run))
    }

    /// The smallest cell that is enough, to [`SEARCH_STEP_PERCENT`] of it or one machine: by halving, between the smallest size of the table that is and the one
    /// below that. Where more machines make somebody wait longer (backfilling has such cases) a smaller one may be enough, too, but none of these sizes. They are
    /// asked whether or not they have rows, which `--case` decides: what is enough is the same without.
    fn search(&self, known: &[Tried]) -> anyhow::Result<Search> {
        let at = |percent: f64| self.of(size(percent), Some(percent), &[of_all(percent)], known, Until::Failure);
        let (mut low, mut found) = (SEARCH_FROM_PERCENT, None);
        for percent in self.steps().iter().copied().chain([SEARCH_TO_PERCENT]) {
            match at(percent)? {
                Some(tried) if self.is_enough(&tried) => {
                    found = Some((tried, percent));
                    break;
                }
                _ if interrupt::asked() => return Ok(Search::Stopped),
                _ => low = percent,
            }
        }
        let Some((mut best, mut high)) = found else {
            say(&format!("not even {SEARCH_TO_PERCENT:+.0}% are enough"));
            return Ok(Search::Nothing);
        };
        while high - low > SEARCH_STEP_PERCENT * (100.0 + high) / 100.0
            && self.machines_at(high) > self.machines_at(low) + 1
        {
            let middle = f64::midpoint(low, high);
            // Whole percents as long as there are some between.
            let whole = middle.round();
            let middle = if whole > low && whole < high { whole } else { middle };
            match at(middle)? {
                Some(tried) if self.is_enough(&tried) => (best, high) = (tried, middle),
                _ if interrupt::asked() => return Ok(Search::Stopped),
                _ => low = middle,
            }
        }
        Ok(Search::Found(Box::new(best)))
    }

    fn parameters(&self, machines: &[MachineClass]) -> Parameters {
        let mut parameters = of_trace(self.trace);
        parameters.extend(self.made_of.clone());
        parameters.extend(by_name([
            ("machines", json!(machines::words(machines))),
            ("machines_there_are", json!(machines::words(self.base))),
            (SEEDS, json!(words::seeds(&self.seeds))),
            ("jitter_seconds", json!(self.options.trace.jitter)),
            ("wait_limit_seconds", json!(self.options.trace.wait_limit)),
        ]));
        parameters
    }

    /// Their samples are the seeds.
    fn figures(&self, tried: &Tried) -> anyhow::Result<Vec<Figure>> {
        let name = self.case(&tried.name);
        let case = Case { suite: NAME, case: &name, parameters: self.parameters(&tried.machines) };
        let mut figures = vec![case.figure("machines", "machines", Better::Lower, vec![number(tried.count())])?];
        for used in &words::USED {
            let percents = used.percents(&tried.runs);
            if !percents.is_empty() {
                figures.push(case.figure(used.metric, "%", Better::Higher, percents)?);
            }
        }
        let mut figure = |metric: &str, unit: &str, of: &dyn Fn(&Summary) -> f64| {
            figures.push(case.figure(metric, unit, Better::Lower, tried.samples(of))?);
            anyhow::Ok(())
        };
        figure("wait_seconds_mean", "s", &|run| run.all.mean)?;
        figure("wait_seconds_p99", "s", &|run| run.all.p99)?;
        figure("jobs_not_started", "jobs", &|run| number(run.not_started()))?;
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{Discipline, generator};

    fn question<'a>(trace: &'a Trace, options: &'a Run) -> Question<'a> {
        Question {
            trace,
            base: &trace.machines,
            policy: "best-fit",
            queue: Discipline::Easy,
            seeds: vec![0, 1],
            options,
            mark: String::new(),
            made_of: Parameters::new(),
        }
    }

    // The size that was asked for, and what the search met again, ran as often as it was met.
    #[test]
    fn a_size_of_the_same_machines_is_not_tried_again() {
        let trace = generator::jobs(5, 0.5, 1);
        let options = Run::of(&["trace", "--experiment", "capacity"]);
        let question = question(&trace, &options);
        let half = |known: &[Tried]| {
            let half = question.of("half".to_owned(), None, &[of_all(-50.0)], known, Until::Last);
            half.unwrap().unwrap()
        };
        let tried = half(&[]);
        assert_eq!((tried.count(), tried.runs.len()), (64, 2));
        // Each size was told to be of all the machines there are.
        let parameters = &question.figures(&tried).unwrap()[0].parameters;
        let told = ["machines", "machines_there_are"].map(|name| parameters[name].as_str().unwrap());
        assert!(told[0].starts_with("node: 64 x ") && told[1].starts_with("node: 128 x "), "{told:?}");
        let known = Tried { name: "as asked".to_owned(), runs: Vec::new(), ..tried };
        let again = half(std::slice::from_ref(&known));
        assert_eq!((again.name.as_str(), again.runs.len()), ("half", 0), "it is what was known");
    }

    /// Forty jobs of which none may wait.
    fn impatient() -> (Trace, Run) {
        let options = Run::of(&["trace", "--experiment", "capacity", "--wait-limit", "0"]);
        (generator::jobs(40, 0.9, 1), options)
    }

    impl Question<'_> {
        /// How many machines a search calls enough.
        fn found(&self, known: &[Tried]) -> u64 {
            match self.search(known).unwrap() {
                Search::Found(one) => one.count(),
                other => panic!("{}", other.words()),
            }
        }

        fn row(&self, percent: f64) -> Tried {
            let row = self.of(size(percent), Some(percent), &[of_all(percent)], &[], Until::Last);
            row.unwrap().unwrap()
        }
    }

    // Halving never met the sizes of the table above it: with -20% enough and a larger one that was not, the page called more machines enough than one of its own rows.
    #[test]
    fn no_more_machines_are_called_enough_than_a_row_of_the_table_has() {
        let (trace, options) = impatient();
        let question = question(&trace, &options);
        // Of 128; with no run there is none in which it was not enough.
        let enough = Tried { runs: Vec::new(), ..question.row(-40.0) };
        let alone = question.found(&[]);
        assert!(alone > enough.count(), "{alone} machines");
        assert!(question.found(&[question.row(0.0), enough.clone()]) <= enough.count());
    }

    // With `--case size=enough` no size has a row, and the search began with others: of one commit there were two numbers, and `compare` called one worse.
    #[test]
    fn what_is_enough_is_the_same_whichever_sizes_have_rows() {
        let (trace, options) = impatient();
        let question = question(&trace, &options);
        let alone = question.found(&[]);
        let rows: Vec<Tried> = STEPS.map(|percent| question.row(percent)).into();
        assert_eq!(question.found(&rows), alone);
        // The first that halving alone would try, larger than some of the table that are enough.
        let too_few = Tried { runs: question.row(-95.0).runs, ..question.row(150.0) };
        assert!(alone < too_few.count(), "{alone} machines");
        assert_eq!(question.found(&[too_few]), alone);
    }

    #[test]
    fn a_search_that_was_stopped_does_not_say_that_nothing_is_enough() {
        let nothing = Search::Nothing.words();
        assert!(nothing.contains("No size up to +400% was found to be enough"), "{nothing}");
        let stopped = Search::Stopped.words();
        assert!(stopped.contains("was stopped before its end") && !stopped.contains("No size"), "{stopped}");
        assert_eq!(Search::NotAsked.words(), "");
    }
}
