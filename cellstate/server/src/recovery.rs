//! Starting: what the directory holds becomes the cell again.
//!
//! The newest checkpoint is folded forward with the deltas of the log, never with what was asked: a newer version does not decide
//! history again. What the history has not got yet is left to its own thread, which reads it from the log while the server serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use bytes::Bytes;
use plenum_history::{History, StartingPoint};
use plenum_journal::{CellId, Journal, RealDisk, Recovered};
use plenum_model::{Cell, CellIdentity, Delta, Revision};
use plenum_proto::pages::PageError;
use plenum_proto::sections::Sections;
use plenum_proto::{delta, pages};

use crate::backup::restore::DRAFT;
use crate::engine::step_back;
use crate::error::ServerError;
use crate::options::{ServerOptions, Settings};
use crate::publish::{LoggedBatch, Mirror};

/// The folder of the log's segments.
pub(crate) const LOG: &str = "log";
/// The folder of the history.
pub(crate) const HISTORY: &str = "history";
/// Pages of a checkpoint that are read ahead.
const PAGES_AHEAD: usize = 256;
/// Batches that are decoded ahead of being folded.
const BATCHES_AHEAD: usize = 32;

/// A directory that is open, with the cell that it holds.
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) history: History,
    pub(crate) mirror: Mirror,
    /// What this start will be.
    pub(crate) identity: CellIdentity,
    /// The cell of the newest checkpoint.
    pub(crate) checkpoint: Option<Cell>,
    /// Bytes of the log that the history has not got, or a little more.
    pub(crate) lag_bytes: u64,
    /// Bytes that were cut off the end of the log: a write that nobody was promised, torn by a crash.
    pub(crate) cut_bytes: u64,
}

/// Opens the directory, or makes it a cell, and folds what is in it.
pub(crate) fn open(options: &ServerOptions) -> Result<Opened, ServerError> {
    let draft = options.dir.join(DRAFT);
    if draft.exists() && !options.dir.join(LOG).exists() {
        return Err(ServerError::HalfRestored { path: options.dir.clone() });
    }
    let (journal, recovered) = open_journal(options, &options.dir.join(LOG))?;
    let folder = options.dir.join(HISTORY);
    std::fs::create_dir_all(&folder).map_err(|source| ServerError::Directory { path: folder.clone(), source })?;
    let history = open_history(&folder, history_options(&recovered, &options.settings))?;
    history.check_against_log(recovered.tail.revision).map_err(ServerError::WriteHistory)?;
    let start = history.newest_checkpoint().map_or(0, |newest| newest.revision);
    let Replayed { mirror, checkpoint, unfed_bytes } = replay(&options.dir, &journal, &history, start)?;
    // What is before the checkpoint was not read.
    let lag_bytes = if history.newest_revision() < start { journal.keeper().size_bytes() } else { unfed_bytes };
    let identity = identity(options, &recovered, mirror.cell())?;
    tracing::info!(revision = %mirror.cell().revision(), term = identity.term, created = recovered.created, "recovered");
    let cut_bytes = recovered.cut.as_ref().map_or(0, |cut| cut.bytes);
    Ok(Opened { journal, history, mirror, identity, checkpoint, lag_bytes, cut_bytes })
}

fn open_journal(options: &ServerOptions, log: &Path) -> Result<(Journal, Recovered), ServerError> {
    let disk = RealDisk::open(log).map_err(plenum_journal::OpenError::from)?;
    let create = match options.cell_id {
        Some(id) => id,
        None => random_id()?,
    };
    let settings = plenum_journal::Options {
        create: Some(CellId(create)),
        expect: options.cell_id.map(CellId),
        segment_bytes: options.settings.segment_bytes,
        frame_bytes_max: options.settings.frame_bytes_max(),
        reserve_bytes: options.settings.reserve_bytes,
    };
    Ok(Journal::open(Arc::new(disk), settings)?)
}

