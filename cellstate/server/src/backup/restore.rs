//! A new directory for a cell, from a backup or from what is left of an old directory.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use plenum_core::invariants;
use plenum_history::History;
use plenum_journal::{CellId, ChainHash, Identity, RealDisk, Tail};
use plenum_model::{Cell, INCARNATIONS_MAX, Revision};
use plenum_proto::pages::{self, PageError};
use plenum_proto::sections::Sections;
use plenum_proto::v1;

use super::fallback::{self, FALLBACK};
use super::file::Decoder;
use super::folder::{self, Followed, Loss};
use super::{BackupError, manifest};
use crate::checkpoint;
use crate::error::ServerError;
use crate::options::Settings;
use crate::recovery::{HISTORY, LOG, LOST_AND_FOUND};

/// Where a new directory is built, inside itself: what is there before the end is not where a server looks for it.
const DRAFT: &str = "restoring";

/// How to restore.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// From a damaged directory: go on without what is lost.
    pub accept_loss: bool,
    /// The new incarnation; none is one above the backup's. Where the cell was restored since that was taken, from whichever backup, another one has to be given,
    /// above all that it ever had: else ids may be given a second time, and those who saw the later cell take this one for older, or for the same.
    pub incarnation: Option<u64>,
}

/// A cell that was restored, and not started yet.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What was restored, as it was.
    pub manifest: v1::BackupManifest,
    /// What it is now.
    pub incarnation: u64,
    /// What is damaged or lost, if anything is known to be.
    pub loss: Option<Loss>,
    /// Live allocations of the state that was restored.
    pub live_allocations: u64,
}

/// Makes `dir` a cell that goes on from a backup, or from the directory of a stopped cell. It is in a new incarnation: sessions of the
/// old one are over, and machines have to register again. `dir` must not be there, or be empty but for a disk's own `lost+found`.
///
/// # Errors
/// [`BackupError`]. `dir` is no cell then; what was made in it meanwhile is removed.
pub fn restore(from: &Path, dir: &Path, options: &RestoreOptions) -> Result<Restored, BackupError> {
    refuse_unless_empty(dir)?;
    let (cell, manifest, loss) = if from.is_dir() { from_folder(from, options.accept_loss)? } else { from_file(from)? };
    let least = manifest.incarnation.saturating_add(1);
    let incarnation = options.incarnation.unwrap_or(least);
    if incarnation < least || incarnation > INCARNATIONS_MAX {
        return Err(BackupError::Incarnation { least, most: INCARNATIONS_MAX, found: incarnation });
    }
    invariants::check_cell(&cell)
        .map_err(|violation| BackupError::NotSound { revision: manifest.revision, what: violation.to_string() })?;
    let parents = parents_of_new(dir);
    let begun = begin_draft(dir);
    // The directory of who restores into it just now is not ours.
    let is_taken = matches!(begun, Err(BackupError::Server(ServerError::BeingRestored { .. })));
    let (draft, _building) = begun.inspect_err(|_| {
        if !is_taken {
            remove_if_new(dir, &parents)
        }
    })?;
    let named = sync_folder(dir).and_then(|()| parents.iter().try_for_each(|parent| sync_folder(parent)));
    let made = named.and_then(|()| build(&cell, &manifest, incarnation, &draft));
    let made = made.and_then(|()| put_in_place(&draft, dir));
    if let Err(error) = made {
        if let Err(also) = fs::remove_dir_all(&draft) {
            tracing::warn!(error = %also, draft = %draft.display(), "what was made could not be removed");
        }
        remove_if_new(dir, &parents);
        return Err(error);
    }
    let live_allocations = cell.live().into();
    Ok(Restored { manifest, incarnation, loss, live_allocations })
}

