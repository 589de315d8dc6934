//! Commands of every kind, with sizes around what the log has room for: each batch fits a frame, what did not fit has left no trace, and
//! the log comes out the same when it is decided again.

mod governing;

use std::collections::BTreeMap;

use bytes::Bytes;
use plenum_core::Core;
use plenum_model::{
    AllocationId, AllocationState, Cell, CellIdentity, Command, Decision, FoundMachine, Inventory, JobId, LogTime,
    MachineId, Port, Request, Resources, SessionId, TaskState, TaskTraces, Transition,
};
use plenum_proto::{bounds, pages, v1};
use prost::Message;

use crate::commit::{Answer, Asked, Committer, Input, Output};
use crate::options::Settings;
use crate::publish::LoggedBatch;
use crate::verify::audit::Audit;

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        // Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % most.max(1) as u64).unwrap()
    }

    fn few(&mut self, most: usize) -> u32 {
        u32::try_from(self.size(most)).unwrap()
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len())].clone()) }
    }

    /// Small more often than large.
    fn size(&mut self, most: usize) -> usize {
        let most = self.below(most + 1);
        self.below(most + 1)
    }
}

struct Play {
    dice: Dice,
    committer: Committer<&'static str>,
    audit: Audit,
    now: LogTime,
    payload_max: usize,
    number: u64,
    names: u32,
    /// Bytes of the largest batch.
    largest: usize,
    /// By what was asked: how often it was done, and how often it was too large.
    told: BTreeMap<&'static str, (u32, u32)>,
}

fn long(text: &str, dice: &mut Dice) -> String {
    format!("{text}{}", "x".repeat(dice.below(50)))
}

impl Play {
    fn new(seed: u64) -> Self {
        let settings = Settings { segment_bytes: 64 << 10, ..Settings::default() };
        let mut play = Self {
            dice: Dice(seed),
            committer: Committer::new(Core::new(settings.core_options()), settings.commit_options()),
            audit: Audit::default(),
            now: LogTime::from_micros(1),
            payload_max: usize::try_from(settings.frame_bytes_max()).unwrap() - 512,
            number: 0,
            names: 0,
            largest: 0,
            told: BTreeMap::new(),
        };
        // A restored cell: what its machines run and it does not know is of the life before.
        let identity = CellIdentity { cell_id: [7; 16], incarnation: 2, term: 1, custom_resources: Vec::new() };
        play.ask("open", Command::OpenServer(identity));
        play.ask("session", Command::OpenSession { scheduler: "batch".into() });
        play
    }

    fn ask(&mut self, what: &'static str, command: Command) {
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        self.hand_over(what, Asked::new(request));
    }

    fn hand_over(&mut self, what: &'static str, asked: Asked) {
        if !self.committer.has_room() {
            self.write();
        }
        self.committer.handle(self.now, Input::Request { ticket: Some(what), asked });
        if self.dice.below(4) == 0 {
            self.write();
        }
    }

    /// Lets what is due happen.
    fn tick(&mut self) {
        for _ in 0..1000 {
            self.write();
            if self.committer.next_due().is_none_or(|due| due > self.now) {
                return;
            }
            self.committer.handle(self.now, Input::Tick);
        }
        panic!("something stays due");
    }

    fn write(&mut self) {
        while let Some(output) = self.committer.poll() {
            match output {
                Output::Write(batch) => {
                    assert!(batch.bytes.len() <= self.payload_max, "{} bytes: {:?}", batch.bytes.len(), self.told);
                    self.largest = self.largest.max(batch.bytes.len());
                    let logged = LoggedBatch::parse(batch.bytes).unwrap();
                    self.audit.batch(&logged, "here", &mut |_| {});
                    self.committer.handle(self.now, Input::Durable);
                }
                Output::Answer { ticket, answer, .. } => {
                    let told = self.told.entry(ticket).or_default();
                    match answer {
                        Answer::Changed(_) => told.0 += 1,
                        Answer::Unchanged(Decision::Rejected(rejection)) => {
                            told.1 += u32::from(rejection.message.contains("bytes in the log"));
                        }
                        Answer::Unchanged(_) | Answer::Repeated(_) => {}
                    }
                }
                Output::Publish(_) | Output::Snapshot(_) => {}
            }
        }
    }

