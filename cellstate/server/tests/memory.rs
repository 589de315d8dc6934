//! A request that asks for far too much is refused before it is expanded: 4 MiB of it would stand for hundreds in memory. And what was asked is not kept
//! once it is decided. Counted by an allocator of these tests' own, which is why they have a binary, and each its turn: others would be counted with it.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use plenum_proto::codec::Codec;
use plenum_proto::v1;
use plenum_server::{Handle, Server, ServerOptions};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Codec as _;
use tonic::codegen::http;
use tonic::{Code, Status, Streaming};
use tower::Service;

/// The system's allocator, which remembers how much was held at most.
struct Weighed;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(held, Ordering::Relaxed);
}

// SAFETY: every call is handed on to the system's allocator as it came.
#[allow(unsafe_code, reason = "an allocator can't be watched in another way")]
unsafe impl GlobalAlloc for Weighed {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: it was allocated above, by the system.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Weighed = Weighed;

/// Whose turn it is.
static TURN: Mutex<()> = Mutex::const_new(());

/// Nothing near the bound of messages, which is 4 MiB; times what its way here may copy it, client and server together.
const MESSAGE_BYTES: usize = 4_000_000;
const COPIES: usize = 10;

/// An encoded message.
#[derive(Debug, Default)]
struct Encoded(Bytes);

impl prost::Message for Encoded {
    fn encode_raw(&self, into: &mut impl BufMut) {
        into.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        number: u32,
        kind: WireType,
        from: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(kind, number, from, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// A message of this field, again and again.
fn repeated(number: u8, content: &[u8]) -> Vec<u8> {
    let field = [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat();
    field.repeat(MESSAGE_BYTES / field.len())
}

/// A message with this one in a field.
fn within(number: u8, message: &[u8]) -> Vec<u8> {
    let mut outer = vec![number << 3 | 2];
    prost::encoding::encode_varint(message.len() as u64, &mut outer);
    outer.extend_from_slice(message);
    outer
}

type Client = tonic::client::Grpc<tonic::transport::Channel>;

async fn called(client: &mut Client, path: &str, request: Vec<u8>) -> tonic::Status {
    client.ready().await.unwrap();
    let request = tonic::Request::new(Encoded(request.into()));
    // No answer is read: each is an error.
    let codec = Codec::<Encoded, Encoded>::default();
    client.unary(request, path.parse().unwrap(), codec).await.expect_err("it is refused")
}

/// The status with which a stream ends, or that of the error which it is told.
async fn asked(client: &mut Client, request: Vec<u8>) -> (Code, String) {
    let hello = v1::Hello { scheduler: "batch".into(), namespace: "default".into(), ..Default::default() };
    let hello = v1::SessionRequest { ask: Some(v1::session_request::Ask::Hello(hello)) };
    let asks = [prost::Message::encode_to_vec(&hello), request].map(|ask| Encoded(ask.into()));
    client.ready().await.unwrap();
    let path = "/plenum.v1.Cell/Session".parse().unwrap();
    let codec = Codec::<Encoded, v1::SessionResponse>::default();
    let told = client.streaming(tonic::Request::new(tokio_stream::iter(asks)), path, codec).await.unwrap();
    let mut told = told.into_inner();
    loop {
        match told.message().await {
            Ok(told) => {
                let told = told.expect("it is refused before the stream ends");
                if let Some(v1::session_response::Tell::Error(error)) = told.tell {
                    return (error.status.into(), error.message);
                }
            }
            Err(status) => return (status.code(), status.message().to_owned()),
        }
    }
}

/// A server in this directory, however little room its disk has, and where it can be reached.
async fn served(dir: &Path) -> (Handle, tonic::transport::Endpoint) {
    let mut options = ServerOptions::new(dir);
    options.settings.reserve_bytes = Some(0);
    let server = Server::start(options).await.unwrap();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    (server, endpoint)
}

#[tokio::test]
async fn millions_of_entries_at_once_are_refused_before_they_are_expanded() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let (server, endpoint) = served(dir.path()).await;
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());

    // Empty placements, of two bytes each; and as many claims as there is room for, each in a placement of its own.
    let claim = [5 << 3 | 2, 1, 0, 6 << 3 | 2, 1, 0];
    let transactions = [repeated(7, &[]), repeated(7, &claim)];
    let mut calls: Vec<(&str, Vec<u8>)> = transactions.iter().map(|it| ("Cell/Commit", it.clone())).collect();
    calls.extend([
        // Groups, constraints of one group, and arguments.
        ("Jobs/Submit", within(1, &within(1, &repeated(7, &[])))),
        ("Jobs/Submit", within(1, &within(1, &within(7, &repeated(5, &[]))))),
        ("Jobs/Submit", within(1, &within(2, &within(1, &repeated(3, &[]))))),
        ("Agents/Register", within(1, &repeated(6, &[5 << 3 | 2, 0]))),
        ("Agents/Report", repeated(3, &[])),
        ("Agents/ReportMany", repeated(10, &[])),
        ("Govern/SetPartition", repeated(2, &[])),
    ]);
    // Columns of numbers, of a byte each: what a decision assumed, machines, and resources that a cell has named.
    let numbers = vec![1; MESSAGE_BYTES];
    calls.extend([
        ("Cell/Commit", within(11, &within(5, &numbers))),
        ("Cell/TakeHold", within(3, &numbers)),
        ("Cell/TakeHold", within(4, &within(4, &numbers))),
        ("Govern/SetQuota", within(2, &within(4, &numbers))),
        ("Agents/Register", within(1, &within(3, &within(4, &numbers)))),
    ]);
    for (method, request) in calls {
        let before = HELD.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let refused = called(&mut client, &format!("/plenum.v1.{method}"), request).await;
        let code = refused.metadata().get("plenum-code").map(|code| code.to_str().unwrap());
        assert_eq!((refused.code(), code), (Code::InvalidArgument, Some("INVALID_REQUEST")), "{refused}");
        assert!(refused.message().contains("expected at most"), "{method}: {refused}");
        held_little_since(before, method);
    }
    let asks =
        transactions.map(|transaction| within(2, &transaction)).into_iter().chain([within(3, &repeated(1, &[]))]);
    for request in asks {
        let before = HELD.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let (code, message) = asked(&mut client, request).await;
        assert_eq!(code, Code::InvalidArgument, "{message}");
        assert!(message.contains("expected at most"), "{message}");
        held_little_since(before, "Cell/Session");
    }
    server.shutdown().await.unwrap();
}

fn held_little_since(before: usize, method: &str) {
    let most = MOST.load(Ordering::Relaxed) - before;
    assert!(most < COPIES * MESSAGE_BYTES, "{method}: {most} bytes were held for {MESSAGE_BYTES} of bad input");
}

/// A session's stream, on which bytes are sent as they are: the library's own client keeps as much as its server did.
async fn opened(channel: &mut tonic::transport::Channel) -> (mpsc::Sender<Bytes>, Streaming<v1::SessionResponse>) {
    let (data, sent) = mpsc::channel(1);
    let body = tokio_stream::StreamExt::map(ReceiverStream::new(sent), Ok::<_, Status>);
    let request = http::Request::post("/plenum.v1.Cell/Session")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(axum::body::Body::from_stream(body)))
        .unwrap();
    let hello = v1::Hello { scheduler: "batch".into(), namespace: "default".into(), ..Default::default() };
    let hello = v1::SessionRequest { ask: Some(v1::session_request::Ask::Hello(hello)) };
    data.send(on_the_wire(&prost::Message::encode_to_vec(&hello))).await.unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let response = channel.call(request).await.unwrap();
    let decoder = Codec::<Encoded, v1::SessionResponse>::default().decoder();
    (data, Streaming::new_response(decoder, response.into_body(), http::StatusCode::OK, None, None))
}

/// A message with its head.
fn on_the_wire(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0_u8], &length[..], message].concat().into()
}

