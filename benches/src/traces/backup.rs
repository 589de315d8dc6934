//! A live cell as a trace: the machines of a backup, and what runs and waits there, as jobs that are all submitted at once and never end.
//!
//! For asking what would fit on other machines, and whether other jobs would fit besides. Every task is placed anew, by its constraints, spread, limits and ports, under the cell's
//! partitions and quotas; what is not kept, the report says.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use plenum_model::{
    Attributes, CUSTOM_RESOURCES, Cell, DIMENSIONS, Device, GroupShape, Job, MachineState, Quota, Resources, TaskState,
};

use super::work::{Declared, GPUS, Laws, MachineClass, Trace, TraceJob};

/// Machines are of one shape when their memory, and their disk, differ by no more than one part of so many. Hosts of one make differ by some kilobytes to some
/// megabytes, by what their firmware keeps and how their disks are formatted.
const ALIKE_PARTS: u64 = 100;

/// Reads a file that `plenum backup` wrote.
///
/// # Errors
/// When it is none, or damaged.
pub(crate) fn read(path: &Path) -> anyhow::Result<Trace> {
    let cell = plenum_server::read_backup(path)?;
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let trace = of_cell(&name, &cell);
    anyhow::ensure!(!trace.machines.is_empty(), "{}: expected machines that take claims, found none", path.display());
    anyhow::ensure!(!trace.jobs.is_empty(), "{}: expected tasks that run or wait, found none", path.display());
    Ok(trace)
}

/// The machines that take claims, alike ones together, and a job for each group with tasks that run or wait.
fn of_cell(name: &str, cell: &Cell) -> Trace {
    let shapes = Shapes::of(cell);
    let mut jobs = Vec::new();
    for job in cell.jobs().filter(|job| !job.state.is_final()) {
        for (number, shape) in (0_u16..).zip(&job.shape.groups) {
            let Some(row) = cell.group(job, number) else { continue };
            let tasks =
                [TaskState::Waiting, TaskState::Live, TaskState::Blocked].map(|state| row.tasks_in(state)).iter().sum();
            if tasks > 0 {
                jobs.push(TraceJob {
                    name: format!("{}/{}/{}", job.shape.namespace, job.shape.name, shape.name),
                    user: job.shape.namespace.to_string(),
                    class: job.shape.scheduler.to_string(),
                    submit_micros: 0,
                    run_micros: None,
                    estimate_micros: None,
                    tasks,
                    each: with_gpus(&shape.resources, &shape.devices),
                    gang: false,
                    asks: Some(asks_of(job, shape)),
                });
            }
        }
    }
    let mut trace = Trace { machines: shapes.classes, laws: laws_of(cell), ..Trace::new(name, jobs) };
    trace.assumed.push(
        "every task of the live cell is placed anew, by its room, constraints, spread, limits and ports, under the partitions and quotas that there are; jobs whose tasks share a machine and gangs are not kept; \
         other jobs than the cell's have no quota, and get no machine that is reserved; \
         parts of a GPU count as a whole one; groups that wait for others count as if they ran; a machine more of a shape has the attributes of one that is there"
            .to_owned(),
    );
    trace.assumed.extend(shapes.assumed);
    trace
}

/// The machines of a cell that take claims.
struct Shapes {
    classes: Vec<MachineClass>,
    /// What is not as it is in the cell.
    assumed: Vec<String>,
}

impl Shapes {
    fn of(cell: &Cell) -> Self {
        let mut classes: Vec<MachineClass> = Vec::new();
        // What the first of each class has: members are alike to that one, not to one another in a row.
        let mut firsts: Vec<Resources> = Vec::new();
        let (mut idle, mut levelled) = (0_u64, false);
        for machine in cell.machines() {
            if machine.state != MachineState::Ready {
                idle += 1;
                continue;
            }
            let capacity = with_gpus(&machine.capacity, &machine.devices);
            let attributes = machine.attributes.clone();
            if let Some(number) = firsts.iter().position(|first| are_alike(first, &capacity)) {
                let class = &mut classes[number];
                levelled |= class.capacity != capacity;
                // The least that a member has: nothing fits here that fits none of them.
                class.capacity.memory_bytes = class.capacity.memory_bytes.min(capacity.memory_bytes);
                class.capacity.disk_bytes = class.capacity.disk_bytes.min(capacity.disk_bytes);
                class.count += 1;
                class.attributes.push(attributes);
            } else {
                let name = format!("shape-{}", classes.len() + 1);
                classes.push(MachineClass { name, count: 1, capacity, attributes: vec![attributes] });
                firsts.push(capacity);
            }
        }
        classes.iter_mut().for_each(|class| in_kinds(&mut class.attributes));
        let mut assumed = Vec::new();
        if levelled {
            assumed.push(format!(
                "machines whose memory and disk differ by at most a part in {ALIKE_PARTS} are one shape, with the least that one of them has"
            ));
        }
        if idle > 0 {
            assumed.push(format!("{idle} machines of the cell take no claims now, and are none of these"));
        }
        Self { classes, assumed }
    }
}

