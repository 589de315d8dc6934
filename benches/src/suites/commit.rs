//! Suite `commit`: durable commits, end to end. A server as a process of its own on a real disk, gRPC over loopback, and in this process
//! its clients: schedulers, each with a session's stream and a bounded number of transactions under way, and the agents that send
//! the receipts of what was stopped.
//!
//! Afterwards the server is killed, not ended, and started again on the same directory: every acknowledged outcome must be there,
//! and nothing else.

mod agents;
mod cell;
mod scheduler;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde_json::json;

use super::{Others, beside_this_program};
use crate::Run;
use crate::disk::{self, SyncProbe};
use crate::figure::{Better, Case, Figure, Parameters, number};
use crate::processes;
use crate::progress::say;
use agents::Agents;
use cell::CellProcess;
use scheduler::{Counters, Load, Scheduler};

pub(crate) const NAME: &str = "commit";

/// Machines of the cell. Reports go per machine, and a unary call costs more than a claim: with so many, each report carries the
/// receipts of some dozens of allocations.
const MACHINES: u32 = 1000;
/// Live allocations in steady state, of all schedulers.
const LIVE: u32 = 100_000;
/// What the load runs before it is measured: until the queue before the history would be full, if the history were too slow for this
/// load. What is measured before that cannot be kept up.
const WARM_UP: Duration = Duration::from_secs(10);
/// One sample.
const WINDOW: Duration = Duration::from_secs(2);
/// Writes of the disk's own figure, before the load and after it.
const SYNCS: usize = 250;
/// Threads of the clients' event loop.
const THREADS: usize = 2;

/// One load.
#[derive(Clone, Copy, Debug)]
struct Shape {
    claims: u32,
    streams: u32,
    in_flight: u32,
    /// Whether each scheduler follows the cell state and folds it into a mirror of its own.
    mirrors: bool,
}

/// What the quick form measures, and what the long form does besides.
const QUICK: [Shape; 3] = [
    Shape { claims: 100, streams: 4, in_flight: 16, mirrors: false },
    Shape { claims: 100, streams: 4, in_flight: 16, mirrors: true },
    Shape { claims: 1, streams: 4, in_flight: 64, mirrors: false },
];
const FURTHER: [Shape; 5] = [
    Shape { claims: 1, streams: 1, in_flight: 1, mirrors: false },
    Shape { claims: 1, streams: 64, in_flight: 4, mirrors: false },
    Shape { claims: 100, streams: 1, in_flight: 1, mirrors: false },
    Shape { claims: 100, streams: 16, in_flight: 16, mirrors: false },
    Shape { claims: 1000, streams: 4, in_flight: 4, mirrors: false },
];

impl Shape {
    fn name(&self) -> String {
        let mirrors = if self.mirrors { format!(" mirrors={}", self.streams) } else { String::new() };
        format!("claims={} streams={} in_flight={}{mirrors}", self.claims, self.streams, self.in_flight)
    }
}

/// What was seen in one window.
struct Window {
    seconds: f64,
    granted: u64,
    transactions: u64,
    latency_micros: Histogram<u64>,
}

/// Runs the server of this suite until it is killed.
pub(crate) fn serve(dir: PathBuf) -> anyhow::Result<()> {
    cell::serve(dir)
}

