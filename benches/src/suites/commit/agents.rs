//! The agents of all machines, behind relays: each relay speaks for the machines of a rack. They report what was stopped, so that its
//! room comes back, and keep the machines' leases by it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use plenum_model::{STEPS_AHEAD, coming, prefetch};
use plenum_proto::v1;
use plenum_proto::v1::agents_client::AgentsClient;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Code;
use tonic::transport::Channel;

use super::cell::{Registered, connect};
use crate::event_loop;

/// Machines that one relay speaks for: a rack of them.
const RACK: usize = 50;
/// Calls at once: each waits until its receipts are durable.
const CALLS: usize = 64;
/// Connections that all relays share.
const CONNECTIONS: usize = 4;
/// How often each relay reports: what was stopped meanwhile goes into one report, which renews the leases of its machines.
const PERIOD_MIN: Duration = Duration::from_millis(500);
/// In a large cell relays report less often, so that all of them together don't need a core for it.
const PERIOD_A_RELAY: Duration = Duration::from_micros(2500);
/// Beside transactions of one claim so many times less often, which is every two seconds: a report costs the cell what a transaction does, and leases last for
/// minutes.
const SELDOM: u32 = 4;
/// The shortest pause between two reports: what timers tell apart.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// How often relays that rest look whether they still may.
const RESTING_PAUSE: Duration = Duration::from_millis(100);

/// How often each of so many machines is reported about.
fn period(machines: u32) -> Duration {
    let relays = machines.div_ceil(u32::try_from(RACK).expect("a rack has few machines"));
    PERIOD_MIN.max(PERIOD_A_RELAY * relays)
}

/// What waits to be reported. The position of a machine is its slot: they were registered in this order in an empty cell.
#[derive(Debug, Default)]
pub(crate) struct Stopped {
    /// Allocations and their machines, on their way to the relays.
    waiting: Mutex<Vec<(u64, u32)>>,
    count: AtomicI64,
}

impl Stopped {
    /// These allocations are to end.
    pub(crate) fn add(&self, allocations: impl ExactSizeIterator<Item = (u64, u32)>) {
        self.count.fetch_add(i64::try_from(allocations.len()).expect("a transaction stops few"), Ordering::Relaxed);
        self.waiting.lock().expect("nobody panics while holding it").extend(allocations);
    }

    /// How many leave now: stopped, and not reported yet.
    pub(crate) fn leaving(&self) -> u64 {
        u64::try_from(self.count.load(Ordering::Relaxed)).unwrap_or(0)
    }

    fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut *self.waiting.lock().expect("nobody panics while holding it"))
    }
}

/// How all relays go about it.
#[derive(Debug, Default)]
struct Orders {
    resting: AtomicBool,
    seldom: AtomicBool,
    finishing: AtomicBool,
    reports: AtomicU64,
}

/// All agents.
pub(crate) struct Agents {
    stopped: Arc<Stopped>,
    orders: Arc<Orders>,
    failure: Arc<Mutex<Option<String>>>,
    relays: JoinHandle<anyhow::Result<()>>,
}

impl Agents {
    /// Starts reporting.
    pub(crate) async fn start(address: &str, machines: Vec<Registered>) -> anyhow::Result<Self> {
        let (stopped, orders) = (Arc::<Stopped>::default(), Arc::<Orders>::default());
        let failure = Arc::new(Mutex::new(None));
        let clients = event_loop::of_agents()?.spawn(connect_all(address.to_owned())).await??;
        let racks = machines.chunks(RACK).map(|rack| Rack { machines: rack.into(), ended: Vec::new(), is_told: true });
        let period = period(u32::try_from(machines.len())?);
        let relays = Relays {
            clients,
            racks: racks.collect(),
            stopped: stopped.clone(),
            orders: orders.clone(),
            calls: JoinSet::new(),
            pause: (period / u32::try_from(machines.len().div_ceil(RACK).max(1))?).max(PAUSE_MIN),
        };
        let told = failure.clone();
        let relays = event_loop::of_agents()?.spawn(async move {
            let reported = relays.run().await;
            if let Err(error) = &reported {
                told.lock().expect("nobody panics while holding it").get_or_insert_with(|| format!("{error:#}"));
            }
            reported
        });
        Ok(Self { stopped, orders, failure, relays })
    }

    /// Where schedulers put what they stopped.
    pub(crate) fn stopped(&self) -> Arc<Stopped> {
        self.stopped.clone()
    }

    /// Lets them rest, or go on. Leases run on meanwhile: for some seconds at most.
    pub(crate) fn rest(&self, resting: bool) {
        self.orders.resting.store(resting, Ordering::Release);
    }

    /// Lets them report seldom, or as usual.
    pub(crate) fn report_seldom(&self, seldom: bool) {
        self.orders.seldom.store(seldom, Ordering::Release);
    }

    /// Reports of relays so far.
    pub(crate) fn reports(&self) -> u64 {
        self.orders.reports.load(Ordering::Relaxed)
    }

    /// Why one of them gave up, if one did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().expect("nobody panics while holding it").clone()
    }

    /// Reports what is left, and ends.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        self.orders.finishing.store(true, Ordering::Release);
        self.relays.await.context("the agents")?
    }
}

