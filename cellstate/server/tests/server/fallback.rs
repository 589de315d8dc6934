//! The fallback: with it and the log a cell goes on when its history is gone, or can't be opened.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plenum_proto::v1;
use plenum_server::{RestoreOptions, Server, ServerError, ServerOptions};
use tonic::transport::Channel;

use crate::backups::history;
use crate::client::{code, connect, job, register, submit};
use crate::kept::{brisk, caught_up, copy_folder, damage_images, kept, machines_at, submit_until, submitted};

pub(crate) const FALLBACK: &str = "fallback.backup";

/// A cell that retains little, so that its log soon does not go back to the beginning.
fn forgetful(dir: &Path) -> ServerOptions {
    let mut forgetful = brisk(dir);
    forgetful.settings.retain_bytes = 1 << 20;
    forgetful
}

/// A server that does not come to write the fallback anew before it is killed, however long that takes: it is written behind a checkpoint.
fn without_checkpoints(dir: &Path) -> ServerOptions {
    let mut options = brisk(dir);
    options.settings.checkpoint_interval = Duration::from_secs(3600);
    options
}

/// A stopped cell whose log begins in its middle, and how many jobs it has.
pub(crate) async fn in_its_middle(dir: &Path) -> u32 {
    let server = Server::start(forgetful(dir)).await.unwrap();
    let channel = connect(&server).await;
    // The fallback is written before the first segment goes.
    let first = dir.join(format!("log/{:020}.segment", 1));
    let begins_in_its_middle = || !first.exists() && !first.with_extension("kept").exists();
    let jobs = submit_until(&channel, 0, |status| status.oldest_revision > 60 && begins_in_its_middle()).await;
    assert!(dir.join(FALLBACK).exists());
    server.shutdown().await.unwrap();
    // Another one is written only where something is given up: with what comes now there is something left for the log to lead on to.
    let server = Server::start(brisk(dir)).await.unwrap();
    let channel = connect(&server).await;
    let status = v1::inspect_client::InspectClient::new(channel.clone()).status(v1::StatusRequest {}).await;
    let reached = status.unwrap().into_inner().revision;
    let jobs = submit_until(&channel, jobs, |status| status.revision > reached).await;
    server.shutdown().await.unwrap();
    jobs
}

/// What a backup of the stopped cell is.
pub(crate) fn backup_of(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    plenum_server::back_up_folder(dir, &mut bytes, Path::new("memory")).unwrap();
    bytes
}

async fn machines(channel: &Channel) -> u32 {
    let all = v1::ListRequest { limit: 10_000, ..Default::default() };
    let listed = v1::inspect_client::InspectClient::new(channel.clone()).list_machines(all).await.unwrap();
    u32::try_from(listed.into_inner().machines.len()).unwrap()
}

