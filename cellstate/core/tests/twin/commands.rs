//! Random commands that mean something in the present picture, often enough.

use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationState, Attributes, CellIdentity, Command, ConflictCheck, DecisionMetadata, FoundMachine,
    Guard, Inventory, JobId, JobKind, MachineId, Placement, Request, Resources, RetryPolicy, Revision, SessionId,
    TaskState, Transaction, TransactionId, Transition, Unfit,
};

use crate::dice::Dice;
use crate::picture::{group, rack_is, submission};
use crate::twin::Twin;

/// Machines that may be there.
const MACHINES: u32 = 4;

/// The command of a number, and how much time passes before it.
pub(crate) fn command(twin: &Twin, number: u64) -> (Request, i64) {
    let mut dice = Dice(number);
    let pause =
        if dice.once_in(20) { 15_000_000 } else { *dice.pick(&[0, 1_000, 100_000, 100_000, 1_000_000]).unwrap() };
    let command = match dice.roll(40) {
        0 if dice.once_in(4) => open_server(twin),
        0..=1 if twin.live.sessions.len() < 6 => Command::OpenSession { scheduler: scheduler(&mut dice) },
        0..=1 if dice.once_in(2) => Command::CloseSession(session(twin, &mut dice)),
        2..=4 => register(twin, &mut dice),
        5..=9 => submit(&mut dice),
        10 => Command::ScaleJob { job: job(twin, &mut dice), version: None, group: 0, count: 2 + dice.roll(4) },
        11 if dice.once_in(4) => stop_job(twin, &mut dice),
        12 => scale(twin, &mut dice),
        13 => Command::StopAllocation(allocation(twin, &mut dice)),
        14 => {
            // One that runs something, so that something can be lost.
            let used = twin.live.allocations.values().find(|found| found.state.is_active()).map(|found| found.machine);
            let used = used.and_then(|slot| twin.live.machines.get(&slot)).map(|machine| machine.id);
            let machine = used.filter(|_| dice.once_in(2)).unwrap_or_else(|| machine(twin, &mut dice));
            let epoch = twin.live.machines.get(&machine.slot).map_or(1, |machine| machine.epoch);
            Command::ExpireMachine { machine, epoch: epoch + dice.roll(5) / 4 }
        }
        15 if dice.once_in(4) => {
            let machine = machine(twin, &mut dice);
            let epoch = twin.live.machines.get(&machine.slot).map_or(1, |machine| machine.epoch);
            let unfit = *dice.pick(&[None, None, Some(Unfit::AgentLeaves), Some(Unfit::StateUnwritable)]).unwrap();
            Command::ReportFitness { machine, epoch: epoch + dice.roll(5) / 4, unfit }
        }
        15 => Command::CordonMachine { machine: machine(twin, &mut dice), cordoned: dice.once_in(3) },
        17 if dice.once_in(3) => {
            let machine = machine(twin, &mut dice);
            // Drawn from what is there, so that all that follows stays as it was.
            Command::RemoveMachine { machine, unless_alive: twin.live.allocations.len() % 2 == 1 }
        }
        16..=17 => Command::Tick,
        18..=24 => Command::ReportStatus((0..1 + dice.roll(6)).map(|_| transition(twin, &mut dice)).collect()),
        _ => commit(twin, &mut dice),
    };
    let pause = if matches!(command, Command::Tick) && dice.once_in(2) { pause + 10_000_000 } else { pause };
    (Request { principal: "local".into(), namespace: "default".into(), command }, pause)
}

fn open_server(twin: &Twin) -> Command {
    let identity = &twin.live.identity;
    Command::OpenServer(CellIdentity { incarnation: 1, term: identity.term + 1, ..identity.clone() })
}

fn scheduler(dice: &mut Dice) -> Arc<str> {
    (*dice.pick(&["batch", "batch", "service"]).unwrap()).into()
}

fn session(twin: &Twin, dice: &mut Dice) -> SessionId {
    let sessions: Vec<_> = twin.live.sessions.keys().copied().collect();
    dice.pick(&sessions).copied().unwrap_or(SessionId(1))
}

fn machine(twin: &Twin, dice: &mut Dice) -> MachineId {
    let known: Vec<_> = twin.live.machines.values().map(|machine| machine.id).collect();
    let none = MachineId { slot: dice.roll(MACHINES), generation: 1 };
    if dice.once_in(20) { none } else { dice.pick(&known).copied().unwrap_or(none) }
}

fn job(twin: &Twin, dice: &mut Dice) -> JobId {
    let known: Vec<_> = twin.live.jobs.keys().copied().collect();
    let none = JobId { slot: dice.roll(4), generation: 1 + dice.roll(3) };
    if dice.once_in(15) { none } else { dice.pick(&known).copied().unwrap_or(none) }
}

