//! Final rows of allocations that ended, made from the log when somebody asks.
//!
//! Nothing is kept for each of them: a row in the store costs more than the claim did. The deltas say when an allocation ended; what
//! it was stands in the cell just before, which is folded again. Everything here waits for the disk, on a thread of its own.

pub(in crate::api) mod of_jobs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use plenum_history::{History, Order, ReadError, Subject};
use plenum_model::{AllocationId, Cell, Delta, End, LogTime, Revision, incarnation_of};
use plenum_proto::{delta, v1};
use prost::Message;

use crate::api::failure::{Failure, RETIRED};
use crate::api::{listing, past};
use crate::engine::Picture;
use crate::error::ServerError;
use crate::view;

/// Most bytes of log that one listing folds. A little more, when checkpoints are further apart.
const FOLDED_BYTES_MAX: u64 = 64 << 20;
/// Times of grants that one listing reads from the history.
const TIMES_READ_MAX: usize = 256;

/// What became of an allocation that is not live.
pub(in crate::api) enum Fate {
    /// It ended; this was it.
    Ended(Box<v1::AllocationView>),
    /// It ended before the oldest revision that is retained, or may have.
    Retired(u64),
    /// Its slot was never given so often, or not to it.
    NeverWas,
}

/// What an entry changed.
pub(in crate::api) fn delta_of(entry: &v1::LogEntry) -> Result<Delta, Failure> {
    let revision = Revision(entry.revision);
    delta::decode(entry.delta.clone()).map_err(|error| Failure::of_the_past(&ServerError::unread(revision, &error)))
}

fn unreadable(error: ReadError) -> Failure {
    Failure::history(&error)
}

/// What became of an allocation that is not live in `cell`.
pub(in crate::api) fn fate(
    history: &History,
    picture: &Picture,
    cell: &Cell,
    id: AllocationId,
) -> Result<Fate, Failure> {
    if let Some(end) = end_of(history, cell.revision(), id)? {
        match at_its_end(history, picture, end, id) {
            Ok(Some(row)) => return Ok(Fate::Ended(Box::new(row))),
            Ok(None) => {}
            // The cell before its end is, where that is the oldest revision that is retained; and anything may be meanwhile.
            Err(failure) if failure.code == RETIRED => {}
            Err(failure) => return Err(failure),
        }
    }
    // It was looked for in what there is: after its store was opened again, that may be less than was waited for.
    let (now, newest) = (cell.revision().0, history.newest_revision());
    if newest < now {
        return Err(unreadable(ReadError::NotThere { asked: now, newest }));
    }
    Ok(is_retired(history, cell, id)?.map_or(Fate::NeverWas, Fate::Retired))
}

/// The final row of an allocation, if it is one that ended at this revision.
fn at_its_end(
    history: &History,
    picture: &Picture,
    end: Revision,
    id: AllocationId,
) -> Result<Option<v1::AllocationView>, Failure> {
    let before = past::fold(history, end.0 - 1)?;
    let logged = history.entry(end.0).map_err(unreadable)?;
    let delta = delta_of(&logged.entry)?;
    let change = delta.ends.iter().find(|change| change.slot == id.slot);
    let Some((allocation, change)) = before.allocation(id).zip(change) else { return Ok(None) };
    let granted = allocation.row.created;
    let mut times = Times::new(history, picture);
    let created = picture.exactly_when(granted).or_else(|| times.read(granted)).or_else(|| times.of(granted));
    let mut row = view::allocation(&before, &allocation, created);
    view::ended(&mut row, change, &delta, &view::restarts(&delta));
    Ok(Some(row))
}

/// The generation of a slot's newest tenant.
pub(in crate::api) fn newest_tenant(cell: &Cell, slot: u32) -> u32 {
    cell.allocation_rows().get(slot).map_or(0, |row| row.generation)
}

/// Of an allocation that is neither live nor found: the oldest revision that is retained, if it may have ended before.
pub(in crate::api) fn is_retired(history: &History, cell: &Cell, id: AllocationId) -> Result<Option<u64>, Failure> {
    let newest = newest_tenant(cell, id.slot);
    if newest < id.generation || history.oldest_revision() <= 1 {
        return Ok(None);
    }
    // Of a slot's tenants each has the next generation, but for the first one of an incarnation: those in between it never gave.
    let was_there = incarnation_of(newest) == incarnation_of(id.generation)
        || newest_tenant(&past::fold_retained(history, 0)?, id.slot) >= id.generation;
    Ok(was_there.then(|| history.oldest_revision()))
}

