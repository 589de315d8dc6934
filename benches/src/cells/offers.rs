//! Two levels with offers, as in Mesos: an allocator offers all that is free to one framework at a time, and what is offered
//! is locked for everybody else until the framework answers.
//!
//! With what the public simulator has of it: an offer is made a second after it was asked for, one a round; it goes to the framework
//! with the lowest dominant share; the framework tries all its jobs on it at once and answers when it would have thought
//! about all of them. What it answers is committed by the core; nobody else can have taken that room.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use plenum_model::Transaction;

use super::choice::place;
use super::settings::Settings;
use super::simulation::{Event, Simulation, cost, transaction};
use super::stage::{Free, OverTime, Stage};
use super::workload::float;

/// From the first request to the round.
const ROUND_MICROS: i64 = 1_000_000;
/// What making an offer takes.
const OFFER_MICROS: i64 = 1000;
/// No offer below this much free CPU: 100 cores.
const LEAST_CPU: i64 = 100 * 10_000;

/// An offer, and what its framework answers.
struct Offer {
    framework: usize,
    /// By machine, what was free.
    free: Vec<Free>,
    answer: Vec<(usize, Transaction)>,
}

/// The allocator.
pub(crate) struct Offers {
    requesting: BTreeSet<usize>,
    round_planned: bool,
    open: BTreeMap<usize, Offer>,
    made: usize,
    /// By machine, what open offers lock.
    locked: Vec<Free>,
    locked_sum: Free,
    locked_cpu: OverTime,
    /// By framework, what it was granted and has not ended.
    shares: Vec<Free>,
}

impl Offers {
    pub(crate) fn new(settings: &Settings, stage: &Stage) -> Self {
        Self {
            requesting: BTreeSet::new(),
            round_planned: false,
            open: BTreeMap::new(),
            made: 0,
            locked: vec![Free::default(); stage.free().len()],
            locked_sum: Free::default(),
            locked_cpu: OverTime::default(),
            shares: vec![Free::default(); settings.batch_schedulers as usize + 1],
        }
    }

    /// The mean part of the cell's CPU that offers locked.
    pub(crate) fn locked(&self, stage: &Stage, at_micros: i64) -> f64 {
        self.locked_cpu.mean(at_micros) / float(stage.whole().cpu.unsigned_abs())
    }

    /// Whether what is locked is what open offers have, machine by machine.
    #[cfg(test)]
    pub(crate) fn is_sound(&self) -> bool {
        let of = |machine: usize| self.open.values().fold(Free::default(), |sum, offer| sum.plus(offer.free[machine]));
        (0..self.locked.len()).all(|machine| of(machine) == self.locked[machine])
    }

    fn lock(&mut self, more: Free, at_micros: i64) {
        self.locked_sum = self.locked_sum.plus(more);
        self.locked_cpu.set(at_micros, float(self.locked_sum.cpu.unsigned_abs()));
    }

    /// The larger of its parts of CPU and memory.
    fn dominant_share(&self, framework: usize, whole: Free) -> f64 {
        let part = |own: i64, all: i64| float(own.unsigned_abs()) / float(all.unsigned_abs());
        let own = self.shares[framework];
        part(own.cpu, whole.cpu).max(part(own.memory, whole.memory))
    }
}

impl Simulation {
    /// A framework has jobs that wait.
    pub(crate) fn request_offer(&mut self, framework: usize) {
        if let Some(offers) = &mut self.offers {
            offers.requesting.insert(framework);
            self.plan_round();
        }
    }

    fn plan_round(&mut self) {
        if let Some(offers) = self.offers.as_mut().filter(|offers| !offers.round_planned) {
            offers.round_planned = true;
            self.agenda.plan(self.now_micros + ROUND_MICROS, Event::Round);
        }
    }

    /// Tasks of a framework ended.
    pub(crate) fn gave_back(&mut self, framework: usize, amount: Free) {
        if let Some(offers) = &mut self.offers {
            offers.shares[framework] = offers.shares[framework].less(amount);
            self.plan_round();
        }
    }

