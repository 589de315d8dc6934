//! A dumb twin of the whole crate: sorts all machines anew for every task, with the judgement that the committer uses, on the cell itself.

mod asking_tests;
mod following_tests;
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{
    Affinity, Cell, ClassSet, Constraint, Delta, Hold, JobId, LogTime, Machine, MachineId, MachineState, Operator,
    Requirement, Resources, Revision,
};

use crate::scoring::{Amounts, Candidate, Scoring};
use crate::settings::Order;
use crate::{
    BestFit, Columns, Consolidation, DotProduct, FirstFit, Policy, Request, Settings, Spread, Tetris, WorstFit,
};

pub(crate) const MIB: u64 = 1 << 20;

/// A machine of a test cell.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) resources: Resources,
    pub(crate) rack: u8,
    pub(crate) state: MachineState,
}

pub(crate) fn plain(cpu_millis: u64, memory_mib: u64) -> Made {
    Made { resources: Resources::new(cpu_millis, memory_mib * MIB), rack: 0, state: MachineState::Ready }
}

pub(crate) fn machine(slot: u32, made: &Made) -> Machine {
    Machine {
        id: MachineId { slot, generation: 1 },
        name: format!("m{slot}").into(),
        state: made.state,
        epoch: 1,
        capacity: Arc::new(made.resources),
        attributes: Arc::new([("rack".into(), made.rack.to_string().into())].into()),
        devices: Arc::default(),
        boot_id: "boot".into(),
        since: LogTime::default(),
        drain_deadline: None,
        registered: LogTime::default(),
        cordoned: false,
        unfit: None,
        epoch_began: Revision(1),
    }
}

/// Puts machines into the next revision of a cell.
pub(crate) fn put(cell: &mut Cell, machines: &BTreeMap<u32, Made>, holds: &[(JobId, Option<Hold>)]) {
    let revision = cell.revision().next();
    let mut delta = Delta::new(revision, LogTime::from_micros(revision.0.cast_signed()));
    delta.machines = machines.iter().map(|(&slot, made)| Arc::new(machine(slot, made))).collect();
    delta.holds = holds.to_vec();
    cell.apply(&delta).unwrap();
}

pub(crate) fn cell_of(machines: &[Made]) -> Cell {
    let mut cell = Cell::default();
    put(&mut cell, &(0..).zip(machines.iter().cloned()).collect(), &[]);
    cell
}

pub(crate) fn followed(cell: &Cell, promised: &BTreeMap<u32, Resources>) -> Columns {
    let mut columns = Columns::default();
    columns.follow(cell, None, promised);
    columns
}

pub(crate) fn rack_at_most(rack: u8) -> Constraint {
    Constraint { attribute: "rack".into(), operator: Operator::LessOrEqual, values: vec![rack.to_string().into()] }
}

/// The scoring of a policy, made anew from the cell.
pub(crate) fn scoring_of(policy: Policy, cell: &Cell) -> Option<Box<dyn Scoring>> {
    Some(match policy {
        Policy::FirstFit => Box::new(FirstFit),
        Policy::BestFit => Box::new(BestFit),
        Policy::WorstFit => Box::new(WorstFit),
        Policy::Spread => Box::new(Spread),
        Policy::DotProduct => Box::new(DotProduct::measured_by(&largest(cell))),
        Policy::Tetris => Box::new(Tetris),
        Policy::Consolidation => Box::new(Consolidation),
        Policy::Random => return None,
    })
}

pub(crate) fn largest(cell: &Cell) -> Amounts {
    cell.machines().map(|machine| whole_units(&machine.capacity, false)).fold(Amounts::default(), |most, amounts| {
        Amounts {
            cpu_millis: most.cpu_millis.max(amounts.cpu_millis),
            memory_mib: most.memory_mib.max(amounts.memory_mib),
            disk_mib: most.disk_mib.max(amounts.disk_mib),
        }
    })
}

