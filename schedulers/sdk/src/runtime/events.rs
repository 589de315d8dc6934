//! What in a delta or an outcome is an occasion to decide, and what it says about own transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{
    AllocationRef, Delta, End, JobChange, JobId, NotWanted, Outcome, Refusal, RefusalKind, RefusalReason,
    SessionChange, TransactionOutcome,
};

use plenum_proto::v1;

use super::{Notice, Output, SchedulerRuntime};
use crate::scheduler::{Ended, Scheduler};

/// What became of claims that the cell was sent and did not grant.
pub(super) const AT_THE_COMMIT: &str = "refused at the commit";

impl<S: Scheduler> SchedulerRuntime<S> {
    /// Reads all jobs anew.
    pub(super) fn read_queue(&mut self) {
        if let Some(cell) = self.mirror.cell() {
            let (scheduler, namespace) = (self.scheduler.name(), &self.settings.namespace);
            self.queue.read(cell, |job| job.shape.is_served_by(scheduler, namespace));
        }
    }

    /// Reads all sessions anew.
    pub(super) fn read_share(&mut self, now_micros: i64) {
        if let Some(cell) = self.mirror.cell() {
            let name = (self.scheduler.name(), &*self.settings.namespace);
            self.share.read(cell, self.session, name, now_micros);
        }
    }

    /// What can only be seen before a delta is folded: whose allocations end in it.
    pub(super) fn notice_before(&mut self, delta: &Delta) {
        let Some(cell) = self.mirror.cell() else { return };
        let freed = !delta.ends.is_empty() || !delta.machines.is_empty();
        let freed = freed || !delta.unknown.is_empty() || !delta.holds.is_empty();
        // Machines that were reserved are room, too, and so is a quota that was raised.
        let freed = freed || !delta.partitions.is_empty() || !delta.quotas.is_empty();
        // And so are tasks of lower bands, for who was granted to evict them.
        let freed = freed || !delta.rights.is_empty();
        let ends = delta.ends.iter().map(|end| end.slot);
        let leaves = delta.moves.iter().filter(|change| change.status.state.is_leaving()).map(|change| change.slot);
        // Quota comes back with the decision of an end, and room with the receipt.
        let has_quota = |slot: u32| {
            let job = cell.allocation_in(slot).and_then(|found| cell.job(found.row.job()));
            job.is_some_and(|job| cell.quota(&job.shape.namespace).is_some())
        };
        let freed = freed || (self.hungry && cell.has_quotas() && leaves.clone().any(has_quota));
        let mut changed = ends.chain(leaves).filter_map(|slot| cell.allocation_in(slot)).map(|found| found.row.job());
        // What waits for an unknown task that is its predecessor goes on when that has ended.
        let gone = delta.unknown.iter().filter(|(_, task)| task.is_none());
        let gone = gone.filter_map(|(id, _)| cell.unknown_task(*id)).map(|task| &task.traces);
        let mut freed_jobs = gone.filter_map(|traces| cell.job_named(&traces.namespace, &traces.job));
        let concerns = changed.any(|job| self.queue.contains(job)) || freed_jobs.any(|job| self.queue.contains(job.id));
        // And so does what waits until all agents of a restored cell were heard.
        let concerns = concerns || (cell.unheard_machines() > 0 && !delta.machines.is_empty());
        self.due |= concerns || (freed && self.hungry);
    }

    /// How allocations of own jobs, also of those that are over, end in a delta that is not folded yet.
    pub(super) fn ends_in(&self, delta: &Delta) -> Vec<Ended> {
        let Some(cell) = self.mirror.cell() else { return Vec::new() };
        let (scheduler, namespace) = (self.scheduler.name(), &*self.settings.namespace);
        let ended = |end: &End| {
            let AllocationRef { id, row, .. } = cell.allocation_in(end.slot)?;
            cell.job(row.job()).filter(|job| job.shape.is_served_by(scheduler, namespace))?;
            Some(Ended {
                allocation: id,
                job: row.job(),
                group: row.group,
                task: row.task,
                attempt: row.attempt,
                machine: row.machine,
                state: end.state,
                exit_code: end.exit_code,
                reason: end.reason.clone(),
            })
        };
        delta.ends.iter().filter_map(ended).collect()
    }

