//! What is to happen, in the order of time, and of insertion where times are equal. There is no other clock.

use std::collections::BTreeMap;

/// Events to come.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    now_micros: i64,
    sequence: u64,
    events: BTreeMap<(i64, u64), E>,
}

impl<E> Agenda<E> {
    pub(crate) fn new() -> Self {
        Self { now_micros: 0, sequence: 0, events: BTreeMap::new() }
    }

    /// The time of the last event that was taken.
    pub(crate) fn now(&self) -> i64 {
        self.now_micros
    }

    /// Notes an event; one for the past happens now.
    pub(crate) fn at(&mut self, micros: i64, event: E) {
        self.sequence += 1;
        self.events.insert((micros.max(self.now_micros), self.sequence), event);
    }

    /// Notes an event for a while from now.
    pub(crate) fn after(&mut self, micros: i64, event: E) {
        self.at(self.now_micros.saturating_add(micros), event);
    }

    /// Takes the next event, and lets its time come.
    pub(crate) fn take(&mut self) -> Option<E> {
        let ((micros, _), event) = self.events.pop_first()?;
        self.now_micros = micros;
        Some(event)
    }
}
