//! Starting: what the directory holds becomes the cell again.
//!
//! The newest checkpoint is folded forward with the deltas of the log, never with what was asked: a newer version does not decide
//! history again. What the history has not got yet is left to its own thread, which reads it from the log while the server serves.
//!
//! Where there is no history (any more), one begins anew: of the log, where that goes back to the beginning with what was kept, and
//! otherwise with the fallback.

mod replay;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};

use plenum_history::{CheckpointInfo, History, ReadError, StartingPoint};
use plenum_journal::{CellId, Claimed, Identity, Journal, Judged, OpenError, RealDisk};
use plenum_model::{Cell, CellIdentity, Revision};

use crate::backup::fallback::{self, FALLBACK, LogExtent, Lookout};
use crate::backup::restore;
use crate::checkpoint;
use crate::engine::step_back;
use crate::error::{ServerError, told};
use crate::frames::frames_in;
use crate::options::ServerOptions;
use crate::planted_bugs;
use crate::publish::Mirror;
use crate::server::ADDRESS;
use replay::Replayed;
pub(crate) use replay::delta_of;
pub(crate) use replay::{check_incarnation, present, retained};

/// What the history and smaller files of a new cell take of its disk beside the log.
const BESIDE_LOG_BYTES: u64 = 4 << 20;

/// The folder of the log's segments.
pub(crate) const LOG: &str = "log";
/// The folder of the history.
pub(crate) const HISTORY: &str = "history";
/// A folder that a file system makes for itself, of a disk that is mounted there.
pub(crate) const LOST_AND_FOUND: &str = "lost+found";

/// A directory that is open, with the cell that it holds.
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) history: History,
    pub(crate) mirror: Mirror,
    /// What this start will be.
    pub(crate) identity: CellIdentity,
    /// The cell of the newest checkpoint.
    pub(crate) checkpoint: Option<Cell>,
    /// Bytes of batches that the log has, and the history has not.
    pub(crate) lag_bytes: u64,
    /// Bytes that were cut off the end of the log: a write that nobody was promised, torn by a crash.
    pub(crate) cut_bytes: u64,
}

/// Opens the directory, or makes it a cell, and folds what is in it.
pub(crate) fn open(options: &ServerOptions) -> Result<Opened, ServerError> {
    expect_restored(&options.dir)?;
    expect_owner(&options.dir)?;
    let has_more = has_more_than_a_log(&options.dir);
    let no_log = || ServerError::NoLog { path: options.dir.clone() };
    if is_absent(&options.dir.join(LOG)) && has_more {
        return Err(no_log());
    }
    let claimed = claim_journal(options, &options.dir.join(LOG), !has_more).map_err(|error| match error {
        ServerError::OpenJournal(OpenError::NoCell { .. }) => no_log(),
        error => error,
    })?;
    restore::remove_empty_draft(&options.dir);
    let (log, history) = open_both(claimed, options)?;
    let (judged, replayed) = replay::read(log, &options.dir, &history)?;
    let Replayed { mirror, checkpoint, unfed_bytes: lag_bytes, .. } = replayed;
    let identity = identity(options, &judged, mirror.cell())?;
    // Nothing but the disk stands in the way any more: what would be cut off the end may be what proves that something is lost.
    let (journal, recovered) = judged.open().map_err(planted_bugs::told)?;
    tracing::info!(revision = %mirror.cell().revision(), term = identity.term, created = recovered.created, "recovered");
    if recovered.created {
        warn_of_a_new_cell(&options.dir);
    }
    let cut_bytes = recovered.cut.as_ref().map_or(0, |cut| cut.bytes);
    Ok(Opened { journal, history, mirror, identity, checkpoint, lag_bytes, cut_bytes })
}

/// A cell is made wherever there is none: also where a disk is not mounted, or a path has a slip. Its agents and schedulers are told nothing of that.
fn warn_of_a_new_cell(dir: &Path) {
    let path = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let others = others_in(dir);
    let hint = if others.is_empty() {
        String::new()
    } else {
        format!("; it has other things in it that are not ours: {}", others.join(", "))
    };
    tracing::warn!(
        "a new cell was made in {}: if there was one before, its directory is another one, or its disk is not mounted{hint}",
        path.display()
    );
}

/// The names of the first things in a directory that no server makes there.
fn others_in(dir: &Path) -> Vec<String> {
    const NAMED_MAX: usize = 4;
    let ours = [LOG, HISTORY, FALLBACK, ADDRESS, LOST_AND_FOUND];
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut others: Vec<String> = names.filter(|name| !ours.contains(&name.as_str())).collect();
    others.sort_unstable();
    others.truncate(NAMED_MAX);
    others
}

