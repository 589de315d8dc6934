//! The cell as it is, or as it was, and what the log and the history tell of it.

pub(super) mod ended;
pub(super) mod evictions;
pub(super) mod moved;
pub(super) mod names;
pub(crate) mod retired;
pub(super) mod story;
pub(super) mod tenants;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use plenum_history::{History, ReadError};
use plenum_model::{Cell, Delta, Revision};
use plenum_proto::v1;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Code;

use super::failure::{Failure, HISTORY_BEHIND, RETIRED};
use super::listing;
use crate::engine::Stopped;
use crate::error::ServerError;
use crate::recovery;
use crate::shared::Shared;
use crate::tasks::on_a_thread;

/// How long a reader waits for the history to have what is durable, where it may come.
const PATIENCE: Duration = Duration::from_secs(2);

/// How far the clock of who says `now` may be ahead of the cell's.
const CLOCKS_APART_MICROS_MAX: i64 = 5_000_000;

/// Whether a moment was asked for.
pub(super) fn is_asked(at: Option<v1::At>) -> bool {
    at.is_some_and(|at| at.revision > 0 || at.time_micros != 0)
}

/// The cell as it is, or was at a moment, with a turn among the reads until it is let go of. One of the past was folded for its reader alone;
/// and as long as a picture of the present is kept, pages are copied that change. So there are in memory at most as many as there are turns. Whoever
/// holds one must not wait for another turn.
pub(super) struct Moment {
    cell: Cell,
    turn: Turn,
}

impl Deref for Moment {
    type Target = Cell;

    fn deref(&self) -> &Cell {
        &self.cell
    }
}

impl Moment {
    /// Runs what reads much of it, or the disk, on a thread of its own.
    pub(super) async fn read<T: Send + 'static>(
        self,
        work: impl FnOnce(&Cell) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let Self { cell, turn } = self;
        Ok(turn.take(move || work(&cell)).await?.0)
    }
}

/// As [`Moment`], for who looks at a row or two and lets go of it: of the present without a turn.
pub(super) struct Glance {
    cell: Cell,
    turn: Option<Turn>,
}

impl Deref for Glance {
    type Target = Cell;

    fn deref(&self) -> &Cell {
        &self.cell
    }
}

impl From<Moment> for Glance {
    fn from(Moment { cell, turn }: Moment) -> Self {
        Self { cell, turn: Some(turn) }
    }
}

impl Glance {
    /// The moment that was asked for, to read what the history has of it: the same cell where the history has that already and there is a turn. Else it
    /// is asked for once more, and neither what was at hand nor the turn is kept meanwhile.
    pub(super) async fn with_history(self, shared: &Arc<Shared>, at: Option<v1::At>) -> Result<Moment, Failure> {
        let Self { cell, turn } = self;
        match turn {
            Some(turn) if has(shared, cell.revision()) => return Ok(Moment { cell, turn }),
            turn => drop((cell, turn)),
        }
        let (moment, reached) = cell_in_history(shared, at).await?;
        reached.map(|()| moment)
    }
}

/// The cell at a moment; neither revision nor time: now. Refused when too many read.
pub(super) async fn cell(shared: &Arc<Shared>, at: Option<v1::At>) -> Result<Moment, Failure> {
    match asked_for(shared, at).await? {
        Some(revision) => cell_at(shared, revision).await,
        None => present(shared).await,
    }
}

/// The revision of the moment that is asked for; `None`: now.
async fn asked_for(shared: &Arc<Shared>, at: Option<v1::At>) -> Result<Option<Revision>, Failure> {
    let Some(at) = at.filter(|_| is_asked(at)) else { return Ok(None) };
    let revision = Revision(revision_of(shared, at).await?);
    yet_to_come(shared, revision)?;
    Ok(Some(revision))
}

/// The cell at a revision that there is.
async fn cell_at(shared: &Arc<Shared>, revision: Revision) -> Result<Moment, Failure> {
    let mut turn = None;
    if revision == shared.durable_revision() {
        let moment = present(shared).await?;
        if moment.revision() == revision {
            return Ok(moment);
        }
        // The picture is ahead by now, after it was waited for the turn. The history has it then, or will; and nobody waits for that with a turn.
        turn = has(shared, revision).then_some(moment.turn);
    }
    let turn = match turn {
        Some(turn) => turn,
        None => {
            reach(shared, revision).await?;
            shared.reads.turn().await?
        }
    };
    let history = shared.feed.history().clone();
    let (cell, turn) = turn.take(move || fold(&history, revision.0)).await?;
    Ok(Moment { cell, turn })
}

