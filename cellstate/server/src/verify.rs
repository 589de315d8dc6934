//! `plenum verify`: the offline check of a stopped cell's directory.
//!
//! Everything that is wrong is listed, with its place; nothing is changed in the log. Four things are checked: the log by itself
//! (frames, checksums, chain, high-water mark), what it keeps for the history included; that deltas fold, from the oldest state that is retained, and come to what checkpoints
//! and fallback show; that what was asked, decided again, gives the same bytes; and the invariants of the cell.

pub(crate) mod audit;
mod second_copy;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use plenum_history::{History, StartingPoint};
use plenum_journal::{Damage, Frame, KeptReport, OpenError, RealDisk, Report};
use plenum_model::{Cell, Revision};

use crate::backup::fallback::FALLBACK;
use crate::checkpoint;
use crate::error::{ServerError, told};
use crate::publish::LoggedBatch;
use crate::recovery::{
    HISTORY, LOG, check_incarnation, expect_log, expect_owner, expect_restored, read_options, retained, told_of_log,
};
pub use audit::Violation;
use audit::{Audit, Origin};

/// What `verify` found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// The cell's id, in hex.
    pub cell_id: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// The revision whose state the check began with: 0, or that of the oldest checkpoint that is retained.
    pub from_revision: u64,
    /// The last revision that was checked.
    pub to_revision: u64,
    /// Whole frames of the log.
    pub frames: u64,
    /// Revisions that were folded.
    pub folded: u64,
    /// Revisions that were decided again, and gave the same bytes unless a violation says otherwise. Not among them are transactions that
    /// were made up before a core began in the middle or behind another version's revisions, which does not know what they depend on.
    pub decided_again: u64,
    /// Of these, how many were compared without the rows and numbers that were given out and without who took the room: those after a
    /// checkpoint or a violation, up to the next start of a server.
    pub compared_loosely: u64,
    /// Revisions of which nobody can say that they would be decided so again: what another version decided; what only a later version can be
    /// asked for; those transactions; what was due by what a server did before the middle; and what came after too many cores were begun in
    /// the middle.
    pub not_decided_again: u64,
    /// Of these, how many other versions of the core decided, by version: a plenum of that one decides them again, as far as anybody can.
    pub by_other_versions: BTreeMap<u32, u64>,
    /// Transactions among them all.
    pub transactions: u64,
    /// Claims that lost a race.
    pub conflicts: u64,
    /// Live allocations at the end.
    pub live_allocations: u64,
    /// What the next start will cut off the log: a write that nobody was promised, torn by a crash. No violation.
    pub torn: Option<String>,
    /// Of the two places of the high-water mark one that is not whole: what a crash may leave, or a worn sector, and the other one counts. No violation.
    pub mark: Option<String>,
    /// That the fallback was not compared with what the deltas give, or that without its history the cell could not be started, for want of one
    /// that the log goes on from. A violation only where the history is damaged.
    pub fallback: Option<String>,
    /// What kept something from being looked at, of which nothing is said here, nor of what could only be judged behind it. No violation: where there are none,
    /// it is the error of [`verify`].
    pub not_looked_at: Option<String>,
    /// All that is wrong, at most 1000.
    pub violations: Vec<Violation>,
    /// How many more there are.
    pub violations_unlisted: u64,
}

impl VerifyReport {
    /// True if nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }
}

