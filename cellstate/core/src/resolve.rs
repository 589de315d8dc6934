//! Resolving transactions: which claims the cell can grant, which it refuses, and why. Changes nothing but scratch.

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    AllocationId, Cell, ClassSet, ConflictCheck, Delta, GroupRow, Guard, Job, LogTime, Obstacle, Placement, Refusal,
    RefusalKind, RefusalReason, Requirement, Resources, Session, TaskState, Transaction, group_is_wanted,
    task_is_wanted,
};

use crate::job_events::JobEvents;
use crate::promised::Promised;
use crate::ring::Ring;
use crate::room::{Facts, Judge, Trouble};
use crate::rules::Rules;

/// What a transaction gets. Only `resolve` makes one, so that nobody can be handed claims that were not judged.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    /// By placement, the positions of granted claims.
    pub(crate) granted: Vec<Vec<u32>>,
    pub(crate) refusals: Vec<Refusal>,
    /// Slots of allocations to stop.
    pub(crate) stops: Vec<u32>,
    pub(crate) idle_stops: Vec<u32>,
    /// No effect at all, by `atomic` or by a guard.
    pub(crate) refused: bool,
}

/// What resolving looks at.
pub(crate) struct Resolver<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) ring: &'a Ring,
    pub(crate) rules: &'a mut Rules,
    pub(crate) promised: &'a mut Promised,
    pub(crate) job_events: &'a JobEvents,
    pub(crate) epochs_began: &'a [u64],
    pub(crate) opened: plenum_model::Revision,
    pub(crate) session: &'a Arc<Session>,
    pub(crate) now: LogTime,
}

/// What the claims of one placement share.
struct Terms<'a> {
    job: &'a Arc<Job>,
    group: &'a GroupRow,
    need: Resources,
    /// Classes of machines that satisfy the group's constraints, where it has some.
    classes: Option<ClassSet>,
}

