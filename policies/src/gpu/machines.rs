//! What each machine has free, GPU by GPU, brought up to date row by row.

use std::sync::Arc;

use plenum_model::{Cell, DeviceRoom, MachineState, Resource, Room, device_rooms};

/// A whole GPU, in thousandths.
pub const WHOLE: u16 = 1000;

/// Most GPUs of one machine that are looked at; further ones are not used.
pub const DEVICES_MAX: usize = 16;

/// Models that are told apart; machines with a further one, or with several, serve only tasks that take any.
const MODELS_MAX: usize = 63;

/// What stands for several models: none that a task could ask for.
const SEVERAL_MODELS: u8 = 63;
const _: () = assert!(SEVERAL_MODELS as usize >= MODELS_MAX);

const MIB: u64 = 1 << 20;

/// Models of GPUs that suit a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelSet(u64);

impl ModelSet {
    /// Any model suits.
    pub const ANY: Self = Self(0);

    /// None suits: what a list of unknown models comes to.
    pub const NONE: Self = Self(1 << 63);

    /// Also this one, by [`GpuMachines::model_number`]. What suits any is narrowed to it.
    #[must_use]
    pub fn and(self, model: u8) -> Self {
        Self(self.0 | if usize::from(model) < MODELS_MAX { 1 << model } else { Self::NONE.0 })
    }

    /// Whether a model suits.
    #[must_use]
    pub fn suits(self, model: u8) -> bool {
        self.0 == 0 || (usize::from(model) < MODELS_MAX && self.0 >> model & 1 == 1)
    }
}

/// What a task asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GpuTask {
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Units of 2^20 bytes.
    pub memory_mib: u32,
    /// GPUs; 0 for a task that needs none.
    pub devices: u8,
    /// Thousandths of each GPU, 1 to 1000; below 1000 only for one GPU.
    pub millis: u16,
    /// Which models suit.
    pub models: ModelSet,
}

impl GpuTask {
    /// Whether it takes part of one GPU.
    #[must_use]
    pub fn shares(&self) -> bool {
        self.devices == 1 && self.millis < WHOLE
    }

    /// Thousandths of all its GPUs.
    #[must_use]
    pub fn gpu_millis(&self) -> u64 {
        u64::from(self.devices) * u64::from(self.millis)
    }
}

/// What one machine has free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuMachine {
    /// Thousandths of a core. Negative where the machine shrank.
    pub cpu_millis: i64,
    /// Units of 2^20 bytes, rounded down.
    pub memory_mib: i64,
    /// By [`GpuMachines::model_number`]: the model of its GPUs. Where they are of several, one that suits only tasks that take any: which GPU is of which
    /// model is not looked at here.
    pub model: u8,
    /// GPUs.
    pub devices: u8,
    /// Takes tasks.
    pub open: bool,
    /// Thousandths that are free of each GPU.
    free: [u16; DEVICES_MAX],
    /// Tasks on it that share a GPU, and those that take n whole ones.
    kinds: [u16; DEVICES_MAX + 1],
}

impl GpuMachine {
    /// An empty one. More than [`DEVICES_MAX`] GPUs are not looked at.
    #[must_use]
    pub fn empty(cpu_millis: u32, memory_mib: u32, devices: u8, model: u8) -> Self {
        let devices = devices.min(u8::try_from(DEVICES_MAX).expect("small"));
        let mut free = [0; DEVICES_MAX];
        free[..usize::from(devices)].fill(WHOLE);
        let (cpu_millis, memory_mib) = (cpu_millis.into(), memory_mib.into());
        Self { cpu_millis, memory_mib, model, devices, open: true, free, kinds: [0; DEVICES_MAX + 1] }
    }

    /// Thousandths that are free of each GPU.
    #[must_use]
    pub fn free(&self) -> &[u16] {
        &self.free[..usize::from(self.devices)]
    }

    /// Thousandths that are free of all GPUs.
    #[must_use]
    pub fn idle_millis(&self) -> u64 {
        self.free().iter().map(|free| u64::from(*free)).sum()
    }

    /// GPUs that are wholly free.
    #[must_use]
    pub fn whole(&self) -> usize {
        self.free().iter().filter(|free| **free == WHOLE).count()
    }

