//! The directory of a stopped cell, followed to its end without changing its log; also a damaged one, as far as it can be followed.
//!
//! The newest checkpoint of the history is folded forward with what the history has, then with the frames of the log that go on from
//! there; where there is no history that can be read, or none that leads as far as the fallback shows, the fallback is.
//! The checkpoint is the history's own, its blocks are frames of the log: where a frame before the checkpoint is damaged,
//! the cell is whole; one behind it ends what can be followed. Where the history does not come up to the log, the segments that were kept for
//! it are followed first.

use std::path::Path;

use bytes::Bytes;
use plenum_history::{Entries, History, ReadError, WriteError};
use plenum_journal::{CellId, ChainHash, Frame, Identity, KeptReport, OpenError, RealDisk, Report, Tail};
use plenum_model::{Cell, Revision};
use plenum_proto::{delta, v1};
use prost::Message;

use super::BackupError;
use super::fallback::{self, FALLBACK, LogExtent, Misfit};
use crate::error::{ServerError, told};
use crate::publish::LoggedBatch;
use crate::recovery::{self, HISTORY, LOG};

/// Lost revisions that are named one by one; all are counted.
const NAMED_MAX: usize = 1000;

/// What a cell would have to go on without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// The last revision that is kept.
    pub kept_revision: u64,
    /// The last revision that is known to have been there: from the log's high-water mark, from what stands behind the
    /// damage, from a trace in the history, or from the fallback. There may have been more, within the last 100 ms.
    pub last_known_revision: u64,
    /// The high-water mark is lost as well, or older than what the history or the fallback knows of: nobody knows how
    /// far the log had come, and there may have been more of it.
    pub may_be_more: bool,
    /// The revision of the log's high-water mark, where that is of another history than the log: what was acknowledged up to there is lost as far as
    /// it is not what the log has, and nobody knows how far that is.
    pub other_history: Option<u64>,
    /// Damage of the log and of what is kept for the history, each with its place: at most 1000 of each.
    pub damages: Vec<String>,
    /// How much more of that there is.
    pub damages_unlisted: u64,
    /// Revisions behind the damage that can still be read, and not be followed: what came before them is missing. Oldest first, at most
    /// 1000.
    pub readable: Vec<LostRevision>,
    /// How many more of these there are.
    pub readable_unlisted: u64,
}

impl Loss {
    /// Revisions that are known to be lost.
    #[must_use]
    pub fn revisions(&self) -> u64 {
        self.last_known_revision.saturating_sub(self.kept_revision)
    }

    /// What would be lost, in a sentence: for whoever has not accepted it yet.
    pub(super) fn forecast(&self) -> String {
        let (kept, last) = (self.kept_revision, self.last_known_revision);
        let forecast = match (self.revisions(), self.may_be_more) {
            (0, false) if self.other_history.is_some() => {
                format!("all revisions up to {kept} that the log has are there")
            }
            (0, false) => format!("nothing would be lost: all revisions up to {kept} are there"),
            (0, true) => {
                format!("all revisions up to {kept} are there; whether there were any behind that nobody knows")
            }
            (lost, may_be_more) => {
                let more = if may_be_more { ", and what may have been behind that" } else { "" };
                format!("revisions {} to {last} would be lost, {lost} in all{more}", kept.saturating_add(1))
            }
        };
        match self.other_history {
            None => forecast,
            Some(marked) => format!(
                "{forecast}; but what was acknowledged up to {marked} was of another history, and would be lost as far as it is not in this one"
            ),
        }
    }
}

/// A decided command that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRevision {
    /// Its revision.
    pub revision: u64,
    /// Who asked.
    pub principal: String,
    /// What, in a word or two.
    pub what: String,
}

/// A cell as far as its directory tells.
pub(super) struct Followed {
    pub(super) cell: Cell,
    pub(super) incarnation: u64,
    /// The end of the log at the cell's revision; without a hash where that frame is lost.
    pub(super) tail: Tail,
    /// What is lost, or damaged, if anything is.
    pub(super) loss: Option<Loss>,
}

/// A directory that is looked at.
struct Directory<'a> {
    path: &'a Path,
    /// Its log's.
    disk: RealDisk,
    identity: Identity,
    /// What its fallback shows; 0 if there is none, or its manifest can't be read.
    fallback_revision: u64,
}

