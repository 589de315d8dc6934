//! A history: what there is of it, and opening it.
use crate::block::{newest_block, newest_block_until, time_row};
use crate::checkpoint::{self, CheckpointInfo};
use crate::digest::{Digest, KnownMachines};
use crate::error::{OpenError, ReadError, StoreError, WriteError};
use crate::filter::Subjects;
use crate::frames::LogRange;
use crate::identity;
use crate::keys::{self, Shelf};
use crate::options::{Opened, Options};
use crate::records::{BatchRecord, NumberRecord, TimeRecord};
use crate::retire::Cleaning;
use crate::store::{Store, decode};
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long those who read are waited for before the store is opened again, and how often is looked.
const READERS_PATIENCE: Duration = Duration::from_secs(2);
const READERS_POLL: Duration = Duration::from_millis(2);

/// The history of a cell. A handle: clones are the same history. Reading is possible from any thread at any time;
/// writing takes turns, and is meant for one background thread, as it waits for the disk.
#[derive(Clone)]
pub struct History {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    options: Options,
    /// Ordering: taken before `view`, never the other way round.
    writer: Mutex<Writer>,
    /// Never held while the store is used.
    view: RwLock<View>,
    /// None while it is being opened again. Taken and put back by who has the writer.
    store: RwLock<Option<Arc<Store>>>,
    /// Why there is none, where nothing but another world would help. Changed by who has the writer.
    closed: RwLock<Option<String>>,
    /// A file of images could not be written, and not for want of room: sets begin in the store, for as long as this process has the history.
    files_fail: AtomicBool,
}

/// What readers may see.
pub(crate) struct View {
    /// The first batch ever came after this revision. None: none came yet.
    pub(crate) base: Option<u64>,
    /// What is older has been retired. 0: nothing has.
    pub(crate) floor: u64,
    /// The newest revision. What rows say of later ones is not to be trusted: they were written before a crash.
    pub(crate) newest: u64,
    /// Up to here, everything is in tables.
    pub(crate) durable: u64,
    /// The newest complete and durable checkpoint.
    pub(crate) checkpoint: Option<CheckpointInfo>,
    /// Batches that will be the next block, up to `newest`. They are lost in a crash, and fed again.
    pub(crate) gathering: Vec<BatchRecord>,
    /// What the index will have about them.
    pub(crate) digest: Digest,
}

impl View {
    /// The oldest revision whose batch is there.
    pub(crate) fn oldest(&self) -> u64 {
        self.base.map_or(0, |base| self.floor.max(base.saturating_add(1)))
    }

    /// Whether a revision can be read.
    pub(crate) fn check(&self, asked: u64) -> Result<(), ReadError> {
        if asked == 0 || asked > self.newest || self.base.is_none() {
            Err(ReadError::NotThere { asked, newest: self.newest })
        } else if asked < self.oldest() {
            Err(ReadError::Retired { asked, oldest: self.oldest() })
        } else {
            Ok(())
        }
    }
}

/// What only writing needs.
pub(crate) struct Writer {
    /// Bytes of `View::gathering`.
    pub(crate) gathering_bytes: usize,
    /// Where the batches of `View::gathering` stand in the log; none if there are none, or they stand in no such place.
    pub(crate) gathering_range: Option<LogRange>,
    /// What they are about.
    pub(crate) subjects: Subjects,
    /// The newest batch's time.
    pub(crate) time_micros: i64,
    /// Bytes of all batches that are in blocks.
    pub(crate) bytes_so_far: u64,
    /// Of the time up to the newest batch: what does not count for the age of those before.
    pub(crate) uncounted_micros: i64,
    /// Bytes in memory that no table has, of the index and the blocks, and of the images.
    pub(crate) rows_waiting_bytes: u64,
    pub(crate) images_waiting_bytes: u64,
    /// Bytes of batches whose rows no table has.
    pub(crate) log_waiting_bytes: u64,
    /// What becomes durable when the store has caught up.
    pub(crate) rotated_to: Option<u64>,
    /// The set of images of which it is known that all are of checkpoints.
    pub(crate) sound_set: Option<u64>,
    pub(crate) cleaning: Cleaning,
    /// The store that is to be opened again once those who still read it have ended. Nobody else gets it.
    left: Option<Arc<Store>>,
    /// The machine of each slot, as far as it was asked about. As many as the cell has machines.
    pub(crate) machines: KnownMachines,
}

