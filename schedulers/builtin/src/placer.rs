//! Machines for groups of equal tasks, one group after the other, as all built-in schedulers find them.

mod ahead;
mod one_by_one;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::sync::Arc;

use plenum_model::{
    AllocationRef, Cell, Constraint, Device, GroupCounts, GroupShape, Job, JobId, Outcome, Requirement, Resources,
    Special,
};
use plenum_policies::{
    Beyond, Columns, Eligible, Index, Policy, Request, Settings, Unplaced, at_most_when_empty, explain,
};
use plenum_sdk::{Decision, PassedOver, Plan, Quotas, Specials, View, Work};

use crate::evictions::{self, Denied, Evictions, Seat};
use crate::gpus::{Books, GpuPolicy, Gpus};
use crate::shared_machine::{self, Width};

/// The columns, what is remembered from decision to decision, and what the one in the making has found out so far.
#[derive(Debug)]
pub(crate) struct Placer {
    policy: Policy,
    columns: Columns,
    /// What earlier decisions found out about equal tasks.
    index: Index,
    settings: Settings,
    pass: Pass,
    /// Who may be evicted.
    evictions: Evictions,
    /// The picture of the GPUs, where a policy of their own ranks machines for them.
    gpus: Option<Gpus>,
    /// In which cell the last decision was, and in which incarnation of it.
    life: ([u8; 16], u64),
}

/// What one decision has found out, and what it has left to others: the next one begins without any of it.
#[derive(Debug, Default)]
struct Pass {
    /// Machines chosen for jobs whose tasks share one.
    homes: BTreeMap<JobId, u32>,
    /// What did not fit, and why. Room only shrinks in the course of a decision, so what is equal doesn't either:
    /// a thousand equal jobs that wait cost one scan.
    hopeless: BTreeMap<Need, Hopeless>,
    /// Machines whose devices and ports a need is known not to get, one bit each.
    ruled_out: BTreeMap<Need, Vec<u64>>,
    /// What jobs ask of a machine that their tasks share: as long as they have none, each group that waits asks for it, and to find out which groups may
    /// run side by side can take a million steps.
    needs: BTreeMap<JobId, Arc<shared_machine::Need>>,
    /// Why jobs that share a machine found none.
    homeless: BTreeMap<Arc<shared_machine::Need>, Hopeless>,
    /// Of how many of their tasks at once a machine had the devices and ports at most.
    widths: BTreeMap<Arc<shared_machine::Need>, Width>,
    /// Devices, ports and limits; made when the first group asks for some.
    specials: Option<Specials>,
    /// What namespaces may still have.
    quotas: Quotas,
    /// To so many of what comes before the work room was left, as far as there was any.
    left_to: usize,
    /// Machines that were judged one by one: what it costs beyond scans.
    #[cfg(test)]
    judged: std::cell::Cell<usize>,
}

/// Why nothing more of some need fits.
#[derive(Clone, Debug)]
struct Hopeless {
    reason: String,
    /// Others have what it lacks, and some machine is large enough.
    others_have_it: bool,
    /// So many tasks do fit, of a gang that starts with more: their room was given back.
    fit: usize,
    /// No more than so many of a gang would fit, were all machines empty; of what is no gang this is not known.
    at_most: u64,
}

impl Hopeless {
    fn of(why: &Unplaced) -> Self {
        let is_too_small = |nearest: &plenum_policies::Nearest| nearest.missing_when_empty.is_some();
        let others_have_it =
            !why.ports.is_empty() || why.nearest.as_ref().is_some_and(|nearest| !is_too_small(nearest));
        Self { reason: why.to_string(), others_have_it, fit: 0, at_most: u64::MAX }
    }
}

/// Kind, model and thousandths of a device.
pub(crate) type DeviceNeed = (Arc<str>, Arc<str>, u32);

pub(crate) fn device_need(device: &Device) -> DeviceNeed {
    (device.kind.clone(), device.model.clone(), device.millis)
}

/// Tasks with equal needs are equally hard to place, unless their group limits how they are spread.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    resources: Resources,
    constraints: Vec<Constraint>,
    home: Option<u32>,
    devices: Vec<DeviceNeed>,
    /// 0 for each that the cell chooses.
    ports: Vec<u16>,
    /// So many at once, or none.
    least: usize,
}