/// The revision at which an allocation ended, if it did and that is retained. It may be that of the tenant before the first grant that
/// is retained: whether it was this one, the cell before tells.
pub(in crate::api) fn end_of(history: &History, at: Revision, id: AllocationId) -> Result<Option<Revision>, Failure> {
    let mut walk = history.walk(1..=at.0, Order::NewestFirst);
    let mut end = None;
    while let Some(entries) =
        walk.next(|block| block.may_tell_of(Subject::AllocationSlot(id.slot))).map_err(unreadable)?
    {
        for logged in &entries {
            let delta = delta_of(&logged.entry)?;
            // What a delta ends, it ends before it grants.
            for grants in &delta.grants {
                let Some(position) = grants.slots.iter().position(|slot| *slot == id.slot) else { continue };
                if grants.generations.get(position).is_none_or(|generation| *generation <= id.generation) {
                    return Ok(end);
                }
            }
            if delta.ends.iter().any(|change| change.slot == id.slot) {
                end = Some(delta.revision);
            }
        }
    }
    Ok(end)
}

/// What a listing leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Left {
    Nothing,
    /// More that pass.
    More,
    /// What ended before this revision. It was not looked at: so much was by then.
    Before(u64),
}

/// The allocations that ended last, up to a revision, and pass; and what else there is. `ends`: the revisions at which those ended that may pass, as far as
/// these are known.
pub(in crate::api) fn list(
    history: &History,
    picture: &Picture,
    at: Revision,
    ends: Option<&BTreeSet<u64>>,
    room: &mut listing::Room,
    passes: impl Fn(&v1::AllocationView) -> bool,
) -> Result<(Vec<v1::AllocationView>, Left), Failure> {
    let mut times = Times::new(history, picture);
    let mut rows = Vec::new();
    let mut stretch = Stretch::default();
    let mut to = at.0.min(history.newest_revision());
    let before_all = ends.and_then(BTreeSet::first).map_or(0, |end| end - 1);
    loop {
        let oldest = history.oldest_revision();
        if let Some(ends) = ends {
            to = ends.range(..=to).next_back().copied().unwrap_or(0);
        }
        if to < oldest.max(1) {
            return Ok((rows, Left::Nothing));
        }
        if stretch.folded_bytes >= FOLDED_BYTES_MAX {
            return Ok((rows, Left::Before(to + 1)));
        }
        // From checkpoint to checkpoint, the newest first; each stretch forward. One more than is shown tells that there are more: it is looked for
        // also where nothing more is shown.
        let found = Newest::new(room.rows() + 1, room.bytes());
        let from = stretch.begin(to, oldest.max(before_all));
        let Some((found, start, bytes)) = fold(&mut times, from..=to, found, &passes)? else {
            // What it began with was retired meanwhile, and the rest of it need not be.
            if history.oldest_revision() > oldest {
                continue;
            }
            return Ok((rows, Left::Nothing));
        };
        for (_, row) in found.kept.into_iter().rev() {
            if !room.takes(&row) {
                return Ok((rows, Left::More));
            }
            rows.push(row);
        }
        if found.is_cut {
            return Ok((rows, Left::More));
        }
        stretch.folded(to - start, bytes);
        to = start;
    }
}

/// What ended in a stretch of revisions and passes, the revision that it began after, at or before its first one, and the bytes that were
/// folded for it. `None` where it is not retained (any more).
fn fold(
    times: &mut Times<'_>,
    stretch: RangeInclusive<u64>,
    mut found: Newest<v1::AllocationView>,
    passes: impl Fn(&v1::AllocationView) -> bool,
) -> Result<Option<(Newest<v1::AllocationView>, u64, u64)>, Failure> {
    let (from, to) = stretch.into_inner();
    let history = times.history;
    let (mut cell, start) = match past::start(history, from) {
        Ok(found) => found,
        Err(past::Unstartable::Retired) => return Ok(None),
        Err(past::Unstartable::Failed(failure)) => return Err(failure),
    };
    times.begins.clear();
    let mut bytes = 0;
    let entries = match history.entries(start + 1, to) {
        Err(ReadError::Retired { .. }) => return Ok(None),
        entries => entries.map_err(unreadable)?,
    };
    for logged in entries {
        let logged = match logged {
            Err(ReadError::Retired { .. }) => return Ok(None),
            logged => logged.map_err(unreadable)?,
        };
        let delta = delta_of(&logged.entry)?;
        times.note(delta.revision, delta.time);
        bytes += (logged.entry.delta.len() + logged.entry.asked.len() + logged.entry.decided.len()) as u64;
        let restarts = view::restarts(&delta);
        let ends = delta.ends.iter().filter_map(|end| final_row(&cell, end, &delta, &restarts, times));
        ends.filter(&passes).for_each(|row| found.push(row.encoded_len(), row));
        cell.apply(&delta).map_err(|error| Failure::internal(error.to_string()))?;
    }
    Ok(Some((found, start, bytes)))
}

