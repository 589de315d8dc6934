//! What is done to a real server over real connections, and the evidence of it: watchers that do not read, a full disk, a damaged log, a
//! kill. Without a bug it is green, and with the right one it is not.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use plenum_checker::calls::{self, Clock, Log, Reply};
use plenum_checker::properties::{Damage, FullDisk, Made, SlowWatchers};
use plenum_checker::stream::Event;
use plenum_checker::watch::Watcher;
use plenum_checker::{Chronicle, Evidence, Recording};
use plenum_proto::v1;
use plenum_server::{Handle, Server, ServerOptions};
use plenum_testkit::JobBuilder;
use prost::Message;
use tempfile::TempDir;

use crate::client::Client;

/// A loaded machine takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub(crate) fn log_in(folder: &Path, name: &str, clock: Clock) -> Log {
    Log::create(&folder.join(format!("{name}.calls")), clock).unwrap()
}

/// A server in a folder of its own, on this test's runtime.
pub(crate) struct Served {
    handle: Option<Handle>,
    pub(crate) options: ServerOptions,
    pub(crate) dir: TempDir,
}

impl Served {
    pub(crate) async fn start(set: impl FnOnce(&mut ServerOptions)) -> Self {
        let dir = TempDir::new().unwrap();
        let mut options = ServerOptions::new(dir.path().join("cell"));
        options.settings.segment_bytes = 1 << 20;
        set(&mut options);
        let handle = Server::start(options.clone()).await.unwrap();
        options.listen = handle.address();
        Self { handle: Some(handle), options, dir }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.options.listen)
    }

    pub(crate) async fn stop(&mut self) {
        self.handle.take().unwrap().shutdown().await.unwrap();
    }

    /// It dies as a process does, and comes back.
    async fn dies(&mut self) {
        self.handle.take().unwrap().kill().await.unwrap();
        self.handle = Some(Server::start(self.options.clone()).await.unwrap());
    }

    pub(crate) async fn begin_again(&mut self, set: impl FnOnce(&mut ServerOptions)) {
        if self.handle.is_some() {
            self.stop().await;
        }
        set(&mut self.options);
        self.handle = Some(Server::start(self.options.clone()).await.unwrap());
    }

    pub(crate) async fn client(&self, name: &str) -> Client {
        Client::open(&self.address(), name, log_in(self.dir.path(), name, Clock::start()), 5).await
    }

    pub(crate) async fn machine(&self) -> v1::RegisterResponse {
        self.register(crate::bench::machine("m1", 9000, &[])).await
    }

    async fn register(&self, machine: v1::RegisterMachine) -> v1::RegisterResponse {
        let channel = tonic::transport::Endpoint::from_shared(self.address()).unwrap().connect_lazy();
        let request = v1::RegisterRequest { machine: Some(machine), ..v1::RegisterRequest::default() };
        v1::agents_client::AgentsClient::new(channel).register(request).await.unwrap().into_inner()
    }

    /// Why an agent can't renew its lease.
    async fn lease_error(&self, of: &v1::RegisterResponse) -> Option<String> {
        let channel = tonic::transport::Endpoint::from_shared(self.address()).unwrap().connect_lazy();
        let report = v1::ReportRequest { machine: of.machine, epoch: of.epoch, ..v1::ReportRequest::default() };
        let renewed = v1::agents_client::AgentsClient::new(channel).report(report).await;
        renewed.err().map(|status| status.to_string())
    }
}

/// A machine that says something else of itself than when it registered before: some 80 kB in a delta. A cell keeps a thousand sets of
/// attributes that no machine has, and so there are few.
fn talkative_machine(number: usize) -> v1::RegisterMachine {
    let attributes = (0..256).map(|attribute| (format!("attribute-{attribute:0>50}"), format!("{:0>250}", number % 4)));
    v1::RegisterMachine { attributes: attributes.collect(), ..crate::bench::machine("m1", 9000, &[]) }
}

/// Bytes of memory that this process occupies.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// The checker's own program, which follows a cell in a process of its own: what it keeps is not taken for the server's.
struct Reader {
    process: Child,
    file: PathBuf,
}

