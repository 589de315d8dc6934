//! Resolving transactions: which claims the cell can grant, which it refuses, and why. Changes nothing but scratch.

pub(crate) mod claims;
mod class_sets;
pub(crate) mod freed;
pub(crate) mod preempt;
pub(crate) mod promised;
pub(crate) mod rules;
mod specials;

use std::cell::RefCell;
use std::collections::BTreeSet;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    AlikeAmounts, AllocationId, AllocationRow, Cell, Delta, GrantExtra, GroupCounts, GroupRow, GroupShape, Guard,
    JobId, Placement, Refusal, RefusalKind, RefusalReason, Resources, STEPS_AHEAD, Transaction, coming,
};

use crate::blame::grounds::Grounds;
use crate::blame::hindsight::Hindsight;
use crate::blame::newcomers::Newcomers;
use crate::blame::{About, Facts, Guarded, Judge, Trouble};
use crate::derived::slots::NextRows;
use crate::derived::spare::Spare;
use claims::{InHand, Seen};
use freed::Freed;
use preempt::Remains;
use promised::Promised;
use rules::Rules;
use specials::Mark;

/// What a transaction gets. Only `resolve` makes one, so that nobody can be handed claims that were not judged.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    /// By placement, what was granted, in the order of its claims.
    pub(crate) granted: Vec<Vec<Granted>>,
    pub(crate) refusals: Vec<Refusal>,
    /// Slots of allocations to stop.
    pub(crate) stops: Vec<u32>,
    pub(crate) idle_stops: Vec<u32>,
    /// Slots of allocations to evict, each with the position of the placement that it goes for.
    pub(crate) victims: Vec<(u32, u32)>,
    /// Positions in `refusals` of misfits that could have been seen at the base.
    pub(crate) divergences: Vec<u32>,
    /// A claim went to one of its spare machines, whatever became of its placement then.
    pub(crate) went_elsewhere: bool,
    /// No effect at all, by `atomic` or by a guard.
    pub(crate) refused: bool,
}

/// What there is before a placement that could miss its minimum.
struct Standing {
    homes: usize,
    attempts: usize,
    specials: Mark,
}

/// A claim that is granted.
#[derive(Debug)]
pub(crate) struct Granted {
    /// Its position in the placement.
    pub(crate) claim: u32,
    /// Where: the claim's machine, or an alternate.
    pub(crate) machine: u32,
    /// What it has beyond room; its claim is not set yet.
    pub(crate) extra: Option<Box<GrantExtra>>,
}

/// A transaction that is being resolved: the cell and the grounds that it is judged by, and scratch.
pub(crate) struct Resolver<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) grounds: Grounds<'a>,
    pub(crate) hindsight: Hindsight<'a>,
    pub(crate) newcomers: &'a RefCell<Newcomers>,
    pub(crate) rules: &'a mut Rules,
    pub(crate) promised: &'a mut Promised,
    pub(crate) remains: Remains,
    /// Forgotten whenever a hold ends.
    pub(crate) freed: Freed,
    pub(crate) spare: &'a mut Spare,
    /// Rows that the next grants fill.
    pub(crate) next_rows: NextRows<'a>,
    pub(crate) in_hand: InHand,
}

