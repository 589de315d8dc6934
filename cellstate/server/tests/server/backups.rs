//! Backups of running and stopped cells, and what goes on from them.

use std::path::{Path, PathBuf};

use plenum_history::{History, StartingPoint};
use plenum_model::Cell;
use plenum_proto::{delta, pages, v1};
use plenum_server::{BackupError, Handle, RestoreOptions, Server, back_up_folder, check_backup, restore, verify};
use prost::Message;
use tonic::transport::Channel;

use crate::client::{Session, as_principal, code, connect, job, placement, register, start, submit};
use crate::job_stories::{own_story, report, stop};
use crate::kept::{brisk, caught_up, copy_folder, submit_until};

/// Takes a backup of a running cell, and checks its seals.
pub(crate) async fn back_up(channel: &Channel, to: &Path) -> v1::BackupManifest {
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let mut chunks = inspect.backup(v1::BackupRequest {}).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        assert!(chunk.data.len() <= 256 << 10);
        bytes.extend_from_slice(&chunk.data);
    }
    std::fs::write(to, bytes).unwrap();
    check_backup(to).unwrap()
}

pub(crate) fn history(dir: &Path) -> History {
    let cell = plenum_journal::identity(&plenum_journal::RealDisk::existing(dir.join("log")).unwrap()).unwrap().cell;
    let frames = Some(plenum_server::frames_in(&dir.join("log")).unwrap());
    let options = plenum_history::Options { frames, ..plenum_history::Options::new(cell.0.to_vec()) };
    History::open(dir.join("history"), options).unwrap().0
}

/// The pages of a stopped cell as they were at a revision.
fn pages_at(dir: &Path, revision: u64) -> Vec<(i32, u32, bytes::Bytes)> {
    let history = history(dir);
    let (mut cell, start) = match history.start_for(revision).unwrap() {
        StartingPoint::Empty => (Cell::default(), 0),
        StartingPoint::Checkpoint(checkpoint) => {
            let images = history.pages_at(checkpoint.revision).unwrap().map(|image| image.unwrap().bytes);
            (pages::restore(images.collect::<Vec<_>>()).unwrap(), checkpoint.revision)
        }
    };
    for logged in history.entries(start + 1, revision).unwrap() {
        cell.apply(&delta::decode(logged.unwrap().entry.delta).unwrap()).unwrap();
    }
    assert_eq!(cell.revision().0, revision);
    pages::every(&cell)
        .map(|(table, number)| (table.into(), number, pages::encode_image(&cell, table, number)))
        .collect()
}

/// The pages that a restored cell begins with, as they stand on its disk.
fn pages_on_disk(dir: &Path, revision: u64) -> Vec<(i32, u32, bytes::Bytes)> {
    let images = history(dir).pages_at(revision).unwrap().map(|image| image.unwrap());
    let mut images: Vec<_> = images.map(|image| (image.table.into(), image.number, image.bytes)).collect();
    images.sort_by_key(|(table, number, _)| (*table, *number));
    images
}

/// A cell with a machine and a job of so many tasks, and a session of its scheduler.
pub(crate) async fn busy_cell(dir: &Path, tasks: u32) -> (Handle, Channel, Session, u64) {
    let server = start(dir).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 1_000_000).await;
    let job = submit(&channel, job("crunch", tasks)).await.job;
    let session = Session::open(&channel, "batch").await.unwrap();
    (server, channel, session, job)
}

pub(crate) async fn grant(session: &mut Session, number: u64, job: u64, task: u32) -> u64 {
    let transaction = session.transaction(number, vec![placement(job, vec![0], vec![task])]);
    let outcome = session.commit(transaction).await.unwrap();
    assert_eq!(outcome.granted, 1, "{outcome:?}");
    outcome.revision
}

#[tokio::test]
async fn a_backup_taken_while_commits_run_is_the_cell_at_one_revision() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel, mut session, job) = busy_cell(dir.path(), 300).await;
    let committing = tokio::spawn(async move {
        for task in 0..300 {
            grant(&mut session, u64::from(task) + 1, job, task).await;
        }
        session
    });
    let files = tempfile::tempdir().unwrap();
    let mut backups: Vec<(PathBuf, u64)> = Vec::new();
    while !committing.is_finished() {
        let path = files.path().join(backups.len().to_string());
        let manifest = back_up(&channel, &path).await;
        backups.push((path, manifest.revision));
    }
    drop(committing.await.unwrap());
    let path = files.path().join("last");
    let last = back_up(&channel, &path).await;
    backups.push((path, last.revision));
    drop(channel);
    server.shutdown().await.unwrap();
    assert!(backups.len() > 1 && backups.is_sorted_by_key(|(_, revision)| *revision));
    backups.dedup_by_key(|(_, revision)| *revision);
    for (path, revision) in backups.iter().step_by(1 + backups.len() / 4) {
        let restored = tempfile::tempdir().unwrap();
        let target = restored.path().join("cell");
        let report = restore(path, &target, &RestoreOptions::default()).unwrap();
        assert_eq!((report.manifest.revision, report.incarnation, report.loss), (*revision, 2, None));
        // Byte for byte.
        assert_eq!(pages_on_disk(&target, *revision), pages_at(dir.path(), *revision));
    }
    let mut folder = Vec::new();
    let manifest = back_up_folder(dir.path(), &mut folder, Path::new("memory")).unwrap();
    assert!(manifest.revision >= last.revision);
    assert_eq!((manifest.cell_id, manifest.incarnation), (last.cell_id, 1));
}

