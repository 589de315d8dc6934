//! Opening the store, and making it: what of fjall's can't be read is named, or set aside.

use super::Store;
use crate::error::{OpenError, StoreError, makes_no_sense};
use crate::image_files::ImageFiles;
use crate::keys::Shelf;
use crate::options::{JournalSetAside, Options};
use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, KeyspaceCreateOptions, LsmError};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

const STORE_FOLDER: &str = "store";
/// Where a store is made: fjall can't open one whose making was cut off, so that name tells that it may go.
const UNFINISHED_FOLDER: &str = "store.new";
/// Where fjall has its keyspaces.
const KEYSPACES_FOLDER: &str = "keyspaces";
/// In the folder of a keyspace: which list of its tables counts.
const CURRENT_FILE: &str = "current";
/// In the folder of a keyspace: its tables.
const TABLES_FOLDER: &str = "tables";
/// By which fjall knows a store.
const MARK_FILE: &str = "version";
/// The keyspace in which the others are named.
const KEYSPACE_OF_NAMES: &str = "0";
const SET_ASIDE_FOLDER: &str = "journal-set-aside";

/// The least that fjall takes.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// The tables of an idle history are few; this bounds a busy one's open files.
const OPEN_FILES_MAX: usize = 64;
/// Small tables keep each merge short, so that flushing never waits long for the one worker. And each is synced as a whole, for which
/// the log waits that is on the same disk: 4 ms in one of a hundred of its syncs for tables of 8 MiB, 1.6 ms for these.
const TABLE_BYTES: u64 = 2 << 20;
/// Tables that wait before they are merged. Times their size it is what the first level holds.
const TABLES_MERGED: u8 = 8;

impl Store {
    /// Opens or makes the store in `folder`. A journal of fjall's that can't be read is set aside, and said so. `has_all_shelves`: one that is there does not
    /// lack any, as one of an earlier format may.
    pub(crate) fn open(
        folder: &Path,
        has_all_shelves: bool,
        options: &Options,
    ) -> Result<(Self, Option<JournalSetAside>), OpenError> {
        let path = folder.join(STORE_FOLDER);
        if !path.exists() {
            make(folder, &path, options)?;
        }
        check_whole(&path, has_all_shelves).map_err(|failed| failed.into_error(folder))?;
        give_journal(&path).map_err(|source| OpenError::Folder { path: path.clone(), source })?;
        let reason = match attempt(folder, &path, options) {
            Ok(store) => {
                store.image_files.look();
                return Ok((store, None));
            }
            Err(Attempt::JournalUnreadable(reason)) => reason,
            Err(other) => return Err(other.into_error(folder)),
        };
        let aside =
            set_journal_aside(folder, &path).map_err(|source| OpenError::Folder { path: path.clone(), source })?;
        tracing::warn!(reason, aside = %aside.display(), "the history's store can't read its journal; it is set aside");
        let store = attempt(folder, &path, options).map_err(|failed| failed.into_error(folder))?;
        store.image_files.look();
        Ok((store, Some(JournalSetAside { folder: aside, reason })))
    }
}

/// Why an attempt to open failed.
enum Attempt {
    Locked,
    /// The world: the same bytes may be fine another time.
    Failed(fjall::Error),
    /// Tables are damaged.
    TablesUnreadable(String),
    /// The journal is damaged, or it may be.
    JournalUnreadable(String),
}

impl Attempt {
    fn of(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Locked => Self::Locked,
            fjall::Error::Io(ref inner) if !makes_no_sense(inner) => Self::Failed(error),
            fjall::Error::Storage(LsmError::Io(ref inner)) if !makes_no_sense(inner) => Self::Failed(error),
            fjall::Error::Storage(_) | fjall::Error::InvalidVersion(_) => Self::TablesUnreadable(error.to_string()),
            _ => Self::JournalUnreadable(error.to_string()),
        }
    }

    fn into_error(self, folder: &Path) -> OpenError {
        let path = folder.to_owned();
        match self {
            Self::Locked => OpenError::Locked { path },
            Self::Failed(error) => StoreError::from(error).into(),
            Self::TablesUnreadable(what) | Self::JournalUnreadable(what) => OpenError::Damaged { path, what },
        }
    }
}