    /// What can be seen once a delta is folded.
    pub(super) fn notice_after(&mut self, now_micros: i64, delta: &Delta) {
        for change in &delta.jobs {
            self.notice_job(change);
        }
        let Some(cell) = self.mirror.cell() else { return };
        let owner = |row: u32| cell.groups().get(row).and_then(|group| cell.job_in(group.job_slot)).map(|job| job.id);
        let tasks = delta.tasks.iter().filter_map(|change| owner(change.group_row));
        self.due |= tasks.into_iter().any(|job| self.queue.contains(job));
        for grants in &delta.grants {
            // Its owner may have placed it elsewhere than room was left to it.
            self.due |= self.ahead.granted(grants.job) && self.hungry;
            self.holds.granted(grants.job);
            if let Some(standing) = self.queue.get_mut(grants.job) {
                standing.waiting_since_micros = None;
            }
        }
        let mut peers = false;
        for change in &delta.sessions {
            match change {
                SessionChange::Opened { .. } | SessionChange::Closed(_) => peers = true,
                SessionChange::Number { session, number, .. } if *session == self.session => {
                    // Of its victims more may come free than it takes, and others can name them now. Of its claims some may have gone to spare
                    // machines, or got other devices, and left what was promised to them.
                    self.due |= self.in_flight.decided(*number) && self.hungry;
                }
                SessionChange::Number { session, .. } => self.due |= self.share.heard(*session, now_micros),
            }
        }
        if peers {
            self.read_share(now_micros);
            self.due = true;
        }
    }

    fn notice_job(&mut self, change: &JobChange) {
        let Some(cell) = self.mirror.cell() else { return };
        let id = match change {
            JobChange::Put { job, .. } => {
                self.holds.changed(job.id);
                job.id
            }
            JobChange::State { id, .. } | JobChange::Home { id, .. } | JobChange::Launched { id, .. } => *id,
            JobChange::Group { row, .. } => match cell.groups().get(*row).and_then(|row| cell.job_in(row.job_slot)) {
                Some(job) => job.id,
                None => return,
            },
            JobChange::Removed(id) => return self.queue.remove(*id),
        };
        match cell.job(id) {
            Some(job) if job.shape.is_served_by(self.scheduler.name(), &self.settings.namespace) => {
                // That a job got a home or began to run is the work of its own grants, and nothing to decide on. That its home was given up is
                // none of anybody's grants: it may go anywhere now.
                let began = matches!(change, JobChange::State { .. }) && !job.state.is_final();
                let settled = matches!(change, JobChange::Home { machine: Some(_), .. });
                self.due |= !began && !settled;
                self.queue.put(job);
            }
            _ => self.queue.remove(id),
        }
    }

    /// An own transaction was answered.
    pub(super) fn conclude(&mut self, now_micros: i64, outcome: &Outcome, outputs: &mut Vec<Output>) {
        if outcome.id.session != self.session {
            return;
        }
        let Some(sent) = self.in_flight.answered(outcome.id.number) else { return };
        self.attempts = 0;
        // What was granted needs no other decision; what was refused does, soon.
        self.due |= !outcome.refusals.is_empty() || std::mem::take(&mut self.held_back);
        if outcome.outcome != TransactionOutcome::Refused {
            (self.fruitless, self.rests_until_micros) = (0, i64::MIN);
            // What was dropped need not wait any longer for what was refused.
            self.progressed = true;
            self.due |= self.dropped_micros.is_some();
        } else if !self.can_leave_any(&sent.jobs) {
            self.rest(now_micros, 0);
        }
        for misfit in divergences(&sent.message, outcome) {
            let (transaction, refusal) = (outcome.id, Box::new(misfit.clone()));
            outputs.push(Output::Notice(Notice::Misfit { transaction, refusal }));
        }
        let mut refused: BTreeMap<JobId, &Refusal> = BTreeMap::new();
        // That the mates of a claim were refused says nothing of why it was.
        let is_mate = |refusal: &&Refusal| refusal.kind == RefusalKind::Mate;
        let (mates, causes): (Vec<_>, Vec<_>) = outcome.refusals.iter().partition(is_mate);
        for refusal in causes.into_iter().chain(mates) {
            refused.entry(refusal.job).or_insert(refusal);
        }
        let placements = sent.message.placements.iter().zip(&outcome.placements);
        let lucky = placements.filter(|(_, allocations)| allocations.iter().any(Option::is_some));
        let granted: BTreeSet<u64> = lucky.map(|(placement, _)| placement.job).collect();
        for &job in &sent.jobs {
            if granted.contains(&job.to_bits()) {
                self.grant(now_micros, job);
            } else if let Some(refusal) = refused.get(&job) {
                let why = v1::RefusalReason::from(refusal.reason).as_str_name();
                self.refuse(now_micros, job, 0, AT_THE_COMMIT, why);
                let standing = self.queue.get(job);
                let lost = standing.filter(|_| matches!(refusal.kind, RefusalKind::Conflict | RefusalKind::Stale));
                lost.into_iter().for_each(|standing| self.ahead.lost(job, standing.not_before_micros));
            }
        }
        self.tell_outcome(sent.tag, outcome);
    }

