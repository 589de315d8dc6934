//! Real files. The only module of this crate that uses `std::fs`, with that of their lock.

mod lock;

use super::{Disk, DiskError, DiskFile, DiskLock, LockError, OpenMode};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, fdatasync, fstatvfs};
use rustix::io::{Errno, retry_on_intr};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A directory of the file system.
#[derive(Debug)]
pub struct RealDisk {
    directory: PathBuf,
    /// Open on the directory itself: it is synced for names, and asked for free room.
    handle: File,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.display().to_string();
    move |source| DiskError { operation, path, source }
}

impl RealDisk {
    /// Uses a directory; makes it, with its parents, readable by its owner only, when it is not there.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let directory = directory.into();
        if !directory.is_dir() {
            // A directory whose own name is lost in a power cut takes its log with it, and so do its parents.
            let parents = directory.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
            let present = parents.clone().position(Path::is_dir).unwrap_or(0);
            let changed: Vec<PathBuf> = parents.take(present + 1).map(Path::to_owned).collect();
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700).create(&directory).map_err(failed("creation", &directory))?;
            for parent in changed {
                File::open(&parent).and_then(|parent| parent.sync_all()).map_err(failed("sync", &parent))?;
            }
        }
        RealDisk::existing(directory)
    }

    /// Uses a directory that must be there, and makes none: for whoever only looks.
    ///
    /// # Errors
    /// When it is not there or cannot be opened.
    pub fn existing(directory: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let directory = directory.into();
        let handle = File::open(&directory).map_err(failed("opening", &directory))?;
        Ok(RealDisk { directory, handle })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Whether a folder can't be synced because it is none that this user has made: it is another one's, or of a file system that nobody writes to.
fn is_of_others(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | InvalidInput | Unsupported)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).truncate(false).mode(0o600);
    options
}

impl Disk for RealDisk {
    fn place(&self) -> String {
        self.directory.display().to_string()
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let list = || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&self.directory)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                // A link is opened as the file that it leads to: overlooked, a log of links would be an empty directory, and a new log be
                // written through them. Names that are not text are none of ours.
                let is_file = kind.is_file() || kind.is_symlink();
                if let (true, Ok(name)) = (is_file, entry.file_name().into_string()) {
                    names.push(name);
                }
            }
            Ok(names)
        };
        list().map_err(failed("listing", &self.directory))
    }

    fn open(&self, name: &str, mode: OpenMode) -> Result<Box<dyn DiskFile>, DiskError> {
        let path = self.path(name);
        let file = options().create(mode == OpenMode::Create).open(&path).map_err(failed("opening", &path))?;
        Ok(Box::new(RealFile { path, file }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let path = self.path(from);
        std::fs::rename(&path, self.path(to)).map_err(failed("renaming", &path))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.path(name);
        std::fs::remove_file(&path).map_err(failed("removal", &path))
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        self.handle.sync_all().map_err(failed("sync", &self.directory))
    }

    fn sync_name(&self) -> Result<(), DiskError> {
        let directory = self.directory.canonicalize().map_err(failed("opening", &self.directory))?;
        for parent in directory.ancestors().skip(1) {
            match File::open(parent).and_then(|parent| parent.sync_all()) {
                Err(error) if is_of_others(&error) => {
                    tracing::debug!(path = %parent.display(), %error, "a folder above the log could not be synced");
                }
                synced => synced.map_err(failed("sync", parent))?,
            }
        }
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        let room = fstatvfs(&self.handle).map_err(io::Error::from).map_err(failed("statvfs", &self.directory))?;
        // `bavail`, not `bfree`: what is kept for root is not ours to plan with.
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError> {
        Ok(Box::new(lock::take(&self.path(name))?))
    }
}

struct RealFile {
    path: PathBuf,
    file: File,
}

impl DiskFile for RealFile {
    fn size_bytes(&self) -> Result<u64, DiskError> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(failed("stat", &self.path))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.file.read_exact_at(into, offset).map_err(failed("read", &self.path))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_all_at(bytes, offset).map_err(failed("write", &self.path))
    }

    fn zero(&self, offset: u64, bytes: u64) -> Result<bool, DiskError> {
        // Unlike a sync it may be repeated.
        match retry_on_intr(|| fallocate(&self.file, FallocateFlags::ZERO_RANGE, offset, bytes)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
            Err(other) => Err(failed("allocation", &self.path)(other.into())),
        }
    }

    fn sync(&self) -> Result<(), DiskError> {
        // Not retried when interrupted: a second answer must not be believed (see the trait).
        fdatasync(&self.file).map_err(io::Error::from).map_err(failed("sync", &self.path))
    }

    fn settle(&self) -> Result<(), DiskError> {
        self.sync()?;
        // Advice only: a file system without a page cache may not know it, and then there is nothing to forget.
        // Dirty pages would not be dropped, hence the sync before it.
        if let Err(cause) = fadvise(&self.file, 0, None, Advice::DontNeed) {
            tracing::debug!(path = %self.path.display(), %cause, "cached pages could not be dropped");
        }
        Ok(())
    }
}
