//! Which claims a transaction is granted, and what stands in the way of the others.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::{
    AllocationId, ConflictCheck, GroupShape, Guard, JobId, MachineState, NotWanted, Placement, RefusalKind,
    RefusalReason, Resource, Resources, Room, TaskState, Transaction,
};

use crate::hindsight::Blamed;
use crate::picture::{Allocation, Picture, Task, short};
use crate::twin::{Change, Twin, What};

/// What a refusal must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) claim: Option<(u32, u32)>,
    pub(crate) kind: RefusalKind,
    /// The core need not know that the obstacle stood there before.
    pub(crate) may_be_conflict: bool,
    /// The core may have forgotten what would tell.
    pub(crate) may_be_stale: bool,
    pub(crate) reason: RefusalReason,
    pub(crate) short: Option<(Resource, u64)>,
    pub(crate) not_wanted: Option<NotWanted>,
    /// Who is to blame, newest first, as far as that is listed; `None`: that is not foreseen.
    pub(crate) culprits: Option<Vec<Blamed>>,
    /// What all culprits took.
    pub(crate) total: u64,
}

/// What a transaction must get.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) granted: BTreeSet<(u32, u32)>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) stops: Vec<AllocationId>,
    pub(crate) idle_stops: Vec<u32>,
    /// No effect, by `atomic` or a guard.
    pub(crate) nothing: bool,
    pub(crate) homes: BTreeMap<JobId, u32>,
}

/// A claim that is granted: its position, its task, its machine, and what it gets.
pub(crate) type Granted = ((u32, u32), (JobId, u16, u32), u32, Resources);

/// What earlier claims and stops of the transaction have promised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    pub(crate) granted: Vec<Granted>,
    homes: BTreeMap<JobId, u32>,
    stops: BTreeSet<AllocationId>,
}

impl Draft {
    pub(crate) fn room(&self, picture: &Picture, machine: u32) -> Room {
        let mut room = picture.room(machine);
        self.granted.iter().filter(|(_, _, at, _)| *at == machine).for_each(|(_, _, _, need)| room.take(need));
        room
    }
}

/// One claim.
#[derive(Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) placement: &'a Placement,
    pub(crate) machine: u32,
    pub(crate) task: u32,
}

impl Claim<'_> {
    pub(crate) fn task_key(&self) -> (JobId, u16, u32) {
        (self.placement.job, self.placement.group, self.task)
    }
}

impl Twin {
    /// Judges a transaction on the live picture.
    pub(crate) fn judge(&self, txn: &Transaction) -> Verdict {
        let mut verdict = Verdict::default();
        let mut draft = Draft::default();
        if !txn.guards.iter().all(|guard| holds(&self.live, guard)) {
            verdict.nothing = true;
            verdict.refused.push(refused(None, RefusalKind::Guard, RefusalReason::GuardFailed));
            verdict.refused.extend(
                all_claims(txn).map(|claim| refused(Some(claim), RefusalKind::Guard, RefusalReason::GuardFailed)),
            );
            return verdict;
        }
        self.judge_stops(txn, &mut draft, &mut verdict);
        let mut missed = false;
        for (number, placement) in (0..).zip(&txn.placements) {
            let before = draft.clone();
            let refused_before = verdict.refused.len();
            for (position, (&machine, &task)) in (0..).zip(placement.machines.iter().zip(&placement.tasks)) {
                self.judge_claim(txn, (number, position), Claim { placement, machine, task }, &mut draft, &mut verdict);
            }
            let granted = draft.granted.len() - before.granted.len();
            if granted < self.least(placement, &before) {
                missed = true;
                let lost: Vec<_> = draft.granted.drain(before.granted.len()..).map(|(claim, ..)| claim).collect();
                let mates = lost.into_iter().map(mate);
                verdict.refused.extend(mates);
                verdict.refused[refused_before..].sort_by_key(|refused| refused.claim);
                draft = before;
            }
        }
        if missed && txn.atomic {
            verdict.refused.extend(draft.granted.drain(..).map(|(claim, ..)| mate(claim)));
            verdict.stops.clear();
            verdict.nothing = true;
            draft.homes.clear();
        }
        verdict.granted = draft.granted.iter().map(|(claim, ..)| *claim).collect();
        verdict.homes = draft.homes;
        verdict.refused.sort_by_key(|refused| refused.claim);
        verdict
    }

