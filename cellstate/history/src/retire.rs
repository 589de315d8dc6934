//! Retention: what is too old, or too much, leaves.
//!
//! The oldest revision moves from checkpoint to checkpoint, so that the cell can be had as it was at each revision that
//! is left. It moves first, and readers obey it at once; blocks are added up, and rows, tables of blocks and images,
//! and files of images are cleared away after, piece by piece.
use crate::block::{BlockHead, key_number, oldest_block_from, oldest_timed_from, stored_block_holding, time_row};
use crate::checkpoint::at_or_before;
use crate::error::{ReadError, StoreError, WriteError};
use crate::history::{History, Writer, number};
use crate::keys::{self, ImageKey, Shelf};
use crate::records::{LeaverRecord, NumberRecord, TimeRecord};
use crate::store::{Changes, Row, Store, damaged, decode};

/// About so many rows are removed in one call.
const ROWS_PER_CALL: usize = 4_096;
/// So many images of formats up to 4 are removed in one call.
const OLD_IMAGES_PER_CALL: usize = 1_024;
/// Removed rows keep their room until tables are merged. That is forced when there are more of them than rows that are
/// left, and at least so many.
const REMOVED_ROWS_MIN: u64 = 50_000;

/// Blocks are dropped when those that may go have so many times the bytes that wait in memory: each time all that waits goes to tables.
const DROPPED_MEMTABLES: u64 = 4;

/// So much of a time in which nothing was decided counts for the age of what was before: the server was down, or its clock had been, or
/// then was, wrong. All of the past would be gone at a start, and with it what led to the end before.
const QUIET_MICROS_MAX: i64 = 24 * 3_600_000_000;

/// What does not count of the time between two batches, or from the newest one on.
pub(crate) fn uncounted(before_micros: i64, after_micros: i64) -> i64 {
    let is_first = before_micros == i64::MIN;
    if is_first { 0 } else { after_micros.saturating_sub(before_micros).saturating_sub(QUIET_MICROS_MAX).max(0) }
}

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
    /// The revision up to which blocks are in the sums by day, from the next one on, and the time of the last of them. The days say so, too, as long
    /// as they can be read.
    pub(crate) summed_to: Option<(u64, i64)>,
    /// The revision from which on there may be leavers. Without it, each call would begin at the marks that removed rows
    /// leave.
    pub(crate) leavers_from: u64,
    /// The floor up to which images have been let go.
    images_done_for: u64,
    /// Rows that were removed, and are still in tables.
    pub(crate) removed_index_rows: u64,
}

