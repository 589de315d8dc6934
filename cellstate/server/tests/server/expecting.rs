//! Callers that say which job and which version of it they decided on.

use std::time::Duration;

use plenum_proto::v1;
use plenum_server::Server;
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::jobs_client::JobsClient as Jobs;

use crate::client::{code, connect, job, options, start, submit};

async fn submit_at(channel: &Channel, spec: v1::JobSpec, expected: u32) -> Result<v1::SubmitResponse, Status> {
    let request = v1::SubmitRequest { spec: Some(spec), expected_version: Some(expected) };
    Ok(Jobs::new(channel.clone()).submit(request).await?.into_inner())
}

async fn stop(channel: &Channel, name: &str, job: Option<u64>, version: Option<u32>) -> Result<bool, Status> {
    let request = v1::StopRequest { name: name.to_owned(), job, version, ..Default::default() };
    Ok(Jobs::new(channel.clone()).stop(request).await?.into_inner().changed)
}

async fn scale(channel: &Channel, count: u32, job: Option<u64>, version: Option<u32>) -> Result<bool, Status> {
    let (name, group) = ("web".to_owned(), "work".to_owned());
    let request = v1::ScaleRequest { name, group, count, job, version, ..Default::default() };
    Ok(Jobs::new(channel.clone()).scale(request).await?.into_inner().changed)
}

fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, words: &str) {
    let refused = answer.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::Aborted, "JOB_VERSION"), "{refused}");
    assert!(refused.message().contains(words), "{refused}");
}

// A framework looked at a job of its own, and stopped the one that somebody else had submitted meanwhile under that name.
#[tokio::test]
async fn what_was_decided_on_one_version_of_a_job_is_refused_on_another() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let old = submit(&channel, job("web", 1)).await;
    let (id, seen) = (Some(old.job), Some(old.version));
    assert!(stop(&channel, "web", id, seen).await.unwrap());
    assert!(!stop(&channel, "web", id, seen).await.unwrap(), "it was asked again, as after an answer that was lost");
    assert_eq!(code(&stop(&channel, "web", id, None).await.unwrap_err()), "JOB_OVER");
    let new = submit(&channel, job("web", 1)).await;
    assert_refused(stop(&channel, "web", id, seen).await, "expected version 1, found version 2");
    assert_refused(scale(&channel, 3, id, seen).await, "expected version 1, found version 2");
    assert_refused(stop(&channel, "web", None, Some(0)).await, "expected no job of this name, found version 2");
    assert_refused(stop(&channel, "web", Some(old.job + (1 << 32)), None).await, "another job of this name");
    assert!(scale(&channel, 3, Some(new.job), Some(new.version)).await.unwrap());
    assert!(stop(&channel, "web", Some(new.job), Some(new.version)).await.unwrap());
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_submission_that_expects_no_job_runs_once_however_often_it_is_asked_and_across_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let first = submit_at(&channel, job("run", 1), 0).await.unwrap();
    assert_eq!((first.version, first.changed), (1, true));
    stop(&channel, "run", None, None).await.unwrap();
    drop(channel);
    server.shutdown().await.unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    let again = submit_at(&channel, job("run", 1), 0).await.unwrap();
    assert_eq!((again.job, again.version, again.changed), (first.job, 1, false), "it is over, and not run again");
    assert_refused(
        submit_at(&channel, job("run", 2), 0).await,
        "expected no job of this name, found version 1 (stopped)",
    );
    let next = submit_at(&channel, job("run", 2), 1).await.unwrap();
    assert_eq!((next.version, next.changed), (2, true));
    assert_refused(submit_at(&channel, job("run", 1), 0).await, "found version 2");
    assert_refused(submit_at(&channel, job("none", 1), 1).await, "expected version 1, found no job of this name");
    server.shutdown().await.unwrap();
}

// Each job of a name begins with version 1: the version alone would be that of another one's first run.
#[tokio::test]
async fn a_later_job_of_a_name_is_told_from_a_retired_one_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut hasty = options(dir.path());
    hasty.settings.core.retire_after_micros = 0;
    let server = Server::start(hasty).await.unwrap();
    let channel = connect(&server).await;
    let old = submit(&channel, job("web", 1)).await;
    stop(&channel, "web", None, None).await.unwrap();
    let new = loop {
        let submitted = submit(&channel, job("web", 1)).await;
        if submitted.job != old.job {
            break submitted;
        }
        stop(&channel, "web", None, None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(new.version, old.version);
    assert_refused(stop(&channel, "web", Some(old.job), Some(old.version)).await, "another job of this name");
    assert_refused(scale(&channel, 3, Some(old.job), Some(old.version)).await, "another job of this name");
    assert!(stop(&channel, "web", Some(new.job), Some(new.version)).await.unwrap());
    server.shutdown().await.unwrap();
}
