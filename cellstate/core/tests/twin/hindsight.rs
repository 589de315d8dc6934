//! Of which kind a refusal is, and who came between: looked up in the pictures that there were since the base.

use plenum_model::{AllocationId, NotWanted, RefusalKind, RefusalReason, Resource, Transaction, TransactionId};

use crate::picture::{Allocation, Picture, short};
use crate::twin::{Change, Twin, What};
use crate::verdict::{Claim, Draft, Refused, stands};

/// Culprits that a refusal lists.
const CULPRITS_LISTED: usize = 4;

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blamed {
    pub(crate) revision: u64,
    /// Which allocation, and the transaction that it came with; `None`: something else happened.
    pub(crate) grant: Option<(AllocationId, TransactionId)>,
    /// How much it took of what is short.
    pub(crate) amount: u64,
}

impl Blamed {
    fn event(revision: u64) -> Self {
        Self { revision, grant: None, amount: 0 }
    }

    fn allocation(id: AllocationId, found: &Allocation, amount: u64) -> Self {
        let transaction = TransactionId { session: found.session, number: found.number };
        Self { revision: found.created, grant: Some((id, transaction)), amount }
    }
}

impl Refused {
    /// What stands in the way came at this revision: it is a conflict. Else it stood there at the base, or that is forgotten.
    fn came(&mut self, culprit: Option<Blamed>, is_forgotten: bool) {
        self.kind = match culprit {
            Some(_) => RefusalKind::Conflict,
            None if is_forgotten => RefusalKind::Stale,
            None => RefusalKind::Misfit,
        };
        self.culprits = Some(culprit.into_iter().collect());
    }
}

impl Twin {
    /// One rule: an obstacle that arose after the base makes a conflict with what made it, one that was there already a misfit; and where nobody
    /// can tell, the base is stale.
    pub(crate) fn explain(&self, txn: &Transaction, claim: Claim<'_>, draft: &Draft, found: &mut Refused) {
        let (base, reason) = (txn.base.0, found.reason);
        let stood = |picture: &Picture| stands(picture, claim, self.shape(claim.placement), draft, reason);
        let opened = base.max(self.opened);
        match reason {
            RefusalReason::OtherScheduler => found.kind = RefusalKind::Permission,
            // Whom a guard names the twin does not foresee.
            RefusalReason::GuardFailed => (found.kind, found.culprits) = (RefusalKind::Guard, None),
            RefusalReason::ResourcesDiffer => found.kind = RefusalKind::Misfit,
            RefusalReason::NotWanted => self.not_wanted(base, claim, found),
            RefusalReason::TaskTaken => self.task_taken(base, claim, draft, found),
            RefusalReason::MachineChanged => self.machine_changed(txn, claim.machine, found),
            RefusalReason::NoRoom => self.no_room(base, claim, draft, found),
            RefusalReason::NoSuchMachine | RefusalReason::MachineNotReady => {
                self.takes_nothing(base, claim.machine, stood, found);
            }
            // An earlier claim of the transaction chose another machine.
            RefusalReason::OtherMachine if self.live.jobs[&claim.placement.job].home.is_none() => {
                found.came(None, false);
            }
            RefusalReason::Constraint | RefusalReason::OtherMachine => {
                found.came(self.arose(opened, stood).map(Blamed::event), base < self.opened);
            }
            RefusalReason::NoSuchJob | RefusalReason::JobVersion => {
                found.came(self.arose(opened, stood).map(Blamed::event), base < self.opened);
                // Of those that ended since the server opened only the last one is known to who asks about the time before.
                found.may_be_stale = base < self.opened;
            }
            other => panic!("{other:?} is no reason of these stories"),
        }
    }

    /// The newest revision above this one that made something stand in the way that did not stand there before; `None`: it stood there all the
    /// time.
    fn arose(&self, since: u64, stood: impl Fn(&Picture) -> bool) -> Option<u64> {
        let newest = self.history[index(since)..].windows(2).rposition(|pair| !stood(&pair[0]) && stood(&pair[1]))?;
        Some(since + 1 + newest as u64)
    }

    /// Something of a job that may stand in the way of claims changed after the base, and since the server opened.
    fn job_changed_since(&self, slot: u32, base: u64) -> bool {
        let known = base.max(self.opened);
        self.job_events.iter().any(|&(revision, job)| job == slot && revision > known)
    }

