//! Answers that their callers have not read: counted, and bounded in all.
//!
//! An answer is in memory until its last bytes have gone out, and who asks need not read: a listing has up to 64 MiB, and a connection
//! room for hundreds of calls. Streams are bounded by themselves: nothing more is made for who does not read. But of watchers without a session
//! there are as many as there are streams: what waits of each counts, and where it finds no room the stream ends. And the outcomes of dry runs
//! stand nowhere to be looked up again: they are counted from the resolver on. So is each large outcome on a session's stream, of which thousands
//! could have one: it is made when there is room for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

use super::budget::{Budget, SMALL_BYTES, Share};
use crate::api::failure::Failure;

/// Whether a method only reads, and answers at once: its answer may be large, and can be refused as nothing was changed. What changes
/// something is answered by a little more than it was asked with; transactions are not, and say so themselves by an [`Effect`].
fn reads(method: &str) -> bool {
    let name = method.rsplit('/').next().unwrap_or_default();
    let says_what_it_reads = name.starts_with("List") || name.starts_with("Get") || name.ends_with("History");
    says_what_it_reads || ["Wanted", "Status", "Moment"].contains(&name)
}

/// The method of watchers without a session.
const WATCH: &str = "/plenum.v1.Cell/Watch";

/// What came of a call whose answer may be large.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) enum Effect {
    /// Nothing was changed.
    Nothing,
    /// A transaction was decided; asked again under its number, it gets its outcome.
    Decided,
}

impl Effect {
    /// What its caller is told when there is no room for the answer.
    fn without_room(self, most: usize) -> Failure {
        match self {
            Self::Nothing => Failure::too_much_unread(most),
            Self::Decided => Failure::no_room_for_what_was_decided(most),
        }
    }
}

/// The answer to a call of this method, counted if it may be large.
pub(in crate::api) fn counted(unread: &Arc<Budget>, method: &str, mut response: Response<Body>) -> Response<Body> {
    if let Some(carried) = response.extensions_mut().remove::<Carried>() {
        return response.map(|body| Body::new(Carrying { body, carried, last: None }));
    }
    let goes_on = method == WATCH;
    let of_reads = || (goes_on || reads(method)).then_some(Effect::Nothing);
    let of_transaction = response.extensions_mut().remove::<Effect>();
    let Some(effect) = of_transaction.or_else(of_reads) else { return response };
    let (unread, may_be_alone) = (unread.clone(), of_transaction.is_some());
    response.map(|body| Body::new(Unread { body, unread, effect, goes_on, may_be_alone, bytes: 0, is_refused: false }))
}

/// All of a page, as long as there is room for it: it is whole before its first byte goes out.
pub(in crate::api) fn page(unread: &Arc<Budget>, page: String) -> Option<Bytes> {
    let room = Share::take(unread, page.len())?;
    Some(Bytes::from_owner(Held { data: page.into(), _room: room }))
}

/// The room of a large message of a stream, from when the message was put into a piece of the body until that piece is let out.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Carried(Arc<Mutex<Option<Share>>>);

impl Carried {
    /// An encoded message that has its room until it is put into a piece of the body, and goes on to have it there if it is large: such a piece ends
    /// with it. The room of a small one is given back then, as others have none.
    pub(in crate::api) fn message(&self, encoded: Bytes, room: Share) -> Bytes {
        Bytes::from_owner(Unsent { encoded, room: Some(room), carried: self.clone() })
    }
}

struct Unsent {
    encoded: Bytes,
    room: Option<Share>,
    carried: Carried,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.encoded
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if self.encoded.len() > SMALL_BYTES {
            *self.carried.0.lock() = self.room.take();
        }
    }
}

/// The body of a stream, with the rooms of its large messages in their pieces.
struct Carrying {
    body: Body,
    carried: Carried,
    /// The last piece with a room, until another one is made. Messages are encoded into memory that is used again once all that was cut from it is
    /// gone: that of a large one would be kept for small ones, and nobody would count it.
    last: Option<Bytes>,
}

impl Carrying {
    fn piece(&mut self, data: Bytes) -> Bytes {
        self.last = None;
        if data.len() <= SMALL_BYTES {
            return data;
        }
        let Some(room) = self.carried.0.lock().take() else { return data };
        let data = Bytes::from_owner(Held { data, _room: room });
        self.last = Some(data.clone());
        data
    }
}

