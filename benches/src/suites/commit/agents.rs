//! The agents of all machines in one: they report what was stopped, so that its room comes back, and keep their leases by it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use plenum_proto::v1;
use plenum_proto::v1::agents_client::AgentsClient;
use tokio::task::JoinHandle;

use super::cell::{Registered, connect};

/// Calls at once: each waits until its receipts are durable.
const CALLS: usize = 16;
/// How often each machine reports: what was stopped meanwhile goes into one report.
const PERIOD: Duration = Duration::from_millis(500);
/// A machine without anything to report gives a sign of life so often; leases run for 15 s.
const SIGN_OF_LIFE: Duration = Duration::from_secs(4);

/// What waits to be reported, by machine. The position of a machine is its slot: they were registered one by one in an empty cell.
#[derive(Debug)]
pub(super) struct Stopped(Vec<Mutex<Vec<u64>>>);

impl Stopped {
    /// These allocations are to end.
    pub(super) fn add(&self, allocations: impl Iterator<Item = (u64, u32)>) {
        for (allocation, machine) in allocations {
            self.of(machine as usize).push(allocation);
        }
    }

    pub(super) fn machines(&self) -> u32 {
        u32::try_from(self.0.len()).expect("machines have slots")
    }

    fn of(&self, machine: usize) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.0[machine].lock().expect("nobody panics while holding it")
    }
}

/// All agents.
pub(super) struct Agents {
    stopped: Arc<Stopped>,
    finishing: Arc<AtomicBool>,
    reports: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Agents {
    /// Starts reporting.
    pub(super) async fn start(address: &str, machines: Vec<Registered>) -> anyhow::Result<Self> {
        let stopped = Arc::new(Stopped(machines.iter().map(|_| Mutex::default()).collect()));
        let finishing = Arc::new(AtomicBool::new(false));
        let reports = Arc::new(AtomicU64::new(0));
        let client = AgentsClient::new(connect(address).await?);
        let machines = Arc::new(machines);
        let tasks = (0..CALLS).map(|first| {
            let mut caller = Caller {
                client: client.clone(),
                machines: machines.clone(),
                stopped: stopped.clone(),
                finishing: finishing.clone(),
                reports: reports.clone(),
                first,
            };
            tokio::spawn(async move { caller.run().await })
        });
        let tasks = tasks.collect();
        Ok(Self { stopped, finishing, reports, tasks })
    }

    /// Where schedulers put what they stopped.
    pub(super) fn stopped(&self) -> Arc<Stopped> {
        self.stopped.clone()
    }

    /// Reports what is left, and ends. Gives the number of reports.
    pub(super) async fn finish(self) -> anyhow::Result<u64> {
        self.finishing.store(true, Ordering::Release);
        for task in self.tasks {
            task.await.context("the agents")??;
        }
        Ok(self.reports.load(Ordering::Relaxed))
    }
}

/// Reports for every sixteenth machine.
struct Caller {
    client: AgentsClient<tonic::transport::Channel>,
    machines: Arc<Vec<Registered>>,
    stopped: Arc<Stopped>,
    finishing: Arc<AtomicBool>,
    reports: Arc<AtomicU64>,
    first: usize,
}

impl Caller {
    async fn run(&mut self) -> anyhow::Result<()> {
        let mut signs = vec![Instant::now(); self.machines.len()];
        loop {
            let began = Instant::now();
            // Looked at before the round: what came until then is in it.
            let last = self.finishing.load(Ordering::Acquire);
            for machine in (self.first..self.machines.len()).step_by(CALLS) {
                let allocations = std::mem::take(&mut *self.stopped.of(machine));
                if !allocations.is_empty() || signs[machine].elapsed() > SIGN_OF_LIFE {
                    self.report(machine, allocations).await?;
                    signs[machine] = Instant::now();
                }
            }
            if last {
                return Ok(());
            }
            tokio::time::sleep(PERIOD.saturating_sub(began.elapsed())).await;
        }
    }

    async fn report(&mut self, machine: usize, allocations: Vec<u64>) -> anyhow::Result<()> {
        let Registered { id, epoch } = self.machines[machine];
        let receipt = |allocation| v1::Transition {
            allocation,
            state: v1::AllocationState::Stopped.into(),
            ..v1::Transition::default()
        };
        let transitions = allocations.into_iter().map(receipt).collect();
        let request = v1::ReportRequest { machine: id, epoch, transitions, telemetry: None };
        let answer = self.client.report(request).await.context("a report was not taken")?.into_inner();
        ensure!(!answer.register, "machine {machine} lost its lease: reports came too late");
        self.reports.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
