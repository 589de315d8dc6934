//! Sessions, commits, and what survives.

use std::time::Duration;

use plenum_proto::v1;
use plenum_server::Server;
use tonic::transport::Channel;

use crate::client::{Session, code, connect, eventually, job, options, placement, register, start, submit};

#[tokio::test]
async fn a_commit_is_granted_and_its_deltas_come_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    assert_eq!(machine.epoch, 1);
    let job = submit(&channel, job("crunch", 5)).await;
    assert!(job.changed);
    let mut session = Session::open(&channel, "batch").await.unwrap();
    assert_eq!(session.cell.machines().count(), 1);
    let transaction = session.transaction(1, vec![placement(job.job, vec![0; 5], vec![0, 1, 2, 3, 4])]);
    let outcome = session.commit(transaction).await.unwrap();
    assert_eq!((outcome.granted, outcome.claims), (4, 5));
    assert_eq!(outcome.refusals[0].kind(), v1::RefusalKind::Misfit);
    assert_eq!(session.cell.live(), 4);
    server.shutdown().await.unwrap();
}

/// A scheduler that has left its stream: what it says when it comes back, and its mirror.
async fn left(channel: &Channel) -> (v1::Hello, plenum_model::Cell) {
    register(channel, "m1", 4000).await;
    let session = Session::open(channel, "batch").await.unwrap();
    let known = v1::Hello {
        session: session.welcome.session,
        incarnation: session.welcome.incarnation,
        revision: session.cell.revision().0,
        ..Default::default()
    };
    (known, session.cell.clone())
}

#[tokio::test]
async fn a_watcher_resumes_where_it_was_and_otherwise_gets_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let (known, mirror) = left(&channel).await;
    let last = submit(&channel, job("one", 1)).await.revision;
    let mut resumed = Session::hello(&channel, known.clone(), mirror).await.unwrap();
    assert!(!resumed.welcome.snapshot);
    assert_eq!((resumed.welcome.revision, resumed.welcome.newest), (known.revision, last));
    resumed.reach(last).await;

    let foreign = v1::Hello { incarnation: 99, session: 0, scheduler: "batch".to_owned(), ..known };
    let fresh = Session::hello(&channel, foreign, plenum_model::Cell::default()).await.unwrap();
    assert!(fresh.welcome.snapshot);
    resumed.reach(fresh.cell.revision().0).await;
    assert_eq!(fresh.cell.first_difference(&resumed.cell), None);
    server.shutdown().await.unwrap();
}

