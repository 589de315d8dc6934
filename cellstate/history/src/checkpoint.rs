//! Checkpoints: images of the pages that changed, and a record that says that all are there.
//!
//! A set begins with images of all pages; later checkpoints add images of what changed, until a new one is worth it. Nothing outside of a
//! set is needed to read its checkpoints: so sets are retired as wholes, which costs nothing, and as they follow each other their tables
//! are hardly ever merged. What a large one begins with is a file, see `image_files.rs`.
//!
//! Images are written in pieces, and only the record makes them a checkpoint: a crash before it leaves the one before valid. Images that were
//! left without a record are the truth about their revision, and of no use for a later one: a page that was changed, and changed back, is
//! no page that differs from the checkpoint before, and theirs would be taken for it. So nothing is added to a set that has such images.
use crate::block::key_number;
use crate::error::{ReadError, StoreError, WriteError};
use crate::history::{History, Writer};
use crate::image_files::Draft;
use crate::keys::{self, ImageKey, Shelf};
use crate::records::{CheckpointRecord, NumberRecord};
use crate::store::{IMAGE_BYTES_MAX, Row, Store, damaged, decode};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Images are committed in pieces of about this size.
const COMMIT_BYTES: u64 = 512 << 10;
/// Rows and blocks that wait in memory go to tables with a checkpoint if they are at least so many bytes. Each time
/// makes a table that is never merged, so not at each checkpoint of a quiet cell.
const ROWS_BYTES_MIN: u64 = 1 << 20;
/// Or if they tell of so many bytes of the log: as long as no table has them, it can't be given up.
const LOG_BYTES_MIN: u64 = 4 << 20;
/// Most checkpoints among which others are looked for when one can't be read.
const STARTS_LOOKED_AT_MAX: usize = 1 << 16;

/// A page as it is at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageImage {
    /// The number of its `Table`.
    pub table: u8,
    /// Its number in the table.
    pub number: u32,
    /// The encoded `Page`, or columns of it: what begins with a byte of 1 to 7, as no message does, is not compressed. At most 64 MiB.
    pub bytes: Bytes,
}

/// How many pages a table has: those from 0 to `pages` − 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablePages {
    /// The number of the `Table`.
    pub table: u8,
    /// How many.
    pub pages: u32,
}

/// A complete checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// The revision that it shows.
    pub revision: u64,
    /// The log time of that revision.
    pub time_micros: i64,
    /// The tables that have pages.
    pub live: Vec<TablePages>,
    /// How many images were written for it; the others are from checkpoints before.
    pub images: u64,
    /// The bytes of these images.
    pub image_bytes: u64,
    /// Where its images are.
    pub(crate) set: ImageSet,
}

impl CheckpointInfo {
    /// Its set: checkpoints of the same set are read from the same images. It is named after the one that it began with; 0 is of formats up to 4,
    /// which had no sets.
    #[must_use]
    pub fn set(&self) -> u64 {
        self.set.began
    }

    /// How many pages a table has; none if it knows of no such table.
    fn pages_of(&self, table: u8) -> Option<u32> {
        self.live.iter().find(|had| had.table == table).map(|had| had.pages)
    }
}

/// Images that come and go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageSet {
    /// The checkpoint that it began with. 0: formats up to 4, which had no sets.
    pub(crate) began: u64,
    /// Bytes of the images of all pages that it began with.
    pub(crate) whole_bytes: u64,
    /// Bytes of all images that were added since.
    pub(crate) added_bytes: u64,
    /// Whether those that it began with are in a file of their own.
    pub(crate) in_file: bool,
}

/// What the cell at a revision is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartingPoint {
    /// An empty cell, and all deltas from revision 1 on.
    Empty,
    /// The pages of this checkpoint, and the deltas after it.
    Checkpoint(CheckpointInfo),
}

impl History {
    /// Whether the next checkpoint, of tables with as many pages as `live` says, of which `changed` differ, should have images of all pages, and
    /// begin a set with them: when there is none to add to, when most pages have changed, or when what was added comes to as much as the
    /// set began with. So what is written is at most some twice of what changes. Besides where a table is there that the version that
    /// wrote the newest checkpoint had not, and in a set with images of a checkpoint that was cut off, for which
    /// the set is looked through once after each opening.
    #[must_use]
    pub fn wants_all_pages(&self, changed: usize, live: &[TablePages]) -> bool {
        let all = live.iter().fold(0_usize, |all, table| all.saturating_add(table.pages as usize));
        self.newest_checkpoint().is_none_or(|newest| {
            newest.set.began == 0
                || changed.saturating_mul(2) >= all
                || newest.set.added_bytes >= newest.set.whole_bytes
                || live.iter().any(|table| newest.pages_of(table.table).is_none())
                || !self.may_add_to(&newest, &mut self.writer())
        })
    }

