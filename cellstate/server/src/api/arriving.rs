//! Bytes of requests that have begun to arrive: counted, and bounded in all.
//!
//! A message is kept until its end has come. That of a call counts until the call is answered; those on a stream count until the next
//! one is waited for: by then they are decided, or wait where they are counted.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use tokio_stream::Stream;
use tonic::Status;

/// What is beyond so many bytes of a message leaves a quarter of the room to smaller ones: who begins large ones and does not end them
/// must not keep agents from renewing their leases.
const SMALL_BYTES: usize = 64 << 10;

/// A message on the wire begins with a byte about its compression, and four with its length.
const HEAD_BYTES: usize = 5;

/// The bytes of all requests that are arriving, or of all answers that were not read.
#[derive(Debug)]
pub(crate) struct Arriving {
    bytes: AtomicUsize,
    most: usize,
}

impl Arriving {
    /// At most so many.
    pub(crate) fn new(most: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), most }
    }

    /// The bound.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether there is room for so many bytes more, of a message that has so many by then.
    pub(super) fn take(&self, bytes: usize, of_message: usize) -> bool {
        let most = if of_message <= SMALL_BYTES { self.most } else { self.most - self.most / 4 };
        let more = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= most);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// Room for something whole; given back with it.
#[derive(Debug)]
pub(crate) struct Room {
    of: Arc<Arriving>,
    bytes: usize,
}

impl Room {
    /// For so many bytes, if there is so much.
    pub(crate) fn take(of: &Arc<Arriving>, bytes: usize) -> Option<Self> {
        Self::of_message(of, bytes, bytes)
    }

    /// The same, for a part of a message that has so many bytes with it.
    pub(super) fn of_message(of: &Arc<Arriving>, bytes: usize, of_message: usize) -> Option<Self> {
        of.take(bytes, of_message).then(|| Self { of: of.clone(), bytes })
    }

    /// Gives back what is more than this.
    pub(crate) fn keep(&mut self, bytes: usize) {
        self.of.give_back(self.bytes.saturating_sub(bytes));
        self.bytes = self.bytes.min(bytes);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.keep(0);
    }
}

/// What one request has of the room; given back with it.
struct Held {
    arriving: Arc<Arriving>,
    bytes: AtomicUsize,
    answered: AtomicBool,
}

impl Held {
    fn take(&self, bytes: usize, of_message: usize) -> bool {
        let taken = self.arriving.take(bytes, of_message);
        if taken {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Gives back what is more than this.
    fn keep(&self, bytes: usize) {
        let held = self.bytes.fetch_min(bytes, Ordering::Relaxed);
        self.arriving.give_back(held.saturating_sub(bytes));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keep(0);
    }
}

/// Whoever has it waits for the answer: until then the last message counts, though it was read.
pub(super) struct Unanswered(Arc<Held>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.answered.store(true, Ordering::Relaxed);
    }
}

/// The body of a request, counted.
pub(super) fn counted(arriving: &Arc<Arriving>, body: Body) -> (Body, Unanswered) {
    let held = Held { arriving: arriving.clone(), bytes: AtomicUsize::new(0), answered: AtomicBool::new(false) };
    let held = Arc::new(held);
    let counted = Counted { body: body.into_data_stream(), held: held.clone(), messages: Messages::default() };
    (Body::from_stream(counted), Unanswered(held))
}

/// Where messages end.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// Of the message that is arriving.
    head: [u8; HEAD_BYTES],
    pub(super) arrived: usize,
    /// Bytes of the last one that has arrived.
    pub(super) last: usize,
}

impl Messages {
    pub(super) fn walk(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let whole = self.whole();
            let taken = data.len().min(whole - self.arrived);
            if self.arrived < HEAD_BYTES {
                self.head[self.arrived..][..taken].copy_from_slice(&data[..taken]);
            }
            self.arrived += taken;
            data = &data[taken..];
            if self.arrived >= HEAD_BYTES && self.arrived == self.whole() {
                (self.last, self.arrived) = (self.arrived, 0);
            }
        }
    }

    /// Bytes of the message that is arriving, as far as they are known.
    fn whole(&self) -> usize {
        let [_, length @ ..] = self.head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if self.arrived < HEAD_BYTES { HEAD_BYTES } else { length.saturating_add(HEAD_BYTES) }
    }
}