    fn jobs(&self) -> Vec<JobId> {
        let jobs = self.committer.undurable_cell().jobs();
        jobs.filter(|job| !job.state.is_final()).map(|job| job.id).collect()
    }

    fn machines(&self) -> Vec<MachineId> {
        self.committer.undurable_cell().machines().map(|machine| machine.id).collect()
    }

    fn register(&mut self) {
        let machines = self.machines();
        let again = self.dice.pick(&machines).filter(|_| self.dice.below(3) == 0);
        let known = again.and_then(|id| self.committer.undurable_cell().machine(id).cloned());
        self.names += 1;
        let name = known.as_ref().map_or_else(|| format!("m{}", self.names).into(), |machine| machine.name.clone());
        let dice = &mut self.dice;
        let attributes = (0..dice.size(150)).map(|n| (format!("a{n}").into(), "v".repeat(dice.below(255)).into()));
        let attributes = attributes.collect();
        let boot_id = format!("boot-{}", dice.below(3));
        let inventory = (0..dice.few(40)).map(|slot| Inventory {
            allocation: AllocationId { slot: 1_000_000 + slot, generation: 1 },
            state: AllocationState::Running,
            exit_code: 0,
            reason: "".into(),
            restarts: 0,
            task: Some(std::sync::Arc::new(TaskTraces {
                namespace: "default".into(),
                job: long("j", dice).into(),
                group: long("g", dice).into(),
                task: 7,
                resources: Resources::new(1, 1),
                devices: Vec::new(),
                ports: (0..dice.size(64))
                    .map(|n| Port { name: long(&format!("p{n}"), dice).into(), number: 5 })
                    .collect(),
            })),
        });
        let inventory = inventory.collect();
        self.ask(
            "register",
            Command::RegisterMachine(FoundMachine {
                name,
                boot_id: boot_id.into(),
                capacity: Resources::new(1_000_000, 1 << 40),
                attributes: std::sync::Arc::new(attributes),
                inventory,
                seen: self.committer.undurable_cell().revision(),
                ..FoundMachine::default()
            }),
        );
    }

    fn submit(&mut self) {
        let dice = &mut self.dice;
        let most = if dice.below(3) == 0 { 64 } else { 0 };
        let ports = (0..dice.size(most)).map(|n| v1::Port { name: long(&format!("p{n}"), dice), number: 0 });
        let ports = ports.collect();
        let count = dice.size(1500) + 1;
        let kind = if dice.below(8) == 0 { v1::JobKind::Recurring } else { v1::JobKind::ToCompletion };
        let body_bytes = dice.size(30_000) + 1;
        self.submit_sized(count, ports, kind, body_bytes);
    }

    fn submit_sized(&mut self, count: usize, ports: Vec<v1::Port>, kind: v1::JobKind, body_bytes: usize) {
        self.names += 1;
        let dice = &mut self.dice;
        let group = v1::GroupShape {
            name: long("g", dice),
            count: u32::try_from(count).unwrap(),
            resources: Some(v1::Resources { cpu_millis: 1, memory_bytes: 1 << 20, ..Default::default() }),
            ports,
            lost_after_micros: 1_000_000,
            retry: Some(v1::RetryPolicy { attempts: dice.few(1), delay_micros: 0 }),
            ..Default::default()
        };
        let body = v1::GroupBody {
            name: group.name.clone(),
            driver: "exec".to_owned(),
            command: vec!["y".repeat(body_bytes)],
            ..Default::default()
        };
        let shape = v1::JobShape {
            namespace: "default".to_owned(),
            name: format!("j{}", self.names),
            scheduler: "batch".to_owned(),
            priority: dice.few(99),
            kind: kind.into(),
            same_machine: dice.below(3) == 0,
            groups: vec![group],
            ..Default::default()
        };
        let body = v1::JobBody { groups: vec![body] };
        let spec = v1::JobSpec { shape: Some(shape), body: Some(body) };
        self.hand_over("submit", Asked::by_server(plenum_proto::jobs::submit(spec).unwrap()));
    }

