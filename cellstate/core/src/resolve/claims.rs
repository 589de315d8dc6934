//! Judging the claims of one placement, one after the other, on what is left by those before.

mod beyond_room;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    AllocationId, Cell, ClaimExtra, ClassSet, ConflictCheck, GivenBack, GrantExtra, GroupCounts, GroupRow, GroupShape,
    Job, MachineRow, NotWanted, Obstacle, Placement, RefusalKind, RefusalReason, Requirement, Resources, Revision,
    STEPS_AHEAD, Special, Spoken, TaskState, Transaction, coming, group_is_wanted, task_is_wanted,
};

use super::preempt::{Victims, leaves, may_evict, named, victims_by_machine};
use super::{Granted, Resolution, Resolver, claims_of, refusal};
use crate::blame::{About, Facts, Trouble, Wanted};
use crate::quotas::Budget;
use beyond_room::Judged;

/// What the claims of one placement share.
struct Terms<'a> {
    job: &'a Arc<Job>,
    group: &'a GroupRow,
    group_row: u32,
    shape: &'a GroupShape,
    need: Resources,
    /// Classes of machines that satisfy the group's constraints, where it has some.
    classes: Option<Arc<ClassSet>>,
    /// The group declares devices, ports, limits or spread.
    is_special: bool,
    /// The group declares limits of machines or spread.
    is_counted: bool,
    /// The job's tasks share a machine.
    shares: bool,
    /// Devices or ports are declared, or victims are named.
    asks_for_more: bool,
    /// Nothing of all this: room on a machine of these classes is all that a claim needs.
    asks_for_room_alone: bool,
    victims: Victims,
    /// Victims that the scheduler named and may not evict, without those who leave already.
    spared: Victims,
}

impl Terms<'_> {
    /// What a claim needs of a machine. `home`: that which the job's tasks share; `counts`: the group's tasks, by machine.
    #[inline]
    fn requirement<'a>(&'a self, home: Option<u32>, counts: Option<&'a GroupCounts>) -> Requirement<'a> {
        Requirement {
            resources: &self.need,
            classes: self.classes.as_deref(),
            home,
            job: self.job.id,
            special: self.is_special.then_some(Special { shape: self.shape, counts }),
        }
    }

    fn victims_on(&self, machine: u32) -> &[AllocationId] {
        self.victims.get(&machine).map_or(&[], Vec::as_slice)
    }

    /// Whom the scheduler named there and may not evict.
    fn spared_on(&self, machine: u32) -> &[AllocationId] {
        self.spared.get(&machine).map_or(&[], Vec::as_slice)
    }
}

/// What is kept in mind while the claims of one placement are judged: made anew for those of each.
#[derive(Default)]
pub(crate) struct InHand {
    /// What its namespace may still have, if that is limited.
    allowance: Option<Allowance>,
    /// What stood in the way, by machine, where that took long to find.
    obstacles: BTreeMap<u32, Obstacle>,
    /// What claims were told that lack a device: by machine, and the device's position in the group's list.
    short_devices: BTreeMap<u32, BTreeMap<u16, Facts>>,
}

/// What a namespace may still have.
struct Allowance {
    /// Before the transaction.
    budget: Budget,
    /// What each claim of the placement needs.
    need: Resources,
    /// Claims of the placement that were granted: not taken off what was given back yet.
    granted: i64,
    /// How many more fit below the limits.
    left: u64,
}

/// One claim: where, for which task, and what it asks for beyond room.
#[derive(Clone, Copy)]
struct Claim<'a> {
    machine: u32,
    task: u32,
    extra: Option<&'a ClaimExtra>,
}

/// Tasks that placements of this transaction were granted: slot of the job, position of the group, index.
pub(crate) type Seen = BTreeSet<(u32, u16, u32)>;

