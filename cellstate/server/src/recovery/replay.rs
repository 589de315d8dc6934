//! Folding the log into the newest checkpoint, while the log is read: for the first and only time, where there is a history whose newest checkpoint
//! can be read.
//!
//! ```text
//! walking   reads the log, checks its sums and its chain ─▶ decoding   makes deltas of batches ─┐
//! reading   reads the pages of the checkpoint ─▶ this thread makes rows of them, and then folds ◀┘
//! ```
//!
//! Whether the log is sound is known at its end. So all that was made of it until then is thrown away when it is not, whatever it was.

use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use bytes::{Bytes, BytesMut};
use plenum_history::History;
use plenum_journal::{Claimed, Frame, Judged, Keeper};
use plenum_model::planted::{self, Bug};
use plenum_model::{Cell, Delta, Revision, STEPS_AHEAD};
use plenum_proto::delta;

use crate::backup::fallback;
use crate::checkpoint;
use crate::error::ServerError;
use crate::planted_bugs;
use crate::publish::{LoggedBatch, Mirror};

/// Batches go from thread to thread in pieces of about so many bytes: one by one, waking each other would cost more than the work.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces of the log that wait to be decoded, and decoded ones that wait to be folded: together some 100 MiB at most. So reading and
/// decoding go on while the checkpoint is restored.
const PIECES_AHEAD: usize = 32;

/// So much log behind a checkpoint has changed most of its pages. To hold on to them would have each of them copied, for a next checkpoint
/// that writes them all anyway.
const KEPT_BYTES_MAX: u64 = 32 << 20;

/// Of what the next delta names, so much is brought into the cache: the rest is asked for while it is folded.
const WARM_AHEAD: usize = 3 * STEPS_AHEAD;

/// What the log and the newest checkpoint come to.
pub(super) struct Replayed {
    pub(super) mirror: Mirror,
    /// The cell of the newest checkpoint, unless hardly anything of it is left.
    pub(super) checkpoint: Option<Cell>,
    /// Bytes of batches that the log has, and the history has not.
    pub(super) unfed_bytes: u64,
    /// Revision and incarnation of what was begun with.
    begun: (u64, u64),
}

/// Revision and incarnation of a cell.
fn moment(cell: &Cell) -> (u64, u64) {
    (cell.revision().0, cell.identity().incarnation)
}

/// Why what was read came to nothing.
enum Failed {
    /// The checkpoint can't be read.
    Checkpoint(ServerError),
    Other(ServerError),
}

impl From<ServerError> for Failed {
    fn from(error: ServerError) -> Self {
        Self::Other(error)
    }
}

/// Reads the log, and folds what is behind the newest checkpoint into that; where that can't be read, what is behind an earlier one into
/// that one. Nothing in the log is changed.
pub(super) fn read(log: Claimed, dir: &Path, history: &History) -> Result<(Judged, Replayed), ServerError> {
    let newest = history.newest_checkpoint();
    let start = newest.as_ref().map_or(0, |newest| newest.revision);
    let (judged, replayed) = read_from(log, dir, history, Start::Checkpoint(start))?;
    // A history of another log, or one that is ahead of it, is another mistake than what comes of folding them.
    let begun = match &replayed {
        Ok(replayed) => replayed.begun,
        Err(Failed::Checkpoint(_)) => (0, 0),
        Err(Failed::Other(_)) => moment(&checkpoint::read(history, start).unwrap_or_default()),
    };
    let (identity, oldest, last) = (judged.identity(), judged.oldest_revision(), judged.tail().revision);
    let log = (oldest, identity.incarnation);
    check_incarnation(dir, begun, retained(history), log)?;
    history.check_against_log(last).map_err(ServerError::against_log)?;
    fallback::check_against_log(dir, identity, last)?;
    let (judged, replayed) = match (replayed, newest) {
        (Err(Failed::Checkpoint(error)), Some(newest)) => {
            let (cell, revision) = super::cell_before(history, &newest, error)?;
            read_from(judged.unread(), dir, history, Start::Cell(Box::new(cell), revision))?
        }
        (replayed, _) => (judged, replayed),
    };
    let mut replayed = replayed.map_err(|(Failed::Checkpoint(error) | Failed::Other(error))| error)?;
    check_incarnation(dir, replayed.begun, retained(history), log)?;
    // A log without any batch has the history's up to where it begins.
    let next = replayed.mirror.cell().revision().0 + 1;
    for delta in from_history(history, dir, next, oldest)? {
        advance(&mut replayed.mirror, &delta?)?;
    }
    let found = replayed.mirror.cell().revision();
    if found.0 != last {
        let what = format!("the log ends at revision {last}, and what was read of it ended here");
        return Err(ServerError::Unfoldable { revision: found, what });
    }
    Ok((judged, replayed))
}

