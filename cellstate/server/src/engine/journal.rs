//! Writing batches to the log: by the journal's thread, or by the resolver itself when nobody waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use plenum_journal::{AppendError, BatchLabel, Journal};

use super::rest::Rest;
use super::turns::step_forward;
use crate::commit::Batch;
use crate::error::ServerError;
use crate::planted_bugs;
use crate::shared::Shared;

/// How long to wait for room before trying again.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(100);
/// How often it is told that room is waited for.
const FULL_DISK_TOLD: Duration = Duration::from_secs(10);

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
        let mut journal = self.journal.lock();
        let Some(batch) = planted_bugs::due(batch, journal.tail().revision) else { return true };
        let label = BatchLabel { term: batch.term, first_revision: batch.first.0, last_revision: batch.last.0 };
        let mut told: Option<Instant> = None;
        loop {
            let began = Instant::now();
            match journal.append_and_sync(label, &[&batch.bytes]) {
                Ok(_) => {
                    self.shared.metrics.synced(began.elapsed());
                    self.shared.keeping.wake();
                    return true;
                }
                Err(error @ AppendError::NoSegment(_)) if !self.shared.ingress.is_stopping() => {
                    self.shared.space.check_now(&self.shared.keeper);
                    if told.is_none_or(|told| told.elapsed() >= FULL_DISK_TOLD) {
                        told = Some(Instant::now());
                        self.tell_waiting(&error);
                    }
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

impl Writer {
    /// Says for what is waited. Before the first revision of a start is durable, nobody is served: an operator sees this line alone.
    fn tell_waiting(&self, error: &AppendError) {
        let serving = self.shared.durable_revision() >= self.shared.opened_at;
        let what = if serving {
            "decided requests wait"
        } else {
            "the server starts when there is room; nobody is served before"
        };
        match self.shared.space.low() {
            Some(low) => tracing::error!(
                path = low.path,
                free_bytes = low.free_bytes,
                needed_bytes = low.needed_bytes,
                "the disk has no room for the log: {what}"
            ),
            None => tracing::error!(error = error as &dyn std::error::Error, "the log can't grow: {what}"),
        }
    }
}

/// The journal's thread.
pub(crate) fn run(writer: &Writer, shared: &Shared, batches: &Receiver<Batch>) {
    step_forward();
    let mut rest = Rest::new();
    loop {
        let received = match rest.due() {
            Some(due) => batches.recv_deadline(due),
            None => batches.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(batch) => {
                rest.works();
                shared.ingress.written(writer.write(&batch));
            }
            Err(RecvTimeoutError::Timeout) => rest.give_back_when_due(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