/// Refuses a directory into which a restore is being made, or came to no end: what is there is no cell, and must not become an empty one.
pub(crate) fn expect_restored(dir: &Path) -> Result<(), ServerError> {
    if dir.join(LOG).exists() || !restore::is_unfinished(dir) {
        return Ok(());
    }
    let path = dir.to_owned();
    Err(if restore::is_at_work(dir) { ServerError::BeingRestored { path } } else { ServerError::HalfRestored { path } })
}

/// Log and history. The log is still to be read, also where it was for a history that begins anew, and nothing in it is changed but that what was kept
/// may be its again.
fn open_both(claimed: Claimed, options: &ServerOptions) -> Result<(Claimed, History), ServerError> {
    let (dir, folder) = (&options.dir, options.dir.join(HISTORY));
    let mut history = None;
    if folder.is_dir() {
        match history_options(claimed.identity(), options).and_then(|settings| open_history(&folder, settings)) {
            Ok(opened) if opened.has_anything() => {
                rejoin_behind(&claimed, &opened)?;
                return Ok((claimed, opened));
            }
            Ok(empty) => history = Some(empty),
            // What is wrong with the log counts more.
            Err(error) => return Err(claimed.read(&mut |_| {}).map_or_else(ServerError::from, |_| error)),
        }
    }
    rejoin_kept(&claimed, dir)?;
    let (log, fallback) = read_behind_fallback(claimed, dir)?;
    // Nothing is made beside a log that is not sound.
    let history = match history {
        Some(empty) => empty,
        None => open_history(&folder, history_options(log.identity(), options)?)?,
    };
    if let Some(cell) = fallback {
        begin_with_fallback(&history, &cell)?;
    }
    Ok((log.unread(), history))
}

/// A history that was put back may end before the log begins. What the log gave up since, and kept, is read as the log's again: from the
/// history's end on, or else from its newest checkpoint on.
fn rejoin_behind(claimed: &Claimed, history: &History) -> Result<(), ServerError> {
    let newest = history.newest_revision();
    let checkpoint = history.newest_checkpoint().map_or(0, |checkpoint| checkpoint.revision);
    let mut segments = claimed.rejoin_kept(newest.saturating_add(1))?;
    if segments == 0 && checkpoint > newest {
        segments = claimed.rejoin_kept(checkpoint.saturating_add(1))?;
    }
    if segments > 0 {
        tracing::info!(
            segments,
            newest,
            checkpoint,
            "the history ends before the log: what was kept for it is read again"
        );
    }
    Ok(())
}

/// What the log gave up, and kept for a history that is not there any more, is read as the log's again: the history is made anew of it, from
/// the beginning, or else from the fallback.
fn rejoin_kept(claimed: &Claimed, dir: &Path) -> Result<(), ServerError> {
    let mut segments = claimed.rejoin_kept(1)?;
    // What is wrong with a fallback that is needed is told when it is read.
    if let (0, Ok(Some(shown))) = (segments, fallback::shown_in(dir, claimed.identity())) {
        segments = claimed.rejoin_kept(shown.revision.saturating_add(1))?;
    }
    if segments > 0 {
        tracing::info!(segments, "there is no history: what was kept for it is read again");
    }
    Ok(())
}

/// The log by itself, and the cell of the fallback, where what comes before the log is known from that alone.
fn read_behind_fallback(claimed: Claimed, dir: &Path) -> Result<(Judged, Option<Cell>), ServerError> {
    let identity = claimed.identity();
    // What is wrong with it is told when it is read.
    let shown = fallback::shown_in(dir, identity).ok().flatten();
    let mut lookout = Lookout::new(shown.map_or(0, |shown| shown.revision));
    let log = claimed.read(&mut |frame| lookout.frame(frame))?;
    let (oldest, tail) = (log.oldest_revision(), log.tail());
    fallback::check_against_log(dir, identity, tail.revision)?;
    if oldest == 1 {
        return Ok((log, None));
    }
    let refused = |what| Err(ServerError::NoFallback { dir: dir.to_owned(), oldest, what });
    let (cell, shown) = match fallback::read(dir, identity) {
        Ok(Some(read)) => read,
        Ok(None) => return refused("there is none".to_owned()),
        Err(error) => return error.obstacle().map_or_else(|damaged| refused(told(&damaged)), Err),
    };
    let hash_at = |_: u64| lookout.hash(tail);
    match shown.goes_with(&LogExtent { oldest, last: tail.revision, hash_at: &hash_at }) {
        Ok(()) => Ok((log, Some(cell))),
        Err(misfit) => refused(misfit.to_string()),
    }
}

/// The fallback's cell becomes the first checkpoint of a history that has nothing.
fn begin_with_fallback(history: &History, cell: &Cell) -> Result<(), ServerError> {
    checkpoint::write(history, cell, None).map_err(ServerError::WriteHistory)?;
    history.persist().map_err(ServerError::WriteHistory)?;
    tracing::error!(
        revision = %cell.revision(),
        "there is no history: the cell goes on from its fallback and the log; the past before that can't be read any more"
    );
    Ok(())
}

