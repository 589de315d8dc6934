//! More than there is room for: what is refused is told when to come again, and who asks little is not kept waiting by who asks much.

use std::ops::RangeInclusive;

use plenum_proto::v1;
use plenum_server::Server;
use tonic::Code;
use v1::session_request::Ask;
use v1::session_response::Tell;

use crate::client::{Session, connect, job, options, placement, register, start, submit};

/// Claims of a transaction that takes a while to decide.
const CLAIMS: u32 = 1_000;

/// Sends transactions with these numbers, and behind them one that is refused as it comes in: what was sent before it is queued by then.
async fn queue(session: &mut Session, numbers: RangeInclusive<u64>, placements: &[v1::Placement]) {
    for number in numbers {
        let transaction = session.transaction(number, placements.to_vec());
        session.asks.send(v1::SessionRequest { ask: Some(Ask::Commit(transaction)) }).await.unwrap();
    }
    let last = session.transaction(0, Vec::new());
    session.asks.send(v1::SessionRequest { ask: Some(Ask::Commit(last)) }).await.unwrap();
}

/// Answers to so many transactions: revisions of those that were decided, and errors.
async fn answers(session: &mut Session, count: usize) -> (Vec<u64>, Vec<v1::RequestError>) {
    let (mut decided, mut refused) = (Vec::new(), Vec::new());
    while decided.len() + refused.len() < count {
        match session.next().await.unwrap() {
            Some(Tell::Outcome(outcome)) => decided.push(outcome.revision),
            Some(Tell::Error(error)) => refused.push(error),
            _ => {}
        }
    }
    (decided, refused)
}

#[tokio::test]
async fn requests_above_the_bound_of_the_queue_are_refused_with_a_delay_and_nobody_elses_are() {
    const SENT: usize = 30;
    let dir = tempfile::tempdir().unwrap();
    let mut narrow = options(dir.path());
    narrow.settings.queue.principal_requests = 2;
    narrow.settings.queue.requests = 4;
    let server = Server::start(narrow).await.unwrap();
    let channel = connect(&server).await;
    let mut greedy = Session::open_own(&channel, "greedy").await.unwrap();
    let mut modest = Session::open_own(&channel, "modest").await.unwrap();
    let mut full = Vec::new();
    let mut number = 0;
    // Mostly in the first round; what came in in several pieces may have been taken in between.
    while full.is_empty() {
        queue(&mut greedy, number + 1..=number + SENT as u64, &[]).await;
        number += SENT as u64;
        let transaction = modest.transaction(number, Vec::new());
        modest.commit(transaction).await.expect("there is room for others");
        let (decided, refused) = answers(&mut greedy, SENT + 1).await;
        full = refused.into_iter().filter(|error| error.code == "QUEUE_FULL").collect();
        assert_eq!(decided.len() + full.len(), SENT);
        assert!(!decided.is_empty(), "what there is room for is decided");
    }
    for error in &full {
        assert_eq!((Code::from(error.status), error.retry_after_micros), (Code::ResourceExhausted, 100_000));
        assert!(error.message.starts_with("2 requests of this principal wait already"), "{}", error.message);
    }
    // It was not executed: under its number it still can be.
    let again = greedy.transaction(full[0].number, Vec::new());
    assert!(greedy.commit(again).await.unwrap().revision > 0);
    server.shutdown().await.unwrap();
}

/// The moment in which the resolver is busy is not ours to choose, hence the rounds. In the order of their arrival no round would end
/// well: all of the greedy one's requests are queued before the modest one asks.
#[tokio::test]
async fn one_request_does_not_wait_for_all_that_another_principal_has_queued() {
    const ROUNDS: u64 = 50;
    const HEAVY: u32 = 8;
    const LIGHT: u32 = 200;
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut large = job("large", CLAIMS);
    large.shape.as_mut().unwrap().scheduler = "greedy".to_owned();
    let large = submit(&channel, large).await.job;
    let heavy = [placement(large, vec![0; CLAIMS as usize], (0..CLAIMS).collect())];
    let mut greedy = Session::open_own(&channel, "greedy").await.unwrap();
    let mut other = Session::open_own(&channel, "greedy").await.unwrap();
    let mut modest = Session::open_own(&channel, "modest").await.unwrap();
    for round in 0..ROUNDS {
        let from = round * u64::from(HEAVY + LIGHT);
        queue(&mut greedy, from + 1..=from + u64::from(HEAVY), &heavy).await;
        queue(&mut other, from + 1..=from + u64::from(LIGHT), &[]).await;
        let (none, marks) = answers(&mut other, 1).await;
        let transaction = modest.transaction(round + 1, Vec::new());
        let modest = modest.commit(transaction).await.unwrap().revision;
        let (first, errors) = answers(&mut greedy, HEAVY as usize + 1).await;
        assert_eq!((first.len(), errors.len()), (HEAVY as usize, 1), "{errors:?}");
        let (last, _) = answers(&mut other, LIGHT as usize).await;
        if none.is_empty() && marks.len() == 1 && last.iter().any(|revision| *revision > modest) {
            return server.shutdown().await.unwrap();
        }
    }
    panic!("in {ROUNDS} rounds the one request came after all that was queued before");
}
