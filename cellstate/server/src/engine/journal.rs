//! Writing batches to the log: by the journal's thread, or by the resolver itself when nobody waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use plenum_journal::{AppendError, BatchLabel, Journal, PrepareError};

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
        // What is due meanwhile was nobody's to prevent, if it takes long: see `Standstill`.
        self.shared.writing.begins(self.shared.clock.monotonic_micros());
        let durable = self.append(batch);
        self.shared.writing.ends();
        durable
    }

    fn append(&self, batch: &Batch) -> bool {
        let mut journal = self.journal.lock();
        let Some(batch) = planted_bugs::due(batch, journal.tail().revision) else { return true };
        let label = BatchLabel { term: batch.term, first_revision: batch.first.0, last_revision: batch.last.0 };
        let mut told: Option<Instant> = None;
        loop {
            let began = Instant::now();
            match journal.append_and_sync(label, &[&batch.bytes]) {
                Ok(_) => {
                    if told.is_some() {
                        self.shared.space.waits(&self.shared.keeper, None);
                    }
                    self.shared.metrics.synced(began.elapsed());
                    self.shared.keeping.wake();
                    return true;
                }
                Err(AppendError::NoSegment(error)) if !self.shared.ingress.is_stopping() => {
                    self.shared.space.waits(&self.shared.keeper, Some(&error));
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
    fn tell_waiting(&self, error: &PrepareError) {
        let serving = self.shared.durable_revision() >= self.shared.opened_at;
        let what = if serving {
            "decided requests wait"
        } else {
            "the server starts when there is room; nobody is served before"
        };
        match self.shared.space.low() {
            Some(low) if low.obstacle.is_none() => tracing::error!(
                path = low.path,
                free_bytes = low.free_bytes,
                needed_bytes = low.needed_bytes,
                "the disk has no room for the log: {what}"
            ),
            _ => tracing::error!(error = error as &dyn std::error::Error, "the log can't grow: {what}"),
        }
    }
}

/// The journal's thread.
pub(crate) fn run(writer: &Writer, shared: &Shared, batches: &Receiver<Batch>) {
    step_forward();
    let mut rest = Rest::new(shared.settings.rest);
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use plenum_model::Revision;

    use super::*;
    use crate::shared::tests::without_threads;

    // While a disk did not answer, nobody knew that nothing was decided.
    #[test]
    fn a_write_is_known_to_be_under_way_until_it_has_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, shared) = without_threads(dir.path(), |_| None);
        let writer = Writer::new(journal, shared.clone());
        let batch = Batch { term: 1, first: Revision(1), last: Revision(1), bytes: Bytes::from_static(b"a batch") };
        let micros = || shared.writing.micros(i64::MAX - 1);
        let asked = Instant::now();
        // Nothing is written before it is let go of, as on a disk that does not answer.
        let disk = writer.journal.lock();
        std::thread::scope(|scope| {
            let written = scope.spawn(|| writer.write(&batch));
            while micros() == 0 && asked.elapsed() < Duration::from_secs(30) {
                std::thread::yield_now();
            }
            let under_way = micros();
            drop(disk);
            assert!(written.join().unwrap() && under_way > 0);
        });
        assert_eq!(micros(), 0);
    }
}