/// The newest revisions that are known of beside the log; 0 where none is.
#[derive(Clone, Copy, Default)]
struct Known {
    /// Of which the history has a trace.
    history: u64,
    /// That the fallback shows.
    fallback: u64,
}

impl Known {
    fn newest(self) -> u64 {
        self.history.max(self.fallback)
    }

    /// That a log has lost its end, of which one of them knows.
    fn ahead_of(self, log: u64) -> ServerError {
        let Self { history, fallback: shown } = self;
        if history < shown {
            return ServerError::FallbackAheadOfLog { shown, log };
        }
        ServerError::AheadOfLog(WriteError::AheadOfLog { history, log })
    }
}

/// Follows the directory of a stopped cell. A damaged one is refused unless the loss is accepted; but for one that lacks nothing but its log's
/// identity, which is no loss.
pub(super) fn follow(dir: &Path, accept_loss: bool) -> Result<Followed, BackupError> {
    recovery::expect_restored(dir)?;
    recovery::expect_log(dir)?;
    let disk = RealDisk::existing(dir.join(LOG)).map_err(|error| ServerError::OpenJournal(error.into()))?;
    // Whose it is, before its history is looked at; the lock is held while the log is walked.
    let identity = plenum_journal::identity(&disk).map_err(|error| recovery::told_of_log(dir, error))?;
    recovery::expect_owner(dir)?;
    let shown = fallback::shown_in(dir, identity).ok().flatten();
    let fallback_revision = shown.map_or(0, |shown| shown.revision);
    let directory = Directory { path: dir, disk, identity, fallback_revision };
    let (mut most, mut unfoldable) = (u64::MAX, None);
    loop {
        match furthest(&directory, most) {
            Ok(Attempt { follower, report, before, before_unlisted, unread, known }) => {
                let before = before.into_iter().chain(unread.iter().map(Unread::to_string)).collect();
                let told = (unfoldable, before, before_unlisted);
                let concluded = conclude(dir, follower, told, (&report, known), accept_loss);
                let is_whole = concluded.as_ref().is_ok_and(|followed| followed.loss.is_none());
                // What could only not be looked at is not given up, and nobody is told that it is damaged.
                let mut obstacles = unread.into_iter().filter_map(Unread::into_obstacle).filter(|_| !is_whole);
                return obstacles.next().map_or(concluded, |obstacle| Err(obstacle.into()));
            }
            // It is sound, and so may be all behind it.
            Err(Stopped::Unfoldable(Unfoldable { obstacle: Some(error), .. })) => return Err((*error).into()),
            // A cell into which a change was folded in part is none: it is made anew, up to there.
            Err(Stopped::Unfoldable(Unfoldable { revision, what, obstacle: None })) => {
                most = revision.saturating_sub(1);
                unfoldable.get_or_insert(what);
            }
            Err(Stopped::Failed(error)) => return Err(error),
        }
    }
}

/// How far the directory can be followed from what one cell begins with.
struct Attempt {
    follower: Follower,
    report: Report,
    /// Damage of what is kept for the history.
    before: Vec<String>,
    /// How much more of it there is.
    before_unlisted: u64,
    /// As in [`Start`].
    unread: Vec<Unread>,
    known: Known,
}

/// Why there is none.
enum Stopped {
    Unfoldable(Unfoldable),
    Failed(BackupError),
}

impl From<Unfoldable> for Stopped {
    fn from(unfoldable: Unfoldable) -> Self {
        Self::Unfoldable(unfoldable)
    }
}

impl From<BackupError> for Stopped {
    fn from(error: BackupError) -> Self {
        Self::Failed(error)
    }
}

/// Follows the directory from what the history shows; and from the fallback instead, where that shows more than the
/// history leads to, as of one that ends before the log begins.
fn furthest(directory: &Directory<'_>, most: u64) -> Result<Attempt, Stopped> {
    let start = start(directory, most)?;
    let shows_history = start.shows_history;
    let mut attempt = follow_from(directory, start, most)?;
    let reached = attempt.follower.cell.revision().0;
    if !shows_history || reached >= last_known(&attempt.report, attempt.follower.last_seen, attempt.known) {
        return Ok(attempt);
    }
    let fallback = read_fallback(directory, most, &mut attempt.unread);
    let Some(cell) = fallback.filter(|cell| cell.revision().0 > reached) else { return Ok(attempt) };
    let Attempt { unread, known, .. } = attempt;
    follow_from(directory, Start { cell, unread, retained: None, known, shows_history: false }, most)
}

