//! Images of all pages of a large cell, in a file of their own: what a set begins with.
//!
//! In the store each of them would pass a journal, memory and a table, twice as many bytes as they are, for an order that they have already. A
//! file is written once, from its beginning to its end, gets its name when all of it is on the disk, and is read or deleted from then on. What is
//! added to the set later stands in the store.
//!
//! A file has the images one behind the other, each with a checksum over its key and itself, then an index that says where each of them is, and an
//! end that says where the index is.
use crate::error::StoreError;
use crate::keys::{ImageKey, Shelf};
use crate::packing::Packer;
use crate::store::{checksum, unseal};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Where they are, beside the store.
const FOLDER: &str = "images";
/// While one is written.
const DRAFT: &str = "draft";

/// Written between two syncs: those of the log wait on the same disk behind what is not synced yet.
const SYNCED_BYTES: usize = 512 << 10;
/// Read at a time: images are mostly asked for in the order in which they stand.
const READ_BYTES: usize = 256 << 10;
/// Most files that are deleted at a time: to free a large one takes the file system some milliseconds, in which the log's syncs wait.
const REMOVED_PER_CALL: usize = 2;

/// An entry of the index: a table, a page, where its image begins, and its bytes with the checksum.
const ENTRY_BYTES: usize = 1 + 4 + 8 + 4;
/// What stands behind the index: where that begins, how many entries it has, a checksum over it, and one over these three.
const END_BYTES: usize = 8 + 4 + 4 + 4;

/// The files of images of a history.
pub(crate) struct ImageFiles {
    folder: PathBuf,
    /// Their bytes, by set.
    bytes: Mutex<BTreeMap<u64, u64>>,
}

impl ImageFiles {
    /// Those of the history in a folder. None is known before [`ImageFiles::look`].
    pub(crate) fn of(history: &Path) -> Self {
        Self { folder: history.join(FOLDER), bytes: Mutex::default() }
    }

    /// Looks which are there, and removes one that was cut off while it was written: for who has the history open, and nobody else. Nothing of it is
    /// needed to open the history.
    pub(crate) fn look(&self) {
        if let Err(error) = self.list() {
            tracing::warn!(%error, folder = %self.folder.display(), "it can't be looked which files of images there are");
        }
    }