/// Checks the directory of a stopped cell. Takes its lock for each pass over the log, and not in between: the next pass is refused by a server that was
/// started meanwhile.
///
/// # Errors
/// When there is nothing to check: no cell, one whose restore is not at its end, another version's or another user's, a running server; and when
/// something could not be looked at, as on a full disk or for want of open files, and nothing else is wrong: it may be sound. What is damaged is no error, but in
/// the report.
pub fn verify(dir: &Path) -> Result<VerifyReport, ServerError> {
    expect_restored(dir)?;
    expect_log(dir)?;
    expect_owner(dir)?;
    let disk = RealDisk::open(dir.join(LOG)).map_err(plenum_journal::OpenError::from)?;
    let report = plenum_journal::verify(&disk, None, &mut |_| {}).map_err(|error| told_of_log(dir, error))?;
    let mut audit = Audit::default();
    judge_log(&report, &mut audit);
    let history = open_history(dir, &report, &mut audit);
    let (found, fallback) = second_copy::read(dir, &disk, &report, &mut audit);
    let mut checkpoints = Checkpoints::of(history.as_ref(), fallback, &mut audit);
    let from_revision = begin(&disk, history.as_ref(), &report, &mut checkpoints, &mut audit);
    let mut visit = |frame: &Frame<'_>| {
        resume_behind_damage(history.as_ref(), frame.first_revision, &mut checkpoints, &mut audit);
        fold_frame(frame, &mut checkpoints, &mut audit);
    };
    plenum_journal::verify(&disk, Some(report.identity.cell), &mut visit)?;
    // Last: however much of the past is damaged, what is wrong with the present is listed.
    let mut kept = second_copy::Kept::default();
    let walked = plenum_journal::verify_kept(&disk, Some(report.identity.cell), &mut |frame| kept.frame(frame));
    judge_kept(walked, &mut audit);
    judge_store(history.as_ref(), &mut audit);
    let revisions = (kept.leads_back_to(report.oldest_revision), report.tail.revision);
    let fallback = second_copy::judge(found, revisions, checkpoints.fallback.is_none(), &mut audit);
    audit.into_report(&report, from_revision).map(|checked| VerifyReport { fallback, ..checked })
}

/// Damage of the log by itself.
fn judge_log(report: &Report, audit: &mut Audit) {
    for damage in report.damages.iter() {
        audit.violation(Revision(damage.revision), LOG, damage.to_string());
    }
    audit.unlisted(report.damages_unlisted);
    // One slot of the mark that is not whole is what a crash may leave, or a worn sector.
    if report.mark_damages.len() > 1 {
        report.mark_damages.iter().for_each(|damage| audit.violation(Revision(0), LOG, damage.to_string()));
    }
    if let Some(refused) = report.refused_as_a_whole() {
        audit.violation(report_tail(report), LOG, refused.to_string());
    }
}

/// Damage of what is kept for the history, whether or not there is one to read it. A disk that fails there costs the past, and not this report.
fn judge_kept(kept: Result<KeptReport, OpenError>, audit: &mut Audit) {
    match kept {
        Ok(kept) => {
            let violation = |damage: &Damage| audit.violation(Revision(damage.revision), LOG, damage.to_string());
            kept.damages.iter().for_each(violation);
            audit.unlisted(kept.damages_unlisted);
        }
        Err(error) => audit.unreadable(Revision(0), LOG, told(&error), error.into()),
    }
}

/// Damage of the history's own tables and files, also of those that nothing of the above has read.
fn judge_store(history: Option<&History>, audit: &mut Audit) {
    if let Some(Err(error)) = history.map(|history| history.read_all()) {
        audit.unreadable(Revision(0), HISTORY, told(&error), ServerError::ReadHistory(error.into()));
    }
}

fn report_tail(report: &Report) -> Revision {
    Revision(report.tail.revision)
}

fn open_history(dir: &Path, report: &Report, audit: &mut Audit) -> Option<History> {
    let folder: PathBuf = dir.join(HISTORY);
    if !folder.is_dir() {
        return None;
    }
    let opened = read_options(dir, &report.identity.cell.0)
        .and_then(|options| History::open(&folder, options).map_err(ServerError::from));
    match opened {
        Ok((history, _)) => {
            if let Err(error) = expect_incarnation(dir, &history, report) {
                audit.unreadable(report_tail(report), HISTORY, told(&error), error);
                return None;
            }
            if let Err(error) = history.check_against_log(report.tail.revision) {
                let error = ServerError::against_log(error);
                // Where the log has lost its end, that is what is wrong, and the history is to stay.
                let place = if matches!(error, ServerError::AheadOfLog(_)) { LOG } else { HISTORY };
                audit.unreadable(report_tail(report), place, told(&error), error);
            }
            Some(history)
        }
        Err(error) => {
            audit.unreadable(Revision(0), HISTORY, told(&error), error);
            None
        }
    }
}

