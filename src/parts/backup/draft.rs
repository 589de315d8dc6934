//! The file of a backup while it is written: a draft until it is whole and was read back, and nothing where it does not come to that.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, SystemTime},
};

use nix::fcntl::OFlag;
use plenum_proto::v1::BackupManifest;
use plenum_server::BackupError;

use super::failure;
use crate::{
    cli,
    failure::{EXIT_FAILED, Failure},
    output::{self, Format},
    signals::Signals,
};

/// How far a backup is. Whoever moves it on has it locked meanwhile, so that one that is interrupted is there whole or not at all, and what is
/// said of it is true.
pub(super) enum Stage {
    Nothing,
    Draft(PathBuf),
    /// It has its name, and stays.
    Named,
}

/// Removes a draft when this process is asked to end, and ends it: whatever it does then, such as to read back what was written, is of no use any more.
/// One that has its name already is told of as ever. On a thread of its own, as most of that is no matter of waiting; listens when this returns.
pub(super) fn end_when_asked(stage: Arc<Mutex<Stage>>, format: Format) {
    let (listens, listening) = mpsc::channel();
    std::thread::spawn(move || {
        let asked = cli::block_on(async {
            let mut signals = Signals::listen()?;
            drop(listens);
            signals.next().await;
            Ok::<(), Failure>(())
        });
        // Without handlers the signals do what they always do.
        if asked.flatten().is_err() {
            return;
        }
        let stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        match &*stage {
            Stage::Named => return,
            // Nothing can be done about a failure, as in `Draft::drop`.
            Stage::Draft(path) => drop(fs::remove_file(path)),
            Stage::Nothing => {}
        }
        output::tell_failure(format, &Failure::new("CANCELLED", "the backup was interrupted"));
        std::process::exit(EXIT_FAILED.into());
    });
    // Nothing is ever sent: it ends when its other end is let go of.
    let _: Result<(), _> = listening.recv();
}

/// Names that are tried for a draft.
const ATTEMPTS_MAX: u32 = 1000;

/// How names of drafts begin and end. No listing shows them, and nobody takes them for backups.
const DRAFT: (&str, &str) = (".plenum-backup-", ".partial");

/// A draft that nobody has locked and that was not written for so long is left over. A lock alone does not tell that of one that another machine writes to a shared
/// folder: not all file systems show it there.
const LEFT_OVER_AFTER: Duration = Duration::from_secs(3600);

/// A backup that is being written, under a name that nobody takes for one, and locked meanwhile. Removed unless it is finished.
pub(super) struct Draft {
    pub(super) path: PathBuf,
    pub(super) file: fs::File,
    finished: bool,
}