pub(crate) async fn refused(dir: &Path) -> ServerError {
    match Server::start(forgetful(dir)).await {
        Ok(_) => panic!("it was started"),
        Err(error) => error,
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

// Only a log that went back to the beginning could do without the history.
#[tokio::test]
async fn a_cell_whose_history_is_gone_goes_on_from_its_fallback_and_the_log() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let jobs = in_its_middle(dir).await;
    let before = backup_of(dir);
    let report = plenum_server::verify(dir).unwrap();
    assert!(report.is_sound() && report.from_revision > 1, "{:?}", report.violations);
    std::fs::remove_dir_all(dir.join("history")).unwrap();

    // Who looks finds the same.
    let without = plenum_server::verify(dir).unwrap();
    assert_eq!((without.violations, without.to_revision), (vec![], report.to_revision));
    assert!(without.folded > 0, "what the log has behind the fallback was folded");
    assert_eq!(backup_of(dir), before);

    let server = Server::start(forgetful(dir)).await.unwrap();
    let channel = connect(&server).await;
    assert_eq!(machines(&channel).await, jobs);
    submit(&channel, job("after", 1)).await;
    register(&channel, "after", 1000).await;
    caught_up(&channel).await;
    assert_eq!(code(&machines_at(&channel, 1).await.unwrap_err()), "REVISION_RETIRED");
    let last = submitted(&channel, jobs - 1).await.unwrap();
    assert_eq!(machines_at(&channel, last).await.unwrap(), usize::try_from(jobs - 1).unwrap());
    server.kill().await.unwrap();

    let server = Server::start(forgetful(dir)).await.unwrap();
    let channel = connect(&server).await;
    assert_eq!(machines(&channel).await, jobs + 1);
    server.shutdown().await.unwrap();
    let report = plenum_server::verify(dir).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
}

// Its newest checkpoint was nowhere else: such a cell went on from a backup only, also with `--accept-loss`.
#[tokio::test]
async fn a_history_that_can_not_be_opened_costs_the_past_and_nothing_of_the_present() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let jobs = in_its_middle(dir).await;
    let before = backup_of(dir);
    for entry in std::fs::read_dir(dir.join("history/store")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(path, [0x5a; 100]).unwrap();
        }
    }
    let error = refused(dir).await;
    let told = std::iter::successors(std::error::Error::source(&error), |error| error.source());
    let told = told.fold(error.to_string(), |told, error| format!("{told}: {error}"));
    assert_eq!(error.code(), "DAMAGED_HISTORY");
    assert!(told.contains("`history`") && told.contains("fallback"), "{told}");

    let restored = dir.join("restored");
    let loss = plenum_server::restore(dir, &restored, &RestoreOptions::default()).unwrap().loss;
    assert_eq!(loss, None);
    std::fs::rename(dir.join("history"), dir.join("history.damaged")).unwrap();
    assert_eq!(backup_of(dir), before);
    // A restored cell has no log yet that it could be made of.
    std::fs::remove_dir_all(restored.join("history")).unwrap();
    for dir in [dir, &restored] {
        let server = Server::start(forgetful(dir)).await.unwrap();
        assert_eq!(machines(&connect(&server).await).await, jobs);
        server.shutdown().await.unwrap();
        let report = plenum_server::verify(dir).unwrap();
        assert!(report.is_sound(), "{:?}", report.violations);
    }
}

#[tokio::test]
async fn a_fallback_that_is_damaged_is_found_and_nothing_is_made_of_it() {
    let temporary = tempfile::tempdir().unwrap();
    let whole = temporary.path().join("whole");
    in_its_middle(&whole).await;
    let bytes = std::fs::metadata(whole.join(FALLBACK)).unwrap().len();
    let bytes = usize::try_from(bytes).unwrap();
    for at in [0, 9, 40, bytes / 2, bytes - 1] {
        let dir = temporary.path().join(at.to_string());
        copy_folder(&whole, &dir);
        flip(&dir.join(FALLBACK), at);
        let report = plenum_server::verify(&dir).unwrap();
        assert_eq!(report.violations.len(), 1, "{at}: {:?}", report.violations);
        assert_eq!(report.violations[0].place, FALLBACK);
        // As long as there is a history nobody needs it.
        Server::start(without_checkpoints(&dir)).await.unwrap().kill().await.unwrap();
        std::fs::remove_dir_all(dir.join("history")).unwrap();
        let error = refused(&dir).await;
        assert!(error.code() == "DAMAGED_HISTORY" && error.to_string().contains(FALLBACK), "{at}: {error}");
        let error =
            plenum_server::restore(&dir, &temporary.path().join("new"), &RestoreOptions::default()).unwrap_err();
        assert!(error.code() == "DAMAGED_LOG" && error.to_string().contains(FALLBACK), "{at}: {error}");
    }
    let dir = temporary.path().join("none");
    copy_folder(&whole, &dir);
    std::fs::remove_file(dir.join(FALLBACK)).unwrap();
    Server::start(without_checkpoints(&dir)).await.unwrap().kill().await.unwrap();
    std::fs::remove_dir_all(dir.join("history")).unwrap();
    let error = refused(&dir).await;
    assert!(error.to_string().contains("there is none"), "{error}");
    // Put back, it is of use at once: whatever was tried in between.
    std::fs::copy(whole.join(FALLBACK), dir.join(FALLBACK)).unwrap();
    Server::start(forgetful(&dir)).await.unwrap().shutdown().await.unwrap();
}

