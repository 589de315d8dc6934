//! The agents of all machines in one: they report what was stopped, so that its room comes back, and keep their leases by it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use plenum_proto::v1;
use plenum_proto::v1::agents_client::AgentsClient;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Channel;

use super::cell::{Registered, connect};
use crate::event_loop;

/// Calls at once: each waits until its receipts are durable.
const CALLS: usize = 128;
/// Connections that they share.
const CONNECTIONS: usize = 4;
/// How often each machine reports: what was stopped meanwhile goes into one report, which renews the lease. Agents renew theirs
/// after 5 s.
const PERIOD_MIN: Duration = Duration::from_secs(4);
/// Machines of a large cell report less often, so that all of them together don't need a core for it.
const PERIOD_A_MACHINE: Duration = Duration::from_micros(200);
/// The shortest pause between two reports of one caller: what timers tell apart.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// How often one that rests looks whether it still may.
const RESTING_PAUSE: Duration = Duration::from_millis(100);

/// How often each of so many machines reports.
pub(super) fn period(machines: u32) -> Duration {
    PERIOD_MIN.max(PERIOD_A_MACHINE * machines)
}

/// What waits to be reported, by machine. The position of a machine is its slot: they were registered in this order in an empty cell.
#[derive(Debug)]
pub(crate) struct Stopped {
    waiting: Vec<Mutex<Vec<u64>>>,
    count: AtomicI64,
}

impl Stopped {
    /// For so many machines.
    pub(crate) fn new(machines: u32) -> Self {
        Self { waiting: (0..machines).map(|_| Mutex::default()).collect(), count: AtomicI64::new(0) }
    }

    /// These allocations are to end.
    pub(crate) fn add(&self, allocations: impl Iterator<Item = (u64, u32)>) {
        let mut count = 0;
        for (allocation, machine) in allocations {
            self.of(machine as usize).push(allocation);
            count += 1;
        }
        self.count.fetch_add(count, Ordering::Relaxed);
    }

    /// How many leave now: stopped, and not reported yet.
    pub(crate) fn leaving(&self) -> u64 {
        u64::try_from(self.count.load(Ordering::Relaxed)).unwrap_or(0)
    }

    fn of(&self, machine: usize) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.waiting[machine].lock().expect("nobody panics while holding it")
    }
}

/// All agents.
pub(crate) struct Agents {
    stopped: Arc<Stopped>,
    resting: Arc<AtomicBool>,
    finishing: Arc<AtomicBool>,
    reports: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<String>>>,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Agents {
    /// Starts reporting.
    pub(crate) async fn start(address: &str, machines: Vec<Registered>) -> anyhow::Result<Self> {
        let stopped = Arc::new(Stopped::new(u32::try_from(machines.len())?));
        let (resting, finishing) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let reports = Arc::new(AtomicU64::new(0));
        let failure = Arc::new(Mutex::new(None));
        let machines = Arc::new(machines);
        let clients = event_loop::of_agents()?.spawn(connect_all(address.to_owned())).await??;
        let tasks = (0..CALLS).map(|first| {
            let mut caller = Caller {
                client: clients[first % CONNECTIONS].clone(),
                machines: machines.clone(),
                stopped: stopped.clone(),
                resting: resting.clone(),
                finishing: finishing.clone(),
                reports: reports.clone(),
                first,
            };
            let failure = failure.clone();
            let calls = async move {
                let called = caller.run().await;
                if let Err(error) = &called {
                    failure.lock().expect("nobody panics while holding it").get_or_insert_with(|| format!("{error:#}"));
                }
                called
            };
            Ok(event_loop::of_agents()?.spawn(calls))
        });
        let tasks = tasks.collect::<anyhow::Result<_>>()?;
        Ok(Self { stopped, resting, finishing, reports, failure, tasks })
    }

    /// Where schedulers put what they stopped.
    pub(crate) fn stopped(&self) -> Arc<Stopped> {
        self.stopped.clone()
    }

    /// Lets them rest, or go on. Leases run on meanwhile: for some seconds at most.
    pub(crate) fn rest(&self, resting: bool) {
        self.resting.store(resting, Ordering::Release);
    }

    /// Reports so far.
    pub(crate) fn reports(&self) -> u64 {
        self.reports.load(Ordering::Relaxed)
    }

    /// Why one of them gave up, if one did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().expect("nobody panics while holding it").clone()
    }

