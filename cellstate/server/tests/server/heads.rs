//! Heads of requests by HTTP/1 that are too large, or do not end; and those that are as they are elsewhere.

use std::time::{Duration, Instant};

use plenum_server::{Handle, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{options, start};

/// What a head may have.
const BYTES_MAX: usize = 16 << 10;

/// A head of so many bytes, which ends, or does not.
fn head(bytes: usize, ends: bool) -> Vec<u8> {
    let mut head = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx: ".to_vec();
    let end: &[u8] = if ends { b"\r\n\r\n" } else { b"" };
    head.resize(bytes - end.len(), b'x');
    [&head, end].concat()
}

/// Asks, and reads what is answered up to the end of a probe's text.
async fn probed(stream: &mut TcpStream, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", answer.escape_ascii());
    }
    String::from_utf8(answer).unwrap()
}

async fn connect_raw(server: &Handle) -> TcpStream {
    TcpStream::connect(server.address()).await.unwrap()
}

// It was kept up to 400 KB, which took 600 KB of memory, on each of 4,096 connections.
#[tokio::test]
async fn a_head_without_end_is_refused_at_its_bound_and_a_connection_may_have_many_that_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut endless = connect_raw(&server).await;
    endless.write_all(&head(BYTES_MAX, false)).await.unwrap();
    let mut told = String::new();
    endless.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 431 "), "{told}");
    let mut large = connect_raw(&server).await;
    for bytes in [BYTES_MAX, 100, BYTES_MAX - 1, BYTES_MAX, BYTES_MAX] {
        let told = probed(&mut large, &head(bytes, true)).await;
        assert!(told.starts_with("HTTP/1.1 200 "), "{bytes}: {told}");
    }
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn requests_that_are_sent_one_behind_the_other_are_all_answered() {
    const REQUESTS: usize = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut near = connect_raw(&server).await;
    let mut sent = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(REQUESTS - 1);
    sent.extend(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let (mut read, mut write) = near.split();
    let mut told = String::new();
    let (written, answered) = tokio::join!(write.write_all(&sent), read.read_to_string(&mut told));
    written.unwrap();
    answered.unwrap();
    assert_eq!(told.matches("HTTP/1.1 200 ").count(), REQUESTS);
    server.shutdown().await.unwrap();
}

// A head behind an answer that waits to be read is not one without end, however long that takes.
#[tokio::test]
async fn who_reads_slowly_what_was_asked_for_together_is_answered_to_the_end() {
    const REQUESTS: usize = 600;
    let dir = tempfile::tempdir().unwrap();
    let mut short = options(dir.path());
    short.settings.greeting = Duration::from_secs(1);
    let server = Server::start(short).await.unwrap();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // As little as the system gives: what is answered soon waits to be read.
    socket.set_recv_buffer_size(1024).unwrap();
    let mut slow = socket.connect(server.address()).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n";
    // One by one, as a head has to come behind an answer that waits already.
    for _ in 0..REQUESTS {
        slow.write_all(request).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    slow.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut told = String::new();
    slow.read_to_string(&mut told).await.unwrap();
    assert_eq!(told.matches("HTTP/1.1 200 ").count(), REQUESTS + 1);
    server.shutdown().await.unwrap();
}

// By the transport it had half a minute.
#[tokio::test]
async fn the_end_of_a_head_is_waited_for_as_that_of_any_request_and_a_connection_that_is_idle_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = options(dir.path());
    short.settings.greeting = Duration::from_secs(1);
    let server = Server::start(short).await.unwrap();
    let mut idle = connect_raw(&server).await;
    probed(&mut idle, &head(100, true)).await;
    let mut again = connect_raw(&server).await;
    probed(&mut again, &head(100, true)).await;
    let begun = Instant::now();
    for mut slow in [again, connect_raw(&server).await] {
        slow.write_all(&head(1000, false)).await.unwrap();
        let (mut read, mut write) = slow.split();
        let mut told = Vec::new();
        let drips = async {
            // Whatever it says meanwhile; a connection that has ended takes nothing more.
            while write.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = drips => {}
            ended = read.read_to_end(&mut told) => drop(ended),
        }
        assert_eq!(told.escape_ascii().to_string(), "");
    }
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    probed(&mut idle, &head(100, true)).await;
    server.shutdown().await.unwrap();
}
