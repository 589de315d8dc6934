//! One machine for all tasks of a job that share a directory: chosen once, before its first task, and for all that follow.

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_model::{
    Affinity, Cell, Constraint, Device, GroupShape, Job, JobShape, Requirement, Resource, Resources, Special,
};
use plenum_policies::{Columns, Eligible, Policy, Request, Settings, Suits, Unplaced, choose, explain};
use plenum_sdk::{Specials, Work};

use crate::placer::{DeviceNeed, beyond, device_need};

/// Devices and ports that are judged together. More of them at once no machine has, or hardly any.
const AT_ONCE_MAX: usize = 1024;

/// Sets of groups that are looked at. Jobs of a few groups have a few; three rows of five groups each, one after the other in a row, have 125. To find so many of 64 groups takes a
/// million steps.
const SETS_MAX: usize = 128;

/// What makes one such job as hard to place as another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    /// What all have that may run side by side.
    at_once: Option<Resources>,
    /// What its groups start with side by side.
    least: Option<Resources>,
    /// The least that is of use: what any one of its groups starts with. Of a job that asks for more than room, one task of any: for the others of a gang
    /// tasks are evicted on the machine that it has then, and on none before.
    largest: Resources,
    constraints: Vec<Constraint>,
    /// Of each group that asks for more than room: its devices and ports.
    specials: Vec<(Vec<DeviceNeed>, Vec<u16>)>,
    /// Attributes that its machine must have, for the sake of spread rules.
    spread: Vec<Arc<str>>,
    /// Of each group that asks for more than room: how many tasks it has and starts with, and how many of them one machine may have.
    layout: Vec<(u32, u32, u32)>,
    /// Which of these groups may run side by side.
    beside: Vec<u64>,
}

impl Need {
    pub(crate) fn of(cell: &Cell, job: &Job) -> Self {
        let laid_out = laid_out(cell, job);
        let (all, special): (Vec<&Laid<'_>>, _) = (laid_out.iter().collect(), special(&laid_out));
        let sets = side_by_side(&all);
        let shapes = || laid_out.iter().map(|group| group.shape);
        let task = shapes().fold(Resources::default(), |most, shape| upper(&most, &shape.resources));
        let plain = all.iter().filter(|_| special.is_empty());
        let starts = plain.filter_map(|group| at_once(&all, &[group.bit()], |group| group.least));
        let specials = special.iter().map(|group| {
            let GroupShape { devices, ports, .. } = group.shape;
            (devices.iter().map(device_need).collect(), ports.iter().map(|port| port.number).collect())
        });
        Self {
            at_once: at_once(&all, &sets, |group| group.count),
            least: at_once(&all, &sets, |group| group.least),
            largest: starts.fold(task, |most, group| upper(&most, &group)),
            constraints: shapes().flat_map(|shape| shape.constraints.iter().cloned()).collect(),
            specials: specials.collect(),
            spread: shapes().flat_map(|shape| shape.spread.iter().map(|rule| rule.attribute.clone())).collect(),
            layout: special.iter().map(|group| (group.count, group.least, group.shape.per_machine)).collect(),
            beside: side_by_side(&special),
        }
    }

    /// What its machine has to have: best all that may run side by side, or else what its groups start with side by side, and at least what any one starts with.
    pub(crate) fn rooms(&self) -> Vec<&Resources> {
        let mut rooms: Vec<&Resources> = self.at_once.iter().chain(&self.least).chain([&self.largest]).collect();
        rooms.dedup();
        rooms
    }

    /// Whether a group asks for more than room.
    pub(crate) fn is_special(&self) -> bool {
        !self.specials.is_empty()
    }
}

/// Of how many tasks of each group a machine has the devices, ports and the like, side by side; the most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Width {
    /// Of all of them.
    #[default]
    All,
    /// Of as many as it starts with.
    Least,
    /// Of one, and of other groups not at the same time.
    One,
}

