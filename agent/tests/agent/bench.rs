//! A place to run tasks in, cleaned up when it is dropped.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use plenum_agent::{
    cgroup::{AgentCgroup, Mounts},
    directories::AgentDirectory,
    driver::{Driver, DriverEvent, Exit, Recovered, TaskSpec},
    exec::{ExecDriver, ExecOptions, ShimProgram},
    isolation::Isolation,
    logs,
};
use plenum_model::{AllocationId, JobId};
use tokio::sync::mpsc;

use crate::skips::skipped;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_plenum-agent-alone");
const PATIENCE: Duration = Duration::from_secs(60);

/// A name of cgroups that no other test, and no other run of this one, uses at the same time.
pub(crate) fn unique_machine_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Whether tasks are separated in this way from the machine, as a probe of ours says; otherwise the story is skipped. That it says so wherever they
/// can be has a test of its own, in `namespaces`.
pub(crate) fn is_isolated(way: &str, has: impl Fn(Isolation) -> bool) -> bool {
    let probed = shim().probe();
    let is_isolated = has(probed.isolation);
    if !is_isolated {
        skipped(&format!("needs tasks with {way}, and has {probed:?}"));
    }
    is_isolated
}

/// Whether this is root; otherwise the story is skipped.
pub(crate) fn is_root() -> bool {
    let is_root = nix::unistd::Uid::effective().is_root();
    if !is_root {
        skipped("needs root");
    }
    is_root
}

/// What tests need that measure limits: root, and controllers. Without, they are skipped.
pub(crate) fn limits_are_testable() -> bool {
    let cgroup = Mounts::detect().and_then(|mounts| {
        let (cgroup, missing) = AgentCgroup::prepare(&mounts, &unique_machine_name());
        let cgroup = cgroup?;
        cgroup.remove();
        missing.is_empty().then_some(())
    });
    if cgroup.is_none() {
        skipped("needs root and the cpu, memory and pids controllers");
    }
    cgroup.is_some()
}

pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) cgroup: Option<AgentCgroup>,
    options: ExecOptions,
    driver: ExecDriver,
    events: mpsc::Receiver<DriverEvent>,
    next: u32,
}

impl Bench {
    /// With everything that the kernel gives.
    pub(crate) fn isolated() -> Self {
        let cgroup = Mounts::detect().and_then(|mounts| AgentCgroup::prepare(&mounts, &unique_machine_name()).0);
        Self::new(cgroup, shim().probe().isolation)
    }

    /// With neither cgroups nor namespaces.
    pub(crate) fn bare() -> Self {
        Self::new(None, Isolation::default())
    }

    /// Bare, with shims that are started by other words.
    pub(crate) fn by(words: &[&str]) -> Self {
        let (program, before) = words.split_first().unwrap();
        let arguments = before.iter().chain(&[PROGRAM, "shim"]).map(Into::into).collect();
        Self::with(ShimProgram { program: program.into(), arguments }, None, Isolation::default())
    }

    fn new(cgroup: Option<AgentCgroup>, isolation: Isolation) -> Self {
        Self::with(shim(), cgroup, isolation)
    }

