//! Clients that make conflicts on purpose, from a seed: they decide on pictures of different age, claim what others claim, miss
//! minimums, repeat their numbers, and stop what they got.

use std::collections::BTreeMap;

use plenum_proto::v1;
use plenum_testkit::JobBuilder;

use crate::bench::{Bench, machine};

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
}

/// A cell under traffic.
pub(crate) struct Traffic {
    pub(crate) bench: Bench,
    pub(crate) seen: BTreeMap<Seen, usize>,
    random: Random,
    clients: Vec<Client>,
    machines: Vec<u64>,
    live: Vec<u64>,
}

const CLIENTS: [&str; 3] = ["batch", "service", "gang"];

impl Traffic {
    pub(crate) fn new(seed: u64) -> Self {
        let mut bench = Bench::new();
        let mut machines = Vec::new();
        for number in 0..6 {
            let rack = format!("r{}", number % 3);
            machines.push(bench.machine(machine(&format!("m{number}"), 6000, &[("rack", &rack)])));
        }
        let mut clients = Vec::new();
        for name in CLIENTS {
            let session = bench.session(name);
            let mut jobs = Vec::new();
            for number in 0..3_u32 {
                let cpu = [500, 1000, 2000][number as usize];
                let builder = JobBuilder::new(&format!("{name}-{number}"), name).group("main", 12, cpu);
                let builder = if number == 1 { builder.on("rack", "r1") } else { builder };
                jobs.push((bench.submit(builder.forever().spec()), 12));
            }
            clients.push(Client { name, session, number: 0, jobs, last: None });
        }
        Self { bench, seen: BTreeMap::new(), random: Random(seed), clients, machines, live: Vec::new() }
    }

    fn note(&mut self, seen: Seen) {
        *self.seen.entry(seen).or_default() += 1;
    }

    /// So many things happen.
    pub(crate) fn run(&mut self, steps: usize) {
        for step in 0..steps {
            match self.random.below(10) {
                0..6 => self.commit(),
                6..9 => self.report(),
                _ => self.around(),
            }
            if step % 50 == 25 {
                self.bench.list();
            }
            if step % 100 == 60 {
                self.bench.late_watcher(&format!("late{step}"));
            }
            if step % 200 == 150 {
                self.bench.restart();
            }
        }
        self.bench.list();
        self.bench.late_watcher("last");
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
        let client = self.clients[at].name;
        let dry_run = asked.dry_run;
        let Some(outcome) = self.bench.commit(client, asked.clone()) else { return };
        if dry_run {
            return self.note(Seen::DryRun);
        }
        self.clients[at].number += 1;
        self.learn(&outcome, asked.stops.len());
        self.clients[at].last = Some(asked);
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
        if self.random.chance(30) {
            placement.min = u32::try_from(placement.tasks.len()).unwrap();
        }
        placement
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
        if stops > outcome.idle_stops.len() {
            self.note(Seen::Stop);
        }
        for refusal in &outcome.refusals {
            match refusal.kind() {
                v1::RefusalKind::Conflict => self.note(Seen::Conflict),
                v1::RefusalKind::Misfit => self.note(Seen::Misfit),
                v1::RefusalKind::Mate => self.note(Seen::Mate),
                _ => {}
            }
        }
    }

    /// An agent reports something of an allocation.
    fn report(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let at = self.random.below(self.live.len());
        let id = self.live[at];
        let found = plenum_model::AllocationId::from_bits(id).and_then(|id| self.bench.core.cell().allocation(id));
        let Some(state) = found.map(|found| found.status.state) else {
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
        self.bench.report(id, report);
    }

    /// What happens around the clients.
    fn around(&mut self) {
        let machine = self.machines[self.random.below(self.machines.len())];
        match self.random.below(4) {
            0 => self.bench.cordon(machine, true),
            1 => self.machines.clone().into_iter().for_each(|machine| self.bench.cordon(machine, false)),
            2 => self.bench.wait(2_000_000),
            _ => {
                let session = self.bench.session("passer-by");
                self.bench.close(session);
            }
        }
    }
}
