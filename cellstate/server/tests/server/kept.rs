//! The past stands in segments that the log gave up and kept: it is read after a kill, and goes by retention, never otherwise.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plenum_proto::v1;
use plenum_server::{Handle, RestoreOptions, Server, ServerOptions};
use tonic::transport::Channel;

use crate::client::{code, connect, eventually, job, options, register, submit};
use crate::inspection::page;

type Inspect = v1::inspect_client::InspectClient<Channel>;
type Jobs = v1::jobs_client::JobsClient<Channel>;

/// A cell with small segments that are given up quickly.
pub(crate) fn brisk(dir: &Path) -> ServerOptions {
    let mut brisk = options(dir);
    brisk.settings.segment_bytes = 256 << 10;
    brisk.settings.checkpoint_interval = Duration::from_millis(20);
    brisk
}

/// The files of kept segments, oldest first.
pub(crate) fn kept(dir: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut kept: Vec<_> = names.filter(|path| path.extension().is_some_and(|suffix| suffix == "kept")).collect();
    kept.sort();
    kept
}

/// Submits jobs with large bodies until it is so, and gives how many there are now. Each comes with a machine.
pub(crate) async fn submit_until(channel: &Channel, mut jobs: u32, is_so: impl Fn(&v1::StatusResponse) -> bool) -> u32 {
    let mut inspect = Inspect::new(channel.clone());
    for _ in 0..4000 {
        if is_so(&inspect.status(v1::StatusRequest {}).await.unwrap().into_inner()) {
            return jobs;
        }
        let mut spec = job(&format!("job{jobs}"), 1);
        let body = spec.body.get_or_insert_default();
        body.groups.resize_with(1, Default::default);
        body.groups[0].env.insert("FILLER".to_owned(), "x".repeat(50 << 10));
        submit(channel, spec).await;
        register(channel, &format!("m{jobs}"), 1000).await;
        jobs += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it never came to that: {:?}", inspect.status(v1::StatusRequest {}).await);
}

pub(crate) async fn caught_up(channel: &Channel) {
    let mut inspect = Inspect::new(channel.clone());
    for _ in 0..6000 {
        let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
        if status.history_revision >= status.revision {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the history never caught up");
}

/// The first revision of each job, as its history tells.
pub(crate) async fn submitted(channel: &Channel, number: u32) -> Result<u64, tonic::Status> {
    let ask = v1::JobHistoryRequest { name: format!("job{number}"), ..Default::default() };
    let story = Jobs::new(channel.clone()).job_history(ask).await?.into_inner();
    assert_eq!(story.events[0].event, "submitted");
    Ok(story.events[0].revision)
}

pub(crate) async fn machines_at(channel: &Channel, revision: u64) -> Result<usize, tonic::Status> {
    let at = v1::ListRequest { at: Some(v1::At { revision, time_micros: 0 }), limit: 10_000, ..Default::default() };
    Ok(Inspect::new(channel.clone()).list_machines(at).await?.into_inner().machines.len())
}

async fn assert_past_is_there(channel: &Channel, jobs: u32) {
    let mut before = 0;
    for number in [0, jobs / 3, jobs / 2, jobs - 1] {
        let revision = submitted(channel, number).await.unwrap();
        assert!(revision > before || number == 0);
        assert_eq!(machines_at(channel, revision).await.unwrap(), usize::try_from(number).unwrap());
        before = revision;
    }
}

/// The status and the gauge say how much is kept. Housekeeping may keep one more meanwhile.
async fn assert_kept_bytes_are_told(server: &Handle, channel: &Channel, dir: &Path) {
    let on_disk =
        || kept(dir).iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum::<u64>();
    let mut inspect = Inspect::new(channel.clone());
    let mut told = Vec::new();
    for _ in 0..100 {
        let bytes = on_disk();
        let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
        let page = page(server.address(), "/metrics").await;
        if bytes > 0
            && status.log_kept_bytes == bytes
            && page.contains(&format!("\nplenum_journal_kept_bytes {bytes}\n"))
        {
            return;
        }
        told.push((bytes, status.log_kept_bytes));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("on the disk, and told: {told:?}");
}

#[tokio::test]
async fn the_past_is_read_from_kept_segments_also_after_a_kill() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let server = Server::start(brisk(dir)).await.unwrap();
    let channel = connect(&server).await;
    let jobs = submit_until(&channel, 0, |_| kept(dir).len() >= 4).await;
    caught_up(&channel).await;
    assert_past_is_there(&channel, jobs).await;
    assert_kept_bytes_are_told(&server, &channel, dir).await;
    server.kill().await.unwrap();

    let report = plenum_server::verify(dir).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
    // The first checkpoint may be of the revision that opens the cell.
    assert!(report.from_revision <= 1, "{}", report.from_revision);
    assert_eq!(report.folded, report.to_revision - report.from_revision, "what is kept was folded, too");
    let server = Server::start(brisk(dir)).await.unwrap();
    let channel = connect(&server).await;
    caught_up(&channel).await;
    assert_past_is_there(&channel, jobs).await;
    let before = kept(dir).len();
    let more = submit_until(&channel, jobs, |_| kept(dir).len() > before).await;
    caught_up(&channel).await;
    assert_past_is_there(&channel, more).await;
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_history_that_was_deleted_is_made_anew_of_what_was_kept_for_it() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let server = Server::start(brisk(dir)).await.unwrap();
    let channel = connect(&server).await;
    let jobs = submit_until(&channel, 0, |_| kept(dir).len() >= 3).await;
    server.shutdown().await.unwrap();
    std::fs::remove_dir_all(dir.join("history")).unwrap();

    // Who looks reads what was kept, too. They said that there was no way back but a backup.
    let report = plenum_server::verify(dir).unwrap();
    assert_eq!((report.violations, report.from_revision, report.folded), (vec![], 0, report.to_revision));
    let backup = plenum_server::back_up_folder(dir, &mut Vec::new(), Path::new("memory")).unwrap();
    assert_eq!(backup.revision, report.to_revision);
    let damaged = tempfile::tempdir().unwrap();
    copy_folder(dir, damaged.path());
    std::fs::remove_file(damaged.path().join("log/MARK")).unwrap();
    let accept = RestoreOptions { accept_loss: true, ..Default::default() };
    let restored = plenum_server::restore(damaged.path(), &damaged.path().join("restored"), &accept).unwrap();
    assert_eq!(restored.manifest.revision, report.to_revision);

    let missing = kept(damaged.path()).swap_remove(1);
    std::fs::remove_file(&missing).unwrap();
    let other = damaged.path().join("other");
    let refused = plenum_server::restore(damaged.path(), &other, &RestoreOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("MARK"), "{refused}");
    let restored = plenum_server::restore(damaged.path(), &other, &accept).unwrap();
    let loss = restored.loss.unwrap();
    assert!(0 < loss.kept_revision && loss.kept_revision < report.to_revision, "{loss:?}");
    let name = missing.file_name().unwrap().to_str().unwrap();
    assert!(loss.damages.iter().any(|damage| damage.contains(name)), "{:?}", loss.damages);

    let server = Server::start(brisk(dir)).await.unwrap();
    let channel = connect(&server).await;
    caught_up(&channel).await;
    assert_past_is_there(&channel, jobs).await;
    server.shutdown().await.unwrap();
    let report = plenum_server::verify(dir).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
}

#[tokio::test]
async fn what_is_beyond_the_retained_bytes_leaves_the_disk() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let mut small = brisk(dir);
    small.settings.retain_bytes = 1 << 20;
    let server = Server::start(small.clone()).await.unwrap();
    let channel = connect(&server).await;
    let jobs = submit_until(&channel, 0, |status| status.oldest_revision > 100).await;
    // Some 400 segments are written. All that is ever decided is in this cell's state, too, and so in its fallback: what leads on from that is kept
    // until it is as much. Besides there is what is retained, and what stays to be used again or is on its way.
    let jobs = submit_until(&channel, jobs, |status| status.revision > 1600).await;
    caught_up(&channel).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let segments = |bytes: u64| usize::try_from(bytes / small.settings.segment_bytes as u64).unwrap();
        let fallback_bytes = std::fs::metadata(dir.join("fallback.backup")).unwrap().len();
        let files = std::fs::read_dir(dir.join("log")).unwrap().count();
        // Frames leave up to a fifth of a segment empty.
        let most = segments((fallback_bytes + small.settings.retain_bytes) * 5 / 4) + 30;
        if files <= most {
            break;
        }
        let kept = kept(dir).len();
        assert!(tokio::time::Instant::now() < deadline, "{files} files, {kept} of them kept, in place of {most}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(code(&machines_at(&channel, 1).await.unwrap_err()), "REVISION_RETIRED");
    let last = submitted(&channel, jobs - 1).await.unwrap();
    assert_eq!(machines_at(&channel, last).await.unwrap(), usize::try_from(jobs - 1).unwrap());
    server.shutdown().await.unwrap();
    let report = plenum_server::verify(dir).unwrap();
    assert!(report.is_sound() && report.from_revision > 1, "{:?}", report.violations);
}

// The history was read up to the first damage, and what was kept behind it never looked at; without a history nothing of it was.
#[tokio::test]
async fn each_damaged_kept_segment_is_named_also_without_a_history() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let server = Server::start(brisk(dir)).await.unwrap();
    let channel = connect(&server).await;
    submit_until(&channel, 0, |_| kept(dir).len() >= 4).await;
    server.shutdown().await.unwrap();
    let kept = kept(dir);
    let victims = [&kept[0], &kept[2], &kept[kept.len() - 1]];
    for victim in victims {
        let mut bytes = std::fs::read(victim).unwrap();
        bytes[100 << 10] ^= 1;
        std::fs::write(victim, bytes).unwrap();
    }
    for with_history in [true, false] {
        let report = plenum_server::verify(dir).unwrap();
        for path in &kept {
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_named = report.violations.iter().any(|violation| violation.what.starts_with(name));
            assert_eq!(is_named, victims.contains(&path), "{name}, {with_history}: {:?}", report.violations);
        }
        if with_history {
            std::fs::remove_dir_all(dir.join("history")).unwrap();
        }
    }
}

#[tokio::test]
async fn damage_in_a_kept_segment_is_named_and_the_present_is_not_touched_by_it() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let server = Server::start(brisk(dir)).await.unwrap();
    let channel = connect(&server).await;
    let jobs = submit_until(&channel, 0, |_| kept(dir).len() >= 2).await;
    server.shutdown().await.unwrap();
    let victim = kept(dir).remove(0);
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[100 << 10] ^= 1;
    std::fs::write(&victim, bytes).unwrap();

    let report = plenum_server::verify(dir).unwrap();
    let name = victim.file_name().unwrap().to_str().unwrap().to_owned();
    let named = |what: &str| what.contains(&name) && what.contains("offset");
    assert!(report.violations.iter().any(|violation| named(&violation.to_string())), "{:?}", report.violations);
    let server = Server::start(brisk(dir)).await.unwrap();
    let channel = connect(&server).await;
    caught_up(&channel).await;
    let error = submitted(&channel, 0).await.unwrap_err();
    assert!(code(&error) == "DAMAGED_HISTORY" && named(error.message()), "{error}");
    let last = submitted(&channel, jobs - 1).await;
    assert!(last.is_ok() || last.is_err_and(|error| code(&error) == "DAMAGED_HISTORY"));
    submit(&channel, job("after", 1)).await;
    server.shutdown().await.unwrap();
}

/// Keyspaces of the store by number, in the order in which they are made: index, filters, blocks, images of pages, and records of checkpoints.
const IMAGES: u32 = 4;
const CHECKPOINTS: u32 = 5;

fn tables_of(dir: &Path, keyspace: u32) -> PathBuf {
    dir.join(format!("history/store/keyspaces/{keyspace}/tables"))
}

/// Whether there is a table of page images that is whole: that of the checkpoint, which is made after it, is there.
pub(crate) fn has_images(dir: &Path) -> bool {
    let tables = std::fs::read_dir(tables_of(dir, CHECKPOINTS));
    tables.is_ok_and(|tables| tables.flatten().any(|table| table.metadata().is_ok_and(|found| found.len() > 0)))
}

/// Flips a bit in each table of page images.
pub(crate) fn damage_images(dir: &Path) {
    damage_tables(dir, IMAGES);
}

/// Flips a bit in each table of a keyspace of the store.
fn damage_tables(dir: &Path, keyspace: u32) {
    let tables = std::fs::read_dir(tables_of(dir, keyspace)).unwrap();
    let damaged = tables.filter(|table| {
        let path = table.as_ref().unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(byte) = bytes.get_mut(40) {
            *byte ^= 1;
            std::fs::write(path, &bytes).unwrap();
        }
        !bytes.is_empty()
    });
    assert!(damaged.count() > 0);
}

async fn machines(channel: &Channel) -> u32 {
    let status = Inspect::new(channel.clone()).status(v1::StatusRequest {}).await.unwrap().into_inner();
    u32::try_from(status.machines.values().sum::<u64>()).unwrap()
}

/// It could not be started, though older checkpoints, or the log with what is kept of it, had everything.
#[tokio::test]
async fn a_cell_whose_newest_checkpoint_is_damaged_starts_from_what_was_before_it() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let server = Server::start(brisk(dir)).await.unwrap();
    let channel = connect(&server).await;
    let jobs = submit_until(&channel, 0, |_| kept(dir).len() >= 3).await;
    caught_up(&channel).await;
    server.shutdown().await.unwrap();
    damage_images(dir);

    let backup = plenum_server::back_up_folder(dir, &mut Vec::new(), Path::new("memory")).unwrap();
    let server = Server::start(brisk(dir)).await.unwrap();
    let channel = connect(&server).await;
    assert_eq!(machines(&channel).await, jobs);
    let status = Inspect::new(channel.clone()).status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.revision > backup.revision, "{status:?}");
    let jobs = submit_until(&channel, jobs, |status| status.revision > backup.revision + 50).await;
    server.kill().await.unwrap();
    let server = Server::start(brisk(dir)).await.unwrap();
    assert_eq!(machines(&connect(&server).await).await, jobs);
    server.shutdown().await.unwrap();
}

