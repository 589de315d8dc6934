//! Checkpoints: images of the pages that changed, and a record that says that all are there.
//!
//! An image is the truth about its page at its revision, whether a record follows or not. So images are written in
//! pieces, and only the record makes them a checkpoint: a crash before it leaves the one before valid, and images that
//! are merely true.
use crate::block::key_number;
use crate::error::{ReadError, StoreError, WriteError};
use crate::history::{History, Writer};
use crate::keys::{self, ImageKey, Shelf};
use crate::records::{CheckpointRecord, NumberRecord};
use crate::store::{IMAGE_BYTES_MAX, Row, SealedRow, Snapshot, Store, damaged, decode};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Images are committed in pieces of about this size.
const COMMIT_BYTES: u64 = 512 << 10;
/// Rows and blocks that wait in memory go to tables with a checkpoint if they are at least so many bytes. Each time
/// makes a table that is never merged, so not at each checkpoint of a quiet cell.
const ROWS_BYTES_MIN: u64 = 1 << 20;
/// Or if they tell of so many bytes of the log: as long as no table has them, it can't be given up.
const LOG_BYTES_MIN: u64 = 4 << 20;

/// A page as it is at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageImage {
    /// The number of its `Table`.
    pub table: u8,
    /// Its number in the table.
    pub number: u32,
    /// The encoded `Page`. At most 64 MiB.
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
    /// Records the cell as it is at `revision`: images of all pages that changed since the last checkpoint (of all
    /// pages, at the first), in any order, and how many pages each table has. Waits until the checkpoint is durable.
    ///
    /// It may be ahead of the batches: then it serves recovery at once, and readers when they have come. A history without
    /// any batch continues from its first checkpoint.
    ///
    /// # Errors
    ///
    /// [`WriteError::Behind`] of an old revision, [`WriteError::PageMissing`] if a page that
    /// the last checkpoint hadn't is not among `pages`, [`WriteError::Malformed`], [`WriteError::Store`]. The
    /// checkpoint before then stays the newest.
    pub fn checkpoint(
        &self,
        revision: u64,
        time_micros: i64,
        live: &[TablePages],
        pages: impl IntoIterator<Item = PageImage>,
    ) -> Result<CheckpointInfo, WriteError> {
        let mut writer = self.writer();
        self.check_checkpoint(revision, live)?;
        let mut missing = new_pages(self.newest_checkpoint().as_ref(), live);
        let (images, image_bytes) = self.write_images(&mut writer, revision, live, pages, &mut missing)?;
        if let Some((table, page)) = missing.pop_first() {
            return Err(WriteError::PageMissing { revision, table, page });
        }
        let info = CheckpointInfo { revision, time_micros, live: live.to_vec(), images, image_bytes };
        let mut changes = self.store().changes();
        changes.put_message(Shelf::Pages, keys::checkpoint(revision), &record(&info));
        let begins = self.view().base.is_none();
        if begins {
            changes.put_message(Shelf::Index, keys::BASE, &NumberRecord { number: revision });
            changes.put_message(Shelf::Index, keys::HEAD, &NumberRecord { number: revision });
        }
        changes.commit()?;
        // Not synced: what goes to tables below is durable there, and nothing else of it is relied on. The journal is mostly deleted
        // before the system would have written it, and a sync of it makes the log, on the same disk, wait for all that was not.
        let waiting = writer.rows_waiting_bytes >= ROWS_BYTES_MIN
            || writer.log_waiting_bytes + writer.gathering_bytes as u64 >= LOG_BYTES_MIN;
        if begins || waiting {
            self.close_block(&mut writer)?;
            self.rotate(&mut writer, &Shelf::ALL)?;
        } else {
            self.rotate(&mut writer, &[Shelf::Pages])?;
        }
        self.store().catch_up()?;
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
        self.change_view(|view| view.checkpoint = Some(info.clone()));
        Ok(info)
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

    /// Writes images in pieces; gives their number and their bytes.
    fn write_images(
        &self,
        writer: &mut Writer,
        revision: u64,
        live: &[TablePages],
        pages: impl IntoIterator<Item = PageImage>,
        missing: &mut BTreeSet<(u8, u32)>,
    ) -> Result<(u64, u64), WriteError> {
        let (mut images, mut image_bytes) = (0, 0);
        let mut changes = self.store().changes();
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
            let key = ImageKey { table: page.table, page: page.number, revision };
            changes.put(Shelf::Pages, key.encode(), &page.bytes);
            images += 1;
            image_bytes += page.bytes.len() as u64;
            if changes.bytes() >= COMMIT_BYTES {
                let full = std::mem::replace(&mut changes, self.store().changes());
                writer.pages_waiting_bytes += full.bytes();
                full.commit()?;
                if writer.pages_waiting_bytes >= self.options().memtable_bytes {
                    self.rotate(writer, &[Shelf::Pages])?;
                }
            }
        }
        writer.pages_waiting_bytes += changes.bytes();
        changes.commit()?;
        Ok((images, image_bytes))
    }

    /// The newest complete checkpoint at or before a revision.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn checkpoint_at_or_before(&self, revision: u64) -> Result<Option<CheckpointInfo>, ReadError> {
        Ok(at_or_before(self.store(), revision)?)
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
        if let Some(checkpoint) = at_or_before(self.store(), revision)?.filter(|found| found.revision >= floor) {
            return Ok(StartingPoint::Checkpoint(checkpoint));
        }
        if floor == 0 && base.is_none_or(|base| base == 0) {
            return Ok(StartingPoint::Empty);
        }
        Err(ReadError::Retired { asked: revision, oldest })
    }

    /// The pages of a checkpoint, ordered by table and number: of each its newest image at or before it. Holds one page
    /// at a time. To be used up soon: while it lives, retired images keep their room.
    ///
    /// # Errors
    ///
    /// [`ReadError::Retired`] or [`ReadError::NotThere`] if there is no checkpoint at exactly this revision,
    /// [`ReadError::Store`].
    pub fn pages_at(&self, checkpoint_revision: u64) -> Result<PagesAt, ReadError> {
        let snapshot = self.store().snapshot();
        let key = keys::checkpoint(checkpoint_revision);
        let found = snapshot.first_page(key.clone()..=key)?;
        let (newest, oldest, floor) = {
            let view = self.view();
            (view.newest, view.oldest(), view.floor)
        };
        if checkpoint_revision < floor {
            return Err(ReadError::Retired { asked: checkpoint_revision, oldest });
        }
        let Some(row) = found else { return Err(ReadError::NotThere { asked: checkpoint_revision, newest }) };
        let info = info(row)?;
        let mut live = info.live;
        live.sort_by_key(|table| table.table);
        Ok(PagesAt {
            images: Images { snapshot, revision: checkpoint_revision, scan: None },
            live,
            table: 0,
            page: 0,
            failed: false,
        })
    }
}