/// As at a start: a history from before or after a restore goes with another log. Whether its checkpoint can be read is judged later.
fn expect_incarnation(dir: &Path, history: &History, report: &Report) -> Result<(), ServerError> {
    let newest = history.newest_checkpoint().and_then(|newest| checkpoint::read(history, newest.revision).ok());
    let Some(cell) = newest else { return Ok(()) };
    let found = (cell.revision().0, cell.identity().incarnation);
    check_incarnation(dir, found, retained(history), (report.oldest_revision, report.identity.incarnation))
}

/// Where frames before this one are lost, the history may have what they had, or a checkpoint behind them.
fn resume_behind_damage(
    history: Option<&History>,
    first_revision: u64,
    checkpoints: &mut Checkpoints<'_>,
    audit: &mut Audit,
) {
    let Some(history) = history else { return };
    let (next, before) = (audit.revision().0 + 1, first_revision.saturating_sub(1));
    let resumed = if !audit.is_broken() && next < first_revision && history.newest_revision() >= before {
        fold_entries(history, next..=before, checkpoints, audit)
    } else if audit.is_broken() && before > checkpoints.unreadable {
        oldest_checkpoint_from(history, before).and_then(|found| checkpoints.resume(found, history, audit))
    } else {
        Ok(())
    };
    if let Err(error) = resumed {
        audit.unreadable(Revision(next), HISTORY, told(&error), error);
    }
}

/// The place of what the history reads: its blocks are frames of the log, mostly kept ones.
const LOG_BY_HISTORY: &str = "log (read through the history)";

fn fold_entries(
    history: &History,
    revisions: RangeInclusive<u64>,
    checkpoints: &mut Checkpoints<'_>,
    audit: &mut Audit,
) -> Result<(), ServerError> {
    for logged in history.entries(*revisions.start(), *revisions.end()).map_err(ServerError::ReadHistory)? {
        let logged = logged.map_err(ServerError::ReadHistory)?;
        let (core_version, core_options, time_micros) = (logged.core_version, logged.core_options, logged.time_micros);
        audit.entry(&logged.entry, &Origin { core_version, core_options, time_micros }, LOG_BY_HISTORY);
        checkpoints.compare(audit);
    }
    Ok(())
}

/// The revision of the oldest checkpoint at or after a revision.
fn oldest_checkpoint_from(history: &History, revision: u64) -> Result<Option<u64>, ServerError> {
    let mut found = None;
    let mut candidate = history.newest_checkpoint();
    while let Some(checkpoint) = candidate.filter(|checkpoint| checkpoint.revision >= revision.max(1)) {
        let before = checkpoint.revision - 1;
        found = Some(checkpoint.revision);
        candidate = history.checkpoint_at_or_before(before).map_err(ServerError::ReadHistory)?;
    }
    Ok(found)
}

fn fold_frame(frame: &Frame<'_>, checkpoints: &mut Checkpoints<'_>, audit: &mut Audit) {
    let place = format!("{LOG}: segment {}, offset {}", frame.segment, frame.offset);
    match LoggedBatch::parse(Bytes::copy_from_slice(frame.payload)) {
        Ok(batch) => audit.batch(&batch, &place, &mut |audit| checkpoints.compare(audit)),
        Err(error) => audit.violation(Revision(frame.first_revision), &place, error.to_string()),
    }
}