impl Resolver<'_> {
    /// What the claims of a placement share, or why none of them can be granted.
    fn terms<'a>(&mut self, cell: &'a Cell, placement: &Placement, base: Revision) -> Result<Terms<'a>, Trouble> {
        let never = |kind, reason| Err(Trouble::Never(kind, reason));
        let Some(job) = cell.job(placement.job) else { return Err(Trouble::NoSuchJob(placement.job)) };
        if job.shape.scheduler != self.grounds.session.scheduler {
            return never(RefusalKind::Permission, RefusalReason::OtherScheduler);
        }
        if job.version != placement.job_version {
            return Err(Trouble::OtherVersion(placement.job, placement.job_version));
        }
        let shape = job.shape.groups.get(usize::from(placement.group));
        let (Some(shape), Some(group)) = (shape, cell.group(job, placement.group)) else {
            return Err(Trouble::NotWanted(NotWanted::NoSuchGroup));
        };
        if placement.resources.is_some_and(|resources| resources != shape.resources) {
            return never(RefusalKind::Misfit, RefusalReason::ResourcesDiffer);
        }
        if let Some(trouble) = placement.guards.iter().find_map(|guard| self.failed_guard(guard, base)) {
            return Err(trouble);
        }
        group_is_wanted(cell, job, placement.group, self.grounds.now).map_err(Trouble::NotWanted)?;
        let constrained = !shape.constraints.is_empty();
        let rule = (placement.group, &shape.constraints[..]);
        let classes = constrained.then(|| self.rules.classes(cell, job, rule, placement.all_machines()).clone());
        let named = victims_by_machine(placement);
        let evicts = named.is_empty()
            || cell.rights_of(&self.grounds.session.scheduler).evicts
            || planted::is(Bug::EvictsWithoutRight);
        let (victims, spared) = if evicts { (named, Victims::new()) } else { self.without_whom_stays(job, named) };
        let group_row = job.group_row(placement.group).expect("its row was found");
        let (is_special, shares) = (Special::is_needed_by(shape), job.shape.same_machine);
        Ok(Terms {
            job,
            group,
            group_row,
            shape,
            need: shape.resources,
            classes,
            is_special,
            is_counted: GroupCounts::are_needed_by(shape),
            shares,
            asks_for_room_alone: !(is_special || shares) && victims.is_empty(),
            asks_for_more: !(shape.devices.is_empty() && shape.ports.is_empty() && victims.is_empty()),
            victims,
            spared,
        })
    }

    /// Of named victims those for whom nobody is evicted, as they leave already or are gone, and apart from them those whom a scheduler with
    /// the right to evict would evict for this job on their machine.
    fn without_whom_stays(&self, job: &Job, named: Victims) -> (Victims, Victims) {
        let (mut victims, mut spared) = (Victims::new(), Victims::new());
        for (machine, named) in named {
            for victim in named {
                let side = match self.cell.allocation(victim).filter(|found| !leaves(self.promised, found)) {
                    None => &mut victims,
                    Some(stays) if stays.row.machine == machine && may_evict(self.cell, job, &stays) => &mut spared,
                    // The right to evict would change nothing.
                    Some(_) => continue,
                };
                side.entry(machine).or_default().push(victim);
            }
        }
        (victims, spared)
    }

    /// A hold of the job itself, which ends when it gets what it waits for, is not counted.
    fn allowance(&mut self, job: &Job, need: Resources) -> Option<Allowance> {
        let budget = Budget::of(self.grounds.quotas, self.cell, job, self.promised.ends_hold_of(job.id.slot))?;
        let left = budget.headroom(self.promised.given_back(budget.place), &need);
        Some(Allowance { budget, need, granted: 0, left })
    }

    /// Judges the claims of one placement in order, and gives those that are granted. `seen`: a task could be claimed twice.
    pub(crate) fn resolve_placement(
        &mut self,
        txn: &Transaction,
        number: u32,
        placement: &Placement,
        mut seen: Option<&mut Seen>,
        resolution: &mut Resolution,
    ) -> Vec<Granted> {
        let cell = self.cell;
        let terms = match self.terms(cell, placement, txn.base) {
            Ok(terms) => terms,
            Err(trouble) => {
                let group_row = cell.job(placement.job).and_then(|job| job.group_row(placement.group));
                let group_row = group_row.unwrap_or(u32::MAX);
                let about = About { job: placement.job.slot, group_row, ..About::default() };
                // All of them are told the same.
                let facts = self.judge(txn).facts(trouble, &about);
                let refused =
                    claims_of(placement).map(|claim| refusal(Some((number, claim)), placement, facts.clone()));
                resolution.refusals.extend(refused);
                return Vec::new();
            }
        };
        self.in_hand = InHand { allowance: self.allowance(terms.job, terms.need), ..InHand::default() };
        let mut granted = self.spare.granted.take(placement.machines.len());
        let mut alternates = &placement.alternates[..];
        for claim in claims_of(placement) {
            self.ask_for_what_comes(placement, &terms, claim as usize);
            let (machine, task) = (placement.machines[claim as usize], placement.tasks[claim as usize]);
            let extra = placement.extras.get(claim as usize).filter(|extra| !extra.asks_for_nothing());
            let asked = Claim { machine, task, extra };
            let key = (placement.job.slot, placement.group, task);
            let judged = if seen.as_ref().is_some_and(|seen| seen.contains(&key)) {
                Err(Trouble::Never(RefusalKind::Misfit, RefusalReason::TaskTaken))
            } else {
                self.claim(txn, &terms, asked)
            };
            let judged = judged.map(|extra| (machine, extra)).or_else(|trouble| {
                if crate::planted_bugs::is_overlooked(&trouble) {
                    return Ok((machine, None));
                }
                let elsewhere =
                    trouble.is_of_the_machine().then(|| self.alternate(txn, &terms, asked, &mut alternates));
                elsewhere.flatten().ok_or(trouble)
            });
            let (machine, extra) = match judged {
                Ok(judged) => judged,
                Err(trouble) => {
                    let facts = self.facts(txn, &terms, asked, trouble);
                    resolution.refusals.push(refusal(Some((number, claim)), placement, facts));
                    continue;
                }
            };
            resolution.went_elsewhere |= machine != asked.machine;
            let one = Granted { claim, machine, extra };
            self.promise(txn, &terms, &one);
            seen.iter_mut().for_each(|seen| {
                seen.insert(key);
            });
            granted.push(one);
        }
        if let Some(allowance) = self.in_hand.allowance.take() {
            self.promised.given_back(allowance.budget.place).add_times(&allowance.need, -allowance.granted);
        }
        granted
    }

    /// Asks for what claims some steps later will touch, and for the rows of as many grants.
    #[inline]
    fn ask_for_what_comes(&mut self, placement: &Placement, terms: &Terms<'_>, step: usize) {
        let machines = |distance| coming(&placement.machines, step, distance);
        let tasks = coming(&placement.tasks, step, 2 * STEPS_AHEAD);
        self.cell.warm_claims(terms.group, machines(2 * STEPS_AHEAD), tasks);
        if terms.is_counted {
            self.rules.warm(self.cell, terms.group_row, machines(STEPS_AHEAD).iter().copied());
            self.rules.warm_beside(self.cell, terms.group_row, machines(STEPS_AHEAD / 2).iter().copied());
        }
        if step.is_multiple_of(STEPS_AHEAD) {
            self.cell.warm(self.next_rows.by_ref().take(STEPS_AHEAD));
        }
    }

    /// The facts of a claim that is refused.
    fn facts(&mut self, txn: &Transaction, terms: &Terms<'_>, asked: Claim<'_>, trouble: Trouble) -> Facts {
        // All devices of all victims are looked at for that: claims that lack the same one are told the same.
        let position = match trouble {
            Trouble::Machine(Obstacle::Device(position)) if asked.extra.is_none() => position,
            _ => return self.facts_anew(txn, terms, asked, trouble),
        };
        let known = self.in_hand.short_devices.get(&asked.machine).and_then(|positions| positions.get(&position));
        if let Some(facts) = known {
            return facts.clone();
        }
        let facts = self.facts_anew(txn, terms, asked, trouble);
        self.in_hand.short_devices.entry(asked.machine).or_default().insert(position, facts.clone());
        facts
    }

    /// The same, whatever other claims were told.
    fn facts_anew(&self, txn: &Transaction, terms: &Terms<'_>, asked: Claim<'_>, trouble: Trouble) -> Facts {
        let trouble = self.as_permitted(terms, asked, trouble);
        self.judge(txn).facts(trouble, &self.about(terms, asked, trouble))
    }

    /// What to say of a claim that its scheduler wanted to evict somebody for: that it may not, where one of those has any of the room or the port
    /// that is lacking, or where the claim would get all of its devices with theirs. A part of a device is of no use to it.
    fn as_permitted(&self, terms: &Terms<'_>, asked: Claim<'_>, trouble: Trouble) -> Trouble {
        let Trouble::Machine(obstacle) = trouble else { return trouble };
        let mut spared =
            terms.spared_on(asked.machine).iter().filter_map(|&victim| self.cell.allocation(victim)).peekable();
        if spared.peek().is_none() {
            return trouble;
        }
        let have_it = match obstacle {
            Obstacle::NoRoom(short) => spared.any(|found| self.cell.resources_of(found.row).get(short.resource) > 0),
            Obstacle::Port(number) => {
                let extras = spared.filter_map(|found| found.extra);
                extras.flat_map(|extra| &extra.ports).any(|port| port.number == number)
            }
            Obstacle::Device(_) => self.would_get_devices(terms, asked),
            _ => false,
        };
        if have_it { Trouble::Never(RefusalKind::Permission, RefusalReason::MayNotEvict) } else { trouble }
    }

    fn about<'a>(&'a self, terms: &'a Terms<'_>, asked: Claim<'a>, trouble: Trouble) -> About<'a> {
        let machine = asked.machine;
        // Thousands of claims may name as many: they are only gone through where they could have given what is lacking.
        let lacks = matches!(trouble, Trouble::Machine(Obstacle::NoRoom(_) | Obstacle::Device(_) | Obstacle::Port(_)));
        let sources = if lacks { self.sources(terms, asked) } else { Vec::new() };
        let slots = || sources.iter().map(|source| source.id.slot);
        let goes = |slot: &u32| self.promised.specials.evicts(*slot) || self.promised.stops(*slot);
        let (promised, promised_claims) = self.promised.on(machine);
        About {
            machine,
            job: terms.job.id.slot,
            group_row: terms.group_row,
            task: asked.task,
            need: terms.need,
            promised,
            promised_claims,
            promised_devices: self.promised.specials.devices(machine),
            shape: Some(terms.shape),
            owner: terms.job.id,
            freed: self.freed_on(machine),
            free: self.free_room(terms.job.id, machine),
            handed_over: slots().filter_map(|slot| self.promised.specials.taken_over(slot)).collect(),
            going: slots().filter(goes).collect(),
            devices: asked.extra.map_or(&[], |extra| &extra.devices),
            sources,
        }
    }

    /// Whose room a claim wanted, as [`HandOff`](super::preempt::HandOff) takes it: those that it names itself come first. Of those, one who stays
    /// gives nothing for that, and as a victim, if he is one, all that he has.
    fn sources<'a>(&self, terms: &'a Terms<'_>, asked: Claim<'a>) -> Vec<Wanted<'a>> {
        let is_here = |wanted: &Wanted<'_>| {
            self.cell.allocation(wanted.id).is_none_or(|found| found.row.machine == asked.machine)
        };
        let victims = terms.victims_on(asked.machine);
        let stays = |id| self.cell.allocation(id).is_some_and(|found| !leaves(self.promised, &found));
        let mut sources: Vec<Wanted<'a>> = Vec::new();
        for entry in named(asked.extra) {
            let is_victim = victims.contains(&entry.victim) && stays(entry.victim);
            let wanted = Wanted { id: entry.victim, most: (!is_victim).then_some(entry) };
            if is_here(&wanted) && !sources.iter().any(|known| known.id == wanted.id) {
                sources.push(wanted);
            }
        }
        // Victims stand there once.
        let of_claim = sources.len();
        for wanted in victims.iter().map(|&id| Wanted { id, most: None }).filter(is_here) {
            if !sources[..of_claim].iter().any(|known| known.id == wanted.id) {
                sources.push(wanted);
            }
        }
        sources
    }

    /// The first spare machine on which the claim can be granted. Those before it are used up: the tasks of a group are equal, and
    /// room only shrinks within a transaction. Quota does not: whom a later claim evicts may give some back.
    fn alternate(
        &mut self,
        txn: &Transaction,
        terms: &Terms<'_>,
        asked: Claim<'_>,
        alternates: &mut &[u32],
    ) -> Option<(u32, Option<Box<GrantExtra>>)> {
        while let Some((&machine, rest)) = alternates.split_first() {
            // What the claim says of devices, ports and room to take over is about its own machine.
            let elsewhere = Claim { machine, extra: None, ..asked };
            match self.claim(txn, terms, elsewhere) {
                Ok(extra) => return Some((machine, extra)),
                Err(trouble) if trouble.is_of_the_machine() => *alternates = rest,
                Err(_) => return None,
            }
        }
        None
    }

    /// Keeps a granted claim in mind for those that follow.
    fn promise(&mut self, txn: &Transaction, terms: &Terms<'_>, granted: &Granted) {
        match &granted.extra {
            None => self.promised.add(granted.machine, &terms.need),
            Some(_) => self.promised.add(granted.machine, &granted.net(&terms.need)),
        }
        if terms.shares && terms.job.home.is_none() {
            self.promised.set_home(terms.job.id.slot, granted.machine);
        }
        if terms.is_counted {
            self.rules.attempt(self.cell, terms.group_row, granted.machine, 1);
            let (group, place) = ((terms.group_row, terms.shape), (granted.machine, self.rules.attempts()));
            self.newcomers.borrow_mut().promise(self.cell, self.grounds.retagged, txn.base, group, place);
        }
        if let Some(allowance) = &mut self.in_hand.allowance {
            allowance.granted += 1;
            allowance.left = allowance.left.saturating_sub(1);
        }
        if let Some(extra) = &granted.extra {
            self.promised.specials.take_over(&extra.takes_over);
            self.remains.take_over(&extra.takes_over);
            // Somebody may be named for another machine than his own, too.
            if extra.takes_over.is_empty() {
                self.in_hand.short_devices.remove(&granted.machine);
            } else {
                self.in_hand.short_devices.clear();
            }
        }
        if terms.is_counted || terms.shares {
            self.in_hand.obstacles.clear();
        } else if !self.in_hand.obstacles.is_empty() {
            self.in_hand.obstacles.remove(&granted.machine);
        }
    }

    /// Whether one claim can be granted: what it gets beyond room, or what stands in its way.
    #[inline]
    fn claim(
        &mut self,
        txn: &Transaction,
        terms: &Terms<'_>,
        asked: Claim<'_>,
    ) -> Result<Option<Box<GrantExtra>>, Trouble> {
        let machine = asked.machine;
        self.task_stands(terms, asked.task)?;
        let row = self.cell.machine_row(machine);
        if let Some(row) = row {
            self.machine_stands(txn, machine, row)?;
        }
        let victims = terms.victims_on(machine);
        // Whom it evicts may be of its own namespace: then quota is judged once it is known who goes.
        if victims.is_empty() {
            self.within_quota(&[])?;
        }
        let (promised, claims) = self.promised.on(machine);
        let live = row.map_or(0, |row| u32::from(row.allocations)) + claims;
        // Most ask for room alone.
        if terms.asks_for_room_alone && asked.extra.is_none() {
            return match terms.requirement(None, None).obstacle_on(self.cell, machine, row, &promised) {
                None if live < ALLOCATIONS_MAX => Ok(None),
                obstacle => match full_or(self.unless_freed(terms, machine, obstacle), live) {
                    None => Ok(None),
                    Some(obstacle) => Err(Trouble::Machine(obstacle)),
                },
            };
        }
        self.claim_beyond_room(txn, terms, asked, row, &promised, live)
    }

    /// The same for one that asks for more than room, or wants others to leave for it. `live`: allocations of the machine and claims that
    /// were promised it.
    #[inline(never)]
    fn claim_beyond_room(
        &mut self,
        txn: &Transaction,
        terms: &Terms<'_>,
        asked: Claim<'_>,
        row: Option<&MachineRow>,
        promised: &Resources,
        live: u32,
    ) -> Result<Option<Box<GrantExtra>>, Trouble> {
        let machine = asked.machine;
        let home = if terms.shares { terms.job.home.or_else(|| self.promised.home(terms.job.id.slot)) } else { None };
        let counts = if terms.is_counted { self.rules.counts(terms.group_row) } else { None };
        let requirement = terms.requirement(home, counts);
        let obstacle = requirement.obstacle_on(self.cell, machine, row, promised);
        let obstacle = full_or(self.unless_freed(terms, machine, obstacle), live);
        let alone = terms.victims.is_empty() && asked.extra.is_none();
        match obstacle {
            None if !terms.asks_for_more && alone => {
                let limit = requirement.limit_obstacle(self.cell, machine, &Spoken::default());
                limit.map_or(Ok(None), |obstacle| Err(Trouble::Machine(obstacle)))
            }
            Some(obstacle) if alone || !matches!(obstacle, Obstacle::NoRoom(_)) => Err(Trouble::Machine(obstacle)),
            room => {
                // Claims of one placement that name nothing of their own are equal: what stood in the way of the last one on this
                // machine stands there still, as long as nobody was granted anything that could matter.
                let known = asked.extra.is_none().then(|| self.in_hand.obstacles.get(&machine).copied()).flatten();
                if let Some(obstacle) = known {
                    return Err(Trouble::Machine(obstacle));
                }
                let judged = self.special_claim(txn, terms, asked, &requirement, room);
                if let (Err(Trouble::Machine(obstacle)), None) = (&judged, asked.extra) {
                    self.in_hand.obstacles.insert(machine, *obstacle);
                }
                let judged = judged?;
                if !terms.victims_on(machine).is_empty() {
                    self.within_quota(&judged.victims)?;
                }
                Ok(self.keep(machine, judged))
            }
        }
    }

    /// Keeps in mind what a claim got beyond room, and who is evicted for it.
    fn keep(&mut self, machine: u32, judged: Judged) -> Option<Box<GrantExtra>> {
        let evicts = !judged.victims.is_empty();
        for victim in judged.victims {
            self.promised.specials.evict(victim);
            if let Some(row) = self.cell.allocation_rows().get(victim) {
                self.note_left(row);
            }
        }
        if evicts {
            let given = self.given_so_far();
            if let Some(allowance) = &mut self.in_hand.allowance {
                allowance.left = allowance.budget.headroom(&given, &allowance.need);
            }
        }
        let extra = judged.extra;
        if extra.devices.is_empty() && extra.ports.is_empty() && extra.takes_over.is_empty() {
            return None;
        }
        self.promised.specials.add(machine, &judged.own_devices, extra.ports.iter().map(|port| port.number));
        Some(Box::new(extra))
    }

    #[inline]
    fn task_stands(&self, terms: &Terms<'_>, task: u32) -> Result<(), Trouble> {
        match task_is_wanted(self.cell, terms.group, task) {
            Ok(_) => Ok(()),
            Err(NotWanted::Task(TaskState::Live)) => {
                let slot = self.cell.task(terms.group, task).map_or(0, |row| row.allocation) - 1;
                let leaves = self.promised.stops(slot) || self.promised.specials.evicts(slot);
                match leaves {
                    false => Err(Trouble::Taken(slot)),
                    true if terms.shape.single_instance => {
                        Err(Trouble::Never(RefusalKind::Misfit, RefusalReason::Predecessor))
                    }
                    true => Ok(()),
                }
            }
            Err(NotWanted::Task(TaskState::Blocked)) => Err(Trouble::Predecessor),
            Err(why) => Err(Trouble::NotWanted(why)),
        }
    }

    fn epoch_began(&self, machine: u32) -> Revision {
        Revision(self.grounds.epochs_began.get(machine as usize).copied().unwrap_or(0))
    }

    #[inline]
    fn machine_stands(&self, txn: &Transaction, machine: u32, row: &MachineRow) -> Result<(), Trouble> {
        if row.last_change > txn.base {
            let began = if self.grounds.newest_epoch > txn.base { self.epoch_began(machine) } else { Revision(0) };
            if began > txn.base {
                return Err(Trouble::NewMachine(began, row.epoch));
            }
            if txn.check == ConflictCheck::Sequence && !planted::is(Bug::OverlooksSequence) {
                let grounds = &self.grounds;
                let own = (grounds.session.id, (grounds.scheduler, grounds.names.since(grounds.scheduler)));
                let changed = self.hindsight.changed_by_others(grounds.ring, machine, txn.base, own);
                if changed != Some(false) {
                    return Err(Trouble::Changed(own.0, own.1));
                }
            }
        }
        match self.grounds.reserved {
            Some(reserved) if reserved.contains(row.class) => {
                Err(Trouble::Never(RefusalKind::Permission, RefusalReason::NotPermitted))
            }
            _ => Ok(()),
        }
    }

    /// What the namespace of the placement in hand gave back so far; negative where this transaction took.
    fn given_so_far(&mut self) -> GivenBack {
        let Some(allowance) = &self.in_hand.allowance else { return GivenBack::default() };
        let mut given = *self.promised.given_back(allowance.budget.place);
        given.add_times(&allowance.need, -allowance.granted);
        given
    }

    /// Whether the namespace may have one more of these tasks, when these allocations are evicted for it.
    #[inline]
    fn within_quota(&mut self, victims: &[u32]) -> Result<(), Trouble> {
        match &self.in_hand.allowance {
            Some(allowance) if allowance.left == 0 => self.within_spent_quota(victims),
            _ => Ok(()),
        }
    }

    #[cold]
    fn within_spent_quota(&mut self, victims: &[u32]) -> Result<(), Trouble> {
        let mut given = self.given_so_far();
        let Some(allowance) = &self.in_hand.allowance else { return Ok(()) };
        let credits_all = planted::is(Bug::CreditsOtherNamespaces);
        for row in victims.iter().filter_map(|&victim| self.cell.allocation_rows().get(victim)) {
            if credits_all || self.grounds.quotas.place_of(row.job_slot) == Some(allowance.budget.place) {
                given.add_times(&self.cell.resources_of(row), 1);
            }
        }
        let short = allowance.budget.shortage(&given, &allowance.need);
        short.map_or(Ok(()), |short| Err(Trouble::Quota(short)))
    }

    /// Holds that end with this transaction, because earlier placements were granted what their jobs waited for, are in nobody's way.
    fn unless_freed(&self, terms: &Terms<'_>, machine: u32, obstacle: Option<Obstacle>) -> Option<Obstacle> {
        if !matches!(obstacle, Some(Obstacle::NoRoom(_))) {
            return obstacle;
        }
        if !self.promised.ends_holds() {
            return obstacle;
        }
        let mut room = self.free_room(terms.job.id, machine);
        room.take(&self.promised.on(machine).0);
        room.shortage(&terms.need).map(Obstacle::NoRoom)
    }
}

