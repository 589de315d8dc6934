//! The fallback, as `verify` sees it: whether the log goes on from it, and whether it shows what the deltas give.

use std::path::Path;

use plenum_journal::{Frame, RealDisk, Report};
use plenum_model::{Cell, Revision};

use super::audit::Audit;
use crate::backup::fallback::{self, FALLBACK, LogExtent, Misfit, Shown};
use crate::error::told;
use crate::recovery::{HISTORY, LOG};

/// What there is of a fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// It is wrong by itself, or the log is, as far as it tells; which was told.
    Wrong,
    Shows(Shown),
}

/// Looks for the fallback. Its cell, if the log may go on from it: whether that is sound is asked here, and nowhere else while it is not needed.
pub(super) fn read(dir: &Path, disk: &RealDisk, report: &Report, audit: &mut Audit) -> (Found, Option<Cell>) {
    if let Err(error) = fallback::check_against_log(dir, report.identity, report.tail.revision) {
        audit.violation(Revision(report.tail.revision), LOG, told(&error));
        return (Found::Wrong, None);
    }
    let (cell, shown) = match fallback::read(dir, report.identity) {
        Ok(Some(read)) => read,
        Ok(None) => return (Found::Nothing, None),
        Err(error) => {
            match error.obstacle() {
                Ok(obstacle) => audit.unreadable(Revision(0), FALLBACK, told(&obstacle), obstacle),
                Err(damaged) => audit.violation(Revision(0), FALLBACK, told(&damaged)),
            }
            return (Found::Wrong, None);
        }
    };
    let hash_at = |revision| fallback::hash_in(disk, report.identity.cell, revision);
    let log = LogExtent { oldest: 0, last: report.tail.revision, hash_at: &hash_at };
    if let Err(misfit @ Misfit::OtherPast { .. }) = shown.goes_with(&log) {
        audit.violation(cell.revision(), FALLBACK, misfit.to_string());
        return (Found::Wrong, None);
    }
    (Found::Shows(shown), Some(cell))
}

/// How far back what is kept leads without a gap, by its frames as they pass.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The first revision behind the last gap.
    begins: u64,
    /// The revision that comes next.
    next: u64,
}

impl Kept {
    pub(super) fn frame(&mut self, frame: &Frame<'_>) {
        if frame.first_revision != self.next {
            self.begins = frame.first_revision;
        }
        self.next = frame.last_revision.saturating_add(1);
    }

    /// The oldest revision from which what is kept leads on into the log; the log's own where it does not.
    pub(super) fn leads_back_to(&self, oldest_of_log: u64) -> u64 {
        if self.next == oldest_of_log { self.begins } else { oldest_of_log }
    }
}

