//! Random commands of all kinds: mostly such as mean something in the cell as it is, or as a scheduler saw it at its base.

use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationRef, AllocationState, Attributes, Cell, ClaimExtra, Command, ConflictCheck, Device,
    FoundMachine, GroupShape, Guard, Inventory, Job, JobId, JobKind, JobShape, Machine, MachineState, Partition,
    Placement, Port, Preemption, Quota, Resources, RetryPolicy, Revision, SessionId, Spread, TakeOver, TaskState,
    TaskTraces, Transaction, TransactionId, Transition,
};

use super::Chaos;
use crate::dice::Dice;
use crate::picture::rack_is;

const MACHINES: u32 = 4;
const JOBS: u32 = 8;
/// Each name of a job is there in both.
const NAMESPACES: [&str; 2] = ["default", "other"];
/// No row of the cell is in these slots: agents call so what it does not know.
const UNKNOWN: u32 = 1_000_000;

impl Chaos {
    /// The slot of a machine, mostly of one that takes claims.
    fn machine(&self, dice: &mut Dice) -> u32 {
        let ready = self.core.cell().machines().filter(|machine| machine.state == MachineState::Ready);
        let ready: Vec<u32> = ready.map(|machine| machine.id.slot).collect();
        dice.pick(&ready).copied().filter(|_| !dice.once_in(10)).unwrap_or_else(|| dice.roll(MACHINES))
    }

    fn live(&self) -> Vec<AllocationId> {
        self.core.cell().allocations().map(|found| found.id).collect()
    }

    pub(super) fn stop(&self, dice: &mut Dice) -> Command {
        let jobs: Vec<JobId> = self.core.cell().jobs().map(|job| job.id).collect();
        match (dice.pick(&jobs), dice.pick(&self.live())) {
            (Some(&job), _) if dice.once_in(4) => {
                Command::StopJob { job, version: dice.once_in(4).then(|| 1 + dice.roll(2)) }
            }
            (Some(&job), _) if dice.once_in(3) => {
                Command::ScaleJob { job, version: None, group: 0, count: dice.roll(6) }
            }
            (_, Some(&id)) => Command::StopAllocation(id),
            _ => Command::Tick,
        }
    }

    pub(super) fn expire_or_remove(&self, dice: &mut Dice) -> Command {
        let machines: Vec<_> = self.core.cell().machines().cloned().collect();
        match dice.pick(&machines) {
            Some(machine) if dice.once_in(3) => {
                Command::RemoveMachine { machine: machine.id, unless_alive: dice.once_in(4) }
            }
            Some(machine) => Command::ExpireMachine { machine: machine.id, epoch: machine.epoch },
            None => Command::Tick,
        }
    }

    /// Schedulers come under one of many names, and go again; those that place tasks stay.
    pub(super) fn come_or_go(&self, dice: &mut Dice) -> Command {
        let passing = self.core.cell().sessions().filter(|session| session.scheduler.starts_with("passing"));
        let passing: Vec<_> = passing.map(|session| session.id).collect();
        match dice.pick(&passing) {
            Some(&session) if dice.once_in(2) => Command::CloseSession(session),
            _ => Command::OpenSession { scheduler: format!("passing-{}", dice.roll(8)).into() },
        }
    }