impl History {
    /// Opens the history in `folder`, or begins one there.
    ///
    /// What a crash left incomplete is dropped: afterwards the history ends at [`Opened::newest_revision`], and is to
    /// be fed the log from there on. Takes time in proportion to what was in memory at the crash, at most a few MiB.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: another cell's or another format's history, not a history, open elsewhere, or damaged.
    pub fn open(folder: impl AsRef<Path>, options: Options) -> Result<(Self, Opened), OpenError> {
        let folder = folder.as_ref();
        check_options(&options)?;
        let Found { store, view, writer, opened } = find(folder, &options)?;
        let shared = Shared {
            folder: folder.to_owned(),
            options,
            writer: Mutex::new(writer),
            view: RwLock::new(view),
            store: RwLock::new(Some(store)),
            closed: RwLock::new(None),
            files_fail: AtomicBool::new(false),
        };
        Ok((Self { shared: Arc::new(shared) }, opened))
    }

    /// Opens the store behind this history again, after a write failed and it takes no more: as after a crash, what was not durable may be
    /// gone, and is to be fed again. All handles go on with it. Who begins to read meanwhile gets [`StoreError::Reopening`].
    ///
    /// # Errors
    ///
    /// As [`History::open`], which see; [`OpenError::BeingRead`] when somebody has been reading for too long, who may go on. For all others the
    /// history is closed then, until this is called again.
    pub fn reopen(&self) -> Result<Opened, OpenError> {
        let mut writer = self.writer();
        let folder = &self.shared.folder;
        let opened = self.shared.store.write().take();
        if let Some(before) = opened.or_else(|| writer.left.take()) {
            // Its last handle is let go of here, and not by a reader, who could do so too late: it writes what it still has.
            if let Err(before) = only_one_left(before) {
                // Nobody else may have it: where reads overlap, somebody would be reading each time.
                writer.left = Some(before);
                return Err(OpenError::BeingRead { path: folder.clone() });
            }
        }
        let found = find(folder, &self.shared.options).inspect_err(|error| {
            *self.shared.closed.write() = (!error.may_pass()).then(|| error.to_string());
        })?;
        *writer = found.writer;
        self.change_view(|view| *view = found.view);
        *self.shared.store.write() = Some(found.store);
        *self.shared.closed.write() = None;
        Ok(found.opened)
    }

    /// Reads all that the store has, as long as `goes_on`: for when writes fail again and again. The store does not say why, and merges
    /// nothing where something of it is damaged.
    ///
    /// # Errors
    ///
    /// [`StoreError`] of the first row that can't be read, or of a table that is not as it was written.
    pub fn read_store(&self, goes_on: impl Fn() -> bool) -> Result<(), StoreError> {
        self.store()?.read_all(goes_on)
    }

    /// Reads all that there is, the files of images too.
    ///
    /// # Errors
    ///
    /// As [`History::read_store`], and of the first image that can't be read.
    pub fn read_all(&self) -> Result<(), StoreError> {
        let store = self.store()?;
        store.read_all(|| true)?;
        store.image_files.read_all(|| true)
    }

    /// The newest revision that can be read; 0 if there is none.
    #[must_use]
    pub fn newest_revision(&self) -> u64 {
        self.view().newest
    }

    /// The oldest revision whose batch can be read; 0 if there is none. If something has been retired, it is a
    /// checkpoint's, so that the cell can be read as it was at each revision from here on.
    #[must_use]
    pub fn oldest_revision(&self) -> u64 {
        self.view().oldest()
    }