    fn grant(&mut self, now_micros: i64, job: JobId) {
        if let Some(standing) = self.queue.get_mut(job) {
            // Another pass takes back what was said of it.
            self.due |= standing.refused > 0;
            standing.refused = 0;
            standing.why_refused = Arc::default();
            standing.not_before_micros = i64::MIN;
        }
        // There was room for a peer's overdue job, and the peer has still not claimed any.
        let owner = self.share.owner(job);
        let overdue = self.share.heard_micros(owner).saturating_add(self.settings.peer_silence_micros);
        if owner != self.session && overdue <= now_micros {
            self.share.silence(owner);
            self.due = true;
        }
    }

    /// Nothing of a job was granted: it waits a little, longer each time. People are told what became of its claims, and why.
    pub(super) fn refuse(&mut self, now_micros: i64, job: JobId, least_micros: i64, what: &str, why: &str) {
        let seed = self.settings.seed ^ self.session.0 ^ job.to_bits();
        if let Some(standing) = self.queue.get_mut(job) {
            standing.refused = standing.refused.saturating_add(1);
            standing.why_refused = format!("{what}, and tried again in a moment: {why}").into();
            let phase = self.settings.seed ^ self.session.0;
            standing.not_before_micros =
                self.settings.retry.next_micros(now_micros, least_micros, standing.refused, seed, phase);
            if self.dropped_micros.or(self.rested_micros).is_some() {
                self.rested_micros = self.rested_micros.max(Some(standing.not_before_micros));
            }
        }
    }
}

/// Misfits that only a bug explains: not those behind a claim that was refused for what others did, or that may have gone to another machine for
/// it, nor those of a task that an earlier placement names, too, unless the cell says so, which knows what these would have left to those behind them.
fn divergences<'a>(sent: &v1::Transaction, outcome: &'a Outcome) -> impl Iterator<Item = &'a Refusal> {
    let stays = sent.placements.iter().all(|placement| placement.alternates.is_empty());
    let raced = |refusal: &Refusal| !matches!(refusal.kind, RefusalKind::Misfit | RefusalKind::Mate);
    let first_raced = outcome.refusals.iter().position(raced).unwrap_or(outcome.refusals.len());
    let before = if stays { first_raced } else { 0 };
    let is_told = move |position: usize| {
        let told = u32::try_from(position).map(|position| outcome.divergences.binary_search(&position));
        matches!(told, Ok(Ok(_)))
    };
    let refusals = outcome.refusals.iter().enumerate();
    let is_another_way = move |refusal: &Refusal| {
        let names = |placement: &v1::Placement| {
            let is_of_group = (placement.job, placement.group) == (refusal.job.to_bits(), u32::from(refusal.group));
            is_of_group && placement.tasks.contains(&refusal.task)
        };
        let earlier = refusal.claim.map_or(0, |(placement, _)| placement as usize);
        refusal.reason == RefusalReason::TaskTaken && sent.placements.iter().take(earlier).any(names)
    };
    let misfits = refusals
        .filter(move |&(position, refusal)| is_told(position) || (position < before && !is_another_way(refusal)));
    misfits.map(|(_, refusal)| refusal).filter(|refusal| is_divergence(refusal))
}

