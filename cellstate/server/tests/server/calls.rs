//! Calls without end, and the few of everybody else.

use plenum_proto::v1;
use plenum_server::{Handle, Server};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckResponse;
use tonic_health::pb::health_client::HealthClient;
use v1::session_request::Ask;

use crate::bad_input::{PREFACE, SETTINGS};
use crate::client::{Session, code, connect, eventually, options, register, start};
use crate::frames::{DATA, HEADERS, PING, RST_STREAM, asks, frame, next, opens, until};
use crate::inspection::page;
use crate::stalled::shows;

/// Calls of a connection that need no shared place.
const OWN: usize = 16;

/// A cell with so many shared places.
async fn narrow(dir: &std::path::Path, shared: usize) -> Handle {
    let mut narrow = options(dir);
    narrow.settings.shared_calls = shared;
    Server::start(narrow).await.unwrap()
}

/// A call that goes on for as long as somebody has it.
async fn watch(channel: &Channel) -> Result<Streaming<HealthCheckResponse>, Status> {
    let watched = HealthClient::new(channel.clone()).watch(tonic_health::pb::HealthCheckRequest::default()).await;
    Ok(watched?.into_inner())
}

// A connection could have 256, all of them a million, and each takes up to 27 KB: there was no bound on them together.
#[tokio::test]
async fn calls_beyond_the_bound_are_refused_with_a_delay_and_every_connection_has_the_first_few() {
    let dir = tempfile::tempdir().unwrap();
    let server = narrow(dir.path(), 4).await;
    let greedy = connect(&server).await;
    let mut open = Vec::new();
    while open.len() < OWN + 4 {
        open.push(watch(&greedy).await.expect("there are places"));
    }
    let refused = watch(&greedy).await.unwrap_err();
    assert_eq!((refused.code(), &*code(&refused)), (Code::ResourceExhausted, "QUEUE_FULL"), "{refused:?}");
    assert!(refused.message().starts_with("4 calls are open beyond the first 16 of each connection"), "{refused:?}");
    assert_eq!(refused.metadata().get("plenum-retry-after-micros").unwrap(), "1000000");
    assert!(!refused.details().is_empty(), "the delay is told as all services tell it");
    // It may have been decided before, over a connection that broke.
    let mut cell = v1::cell_client::CellClient::new(greedy.clone());
    let unread = cell.commit(v1::Transaction::default()).await.unwrap_err();
    assert_eq!((unread.code(), &*code(&unread)), (Code::ResourceExhausted, "OUTCOME_UNKNOWN"), "{unread:?}");
    // The call that asks is one of its own connection's.
    let metrics = page(server.address(), "/metrics").await;
    for line in ["plenum_calls 21", "plenum_shared_calls 4", "plenum_shared_calls_max 4"] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }

    let modest = connect(&server).await;
    register(&modest, "m1", 4000).await;
    let session = Session::open(&modest, "batch").await.unwrap();
    let mut few = Vec::new();
    while few.len() < OWN - 1 {
        few.push(watch(&modest).await.expect("they are its own"));
    }
    assert_eq!(code(&watch(&modest).await.unwrap_err()), "QUEUE_FULL");
    drop(open);
    eventually("their places are free", async || watch(&modest).await.is_ok()).await;
    drop((session, few));
    shows(&server, "plenum_calls 1").await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_refused_ends_at_once_whatever_was_still_to_come_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = narrow(dir.path(), 0).await;
    let authority = server.address().to_string();
    let mut near = TcpStream::connect(server.address()).await.unwrap();
    near.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    let hello = v1::Hello { scheduler: "batch".to_owned(), namespace: "default".to_owned(), ..Default::default() };
    for stream in (1..).step_by(2).take(OWN) {
        near.write_all(&[opens(stream, &authority), asks(stream, Ask::Hello(hello.clone()))].concat()).await.unwrap();
        until(HEADERS, &mut near).await;
    }
    near.write_all(&opens(33, &authority)).await.unwrap();
    let (mut ended, mut reset) = (false, None);
    while reset.is_none() {
        let (kind, flags, stream, payload) = next(&mut near).await;
        match (kind, stream) {
            (HEADERS, 33) => ended = flags & 1 == 1,
            (RST_STREAM, 33) => reset = Some(payload),
            _ => {}
        }
    }
    // That nothing more is wanted of it is no error.
    assert!(ended && reset.unwrap() == [0; 4], "its answer is whole");
    // What was on its way goes nowhere, and harms no other call.
    near.write_all(&frame(DATA, 0, 33, &[0; 9000])).await.unwrap();
    near.write_all(&frame(PING, 0, 0, b"all that")).await.unwrap();
    until(PING, &mut near).await;
    drop(near);
    server.shutdown().await.unwrap();
}

/// What a server tells whoever connects to it of one of its settings.
async fn told_of(setting: [u8; 2]) -> Option<u32> {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut near = TcpStream::connect(server.address()).await.unwrap();
    near.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    let (kind, _, _, told) = next(&mut near).await;
    assert_eq!(kind, SETTINGS[3], "it comes first");
    drop(near);
    server.shutdown().await.unwrap();
    let value = told.chunks(6).find_map(|told| told.strip_prefix(&setting))?;
    Some(u32::from_be_bytes(value.try_into().unwrap()))
}

// A call could have a megabyte here that nobody had read, and a connection 32 of these.
#[tokio::test]
async fn how_much_of_a_call_may_come_before_it_is_read_is_told_to_its_caller() {
    /// The name of a call's window.
    const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
    assert_eq!(told_of(INITIAL_WINDOW_SIZE).await, Some(256 << 10));
}

#[tokio::test]
async fn how_many_calls_a_connection_may_have_is_told_to_its_caller() {
    const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];
    assert_eq!(told_of(MAX_CONCURRENT_STREAMS).await, Some(256));
}