    /// Reports what is left, and ends.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        self.finishing.store(true, Ordering::Release);
        for task in self.tasks {
            task.await.context("the agents")??;
        }
        Ok(())
    }
}

async fn connect_all(address: String) -> anyhow::Result<Vec<AgentsClient<Channel>>> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(AgentsClient::new(connect(&address).await?));
    }
    Ok(clients)
}

/// Reports for some of the machines, one after the other.
struct Caller {
    client: AgentsClient<Channel>,
    machines: Arc<Vec<Registered>>,
    stopped: Arc<Stopped>,
    resting: Arc<AtomicBool>,
    finishing: Arc<AtomicBool>,
    reports: Arc<AtomicU64>,
    first: usize,
}

impl Caller {
    async fn run(&mut self) -> anyhow::Result<()> {
        let period = period(u32::try_from(self.machines.len())?);
        let own: Vec<usize> = (self.first..self.machines.len()).step_by(CALLS).collect();
        loop {
            let began = Instant::now();
            // Looked at before the round: what came until then is in it.
            let last = self.finishing.load(Ordering::Acquire);
            for (position, machine) in own.iter().enumerate() {
                while self.resting.load(Ordering::Acquire) {
                    tokio::time::sleep(RESTING_PAUSE).await;
                }
                let allocations = std::mem::take(&mut *self.stopped.of(*machine));
                if !last || !allocations.is_empty() {
                    self.report(*machine, allocations).await?;
                }
                if !self.finishing.load(Ordering::Acquire) {
                    // Spread over the period, so that the cell gets an even stream of them.
                    let share = u32::try_from(position + 1)?;
                    let due = period * share / u32::try_from(own.len())?;
                    tokio::time::sleep(due.saturating_sub(began.elapsed()).max(PAUSE_MIN)).await;
                }
            }
            if last {
                return Ok(());
            }
            if own.is_empty() {
                tokio::time::sleep(period).await;
            }
        }
    }

    async fn report(&mut self, machine: usize, allocations: Vec<u64>) -> anyhow::Result<()> {
        let reported = allocations.len();
        if report(&mut self.client, self.machines[machine], &allocations).await? {
            self.stopped.count.fetch_sub(i64::try_from(reported)?, Ordering::Relaxed);
            self.reports.fetch_add(1, Ordering::Relaxed);
        } else {
            // The cell has too much to do: with the next report.
            self.stopped.of(machine).extend(allocations);
        }
        Ok(())
    }
}

/// Reports that these allocations of a machine have ended, and renews its lease. False when the cell asks to be asked later.
pub(crate) async fn report(
    client: &mut AgentsClient<Channel>,
    machine: Registered,
    allocations: &[u64],
) -> anyhow::Result<bool> {
    let receipt = |allocation: &u64| v1::Transition {
        allocation: *allocation,
        state: v1::AllocationState::Stopped.into(),
        ..v1::Transition::default()
    };
    let transitions = allocations.iter().map(receipt).collect();
    let request = v1::ReportRequest { machine: machine.id, epoch: machine.epoch, transitions, telemetry: None };
    match client.report(request).await {
        Ok(answer) => {
            ensure!(!answer.into_inner().register, "a machine lost its lease: reports came too late");
            Ok(true)
        }
        Err(status) if status.code() == Code::ResourceExhausted => Ok(false),
        Err(status) => bail!("a report was not taken: {status}"),
    }
}
