//! Streams of watchers, from what they are told to what their connections get.

use super::*;
use crate::{Handle, Server, ServerOptions};

/// A cell in which nothing but the last batch is recent.
async fn that_forgets() -> (tempfile::TempDir, Handle, Arc<Shared>) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path());
    options.settings.recent_bytes = 1;
    let server = Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    (dir, server, shared)
}

// Pages were encoded while what is recent was held, and the resolver waited for each of them to show what it had committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_encoded_while_a_batch_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(ServerOptions::new(dir.path())).await.unwrap();
    let shared = server.shared().clone();
    let owner = Owner { principal: Principal::local(), namespace: "".into(), session: SessionId(0) };
    let (answers, _) = mpsc::unbounded_channel();
    let mut watcher = Watcher::new(shared.clone(), owner, &v1::Hello::default(), answers).unwrap();
    assert!(matches!(watcher.step(), Step::Send(_)));
    assert!(matches!(watcher.step(), Step::NeedSnapshot));
    watcher.sync.snapshot(Lent::new(shared.snapshot().await, 0), 0);
    let (done, encoded) = std::sync::mpsc::channel();
    let showing = shared.recent.write();
    let encoding = std::thread::spawn(move || done.send(matches!(watcher.step(), Step::Send(_))));
    let part = encoded.recv_timeout(Duration::from_secs(10));
    drop(showing);
    encoding.join().unwrap().unwrap();
    assert_eq!(part, Ok(true));
    drop(shared);
    server.shutdown().await.unwrap();
}

// It kept its turn for as long as it did not read, and everybody else who had to catch up waited for it, without an end.
// On one thread, so that nothing is read before they wait for it.
#[tokio::test]
async fn who_has_to_catch_up_does_not_wait_for_watchers_that_do_not_read() {
    let (_dir, server, shared) = that_forgets().await;
    let before = shared.snapshot().await;
    for name in ["a", "b", "c"] {
        let open = Command::OpenSession { scheduler: name.into() };
        shared.ask(Shared::request(&"local".into(), "default".into(), open)).await.unwrap();
    }
    let catch_up = || {
        let owner = Owner { principal: Principal::local(), namespace: "".into(), session: SessionId(0) };
        let mut watcher =
            Watcher::new(shared.clone(), owner, &v1::Hello::default(), mpsc::unbounded_channel().0).unwrap();
        assert!(matches!(watcher.step(), Step::Send(_)));
        assert!(matches!(watcher.step(), Step::NeedSnapshot));
        watcher.sync.snapshot(Lent::new(before.clone(), 0), 0);
        let mut wake = Wake { due: true, micros: i64::MAX, timer: Box::pin(tokio::time::sleep(Duration::MAX)) };
        Box::pin(async move {
            let (out, mut sent) = mpsc::channel(HANDFULS_MAX);
            assert!(watcher.send_due(&out, &mut wake).await.is_ok());
            let mut messages = 0;
            while sent.try_recv().is_ok() {
                messages += 1;
            }
            messages
        })
    };
    let mut stalled: Vec<_> = (0..8).map(|_| catch_up()).collect();
    for watcher in &mut stalled {
        assert_eq!(at_hand(watcher).await, None, "what it missed is read from the disk");
    }
    let messages = tokio::time::timeout(Duration::from_secs(10), catch_up()).await;
    assert!(messages.expect("it has its turn") > 1);
    drop((stalled, shared));
    server.shutdown().await.unwrap();
}

// Four parts, here of a page each, waited for each watcher that read nothing.
#[tokio::test]
async fn no_part_of_a_picture_is_made_while_another_one_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path());
    options.settings.sync.message_bytes = 1;
    let server = Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    let open = Command::OpenSession { scheduler: "batch".into() };
    for command in [open, a_job()] {
        shared.ask(Shared::request(&"local".into(), "default".into(), command)).await.unwrap();
    }
    let owner = Owner { principal: Principal::local(), namespace: "".into(), session: SessionId(0) };
    let mut watcher = Watcher::new(shared.clone(), owner, &v1::Hello::default(), mpsc::unbounded_channel().0).unwrap();
    let (out, mut sent) = mpsc::channel(HANDFULS_MAX);
    let mut wake = Wake { due: true, micros: i64::MAX, timer: Box::pin(tokio::time::sleep(Duration::MAX)) };
    let mut parts = 0;
    loop {
        assert!(watcher.send_due(&out, &mut wake).await.is_ok());
        if parts > 0 && !watcher.sync.sends_snapshot() {
            break;
        }
        assert_eq!(sent.len(), 1, "the welcome, or a part");
        sent.try_recv().unwrap();
        parts += 1;
    }
    assert!(parts > 2, "{parts}");
    drop((watcher, shared));
    server.shutdown().await.unwrap();
}