// With segments and checkpoints of the usual size nothing was given up while one was taken.
#[tokio::test]
async fn a_backup_taken_while_the_log_gives_up_its_past_is_whole_and_knows_its_last_frame() {
    let dir = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let mut forgetful = brisk(dir.path());
    forgetful.settings.retain_bytes = 1 << 20;
    let server = Server::start(forgetful).await.unwrap();
    let channel = connect(&server).await;
    register(&channel, "m", 1000).await;
    let first = ["segment", "kept"].map(|suffix| dir.path().join(format!("log/{:020}.{suffix}", 1)));
    let is_over = std::cell::Cell::new(false);
    let committing = async {
        submit_until(&channel, 0, |status| status.oldest_revision > 60 && !first.iter().any(|path| path.exists()))
            .await;
        is_over.set(true);
    };
    let backing_up = async {
        let mut backups = Vec::new();
        while !is_over.get() {
            let path = files.path().join(backups.len().to_string());
            let manifest = back_up(&channel, &path).await;
            assert!(!manifest.frame_hash.is_empty(), "revision {}", manifest.revision);
            backups.push((path, manifest.revision));
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        backups
    };
    let ((), backups) = tokio::join!(committing, backing_up);
    server.shutdown().await.unwrap();
    assert!(backups.len() > 1);
    for (path, revision) in backups.iter().rev().step_by(1 + backups.len() / 3) {
        let target = path.with_extension("cell");
        let report = restore(path, &target, &RestoreOptions::default()).unwrap();
        assert_eq!((report.manifest.revision, report.loss), (*revision, None));
        let report = verify(&target).unwrap();
        assert!(report.is_sound(), "{:?}", report.violations);
    }
}

#[tokio::test]
async fn a_restored_cell_goes_on_and_nobody_takes_it_for_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel, mut session, job) = busy_cell(dir.path(), 10).await;
    grant(&mut session, 1, job, 0).await;
    let file = dir.path().join("backup");
    let manifest = back_up(&channel, &file).await;
    // What the backup has forgotten.
    let forgotten = grant(&mut session, 2, job, 1).await;
    let old_ids: Vec<u64> = session.cell.allocations().map(|allocation| allocation.id.to_bits()).collect();
    server.kill().await.unwrap();

    let target = dir.path().join("restored");
    restore(&file, &target, &RestoreOptions::default()).unwrap();
    let server = start(&target).await;
    let channel = connect(&server).await;
    assert_old_session_is_over(&channel, &session).await;
    assert_agents_must_register(&channel).await;

    let (old, job) = (session, job);
    let mut session = Session::open(&channel, "batch").await.unwrap();
    assert_eq!((session.welcome.incarnation, session.cell.live()), (2, 1));
    assert!(session.welcome.session > manifest.revision && session.welcome.term > old.welcome.term);
    assert_eq!(session.cell.sessions().count(), 1, "those of the backup are closed");
    // The same task again, on the same slot, and under another id.
    let revision = grant(&mut session, 1, job, 1).await;
    assert!(revision > manifest.revision && revision <= forgotten + 10);
    let new: Vec<u64> = session.cell.allocations().map(|allocation| allocation.id.to_bits()).collect();
    assert_eq!(new.iter().filter(|id| old_ids.contains(id)).count(), 1, "{old_ids:?} and {new:?}");
    let hello = v1::Hello { session: session.welcome.session, incarnation: 2, ..Default::default() };
    server.kill().await.unwrap();

    // A restart is no restore.
    let server = start(&target).await;
    let channel = connect(&server).await;
    let mut session = Session::hello(&channel, hello, Cell::default()).await.unwrap();
    assert_eq!(session.welcome.session, session.transaction(2, Vec::new()).session);
    grant(&mut session, 2, job, 2).await;
    server.shutdown().await.unwrap();
    let report = verify(&target).unwrap();
    assert!(report.is_sound() && report.decided_again > 0, "{report:#?}");
    assert_eq!((report.from_revision, report.incarnation), (manifest.revision, 2));
}

