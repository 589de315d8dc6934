//! The only place that knows fjall, with [`opening`] below it, and what to mind about it (version 3.1.13, pinned).
//!
//! - Its workers can lock each other up when commits post rotations to their mailbox. So no commit ever does: memtables
//!   have no limit of their own, and are rotated here, by hand. One worker then suffices, and a second one would spin
//!   while the first compacts.
//! - A torn tail of its journal makes it refuse to open, and damage in the middle makes it forget silently what
//!   follows. So its journal is never relied on: durable is what is in *tables*, and a journal that can't be read is
//!   set aside. What is lost by that is fed again from the log.
//! - When its journal has grown it rotates memtables by itself, in any order. So rows that must not be without others are written when
//!   those are in tables.
//! - Its worker merges tables only after it has written one, one step each time. Who waits for merges reminds it.
//! - Its commits sleep without end when tables or memtables pile up, even when the worker that should clear them has
//!   died. So we wait ourselves, before, with an eye on the database's health, and for a bounded time.
//! - No key-value separation, no `clear`: both break later opens.
//!
//! Each value carries a checksum over its key and itself, so that a row in the wrong place is seen, too.
mod opening;

use crate::error::StoreError;
use crate::image_files::{ImageFile, ImageFiles};
use crate::keys::{self, ImageKey, Shelf};
use crate::packing::{self, Packer};
use bytes::Bytes;
use fjall::{AbstractTree, Database, Keyspace, OwnedWriteBatch, PersistMode, Readable};
use prost::Message;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// Bytes of fjall's journal after which it is synced. Nothing relies on that; but fjall itself syncs it when it has 64 MiB, and what
/// the system has not written by then the log, which is on the same disk, has to wait for.
const SYNC_BYTES: u64 = 512 << 10;
/// Fjall slows commits down from 20 tables that wait to be merged.
const WAITING_TABLES_MAX: usize = 16;
/// Largest page image.
pub(crate) const IMAGE_BYTES_MAX: usize = plenum_proto::bounds::PAGE_BYTES_MAX;
const CATCH_UP_POLL: Duration = Duration::from_millis(2);
const CATCH_UP_POLLS_MAX: u32 = 30_000;
/// After so many of them an idle worker is reminded of what waits.
const NUDGE_POLLS: u32 = 50;

/// A row: its key and its value without checksum.
pub(crate) struct Row {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Bytes,
}

/// A row of images that may be passed over: it was not looked at whether it is damaged.
pub(crate) struct SealedRow {
    shelf: Shelf,
    pub(crate) key: fjall::Slice,
    value: fjall::Slice,
}

impl SealedRow {
    /// Its value without checksum.
    pub(crate) fn open(&self) -> Result<Bytes, StoreError> {
        unseal(self.shelf, &self.key, &self.value)
    }
}

/// The database, with a keyspace for each shelf.
pub(crate) struct Store {
    database: Database,
    index: Keyspace,
    filters: Keyspace,
    blocks: Keyspace,
    images: Keyspace,
    pages: Keyspace,
    /// Images that stand beside it.
    pub(crate) image_files: ImageFiles,
    /// Committed since fjall's journal was synced last.
    unsynced_bytes: AtomicU64,
}

impl Store {
    fn keyspace(&self, shelf: Shelf) -> &Keyspace {
        match shelf {
            Shelf::Index => &self.index,
            Shelf::Blocks => &self.blocks,
            Shelf::Filters => &self.filters,
            Shelf::Images => &self.images,
            Shelf::Pages => &self.pages,
        }
    }

    /// The row with this key.
    pub(crate) fn get(&self, shelf: Shelf, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let sealed = self.keyspace(shelf).get(key)?;
        sealed.map(|sealed| unseal(shelf, key, &sealed)).transpose()
    }

    /// The row with this key, as a message.
    pub(crate) fn message<M: Message + Default>(&self, shelf: Shelf, key: &[u8]) -> Result<Option<M>, StoreError> {
        self.get(shelf, key)?.map(|value| decode(shelf, key, value)).transpose()
    }

    /// The first row of a range of keys.
    pub(crate) fn first(&self, shelf: Shelf, keys: RangeInclusive<Vec<u8>>) -> Result<Option<Row>, StoreError> {
        self.rows(shelf, keys).next().transpose()
    }

    /// The last row of a range of keys.
    pub(crate) fn last(&self, shelf: Shelf, keys: RangeInclusive<Vec<u8>>) -> Result<Option<Row>, StoreError> {
        self.rows(shelf, keys).next_back().transpose()
    }

