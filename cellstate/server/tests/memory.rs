//! A transaction that asks for far too much is refused before it is expanded: 4 MiB of it would stand for hundreds in memory. Counted by an
//! allocator of this test's own, which is why it is alone in its binary.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, BufMut, Bytes};
use plenum_proto::codec::Codec;
use plenum_proto::v1;
use plenum_server::{Server, ServerOptions};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};
use tonic::Code;

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

/// A transaction of these placements, again and again.
fn repeated(placement: &[u8]) -> Encoded {
    let field = [&[7 << 3 | 2, u8::try_from(placement.len()).unwrap()], placement].concat();
    Encoded(field.repeat(MESSAGE_BYTES / field.len()).into())
}

/// As the request of a session's stream.
fn on_stream(transaction: &Encoded) -> Encoded {
    let mut request = vec![2 << 3 | 2];
    prost::encoding::encode_varint(transaction.0.len() as u64, &mut request);
    request.extend_from_slice(&transaction.0);
    Encoded(request.into())
}

#[tokio::test]
async fn a_million_claims_at_once_are_refused_before_they_are_expanded() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(dir.path());
    options.settings.reserve_bytes = Some(0);
    let server = Server::start(options).await.unwrap();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    let hello = v1::Hello { scheduler: "batch".into(), namespace: "default".into(), ..Default::default() };
    let hello = v1::SessionRequest { ask: Some(v1::session_request::Ask::Hello(hello)) };
    let hello = Bytes::from(prost::Message::encode_to_vec(&hello));

    // Empty placements, of two bytes each; and as many claims as there is room for, each in a placement of its own.
    let claim = [5 << 3 | 2, 1, 0, 6 << 3 | 2, 1, 0];
    for placement in [[].as_slice(), claim.as_slice()] {
        let transaction = repeated(placement);
        let asks = [Encoded(hello.clone()), on_stream(&transaction)];
        let before = HELD.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);

        client.ready().await.unwrap();
        let path = "/plenum.v1.Cell/Commit".parse().unwrap();
        let request = tonic::Request::new(transaction);
        let refused = client.unary(request, path, Codec::<Encoded, v1::Outcome>::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("expected at most"), "{refused}");

        client.ready().await.unwrap();
        let path = "/plenum.v1.Cell/Session".parse().unwrap();
        let codec = Codec::<Encoded, v1::SessionResponse>::default();
        let told = client.streaming(tonic::Request::new(tokio_stream::iter(asks)), path, codec).await.unwrap();
        let mut told = told.into_inner();
        let refused = loop {
            let told = told.message().await.unwrap().expect("it is refused before the stream ends");
            if let Some(v1::session_response::Tell::Error(error)) = told.tell {
                break error;
            }
        };
        assert_eq!(Code::from(refused.status), Code::InvalidArgument, "{}", refused.message);
        assert!(refused.message.contains("expected at most"), "{}", refused.message);

        let most = MOST.load(Ordering::Relaxed) - before;
        assert!(most < COPIES * MESSAGE_BYTES, "{most} bytes were held for {MESSAGE_BYTES} of bad input");
    }
    server.shutdown().await.unwrap();
}
