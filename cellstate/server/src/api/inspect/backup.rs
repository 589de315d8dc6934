//! A backup of the running cell, as a stream: a snapshot at a durable revision, a page at a time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use plenum_journal::{ChainHash, ReadError, Tail};
use plenum_model::Cell;
use plenum_proto::{pages, v1};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Code, Status};

use crate::api::failure::Failure;
use crate::backup::{Encoder, manifest};
use crate::shared::Shared;
use crate::tasks::on_a_thread;

/// Most bytes of a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks between the snapshot and the connection.
const CHUNKS_MAX: usize = 2;
/// While a backup is taken, each page that changes is copied: whoever takes nothing for so long is left.
const PATIENCE: Duration = Duration::from_secs(30);
/// Snapshots that are tried, until one's last frame is still in the log.
const TRIES: u32 = 5;

/// The turn of the one backup that is being taken, with the chunks that wait for its reader: gone when nothing is left of them, or nobody has read on
/// for too long.
type Turn = Arc<Mutex<Option<(OwnedSemaphorePermit, mpsc::Receiver<v1::BackupChunk>)>>>;

/// What is left of a backup for its reader. Why it ends early comes before the chunks that wait: who reads slowly would not hear of it any
/// more while the server ends, which waits half a second for its connections, and what a backup lacks makes the rest of no use.
pub(in crate::api) struct Chunks {
    turn: Turn,
    failed: oneshot::Receiver<Status>,
}

impl Chunks {
    /// The reader is told the end next: from then on another backup may begin.
    fn end(&mut self) {
        drop(self.turn.lock().take());
        self.failed.close();
    }
}

impl Drop for Chunks {
    /// Who sends hears at once that nobody reads any more. The turn is over when that has let go of its snapshot.
    fn drop(&mut self) {
        if let Some((_, chunks)) = self.turn.lock().as_mut() {
            chunks.close();
            while chunks.try_recv().is_ok() {}
        }
    }
}

impl Stream for Chunks {
    type Item = Result<v1::BackupChunk, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let failed = if self.failed.is_terminated() { Poll::Pending } else { Pin::new(&mut self.failed).poll(context) };
        if let Poll::Ready(Ok(status)) = failed {
            self.end();
            return Poll::Ready(Some(Err(status)));
        }
        let polled = self.turn.lock().as_mut().map(|(_, chunks)| chunks.poll_recv(context));
        match polled {
            Some(Poll::Ready(Some(chunk))) => Poll::Ready(Some(Ok(chunk))),
            Some(Poll::Pending) => Poll::Pending,
            // The reason is given before the chunks end, and may have come since it was looked for above.
            Some(Poll::Ready(None)) | None => {
                let failed = self.failed.try_recv().ok();
                self.end();
                Poll::Ready(failed.map(Err))
            }
        }
    }
}

/// Begins a backup.
pub(super) async fn begin(shared: &Arc<Shared>) -> Result<Chunks, Failure> {
    begin_with(shared, PATIENCE).await
}

/// The same, for a reader who is left when it has taken nothing for so long.
async fn begin_with(shared: &Arc<Shared>, patience: Duration) -> Result<Chunks, Failure> {
    let permit = shared.backups.clone().try_acquire_owned().map_err(|_| {
        let message = "another backup is being taken; wait until it is done";
        Failure::new(Code::ResourceExhausted, "BACKUP_RUNNING", message).retry(Duration::from_secs(5))
    })?;
    let (cell, tail) = consistent(shared).await?;
    let (out, chunks) = mpsc::channel(CHUNKS_MAX);
    let (fails, failed) = oneshot::channel();
    let turn = Arc::new(Mutex::new(Some((permit, chunks))));
    let to = Reader { out, patience };
    tokio::spawn(send(shared.clone(), cell, tail, (to, fails), turn.clone()));
    Ok(Chunks { turn, failed })
}

/// A snapshot, and the end of the log at its revision.
async fn consistent(shared: &Arc<Shared>) -> Result<(Cell, Tail), Failure> {
    for _ in 0..TRIES {
        let cell = shared.snapshot().await;
        let (revision, term) = (cell.revision().0, cell.identity().term);
        let keeper = shared.keeper.clone();
        let no_thread = || Failure::internal("the system gives no thread to read the log; try again");
        let found =
            on_a_thread(&Handle::current(), move || tail_for(&keeper, revision, term)).ok_or_else(no_thread)?.await;
        match found.map_err(|error| Failure::internal(error.to_string()))? {
            Ok(Some(tail)) => return Ok((cell, tail)),
            // Given up meanwhile: a newer one is there.
            Ok(None) | Err(ReadError::Retired { .. }) => {}
            Err(error) => return Err(Failure::internal(error.to_string())),
        }
    }
    Err(Failure::internal(format!("the log moved on {TRIES} times while a backup began; try again")))
}

