//! Transactions, served by bytes: one goes into the log as it came, and on a session's stream its outcome comes back as it was logged.
//! Nothing that could be too much is decoded before it was counted.
//!
//! On the wire the messages of a stream are `SessionRequest` and `SessionResponse`: a message within a message is bytes with a length, and is
//! left so here.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use plenum_proto::{codec::Codec, v1};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};
use tokio_stream::Stream;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::{Status, Streaming};
use v1::cell_server::{CellServer as Generated, SERVICE_NAME};

use crate::api::cell::CellService;
use crate::api::edge::bypass::{Bypass, SessionCodec};

/// The methods that are served here; the others are by the generated code.
pub(in crate::api) const SESSION: &str = "/plenum.v1.Cell/Session";
pub(in crate::api) const COMMIT: &str = "/plenum.v1.Cell/Commit";

/// A message as it came.
#[derive(Debug, Default)]
pub(in crate::api) struct Encoded(pub(super) Bytes);

impl prost::Message for Encoded {
    fn encode_raw(&self, into: &mut impl BufMut) {
        into.put_slice(&self.0);
    }

    /// Fields are left alone.
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

    fn decode(mut from: impl Buf) -> Result<Self, DecodeError> {
        Ok(Self(from.copy_to_bytes(from.remaining())))
    }
}

/// A `SessionRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::api) struct Request {
    #[prost(oneof = "Ask", tags = "1, 2, 3, 4")]
    pub(in crate::api) ask: Option<Ask>,
}

/// What is asked on a stream.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(in crate::api) enum Ask {
    #[prost(message, tag = "1")]
    Hello(v1::Hello),
    /// An encoded `Transaction`.
    #[prost(bytes = "bytes", tag = "2")]
    Commit(Bytes),
    #[prost(message, tag = "3")]
    PassedOver(v1::PassedOver),
    #[prost(message, tag = "4")]
    Pulse(v1::Pulse),
}

/// A `SessionResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::api) struct Response {
    #[prost(oneof = "Tell", tags = "1, 2, 3, 4, 5, 6")]
    tell: Option<Tell>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Tell {
    #[prost(message, tag = "1")]
    Welcome(v1::Welcome),
    #[prost(message, tag = "2")]
    Snapshot(v1::SnapshotPart),
    #[prost(message, tag = "3")]
    Deltas(v1::Deltas),
    /// An encoded `Outcome`.
    #[prost(bytes = "bytes", tag = "4")]
    Outcome(Bytes),
    #[prost(message, tag = "5")]
    Heartbeat(v1::Heartbeat),
    #[prost(message, tag = "6")]
    Error(v1::RequestError),
}

impl Response {
    /// An outcome, in the bytes in which it was logged.
    pub(in crate::api) fn outcome(encoded: Bytes) -> Self {
        Self { tell: Some(Tell::Outcome(encoded)) }
    }

    /// For the generated code.
    pub(in crate::api) fn decoded(self) -> Result<v1::SessionResponse, Status> {
        let bytes = Bytes::from(prost::Message::encode_to_vec(&self));
        let decoded = prost::Message::decode(bytes);
        decoded.map_err(|error| Status::internal(format!("a message of our own can't be read: {error}")))
    }
}

impl From<v1::SessionResponse> for Response {
    fn from(message: v1::SessionResponse) -> Self {
        use v1::session_response::Tell as Told;
        let tell = message.tell.map(|tell| match tell {
            Told::Welcome(welcome) => Tell::Welcome(welcome),
            Told::Snapshot(part) => Tell::Snapshot(part),
            Told::Deltas(deltas) => Tell::Deltas(deltas),
            Told::Outcome(outcome) => Tell::Outcome(prost::Message::encode_to_vec(&outcome).into()),
            Told::Heartbeat(heartbeat) => Tell::Heartbeat(heartbeat),
            Told::Error(error) => Tell::Error(error),
        });
        Self { tell }
    }
}

/// Messages down.
pub(in crate::api) type Responses = Pin<Box<dyn Stream<Item = Result<Response, Status>> + Send>>;

/// `plenum.v1.Cell`.
#[derive(Clone)]
pub(in crate::api) struct CellServer {
    service: Arc<CellService>,
    generated: Generated<CellService>,
    message_bytes_max: usize,
}

impl CellServer {
    /// Takes messages of at most so many bytes.
    pub(in crate::api) fn new(service: CellService, message_bytes_max: usize) -> Self {
        let service = Arc::new(service);
        let generated = Generated::from_arc(service.clone()).max_decoding_message_size(message_bytes_max);
        Self { service, generated, message_bytes_max }
    }
}

impl NamedService for CellServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl<B> Service<http::Request<B>> for CellServer
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let most = Some(self.message_bytes_max);
        match request.uri().path() {
            SESSION => {
                let sessions = Sessions(self.service.clone());
                let bypass = request.extensions_mut().remove::<Bypass>().unwrap_or_default();
                Box::pin(async move {
                    let mut grpc = Grpc::new(SessionCodec::new(bypass)).apply_max_message_size_config(most, None);
                    Ok(grpc.streaming(sessions, request).await)
                })
            }
            COMMIT => {
                let commits = Commits(self.service.clone());
                Box::pin(async move {
                    let mut grpc = Grpc::new(Codec::default()).apply_max_message_size_config(most, None);
                    Ok(grpc.unary(commits, request).await)
                })
            }
            _ => self.generated.call(request),
        }
    }
}

struct Commits(Arc<CellService>);

impl UnaryService<Encoded> for Commits {
    type Response = v1::Outcome;
    type Future = BoxFuture<tonic::Response<v1::Outcome>, Status>;

    fn call(&mut self, request: tonic::Request<Encoded>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.commit_encoded(request).await })
    }
}

struct Sessions(Arc<CellService>);

impl StreamingService<Request> for Sessions {
    type Response = Response;
    type ResponseStream = Responses;
    type Future = BoxFuture<tonic::Response<Responses>, Status>;

    fn call(&mut self, request: tonic::Request<Streaming<Request>>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.serve(request) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn the_messages_are_those_of_the_protocol() {
        let outcome = v1::Outcome { session: 3, granted: 2, ..Default::default() };
        let generated = v1::SessionResponse { tell: Some(v1::session_response::Tell::Outcome(outcome.clone())) };
        let own = Response::outcome(outcome.encode_to_vec().into());
        assert_eq!(own.encode_to_vec(), generated.encode_to_vec());
        assert_eq!(Response::from(generated.clone()), own);
        assert_eq!(own.decoded().unwrap(), generated);
        let transaction = v1::Transaction { session: 3, number: 9, ..Default::default() };
        let ask = v1::session_request::Ask::Commit(transaction.clone());
        let request = Request::decode(&*v1::SessionRequest { ask: Some(ask) }.encode_to_vec()).unwrap();
        assert_eq!(request.ask, Some(Ask::Commit(transaction.encode_to_vec().into())));
    }
}
