//! What the hold of a job is to be: so much on each of so many machines, and on which ones.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{
    Attributes, Cell, ClassSet, Constraint, GroupCounts, GroupShape, Job, JobId, Machine, MachineState, Resource,
    Resources, Room, Special, choose_devices, device_rooms, most_when_empty,
};

use super::vain::Vain;

/// Free room, as a hold of one job finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rooms<'a> {
    pub(super) cell: &'a Cell,
    pub(super) job: JobId,
    /// What own claims, and own holds that are asked for, may take, by slot.
    pub(super) promised: &'a BTreeMap<u32, Resources>,
    /// What of that is for the holds.
    pub(super) asked: &'a BTreeMap<u32, Resources>,
}

impl Rooms<'_> {
    /// The same as another job finds it.
    pub(super) const fn of(self, job: JobId) -> Self {
        Self { job, ..self }
    }

    /// What the job may hold on a machine: room of holds that come after its own is among it. What it holds there by now no claim takes: one that is promised as much
    /// on that machine gets it from elsewhere, as from those whom it evicts. An earlier hold that is asked for may take it.
    pub(super) fn room_to_hold(&self, slot: u32) -> Room {
        let mut room = self.cell.room_to_hold(slot, self.job);
        let Some(promised) = self.promised.get(&slot) else { return room };
        let mut beside_holds = room;
        self.asked.get(&slot).into_iter().for_each(|asked| beside_holds.take(asked));
        room.take(promised);
        if let Some(hold) = self.cell.hold(self.job).filter(|hold| hold.machines.binary_search(&slot).is_ok()) {
            let kept = beside_holds.positive().at_most(&hold.resources);
            room.add(&room.lack(&kept));
        }
        room
    }

    /// Whether it may hold so much there.
    pub(super) fn may_hold(&self, slot: u32, each: &Resources) -> bool {
        self.room_to_hold(slot).shortage(each).is_none()
    }

    /// What is free there beside the holds of others.
    pub(super) fn room_to_claim(&self, slot: u32) -> Room {
        self.less_promised(slot, self.cell.room_for(slot, self.job))
    }

    /// Whether so much is free there, without a hold.
    pub(super) fn may_claim(&self, slot: u32, each: &Resources) -> bool {
        self.room_to_claim(slot).shortage(each).is_none()
    }

    /// Whether anybody holds room there.
    pub(super) fn is_held(&self, slot: u32) -> bool {
        !self.cell.held_by(slot).is_empty()
    }

    fn less_promised(&self, slot: u32, mut room: Room) -> Room {
        self.promised.get(&slot).into_iter().for_each(|promised| room.take(promised));
        room
    }
}

/// See the module.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Default))]
pub(super) struct Aim {
    /// What is to be held on each machine.
    pub(super) each: Resources,
    /// For so many tasks of this group.
    pub(super) tasks: u64,
    group: u16,
    /// On so many machines.
    pub(super) machines: usize,
    /// Of machines on which tasks of the group may run, and those of all groups that are to share one; `None`: of any.
    classes: Option<ClassSet>,
    /// What the group's own tasks leave of its limits; `None`: it has none.
    limits: Option<Limits>,
    /// The machine that the job's tasks share, once it was chosen.
    home: Option<u32>,
    /// Which of these groups have tasks that need devices: only machines that have them for so many tasks of its own, and for one of each other group, whoever uses
    /// them, are of use.
    equipped_for: Option<(Arc<Job>, Vec<u16>)>,
}

/// How many tasks of a group may be on machines, for all that `per_machine` and `spread` say and for what runs of it.
#[derive(Clone, Debug)]
struct Limits {
    job: Arc<Job>,
    group: u16,
    counts: GroupCounts,
}

impl Limits {
    fn of(cell: &Cell, job: &Arc<Job>, group: u16) -> Option<Self> {
        let are_needed = job.shape.groups.get(usize::from(group)).is_some_and(GroupCounts::are_needed_by);
        are_needed.then(|| Self { job: job.clone(), group, counts: GroupCounts::of(cell, job, group) })
    }

    fn shape(&self) -> &GroupShape {
        &self.job.shape.groups[usize::from(self.group)]
    }

