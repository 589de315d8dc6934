//! A subscriber for tests: it is given what is warned of, and errors.

use tracing::{Event, Level, Metadata, Subscriber, span};

/// Gives each warning and each error, and nothing else, to this.
pub(crate) struct Warnings<F>(pub(crate) F);

impl<F: Fn(&Event<'_>) + 'static> Subscriber for Warnings<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        (self.0)(event);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
