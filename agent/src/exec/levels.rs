//! What was logged, for tests that something is told once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{Event, Level, Metadata, Subscriber, span};

/// Keeps the levels of what is logged.
#[derive(Clone, Default)]
pub(super) struct Levels(Arc<Mutex<Vec<Level>>>);

impl Levels {
    /// Those of all that was logged so far, in order.
    pub(super) fn kept(&self) -> Vec<Level> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Level>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Levels {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        self.lock().push(*event.metadata().level());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
