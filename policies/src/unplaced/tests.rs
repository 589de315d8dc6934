//! What people are told when nothing fits.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{
    Attributes, Cell, Constraint, Delta, Device, DeviceShortage, GroupShape, Hold, Job, JobChange, JobId, JobShape,
    JobState, LogTime, Machine, MachineId, MachineState, Operator, Port, Requirement, Resources, Revision, Unfit,
};

use crate::{Beyond, Columns, Unplaced, at_most_when_empty, explain};

/// Machines of so many thousandths of a CPU.
fn cell(machines: &[(u64, MachineState)]) -> Cell {
    let mut delta = Delta::new(Revision(1), LogTime::from_micros(1));
    for (slot, &(cpu_millis, state)) in (0..).zip(machines) {
        delta.machines.push(Arc::new(Machine {
            id: MachineId { slot, generation: 1 },
            name: format!("m{slot}").into(),
            state,
            epoch: 1,
            capacity: Arc::new(Resources::new(cpu_millis, 1 << 30)),
            attributes: Arc::default(),
            devices: Arc::default(),
            boot_id: "boot".into(),
            since: LogTime::default(),
            drain_deadline: None,
            registered: LogTime::default(),
            cordoned: false,
            unfit: None,
            epoch_began: Revision(1),
        }));
    }
    let mut cell = Cell::default();
    cell.apply(&delta).unwrap();
    cell
}

fn check(machines: &[(u64, MachineState)], need_cpu_millis: u64, promised: &[(u32, u64)], expected: &str) {
    let cell = cell(machines);
    let promised: BTreeMap<_, _> = promised.iter().map(|&(slot, cpu)| (slot, Resources::new(cpu, 0))).collect();
    let mut columns = Columns::default();
    columns.follow(&cell, None, &promised);
    let resources = Resources::new(need_cpu_millis, 1);
    let requirement = Requirement {
        resources: &resources,
        classes: None,
        home: None,
        job: plenum_model::JobId::default(),
        special: None,
    };
    assert_eq!(explain(&columns, &cell, &requirement, &[], &[], |_| None).to_string(), expected);
}

#[test]
fn an_empty_cell_says_so() {
    check(&[], 1000, &[], "the cell has no machines");
}

#[test]
fn machines_are_counted_by_what_stands_in_the_way() {
    use MachineState::{Cordoned, Ready};
    check(
        &[(1000, Ready), (3000, Ready), (9000, Cordoned)],
        4000,
        &[],
        "of 3 machines 2 lack cpu by at least 1000m, 1 is cordoned; \
         nearest is m1, short of cpu by 1000m, and too small even when empty",
    );
}

// Nobody had cordoned it, and what its agent found wrong stood elsewhere.
#[test]
fn a_machine_that_its_agent_cordoned_is_told_apart_from_those_that_somebody_did() {
    let mut cell = cell(&[(4000, MachineState::Cordoned); 3]);
    let mut delta = Delta::new(Revision(2), LogTime::from_micros(2));
    for (slot, cordoned) in [(1, false), (2, true)] {
        let unfit = Some(Unfit::StateUnwritable);
        delta.machines.push(Arc::new(Machine { unfit, cordoned, ..(**cell.machine_in(slot).unwrap()).clone() }));
    }
    cell.apply(&delta).unwrap();
    let mut columns = Columns::default();
    columns.follow(&cell, None, &BTreeMap::new());
    let resources = Resources::new(1000, 1);
    let requirement =
        Requirement { resources: &resources, classes: None, home: None, job: JobId::default(), special: None };
    assert_eq!(
        explain(&columns, &cell, &requirement, &[], &[], |_| None).to_string(),
        "of 3 machines 2 are cordoned, 1 is cordoned by its agent (`plenum machine list` says why)"
    );
}

#[test]
fn a_machine_that_only_has_to_become_free_is_nearer_than_one_that_is_too_small() {
    use MachineState::Ready;
    check(
        &[(3999, Ready), (4000, Ready)],
        4000,
        &[(1, 3000)],
        "of 2 machines 2 lack cpu by at least 1m; nearest is m1, short of cpu by 3000m",
    );
}