impl HttpBody for Carrying {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|data| self.piece(data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Unread {
    body: Body,
    unread: Arc<Budget>,
    effect: Effect,
    /// It is a stream: each of its pieces counts by itself, and what was read of it is nobody's any more.
    goes_on: bool,
    /// It has room while nothing else does, however large it is: an outcome can't be asked for in parts, as a listing can. It is one piece.
    may_be_alone: bool,
    /// That were let out.
    bytes: usize,
    is_refused: bool,
}

/// Bytes of an answer, and their room: whoever sends them, and keeps them until they are sent, gives both back together.
struct Held {
    data: Bytes,
    _room: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl HttpBody for Unread {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_refused {
            return Poll::Ready(None);
        }
        let data = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                // The end of what has its room.
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            },
            end => return Poll::Ready(end),
        };
        let bytes = if self.goes_on { data.len() } else { self.bytes + data.len() };
        let room = match Share::of_message(&self.unread, data.len(), bytes) {
            None if self.may_be_alone => Share::alone(&self.unread, data.len()),
            room => room,
        };
        if let Some(room) = room {
            self.bytes = bytes;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(Held { data, _room: room })))));
        }
        // The headers may be on their way: an error stands behind them.
        self.is_refused = true;
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        // What is written here is all ASCII.
        let _ = self.effect.without_room(self.unread.most()).into_status().add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_refused || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // It may be refused yet.
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    // One that read and was called in another way was counted nowhere, however large its answer.
    #[test]
    fn an_answer_is_refused_unless_it_is_a_stream_or_tells_of_a_change() {
        let set = prost_types::FileDescriptorSet::decode(plenum_proto::FILE_DESCRIPTOR_SET).unwrap();
        let services = set.file.iter().flat_map(|file| &file.service);
        let methods: Vec<_> = services.flat_map(|service| &service.method).collect();
        for method in &methods {
            let changes = ["Change", "Submit", "Launch", "Open", "Register", "Outcome", "Report", "Close"];
            let others = ["PassOver", "TakeHold", "SendLogs"];
            let is_change = changes.iter().chain(&others).any(|word| method.output_type().contains(word));
            assert_ne!(method.server_streaming() || is_change, reads(method.name()), "{}", method.name());
        }
        assert_eq!(methods.iter().filter(|method| reads(method.name())).count(), 24);
    }

    #[test]
    fn the_watchers_that_are_counted_are_those_without_a_session() {
        let set = prost_types::FileDescriptorSet::decode(plenum_proto::FILE_DESCRIPTOR_SET).unwrap();
        let file = set.file.iter().find(|file| file.package() == "plenum.v1" && !file.service.is_empty()).unwrap();
        let services = file.service.iter().map(|service| (service.name(), &service.method));
        let watched: Vec<_> = services
            .flat_map(|(service, methods)| methods.iter().map(move |method| (service, method)))
            .filter(|(_, method)| method.input_type() == ".plenum.v1.Hello")
            .map(|(service, method)| format!("/plenum.v1.{service}/{}", method.name()))
            .collect();
        assert_eq!(watched, [WATCH]);
    }

    /// What it is made of, one after the other.
    struct Frames(std::collections::VecDeque<Frame<Bytes>>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    /// The next thing of a body that has one.
    fn next(body: &mut Body) -> Frame<Bytes> {
        let polled = Pin::new(body).poll_frame(&mut Context::from_waker(std::task::Waker::noop()));
        let Poll::Ready(Some(Ok(frame))) = polled else { panic!("{polled:?}") };
        frame
    }

    // A thousand of them that did not read had a gibibyte, of which nothing was counted.
    #[test]
    fn a_watcher_ends_where_there_is_no_room_and_has_none_for_what_was_read() {
        let budget = Arc::new(Budget::new(1 << 20));
        let kibibytes = [700, 700, 60, 700].map(|kibibytes| Frame::data(Bytes::from(vec![0; kibibytes << 10])));
        let mut body = counted(&budget, WATCH, Response::new(Body::new(Frames(kibibytes.into())))).into_body();
        drop(next(&mut body).into_data().unwrap());
        let unread = next(&mut body).into_data().unwrap();
        let others = Share::take(&budget, 60 << 10).unwrap();
        let small =
            next(&mut body).into_data().expect("the last quarter is for small ones, however much was read before");
        let end = next(&mut body).into_trailers().expect("there is no room");
        assert_eq!(end.get(crate::api::failure::CODE).unwrap(), "QUEUE_FULL");
        assert!(body.is_end_stream());
        drop((unread, others, small));
        assert!(Share::of_message(&budget, 1 << 20, 1).is_some(), "it is given back");
    }

    // Its room was given back when it was encoded, which is before anything of it is sent.
    #[test]
    fn a_large_message_has_its_room_until_its_piece_is_gone_and_another_one_made() {
        let budget = Arc::new(Budget::new(1 << 20));
        let held = |bytes: usize| {
            let left = (1 << 20) - bytes;
            Share::of_message(&budget, left, 0).is_some() && Share::of_message(&budget, left + 1, 0).is_none()
        };
        let carried = Carried::default();
        let message = |bytes: usize| carried.message(vec![0; bytes].into(), Share::take(&budget, bytes).unwrap());
        let frames = [200 << 10, 100, 200 << 10].map(|bytes| Frame::data(Bytes::from(vec![0; bytes])));
        let mut answer = Response::new(Body::new(Frames(frames.into())));
        answer.extensions_mut().insert(carried.clone());
        let mut body = counted(&budget, "/plenum.v1.Cell/Session", answer).into_body();
        let (small, large) = (message(SMALL_BYTES), message(100 << 10));
        assert!(held(SMALL_BYTES + (100 << 10)), "they wait");
        drop((small, large));
        assert!(held(100 << 10), "the small one is as others are");
        let piece = next(&mut body).into_data().unwrap();
        drop(piece);
        assert!(held(100 << 10), "the memory that it was encoded into would be used again");
        let other = next(&mut body).into_data().unwrap();
        assert!(held(0));
        drop(message(100 << 10));
        let unread = next(&mut body).into_data().unwrap();
        assert_eq!((other.len(), unread.len()), (100, 200 << 10));
        drop(body);
        assert!(held(100 << 10), "nobody has read it");
        drop(unread);
        assert!(held(0));
        // Of a stream that has ended nothing is sent.
        let waits = message(100 << 10);
        drop(carried);
        drop(waits);
        assert!(held(0));
    }

    // It was decided, and its outcome never told: each time it was asked for again, there was too little room for it in all.
    #[test]
    fn an_outcome_that_is_larger_than_all_room_is_told_while_nothing_else_is_unread_and_a_listing_is_not() {
        let budget = Arc::new(Budget::new(1 << 20));
        let answer = |effect: Option<Effect>, method| {
            let frames = [Frame::data(Bytes::from(vec![0; 3 << 20])), Frame::trailers(HeaderMap::new())];
            let mut answer = Response::new(Body::new(Frames(frames.into())));
            if let Some(effect) = effect {
                answer.extensions_mut().insert(effect);
            }
            counted(&budget, method, answer).into_body()
        };
        let code = |trailers: HeaderMap| trailers.get(crate::api::failure::CODE).cloned();
        let small = Share::take(&budget, 1).unwrap();
        let refused = next(&mut answer(Some(Effect::Decided), "/plenum.v1.Cell/Commit"));
        assert_eq!(code(refused.into_trailers().unwrap()).unwrap(), "OUTCOME_UNKNOWN");
        drop(small);
        for effect in [Effect::Decided, Effect::Nothing] {
            let mut told = answer(Some(effect), "/plenum.v1.Cell/Commit");
            let data = next(&mut told).into_data().unwrap();
            assert_eq!(data.len(), 3 << 20);
            assert!(Share::take(&budget, 1).is_none(), "all of it counts");
            assert_eq!(code(next(&mut told).into_trailers().unwrap()), None);
        }
        let listed = next(&mut answer(None, "/plenum.v1.Jobs/List"));
        assert_eq!(code(listed.into_trailers().unwrap()).unwrap(), "QUEUE_FULL");
    }

    // Its end was refused where others had taken the last quarter meanwhile; and its room was given back when all had been let out.
    #[test]
    fn an_answer_that_had_room_is_ended_and_has_it_until_its_bytes_are_gone() {
        let budget = Arc::new(Budget::new(1 << 20));
        let frames = [Frame::data(Bytes::from(vec![0; 700 << 10])), Frame::trailers(HeaderMap::new())];
        let answer = Response::new(Body::new(Frames(frames.into())));
        let mut body = counted(&budget, "/plenum.v1.Jobs/List", answer).into_body();
        let data = next(&mut body).into_data().unwrap();
        let small = || budget.take(60 << 10, 60 << 10);
        assert!((0..5).all(|_| small()), "they may have the last quarter");
        let end = next(&mut body).into_trailers().unwrap();
        assert!(end.is_empty(), "{end:?}");
        drop(body);
        assert!(!small(), "nobody has read it");
        drop(data);
        assert!(small());
    }
}