impl<'a> Resolver<'a> {
    /// Decides which claims and stops the cell can grant.
    pub(crate) fn resolve(mut self, txn: &Transaction) -> Resolution {
        let mut resolution = Resolution {
            granted: Vec::with_capacity(txn.placements.len()),
            stops: Vec::with_capacity(txn.stops.len()),
            ..Resolution::default()
        };
        self.promised.begin(txn.claims());
        self.newcomers.borrow_mut().clear();
        let failed = txn.guards.iter().find_map(|guard| self.failed_guard(guard, txn.base));
        if let Some(trouble) = failed {
            self.refuse_whole(txn, trouble, &mut resolution);
            return resolution;
        }
        self.note_placed(txn);
        // Before anything is tried that could be taken back: what is counted for the first time must not depend on who tried. And
        // before the stops, each of which is then taken off the one group that it is of.
        for placement in &txn.placements {
            self.count_group_of(placement);
        }
        self.resolve_stops(txn, &mut resolution);
        let twice = places_a_group_twice(txn);
        let mut seen = Seen::new();
        let mut missed = false;
        for (number, placement) in (0..).zip(&txn.placements) {
            let least = self.least(placement) as usize;
            let mark = self.promised.specials.mark();
            // Without a minimum there is nothing to be undone.
            let before = (least > 0).then(|| self.standing());
            let granted = self.resolve_placement(txn, number, placement, twice.then_some(&mut seen), &mut resolution);
            let missing = before.filter(|_| granted.len() < least && !planted::is(Bug::ForgetsMinimums));
            if let Some(before) = missing {
                self.undo(number, placement, &granted, before.homes, &mut resolution);
                self.go_back(placement, &granted, before);
                for granted in &granted {
                    let task = placement.tasks[granted.claim as usize];
                    seen.remove(&(placement.job.slot, placement.group, task));
                }
                resolution.granted.push(Vec::new());
                missed = true;
            } else {
                let victims = self.promised.specials.victims_since(mark);
                resolution.victims.extend(victims.iter().map(|&victim| (victim, number)));
                if !granted.is_empty() {
                    self.end_hold(placement.job);
                    self.note_come(placement, granted.len());
                }
                resolution.granted.push(granted);
            }
        }
        if missed && txn.atomic {
            plenum_model::rare!("an atomic transaction is undone");
            self.undo_all(txn, &mut resolution);
        }
        // What takes effect is counted again with its delta.
        self.rules.take_back(self.cell, 0);
        resolution.refusals.sort_by_key(|refusal| refusal.claim);
        self.find_divergences(txn, &seen, &mut resolution);
        resolution
    }

    /// A job was granted tasks: what it held room for is there, and what it held is free for the placements that follow.
    fn end_hold(&mut self, job: JobId) {
        let Some(hold) = self.cell.hold(job) else { return };
        if !self.promised.end_hold(job.slot) {
            return;
        }
        self.freed.forget();
        if let Some(place) = self.grounds.quotas.place_of(job.slot) {
            let machines = i64::try_from(hold.machines.len()).expect("machines have 32-bit numbers");
            self.promised.given_back(place).add_times(&hold.resources, machines);
        }
    }

    fn standing(&self) -> Standing {
        let (homes, attempts) = (self.promised.homes_count(), self.rules.attempts());
        Standing { homes, attempts, specials: self.promised.specials.mark() }
    }

    /// Makes of what a placement was promised what there was before it.
    fn go_back(&mut self, placement: &Placement, granted: &[Granted], before: Standing) {
        let (need, taken) = (self.need(placement), i64::try_from(granted.len()).expect("bounded by CLAIMS_MAX"));
        if let Some(place) = self.grounds.quotas.place_of(placement.job.slot) {
            self.promised.given_back(place).add_times(&need, taken);
        }
        let rows = self.cell.allocation_rows();
        let victims = self.promised.specials.victims_since(before.specials).iter();
        let gave: Vec<_> = victims
            .filter_map(|&victim| rows.get(victim))
            .map(|row| (row.job_slot, row.shape, row.group_row))
            .collect();
        for (job_slot, shape, group_row) in gave {
            self.give_back_of(job_slot, shape, -1);
            self.promised.come(group_row, 1);
        }
        self.remains.forget(self.promised.specials.givers_since(before.specials));
        self.promised.specials.go_back(before.specials);
        self.rules.take_back(self.cell, before.attempts);
        self.newcomers.borrow_mut().take_back(before.attempts);
    }

    /// The fewest claims of a placement that may be granted: what it asks for, and what its group declares as long as fewer of its
    /// tasks are there, by what this transaction decided so far.
    fn least(&self, placement: &Placement) -> u32 {
        if !self.promised.places_gangs() {
            return placement.min;
        }
        // Without what was decided so far, a gang that is stopped here would start anew with a part of it.
        let declared = self
            .gang(placement)
            .map_or(0, |(group_row, shape, row)| shape.least_beside(row, self.promised.there(group_row)));
        placement.min.max(declared)
    }

    /// The group of a placement, with its row, where it declares a minimum.
    #[inline]
    fn gang(&self, placement: &Placement) -> Option<(u32, &'a GroupShape, &'a GroupRow)> {
        let job = self.cell.job(placement.job)?;
        let shape = job.shape.groups.get(usize::from(placement.group)).filter(|shape| shape.min > 0)?;
        Some((job.group_row(placement.group)?, shape, self.cell.group(job, placement.group)?))
    }

