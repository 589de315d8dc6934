//! Blocks: consecutive batches as one value, and where a revision is.
use crate::entries::Logged;
use crate::error::{ReadError, StoreError};
use crate::history::History;
use crate::keys::{self, Shelf, number_at};
use crate::packing;
use crate::records::{BatchRecord, BlockRecord};
use crate::store::{Row, Store, damaged, decode};
use plenum_proto::v1;
use prost::Message;

/// Most bytes of a block: one batch of the largest size after one that nearly filled it, and what stands around them.
const BLOCK_BYTES_MAX: usize = 192 << 20;

/// Batches that follow each other; at least one.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) batches: Vec<BatchRecord>,
}

impl Block {
    /// None if there are no batches.
    pub(crate) fn of(batches: Vec<BatchRecord>) -> Option<Self> {
        let (first, last) = (batches.first()?.first, batches.last()?.last);
        Some(Self { first, last, batches })
    }

    /// Reads a row of the blocks.
    pub(crate) fn from_row(row: Row) -> Result<Self, StoreError> {
        let whole =
            packing::expanded(&row.value, BLOCK_BYTES_MAX).map_err(|what| damaged(Shelf::Blocks, &row.key, &what))?;
        let record: BlockRecord = decode(Shelf::Blocks, &row.key, whole.into())?;
        let follows = record.batches.windows(2).all(|pair| pair[0].last.checked_add(1) == Some(pair[1].first));
        let ordered = record.batches.iter().all(|batch| batch.first <= batch.last);
        match Self::of(record.batches) {
            Some(block) if follows && ordered && keys::block(block.first) == row.key => Ok(block),
            _ => Err(damaged(Shelf::Blocks, &row.key, "its batches don't follow each other")),
        }
    }

    /// Bytes of all its batches, as they were logged.
    pub(crate) fn bytes(&self) -> u64 {
        self.batches.iter().map(|batch| batch.bytes.len() as u64).sum()
    }

    /// Its entries of revisions in `from..=to`, in order.
    pub(crate) fn entries(&self, from: u64, to: u64) -> Result<Vec<Logged>, StoreError> {
        let mut entries = Vec::new();
        for batch in self.batches.iter().filter(|batch| batch.first <= to && batch.last >= from) {
            let decoded = v1::LogBatch::decode(batch.bytes.clone());
            let decoded = decoded.map_err(|error| self.damaged(&format!("a batch of it can't be decoded: {error}")))?;
            entries.extend(decoded.entries.into_iter().filter(|entry| (from..=to).contains(&entry.revision)).map(
                |entry| Logged {
                    core_version: decoded.core_version,
                    core_options: decoded.core_options,
                    time_micros: batch.time_micros,
                    entry,
                },
            ));
        }
        let (begin, end) = (from.max(self.first), to.min(self.last));
        // All revisions there can be are one more than a number can tell, and more than any block has.
        let expected = if begin > end { Some(0) } else { (end - begin).checked_add(1) };
        if Some(entries.len() as u64) != expected {
            return Err(self.damaged("it lacks entries"));
        }
        Ok(entries)
    }

    pub(crate) fn damaged(&self, what: &str) -> StoreError {
        damaged(Shelf::Blocks, &keys::block(self.first), what)
    }
}

/// Batches as the value of a row.
pub(crate) fn compressed(batches: Vec<BatchRecord>) -> Vec<u8> {
    packing::compressed(&BlockRecord { batches }.encode_to_vec())
}

/// The last block of the store.
pub(crate) fn newest_block(store: &Store) -> Result<Option<Block>, StoreError> {
    store.last(Shelf::Blocks, keys::block(0)..=keys::block(u64::MAX))?.map(Block::from_row).transpose()
}

/// The first block of the store that begins at or after a revision.
pub(crate) fn oldest_block_from(store: &Store, revision: u64) -> Result<Option<Block>, StoreError> {
    store.first(Shelf::Blocks, keys::block(revision)..=keys::block(u64::MAX))?.map(Block::from_row).transpose()
}

/// The block of the store that holds a revision, if one does.
pub(crate) fn stored_block_holding(store: &Store, revision: u64) -> Result<Option<Block>, StoreError> {
    let Some(row) = store.last(Shelf::Blocks, keys::block(0)..=keys::block(revision))? else { return Ok(None) };
    let block = Block::from_row(row)?;
    Ok((block.last >= revision).then_some(block))
}

impl History {
    /// The block that holds a revision, of the store or of what still gathers in memory.
    pub(crate) fn block_holding(&self, revision: u64) -> Result<Block, ReadError> {
        // The order matters: what gathers in memory is first written, then forgotten.
        let gathering = {
            let view = self.view();
            view.check(revision)?;
            view.gathering.first().is_some_and(|batch| batch.first <= revision).then(|| view.gathering.clone())
        };
        if let Some(block) = gathering.and_then(Block::of) {
            return Ok(block);
        }
        match stored_block_holding(self.store(), revision)? {
            Some(block) => Ok(block),
            None => {
                // It may have been retired meanwhile.
                self.view().check(revision)?;
                Err(damaged(Shelf::Blocks, &keys::block(revision), "it is missing").into())
            }
        }
    }
}

/// The first revision of the block whose time row this is, with its time.
pub(crate) fn time_row(row: &Row) -> Result<(i64, u64), StoreError> {
    keys::time_of(&row.key).ok_or_else(|| damaged(Shelf::Index, &row.key, "its key is too short"))
}

/// The `position`th number of a row's key.
pub(crate) fn key_number(shelf: Shelf, key: &[u8], position: usize) -> Result<u64, StoreError> {
    number_at(key, position).ok_or_else(|| damaged(shelf, key, "its key is too short"))
}
