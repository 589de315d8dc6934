//! A history that can't be written for a while, and then can.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use plenum_proto::v1;
use plenum_server::{Handle, Server};
use tonic::transport::Channel;

use crate::client::{code, connect, job, options, submit};
use crate::inspection::page;

type Jobs = v1::jobs_client::JobsClient<Channel>;
type Inspect = v1::inspect_client::InspectClient<Channel>;

/// Of each job: so that few of them fill some segments.
const BODY_BYTES: usize = 50_000;

/// The store of the history fails at its next table, for there is a file in its way, and can't be opened: there is a folder for its lock.
struct Failing<'a>(&'a Path);

impl<'a> Failing<'a> {
    fn begin(dir: &'a Path) -> Self {
        // First, as it would otherwise be opened again after a failure in between, which takes those files away.
        let lock = dir.join("history/store/lock");
        std::fs::rename(&lock, dir.join("lock")).unwrap();
        std::fs::create_dir(lock).unwrap();
        for keyspace in std::fs::read_dir(dir.join("history/store/keyspaces")).unwrap() {
            let tables = keyspace.unwrap().path().join("tables");
            let Ok(there) = std::fs::read_dir(&tables) else { continue };
            let numbers = there.filter_map(|table| table.unwrap().file_name().to_str()?.parse::<u64>().ok());
            let newest = numbers.max().unwrap_or(0);
            for number in newest + 1..newest + 100 {
                // It may be making tables at this moment.
                drop(File::create_new(tables.join(number.to_string())));
            }
        }
        Self(dir)
    }

    fn end(self) {
        let lock = self.0.join("history/store/lock");
        std::fs::remove_dir(&lock).unwrap();
        std::fs::rename(self.0.join("lock"), lock).unwrap();
    }
}

async fn status(channel: &Channel) -> v1::StatusResponse {
    Inspect::new(channel.clone()).status(v1::StatusRequest {}).await.unwrap().into_inner()
}

async fn is_stopped(server: &Handle) -> bool {
    let metrics = page(server.address(), "/metrics").await;
    metrics.lines().any(|line| line == "plenum_history_stopped 1")
}

/// Any failed write ended it until the next start. A full disk that had room again was full once more some time later, for good: the log
/// that waits for the history was never released.
#[tokio::test]
async fn a_history_that_could_not_be_written_goes_on_by_itself_and_the_log_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let mut often = options(dir.path());
    often.settings.checkpoint_interval = Duration::from_millis(100);
    let server = Server::start(often).await.unwrap();
    let channel = connect(&server).await;
    let first = submit(&channel, job("first", 1)).await.revision;
    let mut jobs = Jobs::new(channel.clone());
    let ask = || v1::JobHistoryRequest { name: "first".into(), ..Default::default() };
    assert_eq!(jobs.job_history(ask()).await.unwrap().into_inner().events[0].event, "submitted");

    let failing = Failing::begin(dir.path());
    let mut number = 0;
    let mut more = async || {
        number += 1;
        let mut large = job(&format!("job-{number}"), 1);
        large.body.as_mut().unwrap().groups[0].command.push("x".repeat(BODY_BYTES));
        submit(&channel, large).await.revision
    };
    let stops = async {
        while !is_stopped(&server).await {
            more().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), stops).await.expect("it stops");
    let newest = more().await;
    let error = jobs.job_history(ask()).await.unwrap_err();
    assert_eq!(code(&error), "HISTORY_BEHIND", "{error}");
    assert!(error.message().contains("goes on by itself"), "{error}");
    assert_eq!(error.metadata().get("plenum-retry-after-micros").unwrap(), "1000000");
    for _ in 0..200 {
        more().await;
    }
    let stopped = status(&channel).await;
    assert!(stopped.history_revision < newest && stopped.log_bytes > 8 << 20, "{stopped:?}");
    assert!(stopped.history_stopped.contains("goes on by itself: "), "{stopped:?}");

    failing.end();
    let mut now = status(&channel).await;
    for _ in 0..3000 {
        if now.history_revision == now.revision && now.log_bytes < stopped.log_bytes / 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        now = status(&channel).await;
    }
    assert!(now.history_revision == now.revision && now.log_bytes < stopped.log_bytes / 2, "{stopped:?}, then {now:?}");
    assert!(!is_stopped(&server).await);
    assert_eq!(status(&channel).await.history_stopped, "");
    let story = jobs.job_history(ask()).await.unwrap().into_inner();
    assert_eq!((story.events[0].revision, story.events[0].event.as_str()), (first, "submitted"));
    let last = v1::JobHistoryRequest { name: format!("job-{number}"), ..Default::default() };
    assert_eq!(jobs.job_history(last).await.unwrap().into_inner().events[0].event, "submitted");
    server.shutdown().await.unwrap();
    let report = plenum_server::verify(dir.path()).unwrap();
    assert!(report.is_sound(), "{:?}", report.violations);
}

