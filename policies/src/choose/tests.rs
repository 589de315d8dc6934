//! The exact scan against a dumb twin that sorts all machines anew for every task.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{
    Cell, Constraint, Delta, LogTime, Machine, MachineId, MachineState, Operator, Requirement, Resources, Revision,
};
use proptest::prelude::*;

use super::{Policy, Request, choose, times};
use crate::rank::{BestFitRank, Candidate, Decorrelation, FirstFitRank, MEMORY_BYTES_PER_CPU_MILLI, SpreadRank};
use crate::{Columns, explain};

const MIB: u64 = 1 << 20;

/// A machine of a test cell.
#[derive(Clone, Debug)]
struct Made {
    cpu_millis: u64,
    memory_bytes: u64,
    disk_bytes: u64,
    rack: u8,
    state: MachineState,
}

fn cell_of(machines: &[Made]) -> Cell {
    let mut delta = Delta::new(Revision(1), LogTime::from_micros(1));
    delta.machines = (0..).zip(machines).map(|(slot, made)| Arc::new(machine(slot, made))).collect();
    let mut cell = Cell::default();
    cell.apply(&delta).unwrap();
    cell
}

fn machine(slot: u32, made: &Made) -> Machine {
    let mut capacity = Resources::new(made.cpu_millis, made.memory_bytes);
    capacity.disk_bytes = made.disk_bytes;
    Machine {
        id: MachineId { slot, generation: 1 },
        name: format!("m{slot}").into(),
        state: made.state,
        epoch: 1,
        capacity: Arc::new(capacity),
        attributes: Arc::new([("rack".into(), made.rack.to_string().into())].into()),
        devices: [].into(),
        boot_id: "boot".into(),
        since: LogTime::default(),
        drain_deadline: None,
        registered: LogTime::default(),
        cordoned: false,
        epoch_began: Revision(1),
    }
}

fn plain(cpu_millis: u64, memory_mib: u64) -> Made {
    Made { cpu_millis, memory_bytes: memory_mib * MIB, disk_bytes: 0, rack: 0, state: MachineState::Ready }
}

fn followed(cell: &Cell, promised: &BTreeMap<u32, Resources>) -> Columns {
    let mut columns = Columns::default();
    columns.follow(cell, None, promised);
    columns
}

fn check(machines: &[Made], policy: Policy, task: (u64, u64), count: u32, expected: &[u32]) {
    let cell = cell_of(machines);
    let resources = Resources::new(task.0, task.1 * MIB);
    let request = Request {
        resources: &resources,
        classes: None,
        home: None,
        siblings: &BTreeMap::new(),
        policy,
        decorrelation: None,
        job: plenum_model::JobId::default(),
        suits: None,
    };
    assert_eq!(choose(&followed(&cell, &BTreeMap::new()), &cell, &request, count), expected);
}

#[test]
fn best_fit_fills_the_fullest_machine_before_it_opens_the_next() {
    check(&[plain(4000, 64), plain(2000, 64), plain(3000, 64)], Policy::BestFit, (1000, 1), 4, &[1, 1, 2, 2]);
}

#[test]
fn spread_gives_each_machine_one_before_any_gets_two() {
    check(&[plain(4000, 64), plain(2000, 64), plain(3000, 64)], Policy::Spread, (1000, 1), 5, &[0, 2, 1, 0, 2]);
}

#[test]
fn first_fit_goes_by_slot() {
    check(&[plain(500, 64), plain(2000, 64), plain(3000, 64)], Policy::FirstFit, (1000, 1), 3, &[1, 1, 2]);
}

#[test]
fn what_does_not_fit_is_left_out_and_not_squeezed_in() {
    check(&[plain(1500, 64), plain(900, 64)], Policy::BestFit, (1000, 1), 3, &[0]);
    check(&[plain(1500, 1)], Policy::BestFit, (1000, 2), 1, &[]);
}

#[test]
fn a_task_that_needs_no_cpu_goes_where_cpu_is_overspent() {
    let cell = cell_of(&[plain(1000, 64)]);
    let columns = followed(&cell, &[(0, Resources::new(2000, 0))].into());
    let resources = Resources::new(0, MIB);
    let request = Request {
        resources: &resources,
        classes: None,
        home: None,
        siblings: &BTreeMap::new(),
        policy: Policy::BestFit,
        decorrelation: None,
        job: plenum_model::JobId::default(),
        suits: None,
    };
    assert_eq!(choose(&columns, &cell, &request, 2), [0, 0]);
}