    /// Whether all images of a checkpoint's set are of checkpoints up to it, which is the newest one.
    fn may_add_to(&self, newest: &CheckpointInfo, writer: &mut Writer) -> bool {
        let set = newest.set.began;
        if writer.sound_set != Some(set) {
            match self.newest_image_of(set) {
                Ok(image) if image <= newest.revision => writer.sound_set = Some(set),
                Ok(image) => {
                    let revision = newest.revision;
                    tracing::info!(image, revision, "a checkpoint was cut off; the next one is of all pages");
                }
                // A set of its own needs nothing that can't be read.
                Err(error) => {
                    let cause = &error as &dyn std::error::Error;
                    tracing::warn!(cause, "images can't be read; the next checkpoint is of all pages");
                }
            }
        }
        writer.sound_set == Some(set)
    }

    /// The newest revision that an image of a set is of; 0 if it has none.
    fn newest_image_of(&self, set: u64) -> Result<u64, StoreError> {
        let keys = ImageKey::first_of(set).encode()..=ImageKey::last_of(set).encode();
        self.store()?.snapshot().images(set, keys).try_fold(0, |newest, row| {
            let image = ImageKey::decode(&row?.key).map_or(u64::MAX, |image| image.revision);
            Ok(image.max(newest))
        })
    }

    /// Records the cell as it is at `revision`: images of all its pages, in any order, and how many each table has. Otherwise as
    /// [`History::checkpoint`].
    ///
    /// # Errors
    ///
    /// As [`History::checkpoint`]; [`WriteError::PageMissing`] of any page.
    pub fn checkpoint_of_all(
        &self,
        revision: u64,
        time_micros: i64,
        live: &[TablePages],
        pages: impl IntoIterator<Item = PageImage>,
    ) -> Result<CheckpointInfo, WriteError> {
        self.add_checkpoint(None, revision, time_micros, live, pages).inspect_err(|error| self.note_failure(error))
    }

    /// Records the cell as it is at `revision`: images of all pages that changed since the last checkpoint (of all
    /// pages, at the first, and where [`History::wants_all_pages`] says so), in any order, and how many pages each table has. Waits until the checkpoint is durable.
    ///
    /// Batches may be taken while `pages` gives its pages, as by who gives them. It may be ahead of the batches: then it serves recovery at once, and readers when they have come. A history without
    /// any batch continues from its first checkpoint that is whole, and wants names then: see [`History::settle_names`].
    ///
    /// # Errors
    ///
    /// [`WriteError::Behind`] of a revision older than the last checkpoint's, also where that came meanwhile, [`WriteError::PageMissing`] if a page that
    /// the last checkpoint hadn't is not among `pages`, [`WriteError::Malformed`], [`WriteError::Store`]. The
    /// checkpoint before then stays the newest.
    pub fn checkpoint(
        &self,
        revision: u64,
        time_micros: i64,
        live: &[TablePages],
        pages: impl IntoIterator<Item = PageImage>,
    ) -> Result<CheckpointInfo, WriteError> {
        let before = self.newest_checkpoint().filter(|before| before.set.began > 0);
        let before = before.filter(|before| self.may_add_to(before, &mut self.writer()));
        self.add_checkpoint(before, revision, time_micros, live, pages).inspect_err(|error| self.note_failure(error))
    }

