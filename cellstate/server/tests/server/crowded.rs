//! More than there is room for: what is refused is told when to come again, and who asks little is not kept waiting by who asks much.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use bytes::Bytes;
use plenum_proto::codec::Codec;
use plenum_proto::v1;
use plenum_server::{Handle, Server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::Service;
use v1::session_request::Ask;
use v1::session_response::Tell;

use crate::client::{
    Session, as_principal, code, connect, eventually, job, options, placement, register, start, submit,
};

/// Claims of a transaction that takes a while to decide.
const CLAIMS: u32 = 1_000;

/// Sends transactions with these numbers, and behind them one that is refused as it comes in: what was sent before it is queued by then.
async fn queue(session: &mut Session, numbers: RangeInclusive<u64>, placements: &[v1::Placement]) {
    let transactions: Vec<_> = numbers.map(|number| session.transaction(number, placements.to_vec())).collect();
    queue_all(session, transactions).await;
}

/// The same, of these transactions.
async fn queue_all(session: &mut Session, transactions: Vec<v1::Transaction>) {
    for transaction in transactions {
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

/// A session of `greedy`, and so many claims on one machine of which few have room.
async fn with_large_claims(channel: &Channel, claims: u32) -> (Session, [v1::Placement; 1]) {
    let mut large = job("large", claims);
    large.shape.as_mut().unwrap().scheduler = "greedy".to_owned();
    let large = submit(channel, large).await.job;
    let heavy = [placement(large, vec![0; claims as usize], (0..claims).collect())];
    (Session::open_own(channel, "greedy").await.unwrap(), heavy)
}

/// A cell of which the queue is full with four requests, or two of one principal.
async fn narrow(dir: &std::path::Path) -> plenum_server::Handle {
    let mut narrow = options(dir);
    narrow.settings.queue.principal_requests = 2;
    narrow.settings.queue.requests = 4;
    Server::start(narrow).await.unwrap()
}

#[tokio::test]
async fn requests_above_the_bound_of_the_queue_are_refused_with_a_delay_and_nobody_elses_are() {
    const SENT: usize = 30;
    let dir = tempfile::tempdir().unwrap();
    let server = narrow(dir.path()).await;
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

// Its asker was told that it was not executed, while the queue was full; and it had been, over a connection that broke.
#[tokio::test]
async fn a_number_that_was_decided_is_never_said_not_to_be_executed_while_the_queue_is_full() {
    const SENT: u64 = 30;
    let dir = tempfile::tempdir().unwrap();
    let server = narrow(dir.path()).await;
    let channel = connect(&server).await;
    let mut greedy = Session::open_own(&channel, "greedy").await.unwrap();
    let mut first = std::collections::BTreeMap::new();
    let mut sent = Vec::new();
    for number in 1..=SENT {
        let transaction = greedy.transaction(number, Vec::new());
        first.insert(number, greedy.commit(transaction.clone()).await.unwrap().revision);
        sent.push(transaction);
    }
    let mut unknown = Vec::new();
    while unknown.is_empty() {
        queue_all(&mut greedy, sent.clone()).await;
        let (repeated, refused) = answers(&mut greedy, sent.len() + 1).await;
        assert!(repeated.iter().all(|revision| first.values().any(|first| first == revision)));
        unknown = refused.into_iter().filter(|error| error.number > 0).collect();
        assert!(unknown.iter().all(|error| error.code == "OUTCOME_UNKNOWN"), "{unknown:?}");
    }
    for error in unknown {
        assert_eq!((Code::from(error.status), error.retry_after_micros), (Code::ResourceExhausted, 100_000));
        let again = sent.iter().find(|transaction| transaction.number == error.number).unwrap();
        assert_eq!(greedy.commit(again.clone()).await.unwrap().revision, first[&error.number]);
    }
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
    let (mut greedy, heavy) = with_large_claims(&channel, CLAIMS).await;
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

// All that one had queued while it was alone was taken at once, and whoever came next waited for two hundred large transactions.
#[tokio::test]
async fn who_asks_later_does_not_wait_for_all_that_another_principal_had_queued_while_it_was_alone() {
    const ROUNDS: u64 = 5;
    const HEAVY: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let mut roomy = options(dir.path());
    roomy.settings.segment_bytes = 16 << 20;
    let server = Server::start(roomy).await.unwrap();
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let (mut greedy, heavy) = with_large_claims(&channel, 4096).await;
    let mut modest = Session::open_own(&channel, "modest").await.unwrap();
    let inspect = v1::inspect_client::InspectClient::new(connect(&server).await);
    let revision = async || inspect.clone().status(v1::StatusRequest {}).await.unwrap().into_inner().revision;
    for round in 0..ROUNDS {
        let begun = revision().await;
        queue(&mut greedy, round * HEAVY + 1..=(round + 1) * HEAVY, &heavy).await;
        // They came in parts: the first of them were taken by themselves, and by now the others wait or were taken, too.
        let mut before = begun;
        while before < begun + 10 {
            before = revision().await;
        }
        let decided = modest.commit(modest.transaction(round + 1, Vec::new())).await.unwrap().revision;
        let (of_greedy, _) = answers(&mut greedy, usize::try_from(HEAVY).unwrap() + 1).await;
        if decided - before <= 25 && of_greedy.iter().max() > Some(&decided) {
            return server.shutdown().await.unwrap();
        }
    }
    panic!("in {ROUNDS} rounds the one request came after all that was queued before");
}

/// A call to submit a job whose message is said to have so many bytes, of which so many come and no more while the sender is there.
fn begin(channel: &Channel, whole: u32, sent: usize) -> (mpsc::Sender<Bytes>, tokio::task::JoinHandle<Option<Status>>) {
    let mut head = vec![0];
    head.extend(whole.to_be_bytes());
    head.resize(5 + sent, 0);
    let (data, arriving) = mpsc::channel(1);
    data.try_send(head.into()).unwrap();
    let body = tokio_stream::StreamExt::map(ReceiverStream::new(arriving), Ok::<_, Status>);
    let request = http::Request::post("/plenum.v1.Jobs/Submit")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(axum::body::Body::from_stream(body)))
        .unwrap();
    let mut channel = channel.clone();
    let call = tokio::spawn(async move {
        std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        let response = channel.call(request).await.unwrap();
        Status::from_header_map(response.headers())
    });
    (data, call)
}

// Each of 256 requests on a connection could have 4 MiB, and who began them all and ended none held a gibibyte of the server's memory.
#[tokio::test]
async fn requests_that_begin_and_do_not_end_have_a_bounded_number_of_bytes_and_leave_room_for_small_ones() {
    const WHOLE: u32 = 512 << 10;
    let dir = tempfile::tempdir().unwrap();
    let mut narrow = options(dir.path());
    narrow.settings.message_bytes_max = WHOLE as usize;
    narrow.settings.arriving_bytes = 1 << 20;
    // It is for the bytes that they are refused, however long the test takes.
    narrow.settings.greeting = std::time::Duration::from_secs(600);
    let server = Server::start(narrow).await.unwrap();
    let greedy = connect(&server).await;
    let stuck: Vec<_> = (0..16).map(|_| begin(&greedy, WHOLE, WHOLE as usize / 2)).collect();
    // There is room for three quarters of a MiB.
    let in_memory = || stuck.iter().filter(|(_, call)| !call.is_finished()).count();
    let others_end = async {
        while in_memory() > 3 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), others_end).await;
    assert!(ended.is_ok(), "{} are in memory", in_memory());
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let (refused, waiting): (Vec<_>, Vec<_>) = stuck.into_iter().partition(|(_, call)| call.is_finished());
    assert!(!waiting.is_empty(), "there was room for none");
    for (data, call) in refused {
        drop(data);
        let status = call.await.unwrap().unwrap();
        assert_eq!((status.code(), &*code(&status)), (Code::ResourceExhausted, "QUEUE_FULL"), "{status:?}");
        assert!(status.message().starts_with("there is room for 1048576 bytes of requests"), "{}", status.message());
        assert_eq!(status.metadata().get("plenum-retry-after-micros").unwrap(), "100000");
    }
    // An agent's report, say; and a session, on which nothing is held for messages that were read.
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    for number in 1..=100 {
        let some = session.transaction(number, vec![placement(1 << 32, vec![0; 10_000], (0..10_000).collect())]);
        session.commit(some).await.unwrap_err();
    }
    // What was given up gives its room back.
    for (data, call) in waiting {
        drop(data);
        call.await.unwrap();
    }
    let (_data, call) = begin(&channel, 400 << 10, 400 << 10);
    assert_eq!(code(&call.await.unwrap().unwrap()), "INVALID_REQUEST", "it is read, and is no job");
    server.shutdown().await.unwrap();
}

// Reflection was taken for a stream that may be silent: such a call, of some 27 KB, stayed for as long as its connection.
#[tokio::test]
async fn who_asks_what_services_there_are_and_then_says_nothing_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = options(dir.path());
    short.settings.greeting = std::time::Duration::from_millis(200);
    let server = Server::start(short).await.unwrap();
    let mut client = tonic::client::Grpc::new(connect(&server).await);
    for version in ["v1", "v1alpha"] {
        client.ready().await.unwrap();
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        // Nothing is sent, and nothing comes: of which messages it is does not matter.
        let codec = Codec::<v1::StopRequest, v1::StopRequest>::default();
        let silent = tonic::Request::new(tokio_stream::pending());
        let mut told = client.streaming(silent, path.parse().unwrap(), codec).await.unwrap().into_inner();
        let ended = tokio::time::timeout(std::time::Duration::from_secs(30), told.message()).await;
        assert!(matches!(ended.expect("it ends"), Ok(None) | Err(_)), "nothing was asked: {version}");
    }
    server.shutdown().await.unwrap();
}

// What a call came with beside its message was bounded by what the transport thinks right, 16 KiB, and stood nowhere.
#[tokio::test]
async fn metadata_has_a_bound_that_leaves_room_for_what_others_put_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut jobs = v1::jobs_client::JobsClient::new(connect(&server).await);
    let with = |bytes: usize| {
        let mut request = as_principal("operator/op", v1::ListRequest::default());
        request.metadata_mut().insert("baggage", "x".repeat(bytes).parse().unwrap());
        request
    };
    jobs.list(with(6 << 10)).await.unwrap();
    let refused = jobs.list(with(9 << 10)).await.expect_err("8 KiB is what there may be");
    assert_eq!(code(&refused), "", "it is refused before anything of ours is asked: {refused:?}");
    jobs.list(with(0)).await.unwrap();
    server.shutdown().await.unwrap();
}

/// Answers to eight calls with this message, whose connection takes no more of them than it must.
async fn answers_unread(server: SocketAddr, method: &'static str, message: Vec<u8>) -> impl Sized {
    calls_unread(8, [1 << 16; 2], server, method, message).await
}

/// A connection with these windows: of a stream, and of all together.
async fn lazy(server: SocketAddr, [of_stream, of_connection]: [u32; 2]) -> Channel {
    let lazy = tonic::transport::Endpoint::from_shared(format!("http://{server}")).unwrap();
    let lazy = lazy.initial_stream_window_size(of_stream).initial_connection_window_size(of_connection);
    lazy.connect().await.unwrap()
}

/// Answers to so many calls with this message that nobody reads, within windows of a stream and of its connection.
async fn calls_unread(
    calls: usize,
    windows: [u32; 2],
    server: SocketAddr,
    method: &'static str,
    message: Vec<u8>,
) -> impl Sized {
    let mut lazy = lazy(server, windows).await;
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    let mut unread = Vec::new();
    for _ in 0..calls {
        std::future::poll_fn(|context| lazy.poll_ready(context)).await.unwrap();
        let request = http::Request::post(method)
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(axum::body::Body::from(framed.clone())))
            .unwrap();
        unread.push(lazy.call(request).await.unwrap());
    }
    (unread, lazy)
}

