//! Event loops beside the one of all clients: threads that some clients don't share with the others.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

/// The agents' own, as they would have machines of their own: a lease must not be lost because a scheduler has much to decode.
pub(crate) fn of_agents() -> anyhow::Result<Handle> {
    static LOOP: OnceLock<Runtime> = OnceLock::new();
    of_one_thread(&LOOP)
}

/// That of so many clients with so much under way each: the one that asks, but for a client that is alone and waits for each answer. What is compared
/// with each other must ask alike.
pub(crate) fn of_clients(clients: u32, in_flight: u32) -> anyhow::Result<Handle> {
    if (clients, in_flight) == (1, 1) { of_one_client() } else { Ok(Handle::current()) }
}

/// On one thread nothing is handed from one to another, which costs more than a short answer does.
fn of_one_client() -> anyhow::Result<Handle> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_waits_for_each_answer_has_a_thread_and_all_others_share_theirs() {
        let shared = Handle::current().id();
        let alone = of_clients(1, 1).unwrap();
        assert_ne!(alone.id(), shared);
        assert_eq!(alone.metrics().num_workers(), 1);
        for (clients, in_flight) in [(1, 16), (64, 1), (64, 16)] {
            assert_eq!(
                of_clients(clients, in_flight).unwrap().id(),
                shared,
                "{clients} clients, {in_flight} in flight"
            );
        }
    }
}
