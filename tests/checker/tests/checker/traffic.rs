//! Clients that make conflicts on purpose, from a seed: they decide on pictures of different age, claim what others claim, miss
//! minimums, repeat their numbers, and stop what they got.

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::Resource;
use plenum_proto::v1;
use plenum_testkit::JobBuilder;

use crate::bench::{Bench, MEMORY_BYTES, machine};

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = u64::try_from(bound).unwrap();
        usize::try_from((mixed ^ (mixed >> 31)) % bound).unwrap()
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

struct Client {
    name: &'static str,
    session: u64,
    number: u64,
    /// Jobs, with tasks in their only group.
    jobs: Vec<(u64, u32)>,
    last: Option<v1::Transaction>,
}

/// What a run must have seen to mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    Committed,
    Partial,
    Refused,
    Repeated,
    DryRun,
    Conflict,
    Misfit,
    Mate,
    Stop,
    Quota,
    TookOver,
    Evicted,
    Device,
    Port,
    Alternate,
    DeviceTaken,
    Limit,
    Predecessor,
    RunsUnknown,
    MayNotEvict,
    Removed,
    Event,
    Held,
    HeldBack,
    HoldDisplaced,
    RefusedByHold,
    Launched,
    LaunchRefused,
    UnknownFound,
    UnknownOfJob,
    UnknownStopped,
    UnknownAdopted,
    UnknownEnded,
    MemoryQuota,
    NoMemory,
    InSequence,
    OutOfSequence,
    Guarded,
    GuardFailed,
}

/// From this seed on, limits and holds are of memory, too.
pub(crate) const OF_MEMORY: u64 = 1000;
/// From this seed on, up to [`ASKING`], they are not, and there are two namespaces and two partitions.
pub(crate) const OF_TWO: u64 = 2000;
/// Jobs are in the first one, or in turns in each.
const NAMESPACES: [&str; 2] = ["default", "other"];
/// From this seed on they are again, and transactions also ask for `sequence`, and have guards.
pub(crate) const ASKING: u64 = 3000;
/// From this seed on, what agents find that the cell does not know is mostly of the clients' jobs that have single instances.
pub(crate) const OF_JOBS: u64 = 4000;
/// What each task has.
const TASK_BYTES: i64 = 1 << 20;
/// Jobs of each client.
const SHAPES: u32 = 6;
/// Of these the one with single instances, and how many tasks each has.
const SINGLE: u32 = 4;
const TASKS: u32 = 12;

/// What the agent of each machine finds.
fn found(number: usize, cpu_millis: i64) -> v1::RegisterMachine {
    let rack = format!("r{}", number % 3);
    let gpu = |index| v1::Device { kind: "gpu".into(), index, millis: 1000, model: "a".into() };
    let mut found = machine(&format!("m{number}"), cpu_millis, &[("rack", &rack)]);
    found.devices = (0..u32::try_from(number % 3).unwrap()).map(gpu).collect();
    found
}

/// Each job declares something else.
fn job(name: &str, priority: u32, number: u32, namespace: &str) -> v1::JobSpec {
    let cpu = [500, 1000, 2000, 300, 700, 400][number as usize];
    let builder = JobBuilder::new(&format!("{name}-{number}"), name).namespace(namespace);
    let builder = builder.group("main", TASKS, cpu).priority(priority);
    let builder = if number == 1 { builder.on("rack", "r1") } else { builder };
    let mut spec = builder.forever().spec();
    let group = &mut spec.shape.as_mut().unwrap().groups[0];
    match number {
        2 => group.min = 2,
        3 => {
            // Twice of one device.
            group.devices = vec![v1::Device { kind: "gpu".into(), millis: 300, ..v1::Device::default() }; 2];
            group.ports.push(v1::Port { name: "http".into(), number: 0 });
        }
        SINGLE => {
            group.single_instance = true;
            group.ports.push(v1::Port { name: "admin".into(), number: 9100 });
        }
        5 => {
            group.per_machine = 2;
            group.spread.push(v1::Spread { attribute: "rack".into(), at_most: 3 });
        }
        _ => {}
    }
    spec
}

