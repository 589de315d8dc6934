//! Blocks: consecutive batches, as one value or at one place of the log, and where a revision is.
use crate::entries::Logged;
use crate::error::{ReadError, StoreError};
use crate::frames::{Frames, FramesError, LogPlace, LogRange};
use crate::heads::{self, Span, Unusual};
use crate::history::History;
use crate::keys::{self, Shelf, number_at};
use crate::packing;
use crate::records::{BatchRecord, BlockRecord, PlacedRecord};
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

/// What is known of a block before its batches are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHead {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// When its first and its last batch were decided.
    pub(crate) time_micros: i64,
    pub(crate) newest_time_micros: i64,
}

/// A block as the store has it.
pub(crate) enum StoredBlock {
    /// Its batches, too.
    Whole(Block),
    /// Where its batches stand in the log.
    Placed(BlockHead, LogRange),
}

/// What the value of a block that stands in the log begins with. Of compressed batches this would be their size, which is less.
pub(crate) const PLACED: [u8; 4] = [0xff; 4];

impl StoredBlock {
    /// Reads a row of the blocks.
    pub(crate) fn from_row(row: Row) -> Result<Self, StoreError> {
        let Some(placed) = row.value.strip_prefix(&PLACED) else { return Ok(Self::Whole(Block::from_row(row)?)) };
        let record: PlacedRecord = decode(Shelf::Blocks, &row.key, row.value.slice_ref(placed))?;
        let first = first_of(Shelf::Blocks, &row.key)?;
        if first > record.last {
            return Err(damaged(Shelf::Blocks, &row.key, "it ends before it begins"));
        }
        let place = LogPlace { segment: record.segment, offset: record.offset, bytes: record.frame_bytes };
        let head = BlockHead {
            first,
            last: record.last,
            time_micros: record.time_micros,
            newest_time_micros: record.newest_time_micros,
        };
        Ok(Self::Placed(head, LogRange { place, first, last: record.last }))
    }

    pub(crate) fn head(&self) -> BlockHead {
        match self {
            Self::Placed(head, _) => *head,
            Self::Whole(block) => BlockHead {
                first: block.first,
                last: block.last,
                time_micros: block.batches.first().map_or(i64::MIN, |batch| batch.time_micros),
                newest_time_micros: block.batches.last().map_or(i64::MIN, |batch| batch.time_micros),
            },
        }
    }

    /// The block with its batches.
    pub(crate) fn open(self, frames: Option<&dyn Frames>) -> Result<Block, StoreError> {
        match self {
            Self::Whole(block) => Ok(block),
            Self::Placed(_, range) => Block::from_log(&range, frames),
        }
    }
}