    pub(super) fn governance(&self, dice: &mut Dice) -> Command {
        let jobs: Vec<JobId> = self.core.cell().jobs().map(|job| job.id).collect();
        match dice.roll(10) {
            0 => {
                let mut quota = Quota::default();
                let (place, unit) = *dice.pick(&[(0_usize, 1000_u64), (1, 3), (2, 2)]).unwrap();
                quota.limits[place] = (!dice.once_in(3)).then(|| u64::from(dice.roll(8)) * unit);
                let namespace = (*dice.pick(&NAMESPACES).unwrap()).into();
                Command::SetQuota { namespace, limit: (!dice.once_in(4)).then_some(quota) }
            }
            1 => {
                let machines: Vec<_> = self.core.cell().machines().map(|machine| machine.id).collect();
                let Some(&machine) = dice.pick(&machines) else { return Command::Tick };
                let deadline = dice.once_in(2).then(|| self.now.plus_micros(900_000));
                Command::DrainMachine { machine, deadline }
            }
            2 => {
                // Where both are there, one scheduler is kept out of two.
                let (name, rack) = *dice.pick(&[("p", "r0"), ("q", "r1")]).unwrap();
                let partition = Partition { machines: vec![rack_is(rack)], schedulers: vec!["ml".into()] };
                Command::SetPartition { name: name.into(), partition: dice.once_in(3).then_some(partition) }
            }
            3 => Command::SetRights { scheduler: scheduler(dice), evicts: Some(!dice.once_in(3)), priority: None },
            4 => Command::PauseScheduler { scheduler: scheduler(dice), paused: dice.once_in(3) },
            _ => Command::TakeHold {
                session: SessionId::default(),
                job: dice.pick(&jobs).copied().unwrap_or_default(),
                machines: (0..1 + dice.roll(3)).map(|_| self.machine(dice)).collect(),
                resources: match dice.roll(3) {
                    0 => Resources::new(u64::from(1 + dice.roll(3)) * 500, 0),
                    1 => Resources::new(0, 4 + u64::from(dice.roll(8))),
                    _ => amounts(u64::from(dice.roll(3)) * 500, 4 + u64::from(dice.roll(8))),
                },
                deadline: self.now.plus_micros(20_000_000),
            },
        }
    }

    /// An agent comes, or comes again, one that is away before others: mostly as it was, and with some tasks that nobody knows.
    pub(super) fn register(&self, dice: &mut Dice) -> Command {
        let cell = self.core.cell();
        let state = |name: &str| cell.machine_named(name).map(|machine| machine.state);
        let is_away = |name: &String| matches!(state(name), None | Some(MachineState::Unreachable));
        let away: Vec<String> = (0..MACHINES).map(|number| format!("m{number}")).filter(is_away).collect();
        let any = format!("m{}", dice.roll(MACHINES));
        let name = dice.pick(&away).filter(|_| !dice.once_in(3)).cloned().unwrap_or(any);
        let devices = match cell.machine_named(&name) {
            Some(known) if !dice.once_in(4) => known.devices.to_vec(),
            _ => machine_devices(dice),
        };
        let rack: Arc<str> = format!("r{}", dice.roll(2)).into();
        let attributes = if dice.once_in(5) { Attributes::new() } else { Attributes::from([("rack".into(), rack)]) };
        let unknown: Vec<u32> = (0..3).filter(|_| dice.once_in(4)).collect();
        Command::RegisterMachine(FoundMachine {
            name: name.into(),
            boot_id: if dice.once_in(12) { "b".into() } else { "a".into() },
            // A few tasks fill it, of whichever resource.
            capacity: Resources {
                disk_bytes: 8 + u64::from(dice.roll(8)),
                custom: [dice.roll(4).into(), 0, 0, 0, 0],
                ..Resources::new(1000 * u64::from(2 + dice.roll(4)), 8 + u64::from(dice.roll(12)))
            },
            attributes: Arc::new(attributes),
            devices,
            inventory: unknown.into_iter().map(|number| unknown_task(number, dice)).collect(),
            seen: if dice.once_in(4) { Revision::default() } else { cell.revision() },
        })
    }

    /// A job, mostly of a name that in its namespace no other one has that is not over.
    pub(super) fn submit(&self, dice: &mut Dice) -> Command {
        let named = |number: u32| (NAMESPACES[number as usize % 2], format!("j{}", number / 2));
        let known = |(namespace, name): &(&str, String)| self.core.cell().job_named(namespace, name);
        let is_free = |job: &(&str, String)| known(job).is_none_or(|job| job.state.is_final());
        let free: Vec<(&str, String)> = (0..JOBS).map(named).filter(is_free).collect();
        let any = named(dice.roll(JOBS));
        let (namespace, name) = dice.pick(&free).filter(|_| !dice.once_in(4)).cloned().unwrap_or(any);
        let shape = JobShape {
            namespace: namespace.into(),
            name: name.into(),
            scheduler: scheduler(dice),
            priority: *dice.pick(&[10, 50, 90]).unwrap(),
            kind: if dice.once_in(3) { JobKind::Forever } else { JobKind::ToCompletion },
            same_machine: dice.once_in(8),
            groups: (0..1 + dice.roll(2)).map(|number| group(number, dice)).collect(),
            ..JobShape::default()
        };
        let expected_version = dice.once_in(4).then(|| dice.roll(3));
        Command::SubmitJob { shape: Arc::new(shape), body: Arc::new([1]), body_digest: [1; 32], expected_version }
    }