// The batches of up to 256 outcomes stayed in memory for a session that did not read.
#[tokio::test]
async fn an_outcome_that_is_recent_no_more_is_read_from_the_log() {
    let (_dir, server, shared) = that_forgets().await;
    let ask = async |command| shared.ask(Shared::request(&"local".into(), "default".into(), command)).await.unwrap();
    let Decision::Accepted { id: session, .. } = ask(Command::OpenSession { scheduler: "batch".into() }).await.decision
    else {
        panic!("no session")
    };
    let id = plenum_model::TransactionId { session: SessionId(session), number: 1 };
    let idle = plenum_model::AllocationId { slot: 7, generation: 1 };
    let incarnation = shared.identity.incarnation;
    let content = plenum_model::Transaction { id, incarnation, stops: vec![idle], ..Default::default() };
    let decided = ask(Command::Commit(Box::new(content), 1)).await;
    ask(Command::OpenSession { scheduler: "other".into() }).await;
    assert_eq!(shared.recent.read().outcome(decided.at, usize::MAX), None);
    let owner = Owner { principal: Principal::local(), namespace: "".into(), session: SessionId(session) };
    let hello = v1::Hello { sections: vec![v1::Section::Outcomes.into()], ..v1::Hello::default() };
    let mut watcher = Watcher::new(shared.clone(), owner, &hello, mpsc::unbounded_channel().0).unwrap();
    watcher.outstanding = 1;
    watcher.answered(1, Told::Decided(decided.at));
    let (out, mut sent) = mpsc::channel(HANDFULS_MAX);
    let mut wake = Wake { due: true, micros: i64::MAX, timer: Box::pin(tokio::time::sleep(Duration::MAX)) };
    assert!(watcher.send_due(&out, &mut wake).await.is_ok());
    let mut told = Vec::new();
    while let Ok(handful) = sent.try_recv() {
        told.extend(handful.into_iter().map(|message| message.unwrap().decoded().unwrap().tell.unwrap()));
    }
    let [v1::session_response::Tell::Welcome(_), v1::session_response::Tell::Outcome(outcome)] = &told[..] else {
        panic!("a welcome and an outcome were expected: {told:?}")
    };
    assert_eq!((outcome.number, outcome.revision), (1, decided.at.0));
    drop((watcher, shared));
    server.shutdown().await.unwrap();
}

