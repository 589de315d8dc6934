//! Writing batches to the log: by the journal's thread, or by the resolver itself when nobody waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use plenum_journal::{AppendError, BatchLabel, Journal};

use crate::commit::Batch;
use crate::error::ServerError;
use crate::shared::Shared;

/// How long to wait for room before trying again.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(100);

/// Appends to the log. Clones share it; a batch is in one pair of hands at a time.
#[derive(Clone)]
pub(crate) struct Writer {
    journal: Arc<Mutex<Journal>>,
    shared: Arc<Shared>,
}

impl Writer {
    pub(crate) fn new(journal: Journal, shared: Arc<Shared>) -> Self {
        Self { journal: Arc::new(Mutex::new(journal)), shared }
    }

    /// Makes a batch durable; false when nobody knows whether it is. A disk without room is waited for: nothing was written then,
    /// and nothing that was decided may be forgotten. Only a server that stops does not wait: what was not written has not been
    /// answered either.
    pub(crate) fn write(&self, batch: &Batch) -> bool {
        let label = BatchLabel { term: batch.term, first_revision: batch.first.0, last_revision: batch.last.0 };
        let mut journal = self.journal.lock();
        loop {
            let began = Instant::now();
            match journal.append_and_sync(label, &[&batch.bytes]) {
                Ok(_) => {
                    self.shared.metrics.synced(began.elapsed());
                    self.shared.keeping.wake();
                    return true;
                }
                Err(error @ AppendError::NoSegment(_)) if !self.shared.ingress.is_stopping() => {
                    tracing::warn!(%error, "waiting for room on the disk");
                    self.shared.space.check_now(&self.shared.keeper);
                    std::thread::sleep(FULL_DISK_PAUSE);
                }
                Err(error) => {
                    self.shared.fail(ServerError::Append(error));
                    return false;
                }
            }
        }
    }
}

/// The journal's thread.
pub(crate) fn run(writer: &Writer, shared: &Shared, batches: &Receiver<Batch>) {
    for batch in batches {
        shared.ingress.written(writer.write(&batch));
    }
}
