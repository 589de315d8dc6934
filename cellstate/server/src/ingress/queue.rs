//! A bounded queue that is fair between principals, by the bytes that they ask for.

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
    /// Bytes of the requests of one principal.
    pub principal_bytes: usize,
}

impl Default for QueueBounds {
    /// A second's work of small transactions; 64 MiB, which is a second's worth of large ones. Half of it for one principal.
    fn default() -> Self {
        Self { requests: 65_536, bytes: 64 << 20, principal_requests: 32_768, principal_bytes: 32 << 20 }
    }
}

impl QueueBounds {
    /// Which bound of all principals together has no room for so many bytes more, when so many requests and bytes wait. `has_little`: of its principal hardly
    /// anything does.
    fn full(&self, (requests, waiting_bytes): (usize, usize), bytes: usize, has_little: bool) -> Option<Full> {
        // A few large requests of principals that had nothing waiting would fill it.
        let may_use_all = has_little && bytes <= self.bytes / LITTLE;
        let reserved = if may_use_all { (0, 0) } else { (self.requests.div_ceil(RESERVED), self.bytes / RESERVED) };
        let (most, most_bytes) = (self.requests - reserved.0, self.bytes - reserved.1);
        if requests >= most {
            return Some(Full::Requests(most));
        }
        (requests > 0 && waiting_bytes + bytes > most_bytes).then_some(Full::Bytes(most_bytes))
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
    /// [`QueueBounds::principal_bytes`].
    PrincipalBytes(usize),
}

/// What a request costs its principal besides its bytes: deciding the smallest takes about as long as a few claims of a large one.
const REQUEST_BYTES: usize = 256;

/// What a principal may ask for in one turn, in bytes: a few dozen claims. Less only changes turns more often.
const TURN_BYTES: usize = 2048;

/// One part in so many of all room is for small requests of principals of which hardly anything waits: those of which much does leave it to them. Two that ask without
/// pause would otherwise keep everybody else out, and first of all who could have them paused.
const RESERVED: usize = 8;
/// Hardly anything is less than one part in so many of all room, or nothing at all.
const LITTLE: usize = 64;

/// Principals without requests whose places are kept, for up to so many requests each: a queue that runs empty all the time would else take
/// memory for each request.
const IDLE_MAX: usize = 16;
const IDLE_REQUESTS_MAX: usize = 2048;

/// The requests of one principal.
#[derive(Debug)]
struct Own<T> {
    waiting: VecDeque<(usize, T)>,
    bytes: usize,
    /// What is left of its turns: a request larger than a turn waits for several.
    credit: usize,
    /// Bytes of each of its turns.
    turn: usize,
}

/// Requests in the order of their arrival within a principal, principals in turn: each turn is of as many bytes as everybody else's, so
/// that large requests take no more of the resolver than small ones do; of more where a priority says so, and never of none.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    bounds: QueueBounds,
    principals: BTreeMap<Arc<str>, Own<T>>,
    /// How many turns of others one of them is worth, where not one.
    priorities: BTreeMap<Arc<str>, u8>,
    /// Principals with requests, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    requests: usize,
    bytes: usize,
}

