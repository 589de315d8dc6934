//! The real server over real connections: rivals, restarts and crashes, watchers that do not read, a full disk, a damaged log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use plenum_checker::calls::{self, Clock, Log, Reply};
use plenum_checker::properties::{
    Damage, FullDisk, Made, SlowWatchers, property_a_full_disk_only_refuses, property_damage_is_named,
    property_slow_watchers_cost_nobody,
};
use plenum_checker::stream::Event;
use plenum_checker::watch::{WatchError, Watcher};
use plenum_checker::{Chronicle, Evidence, Recording, check};
use plenum_proto::v1;
use plenum_server::{Handle, Server, ServerOptions};
use plenum_testkit::{JobBuilder, TestCell};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Client;

/// A loaded machine takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Follows through restarts until it is told a revision to end at, and has reached it.
fn follow(mut watcher: Watcher, mut until: watch::Receiver<Option<u64>>) -> JoinHandle<Watcher> {
    tokio::spawn(async move {
        loop {
            let target = *until.borrow_and_update();
            let reached = watcher.recording.position().map_or(0, |(_, revision)| revision);
            if target.is_some_and(|target| reached >= target) {
                return watcher;
            }
            tokio::select! {
                heard = watcher.next() => match heard {
                    Ok(()) => {}
                    Err(WatchError::Bad(error)) => panic!("{error}"),
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        let _ = watcher.connect().await;
                    }
                },
                _ = until.changed() => {}
            }
        }
    })
}

fn log_in(folder: &Path, name: &str, clock: Clock) -> Log {
    Log::create(&folder.join(format!("{name}.calls")), clock).unwrap()
}