/// Some 64 KB of them.
fn with_many_options(shape: &mut v1::JobShape) {
    let option = |option: u32| (format!("o{option:02}"), "x".repeat(1000));
    shape.options = (0..64).map(option).collect();
}

/// A cell with room for 4 MiB of answers that nobody reads, and twenty jobs to be told of, each with much to say.
async fn with_twenty_jobs(say_much: impl Fn(&mut v1::JobShape)) -> (tempfile::TempDir, Handle, Channel) {
    let dir = tempfile::tempdir().unwrap();
    let mut narrow = options(dir.path());
    narrow.settings.unread_bytes = 4 << 20;
    let server = Server::start(narrow).await.unwrap();
    let channel = connect(&server).await;
    for number in 0..20 {
        let mut wordy = job(&format!("wordy{number}"), 1);
        say_much(wordy.shape.as_mut().unwrap());
        submit(&channel, wordy).await;
    }
    (dir, server, channel)
}

// Each call of a connection could be answered by 64 MiB that stayed in the server's memory until they were read.
#[tokio::test]
async fn answers_that_nobody_reads_have_a_bounded_number_of_bytes_and_leave_room_for_small_ones() {
    let (_dir, server, channel) = with_twenty_jobs(with_many_options).await;
    let unread = answers_unread(server.address(), "/plenum.v1.Jobs/List", Vec::new()).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    // The last of them may be on its way.
    let refused = loop {
        match jobs.list(v1::ListRequest::default()).await {
            Err(status) => break status,
            Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    assert_eq!((refused.code(), &*code(&refused)), (Code::ResourceExhausted, "QUEUE_FULL"), "{refused:?}");
    assert!(refused.message().starts_with("there is room for 4194304 bytes of answers"), "{}", refused.message());
    assert_eq!(refused.metadata().get("plenum-retry-after-micros").unwrap(), "1000000");
    let one = v1::ListRequest { limit: 1, ..v1::ListRequest::default() };
    assert_eq!(jobs.list(one).await.unwrap().into_inner().jobs.len(), 1);
    drop(unread);
    let listed = loop {
        match jobs.list(v1::ListRequest::default()).await {
            Ok(listed) => break listed.into_inner(),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    assert_eq!((listed.jobs.len(), listed.truncated), (20, false));
    server.shutdown().await.unwrap();
}

// They were not counted, and may be as large.
#[tokio::test]
async fn what_is_wanted_and_not_read_is_bounded_like_every_listing() {
    let (_dir, server, channel) = with_twenty_jobs(|shape| {
        let rule = |rule: u32| v1::Constraint {
            attribute: format!("a{rule}"),
            operator: v1::Operator::In.into(),
            values: vec!["x".repeat(255); 15],
        };
        shape.groups[0].constraints = (0..60).map(rule).collect();
    })
    .await;
    let mut cell = v1::cell_client::CellClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let opened = v1::OpenRequest { scheduler: "batch".to_owned(), namespace: String::new() };
    let v1::OpenResponse { session, incarnation, .. } = cell.open(opened).await.unwrap().into_inner();
    let wanted = v1::WantedRequest { session, incarnation, ..Default::default() };
    let unread =
        answers_unread(server.address(), "/plenum.v1.Cell/Wanted", prost::Message::encode_to_vec(&wanted)).await;
    let refused = loop {
        match cell.wanted(wanted).await {
            Err(status) => break status,
            Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    assert_eq!((refused.code(), &*code(&refused)), (Code::ResourceExhausted, "QUEUE_FULL"), "{refused:?}");
    drop(unread);
    server.shutdown().await.unwrap();
}

/// So many that three answers of as many refusals have room together, and a fourth has not.
const REFUSALS: u32 = 12_000;

/// A cell with room for 1 MiB of answers that nobody reads, and a placement of which each claim is refused: the answer has a quarter of that.
async fn with_little_room() -> (tempfile::TempDir, Handle, Channel, v1::Placement) {
    let dir = tempfile::tempdir().unwrap();
    let mut narrow = options(dir.path());
    narrow.settings.unread_bytes = 1 << 20;
    narrow.settings.segment_bytes = 16 << 20;
    let server = Server::start(narrow).await.unwrap();
    let channel = connect(&server).await;
    let job = submit(&channel, job("wide", REFUSALS)).await.job;
    // There is no such machine.
    (dir, server, channel, placement(job, vec![7; REFUSALS as usize], (0..REFUSALS).collect()))
}

// What was asked for with some bytes a claim was answered with hundreds, and not counted.
#[tokio::test]
async fn the_outcomes_of_commits_that_nobody_reads_are_bounded_and_no_decided_one_is_said_not_to_be_executed() {
    let (_dir, server, channel, refused) = with_little_room().await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let first = session.transaction(1, vec![refused]);
    let message = prost::Message::encode_to_vec(&first);
    let unread = answers_unread(server.address(), "/plenum.v1.Cell/Commit", message).await;
    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    let second = v1::Transaction { number: 2, ..first.clone() };
    // The last of the others may be on its way.
    let unknown = loop {
        match cell.commit(second.clone()).await {
            Err(status) => break status,
            Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    assert_eq!((unknown.code(), &*code(&unknown)), (Code::ResourceExhausted, "OUTCOME_UNKNOWN"), "{unknown:?}");
    assert!(unknown.message().contains("was decided") && unknown.metadata().contains_key("plenum-retry-after-micros"));
    let dry_run = v1::Transaction { number: 3, dry_run: true, ..first.clone() };
    let full = cell.commit(dry_run).await.unwrap_err();
    assert_eq!((full.code(), &*code(&full)), (Code::ResourceExhausted, "QUEUE_FULL"), "{full:?}");
    let small = session.transaction(4, Vec::new());
    cell.commit(small).await.unwrap();
    drop(unread);
    let outcome = loop {
        match cell.commit(second.clone()).await {
            Ok(outcome) => break outcome.into_inner(),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    assert_eq!((outcome.number, outcome.refusals.len()), (2, REFUSALS as usize));
    assert_eq!(session.commit(second).await.unwrap(), outcome);
    server.shutdown().await.unwrap();
}

/// The next outcome on a session's stream.
async fn next_outcome(session: &mut Session) -> v1::Outcome {
    let comes = async {
        loop {
            if let Some(Tell::Outcome(outcome)) = session.next().await.unwrap() {
                return outcome;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), comes).await.expect("an outcome comes")
}

/// Whether a transaction gets no answer as there is no room for it.
async fn finds_no_room(channel: &Channel, transaction: &v1::Transaction) -> bool {
    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    cell.commit(transaction.clone()).await.is_err_and(|status| code(&status) == "OUTCOME_UNKNOWN")
}

async fn ask(session: &Session, transaction: v1::Transaction) {
    session.asks.send(v1::SessionRequest { ask: Some(Ask::Commit(transaction)) }).await.unwrap();
}

// Up to six outcomes, of up to 9 MB each, were in memory for a session that did not read, and bounded by nothing.
#[tokio::test]
async fn large_outcomes_on_a_stream_that_is_not_read_take_room_and_come_when_it_is() {
    let (_dir, server, channel, refused) = with_little_room().await;
    let mut slow = Session::open(&lazy(server.address(), [1 << 16; 2]).await, "batch").await.unwrap();
    for number in 1..=4 {
        ask(&slow, slow.transaction(number, vec![refused.clone()])).await;
    }
    let session = Session::open(&channel, "batch").await.unwrap();
    let other = session.transaction(1, vec![refused]);
    eventually("they take room", async || finds_no_room(&channel, &other).await).await;
    for number in 1..=4 {
        let outcome = next_outcome(&mut slow).await;
        assert_eq!((outcome.number, outcome.refusals.len()), (number, REFUSALS as usize));
    }
    eventually("they give it back", async || !finds_no_room(&channel, &other).await).await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_large_outcome_on_a_stream_waits_for_room_and_holds_up_nothing_that_has_some() {
    let (_dir, server, channel, refused) = with_little_room().await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let first = session.transaction(1, vec![refused.clone()]);
    let message = prost::Message::encode_to_vec(&first);
    let unread = answers_unread(server.address(), "/plenum.v1.Cell/Commit", message).await;
    let second = v1::Transaction { number: 2, ..first };
    eventually("there is no room", async || finds_no_room(&channel, &second).await).await;
    let mut other = Session::open(&channel, "other").await.unwrap();
    session.reach(other.cell.revision().0).await;
    ask(&session, session.transaction(3, vec![refused])).await;
    session.reach(other.cell.revision().0 + 1).await;
    // It is decided, and its outcome was next: but it has no room.
    ask(&session, v1::Transaction { dry_run: true, ..session.transaction(4, Vec::new()) }).await;
    assert_eq!(next_outcome(&mut session).await.number, 4);
    assert_eq!(other.commit(other.transaction(1, Vec::new())).await.unwrap().number, 1);
    drop(unread);
    let outcome = next_outcome(&mut session).await;
    assert_eq!((outcome.number, outcome.refusals.len()), (3, REFUSALS as usize));
    server.shutdown().await.unwrap();
}

// Their room was given back once they were handed on to be sent, which is when a stream's window has a single byte: 255 MiB were held.
#[tokio::test]
async fn answers_that_nobody_reads_are_counted_whatever_the_windows_of_who_asks() {
    let (_dir, server, channel) = with_twenty_jobs(with_many_options).await;
    // That of the connection as tonic's clients have it by default; in that of a stream nearly nothing of an answer has room.
    let windows = [1 << 12, 5 << 20];
    let unread = calls_unread(200, windows, server.address(), "/plenum.v1.Jobs/List", Vec::new()).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let listed = jobs.list(v1::ListRequest::default()).await;
    assert_eq!(code(&listed.expect_err("4 MiB of answers wait to be read")), "QUEUE_FULL");
    drop(unread);
    server.shutdown().await.unwrap();
}

/// A page of ours, of which nothing is read yet.
async fn page(channel: &mut Channel, path: &'static str) -> http::Response<tonic::body::Body> {
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let request = http::Request::get(path).body(tonic::body::Body::empty()).unwrap();
    channel.call(request).await.unwrap()
}

// They were not counted: four thousand connections could each ask for hundreds, and leave them in the server's memory.
#[tokio::test]
async fn pages_that_nobody_reads_have_a_bounded_number_of_bytes_and_probes_are_answered_all_the_same() {
    let (_dir, server, _channel, _) = with_little_room().await;
    // Hardly anything of a page has room there.
    let mut lazy = lazy(server.address(), [1 << 7, 5 << 20]).await;
    let mut unread = Vec::new();
    let refused = loop {
        assert!(unread.len() < 250, "a page has some ten thousand bytes, and there is room for 1 MiB");
        let page = page(&mut lazy, "/metrics").await;
        if page.status() != 200 {
            break page;
        }
        unread.push(page);
    };
    assert!(unread.len() > 10, "{}", unread.len());
    assert_eq!(refused.status(), 503);
    let refused = axum::body::to_bytes(axum::body::Body::new(refused.into_body()), 1 << 10).await.unwrap();
    let refused = String::from_utf8_lossy(&refused);
    assert!(refused.starts_with("QUEUE_FULL: there is room for 1048576 bytes of answers"), "{refused}");
    for probe in ["/livez", "/readyz"] {
        assert_eq!(page(&mut lazy, probe).await.status(), 200, "{probe}");
    }
    drop(unread);
    while page(&mut lazy, "/metrics").await.status() != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    server.shutdown().await.unwrap();
}