impl Block {
    /// Reads it from the log.
    fn from_log(range: &LogRange, frames: Option<&dyn Frames>) -> Result<Self, StoreError> {
        let failed = |what: String| StoreError::Log { first: range.first, what };
        let frames = frames.ok_or_else(|| failed("the history was opened without its log".to_owned()))?;
        let read = frames.read(range).map_err(|error| match error {
            FramesError::Damaged(what) => failed(what),
            FramesError::Unread(what) => StoreError::LogUnread { first: range.first, what },
        })?;
        let mut next = Some(range.first);
        let batches = read.into_iter().map(|bytes| {
            let span = heads::span(&bytes).or_else(|Unusual| heads::span_by_generated_code(bytes.clone()));
            let Span { first, last, time_micros } = span
                .map_err(|error| failed(error.to_string()))?
                .filter(|span| Some(span.first) == next && span.last >= span.first)
                .ok_or_else(|| failed("its batches don't follow each other".to_owned()))?;
            next = last.checked_add(1);
            Ok(BatchRecord { first, last, time_micros, bytes })
        });
        let batches = batches.collect::<Result<Vec<_>, StoreError>>()?;
        let block = Self::of(batches).filter(|block| block.last == range.last);
        block.ok_or_else(|| failed(format!("its last revision is not {}", range.last)))
    }

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

/// A block that stands in the log as the value of a row.
pub(crate) fn placed(range: &LogRange, batches: &[BatchRecord]) -> Vec<u8> {
    let record = PlacedRecord {
        last: range.last,
        segment: range.place.segment,
        offset: range.place.offset,
        frame_bytes: range.place.bytes,
        bytes: batches.iter().map(|batch| batch.bytes.len() as u64).sum(),
        time_micros: batches.first().map_or(i64::MIN, |batch| batch.time_micros),
        newest_time_micros: batches.last().map_or(i64::MIN, |batch| batch.time_micros),
    };
    let mut value = PLACED.to_vec();
    value.extend_from_slice(&record.encode_to_vec());
    value
}

/// Batches as the value of a row.
pub(crate) fn compressed(batches: Vec<BatchRecord>) -> Vec<u8> {
    packing::compressed(&BlockRecord { batches }.encode_to_vec())
}

/// The last block of the store.
pub(crate) fn newest_block(store: &Store) -> Result<Option<BlockHead>, StoreError> {
    store.last(Shelf::Blocks, keys::block(0)..=keys::block(u64::MAX))?.map(head_of).transpose()
}

/// The newest block of the store that ends at or before a revision.
pub(crate) fn newest_block_until(store: &Store, revision: u64) -> Result<Option<BlockHead>, StoreError> {
    for row in store.rows(Shelf::Blocks, keys::block(0)..=keys::block(revision)).rev() {
        let block = head_of(row?)?;
        if block.last <= revision {
            return Ok(Some(block));
        }
    }
    Ok(None)
}

/// The first block of the store that begins at or after a revision.
pub(crate) fn oldest_block_from(store: &Store, revision: u64) -> Result<Option<BlockHead>, StoreError> {
    store.first(Shelf::Blocks, keys::block(revision)..=keys::block(u64::MAX))?.map(head_of).transpose()
}

/// As [`oldest_block_from`], by what the index has about times, from a time on: of a block whose own row can't be read. None where no other follows it.
pub(crate) fn oldest_timed_from(
    store: &Store,
    revision: u64,
    from_micros: i64,
) -> Result<Option<BlockHead>, StoreError> {
    let mut found = None;
    for row in store.rows(Shelf::Index, keys::time(from_micros, 0)..=keys::time(i64::MAX, u64::MAX)) {
        let (time_micros, first) = time_row(&row?)?;
        match found {
            Some((time_micros, begins)) => {
                let (last, newest_time_micros) = (first.saturating_sub(1), time_micros);
                return Ok(Some(BlockHead { first: begins, last, time_micros, newest_time_micros }));
            }
            None if first >= revision => found = Some((time_micros, first)),
            None => {}
        }
    }
    Ok(None)
}

fn head_of(row: Row) -> Result<BlockHead, StoreError> {
    Ok(StoredBlock::from_row(row)?.head())
}

/// The block of the store that holds a revision, if one does.
pub(crate) fn stored_block_holding(store: &Store, revision: u64) -> Result<Option<StoredBlock>, StoreError> {
    let Some(row) = store.last(Shelf::Blocks, keys::block(0)..=keys::block(revision))? else { return Ok(None) };
    let block = StoredBlock::from_row(row)?;
    Ok((block.head().last >= revision).then_some(block))
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
        match stored_block_holding(&*self.store()?, revision)?.map(|block| self.open_block(block)) {
            Some(Ok(block)) => Ok(block),
            // Where it stood there may be something else by now, because it was retired meanwhile.
            Some(Err(error)) => {
                self.view().check(revision)?;
                Err(error.into())
            }
            None => {
                // It may have been retired meanwhile.
                self.view().check(revision)?;
                Err(damaged(Shelf::Blocks, &keys::block(revision), "it is missing").into())
            }
        }
    }

    /// A block of the store with its batches.
    pub(crate) fn open_block(&self, block: StoredBlock) -> Result<Block, StoreError> {
        block.open(self.options().frames.as_deref())
    }
}

/// The first revision of the block whose time row this is, with its time.
pub(crate) fn time_row(row: &Row) -> Result<(i64, u64), StoreError> {
    keys::time_of(&row.key).ok_or_else(|| damaged(Shelf::Index, &row.key, "its key is too short"))
}

/// The first revision of a block, by its key.
pub(crate) fn first_of(shelf: Shelf, key: &[u8]) -> Result<u64, StoreError> {
    let key_bytes =
        <[u8; 8]>::try_from(key).map_err(|_| damaged(shelf, key, "its key has no length that a block's has"))?;
    Ok(u64::from_be_bytes(key_bytes))
}

/// The `position`th number of a row's key.
pub(crate) fn key_number(shelf: Shelf, key: &[u8], position: usize) -> Result<u64, StoreError> {
    number_at(key, position).ok_or_else(|| damaged(shelf, key, "its key is too short"))
}