/// Whether the history has a revision.
pub(super) fn has(shared: &Shared, revision: Revision) -> bool {
    shared.feed.history().newest_revision() >= revision.0
}

/// The cell as it is when its reader has a turn: of those who wait, each would keep another picture.
async fn present(shared: &Arc<Shared>) -> Result<Moment, Failure> {
    let turn = shared.reads.turn().await?;
    Ok(Moment { cell: shared.snapshot().await, turn })
}

/// The cell as it is, for who asks what there is to place, or where: a turn is waited for with others that do, and with no reads of the past.
pub(super) async fn to_place(shared: &Arc<Shared>) -> Result<Moment, Failure> {
    let turn = shared.reads.turn_to_place().await?;
    Ok(Moment { cell: shared.snapshot().await, turn })
}

/// As [`cell`], for who looks at a row or two.
pub(super) async fn glance(shared: &Arc<Shared>, at: Option<v1::At>) -> Result<Glance, Failure> {
    if is_asked(at) {
        return Ok(cell(shared, at).await?.into());
    }
    Ok(Glance { cell: shared.snapshot().await, turn: None })
}

/// As [`cell`], for who reads the history besides; and whether that has it by now. It is waited for without a turn and without a picture, and what comes
/// between the two is little.
pub(super) async fn cell_in_history(
    shared: &Arc<Shared>,
    at: Option<v1::At>,
) -> Result<(Moment, Result<(), Failure>), Failure> {
    let asked = asked_for(shared, at).await?;
    let before = reach(shared, asked.unwrap_or_else(|| shared.durable_revision())).await;
    // No picture has that, and it was waited for.
    if asked.is_some_and(|revision| revision < shared.durable_revision())
        && let Err(behind) = before
    {
        return Err(behind);
    }
    let moment = match asked {
        Some(revision) => cell_at(shared, revision).await?,
        None => present(shared).await?,
    };
    let reached = match before {
        Ok(()) => reach(shared, moment.revision()).await,
        behind => behind,
    };
    Ok((moment, reached))
}

/// The same; who asks for the present is content with what the history has by then.
pub(super) async fn cell_and_history(shared: &Arc<Shared>, at: Option<v1::At>) -> Result<Moment, Failure> {
    match cell_in_history(shared, at).await? {
        (moment, Err(_)) if !is_asked(at) && shared.feed.stopped().is_none() => Ok(moment),
        (moment, reached) => reached.map(|()| moment),
    }
}

/// When a moment was. Of a revision that needs one entry of the log, and not the cell.
pub(super) async fn time_micros(shared: &Arc<Shared>, at: Option<v1::At>) -> Result<i64, Failure> {
    let Some(at) = at.filter(|_| is_asked(at)) else { return Ok(shared.clock.now().micros) };
    if at.revision == 0 {
        return Ok(at.time_micros);
    }
    let asked = Revision(revision_of(shared, at).await?);
    let at = v1::At { revision: asked.0, time_micros: 0 };
    yet_to_come(shared, asked)?;
    reach(shared, asked).await?;
    let history = shared.feed.history().clone();
    let read = blocking(&shared.reads, move || history.entry(asked.0).map_err(|error| Failure::history(&error)));
    match read.await {
        Ok(logged) => Ok(logged.time_micros),
        // Of the oldest revision that can be read there may be a checkpoint and no entry.
        Err(_) => Ok(cell(shared, Some(at)).await?.time().micros),
    }
}

/// The revision of a moment; of both a revision and a time that of the earlier one.
pub(super) async fn revision_of(shared: &Arc<Shared>, at: v1::At) -> Result<u64, Failure> {
    if at.time_micros == 0 {
        return Ok(at.revision);
    }
    let then = revision_at(shared, at.time_micros).await?;
    Ok(if at.revision > 0 { then.min(at.revision) } else { then })
}

/// An error for a revision that nobody can have seen.
pub(super) fn yet_to_come(shared: &Shared, revision: Revision) -> Result<(), Failure> {
    let now = shared.durable_revision();
    if revision <= now {
        return Ok(());
    }
    let message = format!("revision {revision} is yet to come; the newest is {now}");
    Err(Failure::new(Code::OutOfRange, "NO_SUCH_REVISION", message))
}