/// Makes an empty store, whole or not at all.
fn make(folder: &Path, path: &Path, options: &Options) -> Result<(), OpenError> {
    let unfinished = folder.join(UNFINISHED_FOLDER);
    let failed = |source| OpenError::Folder { path: unfinished.clone(), source };
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    drop(attempt(folder, &unfinished, options).map_err(|failed| failed.into_error(folder))?);
    fs::rename(&unfinished, path).map_err(failed)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn attempt(folder: &Path, path: &Path, options: &Options) -> Result<Store, Attempt> {
    check_tables_lists(&path.join(KEYSPACES_FOLDER))?;
    // Fjall asserts where damaged bytes contradict each other.
    match catch_unwind(AssertUnwindSafe(|| open_database(folder, path, options))) {
        Ok(opened) => opened.map_err(Attempt::of),
        Err(_) => Err(Attempt::JournalUnreadable("an assertion of the store failed".to_owned())),
    }
}

/// Checks that a store which was made has what fjall knows it by. Where that is not there, fjall makes a new one, and removes or hides what is.
fn check_whole(path: &Path, has_all_shelves: bool) -> Result<(), Attempt> {
    let failed = |error: io::Error| Attempt::Failed(fjall::Error::Io(error));
    let keyspaces = path.join(KEYSPACES_FOLDER);
    let names = keyspaces.join(KEYSPACE_OF_NAMES).join(CURRENT_FILE);
    for file in [path.join(MARK_FILE), names] {
        if !file.try_exists().map_err(failed)? {
            return Err(Attempt::TablesUnreadable(format!("{} is not there", file.display())));
        }
    }
    let mut found = 0;
    for keyspace in fs::read_dir(&keyspaces).map_err(failed)? {
        let keyspace = keyspace.map_err(failed)?.path();
        found += usize::from(keyspace.join(CURRENT_FILE).try_exists().map_err(failed)?);
    }
    // With that of the names.
    let expected = 1 + Shelf::ALL.len();
    if has_all_shelves && found < expected {
        let what = format!("expected {expected} keyspaces in {}, found {found}", keyspaces.display());
        return Err(Attempt::TablesUnreadable(what));
    }
    Ok(())
}

/// Checks each keyspace's list of its tables by the sum that fjall keeps of it, and does not look at. What contradicts itself there fails an
/// assertion while a lock of fjall's is held, and that fails another one where the lock is let go of: the process would be gone.
fn check_tables_lists(keyspaces: &Path) -> Result<(), Attempt> {
    let failed = |error: io::Error| Attempt::Failed(fjall::Error::Io(error));
    let folders = match fs::read_dir(keyspaces) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        folders => folders.map_err(failed)?,
    };
    for folder in folders {
        let folder = folder.map_err(failed)?.path();
        let damaged = |what: &str| {
            let file = folder.join(CURRENT_FILE);
            Attempt::TablesUnreadable(format!("{what}, by what {} says of it", file.display()))
        };
        let current = match fs::read(folder.join(CURRENT_FILE)) {
            // Its making was cut off, which fjall knows how to take, or it is no keyspace. One with tables was made whole: fjall would remove them.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                if was_made(&folder).map_err(failed)? {
                    return Err(damaged("which list of its tables counts is not said"));
                }
                continue;
            }
            current => current.map_err(failed)?,
        };
        let Some((number, sum)) = list_in(&current) else { return Err(damaged("there is no list of tables")) };
        let list = match fs::read(folder.join(format!("v{number}"))) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(damaged("the list of tables is not there"));
            }
            list => list.map_err(failed)?,
        };
        if xxhash_rust::xxh3::xxh3_128(&list) != sum {
            return Err(damaged("the list of tables is not as it was written"));
        }
    }
    Ok(())
}

