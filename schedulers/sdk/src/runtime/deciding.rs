//! Gathering work, asking the scheduler, and sending what it decided.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{Job, LogTime, NotWanted, Revision, TransactionId, group_is_wanted, wanted};
use plenum_proto::v1::{self, session_request::Ask};

use super::{Notice, Output, SchedulerRuntime, send};
use crate::in_flight::InFlight;
use crate::plan::Plan;
use crate::scheduler::{Decision, PassedOver, Scheduler};
use crate::share::mix;
use crate::view::{View, Work};

/// What there is to do.
#[derive(Debug, Default)]
struct Gathered {
    work: Vec<Work>,
    tasks: usize,
    /// There is more than was taken.
    more: bool,
    /// When something that is not wanted yet will be.
    wake_micros: Option<i64>,
}

impl Gathered {
    fn wake_by(&mut self, micros: i64) {
        self.wake_micros = Some(self.wake_micros.map_or(micros, |wake| wake.min(micros)));
    }
}

impl<S: Scheduler> SchedulerRuntime<S> {
    /// Decides, if there was an occasion and a transaction may be sent.
    pub(super) fn decide_if_due(&mut self, now_micros: i64, outputs: &mut Vec<Output>) {
        if !self.due || self.in_flight.len() >= self.settings.window {
            return;
        }
        if now_micros < self.decide_not_before_micros {
            return self.wake_by(self.decide_not_before_micros);
        }
        self.due = false;
        let gathered = self.gather(now_micros);
        self.wake_micros = gathered.wake_micros;
        self.hungry = false;
        if gathered.work.is_empty() {
            self.notes.put(Vec::new(), self.mirror.revision());
            return;
        }
        self.decide_not_before_micros = now_micros.saturating_add(self.settings.pause_micros);
        let window = self.settings.window - self.in_flight.len();
        let Some(cell) = self.mirror.cell() else { return };
        let seed = mix(self.settings.seed ^ self.session.0);
        let view = View {
            cell,
            now: self.mirror.log_time(now_micros),
            work: &gathered.work,
            in_flight: &self.in_flight,
            changed: self.mirror.changed(),
            seed,
            window,
        };
        let begun = (self.settings.stopwatch)();
        let decision = self.scheduler.decide(&view);
        let deciding_micros = (self.settings.stopwatch)().saturating_sub(begun).max(0);
        let base = cell.revision();
        self.counters.decisions += 1;
        self.mirror.looked();
        let Decision { mut plans, passed_over } = decision;
        if plans.len() > window {
            self.counters.dropped += (plans.len() - window) as u64;
            plans.truncate(window);
            self.due = true;
        }
        let claimed = plans.iter().map(Plan::claims).sum::<usize>();
        self.hungry = claimed < gathered.tasks;
        self.due |= gathered.more && claimed > 0;
        self.note(&gathered.work, &plans, passed_over, base);
        for plan in plans {
            self.commit(now_micros, plan, base, (seed, deciding_micros), outputs);
        }
        if self.due && self.in_flight.len() < self.settings.window {
            self.wake_by(self.decide_not_before_micros);
        }
    }

    /// Own tasks that may be placed now, in the order of their turn.
    fn gather(&mut self, now_micros: i64) -> Gathered {
        let mut gathered = Gathered::default();
        let Some(cell) = self.mirror.cell() else { return gathered };
        let log_time = self.mirror.log_time(now_micros);
        let turns: Vec<_> = self.queue.jobs().collect();
        for id in turns {
            let Some(job) = cell.job(id) else { continue };
            wake_after_backoff(cell, job, log_time, now_micros, &mut gathered);
            let Some(standing) = self.queue.get_mut(id) else { continue };
            let mut groups = wanted(cell, job, log_time).peekable();
            if groups.peek().is_none() {
                standing.waiting_since_micros = None;
                continue;
            }
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
                continue;
            }
            let attempt = standing.refused.saturating_add(1);
            for group in groups {
                let room = self.settings.tasks_max - gathered.tasks;
                let free = |task: &u32| !self.in_flight.has_task(id, group.group, *task);
                let mut tasks: Vec<u32> = group.tasks().filter(free).take(room + 1).collect();
                if tasks.len() > room {
                    tasks.truncate(room);
                    gathered.more = true;
                }
                if !tasks.is_empty() {
                    gathered.tasks += tasks.len();
                    gathered.work.push(Work { job: job.clone(), group: group.group, tasks, attempt });
                }
            }
            if gathered.more {
                break;
            }
        }
        gathered
    }

    /// Remembers why work stays unplaced. Where the scheduler gave no reason, that is said.
    fn note(&mut self, work: &[Work], plans: &[Plan], mut passed_over: Vec<PassedOver>, base: Revision) {
        let said: BTreeSet<_> = passed_over.iter().map(|note| (note.job, note.group)).collect();
        let mut claimed = BTreeMap::<_, usize>::new();
        for (group, claims) in plans.iter().flat_map(Plan::claims_by_group) {
            *claimed.entry(group).or_default() += claims;
        }
        for one in work {
            let group = (one.job.id, one.group);
            let left = one.tasks.len().saturating_sub(claimed.get(&group).copied().unwrap_or(0));
            if left > 0 && !said.contains(&group) {
                let tasks = u32::try_from(left).unwrap_or(u32::MAX);
                let reason = format!("the scheduler {} left them for later, and gave no reason", self.scheduler.name());
                passed_over.push(PassedOver { job: one.job.id, group: one.group, tasks, reason });
            }
        }
        self.notes.put(passed_over, base);
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