async fn revision_at(shared: &Arc<Shared>, micros: i64) -> Result<u64, Failure> {
    let now = shared.durable_revision();
    let ahead_micros = micros.saturating_sub(shared.clock.latest_micros());
    if ahead_micros > CLOCKS_APART_MICROS_MAX {
        let seconds = ahead_micros / 1_000_000;
        let message = format!(
            "expected a time up to now, found one that is yet to come: in {seconds} seconds by the cell's clock"
        );
        return Err(Failure::new(Code::OutOfRange, "NO_SUCH_REVISION", message));
    }
    if micros >= shared.recent.read().time().micros {
        return Ok(now.0);
    }
    let history = shared.feed.history().clone();
    if let Some(revision) = blocking(&shared.reads, move || settled_at(&history, micros)).await? {
        return Ok(revision);
    }
    reach(shared, now).await?;
    let history = shared.feed.history().clone();
    let read = move || history.revision_at_time(micros).map_err(|error| Failure::history(&error));
    let found = blocking(&shared.reads, read).await;
    // It was looked for in what there is: after its store was opened again, that may be less than was waited for.
    if has(shared, now) { found } else { Err(behind(shared, now)) }
}

/// The newest revision that is not after a time, where the history has the next one as well: what it lacks, it may be for long, makes no
/// difference then.
fn settled_at(history: &History, micros: i64) -> Result<Option<u64>, Failure> {
    match history.revision_at_time(micros) {
        Ok(found) => {
            let next = history.entry(found.saturating_add(1));
            Ok(next.is_ok_and(|next| next.time_micros > micros).then_some(found))
        }
        // However much it lacks.
        Err(retired @ ReadError::TimeRetired { .. }) => Err(Failure::history(&retired)),
        Err(_) => Ok(None),
    }
}

/// The cell, and the history up to it; of the present the history may lack the end, which is not waited for long.
pub(super) async fn story(
    shared: &Arc<Shared>,
    at: Option<v1::At>,
    limit: u32,
    tell: impl FnOnce(&History, &Cell, usize) -> Result<v1::HistoryResponse, Failure> + Send + 'static,
) -> Result<v1::HistoryResponse, Failure> {
    let moment = cell_and_history(shared, at).await?;
    let limit = listing::limit(limit, shared.settings.listing_rows);
    let history = shared.feed.history().clone();
    moment.read(move |cell| tell(&history, cell, limit)).await
}

/// Waits until the history has a revision.
pub(super) async fn reach(shared: &Shared, revision: Revision) -> Result<(), Failure> {
    if shared.feed.reaches(revision, patience(shared.feed.stopped().as_ref())).await {
        return Ok(());
    }
    Err(behind(shared, revision))
}

/// How long a reader waits for what the history has not got: where nothing more comes before the next start, not at all.
const fn patience(stopped: Option<&Stopped>) -> Duration {
    match stopped {
        Some(Stopped::ForGood(_)) => Duration::ZERO,
        Some(Stopped::ForNow(_)) | None => PATIENCE,
    }
}

/// The history has not got a revision.
pub(super) fn behind(shared: &Shared, revision: Revision) -> Failure {
    match shared.feed.stopped() {
        Some(stopped) => {
            let message = format!("the history {}", stopped.told());
            match stopped {
                // To ask again before that is of no use.
                Stopped::ForGood(_) => Failure::new(Code::Unavailable, HISTORY_BEHIND, message),
                Stopped::ForNow(_) => Failure::history_behind(message),
            }
        }
        None => {
            let message = format!("the history has not got revision {revision} yet; try again in a moment");
            Failure::history_behind(message)
        }
    }
}

/// Reads that are under way at a time: each has a thread, and may keep a picture of the cell or a cell of the past.
const READS_MAX: usize = 32;
/// Reads that are under way or wait.
const ADMITTED_MAX: usize = 256;
/// Who counts the rows of the present at a time, which takes some milliseconds: no read of the past may keep them waiting.
const COUNTS_MAX: usize = 2;
/// Who counts or waits for it.
const COUNTS_ADMITTED_MAX: usize = 256;
/// Who looks at a time for what waits to be placed, or lists machines: schedulers without a mirror ask for nothing else, and wait for no reads of the past.
const PLACING_MAX: usize = 4;
/// Who looks for that or waits for it.
const PLACING_ADMITTED_MAX: usize = 256;
/// Who makes the index at a time: whoever waits for it finds it made.
const INDEXES_MAX: usize = 1;
/// Who reads answers of repeated numbers at a time: whoever decides with them waits for no reads of the past, either.
const ANSWERS_MAX: usize = 4;
/// Who looks at a time for a number that its session does not remember any more, which may mean to look through all that is retained: nobody else is to
/// wait for it.
const LOOK_UPS_MAX: usize = 1;