/// The first grants of a new incarnation have generations far above those of the tenants before them, who were not told by the grant: what
/// became of them was lost as soon as their slots were given again.
#[tokio::test]
async fn what_went_on_over_a_restore_tells_its_story_also_when_its_slot_is_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel, mut session, job) = busy_cell(dir.path(), 10).await;
    grant(&mut session, 1, job, 0).await;
    let old = session.cell.allocations().next().unwrap().id;
    let file = dir.path().join("backup");
    let manifest = back_up(&channel, &file).await;
    drop((session, channel));
    server.kill().await.unwrap();

    let target = dir.path().join("restored");
    restore(&file, &target, &RestoreOptions::default()).unwrap();
    let server = start(&target).await;
    let channel = connect(&server).await;
    let machine = register(&channel, "m1", 1_000_000).await;
    stop(&channel, old.to_bits()).await;
    report(&channel, &machine, old.to_bits(), v1::AllocationState::Stopped, 143, "").await;
    let words = |story: &v1::HistoryResponse| -> Vec<String> {
        story.events.iter().map(|event| format!("{} {}", event.event, event.detail)).collect()
    };
    let before = own_story(&channel, old.to_bits()).await.unwrap();
    assert_eq!(
        words(&before),
        ["stopping stopped by a request", "stopped exit code 143: stopped by a request"],
        "before its slot is given again"
    );
    let mut session = Session::open(&channel, "batch").await.unwrap();
    for number in 1..=2 {
        grant(&mut session, number, job, u32::try_from(number).unwrap()).await;
        let young = session.cell.allocation_in(old.slot).unwrap().id;
        assert!(young.generation > 1 << 26, "{young}");
        let after = own_story(&channel, old.to_bits()).await.unwrap();
        assert_eq!((&after.events, after.truncated), (&before.events, false), "{young}");
        assert!(after.oldest_revision > manifest.revision, "its grant is not retained");
        // Of the one after it nothing but what was its own.
        assert_eq!(own_story(&channel, young.to_bits()).await.unwrap().events.len(), 1);
        stop(&channel, young.to_bits()).await;
        report(&channel, &machine, young.to_bits(), v1::AllocationState::Stopped, 0, "").await;
    }
    // One that this incarnation never gave: it may have been granted after the backup, and nobody knows of it here.
    let forgotten = plenum_model::AllocationId { generation: old.generation + 1, ..old }.to_bits();
    let refused = own_story(&channel, forgotten).await.unwrap_err();
    assert_eq!(code(&refused), "NO_SUCH_ALLOCATION", "{refused}");
    assert!(refused.message().contains("restored"), "{refused}");
    let get = v1::GetAllocationRequest { allocation: forgotten, at: None };
    let refused = v1::jobs_client::JobsClient::new(channel.clone()).get_allocation(get).await.unwrap_err();
    assert_eq!(code(&refused), "NO_SUCH_ALLOCATION", "{refused}");
    server.shutdown().await.unwrap();
}

async fn assert_old_session_is_over(channel: &Channel, old: &Session) {
    let hello = v1::Hello { session: old.welcome.session, incarnation: 1, ..Default::default() };
    let refused = Session::hello(channel, hello, Cell::default()).await.err().unwrap();
    assert_eq!((refused.code(), code(&refused).as_str()), (tonic::Code::Aborted, "OTHER_INCARNATION"));
    let mut cell = v1::cell_client::CellClient::new(channel.clone());
    let refused = cell.commit(old.transaction(3, Vec::new())).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (tonic::Code::Aborted, "OTHER_INCARNATION"));
    // Somebody else may have opened one of that number since: it would have been closed under him.
    let (session, incarnation) = (old.welcome.session, old.welcome.incarnation);
    let refused = cell.close(v1::CloseRequest { session, incarnation }).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (tonic::Code::Aborted, "OTHER_INCARNATION"));
    let hold = v1::TakeHoldRequest { session, incarnation, job: 1, ..Default::default() };
    let refused = cell.take_hold(hold).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (tonic::Code::Aborted, "OTHER_INCARNATION"));
}

async fn assert_agents_must_register(channel: &Channel) {
    let mut agents = v1::agents_client::AgentsClient::new(channel.clone());
    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let request = v1::GetMachineRequest { name: "m1".to_owned(), at: None };
    let machine = inspect.get_machine(request).await.unwrap().into_inner().machine.unwrap();
    assert_eq!(machine.epoch, 1, "as the backup shows it");
    let report = v1::ReportRequest { machine: machine.id, epoch: 1, ..Default::default() };
    assert!(agents.report(report).await.unwrap().into_inner().register);
    let follow = v1::FollowRequest { machine: machine.id, epoch: 1, ..Default::default() };
    assert_eq!(code(&agents.follow(follow).await.err().unwrap()), "STALE_EPOCH");
    let registered = register(channel, "m1", 1_000_000).await;
    assert!(registered.epoch > 1000 && registered.incarnation == 2, "{registered:?}");
    let report = v1::ReportRequest { machine: machine.id, epoch: registered.epoch, ..Default::default() };
    assert!(!agents.report(report).await.unwrap().into_inner().register);
}