/// The machine slot that suits the job as a whole best.
///
/// Best is one with room now for all groups that may run side by side, the fullest of these first. Where there is none, tasks
/// have to take turns: then the emptiest machine that has room for what these groups start with, the minimum of each or one task of it; and else the emptiest
/// with room for what any one of them starts with, as on a smaller one a gang never starts. Where groups ask for devices, ports or the like, it has those of as
/// many tasks side by side, by the books in `specials`; and else those of one task of each group, and room for the largest task.
/// `known`: no machine is known to have more of them.
///
/// # Errors
/// Why there is none.
pub(crate) fn choose_home(
    columns: &mut Columns,
    specials: Option<&Specials>,
    cell: &Cell,
    job: &Arc<Job>,
    (need, known): (&Need, Width),
    settings: Settings,
) -> Result<Home, Box<Unplaced>> {
    let Need { at_once, least, largest, .. } = need;
    let eligible = eligible(columns, cell, job, need);
    let laid_out = laid_out(cell, job);
    let special = special(&laid_out);
    let one_of_each: Vec<Work> = special.iter().map(|group| one_task(job, group.position)).collect();
    // How near costs are that count as equal is said of best fits. Of shares of a machine, which are below one, it would make all equal.
    let exactly = Settings { nearness: 0.0, ..settings };
    let side_by_side = [(at_once.as_ref(), Policy::BestFit, settings), (least.as_ref(), Policy::Spread, exactly)];
    let in_turn = [(Some(largest), Policy::Spread, exactly)];
    for width in [Width::All, Width::Least, Width::One].into_iter().filter(|width| *width >= known) {
        // What asks for room alone has all else everywhere.
        let sets = match width {
            Width::Least if specials.is_none() => None,
            Width::All if specials.is_some() => together(job, &special, &need.beside, |group| group.count),
            Width::Least => together(job, &special, &need.beside, |group| group.least),
            Width::All | Width::One => Some(Vec::new()),
        };
        let Some(sets) = sets else { continue };
        let has_all = |slot: u32| {
            let mut works = one_of_each.iter().chain(&sets);
            works.all(|work| specials.is_none_or(|specials| specials.obstacle(cell, work, slot).is_none()))
        };
        let suits = specials.map(|_| Suits(&has_all));
        let best = if width == Width::One { &in_turn[..] } else { &side_by_side[..] };
        for &(resources, policy, settings) in best {
            let Some(resources) = resources else { continue };
            let hold = cell.hold(job.id);
            let request = Request { eligible: eligible.as_deref(), hold, suits, ..Request::new(resources, settings) };
            if let Some(&machine) = choose(columns, &request, policy, 1).first() {
                return Ok(Home { machine, width });
            }
        }
    }
    let classes = eligible.as_deref().map(Eligible::classes);
    let requirement = Requirement { resources: largest, classes, home: None, job: job.id, special: None };
    let devices: Vec<&[Device]> = one_of_each.iter().map(|work| &work.shape().devices[..]).collect();
    let beyond = |slot: u32| one_of_each.iter().find_map(|work| beyond(specials?, cell, work, slot));
    Err(Box::new(explain(columns, cell, &requirement, &need.constraints, &devices, beyond)))
}

/// Machines that satisfy the constraints of all groups of a job.
pub(crate) fn eligible(columns: &mut Columns, cell: &Cell, job: &Job, need: &Need) -> Option<Arc<Eligible>> {
    let affinities: Vec<Affinity> =
        job.shape.groups.iter().flat_map(|group| group.affinities.iter().cloned()).collect();
    columns.eligible_for(&job.shape.scheduler, &need.constraints, &affinities, cell)
}

/// A machine for a job.
pub(crate) struct Home {
    pub(crate) machine: u32,
    /// None has the devices and ports of more tasks at once.
    pub(crate) width: Width,
}

/// A group of a job, as it is now.
struct Laid<'a> {
    position: u16,
    shape: &'a GroupShape,
    /// All that have to be done before it begins, a bit each.
    before: u64,
    /// So many tasks it has.
    count: u32,
    /// So many of them it starts with.
    least: u32,
}

impl Laid<'_> {
    fn bit(&self) -> u64 {
        bit(self.position)
    }
}

/// What stands for a group in a set of them. A job has 64 at most; any further one would be in no set.
fn bit(position: u16) -> u64 {
    1_u64.checked_shl(position.into()).unwrap_or(0)
}

fn bits<'l, 'a: 'l>(groups: impl Iterator<Item = &'l Laid<'a>>) -> u64 {
    groups.fold(0, |all, group| all | group.bit())
}

