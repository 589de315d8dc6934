//! What nobody should send: each is refused with a precise status, and changes nothing.

use std::time::Duration;

use plenum_model::Cell;
use plenum_proto::{codec::Codec, v1};
use plenum_server::Server;
use prost::encoding::{DecodeContext, WireType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client::{Session, as_principal, code, connect, job, options, placement, register, start, submit};
use crate::inspection::page;

/// The status and the stable code of a refusal.
fn refusal(status: &Status) -> (Code, String) {
    (status.code(), code(status))
}

/// The same of a refusal on a stream.
fn on_stream(error: &v1::RequestError) -> (Code, String) {
    (Code::from(error.status), error.code.clone())
}

fn of(status: Code, code: &str) -> (Code, String) {
    (status, code.to_owned())
}

async fn hello(channel: &Channel, hello: v1::Hello) -> (Code, String) {
    refusal(&Session::hello(channel, hello, Cell::default()).await.err().expect("it is refused"))
}

/// What bad input must leave as it is: revision, sessions, and requests that wait.
async fn standing(server: &plenum_server::Handle, channel: &Channel) -> (u64, u64, bool) {
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    let metrics = page(server.address(), "/metrics").await;
    let nothing_waits = metrics.lines().any(|line| line == "plenum_queue_depth{queue=\"requests\"} 0");
    (status.revision, status.sessions, nothing_waits)
}

/// A message of bytes that are none of any message.
#[derive(Debug, Default)]
struct Nonsense;

impl Nonsense {
    /// A field with the number 0, which there is not.
    const BYTES: &[u8] = &[0, 0];
}

impl prost::Message for Nonsense {
    fn encode_raw(&self, into: &mut impl bytes::BufMut) {
        into.put_slice(Self::BYTES);
    }

    fn merge_field(
        &mut self,
        number: u32,
        kind: WireType,
        from: &mut impl bytes::Buf,
        context: DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(kind, number, from, context)
    }

    fn encoded_len(&self) -> usize {
        Self::BYTES.len()
    }

    fn clear(&mut self) {}
}

#[tokio::test]
async fn bytes_that_are_no_message_are_bad_input_and_no_fault_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let before = standing(&server, &channel).await;
    let methods = ["Cell/Open", "Cell/Commit", "Jobs/Submit", "Inspect/Status", "Govern/SetQuota", "Agents/Report"];
    for method in methods {
        let path = format!("/plenum.v1.{method}");
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let codec = Codec::<Nonsense, Nonsense>::default();
        let sent = client.unary(tonic::Request::new(Nonsense), path.parse().unwrap(), codec).await;
        let refused = sent.unwrap_err();
        assert_eq!(refusal(&refused), of(Code::InvalidArgument, "INVALID_REQUEST"), "{path}: {refused}");
        let expected = if method == "Cell/Commit" { "a Transaction" } else { &path };
        assert!(refused.message().contains("expected") && refused.message().contains(expected), "{refused}");
        assert!(refused.message().contains(", found what can't be read as it: "), "{refused}");
    }
    // Streams down, and streams up.
    for method in ["Cell/Watch", "Agents/Follow", "Agents/SendLogs", "Cell/Session"] {
        let path = format!("/plenum.v1.{method}");
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let codec = Codec::<Nonsense, Nonsense>::default();
        let nonsense = tonic::Request::new(tokio_stream::once(Nonsense));
        let refused = match client.streaming(nonsense, path.parse().unwrap(), codec).await {
            Ok(answer) => answer.into_inner().message().await.unwrap_err(),
            Err(refused) => refused,
        };
        assert_eq!(refusal(&refused), of(Code::InvalidArgument, "INVALID_REQUEST"), "{path}: {refused}");
    }
    assert_eq!(standing(&server, &channel).await, before);
    server.shutdown().await.unwrap();
}

// The second one was let go of without a word, and its sender took it for done.
#[tokio::test]
async fn a_call_with_a_second_message_is_refused_and_nothing_of_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let before = standing(&server, &channel).await;
    let two = ["one", "other"].map(|name| v1::SubmitRequest { spec: Some(job(name, 1)), ..Default::default() });
    let two = tonic::Request::new(tokio_stream::iter(two));
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = Codec::<v1::SubmitRequest, v1::SubmitResponse>::default();
    let path = "/plenum.v1.Jobs/Submit".parse().unwrap();
    let refused = client.streaming(two, path, codec).await.expect_err("it is refused");
    assert_eq!(refusal(&refused), of(Code::InvalidArgument, "INVALID_REQUEST"), "{refused}");
    assert!(refused.message().starts_with("expected one message"), "{refused}");
    assert_eq!(standing(&server, &channel).await, before, "the first one was not done either");
    server.shutdown().await.unwrap();
}

