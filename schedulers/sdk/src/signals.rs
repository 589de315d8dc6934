//! What asks a process to end.

use tokio::signal::unix::{SignalKind, signal};

/// Ready once this process is asked to end: with Ctrl-C (SIGINT), or with SIGTERM, as `kill`, systemd and containers send it. For [`run`](crate::run), which closes the
/// session then, if the cell can be reached within a second; that of a process which just ends is open for ten minutes, and counts as one whose owner may come back.
///
/// Listens from when it is first polled on. Before that, and where it can't listen, the signals do what they always do; from then on they do nothing else, for
/// the life of the process. [`run`](crate::run) does not look while [`Scheduler::decide`](crate::Scheduler::decide) thinks, and ends once that has returned. Who
/// thinks longer than whoever ends it waits (systemd: 90 s) gives up in `decide` itself, by a flag that a spawned task sets once an `asked_to_end()` of its own
/// is ready.
pub async fn asked_to_end() {
    tokio::select! {
        () = sent(SignalKind::terminate()) => {}
        () = sent(SignalKind::interrupt()) => {}
    }
}

async fn sent(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}