    /// A placement was granted so many claims: its group has as many tasks more.
    fn note_come(&mut self, placement: &Placement, granted: usize) {
        if self.promised.places_gangs()
            && let Some((group_row, ..)) = self.gang(placement)
        {
            self.promised.come(group_row, u32::try_from(granted).expect("bounded by CLAIMS_MAX"));
        }
    }

    pub(crate) fn judge(&self, txn: &Transaction) -> Judge<'a, '_> {
        Judge {
            cell: self.cell,
            grounds: &self.grounds,
            hindsight: &self.hindsight,
            newcomers: self.newcomers,
            base: txn.base,
        }
    }

    /// Misfits of a scheduler that had seen the last change of everything it claims on, as [`plenum_model::Outcome::divergences`] counts them: what others
    /// have or leave may stand in the way of claims behind a lost one, and a claim that was refused otherwise leaves only more to those behind it, unless
    /// it [is missed](Self::is_missed). What [was never so](Self::was_never_so) counts whatever changed since. A task that stands in several placements is
    /// meant to be refused in those behind the one that it was `placed` in.
    fn find_divergences(&self, txn: &Transaction, placed: &Seen, resolution: &mut Resolution) {
        if resolution.refusals.is_empty() || resolution.went_elsewhere {
            return;
        }
        let unchanged = |refusal: &Refusal| {
            let machine = self.cell.machine_row(refusal.machine).map(|row| row.last_change);
            machine.is_none_or(|last| last <= txn.base) && self.grounds.job_events.newest(refusal.job.slot) <= txn.base
        };
        let another_way = |refusal: &Refusal| {
            let key = (refusal.job.slot, refusal.group, refusal.task);
            refusal.reason == RefusalReason::TaskTaken && placed.contains(&key)
        };
        let seen = |refusal: &Refusal| (self.was_never_so(refusal) || unchanged(refusal)) && !another_way(refusal);
        let mut by_others = false;
        for (position, refusal) in (0..).zip(&resolution.refusals) {
            if refusal.kind == RefusalKind::Misfit && seen(refusal) {
                resolution.divergences.push(position);
            }
            // A stop is refused to whom the allocation never belonged.
            let is_own = refusal.claim.is_none() || matches!(refusal.kind, RefusalKind::Misfit | RefusalKind::Mate);
            by_others |= !is_own;
            if by_others && self.is_missed(txn, refusal) {
                break;
            }
        }
    }

    /// Whether what others did since the base can't have made a misfit of a claim: a job or a version that is gone does not come back, whoever gets
    /// the slot next, and a transaction that names two machines for a job that has none chose both of them itself.
    fn was_never_so(&self, misfit: &Refusal) -> bool {
        match misfit.reason {
            RefusalReason::NoSuchJob | RefusalReason::JobVersion => true,
            RefusalReason::OtherMachine => self.cell.job(misfit.job).is_some_and(|job| job.home.is_none()),
            _ => false,
        }
    }

    /// Whether claims behind a refused one may lack what would have come of it. Of a job that is another one by now nobody can tell.
    fn is_missed(&self, txn: &Transaction, refusal: &Refusal) -> bool {
        if matches!(refusal.kind, RefusalKind::Conflict | RefusalKind::Stale) {
            return true;
        }
        let Some(placement) = refusal.claim.and_then(|(number, _)| txn.placements.get(number as usize)) else {
            return false;
        };
        let job = self.cell.job(placement.job).filter(|job| job.version == placement.job_version);
        let shape = job.and_then(|job| job.shape.groups.get(usize::from(placement.group)));
        let (Some(job), Some(shape)) = (job, shape) else { return true };
        let chooses = !(shape.devices.is_empty() && shape.ports.is_empty());
        chooses || job.shape.same_machine || !placement.preemptions.is_empty() || self.cell.hold(job.id).is_some()
    }

    fn refuse_whole(&self, txn: &Transaction, trouble: Trouble, resolution: &mut Resolution) {
        let facts = self.judge(txn).facts(trouble, &About::default());
        resolution.refusals.push(refusal(None, &Placement::default(), facts));
        for (number, placement) in (0..).zip(&txn.placements) {
            for claim in claims_of(placement) {
                let facts = Facts::plain(RefusalKind::Guard, RefusalReason::GuardFailed);
                resolution.refusals.push(refusal(Some((number, claim)), placement, facts));
            }
        }
        resolution.granted = txn.placements.iter().map(|_| Vec::new()).collect();
        resolution.refused = true;
    }

