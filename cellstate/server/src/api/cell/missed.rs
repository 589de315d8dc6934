//! What a watcher missed that is not recent any more: from the log, or from the history where the log has given it up.

use std::sync::Arc;

use bytes::Bytes;
use plenum_history::ReadError as HistoryError;
use plenum_journal::ReadError as LogError;
use plenum_model::Revision;
use tokio::runtime::Handle;

use crate::publish::{LoggedBatch, NotABatch};
use crate::shared::Shared;
use crate::tasks::on_a_thread;

/// Revisions of one message: those that change nothing for a watcher take hardly any bytes.
const REVISIONS_MAX: usize = 4096;

/// Why there is nothing to be had: the watcher begins anew then.
#[derive(Debug, thiserror::Error)]
enum Unavailable {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Batch(#[from] NotABatch),
}

/// The deltas after a revision, in order and without gaps: at least one, and as many more as go into a message. None when they can't be
/// had. It takes turns, so that many who are behind do not take the disk from those who commit.
pub(super) async fn after(shared: &Arc<Shared>, after: Revision) -> Vec<Bytes> {
    let Ok(turn) = shared.catching_up.clone().acquire_owned().await else { return Vec::new() };
    let reading = shared.clone();
    let read = on_a_thread(&Handle::current(), move || {
        let found = match from_log(&reading, after) {
            Err(Unavailable::Log(LogError::Retired { .. })) => from_history(&reading, after),
            found => found,
        };
        // Not before, though its watcher may have left meanwhile.
        drop(turn);
        found
    });
    // Where the system gives no thread, too: it is begun anew.
    let Some(read) = read else { return Vec::new() };
    match read.await {
        Ok(Ok(deltas)) => deltas,
        Ok(Err(error)) => {
            tracing::info!(%after, error = &error as &dyn std::error::Error, "a watcher that is far behind begins anew");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// Deltas of a message.
struct Message {
    deltas: Vec<Bytes>,
    bytes_left: usize,
}

impl Message {
    fn new(shared: &Shared) -> Self {
        Self { deltas: Vec::new(), bytes_left: shared.settings.sync.message_bytes }
    }

    /// Takes a copy of a delta, which may be little of the frame or block that it stands in: a watcher that does not read on holds what is
    /// on its way to it. False when it is full. The first one goes in however large it is.
    fn add(&mut self, delta: &[u8]) -> bool {
        let fits = self.deltas.is_empty() || (delta.len() <= self.bytes_left && self.deltas.len() < REVISIONS_MAX);
        if fits {
            self.bytes_left = self.bytes_left.saturating_sub(delta.len());
            self.deltas.push(Bytes::copy_from_slice(delta));
        }
        fits
    }
}

/// The reader is not kept: it would keep segments from being given back, for as long as its watcher likes. The log remembers where it ended, and the next
/// one begins there.
fn from_log(shared: &Shared, after: Revision) -> Result<Vec<Bytes>, Unavailable> {
    let mut message = Message::new(shared);
    let mut reader = shared.keeper.reader(after.next().0)?;
    while let Some(frame) = reader.next_frame()? {
        let batch = LoggedBatch::parse(Bytes::copy_from_slice(frame.payload))?;
        let mut later = batch.revisions().filter(|revision| *revision > after);
        if !later.all(|revision| message.add(&batch.delta(revision).unwrap_or_default())) {
            break;
        }
    }
    Ok(message.deltas)
}

fn from_history(shared: &Shared, after: Revision) -> Result<Vec<Bytes>, Unavailable> {
    let mut message = Message::new(shared);
    let history = shared.feed.history();
    let last = history.newest_revision().min(after.0 + REVISIONS_MAX as u64);
    for logged in history.entries(after.next().0, last)? {
        if !message.add(&logged?.entry.delta) {
            break;
        }
    }
    Ok(message.deltas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::tests::without_threads;
    use crate::tasks::runtime_without_threads;

    // A message of a few small deltas held all frames in memory that they stand in, up to its 4096 revisions, until its watcher read it.
    #[test]
    fn a_message_holds_its_deltas_and_not_the_frames_that_they_stand_in() {
        let mut message = Message { deltas: Vec::new(), bytes_left: 100 };
        let frames: Vec<Bytes> = (0..3).map(|_| Bytes::from(vec![7; 1 << 20])).collect();
        let taken: Vec<bool> = frames.iter().map(|frame| message.add(&frame.slice(5..45))).collect();
        assert_eq!(taken, [true, true, false]);
        assert_eq!(message.deltas, [&[7; 40][..]; 2]);
        assert!(frames.iter().all(Bytes::is_unique));
    }

    // It was kept until there was a thread: whoever was behind next waited for it as long.
    #[test]
    fn what_gets_no_thread_to_be_read_gives_its_turn_back() {
        let dir = tempfile::tempdir().unwrap();
        let (_journal, shared) = without_threads(dir.path(), |_| None);
        let turns = shared.catching_up.available_permits();
        assert!(runtime_without_threads().block_on(after(&shared, Revision(0))).is_empty());
        assert_eq!(shared.catching_up.available_permits(), turns);
    }

    // Its turn was given back at once, and it was read for nobody: whoever came and left again and again had any number of reads at a time.
    #[test]
    fn what_is_read_for_a_watcher_that_has_left_keeps_its_turn_until_it_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let server = crate::Server::start(crate::ServerOptions::new(dir.path())).await.unwrap();
            let shared = server.shared().clone();
            let turns = shared.catching_up.available_permits();
            let (answer, disk) = std::sync::mpsc::channel::<()>();
            // The only thread that may wait for the disk does so until the sender is gone.
            drop(tokio::task::spawn_blocking(move || disk.recv()));
            let catching_up = shared.clone();
            let watcher = tokio::spawn(async move { after(&catching_up, Revision(0)).await });
            while shared.catching_up.available_permits() == turns {
                tokio::task::yield_now().await;
            }
            watcher.abort();
            assert!(watcher.await.unwrap_err().is_cancelled());
            assert_eq!(shared.catching_up.available_permits(), turns - 1);
            drop(answer);
            while shared.catching_up.available_permits() < turns {
                tokio::task::yield_now().await;
            }
            drop(shared);
            server.shutdown().await.unwrap();
        });
    }
}
