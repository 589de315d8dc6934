//! What jobs declare and operators set: every grant keeps to it as it stands at that revision.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use plenum_proto::v1;

use crate::amounts::{Amounts, DIMENSIONS, NAMES};
use crate::chronicle::{Chronicle, Visitor};
use crate::picture::{Allocation, DONE, Picture, is_over};
use crate::violation::Violation;

/// Epochs that an incarnation of a cell gives, as a power of two: those of the one before are below.
const EPOCH_BITS: u32 = 26;

/// Every grant is on a machine that takes claims and satisfies the group's constraints, spread and limits, of the job's present version,
/// with what it declares, by its scheduler, and not before its time; on the one that the job's tasks share, where they do. Nothing of a recurring job
/// itself is granted. Where only one of a task may run, it is not beside one that nobody knows, nor before the agents of a restored cell were heard.
#[must_use]
pub fn property_declared_rules_hold(chronicle: &Chronicle) -> Vec<Violation> {
    let mut check = Rules { incarnation: chronicle.incarnation, violations: Vec::new() };
    chronicle.walk(&mut check);
    check.violations
}

struct Rules {
    incarnation: u64,
    violations: Vec<Violation>,
}

impl Visitor for Rules {
    fn after(&mut self, picture: &Picture, delta: &v1::Delta) {
        for grants in &delta.grants {
            for &slot in &grants.slots {
                let Some(allocation) = picture.allocations.get(&slot) else { continue };
                let broken = broken_rule(picture, allocation);
                if let Some(what) = broken.or_else(|| unheard(picture, allocation, self.incarnation)) {
                    self.violations.push(Violation::RuleBroken {
                        revision: delta.revision,
                        allocation: allocation.id,
                        machine: allocation.machine,
                        what,
                    });
                }
            }
        }
    }
}

/// Why a machine takes no claims: by its state, and by what its operator and its agent want.
pub(super) fn why_it_takes_none(machine: &v1::MachineChange) -> Option<&'static str> {
    match (machine.state(), machine.cordoned, machine.unfit()) {
        (v1::MachineState::Ready, false, v1::Unfit::Unspecified) => None,
        (v1::MachineState::Ready, true, _) => Some("cordoned by an operator"),
        (v1::MachineState::Ready, false, unfit) => Some(unfit.as_str_name()),
        (state, ..) => Some(state.as_str_name()),
    }
}

fn broken_rule(picture: &Picture, allocation: &Allocation) -> Option<String> {
    let Some(machine) = picture.machines.get(&allocation.machine) else { return Some("it is not there".into()) };
    if let Some(why) = why_it_takes_none(machine) {
        return Some(format!("it is {why}"));
    }
    let Some(job) = picture.jobs.get(&allocation.job) else { return Some("its job is not there".into()) };
    let shape = job.shape.as_ref()?;
    let Some(group) = shape.groups.get(allocation.group as usize) else { return Some("its group is not there".into()) };
    if allocation.job_version != job.version {
        return Some(format!("its job is at version {}", job.version));
    }
    if is_over(job.state()) {
        return Some("its job is over".into());
    }
    if shape.kind() == v1::JobKind::Recurring {
        return Some("its job is recurring, and runs nothing itself".into());
    }
    if shape.same_machine && job.home != allocation.machine + 1 {
        return Some(format!("the tasks of its job share machine slot {:?}", job.home.checked_sub(1)));
    }
    let scheduler = picture.scheduler_names.get(allocation.scheduler as usize);
    if scheduler != Some(&shape.scheduler) || picture.paused.contains(&shape.scheduler) {
        return Some(format!("{scheduler:?} placed it, and {} places its job, if it is not paused", shape.scheduler));
    }
    let session = picture.sessions.get(&allocation.session).map(|session| &session.opened.scheduler);
    if session != Some(&shape.scheduler) {
        return Some(format!("a session of {session:?} placed it, and {} places its job", shape.scheduler));
    }
    if Amounts::of_optional(group.resources.as_ref()) != picture.amounts_of(allocation.shape) {
        return Some("its group declares other resources".into());
    }
    if let Some(what) = not_as_declared(allocation, group) {
        return Some(what);
    }
    if let Some(constraint) = group.constraints.iter().find(|constraint| !holds(constraint, &machine.attributes)) {
        return Some(format!("{constraint:?} fails there"));
    }
    if let Some(name) = closing_partition(picture.partitions.values(), machine, &shape.scheduler) {
        return Some(format!("it is in partition {name}, which is for others than {}", shape.scheduler));
    }
    if let Some(unknown) = same_unknown(picture, allocation, shape, group) {
        return Some(format!("only one may run, and {unknown:#x} is the same task, which nobody knows"));
    }
    too_early(picture, allocation, shape).or_else(|| too_many(picture, allocation, group, shape.same_machine))
}