/// As many allocations as a machine can have.
pub(crate) const ALLOCATIONS_MAX: u32 = u16::MAX as u32;

/// What stands in the way on a machine that has so many allocations. Room can be made on a full one, a place for one more not: who is
/// taken over from is counted until its receipt.
#[inline]
fn full_or(obstacle: Option<Obstacle>, allocations: u32) -> Option<Obstacle> {
    match obstacle {
        None | Some(Obstacle::NoRoom(_)) if allocations >= ALLOCATIONS_MAX => Some(Obstacle::Full),
        obstacle => obstacle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The room that victims would give was looked at first, and the machine got more allocations than it can count.
    #[test]
    fn what_a_machine_can_count_bounds_also_those_who_take_room_over() {
        let short = plenum_model::Shortage { resource: plenum_model::Resource::CpuMillis, short_by: 1 };
        let (no_room, most) = (Some(Obstacle::NoRoom(short)), u32::from(u16::MAX));
        assert_eq!((full_or(no_room, most - 1), full_or(None, most - 1)), (no_room, None));
        assert_eq!((full_or(no_room, most), full_or(None, most)), (Some(Obstacle::Full), Some(Obstacle::Full)));
        assert_eq!(full_or(Some(Obstacle::Constraint), most), Some(Obstacle::Constraint));
    }
}