impl Resolver<'_> {
    /// Decides which claims and stops the cell can grant.
    pub(crate) fn resolve(mut self, txn: &Transaction) -> Resolution {
        let mut resolution = Resolution::default();
        self.promised.begin();
        let failed = txn.guards.iter().find_map(|guard| self.failed_guard(guard));
        if let Some(trouble) = failed {
            self.refuse_whole(txn, trouble, &mut resolution);
            return resolution;
        }
        self.resolve_stops(txn, &mut resolution);
        let twice = places_a_group_twice(txn);
        let mut seen = BTreeSet::new();
        let mut missed = false;
        for (number, placement) in (0..).zip(&txn.placements) {
            let homes = self.promised.homes_count();
            let granted = self.resolve_placement(txn, number, placement, twice, &mut seen, &mut resolution);
            let enough = granted.len() >= placement.min as usize || planted::is(Bug::ForgetsMinimums);
            if enough {
                resolution.granted.push(granted);
            } else {
                self.undo(number, placement, &granted, homes, &mut resolution);
                for &claim in &granted {
                    seen.remove(&(placement.job.slot, placement.group, placement.tasks[claim as usize]));
                }
                resolution.granted.push(Vec::new());
                missed = true;
            }
        }
        if missed && txn.atomic {
            plenum_model::rare!("an atomic transaction is undone");
            self.undo_all(txn, &mut resolution);
        }
        resolution.refusals.sort_by_key(|refusal| refusal.claim);
        resolution
    }

    fn judge(&self, txn: &Transaction) -> Judge<'_> {
        Judge { cell: self.cell, ring: self.ring, job_events: self.job_events, base: txn.base, opened: self.opened }
    }

    fn refuse_whole(&self, txn: &Transaction, trouble: Trouble, resolution: &mut Resolution) {
        let nothing = Resources::default();
        let facts = self.judge(txn).facts(trouble, u32::MAX, u32::MAX, &nothing, &nothing);
        resolution.refusals.push(refusal(None, &Placement::default(), facts));
        for (number, placement) in (0..).zip(&txn.placements) {
            for claim in claims_of(placement) {
                let facts = Facts::plain(RefusalKind::Guard, RefusalReason::GuardFailed);
                resolution.refusals.push(refusal(Some((number, claim)), placement, facts));
            }
        }
        resolution.granted = vec![Vec::new(); txn.placements.len()];
        resolution.refused = true;
    }

    fn failed_guard(&self, guard: &Guard) -> Option<Trouble> {
        match guard {
            Guard::JobVersion { job, version } => {
                let holds = self.cell.job(*job).is_some_and(|found| found.version == *version);
                (!holds).then_some(Trouble::Guard(Some(*job), None))
            }
            Guard::Attribute { machine, attribute, value } => {
                let actual = self.cell.machine(*machine).and_then(|found| found.attributes.get(attribute));
                (actual != Some(value)).then_some(Trouble::Guard(None, Some(machine.slot)))
            }
        }
    }

    fn resolve_stops(&mut self, txn: &Transaction, resolution: &mut Resolution) {
        self.promised.warm(txn.stops.iter().map(|id| id.slot));
        self.cell.warm(txn.stops.iter().map(|id| id.slot));
        for (position, &id) in (0..).zip(&txn.stops) {
            let active = self.cell.allocation(id).filter(|found| found.status.state.is_active());
            let Some(found) = active else {
                resolution.idle_stops.push(position);
                continue;
            };
            let job = self.cell.job(found.row.job());
            if job.is_none_or(|job| job.shape.scheduler != self.session.scheduler) {
                let facts = Facts::plain(RefusalKind::Permission, RefusalReason::OtherScheduler);
                let about = Placement { job: found.row.job(), group: found.row.group, ..Placement::default() };
                let mut refused = refusal(None, &about, facts);
                (refused.task, refused.machine) = (found.row.task, found.row.machine);
                resolution.refusals.push(refused);
            } else if self.promised.stop(id.slot) {
                resolution.stops.push(id.slot);
            } else {
                resolution.idle_stops.push(position);
            }
        }
    }

    /// What the claims of a placement share, or why none of them can be granted.
    fn terms<'a>(&mut self, cell: &'a Cell, placement: &Placement) -> Result<Terms<'a>, Trouble> {
        let never = |kind, reason| Err(Trouble::Never(kind, reason));
        let Some(job) = cell.job(placement.job) else { return Err(Trouble::Job(RefusalReason::NoSuchJob)) };
        if job.shape.scheduler != self.session.scheduler {
            return never(RefusalKind::Permission, RefusalReason::OtherScheduler);
        }
        if job.version != placement.job_version {
            return Err(Trouble::Job(RefusalReason::JobVersion));
        }
        let shape = job.shape.groups.get(usize::from(placement.group));
        let (Some(shape), Some(group)) = (shape, cell.group(job, placement.group)) else {
            return never(RefusalKind::Misfit, RefusalReason::NotWanted);
        };
        if placement.resources.is_some_and(|resources| resources != shape.resources) {
            return never(RefusalKind::Misfit, RefusalReason::ResourcesDiffer);
        }
        if let Some(trouble) = placement.guards.iter().find_map(|guard| self.failed_guard(guard)) {
            return Err(trouble);
        }
        group_is_wanted(cell, job, placement.group, self.now).map_err(Trouble::NotWanted)?;
        let constrained = !shape.constraints.is_empty();
        let classes = constrained.then(|| self.rules.classes(cell, job, placement.group, &shape.constraints).clone());
        Ok(Terms { job, group, need: shape.resources, classes })
    }

    /// Judges the claims of one placement in order, and gives the positions of those that are granted.
    fn resolve_placement(
        &mut self,
        txn: &Transaction,
        number: u32,
        placement: &Placement,
        twice: bool,
        seen: &mut BTreeSet<(u32, u16, u32)>,
        resolution: &mut Resolution,
    ) -> Vec<u32> {
        let cell = self.cell;
        let terms = match self.terms(cell, placement) {
            Ok(terms) => terms,
            Err(trouble) => {
                let slot = placement.job.slot;
                for claim in claims_of(placement) {
                    let (need, none) = (Resources::default(), Resources::default());
                    let facts = self.judge(txn).facts(trouble, u32::MAX, slot, &need, &none);
                    resolution.refusals.push(refusal(Some((number, claim)), placement, facts));
                }
                return Vec::new();
            }
        };
        let mut granted = Vec::with_capacity(placement.machines.len());
        let warmed = placement.machines.iter().map(|&machine| cell.machine_row(machine).map_or(0, |row| row.epoch));
        let tasks = placement.tasks.iter().map(|&task| cell.task(terms.group, task).map_or(0, |row| row.allocation));
        std::hint::black_box(warmed.chain(tasks).fold(0, |loaded, one| loaded ^ one));
        for claim in claims_of(placement) {
            let (machine, task) = (placement.machines[claim as usize], placement.tasks[claim as usize]);
            let again = twice && seen.contains(&(placement.job.slot, placement.group, task));
            let trouble = if again {
                Some(Trouble::Never(RefusalKind::Misfit, RefusalReason::TaskTaken))
            } else {
                crate::planted_bugs::overlook(self.trouble(txn, &terms, machine, task))
            };
            if let Some(trouble) = trouble {
                let promised = self.promised.on(machine);
                let facts = self.judge(txn).facts(trouble, machine, terms.job.id.slot, &terms.need, &promised);
                resolution.refusals.push(refusal(Some((number, claim)), placement, facts));
                continue;
            }
            self.promised.add(machine, &terms.need);
            if terms.job.shape.same_machine && terms.job.home.is_none() {
                self.promised.set_home(terms.job.id.slot, machine);
            }
            if twice {
                seen.insert((placement.job.slot, placement.group, task));
            }
            granted.push(claim);
        }
        granted
    }

    /// What stands in the way of one claim.
    fn trouble(&mut self, txn: &Transaction, terms: &Terms<'_>, machine: u32, task: u32) -> Option<Trouble> {
        match task_is_wanted(self.cell, terms.group, task) {
            Ok(_) => {}
            Err(plenum_model::NotWanted::Task(TaskState::Live)) => {
                let slot = self.cell.task(terms.group, task).map_or(0, |row| row.allocation) - 1;
                if !self.promised.stops(slot) {
                    return Some(Trouble::Taken(slot));
                }
            }
            Err(why) => return Some(Trouble::NotWanted(why)),
        }
        if let Some(row) = self.cell.machine_row(machine).filter(|row| row.last_change > txn.base) {
            let began = self.epochs_began.get(machine as usize).copied().unwrap_or(0);
            if began > txn.base.0 {
                return Some(Trouble::NewMachine(plenum_model::Revision(began), row.epoch));
            }
            if txn.check == ConflictCheck::Sequence {
                let changed = self.ring.changed_by_others(machine, txn.base, self.session.id);
                if changed != Some(false) {
                    return Some(Trouble::Changed(self.session.id));
                }
            }
        }
        let home = terms.job.home.or_else(|| self.promised.home(terms.job.id.slot));
        let home = home.filter(|_| terms.job.shape.same_machine);
        let requirement = Requirement {
            resources: &terms.need,
            classes: terms.classes.as_ref(),
            home,
            job: terms.job.id,
            special: None,
        };
        let promised = self.promised.on(machine);
        let obstacle = requirement.obstacle(self.cell, machine, &promised);
        let live = self.cell.machine_row(machine).map_or(0, |row| u32::from(row.allocations));
        let full = live + self.promised.claims_on(machine) >= u16::MAX.into();
        obstacle.or_else(|| full.then_some(Obstacle::Full)).map(Trouble::Machine)
    }

    /// A placement missed its minimum: what it was granted is taken back, and refused as mates.
    /// Of the homes that jobs were promised, the first `homes` stay.
    fn undo(&mut self, number: u32, placement: &Placement, granted: &[u32], homes: usize, resolution: &mut Resolution) {
        let need = self.need(placement);
        for &claim in granted {
            self.promised.remove(placement.machines[claim as usize], &need);
            let facts = Facts::plain(RefusalKind::Mate, RefusalReason::MinimumMissed);
            resolution.refusals.push(refusal(Some((number, claim)), placement, facts));
        }
        self.promised.keep_homes(homes);
    }

    fn undo_all(&mut self, txn: &Transaction, resolution: &mut Resolution) {
        let granted = std::mem::take(&mut resolution.granted);
        for ((number, placement), granted) in (0..).zip(&txn.placements).zip(&granted) {
            self.undo(number, placement, granted, 0, resolution);
        }
        resolution.granted = vec![Vec::new(); txn.placements.len()];
        resolution.stops.clear();
        resolution.refused = true;
    }

    fn need(&self, placement: &Placement) -> Resources {
        let job = self.cell.job(placement.job);
        let group = job.and_then(|job| job.shape.groups.get(usize::from(placement.group)));
        group.map(|group| group.resources).unwrap_or_default()
    }
}

