//! Jobs as large as they may be: whoever gets a page of them must be able to take it.

use std::time::Duration;

use plenum_proto::bounds::{BODY_BYTES_MAX, PAGE_BYTES_MAX, SHAPE_BYTES_MAX};
use plenum_proto::v1;
use plenum_server::Server;
use prost::Message;
use tonic::Code;
use v1::session_response::Tell;

use crate::client::{code, connect, job, options, submit};

/// A job whose shape has nearly so many bytes; its body as many as it may have.
fn large(name: &str, shape_bytes: usize) -> v1::JobSpec {
    let mut spec = job(name, 1);
    let (shape, body) = (spec.shape.as_mut().unwrap(), spec.body.as_mut().unwrap());
    let values: Vec<String> = (0..8).map(|number| format!("{number}{}", "x".repeat(250))).collect();
    let constraint = v1::Constraint { attribute: "a".into(), operator: v1::Operator::In.into(), values };
    let (group, task) = (shape.groups[0].clone(), body.groups[0].clone());
    for number in 0.. {
        let more = v1::GroupShape {
            name: format!("group-{number}"),
            constraints: vec![constraint.clone(); 8],
            ..group.clone()
        };
        if shape.encoded_len() + more.encoded_len() + 16 > shape_bytes {
            break;
        }
        body.groups.push(v1::GroupBody { name: more.name.clone(), ..task.clone() });
        shape.groups.push(more);
    }
    let left = BODY_BYTES_MAX - body.encoded_len() - 64;
    body.groups[0].command.push("y".repeat(left));
    spec
}

/// Twenty jobs of nearly 4 MiB each were taken, and one page had them all: there was no checkpoint any more, backups could not be read back,
/// and no scheduler got a snapshot.
#[tokio::test]
async fn a_page_of_the_largest_jobs_is_checkpointed_backed_up_and_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut often = options(dir.path());
    often.settings.segment_bytes = 4 << 20;
    often.settings.checkpoint_interval = Duration::from_millis(200);
    let server = Server::start(often).await.unwrap();
    let channel = connect(&server).await;
    let mut jobs = v1::jobs_client::JobsClient::new(channel.clone());
    let spec = Some(large("larger", SHAPE_BYTES_MAX + (20 << 10)));
    let refused = jobs.submit(v1::SubmitRequest { spec, ..Default::default() }).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"), "{refused}");
    assert!(refused.message().starts_with("spec.shape: expected at most 262144 bytes"), "{refused}");
    for number in 0..64 {
        submit(&channel, large(&format!("job-{number}"), SHAPE_BYTES_MAX)).await;
    }

    let mut cell = v1::cell_client::CellClient::new(channel.clone()).max_decoding_message_size(PAGE_BYTES_MAX / 2);
    let mut watch = cell.watch(v1::Hello::default()).await.unwrap().into_inner();
    let mut pages = Vec::new();
    while let Some(message) = watch.message().await.unwrap() {
        if let Some(Tell::Snapshot(part)) = message.tell {
            pages.extend(part.pages);
            if part.last {
                break;
            }
        }
    }
    let largest = pages.iter().map(bytes::Bytes::len).max().unwrap();
    // Bodies are not for every watcher: in what follows they are on top.
    let expected = 64 * SHAPE_BYTES_MAX;
    assert!(largest > expected * 9 / 10 && largest < expected + (64 << 10), "{largest} of {expected}");
    drop(watch);

    let mut inspect = v1::inspect_client::InspectClient::new(channel.clone());
    let mut chunks = inspect.backup(v1::BackupRequest {}).await.unwrap().into_inner();
    let mut backup = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        backup.extend_from_slice(&chunk.data);
    }
    let path = dir.path().join("backup");
    std::fs::write(&path, backup).unwrap();
    plenum_server::check_backup(&path).unwrap();

    // The history has it all, and the log is released behind a checkpoint of it: 20 MiB of jobs.
    let checkpointed = async {
        loop {
            let status = inspect.status(v1::StatusRequest {}).await.unwrap().into_inner();
            if status.history_revision == status.revision && status.log_bytes <= 12 << 20 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), checkpointed).await.expect("a checkpoint is written");
    server.shutdown().await.unwrap();
    let server = Server::start(options(dir.path())).await.unwrap();
    let mut jobs = v1::jobs_client::JobsClient::new(connect(&server).await).max_decoding_message_size(PAGE_BYTES_MAX);
    let listed = jobs.list(v1::ListRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().jobs.len(), 64);
    server.shutdown().await.unwrap();
}
