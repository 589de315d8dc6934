//! How the file of a segment is made: of zeros, whole and durable before it has a segment's name.

use crate::disk::{Disk, DiskError, DiskFile, OpenMode};
use crate::format::{CHUNK_BYTES, count, index};
use crate::segment;

/// How a file becomes one of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Zeros are written. A later write changes nothing but data, so that its sync waits for nothing else.
    Written,
    /// The file system notes that the blocks are zeros. A later write changes that note, which its sync waits for; but
    /// the disk writes everything once, and not twice.
    Noted,
}

impl Fill {
    /// From this mean frame on, a sync that waits for the note costs less than zeros in its place: both take 100 µs on a disk of
    /// 2.5 GB/s.
    const NOTED_FROM_BYTES: u64 = 256 * 1024;

    /// What suits the next segment, when it gets such frames.
    pub(super) fn for_frames(mean_bytes: u64) -> Self {
        if mean_bytes < Fill::NOTED_FROM_BYTES { Fill::Written } else { Fill::Noted }
    }
}

/// Zeros of a segment that are written between two syncs. Beside 64 MiB at once one of the log's own takes 40 ms, beside 1 MiB 1.2 ms
/// in one of a hundred.
const SYNCED_BYTES: u64 = 512 * 1024;

const _: () = assert!(SYNCED_BYTES.is_multiple_of(CHUNK_BYTES));

/// Makes the spare a file of zeros and gives it a segment's name; its size. On failure the spare is removed: its
/// room is needed more than its blocks.
pub(crate) fn make_segment(disk: &dyn Disk, number: u64, bytes: u64, fill: Fill) -> Result<u64, DiskError> {
    let make = || {
        let mut file = disk.open(segment::SPARE, OpenMode::Create)?;
        if file.size_bytes()? > bytes {
            // Of a larger setting: begun anew, so that all files have the size they should have.
            disk.remove(segment::SPARE)?;
            file = disk.open(segment::SPARE, OpenMode::Create)?;
        }
        if fill == Fill::Written || !file.zero(0, bytes)? {
            write_zeros(&*file, bytes)?;
        }
        file.sync()?;
        disk.rename(segment::SPARE, &segment::name(number))?;
        disk.sync_dir()
    };
    make().inspect_err(|_| {
        if let Err(also) = disk.remove(segment::SPARE) {
            tracing::debug!(cause = %also, "the spare file is not there to be removed");
        }
    })?;
    Ok(bytes)
}

fn write_zeros(file: &dyn DiskFile, bytes: u64) -> Result<(), DiskError> {
    let zeros = vec![0; index(bytes.min(CHUNK_BYTES))];
    let mut offset = 0;
    while offset < bytes {
        let length = count(zeros.len()).min(bytes - offset);
        file.write_at(offset, &zeros[..index(length)])?;
        offset += length;
        // A sync of the log itself waits for what is before it on the disk: for a whole segment of zeros that is 40 ms.
        if offset.is_multiple_of(SYNCED_BYTES) {
            file.sync()?;
        }
    }
    Ok(())
}
