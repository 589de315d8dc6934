//! Frames of HTTP/2 as libraries of other languages send them: each message in one of its own, however small it is.

use std::time::Duration;

use plenum_proto::v1;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use v1::session_request::Ask;

use crate::bad_input::{PREFACE, SETTINGS};
use crate::client::start;
use crate::stalled::shows;

/// Kinds of frames, and flags of them.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a session's stream.
pub(crate) fn opens(stream: u32, authority: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/plenum.v1.Cell/Session"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let block = headers.map(|(name, value)| [vec![0], text(name), text(value)].concat()).concat();
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A request on it.
pub(crate) fn asks(stream: u32, ask: Ask) -> Vec<u8> {
    let message = v1::SessionRequest { ask: Some(ask) }.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    frame(DATA, 0, stream, &framed)
}

/// The next frame: its kind, its flags, its stream and what is in it.
pub(crate) async fn next(mut from: impl AsyncRead + Unpin) -> (u8, u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    from.read_exact(&mut head).await.unwrap();
    let [high, middle, low, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
    from.read_exact(&mut payload).await.unwrap();
    assert_ne!(kind, GOAWAY, "the server ends the connection: {}", payload.escape_ascii());
    (kind, flags, u32::from_be_bytes(stream), payload)
}

/// Reads up to a frame of this kind, and gives its flags.
pub(crate) async fn until(kind: u8, mut from: impl AsyncRead + Unpin) -> u8 {
    loop {
        let (found, flags, ..) = next(&mut from).await;
        if found == kind {
            return flags;
        }
    }
}

// A busy server reads later than requests come: with some 2,000 small ones that it had not read yet it ended the connection (ENHANCE_YOUR_CALM), and
// with it streams whose clients had kept to all that they were told.
#[tokio::test]
async fn a_connection_may_have_256_small_requests_on_each_of_256_streams_before_any_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut near = TcpStream::connect(server.address()).await.unwrap();
    // It takes nothing of what is told on its streams: once that waits, nothing more is read of them.
    let no_window = frame(SETTINGS[3], 0, 0, &[0, 4, 0, 0, 0, 0]);
    near.write_all(&[PREFACE, &no_window[..]].concat()).await.unwrap();
    until(WINDOW_UPDATE, &mut near).await;

    let hello = v1::Hello { scheduler: "batch".to_owned(), namespace: "default".to_owned(), ..Default::default() };
    let authority = server.address().to_string();
    let streams = (1_u32..512).step_by(2);
    let greet = |stream| [opens(stream, &authority), asks(stream, Ask::Hello(hello.clone()))].concat();
    near.write_all(&streams.clone().flat_map(greet).collect::<Vec<u8>>()).await.unwrap();
    shows(&server, "plenum_scheduler_connected{scheduler=\"batch\"} 256").await;
    let mut sent = Vec::new();
    for stream in streams {
        for number in 1..=256 {
            sent.extend(asks(stream, Ask::Commit(v1::Transaction { session: 1, number, ..Default::default() })));
        }
    }
    // Whoever answers it has taken all that came before.
    sent.extend(frame(PING, 0, 0, b"all that"));
    let (mut read, mut write) = near.split();
    let taken = async { while until(PING, &mut read).await & ACK == 0 {} };
    let both = async { tokio::join!(write.write_all(&sent), taken) };
    let (written, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("all of it is taken");
    written.unwrap();
    drop(near);
    server.shutdown().await.unwrap();
}
