//! Segments that the log has no need of any more, and that stay: what they hold can be read by its place until it is given up.
//!
//! A kept segment has the same bytes under another name, so that opening does not walk it. It gets that name in one step, oldest first and
//! one at a time, each durable before the next: whenever the power goes, every segment has exactly one of both names, and none is missing
//! between two others.

use crate::disk::{Disk, DiskError, OpenMode};
use crate::forgiving::is_lost;
use crate::format::{CellId, SECTOR_BYTES, Sector, index};
use crate::segment::{self, SegmentHeader};
use crate::shelf::Segment;
use std::collections::VecDeque;

/// The kept segments of a directory that come before a segment, oldest first. Reads the first sector of each.
///
/// Where one can't be read, it counts as if it began where the one after it does: then nothing is given up too early.
pub(crate) fn list(disk: &dyn Disk, cell: CellId, before: &Segment) -> Result<VecDeque<Segment>, DiskError> {
    let mut kept = VecDeque::new();
    let mut first_after = before.first_revision;
    for number in numbers(disk)?.into_iter().rev().filter(|number| *number < before.number) {
        let name = segment::kept_name(number);
        // A disk that fails there costs the past that it holds, and not the start.
        let (bytes, header) = read_header(disk, &name).unwrap_or_else(|error| {
            tracing::warn!(file = name, %error, "a kept segment can't be read");
            (0, None)
        });
        let header = header.filter(|header| header.cell == cell && header.number == number);
        if header.is_none() {
            tracing::warn!(file = name, "the header of a kept segment can't be read");
        }
        first_after = header.map_or(first_after, |header| header.first_revision.min(first_after));
        kept.push_front(Segment { number, first_revision: first_after, bytes });
    }
    Ok(kept)
}

/// The size of a segment, and its header where it is one.
fn read_header(disk: &dyn Disk, name: &str) -> Result<(u64, Option<SegmentHeader>), DiskError> {
    let file = disk.open(name, OpenMode::Existing)?;
    let bytes = file.size_bytes()?;
    if bytes < SECTOR_BYTES {
        return Ok((bytes, None));
    }
    let mut sector: Sector = [0; index(SECTOR_BYTES)];
    file.read_at(0, &mut sector)?;
    Ok((bytes, SegmentHeader::decode(&sector).ok()))
}

/// Makes kept segments part of the log again, as many as it takes for the log to go back to a revision; how many. Where there are not
/// enough that join it, nobody could begin with them, and nothing is changed.
///
/// The newest first, so that the log has no gap whenever the power goes.
pub(crate) fn rejoin(disk: &dyn Disk, from_revision: u64) -> Result<u64, DiskError> {
    let goes_back = |name: &str| {
        let header = match read_header(disk, name) {
            Ok((_, header)) => header,
            // A sector that is gone in one that may not be needed at all does not keep others from being read again.
            Err(error) if is_lost(&error) && segment::kept_number_in(name).is_some() => {
                tracing::warn!(file = name, %error, "a kept segment can't be read");
                None
            }
            Err(error) => return Err(error),
        };
        Ok::<_, DiskError>(header.is_some_and(|header| header.first_revision <= from_revision))
    };
    let oldest = disk.list()?.iter().filter_map(|name| segment::number_in(name)).min();
    let mut kept = numbers(disk)?;
    let mut expected = match oldest {
        Some(oldest) if goes_back(&segment::name(oldest))? => return Ok(0),
        Some(oldest) => oldest.checked_sub(1),
        None => kept.last().copied(),
    };
    let mut joining = Vec::new();
    kept.retain(|number| expected.is_some_and(|expected| *number <= expected));
    loop {
        let Some(number) = kept.pop().filter(|number| Some(*number) == expected) else { return Ok(0) };
        joining.push(number);
        expected = number.checked_sub(1);
        if goes_back(&segment::kept_name(number))? {
            break;
        }
    }
    for number in &joining {
        disk.rename(&segment::kept_name(*number), &segment::name(*number))?;
        disk.sync_dir()?;
    }
    Ok(crate::format::count(joining.len()))
}

/// The numbers of all kept segments, rising.
pub(crate) fn numbers(disk: &dyn Disk) -> Result<Vec<u64>, DiskError> {
    let mut numbers: Vec<u64> = disk.list()?.iter().filter_map(|name| segment::kept_number_in(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