/// The pages of a checkpoint. See [`History::pages_at`].
pub struct PagesAt {
    images: Images,
    live: Vec<TablePages>,
    /// Where it stands: position in `live`, and number of the next page.
    table: usize,
    page: u32,
    failed: bool,
}

/// Images that are passed over, before the next page's is looked up: a look-up takes as long as some five of them.
const PASSED_MAX: usize = 8;

/// Images in the order of pages: of each its newest one up to a revision.
struct Images {
    snapshot: Snapshot,
    revision: u64,
    /// All images from some page on; none before the first one is asked for, and behind a page that has too many.
    scan: Option<Scan>,
}

type Scan = std::iter::Peekable<Box<dyn Iterator<Item = Result<SealedRow, StoreError>> + Send>>;

impl Images {
    /// The image of a page that comes after all that were asked for before.
    fn of(&mut self, table: u8, page: u32) -> Result<PageImage, StoreError> {
        let key = |revision| ImageKey { table, page, revision }.encode();
        let (first, last) = (key(0), key(self.revision));
        let found = match self.pass(&first, &last)? {
            Passed::All(newest) => newest.map(|row| row.open()).transpose()?,
            Passed::TooMany => {
                self.scan = None;
                self.snapshot.last_page(first..=last.clone())?.map(|row| row.value)
            }
        };
        match found {
            Some(bytes) => Ok(PageImage { table, number: page, bytes }),
            None => Err(damaged(Shelf::Pages, &last, "it has no image up to that revision")),
        }
    }

    /// Passes all images up to `last`, and gives the newest one from `first` on.
    fn pass(&mut self, first: &[u8], last: &[u8]) -> Result<Passed, StoreError> {
        let scan = self.scan.get_or_insert_with(|| {
            let end = ImageKey { table: u8::MAX, page: u32::MAX, revision: u64::MAX };
            let rows: Box<dyn Iterator<Item = _> + Send> = Box::new(self.snapshot.pages(first.to_vec()..=end.encode()));
            rows.peekable()
        });
        let is_next = |row: &Result<SealedRow, StoreError>| row.as_ref().map_or(true, |row| *row.key <= *last);
        let mut newest = None;
        for _ in 0..=PASSED_MAX {
            match scan.next_if(is_next).transpose()? {
                Some(row) => newest = Some(row).filter(|row| *row.key >= *first),
                None => return Ok(Passed::All(newest)),
            }
        }
        Ok(Passed::TooMany)
    }
}

/// What was found on the way.
enum Passed {
    All(Option<SealedRow>),
    /// There are more of them than it is worth to pass.
    TooMany,
}

impl Iterator for PagesAt {
    type Item = Result<PageImage, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(table) = self.live.get(self.table).filter(|_| !self.failed) {
            if self.page >= table.pages {
                self.table += 1;
                self.page = 0;
                continue;
            }
            let image = self.images.of(table.table, self.page);
            self.page += 1;
            self.failed = image.is_err();
            return Some(image.map_err(ReadError::from));
        }
        None
    }
}

/// The newest complete checkpoint of a store, at or before a revision.
pub(crate) fn at_or_before(store: &Store, revision: u64) -> Result<Option<CheckpointInfo>, StoreError> {
    store.last(Shelf::Pages, keys::checkpoint(0)..=keys::checkpoint(revision))?.map(info).transpose()
}

/// Pages that the checkpoint before didn't have.
fn new_pages(before: Option<&CheckpointInfo>, live: &[TablePages]) -> BTreeSet<(u8, u32)> {
    let had =
        |table: u8| before.and_then(|info| info.live.iter().find(|had| had.table == table)).map_or(0, |had| had.pages);
    live.iter().flat_map(|table| (had(table.table)..table.pages).map(|page| (table.table, page))).collect()
}

fn record(info: &CheckpointInfo) -> CheckpointRecord {
    CheckpointRecord {
        time_micros: info.time_micros,
        images: info.images,
        image_bytes: info.image_bytes,
        tables: info.live.iter().map(|table| u32::from(table.table)).collect(),
        pages: info.live.iter().map(|table| table.pages).collect(),
    }
}

fn info(row: Row) -> Result<CheckpointInfo, StoreError> {
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
    })
}