    /// Kinds of GPU tasks on it: bit 0 for those that share a GPU, bit n for those of n whole ones.
    #[must_use]
    pub fn kinds(&self) -> u32 {
        (0..).zip(&self.kinds).filter(|(_, tasks)| **tasks > 0).fold(0, |kinds, (kind, _)| kinds | 1 << kind)
    }

    /// Whether a task fits.
    #[must_use]
    pub fn fits(&self, task: &GpuTask) -> bool {
        self.open
            && i64::from(task.cpu_millis) <= self.cpu_millis
            && i64::from(task.memory_mib) <= self.memory_mib
            && (task.devices == 0
                || (task.models.suits(self.model) && self.holding(task.millis) >= usize::from(task.devices)))
    }

    /// GPUs with at least so much left.
    #[must_use]
    pub fn holding(&self, millis: u16) -> usize {
        self.free().iter().filter(|free| **free >= millis).count()
    }

    /// The GPUs that a task takes when nothing better is known: those with the least left that is enough, lowest position first. So whole
    /// GPUs stay whole. The task must fit.
    #[must_use]
    pub fn tightest(&self, task: &GpuTask) -> u16 {
        let mut devices = 0;
        for _ in 0..task.devices {
            let suits = |&position: &usize| self.free()[position] >= task.millis && devices >> position & 1 == 0;
            let best = (0..self.free().len()).filter(suits).min_by_key(|&position| self.free()[position]);
            devices |= best.map_or(0, |position| 1 << position);
        }
        devices
    }

    /// Takes room for a task that fits, on these GPUs.
    pub fn take(&mut self, task: &GpuTask, devices: u16) {
        self.cpu_millis -= i64::from(task.cpu_millis);
        self.memory_mib -= i64::from(task.memory_mib);
        for (position, free) in self.free.iter_mut().enumerate().filter(|(position, _)| devices >> position & 1 == 1) {
            debug_assert!(*free >= task.millis, "GPU {position} has {free} left, and {} are taken", task.millis);
            *free = free.saturating_sub(task.millis);
        }
        self.count(task, u16::saturating_add);
    }

    /// Gives back what [`GpuMachine::take`] took.
    pub fn give(&mut self, task: &GpuTask, devices: u16) {
        self.cpu_millis += i64::from(task.cpu_millis);
        self.memory_mib += i64::from(task.memory_mib);
        for (_, free) in self.free.iter_mut().enumerate().filter(|(position, _)| devices >> position & 1 == 1) {
            *free = (*free + task.millis).min(WHOLE);
        }
        self.count(task, u16::saturating_sub);
    }

    fn count(&mut self, task: &GpuTask, change: fn(u16, u16) -> u16) {
        if task.devices > 0 {
            let kind = if task.shares() { 0 } else { usize::from(task.devices).min(DEVICES_MAX) };
            self.kinds[kind] = change(self.kinds[kind], 1);
        }
    }
}

/// The GPUs of all machines by slot.
#[derive(Clone, Debug, Default)]
pub struct GpuMachines {
    rows: Vec<GpuMachine>,
    /// Raised whenever the row may have changed: who remembers something about a row compares.
    stamps: Vec<u32>,
    models: Vec<Arc<str>>,
}

impl GpuMachines {
    /// Brings the rows to the state of `cell`: `changed` has the slots of machines that changed since the last call, in any order; `None` stands
    /// for "any, or another cell". GPUs are the devices of this kind.
    ///
    /// Which kinds of tasks are on a machine is not in its room: rows that are read keep what they know from `take` and `give`. Not looked at is what jobs hold, what is
    /// promised to claims under way, and disk and the cell's own resources: who has these in books sets rows by them ([`GpuMachines::set_by_books`]).
    pub fn follow(&mut self, cell: &Cell, changed: Option<&[u32]>, kind: &str) {
        let known = u32::try_from(self.rows.len()).expect("slots have 32 bits");
        let rows = cell.machine_rows().len();
        match changed {
            None => {
                (0..rows).for_each(|slot| self.read(cell, slot, kind));
                // Of a cell that had more. They stay as rows that take nothing: what was counted of each goes on.
                (rows..known).for_each(|slot| self.set(slot, GpuMachine::default()));
            }
            Some(changed) => {
                let fresh = known..rows;
                fresh
                    .chain(changed.iter().copied().filter(|slot| *slot < known))
                    .for_each(|slot| self.read(cell, slot, kind));
            }
        }
    }