/// Whether a keyspace has had tables: it has some, or a list of them after the first one, of none.
fn was_made(keyspace: &Path) -> io::Result<bool> {
    let names = |folder: &Path| match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        entries => entries?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<_>>(),
    };
    let is_later_list = |name: &std::ffi::OsString| {
        let number = name.to_str().and_then(|name| name.strip_prefix('v')?.parse::<u64>().ok());
        number.is_some_and(|number| number > 0)
    };
    Ok(!names(&keyspace.join(TABLES_FOLDER))?.is_empty() || names(keyspace)?.iter().any(is_later_list))
}

/// The number of a keyspace's list of tables and the sum over it, as fjall writes them: 8 bytes, 16, and one for the kind of the sum.
fn list_in(current: &[u8]) -> Option<(u64, u128)> {
    let (number, rest) = current.split_first_chunk()?;
    let (sum, kind) = rest.split_first_chunk()?;
    (kind == [0]).then(|| (u64::from_le_bytes(*number), u128::from_le_bytes(*sum)))
}

fn open_database(folder: &Path, path: &Path, options: &Options) -> fjall::Result<Store> {
    let database = Database::builder(path)
        .cache_size(options.cache_bytes)
        .max_cached_files(Some(OPEN_FILES_MAX))
        .max_journaling_size(JOURNAL_BYTES_MAX)
        .journal_compression(CompressionType::None)
        .worker_threads(1)
        .open()?;
    let keyspace = |shelf: Shelf| {
        database.keyspace(shelf.name(), || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(u64::MAX)
                // Blocks and images are compressed as a whole, before: once, and not again whenever tables are written. Nothing makes
                // filters smaller.
                .data_block_compression_policy(CompressionPolicy::disabled())
                .compaction_strategy(std::sync::Arc::new(
                    fjall::compaction::Leveled::default()
                        .with_table_target_size(TABLE_BYTES)
                        .with_l0_threshold(TABLES_MERGED),
                ))
        })
    };
    let (index, filters, blocks) = (keyspace(Shelf::Index)?, keyspace(Shelf::Filters)?, keyspace(Shelf::Blocks)?);
    let (images, pages) = (keyspace(Shelf::Images)?, keyspace(Shelf::Pages)?);
    // Fjall syncs what is in the folder of a keyspace, and not that there is one.
    File::open(path.join(KEYSPACES_FOLDER))?.sync_all()?;
    let image_files = ImageFiles::of(folder);
    Ok(Store { index, filters, blocks, images, pages, image_files, database, unsynced_bytes: AtomicU64::new(0) })
}

/// Moves fjall's journals out of the store, the newest first: whenever this ends early, what is left is where they begin. Empty ones take
/// their place, see [`give_journal`].
fn set_journal_aside(folder: &Path, store: &Path) -> io::Result<PathBuf> {
    let aside = folder.join(SET_ASIDE_FOLDER);
    if aside.try_exists()? {
        fs::remove_dir_all(&aside)?;
    }
    fs::create_dir(&aside)?;
    for path in journals(store)?.into_iter().rev() {
        if let Some(name) = path.file_name() {
            fs::rename(&path, aside.join(name))?;
            File::create(&path)?.sync_all()?;
        }
    }
    File::open(store)?.sync_all()?;
    Ok(aside)
}

/// Makes an empty journal where there is none, as when setting it aside was cut off or found no room: without any, fjall begins to number
/// its changes anew, and old rows hide new ones.
fn give_journal(store: &Path) -> io::Result<()> {
    if journals(store)?.is_empty() {
        tracing::warn!(store = %store.display(), "the history's store has lost its journal; it gets an empty one");
        File::create(store.join("0.jnl"))?.sync_all()?;
        File::open(store)?.sync_all()?;
    }
    Ok(())
}

/// Fjall's journals, the oldest first.
fn journals(store: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            found.push(path);
        }
    }
    let number = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
    found.sort_by_key(number);
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn journals_are_in_the_order_in_which_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["10.jnl", "9.jnl", "lock", "2.jnl"] {
            File::create(folder.path().join(name)).unwrap();
        }
        let found = journals(folder.path()).unwrap();
        assert_eq!(found, ["2.jnl", "9.jnl", "10.jnl"].map(|name| folder.path().join(name)));
    }
}
