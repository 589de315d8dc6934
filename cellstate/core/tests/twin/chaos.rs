//! Random commands of all kinds, on devices, ports, limits, spread, take-overs, evictions, spare machines, quotas and holds. Nobody
//! predicts the answers here: after each command all invariants hold, a mirror that folds the deltas is the same as the cell, a
//! replay of the log decides the same, and a cell that is built again from its rows is the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_core::{Core, CoreOptions, Decided, invariants};
use plenum_model::{
    AllocationId, AllocationState, Attributes, Cell, CellIdentity, ClaimExtra, Command, ConflictCheck, Decision,
    Device, GroupShape, JobId, JobKind, JobShape, LogTime, Placement, Port, Preemption, Quota, Request, Resources,
    RetryPolicy, Revision, SessionId, Spread, TakeOver, Transaction, TransactionId, Transition,
};

use crate::dice::Dice;
use crate::recover::recovered;

const MACHINES: u32 = 4;
const LIVES: u64 = 40;
const STEPS: u64 = 500;
/// Fewer than jobs can ask for.
const SHAPES: usize = 8;

struct Chaos {
    core: Core,
    replay: Core,
    mirror: Cell,
    now: LogTime,
    number: u64,
    seen: BTreeMap<String, u32>,
}

impl Chaos {
    fn new() -> Self {
        let options = || CoreOptions {
            ring_changes: 300,
            shapes_max: SHAPES,
            shapes_spare: 1,
            retire_after_micros: 8_000_000,
            schedulers_max: 5,
            schedulers_spare: 1,
            ..CoreOptions::default()
        };
        let mut chaos = Self {
            core: Core::new(options()),
            replay: Core::new(options()),
            mirror: Cell::default(),
            now: LogTime::from_micros(1_000_000),
            number: 0,
            seen: BTreeMap::new(),
        };
        chaos.step(Command::OpenServer(CellIdentity { incarnation: 1, term: 1, ..CellIdentity::default() }));
        for scheduler in ["ml", "batch"] {
            chaos.step(Command::OpenSession { scheduler: scheduler.into() });
        }
        chaos
    }

    fn step(&mut self, command: Command) {
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        let before = self.core.cell().clone();
        let decided = self.core.decide(&request, self.now);
        invariants::check_step(&before, &request, &decided, self.core.cell()).unwrap();
        let Decided::Changed { delta, decision } = &decided else {
            assert_eq!(before.first_difference(self.core.cell()), None, "nothing was to change");
            if let Decided::Unchanged(Decision::Rejected(rejection)) = &decided {
                *self.seen.entry(format!("{:?}", rejection.code)).or_default() += 1;
            }
            return;
        };
        let again = self.replay.decide(&request, self.now);
        let Decided::Changed { delta: again, decision: answer } = &again else { panic!("{again:?}") };
        assert_eq!((again, answer), (delta, decision), "decided again");
        self.mirror.apply(delta).unwrap();
        assert_eq!(self.mirror.first_difference(self.core.cell()), None);
        self.note(decision, &request.command);
        if !delta.reshaped.is_empty() {
            *self.seen.entry("reshaped".into()).or_default() += 1;
        }
        if !delta.renamed.is_empty() {
            *self.seen.entry("renamed".into()).or_default() += 1;
        }
        for change in &delta.moves {
            *self.seen.entry(format!("{:?}", change.status.state)).or_default() += 1;
        }
    }

    fn note(&mut self, decision: &Decision, command: &Command) {
        let Decision::Outcome(outcome) = decision else { return };
        let Command::Commit(txn, _) = command else { return };
        let mut count = |what: String| *self.seen.entry(what).or_default() += 1;
        for refusal in &outcome.refusals {
            count(format!("{:?} {:?}", refusal.kind, refusal.reason));
            let Some((resource, _)) = refusal.short else { continue };
            count(format!("{:?} {resource}", refusal.reason));
            if refusal.culprits.iter().any(|culprit| &*culprit.event == "hold") {
                count(format!("hold {resource}"));
            }
        }
        outcome.ports.iter().for_each(|_| count("ports".into()));
        let cell = self.core.cell();
        for (placement, asked) in outcome.placements.iter().zip(&txn.placements) {
            for (granted, &machine) in placement.iter().zip(&asked.machines) {
                let Some(found) = granted.and_then(|id| cell.allocation(id)) else { continue };
                let extra = found.extra.cloned().unwrap_or_default();
                if !extra.takes_over.is_empty() {
                    count("taken over".into());
                }
                if !extra.devices.is_empty() {
                    count("devices".into());
                }
                if found.row.machine != machine {
                    count("alternate".into());
                }
            }
        }
    }

