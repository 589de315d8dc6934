//! Calls that are open: counted, and bounded over all connections. Each takes memory of the libraries that read and write its messages, and what its
//! caller has sent and nobody has read, however little it asks for; and it may stay open for as long as its caller likes.
//!
//! A few calls of a connection need nothing. Further ones have places that all connections share: who opens calls without end takes these, and
//! leaves everybody else the few that agents, schedulers and commands need.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::Body as HttpBody;
use http_body::{Frame, SizeHint};

use crate::seldom::Seldom;

/// Calls of a connection that need no place among the shared ones. An agent has one that stays and one or two that are answered at once, a scheduler
/// the same, a command some.
pub(crate) const OWN_CALLS: usize = 16;

/// Between two lines of the log that say that calls are refused.
const REFUSED_TOLD_EVERY: Duration = Duration::from_secs(60);

/// One more, unless there are so many.
fn take(count: &AtomicUsize, most: usize) -> bool {
    let more = |taken: usize| (taken < most).then_some(taken + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

/// A connection, as its calls know it: each of them comes with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// Its calls that need nothing.
    own: Arc<AtomicUsize>,
}

impl Peer {
    /// Whether a call of it is being answered, where it has one at a time.
    pub(crate) fn is_served(&self) -> bool {
        self.own.load(Ordering::Relaxed) > 0
    }
}

/// The calls of all connections.
#[derive(Debug)]
pub(crate) struct Calls {
    open: AtomicUsize,
    /// Invariant: at most `shared_max`.
    shared: AtomicUsize,
    shared_max: usize,
    told: Seldom,
}

impl Calls {
    /// So many places beyond those that each connection has.
    pub(crate) fn new(shared_max: usize) -> Self {
        let [open, shared] = [0, 0].map(AtomicUsize::new);
        Self { open, shared, shared_max, told: Seldom::every(REFUSED_TOLD_EVERY) }
    }

    /// Calls that are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Those of them that have shared places.
    pub(crate) fn shared(&self) -> usize {
        self.shared.load(Ordering::Relaxed)
    }

    /// How many shared places there are.
    pub(crate) fn shared_max(&self) -> usize {
        self.shared_max
    }

    /// A place for one call more of this connection, if there is one. A call of no connection that is known needs a shared one.
    pub(crate) fn take(self: &Arc<Self>, peer: Option<&Peer>) -> Option<Call> {
        let own = peer.filter(|peer| take(&peer.own, OWN_CALLS)).cloned();
        if own.is_none() && !take(&self.shared, self.shared_max) {
            if self.told.is_due(Instant::now()) {
                tracing::warn!(
                    "calls are refused: all {} places for calls beyond the first {OWN_CALLS} of a connection are taken: `shared_calls` of the \
                     server's settings allows no more",
                    self.shared_max
                );
            }
            return None;
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Call { calls: self.clone(), own })
    }
}

/// The place of a call that is open; given back with it.
#[derive(Debug)]
pub(crate) struct Call {
    calls: Arc<Calls>,
    /// Whose own it is; `None`: it is a shared one.
    own: Option<Peer>,
}

impl Call {
    /// The answer, which keeps the place until it has ended or is dropped: most streams have hardly begun when their headers are there.
    pub(crate) fn until_answered(self, response: Response) -> Response {
        with_its_answer(self, response)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let count = self.own.as_ref().map_or(&self.calls.shared, |peer| &*peer.own);
        count.fetch_sub(1, Ordering::Relaxed);
        self.calls.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer, which keeps this until it has ended or is dropped.
pub(crate) fn with_its_answer(held: impl Send + Unpin + 'static, response: Response) -> Response {
    response.map(|body| Body::new(Answer { body, _held: held }))
}

/// The body of an answer, with what its call holds. Whoever sends it drops it when it has ended, and when its caller has left.
struct Answer<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> HttpBody for Answer<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(calls: &Calls) -> (usize, usize) {
        (calls.open(), calls.shared())
    }

    // With 256 calls on each of 4,096 connections there were a million, of up to 27 KB each.
    #[test]
    fn who_opens_calls_without_end_takes_the_shared_places_and_leaves_others_their_own() {
        let calls = Arc::new(Calls::new(5));
        let (greedy, modest) = (Peer::default(), Peer::default());
        let many: Vec<_> = std::iter::from_fn(|| calls.take(Some(&greedy))).collect();
        assert_eq!((many.len(), counts(&calls)), (OWN_CALLS + 5, (OWN_CALLS + 5, 5)));
        let few: Vec<_> = std::iter::from_fn(|| calls.take(Some(&modest))).collect();
        assert_eq!(few.len(), OWN_CALLS);
        assert!(calls.take(None).is_none(), "nobody's own");
        drop(many);
        assert_eq!(counts(&calls), (OWN_CALLS, 0));
        assert!(!greedy.is_served() && modest.is_served());
        let (shared, unknown) = (calls.take(Some(&modest)), calls.take(None));
        assert_eq!((shared.is_some(), unknown.is_some(), calls.shared()), (true, true, 2));
        drop((few, shared, unknown));
        assert_eq!(counts(&calls), (0, 0));
    }

    #[test]
    fn a_call_has_its_place_until_its_answer_is_gone() {
        let (calls, peer) = (Arc::new(Calls::new(0)), Peer::default());
        let answer = calls.take(Some(&peer)).unwrap().until_answered(Response::new(Body::from("some")));
        assert_eq!((calls.open(), answer.body().size_hint().exact()), (1, Some(4)));
        let mut body = answer.into_body();
        let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Some(Ok(_)))) && peer.is_served());
        drop(body);
        assert!(calls.open() == 0 && !peer.is_served());
    }
}