/// The checkpoint that a cell begins with (its revision, its incarnation) must be of the incarnation of the log (its oldest revision, its
/// incarnation): in another one other things were given the revisions behind it. Only the checkpoint that a restored cell begins with is of
/// the one before: the log begins behind it, and so does what the history has besides (its oldest revision, if any).
pub(crate) fn check_incarnation(
    dir: &Path,
    (revision, found): (u64, u64),
    retained: Option<u64>,
    (oldest, expected): (u64, u64),
) -> Result<(), ServerError> {
    let is_restored = revision < oldest.max(1) && retained.is_none_or(|retained| retained > revision);
    // Nothing at all is of no incarnation.
    if revision == 0 || is_restored || found == expected {
        return Ok(());
    }
    Err(ServerError::OtherIncarnation { dir: dir.to_owned(), expected, found })
}

/// The oldest revision that a history has the batch of, if it has any.
pub(crate) fn retained(history: &History) -> Option<u64> {
    Some(history.oldest_revision()).filter(|_| history.newest_revision() > 0)
}

/// What is folded forward.
enum Start {
    /// The newest checkpoint, which is not read yet; 0: the empty cell.
    Checkpoint(u64),
    /// An earlier one, with its revision.
    Cell(Box<Cell>, u64),
}

/// Reads the log, and folds what is behind a start into it.
fn read_from(
    log: Claimed,
    dir: &Path,
    history: &History,
    start: Start,
) -> Result<(Judged, Result<Replayed, Failed>), ServerError> {
    let (Start::Checkpoint(next) | Start::Cell(_, next)) = start;
    let next = next + 1;
    let known = history.newest_revision();
    let (pieces, to_decode) = sync_channel(PIECES_AHEAD);
    let (emptied, empty) = channel();
    let (decoded, to_fold) = sync_channel(PIECES_AHEAD);
    let (walking, replayed) = std::thread::scope(|scope| {
        // The first: where the other one can't be started it has nothing to take, and ends.
        let decoding = move || decode(to_decode, &emptied, dir, history, next, &decoded);
        let decoding = super::spawn_scoped(scope, "recovery", decoding)?;
        let walking = move || walk(log, Pieces::new(pieces, empty, (next, known)));
        let walking = super::spawn_scoped(scope, "recovery", walking)?;
        let folded = fold(to_fold, history, start);
        let decoded = decoding.join().unwrap_or_else(|_| Err(panicked("while decoding the log")));
        let walked = walking.join().unwrap_or_else(|_| Err(panicked("while reading the log")));
        Ok::<_, ServerError>((walked, decoded.map_err(Failed::from).and(folded)))
    })?;
    let (judged, unfed_bytes) = walking?;
    Ok((judged, replayed.map(|replayed| Replayed { unfed_bytes, ..replayed })))
}

fn panicked(when: &str) -> ServerError {
    ServerError::Thread { name: "recovery", what: format!("it panicked {when}") }
}

/// Shows the batches of the log, and gives the bytes of those that the history has not got.
fn walk(log: Claimed, mut pieces: Pieces) -> Result<(Judged, u64), ServerError> {
    let judged = log.read(&mut |frame| pieces.add(frame)).map_err(planted_bugs::told)?;
    pieces.send();
    Ok((judged, pieces.unfed_bytes))
}