    /// So many more may be on a machine, were they the only ones that come.
    fn left_on(&self, cell: &Cell, slot: u32) -> u64 {
        let shape = self.shape();
        let less = |limit: u32, there: i64| u64::try_from(i64::from(limit).saturating_sub(there)).unwrap_or(0);
        let of_machine = (shape.per_machine > 0).then(|| less(shape.per_machine, self.counts.on_machine(slot)));
        // Where a machine lacks the attribute none may be.
        let rules = shape.spread.iter().enumerate().map(|(position, rule)| {
            self.counts.beside(cell, shape, slot, position).map_or(0, |there| less(rule.at_most, there))
        });
        rules.chain(of_machine).min().unwrap_or(u64::MAX)
    }

    /// Counts so many on a machine, if they may be there.
    fn take(&mut self, cell: &Cell, slot: u32, tasks: u64) -> bool {
        let may = tasks <= self.left_on(cell, slot);
        if may {
            let job = self.job.clone();
            let shape = &job.shape.groups[usize::from(self.group)];
            self.counts.add(cell, shape, slot, i64::try_from(tasks).unwrap_or(i64::MAX));
        }
        may
    }
}

impl Aim {
    /// Room for `count` tasks of a group. Where it is for `all` of them at once: as a hold has the same amount on all its machines, for the fewest tasks a machine with
    /// which there are enough machines, were they empty. The smaller it is on each, the sooner one has that free, and the less is held beyond what is needed. Where it is
    /// for some: for one a machine, on as many machines; who holds room there loses the machine, so that others of them may follow. Where all tasks of the job are to
    /// share a machine that is not chosen yet, it is for what any one of its groups starts with: schedulers choose it for the job as a whole. `None` where the cell has
    /// no such room, or the namespace's quota allows that to nobody, or the tasks need none. Walks over all machines.
    pub(super) fn of(cell: &Cell, job: &Arc<Job>, group: u16, (count, all): (u32, bool)) -> Option<Self> {
        let shape = job.shape.groups.get(usize::from(group))?;
        let others = sharing(cell, job, group);
        let largest = largest(cell, job, (group, &others))?;
        // With an empty namespace.
        let quota = cell.quota(&job.shape.namespace);
        let allowed = |each: &Resources| quota.map_or(u64::MAX, |quota| quota.headroom(&Resources::default(), each));
        let is_allowed = !all || (allowed(&shape.resources) >= u64::from(count) && allowed(&largest) >= 1);
        let needs_none = shape.resources.is_nothing() && largest.is_nothing();
        (is_allowed && !needs_none).then_some(())?;
        let home = job.home.filter(|_| job.shape.same_machine);
        let groups = || std::iter::once(group).chain(others.iter().copied());
        let classes = suitable(cell, job, groups());
        let limits = Limits::of(cell, job, group);
        let equipped: Vec<u16> =
            groups().filter(|group| shape_of(job, *group).is_some_and(|shape| !shape.devices.is_empty())).collect();
        let equipped_for = (!equipped.is_empty()).then(|| (job.clone(), equipped));
        let mut aim = Self { each: shape.resources, tasks: 1, group, machines: 1, classes, limits, home, equipped_for };
        let count = u64::from(count);
        let mut machines: BTreeMap<u64, usize> = BTreeMap::new();
        for slot in (0..cell.machine_rows().len()).filter(|&slot| aim.suits(cell, slot)) {
            let machine = cell.machine_in(slot).filter(|machine| largest.fits_in(&machine.capacity));
            let tasks = machine.map_or(0, |machine| at_most(machine, shape));
            let tasks = aim.limits.iter().map(|limits| limits.left_on(cell, slot)).fold(tasks, u64::min);
            *machines.entry(tasks.min(count)).or_default() += 1;
        }
        machines.remove(&0);
        let count = match (all, job.shape.same_machine) {
            (true, _) => count,
            (false, true) => count.min(number(machines.len())).min(1),
            (false, false) => count.min(number(machines.values().sum())),
        };
        aim.tasks = match (all, job.shape.same_machine) {
            (true, true) => machines.contains_key(&count).then_some(count)?,
            (true, false) => tasks_a_machine(&machines, count)?,
            (false, _) => (count > 0).then_some(1)?,
        };
        aim.each = upper(&times(&shape.resources, aim.tasks)?, &largest);
        aim.machines = usize::try_from(count.div_ceil(aim.tasks)).unwrap_or(usize::MAX);
        aim.is_within_spread(cell, shape, count).then_some(aim)
    }