impl<T> FairQueue<T> {
    pub(crate) fn new(bounds: QueueBounds) -> Self {
        Self {
            bounds,
            principals: BTreeMap::new(),
            priorities: BTreeMap::new(),
            turns: VecDeque::new(),
            requests: 0,
            bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.requests
    }

    /// How many turns of others one of a principal's is worth.
    #[cfg(test)]
    pub(crate) fn turns_of(&self, principal: &str) -> u8 {
        self.priorities.get(principal).copied().unwrap_or(1)
    }

    /// Queues a request; gives it back when there is no room. A request that is larger than all room there is goes in when the
    /// queue is empty.
    pub(crate) fn push(&mut self, principal: &Arc<str>, bytes: usize, request: T) -> Result<(), (Full, T)> {
        let bounds = self.bounds;
        let waits = (self.requests, self.bytes);
        match self.principals.get_mut(principal) {
            Some(own) => {
                let full = own.full(bounds, bytes).or_else(|| bounds.full(waits, bytes, own.has_little(bounds)));
                if let Some(full) = full {
                    return Err((full, request));
                }
                if own.waiting.is_empty() {
                    self.turns.push_back(principal.clone());
                }
                own.waiting.push_back((bytes, request));
                own.bytes += bytes;
            }
            None => {
                if let Some(full) = bounds.full(waits, bytes, true) {
                    return Err((full, request));
                }
                let turn = turn_bytes(&self.priorities, principal);
                let own = Own { waiting: VecDeque::from([(bytes, request)]), bytes, credit: 0, turn };
                self.principals.insert(principal.clone(), own);
                self.turns.push_back(principal.clone());
            }
        }
        self.requests += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// From now on these principals have so many turns for one of the others.
    pub(crate) fn set_priorities(&mut self, priorities: BTreeMap<Arc<str>, u8>) {
        for (principal, own) in &mut self.principals {
            own.turn = turn_bytes(&priorities, principal);
        }
        self.priorities = priorities;
    }

    /// Takes the next requests, until there are so many in `taken`, or those that it took have so many bytes. Looks principals up once a turn, not
    /// for each request.
    pub(crate) fn take(&mut self, most: usize, bytes_most: usize, taken: &mut VecDeque<T>) {
        let mut bytes_left = bytes_most;
        while taken.len() < most && bytes_left > 0 {
            let alone = self.turns.len() == 1;
            let Some(principal) = self.turns.front() else { return };
            let own = self.principals.get_mut(principal).expect("who has a turn has requests");
            while taken.len() < most
                && bytes_left > 0
                && let Some((bytes, request)) = own.next(alone)
            {
                self.requests -= 1;
                self.bytes -= bytes;
                bytes_left = bytes_left.saturating_sub(bytes);
                taken.push_back(request);
            }
            if own.waiting.is_empty() {
                // What is left of a turn is not saved up.
                own.credit = 0;
                let is_small = own.waiting.capacity() <= IDLE_REQUESTS_MAX;
                if !is_small || self.principals.len() > IDLE_MAX {
                    self.principals.remove(principal);
                }
                self.turns.pop_front();
            } else if taken.len() < most && bytes_left > 0 {
                own.credit += own.turn;
                self.turns.rotate_left(1);
            }
        }
    }
}

fn turn_bytes(priorities: &BTreeMap<Arc<str>, u8>, principal: &Arc<str>) -> usize {
    TURN_BYTES * usize::from(priorities.get(principal).copied().unwrap_or(1).max(1))
}

impl<T> Own<T> {
    /// Whether hardly anything of it waits.
    fn has_little(&self, bounds: QueueBounds) -> bool {
        let is_little = self.waiting.len() < bounds.requests / LITTLE && self.bytes < bounds.bytes / LITTLE;
        self.waiting.is_empty() || is_little
    }

    fn full(&self, bounds: QueueBounds, bytes: usize) -> Option<Full> {
        let QueueBounds { principal_requests, principal_bytes, .. } = bounds;
        if self.waiting.is_empty() {
            return None;
        }
        if self.waiting.len() >= principal_requests {
            return Some(Full::Principal(principal_requests));
        }
        (self.bytes + bytes > principal_bytes).then_some(Full::PrincipalBytes(principal_bytes))
    }

    /// The next request, if what is left of the turn is worth it, or nobody else waits.
    fn next(&mut self, alone: bool) -> Option<(usize, T)> {
        let (bytes, _) = self.waiting.front()?;
        let cost = bytes + REQUEST_BYTES;
        if self.credit < cost && !alone {
            return None;
        }
        self.credit = self.credit.saturating_sub(cost);
        let (bytes, request) = self.waiting.pop_front()?;
        self.bytes -= bytes;
        Some((bytes, request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(requests: usize, bytes: usize, principal_requests: usize) -> FairQueue<u32> {
        FairQueue::new(QueueBounds { requests, bytes, principal_requests, principal_bytes: bytes })
    }

    fn pop(queue: &mut FairQueue<u32>) -> Option<u32> {
        let mut taken = VecDeque::new();
        queue.take(1, usize::MAX, &mut taken);
        taken.pop_front()
    }

    fn drain(queue: &mut FairQueue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| pop(queue)).collect()
    }

    #[test]
    fn principals_take_turns_and_keep_their_own_order() {
        let mut queue = queue(100, 1 << 20, 100);
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        for number in 0..4 {
            queue.push(&ann, TURN_BYTES - REQUEST_BYTES, number).unwrap();
        }
        queue.push(&bob, TURN_BYTES - REQUEST_BYTES, 10).unwrap();
        queue.push(&bob, TURN_BYTES - REQUEST_BYTES, 11).unwrap();
        assert_eq!(drain(&mut queue), [0, 10, 1, 11, 2, 3]);
        assert!(queue.turns.is_empty() && queue.bytes == 0 && queue.principals.values().all(|own| own.bytes == 0));
    }

    #[test]
    fn a_priority_is_so_many_turns_for_one_of_the_others_and_nobody_starves() {
        let mut queue = queue(1000, 1 << 20, 1000);
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        queue.push(&ann, TURN_BYTES - REQUEST_BYTES, 0).unwrap();
        queue.set_priorities(BTreeMap::from([(ann.clone(), 3)]));
        (1..7).for_each(|number| queue.push(&ann, TURN_BYTES - REQUEST_BYTES, number).unwrap());
        (10..13).for_each(|number| queue.push(&bob, TURN_BYTES - REQUEST_BYTES, number).unwrap());
        assert_eq!(drain(&mut queue), [0, 1, 2, 10, 3, 4, 5, 11, 6, 12]);
        // Also of who comes later, and until it is taken back.
        queue.set_priorities(BTreeMap::from([(bob.clone(), 2)]));
        (0..3).for_each(|number| queue.push(&ann, TURN_BYTES - REQUEST_BYTES, number).unwrap());
        (10..13).for_each(|number| queue.push(&bob, TURN_BYTES - REQUEST_BYTES, number).unwrap());
        assert_eq!(drain(&mut queue), [0, 10, 11, 1, 12, 2]);
    }

    #[test]
    fn many_are_taken_in_the_order_in_which_each_would_be() {
        let fill = || {
            let mut queue = queue(1000, 1 << 20, 1000);
            let names: [Arc<str>; 3] = ["ann".into(), "bob".into(), "eve".into()];
            for number in 0..300_u32 {
                let bytes = number as usize * 37 % 3000;
                queue.push(&names[number as usize * 7 % 5 % 3], bytes, number).unwrap();
            }
            queue
        };
        let (mut one_by_one, mut many, mut bounded) = (fill(), fill(), fill());
        let mut taken = VecDeque::new();
        for most in [1, 2, 40, 41, 300] {
            many.take(most, usize::MAX, &mut taken);
            assert_eq!(taken.len(), most);
        }
        many.take(301, usize::MAX, &mut taken);
        let of_one_by_one = drain(&mut one_by_one);
        assert_eq!(taken, of_one_by_one);
        let mut taken = VecDeque::new();
        while bounded.len() > 0 {
            bounded.take(usize::MAX, 5000, &mut taken);
        }
        assert_eq!(taken, of_one_by_one);
    }

    // Whoever was alone for a moment had two hundred large ones taken at once, and who came next waited for all of them.
    #[test]
    fn no_more_bytes_are_taken_at_once_of_who_is_alone_either_but_always_a_request() {
        let mut queue = queue(1000, 1 << 30, 1000);
        let ann: Arc<str> = "ann".into();
        (0..5).for_each(|number| queue.push(&ann, 400, number).unwrap());
        queue.push(&ann, 2000, 5).unwrap();
        let mut taken_at_once = |most| {
            let mut taken = VecDeque::new();
            queue.take(most, 1000, &mut taken);
            Vec::from(taken)
        };
        assert_eq!(taken_at_once(100), [0, 1, 2]);
        assert_eq!(taken_at_once(1), [3]);
        assert_eq!(taken_at_once(100), [4, 5]);
    }

    #[test]
    fn few_places_are_kept_for_principals_without_requests() {
        let mut queue = queue(100_000, 1 << 30, 100_000);
        for number in 0..100 {
            queue.push(&number.to_string().into(), 1, number).unwrap();
        }
        assert_eq!(drain(&mut queue).len(), 100);
        assert_eq!(queue.principals.len(), IDLE_MAX);
        let ann: Arc<str> = "ann".into();
        (0..10_000).for_each(|number| queue.push(&ann, 1, number).unwrap());
        assert_eq!(drain(&mut queue).len(), 10_000);
        assert!(!queue.principals.contains_key(&ann), "its place is large");
    }

    #[test]
    fn who_sends_large_requests_gets_no_more_than_who_sends_small_ones() {
        let mut queue = queue(10_000, 1 << 30, 10_000);
        let (large, small): (Arc<str>, Arc<str>) = ("large".into(), "small".into());
        for _ in 0..20 {
            queue.push(&large, 100 << 10, 100 << 10).unwrap();
        }
        for _ in 0..2000 {
            queue.push(&small, 256, 256).unwrap();
        }
        let (mut of_large, mut of_small) = (0, 0);
        for _ in 0..1000 {
            match pop(&mut queue).unwrap() {
                256 => of_small += 256 + 256,
                bytes => of_large += bytes + 256,
            }
        }
        assert!(of_large.abs_diff(of_small) <= 103 << 10, "{of_large} bytes of large ones, {of_small} of small ones");
        assert!(of_large > 0);
    }

    #[test]
    fn each_bound_is_a_refusal_of_its_own() {
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        let mut queue = queue(3, 640, 2);
        queue.bounds.principal_bytes = 320;
        queue.push(&ann, 10, 0).unwrap();
        assert_eq!(queue.push(&ann, 640, 1), Err((Full::PrincipalBytes(320), 1)));
        assert_eq!(queue.push(&bob, 640, 1), Err((Full::Bytes(560), 1)));
        assert_eq!(queue.push(&ann, 320, 1), Err((Full::PrincipalBytes(320), 1)));
        queue.push(&ann, 10, 2).unwrap();
        assert_eq!(queue.push(&ann, 10, 3), Err((Full::Principal(2), 3)));
        queue.push(&bob, 10, 4).unwrap();
        assert_eq!(queue.push(&bob, 10, 5), Err((Full::Requests(2), 5)));
        assert_eq!(queue.push(&"eve".into(), 10, 5), Err((Full::Requests(3), 5)));
        assert_eq!(queue.len(), 3);
    }

    // Two filled all there was, each up to its own bound, and an operator could not even have them paused.
    #[test]
    fn who_asks_seldom_is_let_in_however_much_of_two_others_waits() {
        for (requests, bytes, each_bytes) in [(64, 1 << 20, 1), (1 << 20, 64 << 10, 1000)] {
            let mut queue = queue(requests, bytes, requests / 2);
            queue.bounds.principal_bytes = bytes / 2;
            let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
            for greedy in [&ann, &bob, &ann] {
                while queue.push(greedy, each_bytes, 0).is_ok() {}
            }
            assert!(matches!(queue.push(&bob, each_bytes, 0), Err((Full::Requests(_) | Full::Bytes(_), 0))));
            for seldom in ["operator", "agent"] {
                queue.push(&seldom.into(), each_bytes, 1).unwrap();
            }
            // What comes free is not theirs again as long as others have less.
            assert_eq!(pop(&mut queue), Some(0));
            assert!(queue.push(&ann, each_bytes, 0).is_err());
            queue.push(&"user".into(), each_bytes, 1).unwrap();
        }
    }

    // Sixteen principals with one large request each filled the last eighth, too, and an operator could not have them paused.
    #[test]
    fn large_requests_of_many_that_ask_seldom_leave_the_last_eighth_to_small_ones() {
        let mut queue = queue(1000, 64 << 10, 1000);
        for number in 0..14 {
            queue.push(&number.to_string().into(), 4 << 10, number).unwrap();
        }
        assert_eq!(queue.push(&"another".into(), 4 << 10, 14), Err((Full::Bytes(56 << 10), 14)));
        assert_eq!(queue.push(&"0".into(), 4 << 10, 14), Err((Full::Bytes(56 << 10), 14)));
        assert!(queue.push(&"operator".into(), 1 << 10, 15).is_ok());
    }

    #[test]
    fn a_request_larger_than_all_room_goes_in_alone() {
        let ann: Arc<str> = "ann".into();
        let mut queue = queue(3, 10, 2);
        assert!(queue.push(&ann, 100, 1).is_ok());
        assert!(queue.push(&ann, 1, 2).is_err());
        assert_eq!(pop(&mut queue), Some(1));
        assert!(queue.push(&ann, 1, 2).is_ok());
    }
}
