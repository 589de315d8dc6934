//! Transactions that were sent and not answered: what they may take, and what must be sent again after a broken connection.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{AllocationId, Device, JobId, Resources};
use plenum_proto::transaction::commit_bytes;
use plenum_proto::v1;

use crate::plan::{Claim, Plan};

/// One unanswered transaction.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// The very message: a repeated number must have the same content.
    pub(crate) message: v1::Transaction,
    /// Each claim. Empty once the mirror shows what became of them.
    claims: Vec<Claim>,
    /// Whom it may evict; empty then, too.
    victims: Vec<AllocationId>,
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
}

/// All unanswered transactions. Invariant: `promised`, `tasks`, `homes` and `victims` are the sums over the claims of all `sent`.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    sent: BTreeMap<u64, Sent>,
    promised: BTreeMap<u32, Resources>,
    tasks: BTreeMap<(JobId, u16, u32), u32>,
    homes: BTreeMap<JobId, u32>,
    victims: BTreeSet<AllocationId>,
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

    pub(crate) fn has_task(&self, job: JobId, group: u16, task: u32) -> bool {
        self.tasks.contains_key(&(job, group, task))
    }

    pub(crate) fn home(&self, job: JobId) -> Option<u32> {
        self.homes.get(&job).copied()
    }

    /// Whether one of them may evict an allocation.
    pub(crate) fn may_evict(&self, allocation: AllocationId) -> bool {
        self.victims.contains(&allocation)
    }

    /// Machines that tasks of a group are promised to.
    pub(crate) fn machines_of(&self, job: JobId, group: u16) -> impl Iterator<Item = u32> {
        self.tasks.range((job, group, 0)..=(job, group, u32::MAX)).map(|(_, &machine)| machine)
    }

    /// Each task that is claimed, in the order in which the cell comes to it: its job and group, its machine, and the devices that were
    /// named for it.
    pub(crate) fn placed(&self) -> impl Iterator<Item = ((JobId, u16), u32, &[Device])> {
        let claims = self.sent.values().flat_map(|sent| &sent.claims);
        claims.map(|claim| ((claim.job, claim.group), claim.machine, claim.devices.as_slice()))
    }

    /// What a plan claims, to be given to `add` once its number is known.
    pub(crate) fn sent(plan: &Plan, message: v1::Transaction) -> Sent {
        let claims: Vec<_> = plan.each_claim().collect();
        let jobs = claims.iter().map(|claim| claim.job).collect();
        Sent { message, claims, victims: plan.each_victim().collect(), jobs, tag: plan.tag() }
    }

    pub(crate) fn add(&mut self, sent: Sent) {
        for claim in &sent.claims {
            self.promise(claim);
        }
        self.victims.extend(&sent.victims);
        self.sent.insert(sent.message.number, sent);
    }

    fn promise(&mut self, claim: &Claim) {
        let promised = self.promised.entry(claim.machine).or_default();
        // Far below any overflow: a window of transactions of 16,384 claims of at most 2^50 each.
        *promised = promised.checked_add(&claim.resources).unwrap_or(*promised);
        self.tasks.insert((claim.job, claim.group, claim.task), claim.machine);
        if claim.shares_machine {
            self.homes.insert(claim.job, claim.machine);
        }
    }

    /// The mirror shows what became of a number: nothing is promised for it any more. Its outcome may still be on its way. Gives whether it named victims.
    pub(crate) fn decided(&mut self, number: u64) -> bool {
        let Some(sent) = self.sent.get_mut(&number) else { return false };
        let had_victims = !sent.victims.is_empty();
        if !sent.claims.is_empty() {
            sent.claims.clear();
            sent.victims.clear();
            self.count_again();
        }
        had_victims
    }

    /// A number was answered.
    pub(crate) fn answered(&mut self, number: u64) -> Option<Sent> {
        let sent = self.sent.remove(&number)?;
        if !sent.claims.is_empty() {
            self.count_again();
        }
        Some(sent)
    }

    /// Forgets all: their session is over, and none of them will ever be decided.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn count_again(&mut self) {
        self.promised.clear();
        self.tasks.clear();
        self.homes.clear();
        self.victims = self.sent.values().flat_map(|sent| &sent.victims).copied().collect();
        let claims: Vec<Claim> = self.sent.values().flat_map(|sent| sent.claims.iter().cloned()).collect();
        claims.iter().for_each(|claim| self.promise(claim));
    }
}
