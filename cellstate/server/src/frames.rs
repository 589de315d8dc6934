//! The log as the history reads it: frames by their place, of segments that are live or kept.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use plenum_history::{Frames, FramesError, LogRange};
use plenum_journal::{Archive, DiskError, FrameRange, RealDisk};

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
        let read = self.0.read(&asked).map_err(|error| FramesError(error.into()))?;
        let bytes = Bytes::from(read.bytes);
        Ok(read.frames.into_iter().map(|(_, _, payload)| bytes.slice(payload)).collect())
    }
}
