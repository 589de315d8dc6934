//! Transactions that were sent and not answered: what they may take, and what must be sent again after a broken connection.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{AllocationId, JobId, Resources};
use plenum_proto::transaction::commit_bytes;
use plenum_proto::v1;

use crate::plan::{Claim, Plan};

/// A task: its job, group and index.
type Task = (JobId, u16, u32);

/// One unanswered transaction.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// The very message: a repeated number must have the same content.
    pub(crate) message: v1::Transaction,
    /// Each claim. Empty once the mirror shows what became of them.
    claims: Vec<Claim>,
    /// Their tasks, from then on.
    decided: Vec<Task>,
    /// Whom it may evict; empty then, too.
    victims: Vec<AllocationId>,
    /// Whom it stops.
    stops: Vec<AllocationId>,
    /// Jobs that it has claims for.
    pub(crate) jobs: BTreeSet<JobId>,
    /// What the scheduler knows it by.
    pub(crate) tag: u64,
}

impl Sent {
    /// How many claims it has.
    pub(crate) fn claims(&self) -> usize {
        self.message.placements.iter().map(|placement| placement.machines.len()).sum()
    }

    /// Whether it stops anything.
    pub(crate) fn has_stops(&self) -> bool {
        !self.message.stops.is_empty()
    }

    /// Whether any of them may take something else than what is promised to it: a spare machine, or other devices.
    fn has_choices(&self) -> bool {
        let spares = self.message.placements.iter().any(|placement| !placement.alternates.is_empty());
        spares || self.claims.iter().any(|claim| claim.leaves_devices_open)
    }
}

/// All unanswered transactions, and holds that are asked for. Invariant: `promised`, `tasks`, `homes` and `victims` are the sums over the claims of all `sent`,
/// `promised` with `holds` besides, `stops` over their stops, and `decided` over what is decided of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    sent: BTreeMap<u64, Sent>,
    promised: BTreeMap<u32, Resources>,
    tasks: BTreeMap<Task, u32>,
    /// The mirror shows what became of these, and nobody has heard yet why.
    decided: BTreeSet<Task>,
    homes: BTreeMap<JobId, u32>,
    victims: BTreeSet<AllocationId>,
    stops: BTreeSet<AllocationId>,
    /// Room that is asked to be held for a job, and that the mirror does not show as held yet, by slot.
    holds: BTreeMap<JobId, Vec<(u32, Resources)>>,
}

impl InFlight {
    /// How many are unanswered.
    pub(crate) fn len(&self) -> usize {
        self.sent.len()
    }

