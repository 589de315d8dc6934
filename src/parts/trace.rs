//! What parts say of themselves: lines on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Begins to write events: from `info` upwards, or as `RUST_LOG` says.
pub(super) fn begin() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || !io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(!is_plain)
        // What can't be written there can't be complained of there either: that would end whoever had something to say.
        .log_internal_errors(false);
    // Somebody else's subscriber is as good.
    let _ = subscriber.try_init();
}
