//! Why nothing fits: machines counted by what stands in the way, and the one that came nearest.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use plenum_model::{
    Cell, ClassSet, Constraint, Device, DeviceRoom, DeviceShortage, GroupShape, JobId, Machine, MachineState, Obstacle,
    Partition, Requirement, Resource, Room, agreeing, counted, device_shortage, most_when_empty, shortages,
};

use crate::columns::Columns;

/// What a machine can have too little of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// Room.
    Room(Resource),
    /// Devices.
    Device {
        /// Such as `gpu`.
        kind: Arc<str>,
        /// The maker's model; empty where any will do.
        model: Arc<str>,
    },
}

impl Missing {
    fn devices(short: DeviceShortage) -> Self {
        Self::Device { kind: short.kind, model: short.model }
    }

    fn name_in(&self, custom_resources: &[Arc<str>]) -> String {
        match self {
            Self::Room(resource) => resource.name_in(custom_resources),
            Self::Device { kind, model } if model.is_empty() => kind.to_string(),
            Self::Device { kind, model } => format!("{kind} {model}"),
        }
    }

    /// So much of it, as people write it: of devices, whole ones where it is whole ones.
    fn amount(&self, amount: u64) -> String {
        match self {
            Self::Room(resource) => resource.lack(amount),
            Self::Device { .. } if amount.is_multiple_of(1000) => (amount / 1000).to_string(),
            Self::Device { .. } => format!("{amount}m"),
        }
    }

    /// Such as `cpu by 500m`.
    fn words(&self, short_by: u64, custom_resources: &[Arc<str>]) -> String {
        format!("{} by {}", self.name_in(custom_resources), self.amount(short_by))
    }
}

/// Machines that lack something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// How many. Each machine counts once, under what it lacks first.
    pub machines: u32,
    /// The least of what is missing on them: in the resource's unit, or in thousandths of devices.
    pub short_by_least: u64,
}

/// What stands in the way on a machine that has room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// So many tasks of the group, which is as many as it wants on one machine.
    PerMachine(u32),
    /// As many tasks of the group as it wants on machines with one value of an attribute; or the machine does not have it.
    Spread {
        /// The attribute's name.
        attribute: Arc<str>,
        /// So many.
        at_most: u32,
    },
    /// Too little is left of its devices.
    Device(DeviceShortage),
    /// The port is in use; 0: too few are left of those that the cell chooses from.
    Port(u16),
}

impl Beyond {
    /// What an obstacle of a group comes to, where `rooms` gives what is left of the machine's devices. `None`: it is about the machine or its room.
    #[must_use]
    pub fn of(obstacle: Obstacle, shape: &GroupShape, rooms: impl FnOnce() -> Vec<DeviceRoom>) -> Option<Self> {
        match obstacle {
            Obstacle::PerMachine => Some(Self::PerMachine(shape.per_machine)),
            Obstacle::Spread(position) => {
                let rule = shape.spread.get(usize::from(position))?;
                Some(Self::Spread { attribute: rule.attribute.clone(), at_most: rule.at_most })
            }
            Obstacle::Device(_) => device_shortage(rooms(), &shape.devices).map(Self::Device),
            Obstacle::Port(port) => Some(Self::Port(port)),
            _ => None,
        }
    }
}

/// The machine that came nearest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Its name.
    pub machine: Arc<str>,
    /// What is missing there first.
    pub missing: Missing,
    /// How much.
    pub short_by: u64,
    /// What would be missing first, and how much of it, even were the machine empty; `None`: it would fit.
    pub missing_when_empty: Option<(Missing, u64)>,
    /// Who holds what is missing; `None`: it would be missing without any hold, too.
    pub held: Option<Held>,
}

/// Room that other jobs hold on a machine, which lists of machines count as free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Of what is missing there.
    pub amount: u64,
    /// For whom most of it is, as commands take a job.
    pub job: String,
    /// How many jobs hold some of it besides.
    pub others: u64,
}