    fn submit_again(&mut self, count: u32) {
        let jobs = self.jobs();
        let Some(job) = self.dice.pick(&jobs) else { return };
        let job = self.committer.undurable_cell().job(job).unwrap();
        let mut shape = (*job.shape).clone();
        if shape.parent.is_some() {
            return;
        }
        let (body, body_digest) = (job.body.clone().unwrap(), job.body_digest);
        shape.groups[0].count = count;
        self.ask(
            "submit again",
            Command::SubmitJob { shape: std::sync::Arc::new(shape), body, body_digest, expected_version: None },
        );
    }

    fn commit(&mut self) {
        let (jobs, machines) = (self.jobs(), self.machines());
        let (Some(job), Some(home)) = (self.dice.pick(&jobs), self.dice.pick(&machines)) else { return };
        let cell = self.committer.undurable_cell();
        let job = cell.job(job).unwrap();
        let group = *cell.group(job, 0).unwrap();
        let waiting =
            (0..group.count).filter(|&task| cell.task(&group, task).is_some_and(|row| row.state == TaskState::Waiting));
        // On a machine where most ports are taken, each is looked for very long.
        let most = if job.shape.groups[0].ports.is_empty() { 1200 } else { 40 };
        let tasks: Vec<u32> = waiting.take(self.dice.below(most)).collect();
        let together = job.shape.same_machine || self.dice.below(3) == 0;
        let shared = job.home.or_else(|| together.then_some(home.slot));
        let machines = tasks.iter().map(|_| shared.unwrap_or_else(|| self.dice.pick(&machines).unwrap().slot));
        let placement = v1::Placement {
            job: job.id.to_bits(),
            job_version: job.version,
            machines: machines.collect(),
            tasks,
            ..Default::default()
        };
        self.number += 1;
        let transaction = v1::Transaction {
            session: 2,
            number: self.number,
            incarnation: cell.identity().incarnation,
            base_revision: cell.revision().0,
            check: v1::ConflictCheck::Fit.into(),
            placements: vec![placement],
            ..Default::default()
        };
        let bytes = Bytes::from(transaction.encode_to_vec());
        self.hand_over("commit", Asked::commit(&"local".into(), &"default".into(), &bytes).unwrap());
    }

    fn report(&mut self) {
        let cell = self.committer.undurable_cell();
        let states = [AllocationState::Running, AllocationState::Complete, AllocationState::Failed];
        let (state, most) = (self.dice.pick(&states).unwrap(), self.dice.size(600));
        let reason: std::sync::Arc<str> = "r".repeat(self.dice.below(256)).into();
        let transitions = cell.allocations().take(most).filter_map(|found| {
            let machine = cell.machine_in(found.row.machine)?;
            let (machine, epoch, reason) = (machine.id, machine.epoch, reason.clone());
            let allocation = found.id;
            Some(Transition { machine, epoch, allocation, state, ready: true, exit_code: -1, restarts: 3, reason })
        });
        let transitions: Vec<_> = transitions.collect();
        self.ask("report", Command::ReportStatus(transitions));
    }

    fn hold(&mut self) {
        let (jobs, machines) = (self.jobs(), self.machines());
        let Some(job) = self.dice.pick(&jobs) else { return };
        let most = self.dice.below(machines.len() + 1);
        let machines = machines.iter().map(|machine| machine.slot).take(most).collect();
        let amounts = [1, 1, 1, 900_000];
        let resources = Resources::new(self.dice.pick(&amounts).unwrap(), 1);
        let deadline = self.now.plus_micros(60_000_000);
        self.ask("hold", Command::TakeHold { session: SessionId::default(), job, machines, resources, deadline });
    }

    /// A machine with a thousand tasks of one job: more than one request may stop.
    fn crowd(&mut self) {
        while self.machines().is_empty() {
            self.register();
        }
        self.submit_sized(1000, Vec::new(), v1::JobKind::ToCompletion, 10);
        let job = self.jobs()[0];
        while self.committer.undurable_cell().live() < 1000 {
            self.commit();
        }
        self.ask("scale", Command::ScaleJob { job, version: None, group: 0, count: 0 });
        self.submit_again(1);
        let machine = self.machines()[0];
        self.ask("remove", Command::RemoveMachine { machine, unless_alive: false });
        self.write();
        let told = ["scale", "submit again", "remove"].map(|what| self.told[what]);
        assert_eq!(told, [(0, 1); 3]);
    }