    /// Their numbers, rising.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.sent.keys().copied()
    }

    /// Their messages, in the order of their numbers.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &v1::Transaction> {
        self.sent.values().map(|sent| &sent.message)
    }

    /// The number of the one with the longest message.
    pub(crate) fn largest(&self) -> Option<u64> {
        self.messages().max_by_key(|message| commit_bytes(message)).map(|message| message.number)
    }

    pub(crate) const fn promised(&self) -> &BTreeMap<u32, Resources> {
        &self.promised
    }

    /// Whether one of them claims a task, and it is not known yet what becomes of that.
    pub(crate) fn has_undecided_task(&self, task: Task) -> bool {
        self.tasks.contains_key(&task)
    }

    /// Whether a task is claimed by one of them. What was refused of a transaction is, too, until its outcome is heard: that says when it may be
    /// tried again.
    pub(crate) fn has_task(&self, job: JobId, group: u16, task: u32) -> bool {
        let task = (job, group, task);
        self.tasks.contains_key(&task) || self.decided.contains(&task)
    }

    /// Tasks of a group of which the mirror shows what became of their claims, and whose outcomes are not heard yet.
    pub(crate) fn unheard(&self, job: JobId, group: u16) -> impl Iterator<Item = u32> {
        self.decided.range((job, group, 0)..=(job, group, u32::MAX)).map(|&(_, _, task)| task)
    }

    pub(crate) fn home(&self, job: JobId) -> Option<u32> {
        self.homes.get(&job).copied()
    }

    /// Whether one of them may evict an allocation.
    pub(crate) fn may_evict(&self, allocation: AllocationId) -> bool {
        self.victims.contains(&allocation)
    }

    /// Whether one of them stops an allocation.
    pub(crate) fn may_stop(&self, allocation: AllocationId) -> bool {
        self.stops.contains(&allocation)
    }

    /// Machines that tasks of a group are promised to.
    pub(crate) fn machines_of(&self, job: JobId, group: u16) -> impl Iterator<Item = u32> {
        self.tasks.range((job, group, 0)..=(job, group, u32::MAX)).map(|(_, &machine)| machine)
    }

    /// Each claim, in the order in which the cell comes to it.
    pub(crate) fn placed(&self) -> impl Iterator<Item = &Claim> {
        self.sent.values().flat_map(|sent| &sent.claims)
    }

    /// What a plan claims, to be given to `add` once its number is known.
    pub(crate) fn sent(plan: &Plan, message: v1::Transaction) -> Sent {
        let claims: Vec<_> = plan.each_claim().collect();
        let jobs = claims.iter().map(|claim| claim.job).collect();
        let (victims, stops) = (plan.each_victim().collect(), plan.each_stop().collect());
        Sent { message, claims, decided: Vec::new(), victims, stops, jobs, tag: plan.tag() }
    }

    pub(crate) fn add(&mut self, sent: Sent) {
        for claim in &sent.claims {
            self.promise(claim);
        }
        self.victims.extend(&sent.victims);
        self.stops.extend(&sent.stops);
        self.sent.insert(sent.message.number, sent);
    }

    /// Room is asked to be held for a job: nobody else claims it meanwhile.
    pub(crate) fn hold(&mut self, job: JobId, more: Vec<(u32, Resources)>) {
        self.hold_no_more(job);
        if !more.is_empty() {
            more.iter().for_each(|(slot, resources)| self.promise_room(*slot, resources));
            self.holds.insert(job, more);
        }
    }

    /// What of all that is promised is for holds that are asked for, by slot.
    pub(crate) fn asked_to_hold(&self) -> BTreeMap<u32, Resources> {
        let mut asked: BTreeMap<u32, Resources> = BTreeMap::new();
        for (slot, resources) in self.holds.values().flatten() {
            let of_slot = asked.entry(*slot).or_default();
            *of_slot = of_slot.with(resources);
        }
        asked
    }

    /// It is no longer asked for: the mirror shows what became of that, or will.
    pub(crate) fn hold_no_more(&mut self, job: JobId) {
        if self.holds.remove(&job).is_some() {
            self.count_again();
        }
    }

    fn promise_room(&mut self, slot: u32, resources: &Resources) {
        let promised = self.promised.entry(slot).or_default();
        // Far below any overflow: a window of transactions of 16,384 claims of at most 2^50 each.
        *promised = promised.checked_add(resources).unwrap_or(*promised);
    }

    fn promise(&mut self, claim: &Claim) {
        self.promise_room(claim.machine, &claim.resources);
        self.tasks.insert(claim.whose(), claim.machine);
        if claim.shares_machine {
            self.homes.insert(claim.job, claim.machine);
        }
    }

    /// The mirror shows what became of a number: nothing is promised for it any more. Its outcome may still be on its way. Gives whether more may be
    /// free now than what it took, all of it granted: it named victims, or may have taken something else than what was promised.
    pub(crate) fn decided(&mut self, number: u64) -> bool {
        let Some(sent) = self.sent.get_mut(&number) else { return false };
        let may_leave_room = !sent.victims.is_empty() || sent.has_choices();
        if !sent.claims.is_empty() {
            sent.decided = sent.claims.drain(..).map(|claim| claim.whose()).collect();
            sent.victims.clear();
            self.decided.extend(&sent.decided);
            self.count_again();
        }
        may_leave_room
    }

    /// A number was answered.
    pub(crate) fn answered(&mut self, number: u64) -> Option<Sent> {
        let sent = self.sent.remove(&number)?;
        for task in &sent.decided {
            self.decided.remove(task);
        }
        if !sent.claims.is_empty() {
            self.count_again();
        }
        if !sent.stops.is_empty() {
            self.stops = self.sent.values().flat_map(|sent| &sent.stops).copied().collect();
        }
        Some(sent)
    }

    /// Forgets all, and gives them in the order of their numbers: their session is over, and none of them will ever be decided.
    pub(crate) fn clear(&mut self) -> Vec<Sent> {
        std::mem::take(self).sent.into_values().collect()
    }

    fn count_again(&mut self) {
        self.promised.clear();
        self.tasks.clear();
        self.homes.clear();
        self.victims = self.sent.values().flat_map(|sent| &sent.victims).copied().collect();
        let claims: Vec<Claim> = self.sent.values().flat_map(|sent| sent.claims.iter().cloned()).collect();
        claims.iter().for_each(|claim| self.promise(claim));
        let holds: Vec<_> = self.holds.values().flatten().copied().collect();
        holds.iter().for_each(|(slot, resources)| self.promise_room(*slot, resources));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::work;

    // Whoever was asked before the answer came stopped it once more.
    #[test]
    fn what_is_stopped_is_known_until_all_that_stop_it_are_answered() {
        let mut in_flight = InFlight::default();
        let [one, other] = [7, 8].map(|slot| AllocationId { slot, generation: 1 });
        for (number, stopped) in [(1, &[one, other][..]), (2, &[other])] {
            let mut plan = Plan::incremental();
            stopped.iter().for_each(|&allocation| assert!(!plan.stop(allocation).is_empty()));
            in_flight.add(InFlight::sent(&plan, v1::Transaction { number, ..v1::Transaction::default() }));
        }
        let stands = |in_flight: &InFlight| [one, other].map(|allocation| in_flight.may_stop(allocation));
        assert_eq!(stands(&in_flight), [true, true]);
        in_flight.answered(1);
        assert_eq!(stands(&in_flight), [false, true], "the other transaction may still be decided");
        in_flight.answered(2);
        assert_eq!(stands(&in_flight), [false, false]);
    }

    // It was offered again, and claimed again without a pause, where its outcome came a little after the mirror's news.
    #[test]
    fn a_refused_task_is_on_its_way_until_its_outcome_is_heard() {
        let (mut in_flight, mut plan, work) = (InFlight::default(), Plan::incremental(), work());
        plan.claim(&work, &[0, 1], &[5, 6]);
        in_flight.add(InFlight::sent(&plan, v1::Transaction { number: 1, ..v1::Transaction::default() }));
        in_flight.decided(1);
        assert!(in_flight.has_task(work.job.id, 0, 0));
        assert!(in_flight.promised().is_empty(), "the mirror has it, if it was granted");
        assert_eq!(in_flight.machines_of(work.job.id, 0).count(), 0);
        in_flight.answered(1);
        assert!(!in_flight.has_task(work.job.id, 0, 0));
    }
}