/// What stands in the way of a task, over all machines. Each machine counts once, under its first obstacle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unplaced {
    /// Machines in the cell.
    pub machines: u32,
    /// Machines on which it fits.
    pub fitting: u32,
    /// Cordoned, draining or unreachable.
    pub not_ready: BTreeMap<MachineState, u32>,
    /// Not among these: cordoned by their own agents, and by nobody else.
    pub unfit: u32,
    /// A declared constraint fails, by the first that does.
    pub constraints: BTreeMap<Constraint, u32>,
    /// No constraint fails, and a partition reserves the machine for other schedulers: by the first that does. Without a name where the cell does not know the job.
    pub reserved: BTreeMap<Arc<str>, u32>,
    /// The job's tasks share another machine. What else stands in the way there is not looked at.
    pub other_machine: u32,
    /// As many allocations as a machine can have.
    pub full: u32,
    /// As many tasks of the group as it wants on one machine, by how many that are.
    pub per_machine: BTreeMap<u32, u32>,
    /// Ruled out by how the group is spread over an attribute, by that and by how many tasks may have one value.
    pub spread: BTreeMap<(Arc<str>, u32), u32>,
    /// Without an attribute over which the group is spread.
    pub without: BTreeMap<Arc<str>, u32>,
    /// A port is in use; 0: too few are left of those that the cell chooses from.
    pub ports: BTreeMap<u16, u32>,
    /// Not enough room, or not enough of devices.
    pub lacks: BTreeMap<Missing, Lack>,
    /// Among the machines that lack room or devices only.
    pub nearest: Option<Nearest>,
    /// What the cell calls the resources that it named itself.
    pub custom_resources: Vec<Arc<str>>,
}

impl Unplaced {
    /// Machines that have room, and on which limits of the group stand in the way: what they say is about this group alone.
    #[must_use]
    pub fn limited(&self) -> u32 {
        self.per_machine.values().chain(self.spread.values()).chain(self.without.values()).sum()
    }

    fn count(&mut self, obstacle: Obstacle) {
        match obstacle {
            Obstacle::NoSuchMachine => self.machines -= 1,
            Obstacle::NotReady(state) => *self.not_ready.entry(state).or_default() += 1,
            Obstacle::OtherMachine => self.other_machine += 1,
            Obstacle::Full => self.full += 1,
            Obstacle::Constraint
            | Obstacle::NoRoom(_)
            | Obstacle::PerMachine
            | Obstacle::Spread(_)
            | Obstacle::Device(_)
            | Obstacle::Port(_) => unreachable!("judged by others"),
        }
    }

    /// The machine's class is none of those that the task may use. Those leave out what constraints rule out, and what partitions do, of which
    /// `partition` gives the name.
    fn count_ruled_out(
        &mut self,
        machine: &Machine,
        constraints: &[Constraint],
        partition: impl FnOnce(&Machine) -> Arc<str>,
    ) {
        let Some(failing) = constraints.iter().find(|constraint| !constraint.holds(&machine.attributes)) else {
            *self.reserved.entry(partition(machine)).or_default() += 1;
            return;
        };
        if let Some(count) = self.constraints.get_mut(failing) {
            *count += 1;
        } else {
            self.constraints.insert(failing.clone(), 1);
        }
    }

    /// Devices are given back, as more is told of what is lacking.
    fn count_beyond(&mut self, machine: &Machine, beyond: Option<Beyond>) -> Option<DeviceShortage> {
        match beyond {
            None => self.fitting += 1,
            Some(Beyond::PerMachine(most)) => *self.per_machine.entry(most).or_default() += 1,
            Some(Beyond::Spread { attribute, .. }) if !machine.attributes.contains_key(&attribute) => {
                *self.without.entry(attribute).or_default() += 1;
            }
            Some(Beyond::Spread { attribute, at_most }) => *self.spread.entry((attribute, at_most)).or_default() += 1,
            Some(Beyond::Port(port)) => *self.ports.entry(port).or_default() += 1,
            Some(Beyond::Device(short)) => return Some(short),
        }
        None
    }

    fn count_lack(&mut self, missing: &Missing, short_by: u64) {
        let none = Lack { machines: 0, short_by_least: u64::MAX };
        let lack = self.lacks.entry(missing.clone()).or_insert(none);
        lack.machines += 1;
        lack.short_by_least = lack.short_by_least.min(short_by);
    }

    /// The machines that constraints and partitions rule out: those constraints first that rule out most.
    fn constraints_and_partitions(&self) -> Vec<String> {
        let mut failing: Vec<(&Constraint, u32)> =
            self.constraints.iter().map(|(constraint, &count)| (constraint, count)).collect();
        failing.sort_by_key(|&(_, count)| Reverse(count));
        let (named, others) = failing.split_at(failing.len().min(CONSTRAINTS_NAMED));
        let mut parts = Vec::new();
        for &(constraint, count) in named {
            let fail = agreeing(count.into(), "fails", "fail");
            parts.push(format!("{count} {fail} `{}`", in_short(constraint)));
        }
        let count: u32 = others.iter().map(|&(_, count)| count).sum();
        if count > 0 {
            let fail = agreeing(count.into(), "fails another constraint", "fail other constraints");
            parts.push(format!("{count} {fail}"));
        }
        let mut reserved: Vec<(&Arc<str>, u32)> = self.reserved.iter().map(|(name, &count)| (name, count)).collect();
        reserved.sort_by_key(|&(_, count)| Reverse(count));
        let (named, others) = reserved.split_at(reserved.len().min(PARTITIONS_NAMED));
        for (name, count) in named {
            let partition = if name.is_empty() { "a partition".to_owned() } else { format!("partition {name}") };
            parts.push(format!("{partition} reserves {count} for others"));
        }
        let count: u32 = others.iter().map(|&(_, count)| count).sum();
        if count > 0 {
            parts.push(format!("other partitions reserve {count}"));
        }
        parts
    }