/// Who reads much of the cell or the disk, on threads of their own.
pub(crate) struct Reads {
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    admitted_to_count: Arc<Semaphore>,
    counting: Arc<Semaphore>,
    admitted_to_place: Arc<Semaphore>,
    placing: Arc<Semaphore>,
    indexing: Arc<Semaphore>,
    answering: Arc<Semaphore>,
    looking_up: Arc<Semaphore>,
}

impl Default for Reads {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            admitted: semaphore(ADMITTED_MAX),
            running: semaphore(READS_MAX),
            admitted_to_count: semaphore(COUNTS_ADMITTED_MAX),
            counting: semaphore(COUNTS_MAX),
            admitted_to_place: semaphore(PLACING_ADMITTED_MAX),
            placing: semaphore(PLACING_MAX),
            indexing: semaphore(INDEXES_MAX),
            answering: semaphore(ANSWERS_MAX),
            looking_up: semaphore(LOOK_UPS_MAX),
        }
    }
}

impl Reads {
    /// Waits for a turn. Refused when too many do.
    async fn turn(&self) -> Result<Turn, Failure> {
        admitted(&self.admitted, ADMITTED_MAX, &self.running).await
    }

    /// Waits for a turn to look for what is to be placed. Refused when too many wait. To be had before the picture, as one to count.
    async fn turn_to_place(&self) -> Result<Turn, Failure> {
        admitted(&self.admitted_to_place, PLACING_ADMITTED_MAX, &self.placing).await
    }

    /// Waits for a turn to count rows of the present: for others that do, and for no reads of the past. Refused when too many wait. To be had before the
    /// picture that is counted: while it is kept, pages are copied that change, and of those who wait each would keep another one.
    pub(super) async fn turn_to_count(&self) -> Result<Turn, Failure> {
        admitted(&self.admitted_to_count, COUNTS_ADMITTED_MAX, &self.counting).await
    }

    /// Waits for a turn to look at all rows for an index, without which no agent is told anything: for who makes it by now, however many do, and for nobody
    /// who counts.
    pub(super) async fn turn_to_index(&self) -> Result<Turn, Failure> {
        Ok(Turn { _running: permit(&self.indexing).await?, _admitted: None })
    }
}

/// One of the reads that are under way. It counts until its work is done, also where its caller left meanwhile.
pub(super) struct Turn {
    _running: OwnedSemaphorePermit,
    /// `None`: it would have waited however many do.
    _admitted: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Works on a thread of its own, and gives the turn back for more.
    pub(super) async fn take<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<(T, Self), Failure> {
        // What finds no thread is given up, and its turn with it.
        let working = on_a_thread(&Handle::current(), move || work().map(|done| (done, self)));
        let working = working.ok_or_else(Failure::no_thread)?;
        working.await.map_err(|error| Failure::internal(error.to_string()))?
    }
}

/// A turn of those that this many are admitted to wait for.
async fn admitted(queue: &Arc<Semaphore>, most: usize, running: &Arc<Semaphore>) -> Result<Turn, Failure> {
    let Ok(admitted) = queue.clone().try_acquire_owned() else {
        return Err(Failure::too_many_reads(most));
    };
    Ok(Turn { _running: permit(running).await?, _admitted: Some(admitted) })
}

async fn permit(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
    semaphore.clone().acquire_owned().await.map_err(|_| Failure::ending())
}

/// Runs what reads the disk, or much of the cell, on a thread of its own. Refused when too many do.
pub(super) async fn blocking<T: Send + 'static>(
    reads: &Reads,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    Ok(reads.turn().await?.take(work).await?.0)
}

/// The same, but waits for its turn however many do.
pub(super) async fn patiently<T: Send + 'static>(
    reads: &Reads,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    in_turn(&reads.running, work).await
}

/// Reads an answer that was given before, on a thread of its own. Waits for others that do, and for no reads of the past.
pub(crate) async fn answering<T: Send + 'static>(
    reads: &Reads,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    in_turn(&reads.answering, work).await
}