/// Brings the audit to the state before the oldest frame of the log; the revision whose state it began with.
fn begin(
    disk: &RealDisk,
    history: Option<&History>,
    report: &Report,
    checkpoints: &mut Checkpoints<'_>,
    audit: &mut Audit,
) -> u64 {
    let before_log = report.oldest_revision.saturating_sub(1);
    let began = match history.filter(|history| history.has_anything()) {
        None if before_log == 0 => Ok(0),
        None => Err(None),
        Some(history) => fold_history(disk, history, report, checkpoints, audit).map_err(Some),
    };
    if began.is_err() && audit.revision() == Revision(0) {
        // As a start does it where the history is gone: what was kept for it may go back to the beginning, or else to the fallback.
        let mut from_revision = 0;
        fold_kept(disk, report, checkpoints, audit);
        let falls_short = audit.revision().0 < before_log;
        let fallback = checkpoints.fallback.take_if(|cell| falls_short && cell.revision() > audit.revision());
        if let Some(cell) = fallback {
            from_revision = cell.revision().0;
            audit.begin_with(cell);
            fold_kept(disk, report, checkpoints, audit);
        }
        if audit.revision().0 >= before_log {
            // A start does so only where there is none.
            if let Err(Some(error)) = began {
                audit.unreadable(Revision(before_log), HISTORY, told(&error), error);
            }
            return from_revision;
        }
    }
    began.unwrap_or_else(|error| {
        let why = error.as_ref().map(|error| told(error));
        let why = why.unwrap_or_else(|| "there is no history that would tell the state before it".to_owned());
        let what = format!("the log begins at revision {}, and {why}", report.oldest_revision);
        let revision = Revision(report.oldest_revision);
        match error {
            Some(error) => audit.unreadable(revision, LOG, what, error),
            None => audit.violation(revision, LOG, what),
        }
        audit.give_up();
        before_log
    })
}

/// Goes on with what was kept for the history, as far as it joins. What is wrong there is listed later.
fn fold_kept(disk: &RealDisk, report: &Report, checkpoints: &mut Checkpoints<'_>, audit: &mut Audit) {
    let mut visit = |frame: &Frame<'_>| {
        if (frame.first_revision..=frame.last_revision).contains(&audit.revision().next().0) {
            fold_frame(frame, checkpoints, audit);
        }
    };
    let _ = plenum_journal::verify_kept(disk, Some(report.identity.cell), &mut visit);
}

/// Folds the history from its oldest state up to where the log begins; one that ends before that goes on with what was kept for it.
fn fold_history(
    disk: &RealDisk,
    history: &History,
    report: &Report,
    checkpoints: &mut Checkpoints<'_>,
    audit: &mut Audit,
) -> Result<u64, ServerError> {
    let before_log = report.oldest_revision.saturating_sub(1);
    if before_log == 0 {
        return Ok(0);
    }
    // The log may reach back further than what the history retains: then it begins with the oldest checkpoint, within the log.
    let (oldest, newest) = (history.oldest_revision(), history.newest_revision());
    let start = if newest == 0 {
        Ok(history.newest_checkpoint().map_or(StartingPoint::Empty, StartingPoint::Checkpoint))
    } else if oldest <= newest {
        history.start_for(oldest)
    } else {
        // What it retains begins behind all that was durable in it at its end, and is in the log.
        let begins = history.checkpoint_at_or_before(oldest);
        begins.map(|found| found.map_or(StartingPoint::Empty, StartingPoint::Checkpoint))
    };
    let start = match start.map_err(ServerError::ReadHistory)? {
        StartingPoint::Empty => 0,
        StartingPoint::Checkpoint(checkpoint) => checkpoint.revision,
    };
    if start > 0 {
        audit.begin_with(checkpoint::read(history, start)?);
        // There may be no frame behind it.
        checkpoints.compare_fallback(audit);
    }
    fold_entries(history, start + 1..=before_log.min(newest), checkpoints, audit)?;
    if audit.revision().0 < before_log && !audit.is_broken() {
        fold_kept(disk, report, checkpoints, audit);
    }
    if audit.revision().0 < before_log && !audit.is_broken() {
        // What is not there either is told as what the history lacks.
        fold_entries(history, audit.revision().0 + 1..=before_log, checkpoints, audit)?;
    }
    Ok(start)
}

/// Checkpoints that are compared with what the deltas give: the newest, and so many before it; besides the last one of each set of images, which is
/// read from most of these. To compare one takes as long as its cell is large.
const CHECKPOINTS_COMPARED: usize = 4;

