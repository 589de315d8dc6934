//! The bytes of a backup. Pure: bytes in, bytes out; one record is in memory at a time.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `PLENUMBK` |
//! | 8 | 4 | format version, little-endian |
//! | 12 | 4 | zeros |
//! | 16 | | records: manifest, pages, end |
//!
//! A record is its kind (1 byte), its length (4 bytes, little-endian), its content, and a seal: the first 16 bytes of the BLAKE3 hash of
//! everything in the file before the seal. So a record that is changed, left out, repeated or moved is found at the first seal behind it,
//! and the end record proves that nothing is missing.

use std::io::{self, Read};

use bytes::Bytes;
use plenum_proto::{bounds, v1};
use prost::Message;

/// The version of backup files that are written. Since 2, what is held, reserved and limited has pages of its own.
pub const FILE_VERSION: u32 = 2;
/// Those that are read.
const FILE_VERSIONS: std::ops::RangeInclusive<u32> = 1..=FILE_VERSION;

const MAGIC: [u8; 8] = *b"PLENUMBK";
const HEAD_BYTES: usize = 16;
const RECORD_HEAD_BYTES: usize = 5;
const SEAL_BYTES: usize = 16;
/// No page is larger: what the history takes.
const CONTENT_BYTES_MAX: u32 = 64 << 20;
const _: () = assert!(CONTENT_BYTES_MAX as usize >= bounds::PAGE_BYTES_MAX, "every page of a cell fits a record");

const MANIFEST: u8 = 1;
const PAGE: u8 = 2;
const END: u8 = 3;

/// Makes the bytes of a backup, a record at a time.
pub(crate) struct Encoder {
    hasher: blake3::Hasher,
    pending: Vec<u8>,
}

impl Encoder {
    /// Begins with the manifest.
    pub(crate) fn begin(manifest: &v1::BackupManifest) -> Self {
        let mut encoder = Self { hasher: blake3::Hasher::new(), pending: Vec::new() };
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&FILE_VERSION.to_le_bytes());
        encoder.put(&head);
        encoder.record(MANIFEST, &manifest.encode_to_vec());
        encoder
    }

    /// Adds an encoded page.
    pub(crate) fn page(&mut self, page: &[u8]) {
        self.record(PAGE, page);
    }

    /// Says that nothing follows.
    pub(crate) fn end(&mut self) {
        self.record(END, &[]);
    }

    /// Bytes that were made and not taken.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// The bytes that were made since the last time.
    pub(crate) fn take(&mut self) -> Bytes {
        // The next ones will be as many: to grow there step by step would copy each of them twice.
        let next = Vec::with_capacity(self.pending.len());
        Bytes::from(std::mem::replace(&mut self.pending, next))
    }

    fn put(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.pending.extend_from_slice(bytes);
    }

    fn record(&mut self, kind: u8, content: &[u8]) {
        let length = u32::try_from(content.len()).expect("a page is at most 64 MiB");
        self.put(&[kind]);
        self.put(&length.to_le_bytes());
        self.put(content);
        let seal = self.hasher.finalize();
        self.put(&seal.as_bytes()[..SEAL_BYTES]);
    }
}

/// What is wrong with a backup.
#[derive(Debug)]
pub(crate) enum Fault {
    Read(io::Error),
    NotABackup(Vec<u8>),
    OtherFormat(u32),
    Damaged { record: u64, offset: u64, what: String },
}

/// Reads a backup, a record at a time; nothing is believed before its seal is.
pub(crate) struct Decoder<R> {
    from: R,
    hasher: blake3::Hasher,
    /// Where the next record begins, and its number.
    offset: u64,
    records: u64,
    /// Number and place of the record that was read last.
    last: (u64, u64),
    pub(crate) manifest: v1::BackupManifest,
    pages: u64,
    ended: bool,
}