pub(crate) fn run(options: &Run) -> anyhow::Result<Vec<Figure>> {
    let folder = match &options.dir {
        Some(dir) => dir.clone(),
        None => beside_this_program()?,
    };
    let file_system = disk::file_system(&folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let mut figures = Vec::new();
    let further = if options.quick { &[][..] } else { &FURTHER };
    for shape in QUICK.iter().chain(further).filter(|shape| options.has_case(&shape.name())) {
        let scratch = tempfile::Builder::new().prefix("bench-cell-").tempdir_in(&folder);
        let scratch = scratch.with_context(|| format!("cannot make a folder in {}", folder.display()))?;
        let measured = runtime.block_on(measure(*shape, options, scratch.path().to_owned()));
        let measured = measured.with_context(|| shape.name())?;
        figures.extend(measured.figures(shape, &file_system)?);
    }
    Ok(figures)
}

/// What one case gave.
struct Measured {
    windows: Vec<Window>,
    syncs: [Vec<f64>; 2],
    parameters: Parameters,
}

async fn measure(shape: Shape, options: &Run, scratch: PathBuf) -> anyhow::Result<Measured> {
    let name = shape.name();
    let mut probe = SyncProbe::new(&scratch)?;
    let before = probe.seconds(SYNCS)?;
    let mut process = CellProcess::start(scratch.join("cell")).await?;
    let machines = cell::register(process.address(), MACHINES, LIVE).await?;
    let load = Arc::new(Load::new(shape.claims, shape.in_flight, LIVE / shape.streams));
    let agents = Agents::start(process.address(), machines).await?;
    let mut schedulers = Vec::new();
    for number in 0..shape.streams {
        let seed = options.seed.wrapping_mul(1000).wrapping_add(number.into());
        let scheduler =
            Scheduler::open(process.address(), number, shape.mirrors, seed, &load, agents.stopped()).await?;
        schedulers.push(tokio::spawn(scheduler.run()));
    }
    say(&format!("{name}: {MACHINES} machines, warming up"));
    let (windows, mut parameters) = watch(&load, &process, options).await?;
    load.stop();
    let mut live = Vec::new();
    let mut revision = 0;
    for scheduler in schedulers {
        let ended = scheduler.await.context("a scheduler of the load")??;
        live.extend(ended.live);
        revision = revision.max(ended.revision);
    }
    let reports = agents.finish().await?;
    let counters = load.counters();
    ensure!(
        counters.granted - counters.stopped == live.len() as u64,
        "granted less stopped is not what is live: {counters:?}"
    );
    process.kill().await?;
    let after = probe.seconds(SYNCS)?;
    let recovering = Instant::now();
    let mut again = CellProcess::start(scratch.join("cell")).await?;
    let recovered = recovering.elapsed().as_secs_f64();
    cell::check(again.address(), &mut live, revision).await.context("after kill -9 and a restart")?;
    say(&format!(
        "{name}: {} claims granted, {} refused; killed, and serves again after {recovered:.1} s: all {} live allocations are there",
        counters.granted,
        counters.refused,
        live.len()
    ));
    again.kill().await?;
    let more = [
        ("granted", json!(counters.granted)),
        ("refused", json!(counters.refused)),
        ("stopped", json!(counters.stopped)),
        ("reports", json!(reports)),
        ("recovered_in_seconds", json!(recovered)),
    ];
    parameters.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Ok(Measured { windows, syncs: [before, after], parameters })
}

/// Lets the load run, and looks at it.
async fn watch(load: &Load, process: &CellProcess, options: &Run) -> anyhow::Result<(Vec<Window>, Parameters)> {
    let running = || load.failure().map_or(Ok(()), |failure| Err(anyhow::anyhow!(failure)));
    tokio::time::sleep(WARM_UP).await;
    running()?;
    let (own, server) = (std::process::id(), process.id());
    let others = Others::look(vec![own, server])?;
    let began = Instant::now();
    let cpu = || Ok::<_, anyhow::Error>([processes::cpu_seconds(own)?, processes::cpu_seconds(server)?]);
    let (cpu_before, threads_before) = (cpu()?, processes::cpu_seconds_by_thread(server)?);
    let mut windows = Vec::new();
    load.take_latencies();
    for _ in 0..if options.quick { 4 } else { 8 } {
        let (counted, window) = (load.counters(), Instant::now());
        tokio::time::sleep(WINDOW).await;
        running()?;
        let Counters { granted, transactions, .. } = load.counters();
        windows.push(Window {
            seconds: window.elapsed().as_secs_f64(),
            granted: granted - counted.granted,
            transactions: transactions - counted.transactions,
            latency_micros: load.take_latencies(),
        });
    }
    let seconds = began.elapsed().as_secs_f64();
    let cores = |used: f64| json!((used / seconds * 100.0).round() / 100.0);
    let [client, served] = cpu()?;
    let threads = processes::cpu_seconds_by_thread(server)?;
    let threads = threads.iter().map(|(name, after)| (name, after - threads_before.get(name).unwrap_or(&0.0)));
    let threads: serde_json::Map<_, _> =
        threads.filter(|(_, used)| *used > 0.0).map(|(name, used)| (name.clone(), cores(used))).collect();
    let parameters = [
        ("cores_of_clients", cores(client - cpu_before[0])),
        ("cores_of_server", cores(served - cpu_before[1])),
        ("cores_of_server_by_thread", json!(threads)),
        ("cores_of_others", json!(others.cores()?)),
    ];
    Ok((windows, parameters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
}

impl Measured {
    fn figures(self, shape: &Shape, file_system: &str) -> anyhow::Result<Vec<Figure>> {
        let mut parameters = self.parameters;
        let more = [
            ("machines", json!(MACHINES)),
            ("live_allocations", json!(LIVE)),
            ("file_system", json!(file_system)),
            ("seconds_per_sample", json!(WINDOW.as_secs())),
            ("mirrors", json!(if shape.mirrors { shape.streams } else { 0 })),
            (
                "claim",
                json!(
                    "one grant, one stop of an older allocation picked at random, and its receipt by a report; refused claims do not count"
                ),
            ),
            (
                "clients",
                json!(
                    "in one process beside the server's; each stream a connection; without mirrors they receive outcomes and revisions only"
                ),
            ),
            (
                "commit_seconds",
                json!("from the sending of a transaction to its durable outcome, time in the window included"),
            ),
            (
                "disk_sync_seconds",
                json!("64 KiB into blocks that exist, then fdatasync; before and after the load, no load beside"),
            ),
            (
                "checked",
                json!(
                    "server killed and started again on its directory: live allocations are exactly the acknowledged ones"
                ),
            ),
        ];
        parameters.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let name = shape.name();
        let case = Case { suite: NAME, case: &name, parameters };
        let rate =
            |of: fn(&Window) -> u64| self.windows.iter().map(|window| number(of(window)) / window.seconds).collect();
        let latency = |quantile: f64| {
            let some = self.windows.iter().filter(|window| window.transactions > 0);
            some.map(|window| number(window.latency_micros.value_at_quantile(quantile)) / 1e6).collect()
        };
        let sync = |percent: usize| self.syncs.iter().map(|sorted| disk::percentile(sorted, percent)).collect();
        Ok(vec![
            case.figure("claims_per_second", "1/s", Better::Higher, rate(|window| window.granted))?,
            case.figure("transactions_per_second", "1/s", Better::Higher, rate(|window| window.transactions))?,
            case.figure("commit_seconds_p50", "s", Better::Lower, latency(0.5))?,
            case.figure("commit_seconds_p99", "s", Better::Lower, latency(0.99))?,
            case.figure("disk_sync_seconds_p50", "s", Better::Lower, sync(50))?,
            case.figure("disk_sync_seconds_p99", "s", Better::Lower, sync(99))?,
        ])
    }
}
