//! One machine for all tasks of a job that share a directory: chosen once, before its first task, and for all that follow.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{Affinity, Cell, Constraint, Job, Obstacle, Requirement, Resource, Resources, Special};
use plenum_policies::{Columns, Eligible, Policy, Request, Settings, Suits, choose, explain};
use plenum_sdk::{Specials, Work};

use crate::placer::{DeviceNeed, device_need, told};

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
}

impl Need {
    pub(crate) fn of(job: &Job) -> Self {
        let groups = &job.shape.groups;
        let specials = groups.iter().filter(|group| Special::is_needed_by(group)).map(|group| {
            (group.devices.iter().map(device_need).collect(), group.ports.iter().map(|port| port.number).collect())
        });
        Self {
            at_once: at_once(job),
            largest: groups.iter().fold(Resources::default(), |most, group| upper(&most, &group.resources)),
            constraints: groups.iter().flat_map(|group| group.constraints.iter().cloned()).collect(),
            specials: specials.collect(),
            spread: groups.iter().flat_map(|group| group.spread.iter().map(|rule| rule.attribute.clone())).collect(),
        }
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
/// like, it has what one task of each of them asks for, by the books in `specials`.
///
/// # Errors
/// Why there is none, for people.
pub(crate) fn choose_home(
    columns: &mut Columns,
    specials: Option<&Specials>,
    cell: &Cell,
    job: &Arc<Job>,
    settings: Settings,
) -> Result<u32, String> {
    let Need { at_once, largest, constraints, .. } = Need::of(job);
    let affinities: Vec<Affinity> =
        job.shape.groups.iter().flat_map(|group| group.affinities.iter().cloned()).collect();
    let eligible = columns.eligible_for(&job.shape.scheduler, &constraints, &affinities, cell);
    let groups = (0..).zip(&job.shape.groups).filter(|(_, shape)| Special::is_needed_by(shape));
    let one_of_each: Vec<Work> =
        groups.map(|(group, _)| Work { job: job.clone(), group, tasks: Vec::new(), attempt: 1, least: 0 }).collect();
    let beyond = |slot: u32| -> Option<Obstacle> {
        one_of_each.iter().find_map(|work| specials.and_then(|specials| specials.obstacle(cell, work, slot)))
    };
    let suits = |slot: u32| beyond(slot).is_none();
    let suits = specials.is_some().then_some(Suits(&suits));
    let attempts = [(at_once, Policy::BestFit), (Some(largest), Policy::Spread)];
    for (resources, policy) in attempts {
        let Some(resources) = resources else { continue };
        let hold = cell.hold(job.id);
        let request = Request { eligible: eligible.as_deref(), hold, suits, ..Request::new(&resources, settings) };
        if let Some(&machine) = choose(columns, &request, policy, 1).first() {
            return Ok(machine);
        }
    }
    let classes = eligible.as_deref().map(Eligible::classes);
    let requirement = Requirement { resources: &largest, classes, home: None, job: job.id, special: None };
    let why = explain(columns, cell, &requirement, beyond);
    Err(format!("its tasks share a machine: {}", told(cell, job, &why)))
}

/// What may run of the job side by side: the groups are laid out in levels, each behind all that it comes after, and the
/// largest level counts. `None` beyond all bounds.
fn at_once(job: &Job) -> Option<Resources> {
    let groups = &job.shape.groups;
    // The cell refuses cycles; bounded rounds make sure that none can hang a scheduler.
    let mut depths = vec![0_usize; groups.len()];
    for _ in 0..groups.len() {
        for (position, group) in groups.iter().enumerate() {
            let before = group.after.iter().filter_map(|&before| depths.get(usize::from(before)));
            depths[position] = before.map(|depth| depth + 1).max().unwrap_or(0);
        }
    }
    let mut levels = BTreeMap::<usize, Resources>::new();
    for (group, depth) in groups.iter().zip(depths) {
        let level = levels.entry(depth).or_default();
        let mut sum = *level;
        for resource in Resource::ALL {
            let all = group.resources.get(resource).checked_mul(group.count.into())?;
            set(&mut sum, resource, level.get(resource).checked_add(all)?);
        }
        *level = sum;
    }
    let most = levels.values().fold(Resources::default(), |most, level| upper(&most, level));
    most.within_bounds().then_some(most)
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