/// A cell under traffic.
pub(crate) struct Traffic {
    pub(crate) bench: Bench,
    pub(crate) seen: BTreeMap<Seen, usize>,
    random: Random,
    /// Draws of what limits and holds are; `None`: of CPU.
    of_memory: Option<Random>,
    /// There are two namespaces and two partitions.
    of_two: bool,
    /// Draws of what else transactions ask for; `None`: nothing.
    asking: Option<Random>,
    /// Draws of which tasks agents find; `None`: of a job that nobody knows.
    of_jobs: Option<Random>,
    clients: Vec<Client>,
    machines: Vec<u64>,
    live: Vec<u64>,
    /// What really runs, by machine, as far as agents have told the cell.
    runs: BTreeMap<u64, BTreeSet<u64>>,
    /// Tasks of which only agents know, by machine: what each is of, and its index there.
    foreign: BTreeMap<u64, BTreeMap<u64, (String, u32)>>,
    /// Foreign tasks so far.
    strangers: u32,
    /// The job that others are launched from, and for which instant last.
    recurring: (u64, i64),
}

const CLIENTS: [&str; 3] = ["batch", "service", "gang"];

impl Traffic {
    pub(crate) fn new(seed: u64) -> Self {
        let mut bench = Bench::new();
        let mut machines = Vec::new();
        for number in 0..6 {
            machines.push(bench.machine(found(number, 6000)));
        }
        let (mut clients, of_two) = (Vec::new(), (OF_TWO..ASKING).contains(&seed));
        for (turn, (name, priority)) in (0..).zip(CLIENTS.into_iter().zip([20, 50, 80])) {
            let session = bench.session(name);
            let namespace = |number: u32| NAMESPACES[usize::from(of_two && (turn + number) % 2 == 1)];
            let spec = |number| job(name, priority, number, namespace(number));
            let jobs = (0..SHAPES).map(|number| (bench.submit(spec(number)), TASKS)).collect();
            clients.push(Client { name, session, number: 0, jobs, last: None });
        }
        let mut nightly = JobBuilder::new("nightly", "cron").group("main", 1, 100).spec();
        nightly.shape.as_mut().unwrap().kind = v1::JobKind::Recurring.into();
        let recurring = (bench.submit(nightly), 1_000_000_000);
        let mut traffic = Self {
            bench,
            seen: BTreeMap::new(),
            random: Random(seed),
            of_memory: (seed >= OF_MEMORY && !of_two).then_some(Random(!seed)),
            of_two,
            asking: (seed >= ASKING).then_some(Random(seed.rotate_left(32))),
            of_jobs: (seed >= OF_JOBS).then_some(Random(seed.rotate_left(16))),
            clients,
            machines,
            live: Vec::new(),
            runs: BTreeMap::new(),
            foreign: BTreeMap::new(),
            strangers: 0,
            recurring,
        };
        if of_two {
            traffic.limit_each();
        }
        traffic
    }

    fn note(&mut self, seen: Seen) {
        *self.seen.entry(seen).or_default() += 1;
    }

    /// So many things happen.
    pub(crate) fn run(&mut self, steps: usize) {
        for step in 0..steps {
            match self.random.below(20) {
                0..11 => self.commit(),
                11..15 => self.report(),
                15..17 => self.around(),
                _ => self.govern(),
            }
            if step % 50 == 25 {
                self.bench.list();
            }
            if step % 20 == 10 {
                self.look_at_machines();
            }
            if step % 100 == 60 {
                self.bench.late_watcher(&format!("late{step}"));
            }
            if step % 200 == 150 {
                self.bench.restart();
            }
            // One after the other, each for a while.
            if step % 40 == 0 {
                let turn = step / 40;
                self.bench.may_evict(CLIENTS[turn / 2 % CLIENTS.len()], turn % 2 == 1);
            }
        }
        self.bench.list();
        self.look_at_machines();
        self.bench.late_watcher("last");
    }

