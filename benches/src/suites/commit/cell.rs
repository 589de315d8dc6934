//! The cell's server, and what is asked of its cell before the load and after it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use plenum_core::invariants;
use plenum_model::{Cell, MachineId};
use plenum_proto::sections::Sections;
use plenum_proto::v1::agents_client::AgentsClient;
use plenum_proto::v1::cell_client::CellClient;
use plenum_proto::v1::inspect_client::InspectClient;
use plenum_proto::v1::jobs_client::JobsClient;
use plenum_proto::v1::session_response::Tell;
use plenum_proto::{pages, v1};
use plenum_server::ServerOptions;
use tonic::transport::{Channel, Endpoint};

use crate::processes;
use crate::server_process::{self, ServerProcess};

/// How long a history may take to catch up.
const HISTORY_PATIENCE: Duration = Duration::from_secs(120);
/// Largest message that is taken.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// What each task gets.
const TASK_CPU_MILLIS: i64 = 100;
const TASK_MEMORY_BYTES: i64 = 64 << 20;
/// The term of leases: agents of a large cell report one after the other, and on a busy machine late. A lease that is lost would stop
/// the load; how long it would have lasted changes nothing that is measured.
const LEASE: Duration = Duration::from_secs(900);
/// When a server whose memory is measured gives back what it does not need …
const REST: Duration = Duration::from_secs(1);
/// … and how long it has nothing to do before its memory is measured: its last thread rests a second after the others.
const RESTING: Duration = Duration::from_secs(4);
/// Racks that machines stand in.
const RACKS: u32 = 1000;
/// Machines that register at a time.
const REGISTERING: u32 = 64;

/// How the server of this suite is run: with the settings that `plenum server` has by default, but for these.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Serving {
    /// Write a checkpoint only after so many bytes of log
    #[arg(long, value_name = "BYTES")]
    checkpoint_bytes: Option<u64>,
    /// Keep no history, and nothing of the log either: the cell can't be started again
    #[arg(long)]
    no_history: bool,
    /// Give memory back soon after the work has ended
    #[arg(long)]
    rest_soon: bool,
}

impl Serving {
    /// The defaults.
    pub(crate) const fn usual() -> Self {
        Self { checkpoint_bytes: None, no_history: false, rest_soon: false }
    }

    /// With checkpoints so rare.
    pub(crate) const fn checkpoint_after(bytes: u64) -> Self {
        Self { checkpoint_bytes: Some(bytes), ..Self::usual() }
    }

    /// Without a history: nothing goes into it, and there is no checkpoint. Segments of the log are used again, as with one, so that no start finds the
    /// cell again.
    pub(crate) const fn without_history() -> Self {
        Self { no_history: true, ..Self::usual() }
    }

    /// Gives memory back after a second without work, and not after a minute: the same, sooner.
    pub(crate) const fn resting_soon() -> Self {
        Self { rest_soon: true, ..Self::usual() }
    }

    /// Whether a history is kept.
    pub(crate) const fn has_history(self) -> bool {
        !self.no_history
    }

    fn arguments(self) -> Vec<String> {
        let checkpoints = self.checkpoint_bytes.map(|bytes| format!("--checkpoint-bytes={bytes}"));
        let history = self.no_history.then(|| "--no-history".to_owned());
        let rest = self.rest_soon.then(|| "--rest-soon".to_owned());
        checkpoints.into_iter().chain(history).chain(rest).collect()
    }
}

/// Runs the server.
pub(crate) fn serve(dir: PathBuf, serving: Serving) -> anyhow::Result<()> {
    server_process::follow_the_harness()?;
    let runtime = plenum_server::event_loop()?;
    let mut options = ServerOptions::new(dir);
    options.settings.history = serving.has_history();
    options.settings.forgets_log = !serving.has_history();
    options.settings.lease = LEASE;
    if serving.rest_soon {
        options.settings.rest = REST;
    }
    if let Some(bytes) = serving.checkpoint_bytes {
        options.settings.checkpoint_bytes = bytes;
        options.settings.checkpoint_interval = Duration::from_secs(24 * 3600);
    }
    runtime.block_on(async { plenum_server::run(options).await.context("the server ended") })
}

/// Starts a server on this directory, and waits until it serves.
pub(crate) async fn start(dir: &Path, serving: Serving) -> anyhow::Result<ServerProcess> {
    ServerProcess::start("serve", dir, serving.arguments()).await
}

/// A server's memory (proportional set size) when it has rested.
pub(crate) async fn memory_bytes(server: &ServerProcess) -> anyhow::Result<u64> {
    tokio::time::sleep(RESTING).await;
    Ok(processes::proportional_bytes(server.id())?.1)
}

/// A connection of one's own.
pub(crate) async fn connect(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true);
    endpoint.connect().await.with_context(|| format!("cannot connect to {address}"))
}

/// A client of the cell state.
pub(crate) fn client(channel: Channel) -> CellClient<Channel> {
    CellClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// A registered machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registered {
    pub(crate) id: u64,
    pub(crate) epoch: u32,
}

