//! The thread behind the commit path: tells everybody who keeps books what is durable.

use std::sync::Arc;

use super::backlog::Received;
use crate::commit::Published;
use crate::error::ServerError;
use crate::publish::losses;
use crate::shared::Shared;

/// Most batches that are taken at a time.
const BATCHES_MAX: usize = 64;

/// The publishing thread.
pub(crate) fn run(shared: &Arc<Shared>) {
    loop {
        match shared.published.receive(BATCHES_MAX, None) {
            Received::Items(batches) => {
                for published in batches {
                    if let Err(error) = fold(shared, published) {
                        shared.fail(error);
                        return;
                    }
                }
            }
            Received::TimedOut => {}
            Received::Closed => {
                shared.feed.close();
                return;
            }
        }
    }
}

fn fold(shared: &Arc<Shared>, published: Published) -> Result<(), ServerError> {
    shared.picture.note_time(published.batch.first(), published.batch.time());
    shared.picture.tidy();
    let losses = losses(&published).map_err(ServerError::Mirror)?;
    shared.metrics.decided(&published.transactions, &losses);
    let now = shared.clock.monotonic_micros();
    shared.hub.fold(&published.deltas, now);
    shared.feed.send(published.batch);
    Ok(())
}