    /// What really runs, seen by somebody who stands beside the machines.
    fn look_at_machines(&mut self) {
        for &machine in &self.machines {
            let foreign = self.foreign.get(&machine).into_iter().flat_map(BTreeMap::keys);
            let running: Vec<u64> = self.runs.get(&machine).into_iter().flatten().chain(foreign).copied().collect();
            if !running.is_empty() {
                self.bench.sight(machine, running);
            }
        }
    }

    fn commit(&mut self) {
        let at = self.random.below(self.clients.len());
        if self.random.chance(8) && self.clients[at].last.is_some() {
            return self.repeat(at);
        }
        let revision = self.bench.revision();
        let age = u64::try_from(self.random.below(25)).unwrap();
        let mut asked = v1::Transaction {
            session: self.clients[at].session,
            number: self.clients[at].number + 1,
            base_revision: revision.saturating_sub(age),
            atomic: self.random.chance(20),
            dry_run: self.random.chance(5),
            ..v1::Transaction::default()
        };
        for _ in 0..1 + self.random.below(2) {
            let placement = self.placement(at);
            asked.placements.push(placement);
        }
        if self.random.chance(30) && !self.live.is_empty() {
            let victim = self.random.below(self.live.len());
            asked.stops.push(self.live[victim]);
        }
        self.ask_for_more(&mut asked);
        let client = self.clients[at].name;
        let dry_run = asked.dry_run;
        let Some(outcome) = self.bench.commit(client, asked.clone()) else { return };
        if dry_run {
            return self.note(Seen::DryRun);
        }
        self.clients[at].number += 1;
        self.learn(&outcome, asked.stops.len());
        self.learn_of_more(&asked, &outcome);
        self.clients[at].last = Some(asked);
    }

    /// Now and then it is to be held to what nobody changed since its base, or to a fact, which is none every other time.
    fn ask_for_more(&mut self, asked: &mut v1::Transaction) {
        let Some(random) = &mut self.asking else { return };
        if random.chance(50) {
            asked.check = v1::ConflictCheck::Sequence.into();
        }
        if !random.chance(20) {
            return;
        }
        let number = random.below(self.machines.len());
        let rack = if random.chance(50) { number % 3 } else { 7 };
        let guard =
            v1::AttributeGuard { machine: self.machines[number], attribute: "rack".into(), value: format!("r{rack}") };
        let version = v1::JobVersionGuard { job: asked.placements[0].job, version: 1 + u32::from(random.chance(50)) };
        let of_job = random.chance(50);
        let fact = if of_job { v1::guard::Fact::JobVersion(version) } else { v1::guard::Fact::Attribute(guard) };
        let guard = v1::Guard { fact: Some(fact) };
        if random.chance(50) {
            asked.guards.push(guard);
        } else {
            asked.placements[0].guards.push(guard);
        }
    }

    fn learn_of_more(&mut self, asked: &v1::Transaction, outcome: &v1::Outcome) {
        let sequence = asked.check() == v1::ConflictCheck::Sequence;
        let guarded = !asked.guards.is_empty() || asked.placements.iter().any(|one| !one.guards.is_empty());
        let refused = |reason| outcome.refusals.iter().any(|refusal| refusal.reason() == reason);
        let all = [
            (sequence && outcome.granted > 0, Seen::InSequence),
            (sequence && refused(v1::RefusalReason::MachineChanged), Seen::OutOfSequence),
            (guarded && outcome.granted > 0, Seen::Guarded),
            (refused(v1::RefusalReason::GuardFailed), Seen::GuardFailed),
        ];
        all.into_iter().filter(|(is, _)| *is).for_each(|(_, seen)| self.note(seen));
    }