/// The frame that ends with a revision, of a state that is whole in memory. Where it can't be read, as of a disk that fails there, its hash is not known:
/// who restores can do without, and may need this backup all the more.
fn tail_for(keeper: &plenum_journal::Keeper, revision: u64, term: u64) -> Result<Option<Tail>, ReadError> {
    match tail_at(keeper, revision) {
        Err(error @ (ReadError::Damaged(_) | ReadError::Disk(_))) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, revision, "the log can't be read: a backup is taken without its last frame's hash");
            Ok(Some(Tail { revision, term, hash: ChainHash::default() }))
        }
        found => found,
    }
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

/// Where chunks go, and how long they may wait there.
struct Reader {
    out: mpsc::Sender<v1::BackupChunk>,
    patience: Duration,
}

async fn send(
    shared: Arc<Shared>,
    cell: Cell,
    tail: Tail,
    (to, mut fails): (Reader, oneshot::Sender<Status>),
    turn: Turn,
) {
    let sent = send_all(&shared, cell, tail, &to).await;
    let sent = match sent {
        Ok(()) => {
            let Reader { out, patience } = to;
            drop(out);
            end_is_read(&shared, &mut fails, patience).await
        }
        failed => failed,
    };
    drop(shared);
    match sent {
        Ok(()) => tracing::info!(revision = tail.revision, "a backup was taken"),
        Err(failure) => {
            tracing::warn!("a backup was not taken to its end: {}", failure.message);
            // Before the chunks come to their end: a stream that ends without it looks like one that is whole.
            drop(fails.send(failure.into_status()));
        }
    }
    drop(turn.lock().take());
}

/// Returns when all was taken from the queue, as far as it is read at all: what waits in it for nobody is memory.
async fn send_all(shared: &Shared, cell: Cell, tail: Tail, to: &Reader) -> Result<(), Failure> {
    let mut encoder = Encoder::begin(&manifest(&cell, shared.identity.incarnation, tail));
    for (table, number) in pages::every(&cell) {
        encoder.page(&pages::encode_page(&cell, table, number));
        if encoder.pending_bytes() >= CHUNK_BYTES {
            hand_over(shared, &mut encoder, to).await?;
        }
    }
    encoder.end();
    // No page is copied any more for what is read slowly.
    drop(cell);
    hand_over(shared, &mut encoder, to).await?;
    for free in 1..=CHUNKS_MAX {
        let taken = patiently(shared, to.patience, to.out.reserve_many(free)).await?;
        drop(taken.map_err(|_| nobody_reads(to.patience))?);
    }
    Ok(())
}

/// Fails when nobody takes it.
async fn hand_over(shared: &Shared, encoder: &mut Encoder, to: &Reader) -> Result<(), Failure> {
    let mut rest = encoder.take();
    while !rest.is_empty() {
        let data = rest.split_to(rest.len().min(CHUNK_BYTES));
        let taken = patiently(shared, to.patience, to.out.send(v1::BackupChunk { data })).await?;
        taken.map_err(|_| nobody_reads(to.patience))?;
    }
    Ok(())
}

/// What waits for the reader, for as long as that may take.
async fn patiently<T>(shared: &Shared, patience: Duration, taken: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        taken = tokio::time::timeout(patience, taken) => taken.map_err(|_| nobody_reads(patience)),
        () = shared.ended() => Err(Failure::ending()),
    }
}

/// Waits until the stream was read to its end, or left; fails when nobody does. When the server ends, what is on its way may still arrive.
async fn end_is_read(shared: &Shared, fails: &mut oneshot::Sender<Status>, patience: Duration) -> Result<(), Failure> {
    tokio::select! {
        closed = tokio::time::timeout(patience, fails.closed()) => closed.map_err(|_| nobody_reads(patience)),
        () = shared.ended() => Ok(()),
    }
}