// A gang for which all machines together are too small was told how little one more task of it lacks.
#[test]
fn at_most_as_many_fit_as_empty_machines_have_of_what_is_short_there() {
    use MachineState::{Ready, Unreachable};
    let cell = cell(&[(2500, Ready), (900, Ready), (4000, Unreachable)]);
    let device = |millis| Device { kind: "gpu".into(), index: 0, millis, model: "".into() };
    let at_most = |shape: &GroupShape, home: Option<u32>| {
        let (resources, job) = (&shape.resources, JobId::default());
        at_most_when_empty(&cell, &Requirement { resources, classes: None, home, job, special: None }, shape)
    };
    let plain = GroupShape { resources: Resources::new(1000, 0), ..GroupShape::default() };
    assert_eq!((at_most(&plain, None), at_most(&plain, Some(0))), (6, 2), "it may be there again");
    let port = Port { name: "http".into(), number: 80 };
    assert_eq!(at_most(&GroupShape { ports: vec![port], ..plain.clone() }, None), 2, "and none where none fits");
    assert_eq!(at_most(&GroupShape { devices: vec![device(500)], ..plain }, None), 0, "no machine has one");
    assert_eq!(at_most(&GroupShape::default(), None), u64::MAX, "it asks for nothing");
}

// Of thousands of jobs that wait on machines of their own each judged all of the cell, which are none of its business.
#[test]
fn of_a_job_that_has_its_machine_that_one_alone_is_judged() {
    use MachineState::{Cordoned, Ready};
    let cell = cell(&[(9000, Cordoned), (4000, Ready), (9000, Ready), (100, Ready)]);
    let mut columns = Columns::default();
    columns.follow(&cell, None, &BTreeMap::from([(1, Resources::new(3500, 0))]));
    let resources = Resources::new(1000, 1);
    let told = |home: u32| {
        let (classes, home, job) = (None, Some(home), JobId::default());
        let requirement = Requirement { resources: &resources, classes, home, job, special: None };
        explain(&columns, &cell, &requirement, &[], &[], |_| None).to_string()
    };
    assert_eq!(
        told(1),
        "of 4 machines 1 lacks cpu by at least 500m, 3 are not the one that the job's tasks are to share; \
         nearest is m1, short of cpu by 500m"
    );
    assert_eq!(told(0), "of 4 machines 3 are not the one that the job's tasks are to share, 1 is cordoned");
    assert_eq!(told(7), "of 4 machines 4 are not the one that the job's tasks are to share", "it is gone");
}

// How short it is was reckoned with what others hold, and how near without: it named an empty machine of which nothing could be had.
#[test]
fn a_machine_whose_room_another_job_holds_is_no_nearer_for_that() {
    let mut cell = cell(&[(4000, MachineState::Ready); 2]);
    let resources = Resources::new(4000, 1);
    let mut delta = Delta::new(Revision(2), LogTime::from_micros(2));
    let hold = Hold { machines: vec![0], resources, deadline: LogTime::default(), first_wait: Revision(2) };
    let holder = JobId { slot: 9, generation: 1 };
    delta.holds = vec![(holder, Some(hold))];
    cell.apply(&delta).unwrap();
    let mut columns = Columns::default();
    columns.follow(&cell, None, &BTreeMap::from([(0, Resources::new(50, 0)), (1, Resources::new(100, 0))]));
    let nearest = |job: JobId| {
        let requirement = Requirement { resources: &resources, classes: None, home: None, job, special: None };
        let nearest = explain(&columns, &cell, &requirement, &[], &[], |_| None).nearest.unwrap();
        (nearest.machine.to_string(), nearest.short_by)
    };
    assert_eq!(nearest(JobId::default()), ("m1".into(), 100));
    assert_eq!(nearest(holder), ("m0".into(), 50), "for itself it is free");
}

/// A job without groups, which holds 270m of a machine.
fn holds_some(delta: &mut Delta, id: JobId, (namespace, name): (&str, &str), machine: u32) {
    let job = Job {
        id,
        version: 1,
        shape: Arc::new(JobShape { name: name.into(), namespace: namespace.into(), ..JobShape::default() }),
        body: Some(Arc::from([])),
        body_digest: [0; 32],
        submitted: LogTime::default(),
        state: JobState::Waiting,
        state_since: LogTime::default(),
        reason: "".into(),
        group_base: 0,
        home: None,
        last_instant_micros: None,
    };
    delta.jobs.push(JobChange::Put { job: Arc::new(job), task_bases: Vec::new() });
    let resources = Resources::new(270, 1);
    let hold = Hold { machines: vec![machine], resources, deadline: LogTime::default(), first_wait: Revision(2) };
    delta.holds.push((id, Some(hold)));
}