    pub(super) fn report(&self, dice: &mut Dice) -> Command {
        let cell = self.core.cell();
        let unknown: Vec<_> = cell.unknown_tasks().map(|(id, _)| id).collect();
        let mut transitions = Vec::new();
        for _ in 0..1 + dice.roll(4) {
            if let Some(id) = dice.pick(&unknown).filter(|_| dice.once_in(3)) {
                let machine = cell.machine_in(id.machine).unwrap();
                transitions.push(transition(machine, id.allocation, AllocationState::Stopped));
                continue;
            }
            let Some(&id) = dice.pick(&self.live()) else { continue };
            let found = cell.allocation(id).unwrap();
            let machine = cell.machine_in(found.row.machine).unwrap();
            // Mostly such as end the work: what is lost waits again.
            let ends = [
                AllocationState::Complete,
                AllocationState::Complete,
                AllocationState::Failed,
                AllocationState::Failed,
                AllocationState::Stopped,
                AllocationState::Stopped,
                AllocationState::EndedLost,
            ];
            let running = dice.once_in(3) && !found.status.state.is_leaving();
            let state = if running { AllocationState::Running } else { *dice.pick(&ends).unwrap() };
            transitions.push(transition(machine, id, state));
        }
        Command::ReportStatus(transitions)
    }

    pub(super) fn commit(&mut self, dice: &mut Dice) -> Command {
        let cell = self.core.cell();
        let placing = cell.sessions().filter(|session| !session.scheduler.starts_with("passing"));
        let sessions: Vec<_> = placing.map(|session| (session.id, session.scheduler.clone())).collect();
        let (session, scheduler) = dice.pick(&sessions).cloned().unwrap();
        // Not for long: meanwhile it places nothing.
        if cell.is_paused(&scheduler) && dice.once_in(2) {
            return Command::PauseScheduler { scheduler, paused: false };
        }
        let also_over = dice.once_in(6);
        let jobs = cell.jobs().filter(|job| job.shape.scheduler == scheduler && (also_over || !job.state.is_final()));
        let jobs: Vec<_> = jobs.cloned().collect();
        let own = |id: &AllocationId| {
            let found = cell.allocation(*id).unwrap();
            cell.job(found.row.job()).is_some_and(|job| job.shape.scheduler == scheduler)
        };
        let owned: Vec<AllocationId> = self.live().into_iter().filter(own).collect();
        let mut stops = Vec::new();
        for _ in 0..dice.roll(2) {
            stops.extend(dice.pick(&owned).copied());
        }
        let base = Revision(cell.revision().0.saturating_sub(u64::from(dice.roll(3) * dice.roll(30))));
        let mut placements = Vec::new();
        for _ in 0..1 + dice.roll(2) {
            if let Some(job) = dice.pick(&jobs) {
                placements.push(self.placement(job, base, &stops, dice));
            }
        }
        let guards = self.guards(60, dice);
        self.number += 1;
        let transaction = Transaction {
            id: TransactionId { session, number: self.number },
            incarnation: 1,
            base,
            atomic: dice.once_in(5),
            check: if dice.once_in(6) { ConflictCheck::Sequence } else { ConflictCheck::Fit },
            placements,
            stops,
            guards,
            dry_run: dice.once_in(15),
            ..Transaction::default()
        };
        Command::Commit(Box::new(transaction), self.number)
    }

    fn guards(&self, seldom: u32, dice: &mut Dice) -> Vec<Guard> {
        if !dice.once_in(seldom) {
            return Vec::new();
        }
        let cell = self.core.cell();
        let machines: Vec<_> = cell.machines().map(|machine| machine.id).collect();
        let jobs: Vec<_> = cell.jobs().map(|job| (job.id, job.version)).collect();
        match (dice.pick(&machines), dice.pick(&jobs)) {
            (Some(&machine), _) if dice.once_in(2) => {
                vec![Guard::Attribute { machine, attribute: "rack".into(), value: "r0".into() }]
            }
            (_, Some(&(job, version))) => vec![Guard::JobVersion { job, version: version + dice.roll(2) }],
            _ => Vec::new(),
        }
    }

