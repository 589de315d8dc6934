//! Where a machine stands, and what it has: both may change while its tasks run, and an agent that is started says so.

use plenum_proto::v1;

use super::{MEMORY_BYTES, Machine};
use crate::owner::TASK_BYTES;
use crate::world::{Event, World};

/// Machines begin in the first two of them: in the third one no task ever was.
const RACKS: usize = 3;

/// What a machine has less than it began with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) cpu_millis: i64,
    pub(super) memory_bytes: u64,
    /// The first of its devices, if it began with any.
    device: bool,
}

/// The rack in which a machine begins.
pub(super) const fn home(number: usize) -> usize {
    number % 2
}

impl Machine {
    /// The machine is put into another rack: its agent's process ends, and the next one says so.
    pub(crate) fn moves_elsewhere(&mut self, world: &mut World) {
        let further = 1 + world.random.index(RACKS - 1);
        self.moves(world, (self.rack + further) % RACKS);
    }

    /// The machine has less than it began with, or all of it again: its agent's process ends, and the next one says so.
    pub(crate) fn changes_hardware(&mut self, world: &mut World) {
        let has_devices = !self.devices().is_empty();
        let quarters = i64::try_from(world.random.index(4)).unwrap_or(0);
        // What is left is for some tasks.
        let memory_bytes = if world.random.chance(300) { MEMORY_BYTES - world.random.below(6) * TASK_BYTES } else { 0 };
        let drawn = Lack {
            cpu_millis: self.cpu_millis / 4 * quarters,
            memory_bytes,
            device: has_devices && world.random.chance(500),
        };
        // Something changes with each.
        let other = if self.lacks == Lack::default() {
            Lack { cpu_millis: self.cpu_millis / 2, ..Lack::default() }
        } else {
            Lack::default()
        };
        self.has_without(world, if drawn == self.lacks { other } else { drawn });
    }

    fn has_without(&mut self, world: &mut World, lacks: Lack) {
        self.kill(world);
        self.lacks = lacks;
        world.tell(|| format!("{}: has {lacks:?} less than it began with now", self.name));
    }

    /// The machine is put back where it began, if it is elsewhere, and has again what it lacks.
    pub(crate) fn moves_home(&mut self, world: &mut World) {
        let (home, whole) = (home(self.number), Lack::default());
        if self.rack == home && self.lacks == whole {
            return;
        }
        if self.lacks != whole {
            self.has_without(world, whole);
        }
        if self.rack != home {
            self.moves(world, home);
        }
        world.agenda.after(0, Event::AgentStarts { agent: self.number });
    }

    fn moves(&mut self, world: &mut World, rack: usize) {
        self.kill(world);
        self.rack = rack;
        world.tell(|| format!("{}: is in rack r{rack} now", self.name));
    }

    /// Every other machine has two; where it lacks the first, the second alone.
    pub(super) fn devices(&self) -> Vec<v1::Device> {
        let device = |index| v1::Device { kind: "gpu".into(), index, millis: 1000, model: String::new() };
        let first = u32::from(self.lacks.device);
        if self.number.is_multiple_of(2) { (first..2).map(device).collect() } else { Vec::new() }
    }
}