    fn with(shim: ShimProgram, cgroup: Option<AgentCgroup>, isolation: Isolation) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = ExecOptions {
            directory: AgentDirectory::new(directory.path().to_owned()),
            shim,
            cgroup: cgroup.clone(),
            isolation,
            log_file_bytes_max: 64 << 10,
            ended_kept_max: 64,
            ended_bytes_max: 1 << 20,
        };
        let (sender, events) = mpsc::channel(16);
        let driver = ExecDriver::new(options.clone(), sender).unwrap();
        Self { directory, cgroup, options, driver, events, next: 0 }
    }

    /// An agent comes after this one, and finds what that left.
    pub(crate) fn next_agent(&mut self) -> Vec<Recovered> {
        let (sender, events) = mpsc::channel(16);
        (self.driver, self.events) = (ExecDriver::new(self.options.clone(), sender).unwrap(), events);
        self.driver.recover().unwrap()
    }

    pub(crate) fn task(&mut self, command: &[&str]) -> TaskSpec {
        self.next += 1;
        task(self.next, command)
    }

    pub(crate) fn shell(&mut self, script: &str) -> TaskSpec {
        self.task(&["/bin/sh", "-c", script])
    }

    pub(crate) fn start(&mut self, task: TaskSpec) {
        self.driver.start(task);
    }

    pub(crate) fn stop(&mut self, allocation: AllocationId) {
        self.driver.stop(allocation);
    }

    pub(crate) async fn next_event(&mut self) -> DriverEvent {
        loop {
            let event = self.any_event().await;
            if !matches!(event, DriverEvent::Recorded { .. }) {
                return event;
            }
        }
    }

    async fn any_event(&mut self) -> DriverEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event within a minute").unwrap()
    }

    /// Waits until the only task that begins was written down, and then runs.
    pub(crate) async fn started(&mut self) {
        let events = [self.any_event().await, self.any_event().await];
        assert!(matches!(events, [DriverEvent::Recorded { .. }, DriverEvent::Started { .. }]), "{events:?}");
    }

    /// Waits for the end of the only task, and that nothing is left of it.
    pub(crate) async fn ended(&mut self) -> Exit {
        loop {
            if let DriverEvent::Exited { allocation, exit, .. } = self.next_event().await {
                let event = self.next_event().await;
                assert!(matches!(event, DriverEvent::Gone { allocation: gone, .. } if gone == allocation), "{event:?}");
                assert_eq!(
                    self.cgroup.as_ref().map(|cgroup| cgroup.names().unwrap()).unwrap_or_default(),
                    [""; 0],
                    "cgroups are left"
                );
                return exit;
            }
        }
    }

    /// Waits for the end of any task, where others go on. Only without cgroups.
    pub(crate) async fn ended_among_others(&mut self) -> Exit {
        loop {
            if let DriverEvent::Exited { exit, .. } = self.next_event().await {
                return exit;
            }
        }
    }

    /// That nothing is told of any task for so long.
    pub(crate) async fn silent_for(&mut self, time: Duration) {
        if let Ok(event) = tokio::time::timeout(time, self.events.recv()).await {
            panic!("{event:?}");
        }
    }

    pub(crate) async fn run(&mut self, task: TaskSpec) -> Exit {
        self.start(task);
        self.ended().await
    }

    pub(crate) fn output(&self, allocation: AllocationId) -> String {
        let directory = allocation_directory(self.directory.path(), allocation);
        String::from_utf8(logs::read_tail(&directory, "stdout", 0).unwrap().0).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            for name in cgroup.names().unwrap() {
                let left = cgroup.task(&name);
                assert!(left.kill_until_empty(Duration::from_secs(10)).unwrap());
                let _ = left.remove();
            }
            cgroup.remove();
        }
    }
}

pub(crate) fn shim() -> ShimProgram {
    ShimProgram { program: PROGRAM.into(), arguments: vec!["shim".into()] }
}

pub(crate) fn allocation_directory(agent: &Path, allocation: AllocationId) -> PathBuf {
    agent.join("allocs").join(allocation.to_string())
}

pub(crate) fn allocation(slot: u32) -> AllocationId {
    AllocationId { slot, generation: 1 }
}

pub(crate) fn task(number: u32, command: &[&str]) -> TaskSpec {
    TaskSpec {
        allocation: allocation(number),
        restart: 0,
        job: JobId { slot: 9, generation: 1 },
        job_version: 1,
        command: command.iter().map(|&one| one.to_owned()).collect(),
        env: BTreeMap::from([("PLENUM_JOB".to_owned(), "trial".to_owned())]),
        cpu_millis: 1000,
        memory_bytes: 256 << 20,
        pids_max: 64,
        kill_timeout_ms: 10_000,
        traces: None,
        policy: None,
        recent_restarts_at: Vec::new(),
    }
}

/// Waits until `file` has content, and returns it.
pub(crate) fn content_of(file: &Path) -> String {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text,
            _ if std::time::Instant::now() > deadline => panic!("{} has no line", file.display()),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
