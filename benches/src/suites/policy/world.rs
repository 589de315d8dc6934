//! A cell for decisions: four kinds of machines, partly used, and some kinds of tasks.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use plenum_model::{Cell, Constraint, Delta, LogTime, Machine, MachineId, MachineState, Operator, Resources, Revision};
use plenum_policies::{Columns, Eligible, Request, Settings};

use crate::figure::number;
use crate::random::Random;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Cores and GiB of machines.
const KINDS: [(u64, u64); 4] = [(16, 64), (32, 128), (32, 256), (64, 256)];
/// Kinds of tasks.
const TASKS: usize = 16;
const RACKS: u32 = 40;

/// Machines, what is free on them, and tasks.
pub(super) struct World {
    pub(super) columns: Columns,
    eligible: [Arc<Eligible>; 2],
    tasks: Vec<Resources>,
    used: f64,
}

impl World {
    /// Each machine is used between nothing and nine tenths, two thirds on average (the larger of two draws), and CPU and memory not alike.
    pub(super) fn build(machines: u32, seed: u64) -> anyhow::Result<Self> {
        let mut random = Random::new(seed);
        let mut delta = Delta::new(Revision(1), LogTime::from_micros(1));
        let mut used = BTreeMap::new();
        let (mut cpu_used, mut cpu_all) = (0, 0);
        for slot in 0..machines {
            let (cores, gib) = KINDS[random.below(4) as usize];
            let capacity = Resources::new(cores * 1000, gib * GIB);
            delta.machines.push(Arc::new(machine(slot, capacity, random.below(RACKS))));
            let mut part = |all: u64, step: u64| {
                let busy = u64::from(random.below(1000).max(random.below(1000)).min(900));
                all * busy / 1000 / step * step
            };
            let taken = Resources::new(part(cores * 1000, 50), part(gib * GIB, MIB));
            (cpu_used, cpu_all) = (cpu_used + taken.cpu_millis, cpu_all + cores * 1000);
            used.insert(slot, taken);
        }
        let mut cell = Cell::default();
        cell.apply(&delta).context("the machines do not fit an empty cell")?;
        let mut columns = Columns::default();
        columns.follow(&cell, None, &used);
        let mut eligible = |operator| {
            let half = Constraint { attribute: "rack".into(), operator, values: vec![(RACKS / 2).to_string().into()] };
            columns.eligible(&[half], &[], &cell).context("a list of constraints was given")
        };
        let eligible = [eligible(Operator::Less)?, eligible(Operator::GreaterOrEqual)?];
        let tasks = (0..TASKS).map(|_| {
            let (cpu, memory) = (u64::from(1 + random.below(40)) * 100, u64::from(1 + random.below(64)) * 128 * MIB);
            Resources::new(cpu, memory)
        });
        Ok(Self { tasks: tasks.collect(), eligible, used: number(cpu_used) / number(cpu_all), columns })
    }

    /// How many kinds of requests there are.
    pub(super) fn kinds(&self) -> u32 {
        u32::try_from(2 * self.tasks.len()).expect("a few")
    }

    /// The part of all cores that is used.
    pub(super) fn used(&self) -> f64 {
        (self.used * 100.0).round() / 100.0
    }

    pub(super) fn needs(&self, round: u32) -> &Resources {
        &self.tasks[round as usize / 2 % self.tasks.len()]
    }

    pub(super) fn eligible(&self, round: u32) -> Option<&Arc<Eligible>> {
        Some(&self.eligible[round as usize % 2])
    }

    /// A task and where it may run.
    pub(super) fn request(&self, round: u32, settings: Settings) -> Request<'_> {
        let eligible = self.eligible(round).map(AsRef::as_ref);
        Request { eligible, ..Request::new(self.needs(round), settings) }
    }

    /// All machines on which a task fits, by a plain search.
    pub(super) fn fitting(&self, round: u32) -> Vec<u32> {
        let eligible = &self.eligible[round as usize % 2];
        let fits = |slot: &u32| {
            let room = self.columns.room(*slot);
            eligible.contains(*slot) && room.is_some_and(|room| room.shortage(self.needs(round)).is_none())
        };
        (0..self.columns.rows()).filter(fits).collect()
    }

    /// Free room of a machine in thousandths of a core, memory at 4 GiB a core.
    pub(super) fn room_left(&self, slot: u32) -> f64 {
        let free = self.columns.room(slot).map(|room| room.positive()).unwrap_or_default();
        number(free.cpu_millis) + number(free.memory_bytes / MIB) / 4.096
    }
}

fn machine(slot: u32, capacity: Resources, rack: u32) -> Machine {
    Machine {
        id: MachineId { slot, generation: 1 },
        name: format!("m{slot}").into(),
        state: MachineState::Ready,
        cordoned: false,
        unfit: None,
        epoch: 1,
        capacity: Arc::new(capacity),
        attributes: Arc::new([("rack".into(), rack.to_string().into())].into()),
        devices: Arc::default(),
        boot_id: "boot".into(),
        since: LogTime::default(),
        drain_deadline: None,
        registered: LogTime::default(),
        epoch_began: Revision(1),
    }
}