// The transport refuses it, without a code of ours: the page for schedulers says what to make of that, and nothing else can.
#[tokio::test]
async fn a_call_with_too_much_metadata_is_refused_by_the_transport_and_not_executed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let before = standing(&server, &channel).await;
    let mut request = tonic::Request::new(v1::SubmitRequest { spec: Some(job("one", 1)), ..Default::default() });
    request.metadata_mut().insert("much", "x".repeat(9 << 10).parse().unwrap());
    let refused = v1::jobs_client::JobsClient::new(channel.clone()).submit(request).await.expect_err("it is refused");
    assert_eq!(refusal(&refused), of(Code::Unknown, ""), "{refused}");
    assert!(refused.message().contains("431"), "{refused}");
    assert_eq!(standing(&server, &channel).await, before, "nor is the connection gone");
    server.shutdown().await.unwrap();
}

// It was refused without a code of ours, and so looked like a fault on the way.
#[tokio::test]
async fn a_compressed_call_is_refused_as_what_no_method_takes() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let before = standing(&server, &channel).await;
    for method in ["Cell/Commit", "Cell/Session", "Jobs/Submit", "Inspect/Status", "Agents/SendLogs"] {
        let path = format!("/plenum.v1.{method}");
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let codec = Codec::<Nonsense, Nonsense>::default();
        let mut compressed = tonic::Request::new(tokio_stream::once(Nonsense));
        compressed.metadata_mut().insert("grpc-encoding", "gzip".parse().unwrap());
        let refused = client.streaming(compressed, path.parse().unwrap(), codec).await.expect_err("it is refused");
        assert_eq!(refusal(&refused), of(Code::Unimplemented, "UNIMPLEMENTED"), "{path}: {refused}");
        assert!(refused.message().contains("gzip"), "{refused}");
        assert_eq!(refused.metadata().get("grpc-accept-encoding").unwrap(), "identity");
    }
    assert_eq!(standing(&server, &channel).await, before);
    server.shutdown().await.unwrap();
}

/// A request on a session's stream, or bytes that are none.
#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(message, optional, tag = "1")]
    hello: Option<v1::Hello>,
    /// Where a message belongs.
    #[prost(uint64, tag = "3")]
    nonsense: u64,
}