/// Registers so many machines, each with room for so many tasks. They get the next slots, and come in the order of their slots.
pub(crate) async fn register(
    address: &str,
    prefix: &str,
    machines: u32,
    tasks: u32,
) -> anyhow::Result<Vec<Registered>> {
    let client = AgentsClient::new(connect(address).await?);
    let (cpu_millis, memory_bytes) = (TASK_CPU_MILLIS * i64::from(tasks), TASK_MEMORY_BYTES * i64::from(tasks));
    let callers = (0..REGISTERING).map(|first| {
        let (mut client, prefix) = (client.clone(), prefix.to_owned());
        tokio::spawn(async move {
            let mut registered = Vec::new();
            for number in (first..machines).step_by(REGISTERING as usize) {
                let machine = v1::RegisterMachine {
                    name: format!("{prefix}-{number}"),
                    boot_id: format!("{number:08x}-{:04x}-4c5e-8f70-00ff10a0b0c9", prefix.len()),
                    capacity: Some(v1::Resources { cpu_millis, memory_bytes, ..v1::Resources::default() }),
                    attributes: attributes(number),
                    ..v1::RegisterMachine::default()
                };
                let request = v1::RegisterRequest { machine: Some(machine), ..v1::RegisterRequest::default() };
                let answer = client.register(request).await.context("a machine was not registered")?.into_inner();
                let slot = MachineId::from_bits(answer.machine).context("a machine's id")?.slot;
                registered.push((slot, Registered { id: answer.machine, epoch: answer.epoch }));
            }
            anyhow::Ok(registered)
        })
    });
    let mut registered = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        registered.extend(caller.await.context("an agent")??);
    }
    registered.sort_unstable_by_key(|(slot, _)| *slot);
    Ok(registered.into_iter().map(|(_, machine)| machine).collect())
}

/// What an agent finds, and what a site tells it of the machine.
fn attributes(number: u32) -> BTreeMap<String, String> {
    let rack = format!("r{}", number % RACKS);
    [("arch", "x86_64"), ("cgroup", "v2"), ("kernel", "6.12.48"), ("os", "linux"), ("zone", "eu-1a"), ("rack", &rack)]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Submits a job of so many tasks that run for ever.
pub(crate) async fn submit(channel: Channel, name: String, scheduler: String, count: u32) -> anyhow::Result<u64> {
    let resources =
        v1::Resources { cpu_millis: TASK_CPU_MILLIS, memory_bytes: TASK_MEMORY_BYTES, ..Default::default() };
    let group = v1::GroupShape {
        name: "main".to_owned(),
        count,
        resources: Some(resources),
        lost_after_micros: 60_000_000,
        ..v1::GroupShape::default()
    };
    let shape = v1::JobShape {
        namespace: "default".to_owned(),
        name,
        scheduler,
        priority: 50,
        kind: v1::JobKind::Forever.into(),
        groups: vec![group],
        ..v1::JobShape::default()
    };
    let body = v1::GroupBody {
        name: "main".to_owned(),
        driver: "exec".to_owned(),
        command: vec!["/bin/true".to_owned()],
        kill_timeout_micros: 10_000_000,
        ..v1::GroupBody::default()
    };
    let spec = v1::JobSpec { shape: Some(shape), body: Some(v1::JobBody { groups: vec![body] }) };
    let answer = JobsClient::new(channel).submit(v1::SubmitRequest { spec: Some(spec), ..Default::default() }).await;
    Ok(answer.context("a job was not submitted")?.into_inner().job)
}

/// The cell state as a watcher sees it.
pub(crate) async fn snapshot(address: &str) -> anyhow::Result<Cell> {
    let mut client = client(connect(address).await?);
    let mut stream = client.watch(v1::Hello::default()).await?.into_inner();
    let mut decoder = pages::Decoder::new(Sections::MIRROR);
    while let Some(message) = stream.message().await? {
        let Some(Tell::Snapshot(part)) = message.tell else { continue };
        for page in part.pages {
            decoder.add(page).context("a page of the snapshot")?;
        }
        if part.last {
            return decoder.finish().context("the snapshot");
        }
    }
    bail!("the stream ended before its snapshot was whole")
}

/// Checks that exactly these allocations are live, and that the cell is sound and has come so far.
pub(crate) async fn check(address: &str, expected: &mut [u64], revision: u64) -> anyhow::Result<()> {
    let cell = snapshot(address).await?;
    ensure!(
        cell.revision().0 >= revision,
        "revision {revision} was acknowledged, the cell is at {}",
        cell.revision().0
    );
    let mut found: Vec<u64> = cell.allocations().map(|allocation| allocation.id.to_bits()).collect();
    found.sort_unstable();
    expected.sort_unstable();
    let missing = expected.iter().filter(|id| found.binary_search(id).is_err()).count();
    let extra = found.iter().filter(|id| expected.binary_search(id).is_err()).count();
    ensure!(
        missing == 0 && extra == 0,
        "of {} acknowledged live allocations {missing} are not in the cell, and {extra} are in it that were not acknowledged",
        expected.len()
    );
    invariants::check_cell(&cell).map_err(|violation| anyhow::anyhow!("the cell is not sound: {violation}"))
}

/// The cell's own word on where it stands.
pub(crate) async fn status(address: &str) -> anyhow::Result<v1::StatusResponse> {
    let mut client = InspectClient::new(connect(address).await?);
    Ok(client.status(v1::StatusRequest {}).await.context("the cell's status")?.into_inner())
}

/// Waits until the history has everything that was decided. Gives the seconds that took.
pub(crate) async fn history_caught_up(address: &str) -> anyhow::Result<f64> {
    let began = Instant::now();
    loop {
        let status = status(address).await?;
        if status.history_revision >= status.revision {
            return Ok(began.elapsed().as_secs_f64());
        }
        ensure!(began.elapsed() < HISTORY_PATIENCE, "the history did not catch up within {HISTORY_PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
