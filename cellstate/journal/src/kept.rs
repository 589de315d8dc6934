//! Segments that the log has no need of any more, and that stay: what they hold can be read by its place until it is given up.
//!
//! A kept segment has the same bytes under another name, so that opening does not walk it. It gets that name in one step, oldest first and
//! one at a time, each durable before the next: whenever the power goes, every segment has exactly one of both names, and none is missing
//! between two others.

use crate::disk::{Disk, DiskError, OpenMode};
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
        let file = disk.open(&name, OpenMode::Existing)?;
        let bytes = file.size_bytes()?;
        let mut sector: Sector = [0; index(SECTOR_BYTES)];
        let header = if bytes < SECTOR_BYTES {
            None
        } else {
            file.read_at(0, &mut sector)?;
            SegmentHeader::decode(&sector).ok().filter(|header| header.cell == cell && header.number == number)
        };
        if header.is_none() {
            tracing::warn!(file = name, "the header of a kept segment can't be read");
        }
        first_after = header.map_or(first_after, |header| header.first_revision.min(first_after));
        kept.push_front(Segment { number, first_revision: first_after, bytes });
    }
    Ok(kept)
}

/// Makes kept segments part of the log again, as far as they join it; how many.
///
/// The newest first, so that the log has no gap whenever the power goes.
pub(crate) fn rejoin(disk: &dyn Disk) -> Result<u64, DiskError> {
    let oldest = disk.list()?.iter().filter_map(|name| segment::number_in(name)).min();
    let mut kept = numbers(disk)?;
    let mut expected = match oldest {
        Some(oldest) => oldest.checked_sub(1),
        None => kept.last().copied(),
    };
    let mut rejoined = 0;
    kept.retain(|number| expected.is_some_and(|expected| *number <= expected));
    while let Some(number) = kept.pop().filter(|number| Some(*number) == expected) {
        disk.rename(&segment::kept_name(number), &segment::name(number))?;
        disk.sync_dir()?;
        rejoined += 1;
        expected = number.checked_sub(1);
    }
    Ok(rejoined)
}

/// The numbers of all kept segments, rising.
fn numbers(disk: &dyn Disk) -> Result<Vec<u64>, DiskError> {
    let mut numbers: Vec<u64> = disk.list()?.iter().filter_map(|name| segment::kept_number_in(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