/// Files of images, the newest last.
fn image_files(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.join("history/images")).into_iter().flatten();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// As of a large cell, whose sets of images begin with files.
#[tokio::test]
async fn a_cell_whose_newest_file_of_images_is_damaged_or_gone_starts_from_what_was_before_it() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    let mut large = brisk(&dir);
    large.settings.image_file_pages = 1;
    let server = Server::start(large).await.unwrap();
    let channel = connect(&server).await;
    let jobs = submit_until(&channel, 0, |_| image_files(&dir).len() >= 3).await;
    caught_up(&channel).await;
    assert_past_is_there(&channel, jobs).await;
    server.shutdown().await.unwrap();
    assert!(plenum_server::verify(&dir).unwrap().is_sound());

    // Something else in its place was taken for a disk that can't be read just now, and no server started.
    for how in ["damaged", "gone", "a folder"] {
        let copy = temporary.path().join(how);
        copy_folder(&dir, &copy);
        let newest = image_files(&copy).pop().unwrap();
        let mut bytes = std::fs::read(&newest).unwrap();
        std::fs::remove_file(&newest).unwrap();
        match how {
            "damaged" => {
                bytes[40] ^= 1;
                std::fs::write(&newest, bytes).unwrap();
            }
            "a folder" => std::fs::create_dir(&newest).unwrap(),
            _ => {}
        }
        let report = plenum_server::verify(&copy).unwrap();
        let is_named = report.violations.iter().any(|violation| violation.place == "history");
        assert!(is_named, "{how}: {:?}", report.violations);
        let server = Server::start(brisk(&copy)).await.unwrap();
        let channel = connect(&server).await;
        assert_eq!(machines(&channel).await, jobs, "{how}");
        submit(&channel, job("after", 1)).await;
        server.kill().await.unwrap();
    }
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// It was refused for what was missing between them, though all of it was kept, and `verify` had found it.
#[tokio::test]
async fn what_an_older_history_lacks_is_read_from_what_was_kept() {
    let temporary = tempfile::tempdir().unwrap();
    let (dir, older) = (temporary.path().join("cell"), temporary.path().join("older"));
    let server = Server::start(brisk(&dir)).await.unwrap();
    let channel = connect(&server).await;
    let jobs = submit_until(&channel, 0, |status| status.revision > 20).await;
    caught_up(&channel).await;
    server.shutdown().await.unwrap();
    copy_folder(&dir.join("history"), &older);
    let server = Server::start(brisk(&dir)).await.unwrap();
    let jobs = submit_until(&connect(&server).await, jobs, |status| status.log_kept_bytes > 2 << 20).await;
    server.shutdown().await.unwrap();
    std::fs::remove_dir_all(dir.join("history")).unwrap();
    std::fs::rename(older, dir.join("history")).unwrap();
    let report = plenum_server::verify(&dir).unwrap();
    assert!(report.is_sound() && report.from_revision < 20, "{report:?}");
    let server = Server::start(brisk(&dir)).await.unwrap();
    let channel = connect(&server).await;
    assert_eq!(machines(&channel).await, jobs);
    assert_past_is_there(&channel, jobs).await;
    server.shutdown().await.unwrap();
}

