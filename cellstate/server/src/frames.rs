//! The log as the history reads it: frames by their place, of segments that are live or kept.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use plenum_history::{Frames, FramesError, LogRange};
use plenum_journal::{Archive, DiskError, FrameRange, ReadError, RealDisk};

use crate::error::told;

/// The segments of a directory. The log need not be open.
#[derive(Debug)]
struct LogFrames(Archive);

/// The frames in a log's directory, for a history to read: [`plenum_history::Options::frames`].
///
/// # Errors
/// When the directory can't be opened.
pub fn frames_in(log: &Path) -> Result<Arc<dyn Frames>, DiskError> {
    Ok(Arc::new(LogFrames(Archive::new(Arc::new(RealDisk::existing(log)?)))))
}

impl Frames for LogFrames {
    fn read(&self, range: &LogRange) -> Result<Vec<Bytes>, FramesError> {
        let asked = FrameRange {
            segment: range.place.segment,
            offset: range.place.offset,
            bytes: range.place.bytes,
            first_revision: range.first,
            last_revision: range.last,
        };
        let read = self.0.read(&asked).map_err(|error| match error {
            ReadError::Disk(failed) if failed.may_be_sound() => FramesError::Unread(told(&failed)),
            error => FramesError::Damaged(told(&error)),
        })?;
        let bytes = Bytes::from(read.bytes);
        Ok(read.frames.into_iter().map(|(_, _, payload)| bytes.slice(payload)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_history::LogPlace;
    use plenum_journal::{Disk as _, OpenMode, SimDisk, SimOperation};

    // For want of open files, what was asked of the past was called damaged.
    #[test]
    fn a_segment_that_can_not_be_looked_at_now_is_not_called_damaged() {
        let disk = SimDisk::new(1);
        let file = disk.open(&format!("{:020}.kept", 1), OpenMode::Create).unwrap();
        file.write_at(0, &[0; 4096]).unwrap();
        let frames = LogFrames(Archive::new(Arc::new(disk.clone())));
        let place = LogPlace { segment: 1, offset: 512, bytes: 512 };
        let read = || frames.read(&LogRange { place, first: 1, last: 1 }).unwrap_err();
        assert!(matches!(read(), FramesError::Damaged(_)));
        disk.fail(SimOperation::Read, 0, std::io::ErrorKind::PermissionDenied);
        assert!(matches!(read(), FramesError::Unread(_)));
    }
}