    /// The fewest claims of a placement that may be granted: its own minimum, and what its group lacks of the one that it declares.
    fn least(&self, placement: &Placement, draft: &Draft) -> usize {
        let job = self.live.jobs.get(&placement.job);
        let shape = job.and_then(|job| job.shape.groups.get(usize::from(placement.group)));
        let Some((job, shape)) = job.zip(shape) else { return placement.min as usize };
        let tasks = &job.groups[usize::from(placement.group)].tasks;
        let is_there = |(task, found): &(u32, &Task)| {
            let key = (placement.job, placement.group, *task);
            let stays = |(id, _): (AllocationId, &Allocation)| !draft.stops.contains(&id);
            found.state == TaskState::Done
                || self.live.active(placement.job, placement.group, *task).is_some_and(stays)
                || draft.granted.iter().any(|(_, granted, ..)| *granted == key)
        };
        let there = (0..).zip(tasks).filter(is_there).count();
        (placement.min as usize).max((shape.min as usize).min(tasks.len()).saturating_sub(there))
    }

    fn judge_stops(&self, txn: &Transaction, draft: &mut Draft, verdict: &mut Verdict) {
        let scheduler = &self.live.sessions[&txn.id.session].scheduler;
        for (position, id) in (0..).zip(&txn.stops) {
            let active = self.live.allocations.get(id).filter(|found| found.state.is_active());
            match active {
                Some(found) if self.live.jobs[&found.job].shape.scheduler != *scheduler => {
                    verdict.refused.push(refused(None, RefusalKind::Permission, RefusalReason::OtherScheduler));
                }
                Some(_) if draft.stops.insert(*id) => verdict.stops.push(*id),
                _ => verdict.idle_stops.push(position),
            }
        }
    }

    fn judge_claim(
        &self,
        txn: &Transaction,
        at: (u32, u32),
        claim: Claim<'_>,
        draft: &mut Draft,
        verdict: &mut Verdict,
    ) {
        let Some(reason) = self.obstacle(txn, claim, draft) else {
            let job = &self.live.jobs[&claim.placement.job];
            let need = job.shape.groups[usize::from(claim.placement.group)].resources;
            draft.granted.push((at, claim.task_key(), claim.machine, need));
            if job.shape.same_machine && job.home.is_none() {
                draft.homes.entry(claim.placement.job).or_insert(claim.machine);
            }
            return;
        };
        let mut found = refused(Some(at), RefusalKind::Misfit, reason);
        self.explain(txn, claim, draft, &mut found);
        verdict.refused.push(found);
    }

    /// The group of a placement, as it is now: what a claim asks for does not depend on the picture.
    pub(crate) fn shape(&self, placement: &Placement) -> Option<&GroupShape> {
        self.live.jobs.get(&placement.job)?.shape.groups.get(usize::from(placement.group))
    }

    /// What stands in a claim's way now.
    fn obstacle(&self, txn: &Transaction, claim: Claim<'_>, draft: &Draft) -> Option<RefusalReason> {
        let live = &self.live;
        let placement = claim.placement;
        let Some(job) = live.jobs.get(&placement.job) else { return Some(RefusalReason::NoSuchJob) };
        if job.shape.scheduler != live.sessions[&txn.id.session].scheduler {
            return Some(RefusalReason::OtherScheduler);
        }
        if job.version != placement.job_version {
            return Some(RefusalReason::JobVersion);
        }
        let Some(shape) = job.shape.groups.get(usize::from(placement.group)) else {
            return Some(RefusalReason::NotWanted);
        };
        if placement.resources.is_some_and(|resources| resources != shape.resources) {
            return Some(RefusalReason::ResourcesDiffer);
        }
        if !placement.guards.iter().all(|guard| holds(live, guard)) {
            return Some(RefusalReason::GuardFailed);
        }
        if !live.wants(placement.job, placement.group, self.now) {
            return Some(RefusalReason::NotWanted);
        }
        if draft.granted.iter().any(|(_, task, ..)| *task == claim.task_key()) {
            return Some(RefusalReason::TaskTaken);
        }
        match live.task(placement.job, placement.group, claim.task).map(|task| task.state) {
            Some(TaskState::Waiting) => {}
            Some(TaskState::Live) => {
                let (id, _) = live.active(placement.job, placement.group, claim.task).unwrap();
                if !draft.stops.contains(&id) {
                    return Some(RefusalReason::TaskTaken);
                }
            }
            _ => return Some(RefusalReason::NotWanted),
        }
        if self.is_changed(txn, claim.machine) {
            return Some(RefusalReason::MachineChanged);
        }
        let machine_reasons = [
            RefusalReason::NoSuchMachine,
            RefusalReason::MachineNotReady,
            RefusalReason::Constraint,
            RefusalReason::OtherMachine,
            RefusalReason::NoRoom,
        ];
        machine_reasons.into_iter().find(|&reason| stands(live, claim, Some(shape), draft, reason))
    }