/// Whether a task could be claimed twice: two placements of one group, or one whose tasks do not rise.
fn places_a_group_twice(txn: &Transaction) -> bool {
    let mut groups = BTreeSet::new();
    let rises = |placement: &Placement| placement.tasks.is_sorted_by(|left, right| left < right);
    txn.placements.iter().any(|placement| !groups.insert((placement.job, placement.group)) || !rises(placement))
}

fn claims_of(placement: &Placement) -> std::ops::Range<u32> {
    0..u32::try_from(placement.machines.len()).expect("bounded by CLAIMS_MAX")
}

fn refusal(claim: Option<(u32, u32)>, placement: &Placement, facts: Facts) -> Refusal {
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
        culprits: facts.culprits,
        culprits_total: facts.total,
    }
}

/// Ids of what a placement was granted, in the order of its claims.
pub(crate) fn granted_ids(
    placement: &Placement,
    granted: &[u32],
    delta: &Delta,
    grants: usize,
) -> Vec<Option<AllocationId>> {
    let mut ids = vec![None; placement.machines.len()];
    if let Some(columns) = delta.grants.get(grants).filter(|_| !granted.is_empty()) {
        for (position, &claim) in granted.iter().enumerate() {
            let id = AllocationId { slot: columns.slots[position], generation: columns.generations[position] };
            ids[claim as usize] = Some(id);
        }
    }
    ids
}
