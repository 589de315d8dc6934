//! Machines for tasks that ask for GPUs: by what a GPU is worth to the work that is expected, instead of by the room that is left.
//!
//! The picture of the GPUs is made from the cell and the books of the decision, so it shows what claims under way take. What is expected is
//! learned from what comes: each group is counted once, and what came long ago counts less and less.

mod expected;
mod seen;

use std::collections::BTreeSet;

use plenum_model::{Cell, Device, GroupShape, Resource, Room, choose_devices};
use plenum_policies::gpu::{
    DEVICES_MAX, FragmentationGradient, GpuMachine, GpuMachines, GpuPlacer, GpuScoring, GpuTask, ModelSet, Scored,
    Target, WHOLE, Worth,
};
use plenum_policies::{Columns, Request, Settings, Ties, choose_by};
use plenum_sdk::{Specials, Work};

use self::expected::Expected;
use self::seen::Seen;

/// What devices are called that count.
const KIND: &str = "gpu";

/// By what machines are ranked for tasks that ask for GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuPolicy {
    /// By what the GPUs are worth to the work that is expected (`docs/gpu-placement.md`).
    #[default]
    Worth,
    /// By the fragmentation gradient (Weng and others, ATC 2023).
    FragmentationGradient,
    /// As all other tasks, by their room alone.
    ByRoom,
}

/// One of the two that know of GPUs.
#[derive(Debug)]
enum Ranking {
    Worth(Box<Worth>),
    Gradient(FragmentationGradient),
}

impl GpuScoring for Ranking {
    fn name(&self) -> &'static str {
        match self {
            Self::Worth(scoring) => scoring.name(),
            Self::Gradient(scoring) => scoring.name(),
        }
    }

    fn standing(&self, machine: &GpuMachine) -> f64 {
        match self {
            Self::Worth(scoring) => scoring.standing(machine),
            Self::Gradient(scoring) => scoring.standing(machine),
        }
    }

    fn whole(&self) -> f32 {
        match self {
            Self::Worth(scoring) => scoring.whole(),
            Self::Gradient(scoring) => scoring.whole(),
        }
    }

    fn place(&self, machine: &GpuMachine, standing: f64, task: &GpuTask) -> Scored {
        match self {
            Self::Worth(scoring) => scoring.place(machine, standing, task),
            Self::Gradient(scoring) => scoring.place(machine, standing, task),
        }
    }
}

/// What of the machines is spoken for in a decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Books<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) columns: &'a Columns,
    pub(crate) specials: &'a Specials,
}

/// The picture of the GPUs, and what they are worth.
#[derive(Debug)]
pub(crate) struct Gpus {
    policy: GpuPolicy,
    machines: GpuMachines,
    placer: GpuPlacer<Ranking>,
    /// Slots that may look different from how the picture has them; `None`: all. Invariant: not `None` where the picture is up to date.
    stale: Option<BTreeSet<u32>>,
    /// Whether the picture has what is promised in this decision.
    is_up_to_date: bool,
    expected: Expected,
    seen: Seen,
}

impl Gpus {
    /// `None` where GPUs are nothing special.
    pub(crate) fn new(policy: GpuPolicy) -> Option<Self> {
        (policy != GpuPolicy::ByRoom).then(|| Self::by(policy))
    }

    fn by(policy: GpuPolicy) -> Self {
        Self {
            policy,
            machines: GpuMachines::default(),
            placer: GpuPlacer::new(ranking(policy, &Target::default())),
            stale: None,
            is_up_to_date: false,
            expected: Expected::default(),
            seen: Seen::default(),
        }
    }

    /// Nothing of what is remembered is of the jobs and machines that there are from now on, whatever their numbers.
    pub(crate) fn begin_anew(&mut self) {
        *self = Self::by(self.policy);
    }

    /// A decision begins: `changed` are the slots of machines that changed since the last one, `None` any.
    pub(crate) fn begin(&mut self, changed: Option<&[u32]>) {
        self.is_up_to_date = false;
        self.seen.begin();
        self.stale = self.stale.take().zip(changed).map(|(mut stale, changed)| {
            stale.extend(changed);
            stale
        });
    }

    /// What a task of the group is to the policy; `None` when it asks for no GPU, or for something else besides.
    pub(crate) fn task(&mut self, shape: &GroupShape) -> Option<GpuTask> {
        let first = shape.devices.first()?;
        let millis = u16::try_from(first.millis).ok().filter(|millis| (1..=WHOLE).contains(millis))?;
        let alike = |one: &Device| &*one.kind == KIND && one.millis == first.millis && one.model == first.model;
        if !shape.devices.iter().all(alike) || (shape.devices.len() > 1 && millis < WHOLE) {
            return None;
        }
        let any = first.model.is_empty();
        let models =
            if any { ModelSet::ANY } else { ModelSet::default().and(self.machines.model_number(&first.model)) };
        Some(GpuTask {
            cpu_millis: u32::try_from(shape.resources.cpu_millis).ok()?,
            memory_mib: u32::try_from(shape.resources.memory_bytes.div_ceil(1 << 20)).ok()?,
            devices: u8::try_from(shape.devices.len()).ok()?,
            millis,
            models,
        })
    }