    /// A new machine or epoch since the base; or, with the check `sequence`, anything that somebody else did there.
    fn is_changed(&self, txn: &Transaction, slot: u32) -> bool {
        let base = txn.base.0;
        let Some(machine) = self.live.machines.get(&slot) else { return false };
        if machine.epoch_began.0 > base {
            return true;
        }
        if txn.check == ConflictCheck::Fit {
            return false;
        }
        // Where some of what came since is forgotten, nobody can tell that nothing happened.
        self.last_change(slot) > base && (base < self.floor() || self.change_by_others(txn, slot).is_some())
    }

    /// The newest grant to others there since the base, or change of the machine, as far as that is remembered.
    pub(crate) fn change_by_others(&self, txn: &Transaction, slot: u32) -> Option<&Change> {
        let by_others = |change: &&Change| match change.what {
            What::End => false,
            What::Machine => true,
            What::Grant(_, transaction) => transaction.session != txn.id.session,
        };
        let newer = self.remembered().iter().rev().take_while(|change| change.revision > txn.base.0);
        newer.filter(|change| change.machine == slot).find(by_others)
    }

    /// The last grant on a machine, or change of it.
    pub(crate) fn last_change(&self, slot: u32) -> u64 {
        let changes = self.changes.iter().filter(|change| change.machine == slot && change.what != What::End);
        changes.map(|change| change.revision).max().unwrap_or(0)
    }
}

fn all_claims(txn: &Transaction) -> impl Iterator<Item = (u32, u32)> {
    (0..)
        .zip(&txn.placements)
        .flat_map(|(number, placement)| (0..).zip(&placement.machines).map(move |(position, _)| (number, position)))
}

fn refused(claim: Option<(u32, u32)>, kind: RefusalKind, reason: RefusalReason) -> Refused {
    Refused {
        claim,
        kind,
        may_be_conflict: false,
        may_be_stale: false,
        reason,
        short: None,
        not_wanted: None,
        // A guard may name whoever made it fail.
        culprits: (kind != RefusalKind::Guard).then(Vec::new),
        total: 0,
    }
}

fn mate(claim: (u32, u32)) -> Refused {
    refused(Some(claim), RefusalKind::Mate, RefusalReason::MinimumMissed)
}

fn holds(picture: &Picture, guard: &Guard) -> bool {
    match guard {
        Guard::JobVersion { job, version } => picture.jobs.get(job).is_some_and(|job| job.version == *version),
        Guard::Attribute { machine, attribute, value } => {
            let found = picture.machines.get(&machine.slot).filter(|found| found.id == *machine);
            found.is_some_and(|found| found.attributes.get(attribute) == Some(value))
        }
    }
}

/// Whether this obstacle stood in a claim's way in a picture, given what the transaction has promised before. `shape` is that of the
/// claim's group as it is now.
pub(crate) fn stands(
    picture: &Picture,
    claim: Claim<'_>,
    shape: Option<&GroupShape>,
    draft: &Draft,
    reason: RefusalReason,
) -> bool {
    let placement = claim.placement;
    let machine = picture.machines.get(&claim.machine);
    let job = picture.jobs.get(&placement.job);
    match reason {
        RefusalReason::NoSuchJob => job.is_none(),
        RefusalReason::JobVersion => job.is_none_or(|job| job.version != placement.job_version),
        RefusalReason::NoSuchMachine => machine.is_none(),
        RefusalReason::MachineNotReady => machine.is_some_and(|machine| machine.state != MachineState::Ready),
        RefusalReason::Constraint => machine.is_some_and(|machine| {
            shape.is_some_and(|shape| !shape.constraints.iter().all(|rule| rule.holds(&machine.attributes)))
        }),
        RefusalReason::OtherMachine => {
            let home = job.filter(|job| job.shape.same_machine).and_then(|job| job.home);
            home.or_else(|| draft.homes.get(&placement.job).copied()).is_some_and(|home| home != claim.machine)
        }
        RefusalReason::NoRoom => {
            shape.is_some_and(|shape| short(&draft.room(picture, claim.machine), &shape.resources).is_some())
        }
        other => panic!("{other:?} is judged elsewhere"),
    }
}
