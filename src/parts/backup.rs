//! `plenum backup` and `plenum restore`: a cell in one file, and a cell from one.

mod draft;

use std::{
    io::Write,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use plenum_model::INCARNATIONS_MAX;
use plenum_proto::v1::{BackupManifest, BackupRequest};
use plenum_server::{BackupError, Loss, RestoreOptions, Restored, ServerError};
use serde_json::{Value, json};

use self::draft::{Draft, Stage, end_when_asked};
use super::{causes, server};
use crate::{
    cli::{self, Context},
    failure::Failure,
    output::{self, json_time},
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
    let restored = restored.map_err(|error| failure_of_restore(&error, where_locked))?;
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

/// The same as [`failure_of`], with what to do where a folder is no cell's: it may be one of backups.
fn failure_of_restore(error: &BackupError, where_locked: &str) -> Failure {
    let failure = failure_of(error, where_locked);
    let is_no_cell = failure.code == "NO_CELL" && matches!(error, BackupError::Server(_));
    if is_no_cell { failure.with_hint("where it is a folder of backups, name one of its files") } else { failure }
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
            "other_history": loss.other_history,
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
    text.push_str(&format!("\nstart it with `plenum server --dir {}`\n", output::word(&dir.display().to_string())));
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
    if let Some(marked) = loss.other_history {
        text.push_str(&format!(
            "\nLOST is what was acknowledged up to revision {marked}, as far as it is not in this log: that is of another history than its high-water mark"
        ));
    }
    if loss.revisions() == 0 {
        if !loss.may_be_more && loss.other_history.is_none() {
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

    // A server that does not run was to be stopped, or asked.
    #[test]
    fn a_restore_that_is_being_made_is_not_taken_for_a_server() {
        let hint = |error: BackupError| failure_of(&error, "stop its server").hint.unwrap();
        let being_restored = ServerError::BeingRestored { path: "/cell".into() };
        assert_eq!(hint(being_restored.into()), "`plenum explain DIRECTORY_LOCKED` tells more");
        let half_restored = ServerError::HalfRestored { path: "/cell".into() };
        assert_eq!(hint(half_restored.into()), "`plenum explain BAD_DIRECTORY` tells more");
    }

    // It was said that `backups/log` can't be opened.
    #[test]
    fn a_restore_from_a_folder_of_backups_says_that_one_is_to_be_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("monday.backup"), "PLENUM").unwrap();
        let to = folder.path().join("new");
        let error = plenum_server::restore(folder.path(), &to, &RestoreOptions::default()).unwrap_err();
        let failure = failure_of_restore(&error, "stop its server");
        assert_eq!(failure.code, "NO_CELL", "{failure}");
        assert!(failure.hint.is_some_and(|hint| hint.contains("name one of its files")));
        assert!(!to.exists(), "nothing was made");
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
            other_history: None,
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
        let unknown = Loss { may_be_more: true, ..none.clone() };
        let text = loss_text(&unknown);
        assert!(text.contains("there may have been revisions") && !text.contains("nothing is lost"), "{text}");
        let other = loss_text(&Loss { other_history: Some(8), ..none });
        assert!(other.contains("acknowledged up to revision 8,") && !other.contains("nothing is lost"), "{other}");
    }
}