    /// Whom it takes over from, and whom it would evict, are mostly those whom its scheduler saw at its base.
    fn placement(&self, job: &Job, base: Revision, stops: &[AllocationId], dice: &mut Dice) -> Placement {
        let cell = self.core.cell();
        let group = u16::try_from(dice.roll(u32::try_from(job.shape.groups.len()).unwrap())).unwrap();
        let shape = &job.shape.groups[usize::from(group)];
        let row = cell.group(job, group);
        let waits = |task: &u32| row.and_then(|row| cell.task_state(row, *task)) == Some(TaskState::Waiting);
        let (first, count) = (dice.roll(3), if dice.once_in(2) { 1 } else { 1 + dice.roll(3) });
        let waiting: Vec<u32> = (0..6).filter(waits).take(count as usize).collect();
        let any = waiting.is_empty() || dice.once_in(6);
        let tasks: Vec<u32> = if any { (first..first + count).collect() } else { waiting };
        let seen: &Cell = if dice.once_in(3) { cell } else { self.history.get(&base).unwrap_or(cell) };
        let live: Vec<AllocationRef<'_>> = seen.allocations().collect();
        let leaves = |found: &&AllocationRef<'_>| found.status.state.is_leaving() || stops.contains(&found.id);
        let sources: Vec<AllocationRef<'_>> = live.iter().filter(leaves).copied().collect();
        let names = dice.once_in(2);
        let (mut machines, mut extras) = (Vec::new(), Vec::new());
        for _ in &tasks {
            let source = dice.pick(&sources).filter(|_| names && !dice.once_in(3));
            let machine = source.map_or_else(|| self.machine(dice), |source| source.row.machine);
            let here = |found: &&AllocationRef<'_>| found.row.machine == machine;
            let near: Vec<AllocationRef<'_>> = sources.iter().filter(here).copied().collect();
            machines.push(machine);
            if names {
                extras.push(extra(shape, if dice.once_in(6) { &sources } else { &near }, dice));
            }
        }
        let mut preemptions = Vec::new();
        for _ in 0..dice.roll(4) {
            let near: Vec<_> = live.iter().filter(|found| machines.contains(&found.row.machine)).collect();
            if let Some(victim) = dice.pick(&near) {
                let machine = if dice.once_in(12) { dice.roll(MACHINES) } else { victim.row.machine };
                preemptions.push(Preemption { machine, victim: victim.id });
            }
        }
        Placement {
            job: job.id,
            group,
            job_version: job.version,
            min: if dice.once_in(4) { dice.roll(u32::try_from(tasks.len()).unwrap() + 1) } else { 0 },
            guards: self.guards(40, dice),
            alternates: (0..dice.roll(6).saturating_sub(3)).map(|_| self.machine(dice)).collect(),
            machines,
            tasks,
            extras,
            preemptions,
            ..Placement::default()
        }
    }
}