    /// The machines that limits and ports rule out.
    fn limits_and_ports(&self) -> Vec<String> {
        let mut parts = Vec::new();
        for (most, &count) in &self.per_machine {
            let have = agreeing(count.into(), "has", "have");
            parts.push(format!("{count} {have} as many tasks of the group as per_machine allows: {most}"));
        }
        for ((attribute, most), &count) in &self.spread {
            let have = agreeing(count.into(), "has", "have");
            parts.push(format!(
                "{count} {have} an attr.{attribute} with as many tasks of the group as spread allows: {most}"
            ));
        }
        for (attribute, &count) in &self.without {
            let have = agreeing(count.into(), "has", "have");
            parts.push(format!("{count} {have} no attr.{attribute}, over which the group is spread"));
        }
        let fixed: Vec<(u16, u32)> =
            self.ports.iter().map(|(&port, &count)| (port, count)).filter(|(port, _)| *port > 0).collect();
        if !fixed.is_empty() {
            let count: u32 = fixed.iter().map(|(_, count)| count).sum();
            let named: Vec<String> = fixed.iter().take(PORTS_NAMED).map(|(port, _)| port.to_string()).collect();
            let others = if fixed.len() > PORTS_NAMED { " or others" } else { "" };
            let have = agreeing(count.into(), "has", "have");
            parts.push(format!("{count} {have} port {}{others} in use", named.join(" or ")));
        }
        if let Some(&count) = self.ports.get(&0) {
            let have = agreeing(count.into(), "has", "have");
            parts.push(format!("{count} {have} too few ports left to choose from"));
        }
        parts
    }
}

/// Ports in use that are told one by one: the sentence has to stay short.
const PORTS_NAMED: usize = 2;

/// Constraints that are named, for the same reason.
const CONSTRAINTS_NAMED: usize = 2;

/// And partitions.
const PARTITIONS_NAMED: usize = 2;

/// Bytes that are told of a constraint, which may list dozens of values.
const CONSTRAINT_BYTES_MAX: usize = 48;

fn in_short(constraint: &Constraint) -> String {
    let mut text = constraint.to_string();
    if text.len() > CONSTRAINT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(CONSTRAINT_BYTES_MAX));
        text.push('…');
    }
    text
}

/// The partitions that keep a job's scheduler out.
struct Reserved<'a> {
    cell: &'a Cell,
    closed: Vec<(&'a Arc<str>, &'a Partition)>,
    /// By class: machines of one have equal attributes, and a large cell has many of each.
    names: BTreeMap<u32, Arc<str>>,
}

impl<'a> Reserved<'a> {
    fn of(cell: &'a Cell, job: JobId) -> Self {
        let closed = cell.job(job).into_iter().flat_map(|job| {
            cell.partitions().filter(move |(_, partition)| !partition.is_open_to(&job.shape.scheduler))
        });
        Self { cell, closed: closed.collect(), names: BTreeMap::new() }
    }

    /// The first that has the machine; without a name where none is known to.
    fn by(&mut self, machine: &Machine) -> Arc<str> {
        let closed = &self.closed;
        let first = || {
            let found = closed.iter().find(|(_, partition)| partition.has(&machine.attributes));
            found.map_or_else(|| Arc::from(""), |(name, _)| (*name).clone())
        };
        match self.cell.machine_row(machine.id.slot) {
            Some(row) => self.names.entry(row.class).or_insert_with(first).clone(),
            None => first(),
        }
    }
}

