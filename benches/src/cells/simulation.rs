//! The simulation: jobs arrive, schedulers think, transactions are decided by the core, tasks end.
//!
//! Discrete events, in one thread, from seeds: the same settings give the same results, byte for byte. Monolithic, partitioned
//! and shared-state cells are the same loop; they differ in how many schedulers there are, for which machines, and when each
//! looks at the cell. Two levels with offers are in `offers`.

use std::sync::Arc;

use anyhow::ensure;
use plenum_model::{
    AllocationId, Attributes, ClassSet, DecisionMetadata, Outcome, Placement, RefusalKind, Revision, Transaction,
};

use super::agenda::Agenda;
use super::choice::{Chosen, Exact, look, place};
use super::constraints;
use super::mirror::Mirror;
use super::offers::Offers;
use super::scheduler::{Ending, Job, Looks, Scheduler, Thought};
use super::settings::{Arch, Commit, Settings};
use super::stage::{Asked, Free, Stage};
use super::workload::{JobPlan, Stream};
use crate::random::Random;

/// Events between two looks at whether to go on.
const EVENTS_BETWEEN_LOOKS: u32 = 4096;

/// What happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A scheduler has thought.
    Thought(usize),
    /// A job goes to its queue again.
    Again(usize),
    /// Tasks end: the number of an ending.
    Ended(usize),
    /// The allocator looks whether it has something to offer.
    Round,
    /// A framework gets the offer that was made for it.
    Offered(usize),
    /// A framework answers an offer.
    Answered(usize),
}

/// Somebody who watches a run.
pub(crate) trait Watch {
    /// So far it got, of its horizon, in microseconds. False: stop here.
    fn go_on(&self, at_micros: i64, horizon_micros: i64) -> bool;
}

/// Nobody watches.
#[cfg(test)]
pub(crate) struct Unwatched;

#[cfg(test)]
impl Watch for Unwatched {
    fn go_on(&self, _: i64, _: i64) -> bool {
        true
    }
}

/// What constraints mean in a cell.
pub(crate) struct Terms {
    /// By kind of constraints, the classes of machines that suit.
    pub(crate) classes: Vec<Option<ClassSet>>,
    /// By machine.
    pub(crate) class_of: Vec<u32>,
}

/// A run.
pub(crate) struct Simulation {
    pub(crate) settings: Settings,
    pub(crate) terms: Terms,
    pub(crate) stage: Stage,
    pub(crate) agenda: Agenda<Event>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) schedulers: Vec<Scheduler>,
    pub(crate) offers: Option<Offers>,
    endings: Vec<Option<Ending>>,
    free_endings: Vec<usize>,
    /// Positions of jobs by submission.
    arrivals: Vec<usize>,
    arrived: usize,
    pub(crate) now_micros: i64,
    /// Where and when claims were refused.
    pub(crate) refusals: Vec<(i64, u32)>,
}

impl Simulation {
    /// A cell that is filled as its shape says, before the first job.
    pub(crate) fn new(settings: Settings) -> anyhow::Result<Self> {
        let horizon = super::stage::seconds(settings.horizon_micros);
        let plans = settings.cell.jobs(settings.workload_seed, horizon, settings.rate);
        let machines = settings.cell.machines;
        let constrained = settings.beyond.constraints;
        let attributes = |machine| if constrained { constraints::attributes(machine) } else { Attributes::new() };
        let mut stage = Stage::new(machines, settings.cell.capacity(), attributes)?;
        let cell = stage.core().cell();
        let class_of = (0..machines).filter_map(|machine| cell.machine_row(machine)).map(|row| row.class).collect();
        let terms = Terms { classes: constraints::classes(cell), class_of };
        let schedulers = schedulers(&settings, &mut stage)?;
        let (fill, plans): (Vec<JobPlan>, Vec<JobPlan>) =
            plans.into_iter().partition(|plan| plan.stream == Stream::Prefill);
        let offers = (settings.arch == Arch::Mesos).then(|| Offers::new(&settings, &stage));
        let mut arrivals: Vec<usize> = (0..plans.len()).collect();
        arrivals.sort_by_key(|&job| plans[job].submitted_micros);
        let jobs = assign(plans, &settings);
        let mut simulation = Self {
            settings,
            terms,
            stage,
            agenda: Agenda::new(),
            jobs,
            schedulers,
            offers,
            endings: Vec::new(),
            free_endings: Vec::new(),
            arrivals,
            arrived: 0,
            now_micros: 0,
            refusals: Vec::new(),
        };
        simulation.fill(&fill)?;
        Ok(simulation)
    }