impl Need {
    fn of(shape: &GroupShape, home: Option<u32>, least: usize) -> Self {
        Self {
            resources: shape.resources,
            constraints: shape.constraints.clone(),
            home,
            devices: shape.devices.iter().map(device_need).collect(),
            ports: shape.ports.iter().map(|port| port.number).collect(),
            least,
        }
    }
}

/// Machines for tasks, in their order.
#[derive(Debug, Default)]
struct Chosen {
    machines: Vec<u32>,
    /// Devices of those that name them, by position among the machines.
    named: Vec<(usize, Vec<Device>)>,
}

impl Chosen {
    /// Those of the next so many tasks. Devices are named only where a group was placed by itself.
    fn take(&mut self, tasks: usize) -> Self {
        let rest = self.machines.split_off(tasks.min(self.machines.len()));
        Self { machines: std::mem::replace(&mut self.machines, rest), named: std::mem::take(&mut self.named) }
    }
}

/// Tasks of a group for which its namespace's quota has no room.
#[derive(Clone, Copy, Debug)]
struct BeyondQuota<'w> {
    work: &'w Work,
    left: usize,
    /// So many of them are placed at once.
    at_once: usize,
}

impl Placer {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            columns: Columns::default(),
            index: Index::default(),
            settings: Settings::default(),
            pass: Pass::default(),
            evictions: Evictions::default(),
            gpus: None,
            life: ([0; 16], 0),
        }
    }

    /// With a policy for tasks that ask for GPUs.
    pub(crate) fn with_gpus(policy: Policy, gpus: GpuPolicy) -> Self {
        Self { gpus: Gpus::new(gpus), ..Self::new(policy) }
    }

    #[cfg(test)]
    pub(crate) fn evicting_within(self, bounds: evictions::Bounds) -> Self {
        Self { evictions: Evictions::within(bounds), ..self }
    }

    /// Begins a decision. Gives whether it is in another cell than the last one, or in another incarnation of it: there the same numbers may be of other things, and
    /// nothing is remembered by them.
    pub(crate) fn begin(&mut self, view: &View<'_>, settings: Settings) -> bool {
        let identity = view.cell().identity();
        let life = (identity.cell_id, identity.incarnation);
        let is_elsewhere = std::mem::replace(&mut self.life, life) != life;
        if is_elsewhere {
            self.evictions.begin_anew();
            self.gpus.iter_mut().for_each(Gpus::begin_anew);
        }
        self.columns.follow(view.cell(), view.changed_machines(), view.promised());
        self.gpus.iter_mut().for_each(|gpus| gpus.begin(view.changed_machines()));
        self.settings = settings;
        self.pass = Pass::default();
        self.evictions.begin(view);
        is_elsewhere
    }

    /// A task of the group is stopped in the plan in the making: its limits and its quota don't count that one in the rest of this decision.
    pub(crate) fn leave(&mut self, view: &View<'_>, work: &Work, leaving: AllocationRef<'_>) {
        self.pass.quotas.gives_back(view, leaving.id);
        let slot = leaving.row.machine;
        if GroupCounts::are_needed_by(work.shape()) {
            let specials = self.pass.specials.get_or_insert_with(|| view.specials());
            specials.leave(view.cell(), &work.job, work.group, slot);
        }
    }

    /// Undoes a [`Placer::leave`]: no plan came of it.
    pub(crate) fn stay(&mut self, view: &View<'_>, work: &Work, leaving: AllocationRef<'_>) {
        self.pass.quotas.keeps(view, leaving.id);
        let specials = self.pass.specials.as_mut().filter(|_| GroupCounts::are_needed_by(work.shape()));
        if let Some(specials) = specials {
            specials.stay(view.cell(), &work.job, work.group, leaving.row.machine);
        }
    }

    /// Claims machines for as many tasks of all the work as fit, and says why the others do not. Room is left to what comes before it.
    pub(crate) fn place_all(&mut self, view: &View<'_>, works: &[Work], plan: &mut Plan, decision: &mut Decision) {
        if let Some(gpus) = &mut self.gpus {
            // What room is left to is ranked like work, and so has to be reckoned with.
            view.ahead().iter().chain(works).for_each(|work| gpus.expect(view.cell(), work));
        }
        // Where nothing comes between them neighbours of two bands are placed in one scan, too.
        let before = |work: &Work| if view.ahead().is_empty() { 0 } else { ahead::before(view, work) };
        for works in works.chunk_by(|one, other| before(one) == before(other)) {
            if let Some(next) = works.first() {
                self.leave_room(view, next, decision);
            }
            self.place_alike(view, works, plan, decision);
        }
    }

    /// As [`Placer::place_all`], and leaves no room to anybody.
    ///
    /// Groups that need the same and stand next to each other are placed in one scan of the machines: to a best fit their tasks are
    /// all alike, and many small jobs are often copies of one. Where their namespace has a quota each is placed by itself: what finds no room leaves its
    /// quota to those behind it.
    fn place_alike(&mut self, view: &View<'_>, works: &[Work], plan: &mut Plan, decision: &mut Decision) {
        let alike = |one: &Work, other: &Work| {
            let (left, right) = (one.shape(), other.shape());
            let holds = |work: &Work| view.cell().hold(work.job.id).is_some();
            let limited = |work: &Work| view.cell().quota(&work.job.shape.namespace).is_some();
            let plain = |work: &Work| {
                !Special::is_needed_by(work.shape()) && work.shape().min == 0 && !holds(work) && !limited(work)
            };
            if one.job.shape.same_machine || other.job.shape.same_machine {
                return one.job.id == other.job.id;
            }
            plain(one)
                && plain(other)
                && left.resources == right.resources
                && left.constraints == right.constraints
                && left.affinities == right.affinities
        };
        for works in works.chunk_by(alike) {
            if works[0].job.shape.same_machine {
                self.place_job(view, works, plan, decision);
            } else {
                self.place(view, works, plan, decision);
            }
        }
    }

    /// Claims machines for the groups of one job, one after the other. Where its tasks share a machine, each gang first gets what it starts with: else a
    /// group before it took the room for all of its tasks, and the gang waited until these end.
    pub(crate) fn place_job(&mut self, view: &View<'_>, works: &[Work], plan: &mut Plan, decision: &mut Decision) {
        let starts_behind = |work: &Work| work.job.shape.same_machine && work.least > 0;
        if !works.iter().skip(1).any(starts_behind) {
            for work in works {
                self.place(view, slice::from_ref(work), plan, decision);
            }
            return;
        }
        let mut rest = Vec::with_capacity(works.len());
        for work in works {
            let (first, others) = work.tasks.split_at((work.least as usize).min(work.tasks.len()));
            if first.is_empty() {
                rest.push(work.clone());
                continue;
            }
            let placed = self.place(view, &[Work { tasks: first.to_vec(), ..work.clone() }], plan, decision);
            if others.is_empty() {
                continue;
            }
            if placed > 0 {
                rest.push(Work { tasks: others.to_vec(), least: 0, ..work.clone() });
                continue;
            }
            let is_of_it = |said: &&PassedOver| (said.job, said.group) == (work.job.id, work.group);
            if let Some(said) = decision.passed_over.last().filter(is_of_it) {
                // What keeps it from starting keeps all of it.
                let reason = said.reason.clone();
                decision.pass_over(work, others.len(), reason);
            }
        }
        for work in &rest {
            self.place(view, slice::from_ref(work), plan, decision);
        }
    }

    /// Claims machines for groups of equal needs; with [`Policy::Spread`] one group only, as its siblings count, and so where the namespace has a quota.
    /// Gives how many tasks found one, and says why the others did not.
    pub(crate) fn place(
        &mut self,
        view: &View<'_>,
        equals: &[Work],
        plan: &mut Plan,
        decision: &mut Decision,
    ) -> usize {
        let (within, beyond) = self.within_quota(view, equals);
        let placed = self.place_within_quota(view, &within, plan, decision);
        let wanted: usize = within.iter().map(|work| work.tasks.len()).sum();
        for beyond in beyond {
            self.tell_of_quota(view, &beyond, placed == wanted, decision);
        }
        // What found no room leaves its quota to others.
        within.first().into_iter().for_each(|first| self.pass.quotas.give(view, first, wanted - placed));
        placed
    }

    /// As many tasks as the quota of their namespace has room for, which is taken for them; and those that are beyond it.
    fn within_quota<'w>(&mut self, view: &View<'_>, equals: &'w [Work]) -> (Cow<'w, [Work]>, Vec<BeyondQuota<'w>>) {
        let namespace = equals.first().map(|first| &first.job.shape.namespace);
        if namespace.is_none_or(|name| view.cell().quota(name).is_none()) {
            return (Cow::Borrowed(equals), Vec::new());
        }
        let (mut within, mut beyond) = (Vec::new(), Vec::new());
        for work in equals {
            let at_once = (work.least as usize).max(1);
            let room = self.pass.quotas.headroom(view, work).min(work.tasks.len());
            let (placed, left) = work.tasks.split_at(if room < at_once { 0 } else { room });
            self.pass.quotas.take(view, work, placed.len());
            if !left.is_empty() {
                // Of a gang that has begun, one more is wanted at a time.
                let at_once = if placed.is_empty() { at_once } else { 1 };
                beyond.push(BeyondQuota { work, left: left.len(), at_once });
            }
            if !placed.is_empty() {
                within.push(Work { tasks: placed.to_vec(), ..work.clone() });
            }
        }
        (Cow::Owned(within), beyond)
    }

    /// Says what the quota is short of for tasks beyond it, before what found no room gives its own back. Where the others found room, that is what the next one
    /// waits for. Else the next one waits for room, of which more was said before: whoever raises the quota for it gets nothing.
    fn tell_of_quota(&mut self, view: &View<'_>, beyond: &BeyondQuota<'_>, others_fit: bool, decision: &mut Decision) {
        let &BeyondQuota { work, left, at_once } = beyond;
        let short = self.pass.quotas.shortage(view, work, if others_fit { at_once } else { left });
        let Some(short) = short else { return };
        let short = short.words_in(&view.cell().identity().custom_resources);
        let quota = format!("the quota of {} is short of {short}", work.job.shape.namespace);
        decision.pass_over(work, left, if others_fit { quota } else { format!("for all of them {quota}") });
    }

    /// As [`Placer::place`], quotas aside.
    fn place_within_quota(
        &mut self,
        view: &View<'_>,
        equals: &[Work],
        plan: &mut Plan,
        decision: &mut Decision,
    ) -> usize {
        let Some(first) = equals.first() else { return 0 };
        let shape = first.shape();
        let home = match self.home(view, first) {
            Ok(home) => home,
            Err(reason) => {
                if let Some(reason) = reason {
                    equals.iter().for_each(|work| decision.pass_over(work, work.tasks.len(), &reason));
                }
                return 0;
            }
        };
        let need = Need::of(shape, home, first.least as usize);
        // What a job holds is free for it alone.
        let hold = view.cell().hold(first.job.id);
        let known = self.pass.hopeless.get(&need).filter(|_| hold.is_none()).cloned();
        let scheduler = &first.job.shape.scheduler;
        let eligible = self.columns.eligible_for(scheduler, &shape.constraints, &shape.affinities, view.cell());
        let siblings = match self.policy {
            Policy::Spread if known.is_none() => view.siblings(&first.job, first.group),
            _ => BTreeMap::new(),
        };
        let request = Request {
            eligible: eligible.as_deref(),
            home,
            siblings: &siblings,
            hold,
            ..Request::new(&shape.resources, self.settings_of([shape]))
        };
        let (mut chosen, hopeless) = match known {
            Some(known) => (Chosen::default(), Some(known)),
            None => self.choose(view, equals, &request, (&need, eligible.as_ref())),
        };
        let mut placed = 0;
        for work in equals {
            let free = chosen.take(work.tasks.len());
            placed += self.claim(view, (work, free), hopeless.as_ref(), (&request, &need), (plan, decision));
        }
        placed
    }

    /// How machines are looked for. Those that a group wishes for may all be in the parts of others: then there are no parts.
    fn settings_of<'g>(&self, groups: impl IntoIterator<Item = &'g GroupShape>) -> Settings {
        let wishes = groups.into_iter().any(|group| !group.affinities.is_empty());
        Settings { parts: self.settings.parts.filter(|_| !wishes), ..self.settings }
    }

    /// Machines that have room for tasks of equal needs, booked; and why not for all of them.
    fn choose(
        &mut self,
        view: &View<'_>,
        equals: &[Work],
        request: &Request<'_>,
        (need, eligible): (&Need, Option<&Arc<Eligible>>),
    ) -> (Chosen, Option<Hopeless>) {
        let Some(first) = equals.first() else { return (Chosen::default(), None) };
        let shape = first.shape();
        let count: usize = equals.iter().map(|work| work.tasks.len()).sum();
        let chosen = if Special::is_needed_by(shape) {
            self.choose_one_by_one(view, first, request, need)
        } else {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let machines = self.index.choose(&self.columns, request, eligible, self.policy, count);
            machines.iter().for_each(|&machine| self.columns.take(machine, &shape.resources));
            Chosen { machines, ..Chosen::default() }
        };
        let why = (chosen.machines.len() < count).then(|| self.why_no_more(view, first, request));
        // How a group's tasks are spread is its own affair, and so is what it lacks beside what its job holds; all else stands in the way of whoever needs
        // the same.
        let is_limited = GroupCounts::are_needed_by(shape) && why.as_ref().is_none_or(|why| why.limited() > 0);
        let mut hopeless = why.map(|why| Hopeless::of(&why));
        if let Some(hopeless) = hopeless.as_mut().filter(|_| first.least > 1) {
            hopeless.at_most = at_most_when_empty(view.cell(), &requirement(first, request), shape);
            // Nobody goes for what starts nowhere.
            hopeless.others_have_it &= hopeless.at_most >= u64::from(first.least);
        }
        if let Some(hopeless) = hopeless.as_ref().filter(|_| !is_limited && request.hold.is_none()) {
            self.pass.hopeless.insert(need.clone(), hopeless.clone());
        }
        (chosen, hopeless)
    }

    /// Claims machines for one group: those that were chosen for it, and others where somebody is evicted. Says why there is nothing for the rest, and gives how many
    /// tasks have one.
    fn claim(
        &mut self,
        view: &View<'_>,
        (work, mut free): (&Work, Chosen),
        hopeless: Option<&Hopeless>,
        (request, need): (&Request<'_>, &Need),
        (plan, decision): (&mut Plan, &mut Decision),
    ) -> usize {
        let (least, missing) = (work.least as usize, work.tasks.len() - free.machines.len());
        let others = hopeless.filter(|hopeless| hopeless.others_have_it && missing > 0);
        let (mut seats, denied) = match others {
            Some(_) => self.evict(view, work, (request, need), (missing, &free.machines)),
            None => (Vec::new(), Denied::Nobody),
        };
        let is_part = free.machines.len() + seats.len() < least;
        let at_once = if is_part { least } else { 1 };
        let told = |hopeless: &Hopeless| denied.told(&work.job.shape.scheduler, at_once, &hopeless.reason);
        let mut reason = hopeless.and_then(told);
        if is_part {
            // For an equal one, which does not look again, there is as much. Seats are not told of: whom to evict is not looked for each time.
            let fit = hopeless.map_or(0, |known| known.fit).max(free.machines.len());
            if let Some(known) = self.pass.hopeless.get_mut(need).filter(|_| request.hold.is_none()) {
                known.fit = fit;
            }
            // A part of a gang would be refused as mates: its room is left to others, who are not waiting for the rest. Nobody goes for it.
            self.evictions.spare(work.shape(), &seats);
            free.machines.extend(std::mem::take(&mut seats).iter().map(|seat| seat.machine));
            self.give_back(view, work, std::mem::take(&mut free).machines);
            self.pass.ruled_out.remove(need);
            let at_most = hopeless.map_or(u64::MAX, |known| known.at_most);
            reason = reason.map(|reason| not_at_once(least, (fit, at_most), &reason));
        }
        free.machines.extend(seats.iter().map(|seat| seat.machine));
        let (placed, left) = work.tasks.split_at(free.machines.len());
        plan.claim(work, placed, &free.machines);
        for (position, devices) in &free.named {
            plan.devices(placed[*position], devices);
        }
        let evicting = &placed[placed.len() - seats.len()..];
        self.evictions.claimed(view, work, (evicting, &seats), plan);
        let machines: BTreeSet<u32> = seats.iter().map(|seat| seat.machine).collect();
        for machine in machines {
            self.evictions.leaving(machine, &work.job).for_each(|&victim| {
                plan.evict(machine, victim);
            });
        }
        if let Some(reason) = reason.filter(|_| !left.is_empty()) {
            decision.pass_over(work, left.len(), reason);
        }
        placed.len()
    }

    /// Machines for tasks of a group on which somebody is evicted for them, booked; and why there are no more.
    fn evict(
        &mut self,
        view: &View<'_>,
        work: &Work,
        asked: (&Request<'_>, &Need),
        (tasks, free): (usize, &[u32]),
    ) -> (Vec<Seat>, Denied) {
        let special = Special::is_needed_by(work.shape());
        let specials = if special { Some(self.pass.specials.get_or_insert_with(|| view.specials())) } else { None };
        let spread = matches!(self.policy, Policy::Spread).then_some(free);
        let books = evictions::Books { view, columns: &mut self.columns, specials, spread };
        let (seats, denied) = self.evictions.seats(books, work, asked, tasks);
        if let (Some(gpus), Some(specials)) = (&mut self.gpus, self.pass.specials.as_ref().filter(|_| special)) {
            for seat in seats.iter().filter(|seat| !seat.devices.is_empty()) {
                gpus.put(Books { cell: view.cell(), columns: &self.columns, specials }, seat.machine);
            }
        }
        (seats, denied)
    }

    /// Whoever is placed from now on in this decision is not worth an eviction.
    pub(crate) fn evict_no_more(&mut self) {
        self.evictions.end();
    }

    /// A plan whose outcome [`Placer::answered`] is to be told.
    pub(crate) fn plan(&mut self) -> Plan {
        Plan::incremental().tagged(self.evictions.next_tag())
    }

    /// What became of a plan of [`Placer::plan`].
    pub(crate) fn answered(&mut self, tag: u64, outcome: &Outcome) {
        self.evictions.answered(tag, outcome);
    }

    /// When the next decision can go on with what was put off in this one, in microseconds.
    pub(crate) fn goes_on_micros(&self) -> Option<i64> {
        self.evictions.goes_on_micros()
    }

    /// Takes back what tasks of a group were to get, the last first.
    fn give_back(&mut self, view: &View<'_>, work: &Work, machines: Vec<u32>) {
        for machine in machines.into_iter().rev() {
            self.columns.give(machine, &work.shape().resources);
            let Some(specials) = self.pass.specials.as_mut().filter(|_| Special::is_needed_by(work.shape())) else {
                continue;
            };
            specials.give(view.cell(), &work.job, work.group, machine);
            if let Some(gpus) = &mut self.gpus {
                gpus.put(Books { cell: view.cell(), columns: &self.columns, specials }, machine);
            }
        }
    }

    /// Why no machine takes one more task of the group.
    fn why_no_more(&self, view: &View<'_>, work: &Work, request: &Request<'_>) -> Unplaced {
        let shape = work.shape();
        self.count_judged(|| if request.home.is_some() { 1 } else { view.cell().machines().count() });
        let beyond = |slot: u32| beyond(self.pass.specials.as_ref()?, view.cell(), work, slot);
        explain(&self.columns, view.cell(), &requirement(work, request), &shape.constraints, &[&shape.devices], beyond)
    }

    /// Machines that this decision has judged one by one so far.
    #[cfg(test)]
    pub(crate) fn judged(&self) -> usize {
        self.pass.judged.get()
    }

    #[cfg(test)]
    fn count_judged(&self, machines: impl FnOnce() -> usize) {
        self.pass.judged.set(self.pass.judged.get() + machines());
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "only tests count")]
    fn count_judged(&self, _: impl FnOnce() -> usize) {}

    /// The machine that the job's tasks share, where they do; chosen now if it was not before.
    ///
    /// # Errors
    /// Why there is none, where there is something to say of it.
    fn home(&mut self, view: &View<'_>, work: &Work) -> Result<Option<u32>, Option<String>> {
        if !work.job.shape.same_machine {
            return Ok(None);
        }
        let known = self.pass.homes.get(&work.job.id).copied().or_else(|| view.home(&work.job));
        if let Some(home) = known {
            return Ok(Some(home));
        }
        let need = self.need(view, &work.job);
        let hold = view.cell().hold(work.job.id);
        if let Some(hopeless) = self.pass.homeless.get(&need).filter(|_| hold.is_none()).cloned() {
            return self.home_of_others(view, work, &need, &hopeless).map(Some);
        }
        let settings = self.settings_of(&work.job.shape.groups);
        let specials = need.is_special().then(|| &*self.pass.specials.get_or_insert_with(|| view.specials()));
        let width = self.pass.widths.get(&need).copied().filter(|_| hold.is_none()).unwrap_or_default();
        let known = (&*need, width);
        match shared_machine::choose_home(&mut self.columns, specials, view.cell(), &work.job, known, settings) {
            Ok(home) => {
                if hold.is_none() {
                    self.pass.widths.insert(need, home.width);
                }
                self.pass.homes.insert(work.job.id, home.machine);
                Ok(Some(home.machine))
            }
            Err(why) => {
                self.count_judged(|| view.cell().machines().count());
                let hopeless = Hopeless::of(&why);
                if hold.is_none() {
                    self.pass.homeless.insert(need.clone(), hopeless.clone());
                }
                self.home_of_others(view, work, &need, &hopeless).map(Some)
            }
        }
    }

    /// What a job asks of the machine that its tasks share.
    fn need(&mut self, view: &View<'_>, job: &Job) -> Arc<shared_machine::Need> {
        let need = || Arc::new(shared_machine::Need::of(view.cell(), job));
        self.pass.needs.entry(job.id).or_insert_with(need).clone()
    }

    /// The machine on which others are evicted for a job whose tasks share one, as they need its room. By room alone: what asks for devices waits for them.
    fn home_of_others(
        &mut self,
        view: &View<'_>,
        work: &Work,
        need: &Arc<shared_machine::Need>,
        hopeless: &Hopeless,
    ) -> Result<u32, Option<String>> {
        let mut denied = Denied::Nobody;
        if hopeless.others_have_it && !need.is_special() {
            let eligible = shared_machine::eligible(&mut self.columns, view.cell(), &work.job, need);
            match self.evictions.home((view, &self.columns), work, eligible.as_deref(), need) {
                Ok(home) => {
                    self.pass.homes.insert(work.job.id, home);
                    return Ok(home);
                }
                Err(why) => denied = why,
            }
        }
        let Some(reason) = denied.told(&work.job.shape.scheduler, 1, &hopeless.reason) else { return Err(None) };
        if matches!(denied, Denied::Enough | Denied::Usable) && view.cell().hold(work.job.id).is_none() {
            // Those behind it are of no higher band.
            let known = Hopeless { reason: reason.clone(), others_have_it: false, fit: 0, at_most: u64::MAX };
            self.pass.homeless.insert(need.clone(), known);
        }
        Err(Some(no_home(view.cell(), work, need, &reason)))
    }
}

