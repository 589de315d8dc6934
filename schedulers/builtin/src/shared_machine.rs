//! One machine for all tasks of a job that share a directory: chosen once, before its first task, and for all that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::sync::Arc;

use plenum_model::{
    Affinity, Cell, Constraint, Device, GroupShape, Job, JobShape, Requirement, Resource, Resources, Special,
};
use plenum_policies::{Columns, Eligible, Policy, Request, Settings, Suits, Unplaced, choose, explain};
use plenum_sdk::{Specials, Work};

use crate::placer::{DeviceNeed, beyond, device_need};

/// Devices and ports that are judged together. More of them at once no machine has, or hardly any.
const AT_ONCE_MAX: usize = 1024;

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
    /// Of each group that asks for more than room: how deep it stands, how many tasks it has and starts with, and how many of them one machine may have.
    layout: Vec<(usize, u32, u32, u32)>,
}

impl Need {
    pub(crate) fn of(cell: &Cell, job: &Job) -> Self {
        let groups = &job.shape.groups;
        let laid_out = laid_out(cell, job);
        let layout = laid_out.iter().filter(|group| Special::is_needed_by(group.shape));
        let specials = groups.iter().filter(|group| Special::is_needed_by(group)).map(|group| {
            (group.devices.iter().map(device_need).collect(), group.ports.iter().map(|port| port.number).collect())
        });
        let is_special = groups.iter().any(Special::is_needed_by);
        let task = groups.iter().fold(Resources::default(), |most, group| upper(&most, &group.resources));
        let starts = laid_out.iter().filter(|_| !is_special);
        let starts = starts.filter_map(|group| at_once(slice::from_ref(group), |group| group.least));
        Self {
            at_once: at_once(&laid_out, |group| group.count),
            least: at_once(&laid_out, |group| group.least),
            largest: starts.fold(task, |most, group| upper(&most, &group)),
            constraints: groups.iter().flat_map(|group| group.constraints.iter().cloned()).collect(),
            specials: specials.collect(),
            spread: groups.iter().flat_map(|group| group.spread.iter().map(|rule| rule.attribute.clone())).collect(),
            layout: layout.map(|group| (group.depth, group.count, group.least, group.shape.per_machine)).collect(),
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
    let groups = (0..).zip(&job.shape.groups).filter(|(_, shape)| Special::is_needed_by(shape));
    let one_of_each: Vec<Work> =
        groups.map(|(group, _)| Work { job: job.clone(), group, tasks: Vec::new(), attempt: 1, least: 0 }).collect();
    // How near costs are that count as equal is said of best fits. Of shares of a machine, which are below one, it would make all equal.
    let exactly = Settings { nearness: 0.0, ..settings };
    let side_by_side = [(at_once.as_ref(), Policy::BestFit, settings), (least.as_ref(), Policy::Spread, exactly)];
    let in_turn = [(Some(largest), Policy::Spread, exactly)];
    for width in [Width::All, Width::Least, Width::One].into_iter().filter(|width| *width >= known) {
        // What asks for room alone has all else everywhere.
        let levels = match width {
            Width::Least if specials.is_none() => None,
            Width::All if specials.is_some() => together(job, &laid_out, |group| group.count),
            Width::Least => together(job, &laid_out, |group| group.least),
            Width::All | Width::One => Some(Vec::new()),
        };
        let Some(levels) = levels else { continue };
        let has_all = |slot: u32| {
            let mut works = one_of_each.iter().chain(&levels);
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
    shape: &'a GroupShape,
    /// It comes after groups in so many levels, one after the other.
    depth: usize,
    /// So many tasks it has.
    count: u32,
    /// So many of them it starts with.
    least: u32,
}

/// The groups of a job in levels, each behind all that it comes after.
fn laid_out<'a>(cell: &Cell, job: &'a Job) -> Vec<Laid<'a>> {
    let groups = &job.shape.groups;
    // The cell refuses cycles; bounded rounds make sure that none can hang a scheduler.
    let mut depths = vec![0_usize; groups.len()];
    for _ in 0..groups.len() {
        for (position, group) in groups.iter().enumerate() {
            let before = group.after.iter().filter_map(|&before| depths.get(usize::from(before)));
            depths[position] = before.map(|depth| depth + 1).max().unwrap_or(0);
        }
    }
    let laid = |((position, shape), depth): ((u16, &'a GroupShape), usize)| {
        let row = cell.group(job, position);
        // What the shape has is what it was submitted with.
        let count = row.map_or(shape.count, |row| row.count);
        let least = row.map_or(shape.min, |row| shape.least_at_once(row)).max(1);
        Laid { shape, depth, count, least }
    };
    (0..).zip(groups).zip(depths).map(laid).collect()
}

/// What so many tasks of each group have at once: the largest level counts. `None` beyond all bounds.
fn at_once(laid_out: &[Laid<'_>], tasks: impl Fn(&Laid<'_>) -> u32) -> Option<Resources> {
    let mut levels = BTreeMap::<usize, Resources>::new();
    for group in laid_out {
        let level = levels.entry(group.depth).or_default();
        let mut sum = *level;
        for resource in Resource::ALL {
            let all = group.shape.resources.get(resource).checked_mul(tasks(group).into())?;
            set(&mut sum, resource, level.get(resource).checked_add(all)?);
        }
        *level = sum;
    }
    let most = levels.values().fold(Resources::default(), |most, level| upper(&most, level));
    most.within_bounds().then_some(most)
}

/// Each level of a job as one task that asks for the devices and ports of so many tasks of each of its groups, in their order. `None`: no machine has them
/// at once.
fn together(job: &Arc<Job>, laid_out: &[Laid<'_>], tasks: impl Fn(&Laid<'_>) -> u32) -> Option<Vec<Work>> {
    let mut levels = BTreeMap::<usize, GroupShape>::new();
    for group in laid_out {
        let (shape, tasks) = (group.shape, tasks(group));
        let level = levels.entry(group.depth).or_default();
        let more = (shape.devices.len() + shape.ports.len()).saturating_mul(tasks as usize);
        let is_limited = shape.per_machine > 0 && tasks > shape.per_machine;
        if is_limited || level.devices.len() + level.ports.len() + more > AT_ONCE_MAX {
            return None;
        }
        for _ in 0..tasks {
            level.devices.extend_from_slice(&shape.devices);
            level.ports.extend_from_slice(&shape.ports);
        }
    }
    let groups: Vec<GroupShape> = levels.into_values().filter(Special::is_needed_by).collect();
    let mut seen = BTreeSet::new();
    for level in &groups {
        seen.clear();
        if level.ports.iter().any(|port| port.number > 0 && !seen.insert(port.number)) {
            return None;
        }
    }
    let numbers = 0..u16::try_from(groups.len()).ok()?;
    let job = Arc::new(Job { shape: Arc::new(JobShape { groups, ..(*job.shape).clone() }), ..(**job).clone() });
    Some(numbers.map(|group| Work { job: job.clone(), group, tasks: Vec::new(), attempt: 1, least: 0 }).collect())
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