    /// Places what is there before the first job, by randomised first fit.
    fn fill(&mut self, plans: &[JobPlan]) -> anyhow::Result<()> {
        let name: Arc<str> = "prefill".into();
        let session = self.stage.open(&name)?;
        let mut filler = Scheduler {
            name,
            session,
            number: 0,
            looks: Looks::AfterThinking,
            queue: [].into(),
            thought: None,
            mirror: Mirror::new(0..self.settings.cell.machines),
            exact: None,
            random: Random::new(1000 * self.settings.scheduler_seed),
            tallies: Default::default(),
        };
        for &plan in plans {
            let mut job = job_of(plan, 0, false);
            submit(&mut self.stage, &mut job, &filler.name, 0)?;
            filler.mirror.follow(&self.stage);
            let placed = place(&mut filler, &job, &self.settings, &self.terms);
            if !placed.machines.is_empty() {
                let base = self.stage.revision();
                let txn = transaction(&self.settings, &mut filler, &job, base, placed);
                let outcome = self.stage.commit(txn, 0)?;
                ensure!(outcome.refusals.is_empty(), "nobody else places anything yet");
            }
        }
        Ok(())
    }

    /// Runs until the horizon, or until whoever watches says stop; then the horizon is where it stopped.
    pub(crate) fn run(&mut self, watch: &dyn Watch) -> anyhow::Result<()> {
        let horizon = self.settings.horizon_micros;
        let mut events = 0;
        while self.now_micros < horizon {
            let arrival = self.arrivals.get(self.arrived).map(|&job| self.jobs[job].plan.submitted_micros);
            let planned = self.agenda.next_at();
            let Some(next) = arrival.into_iter().chain(planned).min() else { break };
            if next > horizon && !self.settings.retrying.one_event_late {
                break;
            }
            events += 1;
            if events == EVENTS_BETWEEN_LOOKS {
                events = 0;
                if !watch.go_on(self.now_micros, horizon) {
                    self.settings.horizon_micros = self.now_micros;
                    return Ok(());
                }
            }
            self.now_micros = next;
            if arrival == Some(next) {
                self.arrive()?;
            } else if let Some((_, event)) = self.agenda.next() {
                self.happen(event)?;
            }
        }
        self.now_micros = horizon;
        Ok(())
    }

    fn arrive(&mut self) -> anyhow::Result<()> {
        let job = self.arrivals[self.arrived];
        self.arrived += 1;
        let scheduler = self.jobs[job].scheduler;
        let name = self.schedulers[scheduler].name.clone();
        submit(&mut self.stage, &mut self.jobs[job], &name, self.now_micros)?;
        self.enqueue(job);
        Ok(())
    }