/// The last revision that is known to have been there: to the log and its mark, by any frame, to the history, or to the fallback.
fn last_known(report: &Report, last_seen: u64, known: Known) -> u64 {
    report.tail.revision.max(report.mark.revision).max(last_seen).max(known.newest())
}

fn follow_from(directory: &Directory<'_>, start: Start, most: u64) -> Result<Attempt, Stopped> {
    let Start { cell, unread, retained, known, .. } = start;
    let (begun, identity) = ((cell.revision().0, cell.identity().incarnation), directory.identity);
    let (follower, report, kept) = follow_log(&directory.disk, identity.cell, cell, most)?;
    recovery::check_incarnation(directory.path, begun, retained, (report.oldest_revision, identity.incarnation))
        .map_err(BackupError::from)?;
    let before = kept.damages.iter().map(ToString::to_string).collect();
    let before_unlisted = kept.damages_unlisted;
    Ok(Attempt { follower: follower.into_followed()?, report, before, before_unlisted, unread, known })
}

/// Follows the log from a state on; what is kept for the history before it, where the state does not come up to the log, or nothing of the log tells where
/// that begins.
fn follow_log(
    disk: &RealDisk,
    cell: CellId,
    start: Cell,
    most: u64,
) -> Result<(Follower, Report, KeptReport), BackupError> {
    let mut follower = Follower::new(start.clone(), most);
    let report = plenum_journal::verify(disk, Some(cell), &mut |frame| follower.frame(frame));
    let report = report.map_err(ServerError::OpenJournal)?;
    let tells_beginning = report.segments > 0 || report.frames > 0;
    if tells_beginning && start.revision().0.saturating_add(1) >= report.oldest_revision {
        return Ok((follower, report, KeptReport::default()));
    }
    follower = Follower::new(start, most);
    let kept = plenum_journal::verify_kept(disk, Some(cell), &mut |frame| follower.frame(frame));
    let kept = kept.map_err(ServerError::OpenJournal)?;
    let report = plenum_journal::verify(disk, Some(cell), &mut |frame| follower.frame(frame));
    Ok((follower, report.map_err(ServerError::OpenJournal)?, kept))
}

/// A revision that can't be folded.
struct Unfoldable {
    revision: u64,
    what: String,
    /// What keeps it from being folded, where it is no damage.
    obstacle: Option<Box<ServerError>>,
}

/// What could not be read of what a cell begins with.
enum Unread {
    History(ServerError),
    Fallback(BackupError),
}

impl std::fmt::Display for Unread {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::History(error) => formatter.write_str(&told(error)),
            Self::Fallback(error) => write!(formatter, "the fallback can't be used instead: {}", told(error)),
        }
    }
}

impl Unread {
    /// What kept it from being looked at, where it may be sound.
    fn into_obstacle(self) -> Option<ServerError> {
        match self {
            Self::History(error) => Some(error).filter(ServerError::may_be_sound),
            Self::Fallback(error) => error.obstacle().ok(),
        }
    }
}

/// What a cell begins with.
struct Start {
    cell: Cell,
    /// What could not be read of history and fallback.
    unread: Vec<Unread>,
    /// The oldest revision that the history has the batch of, if it is the history's cell and it has any.
    retained: Option<u64>,
    known: Known,
    /// Whether it is the history's cell.
    shows_history: bool,
}