/// What one more task of the group asks of a machine, but for what few declare.
fn requirement<'r>(work: &'r Work, request: &Request<'r>) -> Requirement<'r> {
    Requirement {
        resources: &work.shape().resources,
        classes: request.eligible.map(Eligible::classes),
        home: request.home,
        job: work.job.id,
        special: None,
    }
}

/// What stands between one more task of the group and a machine that has room, with what people need to know of it.
pub(crate) fn beyond(specials: &Specials, cell: &Cell, work: &Work, slot: u32) -> Option<Beyond> {
    let obstacle = specials.obstacle(cell, work, slot)?;
    Beyond::of(obstacle, work.shape(), || specials.device_rooms(cell, slot))
}

/// Why nothing of a group is placed whose job finds no machine to share: one that has room for what any group starts with, which may be another one than this.
fn no_home(cell: &Cell, work: &Work, need: &shared_machine::Need, why: &str) -> String {
    let has_tasks = |group: u16| cell.group(&work.job, group).is_none_or(|row| row.count > 0);
    let mut groups = (0..).zip(&work.job.shape.groups);
    let has_gang = !need.is_special() && groups.any(|(group, shape)| shape.min > 1 && has_tasks(group));
    match work.least as usize {
        least @ 2.. if has_gang => format!("it starts with {least} at once, and its tasks share a machine: {why}"),
        _ if has_gang => format!("its tasks share a machine, on which a group starts with several at once: {why}"),
        0 => format!("its tasks share a machine: {why}"),
        least => not_at_once(least, (0, u64::MAX), &format!("its tasks share a machine: {why}")),
    }
}

/// Why nothing of a group is placed that starts with so many tasks, or with none, where fewer fit, be it even on empty machines. What one more lacks would not do
/// for the others.
fn not_at_once(least: usize, (fit, at_most): (usize, u64), why: &str) -> String {
    if least == 1 {
        return format!("the one task that it still needs to start does not fit: {why}");
    }
    let fits = match fit {
        0 => "none fits".to_owned(),
        1 => "1 fits".to_owned(),
        _ => format!("{fit} fit"),
    };
    // That one alone is too small even when empty is said of the machines.
    let more = match at_most {
        1.. if at_most < least as u64 => format!(", and even on empty machines at most {at_most}"),
        _ if fit == 0 => String::new(),
        _ => ", and not one more".to_owned(),
    };
    format!("it starts with {least} at once, of which {fits}{more}: {why}")
}