/// Only what was read on the way of folding and deciding was looked at.
#[tokio::test]
async fn damage_of_any_table_of_the_history_is_named_by_verify() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    let server = Server::start(brisk(&dir)).await.unwrap();
    let channel = connect(&server).await;
    submit_until(&channel, 0, |_| kept(&dir).len() >= 2).await;
    server.shutdown().await.unwrap();
    assert!(plenum_server::verify(&dir).unwrap().is_sound());
    for keyspace in 1..=CHECKPOINTS {
        let copy = temporary.path().join(keyspace.to_string());
        copy_folder(&dir, &copy);
        damage_tables(&copy, keyspace);
        let report = plenum_server::verify(&copy).unwrap();
        let is_named = report.violations.iter().any(|violation| violation.place == "history");
        assert!(is_named, "{keyspace}: {:?}", report.violations);
    }
}

/// What stands in tables was said to keep no cell from being started.
#[tokio::test]
async fn a_cell_with_damaged_tables_starts_or_does_so_without_its_history() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("cell");
    let server = Server::start(brisk(&dir)).await.unwrap();
    let channel = connect(&server).await;
    let jobs = submit_until(&channel, 0, |_| kept(&dir).len() >= 2).await;
    server.shutdown().await.unwrap();
    let mut refused = Vec::new();
    for keyspace in 1..=CHECKPOINTS {
        let copy = temporary.path().join(keyspace.to_string());
        copy_folder(&dir, &copy);
        damage_tables(&copy, keyspace);
        let server = match Server::start(brisk(&copy)).await {
            Ok(server) => server,
            Err(error) => {
                assert_eq!(error.code(), "DAMAGED_HISTORY", "{keyspace}: {error}");
                refused.push(keyspace);
                std::fs::rename(copy.join("history"), temporary.path().join(format!("history{keyspace}"))).unwrap();
                Server::start(brisk(&copy)).await.unwrap()
            }
        };
        assert_eq!(machines(&connect(&server).await).await, jobs, "{keyspace}");
        server.kill().await.unwrap();
    }
    // How far the history goes stands in the index; neither filters nor images are needed.
    assert!(refused.contains(&1) && !refused.contains(&2) && !refused.contains(&4), "{refused:?}");
}

/// Bytes of all files of the log.
fn log_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("log")).unwrap();
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

// The harness holds a history's cost against such a log, whose segments are used again as well.
#[tokio::test]
async fn a_log_without_a_history_keeps_everything_unless_it_is_to_forget() {
    for forgets_log in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut alone = brisk(dir.path());
        (alone.settings.history, alone.settings.forgets_log) = (false, forgets_log);
        let server = Server::start(alone).await.unwrap();
        let channel = connect(&server).await;
        // Of 50 KiB each: some 20 segments.
        let count = std::cell::Cell::new(0);
        submit_until(&channel, 0, |_| count.replace(count.get() + 1) == 100).await;
        let most = 2 << 20;
        if forgets_log {
            eventually("the log has let go of what is durable", async || log_bytes(dir.path()) < most).await;
        } else {
            assert!(log_bytes(dir.path()) > 2 * most, "{} bytes", log_bytes(dir.path()));
        }
        server.shutdown().await.unwrap();
    }
}
