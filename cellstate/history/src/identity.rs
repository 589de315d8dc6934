//! Whose history a folder is, and in which format: a small text file beside the store, written before anything else.
use crate::error::OpenError;
use crate::keys::hex;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

/// Raised when rows mean something else than before. Since 3, page images may be compressed; since 4, blocks may be places in the log,
/// and filters are made otherwise; since 5, page images are in sets; since 6, what is held, reserved and limited
/// has pages of its own; since 7, a large set of images begins with a file, and filters know slots otherwise; since 8,
/// images of tasks and allocations are columns of differences.
const FORMAT: u32 = 8;
/// Those whose rows are read as they are; the last one is written. Opening a history of an older one raises it, as what is written from then on is
/// of the newest.
pub const FORMATS: std::ops::RangeInclusive<u32> = 2..=FORMAT;

const FILE: &str = "identity";
const UNFINISHED: &str = "identity.new";

/// Makes sure that `folder` is the history of the cell, in a format that can be read, and says whether that is the newest: a store that is there has all
/// that belongs to one then. An absent or empty folder becomes it.
pub(crate) fn claim(folder: &Path, cell_id: &[u8]) -> Result<bool, OpenError> {
    keep_private(folder);
    match format_of(folder, cell_id)? {
        Some(format) => Ok(format == FORMAT),
        None => create(folder, cell_id).map(|()| true),
    }
}

/// Raises an older format to ours, before any row of ours is written. For who has the store open and settled, which writes no row of ours: one that
/// another process has, or that can't be opened, stays the history of whose it is, and what a crash leaves before this can be opened by either.
pub(crate) fn raise(folder: &Path, cell_id: &[u8]) -> Result<(), OpenError> {
    match format_of(folder, cell_id)? {
        Some(FORMAT) => Ok(()),
        _ => write_identity(folder, cell_id),
    }
}

/// The format of the cell's history in `folder`; none where it has no identity.
fn format_of(folder: &Path, cell_id: &[u8]) -> Result<Option<u32>, OpenError> {
    let path = folder.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => check(folder, &text, cell_id).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(damaged(folder, "its identity file is not text"))
        }
        Err(source) => Err(OpenError::Folder { path, source }),
    }
}

/// Earlier versions made the folder for everybody to read. Where that can't be changed, on a file system that is only read, it stays.
fn keep_private(folder: &Path) {
    let is_open = fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
    if is_open {
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    }
}

/// Gives its format.
fn check(folder: &Path, text: &str, cell_id: &[u8]) -> Result<u32, OpenError> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let found = value("format ").ok_or_else(|| damaged(folder, "its identity file names no format"))?;
    let format = found.parse().ok().filter(|format| FORMATS.contains(format));
    let Some(format) = format else {
        return Err(OpenError::OtherFormat { path: folder.to_owned(), expected: FORMAT, found: found.to_owned() });
    };
    let found = value("cell ").ok_or_else(|| damaged(folder, "its identity file names no cell"))?;
    let expected = hex(cell_id);
    if found != expected {
        return Err(OpenError::OtherCell { path: folder.to_owned(), expected, found: found.to_owned() });
    }
    Ok(format)
}

fn create(folder: &Path, cell_id: &[u8]) -> Result<(), OpenError> {
    let failed = |source| OpenError::Folder { path: folder.to_owned(), source };
    // What jobs are given, their environment too, stands in it.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    for entry in fs::read_dir(folder).map_err(failed)? {
        if entry.map_err(failed)?.file_name() != UNFINISHED {
            return Err(OpenError::NotAHistory { path: folder.to_owned() });
        }
    }
    write_identity(folder, cell_id)
}

fn write_identity(folder: &Path, cell_id: &[u8]) -> Result<(), OpenError> {
    let failed = |source| OpenError::Folder { path: folder.to_owned(), source };
    let unfinished = folder.join(UNFINISHED);
    let mut file = File::create(&unfinished).map_err(failed)?;
    write!(file, "The history of a plenum cell.\nformat {FORMAT}\ncell {}\n", hex(cell_id)).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&unfinished, folder.join(FILE)).map_err(failed)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn damaged(folder: &Path, what: &str) -> OpenError {
    OpenError::Damaged { path: folder.to_owned(), what: what.to_owned() }
}