    pub(crate) fn failed_guard(&self, guard: &Guard, base: plenum_model::Revision) -> Option<Trouble> {
        let guarded = match guard {
            Guard::JobVersion { job, version } => {
                let holds = self.cell.job(*job).is_some_and(|found| found.version == *version);
                (!holds).then_some(Guarded::Version(*job))
            }
            Guard::Attribute { machine, attribute, value } => match self.cell.machine(*machine) {
                None => Some(Guarded::Gone(*machine)),
                Some(found) if found.attributes.get(attribute) == Some(value) => None,
                Some(_) => {
                    let changed = self.grounds.retagged.since(self.cell, machine.slot, attribute, base);
                    Some(Guarded::Attribute(machine.slot, changed))
                }
            },
        };
        guarded.filter(|_| !planted::is(Bug::OverlooksGuards)).map(Trouble::Guard)
    }

    fn resolve_stops(&mut self, txn: &Transaction, resolution: &mut Resolution) {
        let mut alike = AlikeAmounts::default();
        for (position, &id) in (0..).zip(&txn.stops) {
            let next = coming(&txn.stops, position as usize, 2 * STEPS_AHEAD).iter().map(|id| id.slot);
            self.cell.warm(next.clone());
            self.promised.warm_stops(next);
            self.cell.warm_tasks(coming(&txn.stops, position as usize, STEPS_AHEAD).iter().map(|id| id.slot));
            let row = self.cell.allocation_rows().get(id.slot).filter(|row| row.generation == id.generation);
            let Some(row) = row.filter(|_| self.cell.is_active(id.slot)) else {
                resolution.idle_stops.push(position);
                continue;
            };
            // A live allocation is of the scheduler whose job it is: a job changes hands only when nothing of it is left.
            if row.scheduler != self.grounds.scheduler {
                let facts = Facts::plain(RefusalKind::Permission, RefusalReason::OtherScheduler);
                let about = Placement { job: row.job(), group: row.group, ..Placement::default() };
                let mut refused = refusal(None, &about, facts);
                (refused.task, refused.machine) = (row.task, row.machine);
                resolution.refusals.push(refused);
            } else if self.promised.stop(id.slot) {
                resolution.stops.push(id.slot);
                self.count_off(row);
                if let Some(place) = self.grounds.quotas.place_of(row.job_slot)
                    && let Some(whole) = alike.add(place, row.shape)
                {
                    self.give_back(whole);
                }
            } else {
                resolution.idle_stops.push(position);
            }
        }
        self.give_back(alike);
    }

    /// Somebody leaves with this transaction: its group has a task less, and its namespace room to claim.
    pub(crate) fn note_left(&mut self, row: &AllocationRow) {
        self.count_off(row);
        self.give_back_of(row.job_slot, row.shape, 1);
    }

    #[inline]
    fn count_off(&mut self, row: &AllocationRow) {
        // Nobody looks at what others than the groups of its placements have, while a transaction is resolved.
        if self.promised.places(row.group_row) {
            self.promised.leave(row.group_row);
            if self.rules.counts(row.group_row).is_some() {
                self.rules.attempt(self.cell, row.group_row, row.machine, -1);
            }
        }
    }

    /// So many that were of one job and shape leave; they stay after all where negative.
    fn give_back_of(&mut self, job_slot: u32, shape: u32, times: i64) {
        if let Some(place) = self.grounds.quotas.place_of(job_slot) {
            self.give_back(AlikeAmounts { place, shape, times });
        }
    }

    fn give_back(&mut self, alike: AlikeAmounts) {
        if alike.times != 0
            && let Some(shape) = self.cell.shapes().get(alike.shape as usize)
        {
            self.promised.given_back(alike.place).add_times(shape, alike.times);
        }
    }

    fn note_placed(&mut self, txn: &Transaction) {
        for placement in &txn.placements {
            let row = self.cell.job(placement.job).and_then(|job| job.group_row(placement.group));
            row.into_iter().for_each(|row| self.promised.place(row));
            if let Some((group_row, _, row)) = self.gang(placement) {
                self.promised.place_gang(group_row, row.tasks_there());
            }
        }
    }