#[allow(clippy::cast_precision_loss, reason = "small amounts")]
fn whole_units(amount: &Resources, up: bool) -> Amounts {
    let mib = |bytes: u64| if up { bytes.div_ceil(MIB) } else { bytes / MIB } as f32;
    Amounts {
        cpu_millis: amount.cpu_millis as f32,
        memory_mib: mib(amount.memory_bytes),
        disk_mib: mib(amount.disk_bytes),
    }
}

/// Everything that a decision depends on, as the twin takes it.
pub(crate) struct Twin<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) promised: &'a BTreeMap<u32, Resources>,
    pub(crate) constraints: &'a [Constraint],
    pub(crate) affinities: &'a [Affinity],
    pub(crate) job: JobId,
    pub(crate) request: &'a Request<'a>,
}

impl Twin<'_> {
    /// Cost, tie and slot of all machines on which one more task fits, sorted.
    pub(crate) fn sorted(&self, scoring: &dyn Scoring, placed: &BTreeMap<u32, u32>) -> Vec<(f32, i32, u32)> {
        let Self { cell, request, .. } = *self;
        let mut classes = ClassSet::default();
        classes.refresh(self.constraints, cell);
        let requirement = Requirement {
            resources: request.resources,
            classes: Some(&classes),
            home: request.home,
            job: self.job,
            special: None,
        };
        let Settings { nearness, .. } = request.settings;
        let order = Order::of(&request.settings);
        let mut fitting = Vec::new();
        for slot in 0..cell.machine_rows().len() {
            let already = placed.get(&slot).copied().unwrap_or(0);
            let own = crate::request::times(request.resources, already).unwrap();
            let spoken = own.checked_add(&self.promised.get(&slot).copied().unwrap_or_default()).unwrap();
            if requirement.obstacle(cell, slot, &spoken).is_some() {
                continue;
            }
            let mut room = cell.room_for(slot, self.job);
            room.take(&spoken);
            let machine = cell.machine_in(slot).unwrap();
            let capacity = whole_units(&machine.capacity, false);
            let over = |amount: f32| if amount > 0.0 { 1.0 / amount } else { 0.0 };
            let candidate = Candidate {
                machine: slot,
                free: whole_units(&room.positive(), false),
                capacity,
                per_capacity: Amounts {
                    cpu_millis: over(capacity.cpu_millis),
                    memory_mib: over(capacity.memory_mib),
                    disk_mib: over(capacity.disk_mib),
                },
                siblings: request.siblings.get(&slot).copied().unwrap_or(0) + already,
                placed: already,
            };
            let cost = scoring.cost(&candidate, &whole_units(request.resources, true));
            let wished = self.affinities.iter().filter(|affinity| affinity.rule.holds(&machine.attributes));
            #[allow(clippy::cast_precision_loss, reason = "at most 100")]
            let weight: f32 = wished.map(|affinity| affinity.weight as f32 / 100.0).sum();
            let cost = cost - weight * scoring.whole(&largest(cell));
            let cost = if nearness > 0.0 { (cost / nearness).floor() * nearness } else { cost };
            if cost < f32::INFINITY {
                fitting.push((cost, order.tie(slot), slot));
            }
        }
        fitting.sort_by(|one, other| one.partial_cmp(other).unwrap());
        fitting
    }

    /// One task after the other, each on the first of all.
    pub(crate) fn choose(&self, scoring: &dyn Scoring, count: u32) -> Vec<u32> {
        let mut placed: BTreeMap<u32, u32> = BTreeMap::new();
        let mut chosen = Vec::new();
        for _ in 0..count {
            let sorted = self.sorted(scoring, &placed);
            let parts = self.request.settings.parts.unwrap_or(crate::Parts { count: 1, first: 0 });
            let behind = |slot: u32| (slot % parts.count + parts.count - parts.first % parts.count) % parts.count;
            // A stable search: within a part the order of costs stays.
            let Some(&(_, _, slot)) = sorted.iter().min_by_key(|(_, _, slot)| behind(*slot)) else { break };
            *placed.entry(slot).or_default() += 1;
            chosen.push(slot);
        }
        chosen
    }
}