async fn connect_all(address: String) -> anyhow::Result<Vec<AgentsClient<Channel>>> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(AgentsClient::new(connect(&address).await?));
    }
    Ok(clients)
}

/// The machines of one relay.
struct Rack {
    machines: Arc<[Registered]>,
    /// Ended and not reported: allocations, and the positions of their machines.
    ended: Vec<(u64, u32)>,
    /// Nothing of it is under way.
    is_told: bool,
}

/// A report that was answered: of which rack, how many receipts it had, and those that have to be said again.
type Answered = anyhow::Result<(usize, usize, Vec<(u64, u32)>)>;

/// All relays, one after the other in turn.
struct Relays {
    clients: Vec<AgentsClient<Channel>>,
    racks: Vec<Rack>,
    stopped: Arc<Stopped>,
    orders: Arc<Orders>,
    calls: JoinSet<Answered>,
    pause: Duration,
}

impl Relays {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut due = Instant::now();
        for turn in (0..self.racks.len()).cycle() {
            if self.orders.finishing.load(Ordering::Acquire) {
                return self.finish().await;
            }
            while self.orders.resting.load(Ordering::Acquire) && !self.orders.finishing.load(Ordering::Acquire) {
                sleep(RESTING_PAUSE).await;
            }
            self.sort();
            self.report(turn);
            while self.calls.len() >= CALLS {
                self.answered().await?;
            }
            // Spread over the period, so that the cell gets an even stream of them.
            due = (due + self.pause()).max(Instant::now());
            sleep_until(due).await;
            while let Some(answered) = self.calls.try_join_next() {
                self.take(answered?)?;
            }
        }
        Ok(())
    }

    /// Between two reports.
    fn pause(&self) -> Duration {
        if self.orders.seldom.load(Ordering::Acquire) { self.pause * SELDOM } else { self.pause }
    }

    /// Gives each relay what stopped on its machines.
    fn sort(&mut self) {
        let stopped = self.stopped.take();
        for (step, &(allocation, machine)) in stopped.iter().enumerate() {
            // Where the next ones go comes from memory meanwhile.
            for &(_, next) in coming(&stopped, step, STEPS_AHEAD) {
                let ended = &self.racks[next as usize / RACK].ended;
                ended.last().into_iter().for_each(prefetch);
            }
            let machine = machine as usize;
            let position = u32::try_from(machine % RACK).expect("a rack has few machines");
            self.racks[machine / RACK].ended.push((allocation, position));
        }
    }

    /// Sends the report of a rack, unless its last one is still under way.
    fn report(&mut self, number: usize) {
        let rack = &mut self.racks[number];
        if !std::mem::take(&mut rack.is_told) {
            return;
        }
        let (machines, ended) = (rack.machines.clone(), std::mem::take(&mut rack.ended));
        let client = self.clients[number % CONNECTIONS].clone();
        let count = ended.len();
        self.calls.spawn(async move { Ok((number, count, relay(client, &machines, ended).await?)) });
    }

    async fn answered(&mut self) -> anyhow::Result<()> {
        match self.calls.join_next().await {
            Some(answered) => self.take(answered?),
            None => Ok(()),
        }
    }

    fn take(&mut self, answered: Answered) -> anyhow::Result<()> {
        let (number, count, again) = answered?;
        self.orders.reports.fetch_add(1, Ordering::Relaxed);
        self.stopped.count.fetch_sub(i64::try_from(count - again.len())?, Ordering::Relaxed);
        let rack = &mut self.racks[number];
        rack.is_told = true;
        rack.ended.extend(again);
        Ok(())
    }

    /// Reports all that is left.
    async fn finish(mut self) -> anyhow::Result<()> {
        loop {
            while !self.calls.is_empty() {
                self.answered().await?;
            }
            self.sort();
            let left: Vec<usize> =
                (0..self.racks.len()).filter(|number| !self.racks[*number].ended.is_empty()).collect();
            if left.is_empty() {
                return Ok(());
            }
            for number in left {
                self.report(number);
                while self.calls.len() >= CALLS {
                    self.answered().await?;
                }
            }
        }
    }
}

/// Reports that these allocations have ended, each with the position of its machine among these, and renews the leases of all of them. Gives what has to be
/// reported again: all, when the cell asks to be asked later.
pub(crate) async fn relay(
    mut client: AgentsClient<Channel>,
    machines: &[Registered],
    ended: Vec<(u64, u32)>,
) -> anyhow::Result<Vec<(u64, u32)>> {
    let stopped = i32::from(v1::AllocationState::Stopped);
    let request = v1::ReportManyRequest {
        machines: machines.iter().map(|machine| machine.id).collect(),
        epochs: machines.iter().map(|machine| machine.epoch).collect(),
        of: ended.iter().map(|(_, position)| *position).collect(),
        allocations: ended.iter().map(|(allocation, _)| *allocation).collect(),
        states: vec![stopped; ended.len()],
        ..v1::ReportManyRequest::default()
    };
    match client.report_many(request).await {
        Ok(answer) => {
            let gone = answer.into_inner().register;
            ensure!(gone.is_empty(), "{} machines lost their leases: reports came too late", gone.len());
            Ok(Vec::new())
        }
        Err(status) if status.code() == Code::ResourceExhausted => Ok(ended),
        Err(status) => bail!("a report was not taken: {status}"),
    }
}