/// The cell that the history shows at its end, or at a revision before it; and what could not be read. Where the history can't be read that is
/// the fallback's cell, or else an empty one: the log may go back to the beginning by itself. Where it can't be read to its end, what it shows is
/// where that is.
fn start(directory: &Directory<'_>, most: u64) -> Result<Start, Unfoldable> {
    let folder = directory.path.join(HISTORY);
    let (mut unread, mut begun, mut history) = (Vec::new(), None, 0);
    if folder.is_dir() {
        let opened = recovery::read_options(directory.path, &directory.identity.cell.0)
            .and_then(|options| begin_with_history(&folder, options, most));
        (begun, history) = opened.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the history can't be used");
            unread.push(Unread::History(error));
            (None, 0)
        });
    }
    let known = Known { history, fallback: directory.fallback_revision };
    let Some((mut cell, entries, retained)) = begun else {
        let cell = read_fallback(directory, most, &mut unread).unwrap_or_default();
        return Ok(Start { cell, unread, retained: None, known, shows_history: false });
    };
    // Its blocks stand in the log, which may be damaged there: then the log is followed from here, as far as it goes.
    let mut further = |error: ReadError| {
        tracing::warn!(%error, "the history can be followed no further");
        unread.push(Unread::History(ServerError::ReadHistory(error)));
    };
    match entries.transpose() {
        Err(error) => further(error),
        Ok(entries) => {
            for logged in entries.into_iter().flatten() {
                match logged {
                    Ok(logged) => apply(&mut cell, logged.entry.revision, logged.entry.delta)?,
                    Err(error) => {
                        further(error);
                        break;
                    }
                }
            }
        }
    }
    Ok(Start { cell, unread, retained, known, shows_history: true })
}

/// The fallback's cell, if there is one that can be read, of no later revision than this, and of no other past than the log.
fn read_fallback(directory: &Directory<'_>, most: u64, unread: &mut Vec<Unread>) -> Option<Cell> {
    let read = fallback::read(directory.path, directory.identity).and_then(|read| {
        let Some((cell, shown)) = read.filter(|(cell, _)| cell.revision().0 <= most) else { return Ok(None) };
        // How far it leads, or that it is ahead of the log, shows when it is followed.
        let hash_at = |revision| fallback::hash_in(&directory.disk, directory.identity.cell, revision);
        match shown.goes_with(&LogExtent { oldest: 0, last: u64::MAX, hash_at: &hash_at }) {
            Err(misfit @ Misfit::OtherPast { .. }) => {
                Err(BackupError::NotOfThisLog { path: directory.path.join(FALLBACK), what: misfit.to_string() })
            }
            _ => Ok(Some(cell)),
        }
    });
    read.unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "the fallback can't be used");
        unread.push(Unread::Fallback(error));
        None
    })
}

/// A cell, what the history has behind it, if anything, and the oldest revision that it has the batch of.
type Begun = (Cell, Option<Result<Entries, ReadError>>, Option<u64>);

/// The cell of the history's newest checkpoint, and what comes after it; nothing where it has nothing: one that a start has made, and not
/// got to fill. And the newest revision of which it has a trace.
fn begin_with_history(
    folder: &Path,
    options: plenum_history::Options,
    most: u64,
) -> Result<(Option<Begun>, u64), ServerError> {
    let (history, opened) = History::open(folder, options)?;
    let known = history.newest_known().map_err(|error| ServerError::ReadHistory(error.into()))?;
    if !history.has_anything() {
        return Ok((None, known));
    }
    let (cell, start) = recovery::newest_cell(&history)?;
    // Its batches may end before its newest checkpoint.
    let last = opened.newest_revision.min(most);
    let entries = (last > start).then(|| history.entries(start + 1, last));
    Ok((Some((cell, entries, recovery::retained(&history))), known))
}

fn apply(cell: &mut Cell, revision: u64, encoded: Bytes) -> Result<(), Unfoldable> {
    let delta = delta::decode_whole(encoded).map_err(|error| ServerError::unread(Revision(revision), &error));
    let applied =
        delta.and_then(|delta| cell.apply(&delta).map_err(|error| ServerError::unfoldable(Revision(revision), &error)));
    applied.map_err(|error| Unfoldable {
        revision,
        what: error.to_string(),
        obstacle: Some(error).filter(ServerError::may_be_sound).map(Box::new),
    })
}

