//! A real etcd beside the cell: one server with its default durability, on the same disk, and clients that commit.
//!
//! Knows nothing of Plenum. How it is found, or fetched, stands in `program`.

mod clients;
mod program;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tonic::transport::{Channel, Endpoint};

use crate::interrupt;
pub(crate) use clients::{Burst, Clients, VALUE_BYTES, commit};
pub(crate) use program::find;

/// The generated client.
#[allow(unreachable_pub, clippy::all, reason = "generated")]
mod wire {
    tonic::include_proto!("etcdserverpb");
}

/// How long it may take to start.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// What it may keep: a run never comes near, and at its bound it would refuse.
const QUOTA_BYTES: u64 = 8 << 30;

/// One server, alone, on a directory of its own.
pub(crate) struct EtcdProcess {
    child: Child,
    address: String,
    version: String,
}

impl EtcdProcess {
    /// Starts it on this directory, which it makes, and waits until it answers.
    pub(crate) async fn start(program: &Path, dir: &Path) -> anyhow::Result<Self> {
        let (client, peer) = (free_address()?, free_address()?);
        let mut command = interrupt::following(program)?;
        command.arg("--data-dir").arg(dir).args(["--name", "bench", "--log-level", "error"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.arg("--initial-cluster").arg(format!("bench={peer}"));
        command.arg("--quota-backend-bytes").arg(QUOTA_BYTES.to_string());
        let child = interrupt::spared(command.stdin(Stdio::null()).stdout(Stdio::null()));
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let mut started = Self { child, address: client, version: String::new() };
        let began = Instant::now();
        loop {
            if let Some(status) = started.child.try_wait()? {
                bail!("{} ended while it started: {status}", program.display());
            }
            match started.ask_version().await {
                Ok(version) => {
                    started.version = version;
                    return Ok(started);
                }
                Err(error) if began.elapsed() > START_PATIENCE => {
                    return Err(error.context(format!("etcd did not serve within {START_PATIENCE:?}")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn ask_version(&self) -> anyhow::Result<String> {
        let mut client = wire::maintenance_client::MaintenanceClient::new(connect(self.address.clone()).await?);
        Ok(client.status(wire::StatusRequest {}).await?.into_inner().version)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it says of itself.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

/// A connection of one's own.
async fn connect(address: String) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(address.clone())?.tcp_nodelay(true);
    endpoint.connect().await.with_context(|| format!("cannot connect to etcd at {address}"))
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        interrupt::ended(&self.child);
    }
}

/// A port of loopback that was free a moment ago.
fn free_address() -> anyhow::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot find a free port on loopback")?;
    let port = listener.local_addr()?.port();
    ensure!(port > 0, "the system gave port 0");
    Ok(format!("http://127.0.0.1:{port}"))
}