    /// Whether there is a batch or a checkpoint in it: one that was made, and not filled, has nothing; nor has one of whose beginning a power cut left
    /// no more than where it was to be.
    #[must_use]
    pub fn has_anything(&self) -> bool {
        let view = self.view();
        view.checkpoint.is_some() || view.newest > 0
    }

    /// What is up to here needs never be fed again, whatever happens to this machine's power. Segments of the log may
    /// be released up to the smaller one of this and the newest checkpoint's revision.
    #[must_use]
    pub fn durable_revision(&self) -> u64 {
        self.view().durable
    }

    /// Bytes on disk; 0 while the store is being opened again. Up to 128 MiB of the store's own journal, sparse, come on top.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.store().map_or(0, |store| store.disk_bytes())
    }

    /// The newest revision of which there is a trace, also where it can't be read: of its batch, or of a checkpoint; 0
    /// if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn newest_known(&self) -> Result<u64, StoreError> {
        let head = number(&*self.store()?, &keys::HEAD)?.unwrap_or(0);
        let checkpoint = self.newest_checkpoint().map_or(0, |checkpoint| checkpoint.revision);
        Ok(head.max(checkpoint).max(self.newest_revision()))
    }

    /// Makes sure that the history doesn't know of revisions that the log, which ends at `log_newest`, has lost.
    ///
    /// To be called once, after opening and before the first append: revisions that were lost are given again, to
    /// others.
    ///
    /// # Errors
    ///
    /// [`WriteError::AheadOfLog`] if it does; [`WriteError::Store`].
    pub fn check_against_log(&self, log_newest: u64) -> Result<(), WriteError> {
        let history = self.newest_known()?;
        if history > log_newest { Err(WriteError::AheadOfLog { history, log: log_newest }) } else { Ok(()) }
    }

    /// The newest complete checkpoint.
    #[must_use]
    pub fn newest_checkpoint(&self) -> Option<CheckpointInfo> {
        self.view().checkpoint.clone()
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Whether a set of so many pages begins with a file.
    pub(crate) fn begins_with_file(&self, pages: usize) -> bool {
        pages >= self.options().image_file_pages && !self.shared.files_fail.load(Ordering::Relaxed)
    }

    /// Notes why a checkpoint was not written. Where it was its file, and something else than room was missing, the next one goes without: batches,
    /// and the log behind them, are not to wait for a folder that nobody can write in.
    pub(crate) fn note_failure(&self, error: &WriteError) {
        let WriteError::Store(error) = error else { return };
        let StoreError::ImageFile { path, source } = error else { return };
        if error.images_lack_room() {
            return;
        }
        let (path, error) = (path.display(), source as &dyn std::error::Error);
        tracing::warn!(%path, error, "images can't be written into a file; until the next start they go into the store");
        self.shared.files_fail.store(true, Ordering::Relaxed);
    }

    /// The store. Not to be kept for long: it can't be opened again meanwhile.
    pub(crate) fn store(&self) -> Result<Arc<Store>, StoreError> {
        let store = self.shared.store.read().clone();
        store.ok_or_else(|| match self.shared.closed.read().clone() {
            Some(what) => StoreError::Closed { what },
            None => StoreError::Reopening,
        })
    }

    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.shared.view.read()
    }

    pub(crate) fn change_view<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut self.shared.view.write())
    }

    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.shared.writer.lock()
    }
}

/// What is in a folder.
struct Found {
    store: Arc<Store>,
    view: View,
    writer: Writer,
    opened: Opened,
}