/// An id for a new cell, from the system.
fn random_id() -> Result<[u8; 16], ServerError> {
    let path = PathBuf::from("/dev/urandom");
    let mut id = [0; 16];
    let read = std::fs::File::open(&path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut id));
    read.map_err(|source| ServerError::Directory { path, source })?;
    Ok(id)
}

/// Opens the history on a thread that has stepped back: those that the store starts for itself take after it.
fn open_history(folder: &Path, options: plenum_history::Options) -> Result<History, ServerError> {
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| {
            step_back();
            History::open(folder, options).map(|(history, _)| history)
        });
        match opening.join() {
            Ok(opened) => Ok(opened?),
            Err(_) => Err(ServerError::Thread { name: "history", what: "it panicked while opening".to_owned() }),
        }
    })
}

fn history_options(recovered: &Recovered, settings: &Settings) -> plenum_history::Options {
    plenum_history::Options {
        retain_micros: i64::try_from(settings.retain.as_micros()).unwrap_or(i64::MAX),
        retain_bytes: settings.retain_bytes,
        ..plenum_history::Options::new(recovered.identity.cell.0.to_vec())
    }
}

/// The cell that a checkpoint shows. A second thread reads the pages, while this one makes rows of them.
pub(crate) fn checkpoint_cell(history: &History, revision: u64) -> Result<Cell, ServerError> {
    let images = history.pages_at(revision).map_err(ServerError::ReadHistory)?;
    let unfit = |error: PageError| ServerError::Checkpoint { revision, what: error.to_string() };
    let (sender, read) = std::sync::mpsc::sync_channel(PAGES_AHEAD);
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            for image in images {
                let page = pages::read(image.map_err(ServerError::ReadHistory)?.bytes).map_err(unfit)?;
                if sender.send(page).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let mut decoder = pages::Decoder::new(Sections::ALL);
        for page in read {
            decoder.add_read(page).map_err(unfit)?;
        }
        match reading.join() {
            Ok(done) => done.and_then(|()| decoder.finish().map_err(unfit)),
            Err(_) => Err(ServerError::Thread { name: "recovery", what: "it panicked while reading pages".to_owned() }),
        }
    })
}

/// The cell at a revision that the history has: the newest checkpoint before it, and the deltas up to it.
pub(crate) fn cell_at(history: &History, revision: u64) -> Result<(Cell, u64), ServerError> {
    let start = match history.start_for(revision).map_err(ServerError::ReadHistory)? {
        StartingPoint::Empty => 0,
        StartingPoint::Checkpoint(checkpoint) => checkpoint.revision,
    };
    let cell = if start == 0 { Cell::default() } else { checkpoint_cell(history, start)? };
    Ok((cell, start))
}

/// What the log and the newest checkpoint come to.
struct Replayed {
    mirror: Mirror,
    checkpoint: Option<Cell>,
    /// Bytes of batches behind the checkpoint that the history has not got.
    unfed_bytes: u64,
}

/// A batch of the log, decoded.
struct Decoded {
    deltas: Vec<Delta>,
    unfed_bytes: u64,
}

/// Folds the log after a checkpoint into it. A second thread reads and decodes meanwhile, also while the checkpoint is restored.
fn replay(dir: &Path, journal: &Journal, history: &History, start: u64) -> Result<Replayed, ServerError> {
    let (sender, batches) = std::sync::mpsc::sync_channel::<Decoded>(BATCHES_AHEAD);
    std::thread::scope(|scope| {
        let decoding = scope.spawn(|| decode_log(dir, journal, history, start, sender));
        let cell = if start == 0 { Cell::default() } else { checkpoint_cell(history, start)? };
        let checkpoint = (start > 0).then(|| cell.clone());
        let mut replayed = Replayed { mirror: Mirror::new(cell), checkpoint, unfed_bytes: 0 };
        for batch in batches {
            for delta in batch.deltas {
                let advanced = replayed.mirror.advance(&delta);
                advanced.map_err(|error| ServerError::unfoldable(delta.revision, &error))?;
            }
            replayed.unfed_bytes += batch.unfed_bytes;
        }
        match decoding.join() {
            Ok(decoded) => decoded.map(|()| replayed),
            Err(_) => Err(ServerError::Thread { name: "recovery", what: "it panicked while decoding".to_owned() }),
        }
    })
}