/// What an agent calls a task that the cell does not know, of which only one may run, and which is this one.
fn same_unknown(
    picture: &Picture,
    allocation: &Allocation,
    shape: &v1::JobShape,
    group: &v1::GroupShape,
) -> Option<u64> {
    let is_same = |task: &v1::TaskTraces| {
        let names = (&task.namespace, &task.job, &task.group, task.task_index);
        names == (&shape.namespace, &shape.name, &group.name, allocation.task)
    };
    let mut unknown = picture.unknown_tasks.values().filter(|_| group.single_instance);
    unknown.find(|row| row.task.as_ref().is_some_and(is_same)).map(|row| row.allocation)
}

/// The agent of a restored cell that is yet to tell whether it runs a task of which only one may run: it has not registered since, nor lost its lease.
fn unheard(picture: &Picture, allocation: &Allocation, incarnation: u64) -> Option<String> {
    let group = picture.group_of(allocation.job, allocation.group).filter(|group| group.single_instance)?;
    // An epoch has 32 bits: of incarnations beyond those nothing tells the last ones apart.
    let last_before = incarnation.saturating_sub(1).min(u64::from(u32::MAX >> EPOCH_BITS)) << EPOCH_BITS;
    let is_unheard = |machine: &&v1::MachineChange| {
        machine.state() != v1::MachineState::Unreachable && u64::from(machine.epoch) <= last_before
    };
    let machine = picture.machines.values().find(is_unheard)?;
    Some(format!("only one of {} may run, and the agent of {} was not heard yet", group.name, machine.name))
}

/// A task gets one device for each that its group declares, and each port by its name.
fn not_as_declared(allocation: &Allocation, group: &v1::GroupShape) -> Option<String> {
    let suits = |(has, declared): (&v1::Device, &v1::Device)| {
        let model = declared.model.is_empty() || has.model == declared.model;
        has.kind == declared.kind && has.millis == declared.millis && model
    };
    let devices = (&allocation.devices, &group.devices);
    if devices.0.len() != devices.1.len() || !devices.0.iter().zip(devices.1).all(suits) {
        return Some(format!("its group declares devices {:?}, and it has {:?}", devices.1, devices.0));
    }
    let has = |declared: &v1::Port| {
        let port = allocation.ports.iter().find(|port| port.name == declared.name);
        port.is_some_and(|port| port.number > 0 && (declared.number == 0 || port.number == declared.number))
    };
    let ports = (&allocation.ports, &group.ports);
    let all = ports.0.len() == ports.1.len() && ports.1.iter().all(has);
    (!all).then(|| format!("its group declares ports {:?}, and it has {:?}", ports.1, ports.0))
}

/// The partition that keeps a scheduler from a machine.
pub(super) fn closing_partition<'a>(
    mut partitions: impl Iterator<Item = &'a v1::PartitionChange>,
    machine: &v1::MachineChange,
    scheduler: &String,
) -> Option<&'a str> {
    let closes = |partition: &&v1::PartitionChange| {
        let has = partition.machines.iter().all(|constraint| holds(constraint, &machine.attributes));
        has && !partition.schedulers.is_empty() && !partition.schedulers.contains(scheduler)
    };
    partitions.find(closes).map(|partition| partition.name.as_str())
}

