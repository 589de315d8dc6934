//! A whole agent, as a process, against a cell that is played by the test.

mod elsewhere;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use plenum_model::{AllocationId, JobId, MachineId};
use plenum_proto::v1::{
    self,
    agents_server::{Agents, AgentsServer},
};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::bench::PROGRAM;
use crate::skips::skipped;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Heard {
    registrations: Vec<v1::RegisterRequest>,
    transitions: Vec<v1::Transition>,
    logs: BTreeMap<u64, (Vec<u8>, Option<String>)>,
    /// Requests that were answered at all.
    answered: BTreeSet<u64>,
    /// Requests of which the next call is refused.
    refused: BTreeSet<u64>,
    /// Requests whose readers read nothing.
    stalled: BTreeSet<u64>,
    follower: Option<mpsc::Sender<Result<v1::Assignments, Status>>>,
    cell_id: u8,
    /// What a registration offers, above 1.
    revision: u64,
    /// Another agent has the machine.
    is_taken: bool,
    /// It has not come so far as the agent has seen.
    is_behind: bool,
    /// The last one that was refused for that.
    followed: Option<v1::FollowRequest>,
    /// All that were refused for that.
    reported: Vec<v1::ReportRequest>,
    /// What the last report said of the machine's fitness.
    unfit: i32,
    /// How long a report waits before it is heard.
    delay: Duration,
}

/// The cell, as an agent sees it.
#[derive(Clone, Default)]
struct Cell(Arc<Mutex<Heard>>);

type Follower = mpsc::Sender<Result<v1::Assignments, Status>>;

#[tonic::async_trait]
impl Agents for Cell {
    type FollowStream = ReceiverStream<Result<v1::Assignments, Status>>;

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let principal = request.metadata().get("plenum-principal").cloned();
        assert!(principal.is_some_and(|value| value.as_bytes().starts_with(b"agent/")));
        let mut heard = self.0.lock().unwrap();
        let instance = request.metadata().get("plenum-instance").map(|value| value.as_bytes().to_vec());
        heard.registrations.push(request.into_inner());
        assert_eq!(instance.as_deref(), heard.registrations.last().map(|last| last.instance.as_bytes()));
        if heard.is_taken {
            let mut refused = Status::already_exists("machine trial is served by another agent");
            refused.metadata_mut().insert("plenum-code", "MACHINE_TAKEN".parse().unwrap());
            return Err(refused);
        }
        Ok(Response::new(v1::RegisterResponse {
            machine: MachineId { slot: 0, generation: 1 }.to_bits(),
            epoch: 1,
            lease_micros: 10_000_000,
            renew_micros: 500_000,
            revision: 1 + heard.revision,
            incarnation: 1,
            cell_id: vec![heard.cell_id; 4].into(),
            ..Default::default()
        }))
    }

    async fn follow(&self, request: Request<v1::FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let mut heard = self.0.lock().unwrap();
        if heard.is_behind {
            heard.followed = Some(request.into_inner());
            return Err(older_copy());
        }
        let (sender, receiver) = mpsc::channel(16);
        heard.follower = Some(sender);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let delay = self.0.lock().unwrap().delay;
        tokio::time::sleep(delay).await;
        let mut heard = self.0.lock().unwrap();
        if heard.is_behind {
            heard.reported.push(request.into_inner());
            return Err(older_copy());
        }
        let report = request.into_inner();
        heard.unfit = report.unfit;
        heard.transitions.extend(report.transitions);
        Ok(Response::new(v1::ReportResponse { revision: 1 + heard.revision, register: false }))
    }

    async fn report_many(&self, _: Request<v1::ReportManyRequest>) -> Result<Response<v1::ReportManyResponse>, Status> {
        Err(Status::unimplemented("this agent speaks for itself"))
    }

    async fn send_logs(
        &self,
        request: Request<Streaming<v1::SendLogsRequest>>,
    ) -> Result<Response<v1::SendLogsResponse>, Status> {
        let mut stream = request.into_inner();
        while let Some(chunk) = stream.message().await? {
            if self.0.lock().unwrap().refused.remove(&chunk.request) {
                return Err(Status::internal("trouble"));
            }
            let stalls = self.0.lock().unwrap().stalled.contains(&chunk.request);
            if stalls && !chunk.data.is_empty() {
                std::future::pending::<()>().await;
            }
            let mut heard = self.0.lock().unwrap();
            heard.answered.insert(chunk.request);
            let log = heard.logs.entry(chunk.request).or_default();
            log.0.extend_from_slice(&chunk.data);
            if chunk.end {
                log.1 = Some(chunk.error);
            }
        }
        Ok(Response::new(v1::SendLogsResponse {}))
    }
}

