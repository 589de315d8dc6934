//! A backup of the running cell, as a stream: a snapshot at a durable revision, a page at a time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use plenum_journal::{ReadError, Tail};
use plenum_model::Cell;
use plenum_proto::{pages, v1};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Code, Status};

use super::failure::Failure;
use crate::backup::{Encoder, manifest};
use crate::shared::Shared;

/// Most bytes of a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks between the snapshot and the connection.
const CHUNKS_MAX: usize = 2;
/// While a backup is taken, each page that changes is copied: whoever takes nothing for so long is left.
const PATIENCE: Duration = Duration::from_secs(30);
/// Snapshots that are tried, until one's last frame is still in the log.
const TRIES: u32 = 5;

/// What is left of a backup for its reader. Why it ends early comes before the chunks that wait: who reads slowly would not hear of it any
/// more while the server ends, which waits half a second for its connections, and what a backup lacks makes the rest of no use.
pub(super) struct Chunks {
    chunks: mpsc::Receiver<v1::BackupChunk>,
    failed: oneshot::Receiver<Status>,
}

impl Stream for Chunks {
    type Item = Result<v1::BackupChunk, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let failed = if self.failed.is_terminated() { Poll::Pending } else { Pin::new(&mut self.failed).poll(context) };
        if let Poll::Ready(Ok(status)) = failed {
            self.chunks.close();
            while self.chunks.try_recv().is_ok() {}
            return Poll::Ready(Some(Err(status)));
        }
        match self.chunks.poll_recv(context) {
            Poll::Ready(Some(chunk)) => Poll::Ready(Some(Ok(chunk))),
            // The reason is given before the chunks end, and may have come since it was looked for above.
            Poll::Ready(None) => Poll::Ready(self.failed.try_recv().ok().map(Err)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Begins a backup.
pub(super) async fn begin(shared: &Arc<Shared>) -> Result<Chunks, Failure> {
    let permit = shared.backups.clone().try_acquire_owned().map_err(|_| {
        let message = "another backup is being taken; wait until it is done";
        Failure::new(Code::ResourceExhausted, "BACKUP_RUNNING", message).retry(Duration::from_secs(5))
    })?;
    let (cell, tail) = consistent(shared).await?;
    let (out, chunks) = mpsc::channel(CHUNKS_MAX);
    let (fails, failed) = oneshot::channel();
    tokio::spawn(send(shared.clone(), cell, tail, (out, fails), permit));
    Ok(Chunks { chunks, failed })
}

/// A snapshot, and the end of the log at its revision.
async fn consistent(shared: &Arc<Shared>) -> Result<(Cell, Tail), Failure> {
    for _ in 0..TRIES {
        let cell = shared.snapshot().await;
        let revision = cell.revision().0;
        let keeper = shared.keeper.clone();
        let found = tokio::task::spawn_blocking(move || tail_at(&keeper, revision)).await;
        match found.map_err(|error| Failure::internal(error.to_string()))? {
            Ok(Some(tail)) => return Ok((cell, tail)),
            // Given up meanwhile: a newer one is there.
            Ok(None) | Err(ReadError::Retired { .. }) => {}
            Err(error) => return Err(Failure::internal(error.to_string())),
        }
    }
    Err(Failure::internal(format!("the log moved on {TRIES} times while a backup began; try again")))
}

/// The frame that ends with a revision.
fn tail_at(keeper: &plenum_journal::Keeper, revision: u64) -> Result<Option<Tail>, ReadError> {
    let tail = keeper.tail();
    if tail.revision == revision {
        return Ok(Some(tail));
    }
    let mut reader = keeper.reader(revision)?;
    let frame = reader.next_frame()?.filter(|frame| frame.last_revision == revision);
    Ok(frame.map(|frame| Tail { revision, term: frame.term, hash: frame.hash }))
}

async fn send(
    shared: Arc<Shared>,
    cell: Cell,
    tail: Tail,
    (out, fails): (mpsc::Sender<v1::BackupChunk>, oneshot::Sender<Status>),
    permit: OwnedSemaphorePermit,
) {
    let sent = send_all(&shared, &cell, tail, &out).await;
    drop((shared, cell, permit));
    match sent {
        Ok(()) => tracing::info!(revision = tail.revision, "a backup was taken"),
        Err(failure) => {
            tracing::warn!("a backup was not taken to its end: {}", failure.message);
            // Before the chunks come to their end: a stream that ends without it looks like one that is whole.
            drop(fails.send(failure.into_status()));
        }
    }
}

async fn send_all(
    shared: &Shared,
    cell: &Cell,
    tail: Tail,
    out: &mpsc::Sender<v1::BackupChunk>,
) -> Result<(), Failure> {
    let mut encoder = Encoder::begin(&manifest(cell, shared.identity.incarnation, tail));
    for (table, number) in pages::every(cell) {
        encoder.page(&pages::encode_page(cell, table, number));
        if encoder.pending_bytes() >= CHUNK_BYTES {
            hand_over(shared, &mut encoder, out).await?;
        }
    }
    encoder.end();
    hand_over(shared, &mut encoder, out).await
}

/// Fails when nobody takes it.
async fn hand_over(shared: &Shared, encoder: &mut Encoder, out: &mpsc::Sender<v1::BackupChunk>) -> Result<(), Failure> {
    let mut rest = encoder.take();
    while !rest.is_empty() {
        let data = rest.split_to(rest.len().min(CHUNK_BYTES));
        tokio::select! {
            sent = tokio::time::timeout(PATIENCE, out.send(v1::BackupChunk { data })) => {
                if !matches!(sent, Ok(Ok(()))) {
                    let message = format!("nobody has read on for {PATIENCE:?}; take another one");
                    return Err(Failure::new(Code::DeadlineExceeded, "TIME_LIMIT", message));
                }
            }
            () = shared.ended() => return Err(Failure::ending()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    /// It stood behind chunks that a slow reader had not taken when its server was gone: the reader saw a broken connection.
    #[tokio::test]
    async fn why_a_backup_ends_early_comes_before_the_chunks_that_wait() {
        let (out, chunks) = mpsc::channel(CHUNKS_MAX);
        let (fails, failed) = oneshot::channel();
        let mut stream = Chunks { chunks, failed };
        for _ in 0..2 {
            out.send(v1::BackupChunk { data: "some".into() }).await.unwrap();
        }
        assert!(stream.next().await.is_some_and(|first| first.is_ok()));
        fails.send(Failure::ending().into_status()).unwrap();
        drop(out);
        assert!(stream.next().await.is_some_and(|second| second.is_err()));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_backup_that_is_whole_ends_with_its_last_chunk() {
        let (out, chunks) = mpsc::channel(CHUNKS_MAX);
        let (fails, failed) = oneshot::channel::<Status>();
        let mut stream = Chunks { chunks, failed };
        out.send(v1::BackupChunk { data: "all".into() }).await.unwrap();
        drop(fails);
        assert!(stream.next().await.is_some_and(|chunk| chunk.is_ok()));
        drop(out);
        assert!(stream.next().await.is_none());
    }
}
