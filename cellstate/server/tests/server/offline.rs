//! What looks at the directory of a stopped cell, and can't read all of it.

use std::path::Path;

use plenum_history::{PageImage, TablePages};
use plenum_server::{RestoreOptions, back_up_folder, restore, verify};

use crate::backups::{break_frame, broken_cell, busy_cell, grant, history, last_frames};
use crate::client::{connect, options, register, start};
use crate::skips::skipped;

// On a full disk, for want of open files and beside another program, what the history had was given up with what was lost, a backup was
// refused as that of a damaged log, and `verify` called it damaged.
#[tokio::test]
async fn what_can_not_be_looked_at_now_is_neither_damaged_nor_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let last = broken_cell(dir.path()).await;
    let in_the_way = history(dir.path());
    let target = dir.path().join("new");
    let options = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let refused = restore(dir.path(), &target, &options).unwrap_err();
    assert_eq!(refused.code(), "DIRECTORY_LOCKED", "{refused}");
    assert!(!target.exists());
    let report = verify(dir.path()).unwrap();
    assert!(report.not_looked_at.is_some() && !report.is_sound(), "{report:?}");
    assert!(report.violations.iter().all(|one| one.place == "log"), "nothing is said of the history: {report:?}");
    drop(in_the_way);
    assert_eq!(restore(dir.path(), &target, &options).unwrap().manifest.revision, last);

    // Of a restored cell only history and fallback have the beginning.
    let (fallback, away) = (target.join("fallback.backup"), dir.path().join("fallback.backup"));
    let in_the_way = history(&target);
    back_up_folder(&target, &mut Vec::new(), Path::new("memory")).unwrap();
    std::fs::rename(fallback, away).unwrap();
    let refused = back_up_folder(&target, &mut Vec::new(), Path::new("memory")).unwrap_err();
    assert_eq!(refused.code(), "DIRECTORY_LOCKED", "{refused}");
    drop(in_the_way);
    back_up_folder(&target, &mut Vec::new(), Path::new("memory")).unwrap();
}

// A backup of it was taken, and could not be restored; and where the first command was damaged, it was the history that could not be written.
#[tokio::test]
async fn of_what_has_no_beginning_no_backup_is_made_and_no_cell() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, target) = (dir.path().join("empty"), dir.path().join("new"));
    let disk = plenum_journal::RealDisk::open(empty.join("log")).unwrap();
    let create = Some(plenum_journal::CellId([7; 16]));
    let options =
        plenum_journal::Options { create, segment_bytes: 1 << 20, frame_bytes_max: 1 << 19, ..Default::default() };
    drop(plenum_journal::Journal::open(std::sync::Arc::new(disk), options).unwrap());
    let mut bytes = Vec::new();
    let refused = back_up_folder(&empty, &mut bytes, Path::new("memory")).unwrap_err();
    assert_eq!((refused.code(), bytes.len()), ("NO_CELL", 0), "{refused}");

    let damaged = dir.path().join("damaged");
    broken_cell(&damaged).await;
    std::fs::remove_dir_all(damaged.join("history")).unwrap();
    break_frame(last_frames(&damaged).last().unwrap());
    let options = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let refused = restore(&damaged, &target, &options).unwrap_err();
    assert_eq!(refused.code(), "DAMAGED_LOG", "{refused}");
    assert!(refused.to_string().contains("restore from a backup") && !target.exists(), "{refused}");
}

// The checkpoint was read again for each frame in front of it: with a large cell and a long log for days.
#[tokio::test]
async fn a_checkpoint_that_can_not_be_read_is_told_of_once() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel, mut session, job) = busy_cell(dir.path(), 20).await;
    let mut last = 0;
    for task in 0..20 {
        last = grant(&mut session, u64::from(task) + 1, job, task).await;
    }
    drop((session, channel));
    server.shutdown().await.unwrap();
    break_frame(&last_frames(dir.path())[18]);
    let garbage = PageImage { table: 1, number: 0, bytes: (&b"no page"[..]).into() };
    let live = [TablePages { table: 1, pages: 1 }];
    history(dir.path()).checkpoint_of_all(last, i64::MAX, &live, [garbage]).unwrap();
    let report = verify(dir.path()).unwrap();
    let told = report.violations.iter().filter(|violation| violation.what.contains("checkpoint")).count();
    assert_eq!(told, 1, "{:#?}", report.violations);
}

