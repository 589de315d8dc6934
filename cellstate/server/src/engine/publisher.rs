//! The thread behind the commit path: tells everybody who keeps books what is durable.

use std::sync::Arc;

use crossbeam_channel::Sender;
use plenum_model::{Delta, SessionChange};

use super::backlog::Received;
use super::rest::Rest;
use crate::commit::Published;
use crate::error::ServerError;
use crate::publish::losses;
use crate::shared::Shared;

/// Most batches that are taken at a time.
const BATCHES_MAX: usize = 64;

/// The publishing thread. What it is done with goes back to who made it, for its memory.
pub(crate) fn run(shared: &Arc<Shared>, done: &Sender<Vec<Delta>>) {
    let mut rest = Rest::new();
    loop {
        match shared.published.receive(BATCHES_MAX, rest.due()) {
            Received::Items(batches) => {
                rest.works();
                for published in batches {
                    match fold(shared, published) {
                        Ok(deltas) => drop(done.try_send(deltas)),
                        Err(error) => {
                            shared.fail(error);
                            return;
                        }
                    }
                }
            }
            Received::TimedOut => rest.give_back_when_due(),
            Received::Closed => {
                shared.feed.close();
                return;
            }
        }
    }
}

fn fold(shared: &Arc<Shared>, published: Published) -> Result<Vec<Delta>, ServerError> {
    shared.picture.note_time(published.batch.first(), published.batch.time());
    shared.picture.tidy();
    let losses = losses(&published).map_err(ServerError::Mirror)?;
    shared.metrics.decided(&published.transactions, &losses);
    let now = shared.clock.monotonic_micros();
    shared.hub.fold(&published.deltas, now);
    note_sessions(shared, &published.deltas, now);
    shared.feed.send(published.batch);
    Ok(published.deltas)
}

/// Sessions that were opened and closed, whether or not who asked for it is still there.
fn note_sessions(shared: &Shared, deltas: &[Delta], now_micros: i64) {
    // Each transaction's delta has its number; connections are not to be kept from the books for those.
    let opens_or_closes = |change: &SessionChange| !matches!(change, SessionChange::Number { .. });
    for delta in deltas.iter().filter(|delta| delta.sessions.iter().any(opens_or_closes)) {
        shared.sessions.lock().published(delta, now_micros);
    }
}