/// How a stream ends on which nonsense comes right after the hello.
async fn ended_by_nonsense(channel: &Channel) -> Status {
    let hello = v1::Hello { scheduler: "batch".into(), namespace: "default".into(), ..Default::default() };
    let asks = [Asked { hello: Some(hello), nonsense: 0 }, Asked { hello: None, nonsense: 9 }];
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = Codec::<Asked, v1::SessionResponse>::default();
    let asks = tonic::Request::new(tokio_stream::iter(asks).chain(tokio_stream::pending()));
    let path = "/plenum.v1.Cell/Session".parse().unwrap();
    let mut told = client.streaming(asks, path, codec).await.unwrap().into_inner();
    loop {
        match told.message().await {
            Ok(message) => assert!(message.is_some(), "it ends with a reason"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_reason_at_bytes_that_are_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let before = standing(&server, &channel).await;
    let ended = ended_by_nonsense(&channel).await;
    assert_eq!(refusal(&ended), of(Code::InvalidArgument, "INVALID_REQUEST"));
    assert!(ended.message().starts_with("expected a SessionRequest, found"), "{ended}");
    // The first message as those that follow.
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let asks = tonic::Request::new(tokio_stream::iter([Asked { hello: None, nonsense: 9 }]));
    let path = "/plenum.v1.Cell/Session".parse().unwrap();
    let codec = Codec::<Asked, v1::SessionResponse>::default();
    let ended = client.streaming(asks, path, codec).await.unwrap().into_inner().message().await.unwrap_err();
    assert_eq!(refusal(&ended), of(Code::InvalidArgument, "INVALID_REQUEST"));
    assert!(ended.message().starts_with("expected a SessionRequest, found"), "{ended}");
    let opened = (before.0 + 1, before.1 + 1, before.2);
    assert_eq!(standing(&server, &channel).await, opened, "one had said who it is, and nothing else was decided");
    server.shutdown().await.unwrap();
}

/// While as much waited for it as may, its stream ended as if it was done.
#[tokio::test]
async fn a_stream_that_is_told_much_at_once_ends_with_the_reason_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.settings.sync.message_bytes = 1;
    let server = Server::start(options).await.unwrap();
    let channel = connect(&server).await;
    for number in 0..300 {
        submit(&channel, job(&format!("j{number}"), 1)).await;
    }
    let before = standing(&server, &channel).await;
    for _ in 0..10 {
        let ended = ended_by_nonsense(&channel).await;
        assert_eq!(refusal(&ended), of(Code::InvalidArgument, "INVALID_REQUEST"));
    }
    assert_eq!(standing(&server, &channel).await, (before.0 + 10, before.1 + 10, before.2), "each had said who it is");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn sessions_that_are_not_ones_own_to_use_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let session = Session::open(&channel, "batch").await.unwrap();
    let before = standing(&server, &channel).await;
    let resume = v1::Hello {
        session: session.welcome.session,
        incarnation: session.welcome.incarnation,
        revision: session.cell.revision().0,
        ..Default::default()
    };
    let unknown = v1::Hello { session: 1 << 40, ..resume.clone() };
    assert_eq!(hello(&channel, unknown).await, of(Code::NotFound, "NO_SUCH_SESSION"));
    let restored = v1::Hello { incarnation: resume.incarnation + 1, ..resume.clone() };
    assert_eq!(hello(&channel, restored).await, of(Code::Aborted, "OTHER_INCARNATION"));

    // It went on as if nothing else had been said.
    let renamed = v1::Hello { scheduler: "service".into(), ..resume.clone() };
    assert_eq!(hello(&channel, renamed).await, of(Code::FailedPrecondition, "OTHER_SESSION"));
    let moved = v1::Hello { namespace: "elsewhere".into(), ..resume.clone() };
    assert_eq!(hello(&channel, moved).await, of(Code::FailedPrecondition, "OTHER_SESSION"));
    let own = v1::Hello { scheduler: "batch".into(), namespace: "default".into(), ..resume.clone() };
    drop(Session::greeted(&channel, own, Cell::default()).await.unwrap());

    let mut client = v1::cell_client::CellClient::new(channel.clone());
    let transaction = session.transaction(1, Vec::new());
    let foreign = client.commit(as_principal("scheduler/other", transaction.clone())).await.unwrap_err();
    assert_eq!(refusal(&foreign), of(Code::PermissionDenied, "NOT_PERMITTED"));
    let close = v1::CloseRequest { session: session.welcome.session, incarnation: session.welcome.incarnation };
    let foreign = client.close(as_principal("scheduler/other", close)).await.unwrap_err();
    assert_eq!(refusal(&foreign), of(Code::PermissionDenied, "NOT_PERMITTED"));
    // Also over a stream, and whatever else is asked for in its name.
    let taken = Session::greeted_as("scheduler/other", &channel, resume.clone(), Cell::default()).await;
    assert_eq!(refusal(&taken.err().expect("it is refused")), of(Code::PermissionDenied, "NOT_PERMITTED"));
    let v1::Welcome { session: id, incarnation, .. } = session.welcome;
    let notes = v1::PassOverRequest { session: id, incarnation, passed_over: None };
    let foreign = client.pass_over(as_principal("scheduler/other", notes)).await.unwrap_err();
    assert_eq!(refusal(&foreign), of(Code::PermissionDenied, "NOT_PERMITTED"));
    let hold = v1::TakeHoldRequest { session: id, incarnation, job: 1 << 32, ..Default::default() };
    let foreign = client.take_hold(as_principal("scheduler/other", hold)).await.unwrap_err();
    assert_eq!(refusal(&foreign), of(Code::PermissionDenied, "NOT_PERMITTED"));
    assert_eq!(standing(&server, &channel).await, before, "it is open, and nothing was decided");

    // Its stream is still there when the session ends, and ends with it.
    let mut left = session;
    client.close(close).await.unwrap();
    let closed = standing(&server, &channel).await;
    assert_eq!((closed.0, closed.1), (before.0 + 1, 0));
    let ended = loop {
        if let Err(status) = left.next().await {
            break status;
        }
    };
    assert_eq!(refusal(&ended), of(Code::NotFound, "NO_SUCH_SESSION"));
    let late = client.commit(transaction).await.unwrap_err();
    assert_eq!(refusal(&late), of(Code::NotFound, "NO_SUCH_SESSION"));
    assert_eq!(hello(&channel, resume).await, of(Code::NotFound, "NO_SUCH_SESSION"));
    assert_eq!(refusal(&client.close(close).await.unwrap_err()), of(Code::NotFound, "NO_SUCH_SESSION"));
    assert_eq!(standing(&server, &channel).await, closed);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn numbers_that_are_no_new_ones_take_no_effect() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let job = submit(&channel, job("crunch", 2)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let before = standing(&server, &channel).await;
    for number in [0, 1 << 32] {
        let bad = session.transaction(number, Vec::new());
        let error = session.commit(bad).await.unwrap_err();
        assert_eq!((error.number, on_stream(&error)), (number, of(Code::InvalidArgument, "INVALID_REQUEST")));
        assert!(error.message.starts_with("number:"), "{}", error.message);
    }
    assert_eq!(standing(&server, &channel).await, before);
    let first = session.transaction(1, vec![placement(job, vec![0], vec![0])]);
    let outcome = session.commit(first.clone()).await.unwrap();
    let before = standing(&server, &channel).await;
    // How it was decided is not content, and may differ.
    let again =
        v1::Transaction { decision: Some(v1::DecisionMetadata { attempt: 2, ..Default::default() }), ..first.clone() };
    assert_eq!(session.commit(again).await.unwrap(), outcome);
    let other = v1::Transaction { placements: vec![placement(job, vec![0], vec![1])], ..first.clone() };
    let reused = of(Code::InvalidArgument, "NUMBER_REUSED");
    assert_eq!(on_stream(&session.commit(other.clone()).await.unwrap_err()), reused);
    assert_eq!(standing(&server, &channel).await, before, "neither of them was decided");
    // A session remembers its last 256; the history has all of them.
    for number in 3..=258 {
        let next = session.transaction(number, Vec::new());
        session.commit(next).await.unwrap();
    }
    let before = standing(&server, &channel).await;
    let mut client = v1::cell_client::CellClient::new(channel.clone());
    assert_eq!(session.commit(first.clone()).await.unwrap(), outcome);
    assert_eq!(client.commit(first).await.unwrap().into_inner(), outcome);
    assert_eq!(on_stream(&session.commit(other.clone()).await.unwrap_err()), reused);
    assert_eq!(refusal(&client.commit(other).await.unwrap_err()), reused);
    // It was passed over, which its session does not remember, either.
    let never = session.transaction(2, Vec::new());
    let refused = session.commit(never.clone()).await.unwrap_err();
    assert_eq!(on_stream(&refused), of(Code::FailedPrecondition, "NUMBER_RETIRED"));
    let look = format!("`plenum txn show txn-{}-2`", session.welcome.session);
    assert!(refused.message.contains(&look), "{}", refused.message);
    assert_eq!(refusal(&client.commit(never).await.unwrap_err()), of(Code::FailedPrecondition, "NUMBER_RETIRED"));
    assert_eq!(standing(&server, &channel).await, before);
    assert_eq!((session.cell.revision().0, session.cell.live()), (before.0, 1));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_is_not_claimed_twice_in_one_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let job = submit(&channel, job("crunch", 3)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let before = standing(&server, &channel).await;
    let twice = session.transaction(1, vec![placement(job, vec![0, 0], vec![1, 1])]);
    let error = session.commit(twice).await.unwrap_err();
    assert_eq!(on_stream(&error), of(Code::InvalidArgument, "INVALID_REQUEST"));
    assert!(error.message.contains("1 twice"), "{}", error.message);
    assert_eq!(standing(&server, &channel).await, before);
    // In two placements of one transaction it is granted where it first can be: the other one is a second way, that is not needed.
    let (missing, there) = (7, 0);
    for (number, machines, claim, reason) in [
        (2, [there, there], (1, 0), v1::RefusalReason::TaskTaken),
        (3, [missing, there], (0, 0), v1::RefusalReason::NoSuchMachine),
    ] {
        let task = u32::try_from(number).unwrap();
        let ways = machines.map(|machine| placement(job, vec![machine], vec![task - 2]));
        let split = session.transaction(number, ways.into());
        let outcome = session.commit(split).await.unwrap();
        let [refused] = &outcome.refusals[..] else { panic!("one of both is granted: {outcome:?}") };
        assert_eq!((refused.kind(), refused.reason()), (v1::RefusalKind::Misfit, reason));
        assert_eq!((refused.placement, refused.claim, outcome.granted), (claim.0, claim.1, 1));
    }
    assert_eq!(session.cell.live(), 2);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_million_claims_at_once_are_refused_by_their_count() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let before = standing(&server, &channel).await;
    let many = session.transaction(7, vec![placement(1 << 32, vec![0; 1_000_000], (0..1_000_000).collect())]);
    let error = session.commit(many.clone()).await.unwrap_err();
    assert_eq!((error.number, on_stream(&error)), (7, of(Code::InvalidArgument, "INVALID_REQUEST")));
    assert!(error.message.contains("at most 16384 claims") && error.message.contains("1000000"), "{}", error.message);
    let mut client = v1::cell_client::CellClient::new(channel.clone());
    let refused = client.commit(many).await.unwrap_err();
    assert_eq!(refusal(&refused), of(Code::InvalidArgument, "INVALID_REQUEST"));
    assert!(refused.message().contains("at most 16384 claims"), "{refused}");
    assert_eq!(standing(&server, &channel).await, before);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_message_above_the_bound_ends_its_stream_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    assert_eq!(session.welcome.message_bytes_max, 4_194_304);
    let before = standing(&server, &channel).await;
    let large = session.transaction(1, vec![placement(1 << 32, vec![u32::MAX; 1_000_000], Vec::new())]);
    session.asks.send(v1::SessionRequest { ask: Some(v1::session_request::Ask::Commit(large)) }).await.unwrap();
    let ended = loop {
        match session.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(refusal(&ended), of(Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    // The first one as those that follow.
    let large = v1::Hello { scheduler: "x".repeat(5_000_000), ..Default::default() };
    let refused = Session::hello(&channel, large, Cell::default()).await.err().expect("it is refused");
    assert_eq!(refusal(&refused), of(Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    for told in [&ended, &refused] {
        let expected = "expected a message of at most 4194304 bytes, found one of 5";
        assert!(told.message().starts_with(expected) && told.message().ends_with("; send less at once"), "{told}");
    }
    assert_eq!(standing(&server, &channel).await, before);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn who_watches_from_the_future_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let session = Session::open(&channel, "batch").await.unwrap();
    let before = standing(&server, &channel).await;
    let future = v1::Hello {
        session: session.welcome.session,
        incarnation: session.welcome.incarnation,
        revision: session.cell.revision().0 + 1,
        ..Default::default()
    };
    assert_eq!(hello(&channel, future.clone()).await, of(Code::OutOfRange, "NO_SUCH_REVISION"));
    // Nor is a session opened for a stream that there will not be.
    let anew = v1::Hello { session: 0, scheduler: "batch".into(), namespace: "default".into(), ..future.clone() };
    assert_eq!(hello(&channel, anew.clone()).await, of(Code::OutOfRange, "NO_SUCH_REVISION"));
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.older_copy, "", "it may mean another cell");
    // Whatever became of the mirror and of the session, which a cell that was put back may not know: what was seen counts.
    let newest = session.cell.revision().0;
    let seen = v1::Hello {
        cell_id: session.welcome.cell_id.clone(),
        seen_incarnation: session.welcome.incarnation,
        seen_revision: newest + 1,
        ..v1::Hello { revision: 0, incarnation: 0, ..anew.clone() }
    };
    let told = Session::hello(&channel, seen.clone(), Cell::default()).await.err().expect("it is refused");
    assert_eq!(refusal(&told), of(Code::OutOfRange, "NO_SUCH_REVISION"));
    let expected =
        format!("seen_revision: expected at most {newest}, found {}: more of the cell than is here; ", newest + 1);
    assert!(told.message().starts_with(&expected) && told.message().contains("older copy"), "{told}");
    assert_eq!(told.metadata().get("plenum-retry-after-micros").unwrap(), "2000000", "it may be put right");
    let unknown = v1::Hello { session: 1 << 40, incarnation: session.welcome.incarnation, ..seen.clone() };
    assert_eq!(hello(&channel, unknown).await, of(Code::OutOfRange, "NO_SUCH_REVISION"));
    let later = v1::Hello { seen_incarnation: session.welcome.incarnation + 1, seen_revision: 1, ..seen.clone() };
    assert_eq!(hello(&channel, later).await, of(Code::OutOfRange, "NO_SUCH_REVISION"));
    let elsewhere = v1::Hello { cell_id: vec![1; 16].into(), ..seen.clone() };
    assert_eq!(hello(&channel, elsewhere.clone()).await, of(Code::Aborted, "OTHER_CELL"));
    let nonsense = v1::Hello { revision: 0, sections: vec![99], ..anew };
    assert_eq!(hello(&channel, nonsense).await, of(Code::InvalidArgument, "INVALID_REQUEST"));
    let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
    let told =
        format!("local has seen incarnation {} of this cell, which is not here", session.welcome.incarnation + 1);
    assert!(status.older_copy.starts_with(&told), "{}", status.older_copy);
    assert_eq!(standing(&server, &channel).await, before, "nothing was opened, and nothing else changed");
    let mut client = v1::cell_client::CellClient::new(channel.clone());
    let watching = client.watch(v1::Hello { session: 0, ..future }).await.unwrap_err();
    assert_eq!(refusal(&watching), of(Code::OutOfRange, "NO_SUCH_REVISION"));
    let watching = client.watch(elsewhere).await.unwrap_err();
    assert_eq!(refusal(&watching), of(Code::Aborted, "OTHER_CELL"));
    // A revision of which nobody knows the incarnation, and a session for who only watches, count for nothing, and are not left unsaid.
    for lacking in [v1::Hello { seen_incarnation: 0, ..seen.clone() }, v1::Hello { revision: 1, ..seen.clone() }] {
        assert_eq!(hello(&channel, lacking.clone()).await, of(Code::InvalidArgument, "INVALID_REQUEST"));
        let watching = client.watch(lacking).await.unwrap_err();
        assert!(watching.message().contains("incarnation: expected the one that"), "{watching}");
    }
    let in_session = v1::Hello { session: session.welcome.session, ..v1::Hello::default() };
    let watching = client.watch(in_session).await.unwrap_err();
    assert_eq!(refusal(&watching), of(Code::InvalidArgument, "INVALID_REQUEST"));
    assert!(watching.message().starts_with("session: expected 0"), "{watching}");
    assert_eq!(standing(&server, &channel).await, before, "nor by who only watches");
    // Who saw no more than there is gets what it asks for.
    Session::hello(&channel, v1::Hello { seen_revision: newest, ..seen }, Cell::default()).await.unwrap();
    server.shutdown().await.unwrap();
}

/// An older copy of the directory was put back. Who had seen more was refused only until the copy had as many revisions, and went on then in a session that
/// both had, with a mirror of both.
#[tokio::test]
async fn what_was_seen_of_an_earlier_server_is_none_of_this_ones_revisions() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).await.shutdown().await.unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let session = Session::open(&channel, "batch").await.unwrap();
    let newest = session.cell.revision().0;
    assert_eq!(session.welcome.term, 2);
    let before = standing(&server, &channel).await;
    let seen = |seen_term, seen_revision| v1::Hello {
        cell_id: session.welcome.cell_id.clone(),
        session: session.welcome.session,
        incarnation: session.welcome.incarnation,
        revision: seen_revision,
        seen_incarnation: session.welcome.incarnation,
        seen_term,
        seen_revision,
        ..v1::Hello::default()
    };
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let told = [format!("revision {newest} of an earlier server"), "a server of term 3".to_owned()];
    for (future, what) in [seen(1, newest), seen(3, newest)].into_iter().zip(told) {
        assert_eq!(hello(&channel, future.clone()).await, of(Code::OutOfRange, "NO_SUCH_REVISION"));
        let mut client = v1::cell_client::CellClient::new(channel.clone());
        let watching = client.watch(v1::Hello { session: 0, ..future }).await.unwrap_err();
        assert_eq!(refusal(&watching), of(Code::OutOfRange, "NO_SUCH_REVISION"));
        let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
        let told = format!("local has seen {what} of this cell, which is not here");
        assert!(status.older_copy.starts_with(&told), "{}", status.older_copy);
    }
    assert_eq!(standing(&server, &channel).await, before);
    for known in [seen(1, 1), seen(2, newest), seen(0, newest)] {
        let welcome = Session::greeted(&channel, known, Cell::default()).await.unwrap().welcome;
        assert_eq!(welcome.session, session.welcome.session);
    }
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn simple_clients_commit_under_their_own_open_sessions_only() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let session = Session::open(&channel, "batch").await.unwrap();
    let mut client = v1::cell_client::CellClient::new(channel.clone());
    let good = session.transaction(1, Vec::new());
    let before = standing(&server, &channel).await;
    let unknown = v1::Transaction { session: 1 << 40, ..good.clone() };
    let refused = client.commit(unknown).await.unwrap_err();
    assert_eq!(refusal(&refused), of(Code::NotFound, "NO_SUCH_SESSION"));
    let restored = v1::Transaction { incarnation: good.incarnation + 1, ..good.clone() };
    let refused = client.commit(restored).await.unwrap_err();
    assert_eq!(refusal(&refused), of(Code::Aborted, "OTHER_INCARNATION"));
    assert_eq!(standing(&server, &channel).await, before);
    client.close(v1::CloseRequest { session: good.session, incarnation: 0 }).await.unwrap();
    let before = standing(&server, &channel).await;
    let refused = client.commit(good).await.unwrap_err();
    assert_eq!(refusal(&refused), of(Code::NotFound, "NO_SUCH_SESSION"));
    assert_eq!(standing(&server, &channel).await, before, "nothing of that was decided");
    server.shutdown().await.unwrap();
}

// Without its incarnation a client was told to open another session, each time; a job that always had version 1 was said to have another one now; and
// the deadline that was too early was none that had been sent.
#[tokio::test]
async fn what_a_scheduler_leaves_out_is_named_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let crunch = submit(&channel, job("crunch", 1)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let mut client = v1::cell_client::CellClient::new(channel.clone());
    let before = standing(&server, &channel).await;
    let good = session.transaction(1, vec![placement(crunch, vec![0], vec![0])]);
    let unsaid = v1::Placement { job_version: 0, ..placement(crunch, vec![0], vec![0]) };
    for (bad, told) in [
        (v1::Transaction { incarnation: 0, ..good.clone() }, "incarnation: expected"),
        (v1::Transaction { placements: vec![unsaid], ..good.clone() }, "placements[0].job_version: expected"),
    ] {
        let refused = client.commit(bad.clone()).await.unwrap_err();
        assert_eq!(refusal(&refused), of(Code::InvalidArgument, "INVALID_REQUEST"));
        assert!(refused.message().starts_with(told), "{refused}");
        let error = session.commit(bad).await.unwrap_err();
        assert_eq!((error.number, on_stream(&error)), (1, of(Code::InvalidArgument, "INVALID_REQUEST")));
        assert!(error.message.starts_with(told), "{}", error.message);
    }
    let wanted = v1::WantedRequest { session: good.session, ..Default::default() };
    let refused = client.wanted(wanted).await.unwrap_err();
    assert_eq!(refusal(&refused), of(Code::InvalidArgument, "INVALID_REQUEST"));

    let resources = Some(v1::Resources { cpu_millis: 1000, ..Default::default() });
    let room = v1::TakeHoldRequest { job: crunch, machines: vec![0], resources, ..Default::default() };
    let without = v1::TakeHoldRequest { within_micros: 60_000_000, ..room.clone() };
    let refused = client.take_hold(as_principal("scheduler/batch", without)).await.unwrap_err();
    assert_eq!(refusal(&refused), of(Code::InvalidArgument, "INVALID_REQUEST"));
    assert!(refused.message().starts_with("session: expected"), "{refused}");
    for within_micros in [0, -1] {
        let never = v1::TakeHoldRequest { session: good.session, within_micros, ..room.clone() };
        let refused = client.take_hold(never).await.unwrap_err();
        assert_eq!(refusal(&refused), of(Code::InvalidArgument, "INVALID_REQUEST"));
        let told = format!("within_micros: expected at least 1 µs from now, found {within_micros}");
        assert_eq!(refused.message(), told);
    }
    let back = v1::TakeHoldRequest { session: good.session, job: crunch, ..Default::default() };
    client.take_hold(back).await.expect("who gives back needs no time");

    assert_eq!(standing(&server, &channel).await, before, "nothing of that was decided");
    assert_eq!(session.commit(good).await.unwrap().granted, 1);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn transactions_that_contradict_themselves_or_come_from_the_future_are_not_decided() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let low = submit(&channel, job("low", 2)).await.job;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let granted = session.commit(session.transaction(1, vec![placement(low, vec![0], vec![0])])).await.unwrap();
    let victim = granted.placements[0].allocations[0];
    let revision = session.cell.revision();
    let before = standing(&server, &channel).await;

    // Its task is to be placed by the very transaction that evicts it.
    let preemptions = vec![v1::Preemption { machine: 0, victim }];
    let both = v1::Placement { preemptions: preemptions.clone(), ..placement(low, vec![0], vec![0]) };
    let error = session.commit(session.transaction(2, vec![both])).await.unwrap_err();
    assert_eq!(on_stream(&error), of(Code::InvalidArgument, "INVALID_REQUEST"), "{}", error.message);
    // Also when another placement does.
    let evicts = v1::Placement { preemptions, ..placement(low, vec![0], vec![1]) };
    let split = session.transaction(2, vec![evicts, placement(low, vec![0], vec![0])]);
    let error = session.commit(split).await.unwrap_err();
    assert_eq!(on_stream(&error), of(Code::InvalidArgument, "INVALID_REQUEST"), "{}", error.message);

    let future = session.transaction(2, vec![placement(low, vec![0], vec![1])]);
    let future = v1::Transaction { base_revision: revision.0 + 1, ..future };
    let error = session.commit(future.clone()).await.unwrap_err();
    assert_eq!(on_stream(&error), of(Code::InvalidArgument, "FUTURE_BASE"), "{}", error.message);
    let mut client = v1::cell_client::CellClient::new(channel.clone());
    let refused = client.commit(future.clone()).await.unwrap_err();
    assert_eq!(refusal(&refused), of(Code::InvalidArgument, "FUTURE_BASE"));
    assert_eq!((session.cell.revision(), session.cell.live()), (revision, 1));
    assert_eq!(standing(&server, &channel).await, before, "nor did anything change that a stream is told of later");

    // The number was not used up by any of them.
    let now = v1::Transaction { base_revision: revision.0, ..future };
    assert_eq!(session.commit(now).await.unwrap().granted, 1);
    server.shutdown().await.unwrap();
}

/// Reads until the other side ends the connection.
async fn ends(mut stream: tokio::net::TcpStream) {
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer));
    // A reset is an end, too.
    drop(reading.await.expect("the server ends it"));
}

#[tokio::test]
async fn connections_that_say_nothing_or_nonsense_are_ended_and_give_their_places_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = options(dir.path());
    short.settings.greeting = Duration::from_millis(200);
    short.settings.connections = 2;
    let server = Server::start(short).await.unwrap();
    let connect_raw = || async { tokio::net::TcpStream::connect(server.address()).await.unwrap() };
    let silent = connect_raw().await;
    let mut dripping = connect_raw().await;
    dripping.write_all(b"PRI * H").await.unwrap();
    ends(silent).await;
    ends(dripping).await;
    let mut nonsense = connect_raw().await;
    nonsense.write_all(&[0xff; 4096]).await.unwrap();
    ends(nonsense).await;
    // A stream without a hello, and one that begins with something else.
    let channel = connect(&server).await;
    let mut client = v1::cell_client::CellClient::new(channel.clone());
    let silent = client.session(tokio_stream::pending()).await;
    let silent = match silent {
        Ok(answer) => answer.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(refusal(&silent), of(Code::DeadlineExceeded, "NO_HELLO"));
    let other = tokio_stream::once(v1::SessionRequest { ask: None });
    let other = client.session(other).await.unwrap().into_inner().message().await.unwrap_err();
    assert_eq!(refusal(&other), of(Code::InvalidArgument, "INVALID_REQUEST"));
    assert_eq!(standing(&server, &channel).await, (1, 0, true), "there is nothing but the server's own start");
    server.shutdown().await.unwrap();
}

/// What every connection of HTTP/2 begins with, and an empty SETTINGS frame.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

#[tokio::test]
async fn garbage_behind_a_greeting_ends_its_connection_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = options(dir.path());
    short.settings.connections = 3;
    let server = Server::start(short).await.unwrap();
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let before = standing(&server, &channel).await;
    // Frames of impossible lengths; a block of headers that can't be unpacked; a message for a stream that was never opened.
    let impossible = [0xff; 4096].as_slice();
    let headers = [0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff].as_slice();
    let unopened = [0, 0, 1, 0, 0, 0, 0, 0, 7, 0].as_slice();
    // More often than there are places: none of them keeps its own.
    for garbage in [impossible, headers, unopened].repeat(4) {
        let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(&[PREFACE, SETTINGS, garbage].concat()).await.unwrap();
        ends(stream).await;
    }
    assert_eq!(standing(&server, &channel).await, before);
    let transaction = session.transaction(1, Vec::new());
    session.commit(transaction).await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_says_nothing_behind_its_greeting_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = options(dir.path());
    short.settings.keepalive = Duration::from_millis(200);
    let server = Server::start(short).await.unwrap();
    let mut mute = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    mute.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    ends(mute).await;
    let channel = connect(&server).await;
    assert_eq!(standing(&server, &channel).await, (1, 0, true), "there is nothing but the server's own start");
    server.shutdown().await.unwrap();
}

/// A message is in the headers of the answer: with all of the name in it, clients saw a broken stream and no reason.
#[tokio::test]
async fn who_asks_for_something_of_an_endless_name_is_told_so_with_the_beginning_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let before = standing(&server, &channel).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let name = "ö".repeat(100 << 10);
    let refused = jobs
        .stop(v1::StopRequest { namespace: "default".into(), name: name.clone(), ..Default::default() })
        .await
        .unwrap_err();
    let message = refused.message();
    assert!(message.contains(&name[..500]) && message.ends_with('…') && message.len() < 3_000, "{message}");
    assert_ne!(refused.code(), Code::Internal, "{message}");
    let filter = format!("{name}=1");
    let list = v1::ListRequest { filter, ..v1::ListRequest::default() };
    let refused = jobs.list(list).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert_eq!(standing(&server, &channel).await, before);
    server.shutdown().await.unwrap();
}