#[test]
fn seeds_part_schedulers_that_see_equal_machines() {
    let cell = cell_of(&vec![plain(1000, 64); 100]);
    let columns = followed(&cell, &BTreeMap::new());
    let resources = Resources::new(1000, MIB);
    let siblings = BTreeMap::new();
    let chosen = |seed| {
        let decorrelation = Some(Decorrelation { seed, nearness_cpu_millis: 0 });
        let request = Request {
            resources: &resources,
            classes: None,
            home: None,
            siblings: &siblings,
            policy: Policy::BestFit,
            decorrelation,
            job: plenum_model::JobId::default(),
            suits: None,
        };
        choose(&columns, &cell, &request, 10)
    };
    assert_eq!(chosen(1), chosen(1));
    let shared = chosen(1).iter().filter(|slot| chosen(2).contains(slot)).count();
    assert!(shared <= 4, "{shared} of 10 machines are the same for two seeds");
}

#[test]
fn taken_room_is_gone_until_the_columns_follow_again() {
    let cell = cell_of(&[plain(1000, 64)]);
    let mut columns = followed(&cell, &BTreeMap::new());
    let resources = Resources::new(1000, MIB);
    let request = Request {
        resources: &resources,
        classes: None,
        home: None,
        siblings: &BTreeMap::new(),
        policy: Policy::BestFit,
        decorrelation: None,
        job: plenum_model::JobId::default(),
        suits: None,
    };
    columns.take(0, &resources);
    assert!(choose(&columns, &cell, &request, 1).is_empty());
    columns.follow(&cell, Some(&[]), &BTreeMap::new());
    assert_eq!(choose(&columns, &cell, &request, 1), [0]);
}

/// One task after the other, each on the machine of the smallest rank among all on which nothing stands in the way.
fn dumb_choose(cell: &Cell, promised: &BTreeMap<u32, Resources>, request: &Request<'_>, count: u32) -> Vec<u32> {
    let mut placed: BTreeMap<u32, u32> = BTreeMap::new();
    let requirement = Requirement {
        resources: request.resources,
        classes: request.classes,
        home: request.home,
        job: plenum_model::JobId::default(),
        special: None,
    };
    let mut chosen = Vec::new();
    for _ in 0..count {
        let mut fitting: Vec<Candidate> = Vec::new();
        for machine in 0..cell.machine_rows().len() {
            let already = placed.get(&machine).copied().unwrap_or(0);
            let own = times(request.resources, already).unwrap();
            let spoken = own.checked_add(&promised.get(&machine).copied().unwrap_or_default()).unwrap();
            if requirement.obstacle(cell, machine, &spoken).is_some() {
                continue;
            }
            let mut room = cell.room(machine);
            room.take(&spoken);
            room.take(request.resources);
            let left = |position: usize| u64::try_from(room.0[position]).unwrap_or(0);
            let leftover = left(0) + left(1) / MEMORY_BYTES_PER_CPU_MILLI;
            let nearness = request.decorrelation.map_or(1, |setting| setting.nearness_cpu_millis.max(1));
            fitting.push(Candidate {
                machine,
                leftover: leftover / nearness * nearness,
                siblings: request.siblings.get(&machine).copied().unwrap_or(0) + already,
                tie: request.decorrelation.map_or(0, |setting| setting.tie(machine)),
            });
        }
        match request.policy {
            Policy::FirstFit => fitting.sort_by_key(|candidate| FirstFitRank::from(candidate)),
            Policy::BestFit => fitting.sort_by_key(|candidate| BestFitRank::from(candidate)),
            Policy::Spread => fitting.sort_by_key(|candidate| SpreadRank::from(candidate)),
        }
        let Some(best) = fitting.first() else { break };
        *placed.entry(best.machine).or_default() += 1;
        chosen.push(best.machine);
    }
    chosen
}