/// How far back a listing goes at a time: each time twice as far as the last, as long as that promises to stay within the bound. A quiet cell has
/// a checkpoint a minute with hardly anything in between, and to restore one takes far longer than to fold that.
#[derive(Default)]
struct Stretch {
    folded_bytes: u64,
    /// What the next one has at least, in revisions.
    revisions: u64,
}

impl Stretch {
    /// The revision at or before which the stretch that ends with `to` begins, above the oldest one that is retained.
    fn begin(&self, to: u64, oldest: u64) -> u64 {
        to.saturating_sub(self.revisions).max(oldest).min(to - 1)
    }

    /// So many revisions of so many bytes were folded.
    fn folded(&mut self, revisions: u64, bytes: u64) {
        self.folded_bytes += bytes;
        let left = u128::from(FOLDED_BYTES_MAX.saturating_sub(self.folded_bytes));
        let within = left * u128::from(revisions) / u128::from(bytes.max(1));
        self.revisions = u64::try_from(within).unwrap_or(u64::MAX).min(revisions.saturating_mul(2));
    }
}

/// The last of a sequence that may be much longer: under load, many more end between two checkpoints than anybody asked for.
struct Newest<T> {
    /// With their bytes.
    kept: VecDeque<(usize, T)>,
    most: usize,
    bytes_left: usize,
    /// Some were let go of because of their bytes.
    is_cut: bool,
}

impl<T> Newest<T> {
    fn new(most: usize, bytes: usize) -> Self {
        Self { kept: VecDeque::new(), most, bytes_left: bytes, is_cut: false }
    }

    fn push(&mut self, bytes: usize, row: T) {
        if self.kept.len() == self.most {
            self.pop();
        }
        while self.bytes_left < bytes {
            self.is_cut = true;
            if !self.pop() {
                return;
            }
        }
        self.bytes_left -= bytes;
        self.kept.push_back((bytes, row));
    }

    fn pop(&mut self) -> bool {
        let oldest = self.kept.pop_front();
        self.bytes_left += oldest.as_ref().map_or(0, |(bytes, _)| *bytes);
        oldest.is_some()
    }
}

fn final_row(
    cell: &Cell,
    end: &End,
    delta: &Delta,
    restarts: &BTreeMap<u32, u32>,
    times: &mut Times<'_>,
) -> Option<v1::AllocationView> {
    let allocation = cell.allocation_in(end.slot)?;
    let mut row = view::allocation(cell, &allocation, times.of(allocation.row.created));
    view::ended(&mut row, end, delta, restarts);
    Some(row)
}

/// When revisions were decided, as far as it is known without much reading.
struct Times<'a> {
    history: &'a History,
    picture: &'a Picture,
    /// Where times begin among the revisions that are being folded, rising.
    begins: Vec<(Revision, LogTime)>,
    /// Of earlier ones.
    known: BTreeMap<Revision, LogTime>,
    read: usize,
}

impl<'a> Times<'a> {
    fn new(history: &'a History, picture: &'a Picture) -> Self {
        Self { history, picture, begins: Vec::new(), known: BTreeMap::new(), read: 0 }
    }

    fn note(&mut self, revision: Revision, time: LogTime) {
        if self.begins.last().is_none_or(|(_, last)| *last != time) {
            self.begins.push((revision, time));
        }
    }

    fn of(&mut self, revision: Revision) -> Option<LogTime> {
        let after = self.begins.partition_point(|(begin, _)| *begin <= revision);
        if let Some((_, time)) = after.checked_sub(1).and_then(|position| self.begins.get(position)) {
            return Some(*time);
        }
        if let Some(known) = self.known.get(&revision) {
            return Some(*known);
        }
        let time = self.picture.about_when(revision).or_else(|| self.read(revision))?;
        self.known.insert(revision, time);
        Some(time)
    }