// Only what was wrong with the history was told, with the advice to move it away: the start without it was refused then.
#[tokio::test]
async fn a_damaged_history_that_nothing_could_stand_in_for_is_told_with_that() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let server = Server::start(brisk(dir)).await.unwrap();
    let channel = connect(&server).await;
    register(&channel, "early", 1000).await;
    server.shutdown().await.unwrap();
    let early = backup_of(dir);
    in_its_middle(dir).await;
    let own = std::fs::read(dir.join(FALLBACK)).unwrap();
    let look = || {
        let report = plenum_server::verify(dir).unwrap();
        let mut wrong = report.violations.into_iter().filter(|wrong| wrong.place == FALLBACK);
        (report.fallback, wrong.next().map(|wrong| wrong.what))
    };
    let is_told = |told: Option<String>| told.is_some_and(|told| told.contains("without its history"));
    let cases = [(None, false), (Some(&early), false), (Some(&own), true)];
    for is_damaged in [false, true] {
        if is_damaged {
            damage_images(dir);
        }
        for (fallback, joins) in cases {
            match fallback {
                Some(bytes) => std::fs::write(dir.join(FALLBACK), bytes).unwrap(),
                None => std::fs::remove_file(dir.join(FALLBACK)).unwrap(),
            }
            let (told, wrong) = look();
            assert_eq!((is_told(told), is_told(wrong)), (!joins && !is_damaged, !joins && is_damaged), "{joins}");
        }
    }
}

// It belongs to somebody else, say, or too many files are open: told as damaged, it would be thrown away.
#[tokio::test]
async fn a_fallback_that_can_not_be_looked_at_is_not_called_damaged() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    in_its_middle(&dir).await;
    std::fs::rename(dir.join(FALLBACK), temporary.path().join(FALLBACK)).unwrap();
    std::os::unix::fs::symlink(FALLBACK, dir.join(FALLBACK)).unwrap();
    let error = plenum_server::verify(&dir).unwrap_err();
    assert_eq!(error.code(), "BAD_DIRECTORY", "{error}");
    // What is wrong beside it was not told.
    let newest = begun_segments(&dir).pop().unwrap();
    flip(&newest, 100);
    let report = plenum_server::verify(&dir).unwrap();
    assert!(!report.is_sound() && report.not_looked_at.is_some_and(|what| what.contains(FALLBACK)));
    flip(&newest, 100);
    std::fs::remove_dir_all(dir.join("history")).unwrap();
    let error = refused(&dir).await;
    assert_eq!(error.code(), "BAD_DIRECTORY", "{error}");
    let accepting = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let error = plenum_server::restore(&dir, &temporary.path().join("new"), &accepting).unwrap_err();
    assert_eq!(error.code(), "BAD_DIRECTORY", "{error}");
    std::fs::rename(temporary.path().join(FALLBACK), dir.join(FALLBACK)).unwrap();
    Server::start(forgetful(&dir)).await.unwrap().shutdown().await.unwrap();
}

