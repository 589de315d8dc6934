//! Where a machine stands, and what it has: both may change while its tasks run, and an agent that is started says so.

use plenum_proto::v1;

use super::{MEMORY_BYTES, Machine};
use crate::outfit::Equipment;
use crate::owner::TASK_BYTES;
use crate::world::{Event, World};

/// Machines begin in the first two of them: in the third one no task ever was.
const RACKS: usize = 3;

/// What a machine has less than it began with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) cpu_millis: i64,
    pub(super) memory_bytes: u64,
    pub(super) disk_bytes: u64,
    pub(super) seats: u64,
    /// The first of its devices, if it began with any.
    device: bool,
    /// Its devices stand the other way round: each is of another model than it began with.
    turned: bool,
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
            ..Lack::default()
        };
        let drawn = self.lacks_of_outfit(world, drawn);
        // Something changes with each.
        let other = if self.lacks == Lack::default() {
            Lack { cpu_millis: self.cpu_millis / 2, ..Lack::default() }
        } else {
            Lack::default()
        };
        self.has_without(world, if drawn == self.lacks { other } else { drawn });
    }

    /// The same, with what it lacks of what not every run has.
    fn lacks_of_outfit(&self, world: &mut World, lack: Lack) -> Lack {
        let Equipment { disk_bytes, seats, devices } = &self.equipment;
        let mut less = |of: u64| if of > 0 && world.random.chance(300) { 1 + world.random.below(of) } else { 0 };
        let (disk_bytes, seats) = (less(*disk_bytes), less(*seats));
        let may_turn = devices.as_ref().is_some_and(|devices| devices.len() > 1);
        Lack { disk_bytes, seats, turned: may_turn && world.random.chance(400), ..lack }
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

    /// Every other machine has two, where there is no outfit; where it lacks the first, the others alone.
    pub(super) fn devices(&self) -> Vec<v1::Device> {
        let plain = || if self.number.is_multiple_of(2) { vec![("", 1000); 2] } else { Vec::new() };
        let mut all = self.equipment.devices.clone().unwrap_or_else(plain);
        if self.lacks.turned {
            all.reverse();
        }
        let device = |(index, (model, millis)): (u32, (&str, i32))| v1::Device {
            kind: "gpu".into(),
            index,
            millis,
            model: model.into(),
        };
        (0..).zip(all).skip(usize::from(self.lacks.device)).map(device).collect()
    }
}
