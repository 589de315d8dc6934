//! One machine for all tasks of a job that share a directory: chosen once, before its first task, and for all that follow.

use std::collections::{BTreeMap, BTreeSet};
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
    at_once: Option<Resources>,
    largest: Resources,
    constraints: Vec<Constraint>,
    /// Of each group that asks for more than room: its devices and ports.
    specials: Vec<(Vec<DeviceNeed>, Vec<u16>)>,
    /// Attributes that its machine must have, for the sake of spread rules.
    spread: Vec<Arc<str>>,
    /// Of each group that asks for more than room: how deep it stands, how many tasks it has, and how many of them one machine may have.
    layout: Vec<(usize, u32, u32)>,
}

impl Need {
    pub(crate) fn of(cell: &Cell, job: &Job) -> Self {
        let groups = &job.shape.groups;
        let laid_out = laid_out(cell, job);
        let layout = laid_out.iter().filter(|(group, ..)| Special::is_needed_by(group));
        let specials = groups.iter().filter(|group| Special::is_needed_by(group)).map(|group| {
            (group.devices.iter().map(device_need).collect(), group.ports.iter().map(|port| port.number).collect())
        });
        Self {
            at_once: at_once(&laid_out),
            largest: groups.iter().fold(Resources::default(), |most, group| upper(&most, &group.resources)),
            constraints: groups.iter().flat_map(|group| group.constraints.iter().cloned()).collect(),
            specials: specials.collect(),
            spread: groups.iter().flat_map(|group| group.spread.iter().map(|rule| rule.attribute.clone())).collect(),
            layout: layout.map(|(group, depth, count)| (*depth, *count, group.per_machine)).collect(),
        }
    }

    /// What its machine has to have: best all that may run side by side, or else its largest task.
    pub(crate) fn rooms(&self) -> impl Iterator<Item = &Resources> {
        self.at_once.iter().chain([&self.largest])
    }

    /// Whether a group asks for more than room.
    pub(crate) fn is_special(&self) -> bool {
        !self.specials.is_empty()
    }
}

/// The machine slot that suits the job as a whole best.
///
/// Best is one with room now for all groups that may run side by side, the fullest of these first. Where there is none, tasks
/// have to take turns: then the emptiest machine that has room for the largest of them. Where groups ask for devices, ports or the
/// like, it has what all of these ask for side by side, by the books in `specials`; or else, what one task of each group asks for.
/// `takes_turns`: none is known to have as many devices and ports at once.
///
/// # Errors
/// Why there is none.
pub(crate) fn choose_home(
    columns: &mut Columns,
    specials: Option<&Specials>,
    cell: &Cell,
    job: &Arc<Job>,
    (need, takes_turns): (&Need, bool),
    settings: Settings,
) -> Result<Home, Box<Unplaced>> {
    let Need { at_once, largest, .. } = need;
    let eligible = eligible(columns, cell, job, need);
    let groups = (0..).zip(&job.shape.groups).filter(|(_, shape)| Special::is_needed_by(shape));
    let one_of_each: Vec<Work> =
        groups.map(|(group, _)| Work { job: job.clone(), group, tasks: Vec::new(), attempt: 1, least: 0 }).collect();
    let has_some = |slot: u32| {
        one_of_each.iter().all(|work| specials.is_none_or(|specials| specials.obstacle(cell, work, slot).is_none()))
    };
    let together = specials.filter(|_| !takes_turns).and_then(|specials| Some((specials, together(cell, job)?)));
    let has_all = |slot: u32| {
        has_some(slot)
            && together
                .iter()
                .all(|(specials, levels)| levels.iter().all(|level| specials.obstacle(cell, level, slot).is_none()))
    };
    // How near costs are that count as equal is said of best fits. Of shares of a machine, which are below one, it would make all equal.
    let exactly = Settings { nearness: 0.0, ..settings };
    let best = [(at_once.as_ref(), Policy::BestFit, settings), (Some(largest), Policy::Spread, exactly)];
    let by_room = specials.is_none().then_some((None, false));
    let all = together.is_some().then_some((Some(Suits(&has_all)), false));
    let some = specials.is_some().then_some((Some(Suits(&has_some)), true));
    for (suits, takes_turns) in [by_room, all, some].into_iter().flatten() {
        for (resources, policy, settings) in best {
            let Some(resources) = resources else { continue };
            let hold = cell.hold(job.id);
            let request = Request { eligible: eligible.as_deref(), hold, suits, ..Request::new(resources, settings) };
            if let Some(&machine) = choose(columns, &request, policy, 1).first() {
                return Ok(Home { machine, takes_turns });
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
    /// It has not all devices and ports at once that the job's tasks ask for side by side.
    pub(crate) takes_turns: bool,
}

/// The groups of a job in levels, each behind all that it comes after: how deep, and how many tasks it has now.
fn laid_out<'a>(cell: &Cell, job: &'a Job) -> Vec<(&'a GroupShape, usize, u32)> {
    let groups = &job.shape.groups;
    // The cell refuses cycles; bounded rounds make sure that none can hang a scheduler.
    let mut depths = vec![0_usize; groups.len()];
    for _ in 0..groups.len() {
        for (position, group) in groups.iter().enumerate() {
            let before = group.after.iter().filter_map(|&before| depths.get(usize::from(before)));
            depths[position] = before.map(|depth| depth + 1).max().unwrap_or(0);
        }
    }
    // What the shape has is what it was submitted with.
    let count = |(position, group): (u16, &GroupShape)| cell.group(job, position).map_or(group.count, |row| row.count);
    let counts = (0..).zip(groups).map(count);
    groups.iter().zip(depths).zip(counts).map(|((group, depth), count)| (group, depth, count)).collect()
}

/// What may run of the job side by side: the largest level counts. `None` beyond all bounds.
fn at_once(laid_out: &[(&GroupShape, usize, u32)]) -> Option<Resources> {
    let mut levels = BTreeMap::<usize, Resources>::new();
    for (group, depth, count) in laid_out {
        let level = levels.entry(*depth).or_default();
        let mut sum = *level;
        for resource in Resource::ALL {
            let all = group.resources.get(resource).checked_mul((*count).into())?;
            set(&mut sum, resource, level.get(resource).checked_add(all)?);
        }
        *level = sum;
    }
    let most = levels.values().fold(Resources::default(), |most, level| upper(&most, level));
    most.within_bounds().then_some(most)
}

/// Each level of a job as one task that asks for the devices and ports of all of its tasks, in their order. `None`: no machine has them
/// at once.
fn together(cell: &Cell, job: &Arc<Job>) -> Option<Vec<Work>> {
    let mut levels = BTreeMap::<usize, GroupShape>::new();
    for (group, depth, count) in laid_out(cell, job) {
        let level = levels.entry(depth).or_default();
        let more = (group.devices.len() + group.ports.len()).saturating_mul(count as usize);
        let is_limited = group.per_machine > 0 && count > group.per_machine;
        if is_limited || level.devices.len() + level.ports.len() + more > AT_ONCE_MAX {
            return None;
        }
        for _ in 0..count {
            level.devices.extend_from_slice(&group.devices);
            level.ports.extend_from_slice(&group.ports);
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
