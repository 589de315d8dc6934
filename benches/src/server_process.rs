//! A server as a process of its own, beside its clients in the harness's: this program, run again. It tells its address in a file of its folder, and ends with
//! the harness, however that ends.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;

use crate::interrupt;

/// Where a server tells its address.
const ADDRESS: &str = "address";
/// How long a server may take to start, recovery included, and to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server that runs.
pub(crate) struct ServerProcess {
    child: Child,
    address: String,
}

impl ServerProcess {
    /// Starts this program with a command that serves from this folder, and waits until it does.
    pub(crate) async fn start(
        command: &str,
        dir: &Path,
        arguments: impl IntoIterator<Item = String>,
    ) -> anyhow::Result<Self> {
        let file = dir.join(ADDRESS);
        // One that was killed left its own.
        drop(std::fs::remove_file(&file));
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut server = Command::new(program);
        server.arg(command).arg("--dir").arg(dir).args(arguments);
        // Ctrl-C is for the harness; the server follows it anyway.
        let child = interrupt::spared(server.stdin(Stdio::null()).stdout(Stdio::null()));
        let mut started = Self { child: child.context("cannot start the server")?, address: String::new() };
        let began = Instant::now();
        loop {
            if let Some(status) = started.child.try_wait()? {
                bail!("the server ended while it started: {status}");
            }
            // It is written in one step.
            if let Ok(address) = std::fs::read_to_string(&file) {
                started.address = format!("http://{}", address.trim());
                return Ok(started);
            }
            ensure!(began.elapsed() < PATIENCE, "the server did not serve within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as an operator would (SIGTERM), and waits until it has ended.
    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        let process = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(process, Signal::SIGTERM).context("cannot end the server")?;
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the server was told to end, and ended with {status}");
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "the server did not end within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it, as a power cut would as far as the process is concerned. A program that records how it is run (`cargo xtask package`) writes
    /// that when it ends by itself: such a one is asked to.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        if std::env::var_os("LLVM_PROFILE_FILE").is_some() {
            return self.end().await;
        }
        self.child.kill().context("cannot kill the server")?;
        self.child.wait().context("cannot wait for the server")?;
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        interrupt::ended(&self.child);
    }
}

/// What a server does first: it ends when the harness does.
pub(crate) fn follow_the_harness() -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("cannot follow the harness")
}

/// What a server does that can be reached, where it is none of a cell's: those tell their address themselves.
pub(crate) fn tell_address(dir: &Path, address: SocketAddr) -> anyhow::Result<()> {
    let (draft, file) = (dir.join("address.tmp"), dir.join(ADDRESS));
    // In one step: who waits for it would read a part of it.
    let told = std::fs::write(&draft, address.to_string()).and_then(|()| std::fs::rename(&draft, &file));
    told.with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_told_is_whole_and_leaves_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        for port in [4711, 4712] {
            tell_address(dir.path(), ([127, 0, 0, 1], port).into()).unwrap();
            assert_eq!(std::fs::read_to_string(dir.path().join(ADDRESS)).unwrap(), format!("127.0.0.1:{port}"));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
        assert!(tell_address(&dir.path().join("gone"), ([127, 0, 0, 1], 4711).into()).is_err());
    }
}