/// Checkpoints, and the fallback, that must show what the deltas give, each at its own revision.
struct Checkpoints<'a> {
    history: Option<&'a History>,
    fallback: Option<Cell>,
    revisions: BTreeSet<u64>,
    /// The newest one that could not be read when it was to be gone on from it. Each try takes as long as its cell is large, and there may be
    /// very many frames in front of it.
    unreadable: u64,
}

impl<'a> Checkpoints<'a> {
    fn of(history: Option<&'a History>, fallback: Option<Cell>, audit: &mut Audit) -> Self {
        let (mut revisions, mut set) = (BTreeSet::new(), None);
        let mut candidate = history.and_then(History::newest_checkpoint);
        while let (Some(checkpoint), Some(history)) = (candidate.take(), history) {
            let is_last_of_set = set.replace(checkpoint.set()) != Some(checkpoint.set());
            if is_last_of_set || revisions.len() <= CHECKPOINTS_COMPARED {
                revisions.insert(checkpoint.revision);
            }
            let before = checkpoint.revision.saturating_sub(1);
            if before > 0 {
                candidate = history.checkpoint_at_or_before(before).unwrap_or_else(|error| {
                    audit.unreadable(Revision(before), HISTORY, error.to_string(), ServerError::ReadHistory(error));
                    None
                });
            }
        }
        Self { history, fallback, revisions, unreadable: 0 }
    }

    /// Goes on from one behind damage.
    fn resume(&mut self, found: Option<u64>, history: &History, audit: &mut Audit) -> Result<(), ServerError> {
        let Some(revision) = found else { return Ok(()) };
        self.unreadable = revision;
        audit.resume_with(checkpoint::read(history, revision)?);
        Ok(())
    }

    /// Compares, if there is one at the revision that has been folded up to.
    fn compare(&mut self, audit: &mut Audit) {
        self.compare_fallback(audit);
        let revision = audit.revision().0;
        if !self.revisions.remove(&revision) {
            return;
        }
        let Some(history) = self.history else { return };
        match checkpoint::read(history, revision) {
            Ok(cell) => audit.compare_checkpoint(cell, HISTORY),
            Err(error) => audit.unreadable(Revision(revision), HISTORY, told(&error), error),
        }
    }