/// Refuses a directory that has no log: there is nothing to read, and what is wrong is not the folder `log`, but that this is the wrong directory, or that
/// its log is lost.
pub(crate) fn expect_log(dir: &Path) -> Result<(), ServerError> {
    if !is_absent(&dir.join(LOG)) {
        return Ok(());
    }
    Err(told_of_log(dir, OpenError::NoCell { directory: dir.display().to_string(), file: "log/CELL" }))
}

/// What is told of a log that holds no cell, as of a new disk in its place: where there is more of a cell, it is lost, and this is the right directory.
pub(crate) fn told_of_log(dir: &Path, error: OpenError) -> ServerError {
    match error {
        OpenError::NoCell { .. } if has_more_than_a_log(dir) => ServerError::NoLog { path: dir.to_owned() },
        error => error.into(),
    }
}

/// Whether there is what only a cell has beside its log.
fn has_more_than_a_log(dir: &Path) -> bool {
    !is_absent(&dir.join(HISTORY)) || dir.join(FALLBACK).exists()
}

/// Whether there is no such folder, or nothing in it.
fn is_absent(folder: &Path) -> bool {
    std::fs::read_dir(folder)
        .map_or_else(|error| error.kind() == std::io::ErrorKind::NotFound, |mut entries| entries.next().is_none())
}

/// Takes the log. One that is not there is made only where that may be: a lock or a file system's own folder is no log.
fn claim_journal(options: &ServerOptions, log: &Path, may_create: bool) -> Result<Claimed, ServerError> {
    let disk = RealDisk::open(log).map_err(OpenError::from)?;
    let create = match options.cell_id {
        Some(id) => id,
        None => random_id()?,
    };
    let settings = plenum_journal::Options {
        create: may_create.then_some(CellId(create)),
        expect: options.cell_id.map(CellId),
        segment_bytes: options.settings.segment_bytes,
        frame_bytes_max: options.settings.frame_bytes_max(),
        reserve_bytes: options.settings.reserve_bytes,
        keep_released: options.settings.history,
        beside_new_bytes: Some(BESIDE_LOG_BYTES),
    };
    Ok(Journal::claim(Arc::new(disk), settings)?)
}

/// An id for a new cell, from the system.
fn random_id() -> Result<[u8; 16], ServerError> {
    let path = PathBuf::from("/dev/urandom");
    let mut id = [0; 16];
    let read = std::fs::File::open(&path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut id));
    read.map_err(|source| ServerError::Directory { path, source })?;
    Ok(id)
}

/// Starts a thread that ends before its scope does.
pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &'static str,
    body: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, ServerError> {
    let started = std::thread::Builder::new().name(format!("plenum-{name}")).spawn_scoped(scope, body);
    started.map_err(|error| ServerError::Thread { name, what: error.to_string() })
}

/// Opens the history on a thread that has stepped back: those that the store starts for itself take after it.
fn open_history(folder: &Path, options: plenum_history::Options) -> Result<History, ServerError> {
    std::thread::scope(|scope| {
        let opening = spawn_scoped(scope, "history", || {
            step_back();
            History::open(folder, options).map(|(history, _)| history)
        })?;
        match opening.join() {
            Ok(opened) => Ok(opened?),
            Err(_) => Err(ServerError::Thread { name: "history", what: "it panicked while opening".to_owned() }),
        }
    })
}

fn history_options(identity: Identity, options: &ServerOptions) -> Result<plenum_history::Options, ServerError> {
    let settings = &options.settings;
    Ok(plenum_history::Options {
        retain_micros: i64::try_from(settings.retain.as_micros()).unwrap_or(i64::MAX),
        retain_bytes: settings.retain_bytes,
        image_file_pages: settings.image_file_pages,
        ..read_options(&options.dir, &identity.cell.0)?
    })
}

/// Makes sure that a cell's directory is this user's, before its history is opened, also by who only reads it: the store writes when it is, and
/// what another user's process makes there, even root's, the server can't use any more.
pub(crate) fn expect_owner(dir: &Path) -> Result<(), ServerError> {
    let user = rustix::process::geteuid().as_raw();
    // Where there is none, there is no cell, which is found out otherwise.
    match owner_of(&dir.join(LOG)) {
        Some(owner) if owner != user => Err(ServerError::OtherUser { path: dir.to_owned(), owner, user }),
        _ => Ok(()),
    }
}