/// The bodies of jobs that stand in the log, damaged.
fn damage_bodies(dir: &Path) {
    for file in std::fs::read_dir(dir.join("log")).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "segment") {
            continue;
        }
        let bytes = std::fs::read(&file).unwrap();
        let file = std::fs::File::options().write(true).open(file).unwrap();
        for at in (0..bytes.len()).step_by(BODY_BYTES / 2).filter(|&at| bytes[at] == b'x') {
            std::os::unix::fs::FileExt::write_all_at(&file, b"y", at as u64).unwrap();
        }
    }
}

/// What the history had not got was damaged in the log while the server ran. It took nothing more until the next start, which was refused; and
/// whoever accepted the loss lost all that came after the damage, though the cell had had it all the time.
#[tokio::test]
async fn a_history_that_finds_the_log_damaged_goes_on_behind_the_damage_and_nothing_of_the_present_is_lost() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let mut often = options(dir);
    often.settings.checkpoint_interval = Duration::from_millis(100);
    let server = Server::start(often).await.unwrap();
    let channel = connect(&server).await;
    let mut jobs = 0;
    let mut more = async || {
        jobs += 1;
        let mut large = job(&format!("job-{jobs}"), 1);
        large.body.as_mut().unwrap().groups[0].command.push("x".repeat(BODY_BYTES));
        submit(&channel, large).await.revision
    };
    // What the history has of these is in memory alone: it comes from the log again.
    for _ in 0..10 {
        more().await;
    }
    while status(&channel).await.history_lag_bytes > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let failing = Failing::begin(dir);
    let stops = async {
        while !is_stopped(&server).await {
            more().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), stops).await.expect("it stops");
    damage_bodies(dir);
    let last = more().await;
    failing.end();
    let mut now = status(&channel).await;
    for _ in 0..3000 {
        if now.history_revision >= last {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        now = status(&channel).await;
    }
    assert!(now.history_revision >= last && now.oldest_revision > 1, "{now:?}");
    assert!(!is_stopped(&server).await);
    let after = more().await;
    server.shutdown().await.unwrap();
    let accept = plenum_server::RestoreOptions { accept_loss: true, ..Default::default() };
    let restored = plenum_server::restore(dir, &dir.join("new"), &accept).unwrap();
    assert!(restored.manifest.revision >= after, "{restored:?}");
    assert_eq!(restored.loss.map_or(0, |loss| loss.revisions()), 0);
}

/// It was opened again and again, as if the disk was full, and each time images of all pages were written.
#[tokio::test]
async fn a_history_that_fails_again_looks_for_damage_and_names_it() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let mut often = options(dir);
    often.settings.checkpoint_interval = Duration::from_millis(100);
    let server = Server::start(often).await.unwrap();
    let channel = connect(&server).await;
    let mut jobs = 0;
    let mut told = String::new();
    let has_images = async {
        while jobs < 5 || !crate::kept::has_images(dir) {
            submit(&channel, job(&format!("job-{jobs}"), 1)).await;
            jobs += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), has_images).await.expect("a checkpoint is taken");
    for round in 0..4 {
        let failing = Failing::begin(dir);
        let stops = async {
            while !is_stopped(&server).await {
                submit(&channel, job(&format!("job-{jobs}"), 1)).await;
                jobs += 1;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), stops).await.expect("it stops");
        if round == 0 {
            crate::kept::damage_images(dir);
        }
        failing.end();
        let mut is_told_to_ask_again = true;
        for _ in 0..400 {
            let ask = v1::JobHistoryRequest { name: "job-0".into(), ..Default::default() };
            match Jobs::new(channel.clone()).job_history(ask).await {
                Err(error) => {
                    told = error.message().to_owned();
                    is_told_to_ask_again = error.metadata().contains_key("plenum-retry-after-micros");
                }
                Ok(_) if !is_stopped(&server).await => break,
                // It failed, or ended, when it had got all there is, which can be read: now it lacks something.
                Ok(_) => {
                    submit(&channel, job(&format!("job-{jobs}"), 1)).await;
                    jobs += 1;
                }
            }
            if told.contains("until the server starts again") {
                assert!(told.contains("hecksum"), "{told}");
                assert!(!is_told_to_ask_again, "it is of no use");
                submit(&channel, job("after", 1)).await;
                return server.shutdown().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    panic!("it is opened again and again: {told}");
}
