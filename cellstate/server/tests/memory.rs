//! A request that asks for far too much is refused before it is expanded: 4 MiB of it would stand for hundreds in memory. And what was asked is not kept
//! once it is decided, nor is anything of what is refused, however often it comes. Counted by an allocator of these tests' own, which is why they have a binary, and each its turn: others would be counted with it.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use plenum_proto::codec::Codec;
use plenum_proto::v1;
use plenum_server::{Handle, Server, ServerOptions};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
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

/// Just below the bound of messages, which is 4 MiB; times what its way here may copy it, client and server together.
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

/// A server with a session that is open and has decided something, one that is closed, and who sends them what nobody should.
struct Scene {
    server: Handle,
    channel: tonic::transport::Channel,
    open: v1::OpenResponse,
    ended: v1::OpenResponse,
    job: u64,
    revision: u64,
}

/// What is sent again and again: small, and each time refused or answered as before.
#[derive(Clone, Copy, Debug)]
enum Bad {
    UnknownSession,
    EndedSession,
    ForeignSession,
    OldNumber,
    ReusedNumber,
    RepeatedNumber,
    FutureBase,
    Contradiction,
    WatchFromTheFuture,
    SessionFromTheFuture,
    SilentConnection,
    Garbage,
}

impl Bad {
    const ALL: [Self; 12] = [
        Self::UnknownSession,
        Self::EndedSession,
        Self::ForeignSession,
        Self::OldNumber,
        Self::ReusedNumber,
        Self::RepeatedNumber,
        Self::FutureBase,
        Self::Contradiction,
        Self::WatchFromTheFuture,
        Self::SessionFromTheFuture,
        Self::SilentConnection,
        Self::Garbage,
    ];

    /// Whether it is a connection, and not a request: such are sent to a server that does not wait long for them.
    fn is_connection(self) -> bool {
        matches!(self, Self::SilentConnection | Self::Garbage)
    }

    /// The code with which it is refused; none of connections, which are ended, and of what is answered.
    fn code(self) -> &'static str {
        match self {
            Self::UnknownSession | Self::EndedSession => "NO_SUCH_SESSION",
            Self::ForeignSession => "NOT_PERMITTED",
            Self::OldNumber => "NUMBER_RETIRED",
            Self::ReusedNumber => "NUMBER_REUSED",
            Self::FutureBase => "FUTURE_BASE",
            Self::Contradiction => "INVALID_REQUEST",
            Self::WatchFromTheFuture | Self::SessionFromTheFuture => "NO_SUCH_REVISION",
            Self::RepeatedNumber | Self::SilentConnection | Self::Garbage => "",
        }
    }
}

impl Scene {
    async fn begin(dir: &Path, greeting: Duration) -> Self {
        let mut options = ServerOptions::new(dir);
        options.settings.reserve_bytes = Some(0);
        options.settings.greeting = greeting;
        let server = Server::start(options).await.unwrap();
        let address = format!("http://{}", server.address());
        let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        let mut cell = v1::cell_client::CellClient::new(channel.clone());
        let open = v1::OpenRequest { scheduler: "batch".into(), namespace: "default".into() };
        let (ended, open) = (cell.open(open.clone()).await.unwrap(), cell.open(open).await.unwrap());
        let (ended, open) = (ended.into_inner(), open.into_inner());
        cell.close(v1::CloseRequest { session: ended.session, incarnation: ended.incarnation }).await.unwrap();
        let mut scene = Self { server, channel, open, ended, job: 1 << 32, revision: 0 };
        // Number 1 is passed over, and its session forgets it.
        for number in 2..=LAST_NUMBER {
            let outcome = cell.commit(scene.transaction(number)).await.unwrap().into_inner();
            scene.revision = outcome.revision;
        }
        scene
    }

    /// An empty one of the session that is open.
    fn transaction(&self, number: u64) -> v1::Transaction {
        let v1::OpenResponse { session, incarnation, .. } = self.open;
        let (base_revision, check) = (self.revision, v1::ConflictCheck::Fit.into());
        v1::Transaction { session, incarnation, number, base_revision, check, ..v1::Transaction::default() }
    }

    /// A claim of these tasks.
    fn claims(&self, tasks: Vec<u32>) -> Vec<v1::Placement> {
        let machines = vec![0; tasks.len()];
        vec![v1::Placement { job: self.job, job_version: 1, machines, tasks, ..v1::Placement::default() }]
    }