// It said that a machine lacks some of which every list showed enough, and not a word of whose the rest was.
#[test]
fn where_a_hold_makes_the_difference_it_is_said_who_holds_how_much() {
    let told = |free_millis: u64, holders: &[(&str, &str)], job: u32| {
        let mut cell = cell(&[(500, MachineState::Ready)]);
        let mut delta = Delta::new(Revision(2), LogTime::from_micros(2));
        for (slot, &holder) in (1..).zip(holders) {
            holds_some(&mut delta, JobId { slot, generation: 1 }, holder, 0);
        }
        cell.apply(&delta).unwrap();
        let mut columns = Columns::default();
        columns.follow(&cell, None, &BTreeMap::from([(0, Resources::new(500 - free_millis, 0))]));
        let (resources, job) = (Resources::new(210, 1), JobId { slot: job, generation: 1 });
        let requirement = Requirement { resources: &resources, classes: None, home: None, job, special: None };
        let told = explain(&columns, &cell, &requirement, &[], &[], |_| None).to_string();
        told.split_once("; nearest is m0, ").map_or_else(|| told.clone(), |(_, nearest)| nearest.to_owned())
    };
    let gold = ("gold", "royal");
    assert_eq!(told(450, &[gold], 9), "short of cpu by 30m, where gold/royal holds 270m");
    assert_eq!(told(450, &[("default", "web"), gold], 9), "short of cpu by 300m, where web and 1 other job hold 540m");
    assert_eq!(told(200, &[gold], 9), "short of cpu by 280m", "it would be short without that, too");
    assert_eq!(told(450, &[gold], 1), "of 1 machine fits on 1", "for itself it is free");
}

// A full machine with a lower slot was as near as an empty one that a job held, and was named: nobody was told of the hold.
#[test]
fn of_equally_near_machines_one_that_is_held_is_named() {
    let mut cell = cell(&[(270, MachineState::Ready); 3]);
    let mut delta = Delta::new(Revision(2), LogTime::from_micros(2));
    holds_some(&mut delta, JobId { slot: 1, generation: 1 }, ("default", "web"), 1);
    cell.apply(&delta).unwrap();
    let mut columns = Columns::default();
    let full = Resources::new(270, 0);
    columns.follow(&cell, None, &BTreeMap::from([(0, full), (2, full)]));
    let (resources, job) = (Resources::new(210, 0), JobId { slot: 9, generation: 1 });
    let requirement = Requirement { resources: &resources, classes: None, home: None, job, special: None };
    let told = explain(&columns, &cell, &requirement, &[], &[], |_| None).to_string();
    assert!(told.ends_with("; nearest is m1, short of cpu by 210m, where web holds 270m"), "{told}");
}

// People read `custom_1`, and had to look up which resource of theirs that is.
#[test]
fn a_resource_that_the_cell_named_is_told_by_its_name() {
    let need = Resources { custom: [3, 0, 0, 0, 0], ..Resources::new(1000, 1) };
    let requirement =
        Requirement { resources: &need, classes: None, home: None, job: plenum_model::JobId::default(), special: None };
    let mut cell = cell(&[(9000, MachineState::Ready)]);
    let told = |cell: &Cell| {
        let mut columns = Columns::default();
        columns.follow(cell, None, &BTreeMap::new());
        explain(&columns, cell, &requirement, &[], &[], |_| None).to_string()
    };
    assert!(told(&cell).contains("1 lacks custom_1 by at least 3"), "{}", told(&cell));
    let mut delta = Delta::new(Revision(2), LogTime::from_micros(2));
    let custom_resources = vec!["licences".into()];
    delta.cell = Some(plenum_model::CellIdentity { custom_resources, ..Default::default() });
    cell.apply(&delta).unwrap();
    let told = told(&cell);
    assert!(told.contains("1 lacks licences by at least 3; nearest is m0, short of licences by 3"), "{told}");
}