    /// Adds a checkpoint to the set of the one before, or begins one.
    fn add_checkpoint(
        &self,
        before: Option<CheckpointInfo>,
        revision: u64,
        time_micros: i64,
        live: &[TablePages],
        pages: impl IntoIterator<Item = PageImage>,
    ) -> Result<CheckpointInfo, WriteError> {
        self.check_checkpoint(revision, live)?;
        let mut missing = new_pages(before.as_ref(), live);
        let all = live.iter().fold(0_usize, |all, table| all.saturating_add(table.pages as usize));
        let in_file = self.begins_with_file(all);
        let fresh = ImageSet { began: revision, in_file, ..ImageSet::default() };
        let begins_set = before.is_none();
        let mut set = before.map_or(fresh, |before| before.set);
        // Until there is a record of them.
        self.writer().sound_set = None;
        let Written { images, image_bytes, file } =
            self.write_images((set, begins_set), revision, live, pages, &mut missing)?;
        if let Some((table, page)) = missing.pop_first() {
            return Err(WriteError::PageMissing { revision, table, page });
        }
        let mut writer = self.writer();
        // Another one may have been recorded meanwhile.
        self.check_checkpoint(revision, live)?;
        let sum = if set.began == revision { &mut set.whole_bytes } else { &mut set.added_bytes };
        *sum = sum.saturating_add(image_bytes);
        // Fjall moves shelves to tables by itself, too, in an order of its own, when its journal has grown. So there is no record before its
        // images are in tables, or have their file: after a power cut that tears the journal it would be all that there is of the checkpoint.
        self.rotate(&mut writer, &[Shelf::Images])?;
        self.store()?.catch_up()?;
        let info = CheckpointInfo { revision, time_micros, live: live.to_vec(), images, image_bytes, set };
        // Last of all that may fail before there is a record: without its name it is removed.
        if let Some(file) = file {
            self.store()?.image_files.finish(file)?;
        }
        let mut changes = self.store()?.changes();
        changes.put_message(Shelf::Pages, keys::checkpoint(revision), &record(&info));
        let begins = self.view().base.is_none();
        if begins {
            for key in [keys::BASE, keys::HEAD, keys::UNNAMED] {
                changes.put_message(Shelf::Index, key, &NumberRecord { number: revision });
            }
        }
        changes.commit()?;
        // Not synced: what goes to tables below is durable there, and nothing else of it is relied on. The journal is mostly deleted
        // before the system would have written it, and a sync of it makes the log, on the same disk, wait for all that was not.
        if begins || much_waits(&writer) {
            self.close_block(&mut writer)?;
            self.rotate(&mut writer, &Shelf::ALL)?;
        } else {
            self.rotate(&mut writer, &[Shelf::Pages])?;
        }
        self.store()?.catch_up()?;
        if begins {
            writer.time_micros = time_micros;
            self.change_view(|view| {
                view.base = Some(revision);
                view.newest = revision;
                view.durable = revision;
            });
            writer.rotated_to = None;
        }
        self.note_durable(&mut writer);
        writer.sound_set = Some(info.set.began);
        self.change_view(|view| view.checkpoint = Some(info.clone()));
        Ok(info)
    }

    /// Makes the batches durable if so much of them waits in memory that a checkpoint would do so: for when there is none to be written, because
    /// the newest one was ahead of these batches, and nothing has changed since.
    ///
    /// # Errors
    ///
    /// [`WriteError::Store`].
    pub fn persist_when_due(&self) -> Result<(), WriteError> {
        let is_due = {
            let mut writer = self.writer();
            self.note_durable(&mut writer);
            much_waits(&writer)
        };
        if is_due { self.persist() } else { Ok(()) }
    }

    fn check_checkpoint(&self, revision: u64, live: &[TablePages]) -> Result<(), WriteError> {
        if revision == 0 || revision == u64::MAX {
            return Err(WriteError::Malformed { revision, what: "expected a revision of at least 1".to_owned() });
        }
        if let Some(before) = self.newest_checkpoint().filter(|before| before.revision > revision) {
            return Err(WriteError::Behind { revision, newest: before.revision });
        }
        let tables: BTreeSet<u8> = live.iter().map(|table| table.table).collect();
        if tables.len() != live.len() {
            return Err(WriteError::Malformed { revision, what: "a table is there twice".to_owned() });
        }
        Ok(())
    }

