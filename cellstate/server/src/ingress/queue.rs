//! A bounded queue that is fair between principals.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Bounds of the queue of requests.
#[derive(Clone, Copy, Debug)]
pub struct QueueBounds {
    /// Requests of all principals.
    pub requests: usize,
    /// Bytes of all requests, as they will stand in the log.
    pub bytes: usize,
    /// Requests of one principal.
    pub principal_requests: usize,
}

impl Default for QueueBounds {
    /// A second's work of small transactions; 64 MiB, which is a second's worth of large ones.
    fn default() -> Self {
        Self { requests: 65_536, bytes: 64 << 20, principal_requests: 32_768 }
    }
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// [`QueueBounds::requests`].
    Requests(usize),
    /// [`QueueBounds::bytes`].
    Bytes(usize),
    /// [`QueueBounds::principal_requests`].
    Principal(usize),
}

/// Requests in the order of their arrival within a principal, principals in turn.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    bounds: QueueBounds,
    principals: BTreeMap<Arc<str>, VecDeque<(usize, T)>>,
    /// Principals with requests, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    requests: usize,
    bytes: usize,
}

impl<T> FairQueue<T> {
    pub(crate) fn new(bounds: QueueBounds) -> Self {
        Self { bounds, principals: BTreeMap::new(), turns: VecDeque::new(), requests: 0, bytes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.requests
    }

    /// Queues a request; gives it back when there is no room. A request that is larger than all room there is goes in when the
    /// queue is empty.
    pub(crate) fn push(&mut self, principal: &Arc<str>, bytes: usize, request: T) -> Result<(), (Full, T)> {
        if self.requests >= self.bounds.requests {
            return Err((Full::Requests(self.bounds.requests), request));
        }
        if self.requests > 0 && self.bytes + bytes > self.bounds.bytes {
            return Err((Full::Bytes(self.bounds.bytes), request));
        }
        match self.principals.get_mut(principal) {
            Some(own) if own.len() >= self.bounds.principal_requests => {
                return Err((Full::Principal(self.bounds.principal_requests), request));
            }
            Some(own) => own.push_back((bytes, request)),
            None => {
                self.principals.insert(principal.clone(), VecDeque::from([(bytes, request)]));
                self.turns.push_back(principal.clone());
            }
        }
        self.requests += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// The next request.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let principal = self.turns.pop_front()?;
        let own = self.principals.get_mut(&principal)?;
        let (bytes, request) = own.pop_front()?;
        if own.is_empty() {
            self.principals.remove(&principal);
        } else {
            self.turns.push_back(principal);
        }
        self.requests -= 1;
        self.bytes -= bytes;
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(requests: usize, bytes: usize, principal_requests: usize) -> FairQueue<u32> {
        FairQueue::new(QueueBounds { requests, bytes, principal_requests })
    }

    #[test]
    fn principals_take_turns_and_keep_their_own_order() {
        let mut queue = queue(100, 100, 100);
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        for number in 0..4 {
            queue.push(&ann, 1, number).unwrap();
        }
        queue.push(&bob, 1, 10).unwrap();
        queue.push(&bob, 1, 11).unwrap();
        let order: Vec<u32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [0, 10, 1, 11, 2, 3]);
        assert!(queue.principals.is_empty() && queue.turns.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn each_bound_is_a_refusal_of_its_own() {
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        let mut queue = queue(3, 10, 2);
        queue.push(&ann, 1, 0).unwrap();
        assert_eq!(queue.push(&ann, 10, 1), Err((Full::Bytes(10), 1)));
        queue.push(&ann, 1, 2).unwrap();
        assert_eq!(queue.push(&ann, 1, 3), Err((Full::Principal(2), 3)));
        queue.push(&bob, 1, 4).unwrap();
        assert_eq!(queue.push(&bob, 1, 5), Err((Full::Requests(3), 5)));
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn a_request_larger_than_all_room_goes_in_alone() {
        let ann: Arc<str> = "ann".into();
        let mut queue = queue(3, 10, 2);
        assert!(queue.push(&ann, 100, 1).is_ok());
        assert!(queue.push(&ann, 1, 2).is_err());
        assert_eq!(queue.pop(), Some(1));
        assert!(queue.push(&ann, 1, 2).is_ok());
    }
}