#[test]
fn what_else_stands_in_the_way_is_told_apart_and_counted_as_such() {
    let cell = cell(&[(9000, MachineState::Ready); 12]);
    let mut columns = Columns::default();
    columns.follow(&cell, None, &BTreeMap::new());
    let resources = Resources::new(1000, 1);
    let requirement = Requirement {
        resources: &resources,
        classes: None,
        home: None,
        job: plenum_model::JobId::default(),
        special: None,
    };
    let gpu = |short_by_millis, wanted_millis| {
        let (kind, model) = ("gpu".into(), "".into());
        Some(Beyond::Device(DeviceShortage { kind, model, short_by_millis, wanted_millis }))
    };
    let why = explain(&columns, &cell, &requirement, &[], &[], |slot| match slot {
        0 => None,
        1 | 2 => Some(Beyond::PerMachine(3)),
        3 => Some(Beyond::Spread { attribute: "rack".into(), at_most: 2 }),
        4 => Some(Beyond::Port(0)),
        5..=8 => Some(Beyond::Port(8075 + u16::try_from(slot).unwrap())),
        9 => gpu(1000, 4000),
        10 => gpu(250, 500),
        _ => gpu(2000, 4000),
    });
    assert_eq!((why.fitting, why.limited(), why.machines), (1, 3, 12));
    let told = why.to_string();
    assert_eq!(
        told,
        "of 12 machines fits on 1, 3 lack gpu by at least 250m, 2 have as many tasks of the group as per_machine allows: 3, \
         1 has no attr.rack, over which the group is spread, 4 have port 8080 or 8081 or others in use, \
         1 has too few ports left to choose from; nearest is m9, short of gpu by 1"
    );
}

// Of several constraints nobody was told which one left no machine.
#[test]
fn constraints_that_rule_out_most_machines_are_named_first_and_in_few_words() {
    let made = [
        ("hdd", Some("5.4"), "far"),
        ("ssd", Some("5.4"), "far"),
        ("ssd", Some("5.9"), "zone-0"),
        ("ssd", None, "zone-0"),
        ("ssd", Some("5.10"), "far"),
        ("ssd", Some("6.1"), "near"),
        ("ssd", Some("6.1"), "zone-3"),
    ];
    let mut cell = cell(&[(9000, MachineState::Ready); 7]);
    let mut delta = Delta::new(Revision(2), LogTime::from_micros(2));
    for (machine, (disk, kernel, zone)) in cell.machines().zip(made) {
        let named = [("disk", Some(disk)), ("kernel", kernel), ("zone", Some(zone))];
        let attributes: Attributes =
            named.into_iter().filter_map(|(name, value)| Some((name.into(), value?.into()))).collect();
        delta.machines.push(Arc::new(Machine { attributes: attributes.into(), ..(**machine).clone() }));
    }
    cell.apply(&delta).unwrap();
    let rule = |attribute: &str, operator, values: &[&str]| Constraint {
        attribute: attribute.into(),
        operator,
        values: values.iter().map(|&value| value.into()).collect(),
    };
    let constraints = [
        rule("disk", Operator::Equal, &["ssd"]),
        rule("kernel", Operator::GreaterOrEqual, &["5.10"]),
        rule("zone", Operator::In, &["zone-0", "zone-1", "zone-2", "zone-3"]),
    ];
    let mut columns = Columns::default();
    columns.follow(&cell, None, &BTreeMap::new());
    let eligible = columns.eligible(&constraints, &[], &cell).unwrap();
    let resources = Resources::new(10_000, 1);
    let requirement = Requirement {
        resources: &resources,
        classes: Some(eligible.classes()),
        home: None,
        job: JobId::default(),
        special: None,
    };
    let why = explain(&columns, &cell, &requirement, &constraints, &[], |_| None);
    assert_eq!(
        (why.constraints.values().sum::<u32>(), why.reserved.len()),
        (6, 0),
        "each under the first that fails there"
    );
    assert_eq!(
        why.to_string(),
        "of 7 machines 1 lacks cpu by at least 1000m, 3 fail `attr.kernel >= \"5.10\"`, \
         2 fail `attr.zone in [\"zone-0\", \"zone-1\", \"zone-2\", \"zon…`, 1 fails another constraint; \
         nearest is m6, short of cpu by 1000m, and too small even when empty"
    );
}

// "A partition" was all that was said of which one it was, and there was nothing else to look for it by.
#[test]
fn partitions_that_keep_a_scheduler_out_are_named_those_first_that_have_most() {
    let told = |partitions: &[(&str, u32)]| {
        let reserved = partitions.iter().map(|&(name, count)| (Arc::from(name), count)).collect();
        Unplaced { machines: 9, reserved, ..Unplaced::default() }.to_string()
    };
    assert_eq!(told(&[("lab", 2)]), "of 9 machines partition lab reserves 2 for others");
    let several = [("a", 1), ("b", 2), ("c", 4), ("d", 1)];
    let expected = "of 9 machines partition c reserves 4 for others, partition b reserves 2 for others, other partitions reserve 2";
    assert_eq!(told(&several), expected);
    assert_eq!(told(&[("", 3)]), "of 9 machines a partition reserves 3 for others", "of a job that is gone");
}