    fn list(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            // The first one makes it: there may be no room for it now.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == DRAFT) {
                remove(&path);
            } else if let Some(set) = entry.file_name().to_str().and_then(set_of)
                && let Some(found) = entry.metadata().ok().filter(fs::Metadata::is_file)
            {
                self.bytes.lock().insert(set, found.len());
            }
        }
        Ok(())
    }

    fn path(&self, set: u64) -> PathBuf {
        self.folder.join(format!("{set:016x}"))
    }

    /// Begins the file of a set.
    pub(crate) fn begin(&self, set: u64) -> Result<Draft, StoreError> {
        let (path, draft) = (self.path(set), self.path(set).with_extension(DRAFT));
        let make = || {
            if !self.folder.is_dir() {
                fs::DirBuilder::new().mode(0o700).create(&self.folder)?;
            }
            // Each time: whoever made it may have ended before it was on the disk.
            self.folder.parent().map_or(Ok(()), |history| File::open(history)?.sync_all())?;
            if draft.try_exists()? {
                fs::remove_file(&draft)?;
            }
            File::options().write(true).create_new(true).mode(0o600).open(&draft)
        };
        let file = make().map_err(|source| failed(&draft, source))?;
        let (buffer, index) = (Vec::with_capacity(SYNCED_BYTES), Vec::new());
        Ok(Draft { set, path, draft, file, packer: Packer::default(), buffer, written: 0, index })
    }

    /// Gives the file of a set its name, for good; it replaces one that has it.
    pub(crate) fn finish(&self, draft: Draft) -> Result<(), StoreError> {
        let path = draft.path.clone();
        let finish = || {
            let (set, bytes) = draft.finish()?;
            self.bytes.lock().insert(set, bytes);
            File::open(&self.folder)?.sync_all()
        };
        finish().map_err(|source| failed(&path, source))
    }

    /// The file of a set. It can be read to its end, also when it is removed meanwhile.
    pub(crate) fn read(&self, set: u64) -> Result<ImageFile, StoreError> {
        ImageFile::open(self.path(set), set)
    }

    /// Removes some files of sets before this one. True when none of them is left.
    ///
    /// # Errors
    /// Of the first one that can't be removed; the others go all the same.
    pub(crate) fn remove_before(&self, set: u64) -> Result<bool, StoreError> {
        let older: Vec<u64> = self.bytes.lock().range(..set).map(|(set, _)| *set).collect();
        let (mut removed, mut first_error) = (0, None);
        for set in &older {
            if removed == REMOVED_PER_CALL {
                return Ok(false);
            }
            // Whoever looks through all of them meanwhile misses none that is known.
            let Some(bytes) = self.bytes.lock().remove(set) else { continue };
            match fs::remove_file(self.path(*set)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    self.bytes.lock().insert(*set, bytes);
                    first_error.get_or_insert_with(|| failed(&self.path(*set), error));
                }
                _ => removed += 1,
            }
        }
        first_error.map_or(Ok(true), Err)
    }

    /// Removes files of sets behind this one that are not `recorded`: a crash, or a record that could not be written, has left them.
    pub(crate) fn remove_unrecorded(&self, newest: u64, recorded: impl Fn(u64) -> bool) {
        let newer: Vec<u64> = self.bytes.lock().keys().copied().filter(|set| *set > newest).collect();
        for set in newer.into_iter().filter(|set| !recorded(*set)) {
            self.bytes.lock().remove(&set);
            remove(&self.path(set));
        }
    }

    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.lock().values().sum()
    }

    /// Reads all images of all files, as long as `goes_on`; the first that can't be read is the error.
    pub(crate) fn read_all(&self, goes_on: impl Fn() -> bool) -> Result<(), StoreError> {
        let sets: Vec<u64> = self.bytes.lock().keys().copied().collect();
        for set in sets {
            let mut file = match self.read(set) {
                // It was removed meanwhile.
                Err(_) if !self.bytes.lock().contains_key(&set) => continue,
                file => file?,
            };
            for at in 0..file.index.len() {
                file.image_at(at)?;
                if !goes_on() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The set of a file with this name.
fn set_of(name: &str) -> Option<u64> {
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok())?
}

/// Removes a file that nobody needs. One that stays takes room, and nothing else.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "images that are of no use could not be removed");
    }
}

fn failed(path: &Path, source: io::Error) -> StoreError {
    StoreError::ImageFile { path: path.to_owned(), source }
}

/// A file that is being written. Without its end it is removed, so that its room is free again.
pub(crate) struct Draft {
    set: u64,
    path: PathBuf,
    draft: PathBuf,
    file: File,
    packer: Packer,
    buffer: Vec<u8>,
    written: u64,
    index: Vec<u8>,
}

