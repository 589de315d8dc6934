//! The cell as it is, or as it was.

use std::sync::Arc;
use std::time::Duration;

use plenum_history::{History, ReadError};
use plenum_model::{Cell, Revision};
use plenum_proto::{delta, v1};
use tokio::sync::Semaphore;
use tonic::Code;

use super::failure::Failure;
use super::listing;
use crate::error::ServerError;
use crate::recovery;
use crate::shared::Shared;

/// How long a reader waits for the history to have what is durable.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a moment was asked for.
/// How far the clock of who says `now` may be ahead of the cell's.
const CLOCKS_APART_MICROS_MAX: i64 = 5_000_000;

pub(super) fn is_asked(at: Option<v1::At>) -> bool {
    at.is_some_and(|at| at.revision > 0 || at.time_micros != 0)
}

/// The cell at a moment; neither revision nor time: now.
pub(super) async fn cell(shared: &Arc<Shared>, at: Option<v1::At>) -> Result<Cell, Failure> {
    let Some(at) = at.filter(|_| is_asked(at)) else { return Ok(shared.snapshot().await) };
    let now = shared.durable_revision();
    let revision = if at.revision > 0 { at.revision } else { revision_at(shared, at.time_micros).await? };
    if revision > now.0 {
        let message = format!("revision {revision} is yet to come; the newest is {now}");
        return Err(Failure::new(Code::OutOfRange, "NO_SUCH_REVISION", message));
    }
    if revision == now.0 {
        // The picture may be ahead by now; then the history has it.
        let cell = shared.snapshot().await;
        if cell.revision() == now {
            return Ok(cell);
        }
    }
    reach(shared, Revision(revision)).await?;
    let shared = shared.clone();
    blocking(shared.reads.clone(), move || fold(shared.feed.history(), revision)).await
}

async fn revision_at(shared: &Arc<Shared>, micros: i64) -> Result<u64, Failure> {
    let now = shared.durable_revision();
    if micros >= shared.recent.read().time().micros {
        return Ok(now.0);
    }
    reach(shared, now).await?;
    let shared = shared.clone();
    blocking(shared.reads.clone(), move || {
        shared.feed.history().revision_at_time(micros).map_err(|error| Failure::history(&error))
    })
    .await
}

/// The cell, and the history up to it; of the present the history may lack the end, which is not waited for long.
pub(super) async fn story(
    shared: &Arc<Shared>,
    at: Option<v1::At>,
    cell: Cell,
    limit: u32,
    tell: impl FnOnce(&History, &Cell, usize) -> Result<v1::HistoryResponse, Failure> + Send + 'static,
) -> Result<v1::HistoryResponse, Failure> {
    reach_for(shared, at, cell.revision()).await?;
    let limit = listing::limit(limit, shared.settings.listing_rows);
    let history = shared.feed.history().clone();
    blocking(shared.reads.clone(), move || tell(&history, &cell, limit)).await
}

/// Waits until the history has a revision. Who asks for the present is content with what it has by then.
pub(super) async fn reach_for(shared: &Shared, at: Option<v1::At>, revision: Revision) -> Result<(), Failure> {
    match reach(shared, revision).await {
        Err(_) if at.is_none() && shared.feed.broken().is_none() => Ok(()),
        reached => reached,
    }
}

/// Waits until the history has a revision.
pub(super) async fn reach(shared: &Shared, revision: Revision) -> Result<(), Failure> {
    if shared.feed.reaches(revision, PATIENCE).await {
        return Ok(());
    }
    let message = match shared.feed.broken() {
        Some(why) => format!("the history takes nothing more until the server starts again: {why}"),
    // By the clock that the times of the log are of; it is never behind them.
    let ahead_micros = micros.saturating_sub(shared.clock.now().micros);
    if ahead_micros > CLOCKS_APART_MICROS_MAX {
        let seconds = ahead_micros / 1_000_000;
        let message = format!(
            "expected a time up to now, found one that is yet to come: in {seconds} seconds by the cell's clock"
        );
        return Err(Failure::new(Code::OutOfRange, "NO_SUCH_REVISION", message));
    }
        None => format!("the history has not got revision {revision} yet; try again in a moment"),
    };
    Err(Failure::new(Code::Unavailable, "HISTORY_BEHIND", message))
}