    fn placement(&mut self, at: usize) -> v1::Placement {
        let jobs = &self.clients[at].jobs;
        let (job, tasks) = jobs[self.random.below(jobs.len())];
        let mut placement = v1::Placement { job, job_version: 1, ..v1::Placement::default() };
        let first = u32::try_from(self.random.below(tasks as usize)).unwrap();
        for number in 0..1 + u32::try_from(self.random.below(4)).unwrap() {
            let machine = self.machines[self.random.below(self.machines.len())];
            placement.machines.push(u32::try_from(machine & u64::from(u32::MAX)).unwrap());
            placement.tasks.push((first + number) % tasks);
        }
        if self.random.chance(20) {
            placement.alternates =
                self.machines.iter().map(|&machine| plenum_checker::picture::slot_of(machine)).collect();
        } else if self.random.chance(40) {
            self.name_victims(&mut placement);
        }
        if self.random.chance(30) {
            placement.min = u32::try_from(placement.tasks.len()).unwrap();
        }
        placement
    }

    /// Everybody on the claimed machines: those who leave may be taken over, the others evicted if they are of a lower band.
    fn name_victims(&mut self, placement: &mut v1::Placement) {
        let cell = self.bench.core.cell();
        for &machine in &placement.machines {
            let mut extras = v1::ClaimExtras::default();
            for found in cell.allocations().filter(|found| found.row.machine == machine) {
                let victim = found.id.to_bits();
                if found.status.state.is_leaving() {
                    extras.take_overs.push(v1::TakeOver { victim, ..v1::TakeOver::default() });
                } else {
                    placement.preemptions.push(v1::Preemption { machine, victim });
                }
            }
            placement.extras.push(extras);
        }
        if placement.extras.iter().all(|extras| extras.take_overs.is_empty()) {
            placement.extras.clear();
        }
        placement.preemptions.sort_by_key(|preemption| (preemption.machine, preemption.victim));
        placement.preemptions.dedup();
    }

    fn repeat(&mut self, at: usize) {
        let client = self.clients[at].name;
        let last = self.clients[at].last.clone().unwrap();
        if self.bench.commit(client, last).is_some() {
            self.note(Seen::Repeated);
        }
    }

    fn learn(&mut self, outcome: &v1::Outcome, stops: usize) {
        self.live.extend(outcome.placements.iter().flat_map(|one| &one.allocations).filter(|&&id| id > 0));
        self.note(match outcome.outcome() {
            v1::TransactionOutcome::Committed => Seen::Committed,
            v1::TransactionOutcome::Partial => Seen::Partial,
            _ => Seen::Refused,
        });
        self.learn_of_grants(outcome);
        if stops > outcome.idle_stops.len() {
            self.note(Seen::Stop);
        }
        for refusal in &outcome.refusals {
            match refusal.kind() {
                v1::RefusalKind::Conflict => self.note(Seen::Conflict),
                v1::RefusalKind::Misfit => self.note(Seen::Misfit),
                v1::RefusalKind::Mate => self.note(Seen::Mate),
                v1::RefusalKind::Quota => self.note(Seen::Quota),
                _ => {}
            }
            if refusal.culprits.iter().any(|culprit| !culprit.event.is_empty()) {
                self.note(Seen::Event);
            }
            let of_memory = refusal.resource() == v1::ResourceName::MemoryBytes;
            match refusal.reason() {
                v1::RefusalReason::QuotaExceeded if of_memory => self.note(Seen::MemoryQuota),
                v1::RefusalReason::NoRoom if of_memory => self.note(Seen::NoMemory),
                v1::RefusalReason::DeviceTaken => self.note(Seen::DeviceTaken),
                v1::RefusalReason::PerMachineLimit | v1::RefusalReason::SpreadLimit => self.note(Seen::Limit),
                v1::RefusalReason::Predecessor => self.note(Seen::Predecessor),
                v1::RefusalReason::MayNotEvict => self.note(Seen::MayNotEvict),
                _ => {}
            }
            if refusal.culprits.iter().any(|culprit| culprit.event == "hold") {
                self.note(Seen::RefusedByHold);
            }
            if refusal.reason() == v1::RefusalReason::Predecessor && self.runs_unknown(refusal) {
                self.note(Seen::RunsUnknown);
            }
        }
    }

