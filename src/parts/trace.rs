//! What parts say of themselves: lines on standard error.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::output;

/// Begins to write events: from `info` upwards, or as `RUST_LOG` says.
pub(super) fn begin() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(output::is_styled(&io::stderr()))
        // What can't be written there can't be complained of there either: that would end whoever had something to say.
        .log_internal_errors(false);
    // Somebody else's subscriber is as good.
    let _ = subscriber.try_init();
}
