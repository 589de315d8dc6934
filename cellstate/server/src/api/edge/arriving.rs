//! Bytes of requests that have begun to arrive: counted, and bounded in all.
//!
//! A message is kept until its end has come, and read by nobody before: a reader makes room for all that a message says it will have, and
//! five bytes can say that of megabytes. That of a call counts until the call is answered; those on a stream count until the next
//! one is waited for: by then they are decided, or wait where they are counted.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, BodyDataStream};
use bytes::{Buf, Bytes};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::Status;

use super::budget::{Budget, SMALL_BYTES};
use super::bypass::Bypass;
use super::reflection;

/// A message on the wire begins with a byte about its compression, and four with its length.
const HEAD_BYTES: usize = 5;

/// Of an empty message that is not compressed, this is all.
const EMPTY: &[u8] = &[0; HEAD_BYTES];

/// What is said of a request that ends before its message does.
const CUT: &str = "the request ends in the middle of a message";

/// What is said of bytes that are no message, such as JSON.
const NO_MESSAGE: &str = "a message begins with a byte that is 0 or 1";

/// What is said of a request with more than one message, where its method takes one.
const MORE_THAN_ONE: &str = "expected one message, which is what the method takes, and found another one behind it; send each in a call of its own";

/// Methods whose callers send one message after the other, whenever they have one. A request of any other method goes on until it is whole; so does
/// that of reflection, whose callers know what they want to ask.
const STREAMED: [&str; 2] = ["/plenum.v1.Cell/Session", "/plenum.v1.Agents/SendLogs"];

/// What one request has of the room; given back with it.
struct Held {
    arriving: Arc<Budget>,
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
pub(in crate::api) struct Unanswered(Arc<Held>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.answered.store(true, Ordering::Relaxed);
    }
}

/// What is taken of a request.
#[derive(Clone, Debug)]
pub(in crate::api) struct Taken {
    /// Largest message, in bytes.
    message_bytes_max: usize,
    /// How long more of it is waited for.
    patience: Option<Duration>,
    /// Whether there may be a second message.
    several: bool,
    /// Where messages that come in pieces go, if their reader takes them from there.
    bypass: Option<Bypass>,
}

impl Taken {
    /// Of a request of this method: messages of at most so many bytes, as long as more of it comes within this time. Streams may be silent. Any other request
    /// has one message.
    pub(in crate::api) fn of(method: &str, message_bytes_max: usize, patience: Duration) -> Self {
        let is_stream = STREAMED.contains(&method);
        let is_reflection = method.starts_with(reflection::METHODS);
        // Its callers may ask for several things in one request.
        let several = is_stream || is_reflection;
        let most = if is_reflection { reflection::QUESTION_BYTES_MAX } else { usize::MAX };
        Self {
            message_bytes_max: message_bytes_max.min(most),
            patience: (!is_stream).then_some(patience),
            several,
            bypass: None,
        }
    }

    /// The same, of a request whose reader takes messages that come in pieces from there.
    pub(in crate::api) fn with(self, bypass: Bypass) -> Self {
        Self { bypass: Some(bypass), ..self }
    }
}

/// The body of a request, counted.
pub(in crate::api) fn counted(arriving: &Arc<Budget>, body: Body, taken: Taken) -> (Body, Unanswered) {
    let (counted, unanswered) = Counted::new(arriving, body, taken);
    (Body::from_stream(counted), unanswered)
}

/// Where messages end.
#[derive(Debug, Default)]
pub(in crate::api) struct Messages {
    /// Of the message that is arriving.
    head: [u8; HEAD_BYTES],
    pub(in crate::api) arrived: usize,
    /// Bytes of the last one that has arrived.
    pub(in crate::api) last: usize,
    /// How many have arrived.
    ended: u64,
}

impl Messages {
    /// Goes over what came next, and gives how many bytes of it belong to messages that are whole by then.
    pub(in crate::api) fn walk(&mut self, data: &[u8]) -> usize {
        let (mut left, mut ends) = (data, 0);
        while !left.is_empty() {
            let whole = self.whole();
            let taken = left.len().min(whole - self.arrived);
            if self.arrived < HEAD_BYTES {
                self.head[self.arrived..][..taken].copy_from_slice(&left[..taken]);
            }
            self.arrived += taken;
            left = &left[taken..];
            if self.arrived >= HEAD_BYTES && self.arrived == self.whole() {
                (self.last, self.arrived) = (self.arrived, 0);
                self.ended += 1;
                ends = data.len() - left.len();
            }
        }
        ends
    }