/// Looks for a number that its session does not remember any more, on a thread of its own. Waits for others that do, and for nobody else.
pub(super) async fn looking_up<T: Send + 'static>(
    reads: &Reads,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    in_turn(&reads.looking_up, work).await
}

/// Waits behind those that went before it in a queue that nobody is refused from.
async fn in_turn<T: Send + 'static>(
    queue: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let turn = Turn { _running: permit(queue).await?, _admitted: None };
    Ok(turn.take(work).await?.0)
}

/// Why there is nothing to begin folding with.
pub(super) enum Unstartable {
    /// It is no longer retained.
    Retired,
    Failed(Failure),
}

/// The cell to begin with for a revision, and its own: the newest checkpoint before it, or the empty cell.
pub(super) fn start(history: &History, revision: u64) -> Result<(Cell, u64), Unstartable> {
    recovery::cell_at(history, revision).map_err(|error| match error {
        ServerError::ReadHistory(ReadError::Retired { .. }) => Unstartable::Retired,
        ServerError::ReadHistory(error) => Unstartable::Failed(Failure::history(&error)),
        other => Unstartable::Failed(Failure::of_the_past(&other)),
    })
}

/// The cell at a revision that the history has. Waits for the disk.
pub(crate) fn fold(history: &History, revision: u64) -> Result<Cell, Failure> {
    let mut oldest = history.oldest_revision();
    loop {
        let folded = fold_once(history, revision);
        let now = history.oldest_revision();
        // What it began with was retired meanwhile, and it was not: a later checkpoint is there, or nothing would have been retired.
        let begins_anew = oldest < now && now <= revision;
        match folded {
            Err(failure) if failure.code == RETIRED && begins_anew => oldest = now,
            folded => return folded,
        }
    }
}

/// The cell at a revision, or at the oldest one of which it can be had.
pub(super) fn fold_retained(history: &History, revision: u64) -> Result<Cell, Failure> {
    let mut known = oldest_cell(history)?;
    loop {
        let folded = fold(history, revision.max(known));
        if !matches!(&folded, Err(failure) if failure.code == RETIRED) {
            return folded;
        }
        match oldest_cell(history)? {
            // It was retired meanwhile.
            oldest if oldest > known => known = oldest,
            _ => return folded,
        }
    }
}

/// The oldest revision of which the cell can be had. That is before the oldest entry where nothing is retired, and where the history began with
/// a checkpoint, or leapt to one: with that entry the cell has lost whoever ended there.
fn oldest_cell(history: &History) -> Result<u64, Failure> {
    let oldest = history.oldest_revision();
    if oldest <= 1 {
        return Ok(0);
    }
    let before = oldest - 1;
    let found = history.checkpoint_at_or_before(before).map_err(|error| Failure::history(&error))?;
    let is_there = found.is_some_and(|checkpoint| checkpoint.revision == before);
    // The oldest entry may be yet to come.
    Ok(if is_there { before } else { oldest.min(history.newest_revision()) })
}

/// What changed at a revision, also where the history has not got it yet: of what was published last. May wait for the disk.
pub(super) fn changed_at(shared: &Shared, revision: Revision) -> Result<Delta, Failure> {
    let recent = shared.recent.read().batch(revision).cloned();
    match recent {
        Some(batch) => recovery::delta_of(&batch, revision).map_err(|error| Failure::of_the_past(&error)),
        None => {
            let logged = shared.feed.history().entry(revision.0).map_err(|error| Failure::history(&error))?;
            ended::delta_of(&logged.entry)
        }
    }
}

fn fold_once(history: &History, revision: u64) -> Result<Cell, Failure> {
    let unstartable = |error| match error {
        Unstartable::Retired => {
            Failure::history(&ReadError::Retired { asked: revision, oldest: history.oldest_revision() })
        }
        Unstartable::Failed(failure) => failure,
    };
    let (mut cell, start) = start(history, revision).map_err(unstartable)?;
    for logged in history.entries(start + 1, revision).map_err(|error| Failure::history(&error))? {
        let entry = logged.map_err(|error| Failure::history(&error))?.entry;
        cell.apply(&ended::delta_of(&entry)?).map_err(|error| Failure::internal(error.to_string()))?;
    }
    Ok(cell)
}

#[cfg(test)]
pub(super) mod tests;
