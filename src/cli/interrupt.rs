//! Ctrl-C while a command waits for what it asked for: that goes on, and whoever leaves is told so.

use std::process;

use crate::{failure::EXIT_INTERRUPTED, output, signals::interrupted};

/// Waits for this, unless Ctrl-C comes first: then says what is to be known, and ends the process. From here on Ctrl-C has no other effect than this function
/// and [`if_not_interrupted`] give it; none at all where it was ignored, as the shell of a script has its background do.
pub(super) async fn unless_interrupted<T>(waiting: impl Future<Output = T>, told: impl FnOnce() -> String) -> T {
    tokio::select! {
        // What is over when both are is told.
        biased;
        done = waiting => done,
        () = interrupted() => {
            output::tell(&told());
            process::exit(EXIT_INTERRUPTED.into())
        }
    }
}

/// Does what nobody needs, for as long as Ctrl-C does not come.
pub(super) async fn if_not_interrupted(doing: impl Future<Output = ()>) {
    tokio::select! {
        () = doing => {}
        () = interrupted() => {}
    }
}