fn too_early(picture: &Picture, allocation: &Allocation, shape: &v1::JobShape) -> Option<String> {
    let job = picture.jobs.get(&allocation.job)?;
    let own = picture.groups.get(&allocation.group_row).cloned().unwrap_or_default();
    if own.not_before_micros > picture.time_micros {
        return Some(format!("its group waits until {}", own.not_before_micros));
    }
    for name in &shape.groups.get(allocation.group as usize)?.after {
        let position = (0_u32..).zip(&shape.groups).find(|(_, group)| group.name == *name).map(|(at, _)| at)?;
        let row = job.group_base + position;
        let count = picture.groups.get(&row).map_or(0, |group| group.count);
        if let Some(task) = (0..count).find(|&task| picture.task(row, task).state != DONE) {
            return Some(format!("task {task} of {name} has not succeeded yet"));
        }
    }
    None
}

/// Allocations that do not leave count.
fn too_many(picture: &Picture, allocation: &Allocation, group: &v1::GroupShape, same_machine: bool) -> Option<String> {
    // All that is live is looked at for each grant: of what most jobs declare, nothing has to be.
    if group.per_machine == 0 && group.spread.is_empty() && !same_machine {
        return None;
    }
    let here: Vec<&Allocation> = picture.allocations.values().filter(|other| !other.is_leaving()).collect();
    let of_group = |other: &&&Allocation| other.group_row == allocation.group_row;
    let on_machine = here.iter().filter(of_group).filter(|other| other.machine == allocation.machine).count();
    if group.per_machine > 0 && on_machine > group.per_machine as usize {
        return Some(format!("{on_machine} of its group are there, and at most {} may be", group.per_machine));
    }
    let value_of = |machine: u32, attribute: &str| {
        picture.machines.get(&machine).and_then(|machine| machine.attributes.get(attribute))
    };
    for spread in &group.spread {
        let Some(value) = value_of(allocation.machine, &spread.attribute) else {
            return Some(format!("its group is spread by {}, which the machine has not", spread.attribute));
        };
        let value = Some(value);
        let equal = |other: &&&Allocation| value_of(other.machine, &spread.attribute) == value;
        let count = here.iter().filter(of_group).filter(equal).count();
        if count > spread.at_most as usize {
            return Some(format!(
                "{count} of its group are where {} is {value:?}, and at most {} may be",
                spread.attribute, spread.at_most
            ));
        }
    }
    let elsewhere = |other: &&Allocation| other.job == allocation.job && other.machine != allocation.machine;
    let other = here.into_iter().find(|other| same_machine && elsewhere(other))?;
    Some(format!("tasks of its job share one machine, and {:#x} is elsewhere", other.id))
}

pub(super) fn holds(constraint: &v1::Constraint, attributes: &BTreeMap<String, String>) -> bool {
    use v1::Operator as Op;
    let Some(value) = attributes.get(&constraint.attribute) else { return false };
    let against = |wanted: &String| compare(value, wanted);
    let first = constraint.values.first().map(against);
    match constraint.operator() {
        Op::Equal => first == Some(Ordering::Equal),
        Op::NotEqual => first.is_some_and(Ordering::is_ne),
        Op::Less => first == Some(Ordering::Less),
        Op::LessOrEqual => first.is_some_and(Ordering::is_le),
        Op::Greater => first == Some(Ordering::Greater),
        Op::GreaterOrEqual => first.is_some_and(Ordering::is_ge),
        Op::In => constraint.values.iter().any(|wanted| compare(value, wanted).is_eq()),
        Op::Unspecified => false,
    }
}

/// Runs of digits compare as numbers, whatever their leading zeros, everything else byte by byte.
fn compare(left: &str, right: &str) -> Ordering {
    pieces(left).cmp(&pieces(right))
}

/// Each run of digits, and each byte between them: a byte to compare it by, and of a number how many digits it has and which. All digits are
/// on the same side of any other byte, so one of them stands for the number there.
fn pieces(text: &str) -> Vec<(u8, usize, &[u8])> {
    let runs = text.as_bytes().chunk_by(|left, right| left.is_ascii_digit() && right.is_ascii_digit());
    runs.map(|run| {
        if !run[0].is_ascii_digit() {
            return (run[0], 0, &run[1..]);
        }
        let zeros = run.iter().take_while(|&&byte| byte == b'0').count();
        (b'0', run.len() - zeros, &run[zeros..])
    })
    .collect()
}

