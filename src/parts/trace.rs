//! What parts say of themselves: lines on standard error. Nobody waits for who reads them, but for a moment at the end.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::{
    failure::Failure,
    output::{self, Scribe},
};

/// Gives what was said last a moment to be written, when a part ends.
#[must_use]
pub(super) struct LastWords(Scribe);

impl Drop for LastWords {
    fn drop(&mut self) {
        self.0.last_words();
    }
}

/// Begins to write events: from `info` upwards, or as `RUST_LOG` says where it says something.
///
/// # Errors
///
/// There can be no more threads.
pub(super) fn begin() -> Result<LastWords, Failure> {
    let scribe = Scribe::begin().map_err(|error| Failure::io("cannot start the thread that writes the log", &error))?;
    let last_words = LastWords(scribe.clone());
    // An empty one, which is how shells unset it for a single command, would be taken for `error`.
    let said = std::env::var_os(EnvFilter::DEFAULT_ENV).filter(|said| !said.is_empty());
    let said = said.map(|said| said.to_string_lossy().into_owned());
    let (filter, warning) = filter(said.as_deref());
    warning.iter().for_each(|warning| output::tell(warning));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || scribe.clone())
        .with_ansi(output::is_styled(&io::stderr()))
        // What can't be written there can't be complained of there either: that would end whoever had something to say.
        .log_internal_errors(false);
    // Somebody else's subscriber is as good.
    let _ = subscriber.try_init();
    Ok(last_words)
}

/// What is written, and what is to be said where somebody wanted something that nobody understands. That is no reason not to start.
fn filter(said: Option<&str>) -> (EnvFilter, Option<String>) {
    let usual = || EnvFilter::new("info");
    match said.map(|said| (said, EnvFilter::try_new(said))) {
        None => (usual(), None),
        Some((_, Ok(filter))) => (filter, None),
        Some((said, Err(error))) => {
            let what = format!("warning: RUST_LOG is `{said}`: {error}; it is as if it were `info`");
            (usual(), Some(what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A slip in it was heeded by nobody, and told to nobody.
    #[test]
    fn who_asks_for_events_of_no_level_is_told_so() {
        let warning = |said: &str| filter(Some(said)).1.unwrap_or_default();
        assert!(warning("plenum_server=dbg").starts_with("warning: RUST_LOG is `plenum_server=dbg`: "));
        assert_eq!((warning("plenum_server=debug"), warning("warn")), (String::new(), String::new()));
        assert_eq!(filter(None).0.to_string(), "info");
    }
}