impl Draft {
    pub(super) fn begin(out: &Path, stage: &Mutex<Stage>) -> Result<Self, Failure> {
        let folder = if out.is_dir() {
            out.to_owned()
        } else if out.exists() {
            return Err(failure(&BackupError::Exists { path: out.to_owned() }));
        } else if out.as_os_str().as_bytes().ends_with(b"/") {
            let missing = io::Error::new(io::ErrorKind::NotFound, "there is no such folder; make it first");
            return Err(Failure::io(format!("{} can't be used", out.display()), &missing));
        } else {
            out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")).to_owned()
        };
        remove_left_over(&folder);
        let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempt = 0;
        loop {
            let path = folder.join(format!("{}{}-{attempt}{}", DRAFT.0, std::process::id(), DRAFT.1));
            // Jobs' environments are in it, which others shall not read.
            match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    // Where nothing can be locked its age has to do.
                    let _ = file.try_lock();
                    *stage = Stage::Draft(path.clone());
                    return Ok(Self { path, file, finished: false });
                }
                // What a killed process of the same number left, or one on another machine that shares the folder writes.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < ATTEMPTS_MAX => attempt += 1,
                Err(error) => return Err(Failure::io(format!("{} can't be made", path.display()), &error)),
            }
        }
    }

    pub(super) fn failed(&self, error: &io::Error) -> Failure {
        Failure::io(format!("{} can't be written", self.path.display()), error)
    }

    /// Makes it durable, reads it back, and gives it its name: where it is, what it shows, and its size.
    pub(super) fn finish(
        mut self,
        out: &Path,
        stage: &Mutex<Stage>,
    ) -> Result<(PathBuf, BackupManifest, i64), Failure> {
        self.file.sync_all().map_err(|error| self.failed(&error))?;
        let bytes = i64::try_from(self.file.metadata().map_err(|error| self.failed(&error))?.len()).unwrap_or(i64::MAX);
        let manifest = plenum_server::check_backup(&self.path).map_err(|error| failure(&error))?;
        let path = if out.is_dir() { out.join(name(&manifest)) } else { out.to_owned() };
        let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        // A second name, because renaming would overwrite what is there.
        match fs::hard_link(&self.path, &path) {
            Ok(()) => fs::remove_file(&self.path).map_err(|error| self.failed(&error))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists || path.exists() => {
                if !out.is_dir() {
                    return Err(failure(&BackupError::Exists { path }));
                }
                expect_the_same(&path, &manifest)?;
                // Who removes old backups by the age of the files would remove the one that there is. Another user's, where it can be read, keeps its time.
                let _ = fs::File::open(&path).and_then(|there| there.set_modified(SystemTime::now()));
                *stage = Stage::Named;
                // Whoever gave it its name may have been killed before that was durable.
                sync_folder_of(&path).map_err(|error| self.failed(&error))?;
                return Ok((path, manifest, bytes));
            }
            // Where a file has one name only.
            Err(_) => fs::rename(&self.path, &path).map_err(|error| self.failed(&error))?,
        }
        self.finished = true;
        *stage = Stage::Named;
        sync_folder_of(&path).map_err(|error| self.failed(&error))?;
        Ok((path, manifest, bytes))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing can be done about a failure, and the file's name says that it is none.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    fs::File::open(folder)?.sync_all()
}

/// Makes sure that a backup that has the name of this one already shows the same, whole: a cell that stands still is backed up on time, too, and what was
/// written then is taken as if it were this one.
fn expect_the_same(path: &Path, manifest: &BackupManifest) -> Result<(), Failure> {
    // Who opens a pipe waits for its other end.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(failure(&BackupError::Exists { path: path.to_owned() }));
    }
    let why = match plenum_server::check_backup(path) {
        Ok(there) if shows_the_same(&there, manifest) => return Ok(()),
        Ok(_) => return Err(failure(&BackupError::Exists { path: path.to_owned() })),
        Err(BackupError::Damaged { record, offset, what, .. }) => format!("record {record} at offset {offset}: {what}"),
        Err(BackupError::NotABackup { .. }) => "it does not open as a backup does".to_owned(),
        Err(error) => return Err(failure(&error)),
    };
    let what = format!(
        "the backup that is there is damaged: {}: {why}; nothing was overwritten: move it away, and back up once more",
        path.display()
    );
    Err(Failure::new("DAMAGED_BACKUP", what).with_hint("`plenum explain DAMAGED_BACKUP` tells more"))
}

