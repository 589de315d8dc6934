//! Segments that the log has no need of any more, and that stay: what they hold can be read by its place until it is given up.
//!
//! A kept segment has the same bytes under another name, so that opening does not walk it. It gets that name in one step, oldest first and
//! one at a time, each durable before the next: whenever the power goes, every segment has exactly one of both names, and none is missing
//! between two others.

use crate::disk::{Disk, DiskError, OpenMode};
use crate::flaw::{Damage, Flaw};
use crate::forgiving::is_lost;
use crate::format::{CellId, ChainHash, SECTOR_BYTES, Sector, index};
use crate::identity::Identity;
use crate::mark::Mark;
use crate::scan::{Scanner, Step, Tail};
use crate::segment::{self, SegmentHeader};
use crate::shelf::Segment;
use crate::survey::Surveyor;
use std::collections::VecDeque;
use std::io;

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
pub(crate) fn read_header(disk: &dyn Disk, name: &str) -> Result<(u64, Option<SegmentHeader>), DiskError> {
    let file = disk.open(name, OpenMode::Existing)?;
    let bytes = file.size_bytes()?;
    if bytes < SECTOR_BYTES {
        return Ok((bytes, None));
    }
    let mut sector: Sector = [0; index(SECTOR_BYTES)];
    file.read_at(0, &mut sector)?;
    Ok((bytes, SegmentHeader::decode(&sector).ok()))
}

/// The hash of the frame before the one that begins with a revision, as that one says in a kept segment. None where no frame begins there, where the
/// segment is damaged before that, or was used again meanwhile: its frames would be of another number.
pub(crate) fn hash_before(disk: &dyn Disk, number: u64, first_revision: u64) -> Result<Option<ChainHash>, DiskError> {
    let name = segment::kept_name(number);
    let (bytes, header) = match read_header(disk, &name) {
        Err(failed) if failed.source.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let Some(header) = header else { return Ok(None) };
    let file = disk.open(&name, OpenMode::Existing)?;
    let before = Tail { revision: header.first_revision.saturating_sub(1), term: header.term, hash: header.previous };
    let mut scanner = Scanner::new(number, header.segment_bytes.min(bytes), before);
    scanner.skip_to(&*file, first_revision)?;
    match scanner.step(&*file)? {
        Step::Frame(found) if found.breaks.is_none() && found.head.first_revision == first_revision => {
            Ok(Some(found.head.previous))
        }
        _ => Ok(None),
    }
}

/// Makes kept segments part of the log again, as many as it takes for the log to go back to a revision; how many. Where there are not
/// enough that join it, nobody could begin with them, and where one of them is damaged, the log could not be opened any more: then nothing
/// is changed. So all that they hold is read before.
///
/// The newest first, so that the log has no gap whenever the power goes.
pub(crate) fn rejoin(
    disk: &dyn Disk,
    (identity, mark): (Identity, Mark),
    from_revision: u64,
) -> Result<u64, DiskError> {
    let oldest = disk.list()?.iter().filter_map(|name| segment::number_in(name)).min();
    let joining = joining(disk, oldest, from_revision)?;
    if joining.is_empty() {
        return Ok(0);
    }
    let rising = joining.iter().rev().copied().collect();
    let survey = Surveyor::new(disk, identity, mark, &mut |_| {}).walk_joining(rising, oldest)?;
    let first_of_log = oldest.map(segment::name).unwrap_or_default();
    if let Some(damage) = survey.damages.iter().find(|damage| concerns(damage, &first_of_log)) {
        tracing::warn!(%damage, from_revision, "what was kept is damaged: it can't be read as the log's again from there on");
        return Ok(0);
    }
    for number in &joining {
        disk.rename(&segment::kept_name(*number), &segment::name(*number))?;
        disk.sync_dir()?;
    }
    Ok(crate::format::count(joining.len()))
}

/// The kept segments that it takes for the log, with this oldest segment, to go back to a revision, falling; none where they don't go back
/// so far without a gap, or the log does by itself.
fn joining(disk: &dyn Disk, oldest: Option<u64>, from_revision: u64) -> Result<Vec<u64>, DiskError> {
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
    let mut kept = numbers(disk)?;
    let mut expected = match oldest {
        Some(oldest) if goes_back(&segment::name(oldest))? => return Ok(Vec::new()),
        Some(oldest) => oldest.checked_sub(1),
        None => kept.last().copied(),
    };
    let mut joining = Vec::new();
    kept.retain(|number| expected.is_some_and(|expected| *number <= expected));
    loop {
        let Some(number) = kept.pop().filter(|number| Some(*number) == expected) else { return Ok(Vec::new()) };
        joining.push(number);
        expected = number.checked_sub(1);
        if goes_back(&segment::kept_name(number))? {
            return Ok(joining);
        }
    }
}

/// Whether damage that a walk of kept segments met is theirs. Of the log's first segment only the beginning counts, which must follow on
/// what is kept.
pub(crate) fn concerns(damage: &Damage, first_of_log: &str) -> bool {
    let of_joint = matches!(damage.flaw, Flaw::FirstRevision { .. } | Flaw::Chain { .. } | Flaw::Term { .. });
    damage.file != first_of_log || (damage.offset == 0 && of_joint)
}

/// The numbers of all kept segments, rising.
pub(crate) fn numbers(disk: &dyn Disk) -> Result<Vec<u64>, DiskError> {
    let mut numbers: Vec<u64> = disk.list()?.iter().filter_map(|name| segment::kept_number_in(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