    /// Writes images in pieces, between which others may write; those that a set begins with in a file, where it has one, which has no name then.
    fn write_images(
        &self,
        (set, begins): (ImageSet, bool),
        revision: u64,
        live: &[TablePages],
        pages: impl IntoIterator<Item = PageImage>,
        missing: &mut BTreeSet<(u8, u32)>,
    ) -> Result<Written, WriteError> {
        let (mut images, mut image_bytes) = (0, 0);
        let mut file = if begins && set.in_file { Some(self.store()?.image_files.begin(set.began)?) } else { None };
        let mut changes = self.store()?.changes();
        for page in pages {
            let counted = live.iter().any(|table| table.table == page.table && page.number < table.pages);
            if !counted || page.bytes.len() > IMAGE_BYTES_MAX {
                let what = format!(
                    "page {} of table {} has {} bytes; expected at most {IMAGE_BYTES_MAX}, and a number in range",
                    page.number,
                    page.table,
                    page.bytes.len()
                );
                return Err(WriteError::Malformed { revision, what });
            }
            missing.remove(&(page.table, page.number));
            images += 1;
            image_bytes += page.bytes.len() as u64;
            if let Some(file) = &mut file {
                file.put(page.table, page.number, &page.bytes)?;
                continue;
            }
            let key = ImageKey { set: set.began, table: page.table, page: page.number, revision };
            changes.put(Shelf::Images, key.encode(), &page.bytes);
            if changes.bytes() >= COMMIT_BYTES {
                let full = std::mem::replace(&mut changes, self.store()?.changes());
                let mut writer = self.writer();
                writer.images_waiting_bytes += full.bytes();
                full.commit()?;
                if writer.images_waiting_bytes >= self.options().memtable_bytes {
                    self.rotate(&mut writer, &[Shelf::Images])?;
                }
            }
        }
        self.writer().images_waiting_bytes += changes.bytes();
        changes.commit()?;
        Ok(Written { images, image_bytes, file })
    }

    /// The newest complete checkpoint at or before a revision, of those that are retained.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn checkpoint_at_or_before(&self, revision: u64) -> Result<Option<CheckpointInfo>, ReadError> {
        let floor = self.view().floor;
        // What is retired may stand there still: a power cut may bring it back.
        Ok(at_or_before(&*self.store()?, revision)?.filter(|found| found.revision >= floor))
    }

    /// Where to start from to get the cell at a revision.
    ///
    /// # Errors
    ///
    /// [`ReadError::NotThere`] of a revision that is yet to come, [`ReadError::Retired`] of one that can't be had any
    /// more, [`ReadError::Store`].
    pub fn start_for(&self, revision: u64) -> Result<StartingPoint, ReadError> {
        let (newest, oldest, base, floor) = {
            let view = self.view();
            (view.newest, view.oldest(), view.base, view.floor)
        };
        if revision > newest {
            return Err(ReadError::NotThere { asked: revision, newest });
        }
        if let Some(checkpoint) = at_or_before(&*self.store()?, revision)?.filter(|found| found.revision >= floor) {
            return Ok(StartingPoint::Checkpoint(checkpoint));
        }
        if floor == 0 && base.is_none_or(|base| base == 0) {
            return Ok(StartingPoint::Empty);
        }
        Err(ReadError::Retired { asked: revision, oldest })
    }

    /// Where else to start from when the images of a checkpoint can't be read, the newest first: the checkpoint before it, the last ones of
    /// sets before its own, and the empty cell if all deltas are there. Of many sets some, further and further apart: each try takes
    /// as long as reading the cell.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn starts_before(&self, checkpoint: &CheckpointInfo) -> Result<Vec<StartingPoint>, ReadError> {
        let (base, floor) = {
            let view = self.view();
            (view.base, view.floor)
        };
        let (mut starts, mut oldest) = (Vec::new(), None);
        let (mut sets, mut next, mut passed) = (0_u64, 1, checkpoint.set.began);
        let older = keys::checkpoint(floor)..=keys::checkpoint(checkpoint.revision.saturating_sub(1));
        for row in self.store()?.rows(Shelf::Pages, older).rev().take(STARTS_LOOKED_AT_MAX) {
            let found = info(row?)?;
            let is_of_another_set = found.set.began != passed;
            passed = found.set.began;
            sets += u64::from(is_of_another_set);
            let is_due = is_of_another_set && sets >= next;
            next = if is_due { 2 * sets } else { next };
            if is_due || starts.is_empty() {
                starts.push(StartingPoint::Checkpoint(found));
                oldest = None;
            } else if is_of_another_set {
                oldest = Some(found);
            }
        }
        starts.extend(oldest.map(StartingPoint::Checkpoint));
        if floor == 0 && base.is_none_or(|base| base == 0) {
            starts.push(StartingPoint::Empty);
        }
        Ok(starts)
    }
}

