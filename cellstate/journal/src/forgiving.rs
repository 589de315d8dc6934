//! A file of which some sectors can't be read any more: for whoever looks at what is left of a log.
//!
//! Such sectors read as bytes that no record has, so that what is walked is damaged there and goes on behind it. Only where nothing is
//! decided by it but how much is lost: opening a log fails with the disk's own error, or says that it has no mark.

use crate::disk::{DiskError, DiskFile};
use crate::format::{SECTOR_BYTES, count, index};
use std::io;
use std::sync::{Mutex, PoisonError};

/// Neither zeros, which would be the end of a log, nor the magic number of anything.
const LOST: u8 = 0xff;

/// What systems say of bytes that the medium has lost: `EIO`, `EBADMSG` and `EUCLEAN`. A file that may not be opened, or too many that
/// are open, is nothing lost.
const LOST_ERRORS: [i32; 3] = [5, 74, 117];

/// Operations in which the disk gives back what it was given. A file whose inode is lost can't even be opened.
const READS: [&str; 3] = ["read", "opening", "stat"];

/// Whether the disk can't give back what it was given.
pub(crate) fn is_lost(error: &DiskError) -> bool {
    READS.contains(&error.operation) && tells_of_loss(&error.source)
}

/// Whether the system says that the medium has lost what was asked for, whatever that was.
pub(crate) fn tells_of_loss(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| LOST_ERRORS.contains(&code))
}

/// Sectors that follow each other and can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostRange {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) error: String,
}

/// See above.
pub(crate) struct Forgiving {
    file: Box<dyn DiskFile>,
    lost: Mutex<Vec<LostRange>>,
}

impl Forgiving {
    pub(crate) fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file, lost: Mutex::default() }
    }

    /// What could not be read, in order, each once.
    pub(crate) fn lost(&self) -> Vec<LostRange> {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lost.sort_unstable_by_key(|range| range.offset);
        let mut joined: Vec<LostRange> = Vec::new();
        for range in lost {
            match joined.last_mut() {
                Some(last) if range.offset <= last.offset + last.bytes => {
                    last.bytes = last.bytes.max(range.offset + range.bytes - last.offset);
                }
                _ => joined.push(range),
            }
        }
        joined
    }

    fn lose(&self, offset: u64, bytes: u64, error: &DiskError) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        // A walk comes to the same sectors more than once.
        if lost.iter().any(|range| (range.offset..range.offset + range.bytes).contains(&offset)) {
            return;
        }
        match lost.last_mut() {
            Some(last) if last.offset + last.bytes == offset => last.bytes += bytes,
            _ => lost.push(LostRange { offset, bytes, error: error.source.to_string() }),
        }
    }
}

impl DiskFile for Forgiving {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        match self.file.read_at(offset, into) {
            Err(error) if is_lost(&error) => {}
            read => return read,
        }
        let sectors = into.chunks_mut(index(SECTOR_BYTES));
        for (at, sector) in (offset..).step_by(index(SECTOR_BYTES)).zip(sectors) {
            match self.file.read_at(at, sector) {
                Err(error) if is_lost(&error) => {
                    sector.fill(LOST);
                    self.lose(at, count(sector.len()), &error);
                }
                read => read?,
            }
        }
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, DiskError> {
        self.file.size_bytes()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_at(offset, bytes)
    }

    fn zero(&self, offset: u64, bytes: u64) -> Result<bool, DiskError> {
        self.file.zero(offset, bytes)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.file.sync()
    }

    fn settle(&self) -> Result<(), DiskError> {
        self.file.settle()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Of a file whose inode is damaged, which can't even be opened, it was said that it may be sound.
    #[test]
    fn what_can_not_even_be_opened_for_the_medium_is_lost_and_what_may_not_be_is_not() {
        let is_lost = |operation, code| {
            let error = DiskError { operation, path: String::new(), source: io::Error::from_raw_os_error(code) };
            assert_ne!(is_lost(&error), error.may_be_sound());
            is_lost(&error)
        };
        for code in LOST_ERRORS {
            assert!(READS.iter().all(|operation| is_lost(operation, code)), "{code}");
            assert!(!is_lost("write", code) && !is_lost("listing", code), "{code}");
        }
        // EACCES, ENFILE, EMFILE.
        for code in [13, 23, 24] {
            assert!(!READS.iter().any(|operation| is_lost(operation, code)), "{code}");
        }
    }
}