// Nothing is recent when a server starts: whoever lacked the last batch of the log, as nearly all do under load, was sent the whole cell.
#[tokio::test]
async fn a_watcher_that_is_a_little_behind_a_server_that_starts_gets_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let (known, mirror) = left(&channel).await;
    let last = submit(&channel, job("one", 1)).await.revision;
    assert!(last > known.revision);
    server.kill().await.unwrap();

    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut resumed = Session::hello(&channel, known, mirror).await.unwrap();
    resumed.reach(last).await;
    let fresh = Session::open(&channel, "other").await.unwrap();
    resumed.reach(fresh.cell.revision().0).await;
    assert!(!resumed.welcome.snapshot, "neither at first nor anew");
    assert_eq!(fresh.cell.first_difference(&resumed.cell), None);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 64_000).await;
    let job = submit(&channel, job("crunch", 64)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    for number in 1..=10 {
        let task = u32::try_from(number).unwrap();
        let transaction = session.transaction(number, vec![placement(job, vec![0], vec![task])]);
        assert_eq!(session.commit(transaction).await.unwrap().granted, 1);
    }
    let before = session.cell.clone();
    let term = session.welcome.term;
    drop((session.asks, session.tells));
    server.kill().await.unwrap();

    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let hello = v1::Hello {
        session: session.welcome.session,
        incarnation: session.welcome.incarnation,
        revision: before.revision().0,
        ..Default::default()
    };
    let mut session = Session::hello(&channel, hello, before.clone()).await.unwrap();
    assert_eq!(session.welcome.term, term + 1);
    assert_eq!(session.cell.live(), 10);

    let again = session.transaction(10, vec![placement(job, vec![0], vec![10])]);
    let again = v1::Transaction { base_revision: before.revision().0 - 1, ..again };
    let outcome = session.commit(again).await.unwrap();
    assert_eq!((outcome.number, outcome.granted), (10, 1));
    assert!(outcome.revision <= before.revision().0, "it is the first outcome, not another one");
    assert_eq!(session.cell.live(), 10);

    let other = session.transaction(10, vec![placement(job, vec![0], vec![20])]);
    assert_eq!(session.commit(other).await.unwrap_err().code, "NUMBER_REUSED");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn many_sessions_commit_at_once_and_nobody_grants_twice() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    for machine in 0..4 {
        register(&channel, &format!("m{machine}"), 100_000).await;
    }
    let job = submit(&channel, job("crunch", 300)).await.job;
    let mut running = Vec::new();
    for _ in 0..3 {
        let channel = channel.clone();
        running.push(tokio::spawn(async move {
            let mut session = Session::open(&channel, "batch").await.unwrap();
            let mut granted = 0;
            for number in 1..=30_u32 {
                let tasks: Vec<u32> = (0..10).map(|task| (number - 1) * 10 + task).collect();
                let transaction = session.transaction(number.into(), vec![placement(job, vec![number % 4; 10], tasks)]);
                granted += session.commit(transaction).await.unwrap().granted;
            }
            granted
        }));
    }
    let mut granted = 0;
    for session in running {
        granted += session.await.unwrap();
    }
    assert_eq!(granted, 300);
    let session = Session::open(&channel, "batch").await.unwrap();
    assert_eq!(session.cell.live(), 300);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_simple_client_opens_commits_and_closes() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let job = submit(&channel, job("crunch", 1)).await;
    let mut client = v1::cell_client::CellClient::new(channel.clone());
    let open = v1::OpenRequest { scheduler: "batch".into(), namespace: "default".into() };
    let session = client.open(open).await.unwrap().into_inner();
    let transaction = v1::Transaction {
        session: session.session,
        number: 1,
        incarnation: session.incarnation,
        base_revision: session.revision,
        check: v1::ConflictCheck::Fit.into(),
        placements: vec![placement(job.job, vec![0], vec![0])],
        ..Default::default()
    };
    let outcome = client.commit(transaction.clone()).await.unwrap().into_inner();
    assert_eq!(outcome.granted, 1);
    assert_eq!(client.commit(transaction.clone()).await.unwrap().into_inner(), outcome, "a number has one outcome");
    let dry = v1::Transaction { number: 2, dry_run: true, ..transaction.clone() };
    assert_eq!(client.commit(dry).await.unwrap().into_inner().refusals.len(), 1);
    client.close(v1::CloseRequest { session: session.session, incarnation: 0 }).await.unwrap();
    let closed = client.commit(transaction).await.unwrap_err();
    assert_eq!(code(&closed), "NO_SUCH_SESSION");
    server.shutdown().await.unwrap();
}

// It was said to have been decided with other content, of which there was none.
#[tokio::test]
async fn a_dry_run_under_a_number_that_was_decided_is_told_that_it_needs_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let job = submit(&channel, job("crunch", 1)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let first = session.transaction(5, vec![placement(job, vec![0], vec![0])]);
    session.commit(first.clone()).await.unwrap();
    let error = session.commit(v1::Transaction { dry_run: true, ..first.clone() }).await.unwrap_err();
    assert_eq!((error.number, error.code.as_str()), (5, "NUMBER_REUSED"));
    let told = "a dry run needs a number above all that were decided, and does not use it up";
    assert!(error.message.ends_with(told), "{}", error.message);
    // One that it gets is free afterwards, and so is each below it.
    let dry = v1::Transaction { number: 1000, dry_run: true, ..first.clone() };
    assert_eq!(session.commit(dry).await.unwrap().refusals.len(), 1);
    let next = session.transaction(6, Vec::new());
    assert_eq!(session.commit(next).await.unwrap().number, 6);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_session_that_nobody_uses_any_more_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = options(dir.path());
    short.settings.session_linger = Duration::from_secs(1);
    let server = Server::start(short).await.unwrap();
    let channel = connect(&server).await;
    let left = Session::open(&channel, "left").await.unwrap();
    let mut stays = Session::open(&channel, "stays").await.unwrap();
    let session = plenum_model::SessionId(left.welcome.session);
    drop(left);
    while stays.cell.session(session).is_some() {
        stays.next().await.unwrap();
    }
    assert!(stays.cell.session(plenum_model::SessionId(stays.welcome.session)).is_some());
    server.shutdown().await.unwrap();
}

/// When to try again what is above a bound of the cell, if that is told.
fn passes_in_micros(status: &tonic::Status) -> Option<u64> {
    assert_eq!((status.code(), code(status).as_str()), (tonic::Code::ResourceExhausted, "LIMIT_REACHED"));
    let micros = status.metadata().get("plenum-retry-after-micros");
    assert_eq!(micros.is_some(), !status.details().is_empty(), "it is told as all services tell it, too");
    micros.map(|micros| micros.to_str().unwrap().parse().unwrap())
}

