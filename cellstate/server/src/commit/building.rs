//! The batch that is being built.

use std::sync::Arc;

use plenum_model::{Decision, Delta, LogTime};
use plenum_proto::{delta, log, outcome, v1};

use super::{Published, TransactionNote};
use crate::publish::{BatchEncoder, LoggedBatch};

/// Bytes of a batch before its entries, at most: version, time, and some fifteen bounds of the core.
const BATCH_HEAD_BYTES: usize = 256;

/// Decided commands that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Building {
    encoder: BatchEncoder,
    deltas: Vec<Delta>,
    transactions: Vec<TransactionNote>,
    /// Of a batch that nobody needs any more: the next one's grow into it.
    spare: Vec<Delta>,
    /// Kept between batches, so that encoding allocates only the batch itself.
    decided: Vec<u8>,
    delta: Vec<u8>,
}

impl Building {
    /// For a core with these bounds.
    pub(super) fn new(core_options: v1::CoreOptions) -> Self {
        Self { encoder: BatchEncoder::new(core_options), ..Self::default() }
    }

    pub(super) fn len_bytes(&self) -> usize {
        if self.deltas.is_empty() { 0 } else { self.encoder.len() }
    }

    /// Requests that changed something; the others take no place in the log.
    pub(super) fn requests(&self) -> usize {
        self.deltas.len()
    }

    /// The time of everything in it; `None` while it is empty.
    pub(super) fn time(&self) -> Option<LogTime> {
        self.deltas.first().map(|delta| delta.time)
    }

    /// Encodes what was decided, and gives how many bytes it comes to in a batch, at most: `add` puts it there.
    pub(super) fn encode(&mut self, asked: &[u8], decision: &Decision, change: &Delta) -> usize {
        self.decided.clear();
        outcome::encode(decision, &mut self.decided);
        self.delta.clear();
        delta::encode(change, &mut self.delta);
        #[cfg(debug_assertions)]
        assert_reads_back(change, &self.delta);
        BATCH_HEAD_BYTES + log::entry_bytes(change.revision, asked, &self.decided, &self.delta)
    }

    /// Adds what was encoded last.
    pub(super) fn add(&mut self, asked: &[u8], change: Delta, note: Option<TransactionNote>) {
        if self.deltas.is_empty() {
            self.encoder.begin(change.time);
        }
        self.encoder.add(change.revision, asked, &self.decided, &self.delta);
        self.deltas.push(change);
        self.transactions.extend(note);
    }

    /// Takes memory for the deltas of a batch.
    pub(super) fn reuse(&mut self, deltas: Vec<Delta>) {
        if deltas.is_empty() && deltas.capacity() > self.spare.capacity() {
            self.spare = deltas;
        }
    }

    /// The batch; `None` if there is nothing in it.
    pub(super) fn finish(&mut self) -> Option<Published> {
        if self.deltas.is_empty() {
            return None;
        }
        let deltas = std::mem::replace(&mut self.deltas, std::mem::take(&mut self.spare));
        let transactions = std::mem::take(&mut self.transactions);
        let batch = LoggedBatch::parse(self.encoder.finish()).expect("it was encoded here, without gaps");
        Some(Published { batch: Arc::new(batch), deltas, transactions })
    }
}

/// What is acknowledged has to be read again, by mirrors now and by the next start: a change that the core makes and the protocol refuses
/// would be the end of the cell.
#[cfg(debug_assertions)]
fn assert_reads_back(change: &Delta, encoded: &[u8]) {
    match delta::decode(bytes::Bytes::copy_from_slice(encoded)) {
        Ok(read) => assert!(read == *change, "revision {} would be read as another change", change.revision.0),
        Err(error) => panic!("revision {} could not be read again: {error}", change.revision.0),
    }
}