fn nobody_reads(patience: Duration) -> Failure {
    let message = format!("nobody has read on for {patience:?}; take another one");
    Failure::new(Code::DeadlineExceeded, "TIME_LIMIT", message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use tokio_stream::StreamExt;

    use super::*;

    // One place of the log that could not be read kept all backups from being taken, of a cell that its disk was about to take with it.
    #[tokio::test]
    async fn a_cell_whose_log_can_not_be_read_is_backed_up_without_the_hash_of_its_last_frame() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::ServerOptions::new(dir.path().join("cell"));
        options.settings.segment_bytes = 1 << 20;
        let server = crate::Server::start(options).await.unwrap();
        let shared = server.shared();
        let opening = |name: &str| plenum_proto::command::open_session("local", "default", name).unwrap();
        let opened = shared.ask(opening("batch")).await.unwrap().at;
        let cell = shared.snapshot_with(opened).await;
        let (revision, term) = (cell.revision().0, cell.identity().term);
        // Behind that, so that the log has to be read.
        while shared.keeper.tail().revision == revision {
            shared.ask(opening("service")).await.unwrap();
        }
        let known = tail_for(&shared.keeper, revision, term).unwrap().unwrap();
        assert!(known.hash != ChainHash::default() && known.term == term);

        let segment = dir.path().join("cell/log").join(format!("{:020}.segment", 1));
        std::fs::File::options().write(true).open(segment).unwrap().write_all_at(&[7; 512], 0).unwrap();
        assert!(matches!(tail_at(&shared.keeper, revision), Err(ReadError::Damaged(_))));
        let tail = tail_for(&shared.keeper, revision, term).unwrap().unwrap();
        assert_eq!(tail, Tail { hash: ChainHash::default(), ..known });
        let file = dir.path().join("backup");
        let mut encoder = Encoder::begin(&manifest(&cell, shared.identity.incarnation, tail));
        for (table, number) in pages::every(&cell) {
            encoder.page(&pages::encode_page(&cell, table, number));
        }
        encoder.end();
        std::fs::write(&file, encoder.take()).unwrap();
        let restored = crate::restore(&file, &dir.path().join("new"), &crate::RestoreOptions::default()).unwrap();
        assert_eq!(restored.manifest.revision, revision);
        server.kill().await.unwrap();
    }

    /// The stream of a backup, and what goes into it.
    fn stream() -> (mpsc::Sender<v1::BackupChunk>, oneshot::Sender<Status>, Chunks) {
        let (out, chunks) = mpsc::channel(CHUNKS_MAX);
        let (fails, failed) = oneshot::channel();
        let permit = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        (out, fails, Chunks { turn: Arc::new(Mutex::new(Some((permit, chunks)))), failed })
    }

    /// A small one was over when the server had put it aside for its reader, and callers that read nothing had as many as they asked for.
    #[tokio::test]
    async fn a_backup_is_being_taken_until_its_caller_has_read_all_or_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::ServerOptions::new(dir.path());
        options.settings.segment_bytes = 1 << 20;
        let server = crate::Server::start(options).await.unwrap();
        let shared = server.shared();
        let mut first = begin(shared).await.unwrap();
        // All there is of a cell that has just begun, but for its end.
        assert!(first.next().await.is_some_and(|chunk| chunk.is_ok()));
        assert_eq!(begin(shared).await.err().unwrap().code, "BACKUP_RUNNING");
        assert!(first.next().await.is_none());
        let second = begin(shared).await.unwrap();
        assert_eq!(begin(shared).await.err().unwrap().code, "BACKUP_RUNNING");
        drop(second);
        let began_again = async {
            while begin(shared).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE / 3, began_again).await.unwrap();
        server.shutdown().await.unwrap();
    }

    /// Until then each page that changes is copied, and nobody else may take one.
    #[tokio::test]
    async fn a_backup_that_nobody_reads_is_left_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::ServerOptions::new(dir.path());
        options.settings.segment_bytes = 1 << 20;
        let server = crate::Server::start(options).await.unwrap();
        let shared = server.shared();
        let brief = Duration::from_millis(1);
        let mut left = begin_with(shared, brief).await.unwrap();
        // It has the turn for as long as that takes.
        let next = async {
            loop {
                match begin(shared).await {
                    Ok(next) => return next,
                    Err(failure) => assert_eq!(failure.code, "BACKUP_RUNNING"),
                }
                tokio::task::yield_now().await;
            }
        };
        drop(tokio::time::timeout(PATIENCE / 3, next).await.unwrap());
        let why = left.next().await.unwrap().unwrap_err();
        assert_eq!(
            (why.code(), why.message()),
            (Code::DeadlineExceeded, "nobody has read on for 1ms; take another one")
        );
        assert!(left.next().await.is_none());

        // All its chunks were read, and not its end.
        let (mut fails, failed) = oneshot::channel();
        assert_eq!(end_is_read(shared, &mut fails, brief).await.unwrap_err().code, "TIME_LIMIT");
        drop(failed);
        assert!(end_is_read(shared, &mut fails, PATIENCE).await.is_ok());
        server.shutdown().await.unwrap();
    }

    /// It stood behind chunks that a slow reader had not taken when its server was gone: the reader saw a broken connection.
    #[tokio::test]
    async fn why_a_backup_ends_early_comes_before_the_chunks_that_wait() {
        let (out, fails, mut stream) = stream();
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
        let (out, fails, mut stream) = stream();
        out.send(v1::BackupChunk { data: "all".into() }).await.unwrap();
        drop(fails);
        assert!(stream.next().await.is_some_and(|chunk| chunk.is_ok()));
        drop(out);
        assert!(stream.next().await.is_none());
    }
}