    fn compare_fallback(&mut self, audit: &mut Audit) {
        if let Some(cell) = self.fallback.take_if(|cell| cell.revision() == audit.revision()) {
            audit.compare(&cell, FALLBACK);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use plenum_core::{Core, CoreOptions};
    use plenum_history::{EncodedBatch, LogPlace};
    use plenum_journal::{BatchLabel, CellId, Journal};
    use plenum_model::{CellIdentity, Command, Delta, LogTime};
    use plenum_proto::v1;
    use prost::Message as _;

    use super::*;
    use crate::commit::{Asked, CommitOptions, Committer, Input, Output};
    use crate::publish::BatchEncoder;
    use crate::{Server, ServerOptions};

    // Of all that are retained the newest five were compared. The others were taken for right as long as they could be read.
    #[tokio::test]
    async fn an_old_checkpoint_that_shows_something_else_than_the_deltas_give_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut unfed = ServerOptions::new(dir.path());
        unfed.settings.history = false;
        let server = Server::start(unfed).await.unwrap();
        let shared = server.shared().clone();
        let mut cells = Vec::new();
        for number in 0..CHECKPOINTS_COMPARED + 4 {
            let open = plenum_proto::command::open_session("local", "default", &format!("batch-{number}")).unwrap();
            let opened = shared.ask(open).await.unwrap().at;
            cells.push(shared.snapshot_with(opened).await);
        }
        let cell_id = shared.identity.cell_id;
        drop(shared);
        server.kill().await.unwrap();

        // The second one lacks its session.
        let mut wrong = cells[0].clone();
        while wrong.revision() < cells[1].revision() {
            wrong.apply(&Delta::new(wrong.revision().next(), wrong.time())).unwrap();
        }
        let revision = wrong.revision();
        cells[1] = wrong;
        let options = read_options(dir.path(), &cell_id).unwrap();
        let (history, _) = History::open(dir.path().join(HISTORY), options).unwrap();
        for cell in &cells {
            checkpoint::write(&history, cell, None).unwrap();
        }
        drop(history);
        let report = verify(dir.path()).unwrap();
        let found: Vec<_> = report.violations.iter().map(|found| (found.revision, found.place.as_str())).collect();
        assert_eq!(found, [(revision, HISTORY)], "{:?}", report.violations);
    }

    const CELL: [u8; 16] = [7; 16];

    /// What a server decides that starts and opens sessions.
    fn decided(sessions: usize) -> Vec<v1::LogEntry> {
        let mut committer = Committer::<()>::new(Core::new(CoreOptions::default()), CommitOptions::default());
        let identity = CellIdentity { cell_id: CELL, incarnation: 1, term: 1, custom_resources: Vec::new() };
        let opens = std::iter::repeat_n(Command::OpenSession { scheduler: "batch".into() }, sessions);
        for command in std::iter::once(Command::OpenServer(identity)).chain(opens) {
            let asked = Asked::by_server(command);
            committer.handle(LogTime::from_micros(5), Input::Request { ticket: None, asked });
        }
        let Some(Output::Write(batch)) = committer.poll() else { panic!("there is something to write") };
        v1::LogBatch::decode(batch.bytes).unwrap().entries
    }

    /// Makes a cell's directory of entries, each a frame, most of which the log keeps for the history.
    fn make_kept(dir: &Path, entries: &[v1::LogEntry]) {
        let disk = Arc::new(RealDisk::open(dir.join(LOG)).unwrap());
        let options = plenum_journal::Options {
            create: Some(CellId(CELL)),
            segment_bytes: 4096,
            frame_bytes_max: 2048,
            keep_released: true,
            ..plenum_journal::Options::default()
        };
        let (mut journal, _) = Journal::open(disk, options).unwrap();
        let keeper = journal.keeper();
        let mut batches = Vec::new();
        for v1::LogEntry { revision, asked, decided, delta } in entries {
            let (first, last, time_micros) = (*revision, *revision, 5);
            let mut encoder = BatchEncoder::default();
            encoder.begin(LogTime::from_micros(time_micros));
            encoder.add(Revision(first), asked, decided, delta);
            let bytes = encoder.finish();
            let label = BatchLabel { term: 1, first_revision: first, last_revision: last };
            journal.append_and_sync(label, &[&bytes]).unwrap();
            let (_, place) = keeper.places_from(first, 1)[0];
            let place = Some(LogPlace { segment: place.segment, offset: place.offset, bytes: place.bytes });
            batches.push(EncodedBatch { first, last, time_micros, bytes, place });
        }
        keeper.release(entries.len() as u64);
        keeper.prepare().unwrap();
        assert!(keeper.oldest_revision() > 10);
        let (history, _) = History::open(dir.join(HISTORY), read_options(dir, &CELL).unwrap()).unwrap();
        history.append(&batches).unwrap();
        history.persist().unwrap();
    }

    // The history was named, with the advice to move it away: what is wrong stands in the log, and the history with all other answers would have been lost.
    #[test]
    fn what_is_wrong_with_what_the_log_keeps_is_told_of_the_log_and_not_of_the_history_that_reads_it() {
        let mut entries = decided(29);
        for (wrong, expected) in [(None, vec![]), (Some(2), vec![(Revision(3), LOG_BY_HISTORY)])] {
            if let Some(at) = wrong {
                entries[at].decided = entries[0].decided.clone();
            }
            let dir = tempfile::tempdir().unwrap();
            make_kept(dir.path(), &entries);
            let report = verify(dir.path()).unwrap();
            let found: Vec<_> = report.violations.iter().map(|found| (found.revision, found.place.as_str())).collect();
            assert_eq!((found, report.folded), (expected, 30), "{:?}", report.violations);
        }
    }
}