/// What a claim names: whom it takes over from, and how much, and which very devices and ports it wants.
fn extra(shape: &GroupShape, sources: &[AllocationRef<'_>], dice: &mut Dice) -> ClaimExtra {
    let mut take_overs = Vec::new();
    for _ in 0..1 + dice.roll(2) {
        take_overs.extend(dice.pick(sources).map(|source| take_over(source, dice)));
    }
    let mut devices = Vec::new();
    if dice.once_in(3) {
        for declared in &shape.devices {
            let model = dice.pick(&["".into(), declared.model.clone()]).unwrap().clone();
            devices.push(Device { index: dice.roll(3), model, ..declared.clone() });
        }
        if dice.once_in(8) {
            devices.pop();
        }
    }
    let dynamic = shape.ports.iter().filter(|port| port.number == 0);
    let mut ports = Vec::new();
    for port in dynamic {
        if dice.once_in(2) {
            ports.push(Port { name: port.name.clone(), number: 20_000 + u16::try_from(dice.roll(3)).unwrap() });
        }
    }
    ClaimExtra { devices, ports, take_overs }
}

/// All that somebody has, or a part of some of it.
fn take_over(source: &AllocationRef<'_>, dice: &mut Dice) -> TakeOver {
    let has = source.extra.cloned().unwrap_or_default();
    let mut entry = TakeOver { victim: source.id, amount: Resources::default(), devices: vec![], ports: vec![] };
    if dice.once_in(3) {
        entry.amount = amounts(250 * u64::from(1 + dice.roll(6)), dice.roll(4).into());
    }
    if dice.once_in(3) {
        let parts = 1 + dice.roll(2);
        entry.devices =
            has.devices.iter().map(|device| Device { millis: device.millis / parts, ..device.clone() }).collect();
    }
    if dice.once_in(3) {
        entry.ports = has.ports.iter().map(|port| port.number).take(1).collect();
    }
    entry
}

fn scheduler(dice: &mut Dice) -> Arc<str> {
    (*dice.pick(&["ml", "batch"]).unwrap()).into()
}

/// So much CPU and memory; where that is odd, as much of the disk; and a seat with three of it.
fn amounts(cpu_millis: u64, memory_bytes: u64) -> Resources {
    let disk_bytes = if memory_bytes.is_multiple_of(2) { 0 } else { memory_bytes };
    let seats = u64::from(memory_bytes == 3);
    Resources { disk_bytes, custom: [seats, 0, 0, 0, 0], ..Resources::new(cpu_millis, memory_bytes) }
}

fn device(kind: &str, index: u32, millis: u32, model: &str) -> Device {
    Device { kind: kind.into(), index, millis, model: model.into() }
}

fn machine_devices(dice: &mut Dice) -> Vec<Device> {
    let gpus = 0..1 + dice.roll(2);
    let mut devices: Vec<Device> =
        gpus.map(|index| device("gpu", index, 1000, dice.pick(&["a", "a", "b"]).unwrap())).collect();
    if dice.once_in(3) {
        devices.push(device("npu", 0, 1000, ""));
    }
    devices
}

/// No more than two of a kind: of more, the tightest fit may find nothing with more devices, and find something with fewer.
fn group_devices(dice: &mut Dice) -> Vec<Device> {
    let mut devices = Vec::new();
    for _ in 0..dice.roll(4).saturating_sub(1) {
        let (kind, model) = *dice.pick(&[("gpu", ""), ("gpu", ""), ("gpu", "a"), ("npu", "")]).unwrap();
        devices.push(device(kind, 0, *dice.pick(&[300, 500, 1000]).unwrap(), model));
    }
    devices
}

fn unknown_task(number: u32, dice: &mut Dice) -> Inventory {
    let devices = if dice.once_in(3) { vec![device("gpu", dice.roll(2), 500, "")] } else { Vec::new() };
    let ports = if dice.once_in(3) {
        vec![Port { name: "http".into(), number: *dice.pick(&[8080, 20_001]).unwrap() }]
    } else {
        Vec::new()
    };
    let resources = amounts(500 * u64::from(dice.roll(3)), dice.roll(4).into());
    let task = TaskTraces { namespace: "default".into(), resources, devices, ports, ..TaskTraces::default() };
    Inventory {
        allocation: AllocationId { slot: UNKNOWN + number, generation: 1 },
        state: AllocationState::Running,
        exit_code: 0,
        reason: "".into(),
        restarts: 0,
        task: Some(Arc::new(task)),
    }
}

fn transition(machine: &Machine, allocation: AllocationId, state: AllocationState) -> Transition {
    Transition {
        ready: state == AllocationState::Running,
        ..Transition::new(machine.id, machine.epoch, allocation, state)
    }
}

fn group(number: u32, dice: &mut Dice) -> GroupShape {
    let port = |name: &str, number: u16| Port { name: name.into(), number };
    let devices = group_devices(dice);
    // What wants devices is small, so that it is not always room that lacks first.
    let halves = if devices.is_empty() { 1 + dice.roll(4) } else { 1 };
    GroupShape {
        name: format!("g{number}").into(),
        count: 1 + dice.roll(5),
        resources: amounts(500 * u64::from(halves), u64::from(dice.roll(4))),
        constraints: if dice.once_in(6) { vec![rack_is("r0")] } else { vec![] },
        retry: RetryPolicy { attempts: None, delay_micros: 0 },
        lost_after_micros: Some(1_000_000),
        per_machine: if dice.once_in(4) { 1 + dice.roll(2) } else { 0 },
        spread: if dice.once_in(4) {
            vec![Spread { attribute: "rack".into(), at_most: 1 + dice.roll(2) }]
        } else {
            vec![]
        },
        devices,
        ports: match dice.roll(8) {
            0..=1 => vec![port("http", 8080)],
            2 => vec![port("any", 0)],
            3 => vec![port("any", 0), port("http", 8080)],
            _ => vec![],
        },
        single_instance: dice.once_in(4),
        min: if dice.once_in(6) { 1 } else { 0 },
        ..GroupShape::default()
    }
}
