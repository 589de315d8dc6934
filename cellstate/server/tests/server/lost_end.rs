//! A log that has lost its end, of which fallback or history beside it know: an older directory was put back, and its fallback was not; or what
//! stands there is damaged, and the high-water mark is from before it.

use std::path::{Path, PathBuf};

use plenum_journal::{Frame, RealDisk};
use plenum_server::{BackupError, RestoreOptions, Server, ServerError, back_up_folder, check_backup, restore, verify};

use crate::backups::{break_frame, last_frames};
use crate::client::{connect, register};
use crate::fallback::{FALLBACK, backup_of, in_its_middle, refused};
use crate::kept::{brisk, copy_folder, kept, submit_until};

/// Whether the history was put back as well, or is gone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum History {
    Gone,
    PutBack,
}

/// A directory with an older log, and where the log ends and what the fallback shows.
struct RolledBack {
    temporary: tempfile::TempDir,
    dir: PathBuf,
    log: u64,
    shown: u64,
}

impl RolledBack {
    /// Of a stopped cell in `cell` with so many jobs, which goes on first, until a fallback is taken.
    async fn new(temporary: tempfile::TempDir, jobs: u32, history: History) -> Self {
        let [dir, older] = ["cell", "older"].map(|name| temporary.path().join(name));
        let log = verify(&dir).unwrap().to_revision;
        copy_folder(&dir, &older);
        let server = Server::start(brisk(&dir)).await.unwrap();
        submit_until(&connect(&server).await, jobs, |status| status.revision > log + 20).await;
        server.shutdown().await.unwrap();
        let fallback = backup_of(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::rename(older, &dir).unwrap();
        std::fs::write(dir.join(FALLBACK), fallback).unwrap();
        if history == History::Gone {
            std::fs::remove_dir_all(dir.join("history")).unwrap();
        }
        let shown = check_backup(&dir.join(FALLBACK)).unwrap().revision;
        assert!(shown > log, "{shown} and {log}");
        Self { temporary, dir, log, shown }
    }

    /// Whoever starts, looks, backs up or restores is told, and what the fallback shows is gone on from when asked.
    async fn assert_told(&self) {
        let Self { dir, log, shown, .. } = self;
        let had_history = dir.join("history").exists();
        let error = refused(dir).await;
        let is_told = matches!(error, ServerError::FallbackAheadOfLog { shown: found, log: ends } if (found, ends) == (*shown, *log));
        assert!(is_told && error.code() == "DAMAGED_LOG", "{error}");
        assert_eq!(dir.join("history").exists(), had_history, "nothing is made beside it");

        let report = verify(dir).unwrap();
        let lost_end = |what: &str| what.contains("the fallback shows") && what.contains("lost its end");
        let is_told = report.violations.iter().any(|wrong| wrong.place == "log" && lost_end(&wrong.what));
        assert!(is_told, "{:?}", report.violations);

        let new = self.temporary.path().join("new");
        let refused = [
            back_up_folder(dir, &mut Vec::new(), Path::new("memory")).unwrap_err(),
            restore(dir, &new, &RestoreOptions::default()).unwrap_err(),
        ];
        for error in refused {
            assert!(matches!(error, BackupError::LossNotAccepted { .. }), "{error}");
            assert!(lost_end(&error.to_string()), "{error}");
        }
        let accept = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
        let loss = restore(dir, &new, &accept).unwrap().loss.unwrap();
        assert_eq!((loss.kept_revision, loss.revisions(), loss.may_be_more), (*shown, 0, true), "{loss:?}");
        assert!(loss.damages.iter().any(|damage| lost_end(damage)), "{loss:?}");
        Server::start(brisk(&new)).await.unwrap().shutdown().await.unwrap();
    }
}

/// A stopped cell in `cell` whose log goes back to the beginning, with what is kept of it, and how many jobs it has.
async fn from_its_beginning(temporary: &Path) -> u32 {
    let dir = temporary.join("cell");
    let server = Server::start(brisk(&dir)).await.unwrap();
    let jobs = submit_until(&connect(&server).await, 0, |_| !kept(&dir).is_empty()).await;
    server.shutdown().await.unwrap();
    jobs
}

// It was started, and gave the revisions again that the fallback shows, in the same incarnation; `verify` called it sound, and who restored heard
// that nothing is lost.
#[tokio::test]
async fn a_log_from_the_beginning_does_not_go_on_before_what_its_fallback_shows() {
    let temporary = tempfile::tempdir().unwrap();
    let jobs = from_its_beginning(temporary.path()).await;
    RolledBack::new(temporary, jobs, History::Gone).await.assert_told().await;
}

// The history was asked for, which would not have helped; `verify` called it sound.
#[tokio::test]
async fn a_log_from_its_middle_that_ends_before_its_fallback_is_told_from_one_that_does_not_join_it() {
    let temporary = tempfile::tempdir().unwrap();
    let jobs = in_its_middle(&temporary.path().join("cell")).await;
    RolledBack::new(temporary, jobs, History::Gone).await.assert_told().await;
}

// It went on with the fallback of what was rolled back as its own: once the history was lost, states and deltas of two timelines would have become
// one cell.
#[tokio::test]
async fn log_and_history_that_both_end_before_the_fallback_do_not_go_on_beside_it() {
    let temporary = tempfile::tempdir().unwrap();
    let jobs = from_its_beginning(temporary.path()).await;
    let cell = RolledBack::new(temporary, jobs, History::PutBack).await;
    cell.assert_told().await;
    // Who wants to go on from there all the same has to say so.
    std::fs::rename(cell.dir.join(FALLBACK), cell.temporary.path().join(FALLBACK)).unwrap();
    Server::start(brisk(&cell.dir)).await.unwrap().shutdown().await.unwrap();
    let report = verify(&cell.dir).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
}

// Nothing in it told of which past it was.
#[tokio::test]
async fn the_fallback_that_a_server_writes_names_the_frame_that_it_ends_with() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    in_its_middle(dir).await;
    let manifest = check_backup(&dir.join(FALLBACK)).unwrap();
    let log = RealDisk::existing(dir.join("log")).unwrap();
    // The frame behind it tells, which there may not be.
    let mut expected = None;
    let mut visit = |frame: &Frame<'_>| {
        if frame.last_revision == manifest.revision {
            expected = Some(frame.hash);
        } else if frame.first_revision == manifest.revision + 1 {
            expected = Some(frame.previous);
        }
    };
    plenum_journal::verify_kept(&log, None, &mut visit).unwrap();
    plenum_journal::verify(&log, None, &mut visit).unwrap();
    assert_eq!(manifest.frame_hash.to_vec(), expected.unwrap().0.to_vec());
}