// It was in memory, of up to 9 MB, for each session that did not read, and counted nowhere.
#[tokio::test]
async fn a_large_outcome_that_is_read_back_waits_for_room_and_comes_when_there_is_some() {
    const CLAIMS: u32 = 5000;
    let (_dir, server, shared) = that_forgets().await;
    let ask = async |command| {
        let decided = shared.ask(Shared::request(&"local".into(), "default".into(), command)).await.unwrap();
        let id = if let Decision::Accepted { id, .. } = decided.decision { id } else { 0 };
        (id, decided.at)
    };
    let (session, _) = ask(Command::OpenSession { scheduler: "batch".into() }).await;
    let (job, _) = ask(a_job_of(CLAIMS)).await;
    // There is no such machine.
    let (machines, tasks) = (vec![7; CLAIMS as usize], (0..CLAIMS).collect());
    let job = JobId::from_bits(job).unwrap();
    let placements = vec![plenum_model::Placement { job, job_version: 1, machines, tasks, ..Default::default() }];
    let id = plenum_model::TransactionId { session: SessionId(session), number: 1 };
    let incarnation = shared.identity.incarnation;
    let content = plenum_model::Transaction { id, incarnation, placements, ..Default::default() };
    let (_, at) = ask(Command::Commit(Box::new(content), 1)).await;
    ask(Command::OpenSession { scheduler: "other".into() }).await;
    let owner = Owner { principal: Principal::local(), namespace: "".into(), session: SessionId(session) };
    let hello = v1::Hello { sections: vec![v1::Section::Outcomes.into()], ..v1::Hello::default() };
    let mut watcher = Watcher::new(shared.clone(), owner, &hello, mpsc::unbounded_channel().0).unwrap();
    watcher.outstanding = 1;
    watcher.answered(1, Told::Decided(at));
    let others = Share::take(&shared.unread, shared.unread.most() / 4 * 3).unwrap();
    let (out, mut sent) = mpsc::channel(HANDFULS_MAX);
    let mut wake = Wake { due: true, micros: i64::MAX, timer: Box::pin(tokio::time::sleep(Duration::MAX)) };
    assert!(watcher.send_due(&out, &mut wake).await.is_ok());
    assert_eq!(watcher.unsent(), 1, "it waits");
    assert!(watcher.room_pause_micros > ROOM_PAUSE_MICROS_MIN, "it looks again later each time");
    let read = apart(read_back(shared.clone(), at, None)).await;
    assert!(matches!(read, Some(ReadBack::NoRoom(bytes)) if bytes > SMALL_BYTES), "nothing of it is kept");
    drop(others);
    let read = apart(read_back(shared.clone(), at, None)).await;
    let Some(ReadBack::Large(encoded, room)) = read else { panic!("there is room") };
    let left = shared.unread.most() / 4 * 3 - encoded.len();
    assert!(Share::take(&shared.unread, left + 1).is_none(), "it is counted before the stream has it");
    drop((encoded, room));
    let comes = async {
        loop {
            wake.due = true;
            assert!(watcher.send_due(&out, &mut wake).await.is_ok());
            while let Ok(handful) = sent.try_recv() {
                for message in handful {
                    let told = message.unwrap().decoded().unwrap().tell.unwrap();
                    if let v1::session_response::Tell::Outcome(outcome) = told {
                        return outcome;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(60), comes).await.expect("there is room");
    assert_eq!((outcome.number, outcome.refusals.len()), (1, CLAIMS as usize));
    assert!(outcome.encoded_len() > SMALL_BYTES && watcher.unsent() == 0);
    assert_eq!(watcher.room_pause_micros, ROOM_PAUSE_MICROS_MIN);
    drop((watcher, shared));
    server.shutdown().await.unwrap();
}

// One more was taken as long as there was any room in a handful, however large it was.
#[tokio::test]
async fn outcomes_go_together_as_far_as_a_message_has_room_and_a_larger_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path());
    options.settings.sync.message_bytes = 100 << 10;
    let server = Server::start(options).await.unwrap();
    let shared = server.shared().clone();
    let owner = Owner { principal: Principal::local(), namespace: "".into(), session: SessionId(1) };
    let hello = v1::Hello { sections: vec![v1::Section::Outcomes.into()], ..v1::Hello::default() };
    let mut watcher = Watcher::new(shared.clone(), owner, &hello, mpsc::unbounded_channel().0).unwrap();
    for kibibytes in [40, 40, 40, 200, 1, 70] {
        watcher.sync.outcome(Revision(0), vec![0; kibibytes << 10].into());
    }
    let (out, mut sent) = mpsc::channel(16);
    let mut wake = Wake { due: true, micros: i64::MAX, timer: Box::pin(tokio::time::sleep(Duration::MAX)) };
    assert!(watcher.send_due(&out, &mut wake).await.is_ok());
    let mut handfuls = Vec::new();
    while let Ok(handful) = sent.try_recv() {
        handfuls.push(handful.len());
    }
    assert_eq!(handfuls, [1, 2, 1, 1, 1, 1], "behind the welcome");
    drop((watcher, shared));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_outcome_of_a_dry_run_has_its_room_until_it_goes_into_a_message() {
    let (_dir, server, shared) = that_forgets().await;
    let outcome = plenum_model::Outcome {
        id: plenum_model::TransactionId::default(),
        revision: Revision(1),
        time: plenum_model::LogTime::default(),
        outcome: plenum_model::TransactionOutcome::Refused,
        placements: vec![vec![None; 1000]],
        refusals: Vec::new(),
        idle_stops: Vec::new(),
        ports: Vec::new(),
        elsewhere: Vec::new(),
        evicted: Vec::new(),
        divergences: Vec::new(),
    };
    let unread = Arc::new(Budget::new(60_000));
    let room = Share::take(&unread, 60_000).unwrap();
    let has_room = |bytes| Share::take(&unread, bytes).is_some();
    let owner = Owner { principal: Principal::local(), namespace: "".into(), session: SessionId(1) };
    let hello = v1::Hello { sections: vec![v1::Section::Outcomes.into()], ..v1::Hello::default() };
    let mut watcher = Watcher::new(shared.clone(), owner, &hello, mpsc::unbounded_channel().0).unwrap();
    watcher.outstanding = 1;
    watcher.answered(1, Told::DryRun(Revision(0), Box::new(outcome), room));
    assert!(has_room(58_000) && !has_room(59_500), "encoded it has a kilobyte");
    let (out, mut sent) = mpsc::channel(HANDFULS_MAX);
    let mut wake = Wake { due: true, micros: i64::MAX, timer: Box::pin(tokio::time::sleep(Duration::MAX)) };
    assert!(watcher.send_due(&out, &mut wake).await.is_ok());
    assert!(!has_room(59_500), "it waits for its connection");
    let mut told = 0;
    while let Ok(handful) = sent.try_recv() {
        told += handful.into_iter().map(|message| message.unwrap().encode_to_vec().len()).sum::<usize>();
    }
    assert!(told > 1000 && has_room(60_000));
    drop((watcher, shared));
    server.shutdown().await.unwrap();
}

// It went on as if all were well: whoever had nothing to commit, or asked for outcomes alone, never heard of it.
#[tokio::test]
async fn a_stream_whose_session_is_over_ends_once_all_its_answers_were_told() {
    use tonic::codec::Codec as _;
    let (_dir, server, shared) = that_forgets().await;
    let session = SessionId(7);
    let of_session =
        crate::sessions::Owner { scheduler: "batch".into(), principal: "local".into(), namespace: "".into() };
    shared.sessions.lock().opened(session, of_session);
    let owner = Owner { principal: Principal::local(), namespace: "".into(), session };
    let hello = v1::Hello { sections: vec![v1::Section::Outcomes.into()], ..v1::Hello::default() };
    let (answers, answered) = mpsc::unbounded_channel();
    let mut watcher = Watcher::new(shared.clone(), owner, &hello, answers.clone()).unwrap();
    watcher.outstanding = 1;
    let silent = axum::body::Body::from_stream(tokio_stream::pending::<Result<Bytes, axum::BoxError>>());
    let decoder = plenum_proto::codec::Codec::<v1::SessionResponse, Request>::default().decoder();
    let inbound = Streaming::new_request(decoder, silent, None, None);
    let (out, mut sent) = mpsc::channel(HANDFULS_MAX);
    let mut run = Box::pin(watcher.run(Some(inbound), answered, out));
    shared.sessions.lock().closed(session);
    assert_eq!(at_hand(&mut run).await, None, "one of its transactions is not answered yet");
    answers.send((1, Told::Refused(Box::new(Failure::invalid("x"))))).unwrap();
    tokio::time::timeout(Duration::from_secs(10), run).await.expect("it ends");
    let mut told = Vec::new();
    while let Ok(handful) = sent.try_recv() {
        told.extend(handful);
    }
    let ended = told.pop().unwrap().unwrap_err();
    assert_eq!(ended.metadata().get(crate::api::failure::CODE).unwrap(), "NO_SUCH_SESSION");
    let told: Vec<_> = told.into_iter().map(|message| message.unwrap().decoded().unwrap().tell.unwrap()).collect();
    let [v1::session_response::Tell::Welcome(_), v1::session_response::Tell::Error(error)] = &told[..] else {
        panic!("a welcome and an error were expected: {told:?}")
    };
    assert_eq!(error.number, 1);
    drop(shared);
    server.shutdown().await.unwrap();
}

// They were let go of when no picture of the cell came within half a second, and nobody tells them again.
#[tokio::test(flavor = "multi_thread")]
async fn notes_that_come_while_a_write_takes_long_are_taken_when_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(ServerOptions::new(dir.path())).await.unwrap();
    let shared = server.shared().clone();
    let ask = async |command| shared.ask(Shared::request(&"local".into(), "default".into(), command)).await.unwrap();
    let Decision::Accepted { id: session, .. } = ask(Command::OpenSession { scheduler: "batch".into() }).await.decision
    else {
        panic!("no session")
    };
    let job = a_job();
    let Decision::Accepted { id: job, .. } = ask(job).await.decision else { panic!("no job") };
    let owner = Owner { principal: Principal::local(), namespace: "".into(), session: SessionId(session) };
    let (answers, _) = mpsc::unbounded_channel();
    let watcher = Watcher::new(shared.clone(), owner, &v1::Hello::default(), answers).unwrap();
    // The resolver can't show what it has written, and takes no picture meanwhile.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (holds, held) = std::sync::mpsc::channel();
    let recent = shared.clone();
    let holder = std::thread::spawn(move || {
        let _showing = recent.recent.write();
        holds.send(()).unwrap();
        assert!(released.recv().is_err());
    });
    held.recv().unwrap();
    let (sender, _answer) = tokio::sync::oneshot::channel();
    let more = Shared::request(&"local".into(), "default".into(), Command::OpenSession { scheduler: "other".into() });
    shared.submit(Asked::new(more), Reply::Once(sender)).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let note = v1::PassedOverNote { job, tasks: 1, reason: "no room".into(), revision: 1, ..Default::default() };
    watcher.passed_over(v1::PassedOver { notes: vec![note] });
    tokio::time::sleep(Duration::from_millis(700)).await;
    drop(release);
    holder.join().unwrap();
    let id = JobId::from_bits(job).unwrap();
    let is_there = async {
        while shared.notes.lock().of(id, 0).is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), is_there).await.expect("the note is taken");
    drop((watcher, shared));
    server.shutdown().await.unwrap();
}

fn a_job() -> Command {
    a_job_of(1)
}

/// One of so many tasks.
fn a_job_of(count: u32) -> Command {
    let group = plenum_model::GroupShape { name: "main".into(), count, ..Default::default() };
    let shape = plenum_model::JobShape {
        namespace: "default".into(),
        name: "waits".into(),
        scheduler: "batch".into(),
        groups: vec![group],
        ..Default::default()
    };
    Command::submit(shape)
}
