//! Retention: what is too old, or too much, leaves.
//!
//! The oldest revision moves from checkpoint to checkpoint, so that the cell can be had as it was at each revision that
//! is left. It moves first, and readers obey it at once; rows, images and tables are cleared away after, piece by
//! piece.
use crate::block::{BlockHead, key_number, oldest_block_from, stored_block_holding, time_row};
use crate::checkpoint::at_or_before;
use crate::error::{ReadError, StoreError, WriteError};
use crate::history::{History, Writer, number};
use crate::keys::{self, ImageKey, Shelf};
use crate::records::{LeaverRecord, NumberRecord, TimeRecord};
use crate::store::{Changes, damaged, decode};

/// About so many rows are removed in one call.
const ROWS_PER_CALL: usize = 4_096;
/// About so many pages are looked at in one call.
const PAGES_PER_CALL: usize = 1_024;
/// Rows of blocks that one call to `retention_floor` looks at.
const FLOOR_ROWS_MAX: usize = 4_096;
/// Removed rows keep their room until tables are merged. That is forced when there are more of them than rows that are
/// left, and at least so many.
const REMOVED_ROWS_MIN: u64 = 50_000;

/// Blocks are dropped when those that may go have so many times the bytes that wait in memory: each time all that waits goes to tables.
const DROPPED_MEMTABLES: u64 = 4;

/// How far retiring got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// The oldest revision that is left.
    pub oldest: u64,
    /// All that is older has been cleared away. Otherwise call again.
    pub done: bool,
}

/// What clearing away has done since the start.
#[derive(Default)]
pub(crate) struct Cleaning {
    /// The revision from which on there may be leavers. Without it, each call would begin at the marks that removed rows
    /// leave.
    leavers_from: u64,
    /// The page to look at next, and for which floor all have been looked at.
    next_page: Option<(u8, u32)>,
    pages_done_for: u64,
    /// Rows that were removed, and are still in tables.
    removed_index_rows: u64,
    removed_page_rows: u64,
    /// Bytes of blocks that were let go, and are still in tables.
    undropped_bytes: u64,
}

