//! gRPC by itself: a server that answers each message of a stream with the same one, and clients that send the next when one was
//! answered. No cell has more transactions a second over as many connections: it would have to do nothing. And the same with a log: a
//! message is answered when it was written and synced, with all that came meanwhile. No durable cell has more. As with a cell, the server is a
//! process of its own and the clients are the harness: where it is dear to go from one process to another, a server that shared theirs would have
//! what none can.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use crossbeam_channel::{Receiver, Sender};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::rate::Counted;
use crate::server_process::{self, ServerProcess};
use crate::{disk, event_loop};
use wire::Message;
use wire::echo_client::EchoClient;
use wire::echo_server::{Echo, EchoServer};

/// The generated client and server.
#[allow(unreachable_pub, clippy::all, reason = "generated")]
mod wire {
    tonic::include_proto!("plenum.bench.v1");
}

/// The names of these peers in figures.
pub(crate) const ECHO: &str = "echo";
pub(crate) const SYNCED_ECHO: &str = "synced-echo";
/// Bytes of each message: about what a transaction of one claim has, and its outcome.
pub(crate) const MESSAGE_BYTES: usize = 50;

/// Messages that wait for the log at a time: what comes beyond them waits on its connection.
const BATCH_MAX: usize = 4096;
/// Messages of a connection that can be under way.
const UNDER_WAY_MAX: usize = 64;
/// The log is a file that was written before, and is written again from its beginning when it is full.
const LOG_BYTES: u64 = 64 << 20;
const LOG_PIECE_BYTES: usize = 1 << 20;

/// Starts a server, and waits until it serves. With a log it writes messages to a file in this folder, and answers then.
pub(crate) async fn start(dir: &Path, has_log: bool) -> anyhow::Result<ServerProcess> {
    ServerProcess::start("serve-echo", dir, has_log.then(|| "--log".to_owned())).await
}

/// Runs such a server until it is killed, with as many threads as that of a cell.
pub(crate) fn serve(dir: &Path, has_log: bool) -> anyhow::Result<()> {
    server_process::follow_the_harness()?;
    let serving = plenum_server::event_loop()?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let log = has_log.then(|| writer(dir)).transpose()?;
    serving.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port for an echo server")?;
        server_process::tell_address(dir, listener.local_addr()?)?;
        serve_on(listener, log).await
    })
}

async fn serve_on(listener: TcpListener, log: Option<Sender<Due>>) -> anyhow::Result<()> {
    let server = Server::builder().tcp_nodelay(true).add_service(EchoServer::new(Echoing { log }));
    server.serve_with_incoming(TcpListenerStream::new(listener)).await.context("an echo server ended")
}

/// Messages that a server answered, over so many connections with so many under way on each: counted after a while that does not count.
pub(crate) async fn answered(
    server: &str,
    connections: u32,
    in_flight: u32,
    warm_up: Duration,
    counted: Duration,
) -> anyhow::Result<Counted> {
    ensure!(
        in_flight as usize <= UNDER_WAY_MAX,
        "an echo has {UNDER_WAY_MAX} messages of a connection under way at most"
    );
    let shared = Arc::new(Shared::default());
    let on = event_loop::of_clients(connections, in_flight)?;
    let mut running = Vec::new();
    for _ in 0..connections {
        running.push(on.spawn(client(server.to_owned(), in_flight, shared.clone())));
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
    ensure!(answered > 0, "an echo server answered nothing within {counted:?}");
    Ok(Counted { count: answered, seconds })
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
}

async fn client(server: String, in_flight: u32, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut echo = connect(server).await?;
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

/// A connection of one's own.
async fn connect(server: String) -> anyhow::Result<EchoClient<Channel>> {
    let endpoint = Endpoint::from_shared(server)?.tcp_nodelay(true);
    Ok(EchoClient::new(endpoint.connect().await.context("cannot connect to an echo server")?))
}

/// A message, and whom it is answered to.
type Due = (Message, mpsc::Sender<Result<Message, Status>>);

/// The least that keeps what it answers: appends all that came meanwhile to a file of zeros, with one sync, and answers then. On a thread of
/// its own, which goes before others where it may, as a cell's does, as long as somebody sends.
fn write_and_answer(file: &File, due: &Receiver<Due>) -> std::io::Result<()> {
    plenum_server::step_forward();
    let (mut batch, mut bytes, mut at) = (Vec::new(), Vec::new(), 0);
    while let Ok(first) = due.recv() {
        batch.push(first);
        batch.extend(due.try_iter().take(BATCH_MAX));
        bytes.clear();
        batch.iter().for_each(|(message, _)| bytes.extend_from_slice(&message.content));
        if at + bytes.len() as u64 > LOG_BYTES {
            at = 0;
        }
        file.write_all_at(&bytes, at)?;
        file.sync_data()?;
        at += bytes.len() as u64;
        for (message, to) in batch.drain(..) {
            // One whose client has gone is answered to nobody.
            drop(to.try_send(Ok(message)));
        }
    }
    Ok(())
}

/// What is sent here is written, synced and answered.
fn writer(folder: &Path) -> anyhow::Result<Sender<Due>> {
    let path = folder.join("echo-log");
    let file = disk::file_of_zeros(&path, LOG_PIECE_BYTES, LOG_BYTES / LOG_PIECE_BYTES as u64)?;
    std::fs::remove_file(&path)?;
    let (sender, due) = crossbeam_channel::bounded(BATCH_MAX);
    let work = move || write_and_answer(&file, &due).expect("a file that was written before is written again");
    std::thread::Builder::new().name("echo-writer".to_owned()).spawn(work)?;
    Ok(sender)
}

struct Echoing {
    /// Where messages are written; `None`: they are answered at once.
    log: Option<Sender<Due>>,
}

#[tonic::async_trait]
impl Echo for Echoing {
    type AnswerStream = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

    async fn answer(&self, request: Request<Streaming<Message>>) -> Result<Response<Self::AnswerStream>, Status> {
        let mut messages = request.into_inner();
        let Some(log) = self.log.clone() else { return Ok(Response::new(Box::pin(messages))) };
        let (sender, answers) = mpsc::channel(UNDER_WAY_MAX);
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await
                && log.send((message, sender.clone())).is_ok()
            {}
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_proto::v1;
    use prost::Message as _;

    /// What a server answers to these messages of one connection, to the end of their stream.
    async fn answers_to(sent: &[Message], log: Option<Sender<Due>>) -> Vec<Message> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve_on(listener, log));
        let mut echo = connect(format!("http://{address}")).await.unwrap();
        let mut answers = echo.answer(tokio_stream::iter(sent.to_vec())).await.unwrap().into_inner();
        let mut found = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            found.push(answer);
        }
        serving.abort();
        found
    }

    #[tokio::test]
    async fn each_message_is_answered_with_the_same_one_and_with_a_log_it_is_in_that_by_then() {
        let sent = ["one", "two", "three"].map(|content| Message { content: content.into() });
        assert_eq!(answers_to(&sent, None).await, sent);
        let file = tempfile::tempfile().unwrap();
        let (log, due) = crossbeam_channel::bounded(BATCH_MAX);
        let written = file.try_clone().unwrap();
        std::thread::spawn(move || write_and_answer(&written, &due));
        assert_eq!(answers_to(&sent, Some(log)).await, sent);
        let mut found = [0; 11];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"onetwothree");
    }

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