/// At most one allocation of a task is not leaving.
#[must_use]
pub fn property_a_task_has_one_allocation(chronicle: &Chronicle) -> Vec<Violation> {
    let mut check = Once(Vec::new());
    chronicle.walk(&mut check);
    check.0
}

struct Once(Vec<Violation>);

impl Visitor for Once {
    fn begin(&mut self, picture: &Picture) {
        self.look(picture);
    }

    fn after(&mut self, picture: &Picture, delta: &v1::Delta) {
        // A move may bring one back to life.
        if !delta.grants.is_empty() || delta.moves.is_some() {
            self.look(picture);
        }
    }
}

impl Once {
    fn look(&mut self, picture: &Picture) {
        let mut active: BTreeMap<(u64, u32, u32), u64> = BTreeMap::new();
        for allocation in picture.allocations.values().filter(|allocation| !allocation.is_leaving()) {
            let task = (allocation.job, allocation.group, allocation.task);
            if let Some(first) = active.insert(task, allocation.id) {
                let (revision, second) = (picture.revision, allocation.id);
                self.0.push(Violation::TaskTwice { revision, first, second });
            }
        }
    }
}

/// No grant and no hold brings a namespace above its quota, which counts what neither leaves nor is lost; and whoever is evicted is of
/// a strictly lower band than somebody who takes its room over in the same revision, by a scheduler that may evict.
#[must_use]
pub fn property_quotas_and_priorities_hold(chronicle: &Chronicle) -> Vec<Violation> {
    let mut check = Limits::default();
    chronicle.walk(&mut check);
    check.violations
}

#[derive(Default)]
struct Limits {
    violations: Vec<Violation>,
    /// Slots of those who left already before the delta.
    left: BTreeSet<u32>,
    /// What each job held before a delta that changes holds.
    held: BTreeMap<u64, Amounts>,
}

impl Visitor for Limits {
    fn before(&mut self, picture: &Picture, delta: &v1::Delta) {
        let moved = delta.moves.iter().flat_map(|moves| &moves.slots).copied();
        self.left = moved.filter(|slot| picture.allocations.get(slot).is_some_and(Allocation::is_leaving)).collect();
        if !delta.holds.is_empty() {
            self.held = picture.holds.values().map(|hold| (hold.job, held(hold))).collect();
        }
    }

    fn after(&mut self, picture: &Picture, delta: &v1::Delta) {
        let mut asked: BTreeMap<String, Amounts> = BTreeMap::new();
        for grants in &delta.grants {
            let Some(namespace) = namespace_of(picture, grants.job) else { continue };
            let amounts = picture.amounts_of(grants.shape);
            let entry = asked.entry(namespace).or_default();
            grants.slots.iter().for_each(|_| entry.add(&amounts));
        }
        for hold in delta.holds.iter().filter(|hold| !hold.removed) {
            let Some(namespace) = namespace_of(picture, hold.job) else { continue };
            // One that only lost machines asks for nothing, also where the limit has become lower meanwhile.
            let known = self.held.get(&hold.job).copied().unwrap_or_default();
            asked.entry(namespace).or_default().add(&held(hold).beyond(&known));
        }
        for (namespace, asked) in asked {
            let Some(quota) = picture.quotas.get(&namespace).and_then(|row| row.limit.as_ref()) else { continue };
            let used = used_by(picture, &namespace);
            for (limit, resource) in limits(quota).into_iter().zip(NAMES) {
                let (asked, used) = (asked.get(resource), used.get(resource));
                if let Some(limit) = limit.filter(|&limit| asked > 0 && used > limit) {
                    let (revision, namespace) = (delta.revision, namespace.clone());
                    self.violations.push(Violation::QuotaExceeded { revision, namespace, resource, used, limit });
                }
            }
        }
        self.victims(picture, delta);
    }
}