impl History {
    /// The oldest revision to keep by the settings, at a log time: everything older is beyond the age or beyond the
    /// bytes.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn retention_floor(&self, now_micros: i64) -> Result<u64, ReadError> {
        let (oldest, newest, _) = self.extent();
        let (bytes_so_far, newest_micros) = {
            let writer = self.writer();
            (writer.bytes_so_far, writer.time_micros)
        };
        let cut_micros = now_micros.saturating_sub(self.options().retain_micros);
        // To the block: none is opened, so that one that can't be read does not keep all that is older.
        let by_age = if newest_micros > i64::MIN && newest_micros <= cut_micros {
            newest
        } else {
            let rows = keys::time(i64::MIN, 0)..=keys::time(cut_micros, u64::MAX);
            self.store().last(Shelf::Index, rows)?.map(|row| time_row(&row)).transpose()?.map_or(0, |(_, first)| first)
        };
        let by_age = by_age.max(oldest);
        let mut by_bytes = oldest;
        if let Some(gone_bytes) = bytes_so_far.checked_sub(self.options().retain_bytes).filter(|bytes| *bytes > 0) {
            let from = match stored_block_holding(self.store(), oldest)? {
                Some(block) => keys::time(block.head().time_micros, block.head().first),
                None => keys::time(i64::MIN, 0),
            };
            let rows = self.store().rows(Shelf::Index, from..=keys::time(i64::MAX, u64::MAX));
            for row in rows.take(FLOOR_ROWS_MAX) {
                let row = row?;
                by_bytes = by_bytes.max(key_number(Shelf::Index, &row.key, 1)?);
                let block: TimeRecord = decode(Shelf::Index, &row.key, row.value)?;
                if block.bytes_so_far > gone_bytes {
                    break;
                }
            }
        }
        Ok(by_age.max(by_bytes).min(newest))
    }

    /// Lets go of what is not needed to read the cell at `keep_from` and every later revision: the oldest revision
    /// becomes the newest checkpoint at or before `keep_from`. Does a bounded piece of the work; a call that moves
    /// nothing goes on with what is left to clear away.
    ///
    /// # Errors
    ///
    /// [`WriteError::Store`].
    pub fn retire(&self, keep_from: u64) -> Result<Retirement, WriteError> {
        let mut writer = self.writer();
        let target = at_or_before(self.store(), keep_from)?.map_or(0, |checkpoint| checkpoint.revision);
        if target > self.view().floor {
            let mut changes = self.store().changes();
            changes.put_message(Shelf::Index, keys::FLOOR, &NumberRecord { number: target });
            changes.commit()?;
            // What is before it may be gone from the log as soon as it is seen.
            self.rotate(&mut writer, &[Shelf::Index])?;
            self.store().catch_up()?;
            self.note_durable(&mut writer);
            self.change_view(|view| view.floor = target);
        }
        let (floor, oldest) = {
            let view = self.view();
            (view.floor, view.oldest())
        };
        if floor == 0 {
            return Ok(Retirement { oldest, done: true });
        }
        let rows_done = self.clear_leavers(&mut writer, floor)?;
        let blocks_done = rows_done && self.clear_blocks(&mut writer, floor)?;
        let pages_done = blocks_done && self.clear_pages(&mut writer, floor)?;
        if pages_done {
            self.give_back_room(&mut writer)?;
        }
        Ok(Retirement { oldest, done: pages_done })
    }

    /// Removes the names of what left before the floor. True when none of them is left.
    fn clear_leavers(&self, writer: &mut Writer, floor: u64) -> Result<bool, StoreError> {
        // Blocks are cleared after the leavers of their revisions, so there are none below.
        let cleaned = number(self.store(), &keys::CLEANED)?.unwrap_or(0);
        let from = writer.cleaning.leavers_from.max(cleaned);
        if from >= floor {
            return Ok(true);
        }
        let mut changes = self.store().changes();
        let mut removed = 0;
        let mut reached = floor;
        for row in self.store().rows(Shelf::Index, keys::leaver(from, 0)..=keys::leaver(floor - 1, u64::MAX)) {
            let row = row?;
            if removed >= ROWS_PER_CALL {
                reached = key_number(Shelf::Index, &row.key, 0)?;
                break;
            }
            let leaver: LeaverRecord = decode(Shelf::Index, &row.key, row.value)?;
            changes.remove(Shelf::Index, leaver.key);
            changes.remove(Shelf::Index, row.key);
            removed += 2;
        }
        writer.cleaning.leavers_from = reached;
        writer.cleaning.removed_index_rows += removed as u64;
        writer.rows_waiting_bytes += changes.bytes();
        changes.commit()?;
        Ok(reached >= floor)
    }

    /// Removes the rows about blocks, one block after the other, and then the blocks. True when none is left.
    fn clear_blocks(&self, writer: &mut Writer, floor: u64) -> Result<bool, StoreError> {
        let mut cleaned = number(self.store(), &keys::CLEANED)?.unwrap_or(0);
        let mut removed = 0;
        while let Some(block) = oldest_block_from(self.store(), cleaned)?.filter(|block| block.last < floor) {
            if removed >= ROWS_PER_CALL {
                return Ok(false);
            }
            let mut changes = self.store().changes();
            removed += remove_rows_of(&mut changes, &block);
            cleaned = block.last + 1;
            changes.put_message(Shelf::Index, keys::CLEANED, &NumberRecord { number: cleaned });
            writer.rows_waiting_bytes += changes.bytes();
            changes.commit()?;
            writer.cleaning.undropped_bytes += block.stored_bytes;
        }
        writer.cleaning.removed_index_rows += removed as u64;
        if writer.cleaning.undropped_bytes >= DROPPED_MEMTABLES * self.options().memtable_bytes {
            // Tables leave without a trace in fjall's journal: the rows that say why must be in tables before.
            self.rotate(writer, &[Shelf::Index, Shelf::Blocks])?;
            self.store().catch_up()?;
            self.note_durable(writer);
            self.store().drop_blocks_before(cleaned)?;
            writer.cleaning.undropped_bytes = 0;
        }
        Ok(true)
    }

    /// Removes images that no revision from the floor on is made from. True when all pages were looked at.
    fn clear_pages(&self, writer: &mut Writer, floor: u64) -> Result<bool, StoreError> {
        if writer.cleaning.pages_done_for == floor {
            return Ok(true);
        }
        let mut changes = self.store().changes();
        let mut next = writer.cleaning.next_page.unwrap_or((0, 0));
        for _ in 0..PAGES_PER_CALL {
            let Some((table, page)) = self.page_from(next)? else {
                writer.cleaning.next_page = None;
                writer.cleaning.pages_done_for = floor;
                for row in self.store().rows(Shelf::Pages, keys::checkpoint(0)..=keys::checkpoint(floor - 1)) {
                    changes.remove(Shelf::Pages, row?.key);
                    writer.cleaning.removed_page_rows += 1;
                }
                writer.pages_waiting_bytes += changes.bytes();
                changes.commit()?;
                return Ok(true);
            };
            let key = |revision| ImageKey { table, page, revision }.encode();
            // All but the last one up to the floor.
            for row in self.store().rows(Shelf::Pages, key(0)..=key(floor)).rev().skip(1) {
                changes.remove(Shelf::Pages, row?.key);
                writer.cleaning.removed_page_rows += 1;
            }
            next = match (page.checked_add(1), table.checked_add(1)) {
                (Some(page), _) => (table, page),
                (None, Some(table)) => (table, 0),
                (None, None) => (table, page),
            };
        }
        writer.cleaning.next_page = Some(next);
        writer.pages_waiting_bytes += changes.bytes();
        changes.commit()?;
        Ok(false)
    }

    /// The first page with an image, from this one on.
    fn page_from(&self, (table, page): (u8, u32)) -> Result<Option<(u8, u32)>, StoreError> {
        let end = ImageKey { table: u8::MAX, page: u32::MAX, revision: u64::MAX }.encode();
        let Some(row) = self.store().first(Shelf::Pages, ImageKey { table, page, revision: 0 }.encode()..=end)? else {
            return Ok(None);
        };
        let key =
            ImageKey::decode(&row.key).ok_or_else(|| damaged(Shelf::Pages, &row.key, "its key has another form"))?;
        Ok(Some((key.table, key.page)))
    }

    fn give_back_room(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let is_due = |shelf, removed: u64| {
            removed >= REMOVED_ROWS_MIN && removed.saturating_mul(2) >= self.store().rows_about(shelf)
        };
        if is_due(Shelf::Index, writer.cleaning.removed_index_rows) {
            self.rotate(writer, &[Shelf::Index, Shelf::Blocks])?;
            self.store().compact(Shelf::Index)?;
            writer.cleaning.removed_index_rows = 0;
        }
        if is_due(Shelf::Pages, writer.cleaning.removed_page_rows) {
            self.rotate(writer, &[Shelf::Pages])?;
            self.store().compact(Shelf::Pages)?;
            writer.cleaning.removed_page_rows = 0;
        }
        Ok(())
    }
}

/// Removes what the index has about a block; gives the number of rows.
fn remove_rows_of(changes: &mut Changes<'_>, block: &BlockHead) -> usize {
    let keys = [keys::time(block.time_micros, block.first), keys::summary(block.first), keys::conflicts(block.first)];
    let count = keys.len();
    keys.into_iter().for_each(|key| changes.remove(Shelf::Index, key));
    count
}