/// The groups of a job that have tasks. Of one without any the cell asks nothing, and what comes after it does not wait for what that comes after.
fn laid_out<'a>(cell: &Cell, job: &'a Job) -> Vec<Laid<'a>> {
    let laid = |(position, shape): (u16, &'a GroupShape)| {
        let row = cell.group(job, position);
        // What the shape has is what it was submitted with.
        let count = row.map_or(shape.count, |row| row.count);
        let least = row.map_or(shape.min, |row| shape.least_at_once(row)).max(1);
        let before = shape.after.iter().fold(0_u64, |all, &before| all | bit(before));
        (count > 0).then_some(Laid { position, shape, before, count, least })
    };
    let mut groups: Vec<Laid<'a>> = (0..).zip(&job.shape.groups).filter_map(laid).collect();
    let there = bits(groups.iter());
    groups.iter_mut().for_each(|group| group.before &= there);
    // What comes after one comes after all that this one comes after: through one after the other (Warshall).
    for through in 0..groups.len() {
        let (own, before) = (groups[through].bit(), groups[through].before);
        groups.iter_mut().filter(|group| group.before & own != 0).for_each(|group| group.before |= before);
    }
    groups
}

/// Those that ask for more than room.
fn special<'l, 'a>(laid_out: &'l [Laid<'a>]) -> Vec<&'l Laid<'a>> {
    laid_out.iter().filter(|group| Special::is_needed_by(group.shape)).collect()
}