/// Judges every machine, with what the columns have promised; where a job's tasks share one, that one alone: of many such jobs each would look at all others for itself, as hardly two share
/// the same. `constraints` are all that the groups declare: where none of them fails on a machine of a class
/// that `requirement` leaves out, a partition reserves it for others. `devices` are those that each group asks for of one machine. `beyond` says what
/// else stands in the way on a machine that has room, where groups declare more: devices, ports, limits, with what is spoken for of them.
#[must_use]
pub fn explain(
    columns: &Columns,
    cell: &Cell,
    requirement: &Requirement<'_>,
    constraints: &[Constraint],
    devices: &[&[Device]],
    beyond: impl Fn(u32) -> Option<Beyond>,
) -> Unplaced {
    let custom_resources = cell.identity().custom_resources.clone();
    let mut unplaced = Unplaced { custom_resources, ..Unplaced::default() };
    let mut reserved = Reserved::of(cell, requirement.job);
    let mut nearest: Option<(Distance, u32, Nearest)> = None;
    let home = requirement.home.and_then(|home| cell.machine_in(home));
    let all = requirement.home.is_none().then(|| cell.machines());
    if requirement.home.is_some() {
        let others = cell.machines().count() - usize::from(home.is_some());
        unplaced.other_machine = u32::try_from(others).unwrap_or(u32::MAX);
        unplaced.machines = unplaced.other_machine;
    }
    for machine in home.into_iter().chain(all.into_iter().flatten()) {
        let slot = machine.id.slot;
        unplaced.machines += 1;
        let lacking = match requirement.obstacle(cell, slot, &columns.promised(slot)) {
            None => unplaced.count_beyond(machine, beyond(slot)).map(|short| {
                let (short_by, parts) = (short.short_by_millis, parts_of(short.short_by_millis, short.wanted_millis));
                (Missing::devices(short), short_by, parts)
            }),
            Some(Obstacle::NoRoom(short)) => {
                Some((Missing::Room(short.resource), short.short_by, missing_parts(columns, cell, requirement, slot)))
            }
            Some(Obstacle::Constraint) => {
                unplaced.count_ruled_out(machine, constraints, |machine| reserved.by(machine));
                None
            }
            Some(Obstacle::NotReady(MachineState::Cordoned)) if !machine.cordoned && machine.unfit.is_some() => {
                unplaced.unfit += 1;
                None
            }
            Some(obstacle) => {
                unplaced.count(obstacle);
                None
            }
        };
        let Some((missing, short_by, parts)) = lacking else { continue };
        unplaced.count_lack(&missing, short_by);
        let missing_when_empty = missing_when_empty(machine, requirement, devices);
        let by_holds = matches!(missing, Missing::Room(_)) && has_room_but_for_holds(columns, cell, requirement, slot);
        let distance = Distance { too_small: missing_when_empty.is_some(), parts, not_by_holds: !by_holds };
        if nearest.as_ref().is_none_or(|(least, ..)| distance < *least) {
            let machine = machine.name.clone();
            nearest = Some((distance, slot, Nearest { machine, missing, short_by, missing_when_empty, held: None }));
        }
    }
    unplaced.nearest = nearest.map(|(distance, slot, nearest)| {
        let held = if distance.not_by_holds { None } else { held(cell, requirement, slot, &nearest.missing) };
        Nearest { held, ..nearest }
    });
    unplaced
}

/// Who holds what a task lacks on a machine where it would have room but for holds.
fn held(cell: &Cell, requirement: &Requirement<'_>, slot: u32, missing: &Missing) -> Option<Held> {
    let &Missing::Room(resource) = missing else { return None };
    let amount = cell.room(slot).get(resource) - cell.room_for(slot, requirement.job).get(resource);
    let holders = cell.held_beside(slot, requirement.job, resource);
    let &(_, most) = holders.first()?;
    let job = cell.job(most).map_or_else(|| most.to_string(), |job| job.shape.called());
    Some(Held { amount: u64::try_from(amount).ok()?, job, others: holders.len() as u64 - 1 })
}

/// Whether a task would have room on a machine, did nobody hold any there. False where nobody does.
fn has_room_but_for_holds(columns: &Columns, cell: &Cell, requirement: &Requirement<'_>, slot: u32) -> bool {
    if !cell.has_holds() || cell.held_by(slot).is_empty() {
        return false;
    }
    let mut room = cell.room(slot);
    room.take(&columns.promised(slot));
    room.shortage(requirement.resources).is_none()
}

/// How many tasks of a group there would be room for at most, were all machines that it may use empty, whatever their states are now. An upper bound, as
/// [`most_when_empty`] is.
#[must_use]
pub fn at_most_when_empty(cell: &Cell, requirement: &Requirement<'_>, shape: &GroupShape) -> u64 {
    let may_use = |machine: &&Arc<Machine>| {
        let slot = machine.id.slot;
        let class = cell.machine_row(slot).map(|row| row.class);
        let is_of_class = |classes: &ClassSet| class.is_some_and(|class| classes.contains(class));
        requirement.home.is_none_or(|home| home == slot) && requirement.classes.is_none_or(is_of_class)
    };
    cell.machines()
        .filter(may_use)
        .map(|machine| most_when_empty(&machine.capacity, &machine.devices, shape))
        .fold(0, u64::saturating_add)
}

