//! What is acknowledged can be read again: by a mirror at once, and by the next start.

use std::path::Path;

use plenum_proto::v1;
use plenum_proto::v1::session_response::Tell;
use plenum_server::{Handle, Server};
use tonic::transport::Channel;

use crate::client::{Session, connect, job, options, placement, register, start, submit};

/// What became of a cell of one change that earlier versions wrote and could not read: it was killed, and starts again.
async fn starts_again(dir: &Path, server: Handle) -> (Handle, Channel) {
    server.kill().await.unwrap();
    let again = Server::start(options(dir)).await.unwrap();
    let channel = connect(&again).await;
    (again, channel)
}

/// Deltas that a session is told of can be decoded; up to the one that shows what is looked for.
async fn is_told(session: &mut Session, shows: impl Fn(&plenum_model::Delta) -> bool) {
    loop {
        let told = session.tells.message().await.unwrap().unwrap();
        let Some(Tell::Deltas(deltas)) = told.tell else { continue };
        let read = deltas.deltas.into_iter().map(|delta| plenum_proto::delta::decode(delta).unwrap());
        if read.into_iter().any(|delta| shows(&delta)) {
            return;
        }
    }
}

#[tokio::test]
async fn what_is_launched_from_a_gang_that_was_scaled_below_its_minimum_is_a_smaller_gang() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let mut spec = job("nightly", 10);
    let shape = spec.shape.as_mut().unwrap();
    shape.kind = v1::JobKind::Recurring.into();
    shape.groups[0].min = 5;
    submit(&channel, spec).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel);
    let (namespace, name) = ("default".to_owned(), "nightly".to_owned());
    let scaled = v1::ScaleRequest {
        namespace: namespace.clone(),
        name: name.clone(),
        group: "work".into(),
        count: 3,
        ..Default::default()
    };
    jobs.scale(scaled).await.unwrap();
    jobs.launch(v1::LaunchRequest { namespace, name, ..Default::default() }).await.unwrap();
    let gang = |delta: &plenum_model::Delta| {
        delta.jobs.iter().any(|change| match change {
            plenum_model::JobChange::Put { job, .. } => {
                job.shape.parent.is_some() && (job.shape.groups[0].min, job.shape.groups[0].count) == (3, 3)
            }
            _ => false,
        })
    };
    is_told(&mut session, gang).await;
    drop(session);
    let (server, _) = starts_again(dir.path(), server).await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_unknown_task_without_any_traces_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let running = v1::AllocationState::Running.into();
    let unknown = v1::InventoryItem { allocation: (1 << 32) | 5, state: running, ..Default::default() };
    let capacity = v1::Resources { cpu_millis: 4000, memory_bytes: 1 << 40, ..Default::default() };
    let machine = v1::RegisterMachine {
        name: "m1".into(),
        boot_id: "boot-1".into(),
        inventory: vec![unknown],
        capacity: Some(capacity),
        ..Default::default()
    };
    let mut agents = v1::agents_client::AgentsClient::new(channel);
    agents.register(v1::RegisterRequest { machine: Some(machine), ..Default::default() }).await.unwrap();
    is_told(&mut session, |delta| delta.unknown.len() == 1).await;
    drop(session);
    let (server, channel) = starts_again(dir.path(), server).await;
    let mut inspect = v1::inspect_client::InspectClient::new(channel);
    let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.unknown_tasks, 1);
    server.shutdown().await.unwrap();
}