/// What was written of a checkpoint before its record.
struct Written {
    images: u64,
    image_bytes: u64,
    file: Option<Draft>,
}

/// The first complete checkpoint of a store, at or after a revision.
pub(crate) fn first_from(store: &Store, revision: u64) -> Result<Option<CheckpointInfo>, StoreError> {
    store.first(Shelf::Pages, keys::checkpoint(revision)..=keys::checkpoint(u64::MAX))?.map(info).transpose()
}

/// The newest complete checkpoint of a store, at or before a revision.
pub(crate) fn at_or_before(store: &Store, revision: u64) -> Result<Option<CheckpointInfo>, StoreError> {
    store.last(Shelf::Pages, keys::checkpoint(0)..=keys::checkpoint(revision))?.map(info).transpose()
}

/// The newest complete checkpoint of a store whose record can be read. A damaged table of records hides those of before from who looks for
/// a later one; so it is looked for further and further back among the retained `revisions`, and none is needed where the
/// history `is_whole`.
pub(crate) fn newest_readable(
    store: &Store,
    revisions: RangeInclusive<u64>,
    is_whole: bool,
) -> Result<Option<CheckpointInfo>, StoreError> {
    let error = match at_or_before(store, u64::MAX) {
        Err(error) if !error.may_be_sound() => error,
        found => return found,
    };
    let (floor, newest) = revisions.into_inner();
    let backs = std::iter::successors(Some(0_u64), |back| Some(2 * back + 1));
    let befores = backs.map_while(|back| newest.checked_sub(back)).take_while(|before| *before >= floor.max(1));
    let found = befores.chain([floor]).find_map(|before| at_or_before(store, before).ok().flatten());
    let found = found.filter(|found| found.revision >= floor);
    if found.is_none() && !is_whole {
        return Err(error);
    }
    let cause = &error as &dyn std::error::Error;
    let from = found.as_ref().map_or(0, |found| found.revision);
    tracing::error!(from, cause, "the newest checkpoint can't be read; an earlier one is taken");
    Ok(found)
}

/// Whether batches that wait in memory are to go to tables with a checkpoint.
fn much_waits(writer: &Writer) -> bool {
    writer.rows_waiting_bytes >= ROWS_BYTES_MIN
        || writer.log_waiting_bytes + writer.gathering_bytes as u64 >= LOG_BYTES_MIN
}

/// Pages that the checkpoint before didn't have.
fn new_pages(before: Option<&CheckpointInfo>, live: &[TablePages]) -> BTreeSet<(u8, u32)> {
    let had = |table: u8| before.and_then(|info| info.pages_of(table)).unwrap_or(0);
    live.iter().flat_map(|table| (had(table.table)..table.pages).map(|page| (table.table, page))).collect()
}

fn record(info: &CheckpointInfo) -> CheckpointRecord {
    CheckpointRecord {
        time_micros: info.time_micros,
        images: info.images,
        image_bytes: info.image_bytes,
        tables: info.live.iter().map(|table| u32::from(table.table)).collect(),
        pages: info.live.iter().map(|table| table.pages).collect(),
        set: info.set.began,
        whole_bytes: info.set.whole_bytes,
        added_bytes: info.set.added_bytes,
        in_file: info.set.in_file,
    }
}

pub(crate) fn info(row: Row) -> Result<CheckpointInfo, StoreError> {
    let revision = key_number(Shelf::Pages, &row.key, 0)?;
    let record: CheckpointRecord = decode(Shelf::Pages, &row.key, row.value)?;
    let columns = || damaged(Shelf::Pages, &row.key, "its columns don't match");
    if record.tables.len() != record.pages.len() {
        return Err(columns());
    }
    let table = |(table, pages): (&u32, &u32)| {
        Ok(TablePages { table: u8::try_from(*table).map_err(|_| columns())?, pages: *pages })
    };
    let live = record.tables.iter().zip(&record.pages).map(table).collect::<Result<_, StoreError>>()?;
    Ok(CheckpointInfo {
        revision,
        time_micros: record.time_micros,
        live,
        images: record.images,
        image_bytes: record.image_bytes,
        set: ImageSet {
            began: record.set,
            whole_bytes: record.whole_bytes,
            added_bytes: record.added_bytes,
            in_file: record.in_file,
        },
    })
}