impl Draft {
    /// Writes the image of a page. Of several of one page the last one counts.
    pub(crate) fn put(&mut self, table: u8, page: u32, image: &[u8]) -> Result<(), StoreError> {
        let begin = self.buffer.len();
        self.packer.pack(image, &mut self.buffer);
        let sum = checksum(&key(self.set, table, page), &self.buffer[begin..]);
        self.buffer.extend_from_slice(&sum.to_be_bytes());
        let bytes = u32::try_from(self.buffer.len() - begin).expect("images have a bound");
        put_entry(&mut self.index, Entry { table, page, begin: self.written + begin as u64, bytes });
        if self.buffer.len() < SYNCED_BYTES {
            return Ok(());
        }
        self.write().map_err(|source| failed(&self.draft, source))
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.file.sync_data()?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Gives the set, and the bytes of its file.
    fn finish(mut self) -> io::Result<(u64, u64)> {
        let end = End {
            begin: self.written + self.buffer.len() as u64,
            entries: u32::try_from(self.index.len() / ENTRY_BYTES)
                .expect("pages have numbers of 32 bits, and few tables"),
            sum: checksum(&[], &self.index),
        };
        self.buffer.append(&mut self.index);
        self.buffer.extend_from_slice(&end.encode());
        self.write()?;
        self.file.sync_all()?;
        fs::rename(&self.draft, &self.path)?;
        Ok((self.set, self.written))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // One that has its name is there no more.
        let _ = fs::remove_file(&self.draft);
    }
}

fn key(set: u64, table: u8, page: u32) -> Vec<u8> {
    ImageKey { set, table, page, revision: set }.encode()
}

/// What a file ends with.
#[derive(Debug, PartialEq, Eq)]
struct End {
    /// Where the index begins.
    begin: u64,
    entries: u32,
    /// Over the index.
    sum: u32,
}

impl End {
    fn encode(&self) -> [u8; END_BYTES] {
        let mut bytes = [0; END_BYTES];
        bytes[..8].copy_from_slice(&self.begin.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.entries.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.sum.to_le_bytes());
        let sum = checksum(&[], &bytes[..16]);
        bytes[16..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The end in these bytes, where they are one.
    fn decode(bytes: &[u8; END_BYTES]) -> Option<Self> {
        let (begin, rest) = bytes.split_first_chunk()?;
        let (entries, rest) = rest.split_first_chunk()?;
        let sum = rest.first_chunk()?;
        let end = Self {
            begin: u64::from_le_bytes(*begin),
            entries: u32::from_le_bytes(*entries),
            sum: u32::from_le_bytes(*sum),
        };
        (end.encode() == *bytes).then_some(end)
    }

    /// The bytes of the index, where that stands right before this end.
    fn index_bytes(&self, end_begin: u64) -> Option<usize> {
        let bytes = u64::from(self.entries) * ENTRY_BYTES as u64;
        let is_there = self.begin.checked_add(bytes) == Some(end_begin);
        usize::try_from(bytes).ok().filter(|_| is_there)
    }
}

/// Where an image stands in a file.
#[derive(Clone, Copy)]
struct Entry {
    table: u8,
    page: u32,
    begin: u64,
    bytes: u32,
}

fn put_entry(index: &mut Vec<u8>, entry: Entry) {
    index.push(entry.table);
    index.extend_from_slice(&entry.page.to_le_bytes());
    index.extend_from_slice(&entry.begin.to_le_bytes());
    index.extend_from_slice(&entry.bytes.to_le_bytes());
}

fn entry(bytes: &[u8; ENTRY_BYTES]) -> Entry {
    let (table, rest) = (bytes[0], &bytes[1..]);
    let (page, rest) = rest.split_first_chunk().expect("an entry has a page");
    let (begin, rest) = rest.split_first_chunk().expect("and a place");
    let length = rest.first_chunk().expect("and bytes");
    Entry {
        table,
        page: u32::from_le_bytes(*page),
        begin: u64::from_le_bytes(*begin),
        bytes: u32::from_le_bytes(*length),
    }
}

/// The entries of an index, rising by table and page; none if one is no entry, or of an image that is not before the index.
fn entries(index: &[u8], images_end: u64) -> Option<Vec<Entry>> {
    let (all, rest) = index.as_chunks::<ENTRY_BYTES>();
    // The last one of a page first.
    let mut all: Vec<Entry> = all.iter().rev().map(entry).collect();
    all.sort_by_key(|entry| (entry.table, entry.page));
    all.dedup_by_key(|entry| (entry.table, entry.page));
    let is_within = |entry: &Entry| entry.begin.checked_add(entry.bytes.into()).is_some_and(|end| end <= images_end);
    (rest.is_empty() && all.iter().all(is_within)).then_some(all)
}

/// Whether these are the entries of an index and an end, and nothing more: for the fuzzer.
pub(crate) fn is_index(bytes: &[u8]) -> bool {
    let Some((index, end)) = bytes.split_last_chunk::<END_BYTES>() else { return false };
    let end = End::decode(end).filter(|end| end.index_bytes(end.begin + index.len() as u64).is_some());
    end.is_some_and(|end| entries(index, end.begin).is_some_and(|all| !all.is_empty()))
}

/// An index and an end, for the fuzzer.
pub(crate) fn an_index() -> Vec<u8> {
    let mut index = Vec::new();
    put_entry(&mut index, Entry { table: 6, page: 1, begin: 300, bytes: 200 });
    put_entry(&mut index, Entry { table: 6, page: 0, begin: 0, bytes: 300 });
    let end = End { begin: 500, entries: 2, sum: checksum(&[], &index) };
    index.extend_from_slice(&end.encode());
    index
}

/// A file that is read.
pub(crate) struct ImageFile {
    path: PathBuf,
    set: u64,
    file: File,
    /// Rising by table and page.
    index: Vec<Entry>,
    /// What was read last, and where that stands.
    ahead: Vec<u8>,
    ahead_begin: u64,
}

impl ImageFile {
    fn open(path: PathBuf, set: u64) -> Result<Self, StoreError> {
        let damaged = |what: &str| StoreError::Damaged {
            key: format!("the file of images {}", path.display()),
            what: what.to_owned(),
        };
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (found, file) = opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => damaged("it is not there"),
            _ => failed(&path, error),
        })?;
        if !found.is_file() {
            return Err(damaged("expected a file, found something else"));
        }
        let bytes = found.len();
        let read = |bytes: &mut [u8], begin| {
            file.read_exact_at(bytes, begin).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => damaged("it is too short"),
                _ => failed(&path, error),
            })
        };
        let mut end = [0; END_BYTES];
        let end_begin = bytes.checked_sub(END_BYTES as u64).ok_or_else(|| damaged("it is too short"))?;
        read(&mut end, end_begin)?;
        let not_so = || damaged("its index is not as it was written");
        let end = End::decode(&end).ok_or_else(not_so)?;
        let mut index = vec![0; end.index_bytes(end_begin).ok_or_else(not_so)?];
        read(&mut index, end.begin)?;
        let sound = (checksum(&[], &index) == end.sum).then(|| entries(&index, end.begin)).flatten();
        let index = sound.ok_or_else(not_so)?;
        Ok(Self { path, set, file, index, ahead: Vec::new(), ahead_begin: 0 })
    }

    /// The image of a page, if the set began with one.
    pub(crate) fn image(&mut self, table: u8, page: u32) -> Result<Option<Bytes>, StoreError> {
        let found = self.index.binary_search_by_key(&(table, page), |entry| (entry.table, entry.page));
        found.ok().map(|at| self.image_at(at)).transpose()
    }

    fn image_at(&mut self, at: usize) -> Result<Bytes, StoreError> {
        let Entry { table, page, begin, bytes } = self.index[at];
        let (key, bytes) = (key(self.set, table, page), bytes as usize);
        let within = |ahead: &[u8], ahead_begin: u64| {
            let from = usize::try_from(begin.checked_sub(ahead_begin)?).ok()?;
            Some(from..from.checked_add(bytes).filter(|end| *end <= ahead.len())?)
        };
        let damaged = |what: String| StoreError::Damaged {
            key: format!("the image of page {page} of table {table} in {}", self.path.display()),
            what,
        };
        let range = match within(&self.ahead, self.ahead_begin) {
            Some(range) => range,
            None => {
                let read = read_ahead(&self.file, &mut self.ahead, begin, bytes.max(READ_BYTES));
                self.ahead_begin = begin;
                read.map_err(|source| failed(&self.path, source))?;
                within(&self.ahead, begin).ok_or_else(|| damaged("the file is too short".to_owned()))?
            }
        };
        unseal(Shelf::Images, &key, &self.ahead[range]).map_err(|error| match error {
            StoreError::Damaged { what, .. } => damaged(what),
            other => other,
        })
    }
}

/// Reads so many bytes of a file from a place on, fewer where it ends before; none where that fails.
fn read_ahead(file: &File, into: &mut Vec<u8>, begin: u64, bytes: usize) -> io::Result<()> {
    into.resize(bytes, 0);
    let mut filled = 0;
    while filled < bytes {
        match file.read_at(&mut into[filled..], begin + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                into.clear();
                return Err(error);
            }
        }
    }
    into.truncate(filled);
    Ok(())
}