impl<R: Read> Decoder<R> {
    /// Reads head and manifest.
    pub(crate) fn begin(from: R) -> Result<Self, Fault> {
        let mut decoder = Self {
            from,
            hasher: blake3::Hasher::new(),
            offset: HEAD_BYTES as u64,
            records: 0,
            last: (0, 0),
            manifest: v1::BackupManifest::default(),
            pages: 0,
            ended: false,
        };
        let head = decoder.take(HEAD_BYTES as u64)?;
        if !head.starts_with(&MAGIC) {
            return Err(Fault::NotABackup(head.into_iter().take(8).collect()));
        }
        let Some(version) = head.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes) else {
            return Err(decoder.damaged("it ends in its head".to_owned()));
        };
        if !FILE_VERSIONS.contains(&version) {
            return Err(Fault::OtherFormat(version));
        }
        if head.len() < HEAD_BYTES {
            return Err(decoder.damaged("it ends in its head".to_owned()));
        }
        let (kind, content) = decoder.record()?;
        if kind != MANIFEST {
            return Err(decoder.damaged(format!("expected the manifest, found a record of kind {kind}")));
        }
        decoder.manifest = v1::BackupManifest::decode(&*content)
            .map_err(|error| decoder.damaged(format!("the manifest can't be read: {error}")))?;
        Ok(decoder)
    }

    /// The next page; none at the end, which is there and says that all were.
    pub(crate) fn next_page(&mut self) -> Result<Option<Bytes>, Fault> {
        if self.ended {
            return Ok(None);
        }
        match self.record()? {
            (PAGE, content) => {
                self.pages += 1;
                Ok(Some(Bytes::from(content)))
            }
            (END, content) if content.is_empty() && self.pages == self.manifest.pages => {
                self.ended = true;
                if self.take(1)?.is_empty() {
                    Ok(None)
                } else {
                    Err(self.damaged("expected nothing behind the end, found more".to_owned()))
                }
            }
            (END, _) => Err(self.damaged(format!("expected {} pages, found {}", self.manifest.pages, self.pages))),
            (kind, _) => Err(self.damaged(format!("expected a page, found a record of kind {kind}"))),
        }
    }

    fn damaged(&self, what: String) -> Fault {
        let (record, offset) = self.last;
        Fault::Damaged { record, offset, what }
    }

    /// Up to so many bytes: fewer only at the end of the file. Memory grows with what is there, not with what is promised.
    fn take(&mut self, bytes: u64) -> Result<Vec<u8>, Fault> {
        let mut taken = Vec::new();
        (&mut self.from).take(bytes).read_to_end(&mut taken).map_err(Fault::Read)?;
        self.hasher.update(&taken);
        Ok(taken)
    }

    fn record(&mut self) -> Result<(u8, Vec<u8>), Fault> {
        let (number, offset) = (self.records, self.offset);
        self.last = (number, offset);
        let damaged = |what: &str| Fault::Damaged { record: number, offset, what: what.to_owned() };
        let head = self.take(RECORD_HEAD_BYTES as u64)?;
        let [kind, length @ ..] = head.as_slice() else { return Err(damaged("the file ends before its end record")) };
        let Ok(length) = <[u8; 4]>::try_from(length).map(u32::from_le_bytes) else {
            return Err(damaged("the file ends within the record"));
        };
        if length > CONTENT_BYTES_MAX {
            return Err(damaged(&format!("expected at most {CONTENT_BYTES_MAX} bytes, found {length}")));
        }
        let content = self.take(length.into())?;
        let expected = self.hasher.finalize();
        let seal = self.take(SEAL_BYTES as u64)?;
        if content.len() as u64 != u64::from(length) || seal.len() != SEAL_BYTES {
            return Err(damaged("the file ends within the record"));
        }
        if seal != expected.as_bytes()[..SEAL_BYTES] {
            return Err(damaged("what stands here or before is not what was sealed"));
        }
        self.records += 1;
        self.offset = offset + (RECORD_HEAD_BYTES + content.len() + SEAL_BYTES) as u64;
        Ok((*kind, content))
    }
}

/// Reads a whole backup and checks its seals; its manifest. Of one that is durable it reads what is on the disk, as far as the system lets one know,
/// and not what it still has in memory.
///
/// # Errors
/// [`BackupError`](super::BackupError) with the place.
pub fn check(path: &std::path::Path) -> Result<v1::BackupManifest, super::BackupError> {
    let file = std::fs::File::open(path).map_err(|source| super::BackupError::Io { path: path.to_owned(), source })?;
    // Advice only: where it is not followed, what was written is checked, and not the disk.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    let checked = || {
        let mut decoder = Decoder::begin(io::BufReader::with_capacity(1 << 18, file))?;
        while decoder.next_page()?.is_some() {}
        Ok(decoder.manifest)
    };
    checked().map_err(|fault| super::BackupError::of(path, fault))
}

#[cfg(test)]
#[path = "file/tests.rs"]
mod tests;