// What is kept for one would grow without a bound, and fill the disk.
#[tokio::test]
async fn a_fallback_that_can_not_be_written_keeps_no_more_of_the_past_than_the_log_may_have() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let obstacle = dir.join("fallback.tmp");
    std::fs::create_dir(&obstacle).unwrap();
    let mut options = forgetful(dir);
    options.settings.log_bytes_max = 2 << 20;
    let server = Server::start(options).await.unwrap();
    let channel = connect(&server).await;
    let first = ["segment", "kept"].map(|suffix| dir.join(format!("log/{:020}.{suffix}", 1)));
    let is_gone = |status: &v1::StatusResponse| status.oldest_revision > 60 && !first.iter().any(|path| path.exists());
    let jobs = submit_until(&channel, 0, is_gone).await;
    assert!(!dir.join(FALLBACK).exists());
    std::fs::remove_dir(&obstacle).unwrap();
    submit_until(&channel, jobs, |_| dir.join(FALLBACK).exists()).await;
    server.shutdown().await.unwrap();
    std::fs::remove_dir_all(dir.join("history")).unwrap();
    let server = Server::start(forgetful(dir)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn fallback_and_log_lead_to_the_present_whenever_a_server_is_killed() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    let (mut jobs, mut in_the_middle) = (0, 0);
    for life in 0..12_u32 {
        let server = Server::start(forgetful(&dir)).await.unwrap();
        let channel = connect(&server).await;
        let left = std::cell::Cell::new(15 + life % 5);
        jobs = submit_until(&channel, jobs, |_| left.replace(left.get() - 1) == 1).await;
        server.kill().await.unwrap();
        let copy = temporary.path().join(life.to_string());
        copy_folder(&dir, &copy);
        std::fs::remove_dir_all(copy.join("history")).unwrap();
        let report = plenum_server::verify(&copy).unwrap();
        assert!(report.is_sound(), "life {life}: {:?}", report.violations);
        in_the_middle += u32::from(report.from_revision > 1);
        let server = Server::start(forgetful(&copy)).await.unwrap();
        assert_eq!(machines(&connect(&server).await).await, jobs, "life {life}");
        server.kill().await.unwrap();
    }
    assert!(in_the_middle > 3, "{in_the_middle}");
}

// What of the log had come since the fallback was counted anew in each life of a server: in short ones it never came to as much as that, and
// everything behind it was kept.
#[tokio::test]
async fn a_cell_that_is_often_started_again_keeps_no_more_log_than_one_that_runs_on() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let mut jobs = in_its_middle(dir).await;
    let revision = |dir: &Path| plenum_server::verify(dir).unwrap().to_revision;
    let written = || std::fs::read(dir.join(FALLBACK)).unwrap();
    let (first, began) = (written(), revision(dir));
    let mut lives = 0;
    while written() == first {
        assert!(lives < 60, "the fallback is as old as revision {began}, and the cell is at {}", revision(dir));
        lives += 1;
        let server = Server::start(forgetful(dir)).await.unwrap();
        let channel = connect(&server).await;
        jobs = submit_until(&channel, jobs, |status| status.revision > began + 20 * lives).await;
        caught_up(&channel).await;
        server.shutdown().await.unwrap();
    }
    let report = plenum_server::verify(dir).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
}

// A start that was killed while it made the history anew left an empty one: who asked for a backup then heard that there was nothing to follow.
#[tokio::test]
async fn an_empty_history_is_none_and_the_fallback_is_begun_with() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    in_its_middle(dir).await;
    let before = backup_of(dir);
    std::fs::rename(dir.join("history"), dir.join("history.damaged")).unwrap();
    drop(history(dir));
    assert!(dir.join("history").is_dir());
    assert_eq!(backup_of(dir), before);
    // One that is refused makes none.
    std::fs::remove_dir_all(dir.join("history")).unwrap();
    let away = dir.join("fallback.away");
    std::fs::rename(dir.join(FALLBACK), &away).unwrap();
    assert_eq!(refused(dir).await.code(), "DAMAGED_HISTORY");
    assert!(!dir.join("history").exists());
    std::fs::rename(&away, dir.join(FALLBACK)).unwrap();
    assert_eq!(backup_of(dir), before);
}

/// Who looked had made a lock there, and a new disk has a folder of its own: that was taken for a log to be made.
#[tokio::test]
async fn no_cell_is_made_beside_a_fallback_whatever_is_where_the_log_was() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    let (server, log) = (Server::start(brisk(&dir)).await.unwrap(), dir.join("log"));
    submit_until(&connect(&server).await, 0, |status| status.revision > 20).await;
    server.shutdown().await.unwrap();
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    assert_eq!(plenum_server::verify(&dir).unwrap_err().code(), "DAMAGED_LOG");
    assert_eq!(std::fs::read_dir(&log).unwrap().count(), 0, "nothing is made by who only looks");
    std::fs::create_dir(log.join("lost+found")).unwrap();
    assert_eq!(plenum_server::verify(&dir).unwrap_err().code(), "DAMAGED_LOG");
    for _ in 0..2 {
        assert!(matches!(refused(&dir).await, ServerError::NoLog { .. }));
    }
}

