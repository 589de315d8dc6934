//! The thread behind the commit path: tells everybody who keeps books what is durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use plenum_model::{Delta, SessionChange};

use super::backlog::Received;
use super::rest::Rest;
use crate::commit::Published;
use crate::error::ServerError;
use crate::publish::{Divergence, losses};
use crate::shared::Shared;

/// Most batches that are taken at a time.
const BATCHES_MAX: usize = 64;

/// Divergences are told at most so often: a scheduler that judges wrongly may have thousands a second.
const DIVERGENCES_PAUSE: Duration = Duration::from_secs(10);

/// Tells of divergences: the first at once, others counted with the one that is told next.
#[derive(Default)]
struct Divergences {
    told: Option<Instant>,
    untold: u64,
}

impl Divergences {
    fn note(&mut self, scheduler: &str, found: &Divergence) {
        if self.told.is_some_and(|told| told.elapsed() < DIVERGENCES_PAUSE) {
            self.untold += found.claims;
            return;
        }
        self.told = Some(Instant::now());
        let Divergence { transaction, revision, base_revision, claims, reason } = found;
        let untold = std::mem::take(&mut self.untold);
        tracing::warn!(
            scheduler,
            %transaction,
            revision,
            base_revision,
            claims,
            reason,
            untold,
            "divergence: claims were refused for what their scheduler had seen at its base, so one of both judges wrongly: a bug. \
             `plenum txn show {transaction}` has what was asked and why not; the log has all that is needed to decide it again"
        );
    }
}

/// The publishing thread. What it is done with goes back to who made it, for its memory.
pub(crate) fn run(shared: &Arc<Shared>, done: &Sender<Vec<Delta>>) {
    let (mut rest, mut divergences) = (Rest::new(), Divergences::default());
    loop {
        match shared.published.receive(BATCHES_MAX, rest.due()) {
            Received::Items(batches) => {
                rest.works();
                for published in batches {
                    match fold(shared, published, &mut divergences) {
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

fn fold(shared: &Arc<Shared>, published: Published, divergences: &mut Divergences) -> Result<Vec<Delta>, ServerError> {
    shared.picture.tidy();
    let losses = losses(&published).map_err(ServerError::Mirror)?;
    shared.metrics.decided(&published.transactions, &losses);
    for lost in &losses {
        lost.divergence.iter().for_each(|found| divergences.note(&lost.scheduler, found));
    }
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