    /// Whether an agent runs the task of a refusal, and the cell does not know.
    fn runs_unknown(&self, refusal: &v1::Refusal) -> bool {
        let names =
            self.clients.iter().flat_map(|client| client.jobs.iter().zip(0..).map(move |job| (client.name, job)));
        let mut names = names.filter(|(_, ((job, _), _))| *job == refusal.job);
        let name = names.next().map(|(client, (_, number))| format!("{client}-{number}"));
        let mut foreign = self.foreign.values().flat_map(BTreeMap::values);
        foreign.any(|(job, task)| Some(job) == name.as_ref() && *task == refusal.task)
    }

    fn learn_of_grants(&mut self, outcome: &v1::Outcome) {
        let asked = match &self.bench.evidence.calls.last().unwrap().asked {
            plenum_checker::calls::Asked::Transaction(asked) => asked.clone(),
            other => panic!("only transactions are logged, not {other:?}"),
        };
        for (asked, answer) in asked.placements.iter().zip(&outcome.placements) {
            for (&machine, &id) in asked.machines.iter().zip(&answer.allocations) {
                let found =
                    plenum_model::AllocationId::from_bits(id).and_then(|id| self.bench.core.cell().allocation(id));
                let Some(found) = found else { continue };
                let elsewhere = found.row.machine != machine;
                let extra = found.extra.cloned().unwrap_or_default();
                let all = [
                    (elsewhere, Seen::Alternate),
                    (!extra.devices.is_empty(), Seen::Device),
                    (!extra.ports.is_empty(), Seen::Port),
                    (!extra.takes_over.is_empty(), Seen::TookOver),
                ];
                all.into_iter().filter(|(is, _)| *is).for_each(|(_, seen)| self.note(seen));
            }
        }
        let evicting = self.bench.core.cell().allocations();
        let evicting = evicting.filter(|found| found.status.state == plenum_model::AllocationState::Evicting).count();
        (0..evicting).for_each(|_| self.note(Seen::Evicted));
    }

    /// An agent reports something of an allocation.
    fn report(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let at = self.random.below(self.live.len());
        let id = self.live[at];
        let cell = self.bench.core.cell();
        let found = plenum_model::AllocationId::from_bits(id).and_then(|id| cell.allocation(id));
        let found =
            found.and_then(|found| Some((found.status.state, cell.machine_in(found.row.machine)?.id.to_bits())));
        let Some((state, machine)) = found else {
            self.live.swap_remove(at);
            return;
        };
        use v1::AllocationState as State;
        let report = match self.random.below(6) {
            0 if state.is_leaving() => State::Running,
            _ if state.is_leaving() => State::Stopped,
            0 => State::Failed,
            1 => State::Starting,
            _ => State::Running,
        };
        let running = self.runs.entry(machine).or_default();
        match report {
            State::Running | State::Starting => running.insert(id),
            _ => running.remove(&id),
        };
        self.bench.report(id, report);
    }

    /// What happens around the clients.
    fn around(&mut self) {
        let number = self.random.below(self.machines.len());
        let machine = self.machines[number];
        match self.random.below(13) {
            0 => self.bench.cordon(machine, true),
            4 => self.bench.drain(machine, true),
            5 => self.machines.clone().into_iter().for_each(|machine| self.bench.drain(machine, false)),
            6 if self.of_two => self.limit_each(),
            6 => {
                let limit = self.random.chance(60).then(|| self.random.below(16));
                let most = limit.map(|more| match self.some_resource() {
                    Resource::MemoryBytes => (Resource::MemoryBytes, (12 + more) << 20),
                    cpu => (cpu, 16_000 + 1000 * more),
                });
                self.bench.quota(NAMESPACES[0], most);
            }
            7 => {
                let scheduler = CLIENTS[self.random.below(CLIENTS.len())];
                let paused = self.random.chance(30);
                self.bench.pause(scheduler, paused);
            }
            9 => self.bench.expire(machine),
            10 => {
                // As large as before, larger or smaller; of what ran there, its agent has traces, or has forgotten it all.
                let again = found(number, 5000 + 500 * i64::try_from(self.random.below(5)).unwrap());
                let remembers = self.random.chance(70);
                self.register_again(machine, again, remembers);
            }
            11 if self.random.chance(30) => {
                self.bench.remove(machine);
                self.machines[number] = self.bench.machine(found(number, 6000));
                self.note(Seen::Removed);
            }
            12 => self.bench.wait(61_000_000),
            8 => self.reserve(40),
            1 => self.machines.clone().into_iter().for_each(|machine| self.bench.cordon(machine, false)),
            2 => self.bench.wait(2_000_000),
            _ => {
                let session = self.bench.session("passer-by");
                self.bench.close(session);
            }
        }
    }