/// A backup of a cell that is stopped since, in its directory.
async fn backed_up(dir: &Path) -> PathBuf {
    let (server, channel, session, _) = busy_cell(dir, 1).await;
    let file = dir.join("backup");
    back_up(&channel, &file).await;
    drop((session, channel));
    server.shutdown().await.unwrap();
    file
}

// It was left empty: a server that is started on such a directory makes a cell of its own.
#[tokio::test]
async fn a_restore_that_finds_no_room_for_its_draft_leaves_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = backed_up(dir.path()).await;
    // The longest path that there may be: a name in it is none.
    let mut target = dir.path().join("new");
    while target.as_os_str().len() < 4090 {
        target.push("x".repeat((4094 - target.as_os_str().len()).min(200)));
    }
    let refused = restore(&file, &target, &RestoreOptions::default()).unwrap_err();
    assert!(matches!(refused, BackupError::Io { .. }), "{refused}");
    assert!(target.parent().unwrap().exists() && !target.exists());
}

#[tokio::test]
async fn a_backup_or_a_directory_that_is_there_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel, session, _) = busy_cell(dir.path(), 1).await;
    let file = dir.path().join("backup");
    back_up(&channel, &file).await;
    let locked = back_up_folder(dir.path(), &mut Vec::new(), &file).unwrap_err();
    assert_eq!(locked.code(), "DIRECTORY_LOCKED", "{locked}");
    drop((session, channel));
    server.shutdown().await.unwrap();
    let refused = restore(&file, dir.path(), &RestoreOptions::default()).unwrap_err();
    assert!(matches!(refused, BackupError::Exists { .. }), "{refused}");
    let refused = restore(&file, &file, &RestoreOptions::default()).unwrap_err();
    assert!(matches!(refused, BackupError::Exists { .. }), "{refused}");
    for incarnation in [0, 1, 65] {
        let options = RestoreOptions { incarnation: Some(incarnation), ..RestoreOptions::default() };
        let refused = restore(&file, &dir.path().join("new"), &options).unwrap_err();
        assert_eq!(refused.code(), "BAD_SETTING", "{refused}");
    }
    assert!(!dir.path().join("new").exists(), "nothing was made");
    let options = RestoreOptions { incarnation: Some(7), ..RestoreOptions::default() };
    assert_eq!(restore(&file, &dir.path().join("new"), &options).unwrap().incarnation, 7);
}

#[tokio::test]
async fn a_damaged_backup_is_refused_with_its_place_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = backed_up(dir.path()).await;
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&file, &bytes).unwrap();
    let target = dir.path().join("new");
    let refused = restore(&file, &target, &RestoreOptions::default()).unwrap_err();
    let named = refused.to_string();
    assert!(refused.code() == "DAMAGED_BACKUP" && named.contains("record") && named.contains("offset"), "{named}");
    assert!(!target.exists());
}

