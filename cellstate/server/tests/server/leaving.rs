//! Jobs of which tasks still stop: a refusal that passes by itself is told from one that does not.

use plenum_proto::error::retry_micros_of;
use plenum_proto::v1;
use tonic::transport::Channel;
use tonic::{Code, Status};
use v1::jobs_client::JobsClient as Jobs;

use crate::client::{Session, code, connect, job, placement, register, start, submit};

async fn refused(channel: &Channel, spec: v1::JobSpec) -> Status {
    let request = v1::SubmitRequest { spec: Some(spec), ..Default::default() };
    Jobs::new(channel.clone()).submit(request).await.unwrap_err()
}

// Both were JOB_CHANGED, without a time, and only words told which was to be stopped and which to be waited for.
#[tokio::test]
async fn what_is_still_leaving_has_a_code_and_a_time_of_its_own_and_what_differs_has_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let channel = connect(&server).await;
    register(&channel, "m1", 4000).await;
    let mut session = Session::open(&channel, "batch").await.unwrap();
    let submitted = submit(&channel, job("crunch", 1)).await;
    session.reach(submitted.revision).await;
    let claim = session.transaction(1, vec![placement(submitted.job, vec![0], vec![0])]);
    assert_eq!(session.commit(claim).await.unwrap().granted, 1);

    let mut other = job("crunch", 1);
    other.shape.as_mut().unwrap().priority += 1;
    let differs = refused(&channel, other).await;
    assert_eq!((differs.code(), code(&differs).as_str()), (Code::FailedPrecondition, "JOB_CHANGED"));
    assert_eq!(retry_micros_of(&differs), 0, "{differs}");

    let stop = v1::StopRequest { name: "crunch".into(), ..Default::default() };
    Jobs::new(channel.clone()).stop(stop).await.unwrap();
    // The very same one: what of it is there has not ended.
    let leaving = refused(&channel, job("crunch", 1)).await;
    assert_eq!((leaving.code(), code(&leaving).as_str()), (Code::FailedPrecondition, "JOB_LEAVING"));
    assert_eq!(retry_micros_of(&leaving), 500_000, "{leaving}");
    server.shutdown().await.unwrap();
}