fn conclude(
    dir: &Path,
    follower: Follower,
    (unfoldable, before, before_unlisted): (Option<String>, Vec<String>, u64),
    (report, known): (&Report, Known),
    accept_loss: bool,
) -> Result<Followed, BackupError> {
    let Follower { cell, tail, readable, readable_unlisted, last_seen, .. } = follower;
    let kept_revision = cell.revision().0;
    let nothing = |what: String| Err(BackupError::NothingToFollow { dir: dir.to_owned(), what });
    if kept_revision == 0 && report.oldest_revision > 1 {
        let why = before.into_iter().last().unwrap_or_else(|| "the history does not go back to it".to_owned());
        return nothing(format!("the log begins at revision {}, and {why}", report.oldest_revision));
    }
    let logged = report.tail.revision.max(report.mark.revision);
    // What history and fallback know of may be in no frame of the log any more, nor in its mark: nobody knows how far it
    // had come then, though they show all that they know of.
    let is_ahead = known.newest() > logged.max(last_seen);
    let reached = kept_revision >= logged.max(known.newest()) && !is_ahead && unfoldable.is_none();
    let refused = report.refused.as_ref().map(ToString::to_string).or(unfoldable);
    if refused.is_none() && reached {
        if kept_revision == 0 {
            return Err(BackupError::Empty { dir: dir.to_owned() });
        }
        return Ok(Followed { cell, incarnation: report.identity.incarnation, tail, loss: None });
    }
    let joins_not =
        || before.first().cloned().unwrap_or_else(|| "what the history has does not join the log".to_owned());
    let ahead = || is_ahead.then(|| known.ahead_of(report.tail.revision).to_string());
    let refused = refused.or_else(ahead).unwrap_or_else(joins_not);
    if kept_revision == 0 {
        return nothing(format!("nothing in front of the damage tells how the cell began: {refused}"));
    }
    // All that the identity says, the segments say as well: it is told that it is lost, and there is nothing to give up.
    let lacks_identity_alone = reached && matches!(report.refused, Some(OpenError::IdentityDamaged { .. }));
    if lacks_identity_alone {
        tracing::warn!(refused, "the log's segments tell whose it is");
    }
    let mut damages: Vec<String> = report.damages.iter().chain(&report.mark_damages).map(ToString::to_string).collect();
    damages.extend(before);
    if damages.is_empty() || report.refused_as_a_whole().is_some() {
        damages.push(refused.clone());
    }
    let last_known_revision = kept_revision.max(last_known(report, last_seen, known));
    let may_be_more = is_ahead || matches!(report.refused, Some(OpenError::NoMark { .. }));
    let other_history = match report.refused {
        Some(OpenError::OtherHistory { revision, .. }) => Some(revision),
        _ => None,
    };
    let damages_unlisted = report.damages_unlisted.saturating_add(before_unlisted);
    let loss = Loss {
        kept_revision,
        last_known_revision,
        may_be_more,
        other_history,
        damages,
        damages_unlisted,
        readable,
        readable_unlisted,
    };
    if !lacks_identity_alone && !accept_loss {
        return Err(BackupError::LossNotAccepted { dir: dir.to_owned(), refused, loss: Box::new(loss) });
    }
    Ok(Followed { cell, incarnation: report.identity.incarnation, tail, loss: Some(loss) })
}

/// Folds the frames that go on from where the cell is, and keeps a list of those that don't.
struct Follower {
    cell: Cell,
    /// The last revision that is folded.
    most: u64,
    /// The frame at whose end the cell is; its hash is not known where only the history has it, or the cell is in its middle.
    tail: Tail,
    unfoldable: Option<Unfoldable>,
    readable: Vec<LostRevision>,
    readable_unlisted: u64,
    last_seen: u64,
}

impl Follower {
    fn new(cell: Cell, most: u64) -> Self {
        let tail = Tail { revision: cell.revision().0, term: cell.identity().term, hash: ChainHash::default() };
        Self { cell, most, tail, unfoldable: None, readable: Vec::new(), readable_unlisted: 0, last_seen: 0 }
    }

    /// What it comes to, unless something could not be folded: its cell is to be thrown away then.
    fn into_followed(mut self) -> Result<Self, Unfoldable> {
        self.unfoldable.take().map_or(Ok(self), Err)
    }

    fn frame(&mut self, frame: &Frame<'_>) {
        self.last_seen = self.last_seen.max(frame.last_revision);
        let at = self.cell.revision().0;
        if frame.last_revision < at || self.unfoldable.is_some() {
            return;
        }
        if frame.last_revision == at {
            self.tail = Tail { revision: at, term: frame.term, hash: frame.hash };
            return;
        }
        let continues = self.tail.hash == ChainHash::default() || self.tail.hash == frame.previous;
        if frame.first_revision > at + 1 || !continues || at >= self.most {
            return self.lost(frame);
        }
        if let Err(unfoldable) = self.fold(frame) {
            self.unfoldable = Some(unfoldable);
            return;
        }
        let revision = self.cell.revision().0;
        let hash = if revision == frame.last_revision { frame.hash } else { ChainHash::default() };
        self.tail = Tail { revision, term: frame.term, hash };
        if revision < frame.last_revision {
            self.lost(frame);
        }
    }

