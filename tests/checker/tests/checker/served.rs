//! The real server over real connections: rivals, restarts and crashes, watchers that do not read, a full disk, a damaged log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use plenum_checker::calls::{self, Clock};
use plenum_checker::properties::{
    Made, property_a_full_disk_only_refuses, property_damage_is_named, property_revisions_have_no_gaps,
    property_slow_watchers_cost_nobody, property_snapshots_equal_the_fold,
};
use plenum_checker::stream::Event;
use plenum_checker::watch::{WatchError, Watcher};
use plenum_checker::{Evidence, Recording, check};
use plenum_proto::v1;
use plenum_testkit::{JobBuilder, TestCell};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::scenes::{
    Served, came_back, copy_folder, damaged_log, followed, full_disk, killed, log_in, slow_watchers, within,
};

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
    let (transactions, listed) = fresh.transactions().await.unwrap();
    (evidence.transactions, evidence.listed) = (transactions, Some(listed));
    evidence.recordings = vec![main.recording, other.recording, fresh.recording, streamed];
    for name in names {
        evidence.calls.extend(calls::read(&folder.path().join(format!("{name}.calls"))).unwrap());
    }
    is_worth_looking_at(&evidence);
    let verdict = check(&evidence);
    assert_eq!(verdict.violations, []);
    assert_eq!(verdict.unchecked, 0, "all of it is in the history: {listed:?}");
    assert!(verdict.folded as u64 + 60 > target.unwrap(), "hardly anything was folded: {verdict:?}");
}

/// The checker's program: how it ended, and what it said.
async fn program(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_plenum-checker"));
    let output = within("the program", command.args(arguments).kill_on_drop(true).output()).await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
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
    let (calls, heard) = (calls.to_str().unwrap(), record.to_str().unwrap());
    let (code, said) = program(&["watch", "--addr", &served.address(), "--calls", calls, "--record", heard]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("0 violations;") && !said.contains(" 0 transactions"), "{said}");
    assert_eq!(program(&["offline", heard, "--calls", calls]).await.0, Some(0));
    let empty = served.dir.path().join("empty");
    std::fs::write(&empty, []).unwrap();
    let (code, said) = program(&["offline", empty.to_str().unwrap()]).await;
    assert_eq!(code, Some(2), "nothing was checked: {said}");
    let other = forged_log(&served, calls, |transaction, _| transaction.incarnation += 1);
    let (code, said) = program(&["offline", heard, "--calls", other.to_str().unwrap()]).await;
    assert_eq!(code, Some(2), "all of it is of another incarnation: {said}");
    // Somebody else was told of a transaction that nobody decided.
    let forged = forged_log(&served, calls, |_, outcome| outcome.revision += 1);
    let (code, said) = program(&["offline", heard, "--calls", calls, forged.to_str().unwrap()]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("violation: durability: bob was told of"), "{said}");
}