fn allocation(twin: &Twin, dice: &mut Dice) -> AllocationId {
    let known: Vec<_> = twin.live.allocations.keys().copied().collect();
    let none = AllocationId { slot: dice.roll(10), generation: 1 + dice.roll(3) };
    if dice.once_in(15) { none } else { dice.pick(&known).copied().unwrap_or(none) }
}

fn register(twin: &Twin, dice: &mut Dice) -> Command {
    let name: Arc<str> = format!("m{}", dice.roll(MACHINES)).into();
    let slot = twin.live.machine_named(&name);
    let known = slot.map(|slot| twin.live.machines[&slot].clone());
    let boot_id: Arc<str> = match &known {
        Some(known) if !dice.once_in(4) => known.boot_id.to_string().into(),
        _ => format!("boot-{}", dice.roll(100)).into(),
    };
    let rack: Arc<str> = format!("r{}", dice.roll(4) / 3).into();
    let disk_bytes = u64::from(dice.roll(2)) * 10;
    let capacity = Resources { disk_bytes, ..Resources::new(1000 * u64::from(2 + dice.roll(4)), 8) };
    let capacity = known.filter(|_| !dice.once_in(4)).map_or(capacity, |known| *known.capacity);
    let state = [AllocationState::Complete, AllocationState::Failed, AllocationState::Running];
    let known = slot.map(|slot| twin.live_on(slot)).unwrap_or_default();
    let item = |allocation, dice: &mut Dice| Inventory {
        allocation,
        state: *dice.pick(&state).unwrap(),
        exit_code: 1,
        reason: "".into(),
        restarts: dice.roll(8) / 6,
        task: None,
    };
    let mut inventory = Vec::new();
    for id in known {
        if dice.once_in(2) {
            inventory.push(item(id, dice));
        }
    }
    let attributes = Arc::new(Attributes::from([("rack".into(), rack)]));
    // Mostly all that there is, sometimes nothing, or what was before the machine's epoch.
    let began = slot.map_or(0, |slot| twin.live.machines[&slot].epoch_began.0);
    let seen = match dice.roll(8) {
        0 => 0,
        1 => began.saturating_sub(1),
        2 => began,
        _ => twin.live.revision,
    };
    Command::RegisterMachine(FoundMachine {
        name,
        boot_id,
        capacity,
        attributes,
        inventory,
        seen: Revision(seen),
        ..FoundMachine::default()
    })
}

fn submit(dice: &mut Dice) -> Command {
    let name = dice.roll(4);
    // Mostly the same shape under the same name, so that it is submitted again as it was.
    let mut shape = if dice.once_in(8) { Dice(dice.roll(1000).into()) } else { Dice(name.into()) };
    let mut groups = Vec::new();
    for number in 0..1 + u16::try_from(shape.roll(3)).unwrap() {
        let mut group = group(1 + shape.roll(5), 500 * u64::from(1 + shape.roll(4)));
        group.resources.disk_bytes = u64::from(shape.roll(3) / 2) * 6;
        group.after = (0..number).filter(|_| shape.once_in(2)).collect();
        group.retry = RetryPolicy { attempts: Some(shape.roll(3)), delay_micros: i64::from(shape.roll(3)) * 1_000_000 };
        group.lost_after_micros = (!shape.once_in(4)).then(|| i64::from(shape.roll(3)) * 10_000_000);
        if shape.once_in(40) {
            group.affinities = vec![plenum_model::Affinity { rule: rack_is("r0"), weight: 1 }];
        }
        if shape.once_in(3) {
            group.constraints = vec![rack_is("r0")];
        }
        groups.push(group);
    }
    if dice.once_in(4) {
        groups.iter_mut().for_each(|group| group.count = dice.roll(6));
    }
    let kind = if shape.once_in(3) { JobKind::Forever } else { JobKind::ToCompletion };
    let (scheduler, same_machine) = (scheduler(&mut shape), shape.once_in(3));
    for group in &mut groups {
        group.min = if shape.once_in(3) { 1 + shape.roll(3) } else { 0 };
    }
    let mut command = submission(name, &scheduler, kind, same_machine, groups);
    if let Command::SubmitJob { expected_version, .. } = &mut command {
        *expected_version = dice.once_in(4).then(|| dice.roll(4));
    }
    command
}

fn stop_job(twin: &Twin, dice: &mut Dice) -> Command {
    let job = job(twin, dice);
    Command::StopJob { job, version: dice.once_in(3).then(|| 1 + dice.roll(3)) }
}

fn scale(twin: &Twin, dice: &mut Dice) -> Command {
    let (job, group) = (job(twin, dice), u16::try_from(dice.roll(3)).unwrap());
    let version = dice.once_in(3).then(|| 1 + dice.roll(3));
    Command::ScaleJob { job, version, group, count: dice.roll(6) }
}