/// Reads the cell of a backup, as it was: to look at, and to ask what would be if.
///
/// # Errors
/// [`BackupError`], when the file is no backup, damaged, or its cell is not sound.
pub fn read_backup(from: &Path) -> Result<Cell, BackupError> {
    let (cell, manifest, _) = from_file(from)?;
    invariants::check_cell(&cell)
        .map_err(|violation| BackupError::NotSound { revision: manifest.revision, what: violation.to_string() })?;
    Ok(cell)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

fn refuse_unless_empty(dir: &Path) -> Result<(), BackupError> {
    match first_in(dir) {
        Ok(None) => Ok(()),
        // What it has made so far is not to be removed.
        Ok(Some(_)) if dir.join(DRAFT).exists() && is_at_work(dir) => Err(being_restored(dir)),
        Ok(Some(_)) if is_half_restored(dir) => Err(ServerError::HalfRestored { path: dir.to_owned() }.into()),
        Ok(Some(path)) => Err(BackupError::Exists { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(BackupError::Exists { path: dir.to_owned() }),
        Err(source) => Err(BackupError::Io { path: dir.to_owned(), source }),
    }
}

/// Anything in a directory that somebody has put there: a disk that was only just mounted is as empty as a new folder.
fn first_in(dir: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() != LOST_AND_FOUND {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn being_restored(dir: &Path) -> BackupError {
    ServerError::BeingRestored { path: dir.to_owned() }.into()
}

/// Whether a restore into it was begun, came to no end, and nobody is at it any more. Where there is anything else nobody shall be told to
/// remove it.
fn is_half_restored(dir: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(dir) else { return false };
    let is_made_by_one = |name: &OsStr| [DRAFT, HISTORY, FALLBACK, LOST_AND_FOUND].iter().any(|made| name == *made);
    let has_nothing_else = entries.all(|entry| entry.is_ok_and(|entry| is_made_by_one(&entry.file_name())));
    let is_free = || fs::File::open(dir).is_ok_and(|folder| folder.try_lock_shared().is_ok());
    has_nothing_else && is_unfinished(dir) && is_free()
}

/// Whether a restore did not come to its end. To be asked of a directory without a log: where that lies in the draft, or neither history nor fallback
/// is in place, it was on its way. A draft beside these, without a log, is left of one that did: the cell has lost its log since.
pub(crate) fn is_unfinished(dir: &Path) -> bool {
    let draft = dir.join(DRAFT);
    // Also where it is a link to a disk that is not mounted.
    let is_named = |name: &str| dir.join(name).symlink_metadata().is_ok();
    draft.join(LOG).exists() || (draft.exists() && ![LOG, HISTORY, FALLBACK].into_iter().any(is_named))
}

/// Removes the draft that a restore which came to its end could not remove, if it is empty. Called by who has the cell's log.
pub(crate) fn remove_empty_draft(dir: &Path) {
    let draft = dir.join(DRAFT);
    if draft.exists() && !is_at_work(dir) {
        // Fails where anything is in it: that stays.
        let _ = fs::remove_dir(draft);
    }
}

/// Whether somebody restores into a directory right now, as far as directories can be locked.
pub(crate) fn is_at_work(dir: &Path) -> bool {
    let locked = |folder: fs::File| matches!(folder.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
    fs::File::open(dir).is_ok_and(locked)
}

/// The folder to build in, which nobody else has: two restores into one directory would build in each other's, and the one that fails
/// remove what the other made. It is there as soon as the directory is: a server that is started on an empty one makes a cell of its own.
/// With it comes the lock of the directory, for as long as it is built in; where directories can't be locked it is not.
fn begin_draft(dir: &Path) -> Result<(PathBuf, fs::File), BackupError> {
    let draft = dir.join(DRAFT);
    let make = |path: &Path, recursive| match fs::DirBuilder::new().mode(0o700).recursive(recursive).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(BackupError::Exists { path: path.to_owned() })
        }
        Err(source) => Err(BackupError::Io { path: path.to_owned(), source }),
    };
    make(dir, true)?;
    let folder = fs::File::open(dir).map_err(failed(dir))?;
    if matches!(folder.try_lock(), Err(fs::TryLockError::WouldBlock)) {
        return Err(being_restored(dir));
    }
    // It was looked at before a whole backup was read: a server may have made a cell there meanwhile.
    if let Some(path) = first_in(dir).map_err(failed(dir))? {
        return Err(BackupError::Exists { path });
    }
    make(&draft, false)?;
    Ok((draft, folder))
}

/// Removes a directory that was made for the cell, of which the `parents` tell: a server that is started on an empty one makes a cell of its own. One with
/// anything in it stays.
fn remove_if_new(dir: &Path, parents: &[PathBuf]) {
    if !parents.is_empty() {
        let _ = fs::remove_dir(dir);
    }
}

/// The folders in which names are made when a directory is, the innermost first.
fn parents_of_new(dir: &Path) -> Vec<PathBuf> {
    let new = dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
    let parents = new.map(|path| path.parent().filter(|parent| !parent.as_os_str().is_empty()));
    parents.map(|parent| parent.unwrap_or_else(|| Path::new(".")).to_owned()).collect()
}

pub(super) type Source = (Cell, v1::BackupManifest, Option<Loss>);

fn from_folder(from: &Path, accept_loss: bool) -> Result<Source, BackupError> {
    let Followed { cell, incarnation, tail, loss } = folder::follow(from, accept_loss)?;
    let manifest = manifest(&cell, incarnation, tail);
    Ok((cell, manifest, loss))
}

/// The cell of a backup, as it was.
pub(super) fn from_file(from: &Path) -> Result<Source, BackupError> {
    let of = |fault| BackupError::of(from, fault);
    let file = fs::File::open(from).map_err(failed(from))?;
    let mut backup = Decoder::begin(BufReader::with_capacity(1 << 18, file)).map_err(of)?;
    let mut cell = pages::Decoder::new(Sections::ALL);
    let revision = backup.manifest.revision;
    let not_sound = |what: String| BackupError::NotSound { revision, what };
    let unfit = |error: PageError| {
        let newer = ServerError::newer_in(Revision(revision), &error);
        newer.map_or_else(|| not_sound(error.to_string()), BackupError::from)
    };
    while let Some(page) = backup.next_page().map_err(of)? {
        cell.add_read(pages::read_whole(page).map_err(unfit)?).map_err(unfit)?;
    }
    let cell = cell.finish().map_err(|error| not_sound(error.to_string()))?;
    let manifest = backup.manifest;
    let shows = (cell.revision().0, cell.identity().cell_id.as_slice());
    if shows != (revision, &*manifest.cell_id) {
        return Err(not_sound(format!("its pages show revision {} of another cell or moment", shows.0)));
    }
    Ok((cell, manifest, None))
}

/// Makes log and history in a folder of their own.
fn build(cell: &Cell, manifest: &v1::BackupManifest, incarnation: u64, draft: &Path) -> Result<(), BackupError> {
    let settings = Settings::default();
    let hash = <[u8; 32]>::try_from(&*manifest.frame_hash).unwrap_or_default();
    let tail = Tail { revision: manifest.revision, term: manifest.term, hash: ChainHash(hash) };
    let identity = Identity { cell: CellId(cell.identity().cell_id), incarnation };
    let options = plenum_journal::Options {
        segment_bytes: settings.segment_bytes,
        frame_bytes_max: settings.frame_bytes_max(),
        ..plenum_journal::Options::default()
    };
    let disk = RealDisk::open(draft.join(LOG)).map_err(|error| ServerError::OpenJournal(error.into()))?;
    plenum_journal::plant(&disk, identity, tail, &options).map_err(ServerError::OpenJournal)?;
    fallback::write(draft, cell, incarnation, tail.hash)?;
    write_history(cell, &draft.join(HISTORY))
}

fn write_history(cell: &Cell, folder: &Path) -> Result<(), BackupError> {
    let options = plenum_history::Options::new(cell.identity().cell_id.to_vec());
    let (history, _) = History::open(folder, options).map_err(ServerError::from)?;
    let written = checkpoint::write(&history, cell, None);
    written.and_then(|_| history.persist()).map_err(ServerError::WriteHistory)?;
    // Read back: that it can be started from is what this is for.
    let read = checkpoint::read(&history, cell.revision().0)?;
    match read.first_difference(cell) {
        None => Ok(()),
        Some(what) => Err(BackupError::NotSound { revision: cell.revision().0, what: what.to_string() }),
    }
}

/// Gives fallback, history and log their names, the log last: with it, the directory is a cell. Without it nothing is left behind, so that
/// the restore can be tried again; once it is there, nothing is an error any more.
fn put_in_place(draft: &Path, dir: &Path) -> Result<(), BackupError> {
    sync_folder(&draft.join(HISTORY))?;
    sync_folder(&draft.join(LOG))?;
    let mut placed = Vec::new();
    let mut place = |name: &str| {
        let path = dir.join(name);
        // A file would be replaced, other than a folder that has something in it.
        if path.is_file() {
            return Err(BackupError::Exists { path });
        }
        fs::rename(draft.join(name), &path).map_err(failed(&path))?;
        placed.push(path);
        Ok(())
    };
    let made = place(HISTORY).and_then(|()| place(FALLBACK)).and_then(|()| sync_folder(dir));
    if let Err(error) = made.and_then(|()| place(LOG)) {
        placed.iter().for_each(|path| remove_made(path));
        return Err(error);
    }
    let tidied = sync_folder(dir).and_then(|()| fs::remove_dir(draft).map_err(failed(draft)));
    if let Err(error) = tidied.and_then(|()| sync_folder(dir)) {
        tracing::warn!(%error, dir = %dir.display(), "the cell is restored, but may not outlive a loss of power yet");
    }
    Ok(())
}

fn remove_made(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed {
        tracing::warn!(%error, made = %path.display(), "what was made could not be removed");
    }
}

fn sync_folder(path: &Path) -> Result<(), BackupError> {
    fs::File::open(path).and_then(|folder| folder.sync_all()).map_err(failed(path))
}

#[cfg(test)]
mod tests {
    use super::super::file::Encoder;
    use super::*;
    use plenum_model::{CellIdentity, Delta, Hold, JobId, LogTime, MachineState, Resources, Revision};
    use prost::Message as _;

    // A damaged file has a page that is not as it was written. This one is whole, and its cell never was: whatever began from it went on with that.
    #[test]
    fn a_backup_of_a_cell_in_which_something_does_not_hold_is_refused_by_all_who_read_it() {
        let mut cell = Cell::default();
        let (resources, deadline) = (Resources::new(1, 1), LogTime::from_micros(60_000_000));
        let hold = Hold { machines: vec![0], resources, deadline, first_wait: Revision(1) };
        // Of a job that is not there.
        let holds = vec![(JobId { slot: 7, generation: 1 }, Some(hold))];
        cell.apply(&Delta { holds, ..Delta::new(Revision(1), LogTime::from_micros(5)) }).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fallback::write(dir.path(), &cell, 1, ChainHash([0; 32])).unwrap();
        let (from, target) = (dir.path().join(FALLBACK), dir.path().join("cell"));
        assert!(from_file(&from).is_ok(), "the file is whole");
        let identity = Identity { cell: CellId(cell.identity().cell_id), incarnation: 1 };
        let read = [
            restore(&from, &target, &RestoreOptions::default()).map(drop),
            read_backup(&from).map(drop),
            fallback::read(dir.path(), identity).map(drop),
        ];
        for read in read {
            let Err(BackupError::NotSound { revision: 1, what }) = &read else { panic!("{read:?}") };
            assert!(what.starts_with("HoldAstray"), "{what}");
        }
        assert!(!target.exists(), "nothing was made of it");
    }

    // Such a backup was said to be not sound.
    #[test]
    fn a_backup_with_a_value_that_only_a_later_version_knows_takes_that_version() {
        let mut cell = Cell::default();
        let machine = crate::agents::machine(0, 1, MachineState::Ready);
        let delta = Delta::new(Revision(1), LogTime::from_micros(5));
        cell.apply(&Delta { machines: vec![machine.into()], ..delta }).unwrap();
        let mut encoder = Encoder::begin(&manifest(&cell, 1, Tail { revision: 1, ..Tail::default() }));
        for (table, number) in pages::every(&cell) {
            let mut page = v1::Page::decode(pages::encode_page(&cell, table, number)).unwrap();
            if let Some(machines) = &mut page.machines {
                machines.machines[0].state = 300;
            }
            encoder.page(&page.encode_to_vec());
        }
        encoder.end();
        let dir = tempfile::tempdir().unwrap();
        let (from, target) = (dir.path().join("backup"), dir.path().join("cell"));
        fs::write(&from, encoder.take()).unwrap();
        let refused = restore(&from, &target, &RestoreOptions::default()).unwrap_err();
        assert_eq!((refused.code(), target.exists()), ("OTHER_FORMAT", false), "{refused}");
        assert!(refused.to_string().contains("`machines.machines.state = 300`"), "{refused}");
    }

    /// A directory with a whole draft in it.
    fn drafted() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let draft = dir.path().join(DRAFT);
        for name in [HISTORY, LOG] {
            fs::create_dir_all(draft.join(name)).unwrap();
            fs::write(draft.join(name).join("content"), name).unwrap();
        }
        fs::write(draft.join(FALLBACK), FALLBACK).unwrap();
        (dir, draft)
    }

    // The history stayed when the log could not be put in its place, and who tried again was told that there is a cell already.
    #[test]
    fn a_restore_without_its_log_leaves_no_history_and_no_fallback() {
        let (dir, draft) = drafted();
        fs::remove_dir_all(draft.join(LOG)).unwrap();
        assert!(put_in_place(&draft, dir.path()).is_err());
        assert!(!dir.path().join(HISTORY).exists() && !dir.path().join(FALLBACK).exists());

        let (dir, draft) = drafted();
        let in_the_way = dir.path().join(LOG).join("in the way");
        fs::create_dir_all(&in_the_way).unwrap();
        assert!(put_in_place(&draft, dir.path()).is_err());
        assert!(!dir.path().join(HISTORY).exists() && !dir.path().join(FALLBACK).exists() && in_the_way.exists());
    }

    fn is_being_restored(error: &BackupError, dir: &Path) -> bool {
        matches!(error, BackupError::Server(ServerError::BeingRestored { path }) if path == dir)
    }

    // Of two that were begun at once the one that failed took away what the other one had made.
    #[test]
    fn only_one_restore_builds_in_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("cell");
        let (draft, building) = begin_draft(&target).unwrap();
        assert!(is_being_restored(&begin_draft(&target).unwrap_err(), &target));
        assert!(draft.exists());
        drop(building);
        assert!(matches!(begin_draft(&target), Err(BackupError::Exists { path }) if path == draft));
    }

    // It said that there is something, and to name another place: whoever did left a directory that no server starts on.
    #[test]
    fn a_restore_that_came_to_no_end_is_told_from_a_cell_and_from_one_that_runs() {
        let dir = tempfile::tempdir().unwrap();
        let (draft, building) = begin_draft(dir.path()).unwrap();
        let refused = || refuse_unless_empty(dir.path()).unwrap_err();
        let starts = || crate::recovery::open(&crate::ServerOptions::new(dir.path())).err();
        let verified = || crate::verify(dir.path()).err();
        let followed = || folder::follow(dir.path(), true).err();
        // Whoever came second was told to remove what the first one was making.
        for _ in 0..2 {
            assert!(is_being_restored(&refused(), dir.path()), "{}", refused());
            // Its log has its name before the draft is gone.
            fs::create_dir_all(dir.path().join(LOG)).unwrap();
        }
        assert!(draft.exists());
        fs::remove_dir(dir.path().join(LOG)).unwrap();
        for error in [starts(), verified()] {
            assert!(matches!(error, Some(ServerError::BeingRestored { path }) if path == dir.path()));
        }
        drop(building);
        // Who verified it, or restored from it, was told that there is no folder `log`.
        for error in [starts(), verified()] {
            assert!(matches!(error, Some(ServerError::HalfRestored { path }) if path == dir.path()));
        }
        assert!(matches!(
            followed(),
            Some(BackupError::Server(ServerError::HalfRestored { path })) if path == dir.path()
        ));
        let told = refused();
        assert!(
            matches!(&told, BackupError::Server(ServerError::HalfRestored { path }) if path == dir.path()),
            "{told}"
        );
        for other in [LOG, "thesis.txt"] {
            fs::create_dir(dir.path().join(other)).unwrap();
            assert!(matches!(refused(), BackupError::Exists { .. }), "{other} is not to be removed");
            fs::remove_dir(dir.path().join(other)).unwrap();
        }
    }

    // Its draft was still there, and when its log was not mounted, months later, it was to be removed with its history and its fallback.
    #[test]
    fn a_cell_that_lost_its_log_is_not_taken_for_a_restore_that_came_to_no_end() {
        let (dir, draft) = drafted();
        fs::write(draft.join("left"), "").unwrap();
        put_in_place(&draft, dir.path()).unwrap();
        fs::remove_dir_all(dir.path().join(LOG)).unwrap();
        let started = crate::recovery::open(&crate::ServerOptions::new(dir.path())).err();
        for error in [started, crate::verify(dir.path()).err()] {
            assert!(matches!(&error, Some(ServerError::NoLog { path }) if path == dir.path()), "{error:?}");
        }
        let followed = folder::follow(dir.path(), true).err();
        assert!(matches!(followed, Some(BackupError::Server(ServerError::NoLog { .. }))), "{followed:?}");
        assert!(matches!(refuse_unless_empty(dir.path()), Err(BackupError::Exists { .. })));
    }

    #[test]
    fn an_empty_draft_that_a_restore_has_left_is_gone_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = crate::ServerOptions::new(dir.path());
        options.settings.segment_bytes = 1 << 20;
        let start = || drop(crate::recovery::open(&options).unwrap());
        start();
        let draft = dir.path().join(DRAFT);
        fs::create_dir(&draft).unwrap();
        start();
        assert!(!draft.exists());
        fs::create_dir_all(draft.join("thesis")).unwrap();
        start();
        assert!(draft.join("thesis").exists());
    }

    // What a restore leaves that is killed was tried with an empty draft only.
    #[test]
    fn a_restore_that_is_killed_after_any_of_its_steps_leaves_a_cell_or_what_is_told_from_one() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("cell");
        let mut cell = Cell::default();
        let begins = CellIdentity { incarnation: 1, ..cell.identity().clone() };
        cell.apply(&Delta { cell: Some(begins), ..Delta::new(Revision(1), LogTime::from_micros(5)) }).unwrap();
        let manifest = manifest(&cell, 1, Tail { revision: 1, term: 1, hash: ChainHash([1; 32]) });
        let options = crate::ServerOptions::new(&dir);
        let assert_is_told = |step: &str| {
            let started = crate::recovery::open(&options).err();
            for error in [started, crate::verify(&dir).err()] {
                assert!(matches!(error, Some(ServerError::HalfRestored { .. })), "{step}: {error:?}");
            }
            let refused = refuse_unless_empty(&dir).unwrap_err();
            assert!(matches!(refused, BackupError::Server(ServerError::HalfRestored { .. })), "{step}: {refused}");
        };
        let (draft, building) = begin_draft(&dir).unwrap();
        drop(building);
        assert_is_told("begun");
        build(&cell, &manifest, 2, &draft).unwrap();
        assert_is_told("built");
        let aside = temporary.path().join("aside");
        fs::create_dir(&aside).unwrap();
        let bring = |name: &str, from: &Path, to: &Path| fs::rename(from.join(name), to.join(name)).unwrap();
        // What is not built yet, or is removed again, is aside.
        let steps: [(&Path, &Path, &[&str]); 6] = [
            (&draft, &aside, &[HISTORY, FALLBACK, LOG]),
            // A draft is removed in any order, so that its log may be gone first.
            (&aside, &draft, &[HISTORY, FALLBACK, LOG]),
            (&draft, &dir, &[HISTORY, FALLBACK]),
            // As where the log can't be placed.
            (&dir, &aside, &[HISTORY, FALLBACK]),
            (&aside, &draft, &[FALLBACK, HISTORY]),
            (&draft, &dir, &[HISTORY, FALLBACK]),
        ];
        for (from, to, names) in steps {
            for name in names {
                bring(name, from, to);
                assert_is_told(&format!("{name} from {} to {}", from.display(), to.display()));
            }
        }
        bring(LOG, &draft, &dir);
        let report = crate::verify(&dir).unwrap();
        assert!(report.is_sound(), "{:?}", report.violations);
        let opened = crate::recovery::open(&options).unwrap();
        assert_eq!((opened.mirror.cell().revision(), opened.identity.incarnation), (Revision(1), 2));
        assert!(!draft.exists());
    }

    // A server had made a cell there by then, and it was built in that until its history was in the way.
    #[test]
    fn a_directory_that_was_filled_while_the_backup_was_read_is_not_built_in() {
        let dir = tempfile::tempdir().unwrap();
        refuse_unless_empty(dir.path()).unwrap();
        let log = dir.path().join(LOG);
        fs::create_dir(&log).unwrap();
        let refused = begin_draft(dir.path()).unwrap_err();
        assert!(matches!(&refused, BackupError::Exists { path } if *path == log), "{refused}");
        assert!(!dir.path().join(DRAFT).exists());
    }

    // What its file system makes there by itself was to be removed before.
    #[test]
    fn a_disk_that_was_only_just_mounted_is_restored_into() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(LOST_AND_FOUND)).unwrap();
        refuse_unless_empty(dir.path()).unwrap();
        drop(begin_draft(dir.path()).unwrap());
        let refused = refuse_unless_empty(dir.path()).unwrap_err();
        assert!(matches!(refused, BackupError::Server(ServerError::HalfRestored { .. })), "{refused}");
    }

    #[test]
    fn all_names_that_a_restore_makes_are_known() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("a/b");
        assert_eq!(parents_of_new(&deep), [home.path().join("a"), home.path().to_owned()]);
        begin_draft(&deep).unwrap();
        assert_eq!(parents_of_new(&deep), Vec::<PathBuf>::new());
        assert_eq!(parents_of_new(Path::new("nothing is here of that name")), [PathBuf::from(".")]);
    }

    #[test]
    fn a_restore_that_cannot_tidy_up_is_a_restore() {
        let (dir, draft) = drafted();
        fs::write(draft.join("left"), "").unwrap();
        put_in_place(&draft, dir.path()).unwrap();
        assert!(dir.path().join(LOG).join("content").exists() && dir.path().join(HISTORY).join("content").exists());
    }
}