    /// Whether so many could be in the cell for all that `spread` says, were it empty otherwise. Of several rules that is not looked into.
    fn is_within_spread(&self, cell: &Cell, shape: &GroupShape, count: u64) -> bool {
        let Some(mut limits) = self.limits.clone().filter(|_| shape.spread.len() == 1) else { return true };
        let most = |slot: u32| cell.machine_in(slot).map_or(0, |machine| at_most(machine, shape));
        let slots = (0..cell.machine_rows().len()).filter(|&slot| self.is_open(cell, slot));
        let taken = slots.map(|slot| {
            let tasks = most(slot).min(limits.left_on(cell, slot));
            if limits.take(cell, slot, tasks) { tasks } else { 0 }
        });
        taken.fold(0, u64::saturating_add) >= count
    }

    /// Whether tasks of the group may run on a machine, whatever is free there, and so many more of them as it is for.
    pub(super) fn suits(&self, cell: &Cell, slot: u32) -> bool {
        let is_within = || self.limits.as_ref().is_none_or(|limits| limits.left_on(cell, slot) >= self.tasks);
        let is_equipped = || {
            let mut equipment = self.equipment();
            equipment
                .all(|(shape, tasks)| cell.machine_in(slot).is_some_and(|machine| at_most(machine, shape) >= tasks))
        };
        self.is_open(cell, slot) && is_within() && is_equipped()
    }

    /// Whether nobody uses the devices on a machine that the tasks need.
    pub(super) fn finds_devices(&self, cell: &Cell, slot: u32) -> bool {
        if self.equipped_for.is_none() {
            return true;
        }
        let Some(machine) = cell.machine_in(slot) else { return false };
        let rooms = device_rooms(cell, machine);
        self.equipment().all(|(shape, tasks)| {
            let mut rooms = rooms.clone();
            (0..tasks).all(|_| choose_devices(&mut rooms, &shape.devices).is_ok())
        })
    }

    /// The groups whose devices a machine is to have, each with how many tasks it is to have them for, be it one group after the other.
    fn equipment(&self) -> impl Iterator<Item = (&GroupShape, u64)> {
        let groups = self.equipped_for.iter().flat_map(|(job, groups)| groups.iter().map(move |group| (job, *group)));
        groups.filter_map(move |(job, group)| {
            let tasks = if group == self.group { self.tasks } else { 1 };
            Some((shape_of(job, group)?, tasks))
        })
    }

    /// Whether tasks of the group may run on a machine, whatever is there.
    fn is_open(&self, cell: &Cell, slot: u32) -> bool {
        let Some(row) = cell.machine_row(slot).filter(|row| row.state == MachineState::Ready) else { return false };
        let of_class = self.classes.as_ref().is_none_or(|classes| classes.contains(row.class));
        of_class && self.home.is_none_or(|home| home == slot)
    }

    /// Whether a machine suits, and has some of each resource.
    pub(super) fn has_some(&self, rooms: &Rooms<'_>, slot: u32) -> bool {
        let part = || rooms.room_to_hold(slot).positive().at_most(&self.each);
        self.suits(rooms.cell, slot) && thousandths_of(&part(), &self.each) > 0
    }

    /// Machines to hold it on, rising, as many as there are and no more than are needed: at first those of `kept`, then those of `slots` that have it free,
    /// then those where later holds lose it; but for those on which it `leaves` what is free to others. Of those that have it free the ones come last that it `tried` in vain, the later the later.
    pub(super) fn choose(
        &self,
        rooms: &Rooms<'_>,
        kept: &[u32],
        (slots, tried): (&[u32], impl Fn(u32) -> usize),
        mut leaves: impl FnMut(u32) -> bool,
    ) -> Vec<u32> {
        let has_it = |slot: &u32| self.suits(rooms.cell, *slot) && rooms.may_hold(*slot, &self.each);
        // Of machines that each may have some together not all may.
        let mut limits = self.limits.clone();
        let mut takes = |slot: &u32| limits.as_mut().is_none_or(|limits| limits.take(rooms.cell, *slot, self.tasks));
        let mut chosen: Vec<u32> = kept.iter().copied().filter(has_it).filter(&mut takes).take(self.machines).collect();
        let missing = self.machines - chosen.len();
        // What was kept and not chosen does not suit, or there are enough.
        let others = slots.iter().copied().filter(|slot| kept.binary_search(slot).is_err()).filter(has_it);
        let others = others.collect::<BTreeSet<u32>>().into_iter();
        let (mut free, held): (Vec<u32>, Vec<u32>) = others.partition(|slot| rooms.may_claim(*slot, &self.each));
        free.sort_by_key(|slot| tried(*slot));
        let others = free.into_iter().chain(held).filter(|slot| !leaves(*slot)).filter(takes);
        chosen.extend(others.take(missing));
        chosen.sort_unstable();
        chosen
    }