    /// Each cause by itself: one that arose after the base is new, whatever else had kept the task from being placed then. And all of a job is
    /// new that was submitted after it.
    fn not_wanted(&self, base: u64, claim: Claim<'_>, found: &mut Refused) {
        let (id, group) = (claim.placement.job, claim.placement.group);
        let job = &self.live.jobs[&id];
        let why = job.not_wanted(group, claim.task, self.now).expect("it is not wanted");
        found.not_wanted = Some(why);
        if why == NotWanted::NoSuchGroup {
            // A job version has the same groups for ever.
            return found.came(None, false);
        }
        let opened = base.max(self.opened);
        let of_version = |picture: &Picture| picture.jobs.get(&id).is_some_and(|found| found.version == job.version);
        let kept = |picture: &Picture, why: NotWanted| {
            of_version(picture) && picture.jobs[&id].is_kept(group, claim.task, why, self.now)
        };
        let arose = |why: NotWanted| self.arose(opened, |picture| kept(picture, why));
        if base < self.opened {
            // Of the time before the groups and tasks are known one by one, whatever happened to others of the job counts.
            found.came(arose(why).map(Blamed::event), true);
            found.may_be_conflict = self.job_changed_since(id.slot, base);
            if found.kind == RefusalKind::Conflict {
                found.culprits = None;
            }
            return;
        }
        let submitted = self.arose(opened, of_version);
        let cause = match why {
            // Each group that is not done kept it.
            NotWanted::After(_) => {
                let before = job.shape.groups[usize::from(group)].after.iter().filter(|&&before| !job.is_done(before));
                let arose = before.map(|&before| arose(NotWanted::After(before))).collect::<Option<Vec<u64>>>();
                arose.filter(|arose| arose.iter().all(|&revision| Some(revision) != submitted)).map(|arose| arose[0])
            }
            why => arose(why),
        };
        found.came(cause.or(submitted).map(Blamed::event), false);
    }

    fn task_taken(&self, base: u64, claim: Claim<'_>, draft: &Draft, found: &mut Refused) {
        let is_own = draft.granted.iter().any(|(_, task, ..)| *task == claim.task_key());
        let taken = self.live.active(claim.placement.job, claim.placement.group, claim.task);
        let newer = taken.filter(|(_, taken)| !is_own && taken.created > base);
        found.came(newer.map(|(id, taken)| Blamed::allocation(id, taken, 0)), false);
    }

    fn machine_changed(&self, txn: &Transaction, machine: u32, found: &mut Refused) {
        let began = self.live.machines[&machine].epoch_began.0;
        let culprit = if began > txn.base.0 {
            Some(Blamed::event(began))
        } else {
            self.change_by_others(txn, machine).map(|change| match change.what {
                What::Grant(id, transaction) => {
                    Blamed { grant: Some((id, transaction)), ..Blamed::event(change.revision) }
                }
                What::End | What::Machine => Blamed::event(change.revision),
            })
        };
        found.came(culprit, true);
    }

    /// What the machine was like before its oldest change since the base that is remembered tells the kind; to blame is what made it what it is
    /// now.
    fn takes_nothing(&self, base: u64, machine: u32, stood: impl Fn(&Picture) -> bool, found: &mut Refused) {
        let is_its_own = |change: &&Change| change.machine == machine && change.what == What::Machine;
        let first = self.remembered().iter().filter(is_its_own).find(|change| change.revision > base);
        let stood = first.is_none_or(|first| stood(&self.history[index(first.revision) - 1]));
        let state = |picture: &Picture| picture.machines.get(&machine).map(|found| found.state);
        let is_so = |picture: &Picture| state(picture) == state(&self.live);
        let arose = self.arose(base.max(self.opened), is_so).filter(|_| !stood);
        found.came(arose.map(Blamed::event), base < self.floor());
    }

    fn no_room(&self, base: u64, claim: Claim<'_>, draft: &Draft, found: &mut Refused) {
        let need = self.shape(claim.placement).expect("it wants room for its group").resources;
        let short_of = |picture: &Picture| short(&draft.room(picture, claim.machine), &need);
        found.short = short_of(&self.live);
        // Of a number of resources that a change has, others may have got it since.
        found.may_be_stale = self.ring_is_small();
        let (resource, short_by) = found.short.expect("it lacks room");
        if base < self.floor() {
            return found.came(None, true);
        }
        if short_of(&self.history[index(base)]).is_some() {
            return found.came(None, false);
        }
        let mut newest = Vec::new();
        for taker in self.takers(claim.machine, base, resource) {
            if found.total >= short_by {
                break;
            }
            found.total += taker.amount;
            newest.push(taker);
        }
        newest.truncate(CULPRITS_LISTED);
        (found.kind, found.culprits) = (RefusalKind::Conflict, Some(newest));
    }