/// Each of the clients commits so many times, all at once; `answered` counts.
async fn rivals(clients: Vec<Client>, commits: usize, answered: &Arc<AtomicUsize>) -> Vec<Client> {
    let work = clients.into_iter().map(|mut client| {
        let answered = answered.clone();
        tokio::spawn(async move {
            for number in 0..commits {
                if number % 5 == 4 {
                    client.look().await;
                }
                client.commit().await;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            client
        })
    });
    let mut done = Vec::new();
    for client in work.collect::<Vec<_>>() {
        done.push(within("a client", client).await.unwrap());
    }
    done
}

#[tokio::test]
async fn a_served_cell_under_rivals_restarts_and_crashes_keeps_every_promise() {
    let folder = TempDir::new().unwrap();
    let mut cell = TestCell::start().await;
    let clock = Clock::start();
    let (end, until) = watch::channel(None);
    let mut main = Watcher::new("main", cell.address()).unwrap();
    main.connect().await.unwrap();
    let main = follow(main, until.clone());
    for number in 0..3 {
        cell.machine(&format!("m{number}"), 4000, Duration::from_millis(30)).await;
    }
    let names = ["anna", "bob", "carl"];
    let mut clients = Vec::new();
    for (seed, name) in (1..).zip(names) {
        clients.push(Client::open(cell.address(), name, log_in(folder.path(), name, clock), seed).await);
    }
    let answered = Arc::new(AtomicUsize::new(0));
    clients = rivals(clients, 15, &answered).await;
    let other = Watcher::new("other", cell.address()).unwrap();
    let other = follow(other, until);
    let counting = answered.clone();
    let running = tokio::spawn(async move { rivals(clients, 30, &counting).await });
    // In the middle of it: most of what they will ask is still to come.
    within("the rivals", async {
        while answered.load(Ordering::Relaxed) < 55 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    cell.crash().await;
    let clients = running.await.unwrap();
    cell.restart().await;
    let mut clients = rivals(clients, 5, &answered).await;
    clients[0].look().await;
    let streamed = session_recorded(cell.address(), 0).await;

    let target = clients.iter().map(Client::newest).max();
    end.send_replace(target);
    let (main, other) = (within("main", main).await.unwrap(), within("other", other).await.unwrap());
    let mut fresh = Watcher::new("fresh", cell.address()).unwrap();
    fresh.connect().await.unwrap();
    within("fresh", fresh.follow_until(target.unwrap())).await.unwrap();
    let mut evidence = Evidence::default();
    for revision in [target.unwrap() / 2, target.unwrap()] {
        evidence.listings.push(fresh.listing(Some(revision)).await.unwrap());
    }
    evidence.transactions = fresh.transactions().await.unwrap();
    evidence.recordings = vec![main.recording, other.recording, fresh.recording, streamed];
    for name in names {
        evidence.calls.extend(calls::read(&folder.path().join(format!("{name}.calls"))).unwrap());
    }
    is_worth_looking_at(&evidence);
    let verdict = check(&evidence);
    assert_eq!(verdict.violations, []);
    assert!(verdict.folded as u64 + 60 > target.unwrap(), "hardly anything was folded: {verdict:?}");
}

/// The program as people start it: it ends with 0 where all holds, and with 1 and all that does not where something does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_watches_records_and_judges() {
    let served = Served::start(|_| {}).await;
    served.machine().await;
    let mut client = served.client("anna").await;
    for _ in 0..10 {
        client.commit().await;
    }
    let (calls, record) = (served.dir.path().join("anna.calls"), served.dir.path().join("heard"));
    let program = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_plenum-checker"));
        let output = within("the program", command.args(arguments).kill_on_drop(true).output()).await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (calls, heard) = (calls.to_str().unwrap(), record.to_str().unwrap());
    let (code, said) = program(&["watch", "--addr", &served.address(), "--calls", calls, "--record", heard]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("0 violations;") && !said.contains(" 0 transactions"), "{said}");
    assert_eq!(program(&["offline", heard, "--calls", calls]).await.0, Some(0));
    // Somebody else was told of a transaction that nobody decided.
    let text = std::fs::read_to_string(calls).unwrap();
    let forged = served.dir.path().join("bob.calls");
    let line = text.lines().find(|line| line.starts_with("outcome")).unwrap();
    let asked = text.lines().find(|line| line.contains("transaction")).unwrap();
    let bytes = line.rsplit_once(' ').unwrap().1;
    let mut outcome = <v1::Outcome as prost::Message>::decode(from_hex(bytes).as_slice()).unwrap();
    outcome.revision += 1;
    let hex: String = prost::Message::encode_to_vec(&outcome).iter().map(|byte| format!("{byte:02x}")).collect();
    let transaction = asked.rsplit_once(' ').unwrap().1;
    std::fs::write(&forged, format!("called 1 5 transaction {transaction}\noutcome 1 9 {hex}\n")).unwrap();
    let (code, said) = program(&["offline", heard, "--calls", calls, forged.to_str().unwrap()]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("violation: durability: bob was told of"), "{said}");
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Conflicts happened, gangs missed their minimums, and what was asked again was answered again.
fn is_worth_looking_at(evidence: &Evidence) {
    let refusals = |kind: v1::RefusalKind| {
        let all = evidence.transactions.iter().filter_map(|view| view.outcome.as_ref());
        all.flat_map(|outcome| &outcome.refusals).filter(|refusal| refusal.kind() == kind).count()
    };
    let (conflicts, misfits) = (refusals(v1::RefusalKind::Conflict), refusals(v1::RefusalKind::Misfit));
    let mates = refusals(v1::RefusalKind::Mate);
    let unanswered = evidence.calls.iter().filter(|call| call.revision().is_none()).count();
    assert!(
        evidence.transactions.len() >= 135 && conflicts > 10 && misfits > 10 && mates > 0,
        "{conflicts} {misfits} {mates}"
    );
    assert!(unanswered > 0, "nobody asked while the server was away");
}

/// Commits over a session's stream, four at once, and records what comes down.
async fn session_recorded(address: &str, machine: u32) -> Recording {
    let channel = tonic::transport::Endpoint::from_shared(address.to_owned()).unwrap().connect_lazy();
    let spec = JobBuilder::new("streamed", "streamer").group("main", 40, 100).forever().spec();
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let job = jobs.submit(v1::SubmitRequest { spec: Some(spec) }).await.unwrap().into_inner().job;
    let (up, asked) = tokio::sync::mpsc::channel(8);
    let ask = |ask| v1::SessionRequest { ask: Some(ask) };
    let hello = v1::Hello { scheduler: "streamer".into(), namespace: "default".into(), ..v1::Hello::default() };
    up.send(ask(v1::session_request::Ask::Hello(hello))).await.unwrap();
    let mut client = v1::cell_client::CellClient::new(channel);
    let mut down = client.session(tokio_stream::wrappers::ReceiverStream::new(asked)).await.unwrap().into_inner();
    let mut recording = Recording::new("streamer");
    let (mut sent, mut answered, mut welcome) = (0, 0, None);
    while answered < 20 {
        let message = within("the stream", down.message()).await.unwrap().unwrap();
        if let Some(v1::session_response::Tell::Welcome(found)) = &message.tell {
            welcome = Some(found.clone());
        }
        answered += u64::from(matches!(message.tell, Some(v1::session_response::Tell::Outcome(_))));
        recording.take(message).unwrap();
        let Some(welcome) = &welcome else { continue };
        while sent < (answered + 4).min(20) {
            let task = u32::try_from(sent).unwrap();
            let placement =
                v1::Placement { job, job_version: 1, machines: vec![machine], tasks: vec![task], ..Default::default() };
            sent += 1;
            let transaction = v1::Transaction {
                session: welcome.session,
                number: sent,
                incarnation: welcome.incarnation,
                base_revision: welcome.revision,
                check: v1::ConflictCheck::Fit.into(),
                placements: vec![placement],
                ..v1::Transaction::default()
            };
            up.send(ask(v1::session_request::Ask::Commit(transaction))).await.unwrap();
        }
    }
    recording
}

/// A server in a folder of its own, on this test's runtime.
struct Served {
    handle: Option<Handle>,
    options: ServerOptions,
    dir: TempDir,
}

impl Served {
    async fn start(set: impl FnOnce(&mut ServerOptions)) -> Self {
        let dir = TempDir::new().unwrap();
        let mut options = ServerOptions::new(dir.path().join("cell"));
        options.settings.segment_bytes = 1 << 20;
        set(&mut options);
        let handle = Server::start(options.clone()).await.unwrap();
        options.listen = handle.address();
        Self { handle: Some(handle), options, dir }
    }

    fn address(&self) -> String {
        format!("http://{}", self.options.listen)
    }

    async fn stop(&mut self) {
        self.handle.take().unwrap().shutdown().await.unwrap();
    }

    async fn begin_again(&mut self, set: impl FnOnce(&mut ServerOptions)) {
        self.stop().await;
        set(&mut self.options);
        self.handle = Some(Server::start(self.options.clone()).await.unwrap());
    }

    async fn client(&self, name: &str) -> Client {
        Client::open(&self.address(), name, log_in(self.dir.path(), name, Clock::start()), 5).await
    }

    async fn machine(&self) {
        let channel = tonic::transport::Endpoint::from_shared(self.address()).unwrap().connect_lazy();
        let machine = crate::bench::machine("m1", 9000, &[]);
        let request = v1::RegisterRequest { machine: Some(machine), ..v1::RegisterRequest::default() };
        v1::agents_client::AgentsClient::new(channel).register(request).await.unwrap();
    }
}

/// A job whose shape takes about 15 kB in a delta.
fn large_job(number: usize) -> v1::JobSpec {
    let mut spec = JobBuilder::new(&format!("large-{number}"), "nobody").group("main", 1, 100).forever().spec();
    let values = (0..60).map(|value| format!("{value:0>240}")).collect();
    let constraint = v1::Constraint { attribute: "rack".into(), operator: v1::Operator::In.into(), values };
    spec.shape.as_mut().unwrap().groups[0].constraints.push(constraint);
    spec
}

/// Bytes of memory that this process occupies.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_do_not_read_are_begun_anew_and_cost_nobody() {
    let served = Served::start(|options| {
        options.settings.recent_bytes = 64 << 10;
        options.settings.sync.message_bytes = 16 << 10;
    })
    .await;
    let mut reading = Watcher::new("reading", &served.address()).unwrap();
    reading.connect().await.unwrap();
    let mut stalled = Vec::new();
    for number in 0..8 {
        let mut watcher = Watcher::new(&format!("stalled{number}"), &served.address()).unwrap();
        watcher.connect().await.unwrap();
        watcher.next().await.unwrap();
        stalled.push(watcher);
    }
    let mut client = served.client("anna").await;
    let before = resident_bytes();
    // Far more than all that stands between the cell and a watcher: windows, messages, the connection's buffers.
    for number in 0..120 {
        client.submit(large_job(number)).await;
        if number % 4 == 3 {
            let revision = reading.status().await.unwrap().revision;
            within("the one who reads", reading.follow_until(revision)).await.unwrap();
        }
    }
    let memory_bytes = (before, resident_bytes());
    let target = reading.status().await.unwrap().revision;
    within("the one who reads", reading.follow_until(target)).await.unwrap();
    for watcher in &mut stalled {
        within(&watcher.recording.name.clone(), watcher.follow_until(target)).await.unwrap();
    }
    let reading = vec![reading.recording];
    let stalled: Vec<Recording> = stalled.into_iter().map(|watcher| watcher.recording).collect();
    let chronicle = Chronicle::of(&reading).unwrap().pop().unwrap();
    let run = SlowWatchers { stalled, reading, target, memory_bytes, memory_bound_bytes: 64 << 20 };
    assert_eq!(property_slow_watchers_cost_nobody(&chronicle, &run), []);
    let recordings: Vec<Recording> = run.reading.into_iter().chain(run.stalled).collect();
    assert_eq!(check(&Evidence { recordings, ..Evidence::default() }).violations, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_without_room_on_its_disk_refuses_commits_and_nothing_else() {
    let mut served = Served::start(|_| {}).await;
    served.machine().await;
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
    }
    let connected = watcher.connect().await;
    let heard = within("a message", watcher.next()).await;
    events.push(FullDisk::Read(connected.and(heard).err().map(|error| error.to_string())));

    served.begin_again(|options| options.settings.reserve_bytes = None).await;
    events.push(FullDisk::Frees);
    events.push(FullDisk::Status(watcher.status().await.unwrap().read_only));
    events.push(FullDisk::Commit(client.commit().await));
    assert_eq!(property_a_full_disk_only_refuses(&events), []);

    watcher.connect().await.unwrap();
    within("the last commit", watcher.follow_until(client.newest())).await.unwrap();
    let calls = calls::read(&served.dir.path().join("anna.calls")).unwrap();
    let evidence = Evidence { recordings: vec![watcher.recording], calls, ..Evidence::default() };
    assert_eq!(check(&evidence).violations, []);
}

/// The first picture that a cell shows: its own start is the last revision in it.
async fn first_picture(address: &str) -> Made {
    let mut watcher = Watcher::new("after", address).unwrap();
    watcher.connect().await.unwrap();
    within("a picture", watcher.follow_until(1)).await.unwrap();
    match watcher.recording.events.pop() {
        Some(Event::Snapshot(picture)) => Made::Started(picture),
        other => panic!("expected a snapshot, found {other:?}"),
    }
}

fn copy_folder(from: &Path, to: &Path) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_by_name_or_costs_nothing() {
    let mut served = Served::start(|_| {}).await;
    served.machine().await;
    let mut watcher = Watcher::new("main", &served.address()).unwrap();
    watcher.connect().await.unwrap();
    let mut client = served.client("anna").await;
    for _ in 0..25 {
        client.commit().await;
    }
    let newest = watcher.status().await.unwrap().revision;
    within("the newest", watcher.follow_until(newest)).await.unwrap();
    let chronicle = Chronicle::of(&[watcher.recording]).unwrap().pop().unwrap();
    served.stop().await;

    let cell = served.options.dir.clone();
    let logs = written(&cell.join("log"));
    assert!(!logs.is_empty(), "no file of the log has anything in it");
    let mut damages = Vec::new();
    for (path, end) in &logs {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for step in 1..8 {
            let at = 4096 + (end - 4096) * step / 8;
            let copy = TempDir::new().unwrap();
            let mut options = ServerOptions { dir: copy.path().join("cell"), ..served.options.clone() };
            options.listen.set_port(0);
            copy_folder(&cell, &options.dir);
            let file = options.dir.join("log").join(&name);
            let mut bytes = std::fs::read(&file).unwrap();
            match step % 3 {
                0 => bytes[at] ^= 1 << (step % 8),
                1 => bytes[at..(at + 512).min(*end)].fill(0),
                _ => bytes[at..].fill(0),
            }
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
            damages.push(Damage { place: format!("{name} {at}"), acknowledged: newest, made });
        }
    }
    let refused = damages.iter().filter(|damage| matches!(damage.made, Made::Refused(_))).count();
    assert!(refused > 3, "hardly any damage was noticed: {damages:?}");
    assert_eq!(property_damage_is_named(&chronicle, &damages), []);
}

fn full_text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