/// Whose a log is, if there is one: as its identity is, or where that is lost any segment.
fn owner_of(log: &Path) -> Option<u32> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "segment");
    let identity = std::fs::metadata(log.join(plenum_journal::IDENTITY_FILE)).ok();
    let found = identity.or_else(|| {
        let mut paths = std::fs::read_dir(log).ok()?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        std::fs::metadata(paths.find(is_segment)?).ok()
    });
    found.map(|found| found.uid())
}

/// How the history of a cell's directory is opened by who only reads it: beside its log.
pub(crate) fn read_options(dir: &Path, cell_id: &[u8]) -> Result<plenum_history::Options, ServerError> {
    let frames = frames_in(&dir.join(LOG)).map_err(OpenError::from)?;
    Ok(plenum_history::Options { frames: Some(frames), ..plenum_history::Options::new(cell_id.to_vec()) })
}

/// The cell to begin with for a revision that the history has, and its own: of the newest checkpoint before it that can be read, or the empty one.
pub(crate) fn cell_at(history: &History, revision: u64) -> Result<(Cell, u64), ServerError> {
    match history.start_for(revision).map_err(ServerError::ReadHistory)? {
        StartingPoint::Empty => Ok((Cell::default(), 0)),
        StartingPoint::Checkpoint(checkpoint) => cell_of(history, &checkpoint),
    }
}

/// The cell to begin with for what comes after the newest checkpoint, as [`cell_at`].
pub(crate) fn newest_cell(history: &History) -> Result<(Cell, u64), ServerError> {
    match history.newest_checkpoint() {
        None => Ok((Cell::default(), 0)),
        Some(checkpoint) => cell_of(history, &checkpoint),
    }
}

/// The cell of a checkpoint, or of the nearest one before it that can be read.
fn cell_of(history: &History, checkpoint: &CheckpointInfo) -> Result<(Cell, u64), ServerError> {
    match checkpoint::read(history, checkpoint.revision) {
        Ok(cell) => Ok((cell, checkpoint.revision)),
        Err(error) => cell_before(history, checkpoint, error),
    }
}

/// The cell of an earlier checkpoint than one that can't be read, for this reason; its reason where there is no other one.
fn cell_before(history: &History, checkpoint: &CheckpointInfo, error: ServerError) -> Result<(Cell, u64), ServerError> {
    // Where it is only not to be read now, or by this version, no more of the log is needed than it needs.
    if matches!(error, ServerError::ReadHistory(ReadError::Retired { .. })) || error.may_be_sound() {
        return Err(error);
    }
    for start in history.starts_before(checkpoint).map_err(ServerError::ReadHistory)? {
        let (revision, read) = match start {
            StartingPoint::Empty => (0, Ok(Cell::default())),
            StartingPoint::Checkpoint(other) => (other.revision, checkpoint::read(history, other.revision)),
        };
        if let Ok(cell) = read {
            let cause = &error as &dyn std::error::Error;
            tracing::error!(
                revision = checkpoint.revision,
                from = revision,
                cause,
                "a checkpoint can't be read; an earlier one is taken"
            );
            return Ok((cell, revision));
        }
    }
    Err(error)
}

/// What resources of every cell are called in job files and in metrics.
const RESOURCES_OF_ALL: [&str; 8] =
    ["cpu", "memory", "disk", "gpu", "ports", "cpu_millis", "memory_bytes", "disk_bytes"];

/// What the next server of this cell is.
fn identity(options: &ServerOptions, log: &Judged, cell: &Cell) -> Result<CellIdentity, ServerError> {
    let (before, of_log) = (cell.identity(), log.identity());
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
    for (position, name) in given.iter().enumerate() {
        let setting = |expected: String, found| ServerError::Setting { name: "custom_resources", expected, found };
        plenum_proto::names::attribute("custom_resources", name)
            .map_err(|invalid| setting(invalid.expected, invalid.found))?;
        // Job files and metrics could not tell them apart. A cell that has such names goes on with them.
        let is_taken = given[..position].contains(name) || RESOURCES_OF_ALL.contains(&&**name);
        if is_new && is_taken {
            let of_all = RESOURCES_OF_ALL.join(", ");
            return Err(setting(format!("different names, and none of {of_all}"), format!("{name:?}")));
        }
    }
    Ok(CellIdentity {
        cell_id: of_log.cell.0,
        incarnation: of_log.incarnation,
        term: before.term.max(log.tail().term) + 1,
        custom_resources: if is_new { given } else { before.custom_resources.clone() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Its panic was one of a thread without a name, and among the threads of the process it passed for the one that started it.
    #[test]
    fn a_thread_that_ends_before_its_scope_is_called_after_what_it_does() {
        let called = std::thread::scope(|scope| {
            let own_name = || std::thread::current().name().map(str::to_owned);
            spawn_scoped(scope, "recovery", own_name).unwrap().join().unwrap()
        });
        assert_eq!(called.as_deref(), Some("plenum-recovery"));
    }
}
