//! A queue between two threads that is bounded by bytes: whoever fills it waits.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

struct State<T> {
    items: VecDeque<(usize, T)>,
    bytes: usize,
    closed: bool,
}

/// Items on their way from one thread to another, in order.
pub(crate) struct Backlog<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    bytes_max: usize,
}

/// What a receiver finds.
pub(crate) enum Received<T> {
    Items(Vec<T>),
    TimedOut,
    /// Closed, and everything was taken.
    Closed,
}

impl<T> Backlog<T> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let state = State { items: VecDeque::new(), bytes: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), bytes_max }
    }

    /// Adds an item; waits while there is no room. A larger item than all room there is goes in alone. Dropped when closed.
    pub(crate) fn send(&self, bytes: usize, item: T) {
        let mut state = self.state.lock();
        while !state.closed && !state.items.is_empty() && state.bytes + bytes > self.bytes_max {
            self.changed.wait(&mut state);
        }
        if state.closed {
            return;
        }
        state.bytes += bytes;
        state.items.push_back((bytes, item));
        self.changed.notify_all();
    }

    /// Everything that is there, up to so many items; waits for the first.
    pub(crate) fn receive(&self, items_max: usize, until: Option<Instant>) -> Received<T> {
        let mut state = self.state.lock();
        while state.items.is_empty() {
            if state.closed {
                return Received::Closed;
            }
            match until {
                Some(until) => {
                    if self.changed.wait_until(&mut state, until).timed_out() && state.items.is_empty() {
                        return Received::TimedOut;
                    }
                }
                None => self.changed.wait(&mut state),
            }
        }
        let count = state.items.len().min(items_max);
        let (sizes, items): (Vec<usize>, Vec<T>) = state.items.drain(..count).unzip();
        state.bytes -= sizes.into_iter().sum::<usize>();
        self.changed.notify_all();
        Received::Items(items)
    }

    /// Takes nothing more; what is there can still be received.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Bytes that may wait.
    #[cfg(test)]
    pub(crate) const fn most(&self) -> usize {
        self.bytes_max
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_full_backlog_makes_its_filler_wait() {
        let backlog = Arc::new(Backlog::new(10));
        backlog.send(6, 1);
        let filler = std::thread::spawn({
            let backlog = backlog.clone();
            move || {
                backlog.send(6, 2);
                backlog.close();
            }
        });
        assert!(matches!(backlog.receive(1, None), Received::Items(items) if items == [1]));
        assert!(matches!(backlog.receive(9, None), Received::Items(items) if items == [2]));
        filler.join().unwrap();
        assert!(matches!(backlog.receive(9, None), Received::Closed));
        backlog.send(1, 3);
        assert_eq!(backlog.bytes(), 0);
    }

    #[test]
    fn an_empty_backlog_is_waited_for_no_longer_than_asked() {
        let backlog = Backlog::<u8>::new(10);
        let until = Instant::now() + Duration::from_millis(5);
        assert!(matches!(backlog.receive(1, Some(until)), Received::TimedOut));
    }
}