/// Log and fallback had all that it needs, but a start begins with the history as long as that is there: it was refused, and `verify` had called
/// the directory sound.
#[tokio::test]
async fn a_history_that_verify_has_to_do_without_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    let (dir, older) = (temporary.path().join("cell"), temporary.path().join("older"));
    let history = dir.join("history");
    let server = Server::start(forgetful(&dir)).await.unwrap();
    let channel = connect(&server).await;
    register(&channel, "early", 1000).await;
    caught_up(&channel).await;
    server.shutdown().await.unwrap();
    copy_folder(&history, &older);
    let jobs = in_its_middle(&dir).await;
    assert!(plenum_server::verify(&dir).unwrap().is_sound());
    std::fs::remove_dir_all(&history).unwrap();
    std::fs::rename(older, &history).unwrap();
    assert!(matches!(refused(&dir).await, ServerError::MissingLog { .. }));
    // Nor does who restores: what the history does not lead to was given up, though the fallback does.
    let accept = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let new = temporary.path().join("new");
    assert_eq!(plenum_server::restore(&dir, &new, &accept).unwrap().loss, None);
    let server = Server::start(brisk(&new)).await.unwrap();
    assert_eq!(machines(&connect(&server).await).await, jobs + 1);
    server.shutdown().await.unwrap();
    let report = plenum_server::verify(&dir).unwrap();
    assert!(report.violations.iter().any(|violation| violation.what.contains("history")), "{:?}", report.violations);
    std::fs::remove_dir_all(&history).unwrap();
    assert!(plenum_server::verify(&dir).unwrap().is_sound());
    Server::start(brisk(&dir)).await.unwrap().shutdown().await.unwrap();
}

/// It was read again as the log's, and a log that begins with damage is not opened: neither then nor once the history was back.
#[tokio::test]
async fn damage_in_a_kept_segment_from_before_the_fallback_keeps_no_cell_from_going_on_without_its_history() {
    let temporary = tempfile::tempdir().unwrap();
    let (dir, copy) = (&temporary.path().join("cell"), temporary.path().join("copy"));
    let log = dir.join("log");
    let server = Server::start(brisk(dir)).await.unwrap();
    let jobs = submit_until(&connect(&server).await, 0, |_| kept(dir).len() >= 8).await;
    server.shutdown().await.unwrap();
    copy_folder(&log, &copy);
    let first = kept(dir).swap_remove(0);
    let server = Server::start(forgetful(dir)).await.unwrap();
    let channel = connect(&server).await;
    let jobs = submit_until(&channel, jobs, |_| dir.join(FALLBACK).exists() && !first.exists()).await;
    server.shutdown().await.unwrap();
    // As if those that were given up had not been used again yet.
    for entry in std::fs::read_dir(copy).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), log.join(entry.unwrap().file_name()).with_extension("kept"));
        let is_segment = from.extension().is_some_and(|suffix| suffix == "kept" || suffix == "segment");
        if is_segment && !to.exists() && !to.with_extension("segment").exists() {
            std::fs::copy(from, to).unwrap();
        }
    }
    flip(&first, 100 << 10);
    std::fs::rename(dir.join("history"), dir.join("history.away")).unwrap();
    let report = plenum_server::verify(dir).unwrap();
    let name = first.file_name().unwrap().to_str().unwrap();
    assert!(report.violations.iter().all(|violation| violation.what.contains(name)), "{:?}", report.violations);
    assert_eq!(report.violations.len(), 1);

    let server = Server::start(forgetful(dir)).await.unwrap();
    assert_eq!(machines(&connect(&server).await).await, jobs);
    server.shutdown().await.unwrap();
}

/// Makes a cell that is stopped then, whose log keeps much that came after its fallback; gives how many jobs it has.
async fn with_an_early_fallback(dir: &Path) -> u32 {
    let server = Server::start(brisk(dir)).await.unwrap();
    let jobs = submit_until(&connect(&server).await, 0, |status| status.revision > 3).await;
    server.shutdown().await.unwrap();
    let fallback = backup_of(dir);
    let server = Server::start(brisk(dir)).await.unwrap();
    let jobs = submit_until(&connect(&server).await, jobs, |_| kept(dir).len() >= 3).await;
    server.shutdown().await.unwrap();
    std::fs::write(dir.join(FALLBACK), fallback).unwrap();
    jobs
}

