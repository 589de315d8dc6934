//! What a framework can take that lists.

use std::convert::Infallible;
use std::task::{Context, Poll};

use plenum_proto::codec::Codec;
use plenum_sdk::Client;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;

use super::*;

/// Lists 65 machines of a MiB each, whatever it is asked: a cell needs thousands to come to as much.
#[derive(Clone)]
struct Listing;

impl NamedService for Listing {
    const NAME: &'static str = v1::inspect_server::SERVICE_NAME;
}

impl<B> Service<http::Request<B>> for Listing
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

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(Codec::default());
            Ok(grpc.unary(Machines, request).await)
        })
    }
}

struct Machines;

impl UnaryService<v1::ListRequest> for Machines {
    type Response = v1::ListMachinesResponse;
    type Future = BoxFuture<tonic::Response<v1::ListMachinesResponse>, tonic::Status>;

    fn call(&mut self, _: tonic::Request<v1::ListRequest>) -> Self::Future {
        let machine = v1::MachineView { name: "x".repeat(1 << 20), ..v1::MachineView::default() };
        let listed = v1::ListMachinesResponse { machines: vec![machine; 65], ..v1::ListMachinesResponse::default() };
        Box::pin(async { Ok(tonic::Response::new(listed)) })
    }
}

// The rows of a listing come to 64 MiB, and what stands around them comes on top. A client took 64 MiB in all, and asked the same again, for ever.
#[tokio::test]
async fn a_client_takes_a_listing_that_is_larger_than_its_rows() {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = Client::new(&format!("http://{}", incoming.local_addr().unwrap()), "").unwrap();
    let server = tonic::transport::Server::builder().add_service(Listing).serve_with_incoming(incoming);
    let _serves = Ends::spawn(async move { drop(server.await) });
    let listed = client.inspect().list_machines(v1::ListRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().machines.len(), 65);
}