/// Its stream ended as one that is whole: the file was called damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_the_server_ends_under_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    // Far more than waits for a reader.
    for number in 0..300 {
        crate::stalled::large_machine(&channel, number).await;
    }
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    let narrow = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut inspect = v1::inspect_client::InspectClient::new(narrow.connect().await.unwrap());
    let mut chunks = inspect.backup(v1::BackupRequest {}).await.unwrap().into_inner();
    let mut session = Session::open(&channel, "batch").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let ending = tokio::spawn(server.shutdown());
    // Who has a session is told that the server ends. Until then what comes could be a whole backup.
    while session.next().await.is_ok() {}
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let ended = loop {
        match chunks.message().await {
            Ok(chunk) => assert!(chunk.is_some(), "it ends with a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(code(&ended), "SERVER_ENDING", "{ended}");
    ending.await.unwrap().unwrap();
}

#[tokio::test]
async fn only_operators_take_backups() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut inspect = v1::inspect_client::InspectClient::new(connect(&server).await);
    let refused = inspect.backup(as_principal("user/ann", v1::BackupRequest {})).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert!(inspect.backup(as_principal("operator/op", v1::BackupRequest {})).await.is_ok());
    server.shutdown().await.unwrap();
}

/// Segment and offset of the last frames of a stopped cell's log, the newest first, with their first revisions.
pub(crate) fn last_frames(dir: &Path) -> Vec<(PathBuf, u64, u64)> {
    let disk = plenum_journal::RealDisk::existing(dir.join("log")).unwrap();
    let mut frames = Vec::new();
    plenum_journal::verify(&disk, None, &mut |frame| {
        let name = dir.join("log").join(format!("{:020}.segment", frame.segment));
        frames.push((name, frame.offset, frame.first_revision));
    })
    .unwrap();
    frames.reverse();
    frames
}

pub(crate) fn break_frame(frame: &(PathBuf, u64, u64)) {
    let mut bytes = std::fs::read(&frame.0).unwrap();
    bytes[usize::try_from(frame.1).unwrap() + 90] ^= 1;
    std::fs::write(&frame.0, bytes).unwrap();
}

/// A stopped cell with six grants whose third to last frame is damaged, and the revision of the last grant.
pub(crate) async fn broken_cell(dir: &Path) -> u64 {
    let (server, channel, mut session, job) = busy_cell(dir, 6).await;
    let mut last = 0;
    for task in 0..6 {
        last = grant(&mut session, u64::from(task) + 1, job, task).await;
    }
    drop((session, channel));
    server.shutdown().await.unwrap();
    break_frame(&last_frames(dir)[2]);
    last
}

#[tokio::test]
async fn what_the_log_lost_and_the_history_has_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let last = broken_cell(dir.path()).await;
    let target = dir.path().join("new");
    let refused = restore(dir.path(), &target, &RestoreOptions::default()).unwrap_err();
    assert!(matches!(refused, BackupError::LossNotAccepted { .. }), "{refused}");
    assert!(refused.to_string().contains("--accept-loss"), "{refused}");
    let forecast = format!("nothing would be lost: all revisions up to {last} are there");
    assert!(refused.to_string().ends_with(&forecast), "{refused}");
    // Who took a backup was told of a flag that no backup has.
    let backed_up = back_up_folder(dir.path(), &mut Vec::new(), Path::new("memory")).unwrap_err().to_string();
    assert!(backed_up.contains("`plenum restore --from DIR --dir NEW --accept-loss` makes"), "{backed_up}");
    let options = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let restored = restore(dir.path(), &target, &options).unwrap();
    let loss = restored.loss.unwrap();
    assert_eq!((loss.revisions(), loss.damages.len(), restored.manifest.revision), (0, 1, last));
    assert_eq!(restored.live_allocations, 6);
    let server = start(&target).await;
    server.shutdown().await.unwrap();
}

async fn stopped_cell_with_a_copy_of_its_log(dir: &Path, copy: &Path) {
    let (server, channel, session, _) = busy_cell(dir, 1).await;
    drop((session, channel));
    server.shutdown().await.unwrap();
    copy_folder(&dir.join("log"), copy);
}

fn put_log_back(dir: &Path, copy: &Path) {
    std::fs::remove_dir_all(dir.join("log")).unwrap();
    std::fs::rename(copy, dir.join("log")).unwrap();
}

/// A log was put back from a copy that was older than the history. A start refused it, but who restored of it was told
/// that nothing is lost: the history has no batches, only where they stood in the log.
#[tokio::test]
async fn what_only_the_history_knows_of_is_lost_and_counted() {
    let temporary = tempfile::tempdir().unwrap();
    let [dir, older, new] = ["cell", "older", "new"].map(|name| temporary.path().join(name));
    stopped_cell_with_a_copy_of_its_log(&dir, &older).await;
    // Of what comes now there is no checkpoint, and it is killed after the first of its blocks of batches, which end
    // with a segment or after 1024 of them.
    let mut options = crate::client::options(&dir);
    options.settings.checkpoint_interval = std::time::Duration::from_secs(3600);
    let server = Server::start(options.clone()).await.unwrap();
    let channel = connect(&server).await;
    for number in 0..1100 {
        register(&channel, &format!("n{number}"), 1000).await;
    }
    caught_up(&channel).await;
    drop(channel);
    server.kill().await.unwrap();
    put_log_back(&dir, &older);

    let refused = Server::start(options).await.err().unwrap();
    assert!(refused.code() == "DAMAGED_LOG" && refused.to_string().contains("lost its end"), "{refused}");
    let refused = restore(&dir, &new, &RestoreOptions::default()).unwrap_err();
    assert!(matches!(refused, BackupError::LossNotAccepted { .. }), "{refused}");
    assert!(refused.to_string().contains("lost its end"), "{refused}");
    let refused = back_up_folder(&dir, &mut Vec::new(), Path::new("memory")).unwrap_err();
    assert!(matches!(refused, BackupError::LossNotAccepted { .. }), "{refused}");
    let accept = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let loss = restore(&dir, &new, &accept).unwrap().loss.unwrap();
    assert!(loss.revisions() >= 500 && loss.may_be_more && !loss.damages.is_empty(), "{loss:?}");
    start(&new).await.shutdown().await.unwrap();
}