    /// Whether a second message has begun.
    fn are_several(&self) -> bool {
        self.ended + u64::from(self.arrived > 0) > 1
    }

    /// Bytes of the message that is arriving, as far as they are known.
    fn whole(&self) -> usize {
        if self.arrived < HEAD_BYTES { HEAD_BYTES } else { with_head(self.head) }
    }
}

/// Bytes of a message with this head, and it.
fn with_head([_, length @ ..]: [u8; HEAD_BYTES]) -> usize {
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    length.saturating_add(HEAD_BYTES)
}

struct Counted {
    body: BodyDataStream,
    held: Arc<Held>,
    messages: Messages,
    /// What came of a message that is not whole. A copy: what the connection hands out may keep far more in memory than it shows.
    begun: Vec<u8>,
    /// What follows on a head that was handed on.
    behind_head: Bytes,
    taken: Taken,
    /// Runs while more is waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Counted {
    fn new(arriving: &Arc<Budget>, body: Body, taken: Taken) -> (Self, Unanswered) {
        let held = Held { arriving: arriving.clone(), bytes: AtomicUsize::new(0), answered: AtomicBool::new(false) };
        let held = Arc::new(held);
        let counted = Self {
            body: body.into_data_stream(),
            held: held.clone(),
            messages: Messages::default(),
            begun: Vec::new(),
            behind_head: Bytes::new(),
            taken,
            timer: None,
        };
        (counted, Unanswered(held))
    }

    /// What comes next, unless it was waited for too long.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BoxError>> {
        if let Poll::Ready(data) = Pin::new(&mut self.body).poll_next(cx) {
            self.timer = None;
            return Poll::Ready(data.transpose().map_err(BoxError::from));
        }
        let Some(patience) = self.taken.patience else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(timer.as_mut().poll(cx));
        let message = format!("nothing more of the request came within {patience:?}; send it again");
        Poll::Ready(Err(Status::resource_exhausted(message).into()))
    }

    /// Refuses a message by its head, as whoever reads messages does: what is none has no length, and need not come whole.
    fn check_head(&self) -> Result<(), Status> {
        let [compressed, ..] = self.messages.head;
        if self.messages.arrived > 0 && compressed > 1 {
            return Err(Status::internal(NO_MESSAGE));
        }
        let (found, most) = (self.messages.whole() - HEAD_BYTES, self.taken.message_bytes_max);
        if found <= most {
            return Ok(());
        }
        Err(Status::out_of_range(format!("found {found} bytes, the limit is: {most} bytes")))
    }

    /// What may be read now that this has come; empty while no message is whole. One that came at once is handed on as it is.
    fn readable(&mut self, mut data: Bytes) -> Bytes {
        let ends = self.messages.walk(&data);
        let rest = data.split_off(ends);
        let came_at_once = self.begun.is_empty() || data.is_empty();
        let whole = if came_at_once { data } else { self.in_pieces(data) };
        self.begun.extend_from_slice(&rest);
        whole
    }

    /// The same of a message that has begun, of which this is the last piece, and of whole ones behind it.
    fn in_pieces(&mut self, mut data: Bytes) -> Bytes {
        let mut begun = mem::take(&mut self.begun);
        let is_plain = begun.first() == Some(&0);
        let Some(bypass) = self.taken.bypass.as_ref().filter(|_| is_plain) else {
            begun.extend_from_slice(&data);
            let mut whole = Bytes::from(begun);
            // Its reader makes room for what it says it has, beside what it was given.
            self.behind_head = whole.split_off(HEAD_BYTES);
            return whole;
        };
        // Its head may have been cut, too.
        begun.extend_from_slice(&data.split_to(HEAD_BYTES.saturating_sub(begun.len())));
        let bytes = begun.first_chunk().copied().map_or(begun.len(), with_head);
        begun.extend_from_slice(&data.split_to(bytes - begun.len()));
        // What grew with its pieces may have twice the room that it takes: a large one waits for its turn without that.
        if bytes > SMALL_BYTES {
            begun.shrink_to_fit();
        }
        let mut message = Bytes::from(begun);
        message.advance(HEAD_BYTES);
        bypass.put(message);
        self.behind_head = data;
        Bytes::from_static(EMPTY)
    }
}