/// A misfit that only a bug explains. A claim at the very end of a backoff may be early without one: a batch has the time at which it was
/// begun, and log time stands still after a start with a clock that was set back, while this side's goes on.
fn is_divergence(refusal: &Refusal) -> bool {
    refusal.kind == RefusalKind::Misfit && !matches!(refusal.not_wanted, Some(NotWanted::Backoff(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{LogTime, Revision, TaskState, TransactionId};

    fn refusal(kind: RefusalKind, why: NotWanted) -> Refusal {
        Refusal {
            kind,
            reason: RefusalReason::NotWanted,
            claim: Some((0, 0)),
            job: JobId::default(),
            group: 0,
            task: 0,
            machine: 0,
            short: None,
            short_device: None,
            port: None,
            not_wanted: Some(why),
            culprits: Vec::new(),
            culprits_total: 0,
        }
    }

    fn outcome(refusals: Vec<Refusal>, divergences: &[u32]) -> Outcome {
        Outcome {
            id: TransactionId::default(),
            revision: Revision(1),
            time: LogTime::default(),
            outcome: TransactionOutcome::Refused,
            placements: Vec::new(),
            refusals,
            idle_stops: Vec::new(),
            ports: Vec::new(),
            elsewhere: Vec::new(),
            evicted: Vec::new(),
            divergences: divergences.to_vec(),
        }
    }

    // Who brought a second way for a task was told of a bug, each time that the first one worked.
    #[test]
    fn a_task_that_an_earlier_placement_names_is_called_a_bug_only_where_the_cell_says_so() {
        let names = |task| v1::Placement { job: JobId::default().to_bits(), tasks: vec![task], ..Default::default() };
        let told = |tasks: [u32; 2], divergences: &[u32]| {
            let sent = v1::Transaction { placements: tasks.map(names).into(), ..v1::Transaction::default() };
            let done = refusal(RefusalKind::Misfit, NotWanted::Task(TaskState::Done));
            let taken = Refusal { reason: RefusalReason::TaskTaken, claim: Some((1, 0)), not_wanted: None, ..done };
            super::divergences(&sent, &outcome(vec![taken], divergences)).count()
        };
        assert_eq!(told([0, 0], &[]), 0, "the first one was granted");
        assert_eq!(told([0, 0], &[0]), 1, "it had an allocation before");
        assert_eq!(told([1, 0], &[]), 1, "nobody but its own placement names it");
    }

    // Whatever stood in the way, a task that may not be placed was no bug as long as its group waited after a failure.
    #[test]
    fn only_the_end_of_a_backoff_may_be_missed_without_a_bug() {
        let early = NotWanted::Backoff(LogTime::from_micros(5));
        assert!(!is_divergence(&refusal(RefusalKind::Misfit, early)));
        let done = NotWanted::Task(TaskState::Done);
        assert!(is_divergence(&refusal(RefusalKind::Misfit, done)));
        assert!(!is_divergence(&refusal(RefusalKind::Conflict, done)));
    }

    // Room that a claim took on its spare machine, after a lost race, was missing to a later one: that was called a bug.
    #[test]
    fn what_may_follow_from_a_lost_race_is_called_no_bug() {
        let told = |sent: &v1::Transaction, kinds: &[RefusalKind], divergences: &[u32]| {
            let done = NotWanted::Task(TaskState::Done);
            let refusals = kinds.iter().map(|kind| refusal(*kind, done)).collect();
            super::divergences(sent, &outcome(refusals, divergences)).count()
        };
        let placements = vec![v1::Placement::default()];
        let mut sent = v1::Transaction { placements, ..v1::Transaction::default() };
        let (misfit, conflict, mate) = (RefusalKind::Misfit, RefusalKind::Conflict, RefusalKind::Mate);
        assert_eq!(told(&sent, &[misfit, mate, misfit, conflict, misfit], &[]), 2);
        assert_eq!(told(&sent, &[RefusalKind::Stale, misfit], &[]), 0);
        let behind_quota = [RefusalKind::Quota, misfit];
        assert_eq!(told(&sent, &behind_quota, &[]), 0, "who was to be evicted for the other is still there");
        assert_eq!(told(&sent, &behind_quota, &[1]), 1, "the cell knows that nobody was");
        sent.placements[0].alternates.push(3);
        assert_eq!(told(&sent, &[misfit], &[]), 0);
    }
}