/// Some batches of the log, one after the other.
#[derive(Default)]
struct Piece {
    bytes: BytesMut,
    batches: Vec<Range<usize>>,
}

/// Gathers batches into pieces.
struct Pieces {
    from: u64,
    /// The newest revision that the history has. It may end before the checkpoint: a crash takes what it had in memory.
    known: u64,
    /// Of batches behind that.
    unfed_bytes: u64,
    piece: Piece,
    /// `None` once nobody takes any more.
    sender: Option<SyncSender<Piece>>,
    /// Memory of pieces that were decoded: new memory for each would cost the system more than reading the log does.
    empty: Receiver<BytesMut>,
}

impl Pieces {
    /// Of what is from a revision on; `known` is the newest one that the history has.
    fn new(sender: SyncSender<Piece>, empty: Receiver<BytesMut>, (from, known): (u64, u64)) -> Self {
        Self { from, known, unfed_bytes: 0, piece: Piece::default(), sender: Some(sender), empty }
    }

    fn add(&mut self, frame: &Frame<'_>) {
        if frame.last_revision > self.known {
            self.unfed_bytes += frame.payload.len() as u64;
        }
        if frame.last_revision < self.from || self.sender.is_none() {
            return;
        }
        let start = self.piece.bytes.len();
        if start == 0 {
            self.piece.bytes = self.empty.try_recv().unwrap_or_default();
            self.piece.bytes.reserve(PIECE_BYTES + frame.payload.len());
        }
        self.piece.bytes.extend_from_slice(frame.payload);
        self.piece.batches.push(start..self.piece.bytes.len());
        if self.piece.bytes.len() >= PIECE_BYTES {
            self.send();
        }
    }

    fn send(&mut self) {
        let piece = std::mem::take(&mut self.piece);
        if self.sender.as_ref().is_some_and(|sender| sender.send(piece).is_err()) {
            self.sender = None;
        }
    }
}

/// A piece of the log, decoded.
#[derive(Default)]
struct Decoded {
    deltas: Vec<Delta>,
    log_bytes: u64,
}

/// Decodes what is from a revision on: what the log has no more comes from the history. Ends when nobody takes it any more.
fn decode(
    pieces: Receiver<Piece>,
    emptied: &Sender<BytesMut>,
    dir: &Path,
    history: &History,
    from: u64,
    sender: &SyncSender<Decoded>,
) -> Result<(), ServerError> {
    let mut is_first = true;
    for Piece { bytes, batches } in pieces {
        let bytes = bytes.freeze();
        let mut decoded = Decoded::default();
        for place in batches {
            let batch = LoggedBatch::parse(bytes.slice(place))?;
            if std::mem::take(&mut is_first) {
                for delta in from_history(history, dir, from, batch.first().0)? {
                    if sender.send(Decoded { deltas: vec![delta?], ..Decoded::default() }).is_err() {
                        return Ok(());
                    }
                }
            }
            for revision in batch.revisions().filter(|revision| revision.0 >= from) {
                decoded.deltas.push(delta_of(&batch, revision)?);
            }
            decoded.log_bytes += batch.bytes().len() as u64;
        }
        if sender.send(decoded).is_err() {
            return Ok(());
        }
        // Nothing of it is in what was decoded. If something were, it would merely not be used again.
        if let Ok(mut bytes) = bytes.try_into_mut() {
            bytes.clear();
            drop(emptied.send(bytes));
        }
    }
    Ok(())
}