    /// Who took some of a resource of a machine since the base, newest first: live allocations, and the machine itself, as far as it shrank and did
    /// not grow again.
    fn takers(&self, machine: u32, base: u64, resource: Resource) -> Vec<Blamed> {
        let live = self.live.allocations.iter().filter(|(_, found)| found.machine == machine && found.created > base);
        let mut takers: Vec<(u64, Blamed)> = live
            .map(|(&id, found)| (found.order, Blamed::allocation(id, found, found.resources.get(resource))))
            .collect();
        let mut given = 0;
        let newer = self.shrunk.iter().rev().filter(|(revision, at, _)| *at == machine && *revision > base);
        for (revision, _, grown) in newer {
            let grown = grown.get(resource);
            let shrunk = if grown < 0 { grown.unsigned_abs() } else { 0 };
            takers.push((0, Blamed { amount: shrunk.saturating_sub(given), ..Blamed::event(*revision) }));
            given = (given + u64::try_from(grown).unwrap_or(0)).saturating_sub(shrunk);
        }
        takers.retain(|(_, taker)| taker.amount > 0);
        takers.sort_by_key(|(order, taker)| std::cmp::Reverse((taker.revision, *order)));
        takers.into_iter().map(|(_, taker)| taker).collect()
    }

    /// Positions of misfits that could have been seen at the base: neither their machine nor their job has changed since, or nobody's change could
    /// make them fit or not. None behind a claim that was refused for what others did, or that a guard or its scheduler's name kept from choosing a
    /// machine to share. Nor is a task one that an earlier placement was granted, though it then lost that with all the others.
    pub(crate) fn divergences(&self, txn: &Transaction, all: &[Refused]) -> Vec<u32> {
        let base = txn.base.0;
        let is_seen = |reason: RefusalReason, (placement, claim): (u32, u32)| {
            if reason == RefusalReason::TaskTaken && is_another_way(txn, all, (placement, claim)) {
                return false;
            }
            let placement = &txn.placements[placement as usize];
            match reason {
                RefusalReason::NoSuchJob | RefusalReason::JobVersion => return true,
                RefusalReason::OtherMachine if self.live.jobs[&placement.job].home.is_none() => return true,
                _ => {}
            }
            let machine = placement.machines[claim as usize];
            let is_same = !self.live.machines.contains_key(&machine) || self.last_change(machine) <= base;
            is_same && !self.job_changed_since(placement.job.slot, base)
        };
        let (mut divergences, mut by_others) = (Vec::new(), false);
        for (position, refused) in (0..).zip(all) {
            let is_misfit = refused.kind == RefusalKind::Misfit;
            if is_misfit && refused.claim.is_some_and(|claim| is_seen(refused.reason, claim)) {
                divergences.push(position);
            }
            // Whoever stops what is not its own knew that.
            let Some((placement, _)) = refused.claim else { continue };
            by_others |= !(is_misfit || refused.kind == RefusalKind::Mate);
            let placement = &txn.placements[placement as usize];
            let job = self.live.jobs.get(&placement.job).filter(|job| job.version == placement.job_version);
            let is_known = job.is_some_and(|job| usize::from(placement.group) < job.shape.groups.len());
            let is_lost = matches!(refused.kind, RefusalKind::Conflict | RefusalKind::Stale);
            if by_others && (is_lost || !is_known || job.is_some_and(|job| job.shape.same_machine)) {
                break;
            }
        }
        divergences
    }
}

/// Whether an earlier placement was granted the task of this claim, though it may have lost that with all the others.
fn is_another_way(txn: &Transaction, refused: &[Refused], (placement, claim): (u32, u32)) -> bool {
    let this = &txn.placements[placement as usize];
    let task = this.tasks[claim as usize];
    let is_out = |at| refused.iter().any(|found| found.claim == Some(at) && found.kind != RefusalKind::Mate);
    (0..placement).zip(&txn.placements).any(|(number, other)| {
        let is_of_group = (other.job, other.group) == (this.job, this.group);
        is_of_group && (0..).zip(&other.tasks).any(|(at, &found)| found == task && !is_out((number, at)))
    })
}

fn index(revision: u64) -> usize {
    usize::try_from(revision).unwrap()
}
