//! What asks a process to end.

use tokio::signal::unix::{SignalKind, signal};

/// Ready once this process is asked to end: with Ctrl-C (SIGINT), or with SIGTERM, as `kill`, systemd and containers send it. For [`run`](crate::run), which closes the
/// session then; that of a process which just ends is open for ten minutes, and counts as one whose owner may come back.
///
/// Listens from when it is first polled on. Before that, and where it can't listen, the signals do what they always do.
pub async fn asked_to_end() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
