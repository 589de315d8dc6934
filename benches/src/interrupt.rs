//! Ctrl-C keeps what was measured: the first one asks the suite to come to an end, the second one ends the program at once.
//!
//! A suite calls [`listen`] when it begins, looks at [`asked`] between its cases (and inside long ones), and gives the figures that it has.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use crate::progress::say;

static ASKED: AtomicBool = AtomicBool::new(false);
static LISTENS: OnceLock<()> = OnceLock::new();

/// What a shell gives for a program that Ctrl-C ended: 128 and the signal's number.
pub(crate) const EXIT_CODE: u8 = 130;

/// From now on Ctrl-C asks. Before, and in suites that never call this, it ends the program as usual.
///
/// # Errors
/// When no signal can be waited for.
pub(crate) fn listen() -> anyhow::Result<()> {
    if LISTENS.set(()).is_err() {
        return Ok(());
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot wait for signals")?;
    // Made here, so that a Ctrl-C after this call is not lost.
    let mut signals = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).context("cannot wait for Ctrl-C")?
    };
    let wait = move || {
        runtime.block_on(async {
            while signals.recv().await.is_some() {
                if ASKED.swap(true, Ordering::Relaxed) {
                    std::process::exit(EXIT_CODE.into());
                }
                say("stopping: what was measured so far is kept; Ctrl-C again ends at once");
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}

/// Whether Ctrl-C was pressed since [`listen`].
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_first_interrupt_asks_and_does_not_end_the_program() {
        listen().unwrap();
        assert!(!asked());
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGINT).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !asked() {
            assert!(Instant::now() < deadline, "the signal was never seen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
