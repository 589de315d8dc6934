//! A connection: what it speaks, and what of it is read before it is known to ask for something.
//!
//! By HTTP/2 a call is bounded by what the transport was told of windows and metadata. By HTTP/1 the transport takes heads of 400 KB, and waits half a
//! minute for their end; so here it is given no more of one than a head may have, and its end is waited for as that of any other request.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::Place;
use crate::calls::Peer;

/// What every connection of HTTP/2 begins with; a first byte that differs is of HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that come by HTTP/1 before something is answered. That is one head: nobody reads the body of a request that comes so, and nothing of the next
/// one is read before the answer begins. With what the transport reserves for it a head has up to twice as much in memory.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// They are read in pieces, so that one read does not get beyond the bound, and none has the transport reserve more for the next.
const PIECE_BYTES: usize = 4 << 10;

/// What is said to who sends a larger head.
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What a connection speaks, as far as its first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    /// So many bytes of the preface came, and nothing else.
    Unknown(usize),
    Http2,
    /// So many bytes came since something was answered.
    Http1(usize),
}

impl Speaks {
    /// With what came next.
    fn and(self, data: &[u8]) -> Self {
        match self {
            Self::Unknown(bytes) => {
                let expected = &PREFACE[bytes..];
                let compared = data.len().min(expected.len());
                if data[..compared] != expected[..compared] {
                    Self::Http1(bytes + data.len())
                } else if compared == expected.len() {
                    Self::Http2
                } else {
                    Self::Unknown(bytes + compared)
                }
            }
            Self::Http2 => self,
            Self::Http1(bytes) => Self::Http1(bytes + data.len()),
        }
    }
}

/// A connection that gives its place free when it ends.
pub(crate) struct Connection {
    stream: TcpStream,
    speaks: Speaks,
    /// How long what has begun is waited for.
    patience: Duration,
    /// Runs until it has said that it speaks HTTP/2; by HTTP/1 until something is answered, and again from when more comes.
    late: Option<Pin<Box<Sleep>>>,
    /// Waits until something is answered, as there may be no more before that.
    reader: Option<Waker>,
    /// It had had too much, or too long, when it was looked at last.
    is_doubted: bool,
    /// The last answer was not taken as far as it goes: nothing more is read by HTTP/1 until it goes on.
    is_stalled: bool,
    peer: Peer,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: Place,
}

impl Connection {
    /// One that has said nothing yet. It ends when `cut` turns true.
    pub(super) fn new(stream: TcpStream, patience: Duration, cut: watch::Receiver<bool>, place: Place) -> Self {
        let late = Some(Box::pin(tokio::time::sleep(patience)));
        let (speaks, peer, cut) = (Speaks::Unknown(0), Peer::default(), Box::pin(ended(cut)));
        let (is_doubted, is_stalled) = (false, false);
        Self { stream, speaks, patience, late, reader: None, is_doubted, is_stalled, peer, cut, _place: place }
    }