/// The deltas from a revision up to one that the log begins with, which the history must have.
fn from_history(
    history: &History,
    dir: &Path,
    from: u64,
    begins: u64,
) -> Result<impl Iterator<Item = Result<Delta, ServerError>>, ServerError> {
    let missing = begins > from;
    let known = history.newest_revision();
    if missing && begins > known + 1 {
        return Err(ServerError::MissingLog { dir: dir.to_owned(), oldest: begins, known });
    }
    let entries =
        if missing { Some(history.entries(from, begins - 1).map_err(ServerError::ReadHistory)?) } else { None };
    Ok(entries.into_iter().flatten().map(|logged| {
        let entry = logged.map_err(ServerError::ReadHistory)?.entry;
        delta::decode_whole(entry.delta).map_err(|error| ServerError::unread(Revision(entry.revision), &error))
    }))
}

/// The decoded delta of a revision of a batch.
pub(crate) fn delta_of(batch: &LoggedBatch, revision: Revision) -> Result<Delta, ServerError> {
    delta::decode_whole(batch.delta(revision).unwrap_or_default())
        .map_err(|error| ServerError::unread(revision, &error))
}

/// The cell at a durable revision or, where there is a checkpoint of a later one, at that: of the newest checkpoint, and what the open log has
/// behind it.
pub(crate) fn present(history: &History, keeper: &Keeper, revision: Revision) -> Result<Cell, ServerError> {
    let (mut cell, start) = super::newest_cell(history)?;
    if start >= revision.0 {
        return Ok(cell);
    }
    let mut reader = keeper.reader(start + 1).map_err(ServerError::ReadJournal)?;
    while cell.revision() < revision
        && let Some(frame) = reader.next_frame().map_err(ServerError::ReadJournal)?
    {
        let batch = LoggedBatch::parse(Bytes::copy_from_slice(frame.payload))?;
        for revision in batch.revisions().filter(|revision| revision.0 > start) {
            let delta = delta_of(&batch, revision)?;
            cell.apply(&delta).map_err(|error| ServerError::unfoldable(revision, &error))?;
        }
    }
    Ok(cell)
}

/// Folds deltas into the cell to begin with.
fn fold(decoded: Receiver<Decoded>, history: &History, start: Start) -> Result<Replayed, Failed> {
    let (cell, checkpoint) = match start {
        Start::Checkpoint(0) => (Cell::default(), None),
        Start::Checkpoint(revision) => {
            let cell = checkpoint::read(history, revision).map_err(Failed::Checkpoint)?;
            (cell.clone(), Some(cell))
        }
        // The newest one can't be added to.
        Start::Cell(cell, _) => (*cell, None),
    };
    let begun = moment(&cell);
    // How much the history lacks is known to who reads the log.
    let mut replayed = Replayed { mirror: Mirror::new(cell), checkpoint, unfed_bytes: 0, begun };
    let mut folded_bytes = 0;
    for Decoded { deltas, log_bytes } in decoded {
        folded_bytes += log_bytes;
        if folded_bytes > KEPT_BYTES_MAX {
            replayed.checkpoint = None;
        }
        for (at, delta) in deltas.iter().enumerate() {
            deltas.get(at + 1).into_iter().for_each(|next| warm(replayed.mirror.cell(), next));
            advance(&mut replayed.mirror, delta)?;
        }
    }
    Ok(replayed)
}

/// Brings what a delta touches first into the cache, while the one before is folded: rows of a large cell are nowhere near.
fn warm(cell: &Cell, delta: &Delta) {
    cell.warm(delta.moves.iter().take(WARM_AHEAD).map(|change| change.slot));
    cell.warm(delta.ends.iter().take(WARM_AHEAD).map(|end| end.slot));
    for grants in delta.grants.iter().take(WARM_AHEAD) {
        cell.warm_rows(first(&grants.slots).iter().copied());
        if let Some(group) = cell.groups().get(grants.group_row) {
            cell.warm_claims(group, first(&grants.machines), first(&grants.tasks));
        }
    }
}

fn first(column: &[u32]) -> &[u32] {
    &column[..column.len().min(WARM_AHEAD)]
}

fn advance(mirror: &mut Mirror, delta: &Delta) -> Result<(), ServerError> {
    mirror
        .advance(&planted::folded(delta, Bug::RecoversAnother))
        .map_err(|error| ServerError::unfoldable(delta.revision, &error))
}