    fn step(&mut self) {
        let (jobs, machines) = (self.jobs(), self.machines());
        let (job, machine) = (self.dice.pick(&jobs), self.dice.pick(&machines));
        match self.dice.below(46) {
            0..4 => self.register(),
            4..10 => self.submit(),
            10..13 => {
                let count = self.dice.few(1500) + 1;
                self.submit_again(count);
            }
            13..22 => self.commit(),
            22..26 => self.report(),
            26..30 => self.hold(),
            30 | 31 => {
                let Some(job) = job else { return };
                let count = self.dice.few(1500);
                self.ask("scale", Command::ScaleJob { job, version: None, group: 0, count });
            }
            32 => {
                let Some(machine) = machine.filter(|_| machines.len() > 5) else { return };
                self.ask("remove", Command::RemoveMachine { machine, unless_alive: false });
            }
            33 => {
                let Some(machine) = machine else { return };
                let deadline = Some(self.now.plus_micros(5)).filter(|_| self.dice.below(3) > 0);
                self.ask("drain", Command::DrainMachine { machine, deadline });
            }
            34 => {
                let Some(machine) = machine else { return };
                let epoch = self.committer.undurable_cell().machine(machine).unwrap().epoch;
                self.ask("expire", Command::ExpireMachine { machine, epoch });
            }
            35 => {
                let Some(job) = job else { return };
                let instant_micros = self.now.micros;
                self.ask("launch", Command::Launch { parent: job, instant_micros });
            }
            36 => {
                let Some(job) = job.filter(|_| jobs.len() > 30) else { return };
                self.ask("stop", Command::StopJob { job, version: None });
            }
            37..42 => self.govern(job, machine),
            42 => self.start_again(),
            _ => {
                self.now = self.now.plus_micros([10, 2_000_000, 60_000_000][self.dice.below(3)]);
                self.tick();
            }
        }
    }
}

/// A checkpoint of it has pages that everybody takes, and is the same cell.
fn assert_is_read_back(cell: &Cell) {
    let pages: Vec<Bytes> = pages::every(cell).map(|(table, number)| pages::encode_page(cell, table, number)).collect();
    assert!(pages.iter().all(|page| page.len() <= bounds::PAGE_BYTES_MAX));
    let restored = pages::restore(pages).unwrap();
    assert_eq!(cell.first_difference(&restored), None);
}

#[test]
fn whatever_is_asked_each_batch_fits_a_frame_and_what_did_not_fit_has_left_no_trace() {
    let mut told: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    let mut largest = 0;
    for seed in 0..3 {
        let mut play = Play::new(seed);
        play.crowd();
        for _ in 0..400 {
            play.step();
        }
        play.tick();
        let violations = play.audit.violations();
        assert!(violations.is_empty(), "seed {seed}: {}", violations[0]);
        assert_is_read_back(play.committer.undurable_cell());
        largest = largest.max(play.largest);
        for (what, (changed, refused)) in play.told {
            let told = told.entry(what).or_default();
            *told = (told.0 + changed, told.1 + refused);
        }
    }
    println!("{told:?}, the largest batch {largest}");
    for what in ["register", "submit", "submit again", "commit", "report", "scale", "remove"] {
        assert!(told[what].0 > 0 && told[what].1 > 0, "{what}: {told:?}");
    }
    assert!(told["partition"].1 > 0, "{told:?}");
    let others = [
        "hold",
        "drain",
        "expire",
        "launch",
        "stop",
        "quota",
        "partition",
        "adopt",
        "pause",
        "rights",
        "cordon",
        "fitness",
    ];
    for what in others.into_iter().chain(["stop one", "open session", "close", "start"]) {
        assert!(told[what].0 > 0, "{what}: {told:?}");
    }
    assert!(largest > 40_000, "{largest}");
}