/// What a machine that nobody uses lacks first.
fn missing_when_empty(
    machine: &Machine,
    requirement: &Requirement<'_>,
    devices: &[&[Device]],
) -> Option<(Missing, u64)> {
    let room = shortages(&machine.capacity, requirement.resources).first().copied();
    let room = room.map(|short| (Missing::Room(short.resource), short.short_by));
    let wanted = devices.iter().filter(|wanted| !wanted.is_empty());
    let mut short = wanted.filter_map(|wanted| {
        let short = device_shortage(machine.devices.iter().map(DeviceRoom::all_of).collect(), wanted)?;
        let short_by = short.short_by_millis;
        Some((Missing::devices(short), short_by))
    });
    room.or_else(|| short.next())
}

/// How far a machine is from having room. The smallest is nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Distance {
    /// It would not fit even were the machine empty: waiting doesn't help there.
    too_small: bool,
    /// Sum over the resources of the missing part of what is asked for, in millionths.
    parts: u128,
    /// Of equally near ones that which lacks room by holds alone is told: its room is seen to be free, and only the hold says why it can't be had.
    not_by_holds: bool,
}

fn missing_parts(columns: &Columns, cell: &Cell, requirement: &Requirement<'_>, slot: u32) -> u128 {
    let mut room: Room = cell.room_for(slot, requirement.job);
    room.take(&columns.promised(slot));
    let missing = |&resource: &Resource| {
        let need = requirement.resources.get(resource);
        let short = u64::try_from(need.cast_signed().saturating_sub(room.get(resource))).unwrap_or(0);
        parts_of(short, need)
    };
    Resource::ALL.iter().map(missing).sum()
}

fn parts_of(short: u64, need: u64) -> u128 {
    if need == 0 { 0 } else { u128::from(short) * 1_000_000 / u128::from(need) }
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.machines == 0 {
            return f.write_str("the cell has no machines");
        }
        let mut parts = Vec::new();
        if self.fitting > 0 {
            parts.push(format!("fits on {}", self.fitting));
        }
        for (missing, lack) in &self.lacks {
            let lacks = agreeing(lack.machines.into(), "lacks", "lack");
            let (name, least) = (missing.name_in(&self.custom_resources), missing.amount(lack.short_by_least));
            parts.push(format!("{} {lacks} {name} by at least {least}", lack.machines));
        }
        parts.extend(self.constraints_and_partitions());
        let told = [
            (
                self.other_machine,
                "is not the one that the job's tasks are to share",
                "are not the one that the job's tasks are to share",
            ),
            (self.full, "has as many allocations as it can", "have as many allocations as they can"),
        ];
        let said = told.iter().filter(|(count, ..)| *count > 0);
        parts.extend(said.map(|&(count, one, several)| format!("{count} {}", agreeing(count.into(), one, several))));
        parts.extend(self.limits_and_ports());
        for (state, &count) in &self.not_ready {
            let are = agreeing(count.into(), "is", "are");
            parts.push(format!("{count} {are} {}", format!("{state:?}").to_lowercase()));
        }
        if self.unfit > 0 {
            let are = agreeing(self.unfit.into(), "is cordoned by its agent", "are cordoned by their agents");
            parts.push(format!("{} {are} (`plenum machine list` says why)", self.unfit));
        }
        let of = agreeing(self.machines.into(), "machine", "machines");
        write!(f, "of {} {of} {}", self.machines, parts.join(", "))?;
        if let Some(nearest) = &self.nearest {
            let Nearest { machine, missing, short_by, missing_when_empty, held } = nearest;
            let words = |missing: &Missing, short_by| missing.words(short_by, &self.custom_resources);
            let empty = match missing_when_empty {
                None => String::new(),
                Some((same, _)) if same == missing => ", and too small even when empty".to_owned(),
                Some((other, short_by)) => format!(", and of {} even when empty", words(other, *short_by)),
            };
            write!(f, "; nearest is {machine}, short of {}{empty}", words(missing, *short_by))?;
            if let Some(Held { amount, job, others }) = held {
                let others =
                    if *others > 0 { format!(" and {}", counted(*others, "other job")) } else { String::new() };
                let hold = if others.is_empty() { "holds" } else { "hold" };
                write!(f, ", where {job}{others} {hold} {}", missing.amount(*amount))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