    /// A round: one offer of all that is free and not locked, to whom has least.
    pub(crate) fn offer(&mut self) {
        let (stage, now) = (&self.stage, self.now_micros);
        let Some(offers) = &mut self.offers else { return };
        offers.round_planned = false;
        let whole = stage.whole();
        let available = whole.less(stage.used()).less(offers.locked_sum);
        if available.cpu < LEAST_CPU {
            return;
        }
        let by_share = |left: &&usize, right: &&usize| {
            offers.dominant_share(**left, whole).total_cmp(&offers.dominant_share(**right, whole))
        };
        let Some(&framework) = offers.requesting.iter().min_by(by_share) else { return };
        let free: Vec<Free> =
            stage.free().iter().zip(&offers.locked).map(|(free, locked)| free.less(*locked)).collect();
        for (locked, free) in offers.locked.iter_mut().zip(&free) {
            *locked = locked.plus(*free);
        }
        offers.lock(available, now);
        let number = offers.made;
        offers.made += 1;
        offers.open.insert(number, Offer { framework, free, answer: Vec::new() });
        self.agenda.plan(now + OFFER_MICROS, Event::Offered(number));
    }

    /// A framework tries all its jobs on an offer.
    pub(crate) fn consider(&mut self, number: usize) {
        let Some(mut offer) = self.offers.as_mut().and_then(|offers| offers.open.remove(&number)) else { return };
        let framework = offer.framework;
        self.schedulers[framework].mirror.show(&offer.free);
        let mut left = offer.free.iter().fold(Free::default(), |sum, free| sum.plus(*free));
        let mut thinks_micros = 0;
        let mut again = Vec::new();
        while left.cpu > 0 && left.memory > 0 {
            let scheduler = &mut self.schedulers[framework];
            let Some(position) = scheduler.queue.pop_front() else { break };
            let job = &mut self.jobs[position];
            job.first_micros.get_or_insert(self.now_micros);
            let takes_micros = cost(&self.settings, job);
            thinks_micros += takes_micros;
            job.attempts += 1;
            job.first_thought_micros.get_or_insert(takes_micros);
            let each = Free::of(&job.plan.resources());
            // The public simulator asks whether the sums would do, for CPU twice and for memory never.
            let placed = (each.cpu < left.cpu)
                .then(|| place(scheduler, job, &self.settings, &self.terms))
                .filter(|placed| !placed.machines.is_empty());
            let stream = job.plan.stream;
            let Some(placed) = placed else {
                let tally = scheduler.tally(stream);
                tally.fruitless += 1;
                tally.fruitless_micros += takes_micros;
                again.push(position);
                continue;
            };
            let count = i64::try_from(placed.machines.len()).unwrap_or(i64::MAX);
            left = left.less(each.times(count));
            let tally = scheduler.tally(stream);
            tally.committed += 1;
            tally.useful_micros += takes_micros;
            let txn = transaction(&self.settings, scheduler, job, self.stage.revision(), placed);
            job.waiting.drain(..txn.claims());
            offer.answer.push((position, txn));
            again.push(position);
        }
        again.into_iter().for_each(|position| self.retry(position));
        let idle = self.schedulers[framework].queue.is_empty();
        if let Some(offers) = &mut self.offers {
            if idle {
                offers.requesting.remove(&framework);
            }
            offers.open.insert(number, offer);
        }
        self.agenda.plan(self.now_micros + thinks_micros, Event::Answered(number));
    }

    /// A framework answers: what it does not use is free again, and what it does is committed.
    pub(crate) fn answer(&mut self, number: usize) -> anyhow::Result<()> {
        let offers = self.offers.as_mut().context("only an allocator makes offers")?;
        let offer = offers.open.remove(&number).context("an offer is answered once")?;
        let mut sum = Free::default();
        for (locked, free) in offers.locked.iter_mut().zip(&offer.free) {
            *locked = locked.less(*free);
            sum = sum.plus(*free);
        }
        offers.lock(Free::default().less(sum), self.now_micros);
        for (position, mut txn) in offer.answer {
            txn.base = self.stage.revision();
            txn.id = self.schedulers[offer.framework].next_id();
            let claims = txn.claims();
            let outcome = self.stage.commit(txn, self.now_micros)?;
            ensure!(outcome.granted() == claims, "what was offered was locked, and yet {:?}", outcome.refusals.first());
            let job = &self.jobs[position];
            let amount = Free::of(&job.plan.resources()).times(i64::try_from(claims)?);
            if let Some(offers) = &mut self.offers {
                offers.shares[offer.framework] = offers.shares[offer.framework].plus(amount);
            }
            self.take_grants(position, &outcome)?;
        }
        self.plan_round();
        Ok(())
    }
}
