//! How batches get in: gathered in memory, and written a block at a time with all that the index has about it.
use crate::batch::EncodedBatch;
use crate::block;
use crate::digest::{Digest, KnownMachines, Machines};
use crate::error::{StoreError, WriteError};
use crate::frames::LogRange;
use crate::history::{History, Writer};
use crate::keys::{self, Shelf};
use crate::names;
use crate::records::{BatchRecord, ConflictsRecord, NumberRecord, SummaryRecord, TimeRecord};
use crate::retire::uncounted;
use bytes::Bytes;

/// Largest batch. The log's own frames are smaller.
const BATCH_BYTES_MAX: usize = 64 << 20;

impl History {
    /// Takes batches of the log, in order. Batches that are there already are skipped, so that after a crash the log
    /// may be fed from any earlier batch on.
    ///
    /// What was taken can be read at once. It survives when [`History::durable_revision`] has reached it.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: a gap, an overlap, a batch that contradicts itself, or the store's failure. The batches before
    /// the one that is refused have been taken. After a failure of the store nothing more is taken: see [`History::reopen`].
    pub fn append(&self, batches: &[EncodedBatch]) -> Result<(), WriteError> {
        let mut writer = self.writer();
        for batch in batches {
            let (base, newest) = {
                let view = self.view();
                (view.base, view.newest)
            };
            if matches!(position(batch, base, newest, writer.time_micros)?, Position::Known) {
                continue;
            }
            if base.is_none() {
                // Where it begins is known at once: a checkpoint of a history that knows no beginning is one.
                let mut changes = self.store()?.changes();
                changes.put_message(Shelf::Index, keys::BASE, &NumberRecord { number: batch.first - 1 });
                changes.commit()?;
            }
            let range = batch.place.map(|place| LogRange { place, first: batch.first, last: batch.last });
            let joined =
                writer.gathering_range.zip(batch.place).and_then(|(range, place)| range.joined(place, batch.last));
            // A block is either one place in the log, or a copy of what has none.
            let continues = if writer.gathering_range.is_some() { joined.is_some() } else { range.is_none() };
            let uncounted_micros = uncounted(writer.time_micros, batch.time_micros);
            if writer.gathering_bytes > 0 && (!continues || uncounted_micros > 0) {
                self.close_block(&mut writer)?;
            }
            let read = |slot| {
                // Of what comes later a crash may have left rows.
                names::machine_row(&*self.store().ok()?, slot, batch.first - 1)
                    .ok()
                    .flatten()
                    .map(|(from, row)| (row.id, from))
            };
            let writes = &mut *writer;
            let base = base.unwrap_or(batch.first - 1);
            let mut machines = Machines { known: &mut writes.machines, read: &read, base };
            let digest = Digest::of(batch, &mut writes.subjects, &mut machines)?;
            writer.time_micros = batch.time_micros;
            writer.uncounted_micros = writer.uncounted_micros.saturating_add(uncounted_micros);
            writer.gathering_bytes += batch.bytes.len();
            writer.gathering_range = if uncounted_micros > 0 { range } else { joined.or(range) };
            let record = BatchRecord {
                first: batch.first,
                last: batch.last,
                time_micros: batch.time_micros,
                bytes: batch.bytes.clone(),
            };
            let gathered = self.change_view(|view| {
                view.base.get_or_insert(batch.first - 1);
                view.newest = batch.last;
                view.gathering.push(record);
                view.digest.extend(digest);
                view.gathering.len()
            });
            let full = gathered >= self.options().block_batches || writer.gathering_bytes >= self.options().block_bytes;
            if full || writer.subjects.are_many() {
                self.close_block(&mut writer)?;
                self.rotate_when_due(&mut writer)?;
            }
        }
        self.note_durable(&mut writer);
        Ok(())
    }

    /// Writes what gathered in memory as a block.
    pub(crate) fn close_block(&self, writer: &mut Writer) -> Result<(), StoreError> {
        // Readers look at both until the block is there; conflicts are many, and encoded without being copied.
        let (batches, rows, conflicts, (governs, has_news), counts) = {
            let view = self.view();
            let Digest { conflicts, rows, governs, has_news, counts } = &view.digest;
            let conflicts = ConflictsRecord::encoded(conflicts);
            let tells = (Some(*governs), Some(*has_news));
            (view.gathering.clone(), rows.clone(), conflicts, tells, Some(*counts))
        };
        let (Some(first), Some(last)) = (batches.first(), batches.last().map(|batch| batch.last)) else {
            return Ok(());
        };
        let (time_micros, first) = (first.time_micros, first.first);
        // What stands in the log takes whole sectors there.
        let bytes = writer.gathering_range.map_or(writer.gathering_bytes as u64, |range| range.place.bytes);
        let bytes_so_far = writer.bytes_so_far + bytes;
        let mut changes = self.store()?.changes();
        changes.put_message(Shelf::Index, keys::HEAD, &NumberRecord { number: last });
        let sums = TimeRecord { bytes_so_far, uncounted_micros: writer.uncounted_micros, counts };
        changes.put_message(Shelf::Index, keys::time(time_micros, first), &sums);
        let filter = Bytes::from(writer.subjects.filter());
        let summary = SummaryRecord { last, time_micros, filter, governs, has_news, ..SummaryRecord::default() };
        changes.put_message(Shelf::Filters, keys::block(first), &summary);
        if !conflicts.is_empty() {
            changes.put(Shelf::Index, keys::conflicts(first), &conflicts);
        }
        rows.into_iter().for_each(|(key, value)| changes.put(Shelf::Index, key, &value));
        let block = match &writer.gathering_range {
            Some(range) => block::placed(range, &batches),
            None => block::compressed(batches),
        };
        changes.put(Shelf::Blocks, keys::block(first), &block);
        writer.rows_waiting_bytes += changes.bytes();
        changes.commit()?;
        writer.bytes_so_far = bytes_so_far;
        writer.log_waiting_bytes += writer.gathering_bytes as u64;
        writer.gathering_bytes = 0;
        writer.gathering_range = None;
        writer.subjects.clear();
        self.change_view(|view| {
            view.gathering.clear();
            view.digest = Digest::default();
        });
        Ok(())
    }

