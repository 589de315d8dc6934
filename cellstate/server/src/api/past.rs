//! The cell as it is, or as it was.

use std::sync::Arc;
use std::time::Duration;

use plenum_history::{History, ReadError};
use plenum_model::{Cell, Revision};
use plenum_proto::{delta, v1};
use tonic::Code;

use super::failure::Failure;
use super::listing;
use crate::error::ServerError;
use crate::recovery;
use crate::shared::Shared;

/// How long a reader waits for the history to have what is durable.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a moment was asked for.
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
    blocking(move || fold(shared.feed.history(), revision)).await
}

async fn revision_at(shared: &Arc<Shared>, micros: i64) -> Result<u64, Failure> {
    let now = shared.durable_revision();
    if micros >= shared.recent.read().time().micros {
        return Ok(now.0);
    }
    reach(shared, now).await?;
    let shared = shared.clone();
    blocking(move || shared.feed.history().revision_at_time(micros).map_err(|error| Failure::history(&error))).await
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
    blocking(move || tell(&history, &cell, limit)).await
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
        None => format!("the history has not got revision {revision} yet; try again in a moment"),
    };
    Err(Failure::new(Code::Unavailable, "HISTORY_BEHIND", message))
}

/// Runs what reads the disk on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
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