/// Alike ones together: of fewer machines each kind is to have its share, in whatever order they came. What many have counts before what few have, and what
/// a single one has, such as its name, comes last: it makes no kind.
fn in_kinds(machines: &mut [Arc<Attributes>]) {
    let mut counts: BTreeMap<(Arc<str>, Arc<str>), usize> = BTreeMap::new();
    let pairs = |machine: &Attributes| -> Vec<_> {
        machine.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    for pair in machines.iter().flat_map(|machine| pairs(machine)) {
        *counts.entry(pair).or_default() += 1;
    }
    machines.sort_by_cached_key(|machine| {
        let mut pairs: Vec<_> = pairs(machine).into_iter().map(|pair| (Reverse(counts[&pair]), pair)).collect();
        pairs.sort();
        pairs
    });
}

/// Whether two machines are of one shape: as much memory and disk, to a part in [`ALIKE_PARTS`], and exactly as much of all else.
fn are_alike(first: &Resources, other: &Resources) -> bool {
    let near = |one: u64, other: u64| one.abs_diff(other) <= one / ALIKE_PARTS;
    let rest = Resources { memory_bytes: first.memory_bytes, disk_bytes: first.disk_bytes, ..*other };
    near(first.memory_bytes, other.memory_bytes) && near(first.disk_bytes, other.disk_bytes) && rest == *first
}

/// What a group asks for besides room and GPUs, which are counted.
fn asks_of(job: &Job, shape: &GroupShape) -> Arc<Declared> {
    let shape = GroupShape { devices: Vec::new(), ..shape.clone() };
    Arc::new(Declared { namespace: job.shape.namespace.clone(), scheduler: job.shape.scheduler.clone(), shape })
}

fn laws_of(cell: &Cell) -> Laws {
    Laws {
        partitions: cell.partitions().map(|(name, partition)| (name.clone(), partition.clone())).collect(),
        quotas: cell.quotas().map(|(namespace, quota)| (namespace.clone(), moved(quota))).collect(),
    }
}

/// Limits of the cell's own resources one place further, as [`with_gpus`] moves amounts. GPUs have no quota.
fn moved(quota: &Quota) -> Quota {
    const OWN: usize = DIMENSIONS - CUSTOM_RESOURCES + GPUS;
    let mut moved = *quota;
    moved.limits[OWN + 1..].copy_from_slice(&quota.limits[OWN..DIMENSIONS - 1]);
    moved.limits[OWN] = None;
    moved
}

/// The cell's own resources one place further, behind the GPUs, of which there may be parts. The last place of a cell's own is given up.
fn with_gpus(amount: &Resources, devices: &[Device]) -> Resources {
    let millis: u64 =
        devices.iter().filter(|device| &*device.kind == "gpu").map(|device| u64::from(device.millis)).sum();
    let mut moved = *amount;
    moved.custom[GPUS + 1..].copy_from_slice(&amount.custom[GPUS..CUSTOM_RESOURCES - 1]);
    moved.custom[GPUS] = millis.div_ceil(1000);
    moved
}

#[cfg(test)]
mod tests {
    use plenum_model::{Constraint, Operator, Partition};

    use super::*;
    use crate::replay::{Discipline, Ground, Replay, placing::Placing};
    use crate::traces::work::resources;

    #[test]
    fn what_runs_and_what_waits_is_asked_about_and_what_is_over_is_not() {
        let class = MachineClass {
            name: "node".into(),
            count: 3,
            capacity: resources(4000, 1 << 30, 0),
            attributes: Vec::new(),
        };
        let mut ground = Ground::new(&[class], Placing::named("best-fit", None).unwrap()).unwrap();
        let job = |name: &str, tasks: u32| TraceJob {
            name: name.into(),
            user: String::new(),
            class: String::new(),
            submit_micros: 0,
            run_micros: None,
            estimate_micros: None,
            tasks,
            each: resources(1000, 1 << 20, 0),
            gang: false,
            asks: None,
        };
        let (kept, over) = (job("kept", 5), job("over", 1));
        let id = ground.submit(&kept, 0).unwrap();
        let machines = ground.choose(&kept, id, 3);
        ground.claim(id, 0, &kept.each, &machines, 0).unwrap();
        let id = ground.submit(&over, 0).unwrap();
        let machines = ground.choose(&over, id, 1);
        let running = ground.claim(id, 0, &over.each, &machines, 0).unwrap();
        ground.end(&running, &over.each, 1).unwrap();
        let trace = of_cell("backup", ground.cell());
        let jobs: Vec<_> = trace.jobs.iter().map(|job| (job.name.as_str(), job.tasks)).collect();
        assert_eq!(jobs, [("replay/kept/main", 5)]);
        assert_eq!(
            (trace.machines.len(), trace.machines[0].count, trace.machines[0].capacity.cpu_millis),
            (1, 3, 4000)
        );
    }

    // Eight hosts of one make, each with some kilobytes more than the one before, were eight shapes: percentages of each were those of one machine.
    #[test]
    fn hosts_of_one_make_are_one_shape_with_the_least_that_one_has() {
        let class = |name: &str, memory: u64, cpu: u64| MachineClass {
            name: name.into(),
            count: 1,
            capacity: resources(cpu, memory, 0),
            attributes: Vec::new(),
        };
        let mut classes: Vec<_> =
            (0..8).map(|host| class(&format!("h{host}"), (16 << 30) + 4096 * host, 4000)).collect();
        // A tenth less memory, and another processor, are other shapes.
        classes.extend([class("less", 14 << 30, 4000), class("other", 16 << 30, 4200)]);
        let ground = Ground::new(&classes, Placing::named("best-fit", None).unwrap()).unwrap();
        let shapes = Shapes::of(ground.cell());
        let seen: Vec<_> = shapes.classes.iter().map(|class| (class.count, class.capacity.memory_bytes)).collect();
        assert_eq!(seen, [(8, 16 << 30), (1, 14 << 30), (1, 16 << 30)]);
        assert_eq!(shapes.classes[0].attributes.len(), 8);
        assert!(shapes.assumed[0].contains("are one shape, with the least") && shapes.assumed.len() == 1);
        let equal = Ground::new(&classes[..1], Placing::named("best-fit", None).unwrap()).unwrap();
        assert!(Shapes::of(equal.cell()).assumed.is_empty(), "nothing was levelled");
    }

    // Names of hosts stood before `rack` in the alphabet: every other host was of one rack, half of them were that rack alone, and jobs that named the other
    // one were not started.
    #[test]
    fn half_of_a_shape_has_half_of_each_rack_whatever_name_each_machine_has() {
        let host = |number: usize| {
            let rack = if number.is_multiple_of(2) { "a" } else { "b" };
            let pairs = [("host", format!("h{number}")), ("os", "linux".to_owned()), ("rack", rack.to_owned())];
            Arc::new(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect::<Attributes>())
        };
        let hosts: Vec<_> = (0..8).map(host).collect();
        let class =
            MachineClass { name: "node".into(), count: 8, capacity: resources(4000, 1 << 30, 0), attributes: hosts };
        let ground = Ground::new(&[class], Placing::named("best-fit", None).unwrap()).unwrap();
        let shapes = Shapes::of(ground.cell());
        let racks: Vec<_> = shapes.classes[0].attributes.iter().map(|machine| &*machine["rack"]).collect();
        assert_eq!(racks, ["a", "a", "a", "a", "b", "b", "b", "b"]);
        assert_eq!(&*shapes.classes[0].attributes[1]["host"], "h2", "what each has of its own is kept");
    }

    fn declared(shape: GroupShape) -> Arc<Declared> {
        Arc::new(Declared { namespace: "default".into(), scheduler: "batch".into(), shape })
    }

    #[test]
    fn partitions_and_quotas_of_a_live_cell_decide_how_much_of_it_fits() {
        let rack =
            |rack: &str| Arc::new([("rack".into(), rack.into())].into_iter().collect::<plenum_model::Attributes>());
        let class = |count| MachineClass {
            name: "node".into(),
            count,
            capacity: resources(1000, 1 << 30, 0),
            attributes: vec![rack("lab"), rack("b")],
        };
        let job = |name: &str, namespace: &str, scheduler: &str, tasks: u32, run_micros: Option<i64>| TraceJob {
            name: name.into(),
            user: String::new(),
            class: String::new(),
            submit_micros: 0,
            run_micros,
            estimate_micros: None,
            tasks,
            each: resources(100, 1 << 20, 0),
            gang: false,
            asks: Some(Arc::new(Declared {
                namespace: namespace.into(),
                scheduler: scheduler.into(),
                shape: GroupShape::default(),
            })),
        };
        let lab = Constraint { attribute: "rack".into(), operator: Operator::Equal, values: vec!["lab".into()] };
        let mut quota = Quota::default();
        quota.limits[0] = Some(500);
        let laws = Laws {
            partitions: vec![("lab".into(), Partition { machines: vec![lab], schedulers: vec!["gang".into()] })],
            quotas: vec![("small".into(), quota)],
        };
        let started = |jobs: &[TraceJob], machines| {
            let mut ground = Ground::new(&[class(machines)], Placing::named("best-fit", None).unwrap()).unwrap();
            ground.lay_down(&laws).unwrap();
            Replay::new(jobs, ground, Discipline::Greedy).run().unwrap().unwrap().placements
        };
        // One machine of the two is the lab's: ten tasks on the other. Gangs may have both.
        assert_eq!(started(&[job("batch", "large", "batch", 20, None)], 2), 10);
        assert_eq!(started(&[job("gang", "large", "gang", 20, None)], 2), 20);
        // Five at a time, of both jobs together, on however many machines; the others as these end.
        let own = |run| [job("one", "small", "batch", 4, run), job("other", "small", "batch", 4, run)];
        assert_eq!((started(&own(None), 2), started(&own(None), 20)), (5, 5));
        assert_eq!(started(&own(Some(1_000_000)), 2), 8);
        // A job that the cell does not have is no member of a namespace with a quota, and gets no reserved machine.
        let other = TraceJob { asks: None, ..job("other", "", "", 20, None) };
        assert_eq!(started(&[other], 2), 10);
    }

    #[test]
    fn limits_move_behind_as_named_resources_do() {
        let mut quota = Quota::default();
        (quota.limits[0], quota.limits[3]) = (Some(5), Some(7));
        let limits = moved(&quota).limits;
        assert_eq!((limits[0], limits[3], limits[4]), (Some(5), None, Some(7)));
    }

    #[test]
    fn constraints_spread_and_ports_of_a_live_cell_decide_how_much_of_it_fits() {
        let has = |rack: &str, disk: &str| {
            let attributes = [("rack", rack), ("disk", disk)].map(|(name, value)| (name.into(), value.into()));
            Arc::new(attributes.into_iter().collect::<plenum_model::Attributes>())
        };
        // Two racks of two machines, one of which has an SSD.
        let attributes = vec![has("a", "ssd"), has("a", "hdd"), has("b", "hdd"), has("b", "hdd")];
        let class = |count| MachineClass {
            name: "node".into(),
            count,
            capacity: resources(4000, 1 << 30, 0),
            attributes: attributes.clone(),
        };
        let job = |name: &str, asks: GroupShape| TraceJob {
            name: name.into(),
            user: String::new(),
            class: String::new(),
            submit_micros: 0,
            run_micros: None,
            estimate_micros: None,
            tasks: 6,
            each: resources(100, 1 << 20, 0),
            gang: false,
            asks: Some(declared(asks)),
        };
        let constraint = plenum_model::Constraint {
            attribute: "disk".into(),
            operator: plenum_model::Operator::Equal,
            values: vec!["ssd".into()],
        };
        let port = plenum_model::Port { name: "http".into(), number: 80 };
        let spread = plenum_model::Spread { attribute: "rack".into(), at_most: 2 };
        let jobs = [
            job("anywhere", GroupShape::default()),
            job("ssd", GroupShape { constraints: vec![constraint.clone()], ..GroupShape::default() }),
            job("spread", GroupShape { spread: vec![spread], ..GroupShape::default() }),
            job("port", GroupShape { ports: vec![port], ..GroupShape::default() }),
            job("one-ssd", GroupShape { constraints: vec![constraint], per_machine: 1, ..GroupShape::default() }),
        ];
        let started = |count| {
            let ground = Ground::new(&[class(count)], Placing::named("best-fit", None).unwrap()).unwrap();
            let replayed = Replay::new(&jobs, ground, Discipline::Greedy).run().unwrap().unwrap();
            let all: Vec<bool> = replayed.ledger.records.iter().map(|record| record.all_started.is_some()).collect();
            (replayed.placements, all)
        };
        // All, all on the SSD, two a rack, one a machine, and one.
        assert_eq!(started(4), (6 + 6 + 4 + 4 + 1, vec![true, true, false, false, false]));
        // Each kind has its share of more machines, and of fewer: of six, two have an SSD, and two are of two racks.
        assert_eq!(started(6), (6 + 6 + 4 + 6 + 2, vec![true, true, false, true, false]));
        assert_eq!(started(2), (6 + 6 + 4 + 2 + 1, vec![true, true, false, false, false]));
    }

    #[test]
    fn parts_of_a_gpu_count_as_a_whole_one_and_named_resources_move_behind() {
        let gpu = |millis| Device { kind: "gpu".into(), index: 0, millis, model: "".into() };
        let mut amount = Resources::new(1000, 1);
        amount.custom[0] = 7;
        let moved = with_gpus(&amount, &[gpu(1000), gpu(250)]);
        assert_eq!((moved.custom[0], moved.custom[1]), (2, 7));
    }

    #[test]
    fn a_file_that_is_no_backup_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "job,submit_s\n").unwrap();
        assert!(format!("{:#}", read(file.path()).unwrap_err()).contains("is no backup"));
    }
}
