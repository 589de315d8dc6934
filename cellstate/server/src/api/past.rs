//! The cell as it is, or as it was.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use plenum_history::{History, ReadError};
use plenum_model::{Cell, Delta, Revision};
use plenum_proto::{delta, v1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Code;

use super::failure::{Failure, HISTORY_BEHIND, RETIRED};
use super::{ended, listing};
use crate::engine::Stopped;
use crate::error::ServerError;
use crate::recovery;
use crate::shared::Shared;

/// How long a reader waits for the history to have what is durable.
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
fn has(shared: &Shared, revision: Revision) -> bool {
    shared.feed.history().newest_revision() >= revision.0
}

/// The cell as it is when its reader has a turn: of those who wait, each would keep another picture.
async fn present(shared: &Arc<Shared>) -> Result<Moment, Failure> {
    let turn = shared.reads.turn().await?;
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
async fn revision_of(shared: &Arc<Shared>, at: v1::At) -> Result<u64, Failure> {
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
    blocking(&shared.reads, move || history.revision_at_time(micros).map_err(|error| Failure::history(&error))).await
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
    if shared.feed.reaches(revision, PATIENCE).await {
        return Ok(());
    }
    Err(behind(shared, revision))
}

/// The history has not got a revision.
pub(super) fn behind(shared: &Shared, revision: Revision) -> Failure {
    match shared.feed.stopped() {
        // To ask again before that is of no use.
        Some(Stopped::ForGood(why)) => {
            let message = format!("the history takes nothing more until the server starts again: {why}");
            Failure::new(Code::Unavailable, HISTORY_BEHIND, message)
        }
        Some(Stopped::ForNow(why)) => {
            Failure::history_behind(format!("the history can't be written now, and goes on by itself: {why}"))
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
/// Who reads answers of repeated numbers at a time: whoever decides with them waits for no reads of the past, either.
const ANSWERS_MAX: usize = 4;

/// Who reads much of the cell or the disk, on threads of their own.
pub(crate) struct Reads {
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    admitted_to_count: Arc<Semaphore>,
    counting: Arc<Semaphore>,
    answering: Arc<Semaphore>,
}

impl Default for Reads {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            admitted: semaphore(ADMITTED_MAX),
            running: semaphore(READS_MAX),
            admitted_to_count: semaphore(COUNTS_ADMITTED_MAX),
            counting: semaphore(COUNTS_MAX),
            answering: semaphore(ANSWERS_MAX),
        }
    }
}

impl Reads {
    /// Waits for a turn. Refused when too many do.
    async fn turn(&self) -> Result<Turn, Failure> {
        let Ok(admitted) = self.admitted.clone().try_acquire_owned() else {
            return Err(Failure::too_many_reads(ADMITTED_MAX));
        };
        Ok(Turn { _running: permit(&self.running).await?, _admitted: Some(admitted) })
    }

    /// Waits for a turn to count rows of the present: for others that do, and for no reads of the past. Refused when too many wait. To be had before the
    /// picture that is counted: while it is kept, pages are copied that change, and of those who wait each would keep another one.
    pub(super) async fn turn_to_count(&self) -> Result<Turn, Failure> {
        let Ok(admitted) = self.admitted_to_count.clone().try_acquire_owned() else {
            return Err(Failure::too_many_reads(COUNTS_ADMITTED_MAX));
        };
        Ok(Turn { _running: permit(&self.counting).await?, _admitted: Some(admitted) })
    }

    /// The same to look at all rows for an index, without which no agent is told anything: whoever needs it waits however many do.
    pub(super) async fn turn_to_index(&self) -> Result<Turn, Failure> {
        Ok(Turn { _running: permit(&self.counting).await?, _admitted: None })
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
        let work = move || work().map(|done| (done, self));
        tokio::task::spawn_blocking(work).await.map_err(|error| Failure::internal(error.to_string()))?
    }
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
    let turn = Turn { _running: permit(&reads.running).await?, _admitted: None };
    Ok(turn.take(work).await?.0)
}

/// Reads an answer that was given before, on a thread of its own. Waits for others that do, and for no reads of the past.
pub(crate) async fn answering<T: Send + 'static>(
    reads: &Reads,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let turn = Turn { _running: permit(&reads.answering).await?, _admitted: None };
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
        other => Unstartable::Failed(Failure::internal(other.to_string())),
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

/// The cell at a revision, or at the oldest one that is retained.
pub(super) fn fold_retained(history: &History, revision: u64) -> Result<Cell, Failure> {
    // After a leap the oldest revision is yet to come, and the cell of the newest one is there.
    let oldest = || history.oldest_revision().min(history.newest_revision());
    let mut known = oldest();
    loop {
        match fold(history, revision.max(known)) {
            // It was retired meanwhile.
            Err(failure) if failure.code == RETIRED && oldest() > known => known = oldest(),
            folded => return folded,
        }
    }
}

/// What changed at a revision, also where the history has not got it yet: of what was published last. May wait for the disk.
pub(super) fn changed_at(shared: &Shared, revision: Revision) -> Result<Delta, Failure> {
    let recent = shared.recent.read().batch(revision).cloned();
    match recent {
        Some(batch) => recovery::delta_of(&batch, revision).map_err(|error| Failure::internal(error.to_string())),
        None => ended::delta_of(&shared.feed.history().entry(revision.0).map_err(|error| Failure::history(&error))?),
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
        let delta = delta::decode(entry.delta).map_err(|error| Failure::internal(error.to_string()))?;
        cell.apply(&delta).map_err(|error| Failure::internal(error.to_string()))?;
    }
    Ok(cell)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::publish::BatchEncoder;
    use parking_lot::Mutex;
    use plenum_history::{EncodedBatch, Frames, FramesError, LogPlace, LogRange};
    use plenum_model::{Command, Decision, LogTime};
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Blocks that are read where they stand. While one of them is, all but the newest revision is retired.
    #[derive(Default)]
    struct Retiring {
        batches: Mutex<BTreeMap<u64, bytes::Bytes>>,
        /// When this one is read.
        at: u64,
        retires: Mutex<Option<(History, Cell)>>,
    }

    impl std::fmt::Debug for Retiring {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Retiring")
        }
    }

    impl Frames for Retiring {
        fn read(&self, range: &LogRange) -> Result<Vec<bytes::Bytes>, FramesError> {
            let is_due = self.at == 0 || self.at == range.first;
            if let Some((history, cell)) = self.retires.lock().take_if(|_| is_due) {
                crate::checkpoint::write(&history, &cell, None).unwrap();
                assert_eq!(history.retire(cell.revision().0).unwrap().oldest, cell.revision().0);
            }
            let batches = self.batches.lock();
            Ok(batches.range(range.first..=range.last).map(|(_, batch)| batch.clone()).collect())
        }
    }

    /// A history of four revisions, each a block, and a transaction of session 1 under the revision's number. While the first one that is asked for is read, all but the newest is retired.
    pub(in crate::api) fn retiring(dir: &std::path::Path) -> History {
        let deltas: Vec<_> = (1..=4).map(|revision| Delta::new(Revision(revision), LogTime::from_micros(1))).collect();
        retiring_at(dir, &deltas, 0).0
    }

    /// A history of these deltas, each a block, and a transaction of session 1 under the revision's number; and the cell that they make. While the
    /// block of a revision is read (0: any), all but the newest is retired.
    pub(in crate::api) fn retiring_at(dir: &std::path::Path, deltas: &[Delta], at: u64) -> (History, Cell) {
        let log = Arc::new(Retiring { at, ..Retiring::default() });
        let options = plenum_history::Options {
            frames: Some(log.clone()),
            block_batches: 1,
            ..plenum_history::Options::new(vec![1; 16])
        };
        let (history, _) = History::open(dir, options).unwrap();
        let mut cell = Cell::default();
        for delta in deltas {
            let revision = delta.revision.0;
            let mut encoded = bytes::BytesMut::new();
            delta::encode(delta, &mut encoded);
            let mut encoder = BatchEncoder::default();
            encoder.begin(delta.time);
            let outcome = v1::Outcome { session: 1, number: revision, revision, ..Default::default() };
            let decided = v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) };
            encoder.add(delta.revision, b"", &prost::Message::encode_to_vec(&decided), &encoded);
            let (bytes, place) = (encoder.finish(), LogPlace { segment: 1, offset: 512 * revision, bytes: 512 });
            log.batches.lock().insert(revision, bytes.clone());
            let (first, last, time_micros) = (revision, revision, delta.time.micros);
            history.append(&[EncodedBatch { first, last, time_micros, bytes, place: Some(place) }]).unwrap();
            cell.apply(delta).unwrap();
        }
        *log.retires.lock() = Some((history.clone(), cell.clone()));
        (history, cell)
    }

    // It was refused as retired, with the number of another one, as what it had begun with went while it was being read.
    #[test]
    fn a_revision_that_is_retained_is_read_whatever_is_retired_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let history = retiring(dir.path());
        assert_eq!(fold(&history, 4).unwrap().revision(), Revision(4));
        let retired = fold(&history, 3).unwrap_err();
        assert_eq!((retired.code, retired.message.contains("revision 3 is")), (RETIRED, true), "{}", retired.message);
    }

    #[test]
    fn what_the_history_lacks_matters_only_to_times_since_the_newest_that_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let deltas: Vec<_> = (1..=4_u64)
            .map(|revision| Delta::new(Revision(revision), LogTime::from_micros(10 * revision.cast_signed())))
            .collect();
        // Of a revision that there is not: nothing is retired.
        let (history, _) = retiring_at(dir.path(), &deltas, 9);
        let settled = [9, 10, 19, 20, 39, 40, 41].map(|micros| settled_at(&history, micros).unwrap());
        assert_eq!(settled, [None, Some(1), Some(1), Some(2), Some(3), None, None]);
        // What is retired is so whatever it lacks.
        let dir = tempfile::tempdir().unwrap();
        let (history, _) = retiring_at(dir.path(), &deltas, 3);
        let _ = history.entry(3);
        assert_eq!(settled_at(&history, 10).unwrap_err().code, RETIRED);
        assert_eq!(settled_at(&history, 40).unwrap(), None);
    }

    // As many listings as callers, up to 512, ran at once, and those whose callers had left ran on.
    #[tokio::test]
    async fn so_many_read_at_once_and_more_than_wait_for_that_are_refused() {
        let (reads, most, now) =
            (Arc::new(Reads::default()), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let gate = Arc::new(std::sync::Barrier::new(READS_MAX + 1));
        let mut all = tokio::task::JoinSet::new();
        for number in 0..ADMITTED_MAX {
            let (most, now, gate) = (most.clone(), now.clone(), gate.clone());
            let work = move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                if number < READS_MAX {
                    gate.wait();
                }
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            };
            let reads = reads.clone();
            all.spawn(async move { blocking(&reads, work).await });
        }
        while reads.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = blocking(&reads, || Ok(())).await.unwrap_err();
        assert_eq!(refused.code, "QUEUE_FULL");
        assert!(!refused.retry_after.is_zero());
        tokio::task::spawn_blocking(move || gate.wait()).await.unwrap();
        while let Some(done) = all.join_next().await {
            done.unwrap().unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), READS_MAX);
        blocking(&reads, || Ok(())).await.unwrap();
    }

    // A cell of the past was folded in one turn, then waited for another one to be read, and was in memory meanwhile: with many such
    // readers there were far more cells than turns.
    #[tokio::test]
    async fn a_cell_of_the_past_keeps_its_turn_until_it_was_read() {
        let reads = Reads::default();
        let mut moments = Vec::new();
        for _ in 0..READS_MAX {
            let ((), turn) = reads.turn().await.unwrap().take(|| Ok(())).await.unwrap();
            moments.push(Moment { cell: Cell::default(), turn });
        }
        let another = tokio::time::timeout(Duration::from_millis(50), reads.turn()).await;
        assert!(another.is_err(), "another one would be folded");
        // Nobody waits for a second turn.
        for moment in moments {
            assert_eq!(moment.read(|cell| Ok(cell.revision())).await.unwrap(), Revision(0));
        }
        assert_eq!(reads.running.available_permits(), READS_MAX);
        assert_eq!(reads.admitted.available_permits(), ADMITTED_MAX);
    }

    // `plenum status`, and with it the metrics, waited behind reads of the past, each of which takes seconds in a large cell.
    #[tokio::test]
    async fn the_present_is_counted_while_all_turns_are_taken_by_the_past() {
        let reads = Reads::default();
        let mut turns = Vec::new();
        for _ in 0..READS_MAX {
            turns.push(reads.turn().await.unwrap());
        }
        let counting = async { reads.turn_to_count().await.unwrap().take(|| Ok(7)).await.unwrap().0 };
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), counting).await.unwrap(), 7);
    }

    // However many asked for a status while it was counted, all of them waited.
    #[tokio::test]
    async fn so_many_wait_to_count_and_more_are_refused_but_for_those_that_make_an_index() {
        let reads = Arc::new(Reads::default());
        let mut turns = Vec::new();
        for _ in 0..COUNTS_MAX {
            turns.push(reads.turn_to_count().await.unwrap());
        }
        let mut waiting = tokio::task::JoinSet::new();
        for _ in COUNTS_MAX..COUNTS_ADMITTED_MAX {
            let reads = reads.clone();
            waiting.spawn(async move { reads.turn_to_count().await.map(drop) });
        }
        while reads.admitted_to_count.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = reads.turn_to_count().await.err().unwrap();
        assert_eq!((refused.code, refused.retry_after.is_zero()), ("QUEUE_FULL", false));
        let mut indexing = std::pin::pin!(reads.turn_to_index());
        tokio::select! {
            biased;
            _ = &mut indexing => panic!("all turns are taken"),
            () = std::future::ready(()) => {}
        }
        drop(turns);
        while let Some(done) = waiting.join_next().await {
            done.unwrap().unwrap();
        }
        drop(indexing.await.unwrap());
        assert_eq!(reads.counting.available_permits(), COUNTS_MAX);
        assert_eq!(reads.admitted_to_count.available_permits(), COUNTS_ADMITTED_MAX);
    }

    // Each kept the picture of the moment at which it was asked for: as many as waited, and pages were copied for all of them.
    #[tokio::test]
    async fn a_status_that_waits_keeps_no_picture_and_shows_what_is_there_when_its_turn_comes() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::ServerOptions::new(dir.path());
        options.settings.segment_bytes = 1 << 20;
        let server = crate::Server::start(options).await.unwrap();
        let shared = server.shared().clone();
        let mut turns = Vec::new();
        for _ in 0..COUNTS_MAX {
            turns.push(shared.reads.turn_to_count().await.unwrap());
        }
        // It is at hand from here on.
        let before = shared.snapshot().await.revision();
        let mut status = std::pin::pin!(crate::api::inspect::status(&shared));
        tokio::select! {
            biased;
            _ = &mut status => panic!("all turns are taken"),
            () = std::future::ready(()) => {}
        }
        let open = Command::OpenSession { scheduler: "batch".into() };
        let opened = shared.ask(Shared::request(&"local".into(), "default".into(), open)).await.unwrap().at;
        drop(turns);
        let shown = status.await.unwrap().revision;
        assert!(shown >= opened.0 && opened > before, "{shown} is from before {opened}");
        server.shutdown().await.unwrap();
    }

    // Each kept the picture of the moment at which it was asked for, as a status did.
    #[tokio::test]
    async fn a_listing_that_waits_keeps_no_picture_and_shows_what_is_there_when_its_turn_comes() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::ServerOptions::new(dir.path());
        options.settings.segment_bytes = 1 << 20;
        let server = crate::Server::start(options).await.unwrap();
        let shared = server.shared().clone();
        let mut turns = Vec::new();
        for _ in 0..READS_MAX {
            turns.push(shared.reads.turn().await.unwrap());
        }
        // It is at hand from here on.
        shared.snapshot().await;
        let mut listing = std::pin::pin!(cell(&shared, None));
        tokio::select! {
            biased;
            _ = &mut listing => panic!("all turns are taken"),
            () = std::future::ready(()) => {}
        }
        let open = Command::OpenSession { scheduler: "batch".into() };
        let opened = shared.ask(Shared::request(&"local".into(), "default".into(), open)).await.unwrap().at;
        drop(turns);
        let shown = listing.await.unwrap().revision();
        assert!(shown >= opened, "{shown} is from before {opened}");
        server.shutdown().await.unwrap();
    }

    // While the history was behind, all who asked for a story waited with a picture, and so many were not even counted; and who named the newest
    // revision waited with a turn besides. Without a turn there is no picture.
    #[tokio::test]
    async fn who_waits_for_a_history_that_is_behind_keeps_no_turn_and_with_it_no_picture() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::ServerOptions::new(dir.path());
        options.settings.segment_bytes = 1 << 20;
        options.settings.history = false;
        let server = crate::Server::start(options).await.unwrap();
        {
            let shared = server.shared();
            // It is at hand from here on.
            shared.snapshot().await;
            let newest = Some(v1::At { revision: shared.durable_revision().0, time_micros: 0 });
            for at in [None, newest] {
                let mut reading = std::pin::pin!(cell_in_history(shared, at));
                tokio::select! {
                    biased;
                    _ = &mut reading => panic!("the history has nothing"),
                    () = std::future::ready(()) => {}
                }
                assert_eq!(shared.reads.running.available_permits(), READS_MAX);
                let glance = glance(shared, at).await.unwrap();
                let mut reading = std::pin::pin!(glance.with_history(shared, at));
                tokio::select! {
                    biased;
                    _ = &mut reading => panic!("the history has nothing"),
                    () = std::future::ready(()) => {}
                }
                assert_eq!(shared.reads.running.available_permits(), READS_MAX);
            }
        }
        server.shutdown().await.unwrap();
    }

    // The log was read on a thread that serves connections: who repeated old numbers kept all others waiting.
    #[tokio::test]
    async fn the_answer_to_a_repeated_number_is_read_back_beside_what_serves_connections() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::ServerOptions::new(dir.path());
        options.settings.segment_bytes = 1 << 20;
        options.settings.recent_bytes = 1;
        let server = crate::Server::start(options).await.unwrap();
        let shared = server.shared().clone();
        let open =
            || Shared::request(&"local".into(), "default".into(), Command::OpenSession { scheduler: "batch".into() });
        let Decision::Accepted { id, .. } = shared.ask(open()).await.unwrap().decision else { panic!("no session") };
        let (session, incarnation) = (id, shared.identity.incarnation);
        let check = v1::ConflictCheck::Fit.into();
        let transaction =
            v1::Transaction { session, number: 1, incarnation, base_revision: session, check, ..Default::default() };
        let bytes = bytes::Bytes::from(prost::Message::encode_to_vec(&transaction));
        let commit = async || {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let asked = crate::commit::Asked::commit(&"local".into(), &"default".into(), &bytes).unwrap();
            shared.submit(asked, crate::ingress::Reply::Once(sender)).unwrap();
            receiver.await.unwrap()
        };
        let first = shared.decision(commit().await).await.unwrap();
        shared.ask(open()).await.unwrap();
        let answers = u32::try_from(ANSWERS_MAX).unwrap();
        let turns = shared.reads.answering.clone().acquire_many_owned(answers).await.unwrap();
        let repeated = commit().await;
        let mut reading = std::pin::pin!(shared.decision(repeated));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut reading).await.is_err(), "it takes no turn");
        drop(turns);
        let again = reading.await.unwrap();
        assert_eq!((again.at, again.decision, again.changed), (first.at, first.decision, false));
        server.shutdown().await.unwrap();
    }

    // Who said that he asks for no moment was refused where the history is behind, and who said nothing was not.
    #[tokio::test]
    async fn a_moment_that_is_none_is_the_present_however_it_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::ServerOptions::new(dir.path());
        options.settings.segment_bytes = 1 << 20;
        options.settings.history = false;
        let server = crate::Server::start(options).await.unwrap();
        let shared = server.shared();
        let now = Some(v1::At { revision: shared.durable_revision().0, time_micros: 0 });
        for (at, expected) in [(None, true), (Some(v1::At::default()), true), (now, false)] {
            assert_eq!(cell_and_history(shared, at).await.is_ok(), expected, "{at:?}");
        }
        server.shutdown().await.unwrap();
    }
}