    /// The first of these machines, as many as are needed, that may all have tasks for all that the group's limits say.
    pub(super) fn together(&self, cell: &Cell, slots: &[u32]) -> Vec<u32> {
        let mut limits = self.limits.clone();
        let takes = |slot: &u32| limits.as_mut().is_none_or(|limits| limits.take(cell, *slot, self.tasks));
        slots.iter().copied().filter(takes).take(self.machines).collect()
    }

    /// The machine that has most of it, and how much that has: for who needs a single one. The one of `kept` comes first, as long as it suits, and then where holds were not in `vain`. `None` where
    /// none has some of each resource, but for those on which it `leaves` that to others.
    pub(super) fn part(
        &self,
        rooms: &Rooms<'_>,
        kept: &[u32],
        (slots, vain): (&[u32], &Vain),
        mut leaves: impl FnMut(u32) -> bool,
    ) -> Option<(u32, Resources)> {
        let part_of = |slot: u32| {
            let part = rooms.room_to_hold(slot).positive().at_most(&self.each);
            let machine = rooms.cell.machine_in(slot).filter(|_| self.suits(rooms.cell, slot))?;
            let is_large_enough = self.each.fits_in(&machine.capacity);
            let thousandths = is_large_enough.then(|| thousandths_of(&part, &self.each)).filter(|&part| part > 0)?;
            Some((thousandths, slot, part))
        };
        if let Some((_, slot, part)) = kept.iter().find_map(|&slot| part_of(slot)) {
            return Some((slot, part));
        }
        let others = slots.iter().copied().filter(|slot| vain.may_begin_on(*slot));
        let mut parts: Vec<_> = others.filter_map(part_of).collect();
        // Of equal ones the lowest slot.
        parts.sort_by_cached_key(|&(thousandths, slot, _)| (vain.order(rooms.cell, slot), Reverse(thousandths), slot));
        parts.into_iter().map(|(_, slot, part)| (slot, part)).find(|(slot, _)| !leaves(*slot))
    }
}

/// How often an amount fits in another one.
pub(super) fn fits(each: &Resources, room: &Resources) -> u64 {
    let asked = Resource::ALL.into_iter().filter(|&resource| each.get(resource) > 0);
    asked.map(|resource| room.get(resource) / each.get(resource)).min().unwrap_or(0)
}

fn shape_of(job: &Job, group: u16) -> Option<&GroupShape> {
    job.shape.groups.get(usize::from(group))
}

/// The other groups that the machine of a job is chosen for, too: all that have tasks, where all tasks are to share one and none was chosen yet.
fn sharing(cell: &Cell, job: &Job, group: u16) -> Vec<u16> {
    if !job.shape.same_machine || job.home.is_some() {
        return Vec::new();
    }
    let has_tasks = |other: &u16| cell.group(job, *other).is_some_and(|row| row.count > 0);
    job.group_positions().filter(|other| *other != group && has_tasks(other)).collect()
}

/// The most of each resource that any one of these others starts with. Where any group asks for more than room, the most that one task has: with room for that the
/// built-in schedulers choose a machine then, and for less none. `None` beyond all bounds.
fn largest(cell: &Cell, job: &Job, (group, others): (u16, &[u16])) -> Option<Resources> {
    let mut shapes = others.iter().chain([&group]).filter_map(|group| shape_of(job, *group));
    let any_is_special = shapes.any(Special::is_needed_by);
    let mut largest = Resources::default();
    for &other in others {
        let (Some(shape), Some(row)) = (shape_of(job, other), cell.group(job, other)) else { continue };
        let tasks = if any_is_special { 1 } else { shape.least_at_once(row).max(1) };
        largest = upper(&largest, &times(&shape.resources, tasks.into())?);
    }
    Some(largest)
}

/// Machines on which tasks of all these groups may run, by their attributes; `None`: on all.
fn suitable(cell: &Cell, job: &Job, groups: impl Iterator<Item = u16>) -> Option<ClassSet> {
    let closed = cell.partitions().map(|(_, partition)| partition);
    let closed: Vec<_> = closed.filter(|partition| !partition.is_open_to(&job.shape.scheduler)).collect();
    let constraints: Vec<&Constraint> =
        groups.filter_map(|group| shape_of(job, group)).flat_map(|shape| &shape.constraints).collect();
    if constraints.is_empty() && closed.is_empty() {
        return None;
    }
    let mut classes = ClassSet::default();
    classes.refresh_by(cell, |attributes| {
        let holds = constraints.iter().all(|rule| rule.holds(attributes));
        holds && !closed.iter().any(|partition| partition.has(attributes))
    });
    Some(classes)
}