/// Opens the store in a folder, which becomes the cell's, and looks what there is.
fn find(folder: &Path, options: &Options) -> Result<Found, OpenError> {
    let has_all_shelves = identity::claim(folder, &options.cell_id)?;
    let (store, journal_set_aside) = Store::open(folder, has_all_shelves, options)?;
    let store = Arc::new(store);
    let view = settle(&store)?;
    let writer = writer_of(&store, &view)?;
    remove_unrecorded(&store, view.checkpoint.as_ref());
    identity::raise(folder, &options.cell_id)?;
    let opened = Opened {
        newest_revision: view.newest,
        oldest_revision: view.oldest(),
        newest_checkpoint: view.checkpoint.clone(),
        journal_set_aside,
    };
    Ok(Found { store, view, writer, opened })
}

/// Removes files of images that no record tells of. Where one may, and can't be read, its file stays.
fn remove_unrecorded(store: &Store, newest: Option<&CheckpointInfo>) {
    let recorded = |set| match checkpoint::first_from(store, set) {
        Ok(found) => found.is_some_and(|found| found.set() == set),
        Err(_) => true,
    };
    store.image_files.remove_unrecorded(newest.map_or(0, CheckpointInfo::set), recorded);
}

/// What writing goes on from, behind what a store is seen to have. Where it could not be settled there are blocks behind that, which are fed again.
pub(crate) fn writer_of(store: &Store, view: &View) -> Result<Writer, StoreError> {
    let sums = sums_so_far(store, view.newest)?;
    Ok(Writer {
        gathering_bytes: 0,
        gathering_range: None,
        subjects: Subjects::default(),
        time_micros: newest_block_until(store, view.newest)?.map_or(i64::MIN, |block| block.newest_time_micros),
        bytes_so_far: sums.bytes_so_far,
        uncounted_micros: sums.uncounted_micros,
        rows_waiting_bytes: 0,
        images_waiting_bytes: 0,
        log_waiting_bytes: 0,
        rotated_to: None,
        sound_set: None,
        cleaning: Cleaning::default(),
        left: None,
        machines: KnownMachines::default(),
    })
}

/// Waits until nobody else has a handle of a store, and lets go of it; gives it back when that takes too long.
fn only_one_left(mut store: Arc<Store>) -> Result<(), Arc<Store>> {
    let until = Instant::now() + READERS_PATIENCE;
    loop {
        store = match Arc::try_unwrap(store) {
            Ok(store) => {
                drop(store);
                return Ok(());
            }
            Err(shared) => shared,
        };
        if Instant::now() >= until {
            return Err(store);
        }
        sleep(READERS_POLL);
    }
}

/// The number of a setting's row.
pub(crate) fn number(store: &Store, key: &[u8]) -> Result<Option<u64>, StoreError> {
    Ok(store.message::<NumberRecord>(Shelf::Index, key)?.map(|record| record.number))
}

fn check_options(options: &Options) -> Result<(), OpenError> {
    let setting = |name, expected, found: String| Err(OpenError::Setting { name, expected, found });
    if !(1..=64).contains(&options.cell_id.len()) {
        return setting("cell_id", "1 to 64 bytes", format!("{} bytes", options.cell_id.len()));
    }
    if !(64 << 10..=1 << 30).contains(&options.memtable_bytes) {
        return setting("memtable_bytes", "64 KiB to 1 GiB", format!("{} bytes", options.memtable_bytes));
    }
    if options.block_batches == 0 || options.block_bytes == 0 {
        return setting("block_batches or block_bytes", "at least 1", "0".to_owned());
    }
    if options.retain_micros < 0 {
        return setting("retain_micros", "at least 0", options.retain_micros.to_string());
    }
    Ok(())
}