// The message said to wait until a job is retired, and the answer had no delay, which says that there is no sense in trying again.
#[tokio::test]
async fn who_comes_above_a_bound_on_jobs_is_told_when_one_that_is_over_is_retired() {
    let dir = tempfile::tempdir().unwrap();
    let mut narrow = options(dir.path());
    narrow.settings.core.jobs_max = 1;
    let server = Server::start(narrow).await.unwrap();
    let channel = connect(&server).await;
    submit(&channel, job("first", 1)).await;
    let refused = async || {
        let request = v1::SubmitRequest { spec: Some(job("second", 1)), ..Default::default() };
        v1::jobs_client::JobsClient::new(channel.clone()).submit(request).await.unwrap_err()
    };
    assert_eq!(passes_in_micros(&refused().await), None, "it waits for as long as it likes");
    let stop = v1::StopRequest { namespace: "default".into(), name: "first".into(), ..Default::default() };
    v1::jobs_client::JobsClient::new(channel.clone()).stop(stop).await.unwrap();
    let micros = passes_in_micros(&refused().await).unwrap();
    assert!((3_000_000_000..=3_600_000_000).contains(&micros), "after an hour: {micros} us");
    server.shutdown().await.unwrap();
}

// A scheduler that had left its sessions behind was told to close some, and not that waiting helps.
#[tokio::test]
async fn who_comes_above_a_bound_on_sessions_is_told_when_one_that_was_left_behind_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mut narrow = options(dir.path());
    narrow.settings.core.sessions_of_scheduler_max = 1;
    let server = Server::start(narrow).await.unwrap();
    let channel = connect(&server).await;
    let first = Session::open(&channel, "batch").await.unwrap();
    let refused = async || Session::open(&channel, "batch").await.err().unwrap();
    assert_eq!(passes_in_micros(&refused().await), None, "it is in use, for as long as its scheduler likes");
    drop(first);
    eventually("its stream is gone", async || passes_in_micros(&refused().await).is_some()).await;
    let micros = passes_in_micros(&refused().await).unwrap();
    // It lingers for ten minutes, and is looked at twice a minute.
    assert!((500_000_000..=630_000_000).contains(&micros), "{micros} us");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn bad_transactions_are_refused_with_the_field_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let revision = session.cell.revision();
    let uneven = session.transaction(1, vec![placement(1 << 32, vec![0, 0], vec![0])]);
    let error = session.commit(uneven).await.unwrap_err();
    assert_eq!((error.number, error.code.as_str()), (1, "INVALID_REQUEST"));
    assert!(error.message.contains("placements[0]"), "{}", error.message);
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let mut large = job("large", 1);
    large.body.as_mut().unwrap().groups[0].command = vec!["x".repeat(5 << 20)];
    let large = jobs.submit(v1::SubmitRequest { spec: Some(large), ..Default::default() }).await.unwrap_err();
    assert_eq!((large.code(), code(&large).as_str()), (tonic::Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    let foreign = v1::Transaction { session: 77, ..session.transaction(2, Vec::new()) };
    assert!(session.commit(foreign).await.unwrap_err().message.contains("this stream's own"));
    let future = v1::Transaction { base_revision: 1 << 40, ..session.transaction(3, Vec::new()) };
    assert_eq!(session.commit(future).await.unwrap_err().code, "FUTURE_BASE");
    assert_eq!(session.cell.revision(), revision);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_no_more_does_not_hold_the_end_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut stuck = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    tokio::io::AsyncWriteExt::write_all(&mut stuck, preface).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let ending = tokio::time::timeout(Duration::from_secs(30), server.shutdown());
    ending.await.expect("it does not wait for ever").unwrap();
    start(dir.path()).await.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_no_answers_is_not_read_from_either() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    // As little as may be is under way between the two.
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let channel = endpoint.connect().await.unwrap();
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let mut sent = 0_u64;
    loop {
        // Malformed, and 16 KiB of it: more tasks than machines.
        let bad = session.transaction(sent + 1, vec![placement(1 << 32, vec![u32::MAX; 3300], vec![0])]);
        let ask = v1::SessionRequest { ask: Some(v1::session_request::Ask::Commit(bad)) };
        let sending = tokio::time::timeout(Duration::from_secs(1), session.asks.send(ask)).await;
        if sending.is_err() {
            break;
        }
        sent += 1;
        assert!(sent < 4000, "the server takes whatever comes");
    }
    let mut answered = 0;
    while answered < sent {
        if let Some(v1::session_response::Tell::Error(error)) = session.next().await.unwrap() {
            answered += 1;
            assert_eq!((error.number, error.code.as_str()), (answered, "INVALID_REQUEST"));
        }
    }
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_request_that_the_log_has_no_room_for_is_refused_and_the_server_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = options(dir.path());
    small.settings.segment_bytes = 64 << 10;
    let server = Server::start(small).await.unwrap();
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let mut large = job("large", 1);
    large.body.as_mut().unwrap().groups[0].command = vec!["x".repeat(50_000)];
    let refused = jobs.submit(v1::SubmitRequest { spec: Some(large), ..Default::default() }).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (tonic::Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    let crunch = submit(&channel, job("crunch", 100)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let many = session.transaction(1, vec![placement(crunch, vec![0; 100], (0..100).collect())]);
    assert_eq!(session.commit(many.clone()).await.unwrap_err().code, "MESSAGE_TOO_LARGE");
    // It is not logged.
    let dry = v1::Transaction { dry_run: true, ..many };
    assert_eq!(session.commit(dry).await.unwrap().granted, 4);
    let few = session.transaction(2, vec![placement(crunch, vec![0; 10], (0..10).collect())]);
    assert_eq!(session.commit(few).await.unwrap().granted, 4);
    server.shutdown().await.unwrap();
}

// It was executed, and its answer was lost with the server. The next one, with smaller segments, said that it was not.
#[tokio::test]
async fn a_transaction_that_was_decided_is_answered_also_where_it_would_be_too_large_by_now() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let crunch = submit(&channel, job("crunch", 100)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let many = session.transaction(1, vec![placement(crunch, vec![0; 100], (0..100).collect())]);
    let decided = session.commit(many.clone()).await.unwrap();
    let hello = v1::Hello {
        scheduler: "batch".to_owned(),
        namespace: "default".to_owned(),
        session: session.welcome.session,
        incarnation: session.welcome.incarnation,
        revision: session.cell.revision().0,
        ..Default::default()
    };
    let mirror = session.cell.clone();
    server.shutdown().await.unwrap();

    let mut small = options(dir.path());
    small.settings.segment_bytes = 64 << 10;
    let server = Server::start(small).await.unwrap();
    let channel = connect(&server).await;
    let mut session = Session::hello(&channel, hello, mirror).await.unwrap();
    let again = session.commit(many.clone()).await.unwrap();
    assert_eq!((again.revision, again.granted), (decided.revision, decided.granted));
    let another = v1::Transaction { number: 2, ..many };
    assert_eq!(session.commit(another).await.unwrap_err().code, "MESSAGE_TOO_LARGE");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_job_is_stopped_in_steps_that_the_log_has_room_for_and_a_scaling_that_it_has_none_for_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = options(dir.path());
    small.settings.segment_bytes = 64 << 10;
    small.settings.commit.effect_bytes = 1000;
    let server = Server::start(small).await.unwrap();
    let channel = connect(&server).await;
    register(&channel, "m1", 64_000).await;
    let crunch = submit(&channel, job("crunch", 40)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let all = session.transaction(1, vec![placement(crunch, vec![0; 40], (0..40).collect())]);
    assert_eq!(session.commit(all).await.unwrap().granted, 40);
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let (name, namespace) = ("crunch".to_owned(), "default".to_owned());
    let stop = v1::StopRequest { namespace: namespace.clone(), name: name.clone(), ..Default::default() };
    let scale = |count| {
        let (name, namespace) = (name.clone(), namespace.clone());
        v1::ScaleRequest { namespace, name, group: "work".to_owned(), count, ..Default::default() }
    };
    let refused = jobs.scale(scale(0)).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (tonic::Code::ResourceExhausted, "LIMIT_REACHED"));
    assert!(refused.message().contains("40 allocations at once"), "{}", refused.message());
    // All that a machine ran ends with the registration that tells of a boot.
    let capacity = Some(v1::Resources { cpu_millis: 64_000, memory_bytes: 1 << 40, ..Default::default() });
    let machine =
        v1::RegisterMachine { name: "m1".to_owned(), boot_id: "boot-2".to_owned(), capacity, ..Default::default() };
    let request = v1::RegisterRequest { machine: Some(machine), ..Default::default() };
    let refused = v1::agents_client::AgentsClient::new(channel.clone()).register(request).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (tonic::Code::ResourceExhausted, "LIMIT_REACHED"));
    jobs.scale(scale(30)).await.unwrap();
    jobs.stop(stop).await.unwrap();
    for _ in 0..600 {
        let rows = jobs.list_allocations(v1::ListAllocationsRequest::default()).await.unwrap().into_inner().allocations;
        assert_eq!(rows.len(), 40);
        if rows.iter().all(|row| row.state() == v1::AllocationState::Stopping) {
            assert_eq!(rows.iter().filter(|row| row.reason == "the job was stopped").count(), 30);
            server.shutdown().await.unwrap();
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("some were never stopped");
}