    /// Sends it once. With what it was refused, if it was.
    async fn send(&self, bad: Bad) -> Option<Status> {
        let mut cell = v1::cell_client::CellClient::new(self.channel.clone());
        let good = self.transaction(LAST_NUMBER + 1);
        let transaction = match bad {
            Bad::UnknownSession => v1::Transaction { session: 1 << 40, ..good },
            Bad::EndedSession => v1::Transaction { session: self.ended.session, ..good },
            Bad::ForeignSession => {
                let mut request = tonic::Request::new(good);
                request.metadata_mut().insert("plenum-principal", "scheduler/other".parse().unwrap());
                return cell.commit(request).await.err();
            }
            Bad::OldNumber => self.transaction(1),
            Bad::ReusedNumber => v1::Transaction { placements: self.claims(vec![0]), ..self.transaction(LAST_NUMBER) },
            Bad::RepeatedNumber => {
                let again = self.transaction(LAST_NUMBER);
                v1::Transaction { base_revision: self.revision - 1, ..again }
            }
            Bad::FutureBase => v1::Transaction { base_revision: self.revision + 1, ..good },
            Bad::Contradiction => v1::Transaction { placements: self.claims(vec![1, 1]), ..good },
            Bad::WatchFromTheFuture => return cell.watch(self.hello_of_the_future()).await.err(),
            Bad::SessionFromTheFuture => {
                let hello = v1::Hello { session: self.open.session, ..self.hello_of_the_future() };
                let ask = v1::SessionRequest { ask: Some(v1::session_request::Ask::Hello(hello)) };
                return match cell.session(tokio_stream::once(ask)).await {
                    Ok(told) => told.into_inner().message().await.err(),
                    Err(status) => Some(status),
                };
            }
            Bad::SilentConnection => return self.connect(b"PRI * H").await,
            Bad::Garbage => return self.connect(&[0xff; 64]).await,
        };
        cell.commit(transaction).await.err()
    }

    fn hello_of_the_future(&self) -> v1::Hello {
        let (incarnation, revision) = (self.open.incarnation, self.revision + 1);
        v1::Hello { incarnation, revision, ..v1::Hello::default() }
    }

    /// A connection on which this is said, and nothing else, until the server ends it.
    async fn connect(&self, said: &[u8]) -> Option<Status> {
        let mut stream = tokio::net::TcpStream::connect(self.server.address()).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = [0; 1024];
        // A reset is an end, too.
        while stream.read(&mut answer).await.is_ok_and(|bytes| bytes > 0) {}
        None
    }

    /// Sends it so often, many at once: what is silent is waited for.
    async fn send_often(self: &Arc<Self>, bad: Bad, times: usize) {
        for _ in 0..times / AT_ONCE {
            let mut sent = JoinSet::new();
            for _ in 0..AT_ONCE {
                let scene = self.clone();
                sent.spawn(async move { scene.send(bad).await });
            }
            for refused in sent.join_all().await {
                let told = refused.as_ref().and_then(|refused| refused.metadata().get("plenum-code"));
                let code = told.map_or("", |code| code.to_str().unwrap());
                assert_eq!(code, bad.code(), "{bad:?}: {refused:?}");
            }
        }
    }

    async fn revision(&self) -> u64 {
        let mut inspect = v1::inspect_client::InspectClient::new(self.channel.clone());
        inspect.status(v1::StatusRequest {}).await.unwrap().into_inner().revision
    }
}

/// A session remembers its last 256 numbers, and no number that it passed over before.
const LAST_NUMBER: u64 = 300;
/// As many as a client has under way.
const AT_ONCE: usize = 50;
/// First what is kept once: buffers, tables that have grown, what the runtime has for its tasks.
const WARM_UP: usize = 500;
/// In the first round. Of connections, each of which waits for its end: what a connection has is found, of more than 32 bytes, and a number alone is not.
const CONNECTIONS: usize = 1000;
/// Of requests: eight bytes for each are found, and no entry of a table is smaller.
const REQUESTS: usize = 4100;
const ROUNDS: usize = 3;
/// What may be held more than before, for all of a round: with the numbers above, what is found of each.
const MORE_BYTES: usize = 32 << 10;

// Large messages alone were looked at: what is kept of each small one that is refused, a session, a number, a place, would have been found by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_grows_with_how_often_what_nobody_should_send_is_sent() {
    let _turn = TURN.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let patient = Arc::new(Scene::begin(&dir.path().join("patient"), Duration::from_secs(60)).await);
    let impatient = Arc::new(Scene::begin(&dir.path().join("impatient"), Duration::from_millis(50)).await);
    let before = patient.revision().await;
    for bad in Bad::ALL {
        let scene = if bad.is_connection() { &impatient } else { &patient };
        let times = if bad.is_connection() { CONNECTIONS } else { REQUESTS };
        scene.send_often(bad, WARM_UP).await;
        let mut more = Vec::new();
        // A table that grows at last is larger once; what is kept of each is kept in each round. As each sends twice as many as the one before, whatever
        // doubles its room has to do so in each.
        while more.len() < ROUNDS && more.last().is_none_or(|&more| more >= MORE_BYTES) {
            let held = settled().await;
            scene.send_often(bad, times << more.len()).await;
            more.push(settled().await.saturating_sub(held));
        }
        assert!(more.last() < Some(&MORE_BYTES), "{bad:?}: {more:?} bytes are held, first for {times} of them");
    }
    assert_eq!(patient.revision().await, before, "nothing of that was decided");
    for scene in [patient, impatient] {
        Arc::into_inner(scene).unwrap().server.shutdown().await.unwrap();
    }
}

/// What is held once nothing is on its way any more: the least of a while.
async fn settled() -> usize {
    let mut least = usize::MAX;
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        least = least.min(HELD.load(Ordering::Relaxed));
    }
    least
}