    fn count_group_of(&mut self, placement: &Placement) {
        let cell = self.cell;
        let Some(job) = cell.job(placement.job) else { return };
        let shape = job.shape.groups.get(usize::from(placement.group));
        if shape.is_some_and(GroupCounts::are_needed_by) {
            self.rules.count(cell, job, placement.group);
        }
    }

    /// A placement missed its minimum: what it was granted is taken back, and refused as mates.
    /// Of the homes that jobs were promised, the first `homes` stay.
    fn undo(
        &mut self,
        number: u32,
        placement: &Placement,
        granted: &[Granted],
        homes: usize,
        resolution: &mut Resolution,
    ) {
        let need = self.need(placement);
        for granted in granted {
            self.promised.remove(granted.machine, &granted.net(&need));
            let facts = Facts::plain(RefusalKind::Mate, RefusalReason::MinimumMissed);
            resolution.refusals.push(refusal(Some((number, granted.claim)), placement, facts));
        }
        self.promised.keep_homes(homes);
    }

    fn undo_all(&mut self, txn: &Transaction, resolution: &mut Resolution) {
        let granted = std::mem::take(&mut resolution.granted);
        for ((number, placement), granted) in (0..).zip(&txn.placements).zip(&granted) {
            self.undo(number, placement, granted, 0, resolution);
        }
        resolution.granted = txn.placements.iter().map(|_| Vec::new()).collect();
        resolution.victims.clear();
        if !planted::is(Bug::ForgetsAtomic) {
            resolution.stops.clear();
            resolution.refused = true;
        }
    }

    fn need(&self, placement: &Placement) -> Resources {
        let job = self.cell.job(placement.job);
        let group = job.and_then(|job| job.shape.groups.get(usize::from(placement.group)));
        group.map(|group| group.resources).unwrap_or_default()
    }
}

impl Granted {
    /// What it takes of free room: its need, without what it takes over.
    pub(crate) fn net(&self, need: &Resources) -> Resources {
        let entries = self.extra.iter().flat_map(|extra| &extra.takes_over);
        entries.fold(*need, |left, entry| left.without(&entry.amount))
    }
}

/// Whether a task could be claimed twice: two placements of one group, or one whose tasks do not rise.
fn places_a_group_twice(txn: &Transaction) -> bool {
    let mut groups = BTreeSet::new();
    let rises = |placement: &Placement| placement.tasks.is_sorted_by(|left, right| left < right);
    if let [only] = &txn.placements[..] {
        return !rises(only);
    }
    txn.placements.iter().any(|placement| !groups.insert((placement.job, placement.group)) || !rises(placement))
}

pub(crate) fn claims_of(placement: &Placement) -> std::ops::Range<u32> {
    0..u32::try_from(placement.machines.len()).expect("bounded by CLAIMS_MAX")
}

pub(crate) fn refusal(claim: Option<(u32, u32)>, placement: &Placement, facts: Facts) -> Refusal {
    let column =
        |values: &[u32], other: u32| claim.and_then(|(_, claim)| values.get(claim as usize).copied()).unwrap_or(other);
    Refusal {
        kind: facts.kind,
        reason: facts.reason,
        claim,
        job: placement.job,
        group: placement.group,
        task: column(&placement.tasks, 0),
        machine: column(&placement.machines, u32::MAX),
        short: facts.short,
        short_device: facts.short_device,
        port: facts.port,
        not_wanted: facts.not_wanted,
        culprits: facts.culprits,
        culprits_total: facts.total,
    }
}

/// Ids of what a placement was granted, in the order of its claims, in an empty vector.
pub(crate) fn granted_ids(
    placement: &Placement,
    granted: &[Granted],
    delta: &Delta,
    grants: usize,
    mut ids: Vec<Option<AllocationId>>,
) -> Vec<Option<AllocationId>> {
    ids.resize(placement.machines.len(), None);
    if let Some(columns) = delta.grants.get(grants).filter(|_| !granted.is_empty()) {
        for (position, granted) in granted.iter().enumerate() {
            let id = AllocationId { slot: columns.slots[position], generation: columns.generations[position] };
            ids[granted.claim as usize] = Some(id);
        }
    }
    ids
}