/// A start takes files of the log as wholes. Who restores takes frames, and needs none from before the fallback.
#[tokio::test]
async fn damage_before_the_fallback_in_the_very_file_that_goes_on_from_it_costs_a_restore_and_no_revision() {
    let temporary = tempfile::tempdir().unwrap();
    let (dir, new) = (temporary.path().join("cell"), temporary.path().join("new"));
    let jobs = with_an_early_fallback(&dir).await;
    std::fs::remove_dir_all(dir.join("history")).unwrap();
    // In one of the frames that the fallback has already.
    flip(&kept(&dir)[0], 4096 + 100);

    let error = refused(&dir).await;
    assert!(matches!(error, ServerError::NoFallback { .. }), "{error}");
    assert!(!plenum_server::verify(&dir).unwrap().is_sound());
    let loss = plenum_server::restore(&dir, &new, &RestoreOptions::default()).unwrap().loss;
    assert_eq!(loss, None);
    let server = Server::start(brisk(&new)).await.unwrap();
    assert_eq!(machines(&connect(&server).await).await, jobs);
    server.shutdown().await.unwrap();
}

/// Segments of a stopped cell's log that were written into, the newest last.
fn begun_segments(dir: &Path) -> Vec<PathBuf> {
    let is_begun = |path: &PathBuf| {
        path.extension().is_some_and(|suffix| suffix == "segment")
            && std::fs::read(path).unwrap().starts_with(b"PLENUMSG")
    };
    let files = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut begun: Vec<_> = files.filter(is_begun).collect();
    begun.sort();
    begun
}

/// Flips a bit in the header of the newest segment of a stopped cell's log, the only one that is not kept then; gives its name.
fn lose_only_header(dir: &Path) -> String {
    let mut begun = begun_segments(dir);
    let newest = begun.pop().unwrap();
    // As if they had been released.
    begun.iter().for_each(|path| std::fs::rename(path, path.with_extension("kept")).unwrap());
    flip(&newest, 100);
    newest.file_name().unwrap().to_str().unwrap().to_owned()
}

// Such a log was taken for one that begins with revision 1. What was kept before it was not looked at, and all behind the fallback given up; `verify`
// began with an empty cell, into which nothing can be folded; and a restored cell was taken for one of another incarnation.
#[tokio::test]
async fn a_log_that_lost_its_only_header_costs_a_restore_and_no_revision() {
    let temporary = tempfile::tempdir().unwrap();
    let [dir, new, again] = ["cell", "new", "again"].map(|name| temporary.path().join(name));
    let jobs = with_an_early_fallback(&dir).await;
    let last = plenum_server::verify(&dir).unwrap().to_revision;
    let name = lose_only_header(&dir);
    let report = plenum_server::verify(&dir).unwrap();
    assert_eq!((report.violations.len(), report.to_revision), (1, last), "{:?}", report.violations);
    assert!(report.violations[0].what.contains(&name), "{:?}", report.violations);

    std::fs::remove_dir_all(dir.join("history")).unwrap();
    let accept = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let restored = plenum_server::restore(&dir, &new, &accept).unwrap();
    assert_eq!((restored.manifest.revision, restored.loss.unwrap().revisions()), (last, 0));

    // Killed before its first checkpoint: its history has none but that of the incarnation before.
    let server = Server::start(without_checkpoints(&new)).await.unwrap();
    let channel = connect(&server).await;
    assert_eq!(machines(&channel).await, jobs);
    let jobs = submit_until(&channel, jobs, |status| status.revision > last + 5).await;
    server.kill().await.unwrap();
    lose_only_header(&new);
    assert_eq!(plenum_server::restore(&new, &again, &accept).unwrap().loss.unwrap().revisions(), 0);
    let server = Server::start(brisk(&again)).await.unwrap();
    assert_eq!(machines(&connect(&server).await).await, jobs);
    server.shutdown().await.unwrap();
}