    fn read(&mut self, cell: &Cell, slot: u32, kind: &str) {
        let mut row = GpuMachine::default();
        if let (Some(hot), Some(machine)) = (cell.machine_row(slot), cell.machine_in(slot)) {
            row.open = hot.state == MachineState::Ready && hot.allocations < u16::MAX;
            row.cpu_millis = hot.free_cpu_millis.into();
            row.memory_mib = hot.free_memory_bytes.div_euclid(MIB.cast_signed());
            self.read_devices(&mut row, &device_rooms(cell, machine), kind);
        }
        self.set(slot, row);
    }

    /// Sets one row by the books of whoever places, for claims under way, which the cell does not show yet: `room` is what is free for tasks, `None` where they may
    /// not run, and `rooms` what is free of each device, in the machine's order. GPUs are the devices of this kind.
    pub fn set_by_books(&mut self, slot: u32, room: Option<&Room>, rooms: &[DeviceRoom], kind: &str) {
        let mut row = GpuMachine { open: room.is_some(), ..GpuMachine::default() };
        if let Some(room) = room {
            row.cpu_millis = room.get(Resource::CpuMillis);
            row.memory_mib = room.get(Resource::MemoryBytes).div_euclid(MIB.cast_signed());
        }
        self.read_devices(&mut row, rooms, kind);
        if let Some(known) = self.rows.get(slot as usize) {
            row.kinds = known.kinds;
            if *known == row {
                return;
            }
        }
        self.set(slot, row);
    }

    fn read_devices(&mut self, row: &mut GpuMachine, rooms: &[DeviceRoom], kind: &str) {
        let of_kind = || rooms.iter().filter(|room| &*room.kind == kind).take(DEVICES_MAX);
        row.model = of_kind().next().map_or(0, |first| {
            let is_one = of_kind().all(|room| room.model == first.model);
            if is_one { self.model_number(&first.model) } else { SEVERAL_MODELS }
        });
        for (free, room) in row.free.iter_mut().zip(of_kind()) {
            *free = whole_or_less(room);
            row.devices += 1;
        }
    }

    /// Puts a machine into a slot.
    pub fn set(&mut self, slot: u32, mut machine: GpuMachine) {
        let index = slot as usize;
        if index >= self.rows.len() {
            self.rows.resize_with(index + 1, GpuMachine::default);
            self.stamps.resize(index + 1, 0);
        }
        if machine.kinds() == 0 {
            machine.kinds = self.rows[index].kinds;
        }
        self.rows[index] = machine;
        self.stamps[index] = self.stamps[index].wrapping_add(1);
    }

    /// The number of a model, the same for as long as these rows live.
    pub fn model_number(&mut self, model: &str) -> u8 {
        let known = self.models.iter().position(|known| &**known == model);
        let number = known.unwrap_or_else(|| {
            if self.models.len() < MODELS_MAX {
                self.models.push(model.into());
                self.models.len() - 1
            } else {
                MODELS_MAX
            }
        });
        u8::try_from(number).expect("below 64")
    }

    /// All rows, by slot.
    #[must_use]
    pub fn rows(&self) -> &[GpuMachine] {
        &self.rows
    }

    /// See the field.
    #[must_use]
    pub(super) fn stamps(&self) -> &[u32] {
        &self.stamps
    }

    /// Takes room on a machine for a task that fits there.
    pub fn take(&mut self, slot: u32, task: &GpuTask, devices: u16) {
        if let Some(row) = self.rows.get_mut(slot as usize) {
            row.take(task, devices);
            self.stamps[slot as usize] = self.stamps[slot as usize].wrapping_add(1);
        }
    }

    /// Gives back what [`GpuMachines::take`] took.
    pub fn give(&mut self, slot: u32, task: &GpuTask, devices: u16) {
        if let Some(row) = self.rows.get_mut(slot as usize) {
            row.give(task, devices);
            self.stamps[slot as usize] = self.stamps[slot as usize].wrapping_add(1);
        }
    }
}

fn whole_or_less(room: &DeviceRoom) -> u16 {
    u16::try_from(room.free_millis.clamp(0, WHOLE.into())).expect("at most 1000")
}