    fn play(&mut self, dice: &mut Dice) {
        self.now = self.now.plus_micros(i64::from(dice.roll(3)) * 400_000);
        let command = match dice.roll(20) {
            0 => register(dice),
            1..=3 => submit(dice),
            4..=6 => self.report(dice),
            7 => self.stop(dice),
            8 if dice.once_in(3) => self.expire_or_remove(dice),
            8 if dice.once_in(2) => self.come_or_go(dice),
            8 => Command::Tick,
            9 => self.governance(dice),
            _ => self.commit(dice),
        };
        self.step(command);
    }

    fn live(&self) -> Vec<AllocationId> {
        self.core.cell().allocations().map(|found| found.id).collect()
    }

    fn stop(&self, dice: &mut Dice) -> Command {
        let jobs: Vec<JobId> = self.core.cell().jobs().map(|job| job.id).collect();
        match (dice.pick(&jobs), dice.pick(&self.live())) {
            (Some(&job), _) if dice.once_in(4) => Command::StopJob(job),
            (Some(&job), _) if dice.once_in(3) => {
                Command::ScaleJob { job, version: None, group: 0, count: dice.roll(6) }
            }
            (_, Some(&id)) => Command::StopAllocation(id),
            _ => Command::Tick,
        }
    }

    fn expire_or_remove(&self, dice: &mut Dice) -> Command {
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
    fn come_or_go(&self, dice: &mut Dice) -> Command {
        let passing = self.core.cell().sessions().filter(|session| session.scheduler.starts_with("passing"));
        let passing: Vec<_> = passing.map(|session| session.id).collect();
        match dice.pick(&passing) {
            Some(&session) if dice.once_in(2) => Command::CloseSession(session),
            _ => Command::OpenSession { scheduler: format!("passing-{}", dice.roll(8)).into() },
        }
    }

    fn governance(&self, dice: &mut Dice) -> Command {
        let jobs: Vec<JobId> = self.core.cell().jobs().map(|job| job.id).collect();
        match dice.roll(6) {
            0 => {
                let mut quota = Quota::default();
                let (place, unit) = *dice.pick(&[(0_usize, 1000_u64), (1, 3), (2, 2)]).unwrap();
                quota.limits[place] = (!dice.once_in(3)).then(|| u64::from(dice.roll(8)) * unit);
                Command::SetQuota { namespace: "default".into(), limit: (!dice.once_in(4)).then_some(quota) }
            }
            1 => {
                let machines: Vec<_> = self.core.cell().machines().map(|machine| machine.id).collect();
                let Some(&machine) = dice.pick(&machines) else { return Command::Tick };
                let deadline = dice.once_in(2).then(|| self.now.plus_micros(900_000));
                Command::DrainMachine { machine, deadline }
            }
            _ => Command::TakeHold {
                session: SessionId::default(),
                job: dice.pick(&jobs).copied().unwrap_or_default(),
                machines: (0..1 + dice.roll(MACHINES)).collect(),
                resources: match dice.roll(3) {
                    0 => Resources::new(u64::from(dice.roll(3)) * 500, 0),
                    1 => Resources::new(0, 4 + u64::from(dice.roll(16))),
                    _ => amounts(u64::from(dice.roll(3)) * 500, 4 + u64::from(dice.roll(16))),
                },
                deadline: self.now.plus_micros(20_000_000),
            },
        }
    }

    fn report(&self, dice: &mut Dice) -> Command {
        let mut transitions = Vec::new();
        for _ in 0..1 + dice.roll(4) {
            let Some(&id) = dice.pick(&self.live()) else { continue };
            let cell = self.core.cell();
            let found = cell.allocation(id).unwrap();
            let machine = cell.machine_in(found.row.machine).unwrap();
            let ends = [AllocationState::Complete, AllocationState::Failed, AllocationState::Stopped];
            let running = dice.once_in(3) && !found.status.state.is_leaving();
            transitions.push(Transition {
                machine: machine.id,
                epoch: machine.epoch,
                allocation: id,
                state: if running { AllocationState::Running } else { *dice.pick(&ends).unwrap() },
                ready: running,
                exit_code: 0,
                restarts: 0,
                reason: "".into(),
            });
        }
        Command::ReportStatus(transitions)
    }

    fn commit(&mut self, dice: &mut Dice) -> Command {
        let cell = self.core.cell();
        let placing = cell.sessions().filter(|session| !session.scheduler.starts_with("passing"));
        let sessions: Vec<_> = placing.map(|session| (session.id, session.scheduler.clone())).collect();
        let (session, scheduler) = dice.pick(&sessions).cloned().unwrap();
        let jobs: Vec<_> = cell.jobs().filter(|job| job.shape.scheduler == scheduler).cloned().collect();
        let own = |id: &AllocationId| {
            let found = cell.allocation(*id).unwrap();
            cell.job(found.row.job()).is_some_and(|job| job.shape.scheduler == scheduler)
        };
        let owned: Vec<AllocationId> = self.live().into_iter().filter(own).collect();
        let mut stops = Vec::new();
        for _ in 0..dice.roll(2) {
            stops.extend(dice.pick(&owned).copied());
        }
        let mut placements = Vec::new();
        for _ in 0..1 + dice.roll(2) {
            if let Some(job) = dice.pick(&jobs) {
                placements.push(self.placement(job, &stops, dice));
            }
        }
        self.number += 1;
        let revision = cell.revision().0;
        let transaction = Transaction {
            id: TransactionId { session: SessionId(session.0), number: self.number },
            incarnation: 1,
            base: Revision(revision.saturating_sub(u64::from(dice.roll(3) * dice.roll(30)))),
            atomic: dice.once_in(5),
            check: if dice.once_in(6) { ConflictCheck::Sequence } else { ConflictCheck::Fit },
            placements,
            stops,
            dry_run: dice.once_in(15),
            ..Transaction::default()
        };
        Command::Commit(Box::new(transaction), self.number)
    }

    fn placement(&self, job: &plenum_model::Job, stops: &[AllocationId], dice: &mut Dice) -> Placement {
        let cell = self.core.cell();
        let group = u16::try_from(dice.roll(u32::try_from(job.shape.groups.len()).unwrap())).unwrap();
        let first = dice.roll(3);
        let tasks: Vec<u32> = (first..first + 1 + dice.roll(3)).collect();
        let machines: Vec<u32> = tasks.iter().map(|_| dice.roll(MACHINES)).collect();
        let live = self.live();
        let nothing = |victim| TakeOver { victim, amount: Resources::default(), devices: vec![], ports: vec![] };
        let leaving = live.iter().filter(|id| cell.allocation(**id).unwrap().status.state.is_leaving());
        let sources: Vec<AllocationId> = leaving.chain(stops).copied().collect();
        let extra = |dice: &mut Dice| ClaimExtra {
            take_overs: dice.pick(&sources).copied().map(nothing).into_iter().collect(),
            ..ClaimExtra::default()
        };
        let mut preemptions = Vec::new();
        for _ in 0..dice.roll(4) {
            if let Some(&victim) = dice.pick(&live) {
                let machine = cell.allocation(victim).unwrap().row.machine;
                preemptions.push(Preemption { machine, victim });
            }
        }
        Placement {
            job: job.id,
            group,
            job_version: job.version,
            min: if dice.once_in(4) { dice.roll(u32::try_from(tasks.len()).unwrap() + 1) } else { 0 },
            extras: if dice.once_in(2) { tasks.iter().map(|_| extra(dice)).collect() } else { vec![] },
            alternates: (0..dice.roll(3)).map(|_| dice.roll(MACHINES)).collect(),
            machines,
            tasks,
            preemptions,
            ..Placement::default()
        }
    }
}

fn gpu(index: u32, millis: u32) -> Device {
    Device { kind: "gpu".into(), index, millis, model: "".into() }
}

/// So much CPU and memory; where that is odd, as much of the disk.
fn amounts(cpu_millis: u64, memory_bytes: u64) -> Resources {
    let disk_bytes = if memory_bytes.is_multiple_of(2) { 0 } else { memory_bytes };
    Resources { disk_bytes, ..Resources::new(cpu_millis, memory_bytes) }
}

fn register(dice: &mut Dice) -> Command {
    let slot = dice.roll(MACHINES);
    let rack: Arc<str> = format!("r{}", dice.roll(2)).into();
    let attributes = if dice.once_in(5) { Attributes::new() } else { Attributes::from([("rack".into(), rack)]) };
    Command::RegisterMachine {
        name: format!("m{slot}").into(),
        boot_id: if dice.once_in(6) { "b".into() } else { "a".into() },
        // A few tasks fill it, of whichever resource.
        capacity: Resources {
            disk_bytes: 8 + u64::from(dice.roll(8)),
            ..Resources::new(1000 * u64::from(2 + dice.roll(4)), 8 + u64::from(dice.roll(12)))
        },
        attributes: Arc::new(attributes),
        devices: (0..dice.roll(3)).map(|index| gpu(index, 1000)).collect(),
        inventory: Vec::new(),
        seen: Revision::default(),
    }
}

fn submit(dice: &mut Dice) -> Command {
    let group = |number: u32, dice: &mut Dice| GroupShape {
        name: format!("g{number}").into(),
        count: 1 + dice.roll(5),
        resources: amounts(500 * u64::from(1 + dice.roll(4)), u64::from(dice.roll(4))),
        retry: RetryPolicy { attempts: None, delay_micros: 0 },
        lost_after_micros: Some(1_000_000),
        per_machine: if dice.once_in(4) { 1 + dice.roll(2) } else { 0 },
        spread: if dice.once_in(4) {
            vec![Spread { attribute: "rack".into(), at_most: 1 + dice.roll(2) }]
        } else {
            vec![]
        },
        devices: if dice.once_in(3) { vec![gpu(0, *dice.pick(&[300, 500, 1000]).unwrap())] } else { vec![] },
        ports: match dice.roll(5) {
            0 => vec![Port { name: "http".into(), number: 8080 }],
            1 => vec![Port { name: "any".into(), number: 0 }],
            _ => vec![],
        },
        single_instance: dice.once_in(4),
        min: if dice.once_in(6) { 1 } else { 0 },
        ..GroupShape::default()
    };
    let shape = JobShape {
        namespace: "default".into(),
        name: format!("j{}", dice.roll(8)).into(),
        scheduler: (*dice.pick(&["ml", "batch"]).unwrap()).into(),
        priority: *dice.pick(&[10, 50, 90]).unwrap(),
        kind: if dice.once_in(3) { JobKind::Forever } else { JobKind::ToCompletion },
        groups: (0..1 + dice.roll(2)).map(|number| group(number, dice)).collect(),
        ..JobShape::default()
    };
    Command::SubmitJob { shape: Arc::new(shape), body: Arc::new([1]), body_digest: [1; 32] }
}

#[test]
fn whatever_is_asked_invariants_hold_and_everybody_folds_the_same() {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..LIVES {
        let mut chaos = Chaos::new();
        for step in 0..STEPS {
            let mut dice = Dice(seed << 32 | step);
            chaos.play(&mut dice);
            if step % 50 == 49 {
                assert_eq!(recovered(chaos.core.cell()).first_difference(chaos.core.cell()), None, "seed {seed}");
            }
        }
        chaos.seen.into_iter().for_each(|(what, count)| *seen.entry(what).or_default() += count);
    }
    let expected = [
        "taken over",
        "devices",
        "alternate",
        "ports",
        "Evicting",
        "Conflict DeviceTaken",
        "Misfit DeviceTaken",
        "Conflict PortTaken",
        "Misfit PortTaken",
        "Conflict SpreadLimit",
        "Misfit SpreadLimit",
        "Conflict PerMachineLimit",
        "Misfit PerMachineLimit",
        "Misfit Predecessor",
        "Conflict Predecessor",
        "Quota QuotaExceeded",
        "QuotaExceeded cpu_millis",
        "QuotaExceeded memory_bytes",
        "QuotaExceeded disk_bytes",
        "Mate MinimumMissed",
        "Conflict NoRoom",
        "Misfit NoRoom",
        "NoRoom memory_bytes",
        "hold cpu_millis",
        "hold memory_bytes",
        "reshaped",
        "renamed",
        "LimitReached",
    ];
    let missing: Vec<_> = expected.iter().filter(|what| !seen.contains_key(**what)).collect();
    assert!(missing.is_empty(), "never seen: {missing:?} of {seen:?}");
}
