//! When a thread has had nothing to do for so long that it gives memory back.
//!
//! What a thread gave up, or another thread took from it, its part of the allocator keeps for what it needs next, and no other thread can
//! give that back. A thread does so once when it has waited for a while, and not again before it has worked: under load nothing is given back
//! that would have to be taken again. Nor does the allocator give back by itself then what came free a second ago: it waits for longer, from
//! when the thread that rests last works until it rests.
//!
//! A pause is no rest. What is given back splits huge pages, and comes back in small ones: then a server that works again is slower for minutes.

use std::time::{Duration, Instant};

use crate::allocator;
#[cfg(doc)]
use crate::options::Settings;

/// The thread that takes most of the memory rests so much later, when those that work with it do already: what they gave back goes to the system with
/// its own, as only one thread at a time can tell the system, and another one that would like to goes on without. The one that feeds the history may
/// rest later still, as it writes a checkpoint first.
const LAST_LATER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
enum State {
    Works,
    Waits { until: Instant },
    Rests,
}

/// Whether a thread works, waits for work, or has done what is to be done when none comes.
#[derive(Debug)]
pub(super) struct Rest {
    state: State,
    after: Duration,
    /// Nobody works when this one rests.
    is_last: bool,
}

impl Rest {
    /// To rest after so long without work, which is [`Settings::rest`]. Giving back takes some milliseconds after much work, and less than one
    /// after little.
    pub(super) fn new(after: Duration) -> Self {
        Self { state: State::Works, after, is_last: false }
    }

    /// For the thread that rests after all others.
    pub(super) fn last(after: Duration) -> Self {
        allocator::keep();
        Self { state: State::Works, after: after.saturating_add(LAST_LATER), is_last: true }
    }

    /// There was something to do.
    pub(super) fn works(&mut self) {
        if self.is_last && matches!(self.state, State::Rests) {
            allocator::keep();
        }
        self.state = State::Works;
    }

    /// Until when the thread, which has nothing to do, shall wait at most: it is to rest then. `None` if it does already.
    pub(super) fn due(&mut self) -> Option<Instant> {
        if matches!(self.state, State::Works) {
            // Longer than the clock goes is never.
            let until = Instant::now().checked_add(self.after);
            self.state = until.map_or(State::Rests, |until| State::Waits { until });
        }
        match self.state {
            State::Waits { until } => Some(until),
            State::Works | State::Rests => None,
        }
    }

    /// Whether it has waited for so long.
    pub(super) fn is_due(&self) -> bool {
        matches!(self.state, State::Waits { until } if until <= Instant::now())
    }

    /// Gives memory back, if it is time.
    pub(super) fn give_back_when_due(&mut self) {
        if self.is_due() {
            if self.is_last {
                allocator::spare();
            }
            allocator::give_back();
            self.state = State::Rests;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_wait_longer_than_the_clock_goes_never_rests() {
        let mut rest = Rest::new(Duration::MAX);
        assert_eq!((rest.due(), rest.is_due()), (None, false));
    }

    #[test]
    fn a_thread_rests_once_after_it_worked() {
        let after = Duration::from_millis(20);
        let mut rest = Rest::new(after);
        assert!(!rest.is_due(), "it has not waited");
        let due = rest.due().unwrap();
        assert_eq!(rest.due(), Some(due), "waiting on does not begin anew");
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        assert!(rest.is_due());
        rest.give_back_when_due();
        assert_eq!((rest.due(), rest.is_due()), (None, false));
        rest.works();
        assert!(rest.due().unwrap() > due);
        assert!(Rest::last(after).after > after);
    }
}