/// Reads that are under way at a time: each has a thread, and may keep a picture of the cell.
const READS_MAX: usize = 32;
/// Reads that are under way or wait.
const ADMITTED_MAX: usize = 256;

/// Who reads much of the cell or the disk, on threads of their own.
pub(crate) struct Reads {
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Default for Reads {
    fn default() -> Self {
        Self { admitted: Arc::new(Semaphore::new(ADMITTED_MAX)), running: Arc::new(Semaphore::new(READS_MAX)) }
    }
}

/// Runs what reads the disk, or much of the cell, on a thread of its own. Refused when too many do.
pub(super) async fn blocking<T: Send + 'static>(
    reads: Arc<Reads>,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let Ok(admitted) = reads.admitted.clone().try_acquire_owned() else {
        return Err(Failure::too_many_reads(ADMITTED_MAX));
    };
    patiently(reads, move || {
        // A caller who leaves meanwhile counts until its read is done.
        let _admitted = admitted;
        work()
    })
    .await
}

/// The same, but waits for its turn however many do.
pub(super) async fn patiently<T: Send + 'static>(
    reads: Arc<Reads>,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let running = reads.running.clone().acquire_owned().await.map_err(|_| Failure::ending())?;
    let work = move || {
        let _running = running;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::internal(error.to_string()))?
}

/// Why there is nothing to begin folding with.
pub(super) enum Unstartable {
    /// It is no longer retained.
    Retired,
    Failed(Failure),
}

/// The cell to begin with for a revision, and its own: the newest checkpoint before it, or the empty cell.
pub(super) fn start(history: &History, revision: u64) -> Result<(Cell, u64), Unstartable> {
    recovery::cell_at(history, revision).map_err(|error| match error {
        ServerError::ReadHistory(ReadError::Retired { .. }) => Unstartable::Retired,
        ServerError::ReadHistory(error) => Unstartable::Failed(Failure::history(&error)),
        other => Unstartable::Failed(Failure::internal(other.to_string())),
    })
}

/// The cell at a revision that the history has. Waits for the disk.
pub(crate) fn fold(history: &History, revision: u64) -> Result<Cell, Failure> {
    let unstartable = |error| match error {
        Unstartable::Retired => {
            Failure::history(&ReadError::Retired { asked: revision, oldest: history.oldest_revision() })
        }
        Unstartable::Failed(failure) => failure,
    };
    let (mut cell, start) = start(history, revision).map_err(unstartable)?;
    for logged in history.entries(start + 1, revision).map_err(|error| Failure::history(&error))? {
        let entry = logged.map_err(|error| Failure::history(&error))?.entry;
        let delta = delta::decode(entry.delta).map_err(|error| Failure::internal(error.to_string()))?;
        cell.apply(&delta).map_err(|error| Failure::internal(error.to_string()))?;
    }
    Ok(cell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    // As many listings as callers, up to 512, ran at once, and those whose callers had left ran on.
    #[tokio::test]
    async fn so_many_read_at_once_and_more_than_wait_for_that_are_refused() {
        let (reads, most, now) =
            (Arc::new(Reads::default()), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let gate = Arc::new(std::sync::Barrier::new(READS_MAX + 1));
        let mut all = tokio::task::JoinSet::new();
        for number in 0..ADMITTED_MAX {
            let (most, now, gate) = (most.clone(), now.clone(), gate.clone());
            let read = blocking(reads.clone(), move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                if number < READS_MAX {
                    gate.wait();
                }
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            });
            all.spawn(read);
        }
        while reads.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = blocking(reads.clone(), || Ok(())).await.unwrap_err();
        assert_eq!(refused.code, "QUEUE_FULL");
        assert!(!refused.retry_after.is_zero());
        tokio::task::spawn_blocking(move || gate.wait()).await.unwrap();
        while let Some(done) = all.join_next().await {
            done.unwrap().unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), READS_MAX);
        blocking(reads, || Ok(())).await.unwrap();
    }
}