// Nothing that anybody knows of is missing, and a restore said so; but how far the log had come nobody knows.
#[tokio::test]
async fn a_log_that_ends_before_the_newest_checkpoint_is_given_up_only_when_asked() {
    let temporary = tempfile::tempdir().unwrap();
    let [dir, older, new] = ["cell", "older", "new"].map(|name| temporary.path().join(name));
    stopped_cell_with_a_copy_of_its_log(&dir, &older).await;
    let server = start(&dir).await;
    register(&connect(&server).await, "later", 1000).await;
    server.shutdown().await.unwrap();
    put_log_back(&dir, &older);

    let refused = restore(&dir, &new, &RestoreOptions::default()).unwrap_err();
    assert!(matches!(refused, BackupError::LossNotAccepted { .. }), "{refused}");
    let accept = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let loss = restore(&dir, &new, &accept).unwrap().loss.unwrap();
    assert_eq!((loss.revisions(), loss.may_be_more), (0, true));
    let server = start(&new).await;
    let mut inspect = v1::inspect_client::InspectClient::new(connect(&server).await);
    let machines = inspect.list_machines(v1::ListRequest::default()).await.unwrap();
    assert!(machines.into_inner().machines.iter().any(|machine| machine.name == "later"));
    server.shutdown().await.unwrap();
}

// Neither `verify` nor `restore --accept-loss` looked at such a log, and the second ended with the advice to use it.
#[tokio::test]
async fn a_log_whose_mark_is_gone_is_gone_on_from_and_nobody_says_that_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel, mut session, job) = busy_cell(dir.path(), 1).await;
    let last = grant(&mut session, 1, job, 0).await;
    drop((session, channel));
    server.shutdown().await.unwrap();
    std::fs::remove_file(dir.path().join("log/MARK")).unwrap();
    let refused = plenum_server::Server::start(crate::client::options(dir.path())).await.err().unwrap();
    assert!(refused.code() == "DAMAGED_LOG" && refused.to_string().contains("--accept-loss"), "{refused}");
    let report = plenum_server::verify(dir.path()).unwrap();
    assert_eq!(report.violations.len(), 1, "{:?}", report.violations);
    assert!(report.violations[0].what.contains("MARK") && report.to_revision == last, "{report:?}");
    let target = dir.path().join("new");
    let refused = restore(dir.path(), &target, &RestoreOptions::default()).unwrap_err();
    assert!(matches!(refused, BackupError::LossNotAccepted { .. }), "{refused}");
    let options = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let restored = restore(dir.path(), &target, &options).unwrap();
    let loss = restored.loss.unwrap();
    assert_eq!((loss.revisions(), loss.may_be_more, restored.manifest.revision), (0, true, last));
    start(&target).await.shutdown().await.unwrap();
}

// Nothing would be lost, it was said: the log has all revisions, but others were acknowledged under these.
#[tokio::test]
async fn what_was_acknowledged_in_another_history_than_the_log_s_is_told_as_lost() {
    let temporary = tempfile::tempdir().unwrap();
    let [dir, other, new] = ["cell", "other", "new"].map(|name| temporary.path().join(name));
    start(&dir).await.shutdown().await.unwrap();
    copy_folder(&dir, &other);
    for (dir, machines) in [(&dir, 3), (&other, 1)] {
        let server = start(dir).await;
        let channel = connect(&server).await;
        for number in 0..machines {
            register(&channel, &format!("n{number}"), 1000).await;
        }
        drop(channel);
        server.shutdown().await.unwrap();
    }
    let [last, marked] = [&dir, &other].map(|dir| verify(dir).unwrap().to_revision);
    assert!(marked < last, "{marked} and {last}");
    std::fs::copy(other.join("log/MARK"), dir.join("log/MARK")).unwrap();
    let refused = Server::start(crate::client::options(&dir)).await.err().unwrap();
    assert_eq!(refused.code(), "DAMAGED_LOG", "{refused}");

    let refused = restore(&dir, &new, &RestoreOptions::default()).unwrap_err();
    assert!(matches!(refused, BackupError::LossNotAccepted { .. }), "{refused}");
    let told = refused.to_string();
    assert!(told.contains(&format!("what was acknowledged up to {marked} was of another history")), "{told}");
    assert!(!told.contains("nothing would be lost"), "{told}");
    let accept = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let restored = restore(&dir, &new, &accept).unwrap();
    let loss = restored.loss.unwrap();
    assert_eq!((restored.manifest.revision, loss.revisions(), loss.other_history), (last, 0, Some(marked)));
    start(&new).await.shutdown().await.unwrap();
}