    /// A group came: counted once, however often it is tried.
    pub(crate) fn expect(&mut self, cell: &Cell, work: &Work) {
        let Some(task) = self.task(work.shape()) else { return };
        let is_over = |job| cell.job(job).is_none_or(|job| job.state.is_final());
        if !self.seen.add((work.job.id, work.group), is_over) {
            return;
        }
        // What the shape has is what it was submitted with.
        let count = cell.group(&work.job, work.group).map_or_else(|| work.shape().count, |row| row.count);
        self.expected.count(&task, count.into());
    }

    /// The best machine for one task as things stand since [`Gpus::prepare`] and each [`Gpus::put`], and its GPUs where those are others than the cell would choose by itself. `None` also where its picture, rounded to
    /// whole units and without what jobs hold, rules all out.
    pub(crate) fn choose(
        &mut self,
        books: Books<'_>,
        request: &Request<'_>,
        work: &Work,
        task: &GpuTask,
    ) -> Option<(u32, Vec<Device>)> {
        let costs = self.placer.costs_for(&self.machines, task);
        // Costs are exact, and equal ones go to the first machine, so that machines fill up one after another.
        let settings = Settings { ties: Ties::LowestSlot, nearness: 0.0, ..request.settings };
        let &machine = choose_by(books.columns, &Request { settings, ..*request }, &costs, 1).first()?;
        Some((machine, named(books, work.shape(), machine, costs.devices(machine))))
    }

    /// Brings the picture up to what earlier groups of this decision took, and to what is in flight.
    pub(crate) fn prepare(&mut self, books: Books<'_>) {
        // Some milliseconds, and then the costs of all machines.
        if let Some(target) = self.expected.target() {
            self.placer = GpuPlacer::new(ranking(self.policy, &target));
        }
        let begins = !std::mem::replace(&mut self.is_up_to_date, true);
        if begins {
            let stale = self.stale.replace(BTreeSet::new()).unwrap_or_else(|| (0..books.columns.rows()).collect());
            stale.into_iter().for_each(|slot| self.read(books, slot));
            let known = u32::try_from(self.machines.rows().len()).unwrap_or(u32::MAX);
            (known..books.columns.rows()).for_each(|slot| self.read(books, slot));
            books.specials.machines().for_each(|slot| self.put(books, slot));
        }
        // Tasks without GPUs take room, too.
        for slot in books.columns.promised_slots() {
            let Some(row) = self.machines.rows().get(slot as usize).filter(|row| row.devices > 0) else { continue };
            let room = books.columns.room(slot).map(|room| (room.get(Resource::CpuMillis), memory_mib(room)));
            if begins || room != Some((row.cpu_millis, row.memory_mib)) {
                self.put(books, slot);
            }
        }
    }

    /// The books of a machine changed: another task is claimed there, or is not after all. Nothing is done before [`Gpus::prepare`] was called in this decision,
    /// which reads whatever is booked by then.
    pub(crate) fn put(&mut self, books: Books<'_>, slot: u32) {
        if !self.is_up_to_date {
            return;
        }
        self.read(books, slot);
        // Whether it is granted shows in the cell alone.
        if let Some(stale) = &mut self.stale {
            stale.insert(slot);
        }
    }

    fn read(&mut self, books: Books<'_>, slot: u32) {
        let rooms = books.specials.device_rooms(books.cell, slot);
        self.machines.set_by_books(slot, books.columns.room(slot), &rooms, KIND);
    }
}

fn memory_mib(room: &Room) -> i64 {
    room.get(Resource::MemoryBytes).div_euclid(1 << 20)
}

fn ranking(policy: GpuPolicy, target: &Target) -> Ranking {
    match policy {
        GpuPolicy::FragmentationGradient => Ranking::Gradient(FragmentationGradient::new(target)),
        GpuPolicy::Worth | GpuPolicy::ByRoom => Ranking::Worth(Box::new(Worth::new(target))),
    }
}

/// The GPUs that were chosen by position, as a claim names them. Empty where the cell would choose the same: then it may also take another one, should somebody be
/// faster.
fn named(books: Books<'_>, shape: &GroupShape, slot: u32, positions: u16) -> Vec<Device> {
    let mut rooms = books.specials.device_rooms(books.cell, slot);
    // As many as the policy looks at: a position is a bit.
    let of_kind = rooms.iter().filter(|room| &*room.kind == KIND).take(DEVICES_MAX).enumerate();
    let chosen = of_kind.filter(|(position, _)| positions >> position & 1 == 1).map(|(_, room)| room);
    let named: Vec<Device> = chosen
        .zip(&shape.devices)
        .map(|(room, device)| Device { index: room.index, model: room.model.clone(), ..device.clone() })
        .collect();
    let usual = choose_devices(&mut rooms, &shape.devices).unwrap_or_default();
    if usual == named || named.len() != shape.devices.len() { Vec::new() } else { named }
}

#[cfg(test)]
mod tests;
