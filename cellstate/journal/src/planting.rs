//! A log that begins in the middle: of a cell that was restored, whose state up to there is kept elsewhere.

use crate::disk::{Disk, OpenMode};
use crate::identity::Identity;
use crate::journal::begin;
use crate::mark::{Mark, MarkFile};
use crate::options::Options;
use crate::recovery::{LOCK, OpenError};
use crate::scan::Tail;
use crate::segment;
use crate::shelf::{Fill, Segment, make_segment};

/// Segments of a planted log are numbered from here on. In the first segment ever, the header has nothing to be trusted with: there is
/// nothing before it. From the second on, the oldest header says what came before.
const FIRST_NUMBER: u64 = 2;

const _: () = assert!(FIRST_NUMBER > 1, "the header of segment 1 is not trusted");

/// Makes an empty directory the log of a cell that is at `tail` already: the next batch begins one revision after it, and carries its
/// hash. The mark is there, too: a log of less is refused from now on. Open it with [`Journal::open`](crate::Journal::open), and the
/// same `segment_bytes` or others.
///
/// The identity is written last: before that, the directory is no cell, and nobody takes it for one.
///
/// # Errors
/// [`OpenError::NotEmpty`], [`OpenError::Options`], [`OpenError::Locked`], [`OpenError::Disk`]. What was written until then stays.
pub fn plant(disk: &dyn Disk, identity: Identity, tail: Tail, options: &Options) -> Result<(), OpenError> {
    options.check()?;
    let _lock = disk.lock(LOCK)?;
    if let Some(found) = disk.list()?.into_iter().find(|name| name != LOCK) {
        return Err(OpenError::NotEmpty { directory: disk.place(), found });
    }
    // Whoever made the directory, or one above it, may have done so a moment ago: all that is acknowledged would go with its name.
    disk.sync_name()?;
    let first_revision = tail.revision.saturating_add(1);
    let bytes = make_segment(disk, FIRST_NUMBER, options.segment_bytes, Fill::Written)?;
    let file = disk.open(&segment::name(FIRST_NUMBER), OpenMode::Existing)?;
    begin(&*file, &identity, &Segment { number: FIRST_NUMBER, first_revision, bytes }, tail)?;
    MarkFile::create(disk, identity.cell, Mark { revision: tail.revision, hash: tail.hash })?;
    disk.sync_dir()?;
    identity.create(disk)?;
    Ok(())
}