impl Stream for Counted {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if !this.behind_head.is_empty() {
            return Poll::Ready(Some(Ok(mem::take(&mut this.behind_head))));
        }
        loop {
            // Nothing more is asked for before all messages that have arrived were read.
            let answered = this.held.answered.load(Ordering::Relaxed);
            this.held.keep(this.messages.arrived + if answered { 0 } else { this.messages.last });
            this.check_head()?;
            let Some(data) = ready!(this.poll_data(cx))? else {
                // Told from here, as its reader would make room for all of it first.
                let is_cut = !mem::take(&mut this.begun).is_empty();
                return Poll::Ready(is_cut.then(|| Err(Status::internal(CUT).into())));
            };
            if !this.held.take(data.len(), this.messages.arrived + data.len()) {
                let most = this.held.arriving.most();
                let message = format!("there is room for {most} bytes of requests that are arriving; try again later");
                return Poll::Ready(Some(Err(Status::resource_exhausted(message).into())));
            }
            let readable = this.readable(data);
            // Whoever reads one message lets go of those behind it, and their sender would take them for done.
            if !this.taken.several && this.messages.are_several() {
                return Poll::Ready(Some(Err(Status::invalid_argument(MORE_THAN_ONE).into())));
            }
            if !readable.is_empty() {
                return Poll::Ready(Some(Ok(readable)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use prost::Message;
    use tokio_stream::StreamExt;

    use super::*;
    use crate::api::failure::Failure;

    /// Messages of up to 8 MiB, for which it waits.
    const ANY: Taken = Taken { message_bytes_max: 8 << 20, patience: None, several: true, bypass: None };

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

    /// A body of which this comes, and then nothing more, not even its end.
    fn begun(data: &[u8]) -> Body {
        let data = Ok::<_, BoxError>(Bytes::copy_from_slice(data));
        Body::from_stream(tokio_stream::once(data).chain(tokio_stream::pending()))
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

    // Its reader made room for all of a message when five bytes of it had come, and had that room for as long as no more came.
    #[tokio::test]
    async fn nothing_is_handed_on_of_a_message_that_is_not_whole() {
        let arriving = Arc::new(Budget::new(1 << 20));
        let sent = [message(5), message(300), message(6), message(40_000)].concat();
        for piece in [1, 4, 5, 7, 300, 1000, 50_000] {
            let (mut counted, _unanswered) = Counted::new(&arriving, pieces(sent.clone(), piece), ANY);
            let (mut read, mut messages) = (Vec::new(), Messages::default());
            while let Some(data) = counted.next().await {
                let data = data.unwrap();
                messages.walk(&data);
                read.extend_from_slice(&data);
                let left = if counted.behind_head.is_empty() { 0 } else { HEAD_BYTES };
                assert_eq!(messages.arrived, left, "pieces of {piece}: what follows on a head is at hand");
            }
            assert_eq!(read, sent, "pieces of {piece}");
        }
        let at_once = Bytes::from(message(300));
        let (body, _unanswered) = counted(&arriving, Body::from(at_once.clone()), ANY);
        let data = body.into_data_stream().next().await.unwrap().unwrap();
        assert_eq!((data.as_ptr(), data.len()), (at_once.as_ptr(), at_once.len()), "it is not copied");
    }

    #[tokio::test]
    async fn messages_that_begin_hold_no_more_than_what_came_of_them() {
        let arriving = Arc::new(Budget::new(1 << 20));
        let whole = message(4 << 20);
        let mut calls = Vec::new();
        for bytes in [1, 5, 6, 1000].repeat(64) {
            let (mut call, unanswered) = Counted::new(&arriving, begun(&whole[..bytes]), ANY);
            let polled = Pin::new(&mut call).poll_next(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending(), "there is nothing to read: {polled:?}");
            assert!(call.begun.capacity() <= bytes.max(8), "{} for {bytes}", call.begun.capacity());
            calls.push((call, unanswered));
        }
        assert_eq!(arriving.taken(), 64 * 1012);
        drop(calls);
        assert_eq!(arriving.taken(), 0);
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_is_refused_by_its_head_behind_those_before_it() {
        let arriving = Arc::new(Budget::new(1 << 20));
        let sent = [message(100), message(1 << 20)[..20].to_vec()].concat();
        let few = Taken { message_bytes_max: 1000, ..ANY };
        let (body, _unanswered) = counted(&arriving, begun(&sent), few);
        let mut body = body.into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap().len(), 100);
        let status = Status::from_error(body.next().await.unwrap().unwrap_err().into());
        let failure = Failure::unreadable("a message", 1000, &status).unwrap();
        let told = "expected a message of at most 1000 bytes, found one of 1048571; send less at once";
        assert_eq!((failure.code, &*failure.message), ("MESSAGE_TOO_LARGE", told));
    }

    // JSON was told that it is a message of half a gigabyte, or was waited for as if more of it were to come.
    #[test]
    fn what_begins_as_no_message_does_is_refused_as_such_by_its_first_byte() {
        let arriving = Arc::new(Budget::new(1 << 20));
        for sent in [&b"{\"spec\": {}}"[..], &[2, 0, 0, 0, 9, 1], &b"{"[..]] {
            let (mut call, _unanswered) = Counted::new(&arriving, begun(sent), ANY);
            let polled = Pin::new(&mut call).poll_next(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(Some(Err(refused))) = polled else { panic!("it is refused at once") };
            let failure = Failure::unreadable("a message", 1000, &Status::from_error(refused)).unwrap();
            let told = format!("expected a message, found what can't be read as it: {NO_MESSAGE}");
            assert_eq!((failure.code, failure.message), ("INVALID_REQUEST", told));
        }
    }

    // Such a call stayed for as long as its connection.
    #[tokio::test]
    async fn a_request_of_which_nothing_more_comes_is_refused_and_a_stream_may_be_silent() {
        let arriving = Arc::new(Budget::new(1 << 20));
        let at_once = |method| Taken::of(method, 1 << 20, Duration::ZERO);
        // Its end belongs to it.
        for (sent, whole) in [(50, 0), (300, 300), (0, 0)] {
            let (body, _unanswered) =
                counted(&arriving, begun(&message(300)[..sent]), at_once("/plenum.v1.Jobs/Submit"));
            let (mut body, mut read) = (body.into_data_stream(), 0);
            let refused = loop {
                let next = tokio::time::timeout(Duration::from_secs(60), body.next()).await.expect("it is refused");
                match next.unwrap() {
                    Ok(data) => read += data.len(),
                    Err(error) => break Status::from_error(error.into()),
                }
            };
            assert_eq!((read, refused.code()), (whole, tonic::Code::ResourceExhausted), "{refused}");
            assert_eq!(refused.message(), "nothing more of the request came within 0ns; send it again");
        }
        let (mut stream, _unanswered) = Counted::new(&arriving, begun(&[]), at_once("/plenum.v1.Cell/Session"));
        let polled = Pin::new(&mut stream).poll_next(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending() && stream.timer.is_none(), "{polled:?}");
    }

    // The second one was read and let go of, and the call was answered as if all of it had been done.
    #[tokio::test]
    async fn a_request_with_a_second_message_is_refused_before_the_first_is_acted_upon() {
        let arriving = Arc::new(Budget::new(1 << 20));
        let sent = [message(300), message(5)].concat();
        let end = |method, sent: Vec<u8>, piece| {
            let taken = Taken::of(method, 1 << 20, Duration::from_secs(60));
            let (body, unanswered) = counted(&arriving, pieces(sent, piece), taken);
            async move {
                let _unanswered = unanswered;
                let last = body.into_data_stream().fold(None, |_, data| Some(data)).await.unwrap();
                last.map(drop).map_err(|error| Status::from_error(error.into()))
            }
        };
        for method in ["/plenum.v1.Jobs/Submit", "/plenum.v1.Cell/Watch"] {
            for piece in [1, 5, 300, 301, 400] {
                let status = end(method, sent.clone(), piece).await.unwrap_err();
                let failure = Failure::unreadable("a message", 1000, &status).unwrap();
                assert_eq!((failure.code, &*failure.message), ("INVALID_REQUEST", MORE_THAN_ONE), "pieces of {piece}");
                assert!(end(method, message(300), piece).await.is_ok(), "{method}, one in pieces of {piece}");
            }
        }
        let asked = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        for method in [STREAMED[0], STREAMED[1], asked] {
            assert!(end(method, sent.clone(), 7).await.is_ok(), "{method} takes several");
        }
        // What is asked is repeated in the answer, and counts nowhere then.
        let large = message(reflection::QUESTION_BYTES_MAX + HEAD_BYTES + 1);
        assert!(end(STREAMED[0], large.clone(), 7).await.is_ok());
        let taken = Taken::of(asked, 1 << 20, Duration::from_secs(60));
        let (mut body, _unanswered) = Counted::new(&arriving, pieces(large, 7), taken);
        let Some(Err(error)) = body.next().await else { panic!("its head tells how large it is") };
        assert_eq!(Status::from_error(error).code(), tonic::Code::OutOfRange);
    }

    #[test]
    fn requests_that_may_be_silent_are_those_that_are_streams() {
        let set = prost_types::FileDescriptorSet::decode(plenum_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut streams = 0;
        for file in &set.file {
            for (service, method) in
                file.service.iter().flat_map(|service| service.method.iter().map(move |it| (service, it)))
            {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                assert_eq!(STREAMED.contains(&&*path), method.client_streaming(), "{path}");
                streams += usize::from(method.client_streaming());
            }
        }
        assert_eq!(streams, 2);
    }

    #[tokio::test]
    async fn a_call_counts_until_it_is_answered_and_a_stream_until_it_waits_for_more() {
        let arriving = Arc::new(Budget::new(1 << 20));
        let held = || arriving.taken();
        let sent = [message(100), message(200), message(300)[..50].to_vec()].concat();
        let (body, unanswered) = counted(&arriving, pieces(sent.clone(), 10), ANY);
        let (mut body, mut read) = (body.into_data_stream(), 0);
        while let Some(Ok(data)) = body.next().await {
            read += data.len();
            assert!(held() <= 300, "two of them");
        }
        assert_eq!((read, held()), (300, 250), "the last one, and what there is of the next one");
        drop(body);
        assert_eq!(held(), 250, "it is being answered");
        drop(unanswered);
        assert_eq!(held(), 0);
        let (body, unanswered) = counted(&arriving, pieces(sent, 10), ANY);
        drop(unanswered);
        let mut body = body.into_data_stream();
        while let Some(Ok(_)) = body.next().await {}
        assert_eq!(held(), 50);
        drop(body);
        assert_eq!(held(), 0);
    }

    #[tokio::test]
    async fn a_request_that_ends_within_a_message_is_no_request() {
        let arriving = Arc::new(Budget::new(1 << 20));
        for sent in [1, 5, 299] {
            let (body, _unanswered) = counted(&arriving, pieces(message(300)[..sent].to_vec(), 100), ANY);
            let mut body = body.into_data_stream();
            let status = Status::from_error(body.next().await.unwrap().unwrap_err().into());
            assert_eq!((status.code(), status.message()), (tonic::Code::Internal, CUT), "{sent} bytes of it");
        }
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_refused_and_holds_nothing() {
        let arriving = Arc::new(Budget::new(400 << 10));
        let (large, _unanswered) = counted(&arriving, pieces(message(301 << 10), 1 << 10), ANY);
        let mut large = large.into_data_stream();
        let refused = large.next().await.unwrap().unwrap_err();
        let status = Status::from_error(refused.into());
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(arriving.taken(), 300 << 10);
        let (small, _unanswered) = counted(&arriving, pieces(message(64 << 10), 1 << 10), ANY);
        assert!(small.into_data_stream().all(|data| data.is_ok()).await, "a quarter is left for small ones");
        drop((large, _unanswered));
    }
}