/// A cell, and one that was restored from it; then both go on, with so many machines more.
async fn restore_beside(old: &Path, new: &Path, machines: [u32; 2]) {
    let (server, channel, session, _) = busy_cell(old, 1).await;
    drop((session, channel));
    server.shutdown().await.unwrap();
    restore(old, new, &RestoreOptions::default()).unwrap();
    for (cell, machines) in [old, new].into_iter().zip(machines) {
        let server = start(cell).await;
        let channel = connect(&server).await;
        for machine in 0..machines {
            register(&channel, &format!("{machine}.of.{machines}"), 1000).await;
        }
        server.shutdown().await.unwrap();
    }
}

// Somebody put the history of before a restore into the restored cell, to keep the past: what had happened since the backup, in a cell that
// was no more, was there again, under what had happened in the new one.
#[tokio::test]
async fn the_history_of_before_a_restore_does_not_go_with_the_log_of_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new, own) = (dir.path().join("old"), dir.path().join("new"), dir.path().join("own"));
    restore_beside(&old, &new, [1, 20]).await;
    std::fs::rename(new.join("history"), &own).unwrap();
    std::fs::rename(old.join("history"), new.join("history")).unwrap();
    let refused = plenum_server::Server::start(options(&new)).await.err().unwrap();
    assert_eq!(refused.code(), "OTHER_CELL", "{refused}");
    assert!(refused.to_string().contains("incarnation 1, and the log of 2"), "{refused}");
    let accept = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let refused = restore(&new, &dir.path().join("again"), &accept).unwrap_err();
    assert_eq!(refused.code(), "OTHER_CELL", "{refused}");
    std::fs::remove_dir_all(new.join("history")).unwrap();
    std::fs::rename(&own, new.join("history")).unwrap();
    start(&new).await.shutdown().await.unwrap();
    assert!(verify(&new).unwrap().is_sound());
}

// The log was said to have lost its end, and what was told to do then was refused.
#[tokio::test]
async fn a_longer_history_of_before_a_restore_is_told_from_a_log_that_has_lost_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    restore_beside(&old, &new, [20, 1]).await;
    std::fs::rename(new.join("history"), dir.path().join("own")).unwrap();
    std::fs::rename(old.join("history"), new.join("history")).unwrap();
    let refused = plenum_server::Server::start(options(&new)).await.err().unwrap();
    assert_eq!(refused.code(), "OTHER_CELL", "{refused}");
    let report = verify(&new).unwrap();
    let told: Vec<_> = report.violations.iter().map(ToString::to_string).collect();
    assert!(told.len() == 1 && told[0].contains("incarnation 1, and the log of 2"), "{told:#?}");
}

// What root looked at, or had a server run on once, a server that ran as another user could not open any more. Only root can give files to another user.
#[tokio::test]
async fn nobody_makes_anything_in_the_directory_of_another_user() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel, session, _) = busy_cell(dir.path(), 1).await;
    drop((session, channel));
    server.shutdown().await.unwrap();
    let identity = dir.path().join("log/CELL");
    if let Err(error) = std::os::unix::fs::chown(&identity, Some(12_345), None) {
        skipped(&format!("needs a file of another user: {error}"));
        return;
    }
    std::fs::remove_dir_all(dir.path().join("history")).unwrap();
    std::fs::create_dir(dir.path().join("history")).unwrap();
    let target = dir.path().join("new");
    let refused = [
        verify(dir.path()).unwrap_err().to_string(),
        back_up_folder(dir.path(), &mut Vec::new(), Path::new("memory")).unwrap_err().to_string(),
        restore(dir.path(), &target, &RestoreOptions::default()).unwrap_err().to_string(),
        plenum_server::Server::start(options(dir.path())).await.err().unwrap().to_string(),
    ];
    assert!(refused.iter().all(|refused| refused.contains("belongs to user 12345")), "{refused:#?}");
    // Where the identity is lost, segments tell whose it is.
    std::fs::remove_file(&identity).unwrap();
    for entry in std::fs::read_dir(dir.path().join("log")).unwrap() {
        std::os::unix::fs::chown(entry.unwrap().path(), Some(12_345), None).unwrap();
    }
    let refused = verify(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("belongs to user 12345"), "{refused}");
    assert_eq!(std::fs::read_dir(dir.path().join("history")).unwrap().count(), 0);
}