/// Removes what killed backups left in a folder: each is as large as what had come by then. Nothing is missing where it can't.
fn remove_left_over(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_draft =
            entry.file_name().to_str().is_some_and(|name| name.starts_with(DRAFT.0) && name.ends_with(DRAFT.1));
        // Nothing else is a draft, nor is it opened: who opens a pipe waits for its other end, and a link may lead to one.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_draft && is_file && is_left_over(&entry.path()).unwrap_or(false) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

fn is_left_over(draft: &Path) -> io::Result<bool> {
    // Something else may have the name by now.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(draft)?;
    let is_old = file.metadata()?.modified()?.elapsed().is_ok_and(|age| age >= LEFT_OVER_AFTER);
    Ok(is_old && file.try_lock().is_ok())
}

/// Whether two backups are of one cell as it was at one revision: of one timeline, too, as one that was restored twice or put back by hand gives
/// the same revisions to different commands. Where the frame is lost in one of them the time has to do.
fn shows_the_same(one: &BackupManifest, other: &BackupManifest) -> bool {
    let which = |manifest: &BackupManifest| {
        (manifest.cell_id.clone(), manifest.incarnation, manifest.revision, manifest.time_micros)
    };
    let is_lost = |manifest: &BackupManifest| manifest.frame_hash.is_empty();
    which(one) == which(other) && (is_lost(one) || is_lost(other) || one.frame_hash == other.frame_hash)
}

/// The name of a backup in a folder of them: they sort by age.
fn name(manifest: &BackupManifest) -> String {
    let cell: String = manifest.cell_id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("plenum-{cell}-{:02}-{:016}.backup", manifest.incarnation, manifest.revision)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    const fn nothing() -> Mutex<Stage> {
        Mutex::new(Stage::Nothing)
    }

    #[test]
    fn a_draft_that_is_not_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let draft = Draft::begin(folder.path(), &nothing()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let mode = std::os::unix::fs::PermissionsExt::mode(&draft.file.metadata().unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "nobody else reads it");
        drop(draft);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let draft = Draft::begin(&folder.path().join("x"), &nothing()).unwrap();
        let failure = draft.finish(&folder.path().join("x"), &nothing()).unwrap_err();
        assert_eq!(failure.code, "DAMAGED_BACKUP", "{failure}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    // In a container, where each backup is process 1, the first one that was killed refused all later ones.
    #[test]
    fn drafts_of_processes_of_one_number_are_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let left = Draft::begin(folder.path(), &nothing()).unwrap();
        let next = Draft::begin(folder.path(), &nothing()).unwrap();
        assert_ne!(left.path, next.path);
        drop(next);
        assert!(left.path.exists(), "somebody still writes it");
    }

    // Each nightly backup that was killed left a file of a name that no listing shows, for good.
    #[test]
    fn what_killed_backups_left_is_removed_by_a_later_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, hours: u64| {
            let path = folder.path().join(name);
            let time = SystemTime::now() - Duration::from_secs(hours * 3600);
            fs::File::create(&path).unwrap().set_modified(time).unwrap();
            path
        };
        let [old, young] = [file(".plenum-backup-1-0.partial", 2), file(".plenum-backup-1-1.partial", 0)];
        let [other, backup] = [file(".notes.partial", 2), file("plenum-abababab-01-0000000000000300.backup", 2)];
        let slow = Draft::begin(folder.path(), &nothing()).unwrap();
        slow.file.set_modified(SystemTime::now() - LEFT_OVER_AFTER).unwrap();
        drop(Draft::begin(folder.path(), &nothing()).unwrap());
        assert!(!old.exists());
        assert!([&young, &other, &backup, &slow.path].iter().all(|path| path.exists()));
    }

    /// What work comes to that must not wait for anybody.
    fn at_once<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tells, told) = mpsc::channel();
        std::thread::spawn(move || tells.send(work()));
        told.recv_timeout(Duration::from_secs(20)).expect("it waits for nobody")
    }

    // A backup waited for ever, having said nothing, for somebody to write to the pipe.
    #[test]
    fn a_pipe_or_a_link_that_is_called_as_drafts_are_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let [pipe, link] = [".plenum-backup-1-0.partial", ".plenum-backup-1-1.partial"].map(path);
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let old = fs::File::create(path("old")).unwrap();
        old.set_modified(SystemTime::now() - 2 * LEFT_OVER_AFTER).unwrap();
        std::os::unix::fs::symlink(path("old"), &link).unwrap();
        let out = folder.path().to_owned();
        let begun = at_once(move || Draft::begin(&out, &nothing()).map(drop));
        assert_eq!(begun, Ok(()));
        assert!([&pipe, &link].iter().all(|path| path.symlink_metadata().is_ok()));
    }

    #[test]
    fn a_pipe_that_has_the_name_of_a_backup_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join(name(&BackupManifest::default()));
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let failure = at_once(move || expect_the_same(&pipe, &BackupManifest::default())).unwrap_err();
        assert_eq!(failure.code, "ALREADY_THERE", "{failure}");
    }

    #[test]
    fn what_is_there_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("there");
        fs::write(&path, "dear").unwrap();
        let failure = Draft::begin(&path, &nothing()).err().unwrap();
        assert_eq!(failure.code, "ALREADY_THERE");
        assert_eq!(fs::read(&path).unwrap(), b"dear");
    }

    // The whole backup was taken for a file of that name, and then could not have it: `Not a directory`, of another file.
    #[test]
    fn a_folder_that_is_not_there_is_missed_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let failure = Draft::begin(&folder.path().join("backups/"), &nothing()).err().unwrap();
        assert!(failure.message.contains("backups/") && failure.message.contains("no such folder"), "{failure}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    // Each night the new one was thrown away for one that nobody could restore from, and told of as being there.
    #[test]
    fn a_backup_is_not_taken_for_there_where_the_one_of_its_name_is_damaged() {
        let cell = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        cli::block_on(async {
            let server = plenum_server::Server::start(plenum_server::ServerOptions::new(cell.path())).await.unwrap();
            server.shutdown().await.unwrap();
        })
        .unwrap();
        let back_up = || {
            let mut draft = Draft::begin(folder.path(), &nothing()).unwrap();
            let path = draft.path.clone();
            plenum_server::back_up_folder(cell.path(), &mut draft.file, &path).unwrap();
            draft.finish(folder.path(), &nothing()).map(|(path, ..)| path)
        };
        let path = back_up().unwrap();
        assert_eq!(back_up().unwrap(), path, "a whole one is as good as this one");
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() / 2] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let failure = back_up().unwrap_err();
            assert_eq!(failure.code, "DAMAGED_BACKUP", "{failure}");
            let told = format!("the backup that is there is damaged: {}: ", path.display());
            assert!(failure.message.starts_with(&told) && failure.message.contains("move it away"), "{failure}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half-made is left");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(back_up().unwrap(), path);
    }

    #[test]
    fn backups_of_one_cell_sort_by_age() {
        let manifest = |incarnation, revision| BackupManifest {
            incarnation,
            revision,
            cell_id: vec![0xab; 16].into(),
            ..BackupManifest::default()
        };
        assert_eq!(name(&manifest(1, 300)), "plenum-abababab-01-0000000000000300.backup");
        assert!(name(&manifest(1, 1000)) < name(&manifest(2, 10)) && name(&manifest(2, 9)) < name(&manifest(2, 10)));
    }

    // The new one was dropped, and the old one, of a cell that had gone another way since, was told of as if it were this one.
    #[test]
    fn a_backup_of_another_timeline_is_not_taken_for_this_one() {
        let this = BackupManifest {
            cell_id: vec![0xab; 16].into(),
            incarnation: 1,
            revision: 300,
            time_micros: 5,
            frame_hash: vec![1; 32].into(),
            ..BackupManifest::default()
        };
        let later = BackupManifest { time_micros: 6, ..this.clone() };
        let of_another_frame = BackupManifest { frame_hash: vec![2; 32].into(), ..this.clone() };
        let of_a_lost_frame = BackupManifest { frame_hash: Default::default(), ..this.clone() };
        // Another version of Plenum may have written it.
        let again = BackupManifest { plenum_version: "0".to_owned(), ..this.clone() };
        for (other, is_same) in [(later, false), (of_another_frame, false), (of_a_lost_frame, true), (again, true)] {
            assert_eq!((shows_the_same(&this, &other), shows_the_same(&other, &this)), (is_same, is_same), "{other:?}");
        }
    }
}