    /// The rows of a range of keys, as they are now. To be used up soon: it keeps what it sees from being cleared away.
    pub(crate) fn rows(
        &self,
        shelf: Shelf,
        keys: RangeInclusive<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<Row, StoreError>> + use<> {
        self.keyspace(shelf).range(keys).map(move |guard| row(shelf, guard))
    }

    /// All shelves as they are now.
    pub(crate) fn snapshot(self: &Arc<Self>) -> Snapshot {
        Snapshot { snapshot: self.database.snapshot(), store: self.clone() }
    }

    /// Changes that take effect together.
    pub(crate) fn changes(self: &Arc<Self>) -> Changes {
        Changes {
            store: self.clone(),
            batch: self.database.batch(),
            bytes: 0,
            packer: Packer::default(),
            sealed: Vec::new(),
        }
    }

    /// Starts to move what waits in memory to tables, for these shelves, in this order.
    pub(crate) fn rotate(&self, shelves: &[Shelf]) -> Result<(), StoreError> {
        self.catch_up()?;
        for shelf in shelves {
            self.keyspace(*shelf).rotate_memtable()?;
        }
        Ok(())
    }

    /// True when everything that was rotated is in tables.
    pub(crate) fn is_caught_up(&self) -> bool {
        Shelf::ALL.iter().all(|shelf| self.keyspace(*shelf).sealed_memtable_count() == 0)
    }

    /// Whether it takes no more writes since one failed. It does not say why.
    pub(crate) fn is_poisoned(&self) -> bool {
        matches!(self.database.persist(PersistMode::Buffer), Err(fjall::Error::Poisoned))
    }

    /// Waits until everything that was rotated is in tables, and not too many of them wait to be merged.
    pub(crate) fn catch_up(&self) -> Result<(), StoreError> {
        let behind = || {
            !self.is_caught_up()
                || Shelf::ALL.iter().any(|shelf| self.keyspace(*shelf).l0_table_count() > WAITING_TABLES_MAX)
        };
        for poll in 1..=CATCH_UP_POLLS_MAX {
            if !behind() {
                return Ok(());
            }
            if poll.is_multiple_of(NUDGE_POLLS) && self.is_caught_up() && self.database.active_compactions() == 0 {
                self.nudge()?;
            }
            // Says whether a worker has died: then nothing would ever change.
            self.database.persist(PersistMode::Buffer)?;
            sleep(CATCH_UP_POLL);
        }
        Err(StoreError::Stalled { waited_seconds: (CATCH_UP_POLL * CATCH_UP_POLLS_MAX).as_secs() })
    }

    /// Has the worker merge tables again where too many wait: it does one step after each table that is written, of the level that needs it
    /// most, and nothing by itself. Who waits for it writes none, and would wait for ever.
    fn nudge(&self) -> Result<(), StoreError> {
        for shelf in Shelf::ALL {
            let keyspace = self.keyspace(shelf);
            if keyspace.l0_table_count() > WAITING_TABLES_MAX {
                tracing::debug!(shelf = shelf.name(), tables = keyspace.l0_table_count(), "tables wait to be merged");
                // A table needs a row: that of nothing is taken away.
                keyspace.remove(keys::of_nothing(shelf))?;
                keyspace.rotate_memtable()?;
            }
        }
        Ok(())
    }

    /// Bytes of the tables that [`Store::drop_blocks_before`] would delete. They tell it themselves: nothing else would remember it after a restart.
    pub(crate) fn droppable_bytes(&self, first: u64) -> u64 {
        let Some(last_dropped) = first.checked_sub(1) else { return 0 };
        let (from, to) = (keys::block(0), keys::block(last_dropped));
        let mut bytes: u64 = 0;
        for keyspace in [&self.blocks, &self.filters] {
            let version = keyspace.tree.current_version();
            for table in version.iter_tables() {
                let range = &table.metadata.key_range;
                if **range.min() >= *from && **range.max() <= *to {
                    bytes = bytes.saturating_add(table.metadata.file_size);
                }
            }
        }
        bytes
    }

    /// Deletes the tables that hold nothing but blocks that begin before `first`, or filters of such. The rest of them stays.
    pub(crate) fn drop_blocks_before(&self, first: u64) -> Result<(), StoreError> {
        let Some(last_dropped) = first.checked_sub(1) else { return Ok(()) };
        let keys = keys::block(0)..=keys::block(last_dropped);
        drop_tables(&self.blocks, keys.clone())?;
        drop_tables(&self.filters, keys)
    }

    /// Deletes the tables that hold nothing but images of sets before this one, of which the rest stays, and some of the files of such sets. True when
    /// none of these is left.
    pub(crate) fn drop_images_before(&self, set: u64) -> Result<bool, StoreError> {
        let Some(last_dropped) = set.checked_sub(1).filter(|last| *last > 0) else { return Ok(true) };
        drop_tables(&self.images, keys::of_nothing(Shelf::Images)..=ImageKey::last_of(last_dropped).encode())?;
        self.image_files.remove_before(set)
    }

    /// Merges all tables of a shelf, so that the room of removed rows is given back: of those that were rotated, too, for which it waits.
    pub(crate) fn compact(&self, shelf: Shelf) -> Result<(), StoreError> {
        self.catch_up()?;
        Ok(self.keyspace(shelf).major_compact()?)
    }

    /// Whether a shelf has tables with rows from this key on, removed ones and their marks too.
    pub(crate) fn has_tables_from(&self, shelf: Shelf, key: &[u8]) -> bool {
        self.keyspace(shelf).tree.current_version().iter_tables().any(|table| **table.metadata.key_range.max() >= *key)
    }

    /// Reads all rows of all shelves, and then their tables as files, as long as `goes_on`: what can't be read first, or is not as it was
    /// written, is the error. Rows go first, as their errors tell more; but who reads one after the other passes by the filters of
    /// tables, by which rows are looked for.
    pub(crate) fn read_all(&self, goes_on: impl Fn() -> bool) -> Result<(), StoreError> {
        for shelf in Shelf::ALL {
            for guard in self.keyspace(shelf).iter() {
                row(shelf, guard)?;
                if !goes_on() {
                    return Ok(());
                }
            }
            // While it is held, none of its tables is deleted.
            let version = self.keyspace(shelf).tree.current_version();
            for table in version.iter_tables() {
                check_table(&table.path, table.checksum().into_u128())?;
                if !goes_on() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Rows of a shelf, removed ones and their marks counted too.
    pub(crate) fn rows_about(&self, shelf: Shelf) -> u64 {
        self.keyspace(shelf).approximate_len() as u64
    }

    /// Whether nothing of a shelf is only in memory and in the journal.
    #[cfg(test)]
    pub(crate) fn is_all_in_tables(&self, shelf: Shelf) -> bool {
        let keyspace = self.keyspace(shelf);
        keyspace.tree.active_memtable().is_empty() && keyspace.sealed_memtable_count() == 0
    }

    /// Waits until the worker has had nothing to do for a while.
    #[cfg(test)]
    pub(crate) fn wait_until_idle(&self) {
        let mut quiet = 0;
        while quiet < 10 {
            let is_idle = self.is_caught_up() && self.database.active_compactions() == 0;
            quiet = if is_idle { quiet + 1 } else { 0 };
            sleep(Duration::from_millis(2));
        }
    }

    /// Bytes of a shelf's tables.
    pub(crate) fn bytes_in_tables(&self, shelf: Shelf) -> u64 {
        self.keyspace(shelf).disk_space()
    }

    /// Bytes on disk, without fjall's journal.
    pub(crate) fn disk_bytes(&self) -> u64 {
        Shelf::ALL.iter().map(|shelf| self.bytes_in_tables(*shelf)).sum::<u64>() + self.image_files.bytes()
    }
}

/// All shelves as they were at one moment. While it lives, nothing that it sees is cleared away.
pub(crate) struct Snapshot {
    snapshot: fjall::Snapshot,
    store: Arc<Store>,
}

impl Snapshot {
    /// The first row of a range of keys of the pages.
    pub(crate) fn first_page(&self, keys: RangeInclusive<Vec<u8>>) -> Result<Option<Row>, StoreError> {
        self.snapshot.range(&self.store.pages, keys).next().map(|guard| row(Shelf::Pages, guard)).transpose()
    }

    /// The keyspace of images of a set.
    fn images_of(&self, set: u64) -> (Shelf, &Keyspace) {
        match ImageKey::shelf(set) {
            Shelf::Images => (Shelf::Images, &self.store.images),
            shelf => (shelf, &self.store.pages),
        }
    }

    /// The file of images that a set begins with.
    pub(crate) fn image_file(&self, set: u64) -> Result<ImageFile, StoreError> {
        self.store.image_files.read(set)
    }

    /// The images of a set in a range of keys, rising.
    pub(crate) fn images(
        &self,
        set: u64,
        keys: RangeInclusive<Vec<u8>>,
    ) -> impl Iterator<Item = Result<SealedRow, StoreError>> + use<> {
        let (shelf, keyspace) = self.images_of(set);
        self.snapshot.range(keyspace, keys).map(move |guard| {
            let (key, value) = guard.into_inner()?;
            Ok(SealedRow { shelf, key, value })
        })
    }

    /// The last image of a set in a range of keys.
    pub(crate) fn last_image(&self, set: u64, keys: RangeInclusive<Vec<u8>>) -> Result<Option<Row>, StoreError> {
        let (shelf, keyspace) = self.images_of(set);
        self.snapshot.range(keyspace, keys).next_back().map(|guard| row(shelf, guard)).transpose()
    }
}

/// Changes that take effect together, or not at all.
pub(crate) struct Changes {
    store: Arc<Store>,
    batch: OwnedWriteBatch,
    bytes: u64,
    packer: Packer,
    /// The value that is being made, with its checksum.
    sealed: Vec<u8>,
}

impl Changes {
    /// Writes a row.
    pub(crate) fn put(&mut self, shelf: Shelf, key: impl Into<Vec<u8>>, value: &[u8]) {
        let key = key.into();
        self.sealed.clear();
        if has_images(shelf) {
            self.packer.pack(value, &mut self.sealed);
        } else {
            self.sealed.extend_from_slice(value);
        }
        let checksum = checksum(&key, &self.sealed);
        self.sealed.extend_from_slice(&checksum.to_be_bytes());
        self.bytes += (key.len() + self.sealed.len()) as u64;
        self.batch.insert(self.store.keyspace(shelf), key, self.sealed.as_slice());
    }

    /// Writes a row that is a message.
    pub(crate) fn put_message(&mut self, shelf: Shelf, key: impl Into<Vec<u8>>, message: &impl Message) {
        self.put(shelf, key, &message.encode_to_vec());
    }

    /// Removes a row.
    pub(crate) fn remove(&mut self, shelf: Shelf, key: impl Into<Vec<u8>>) {
        let key = key.into();
        self.bytes += key.len() as u64;
        self.batch.remove(self.store.keyspace(shelf), key);
    }

    /// Bytes of keys and values so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts the changes into effect. They survive a crash of this process, but not yet a power cut.
    pub(crate) fn commit(self) -> Result<(), StoreError> {
        let Self { store, batch, bytes, .. } = self;
        store.catch_up_on_tables()?;
        batch.commit()?;
        let unsynced = store.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unsynced >= SYNC_BYTES {
            store.unsynced_bytes.store(0, Ordering::Relaxed);
            store.database.persist(PersistMode::SyncData)?;
        }
        Ok(())
    }
}

impl Store {
    /// Waits only where fjall would: flushing may go on beside commits, but no more than one memtable may wait for it.
    fn catch_up_on_tables(&self) -> Result<(), StoreError> {
        let crowded = Shelf::ALL.iter().any(|shelf| {
            let keyspace = self.keyspace(*shelf);
            keyspace.sealed_memtable_count() > 2 || keyspace.l0_table_count() > WAITING_TABLES_MAX
        });
        if crowded { self.catch_up() } else { Ok(()) }
    }
}

/// Compares a table with the sum that the list of tables has of it, and at which fjall does not look.
fn check_table(path: &Path, sum: u128) -> Result<(), StoreError> {
    let bytes = std::fs::read(path).map_err(|error| StoreError::Failed(error.into()))?;
    if xxhash_rust::xxh3::xxh3_128(&bytes) == sum {
        return Ok(());
    }
    Err(StoreError::Damaged {
        key: format!("the table {}", path.display()),
        what: "it is not as it was written".to_owned(),
    })
}

/// Deletes the tables that have no key outside of a range.
fn drop_tables(keyspace: &Keyspace, keys: RangeInclusive<Vec<u8>>) -> Result<(), StoreError> {
    keyspace.tree.drop_range(keys).map_err(|error| StoreError::Failed(error.into()))
}

fn row(shelf: Shelf, guard: fjall::Guard) -> Result<Row, StoreError> {
    let (key, sealed) = guard.into_inner()?;
    Ok(Row { value: unseal(shelf, &key, &sealed)?, key: key.to_vec() })
}

/// Whether values of a shelf may be compressed images.
fn has_images(shelf: Shelf) -> bool {
    matches!(shelf, Shelf::Images | Shelf::Pages)
}

/// Decodes a row's value.
pub(crate) fn decode<M: Message + Default>(shelf: Shelf, key: &[u8], value: Bytes) -> Result<M, StoreError> {
    M::decode(value).map_err(|error| damaged(shelf, key, &format!("it is no message that was ever written: {error}")))
}

/// A row is not what it should be.
pub(crate) fn damaged(shelf: Shelf, key: &[u8], what: &str) -> StoreError {
    StoreError::Damaged { key: keys::describe(shelf, key), what: what.to_owned() }
}

pub(crate) fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

pub(crate) fn unseal(shelf: Shelf, key: &[u8], sealed: &[u8]) -> Result<Bytes, StoreError> {
    match sealed.split_last_chunk() {
        Some((value, found)) if u32::from_be_bytes(*found) == checksum(key, value) => {
            let unpacked = if has_images(shelf) { packing::unpacked(value, IMAGE_BYTES_MAX) } else { None };
            match unpacked {
                Some(unpacked) => unpacked.map(Bytes::from).map_err(|what| damaged(shelf, key, &what)),
                None => Ok(Bytes::copy_from_slice(value)),
            }
        }
        Some(_) => Err(damaged(shelf, key, "its checksum is wrong")),
        None => Err(damaged(shelf, key, "it is too short to have a checksum")),
    }
}