// Neither `verify` nor a backup, nor a restore with whatever loss was accepted, got past that one sector.
#[tokio::test]
async fn a_cell_that_lacks_the_identity_of_its_log_alone_is_backed_up_and_gone_on_from_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (server, channel, mut session, job) = busy_cell(dir.path(), 1).await;
    let last = grant(&mut session, 1, job, 0).await;
    drop((session, channel));
    server.shutdown().await.unwrap();
    let backed_up = || {
        let mut backup = Vec::new();
        back_up_folder(dir.path(), &mut backup, Path::new("memory")).map(|manifest| (manifest, backup)).unwrap()
    };
    let whole = backed_up();
    std::fs::remove_file(dir.path().join("log/CELL")).unwrap();
    let refused = Server::start(crate::client::options(dir.path())).await.err().unwrap();
    assert_eq!(refused.code(), "DAMAGED_LOG", "{refused}");
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.violations.len(), report.to_revision), (1, last), "{report:?}");
    assert!(report.violations[0].what.contains("CELL"), "{report:?}");
    assert!(backed_up() == whole);
    let target = dir.path().join("new");
    let restored = restore(dir.path(), &target, &RestoreOptions::default()).unwrap();
    let loss = restored.loss.unwrap();
    assert_eq!((loss.revisions(), loss.may_be_more, restored.manifest.revision), (0, false, last));
    assert!(loss.damages.len() == 1 && loss.damages[0].contains("CELL"), "{:?}", loss.damages);
    assert_eq!(restored.incarnation, whole.0.incarnation + 1);
    start(&target).await.shutdown().await.unwrap();
    // What is lost beside it is given up only when asked.
    std::fs::remove_file(dir.path().join("log/MARK")).unwrap();
    let refused = restore(dir.path(), &dir.path().join("again"), &RestoreOptions::default()).unwrap_err();
    assert!(matches!(refused, BackupError::LossNotAccepted { .. }), "{refused}");
}

#[tokio::test]
async fn a_broken_tail_is_given_up_only_when_asked_and_what_is_lost_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let last = broken_cell(dir.path()).await;
    std::fs::remove_dir_all(dir.path().join("history")).unwrap();
    let before = std::fs::read(last_frames(dir.path())[0].0.clone()).unwrap();
    let refused = plenum_server::Server::start(crate::client::options(dir.path())).await.err().unwrap();
    assert_eq!(refused.code(), "DAMAGED_LOG");
    assert!(refused.to_string().contains("--accept-loss"), "{refused}");

    let target = dir.path().join("new");
    let options = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
    let restored = restore(dir.path(), &target, &options).unwrap();
    let loss = restored.loss.unwrap();
    let damaged = last - 2;
    assert_eq!((loss.kept_revision, loss.last_known_revision, loss.revisions()), (damaged - 1, last, 3));
    assert!(loss.damages[0].contains(&format!("revision {damaged}: frame checksum")), "{:?}", loss.damages);
    let readable: Vec<_> = loss.readable.iter().map(|lost| (lost.revision, lost.what.as_str())).collect();
    let session = loss.readable[0].what.rsplit(' ').next().unwrap();
    let expected = [format!("transaction 5 of session {session}"), format!("transaction 6 of session {session}")];
    assert_eq!(readable, [(last - 1, expected[0].as_str()), (last, expected[1].as_str())]);
    assert_eq!((restored.incarnation, restored.live_allocations), (2, 3));
    assert_eq!(before, std::fs::read(last_frames(dir.path())[0].0.clone()).unwrap(), "the old directory is as it was");

    let server = start(&target).await;
    let channel = connect(&server).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    assert_eq!(session.cell.live(), 3);
    register(&channel, "m1", 1_000_000).await;
    let job = session.cell.jobs().next().unwrap().id.to_bits();
    session.reach(damaged + 2).await;
    grant(&mut session, 1, job, 5).await;
    server.shutdown().await.unwrap();
    assert!(verify(&target).unwrap().is_sound());
}