struct Counted {
    body: BodyDataStream,
    held: Arc<Held>,
    messages: Messages,
}

impl Stream for Counted {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Nothing more is asked for before all messages that have arrived were read.
        let answered = self.held.answered.load(Ordering::Relaxed);
        self.held.keep(self.messages.arrived + if answered { 0 } else { self.messages.last });
        let Some(data) = ready!(Pin::new(&mut self.body).poll_next(cx)) else { return Poll::Ready(None) };
        let data = data?;
        if !self.held.take(data.len(), self.messages.arrived + data.len()) {
            let most = self.held.arriving.most;
            let message = format!("there is room for {most} bytes of requests that are arriving; try again later");
            return Poll::Ready(Some(Err(Status::resource_exhausted(message).into())));
        }
        self.messages.walk(&data);
        Poll::Ready(Some(Ok(data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    /// A message of so many bytes, with its head.
    fn message(bytes: usize) -> Vec<u8> {
        let content = u32::try_from(bytes - HEAD_BYTES).unwrap();
        let mut message = vec![0];
        message.extend(content.to_be_bytes());
        message.resize(bytes, 7);
        message
    }

    fn pieces(data: Vec<u8>, piece: usize) -> Body {
        let pieces: Vec<_> = data.chunks(piece).map(|piece| Ok::<_, BoxError>(Bytes::copy_from_slice(piece))).collect();
        Body::from_stream(tokio_stream::iter(pieces))
    }

    #[test]
    fn messages_end_where_they_end_however_they_are_cut() {
        let sent = [message(5), message(300), message(6), message(1000)].concat();
        for piece in [1, 2, 4, 5, 7, 300, 2000] {
            let (mut messages, mut last) = (Messages::default(), Vec::new());
            for data in sent.chunks(piece) {
                messages.walk(data);
                last.push((messages.last, messages.arrived));
            }
            assert_eq!(last.last(), Some(&(1000, 0)), "pieces of {piece}");
            assert!(piece > 1 || last[304] == (300, 0) && last[309] == (300, 5));
        }
    }

    #[tokio::test]
    async fn a_call_counts_until_it_is_answered_and_a_stream_until_it_waits_for_more() {
        let arriving = Arc::new(Arriving::new(1 << 20));
        let held = || arriving.bytes.load(Ordering::Relaxed);
        let sent = [message(100), message(200), message(300)[..50].to_vec()].concat();
        let (body, unanswered) = counted(&arriving, pieces(sent.clone(), 10));
        let mut body = body.into_data_stream();
        while let Some(data) = body.next().await {
            data.unwrap();
            assert!(held() <= 300, "two of them");
        }
        assert_eq!(held(), 250, "the last one, and what there is of the next one");
        drop(body);
        assert_eq!(held(), 250, "it is being answered");
        drop(unanswered);
        assert_eq!(held(), 0);
        let (body, unanswered) = counted(&arriving, pieces(sent, 10));
        drop(unanswered);
        let mut body = body.into_data_stream();
        while body.next().await.is_some() {}
        assert_eq!(held(), 50);
        drop(body);
        assert_eq!(held(), 0);
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_refused_and_holds_nothing() {
        let arriving = Arc::new(Arriving::new(400 << 10));
        let (large, _unanswered) = counted(&arriving, pieces(message(301 << 10), 1 << 10));
        let mut large = large.into_data_stream();
        let mut refused = None;
        while let Some(data) = large.next().await {
            refused = data.err();
        }
        let status = Status::from_error(refused.unwrap().into());
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(arriving.bytes.load(Ordering::Relaxed), 300 << 10);
        let (small, _unanswered) = counted(&arriving, pieces(message(64 << 10), 1 << 10));
        assert!(small.into_data_stream().all(|data| data.is_ok()).await, "a quarter is left for small ones");
        drop((large, _unanswered));
    }
}