    /// Reads a piece of what was not answered yet.
    fn poll_piece(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>, left: usize) -> Poll<io::Result<()>> {
        let most = left.min(into.remaining()).min(PIECE_BYTES);
        let mut piece = ReadBuf::new(into.initialize_unfilled_to(most));
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut piece);
        let came = piece.filled().len();
        into.advance(came);
        read
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = match self.speaks {
            Speaks::Http2 => return Pin::new(&mut self.stream).poll_read(cx, into),
            Speaks::Unknown(bytes) => self.poll_piece(cx, into, PREFACE.len() - bytes),
            // What is written next belongs to that answer, and says nothing of a head behind it; nor is one answered before.
            Speaks::Http1(_) if self.is_stalled => {
                self.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Speaks::Http1(HEAD_BYTES_MAX..) => {
                self.reader = Some(cx.waker().clone());
                return self.is_given_up(cx, true).map(|()| Err(self.too_large()));
            }
            Speaks::Http1(bytes) => self.poll_piece(cx, into, HEAD_BYTES_MAX - bytes),
        };
        let data = &into.filled()[before..];
        self.speaks = self.speaks.and(data);
        match self.speaks {
            Speaks::Http2 => self.late = None,
            Speaks::Http1(_) if !data.is_empty() && self.late.is_none() => {
                self.late = Some(Box::pin(tokio::time::sleep(self.patience)));
            }
            _ => {}
        }
        if read.is_ready() {
            self.is_doubted = false;
            return read;
        }
        let is_late = self.late.as_mut().is_some_and(|late| late.as_mut().poll(cx).is_ready());
        self.is_given_up(cx, is_late).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ready where what came is too much, or came too slowly, and is no whole request either: that is answered, however long it takes. One whose end has
    /// just come is not known to be answered before its reader has gone on: so it is looked at twice.
    fn is_given_up(&mut self, cx: &Context<'_>, is_too_much: bool) -> Poll<()> {
        let is_doubted = is_too_much && !self.peer.is_served();
        if !std::mem::replace(&mut self.is_doubted, is_doubted) && is_doubted {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if is_doubted { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Says so. No answer is on its way that this might become part of: nothing is read then.
    fn too_large(&self) -> io::Error {
        // Whether it arrives is up to its reader: the connection ends.
        drop(self.stream.try_write(TOO_LARGE));
        let message = format!("expected the head of a request, of at most {HEAD_BYTES_MAX} bytes, found no end of it");
        io::Error::new(io::ErrorKind::InvalidData, message)
    }

    /// What is written by HTTP/1 answers what came before.
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        self.is_stalled = written.is_pending();
        if matches!(written, Poll::Ready(Ok(1..)))
            && let Speaks::Http1(bytes) = &mut self.speaks
        {
            (*bytes, self.late) = (0, None);
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }
}

async fn ended(mut cut: watch::Receiver<bool>) {
    if cut.wait_for(|cut| *cut).await.is_err() {
        // Nobody will cut any more.
        std::future::pending::<()>().await;
    }
}

impl Connected for Connection {
    /// What each call has among its extensions.
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.poll_next(cx, into);
        if read.is_pending() && self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::Places;
    use super::*;
    use crate::calls::Calls;

    #[test]
    fn a_connection_speaks_http2_once_all_of_the_preface_has_come_and_http1_with_the_first_byte_that_differs() {
        for piece in [1, 5, 23, 24] {
            let mut speaks = Speaks::Unknown(0);
            for data in PREFACE.chunks(piece) {
                assert!(matches!(speaks, Speaks::Unknown(_)), "pieces of {piece}");
                speaks = speaks.and(data);
            }
            assert_eq!(speaks, Speaks::Http2, "pieces of {piece}");
        }
        for request in [&b"GET / HTTP/1.1"[..], b"PRI * HTTP/1.1", b"\r\n", b"PUT"] {
            let speaks = request.iter().fold(Speaks::Unknown(0), |speaks, byte| speaks.and(&[*byte]));
            assert_eq!(speaks, Speaks::Http1(request.len()));
        }
        assert_eq!(Speaks::Unknown(0).and(&[]), Speaks::Unknown(0));
    }

    /// Both ends of a connection whose head is waited for so long.
    async fn connected(patience: Duration) -> (TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let places = Arc::new(Places::of(1, ""));
        let place = Place::taken(&places, places.take().await.unwrap());
        (near, Connection::new(stream, patience, watch::Sender::new(false).subscribe(), place))
    }

    /// How many bytes are read until it fails, and with what.
    async fn read_all(connection: &mut Connection) -> (usize, io::ErrorKind) {
        let (mut bytes, mut into) = (0, vec![0; 1 << 20]);
        loop {
            match connection.read(&mut into).await {
                Ok(read) => bytes += read,
                Err(error) => return (bytes, error.kind()),
            }
        }
    }

    // All that came was handed on, and kept until its end had come: some 400 KB on each of 4,096 connections.
    #[tokio::test]
    async fn no_more_is_read_by_http1_than_one_head_has_before_something_is_answered() {
        let (mut near, mut connection) = connected(Duration::from_secs(600)).await;
        near.write_all(&[b'x'; 64 << 10]).await.unwrap();
        assert_eq!(read_all(&mut connection).await, (HEAD_BYTES_MAX, io::ErrorKind::InvalidData));
        connection.write_all(b"what it asked for").await.unwrap();
        assert_eq!(read_all(&mut connection).await, (HEAD_BYTES_MAX, io::ErrorKind::InvalidData));
        let (mut near, mut connection) = connected(Duration::from_secs(600)).await;
        near.write_all(&[PREFACE, &[0; 64 << 10]].concat()).await.unwrap();
        drop(near);
        let mut all = Vec::new();
        connection.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), PREFACE.len() + (64 << 10), "what comes by HTTP/2 is bounded elsewhere");
    }

    #[tokio::test]
    async fn a_head_is_waited_for_as_long_as_it_may_take_and_an_answer_for_as_long_as_it_takes() {
        let (mut near, mut connection) = connected(Duration::from_millis(20)).await;
        near.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let call = Arc::new(Calls::new(0)).take(Some(&connection.connect_info())).unwrap();
        let answering = tokio::time::timeout(Duration::from_millis(200), read_all(&mut connection)).await;
        assert!(answering.is_err(), "it is being answered: {answering:?}");
        connection.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        drop(call);
        let idle = tokio::time::timeout(Duration::from_millis(200), read_all(&mut connection)).await;
        assert!(idle.is_err(), "nothing has begun: {idle:?}");
        near.write_all(b"G").await.unwrap();
        assert_eq!(read_all(&mut connection).await, (1, io::ErrorKind::TimedOut));
    }
}