/// A log of somebody else, who was told something else of the first transaction of this one.
fn forged_log(
    served: &Served,
    calls: &str,
    change: impl Fn(&mut v1::Transaction, &mut v1::Outcome),
) -> std::path::PathBuf {
    let text = std::fs::read_to_string(calls).unwrap();
    let forged = served.dir.path().join("bob.calls");
    let line = text.lines().find(|line| line.starts_with("outcome")).unwrap();
    let asked = text.lines().find(|line| line.contains("transaction")).unwrap();
    let message = |line: &str| from_hex(line.rsplit_once(' ').unwrap().1);
    let mut outcome = <v1::Outcome as prost::Message>::decode(message(line).as_slice()).unwrap();
    let mut transaction = <v1::Transaction as prost::Message>::decode(message(asked).as_slice()).unwrap();
    change(&mut transaction, &mut outcome);
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let outcome = hex(prost::Message::encode_to_vec(&outcome));
    let transaction = hex(prost::Message::encode_to_vec(&transaction));
    std::fs::write(&forged, format!("called 1 5 transaction {transaction}\noutcome 1 9 {outcome}\n")).unwrap();
    forged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_tells_of_an_acknowledged_revision_that_the_cell_does_not_reach() {
    let served = Served::start(|_| {}).await;
    served.machine().await;
    served.client("anna").await.commit().await;
    let calls = served.dir.path().join("anna.calls");
    let forged = forged_log(&served, calls.to_str().unwrap(), |_, outcome| outcome.revision += 1000);
    let (code, said) = program(&["watch", "--addr", &served.address(), "--calls", forged.to_str().unwrap()]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("violation: durability: bob was told of") && said.contains("the cell ends at"), "{said}");
}

/// A cell whose directory is put back to what it was before a client's last commits, while the program follows it: what the program
/// says in the end, and its exit code.
async fn put_back() -> (Option<i32>, String) {
    // A history would know of what the log has not got, and the server would not come back.
    let mut served = Served::start(|options| options.settings.history = false).await;
    served.machine().await;
    let mut client = served.client("anna").await;
    client.commit().await;
    served.stop().await;
    let (cell, copy) = (served.options.dir.clone(), served.dir.path().join("copy"));
    copy_folder(&cell, &copy);
    served.begin_again(|_| {}).await;
    let file = served.dir.path().join("followed.stream");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_plenum-checker"));
    command.args(["watch", "--addr", &served.address(), "--until-revision", "1000000", "--record"]).arg(&file);
    let following = command.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    for _ in 0..20 {
        client.commit().await;
    }
    let heard = || Some(Recording::read("followed", std::fs::read(&file).ok()?.into()).ok()?.position()?.1);
    within("what is followed", async {
        while heard().is_none_or(|revision| revision < client.newest()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    served.stop().await;
    std::fs::remove_dir_all(&cell).unwrap();
    copy_folder(&copy, &cell);
    served.begin_again(|_| {}).await;
    let ended = within("the program's verdict", following.wait_with_output()).await.unwrap();
    (ended.status.code(), String::from_utf8(ended.stdout).unwrap())
}

// It was refused the revision that it had heard of, and asked for it again and again, without an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_tells_of_a_cell_that_has_less_than_it_told_the_program() {
    let (code, said) = put_back().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("violation: gap: ") && said.contains("the cell is said to be at"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_checks_a_cell_that_goes_on_and_clients_that_have_not_begun() {
    let served = Served::start(|_| {}).await;
    served.machine().await;
    let begun = Watcher::new("main", &served.address()).unwrap().status().await.unwrap().revision;
    let (address, dir) = (served.address(), served.dir.path().to_owned());
    let at_work = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut client = Client::open(&address, "anna", log_in(&dir, "anna", Clock::start()), 5).await;
        loop {
            client.commit().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let (calls, until) = (served.dir.path().join("anna.calls"), (begun + 60).to_string());
    let (address, calls) = (served.address(), calls.to_str().unwrap());
    let first = program(&["watch", "--addr", &address, "--until-revision", &until, "--calls", calls]).await;
    let second = program(&["watch", "--addr", &address, "--calls", calls]).await;
    at_work.abort();
    for (code, said) in [first, second] {
        assert_eq!(code, Some(0), "{said}");
        assert!(!said.contains(" 0 transactions"), "{said}");
    }
    let missing = served.dir.path().join("carl.calls");
    let (code, said) = program(&["watch", "--addr", &address, "--calls", missing.to_str().unwrap()]).await;
    assert!(code == Some(2) && said.contains("carl.calls"), "a log that never came is none: {said}");
}

/// More than four MiB, which is what a client takes that was not told otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_reads_a_history_of_large_transactions() {
    let served = Served::start(|options| options.settings.segment_bytes = 32 << 20).await;
    served.machine().await;
    let channel = tonic::transport::Endpoint::from_shared(served.address()).unwrap().connect_lazy();
    let spec = JobBuilder::new("large", "anna").group("main", 16_000, 1000).forever().spec();
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let job = jobs.submit(v1::SubmitRequest { spec: Some(spec), ..Default::default() }).await.unwrap().into_inner().job;
    let mut cell = v1::cell_client::CellClient::new(channel).max_decoding_message_size(64 << 20);
    let open = v1::OpenRequest { scheduler: "anna".into(), namespace: "default".into() };
    let opened = cell.open(open).await.unwrap().into_inner();
    let mut answered = 0;
    for number in 1..=14 {
        let placement = v1::Placement {
            job,
            job_version: 1,
            // There is none, and so each claim is refused.
            machines: vec![u32::MAX - 1; 15_000],
            tasks: (500..15_500).collect(),
            ..v1::Placement::default()
        };
        let transaction = v1::Transaction {
            session: opened.session,
            number,
            incarnation: opened.incarnation,
            base_revision: opened.revision,
            check: v1::ConflictCheck::Fit.into(),
            placements: vec![placement],
            ..v1::Transaction::default()
        };
        let outcome = within("an outcome", cell.commit(transaction)).await.unwrap().into_inner();
        answered += prost::Message::encoded_len(&outcome);
    }
    assert!(answered > 4 << 20, "only {answered} bytes were answered");
    let (code, said) = program(&["watch", "--addr", &served.address()]).await;
    assert_eq!(code, Some(0), "{said}");
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
    let job = jobs.submit(v1::SubmitRequest { spec: Some(spec), ..Default::default() }).await.unwrap().into_inner().job;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_do_not_read_are_begun_anew_and_cost_nobody() {
    let (chronicle, run) = slow_watchers().await;
    assert_eq!(property_slow_watchers_cost_nobody(&chronicle, &run), []);
    let recordings: Vec<Recording> = run.reading.into_iter().chain(run.stalled).collect();
    assert_eq!(check(&Evidence { recordings, ..Evidence::default() }).violations, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_without_room_on_its_disk_refuses_commits_and_nothing_else() {
    let (events, evidence) = full_disk().await;
    assert_eq!(property_a_full_disk_only_refuses(&events), []);
    assert_eq!(check(&evidence).violations, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_refused_by_name_or_costs_nothing() {
    for history in [true, false] {
        let (chronicle, damages) = damaged_log(history).await;
        let refused = damages.iter().filter(|damage| matches!(damage.made, Made::Refused(_))).count();
        let started = damages.iter().filter(|damage| matches!(damage.made, Made::Started(_))).count();
        assert!(refused > 3 && started > 0, "hardly any damage was noticed, or every log was refused: {damages:?}");
        assert_eq!(property_damage_is_named(&chronicle, &damages), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_that_comes_back_shows_the_fold_of_all_that_it_told() {
    for history in [true, false] {
        let (chronicle, recordings) = came_back(history).await;
        let pictures = recordings.iter().flat_map(|recording| &recording.events);
        let pictures = pictures.filter(|event| matches!(event, Event::Snapshot(_))).count();
        assert_eq!((property_snapshots_equal_the_fold(&chronicle, &recordings), pictures), (vec![], 1), "{history}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_has_what_it_acknowledged() {
    let evidence = killed().await;
    assert_eq!(check(&evidence).violations, []);
    assert!(evidence.decided().count() > 10, "hardly anything was decided");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_hears_of_every_revision() {
    let recording = followed().await;
    let revisions = recording.position().map_or(0, |(_, revision)| revision);
    assert!(revisions > 20, "hardly anything was told");
    assert_eq!(property_revisions_have_no_gaps(&[recording]), []);
}
