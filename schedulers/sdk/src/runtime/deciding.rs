//! Gathering work, asking the scheduler, and sending what it decided.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use plenum_model::{Job, JobId, LogTime, NotWanted, Revision, TaskState, TransactionId, group_is_wanted, wanted};
use plenum_proto::v1::{self, session_request::Ask};

use super::{Notice, Output, SchedulerRuntime, send};
use crate::in_flight::InFlight;
use crate::plan::Plan;
use crate::queue::Turn;
use crate::scheduler::{Decision, PassedOver, Scheduler};
use crate::share::mix;
use crate::view::{View, Work};

/// How many tasks of each group.
type Left = BTreeMap<(JobId, u16), usize>;

/// What there is to do.
#[derive(Debug, Default)]
struct Gathered {
    work: Vec<Work>,
    tasks: usize,
    /// The job at which there was more than one decision may have.
    cut_at: Option<Turn>,
    /// When something that is not wanted yet will be.
    wake_micros: Option<i64>,
    /// Why jobs are not even offered.
    notes: Vec<PassedOver>,
}

impl Gathered {
    /// Takes out again what was gathered of a job.
    fn give_back(&mut self, job: JobId) {
        self.work.retain(|work| work.job.id != job);
        self.tasks = self.work.iter().map(|work| work.tasks.len()).sum();
    }

    fn wake_by(&mut self, micros: i64) {
        self.wake_micros = Some(self.wake_micros.map_or(micros, |wake| wake.min(micros)));
    }
}

impl<S: Scheduler> SchedulerRuntime<S> {
    /// Decides, if there was an occasion and a transaction may be sent.
    ///
    /// One pass over the queue may take several decisions, so that jobs behind many tasks that fit nowhere have their turn, too.
    pub(super) fn decide_if_due(&mut self, now_micros: i64, outputs: &mut Vec<Output>) {
        if !(self.due || self.pass.is_some()) || self.in_flight.len() >= self.settings.window {
            return;
        }
        if now_micros < self.decide_not_before_micros {
            return;
        }
        let from = self.pass.take().unwrap_or_else(|| {
            self.due = false;
            self.hungry = false;
            self.wake_micros = None;
            self.notes.begin();
            Bound::Unbounded
        });
        let mut gathered = self.gather(now_micros, from);
        gathered.wake_micros.into_iter().for_each(|micros| self.wake_by(micros));
        self.notes.add(std::mem::take(&mut gathered.notes), self.mirror.revision());
        if !gathered.work.is_empty() {
            let took_micros = self.decide(now_micros, &gathered, outputs);
            // Counted from when the decision was made: what came in meanwhile is all read before the next one.
            let pause_micros = self.settings.pause_micros.saturating_add(took_micros);
            self.decide_not_before_micros = now_micros.saturating_add(pause_micros);
        }
    }

    /// When the next decision may be made that there is an occasion for already. Apart from `wake_micros`, whose time is an
    /// occasion by itself: going on with a pass is none to begin another one after it.
    pub(super) fn goes_on_micros(&self) -> Option<i64> {
        let waits = (self.due || self.pass.is_some()) && self.in_flight.len() < self.settings.window;
        waits.then_some(self.decide_not_before_micros)
    }

    /// Asks the scheduler, sends what it wants, and gives how long that took, in microseconds.
    fn decide(&mut self, now_micros: i64, gathered: &Gathered, outputs: &mut Vec<Output>) -> i64 {
        let window = self.settings.window - self.in_flight.len();
        let Some(cell) = self.mirror.cell() else { return 0 };
        let seed = mix(self.settings.seed ^ self.session.0);
        let view = View {
            cell,
            now: self.mirror.log_time(now_micros),
            work: &gathered.work,
            in_flight: &self.in_flight,
            changed: self.mirror.changed(),
            seed,
            window,
            place: self.share.place(),
        };
        let begun = (self.settings.stopwatch)();
        let Decision { mut plans, passed_over } = self.scheduler.decide(&view);
        let deciding_micros = (self.settings.stopwatch)().saturating_sub(begun).max(0);
        let base = cell.revision();
        self.counters.decisions += 1;
        self.mirror.looked();
        let late = plans.split_off(window.min(plans.len()));
        self.counters.dropped += late.len() as u64;
        self.due |= !late.is_empty();
        let left = left_over(&gathered.work, &plans);
        self.hungry |= !left.is_empty();
        if let Some(turn) = gathered.cut_at {
            // Where all was claimed there may be room for more of the same; where not, only others may have better luck.
            // A job that came when there was no room left in this decision has not had its turn.
            let last =
                gathered.work.last().filter(|work| self.queue.get(work.job.id).is_some_and(|of| of.turn == turn));
            let lucky = last.is_none_or(|work| !left.contains_key(&(work.job.id, work.group)));
            self.pass = Some(if lucky { Bound::Included(turn) } else { Bound::Excluded(turn) });
        }
        self.note(left, &late, passed_over, base);
        for plan in plans {
            self.commit(now_micros, plan, base, (seed, deciding_micros), outputs);
        }
        deciding_micros
    }