/// Whether tasks of a scheduler may run on machines with these attributes, for all that partitions say.
pub(super) fn is_open(cell: &Cell, scheduler: &str, attributes: &Attributes) -> bool {
    cell.partitions().all(|(_, partition)| partition.is_open_to(scheduler) || !partition.has(attributes))
}

/// How many tasks of a group a machine can have when it is empty.
pub(super) fn at_most(machine: &Machine, shape: &GroupShape) -> u64 {
    let limit = if shape.per_machine == 0 { u64::MAX } else { shape.per_machine.into() };
    most_when_empty(&machine.capacity, &machine.devices, shape).min(limit)
}

/// The fewest tasks a machine with which as many machines as there are have `count` in all. `machines`: how many can have so many at most. One each where they can
/// have them, and not with the same number everywhere; `None` where they can't.
fn tasks_a_machine(machines: &BTreeMap<u64, usize>, count: u64) -> Option<u64> {
    if count == 0 || in_all(machines) < count {
        return None;
    }
    let (mut left, mut before) = (machines.values().sum::<usize>(), 0);
    for (&tasks, &of) in machines {
        let least = count.div_ceil(number(left).max(1)).max(before + 1);
        if least <= tasks {
            return Some(least);
        }
        (left, before) = (left - of, tasks);
    }
    Some(1)
}

fn in_all(machines: &BTreeMap<u64, usize>) -> u64 {
    let tasks = machines.iter().map(|(&tasks, &of)| tasks.saturating_mul(number(of)));
    tasks.fold(0, u64::saturating_add)
}

fn number(machines: usize) -> u64 {
    u64::try_from(machines).unwrap_or(u64::MAX)
}

/// So many times an amount; `None` where that is beyond what a cell takes.
fn times(each: &Resources, tasks: u64) -> Option<Resources> {
    let of = |resource: Resource| each.get(resource).saturating_mul(tasks);
    let [cpu_millis, memory_bytes, disk_bytes, custom @ ..] = Resource::ALL.map(of);
    Some(Resources { cpu_millis, memory_bytes, disk_bytes, custom }).filter(Resources::within_bounds)
}

/// The larger of both in each dimension.
fn upper(one: &Resources, other: &Resources) -> Resources {
    one.with(&other.without(one))
}

/// How much of an amount a part is, in thousandths, by the resource of which it has least.
fn thousandths_of(part: &Resources, whole: &Resources) -> u64 {
    let asked = Resource::ALL.into_iter().filter(|&resource| whole.get(resource) > 0);
    let of = |resource: Resource| u128::from(part.get(resource)) * 1000 / u128::from(whole.get(resource));
    asked.map(of).min().map_or(0, |least| u64::try_from(least).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_tasks_a_machine_are_chosen_with_which_there_are_enough_machines() {
        let of = |machines: &[(u64, usize)], count| tasks_a_machine(&machines.iter().copied().collect(), count);
        assert_eq!(of(&[(1, 4)], 4), Some(1));
        assert_eq!(of(&[(4, 2)], 4), Some(2), "two each, and not four on one");
        assert_eq!(of(&[(1, 3), (5, 2)], 8), Some(4), "the small ones are of no use then");
        assert_eq!(of(&[(1, 2), (5, 1)], 6), Some(1), "no one number will do: as far as it goes");
        assert_eq!(of(&[(1, 2), (5, 1)], 8), None);
        assert_eq!(of(&[], 1), None);
    }

    #[test]
    fn amounts_are_compared_by_what_is_scarcest() {
        let each = Resources::new(1000, 100);
        assert_eq!(fits(&each, &Resources::new(5000, 350)), 3);
        assert_eq!(thousandths_of(&Resources::new(500, 100), &each), 500);
        assert_eq!(thousandths_of(&Resources::new(1000, 0), &each), 0);
        assert_eq!(times(&each, 3), Some(Resources::new(3000, 300)));
        assert_eq!(times(&each, u64::MAX), None);
        assert_eq!(upper(&each, &Resources::new(500, 200)), Resources::new(1000, 200));
    }
}