    fn fold(&mut self, frame: &Frame<'_>) -> Result<(), Unfoldable> {
        let at = self.cell.revision().0;
        let batch = LoggedBatch::parse(Bytes::copy_from_slice(frame.payload));
        let batch = batch.map_err(|error| Unfoldable { revision: at + 1, what: error.to_string(), obstacle: None })?;
        for revision in batch.revisions().filter(|revision| (at + 1..=self.most).contains(&revision.0)) {
            apply(&mut self.cell, revision.0, batch.delta(revision).unwrap_or_default())?;
        }
        Ok(())
    }

    fn lost(&mut self, frame: &Frame<'_>) {
        let Ok(batch) = LoggedBatch::parse(Bytes::copy_from_slice(frame.payload)) else { return };
        let kept = self.cell.revision();
        for revision in batch.revisions().filter(|revision| *revision > kept) {
            if self.readable.len() == NAMED_MAX {
                self.readable_unlisted += 1;
                continue;
            }
            let asked = v1::Command::decode(batch.asked(revision).unwrap_or_default()).unwrap_or_default();
            let (principal, what) = (asked.principal, asked.ask.as_ref().map_or_else(String::new, word));
            self.readable.push(LostRevision { revision: revision.0, principal, what });
        }
    }
}

/// What was asked, for people.
fn word(ask: &v1::command::Ask) -> String {
    use v1::command::Ask;
    match ask {
        Ask::Commit(transaction) => format!("transaction {} of session {}", transaction.number, transaction.session),
        Ask::SubmitJob(submit) => format!("job {}", submit.shape.as_ref().map_or("", |shape| &shape.name)),
        Ask::RegisterMachine(register) => format!("machine {} registered", register.name),
        Ask::ReportStatus(report) => format!("{} transitions", report.allocations.len()),
        other => {
            // The name of the command is the name of its variant.
            let text = format!("{other:?}");
            text.split(['(', ' ']).next().unwrap_or_default().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_journal::Mark;
    use plenum_model::Delta;

    // A thousand were told as if they were all.
    #[test]
    fn damage_that_is_not_listed_is_counted_all_the_same() {
        let mut cell = Cell::default();
        let delta = Delta::new(cell.revision().next(), cell.time());
        cell.apply(&delta).unwrap();
        let report = Report {
            identity: Identity { cell: CellId::default(), incarnation: 1 },
            segments: 1,
            frames: 5,
            oldest_revision: 1,
            tail: Tail { revision: 5, ..Tail::default() },
            mark: Mark::default(),
            damages: Vec::new(),
            damages_unlisted: 7,
            torn: None,
            mark_damages: Vec::new(),
            refused: None,
        };
        let told = (None, vec!["kept".to_owned()], 3);
        let concluded =
            conclude(Path::new("cell"), Follower::new(cell, u64::MAX), told, (&report, Known::default()), true);
        let loss = concluded.ok().and_then(|followed| followed.loss).unwrap();
        assert_eq!((loss.revisions(), loss.damages.as_slice()), (4, ["kept".to_owned()].as_slice()));
        assert_eq!(loss.damages_unlisted, 10);
    }

    // Who was refused heard how to give up what is lost, and not whether anything is.
    #[test]
    fn what_would_be_lost_is_told_before_it_is_given_up() {
        let told = |last_known_revision, may_be_more| {
            Loss { kept_revision: 10, last_known_revision, may_be_more, ..Loss::default() }.forecast()
        };
        assert_eq!(told(10, false), "nothing would be lost: all revisions up to 10 are there");
        assert_eq!(told(13, false), "revisions 11 to 13 would be lost, 3 in all");
        assert_eq!(told(13, true), "revisions 11 to 13 would be lost, 3 in all, and what may have been behind that");
        assert!(told(10, true).ends_with("whether there were any behind that nobody knows"), "{}", told(10, true));
        let other = Loss { kept_revision: 10, last_known_revision: 10, other_history: Some(8), ..Loss::default() };
        assert_eq!(
            other.forecast(),
            "all revisions up to 10 that the log has are there; but what was acknowledged up to 8 was of another history, and would be lost as far as \
             it is not in this one"
        );
    }
}