    /// Own tasks that may be placed now, in the order of their turn.
    fn gather(&mut self, now_micros: i64, from: Bound<Turn>) -> Gathered {
        let mut gathered = Gathered::default();
        let Some(cell) = self.mirror.cell() else { return gathered };
        let log_time = self.mirror.log_time(now_micros);
        let turns: Vec<_> = self.queue.jobs(from).collect();
        for id in turns {
            let Some(job) = cell.job(id) else { continue };
            wake_after_backoff(cell, job, log_time, now_micros, &mut gathered);
            let Some(standing) = self.queue.get_mut(id) else { continue };
            let mut groups = wanted(cell, job, log_time).peekable();
            let Some(first) = groups.peek().copied() else {
                standing.waiting_since_micros = None;
                continue;
            };
            let since = *standing.waiting_since_micros.get_or_insert(now_micros);
            let owner = self.share.owner(id);
            if owner != self.session {
                let overdue = since.saturating_add(self.settings.peer_silence_micros);
                if now_micros < overdue {
                    gathered.wake_by(overdue);
                    continue;
                }
                self.share.silence(owner);
            }
            if now_micros < standing.not_before_micros {
                gathered.wake_by(standing.not_before_micros);
                let tasks = first.row.tasks_in(TaskState::Waiting);
                let reason = format!("refused {} times in a row, tried again in a moment", standing.refused);
                gathered.notes.push(PassedOver { job: id, group: first.group, tasks, reason });
                continue;
            }
            let (turn, attempt) = (standing.turn, standing.refused.saturating_add(1));
            for group in groups {
                let least =
                    job.shape.groups.get(usize::from(group.group)).map_or(0, |shape| shape.least_at_once(group.row));
                let least = usize::try_from(least).unwrap_or(usize::MAX);
                let mut room = self.settings.tasks_max.saturating_sub(gathered.tasks);
                if room < least {
                    // A part of a gang can't be placed: it has its turn in the next decision, or here when nobody is before it.
                    if gathered.work.first().is_some_and(|first| first.job.id != id) {
                        gathered.give_back(id);
                        gathered.cut_at = Some(turn);
                        break;
                    }
                    room = least;
                }
                let free = |task: &u32| !self.in_flight.has_task(id, group.group, *task);
                let mut tasks: Vec<u32> = group.tasks().filter(free).take(room + 1).collect();
                if tasks.len() > room {
                    tasks.truncate(room);
                    gathered.cut_at = Some(turn);
                }
                if !tasks.is_empty() {
                    gathered.tasks += tasks.len();
                    gathered.work.push(Work { job: job.clone(), group: group.group, tasks, attempt });
                }
            }
            if gathered.cut_at.is_some() {
                break;
            }
        }
        gathered
    }

    /// Remembers why work stays unplaced. Where the scheduler gave no reason, that is said.
    fn note(&mut self, left: Left, late: &[Plan], passed_over: Vec<PassedOver>, base: Revision) {
        let said: BTreeSet<_> = passed_over.iter().map(|note| (note.job, note.group)).collect();
        let late: BTreeSet<_> = late.iter().flat_map(Plan::claims_by_group).map(|(group, _)| group).collect();
        let unsaid = left.into_iter().filter(|(group, _)| !said.contains(group)).map(|((job, group), tasks)| {
            let tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
            let reason = if late.contains(&(job, group)) {
                "placed as soon as earlier transactions are answered".to_owned()
            } else {
                format!("the scheduler {} left them for later, and gave no reason", self.scheduler.name())
            };
            PassedOver { job, group, tasks, reason }
        });
        self.notes.add(passed_over.into_iter().chain(unsaid), base);
    }

    /// Gives a plan its number, and sends it.
    fn commit(&mut self, now_micros: i64, plan: Plan, base: Revision, decided: (u64, i64), outputs: &mut Vec<Output>) {
        let transaction = match plan.clone().into_transaction() {
            Ok(transaction) => transaction,
            Err(error) => {
                self.counters.dropped += 1;
                outputs.push(Output::Notice(Notice::Plan(error)));
                return;
            }
        };
        let mut transaction = transaction;
        self.number += 1;
        transaction.id = TransactionId { session: self.session, number: self.number };
        transaction.incarnation = self.seen.incarnation;
        transaction.base = base;
        let jobs = plan.claims_by_group().map(|((job, _), _)| job);
        let waiting = jobs.filter_map(|job| self.queue.get(job)?.waiting_since_micros).min();
        let metadata = &mut transaction.decision;
        (metadata.seed, metadata.deciding_micros) = decided;
        metadata.queued_micros = waiting.map_or(0, |since| now_micros.saturating_sub(since).max(0));
        metadata.assumed = self.in_flight.numbers().collect();
        if metadata.policy.is_empty() {
            metadata.policy = self.scheduler.name().into();
        }
        let message = v1::Transaction::from(&transaction);
        self.in_flight.add(InFlight::sent(&plan, message.clone()));
        self.counters.transactions += 1;
        outputs.push(send(Ask::Commit(message)));
    }
}

/// Tasks of each group that were offered and not claimed.
fn left_over(work: &[Work], plans: &[Plan]) -> Left {
    let mut left: BTreeMap<_, _> = work.iter().map(|work| ((work.job.id, work.group), work.tasks.len())).collect();
    for (group, claims) in plans.iter().flat_map(Plan::claims_by_group) {
        if let Some(tasks) = left.get_mut(&group) {
            *tasks = tasks.saturating_sub(claims);
        }
    }
    left.retain(|_, tasks| *tasks > 0);
    left
}

/// A group that sleeps over a failure is looked at again when that is over.
fn wake_after_backoff(
    cell: &plenum_model::Cell,
    job: &Job,
    log_time: LogTime,
    now_micros: i64,
    gathered: &mut Gathered,
) {
    let groups = u16::try_from(job.shape.groups.len()).unwrap_or(u16::MAX);
    for group in 0..groups {
        if let Err(NotWanted::Backoff(until)) = group_is_wanted(cell, job, group, log_time) {
            gathered.wake_by(now_micros.saturating_add(until.micros.saturating_sub(log_time.micros)));
        }
    }
}