/// Which groups may run side by side: all sets of them in which none comes after another, and which have no further one. A group that runs long is beside
/// all that neither come before nor after it, however deep these stand. Where there are too many sets, the [`levels`].
fn side_by_side(groups: &[&Laid<'_>]) -> Vec<u64> {
    let mut sets = vec![0_u64];
    for group in groups {
        let after = bits(groups.iter().copied().filter(|other| other.before & group.bit() != 0));
        let beside = !(group.before | after);
        if sets.iter().all(|set| set & !beside == 0) {
            // It may run beside all of them: with it they are as whole as they were, and as different. To compare them would take long where there are many.
            sets.iter_mut().for_each(|set| *set |= group.bit());
            continue;
        }
        // Each set goes on with it, as far as it may run beside those in there; and without it, where it may not run beside all of them.
        let mut with: Vec<u64> = sets.iter().map(|set| (set & beside) | group.bit()).collect();
        with.sort_unstable();
        with.dedup();
        sets.retain(|set| set & !beside != 0);
        let is_whole = |set: &&u64| !with.iter().any(|other| other != *set && *set & !other == 0);
        sets.extend(with.iter().filter(is_whole));
        if sets.len() > SETS_MAX {
            return levels(groups);
        }
    }
    sets
}

/// The groups that come after nothing, those that come after these alone, and so on.
fn levels(groups: &[&Laid<'_>]) -> Vec<u64> {
    let mut left = bits(groups.iter().copied());
    let mut levels = Vec::new();
    // There are no more of them than groups. The cell refuses cycles; so none could hang a scheduler, either.
    for _ in groups {
        let is_next = |group: &&Laid<'_>| group.bit() & left != 0 && group.before & left == 0;
        let level = bits(groups.iter().copied().filter(is_next));
        left &= !level;
        levels.push(level);
    }
    levels
}

/// What so many tasks of each group have at once, in the set that has most. `None` beyond all bounds.
fn at_once(groups: &[&Laid<'_>], sets: &[u64], tasks: impl Fn(&Laid<'_>) -> u32) -> Option<Resources> {
    let mut most = Resources::default();
    for beside in sets {
        let mut sum = Resources::default();
        for group in groups.iter().copied().filter(|group| group.bit() & beside != 0) {
            for resource in Resource::ALL {
                let all = group.shape.resources.get(resource).checked_mul(tasks(group).into())?;
                let with = sum.get(resource).checked_add(all)?;
                set(&mut sum, resource, with);
            }
        }
        most = upper(&most, &sum);
    }
    most.within_bounds().then_some(most)
}

/// Each set of groups that may run side by side as one task that asks for the devices and ports of so many tasks of each of them, in their order. `None`: no
/// machine has them at once.
fn together(job: &Arc<Job>, groups: &[&Laid<'_>], sets: &[u64], tasks: impl Fn(&Laid<'_>) -> u32) -> Option<Vec<Work>> {
    let mut wholes = Vec::new();
    for beside in sets {
        let mut whole = GroupShape::default();
        for group in groups.iter().copied().filter(|group| group.bit() & beside != 0) {
            let (shape, tasks) = (group.shape, tasks(group));
            let more = (shape.devices.len() + shape.ports.len()).saturating_mul(tasks as usize);
            let is_limited = shape.per_machine > 0 && tasks > shape.per_machine;
            if is_limited || whole.devices.len() + whole.ports.len() + more > AT_ONCE_MAX {
                return None;
            }
            for _ in 0..tasks {
                whole.devices.extend_from_slice(&shape.devices);
                whole.ports.extend_from_slice(&shape.ports);
            }
        }
        let mut seen = BTreeSet::new();
        if whole.ports.iter().any(|port| port.number > 0 && !seen.insert(port.number)) {
            return None;
        }
        wholes.push(whole);
    }
    wholes.retain(Special::is_needed_by);
    let numbers = 0..u16::try_from(wholes.len()).ok()?;
    let shape = Arc::new(JobShape { groups: wholes, ..(*job.shape).clone() });
    let job = Arc::new(Job { shape, ..(**job).clone() });
    Some(numbers.map(|group| one_task(&job, group)).collect())
}

/// A further task of a group, wherever it may go.
fn one_task(job: &Arc<Job>, group: u16) -> Work {
    Work { job: job.clone(), group, tasks: Vec::new(), attempt: 1, least: 0 }
}

/// The larger of both in each dimension.
fn upper(left: &Resources, right: &Resources) -> Resources {
    let mut most = *left;
    for resource in Resource::ALL {
        set(&mut most, resource, left.get(resource).max(right.get(resource)));
    }
    most
}

fn set(resources: &mut Resources, resource: Resource, amount: u64) {
    match resource {
        Resource::CpuMillis => resources.cpu_millis = amount,
        Resource::MemoryBytes => resources.memory_bytes = amount,
        Resource::DiskBytes => resources.disk_bytes = amount,
        Resource::Custom(position) => resources.custom[usize::from(position)] = amount,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`side_by_side`] finds for groups of which each comes after such ones.
    fn found(before: &[u64]) -> Vec<u64> {
        let shape = GroupShape::default();
        let laid = |(position, &before)| Laid { position, shape: &shape, before, count: 1, least: 1 };
        let groups: Vec<Laid<'_>> = (0..).zip(before).map(laid).collect();
        let mut sets = side_by_side(&groups.iter().collect::<Vec<_>>());
        sets.sort_unstable();
        sets
    }

    #[test]
    fn what_may_run_side_by_side_is_what_is_found_by_looking_at_all_sets_of_groups() {
        const GROUPS: usize = 7;
        let mut state = 5_u32;
        let mut below = move |bound: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % bound
        };
        for case in 0..200 {
            let mut before: Vec<u64> = Vec::new();
            for later in 0..GROUPS {
                let some = (0..later).filter(|_| below(4) == 0);
                let all = some.fold(0_u64, |all, earlier| all | before[earlier] | (1_u64 << earlier));
                before.push(all);
            }
            if case % 2 == 0 {
                // Those that come first are declared last.
                before = before.iter().rev().map(|set| set.reverse_bits() >> (64 - GROUPS)).collect();
            }
            let may_be = |set: &u64| (0..GROUPS).all(|group| set & (1_u64 << group) == 0 || set & before[group] == 0);
            let all: Vec<u64> = (0..1_u64 << GROUPS).filter(may_be).collect();
            let is_whole = |set: &&u64| !all.iter().any(|other| other != *set && *set & !other == 0);
            let whole: Vec<u64> = all.iter().filter(is_whole).copied().collect();
            assert_eq!(found(&before), whole, "{before:?}");
        }
    }

    #[test]
    fn rows_of_groups_and_many_by_themselves_are_told_in_as_many_sets_as_the_rows_have_ways() {
        // Seven rows of two, and then as many as a job may have.
        let before: Vec<u64> =
            (0_u32..64).map(|group| if group < 14 { u64::from(group % 2) << (group & !1) } else { 0 }).collect();
        let sets = found(&before);
        assert_eq!(sets.len(), 128);
        assert!(sets.iter().all(|set| set.count_ones() == 7 + 50 && set >> 14 == (1_u64 << 50) - 1), "{sets:?}");
    }
}
