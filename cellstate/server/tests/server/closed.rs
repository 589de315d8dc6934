//! Sessions that are closed while they have streams, and servers that end under them.

use std::time::Duration;

use plenum_model::Cell;
use plenum_proto::v1;
use plenum_server::Server;
use tonic::{Code, Status};
use v1::agents_client::AgentsClient;
use v1::cell_client::CellClient;
use v1::jobs_client::JobsClient;

use crate::client::{Session, as_principal, code, connect, job, options, placement, register, start, submit};

/// How the stream ends.
async fn end_of(session: &mut Session) -> Status {
    let ends = async {
        loop {
            if let Err(status) = session.next().await {
                return status;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ends).await.expect("the stream ends")
}

fn hello(sections: Vec<i32>) -> v1::Hello {
    v1::Hello { scheduler: "batch".to_owned(), namespace: "default".to_owned(), sections, ..Default::default() }
}

// What its scheduler said of waiting jobs was heard by nobody, and it had nothing to commit by which it would have heard that.
#[tokio::test]
async fn a_stream_ends_with_its_session_whatever_sections_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    for sections in [Vec::new(), vec![v1::Section::Outcomes.into()]] {
        let mut session = Session::greeted(&channel, hello(sections), Cell::default()).await.unwrap();
        let v1::Welcome { session: id, incarnation, .. } = session.welcome;
        let close = v1::CloseRequest { session: id, incarnation };
        CellClient::new(channel.clone()).close(as_principal("operator/op", close)).await.unwrap();
        let ended = end_of(&mut session).await;
        assert_eq!((ended.code(), &*code(&ended)), (Code::NotFound, "NO_SUCH_SESSION"), "{ended}");
    }
    server.shutdown().await.unwrap();
}

// That nothing of it was executed was believed of what had been sent over a stream, and all of it was claimed again under new numbers.
#[tokio::test]
async fn a_stream_that_ends_with_its_server_says_what_to_do_with_what_is_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let mut watching = CellClient::new(channel).watch(v1::Hello::default()).await.unwrap().into_inner();
    let ending = tokio::spawn(server.shutdown());
    let ended = end_of(&mut session).await;
    assert_eq!((ended.code(), &*code(&ended)), (Code::Unavailable, "SERVER_ENDING"), "{ended}");
    assert!(ended.message().contains("again under the same numbers: it may have been decided"), "{ended}");
    let watched = loop {
        match watching.message().await {
            Ok(message) => assert!(message.is_some(), "it ends with a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(watched.message(), "the server ends; connect again");
    ending.await.unwrap().unwrap();
}

// It said that the machine's agent had left, which had only been told to connect again: people looked for what was wrong with the machine.
#[tokio::test]
async fn who_follows_a_log_is_told_that_the_server_ends_and_not_that_the_agent_left() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 4000).await;
    let crunch = submit(&channel, job("crunch", 1)).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let transaction = session.transaction(1, vec![placement(crunch.job, vec![0], vec![0])]);
    let allocation = session.commit(transaction).await.unwrap().placements[0].allocations[0];
    let follow = v1::FollowRequest { machine: machine.machine, epoch: machine.epoch, ..Default::default() };
    let mut told = AgentsClient::new(channel.clone()).follow(follow).await.unwrap().into_inner();
    assert!(told.message().await.unwrap().unwrap().full);
    let ask = v1::LogsRequest { allocation, follow: true, ..Default::default() };
    let mut reader = JobsClient::new(channel).logs(ask).await.unwrap().into_inner();
    let ending = tokio::spawn(server.shutdown());
    let ended = tokio::time::timeout(Duration::from_secs(60), reader.message()).await.expect("the stream ends");
    let ended = ended.unwrap_err();
    assert_eq!((ended.code(), &*code(&ended)), (Code::Unavailable, "SERVER_ENDING"), "{ended}");
    ending.await.unwrap().unwrap();
}

// Whoever watches has no session that could be over.
#[tokio::test]
async fn a_watcher_goes_on_whoever_closes_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let mut quick = options(dir.path());
    quick.settings.sync.heartbeat_micros = 10_000;
    let server = Server::start(quick).await.unwrap();
    let channel = connect(&server).await;
    let mut client = CellClient::new(channel.clone());
    let mut watching = client.watch(v1::Hello::default()).await.unwrap().into_inner();
    let open = v1::OpenRequest { scheduler: "batch".into(), namespace: "default".into() };
    let session = client.open(open).await.unwrap().into_inner().session;
    client.close(v1::CloseRequest { session, incarnation: 0 }).await.unwrap();
    let mut beats = 0;
    while beats < 3 {
        let message = watching.message().await.unwrap().unwrap();
        beats += u32::from(matches!(message.tell, Some(v1::session_response::Tell::Heartbeat(_))));
    }
    server.shutdown().await.unwrap();
}