    /// A listing of very many old transactions leaves the rest out, rather than to read all blocks there are.
    fn read(&mut self, revision: Revision) -> Option<LogTime> {
        if self.read >= TIMES_READ_MAX {
            return None;
        }
        self.read += 1;
        let logged = self.history.entry(revision.0).ok()?;
        Some(LogTime::from_micros(logged.time_micros))
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::gone::tests::{append_asked, at, history_of};
    use super::*;

    /// How many checkpoints a listing of all that ended restores, and how many bytes it folds, when there is a checkpoint each `apart` revisions.
    fn listing(newest: u64, apart: u64, bytes_each: u64) -> (u64, u64) {
        let (mut stretch, mut to, mut restored) = (Stretch::default(), newest, 0);
        while to >= 1 && stretch.folded_bytes < FOLDED_BYTES_MAX {
            let start = stretch.begin(to, 1) / apart * apart;
            assert!(start < to);
            stretch.folded(to - start, (to - start) * bytes_each);
            (to, restored) = (start, restored + 1);
        }
        (restored, stretch.folded_bytes)
    }

    // The store was opened again, and had lost what had been there when it was waited for: whoever asked was told that there never was such an allocation.
    #[test]
    fn an_allocation_that_is_not_found_may_be_in_what_the_history_has_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (history, mut cell) = (history_of(dir.path(), &[at(1)]), Cell::default());
        cell.apply(&at(1)).unwrap();
        let picture = Picture::new(Cell::default(), crate::publish::Times::default(), std::time::Duration::ZERO);
        let find = |cell: &Cell| fate(&history, &picture, cell, AllocationId { slot: 0, generation: 1 });
        assert!(matches!(find(&cell), Ok(Fate::NeverWas)));
        cell.apply(&at(2)).unwrap();
        assert_eq!(find(&cell).err().map(|failure| failure.code), Some("HISTORY_BEHIND"));
    }

    // It was refused, as a revision that nobody had asked for was retired while it went through the past.
    #[test]
    fn what_ended_is_listed_as_far_as_it_is_retained_whatever_goes_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let history = past::tests::retiring(dir.path());
        let picture = Picture::new(Cell::default(), crate::publish::Times::default(), std::time::Duration::ZERO);
        let mut room = listing::Room::new(10);
        let listed = list(&history, &picture, Revision(4), None, &mut room, |_| true).unwrap();
        assert_eq!((listed, history.oldest_revision()), ((vec![], Left::Nothing), 4));
    }

    // It was said that there is more, where nobody had looked.
    #[test]
    fn a_listing_that_looks_no_further_says_before_which_revision() {
        let dir = tempfile::tempdir().unwrap();
        let (history, mut cell) = (history_of(dir.path(), &[at(1), at(2)]), Cell::default());
        [at(1), at(2)].iter().for_each(|delta| cell.apply(delta).unwrap());
        crate::checkpoint::write(&history, &cell, None).unwrap();
        // As much as is folded at once.
        let asked = vec![0; usize::try_from(FOLDED_BYTES_MAX / 2).unwrap()];
        [at(3), at(4)].iter().for_each(|delta| append_asked(&history, delta, &asked));
        let picture = Picture::new(cell, crate::publish::Times::default(), std::time::Duration::ZERO);
        let listed = |ends: Option<&BTreeSet<u64>>| {
            let mut room = listing::Room::new(10);
            list(&history, &picture, Revision(4), ends, &mut room, |_| true).unwrap()
        };
        assert_eq!(listed(None), (vec![], Left::Before(3)));
        assert_eq!(listed(Some(&[1, 4].into())), (vec![], Left::Before(2)), "nothing ended at 2");
        assert_eq!(listed(Some(&[4].into())), (vec![], Left::Nothing));
    }

    // Each checkpoint was restored: of a week in a quiet cell ten thousand, which took hours where the cell is large.
    #[test]
    fn a_listing_of_long_quiet_times_restores_few_checkpoints() {
        assert_eq!(listing(100_000, 10, 100), (14, 10_000_000));
    }

    #[test]
    fn a_listing_folds_little_more_than_its_bound() {
        let apart = 1000;
        for bytes_each in [100, 1000, 20_000] {
            let (_, bytes) = listing(10_000_000, apart, bytes_each);
            let most = FOLDED_BYTES_MAX + 2 * apart * bytes_each;
            assert!((FOLDED_BYTES_MAX..=most).contains(&bytes), "{bytes} bytes");
        }
    }

    #[test]
    fn a_stretch_at_the_oldest_revision_asks_for_what_is_not_retained() {
        let mut stretch = Stretch::default();
        stretch.folded(1000, 1);
        assert_eq!(stretch.begin(5000, 10), 3000);
        assert_eq!((stretch.begin(20, 10), stretch.begin(10, 10), stretch.begin(1, 0)), (10, 9, 0));
    }

    #[test]
    fn of_many_rows_only_the_newest_are_kept() {
        let mut newest = Newest::new(3, 100);
        for row in 0..1000 {
            newest.push(10, row);
            assert!(newest.kept.len() <= 3);
        }
        assert_eq!((newest.kept, newest.is_cut), ([(10, 997), (10, 998), (10, 999)].into(), false));
        let mut newest = Newest::new(3, 100);
        (0..1000).for_each(|row| newest.push(40, row));
        assert_eq!((newest.kept, newest.is_cut), ([(40, 998), (40, 999)].into(), true));
    }
}
