//! Event loops beside the one of all clients: threads that some clients don't share with the others.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

/// The agents' own, as they would have machines of their own: a lease must not be lost because a scheduler has much to decode.
pub(crate) fn of_agents() -> anyhow::Result<Handle> {
    static LOOP: OnceLock<Runtime> = OnceLock::new();
    of_one_thread(&LOOP)
}

/// That of a client that is alone: on one thread nothing is handed from one to another, which costs more than a short answer does.
pub(crate) fn of_one_client() -> anyhow::Result<Handle> {
    static LOOP: OnceLock<Runtime> = OnceLock::new();
    of_one_thread(&LOOP)
}

fn of_one_thread(kept: &OnceLock<Runtime>) -> anyhow::Result<Handle> {
    if kept.get().is_none() {
        let made = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        // Who comes second ends its own again, which has no work yet.
        if let Err(second) = kept.set(made) {
            second.shutdown_background();
        }
    }
    Ok(kept.get().expect("set above").handle().clone())
}
