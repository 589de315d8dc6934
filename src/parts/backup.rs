//! `plenum backup` and `plenum restore`: a cell in one file, and a cell from one.

use std::{
    fs,
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use plenum_model::INCARNATIONS_MAX;
use plenum_proto::v1::{BackupManifest, BackupRequest};
use plenum_server::{BackupError, Loss, RestoreOptions, Restored, ServerError};
use serde_json::{Value, json};

use super::{causes, server};
use crate::{
    cli::{self, Context},
    failure::{EXIT_FAILED, Failure},
    output::{self, Format, json_time},
    signals::Signals,
};

/// Writes a backup of a running cell, or of the directory of a stopped one.
pub(crate) fn backup(context: &Context, out: &Path, dir: Option<&Path>) -> Result<ExitCode, Failure> {
    let stage = Arc::new(Mutex::new(Stage::Nothing));
    end_when_asked(stage.clone(), context.format);
    let mut draft = Draft::begin(out, &stage)?;
    match dir {
        Some(dir) => {
            let dir = super::server_folder(dir.to_owned());
            let path = draft.path.clone();
            plenum_server::back_up_folder(&dir, &mut draft.file, &path).map_err(|error| failure(&error))?;
        }
        None => cli::block_on(receive(context, &mut draft))??,
    }
    let (path, manifest, bytes) = draft.finish(out, &stage)?;
    let mut value = manifest_json(&manifest);
    value["path"] = path.display().to_string().into();
    value["bytes"] = bytes.into();
    let text = || {
        let mut pairs = vec![("backup", path.display().to_string()), ("size", output::bytes(bytes))];
        pairs.extend(manifest_fields(&manifest));
        output::fields(&pairs)
    };
    output::print(&output::object(context.format, &value, &path.display().to_string(), text))?;
    Ok(ExitCode::SUCCESS)
}

/// How far a backup is. Whoever moves it on has it locked meanwhile, so that one that is interrupted is there whole or not at all, and what is
/// said of it is true.
enum Stage {
    Nothing,
    Draft(PathBuf),
    /// It has its name, and stays.
    Named,
}

/// Removes a draft when this process is asked to end, and ends it: whatever it does then, such as to read back what was written, is of no use any more.
/// One that has its name already is told of as ever. On a thread of its own, as most of that is no matter of waiting; listens when this returns.
fn end_when_asked(stage: Arc<Mutex<Stage>>, format: Format) {
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

async fn receive(context: &Context, draft: &mut Draft) -> Result<(), Failure> {
    let connection = context.connect().await?;
    let mut inspect = connection.inspect();
    let mut chunks = connection.part_of_backup(inspect.backup(BackupRequest {})).await?.into_inner();
    while let Some(chunk) = connection.part_of_backup(chunks.message()).await? {
        draft.file.write_all(&chunk.data).map_err(|error| draft.failed(&error))?;
    }
    Ok(())
}

/// Makes a new directory from a backup, or from what is left of an old directory.
pub(crate) fn restore(context: &Context, flags: &cli::Restore) -> Result<ExitCode, Failure> {
    let from = if flags.from.is_dir() { super::server_folder(flags.from.clone()) } else { flags.from.clone() };
    let options = RestoreOptions { accept_loss: flags.accept_loss, incarnation: flags.incarnation };
    let where_locked = "its server runs: back that cell up with `plenum backup --out FILE`, or stop it first";
    let restored = plenum_server::restore(&from, &flags.dir, &options);
    let restored = restored.map_err(|error| failure_of(&error, where_locked))?;
    let value = restored_json(&restored, &flags.dir);
    let name = flags.dir.display().to_string();
    output::print(&output::object(context.format, &value, &name, || restored_text(&restored, &flags.dir)))?;
    if flags.incarnation.is_none() {
        output::tell(&chosen_incarnation(restored.incarnation));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says which incarnation was taken where none was named. A backup knows nothing of restores after it.
fn chosen_incarnation(incarnation: u64) -> String {
    format!(
        "incarnation {incarnation} was chosen, the one above what was restored; if the cell was restored since that was taken, from whichever \
         backup, nobody follows this one: remove it, and restore with `--incarnation N`, above all that the cell ever had (at most {INCARNATIONS_MAX})"
    )
}

fn failure(error: &BackupError) -> Failure {
    failure_of(error, "its server runs: leave out --dir to back it up while it does")
}

/// The same, with what to do where a server has the directory.
fn failure_of(error: &BackupError, where_locked: &str) -> Failure {
    match error {
        BackupError::Server(error) => {
            let failure = server::failure(error);
            match (error, failure.code.as_str()) {
                // No server has it.
                (ServerError::BeingRestored { .. }, _) => failure,
                (_, "DIRECTORY_LOCKED") => failure.with_hint(where_locked),
                _ => failure,
            }
        }
        BackupError::Io { path, source } => Failure::io(format!("{} can't be used", path.display()), source),
        _ => {
            let failure = Failure::new(error.code(), causes(error));
            if cli::has_page(error.code()) {
                failure.with_hint(format!("`plenum explain {}` tells more", error.code()))
            } else {
                failure
            }
        }
    }
}

/// Names that are tried for a draft.
const ATTEMPTS_MAX: u32 = 1000;

/// A backup that is being written, under a name that nobody takes for one. Removed unless it is finished.
struct Draft {
    path: PathBuf,
    file: fs::File,
    finished: bool,
}

impl Draft {
    fn begin(out: &Path, stage: &Mutex<Stage>) -> Result<Self, Failure> {
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
        let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempt = 0;
        loop {
            let path = folder.join(format!(".plenum-backup-{}-{attempt}.partial", std::process::id()));
            // Jobs' environments are in it, which others shall not read.
            match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    *stage = Stage::Draft(path.clone());
                    return Ok(Self { path, file, finished: false });
                }
                // What a killed process of the same number left, or one on another machine that shares the folder writes.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < ATTEMPTS_MAX => attempt += 1,
                Err(error) => return Err(Failure::io(format!("{} can't be made", path.display()), &error)),
            }
        }
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::io(format!("{} can't be written", self.path.display()), error)
    }

    /// Makes it durable, reads it back, and gives it its name: where it is, what it shows, and its size.
    fn finish(mut self, out: &Path, stage: &Mutex<Stage>) -> Result<(PathBuf, BackupManifest, i64), Failure> {
        self.file.sync_all().map_err(|error| self.failed(&error))?;
        let bytes = i64::try_from(self.file.metadata().map_err(|error| self.failed(&error))?.len()).unwrap_or(i64::MAX);
        let manifest = plenum_server::check_backup(&self.path).map_err(|error| failure(&error))?;
        let path = if out.is_dir() { out.join(name(&manifest)) } else { out.to_owned() };
        let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        // A second name, because renaming would overwrite what is there.
        match fs::hard_link(&self.path, &path) {
            Ok(()) => fs::remove_file(&self.path).map_err(|error| self.failed(&error))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists || path.exists() => {
                // A cell that stands still is backed up on time, too: what was written then is read as if it were this one.
                if out.is_dir()
                    && plenum_server::check_backup(&path).is_ok_and(|there| shows_the_same(&there, &manifest))
                {
                    *stage = Stage::Named;
                    return Ok((path, manifest, bytes));
                }
                return Err(failure(&BackupError::Exists { path }));
            }
            // Where a file has one name only.
            Err(_) => fs::rename(&self.path, &path).map_err(|error| self.failed(&error))?,
        }
        self.finished = true;
        *stage = Stage::Named;
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| self.failed(&error))?;
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

fn cell_id(manifest: &BackupManifest) -> String {
    manifest.cell_id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn manifest_json(manifest: &BackupManifest) -> Value {
    json!({
        "cell_id": cell_id(manifest),
        "incarnation": manifest.incarnation,
        "term": manifest.term,
        "revision": manifest.revision,
        "time": json_time(manifest.time_micros),
        "pages": manifest.pages,
        "plenum_version": manifest.plenum_version,
        "core_version": manifest.core_version,
    })
}

fn manifest_fields(manifest: &BackupManifest) -> Vec<(&'static str, String)> {
    vec![
        ("cell", format!("{} (incarnation {})", cell_id(manifest), manifest.incarnation)),
        ("revision", manifest.revision.to_string()),
        ("time", format!("{} (of the newest change)", json_time(manifest.time_micros).as_str().unwrap_or("-"))),
    ]
}

fn restored_json(restored: &Restored, dir: &Path) -> Value {
    let mut value = manifest_json(&restored.manifest);
    value["from_incarnation"] = restored.manifest.incarnation.into();
    value["incarnation"] = restored.incarnation.into();
    value["dir"] = dir.display().to_string().into();
    value["live_allocations"] = restored.live_allocations.into();
    value["loss"] = restored.loss.as_ref().map_or(Value::Null, |loss| {
        let lost = loss.readable.iter();
        let lost = lost.map(|lost| json!({"revision": lost.revision, "principal": lost.principal, "what": lost.what}));
        json!({
            "revisions": loss.revisions(),
            "kept_revision": loss.kept_revision,
            "last_known_revision": loss.last_known_revision,
            "may_be_more": loss.may_be_more,
            "damages": loss.damages,
            "damages_unlisted": loss.damages_unlisted,
            "readable": lost.collect::<Vec<_>>(),
            "readable_unlisted": loss.readable_unlisted,
        })
    });
    value
}

fn restored_text(restored: &Restored, dir: &Path) -> String {
    let mut pairs = vec![("restored", dir.display().to_string())];
    pairs.extend(manifest_fields(&restored.manifest));
    pairs.push(("incarnation", format!("{}, from now on", restored.incarnation)));
    pairs.push(("live allocations", restored.live_allocations.to_string()));
    let mut text = output::fields(&pairs);
    if let Some(loss) = &restored.loss {
        text.push_str(&loss_text(loss));
    }
    text.push_str(&format!("\nstart it with `plenum server --dir {}`\n", dir.display()));
    text
}

fn loss_text(loss: &Loss) -> String {
    let mut text = String::new();
    for damage in &loss.damages {
        text.push_str(&format!("\nDAMAGED {damage}"));
    }
    if loss.damages_unlisted > 0 {
        text.push_str(&format!("\nand {} more", loss.damages_unlisted));
    }
    if loss.may_be_more {
        text.push_str(
            "\nLOST is how far the log had come: there may have been revisions behind the last one that is known",
        );
    }
    if loss.revisions() == 0 {
        if !loss.may_be_more {
            text.push_str(&format!("\nnothing is lost: all revisions up to {} are there", loss.kept_revision));
        }
        return text;
    }
    let (from, to) = (loss.kept_revision + 1, loss.last_known_revision);
    text.push_str(&format!("\nLOST revisions {from} to {to}, {} in all; of these, readable:", loss.revisions()));
    for lost in &loss.readable {
        text.push_str(&format!("\n  {} {} ({})", lost.revision, lost.what, lost.principal));
    }
    if loss.readable.is_empty() {
        text.push_str(" none");
    }
    if loss.readable_unlisted > 0 {
        text.push_str(&format!("\n  and {} more", loss.readable_unlisted));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

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
    fn what_a_killed_backup_left_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let left = Draft::begin(folder.path(), &nothing()).unwrap();
        let next = Draft::begin(folder.path(), &nothing()).unwrap();
        assert_ne!(left.path, next.path);
        drop(next);
        assert!(left.path.exists(), "whether somebody still writes it is not known");
    }

    // A server that does not run was to be stopped, or asked.
    #[test]
    fn a_restore_that_is_being_made_is_not_taken_for_a_server() {
        let hint = |error: BackupError| failure_of(&error, "stop its server").hint.unwrap();
        let being_restored = ServerError::BeingRestored { path: "/cell".into() };
        assert_eq!(hint(being_restored.into()), "`plenum explain DIRECTORY_LOCKED` tells more");
        let half_restored = ServerError::HalfRestored { path: "/cell".into() };
        assert_eq!(hint(half_restored.into()), "`plenum explain BAD_DIRECTORY` tells more");
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

    // A second restore of one backup ended well, and then no agent followed the cell.
    #[test]
    fn who_left_the_incarnation_to_a_restore_hears_when_to_name_a_higher_one() {
        let told = chosen_incarnation(2);
        assert!(told.starts_with("incarnation 2 was chosen") && told.contains("`--incarnation N`"), "{told}");
        assert!(told.ends_with("(at most 64)"), "{told}");
    }

    #[test]
    fn a_loss_is_told_exactly() {
        let lost = |revision| plenum_server::LostRevision {
            revision,
            principal: "scheduler/batch".to_owned(),
            what: "transaction 5 of session 4".to_owned(),
        };
        let loss = Loss {
            kept_revision: 10,
            last_known_revision: 13,
            may_be_more: false,
            damages: vec!["1.segment offset 512 revision 11: frame checksum".to_owned()],
            damages_unlisted: 7,
            readable: vec![lost(12), lost(13)],
            readable_unlisted: 0,
        };
        let text = loss_text(&loss);
        assert!(text.contains("frame checksum\nand 7 more\nLOST"), "{text}");
        assert!(text.contains("LOST revisions 11 to 13, 3 in all"), "{text}");
        assert!(text.contains("\n  12 transaction 5 of session 4 (scheduler/batch)"), "{text}");
        let none = Loss { last_known_revision: 10, readable: Vec::new(), ..loss };
        // Where a header alone was damaged there was no history that had had anything.
        assert!(loss_text(&none).ends_with("\nnothing is lost: all revisions up to 10 are there"));
        let unknown = Loss { may_be_more: true, ..none };
        let text = loss_text(&unknown);
        assert!(text.contains("there may have been revisions") && !text.contains("nothing is lost"), "{text}");
    }
}