    fn happen(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Thought(scheduler) => self.conclude(scheduler),
            Event::Again(job) => {
                self.enqueue(job);
                Ok(())
            }
            Event::Ended(ending) => self.end(ending),
            Event::Round => {
                self.offer();
                Ok(())
            }
            Event::Offered(offer) => {
                self.consider(offer);
                Ok(())
            }
            Event::Answered(offer) => self.answer(offer),
        }
    }

    fn enqueue(&mut self, job: usize) {
        let scheduler = self.jobs[job].scheduler;
        self.schedulers[scheduler].queue.push_back(job);
        if self.offers.is_some() {
            self.request_offer(scheduler);
        } else {
            self.think(scheduler);
        }
    }

    /// Begins with the next job, unless the scheduler thinks already.
    fn think(&mut self, number: usize) {
        let scheduler = &mut self.schedulers[number];
        if scheduler.thought.is_some() {
            return;
        }
        let Some(position) = scheduler.queue.pop_front() else { return };
        let job = &mut self.jobs[position];
        job.first_micros.get_or_insert(self.now_micros);
        let takes_micros = cost(&self.settings, job);
        if scheduler.looks == Looks::BeforeThinking {
            look(scheduler, &self.stage);
        }
        scheduler.thought = Some(Thought { job: position, takes_micros, base: self.stage.revision() });
        self.agenda.plan(self.now_micros + takes_micros, Event::Thought(number));
    }

    /// A scheduler has thought: it places on what it saw, and commits.
    fn conclude(&mut self, number: usize) -> anyhow::Result<()> {
        let scheduler = &mut self.schedulers[number];
        let Some(Thought { job: position, takes_micros, mut base }) = scheduler.thought.take() else { return Ok(()) };
        let job = &mut self.jobs[position];
        job.attempts += 1;
        job.first_thought_micros.get_or_insert(takes_micros);
        if scheduler.looks == Looks::AfterThinking {
            look(scheduler, &self.stage);
            base = self.stage.revision();
        }
        let placed = place(scheduler, job, &self.settings, &self.terms);
        let stream = job.plan.stream;
        if placed.machines.is_empty() {
            let tally = scheduler.tally(stream);
            tally.fruitless += 1;
            tally.fruitless_micros += takes_micros;
        } else {
            let exclusive = scheduler.looks == Looks::AfterThinking;
            let txn = transaction(&self.settings, scheduler, job, base, placed);
            let outcome = self.stage.commit(txn, self.now_micros)?;
            ensure!(!exclusive || outcome.refusals.is_empty(), "{} has its machines for itself", scheduler.name);
            let tally = scheduler.tally(stream);
            if outcome.refusals.is_empty() {
                tally.committed += 1;
                tally.useful_micros += takes_micros;
            } else {
                tally.conflicted += 1;
                tally.wasted_micros += takes_micros;
            }
            tally.claims_granted += outcome.granted() as u64;
            tally.claims_refused += outcome.refusals.len() as u64;
            self.take_grants(position, &outcome)?;
        }
        self.retry(position);
        self.think(number);
        Ok(())
    }

    /// Takes note of what was granted and refused.
    pub(crate) fn take_grants(&mut self, position: usize, outcome: &Outcome) -> anyhow::Result<()> {
        for refusal in &outcome.refusals {
            // A picture older than the core's memory of changes was still the cell at its base: what does not fit any more, did.
            let raced = matches!(refusal.kind, RefusalKind::Conflict | RefusalKind::Stale);
            ensure!(
                raced || refusal.kind == RefusalKind::Mate,
                "a scheduler's picture was not the cell at its base: {refusal:?}"
            );
            if raced {
                self.refusals.push((self.now_micros, refusal.machine));
            }
        }
        let granted: Vec<AllocationId> = outcome.placements.iter().flatten().flatten().copied().collect();
        if granted.is_empty() {
            return Ok(());
        }
        let cell = self.stage.core().cell();
        let job = &mut self.jobs[position];
        let mut allocations = Vec::with_capacity(granted.len());
        // Claims were for tasks that rise, so those that were granted rise too.
        let mut tasks = Vec::with_capacity(granted.len());
        for id in granted {
            let row = cell.allocation_rows().get(id.slot).expect("it was just granted");
            allocations.push((row.machine, id));
            tasks.push(row.task);
        }
        let mut placed = tasks.into_iter().peekable();
        job.waiting.retain(|&task| placed.next_if_eq(&task).is_none());
        let ends = self.now_micros + job.plan.duration_micros;
        if ends <= self.settings.horizon_micros {
            let ending = Ending { job: position, allocations };
            let number = if let Some(number) = self.free_endings.pop() {
                self.endings[number] = Some(ending);
                number
            } else {
                self.endings.push(Some(ending));
                self.endings.len() - 1
            };
            self.agenda.plan(ends, Event::Ended(number));
        }
        Ok(())
    }

    /// A job with tasks left comes again, or is given up.
    pub(crate) fn retry(&mut self, position: usize) {
        let job = &mut self.jobs[position];
        if job.waiting.is_empty() {
            return;
        }
        let rules = self.settings.retrying;
        let fruitless = job.waiting.len() == job.plan.tasks as usize;
        if job.attempts > rules.attempts_most || (fruitless && job.attempts > rules.fruitless_most) {
            job.abandoned = true;
            let (stream, scheduler) = (job.plan.stream, job.scheduler);
            self.schedulers[scheduler].tally(stream).abandoned += 1;
        } else {
            self.agenda.plan(self.now_micros + rules.after_micros, Event::Again(position));
        }
    }

    fn end(&mut self, number: usize) -> anyhow::Result<()> {
        let Some(ending) = self.endings[number].take() else { return Ok(()) };
        self.free_endings.push(number);
        let job = &self.jobs[ending.job];
        self.stage.end(&ending.allocations, &job.plan.resources(), self.now_micros)?;
        if self.offers.is_some() {
            let (scheduler, each) = (job.scheduler, Free::of(&job.plan.resources()));
            self.gave_back(scheduler, each.times(i64::try_from(ending.allocations.len())?));
        }
        Ok(())
    }
}