/// A change that can't be folded had been folded in part when that showed, and the cell was restored so: in between two revisions.
#[tokio::test]
async fn what_cannot_be_folded_leaves_no_part_of_itself_in_what_is_restored() {
    for with_history in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (server, channel, mut session, job) = busy_cell(dir.path(), 2).await;
        grant(&mut session, 1, job, 0).await;
        drop((session, channel));
        server.shutdown().await.unwrap();
        let disk = std::sync::Arc::new(plenum_journal::RealDisk::existing(dir.path().join("log")).unwrap());
        let options =
            plenum_journal::Options { segment_bytes: 1 << 20, frame_bytes_max: 1 << 19, ..Default::default() };
        let (mut journal, recovered) = plenum_journal::Journal::open(disk, options).unwrap();
        let last = recovered.tail.revision;
        let micros = 4_102_444_800_000_000;
        let whole = v1::Delta { revision: last + 1, time_micros: micros, ..Default::default() };
        let ends = v1::Ends {
            slots: vec![77],
            states: vec![v1::AllocationState::Complete as u32],
            exit_codes: vec![0],
            ..Default::default()
        };
        let names = vec!["half".to_owned()];
        let half = v1::Delta {
            revision: last + 2,
            time_micros: micros,
            scheduler_names: names,
            ends: Some(ends),
            ..Default::default()
        };
        let entry = |delta: v1::Delta| v1::LogEntry {
            revision: delta.revision,
            delta: delta.encode_to_vec().into(),
            ..Default::default()
        };
        let batch =
            v1::LogBatch { time_micros: micros, entries: vec![entry(whole), entry(half)], ..Default::default() };
        let term = recovered.tail.term;
        let label = plenum_journal::BatchLabel { term, first_revision: last + 1, last_revision: last + 2 };
        journal.append_and_sync(label, &[&batch.encode_to_vec()]).unwrap();
        drop(journal);
        if !with_history {
            std::fs::remove_dir_all(dir.path().join("history")).unwrap();
        }

        let target = dir.path().join("new");
        let options = RestoreOptions { accept_loss: true, ..RestoreOptions::default() };
        let restored = restore(dir.path(), &target, &options).unwrap();
        let loss = restored.loss.unwrap();
        assert_eq!((restored.manifest.revision, loss.kept_revision, loss.revisions()), (last + 1, last + 1, 1));
        assert!(loss.damages[0].contains("can't be folded"), "{:?}", loss.damages);
        let images = history(&target).pages_at(last + 1).unwrap().map(|image| image.unwrap().bytes);
        let cell = pages::restore(images.collect::<Vec<_>>()).unwrap();
        assert!(cell.scheduler_names().iter().all(|name| &**name != "half"), "{:?}", cell.scheduler_names());
        assert_eq!(cell.live(), 1);
        let server = start(&target).await;
        server.shutdown().await.unwrap();
    }
}

// A server that was started on it made an empty cell of its own there, and a second restore was refused.
#[tokio::test]
async fn a_directory_that_was_half_restored_becomes_no_empty_cell() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("cell/restoring/log")).unwrap();
    let options = plenum_server::ServerOptions::new(dir.path().join("cell"));
    let Err(error) = plenum_server::Server::start(options).await else { panic!("it started") };
    assert_eq!(error.code(), "BAD_DIRECTORY");
    assert!(error.to_string().contains("did not come to its end"), "{error}");
    assert!(!dir.path().join("cell/log").exists(), "nothing was made there");
}

/// After a clean stop its checkpoint is where the restored log begins, as that of a restored cell is: it was taken for one, and told the past of
/// another incarnation in part.
#[tokio::test]
async fn a_history_from_before_a_restore_does_not_go_with_the_restored_log() {
    let temporary = tempfile::tempdir().unwrap();
    let (dir, new) = (temporary.path().join("cell"), temporary.path().join("new"));
    let server = Server::start(brisk(&dir)).await.unwrap();
    let channel = connect(&server).await;
    submit_until(&channel, 0, |status| status.revision > 40).await;
    caught_up(&channel).await;
    server.shutdown().await.unwrap();
    let restored = restore(&dir, &new, &RestoreOptions::default()).unwrap();
    let own = temporary.path().join("own");
    std::fs::rename(new.join("history"), &own).unwrap();
    copy_folder(&dir.join("history"), &new.join("history"));

    let Err(error) = Server::start(brisk(&new)).await else { panic!("it started") };
    assert!(matches!(error, plenum_server::ServerError::OtherIncarnation { .. }), "{error}");
    let report = plenum_server::verify(&new).unwrap();
    assert!(
        report.violations.iter().any(|violation| violation.what.contains("incarnation")),
        "{:?}",
        report.violations
    );
    let refused = plenum_server::back_up_folder(&new, &mut Vec::new(), Path::new("memory")).unwrap_err();
    assert_eq!(refused.code(), "OTHER_CELL", "{refused}");

    std::fs::remove_dir_all(new.join("history")).unwrap();
    std::fs::rename(&own, new.join("history")).unwrap();
    let before = restored.manifest.revision;
    for _ in 0..3 {
        let server = Server::start(brisk(&new)).await.unwrap();
        let channel = connect(&server).await;
        caught_up(&channel).await;
        server.shutdown().await.unwrap();
        assert!(plenum_server::verify(&new).unwrap().is_sound());
        assert!(plenum_server::back_up_folder(&new, &mut Vec::new(), Path::new("memory")).unwrap().revision > before);
    }
}
