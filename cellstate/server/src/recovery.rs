//! Starting: what the directory holds becomes the cell again.
//!
//! The newest checkpoint is folded forward with the deltas of the log, never with what was asked: a newer version does not decide
//! history again. What the history has not got yet is fed to it on the way, through the same fold as in a running server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use plenum_history::{History, StartingPoint};
use plenum_journal::{CellId, Journal, RealDisk, Recovered};
use plenum_model::{Cell, CellIdentity, Delta, Revision};
use plenum_proto::{delta, pages};

use crate::engine::Fed;
use crate::error::ServerError;
use crate::options::{ServerOptions, Settings};
use crate::publish::{LoggedBatch, Mirror};

/// The folder of the log's segments.
pub(crate) const LOG: &str = "log";
/// The folder of the history.
pub(crate) const HISTORY: &str = "history";
/// Batches fed to the history at a time while recovering, in bytes.
const FEED_BYTES: usize = 4 << 20;

/// A directory that is open, with the cell that it holds.
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) history: History,
    pub(crate) mirror: Mirror,
    /// What this start will be.
    pub(crate) identity: CellIdentity,
    /// The cell of the newest checkpoint.
    pub(crate) checkpoint: Option<Cell>,
}

/// Opens the directory, or makes it a cell, and folds what is in it.
pub(crate) fn open(options: &ServerOptions) -> Result<Opened, ServerError> {
    let (journal, recovered) = open_journal(options, &options.dir.join(LOG))?;
    let folder = options.dir.join(HISTORY);
    std::fs::create_dir_all(&folder).map_err(|source| ServerError::Directory { path: folder.clone(), source })?;
    let (history, opened) = History::open(&folder, history_options(&recovered, &options.settings))?;
    history.check_against_log(recovered.tail.revision).map_err(ServerError::WriteHistory)?;
    let (cell, start) = cell_at(&history, opened.newest_revision)?;
    // Only the newest one: images are written of what changed since.
    let is_newest = opened.newest_checkpoint.is_some_and(|newest| newest.revision == start);
    let checkpoint = is_newest.then(|| cell.clone());
    let mut mirror = Mirror::new(cell);
    replay(&options.dir, &journal, &history, &mut mirror)?;
    let identity = identity(options, &recovered, mirror.cell())?;
    tracing::info!(revision = %mirror.cell().revision(), term = identity.term, created = recovered.created, "recovered");
    Ok(Opened { journal, history, mirror, identity, checkpoint })
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

fn history_options(recovered: &Recovered, settings: &Settings) -> plenum_history::Options {
    plenum_history::Options {
        retain_micros: i64::try_from(settings.retain.as_micros()).unwrap_or(i64::MAX),
        retain_bytes: settings.retain_bytes,
        ..plenum_history::Options::new(recovered.identity.cell.0.to_vec())
    }
}

/// The cell that a checkpoint shows.
pub(crate) fn checkpoint_cell(history: &History, revision: u64) -> Result<Cell, ServerError> {
    let images = history.pages_at(revision).map_err(ServerError::ReadHistory)?;
    let images: Result<Vec<Bytes>, _> = images.map(|image| image.map(|image| image.bytes)).collect();
    pages::restore(images.map_err(ServerError::ReadHistory)?)
        .map_err(|error| ServerError::Checkpoint { revision, what: error.to_string() })
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

/// Folds what the history has after its newest checkpoint, then what only the log has; the latter is fed to the history.
fn replay(dir: &Path, journal: &Journal, history: &History, mirror: &mut Mirror) -> Result<(), ServerError> {
    let known = history.newest_revision();
    let start = mirror.cell().revision().0;
    for logged in history.entries(start + 1, known).map_err(ServerError::ReadHistory)? {
        let entry = logged.map_err(ServerError::ReadHistory)?.entry;
        let unfoldable = |error: &dyn std::error::Error| ServerError::unfoldable(Revision(entry.revision), error);
        let delta = delta::decode(entry.delta.clone()).map_err(|error| unfoldable(&error))?;
        mirror.advance(&delta).map_err(|error| unfoldable(&error))?;
    }
    let keeper = journal.keeper();
    if keeper.tail().revision <= known {
        return Ok(());
    }
    let mut reader = keeper.reader(known + 1).map_err(|error| match error {
        plenum_journal::ReadError::Retired { oldest, .. } => {
            ServerError::MissingLog { dir: dir.to_owned(), oldest, known }
        }
        other => ServerError::ReadJournal(other),
    })?;
    let mut fed = Vec::new();
    let mut fed_bytes = 0;
    while let Some(frame) = reader.next_frame().map_err(ServerError::ReadJournal)? {
        let batch = Arc::new(LoggedBatch::parse(Bytes::copy_from_slice(frame.payload))?);
        let deltas = deltas_of(&batch)?;
        let folded = mirror.fold(&batch, &deltas).map_err(|error| ServerError::unfoldable(batch.first(), &error))?;
        fed_bytes += batch.bytes().len();
        fed.push(Fed { batch, ended: folded.ended, conflicts: folded.conflicts }.encoded());
        if fed_bytes >= FEED_BYTES {
            history.append(&std::mem::take(&mut fed)).map_err(ServerError::WriteHistory)?;
            fed_bytes = 0;
        }
    }
    history.append(&fed).map_err(ServerError::WriteHistory)
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