fn older_copy() -> Status {
    let mut refused = Status::out_of_range("an older copy of the cell");
    refused.metadata_mut().insert("plenum-code", "NO_SUCH_REVISION".parse().unwrap());
    refused
}

struct Stage {
    cell: Cell,
    address: String,
    directory: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Self {
        let cell = Cell::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let service = AgentsServer::new(cell.clone());
        drop(tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        ));
        Self { cell, address, directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    fn agent(&self) -> Agent {
        self.agent_with(&["--stop-tasks-on-exit"])
    }

    fn agent_with(&self, flags: &[&str]) -> Agent {
        self.agent_named("trial", flags)
    }

    fn agent_named(&self, name: &str, flags: &[&str]) -> Agent {
        let path = self.path();
        let process = Command::new(PROGRAM)
            .args(["run", &self.address])
            .arg(path)
            .arg(name)
            .args(flags)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Agent(process)
    }

    /// What an agent says that ends by itself.
    async fn refused_agent(&self, name: &str) -> String {
        let mut command = Command::new(PROGRAM);
        command.args(["run", &self.address]).arg(self.path()).arg(name).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    /// Waits until `found` finds something in what the cell heard.
    async fn until<T>(&self, what: &str, found: impl Fn(&mut Heard) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(&mut self.cell.0.lock().unwrap()) {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what} did not happen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The next stream of assignments that an agent opens.
    async fn follower(&self) -> Follower {
        self.until("following", |heard| heard.follower.take()).await
    }

    async fn reported(&self, slot: u32, state: v1::AllocationState) -> v1::Transition {
        let bits = id(slot).to_bits();
        let is_it = |one: &&v1::Transition| one.allocation == bits && one.state() == state;
        self.until(&format!("{state:?} of {slot}"), |heard| heard.transitions.iter().find(is_it).cloned()).await
    }
}

struct Agent(Child);

impl Agent {
    async fn kill(mut self) {
        self.0.kill().await.unwrap();
    }

    async fn terminate(mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.0.id().unwrap().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().await.unwrap()
    }
}

fn id(slot: u32) -> AllocationId {
    AllocationId { slot, generation: 1 }
}

fn assignment(slot: u32, script: &str) -> v1::Assignment {
    v1::Assignment {
        allocation: id(slot).to_bits(),
        namespace: "default".to_owned(),
        job: "trial".to_owned(),
        job_id: JobId { slot: 3, generation: 1 }.to_bits(),
        group: "only".to_owned(),
        task: slot,
        resources: Some(v1::Resources { cpu_millis: 500, memory_bytes: 64 << 20, ..v1::Resources::default() }),
        body: Some(v1::GroupBody {
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            kill_timeout_micros: 2_000_000,
            ..v1::GroupBody::default()
        }),
        state: v1::AllocationState::Granted.into(),
        ..v1::Assignment::default()
    }
}

fn full(wanted: Vec<v1::Assignment>) -> Result<v1::Assignments, Status> {
    Ok(v1::Assignments { revision: 1, full: true, wanted, ..v1::Assignments::default() })
}

/// Makes a process hang as in the kernel: it takes no signal, SIGKILL included, until it is thawed.
struct Freezer(PathBuf);

impl Freezer {
    fn make(test: &str) -> Option<Self> {
        let group = PathBuf::from(format!("/sys/fs/cgroup/freezer/plenum-{test}-{}", std::process::id()));
        if std::fs::create_dir(&group).is_err() || !group.join("freezer.state").exists() {
            skipped("needs root and a version 1 freezer");
            return None;
        }
        Some(Self(group))
    }

    /// Freezes the one process of the machine that sleeps for so many seconds, as soon as its shell has become it.
    async fn freeze(&self, seconds: &str) {
        let line = format!("sleep\0{seconds}\0");
        let find = || {
            std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let is_it = std::fs::read(entry.path().join("cmdline")).ok()? == line.as_bytes();
                is_it.then(|| entry.file_name().into_string().unwrap())
            })
        };
        let begun = std::time::Instant::now();
        let found = loop {
            if let Some(found) = find() {
                break found;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody sleeps for {seconds} s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        std::fs::write(self.0.join("cgroup.procs"), found).unwrap();
        std::fs::write(self.0.join("freezer.state"), "FROZEN").unwrap();
    }

    fn thaw(&self) {
        std::fs::write(self.0.join("freezer.state"), "THAWED").unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn kill_shim(stage: &Stage, allocation: &str) {
    let record = std::fs::read_to_string(stage.path().join(format!("allocs/{allocation}/record-0"))).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let shim = nix::unistd::Pid::from_raw(i32::try_from(record["pid"].as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn cgroups_of(agent: &Path) -> Vec<PathBuf> {
    let spec = std::fs::read_to_string(agent).unwrap_or_default();
    let spec: serde_json::Value = serde_json::from_str(&spec).unwrap_or_default();
    let directories = spec["cgroup"]["directories"].as_object().cloned().unwrap_or_default();
    directories.values().map(|path| PathBuf::from(path.as_str().unwrap()).parent().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_agent_registers_runs_reports_and_sends_logs() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    let registration = stage.until("a registration", |heard| heard.registrations.first().cloned()).await;
    let machine = registration.machine.unwrap();
    assert_eq!(machine.name, "trial");
    assert!(machine.attributes.contains_key("kernel") && machine.capacity.unwrap().cpu_millis >= 1000);

    let tasks = vec![assignment(1, "echo hello from $PLENUM_JOB; echo oops >&2; exit 4"), assignment(2, "true")];
    follower.send(full(tasks)).await.unwrap();
    assert_eq!(stage.reported(1, v1::AllocationState::Failed).await.exit_code, 4);
    stage.reported(2, v1::AllocationState::Complete).await;

    for (request, stderr, expected) in [(1, false, "hello from trial\n"), (2, true, "oops\n")] {
        let asked =
            v1::LogsAsked { request, allocation: id(1).to_bits(), stderr, follow: true, ..v1::LogsAsked::default() };
        follower.send(Ok(v1::Assignments { logs: vec![asked], ..v1::Assignments::default() })).await.unwrap();
        let log = stage.until("a log", |heard| heard.logs.get(&request).filter(|log| log.1.is_some()).cloned()).await;
        assert_eq!((String::from_utf8(log.0).unwrap().as_str(), log.1.as_deref()), (expected, Some("")));
    }
    let asked = v1::LogsAsked { request: 3, allocation: id(77).to_bits(), ..v1::LogsAsked::default() };
    follower.send(Ok(v1::Assignments { logs: vec![asked], ..v1::Assignments::default() })).await.unwrap();
    let error = stage.until("an answer", |heard| heard.logs.get(&3)?.1.clone()).await;
    assert!(error.starts_with("alloc-77-1: nothing of it is kept"), "{error}");
    assert!(agent.terminate().await.success());
}

#[tokio::test]
async fn a_wanted_set_in_parts_counts_as_one() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    let script = "until test -e $PLENUM_JOB_DIR/go; do sleep 0.02; done";
    let first = v1::Assignments { more: true, ..full(vec![assignment(1, script)]).unwrap() };
    let second = v1::Assignments { more: true, wanted: vec![assignment(2, script)], ..v1::Assignments::default() };
    let last = v1::Assignments { wanted: vec![assignment(3, script)], ..v1::Assignments::default() };
    // The second time nothing changes: none of them is missing in it.
    for _ in 0..2 {
        for part in [&first, &second, &last] {
            follower.send(Ok(part.clone())).await.unwrap();
        }
    }
    for slot in 1..=3 {
        stage.reported(slot, v1::AllocationState::Running).await;
    }
    std::fs::write(stage.path().join("jobs/job-3-1-v0/go"), "").unwrap();
    for slot in 1..=3 {
        stage.reported(slot, v1::AllocationState::Complete).await;
    }
    assert!(agent.terminate().await.success());
}

fn followed(request: u64, slot: u32) -> Result<v1::Assignments, Status> {
    let asked = v1::LogsAsked { request, allocation: id(slot).to_bits(), follow: true, ..v1::LogsAsked::default() };
    Ok(v1::Assignments { logs: vec![asked], ..v1::Assignments::default() })
}

// Each reader of such a log waited for ever, and took one of the places for those that have something to read.
#[tokio::test]
async fn following_a_log_of_which_nothing_comes_ends() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    let waits_for_room = v1::Assignment { takes_over: vec![id(99).to_bits()], ..assignment(1, "true") };
    follower.send(full(vec![waits_for_room])).await.unwrap();
    // Nobody has ever heard of this one.
    follower.send(followed(1, 77)).await.unwrap();
    follower.send(followed(2, 1)).await.unwrap();
    let stop = v1::Assignments { stop: vec![id(1).to_bits()], ..v1::Assignments::default() };
    follower.send(Ok(stop)).await.unwrap();
    for (request, slot) in [(2, 1), (1, 77)] {
        let error = stage.until("an answer", |heard| heard.logs.get(&request)?.1.clone()).await;
        assert!(error.starts_with(&format!("alloc-{slot}-1: nothing of it is kept")), "{error}");
    }
    assert!(agent.terminate().await.success());
}

// The cell knew of no call that answered the reader before the first line came, and if that one broke off, nobody told the reader.
#[tokio::test]
async fn who_follows_a_log_is_answered_before_there_is_a_line() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    follower.send(full(vec![assignment(1, "sleep 1000")])).await.unwrap();
    stage.reported(1, v1::AllocationState::Running).await;
    follower.send(followed(1, 1)).await.unwrap();
    stage.until("an answer", |heard| heard.answered.contains(&1).then_some(())).await;
    assert!(agent.terminate().await.success());
}

// Whoever followed a quiet log when the stream of assignments ended kept its place for ever: the cell has forgotten its reader by then, and says
// so only to an agent that sends something.
#[tokio::test]
async fn readers_of_a_stream_that_ended_take_no_places_from_later_ones() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    follower.send(full(vec![assignment(1, "sleep 1000")])).await.unwrap();
    stage.reported(1, v1::AllocationState::Running).await;
    // As many as there are places.
    for request in 1..=64 {
        follower.send(followed(request, 1)).await.unwrap();
        stage.until("an answer", |heard| heard.answered.contains(&request).then_some(())).await;
    }
    // As at the end of an epoch.
    drop(follower);
    let follower = stage.follower().await;
    follower.send(full(vec![assignment(1, "sleep 1000")])).await.unwrap();
    follower.send(followed(65, 1)).await.unwrap();
    stage.until("an answer", |heard| heard.answered.contains(&65).then_some(())).await;
    let refused = stage.cell.0.lock().unwrap().logs[&65].1.clone();
    assert!(agent.terminate().await.success());
    assert_eq!(refused, None);
}

// An agent waited for all that it had killed before it did anything else: one process that hung kept it from registering and from heeding signals.
#[tokio::test]
async fn what_hangs_of_an_earlier_agent_keeps_the_next_one_from_nothing() {
    let Some(freezer) = Freezer::make("what-hangs") else { return };
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    // So long no task of another run of this test sleeps at the same time.
    let seconds = format!("7{:07}", std::process::id());
    let hanging = assignment(1, &format!("exec sleep {seconds}"));
    follower.send(full(vec![hanging.clone()])).await.unwrap();
    stage.reported(1, v1::AllocationState::Running).await;
    freezer.freeze(&seconds).await;
    agent.kill().await;
    kill_shim(&stage, "alloc-1-1");
    let agent = stage.agent_with(&[]);
    let again = stage.until("a second registration", |heard| heard.registrations.get(1).cloned()).await;
    assert_eq!(again.machine.unwrap().inventory[0].state(), v1::AllocationState::Running);
    let follower = stage.follower().await;
    let ended = tokio::time::timeout(Duration::from_secs(15), agent.terminate()).await;
    assert!(ended.unwrap().success());
    drop(follower);
    let agent = stage.agent();
    let follower = stage.follower().await;
    follower.send(full(vec![hanging, assignment(2, "true")])).await.unwrap();
    stage.reported(2, v1::AllocationState::Complete).await;
    let is_there = |one: &v1::Transition| {
        one.allocation == id(1).to_bits() && one.state() == v1::AllocationState::Running && !one.ready
    };
    stage.until("word that it is not ready", |heard| heard.transitions.iter().any(is_there).then_some(())).await;
    freezer.thaw();
    let told = stage.reported(1, v1::AllocationState::Failed).await;
    assert!(told.reason.starts_with("its shim was killed"), "{}", told.reason);
    assert!(agent.terminate().await.success());
}

// A call that failed was taken for a reader that had left. The reader waited for ever.
#[tokio::test]
async fn a_reader_is_told_when_its_log_can_not_be_sent() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    follower.send(full(vec![assignment(1, "echo hello; sleep 1000")])).await.unwrap();
    stage.reported(1, v1::AllocationState::Running).await;
    stage.cell.0.lock().unwrap().refused.insert(7);
    follower.send(followed(7, 1)).await.unwrap();
    let error = stage.until("an answer", |heard| heard.logs.get(&7)?.1.clone()).await;
    assert_eq!(error, "the machine's agent could not send it: trouble");
    assert!(agent.terminate().await.success());
}

// It could not tell them either, as that was to go over a connection of its own, too: they waited for ever.
#[tokio::test]
async fn readers_are_told_when_their_agent_has_no_descriptor_left_for_them() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    follower.send(full(vec![assignment(1, "echo hello; sleep 1000")])).await.unwrap();
    stage.reported(1, v1::AllocationState::Running).await;
    let pid = agent.0.id().unwrap().to_string();
    let limited = async |files: &str| {
        let files = format!("--nofile={files}:");
        Command::new("prlimit").args(["--pid", &pid, &files]).status().await.is_ok_and(|status| status.success())
    };
    assert!(limited("4").await);
    follower.send(followed(7, 1)).await.unwrap();
    let error = stage.until("an answer", |heard| heard.logs.get(&7)?.1.clone()).await;
    assert!(error.starts_with("the machine's agent could not send it: "), "{error}");
    assert!(limited("1024").await);
    assert!(agent.terminate().await.success());
}

// What the agent sent to readers that read nothing filled the window of its only connection: its reports did not get through, its lease
// ran out, and readers of other logs waited for ever.
#[tokio::test]
async fn readers_who_do_not_read_keep_nobody_else_waiting() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    // More than HTTP/2 takes of it, a mebibyte a connection, and no faster than a follower reads it.
    let loud =
        assignment(1, "for i in $(seq 30); do head -c 100000 /dev/zero; sleep 0.05; done; touch done; sleep 1000");
    follower.send(full(vec![loud.clone()])).await.unwrap();
    stage.reported(1, v1::AllocationState::Running).await;
    stage.cell.0.lock().unwrap().stalled.extend(11..14);
    for request in 11..14 {
        follower.send(followed(request, 1)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    let quiet = assignment(2, "echo hello");
    follower.send(Ok(v1::Assignments { wanted: vec![quiet], ..v1::Assignments::default() })).await.unwrap();
    stage.reported(2, v1::AllocationState::Complete).await;
    follower.send(followed(2, 2)).await.unwrap();
    let log = stage.until("a log", |heard| heard.logs.get(&2).filter(|log| log.1.is_some()).cloned()).await;
    assert_eq!(log, (b"hello\n".to_vec(), Some(String::new())));
    assert!(agent.terminate().await.success());
}

#[tokio::test]
async fn a_killed_agent_finds_its_tasks_again_and_a_graceful_one_leaves_nothing() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    let waits = assignment(1, "until test -e $PLENUM_JOB_DIR/go; do sleep 0.02; done; exit 9");
    let sleeps = assignment(2, "sleep 600");
    follower.send(full(vec![waits.clone(), sleeps.clone()])).await.unwrap();
    stage.reported(1, v1::AllocationState::Running).await;
    stage.reported(2, v1::AllocationState::Running).await;
    agent.kill().await;

    let agent = stage.agent();
    let follower = stage.follower().await;
    let again = stage.until("a second registration", |heard| heard.registrations.get(1).cloned()).await;
    let inventory = again.machine.unwrap().inventory;
    let states: Vec<_> = inventory.iter().map(|item| (item.allocation, item.state())).collect();
    let running = v1::AllocationState::Running;
    assert_eq!(states, [(id(1).to_bits(), running), (id(2).to_bits(), running)]);
    let known = |assignment: v1::Assignment| v1::Assignment { state: running.into(), ..assignment };
    follower.send(full(vec![known(waits), known(sleeps)])).await.unwrap();
    std::fs::write(stage.path().join("jobs/job-3-1-v0/go"), "").unwrap();
    assert_eq!(stage.reported(1, v1::AllocationState::Failed).await.exit_code, 9);

    let cgroups = cgroups_of(&stage.path().join("allocs/alloc-2-1/spec.json"));
    assert!(agent.terminate().await.success());
    let last = stage.reported(2, v1::AllocationState::Failed).await;
    assert_eq!(last.reason, "its agent ended, and its tasks with it");
    let left: Vec<_> = cgroups.iter().filter(|cgroup| cgroup.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

// One that was to stop its tasks, and had none, was gone before its word was on its way: tasks were placed there until its lease ended.
#[tokio::test]
async fn an_agent_with_nothing_to_stop_tells_the_cell_that_it_leaves() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let _follower = stage.follower().await;
    stage.cell.0.lock().unwrap().delay = Duration::from_millis(200);
    assert!(agent.terminate().await.success());
    assert_eq!(stage.cell.0.lock().unwrap().unfit, i32::from(v1::Unfit::AgentLeaves));
}

#[tokio::test]
async fn two_agents_do_not_share_a_directory() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    stage.follower().await;
    let message = stage.refused_agent("trial").await;
    assert!(message.contains("another agent uses it"), "{message}");
    agent.terminate().await;
}

// Its loop marked each end itself. On a disk that did not answer it stood still: its lease ran out, and what ran there
// was started elsewhere, too.
#[tokio::test]
async fn a_disk_that_does_not_take_a_mark_keeps_no_other_task_from_being_told() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    let until = |file: &str| format!("until test -e $PLENUM_JOB_DIR/{file}; do sleep 0.02; done");
    follower.send(full(vec![assignment(1, &until("first")), assignment(2, &until("second"))])).await.unwrap();
    for slot in 1..=2 {
        stage.reported(slot, v1::AllocationState::Running).await;
    }
    // Who opens it for writing waits for a reader.
    let mark = stage.path().join("allocs").join(id(1).to_string()).join("ended");
    nix::unistd::mkfifo(&mark, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let job = stage.path().join("jobs/job-3-1-v0");
    std::fs::write(job.join("first"), "").unwrap();
    stage.reported(1, v1::AllocationState::Complete).await;
    std::fs::write(job.join("second"), "").unwrap();
    stage.reported(2, v1::AllocationState::Complete).await;
    agent.kill().await;
}

#[tokio::test]
async fn an_agent_whose_machine_is_taken_asks_again_as_the_same_one_and_starts_nothing() {
    let stage = Stage::set().await;
    stage.cell.0.lock().unwrap().is_taken = true;
    let agent = stage.agent();
    stage.until("asking again", |heard| (heard.registrations.len() >= 3).then_some(())).await;
    {
        let mut heard = stage.cell.0.lock().unwrap();
        assert!(heard.follower.is_none() && heard.transitions.is_empty());
        // A server that is not told when believes a registration that comes late, of an agent that is dead.
        let asked: Vec<u64> = heard.registrations.iter().map(|one| one.asked_micros).collect();
        assert!(asked[0] > 0 && asked.is_sorted_by(|one, next| one < next), "{asked:?}");
        heard.is_taken = false;
    }
    stage.follower().await;
    agent.kill().await;
    let agent = stage.agent();
    stage.follower().await;
    let instances = |heard: &mut Heard| {
        let all: std::collections::BTreeSet<_> = heard.registrations.iter().map(|one| one.instance.clone()).collect();
        Some(all)
    };
    let instances = stage.until("registrations", instances).await;
    assert_eq!(instances.len(), 1, "{instances:?}");
    assert!(instances.iter().all(|instance| (1..=64).contains(&instance.len())));
    assert!(agent.terminate().await.success());
}

// Within its lease it asked for the same stream again and again, and once the older copy had come as far, stopped what that one did not know.
#[tokio::test]
async fn an_agent_that_has_seen_more_than_its_server_has_registers_and_its_tasks_go_on() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    follower.send(full(vec![assignment(1, "sleep 1000")])).await.unwrap();
    stage.reported(1, v1::AllocationState::Running).await;
    {
        let mut heard = stage.cell.0.lock().unwrap();
        // A registration that offers less than reports were answered with would be refused by the agent.
        (heard.is_behind, heard.revision) = (true, 10);
    }
    drop(follower);
    let again = stage.until("registering again", |heard| heard.registrations.get(1).cloned()).await;
    let inventory = again.machine.unwrap().inventory;
    assert_eq!((inventory.len(), inventory[0].state()), (1, v1::AllocationState::Running));
    let followed = stage.until("following", |heard| heard.followed).await;
    assert!(followed.incarnation == 1 && followed.revision > 0, "{followed:?}");
    stage.cell.0.lock().unwrap().is_behind = false;
    stage.follower().await;
    assert!(agent.terminate().await.success());
}

// The older copy was told how a task had ended, which it did not know, and the agent forgot that.
#[tokio::test]
async fn an_end_that_was_told_to_a_server_that_has_less_is_told_again_to_one_that_has_it() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    let waits = assignment(1, "until test -e $PLENUM_JOB_DIR/go; do sleep 0.02; done; exit 4");
    follower.send(full(vec![waits])).await.unwrap();
    stage.reported(1, v1::AllocationState::Running).await;
    {
        let mut heard = stage.cell.0.lock().unwrap();
        (heard.is_behind, heard.revision) = (true, 10);
    }
    std::fs::write(stage.path().join("jobs/job-3-1-v0/go"), "").unwrap();
    let ended = |again: &&v1::RegisterRequest| {
        let inventory = again.machine.as_ref().map(|machine| &machine.inventory[..]).unwrap_or_default();
        inventory.iter().any(|item| item.state() == v1::AllocationState::Failed)
    };
    let (reported, registered) = stage
        .until("registering with what has ended", |heard| {
            heard.registrations.iter().find(ended)?;
            Some((heard.reported.clone(), heard.registrations.len()))
        })
        .await;
    assert!(reported.iter().all(|report| report.incarnation == 1 && report.revision > 0), "{reported:?}");
    assert!((1..=registered).contains(&reported.len()), "each that was refused made it register: {reported:?}");
    stage.cell.0.lock().unwrap().is_behind = false;
    assert_eq!(stage.reported(1, v1::AllocationState::Failed).await.exit_code, 4);
    drop(follower);
    assert!(agent.terminate().await.success());
}

#[tokio::test]
async fn a_job_that_runs_again_does_not_see_the_files_of_its_last_run() {
    let stage = Stage::set().await;
    let agent = stage.agent();
    let follower = stage.follower().await;
    let run = |slot, job_version, script| v1::Assignment { job_version, ..assignment(slot, script) };
    let first = run(1, 1, "echo first > $PLENUM_JOB_DIR/result");
    follower.send(full(vec![first])).await.unwrap();
    stage.reported(1, v1::AllocationState::Complete).await;
    let again = run(2, 2, "test ! -e $PLENUM_JOB_DIR/result && echo second > $PLENUM_JOB_DIR/result");
    follower.send(full(vec![again])).await.unwrap();
    stage.reported(2, v1::AllocationState::Complete).await;
    let sees = run(3, 2, "test $(cat $PLENUM_JOB_DIR/result) = second");
    follower.send(full(vec![sees])).await.unwrap();
    stage.reported(3, v1::AllocationState::Complete).await;
    assert!(agent.terminate().await.success());
}

#[tokio::test]
async fn what_an_agent_has_seen_is_not_unlearned_from_a_cell_that_it_refuses() {
    let stage = Stage::set().await;
    let seen = || {
        let text = std::fs::read_to_string(stage.path().join("cell.json")).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default()["revision"].as_u64()
    };
    // It is written aside.
    let sees = |revision| stage.until("writing it down", move |_| (seen() == Some(revision)).then_some(()));
    stage.cell.0.lock().unwrap().revision = 8;
    let agent = stage.agent();
    stage.follower().await;
    sees(9).await;
    agent.kill().await;
    let asked = |heard: &mut Heard| heard.registrations.len();
    let before = {
        let mut heard = stage.cell.0.lock().unwrap();
        heard.revision = 3;
        asked(&mut heard)
    };
    let agent = stage.agent();
    stage.until("refusing twice", |heard| (asked(heard) >= before + 3).then_some(())).await;
    assert_eq!(seen(), Some(9));
    assert!(stage.cell.0.lock().unwrap().follower.is_none());
    stage.cell.0.lock().unwrap().revision = 9;
    stage.follower().await;
    sees(10).await;
    assert!(agent.terminate().await.success());
}

// Only what it had seen with its registration was: a week later, an agent that was started anew followed last night's copy of its cell, and stopped all
// that was granted since.
#[tokio::test]
async fn the_next_agent_knows_what_an_agent_has_seen_since_its_registration() {
    let stage = Stage::set().await;
    let agent = stage.agent_with(&[]);
    let follower = stage.follower().await;
    let told = v1::Assignments { revision: 12, ..full(vec![assignment(1, "exit 0")]).unwrap() };
    follower.send(Ok(told)).await.unwrap();
    stage.reported(1, v1::AllocationState::Complete).await;
    assert!(agent.terminate().await.success());
    let text = std::fs::read_to_string(stage.path().join("cell.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["revision"], 12);
}
