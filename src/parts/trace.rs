//! What parts say of themselves: lines on standard error.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::output;

/// Begins to write events: from `info` upwards, or as `RUST_LOG` says where it says something.
pub(super) fn begin() {
    // An empty one, which is how shells unset it for a single command, would be taken for `error`.
    let said = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|said| !said.is_empty());
    let filter = said.and_then(|said| EnvFilter::try_new(said).ok()).unwrap_or_else(|| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(output::is_styled(&io::stderr()))
        // What can't be written there can't be complained of there either: that would end whoever had something to say.
        .log_internal_errors(false);
    // Somebody else's subscriber is as good.
    let _ = subscriber.try_init();
}