/// Decodes what is after a revision: from the log, and what that has no more from the history. Ends when nobody takes it any more.
fn decode_log(
    dir: &Path,
    journal: &Journal,
    history: &History,
    start: u64,
    sender: SyncSender<Decoded>,
) -> Result<(), ServerError> {
    let (keeper, known) = (journal.keeper(), history.newest_revision());
    let begins = keeper.oldest_revision();
    if begins > start + 1 {
        if begins > known + 1 {
            return Err(ServerError::MissingLog { dir: dir.to_owned(), oldest: begins, known });
        }
        for logged in history.entries(start + 1, begins - 1).map_err(ServerError::ReadHistory)? {
            let entry = logged.map_err(ServerError::ReadHistory)?.entry;
            let delta = delta::decode(entry.delta)
                .map_err(|error| ServerError::unfoldable(Revision(entry.revision), &error))?;
            if sender.send(Decoded { deltas: vec![delta], unfed_bytes: 0 }).is_err() {
                return Ok(());
            }
        }
    }
    let from = begins.max(start + 1);
    if keeper.tail().revision < from {
        return Ok(());
    }
    let mut reader = keeper.reader(from).map_err(ServerError::ReadJournal)?;
    while let Some(frame) = reader.next_frame().map_err(ServerError::ReadJournal)? {
        let batch = LoggedBatch::parse(Bytes::copy_from_slice(frame.payload))?;
        let mut deltas = deltas_of(&batch)?;
        deltas.retain(|delta| delta.revision.0 >= from);
        let unfed_bytes = if batch.last().0 > known { batch.bytes().len() as u64 } else { 0 };
        if sender.send(Decoded { deltas, unfed_bytes }).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The decoded deltas of a batch.
pub(crate) fn deltas_of(batch: &LoggedBatch) -> Result<Vec<Delta>, ServerError> {
    let decode = |revision: Revision| {
        delta::decode(batch.delta(revision).unwrap_or_default())
            .map_err(|error| ServerError::unfoldable(revision, &error))
    };
    batch.revisions().map(decode).collect()
}

/// What the next server of this cell is.
fn identity(options: &ServerOptions, recovered: &Recovered, cell: &Cell) -> Result<CellIdentity, ServerError> {
    let before = cell.identity();
    let given: Vec<Arc<str>> = options.custom_resources.iter().map(|name| Arc::from(name.as_str())).collect();
    let is_new = cell.revision() == Revision(0);
    if !is_new && !given.is_empty() && given != before.custom_resources {
        return Err(ServerError::CustomResources {
            expected: before.custom_resources.iter().map(ToString::to_string).collect(),
            found: options.custom_resources.clone(),
        });
    }
    if given.len() > plenum_model::CUSTOM_RESOURCES {
        return Err(ServerError::Setting {
            name: "custom_resources",
            expected: format!("at most {} names", plenum_model::CUSTOM_RESOURCES),
            found: given.len().to_string(),
        });
    }
    for name in &given {
        plenum_proto::names::attribute("custom_resources", name).map_err(|invalid| ServerError::Setting {
            name: "custom_resources",
            expected: invalid.expected,
            found: invalid.found,
        })?;
    }
    Ok(CellIdentity {
        cell_id: recovered.identity.cell.0,
        incarnation: recovered.identity.incarnation,
        term: before.term.max(recovered.tail.term) + 1,
        custom_resources: if is_new { given } else { before.custom_resources.clone() },
    })
}