fn transition(twin: &Twin, dice: &mut Dice) -> Transition {
    let allocation = allocation(twin, dice);
    let on = twin.live.allocations.get(&allocation).map(|found| found.machine);
    let machine = on.and_then(|slot| twin.live.machines.get(&slot));
    let states = [
        AllocationState::Starting,
        AllocationState::Running,
        AllocationState::Running,
        AllocationState::Complete,
        AllocationState::Complete,
        AllocationState::Failed,
        AllocationState::Stopped,
        AllocationState::EndedLost,
    ];
    Transition {
        machine: machine.map_or(MachineId { slot: 0, generation: 1 }, |machine| machine.id),
        epoch: machine.map_or(1, |machine| machine.epoch) + dice.roll(10) / 9,
        allocation,
        state: *dice.pick(&states).unwrap(),
        ready: dice.once_in(2),
        exit_code: 0,
        restarts: dice.roll(8) / 6,
        reason: "".into(),
    }
}

fn commit(twin: &Twin, dice: &mut Dice) -> Command {
    let session = session(twin, dice);
    let last = twin.live.sessions.get(&session).and_then(|session| session.decided.last()).map_or(0, |last| last.0);
    let number = match dice.roll(12) {
        0 => last.saturating_sub(dice.roll(3).into()).max(1),
        1 => last + 2,
        _ => last + 1,
    };
    let ago = *dice.pick(&[0, 0, 1, 1, 2, 3, 5, 10, 20]).unwrap();
    let base = if dice.once_in(40) { twin.next() } else { twin.live.revision.saturating_sub(ago) };
    let stops = if dice.once_in(3) { 1 + dice.roll(2) } else { 0 };
    let transaction = Transaction {
        id: TransactionId { session, number },
        incarnation: u64::from(!dice.once_in(50)),
        base: Revision(base),
        atomic: dice.once_in(4),
        check: if dice.once_in(4) { ConflictCheck::Sequence } else { ConflictCheck::Fit },
        stops: (0..stops).map(|_| allocation(twin, dice)).collect(),
        placements: (0..1 + dice.roll(3)).map(|_| placement(twin, session, dice)).collect(),
        guards: (0..dice.roll(15) / 14).map(|_| guard(twin, dice)).collect(),
        dry_run: dice.once_in(12),
        decision: DecisionMetadata::default(),
    };
    Command::Commit(Box::new(transaction), u64::from(dice.roll(2)))
}

fn placement(twin: &Twin, session: SessionId, dice: &mut Dice) -> Placement {
    // Mostly its own jobs, and of those mostly groups that are wanted.
    let scheduler = twin.live.sessions.get(&session).map(|session| &session.scheduler);
    let own = twin.live.jobs.iter().filter(|(_, job)| Some(&job.shape.scheduler) == scheduler && !job.state.is_final());
    let groups = own.flat_map(|(&id, job)| (0u16..).zip(&job.groups).map(move |(group, _)| (id, group)));
    let groups: Vec<_> = groups.filter(|&(id, group)| twin.live.wants(id, group, twin.now)).collect();
    let any = (job(twin, dice), u16::try_from(dice.roll(3)).unwrap());
    let (id, group) = if dice.once_in(8) { any } else { dice.pick(&groups).copied().unwrap_or(any) };
    let job = twin.live.jobs.get(&id);
    let shape = job.and_then(|job| job.shape.groups.get(usize::from(group)));
    let waits = |task: &u32| twin.live.task(id, group, *task).is_some_and(|task| task.state == TaskState::Waiting);
    let first = if dice.once_in(5) { 0 } else { (0..6).find(waits).unwrap_or(0) };
    let claims = 1 + dice.roll(4);
    // Tasks in a row, sometimes the other way round; each once, as the edge has it.
    let mut tasks: Vec<u32> = (first..first + claims).collect();
    if dice.once_in(4) {
        tasks.reverse();
    }
    let near = dice.roll(MACHINES);
    let resources = shape.filter(|_| dice.once_in(4)).map(|shape| Resources {
        memory_bytes: shape.resources.memory_bytes + u64::from(dice.once_in(5)),
        ..shape.resources
    });
    Placement {
        job: id,
        group,
        job_version: job.map_or(1, |job| job.version) + dice.roll(30) / 29,
        resources,
        machines: tasks.iter().map(|_| if dice.once_in(3) { dice.roll(MACHINES + 1) } else { near }).collect(),
        min: if dice.once_in(3) { dice.roll(claims + 1) } else { 0 },
        tasks,
        guards: (0..dice.roll(20) / 19).map(|_| guard(twin, dice)).collect(),
        ..Placement::default()
    }
}

fn guard(twin: &Twin, dice: &mut Dice) -> Guard {
    if dice.once_in(2) {
        let job = job(twin, dice);
        let version = twin.live.jobs.get(&job).map_or(1, |job| job.version) + dice.roll(3) / 2;
        return Guard::JobVersion { job, version };
    }
    Guard::Attribute {
        machine: machine(twin, dice),
        attribute: "rack".into(),
        value: format!("r{}", dice.roll(3) / 2).into(),
    }
}
