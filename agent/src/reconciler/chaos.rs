//! An agent through random days: calls that are lost before or after they took effect, broken streams, crashes, lost
//! leases, stops and take-overs. A seed repeats a run exactly.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use plenum_model::JobId;

use super::*;
use crate::{
    driver::Driver,
    fake::{FakeDriver, Fate},
    traces::Traces,
};

const MACHINE: MachineId = MachineId { slot: 0, generation: 1 };
const LEASE_MS: u64 = 4000;
/// What the server grants on top.
const MARGIN_MS: u64 = 500;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // Knuth's constants; the high bits are the better ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// What the cell knows of one allocation.
#[derive(Clone, Debug)]
struct Row {
    started: bool,
    leaving: bool,
    takes_over: BTreeSet<AllocationId>,
}

struct World {
    random: Random,
    now_ms: u64,
    agent: AgentReconciler,
    driver: FakeDriver,
    rows: BTreeMap<AllocationId, Row>,
    receipts: BTreeSet<AllocationId>,
    epoch: u32,
    expires_at_ms: u64,
    following: bool,
    next_slot: u32,
    calls: Vec<Output>,
    calm: bool,
    /// Starts that an agent found written down and not made.
    found_unmade: usize,
    /// What of tasks an agent found on its way out.
    found_leaving: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut fates = Random(seed ^ 0xfa7e);
        let driver = FakeDriver::new(move |_| Fate {
            recorded_after_ms: if fates.one_in(4) { fates.below(3000) } else { 0 },
            shim_after_ms: if fates.one_in(4) { fates.below(500) } else { 0 },
            starts_after_ms: fates.below(50),
            runs_ms: (!fates.one_in(3)).then(|| fates.below(5000)),
            stops_after_ms: fates.below(300),
            gone_after_ms: fates.below(100),
            ..if fates.one_in(3) { Fate::exits_after_ms(0, 1) } else { Fate::succeeds_after_ms(0) }
        });
        Self {
            random: Random(seed),
            now_ms: 1_000_000,
            agent: AgentReconciler::new(Settings { seed: seed + 1, ..Settings::default() }, 0, 0),
            driver,
            rows: BTreeMap::new(),
            receipts: BTreeSet::new(),
            epoch: 0,
            expires_at_ms: 0,
            following: false,
            next_slot: 0,
            calls: Vec::new(),
            calm: false,
            found_unmade: 0,
            found_leaving: 0,
        }
    }

    fn input(&mut self, input: Input) {
        for output in self.agent.handle(self.now_ms, input) {
            match output {
                Output::Start(task) => {
                    let allocation = task.allocation;
                    assert!(!self.receipts.contains(&allocation), "{allocation} started after its receipt");
                    let row = &self.rows[&allocation];
                    assert!(row.takes_over.is_empty(), "{allocation} started in occupied room");
                    self.driver.start(task);
                }
                Output::Stop(allocation) => self.driver.stop(allocation),
                Output::Forget(allocation) => self.driver.forget(allocation),
                Output::Refuse { .. } => panic!("the server never goes back"),
                call => self.calls.push(call),
            }
        }
    }

    fn pass_ms(&mut self, span_ms: u64) {
        self.now_ms += span_ms;
        for event in self.driver.advance(self.now_ms) {
            self.input(Input::Driver(event));
        }
        self.input(Input::Tick);
        if self.epoch > 0 && self.now_ms > self.expires_at_ms && self.random.one_in(4) {
            // The lease ran out: some allocations are placed elsewhere.
            self.expires_at_ms = u64::MAX;
            self.following = false;
            self.epoch += 1;
            for row in self.rows.values_mut() {
                row.leaving |= self.random.one_in(2);
            }
        }
    }

    fn crash(&mut self) {
        self.calls.clear();
        self.following = false;
        let seed = self.random.below(1 << 30) + 1;
        self.agent = AgentReconciler::new(Settings { seed, ..Settings::default() }, 0, 0);
        let recovered = self.driver.recover().unwrap();
        let count = |is: fn(&Found) -> bool| recovered.iter().filter(|one| is(&one.found)).count();
        self.found_unmade += count(|found| matches!(found, Found::NotStarted));
        self.found_leaving += count(|found| matches!(found, Found::Leaving { .. }));
        self.input(Input::Recovered(recovered));
    }

    fn grant(&mut self) {
        let allocation = AllocationId { slot: self.next_slot, generation: 1 };
        self.next_slot += 1;
        let mut takes_over = BTreeSet::new();
        if self.random.one_in(3)
            && let Some((&victim, row)) = self.rows.iter_mut().find(|(_, row)| row.takes_over.is_empty())
        {
            row.leaving = true;
            takes_over.insert(victim);
        }
        self.rows.insert(allocation, Row { started: false, leaving: false, takes_over });
        self.tell(false);
    }

    /// Sends the whole set, or changes; here both are everything, which a change may be.
    fn tell(&mut self, full: bool) {
        if !self.following {
            return;
        }
        let wanted =
            self.rows.iter().filter(|(_, row)| !row.leaving).map(|(&allocation, row)| assignment(allocation, row));
        let wanted = wanted.collect();
        let stop = self.rows.iter().filter(|(_, row)| row.leaving).map(|(&allocation, _)| allocation).collect();
        let (epoch, keep) = (self.epoch, Vec::new());
        self.input(Input::Assignments { machine: MACHINE, epoch, revision: 1, full, wanted, stop, keep });
    }

    /// The oldest call of the agent meets its fate.
    fn call(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let call = self.calls.remove(0);
        let (lost_before, lost_after) = (!self.calm && self.random.one_in(5), !self.calm && self.random.one_in(5));
        match call {
            Output::Register { .. } if lost_before => self.input(Input::RegisterFailed),
            Output::Register { .. } => {
                self.epoch = self.epoch.max(1);
                self.expires_at_ms = self.now_ms + LEASE_MS + MARGIN_MS;
                let epoch = self.epoch;
                self.input(if lost_after {
                    Input::RegisterFailed
                } else {
                    let (lease_ms, renew_ms) = (LEASE_MS, LEASE_MS / 3);
                    let (revision, incarnation) = (1, 1);
                    Input::Registered(Registration {
                        machine: MACHINE,
                        epoch,
                        lease_ms,
                        renew_ms,
                        revision,
                        incarnation,
                        unfit: None,
                    })
                });
            }
            Output::Follow { .. } if lost_before => self.input(Input::FollowEnded),
            Output::Follow { machine, epoch, .. } if epoch != self.epoch => {
                self.input(Input::FollowRefused { machine, epoch })
            }
            Output::Follow { .. } => {
                self.following = true;
                self.tell(true);
            }
            Output::Report { number, .. } if lost_before => self.input(Input::ReportFailed { number }),
            Output::Report { number, epoch, transitions, .. } => {
                let register = epoch != self.epoch;
                if !register {
                    self.expires_at_ms = self.now_ms + LEASE_MS + MARGIN_MS;
                    transitions.into_iter().for_each(|(allocation, status)| self.transition(allocation, &status));
                }
                self.input(if lost_after {
                    Input::ReportFailed { number }
                } else {
                    Input::ReportAnswered { number, revision: 1, register }
                });
                self.tell(false);
            }
            other => panic!("{other:?}"),
        }
    }

    fn transition(&mut self, allocation: AllocationId, status: &Status) {
        if !status.state.is_end() {
            if let Some(row) = self.rows.get_mut(&allocation) {
                row.started = true;
            }
            return;
        }
        assert!(!self.driver.running().any(|running| running == allocation), "{allocation} runs after its receipt");
        self.receipts.insert(allocation);
        self.rows.remove(&allocation);
        for row in self.rows.values_mut() {
            row.takes_over.remove(&allocation);
        }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0 | 1 => self.grant(),
            2 => {
                let nth = self.random.below(8);
                if let Some(row) = self.rows.values_mut().nth(usize::try_from(nth).unwrap()) {
                    row.leaving = true;
                    self.tell(false);
                }
            }
            3 if self.random.one_in(5) => self.crash(),
            4 if self.following && self.random.one_in(5) => {
                self.following = false;
                self.input(Input::FollowEnded);
            }
            // A long silence, in which leases run out.
            5 if self.random.one_in(8) => self.pass_ms(LEASE_MS * 2),
            6..=11 => self.call(),
            _ => {
                let span_ms = self.random.below(200);
                self.pass_ms(span_ms);
            }
        }
    }
}