// It was zeroed before the history was asked, which knows of it, or before that was found damaged itself: what was refused had lost its evidence, and
// the start that came to be said nothing of what was cut.
#[tokio::test]
async fn a_damaged_end_stays_as_it_is_where_the_start_is_refused_for_its_history() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let mark = dir.join("log/MARK");
    Server::start(brisk(dir)).await.unwrap().shutdown().await.unwrap();
    let earlier = std::fs::read(&mark).unwrap();
    let server = Server::start(brisk(dir)).await.unwrap();
    register(&connect(&server).await, "later", 1000).await;
    server.shutdown().await.unwrap();
    std::fs::write(&mark, earlier).unwrap();
    let last = last_frames(dir).swap_remove(0);
    break_frame(&last);
    let log = || [&last.0, &mark].map(|path| std::fs::read(path).unwrap());
    let before = log();
    assert!(verify(dir).unwrap().torn.is_some(), "nothing but the history tells that it was durable");

    let error = refused(dir).await;
    assert!(matches!(error, ServerError::AheadOfLog(_)), "{error}");
    assert!(log() == before);
    for entry in std::fs::read_dir(dir.join("history/store")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(path, [0x5a; 100]).unwrap();
        }
    }
    assert_eq!(refused(dir).await.code(), "DAMAGED_HISTORY");
    assert!(log() == before);
}

/// Puts into the log of a stopped cell what a crash leaves of a write; gives the segment.
fn tear(dir: &Path) -> PathBuf {
    const SECTOR_BYTES: usize = 512;
    let segment = last_frames(dir).swap_remove(0).0;
    let mut bytes = std::fs::read(&segment).unwrap();
    let sectors = bytes.iter().rposition(|byte| *byte != 0).unwrap() / SECTOR_BYTES + 1;
    bytes[sectors * SECTOR_BYTES] = 1;
    std::fs::write(&segment, bytes).unwrap();
    segment
}

// It was cut off by a start that was then refused for a setting, and the one that came to be said nothing of it.
#[tokio::test]
async fn a_torn_end_stays_as_it_is_where_the_start_is_refused_for_a_setting() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    Server::start(brisk(dir)).await.unwrap().shutdown().await.unwrap();
    let segment = tear(dir);
    let before = std::fs::read(&segment).unwrap();
    assert!(verify(dir).unwrap().torn.is_some());
    let mut named = brisk(dir);
    named.custom_resources = vec!["tapes".to_owned()];
    for is_without_history in [false, true] {
        if is_without_history {
            std::fs::remove_dir_all(dir.join("history")).unwrap();
        }
        let refused = Server::start(named.clone()).await.err().unwrap();
        assert_eq!(refused.code(), "BAD_SETTING", "{refused}");
        assert!(std::fs::read(&segment).unwrap() == before, "without a history: {is_without_history}");
    }
    Server::start(brisk(dir)).await.unwrap().shutdown().await.unwrap();
    let report = verify(dir).unwrap();
    assert!(report.is_sound() && report.torn.is_none(), "{:?}", report.violations);
}