impl Reader {
    fn start(address: &str, folder: &Path) -> Self {
        let file = folder.join("reading.stream");
        let end = u64::MAX.to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_plenum-checker"));
        command.args(["watch", "--addr", address, "--until-revision", &end, "--record"]).arg(&file);
        Self { process: command.spawn().unwrap(), file }
    }

    /// How much it has heard.
    fn bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |file| file.len())
    }

    /// What it has heard, once that goes as far as a revision.
    async fn heard(self, revision: u64) -> Recording {
        loop {
            let before = self.bytes();
            tokio::time::sleep(Duration::from_millis(100)).await;
            if self.bytes() > before {
                continue;
            }
            let recording = Recording::read("reading", std::fs::read(&self.file).unwrap().into()).unwrap();
            if recording.revision().is_some_and(|heard| heard >= revision) {
                return recording;
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// What the cell of `slow_watchers` keeps for watchers.
const RECENT_BYTES: u64 = 1 << 20;

/// Eight watchers that do not read while four hundred large deltas come, and one that reads.
pub(crate) async fn slow_watchers() -> (Chronicle, SlowWatchers) {
    let served = Served::start(|options| {
        options.settings.recent_bytes = usize::try_from(RECENT_BYTES).unwrap();
        options.settings.sync.message_bytes = 16 << 10;
        // What waits for a history on a slow disk has a bound of its own.
        options.settings.history = false;
    })
    .await;
    let reader = Reader::start(&served.address(), served.dir.path());
    let mut stalled = Vec::new();
    for number in 0..8 {
        let mut watcher = Watcher::new(&format!("stalled{number}"), &served.address()).unwrap();
        watcher.connect().await.unwrap();
        watcher.next().await.unwrap();
        stalled.push(watcher);
    }
    let (mut told, mut before) = (0, 0);
    for number in 0..420 {
        let machine = talkative_machine(number);
        told += machine.encoded_len() as u64;
        served.register(machine).await;
        // Whoever reads is never so far behind that it would be begun anew.
        within("the one who reads", async {
            while reader.bytes() + RECENT_BYTES / 2 < told {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        // What a cell needs anyway is there by then. The others are far more than all that stands between the cell and a watcher:
        // windows, messages, the connection's buffers.
        if number == 20 {
            before = resident_bytes();
        }
    }
    let memory_bytes = (before, resident_bytes());
    let target = stalled[0].status().await.unwrap().revision;
    let reading = vec![within("the one who reads", reader.heard(target)).await];
    for watcher in &mut stalled {
        within(&watcher.recording.name.clone(), watcher.follow_until(target)).await.unwrap();
    }
    let stalled: Vec<Recording> = stalled.into_iter().map(|watcher| watcher.recording).collect();
    let chronicle = Chronicle::of(&reading).unwrap().pop().unwrap();
    let run = SlowWatchers { stalled, reading, target, memory_bytes, memory_bound_bytes: 24 << 20 };
    (chronicle, run)
}

/// A cell whose disk has no room for a while. What happened, and what its watcher and its client were told.
pub(crate) async fn full_disk() -> (Vec<FullDisk>, Evidence) {
    let mut served = Served::start(|_| {}).await;
    let machine = served.machine().await;
    let mut watcher = Watcher::new("main", &served.address()).unwrap();
    watcher.connect().await.unwrap();
    let mut client = served.client("anna").await;
    let mut events = vec![FullDisk::Commit(client.commit().await)];

    // No disk has so much; the cell may not use the last of it.
    served.begin_again(|options| options.settings.reserve_bytes = Some(1 << 60)).await;
    events.push(FullDisk::Fills);
    within("read-only", async {
        while watcher.status().await.is_ok_and(|status| status.read_only.is_empty()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for _ in 0..3 {
        events.push(FullDisk::Commit(client.commit().await));
        events.push(FullDisk::Status(watcher.status().await.unwrap().read_only));
        events.push(FullDisk::Read(match client.look().await {
            Reply::Revision(_) => None,
            other => Some(format!("{other:?}")),
        }));
        events.push(FullDisk::Heartbeat(served.lease_error(&machine).await));
    }
    let connected = watcher.connect().await;
    let heard = within("a message", watcher.next()).await;
    events.push(FullDisk::Read(connected.and(heard).err().map(|error| error.to_string())));

    served.begin_again(|options| options.settings.reserve_bytes = None).await;
    events.push(FullDisk::Frees);
    events.push(FullDisk::Status(watcher.status().await.unwrap().read_only));
    events.push(FullDisk::Commit(client.commit().await));

    watcher.connect().await.unwrap();
    within("the last commit", watcher.follow_until(client.newest())).await.unwrap();
    let calls = calls::read(&served.dir.path().join("anna.calls")).unwrap();
    (events, Evidence { recordings: vec![watcher.recording], calls, ..Evidence::default() })
}

/// A stopped cell whose log is to be damaged.
pub(crate) struct Stopped {
    served: Served,
    pub(crate) chronicle: Chronicle,
    newest: u64,
}

impl Stopped {
    /// After so many commits. With the history, a start begins with its checkpoint; without, with the first revision.
    pub(crate) async fn after(commits: usize, history: bool) -> Self {
        let mut served = Served::start(|options| options.settings.history = history).await;
        served.machine().await;
        let mut watcher = Watcher::new("main", &served.address()).unwrap();
        watcher.connect().await.unwrap();
        let mut client = served.client("anna").await;
        for number in 0..commits {
            // What a job says of itself takes several sectors, and most transactions one.
            if number % 4 == 3 {
                let spec = (0..4).fold(JobBuilder::new(&format!("job-{number}"), "anna"), |job, group| {
                    job.group(&format!("group-{group}"), 1, 100)
                });
                client.submit(spec.forever().spec()).await;
            }
            client.commit().await;
        }
        let newest = watcher.status().await.unwrap().revision;
        within("the newest", watcher.follow_until(newest)).await.unwrap();
        let chronicle = Chronicle::of(&[watcher.recording]).unwrap().pop().unwrap();
        served.stop().await;
        Self { served, chronicle, newest }
    }

    /// Files of the log that have something in them, and where that ends.
    pub(crate) fn logs(&self) -> Vec<(PathBuf, usize)> {
        let logs = written(&self.served.options.dir.join("log"));
        assert!(!logs.is_empty(), "no file of the log has anything in it");
        logs
    }

    /// What a start makes of a copy whose file of the log was injured at a place.
    pub(crate) async fn injured(&self, path: &Path, at: usize, injure: impl FnOnce(&mut [u8])) -> Damage {
        let cell = &self.served.options.dir;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let copy = TempDir::new().unwrap();
        let mut options = ServerOptions { dir: copy.path().join("cell"), ..self.served.options.clone() };
        options.listen.set_port(0);
        copy_folder(cell, &options.dir);
        let file = options.dir.join("log").join(&name);
        let mut bytes = std::fs::read(&file).unwrap();
        injure(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        let made = match tokio::spawn(Server::start(options)).await {
            Ok(Ok(handle)) => {
                let made = first_picture(&format!("http://{}", handle.address())).await;
                handle.shutdown().await.unwrap();
                made
            }
            Ok(Err(error)) => Made::Refused(full_text(&error)),
            Err(panic) => Made::Crashed(panic.to_string()),
        };
        Damage { place: format!("{name} {at}"), acknowledged: self.newest, made }
    }
}

/// A log that is damaged in many places, one at a time, and one that is not.
pub(crate) async fn damaged_log(history: bool) -> (Chronicle, Vec<Damage>) {
    let stopped = Stopped::after(25, history).await;
    let mut damages = Vec::new();
    for (path, end) in stopped.logs() {
        for step in 1..9 {
            let at = 4096 + (end - 4096) * step.min(7) / 8;
            let injure = |bytes: &mut [u8]| match step % 3 {
                // Nothing is wrong with the last one.
                _ if step == 8 => {}
                0 => bytes[at] ^= 1 << (step % 8),
                1 => bytes[at..(at + 512).min(end)].fill(0),
                _ => bytes[at..].fill(0),
            };
            damages.push(stopped.injured(&path, at, injure).await);
        }
    }
    (stopped.chronicle, damages)
}

/// A watcher that follows a client's commits.
pub(crate) async fn followed() -> Recording {
    let served = Served::start(|_| {}).await;
    served.machine().await;
    let mut watcher = Watcher::new("main", &served.address()).unwrap();
    watcher.connect().await.unwrap();
    let mut client = served.client("anna").await;
    for _ in 0..20 {
        client.commit().await;
    }
    let target = client.newest();
    // Whoever is not told of the last one hears of a later one.
    for _ in 0..5 {
        client.commit().await;
    }
    within("the commits", watcher.follow_until(target)).await.unwrap();
    watcher.recording
}

/// A server that is killed as soon as a commit was answered, and comes back. Its watcher goes on before that commit.
pub(crate) async fn killed() -> Evidence {
    // A history would know of what the log has not got, and the server would not come back.
    let mut served = Served::start(|options| options.settings.history = false).await;
    served.machine().await;
    let mut watcher = Watcher::new("main", &served.address()).unwrap();
    watcher.connect().await.unwrap();
    let mut client = served.client("anna").await;
    for _ in 0..10 {
        client.commit().await;
    }
    within("the commits", watcher.follow_until(client.newest())).await.unwrap();
    watcher.disconnect();
    client.commit().await;
    served.dies().await;
    watcher.connect().await.unwrap();
    let newest = watcher.status().await.unwrap().revision;
    within("what is left", watcher.follow_until(newest)).await.unwrap();
    let calls = calls::read(&served.dir.path().join("anna.calls")).unwrap();
    Evidence { recordings: vec![watcher.recording], calls, ..Evidence::default() }
}

/// A cell that stops and begins again, is killed and comes back: with a history from its last checkpoint and the log behind that, without one from the
/// whole log. The first watcher was told of all that was decided, the second one begins with the picture that the cell came back with.
pub(crate) async fn came_back(history: bool) -> (Chronicle, Vec<Recording>) {
    let mut served = Served::start(|options| options.settings.history = history).await;
    served.machine().await;
    let mut watcher = Watcher::new("main", &served.address()).unwrap();
    let mut client = served.client("anna").await;
    // Most of it behind the checkpoint: what moves while there is room.
    for (commits, kills) in [(3, false), (25, true)] {
        watcher.connect().await.unwrap();
        for _ in 0..commits {
            client.commit().await;
        }
        within("the commits", watcher.follow_until(client.newest())).await.unwrap();
        watcher.disconnect();
        if kills {
            served.dies().await;
        } else {
            served.begin_again(|_| {}).await;
        }
    }
    let mut fresh = Watcher::new("fresh", &served.address()).unwrap();
    fresh.connect_for_a_picture().await.unwrap();
    within("a picture", fresh.follow_until(1)).await.unwrap();
    watcher.connect().await.unwrap();
    let (_, shown) = fresh.recording.position().unwrap();
    within("what the picture shows", watcher.follow_until(shown)).await.unwrap();
    let chronicle = Chronicle::of(std::slice::from_ref(&watcher.recording)).unwrap().pop().unwrap();
    (chronicle, vec![watcher.recording, fresh.recording])
}

/// The first picture that a cell shows: its own start is the last revision in it.
async fn first_picture(address: &str) -> Made {
    let mut watcher = Watcher::new("after", address).unwrap();
    watcher.connect_for_a_picture().await.unwrap();
    within("a picture", watcher.follow_until(1)).await.unwrap();
    match watcher.recording.events.pop() {
        Some(Event::Snapshot(picture)) => Made::Started(picture),
        other => panic!("expected a snapshot, found {other:?}"),
    }
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Files of the log with the bytes in them that are no zeros.
fn written(log: &Path) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(log).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".segment")) && end > 8192 {
            found.push((path, end));
        }
    }
    found.sort();
    found
}

fn full_text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
