//! A course of commands that mean something in the present picture, often enough; the same ones for the same seed and the same answers.

use plenum_core::Decided;
use plenum_model::{Cell, Decision};
use plenum_proto::v1;
use prost::Message;
use v1::command::Ask;

use crate::dice::Dice;

const SCHEDULERS: [&str; 3] = ["batch", "service", "gang"];
const MACHINES: u64 = 6;

struct Session {
    id: u64,
    next: u64,
    last: Option<v1::Transaction>,
}

/// What comes next, and what was learnt from what came before.
pub(super) struct Course {
    dice: Dice,
    step: u32,
    time: i64,
    incarnation: u64,
    term: u64,
    jobs: u64,
    sessions: Vec<Session>,
}

impl Course {
    pub(super) fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        Self { dice, step: 0, time: 1_700_000_000_000_000, incarnation: 1, term: 0, jobs: 0, sessions: Vec::new() }
    }

    /// The next command, and its time.
    pub(super) fn next(&mut self, cell: &Cell) -> (v1::Command, i64) {
        let pause = [1_000, 1_000, 100_000, 1_000_000, 20_000_000][usize::try_from(self.dice.roll(5)).unwrap()];
        self.time += pause;
        let step = self.step;
        self.step += 1;
        let ask = match step {
            0 => self.open_server(),
            1..=6 => self.register(u64::from(step) - 1, 0),
            7..=9 => self.open_session(SCHEDULERS[usize::try_from(step - 7).unwrap()]),
            // Near the end: a restore, and everybody anew.
            800 => {
                self.incarnation += 1;
                self.sessions.clear();
                self.open_server()
            }
            801..=803 => self.open_session(SCHEDULERS[usize::try_from(step - 801).unwrap()]),
            // What would keep too much out if it were left to chance.
            _ if step.is_multiple_of(25) => Ask::PauseScheduler(v1::PauseScheduler {
                scheduler: SCHEDULERS[usize::try_from(step / 25 % 3).unwrap()].to_owned(),
                paused: false,
            }),
            _ if step % 150 == 30 || step % 150 == 75 => {
                let limit = v1::Quota { cpu_millis: Some(2000), ..Default::default() };
                let limit = (step % 150 == 30).then_some(limit);
                Ask::SetQuota(v1::SetQuota { namespace: "default".to_owned(), limit })
            }
            _ => self.any(cell),
        };
        let principal = if self.dice.once_in(3) { "local" } else { "scheduler/batch" }.to_owned();
        (v1::Command { principal, namespace: "default".to_owned(), ask: Some(ask) }, self.time)
    }

    /// Takes in what became of a command.
    pub(super) fn learn(&mut self, wire: &v1::Command, decided: &Decided) {
        let (Decided::Changed { decision, .. } | Decided::Unchanged(decision)) = decided else { return };
        match (&wire.ask, decision) {
            (Some(Ask::OpenSession(_)), Decision::Accepted { id, .. }) => {
                self.sessions.push(Session { id: *id, next: 1, last: None });
            }
            (Some(Ask::CloseSession(closed)), Decision::Accepted { .. }) => {
                self.sessions.retain(|session| session.id != closed.session);
            }
            _ => {}
        }
    }

    fn any(&mut self, cell: &Cell) -> Ask {
        match self.dice.roll(60) {
            0 if self.dice.once_in(4) => self.open_server(),
            0 | 1 if self.sessions.len() < 6 => {
                let scheduler = self.dice.pick(&SCHEDULERS).unwrap();
                self.open_session(scheduler)
            }
            0..=2 if self.dice.once_in(3) => Ask::CloseSession(v1::CloseSession { session: self.session() }),
            3..=5 => {
                let number = self.dice.roll(MACHINES);
                // Now and then one that was long under way.
                let seen = if self.dice.once_in(8) { 1 } else { cell.revision().0 };
                self.register(number, seen)
            }
            6..=12 => self.submit(),
            13 => Ask::StopJob(v1::StopJob { job: self.job(cell), ..Default::default() }),
            14 | 15 => {
                let count = self.dice.small(8);
                Ask::ScaleJob(v1::ScaleJob {
                    job: self.job(cell),
                    group: self.dice.small(2),
                    count,
                    ..Default::default()
                })
            }
            16 => Ask::StopAllocation(v1::StopAllocation { allocation: self.allocation(cell) }),
            17 if self.dice.once_in(2) => {
                let (machine, epoch) = self.machine(cell);
                Ask::ExpireMachine(v1::ExpireMachine { machine, epoch })
            }
            18 => {
                Ask::CordonMachine(v1::CordonMachine { machine: self.machine(cell).0, cordoned: self.dice.once_in(5) })
            }
            19 if self.dice.once_in(6) => {
                Ask::RemoveMachine(v1::RemoveMachine { machine: self.machine(cell).0, unless_alive: false })
            }
            19 => self.drain(cell),
            20 | 21 => Ask::Tick(v1::Tick {}),
            22 => self.govern(cell),
            23..=33 => self.report(cell),
            _ => self.commit(cell),
        }
    }

    fn open_server(&mut self) -> Ask {
        self.term += 1;
        Ask::OpenServer(v1::OpenServer {
            cell_id: vec![7; 16].into(),
            incarnation: self.incarnation,
            term: self.term,
            custom_resources: vec!["licences".to_owned()],
        })
    }

    fn open_session(&mut self, scheduler: &str) -> Ask {
        Ask::OpenSession(v1::OpenSession { scheduler: scheduler.to_owned() })
    }

    fn register(&mut self, number: u64, seen_revision: u64) -> Ask {
        let boot = if seen_revision > 0 && self.dice.once_in(3) { self.dice.roll(5) } else { 0 };
        let rack = format!("r{}", number % 2);
        let mut attributes = std::collections::BTreeMap::from([("rack".to_owned(), rack)]);
        if number == 0 {
            attributes.insert("disk".to_owned(), "ssd".to_owned());
        }
        let device = |index| v1::Device { kind: "gpu".to_owned(), index, millis: 1000, model: String::new() };
        let capacity = v1::Resources {
            cpu_millis: 2000 + 1000 * i64::try_from(number % 3).unwrap(),
            memory_bytes: 8 << 20,
            disk_bytes: 1 << 30,
            custom: vec![2],
        };
        Ask::RegisterMachine(v1::RegisterMachine {
            name: format!("m{number}"),
            boot_id: format!("boot-{boot}"),
            capacity: Some(capacity),
            attributes,
            devices: if number < 2 { vec![device(0), device(1)] } else { Vec::new() },
            seen_revision,
            ..Default::default()
        })
    }

    fn submit(&mut self) -> Ask {
        self.jobs += u64::from(!self.dice.once_in(8));
        let name = format!("job-{}", self.jobs);
        let kind = if self.dice.once_in(6) { v1::JobKind::Forever } else { v1::JobKind::ToCompletion };
        let groups = 1 + self.dice.roll(2);
        let groups: Vec<v1::GroupShape> = (0..groups).map(|number| self.group(number, kind)).collect();
        let body = groups.iter().map(|group| v1::GroupBody {
            name: group.name.clone(),
            driver: "exec".to_owned(),
            command: vec!["/bin/true".to_owned()],
            kill_timeout_micros: 1_000_000,
            ..Default::default()
        });
        let body = v1::JobBody { groups: body.collect() };
        let shape = v1::JobShape {
            namespace: "default".to_owned(),
            name,
            scheduler: self.dice.pick(&SCHEDULERS).unwrap().to_owned(),
            priority: self.dice.pick(&[10, 50, 50, 90]).unwrap(),
            kind: kind.into(),
            same_machine: groups.iter().all(|group| group.spread.is_empty()) && self.dice.once_in(8),
            groups,
            ..Default::default()
        };
        Ask::SubmitJob(v1::SubmitJob { shape: Some(shape), body: body.encode_to_vec().into(), ..Default::default() })
    }

    fn group(&mut self, number: u64, kind: v1::JobKind) -> v1::GroupShape {
        let mut group = v1::GroupShape {
            name: format!("g{number}"),
            count: 1 + self.dice.small(6),
            resources: Some(v1::Resources {
                cpu_millis: self.dice.pick(&[250, 500, 1000]).unwrap(),
                memory_bytes: 1 << 20,
                custom: if self.dice.once_in(6) { vec![1] } else { Vec::new() },
                ..Default::default()
            }),
            lost_after_micros: self.dice.pick(&[30_000_000, 60_000_000, -1]).unwrap(),
            ..Default::default()
        };
        if number > 0 && kind == v1::JobKind::ToCompletion && self.dice.once_in(2) {
            group.after = vec!["g0".to_owned()];
        }
        if self.dice.once_in(5) {
            group.constraints = vec![v1::Constraint {
                attribute: "disk".to_owned(),
                operator: v1::Operator::Equal.into(),
                values: vec!["ssd".to_owned()],
            }];
        }
        if self.dice.once_in(2) {
            group.retry = Some(v1::RetryPolicy { attempts: self.dice.small(3), delay_micros: 1_000_000 });
        }
        match self.dice.roll(8) {
            0 => group.spread = vec![v1::Spread { attribute: "rack".to_owned(), at_most: 1 + self.dice.small(2) }],
            1 => group.per_machine = 1,
            2 => group.devices = vec![v1::Device { kind: "gpu".to_owned(), millis: 500, ..Default::default() }],
            3 => {
                group.ports =
                    vec![v1::Port { name: "http".to_owned(), number: if self.dice.once_in(2) { 8080 } else { 0 } }]
            }
            4 => group.single_instance = true,
            _ => {}
        }
        group
    }

    fn session(&mut self) -> u64 {
        let ids: Vec<u64> = self.sessions.iter().map(|session| session.id).collect();
        if self.dice.once_in(30) { 3 } else { self.dice.pick(&ids).unwrap_or(3) }
    }

    /// A job that the session's scheduler may place, nearly always.
    fn own_job(&mut self, cell: &Cell, session: u64) -> u64 {
        let scheduler = cell.session(plenum_model::SessionId(session)).map(|session| session.scheduler.clone());
        let own = cell.jobs().filter(|job| Some(&job.shape.scheduler) == scheduler.as_ref() && !job.state.is_final());
        let own: Vec<u64> = own.map(|job| job.id.to_bits()).collect();
        if own.is_empty() || self.dice.once_in(20) { self.job(cell) } else { self.dice.pick(&own).unwrap() }
    }

    fn job(&mut self, cell: &Cell) -> u64 {
        let known: Vec<u64> = cell.jobs().map(|job| job.id.to_bits()).collect();
        let none = 1 << 32 | self.dice.roll(5);
        if self.dice.once_in(25) { none } else { self.dice.pick(&known).unwrap_or(none) }
    }

    fn allocation(&mut self, cell: &Cell) -> u64 {
        let known: Vec<u64> = cell.allocations().map(|allocation| allocation.id.to_bits()).collect();
        let none = 1 << 32 | self.dice.roll(40);
        if self.dice.once_in(25) { none } else { self.dice.pick(&known).unwrap_or(none) }
    }

    fn machine(&mut self, cell: &Cell) -> (u64, u32) {
        let known: Vec<(u64, u32)> = cell.machines().map(|machine| (machine.id.to_bits(), machine.epoch)).collect();
        let none = (1 << 32 | self.dice.roll(8), 1);
        if self.dice.once_in(25) { none } else { self.dice.pick(&known).unwrap_or(none) }
    }

    fn drain(&mut self, cell: &Cell) -> Ask {
        let deadline_micros = if self.dice.once_in(2) { 0 } else { self.time + 5_000_000 };
        Ask::DrainMachine(v1::DrainMachine { machine: self.machine(cell).0, deadline_micros })
    }

    /// Quotas, holds, partitions, pauses and launches.
    fn govern(&mut self, cell: &Cell) -> Ask {
        match self.dice.roll(6) {
            0 | 1 => {
                let limit =
                    v1::Quota { cpu_millis: Some(self.dice.pick(&[2000, 8000]).unwrap()), ..Default::default() };
                let limit = (!self.dice.once_in(2)).then_some(limit);
                Ask::SetQuota(v1::SetQuota { namespace: "default".to_owned(), limit })
            }
            2 => {
                let rule = v1::Constraint {
                    attribute: "rack".to_owned(),
                    operator: v1::Operator::Equal.into(),
                    values: vec!["r1".to_owned()],
                };
                let machines = if self.dice.once_in(2) { vec![rule] } else { Vec::new() };
                let schedulers = if machines.is_empty() { Vec::new() } else { vec!["service".to_owned()] };
                Ask::SetPartition(v1::SetPartition { name: "east".to_owned(), machines, schedulers })
            }
            3 => Ask::PauseScheduler(v1::PauseScheduler {
                scheduler: self.dice.pick(&SCHEDULERS).unwrap().to_owned(),
                paused: self.dice.once_in(8),
            }),
            4 => Ask::Launch(v1::Launch { parent: self.job(cell), instant_micros: self.time }),
            _ => Ask::TakeHold(v1::TakeHold {
                job: self.job(cell),
                machines: vec![self.dice.small(6)],
                resources: Some(v1::Resources { cpu_millis: 500, ..Default::default() }),
                deadline_micros: self.time + 30_000_000,
                session: 0,
            }),
        }
    }

    fn report(&mut self, cell: &Cell) -> Ask {
        let mut report = v1::ReportStatus::default();
        for _ in 0..1 + self.dice.roll(6) {
            let id = self.allocation(cell);
            let known = plenum_model::AllocationId::from_bits(id).and_then(|id| cell.allocation_in(id.slot));
            let machine =
                known.and_then(|found| cell.machine_in(found.row.machine)).map(|machine| machine.id.to_bits());
            report.machines.push(machine.unwrap_or(1 << 32));
            report.epochs.push(known.map_or(1, |found| found.row.epoch));
            report.allocations.push(id);
            let state = self.dice.pick(&[2, 3, 3, 6, 6, 7, 8, 8]).unwrap();
            report.states.push(state);
            report.ready.push(state == 3);
            report.exit_codes.push(i32::from(state == 7));
            report.restarts.push(0);
        }
        Ask::ReportStatus(report)
    }

    fn commit(&mut self, cell: &Cell) -> Ask {
        let id = self.session();
        let place = self.sessions.iter().position(|session| session.id == id);
        if let Some(last) = place.and_then(|place| self.sessions[place].last.clone()) {
            if self.dice.once_in(25) {
                return Ask::Commit(last);
            }
            if self.dice.once_in(40) {
                return Ask::Commit(v1::Transaction { atomic: !last.atomic, ..last });
            }
        }
        let number = place.map_or(1, |place| self.sessions[place].next);
        let newest = cell.revision().0;
        let behind = self.dice.pick(&[0, 0, 0, 3, 10, 40]).unwrap();
        let transaction = v1::Transaction {
            session: id,
            number,
            incarnation: if self.dice.once_in(60) { 9 } else { self.incarnation },
            base_revision: if self.dice.once_in(80) { newest + 5 } else { newest.saturating_sub(behind) },
            atomic: self.dice.once_in(6),
            check: if self.dice.once_in(5) { v1::ConflictCheck::Sequence } else { v1::ConflictCheck::Fit }.into(),
            placements: (0..1 + self.dice.roll(3)).map(|_| self.placement(cell, id)).collect(),
            stops: if self.dice.once_in(6) { vec![self.allocation(cell)] } else { Vec::new() },
            guards: if self.dice.once_in(15) { vec![self.guard(cell)] } else { Vec::new() },
            dry_run: self.dice.once_in(25),
            decision: None,
        };
        if let Some(place) = place.filter(|_| !transaction.dry_run) {
            self.sessions[place].next += 1;
            self.sessions[place].last = Some(transaction.clone());
        }
        Ask::Commit(transaction)
    }

    fn guard(&mut self, cell: &Cell) -> v1::Guard {
        let guard = v1::JobVersionGuard { job: self.job(cell), version: 1 + self.dice.small(2) };
        v1::Guard { fact: Some(v1::guard::Fact::JobVersion(guard)) }
    }

    fn placement(&mut self, cell: &Cell, session: u64) -> v1::Placement {
        let id = self.own_job(cell, session);
        let job = plenum_model::JobId::from_bits(id).and_then(|id| cell.job(id));
        let group = self.dice.small(job.map_or(1, |job| u32::try_from(job.shape.groups.len()).unwrap()));
        let count = job.and_then(|job| job.shape.groups.get(group as usize)).map_or(2, |group| group.count);
        // Mostly what may be placed, where it may be, so that much is granted.
        let mut tasks = self.waiting(cell, id, group, count);
        let keep = 1 + self.dice.roll(tasks.len() as u64);
        tasks.truncate(usize::try_from(keep).unwrap());
        let ready = cell.machines().filter(|machine| machine.state == plenum_model::MachineState::Ready);
        let ready: Vec<u32> = ready.map(|machine| machine.id.slot).collect();
        let anywhere = ready.is_empty() || self.dice.once_in(15);
        let mut machine = || if anywhere { self.dice.small(7) } else { self.dice.pick(&ready).unwrap() };
        let machines: Vec<u32> = tasks.iter().map(|_| machine()).collect();
        let mut placement = v1::Placement {
            job: id,
            group,
            job_version: job.map_or(1, |job| job.version) + u32::from(self.dice.once_in(30)),
            min: if self.dice.once_in(5) { u32::try_from(tasks.len()).unwrap() } else { 0 },
            machines,
            tasks,
            ..Default::default()
        };
        if self.dice.once_in(40) {
            placement.resources = Some(v1::Resources { cpu_millis: 123, ..Default::default() });
        }
        if self.dice.once_in(20) {
            placement.guards = vec![self.guard(cell)];
        }
        if self.dice.once_in(4) {
            placement.alternates = (0..3).map(|_| self.dice.small(6)).collect();
            placement.alternates.sort_unstable();
            placement.alternates.dedup();
        }
        if self.dice.once_in(3) {
            placement.preemptions = self.victims(cell, &placement);
        }
        if let Some(shape) = job.and_then(|job| job.shape.groups.get(group as usize)) {
            placement.extras = self.extras(cell, shape, &placement.machines);
        }
        placement
    }

    /// Tasks of a group that wait; now and then others.
    fn waiting(&mut self, cell: &Cell, job: u64, group: u32, count: u32) -> Vec<u32> {
        let job = plenum_model::JobId::from_bits(job).and_then(|id| cell.job(id));
        let row = job.and_then(|job| cell.group(job, u16::try_from(group).unwrap()).copied());
        let is_waiting = |task: &u32| {
            let task = row.as_ref().and_then(|row| cell.task(row, *task));
            task.is_some_and(|task| task.state == plenum_model::TaskState::Waiting)
        };
        let waiting: Vec<u32> = (0..count).filter(is_waiting).collect();
        if waiting.is_empty() || self.dice.once_in(12) { (0..count.max(1)).collect() } else { waiting }
    }

    /// What claims of a group with devices or ports bring; and room of what leaves the machine, where something does.
    fn extras(&mut self, cell: &Cell, shape: &plenum_model::GroupShape, machines: &[u32]) -> Vec<v1::ClaimExtras> {
        let leaving: Vec<(u32, u64)> = cell
            .allocations()
            .filter(|found| found.status.state.is_leaving())
            .map(|found| (found.row.machine, found.id.to_bits()))
            .collect();
        let takes_over = !leaving.is_empty() && self.dice.once_in(2);
        if shape.devices.is_empty() && shape.ports.is_empty() && !takes_over {
            return Vec::new();
        }
        let mut extras = Vec::new();
        for machine in machines {
            let devices = shape.devices.iter().map(|device| v1::Device {
                kind: device.kind.to_string(),
                index: self.dice.small(2),
                millis: i32::try_from(device.millis).unwrap(),
                model: String::new(),
            });
            let devices = devices.collect();
            let ports =
                shape.ports.iter().map(|port| v1::Port { name: port.name.to_string(), number: port.number.into() });
            let victims = leaving.iter().filter(|(at, _)| at == machine && takes_over);
            let take_overs = victims.map(|(_, victim)| v1::TakeOver { victim: *victim, ..Default::default() });
            extras.push(v1::ClaimExtras { devices, ports: ports.collect(), take_overs: take_overs.collect() });
        }
        extras
    }

    /// Victims on the machines that are claimed, not of the job itself.
    fn victims(&mut self, cell: &Cell, placement: &v1::Placement) -> Vec<v1::Preemption> {
        let candidates = cell.allocations().filter(|found| placement.machines.contains(&found.row.machine));
        let candidates = candidates.filter(|found| found.row.job().to_bits() != placement.job);
        let victim = |found: plenum_model::AllocationRef<'_>| v1::Preemption {
            machine: found.row.machine,
            victim: found.id.to_bits(),
        };
        let mut victims: Vec<v1::Preemption> = candidates.map(victim).collect();
        let keep = self.dice.roll(4);
        victims.truncate(usize::try_from(keep).unwrap());
        victims
    }
}