fn assignment(allocation: AllocationId, row: &Row) -> Assignment {
    let task = TaskSpec {
        allocation,
        restart: 0,
        job: JobId { slot: 0, generation: 1 },
        job_version: 1,
        command: vec!["true".to_owned()],
        env: BTreeMap::new(),
        cpu_millis: 1,
        memory_bytes: 1,
        pids_max: 1,
        kill_timeout_ms: 100,
        traces: Some(Box::new(Traces { every_end_fails: allocation.slot.is_multiple_of(2), ..Traces::default() })),
        policy: None,
        recent_restarts_at: Vec::new(),
    };
    let restart = RestartPolicy { attempts: allocation.slot % 3, delay_ms: 200, within_ms: 0 };
    let takes_over = row.takes_over.iter().copied().collect();
    Assignment { allocation, takes_over, may_start: !row.started, work: Ok(Arc::new(Work { task, restart })) }
}

#[test]
fn whatever_happens_tasks_start_once_and_what_runs_becomes_what_is_wanted() {
    let (mut starts, mut leases_lost, mut unmade, mut leaving) = (0, 0, 0, 0);
    for seed in 0..80 {
        let mut world = World::new(seed);
        world.crash();
        for _ in 0..1500 {
            world.step();
        }
        leases_lost += world.agent.leases_lost();
        (unmade, leaving) = (unmade + world.found_unmade, leaving + world.found_leaving);
        world.calm = true;
        for _ in 0..400 {
            while !world.calls.is_empty() {
                world.call();
            }
            world.pass_ms(100);
        }
        let running: Vec<_> = world.driver.running().collect();
        let wanted: Vec<_> = world.rows.keys().copied().collect();
        assert_eq!(running, wanted, "seed {seed}");
        assert!(world.rows.values().all(|row| !row.leaving && row.takes_over.is_empty()), "seed {seed}");
        let mut made = world.driver.starts().to_vec();
        starts += made.len();
        made.sort_unstable();
        let all = made.len();
        made.dedup();
        assert_eq!(made.len(), all, "seed {seed}: a start was made twice");
    }
    // The runs did happen.
    assert!(starts > 5000 && leases_lost > 50, "{starts} starts, {leases_lost} lost leases");
    assert!(unmade > 0 && leaving > 0, "{unmade} starts were found not made, {leaving} tasks on their way out");
}