impl Limits {
    fn victims(&mut self, picture: &Picture, delta: &v1::Delta) {
        let moves = delta.moves.iter().flat_map(|moves| moves.slots.iter().zip(&moves.states));
        let evicted = moves
            .filter(|(slot, state)| state_of(**state) == v1::AllocationState::Evicting && !self.left.contains(slot));
        let evicted: Vec<u32> = evicted.map(|(&slot, _)| slot).collect();
        for victim in evicted.iter().filter_map(|slot| picture.allocations.get(slot)) {
            let band = |job: u64| picture.jobs.get(&job).and_then(|job| Some(job.shape.as_ref()?.priority / 10));
            let takes_over = |heir: &&Allocation| {
                let of_it = heir.take_overs.iter().any(|entry| entry.victim == victim.id);
                heir.created == delta.revision && of_it
            };
            let heirs: Vec<&Allocation> = picture.on_machine(victim.machine).filter(takes_over).collect();
            let (own, bands) = (band(victim.job), heirs.iter().map(|heir| band(heir.job)));
            let above: Vec<&Allocation> =
                heirs.iter().copied().filter(|heir| own.is_none() || band(heir.job) > own).collect();
            let what = if heirs.is_empty() {
                "nobody was granted what it leaves".to_owned()
            } else if above.is_empty() {
                let (own, above) = (own.unwrap_or_default(), bands.max().flatten().unwrap_or_default());
                format!("its band is {own}, and of those who got its room {above}")
            } else if !above.iter().any(|heir| may_evict(picture, heir.job)) {
                "no scheduler that was granted its room may evict".to_owned()
            } else if !victim.take_overs.is_empty() {
                "it has entries of its own, and is no victim yet".to_owned()
            } else {
                continue;
            };
            self.violations.push(Violation::WrongVictim { revision: delta.revision, victim: victim.id, what });
        }
    }
}

/// Whether the scheduler of a job may evict.
pub(super) fn may_evict(picture: &Picture, job: u64) -> bool {
    let scheduler = picture.jobs.get(&job).and_then(|job| Some(&job.shape.as_ref()?.scheduler));
    scheduler.and_then(|name| picture.rights.get(name)).is_none_or(|(evicts, _)| *evicts)
}

fn state_of(number: u32) -> v1::AllocationState {
    crate::fold::state(number).unwrap_or_default()
}

/// What a quota allows of each resource; `None`: as much as there is.
pub(super) fn limits(quota: &v1::Quota) -> [Option<i128>; DIMENSIONS] {
    let mut limits = [None; DIMENSIONS];
    for (limit, wire) in limits.iter_mut().zip([quota.cpu_millis, quota.memory_bytes, quota.disk_bytes]) {
        *limit = wire.map(i128::from);
    }
    for (limit, &wire) in limits[3..].iter_mut().zip(&quota.custom) {
        *limit = (wire >= 0).then(|| wire.into());
    }
    limits
}

pub(super) fn namespace_of(picture: &Picture, job: u64) -> Option<String> {
    Some(picture.jobs.get(&job)?.shape.as_ref()?.namespace.clone())
}

/// What a hold sets aside, on all its machines.
fn held(hold: &v1::HoldChange) -> Amounts {
    let mut sum = Amounts::default();
    let each = Amounts::of_optional(hold.resources.as_ref());
    hold.machines.iter().for_each(|_| sum.add(&each));
    sum
}

/// What a namespace uses of its quota: by allocations that don't leave, and by holds.
pub(super) fn used_by(picture: &Picture, namespace: &str) -> Amounts {
    let mut used = Amounts::default();
    for allocation in picture.allocations.values().filter(|allocation| !allocation.is_leaving()) {
        if namespace_of(picture, allocation.job).as_deref() == Some(namespace) {
            used.add(&picture.amounts_of(allocation.shape));
        }
    }
    for hold in picture.holds.values() {
        if namespace_of(picture, hold.job).as_deref() == Some(namespace) {
            used.add(&held(hold));
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    // The protocol's comment spoke of digits and dots alone, and a grant by `slot == "a07"` on a machine `a7` counted as one against the rules.
    #[test]
    fn numbers_within_names_compare_as_numbers() {
        let rising = ["", "5.9", "5.10", "a", "a-1", "a7", "a7b", "a10", "v2", "v10", "v18446744073709551616"];
        for (position, left) in rising.iter().enumerate() {
            for (other, right) in rising.iter().enumerate() {
                assert_eq!(compare(left, right), position.cmp(&other), "{left} and {right}");
            }
        }
        assert_eq!([compare("a07", "a7"), compare("1.0", "1.00")], [Ordering::Equal; 2]);
    }
}