/// The next error that a stream is told.
async fn refused(told: &mut Streaming<v1::SessionResponse>) -> String {
    loop {
        let message = told.message().await.unwrap().expect("the stream goes on");
        if let Some(v1::session_response::Tell::Error(error)) = message.tell {
            return error.message;
        }
    }
}

// Its library kept the room of the largest message until the stream ended: 98,304 streams that had sent one each, and said nothing more, had 400 GB.
#[tokio::test]
async fn a_stream_keeps_nothing_of_the_large_messages_that_came_on_it() {
    const STREAMS: usize = 8;
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let (server, endpoint) = served(dir.path()).await;
    let mut channel = endpoint.connect().await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let (data, mut told) = opened(&mut channel).await;
        data.send(on_the_wire(&[])).await.unwrap();
        assert!(refused(&mut told).await.ends_with("found nothing"));
        streams.push((data, told));
    }
    let before = HELD.load(Ordering::Relaxed);
    // A field that is not known, in a message and in a transaction of no session.
    let padding = within(15, &vec![0; MESSAGE_BYTES]);
    let large = [on_the_wire(&padding), on_the_wire(&within(2, &padding))];
    for (stream, (data, told)) in streams.iter_mut().enumerate() {
        data.send(large[stream % 2].clone()).await.unwrap();
        refused(told).await;
    }
    drop((padding, large));
    // What was refused last is told first, and let go of then.
    let most = before + STREAMS * MESSAGE_BYTES / 8;
    let let_go = async {
        while HELD.load(Ordering::Relaxed) > most {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), let_go).await;
    let kept = HELD.load(Ordering::Relaxed).saturating_sub(before);
    assert!(waited.is_ok(), "{STREAMS} streams keep {kept} bytes, of {MESSAGE_BYTES} that came on each");
    for (data, told) in &mut streams {
        data.send(on_the_wire(&[])).await.unwrap();
        assert!(refused(told).await.ends_with("found nothing"), "it goes on");
    }
    drop((streams, channel));
    server.shutdown().await.unwrap();
}