    /// Starts to move rows and blocks to tables when enough of them wait in memory.
    pub(crate) fn rotate_when_due(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.rows_waiting_bytes >= self.options().memtable_bytes {
            self.rotate(writer, &Shelf::ABOUT_BLOCKS)?;
        }
        Ok(())
    }

    /// Starts to move these shelves to tables.
    pub(crate) fn rotate(&self, writer: &mut Writer, shelves: &[Shelf]) -> Result<(), StoreError> {
        // What was rotated before is in tables when `rotate` returns: it waits for that.
        self.store()?.rotate(shelves)?;
        if let Some(durable) = writer.rotated_to.take() {
            self.change_view(|view| view.durable = view.durable.max(durable));
        }
        if shelves.contains(&Shelf::Images) {
            writer.images_waiting_bytes = 0;
        }
        if shelves.contains(&Shelf::Blocks) {
            writer.rows_waiting_bytes = 0;
            writer.log_waiting_bytes = 0;
            let view = self.view();
            writer.rotated_to = Some(view.gathering.first().map_or(view.newest, |batch| batch.first - 1));
        }
        Ok(())
    }

    pub(crate) fn note_durable(&self, writer: &mut Writer) {
        if writer.rotated_to.is_some() && self.store().is_ok_and(|store| store.is_caught_up()) {
            let durable = writer.rotated_to.take();
            self.change_view(|view| view.durable = view.durable.max(durable.unwrap_or_default()));
        }
    }

    /// Makes everything durable, and waits for it: to be called before a planned end.
    ///
    /// # Errors
    ///
    /// [`WriteError::Store`].
    pub fn persist(&self) -> Result<(), WriteError> {
        let mut writer = self.writer();
        self.close_block(&mut writer)?;
        self.rotate(&mut writer, &Shelf::ALL)?;
        self.store()?.catch_up()?;
        self.note_durable(&mut writer);
        Ok(())
    }

    /// Gives up the revisions between what is there and a newer checkpoint: for when the log they would be read from
    /// has grown too long, or is gone. Waits until that is durable. From then on the history continues after the
    /// checkpoint, and what is before it is retired. It wants names then: see [`History::settle_names`].
    ///
    /// # Errors
    ///
    /// [`WriteError::Behind`] if there is no checkpoint at this revision, or it is not newer than what is there;
    /// [`WriteError::Store`].
    pub fn leap_to(&self, checkpoint_revision: u64) -> Result<(), WriteError> {
        let mut writer = self.writer();
        let newest = self.view().newest;
        let found = self.newest_checkpoint().filter(|info| info.revision == checkpoint_revision);
        let Some(info) = found.filter(|info| info.revision > newest) else {
            return Err(WriteError::Behind { revision: checkpoint_revision, newest });
        };
        self.close_block(&mut writer)?;
        let mut changes = self.store()?.changes();
        for key in [keys::BASE, keys::HEAD, keys::FLOOR, keys::UNNAMED] {
            changes.put_message(Shelf::Index, key, &NumberRecord { number: info.revision });
        }
        changes.commit()?;
        self.rotate(&mut writer, &Shelf::ABOUT_BLOCKS)?;
        self.store()?.catch_up()?;
        writer.rotated_to = None;
        writer.time_micros = writer.time_micros.max(info.time_micros);
        writer.machines = KnownMachines::default();
        self.change_view(|view| {
            view.base = Some(info.revision);
            view.floor = info.revision;
            view.newest = info.revision;
            view.durable = info.revision;
        });
        Ok(())
    }
}

enum Position {
    Known,
    Next,
}

/// Where a batch belongs.
fn position(batch: &EncodedBatch, base: Option<u64>, newest: u64, time_micros: i64) -> Result<Position, WriteError> {
    let malformed = |what: String| Err(WriteError::Malformed { revision: batch.first, what });
    if batch.first == 0 || batch.first > batch.last || batch.last == u64::MAX {
        return malformed(format!(
            "it goes from {} to {}; expected at least 1, and not backwards",
            batch.first, batch.last
        ));
    }
    if base.is_some() && batch.last <= newest {
        return Ok(Position::Known);
    }
    if base.is_some() && batch.first <= newest {
        return Err(WriteError::Overlap { first: batch.first, last: batch.last, newest });
    }
    if base.is_some() && batch.first != newest + 1 {
        return Err(WriteError::Gap { expected: newest + 1, found: batch.first });
    }
    if batch.time_micros < time_micros {
        return malformed(format!("its time is {}, and the one before had {time_micros}", batch.time_micros));
    }
    if batch.bytes.len() > BATCH_BYTES_MAX {
        return malformed(format!("it has {} bytes; expected at most {BATCH_BYTES_MAX}", batch.bytes.len()));
    }
    Ok(Position::Next)
}
