//! What is to happen, in the order of time; at one time in the order in which it was planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events by time. The same plans give the same order, always.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    planned: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at_micros: i64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_micros, self.number).cmp(&(other.at_micros, other.number))
    }
}

impl<E> Agenda<E> {
    pub(crate) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0 }
    }

    /// Plans an event.
    pub(crate) fn plan(&mut self, at_micros: i64, event: E) {
        self.planned += 1;
        self.heap.push(Reverse(Entry { at_micros, number: self.planned, event }));
    }

    /// When the next event is due.
    pub(crate) fn next_at(&self) -> Option<i64> {
        self.heap.peek().map(|Reverse(entry)| entry.at_micros)
    }

    /// Takes the next event.
    pub(crate) fn next(&mut self) -> Option<(i64, E)> {
        self.heap.pop().map(|Reverse(entry)| (entry.at_micros, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_those_of_one_time_as_planned() {
        let mut agenda = Agenda::new();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            agenda.plan(at, event);
        }
        assert_eq!(agenda.next_at(), Some(1));
        let order: String = std::iter::from_fn(|| agenda.next()).map(|(_, event)| event).collect();
        assert_eq!(order, "abcd");
    }
}