/// 64 victims, and one more that the claim itself names.
#[tokio::test]
async fn a_claim_that_takes_over_from_all_that_it_may_name_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 6500).await;
    let sized = |name: &str, count: u32, cpu_millis: i64, priority: u32| {
        let mut spec = job(name, count);
        let shape = spec.shape.as_mut().unwrap();
        shape.priority = priority;
        let resources = v1::Resources { cpu_millis, memory_bytes: 1 << 20, ..Default::default() };
        shape.groups[0].resources = Some(resources);
        spec
    };
    let low = submit(&channel, sized("low", 64, 100, 10)).await.job;
    let old = submit(&channel, sized("old", 1, 100, 50)).await.job;
    let big = submit(&channel, sized("big", 1, 6500, 50)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let all = vec![placement(low, vec![0; 64], (0..64).collect()), placement(old, vec![0], vec![0])];
    let outcome = session.commit(session.transaction(1, all)).await.unwrap();
    let (victims, old) = (&outcome.placements[0].allocations, outcome.placements[1].allocations[0]);
    let preemptions = victims.iter().map(|&victim| v1::Preemption { machine: 0, victim }).collect();
    let take_overs = vec![v1::TakeOver { victim: old, ..Default::default() }];
    let extras = vec![v1::ClaimExtras { take_overs, ..Default::default() }];
    let claim = v1::Placement { preemptions, extras, ..placement(big, vec![0], vec![0]) };
    let second = v1::Transaction { stops: vec![old], ..session.transaction(2, vec![claim]) };
    session.asks.send(v1::SessionRequest { ask: Some(v1::session_request::Ask::Commit(second)) }).await.unwrap();
    let sources = |delta: &plenum_model::Delta| {
        let extras = delta.grants.iter().flat_map(|grants| &grants.extras);
        extras.map(|extra| extra.takes_over.len()).max()
    };
    is_told(&mut session, |delta| sources(delta) == Some(65)).await;
    drop(session);
    // By the log, and then by pages.
    let (server, _) = starts_again(dir.path(), server).await;
    server.shutdown().await.unwrap();
    let server = start(dir.path()).await;
    server.shutdown().await.unwrap();
}

// Who had not heard what became of a transaction, and asked again, was told that the cell takes no changes: for as long as its disk was full.
#[tokio::test]
async fn a_repeated_number_gets_its_outcome_also_while_the_cell_takes_no_changes() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 1_000_000).await;
    let job = submit(&channel, job("crunch", 2)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let first = session.transaction(1, vec![placement(job, vec![0], vec![0])]);
    let outcome = session.commit(first.clone()).await.unwrap();
    let second = session.transaction(2, vec![placement(job, vec![0], vec![1])]);
    let resumed = v1::Hello { session: session.welcome.session, incarnation: 1, ..Default::default() };
    server.kill().await.unwrap();

    let mut tight = options(dir.path());
    tight.settings.reserve_bytes = Some(u64::MAX);
    let server = Server::start(tight).await.unwrap();
    let channel = connect(&server).await;
    let mut session = Session::hello(&channel, resumed, plenum_model::Cell::default()).await.unwrap();
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    while inspect.status(v1::StatusRequest {}).await.unwrap().into_inner().read_only.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(session.commit(first.clone()).await.unwrap(), outcome);
    assert_eq!(session.commit(second.clone()).await.unwrap_err().code, "READ_ONLY");
    let mut cell = v1::cell_client::CellClient::new(channel);
    assert_eq!(cell.commit(first.clone()).await.unwrap().into_inner(), outcome);
    // The stream may still bring it.
    assert_eq!(crate::client::code(&cell.commit(second.clone()).await.unwrap_err()), "OUTCOME_UNKNOWN");
    // Not another transaction under the same number; but neither is it said that nothing was executed under it.
    let other = v1::Transaction { number: 1, ..second };
    let refused = session.commit(other).await.unwrap_err();
    assert_eq!((refused.status, &*refused.code), (i32::from(tonic::Code::ResourceExhausted), "OUTCOME_UNKNOWN"));
    assert!(refused.message.contains("came before") && refused.retry_after_micros > 0, "{refused:?}");
    server.shutdown().await.unwrap();
}

// By a call, who asked again was told that the history was behind, and took the transaction for one that was not executed.
#[tokio::test]
async fn by_a_call_as_on_a_stream_the_outcome_of_a_repeated_number_is_unknown_while_it_can_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut forgetful = options(dir.path());
    forgetful.settings.recent_bytes = 1;
    forgetful.settings.history = false;
    let server = Server::start(forgetful).await.unwrap();
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let work = submit(&channel, job("work", 4)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let first = session.transaction(1, vec![placement(work, vec![0], vec![0])]);
    session.commit(first.clone()).await.unwrap();
    submit(&channel, job("other", 1)).await;
    // The log can't be read for a moment, as for want of open files.
    for file in std::fs::read_dir(dir.path().join("log")).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "segment") {
            std::fs::rename(&file, file.with_extension("away")).unwrap();
        }
    }
    let by_stream = session.commit(first.clone()).await.unwrap_err();
    assert_eq!(by_stream.code, "OUTCOME_UNKNOWN", "{by_stream:?}");
    let by_call = v1::cell_client::CellClient::new(channel).commit(first).await.unwrap_err();
    assert_eq!(crate::client::code(&by_call), "OUTCOME_UNKNOWN", "{by_call}");
    server.kill().await.unwrap();
}