/// What is to be known of a fallback beside a log of these revisions, kept ones included, that is not wrong by itself. Where something is wrong with the
/// history, whoever moves that away has to do with the fallback: then it is a violation that this can't be.
pub(super) fn judge(found: Found, (oldest, last): (u64, u64), is_compared: bool, audit: &mut Audit) -> Option<String> {
    let shown = match found {
        Found::Wrong => return None,
        Found::Nothing if oldest <= 1 => return None,
        Found::Nothing => None,
        Found::Shows(shown) => Some(shown),
    };
    let log = LogExtent { oldest, last, hash_at: &|_| None };
    let what = match shown.map(|shown| (shown.revision, shown.goes_with(&log))) {
        None => format!("there is none, and the log begins at revision {oldest}"),
        Some((_, Err(misfit))) => misfit.to_string(),
        Some((_, Ok(()))) if is_compared => return None,
        Some((revision, Ok(()))) => {
            return Some(format!(
                "it shows revision {revision}, to which no deltas were folded: it is whole, and was not compared"
            ));
        }
    };
    let what = format!("{what}: without its history the cell could not be started");
    if audit.violations().iter().any(|wrong| wrong.place == HISTORY) {
        audit.violation(Revision(0), FALLBACK, what);
        return None;
    }
    Some(what)
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;
    use std::sync::Arc;

    use super::*;
    use crate::checkpoint;
    use crate::publish::BatchEncoder;
    use crate::recovery::read_options;
    use plenum_history::History;
    use plenum_journal::{BatchLabel, CellId, ChainHash, Identity, Journal, Tail};
    use plenum_model::{CellIdentity, Delta, LogTime};

    const IDENTITY: Identity = Identity { cell: CellId([7; 16]), incarnation: 1 };

    /// A cell in which nothing happens.
    fn cell_at(revision: u64) -> Cell {
        let mut cell = Cell::default();
        let identity = CellIdentity { cell_id: IDENTITY.cell.0, incarnation: 1, term: 1, custom_resources: Vec::new() };
        let mut begins = Some(identity);
        while cell.revision().0 < revision {
            let delta = Delta { cell: begins.take(), ..Delta::new(cell.revision().next(), cell.time()) };
            cell.apply(&delta).unwrap();
        }
        cell
    }

    /// Makes a log of these revisions, behind the state of a cell, and a history that begins with its end.
    fn make(dir: &Path, revisions: RangeInclusive<u64>) {
        let disk = RealDisk::open(dir.join(LOG)).unwrap();
        let options =
            plenum_journal::Options { segment_bytes: 64 << 10, frame_bytes_max: 8 << 10, ..Default::default() };
        let tail = Tail { revision: revisions.start() - 1, term: 1, hash: ChainHash([1; 32]) };
        plenum_journal::plant(&disk, IDENTITY, tail, &options).unwrap();
        let (mut journal, _) = Journal::open(Arc::new(disk), options).unwrap();
        for revision in revisions.clone() {
            let mut encoder = BatchEncoder::default();
            encoder.begin(LogTime::default());
            encoder.add(Revision(revision), b"", b"", b"");
            let label = BatchLabel { term: 1, first_revision: revision, last_revision: revision };
            journal.append_and_sync(label, &[&encoder.finish()]).unwrap();
        }
        drop(journal);
        let options = read_options(dir, &IDENTITY.cell.0).unwrap();
        let (history, _) = History::open(dir.join(HISTORY), options).unwrap();
        checkpoint::write(&history, &cell_at(*revisions.end()), None).unwrap();
        history.persist().unwrap();
    }

    // Nothing was said of it: it was taken for compared.
    #[test]
    fn a_fallback_from_before_all_that_is_folded_is_told_as_not_compared() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), 6..=8);
        for (revision, is_compared) in [(5, false), (7, false), (8, true)] {
            fallback::write(dir.path(), &cell_at(revision), 1, ChainHash::default()).unwrap();
            let report = crate::verify(dir.path()).unwrap();
            assert!(report.is_sound() && report.from_revision == 8, "{revision}: {report:?}");
            let told = report.fallback.as_ref().is_some_and(|what| what.contains("was not compared"));
            assert_eq!((told, report.fallback.is_none()), (!is_compared, is_compared), "{:?}", report.fallback);
        }
    }

    // As long as the history is whole the cell starts all the same.
    #[test]
    fn a_fallback_that_does_not_join_the_log_is_told_and_is_no_violation_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), 6..=8);
        for (revision, words) in
            [(None, "there is none, and the log begins at revision 6"), (Some(4), "shows revision 4")]
        {
            if let Some(revision) = revision {
                fallback::write(dir.path(), &cell_at(revision), 1, ChainHash::default()).unwrap();
            }
            let report = crate::verify(dir.path()).unwrap();
            assert!(report.is_sound(), "{:?}", report.violations);
            let told = report.fallback.unwrap();
            assert!(told.contains(words) && told.contains("without its history"), "{told}");
        }
    }

    #[test]
    fn what_is_kept_leads_back_to_its_last_gap() {
        let kept = |frames: &[(u64, u64)]| {
            let mut kept = Kept::default();
            for (first_revision, last_revision) in frames.iter().copied() {
                let (hash, previous) = (ChainHash::default(), ChainHash::default());
                let (segment, offset, bytes) = (1, 512, 512);
                kept.frame(&Frame {
                    term: 1,
                    first_revision,
                    last_revision,
                    payload: &[],
                    segment,
                    offset,
                    bytes,
                    hash,
                    previous,
                });
            }
            kept.leads_back_to(10)
        };
        assert_eq!(kept(&[]), 10);
        assert_eq!(kept(&[(1, 4), (5, 9)]), 1);
        assert_eq!(kept(&[(1, 4), (6, 7), (8, 9)]), 6);
        assert_eq!(kept(&[(1, 4), (5, 8)]), 10, "the log does not go on from there");
    }
}
