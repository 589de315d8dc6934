//! Small files that are either there whole or not there at all: what an agent and its shims tell each other, over
//! crashes of either. It knows nothing of what is in them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// A file of ours is never larger: a job's body is at most 64 KiB, and the rest is small. A longer one is damage.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is put aside for a value that is yet to come: a block, as file systems give them.
const RESERVED_BYTES: usize = 4096;

/// Writes `value` beside `path`, moves it over `path`, and syncs it there.
///
/// Readers see the old content or the new one. After success the new content survives a crash of the machine. One sync
/// after the move is enough on the file systems of Linux, whose journals keep the order of a new name and its sync; a sync
/// before it, and one of the directory, would be three for each word between agent and shim. Should the machine crash in
/// between, the file may be damaged, which its reader takes for a task of an earlier boot that nobody knows the end of.
pub(crate) fn write_atomically<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write_over(path, value)?.sync_all()
}

/// Like [`write_atomically`], for what need not outlive the boot: it is not synced.
pub(crate) fn write_for_this_boot<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write_over(path, value).map(drop)
}

/// Like [`write_atomically`], for what must be whole after a crash of the machine, too: it is synced before it gets its name as well. That
/// is no file of a task, whose reader expects the boot to have ended it.
pub(crate) fn write_surely<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let (temporary, file) = write_beside(path, value)?;
    let named = file.sync_all().and_then(|()| fs::rename(&temporary, path));
    named.inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    file.sync_all()
}

/// Like [`write_atomically`], but only the first of several writers succeeds. False: somebody was there before. It is not
/// synced: it need not outlive the boot.
///
/// A hard link to an existing name fails, and it is atomic with the content; a plain exclusive creation is not.
pub(crate) fn write_once<T: Serialize>(path: &Path, value: &T) -> io::Result<bool> {
    let (temporary, _) = write_beside(path, value)?;
    let linked = fs::hard_link(&temporary, path);
    let _ = fs::remove_file(&temporary);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// A place on the disk that was taken beforehand, for a value that must be written also where there is no room any more. File systems that
/// write all anew elsewhere may need some all the same.
pub(crate) struct Reserved {
    file: File,
    path: PathBuf,
}

impl Reserved {
    /// Takes the place at `path`, also where another writer left one.
    pub(crate) fn at(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let taken = file.write_all_at(&[b' '; RESERVED_BYTES], 0);
        taken.inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(Self { file, path })
    }

    /// Writes `value` there and moves it over `path`, with what [`write_atomically`] promises. After a failure it may be tried again.
    pub(crate) fn write_atomically<T: Serialize>(&self, path: &Path, value: &T) -> io::Result<()> {
        let text = serde_json::to_vec(value).map_err(|error| invalid(path, error.to_string()))?;
        // All that is behind it is blank, which means nothing; what is longer than the place must not be cut.
        self.file.write_all_at(&text, 0)?;
        let _ = self.file.set_len(text.len() as u64);
        fs::rename(&self.path, path)?;
        self.file.sync_all()
    }
}

/// Reads what one of the writers above left; `None` when there is no such file.
///
/// # Errors
/// `InvalidData` when the file is too long or is not such a value; the message names the file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(invalid(path, format!("expected at most {FILE_BYTES_MAX} bytes")));
    }
    parse(&text).map(Some).map_err(|error| invalid(path, error.to_string()))
}

/// Reads the content of such a file.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(text)
}

fn invalid(path: &Path, what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("{}: {what}", path.display()))
}

fn write_over<T: Serialize>(path: &Path, value: &T) -> io::Result<File> {
    let (temporary, file) = write_beside(path, value)?;
    fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    Ok(file)
}

fn write_beside<T: Serialize>(path: &Path, value: &T) -> io::Result<(PathBuf, File)> {
    let text = serde_json::to_vec(value).map_err(|error| invalid(path, error.to_string()))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Two shims may race for one record, so each writes its own temporary file.
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // A task's environment may hold what others shall not read.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&text).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    Ok((temporary, file))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_first_of_two_writers_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        assert!(write_once(&path, &1).unwrap());
        assert!(!write_once(&path, &2).unwrap());
        assert_eq!(read::<i32>(&path).unwrap(), Some(1));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "temporary files stay behind");
    }

    #[test]
    fn what_is_written_where_room_was_reserved_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (place, path) = (dir.path().join("reserved"), dir.path().join("exit-0"));
        // Another writer died over it.
        fs::write(&place, "{\"half").unwrap();
        for value in ["short".to_owned(), "long".repeat(RESERVED_BYTES)] {
            let reserved = Reserved::at(place.clone()).unwrap();
            assert!(fs::metadata(&place).unwrap().len() >= RESERVED_BYTES as u64);
            reserved.write_atomically(&path, &value).unwrap();
            assert_eq!(read::<String>(&path).unwrap(), Some(value));
            assert!(!place.exists());
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit-0");
        fs::write(&path, b"{\"half").unwrap();
        let error = read::<i32>(&path).unwrap_err().to_string();
        assert!(error.contains("exit-0"), "{error}");
        assert_eq!(read::<i32>(&dir.path().join("absent")).unwrap(), None);
    }
}
