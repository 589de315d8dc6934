//! gRPC by itself: a server that answers each message of a stream with the same one, and clients that send the next when one was
//! answered. No cell has more transactions a second over as many connections: it would have to do nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use wire::Message;
use wire::echo_client::EchoClient;
use wire::echo_server::{Echo, EchoServer};

/// The generated client and server.
#[allow(unreachable_pub, clippy::all, reason = "generated")]
mod wire {
    tonic::include_proto!("plenum.bench.v1");
}

/// The name of this peer in figures.
pub(crate) const ECHO: &str = "echo";
/// Bytes of each message: about what a transaction of one claim has, and its outcome.
pub(crate) const MESSAGE_BYTES: usize = 50;

/// Messages answered a second, over so many connections with so many under way on each: counted after a while that does not count. The
/// server has threads of its own in this process, as many as that of a cell.
pub(crate) async fn messages_per_second(
    connections: u32,
    in_flight: u32,
    warm_up: Duration,
    counted: Duration,
) -> anyhow::Result<f64> {
    let serving = plenum_server::event_loop()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port for an echo server")?;
    let address = listener.local_addr()?;
    let accepting = TcpListenerStream::new(listener);
    let server = Server::builder().tcp_nodelay(true).add_service(EchoServer::new(Same));
    let served = serving.spawn(server.serve_with_incoming(accepting));
    let shared = Arc::new(Shared::default());
    let mut running = Vec::new();
    for _ in 0..connections {
        running.push(tokio::spawn(client(address, in_flight, shared.clone())));
    }
    tokio::time::sleep(warm_up).await;
    let (began, before) = (Instant::now(), shared.answered.load(Ordering::Relaxed));
    tokio::time::sleep(counted).await;
    let answered = shared.answered.load(Ordering::Relaxed) - before;
    let seconds = began.elapsed().as_secs_f64();
    shared.stop.store(true, Ordering::Relaxed);
    for client in running {
        client.await.context("a client of an echo server")??;
    }
    served.abort();
    serving.shutdown_background();
    ensure!(answered > 0, "an echo server answered nothing within {counted:?}");
    Ok(crate::figure::number(answered) / seconds)
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
}

async fn client(server: SocketAddr, in_flight: u32, shared: Arc<Shared>) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{server}"))?.tcp_nodelay(true);
    let mut echo = EchoClient::new(endpoint.connect().await?);
    let (messages, sending) = mpsc::channel(in_flight as usize);
    let message = || Message { content: vec![0x5a; MESSAGE_BYTES] };
    for _ in 0..in_flight {
        messages.send(message()).await?;
    }
    let mut answers = echo.answer(ReceiverStream::new(sending)).await?.into_inner();
    while !shared.stop.load(Ordering::Relaxed) && answers.message().await?.is_some() {
        shared.answered.fetch_add(1, Ordering::Relaxed);
        messages.send(message()).await?;
    }
    Ok(())
}

struct Same;

#[tonic::async_trait]
impl Echo for Same {
    type AnswerStream = Streaming<Message>;

    async fn answer(&self, request: Request<Streaming<Message>>) -> Result<Response<Self::AnswerStream>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_proto::v1;
    use prost::Message as _;

    #[test]
    fn a_message_is_about_as_long_as_a_transaction_of_one_claim() {
        let placement = v1::Placement {
            job: (1 << 32) + 100,
            job_version: 1,
            machines: vec![5000],
            tasks: vec![500],
            ..v1::Placement::default()
        };
        let transaction = v1::Transaction {
            session: 300,
            number: 100_000,
            incarnation: 1,
            base_revision: 1_000_000,
            placements: vec![placement],
            stops: vec![(9 << 32) + 500_000],
            decision: Some(v1::DecisionMetadata { attempt: 1, policy: "random".to_owned(), ..Default::default() }),
            ..v1::Transaction::default()
        };
        let bytes = transaction.encoded_len();
        assert!((MESSAGE_BYTES - 10..=MESSAGE_BYTES + 10).contains(&bytes), "{bytes}");
    }
}