impl History {
    /// The oldest revision to keep by the settings, at a log time: everything older is beyond the age or beyond the
    /// bytes. Of a time in which nothing was decided at most a day counts.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn retention_floor(&self, now_micros: i64) -> Result<u64, ReadError> {
        let (oldest, newest, _) = self.extent();
        let (bytes_so_far, newest_micros, uncounted_micros) = {
            let writer = self.writer();
            (writer.bytes_so_far, writer.time_micros, writer.uncounted_micros)
        };
        let since_micros = uncounted(newest_micros, now_micros);
        let cut_micros = now_micros.saturating_sub(self.options().retain_micros);
        let by_age = if newest_micros > i64::MIN && newest_micros <= cut_micros.saturating_sub(since_micros) {
            newest
        } else {
            self.first_of_newest_until(cut_micros, uncounted_micros.saturating_add(since_micros))?
        };
        let by_age = by_age.max(oldest);
        let mut by_bytes = oldest;
        if let Some(gone_bytes) = bytes_so_far.checked_sub(self.options().retain_bytes).filter(|bytes| *bytes > 0) {
            let store = self.store()?;
            let from = match stored_block_holding(&store, oldest) {
                Ok(Some(block)) => keys::time(block.head().time_micros, block.head().first),
                Ok(None) => keys::time(i64::MIN, 0),
                // One whose row can't be read does not keep all that is older and younger, either: the oldest revision is a checkpoint's.
                Err(_) => keys::time(at_or_before(&store, oldest)?.map_or(i64::MIN, |found| found.time_micros), 0),
            };
            by_bytes = by_bytes.max(first_beyond(&store, gone_bytes, from)?.unwrap_or(0));
        }
        Ok(by_age.max(by_bytes).min(newest))
    }

    /// The first revision of the newest block that began up to a time, where of the time from each block on does not count what lies behind
    /// it of `uncounted_micros`; 0 if none did. None is opened, so that one that can't be read does not keep all that is older.
    fn first_of_newest_until(&self, micros: i64, uncounted_micros: i64) -> Result<u64, ReadError> {
        let mut until = micros;
        loop {
            let rows = keys::time(i64::MIN, 0)..=keys::time(until, u64::MAX);
            let Some(row) = self.store()?.last(Shelf::Index, rows)? else { return Ok(0) };
            let (time_micros, first) = time_row(&row)?;
            let block: TimeRecord = decode(Shelf::Index, &row.key, row.value)?;
            // Earlier, and than that of any later block: each time a quiet time is passed.
            until = micros.saturating_sub(uncounted_micros.saturating_sub(block.uncounted_micros));
            if time_micros <= until {
                return Ok(first);
            }
        }
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
        let target = at_or_before(&*self.store()?, keep_from)?.map_or(0, |checkpoint| checkpoint.revision);
        // Before the first revision there is nothing to let go of, and the empty cell is something to start from.
        if target > self.view().floor.max(1) {
            let mut changes = self.store()?.changes();
            changes.put_message(Shelf::Index, keys::FLOOR, &NumberRecord { number: target });
            changes.commit()?;
            // What is before it may be gone from the log as soon as it is seen.
            self.rotate(&mut writer, &[Shelf::Index])?;
            self.store()?.catch_up()?;
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
        // Whoever lost has a name among the leavers.
        let clear = |writer: &mut Writer| -> Result<bool, StoreError> {
            Ok(self.sum_up(writer, floor)? && self.clear_leavers(writer, floor)? && self.clear_blocks(writer, floor)?)
        };
        let blocks_done = clear(&mut writer);
        // Of what can't be read among rows and blocks the images need not wait: they take the most room.
        let is_their_turn = !matches!(blocks_done, Ok(false));
        let images_done = is_their_turn && self.clear_images(&mut writer, floor)?;
        blocks_done?;
        if images_done {
            self.give_back_room(&mut writer)?;
        }
        Ok(Retirement { oldest, done: images_done })
    }

    /// Removes the names of what left before the floor. True when none of them is left.
    fn clear_leavers(&self, writer: &mut Writer, floor: u64) -> Result<bool, StoreError> {
        // Blocks are cleared after the leavers of their revisions, so there are none below.
        let cleaned = number(&*self.store()?, &keys::CLEANED)?.unwrap_or(0);
        let from = writer.cleaning.leavers_from.max(cleaned);
        if from >= floor {
            return Ok(true);
        }
        let mut changes = self.store()?.changes();
        let mut removed = 0;
        let mut reached = floor;
        for row in self.store()?.rows(Shelf::Index, keys::leaver(from, 0)..=keys::leaver(floor - 1, u64::MAX)) {
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
        writer.rows_waiting_bytes += changes.bytes();
        changes.commit()?;
        // A store that only did not catch up in time goes on with this writer.
        writer.cleaning.leavers_from = reached;
        writer.cleaning.removed_index_rows += removed as u64;
        Ok(reached >= floor)
    }

    /// Removes the rows about blocks, one block after the other, and then the blocks. True when none is left.
    fn clear_blocks(&self, writer: &mut Writer, floor: u64) -> Result<bool, StoreError> {
        let mut cleaned = number(&*self.store()?, &keys::CLEANED)?.unwrap_or(0);
        let mut removed = 0;
        // Of the block before: those that follow were not decided earlier.
        let mut time_micros = i64::MIN;
        loop {
            let oldest = oldest_from(&*self.store()?, cleaned, time_micros)?;
            let Some((block, unread)) = oldest.filter(|(block, _)| block.last < floor) else { break };
            if removed >= ROWS_PER_CALL {
                return Ok(false);
            }
            if let Some(error) = unread {
                let (BlockHead { first, last, .. }, cause) = (block, error.to_string());
                tracing::warn!(first, last, cause, "a damaged block is retired");
            }
            let mut changes = self.store()?.changes();
            let rows = remove_rows_of(&mut changes, &block);
            (cleaned, time_micros) = (block.last + 1, block.time_micros);
            changes.put_message(Shelf::Index, keys::CLEANED, &NumberRecord { number: cleaned });
            writer.rows_waiting_bytes += changes.bytes();
            changes.commit()?;
            removed += rows;
            writer.cleaning.removed_index_rows += rows as u64;
        }
        if self.store()?.droppable_bytes(cleaned) >= DROPPED_MEMTABLES * self.options().memtable_bytes {
            // Tables leave without a trace in fjall's journal: the rows that say why must be in tables before.
            self.rotate(writer, &Shelf::ABOUT_BLOCKS)?;
            self.store()?.catch_up()?;
            self.note_durable(writer);
            self.store()?.drop_blocks_before(cleaned)?;
        }
        Ok(true)
    }

    /// Lets go of the sets of images before the one that the floor's checkpoint is in. True when none of them is left.
    fn clear_images(&self, writer: &mut Writer, floor: u64) -> Result<bool, StoreError> {
        if writer.cleaning.images_done_for == floor {
            return Ok(true);
        }
        let set = at_or_before(&*self.store()?, floor)?.map_or(0, |checkpoint| checkpoint.set.began);
        if set > 0 && !(self.store()?.drop_images_before(set)? && self.clear_old_images(writer)?) {
            return Ok(false);
        }
        let mut changes = self.store()?.changes();
        for row in self.store()?.rows(Shelf::Pages, keys::checkpoint(0)..=keys::checkpoint(floor - 1)) {
            changes.remove(Shelf::Pages, row?.key);
        }
        changes.commit()?;
        writer.cleaning.images_done_for = floor;
        Ok(true)
    }

    /// Removes images of formats up to 4, which stand in no set. True when none is left.
    fn clear_old_images(&self, writer: &mut Writer) -> Result<bool, StoreError> {
        let mut changes = self.store()?.changes();
        let old = ImageKey::first_of(0).encode()..=ImageKey::last_of(0).encode();
        for row in self.store()?.rows(Shelf::Pages, old.clone()).take(OLD_IMAGES_PER_CALL) {
            changes.remove(Shelf::Pages, row?.key);
        }
        let done = changes.bytes() == 0;
        changes.commit()?;
        // The tables tell, as nothing else would remember it after a restart, or once a reader has gone that needed them.
        if done && self.store()?.has_tables_from(Shelf::Pages, old.start()) {
            self.rotate(writer, &[Shelf::Pages])?;
            self.store()?.compact(Shelf::Pages)?;
        }
        Ok(done)
    }

    fn give_back_room(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let removed = writer.cleaning.removed_index_rows;
        if removed >= REMOVED_ROWS_MIN && removed.saturating_mul(2) >= self.store()?.rows_about(Shelf::Index) {
            self.rotate(writer, &Shelf::ABOUT_BLOCKS)?;
            self.store()?.compact(Shelf::Index)?;
            writer.cleaning.removed_index_rows = 0;
        }
        Ok(())
    }
}

/// The first block that begins at or after a revision; it does not begin before this time. One whose own row can't be read would keep all that come
/// after it: it comes with the error, and where it ends the next one's time tells.
pub(crate) fn oldest_from(
    store: &Store,
    revision: u64,
    from_micros: i64,
) -> Result<Option<(BlockHead, Option<StoreError>)>, StoreError> {
    match oldest_block_from(store, revision) {
        Err(error) if !error.may_be_sound() => {
            Ok(oldest_timed_from(store, revision, from_micros)?.map(|block| (block, Some(error))))
        }
        oldest => Ok(oldest?.map(|block| (block, None))),
    }
}

/// From a place among the rows about times on: the first revision of the oldest block up to whose end there are more bytes than these, or of the
/// newest one where none has more. None if there is no block.
///
/// However many blocks there are, at most some hundred rows are read: the sums only rise, so that what lies between can be halved. Between two
/// checkpoints, where the oldest revision can't stand, there may be any number of blocks.
pub(crate) fn first_beyond(store: &Store, bytes: u64, from: Vec<u8>) -> Result<Option<u64>, StoreError> {
    let end = keys::time(i64::MAX, u64::MAX);
    let Some(oldest) = store.first(Shelf::Index, from.clone()..=end.clone())? else { return Ok(None) };
    let Some(newest) = store.last(Shelf::Index, from..=end)? else { return Ok(None) };
    let (mut low, mut high) = (time_place(&oldest)?, time_place(&newest)?);
    let mut beyond = time_row(&newest)?.1;
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(row) = store.first(Shelf::Index, keys::time_at(middle)..=keys::time_at(high))? else {
            high = middle;
            continue;
        };
        let place = time_place(&row)?;
        let first = time_row(&row)?.1;
        let block: TimeRecord = decode(Shelf::Index, &row.key, row.value)?;
        if block.bytes_so_far > bytes {
            (beyond, high) = (first, middle);
        } else {
            low = place.saturating_add(1);
        }
    }
    Ok(Some(beyond))
}

/// Where a row about a block's time stands among all of them.
fn time_place(row: &Row) -> Result<u128, StoreError> {
    keys::time_place(&row.key).ok_or_else(|| damaged(Shelf::Index, &row.key, "its key is too short"))
}

/// Removes what the index has about a block; gives the number of rows.
fn remove_rows_of(changes: &mut Changes, block: &BlockHead) -> usize {
    let keys = [keys::time(block.time_micros, block.first), keys::summary(block.first), keys::conflicts(block.first)];
    let count = keys.len();
    keys.into_iter().for_each(|key| changes.remove(Shelf::Index, key));
    count
}