/// Brings the shelves to the same revision, and what a crash left in memory to tables; and looks what there is then. Where the store takes no
/// writes, because the disk is full or something of it is damaged, what can be read is there all the same, and nothing of it counts as durable.
pub(crate) fn settle(store: &Arc<Store>) -> Result<View, StoreError> {
    let head = number(store, &keys::HEAD)?.unwrap_or(0);
    let base = number(store, &keys::BASE)?;
    let floor = number(store, &keys::FLOOR)?.unwrap_or(0);
    let is_settled = match bring_to_order(store, head, base) {
        Ok(()) => true,
        // A cell starts on a full disk; and whether the store's worker, which merges tables from the moment on that it is open, meets damage
        // before all is written here must not decide about a start. Whoever writes next learns of it, and opens the store again.
        Err(error) if error.may_pass() && store.is_poisoned() => false,
        Err(error) => return Err(error),
    };
    let last = newest_block_until(store, head)?.map(|block| block.last);
    let newest = last.max(base).unwrap_or(0);
    let is_whole = floor == 0 && base.is_none_or(|base| base == 0);
    let checkpoint = checkpoint::newest_readable(store, floor..=newest, is_whole)?;
    // Of a beginning with a checkpoint a power cut may have left no more than where it was to be. Nothing leads there: it begins as if it never had.
    let base = base.filter(|base| *base == 0 || last.is_some() || checkpoint.is_some());
    let newest = last.max(base).unwrap_or(0);
    let durable = if is_settled { newest } else { 0 };
    Ok(View { base, floor, newest, durable, checkpoint, gathering: Vec::new(), digest: Digest::default() })
}

fn bring_to_order(store: &Arc<Store>, head: u64, base: Option<u64>) -> Result<(), StoreError> {
    // Rows go to tables before blocks, but not in one step with them. A block without rows is fed again.
    while let Some(block) = newest_block(store)?.filter(|block| block.last > head) {
        let mut changes = store.changes();
        changes.remove(Shelf::Blocks, keys::block(block.first));
        changes.commit()?;
    }
    // Blocks from before a leap may still be there.
    let newest = newest_block(store)?.map(|block| block.last).max(base).unwrap_or(0);
    forget_rows_after(store, newest)?;
    if head > newest {
        clear_again_after(store, newest)?;
    }
    store.rotate(&Shelf::ALL)?;
    store.catch_up()
}

/// Has what comes after a revision cleared away again: where blocks are lost from before where that had got to, they are fed again, and their rows are
/// written again.
fn clear_again_after(store: &Arc<Store>, newest: u64) -> Result<(), StoreError> {
    let next = newest.saturating_add(1);
    if number(store, &keys::CLEANED)?.is_none_or(|cleaned| cleaned <= next) {
        return Ok(());
    }
    let mut changes = store.changes();
    changes.put_message(Shelf::Index, keys::CLEANED, &NumberRecord { number: next });
    changes.commit()
}

/// Removes what was written of blocks that are not there: the same batches may be cut into other blocks next time, and would be told of
/// twice, or their blocks be passed over for a filter that is of a part of them.
fn forget_rows_after(store: &Arc<Store>, newest: u64) -> Result<(), StoreError> {
    let mut changes = store.changes();
    for row in store.rows(Shelf::Index, keys::time(i64::MIN, 0)..=keys::time(i64::MAX, u64::MAX)).rev() {
        let row = row?;
        if time_row(&row)?.1 <= newest {
            break;
        }
        changes.remove(Shelf::Index, row.key);
    }
    let next = newest.saturating_add(1);
    let others = [
        (Shelf::Index, keys::conflicts(next)..=keys::conflicts(u64::MAX)),
        (Shelf::Index, keys::summary(next)..=keys::summary(u64::MAX)),
        (Shelf::Filters, keys::block(next)..=keys::block(u64::MAX)),
    ];
    for (shelf, keys) in others {
        for row in store.rows(shelf, keys) {
            changes.remove(shelf, row?.key);
        }
    }
    changes.commit()
}

/// What all blocks that there were up to a revision come to.
fn sums_so_far(store: &Store, newest: u64) -> Result<TimeRecord, StoreError> {
    for row in store.rows(Shelf::Index, keys::time(i64::MIN, 0)..=keys::time(i64::MAX, u64::MAX)).rev() {
        let row = row?;
        if time_row(&row)?.1 <= newest {
            return decode(Shelf::Index, &row.key, row.value);
        }
    }
    Ok(TimeRecord::default())
}