    /// The agent of a machine comes back with what it has traces of; or with none, and then nothing runs there.
    fn register_again(&mut self, machine: u64, mut again: v1::RegisterMachine, remembers: bool) {
        again.seen_revision = self.bench.revision();
        if remembers {
            again.inventory = self.bench.inventory(machine);
            let foreign = self.foreign.get(&machine).into_iter().flatten();
            again.inventory.extend(foreign.map(|(&allocation, (job, task))| stranger(allocation, job, *task)));
        } else {
            self.runs.remove(&machine);
            self.foreign.remove(&machine);
        }
        self.bench.machine(again);
    }

    /// Room is held, jobs are launched, and agents tell of tasks that the cell has never heard of.
    fn govern(&mut self) {
        match self.random.below(15) {
            0..6 => self.hold(),
            6..8 => self.launch(),
            8..10 => self.find_strangers(),
            10..13 => self.adopt_or_end(),
            13 => self.reserve(60),
            _ => {
                let before = self.stopping();
                self.bench.wait(200_000_000);
                let stopped = self.stopping() - before.min(self.stopping());
                (0..stopped).for_each(|_| self.note(Seen::UnknownStopped));
            }
        }
    }

    /// Machines of one rack are for one client only, or for all again.
    fn reserve(&mut self, percent: usize) {
        let open_to = self.random.chance(percent).then(|| CLIENTS[self.random.below(CLIENTS.len())]);
        let rack = if self.of_two && self.random.chance(50) { "r1" } else { "r2" };
        self.bench.partition(rack, open_to);
    }

    /// A limit for each namespace, or none: less than what is there for both.
    fn limit_each(&mut self) {
        for namespace in NAMESPACES {
            let limit = self.random.chance(70).then(|| 6_000 + 500 * self.random.below(16));
            self.bench.quota(namespace, limit.map(|limit| (Resource::CpuMillis, limit)));
        }
    }

    fn stopping(&self) -> usize {
        self.bench.core.cell().unknown_tasks().filter(|(_, task)| task.stopping).count()
    }

    fn hold(&mut self) {
        let client = self.random.below(self.clients.len());
        let (job, _) = self.clients[client].jobs[self.random.below(3)];
        if self.random.chance(15) {
            if self.bench.hold(job, Vec::new(), (Resource::CpuMillis, 0), 1) {
                self.note(Seen::HeldBack);
            }
            return;
        }
        let resource = self.some_resource();
        let (machines, amount) = self.room_to_hold(resource);
        let micros = 1_000_000 * (1 + i64::try_from(self.random.below(20)).unwrap());
        let held = |bench: &Bench| bench.core.cell().holds().map(|(_, hold)| hold.machines.len()).sum::<usize>();
        let (before, own) = (held(&self.bench), machines.len());
        if self.bench.hold(job, machines, (resource, amount), micros) {
            self.note(Seen::Held);
            if held(&self.bench) < before + own.min(1) {
                self.note(Seen::HoldDisplaced);
            }
        }
    }

    /// What the next limit or hold is of.
    fn some_resource(&mut self) -> Resource {
        let of_memory = self.of_memory.as_mut().is_some_and(|random| random.chance(60));
        if of_memory { Resource::MemoryBytes } else { Resource::CpuMillis }
    }