fn made() -> impl Strategy<Value = Made> {
    let state = prop_oneof![
        8 => Just(MachineState::Ready), 1 => Just(MachineState::Cordoned), 1 => Just(MachineState::Unreachable)
    ];
    (0u64..9, 0u64..9, 0u64..4, 0u8..3, state).prop_map(|(cpu, memory, disk, rack, state)| Made {
        cpu_millis: cpu * 500,
        memory_bytes: memory * 256 * MIB,
        disk_bytes: disk * MIB,
        rack,
        state,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_scan_agrees_with_a_full_sort_for_every_task(
        machines in prop::collection::vec(made(), 0..24),
        promised in prop::collection::btree_map(0u32..24, (0u64..3, 0u64..3), 0..6),
        taken in prop::collection::vec((0u32..24, 0u64..2), 0..4),
        siblings in prop::collection::btree_map(0u32..24, 1u32..3, 0..6),
        (cpu, memory, disk) in (0u64..4, 0u64..4, 0u64..2),
        racks in prop::option::of(0u8..3),
        home in prop::option::weighted(0.1, 0u32..24),
        policy in prop_oneof![Just(Policy::FirstFit), Just(Policy::BestFit), Just(Policy::Spread)],
        decorrelation in prop::option::of((any::<u64>(), 0u64..1500)),
        count in 0u32..40,
    ) {
        let cell = cell_of(&machines);
        let mut promised: BTreeMap<u32, Resources> = promised
            .into_iter()
            .map(|(slot, (cpu, memory))| (slot, Resources::new(cpu * 500, memory * 256 * MIB)))
            .collect();
        let mut columns = followed(&cell, &promised);
        for (slot, cpu) in taken {
            let amount = Resources::new(cpu * 500, 0);
            columns.take(slot, &amount);
            let promise = promised.entry(slot).or_default();
            *promise = promise.checked_add(&amount).unwrap();
        }
        let mut resources = Resources::new(cpu * 500, memory * 256 * MIB);
        resources.disk_bytes = disk * MIB;
        let constraints: Vec<_> = racks
            .map(|rack| Constraint {
                attribute: "rack".into(), operator: Operator::LessOrEqual, values: vec![rack.to_string().into()],
            })
            .into_iter()
            .collect();
        let classes = columns.classes_for(&constraints, &cell);
        let decorrelation =
            decorrelation.map(|(seed, nearness_cpu_millis)| Decorrelation { seed, nearness_cpu_millis });
        let request =
            Request { resources: &resources, classes: classes.as_ref(), home, siblings: &siblings, policy, decorrelation, job: plenum_model::JobId::default(), suits: None };
        let count = if resources == Resources::default() { count.min(3) } else { count };
        let chosen = choose(&columns, &cell, &request, count);
        prop_assert_eq!(&chosen, &dumb_choose(&cell, &promised, &request, count));

        let requirement = Requirement { resources: &resources, classes: classes.as_ref(), home, job: plenum_model::JobId::default(), special: None };
        let why = explain(&columns, &cell, &requirement);
        let lacking: u32 = why.lacks.values().map(|lack| lack.machines).sum();
        let closed: u32 = why.not_ready.values().sum();
        prop_assert_eq!(why.machines, why.fitting + lacking + closed + why.constraint + why.other_machine + why.full);
        prop_assert_eq!(why.fitting == 0, choose(&columns, &cell, &request, 1).is_empty());
    }

    #[test]
    fn columns_that_follow_changes_equal_columns_that_are_read_anew(
        before in prop::collection::vec(made(), 1..12),
        changes in prop::collection::vec((0usize..14, made()), 1..6),
        promised in prop::collection::btree_map(0u32..12, 0u64..3, 0..4),
        later in prop::collection::btree_map(0u32..12, 0u64..3, 0..4),
    ) {
        let promises = |by_slot: BTreeMap<u32, u64>| -> BTreeMap<u32, Resources> {
            by_slot.into_iter().map(|(slot, cpu)| (slot, Resources::new(cpu * 500, 0))).collect()
        };
        let (promised, later) = (promises(promised), promises(later));
        let mut cell = cell_of(&before);
        let mut columns = followed(&cell, &promised);
        columns.take(0, &Resources::new(250, MIB));
        let mut delta = Delta::new(Revision(2), LogTime::from_micros(2));
        let known = before.len();
        let slots: BTreeMap<u32, Made> =
            changes.into_iter().map(|(slot, made)| (u32::try_from(slot.min(known)).unwrap(), made)).collect();
        delta.machines = slots.iter().map(|(&slot, made)| Arc::new(machine(slot, made))).collect();
        cell.apply(&delta).unwrap();
        let changed: Vec<u32> = slots.keys().copied().collect();
        columns.follow(&cell, Some(&changed), &later);
        let anew = followed(&cell, &later);
        prop_assert_eq!(columns.cpu_millis, anew.cpu_millis);
        let open = |memory: Vec<i64>, cell: &Cell| -> Vec<i64> {
            let ready = |slot: usize| cell.machine_row(u32::try_from(slot).unwrap()).map(|row| row.state);
            memory
                .into_iter()
                .enumerate()
                .map(|(slot, free)| if ready(slot) == Some(MachineState::Ready) { free } else { 0 })
                .collect()
        };
        prop_assert_eq!(open(columns.memory_bytes, &cell), open(anew.memory_bytes, &cell));
    }
}
