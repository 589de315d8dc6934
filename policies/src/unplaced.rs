//! Why nothing fits: machines counted by what stands in the way, and the one that came nearest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use plenum_model::{Cell, MachineState, Obstacle, Requirement, Resource, Room, Shortage, agreeing};

use crate::columns::Columns;

/// Machines that lack a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// How many. Each machine counts once, under the first resource it lacks.
    pub machines: u32,
    /// The least of what is missing on them, in the resource's unit.
    pub short_by_least: u64,
}

/// The machine that came nearest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Its name.
    pub machine: Arc<str>,
    /// What is missing there first.
    pub resource: Resource,
    /// How much.
    pub short_by: u64,
    /// It would fit, were the machine empty.
    pub fits_empty: bool,
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
    /// Some declared constraint fails.
    pub constraint: u32,
    /// The job's tasks share another machine.
    pub other_machine: u32,
    /// As many allocations as a machine can have.
    pub full: u32,
    /// Limits of the group, devices or ports stand in the way.
    pub special: u32,
    /// Not enough room.
    pub lacks: BTreeMap<Resource, Lack>,
    /// Among the machines that lack room only.
    pub nearest: Option<Nearest>,
    /// What the cell calls the resources that it named itself.
    pub custom_resources: Vec<Arc<str>>,
}

/// Judges every machine, with what the columns have promised. `beyond` says what else stands in the way on a machine that has room, where the
/// group declares more: devices, ports, limits, with what is spoken for of them.
#[must_use]
pub fn explain(
    columns: &Columns,
    cell: &Cell,
    requirement: &Requirement<'_>,
    beyond: impl Fn(u32) -> Option<Obstacle>,
) -> Unplaced {
    let custom_resources = cell.identity().custom_resources.clone();
    let mut unplaced = Unplaced { custom_resources, ..Unplaced::default() };
    let mut nearest: Option<(Distance, Nearest)> = None;
    for machine in cell.machines() {
        let slot = machine.id.slot;
        unplaced.machines += 1;
        let obstacle = requirement.obstacle(cell, slot, &columns.promised(slot)).or_else(|| beyond(slot));
        match obstacle {
            None => unplaced.fitting += 1,
            Some(Obstacle::NoSuchMachine) => unplaced.machines -= 1,
            Some(Obstacle::NotReady(state)) => *unplaced.not_ready.entry(state).or_default() += 1,
            Some(Obstacle::Constraint) => unplaced.constraint += 1,
            Some(Obstacle::OtherMachine) => unplaced.other_machine += 1,
            Some(Obstacle::Full) => unplaced.full += 1,
            Some(Obstacle::PerMachine | Obstacle::Spread(_) | Obstacle::Device(_) | Obstacle::Port(_)) => {
                unplaced.special += 1;
            }
            Some(Obstacle::NoRoom(short)) => {
                let none = Lack { machines: 0, short_by_least: u64::MAX };
                let lack = unplaced.lacks.entry(short.resource).or_insert(none);
                lack.machines += 1;
                lack.short_by_least = lack.short_by_least.min(short.short_by);
                let fits_empty = requirement.resources.fits_in(&machine.capacity);
                let distance =
                    Distance { too_small: !fits_empty, parts: missing_parts(columns, cell, requirement, slot) };
                if nearest.as_ref().is_none_or(|(least, _)| distance < *least) {
                    let (resource, short_by) = (short.resource, short.short_by);
                    nearest =
                        Some((distance, Nearest { machine: machine.name.clone(), resource, short_by, fits_empty }));
                }
            }
        }
    }
    unplaced.nearest = nearest.map(|(_, nearest)| nearest);
    unplaced
}

/// How far a machine is from having room. The smallest is nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Distance {
    /// It would not fit even were the machine empty: waiting doesn't help there.
    too_small: bool,
    /// Sum over the resources of the missing part of what is asked for, in millionths.
    parts: u128,
}

fn missing_parts(columns: &Columns, cell: &Cell, requirement: &Requirement<'_>, slot: u32) -> u128 {
    let mut room: Room = cell.room(slot);
    room.take(&columns.promised(slot));
    let missing = |&resource: &Resource| {
        let need = requirement.resources.get(resource);
        let short = u64::try_from(need.cast_signed().saturating_sub(room.get(resource))).unwrap_or(0);
        if need == 0 { 0 } else { u128::from(short) * 1_000_000 / u128::from(need) }
    };
    Resource::ALL.iter().map(missing).sum()
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
        for (resource, lack) in &self.lacks {
            let lacks = agreeing(lack.machines.into(), "lacks", "lack");
            let (name, least) = (resource.name_in(&self.custom_resources), resource.lack(lack.short_by_least));
            parts.push(format!("{} {lacks} {name} by at least {least}", lack.machines));
        }
        let told = [
            (self.constraint, "fails a constraint", "fail a constraint"),
            (
                self.other_machine,
                "is not the one that the job's tasks share",
                "are not the one that the job's tasks share",
            ),
            (self.full, "has as many allocations as it can", "have as many allocations as they can"),
            (self.special, "is ruled out by limits, devices or ports", "are ruled out by limits, devices or ports"),
        ];
        let counted = told.iter().filter(|(count, ..)| *count > 0);
        parts.extend(counted.map(|&(count, one, several)| format!("{count} {}", agreeing(count.into(), one, several))));
        for (state, &count) in &self.not_ready {
            let are = agreeing(count.into(), "is", "are");
            parts.push(format!("{count} {are} {}", format!("{state:?}").to_lowercase()));
        }
        let of = agreeing(self.machines.into(), "machine", "machines");
        write!(f, "of {} {of} {}", self.machines, parts.join(", "))?;
        if let Some(nearest) = &self.nearest {
            let Nearest { machine, resource, short_by, fits_empty } = nearest;
            let short = Shortage { resource: *resource, short_by: *short_by }.words_in(&self.custom_resources);
            let empty = if *fits_empty { "" } else { ", and too small even when empty" };
            write!(f, "; nearest is {machine}, short of {short}{empty}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