    /// All the room of one machine, as if nobody held anything of it; or a little of several, whatever there is. Of memory, which tasks have little
    /// of, all but what a few of them have is a little.
    fn room_to_hold(&mut self, resource: Resource) -> (Vec<u32>, i64) {
        let few = 1 + i64::try_from(self.random.below(5)).unwrap();
        let some = if resource == Resource::MemoryBytes { MEMORY_BYTES - few * TASK_BYTES } else { 200 * few };
        let cell = self.bench.core.cell();
        let ready = cell.machines().filter(|machine| machine.state == plenum_model::MachineState::Ready);
        let room = ready.map(|machine| (machine.id.slot, cell.room(machine.id.slot).get(resource)));
        let room: Vec<(u32, i64)> = room.filter(|(_, amount)| *amount > 0).collect();
        if self.random.chance(60) && !room.is_empty() {
            let (machine, amount) = room[self.random.below(room.len())];
            return (vec![machine], if self.random.chance(50) { amount } else { some.min(amount) });
        }
        let all = self.machines.len();
        let machines = (0..1 + self.random.below(3))
            .map(|_| plenum_checker::picture::slot_of(self.machines[self.random.below(all)]));
        (machines.collect(), some)
    }

    /// For the next instant, or for one that is over.
    fn launch(&mut self) {
        let (parent, last) = self.recurring;
        let instant = if self.random.chance(40) { last - 500_000 } else { last + 1_000_000 };
        match self.bench.launch(parent, instant) {
            Some(_) => {
                self.recurring.1 = last.max(instant);
                self.note(Seen::Launched);
            }
            None => self.note(Seen::LaunchRefused),
        }
    }

    /// An agent comes back and runs what nobody knows, as after a restore.
    fn find_strangers(&mut self) {
        let number = self.random.below(self.machines.len());
        let machine = self.machines[number];
        for _ in 0..1 + self.random.below(2) {
            self.strangers += 1;
            let allocation = plenum_checker::picture::id_of(1_000_000 + self.strangers, 1);
            let of = self.some_task();
            self.foreign.entry(machine).or_default().insert(allocation, of);
            self.note(Seen::UnknownFound);
        }
        self.register_again(machine, found(number, 6000), true);
    }

    /// What an agent calls a task that only it knows: that of a job which nobody knows, or one of which only one may run.
    fn some_task(&mut self) -> (String, u32) {
        let of_nobody = ("forgotten".into(), 0);
        let Some(random) = &mut self.of_jobs else { return of_nobody };
        if random.chance(20) {
            return of_nobody;
        }
        let client = CLIENTS[random.below(CLIENTS.len())];
        let of = (format!("{client}-{SINGLE}"), u32::try_from(random.below(TASKS as usize)).unwrap());
        self.note(Seen::UnknownOfJob);
        of
    }

    fn adopt_or_end(&mut self) {
        let all: Vec<(u64, u64)> =
            self.foreign.iter().flat_map(|(&machine, tasks)| tasks.keys().map(move |&task| (machine, task))).collect();
        if all.is_empty() {
            return;
        }
        let (machine, task) = all[self.random.below(all.len())];
        if self.random.chance(50) {
            if self.bench.adopt(machine, task) {
                self.note(Seen::UnknownAdopted);
            }
            return;
        }
        self.foreign.entry(machine).or_default().remove(&task);
        self.bench.report_end(machine, task);
        self.note(Seen::UnknownEnded);
    }
}

/// What an agent says of a task that only it knows.
fn stranger(allocation: u64, job: &str, task_index: u32) -> v1::InventoryItem {
    let resources = v1::Resources { cpu_millis: 700, memory_bytes: 1 << 20, ..v1::Resources::default() };
    let task = v1::TaskTraces {
        namespace: "default".into(),
        job: job.into(),
        group: "main".into(),
        task_index,
        resources: Some(resources),
        ..v1::TaskTraces::default()
    };
    v1::InventoryItem {
        allocation,
        state: v1::AllocationState::Running.into(),
        task: Some(task),
        ..v1::InventoryItem::default()
    }
}