/// What deciding on a job takes.
pub(crate) fn cost(settings: &Settings, job: &Job) -> i64 {
    let cost = if job.plan.stream == Stream::Batch { settings.batch } else { settings.service };
    cost.of(job.waiting.len())
}

/// The transaction that claims these machines for the first tasks that wait.
pub(crate) fn transaction(
    settings: &Settings,
    scheduler: &mut Scheduler,
    job: &Job,
    base: Revision,
    chosen: Chosen,
) -> Transaction {
    let count = chosen.machines.len();
    let all = settings.commit == Commit::AllOrNothing;
    let placement = Placement {
        job: job.id,
        job_version: 1,
        tasks: job.waiting[..count].to_vec(),
        min: if all { u32::try_from(count).unwrap_or(u32::MAX) } else { 0 },
        machines: chosen.machines,
        alternates: chosen.alternates,
        ..Placement::default()
    };
    Transaction {
        id: scheduler.next_id(),
        incarnation: 1,
        base,
        atomic: all,
        check: settings.check,
        placements: vec![placement],
        decision: DecisionMetadata { attempt: job.attempts, ..DecisionMetadata::default() },
        ..Transaction::default()
    }
}

pub(crate) fn submit(stage: &mut Stage, job: &mut Job, scheduler: &Arc<str>, at_micros: i64) -> anyhow::Result<()> {
    let plan = &job.plan;
    let asked = Asked {
        name: format!("{}-{}", plan.stream.name().to_ascii_lowercase(), plan.number),
        scheduler: scheduler.clone(),
        tasks: plan.tasks,
        resources: plan.resources(),
        constraints: constraints::constraints(job.kind),
    };
    job.id = stage.submit(asked, at_micros)?;
    job.waiting = (0..plan.tasks).collect();
    Ok(())
}

fn job_of(plan: JobPlan, scheduler: usize, constrained: bool) -> Job {
    Job {
        plan,
        scheduler,
        kind: if constrained { constraints::kind_of(&plan) } else { 0 },
        id: plenum_model::JobId::default(),
        waiting: Vec::new(),
        attempts: 0,
        first_micros: None,
        first_thought_micros: None,
        abandoned: false,
    }
}

/// Gives jobs to schedulers: those of Batch in turns.
fn assign(plans: Vec<JobPlan>, settings: &Settings) -> Vec<Job> {
    let single = matches!(settings.arch, Arch::MonoSingle | Arch::MonoMulti);
    let batch = if single { 1 } else { settings.batch_schedulers as usize };
    let of = |plan: JobPlan| {
        let scheduler = match plan.stream {
            _ if single => 0,
            Stream::Batch => plan.number as usize % batch,
            _ => batch,
        };
        job_of(plan, scheduler, settings.beyond.constraints)
    };
    plans.into_iter().map(of).collect()
}

/// The schedulers of an architecture: those of Batch first.
fn schedulers(settings: &Settings, stage: &mut Stage) -> anyhow::Result<Vec<Scheduler>> {
    let machines = settings.cell.machines;
    let whole = 0..machines;
    let half = machines / 2;
    let mut all = Vec::new();
    match settings.arch {
        Arch::MonoSingle | Arch::MonoMulti => all.push(("monolithic".to_owned(), whole, Looks::AfterThinking)),
        Arch::Partitioned => {
            all.push(("batch-1".to_owned(), 0..half, Looks::AfterThinking));
            all.push(("service-1".to_owned(), half..machines, Looks::AfterThinking));
        }
        Arch::Mesos | Arch::Omega => {
            for number in 1..=settings.batch_schedulers {
                all.push((format!("batch-{number}"), whole.clone(), Looks::BeforeThinking));
            }
            all.push(("service-1".to_owned(), whole, Looks::BeforeThinking));
        }
    }
    let shares = u32::try_from(all.len())?;
    let made = all.into_iter().zip(1..).map(|((name, machines, looks), number)| {
        let name: Arc<str> = name.into();
        let seed = 1000 * settings.scheduler_seed + u64::from(number);
        let mut mirror = Mirror::new(machines);
        if settings.beyond.own_first {
            mirror.prefer_share(number - 1, shares);
        }
        Ok(Scheduler {
            session: stage.open(&name)?,
            name,
            number: 0,
            looks,
            queue: [].into(),
            thought: None,
            mirror,
            exact: Exact::new(settings.beyond.choice, seed, number - 1, shares),
            random: Random::new(seed),
            tallies: Default::default(),
        })
    });
    made.collect()
}

#[cfg(test)]
mod tests;
