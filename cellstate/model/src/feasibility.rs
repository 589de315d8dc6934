//! Whether a task may run on a machine: the one judgement that planners and the committer share.

use crate::{Cell, ClassSet, MachineState, Resource, Resources, Room, Shortage};

/// What a task needs of its machine.
#[derive(Clone, Copy, Debug)]
pub struct Requirement<'a> {
    /// Room.
    pub resources: &'a Resources,
    /// Classes of machines that satisfy its group's constraints; `None` when it has none.
    pub classes: Option<&'a ClassSet>,
    /// The machine that its job's tasks share, once one was chosen.
    pub home: Option<u32>,
}

/// What stands between a task and a machine. Judged in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// There is none in that slot.
    NoSuchMachine,
    /// It takes no claims.
    NotReady(MachineState),
    /// A declared constraint fails.
    Constraint,
    /// The job's tasks share another machine.
    OtherMachine,
    /// It has as many allocations as a machine can have.
    Full,
    /// Not enough room.
    NoRoom(Shortage),
}

impl Requirement<'_> {
    /// What stands in the way of running on the machine in `slot`, when `promised` of its room is spoken for: by earlier claims of
    /// the same transaction, or by a scheduler's own transactions in flight.
    #[must_use]
    #[inline]
    pub fn obstacle(&self, cell: &Cell, slot: u32, promised: &Resources) -> Option<Obstacle> {
        let Some(row) = cell.machine_row(slot) else { return Some(Obstacle::NoSuchMachine) };
        if row.state != MachineState::Ready {
            return Some(Obstacle::NotReady(row.state));
        }
        if self.classes.is_some_and(|classes| !classes.contains(row.class)) {
            return Some(Obstacle::Constraint);
        }
        if self.home.is_some_and(|home| home != slot) {
            return Some(Obstacle::OtherMachine);
        }
        if row.allocations == u16::MAX {
            return Some(Obstacle::Full);
        }
        // The hot row alone decides when nothing else is asked for. All sums stay far from overflow: amounts are bounded at the edge.
        let cpu = (self.resources.cpu_millis + promised.cpu_millis).cast_signed();
        let memory = (self.resources.memory_bytes + promised.memory_bytes).cast_signed();
        let fits = cpu <= row.free_cpu_millis.into() && memory <= row.free_memory_bytes;
        if fits && self.resources.is_plain() {
            return None;
        }
        let mut room = cell.room(slot);
        room.take(promised);
        room.shortage(self.resources).map(Obstacle::NoRoom)
    }
}

/// How far a machine's whole capacity is from what a task needs, for telling people which machine came nearest.
#[must_use]
pub fn shortages(capacity: &Resources, need: &Resources) -> Vec<Shortage> {
    let room = Room::all_of(capacity);
    let short = |&resource: &Resource| {
        let by = need.get(resource).cast_signed().saturating_sub(room.get(resource));
        (by > 0).then(|| Shortage { resource, short_by: by.cast_unsigned() })
    };
    Resource::ALL.iter().filter_map(short).collect()
}
